"""`gradfold bench`: its table, its crossover, its JSON, its pictures, and mistakes. The GPU is one that sleeps."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradfold import _bench_peers, _bench_table, _check, _cli_bench, _core, _device, _limits, cli
from gradfold._limits import Bandwidth, Cache, Limits, Peak, Place

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
        (["--filter", "gradient"], "--filter: is of the table, and --rows asks for the crossover alone"),
        (["--quick"], "--quick: is of the table, and --rows asks for the crossover alone"),
        (["--level", "sse9"], "--level: got 'sse9', wanted one of"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(cli.main(["bench", "--rows", "10", *arguments]))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


# ---- the table -----------------------------------------------------------------------------------------------------

TINY = _bench_table.Sizes(
    models=(1, 100),
    features=(7, 100),
    few_values=1400,
    beyond_caches=False,
    many_values=2800,
    permutation=2000,
    split_rows=300,
    groups=20,
    epoch_rows=100,
    candidates=2,
    metric_rows=50,
    metric_models=3,
    rounds=1,
    row_seconds=0.0,
)


def _limits_of(n_threads: int, level: str) -> Limits:
    """Made up: a peak of 100 GFLOP/s a thread, and 10 GB/s a thread beyond 1 MB."""
    threads = tuple(sorted({1, n_threads}))
    levels = ("serial", level) if level != "serial" else ("serial",)
    peaks = tuple(
        Peak(name, dtype, n, n * (1e9 if name == "serial" else 1e11))
        for name in levels for dtype in ("float32", "float64") for n in threads
    )  # fmt: skip
    bandwidths = tuple(
        Bandwidth(place, n, read=rate * n, copy=2 * rate * n, gather_rows=rate * n / 2, gather_8=rate * n / 10, gather_4=rate * n / 20)
        for n in threads
        for place, rate in ((Place("L1d", 500_000, 1_000_000), 1e11), (Place("memory", 4_000_000, None), 1e10))
    )
    return Limits(level, threads, (Cache("L1d", 1_000_000, 1),), "a test", peaks, bandwidths)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems, limits that are made up, and peers that need no pause."""
    for name in ("FULL", "QUICK"):
        monkeypatch.setattr(_bench_table, name, TINY)
    monkeypatch.setattr(_limits, "measure", lambda n, most: _limits_of(n, _core.levels.current()))
    monkeypatch.setattr(_bench_peers, "PAUSES", dict.fromkeys(_bench_peers.PAUSES, 0.0))
    monkeypatch.setattr(_cli_bench, "MODELS", (1, 2))


ROWS = 8 + 2 + 2 + 1 + 2 + 3


