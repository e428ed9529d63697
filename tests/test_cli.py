"""The command line: `info`, `demo`, and what a mistake looks like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gradfold as gf
from gradfold import cli


def _gradfold(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradfold", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "120", **environment},
    )


def _fails(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(cli.main(arguments))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("gradfold: error: ") and message in err


def test_info() -> None:
    result = _gradfold("info")
    assert result.returncode == 0 and result.stderr == ""
    words = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert set(words) == {"gradfold", "levels", "threads", "device", "python", "optional"}
    assert gf.__version__ in words["gradfold"] and "(in use)" in words["levels"] and "cpu" in words["device"]


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["version"] == gf.__version__ and facts["device"] == "cpu" and facts["threads"] >= 1
    assert "serial" in facts["levels"] and facts["level"] in facts["levels"]


def test_a_level_is_forced() -> None:
    assert json.loads(_gradfold("info", "--json", GRADFOLD_LEVEL="serial").stdout)["level"] == "serial"
    result = _gradfold("info", GRADFOLD_LEVEL="x86_v9")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "x86_v9" in result.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out == f"gradfold {gf.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmo"], "unknown command 'dmo', wanted bench, cv, demo, info, predict, show; did you mean 'demo'?"),
        (["demo", "--outt"], "--outt"),
        (["--jsn"], "--jsn"),
        (["info", "x"], "x"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    _fails(arguments, message, capsys)


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: gradfold" in capsys.readouterr().err


def test_missing_extras(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = cli.importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name in ("rich", "sklearn") else find("json", *rest)

    monkeypatch.setattr(cli.importlib.util, "find_spec", without)
    _fails(["demo"], "demo needs rich, scikit-learn: pip install 'gradfold[cli]'", capsys)


def test_an_empty_folder_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = cli.importlib.util.find_spec
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda *_: find("json"))
    _fails(["demo", "--out", ""], "--out: got '', wanted a folder", capsys)


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("rich", "sklearn", "pandas", "matplotlib"):
        pytest.importorskip(module)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", "--quick", "--out", str(tmp_path / "file")])
    assert caught.value.code == 2
    assert "file" in capsys.readouterr().err


def test_demo(tmp_path: Path) -> None:
    for module in ("rich", "sklearn", "pandas", "matplotlib"):
        pytest.importorskip(module)
    result = _gradfold("demo", "--quick", "--out", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    names = ("digits", "breast_cancer", "generated")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{n}.{e}" for n in names for e in ("csv", "png", "npz")}
    assert result.stdout.count("verdict") == 3 and result.stdout.count("scikit-learn (") == 3
    import pandas

    for name in names:
        frame = pandas.read_csv(tmp_path / "out" / f"{name}.csv")
        run = gf.load(tmp_path / "out" / f"{name}.npz")
        assert len(frame) == run.n_candidates == 20 and run.n_splits == 5
        assert frame["rank"].idxmin() == run.best_candidate and not run.diverged.any()
        assert frame["scikit_learn_mean"].notna().sum() >= 3
        # The best held-out loss is that of the optimum to a few per cent.
        assert frame["mean"].min() < 1.05 * frame["scikit_learn_mean"].min()
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
