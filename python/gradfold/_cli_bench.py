"""`gradfold bench`: kernels beside the machine's limits and other libraries, and the crossover of CPU and GPU over models."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

import gradfold
from gradfold import _bench_peers, _bench_table, _check, _core, _device, _limits, _storage, gradient
from gradfold._bench_problems import N_SPLITS, Rows

MODELS = tuple(2**k for k in range(14))
_CALLS, _MOST_CALLS = 3, 25  # of one size: at least, at most
_ENOUGH = 0.15  # seconds of one size, once there are enough calls
_KERNEL = "gradient"
_NOT_ASKED = "not asked for"

# The crossover's options and their defaults; whoever gives one wants the crossover alone.
_CROSSOVER: dict[str, Any] = {"rows": 20_000, "features": 100, "dtype": "float32", "models": None, "seconds": 10.0, "device": None}
_TABLE = ("quick", "filter", "peers")  # options that are of the table alone
_SECONDS_BESIDE = {False: 4.0, True: 1.5}  # of the crossover for each device, beside the table; whether --quick
_BUSY = 0.5  # load average from which on the report says that the machine is not ours alone
_MOST_QUICK = 128 << 20  # bytes of the working set that stands for memory


class _Side(Protocol):
    """A device that is measured."""

    name: str

    def peak(self) -> float:
        """FLOP/s of FMAs in registers."""

    def gradient(self, n_models: int) -> Callable[[], Any]:
        """One gradient of so many models; returns when it is done."""


class _Cpu:
    name = "cpu"

    def __init__(self, problem: Rows, n_threads: int) -> None:
        self._problem, self._n_threads = problem, n_threads

    def peak(self) -> float:
        return _limits.fma_peak(self._problem.X.itemsize, self._n_threads)

    def gradient(self, n_models: int) -> Callable[[], Any]:
        q = self._problem
        W, intercept = q.weights(n_models)
        out = (None, np.empty_like(W), np.empty_like(intercept))
        return lambda: gradient.loss_gradient(
            q.X,
            q.y,
            W,
            intercept,
            loss="log_loss",
            folds=q.folds,
            return_loss=False,
            n_threads=self._n_threads,
            out=out,
        )


class _Cuda:
    """The data lie on the GPU, and the results stay there."""

    name = "cuda"

    def __init__(self, problem: Rows) -> None:
        self._driver = _device.require_cuda()
        from gradfold.cuda import arrays

        self._problem, self._arrays = problem, arrays
        self._X, self._y = arrays.to_device(problem.X), arrays.to_device(problem.y)

    def peak(self) -> float:
        from gradfold.cuda import roofline

        return roofline.fma_peak(self._problem.X.dtype.name)

    def gradient(self, n_models: int) -> Callable[[], Any]:
        W, intercept = map(self._arrays.to_device, self._problem.weights(n_models))

        def run() -> None:
            gradient.loss_gradient(
                self._X, self._y, W, intercept, loss="log_loss", folds=self._problem.folds, return_loss=False
            )
            self._driver.cuda.synchronize()

        return run


def run(options: argparse.Namespace) -> int:
    """Do what `gradfold bench` was asked to; returns the exit code."""
    given = [name for name in _CROSSOVER if getattr(options, name) is not None]
    for name in _TABLE if given else ():
        if getattr(options, name):
            raise ValueError(f"--{name}: is of the table, and --{given[0]} asks for the crossover alone")
    for path in (options.plot, options.json):
        if path not in (None, "-"):
            _storage.check_target(path)
    threads = _check.threads(options.threads)
    if options.level is None:
        return _run(options, threads, bool(given))
    _core.levels._force(_check.choice("--level", options.level, _core.levels.supported()))
    try:
        return _run(options, threads, bool(given))
    finally:
        _core.levels._force("")


def _run(options: argparse.Namespace, threads: int, alone: bool) -> int:
    """`alone`: the crossover without the table."""
    report: dict[str, Any] = {
        "gradfold": gradfold.__version__,
        "level": _core.levels.current(),
        "threads": threads,
        "limits": None,
        "table": [],
        "peers_left_out": {},
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # before we add to it
    }
    limits = None
    if not alone:
        limits = _measure_table(options, threads, report)
    gpu = _NOT_ASKED if options.device == "cpu" else _device.gpu()
    report["gpu"] = gpu["name"] if isinstance(gpu, dict) else None
    report["no_gpu"] = gpu if isinstance(gpu, str) else None
    if alone or options.plot is not None or options.json is not None or (isinstance(gpu, dict) and not options.filter):
        _measure_crossover(options, threads, alone, isinstance(gpu, dict), report)
    if options.plot is not None:
        from gradfold import _bench_plot

        _bench_plot.save(options.plot, report, limits, _title(report))
    if options.json is not None:
        text = json.dumps(report, indent=2)
        if options.json == "-":
            print(text)
            return 0
        with _storage.atomic(options.json) as file:
            file.write(f"{text}\n".encode())
    if limits is not None:
        _print_table(report, limits)
    if "peaks" in report:
        _print_crossover(report, whole=alone)
    for path in (options.plot, options.json):
        if path is not None:
            print(f"wrote {path}")
    return 0


def _measure_table(options: argparse.Namespace, threads: int, report: dict[str, Any]) -> _limits.Limits:
    """Fills in "limits", "table" and "peers_left_out"."""
    sizes = _bench_table.QUICK if options.quick else _bench_table.FULL
    cases = _bench_table.chosen(_bench_table.cases(sizes, threads), options.filter)
    names, skipped = _bench_table.peers_of(options.peers)
    with _bench_peers.blas_threads(threads) as held:
        if threads != _check.threads(None):  # a peer that cannot be told so would be compared unfairly
            if "numpy" in names and not held:
                skipped["numpy"] = "needs threadpoolctl to run on as many threads as --threads says"
            if "jax" in names:
                skipped["jax"] = "runs on all processors, whatever --threads says"
        names = [name for name in names if name not in skipped]
        say = _Progress(1 + len(cases))
        say("the limits")
        limits = _limits.measure(threads, most=_MOST_QUICK if options.quick else _limits.MOST)
        for case in cases:
            say(case.name)
            report["table"].append(_bench_table.measure(case, limits, names, sizes))
        say("")
    report["limits"], report["peers_left_out"] = limits.to_dict(), skipped
    return limits


class _Progress:
    """One line on a terminal that says what is being measured."""

    def __init__(self, n: int) -> None:
        self._n, self._at = n, 0

    def __call__(self, what: str) -> None:
        if sys.stderr.isatty():
            self._at += 1
            text = f"{self._at} of {self._n}: {what}" if what else ""
            print(f"\r{text:<60}\r", end="", file=sys.stderr, flush=True)


def _measure_crossover(
    options: argparse.Namespace, threads: int, alone: bool, has_gpu: bool, report: dict[str, Any]
) -> None:
    """Fills in what the crossover is of, "peaks", "results", "left_out" and "gpu_is_faster_from"."""
    defaults = _CROSSOVER if alone else {**_CROSSOVER, "seconds": _SECONDS_BESIDE[options.quick]}
    chosen = {name: default if getattr(options, name) is None else getattr(options, name) for name, default in defaults.items()}
    n_models = _models(chosen["models"])
    for name in ("rows", "features"):
        least = N_SPLITS if name == "rows" else 1
        if chosen[name] < least:
            raise ValueError(f"--{name}: got {chosen[name]}, wanted at least {least}")
    if not chosen["seconds"] > 0:
        raise ValueError(f"--seconds: got {chosen['seconds']}, wanted a number above 0")
    problem = Rows(chosen["rows"], chosen["features"], chosen["dtype"])
    sides: list[_Side] = []
    if chosen["device"] != "cuda":
        sides.append(_Cpu(problem, threads))
    if chosen["device"] == "cuda" or has_gpu:
        sides.append(_Cuda(problem))
    report |= {
        "kernel": _KERNEL,
        "rows": chosen["rows"],
        "features": chosen["features"],
        "dtype": chosen["dtype"],
        "splits": N_SPLITS,
        "peaks": {},
        "results": [],
        "left_out": [],
    }
    for side in sides:
        _measure(side, problem, n_models, chosen["seconds"], report)
    report["gpu_is_faster_from"] = crossover(report["results"])


def _models(text: str | None) -> list[int]:
    if text is None:
        return list(MODELS)
    try:
        chosen = sorted({int(part) for part in text.split(",")})
    except ValueError:
        chosen = []
    if not chosen or chosen[0] < 1:
        raise ValueError(
            f"--models: got {text!r}, wanted numbers of at least 1 with commas between them, as 1,100,8192"
        )
    return chosen


def _measure(side: _Side, problem: Rows, n_models: list[int], seconds: float, report: dict[str, Any]) -> None:
    """Ascending sizes, until the next one would not fit into the time."""
    report["peaks"][side.name] = peak = side.peak()
    end = time.perf_counter() + seconds
    rows, features = problem.X.shape
    expected = 0.0
    for at, m in enumerate(n_models):
        left = end - time.perf_counter()
        if left < max(0.0, expected):
            report["left_out"] += [{"device": side.name, "models": rest} for rest in n_models[at:]]
            return
        times = _times(side.gradient(m))
        took = statistics.median(times)
        expected = (_CALLS + 1) * took * (n_models[at + 1] / m if at + 1 < len(n_models) else 1)
        flops = 4.0 * rows * features * m  # a training row's: two for the prediction, two for the gradient
        report["results"].append(
            {
                "kernel": _KERNEL,
                "device": side.name,
                "rows": rows,
                "features": features,
                "models": m,
                "seconds": took,
                "gflops": flops / took / 1e9,
                "model_rows_per_second": rows * m / took,
                "of_peak": flops / took / peak,
            }
        )


def _times(body: Callable[[], Any]) -> list[float]:
    body()  # warms up, and compiles where that is to be done
    times: list[float] = []
    while len(times) < _CALLS or (len(times) < _MOST_CALLS and sum(times) < _ENOUGH):
        began = time.perf_counter()
        body()
        times.append(time.perf_counter() - began)
    return times


def crossover(results: list[dict[str, Any]]) -> int | None:
    """The smallest measured number of models from which on the GPU is faster; None where that is not seen."""
    cpu, cuda = ({r["models"]: r["seconds"] for r in results if r["device"] == name} for name in ("cpu", "cuda"))
    found = None
    for m in sorted(cpu.keys() & cuda.keys(), reverse=True):
        if cuda[m] >= cpu[m]:
            break
        found = m
    return found


def _where(report: dict[str, Any]) -> str:
    where = [f"cpu {report['level']}, {report['threads']} threads"] if "cpu" in report.get("peaks", {"cpu": 0}) else []
    where.append(report["gpu"] or f"GPU: {report['no_gpu']}")
    return "; ".join(where)


def _print_table(report: dict[str, Any], limits: _limits.Limits) -> None:
    rows = report["table"]
    print(_where(report))
    if report["load"] is not None and report["load"] > _BUSY:
        print(
            f"other work is running (load average {report['load']:.1f}): it slows the kernels and their peers, the limits much less, so "
            "shares of the limit are too low"
        )
    print("limits, measured just now, the best of several:")
    for line in _bench_table.limit_lines(limits):
        print(f"  {line}")
    print()
    if importlib.util.find_spec("rich") is None:
        print("\n".join(_bench_table.lines(rows)))
    else:
        _print_rich(_bench_table.rich_table(rows))
    for line in _bench_table.legend(report["peers_left_out"]):
        print(line)
    print()
    for line in _bench_table.losing(rows):
        print(line)


def _print_rich(table: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False, width=200)  # as wide as it needs: a narrow one would lose the ends of cells
    # rich ends the process when a pipe is closed; Python's own stream raises, and `cli` answers.
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")


def _print_crossover(report: dict[str, Any], whole: bool) -> None:
    """`whole`: with a table of all numbers of models."""
    if whole:
        _print_models(report)
    for name in report["peaks"]:
        rest = [r["models"] for r in report["left_out"] if r["device"] == name]
        if rest and whole:
            print(f"no time for {', '.join(f'{m:,}' for m in rest)} models on {name}: --seconds")
    if "cuda" in report["peaks"] and "cpu" in report["peaks"]:
        found = report["gpu_is_faster_from"]
        print("the GPU is not faster" if found is None else f"the GPU is faster from {found:,} models on")


def _print_models(report: dict[str, Any]) -> None:
    shape = f"{report['rows']:,} × {report['features']}"
    print(
        f"gradient of the log loss, {report['dtype']}, {shape} rows × features, {N_SPLITS}-fold masks; medians; "
        "useful operations are 4 × rows × features × models"
    )
    print(_where(report))
    for name, peak in report["peaks"].items():
        print(f"FMA peak of {name}: {peak / 1e9:,.0f} GFLOP/s, measured")
    print()
    head = ("kernel", "shape", "models", "device", "time", "GFLOP/s", "model·rows/s", "of the peak")
    body = [
        (
            r["kernel"],
            f"{r['rows']:,} × {r['features']}",
            f"{r['models']:,}",
            r["device"],
            f"{1e3 * r['seconds']:.3f} ms",
            f"{r['gflops']:,.1f}",
            f"{r['model_rows_per_second']:.2e}",
            f"{r['of_peak']:.1%}",
        )
        for r in report["results"]
    ]
    for line in _bench_table.aligned([head, *body], left=(0, 1, 3)):
        print(line)


def _title(report: dict[str, Any]) -> str:
    """Of the crossover's picture."""
    alone = {("cpu",): "the CPU alone", ("cuda",): "the GPU alone"}.get(tuple(report["peaks"]))
    if alone == "the CPU alone":
        alone += ", as asked for" if report["no_gpu"] == _NOT_ASKED else ": no GPU here"
    title = f"Gradient of many models, {report['rows']:,} × {report['features']}, {report['dtype']}"
    return title + (f"\n({alone})" if alone else "")
