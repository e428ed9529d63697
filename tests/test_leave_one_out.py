"""Leave-one-out of ridge in closed form: beside the definition, the way through the folds and scikit-learn; its bits; its rule."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calls
import fits
import gradfold as gf
import optima
import splits
from gradfold import _core, _moments, _optimum
from reference import optimum as reference
from test_promises import assert_same

LEVELS = _core.levels.supported()
DTYPES = [np.float32, np.float64]
L2 = [1e-6, 1e-3, 0.1, 10.0]


@contextlib.contextmanager
def few_rows(n):
    """Up to n rows, leave-one-out goes through the folds, each of which reads its own rows.

    Sums of cells would lose digits of columns far from zero: the distance of two cells' means has their rounding.
    """
    kept = _optimum._FEW_ROWS, _moments._MOST_CELLS
    _optimum._FEW_ROWS, _moments._MOST_CELLS = n, 0
    try:
        yield
    finally:
        _optimum._FEW_ROWS, _moments._MOST_CELLS = kept


def both(X, y, l2=tuple(L2), **keywords):
    """The Run in closed form, from two rows on, and the one through the folds."""
    runs = []
    for n in (0, 10**9):
        with few_rows(n), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            keywords = {"loss": "squared_error", "folds": gf.index.leave_one_out(len(X)), "refit": False, **keywords}
            runs.append(gf.fit(X, y, gf.grid(l2=list(l2)), solver="cholesky", **keywords))
    assert not runs[1].arrivals["closed_form"].any()
    return runs


def agree(one, other, X, y, rtol=1e-9):
    """The same models up to rounding: weights, what they predict of the row left out, reports."""
    assert (one.arrivals["how"] == other.arrivals["how"]).all() and (one.arrivals["dropped"] == other.arrivals["dropped"]).all()
    n = len(X)
    # Weights are compared as what they make of their columns.
    column = X.astype(np.float64).std(axis=0) if one.settings["fit_intercept"] else np.sqrt((X.astype(np.float64) ** 2).mean(axis=0))
    column[column < 1e-9] = 1
    Z = (X - X.mean(axis=0) if one.settings["fit_intercept"] else X).astype(np.float64) / column
    condition = [np.linalg.cond(Z.T @ Z / n + np.diag(row["l2"] / column**2)) for row in one.params]  # small pivots may add up to it
    assert (np.isnan(one.held_out_loss) == np.isnan(other.held_out_loss)).all()
    for m in range(len(one.coef)):
        size = np.abs(other.coef[m] * column).max()
        digits = max(rtol, 1e-14 * condition[m // n], rtol * 1e-5 / other.arrivals["smallest_pivot"][m])
        np.testing.assert_allclose(one.coef[m] * column, other.coef[m] * column, rtol=0, atol=10 * digits * size + 1e-14)
        # The root of the loss is the residual, whose digits are those of the terms of the prediction.
        terms = np.abs(X[m % n]) @ np.abs(other.coef[m]) + np.abs(y).max()
        before, after = np.sqrt(2 * np.nan_to_num([run.held_out_loss.flat[m] for run in (other, one)]))
        assert abs(before - after) <= digits * (before + 1e-2 * terms)
        assert abs(one.intercept[m] - other.intercept[m]) <= digits * terms
    mean_square = (y.astype(np.float64) ** 2).mean()
    np.testing.assert_allclose(one.arrivals["objective"], other.arrivals["objective"], rtol=1e-7, atol=1e-12 * mean_square)


# ---- beside the definition, the folds and scikit-learn ---------------------------------------------------------------


@st.composite
def designs(draw):
    """Rows of every awkward kind: fewer than columns, duplicated, of weight 0, alone in a column, far from 0."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="data"))
    n = draw(st.one_of(st.integers(2, 12), st.integers(13, 130)), label="n_rows")
    p = draw(st.sampled_from([1, 2, 5, 8, 23, 70]), label="n_features")
    X = rng.standard_normal((n, p)) * 10.0 ** rng.uniform(-1, 1, p)
    if draw(st.booleans(), label="far"):
        X += rng.choice([0.0, 10.0, -300.0], p)
    y = X @ rng.standard_normal(p) + rng.standard_normal(n) + 3
    kind = draw(st.sampled_from(["plain", "duplicated rows", "constant", "alone", "a copy", "outlier"]), label="kind")
    if kind == "duplicated rows":
        X[n // 2 :] = X[: n - n // 2]
    elif kind == "constant":
        X[:, 0] = 0.1
    elif kind == "alone":  # a column that only one row has, and one that only one row has not
        X[:, 0] = np.arange(n) == n // 2
        X[:, -1] = np.where(np.arange(n) == 0, 5.0, 2.0)
    elif kind == "a copy" and p > 1:
        X[:, 1] = X[:, 0]
    elif kind == "outlier":
        X[n // 3] *= 1e6
        y[n // 2] *= 1e5
    weight = draw(st.sampled_from(["none", "equal", "integers", "any", "zeros"]), label="weights")
    w = {
        "none": None,
        "equal": np.full(n, 0.3),
        "integers": rng.integers(1, 4, n).astype(float),
        "any": rng.uniform(0.1, 3, n),
        "zeros": np.where(rng.random(n) < 0.3, 0, rng.uniform(0.2, 3, n)),
    }[weight]
    if w is not None:
        w[:2] = np.maximum(w[:2], 0.2)  # every split has something to train on
    return X, y, w, kind


@settings(max_examples=150, deadline=None)
@given(designs(), st.booleans())
def test_against_the_folds(design, fit_intercept):
    X, y, w, _ = design
    one, other = both(X, y, sample_weight=w, fit_intercept=fit_intercept, n_threads=2)
    agree(one, other, X, y)


@settings(max_examples=80, deadline=None)
@given(designs(), st.booleans())
def test_against_the_definition(design, fit_intercept):
    X, y, w, _ = design
    with few_rows(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = gf.fit(
            X, y, gf.grid(l2=[1e-2, 1.0]), loss="squared_error", solver="cholesky", refit=False, sample_weight=w,
            folds=gf.index.leave_one_out(len(X)), fit_intercept=fit_intercept,
        )  # fmt: skip
    for c, l2 in enumerate((1e-2, 1.0)):
        coefs, intercepts, predictions = reference.leave_one_out(X, y, l2, w, fit_intercept)
        for i in np.flatnonzero(run.arrivals["closed_form"].reshape(2, -1)[c]).tolist():
            m = c * len(X) + i
            np.testing.assert_allclose(run.coef[m], coefs[i], rtol=0, atol=1e-8 * np.abs(coefs[i]).max() + 1e-13)
            reach = np.abs(y).max() + np.abs(X).max(axis=0) @ np.abs(coefs[i])
            assert abs(run.intercept[m] - intercepts[i]) <= 1e-9 * reach
            if w is None or w[i] > 0:
                assert abs(np.sqrt(2 * run.held_out_loss[c, i]) - abs(y[i] - predictions[i])) <= 1e-9 * reach
            else:
                assert np.isnan(run.held_out_loss[c, i])


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_ordinary_data_needs_no_fold(fit_intercept):
    """Else the tests above would compare the folds with themselves."""
    for weights in (None, np.random.default_rng(1).integers(0, 4, 200), np.random.default_rng(1).uniform(0.1, 3, 200)):
        X, y = fits.numbers(200, 9)
        X[:, 3] = X[:, 3] * 1e4 - 1e5
        X[:, 4] = 7.0
        X[:, 5] = np.arange(200) % 9 == 0
        one, other = both(X, y, sample_weight=weights, fit_intercept=fit_intercept)
        assert one.arrivals["closed_form"].all()
        agree(one, other, X, y, rtol=1e-9 if fit_intercept else 1e-7)  # without it the mean of 1e5 is in every square
        np.testing.assert_allclose(one.arrivals["smallest_pivot"], other.arrivals["smallest_pivot"], rtol=0.6)
        assert (one.arrivals["smallest_pivot"] <= other.arrivals["smallest_pivot"] * (1 + 1e-9)).all()
        gradient = np.abs(X).max() if not fit_intercept else 1e5
        assert one.arrivals["gradient_norm"].max() <= 1e-9 * gradient


def test_many_factors_of_a_wide_matrix():
    """More of them than are held at once: each row has a weight, and so a penalty, of its own."""
    X, y = fits.numbers(70, 800)
    one, other = both(X, y, l2=[1.0], sample_weight=np.random.default_rng(0).uniform(0.5, 2, 70), n_threads=2)
    assert one.arrivals["closed_form"].all()
    agree(one, other, X, y)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8])
def test_constants(value):
    X, y = fits.numbers(70, 3)
    X[:, 1] = value
    for fit_intercept in (True, False):
        one, other = both(X, y, fit_intercept=fit_intercept)
        agree(one, other, X, y, rtol=1e-9 if fit_intercept or value < 1 else 1e-5)
        assert not fit_intercept or (not one.coef[:, 1].any() and one.arrivals["closed_form"].all())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = gf.fit(X, np.full(70, 3.0), l2=0.1, solver="cholesky", loss="squared_error", folds=gf.index.leave_one_out(70))
    assert run.arrivals["closed_form"].all() and np.abs(run.coef).max() < 1e-14 and run.held_out_loss.max() < 1e-28


def test_float32_has_the_weights_of_float64_rounded():
    X, y = fits.numbers(150, 6, dtype=np.float32)
    one, other = both(X, y)
    assert one.arrivals["closed_form"].all() and one.coef.dtype == np.float32
    wide, _ = both(X.astype(np.float64), y.astype(np.float64))
    np.testing.assert_array_equal(one.coef, wide.coef.astype(np.float32))
    np.testing.assert_allclose(one.intercept, wide.intercept, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.held_out_loss, other.held_out_loss, rtol=1e-4, atol=1e-6)


def test_against_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = fits.numbers(120, 6)
    alphas = np.logspace(-3, 3, 7)
    run = gf.fit(
        X, y, gf.grid(l2=alphas / 119), loss="squared_error", solver="cholesky", folds=gf.index.leave_one_out(120)
    )
    assert run.arrivals["closed_form"].all()
    cv = linear_model.RidgeCV(alphas=alphas, store_cv_results=True).fit(X, y)
    np.testing.assert_allclose(2 * run.held_out_loss, cv.cv_results_.T, rtol=1e-9, atol=1e-12)
    weight = np.random.default_rng(3).uniform(0.5, 2, 120)
    for w in (None, weight):
        own = gf.fit(
            X, y, l2=0.01, loss="squared_error", solver="cholesky", folds=gf.index.leave_one_out(120), sample_weight=w
        )
        for i in (0, 50, 119):
            left = np.arange(120) != i
            total = 119 if w is None else w[left].sum()
            ridge = linear_model.Ridge(alpha=0.01 * total).fit(X[left], y[left], None if w is None else w[left])
            np.testing.assert_allclose(own.coef[i], ridge.coef_, rtol=1e-8)
            np.testing.assert_allclose(own.held_out_loss[0, i], 0.5 * (ridge.predict(X[i : i + 1])[0] - y[i]) ** 2, rtol=1e-9)


def test_held_out_losses_are_those_of_the_weights_that_are_returned():
    for dtype, p in ((np.float32, 300), (np.float64, 300), (np.float64, 3)):
        X, y = fits.numbers(90, p, dtype=dtype)
        weight = np.random.default_rng(0).integers(0, 3, 90).astype(dtype)
        one, _ = both(X, y, l2=[1.0], sample_weight=weight)
        assert one.arrivals["closed_form"].all()
        z = np.empty((90, 90), dtype)
        _core.gradient.raw_prediction(X, np.ascontiguousarray(one.coef.T), one.intercept, z, 1)
        apart = z.diagonal() - y
        want = np.where(weight > 0, weight.astype(np.float64) * (dtype(0.5) * (apart * apart)) / np.maximum(weight, 1), np.nan)
        np.testing.assert_array_equal(one.held_out_loss[0], want)


# ---- bits ------------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw, large=False):
    q = calls.problem(
        draw(st.integers(0, 2**32 - 1), label="data"),
        n=draw(st.integers(600, 1500) if large else st.integers(66, 140), label="n_rows"),
        p=draw(st.sampled_from([1, 3, 7, 20, 90]), label="n_features"),
        m=draw(st.sampled_from([1, 2, 8, 9, 70]), label="n_models"),
        dtype=draw(st.sampled_from(DTYPES), label="dtype"),
        kind="leave_one_out",
        loss="squared_error",
        weights=draw(st.sampled_from(["none", "ones", "integers", "zeros"]), label="weights"),
    )
    rng = np.random.default_rng(q.n_models)
    return calls.replace(q, l2=rng.choice([0.0, 1e-9, *L2], q.n_models))


def options(draw):
    return {"fit_intercept": draw(st.booleans(), label="fit_intercept"), "check_finite": True}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_solo_is_batched(data):
    q, how = data.draw(problems()), options(data.draw)
    together = optima.solve(q, "cholesky", **how)
    order = data.draw(st.permutations(range(q.n_models)), label="order")
    chosen = order[: data.draw(st.integers(1, q.n_models), label="how many")]
    assert_same(optima.solve(q.of_models(chosen), "cholesky", **how).bytes(), [together.of(k) for k in chosen], "in other company")
    k = data.draw(st.integers(0, q.n_models - 1), label="model")
    alone = q.of_models([k])
    alone = calls.replace(alone, splits=alone.splits.only(alone.split_of_model), split_of_model=np.zeros(1, np.int64))
    assert_same(optima.solve(alone, "cholesky", **how).bytes(), [together.of(k)], "alone")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_number_of_threads_and_any_level(data):
    q, how = data.draw(problems(large=data.draw(st.booleans(), label="large"))), options(data.draw)
    want = optima.solve(q, "cholesky", **how).bytes()
    for name in LEVELS:
        with calls.level(name):
            for n_threads in (1, 2, 7):
                assert_same(optima.solve(q, "cholesky", n_threads=n_threads, **how).bytes(), want, f"{name}, {n_threads} threads")


def test_a_whole_grid_on_any_number_of_threads(each_level):
    X, y = fits.numbers(500, 40)
    runs = [both(X, y, n_threads=n)[0] for n in (1, 2, 7)]
    assert runs[0].arrivals["closed_form"].all()
    for run in runs[1:]:
        assert run.coef.tobytes() == runs[0].coef.tobytes() and run.held_out_loss.tobytes() == runs[0].held_out_loss.tobytes()


def test_blocks_of_models_change_nothing(monkeypatch):
    """Memory decides how many models go together."""
    q = calls.problem(3, n=90, p=12, m=80, kind="leave_one_out", loss="squared_error", weights="integers")
    want = optima.solve(q, "cholesky", check_finite=True)
    assert want.arrivals["closed_form"].any() and len(optima.trainer(q, "cholesky", check_finite=True)._closed_blocks()) == 1
    original = _optimum.Trainer._closed_blocks

    def small(self):
        return [block[i : i + 7] for block in original(self) for i in range(0, len(block), 7)]

    monkeypatch.setattr(_optimum.Trainer, "_closed_blocks", small)
    assert_same(optima.solve(q, "cholesky", check_finite=True).bytes(), want.bytes())


# ---- the rule, and what it costs the promise -------------------------------------------------------------------------


def rows_of(folds):
    return _optimum.left_out_rows(folds.ids, folds.conditions).tolist()


def test_which_splits_leave_one_row_out():
    assert rows_of(gf.index.leave_one_out(5)) == [0, 1, 2, 3, 4]
    assert rows_of(gf.index.leave_one_out(300)) == list(range(300))
    folds = gf.index.kfold(7, 7, seed=1, n_repeats=2)
    assert rows_of(folds) == [int(folds.score_indices(s)[0]) for s in range(14)]
    pairs = [(np.delete(np.arange(6), i), [i]) for i in (3, 0, 1, 2, 5, 4)]
    assert rows_of(gf.index.from_splits(6, pairs)) == [3, 0, 1, 2, 5, 4]
    model_selection = pytest.importorskip("sklearn.model_selection")
    assert rows_of(gf.index.from_splits(6, model_selection.LeaveOneOut().split(np.zeros((6, 1))))) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", sorted(set(splits.KINDS) - {"leave_one_out"}))
def test_other_splits_are_no_leave_one_out(kind):
    own = splits.make(kind, np.random.default_rng(0), 40)
    assert (_optimum.left_out_rows(own.ids, own.conditions) == -1).all()


def test_splits_that_only_look_like_leave_one_out():
    for folds in (
        gf.index.time_series(6, 5),  # the last one trains on all rows but one: the promise is its
        gf.index.from_splits(4, [([0, 1, 2], [3])]),
        gf.index.from_splits(4, [([0, 1], [2]), ([0, 2], [1]), ([1, 2], [0])]),  # row 3 is left out by all
    ):
        assert (np.array(rows_of(folds)) == -1).all()
    assert (_optimum.left_out_rows(np.array([[0, 1, 1, 3]], np.uint8), np.array([[[0, 0, 1, 0, 4]]])) == -1).all()


def reason(X, y, **keywords):
    """The trainer's own words, and how many models went the closed way."""
    made = []
    original = _optimum.Trainer.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(_optimum.Trainer, "__init__", init)
        keywords = {"l2": 0.1, "loss": "squared_error", "solver": "cholesky", "folds": gf.index.leave_one_out(len(X)), **keywords}
        run = gf.fit(X, y, refit=False, **keywords)
    return made[0].solver_reason, run


def test_the_rule():
    X, y = fits.numbers(70, 4)
    said, run = reason(X, y)
    assert said == "leave-one-out in closed form" and run.arrivals["closed_form"].all()
    holes = X.copy()
    holes[3, 1] = np.nan
    for data, keywords, word in (
        (X[:64], {}, "64 rows"),
        (X, {"check_finite": False}, "check_finite"),
        (X, {"standardize": True}, "standardize"),
        (holes, {"missing": "mean"}, "missing"),
    ):
        said, run = reason(data, y[: len(data)], **keywords)
        assert "through the folds" in said and word in said and not run.arrivals["closed_form"].any()
    for keywords in ({"folds": 5}, {"solver": "lbfgs"}, {"solver": "coordinate-descent"}):
        said, run = reason(X, y, **keywords)
        assert said == "" and not run.arrivals["closed_form"].any()
    assert reason(X, y, missing="mean")[1].arrivals["closed_form"].all()  # nothing is missing


def test_where_digits_would_be_lost_a_model_goes_through_its_fold():
    X, y = fits.numbers(100, 5)
    X[:, 4] = np.arange(100) == 17  # only row 17 has it: without that row the weight is 0, exactly
    said, run = reason(X, y)
    assert not run.arrivals["closed_form"][17] and run.arrivals["closed_form"].sum() == 99 and "99 of 100" in said
    assert run.coef[17, 4] == 0 and run.coef[16, 4] != 0
    _, other = both(X, y, l2=[0.1])
    assert run.coef[17].tobytes() == other.coef[17].tobytes()
    X[:, 4] = X[:, 3]  # a copy: without a penalty every split drops one of the two
    for l2, whole in ((0.0, False), (1e-2, True)):
        run, other = both(X, y, l2=[l2])
        assert run.arrivals["closed_form"].all() == whole and (run.arrivals["dropped"] == (0 if whole else 1)).all()
        agree(run, other, X, y)


def test_a_held_out_row_that_is_not_finite():
    """The exception to the promise is of finite rows: NaN raises, and without the check the folds keep the promise."""
    X, y = fits.numbers(80, 3)
    clean = gf.fit(X, y, l2=0.1, solver="cholesky", folds=gf.index.leave_one_out(80), check_finite=False, refit=False)
    for value in (np.nan, np.inf, 1e30):
        bad = X.copy()
        bad[5, 1] = value
        if not np.isfinite(value):
            with pytest.raises(ValueError, match=r"^X: "):
                gf.fit(bad, y, l2=0.1, solver="cholesky", folds=gf.index.leave_one_out(80))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = gf.fit(bad, y, l2=0.1, solver="cholesky", folds=gf.index.leave_one_out(80), check_finite=False, refit=False)
        assert run.coef[5].tobytes() == clean.coef[5].tobytes() and run.intercept[5] == clean.intercept[5]
        if not np.isfinite(value):
            assert run.diverged.sum() == 79 and not run.diverged[5]


def test_how_far_a_finite_held_out_row_reaches():
    """The named exception: it changes last digits of its own split's model, and one far away sends the model to its fold."""
    X, y = fits.numbers(80, 3)
    kept = gf.fit(X, y, l2=0.1, solver="cholesky", folds=gf.index.leave_one_out(80), refit=False)
    for where, size in ((w, s) for w in ("X", "y") for s in (2.0, 30.0, 1e5, 1e30, 1e150)):
        moved, target = X.copy(), y.copy()
        (moved if where == "X" else target)[5] *= size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = gf.fit(moved, target, l2=0.1, solver="cholesky", folds=gf.index.leave_one_out(80), refit=False)
        np.testing.assert_allclose(run.coef[5], kept.coef[5], rtol=1e-11)
        assert run.arrivals["closed_form"][5] == (size < 1e3)


def test_data_beyond_float64_are_left_to_the_folds():
    X, y = fits.numbers(70, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = gf.fit(X * 1e200, y, l2=0.1, solver="cholesky", folds=gf.index.leave_one_out(70), refit=False)
    assert run.diverged.all() and not run.arrivals["closed_form"].any()


# ---- memory, time, interrupts ----------------------------------------------------------------------------------------


def test_models_that_memory_cannot_hold(monkeypatch):
    monkeypatch.setattr(_optimum, "told_memory", lambda: 1 << 20)
    X, y = fits.numbers(400, 10)
    with pytest.raises(MemoryError, match=r"^candidates: got 4000 models .* wanted fewer"):
        gf.fit(X, y, gf.grid(l2=np.logspace(-3, 0, 10)), solver="cholesky", folds=gf.index.leave_one_out(400))
    assert gf.fit(X, y, solver="cholesky", folds=5).ranked
    monkeypatch.setattr(_optimum, "told_memory", lambda: None)  # a system that does not say
    assert gf.fit(X, y, solver="cholesky", folds=gf.index.leave_one_out(400)).ranked


def test_max_seconds_keeps_what_there_is():
    X, y = fits.numbers(2000, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = gf.fit(
            X, y, gf.grid(l2=np.logspace(-4, 1, 30)), solver="cholesky", folds=gf.index.leave_one_out(2000), max_seconds=0.02
        )
    assert run.interrupted
    done = run.arrivals["how"] == _optimum.CONVERGED
    assert not run.coef[~done].any() and run.coef[done].any(axis=1).all()


def test_a_trainer_goes_on_after_a_pause():
    q = calls.problem(4, n=300, p=30, m=200, kind="leave_one_out", loss="squared_error", weights="zeros")
    want = optima.solve(q, "cholesky", check_finite=True)
    t = optima.trainer(q, "cholesky", check_finite=True)
    assert t.advance(seconds=0.0) == "paused"
    while t.advance(seconds=0.05) == "paused":
        pass
    assert_same(optima.Solved(t.coef(), t.intercept(), t.history()[0], t.arrivals).bytes(), want.bytes())


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a signal")
def test_an_interrupt_keeps_what_there_is():
    X, y = fits.numbers(3000, 100)
    timer = threading.Timer(0.15, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = gf.fit(X, y, gf.grid(l2=np.logspace(-4, 1, 60)), solver="cholesky", folds=gf.index.leave_one_out(3000), n_threads=1)
    timer.join()
    assert run.interrupted and run.best_coef is None
    assert not run.coef[run.arrivals["how"] == 0].any()


def test_save_and_load(tmp_path):
    X, y = fits.numbers(70, 3)
    run = gf.fit(X, y, l2=0.1, solver="cholesky", folds=gf.index.leave_one_out(70))
    run.save(tmp_path / "run.npz")
    assert gf.load(tmp_path / "run.npz").arrivals["closed_form"].all()
