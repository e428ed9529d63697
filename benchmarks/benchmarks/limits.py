"""What this machine can do at best, measured once per process by our own roofline kernels."""

from __future__ import annotations

import functools

import numpy as np

from gradfold import _core


def cores() -> int:
    return int(_core.gradient.available_cores())


@functools.cache
def fma_peak(itemsize: int, n_threads: int) -> float:
    """FLOP/s of independent FMAs in registers; the best of five, since a limit is a maximum."""
    return max(_core.roofline.fma_peak(itemsize, n_threads, 0.05) for _ in range(5))


@functools.cache
def read_bandwidth(n_threads: int) -> float:
    """Bytes/s of vector loads from 256 MiB, far beyond the caches; the best of five."""
    memory = np.ones(32 * 1024 * 1024)
    return max(_core.roofline.read_bandwidth(memory, n_threads, 2) for _ in range(5))
