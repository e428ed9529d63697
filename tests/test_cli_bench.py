"""`gradfold bench`: its table, its JSON, its picture, and mistakes. The GPU is one that sleeps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradfold import _cli_bench, _device, cli

SMALL = ["bench", "--rows", "300", "--features", "7", "--models", "1,16,2", "--seconds", "5"]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise _device.DeviceError("device 'cuda': there is none")

    monkeypatch.setattr(_device, "gpu", lambda: "there is none")
    monkeypatch.setattr(_device, "require_cuda", refuse)


class _Sleeps:
    """A millisecond, whatever the number of models."""

    name = "cuda"

    def __init__(self, problem: Any) -> None:
        pass

    def peak(self) -> float:
        return 1e13

    def gradient(self, n_models: int) -> Callable[[], None]:
        return lambda: time.sleep(0.001)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "gpu", lambda: {"name": "a GPU that sleeps"})
    monkeypatch.setattr(_cli_bench, "_Cuda", _Sleeps)


def _report(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main([*arguments, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_the_numbers_belong_together(capsys: pytest.CaptureFixture[str]) -> None:
    report = _report([*SMALL, "--dtype", "float64", "--threads", "1"], capsys)
    assert (report["gpu"], report["no_gpu"], report["threads"]) == (None, "there is none", 1)
    assert [r["models"] for r in report["results"]] == [1, 2, 16]  # ascending
    peak = report["peaks"]["cpu"]
    for r in report["results"]:
        flops = 4 * 300 * 7 * r["models"] / r["seconds"]
        assert (r["rows"], r["features"], r["device"]) == (300, 7, "cpu")
        assert r["gflops"] == pytest.approx(flops / 1e9)
        assert r["of_peak"] == pytest.approx(flops / peak)
        assert r["model_rows_per_second"] == pytest.approx(300 * r["models"] / r["seconds"])
        assert 0 < r["of_peak"] < 1.5


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(SMALL) == 0
    out = capsys.readouterr().out
    assert "GPU: there is none" in out and "FMA peak of cpu: " in out and "faster" not in out
    head = next(line for line in out.splitlines() if line.startswith("kernel"))
    for word in ("shape", "models", "device", "time", "GFLOP/s", "model·rows/s", "of the peak"):
        assert word in head
    assert sum(line.startswith("gradient  300 × 7") for line in out.splitlines()) == 3


def test_both_devices(gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(SMALL) == 0
    out = capsys.readouterr().out
    assert "a GPU that sleeps" in out and "FMA peak of cuda: 10,000 GFLOP/s" in out
    assert sum(" cuda " in line for line in out.splitlines()) == 3


def test_one_device_alone(gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cpu", "cuda"):
        report = _report([*SMALL, "--device", name], capsys)
        assert {r["device"] for r in report["results"]} == {name} == set(report["peaks"])


def test_sizes_that_take_too_long_are_left_out(gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--models", "1,100000000", "--device", "cuda"]
    report = _report(arguments, capsys)
    assert [r["models"] for r in report["results"]] == [1]
    assert report["left_out"] == [{"device": "cuda", "models": 100_000_000}]
    cli.main(arguments)
    assert "no time for 100,000,000 models on cuda: --seconds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cpu", "cuda", "wanted"),
    [
        ([1, 2, 4, 8], [3, 3, 3, 3], 4),
        ([1, 2], [3, 3], None),
        ([4, 5], [3, 3], 1),
        ([9, 1, 9], [3, 3, 3], 4),
        ([], [1], None),
    ],
)
def test_the_crossover(cpu: list[int], cuda: list[int], wanted: int | None) -> None:
    results = [
        {"device": name, "models": 2**k, "seconds": seconds}
        for name, times in (("cpu", cpu), ("cuda", cuda))
        for k, seconds in enumerate(times)
    ]
    assert _cli_bench.crossover(results) == wanted


def _title(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> tuple[str, int]:
    """The title of the picture, and how many lines it has."""
    from matplotlib.axes import Axes

    seen: dict[str, Any] = {}
    plain = Axes.set_title

    def set_title(self: Axes, label: str, **keywords: Any) -> Any:
        seen.update(title=label, lines=len(self.lines))
        return plain(self, label, **keywords)

    monkeypatch.setattr(Axes, "set_title", set_title)
    assert cli.main(arguments) == 0
    return seen["title"], seen["lines"]


def test_the_picture_says_that_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bench.png"
    title, lines = _title(monkeypatch, [*SMALL, "--plot", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "the CPU alone: no GPU here" in title and lines == 1


def test_the_picture_of_both(gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cli_bench, "crossover", lambda results: 2)
    title, lines = _title(monkeypatch, [*SMALL, "--plot", str(tmp_path / "bench.png")])
    assert "alone" not in title and lines == 3  # and the crossover


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "1,x"], "--models: got '1,x'"),
        (["--models", "0"], "--models: got '0'"),
        (["--rows", "4"], "--rows: got 4, wanted at least 5"),
        (["--features", "0"], "--features: got 0, wanted at least 1"),
        (["--seconds", "0"], "--seconds: got 0.0"),
        (["--device", "cuda"], "device 'cuda': there is none"),
        (["--device", "tpu"], "--device: invalid choice: 'tpu'"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(cli.main(["bench", "--rows", "10", *arguments]))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
