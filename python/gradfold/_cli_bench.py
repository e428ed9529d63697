"""`gradfold bench`: the dense gradient of 1 to 8,192 models on the CPU and the GPU, beside what they can do at best."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import gradfold
from gradfold import _check, _core, _device, _storage, gradient, index

Array = npt.NDArray[Any]

MODELS = tuple(2**k for k in range(14))
N_SPLITS = 5
_CALLS, _MOST_CALLS = 3, 25  # of one size: at least, at most
_ENOUGH = 0.15  # seconds of one size, once there are enough calls
_KERNEL = "gradient"
_NOT_ASKED = "not asked for"


class _Problem:
    """Random rows, two classes, five folds; made by seed."""

    def __init__(self, n_rows: int, n_features: int, dtype: str) -> None:
        self.rng = np.random.default_rng(0)
        self.X = self.rng.standard_normal((n_rows, n_features), np.float32).astype(dtype, copy=False)
        self.y = (self.rng.random(n_rows) < 0.5).astype(dtype)
        self.folds = index.kfold(n_rows, N_SPLITS)

    def weights(self, n_models: int) -> tuple[Array, Array]:
        """W and the intercepts."""
        shape = (self.X.shape[1], n_models)
        W = self.rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(shape[0]))
        return W.astype(self.X.dtype, copy=False), np.zeros(n_models, self.X.dtype)


class _Side(Protocol):
    """A device that is measured."""

    name: str

    def peak(self) -> float:
        """FLOP/s of FMAs in registers."""

    def gradient(self, n_models: int) -> Callable[[], Any]:
        """One gradient of so many models; returns when it is done."""


class _Cpu:
    name = "cpu"

    def __init__(self, problem: _Problem, n_threads: int) -> None:
        self._problem, self._n_threads = problem, n_threads

    def peak(self) -> float:
        itemsize = self._problem.X.itemsize
        return float(max(_core.roofline.fma_peak(itemsize, self._n_threads, 0.05) for _ in range(5)))

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

    def __init__(self, problem: _Problem) -> None:
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
    n_models = _models(options.models)
    for name in ("rows", "features"):
        value = getattr(options, name)
        if value < (N_SPLITS if name == "rows" else 1):
            raise ValueError(f"--{name}: got {value}, wanted at least {N_SPLITS if name == 'rows' else 1}")
    if not options.seconds > 0:
        raise ValueError(f"--seconds: got {options.seconds}, wanted a number above 0")
    threads = _check.threads(options.threads)
    problem = _Problem(options.rows, options.features, options.dtype)
    gpu = _NOT_ASKED if options.device == "cpu" else _device.gpu()
    sides: list[_Side] = []
    if options.device != "cuda":
        sides.append(_Cpu(problem, threads))
    if options.device == "cuda" or isinstance(gpu, dict):
        sides.append(_Cuda(problem))
    report: dict[str, Any] = {
        "gradfold": gradfold.__version__,
        "kernel": _KERNEL,
        "rows": options.rows,
        "features": options.features,
        "dtype": options.dtype,
        "splits": N_SPLITS,
        "level": _core.levels.current(),
        "threads": threads,
        "gpu": gpu["name"] if isinstance(gpu, dict) else None,
        "no_gpu": gpu if isinstance(gpu, str) else None,
        "peaks": {},
        "results": [],
        "left_out": [],
    }
    for side in sides:
        _measure(side, problem, n_models, options.seconds, report)
    report["gpu_is_faster_from"] = crossover(report["results"])
    if options.plot is not None:
        _plot(options.plot, report)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report, options.plot)
    return 0


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


def _measure(side: _Side, problem: _Problem, n_models: list[int], seconds: float, report: dict[str, Any]) -> None:
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


def _print(report: dict[str, Any], plot: str | None) -> None:
    shape = f"{report['rows']:,} × {report['features']}"
    print(
        f"gradient of the log loss, {report['dtype']}, {shape} rows × features, {N_SPLITS}-fold masks; medians; "
        "useful operations are 4 × rows × features × models"
    )
    where = [f"cpu {report['level']}, {report['threads']} threads"] if "cpu" in report["peaks"] else []
    where.append(report["gpu"] or f"GPU: {report['no_gpu']}")
    print("; ".join(where))
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
    widths = [max(len(row[k]) for row in (head, *body)) for k in range(len(head))]
    for row in (head, *body):
        cells = (
            f"{cell:<{w}}" if k in (0, 1, 3) else f"{cell:>{w}}"
            for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
    for name in report["peaks"]:
        rest = [r["models"] for r in report["left_out"] if r["device"] == name]
        if rest:
            print(f"no time for {', '.join(f'{m:,}' for m in rest)} models on {name}: --seconds")
    if "cuda" in report["peaks"] and "cpu" in report["peaks"]:
        found = report["gpu_is_faster_from"]
        print("the GPU is not faster" if found is None else f"the GPU is faster from {found:,} models on")
    if plot is not None:
        print(f"wrote {plot}")


def _plot(path: str, report: dict[str, Any]) -> None:
    """Time of one gradient over the number of models, both devices."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")  # without pyplot: no global state, no display
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    names = {"cpu": f"CPU, {report['level']}, {report['threads']} threads", "cuda": report["gpu"] or "GPU"}
    for name in report["peaks"]:
        own = [r for r in report["results"] if r["device"] == name]
        ax.plot([r["models"] for r in own], [1e3 * r["seconds"] for r in own], "o-", markersize=4, label=names[name])
    found = report["gpu_is_faster_from"]
    if found is not None:
        ax.axvline(found, color="grey", linewidth=0.8, linestyle="--", label=f"the GPU is faster from {found:,} on")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("models")
    ax.set_ylabel("ms for one gradient")
    alone = {("cpu",): "the CPU alone", ("cuda",): "the GPU alone"}.get(tuple(report["peaks"]))
    if alone == "the CPU alone":
        alone += ", as asked for" if report["no_gpu"] == _NOT_ASKED else ": no GPU here"
    title = f"Gradient of many models, {report['rows']:,} × {report['features']}, {report['dtype']}"
    ax.set_title(title + (f"\n({alone})" if alone else ""), fontsize="medium")
    ax.legend(fontsize="small")
    with _storage.atomic(path) as file:
        figure.savefig(file, format="png", dpi=150)
