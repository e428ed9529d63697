"""X that streams through the device in windows: the CPU's bits, and what is said where a batch is too large."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradfold import DeviceMemoryError, _core, index
from gradfold.cuda import arrays, roles, stream, train


def arguments(
    n: int = 42,
    p: int = 3,
    m: int = 3,
    dtype: Any = np.float32,
    batch_size: int = 8,
    weights: bool = False,
    **other: Any,
) -> dict[str, Any]:
    """Of a trainer, with three-fold splits."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p)).astype(dtype)
    folds = index.kfold(n, 3, n_repeats=2) if m > 3 else index.kfold(n, 3)
    weight = rng.integers(0, 3, n).astype(dtype) if weights else None
    plain = dict(
        X=X, y=(rng.random(n) < 0.5).astype(dtype), sample_weight=weight, ids=folds.ids, conditions=folds.conditions,
        split_of_model=np.arange(m, dtype=np.int64) % folds.n_splits, loss="log_loss", solver="sgd",
        l1=np.zeros(m), l2=np.full(m, 1e-3), learning_rate=np.full(m, 0.1), schedule=np.zeros(m, np.int32), epochs=1,
        batch_size=batch_size, shuffle=True, seed=3,
        fit_intercept=True, standardize=False, coef_init=None, intercept_init=None, n_threads=1,
    )  # fmt: skip
    return plain | other


def limit(a: dict[str, Any], batches: int) -> int:
    """What windows of so many batches take."""
    size = a["X"].itemsize
    vector = 16 // size
    stride = -(-a["X"].shape[1] // vector) * vector
    return 2 * batches * int(a["batch_size"]) * (size * (stride + 2) + 4 * len(a["ids"]) + 4)


def state(trainer: Any) -> dict[str, bytes]:
    found = trainer.get_state()
    return {name: array.tobytes() for name, array in found.items()} | {"coef": trainer.coef().tobytes()}


def check(a: dict[str, Any], batches: int = 2, path: str | None = None) -> Any:
    """A streaming trainer that has trained, with the state of the other one."""
    trainer = train.Trainer(**a, path=path, memory_limit=limit(a, batches))
    windows = trainer._data.windows
    assert windows is not None and windows.batches == batches
    assert trainer.reason.endswith(f"; X streams in windows of {batches * a['batch_size']} rows")
    assert trainer.advance() == "done"
    host = _core.train.Trainer(**a)
    host.advance()
    assert state(trainer) == state(host)
    assert not np.isnan(trainer.history()).any()
    return trainer


# The last window ends in a batch of two rows: 16, 16, 10 = 8 + 2.
@pytest.mark.parametrize("path", ["persistent", "tiled"])
@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 2, "weights": True},
        {"shuffle": False, "dtype": np.float64, "solver": "adam", "standardize": True},
        {"dtype": np.float64, "p": 4, "weights": True, "standardize": True, "track_train_loss": True},
        {"shuffle": False, "p": 4, "m": 7, "held_out_weight": np.arange(42, dtype=np.float32) % 3},
    ],
    ids=["epochs and weights", "natural", "standardize", "repeats and other weights"],
)
def test_same_bits_as_the_cpu(path: str, options: dict[str, Any]) -> None:
    check(arguments(**options), path=path)


def test_validation_data_stay_on_the_device() -> None:
    a = arguments()
    check(a | {"validation": (a["X"][:9].copy(), a["y"][:9].copy(), None)}, batches=1)


def test_in_pieces() -> None:
    a = arguments(n=40)
    trainer = train.Trainer(**a, memory_limit=limit(a, 2), path="persistent")
    assert trainer.advance(max_steps=3) == "paused"  # in mid-window
    assert trainer.advance(seconds=0.0) == "paused"
    other = train.Trainer(**a | {"state": trainer.get_state()}, memory_limit=limit(a, 3), path="persistent")
    host = _core.train.Trainer(**a)
    host.advance()
    for one in (trainer, other):
        assert one.advance() == "done" and state(one) == state(host)


