"""gradfold.sklearn's SGDClassifier and SGDRegressor against scikit-learn's own."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn import linear_model
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

from gradfold import sklearn as edge

CLASSIFIER_LOSSES = (
    "hinge", "log_loss", "modified_huber", "squared_hinge", "perceptron", "squared_error", "huber",
    "epsilon_insensitive", "squared_epsilon_insensitive",
)  # fmt: skip
REGRESSOR_LOSSES = ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")


def data(kind, seed=0, n=200, p=5, dtype=np.float64):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)).astype(dtype)
    z = X @ rng.standard_normal(p) + 0.3 * rng.standard_normal(n)
    if kind == "two":
        return X, (z > 0).astype(int)
    if kind == "four":
        return X, np.array(["a", "b", "c", "d"])[np.digitize(z, [-1, 0, 1])]
    return X, z.astype(dtype)


def pair(kind, **params):
    """Both estimators with the same rows in the same order, one row a batch."""
    params = {"learning_rate": "invscaling", "eta0": 0.05, "power_t": 0.3, "shuffle": False, **params}
    return getattr(linear_model, kind)(**params), getattr(edge, kind)(batch_size=1, **params)


def fit_both(kind, X, y, fit=None, **params):
    theirs, mine = pair(kind, **params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # scikit-learn trains coef_init in place
        return theirs.fit(X, y, **copy.deepcopy(fit or {})), mine.fit(X, y, **(fit or {}))


def assert_same(theirs, mine, rtol=1e-9):
    assert mine.coef_.shape == theirs.coef_.shape and mine.intercept_.shape == theirs.intercept_.shape
    np.testing.assert_allclose(mine.coef_, theirs.coef_, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(mine.intercept_, theirs.intercept_, rtol=rtol, atol=rtol)
    assert mine.n_iter_ == theirs.n_iter_


# ---- the same weights where scikit-learn's steps are the same ----


@pytest.mark.parametrize("labels", ["two", "four"])
@pytest.mark.parametrize("loss", CLASSIFIER_LOSSES)
def test_classifier_makes_scikit_learns_steps(loss, labels):
    X, y = data(labels)
    theirs, mine = fit_both("SGDClassifier", X, y, loss=loss, max_iter=4, tol=None, alpha=0.01)
    assert_same(theirs, mine)
    assert mine.t_ == theirs.t_
    np.testing.assert_array_equal(mine.predict(X), theirs.predict(X))
    np.testing.assert_allclose(mine.decision_function(X), theirs.decision_function(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", REGRESSOR_LOSSES)
def test_regressor_makes_scikit_learns_steps(loss):
    X, y = data("numbers")
    assert_same(*fit_both("SGDRegressor", X, y, loss=loss, max_iter=4, tol=None, epsilon=0.2))


@pytest.mark.parametrize(
    "params",
    [
        {"learning_rate": "optimal", "alpha": 0.1},
        {"learning_rate": "optimal", "alpha": 0.1, "penalty": None},
        {"learning_rate": "constant"},
        {"fit_intercept": False},
        {"average": True},
        {"average": 150},
        {"average": 10_000},
        {"class_weight": "balanced"},
        {"class_weight": {0: 0.3, 1: 2.5}},
    ],
    ids=str,
)
def test_settings_of_the_classifier(params):
    X, y = data("two", seed=1)
    assert_same(*fit_both("SGDClassifier", X, y, loss="log_loss", max_iter=3, tol=None, **params))


@pytest.mark.parametrize("weights", [None, {"a": 0.3, "b": 2.5}, "balanced"], ids=str)
@pytest.mark.parametrize("labels", ["two", "four"])
def test_sample_and_class_weights(labels, weights):
    X, y = data(labels, seed=2)
    w = np.random.default_rng(5).uniform(0.1, 4.0, len(X))
    if labels == "two":
        y = np.array(["b", "a"])[y]
    got = fit_both(
        "SGDClassifier", X, y, {"sample_weight": w}, loss="log_loss", max_iter=3, tol=None, alpha=0.03, class_weight=weights
    )
    assert_same(*got)


@pytest.mark.parametrize("kind, labels", [("SGDClassifier", "two"), ("SGDRegressor", "numbers")])
def test_stopping_on_the_training_objective(kind, labels):
    X, y = data(labels, seed=3)
    for params in ({}, {"n_iter_no_change": 2}, {"learning_rate": "adaptive", "eta0": 0.2}, {"tol": 0.05}):
        theirs, mine = fit_both(kind, X, y, max_iter=300, **{"tol": 1e-3, **params})
        assert 2 < mine.n_iter_ < 300
        assert abs(mine.n_iter_ - theirs.n_iter_) <= 1  # the penalty is that of the epoch's end
        np.testing.assert_allclose(mine.coef_, theirs.coef_, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("kind, labels", [("SGDClassifier", "two"), ("SGDClassifier", "four"), ("SGDRegressor", "numbers")])
def test_early_stopping_on_scikit_learns_validation_rows(kind, labels):
    X, y = data(labels, seed=4)
    assert_same(*fit_both(kind, X, y, early_stopping=True, random_state=3, max_iter=200))


def test_starting_weights_and_warm_start():
    X, y = data("four", seed=6)
    coef, intercept = np.full((4, 5), 0.2), np.arange(4.0)
    assert_same(*fit_both("SGDClassifier", X, y, {"coef_init": coef, "intercept_init": intercept}, max_iter=2, tol=None))
    theirs, mine = fit_both("SGDClassifier", X, y, max_iter=2, tol=None, warm_start=True)
    assert_same(theirs.fit(X, y), mine.fit(X, y))
    assert mine.t_ == theirs.t_ == 401


def test_huge_slopes_are_cut_off_and_stay_finite():
    X, y = data("numbers")
    theirs, mine = fit_both("SGDRegressor", 100 * X + 100, y, max_iter=5, tol=None, learning_rate="constant", eta0=0.01)
    assert np.isfinite(theirs.coef_).all() and np.isfinite(mine.coef_).all()


# ---- partial_fit ----


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("kind, labels", [("SGDClassifier", "two"), ("SGDClassifier", "four"), ("SGDRegressor", "numbers")])
def test_partial_fit_goes_on_as_scikit_learns(kind, labels, average):
    X, y = data(labels, seed=7)
    # With average, scikit-learn's classifier forgets the intercept that its steps go on from.
    theirs, mine = pair(kind, average=average, fit_intercept=not average)
    first = {} if kind == "SGDRegressor" else {"classes": np.unique(y)}
    for a, b in ((0, 50), (50, 130), (130, 200)):
        theirs.partial_fit(X[a:b], y[a:b], **first)
        mine.partial_fit(X[a:b], y[a:b], **first)
        mine = pickle.loads(pickle.dumps(mine))
        first = {}
        np.testing.assert_allclose(mine.coef_, theirs.coef_, rtol=1e-9, atol=1e-9)
        assert mine.t_ == theirs.t_


@pytest.mark.parametrize("solver", ["adam", "momentum", "adagrad"])
def test_partial_fit_keeps_the_optimisers_state(solver):
    X, y = data("two", seed=8)
    settings = {"solver": solver, "learning_rate": "constant", "eta0": 0.01, "shuffle": False, "batch_size": 20, "tol": None}
    whole = edge.SGDClassifier(max_iter=1, **settings).fit(X, y)
    parts = edge.SGDClassifier(**settings)
    for a in (0, 100):
        parts.partial_fit(X[a : a + 100], y[a : a + 100], classes=[0, 1])
    np.testing.assert_array_equal(whole.coef_, parts.coef_)
    assert whole.t_ == parts.t_ == 11


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("kind", ["two", "four", "numbers"])
def test_partial_fit_starts_from_weights_that_the_caller_set(kind, average):
    X, y = data(kind)
    params = dict(learning_rate="constant", eta0=0.01, shuffle=False, average=average, max_iter=3, tol=None)
    name = "SGDRegressor" if kind == "numbers" else "SGDClassifier"
    mine = getattr(edge, name)(batch_size=1, **params).fit(X, y)
    theirs = getattr(linear_model, name)(**params).fit(X, y)
    rng = np.random.default_rng(1)
    for model in (mine, theirs):
        coef, intercept = rng.standard_normal(model.coef_.shape), rng.standard_normal(model.intercept_.shape)
        rng = np.random.default_rng(1)
        model.coef_[:], model.intercept_[:] = coef, intercept
        model.partial_fit(X[:7], y[:7])
    assert mine.t_ == theirs.t_
    if not average:  # scikit-learn's own weights stay what they were then
        np.testing.assert_allclose(mine.coef_, theirs.coef_, rtol=1e-9)
        np.testing.assert_allclose(mine.intercept_, theirs.intercept_, rtol=1e-9)
    else:
        np.testing.assert_allclose(mine.coef_, coef, atol=0.2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_partial_fit_without_the_state_of_the_training(dtype):
    X, y = data("two", dtype=dtype)
    model = edge.SGDClassifier(random_state=0, alpha=0.01).fit(X, y)
    other = copy.deepcopy(model)
    del other._states
    model.partial_fit(X, y)
    other.partial_fit(X, y)
    assert model.coef_.tobytes() == other.coef_.tobytes() and model.t_ == other.t_
    other = edge.SGDClassifier(solver="adam", learning_rate="constant", eta0=0.01).fit(X, y)
    del other._states
    with pytest.raises(ValueError, match="without the state of its training"):
        other.partial_fit(X, y)


def test_partial_fit_with_another_solver_or_averaging_says_so():
    X, y = data("two")
    model = edge.SGDClassifier(random_state=0).fit(X, y).set_params(average=True)
    with pytest.raises(ValueError, match="average=True after a training with solver='sgd' and average=False"):
        model.partial_fit(X, y)
    model.set_params(average=False)
    model.coef_ = np.full_like(model.coef_, np.nan)
    with pytest.raises(ValueError, match="coef_: got shape"):
        model.partial_fit(X, y)


def test_partial_fit_with_a_class_that_is_not_there_yet():
    X, y = data("four", seed=9)
    model = edge.SGDClassifier(random_state=0).partial_fit(X[y != "c"], y[y != "c"], classes=list("abcd"))
    assert model.coef_.shape == (4, 5)
    with pytest.raises(ValueError, match="got the label 'e'"):
        model.partial_fit(X[:2], ["a", "e"])
    with pytest.raises(ValueError, match="not the same as on last call"):
        model.partial_fit(X[:2], ["a", "b"], classes=["a", "b"])
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        edge.SGDClassifier().partial_fit(X, y)


# ---- as good as scikit-learn's own with everything at its default ----


@pytest.mark.parametrize("n", [400, 6000])
@pytest.mark.parametrize("loss", ["hinge", "log_loss"])
def test_quality_of_the_defaults(loss, n):
    """Over five orders of the rows: accuracy no more than 0.01 below, log loss no more than 0.02 above."""
    X, y = data("two", n=n + 10_000, p=20)
    accuracy, loss_of = {}, {}
    for kind in (linear_model.SGDClassifier, edge.SGDClassifier):
        models = [
            make_pipeline(StandardScaler(), kind(loss=loss, random_state=seed)).fit(X[:n], y[:n]) for seed in range(5)
        ]
        accuracy[kind] = np.mean([model.score(X[n:], y[n:]) for model in models])
        if loss == "log_loss":
            loss_of[kind] = np.mean([log_loss(y[n:], model.predict_proba(X[n:])) for model in models])
    assert accuracy[edge.SGDClassifier] >= accuracy[linear_model.SGDClassifier] - 0.01
    if loss_of:
        assert loss_of[edge.SGDClassifier] <= loss_of[linear_model.SGDClassifier] + 0.02


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [400, 6000])
def test_quality_of_the_regressor(seed, n):
    X, y = data("numbers", seed=seed, n=2 * n, p=20)
    theirs = linear_model.SGDRegressor(random_state=seed).fit(X[:n], y[:n]).score(X[n:], y[n:])
    assert edge.SGDRegressor(random_state=seed).fit(X[:n], y[:n]).score(X[n:], y[n:]) >= theirs - 0.002


@pytest.mark.parametrize("solver", ["momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"])
def test_other_solvers_learn(solver):
    X, y = data("two", seed=11, n=1000)
    model = edge.SGDClassifier(solver=solver, learning_rate="constant", eta0=0.02, random_state=0, batch_size=16)
    assert model.fit(X[:500], y[:500]).score(X[500:], y[500:]) > 0.85


# ---- what a scikit-learn estimator does ----


def test_probabilities_are_scikit_learns_of_the_same_weights():
    for labels in ("two", "four"):
        for loss in ("log_loss", "modified_huber"):
            X, y = data(labels, seed=12)
            mine = edge.SGDClassifier(loss=loss, random_state=0).fit(X, y)
            theirs = linear_model.SGDClassifier(loss=loss).fit(X, y)
            theirs.coef_, theirs.intercept_ = mine.coef_, mine.intercept_
            np.testing.assert_array_equal(mine.predict_proba(X), theirs.predict_proba(X))
            with np.errstate(divide="ignore"):
                np.testing.assert_array_equal(mine.predict_log_proba(X), theirs.predict_log_proba(X))
    assert not hasattr(edge.SGDClassifier(loss="hinge"), "predict_proba")


def test_clone_pickle_sparsify_and_the_same_bits_again():
    X, y = data("two", seed=13, dtype=np.float32)
    model = edge.SGDClassifier(random_state=3, batch_size=7, penalty="l1", alpha=0.01, n_jobs=1).fit(X, y)
    again = clone(model).set_params(n_jobs=2).fit(X, y)
    assert model.coef_.dtype == np.float32
    np.testing.assert_array_equal(model.coef_, again.coef_)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.decision_function(X), model.decision_function(X))
    np.testing.assert_allclose(loaded.sparsify().decision_function(X), model.decision_function(X), atol=1e-5)
    np.testing.assert_array_equal(loaded.densify().coef_, model.coef_)


def test_names_of_columns():
    pd = pytest.importorskip("pandas")
    X, y = data("two")
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = edge.SGDClassifier(random_state=0).fit(frame, y)
    assert list(model.feature_names_in_) == list("abcde") and model.n_features_in_ == 5
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("edcba")])


def test_sparse_X_is_a_type_error():
    sparse = pytest.importorskip("scipy.sparse")
    X, y = data("two")
    with pytest.raises(TypeError, match="[Ss]parse"):
        edge.SGDClassifier().fit(sparse.csr_matrix(X), y)


@pytest.mark.parametrize(
    "params, fit, message",
    [
        ({"batch_size": 0}, {}, "batch_size: got 0"),
        ({"batch_size": "big"}, {}, "batch_size: got 'big'"),
        ({"solver": "lbfgs"}, {}, "solver: got 'lbfgs'"),
        ({"n_jobs": 0}, {}, "n_jobs: got 0"),
        ({"alpha": -1}, {}, "alpha"),
        ({"loss": "cubic"}, {}, "loss"),
        ({}, {"sample_weight": -np.ones(200)}, "sample_weight"),
        ({}, {"sample_weight": np.ones(3)}, "sample_weight"),
        ({}, {"coef_init": np.ones(3)}, "coef_init: got shape"),
        ({}, {"coef_init": np.full((1, 5), np.nan)}, "coef_init: got a value that is not finite"),
        ({}, {"intercept_init": np.ones(3)}, "intercept_init: got shape"),
        ({"early_stopping": True, "validation_fraction": 0.001}, {}, "test_size"),
    ],
)
def test_bad_input(params, fit, message):
    X, y = data("two")
    with pytest.raises(ValueError, match=message):
        edge.SGDClassifier(**params).fit(X, y, **fit)


def test_one_class_and_overflow():
    X, y = data("two")
    with pytest.raises(ValueError, match="number of classes has to be greater than one"):
        edge.SGDClassifier().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="under-/overflow occurred at epoch #1"):
        edge.SGDClassifier(learning_rate="constant", eta0=1e300, max_iter=2, tol=None).fit(1e200 * X, y)


@pytest.mark.parametrize("tol", [None, 0.0])
def test_ctrl_c_ends_a_fit(tol):
    X, y = data("two", n=2000)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    model = edge.SGDClassifier(max_iter=10**8, tol=tol, n_iter_no_change=10**8, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    timer.join()
    assert not hasattr(model, "coef_")


# What scikit-learn's own checks find, and why it must be so.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "a weight of 2 is one longer step, and no second visit of the row",
    "check_sample_weights_invariance": "the same check before scikit-learn 1.6",
}


def _checks():
    estimators = [
        edge.SGDClassifier(max_iter=5),
        edge.SGDRegressor(max_iter=5),
        edge.GridSearchCV(edge.SGDClassifier(max_iter=5, random_state=0), {"alpha": [1e-4, 1e-2]}, cv=2),
        edge.GridSearchCV(edge.SGDRegressor(max_iter=5, random_state=0), {"alpha": [1e-4, 1e-2]}, cv=2),
    ]
    for estimator in estimators:
        yield from estimator_checks.check_estimator(estimator, generate_only=True) if _OLD else (
            estimator_checks.estimator_checks_generator(estimator)
        )


_OLD = not hasattr(estimator_checks, "estimator_checks_generator")  # before scikit-learn 1.6


def _name(value):
    return getattr(getattr(value, "func", None), "__name__", type(value).__name__)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator, check", list(_checks()), ids=_name)
def test_scikit_learns_own_checks(estimator, check):
    reason = EXPECTED_FAILURES.get(_name(check))
    if reason is None or isinstance(estimator, edge.GridSearchCV):
        check(estimator)
        return
    with pytest.raises(AssertionError):
        check(estimator)
