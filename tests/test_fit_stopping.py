"""Early stopping, halving, adaptive rates: the policies by themselves, and what they do to a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fits
import gradfold as gf
from gradfold._stopping import Tracker, survivors


def _patient(losses: list[float], patience: int, tolerance: float) -> tuple[int, int | None]:
    """(best epoch, epoch at which it stops) of one model, in plain words."""
    best, best_epoch, waited = float("inf"), 0, 0
    for epoch, loss in enumerate(losses, 1):
        waited = 0 if loss < best - tolerance or (best == float("inf") and loss < best) else waited + 1
        if loss < best:
            best, best_epoch = loss, epoch
        if waited >= patience and best_epoch > 0:
            return best_epoch, epoch
    return best_epoch, None


_LOSS = st.one_of(st.floats(0, 2), st.sampled_from([float("nan"), float("inf"), 0.5, 0.5001]))


@given(
    st.lists(st.lists(_LOSS, min_size=12, max_size=12), min_size=1, max_size=5),
    st.integers(1, 4),
    st.sampled_from([0.0, 1e-4, 0.3]),
)
def test_tracker_is_the_rule_for_each_model(losses: list[list[float]], patience: int, tolerance: float) -> None:
    tracker = Tracker(len(losses), patience, tolerance)
    alive = np.ones(len(losses), bool)
    stopped: list[int | None] = [None] * len(losses)
    for epoch in range(1, 13):
        _, exhausted = tracker.update(epoch, np.array([row[epoch - 1] for row in losses]), alive)
        for m in np.flatnonzero(exhausted):
            stopped[m] = epoch
        alive &= ~exhausted
    for m, row in enumerate(losses):
        best_epoch, at = _patient(row, patience, tolerance)
        assert (tracker.best_epoch[m], stopped[m]) == (best_epoch, at)


@given(st.lists(_LOSS, min_size=1, max_size=20), st.integers(1, 20), st.data())
def test_survivors_are_the_best_that_are_left(order: list[float], n_left: int, data: Any) -> None:
    survived = np.array(data.draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order))))
    out = survivors(np.array(order), survived, n_left)
    key = [(np.isnan(v), v if not np.isnan(v) else 0.0, i) for i, v in enumerate(order)]
    wanted = sorted(key[i] for i in np.flatnonzero(survived))[:n_left]
    assert np.flatnonzero(out).tolist() == sorted(i for _, _, i in wanted)


_GRID: dict[str, Any] = {"l2": [1e-4, 0.3], "learning_rate": [0.003, 0.1]}


@pytest.mark.parametrize("standardize", [False, True])
def test_early_stopping_is_the_rule_applied_to_the_history(standardize: bool) -> None:
    X, y = fits.labels()
    options = {"patience": 2, "tolerance": 1e-3}
    keywords: dict[str, Any] = {"folds": 3, "epochs": 40, "batch_size": 32, "standardize": standardize}
    run = gf.fit(X, y, gf.grid(**_GRID), early_stopping=options, **keywords)
    full = gf.fit(X, y, gf.grid(**_GRID), **keywords)
    assert (run.epochs_trained < 40).any()
    for c in range(4):
        for s in range(3):
            best, at = _patient(full.history[:, c, s].tolist(), **options)
            assert run.best_epoch[c, s] == best
            assert run.epochs_trained[c, s] == (40 if at is None else at)
            assert run.stop_reasons[c, s] == ("done" if at is None else "early_stopping")
            # The weights that are kept are those of a fit under the same horizon that stood there after `best` epochs.
            assert run.held_out_loss[c, s] == full.history[best - 1, c, s]
            assert fits.history(run, c, s) == full.history[: run.epochs_trained[c, s], c, s].tobytes()
            assert np.isnan(run.history[run.epochs_trained[c, s] :, c, s]).all()
            short = gf.fit(X, y, gf.grid(**_GRID), refit=False, **{**keywords, "epochs": int(best)})
            assert short.coef[3 * c + s].tobytes() == run.coef[3 * c + s].tobytes()


def test_without_restoring_the_last_weights_stay() -> None:
    X, y = fits.labels()
    options = {"patience": 2, "restore_best": False}
    run = gf.fit(X, y, gf.grid(**_GRID), folds=3, epochs=40, batch_size=32, early_stopping=options)
    for c in range(4):
        for s in range(3):
            assert run.held_out_loss[c, s] == run.history[run.epochs_trained[c, s] - 1, c, s]
    assert (run.best_epoch < run.epochs_trained).any()
    assert run.best_epochs == int(run.epochs_trained[run.best_candidate].mean() + 0.5)
    for restores in (False, True):
        one = gf.fit(
            X[:200], y[:200], validation_data=(X[200:], y[200:]), epochs=60, batch_size=32, learning_rate=0.1,
            early_stopping={**options, "restore_best": restores},
        )  # fmt: skip
        assert one.best_epoch[0, 0] < one.epochs_trained[0, 0] < 60
        assert one.best_epochs == (one.best_epoch if restores else one.epochs_trained)[0, 0]
        assert one.best_steps == 7 * one.best_epochs


def test_the_refit_trains_the_rounded_mean_under_the_same_schedule() -> None:
    X, y = fits.labels()
    keywords: dict[str, Any] = {"epochs": 60, "batch_size": 32, "schedule": "cosine"}
    run = gf.fit(X, y, gf.grid(**_GRID), folds=3, early_stopping={"patience": 2, "tolerance": 0.01}, **keywords)
    wanted = int(run.best_epoch[run.best_candidate].mean() + 0.5)
    assert run.best_epochs == wanted < 60 and run.best_steps == wanted * 10
    stop = gf.fit(
        X, y, callbacks=lambda epoch: epoch.stop() if epoch.epoch == wanted else None, **keywords, **run.best_params
    )
    assert fits.refit(stop) == fits.refit(run)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_model_stops_alike_alone_and_beside_others(each_level: str, n_threads: int) -> None:
    X, y = fits.labels(200, 4)
    keywords: dict[str, Any] = {"folds": 3, "epochs": 25, "batch_size": 32, "early_stopping": {"patience": 2}}
    table = gf.grid(l2=[1e-4, 1e-2, 0.3, 1.0, 3.0], learning_rate=[0.003, 0.03, 0.3])
    run = gf.fit(X, y, table, n_threads=n_threads, **keywords)
    for c in (0, 2, 7, 14):
        alone = gf.fit(X, y, n_threads=1, **keywords, **table[c])
        for s in range(3):
            assert fits.model(alone, 0, s) == fits.model(run, c, s)
            assert fits.history(alone, 0, s) == fits.history(run, c, s)


def test_early_stopping_without_splits_watches_the_training_loss() -> None:
    X, y = fits.labels()
    run = gf.fit(X, y, epochs=200, batch_size=32, early_stopping={"tolerance": 1e-3})
    assert 5 < run.best_epochs < 200 and run.settings["early_stopping"]["monitor"] == "train"
    with pytest.raises(ValueError, match="early_stopping: got monitor='held_out' with no splits"):
        gf.fit(X, y, early_stopping={"monitor": "held_out"})


def test_a_diverged_model_stops_and_the_others_do_not() -> None:
    X, y = fits.numbers()
    table = gf.grid(learning_rate=[0.01, 1e90])
    with pytest.warns(RuntimeWarning, match="^2 of 4 models diverged"):
        run = gf.fit(X, y, table, folds=2, solver="sgd", epochs=30, early_stopping=True)
    assert run.stop_reasons.tolist()[1] == ["diverged"] * 2 and np.isnan(run.held_out_loss[1]).all()
    assert (run.epochs_trained[1] == run.diverged_epoch[2:]).all()
    quiet = gf.fit(X, y, folds=2, solver="sgd", epochs=30, early_stopping=True, learning_rate=0.01)
    for s in range(2):
        assert fits.model(quiet, 0, s) == fits.model(run, 0, s)


def test_a_split_that_scores_no_row_is_not_stopped() -> None:
    X, y = fits.labels()
    rows = np.arange(300)
    folds = [(rows[:200], rows[200:]), (rows[:100], rows[:0])]
    run = gf.fit(X, y, folds=folds, epochs=30, early_stopping={"patience": 1, "tolerance": 0.05}, refit=False)
    assert run.epochs_trained[0, 0] < 30 and run.epochs_trained[0, 1] == 30


@pytest.mark.parametrize("kind", ["leave one out", "repeated", "time series"])
def test_every_kind_of_split_stops_by_itself(kind: str) -> None:
    X, y = fits.labels(24, 3)
    folds = {
        "leave one out": lambda: gf.index.leave_one_out(24),
        "repeated": lambda: gf.index.kfold(24, 3, n_repeats=4),
        "time series": lambda: gf.index.time_series(24, 3),
    }[kind]()
    keywords: dict[str, Any] = {"epochs": 15, "batch_size": 8, "learning_rate": 0.3, "refit": False}
    run = gf.fit(X, y, folds=folds, early_stopping={"patience": 1}, **keywords)
    full = gf.fit(X, y, folds=folds, **keywords)
    for s in range(folds.n_splits):
        best, at = _patient(full.history[:, 0, s].tolist(), 1, 1e-4)
        assert (run.best_epoch[0, s], run.epochs_trained[0, s]) == (best, 15 if at is None else at)


def test_poison_in_held_out_rows_reaches_only_what_is_stopped_by_them() -> None:
    """Held-out rows decide when a model stops, and nothing else of it."""
    X, y = fits.labels()
    rows = np.arange(300)
    folds = [(rows[:200], rows[200:])]
    keywords: dict[str, Any] = {"loss": "log_loss", "check_finite": False, "epochs": 10, "refit": False}
    options = {"patience": 2, "monitor": "train"}
    clean = gf.fit(X, y, folds=folds, early_stopping=options, **keywords)
    X[200:] = np.nan
    poisoned = gf.fit(X, y, folds=folds, early_stopping=options, **keywords)
    assert poisoned.coef.tobytes() == clean.coef.tobytes()
    assert np.isnan(poisoned.held_out_loss).all()


# -- adaptive ---------------------------------------------------------------------------------------------------------


def test_adaptive_lowers_the_rate_on_a_plateau_and_then_stops() -> None:
    """scikit-learn's order: the rate falls by `plateau_factor` until it is 1e-6, then early stopping stops."""
    X, y = fits.numbers(200, 3)
    keywords: dict[str, Any] = {"solver": "sgd", "epochs": 400, "schedule": "adaptive", "learning_rate": 0.5}
    options = {"patience": 2, "tolerance": 1e-3, "monitor": "train", "restore_best": False}
    run = gf.fit(X, y, folds=3, early_stopping=options, batch_size=8, **keywords)
    assert (run.stop_reasons == "early_stopping").all() and (run.epochs_trained < 400).all()
    plain = gf.fit(X, y, folds=3, batch_size=8, **{**keywords, "epochs": int(run.epochs_trained.max())})
    assert (plain.stop_reasons == "done").all()  # without early stopping only the rate falls
    constant = gf.fit(X, y, folds=3, batch_size=8, **{**keywords, "schedule": "constant", "epochs": 60})
    assert plain.mean_held_out_loss < constant.mean_held_out_loss


