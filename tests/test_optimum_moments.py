"""Moments of folds that are read once: for the check that X is finite, for the splits of all solvers, and for the refit."""

from __future__ import annotations

import gc
import signal
import warnings
import weakref

import numpy as np
import pytest

import gradfold as gf
import splits
from gradfold import _check, _moments, _optimum, _splits
from gradfold._problem import Problem, Rows
from gradfold._target import Target
from reference.roles import SKIP, TRAIN
from test_promises import POISONS

SOLVERS = [
    ("cholesky", "squared_error"), ("lbfgs", "squared_error"), ("lbfgs", "log_loss"), ("newton-cholesky", "log_loss"),
    ("coordinate-descent", "squared_error"), ("coordinate-descent", "log_loss"), ("auto", "auto"),
]  # fmt: skip


def data(n=300, p=4, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)).astype(dtype)
    return X, (X @ rng.standard_normal(p) + rng.standard_normal(n)).astype(dtype)


def target(y, loss):
    return (y > 0).astype(np.int64) if loss == "log_loss" else y


@pytest.fixture
def reads(monkeypatch):
    """The numbers of rows that moments were summed of, and the names of arrays that were searched."""
    rows, searched = [], []
    read, finite = _moments.Moments._read, _check.finite

    def counted(self, order, offset):
        rows.append(len(order))
        return read(self, order, offset)

    def noted(argument, array, n_threads):
        searched.append(argument)
        finite(argument, array, n_threads)

    monkeypatch.setattr(_moments.Moments, "_read", counted)
    monkeypatch.setattr(_check, "finite", noted)
    return rows, searched


# ---- what is not finite ----------------------------------------------------------------------------------------------


def folds_of(told):
    return gf.index.Folds(told.ids, told.conditions)


def every_folds(n):
    """What `fit` takes as folds, by name; rows 0 to 9 are skipped, or trained but never scored, or scored and never trained, by some."""
    rows, rng = np.arange(n), np.random.default_rng(5)
    shuffled = rng.permutation(rows)
    return {
        "none": None,
        "int": 3,
        "repeats": gf.index.kfold(n, 3, n_repeats=2),
        "skipped rows": gf.index.from_splits(n, [(rows[10:150], rows[150:]), (rows[150:], rows[10:150])]),
        "hold-out and test rows": gf.index.holdout(n, (0.5, 0.3, 0.2), seed=1),
        "time series": folds_of(splits.time_series(rng, n)),
        "nested": folds_of(splits.nested(rng, n)),
        "overlapping": gf.index.from_splits(n, [(shuffled[:200], shuffled[200:]), (shuffled[50:250], shuffled[:50])]),
        "leave-one-out": gf.index.leave_one_out(n),
        "pairs": [(rows[:200], rows[200:])],
    }


