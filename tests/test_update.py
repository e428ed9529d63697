"""One update of a model's weights: solvers, penalties, schedules, clipping and averages.

Against hand computations, the float64 reference, torch.optim and scikit-learn; then the promises in bytes.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import calls
import splits
from gradfold import _core
from gradfold.index import Permutation
from reference import train as reference
from reference import update
from reference.roles import TRAIN
from test_promises import LEVELS, POISONS, assert_same, poison, same_split

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
    adam = update.Solver("adam", 1)
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


# ---- every solver, schedule, clip and average against the reference ----------------------------------------------


def with_everything(q, seed, *, schedule=None, average=None):
    """The problem with every hyper-parameter drawn for each model; every other model clips by norm, by value, averages."""
    rng = np.random.default_rng(seed)
    m = q.n_models

    def some(values):
        return np.where(rng.random(m) < 0.5, values, np.inf)

    return calls.replace(
        q,
        l2=10 ** rng.uniform(-3, -1, m),
        schedule=[schedule] * m if schedule else [str(s) for s in rng.choice(update.SCHEDULES, m)],
        hyper={
            "momentum": rng.choice([0.0, 0.5, 0.9, 0.99], m),
            "beta1": rng.choice([0.0, 0.8, 0.9], m),
            "beta2": rng.choice([0.9, 0.99, 0.999], m),
            "epsilon": rng.choice([1e-8, 1e-4, 0.1], m),
            "rho": rng.choice([0.0, 0.9, 0.99], m),
            "weight_decay": rng.choice([0.0, 0.01, 0.3], m),
            "clip_norm": some(10 ** rng.uniform(-2, -0.5, m)),
            "clip_value": some(10 ** rng.uniform(-2, -0.5, m)),
            "average": (rng.choice([0.0, 0.0, 1.0, 2.0, 5.0, 1000.0], m) if average is None else np.full(m, float(average))),
            "power_t": rng.choice([0.0, 0.25, 0.5, 1.0], m),
            "decay": rng.choice([0.5, 0.9, 1.0, 1.1], m),
            "decay_epochs": rng.choice([0.5, 1.0, 1.5, 10.0], m),
            "warmup": rng.choice([0.0, 0.0, 0.3, 2.0], m),
            "t0": rng.choice([0.5, 1.0, 30.0], m),
        },
    )


def expected(q, *, solver, epochs, batch_size, standardize=False, fit_intercept=True, shuffle=True):
    return reference.train(
        q.X, q.y, roles=q.model_roles(), sample_weight=q.sample_weight, loss=q.loss, solver=solver, l1=q.l1, l2=q.l2,
        learning_rate=q.learning_rate, schedule=q.schedule, hyper=q.hyper, epochs=epochs, batch_size=batch_size,
        order=(lambda epoch: Permutation(len(q.X), 7, epoch=epoch)[:]) if shuffle else None, standardize=standardize,
        fit_intercept=fit_intercept,
    )


def check(q, rtol, **options):
    got, want = calls.train(q, **options), expected(q, **options)
    np.testing.assert_array_equal(got.steps, want.steps)
    np.testing.assert_array_equal(got.diverged_epoch, want.diverged_epoch)
    # A coefficient near 0 is a difference of larger terms: its error is relative to the model's largest, or to one step.
    size = np.maximum(np.maximum(np.abs(want.coef).max(axis=1), np.abs(want.intercept)), 0.01)[:, None]
    error = np.abs(np.c_[got.coef, got.intercept] - np.c_[want.coef, want.intercept]) / size
    assert error.max() <= rtol, f"{error.max():.1e}, model {error.max(axis=1).argmax()}"
    np.testing.assert_allclose(got.history, want.history, rtol=100 * rtol, atol=rtol)
    return got


# float64: some fifteen steps of sums that differ from NumPy's in the last bits, 2^-53 each. What divides by the root of
# squared gradients multiplies the error of a gradient near 0 by up to its size over epsilon.
RTOL = {"sgd": 1e-12, "momentum": 1e-11, "nesterov": 1e-11}


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("schedule", update.SCHEDULES)
@pytest.mark.parametrize("solver", update.SOLVERS)
def test_against_the_reference(solver, schedule, standardize):
    q = calls.problem(71, n=90, p=6, m=24, kind="kfold")
    q = with_everything(q, 5, schedule=schedule)
    check(q, RTOL.get(solver, 1e-9), solver=solver, epochs=3, batch_size=20, standardize=standardize)


@pytest.mark.parametrize("solver", update.SOLVERS)
def test_against_the_reference_in_float32(each_level, solver):
    """2^-24 a rounding, and the thresholds of l1 and of clipping are met within that."""
    q = with_everything(calls.problem(72, n=200, p=6, m=24, dtype=np.float32), 6)
    check(q, 1e-3, solver=solver, epochs=2, batch_size=32)


@pytest.mark.parametrize("p", [257, 700])
@pytest.mark.parametrize("batch_size", [64, 1100])
def test_norms_over_many_features_and_large_batches(each_level, p, batch_size):
    """More than one chunk of features; sums of more than one chunk of rows arrive as float64 totals."""
    n = 100 if batch_size == 64 else 2200
    q = with_everything(calls.problem(73, n=n, p=p if n == 100 else 257, m=9, loss="squared_error"), 7)
    q.hyper["clip_norm"] = np.linspace(0.05, 0.4, 9)
    check(q, 1e-10, solver="sgd", epochs=1, batch_size=batch_size)
    check(q, 1e-9, solver="adamw", epochs=1, batch_size=batch_size, fit_intercept=False, standardize=True)


def test_the_norm_is_that_of_features_and_intercept():
    """One sgd step of rate 1 from 0 is the clipped gradient: its norm is clip_norm, its direction stays."""
    q = with_models(calls.problem(74, n=60, p=300, m=3, loss="squared_error"), learning_rate=1.0)
    free = one_step(q, "sgd")
    step = np.c_[free.coef, free.intercept]
    norm = np.linalg.norm(step, axis=1)
    q.hyper["clip_norm"] = np.array([norm[0] / 3, norm[1] * 1.001, norm[2] / 1e3])
    clipped = one_step(q, "sgd")
    got = np.c_[clipped.coef, clipped.intercept]
    np.testing.assert_allclose(np.linalg.norm(got[[0, 2]], axis=1), q.hyper["clip_norm"][[0, 2]], rtol=1e-14)
    np.testing.assert_allclose(got[0] * 3, step[0], rtol=1e-13)
    assert got[1].tobytes() == step[1].tobytes(), "a norm below the limit clips nothing"


# ---- torch.optim ---------------------------------------------------------------------------------------------------

TORCH = {
    "sgd": ("SGD", {}, {}),
    "momentum": ("SGD", {"momentum": 0.8}, {"momentum": 0.8}),
    "nesterov": ("SGD", {"momentum": 0.8, "nesterov": True}, {"momentum": 0.8}),
    "adagrad": ("Adagrad", {}, {}),
    "rmsprop": ("RMSprop", {"alpha": 0.95}, {"rho": 0.95}),
    "adam": ("Adam", {"betas": (0.85, 0.99)}, {"beta1": 0.85, "beta2": 0.99}),
    "adamw": ("AdamW", {}, {"weight_decay": 0.05}),
}


@pytest.fixture
def torch():
    """torch on one thread: on tensors this small, more of them only wait for each other."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
