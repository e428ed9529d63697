"""`l1_grid`: penalties from the smallest one that leaves no feature in, downwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _target
from gradfold._moments import with_target


def l1_grid(
    X: Any,
    y: Any,
    n_values: int = 100,
    *,
    eps: float = 1e-3,
    loss: str = "auto",
    sample_weight: npt.ArrayLike | None = None,
    fit_intercept: bool = True,
    standardize: bool = False,
    n_threads: int | None = None,
) -> npt.NDArray[np.float64]:
    """Values of l1 for a grid, descending and evenly spaced by logarithm, as scikit-learn and glmnet choose theirs [1]_.

    The first is the largest component of the gradient at weights of 0 and the best intercept: from there on every weight
    is 0. It is of all rows, held-out ones included, as in scikit-learn: a choice of what is tried, not of what is learnt.

    Parameters
    ----------
    X : array_like of shape (n_rows, n_features)
    y : array_like of shape (n_rows,)
        A target of "squared_error", or two labels of "log_loss".
    n_values : int
    eps : float
        The last value as a share of the first, above 0 and below 1.
    loss : {"auto", "squared_error", "log_loss"}
        As in `fit`.
    sample_weight, fit_intercept, standardize
        As they will be for `fit`.
    n_threads : int, optional
        Default: the processors this process may use.

    Returns
    -------
    ndarray of float64, shape (n_values,)
        l1 as `fit` takes it; for an elastic net with scikit-learn's l1_ratio, alpha = l1 / l1_ratio and
        l2 = alpha · (1 − l1_ratio).

    Raises
    ------
    ValueError
        Bad values or shapes, another loss, or a target that no feature says anything about.
    TypeError
        A bad type or dtype.

    References
    ----------
    .. [1] J. Friedman, T. Hastie, R. Tibshirani, "Regularization paths for generalized linear models via coordinate
       descent", Journal of Statistical Software 33, 2010, section 2.5.

    Examples
    --------
    >>> grid = gf.grid(l1=list(gf.l1_grid(X, y, 50)))
    >>> run = gf.fit(X, y, grid, folds=5, solver="coordinate-descent", l2=0.0)
    """
    threads = _check.threads(n_threads)
    count = _check.integer("n_values", n_values, 1, 2**31 - 1)
    share = _check.real("eps", eps, positive=True)
    if share >= 1:
        raise ValueError(f"eps: got {eps!r}, wanted a number below 1")
    with_intercept = _check.boolean("fit_intercept", fit_intercept)
    scaled = _check.boolean("standardize", standardize)
    data, _ = _check.data_matrix("X", X, None)
    target = _target.read(y, loss, len(data), data.dtype, True, threads)
    if target.loss not in ("squared_error", "log_loss"):
        raise ValueError(f"loss: got {target.loss!r}, wanted 'squared_error' or 'log_loss'")
    # The gradient of log_loss at 0 and the best intercept is the mean of (share of ones − y) · x, y being 0 or 1.
    values = target.y if target.loss == "squared_error" else (target.y > 0).astype(data.dtype)
    gradient, mean, scale = with_target(data, values, sample_weight, threads)
    if not with_intercept and not scaled:
        middle = 0.0 if target.loss == "squared_error" else 0.5  # without an intercept log_loss starts from one half
        gradient = gradient + mean[:-1] * (mean[-1] - middle)
    if scaled:
        gradient = np.where(scale > 0, gradient / np.where(scale > 0, scale, 1.0), 0.0)
    first = float(np.abs(gradient).max(initial=0.0))
    if not 0 < first < np.inf:
        raise ValueError("y: no feature says anything about it, or a sum overflows, so that there is no first l1")
    return first * np.logspace(0.0, np.log10(share), count)
