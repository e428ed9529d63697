"""`Run.partial_fit`, thresholds, and what a saved run holds of them."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fits
import gradfold as gf
from gradfold._interrupt import Interrupt


@pytest.mark.parametrize("solver", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_going_on_is_training_longer(solver: str, standardize: bool, dtype: Any) -> None:
    """On the same rows, k epochs and then l more are k + l epochs, to the bit."""
    X, y = fits.labels(dtype=dtype)
    keywords: dict[str, Any] = {"solver": solver, "standardize": standardize, "batch_size": 32, "average": 3}
    run = gf.fit(X, y, epochs=2, **keywords)
    assert run.partial_fit(X, y, epochs=3) is run
    assert run.partial_fit(X, y) is run
    whole = gf.fit(X, y, epochs=6, **keywords)
    assert fits.refit(run) == fits.refit(whole) and run.best_epochs == 6


def test_ctrl_c_leaves_partial_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop over pieces of data stops; the model has its whole batches and can go on."""
    X, y = fits.labels(n=320)
    run, other = gf.fit(X, y, epochs=1, batch_size=32), gf.fit(X, y, epochs=1, batch_size=32)
    advance = Interrupt.advance

    def presses(self: Interrupt, trainer: Any, deadline: float | None, max_steps: int = -1) -> str:
        advance(self, trainer, deadline, 4)
        signal.raise_signal(signal.SIGINT)
        return advance(self, trainer, deadline, max_steps)

    monkeypatch.setattr(Interrupt, "advance", presses)
    with pytest.raises(KeyboardInterrupt):
        run.partial_fit(X, y, epochs=2)
    monkeypatch.undo()
    assert run.best_steps == 14 and run.best_epochs == 1
    assert run.best_coef.tobytes() != other.best_coef.tobytes()
    assert run.partial_fit(X, y).best_steps == 24 and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_going_on_after_loading(tmp_path: Path) -> None:
    X, y = fits.labels()
    names = np.array(["no", "yes"])[y]
    run = gf.fit(X, names, gf.grid(l2=[0.1, 1.0], clip_norm=[1.0, np.inf]), epochs=2, class_weight={"yes": 2.0})
    run.metadata["columns"] = ["a", "b", {"c": [1, None]}]
    run.save(tmp_path / "run")
    read = gf.load(tmp_path / "run")
    assert read.metadata == run.metadata and read.candidates == run.candidates and read.params == run.params
    np.testing.assert_array_equal(read.class_weight, [1.0, 2.0])
    more, labels = fits.labels(50, seed=8)
    for one in (run, read):
        one.partial_fit(more, np.array(["no", "yes"])[labels], np.arange(50.0), epochs=2)
    assert fits.refit(run) == fits.refit(read)
    run.save(tmp_path / "one")
    read.save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_cosine_begins_anew_and_other_schedules_go_on() -> None:
    X, y = fits.labels()
    cosine = gf.fit(X, y, epochs=2, schedule="cosine", solver="sgd")
    before = cosine.best_coef.copy()
    cosine.partial_fit(X, y, epochs=2)
    assert (cosine.best_coef != before).all() and cosine.best_steps == 8
    for schedule in ("inverse_scaling", "exponential", "step"):
        keywords: dict[str, Any] = {"schedule": schedule, "solver": "sgd", "decay_epochs": 2}
        run = gf.fit(X, y, epochs=2, **keywords).partial_fit(X, y, epochs=3)
        assert fits.refit(run) == fits.refit(gf.fit(X, y, epochs=5, **keywords))


def test_fills_and_moments_are_frozen() -> None:
    X, y = fits.labels()
    X[::7, 1] = np.nan
    run = gf.fit(X, y, epochs=2, missing="mean", standardize=True)
    fill = run.fill.copy()
    filled = np.where(np.isnan(X), fill, X)
    other = gf.fit(X, y, epochs=2, missing="mean", standardize=True)
    run.partial_fit(X + 100, y)
    other.partial_fit(np.where(np.isnan(X), fill, X + 100), y)
    assert fits.refit(run) == fits.refit(other) and run.fill.tobytes() == fill.tobytes()
    assert np.isfinite(run.predict_raw(X)).all() and filled.shape == X.shape