def test_adaptive_is_each_models_own() -> None:
    X, y = fits.numbers(200, 3)
    keywords: dict[str, Any] = {"solver": "sgd", "epochs": 40, "schedule": "adaptive", "folds": 3, "batch_size": 16}
    table = gf.grid(learning_rate=[0.01, 0.1, 0.5], plateau_factor=[0.1, 0.5])
    run = gf.fit(X, y, table, **keywords)
    for c in (0, 3, 5):
        alone = gf.fit(X, y, **keywords, **table[c])
        for s in range(3):
            assert fits.model(alone, 0, s) == fits.model(run, c, s)


# -- halving ----------------------------------------------------------------------------------------------------------


def test_halving_keeps_the_best_at_each_rung() -> None:
    X, y = fits.labels()
    table = gf.grid(l2=np.logspace(-4, 1, 10), learning_rate=[0.003, 0.03])
    keywords: dict[str, Any] = {"folds": 3, "epochs": 12, "batch_size": 32}
    run = gf.fit(X, y, table, halving={"factor": 3, "min_epochs": 2}, **keywords)
    full = gf.fit(X, y, table, refit=False, **keywords)
    alive = np.ones(20, bool)
    for epoch, left in ((2, 7), (6, 3)):
        mean = np.where(alive, full.history[epoch - 1].mean(axis=1), np.inf)
        stays = np.sort(np.argsort(mean, kind="stable")[:left])
        gone = np.setdiff1d(np.flatnonzero(alive), stays)
        assert (run.epochs_trained[gone] == epoch).all() and (run.stop_reasons[gone] == "halving").all()
        alive = np.isin(np.arange(20), stays)
    assert (run.survived == alive).all() and (run.epochs_trained[alive] == 12).all()
    assert run.best_candidate in np.flatnonzero(alive)
    # Survivors have trained as if they had been alone, and the others until they left.
    for c in range(20):
        for s in range(3):
            assert fits.history(run, c, s) == full.history[: run.epochs_trained[c, s], c, s].tobytes()
    best = gf.fit(X, y, epochs=12, batch_size=32, **table[run.best_candidate])
    assert fits.refit(best) == fits.refit(run)


