"""`gradfold cv`, `predict` and `show`: the same numbers as in Python, and mistakes that are one line."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradfold as gf
from gradfold import _axis, _baseline, cli

pd = pytest.importorskip("pandas")
for _module in ("pyarrow", "rich", "matplotlib"):
    pytest.importorskip(_module)


@pytest.fixture(scope="module")
def frame() -> Any:
    rng = np.random.default_rng(0)
    n = 300
    X = rng.standard_normal((n, 3))
    colour = rng.choice(["red", "green", "blue"], n)
    z = X @ [1.0, -1.0, 0.5] + (colour == "red")
    out = pd.DataFrame(X, columns=["a", "b", "c"])
    out["colour"] = colour
    out["group"] = rng.integers(0, 20, n)
    out["w"] = rng.uniform(0.5, 2, n).round(3)
    out["y"] = np.where(z + rng.standard_normal(n) > 0, "yes", "no")
    out["price"] = (z + 0.3 * rng.standard_normal(n)).round(4)
    return out


@pytest.fixture
def folder(frame: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with train.csv and test.csv."""
    monkeypatch.chdir(tmp_path)
    frame.to_csv("train.csv", index=False)
    frame.drop(columns=["y", "price", "w"]).iloc[:40].to_csv("test.csv", index=False)
    return tmp_path


FAST = ["--epochs", "3", "--l2", "0.001,0.1"]
CLASS = ["cv", "train.csv", "--target", "y", "--ignore", "price", "--ignore", "w", "--ignore", "group", *FAST]
VALUE = ["cv", "train.csv", "--target", "price", "--ignore", "y", "--ignore", "w", "--ignore", "group", *FAST]


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def _csv(text: str) -> tuple[list[str], np.ndarray]:
    """Names and exact numbers of a CSV; pandas rounds some."""
    lines = text.splitlines()
    return lines[0].split(","), np.array([[float(cell) for cell in line.split(",")] for line in lines[1:]])


