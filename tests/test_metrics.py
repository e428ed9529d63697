"""Metrics: scikit-learn's where it has them, a plain reference where not; held-out metrics of a run; thresholds; bad input."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gradfold as gf
from gradfold import _core, _held_out, metrics
from reference import metrics as reference

sk = pytest.importorskip("sklearn.metrics")

REL = 1e-12
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def quiet_sklearn():
    """scikit-learn warns of the same things that gradfold answers in silence with 0 or NaN, as docs/metrics.md says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def close(actual, expected, **options):
    np.testing.assert_allclose(actual, expected, **{"rtol": REL, "atol": 1e-14, **options})


def problem(seed, n, m, n_outputs=1, ties=True, weighted=True, dtype=np.float64, absent=False):
    """Raw predictions (n, n_outputs, m), labels, weights; with ties scores are a few multiples of 1/4."""
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal((n, n_outputs, m)) * 2
    if ties:
        raw = np.round(raw * 2) / 4
    labels = rng.integers(0, max(n_outputs, 2), n)
    if absent:
        labels = np.where(labels == labels.max(), 0, labels)
    weight = (rng.random(n) * 3) if weighted else None
    return raw.astype(dtype), labels, weight


# ---- binary ---------------------------------------------------------------------------------------------------------


def expit(z):
    z = z.astype(np.float64)
    return np.where(z > 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))


def proba(z):
    return np.stack([expit(-z), expit(z)], axis=1)


def binary_expected(y, z, w):
    guess = (z > 0).astype(int)
    out = {
        "log_loss": sk.log_loss(y, proba(z), sample_weight=w, labels=[0, 1]),
        "brier": sk.brier_score_loss(y, proba(z), sample_weight=w, labels=[0, 1]),
        "brier_skill": sk.d2_brier_score(y, proba(z), sample_weight=w, labels=[0, 1]),
        "accuracy": sk.accuracy_score(y, guess, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(y, guess, sample_weight=w),
        "misclassification_rate": sk.zero_one_loss(y, guess, sample_weight=w),
        "f1": sk.f1_score(y, guess, sample_weight=w, zero_division=0),
        "roc_auc": sk.roc_auc_score(y, z, sample_weight=w),
        "average_precision": sk.average_precision_score(y, z, sample_weight=w),
        "g_mean": reference.g_mean(y, guess, np.ones(len(y)) if w is None else w),
    }
    return out


@settings(max_examples=40)
@given(SEEDS, st.integers(2, 60), st.booleans(), st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_binary_metrics_are_scikit_learns(seed, n, ties, weighted, dtype):
    raw, y, w = problem(seed, n, 2, ties=ties, weighted=weighted, dtype=dtype)
    results = {name: metrics.evaluate(name, y, raw[:, 0], loss="log_loss", sample_weight=w) for name in metrics.NAMES
               if name not in metrics.NAMES[:6]}
    for m in range(2):
        z = raw[:, 0, m]
        for name, expected in binary_expected(y, z, w).items():
            close(results[name][m], expected, err_msg=name, rtol=REL if name != "brier_skill" else 1e-11)
        guess = z > 0
        close(results["confusion_matrix"][m], sk.confusion_matrix(y, guess, labels=[0, 1], sample_weight=w))
        if len(set(y)) == 2:  # else scikit-learn divides one rounding error by another
            close(results["mcc"][m], sk.matthews_corrcoef(y, guess, sample_weight=w), atol=1e-13)
        else:
            assert results["mcc"][m] == 0
        top = sk.top_k_accuracy_score(y, z, k=1, sample_weight=w, labels=[0, 1]) if (z < 0).any() else None
        if top is not None:
            close(metrics.evaluate("top_k_accuracy", y, raw[:, 0], loss="hinge", sample_weight=w, k=1)[m], top)
        close(results["top_k_accuracy"][m], 1)


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 40), st.sampled_from(metrics.AVERAGES), st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.booleans())
def test_precision_recall_and_f_beta_of_one_output(seed, n, average, beta, weighted):
    raw, y, w = problem(seed, n, 2, weighted=weighted)
    ones = np.ones(n) if w is None else w
    for m in range(2):
        guess = (raw[:, 0, m] > 0.25).astype(int)
        common = {"average": average, "sample_weight": w, "zero_division": 0}
        if average == "binary":
            common["labels"] = [0, 1]
        expected = {
            "precision": sk.precision_score(y, guess, **common),
            "recall": sk.recall_score(y, guess, **common),
            "f_beta": sk.fbeta_score(y, guess, beta=beta, **common),
            "false_positive_rate": reference.false_positive_rate(y, guess, ones, average),
        }
        for name, value in expected.items():
            found = metrics.evaluate(
                name, y, raw[:, 0], loss="log_loss", sample_weight=w, average=average, beta=beta, threshold=0.25
            )
            close(found[m], value, err_msg=name)