@pytest.mark.parametrize(("solver", "loss"), SOLVERS)
@pytest.mark.parametrize("name", sorted(every_folds(300)))
def test_what_is_not_finite_is_named(solver, loss, name):
    """Wherever it stands, with and without weights: the text is that of a search through X."""
    X, y = data(300)
    y = target(y, loss)
    rng = np.random.default_rng(1)
    weight = rng.choice([0.0, 1.0, 2.5], 300)
    options = {"l1": 1e-3} if solver == "coordinate-descent" else {}
    places = [0, 5, 299, *rng.integers(0, 300, 4), int(np.flatnonzero(weight == 0)[0])]
    for number, row in enumerate(places):
        bad = X.copy()
        bad[row, rng.integers(4)] = [np.nan, np.inf, -np.inf][number % 3]
        bad[min(row + 7, 299), 3] = np.nan  # not the first one
        with pytest.raises(ValueError, match="^X: got ") as wanted:
            _check.finite("X", bad, 1)
        for w in (None, weight):
            with pytest.raises(ValueError, match="^X: got ") as got:
                gf.fit(bad, y, folds=every_folds(300)[name], solver=solver, loss=loss, sample_weight=w, **options)
            assert str(got.value) == str(wanted.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_among_many_rows(value, dtype, each_level):
    """In the rows that a cell's columns are shifted by and behind them, in the last row of a chunk, in the last column."""
    X, y = data(6000, 30, dtype=dtype)
    folds = gf.index.kfold(6000, 2, shuffle=False)
    weight = np.full(6000, 1e-30, dtype)
    for row, column in ((0, 0), (1023, 29), (1024, 7), (2999, 29), (5999, 0)):
        bad = X.copy()
        bad[row, column] = value
        for w in (None, weight):
            with pytest.raises(ValueError, match=rf"^X: got -?(nan|inf) at row {row}, column {column}, wanted finite numbers only$"):
                gf.fit(bad, y, folds=folds, solver="cholesky", sample_weight=w)


def test_other_data_that_is_not_finite():
    X, y = data()
    bad = X.copy()
    bad[7, 1] = np.nan
    for keywords, text in (
        ({"validation_data": (bad, y)}, "^validation_data X: got nan at row 7, column 1"),
        ({"sample_weight": np.where(np.arange(300) == 3, np.inf, 1.0)}, "^sample_weight: got inf at row 3"),
    ):
        with pytest.raises(ValueError, match=text):
            gf.fit(X, y, solver="cholesky", **keywords)
    with pytest.raises(ValueError, match="^X: got nan at row 7, column 1"):
        gf.fit(bad, y, solver="cholesky", validation_data=(X, y))
    with pytest.raises(ValueError, match="^X: got nan at row 7, column 1"):
        gf.fit(bad, y > 0, solver="lbfgs", class_weight="balanced")
    wrong = bad.copy()
    wrong[9, 0] = np.inf
    with pytest.raises(ValueError, match="^X: got inf at row 9, column 0"):
        gf.fit(wrong, y, solver="cholesky", missing="mean")


def test_other_faults_of_an_x_that_is_not_finite():
    """Infinity beside missing cells and class weights, where means of columns are taken early."""
    X, y = data()
    X[3, 1], X[9, 1] = np.nan, np.inf
    weights = {False: 1.0, True: 2.0}
    for keywords in ({"class_weight": weights}, {"class_weight": "balanced"}, {}):
        with pytest.raises(ValueError, match="^X: got inf at row 9, column 1"):
            gf.fit(X, y > 0, solver="lbfgs", missing="mean", folds=3, **keywords)


def test_an_interrupt_while_rows_are_summed(monkeypatch):
    """During the check there is nothing to lose yet: the run has models that have not moved."""
    read = _moments.Moments._read

    def pressed(self, order, offset):
        signal.raise_signal(signal.SIGINT)
        return read(self, order, offset)

    monkeypatch.setattr(_moments.Moments, "_read", pressed)
    X, y = data()
    run = gf.fit(X, y, gf.grid(l2=[0.1, 1.0]), folds=3, solver="cholesky")
    assert run.stop_reason == "interrupted" and run.best_coef is None and not run.coef.any()


def test_a_splitter_never_sees_what_is_not_finite():
    X, y = data()
    X[3, 3] = np.nan

    class Splitter:
        def split(self, X, y):
            raise AssertionError("called")

    with pytest.raises(ValueError, match="^X: got nan at row 3, column 3"):
        gf.fit(X, y, folds=Splitter(), solver="cholesky")


@pytest.mark.parametrize("solver", ["cholesky", "lbfgs", "coordinate-descent"])
def test_finite_values_whose_sums_are_not_do_not_raise(solver, reads):
    """Then the search decides, and the models are those of a fit that checks nothing."""
    X, y = data()
    X[:, 2] = np.random.default_rng(6).choice([-1.7e308, 1.7e308], 300)
    results = []
    for check in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = gf.fit(X, y, gf.grid(l2=[0.1, 1.0]), folds=3, solver=solver, check_finite=check, loss="squared_error")
        results.append((run.coef.tobytes(), run.intercept.tobytes(), run.held_out_loss.tobytes(), run.diverged.tobytes()))
    assert results[0] == results[1] and "X" in reads[1]


# ---- once is enough --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solvers", "loss"),
    [(["cholesky"], "squared_error"), (["lbfgs", "newton-cholesky"], "log_loss"), (["coordinate-descent", "cholesky"], "squared_error")],
)
def test_rows_are_summed_once(solvers, loss, reads):
    """For the check, for the splits of each solver, for held-out losses and for the refit."""
    X, y = data()
    gf.fit(X, target(y, loss), gf.grid(solver=solvers, l2=[0.1, 0.2]), folds=gf.index.kfold(300, 3), loss=loss)
    assert reads[0] == [300] and "X" not in reads[1]


