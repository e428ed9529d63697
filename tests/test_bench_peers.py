"""The peers of `gradfold bench` do the same work as our kernels, and both sides are timed in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradfold import _bench_peers, _bench_timing, _core, index, loss, metrics
from gradfold._bench_problems import Dense, Grid, Multinomial, Points, Predictions, Rows

N = 2 * _bench_peers.BLOCK + 37  # rows of two whole blocks and a part


def _sum_gradient(q: Dense) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ours, poisoned beforehand; from means over training rows to sums."""
    for out in (q.loss, q.grad, q.grad_intercept):
        out.fill(np.nan)
    q.gradient(True, 2)
    count = q.train_mask().sum(axis=0, dtype=np.float64)
    return q.loss * count, q.grad * count, q.grad_intercept * count


def _same(found: Any, wanted: np.ndarray, rtol: float = 2e-4) -> None:
    found = np.asarray(found)
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= rtol * np.linalg.norm(wanted)


@pytest.mark.parametrize("loss", [False, True])
def test_numpy_gradient(loss: bool) -> None:
    q = Dense(Rows(N, 13), 7)
    wanted = _sum_gradient(q)
    found = _bench_peers.numpy_blocks(q.X, q.y, q.W, q.train_mask(), loss)()
    assert len(found) == 2 + loss
    _same(found[0], wanted[1])
    _same(found[1], wanted[2])
    if loss:
        _same(found[2], wanted[0])


@pytest.mark.parametrize("loss", [False, True])
def test_torch_gradient(loss: bool) -> None:
    pytest.importorskip("torch")
    q = Dense(Rows(N, 13), 7)
    wanted = _sum_gradient(q)
    found = _bench_peers.torch_blocks(q.X, q.y, q.W, q.train_mask(), 1, loss)()
    for mine, theirs in zip((wanted[1], wanted[2], wanted[0]), found):
        _same(theirs, mine)


@pytest.mark.parametrize("loss", [False, True])
def test_jax_gradient(loss: bool) -> None:
    pytest.importorskip("jax")
    q = Dense(Rows(N, 13), 7)
    wanted = _sum_gradient(q)
    found = _bench_peers.jax_vmap(q.X, q.y, q.W, q.train_mask(), loss)()
    value, (grad, intercept) = found if loss else (None, found)
    _same(np.asarray(grad).T, wanted[1])
    _same(intercept, wanted[2])
    if loss:
        _same(value, wanted[0])


def test_torch_vmap_gradient() -> None:
    pytest.importorskip("torch")
    q = Dense(Rows(N, 13), 7)
    wanted = _sum_gradient(q)
    grad, intercept = _bench_peers.torch_vmap(q.X, q.y, q.W, q.train_mask(), 1)()
    _same(np.asarray(grad).T, wanted[1])
    _same(intercept, wanted[2])


def test_sklearn_linear_gradient() -> None:
    q = Dense(Rows(N, 13), 7)
    _sum_gradient(q)
    found = np.array(_bench_peers.sklearn_linear_loss(q.X, q.y, q.W, q.train_mask(), 1)())
    _same(found[:, :-1].T, q.grad)
    _same(found[:, -1], q.grad_intercept)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["log_loss", "squared_error", "multinomial"])
def test_sklearn_loss(name: str, dtype: str) -> None:
    """At the same raw predictions as ours, which are means over rows of sums over one feature."""
    q = Points(name, dtype)
    for out in (q.losses, q.grad, q.grad_intercept):
        out.fill(np.nan)
    q.loss_gradient(2)
    n_rows, n_models = len(q.X), q.W.shape[-1]
    rtol = 2e-4 if dtype == "float32" else 1e-10
    y, raw = q.flat()
    values, gradients = _bench_peers.sklearn_loss(name, y, raw, "loss_gradient", 1)()
    assert gradients.dtype == dtype
    _same(values.reshape(n_rows, n_models).mean(axis=0, dtype=np.float64), q.losses, rtol)
    each = gradients.reshape(n_rows, n_models, *gradients.shape[1:]).astype(np.float64)
    _same(each.mean(axis=0).T.reshape(q.grad_intercept.shape), q.grad_intercept, rtol)
    _same(np.tensordot(q.X[:, 0], each, 1).T.reshape(q.grad.shape) / n_rows, q.grad, rtol)


@pytest.mark.parametrize("name", ["log_loss", "squared_error"])
def test_sklearn_curvature(name: str) -> None:
    y, raw = Points(name, "float64").flat()
    found = _bench_peers.sklearn_loss(name, y, raw, "gradient_hessian", 1)()
    for mine, theirs in zip(loss.get(name).gradient_hessian(y, raw), found):
        _same(np.broadcast_to(theirs, raw.shape), mine, 1e-10)


@pytest.mark.parametrize("name", ["log_loss", "squared_error"])
def test_no_tree_of_lightgbm_grows(name: str) -> None:
    """Else its time would not be that of the objective alone."""
    pytest.importorskip("lightgbm")
    y, raw = Points(name, "float32").flat()
    update = _bench_peers.lightgbm_objective(name, y, raw, 1)
    assert all(update() for _ in range(3))  # True: there was nothing to split
    assert update.__self__.num_trees() <= 1
    assert update.__self__.trees_to_dataframe()["split_feature"].isna().all()