@pytest.mark.parametrize("penalty", [0.0, 0.03])
@pytest.mark.parametrize("solver", update.SOLVERS)
def test_torch_optim_takes_the_same_200_steps(torch, solver, penalty, loss):
    """The same batches in float64: every weight within 1e-10 of torch's own optimiser, defaults being its defaults."""
    n, batch_size, epochs = 200, 20, 20
    q = calls.problem(75, n=n, p=12, m=2, loss=loss, weights="none", kind="kfold")
    name, options, hyper = TORCH[solver]
    hyper = {key: np.full(2, value) for key, value in hyper.items()}
    q = calls.replace(with_models(q, l2=penalty, learning_rate=0.02), hyper=hyper)
    got = calls.train(q, solver=solver, epochs=epochs, batch_size=batch_size)
    assert got.steps.tolist() == [200, 200]
    trains = q.model_roles() == TRAIN
    X, y = torch.from_numpy(q.X), torch.from_numpy(q.y)
    for k in range(2):
        w = torch.zeros(12, dtype=torch.float64, requires_grad=True)
        b = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        decay = 0.05 if solver == "adamw" else penalty
        optimiser = getattr(torch.optim, name)(
            [{"params": [w], "weight_decay": decay}, {"params": [b], "weight_decay": 0.0}], lr=0.02, **options
        )
        for epoch in range(epochs):
            order = Permutation(n, 7, epoch=epoch)[:]
            for start in range(0, n, batch_size):
                rows = torch.from_numpy(order[start : start + batch_size][trains[k][order[start : start + batch_size]]])
                optimiser.zero_grad()
                z = X[rows] @ w + b
                if loss == "squared_error":
                    value = (0.5 * (y[rows] - z) ** 2).mean()
                else:
                    value = torch.nn.functional.binary_cross_entropy_with_logits(z, y[rows])
                if solver == "adamw":
                    value = value + 0.5 * penalty * (w * w).sum()
                value.backward()
                optimiser.step()
        np.testing.assert_allclose(got.coef[k], w.detach().numpy(), rtol=1e-10, atol=0)
        np.testing.assert_allclose(got.intercept[k], b.item(), rtol=1e-10)


