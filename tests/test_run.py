"""`fit` as a whole, and what a `Run` can do: choice, refit, scores, predictions, files, interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradfold as gf


def _problem(n: int = 400, p: int = 6, seed: int = 0, dtype: Any = np.float64) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)).astype(dtype)
    y = (X @ rng.standard_normal(p) + rng.standard_normal(n) > 0).astype(np.int64)
    return X, y


def _regression(n: int = 300, p: int = 4, seed: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    return X, X @ rng.standard_normal(p) + 0.3 * rng.standard_normal(n) + 2


@pytest.fixture(scope="module")
def run() -> gf.Run:
    X, y = _problem()
    return gf.fit(X, y, gf.grid(l2=[1e-4, 0.1, 3.0]), epochs=8, batch_size=32, standardize=True)


# -- shapes and numbers ----------------------------------------------------------------------------------------------


def test_shapes(run: gf.Run) -> None:
    assert (run.n_candidates, run.n_splits, run.n_features) == (3, 5, 6)
    assert run.coef.shape == (15, 6) and run.intercept.shape == (15,)
    assert run.history.shape == (8, 3, 5) and run.held_out_loss.shape == (3, 5)
    assert run.history[-1].tobytes() == run.held_out_loss.tobytes()
    assert run.steps.tolist() == [8 * 13] * 15 and run.best_steps == 8 * 13
    assert run.diverged.shape == (15,) and not run.diverged.any()
    assert not run.interrupted and run.stop_reason == "done"
    assert run.best_coef.shape == (6,) and isinstance(run.best_intercept, float)
    assert run.solver == "adam" and "adam" in run.solver_reason


def test_held_out_loss_is_that_of_its_models(run: gf.Run) -> None:
    """Model = candidate · n_splits + split: recomputed from coef, with the splits that fit makes of 5 and labels."""
    X, y = _problem()
    folds = gf.index.stratified_kfold(y, 5, seed=0)
    for candidate in range(3):
        for split in range(5):
            m = candidate * 5 + split
            rows = folds.score_indices(split)
            loss = gf.loss.get("log_loss")(y[rows], X[rows] @ run.coef[m] + run.intercept[m])
            np.testing.assert_allclose(run.held_out_loss[candidate, split], loss, rtol=1e-12)


def test_training_lowers_the_loss_and_penalties_shrink(run: gf.Run) -> None:
    assert (run.history[-1, 0] < 0.6).all() and (run.history[-1, 0] < run.history[0, 0]).all()
    norms = np.linalg.norm(run.coef.reshape(3, 5, 6), axis=2)
    assert (norms[0] > norms[1]).all() and (norms[1] > norms[2]).all()


def test_choice_is_by_unweighted_mean_with_nan_last(run: gf.Run) -> None:
    assert run.best_candidate == np.argmin(run.held_out_loss.mean(axis=1))
    assert run.best_params == run.candidates[run.best_candidate]
    values = run.held_out_loss
    try:
        run.held_out_loss = np.array([[np.nan, 0.1], [0.5, 0.3], [0.3, 0.5]])
        assert run.best_candidate == 1  # the tie goes to the lower index
        run.held_out_loss = np.full((3, 2), np.nan)
        assert run.best_candidate == 0
    finally:
        run.held_out_loss = values


def test_candidates_override_keywords() -> None:
    X, y = _problem()
    table = gf.grid(learning_rate=[0.001, 0.05], schedule=["constant", "cosine"], l1=[0.0, 0.02])
    run = gf.fit(X, y, table, folds=3, solver="sgd", l2=0.5, learning_rate=9.0, epochs=3, refit=False)
    for i, row in enumerate(table):
        alone = gf.fit(X, y, folds=3, solver="sgd", l2=0.5, epochs=3, refit=False, **row)
        assert alone.coef.tobytes() == run.coef[3 * i : 3 * i + 3].tobytes()
    assert run.params[5] == {"l1": 0.02, "l2": 0.5, "learning_rate": 0.05, "schedule": "constant"}


@pytest.mark.parametrize(("solver", "rate"), [("sgd", 0.1), ("adam", 0.01), ("auto", 0.01)])
def test_default_learning_rate(solver: str, rate: float) -> None:
    X, y = _problem()
    run = gf.fit(X, y, solver=solver, epochs=2)
    assert run.params[0]["learning_rate"] == rate
    assert run.best_coef.tobytes() == gf.fit(X, y, solver=solver, epochs=2, learning_rate=rate).best_coef.tobytes()


def test_one_candidate_without_folds_is_only_refitted() -> None:
    X, y = _problem()
    run = gf.fit(X, y, epochs=3)
    assert run.n_splits == 0 and run.coef.shape == (0, 6) and run.held_out_loss.shape == (1, 0)
    assert run.best_coef is not None and run.best_params == run.params[0]
    assert run.folds_digest is None
    with pytest.raises(RuntimeError, match="no splits"):
        run.held_out_raw_prediction()
    assert "best" not in repr(run)
    pytest.importorskip("pandas")
    assert len(run.to_frame()) == 1


def test_no_refit(run: gf.Run) -> None:
    X, y = _problem()
    other = gf.fit(X, y, gf.grid(l2=[1e-4, 0.1, 3.0]), epochs=8, batch_size=32, standardize=True, refit=False)
    assert other.best_coef is None and other.coef.tobytes() == run.coef.tobytes()
    with pytest.raises(RuntimeError, match="no refitted model"):
        other.predict(X)


def test_refit_trains_every_row_that_a_split_uses(run: gf.Run) -> None:
    X, y = _problem()
    best = gf.fit(X, y, epochs=8, batch_size=32, standardize=True, **run.best_params)
    assert best.best_coef.tobytes() == run.best_coef.tobytes() and best.best_intercept == run.best_intercept


def test_refit_leaves_the_rows_of_no_split_out() -> None:
    X, y = _problem()
    train, score = np.arange(0, 200), np.arange(200, 300)
    keywords: dict[str, Any] = {"epochs": 3, "loss": "log_loss", "check_finite": False}
    clean = gf.fit(X, y, folds=[(train, score)], **keywords)
    poisoned = X.copy()
    poisoned[300:] = np.nan
    assert gf.fit(poisoned, y, folds=[(train, score)], **keywords).best_coef.tobytes() == clean.best_coef.tobytes()
    poisoned = X.copy()
    poisoned[250] += 1
    assert gf.fit(poisoned, y, folds=[(train, score)], **keywords).best_coef.tobytes() != clean.best_coef.tobytes()


def test_overlapping_and_training_only_splits() -> None:
    X, y = _problem()
    rows = np.arange(400)
    pairs = [(rows[:200], rows[200:]), (rows[100:], rows[:100]), (rows[:50], rows[:0])]
    run = gf.fit(X, y, folds=pairs, epochs=2)
    assert np.isfinite(run.held_out_loss[0, :2]).all() and np.isnan(run.held_out_loss[0, 2])
    assert run.best_coef is not None


def test_every_kind_of_folds() -> None:
    model_selection = pytest.importorskip("sklearn.model_selection")
    X, y = _problem()
    splitter = model_selection.KFold(4)
    pairs = list(splitter.split(X))
    results = [
        gf.fit(X, y, folds=folds, epochs=2, refit=False).coef.tobytes()
        for folds in (
            splitter,
            pairs,
            iter(pairs),
            gf.index.from_splits(400, pairs),
            gf.index.kfold(400, 4, shuffle=False),
        )
    ]
    assert len(set(results)) == 1


def test_pacing() -> None:
    """50,000 rows in batches of 125 over 20 epochs are exactly 8,000 steps; one batch of all rows is one an epoch."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50_000, 2)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.float32)
    assert gf.fit(X, y, epochs=20, batch_size=125).best_steps == 8000
    assert gf.fit(X, y, epochs=3, batch_size=50_000).best_steps == 3
    assert gf.fit(X, y, epochs=3, batch_size=2**40).best_steps == 3