def test_numpy_multinomial_gradient() -> None:
    q = Multinomial(N, 11)
    q.grad.fill(np.nan)
    q.gradient(2)
    count = q.train_mask().sum(axis=0, dtype=np.float64)
    _same(_bench_peers.numpy_softmax(q.X, q.y, q.W, q.train_mask())(), q.grad * count)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_numpy_epochs(solver: str) -> None:
    """In one batch of all rows the order of the rows does not matter."""
    grid = Grid(500, 6, 3)
    grid.batch_size = 500
    trainer = grid.trainer(_core.train.Trainer, solver, 4, 1)
    assert trainer.advance() == "done"
    epoch = _bench_peers.numpy_epoch(grid.X, grid.y, grid.train_mask(), grid.l2, solver, 500, grid.learning_rate)
    for wanted in trainer.history():
        np.testing.assert_allclose(epoch(), wanted, rtol=1e-5)


def test_sklearn_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import SGDClassifier

    fitted = []
    plain = SGDClassifier.partial_fit

    def partial_fit(self: Any, X: Any, y: Any, classes: Any) -> Any:
        fitted.append((X.shape, sorted(classes), plain(self, X, y, classes=classes).t_))
        return self

    monkeypatch.setattr(SGDClassifier, "partial_fit", partial_fit)
    grid = Grid(60, 3, 2)
    _bench_peers.sklearn_epoch(grid.X, grid.y, 3, 2)()
    assert fitted == [((48, 3), [0.0, 1.0], 49.0)] * 3  # t_ begins at 1 and counts rows


@pytest.mark.parametrize("kind", ["kfold", "stratified_kfold", "group_kfold", "stratified_group_kfold"])
def test_sklearn_splits(kind: str) -> None:
    rng = np.random.default_rng(2)
    y, groups = rng.integers(0, 3, 200), rng.integers(0, 40, 200)
    splits = _bench_peers.sklearn_splits(kind, 200, y, groups if "group" in kind else None)
    test = np.concatenate([test for _, test in splits()])
    assert sorted(test.tolist()) == list(range(200))


@pytest.mark.parametrize("name", ["accuracy", "f1", "log_loss", "roc_auc", "average_precision"])
def test_sklearn_metrics(name: str) -> None:
    q = Predictions(300, 4)
    metric = _bench_peers.sklearn_metric(name, q.y, q.weight)
    wanted = metrics.evaluate(name, q.y, q.raw, loss="log_loss", sample_weight=q.weight)
    np.testing.assert_allclose([metric(column) for column in q.raw.T.astype(np.float64)], wanted, rtol=1e-6)


def test_permutations() -> None:
    assert sorted(_bench_peers.numpy_permutation(50)()) == sorted(index.Permutation(50, 1)[:])


def test_threads_of_blas() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with _bench_peers.blas_threads(1) as held:
        pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    assert held and set(pools) <= {1}


def test_without_threadpoolctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bench_peers.importlib.util, "find_spec", lambda name: None)
    with _bench_peers.blas_threads(1) as held:
        assert not held


# ---- timing --------------------------------------------------------------------------------------------------------


class _Clock:
    """Bodies take the time they say, and nothing else takes any."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.seen: list[str] = []
        monkeypatch.setattr(_bench_timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(_bench_timing.time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.seen.append(f"sleep {seconds}")
        self.now += seconds

    def body(self, name: str, *seconds: float) -> Callable[[], None]:
        took = iter(seconds)

        def run() -> None:
            self.seen.append(name)
            self.now += next(took)

        return run


def test_sides_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    ours = clock.body("ours", 50, 2, 50, 4, 50, 1)  # each second call counts
    theirs = clock.body("theirs", 70, 6, 70, 4, 70, 5)
    found = _bench_timing.beside(ours, [theirs], 3, pause=0.5)
    assert found.seconds == 2 and found.ratios == [3.0]  # medians of 2, 4, 1 and of 3, 1, 5
    assert clock.seen == ["theirs", "theirs", "sleep 0.5", "ours", "ours"] * 3


def test_a_side_runs_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as a processor that has slept takes to wake up, whatever a body takes."""
    clock = _Clock(monkeypatch)
    found = _bench_timing.beside(clock.body("ours", 0.02, 0.02, 0.02, 1.0), [], 1)
    assert found.seconds == 1.0 and len(clock.seen) == 4


def test_short_bodies_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    found = _bench_timing.beside(clock.body("ours", 1, 0.005, 0.001, 0.002, 0.002, 0.004), [], 1)
    assert found.seconds == pytest.approx(0.002) and found.ratios == [] and len(clock.seen) == 6


def test_no_round_begins_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    found = _bench_timing.beside(clock.body("ours", *[1.0] * 20), [], 9, most=3.0)
    assert found.seconds == 1 and len(clock.seen) == 4  # two rounds of two calls, which end at 4


def test_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    assert _bench_timing.ratio(clock.body("theirs", 9, 8), clock.body("ours", 1, 2), 1) == 4
    assert _bench_timing.median_seconds(clock.body("one", 1, 5, 3), 3) == 3
