"""Optima of many models together: L-BFGS and the normal equations.

Against Newton's method and singular values in plain float64, then the promises in bytes, then `fit`.
"""

from __future__ import annotations

import ctypes
import itertools
import platform
import signal
import sys
import threading
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calls
import fits
import gradfold as gf
import optima
import splits
from gradfold import _core, _device, _moments, _optimum, _optimum_check
from reference import optimum as reference
from reference.roles import TRAIN
from test_promises import POISONS, assert_same, poison, same_split

LEVELS = _core.levels.supported()
DTYPES = [np.float32, np.float64]
POINTWISE = [name for name in _optimum_check.SMOOTH if name != "multinomial"]


def smooth_problem(seed, **options):
    """A problem without divergence in view: penalties from tiny to large."""
    q = calls.problem(seed, **options)
    rng = np.random.default_rng(seed)
    return calls.replace(q, l2=10.0 ** rng.uniform(-4, 1, q.n_models))


# ---- moments of cells ------------------------------------------------------------------------------------------------


def cells(X, y, weight, order, offset, n_threads=1):
    return _core.optimum.cell_moments(
        X, y, weight, np.ascontiguousarray(order, np.int64), np.ascontiguousarray(offset, np.int64), n_threads
    )


@settings(max_examples=80)
@given(st.data())
def test_moments_of_cells(data):
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    n = data.draw(st.one_of(st.integers(1, 80), st.integers(1020, 2300)), label="n_rows")
    p = data.draw(st.sampled_from([1, 2, 5, 6, 10, 21, 22, 23, 46, 75]), label="n_features")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    X = (rng.standard_normal((n, p)) * 10.0 ** rng.uniform(-2, 2, p) + rng.choice([0, 10, 1e3], p)).astype(dtype)
    y = (rng.standard_normal(n) + 7).astype(dtype)
    weight = data.draw(st.sampled_from([None, rng.uniform(0.1, 3, n).astype(dtype)]), label="weight")
    k = data.draw(st.integers(1, 4), label="cells")
    order = rng.permutation(n)
    offset = np.sort(np.concatenate([[0, n], rng.integers(0, n + 1, k - 1)]))
    with calls.level(data.draw(st.sampled_from(LEVELS), label="level")):
        w, mean, comoment = cells(X, y, weight, order, offset, data.draw(st.sampled_from([1, 3]), label="n_threads"))
    for c in range(k):
        rows = order[offset[c] : offset[c + 1]]
        if len(rows) == 0:
            assert w[c] == 0 and not mean[c].any() and not comoment[c].any()
            continue
        want = reference.moments(X[rows], y[rows], None if weight is None else weight[rows])
        np.testing.assert_allclose(w[c], want[0], rtol=1e-13)
        np.testing.assert_allclose(mean[c], want[1], rtol=1e-12, atol=1e-13)
        size = np.sqrt(np.outer(np.diag(want[2]), np.diag(want[2])))
        np.testing.assert_array_less(np.abs(comoment[c] - want[2]), 1e-11 * size + 1e-16 * (want[1] ** 2).max() * want[0])
        assert (comoment[c] == comoment[c].T).all()


def test_moments_of_cells_far_from_zero():
    """A mean of 1e6 and a scale of 1: the sums of squares have 12 digits more than the comoments."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((5000, 3)) + 1e6
    y = rng.standard_normal(5000)
    _, mean, comoment = cells(X, y, None, np.arange(5000), [0, 5000])
    exact = np.array(X, np.longdouble)
    centred = exact - exact.mean(axis=0)
    np.testing.assert_allclose(comoment[0][:3, :3], (centred.T @ centred).astype(float), rtol=1e-9)
    np.testing.assert_allclose(mean[0][:3], exact.mean(axis=0).astype(float), rtol=1e-14)


def test_moments_of_cells_have_the_same_bits_on_all_levels_and_threads():
    rng = np.random.default_rng(2)
    for dtype, p in ((np.float32, 101), (np.float64, 30), (np.float32, 3)):
        X = rng.standard_normal((5000, p)).astype(dtype)
        y, weight = X[:, 0] * 2, rng.uniform(0, 2, 5000).astype(dtype)
        got = []
        for name in LEVELS:
            for n_threads in (1, 2, 7):
                with calls.level(name):
                    got.append(b"".join(a.tobytes() for a in cells(X, y, weight, np.arange(5000), [0, 1500, 5000], n_threads)))
        assert len(set(got)) == 1


@pytest.mark.parametrize("kind", sorted(splits.KINDS))
def test_moments_of_splits(kind):
    """Whatever the splits: those of the training rows of positive weight."""
    q = calls.problem(3, n=60, p=4, m=1, kind=kind, weights="zeros", dtype=np.float64)
    moments = _moments.Moments(q.X, q.y, q.sample_weight, q.splits.ids, q.splits.conditions, 1)
    for s, roles in enumerate(q.splits.roles()):
        rows = np.flatnonzero((roles == TRAIN) & (q.sample_weight > 0))
        weight, mean, comoment = reference.moments(q.X[rows], q.y[rows], q.sample_weight[rows])
        got = moments.of(s)
        np.testing.assert_allclose(got.weight, weight, rtol=1e-14)
        np.testing.assert_allclose(got.mean, mean, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(got.comoment, comoment, rtol=1e-10, atol=1e-11)


# ---- optima ----------------------------------------------------------------------------------------------------------


@settings(max_examples=90)
@given(st.data())
def test_lbfgs_and_newton_against_the_reference(data):
    solver = data.draw(st.sampled_from(["lbfgs", "newton-cholesky"]), label="solver")
    loss = data.draw(st.sampled_from(POINTWISE), label="loss")
    intercept = data.draw(st.booleans(), label="intercept")
    q = smooth_problem(
        data.draw(st.integers(0, 2**32 - 1), label="data"),
        n=data.draw(st.integers(30, 90), label="n_rows"),
        p=data.draw(st.sampled_from([1, 2, 5, 12, 40]), label="n_features"),
        m=data.draw(st.sampled_from([1, 3, 9]), label="n_models"),
        dtype=np.float64,
        kind=data.draw(st.sampled_from(["kfold", "holdout", "nested"]), label="splits"),
        loss=loss,
        weights=data.draw(st.sampled_from(["none", "zeros"]), label="weights"),
    )
    sample = data.draw(st.booleans(), label="sample")
    got = optima.solve(q, solver, fit_intercept=intercept, tol=1e-9, max_iter=3000, sample=sample)
    for k in range(q.n_models):
        rows = np.flatnonzero(q.model_roles()[k] == TRAIN)
        weight = None if q.sample_weight is None else q.sample_weight[rows]
        epsilon = 0.1 if q.loss_epsilon is None else q.loss_epsilon[k]
        args = loss, q.X[rows], q.y[rows]
        coef, b = reference.newton(*args, q.l2[k], weight, intercept, epsilon)
        best = reference.objective(*args, coef, b, q.l2[k], weight, epsilon)
        reached = reference.objective(*args, got.coef[k], got.intercept[k], q.l2[k], weight, epsilon)
        assert reached <= best + 1e-10 * max(1, abs(best)), (reached, best)
        np.testing.assert_allclose(got.arrivals["objective"][k], reached, rtol=1e-9)
        if loss in ("log_loss", "squared_error"):  # strictly convex: one optimum
            np.testing.assert_allclose(got.coef[k], coef, rtol=1e-5, atol=1e-6)
            assert got.arrivals["how"][k] == _optimum.CONVERGED


@pytest.mark.parametrize("sample", [False, True])
def test_lbfgs_of_several_outputs(sample):
    """Multinomial: no point nearby is better, and the gradient vanishes."""
    q = smooth_problem(4, n=200, p=6, m=4, loss="multinomial", n_classes=3, dtype=np.float64, weights="zeros")
    got = optima.solve(q, tol=1e-9, max_iter=2000, sample=sample)
    assert (got.arrivals["how"] == _optimum.CONVERGED).all()
    rng = np.random.default_rng(0)
    for k in range(4):
        rows = np.flatnonzero(q.model_roles()[k] == TRAIN)
        args = "multinomial", q.X[rows], q.y[rows]

        def value(coef, b, args=args, rows=rows, k=k):
            return reference.objective(*args, coef, b, q.l2[k], q.sample_weight[rows])

        best = value(got.coef[k], got.intercept[k])
        np.testing.assert_allclose(got.arrivals["objective"][k], best, rtol=1e-10)
        for _ in range(20):
            step, own = rng.standard_normal((3, 6)) * 1e-3, rng.standard_normal(3) * 1e-3
            assert value(got.coef[k] + step, got.intercept[k] + own) > best


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weights", ["none", "zeros"])
def test_cholesky_against_singular_values(weights, fit_intercept):
    q = smooth_problem(5, n=120, p=17, m=10, loss="squared_error", dtype=np.float64, weights=weights)
    got = optima.solve(q, "cholesky", fit_intercept=fit_intercept)
    assert (got.arrivals["how"] == _optimum.CONVERGED).all() and not got.arrivals["n_passes"].any()
    for k in range(10):
        rows = np.flatnonzero(q.model_roles()[k] == TRAIN)
        w = np.ones(len(rows)) if q.sample_weight is None else q.sample_weight[rows].astype(float)
        coef, b = ridge(q.X[rows], q.y[rows], q.l2[k], w, fit_intercept)
        np.testing.assert_allclose(got.coef[k], coef, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(got.intercept[k], b, rtol=1e-9, atol=1e-12)
        want = reference.objective("squared_error", q.X[rows], q.y[rows], coef, b, q.l2[k], w)
        np.testing.assert_allclose(got.arrivals["objective"][k], want, rtol=1e-9)


def ridge(X, y, l2, w, fit_intercept=True):
    """By singular values of the weighted, centred rows."""
    mean, y_mean = (np.average(X, axis=0, weights=w), np.average(y, weights=w)) if fit_intercept else (0.0, 0.0)
    root = np.sqrt(w / w.sum())
    U, s, Vt = np.linalg.svd((X - mean) * root[:, None], full_matrices=False)
    keep = s > s.max() * 1e-15
    coef = (Vt[keep].T * (s[keep] / (s[keep] ** 2 + l2))) @ (U[:, keep].T @ ((y - y_mean) * root))
    return coef, y_mean - np.sum(mean * coef)


def test_cholesky_of_an_ill_conditioned_design():
    """Condition 1e8 without a penalty: squared in the normal equations, so passes over X refine it, or a warning says so."""
    rng = np.random.default_rng(6)
    U, _ = np.linalg.qr(rng.standard_normal((400, 8)))
    V, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    X = np.ascontiguousarray(U * np.logspace(0, -8, 8) @ V.T * 20)
    y = X @ rng.standard_normal(8) + 1e-3 * rng.standard_normal(400)
    for l2 in (0.0, 1e-12, 1e-6):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = gf.fit(X, y, l2=l2, solver="cholesky", tol=1e-12)
        coef, b = ridge(X, y, l2, np.ones(400))
        fitted = np.abs(X @ (run.best_coef - coef) + run.best_intercept - b).max() / np.abs(y).max()
        said = any(issubclass(w.category, gf.ConvergenceWarning) for w in caught)
        assert fitted < 1e-4
        assert said or np.linalg.norm(run.best_coef - coef) <= 1e-6 * np.linalg.norm(coef), l2


@pytest.mark.parametrize("solver", ["lbfgs", "cholesky"])
def test_duplicated_and_constant_columns(solver):
    """Without a penalty nothing tells two copies apart: the fit is that of one of them, finite and converged."""
    X, y = fits.numbers(200, 4)
    twice = np.ascontiguousarray(np.column_stack([X, X[:, :2], np.full(200, 3.0)]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = gf.fit(twice, y, l2=0.0, solver=solver, tol=1e-10)
    # The constant column is left out by the mean; the copies are what the warning is about.
    assert solver == "lbfgs" or "2 columns are sums of others" in str([w.message for w in caught])
    coef, b = ridge(X, y, 0.0, np.ones(200))
    assert run.best_converged and np.isfinite(run.best_coef).all()
    np.testing.assert_allclose(run.predict_raw(twice), X @ coef + b, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
def test_features_far_from_zero(loss, dtype):
    """A mean of 1e6 and a scale of 1: the same fit as of the centred features, as far as X's type tells them apart."""
    X, y = fits.labels(400, 4) if loss == "log_loss" else fits.numbers(400, 4)
    far = np.ascontiguousarray((X + (1e6 if dtype == np.float64 else 1e3)).astype(dtype))
    near = np.ascontiguousarray(far.astype(np.float64) - far[0].astype(np.float64))
    for solver in ("lbfgs", "cholesky") if loss == "squared_error" else ("lbfgs",):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gf.ConvergenceWarning)  # the gradient on X's scale has a millionfold error
            run = gf.fit(far, y, l2=1e-3, solver=solver, loss=loss, standardize=True, tol=1e-7)
            want = gf.fit(near, y, l2=1e-3, solver=solver, loss=loss, standardize=True, tol=1e-7)
        np.testing.assert_allclose(run.best_coef, want.best_coef, rtol=1e-5 if dtype == np.float64 else 2e-2)


