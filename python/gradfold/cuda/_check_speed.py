"""What the self-check measures: the machine, its peaks, our times and peers', a large fit, and running out of memory.

Every function takes `emit`, which it calls with each result as soon as that is known, so that a time limit or a crash
costs only what comes after.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import gradfold as gf
from gradfold import _check, _core

Array = npt.NDArray[Any]
Emit = Callable[[dict[str, Any]], None]

N_ROWS, N_FEATURES = 200_000, 128
_PACKAGES = ("numpy", "numba", "numba-cuda", "cuda-bindings", "torch", "cupy-cuda13x", "cupy-cuda12x", "jax")


def machine(emit: Emit) -> None:
    """What all other numbers are of."""
    from gradfold import _device
    from gradfold.cuda._driver import cuda

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpu = _device.gpu()
    out: dict[str, Any] = {"gpu": gpu}
    if isinstance(gpu, dict):
        device = cuda.get_current_device()
        names = (
            "MULTIPROCESSOR_COUNT",
            "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
            "CLOCK_RATE",
            "MEMORY_CLOCK_RATE",
            "L2_CACHE_SIZE",
        )
        out |= {name.lower(): int(getattr(device, name)) for name in names if hasattr(device, name)}
    emit(
        {
            **out,
            "gradfold": gf.__version__,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "cpu_level": _core.levels.current(),
            "cpu_cores": _check.threads(None),
            "versions": versions,
        }
    )


def peaks(emit: Emit) -> None:
    """FLOP/s of FMAs in registers and bytes/s of memory."""
    from gradfold.cuda import roofline

    for dtype in ("float32", "float64"):
        fused = roofline.fma_kernel(dtype).ptx(_capability()).count("fma.rn.f")
        emit({"name": f"{dtype} FMA", "tflops": roofline.fma_peak(dtype) / 1e12, "fused_in_loop": fused})
    read, copy = roofline.bandwidths()
    emit({"name": "read", "gbytes_per_s": read / 1e9})
    emit({"name": "copy, read and written", "gbytes_per_s": copy / 1e9})


def _capability() -> tuple[int, int]:
    from gradfold.cuda._driver import cuda

    major, minor = cuda.get_current_device().compute_capability
    return int(major), int(minor)


def problem(n_models: int) -> tuple[Array, Array, Array]:
    """X, y, W of the gradient benchmarks, float32."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_ROWS, N_FEATURES), np.float32)
    y = (rng.random(N_ROWS) < 0.5).astype(np.float32)
    return X, y, rng.standard_normal((N_FEATURES, n_models), np.float32) / np.float32(N_FEATURES**0.5)


def timed(body: Callable[[], Any], wait: Callable[[], Any], seconds: float = 1.0, most: int = 15) -> dict[str, float]:
    """Median wall time of calls that end when the device is done, after a fifth of a second that warms both sides up; at least 3 calls."""
    end, calls = time.perf_counter() + 0.2, 0
    while calls < 2 or time.perf_counter() < end:
        body()
        wait()
        calls += 1
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (len(times) < most and time.perf_counter() < end):
        began = time.perf_counter()
        body()
        wait()
        times.append(time.perf_counter() - began)
    return {"seconds": statistics.median(times), "best_seconds": min(times), "calls": len(times)}


def speed(emit: Emit, quick: bool = False) -> None:
    """Our kernels; the most telling first."""
    from gradfold.cuda._driver import cuda

    for task in (_gradients, _epochs, _permutation):
        try:
            task(emit, quick)
        except Exception as error:  # the rest may still be measured
            emit({"name": task.__name__.strip("_"), "error": f"{type(error).__name__}: {error}"})
            cuda.synchronize()  # raises where the context is lost