# ---- scikit-learn's SGDClassifier and SGDRegressor ---------------------------------------------------------------


@pytest.mark.parametrize("average", [False, True, 37])
@pytest.mark.parametrize("schedule", ["constant", "inverse_scaling", "optimal"])
@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
def test_schedules_and_averages_are_scikit_learns(loss, schedule, average):
    """Row by row in order with l2: the same weights, and the same average from the same update on."""
    from sklearn.linear_model import SGDClassifier, SGDRegressor

    q = calls.problem(76, n=150, p=6, m=1, loss=loss, weights="none", kind="holdout")
    rows = q.model_roles()[0] == TRAIN
    # optimal's first rate is alpha^(-1/4), which a regression survives only with a large alpha
    alpha = 20.0 if (loss, schedule) == ("squared_error", "optimal") else 0.01
    name = {"inverse_scaling": "invscaling"}.get(schedule, schedule)
    common = dict(
        penalty="l2", alpha=alpha, learning_rate=name, eta0=0.04, power_t=0.4, shuffle=False, max_iter=3, tol=None,
        average=average,
    )
    peer = SGDClassifier(loss="log_loss", **common) if loss == "log_loss" else SGDRegressor(**common)
    peer.fit(q.X[rows], q.y[rows])
    q = calls.replace(
        with_models(q, l2=alpha, learning_rate=0.04, schedule=schedule),
        hyper={"power_t": np.array([0.4]), "average": np.array([float(average)])},
    )
    got = calls.train(q, epochs=3, batch_size=1, shuffle=False)
    assert np.isfinite(peer.coef_).all()
    np.testing.assert_allclose(got.coef[0], peer.coef_.ravel(), rtol=1e-9)
    np.testing.assert_allclose(got.intercept[0], peer.intercept_[0], rtol=1e-9)


