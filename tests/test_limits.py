"""The machine's limits: the kernels do the work that their rates are of, and the measurement has the form it says. No test of speed."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradfold import _core, _limits

LEVELS = _core.levels.supported()
roofline = _core.roofline
SIZES = [0, 1, 7, 63, 64, 65, 1003]  # of which some fill no vector, and some no thread


def _whole(rng: np.random.Generator, shape: Any, dtype: str = "float64") -> np.ndarray:
    """Whole numbers, whose sums are exact in any order."""
    return rng.integers(-500, 500, shape).astype(dtype)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n", SIZES)
def test_reads_all(level: str, n_threads: int, n: int) -> None:
    memory = _whole(np.random.default_rng(n), n)
    rate, total = roofline.read_bandwidth(memory, n_threads, 2, level)
    assert total == memory.sum() and math.isfinite(rate) and (rate > 0) == (n > 0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n", SIZES)
def test_copies_all_and_no_more(level: str, n_threads: int, n: int) -> None:
    source = np.random.default_rng(n).standard_normal(n)
    room = np.full(n + 32, np.nan)
    rate = roofline.copy_bandwidth(source, room[16 : 16 + n], n_threads, 2, level)
    np.testing.assert_array_equal(room[16 : 16 + n], source)
    assert np.isnan(room[:16]).all() and np.isnan(room[16 + n :]).all()
    assert math.isfinite(rate) and (rate > 0) == (n > 0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [1, 2, 31, 50, 100, 300])
@pytest.mark.parametrize("n", [0, 1, 9, 203])
def test_gathers_the_rows_asked_for(level: str, dtype: str, width: int, n: int) -> None:
    rng = np.random.default_rng(width + n)
    # Neighbours of the rows asked for are not finite, so that one element too many shows.
    table = np.full((121, width), np.nan, dtype)
    table[::2] = _whole(rng, (61, width), dtype)
    rows = 2 * rng.integers(0, 61, n)  # with repeats, so that the sum says which rows they were
    for n_threads in (1, 4):
        rate, total = roofline.gather_bandwidth(table, rows, n_threads, 2, level)
        assert total == table[rows].sum(dtype=np.float64)
        assert math.isfinite(rate) and (rate > 0) == (n > 0)


@pytest.mark.parametrize("level", LEVELS)
def test_peaks_are_of_the_level_asked_for(level: str) -> None:
    for itemsize in (4, 8):
        rate = roofline.fma_peak(itemsize, 2, 0.002, level)
        assert math.isfinite(rate) and rate > 0


_ROWS = np.zeros(3, np.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: roofline.fma_peak(2, 1), ValueError, "sizeof_type: got 2, wanted 4 or 8"),
        (lambda: roofline.fma_peak(4, 0), ValueError, "n_threads: got 0"),
        (lambda: roofline.fma_peak(4, 1, 0.0), ValueError, "seconds: got 0"),
        (lambda: roofline.fma_peak(4, 1, 0.1, "sse9"), ValueError, "level: got 'sse9', wanted one of serial"),
        (lambda: roofline.read_bandwidth(np.ones(3), 0), ValueError, "n_threads: got 0"),
        (lambda: roofline.read_bandwidth(np.ones(3), 1, 0), ValueError, "repeats: got 0"),
        (lambda: roofline.read_bandwidth(np.ones(3, np.float32), 1), TypeError, "memory: got an array of float32"),
        (lambda: roofline.read_bandwidth(np.ones((3, 1)), 1), ValueError, r"memory: got shape \(3, 1\)"),
        (lambda: roofline.copy_bandwidth(np.ones(3), np.ones(4), 1), ValueError, r"target: got shape \(4,\)"),
        (lambda: roofline.copy_bandwidth(np.ones(6)[::2], np.ones(3), 1), ValueError, "source: got an array that is not C"),
        (lambda: _copy_within(np.ones(9)), ValueError, "target: got an array that overlaps source"),
        (lambda: _copy_to_read_only(), ValueError, "target: got a read-only array"),
        (lambda: roofline.gather_bandwidth(np.ones((2, 3)), _ROWS + 2, 1), ValueError, "rows: got 2 at 0, wanted 0 to 1"),
        (lambda: roofline.gather_bandwidth(np.ones((2, 3)), _ROWS - 1, 1), ValueError, "rows: got -1 at 0"),
        (lambda: roofline.gather_bandwidth(np.ones((2, 0)), _ROWS, 1), ValueError, "table: got shape"),
        (lambda: roofline.gather_bandwidth(np.ones(6), _ROWS, 1), ValueError, r"table: got shape \(6,\)"),
        (lambda: roofline.gather_bandwidth(np.ones((2, 3), int), _ROWS, 1), TypeError, "table: got an array of int64"),
        (lambda: roofline.gather_bandwidth(np.ones((2, 3)), _ROWS.astype(np.int32), 1), TypeError, "rows: got an array of int32"),
        (lambda: _limits.measure(0), ValueError, "n_threads: got 0"),
        (lambda: _limits.measure(1, "sse9"), ValueError, "level: got 'sse9'"),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def _copy_within(room: np.ndarray) -> None:
    roofline.copy_bandwidth(room[:5], room[4:], 1)


def _copy_to_read_only() -> None:
    target = np.ones(3)
    target.flags.writeable = False
    roofline.copy_bandwidth(np.ones(3), target, 1)


# ---- the machine's caches ------------------------------------------------------------------------------------------


def _sysfs(root: Path, caches: list[tuple[str, str, str, str]]) -> None:
    for at, values in enumerate(caches):
        folder = root / "cpu5" / "cache" / f"index{at}"
        folder.mkdir(parents=True)
        for name, value in zip(("type", "size", "level", "shared_cpu_list"), values):
            (folder / name).write_text(f"{value}\n")


def test_caches_from_sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = [("Data", "48K", "1", "5"), ("Instruction", "32K", "1", "5"), ("Unified", "2048K", "2", "5,21")]
    _sysfs(tmp_path, [("Unified", "32M", "3", "0-7,16-23"), *small])
    monkeypatch.setattr(_limits, "_SYSFS", str(tmp_path))
    monkeypatch.setattr(_limits.os, "sched_getaffinity", lambda _: {9, 5}, raising=False)
    wanted = (_limits.Cache("L1d", 48 << 10, 1), _limits.Cache("L2", 2 << 20, 2), _limits.Cache("L3", 32 << 20, 16))
    assert _limits.caches() == (wanted, "sysfs")


@pytest.mark.parametrize("size", ["big", "", "48X"])
def test_where_sysfs_says_nothing(size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _sysfs(tmp_path, [("Data", size, "1", "5")])
    monkeypatch.setattr(_limits, "_SYSFS", str(tmp_path))
    monkeypatch.setattr(_limits.os, "sched_getaffinity", lambda _: {5}, raising=False)

    def sysconf(name: str) -> int:
        if name == "SC_LEVEL3_CACHE_SIZE":
            raise ValueError("unrecognized configuration name")
        return {"SC_LEVEL1_DCACHE_SIZE": 1000, "SC_LEVEL2_CACHE_SIZE": 5000}[name]

    monkeypatch.setattr(_limits.os, "sysconf", sysconf)
    assert _limits.caches() == ((_limits.Cache("L1d", 1000, 1), _limits.Cache("L2", 5000, 1)), "sysconf")
    monkeypatch.setattr(_limits.os, "sysconf", lambda name: 0)
    found, source = _limits.caches()
    assert source == "assumed" and [cache.name for cache in found] == ["L1d", "L2", "L3"]


def test_available_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       24601580 kB\nMemAvailable:   1000 kB\n")
    monkeypatch.setattr(_limits, "_MEMINFO", str(path))
    assert _limits.available_memory() == 1000 << 10
    monkeypatch.setattr(_limits, "_MEMINFO", str(tmp_path / "none"))
    assert _limits.available_memory() == 4 << 30


_MIB = 1 << 20
_DESKTOP = (_limits.Cache("L1d", 32 << 10, 2), _limits.Cache("L2", 1 * _MIB, 2), _limits.Cache("L3", 32 * _MIB, 16))


def test_working_sets() -> None:
    one = {p.name: p for p in _limits.places(_DESKTOP, 1, 1 << 30, 32 << 30)}
    assert list(one) == ["L1d", "L2", "L3", "memory"]
    assert [one[name].working_set for name in one] == [8 << 10, 256 << 10, 1 * _MIB, 128 * _MIB]
    assert [one[name].capacity for name in one] == [32 << 10, 1 * _MIB, 32 * _MIB, None]
    all_of_them = {p.name: p for p in _limits.places(_DESKTOP, 16, 1 << 30, 32 << 30)}
    assert [all_of_them[name].working_set for name in one] == [128 << 10, 4 * _MIB, 16 * _MIB, 128 * _MIB]
    assert [all_of_them[name].capacity for name in one] == [256 << 10, 8 * _MIB, 32 * _MIB, None]


@pytest.mark.parametrize("n_threads", [1, 3, 16, 100])
@pytest.mark.parametrize("most", [1 << 12, 1 << 30])
def test_working_sets_grow_and_are_whole_lines_of_each_thread(n_threads: int, most: int) -> None:
    huge = (*_DESKTOP[:2], _limits.Cache("L3", 260 * _MIB, 2))
    for caches in (_DESKTOP, huge, _limits._UNKNOWN, _DESKTOP[:1]):
        found = _limits.places(caches, n_threads, most, 8 << 30)
        sizes = [p.working_set for p in found]
        assert sizes == sorted(set(sizes)) and all(size % (2 * n_threads * 64) == 0 for size in sizes)
        assert found[-1].capacity is None and all(p.capacity for p in found[:-1])
        assert all(p.working_set <= 64 * _MIB or p.working_set >= 4 * sizes[k - 1] for k, p in enumerate(found[:-1]))


def test_memory_is_beyond_all_last_caches() -> None:
    """Eight of 32 MiB: the threads of one have its own, those of all have 256 MiB."""
    for n_threads, megabytes in ((1, 128), (16, 128), (32, 256), (128, 1024)):
        last = _limits.places(_DESKTOP, n_threads, 1 << 34, 1 << 40)[-1]
        assert (last.name, last.working_set) == ("memory", megabytes * _MIB)


def test_a_working_set_that_a_cache_could_hold_is_not_called_memory() -> None:
    for most, available in ((32 * _MIB, 1 << 40), (1 << 30, 128 * _MIB)):
        last = _limits.places(_DESKTOP, 1, most, available)[-1]
        assert (last.name, last.working_set) == ("last-level cache or memory", 32 * _MIB)
    assert _limits.places(_DESKTOP, 1, 33 * _MIB, 1 << 40)[-1].name == "memory"


# ---- all limits ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> _limits.Limits:
    monkeypatch.setattr(_limits, "caches", lambda: ((_limits.Cache("L1d", 8 << 10, 1), _limits.Cache("L2", 64 << 10, 1)), "a test"))
    monkeypatch.setattr(_limits, "_ENOUGH", 1e-4)
    monkeypatch.setattr(_limits, "_MOST_SECONDS", 0.0)
    return _limits.measure(2, LEVELS[-1], most=1 << 20)


def test_the_tree(small: _limits.Limits) -> None:
    assert (small.level, small.n_threads, small.caches_from) == (LEVELS[-1], (1, 2), "a test")
    keys = [(p.level, p.dtype, p.n_threads) for p in small.peaks]
    assert keys == [(level, dtype, n) for level in LEVELS for dtype in ("float32", "float64") for n in (1, 2)]
    assert [(b.place.name, b.n_threads) for b in small.bandwidths] == [(p, n) for n in (1, 2) for p in ("L1d", "L2", "memory")]
    rates = [p.flops for p in small.peaks]
    for b in small.bandwidths:
        rates += [b.read, b.copy, b.gather_rows, b.gather_8, b.gather_4]
    assert all(math.isfinite(rate) and rate > 1e3 for rate in rates)  # a second, not a nanosecond
    assert small.peak("float32", 2) == max(p.flops for p in small.peaks if p.level == LEVELS[-1] and p.dtype == "float32")


def test_all_threads_do_at_least_what_one_does(small: _limits.Limits) -> None:
    half = len(small.bandwidths) // 2
    for one, both in zip(small.bandwidths[:half], small.bandwidths[half:]):
        for name in ("read", "copy", "gather_rows", "gather_8", "gather_4"):
            assert getattr(both, name) >= getattr(one, name)


def test_where_data_lie(small: _limits.Limits) -> None:
    for n_bytes, n_threads, wanted in ((1, 1, "L1d"), (8 << 10, 1, "L1d"), (8193, 1, "L2"), (16 << 10, 2, "L1d"), (1 << 40, 2, "memory")):
        found = small.bandwidth(n_bytes, n_threads)
        assert (found.place.name, found.n_threads) == (wanted, n_threads)


def test_json(small: _limits.Limits) -> None:
    found = json.loads(json.dumps(small.to_dict(), allow_nan=False))
    assert set(found) == {f.name for f in dataclasses.fields(_limits.Limits)}
    assert found["caches"][1] == {"name": "L2", "size": 64 << 10, "shared_by": 1}
    assert set(found["bandwidths"][0]) == {f.name for f in dataclasses.fields(_limits.Bandwidth)}
    assert found["peaks"][0]["flops"] == small.peaks[0].flops


def test_one_thread_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_limits, "caches", lambda: ((_limits.Cache("L1d", 8 << 10, 1),), "a test"))
    monkeypatch.setattr(_limits, "_ENOUGH", 1e-4)
    monkeypatch.setattr(_limits, "_MOST_SECONDS", 0.0)
    found = _limits.measure(1, most=1 << 20)
    assert found.n_threads == (1,) and len(found.bandwidths) == 2 and found.level == _core.levels.current()


def test_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(_limits, "MOST", 1 << 20)
    monkeypatch.setattr(_limits, "_MOST_SECONDS", 0.0)
    plain = _limits._ones
    monkeypatch.setattr(_limits, "_ones", lambda n: sizes.append(8 * n) or plain(n))
    assert _limits.memory_read_bandwidth(2) > 1e3
    assert sizes == [1 << 20] and _limits._ones(3).ctypes.data % 64 == 0


def test_gathered_rows_are_of_each_threads_own_part() -> None:
    orders = _limits._shuffled(part=100, n_threads=3, most=30)
    seen: list[np.ndarray] = []
    for _ in range(3):
        rows = next(orders).reshape(3, 30)
        for thread, own in enumerate(rows):
            assert own.min() >= 100 * thread and own.max() < 100 * (thread + 1) and len(set(own.tolist())) == 30
        seen.append(rows)
    assert len({row for rows in seen[:2] for row in rows[0].tolist()}) == 60  # no row comes again soon
    whole = next(_limits._shuffled(part=7, n_threads=2, most=1000))
    assert sorted(whole.tolist()) == list(range(14))


def test_the_best_is_kept_and_two_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_limits, "_MOST_SECONDS", 1e9)
    rates = iter([5.0, 9.0, 1.0, 2.0, 9.1, 99.0])
    before: list[float] = []

    def measurement(best: float) -> float:
        before.append(best)
        return next(rates)

    assert _limits._maximum(measurement) == 9.1
    assert before == [0.0, 5.0, 9.0, 9.0, 9.0]
