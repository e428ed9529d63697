"""Callbacks of `fit`: what they are called with, and what they ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check

Array = npt.NDArray[Any]


class Epoch:
    """What a callback of `fit` is called with, after each epoch.

    Attributes
    ----------
    epoch : int
        Epochs done, from 1.
    epochs : int
        Epochs planned.
    held_out_loss : ndarray of float64, shape (n_candidates, n_splits)
        Of each model after this epoch; of one that has left, after its last. NaN where it diverged or scores no row.
        A fit without splits has one model, its refit, and shape (1, 1).
    alive : ndarray of bool, shape (n_candidates, n_splits)
        Which models still train.
    elapsed : float
        Seconds since `fit` began.
    stopped : ndarray of bool, shape (n_candidates, n_splits)
        The models that this callback, and those before it in this epoch, have asked to stop.
    run_stopped : bool
        Whether one has asked to stop all.
    """

    def __init__(self, epoch: int, epochs: int, held_out_loss: Array, alive: Array, elapsed: float) -> None:
        self.epoch = epoch
        self.epochs = epochs
        self.held_out_loss = held_out_loss
        self.alive = alive
        self.elapsed = elapsed
        self.stopped = np.zeros(alive.shape, np.bool_)
        self.run_stopped = False

    @property
    def best_candidate(self) -> int | None:
        """The candidate of the lowest mean held-out loss now, whatever `scoring` ranks; None where every mean is NaN."""
        mean = self.held_out_loss.mean(axis=1)
        return None if np.isnan(mean).all() else int(np.nanargmin(mean))

    def stop(self) -> None:
        """End the training of all models here. The best candidate is refitted for as many epochs."""
        self.run_stopped = True

    def stop_candidates(self, candidates: Iterable[int]) -> None:
        """End the training of these candidates' models, on every split; they still compete with the loss they have.

        Raises
        ------
        ValueError, TypeError
            A candidate out of range; no list of integers.
        """
        if isinstance(candidates, (str, bytes)) or not _check.iterable(candidates):
            raise TypeError(f"candidates: got {_check.describe(candidates)}, wanted a list of integers")
        for candidate in candidates:
            self.stopped[_check.integer("candidates", candidate, 0, len(self.alive) - 1)] = True

    def stop_models(self, mask: npt.ArrayLike) -> None:
        """End the training of the models where `mask`, bool of shape (n_candidates, n_splits), is True.

        Raises
        ------
        ValueError
            Another shape or dtype.
        """
        array = np.asarray(mask)
        if array.dtype != np.bool_ or array.shape != self.alive.shape:
            raise ValueError(f"mask: got {_check.describe(array)}, wanted a bool array of shape {self.alive.shape}")
        self.stopped |= array

    def __repr__(self) -> str:
        return f"<gradfold epoch {self.epoch} of {self.epochs}, {int(self.alive.sum())} models alive>"


Callback = Callable[[Epoch], object]


def read(value: object) -> list[Callback]:
    """The argument `callbacks`: None, a callable, or a list of callables."""
    if value is None:
        return []
    if callable(value):
        return [value]
    if isinstance(value, (str, bytes)) or not _check.iterable(value):
        raise TypeError(f"callbacks: got {_check.describe(value)}, wanted a callable or a list of them")
    found: list[Callback] = list(value)  # type: ignore[call-overload]
    for one in found:
        if not callable(one):
            raise TypeError(f"callbacks: got {_check.describe(one)} in the list, wanted callables")
    return found
