"""Is the permutation random? Frequencies over many keys against a uniform permutation, with controls that must fail.

Every test collects p-values of chi-square statistics over keys 0, 1, 2, ... and rejects by Holm's procedure at 1e-3, so
that the whole file is deterministic and a sound permutation fails none of it. Version "v1" is provisional until the
longer battery of the design (lags, avalanche, Mallows kernel, inversions) has passed as well.
"""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest
from scipy import stats

from gradfold import _core
from reference.index import C32

ALPHA = 1e-3


def heads(
    n: int, keys: int, width: int, *, first: int = 0, step: int = 1, epoch: int = 0, stream: int = 0
) -> np.ndarray:
    """The values at positions 0, step, 2 step, ... under the seeds first, first + 1, ...: shape (keys, width)."""
    out = np.full((keys, width), -1, dtype=np.int64)
    _core.index.heads(n, np.arange(first, first + keys, dtype=np.uint64), epoch, stream, step, out)
    return out


def uniform_p(counts: np.ndarray) -> float:
    return float(stats.chisquare(counts).pvalue)


def holm_rejects(p_values: dict[object, float]) -> list[object]:
    """The tests that Holm's procedure rejects at ALPHA."""
    rejected = []
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if not p <= ALPHA / (len(p_values) - rank):
            break
        rejected.append(name)
    return rejected


def assert_uniform(p_values: dict[object, float]) -> None:
    assert not holm_rejects(p_values), {name: p_values[name] for name in holm_rejects(p_values)}


# ---- controls -------------------------------------------------------------------------------------------------------


def mixer(x: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """The rounds of the permutation on arrays: keys (rounds, ...) random, one key per entry of x."""
    mask, shift = np.uint32(2**bits - 1), np.uint32((bits + 1) // 2)
    for r, key in enumerate(keys):
        x = (x * np.uint32(C32[r % 4]) + key) & mask
        x = x ^ (x >> shift)
    return x


def mixer_pairs(bits: int, keys: int, rounds: int, difference: int) -> np.ndarray:
    rng = np.random.default_rng(bits * 1000 + rounds)
    round_keys = rng.integers(0, 2**32, (rounds, keys), dtype=np.uint32)
    ends = (np.zeros(keys, np.uint32), np.full(keys, difference, np.uint32))
    return np.stack([mixer(x, bits, round_keys) for x in ends], axis=1).astype(np.int64)


def lcg_pairs(bits: int, keys: int, difference: int) -> np.ndarray:
    """x -> a x + c mod 2**bits with random odd a and random c: a bijection, but an affine one."""
    rng = np.random.default_rng(bits)
    a, c = rng.integers(0, 2**bits, (2, keys))
    return np.stack([c, (a | 1) * difference + c], axis=1) % 2**bits


def feistel(bits: int, keys: int, rounds: int = 12) -> np.ndarray:
    """A balanced XOR Feistel network with random round functions, all values: shape (keys, 2**bits)."""
    half = bits // 2
    rng = np.random.default_rng(bits)
    left, right = np.divmod(np.broadcast_to(np.arange(2**bits), (keys, 2**bits)), 2**half)
    for _ in range(rounds):
        function = rng.integers(0, 2**half, (keys, 2**half))
        left, right = right, left ^ np.take_along_axis(function, right, axis=1)
    return left * 2**half + right


# ---- small n: every permutation -------------------------------------------------------------------------------------


def permutation_numbers(rows: np.ndarray) -> np.ndarray:
    """Each row's place among the n! permutations, by its Lehmer code."""
    n = rows.shape[1]
    number = np.zeros(len(rows), dtype=np.int64)
    for i in range(n):
        number = number * (n - i) + (rows[:, i + 1 :] < rows[:, i : i + 1]).sum(axis=1)
    return number


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 8])
def test_all_permutations_of_few_rows_are_equally_likely(n):
    keys = max(100_000, 12 * factorial(n))
    p_values = {}
    for epoch, stream in ((0, 0), (1, 0), (0, 1)):
        numbers = permutation_numbers(heads(n, keys, n, epoch=epoch, stream=stream))
        p_values[epoch, stream] = uniform_p(np.bincount(numbers, minlength=factorial(n)))
    assert_uniform(p_values)


# ---- parity ---------------------------------------------------------------------------------------------------------


def odd(rows: np.ndarray) -> np.ndarray:
    """Which rows are odd permutations: those with n minus the number of cycles odd. A cycle counts where it is least."""
    smallest = np.minimum(rows, np.arange(rows.shape[1]))
    jump = rows
    for _ in range(int(rows.shape[1]).bit_length()):
        smallest = np.minimum(smallest, np.take_along_axis(smallest, jump, axis=1))
        jump = np.take_along_axis(jump, jump, axis=1)
    cycles = (smallest == np.arange(rows.shape[1])).sum(axis=1)
    return (rows.shape[1] - cycles) % 2 == 1


def parity_p(rows: np.ndarray) -> float:
    return float(stats.binomtest(int(odd(rows).sum()), len(rows), 0.5).pvalue)


def test_parity_of_known_permutations():
    identity = np.arange(9)
    swap, cycle3 = identity.copy(), identity.copy()
    swap[[2, 5]], cycle3[[1, 4, 8]] = swap[[5, 2]], cycle3[[4, 8, 1]]
    assert odd(np.stack([identity, swap, cycle3, np.roll(identity, 1)])).tolist() == [False, True, False, False]


