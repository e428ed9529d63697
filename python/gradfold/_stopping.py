"""When models stop before the last epoch: early stopping, learning rates that fall on a plateau, successive halving.

Policies over arrays with one place for each model, or each candidate and split. They see losses and say which models
stop; they train nothing. A NaN is never an improvement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _choose

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

# Why a model's training ended; the place in this list is what a Run keeps.
REASONS = ("done", "early_stopping", "halving", "callback", "diverged", "interrupted", "max_seconds")

MONITORS = ("auto", "held_out", "train")

# scikit-learn's: a rate on a plateau falls until it is this low.
LOWEST_RATE = 1e-6


@dataclass(frozen=True)
class EarlyStopping:
    """The options of `early_stopping`."""

    patience: int = 5
    tolerance: float = 1e-4
    monitor: str = "auto"
    restore_best: bool = True

    @classmethod
    def read(cls, value: object) -> EarlyStopping | None:
        """None and False are no early stopping, True is the defaults, a mapping sets some of them."""
        options = _options("early_stopping", value, {
            "patience": lambda v: _check.integer("early_stopping: patience", v, 1),
            "tolerance": lambda v: _check.real("early_stopping: tolerance", v),
            "monitor": lambda v: _check.choice("early_stopping: monitor", v, MONITORS),
            "restore_best": lambda v: _check.boolean("early_stopping: restore_best", v),
        })  # fmt: skip
        return None if options is None else cls(**options)


@dataclass(frozen=True)
class Halving:
    """The options of `halving`."""

    factor: int = 3
    min_epochs: int = 1

    @classmethod
    def read(cls, value: object) -> Halving | None:
        """None and False are no halving, True is the defaults, a mapping sets some of them."""
        options = _options("halving", value, {
            "factor": lambda v: _check.integer("halving: factor", v, 2),
            "min_epochs": lambda v: _check.integer("halving: min_epochs", v, 1),
        })  # fmt: skip
        return None if options is None else cls(**options)

    def rungs(self, n_candidates: int, epochs: int) -> dict[int, int]:
        """The number of candidates that go on, by the epoch after which the others leave."""
        return dict(_choose.halving_rungs(n_candidates, epochs, self.factor, self.min_epochs))


class Tracker:
    """The best loss of each model so far, and for how many epochs it has not been beaten by more than the tolerance.

    Attributes
    ----------
    best : ndarray of float64, shape (n_models,)
        The lowest loss; inf before there is one.
    best_epoch : ndarray of int64, shape (n_models,)
        The epoch, counted from 1, after which it was reached; 0 before there is one.
    """

    def __init__(self, n_models: int, patience: int, tolerance: float) -> None:
        self.best = np.full(n_models, np.inf)
        self.best_epoch = np.zeros(n_models, np.int64)
        self._waited = np.zeros(n_models, np.int64)
        self._patience, self._tolerance = patience, tolerance

    def update(self, epoch: int, loss: Array, alive: Mask) -> tuple[Mask, Mask]:
        """Which models are at a new best, and which have waited for `patience` epochs.

        As in scikit-learn, any decrease is a new best, but one of less than the tolerance counts as waiting. A model
        whose loss has never been a number (its split scores no row) has nothing to wait for.
        """
        with np.errstate(invalid="ignore"):  # inf − inf never: a loss is below inf or no improvement
            progress = alive & (loss < np.where(np.isinf(self.best), np.inf, self.best - self._tolerance))
            improved = alive & (loss < self.best)
        self._waited[progress] = 0
        self._waited[alive & ~progress] += 1
        self.best[improved] = loss[improved]
        self.best_epoch[improved] = epoch
        return improved, alive & (self._waited >= self._patience) & (self.best_epoch > 0)

    def reset(self, mask: Mask) -> None:
        """These models wait anew."""
        self._waited[mask] = 0


def survivors(order: Array, survived: Mask, n_left: int) -> Mask:
    """The `n_left` best of the candidates that have survived so far.

    Parameters
    ----------
    order : ndarray of float64, shape (n_candidates,)
        Lower is better; NaN comes last, ties go to the lower index.
    """
    nan = np.isnan(order)
    places = np.lexsort((np.arange(len(order)), np.where(nan, 0.0, order), nan, ~survived))
    out = np.zeros(len(order), np.bool_)
    out[places[:n_left]] = True
    return out & survived


def _options(argument: str, value: object, known: Mapping[str, Any]) -> dict[str, Any] | None:
    if value is None or value is False:
        return None
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{argument}: got {_check.describe(value)}, wanted None, True or a dict of {', '.join(known)}")
    for name in value:
        if name not in known:
            raise ValueError(
                f"{argument}: got the unknown key {name!r}, wanted {', '.join(known)}{_check.near(str(name), known)}"
            )
    return {name: known[name](given) for name, given in value.items()}
