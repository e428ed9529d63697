"""The permutations of gradfold.cuda.index in the simulator, against the C++ core."""

from __future__ import annotations

import numpy as np
import pytest

from gradfold import _core
from gradfold.cuda import index
from gradfold.cuda._driver import cuda
from gradfold.index import Permutation

NARROW = [1025, 2000, 2**16 - 1, 2**16, 2**16 + 1, 1_000_000, 2**30 + 1, 2**31, 2**32 - 1, 2**32]
WIDE = [2**32 + 1, 2**32 + 12345, 2**40, 10**15, 2**62 + 3, 2**63 - 1]
SMALL = [1, 2, 3, 4, 5, 100, 1023, 1024]
OWNERS = [(0, 0, 0), (1, 3, 1), (2**32 + 5, 2**32 - 1, 2**31), (2**64 - 1, 7, 2)]  # seed, epoch, stream


def of(n, owner):
    return Permutation(n, owner[0], epoch=owner[1], stream=owner[2])


def typed(owner):
    return np.uint64(owner[0]), np.uint32(owner[1]), np.uint32(owner[2])


def places(n, count, seed):
    rng = np.random.default_rng(seed)
    return np.unique(np.concatenate([[0, 1, n // 2, n - 1], rng.integers(0, n, count)])).astype(np.int64)


def test_philox():
    rng = np.random.default_rng(1)
    counters = rng.integers(0, 2**32, (20, 4), dtype=np.uint32)
    keys = rng.integers(0, 2**32, (20, 2), dtype=np.uint32)
    counters[0], keys[0] = 0, 0
    counters[1], keys[1] = 2**32 - 1, 2**32 - 1
    want = np.empty_like(counters)
    _core.index.philox(counters, keys, want)
    got = np.array([index.philox4x32_10(*c, *k) for c, k in zip(counters, keys)])
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("n", NARROW)
def test_narrow(n, owner):
    p = of(n, owner)
    last, mask, s, rounds = (np.uint32(v) for v in index.shape(n))
    keys = np.array([index.permutation_key32(*typed(owner), np.uint32(r)) for r in range(12)])
    assert keys.dtype == np.uint32 and tuple(keys) == index.keys(n, *owner)
    x = places(n, 20, n)
    there = [int(index.forward32(np.uint32(v), last, mask, s, rounds, keys)) for v in x]
    np.testing.assert_array_equal(there, p[x])
    back = [int(index.backward32(np.uint32(v), last, mask, s, rounds, keys)) for v in x]
    np.testing.assert_array_equal(back, p.inverse(x))


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("n", WIDE)
def test_wide(n, owner):
    p = of(n, owner)
    last, mask, s, rounds = (np.uint64(v) for v in index.shape(n))
    keys = np.array([index.permutation_key64(*typed(owner), np.uint32(r)) for r in range(8)])
    assert rounds == 8 and keys.dtype == np.uint64 and tuple(keys) == index.keys(n, *owner)
    x = places(n, 20, n)
    there = [int(index.forward64(np.uint64(v), last, mask, s, keys)) for v in x]
    np.testing.assert_array_equal(there, p[x])
    back = [int(index.backward64(np.uint64(v), last, mask, s, keys)) for v in x]
    np.testing.assert_array_equal(back, p.inverse(x))


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("n", SMALL)
def test_small(n, owner):
    table = np.full(1024, 2**16 - 1, np.uint16)
    index.shuffle_table(table, np.uint32(n), *typed(owner))
    np.testing.assert_array_equal(table[:n], of(n, owner)[:])
    assert (table[n:] == 2**16 - 1).all()


def test_words_that_would_bias_are_rejected(monkeypatch):
    """About one word in 10 million: so the words are made here, at both sides of the border."""
    n = 7
    words = []
    for i in range(n, 1, -1):
        border = 2**32 - 2**32 % i  # a multiple of i: this word and those above it are rejected
        words += [border, 2**32 - 1, border - 1] if border < 2**32 else [2**32 - 1]
    want, at = list(range(n)), iter(words)
    for i in range(n, 1, -1):
        word = next(word for word in at if word < 2**32 - 2**32 % i)
        want[i - 1], want[word % i] = want[word % i], want[i - 1]
    words += [0] * 4
    monkeypatch.setattr(index, "_block", lambda s, e, t, block: tuple(map(np.uint32, words[4 * int(block) :][:4])))
    table = np.empty(n, np.uint16)
    index.shuffle_table(table, np.uint32(n), *typed(OWNERS[0]))
    assert table.tolist() == want


@pytest.mark.parametrize("n", [1, 5, 1024, 1025, 2**16 + 1, 2**32, 2**32 + 12345])
def test_kernels(n):
    p = of(n, OWNERS[2])
    count = min(n, 1100)  # two blocks of the mixer
    first = n - count
    rows = index.fill(p, first)
    want = p[first:]
    np.testing.assert_array_equal(rows.copy_to_host(), want)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(index.positions(p, rows).copy_to_host(), np.arange(first, n))
    if n == 5:
        stray = cuda.to_device(np.array([-1, 0, 4, 5, -(2**63), 2**63 - 1, 2**32]))
        np.testing.assert_array_equal(
            index.positions(p, stray).copy_to_host(), [-1, p.inverse(0), p.inverse(4), -1, -1, -1, -1]
        )
    back = index.fill(p, n - 1, min(count, 7), step=-1)
    np.testing.assert_array_equal(back.copy_to_host(), want[::-1][:7])


@pytest.mark.parametrize("n", [2000, 2**32 + 12345])
def test_values_that_are_none(n):
    p = of(n, OWNERS[1])
    values = np.array([-1, 0, n - 1, n, n + 1, -(2**63), 2**63 - 1])
    out = cuda.to_device(values)
    assert index.positions(p, out, out=out) is out
    np.testing.assert_array_equal(out.copy_to_host(), [-1, p.inverse(0), p.inverse(n - 1), -1, -1, -1, -1])


def test_steps_and_out():
    p = of(10_000, OWNERS[1])
    out = cuda.to_device(np.zeros(40, np.int64))
    assert index.fill(p, 100, 40, step=17, out=out) is out
    np.testing.assert_array_equal(out.copy_to_host(), p[100 : 100 + 40 * 17 : 17])
    assert index.fill(p, 0, step=5000).copy_to_host().tolist() == [p[0], p[5000]]
    assert index.fill(p, 0, 0).size == 0
    assert index.positions(p, index.fill(p, 0, 0)).size == 0


def test_wrong_arguments():
    p = of(2000, OWNERS[0])
    there = cuda.to_device(np.zeros(3, np.int64))
    for error, name, call in [
        (TypeError, "permutation", lambda: index.fill(np.arange(3))),
        (ValueError, "first", lambda: index.fill(p, 2000)),
        (TypeError, "first", lambda: index.fill(p, 1.5)),
        (ValueError, "count", lambda: index.fill(p, 1999, 2)),
        (ValueError, "count", lambda: index.fill(p, 0, 3, step=1000)),
        (ValueError, "step", lambda: index.fill(p, step=0)),
        (ValueError, "out", lambda: index.fill(p, 0, 2, out=there)),
        (TypeError, "out", lambda: index.fill(p, 0, 3, out=np.zeros(3, np.int64))),
        (TypeError, "out", lambda: index.fill(p, 0, 3, out=cuda.to_device(np.zeros(3, np.float64)))),
        (TypeError, "values", lambda: index.positions(p, [1, 2])),
        (TypeError, "values", lambda: index.positions(p, cuda.to_device(np.zeros(3, np.int32)))),
        (ValueError, "values", lambda: index.positions(p, cuda.to_device(np.zeros((3, 3), np.int64)))),
        (ValueError, "out", lambda: index.positions(p, there, out=cuda.to_device(np.zeros(2, np.int64)))),
    ]:
        with pytest.raises(error, match=name):
            call()