def test_start() -> None:
    X, y = _problem()
    keywords: dict[str, Any] = {"folds": 3, "solver": "sgd", "learning_rate": 1e-300, "epochs": 1}
    start = np.arange(1.0, 7.0) / 7
    run = gf.fit(X, y, coef_init=start, intercept_init=0.25, **keywords)
    np.testing.assert_array_equal(run.coef, np.tile(start, (3, 1)))
    np.testing.assert_array_equal(run.intercept, [0.25] * 3)
    np.testing.assert_array_equal(run.best_coef, start)
    own = np.random.default_rng(0).standard_normal((3, 6))
    run = gf.fit(X, y, coef_init=own, intercept_init=[1.0, 2.0, 3.0], **keywords)
    np.testing.assert_array_equal(run.coef, own)
    np.testing.assert_array_equal(run.intercept, [1, 2, 3])
    np.testing.assert_allclose(run.best_coef, 0, atol=1e-290)
    # On X's own scale, also where the training is on standardised features.
    run = gf.fit(1000 * X, y, coef_init=own, standardize=True, **keywords)
    np.testing.assert_allclose(run.coef, own, rtol=1e-12)


def test_divergence_is_contained() -> None:
    X, y = _regression()
    table = gf.grid(learning_rate=[0.01, 1e20, 0.02])
    with pytest.warns(RuntimeWarning, match="^2 of 6 models diverged .* lower learning_rate") as caught:
        run = gf.fit(X, y, table, folds=2, solver="sgd", epochs=30)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert run.diverged.tolist() == [False, False, True, True, False, False]
    assert np.isfinite(run.coef).all()
    assert np.isnan(run.held_out_loss[1]).all() and np.isfinite(run.held_out_loss[[0, 2]]).all()
    assert (run.diverged_epoch >= 0).tolist() == run.diverged.tolist()
    assert (run.diverged_batch >= 0).tolist() == run.diverged.tolist()
    assert run.best_candidate in (0, 2) and not run.best_diverged
    assert np.isnan(run.scores("r2")[1]).all()
    quiet = gf.fit(X, y, gf.grid(learning_rate=[0.01, 0.02]), folds=2, solver="sgd", epochs=30)
    assert run.coef[[0, 1, 4, 5]].tobytes() == quiet.coef.tobytes()
    assert "2 diverged" in repr(run) and "refit diverged" not in repr(run)
    pytest.importorskip("pandas")
    frame = run.to_frame()
    assert frame["rank"].tolist()[1] == 3 and frame["diverged"].tolist() == [0, 2, 0]


