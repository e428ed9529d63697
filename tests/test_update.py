"""One update of a model's weights: sgd, adam, l1, l2 and the schedules, against hand computations and the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

import calls
import splits
from reference import update

DTYPES = [np.float32, np.float64]


def with_models(q, *, l1=0.0, l2=0.0, learning_rate=0.1, schedule="constant"):
    """The problem with the same hyper-parameters for every model; a sequence gives each its own."""
    m = q.n_models
    return calls.replace(
        q,
        l1=np.broadcast_to(np.float64(l1), m).copy(),
        l2=np.broadcast_to(np.float64(l2), m).copy(),
        learning_rate=np.broadcast_to(np.float64(learning_rate), m).copy(),
        schedule=[schedule] * m if isinstance(schedule, str) else list(schedule),
    )


def one_step(q, solver, **options):
    return calls.train(q, solver=solver, epochs=1, batch_size=len(q.X), **options)


def test_reference_adam_by_hand():
    """Two steps with gradients 2 and -1 in exact arithmetic: the corrections cancel in the first one."""
    adam = update.Adam(1)
    w = adam.step(np.zeros(1), np.array([2.0]), 0.1, 0.0)
    np.testing.assert_allclose(w, -0.1 * 2 / (2 + 1e-8), rtol=1e-14)
    w = adam.step(w, np.array([-1.0]), 0.1, 0.0)
    m, v = 0.9 * 0.2 - 0.1, 0.999 * 0.004 + 0.001
    expected = -0.1 * 2 / (2 + 1e-8) - 0.1 * (m / 0.19) / (math.sqrt(v / (1 - 0.999**2)) + 1e-8)
    np.testing.assert_allclose(w, expected, rtol=1e-13)


def test_reference_proximal_step_minimises_its_objective():
    """Soft thresholding is the minimiser of (w - a)^2 / 2 + tau |w|; look for it on a grid."""
    grid = np.linspace(-3, 3, 60_001)
    for a in (-2.0, -0.31, 0.0, 0.2, 0.3, 1.7):
        best = grid[np.argmin(0.5 * (grid - a) ** 2 + 0.3 * np.abs(grid))]
        np.testing.assert_allclose(update.soft_threshold(np.array(a), 0.3), best, atol=1e-4)


def test_reference_cosine_by_hand():
    rates = [update.learning_rate("cosine", 0.8, t, 4) for t in range(5)]
    np.testing.assert_allclose(rates, [0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5)), 0], atol=1e-16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_first_sgd_step_is_the_mean_gradient(each_level, dtype):
    """From weights w: w - lr (mean gradient + l2 w), the intercept without l2."""
    q = with_models(calls.problem(1, n=300, p=7, m=9, dtype=dtype), l2=0.05, learning_rate=0.3)
    _, grad_W, grad_intercept = calls.loss_gradient(q)
    t = one_step(q, "sgd", warm=True)
    tolerance = {"rtol": 20 * np.finfo(dtype).eps, "atol": 20 * np.finfo(dtype).eps}
    np.testing.assert_allclose(t.coef, (q.W - 0.3 * (grad_W + 0.05 * q.W)).T, **tolerance)
    np.testing.assert_allclose(t.intercept, q.intercept - 0.3 * grad_intercept, **tolerance)
    assert t.steps.tolist() == [1] * 9


@pytest.mark.parametrize("dtype", DTYPES)
def test_first_adam_step_is_the_learning_rate(each_level, dtype):
    """From moments of 0 the two corrections cancel: every coordinate moves by lr g / (|g| + 1e-8)."""
    q = with_models(calls.problem(2, n=300, p=7, m=9, dtype=dtype), learning_rate=0.01)
    at_zero = calls.replace(q, W=np.zeros_like(q.W), intercept=np.zeros_like(q.intercept))
    _, g, g_intercept = (None if a is None else a.astype(np.float64) for a in calls.loss_gradient(at_zero))
    t = one_step(q, "adam")
    rtol = 200 * np.finfo(dtype).eps  # 1 - 0.999 has lost three digits by the time it is rounded to float32
    np.testing.assert_allclose(t.coef, (-0.01 * g / (np.abs(g) + 1e-8)).T, rtol=rtol)
    np.testing.assert_allclose(t.intercept, -0.01 * g_intercept / (np.abs(g_intercept) + 1e-8), rtol=rtol)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_l1_gives_plus_zero_inside_and_moves_by_tau_outside(each_level, solver, dtype):
    q = with_models(calls.problem(3, n=300, p=40, m=5, dtype=dtype), learning_rate=0.1)
    free = one_step(q, solver)
    tau_per_l1 = 0.1
    if solver == "adam":  # s/d of the first step; s holds the correction of the first moment, 1 / (1 - 0.9)
        at_zero = calls.replace(q, W=np.zeros_like(q.W), intercept=np.zeros_like(q.intercept))
        tau_per_l1 = 0.1 / (1 - 0.9) / (np.abs(calls.loss_gradient(at_zero)[1].T.astype(np.float64)) + 1e-8)
    l1 = float(np.median(np.abs(free.coef) / tau_per_l1))
    t = one_step(with_models(q, l1=l1, learning_rate=0.1), solver)
    want = update.soft_threshold(free.coef.astype(np.float64), tau_per_l1 * l1)
    clear = np.abs(np.abs(free.coef) - tau_per_l1 * l1) > 1e-4 * tau_per_l1 * l1  # rounding cannot flip the comparison
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(t.coef[clear], want[clear], rtol=2e3 * eps, atol=1e2 * eps)
    inside = clear & (want == 0)
    assert inside.sum() > 20 and (clear & ~inside).sum() > 20
    assert not t.coef[inside].any() and not np.signbit(t.coef[inside]).any()
    assert t.intercept.tobytes() == free.intercept.tobytes(), "the intercept is not penalised"


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_huge_penalty_leaves_the_intercept_alone(solver):
    q = with_models(calls.problem(4, n=200, p=6, m=3), l1=1e6)
    t = calls.train(q, solver=solver, epochs=3, batch_size=50)
    assert not t.coef.any() and t.intercept.all()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_intercept_alone_follows_the_schedule(each_level, schedule):
    """With one column of zeros and squared error, sgd contracts the intercept towards the mean by (1 - lr_t)."""
    n, epochs, rate = 64, 9, 0.3
    rng = np.random.default_rng(5)
    X, y = np.zeros((n, 1)), rng.standard_normal(n) + 2
    of_rows = splits.Splits(splits.narrowest(np.zeros(n, int)), splits.conditions([[(0, 1, 2, 0, 1)]]))
    q = calls.Problem(
        X=X, y=y, sample_weight=None, splits=of_rows, split_of_model=np.zeros(1, np.int64), loss="squared_error",
        W=np.zeros((1, 1)), intercept=np.zeros(1),
    )
    q = with_models(q, learning_rate=rate, schedule=schedule)
    t = calls.train(q, epochs=epochs, batch_size=n)
    rates = [rate * (1 + math.cos(math.pi * e / epochs)) / 2 if schedule == "cosine" else rate for e in range(epochs)]
    np.testing.assert_allclose(t.intercept[0], y.mean() * (1 - np.prod([1 - r for r in rates])), rtol=1e-12)
    np.testing.assert_allclose(t.coef, 0)


def test_cosine_counts_the_models_own_updates_over_a_common_horizon():
    """A model that trains in one batch of four takes its e-th update at rate e of a horizon of 4 * epochs."""
    n, epochs, rate = 64, 5, 0.4
    rng = np.random.default_rng(6)
    X, y = np.zeros((n, 1)), rng.standard_normal(n) + 2
    ids = np.where(np.arange(n) // 16 == 2, 0, 1)  # only the third batch of 16 trains
    of_rows = splits.Splits(splits.narrowest(ids), splits.conditions([[(0, 1, 2, 0, 1)]]))
    q = calls.Problem(
        X=X, y=y, sample_weight=None, splits=of_rows, split_of_model=np.zeros(1, np.int64), loss="squared_error",
        W=np.zeros((1, 1)), intercept=np.zeros(1),
    )
    q = with_models(q, learning_rate=rate, schedule="cosine")
    t = calls.train(q, epochs=epochs, batch_size=16, shuffle=False)
    assert t.steps.tolist() == [epochs]
    kept = np.prod([1 - rate * (1 + math.cos(math.pi * e / (4 * epochs))) / 2 for e in range(epochs)])
    np.testing.assert_allclose(t.intercept[0], y[32:48].mean() * (1 - kept), rtol=1e-12)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_batch_without_a_training_row_changes_nothing(each_level, solver):
    """No decay, no proximal step, no moment, no bias correction: the batches might as well not be there."""
    q = calls.problem(7, n=96, p=5, m=6, kind="holdout", weights="ones")
    ids = np.where(np.arange(96) % 48 < 32, 1, 0)  # batches of 16: score score train, score score train
    q = calls.replace(q, splits=splits.Splits(splits.narrowest(ids), splits.conditions([[(0, 1, 2, 0, 1)]])))
    q = with_models(q, l1=0.01, l2=0.3, learning_rate=0.1)
    t = calls.train(q, solver=solver, epochs=4, batch_size=16, shuffle=False, warm=True)
    rows = np.flatnonzero(ids == 0)
    few = calls.replace(
        q, X=q.X[rows].copy(), y=q.y[rows].copy(), sample_weight=q.sample_weight[rows].copy(),
        splits=splits.Splits(splits.narrowest(np.zeros(32, int)), q.splits.conditions),
    )
    same = calls.train(few, solver=solver, epochs=4, batch_size=16, shuffle=False, warm=True)
    assert t.steps.tolist() == [8] * 6
    assert [t.weights_of(k) for k in range(6)] == [same.weights_of(k) for k in range(6)]