def test_every_row(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    report = _report(["bench", "--threads", "2"], capsys)
    rows = report["table"]
    assert len(rows) == ROWS == len({(row["kernel"], row["shape"]) for row in rows})
    assert {row["kernel"] for row in rows} == {
        "gradient", "gradient + loss", "multinomial", "epoch of sgd", "epoch of adam", "permutation", "stratified_kfold",
        "group_kfold", "metric accuracy", "metric log_loss", "metric roc_auc",
    }  # fmt: skip
    for row in rows:
        assert set(row) == {
            "kernel", "shape", "threads", "seconds", "gflops", "gbytes_per_second", "flops_per_byte", "limited_by", "of_limit",
            "target_of_limit", "peers", "best_peer", "times_best_peer", "loses",
        }  # fmt: skip
        assert row["seconds"] > 0 and row["of_limit"] > 0 and row["gbytes_per_second"] > 0
        assert row["best_peer"] in row["peers"] and row["times_best_peer"] == min(row["peers"].values()) > 0
        assert row["loses"] == _bench_table.losses(row)
        assert (row["gflops"] is None) == (row["flops_per_byte"] == 0)
        if row["gflops"] is not None:
            assert row["gflops"] / row["gbytes_per_second"] == pytest.approx(row["flops_per_byte"])
    assert {row["kernel"] for row in rows if row["threads"] == 1 or row["gflops"] is None} == {
        row["kernel"] for row in rows if row["kernel"].split()[0] in ("permutation", "stratified_kfold", "group_kfold", "metric")
    }
    assert {"numpy", "sklearn"} == {name for row in rows for name in row["peers"]}
    assert report["limits"]["n_threads"] == [1, 2] and report["limits"]["caches_from"] == "a test"
    assert [r["models"] for r in report["results"]] == [1, 2]  # the crossover is in the JSON as ever
    assert report["peaks"].keys() == {"cpu"} and report["gpu_is_faster_from"] is None and report["rows"] == 20_000


def _gradient_row(report: dict[str, Any], shape: str, kernel: str = "gradient") -> dict[str, Any]:
    (row,) = [row for row in report["table"] if (row["kernel"], row["shape"]) == (kernel, shape)]
    return dict(row)


def test_shares_of_the_limit(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    report = _report(["bench", "--threads", "2", "--filter", "gradient .*100$|permutation"], capsys)
    peak = _limits_of(2, "x86_v3").peak("float32", 2)
    row = _gradient_row(report, "1 × 100")  # 14 rows of 100: 4 operations for 4 bytes, and 4 bytes of y a row
    n_bytes = 14 * 101 * 4
    read = _limits_of(2, "x86_v3").bandwidth(n_bytes, 2).read
    if _core.levels.current() != "serial":
        assert row["limited_by"] == "L1d" and row["flops_per_byte"] == pytest.approx(4 * 14 * 100 / n_bytes)
        assert row["of_limit"] == pytest.approx(n_bytes / read / row["seconds"])
        wide = _gradient_row(report, "100 × 100")
        assert wide["limited_by"] == "compute" and wide["of_limit"] == pytest.approx(wide["gflops"] * 1e9 / peak)
    order = _gradient_row(report, "2,000", "permutation")
    assert order["limited_by"] == "L1d" and order["threads"] == 1
    assert order["of_limit"] == pytest.approx(order["gbytes_per_second"] / 200)  # a copy's 2e11 of one thread


def test_what_binds() -> None:
    limits = _limits_of(2, "x86_v3")

    def bound(flops: float, n_bytes: float, traffic: dict[str, float], n_threads: int = 2) -> tuple[float, str]:
        return _bench_table.bound(_bench_table.Work(lambda: None, flops, traffic, n_bytes, n_threads), limits)

    assert bound(4e6, 2e6, {"read": 2e6}) == (pytest.approx(1e-4), "memory")  # 2 operations a byte: 2e10 × 2 of 2e11
    assert bound(4e8, 2e6, {"read": 2e6}) == (pytest.approx(2e-3), "compute")
    assert bound(4e8, 2e6, {"read": 2e6}, 1) == (pytest.approx(4e-3), "compute")
    assert bound(0.0, 1e6, {"copy": 1e6}) == (pytest.approx(2.5e-6), "L1d")
    # Rows in a random order and then in their own are two parts of one time.
    assert bound(0.0, 2e6, {"gather_rows": 2e6, "read": 2e6}) == (pytest.approx(3e-4), "memory")


@pytest.mark.parametrize(("n_bytes", "in_memory", "target"), [(2e6, True, 0.75), (1e5, True, None), (1e5, False, 0.75)])
def test_one_model_has_a_target_in_memory_alone(n_bytes: float, in_memory: bool, target: float | None) -> None:
    """Where X lies in a cache, other things bind."""
    work = _bench_table.Work(lambda: None, 1.0, {"read": n_bytes}, n_bytes, 1)
    row = _bench_table.measure(_bench_table.Case("gradient", "1 × 30", lambda: work, 0.75, in_memory), _limits_of(1, "x86_v3"), [], TINY)
    assert row["target_of_limit"] == target


@pytest.mark.parametrize(
    ("of_limit", "target", "best", "wanted"),
    [
        (0.5, 0.75, 2.0, ["50% of the limit, wanted 75%"]),
        (0.75, 0.75, 1.0, []),
        (0.5, None, 1.5, []),
        (0.5, None, None, []),
        (0.9, 0.75, 0.5, ["numpy is 2.00 × as fast"]),
        (0.1, 0.9, 0.8, ["numpy is 1.25 × as fast", "10% of the limit, wanted 90%"]),
    ],
)
def test_where_we_lose(of_limit: float, target: float | None, best: float | None, wanted: list[str]) -> None:
    row = {"of_limit": of_limit, "target_of_limit": target, "times_best_peer": best, "best_peer": None if best is None else "numpy"}
    assert _bench_table.losses(row) == wanted


def _made_up(**changes: Any) -> dict[str, Any]:
    row = {
        "kernel": "gradient", "shape": "1 × 30", "threads": 2, "seconds": 0.0123, "gflops": 1234.5, "gbytes_per_second": 2.0,
        "flops_per_byte": 1.0, "limited_by": "L2", "of_limit": 0.5, "target_of_limit": None, "peers": {"numpy": 0.8},
        "best_peer": "numpy", "times_best_peer": 0.8, "loses": ["numpy is 1.25 × as fast"],
    }  # fmt: skip
    return {**row, **changes}


def test_losing_rows_are_marked_and_listed_again() -> None:
    slow = _made_up()
    fine = _made_up(kernel="permutation", shape="10", threads=1, seconds=5e-5, gflops=None, loses=[], best_peer=None, times_best_peer=None)
    head, first, second = _bench_table.lines([slow, fine])
    assert head.split() == "kernel shape threads time rate limit % of limit × best peer".split()
    assert first.startswith("!  gradient ") and second.startswith("   permutation ")
    for cell in ("12.30 ms", "1,234.5 GFLOP/s", "L2", "50.0%", "0.80 numpy"):
        assert cell in first
    assert "50.0 µs" in second and "2.0 GB/s" in second and second.endswith("–")
    assert list(_bench_table.losing([slow, fine])) == ["Where we lose", "  gradient 1 × 30, 2 threads: numpy is 1.25 × as fast"]
    assert list(_bench_table.losing([fine])) == ["Where we lose: in none of these 1 rows"]


def test_targets() -> None:
    assert _bench_table.dense_target(1, 100, False, 1) == 0.65 and _bench_table.dense_target(1, 30, False, 2) == 0.75
    assert _bench_table.dense_target(100, 100, False, 1) == 0.75 and _bench_table.dense_target(100, 100, True, 1) == 0.70
    assert _bench_table.dense_target(512, 1000, False, 1) == 0.90
    assert _bench_table.dense_target(16, 100, False, 1) is None and _bench_table.dense_target(100, 30, False, 1) is None


@pytest.mark.parametrize("rich", [True, False])
def test_the_whole_report(rich: bool, tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "rich" and not rich else plain(name, *a))
    assert cli.main(["bench", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "1 threads; GPU: there is none" in lines[0]
    for text in ("caches (a test): L1d", "FMA peak in GFLOP/s", "gather of 400-byte rows", "% of limit", "× best peer"):
        assert text in out
    assert sum(line.strip(" !").startswith(("gradient", "multinomial", "epoch", "permutation", "stratified", "group", "metric"))
               and line.startswith((" ", "!")) and "/s " in line for line in lines) == ROWS  # fmt: skip
    assert ("──" in out) == rich
    lost = next(k for k, line in enumerate(lines) if line.startswith("Where we lose"))
    marked = sum(line.lstrip().startswith("!") for line in lines[:lost])
    assert len(lines) - lost - 1 == marked > 0  # such small problems are far from the limit; nothing else comes after


@pytest.mark.parametrize(("load", "said"), [(0.1, False), (7.25, True)])
def test_a_busy_machine(
    load: float, said: bool, tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_cli_bench.os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert cli.main(["bench", "--threads", "1", "--filter", "permutation"]) == 0
    assert (f"other work is running (load average {load:.1f})" in capsys.readouterr().out) == said


def test_the_crossover_is_in_one_line_beside_the_table(tiny: None, gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("the GPU is") and "model·rows/s" not in out
    assert cli.main(["bench", "--threads", "1", "--filter", "permutation"]) == 0
    assert "the GPU is" not in capsys.readouterr().out


def test_a_filter(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    report = _report(["bench", "--threads", "1", "--filter", r"^gradient \+ loss 100|roc"], capsys)
    assert [row["kernel"] for row in report["table"]] == ["gradient + loss"] * 2 + ["metric roc_auc"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "softmax"], "--filter: got 'softmax', which no row has; there are gradient, gradient + loss, multinomial,"),
        (["--filter", "("], "--filter: got '(', which is no regular expression"),
        (["--peers", "numpy,cupy"], "--peers: got 'numpy,cupy', wanted some of numpy, sklearn, torch, jax"),
        (["--peers", ","], "--peers: got ',', wanted some of"),
        (["--threads", "0"], "n_threads: got 0"),
        (["--plot", "no_such_folder/bench.png"], "no such folder"),
        (["--json", "."], "path: got '.', which is there and is no regular file"),
    ],
)
def test_mistakes_of_the_table(
    arguments: list[str], message: str, tiny: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_limits, "measure", lambda n, most: pytest.fail("measured before the options were read"))
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(cli.main(["bench", *arguments]))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_peers_that_are_not_installed(tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(_bench_peers.MODULES, "torch", "gradfold_has_no_such_module")
    arguments = ["bench", "--threads", "1", "--filter", "permutation", "--peers", "torch, numpy"]
    report = _report(arguments, capsys)
    assert report["peers_left_out"] == {"torch": "not installed"} and report["table"][0]["peers"].keys() == {"numpy"}
    assert cli.main(arguments) == 0
    assert "peer torch: not installed" in capsys.readouterr().out
    report = _report([*arguments[:-1], "torch"], capsys)
    (row,) = report["table"]
    assert (row["peers"], row["best_peer"], row["times_best_peer"], row["loses"]) == ({}, None, None, [])


def test_nobody_is_imported_unasked(tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []
    plain = importlib.import_module
    monkeypatch.setattr(_bench_peers.importlib, "import_module", lambda name: seen.append(name) or plain(name))
    _report(["bench", "--threads", "1"], capsys)
    assert {name.partition(".")[0] for name in seen} <= {"sklearn", "threadpoolctl"}


def test_peers_whose_threads_cannot_be_set(tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "threadpoolctl" else plain(name, *a))
    report = _report(["bench", "--threads", str(_check.threads(None) + 1), "--filter", "gradient 1 × 7"], capsys)
    assert "needs threadpoolctl" in report["peers_left_out"]["numpy"] and report["table"][0]["peers"] == {}
    report = _report(["bench", "--filter", "gradient 1 × 7"], capsys)  # all processors: as NumPy has it
    assert report["peers_left_out"] == {} and report["table"][0]["peers"].keys() == {"numpy"}


def test_a_level(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    before = _core.levels.current()
    for level in _core.levels.supported():
        report = _report(["bench", "--threads", "1", "--level", level, "--filter", "gradient 100 × 7"], capsys)
        assert report["level"] == level == report["limits"]["level"]
        assert _core.levels.current() == before


def test_json_to_a_file(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    assert cli.main(["bench", "--quick", "--threads", "1", "--filter", "permutation", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"wrote {path}" in out and "permutation" in out
    assert json.loads(path.read_text())["table"][0]["kernel"] == "permutation" and [p.name for p in tmp_path.iterdir()] == ["bench.json"]


def test_both_pictures(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    seen: list[Any] = []
    plain = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **keywords: Any) -> None:
        seen.extend(self.axes)
        plain(self, *arguments, **keywords)

    monkeypatch.setattr(Figure, "savefig", savefig)
    path = tmp_path / "bench.png"
    assert cli.main(["bench", "--threads", "2", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    roofline, crossover = seen
    limits = _limits_of(2, _core.levels.current())
    words = [text.get_text() for text in roofline.texts]
    for b in limits.bandwidths[2:]:
        assert f"{b.place.name}: {b.read / 1e9:,.0f} GB/s" in words
    for level in dict.fromkeys(p.level for p in limits.peaks):
        assert f"{level}: {limits.peak('float32', 2, level) / 1e9:,.0f} GFLOP/s" in words
    assert {"1 × 7", "100 × 100"} <= set(words)  # kernels by name, and all points lie within the picture
    points = [line for line in roofline.lines if line.get_marker() not in ("None", None)]
    assert [line.get_label() for line in points] == ["gradient", "gradient + loss", "multinomial", "epoch of sgd", "epoch of adam"]
    assert sum(len(line.get_xdata()) for line in points) == 12
    (low, high), (left, right) = roofline.get_ylim(), roofline.get_xlim()
    for line in points:
        assert all(left < x < right for x in line.get_xdata()) and all(low < y < high for y in line.get_ydata())
    assert "the CPU alone: no GPU here" in crossover.get_title() and len(crossover.lines) == 1


def test_quick_is_smaller() -> None:
    full, quick = (dataclasses.asdict(sizes) for sizes in (_bench_table.FULL, _bench_table.QUICK))
    for name, value in quick.items():
        assert set(value) <= set(full[name]) if isinstance(value, tuple) else value <= full[name]
    assert len(_bench_table.cases(_bench_table.QUICK, 2)) < len(_bench_table.cases(_bench_table.FULL, 2)) / 2