def _gradients(emit: Emit, quick: bool) -> None:
    from gradfold.cuda import arrays, roofline
    from gradfold.cuda._driver import cuda

    folds = gf.index.kfold(N_ROWS, 5)
    cases = [(4096, True, False), (4096, True, True), (4096, False, False)]
    if not quick:
        cases += [(m, True, loss) for m in (1024, 512, 100, 8192, 1) for loss in (False, True)]
    host_X, host_y, host_W = problem(8192)
    X, y = arrays.to_device(host_X), arrays.to_device(host_y)
    for n_models, masked, with_loss in cases:
        W = arrays.to_device(np.ascontiguousarray(host_W[:, :n_models]))
        intercept = arrays.to_device(np.zeros(n_models, np.float32))

        loss = arrays.empty(n_models, np.float64) if with_loss else None
        given = (loss, arrays.empty(W.shape, np.float32), arrays.empty(n_models, np.float32))
        options: dict[str, Any] = {"loss": "log_loss", "folds": folds if masked else None, "return_loss": with_loss}
        body = partial(gf.gradient.loss_gradient, X, y, W, intercept, **options)
        began = time.perf_counter()
        body()
        cuda.synchronize()
        first = time.perf_counter() - began
        result = timed(body, cuda.synchronize)  # as it is used: results are allocated, and the caller waits for them
        kernels = roofline.seconds(partial(body, out=given), 3, queued=True)
        flops = 4.0 * N_ROWS * N_FEATURES * n_models
        emit(
            {
                "name": f"loss_gradient, {n_models} models"
                + (", 5 folds" if masked else "")
                + (", loss" if with_loss else ""),
                "device_seconds": roofline.seconds(body, 3),
                "kernel_seconds": kernels,
                "kernel_tflops": flops / kernels / 1e12,
                "first_seconds": first,
                "models": n_models,
                "tflops": flops / result["seconds"] / 1e12,
                "model_rows_per_s": N_ROWS * n_models / result["seconds"],
                "peak": "float32 FMA",
                **result,
            }
        )