def test_one_class_only():
    """What scikit-learn warns about: no positive, no negative, nothing predicted."""
    z = np.array([[-1.0, 1.0], [-2.0, 0.5], [-0.5, 2.0]])
    for y, auc, precision in (([0, 0, 0], math.nan, 0.0), ([1, 1, 1], math.nan, 1.0)):
        assert np.isnan(sk.roc_auc_score(y, z[:, 0]))
        assert metrics.evaluate("roc_auc", y, z, loss="log_loss").tolist() == pytest.approx([auc] * 2, nan_ok=True)
        assert sk.average_precision_score(y, z[:, 0]) == precision
        assert metrics.evaluate("average_precision", y, z, loss="log_loss").tolist() == [precision] * 2
    for name in ("precision", "recall", "f1", "false_positive_rate", "mcc"):
        assert metrics.evaluate(name, [0, 0, 0], z, loss="log_loss")[0] == 0
    assert metrics.evaluate("balanced_accuracy", [0, 0, 0], z, loss="log_loss").tolist() == [1, 0]
    assert metrics.evaluate("g_mean", [0, 0, 1], z, loss="log_loss").tolist() == [0, 0]
    skill = metrics.evaluate("brier_skill", [0, 0, 0], z, loss="log_loss")
    assert skill.tolist() == [-math.inf, -math.inf]
    assert np.isnan(metrics.evaluate("brier_skill", [1], z[:1], loss="log_loss")).all()


def test_log_loss_is_not_clipped():
    """scikit-learn clips probabilities to 2^-52; a raw prediction has more to say."""
    z = np.array([800.0, -800.0, 50.0, -3.0])[:, None]
    y = [0, 1, 1, 0]
    close(metrics.evaluate("log_loss", y, z, loss="log_loss")[0], reference.log_loss(y, z[:, 0], [1] * 4))
    assert metrics.evaluate("log_loss", y, z, loss="log_loss")[0] > 400


def test_modified_huber_probabilities():
    rng = np.random.default_rng(3)
    z, y, w = rng.standard_normal((40, 3)) * 1.5, rng.integers(0, 2, 40), rng.random(40)
    for m in range(3):
        p = (np.clip(z[:, m], -1, 1) + 1) / 2
        both = np.stack([1 - p, p], axis=1)
        close(metrics.evaluate("log_loss", y, z, loss="modified_huber", sample_weight=w)[m], sk.log_loss(y, both, sample_weight=w))
        close(metrics.evaluate("brier", y, z, loss="modified_huber", sample_weight=w)[m], sk.brier_score_loss(y, p, sample_weight=w))


def test_labels_of_minus_one_are_negatives():
    raw, y, w = problem(1, 30, 3)
    for name in metrics.NAMES[6:]:
        zero_one = metrics.evaluate(name, y, raw[:, 0], loss="log_loss", sample_weight=w)
        assert metrics.evaluate(name, 2 * y - 1, raw[:, 0], loss="log_loss", sample_weight=w).tobytes() == zero_one.tobytes()


def test_threshold_of_each_model():
    raw, y, w = problem(5, 50, 6)
    cuts = np.linspace(-1, 1, 6)
    found = metrics.evaluate("recall", y, raw[:, 0], loss="hinge", sample_weight=w, threshold=cuts)
    for m, cut in enumerate(cuts):
        close(found[m], sk.recall_score(y, raw[:, 0, m] > cut, sample_weight=w))


@settings(max_examples=40)
@given(SEEDS, st.integers(1, 3000), st.booleans(), st.sampled_from([np.float32, np.float64]))
@example(0, 600, True, np.float64)  # above the limit of the radix sort, with ties
@example(1, 2500, False, np.float64)
@example(2, 2500, False, np.float32)
def test_ranking_of_any_size(seed, n, ties, dtype):
    raw, y, w = problem(seed, n, 2, ties=ties, dtype=dtype)
    if ties:
        raw[raw == 0] *= np.where(np.arange((raw == 0).sum()) % 2, -1, 1)  # -0 and +0 are one score
    for m in range(2):
        close(metrics.evaluate("roc_auc", y, raw[:, 0], loss="log_loss", sample_weight=w)[m],
              sk.roc_auc_score(y, raw[:, 0, m], sample_weight=w))
        close(metrics.evaluate("average_precision", y, raw[:, 0], loss="log_loss", sample_weight=w)[m],
              sk.average_precision_score(y, raw[:, 0, m], sample_weight=w))


def test_ranking_of_extreme_scores():
    z = np.array([np.inf, -np.inf, 1e300, -1e300, 5e-324, -5e-324, 0.0, -0.0, 1.0, 1.0])[:, None]
    y = [1, 0, 1, 1, 0, 1, 0, 1, 1, 0]
    rank = np.unique(z[:, 0], return_inverse=True)[1]  # scikit-learn takes no infinity
    close(metrics.evaluate("roc_auc", y, z, loss="log_loss")[0], sk.roc_auc_score(y, rank))
    close(metrics.evaluate("average_precision", y, z, loss="log_loss")[0], sk.average_precision_score(y, rank))


# ---- several classes ------------------------------------------------------------------------------------------------


