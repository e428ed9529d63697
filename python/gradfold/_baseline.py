"""What a model has to beat: the best constant prediction, found on each split's training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold import loss as _loss

if TYPE_CHECKING:
    from gradfold.index import Folds

Array = npt.NDArray[Any]

_STEPS = 101


def held_out_loss(loss: str, y: Array, sample_weight: Array | None, folds: Folds) -> Array:
    """The held-out loss of the constant prediction of each split, float64 of shape (n_splits,).

    The constant is the weighted mean of the training targets for squared_error, the logarithm of the odds (or of the
    class shares) for log_loss and multinomial, and the best of a grid of margins for the losses of one.

    Parameters
    ----------
    y : ndarray of shape (n_rows,)
        As the kernels read it: numbers, or class codes.

    Returns
    -------
    ndarray
        NaN for a split that trains or scores no row.
    """
    weight = np.ones(len(y)) if sample_weight is None else sample_weight.astype(np.float64)
    out = np.full(folds.n_splits, np.nan)
    for split in range(folds.n_splits):
        role = folds.role(split)
        train, score = (role == 1) & (weight > 0), (role == 2) & (weight > 0)
        if train.any() and score.any():
            raw = _constant(loss, y[train].astype(np.float64), weight[train], y)
            out[split] = _mean(loss, y[score].astype(np.float64), raw, weight[score])
    return out


def _constant(loss: str, y: Array, weight: Array, all_y: Array) -> Array:
    """The raw prediction, shape (n_outputs,)."""
    if loss == "multinomial":
        share = np.bincount(y.astype(np.intp), weights=weight, minlength=int(all_y.max()) + 1) / weight.sum()
        return np.asarray(np.log(np.maximum(share, 1e-12)))
    if loss == "log_loss":
        share = np.clip(weight[y > 0].sum() / weight.sum(), 1e-12, 1 - 1e-12)
        return np.array([np.log(share / (1 - share))])
    if loss == "squared_error":
        return np.array([np.average(y, weights=weight)])
    guesses = np.linspace(-1, 1, _STEPS)  # of a margin: one class or the other, or, for modified_huber, between them
    losses = [_mean(loss, y, np.array([guess]), weight) for guess in guesses]
    return np.array([guesses[int(np.argmin(losses))]])


def _mean(loss: str, y: Array, raw: Array, weight: Array) -> float:
    raw = np.repeat(raw[None, :], len(y), axis=0)
    of = _loss.get(loss)
    values = of.loss(y_true=y, raw_prediction=raw[:, 0] if raw.shape[1] == 1 else raw)
    return float(np.average(values, weights=weight))