def test_models_that_leave() -> None:
    a = arguments(n=20, p=2, m=12, epochs=2, batch_size=6)
    trainers = train.Trainer(**a, memory_limit=limit(a, 1)), _core.train.Trainer(**a)
    for one in trainers:
        one.advance(max_steps=4)
        one.finish(~np.isin(np.arange(12), (0, 5)))  # one of each panel
        one.advance()
    assert state(trainers[0]) == state(trainers[1])
    assert trainers[0]._data.n_panels == 1


@pytest.mark.parametrize("several", [False, True], ids=["a split", "splits"])
def test_scores_go_on_from_window_to_window(several: bool) -> None:
    # Few rows are scored, of the first and the last of three chunks.
    n, scored = 2100, np.r_[5, 700:712, 1023, 2048:2060]
    ids = np.zeros((1, n), np.uint8)
    ids[0, scored] = np.where(np.arange(len(scored)) % 2 == 0, 1, 2) if several else 1
    conditions = np.array([[[0, 1, 2, 0, 1]], [[0, 2, 3, 0, 1]]], np.int64)[: 1 + several]
    a = arguments(n, p=1, m=2, batch_size=700, learning_rate=np.zeros(2), weights=True)
    a |= {
        "ids": ids,
        "conditions": conditions,
        "split_of_model": np.arange(2) * several,
        "coef_init": np.array([[0.5], [-0.7]]),
    }
    a |= {"l2": np.zeros(2)}
    trainer = train.Trainer(**a, memory_limit=limit(a, 1))
    windows = trainer._data.windows
    assert windows is not None and windows.score_rows == 1024
    trainer._set_up()
    host = _core.train.Trainer(**a)  # the weights stay, with a learning rate of 0
    host.advance()
    assert trainer._data.score().tobytes() == host.history()[0].tobytes()


# -- windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [3, 4])
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("shuffled", [True, False])
def test_what_a_window_holds(monkeypatch: pytest.MonkeyPatch, p: int, n_threads: int, shuffled: bool) -> None:
    monkeypatch.setattr(stream, "_PIECE_BYTES", 400)
    monkeypatch.setattr(stream, "_PAD_BYTES", 100)
    n = 200
    rng = np.random.default_rng(1)
    X, y, weight = (
        rng.standard_normal((n, p), np.float32),
        rng.random(n, np.float32),
        (np.arange(n) % 3).astype(np.float32),
    )
    folds = index.kfold(n, 3, n_repeats=2)
    feed = stream.Feed(
        X, y, folds.ids, folds.conditions, weight, None, capacity=80, stride=4, n_threads=n_threads, stream=0
    )
    order = index.Permutation(n, 5) if shuffled else None
    spans, slots = [(0, 80), (80, 160), (160, 200)], []
    for (first, last), found in zip(spans, feed.windows(spans, order, scores=False), strict=True):
        assert found[:2] == (first, last)
        slot, rows = found[2], np.arange(first, last) if order is None else order[first:last]
        slots.append(slot)
        held = slot.X.copy_to_host()[: 4 * len(rows)].reshape(-1, 4)
        np.testing.assert_array_equal(held[:, :p], X[rows])
        assert not held[:, p:].any()  # padding that is not finite would meet weights of 0
        np.testing.assert_array_equal(slot.y.copy_to_host()[: len(rows)], y[rows])
        np.testing.assert_array_equal(slot.weight.copy_to_host()[: len(rows)], weight[rows])
        wanted, n_words = roles.words(
            folds.ids[:, rows],
            folds.conditions,
            arrays.to_device(weight[rows]).flat,
            np.float32,
            scores=False,
            stream=0,
        )
        np.testing.assert_array_equal(slot.roles.copy_to_host()[: n_words * len(rows)], wanted.copy_to_host())
    assert slots[0] is slots[2] is not slots[1]