# ---- averages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_the_average_is_that_of_the_weights_after_each_update(solver, standardize):
    """Training goes on with the weights themselves: their own average is what the averaging model returns."""
    q = with_models(calls.problem(77, n=100, p=5, m=2, kind="holdout"), l2=0.01, learning_rate=[0.05, 0.05])
    q = calls.replace(q, split_of_model=np.zeros(2, np.int64), hyper={"average": np.array([0.0, 4.0])})
    t = calls.trainer(q, solver=solver, epochs=3, batch_size=10, standardize=standardize)
    seen, steps = [], 0
    while t.advance(max_steps=1) != "done":
        if t.steps()[0] > steps:
            steps = t.steps()[0]
            seen.append(np.append(t.coef()[0], t.intercept()[0]))
        want = np.mean(seen[3:], axis=0) if steps >= 4 else seen[-1]
        np.testing.assert_allclose(np.append(t.coef()[1], t.intercept()[1]), want, rtol=1e-12)
    assert steps > 20
    assert t.coef()[1].tobytes() != t.coef()[0].tobytes()
    assert (t.history()[:, 1] != t.history()[:, 0]).all()


def test_an_average_that_never_begins_is_the_weights():
    q = calls.problem(78, n=100, p=5, m=6)
    never = calls.replace(q, hyper={"average": np.full(6, 2.0**53)})
    for standardize in (False, True):
        options = {"solver": "adam", "standardize": standardize}
        assert calls.train(never, **options).bytes() == calls.train(q, **options).bytes()


# ---- divergence in whatever a solver keeps -------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adagrad", "rmsprop", "adam", "adamw"])
def test_squares_that_overflow_diverge_though_weights_stay_finite(each_level, solver):
    q = with_models(calls.problem(79, n=60, p=4, m=5, dtype=np.float32, loss="squared_error"), learning_rate=0.01)
    t = calls.train(calls.replace(q, X=q.X * np.float32(1e25)), solver=solver, epochs=2, batch_size=16)
    assert (t.diverged_epoch == 0).all() and (t.diverged_batch == 0).all() and not t.steps.any()
    assert not t.coef.any() and not t.intercept.any()


@pytest.mark.parametrize("clip", ["clip_norm", "clip_value"])
@pytest.mark.parametrize("solver", update.SOLVERS)
def test_clipping_does_not_hide_an_infinite_gradient(each_level, solver, clip):
    q = with_models(calls.problem(80, n=60, p=4, m=5, loss="squared_error", weights="none"), learning_rate=0.01)
    X = q.X.copy()
    X[:, 1] = 1e200  # times residuals of the same size
    q = calls.replace(q, X=X, y=q.y * 1e200, hyper={clip: np.full(5, 0.5)})
    t = calls.train(q, solver=solver, epochs=2, batch_size=16)
    assert (t.diverged_epoch == 0).all() and not t.steps.any() and not t.coef.any()


def test_a_norm_that_overflows_diverges_and_does_not_stop_its_model(each_level):
    """A gradient of 1e170 is finite, its square is not; beside it, a model that does not clip goes on."""
    q = with_models(calls.problem(81, n=60, p=4, m=2, loss="squared_error", weights="none"), learning_rate=1e-200)
    q = calls.replace(q, y=q.y * 1e170, hyper={"clip_norm": np.array([1.0, np.inf])})
    t = calls.train(q, epochs=1, batch_size=16)
    assert t.diverged_epoch.tolist() == [0, -1] and t.steps[0] == 0 and t.coef[1].any()


def test_an_average_that_overflows_diverges(each_level):
    """The intercept swings between -3e38 and 3e38: each is finite, their difference is not."""
    of_rows = splits.Splits(splits.narrowest(np.array([0, 1])), splits.conditions([[(0, 1, 2, 0, 2)]]))
    q = calls.Problem(
        X=np.zeros((2, 1), np.float32), y=np.zeros(2, np.float32), sample_weight=None, splits=of_rows,
        split_of_model=np.zeros(2, np.int64), loss="squared_error", W=np.zeros((1, 2), np.float32),
        intercept=np.full(2, -3e38, np.float32),
    )
    q = calls.replace(with_models(q, learning_rate=2.0), hyper={"average": np.array([0.0, 1.0])})
    t = calls.train(q, epochs=4, batch_size=2, warm=True)
    assert t.diverged_epoch.tolist() == [-1, 1] and t.steps.tolist() == [4, 1]
    np.testing.assert_allclose(t.intercept, [-3e38, 3e38], rtol=1e-6)


