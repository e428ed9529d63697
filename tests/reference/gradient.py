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
    """``loss`` (m,), ``grad_W`` (p, m), ``grad_intercept`` (m,), and error bounds of the same shapes."""

    loss: np.ndarray
    grad_W: np.ndarray
    grad_intercept: np.ndarray
    loss_bound: np.ndarray
    grad_W_bound: np.ndarray
    grad_intercept_bound: np.ndarray


def training_positions(role, rows, weight):
    """Batch positions (repeats kept) at which a model trains, given its role of every row."""
    return np.array([k for k, i in enumerate(rows) if role[i] == TRAIN and weight[i] > 0], np.int64)


def loss_gradient(X, y, W, intercept=None, *, loss, reduction="mean", rows=None, roles=None, sample_weight=None):
    """Loss and gradient of every model, with bounds on what rounding in X's type may cost.

    ``roles`` is (n_models, n_rows), already one per model, or None where every row trains every model. The loss is
    sum w*loss ("sum") or that over sum w ("mean"), and the gradient likewise. A model that visits no training row has
    gradient 0; its mean loss is NaN, and its summed loss 0.

    The bounds are first-order worst cases (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1),
    u being the unit roundoff of X's type: z is a sum of p terms in chunks of 256, so it is off by at most
    ``u (256 + chunks + 1) (sum |x w| + |b|)``; that error passes the loss multiplied by its Lipschitz constant; the
    gradient is a sum of rows in chunks of 1,024. Four roundings more stand for weight, residual and reduction, and 2
    ulp for the exponential.
    """
    n, p = X.shape
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
        values = point.value(loss, y[keep], z)
        residual = w * point.gradient(loss, y[keep], z)

        z_terms = min(p, FEATURE_CHUNK) + -(-p // FEATURE_CHUNK) + 2
        z_error = u * z_terms * (np.abs(x) @ np.abs(w_k) + abs(b[k]))
        # Where z - y cancels, its rounding is relative to the difference; the 6 covers weight, 2 ulp of exp, division.
        residual_error = w * point.LIPSCHITZ[loss] * z_error + 6 * u * np.abs(residual)
        terms = min(len(rows), ROW_CHUNK) + 4
        value_error = np.abs(point.gradient(loss, y[keep], z)) * z_error + 0.5 * z_error**2 + 8 * u * values

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