def test_nothing_to_rank_is_not_refitted_in_silence() -> None:
    X, y = _regression()
    with pytest.warns(RuntimeWarning) as caught:
        run = gf.fit(X, y, gf.grid(learning_rate=[1e20, 1e21]), folds=2, solver="sgd", epochs=30)
    assert [str(w.message).split(" (")[0] for w in caught] == [
        "4 of 4 models diverged",
        "every candidate's mean held-out loss is NaN",
    ]
    assert all(w.filename == __file__ for w in caught)
    assert run.best_coef is None and run.diverged.all() and not run.ranked
    assert "no best: every mean held-out loss NaN" in repr(run) and "learning_rate" not in repr(run)
    with pytest.raises(RuntimeError, match="no candidate is best"):
        _ = run.best_params
    figure = pytest.importorskip("matplotlib.figure")
    assert len(run.plot(figure.Figure().subplots()).lines) == 1  # the curve, and no line at a best candidate


def test_a_diverged_refit_warns() -> None:
    X, y = _regression()
    with pytest.warns(RuntimeWarning, match=r"^the refit diverged at epoch \d+, batch \d+ .* lower learn") as caught:
        run = gf.fit(X, y, solver="sgd", learning_rate=1e20, epochs=30)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert run.best_diverged and np.isfinite(run.best_coef).all() and "the refit diverged" in repr(run)
    quiet = gf.fit(X, y, solver="sgd", learning_rate=0.01)
    assert not quiet.best_diverged and "diverged" not in repr(quiet)


def test_a_nan_weight_makes_its_models_diverge() -> None:
    X, y = _regression()
    weight = np.ones(len(y))
    weight[3] = np.nan
    with pytest.warns(RuntimeWarning, match="the refit diverged at epoch 0"):
        run = gf.fit(X, y, sample_weight=weight, check_finite=False, epochs=1)
    assert run.best_diverged
    with pytest.warns(RuntimeWarning, match="the refit diverged and keeps"):
        run = gf.fit(X, y, sample_weight=weight, check_finite=False)
    assert run.best_diverged and run.solver == "cholesky"


def test_splitter_gets_what_fit_was_given() -> None:
    class Splitter:
        def split(self, X: Any, y: Any) -> Any:
            self.got = X, y
            rows = np.arange(len(y))
            yield rows[::2], rows[1::2]

    X, y = _problem()
    X, y = np.asfortranarray(X), np.array(["no", "yes"], object)[y]
    splitter = Splitter()
    with pytest.warns(UserWarning, match="fit copied X"):
        run = gf.fit(X, y, folds=splitter, epochs=1)
    assert splitter.got[0] is X and splitter.got[1] is y and run.n_splits == 1


def test_a_rare_class_warns_where_fit_was_called() -> None:
    X, y = _problem(40)
    labels = np.array(["no", "yes"], object)[y]
    rare = min((int((y == k).sum()), name) for k, name in enumerate(("no", "yes")))
    with pytest.warns(UserWarning, match=f"y: class '{rare[1]}' has {rare[0]} rows, fewer than n_") as caught:
        gf.fit(X, labels, folds=30, epochs=1)
    assert len(caught) == 1 and caught[0].filename == __file__