# ---- the promises in bytes, with everything at once ----------------------------------------------------------------

WITH = pytest.mark.parametrize(
    ("solver", "standardize", "dtype"),
    [(solver, standardize, dtype) for solver in update.SOLVERS for standardize in (False, True) for dtype in DTYPES],
)


def everything(solver, standardize, dtype, *, n=150, p=7, m=21):
    """Models of five folds that share nothing but the data, some of which diverge."""
    q = with_everything(calls.problem(81, n=n, p=p, m=m, dtype=dtype), 8)
    wild = np.arange(m) % 6 == 5
    q = calls.replace(q, learning_rate=np.where(wild, 1e30, q.learning_rate))
    return q, {"solver": solver, "standardize": standardize, "epochs": 3, "batch_size": 32, "warm": True}


@WITH
def test_solo_is_batched(solver, standardize, dtype):
    q, options = everything(solver, standardize, dtype)
    together = calls.train(q, **options).bytes()
    for k in range(q.n_models):
        assert_same(calls.train(q.of_models([k]), **options).bytes(), [together[k]], f"alone, {k}")
    some = [20, 3, 8, 0, 13]
    assert_same(calls.train(q.of_models(some), **options).bytes(), [together[k] for k in some], "in other company")
    # Beside models that need none of it, so that the same model runs with and without clipping and averages.
    plain = calls.replace(q, hyper={key: np.full(q.n_models, float(update.hyper_of(solver, {})[key])) for key in q.hyper})
    bare = calls.replace(q, hyper={})
    assert_same(calls.train(plain, **options).bytes(), calls.train(bare, **options).bytes(), "with the defaults named")
    mixed = {key: np.append(plain.hyper[key][:1], q.hyper[key][1:]) for key in q.hyper}
    alone = calls.train(bare.of_models([0]), **options).bytes()
    assert_same(calls.train(calls.replace(q, hyper=mixed), **options).bytes()[:1], alone, "beside models that clip")


@WITH
def test_threads(solver, standardize, dtype):
    for q, options in (
        everything(solver, standardize, dtype, n=2500, p=40, m=37),
        everything(solver, standardize, dtype, n=300, p=2500, m=5),
    ):
        for batch_size in (100, 1500):
            runs = [calls.train(q, n_threads=k, **options | {"batch_size": batch_size, "epochs": 1}) for k in (1, 2, 7)]
            assert_same(runs[1].bytes(), runs[0].bytes(), "on 2 threads")
            assert_same(runs[2].bytes(), runs[0].bytes(), "on 7 threads")


@WITH
def test_levels(solver, standardize, dtype):
    for shape in ({"m": 4}, {"m": 21}, {"m": 50, "p": 300, "n": 60}):
        q, options = everything(solver, standardize, dtype, **shape)
        got = {}
        for name in LEVELS:
            with calls.level(name):
                got[name] = calls.train(q, **options).bytes()
        for name in LEVELS[1:]:
            assert_same(got[name], got[LEVELS[0]], name)


@WITH
@pytest.mark.parametrize("how", sorted(POISONS))
def test_no_leak(solver, standardize, dtype, how):
    q, options = everything(solver, standardize, dtype)
    clean = calls.train(q, **options)
    for model in (0, 4):
        poisoned = poison(q, model, how, seed=3)
        for name in LEVELS:
            with calls.level(name):
                got = calls.train(poisoned, **options)
            for k in same_split(q, model):
                assert_same([got.weights_of(k)], [clean.weights_of(k)], name)


def test_these_models_do_step_and_some_diverge():
    """The tests above would hold for models that never moved."""
    for solver in update.SOLVERS:
        q, options = everything(solver, False, np.float64)
        t = calls.train(q, **options)
        start = calls.train(calls.replace(q, learning_rate=np.zeros(21), schedule=["constant"] * 21, l1=np.zeros(21)), **options)
        assert (t.steps >= 1).sum() >= 15
        assert sum(a.tobytes() != b.tobytes() for a, b in zip(t.coef, start.coef, strict=True)) >= 15
        if solver in ("sgd", "momentum", "nesterov"):
            assert (t.diverged_epoch >= 0).any()


