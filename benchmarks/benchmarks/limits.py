"""What this machine can do at best, measured once per process."""

from __future__ import annotations

import functools

from gradfold import _core, _limits

THREADS = ["1", "all"]  # values of the parameter `threads`: the same on every machine


def cores() -> int:
    return int(_core.gradient.available_cores())


def threads(name: str) -> int:
    return 1 if name == "1" else cores()


@functools.cache
def fma_peak(itemsize: int, n_threads: int, device: str = "cpu", level: str | None = None) -> float:
    """FLOP/s of independent FMAs in registers; `level` defaults to the one in use."""
    if device == "cuda":
        from gradfold.cuda import roofline

        return roofline.fma_peak("float32" if itemsize == 4 else "float64")
    return _limits.fma_peak(itemsize, n_threads, level)


@functools.cache
def read_bandwidth(n_threads: int, device: str = "cpu") -> float:
    """Bytes/s of vector loads from memory."""
    if device == "cuda":
        from gradfold.cuda import roofline

        return roofline.bandwidths()[0]
    return _limits.memory_read_bandwidth(n_threads)


def least_seconds(flops: float, n_bytes: float, itemsize: int, n_threads: int, device: str = "cpu") -> float:
    """Of work whose data lie in memory: the roofline min(peak, bandwidth × operations per byte) in seconds."""
    return max(flops / fma_peak(itemsize, n_threads, device), n_bytes / read_bandwidth(n_threads, device))


def rates(seconds: float, model_rows: float, flops: float, peak: float) -> dict[str, float]:
    """What benchmarks say of one measurement."""
    return {
        "model_rows": model_rows / seconds,
        "gflops": flops / seconds / 1e9,
        "fma_peak": flops / seconds / peak,
    }