@pytest.mark.parametrize("n", [2, 200, 1024, 1025, 1500, 2048, 4096])
def test_half_of_all_permutations_are_odd(n):
    keys = min(4000, 4_000_000 // n)
    assert_uniform({epoch: parity_p(heads(n, keys, n, epoch=epoch)) for epoch in range(2)})


def test_parity_finds_a_feistel_network():
    assert parity_p(feistel(10, 400)) < 1e-30
    assert not odd(feistel(12, 50)).any()


# ---- fixed points, and agreement between epochs and streams ---------------------------------------------------------

SOURCES = {"epoch": {"epoch": 1}, "stream": {"stream": 1}, "seed": {"first": 1}, "seed's high half": {"first": 2**32}}


def poisson_p(matches: np.ndarray) -> float:
    """Matches per key against Poisson(1): 0, 1, ..., 5, and 6 or more."""
    expected = np.append(stats.poisson.pmf(np.arange(6), 1), stats.poisson.sf(5, 1)) * len(matches)
    return float(stats.chisquare(np.bincount(np.minimum(matches, 6), minlength=7), expected).pvalue)


@pytest.mark.parametrize("n", [1024, 1025, 1500, 2048])
def test_fixed_points_and_agreements_are_poisson(n):
    chunk, chunks = 1000, 8
    fixed = []
    agreements: dict[object, list[np.ndarray]] = {name: [] for name in SOURCES}
    for c in range(chunks):
        rows = heads(n, chunk, n, first=c * chunk)
        fixed.append((rows == np.arange(n)).sum(axis=1))
        for name, other in SOURCES.items():
            other = {**other, "first": c * chunk + other.get("first", 0)}
            agreements[name].append((rows == heads(n, chunk, n, **other)).sum(axis=1))
    p_values: dict[object, float] = {"fixed points": poisson_p(np.concatenate(fixed))}
    p_values.update({name: poisson_p(np.concatenate(found)) for name, found in agreements.items()})
    assert_uniform(p_values)


def test_poisson_finds_a_shift():
    """Control: a rotation by a random amount has all n fixed points or none."""
    amounts = np.random.default_rng(0).integers(0, 1025, 4000)
    assert poisson_p(np.where(amounts == 0, 1025, 0)) < 1e-30


# ---- where single values and pairs go -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1023, 1025, 1500, 2048, 3000])
def test_every_value_is_equally_likely_at_a_position(n):
    rows = heads(n, 200_000, 4, step=(n - 1) // 3)
    assert_uniform({k: uniform_p(np.bincount(rows[:, k], minlength=n)) for k in range(4)})


def difference_p(pairs: np.ndarray, n: int) -> dict[object, float]:
    """The differences of two values of a uniform permutation take every number but 0 equally often."""
    additive = (pairs[:, 1] - pairs[:, 0]) % n
    exclusive = pairs[:, 1] ^ pairs[:, 0]
    counts = {"additive": np.bincount(additive, minlength=n), "xor": np.bincount(exclusive, minlength=n)}
    assert all(count[0] == 0 for count in counts.values())  # never: distinct positions have distinct values
    return {name: uniform_p(count[1:]) for name, count in counts.items()}


def differences(bits: int) -> list[int]:
    return [1, 2, 3, 2 ** (bits // 2), 2 ** (bits - 1), 2 ** (bits - 1) - 1]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [11, 12, 13])
def test_differences_are_uniform(bits):
    keys = 500_000
    p_values: dict[object, float] = {}
    for d in differences(bits):
        pairs = heads(2**bits, keys, 2, step=d)
        p_values.update({(d, name): p for name, p in difference_p(pairs, 2**bits).items()})
    assert_uniform(p_values)


@pytest.mark.parametrize("bits", [11, 12, 13])
def test_differences_find_few_rounds_and_affine_maps(bits):
    """Controls: the same test on the same number of bits rejects 3 rounds, at 11 bits 4, and an LCG."""
    keys, n = 300_000, 2**bits
    rounds = 4 if bits == 11 else 3
    few, affine, full = {}, {}, {}
    for d in differences(bits):
        for found, pairs in (
            (few, mixer_pairs(bits, keys, rounds, d)),
            (affine, lcg_pairs(bits, keys, d)),
            (full, mixer_pairs(bits, keys, 12, d)),
        ):
            found.update({(d, name): p for name, p in difference_p(pairs, n).items()})
    assert holm_rejects(few) and min(few.values()) < 1e-9
    assert holm_rejects(affine) and min(affine.values()) == 0
    assert_uniform(full)  # the control's own code is not at fault: with all rounds it passes


@pytest.mark.parametrize("bits", [17, 24, 32, 33, 40, 62])
def test_ends_of_differences_and_single_bits_on_wide_domains(bits):
    """Both widths, where 8 rounds run: the low and the high ten bits of differences, and every bit on its own."""
    keys, n = 100_000, 2**bits
    p_values: dict[object, float] = {}
    for d in differences(bits):
        pairs = heads(n, keys, 2, step=d)
        found = {"additive": (pairs[:, 1] - pairs[:, 0]) % n, "xor": pairs[:, 0] ^ pairs[:, 1]}
        for name, difference in found.items():
            p_values[d, name, "low"] = uniform_p(np.bincount(difference % 1024, minlength=1024))
            p_values[d, name, "high"] = uniform_p(np.bincount(difference >> (bits - 10), minlength=1024))
        flips = [int((found["xor"] >> bit & 1).sum()) for bit in range(bits)]
        p_values.update({(d, bit): float(stats.binomtest(k, keys).pvalue) for bit, k in enumerate(flips)})
    assert_uniform(p_values)
