"""Looking for values that an array on the GPU should not hold: whether there are any, and where the first one is."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from gradfold.cuda import _driver, arrays
from gradfold.cuda._driver import Kernel, cuda, device, int32, int64
from gradfold.cuda.arrays import DeviceArray

u64 = np.uint64

NOT_FINITE, NEGATIVE, NOT_LABELS = 1, 2, 4  # what is looked for, to be added up

_BAD, _NOT_01, _NOT_SIGNS = range(3)  # places of what is found: a bad value, one outside {0, 1}, one outside {-1, 1}
_THREADS = arrays.THREADS


def first_non_finite(array: DeviceArray) -> int:
    """The place in C order of the first NaN or infinity of a float array, or -1."""
    return _first(array, NOT_FINITE)


def first_negative(array: DeviceArray) -> int:
    """The place in C order of the first number below 0 of a float array, or -1. NaN is not below 0."""
    return _first(array, NEGATIVE)


def _first(array: DeviceArray, mode: int) -> int:
    n = array.size
    if n == 0:
        return -1
    out = arrays.to_device(np.array([n], np.int64), array.stream)
    _search(array.dtype)(arrays.blocks(n), array.stream, array.flat, np.int64(mode), out.flat)
    place = int(out.numpy()[0])
    return -1 if place == n else place


class _Found:
    """What a check has found, on the device; kept, so that a check allocates nothing.

    A kernel writes the number of the check, so that nothing is cleared between two.
    """

    def __init__(self, stream: Any) -> None:
        self.check = 0
        self.flat = _driver.to_device(np.zeros(3, np.int64), stream)


_found: dict[tuple[int, int], _Found] = {}  # by thread and stream; the last one


def any_bad(looked_for: Iterable[tuple[DeviceArray, int]], stream: Any) -> bool:
    """Whether one of several arrays holds a value that it should not; waits for the stream once, however many there are.

    Parameters
    ----------
    looked_for : iterable of (DeviceArray, int)
        Float arrays, and for each the sum of `NOT_FINITE`, `NEGATIVE` and `NOT_LABELS`. The last is for one array at most, whose
        values should be all in {0, 1} or all in {-1, 1}.
    """
    some = [(array, what) for array, what in looked_for if array.size and what]
    if not some:
        return False
    arrays.join(stream, (array for array, _ in some))
    key = threading.get_ident(), _driver.handle_of(stream)
    found = _found.get(key)
    if found is None:
        found = _Found(stream)
        _found.clear()
        _found[key] = found
    found.check += 1
    for array, what in some:
        _look(array.dtype)(arrays.blocks(array.size), stream, array.flat, np.int32(what), np.int64(found.check), found.flat)
    there = _driver.to_host(found.flat, None, stream) == found.check
    return bool(there[_BAD] or (there[_NOT_01] and there[_NOT_SIGNS]))


def release() -> None:
    """Free what `any_bad` keeps: a few bytes."""
    _found.clear()


@cache
def _search(dtype: np.dtype[Any]) -> Kernel:
    is_bad = _is_bad(dtype)

    def first_bad(x, mode, out):  # type: ignore[no-untyped-def]
        at = np.int64(cuda.blockIdx.x) * np.int64(cuda.blockDim.x) + np.int64(cuda.threadIdx.x)
        step = np.int64(cuda.gridDim.x) * np.int64(cuda.blockDim.x)
        while at < x.size:
            if is_bad(x[u64(at)], mode):
                cuda.atomic.min(out, 0, at)
                break  # a thread's own places ascend
            at += step

    return Kernel(first_bad, (_driver.arithmetic(dtype).type[::1], int64, int64[::1]), _THREADS)


def _is_bad(dtype: np.dtype[Any]) -> Any:
    """A device function is_bad(value, mode)."""
    arithmetic = _driver.arithmetic(dtype)
    bits, zero = arithmetic.bits, arithmetic.T(0)
    exponent = arithmetic.U(0x7F800000 if arithmetic.is_float32 else 0x7FF0000000000000)

    @device
    def is_bad(value, mode):  # type: ignore[no-untyped-def]
        return (mode & NOT_FINITE != 0 and (bits(value) & exponent) == exponent) or (mode & NEGATIVE != 0 and value < zero)

    return is_bad


@cache
def _look(dtype: np.dtype[Any]) -> Kernel:
    is_bad, T = _is_bad(dtype), _driver.arithmetic(dtype).T
    ZERO, ONE, MINUS_ONE = T(0), T(1), T(-1)

    @device
    def seen_in(value, mode):  # type: ignore[no-untyped-def]
        seen = 0
        if is_bad(value, mode):
            seen = 1 << _BAD
        if mode & NOT_LABELS != 0 and value != ONE:
            if value != ZERO:
                seen |= 1 << _NOT_01
            if value != MINUS_ONE:
                seen |= 1 << _NOT_SIGNS
        return seen

    def any_bad(x, mode, check, found):  # type: ignore[no-untyped-def]
        n = np.int64(x.size)
        at = np.int64(cuda.blockIdx.x) * np.int64(cuda.blockDim.x) + np.int64(cuda.threadIdx.x)
        step = np.int64(cuda.gridDim.x) * np.int64(cuda.blockDim.x)
        seen = 0
        while at < n:  # four loads in flight; beyond the end, the last value again
            v0, v1 = x[u64(at)], x[u64(min(at + step, n - 1))]
            v2, v3 = x[u64(min(at + 2 * step, n - 1))], x[u64(min(at + 3 * step, n - 1))]
            seen |= (seen_in(v0, mode) | seen_in(v1, mode)) | (seen_in(v2, mode) | seen_in(v3, mode))
            at += 4 * step
        for place in range(3):
            if seen >> place & 1:
                found[u64(place)] = check

    return Kernel(any_bad, (_driver.arithmetic(dtype).type[::1], int32, int64, int64[::1]), _THREADS)


def kernels() -> dict[str, Kernel]:
    """Every kernel of this file, to be compiled where there is no GPU."""
    return {
        f"{name}_{dtype.name}": make(dtype)
        for name, make in (("first_bad", _search), ("any_bad", _look))
        for dtype in (np.dtype(np.float32), np.dtype(np.float64))
    }
