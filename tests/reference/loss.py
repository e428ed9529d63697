"""Point-wise losses of one raw prediction and their first derivatives, in float64.

``log_loss`` is -log of the probability that ``expit(z)`` gives to the label; labels above 0 are the positive class.
``squared_error`` is half the squared difference.
"""

from __future__ import annotations

import numpy as np

NAMES = ("log_loss", "squared_error")

# |d gradient / d z| is at most this: how an error in z travels into the residual.
LIPSCHITZ = {"log_loss": 0.25, "squared_error": 1.0}


def expit(z):
    """1 / (1 + exp(-z)) without overflow and with a small relative error on both sides."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def value(name, y, z):
    """Loss of each raw prediction ``z`` against ``y``; the two broadcast."""
    y, z = np.asarray(y, np.float64), np.asarray(z, np.float64)
    if name == "squared_error":
        return 0.5 * (y - z) ** 2
    if name == "log_loss":
        wrong = np.where(y > 0, -z, z)  # the loss is log(1 + exp(wrong)), small where the sign is right
        return np.maximum(wrong, 0) + np.log1p(np.exp(-np.abs(wrong)))
    raise ValueError(name)


def gradient(name, y, z):
    """Derivative of :func:`value` by ``z``; the two broadcast."""
    y, z = np.asarray(y, np.float64), np.asarray(z, np.float64)
    if name == "squared_error":
        return z - y
    if name == "log_loss":
        # expit(z) - 1 would cancel for the positive class; -expit(-z) is the same number.
        return np.where(y > 0, -expit(-z), expit(z))
    raise ValueError(name)