def test_rows_without_splits_are_summed_once(reads):
    X, y = data()
    gf.fit(X, y > 0, l2=0.1, solver="lbfgs")
    assert reads[0] == [300] and "X" not in reads[1]


def test_weights_of_classes_are_those_of_each_training_set(reads):
    """Balanced weights of the refit are others than those of the splits, and so are its sums."""
    X, y = data(301)
    folds = gf.index.kfold(301, 3)
    run = gf.fit(X, y > 0.3, folds=folds, solver="newton-cholesky", class_weight="balanced", l2=0.1)
    alone = gf.fit(X, y > 0.3, solver="newton-cholesky", class_weight="balanced", l2=0.1)
    assert reads[0] == [301] * 5  # three splits and the refit, and that of the second fit
    np.testing.assert_allclose(run.best_coef, alone.best_coef, rtol=1e-9)


def test_a_solver_of_epochs_sums_nothing(reads):
    X, y = data()
    gf.fit(X, y, solver="adam", epochs=1, folds=3)
    assert reads[0] == [] and "X" in reads[1]


def test_sums_do_not_outlive_the_fit(monkeypatch):
    made, create = [], _moments.Moments.__init__

    def watched(self, *arguments):
        create(self, *arguments)
        made.append(weakref.ref(self))

    monkeypatch.setattr(_moments.Moments, "__init__", watched)
    X, y = data()
    run = gf.fit(X, y, gf.grid(l2=[0.1, 1.0]), folds=3, solver="cholesky")
    gc.collect()
    assert made and all(ref() is None for ref in made) and run.best_coef is not None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_ids_of_every_type_have_the_same_sums(dtype):
    X, y = data()
    rng = np.random.default_rng(2)
    of_row = rng.integers(0, 5, 300)
    ids = np.where(of_row == 4, np.iinfo(dtype).max, of_row).astype(dtype)[None]
    moments = _moments.Moments(X, y, None, ids, np.array([[[0, 1, 2, 0, 4]]], np.int64), 1)
    small = np.where(of_row == 4, 255, of_row).astype(np.uint8)[None]
    wanted = _moments.Moments(X, y, None, small, moments.conditions, 1)
    assert len(moments._of_row(0)) == 4 and not moments.tell_finite()
    for got, want in zip(moments._of_row(0), wanted._of_row(0), strict=True):
        assert got.weight == want.weight and got.comoment.tobytes() == want.comoment.tobytes()
    many = np.where(of_row == 4, np.iinfo(dtype).max, 60 + of_row).astype(dtype)[None]
    assert len(_moments.Moments(X, y, None, many, moments.conditions, 1)._of_row(0)) == 64
    many[0, 7] = 64
    assert _moments.Moments(X, y, None, many, moments.conditions, 1)._of_row(0) is None


# ---- the refit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(splits.KINDS))
def test_the_refits_rows_under_the_ids_of_the_folds(kind):
    for seed in range(3):
        told = splits.KINDS[kind](np.random.default_rng(seed), 60)
        try:
            folds = folds_of(told)
        except ValueError:  # one without training rows
            continue
        condition = _splits.refit_condition(folds)
        if condition is None:
            continue
        role = splits.Splits(folds.ids, condition).roles()[0]
        assert set(role.tolist()) <= {SKIP, TRAIN}
        assert ((role == TRAIN) == (_splits.refit_ids(folds, 60)[0] == 0)).all()


def test_which_folds_tell_the_refit():
    n, rows = 60, np.arange(60)
    assert _splits.refit_condition(gf.index.kfold(n, 4, n_repeats=2)).tolist() == [[[1, 4, 4, 0, 4]]]
    assert _splits.refit_condition(gf.index.holdout(n, (0.5, 0.3, 0.2))).tolist() == [[[0, 2, 2, 0, 2]]]
    told = splits.nested(np.random.default_rng(0), n)
    assert _splits.refit_condition(folds_of(told)) is None
    # Two id rows, of which neither holds all rows.
    parts = gf.index.from_splits(n, [(rows[:20], rows[20:40]), (rows[10:50], rows[50:])])
    assert len(parts.ids) == 2 and _splits.refit_condition(parts) is None
    ids = np.repeat(np.arange(6), 10).astype(np.uint8)[None]
    apart = gf.index.Folds(ids, np.array([[[0, 0, 1, 1, 2]], [[0, 4, 5, 5, 6]]], np.int64))
    assert _splits.refit_condition(apart) is None  # no one uses ids 2 and 3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("solver", "loss"), SOLVERS[:5])