# ---- bad hyper-parameters ------------------------------------------------------------------------------------------

BAD = {
    "momentum": [-0.1, 1.0, np.nan, np.inf],
    "beta1": [-0.1, 1.0, 1.5, np.nan],
    "beta2": [-0.1, 1.0, np.nan, -np.inf],
    "epsilon": [0.0, -1e-8, np.nan, np.inf],
    "rho": [-0.1, 1.0, np.nan],
    "weight_decay": [-1.0, np.nan, np.inf],
    "clip_norm": [0.0, -1.0, np.nan],
    "clip_value": [0.0, -1.0, np.nan, -np.inf],
    "average": [-1.0, 0.5, np.nan, np.inf],
    "power_t": [-0.5, np.nan, np.inf],
    "decay": [0.0, -1.0, np.nan, np.inf],
    "decay_epochs": [0.0, -1.0, np.nan, np.inf],
    "warmup": [-1.0, np.nan, np.inf],
    "plateau_factor": [0.0, 1.0, -1.0, np.nan],
    "t0": [0.0, -1.0, np.nan, np.inf],
}


def test_bad_values_of_every_hyper_parameter_are_named():
    assert set(BAD) == set(update.HYPER)
    q = calls.problem(90, n=20, p=2, m=3)
    for name, values in BAD.items():
        for value in values:
            array = np.array([update.HYPER[name], value, update.HYPER[name]])
            with pytest.raises(ValueError, match=rf"^{name}: got {value!r:s}, wanted") as e:
                calls.trainer(calls.replace(q, hyper={name: array}))
            assert "\n" not in str(e.value)
    for name in ("learning_rate", "l1", "l2"):
        for value in (-1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match=f"^{name}: got"):
                calls.trainer(calls.replace(q, **{name: np.array([0.1, value, 0.1])}))


def test_other_bad_hyper_parameters():
    q = calls.problem(91, n=20, p=2, m=3, dtype=np.float32)

    def trainer(hyper, **changes):
        return calls.trainer(calls.replace(q, hyper=hyper, **changes))

    with pytest.raises(ValueError, match="^hyper: got 'moment', wanted 'momentum', 'beta1'.* or 't0'$"):
        trainer({"moment": np.zeros(3)})
    with pytest.raises(TypeError, match="^hyper: got a key of type int"):
        trainer({3: np.zeros(3)})
    with pytest.raises(TypeError, match="^rho: got an array of float32"):
        trainer({"rho": np.zeros(3, np.float32)})
    with pytest.raises(TypeError, match="^rho: got float"):
        trainer({"rho": 0.5})
    with pytest.raises(ValueError, match=r"^rho: got shape \(2,\)"):
        trainer({"rho": np.zeros(2)})
    with pytest.raises(ValueError, match="^epsilon: got 1e-50, wanted .* also in the type of X"):
        trainer({"epsilon": np.full(3, 1e-50)})
    with pytest.raises(ValueError, match="^l2: got 0.0 under the schedule 'optimal'"):
        trainer({}, schedule=["constant", "optimal", "constant"], l2=np.array([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="^solver: got 'sdg', wanted 'sgd', 'momentum'.* or 'adamw'$"):
        calls.trainer(q, solver="sdg")
    for code in (-1, 7):
        with pytest.raises(ValueError, match=f"^schedule: got {code}, wanted 0 to 6"):
            _core.train.Trainer(
                X=q.X, y=q.y, sample_weight=None, ids=q.splits.ids, conditions=q.splits.conditions,
                split_of_model=q.split_of_model, loss=q.loss, solver="sgd", l1=q.l1, l2=q.l2,
                learning_rate=q.learning_rate, schedule=np.array([0, code, 0], np.int32), epochs=1, batch_size=4,
                shuffle=True, seed=0, fit_intercept=True, standardize=False, coef_init=None, intercept_init=None,
                n_threads=1,
            )