def test_the_best_candidate_is_a_survivor_even_where_another_was_better_when_it_left() -> None:
    X, y = fits.labels()
    run = gf.fit(X, y, gf.grid(learning_rate=[0.03, 0.02, 0.01]), folds=3, epochs=4, halving={"min_epochs": 1})
    run.held_out_loss[~run.survived] = -1.0
    assert run.survived[run.best_candidate]
    pytest.importorskip("pandas")
    frame = run.to_frame()
    assert frame["rank"].idxmin() == run.best_candidate and frame["survived"].tolist() == run.survived.tolist()


def test_halving_with_early_stopping_and_a_metric() -> None:
    X, y = fits.labels()
    table = gf.grid(l2=np.logspace(-4, 1, 9))
    run = gf.fit(
        X, y, table, folds=3, epochs=20, halving=True, early_stopping={"patience": 1}, scoring="roc_auc", batch_size=32
    )
    assert run.survived.sum() == 1 and run.survived[run.best_candidate]
    np.testing.assert_array_equal(run.split_scores, run.scores("roc_auc"))


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"early_stopping": 3}, TypeError, "early_stopping: got 3, wanted None, True or a dict"),
        ({"early_stopping": {"patience": 0}}, ValueError, "early_stopping: patience: got 0"),
        ({"early_stopping": {"pacience": 2}}, ValueError, "unknown key 'pacience'.*did you mean 'patience'"),
        ({"early_stopping": {"monitor": "test"}}, ValueError, "monitor: got 'test'"),
        ({"early_stopping": {"tolerance": -1}}, ValueError, "tolerance: got -1"),
        ({"halving": {"factor": 1}}, ValueError, "halving: factor: got 1"),
        ({"halving": {"min_epochs": 10}}, ValueError, "min_epochs=10 with epochs=10"),
        ({"halving": "yes"}, TypeError, "halving: got 'yes'"),
    ],
)
def test_bad_options(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    X, y = fits.labels(60)
    with pytest.raises(error, match=message):
        gf.fit(X, y, gf.grid(l2=[0.1, 1.0]), **keywords)


def test_the_refit_of_an_adaptive_model_that_stopped_by_held_out_losses() -> None:
    """The refit has no held-out rows: its rate falls by the training loss, which the splits did not track."""
    X, y = fits.labels()
    run = gf.fit(X, y, folds=3, schedule="adaptive", early_stopping={"patience": 1}, epochs=6)
    assert run.best_epochs >= 1 and run.best_coef is not None and run.train_history is None