# -- loss="auto" ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("negative", "positive", "dtype"),
    [
        (0, 1, np.int64),
        (-1, 1, np.int8),
        (3, 7, np.uint16),
        (0.0, 1.0, np.float32),
        (-1.0, 1.0, np.float64),
        (False, True, bool),
        ("cat", "dog", "U3"),
        ("cat", "dog", object),
        (b"a", b"b", "S1"),
        (2, 5, object),
    ],
)
def test_two_labels_of_any_type(negative: Any, positive: Any, dtype: Any) -> None:
    X, y = _problem()
    labels = np.array([negative, positive], dtype)[y]
    run = gf.fit(X, labels, epochs=2, folds=3)
    plain = gf.fit(X, y, epochs=2, folds=3)
    assert run.loss == "log_loss" and run.classes.tolist() == [negative, positive]
    assert run.best_coef.tobytes() == plain.best_coef.tobytes()
    assert set(run.predict(X).tolist()) == {negative, positive}
    assert ((run.predict(X) == labels) == (plain.predict(X) == y)).all()


def test_other_floats_are_a_regression() -> None:
    X, y = _regression()
    run = gf.fit(X, y, epochs=2)
    assert run.loss == "squared_error" and run.classes is None
    assert run.predict(X).tobytes() == run.predict_raw(X).tobytes()
    with pytest.raises(RuntimeError, match="predict_proba needs"):
        run.predict_proba(X)
    counts = np.arange(len(y)) % 4
    by_name, by_type = gf.fit(X, counts, loss="squared_error", epochs=2), gf.fit(X, counts.astype(float), epochs=2)
    assert by_name.best_coef.tobytes() == by_type.best_coef.tobytes()


@pytest.mark.parametrize("pair", [(0, 1), (-1, 1)])
def test_named_log_loss_takes_either_pair(pair: tuple[int, int]) -> None:
    X, y = _problem()
    labels = np.array(pair)[y]
    for check_finite in (True, False):
        run = gf.fit(X, labels, loss="log_loss", epochs=2, check_finite=check_finite)
        assert run.classes.tolist() == list(pair)
        assert run.best_coef.tobytes() == gf.fit(X, y, epochs=2).best_coef.tobytes()


# -- predictions and scores -------------------------------------------------------------------------------------------


def test_predictions(run: gf.Run) -> None:
    X, y = _problem()
    raw = run.predict_raw(X)
    np.testing.assert_allclose(raw, X @ run.best_coef + run.best_intercept, rtol=1e-12, atol=1e-12)
    probability = run.predict_proba(X)
    np.testing.assert_allclose(probability[:, 1], 1 / (1 + np.exp(-raw)), rtol=1e-13)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-15)
    assert (run.predict(X) == (raw > 0)).all() and (run.predict(X) == y).mean() > 0.7
    with pytest.raises(ValueError, match="got 5 features, wanted 6"):
        run.predict(X[:, :5].copy())
    broken = X.copy()
    broken[9, 1] = np.nan
    with pytest.raises(ValueError, match="row 9, column 1"):
        run.predict(broken)


def test_probabilities_at_the_ends() -> None:
    X = np.array([[-1e5], [1e5]] * 4)
    run = gf.fit(X, [0, 1] * 4, epochs=3, batch_size=8)
    assert run.predict_proba(X[:2]).tolist() == [[1, 0], [0, 1]]


def test_prediction_in_the_other_precision() -> None:
    X, y = _problem(dtype=np.float32)
    single = gf.fit(X, y, epochs=2)
    np.testing.assert_allclose(single.predict_raw(X.astype(np.float64)), single.predict_raw(X), rtol=1e-5, atol=1e-6)
    double = gf.fit(X.astype(np.float64), y, epochs=2)
    for call in (double.predict_raw, double.predict, double.predict_proba):
        with pytest.warns(UserWarning, match="predict copied X .dtype float32. to float64") as caught:
            call(X)
        assert caught[0].filename == __file__


