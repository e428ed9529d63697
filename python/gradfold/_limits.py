"""What this machine can do at best, measured: multiply-adds in registers, and bytes from every level of its memory.

A limit is a maximum, so each is the best of several short measurements, at least until the best two agree: what else the
machine does can only lower them.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _core, index

Array = npt.NDArray[Any]

ROW_BYTES = 400  # of a gathered row: 100 float32
_SYSFS = "/sys/devices/system/cpu"
_MEMINFO = "/proc/meminfo"
MOST = 1 << 30  # bytes of the working set that stands for memory
_MOST_OF_CACHE = 64 << 20  # bytes of the working set of a cache: where guests share one, a larger part is not theirs
_GATHERED = 64 << 20  # bytes of cache lines that a thread gathers in one measurement
_ENOUGH = 0.003  # seconds of one measurement: few enough to be let alone for as long
_FEWEST = 3  # measurements of one limit
_AGREE = 0.97  # of the best: one more measurement like this, and it is no accident
_MOST_SECONDS = 0.25  # of one limit, if no two agree
_LINE = 64


@dataclass(frozen=True)
class Cache:
    """A level of the data caches.

    Attributes
    ----------
    name : str
        "L1d", "L2", "L3".
    size : int
        Bytes.
    shared_by : int
        Processors that share it.
    """

    name: str
    size: int
    shared_by: int


# What is assumed where the system does not say.
_UNKNOWN = (Cache("L1d", 32 << 10, 1), Cache("L2", 512 << 10, 1), Cache("L3", 8 << 20, 4))


@dataclass(frozen=True)
class Place:
    """A cache or the memory, as so many threads use it.

    Attributes
    ----------
    name : str
        A cache's, "memory", or "last-level cache or memory" where the working set is not larger than the last cache.
    working_set : int
        Bytes that all threads together read in one measurement.
    capacity : int or None
        Bytes that lie there at most; None for memory.
    """

    name: str
    working_set: int
    capacity: int | None


@dataclass(frozen=True)
class Peak:
    """Operations a second (an FMA is two) of independent FMAs in registers."""

    level: str
    dtype: str
    n_threads: int
    flops: float


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second of one place and number of threads.

    Attributes
    ----------
    place : Place
    n_threads : int
    read : float
        Vector loads, in order.
    copy : float
        Vector loads and ordinary stores, in order; bytes read plus bytes written.
    gather_rows : float
        Rows of `ROW_BYTES` bytes in the order of a permutation; the row numbers are not counted.
    gather_8, gather_4 : float
        Single elements of 8 and 4 bytes in the order of a permutation; the row numbers are not counted.
    """

    place: Place
    n_threads: int
    read: float
    copy: float
    gather_rows: float
    gather_8: float
    gather_4: float


