"""The loss and its gradient, of many linear models over their own training rows, and how far a kernel may be off.

Nothing is penalised here. A row of weight zero is no training row, whatever stands in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reference import loss as point
from reference.roles import TRAIN

# The orders of summation that the error bound needs (docs/design.md): a forward chunk and a gradient chunk.
FEATURE_CHUNK = 256
ROW_CHUNK = 1024


@dataclass(frozen=True)
class LossGradient:
    """``loss`` (m,), ``grad_W`` (p, m), ``grad_intercept`` (m,), and error bounds of the same shapes. Of several outputs
    (p, n_outputs, m) and (n_outputs, m)."""

    loss: np.ndarray
    grad_W: np.ndarray
    grad_intercept: np.ndarray
    loss_bound: np.ndarray
    grad_W_bound: np.ndarray
    grad_intercept_bound: np.ndarray


def training_positions(role, rows, weight):
    """Batch positions (repeats kept) at which a model trains, given its role of every row."""
    return np.array([k for k, i in enumerate(rows) if role[i] == TRAIN and weight[i] > 0], np.int64)


def loss_gradient(
    X, y, W, intercept=None, *, loss, reduction="mean", rows=None, roles=None, sample_weight=None, loss_epsilon=None
):
    """Loss and gradient of every model, with bounds on what rounding in X's type may cost.

    ``roles`` is (n_models, n_rows), already one per model, or None where every row trains every model. The loss is
    sum w*loss ("sum") or that over sum w ("mean"), and the gradient likewise. A model that visits no training row has
    gradient 0; its mean loss is NaN, and its summed loss 0.

    The bounds are first-order worst cases (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1),
    u being the unit roundoff of X's type: z is a sum of p terms in chunks of 256, so it is off by at most
    ``u (256 + chunks + 1) (sum |x w| + |b|)``; that error passes the loss, whose derivative never falls, so that its
    values at the ends of the interval around z bound it; the gradient is a sum of rows in chunks of 1,024. Four
    roundings more stand for weight, residual and reduction, and 2 ulp for the exponential.
    """
    n, p = X.shape
    if loss == "multinomial":
        return _multinomial(X, y, W, intercept, reduction, rows, roles, sample_weight)
    m = W.shape[1]
    u = np.finfo(X.dtype).eps / 2
    rows = np.arange(n) if rows is None else np.asarray(rows)
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, np.float64)
    b = np.zeros(m) if intercept is None else np.asarray(intercept, np.float64)
    out = {
        "loss": np.full(m, 0.0 if reduction == "sum" else np.nan),
        "grad_W": np.zeros((p, m)),
        "grad_intercept": np.zeros(m),
    }
    bound = {name: np.zeros_like(a) for name, a in out.items()}
    for k in range(m):
        role = np.full(n, TRAIN) if roles is None else roles[k]
        keep = rows[training_positions(role, rows, weight)]
        if len(keep) == 0:
            continue
        x, w, w_k = X[keep].astype(np.float64), weight[keep], W[:, k].astype(np.float64)
        z = x @ w_k + b[k]
        y_k = y[keep].astype(np.float64)
        epsilon = 0.1 if loss_epsilon is None else loss_epsilon[k]
        epsilon = float(X.dtype.type(epsilon))
        values = point.value(loss, y_k, z, epsilon)
        slope = point.gradient(loss, y_k, z, epsilon)
        residual = w * slope

        z_terms = min(p, FEATURE_CHUNK) + -(-p // FEATURE_CHUNK) + 2
        z_error = u * z_terms * (np.abs(x) @ np.abs(w_k) + abs(b[k]))
        # Where z - y cancels, its rounding is relative to the difference; the 6 covers weight, 2 ulp of exp, division.
        apart = z_error + 4 * u * (np.abs(z) + np.abs(y_k) + epsilon + 1)  # a kink may be met on its other side
        low, high = (point.gradient(loss, y_k, z + side * apart, epsilon) for side in (-1, 1))
        residual_error = w * np.maximum(high - slope, slope - low) + 6 * u * np.abs(residual)
        terms = min(len(rows), ROW_CHUNK) + 4
        value_error = np.maximum(np.abs(low), np.abs(high)) * apart + 8 * u * values

        scale = 1.0 if reduction == "sum" else 1 / w.sum()
        out["loss"][k] = scale * (w @ values)
        out["grad_W"][:, k] = scale * (residual @ x)
        out["grad_intercept"][k] = scale * residual.sum()
        bound["loss"][k] = scale * (w @ value_error) + 1e-13 * abs(out["loss"][k])
        bound["grad_W"][:, k] = scale * ((residual_error + u * terms * np.abs(residual)) @ np.abs(x))
        bound["grad_intercept"][k] = scale * (residual_error + u * terms * np.abs(residual)).sum()
    return LossGradient(
        **out,
        loss_bound=bound["loss"],
        grad_W_bound=bound["grad_W"],
        grad_intercept_bound=bound["grad_intercept"],
    )


def _multinomial(X, y, W, intercept, reduction, rows, roles, sample_weight):
    """The same for several outputs. |softmax(z + d) - softmax(z)| <= max |d| / 2 for each class, and the loss moves by at
    most 2 max |d|; the sum of n_outputs exponentials and its quotients add n_outputs + 6 roundings."""
    n, p = X.shape
    _, n_outputs, m = W.shape
    u = np.finfo(X.dtype).eps / 2
    rows = np.arange(n) if rows is None else np.asarray(rows)
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, np.float64)
    b = np.zeros((n_outputs, m)) if intercept is None else np.asarray(intercept, np.float64)
    out = {
        "loss": np.full(m, 0.0 if reduction == "sum" else np.nan),
        "grad_W": np.zeros((p, n_outputs, m)),
        "grad_intercept": np.zeros((n_outputs, m)),
    }
    bound = {name: np.zeros_like(a) for name, a in out.items()}
    for k in range(m):
        role = np.full(n, TRAIN) if roles is None else roles[k]
        keep = rows[training_positions(role, rows, weight)]
        if len(keep) == 0:
            continue
        x, w, w_k = X[keep].astype(np.float64), weight[keep], W[:, :, k].astype(np.float64)
        z = x @ w_k + b[:, k]
        values, slope = point.multinomial(y[keep], z)
        residual = w[:, None] * slope
        z_terms = min(p, FEATURE_CHUNK) + -(-p // FEATURE_CHUNK) + 2
        z_error = u * z_terms * (np.abs(x) @ np.abs(w_k) + np.abs(b[:, k])).max(axis=1)
        z_error += u * 4 * np.abs(z).max(axis=1)
        residual_error = w[:, None] * 0.5 * z_error[:, None] + (n_outputs + 16) * u * np.abs(residual)
        terms = min(len(rows), ROW_CHUNK) + 4
        value_error = 2 * z_error + (n_outputs + 8) * u * (1 + np.abs(values))

        scale = 1.0 if reduction == "sum" else 1 / w.sum()
        out["loss"][k] = scale * (w @ values)
        out["grad_W"][:, :, k] = scale * (x.T @ residual)
        out["grad_intercept"][:, k] = scale * residual.sum(axis=0)
        bound["loss"][k] = scale * (w @ value_error) + 1e-13 * abs(out["loss"][k])
        total = residual_error + u * terms * np.abs(residual)
        bound["grad_W"][:, :, k] = scale * (np.abs(x).T @ total)
        bound["grad_intercept"][:, k] = scale * total.sum(axis=0)
    return LossGradient(
        **out,
        loss_bound=bound["loss"],
        grad_W_bound=bound["grad_W"],
        grad_intercept_bound=bound["grad_intercept"],
    )