def test_held_out_raw_prediction(run: gf.Run) -> None:
    X, y = _problem()
    raw = run.held_out_raw_prediction()
    folds = gf.index.stratified_kfold(y, 5, seed=0)
    assert raw.shape == (15, 400)
    for m in range(15):
        scored = folds.role(m % 5) == 2
        assert np.isnan(raw[m, ~scored]).all()
        np.testing.assert_allclose(raw[m, scored], X[scored] @ run.coef[m] + run.intercept[m], rtol=1e-12, atol=1e-12)
    assert run.held_out_raw_prediction(models=[7, 2]).tobytes() == raw[[7, 2]].tobytes()
    with pytest.raises(ValueError, match="models: got 15"):
        run.held_out_raw_prediction(models=[15])


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_scikit_learns(weighted: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    X, y = _problem()
    weight = np.random.default_rng(5).integers(0, 4, 400).astype(float) if weighted else None
    run = gf.fit(X, y, gf.grid(l2=[0.01, 1.0]), folds=3, epochs=3, sample_weight=weight)
    folds = gf.index.stratified_kfold(y, 3, seed=0)
    target = X @ np.arange(6.0) + 1
    fit = gf.fit(X, target, gf.grid(l2=[0.01, 1.0]), folds=folds, epochs=3, sample_weight=weight)
    for c in range(2):
        for s in range(3):
            rows = folds.score_indices(s)
            w = None if weight is None else weight[rows]
            raw = X[rows] @ run.coef[3 * c + s] + run.intercept[3 * c + s]
            value = X[rows] @ fit.coef[3 * c + s] + fit.intercept[3 * c + s]
            expected = {
                "accuracy": metrics.accuracy_score(y[rows], raw > 0, sample_weight=w),
                "neg_log_loss": -metrics.log_loss(y[rows], 1 / (1 + np.exp(-raw)), sample_weight=w),
            }
            for name, score in expected.items():
                np.testing.assert_allclose(run.scores(name)[c, s], score, rtol=1e-9)
            mse = metrics.mean_squared_error(target[rows], value, sample_weight=w)
            np.testing.assert_allclose(fit.scores("neg_mean_squared_error")[c, s], -mse, rtol=1e-9)
            np.testing.assert_allclose(
                fit.scores("r2")[c, s], metrics.r2_score(target[rows], value, sample_weight=w), rtol=1e-9
            )
            np.testing.assert_allclose(fit.scores()[c, s], -mse / 2, rtol=1e-9)
    assert run.scores().tobytes() == (-run.held_out_loss).tobytes()
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        run.scores("acuracy")
    with pytest.raises(ValueError, match="does not suit loss='log_loss'"):
        run.scores("r2")


# -- tables and pictures ----------------------------------------------------------------------------------------------


def test_to_frame(run: gf.Run) -> None:
    pytest.importorskip("pandas")
    frame = run.to_frame()
    assert list(frame.columns) == ["l2", "mean", "std", "rank", "diverged", *(f"split{s}" for s in range(5))]
    assert frame["l2"].tolist() == [1e-4, 0.1, 3.0]
    np.testing.assert_allclose(frame["std"], run.held_out_loss.std(axis=1))
    assert frame["rank"].min() == 1 and frame["rank"].idxmin() == run.best_candidate


def test_plot(run: gf.Run) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    ax = run.plot(figure.Figure().subplots())
    assert ax.get_xlabel() == "l2" and ax.get_xscale() == "log"
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), run.mean_held_out_loss)


