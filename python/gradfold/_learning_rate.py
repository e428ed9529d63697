"""`learning_rate="auto"`: a range test on a few batches; and the rules for another batch size.

The range test is that of Smith [1]_, who raises the rate from batch to batch and watches the training loss. Here every
rate of a logarithmic grid has a model of its own on every split, and all of them train side by side on the same
batches, so that no rate starts from what another has left. A model sees its split's own training rows only.

.. [1] L. N. Smith, "Cyclical learning rates for training neural networks", WACV 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check

Array = npt.NDArray[Any]

# Makes a trainer of models that differ in learning rate and split only: (learning_rate float64 (m,), split_of_model
# int64 (m,), epochs) -> Trainer with track_train_loss=True and the constant schedule.
TrainerOf = Callable[[npt.NDArray[np.float64], npt.NDArray[np.int64], int], Any]

RULES = ("linear", "sqrt")

STEPS = 64  # batches of a test; the loss is taken over the second half
_PER_DECADE = 4
_LOWEST, _HIGHEST = -8, 2  # powers of ten
_SHIFT, _SHIFTS = 9, 3  # decades that the grid moves down, for data of huge scale, and how often
_SHARE = 0.95  # of the largest decrease of the loss
_MARGIN = 2.0
_FLAT = 1e-3  # a relative decrease below it says nothing about rates


def range_test(
    trainer_of: TrainerOf,
    n_splits: int,
    *,
    default: float,
    advance: Callable[[Any, int], str] | None = None,
) -> npt.NDArray[np.float64]:
    """A learning rate for each split, from the training loss over a few batches.

    For each split, let L(r) be the running training loss of the model with rate r over the second half of 64 batches,
    infinite if it diverged, and r₀ the lowest rate, which has hardly moved. The rate returned is half of the lowest
    rate with ``L(r₀) − L(r) ≥ 0.95 · max over r of (L(r₀) − L(r))``: the lowest one that is nearly as good as the best,
    with a factor of 2 between it and what it was seen to bear.

    Where no rate lowers the loss by a thousandth, the loss is flat and `default` is returned, or half the highest rate
    that did not diverge, if that is lower. Where all rates of the grid diverge, or one of the lowest decade is chosen,
    the grid (10⁻⁸ to 10², four rates a decade) moves down by nine decades, up to three times; after that, the lowest
    rate is returned.

    Parameters
    ----------
    trainer_of : callable (learning_rate, split_of_model, epochs) -> Trainer
        Makes the trainer: one model for each rate and split, constant schedule, ``track_train_loss=True``, everything
        else as in the fit to come. `epochs` is large enough for all steps whatever the number of batches in one.
    n_splits : int
    default : float
        What to return where the loss is flat.
    advance : callable (trainer, max_steps) -> str, optional
        Trains; default `trainer.advance`. What does not return "paused" or "done" ends the test at once.

    Returns
    -------
    ndarray of float64, shape (n_splits,)
        NaN for all, if `advance` was interrupted.

    References
    ----------
    L. N. Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3.
    """
    chosen = np.full(n_splits, np.nan)
    open_splits = np.arange(n_splits, dtype=np.int64)
    for shift in range(_SHIFTS + 1):
        rates = _grid(shift)
        losses = _losses(trainer_of, rates, open_splits, advance)
        if losses is None:
            return np.full(n_splits, np.nan)
        undecided = []
        for column, split in enumerate(open_splits):
            rate = choose(rates, losses[:, column], default)
            if rate is None and shift == _SHIFTS:
                rate = float(rates[0])
            if rate is None:
                undecided.append(split)
            else:
                chosen[split] = rate
        open_splits = np.array(undecided, np.int64)
        if not undecided:
            break
    return chosen


def choose(rates: Array, loss: Array, default: float) -> float | None:
    """The rule of `range_test` for one split; None if the grid has to move down.

    Parameters
    ----------
    rates : ndarray of shape (n_rates,)
        Ascending.
    loss : ndarray of shape (n_rates,)
        The running loss of each; NaN or inf for one that diverged.
    """
    loss = np.where(np.isfinite(loss), loss, np.inf)
    start = loss[0]
    if not np.isfinite(start):
        return None
    decrease = start - loss
    best = float(decrease.max())
    if not best > _FLAT * abs(start):
        # Flat. A rise at the lowest rates says that they are too high already, and that the grid is.
        bearable = rates[loss <= start + _FLAT * abs(start)]
        if len(bearable) <= _PER_DECADE:
            return None
        return min(default, float(bearable[-1]) / _MARGIN)
    lowest = int(np.argmax(decrease >= _SHARE * best))
    # The lowest rate stands for "has not moved", which it cannot do beside a best one that is nearly the same.
    return None if lowest <= _PER_DECADE else float(rates[lowest]) / _MARGIN


def scaled(rate: float, batch_size: int, reference: int, rule: str) -> float:
    """The learning rate for `batch_size` rows, where `rate` suits `reference` rows.

    Parameters
    ----------
    rate : float
    batch_size, reference : int
        At least 1.
    rule : {"linear", "sqrt"}
        "linear" is ``rate · batch_size / reference`` [1]_: k steps of rate r on small batches move as far as one of
        k·r on a batch k times as large, while the gradient hardly changes. "sqrt" is
        ``rate · √(batch_size / reference)`` [2]_: it keeps the variance of a step, since that of a mean gradient falls
        as 1/batch_size; the usual rule for adaptive solvers.

    Raises
    ------
    ValueError, TypeError
        An unknown rule, a rate that is not above 0, sizes below 1, or a rate that leaves the range of float64.

    References
    ----------
    .. [1] P. Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017.
    .. [2] A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014; E. Hoffer, I. Hubara,
       D. Soudry, "Train longer, generalize better", NeurIPS 2017.
    """
    known = _check.choice("batch_scaling", rule, RULES)
    base = _check.real("learning_rate", rate, positive=True)
    ratio = _check.integer("batch_size", batch_size, 1) / _check.integer("reference", reference, 1)
    return _check.real("learning_rate", base * (ratio if known == "linear" else math.sqrt(ratio)), positive=True)


def _grid(shift: int) -> npt.NDArray[np.float64]:
    """Ascending rates, four a decade. Decimal text and not a power, so that every machine has the same ones."""
    mantissas = ("1", "1.8", "3.2", "5.6")
    low, high = _LOWEST - shift * _SHIFT, _HIGHEST - shift * _SHIFT
    decades = [float(f"{m}e{d}") for d in range(low, high) for m in mantissas]
    return np.array([*decades, float(f"1e{high}")])


def _losses(
    trainer_of: TrainerOf, rates: npt.NDArray[np.float64], splits: Array, advance: Callable[[Any, int], str] | None
) -> Array | None:
    """The running training loss of each rate and split, (n_rates, len(splits)); None if interrupted."""
    trainer = trainer_of(np.repeat(rates, len(splits)), np.tile(splits, len(rates)), STEPS)

    def train(steps: int) -> bool:
        status = trainer.advance(max_steps=steps) if advance is None else advance(trainer, steps)
        return status in ("paused", "done")

    first = STEPS // 2
    if not train(first):
        return None
    trainer.train_loss(reset=True)
    if not train(STEPS - first):
        return None
    loss = np.array(trainer.train_loss(reset=True), np.float64)
    loss[np.asarray(trainer.diverged_epoch) >= 0] = np.inf
    return loss.reshape(len(rates), len(splits))