def softmax(raw):
    """The probabilities that gradfold ranks: equal to SciPy's but for the last bits, which make or break ties."""
    out = np.empty(raw.shape)
    _core.metrics.softmax(raw, out, 1)
    return out


def test_softmax():
    raw, _, _ = problem(0, 20, 3, n_outputs=5, ties=False)
    raw *= 40
    p = softmax(raw)
    for i in range(20):
        for m in range(3):
            np.testing.assert_allclose(p[i, :, m], reference.softmax(raw[i, :, m].tolist()), rtol=1e-14)


@settings(max_examples=40)
@given(SEEDS, st.integers(3, 60), st.integers(3, 6), st.booleans(), st.booleans(), st.booleans())
def test_multiclass_metrics_are_scikit_learns(seed, n, n_classes, ties, weighted, absent):
    raw, y, w = problem(seed, n, 3, n_outputs=n_classes, ties=ties, weighted=weighted, absent=absent)
    ones = np.ones(n) if w is None else w
    labels = np.arange(n_classes)
    results = {name: metrics.evaluate(name, y, raw, loss="multinomial", sample_weight=w, k=2) for name in metrics.NAMES[6:]}
    p = softmax(raw)
    for m in range(3):
        guess = raw[:, :, m].argmax(axis=1)
        expected = {
            "log_loss": sk.log_loss(y, p[:, :, m], sample_weight=w, labels=labels),
            "brier": sk.brier_score_loss(y, p[:, :, m], sample_weight=w, labels=labels),
            "accuracy": sk.accuracy_score(y, guess, sample_weight=w),
            "balanced_accuracy": sk.balanced_accuracy_score(y, guess, sample_weight=w),
            "misclassification_rate": sk.zero_one_loss(y, guess, sample_weight=w),
            "g_mean": reference.g_mean(y, guess, ones),
            "top_k_accuracy": sk.top_k_accuracy_score(y, raw[:, :, m], k=2, sample_weight=w, labels=labels),
            "confusion_matrix": sk.confusion_matrix(y, guess, labels=labels, sample_weight=w),
        }
        if len(set(y)) > 1:
            expected["mcc"] = sk.matthews_corrcoef(y, guess, sample_weight=w)
            expected["brier_skill"] = sk.d2_brier_score(y, p[:, :, m], sample_weight=w, labels=labels)
        for name, value in expected.items():
            close(results[name][m], value, err_msg=name, atol=1e-12 if name in ("mcc", "brier_skill") else 1e-14)


@settings(max_examples=40)
@given(SEEDS, st.integers(3, 50), st.integers(3, 5), st.booleans(), st.booleans())
def test_multiclass_averages(seed, n, n_classes, weighted, absent):
    raw, y, w = problem(seed, n, 2, n_outputs=n_classes, weighted=weighted, absent=absent)
    ones = np.ones(n) if w is None else w
    for average in metrics.AVERAGES[1:]:
        for m in range(2):
            guess = raw[:, :, m].argmax(axis=1)
            common = {"average": average, "sample_weight": w, "zero_division": 0}
            expected = {
                "precision": sk.precision_score(y, guess, **common),
                "recall": sk.recall_score(y, guess, **common),
                "f_beta": sk.fbeta_score(y, guess, beta=2, **common),
                "false_positive_rate": reference.false_positive_rate(y, guess, ones, average),
            }
            for name, value in expected.items():
                found = metrics.evaluate(name, y, raw, loss="multinomial", sample_weight=w, average=average, beta=2)
                close(found[m], value, err_msg=f"{name} {average}")


@settings(max_examples=40)
@given(SEEDS, st.integers(3, 60), st.integers(3, 5), st.booleans(), st.booleans(), st.booleans())
def test_multiclass_rankings(seed, n, n_classes, ties, weighted, absent):
    raw, y, w = problem(seed, n, 2, n_outputs=n_classes, ties=ties, weighted=weighted, absent=absent)
    p, labels = softmax(raw), np.arange(n_classes)
    one_hot = (y[:, None] == labels).astype(int)
    for average in metrics.AVERAGES[1:]:
        auc = metrics.evaluate("roc_auc", y, raw, loss="multinomial", sample_weight=w, average=average)
        precision = metrics.evaluate("average_precision", y, raw, loss="multinomial", sample_weight=w, average=average)
        for m in range(2):
            options = {"average": average, "sample_weight": w}
            close(auc[m], sk.roc_auc_score(y, p[:, :, m], multi_class="ovr", labels=labels, **options))
            close(precision[m], sk.average_precision_score(one_hot, p[:, :, m], **options))
    for average in ("macro", "weighted"):
        found = metrics.evaluate("roc_auc", y, raw, loss="multinomial", average=average, multi_class="ovo")
        for m in range(2):
            if len(set(y)) > 1:
                expected = sk.roc_auc_score(y, p[:, :, m], multi_class="ovo", labels=labels, average=average)
            else:
                expected = math.nan
            close(found[m], expected)


