"""Diagnostics: each finding on data where it is there and on data where it is not, and every formula by hand."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest

import gradfold as gf
from gradfold import diagnostics
from gradfold.diagnostics import diagnose


def _classification(n: int = 1500, p: int = 6, seed: int = 0, scale: float = 1.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    y = (X @ rng.standard_normal(p) * 1.5 + rng.logistic(size=n) > 0).astype(np.int64)
    return X * scale, y


def _regression(n: int = 800, p: int = 4, seed: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    return X, X @ rng.standard_normal(p) + 0.3 * rng.standard_normal(n) + 5


def _fit(X: Any, y: Any, table: Any = None, **keywords: Any) -> gf.Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # some of them diverge, and are meant to
        return gf.fit(X, y, table, **{"folds": 3, "epochs": 10, "batch_size": 32, "refit": False, **keywords})


def test_a_sound_run_has_no_finding() -> None:
    for run in (
        _fit(*_classification(), gf.grid(l2=[1e-4, 1e-3, 1e-2])),
        _fit(*_regression(), epochs=60),
        _fit(*_classification(), solver="sgd", standardize=True),
        _fit(*_classification(), loss="squared_error", fit_intercept=False),
    ):
        report = diagnose(run)
        assert len(report) == 0 and list(report) == []
        assert "nothing found" in repr(report)
        assert set(report.statistics) == set(diagnostics.FINDINGS)


# -- diverging --------------------------------------------------------------------------------------------------------


def test_diverging_fires_for_values_that_are_not_finite() -> None:
    run = _fit(*_regression(), gf.grid(learning_rate=[0.01, 1e20]), solver="sgd", epochs=30)
    report = diagnose(run)
    assert report.found("diverging").tolist() == [[False] * 3, [True] * 3]
    assert np.isinf(report.statistics["diverging"][1]).all()
    assert {row.finding for row in report if row.candidate == 1} == {"diverging"}  # and nothing else about them
    assert not any(row.candidate == 0 for row in report)


def test_diverging_fires_while_the_loss_still_grows() -> None:
    """A rate above the limit, for so few steps that every number is finite yet."""
    X, y = _regression()
    run = _fit(X, y, gf.grid(learning_rate=[0.5, 3.0]), solver="sgd", epochs=2, batch_size=200)
    assert not run.diverged.any()
    report = diagnose(run)
    assert report.found("diverging").tolist() == [[False] * 3, [True] * 3]
    assert (report.statistics["diverging"][1] > 1.1).all()


# -- vanishing gradient -----------------------------------------------------------------------------------------------


def test_vanishing_gradient_fires_for_features_of_tiny_scale() -> None:
    X, y = _classification(scale=1e-7)
    report = diagnose(_fit(X, y, solver="sgd"))
    assert report.found("vanishing gradient").all()
    assert report.found("underfitting").all()


def test_vanishing_gradient_is_silent_where_training_has_used_the_gradient() -> None:
    """Gradient descent to the optimum: the gradient is as small as above, but not from the start."""
    X, y = _classification(300, 2)
    run = _fit(X, y, epochs=3000, batch_size=300, solver="sgd", learning_rate=2.0, l2=0.0)
    report = diagnose(run)
    assert not report.found("vanishing gradient").any() and len(report) == 0
    W, b = np.ascontiguousarray(run.coef.T), run.intercept
    loss, g, _ = gf.gradient.loss_gradient(X, y.astype(float), W, b, loss="log_loss", folds=run._folds)
    assert (np.linalg.norm(g, axis=0) / loss < 1e-4).all()


def test_vanishing_gradient_is_silent_where_standardizing_helps() -> None:
    X, y = _classification(scale=1e-7)
    assert len(diagnose(_fit(X, y, standardize=True))) == 0


# -- overfitting ------------------------------------------------------------------------------------------------------


def test_overfitting_fires_for_more_features_than_rows() -> None:
    X, y = _classification(90, 300)
    report = diagnose(_fit(X, y, epochs=40))
    assert report.found("overfitting").all()
    assert not report.found("underfitting").any()


def test_overfitting_fires_for_a_held_out_loss_that_rises_again() -> None:
    """The gap is small, but the best epoch was long ago."""
    X, y = _classification(400, 40)
    run = _fit(X, y, gf.grid(l2=[0.0]), epochs=60, learning_rate=0.05)
    report = diagnose(run)
    assert report.found("overfitting").all()
    assert (run.history.min(axis=0) < run.held_out_loss).all()
    early = diagnose(_fit(X, y, gf.grid(l2=[0.03]), epochs=60, learning_rate=0.005))
    assert not early.found("overfitting").any()


# -- underfitting -----------------------------------------------------------------------------------------------------


def test_underfitting_fires_for_a_heavy_penalty() -> None:
    for X, y in (_classification(), _regression()):
        run = _fit(X, y, gf.grid(l2=[1e-4, 1e3]), epochs=60)
        assert diagnose(run).found("underfitting").tolist() == [[False] * 3, [True] * 3]


def test_underfitting_is_measured_against_the_best_constant() -> None:
    """A regression around 5: the mean alone explains most of the loss of zero weights, and is no achievement."""
    X, y = _regression()
    X = np.random.default_rng(3).standard_normal(X.shape)  # nothing to learn but the mean
    report = diagnose(_fit(X, y, epochs=60))
    assert report.found("underfitting").all() and not report.found("diverging").any()


def test_no_signal_is_underfitting_and_nothing_else() -> None:
    X, _ = _classification(5000)
    y = np.random.default_rng(9).integers(0, 2, len(X))
    assert {row.finding for row in diagnose(_fit(X, y))} == {"underfitting"}


# -- formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["log_loss", "squared_error"])
def test_statistics_by_hand(dtype: Any, weighted: bool, kind: str) -> None:
    X, y = _classification(200, 5) if kind == "log_loss" else _regression(200, 5)
    X, y = X.astype(dtype), y.astype(dtype)
    w = np.random.default_rng(4).choice([0.0, 1.0, 3.0], len(X)) if weighted else np.ones(len(X))
    run = _fit(X, y, gf.grid(l2=[0.0, 10.0]), epochs=4, sample_weight=w if weighted else None)
    statistics = diagnose(run).statistics
    loss = gf.loss.get(kind)
    for m in range(6):
        at = divmod(m, 3)
        rows = run._folds.train_indices(at[1])
        A, b, v = X[rows].astype(float), y[rows].astype(float), w[rows]
        z = A @ run.coef[m].astype(float) + run.intercept[m]

        def gradient(z: Any) -> float:
            return float(np.linalg.norm(A.T @ (v * loss.gradient(b, z)) / v.sum()))  # noqa: B023

        L, L0 = loss(b, z, v), loss(b, np.zeros(len(b)), v)
        share = (v * b).sum() / v.sum()
        Lc = (
            -(share * np.log(share) + (1 - share) * np.log(1 - share))
            if kind == "log_loss"
            else loss(b, np.full(len(b), share), v)
        )
        H, history = run.held_out_loss[at], run.history[:, at[0], at[1]]
        gap, rise = (H - L) / Lc, (H - history.min()) / Lc
        tolerance = 1e-4 if dtype == np.float32 else 1e-8
        np.testing.assert_allclose(statistics["underfitting"][at], 1 - L / Lc, atol=tolerance)
        np.testing.assert_allclose(statistics["overfitting"][at], max(gap / 0.2, min(gap, rise) / 0.05), atol=1e-3)
        assert np.isnan(statistics["diverging"][at]) == (H < history[0])
        if not H < history[0]:
            np.testing.assert_allclose(statistics["diverging"][at], L / L0, rtol=tolerance)
        if gradient(z) >= 0.5 * gradient(np.zeros(len(b))):
            np.testing.assert_allclose(statistics["vanishing gradient"][at], gradient(z) / L, rtol=1e-3)
        else:
            assert np.isnan(statistics["vanishing gradient"][at])


def test_the_gradient_of_standardized_weights() -> None:
    """On data that is standardised already, up to shift and scale: the same norms as on the data itself."""
    X, y = _classification(600, 4, scale=1.0)
    folds = gf.index.kfold(600, 2)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    shifted = X * [1e-3, 1.0, 50.0, 1e4] + [0.0, 3.0, -2.0, 5e4]
    plain = _fit(Z, y, folds=folds, epochs=1, learning_rate=1e-4)
    scaled = _fit(shifted, y, folds=folds, epochs=1, learning_rate=1e-4, standardize=True)
    a, b = (diagnose(run).statistics["vanishing gradient"] for run in (plain, scaled))
    np.testing.assert_allclose(a, b, rtol=0.1)
    assert np.isfinite(a).all()


def test_a_constant_feature_when_standardizing() -> None:
    X, y = _classification()
    X[:, 2] = 3.7
    assert len(diagnose(_fit(X, y, standardize=True))) == 0


def test_held_out_rows_are_not_read_as_training_rows() -> None:
    X, y = _classification(300)
    train, score = np.arange(200), np.arange(200, 300)
    run = _fit(X, y, folds=[(train, score)])
    statistics = diagnose(run).statistics
    run._data = (np.where(np.arange(300)[:, None] < 200, X, np.nan), *run._data[1:])
    again = diagnose(run).statistics
    for name in statistics:
        np.testing.assert_array_equal(statistics[name], again[name])


# -- the report -------------------------------------------------------------------------------------------------------


def test_report() -> None:
    run = _fit(*_regression(), gf.grid(learning_rate=[0.01, 1e20], l2=[1e-4, 1e3]), solver="sgd", epochs=100)
    report = diagnose(run)
    assert len(report) == sum(report.found(name).sum() for name in diagnostics.FINDINGS) == len(list(report))
    assert report[0].finding == "diverging" or report[0].candidate in (0, 1)
    keys = [(r.candidate, r.split, diagnostics.FINDINGS.index(r.finding)) for r in report]
    assert keys == sorted(keys)
    assert "diverging" in repr(report) and "inf > 1.1" in repr(report)
    pytest.importorskip("pandas")
    frame = report.to_frame()
    assert list(frame) == ["candidate", "split", "finding", "statistic", "threshold"] and len(frame) == len(report)
    assert len(diagnose(_fit(*_classification())).to_frame()) == 0
    with pytest.raises(ValueError, match="^finding: got 'overfit', wanted one of .*did you mean 'overfitting'"):
        report.found("overfit")


def test_a_long_report_is_cut() -> None:
    X, y = _classification()
    report = diagnose(_fit(X, y, gf.grid(l2=np.logspace(3, 5, 10)), epochs=3))
    assert len(report) >= 30 and repr(report).endswith(f"and {len(report) - 20} more (to_frame() has them all)")


def test_report_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    report = diagnose(_fit(*_classification(200), epochs=2))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'gradfold\[cli\]'"):
        report.to_frame()


def test_where_there_is_nothing_to_look_at(tmp_path: Any) -> None:
    X, y = _classification(200)
    run = _fit(X, y, epochs=1)
    run.save(tmp_path / "run.npz")
    with pytest.raises(RuntimeError, match="does not hold"):
        diagnose(gf.load(tmp_path / "run.npz"))
    with pytest.raises(RuntimeError, match="no splits"):
        diagnose(gf.fit(X, y, epochs=1))


def test_a_split_that_scores_no_row() -> None:
    X, y = _classification(200)
    rows = np.arange(200)
    report = diagnose(_fit(X, y, folds=[(rows[:150], rows[150:]), (rows, rows[:0])]))
    assert np.isnan(report.statistics["overfitting"][0, 1]) and np.isfinite(report.statistics["overfitting"][0, 0])
    assert np.isfinite(report.statistics["underfitting"]).all()


def test_missing_cells_are_filled_split_by_split() -> None:
    """As fit leaves it with missing="mean": X with NaN, and a value for each split and column."""
    X, y = _classification(300, 4)
    run = _fit(X, y, gf.grid(l2=[0.01, 1.0]))
    holes = np.random.default_rng(2).random(X.shape) < 0.1
    fill = np.random.default_rng(3).standard_normal((3, 4))
    expected = []
    for split in range(3):
        run._data = (np.where(holes, fill[split], X), *run._data[1:])
        expected.append({name: values[:, split] for name, values in diagnose(run).statistics.items()})
    run._data = (np.where(holes, np.nan, X), *run._data[1:])
    run._split_fill = fill
    for name, values in diagnose(run).statistics.items():
        np.testing.assert_array_equal(values, np.stack([own[name] for own in expected], axis=1))


def test_validation_data_is_not_training_data() -> None:
    """The statistics are of the rows that were trained on, whoever scores them."""
    X, y = _classification(300)
    run = gf.fit(X[:200], y[:200], validation_data=(X[200:], y[200:]), epochs=3, batch_size=200)
    rows = np.arange(300)
    both = _fit(X, y, folds=[(rows[:200], rows[200:])], epochs=3, batch_size=300)
    for name, values in diagnose(run).statistics.items():
        np.testing.assert_allclose(values, diagnose(both).statistics[name], rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_best_constant_of_the_multinomial_loss(weighted: bool) -> None:
    rng = np.random.default_rng(5)
    y = rng.integers(0, 4, 90).astype(np.float32)
    w = rng.choice([0.0, 1.0, 2.5], 90).astype(np.float32)
    folds = gf.index.kfold(90, 3)
    got = diagnostics._constant_loss(("multinomial", ()), y.dtype, y, w if weighted else None, folds, 1)
    for split in range(3):
        rows = folds.train_indices(split)
        v = w[rows].astype(float) if weighted else np.ones(len(rows))
        share = np.array([v[y[rows] == c].sum() for c in range(4)]) / v.sum()
        np.testing.assert_allclose(got[split], sum(v * -np.log(share[y[rows].astype(int)])) / v.sum(), rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_variance_inflation_is_that_of_a_regression_on_the_other_columns(weighted: bool) -> None:
    rng = np.random.default_rng(5)
    X = rng.standard_normal((300, 4)) @ rng.standard_normal((4, 4)) + [0, 5, -3, 1e4]
    weight = rng.integers(0, 4, 300).astype(float) if weighted else np.ones(300)
    found = diagnostics.collinearity(X, weight if weighted else None)
    root = np.sqrt(weight)[:, None]
    for j in range(4):
        others = np.column_stack([np.delete(X, j, axis=1), np.ones(300)])
        rest = root[:, 0] * (X[:, j] - others @ np.linalg.lstsq(others * root, X[:, j] * root[:, 0], rcond=None)[0])
        centred = root[:, 0] * (X[:, j] - np.average(X[:, j], weights=weight))
        np.testing.assert_allclose(found.variance_inflation[j], (centred @ centred) / (rest @ rest), rtol=1e-6)
    Z = root * (X - np.average(X, axis=0, weights=weight))
    Z = Z / np.linalg.norm(Z, axis=0)
    assert found.rank == 4
    np.testing.assert_allclose(found.condition, np.linalg.cond(Z), rtol=1e-6)


def test_columns_that_are_sums_of_others() -> None:
    rng = np.random.default_rng(6)
    X = rng.standard_normal((200, 3))
    X = np.column_stack([X, X[:, 0] - 2 * X[:, 1], np.full(200, 7.0)])
    found = diagnostics.collinearity(X)
    assert np.isinf(found.variance_inflation[[0, 1, 3]]).all() and np.isnan(found.variance_inflation[4])
    assert 1 <= found.variance_inflation[2] < 1.1 and found.rank == 3 and np.isinf(found.condition)
    one = diagnostics.collinearity(X[:, :1])
    np.testing.assert_allclose(one.variance_inflation, [1.0])
    assert one.rank == 1 and one.condition == 1.0
    nothing = diagnostics.collinearity(np.ones((5, 2)))
    assert np.isnan(nothing.variance_inflation).all() and nothing.rank == 0
    with pytest.raises(ValueError, match="^X: "):
        diagnostics.collinearity(np.array([[1.0], [np.nan]]))
    with pytest.raises(ValueError, match="^sample_weight: got no weight"):
        diagnostics.collinearity(X, np.zeros(200))
