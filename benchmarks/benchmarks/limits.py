"""What this machine can do at best, measured once per process by our own roofline kernels."""

from __future__ import annotations

import functools

import numpy as np

from gradfold import _core


def cores() -> int:
    return int(_core.gradient.available_cores())


@functools.cache
def fma_peak(itemsize: int, n_threads: int, device: str = "cpu") -> float:
    """FLOP/s of independent FMAs in registers; the best of five, since a limit is a maximum."""
    if device == "cuda":
        from gradfold.cuda import roofline

        return roofline.fma_peak("float32" if itemsize == 4 else "float64")
    return max(_core.roofline.fma_peak(itemsize, n_threads, 0.05) for _ in range(5))


@functools.cache
def read_bandwidth(n_threads: int, device: str = "cpu") -> float:
    """Bytes/s of vector loads from 256 MiB (of a GPU: from 2 GiB), far beyond the caches; the best of five."""
    if device == "cuda":
        from gradfold.cuda import roofline

        return roofline.bandwidths()[0]
    memory = np.ones(32 * 1024 * 1024)
    return max(_core.roofline.read_bandwidth(memory, n_threads, 2) for _ in range(5))


def rates(seconds: float, model_rows: float, flops: float, peak: float) -> dict[str, float]:
    """What benchmarks say of one measurement."""
    return {
        "model_rows": model_rows / seconds,
        "gflops": flops / seconds / 1e9,
        "fma_peak": flops / seconds / peak,
    }
