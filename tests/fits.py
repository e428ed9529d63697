"""Small problems for the tests of `fit`, and what two runs must share to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np


def labels(n: int = 300, p: int = 5, seed: int = 0, dtype: Any = np.float64) -> tuple[Any, Any]:
    """Two noisy classes."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)).astype(dtype)
    y = (X @ rng.standard_normal(p) + rng.standard_normal(n) > 0).astype(np.int64)
    return X, y


def numbers(n: int = 300, p: int = 5, seed: int = 1, dtype: Any = np.float64) -> tuple[Any, Any]:
    """A noisy line."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)).astype(dtype)
    return X, (X @ rng.standard_normal(p) + 0.5 * rng.standard_normal(n) + 1).astype(dtype)


def model(run: Any, candidate: int, split: int) -> tuple[bytes, ...]:
    """One model of a run: weights, steps, losses, when it stopped."""
    m = candidate * run.n_splits + split
    arrays = (
        run.coef[m], run.intercept[m], run.steps[m], run.held_out_loss[candidate, split],
        run.best_epoch[candidate, split], run.epochs_trained[candidate, split], run.diverged_epoch[m],
    )  # fmt: skip
    return tuple(np.ascontiguousarray(array).tobytes() for array in arrays)


def history(run: Any, candidate: int, split: int) -> bytes:
    """A model's held-out losses while it trained."""
    return np.ascontiguousarray(run.history[: run.epochs_trained[candidate, split], candidate, split]).tobytes()


def refit(run: Any) -> tuple[bytes, float, int]:
    """The refitted model."""
    return run.best_coef.tobytes(), run.best_intercept, run.best_steps
