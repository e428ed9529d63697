"""The one-standard-error rule, the warnings about edges and noise, and the rungs of halving."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradfold as gf
from gradfold import _choose
from gradfold._choose import edge_warning, fold_noise, halving_rungs, noise_warning, one_standard_error


def _path(*l2: float) -> list[dict[str, Any]]:
    return [{"l2": value, "learning_rate": 0.1} for value in l2]


# -- one standard error -----------------------------------------------------------------------------------------------


def test_the_largest_penalty_within_one_standard_error() -> None:
    params = _path(0.001, 0.01, 0.1, 1.0)
    mean = [0.50, 0.48, 0.49, 0.60]
    assert one_standard_error(mean, [9, 0.005, 9, 9], params) == 1
    assert one_standard_error(mean, [0, 0.015, 0, 0], params) == 2
    assert one_standard_error(mean, [0, 0.2, 0, 0], params) == 3
    assert one_standard_error(mean[::-1], [0, 0, 0.015, 0], params[::-1]) == 1


def test_the_best_without_a_standard_error() -> None:
    params = _path(0.1, 1.0)
    for error in (math.nan, 0.0):
        assert one_standard_error([0.5, 0.5001], [error] * 2, params) == 0
    assert one_standard_error([math.nan, 0.5], [0.1, math.nan], params) == 1
    assert one_standard_error([math.nan] * 2, [math.nan] * 2, params) == 0


def test_nan_is_never_chosen() -> None:
    assert one_standard_error([0.5, math.nan, 0.55], [0.1, 0.1, 0.1], _path(0.1, 10.0, 1.0)) == 2


def test_other_parameters_are_no_measure_of_simplicity() -> None:
    params: list[dict[str, Any]] = [
        {"l2": 0.1, "learning_rate": 0.1},
        {"l2": 1.0, "learning_rate": 0.2},
        {"l2": 0.2, "learning_rate": 0.1},
        {"l2": 0.05, "learning_rate": 0.1},
    ]
    assert one_standard_error([0.5, 0.51, 0.52, 0.5], [0.1] * 4, params) == 2


def test_penalties_are_compared_one_by_one_and_l2_decides() -> None:
    params = [
        {"l1": 0.1, "l2": 0.1},
        {"l1": 0.0, "l2": 9.0},  # less l1 than the best: not simpler
        {"l1": 0.3, "l2": 0.2},
        {"l1": 0.2, "l2": 0.3},
        {"l1": 0.9, "l2": 0.1},
    ]
    assert one_standard_error([0.5] + [0.51] * 4, [0.1] * 5, params) == 3
    same = [{"l1": 0.1, "l2": 0.1}] * 3
    assert one_standard_error([0.5, 0.5, 0.52], [0.1] * 3, same) == 0


@given(
    st.lists(
        st.tuples(
            st.one_of(st.floats(0, 1), st.just(math.nan)),
            st.floats(0, 0.3),
            st.sampled_from([0.0, 0.1, 1.0]),
            st.sampled_from([0.0, 0.5]),
            st.sampled_from([0.1, 0.2]),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_one_standard_error_against_its_definition(rows: list[Any]) -> None:
    mean, error = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    params = [{"l2": r[2], "l1": r[3], "learning_rate": r[4]} for r in rows]
    chosen = one_standard_error(mean, error, params)
    if np.isnan(mean).all():
        assert chosen == 0
        return
    best = int(np.nanargmin(mean))
    eligible = [
        i
        for i, row in enumerate(params)
        if mean[i] <= mean[best] + error[best]
        and all(row[name] >= params[best][name] for name in ("l1", "l2"))
        and row["learning_rate"] == params[best]["learning_rate"]
    ]
    assert chosen in eligible
    assert params[chosen]["l2"] == max(params[i]["l2"] for i in eligible)
    ties = [i for i in eligible if params[i]["l2"] == params[chosen]["l2"]]
    assert params[chosen]["l1"] == max(params[i]["l1"] for i in ties)


def test_standard_error() -> None:
    values = np.array([[0.1, 0.2, 0.6], [0.3, 0.3, 0.3], [0.1, np.nan, 0.2]])
    expected = [np.std([0.1, 0.2, 0.6], ddof=1) / math.sqrt(3), 0.0, np.nan]
    np.testing.assert_allclose(_choose.standard_error(values), expected, atol=1e-15)
    assert np.isnan(_choose.standard_error(np.ones((4, 1)))).all()
    assert _choose.standard_error(np.ones((4, 0))).shape == (4,)


# -- edges ------------------------------------------------------------------------------------------------------------


def test_edge() -> None:
    table = gf.grid(l2=[0.01, 0.1, 1.0], learning_rate=[0.3, 0.1, 0.03])
    texts = [edge_warning(table, i) for i in range(9)]
    assert texts[4] is None  # l2=0.1, learning_rate=0.1
    assert texts[1] == (
        "the best candidate is at an edge of the grid: l2=0.01 is the smallest of 3 values, smaller ones may be better"
    )
    assert texts[3] is not None and "learning_rate=0.3 is the largest of 3 values, larger ones" in texts[3]
    both = texts[8]
    assert both is not None and "l2=1.0 is the largest" in both and "learning_rate=0.03 is the smallest" in both


def test_what_has_no_edge() -> None:
    assert edge_warning(None, 0) is None
    assert edge_warning(gf.grid(l2=[0.1, 1.0]), 1) is None  # two values have nothing but ends
    assert edge_warning(gf.grid(l2=[0.0, 0.1, 1.0]), 0) is None  # there is nothing below 0
    assert edge_warning(gf.grid(l2=[0.0, 0.1, 1.0]), 2) is not None
    assert edge_warning(gf.grid(schedule=["constant", "cosine"], l2=[0.1]), 1) is None
    rows = [{"init_seed": s, "batch_size": b} for s, b in ((0, 1), (1, 2), (2, 4))]
    assert edge_warning(rows, 0) is None
    assert edge_warning(rows, 2) == (
        "the best candidate is at an edge of the grid: batch_size=4 is the largest of 3 values, larger ones may be better"
    )
    assert edge_warning([{"learning_rate": r} for r in ("auto", 0.1, 0.2)], 2) is None


# -- noise ------------------------------------------------------------------------------------------------------------


def _text(groups: list[Any]) -> str | None:
    return noise_warning(*_choose.standardized_ranks(groups))


@pytest.mark.parametrize("ties", [False, True])
def test_the_statistic_is_scipys(ties: bool) -> None:
    stats = pytest.importorskip("scipy.stats")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        groups = [rng.exponential(size=n) + 0.2 * i for i, n in enumerate([5 + seed, 30, 11])]
        if ties:
            groups = [group.round(0) for group in groups]
        _, rank, count = _choose.standardized_ranks(groups)
        assert (count * rank**2).sum() == pytest.approx(stats.kruskal(*groups).statistic, rel=1e-10)
        expected = stats.kruskal(*groups).pvalue
        text = _text(groups)
        assert (text is not None) == (expected < 0.001)
        if text is not None:
            assert f"p = {expected:.1g})" in text


@pytest.mark.parametrize(("k", "n"), [(2, 200), (5, 10), (5, 100), (50, 40), (100, 5)])
def test_level(k: int, n: int) -> None:
    """Of 2,000 sets of alike splits with heavy tails, 0.1 % should warn: 2, and hardly ever more than 10."""
    rng = np.random.default_rng(k)
    assert sum(_text(list(rng.lognormal(0, 1.5, size=(k, n)))) is not None for _ in range(2000)) <= 10


def test_splits_that_differ_warn() -> None:
    rng = np.random.default_rng(0)
    text = _text([rng.exponential(size=500) + (0.5 if i == 3 else 0) for i in range(5)])
    assert text is not None and "in split 3;" in text and "Kruskal-Wallis" in text and "p = " in text


def test_too_little_for_a_test() -> None:
    rng = np.random.default_rng(1)
    a, b, none = rng.random(50), rng.random(50) + 5, np.empty(0)
    assert _text([]) is None
    assert _text([a]) is None
    assert _text([none, none]) is None
    assert _text([a, none]) is None
    assert _text([np.ones(50), np.ones(50)]) is None
    assert _text([a[:1], b[:1]]) is None
    text = _text([a, none, b])
    assert text is not None and "in split 0" in text and "in split 2" in text


@given(
    st.lists(
        st.lists(st.one_of(st.floats(-1e300, 1e300), st.just(0.5)), max_size=12).map(np.array),
        max_size=12,
    )
)
def test_any_numbers_are_no_error(groups: list[Any]) -> None:
    text = _text(groups)
    assert text is None or "Kruskal-Wallis" in text


def _data(n: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4))
    return X, X @ [1.0, -1.0, 0.5, 0.0] + rng.standard_normal(n)


def test_noise_of_a_run() -> None:
    """Alike folds stay silent; a fold whose targets are noisier warns."""
    X, y = _data(2000)
    folds = gf.index.kfold(2000, 5, shuffle=False)
    table = gf.grid(l2=[1e-4, 0.1])
    run = gf.fit(X, y, table, folds=folds, epochs=5)
    mean, rank, count = fold_noise(run, 1)
    np.testing.assert_allclose(mean, run.held_out_loss[1], rtol=1e-12)
    assert count.tolist() == [400] * 5 and abs(rank.sum()) < 1e-12
    assert noise_warning(mean, rank, count) is None
    y = y.copy()
    y[800:1200] += 2 * np.random.default_rng(1).standard_normal(400)
    text = noise_warning(*fold_noise(gf.fit(X, y, table, folds=folds, epochs=5), 1))
    assert text is not None and "in split 2;" in text


def test_noise_of_many_rows_and_rows_without_weight() -> None:
    X, y = _data(30_000)
    weight = np.random.default_rng(3).choice([0.0, 1.0, 5.0], 30_000)
    run = gf.fit(X, y, folds=2, epochs=1, sample_weight=weight)
    mean, _, count = fold_noise(run, 0)
    assert count.tolist() == [4096, 4096]
    rows = run._folds.score_indices(1)
    rows = rows[weight[rows] > 0]
    rows = rows[[i * len(rows) // 4096 for i in range(4096)]]
    assert len(set(rows.tolist())) == 4096 and rows[-1] > 29_900
    values = (X[rows] @ run.coef[1] + run.intercept[1] - y[rows]) ** 2 / 2
    np.testing.assert_allclose(mean[1], values.mean(), rtol=1e-12)


def test_noise_of_small_and_diverged_splits() -> None:
    X, y = _data(12)
    run = gf.fit(X, y, folds=gf.index.leave_one_out(12), epochs=1)
    assert noise_warning(*fold_noise(run, 0)) is None
    X, y = _data(200)
    with pytest.warns(RuntimeWarning, match="diverged"):
        run = gf.fit(X, y, gf.grid(learning_rate=[1e20, 0.1]), folds=3, solver="sgd", epochs=30)
    assert fold_noise(run, 0)[2].tolist() == [0, 0, 0]
    assert noise_warning(*fold_noise(run, 0)) is None
    assert noise_warning(*fold_noise(run, 1)) is None
    pairs = [(np.arange(100), np.arange(100, 200)), (np.arange(200), np.arange(0))]
    assert noise_warning(*fold_noise(gf.fit(X, y, folds=pairs, epochs=1), 0)) is None


# -- rungs ------------------------------------------------------------------------------------------------------------


def test_rungs() -> None:
    assert halving_rungs(27, 100, 3, 1) == [(1, 9), (3, 3), (9, 1)]
    assert halving_rungs(20, 10, 3, 1) == [(1, 7), (3, 3), (9, 1)]
    assert halving_rungs(20, 9, 3, 1) == [(1, 7), (3, 3)]
    assert halving_rungs(1, 10, 3, 1) == []
    assert halving_rungs(2, 10, 4, 5) == [(5, 1)]


@given(st.integers(1, 10_000), st.integers(2, 10_000), st.integers(2, 10), st.integers(1, 50))
def test_rungs_shrink(n: int, epochs: int, factor: int, first: int) -> None:
    if first >= epochs:
        with pytest.raises(ValueError, match=r"^halving: got min_epochs=\d+ with epochs=\d+, wanted fewer than epochs"):
            halving_rungs(n, epochs, factor, first)
        return
    left = n
    for i, (epoch, survivors) in enumerate(halving_rungs(n, epochs, factor, first)):
        assert epoch == first * factor**i < epochs
        assert survivors == math.ceil(left / factor) and 1 <= survivors < left
        left = survivors


@pytest.mark.parametrize(
    ("factor", "first", "error"), [(1, 1, ValueError), (3.0, 1, TypeError), (3, 0, ValueError), (3, True, TypeError)]
)
def test_bad_rungs(factor: Any, first: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="^halving: (factor|min_epochs): got"):
        halving_rungs(10, 10, factor, first)