def test_weights_of_one_versus_one():
    """scikit-learn refuses weights there; a weight of 2 is the row twice."""
    raw, y, _ = problem(11, 60, 3, n_outputs=4)
    w = np.random.default_rng(0).integers(0, 4, 60)
    for average in ("macro", "weighted"):
        options = {"loss": "multinomial", "average": average, "multi_class": "ovo"}
        found = metrics.evaluate("roc_auc", y, raw, sample_weight=w, **options)
        close(found, metrics.evaluate("roc_auc", np.repeat(y, w), np.repeat(raw, w, axis=0), **options))


def test_top_k_breaks_ties_as_scikit_learn():
    raw, y, w = problem(4, 200, 2, n_outputs=6)
    raw = np.round(raw)  # nearly everything tied
    for k in range(1, 8):
        found = metrics.evaluate("top_k_accuracy", y, raw, loss="multinomial", sample_weight=w, k=k)
        for m in range(2):
            close(found[m], sk.top_k_accuracy_score(y, raw[:, :, m], k=k, sample_weight=w, labels=np.arange(6)))


# ---- regression -----------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(SEEDS, st.integers(2, 3000), st.booleans(), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_regression_metrics_are_scikit_learns(seed, n, weighted, dtype, constant):
    rng = np.random.default_rng(seed)
    z = (rng.standard_normal((n, 4)) * 3 + 1).astype(dtype)
    y = np.full(n, 0.5) if constant else rng.standard_normal(n)
    y[rng.random(n) < 0.1] = 0.5 if constant else 0  # the guard of mape
    w = rng.integers(1, 16, n) / 4 if weighted else None
    results = {name: metrics.evaluate(name, y, z, loss="squared_error", sample_weight=w) for name in metrics.NAMES[:6]}
    for m in range(4):
        p = z[:, m].astype(np.float64)
        expected = {
            "mse": sk.mean_squared_error(y, p, sample_weight=w),
            "rmse": sk.root_mean_squared_error(y, p, sample_weight=w),
            "mae": sk.mean_absolute_error(y, p, sample_weight=w),
            "mape": sk.mean_absolute_percentage_error(y, p, sample_weight=w),
            "r2": sk.r2_score(y, p, sample_weight=w),
        }
        for name, value in expected.items():
            close(results[name][m], value, err_msg=name)
        close(results["bias"][m], reference.bias(y, p, np.ones(n) if w is None else w), atol=1e-13)


def test_r2_at_the_edges():
    z = np.array([[0.1, 2.0], [0.1, 3.0], [0.1, 4.0]])
    w = [0.3, 0.1, 0.7]  # the weighted mean of 0.1 three times is not 0.1: the target is constant all the same
    assert metrics.evaluate("r2", [0.1] * 3, z, loss="huber", sample_weight=w).tolist() == [1, 0]
    assert np.isnan(metrics.evaluate("r2", [1.0], z[:1], loss="squared_error")).all()
    assert np.isnan(sk.r2_score([1.0], [2.0]))


# ---- weights, NaN, threads, blocks ----------------------------------------------------------------------------------


def every(y, raw, loss, **options):
    kinds = slice(0, 6) if loss in metrics.REGRESSION else slice(6, None)
    return {n: metrics.evaluate(n, y, raw, loss=loss, **options).tobytes() for n in metrics.NAMES[kinds]}


@pytest.mark.parametrize(("loss", "n_outputs"), [("squared_error", 1), ("log_loss", 1), ("multinomial", 4)])
def test_a_row_of_weight_zero_is_no_row(loss, n_outputs):
    raw, y, w = problem(8, 40, 3, n_outputs=n_outputs)
    w[::3] = 0
    poisoned = raw.copy()
    poisoned[::3] = np.nan
    kept = w > 0
    assert every(y, poisoned, loss, sample_weight=w) == every(y[kept], raw[kept], loss, sample_weight=w[kept])
    nothing = every(y, raw, loss, sample_weight=np.zeros(40))
    assert all(np.isnan(np.frombuffer(value)).all() for value in nothing.values())


@pytest.mark.parametrize(("loss", "n_outputs"), [("squared_error", 1), ("log_loss", 1), ("multinomial", 3)])
@pytest.mark.parametrize("output", [0, -1])
def test_a_nan_is_seen_in_its_own_model_only(loss, n_outputs, output):
    raw, y, w = problem(9, 700, 5, n_outputs=n_outputs)
    clean = {n: np.frombuffer(v) for n, v in every(y, raw, loss, sample_weight=w).items()}
    raw[17, output, 2] = np.nan
    for name, value in every(y, raw, loss, sample_weight=w).items():
        found, before = np.frombuffer(value).reshape(5, -1), clean[name].reshape(5, -1)
        assert np.isnan(found[2]).all(), name
        assert np.delete(found, 2, axis=0).tobytes() == np.delete(before, 2, axis=0).tobytes(), name