def test_the_refit_is_of_the_folds_sums(solver, loss, weighted):
    """To the bit that of a split that trains on all folds, which are added in ascending order."""
    X, y = data(n=2500)
    y = target(y, loss)
    weight = np.random.default_rng(3).choice([0.0, 1.0, 2.0], 2500) if weighted else None
    folds = gf.index.kfold(2500, 5)
    run = gf.fit(X, y, folds=folds, l2=0.1, solver=solver, loss=loss, sample_weight=weight, n_threads=2)
    moments = _moments.Moments(X, y.astype(X.dtype), weight, folds.ids, folds.conditions, 1)
    sums = _moments.Sums.total(moments._of_row(0), 5)
    problem = Problem(loss=loss, X=X, target=Target(loss, y.astype(X.dtype), None))
    settings = type("", (), {
        "n_threads": 1, "standardize": False, "fit_intercept": True, "tol": 1e-4, "max_iter": 1000, "check_finite": True,
        "device": "cpu",
    })  # fmt: skip
    trainer = _optimum.Trainer(
        problem, settings, [{"solver": solver, "loss": loss, "l1": 0.0, "l2": 0.1, "loss_epsilon": 0.1}], Rows(weight, None, None),
        ids=np.zeros((1, 2500), np.uint8), conditions=np.array([[[0, 0, 0, 0, 1]]], np.int64), splits=np.zeros(1, np.int64),
        coef_init=None, intercept_init=None,
    )  # fmt: skip
    trainer._moments = lambda: type("", (), {"of": staticmethod(lambda s: sums), "of_scored": staticmethod(lambda s: None)})
    assert trainer.advance() == "done"
    assert run.best_coef.tobytes() == trainer.coef()[0].tobytes() and run.best_intercept == trainer.intercept()[0]
    alone = gf.fit(X, y, l2=0.1, solver=solver, loss=loss, sample_weight=weight)
    np.testing.assert_allclose(run.best_coef, alone.best_coef, rtol=1e-6)


def test_the_refit_is_the_same_whichever_candidates_train():
    X, y = data()
    folds = gf.index.kfold(300, 3)
    grids = gf.grid(l2=[0.01]), gf.grid(l2=[10.0, 0.01, 1.0]), gf.grid(l2=[0.01], solver=["lbfgs", "cholesky"])
    for solver, grid in (("cholesky", grids[1]), ("cholesky", grids[2]), ("lbfgs", grids[1])):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gf.ChoiceWarning)
            run = gf.fit(X, y, grid, folds=folds, solver=solver, loss="squared_error")
            alone = gf.fit(X, y, grids[0], folds=folds, solver=run.best_params.get("solver", solver), loss="squared_error")
        assert run.best_params["l2"] == 0.01 and run.best_coef.tobytes() == alone.best_coef.tobytes()


@pytest.mark.parametrize("name", sorted(POISONS))
@pytest.mark.parametrize(("solver", "loss"), SOLVERS[:5])
def test_no_leak_into_the_refit(solver, loss, name):
    """Rows that no split uses: skipped ones, and those of an id of their own."""
    X, y = data(90, dtype=np.float64)
    y = target(y, loss).astype(np.float64)
    ids = np.tile([0, 1, 2, 3, 255], 18).astype(np.uint8)[None]
    folds = gf.index.Folds(ids, np.array([[[0, 0, 1, 0, 3]], [[0, 1, 2, 0, 3]]], np.int64))
    assert _splits.refit_condition(folds) is not None
    options = {"folds": folds, "solver": solver, "loss": loss, "l2": 0.1, "check_finite": False}
    clean = gf.fit(X, y, **options)
    bad = X.copy()
    bad[ids[0] > 2] = np.random.default_rng(4).choice(POISONS[name], ((ids[0] > 2).sum(), 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = gf.fit(bad, y, **options)
    assert run.best_coef.tobytes() == clean.best_coef.tobytes() and run.best_intercept == clean.best_intercept
    assert run.coef.tobytes() == clean.coef.tobytes()
    moved = X.copy()
    moved[ids[0] == 2] += 1
    assert gf.fit(moved, y, **options).best_coef.tobytes() != clean.best_coef.tobytes()