def epoch_arguments(
    n_rows: int, n_models: int, n_threads: int, epochs: int, dtype: str = "float32", n_splits: int = 4
) -> dict[str, Any]:
    """Keywords of a Trainer: adam, batches of 256, shuffled, k folds."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((n_rows, N_FEATURES), np.float32).astype(dtype)
    y = (X @ rng.standard_normal(N_FEATURES).astype(dtype) > 0).astype(dtype)
    folds = gf.index.kfold(n_rows, n_splits)
    return {
        "X": X,
        "y": y,
        "sample_weight": None,
        "ids": folds.ids,
        "conditions": folds.conditions,
        "split_of_model": np.arange(n_models) % n_splits,
        "loss": "log_loss",
        "solver": "adam",
        "l1": np.zeros(n_models),
        "l2": np.full(n_models, 1e-4),
        "learning_rate": np.full(n_models, 0.001),
        "schedule": np.zeros(n_models, np.int32),
        "epochs": epochs,
        "batch_size": 256,
        "shuffle": True,
        "seed": 0,
        "fit_intercept": True,
        "standardize": False,
        "coef_init": None,
        "intercept_init": None,
        "n_threads": n_threads,
    }


def _epochs(emit: Emit, quick: bool) -> None:
    from gradfold.cuda._driver import cuda
    from gradfold.cuda.train import Trainer

    n_rows = 100_000
    for n_models in (8192,) if quick else (8192, 100, 1024):
        arguments = epoch_arguments(n_rows, n_models, _check.threads(None), epochs=3)
        began = time.perf_counter()
        trainer = Trainer(**arguments)
        cuda.synchronize()
        created = time.perf_counter() - began
        steps = trainer.steps_per_epoch
        parts = []
        for _ in range(3):  # the first warms up; all steps but the last, then the last with the scores of the epoch
            marks = [time.perf_counter()]
            for most in (steps - 1, 1):
                trainer.advance(max_steps=most)
                cuda.synchronize()
                marks.append(time.perf_counter())
            parts.append(np.diff(marks))
        train, last = np.min(parts[1:], axis=0)
        seconds = train * steps / (steps - 1)
        flops = 4.0 * n_rows * N_FEATURES * n_models
        emit(
            {
                "name": f"adam epoch, {n_models} models, batches of 256",
                "seconds": float(seconds),
                "scoring_seconds": float(max(0.0, last - seconds / steps)),
                "created_seconds": created,
                "models": n_models,
                "first_epoch_seconds": float(parts[0].sum()),
                "tflops": flops / seconds / 1e12,
                "model_rows_per_s": n_rows * n_models / float(seconds),
                "reason": str(getattr(trainer, "reason", "")),
                "peak": "float32 FMA",
            }
        )
        del trainer


def _permutation(emit: Emit, quick: bool) -> None:
    from gradfold.cuda import index, roofline
    from gradfold.cuda._driver import cuda

    n, block = 1_000_000_000, 125_000_000
    p = gf.index.Permutation(n, 1)
    out = cuda.device_array(block, np.int64)

    def body() -> None:
        for first in range(0, n, block):
            index.fill(p, first, block, out=out)

    result = timed(body, cuda.synchronize, 0.5, 7)
    emit(
        {
            "name": "permutation of 1e9",
            "gindices_per_s": n / result["seconds"] / 1e9,
            "device_seconds": roofline.seconds(body, 3),
            **result,
        }
    )


def peer(emit: Emit, name: str, n_models: int = 4096) -> None:
    """One peer's gradient of the same problem, and by how much its result is off the CPU's on some models."""
    from gradfold.cuda import _peers

    library = name.split()[0]
    if importlib.util.find_spec(library) is None:
        emit({"name": name, "skipped": f"{library} is not installed"})
        return
    X, y, W = problem(n_models)
    folds = gf.index.kfold(N_ROWS, 5)
    split = np.arange(n_models) % 5
    train = (folds.ids[0][:, None] != split).astype(np.float32)
    try:
        run, wait = _peers.PEERS[name](_peers.Problem(X, y, W, train))
    except ImportError as error:
        emit({"name": name, "skipped": str(error)})
        return
    some = np.linspace(0, n_models - 1, 8).astype(int)
    _, wanted, _ = gf.gradient.loss_gradient(
        X,
        y,
        np.ascontiguousarray(W[:, some]),
        np.zeros(8, np.float32),
        loss="log_loss",
        reduction="sum",
        folds=folds,
        split_of_model=split[some],
        return_loss=False,
    )
    found = run()[0]
    wait()
    columns = np.asarray(found.cpu() if hasattr(found, "cpu") else found.get() if hasattr(found, "get") else found)
    columns = columns[:, some] if columns.shape == W.shape else columns[some].T
    off = float(np.linalg.norm(columns - wanted) / np.linalg.norm(wanted))
    result = timed(run, wait)
    flops = 4.0 * N_ROWS * N_FEATURES * n_models
    emit(
        {
            "name": name,
            "models": n_models,
            "tflops": flops / result["seconds"] / 1e12,
            "relative_error": off,
            "peak": "float32 FMA",
            **result,
        }
    )


class _MemoryWatch:
    """The most bytes that all processes together hold on a GPU meanwhile, by nvidia-smi; None where it is not there."""

    def __init__(self) -> None:
        self.most: int | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _MemoryWatch:
        tool = shutil.which("nvidia-smi")
        if tool is not None:
            command = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "100"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdigit():
                self.most = max(self.most or 0, int(line) << 20)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def large_fit(emit: Emit, n_rows: int = 1_000_000, sides: tuple[int, int] = (64, 32), epochs: int = 10) -> None:
    """`fit` of 2,048 candidates x 4 folds over a million rows."""
    rng = np.random.default_rng(2)
    began = time.perf_counter()
    X = rng.standard_normal((n_rows, N_FEATURES), np.float32)
    noise = rng.standard_normal(n_rows, np.float32)
    y = (X @ rng.standard_normal(N_FEATURES, np.float32) / np.float32(8) + noise > 0).astype(np.int64)
    made = time.perf_counter() - began
    marks: list[float] = []
    candidates = gf.grid(l2=np.logspace(-6, -1, sides[0]), learning_rate=np.logspace(-4, -2, sides[1]))
    n_models = 4 * len(candidates)
    with _MemoryWatch() as memory:
        began = time.perf_counter()
        run = gf.fit(
            X,
            y,
            candidates,
            folds=4,
            loss="log_loss",
            solver="adam",
            epochs=epochs,
            batch_size=256,
            schedule="cosine",
            device="cuda",
            progress=False,
            callbacks=lambda *_: marks.append(time.perf_counter()),
        )
        ended = time.perf_counter()
    seconds = ended - began
    useful = (
        epochs * n_rows * N_FEATURES * n_models * (4 * 0.75 + 2 * 0.25)
    )  # a training row costs 4 flops a feature, a scored row 2
    emit(
        {
            "name": f"fit, {len(candidates)} candidates x 4 folds, {epochs} epochs",
            "models": n_models,
            "rows": n_rows,
            "seconds": seconds,
            "data_seconds": made,
            "tflops": useful / seconds / 1e12,
            "peak": "float32 FMA",
            "until_first_epoch_seconds": marks[0] - began if marks else None,
            "epochs_seconds": [round(b - a, 4) for a, b in zip(marks, marks[1:])],
            "after_last_epoch_seconds": ended - marks[-1] if marks else None,
            "peak_gpu_bytes": memory.most,
            "device_reason": str(getattr(run, "device_reason", "")),
            "best_held_out_loss": float(run.held_out_loss[run.best_candidate].mean()),
            "diverged": int(run.diverged.sum()),
        }
    )


def errors(emit: Emit) -> None:
    """Requests that the GPU does not hold raise MemoryError, and the next small call is right.

    What the host would hold too is asked of a GPU whose memory is all but taken: whoever asks for terabytes on the
    host may be killed.
    """
    from gradfold.cuda import arrays, index
    from gradfold.cuda._check_bits import Cuda, outcome
    from gradfold.cuda._check_cases import tiny
    from gradfold.cuda.train import Trainer

    def small_calls(after: str) -> None:
        found = [outcome(case, Cuda()) for case in tiny()[3:8]]
        wrong = [record for record in found if record["status"] != "same"]
        emit({"name": f"small calls {after}", "failed": bool(wrong), "records": wrong})

    def gradient() -> None:
        X = np.zeros((1 << 20, N_FEATURES), np.float32)
        W = np.zeros((N_FEATURES, 1), np.float32)
        gf.gradient.loss_gradient(X, X[:, 0].copy(), W, loss="squared_error", device="cuda")

    def training() -> None:
        n_models, n_features = 2000, 50_000
        wide = {"X": np.zeros((64, n_features), np.float32), "batch_size": 64}
        Trainer(**(epoch_arguments(64, n_models, 1, epochs=1) | wide)).advance(max_steps=1)

    def many_models() -> None:
        W = arrays.to_device(np.zeros((1, 10_000_000), np.float32))
        X, y = (arrays.to_device(np.zeros(shape, np.float32)) for shape in ((64, 1), 64))
        gf.gradient.loss_gradient(X, y, W, loss="squared_error")

    small_calls("before")  # kernels are loaded while there is memory for them
    requests: list[tuple[str, bool, Callable[[], Any]]] = [
        ("an array of 8 TB", False, lambda: arrays.empty(1 << 40, np.float64)),
        ("a permutation of 2^42", False, lambda: index.fill(gf.index.Permutation(1 << 42, 1))),
        ("rows on a full GPU", True, gradient),
        ("models on a full GPU", True, training),
        ("10 million models on a full GPU", True, many_models),
    ]
    for name, full, request in requests:
        ballast = arrays.empty(max(1, int(arrays.free_memory()) - (200 << 20)), np.uint8) if full else None
        try:
            request()
            # Whoever finds a way on a full GPU may go it.
            emit(
                {
                    "name": name,
                    **({"message": "it went through"} if full else {"failed": True, "error": "nothing was raised"}),
                }
            )
        except MemoryError as error:
            emit({"name": name, "message": f"{type(error).__name__}: {error}"})
        except Exception as error:
            emit({"name": name, "failed": True, "error": f"{type(error).__name__}: {error}"[:500]})
        del ballast
        small_calls(f"after {name}")
