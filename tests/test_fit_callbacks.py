"""Callbacks and progress: what they see, what they can stop, what they cannot break."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

import fits
import gradfold as gf
from test_run import _LONG, _press, _since

_GRID = {"l2": [1e-4, 0.1, 1.0]}


def test_a_callback_sees_each_epoch_and_changes_nothing() -> None:
    X, y = fits.labels()
    seen: list[gf.Epoch] = []
    plain = gf.fit(X, y, gf.grid(**_GRID), folds=3, epochs=5)
    run = gf.fit(X, y, gf.grid(**_GRID), folds=3, epochs=5, callbacks=[seen.append, lambda epoch: None])
    assert run.coef.tobytes() == plain.coef.tobytes() and run.history.tobytes() == plain.history.tobytes()
    assert fits.refit(run) == fits.refit(plain)
    assert [e.epoch for e in seen] == [1, 2, 3, 4, 5] and all(e.epochs == 5 for e in seen)
    for k, epoch in enumerate(seen):
        assert epoch.held_out_loss.tobytes() == run.history[k].tobytes() and epoch.alive.all()
        assert epoch.best_candidate == np.argmin(run.history[k].mean(axis=1))
        assert 0 < epoch.elapsed < 60
    with pytest.raises(ValueError, match="read-only"):
        seen[0].held_out_loss[0, 0] = 0


def test_stop_ends_the_training_and_the_refit_is_as_long() -> None:
    X, y = fits.labels()
    keywords: dict[str, Any] = {"epochs": 50, "schedule": "cosine"}
    run = gf.fit(
        X, y, gf.grid(**_GRID), folds=3, callbacks=lambda e: e.stop() if e.epoch == 4 else None, **keywords
    )
    assert len(run.history) == 4 and run.stop_reason == "callback" and not run.interrupted
    assert (run.stop_reasons == "callback").all() and run.best_epochs == 4
    full = gf.fit(X, y, gf.grid(**_GRID), folds=3, refit=False, **keywords)
    assert run.history.tobytes() == full.history[:4].tobytes()


def test_stop_candidates_and_models() -> None:
    X, y = fits.labels()

    def callback(epoch: gf.Epoch) -> None:
        if epoch.epoch == 2:
            epoch.stop_candidates([1])
        if epoch.epoch == 3:
            assert not epoch.alive[1].any()
            mask = np.zeros((3, 3), bool)
            mask[0, 2] = True
            epoch.stop_models(mask)

    run = gf.fit(X, y, gf.grid(**_GRID), folds=3, epochs=6, callbacks=callback)
    assert run.epochs_trained.tolist() == [[6, 6, 3], [2, 2, 2], [6, 6, 6]]
    full = gf.fit(X, y, gf.grid(**_GRID), folds=3, epochs=6)
    for c in range(3):
        for s in range(3):
            assert fits.history(run, c, s) == full.history[: run.epochs_trained[c, s], c, s].tobytes()
    assert run.held_out_loss[1].tobytes() == full.history[1, 1].tobytes()
    short = gf.fit(X, y, l2=0.1, folds=3, epochs=2)
    assert run.coef[3:6].tobytes() == short.coef.tobytes()


def test_all_models_stopped_end_the_training() -> None:
    X, y = fits.labels()
    calls = []

    def callback(epoch: gf.Epoch) -> None:
        calls.append(epoch.epoch)
        epoch.stop_candidates(range(3))

    run = gf.fit(X, y, gf.grid(**_GRID), folds=3, epochs=6, callbacks=callback)
    assert calls == [1] and len(run.history) == 1 and run.best_epochs == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_what_a_callback_raises_leaves_fit(error: type[BaseException]) -> None:
    X, y = fits.labels()
    before = threading.active_count()

    def callback(epoch: gf.Epoch) -> None:
        raise error("mine")

    with pytest.raises(error, match="mine"):
        gf.fit(X, y, gf.grid(**_GRID), epochs=5, callbacks=callback, n_threads=4)
    assert threading.active_count() == before
    assert gf.fit(X, y, epochs=1).best_coef is not None


def test_a_fit_within_a_callback() -> None:
    X, y = fits.labels()
    inner: list[gf.Run] = []
    run = gf.fit(X, y, epochs=2, callbacks=lambda e: inner.append(gf.fit(X, y, epochs=3)))
    assert len(inner) == 2 and fits.refit(inner[0]) == fits.refit(gf.fit(X, y, epochs=3))
    assert fits.refit(run) == fits.refit(gf.fit(X, y, epochs=2))


def test_a_fit_without_splits_calls_for_its_refit() -> None:
    X, y = fits.labels()
    seen: list[Any] = []
    run = gf.fit(X, y, epochs=9, callbacks=lambda e: (seen.append(e), e.stop() if e.epoch == 3 else None))
    assert [e.epoch for e in seen] == [1, 2, 3] and run.best_epochs == 3
    assert seen[0].held_out_loss.shape == (1, 1) and seen[0].best_candidate is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e.stop_candidates([3]), ValueError, "candidates: got 3"),
        (lambda e: e.stop_candidates(1), TypeError, "candidates: got 1, wanted a list"),
        (lambda e: e.stop_models(np.zeros(3, bool)), ValueError, "mask: got"),
        (lambda e: e.stop_models(np.zeros((3, 5))), ValueError, "mask: got an array of float64"),
    ],
)
def test_bad_requests(call: Any, error: type[Exception], message: str) -> None:
    X, y = fits.labels()
    with pytest.raises(error, match=message):
        gf.fit(X, y, gf.grid(**_GRID), epochs=1, callbacks=call)


@pytest.mark.parametrize("value", [3, "print", [print, 3]])
def test_no_callable(value: Any) -> None:
    X, y = fits.labels()
    with pytest.raises(TypeError, match="^callbacks: got"):
        gf.fit(X, y, callbacks=value)


# -- interrupts and deadlines while somebody watches ------------------------------------------------------------------


@pytest.mark.parametrize("watch", [{"callbacks": print and (lambda e: None)}, {"early_stopping": {"patience": 10**6}}])
def test_interrupt_of_a_watched_run(watch: dict[str, Any]) -> None:
    X, y = fits.labels(20_000)
    thread = _press(0.4)
    run = gf.fit(X, y, gf.grid(batch_size=[128, 256]), folds=3, epochs=_LONG, **watch)
    assert _since(thread) < 0.5
    assert run.interrupted and run.stop_reason == "interrupted" and run.best_coef is None
    assert (run.stop_reasons == "interrupted").all()
    assert len(run.history) >= 1 and (run.epochs_trained == len(run.history)).all()
    assert np.isfinite(run.held_out_loss).all()
    if "early_stopping" in watch:  # the weights that are kept are those of the best epoch
        for c in range(2):
            for s in range(3):
                assert run.held_out_loss[c, s] == run.history[run.best_epoch[c, s] - 1, c, s] == run.history[:, c, s].min()


def test_max_seconds_of_a_watched_run() -> None:
    X, y = fits.labels(20_000)
    started = time.monotonic()
    run = gf.fit(
        X, y, gf.grid(batch_size=[128, 256]), folds=3, epochs=_LONG, max_seconds=0.4, callbacks=lambda e: None
    )
    assert 0.3 < time.monotonic() - started < 1.2
    assert run.stop_reason == "max_seconds" and run.best_coef is None and run.history.shape[1:] == (2, 3)


# -- progress ---------------------------------------------------------------------------------------------------------


def test_progress_lines(capfd: pytest.CaptureFixture[str]) -> None:
    X, y = fits.labels()
    run = gf.fit(X, y, gf.grid(**_GRID), epochs=3, progress=True)
    lines = capfd.readouterr().err.splitlines()
    last = dict(field.split("=") for field in lines[-1].split())
    assert last["epoch"] == "3" and last["epochs"] == "3" and last["alive"] == "15"
    assert float(last["best"]) == pytest.approx(run.mean_held_out_loss.min(), rel=1e-3)
    assert run.coef.tobytes() == gf.fit(X, y, gf.grid(**_GRID), epochs=3).coef.tobytes()
    assert capfd.readouterr().err == ""


def test_progress_within_long_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch that took long is walked in slices; no bit depends on it."""
    from gradfold import _loop

    X, y = fits.labels(2000)
    plain = gf.fit(X, y, gf.grid(batch_size=[8, 32]), folds=3, epochs=4)
    monkeypatch.setattr(_loop, "_LONG_EPOCH", 1e-5)
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("gradfold._progress.Progress.update", lambda self, **state: shown.append(state))
    run = gf.fit(X, y, gf.grid(batch_size=[8, 32]), folds=3, epochs=4, progress=True)
    assert len(shown) > 20 and run.coef.tobytes() == plain.coef.tobytes()
    rows = [state.get("rows") for state in shown if state.get("rows") is not None]
    assert rows == sorted(rows) and max(rows) < 4 * 2 * 2000
    assert run.history.tobytes() == plain.history.tobytes()
