"""Losses and their first derivatives by the raw prediction, in float64: docs/design.md, "Losses", is their source.

Labels above 0 are the positive class of the losses of two classes; ``multinomial`` has class codes and a raw prediction
for each class. ``log_loss`` is -log of the probability that ``expit(z)`` gives to the label.
"""

from __future__ import annotations

import numpy as np

BINARY = ("log_loss", "hinge", "squared_hinge", "modified_huber", "perceptron")
REGRESSION = ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")
WITH_EPSILON = ("huber", "epsilon_insensitive", "squared_epsilon_insensitive")
# Without a kink, so that rounding cannot put a step on the other side of one.
SMOOTH = ("log_loss", "squared_error")
# Of one output: what the kernels generate from one list.
NAMES = (*BINARY, *REGRESSION)


def expit(z):
    """1 / (1 + exp(-z)) without overflow and with a small relative error on both sides."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def value(name, y, z, epsilon=0.1):
    """Loss of each raw prediction ``z`` against ``y``; the two broadcast."""
    y, z = np.asarray(y, np.float64), np.asarray(z, np.float64)
    t, r = np.where(y > 0, z, -z), z - y
    if name == "squared_error":
        return 0.5 * (y - z) ** 2
    if name == "log_loss":  # log(1 + exp(-t)), small where the sign is right
        return np.maximum(-t, 0) + np.log1p(np.exp(-np.abs(t)))
    if name == "hinge":
        return np.maximum(0, 1 - t)
    if name == "perceptron":
        return np.maximum(0, -t)
    if name == "squared_hinge":
        return np.maximum(0, 1 - t) ** 2
    if name == "modified_huber":
        return np.where(t >= -1, np.maximum(0, 1 - t) ** 2, -4 * t)
    if name == "huber":
        return np.where(np.abs(r) <= epsilon, 0.5 * r**2, epsilon * np.abs(r) - 0.5 * epsilon**2)
    if name == "epsilon_insensitive":
        return np.maximum(0, np.abs(r) - epsilon)
    if name == "squared_epsilon_insensitive":
        return np.maximum(0, np.abs(r) - epsilon) ** 2
    raise ValueError(name)


def gradient(name, y, z, epsilon=0.1):
    """Derivative of :func:`value` by ``z``, at a kink that of the side scikit-learn takes; the two broadcast."""
    y, z = np.asarray(y, np.float64), np.asarray(z, np.float64)
    t, r = np.where(y > 0, z, -z), z - y
    s = np.where(y > 0, 1.0, -1.0)
    if name == "squared_error":
        return r
    if name == "log_loss":
        # expit(z) - 1 would cancel for the positive class; -expit(-z) is the same number.
        return np.where(y > 0, -expit(-z), expit(z))
    if name == "hinge":
        return np.where(t <= 1, -s, 0)
    if name == "perceptron":
        return np.where(t <= 0, -s, 0)
    if name == "squared_hinge":
        return -2 * s * np.maximum(0, 1 - t)
    if name == "modified_huber":
        return np.where(t >= -1, -2 * s * np.maximum(0, 1 - t), -4 * s)
    if name == "huber":
        return np.clip(r, -epsilon, epsilon)
    if name == "epsilon_insensitive":
        return np.where(np.abs(r) > epsilon, np.sign(r), 0)
    if name == "squared_epsilon_insensitive":
        return 2 * np.sign(r) * np.maximum(0, np.abs(r) - epsilon)
    raise ValueError(name)


def softmax(z):
    """Probabilities of the classes, the last axis of ``z``."""
    z = np.asarray(z, np.float64)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def multinomial(codes, z):
    """Loss (n,) and gradient (n, n_classes) of raw predictions (n, n_classes)."""
    z = np.asarray(z, np.float64)
    rows, codes = np.arange(len(z)), np.asarray(codes).astype(int)
    most = z.max(axis=1)
    others = np.exp(z - most[:, None])
    own = others[rows, codes].copy()
    others[rows, codes] = 0
    others = others.sum(axis=1)
    losses = np.where(z[rows, codes] == most, np.log1p(others), np.log(others + own) + most - z[rows, codes])
    slope = softmax(z)
    slope[rows, codes] = -others / (others + own)
    return losses, slope