@dataclass(frozen=True)
class Limits:
    """All limits of a machine.

    Attributes
    ----------
    level : str
        The level that `bandwidths` are of.
    n_threads : tuple of int
        1, and the number asked for.
    caches : tuple of Cache
    caches_from : str
        Who said what caches there are.
    peaks : tuple of Peak
        Of every level, type and number of threads.
    bandwidths : tuple of Bandwidth
        The smallest place first.
    """

    level: str
    n_threads: tuple[int, ...]
    caches: tuple[Cache, ...]
    caches_from: str
    peaks: tuple[Peak, ...]
    bandwidths: tuple[Bandwidth, ...]

    def peak(self, dtype: str, n_threads: int, level: str | None = None) -> float:
        """FLOP/s; `level` defaults to that of the bandwidths."""
        key = (level or self.level, dtype, n_threads)
        return next(p.flops for p in self.peaks if (p.level, p.dtype, p.n_threads) == key)

    def bandwidth(self, n_bytes: float, n_threads: int) -> Bandwidth:
        """Of the smallest place that holds so many bytes."""
        own = [b for b in self.bandwidths if b.n_threads == n_threads]
        return next(b for b in own if b.place.capacity is None or n_bytes <= b.place.capacity)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(n_threads: int | None = None, level: str | None = None, most: int = MOST) -> Limits:
    """Measure all limits; takes 3 to 5 s.

    Parameters
    ----------
    n_threads : int, optional
        Beside 1; default: the processors this process may use.
    level : str, optional
        Of the bandwidths; default: the one in use. Peaks are measured on all.
    most : int
        Bytes of the working set that stands for memory. It is 4 times the last cache where `most` and a quarter of the
        memory that is available allow that.

    Raises
    ------
    ValueError, TypeError
        A number of threads below 1, or a level that this machine does not have.
    """
    level = _core.levels.current() if level is None else _check.choice("level", level, _core.levels.supported())
    threads = tuple(sorted({1, _check.threads(n_threads)}))
    found, source = caches()
    peaks: list[Peak] = []
    for name, dtype in itertools.product(_core.levels.supported(), ("float32", "float64")):
        best = 0.0  # all threads do at least what one does
        for n in threads:
            best = max(best, fma_peak(np.dtype(dtype).itemsize, n, name))
            peaks.append(Peak(name, dtype, n, best))
    sets = {n: places(found, n, most, available_memory()) for n in threads}
    pool = _ones(max(place.working_set for own in sets.values() for place in own) // 8)
    measured: dict[tuple[str, int], Bandwidth] = {}
    for n, own in sets.items():
        for place in own:
            measured[place.name, n] = _bandwidth(place, n, pool, level, measured.get((place.name, 1)))
    return Limits(level, threads, found, source, tuple(peaks), tuple(measured.values()))


def fma_peak(itemsize: int, n_threads: int, level: str | None = None) -> float:
    """FLOP/s of independent FMAs in registers, of elements of 4 or 8 bytes."""
    return _maximum(lambda _: _core.roofline.fma_peak(itemsize, n_threads, 2 * _ENOUGH, level))


def memory_read_bandwidth(n_threads: int) -> float:
    """Bytes/s of vector loads from memory alone, for those who need no other limit."""
    return _read(_ones(beyond_caches(n_threads) // 8), n_threads, None)


def beyond_caches(n_threads: int) -> int:
    """Bytes of a working set that lies in memory, as `measure` has it."""
    found, _ = caches()
    return places(found, n_threads, MOST, available_memory())[-1].working_set


def caches() -> tuple[tuple[Cache, ...], str]:
    """The data caches of a processor of this process, the smallest first, and who says so."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    for found, source in ((_from_sysfs(min(affinity)), "sysfs"), (_from_sysconf(), "sysconf")):
        if found:
            return found, source
    return _UNKNOWN, "assumed"


def _from_sysfs(processor: int) -> tuple[Cache, ...]:
    """Empty where there is no such folder, or it says something else than expected."""
    found = []
    try:
        for folder in sorted(Path(f"{_SYSFS}/cpu{processor}/cache").glob("index*")):
            kind, size, level, shared = (
                (folder / name).read_text().strip() for name in ("type", "size", "level", "shared_cpu_list")
            )
            if kind != "Instruction":
                n_bytes = int(size[:-1]) << {"K": 10, "M": 20, "G": 30}[size[-1]]
                found.append((int(level), n_bytes, _n_processors(shared)))
    except (OSError, ValueError, LookupError):
        return ()
    return tuple(Cache(_name(level), size, shared) for level, size, shared in sorted(found) if size > 0)


def _n_processors(text: str) -> int:
    """Of a list like "0-3,8"."""
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return sum(end[-1] - end[0] + 1 for end in ends)


def _from_sysconf() -> tuple[Cache, ...]:
    """The sizes alone; the last is taken to be shared by all processors."""
    found = []
    for level, name in ((1, "SC_LEVEL1_DCACHE_SIZE"), (2, "SC_LEVEL2_CACHE_SIZE"), (3, "SC_LEVEL3_CACHE_SIZE")):
        try:
            size = os.sysconf(name)
        except (ValueError, OSError):
            continue
        if size > 0:
            found.append(Cache(_name(level), size, (os.cpu_count() or 1) if level == 3 else 1))
    return tuple(found)


def _name(level: int) -> str:
    return "L1d" if level == 1 else f"L{level}"


def available_memory() -> int:
    """Bytes that can be had without swapping; 4 GiB where the system does not say."""
    told = told_memory()
    return 4 << 30 if told is None else told


def told_memory() -> int | None:
    """Bytes that can be had without swapping, or None where the system does not say."""
    try:
        for line in Path(_MEMINFO).read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, LookupError):
        pass
    return None


def places(found: tuple[Cache, ...], n_threads: int, most: int, available: int) -> list[Place]:
    """The caches and the memory, each with a working set.

    Of a cache it is half of the share of the processors that run, at most 64 MiB, but never so little that the next
    smaller cache would hold a good part of it.
    """
    out: list[Place] = []
    for cache in found:
        half = n_threads * cache.size // cache.shared_by // 2
        working_set = max(min(half, _MOST_OF_CACHE), 4 * out[-1].working_set if out else n_threads * _LINE)
        capacity = cache.size * max(1, n_threads // cache.shared_by)
        if working_set <= capacity:
            out.append(Place(cache.name, _whole(working_set, n_threads), capacity))
    last = found[-1].size * max(1, n_threads // found[-1].shared_by)  # of all the last caches that the threads use
    working_set = _whole(min(4 * last, most, available // 4), n_threads)
    name = "memory" if working_set > last else "last-level cache or memory"
    return [*(place for place in out if place.working_set < working_set), Place(name, working_set, None)]


def _whole(n_bytes: int, n_threads: int) -> int:
    """Whole cache lines for each thread to read and to write."""
    unit = 2 * n_threads * _LINE
    return max(unit, n_bytes // unit * unit)


def _ones(n: int) -> Array:
    """float64 from the beginning of a cache line on: a load of two lines takes twice as long."""
    room = np.ones(n + _LINE // 8)
    first = -room.ctypes.data % _LINE // 8
    return room[first : first + n]


def _bandwidth(place: Place, n_threads: int, pool: Array, level: str, of_one: Bandwidth | None) -> Bandwidth:
    """`of_one`: what one thread reached, which all together do at least."""
    memory = pool[: place.working_set // 8]
    half = len(memory) // 2

    def copy(repeats: int) -> float:
        return _core.roofline.copy_bandwidth(memory[:half], memory[half:], n_threads, repeats, level)

    def gathered(dtype: str, width: int) -> float:
        return _gather(memory.view(dtype), width, n_threads, level, in_cache=place.capacity is not None)

    rates = {
        "read": _read(memory, n_threads, level),
        "copy": _best(copy, memory.nbytes),
        "gather_rows": gathered("float32", ROW_BYTES // 4),
        "gather_8": gathered("float64", 1),
        "gather_4": gathered("float32", 1),
    }
    if of_one is not None:
        rates = {name: max(rate, getattr(of_one, name)) for name, rate in rates.items()}
    return Bandwidth(place, n_threads, **rates)


def _read(memory: Array, n_threads: int, level: str | None) -> float:
    return _best(lambda repeats: _core.roofline.read_bandwidth(memory, n_threads, repeats, level)[0], memory.nbytes)


def _gather(memory: Array, width: int, n_threads: int, level: str, in_cache: bool) -> float:
    """Every thread gathers from a part of its own, as from caches of its own. In a cache the row numbers lie beside it."""
    row_bytes = width * memory.itemsize
    part = max(1, memory.nbytes // n_threads // (row_bytes + 8 * in_cache))  # rows
    table = memory[: part * n_threads * width].reshape(-1, width)
    if not len(table):
        table, part = np.ones((n_threads, width), memory.dtype), 1
    rows = _shuffled(part, n_threads, max(1, _GATHERED // max(row_bytes, _LINE)))

    def run(repeats: int) -> float:
        return _core.roofline.gather_bandwidth(table, next(rows), n_threads, repeats, level)[0]

    return _best(run, min(part, _GATHERED // max(row_bytes, _LINE)) * n_threads * row_bytes, only_once=not in_cache)


def _shuffled(part: int, n_threads: int, most: int) -> Iterator[Array]:
    """Row numbers, the same number from each part: one slice of its order after another, so that none comes again soon."""
    order = index.Permutation(part, 0)
    size = min(part, most)
    starts = (np.arange(n_threads) * part)[:, None]
    for turn in itertools.count():
        first = turn * size % (part - size + 1) if part > size else 0
        yield (order[first : first + size] + starts).reshape(-1)


def _best(run: Callable[[int], float], n_bytes: int, only_once: bool = False) -> float:
    """The best rate of `run(repeats)`, which handles so many bytes a repeat. `only_once`: a repeat would find other caches."""
    repeats = 1

    def measurement(best: float) -> float:
        nonlocal repeats
        if not only_once:
            repeats = max(repeats, math.ceil(_ENOUGH * best / n_bytes))
        return run(repeats)

    return _maximum(measurement)


def _maximum(measurement: Callable[[float], float]) -> float:
    """The best of some measurements, each of which is told the best before it: until two agree, or there is no more time."""
    end = time.perf_counter() + _MOST_SECONDS
    rates = [measurement(0.0)]
    while len(rates) < _FEWEST or (
        sum(rate > _AGREE * max(rates) for rate in rates) < 2 and time.perf_counter() < end
    ):
        rates.append(measurement(max(rates)))
    return max(rates)