def test_lists_of_a_window() -> None:
    groups = [stream.Listed((0, 1), np.array([3, 1500, 1501, 5000])), stream.Listed((1, 3), np.array([2047, 2048]))]
    values, parts = stream.lists(groups, 1024, 3072)
    assert [(part.panels, part.n_chunks) for part in parts] == [((0, 1), 1), ((1, 3), 2)]
    assert [values[part.rows : part.chunks].tolist() for part in parts] == [[476, 477], [1023, 1024]]
    assert [values[part.chunks : part.end].tolist() for part in parts] == [[0, 2], [0, 1, 2]]
    assert stream.lists(groups, 3072, 4096)[1] == []


# -- memory ------------------------------------------------------------------------------------------------------------


def test_when_x_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stream.plan(10_000, 100, 400, 4_000_000, 1_000_000, 1000, None) is None
    monkeypatch.setattr(arrays, "free_memory", lambda: 6_000_000)
    assert stream.plan(10_000, 100, 400, 4_000_000, 1_000_000, 1000, None) is None  # a tenth is left
    assert stream.plan(10_000, 100, 400, 4_500_000, 1_000_000, 1000, None) == stream.Windows(55, 5500, 5120)
    assert stream.plan(10_000, 100, 400, 4_500_000, 1_000_000, 7, None) == stream.Windows(7, 700, 1024)
    assert stream.plan(10_000, 100, 400, 4_500_000, 1_000_000, 7, 5_000_000) is None
    monkeypatch.setattr(stream, "WINDOW_BYTES", 400_000)
    assert stream.plan(10_000, 100, 400, 4_500_000, 1_000_000, 1000, None) == stream.Windows(10, 1000, 1024)
    assert stream.plan(10_000, 2000, 400, 4_500_000, 1_000_000, 1000, None) == stream.Windows(1, 2000, 1024)


def test_a_batch_that_is_too_large() -> None:
    a = arguments(batch_size=20)
    with pytest.raises(
        DeviceMemoryError,
        match=r"two windows of 20 rows want 1.28 kB, and there are 700 bytes for them; batch_size up to 10 fits",
    ):
        train.Trainer(**a, memory_limit=700)
    with pytest.raises(
        DeviceMemoryError, match="want 1.28 kB, and there are 40 bytes for them; not even rows one by one fit"
    ):
        train.Trainer(**a, memory_limit=40)
    assert train.Trainer(**a | {"batch_size": 10}, memory_limit=700).reason.endswith("windows of 10 rows")


def test_memory_that_others_took_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """X fitted when the trainer was made, and streams when it begins."""
    a = arguments(n=200, p=2, m=3)
    trainer = train.Trainer(**a, path="persistent")
    assert trainer._data.windows is None
    models, X = trainer._data._model_bytes(trainer._data.n_panels), 200 * trainer._data._row_bytes(a["X"])
    monkeypatch.setattr(arrays, "free_memory", lambda: int((models + 0.7 * X) / (1 - stream.SPARE)))
    host = _core.train.Trainer(**a)
    host.advance()
    assert trainer.advance() == "done" and state(trainer) == state(host)
    assert "; X streams in windows of " in trainer.reason


def test_memory_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    a = arguments(n=20, p=2, m=9)
    trainer = train.Trainer(**a, path="tiled")
    for free, message in (
        (100, "the GPU has 100 bytes free, wanted .* kB; wanted fewer candidates at a time, or a smaller batch_size$"),
        (
            20_000,
            r"the GPU has 20 kB free, wanted .* kB; wanted fewer candidates at a time.*, or a smaller batch_size$",
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(arrays, "free_memory", lambda free=free: free)
            with pytest.raises(DeviceMemoryError, match=message):
                trainer.advance()
        assert trainer._lanes is None and not trainer._data.loaded
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "free_memory", lambda: 20_000)
        with pytest.raises(DeviceMemoryError, match="; wanted fewer candidates at a time"):
            train.Trainer(**a)
    host = _core.train.Trainer(**a)
    host.advance()
    assert trainer.advance() == "done" and state(trainer) == state(host)
