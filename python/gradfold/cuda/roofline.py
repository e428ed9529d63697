"""What a GPU can do at best, measured: the limits that benchmarks are held against. `csrc/roofline` is the CPU's."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold.cuda._driver import SIMULATED, Arithmetic, Kernel, arithmetic, cuda, int32, int64, properties

THREADS = 4 if SIMULATED else 256
CHAINS = 16  # independent FMAs of a thread: more than the latency, few enough for 64 registers
UNROLLED = 8  # rounds of all chains between two tests of the loop
_RESIDENT = 4  # blocks of a multiprocessor in one wave, so that no second wave is half empty
_STREAMS = 8  # loads in flight of a thread


def fma_kernel(dtype: npt.DTypeLike) -> Kernel:
    """The kernel of `fma_peak`: ``(out, a, b, iterations)``.

    What is stored depends on every FMA, so none is optimised away.
    """
    return _fma_kernel(np.dtype(dtype).name)


@functools.cache
def _fma_kernel(dtype: str) -> Kernel:
    own: Arithmetic = arithmetic(dtype)
    fma, add, T = own.fma, own.add, own.T

    def fma_chains(out, a, b, iterations):  # type: ignore[no-untyped-def]
        at = cuda.grid(1)
        c0 = c1 = c2 = c3 = c4 = c5 = c6 = c7 = T(at)
        c8 = c9 = c10 = c11 = c12 = c13 = c14 = c15 = add(T(at), b)
        # Chains that start alike would be one chain to the compiler.
        c1, c2, c3, c4, c5 = add(c0, T(1)), add(c0, T(2)), add(c0, T(3)), add(c0, T(4)), add(c0, T(5))
        c6, c7, c9, c10, c11 = add(c0, T(6)), add(c0, T(7)), add(c8, T(1)), add(c8, T(2)), add(c8, T(3))
        c12, c13, c14, c15 = add(c8, T(4)), add(c8, T(5)), add(c8, T(6)), add(c8, T(7))
        for _ in range(iterations):
            for _ in range(UNROLLED):
                c0, c1, c2, c3 = fma(c0, a, b), fma(c1, a, b), fma(c2, a, b), fma(c3, a, b)
                c4, c5, c6, c7 = fma(c4, a, b), fma(c5, a, b), fma(c6, a, b), fma(c7, a, b)
                c8, c9, c10, c11 = fma(c8, a, b), fma(c9, a, b), fma(c10, a, b), fma(c11, a, b)
                c12, c13, c14, c15 = fma(c12, a, b), fma(c13, a, b), fma(c14, a, b), fma(c15, a, b)
        first = add(add(add(c0, c1), add(c2, c3)), add(add(c4, c5), add(c6, c7)))
        second = add(add(add(c8, c9), add(c10, c11)), add(add(c12, c13), add(c14, c15)))
        out[at] = add(first, second)

    return Kernel(fma_chains, (own.type[::1], own.type, own.type, int32), THREADS, _RESIDENT)


def _read(data, out):  # type: ignore[no-untyped-def]
    """XOR of all words: integers, so that no value is slower than another."""
    n, stride, i = data.size, cuda.gridsize(1), cuda.grid(1)
    seen = int64(0)
    while i + 7 * stride < n:
        v0, v1, v2, v3 = data[i], data[i + stride], data[i + 2 * stride], data[i + 3 * stride]
        v4, v5, v6, v7 = data[i + 4 * stride], data[i + 5 * stride], data[i + 6 * stride], data[i + 7 * stride]
        seen ^= ((v0 ^ v1) ^ (v2 ^ v3)) ^ ((v4 ^ v5) ^ (v6 ^ v7))
        i += 8 * stride
    out[cuda.grid(1)] = seen


def _copy(data, out):  # type: ignore[no-untyped-def]
    n, stride, i = data.size, cuda.gridsize(1), cuda.grid(1)
    while i + 7 * stride < n:
        v0, v1, v2, v3 = data[i], data[i + stride], data[i + 2 * stride], data[i + 3 * stride]
        v4, v5, v6, v7 = data[i + 4 * stride], data[i + 5 * stride], data[i + 6 * stride], data[i + 7 * stride]
        out[i], out[i + stride], out[i + 2 * stride], out[i + 3 * stride] = v0, v1, v2, v3
        out[i + 4 * stride], out[i + 5 * stride], out[i + 6 * stride], out[i + 7 * stride] = v4, v5, v6, v7
        i += 8 * stride


READ = Kernel(_read, (int64[::1], int64[::1]), THREADS, _STREAMS)
COPY = Kernel(_copy, (int64[::1], int64[::1]), THREADS, _RESIDENT)  # what it holds takes more registers than reading


def seconds(body: Callable[[], Any], repeats: int = 5, queued: bool = False) -> float:
    """Median time of what `body` launches, between two events on the default stream, after a run that warms up.

    Parameters
    ----------
    queued : bool
        Behind a kernel of some milliseconds, in which the host queues all that `body` launches: what the host does in between, of
        which the device would wait for some, does not count. Where `body` itself waits for the device, it does.
    """
    body()
    times = []
    for _ in range(repeats):
        start, end = cuda.event(), cuda.event()
        if queued:
            _keep_busy()
        start.record()
        body()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(statistics.median(times))


def _keep_busy() -> None:
    """One multiprocessor, for about 3 ms; the others stay cool."""
    T = np.float32
    fma_kernel("float32")(1, 0, _busy_out(), T(0.999), T(0.001), np.int32(20_000))


@functools.cache
def _busy_out() -> Any:
    return cuda.device_array(THREADS, np.float32)


@functools.cache
def fma_peak(dtype: str, duration: float = 0.05) -> float:
    """FLOP/s (an FMA is two) of independent FMAs in registers; the best of some runs, since a limit is a maximum.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    duration : float
        Seconds of a run, about.
    """
    kernel, T = fma_kernel(dtype), np.dtype(dtype).type
    blocks = _RESIDENT * properties().multiprocessors
    out = cuda.device_array(blocks * THREADS, dtype)
    iterations = 1000

    def run() -> None:
        kernel(blocks, 0, out, T(0.999), T(0.001), np.int32(iterations))

    took = seconds(run, 3)
    iterations = int(min(2**30, max(1, iterations * duration / max(took, 1e-6))))
    best = min(seconds(run, 1) for _ in range(5))
    return 2.0 * blocks * THREADS * CHAINS * UNROLLED * iterations / best


@functools.cache
def bandwidths(n_bytes: int = 1 << 31) -> tuple[float, float]:
    """(read, copy): bytes/s of kernels that read `n_bytes`, and that copy them (bytes read and written both count).

    Far beyond the L2 cache. The best of some runs.
    """
    blocks = _STREAMS * properties().multiprocessors
    step = blocks * THREADS * _STREAMS
    n = n_bytes // 8 // step * step
    block = np.random.default_rng(0).integers(0, 2**63, min(n, 1 << 23))
    data, copied, out = (
        cuda.device_array(n, np.int64),
        cuda.device_array(n, np.int64),
        cuda.device_array(blocks * THREADS, np.int64),
    )
    for first in range(0, n, len(block)):
        part = data[first : first + len(block)]
        part.copy_to_device(block[: len(part)])
    read = min(seconds(lambda: READ(blocks, 0, data, out), 1) for _ in range(5))
    copy = min(seconds(lambda: COPY(blocks, 0, data, copied), 1) for _ in range(5))
    return 8 * n / read, 16 * n / copy
