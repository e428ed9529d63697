"""`fit` of more than two classes: ten-class digits through grid and folds, and all that a Run does with them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import gradfold as gf
from gradfold.index import Permutation
from reference import train as reference

pytestmark = pytest.mark.filterwarnings("ignore::gradfold.ChoiceWarning")


def blobs(n: int = 240, k: int = 4, p: int = 5, seed: int = 0, dtype: Any = np.float64) -> tuple[Any, Any]:
    """Rows around k centres, and their classes; every class has rows enough for five folds."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k)
    return (2 * rng.standard_normal((k, p))[y] + rng.standard_normal((n, p))).astype(dtype), y


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = datasets.load_digits(return_X_y=True)
    return np.ascontiguousarray(X / 16.0), y


def test_digits_follow_the_reference(digits: tuple[Any, Any]) -> None:
    """Ten classes × 2 candidates × 3 folds, standardised (some columns are constant), beside the float64 reference."""
    X, y = digits
    folds = gf.index.stratified_kfold(y, 3, seed=1)
    l2 = [1e-4, 1e-1]
    run = gf.fit(X, y, gf.grid(l2=l2), folds=folds, epochs=3, standardize=True, seed=5, learning_rate=0.02)
    assert run.loss == "multinomial" and run.classes is not None and run.classes.tolist() == list(range(10))
    assert run.coef.shape == (6, 10, 64) and run.intercept.shape == (6, 10)
    want = reference.train(
        X, y, roles=np.stack([folds.role(s) for s in range(3)] * 2), loss="multinomial", solver="adam", l1=[0.0] * 6,
        l2=np.repeat(l2, 3), learning_rate=[0.02] * 6, schedule=["constant"] * 6, epochs=3, batch_size=256,
        order=lambda epoch: Permutation(len(X), 5, epoch=epoch)[:], standardize=True, n_outputs=10,
    )
    # adam divides gradients of pixels that hardly ever differ by their own size: rounding decides some of its first steps.
    np.testing.assert_allclose(run.coef, want.coef, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run.held_out_loss.reshape(-1), want.history[-1], rtol=1e-8)
    np.testing.assert_array_equal(run.steps, want.steps)
    assert run.best_coef is not None and run.best_coef.shape == (10, 64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_digits_are_learned(digits: tuple[Any, Any], dtype: Any) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    linear = pytest.importorskip("sklearn.linear_model")
    X, y = digits[0].astype(dtype), digits[1]
    names = np.array([f"digit {k}" for k in range(10)])
    test = np.arange(len(y)) % 4 == 1
    train = ~test
    run = gf.fit(
        X[train], names[y[train]], gf.grid(l2=[1e-4, 1e-2, 1.0], l1=[0.0, 1e-3]), folds=5, epochs=40, learning_rate=0.03
    )
    assert run.best_params["l2"] < 1
    raw, proba, labels = run.predict_raw(X[test]), run.predict_proba(X[test]), run.predict(X[test])
    assert raw.shape == proba.shape == (test.sum(), 10) and raw.dtype == dtype
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert (labels == names[proba.argmax(axis=1)]).all()
    peer = linear.LogisticRegression(max_iter=2000).fit(X[train], names[y[train]])
    assert metrics.accuracy_score(names[y[test]], labels) > peer.score(X[test], names[y[test]]) - 0.01
    # Held-out scores are those of the held-out raw predictions, by scikit-learn.
    folds = gf.index.stratified_kfold(names[y[train]], 5, seed=0)
    m = run.best_candidate * 5 + 2
    rows = folds.score_indices(2)
    held_out = run.held_out_raw_prediction(models=[m])
    assert held_out.shape == (1, train.sum(), 10) and np.isnan(held_out[0, folds.train_indices(2)]).all()
    z = held_out[0, rows].astype(np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    tolerance = 1e-6 if dtype == np.float32 else 1e-12
    loss = metrics.log_loss(y[train][rows], p, labels=range(10))
    np.testing.assert_allclose(run.held_out_loss[run.best_candidate, 2], loss, rtol=tolerance)
    np.testing.assert_allclose(run.scores("neg_log_loss")[run.best_candidate, 2], -loss, rtol=tolerance)
    accuracy = metrics.accuracy_score(y[train][rows], z.argmax(axis=1))
    np.testing.assert_allclose(run.scores("accuracy")[run.best_candidate, 2], accuracy, rtol=1e-12)


def test_a_candidate_alone_is_the_same_candidate() -> None:
    X, y = blobs()
    table = gf.grid(l2=[1e-3, 1e-2, 0.1], learning_rate=[0.01, 0.03])
    keywords: dict[str, Any] = {"folds": 4, "epochs": 3, "standardize": True}
    together = gf.fit(X, y, table, n_threads=2, **keywords)
    for c in (0, 4):
        alone = gf.fit(X, y, [table[c]], n_threads=1, **keywords)
        assert alone.coef.tobytes() == together.coef[4 * c : 4 * c + 4].tobytes()
        assert alone.held_out_loss.tobytes() == together.held_out_loss[c : c + 1].tobytes()


def test_two_labels_by_name() -> None:
    X, y = blobs(k=2)
    run = gf.fit(X, np.array(["no", "yes"])[y], loss="multinomial", folds=3, epochs=5)
    assert run.coef.shape == (3, 2, 5) and run.predict_proba(X).shape == (240, 2)
    assert (run.predict(X) == np.array(["no", "yes"])[y]).mean() > 0.8
    with pytest.raises(ValueError, match="threshold: got 0.0 for loss='multinomial'"):
        run.predict(X, threshold=0.0)
    with pytest.raises(RuntimeError, match="calibrate needs a binary classifier"):
        run.calibrate()


def test_saved_and_loaded(tmp_path: Any) -> None:
    X, y = blobs()
    run = gf.fit(X, y, gf.grid(l2=[0.01, 0.1]), folds=3, epochs=2)
    run.save(tmp_path / "run.npz")
    back = gf.load(tmp_path / "run.npz")
    assert isinstance(back.best_intercept, np.ndarray) and back.best_intercept.shape == (4,)
    assert back.n_features == 5 and back.coef.tobytes() == run.coef.tobytes()
    assert back.predict_raw(X).tobytes() == run.predict_raw(X).tobytes()
    assert (back.predict(X) == run.predict(X)).all()


def test_partial_fit_goes_on() -> None:
    """The optimiser's own state goes on: two epochs of fit and two more are four, where nothing is shuffled."""
    X, y = blobs()
    keywords: dict[str, Any] = {"shuffle": False, "batch_size": 32, "standardize": False}
    want = gf.fit(X, y, epochs=4, **keywords)
    run = gf.fit(X, y, epochs=2, **keywords).partial_fit(X, y, epochs=2)
    assert run.best_coef is not None and want.best_coef is not None
    assert run.best_coef.tobytes() == want.best_coef.tobytes()
    np.testing.assert_array_equal(run.best_intercept, want.best_intercept)
    assert run.predict_proba(X).shape == (240, 4)


def test_starting_weights() -> None:
    X, y = blobs()
    first = gf.fit(X, y, epochs=3, l2=0.1)
    assert first.best_coef is not None
    start: dict[str, Any] = {"coef_init": first.best_coef, "intercept_init": first.best_intercept}
    warm = gf.fit(X, y, epochs=1, folds=2, learning_rate=1e-12, **start)
    np.testing.assert_allclose(warm.coef, np.stack([first.best_coef] * 2), rtol=1e-9, atol=1e-11)
    own = np.random.default_rng(1).standard_normal((2, 4, 5))
    each = gf.fit(X, y, epochs=1, folds=2, learning_rate=1e-12, coef_init=own, refit=False)
    np.testing.assert_allclose(each.coef, own, atol=1e-9)
    drawn = gf.fit(X, y, gf.grid(init_seed=[0, 1]), epochs=1, folds=2, learning_rate=1e-12, refit=False, init_scale=1.0)
    assert (drawn.coef[0] == drawn.coef[1]).mean() > 0.5 or np.allclose(drawn.coef[0], drawn.coef[1], atol=1e-9)
    assert not np.allclose(drawn.coef[0], drawn.coef[2], atol=0.1) and drawn.coef[0].std() > 0.3
    with pytest.raises(ValueError, match=r"coef_init: got shape \(5,\), wanted \(4, 5\) or \(2, 4, 5\)"):
        gf.fit(X, y, folds=2, coef_init=np.zeros(5))
    with pytest.raises(ValueError, match=r"intercept_init: got shape \(\), wanted \(4,\) or \(2, 4\)"):
        gf.fit(X, y, folds=2, intercept_init=1.0)


def test_early_stopping_and_halving() -> None:
    X, y = blobs(n=400)
    run = gf.fit(
        X, y, gf.grid(l2=[1e-4, 1e-2, 1.0, 30.0]), folds=3, epochs=12, early_stopping=dict(patience=2),
        halving=dict(factor=2, min_epochs=2),
    )
    assert not run.survived.all() and run.survived[run.best_candidate]
    assert run.best_coef is not None and np.isfinite(run.held_out_loss[run.best_candidate]).all()
    # The kept weights are those whose loss is reported.
    raw = run.held_out_raw_prediction(models=[3 * run.best_candidate])[0]
    rows = ~np.isnan(raw).any(axis=1)
    loss = gf.loss.get("multinomial")(y[rows].astype(float), raw[rows])
    np.testing.assert_allclose(run.held_out_loss[run.best_candidate, 0], loss, rtol=1e-12)


def test_weights_missing_cells_and_validation_data() -> None:
    X, y = blobs(n=300, k=3)
    uneven = (y > 0) | (np.arange(300) % 5 == 0)
    X, y = X[uneven], y[uneven]
    holes = X.copy()
    holes[::7, 2] = np.nan
    balanced = gf.fit(X, y, folds=3, epochs=3, class_weight="balanced")
    by_label = gf.fit(X, y, folds=3, epochs=3, class_weight={0: 5.0})
    plain = gf.fit(X, y, folds=3, epochs=3)
    assert balanced.coef.shape == plain.coef.shape and (balanced.coef != plain.coef).any()
    assert (by_label.predict(X) == 0).sum() > (plain.predict(X) == 0).sum() - 5
    filled = gf.fit(holes, y, folds=3, epochs=3, missing="mean")
    assert np.isfinite(filled.predict_raw(holes)).all() and filled.scores("accuracy").shape == (1, 3)
    one = gf.fit(X[:100], y[:100], gf.grid(l2=[0.01, 0.1]), validation_data=(X[100:], y[100:]), epochs=3)
    assert one.held_out_loss.shape == (2, 1) and one.best_coef is not None and one.best_coef.shape == (3, 5)
    m = one.best_candidate
    loss = gf.loss.get("multinomial")(y[100:].astype(float), one.predict_raw(X[100:]))
    np.testing.assert_allclose(one.held_out_loss[m, 0], loss, rtol=1e-12)


def test_diverging_models_warn() -> None:
    X, y = blobs()
    with pytest.warns(RuntimeWarning, match="3 of 6 models diverged"):
        run = gf.fit(
            X * 1e150, y, gf.grid(learning_rate=[1e200, 1e-160]), solver="sgd", folds=3, epochs=3, refit=False, l2=0.0
        )
    assert run.diverged.reshape(2, 3)[0].all() and np.isfinite(run.coef).all()


def test_what_does_not_fit() -> None:
    X, y = blobs()
    many = np.random.default_rng(0).standard_normal((1200, 2))
    with pytest.raises(ValueError, match="more than 1,000 labels .* loss='squared_error'"):
        gf.fit(many, np.arange(1200))
    with pytest.raises(ValueError, match="more than two labels .*wanted two for loss='log_loss'"):
        gf.fit(X, np.array(["a", "b", "c", "d"])[y], loss="log_loss")
    with pytest.raises(ValueError, match="the one label 3"):
        gf.fit(X, np.full(240, 3), loss="multinomial")
    with pytest.raises(ValueError, match="among the candidates"):
        gf.fit(X, y % 2, gf.grid(loss=["log_loss", "multinomial"]), folds=2, scoring="accuracy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = gf.fit(X, y, epochs=1)
    with pytest.raises(ValueError, match="scoring"):
        gf.fit(X, y, folds=2, epochs=1).scores("r2")
    assert run.coef.shape == (0, 4, 5) and run.n_features == 5
