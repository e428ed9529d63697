"""Optima in plain float64: the objective, Newton's method with a halved step, and comoments by their definition."""

from __future__ import annotations

import numpy as np


def moments(X, y, weight=None):
    """Σw, the weighted means of X's columns and y, and Σ w (a − mean a)(b − mean b)."""
    columns = np.column_stack([X, y]).astype(np.float64)
    w = np.ones(len(X)) if weight is None else np.asarray(weight, np.float64)
    mean = (w[:, None] * columns).sum(axis=0) / w.sum()
    centred = columns - mean
    return w.sum(), mean, (centred * w[:, None]).T @ centred


def _derivatives(name, y, z, epsilon):
    """Loss, first and second derivative of each row, for losses of one output."""
    if name == "log_loss":
        p = 1 / (1 + np.exp(-z))
        label = (y > 0).astype(np.float64)
        return np.logaddexp(0, z) - label * z, p - label, p * (1 - p)
    d = z - y
    if name == "squared_error":
        return 0.5 * d * d, d, np.ones_like(d)
    if name == "huber":
        near = np.abs(d) <= epsilon
        value = np.where(near, 0.5 * d * d, epsilon * (np.abs(d) - 0.5 * epsilon))
        return value, np.where(near, d, epsilon * np.sign(d)), near.astype(np.float64)
    if name == "squared_epsilon_insensitive":
        out = np.maximum(np.abs(d) - epsilon, 0)
        return out**2, 2 * out * np.sign(d), 2.0 * (out > 0)
    s = np.where(y > 0, 1.0, -1.0)
    m = 1 - s * z
    if name == "squared_hinge":
        return np.maximum(m, 0) ** 2, -2 * s * np.maximum(m, 0), 2.0 * (m > 0)
    assert name == "modified_huber"
    linear = s * z < -1
    value = np.where(linear, -4 * s * z, np.maximum(m, 0) ** 2)
    return value, np.where(linear, -4 * s, -2 * s * np.maximum(m, 0)), 2.0 * (~linear & (m > 0))


def objective(name, X, y, coef, intercept, l2, weight=None, epsilon=0.1, l1=0.0):
    """Mean loss, ½ l2 Σ w² and l1 Σ |w|; of one output, or for "multinomial" coef (n_outputs, n_features)."""
    w = np.ones(len(X)) if weight is None else np.asarray(weight, np.float64)
    X, coef = X.astype(np.float64), np.asarray(coef, np.float64)
    z = X @ coef.T + intercept
    if name == "multinomial":
        top = z.max(axis=1)
        value = top + np.log(np.exp(z - top[:, None]).sum(axis=1)) - z[np.arange(len(z)), y.astype(int)]
    else:
        value = _derivatives(name, y.astype(np.float64), z, epsilon)[0]
    return (w * value).sum() / w.sum() + 0.5 * l2 * (coef**2).sum() + l1 * np.abs(coef).sum()


def optimality(name, X, y, coef, intercept, l1, l2, weight=None, epsilon=0.1):
    """By how much the conditions of an optimum with l1 are missed: (n_features,) and that of the intercept.

    At w ≠ 0 the derivative of mean loss and ½ l2 w² must be −l1 sign(w); at w = 0 it may be anything up to l1 in size.
    """
    w = np.ones(len(X)) if weight is None else np.asarray(weight, np.float64)
    X, coef = X.astype(np.float64), np.asarray(coef, np.float64)
    first = w * _derivatives(name, y.astype(np.float64), X @ coef + intercept, epsilon)[1] / w.sum()
    gradient = X.T @ first + l2 * coef
    missed = np.where(coef == 0, np.maximum(np.abs(gradient) - l1, 0), np.abs(gradient + l1 * np.sign(coef)))
    return missed, abs(first.sum())


def newton(name, X, y, l2, weight=None, fit_intercept=True, epsilon=0.1, max_iter=200):
    """(coef, intercept) at the optimum for a loss of one output, by Newton's method from 0."""
    w = np.ones(len(X)) if weight is None else np.asarray(weight, np.float64)
    w = w / w.sum()
    X, y = X.astype(np.float64), y.astype(np.float64)
    A = np.column_stack([X, np.ones(len(X))]) if fit_intercept else X
    penalty = np.full(A.shape[1], float(l2))
    if fit_intercept:
        penalty[-1] = 0
    theta = np.zeros(A.shape[1])

    def value(t):
        return (w * _derivatives(name, y, A @ t, epsilon)[0]).sum() + 0.5 * (penalty * t * t).sum()

    for _ in range(max_iter):
        _, first, second = _derivatives(name, y, A @ theta, epsilon)
        gradient = A.T @ (w * first) + penalty * theta
        hessian = (A.T * (w * second)) @ A + np.diag(penalty)
        step = np.linalg.lstsq(hessian, gradient, rcond=1e-14)[0]
        before, t = value(theta), 1.0
        while value(theta - t * step) > before and t > 1e-10:
            t /= 2
        theta = theta - t * step
        if np.abs(t * step).max() <= 1e-14 * max(1.0, np.abs(theta).max()):
            break
    return (theta[:-1], theta[-1]) if fit_intercept else (theta, 0.0)


def ridge(X, y, l2, weight=None, fit_intercept=True):
    """(coef, intercept) that minimise the mean square ½ (y − z)² and ½ l2 Σ w², by least squares over rows and penalties."""
    w = np.ones(len(X)) if weight is None else np.asarray(weight, np.float64)
    X, y = X.astype(np.float64), y.astype(np.float64)
    mean, y_mean = (w @ X / w.sum(), w @ y / w.sum()) if fit_intercept else (np.zeros(X.shape[1]), 0.0)
    root = np.sqrt(w / w.sum())
    rows = np.vstack([(X - mean) * root[:, None], np.sqrt(l2) * np.eye(X.shape[1])])
    targets = np.concatenate([(y - y_mean) * root, np.zeros(X.shape[1])])
    coef = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return coef, y_mean - mean @ coef


def leave_one_out(X, y, l2, weight=None, fit_intercept=True):
    """(coefs, intercepts, predictions of the rows left out) of `ridge` without each row in turn, by the definition."""
    coefs, intercepts = np.empty(X.shape), np.empty(len(X))
    for i in range(len(X)):
        left = np.arange(len(X)) != i
        coefs[i], intercepts[i] = ridge(X[left], y[left], l2, None if weight is None else weight[left], fit_intercept)
    return coefs, intercepts, (X.astype(np.float64) * coefs).sum(axis=1) + intercepts
