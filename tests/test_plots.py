"""Pictures of a run: what is drawn, how much of it, and where it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradfold as gf
from gradfold import _plots
from gradfold._plots import plot

figure = pytest.importorskip("matplotlib.figure")


def _axes() -> Any:
    return figure.Figure().subplots()


def _drawn(ax: Any) -> None:
    """Render it: some errors of matplotlib come only then."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(ax.figure).draw()


def _problem(n: int = 300, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4))
    return X, (X @ rng.standard_normal(4) + rng.standard_normal(n) > 0).astype(np.int64)


@pytest.fixture(scope="module")
def run() -> gf.Run:
    X, y = _problem()
    return gf.fit(X, y, gf.grid(l2=np.logspace(-4, 2, 7)), folds=4, epochs=6, standardize=True)


@pytest.mark.parametrize("kind", _plots.KINDS)
def test_every_kind_is_drawn(run: gf.Run, kind: str) -> None:
    ax = _axes()
    assert plot(run, kind, ax) is ax
    assert ax.get_xlabel() or kind == "folds"
    assert ax.get_ylabel()
    _drawn(ax)


def test_without_axes_there_is_a_figure(run: gf.Run) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    ax = plot(run, "learning")
    assert len(plt.get_fignums()) == len(before) + 1
    plt.close(ax.figure)
    with pytest.raises(RuntimeError):
        plot(gf.fit(*_regression(), folds=2, epochs=1), "roc")
    assert plt.get_fignums() == before  # no empty figure is left behind


def _regression() -> tuple[Any, Any]:
    X, _ = _problem()
    return X, X[:, 0] + 0.3


# -- validation -------------------------------------------------------------------------------------------------------


def test_validation(run: gf.Run) -> None:
    ax = plot(run, ax=_axes())
    assert ax.get_xlabel() == "l2" and ax.get_xscale() == "log" and ax.get_legend() is None
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), run.mean_held_out_loss)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), run.candidates.column("l2"))
    assert ax.lines[1].get_xdata()[0] == run.best_params["l2"]


def test_validation_has_a_line_for_each_combination_of_the_others() -> None:
    X, y = _problem()
    table = gf.grid(schedule=["constant", "cosine"], l2=[1.0, 0.1, 0.01, 0.001], learning_rate=[0.1, 0.01])
    run = gf.fit(X, y, table, folds=2, epochs=1)
    ax = plot(run, "validation", _axes())
    assert ax.get_xlabel() == "l2" and len(ax.lines) == 5
    assert [text.get_text() for text in ax.get_legend().get_texts()][:2] == [
        "schedule=constant, learning_rate=0.1",
        "schedule=constant, learning_rate=0.01",
    ]
    own = [i for i, row in enumerate(table) if row["schedule"] == "constant" and row["learning_rate"] == 0.01]
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), [0.001, 0.01, 0.1, 1.0])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), run.mean_held_out_loss[own][::-1])
    _drawn(ax)
    some = plot(run, "validation", _axes(), candidates=own)
    assert len(some.lines) == 2


def test_validation_of_too_many_lines_or_no_number_is_by_index() -> None:
    X, y = _problem(80)
    table = gf.grid(l1=np.linspace(0, 1, 3), l2=np.linspace(1, 2, 4), learning_rate=[0.1, 0.2, 0.3])
    for some in (table, gf.grid(schedule=["constant", "cosine"])):
        run = gf.fit(X, y, some, folds=2, epochs=1)
        ax = plot(run, ax=_axes())
        assert ax.get_xlabel() == "candidate" and len(ax.lines) == 2
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), run.mean_held_out_loss)


# -- learning ---------------------------------------------------------------------------------------------------------


def test_learning_shows_the_five_best(run: gf.Run) -> None:
    ax = plot(run, "learning", _axes())
    order = np.argsort(run.mean_held_out_loss)[:5]
    assert len(ax.lines) == len(ax.collections) == 5
    for line, candidate in zip(ax.lines, order):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 7))
        np.testing.assert_allclose(line.get_ydata(), run.history[:, candidate].mean(axis=1))
    assert ax.get_legend().get_texts()[0].get_text() == f"l2={run.best_params['l2']:.4g}"
    assert len(plot(run, "learning", _axes(), candidates=range(7)).lines) == 7
    assert len(plot(run, "learning", _axes(), candidates=3).lines) == 1


def test_a_learning_curve_ends_where_a_model_was_scored_last(run: gf.Run) -> None:
    history = run.history
    try:
        run.history = history.copy()
        run.history[3:, 2, 1] = np.nan
        values = plot(run, "learning", _axes(), candidates=2).lines[0].get_ydata()
        assert np.isfinite(values[:3]).all() and np.isnan(values[3:]).all()
        run.history = history[:0]
        with pytest.raises(RuntimeError, match="no epoch was completed"):
            plot(run, "learning", _axes())
    finally:
        run.history = history