@pytest.mark.parametrize(("module", "call"), [("pandas", "to_frame"), ("matplotlib.pyplot", "plot")])
def test_missing_extra(run: gf.Run, monkeypatch: pytest.MonkeyPatch, module: str, call: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'gradfold\[cli\]'"):
        getattr(run, call)()


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_is_exact(tmp_path: Path, dtype: Any) -> None:
    X, y = _problem(dtype=dtype)
    labels = np.array(["no", "yes"], object)[y]
    run = gf.fit(X, labels, gf.grid(l2=[0.01, 1.0], schedule=["constant", "cosine"]), folds=3, epochs=2, seed=2**64 - 1)
    path = tmp_path / "run.npz"
    run.save(path)
    read = gf.load(path)
    names = "coef intercept steps history held_out_loss diverged diverged_epoch diverged_batch best_coef".split()
    for name in names:
        mine, theirs = getattr(run, name), getattr(read, name)
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape and mine.tobytes() == theirs.tobytes()
    for name in (
        "best_intercept best_steps best_diverged candidates params loss solver solver_reason settings stop_reason "
        "version folds_digest weights_sha256 best_candidate"
    ).split():
        assert getattr(run, name) == getattr(read, name), name
    assert read.predict(X).tolist() == run.predict(X).tolist()
    assert read.settings["seed"] == 2**64 - 1
    read.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
    with pytest.raises(RuntimeError, match="does not hold"):
        read.held_out_raw_prediction()


def test_saved_without_refit(tmp_path: Path) -> None:
    X, y = _regression()
    gf.fit(X, y, folds=3, epochs=1, refit=False).save(tmp_path / "run")
    read = gf.load(tmp_path / "run")
    assert read.best_coef is None and read.best_intercept is None and read.classes is None and read.candidates is None


def test_file_is_a_plain_npz(run: gf.Run, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    run.save(path)
    with zipfile.ZipFile(path) as archive:
        assert "meta.json" in archive.namelist()
    with np.load(path, allow_pickle=False) as members:
        assert members["coef"].tobytes() == run.coef.tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]


def test_folds_digest_tells_splits_apart() -> None:
    X, y = _problem()
    digests = [
        gf.fit(X, y, folds=4, epochs=1, seed=s, l2=l2, refit=False).folds_digest
        for s, l2 in ((0, 0.1), (0, 1.0), (1, 0.1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_every_damage_is_found(run: gf.Run, tmp_path: Path) -> None:
    path, broken = tmp_path / "run.npz", tmp_path / "broken.npz"
    run.save(path)
    content = path.read_bytes()
    start = content.index(b"coef.npy") + 200
    for damaged in (
        b"",
        b"not a file of ours",
        content[: len(content) // 2],
        content[:-30],
        content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :],
    ):
        broken.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a gradfold-run file, or is damaged"):
            gf.load(broken)
    with pytest.raises(FileNotFoundError):
        gf.load(tmp_path / "absent.npz")


def test_foreign_and_forged_files(run: gf.Run, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, coef=np.zeros(3))
    with pytest.raises(ValueError, match="not a gradfold-run file"):
        gf.load(foreign)
    path, forged = tmp_path / "run.npz", tmp_path / "forged.npz"
    run.save(path)
    edits = {
        b'"format_version": 2': b'"format_version": 9',
        b'"format": "gradfold-run"': b'"format": "gradfold-rum"',
        b'"seed": 0': b'"soed": 0',
        b'"loss": "log_loss"': b'"loss": "log_lass"',
        b'"weights_sha256": "': b'"weights_sha256": "f',
    }
    for old, new in edits.items():
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(forged, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                target.writestr(name, content.replace(old, new) if name == "meta.json" else content)
        if b"seed" in old:
            assert gf.load(forged).weights_sha256 == run.weights_sha256
            continue
        with pytest.raises(ValueError, match="gradfold-run file|damaged"):
            gf.load(forged)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_save_leaves_the_old_file(
    run: gf.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "run.npz"
    run.save(path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise error

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            with pytest.raises(type(error)):
                run.save(path)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    with pytest.raises(FileNotFoundError, match="no such folder"):
        run.save(tmp_path / "absent" / "run.npz")


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "folder", "link to a folder"])
def test_save_replaces_regular_files_only(run: gf.Run, tmp_path: Path, kind: str) -> None:
    # Never a real device, nor a link to one: run by root, a save that fails this test replaces it for everybody.
    path = tmp_path / "target"
    real = tmp_path / "real" if kind.startswith("link") else path
    if kind.endswith("fifo"):
        os.mkfifo(real)
    else:
        real.mkdir()
    if real != path:
        path.symlink_to(real)
    before = sorted(p.name for p in tmp_path.iterdir()), path.lstat().st_mode, os.stat(path).st_mode
    with pytest.raises(ValueError, match=r"^path: got '.*target', which is there and is no regular file"):
        run.save(path)
    assert before == (sorted(p.name for p in tmp_path.iterdir()), path.lstat().st_mode, os.stat(path).st_mode)


def test_paths_of_every_kind(run: gf.Run, tmp_path: Path) -> None:
    for path in (tmp_path / "a", str(tmp_path / "b"), os.fsencode(tmp_path / "c")):
        run.save(path)
        assert gf.load(path).weights_sha256 == run.weights_sha256
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "a")
    run.save(link)
    assert link.is_symlink() and gf.load(tmp_path / "a").weights_sha256 == run.weights_sha256
    for bad in (None, 3, 1.5, []):
        with pytest.raises(TypeError, match="^path: got .*, wanted a file name"):
            run.save(bad)
        with pytest.raises(TypeError, match="^path: got .*, wanted a file name"):
            gf.load(bad)
    for empty in ("", b"", "a\0b"):
        with pytest.raises(ValueError, match="^path: got .*, wanted a file name"):
            run.save(empty)


# -- interrupts -------------------------------------------------------------------------------------------------------

_LONG = 10_000_000  # epochs that nobody waits for


def _press(after: float) -> threading.Thread:
    def press() -> None:
        time.sleep(after)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    pressed: list[float] = []
    thread = threading.Thread(target=press)
    thread.pressed = pressed  # type: ignore[attr-defined]
    thread.start()
    return thread


def _since(thread: threading.Thread) -> float:
    now = time.monotonic()
    thread.join()
    return float(now - thread.pressed[0])  # type: ignore[attr-defined]


@pytest.mark.parametrize("folds", [3, None], ids=["splits", "refit"])
def test_interrupt_keeps_whole_batches(folds: int | None) -> None:
    X, y = _problem(20_000)
    before = signal.getsignal(signal.SIGINT)
    thread = _press(0.4)
    run = gf.fit(X, y, folds=folds, epochs=_LONG, batch_size=128)
    assert _since(thread) < 0.5
    assert signal.getsignal(signal.SIGINT) is before
    assert run.interrupted and run.stop_reason == "interrupted"
    if folds is None:
        assert run.best_steps > 0 and np.isfinite(run.best_coef).all() and (run.best_coef != 0).all()
        return
    assert run.best_coef is None
    assert (run.steps > 0).all() and (run.steps < _LONG).all() and (run.coef != 0).any()
    done = len(run.history)
    assert (run.steps >= done * 157).all()
    if done:
        assert run.history[-1].tobytes() == run.held_out_loss.tobytes()
    else:
        assert np.isnan(run.held_out_loss).all()


def test_interrupted_weights_are_those_of_so_many_steps() -> None:
    """A model stopped after k batches of one row each has the weights of a fit that ends there."""
    X, y = _problem(3000)
    keywords: dict[str, Any] = {"batch_size": 3000, "solver": "sgd", "learning_rate": 1e-3}
    thread = _press(0.3)
    run = gf.fit(X, y, folds=2, epochs=_LONG, **keywords)
    assert _since(thread) < 0.5
    for m, steps in enumerate(run.steps[:2]):
        again = gf.fit(X, y, folds=2, epochs=int(steps), refit=False, **keywords)
        assert again.coef[m].tobytes() == run.coef[m].tobytes()


@pytest.mark.parametrize("phase", ["gradfold._check.finite", "gradfold._target.read", "gradfold._splits.read"])
def test_interrupt_while_setting_up(monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    X, y = _problem()

    def interrupted(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(phase, interrupted)
    started = time.monotonic()
    run = gf.fit(X, y, gf.grid(l2=[0.1, 1.0]), folds=3, epochs=2)
    assert time.monotonic() - started < 0.5
    assert run.interrupted and run.best_coef is None and run.steps.sum() == 0
    assert np.isnan(run.held_out_loss).all()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(RuntimeError, match="the fit was interrupted"):
        run.predict(X)


@pytest.mark.parametrize("after", [0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1])
def test_interrupt_at_any_moment(after: float) -> None:
    """In a process of its own: whenever the signal comes during fit, there is a Run and no traceback."""
    code = f"""
        import os, signal, threading, time, numpy as np, gradfold as gf
        from gradfold import train, index, _splits
        rng = np.random.default_rng(0)
        X = rng.standard_normal((200_000, 20)); y = (X[:, 0] > 0).astype(int)
        gf.fit(X[:100], y[:100], folds=2, epochs=1)
        pressed = []
        from gradfold._interrupt import Interrupt
        enter = Interrupt.__enter__
        def entered(self):
            result = enter(self)
            def press():
                time.sleep({after})
                pressed.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=press).start()
            return result
        Interrupt.__enter__ = entered
        run = gf.fit(np.asfortranarray(X), y, gf.grid(l2=np.logspace(-4, 0, 5)), epochs={_LONG}, standardize=True)
        print(run.interrupted, time.monotonic() - pressed[0])
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    interrupted, seconds = result.stdout.split()
    assert interrupted == "True" and float(seconds) < 0.5


def test_own_handler_is_left_alone() -> None:
    class Mine(Exception):
        pass

    def handler(*_: Any) -> None:
        raise Mine

    X, y = _problem(20_000)
    before = signal.signal(signal.SIGINT, handler)
    try:
        thread = _press(0.3)
        with pytest.raises(Mine):
            gf.fit(X, y, epochs=_LONG)
        assert _since(thread) < 0.5
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_fit_in_another_thread_installs_nothing() -> None:
    X, y = _problem()
    runs: list[gf.Run] = []
    thread = threading.Thread(target=lambda: runs.append(gf.fit(X, y, epochs=2)))
    thread.start()
    thread.join()
    assert runs[0].best_coef.tobytes() == gf.fit(X, y, epochs=2).best_coef.tobytes()


def test_handler_is_restored_after_an_error() -> None:
    X, y = _problem()
    with pytest.raises(ValueError):
        gf.fit(X, y, epochs=2, folds=401)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("folds", [3, None], ids=["splits", "refit"])
def test_max_seconds(folds: int | None) -> None:
    X, y = _problem(20_000)
    started = time.monotonic()
    run = gf.fit(X, y, folds=folds, epochs=_LONG, max_seconds=0.3)
    assert 0.25 < time.monotonic() - started < 1.0
    assert run.interrupted and run.stop_reason == "max_seconds"
    assert (run.best_coef is None) == (folds is not None)
    assert not gf.fit(X, y, epochs=1, max_seconds=100.0).interrupted


# -- losses and candidates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "peer"), [("log_loss", "HalfBinomialLoss"), ("squared_error", "HalfSquaredError")])
def test_losses_are_scikit_learns(name: str, peer: str, dtype: Any) -> None:
    module = pytest.importorskip("sklearn._loss.loss")
    rng = np.random.default_rng(2)
    z = (30 * rng.standard_normal(500)).astype(dtype)
    y = (rng.random(500) > 0.5).astype(dtype) if name == "log_loss" else rng.standard_normal(500).astype(dtype)
    w = rng.random(500).astype(dtype)
    mine, theirs = gf.loss.get(name), getattr(module, peer)()
    assert mine.name == name and mine.n_outputs == 1
    # scikit-learn's p − y cancels where the model is right; gradfold's form keeps those digits.
    tolerance: dict[str, float] = (
        {"rtol": 1e-5, "atol": 1e-7} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-14}
    )
    for weight in (None, w):
        np.testing.assert_allclose(mine.loss(y, z, weight), theirs.loss(y, z, weight), **tolerance)
        np.testing.assert_allclose(mine.gradient(y, z, weight), theirs.gradient(y, z, weight), **tolerance)
        for a, b in zip(mine.loss_gradient(y, z, weight), theirs.loss_gradient(y, z, weight), strict=True):
            np.testing.assert_allclose(a, b, **tolerance)
        for a, b in zip(mine.gradient_hessian(y, z, weight), theirs.gradient_hessian(y, z, weight), strict=True):
            np.testing.assert_allclose(a, b, **tolerance)
        np.testing.assert_allclose(
            mine(y, z, weight), theirs(y, z, weight), rtol=1e-5 if dtype == np.float32 else 1e-12
        )
    assert mine.loss(y, z).dtype == dtype and mine.gradient(y, z).dtype == dtype


def test_log_loss_far_out() -> None:
    loss = gf.loss.get("log_loss")
    z = np.array([-1e4, -800.0, 0.0, 800.0, 1e4])
    np.testing.assert_array_equal(loss.loss(np.ones(5), z), [1e4, 800, np.log(2), 0, 0])
    np.testing.assert_array_equal(loss.gradient(np.ones(5), z), [-1, -1, -0.5, 0, 0])
    np.testing.assert_array_equal(loss.gradient(-np.ones(5), z), [0, 0, 0.5, 1, 1])
    # p − y would be 0 here.
    np.testing.assert_allclose(loss.gradient(np.ones(1), np.array([50.0])), -np.exp(-50.0), rtol=1e-15)


def test_grid() -> None:
    table = gf.grid(l2=[1, 2.0], schedule=("constant", "cosine"), l1=iter([0.5]))
    assert list(table) == [
        {"l2": 1.0, "schedule": "constant", "l1": 0.5},
        {"l2": 1.0, "schedule": "cosine", "l1": 0.5},
        {"l2": 2.0, "schedule": "constant", "l1": 0.5},
        {"l2": 2.0, "schedule": "cosine", "l1": 0.5},
    ]
    assert table.names == ("l2", "schedule", "l1") and table.column("l2") == [1, 1, 2, 2] and len(table) == 4
    assert table == gf.Candidates(table) and table[1:3] == gf.Candidates([table[1], table[2]]) and table[-1]["l2"] == 2
    table[0]["l2"] = 9.0
    assert table[0]["l2"] == 1.0
    assert "4: {'l2': 1.0" in repr(table)


# ---- names of features ----


def test_columns_in_another_order_raise(tmp_path):
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.standard_normal((60, 3)), columns=["a", "b", "c"])
    y = (frame["a"] > 0).astype(int).to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        run = gf.fit(frame, y, epochs=2)
        assert run.feature_names == ("a", "b", "c")
        run.save(tmp_path / "run.npz")
        loaded = gf.load(tmp_path / "run.npz")
        for own in (run, loaded):
            assert own.predict(frame).tobytes() == own.predict(frame.to_numpy()).tobytes()
            with pytest.raises(ValueError, match=r"^X: .* in another order \('c' where 'a' was\)"):
                own.predict(frame[["c", "b", "a"]])
            with pytest.raises(ValueError, match=r"^X: got columns that fit did not see: 'd'; wanted those of fit"):
                own.predict(frame.rename(columns={"b": "d"}))
            with pytest.raises(ValueError, match=r"^X: .* in another order"):
                own.partial_fit(frame[["b", "a", "c"]], y)
        with pytest.raises(ValueError, match=r"^validation_data X: .* in another order"):
            gf.fit(frame, y, epochs=2, validation_data=(frame[["b", "a", "c"]], y))
        # Names that are no text say nothing.
        other = frame.rename(columns=dict(zip("abc", range(3), strict=True)))
        assert gf.fit(other, y, epochs=2).feature_names is None
        assert run.predict(other).tobytes() == run.predict(frame).tobytes()
