"""What `fit` makes of its data: class weights, missing cells, validation data, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fits
import gradfold as gf
from gradfold import _class_weight, _missing, _ordered

# -- class weights ----------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1), st.booleans())
def test_balanced_is_scikit_learns(n_classes: int, seed: int, weighted: bool) -> None:
    class_weight = pytest.importorskip("sklearn.utils.class_weight")
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, n_classes, 60)
    weight = rng.integers(1, 5, 60) / 4 if weighted else None
    found = _class_weight.balanced(codes, n_classes, weight)
    present = np.unique(codes)
    wanted = class_weight.compute_class_weight("balanced", classes=present, y=codes, sample_weight=weight)
    np.testing.assert_allclose(found[present], wanted, rtol=1e-14)
    assert (np.delete(found, present) == 1).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_are_training_weights_of_each_splits_own(weighted: bool) -> None:
    """As if each split had been trained by itself with these weights; scores keep the sample weights."""
    X, y = fits.labels()
    y = np.where(np.random.default_rng(3).random(300) < 0.7, 0, y)
    rows = np.arange(300)
    folds = [(rows[:170], rows[170:]), (rows[90:], rows[:90]), (rows[::2], rows[1::2])]
    weight = np.random.default_rng(4).integers(0, 4, 300).astype(float) if weighted else None
    keywords: dict[str, Any] = {"epochs": 3, "batch_size": 32}
    run = gf.fit(X, y, folds=folds, class_weight="balanced", sample_weight=weight, **keywords)
    own = np.ones(300) if weight is None else weight
    for s, (train, score) in enumerate(folds):
        total = np.array([own[train][y[train] == k].sum() for k in (0, 1)])
        factor = total.sum() / (2 * total)
        alone = gf.fit(X, y, folds=[folds[s]], sample_weight=own * factor[y], refit=False, **keywords)
        assert alone.coef[0].tobytes() == run.coef[s].tobytes()
        z = X[score] @ run.coef[s] + run.intercept[s]
        loss = gf.loss.get("log_loss")(y[score], z, own[score])
        np.testing.assert_allclose(run.held_out_loss[0, s], loss, rtol=1e-12)
    total = np.array([own[y == k].sum() for k in (0, 1)])
    np.testing.assert_array_equal(run.class_weight, total.sum() / (2 * total))
    refit = gf.fit(X, y, sample_weight=own * run.class_weight[y], **keywords)
    assert fits.refit(refit) == fits.refit(run)


def test_class_weights_by_label() -> None:
    X, y = fits.labels()
    names = np.array(["no", "yes"])[y]
    keywords: dict[str, Any] = {"folds": 3, "epochs": 2}
    run = gf.fit(X, names, class_weight={"yes": 2.5}, **keywords)
    plain = gf.fit(X, names, sample_weight=np.where(y == 1, 2.5, 1.0), **keywords)
    assert run.coef.tobytes() == plain.coef.tobytes() and fits.refit(run) == fits.refit(plain)
    assert (run.held_out_loss != plain.held_out_loss).all()


def test_balanced_never_looks_at_held_out_rows() -> None:
    X, y = fits.labels()
    rows = np.arange(300)
    folds = [(rows[:200], rows[200:])]
    keywords: dict[str, Any] = {"folds": folds, "class_weight": "balanced", "epochs": 2, "refit": False, "loss": "log_loss"}
    run = gf.fit(X, y, **keywords)
    other = y.copy()
    other[200:] = 1
    assert gf.fit(X, other, **keywords).coef.tobytes() == run.coef.tobytes()


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("blanced", ValueError, "class_weight: got 'blanced'.*did you mean 'balanced'"),
        ({2: 1.0}, ValueError, "class_weight: got the label 2, wanted labels of y: 0, 1"),
        ({1: -1.0}, ValueError, r"class_weight\[1\]: got -1.0"),
        ({1: "much"}, TypeError, r"class_weight\[1\]: got 'much'"),
        ([1, 2], TypeError, "class_weight: got an object of type list"),
        ({0: 0.0, 1: 0.0}, ValueError, "no training row of a weight above 0"),
    ],
)
def test_bad_class_weights(value: Any, error: type[Exception], message: str) -> None:
    X, y = fits.labels(60)
    with pytest.raises(error, match=message):
        gf.fit(X, y, folds=3, epochs=1, class_weight=value)
    with pytest.raises(ValueError, match="class_weight: got one with a regression|class_weight: got|class_weight"):
        gf.fit(*fits.numbers(60), class_weight="balanced")


@pytest.mark.parametrize("factor", [1e300, 1e-300])
def test_class_weights_that_leave_the_type_of_X(factor: float) -> None:
    """Infinite weights would make every model diverge, weights of 0 would leave a class out without a word."""
    X, y = fits.labels(60)
    with pytest.raises(ValueError, match=r"class_weight\[1\]: got 1e.300, which is (inf|0.0) in float32"):
        gf.fit(X.astype(np.float32), y, folds=3, epochs=1, class_weight={1: factor})


# -- missing cells ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), max_size=3000))
def test_ordered_total(values: list[float]) -> None:
    total = 0.0
    for a in range(0, len(values), 1024):
        chunk = 0.0
        for v in values[a : a + 1024]:
            chunk += v
        total += chunk
    assert _ordered.total(np.array(values, np.float64)) == total


def _with_holes(X: Any, share: float = 0.1, seed: int = 5) -> Any:
    X = X.copy()
    X[np.random.default_rng(seed).random(X.shape) < share] = np.nan
    return X


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_missing_cells_are_means_of_each_splits_own_training_rows(weighted: bool, dtype: Any) -> None:
    X, y = fits.labels(dtype=dtype)
    holes = _with_holes(X)
    before = holes.copy()
    weight = np.random.default_rng(4).integers(0, 4, 300).astype(float) if weighted else None
    own = np.ones(300) if weight is None else weight
    rows = np.arange(300)
    folds = [(rows[:170], rows[170:]), (rows[90:], rows[:90]), (rows[::2], rows[1::2])]
    table = gf.grid(l2=[0.01, 0.5], batch_size=[32, 64])
    keywords: dict[str, Any] = {"epochs": 3, "standardize": True, "sample_weight": weight}
    run = gf.fit(holes, y, table, folds=folds, missing="mean", **keywords)
    assert holes.tobytes() == before.tobytes()
    scores = run.scores("neg_log_loss")
    raw = run.held_out_raw_prediction()

    def filled(train: Any) -> Any:
        cells = np.ma.masked_invalid(holes[train].astype(np.float64))
        means = np.ma.average(cells, axis=0, weights=np.broadcast_to(own[train][:, None], cells.shape))
        return np.where(np.isnan(holes), np.asarray(means).astype(dtype), holes), np.asarray(means).astype(dtype)

    for s, fold in enumerate(folds):
        whole, means = filled(fold[0])
        # Means to a few ULP here; to the bit in the next test. Weights follow within rounding.
        alone = gf.fit(np.ascontiguousarray(whole), y, table, folds=[fold], refit=False, **keywords)
        tolerance = 1e-4 if dtype == np.float32 else 1e-10
        np.testing.assert_allclose(alone.coef, run.coef[s::3], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(alone.held_out_loss[:, 0], run.held_out_loss[:, s], rtol=tolerance)
        np.testing.assert_allclose(scores[:, s], -run.held_out_loss[:, s], rtol=1e-5)
        z = whole[fold[1]] @ run.coef[s] + run.intercept[s]
        np.testing.assert_allclose(raw[s, fold[1]], z, rtol=10 * tolerance, atol=10 * tolerance)
    whole, means = filled(rows)
    np.testing.assert_allclose(run.fill, means, rtol=1e-5)
    predicted = run.predict_raw(holes)
    expected = np.where(np.isnan(holes), run.fill, holes) @ run.best_coef + run.best_intercept
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-4)


def test_a_model_with_missing_cells_is_the_same_alone_and_poison_stays_out(each_level: str) -> None:
    X, y = fits.labels()
    holes = _with_holes(X)
    rows = np.arange(300)
    folds = [(rows[:170], rows[170:280]), (rows[90:], rows[:90])]
    keywords: dict[str, Any] = {"epochs": 3, "missing": "mean", "loss": "log_loss", "refit": False}
    run = gf.fit(holes, y, gf.grid(l2=[0.01, 0.5]), folds=folds, n_threads=3, **keywords)
    for s in range(2):
        alone = gf.fit(holes, y, l2=0.5, folds=[folds[s]], n_threads=1, **keywords)
        assert fits.model(alone, 0, 0) == fits.model(run, 1, s)
    holes[170:280] = 1e30
    holes[280:] = np.nan
    poisoned = gf.fit(holes, y, l2=0.5, folds=folds[:1], check_finite=False, **keywords)
    assert poisoned.coef[0].tobytes() == run.coef[2].tobytes()


def test_nothing_missing_changes_nothing() -> None:
    X, y = fits.labels()
    plain, run = (gf.fit(X, y, gf.grid(l2=[0.1, 1.0]), epochs=2, missing=m) for m in ("error", "mean"))
    assert run.coef.tobytes() == plain.coef.tobytes() and fits.refit(run) == fits.refit(plain)
    np.testing.assert_allclose(run.fill, X.mean(axis=0), rtol=1e-12)
    assert _missing.Filled(X).X is X


def test_missing_and_balanced_and_stopping_together() -> None:
    X, y = fits.labels()
    holes = _with_holes(X)
    table = gf.grid(l2=np.logspace(-4, 0, 6), solver=["sgd", "adam"])
    keywords: dict[str, Any] = {"epochs": 20, "missing": "mean", "class_weight": "balanced", "folds": 3}
    run = gf.fit(holes, y, table, early_stopping={"patience": 2}, **keywords)
    for c in (0, 5, 11):
        alone = gf.fit(holes, y, early_stopping={"patience": 2}, **keywords, **table[c])
        assert all(fits.model(alone, 0, s) == fits.model(run, c, s) for s in range(3))
    halved = gf.fit(holes, y, table, halving=True, **keywords)
    assert halved.survived.sum() == 1 and halved.best_coef is not None


def test_missing_errors() -> None:
    X, y = fits.labels(60)
    holes = X.copy()
    holes[4, 2] = np.nan
    with pytest.raises(ValueError, match="X: got nan at row 4, column 2"):
        gf.fit(holes, y)
    holes[5, 1] = np.inf
    with pytest.raises(ValueError, match="X: got inf at row 5, column 1"):
        gf.fit(holes, y, missing="mean")
    with pytest.raises(ValueError, match="missing: got 'median'"):
        gf.fit(X, y, missing="median")
    holes = X.copy()
    holes[:, 3] = np.nan
    with pytest.raises(ValueError, match="column 3 with no value in the training rows of the refit"):
        gf.fit(holes, y, missing="mean")
    holes = X.copy()
    holes[:40, 3] = np.nan
    rows = np.arange(60)
    with pytest.raises(ValueError, match="column 3 with no value in the training rows of split 1"):
        gf.fit(holes, y, folds=[(rows[20:], rows[:20]), (rows[:40], rows[40:])], missing="mean", loss="log_loss")


# -- validation data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_data_is_a_hold_out(weighted: bool) -> None:
    """Trained on X and scored on the rest, as by a split of both together with the batches of X alone."""
    X, y = fits.labels()
    names = np.array(["no", "yes"])[y]
    weight = np.random.default_rng(0).integers(1, 4, 300).astype(float) if weighted else None
    own = np.ones(300) if weight is None else weight
    table = gf.grid(l2=[1e-3, 0.5], batch_size=[16, 64])
    held = (X[200:], names[200:]) if weight is None else (X[200:], names[200:], weight[200:])
    keywords: dict[str, Any] = {"epochs": 4, "sample_weight": None if weight is None else weight[:200]}
    run = gf.fit(X[:200], names[:200], table, validation_data=held, **keywords)
    assert run.n_splits == 1 and run.coef.shape == (4, 5)
    for c, row in enumerate(table):
        alone = gf.fit(X[:200], names[:200], **keywords, **row)
        assert alone.best_coef.tobytes() == run.coef[c].tobytes()
        z = X[200:] @ run.coef[c] + run.intercept[c]
        np.testing.assert_allclose(
            run.held_out_loss[c, 0], gf.loss.get("log_loss")(y[200:], z, own[200:]), rtol=1e-12
        )
        np.testing.assert_allclose(run.scores("neg_log_loss")[c, 0], -run.held_out_loss[c, 0], rtol=1e-12)
        np.testing.assert_allclose(run.held_out_raw_prediction(models=[c])[0], z, rtol=1e-12, atol=1e-12)
    best = run.best_candidate
    assert run.best_coef.tobytes() == run.coef[best].tobytes() and run.best_steps == run.steps[best]
    assert run.predict(X[200:]).tolist() == np.where(X[200:] @ run.best_coef + run.best_intercept > 0, "yes", "no").tolist()


def test_validation_data_stops_early_and_keeps_the_best() -> None:
    X, y = fits.labels()
    run = gf.fit(X[:200], y[:200], validation_data=(X[200:], y[200:]), epochs=60, early_stopping={"patience": 2})
    at = int(run.best_epoch[0, 0])
    assert run.held_out_loss[0, 0] == run.history[:, 0, 0][: int(run.epochs_trained[0, 0])].min()
    assert run.best_coef.tobytes() == gf.fit(X[:200], y[:200], epochs=at).best_coef.tobytes()


def test_validation_data_with_missing_cells() -> None:
    X, y = fits.labels()
    holes = _with_holes(X)
    run = gf.fit(holes[:200], y[:200], validation_data=(holes[200:], y[200:]), missing="mean", epochs=3)
    np.testing.assert_allclose(run.fill, np.nanmean(holes[:200], axis=0), rtol=1e-12)
    z = np.where(np.isnan(holes), run.fill, holes)[200:] @ run.best_coef + run.best_intercept
    np.testing.assert_allclose(run.held_out_loss[0, 0], gf.loss.get("log_loss")(y[200:], z), rtol=1e-12)
    np.testing.assert_allclose(run.scores("neg_log_loss")[0, 0], -run.held_out_loss[0, 0], rtol=1e-12)


@pytest.mark.parametrize(
    ("value", "keywords", "error", "message"),
    [
        (3, {}, TypeError, "validation_data: got 3, wanted"),
        ((1,), {}, TypeError, "validation_data: got an object of type tuple"),
        ("Xy", {"folds": 3}, ValueError, "validation_data: got it together with folds"),
        ("narrow", {}, ValueError, "validation_data X: got 4 features, wanted 5"),
        ("short", {}, ValueError, r"validation_data y: got shape \(7,\)"),
        ("label", {}, ValueError, "validation_data y: got the label 7 at row 2, wanted one of those in fit: 0, 1"),
        ("nan", {}, ValueError, "validation_data X: got nan at row 1, column 0"),
        ("weight", {}, ValueError, "validation_data sample_weight: got -1.0 at row 0"),
    ],
)
def test_bad_validation_data(value: Any, keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    X, y = fits.labels(60)
    Xv, yv = fits.labels(8, seed=9)
    if value == "narrow":
        value = Xv[:, :4].copy(), yv
    elif value == "short":
        value = Xv, yv[:7]
    elif value == "label":
        yv[2] = 7
        value = Xv, yv
    elif value == "nan":
        Xv[1, 0] = np.nan
        value = Xv, yv
    elif value == "weight":
        value = Xv, yv, -np.ones(8)
    elif value == "Xy":
        value = Xv, yv
    with pytest.raises(error, match=message):
        gf.fit(X, y, validation_data=value, epochs=1, **keywords)


# -- targets and rows -------------------------------------------------------------------------------------------------


def test_constant_targets() -> None:
    X, y = fits.labels(60)
    for labels in (np.zeros(60, int), np.full(60, "a"), np.ones(60)):
        with pytest.raises(ValueError, match="y: got the one label"):
            gf.fit(X, labels, loss="auto" if labels.dtype.kind != "f" else "log_loss")
    with pytest.warns(UserWarning, match="y: every row has the target 3.5, so there is nothing to learn") as caught:
        run = gf.fit(X, np.full(60, 3.5), epochs=2)
    assert caught[0].filename == __file__ and run.best_coef is not None


def test_one_row() -> None:
    for y in ([0.5], [1], ["a"]):
        with pytest.raises(ValueError, match="X: got 1 row, wanted at least two"):
            gf.fit(np.ones((1, 3)), y)


def test_one_feature_and_two_rows() -> None:
    run = gf.fit(np.array([[0.0], [1.0]]), [0, 1], epochs=3)
    assert run.best_coef.shape == (1,) and run.best_coef[0] > 0


# -- training losses --------------------------------------------------------------------------------------------------


def test_train_history() -> None:
    X, y = fits.labels()
    table = gf.grid(l2=[0.1, 1.0], batch_size=[32, 300])
    plain = gf.fit(X, y, table, folds=3, epochs=3)
    run = gf.fit(X, y, table, folds=3, epochs=3, track_train_loss=True)
    assert run.coef.tobytes() == plain.coef.tobytes() and plain.train_loss is None
    assert run.train_history.shape == (3, 4, 3)
    # The first batch of all rows stands at zero weights: log 2.
    np.testing.assert_allclose(run.train_history[0, [1, 3]], np.log(2), rtol=1e-12)
    assert (run.train_history[2] < run.train_history[0]).all()
    np.testing.assert_array_equal(run.train_loss, run.train_history[-1])


@pytest.mark.parametrize("value", ["balanced", {1: 2.0}])
def test_validation_data_beside_class_weights(value: Any) -> None:
    """Validation rows are not weighted by class."""
    X, y = fits.labels()
    run = gf.fit(X, y, gf.grid(l2=[0.1, 1.0]), validation_data=(X, y), class_weight=value, epochs=2)
    np.testing.assert_allclose(run.held_out_loss, run.metric("log_loss"), rtol=1e-12)