# -- folds ------------------------------------------------------------------------------------------------------------


def test_folds(run: gf.Run) -> None:
    ax = plot(run, "folds", _axes())
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert len(labels) == 7 and labels[0] == f"l2={run.best_params['l2']:.4g}"
    points = [line for line in ax.lines if line.get_marker() == "o" and line.get_alpha() == 0.6]
    np.testing.assert_array_equal(points[0].get_ydata(), run.held_out_loss[run.best_candidate])
    X, y = _problem(100)
    many = gf.fit(X, y, gf.grid(l2=np.linspace(0, 1, 60)), folds=2, epochs=1)
    assert len(plot(many, "folds", _axes()).get_xticklabels()) == 20
    assert len(plot(many, "folds", _axes(), candidates=range(60)).get_xticklabels()) == 60


def test_diverged_candidates_come_last_and_have_no_box() -> None:
    X, y = _regression()
    with pytest.warns(RuntimeWarning, match="diverged"):
        run = gf.fit(X, y, gf.grid(learning_rate=[1e20, 0.01]), folds=2, solver="sgd", epochs=30)
    for kind in ("folds", "learning", "validation"):
        _drawn(plot(run, kind, _axes()))
    assert len(plot(run, "learning", _axes()).lines) == 1
    grown = plot(run, "learning", _axes(), candidates=[0, 1])
    _drawn(grown)
    assert len(grown.lines) == 2 and grown.get_yscale() == "log"
    assert plot(run, "folds", _axes()).get_xticklabels()[1].get_text() == "learning_rate=1e+20"


# -- ROC and precision-recall -----------------------------------------------------------------------------------------


def _cases() -> Any:
    return st.integers(2, 60).flatmap(
        lambda n: st.tuples(
            st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda v: 0 < sum(v) < len(v)),
            st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), min_size=n, max_size=n),
            st.lists(st.sampled_from([0.25, 1.0, 3.0]), min_size=n, max_size=n),
        )
    )


@given(_cases())
def test_curves_are_scikit_learns(case: Any) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    positive, score, weight = (np.array(v) for v in case)
    x, y, area = _plots.roc_curve(positive, score, weight)
    expected_x, expected_y, _ = metrics.roc_curve(positive, score, sample_weight=weight, drop_intermediate=False)
    np.testing.assert_allclose(x, expected_x, atol=1e-15)
    np.testing.assert_allclose(y, expected_y, atol=1e-15)
    np.testing.assert_allclose(area, metrics.roc_auc_score(positive, score, sample_weight=weight), atol=1e-13)
    recall, precision, average = _plots.precision_recall_curve(positive, score, weight)
    expected_p, expected_r, _ = metrics.precision_recall_curve(positive, score, sample_weight=weight)
    np.testing.assert_allclose(recall[::-1], expected_r[:-1][-len(recall) :], atol=1e-14)
    np.testing.assert_allclose(precision[::-1], expected_p[:-1][-len(recall) :], atol=1e-14)
    expected = metrics.average_precision_score(positive, score, sample_weight=weight)
    np.testing.assert_allclose(average, expected, atol=1e-13)


def test_reading_a_curve() -> None:
    x, y = np.array([0, 0, 0.5, 0.5, 1]), np.array([0, 0.4, 0.4, 0.8, 1])
    np.testing.assert_allclose(_plots.roc_at(x, y, np.array([0, 0.25, 0.5, 0.75, 1])), [0.4, 0.6, 0.8, 0.9, 1])
    recall, precision = np.array([0.2, 0.2, 0.6, 1.0]), np.array([1.0, 0.5, 0.7, 0.4])
    np.testing.assert_array_equal(
        _plots.precision_at(recall, precision, np.array([0, 0.2, 0.3, 0.6, 1])), [1.0, 1.0, 0.7, 0.7, 0.4]
    )


@pytest.mark.parametrize("kind", ["roc", "pr"])
def test_a_curve_for_each_split_and_their_mean(run: gf.Run, kind: str) -> None:
    ax = plot(run, kind, _axes())
    curves = [line for line in ax.lines if len(line.get_xdata()) > 2]
    assert len(curves) == 5  # four splits and the mean
    name = "roc_auc" if kind == "roc" else "average_precision"
    sk = pytest.importorskip("sklearn.metrics")
    X, y = _problem()
    areas = []
    for split in range(4):
        rows = run._folds.score_indices(split)
        m = run.best_candidate * 4 + split
        areas.append(getattr(sk, f"{name}_score")(y[rows], X[rows] @ run.coef[m] + run.intercept[m]))
    assert ax.get_legend().get_texts()[-1].get_text().endswith(f"(area {np.mean(areas):.3f})")
    several = plot(run, kind, _axes(), candidates=[0, 3, 6])
    assert len([line for line in several.lines if len(line.get_xdata()) > 2]) == 3