def test_one_row_at_a_time() -> None:
    X, y = fits.labels()
    run = gf.fit(X[:100], y[:100], epochs=1)
    for i in range(100, 110):
        run.partial_fit(X[i : i + 1], y[i : i + 1])
    assert run.best_steps == 1 + 10


def test_what_partial_fit_refuses() -> None:
    X, y = fits.labels(60)
    run = gf.fit(X, y, epochs=1)
    before = fits.refit(run)
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: run.partial_fit(X[:, :4].copy(), y), ValueError, "X: got 4 features, wanted 5"),
        (lambda: run.partial_fit(X, y[:5]), ValueError, "y: got shape"),
        (lambda: run.partial_fit(X, y + 1), ValueError, "y: got the label 2 at row"),
        (lambda: run.partial_fit(X, y, np.zeros(60)), ValueError, "sample_weight: got no row of a weight above 0"),
        (lambda: run.partial_fit(X, y, epochs=0), ValueError, "epochs: got 0"),
        (lambda: run.partial_fit(np.where(X > 2, np.nan, X), y), ValueError, "X: got nan"),
        (lambda: gf.fit(X, y, folds=2, epochs=1, refit=False).partial_fit(X, y), RuntimeError, "holds none"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
    assert fits.refit(run) == before
    Xr, yr = fits.numbers(60)
    with pytest.warns(RuntimeWarning, match="the refit diverged"):
        diverged = gf.fit(Xr, yr, solver="sgd", learning_rate=1e20, epochs=20)
    with pytest.raises(RuntimeError, match="has diverged"):
        diverged.partial_fit(Xr, yr)
    steady = gf.fit(Xr, yr, solver="sgd", epochs=1)
    with pytest.warns(RuntimeWarning, match="diverged in partial_fit") as caught:
        steady.partial_fit(1e150 * Xr, yr, epochs=30)
    assert caught[0].filename == __file__ and steady.best_diverged and np.isfinite(steady.best_coef).all()


# -- thresholds -------------------------------------------------------------------------------------------------------


def test_threshold() -> None:
    X, y = fits.labels()
    run = gf.fit(X, np.array(["no", "yes"])[y], epochs=3)
    raw = run.predict_raw(X)
    assert (run.predict(X, threshold=0.7) == np.where(raw > 0.7, "yes", "no")).all()
    assert (run.predict(X, threshold=0) == run.predict(X)).all()
    for value, error in ((np.nan, ValueError), ("high", TypeError), (True, TypeError)):
        with pytest.raises(error, match="^threshold: got"):
            run.predict(X, threshold=value)
    with pytest.raises(ValueError, match="threshold: got 0.5 for loss='squared_error'"):
        gf.fit(*fits.numbers(), epochs=1).predict(X, threshold=0.5)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_new_field_round_trips(tmp_path: Path, dtype: Any) -> None:
    X, y = fits.labels(dtype=dtype)
    X[::9, 0] = np.nan
    run = gf.fit(
        X, y, gf.grid(l2=np.logspace(-3, 1, 6), solver=["sgd", "adam"]), folds=3, epochs=9, missing="mean",
        class_weight="balanced", early_stopping={"patience": 1}, halving=True, scoring="accuracy", choose="one_se",
        track_train_loss=True,
    )  # fmt: skip
    run.save(tmp_path / "run")
    read = gf.load(tmp_path / "run")
    for name in (
        "best_epoch epochs_trained stop_codes survived learning_rate train_history split_scores fill class_weight "
        "history held_out_loss coef best_coef"
    ).split():
        mine, theirs = getattr(run, name), getattr(read, name)
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape and mine.tobytes() == theirs.tobytes(), name
    for name in "scoring choose best_epochs best_candidate best_params solver loss stop_reason metadata settings".split():
        assert getattr(run, name) == getattr(read, name), name
    assert (run.stop_reasons == read.stop_reasons).all()
    assert read.predict(X).tolist() == run.predict(X).tolist()
    assert repr(read) == repr(run)


def test_files_of_version_1_are_read(tmp_path: Path) -> None:
    """As the first version wrote them: none of the new arrays, none of the new entries."""
    X, y = fits.labels()
    run = gf.fit(X, y, gf.grid(l2=[0.1, 1.0]), folds=3, epochs=2)
    run.save(tmp_path / "new")
    old = tmp_path / "old"
    kept = "coef intercept steps history held_out_loss diverged_epoch diverged_batch best_coef best_intercept classes"
    with zipfile.ZipFile(tmp_path / "new") as source, zipfile.ZipFile(old, "w") as target:
        meta = json.loads(source.read("meta.json"))
        for name in ("drawn", "scoring", "choose", "best_epochs", "metadata"):
            del meta[name]
        for name in ("batch_scaling", "early_stopping", "halving", "missing", "validation_data", "refit_learning_rate"):
            del meta["settings"][name]
        meta["format_version"] = 1
        meta["sha256"] = {name: meta["sha256"][name] for name in kept.split()}
        target.writestr("meta.json", json.dumps(meta))
        for name in kept.split():
            target.writestr(f"{name}.npy", source.read(f"{name}.npy"))
    read = gf.load(old)
    assert read.best_coef.tobytes() == run.best_coef.tobytes() and read.best_candidate == run.best_candidate
    assert read.epochs_trained.tolist() == [[2] * 3] * 2 == read.best_epoch.tolist() and read.survived.all()
    assert (read.stop_reasons == "done").all() and read.metadata == {} and read.fill is None
    with pytest.raises(RuntimeError, match="optimiser's state"):
        read.partial_fit(X, y)
    read.save(tmp_path / "again")
    assert gf.load(tmp_path / "again").best_candidate == run.best_candidate


def test_metadata_that_json_cannot_hold(tmp_path: Path) -> None:
    X, y = fits.labels(60)
    run = gf.fit(X, y, epochs=1)
    path = tmp_path / "run"
    run.save(path)
    before = path.read_bytes()
    for bad in ({"a": np.zeros(3)}, {"a": float("nan")}, {"a": {1, 2}}):
        run.metadata = bad
        with pytest.raises(ValueError, match="metadata: got what JSON cannot hold"):
            run.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["run"]


_FULL = """
import resource, signal, sys
import numpy as np, gradfold as gf
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
X = np.random.default_rng(0).standard_normal((50, 2000)); y = np.arange(50) % 2
run = gf.fit(X, y, epochs=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    run.save(sys.argv[1])
except OSError as error:
    print(type(error).__name__, error.errno)
"""


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    X, y = fits.labels(60)
    path = tmp_path / "run"
    gf.fit(X, y, epochs=1).save(path)
    before = path.read_bytes()
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", _FULL, str(path)], capture_output=True, text=True)
    assert result.stdout.startswith("OSError") and result.returncode == 0, result.stderr
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["run"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000


def test_the_page_reads_a_model_with_numpy_and_json_alone(tmp_path: Path) -> None:
    """The script of docs/saved-model.md, as it stands there, gives the predictions of `Run.predict`."""
    page = (Path(__file__).parent.parent / "docs" / "saved-model.md").read_text()
    script = re.search(r"```python\n(.*?)```", page, re.S).group(1)
    assert len(script.strip().splitlines()) <= 10
    assert sorted(set(re.findall(r"^(?:import|from) (\w+)", script, re.M))) == ["json", "numpy"]
    X, y = fits.labels()
    holes = X.copy()
    holes[::5, 2] = np.nan
    Xr, yr = fits.numbers()
    runs = {
        "labels": (gf.fit(X, np.array(["no", "yes"])[y], epochs=3), X),
        "objects": (gf.fit(X, np.array(["no", "yes"], object)[y], gf.grid(l2=[0.1, 1.0]), epochs=3), X),
        "holes": (gf.fit(holes, y, epochs=3, missing="mean"), holes),
        "numbers": (gf.fit(Xr, yr, epochs=3), Xr),
    }
    for name, (run, data) in runs.items():
        path = tmp_path / f"{name}.npz"
        run.save(path)
        np.save(tmp_path / "X.npy", data)
        code = script.replace("model.npz", str(path)).replace("X.npy", str(tmp_path / "X.npy"))
        code += f"\nnumpy.save({str(tmp_path / 'out.npy')!r}, prediction)\nimport sys\nassert 'gradfold' not in sys.modules\n"
        subprocess.run([sys.executable, "-c", code], check=True)
        out = np.load(tmp_path / "out.npy")
        expected = run.predict(data)
        if name == "numbers":
            np.testing.assert_allclose(out, expected, rtol=1e-12)
        else:
            assert out.tolist() == expected.tolist()
