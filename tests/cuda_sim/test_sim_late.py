"""Threads that are late after every barrier, in the simulator: the bytes of those that are not.

What a barrier is missing for shows only where threads are apart by more than chance takes them; here one is, or all but one are.
Chunks have 16 rows, so that a batch has two of them and orders are computed on the fly.
"""

from __future__ import annotations

import numpy as np
import pytest

import blocks
import calls
import on_device
from gradfold.cuda import gradient, stream, tiles, train
from gradfold.cuda.tiles import SHAPES
from test_promises import poison

for module in (tiles, train, gradient, stream):
    module.ROW_CHUNK = 16

THREADS = SHAPES["float32"]["narrow"].threads
EVERY = set(range(THREADS))
# The first thread does what one thread does, the first of the second warp sums intercepts in turn, the last has fewest parameters.
LATE = [{0}, {THREADS // 2}, {THREADS - 1}, EVERY - {0}, EVERY - {THREADS // 2}]


@pytest.fixture(params=LATE, ids=lambda late: f"{len(late)} late, {min(late)} first")
def late(request):
    assert not blocks.LATE
    yield request.param
    blocks.LATE.clear()


def problem(**options):
    q = calls.problem(11, **{"n": 20, "p": 3, "m": 4, "dtype": np.float32, "kind": "kfold", **options})
    assert q.n_models <= SHAPES["float32"]["narrow"].models
    return q


def trained(q, late, **options):
    """State and losses after an epoch of two batches, the first of two chunks."""
    trainer = on_device.trainer(q, **{"epochs": 1, "batch_size": 18, "track_train_loss": True, **options})
    blocks.LATE |= late
    try:
        assert trainer.advance() == "done"
    finally:
        blocks.LATE.clear()
    return {name: array.tobytes() for name, array in trainer.get_state().items()}


@pytest.mark.parametrize("path", ["persistent", "tiled"])
@pytest.mark.parametrize("solver", ["sgd", "adam", "rmsprop"])
def test_training(late, path, solver):
    q = problem(weights="random")
    assert trained(q, late, path=path, solver=solver) == trained(q, set(), path=path, solver=solver)


def test_training_beside_poisoned_rows(late):
    """The gradient looks up roles by row numbers, chunk after chunk, as rows that some model does not use are not finite."""
    clean = calls.replace(problem(weights="none"), split_of_model=np.array([1, 0, 1, 2]))
    X = poison(clean, 0, "nan", seed=1).X.copy()
    kept = np.flatnonzero(np.isnan(X).any(axis=1))[2]  # one row alone, of which few threads know
    X = np.where((np.arange(len(X)) == kept)[:, None], X, clean.X)
    q = calls.replace(clean, X=X)
    options = {"path": "persistent", "solver": "sgd", "track_train_loss": False}
    assert trained(q, late, **options) == trained(q, set(), **options)


def test_standardized_clipped_and_diverging(late):
    """Some model's step is taken back, which reads what all threads kept."""
    q = problem(weights="none")
    m = q.n_models
    q = calls.replace(q, hyper={"clip_norm": np.linspace(0.01, 0.3, m)}, learning_rate=np.where(np.arange(m) == 1, 1e38, 0.1))
    kept = trained(q, set(), path="persistent", solver="sgd", standardize=True)
    assert trained(q, late, path="persistent", solver="sgd", standardize=True) == kept


def test_gradient_of_a_poisoned_row(late):
    """The gradient selects, as rows that some model does not use are not finite."""
    q = poison(calls.replace(problem(weights="none"), split_of_model=np.array([1, 0, 1, 2])), 0, "nan", seed=1)
    on_time = on_device.loss_gradient(q)
    blocks.LATE |= late
    found = on_device.loss_gradient(q)
    for one, other in zip(found, on_time, strict=True):
        assert (one is None) == (other is None) and (one is None or one.tobytes() == other.tobytes())
