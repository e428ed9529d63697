"""Elastic nets with more features than rows (csrc/optimum/elastic_net_path.cpp): optima, and the promises where models share a ladder."""

from __future__ import annotations

import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calls
import gradfold as gf
import optima
from gradfold import _core, _optimum
from gradfold.index import kfold
from reference import optimum as reference
from reference.roles import TRAIN
from test_promises import POISONS, assert_same, poison, same_split

LEVELS = _core.levels.supported()


def wide(n, p, seed=0, mean=0.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    X = np.ascontiguousarray(rng.standard_normal((n, p)) + mean, dtype)
    return X, (X[:, : min(4, p)].sum(axis=1) + rng.standard_normal(n) + 2).astype(dtype)


def fit(X, y, rows, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gf.fit(X, y, gf.Candidates(rows), solver="coordinate-descent", **{"tol": 1e-10, "folds": 3, "refit": False, **options})


def largest(X, y, fit_intercept=True):
    columns, target = (X - X.mean(axis=0), y - y.mean()) if fit_intercept else (X, y)
    return float(np.abs(columns.T.astype(np.float64) @ target).max() / len(X))


@settings(max_examples=80)
@given(st.data())
def test_the_conditions_of_optimality(data):
    n = data.draw(st.sampled_from([4, 7, 33, 90]), label="n_rows")
    p = n + data.draw(st.sampled_from([1, 10, 300]), label="more features")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    X = rng.standard_normal((n, p))
    kind = data.draw(st.sampled_from(["plain", "copies", "near copies", "low rank", "far mean", "scales", "constant"]), label="kind")
    half = p // 2
    if kind in ("copies", "near copies"):
        X[:, half : 2 * half] = X[:, :half] + (1e-7 * rng.standard_normal((n, half)) if kind == "near copies" else 0)
    if kind == "low rank":
        X = rng.standard_normal((n, 3)) @ rng.standard_normal((3, p)) + 0.05 * X
    if kind == "far mean":
        X += 1e6
    if kind == "scales":
        X *= np.logspace(-3, 3, p)
    if kind == "constant":
        X[:, ::3] = 2.5
    X = np.ascontiguousarray(X)
    y = X[:, 1] + X[:, 2] + X[:, 1].std() * rng.standard_normal(n)
    y -= np.round(y.mean())
    weight = data.draw(st.sampled_from([None, rng.integers(0, 3, n).astype(float)]), label="weight")
    fit_intercept = kind == "far mean" or data.draw(st.booleans(), label="fit_intercept")
    most = largest(X, y, fit_intercept)
    l2 = most * data.draw(st.sampled_from([0.0, 1e-4, 0.1, 3.0]), label="l2") / (1 + np.abs(X).max() * (kind == "scales"))
    l1 = most * np.array([2.0, 1.0, 0.5, 0.47, 0.1, 3e-3])
    ratio = data.draw(st.booleans(), label="l2 in proportion to l1")
    rows = [{"l1": float(a), "l2": float(l2 * a / most if ratio else l2)} for a in l1]
    try:
        run = fit(X, y, rows, sample_weight=weight, fit_intercept=fit_intercept)
    except ValueError as error:
        assert str(error).startswith("sample_weight: ")
        return
    for m in range(len(run.coef)):
        own = run._folds.train_indices(m % 3)
        w = np.ones(len(own)) if weight is None else weight[own]
        row, coef, intercept = rows[m // 3], run.coef[m], run.intercept[m]
        assert run.converged.ravel()[m], (m, run.arrivals["gap"][m])
        missed, shift = reference.optimality("squared_error", X[own], y[own], coef, intercept, row["l1"], row["l2"], w)
        scale = np.abs(X[own] - (X[own].mean(axis=0) if fit_intercept else 0)).max() * np.abs(y[own]).max()
        # What rounding of the intercept makes of the reference's own products.
        far = 1e-15 * np.abs(X).max() ** 2 * (1 + np.abs(coef).sum()) if kind == "far mean" else 0.0
        assert missed.max() <= 1e-8 * scale + far
        assert not fit_intercept or shift <= 1e-9 * (scale + np.abs(X).max() * np.abs(coef).sum())
        got = 0.5 * np.average((y[own] - X[own] @ coef - intercept) ** 2, weights=w)
        got += row["l1"] * np.abs(coef).sum() + 0.5 * row["l2"] * (coef**2).sum()
        np.testing.assert_allclose(run.arrivals["objective"][m], got, rtol=1e-6 if kind == "far mean" else 1e-9, atol=1e-14 * scale)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
def test_beside_scikit_learns_path(l1_ratio):
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = wide(40, 120, 3)
    alphas = largest(X, y) / l1_ratio * np.logspace(0, -3, 30)
    rows = [{"l1": float(a * l1_ratio), "l2": float(a * (1 - l1_ratio))} for a in alphas]
    run = fit(X, y, rows)
    own = run._folds.train_indices(1)
    for c, alpha in enumerate(alphas):
        model = linear_model.ElasticNet(alpha=alpha, l1_ratio=l1_ratio, tol=1e-13, max_iter=10**6).fit(X[own], y[own])
        np.testing.assert_allclose(run.coef[3 * c + 1], model.coef_, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(run.intercept[3 * c + 1], model.intercept_, rtol=1e-7)
    held_out = run._folds.score_indices(1)
    for c in (3, 29):
        miss = y[held_out] - X[held_out] @ run.coef[3 * c + 1] - run.intercept[3 * c + 1]
        np.testing.assert_allclose(run.held_out_loss[c, 1], 0.5 * (miss**2).mean(), rtol=1e-10)


def problem(seed, n, p, n_models, dtype=np.float64, kind="kfold", weights="none"):
    """Many models of few ladders: pairs of l1 and l2 along paths, in no order."""
    q = calls.problem(seed, n=n, p=p, m=n_models, dtype=dtype, kind=kind, loss="squared_error", weights=weights)
    rng = np.random.default_rng(seed)
    most = largest(q.X.astype(np.float64), q.y.astype(np.float64))
    l1 = most * 10.0 ** -rng.uniform(0, 2.5, n_models)
    l1[rng.random(n_models) < 0.05] = 0
    return calls.replace(q, l1=l1, l2=np.where(rng.random(n_models) < 0.4, 0.0, (l1 + most / 50) * rng.choice([0.3, 1.0, 1.7], n_models)))


@settings(max_examples=25)
@given(st.data())
def test_other_models_threads_and_levels_change_no_bit(data):
    dtype = data.draw(st.sampled_from([np.float32, np.float64]), label="dtype")
    n_models = data.draw(st.sampled_from([3, 40, 120]), label="n_models")
    q = problem(
        data.draw(st.integers(0, 2**32 - 1), label="seed"), data.draw(st.sampled_from([25, 60]), label="n_rows"),
        data.draw(st.sampled_from([70, 130]), label="n_features"), n_models, dtype,
        data.draw(st.sampled_from(["kfold", "repeated_kfold", "nested"]), label="splits"),
        data.draw(st.sampled_from(["none", "integers", "zeros"]), label="weights"),
    )  # fmt: skip
    how = {"standardize": data.draw(st.booleans(), label="standardize"), "fit_intercept": data.draw(st.booleans(), label="intercept")}
    want = optima.solve(q, "coordinate-descent", max_iter=1000, **how)
    for name in LEVELS:
        with calls.level(name):
            for n_threads in (2, 7):
                got = optima.solve(q, "coordinate-descent", max_iter=1000, n_threads=n_threads, **how)
                assert_same(got.bytes(), want.bytes(), f"{name}, {n_threads} threads")
    order = np.random.default_rng(1).permutation(n_models)
    chosen = order[: data.draw(st.integers(1, n_models), label="how many")]
    for models in (chosen, chosen[:1]):
        got = optima.solve(q.of_models(list(models)), "coordinate-descent", max_iter=1000, **how)
        assert_same(got.bytes(), [want.of(k) for k in models], "in other company")


def test_ladders_shared_out_among_threads_have_the_same_bits():
    """With few ladders the models of each are two parts, which walk it on their own."""
    q = calls.problem(3, n=60, p=150, m=96, loss="squared_error", weights="none")
    q = calls.replace(q, l1=largest(q.X.astype(float), q.y.astype(float)) * np.logspace(0, -2.5, 96), l2=np.zeros(96))
    want = optima.solve(q, "coordinate-descent", max_iter=1000)
    assert_same(optima.solve(q, "coordinate-descent", max_iter=1000, n_threads=7).bytes(), want.bytes())
    for k in (0, 50, 95):
        assert_same(optima.solve(q.of_models([k]), "coordinate-descent", max_iter=1000).bytes(), [want.of(k)])


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_many_models_between_two_rungs_start_from_the_same_columns(ratio):
    """Far more columns want to come in at a rung than may, and more models start from it than look at all columns together."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 1)) + 0.6 * rng.standard_normal((60, 400))
    X = np.ascontiguousarray((X - X.mean(axis=0)) / X.std(axis=0))
    y = X[:, :40].sum(axis=1) / 5 + rng.standard_normal(60)
    rows = [{"l1": float(a), "l2": float(ratio * a)} for a in largest(X, y) * np.geomspace(0.999, 0.1, 100)]
    want = fit(X, y, rows, n_threads=1)
    assert_same([fit(X, y, rows, n_threads=7).coef.tobytes()], [want.coef.tobytes()])
    for k in range(0, 100, 9):
        alone = fit(X, y, rows[k : k + 1], n_threads=1)
        assert_same([alone.coef.tobytes()], [want.coef[3 * k : 3 * k + 3].tobytes()])


@pytest.mark.parametrize("scales", [(0.0, 0.0), (1.5, -1.5)])
def test_supports_that_outgrow_their_rows(scales):
    """The equations of columns give way to those of rows, whose products follow from rung to rung what joins and leaves."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((72, 400)) * np.logspace(*scales, 400)
    y = X @ rng.standard_normal(400) + rng.standard_normal(72)
    rows = [{"l1": float(a), "l2": float(9 * a)} for a in largest(X, y) * np.geomspace(0.9, 1e-4, 60)]
    want = fit(X, y, rows, n_threads=1)
    own = want._folds.train_indices(0)
    centred, target = X[own] - X[own].mean(axis=0), y[own] - y[own].mean()
    sizes = []
    for k, row in enumerate(rows):
        v = want.coef[3 * k].astype(np.float64)
        pull = centred.T @ (target - centred @ v) / len(own) - row["l2"] * v
        sizes.append((v != 0).sum())
        slack = 1e-9 * row["l1"] + 1e-13 * np.abs(centred).mean(axis=0) * np.abs(target).max()
        assert (np.abs(pull) <= row["l1"] + slack).all()
        assert (np.abs(pull - row["l1"] * np.sign(v)) <= slack)[v != 0].all()
    assert want.converged.all()
    assert (np.array(sizes) < len(own)).sum() > 3
    assert (np.array(sizes) > 1.5 * len(own)).sum() > 5
    assert_same([fit(X, y, rows, n_threads=7).coef.tobytes()], [want.coef.tobytes()])
    for k in range(0, 60, 6):
        alone = fit(X, y, rows[k : k + 1], n_threads=1)
        assert_same([alone.coef.tobytes()], [want.coef[3 * k : 3 * k + 3].tobytes()])


@pytest.mark.parametrize("ratio", [0.0, 1e-10, 1e-8, 1e-6])
def test_many_copies_of_few_columns(ratio):
    """Without l2, or nearly so, the equations of copies have no one solution: a few solutions are enough all the same."""
    rng = np.random.default_rng(0)
    X = np.ascontiguousarray(rng.standard_normal((30, 15))[:, rng.integers(0, 15, 430)] * rng.choice([1, -1], 430))
    y = X[:, 0] - X[:, 1] + rng.standard_normal(30)
    rows = [{"l1": float(a), "l2": float(ratio * a)} for a in largest(X, y) * np.logspace(0, -3, 40)]
    run = fit(X, y, rows, tol=1e-6)
    assert run.converged.all()
    for m in range(120):
        own = run._folds.train_indices(m % 3)
        missed, _ = reference.optimality("squared_error", X[own], y[own], run.coef[m], run.intercept[m], **rows[m // 3])
        assert missed.max() <= 1e-6 * rows[m // 3]["l1"]


def test_what_has_not_arrived_is_not_called_so():
    """Rank 3 and noise of 1e-7, with next to no l1: what is said to have converged has."""
    rng = np.random.default_rng(1108)
    X = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 70)) + 1e-7 * rng.standard_normal((60, 70))
    y = X[:, 0] - X[:, 1] + 0.1 * rng.standard_normal(60)
    scale = X.std(axis=0)
    rows = [{"l1": float(largest(X / scale, y) * a), "l2": 0.0} for a in (1e-2, 1e-6, 3e-8, 1e-8)]
    run = fit(X, y, rows, folds=2, standardize=True, tol=1e-6, max_iter=400)
    for m in range(8):
        square = np.var(y[run._folds.train_indices(m % 2)])
        gap, missed = run.arrivals["gap"][m], run.arrivals["gradient_norm"][m]
        assert not run.converged[m] or missed <= 1.1e-6 * rows[m // 2]["l1"] + 1e-8 * np.sqrt(square) or gap <= 1e-6 * square


@pytest.mark.parametrize(("of_x", "of_y"), [(1e150, 1e100), (1e-85, 1e-85), (1e-80, 1e-80)])
def test_scales_whose_squares_are_beyond_float64(of_x, of_y):
    X, y = wide(40, 60, 14)
    l1 = 0.1 * largest(X, y)
    want = gf.fit(X, y, l1=l1, l2=0.0, solver="coordinate-descent", tol=1e-10)
    run = gf.fit(X * of_x, y * of_y, l1=l1 * of_x * of_y, l2=0.0, solver="coordinate-descent", tol=1e-10)
    np.testing.assert_allclose(run.best_coef * (of_x / of_y), want.best_coef, rtol=1e-8, atol=1e-12)


def test_the_smallest_numbers_end():
    X, y = wide(6, 20, 15)
    with pytest.warns(gf.ConvergenceWarning, match="in this precision"):
        run = gf.fit(X * 1e-160, y * 1e-160, l1=5e-324, l2=0.0, solver="coordinate-descent", tol=1e-10)
    assert np.isfinite(run.best_coef).all()


@pytest.mark.parametrize("name", sorted(POISONS))
def test_no_leak(name):
    q = problem(5, 60, 90, 24)
    for model in (0, 7, 23):
        clean = optima.solve(q, "coordinate-descent")
        got = optima.solve(poison(q, model, name, seed=3), "coordinate-descent")
        for k in same_split(q, model):
            assert_same([got.weights_of(k)], [clean.weights_of(k)])


def test_a_poisoned_training_row_does_leak():
    q = problem(9, 30, 50, 1)
    row = int(np.flatnonzero(q.model_roles()[0] == TRAIN)[3])
    X = q.X.copy()
    X[row] *= 2
    assert optima.solve(calls.replace(q, X=X), "coordinate-descent").weights_of(0) != optima.solve(q, "coordinate-descent").weights_of(0)


def test_standardize_is_a_fit_of_standardised_columns():
    X, y = wide(40, 90, 4)
    X = np.ascontiguousarray(X * np.logspace(-2, 2, 90) + np.linspace(-50, 1e4, 90))
    Z = np.ascontiguousarray((X - X.mean(axis=0)) / X.std(axis=0))
    rows = [{"l1": 0.3, "l2": 0.01}, {"l1": 0.05, "l2": 0.0}]
    for row in rows:
        run = gf.fit(X, y, solver="coordinate-descent", standardize=True, tol=1e-10, **row)
        want = gf.fit(Z, y, solver="coordinate-descent", tol=1e-10, **row)
        assert ((run.best_coef == 0) == (want.best_coef == 0)).all()
        np.testing.assert_allclose(run.best_coef * X.std(axis=0), want.best_coef, rtol=1e-7, atol=1e-9)


def test_float32_is_as_near_as_its_weights():
    X, y = wide(50, 200, 6, dtype=np.float32)
    l1 = 0.05 * largest(X, y)
    run, want = (gf.fit(A, b, l1=l1, l2=0.0, solver="coordinate-descent") for A, b in ((X, y), (X.astype(float), y.astype(float))))
    assert run.best_coef.dtype == np.float32
    np.testing.assert_array_equal(run.best_coef, want.best_coef.astype(np.float32))


def test_any_number_of_features():
    X, y = wide(30, 6000, 7)
    l1 = gf.l1_grid(X, y, 5, eps=0.05)
    np.testing.assert_allclose(l1[0], largest(X, y), rtol=1e-12)
    run = gf.fit(X, y, gf.grid(l1=list(l1)), l2=0.0, folds=3, tol=1e-10)
    assert run.solver == "coordinate-descent" and run.converged.all()
    for m in range(15):
        own = run._folds.train_indices(m % 3)
        missed, _ = reference.optimality("squared_error", X[own], y[own], run.coef[m], run.intercept[m], l1[m // 3], 0.0)
        assert missed.max() <= 1e-10 and np.count_nonzero(run.coef[m]) < 20


def test_more_columns_than_may_come_in_is_said():
    """With l2 and next to no l1 every column has a weight."""
    X, y = wide(8, 5300, 8)
    with pytest.warns(gf.ConvergenceWarning, match="more columns want a weight than may have one"):
        run = gf.fit(X, y, l1=1e-9, l2=1.0, solver="coordinate-descent", tol=1e-12)
    assert not run.best_converged and np.isfinite(run.best_coef).all()


@pytest.mark.parametrize("l2", [0.0, 0.5])
def test_without_l1(l2):
    X, y = wide(12, 40, 9)
    run = fit(X, y, [{"l1": 0.0, "l2": l2}, {"l1": 0.01, "l2": l2}], tol=1e-9)
    own = run._folds.train_indices(0)
    A, b = X[own] - X[own].mean(axis=0), y[own] - y[own].mean()
    if l2 > 0:
        want = A.T @ np.linalg.solve(A @ A.T + l2 * len(own) * np.eye(len(own)), b)
        np.testing.assert_allclose(run.coef[0], want, rtol=1e-8, atol=1e-10)
    else:  # there are many solutions
        np.testing.assert_allclose(A @ run.coef[0], b, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("l2", [1e-3, 0.1, 100.0])
def test_ridge_within_rounding_has_arrived(l2, seed):
    """Without l1 rounding alone decides what is 0, and it is what products of that size have."""
    X, y = wide(30, 50, seed)
    run = fit(X, y, [{"l1": 0.0, "l2": l2}], tol=1e-4)
    assert run.converged.all(), (run.arrivals["gradient_norm"], run.arrivals["how"])


@pytest.mark.parametrize("rows", [2, 3])
def test_a_few_rows(rows):
    X, y = wide(rows, 5, 10)
    run = gf.fit(X, y, l1=1e-3, l2=0.0, solver="coordinate-descent")
    missed, _ = reference.optimality("squared_error", X, y, run.best_coef, run.best_intercept, 1e-3, 0.0)
    assert run.best_converged and missed.max() < 1e-10
    constant = gf.fit(np.ones((rows, 5)), y, l1=1e-3, solver="coordinate-descent")
    assert not constant.best_coef.any() and np.isclose(constant.best_intercept, y.mean())


def test_max_iter_is_said_and_is_of_the_model_alone():
    X, y = wide(60, 200, 11)
    most = largest(X, y)
    rows = [{"l1": most * a, "l2": 0.0} for a in (0.9, 0.01)]
    with pytest.warns(gf.ConvergenceWarning, match="max_iter"):
        run = gf.fit(X, y, gf.Candidates(rows), folds=3, solver="coordinate-descent", max_iter=5, refit=False)
    assert run.converged[:3].all() and not run.converged[3:].any()
    alone = fit(X, y, rows[1:], max_iter=5, tol=1e-4)
    assert_same([alone.coef.tobytes()], [run.coef[3:].tobytes()])


def test_values_that_overflow_diverge_with_their_own_split():
    X, y = wide(40, 60, 12)
    folds = kfold(40, 4)
    X[folds.score_indices(2), 0] = 1e200  # the other splits train on it
    run = fit(X, y, [{"l1": 0.1, "l2": 0.0}], folds=folds)
    assert (run.arrivals["how"] == _optimum.DIVERGED).tolist() == [True, True, False, True]
    assert not run.coef[0].any() and run.coef[2].any()


def test_an_early_end_keeps_what_there_is_and_goes_on_to_the_same_bits():
    q = problem(13, 120, 400, 60)
    want = optima.solve(q, "coordinate-descent", max_iter=1000)
    t = optima.trainer(q, "coordinate-descent", max_iter=1000)
    assert t.advance(seconds=1e-4) == "paused" and (t.arrivals["how"] == 0).any()
    assert t.advance() == "done"
    assert_same([t.coef().tobytes()], [want.coef.tobytes()])
    t = optima.trainer(problem(13, 400, 3000, 200), "coordinate-descent", max_iter=1000)
    timer = threading.Timer(0.3, t.cancel)
    timer.start()
    start = time.monotonic()
    assert t.advance() == "interrupted" and time.monotonic() - start < 20
    timer.join()