def test_weights_count_and_splits_of_one_class_are_left_out() -> None:
    X, y = _problem()
    weight = np.random.default_rng(1).choice([0.0, 1.0, 4.0], len(y))
    rows = np.arange(len(y))
    one = rows[y == 1][:20]
    folds = [(rows[150:], rows[:150]), (np.setdiff1d(rows, one), one)]
    run = gf.fit(X, y, folds=folds, epochs=2, sample_weight=weight)
    ax = plot(run, "roc", _axes())
    assert len([line for line in ax.lines if len(line.get_xdata()) > 2]) == 2  # the one split, and the mean
    sk = pytest.importorskip("sklearn.metrics")
    raw = X[:150] @ run.coef[0] + run.intercept[0]
    area = sk.roc_auc_score(y[:150], raw, sample_weight=weight[:150])
    assert f"(area {area:.3f})" in ax.get_legend().get_texts()[-1].get_text()
    only = gf.fit(X, y, folds=[(np.setdiff1d(rows, one), one)], epochs=1)
    with pytest.raises(RuntimeError, match="no split scores rows of two classes"):
        plot(only, "roc", _axes())


@pytest.mark.parametrize("kind", ["roc", "pr"])
def test_where_there_are_no_curves(run: gf.Run, kind: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"curve needs a classifier; this run is a regression \(loss='squared_e"):
        plot(gf.fit(*_regression(), folds=2, epochs=1), kind, _axes())
    run.save(tmp_path / "run.npz")
    loaded = gf.load(tmp_path / "run.npz")
    with pytest.raises(RuntimeError, match="does not hold"):
        plot(loaded, kind, _axes())
    for other in ("validation", "learning", "folds"):
        _drawn(plot(loaded, other, _axes()))


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"kind": "rocc"}, ValueError, "^kind: got 'rocc', wanted one of .*did you mean 'roc'"),
        ({"kind": 3}, TypeError, "^kind: got 3"),
        ({"candidates": [7]}, ValueError, "^candidates: got 7, wanted an integer, at least 0 and at most 6"),
        ({"candidates": -1}, ValueError, "^candidates: got -1"),
        ({"candidates": [0.5]}, TypeError, "^candidates: got 0.5"),
        ({"candidates": "0"}, TypeError, "^candidates: got '0', wanted a list of integers"),
        ({"candidates": []}, ValueError, "^candidates: got an empty list"),
    ],
)
def test_bad_arguments(run: gf.Run, arguments: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        plot(run, ax=_axes(), **arguments)


def test_no_splits() -> None:
    run = gf.fit(*_problem(), epochs=1)
    for kind in _plots.KINDS:
        with pytest.raises(RuntimeError, match="no splits"):
            plot(run, kind, _axes())


def test_no_matplotlib(run: gf.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'gradfold\[cli\]'"):
        plot(run)


# -- more than two classes --------------------------------------------------------------------------------------------


class _ManyClasses:
    """What the curves ask of a run of several outputs."""

    n_splits, n_candidates, ranked, best_candidate, loss, candidates = 2, 1, True, 0, "multinomial", None
    params = [{"l2": 0.1}]
    _split_fill = None

    def __init__(self, n_classes: int, n: int = 400) -> None:
        rng = np.random.default_rng(1)
        self.classes = np.array([f"class {c}" for c in range(n_classes)])
        self.y = rng.integers(0, n_classes, n).astype(float)
        self.raw = rng.standard_normal((2, n, n_classes)) + 2 * np.eye(n_classes)[self.y.astype(int)]
        self.folds = gf.index.kfold(n, 2)
        self.coef = np.zeros((2, n_classes, 3))
        self.diverged = np.zeros(2, bool)

    def _held_out(self) -> Any:
        return None, self.y, None, self.folds

    def held_out_raw_prediction(self, models: list[int]) -> Any:
        return self.raw[models]


@pytest.mark.parametrize("kind", ["roc", "pr"])
def test_one_class_against_the_rest(kind: str) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    run: Any = _ManyClasses(3)
    ax = plot(run, kind, _axes())
    assert len([line for line in ax.lines if len(line.get_xdata()) > 2]) == 3
    score = sk.roc_auc_score if kind == "roc" else sk.average_precision_score
    for output, text in enumerate(ax.get_legend().get_texts()):
        areas = []
        for split in range(2):
            rows = run.folds.score_indices(split)
            areas.append(score(run.y[rows] == output, run.raw[split, rows, output]))
        assert text.get_text() == f"class {output} (area {np.mean(areas):.3f})"
    with pytest.raises(ValueError, match="^candidates: got 2 for a run of 3 classes, wanted one"):
        plot(run, kind, _axes(), candidates=[0, 0])


def test_many_classes_share_one_curve() -> None:
    ax = plot(_ManyClasses(12), "roc", _axes())  # type: ignore[arg-type]
    assert len([line for line in ax.lines if len(line.get_xdata()) > 2]) == 1
    assert ax.get_legend().get_texts()[0].get_text().startswith("mean of 12 classes (area 0.9")
