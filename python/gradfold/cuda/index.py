"""Permutations in device code: the integers of `gradfold.index.Permutation`, which defines them.

A word x of b bits stands in the low bits of its lane and the bits above it are not cleared between rounds: sums and
products never carry downwards, and ``x ^= (x >> s) & (mask >> s)`` moves only bits below b. So a round is multiply-add,
shift and one logical instruction, and the mask is applied once, before the comparison with n - 1.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from gradfold import _check, _core
from gradfold.cuda import _driver
from gradfold.cuda._driver import SIMULATED, Kernel, cuda, device, int64, types, uint32, uint64

if TYPE_CHECKING:
    from gradfold.index import Permutation

TABLE_LIMIT = 1024  # up to here Fisher-Yates, above it the mixer
NARROW_LIMIT = 2**32  # up to here 32-bit words, above it 64-bit words
MULTIPLIER32 = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F)
MULTIPLIER64 = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93)

# Numba widens integers to 64 bits in every operation, so each is cast back, which costs nothing; and indices are
# unsigned, because a signed one may count from the end, which does cost.
_u32: Any = np.uint32
_u64: Any = np.uint64

_C0, _C1, _C2, _C3 = map(np.uint32, MULTIPLIER32)
_D0, _D1, _D2, _D3 = map(np.uint64, MULTIPLIER64)
_I0, _I1, _I2, _I3 = (np.uint32(pow(c, -1, 2**32)) for c in MULTIPLIER32)
_J0, _J1, _J2, _J3 = (np.uint64(pow(c, -1, 2**64)) for c in MULTIPLIER64)
_PHILOX0, _PHILOX1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL0, _WEYL1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_32 = np.uint64(32)
_ZERO, _ONE, _TWO, _THREE, _MOST = map(_u32, (0, 1, 2, 3, 2**32 - 1))


# -- device functions --------------------------------------------------------------------------------------------------


@device
def philox4x32_10(c0, c1, c2, c3, key0, key1):  # type: ignore[no-untyped-def]
    """The four words of a counter, all uint32: csrc/index/philox.h."""
    for _ in range(10):
        p0, p1 = _u64(_PHILOX0 * _u64(c0)), _u64(_PHILOX1 * _u64(c2))
        c0, c1, c2, c3 = (
            _u32(_u32(_u32(p1 >> _32) ^ c1) ^ key0),
            _u32(p1),
            _u32(_u32(_u32(p0 >> _32) ^ c3) ^ key1),
            _u32(p0),
        )
        key0, key1 = _u32(key0 + _WEYL0), _u32(key1 + _WEYL1)
    return c0, c1, c2, c3


@device
def _block(seed, epoch, stream, block):  # type: ignore[no-untyped-def]
    return philox4x32_10(
        _u32(block), _u32(stream), _u32(epoch), _ZERO, _u32(_u64(seed)), _u32(_u64(seed) >> _32)
    )  # fmt: skip


@device
def permutation_key32(seed, epoch, stream, r):  # type: ignore[no-untyped-def]
    """The key of round r (0 to 11) for n <= 2^32: its Philox word times its multiplier. Only `seed` is uint64."""
    w0, w1, w2, w3 = _block(seed, epoch, stream, _u32(r) >> _TWO)
    part = _u32(_u32(r) & _THREE)
    if part == _ZERO:
        return _u32(w0 * _C0)
    if part == _ONE:
        return _u32(w1 * _C1)
    if part == _TWO:
        return _u32(w2 * _C2)
    return _u32(w3 * _C3)


@device
def permutation_key64(seed, epoch, stream, r):  # type: ignore[no-untyped-def]
    """The key of round r (0 to 7) for n > 2^32."""
    w0, w1, w2, w3 = _block(seed, epoch, stream, _u32(r) >> _ONE)
    first = _u64(_u64(w0) | _u64(_u64(w1) << _32))
    second = _u64(_u64(w2) | _u64(_u64(w3) << _32))
    part = _u32(_u32(r) & _THREE)
    if part == _ZERO:
        return _u64(first * _D0)
    if part == _ONE:
        return _u64(second * _D1)
    if part == _TWO:
        return _u64(first * _D2)
    return _u64(second * _D3)


@device
def _there32(x, multiplier, key, s, low):  # type: ignore[no-untyped-def]
    x = _u32(_u32(x * multiplier) + key)
    return _u32(x ^ _u32(_u32(x >> s) & low))


@device
def _back32(x, inverse, key, s, low):  # type: ignore[no-untyped-def]
    x = _u32(x ^ _u32(_u32(x >> s) & low))  # its own inverse, since 2 s >= b
    return _u32(_u32(x - key) * inverse)


@device
def forward32(x, last, mask, s, rounds, keys):  # type: ignore[no-untyped-def]
    """The value at position x <= last = n - 1, for 1024 < n <= 2^32. All uint32, keys[r] of `permutation_key32`.

    mask is 2^b - 1, s is (b + 1) / 2, and rounds 12 for b <= 16, else 8, with b = bit_width(n - 1): `shape` has them.
    """
    low = _u32(mask >> s)
    while True:
        x = _there32(x, _C0, keys[0], s, low)
        x = _there32(x, _C1, keys[1], s, low)
        x = _there32(x, _C2, keys[2], s, low)
        x = _there32(x, _C3, keys[3], s, low)
        x = _there32(x, _C0, keys[4], s, low)
        x = _there32(x, _C1, keys[5], s, low)
        x = _there32(x, _C2, keys[6], s, low)
        x = _there32(x, _C3, keys[7], s, low)
        if rounds > 8:
            x = _there32(x, _C0, keys[8], s, low)
            x = _there32(x, _C1, keys[9], s, low)
            x = _there32(x, _C2, keys[10], s, low)
            x = _there32(x, _C3, keys[11], s, low)
        x = _u32(x & mask)
        if x <= last:
            return x


@device
def backward32(x, last, mask, s, rounds, keys):  # type: ignore[no-untyped-def]
    """The position of value x <= last, the inverse of `forward32`. A greater x might never end."""
    low = _u32(mask >> s)
    while True:
        if rounds > 8:
            x = _back32(x, _I3, keys[11], s, low)
            x = _back32(x, _I2, keys[10], s, low)
            x = _back32(x, _I1, keys[9], s, low)
            x = _back32(x, _I0, keys[8], s, low)
        x = _back32(x, _I3, keys[7], s, low)
        x = _back32(x, _I2, keys[6], s, low)
        x = _back32(x, _I1, keys[5], s, low)
        x = _back32(x, _I0, keys[4], s, low)
        x = _back32(x, _I3, keys[3], s, low)
        x = _back32(x, _I2, keys[2], s, low)
        x = _back32(x, _I1, keys[1], s, low)
        x = _back32(x, _I0, keys[0], s, low)
        x = _u32(x & mask)
        if x <= last:
            return x


@device
def _there64(x, multiplier, key, s, low):  # type: ignore[no-untyped-def]
    x = _u64(_u64(x * multiplier) + key)
    return _u64(x ^ _u64(_u64(x >> s) & low))


@device
def _back64(x, inverse, key, s, low):  # type: ignore[no-untyped-def]
    x = _u64(x ^ _u64(_u64(x >> s) & low))
    return _u64(_u64(x - key) * inverse)


@device
def forward64(x, last, mask, s, keys):  # type: ignore[no-untyped-def]
    """`forward32` for n > 2^32: all uint64, always 8 rounds, keys[r] of `permutation_key64`."""
    low = _u64(mask >> s)
    while True:
        x = _there64(x, _D0, keys[0], s, low)
        x = _there64(x, _D1, keys[1], s, low)
        x = _there64(x, _D2, keys[2], s, low)
        x = _there64(x, _D3, keys[3], s, low)
        x = _there64(x, _D0, keys[4], s, low)
        x = _there64(x, _D1, keys[5], s, low)
        x = _there64(x, _D2, keys[6], s, low)
        x = _there64(x, _D3, keys[7], s, low)
        x = _u64(x & mask)
        if x <= last:
            return x


@device
def backward64(x, last, mask, s, keys):  # type: ignore[no-untyped-def]
    """`backward32` for n > 2^32."""
    low = _u64(mask >> s)
    while True:
        x = _back64(x, _J3, keys[7], s, low)
        x = _back64(x, _J2, keys[6], s, low)
        x = _back64(x, _J1, keys[5], s, low)
        x = _back64(x, _J0, keys[4], s, low)
        x = _back64(x, _J3, keys[3], s, low)
        x = _back64(x, _J2, keys[2], s, low)
        x = _back64(x, _J1, keys[1], s, low)
        x = _back64(x, _J0, keys[0], s, low)
        x = _u64(x & mask)
        if x <= last:
            return x


@device
def shuffle_table(table, n, seed, epoch, stream):  # type: ignore[no-untyped-def]
    """table[0..n-1], any integers that hold n - 1, becomes the permutation for n <= 1024: the work of one thread."""
    for i in range(_u32(n)):
        table[_u32(i)] = i
    block, used = _ZERO, _ZERO
    w0, w1, w2, w3 = _ZERO, _ZERO, _ZERO, _ZERO
    i = _u32(n)  # one above the place that is filled
    while i > _ONE:
        # Words from the largest multiple of i up are rejected: 2^32 mod i of them.
        most = _u32(_MOST - _u32(_u32(_ZERO - i) % i))
        while True:
            if used == _ZERO:
                w0, w1, w2, w3 = _block(seed, epoch, stream, block)
                block = _u32(block + _ONE)
            word = w0
            w0, w1, w2 = w1, w2, w3
            used = _u32(_u32(used + _ONE) & _THREE)
            if word <= most:
                break
        j = _u32(word % i)
        i = _u32(i - _ONE)
        moved = table[i]
        table[i] = table[j]
        table[j] = moved


# -- kernels -----------------------------------------------------------------------------------------------------------

THREADS = 256
_EACH = 4  # indices of a thread, a block's width apart: stores stay coalesced
_WIDTH = np.uint64(THREADS)
_SPAN = np.uint64(THREADS * _EACH)
_LAST = np.uint32(TABLE_LIMIT - 1)


def _fill32(out, first, step, last, mask, s, rounds, keys):  # type: ignore[no-untyped-def]
    begin = _u64(_u64(cuda.blockIdx.x) * _SPAN)
    end = min(_u64(begin + _SPAN), _u64(out.size))
    k = _u64(begin + _u64(cuda.threadIdx.x))
    # Positions are below 2^32, so they may wrap on the way: step may be negative.
    x = _u32(first + _u32(_u32(k) * step))
    stride = _u32(step * _u32(_WIDTH))
    while k < end:
        out[k] = forward32(x, last, mask, s, rounds, keys)
        k = _u64(k + _WIDTH)
        x = _u32(x + stride)


def _fill64(out, first, step, last, mask, s, keys):  # type: ignore[no-untyped-def]
    begin = _u64(_u64(cuda.blockIdx.x) * _SPAN)
    end = min(_u64(begin + _SPAN), _u64(out.size))
    k = _u64(begin + _u64(cuda.threadIdx.x))
    x = _u64(first + _u64(k * step))
    stride = _u64(step * _WIDTH)
    while k < end:
        out[k] = forward64(x, last, mask, s, keys)
        k = _u64(k + _WIDTH)
        x = _u64(x + stride)


# The positions of values; -1 for a value that is none, on which the walk might never end.


def _positions32(values, out, last, mask, s, rounds, keys):  # type: ignore[no-untyped-def]
    begin = _u64(_u64(cuda.blockIdx.x) * _SPAN)
    end = min(_u64(begin + _SPAN), _u64(out.size))
    k = _u64(begin + _u64(cuda.threadIdx.x))
    while k < end:
        x = _u64(values[k])
        if x <= _u64(last):
            out[k] = backward32(_u32(x), last, mask, s, rounds, keys)
        else:
            out[k] = -1
        k = _u64(k + _WIDTH)


def _positions64(values, out, last, mask, s, keys):  # type: ignore[no-untyped-def]
    begin = _u64(_u64(cuda.blockIdx.x) * _SPAN)
    end = min(_u64(begin + _SPAN), _u64(out.size))
    k = _u64(begin + _u64(cuda.threadIdx.x))
    while k < end:
        x = _u64(values[k])
        if x <= last:
            out[k] = backward64(x, last, mask, s, keys)
        else:
            out[k] = -1
        k = _u64(k + _WIDTH)


def _fill_table(out, first, step, n, seed, epoch, stream):  # type: ignore[no-untyped-def]
    table = cuda.shared.array(TABLE_LIMIT, types.uint16)
    thread = _u32(cuda.threadIdx.x)
    if thread == _ZERO:
        shuffle_table(table, n, seed, epoch, stream)
    cuda.syncthreads()
    k = thread
    while k < _u32(out.size):
        out[k] = table[_u32(_u32(first + _u32(k * step)) & _LAST)]
        k = _u32(k + _u32(_WIDTH))


def _positions_table(values, out, n, seed, epoch, stream):  # type: ignore[no-untyped-def]
    table = cuda.shared.array(TABLE_LIMIT, types.uint16)
    position = cuda.shared.array(TABLE_LIMIT, types.uint16)
    thread = _u32(cuda.threadIdx.x)
    if thread == _ZERO:
        shuffle_table(table, n, seed, epoch, stream)
    cuda.syncthreads()
    i = thread
    while i < n:
        position[_u32(_u32(table[i]) & _LAST)] = i
        i = _u32(i + _u32(_WIDTH))
    cuda.syncthreads()
    k = _u64(_u64(_u64(cuda.blockIdx.x) * _WIDTH) + _u64(thread))
    while k < _u64(out.size):
        x = _u64(values[k])
        out[k] = np.int64(position[_u32(x)]) if x < _u64(n) else np.int64(-1)
        k = _u64(k + _u64(_u64(cuda.gridDim.x) * _WIDTH))


_int64s, _keys32, _keys64 = int64[::1], types.UniTuple(uint32, 12), types.UniTuple(uint64, 8)
_mixer32, _mixer64 = (uint32, uint32, uint32, uint32, _keys32), (uint64, uint64, uint64, _keys64)
_table = (uint32, uint64, uint32, uint32)

FILL32 = Kernel(_fill32, (_int64s, uint32, uint32, *_mixer32), THREADS)
FILL64 = Kernel(_fill64, (_int64s, uint64, uint64, *_mixer64), THREADS)
FILL_TABLE = Kernel(_fill_table, (_int64s, uint32, uint32, *_table), THREADS)
POSITIONS32 = Kernel(_positions32, (_int64s, _int64s, *_mixer32), THREADS)
POSITIONS64 = Kernel(_positions64, (_int64s, _int64s, *_mixer64), THREADS)
POSITIONS_TABLE = Kernel(_positions_table, (_int64s, _int64s, *_table), THREADS)
KERNELS = [FILL32, FILL64, FILL_TABLE, POSITIONS32, POSITIONS64, POSITIONS_TABLE]


# -- host side ---------------------------------------------------------------------------------------------------------


def shape(n: int) -> tuple[int, int, int, int]:
    """What `forward32` and the like ask for beside the keys: (n - 1, mask, s, rounds). For n <= 1024 rounds is 0."""
    bits = (n - 1).bit_length()
    return n - 1, 2**bits - 1, (bits + 1) // 2, 0 if n <= TABLE_LIMIT else 12 if bits <= 16 else 8


@functools.lru_cache(maxsize=64)
def keys(n: int, seed: int, epoch: int, stream: int) -> tuple[Any, ...]:
    """The keys of a permutation of n > 1024, as a kernel takes them: 12 of uint32, or 8 of uint64 for n > 2^32."""
    counters = np.array([(block, stream, epoch, 0) for block in range(4)], dtype=np.uint32)
    key = np.tile(np.array([seed % 2**32, seed >> 32], dtype=np.uint32), (4, 1))
    words = np.empty((4, 4), dtype=np.uint32)
    _core.index.philox(counters, key, words)
    drawn = [int(word) for word in words.ravel()]
    if n <= NARROW_LIMIT:
        return tuple(np.uint32(drawn[r] * MULTIPLIER32[r % 4] % 2**32) for r in range(12))
    wide = [drawn[2 * r] | drawn[2 * r + 1] << 32 for r in range(8)]
    return tuple(np.uint64(wide[r] * MULTIPLIER64[r % 4] % 2**64) for r in range(8))


def _arguments(p: Permutation) -> tuple[Any, ...]:
    """The last arguments of a kernel."""
    if p.n <= TABLE_LIMIT:
        return np.uint32(p.n), np.uint64(p.seed), np.uint32(p.epoch), np.uint32(p.stream)
    last, mask, s, rounds = shape(p.n)
    drawn = keys(p.n, p.seed, p.epoch, p.stream)
    if p.n <= NARROW_LIMIT:
        return np.uint32(last), np.uint32(mask), np.uint32(s), np.uint32(rounds), drawn
    return np.uint64(last), np.uint64(mask), np.uint64(s), drawn


def fill(
    permutation: Permutation,
    first: int = 0,
    count: int | None = None,
    *,
    step: int = 1,
    out: Any = None,
    stream: Any = 0,
) -> Any:
    """Rows at consecutive positions, computed on the device: ``permutation[first : first + count]``.

    Parameters
    ----------
    permutation : gradfold.index.Permutation
    first : int, default 0
        The first position, 0 to n - 1.
    count : int, optional
        How many; by default all that follow.
    step : int, default 1
        From one position to the next. Not 0; all positions must lie in 0 to n - 1.
    out : device array of int64, shape (count,), optional
        Where to write, C-contiguous; any object with ``__cuda_array_interface__``.
    stream : optional
        The stream to launch on; the default stream if absent.

    Returns
    -------
    device array of int64, shape (count,)
        `out` where one was given. The kernel may still run.

    Raises
    ------
    TypeError, ValueError
        An argument of a wrong type, out of range, or of a wrong shape or layout; the message names it.

    Examples
    --------
    >>> p = gf.index.Permutation(1_000_000_000, seed=1)  # doctest: +SKIP
    >>> rows = fill(p, 0, 1_000_000)  # doctest: +SKIP
    """
    n = _permutation(permutation).n
    start = _check.integer("first", first, 0, n - 1)
    stride = _check.integer("step", step, -n, n)
    if stride == 0:
        raise ValueError("step: got 0, wanted any other integer")
    most = (n - 1 - start) // stride + 1 if stride > 0 else start // -stride + 1
    size = most if count is None else _check.integer("count", count, 0, most)
    result, to = _output(out, size)
    if size == 0:
        return result
    arguments = _arguments(permutation)
    if n <= TABLE_LIMIT:
        FILL_TABLE(1, stream, to, np.uint32(start), np.uint32(stride % 2**32), *arguments)
    elif n <= NARROW_LIMIT:
        FILL32(_blocks(size), stream, to, np.uint32(start), np.uint32(stride % 2**32), *arguments)
    else:
        FILL64(_blocks(size), stream, to, np.uint64(start), np.uint64(stride % 2**64), *arguments)
    return result


def positions(permutation: Permutation, values: Any, *, out: Any = None, stream: Any = 0) -> Any:
    """The positions at which rows are visited, computed on the device: ``permutation.inverse(values)``.

    Parameters
    ----------
    permutation : gradfold.index.Permutation
    values : device array of int64, one-dimensional and C-contiguous
        Rows, 0 to n - 1; any object with ``__cuda_array_interface__``.
    out : device array of int64, of the shape of `values`, optional
        Where to write; it may be `values`.
    stream : optional
        The stream to launch on; the default stream if absent.

    Returns
    -------
    device array of int64
        `out` where one was given; -1 for every value outside 0 to n - 1. The kernel may still run.

    Raises
    ------
    TypeError, ValueError
        An argument of a wrong type, shape or layout; the message names it.
    """
    n = _permutation(permutation).n
    given = _device_array("values", values)
    result, to = _output(out, given.size)
    if given.size == 0:
        return result
    arguments = _arguments(permutation)
    if n <= TABLE_LIMIT:
        # Every block shuffles the table: few blocks, much work each.
        POSITIONS_TABLE(min(64, -(-given.size // THREADS)), stream, given, to, *arguments)
    else:
        (POSITIONS32 if n <= NARROW_LIMIT else POSITIONS64)(_blocks(given.size), stream, given, to, *arguments)
    return result


def _blocks(size: int) -> int:
    return -(-size // (THREADS * _EACH))


def _permutation(value: Any) -> Permutation:
    from gradfold.index import Permutation

    if not isinstance(value, Permutation):
        raise TypeError(f"permutation: got {_check.describe(value)}, wanted a gradfold.index.Permutation")
    return value


def _output(out: Any, size: int) -> tuple[Any, Any]:
    """What the caller gets, and what the kernel gets."""
    if out is None:
        made = _driver.empty(size, np.int64, hint="ask for fewer positions at a time") if size else cuda.device_array(0, np.int64)
        return made, made
    to = _device_array("out", out)
    if to.size != size:
        raise ValueError(f"out: got shape {to.shape}, wanted ({size},)")
    return out, to


def _device_array(name: str, value: Any) -> Any:
    """`value` as Numba's device array; its memory is the caller's."""
    if not (hasattr(value, "copy_to_host") if SIMULATED else cuda.is_cuda_array(value)):
        raise TypeError(f"{name}: got {_check.describe(value)}, wanted an int64 array on the device")
    # Numba's own array is taken as it is: to read the interface of one would wait for its stream.
    array = value if hasattr(value, "copy_to_host") else cuda.as_cuda_array(value)
    if array.dtype != np.int64:
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted int64")
    if array.ndim != 1 or not array.flags["C_CONTIGUOUS"]:
        raise ValueError(
            f"{name}: got shape {array.shape} with strides {array.strides}, wanted one contiguous dimension"
        )
    return array
