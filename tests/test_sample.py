"""Random candidates: their distributions, their independence of each other, and their bits."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradfold as gf
from gradfold import _sample
from reference import index as reference


def test_a_table_of_candidates() -> None:
    table = gf.sample(
        40, seed=3, l2=gf.log_uniform(1e-6, 1.0), learning_rate=gf.uniform(0.01, 0.1), schedule=["constant", "cosine"]
    )
    assert isinstance(table, gf.Candidates) and len(table) == 40
    assert table.names == ("l2", "learning_rate", "schedule")
    assert all(1e-6 <= v <= 1 for v in table.column("l2")) and all(
        0.01 <= v <= 0.1 for v in table.column("learning_rate")
    )
    assert set(table.column("schedule")) == {"constant", "cosine"}
    assert len(set(table.column("l2"))) == 40
    assert gf.sample(40, seed=3, l2=gf.log_uniform(1e-6, 1.0)) != gf.sample(40, seed=4, l2=gf.log_uniform(1e-6, 1.0))


def test_the_uniform_numbers_are_philox() -> None:
    """Against the reference's own Philox, a word at a time."""
    import hashlib

    for seed in (0, 1, 2**64 - 1, 0x0123456789ABCDEF):
        got = _sample._uniforms(7, seed, "l2")
        stream = 2**31 | (int.from_bytes(hashlib.sha256(b"l2").digest()[:4], "little") & 0x7FFFFFFF)
        words = [
            w
            for block in range(4)
            for w in reference.philox4x32_10((block, stream, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
        ]
        for i in range(7):
            exact = Fraction((words[2 * i] | words[2 * i + 1] << 32) >> 11, 2**53)
            assert Fraction(float(got[i])) == exact


KNOWN = [
    ["0x1.54098566ba758p-8", "0x1.3946d209eb4fbp-2", "0x1.f000000000000p+4", "constant"],
    ["0x1.10209d38e118bp-19", "0x1.6efbaf68a2630p-4", "0x1.0000000000000p+6", "constant"],
    ["0x1.796e4c04d2360p-17", "0x1.8c3136f31e9dcp-2", "0x1.9300000000000p+8", "constant"],
]


def test_known_draws(each_level: str) -> None:
    """The same bits on every level, machine and day."""
    table = gf.sample(
        3,
        seed=2026,
        l2=gf.log_uniform(1e-6, 10.0),
        l1=gf.uniform(0.0, 0.5),
        learning_rate=gf.log_uniform(1, 1000, integer=True),
        schedule=gf.choice(["constant", "cosine"]),
    )
    assert [[v.hex() if isinstance(v, float) else v for v in row.values()] for row in table] == KNOWN
    u = _sample._uniforms(3, 2026, "l2")
    np.testing.assert_allclose(table.column("l2"), np.exp(np.log(1e-6) + u * np.log(1e7)), rtol=1e-14)


def test_parameters_do_not_touch_each_other() -> None:
    alone = gf.sample(10, seed=5, l2=gf.log_uniform(1e-6, 1.0))
    beside = gf.sample(25, seed=5, l1=gf.uniform(0, 1), l2=gf.log_uniform(1e-6, 1.0), schedule=["cosine", "constant"])
    assert beside.column("l2")[:10] == alone.column("l2")
    other = gf.sample(25, seed=5, l2=gf.uniform(0, 1), l1=gf.uniform(0, 1))
    assert other.column("l1") == beside.column("l1")
    assert abs(np.corrcoef(other.column("l1"), other.column("l2"))[0, 1]) < 0.6


@given(
    low=st.floats(1e-300, 1e300),
    ratio=st.floats(1.0000001, 1e8),
    seed=st.integers(0, 2**64 - 1),
    log=st.booleans(),
)
def test_draws_stay_within_their_ends(low: float, ratio: float, seed: int, log: bool) -> None:
    high = low * ratio
    distribution = (gf.log_uniform if log else gf.uniform)(low, high)
    assert all(low <= v <= high for v in gf.sample(20, seed=seed, l2=distribution).column("l2"))


@given(low=st.integers(1, 2**52), width=st.integers(1, 2**52), seed=st.integers(0, 2**64 - 1), log=st.booleans())
def test_integers_stay_within_their_ends(low: int, width: int, seed: int, log: bool) -> None:
    distribution = (gf.log_uniform if log else gf.uniform)(low, low + width, integer=True)
    values = distribution._draw(np.append(_sample._uniforms(20, seed, "l2"), [0.0, 1 - 2.0**-53]))
    assert all(type(v) is int and low <= v <= low + width for v in values)


def test_distributions_are_what_they_say() -> None:
    """χ² over bins of equal probability, at the level 1e-6."""
    stats = pytest.importorskip("scipy.stats")
    u = _sample._uniforms(20_000, 7, "l2")

    def check(counts: Any, probability: Any) -> None:
        assert stats.chisquare(counts, np.asarray(probability) * 20_000).pvalue > 1e-6

    check(np.histogram(gf.uniform(2.0, 4.0)._draw(u), np.linspace(2, 4, 21))[0], np.full(20, 1 / 20))
    check(np.histogram(np.log(gf.log_uniform(1e-6, 1.0)._draw(u)), np.linspace(np.log(1e-6), 0, 21))[0], [1 / 20] * 20)
    check(np.bincount(gf.uniform(0, 6, integer=True)._draw(u), minlength=7), np.full(7, 1 / 7))
    check(np.bincount(gf.choice(range(3))._draw(u), minlength=3), np.full(3, 1 / 3))
    k = np.arange(1, 9)
    check(np.bincount(gf.log_uniform(1, 8, integer=True)._draw(u))[1:], np.log((k + 1) / k) / math.log(9))


def test_the_ends_of_the_unit_interval() -> None:
    ends = np.array([0.0, 1 - 2.0**-53])
    assert gf.uniform(1, 4, integer=True)._draw(ends) == [1, 4]
    assert gf.log_uniform(1, 4, integer=True)._draw(ends) == [1, 4]
    assert gf.choice("abc".split("|"))._draw(ends) == ["abc", "abc"]
    assert gf.choice(["a", "b", "c"])._draw(ends) == ["a", "c"]
    low, high = gf.log_uniform(1e-6, 1.0)._draw(ends)
    assert low == pytest.approx(1e-6, rel=1e-15) and high == pytest.approx(1.0, rel=1e-14)


def test_a_choice_of_any_values_and_lists() -> None:
    assert set(gf.sample(50, l2=(0.1, 0.2)).column("l2")) == {0.1, 0.2}
    assert set(gf.sample(50, l2=np.array([0.1, 0.2])).column("l2")) == {0.1, 0.2}
    assert repr(gf.choice([1, 2])) == "choice([1, 2])"
    assert repr(gf.log_uniform(1, 9, integer=True)) == "log_uniform(1, 9, integer=True)"
    assert repr(gf.uniform(0, 1)) == "uniform(0.0, 1.0)"


def test_drawn_candidates_have_no_edges() -> None:
    from gradfold._choose import edge_warning

    table = gf.sample(5, l2=gf.uniform(1, 2))
    best = int(np.argmax(table.column("l2")))
    assert edge_warning(table, best) is None and edge_warning(table[:], best) is None
    assert edge_warning(gf.Candidates(list(table)), best) is not None


def test_fit_takes_a_sample() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    run = gf.fit(X, X[:, 0] + 0.1, gf.sample(4, l2=gf.log_uniform(1e-4, 1.0)), epochs=1, folds=3)
    assert run.held_out_loss.shape == (4, 3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: gf.sample(0, l2=[0.1]), ValueError, "^n: got 0, wanted an integer, at least 1"),
        (lambda: gf.sample(2.0, l2=[0.1]), TypeError, "^n: got 2.0"),
        (lambda: gf.sample(2, seed=-1, l2=[0.1]), ValueError, "^seed: got -1"),
        (lambda: gf.sample(2), ValueError, "^sample: got no parameter"),
        (lambda: gf.sample(2, l3=[0.1]), ValueError, "unknown parameter 'l3'.*did you mean"),
        (lambda: gf.sample(2, l2=0.1), TypeError, "^l2: got 0.1, wanted uniform, log_uniform or choice"),
        (lambda: gf.sample(2, l2="ab"), TypeError, "^l2: got 'ab'"),
        (lambda: gf.sample(2, l2=[]), ValueError, "^values: got an empty list"),
        (lambda: gf.sample(2, l2=[-1.0]), ValueError, "^l2: got -1.0"),
        (lambda: gf.sample(2, learning_rate=gf.choice([0.0])), ValueError, "^learning_rate: got 0.0"),
        (lambda: gf.choice("abc"), TypeError, "^values: got 'abc', wanted a list"),
        (lambda: gf.choice(3), TypeError, "^values: got 3"),
        (lambda: gf.uniform(1, 1), ValueError, "^high: got 1 with low=1, wanted a number above low"),
        (lambda: gf.uniform(-1, 1), ValueError, "^low: got -1"),
        (lambda: gf.uniform(0, math.inf), ValueError, "^high: got inf"),
        (lambda: gf.uniform(0, "1"), TypeError, "^high: got '1'"),
        (lambda: gf.uniform(0.5, 2, integer=True), TypeError, "^low: got 0.5, wanted an integer"),
        (lambda: gf.uniform(0, 2**60, integer=True), ValueError, "^high: got"),
        (lambda: gf.uniform(0, 2, integer=1), TypeError, "^integer: got 1"),
        (lambda: gf.log_uniform(0, 1), ValueError, "^low: got 0, wanted a finite number above 0"),
        (lambda: gf.log_uniform(0, 4, integer=True), ValueError, "^low: got 0"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