@pytest.mark.parametrize(("loss", "n_outputs"), [("squared_error", 1), ("log_loss", 1), ("multinomial", 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neither_threads_nor_models_beside_nor_layout_matter(loss, n_outputs, dtype, monkeypatch):
    raw, y, w = problem(10, 2300, 71, n_outputs=n_outputs, ties=False, dtype=dtype)
    one = every(y, raw, loss, sample_weight=w, n_threads=1)
    assert every(y, raw, loss, sample_weight=w, n_threads=5) == one
    assert every(y, np.asfortranarray(raw), loss, sample_weight=w) == one
    reversed_ = every(y, raw[:, :, ::-1], loss, sample_weight=w)
    for name, value in one.items():
        mine = np.frombuffer(value).reshape(71, -1)
        assert np.frombuffer(reversed_[name]).reshape(71, -1)[::-1].tobytes() == mine.tobytes(), name
        alone = metrics.evaluate(name, y, raw[:, :, 40:41], loss=loss, sample_weight=w)
        assert alone.tobytes() == mine[40].tobytes(), name
    monkeypatch.setattr(metrics, "_BLOCK_BYTES", 1 << 20)
    assert every(y, raw, loss, sample_weight=w) == one


def test_levels_do_not_matter(each_level):
    raw, y, w = problem(10, 300, 4)
    assert every(y, raw, "log_loss", sample_weight=w) == LEVELS.setdefault("log_loss", every(y, raw, "log_loss", sample_weight=w))


LEVELS: dict = {}


# ---- scorings -------------------------------------------------------------------------------------------------------


def test_scorings_are_scikit_learns():
    """Every name that scikit-learn knows too gives the score of its scorer."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((120, 4))

    class Linear:
        """What a scorer needs of a fitted estimator."""

        def __init__(self, kind, n_outputs):
            self.kind, self.raw = kind, X @ rng.standard_normal((4, n_outputs)) + 0.1
            self._estimator_type = "regressor" if kind == "squared_error" else "classifier"
            self.classes_ = np.arange(max(n_outputs, 2))

        def __sklearn_tags__(self):
            from sklearn.base import BaseEstimator

            tags = BaseEstimator().__sklearn_tags__()
            tags.estimator_type = self._estimator_type
            return tags

        def fit(self, X, y):
            return self

        def predict(self, X):
            if self.kind == "squared_error":
                return self.raw[:, 0]
            return self.raw.argmax(axis=1) if self.raw.shape[1] > 1 else (self.raw[:, 0] > 0).astype(int)

        def predict_proba(self, X):
            return softmax(self.raw[:, :, None])[:, :, 0] if self.raw.shape[1] > 1 else proba(self.raw[:, 0])

        def decision_function(self, X):
            return self.raw if self.raw.shape[1] > 1 else self.raw[:, 0]

    checked = set()
    names = set(metrics.SCORINGS) & set(sk.get_scorer_names())
    for kind, n_outputs in (("squared_error", 1), ("log_loss", 1), ("multinomial", 4)):
        model = Linear(kind, n_outputs)
        y = rng.integers(0, max(n_outputs, 2), 120) if kind != "squared_error" else rng.standard_normal(120)
        for name in sorted(names):
            metric, sign, options = metrics.SCORINGS[name]
            try:
                found = metrics.evaluate(
                    metric, y, model.raw[:, :, None], loss=kind, average=options.average, multi_class=options.multi_class
                )
            except ValueError:
                continue
            if kind == "multinomial" and name in ("roc_auc", "average_precision"):
                continue  # scikit-learn's scorers of these names are for two classes
            close(sign * found[0], sk.get_scorer(name)(model, X, y), err_msg=f"{name} {kind}")
            checked.add(name)
    assert checked == names and len(names) > 25


# ---- a run ----------------------------------------------------------------------------------------------------------


def fitted(weighted=True, dtype=np.float64, **options):
    rng = np.random.default_rng(6)
    X = rng.standard_normal((400, 6)).astype(dtype)
    y = (X[:, 0] - X[:, 1] + rng.standard_normal(400) > 0).astype(int)
    w = rng.integers(0, 4, 400).astype(float) if weighted else None
    return gf.fit(X, y, gf.grid(l2=[0.01, 0.1, 1.0]), folds=4, epochs=2, sample_weight=w, refit=False, **options), X, y, w


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_metrics_of_a_run(dtype, monkeypatch):
    run, X, y, w = fitted(dtype=dtype)
    raw = run.held_out_raw_prediction()
    folds = run._held_out()[3]
    for name in metrics.NAMES[6:]:
        found = run.metric(name)
        assert found.shape[:2] == (3, 4)
        for c in range(3):
            for s in range(4):
                rows = folds.score_indices(s)
                alone = metrics.evaluate(name, y[rows], raw[4 * c + s, rows][:, None], loss="log_loss", sample_weight=w[rows])
                assert found[c, s].tobytes() == alone.tobytes(), name
        monkeypatch.setattr(metrics, "_BLOCK_BYTES", 1)  # one model at a time
        assert run.metric(name, n_threads=3).tobytes() == found.tobytes()
        monkeypatch.undo()
    assert run.scores("roc_auc").tobytes() == run.metric("roc_auc").tobytes()
    assert run.scores("neg_log_loss").tobytes() == (-run.metric("log_loss")).tobytes()
    close(run.metric("log_loss"), run.held_out_loss, rtol=1e-12 if dtype == np.float64 else 1e-5)


def test_row_chunks_of_a_run_follow_x_alone(monkeypatch):
    run, *_ = fitted()
    before = run.metric("accuracy").tobytes(), run.metric("roc_auc").tobytes(), run.calibrate().threshold.tobytes()
    monkeypatch.setattr(_held_out, "_CHUNK_BYTES", 1000)
    assert (run.metric("accuracy").tobytes(), run.metric("roc_auc").tobytes(), run.calibrate().threshold.tobytes()) == before
    assert list(metrics.row_chunks(5000, 8, 8 * 2500)) == [(0, 2048), (2048, 4096), (4096, 5000)]
    assert list(metrics.row_chunks(5, 100, 250)) == [(0, 2), (2, 4), (4, 5)]


def test_metrics_of_a_multinomial_run():
    """A run of several outputs, put together by hand: coef (n_models, n_outputs, n_features)."""
    run, X, y, w = fitted()
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 3, 400).astype(np.float64)
    run.loss, run.coef, run.intercept = "multinomial", rng.standard_normal((12, 3, 6)), rng.standard_normal((12, 3))
    run._data = (X, codes, w)
    folds = run._held_out()[3]
    for name in metrics.NAMES[6:]:
        found = run.metric(name)
        for c, s in ((0, 0), (2, 3)):
            rows = folds.score_indices(s)
            raw = X[rows] @ run.coef[4 * c + s].T + run.intercept[4 * c + s]
            alone = metrics.evaluate(name, codes[rows], raw[:, :, None], loss="multinomial", sample_weight=w[rows])[0]
            close(found[c, s], alone, err_msg=name)
    assert run.metric("confusion_matrix").shape == (3, 4, 3, 3)
    assert run.scores("f1_macro").tobytes() == run.metric("f1", average="macro").tobytes()
    with pytest.raises(ValueError, match="scoring: got 'f1' for 3 classes, wanted f1_macro, f1_micro, f1_weighted"):
        run.scores("f1")
    with pytest.raises(RuntimeError, match="calibrate needs a binary classifier"):
        run.calibrate()
    run._data = (X, codes + 1, w)
    with pytest.raises(ValueError, match="y: got 3.0, wanted class codes, integers of 0 to 2"):
        run.metric("accuracy")


def test_a_run_with_a_diverged_model_and_an_unscored_split():
    run, X, y, w = fitted()
    run.diverged_epoch = np.where(np.arange(12) == 5, 1, -1)
    weight = w.copy()
    weight[run._folds.score_indices(2)] = 0
    run._data = (*run._data[:2], weight)
    for found in (run.metric("roc_auc"), run.scores("accuracy"), *run.calibrate()):
        expected = np.zeros((3, 4), bool)
        expected[:, 2] = expected[1, 1] = True
        assert (np.isnan(found) == expected).all()


def test_a_run_without_its_data(tmp_path):
    run, *_ = fitted()
    run.save(tmp_path / "run.npz")
    loaded = gf.load(tmp_path / "run.npz")
    for call in (lambda: loaded.metric("accuracy"), lambda: loaded.scores("f1"), loaded.calibrate):
        with pytest.raises(RuntimeError, match="does not hold"):
            call()


_MEMORY = """
import resource, numpy as np, gradfold as gf
from gradfold import metrics
rng = np.random.default_rng(0)
n, m = 20_000, 10_000
X = rng.standard_normal((n, 8), dtype=np.float32)
y = (X[:, 0] + rng.standard_normal(n) > 0).astype(int)
run = gf.fit(X, y, gf.grid(l2=[0.1] * 2), folds=gf.index.holdout(n, 0.5), epochs=1, refit=False)
run._params, run.coef = run._params[:1] * m, rng.standard_normal((m, 8), dtype=np.float32)
run.intercept, run.diverged_epoch = np.zeros(m, np.float32), np.full(m, -1)
run.held_out_loss = np.zeros((m, 1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in ("accuracy", "roc_auc"):
    assert run.metric(name, n_threads=2).shape == (m, 1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_ten_thousand_models_in_bounded_memory():
    """10,000 scored rows x 10,000 models would be 400 MB of float32; a block of models takes 128 MiB."""
    done = subprocess.run([sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 256 * 1024  # KiB


def test_an_interrupt_ends_a_long_metric():
    raw, y = np.random.default_rng(0).standard_normal((20_000, 500)), np.arange(20_000) % 2

    def ring(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        with pytest.raises(TimeoutError):
            for _ in range(100):
                metrics.evaluate("roc_auc", y, raw, loss="log_loss", n_threads=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_the_gil_is_released():
    raw, y = np.random.default_rng(0).standard_normal((20_000, 1_000)), np.arange(20_000) % 2
    ticks, stop = [0], threading.Event()

    def count():
        while not stop.wait(0.001):
            ticks[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        metrics.evaluate("roc_auc", y, raw, loss="log_loss", n_threads=1)
    finally:
        stop.set()
        thread.join()
    assert ticks[0] > 3


# ---- thresholds -----------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 30), st.booleans(), st.sampled_from(metrics.CRITERIA), st.sampled_from([0.0, 0.3, 0.8, 1.0]),
       st.sampled_from([np.float32, np.float64]), st.booleans())
def test_calibrate_finds_the_best_threshold(seed, n, ties, by, target, dtype, weighted):
    raw, y, w = problem(seed, n, 4, ties=ties, weighted=weighted, dtype=dtype)
    z, ones = raw[:, 0], np.ones(n) if w is None else w
    goal = target if "_at_" in by else None
    found = metrics.calibrate(y, z, by=by, target=goal, beta=2.0, sample_weight=w)
    assert found.threshold.shape == found.value.shape == (4,)
    for m in range(4):
        close(found.value[m], reference.calibrate(y, z[:, m], ones, by, target, 2.0))
        if np.isnan(found.value[m]):
            assert np.isnan(found.threshold[m])
            continue
        # The value is what the threshold gives, when it is used as it is returned.
        options = {"loss": "log_loss", "sample_weight": w, "threshold": found.threshold, "beta": 2.0}
        name = {"precision_at_recall": "precision", "recall_at_precision": "recall"}.get(by, by)
        close(metrics.evaluate(name, y, z, **options)[m], found.value[m])
        if by == "precision_at_recall":
            assert metrics.evaluate("recall", y, z, **options)[m] >= target - 1e-12
        elif by == "recall_at_precision" and found.value[m] > 0:
            assert metrics.evaluate("precision", y, z, **options)[m] >= target - 1e-12
        guess = z[:, m] > dtype(found.threshold[m])  # also as NumPy compares it with float32 scores
        assert (guess == (z[:, m].astype(np.float64) > found.threshold[m])).all()


def test_thresholds_lie_between_scores():
    z = np.array([[3.0], [1.0], [1.0], [-2.0]])
    assert metrics.calibrate([1, 0, 0, 0], z).threshold.tolist() == [2.0]
    assert metrics.calibrate([1, 1, 1, 0], z).threshold.tolist() == [-0.5]
    assert metrics.calibrate([1, 1, 1, 1], z).threshold.tolist() == [-np.inf]
    assert metrics.calibrate([0, 0, 0, 0], z).threshold.tolist() == [np.inf]
    assert metrics.calibrate([0, 0, 0, 1], z, by="recall_at_precision", target=0.9) == ([np.inf], [0.0])
    one = np.nextafter(np.float32(1), np.float32(2))
    found = metrics.calibrate([0, 1], np.array([[1.0], [one]], np.float32))
    assert found.threshold.tolist() == [1.0] and found.value.tolist() == [1.0]  # no number lies between the two
    high = np.array([[1.7e308], [-1.7e308]])
    assert metrics.calibrate([1, 0], high).threshold.tolist() == [0.0]


def test_calibrated_run():
    run, X, y, w = fitted()
    for by, target in (("accuracy", None), ("f_beta", None), ("precision_at_recall", 0.7), ("recall_at_precision", 0.6)):
        found = run.calibrate(by, target=target)
        assert found.threshold.shape == found.value.shape == (3, 4)
        name = {"precision_at_recall": "precision", "recall_at_precision": "recall"}.get(by, by)
        close(run.metric(name, threshold=found.threshold), found.value)
        assert run.calibrate(by, target=target, n_threads=3).threshold.tobytes() == found.threshold.tobytes()
    assert (run.calibrate().value >= run.metric("accuracy")).all()


# ---- bad input ------------------------------------------------------------------------------------------------------

Z, Y = np.zeros((4, 2)), [0, 1, 0, 1]

_BAD = [
    (("acuracy", Y, Z), {}, ValueError, "name: got 'acuracy', wanted .* did you mean 'accuracy'"),
    ((3, Y, Z), {}, TypeError, "name: got 3"),
    (("accuracy", Y, Z), {"loss": "log_los"}, ValueError, "loss: got 'log_los'.* did you mean 'log_loss'"),
    (("accuracy", Y, Z), {"loss": "squared_error"}, ValueError, "name: got 'accuracy', which does not suit loss='squared_error'"),
    (("rmse", Y, Z), {}, ValueError, "name: got 'rmse', which does not suit loss='log_loss'"),
    (("log_loss", Y, Z), {"loss": "hinge"}, ValueError, "does not suit loss='hinge'"),
    (("accuracy", Y[:3], Z), {}, ValueError, r"y: got shape \(3,\), wanted \(4,\)"),
    (("accuracy", [0, 1, np.nan, 1], Z), {}, ValueError, "y: got nan at row 2"),
    (("accuracy", list("abab"), Z), {}, TypeError, "y: got dtype"),
    (("accuracy", Y, Z.astype(int)), {}, TypeError, "raw_prediction: got dtype int64"),
    (("accuracy", Y, Z.astype(np.float16)), {}, TypeError, "raw_prediction: got dtype float16"),
    (("accuracy", Y, Z[:, 0]), {}, ValueError, r"raw_prediction: got shape \(4,\), wanted \(n_rows, n_models\)"),
    (("accuracy", [], Z[:0]), {}, ValueError, "raw_prediction: got shape"),
    (("accuracy", Y, np.zeros((4, 3, 2))), {}, ValueError, "raw_prediction: got shape"),
    (("accuracy", Y, Z), {"loss": "multinomial"}, ValueError, "wanted .n_rows, n_outputs, n_models. for loss='multinomial'"),
    (("accuracy", [0, 3, 1, 2], np.zeros((4, 3, 1))), {"loss": "multinomial"}, ValueError, "y: got 3.0, wanted class codes"),
    (("accuracy", [0, 0.5, 1, 2], np.zeros((4, 3, 1))), {"loss": "multinomial"}, ValueError, "y: got 0.5, wanted class codes"),
    (("accuracy", Y, Z), {"sample_weight": [1, -1, 1, 1]}, ValueError, "sample_weight: got -1.0 at row 1"),
    (("accuracy", Y, Z), {"sample_weight": [1, np.inf, 1, 1]}, ValueError, "sample_weight: got inf"),
    (("accuracy", Y, Z), {"sample_weight": [1]}, ValueError, "sample_weight: got shape"),
    (("recall", Y, Z), {"average": "makro"}, ValueError, "average: got 'makro'.* did you mean 'macro'"),
    (("recall", [0, 1, 2, 1], np.zeros((4, 3, 1))), {"loss": "multinomial", "average": "binary"}, ValueError,
     "average: got 'binary' for 3 classes"),
    (("roc_auc", [0, 1, 2, 1], np.zeros((4, 3, 1))), {"loss": "multinomial", "average": "micro", "multi_class": "ovo"},
     ValueError, "average: got 'micro' with multi_class='ovo'"),
    (("roc_auc", Y, Z), {"multi_class": "one"}, ValueError, "multi_class: got 'one'"),
    (("f_beta", Y, Z), {"beta": -1}, ValueError, "beta: got -1"),
    (("top_k_accuracy", Y, Z), {"k": 0}, ValueError, "k: got 0"),
    (("recall", Y, Z), {"threshold": [1.0, 2.0, 3.0]}, ValueError, r"threshold: got shape \(3,\)"),
    (("recall", Y, Z), {"threshold": "high"}, TypeError, "threshold: got 'high'"),
    (("recall", Y, Z), {"n_threads": 0}, ValueError, "n_threads: got 0"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "text"), _BAD)
def test_bad_input(arguments, options, error, text):
    with pytest.raises(error, match=text):
        metrics.evaluate(*arguments, **{"loss": "log_loss", **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"by": "recal"}, "by: got 'recal'"),
        ({"by": "precision_at_recall"}, "target: got None, wanted the recall to reach"),
        ({"by": "recall_at_precision", "target": 1.5}, "target: got 1.5, wanted a precision of 0 to 1"),
        ({"by": "accuracy", "target": 0.5}, "target: got 0.5, wanted None"),
        ({"by": "f_beta", "beta": -1.0}, "beta: got -1.0"),
    ],
)
def test_bad_calibration(options, text):
    with pytest.raises(ValueError, match=text):
        metrics.calibrate(Y, Z, **options)


def test_the_bindings_guard_their_arrays():
    raw, sums, m = np.zeros((3, 1, 2)), np.zeros((2, 2)), _core.metrics
    codes = np.array([0, 1, 2], np.int32)
    with pytest.raises(ValueError, match="codes: got 2 at row 2, wanted 0 to 1"):
        m.probability_sums(raw, codes, None, 0, sums, 1)
    with pytest.raises(ValueError, match="link"):
        m.probability_sums(raw, codes // 2, None, 1, sums, 1)
    with pytest.raises(TypeError, match="raw: got an array of int64"):
        m.softmax(np.zeros((3, 1, 2), int), np.zeros((3, 1, 2)), 1)
    with pytest.raises(ValueError, match="raw: got shape"):
        m.softmax(np.zeros((3, 2)), np.zeros((3, 1, 2)), 1)
    with pytest.raises(ValueError, match="out"):
        m.softmax(raw, np.zeros((3, 2, 2)), 1)
    positive = np.zeros(3, np.uint8)
    with pytest.raises(ValueError, match="rows: got 3"):
        m.ranking(raw, 0, np.array([0, 1, 3]), positive, None, np.zeros(2), None, 1)
    with pytest.raises(ValueError, match="output: got 1"):
        m.ranking(raw, 1, None, positive, None, np.zeros(2), None, 1)
    with pytest.raises(ValueError, match="weight"):
        m.calibrate(raw, positive, np.zeros(2), 0, 0.0, 1.0, np.zeros(2), np.zeros(2), 1)