def _fails(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(cli.main(arguments))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("gradfold: error: ") and message in err, err


# ---- the same numbers as in Python -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ([], {"folds": 5}),
        (["--folds", "3", "--seed", "7"], {"folds": 3, "seed": 7}),
        (["--no-standardize", "--learning-rate", "0.05"], {"folds": 5, "standardize": False, "learning_rate": 0.05}),
        (["--holdout", "0.25"], {"folds": "holdout"}),
        (["--repeat", "2"], {"folds": "repeat"}),
        (["--no-stratify"], {"folds": "plain"}),
        (["--batch-size", "64", "--schedule", "constant", "--solver", "sgd"],
         {"folds": 5, "batch_size": 64, "schedule": "constant", "solver": "sgd"}),
        (["--dtype", "float32"], {"folds": 5, "dtype": np.float32}),
        (["--threads", "1"], {"folds": 5}),
    ],
)  # fmt: skip
def test_scores_are_those_of_the_python_api(
    arguments: list[str], keywords: dict[str, Any], frame: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _json(capsys, *CLASS, *arguments)
    X = np.ascontiguousarray(
        np.column_stack([frame[["a", "b", "c"]]] + [frame.colour == word for word in ("blue", "green", "red")]).astype(
            keywords.pop("dtype", np.float64)
        )
    )
    y = frame.y.to_numpy(dtype=str)
    index, n = gf.index, len(y)
    splits = {
        "holdout": lambda: index.holdout(n, 0.25, stratify=y),
        "repeat": lambda: index.stratified_kfold(y, 5, n_repeats=2),
        "plain": lambda: index.kfold(n, 5),
    }
    folds = keywords.pop("folds")
    settings: dict[str, Any] = {"standardize": True, "schedule": "cosine", "epochs": 3, "batch_size": 32, **keywords}
    run = gf.fit(X, y, gf.grid(l2=[0.001, 0.1]), folds=splits[folds]() if folds in splits else folds, **settings)
    assert [row["held_out_loss"] for row in report["candidates"]] == run.held_out_loss.tolist()
    assert [row["mean"] for row in report["candidates"]] == run.mean_held_out_loss.tolist()
    best = report["best"]
    assert best["candidate"] == run.best_candidate and best["params"]["l2"] == run.best_params["l2"]
    if run.n_splits > 1:
        error = np.std(run.held_out_loss[run.best_candidate], ddof=1) / np.sqrt(run.n_splits)
        assert best["standard_error"] == pytest.approx(error, rel=1e-12)
        other = run.held_out_loss[1 - run.best_candidate] - run.held_out_loss[run.best_candidate]
        assert report["next"]["difference"] == pytest.approx(other.mean(), rel=1e-9)
    else:
        assert best["standard_error"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        CLASS,
        [*CLASS, "--holdout", "0.2"],
        [*CLASS, "--repeat", "2", "--no-stratify", "--dtype", "float32"],
        [*VALUE, "--learning-rate", "0.01:0.1:3log", "--categorical", "colour"],
        ["cv", "train.csv", "--target", "price", "--ignore", "y", "--weight", "w", "--l2", "0:1:3lin", "--epochs", "2"],
        ["cv", "train.csv", "--target", "y", "--ignore", "price", "--ignore", "w", "--group", "group", *FAST],
    ],
)
def test_the_printed_python_gives_the_same_bits(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _json(capsys, *arguments)
    code = report["python"]
    assert len(code.splitlines()) <= 5
    names: dict[str, Any] = {}
    exec(code, names)
    capsys.readouterr()
    assert names["run"].held_out_loss.tolist() == [row["held_out_loss"] for row in report["candidates"]]


def test_default_candidates_and_settings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = _json(capsys, "cv", "train.csv", "--target", "y", "--epochs", "1")
    l2 = [row["params"]["l2"] for row in report["candidates"]]
    assert l2 == np.geomspace(1e-6, 1, 20).tolist() and report["n_splits"] == 5
    assert report["settings"]["batch_size"] == 32 and report["settings"]["standardize"] is True
    # One value is a setting, and not a grid.
    report = _json(capsys, "cv", "train.csv", "--target", "y", "--epochs", "1", "--l2", "0.5")
    assert [row["params"]["l2"] for row in report["candidates"]] == [0.5] and report["next"] is None


def test_a_headerless_file_with_the_label_first(frame: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The form of LightGBM's own examples."""
    label = (frame.y == "yes").astype(int)
    rows = np.column_stack([label, frame[["a", "b", "c"]]])
    Path("binary.train").write_text("\n".join("\t".join(f"{v:.6g}" for v in row) for row in rows) + "\n")
    report = _json(capsys, "cv", "binary.train", "--target", "0", *FAST, "--out", "out")
    assert report["classes"] == [0, 1] and report["n_features"] == 3 and report["target"] == "0"
    assert cli.main(["predict", "out/model.npz", "binary.train"]) == 0
    values = [int(line) for line in capsys.readouterr().out.splitlines()[1:]]
    assert np.mean(np.array(values) == label) > 0.7


def test_the_baseline(frame: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = _json(capsys, *VALUE)
    y = frame.price.to_numpy()
    folds = gf.index.kfold(len(y), 5)
    wanted = [0.5 * np.mean((y[test] - y[train].mean()) ** 2) for train, test in folds.split()]
    assert report["baseline"]["splits"] == pytest.approx(wanted, rel=1e-12)
    # Rows of weight 0 are no rows, and weights are.
    rng = np.random.default_rng(0)
    w = rng.integers(0, 3, len(y)).astype(float)
    for loss, target in (("squared_error", y), ("log_loss", (y > 0.7).astype(float))):
        got = _baseline.held_out_loss(loss, target, w, folds)
        for value, (train, test) in zip(got, folds.split(), strict=True):
            mean = np.average(target[train], weights=w[train])
            if loss == "squared_error":
                each = 0.5 * (target[test] - mean) ** 2
            else:
                each = -np.log(np.where(target[test] > 0, mean, 1 - mean))
            assert value == pytest.approx(np.average(each, weights=w[test]), rel=1e-12)


def test_missing_numbers(frame: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    gaps = frame.copy()
    gaps.loc[rng.random(len(gaps)) < 0.2, "a"] = np.nan
    gaps.loc[rng.random(len(gaps)) < 0.2, "colour"] = None
    gaps.to_csv("train.csv", index=False)
    report = _json(capsys, *CLASS, "--out", "out")
    assert report["settings"]["missing"] == "mean" and report["n_features"] == 7
    words = ("blue", "green", "red")
    X = np.column_stack([gaps[["a", "b", "c"]], *[gaps.colour == word for word in words], gaps.colour.isna()])
    X = np.ascontiguousarray(X.astype(float))
    run = gf.fit(
        X, gaps.y.to_numpy(dtype=str), gf.grid(l2=[0.001, 0.1]), folds=5, standardize=True,
        schedule="cosine", epochs=3, batch_size=32, missing="mean",
    )  # fmt: skip
    assert [row["held_out_loss"] for row in report["candidates"]] == run.held_out_loss.tolist()
    assert cli.main(["predict", "out/model.npz", "train.csv", "--proba", "--quiet"]) == 0
    np.testing.assert_array_equal(_csv(capsys.readouterr().out)[1], run.predict_proba(X))


def test_missing_numbers_at_prediction_only(frame: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cells that training had not missing get the training file's mean, with a warning."""
    assert cli.main([*VALUE, "--out", "out", "--quiet"]) == 0
    test = frame.head(3).copy()
    test.loc[1, "b"] = np.nan
    test.to_csv("test.csv", index=False)
    test.loc[1, "b"] = frame.b.mean()
    test.to_csv("filled.csv", index=False)
    capsys.readouterr()
    assert cli.main(["predict", "out/model.npz", "test.csv"]) == 0
    out, err = capsys.readouterr()
    assert cli.main(["predict", "out/model.npz", "filled.csv"]) == 0
    assert capsys.readouterr().err == "" and err.count("\n") == 1 and "1 missing cells" in err
    wanted = gf.load("out/model.npz").predict(_X(pd.read_csv("filled.csv"), 3))
    assert [float(v) for v in out.split()[1:]] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("metric", "scoring"), [("accuracy", "accuracy"), ("brier", "neg_brier"), ("roc_auc", "roc_auc")])
def test_metric(metric: str, scoring: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = _json(capsys, *CLASS, "--metric", metric, "--l2", "1e-4:10:5log")
    names: dict[str, Any] = {}
    exec(report["python"], names)
    run = names["run"]
    sign = -1 if scoring.startswith("neg_") else 1
    assert [row["scores"] for row in report["candidates"]] == (sign * run.scores(scoring)).tolist()
    means = [row["mean"] for row in report["candidates"]]
    assert report["best"]["mean"] == (max(means) if sign > 0 else min(means))
    assert report["higher_is_better"] is (sign > 0)


def test_stopping_and_halving_reach_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cv", "train.csv", "--target", "y", "--epochs", "12", "--l2", "1e-6:1:6log"]
    report = _json(capsys, *arguments, "--early-stopping", "2", "--halving")
    assert report["settings"]["early_stopping"] == {"patience": 2} and report["settings"]["halving"] is True
    names: dict[str, Any] = {}
    exec(report["python"], names)
    assert names["run"].best_candidate == report["best"]["candidate"]


def test_one_standard_error_rule(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cv", "train.csv", "--target", "y", "--ignore", "price", "--epochs", "20", "--l2", "1e-6:0.1:6log"]
    report = _json(capsys, *arguments, "--choose", "one_se")
    names: dict[str, Any] = {}
    exec(report["python"], names)
    capsys.readouterr()
    assert names["run"].best_candidate == report["best"]["candidate"]
    means = [row["mean"] for row in report["candidates"]]
    chosen, lowest = report["best"]["candidate"], int(np.argmin(means))
    assert chosen > lowest  # a larger l2 is simpler
    assert cli.main([*arguments, "--choose", "one_se"]) == 0
    assert "better by" in capsys.readouterr().out and report["next"]["difference"] < 0


# ---- what is written and printed -------------------------------------------------------------------------------------


def test_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*CLASS, "--out", "new/out"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "written    new/out/: model.npz, candidates.csv, validation_curve.png, report.txt" in out
    made = {path.name for path in Path("new/out").iterdir()}
    assert made == {"model.npz", "candidates.csv", "validation_curve.png", "report.txt"}
    run = gf.load("new/out/model.npz")
    table = pd.read_csv("new/out/candidates.csv")
    assert table["mean"].to_numpy() == pytest.approx(run.mean_held_out_loss, rel=1e-12)
    assert Path("new/out/validation_curve.png").read_bytes().startswith(b"\x89PNG")
    for text in (out, Path("new/out/report.txt").read_text()):
        for word in ("best ", "next ", "baseline", "the same in Python", "standardized features", "± "):
            assert word in text
        assert f"{run.mean_held_out_loss.min():.6g}" in text


def test_quiet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*CLASS, "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and [line.split()[0] for line in out.splitlines()] == ["best", "next", "baseline"]


def test_a_warning_is_a_line_and_a_member(frame: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rare = frame.assign(y=np.where(np.arange(len(frame)) < 3, "yes", "no"))
    rare.to_csv("train.csv", index=False)
    assert cli.main(CLASS) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("gradfold: warning: ") and "fewer than" in err
    assert any("fewer than" in text for text in _json(capsys, *CLASS)["warnings"])


@pytest.fixture
def model(folder: Path) -> str:
    assert cli.main([*CLASS, "--out", "out", "--quiet"]) == 0
    return "out/model.npz"


def _X(frame: Any, rows: int) -> np.ndarray:
    part = frame.iloc[:rows]
    ones = [part.colour == word for word in ("blue", "green", "red")]
    return np.ascontiguousarray(np.column_stack([part[["a", "b", "c"]], *ones]).astype(float))


def test_predict(model: str, frame: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run, X = gf.load(model), _X(frame, 40)
    proba = run.predict_proba(X)
    assert cli.main(["predict", model, "test.csv"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.splitlines() == ["prediction", *run.predict(X).tolist()]

    assert cli.main(["predict", model, "test.csv", "--proba"]) == 0
    names, got = _csv(capsys.readouterr().out)
    assert names == ["probability no", "probability yes"]
    np.testing.assert_array_equal(got, proba)

    assert cli.main(["predict", model, "test.csv", "--threshold", "0.3"]) == 0
    assert capsys.readouterr().out.split()[1:] == np.where(proba[:, 1] > 0.3, "yes", "no").tolist()
    # Half is what `predict` itself does.
    assert cli.main(["predict", model, "test.csv", "--threshold", "0.5"]) == 0
    assert capsys.readouterr().out.splitlines() == out.splitlines()


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_predict_into_a_file(name: str, model: str, frame: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    Path(name).write_text("old")
    assert cli.main(["predict", model, "test.csv", "--proba", "--out", name]) == 0
    out, err = capsys.readouterr()
    assert out == "" and err == f"gradfold: 40 predictions written to {name}\n"
    got = _csv(Path(name).read_text())[1] if name.endswith("csv") else pd.read_parquet(name).to_numpy()
    np.testing.assert_array_equal(got, gf.load(model).predict_proba(_X(frame, 40)))


def test_predict_a_regression(frame: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for dtype in ("float64", "float32"):
        assert cli.main([*VALUE, "--out", "out", "--quiet", "--dtype", dtype]) == 0
        capsys.readouterr()
        assert cli.main(["predict", "out/model.npz", "test.csv"]) == 0
        lines = capsys.readouterr().out.split()[1:]
        want = gf.load("out/model.npz").predict(_X(frame, 40).astype(dtype))
        assert want.dtype == dtype
        np.testing.assert_array_equal(np.array(lines, dtype), want)
        _fails(["predict", "out/model.npz", "test.csv", "--proba"], "--proba: out/model.npz is a regression", capsys)


def test_predict_from_standard_input_and_other_formats(model: str, frame: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["predict", model, "test.csv"]) == 0
    wanted = capsys.readouterr().out
    test = frame.iloc[:40]
    test[["colour", "c", "b", "a"]].to_parquet("test.parquet")
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test.to_dict("records")))
    for name in ("test.parquet", "test.jsonl"):
        assert cli.main(["predict", model, name]) == 0
        assert capsys.readouterr().out == wanted
    done = _process("predict", model, "-", input=Path("test.csv").read_bytes())
    assert done.returncode == 0 and done.stdout.decode() == wanted and done.stderr == b""


def test_predict_with_a_run_of_the_python_api(frame: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X = _X(frame, 300)[:, :3].copy()
    run = gf.fit(X, frame.price.to_numpy(), epochs=2)
    run.save("run.npz")
    pd.DataFrame(X, columns=["p", "q", "r"]).to_csv("x.csv", index=False)
    assert cli.main(["predict", "run.npz", "x.csv"]) == 0
    np.testing.assert_array_equal([float(v) for v in capsys.readouterr().out.split()[1:]], run.predict(X))
    assert cli.main(["show", "run.npz"]) == 0
    assert "3, without names" in capsys.readouterr().out


def test_predict_with_a_run_of_a_data_frame(frame: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its columns have names, so a file's are taken by name."""
    X = pd.DataFrame(_X(frame, 300)[:, :3].copy(), columns=["p", "q", "r"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a DataFrame is copied
        run = gf.fit(X, frame.price.to_numpy(), epochs=2)
        wanted = run.predict(X)
    run.save("run.npz")
    X[["r", "p", "q"]].assign(more=1).to_csv("x.csv", index=False)
    assert cli.main(["predict", "run.npz", "x.csv"]) == 0
    np.testing.assert_array_equal([float(v) for v in capsys.readouterr().out.split()[1:]], wanted)
    X.to_csv("plain.csv", index=False, header=False)
    assert cli.main(["predict", "run.npz", "plain.csv"]) == 0
    np.testing.assert_array_equal([float(v) for v in capsys.readouterr().out.split()[1:]], wanted)
    X.rename(columns={"q": "Q"}).to_csv("x.csv", index=False)
    with pytest.raises(SystemExit):
        cli.main(["predict", "run.npz", "x.csv"])
    assert "has no column 'q'" in capsys.readouterr().err
    assert cli.main(["show", "run.npz"]) == 0
    shown = capsys.readouterr().out
    assert "without names" not in shown and all(f"\n{name} " in shown for name in "pqr")


@pytest.mark.parametrize("names", [["0", "1", "2"], ["a", " b", "c"], ["a", "", "c"], ["Unnamed: 0", "a", "b"], ["a", "b", "b"]])
def test_names_that_no_header_would_repeat_say_nothing(
    names: list[str], frame: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns go by position then, and a first row of data is no header because its cells are such names."""
    values = _X(frame, 300)[:, :3].copy()
    values[0] = [1, 0, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        run = gf.fit(pd.DataFrame(values, columns=names), frame.price.to_numpy(), epochs=2)
    run.save("run.npz")
    pd.DataFrame(values, columns=names).to_csv("x.csv", index=False)
    pd.DataFrame(values).to_csv("plain.csv", index=False, header=False)
    for words in (["x.csv", "--header"], ["plain.csv"]):
        assert cli.main(["predict", "run.npz", *words]) == 0
        np.testing.assert_array_equal([float(v) for v in capsys.readouterr().out.split()[1:]], run.predict(values))


def test_show(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run = gf.load(model)
    assert cli.main(["show", model, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["loss"] == "log_loss" and facts["n_candidates"] == 2 and facts["classes"] == ["no", "yes"]
    assert facts["best"]["params"] == run.best_params and facts["target"] == "y"
    names = ["a", "b", "c", "colour=blue", "colour=green", "colour=red"]
    assert run.best_coef is not None
    weights = {row["feature"]: row["weight"] for row in facts["weights"]}
    assert weights == dict(zip(names, run.best_coef.tolist(), strict=True))
    sizes = [abs(row["per_standard_deviation"]) for row in facts["weights"]]
    assert sizes == sorted(sizes, reverse=True)
    assert cli.main(["show", model, "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert "4 more; --top 0 shows all" in out and "colour: blue, green, red" in out
    assert facts["weights"][0]["feature"] in out and facts["weights"][3]["feature"] not in out.split("feature")[-1]


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "yy"], "target: got 'yy', which is no column of train.csv"),
        (["--target", "yy"], "did you mean 'y'?"),
        ([], "target: got None"),
        (["--target", "y", "--loss", "squared_error"], "target 'y': got text ('"),
        (["--target", "y", "--loss", "squared"], "loss: got 'squared'"),
        (["--target", "y", "--l2", "1:2:3"], "--l2: got '1:2:3', wanted a number, a list a,b,c or a range"),
        (["--target", "y", "--l2", "0:1:3log"], "--l2: got '0:1:3log', wanted a logarithmic range from above 0"),
        (["--target", "y", "--l2", "a"], "--l2: got 'a'"),
        (["--target", "y", "--l2", "1,,2"], "--l2: got '1,,2'"),
        (["--target", "y", "--l2", "-1"], "l2: got -1.0, wanted a finite number, at least 0"),
        (["--target", "y", "--param", "bta=1"], "--param: got the unknown parameter 'bta'"),
        (["--target", "y", "--param", "l2"], "--param: got 'l2', wanted NAME=VALUES"),
        (["--target", "y", "--folds", "1"], "folds: got 1"),
        (["--target", "y", "--folds", "301"], "--folds: got 301 folds of 300 rows"),
        (["--target", "y", "--holdout", "1.5"], "--holdout: got 1.5, wanted a share between 0 and 1"),
        (["--target", "y", "--holdout", "0.5", "--folds", "3"], "--holdout: goes without --folds"),
        (["--target", "price", "--stratify"], "--stratify: wants labels"),
        (["--target", "y", "--epochs", "0"], "epochs: got 0"),
        (["--target", "y", "--batch-size", "0"], "batch_size: got 0"),
        (["--target", "y", "--threads", "0"], "n_threads: got 0"),
        (["--target", "y", "--out", ""], "--out: got ''"),
        (["--target", "y", "--out", "train.csv"], "is a file, wanted a folder"),
        (["--target", "y", "--out", "train.csv/deep"], "is a file, wanted a folder"),
        (["--target", "y", "--weight", "colour"], "weight: column 'colour'"),
        (["--target", "y", "--jsn"], "--jsn"),
        (["--target", "y", "--metric", "acuracy"], "--metric: got 'acuracy', wanted a metric such as accuracy"),
        (["--target", "y", "--group", "colour"], "--group: column 'colour' has 3 groups, wanted at least 5"),
        (["--target", "y", "--seed", "-1"], "seed: got -1"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(os.listdir())
    _fails(["cv", "train.csv", "--epochs", "1", *arguments], message, capsys)
    assert sorted(os.listdir()) == before  # nothing half-written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,y\n1,5\n2,5\n3,5\n", "target 'y': got the one value 5 in all 3 rows"),
        ("x,y\n1,a\n2,a\n", "target 'y': got the one value 'a' in all 2 rows"),
        ("x,y\n1,2\n", "target 'y': got 1 row"),
        ("x,e,y\n1,,2\n2,,3\n", "column 'e': every cell is missing"),
        ("x,y\n1,2\n3\n", "line 3 has 1 cells, wanted 2"),
        ("x,y\n1,2.5\n2,inf\n", "target 'y': got inf"),
        ("", "the file is empty"),
        ("x,n,y\n1,3,1\n" + "2,,2.5\n" * 9, "X: got column 'n' with no value in the training rows of split"),
    ],
)
def test_a_bad_file_is_one_line(content: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.csv").write_text(content)
    _fails(["cv", "bad.csv", "--target", "y", "--out", "out"], message, capsys)
    assert not Path("out").exists()


def test_a_bad_model_is_one_line(model: str, frame: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    content = Path(model).read_bytes()
    Path("damaged.npz").write_bytes(content[:500] + bytes([content[500] ^ 255]) + content[501:])
    Path("cut.npz").write_bytes(content[: len(content) // 2])
    np.savez("foreign.npz", x=np.ones(3))
    for name in ("damaged.npz", "cut.npz", "foreign.npz", "train.csv"):
        for arguments in (["predict", name, "test.csv", "--out", "p.csv"], ["show", name]):
            _fails(arguments, name, capsys)
    _fails(["predict", "none.npz", "test.csv"], "none.npz", capsys)
    frame[["a", "c"]].to_csv("other.csv", index=False)
    _fails(["predict", model, "other.csv", "--out", "p.csv"], "has no column 'b' (and 1 more)", capsys)
    _fails(["predict", model, "test.csv", "--out", "p.txt"], "--out: got 'p.txt', wanted a name that ends in", capsys)
    _fails(["predict", model, "test.csv", "--threshold", "2"], "--threshold: got 2.0", capsys)
    _fails(["predict", model, "test.csv", "--out", "none/p.csv"], "no such folder", capsys)
    assert not Path("p.csv").exists()


def test_an_unknown_category_is_one_warning(model: str, frame: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    frame.head(4).assign(colour=["mauve", "red", "taupe", None]).to_csv("test.csv", index=False)
    assert cli.main(["predict", model, "test.csv"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5 and err.count("\n") == 1
    assert err.startswith("gradfold: warning: ") and "3 cells" in err and "'mauve'" in err


def test_a_failed_write_leaves_the_old_files(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    before = Path(model).read_bytes()
    Path("p.csv").write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gradfold._storage.os.fsync", full)
    _fails(["predict", model, "test.csv", "--out", "p.csv"], "No space left on device", capsys)
    _fails([*CLASS, "--out", "out", "--epochs", "4"], "No space left on device", capsys)
    assert Path("p.csv").read_text() == "old" and Path(model).read_bytes() == before
    assert not [name for folder in (".", "out") for name in os.listdir(folder) if name.endswith(".tmp")]


def test_every_candidate_diverges(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fails([*VALUE, "--solver", "sgd", "--learning-rate", "1e300", "--out", "out"], "every candidate diverged", capsys)
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["cv", "predict"])
def test_missing_extras(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda *_: None)
    arguments = {"cv": ["cv", "a.csv"], "predict": ["predict", "m.npz", "a.csv"]}[command]
    _fails(arguments, "pyarrow", capsys)
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert "pip install 'gradfold[cli]'" in capsys.readouterr().err


# ---- processes -------------------------------------------------------------------------------------------------------


def _process(*arguments: str, **keywords: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "gradfold", *arguments], capture_output=True, timeout=120, **keywords)


def test_a_closed_pipe_has_no_traceback(model: str) -> None:
    rows = Path("test.csv").read_text().splitlines()
    Path("long.csv").write_text("\n".join([rows[0], *rows[1:] * 3000]) + "\n")
    command = f"{shlex.quote(sys.executable)} -m gradfold predict {model} long.csv --proba | head -n 2"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=120)
    assert done.stderr == "" and done.returncode == 141 and len(done.stdout.splitlines()) == 2


def test_ctrl_c(folder: Path) -> None:
    command = [sys.executable, "-m", "gradfold", "cv", "train.csv", "--target", "y", "--epochs", "2000000", "--out", "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(6)  # in the middle of training, on any machine
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # or leaving the block waits for two million epochs
    assert process.returncode == 130 and out == "" and err == "gradfold: interrupted\n"
    assert not Path("out").exists()


def test_reading_is_imported_only_when_asked_for() -> None:
    heavy = ("pyarrow", "rich", "pandas", "matplotlib", "sklearn")
    code = f"import sys, gradfold.cli as c; c._parser(); print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["cv", "predict", "show"])
def test_examples_of_help_run(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if command != "cv":
        assert cli.main([*CLASS, "--out", "result", "--quiet"]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    examples = re.findall(r"^  gradfold (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        assert cli.main(shlex.split(example)) == 0, example
        assert capsys.readouterr().out or "--out" in example


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("0.5", float, [0.5]),
        ("1e-3, 1", float, [0.001, 1.0]),
        ("1e-6:1:20log", float, np.geomspace(1e-6, 1, 20).tolist()),
        ("0:1:5lin", float, [0, 0.25, 0.5, 0.75, 1]),
        ("16:256:5log", int, [16, 32, 64, 128, 256]),
        ("1:3:9lin", int, [1, 2, 3]),
        ("sgd,adam", str, ["sgd", "adam"]),
    ],
)
def test_values(text: str, kind: type, values: list[Any]) -> None:
    axis = _axis.parse("l2", text, kind)
    assert list(axis.values) == values
    assert list(eval(axis.code, {"np": np})) == values


def test_show_of_several_classes_has_a_column_for_each(
    folder: Path, frame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    frame.assign(y=np.array(["low", "mid", "high"])[np.arange(len(frame)) % 3])[["a", "b", "y"]].to_csv("three.csv", index=False)
    assert cli.main(["cv", "three.csv", "--target", "y", *FAST, "--out", "three"]) == 0
    capsys.readouterr()
    assert cli.main(["show", "three/model.npz"]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("weight for"))
    assert lines[head].split()[2:] == ["high", "low", "mid"]
    assert {len(line) for line in lines[head:]} == {len(lines[head])} and len(lines) == head + 3


def test_a_metric_that_does_not_suit_the_target_is_named_as_the_option(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([*CLASS, "--metric", "rmse"])
    assert "--metric: got 'neg_rmse', which does not suit loss='log_loss'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "others", "solver"),
    [("y", "price", "lbfgs"), ("price", "y", "cholesky"), ("price", "y", "coordinate-descent"), ("y", "price", "coordinate-descent")],
)
def test_a_solver_of_the_optimum(folder: Path, capsys: pytest.CaptureFixture[str], target: str, others: str, solver: str) -> None:
    command = ["cv", "train.csv", "--target", target, "--ignore", others, "--ignore", "w", "--ignore", "group", "--l2", "0.001,0.1"]
    assert cli.main([*command, "--solver", solver]) == 0
    out, _ = capsys.readouterr()
    assert f"{solver}, to the optimum (tol 0.0001)" in out and f"solver='{solver}'" in out and "epochs" not in out
    _fails([*command, "--solver", solver, "--epochs", "3"], "--epochs: got 3", capsys)