def test_standardize_is_a_fit_of_standardised_columns():
    X, y = fits.labels(300, 5)
    X = np.ascontiguousarray(X * [1, 10, 100, 0.1, 5] + [0, 3, -50, 1, 2])
    run = gf.fit(X, y, l2=1e-2, solver="lbfgs", standardize=True, tol=1e-10)
    Z = np.ascontiguousarray((X - X.mean(axis=0)) / X.std(axis=0))
    want = gf.fit(Z, y, l2=1e-2, solver="lbfgs", tol=1e-10)
    np.testing.assert_allclose(run.best_coef * X.std(axis=0), want.best_coef, rtol=1e-7)
    np.testing.assert_allclose(run.predict_raw(X), want.predict_raw(Z), rtol=1e-6, atol=1e-8)


def test_more_features_than_rows():
    rng = np.random.default_rng(8)
    X = rng.standard_normal((40, 200))
    y = (rng.random(40) < 0.5).astype(float)
    run = gf.fit(X, y, l2=1e-2, solver="lbfgs", loss="log_loss", tol=1e-9)
    coef, b = reference.newton("log_loss", X, y, 1e-2)
    np.testing.assert_allclose(run.best_coef, coef, rtol=1e-4, atol=1e-6)
    numbers = X @ rng.standard_normal(200)
    run = gf.fit(X, numbers, l2=1e-2, solver="cholesky")
    coef, b = ridge(X, numbers, 1e-2, np.ones(40))
    np.testing.assert_allclose(run.best_coef, coef, rtol=1e-8, atol=1e-10)


# ---- the elastic net -------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_coordinate_descent_meets_the_conditions_of_optimality(data):
    n = data.draw(st.sampled_from([20, 60, 200]), label="n_rows")
    p = data.draw(st.sampled_from([1, 3, 17, 60]), label="n_features")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    rank = data.draw(st.sampled_from([p, max(1, p // 3)]), label="rank")  # columns that are nearly, or copies of, each other
    X = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, p)) + 0.05 * rng.standard_normal((n, p))
    if data.draw(st.booleans(), label="copies") and p > 2:
        X[:, 1] = X[:, 0]
    X = np.ascontiguousarray(X + data.draw(st.sampled_from([0.0, 3.0]), label="mean"))
    y = X[:, 0] + rng.standard_normal(n) + 2
    weight = data.draw(st.sampled_from([None, rng.integers(0, 3, n).astype(float)]), label="weight")
    fit_intercept = data.draw(st.booleans(), label="fit_intercept")
    l2 = data.draw(st.sampled_from([0.0, 1e-3, 0.1]), label="l2")
    most = np.abs((X - X.mean(axis=0)).T @ (y - y.mean())).max() / n
    l1 = list(most * np.array([2.0, 0.3, 0.02, 1e-3]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = gf.fit(
            X, y, gf.grid(l1=l1), l2=l2, folds=3, solver="coordinate-descent", sample_weight=weight, fit_intercept=fit_intercept,
            tol=1e-12,
        )  # fmt: skip
    assert run.converged.all()
    for m in range(len(run.coef)):
        rows = run._folds.train_indices(m % 3)
        w = np.ones(len(rows)) if weight is None else weight[rows]
        if not w.any():
            continue
        missed, shift = reference.optimality(
            "squared_error", X[rows], y[rows], run.coef[m], run.intercept[m], l1[m // 3], l2, w
        )
        missed = missed.max()
        scale = np.abs(X[rows]).max() * np.abs(y[rows]).max()
        # Copies of a column without l2 have no one solution, and end at a duality gap.
        assert missed <= (1e-9 if l2 > 0 or run.arrivals["gap"][m] < 1e-12 else 1e-2) * scale
        assert not fit_intercept or shift < 1e-12 * scale
        got = 0.5 * np.average((y[rows] - X[rows] @ run.coef[m] - run.intercept[m]) ** 2, weights=w)
        got += l1[m // 3] * np.abs(run.coef[m]).sum() + 0.5 * l2 * (run.coef[m] ** 2).sum()
        np.testing.assert_allclose(run.arrivals["objective"][m], got, rtol=1e-9, atol=1e-12)


def test_coordinate_descent_with_standardised_columns_and_without_l1():
    X, y = fits.numbers(200, 6)
    X = np.ascontiguousarray(X * [1, 10, 100, 0.1, 5, 1] + [0, 3, -50, 1, 2, 1e3])
    Z = np.ascontiguousarray((X - X.mean(axis=0)) / X.std(axis=0))
    run = gf.fit(X, y, l1=0.3, l2=0.01, solver="coordinate-descent", standardize=True)
    want = gf.fit(Z, y, l1=0.3, l2=0.01, solver="coordinate-descent")
    assert 0 < (run.best_coef == 0).sum() < 6
    np.testing.assert_allclose(run.best_coef * X.std(axis=0), want.best_coef, rtol=1e-9, atol=1e-12)
    smooth = gf.fit(X, y, l2=0.01, solver="coordinate-descent")
    coef, b = ridge(X, y, 0.01, np.ones(200))
    np.testing.assert_allclose(smooth.best_coef, coef, rtol=1e-9)
    nothing = gf.fit(X, y, l1=1e6, solver="coordinate-descent")
    assert not nothing.best_coef.any() and np.isclose(nothing.best_intercept, y.mean()) and nothing.best_converged


@settings(max_examples=80)
@given(st.data())
def test_l1_of_log_loss_meets_the_conditions_of_optimality(data):
    n = data.draw(st.sampled_from([20, 60, 200]), label="n_rows")
    p = data.draw(st.sampled_from([1, 3, 17, 60, 150]), label="n_features")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    rank = data.draw(st.sampled_from([p, max(1, p // 3)]), label="rank")  # columns that are nearly, or copies of, each other
    X = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, p)) / np.sqrt(rank) + 0.05 * rng.standard_normal((n, p))
    if data.draw(st.booleans(), label="copies") and p > 2:
        X[:, 1] = X[:, 0]
    X = np.ascontiguousarray(X + data.draw(st.sampled_from([0.0, 3.0]), label="mean"))
    noise = data.draw(st.sampled_from([0.0, 1.0]), label="noise")  # without it the classes are separable
    centre = np.median(X[:, 0])
    y = (X[:, 0] - centre + noise * rng.logistic(size=n) > 0).astype(np.int64)
    weight = data.draw(st.sampled_from([None, rng.integers(0, 3, n).astype(float)]), label="weight")
    fit_intercept = data.draw(st.booleans(), label="fit_intercept")
    l2 = data.draw(st.sampled_from([0.0, 1e-3, 0.1]), label="l2")
    l1 = list(gf.l1_grid(X, y, 1, fit_intercept=fit_intercept)[0] * np.array([2.0, 0.3, 0.02, 1e-3]))
    folds = gf.index.stratified_kfold(y, 3)
    if weight is not None:  # both classes weigh something on every training side
        weight[[np.flatnonzero(y == k)[i] for k in (0, 1) for i in range(6) if i < (y == k).sum()]] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gf.ChoiceWarning)
        run = gf.fit(
            X, y, gf.grid(l1=l1), l2=l2, folds=folds, solver="coordinate-descent", sample_weight=weight,
            fit_intercept=fit_intercept, tol=1e-9, loss="log_loss",
        )  # fmt: skip
    assert run.converged.all()
    for m in range(len(run.coef)):
        rows = run._folds.train_indices(m % 3)
        w = None if weight is None else weight[rows]
        args = "log_loss", X[rows], y[rows], run.coef[m], run.intercept[m]
        missed, shift = reference.optimality(*args, l1[m // 3], l2, w)
        assert missed.max() <= 1.01e-9 and (shift <= 1.01e-9 or not fit_intercept)
        np.testing.assert_allclose(run.arrivals["gradient_norm"][m], max(missed.max(), shift if fit_intercept else 0), atol=1e-12)
        want = reference.objective("log_loss", X[rows], y[rows], run.coef[m], run.intercept[m], l2, w, l1=l1[m // 3])
        np.testing.assert_allclose(run.arrivals["objective"][m], want, rtol=1e-10)


def test_l1_of_log_loss_with_standardised_columns_and_without_l1():
    X, y = fits.labels(200, 6)
    X = np.ascontiguousarray(X * [1, 10, 100, 0.1, 5, 1] + [0, 3, -50, 1, 2, 1e3])
    Z = np.ascontiguousarray((X - X.mean(axis=0)) / X.std(axis=0))
    options = {"solver": "coordinate-descent", "loss": "log_loss", "tol": 1e-10}
    run = gf.fit(X, y, l1=0.1, l2=0.01, standardize=True, **options)
    want = gf.fit(Z, y, l1=0.1, l2=0.01, **options)
    assert 0 < (run.best_coef == 0).sum() < 6 and run.best_converged
    np.testing.assert_allclose(run.best_coef * X.std(axis=0), want.best_coef, rtol=1e-8, atol=1e-12)
    smooth = gf.fit(X, y, l2=0.01, **options)
    coef, b = reference.newton("log_loss", X, y, 0.01)
    np.testing.assert_allclose(smooth.best_coef, coef, rtol=1e-7)
    nothing = gf.fit(X, y, l1=1e6, **options)
    share = y.mean()
    assert not nothing.best_coef.any() and nothing.best_converged
    np.testing.assert_allclose(nothing.best_intercept, np.log(share / (1 - share)), rtol=1e-12)


@pytest.mark.parametrize("standardize", [False, True])
def test_l1_of_log_loss_with_features_far_from_zero(standardize):
    """A mean of 1e6 and a scale of 1: the same fit as of the centred features."""
    X, y = fits.labels(400, 6)
    far = np.ascontiguousarray(X + 1e6)
    near = np.ascontiguousarray(far - 1e6)  # exact
    options = {"l1": 0.03, "l2": 1e-3, "solver": "coordinate-descent", "loss": "log_loss", "standardize": standardize, "tol": 1e-8}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gf.ConvergenceWarning)  # the gradient on X's scale has a millionfold error
        run = gf.fit(far, y, **options)
    want = gf.fit(near, y, **options)
    assert ((run.best_coef == 0) == (want.best_coef == 0)).all() and want.best_converged
    np.testing.assert_allclose(run.best_coef, want.best_coef, rtol=1e-6)


def test_l1_of_log_loss_with_many_more_features_than_rows():
    """Hessians of working sets alone; twice a support at most, so that memory goes by the rows."""
    rng = np.random.default_rng(21)
    X = rng.standard_normal((200, 1000))
    y = (X[:, :5].sum(axis=1) + rng.logistic(size=200) > 0).astype(np.int64)
    l1 = list(gf.l1_grid(X, y, 8, eps=1e-3))
    run = gf.fit(X, y, gf.grid(l1=l1), l2=0.0, folds=5, solver="coordinate-descent", loss="log_loss", tol=1e-8)
    assert run.converged.all() and (run.n_iter <= 40).all() and (run.coef[-5:] != 0).sum(axis=1).max() <= 160
    for m in range(40):
        rows = run._folds.train_indices(m % 5)
        missed, shift = reference.optimality("log_loss", X[rows], y[rows], run.coef[m], run.intercept[m], l1[m // 5], 0.0)
        assert max(missed.max(), shift) <= 1.01e-8


def test_l1_of_log_loss_takes_any_number_of_features():
    X, y = fits.labels(30, 5200)
    run = gf.fit(X, y, l1=float(gf.l1_grid(X[:, :5000].copy(), y, 2, eps=0.5)[1]), l2=0.0, solver="coordinate-descent", tol=1e-8)
    missed, shift = reference.optimality("log_loss", X, y, run.best_coef, run.best_intercept, run.params[0]["l1"], 0.0)
    assert run.best_converged and 0 < np.count_nonzero(run.best_coef) <= 30 and max(missed.max(), shift) <= 1.01e-8


def test_l1_of_log_loss_in_float32():
    """In X's precision: by the objective of the same values in float64."""
    X, y = fits.labels(300, 8, dtype=np.float32)
    for standardize in (False, True):
        got, want = (
            gf.fit(A, y, l1=0.1, l2=1e-3, solver="coordinate-descent", loss="log_loss", standardize=standardize, tol=tol)
            for A, tol in ((X, 1e-6), (X.astype(np.float64), 1e-10))
        )
        assert got.best_converged and got.best_coef.dtype == np.float32 and 0 < (got.best_coef == 0).sum() < 8
        assert ((got.best_coef == 0) == (want.best_coef == 0)).all()
        np.testing.assert_allclose(got.best_coef, want.best_coef, atol=1e-4)


def nearly_the_same(dtype=np.float64):
    """60 columns of rank 10 but for a thousandth: coordinate descent alone would not come to the end."""
    rng = np.random.default_rng(22)
    X = rng.standard_normal((80, 10)) @ rng.standard_normal((10, 60)) + 1e-3 * rng.standard_normal((80, 60))
    y = (X[:, 0] + 5 * rng.logistic(size=80) > 0).astype(np.int64)
    return np.ascontiguousarray(X, dtype), y


def test_l1_of_log_loss_with_columns_that_are_nearly_the_same():
    X, y = nearly_the_same()
    l1 = list(gf.l1_grid(X, y, 12, eps=1e-4))
    run = gf.fit(X, y, gf.grid(l1=l1), l2=0.0, folds=3, solver="coordinate-descent", loss="log_loss", tol=1e-9)
    assert run.converged.all() and run.n_iter.max() <= 60
    for m in range(36):
        rows = run._folds.train_indices(m % 3)
        missed, shift = reference.optimality("log_loss", X[rows], y[rows], run.coef[m], run.intercept[m], l1[m // 3], 0.0)
        assert max(missed.max(), shift) <= 1.01e-9


@pytest.mark.parametrize("dtype", DTYPES)
def test_supports_of_log_loss_have_the_same_bits_alone_and_on_all_levels_and_threads(dtype):
    """Where the equations of supports are solved, and sought from 0."""
    X, y = nearly_the_same(dtype)
    l1 = list(gf.l1_grid(X, y, 6, eps=1e-4))

    def fit(values, n_threads=1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gf.ConvergenceWarning)  # float32
            run = gf.fit(
                X, y, gf.grid(l1=values), l2=0.0, folds=3, solver="coordinate-descent", loss="log_loss", tol=1e-7, refit=False,
                n_threads=n_threads, standardize=True,
            )  # fmt: skip
        parts = zip(run.coef, run.intercept, run.n_iter, run.arrivals["objective"], run.arrivals["gap"], strict=True)
        return [b"".join(np.asarray(part).tobytes() for part in model) for model in parts]

    want = fit(l1)
    for name in LEVELS:
        with calls.level(name):
            for n_threads in (1, 2, 7):
                assert_same(fit(l1, n_threads), want, f"{name}, {n_threads} threads")
    for i, value in enumerate(l1):
        assert_same(fit([value]), want[3 * i : 3 * i + 3], "alone")


@pytest.mark.parametrize("name", sorted(POISONS))
def test_no_leak_into_the_hessians_of_working_sets(name):
    """Held-out rows of many columns, of which a working set is a part."""
    X, y = nearly_the_same()
    X = np.ascontiguousarray(np.column_stack([X, np.random.default_rng(1).standard_normal((80, 40))]))
    q = smooth_problem(11, n=80, p=100, m=3, loss="log_loss", dtype=np.float64, kind="holdout", weights="zeros")
    q = calls.replace(q, X=X, y=y.astype(np.float64), l1=np.array([0.1, 0.01, 1e-4]), l2=np.zeros(3))
    for standardize in (False, True):
        clean = optima.solve(q, "coordinate-descent", standardize=standardize)
        got = optima.solve(poison(q, 0, name, seed=4), "coordinate-descent", standardize=standardize)
        for k in same_split(q, 0):
            assert_same([got.weights_of(k)], [clean.weights_of(k)])


@pytest.mark.parametrize("l1", [0.0, 0.05])
def test_l1_of_log_loss_of_what_there_is_little_of(l1):
    """One feature, two rows, one training row, a training side of one class, constant columns and columns of zeros."""
    options = {"l1": l1, "l2": 1e-2, "solver": "coordinate-descent", "loss": "log_loss", "tol": 1e-9, "refit": False}
    X, y = fits.labels(60, 3)

    def judged(A, t, rows, **more):
        folds = [(rows, np.setdiff1d(np.arange(len(A)), rows))]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = gf.fit(A, t, folds=folds, **{**options, **more})
        missed, shift = reference.optimality("log_loss", A[rows], t[rows], run.coef[0], run.intercept[0], l1, 1e-2)
        assert run.converged[0] and missed.max() <= 1.01e-9 and shift <= 1.01e-9
        return run, " ".join(str(w.message) for w in caught)

    some = np.arange(40)
    judged(np.ascontiguousarray(X[:, :1]), y, some)
    two = np.array([np.flatnonzero(y == 0)[0], np.flatnonzero(y == 1)[0]])
    judged(X, y, np.sort(two))
    for rows in (np.array([5]), np.flatnonzero(y == 1)):
        run, said = judged(X, y, rows)
        assert "lack one of the classes" in said and not np.abs(run.coef).max() > 1 and abs(run.intercept[0]) > 10
    constant = np.full((60, 3), 7.0)
    run, _ = judged(constant, y, some)
    assert not run.coef.any()
    np.testing.assert_allclose(1 / (1 + np.exp(-run.intercept[0])), y[some].mean(), rtol=1e-8)
    holed = np.ascontiguousarray(np.column_stack([X, np.zeros(60), np.full(60, 1e6)]))
    for standardize in (False, True):
        run = gf.fit(holed, y, folds=3, standardize=standardize, **options)
        want = gf.fit(X, y, folds=3, standardize=standardize, **options)
        np.testing.assert_allclose(run.coef[:, :3], want.coef, rtol=1e-6, atol=1e-9)
        assert not run.coef[:, 3:].any()


def test_copies_of_a_column_share_no_warning():
    """With l1 alone a copy changes nothing; with l2 the copies share what one of them has."""
    X, y = fits.labels(200, 4)
    twice = np.ascontiguousarray(np.column_stack([X, X]))
    options = {"solver": "coordinate-descent", "loss": "log_loss", "l1": 0.02, "tol": 1e-10}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, both = gf.fit(X, y, l2=0.0, **options), gf.fit(twice, y, l2=0.0, **options)
        np.testing.assert_allclose(both.best_coef[:4] + both.best_coef[4:], one.best_coef, rtol=1e-7, atol=1e-9)
        half, shared = gf.fit(X, y, l2=0.005, **options), gf.fit(twice, y, l2=0.01, **options)
    np.testing.assert_allclose(shared.best_coef[:4], shared.best_coef[4:], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(2 * shared.best_coef[:4], half.best_coef, rtol=1e-6, atol=1e-9)


def test_separable_classes_with_l1_alone_are_no_reason_to_warn():
    X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    y = np.array([0, 0, 1, 1])
    options = {"solver": "coordinate-descent", "loss": "log_loss", "l2": 0.0, "tol": 1e-9}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = gf.fit(X, y, l1=1e-6, **options)
    missed, shift = reference.optimality("log_loss", X, y, run.best_coef, run.best_intercept, 1e-6, 0.0)
    assert run.best_converged and max(missed.max(), shift) <= 1e-9 and run.best_coef[0] > 5
    with pytest.warns(gf.ConvergenceWarning, match="separable"):
        gf.fit(X, y, l1=0.0, **options)


def test_l1_of_log_loss_with_max_iter():
    X, y = fits.labels(300, 5)
    with pytest.warns(gf.ConvergenceWarning, match=r"8 of 8 models \(candidates 0, 1\).*max_iter"):
        run = gf.fit(
            X, y, gf.grid(l1=[1e-3, 1e-2]), folds=4, solver="coordinate-descent", max_iter=1, refit=False, tol=1e-10
        )
    assert not run.converged.any() and (run.n_iter == 1).all() and np.isfinite(run.coef).all()
    assert (run.arrivals["gap"] > 0).all() and (run.arrivals["gradient_norm"] > 1e-10).all()


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_first_l1_of_a_grid_is_the_smallest_that_leaves_nothing(weighted, fit_intercept, standardize, labelled):
    X, y = fits.labels(150, 5) if labelled else fits.numbers(150, 5)
    X = np.ascontiguousarray(X * [1, 10, 0.1, 3, 1] + [0, 5, 1, -2, 1])
    weight = np.random.default_rng(1).integers(0, 3, 150).astype(float) if weighted else None
    options = {"sample_weight": weight, "fit_intercept": fit_intercept, "standardize": standardize}
    values = gf.l1_grid(X, y, 20, eps=1e-2, **options)
    assert values.shape == (20,) and np.isclose(values[-1] / values[0], 1e-2) and (np.diff(values) < 0).all()
    for factor, kept in ((1.0001, 0), (0.999, 1)):
        run = gf.fit(X, y, l1=float(values[0] * factor), l2=0.0, solver="coordinate-descent", tol=1e-12, **options)
        assert np.count_nonzero(run.best_coef) == kept


def test_a_grid_of_l1_beside_scikit_learns():
    sklearn = pytest.importorskip("sklearn.linear_model")
    X, y = fits.numbers(150, 5)
    alphas = sklearn.LassoCV(cv=3, eps=1e-2, alphas=30).fit(X, y).alphas_
    np.testing.assert_allclose(gf.l1_grid(X, y, 30, eps=1e-2), alphas, rtol=1e-10)
    labels = (y > y.mean()).astype(int)
    first = np.abs((X - X.mean(axis=0)).T @ (labels - labels.mean())).max() / 150
    for coded in (labels, np.where(labels > 0, "yes", "no"), 2 * labels - 1):
        np.testing.assert_allclose(gf.l1_grid(X, coded, 3)[0], first, rtol=1e-10)
    for bad in ({"eps": 1.0}, {"n_values": 0}, {"loss": "huber"}):
        with pytest.raises(ValueError, match=f"^{next(iter(bad))}: got"):
            gf.l1_grid(X, y, **bad)
    with pytest.raises(ValueError, match="^y: no feature"):
        gf.l1_grid(np.ones((4, 2)), [1.0, 2.0, 3.0, 4.0], loss="squared_error")


# ---- the promises ----------------------------------------------------------------------------------------------------


@st.composite
def problems(draw, loss=None, large=False, among=_optimum_check.SMOOTH):
    loss = draw(st.sampled_from([*among]), label="loss") if loss is None else loss
    p = draw(st.sampled_from([1, 7, 20, 90]), label="n_features")
    kinds = [k for k in sorted(splits.KINDS) if k != "leave_one_out"]
    return smooth_problem(
        draw(st.integers(0, 2**32 - 1), label="data"),
        n=draw(st.integers(1100, 2500) if large else st.integers(24, 160), label="n_rows"),
        p=p,
        m=draw(st.sampled_from([1, 2, 8, 9, 17]), label="n_models"),
        dtype=draw(st.sampled_from(DTYPES), label="dtype"),
        kind=draw(st.sampled_from(kinds), label="splits"),
        loss=loss,
        n_classes=draw(st.sampled_from([2, 3, 5]), label="n_classes") if loss == "multinomial" else 1,
        weights=draw(st.sampled_from(["none", "integers", "zeros"]), label="weights"),
    )


def options(draw):
    return {
        "standardize": draw(st.booleans(), label="standardize"),
        "fit_intercept": draw(st.booleans(), label="fit_intercept"),
        "sample": draw(st.booleans(), label="sample"),
        "max_iter": 12,
    }


def drawn(data, **kind):
    loss = data.draw(st.sampled_from([None, None, "squared_error", "log_loss"]), label="of l1, or exact")
    q = data.draw(problems(loss=loss, **kind))
    if loss is not None:
        if loss == "log_loss" or data.draw(st.booleans(), label="l1"):
            q = calls.replace(q, l1=10.0 ** np.random.default_rng(q.n_models).uniform(-4, 0, q.n_models))
            if data.draw(st.booleans(), label="no l2"):
                q = calls.replace(q, l2=np.zeros(q.n_models))
            return q, "coordinate-descent", options(data.draw)
        return q, "cholesky", options(data.draw)
    newton = q.loss != "multinomial" and data.draw(st.booleans(), label="newton")
    return q, "newton-cholesky" if newton else "lbfgs", options(data.draw)


@settings(max_examples=60)
@given(st.data())
def test_solo_is_batched(data):
    q, solver, how = drawn(data)
    together = optima.solve(q, solver, **how)
    order = data.draw(st.permutations(range(q.n_models)), label="order")
    chosen = order[: data.draw(st.integers(1, q.n_models), label="how many")]
    assert_same(optima.solve(q.of_models(chosen), solver, **how).bytes(), [together.of(k) for k in chosen], "in other company")
    k = data.draw(st.integers(0, q.n_models - 1), label="model")
    alone = q.of_models([k])
    # The folds are the same; only the split that is needed may be there.
    alone = calls.replace(alone, splits=alone.splits.only(alone.split_of_model), split_of_model=np.zeros(1, np.int64))
    assert_same(optima.solve(alone, solver, **how).bytes(), [together.of(k)], "alone")


@settings(max_examples=40)
@given(st.data())
def test_any_number_of_threads_and_any_level(data):
    q, solver, how = drawn(data, large=data.draw(st.booleans(), label="large"))
    want = optima.solve(q, solver, **how).bytes()
    for name in LEVELS:
        with calls.level(name):
            for n_threads in (1, 2, 7):
                assert_same(optima.solve(q, solver, n_threads=n_threads, **how).bytes(), want, f"{name}, {n_threads} threads")


@settings(max_examples=80)
@given(st.data())
def test_no_leak(data):
    q, solver, how = drawn(data)
    model = data.draw(st.integers(0, q.n_models - 1), label="model")
    clean = optima.solve(q, solver, **how)
    poisoned = poison(q, model, data.draw(st.sampled_from(sorted(POISONS)), label="poison"), seed=3)
    with calls.level(data.draw(st.sampled_from(LEVELS), label="level")):
        got = optima.solve(poisoned, solver, **how)
    for k in same_split(q, model):
        assert_same([got.weights_of(k)], [clean.weights_of(k)])


def test_a_poisoned_training_row_does_leak():
    q = smooth_problem(9, n=60, p=5, m=1, loss="squared_error", weights="ones")
    row = int(np.flatnonzero(q.model_roles()[0] == TRAIN)[7])
    X = q.X.copy()
    X[row] = 1e3
    for solver in ("lbfgs", "cholesky"):
        assert optima.solve(calls.replace(q, X=X), solver).weights_of(0) != optima.solve(q, solver).weights_of(0)
    labelled = calls.replace(smooth_problem(9, n=60, p=5, m=1, loss="log_loss", weights="ones"), l1=np.array([1e-3]))
    X = labelled.X.copy()
    X[int(np.flatnonzero(labelled.model_roles()[0] == TRAIN)[7])] = 1e3
    solver = "coordinate-descent"
    assert optima.solve(calls.replace(labelled, X=X), solver).weights_of(0) != optima.solve(labelled, solver).weights_of(0)


def test_blocks_of_models_change_nothing(monkeypatch):
    """Memory decides how many models go together."""
    q = smooth_problem(10, n=300, p=30, m=25, loss="log_loss")
    want = optima.solve(q)
    whole = optima.trainer(q)
    assert len(whole._blocks()) == 1
    original = _optimum.Trainer._blocks

    def small(self):
        return [block[i : i + 4] for block in original(self) for i in range(0, len(block), 4)]

    monkeypatch.setattr(_optimum.Trainer, "_blocks", small)
    assert_same(optima.solve(q).bytes(), want.bytes())


# ---- fit -------------------------------------------------------------------------------------------------------------


def test_fit_a_grid():
    X, y = fits.labels(300, 5)
    run = gf.fit(X, y, gf.grid(l2=[1e-3, 1e-1, 10.0]), folds=4, solver="lbfgs", tol=1e-9)
    assert run.coef.shape == (12, 5) and run.held_out_loss.shape == (3, 4) and run.converged.all() and run.best_converged
    for m in range(12):
        rows = run._folds.train_indices(m % 4)
        coef, b = reference.newton("log_loss", X[rows], y[rows], [1e-3, 1e-1, 10.0][m // 4])
        np.testing.assert_allclose(run.coef[m], coef, rtol=1e-6, atol=1e-8)
        score = run._folds.score_indices(m % 4)
        held_out = reference.objective("log_loss", X[score], y[score], run.coef[m], run.intercept[m], 0.0)
        np.testing.assert_allclose(run.held_out_loss[m // 4, m % 4], held_out, rtol=1e-12)
    coef, b = reference.newton("log_loss", X, y, run.best_params["l2"])
    np.testing.assert_allclose(run.best_coef, coef, rtol=1e-6)
    assert run.n_iter.shape == (12,) and (run.n_iter > 0).all() and run.solver == "lbfgs"


def test_fit_without_folds_with_validation_data_with_weights_of_classes_and_missing_cells():
    X, y = fits.labels(300, 5)
    alone = gf.fit(X, y, l2=1e-2, solver="lbfgs")
    assert alone.coef.shape == (0, 5) and alone.best_converged
    judged = gf.fit(X, y, gf.grid(l2=[1e-2, 1.0]), validation_data=(X[:50], y[:50]), solver="lbfgs")
    assert judged.best_converged
    same = alone.best_coef if judged.best_params["l2"] == 1e-2 else gf.fit(X, y, l2=1.0, solver="lbfgs").best_coef
    assert_same([judged.best_coef.tobytes()], [same.tobytes()])
    balanced = gf.fit(X, y, gf.grid(l2=[1e-2]), folds=3, class_weight="balanced", solver="lbfgs", tol=1e-8)
    rows = balanced._folds.train_indices(1)
    counts = np.bincount(y[rows])
    coef, _ = reference.newton("log_loss", X[rows], y[rows], 1e-2, (len(rows) / (2 * counts))[y[rows]])
    np.testing.assert_allclose(balanced.coef[1], coef, rtol=1e-5)
    holes = X.copy()
    holes[::7, 2] = np.nan
    filled = gf.fit(holes, y, gf.grid(l2=[1e-2]), folds=3, missing="mean", solver="lbfgs", tol=1e-8)
    rows = filled._folds.train_indices(0)
    own = np.where(np.isnan(holes), np.nanmean(holes[rows], axis=0), holes)
    coef, _ = reference.newton("log_loss", own[rows], y[rows], 1e-2)
    np.testing.assert_allclose(filled.coef[0], coef, rtol=1e-5)


def test_leave_one_out():
    X, y = fits.numbers(30, 3)
    folds = gf.index.from_splits(30, [(np.delete(np.arange(30), i), [i]) for i in range(30)])
    run = gf.fit(X, y, l2=1e-2, folds=folds, solver="cholesky")
    for i in (0, 7, 29):
        rows = np.delete(np.arange(30), i)
        coef, b = ridge(X[rows], y[rows], 1e-2, np.ones(29))
        np.testing.assert_allclose(run.coef[i], coef, rtol=1e-9)
        np.testing.assert_allclose(run.held_out_loss[0, i], 0.5 * (y[i] - X[i] @ coef - b) ** 2, rtol=1e-8)


def test_start_at_the_optimum():
    X, y = fits.labels(300, 5)
    run = gf.fit(X, y, l2=1e-2, solver="lbfgs", tol=1e-8)
    again = gf.fit(
        X, y, l2=1e-2, solver="lbfgs", tol=1e-6, coef_init=run.best_coef, intercept_init=run.best_intercept
    )
    assert again.best_steps == 0
    np.testing.assert_array_equal(again.best_coef, run.best_coef)


def test_what_did_not_converge_is_named():
    X, y = fits.labels(300, 5)
    with pytest.warns(gf.ConvergenceWarning, match=r"8 of 8 models \(candidates 0, 1\).*max_iter"):
        run = gf.fit(X, y, gf.grid(l2=[1e-5, 1e-4]), folds=4, solver="lbfgs", max_iter=1, refit=False, tol=1e-10)
    assert not run.converged.any() and (run.n_iter == 1).all() and np.isfinite(run.coef).all()
    with pytest.warns(gf.ConvergenceWarning, match="the refit did not converge"):
        gf.fit(X, y, solver="lbfgs", max_iter=1, tol=1e-10)


def test_a_start_on_a_sample_saves_passes():
    rng = np.random.default_rng(13)
    X = rng.standard_normal((70_000, 5)).astype(np.float32)
    y = (X.sum(axis=1) + rng.logistic(size=70_000) > 0).astype(float)
    started = gf.fit(X, y, l2=1e-5, solver="lbfgs")
    coef, b = reference.newton("log_loss", X, y, 1e-5)
    np.testing.assert_allclose(started.best_coef, coef, rtol=1e-3)
    whole = gf.fit(X[:60_000], y[:60_000], l2=1e-5, solver="lbfgs")  # too few rows for a start
    assert started.best_converged and started.refit_arrival["n_passes"] < whole.refit_arrival["n_passes"]


def of_normal_columns(seed, size, intercept):
    """70,000 rows of 20 normal columns of scales from 0.1 to 10, whose classes are told well: the loss bends little along the weights."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((70_000, 20))
    z = X @ rng.standard_normal(20)
    y = size * z / z.std() + intercept + rng.logistic(size=len(X)) > 0
    return (X * np.logspace(-1, 1, 20)).astype(np.float32), y.astype(float)


@pytest.mark.parametrize("size", [2.0, 3.0])
def test_few_passes_from_the_curvature_where_the_sample_has_led(size):
    """From that at 0, and the pairs of the sample, these took six and seven."""
    X, y = of_normal_columns(31, size, 3.0)
    folds = gf.index.stratified_kfold(y, 3)
    run = gf.fit(X, y, gf.grid(l2=[1e-6, 1e-4]), folds=folds, solver="lbfgs", refit=False)
    assert run.converged.all() and run.arrivals["n_passes"].max() <= 4 and not run.arrivals["n_hessians"].any()
    train = folds.train_indices(0)
    coef, b = reference.newton("log_loss", X[train], y[train], 1e-6)
    want = reference.objective("log_loss", X[train], y[train], coef, b, 1e-6)
    assert reference.objective("log_loss", X[train], y[train], run.coef[0], run.intercept[0], 1e-6) <= want * (1 + 1e-6)


def test_the_refit_starts_from_its_own_splits():
    """One pass, or two, whoever else trained; without splits that have arrived it starts as they did."""
    X, y = of_normal_columns(32, 3.0, 1.0)
    alone = gf.fit(X, y, gf.grid(l2=[1e-5]), folds=5, solver="lbfgs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gf.ChoiceWarning)
        company = gf.fit(X, y, gf.grid(l2=[1.0, 1e-5, 10.0]), folds=5, solver="lbfgs", n_threads=1)
    assert company.best_params["l2"] == 1e-5
    assert alone.best_coef.tobytes() == company.best_coef.tobytes() and alone.best_intercept == company.best_intercept
    assert alone.best_converged and 1 <= alone.refit_arrival["n_passes"] <= 2
    whole = gf.fit(X, y, l2=1e-5, solver="lbfgs", tol=1e-7)
    assert whole.refit_arrival["n_passes"] > 2
    least = whole.refit_arrival["objective"]
    assert abs(alone.refit_arrival["objective"] - least) <= 1e-6 * least
    with pytest.warns(gf.ConvergenceWarning, match="did not converge"):
        short = gf.fit(X, y, gf.grid(l2=[1e-5]), folds=5, solver="lbfgs", max_iter=1, tol=1e-9)
    assert short.refit_arrival["n_iter"] == 1


def test_a_models_own_hessian_takes_over():
    """Where the one at 0 says little, L-BFGS turns to that at hand; Newton's method has it from the start."""
    rng = np.random.default_rng(12)
    X = rng.standard_normal((300, 6)) * np.logspace(0, 2, 6)
    y = (X @ (np.ones(6) / np.logspace(0, 2, 6)) * 4 + rng.standard_normal(300) > 3).astype(float)
    lbfgs, newton = (gf.fit(X, y, l2=1e-7, solver=s, tol=1e-9) for s in ("lbfgs", "newton-cholesky"))
    assert lbfgs.best_converged and newton.best_converged
    assert lbfgs.refit_arrival["n_hessians"] >= 1 and newton.refit_arrival["n_hessians"] == newton.best_steps
    assert newton.best_steps < lbfgs.best_steps < 60
    np.testing.assert_allclose(newton.best_coef, lbfgs.best_coef, rtol=1e-6)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky"])
@pytest.mark.parametrize("loss", ["squared_hinge", "modified_huber", "squared_epsilon_insensitive"])
def test_few_rows_that_bend_the_loss(loss, solver):
    """Near a perfect fit a matrix of all rows says less than there is to gain: some were called optima 8e-6 above it."""
    for (n, p, l2), seed in itertools.product([(30, 40, 1e-6), (60, 60, 1e-6), (20, 20, 1e-4)], range(2)):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((n, p))
        z = X @ rng.standard_normal(p) / np.sqrt(p) + 0.3
        y = z if loss == "squared_epsilon_insensitive" else (z > 0).astype(float)
        best = reference.objective(loss, X, y, *reference.newton(loss, X, y, l2), l2)
        run = gf.fit(X, y, loss=loss, solver=solver, l2=l2)
        assert run.best_converged and run.refit_arrival["n_hessians"] >= 1
        assert reference.objective(loss, X, y, run.best_coef, run.best_intercept, l2) <= best + 5e-8


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky"])
@pytest.mark.parametrize("loss", ["squared_hinge", "modified_huber", "squared_epsilon_insensitive", "huber"])
def test_max_iter_of_those_that_are_checked(loss, solver):
    """Whether it is the optimum is asked where the last iteration has led, too, and no model takes one more."""
    rng = np.random.default_rng(4)
    X = rng.standard_normal((30, 4))
    z = X @ np.array([1.0, -1.0, 0.5, 0.0]) + 0.5 * rng.standard_normal(30)
    y = z if loss in _optimum.OF_NUMBERS else (z > 0).astype(float)
    keywords = dict(loss=loss, solver=solver, l2=1e-2)
    whole = gf.fit(X, y, **keywords)
    assert whole.best_converged and whole.best_steps > 1
    enough = gf.fit(X, y, max_iter=whole.best_steps, **keywords)
    assert enough.best_converged and enough.best_coef.tobytes() == whole.best_coef.tobytes()
    for max_iter in range(1, whole.best_steps):
        with pytest.warns(gf.ConvergenceWarning, match="max_iter was reached"):
            short = gf.fit(X, y, max_iter=max_iter, **keywords)
        assert short.best_steps == max_iter


@pytest.mark.parametrize("loss", ["huber", "squared_epsilon_insensitive", "squared_error"])
def test_no_start_loosens_the_stop(loss):
    """What the objective is held against is of y alone: not what it was at a start far away, or near the optimum."""
    rng = np.random.default_rng(3)
    # With the moments of y beside those of X, and without; there no Hessian says how much there is to gain, and it is told less well.
    for n, p, share in [(200, 5, 1e-5), (40, 70, 5e-4)]:
        X = rng.standard_normal((n, p))
        y = 100 + X @ rng.standard_normal(p) / np.sqrt(p) + rng.standard_normal(n)
        keywords = dict(loss=loss, solver="lbfgs", l2=1e-2, loss_epsilon=0.5, tol=1e-2)
        far = gf.fit(X, y, coef_init=np.full(p, 1e4), intercept_init=-1e6, **keywords)
        near = gf.fit(X, y, **keywords)
        best = gf.fit(X, y, **keywords | dict(tol=1e-10)).refit_arrival["objective"]
        for run in (near, far):
            assert run.best_converged
            assert abs(run.refit_arrival["objective"] - best) <= share * max(best, 0.02 * y.var())
        again = gf.fit(X, y, coef_init=near.best_coef, intercept_init=near.best_intercept, **keywords)
        assert again.best_converged and again.best_steps <= 1


@pytest.mark.parametrize(("loss", "epsilon"), [("huber", 1.35), ("squared_epsilon_insensitive", 0.0)])
def test_a_perfect_fit_that_is_gone_on_with(loss, epsilon):
    """In float32, without l2: the objective is 0 but for rounding, and the refit starts where nothing is left to lower."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((70_000, 3)).astype(np.float32)
    y = (X @ np.array([1.0, -2.0, 0.5]) + 1).astype(np.float32)
    run = gf.fit(X, y, loss=loss, loss_epsilon=epsilon, solver="lbfgs", l2=0.0, folds=3)
    assert run.converged.all() and run.best_converged
    np.testing.assert_allclose(run.best_coef, [1, -2, 0.5], atol=1e-4)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky"])
@pytest.mark.parametrize("loss", ["squared_hinge", "modified_huber"])
def test_starts_at_which_no_row_or_few_bend_the_loss(loss, solver):
    """All rows beyond their margin, where l2 alone is left; and near the optimum, where those that bend it lie across the weights."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((2000, 5))
    w = rng.standard_normal(5)
    X = X[np.abs(X @ w) > 0.2]
    y = (X @ w > 0).astype(float)
    keywords = dict(loss=loss, solver=solver, l2=1e-6)
    best = reference.objective(loss, X, y, *reference.newton(loss, X, y, 1e-6), 1e-6)
    near = gf.fit(X, y, **keywords)
    for times, of in ((1, near.best_coef), (1.02, near.best_coef), (20, w)):
        run = gf.fit(X, y, coef_init=times * of, intercept_init=near.best_intercept if times < 2 else 0.0, **keywords)
        assert run.best_converged
        assert reference.objective(loss, X, y, run.best_coef, run.best_intercept, 1e-6) <= best + 5e-8


def test_rows_that_bend_the_loss_are_counted_in_the_split():
    """Not those that weigh nothing, nor those that the split does not train on."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 60))
    y = (X @ rng.standard_normal(60) > 0).astype(float)
    keywords = dict(loss="squared_hinge", solver="lbfgs", l2=1e-6, refit=False)
    best = reference.objective("squared_hinge", X, y, *reference.newton("squared_hinge", X, y, 1e-6), 1e-6)
    many, labels = np.vstack([X, rng.standard_normal((1140, 60))]), np.append(y, rng.integers(0, 2, 1140))
    weight = (np.arange(1200) < 60).astype(float)
    for n_trained, sample_weight in ((60, None), (1199, weight)):
        folds = gf.index.from_splits(1200, [(np.arange(n_trained), np.arange(n_trained, 1200))])
        run = gf.fit(many, labels, folds=folds, sample_weight=sample_weight, **keywords)
        assert run.converged.all()
        assert reference.objective("squared_hinge", X, y, run.coef[0], run.intercept[0], 1e-6) <= best + 5e-8


@pytest.mark.parametrize("loss", ["huber", "squared_epsilon_insensitive"])
def test_a_target_of_zeros(loss):
    X = np.random.default_rng(6).standard_normal((50, 3))
    with pytest.warns(UserWarning, match="every row has the target 0"):
        run = gf.fit(X, np.zeros(50), loss=loss, solver="lbfgs", coef_init=np.ones(3), intercept_init=2.0)
    assert run.best_converged and run.refit_arrival["objective"] < 1e-6


def test_separable_classes_without_a_penalty():
    """There is no optimum: weights grow until the gradient is small, and stay finite."""
    X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    y = np.array([0, 0, 1, 1])
    for tol in (1e-4, 1e-9):
        with pytest.warns(gf.ConvergenceWarning, match="the refit: the training rows are separable"):
            run = gf.fit(X, y, l2=0.0, solver="lbfgs", tol=tol)
        assert np.isfinite(run.best_coef).all() and (run.predict(X) == y).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gf.fit(X, y, l2=1e-3, solver="lbfgs")
        gf.fit(*fits.labels(), l2=0.0, solver="lbfgs")


@pytest.mark.parametrize("loss", ["log_loss", "multinomial"])
def test_which_splits_lack_a_class(loss, monkeypatch):
    """Rows are looked at a few at a time, and a class may come late."""
    monkeypatch.setattr(_optimum, "_ROWS", 7)
    got, want = [], []
    for seed in range(30):
        q = calls.problem(seed, n=40, p=2, m=1, kind=sorted(splits.KINDS)[seed % len(splits.KINDS)], loss=loss)
        rare = np.random.default_rng(seed).random(40) < 0.08
        q = calls.replace(q, y=np.where(rare, q.y, 0).astype(q.y.dtype))
        t = optima.trainer(q)
        for s, role in enumerate(q.splits.roles()):
            rows = (role == TRAIN) & (q.sample_weight != 0)
            got.append(t._one_class(s))
            want.append(len(np.unique(q.y[rows])) < (3 if loss == "multinomial" else 2))
    assert got == want and 0 < sum(want) < len(want)


@pytest.mark.parametrize(
    ("keywords", "names"),
    [
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"schedule": "cosine"}, "schedule"),
        ({"early_stopping": True}, "early_stopping"),
        ({"halving": True, "candidates": gf.grid(l2=[1, 2, 3])}, "halving"),
        ({"callbacks": print}, "callbacks"),
        ({"track_train_loss": True}, "track_train_loss"),
        ({"average": 3}, "average"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"l1": 0.1}, "l1"),
        ({"l2": -1.0}, "l2"),
        ({"loss": "hinge"}, "loss"),
        ({"solver": "cholesky"}, "solver"),
        ({"solver": "coordinate-descent", "loss": "huber"}, "solver"),
        ({"solver": "coordinate-descent", "loss": "multinomial"}, "solver"),
        ({"solver": "coordinate-descent", "coef_init": np.ones(3)}, "coef_init"),
        ({"solver": "coordinate-descent", "l1": -1.0}, "l1"),
        ({"solver": "newton-cholesky", "l1": 0.1}, "l1"),
        ({"solver": "cholesky", "l1": 0.1, "loss": "squared_error"}, "l1"),
        ({"solver": "newton-cholesky", "loss": "multinomial"}, "solver"),
        ({"candidates": gf.grid(solver=["lbfgs", "sgd"])}, "solver"),
        ({"max_iter": 0}, "max_iter"),
        ({"tol": 0.0}, "tol"),
        ({"tol": np.nan}, "tol"),
    ],
)
def test_bad_input(keywords, names):
    X, y = fits.labels(60, 3)
    with pytest.raises(ValueError, match=f"^{names}: got "):
        gf.fit(X, y, **{"solver": "lbfgs", **keywords})


def test_multinomial_raises_on_a_cuda_device(monkeypatch):
    monkeypatch.setattr(_device, "require_cuda", lambda: None)
    X, _ = fits.labels(60, 3)
    for solver in ("auto", "lbfgs"):
        with pytest.raises(ValueError, match="^loss: got 'multinomial' with device='cuda'"):
            gf.fit(X, np.arange(60) % 3, solver=solver, device="cuda")


# ---- passes that Python takes ------------------------------------------------------------------------------------------


class Passes:
    """What `gradfold.cuda.optimum.Passes` is, by the CPU's kernels; of float64, whose sums no rounding has touched."""

    def __init__(self, q):
        self.q, self.kept, self.calls = q, [], 0

    def over(self, loss, ids, conditions, sample):
        def evaluate(W, intercept, split_of_model, loss_epsilon, sampled, scores):
            self.calls += 1
            self.kept.append((W, intercept, split_of_model, loss_epsilon))
            self.before()
            n_models = len(intercept)
            losses, sums = np.full(n_models, np.nan), np.empty((len(W) + 1, n_models))
            if scores:
                return losses, None
            b = np.empty(n_models)
            _core.gradient.loss_gradient(
                self.q.X, self.q.y, W, intercept, loss, False, sample if sampled else None, ids, conditions, split_of_model,
                self.q.sample_weight, losses, sums[:-1], b, 1, loss_epsilon,
            )  # fmt: skip
            sums[-1] = b
            return losses, sums

        return evaluate

    def before(self):
        pass


def by_python(q, solver, passes, **how):
    t = optima.trainer(q, solver, device="cuda", **how)
    models = np.arange(q.n_models)
    t._passes = passes
    return t._optimizer(models, t._moments(), lambda: False)[0]


@pytest.mark.parametrize(("solver", "loss"), [("lbfgs", "huber"), ("newton-cholesky", "log_loss"), ("coordinate-descent", "log_loss")])
def test_passes_by_python(solver, loss):
    q = smooth_problem(21, n=1100, p=6, m=11, loss=loss, dtype=np.float64)
    want, passes = optima.solve(q, solver), Passes(q)
    optimizer = by_python(q, solver, passes)
    assert optimizer.advance() == "done"
    assert optimizer.coef().tobytes() == want.coef.tobytes() and optimizer.intercept().tobytes() == want.intercept.tobytes()
    for name, values in optimizer.arrivals().items():
        assert values.tobytes() == want.arrivals[name].tobytes(), name
    assert passes.calls == want.arrivals["n_passes"].max() + 1
    # What the callable was given is its own.
    del optimizer
    W, intercept, split_of_model, _ = passes.kept[0]
    assert not W.any() and W.shape == (6, 11) and split_of_model.tolist() == np.unique(q.split_of_model, return_inverse=True)[1].tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
def test_what_a_pass_raises_comes_out(error):
    q = smooth_problem(22, n=60, p=3, m=3, loss="log_loss", dtype=np.float64)
    passes = Passes(q)
    optimizer = by_python(q, "lbfgs", passes)
    assert optimizer.advance(max_steps=2) == "paused"

    def refuse():
        raise error("the third")

    passes.before = refuse
    for _ in range(2):
        with pytest.raises(error, match="the third"):
            optimizer.advance()
    passes.before = lambda: None
    assert (optimizer.arrivals()["n_passes"] == 2).all()
    assert optimizer.advance() == "done" and optimizer.coef().tobytes() == optima.solve(q).coef.tobytes()


def test_a_pass_may_cancel():
    q = smooth_problem(23, n=60, p=3, m=3, loss="log_loss", dtype=np.float64)
    passes = Passes(q)
    optimizer = by_python(q, "lbfgs", passes)
    passes.before = lambda: optimizer.cancel() if passes.calls == 3 else None
    assert optimizer.advance() == "interrupted" and passes.calls == 3
    assert (optimizer.arrivals()["n_passes"] == 2).all() and np.isfinite(optimizer.coef()).all()


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (None, TypeError, r"^evaluate: got NoneType, wanted a tuple"),
        ((np.zeros(3),), TypeError, r"^evaluate: got tuple, wanted a tuple \(losses, sums\)"),
        ((np.zeros(2), np.zeros((4, 3))), ValueError, r"^evaluate \(losses\): got shape \(2,\)"),
        ((np.zeros(3, np.float32), np.zeros((4, 3))), TypeError, r"^evaluate \(losses\): got an array of float32"),
        ((np.zeros(3), np.zeros((3, 4))), ValueError, r"^evaluate \(sums\): got shape \(3, 4\), wanted shape \(4, 3\)"),
        ((np.zeros(3), np.zeros((4, 3), order="F")), ValueError, r"^evaluate \(sums\): got an array that is not C-contiguous"),
        ((np.zeros(3), None), TypeError, r"^evaluate \(sums\): got NoneType"),
    ],
)  # fmt: skip
def test_what_a_pass_gives_is_looked_at(found, error, message):
    q = smooth_problem(24, n=60, p=3, m=3, loss="log_loss", dtype=np.float64)
    with pytest.raises(error, match=message):
        by_python(q, "lbfgs", SimpleNamespace(over=lambda *_: lambda *_: found)).advance()


def test_who_may_take_passes():
    q = smooth_problem(25, n=60, p=3, m=3, loss="log_loss", dtype=np.float64)
    with pytest.raises(TypeError, match="^evaluate: got int, wanted a callable or None"):
        by_python(q, "lbfgs", SimpleNamespace(over=lambda *_: 3))
    several = smooth_problem(25, n=60, p=3, m=3, loss="multinomial", dtype=np.float64)
    with pytest.raises(ValueError, match="^evaluate: got a callable, wanted None for a loss of several outputs"):
        by_python(several, "lbfgs", Passes(several))


def test_save_and_load(tmp_path):
    X, y = fits.labels(100, 3)
    run = gf.fit(X, y, gf.grid(l2=[1e-2, 1.0]), folds=3, solver="lbfgs")
    run.save(tmp_path / "run.npz")
    back = gf.load(tmp_path / "run.npz")
    for name, values in run.arrivals.items():
        np.testing.assert_array_equal(back.arrivals[name], values)
    assert back.converged.all() and back.best_converged and back.refit_arrival["n_iter"] == run.refit_arrival["n_iter"]
    with pytest.raises(RuntimeError, match="lbfgs"):
        back.partial_fit(X, y)


def test_not_finite_training_rows_diverge():
    X, y = fits.numbers(60, 3)
    X[5, 1] = np.nan
    folds = gf.index.kfold(60, 3, shuffle=False)
    for solver, loss in (("lbfgs", "squared_error"), ("cholesky", "squared_error"), ("coordinate-descent", "log_loss")):
        with pytest.warns(RuntimeWarning, match="diverged"):
            run = gf.fit(X, y > 0 if loss == "log_loss" else y, folds=folds, solver=solver, loss=loss, check_finite=False, refit=False)
        assert run.diverged.tolist() == [False, True, True]
        assert np.isnan(run.held_out_loss[0, 1:]).all() and np.isfinite(run.coef).all()


def test_max_seconds_keeps_what_there_is():
    X, y = fits.labels(3000, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = gf.fit(X, y, gf.grid(l2=list(np.logspace(-9, -7, 30))), folds=5, solver="lbfgs", tol=1e-200, max_seconds=0.05)
    assert run.stop_reason == "max_seconds" and run.interrupted and np.isfinite(run.coef).all()
    assert np.isnan(run.held_out_loss).all() and run.best_coef is None


def test_an_interrupt_keeps_what_there_is():
    X, y = fits.labels(20000, 100)
    timer = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = gf.fit(X, y, gf.grid(l2=list(np.logspace(-9, -7, 200))), folds=5, solver="lbfgs", tol=1e-200, max_iter=10**6)
    timer.join()
    assert run.stop_reason == "interrupted" and time.monotonic() - started < 20
    assert np.isfinite(run.coef).all()


# ---- what a review found ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_near_copy_is_judged_without_the_neighbours(seed):
    """Whether a pivot counts as rounding may not depend on how large the supports of a group's other models are."""
    rng = np.random.default_rng(seed)
    n, p = 400, 200
    Q = np.linalg.qr(np.column_stack([np.ones(n), rng.standard_normal((n, p + 1))]))[0][:, 1:] * np.sqrt(n)
    X = np.ascontiguousarray(np.column_stack([Q[:, 0], Q[:, 0] + 3e-7 * Q[:, 1], Q[:, 2:p]]))
    y = 3 * X[:, 0] + 3 * X[:, 1] + 0.05 * X[:, 2:].sum(axis=1)
    keywords = {"solver": "coordinate-descent", "l2": 0.0, "tol": 1e-18, "validation_data": (X[:20], y[:20]), "refit": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solo, both = (gf.fit(X, y, gf.grid(l1=l1), **keywords) for l1 in ([1.0], [1.0, 1e-3]))
    assert_same([solo.coef[0].tobytes()], [both.coef[0].tobytes()])


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky"])
def test_rows_without_a_second_derivative(solver):
    """Huber's far rows have a gradient that the Hessian knows nothing of: a column of theirs alone has none there."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, 4))
    far = np.arange(2000) < 20
    y = X @ [1, 2, 3, 4.0] + 0.1 * rng.standard_normal(2000) + 100 * far
    X = np.ascontiguousarray(np.column_stack([X, far]))
    run = gf.fit(X, y, solver=solver, loss="huber", loss_epsilon=1.35, l2=0.0, tol=1e-6)
    assert run.best_converged
    np.testing.assert_allclose(run.best_coef, [1, 2, 3, 4, 100], atol=0.1)


def test_a_held_out_weight_says_nothing_about_separable_rows():
    X = np.linspace(-1, 1, 40)[:, None].copy()
    y = (X[:, 0] > 0).astype(float)
    folds = gf.index.kfold(40, 2, seed=1)
    weight = np.ones(40)
    weight[folds.score_indices(0)[3]] = 1e-30
    flags = []
    for w in (None, weight):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = gf.fit(X, y, folds=folds, solver="lbfgs", l2=0.0, sample_weight=w, refit=False, loss="log_loss")
        flags.append(bool(run.arrivals["separable"][0]))
    assert flags == [True, True]


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the rounding modes' numbers are those of x86-64"
)
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(
    ("solver", "labelled"), [(s, s not in _optimum.LOSSES) for s in _optimum.SOLVERS] + [("coordinate-descent", True)]
)
def test_the_callers_rounding_mode_changes_nothing(solver, labelled, standardize):
    X, y = fits.labels(120, 4) if labelled else fits.numbers(120, 4)
    X = np.ascontiguousarray(X * [1, 3, 0.1, 7] + [5, 0, -2, 1])
    libm = ctypes.CDLL("libm.so.6")

    def fit():
        run = gf.fit(
            X, y, gf.grid(l2=[1e-3, 0.1]), folds=3, solver=solver, standardize=standardize, refit=False,
            l1=0.05 if solver == "coordinate-descent" else 0.0,
        )  # fmt: skip
        return [run.coef.tobytes(), run.intercept.tobytes(), run.held_out_loss.tobytes()]

    want = fit()
    libm.fesetround(0x800)  # upward
    try:
        got = fit()
    finally:
        libm.fesetround(0)
    assert_same(got, want)


@pytest.mark.parametrize("solver", ["cholesky", "coordinate-descent"])
def test_weights_that_the_type_cannot_hold(solver):
    X, y = fits.numbers(100, 3, dtype=np.float32)
    X = (X * np.float32(1e-20) * np.float32(1e-19)).astype(np.float32)
    with pytest.warns(RuntimeWarning, match="the refit diverged"):
        run = gf.fit(X, (y * 10).astype(np.float32), l2=0.0, solver=solver)
    assert np.isfinite(run.best_coef).all() and np.isfinite(run.best_intercept) and not run.best_converged


def test_a_sum_of_squares_of_y_that_overflows():
    X, y = fits.numbers(100, 3)
    with pytest.warns(RuntimeWarning, match="the refit diverged"):
        gf.fit(X, y * 1e160, l2=0.0, l1=1e159, solver="coordinate-descent")


def test_a_variance_that_overflows_in_a_wide_matrix():
    """Without a Gram matrix the moments are summed by another kernel."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((50, 400))
    X[:, 0] *= 1e170
    with pytest.warns(RuntimeWarning, match="the refit diverged"):
        run = gf.fit(X, (X[:, 1] > 0).astype(float), solver="lbfgs", standardize=True, loss="log_loss")
    assert not run.best_coef.any()


@pytest.mark.parametrize(("solver", "p"), [("coordinate-descent", 300), ("cholesky", 600)])
def test_max_seconds_ends_solvers_without_passes(solver, p):
    X, y = fits.numbers(1500, p)
    grid = gf.grid(l2=list(np.logspace(-6, 0, 200)))
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = gf.fit(X, y, grid, folds=5, solver=solver, max_seconds=0.2, n_threads=1, refit=False)
    assert run.stop_reason == "max_seconds" and time.monotonic() - started < 5
    assert np.isfinite(run.coef).all() and (run.arrivals["how"] != _optimum.MAX_ITER).all()


def test_max_seconds_and_an_interrupt_end_l1_of_log_loss():
    X, y = fits.labels(3000, 100)
    options = {"folds": 5, "solver": "coordinate-descent", "loss": "log_loss", "refit": False, "tol": 1e-200, "max_iter": 10**6}
    grid = gf.grid(l1=list(np.logspace(-6, -1, 200)))
    for reason in ("max_seconds", "interrupted"):
        timer = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT))
        started = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if reason == "interrupted":
                timer.start()
                run = gf.fit(X, y, grid, **options)
                timer.join()
            else:
                run = gf.fit(X, y, grid, max_seconds=0.2, **options)
        assert run.stop_reason == reason and time.monotonic() - started < 10
        assert np.isfinite(run.coef).all() and (run.arrivals["how"] == 0).any()


def test_a_start_survives_an_early_end():
    X, y = fits.labels(200, 3)
    q = gf.fit(X, y, gf.grid(l2=[0.1, 1.0]), folds=3, solver="lbfgs", coef_init=np.full(3, 7.0), max_seconds=1e-9, refit=False)
    assert q.stop_reason == "max_seconds" and (q.coef == 7).all()


@pytest.mark.parametrize(
    ("keywords", "name"),
    [
        ({"momentum": 0.5}, "momentum"),
        ({"weight_decay": 3.0}, "weight_decay"),
        ({"decay": 0.5}, "decay"),
        ({"candidates": gf.grid(batch_size=[16, 32])}, "batch_size"),
        ({"candidates": gf.grid(l2=[0.1, 0.2], batch_size=[256])}, "batch_size"),
        ({"batch_size": 256}, "batch_size"),
        ({"epochs": 10}, "epochs"),
        ({"solver": "coordinate-descent", "epochs": 10}, "epochs"),
        ({"solver": "cholesky", "loss": "squared_error", "coef_init": np.ones(3)}, "coef_init"),
        ({"solver": "cholesky", "loss": "squared_error", "candidates": gf.grid(init_seed=[1, 2])}, "init_seed"),
        ({"solver": "adam", "max_iter": 5}, "max_iter"),
        ({"solver": "sgd", "tol": 1e-3}, "tol"),
    ],
)
def test_nothing_is_ignored_in_silence(keywords, name):
    X, y = fits.labels(60, 3)
    with pytest.raises(ValueError, match=f"^{name}: got "):
        gf.fit(X, y, **{"solver": "lbfgs", **keywords})


def test_each_solver_has_its_own_warnings():
    X, y = fits.numbers(200, 3)
    X = np.ascontiguousarray(np.column_stack([X, X[:, 0]]))
    for solvers, candidate in ((["lbfgs", "cholesky"], 1), (["cholesky", "lbfgs"], 0)):
        with pytest.warns(gf.ConvergenceWarning, match=rf"^3 of 6 models \(candidates {candidate}\): up to 1 columns"):
            gf.fit(X, y, gf.grid(solver=solvers), l2=0.0, folds=3, refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gf.fit(X, y, l2=0.1, folds=3, solver="cholesky", callbacks=[], early_stopping=False)
        weight = np.ones(200)
        folds = gf.index.kfold(200, 4, seed=2)
        weight[folds.score_indices(1)] = 0  # scores nothing, as documented: no reason to warn
        gf.fit(X, y, l2=0.1, folds=folds, solver="cholesky", sample_weight=weight, refit=False)


@pytest.mark.filterwarnings("ignore::gradfold.ConvergenceWarning")  # float32 far from 0
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["cholesky", "coordinate-descent", "lbfgs", "newton-cholesky"])
@pytest.mark.parametrize("case", ["plain", "weights", "far mean", "exact fit", "no intercept", "collinear"])
def test_held_out_losses_of_squares(case: str, solver: str, dtype) -> None:
    """From the moments of the held-out rows, or from the rows themselves where those would not do: the mean over the rows."""
    rng = np.random.default_rng(3)
    n, p = 300, 6
    X = rng.standard_normal((n, p))
    if case == "collinear":
        X[:, 1] = X[:, 0] + 1e-3 * X[:, 1]
    if case == "far mean":
        X = X + 300.0
    y = X @ rng.standard_normal(p) + (0 if case == "exact fit" else 1) * rng.standard_normal(n)
    X, y = X.astype(dtype), y.astype(dtype)
    weight = (rng.integers(0, 3, n) if case == "weights" else np.ones(n)).astype(dtype)
    run = gf.fit(
        X, y, gf.grid(l2=[1e-6, 0.1]), folds=gf.index.kfold(n, 4, seed=2), loss="squared_error", solver=solver,
        sample_weight=weight if case == "weights" else None, fit_intercept=case != "no intercept", tol=1e-6,
    )  # fmt: skip
    for s, (_, scored) in enumerate(gf.index.kfold(n, 4, seed=2).split(X)):
        for c in range(2):
            coef, b = run.coef.reshape(2, 4, p)[c, s].astype(np.float64), float(run.intercept.reshape(2, 4)[c, s])
            residual = y[scored].astype(np.float64) - X[scored].astype(np.float64) @ coef - b
            wanted = 0.5 * np.average(residual**2, weights=weight[scored])
            # Rows are gone through in dtype: what rounding leaves of a raw prediction is all there is of an exact fit.
            size = np.abs(X[scored].astype(np.float64)) @ np.abs(coef) + abs(b)
            slack = 4 * np.finfo(dtype).eps * size.max() * (np.sqrt(2 * wanted) + 4 * np.finfo(dtype).eps * size.max())
            assert abs(run.held_out_loss[c, s] - wanted) <= 1e-9 * wanted + slack
            if case == "plain" and solver == "cholesky" and dtype == np.float32:
                # Rounded row by row it would be off by more: this is the way by moments.
                assert abs(run.held_out_loss[c, s] - wanted) <= 1e-12 * wanted


@pytest.mark.parametrize("solver", ["newton-cholesky", "lbfgs"])
@pytest.mark.parametrize("intercept", [30.0, -300.0, 1e5])
def test_a_start_where_every_row_is_saturated(solver, intercept):
    """No row bends the loss there, and the slope is that of the wrong ones."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 1))
    y = (X[:, 0] + rng.standard_normal(500) > 0).astype(int)
    near = gf.fit(X, y, solver="lbfgs", l2=1e-2, tol=1e-8)
    far = gf.fit(X, y, solver=solver, l2=1e-2, tol=1e-8, coef_init=np.zeros(1), intercept_init=intercept)
    assert far.best_converged
    np.testing.assert_allclose(far.best_coef, near.best_coef, rtol=1e-6)
    np.testing.assert_allclose(far.best_intercept, near.best_intercept, rtol=1e-6)


@pytest.mark.parametrize(("solver", "passes"), [("newton-cholesky", 25), ("lbfgs", 40)])
@pytest.mark.parametrize("seed", range(4))
def test_columns_with_rows_far_out(solver, passes, seed):
    """A few rows make up their Gram matrix, and no part of the Hessian: it must not be hidden behind them."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(seed)
    X = np.exp(3 * rng.standard_normal((2000, 3)))
    y = (np.clip(0.5 * (X - 1) @ rng.standard_normal(3), -30, 50) + rng.logistic(size=2000) > 0).astype(int)
    run = gf.fit(X, y, solver=solver, l2=1e-6)
    best = linear_model.LogisticRegression(C=1 / (1e-6 * 2000), solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(X, y)

    def objective(coef, intercept):
        z = X @ coef + intercept
        return np.mean(np.logaddexp(0, z) - y * z) + 0.5e-6 * coef @ coef

    assert run.best_converged and run.refit_arrival["n_passes"] <= passes
    least = objective(best.coef_[0], best.intercept_[0])
    assert objective(run.best_coef, run.best_intercept) <= least * (1 + 3e-7)


@pytest.mark.parametrize("out", [1e3, 1e6])
def test_newtons_method_with_rows_a_million_out(out):
    """Where a step along the model's own Hessian is not to be had, more of the one at 0 takes part in the next."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, 5))
    y = (X.sum(axis=1) + rng.logistic(size=2000) > 0).astype(int)
    y[:5] = X[:5].sum(axis=1) > 0
    X[:5] *= out
    found = [gf.fit(X, y, solver=solver, l2=1e-4) for solver in ("lbfgs", "newton-cholesky")]
    assert all(run.best_converged for run in found)
    one, other = (float(run.refit_arrival["objective"]) for run in found)
    assert abs(one - other) < 1e-6 * one
