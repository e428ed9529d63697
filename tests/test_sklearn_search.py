"""gradfold.sklearn's GridSearchCV and RandomizedSearchCV against scikit-learn's own."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn import linear_model, model_selection
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.metrics import fbeta_score, get_scorer, make_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gradfold import sklearn as edge
from gradfold.sklearn import _engine

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def data(kind, seed=0, n=150, p=4):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    z = X @ rng.standard_normal(p) + 0.3 * rng.standard_normal(n)
    if kind == "numbers":
        return X, z
    if kind == "two":
        return X, (z > 0).astype(int)
    if kind == "text":
        return X, np.array(["no", "yes"])[(z > 0).astype(int)]
    return X, np.digitize(z, [-0.7, 0.7])


def pair(kind="SGDClassifier", **params):
    """Both estimators with the same rows in the same order, one row a batch: the same weights up to rounding."""
    params = {"learning_rate": "invscaling", "eta0": 0.05, "power_t": 0.3, "shuffle": False, **params}
    if kind == "SGDClassifier":
        params = {"loss": "log_loss", **params}
    return getattr(linear_model, kind)(max_iter=4, tol=None, **params), getattr(edge, kind)(
        batch_size=1, max_iter=4, tol=None, **params
    )


GRID = {"alpha": [1e-4, 1e-2, 1.0], "penalty": ["l2", None]}


def search_both(estimators, X, y, grid=GRID, fit=None, **options):
    theirs, mine = (
        kind(estimator, grid, **options).fit(X, y, **(fit or {}))
        for kind, estimator in zip((model_selection.GridSearchCV, edge.GridSearchCV), estimators)
    )
    return theirs, mine


def assert_same(theirs, mine, atol=1e-9):
    """Results equal to `atol`; where that is loose, the best candidate may differ."""
    assert list(mine.cv_results_) == list(theirs.cv_results_)
    for key, value in theirs.cv_results_.items():
        if "time" in key:
            assert (mine.cv_results_[key] >= 0).all()
        elif "rank" in key and atol > 1e-9:
            continue
        elif key == "params" or key.startswith("param_"):
            assert list(mine.cv_results_[key]) == list(value)
        else:
            np.testing.assert_allclose(mine.cv_results_[key], value, rtol=0, atol=atol, err_msg=key)
    assert mine.n_splits_ == theirs.n_splits_ and mine.multimetric_ == theirs.multimetric_
    for name in ("best_index_", "best_params_"):
        assert hasattr(mine, name) == hasattr(theirs, name)
        assert atol > 1e-9 or getattr(mine, name, None) == getattr(theirs, name, None)
    assert hasattr(mine, "best_score_") == hasattr(theirs, "best_score_")
    if hasattr(theirs, "best_score_"):
        assert mine.best_score_ == pytest.approx(theirs.best_score_, abs=atol)


@pytest.mark.parametrize("labels", ["two", "text", "three"])
@pytest.mark.parametrize(
    "scoring",
    [None, "accuracy", "neg_log_loss", "f1_macro", "balanced_accuracy", ["accuracy", "neg_log_loss"]],
    ids=str,
)
def test_a_grid_of_classifiers(labels, scoring):
    X, y = data(labels)
    refit = "neg_log_loss" if isinstance(scoring, list) else True
    theirs, mine = search_both(pair(), X, y, scoring=scoring, refit=refit, cv=3, return_train_score=True)
    assert_same(theirs, mine)
    np.testing.assert_array_equal(mine.predict(X), theirs.predict(X))
    np.testing.assert_allclose(mine.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
    np.testing.assert_array_equal(mine.classes_, theirs.classes_)
    assert mine.score(X, y) == pytest.approx(theirs.score(X, y), abs=1e-9)
    assert mine.n_features_in_ == 4 and mine.refit_time_ > 0


@pytest.mark.parametrize(
    "scoring", [None, "neg_mean_absolute_error", {"a": "r2", "b": "neg_median_absolute_error"}], ids=str
)
def test_a_grid_of_regressors(scoring):
    X, y = data("numbers")
    refit = "b" if isinstance(scoring, dict) else True
    grid = [{"alpha": [1e-4, 1e-1]}, {"penalty": ["l2"], "eta0": [0.01, 0.1]}]
    theirs, mine = search_both(pair("SGDRegressor"), X, y, grid, scoring=scoring, refit=refit)
    assert_same(theirs, mine)
    np.testing.assert_allclose(mine.predict(X), theirs.predict(X), atol=1e-9)


@pytest.mark.parametrize("scoring", ["roc_auc", "average_precision", "f1", "precision", "recall", "matthews_corrcoef"])
def test_binary_scores(scoring):
    assert_same(*search_both(pair(), *data("two"), scoring=scoring, cv=3))


def test_scores_of_the_kernels_are_scikit_learns_scorers_on_the_same_weights():
    for labels, names in (
        ("two", ("accuracy", "balanced_accuracy", "f1", "f1_weighted", "roc_auc", "average_precision", "matthews_corrcoef")),
        ("three", ("accuracy", "balanced_accuracy", "f1_macro", "precision_micro", "recall_weighted", "roc_auc_ovr")),
        ("numbers", (
            "r2", "neg_mean_squared_error", "neg_root_mean_squared_error", "neg_mean_absolute_error", "neg_median_absolute_error")),
    ):
        X, y = data(labels, seed=1)
        kind = "SGDRegressor" if labels == "numbers" else "SGDClassifier"
        kept = []

        def keep(estimator, X, y, kept=kept, names=names):
            kept.append({name: get_scorer(name)(estimator, X, y) for name in names})
            return 0.0

        options = {"cv": 3, "refit": False}
        edge.GridSearchCV(pair(kind)[1], {"alpha": [1e-3, 0.1]}, scoring=keep, **options).fit(X, y)
        own = edge.GridSearchCV(pair(kind)[1], {"alpha": [1e-3, 0.1]}, scoring=list(names), **options).fit(X, y)
        assert len(kept) == 6
        for name in names:
            got = sorted(own.cv_results_[f"split{s}_test_{name}"][c] for c in range(2) for s in range(3))
            np.testing.assert_allclose(got, sorted(scores[name] for scores in kept), rtol=0, atol=1e-12)


def test_functions_of_the_users_own():
    X, y = data("two", seed=2)

    def both(estimator, X, y):
        assert estimator.n_features_in_ == 4 and isinstance(estimator, linear_model.SGDClassifier)
        return {"accuracy": estimator.score(X, y), "first": float(estimator.coef_[0, 0])}

    assert_same(*search_both(pair(), X, y, scoring=both, refit="first", cv=3))
    assert_same(*search_both(pair(), X, y, scoring=make_scorer(fbeta_score, beta=2), cv=3))
    assert_same(*search_both(pair(), X, y, scoring=lambda e, X, y: e.score(X, y), refit=lambda results: 2, cv=3))
    assert_same(*search_both(pair(), X, y, scoring=["accuracy", "f1"], refit=False, cv=3))


@pytest.mark.parametrize(
    "cv, fit",
    [
        (None, {}),
        (4, {}),
        (model_selection.KFold(3, shuffle=True, random_state=1), {}),
        (model_selection.ShuffleSplit(3, test_size=0.3, random_state=1), {}),
        (model_selection.RepeatedKFold(n_splits=2, n_repeats=2, random_state=1), {}),
        (model_selection.GroupKFold(3), {"groups": np.arange(150) % 7}),
        (model_selection.TimeSeriesSplit(3), {}),
        ([(np.arange(100), np.arange(100, 150)), (np.arange(50, 150), np.arange(50))], {}),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("labels", ["two", "numbers"])
def test_the_splits_are_scikit_learns(monkeypatch, cv, fit, labels):
    X, y = data(labels, seed=3)
    seen = []
    original = _engine.fit_models

    def spy(data, specs, splits, **options):
        seen.append(splits)
        return original(data, specs, splits, **options)

    monkeypatch.setattr(_engine, "fit_models", spy)
    kind = "SGDRegressor" if labels == "numbers" else "SGDClassifier"
    # A ShuffleSplit hands its training rows over in another order; here they train in that of X.
    atol = 0.05 if isinstance(cv, model_selection.ShuffleSplit) else 1e-9
    assert_same(*search_both(pair(kind), X, y, {"alpha": [1e-4, 1e-2]}, fit, cv=cv), atol=atol)
    wanted = list(model_selection.check_cv(cv, y, classifier=labels == "two").split(X, y, fit.get("groups")))
    assert len(seen) == 2 and len(seen[0]) == len(wanted)  # all candidates in one call, then the refit
    for got, want in zip(seen[0], wanted):
        for mine, theirs in zip(got, want):
            np.testing.assert_array_equal(mine, theirs)


def test_a_class_that_one_split_does_not_train_on():
    X, y = data("three", seed=4)
    y[y == 2] = 1
    y[:10] = 2
    splits = [(np.arange(50, 150), np.arange(50)), (np.arange(100), np.arange(100, 150))]
    assert_same(*search_both(pair(), X, y, cv=splits))


def test_a_split_with_one_class_fails_alone():
    X, y = data("two", seed=5)
    y[:60] = 0
    splits = [(np.arange(60), np.arange(60, 150)), (np.arange(50, 150), np.arange(50))]
    with pytest.warns(FitFailedWarning, match="6 fits failed out of a total of 12"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One or more of the test scores")
        search = edge.GridSearchCV(pair()[1], GRID, cv=splits, error_score=-1.0).fit(X, y)
    assert (search.cv_results_["split0_test_score"] == -1).all()
    assert (search.cv_results_["split1_test_score"] > 0.5).all()
    with pytest.raises(ValueError, match="greater than one; got 1 class"):
        edge.GridSearchCV(pair()[1], GRID, cv=splits, error_score="raise").fit(X, y)
    with pytest.raises(ValueError, match="All the 6 fits failed"):
        edge.GridSearchCV(pair()[1], GRID, cv=splits[:1]).fit(X, y)


def test_a_diverging_candidate_fails_alone():
    X, y = data("numbers", seed=6)
    grid = {"eta0": [0.01, 1e300]}
    with pytest.warns(FitFailedWarning, match="under-/overflow"), pytest.warns(UserWarning, match="non-finite"):
        search = edge.GridSearchCV(edge.SGDRegressor(learning_rate="constant", tol=None, max_iter=5), grid).fit(X * 1e10, y)
    assert search.best_params_ == {"eta0": 0.01} or np.isnan(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("labels", ["two", "numbers"])
def test_a_pipeline_with_a_scaler(labels):
    X, y = data(labels, seed=7)
    X = X * [1, 100, 0.01, 3] + [0, -50, 9, 1]
    X[:, 3] = 2.5  # a constant column
    name = "SGDRegressor" if labels == "numbers" else "SGDClassifier"
    estimators = [make_pipeline(StandardScaler(), sgd) for sgd in pair(name)]
    grid = {f"{name.lower()}__alpha": [1e-4, 1e-2]}
    theirs, mine = search_both(estimators, X, y, grid, cv=3, return_train_score=True)
    assert_same(theirs, mine)
    np.testing.assert_allclose(mine.best_estimator_[-1].coef_, theirs.best_estimator_[-1].coef_, atol=1e-8)
    np.testing.assert_allclose(mine.best_estimator_[0].scale_, theirs.best_estimator_[0].scale_)
    np.testing.assert_allclose(mine.predict(X), theirs.predict(X), atol=1e-8)
    assert_same(*search_both(estimators, X, y, grid, cv=3, scoring=lambda e, X, y: e.score(X, y)))


def test_scikit_learns_own_estimator_is_translated():
    X, y = data("two", seed=8)
    own = linear_model.SGDClassifier(loss="log_loss", random_state=0, max_iter=50)
    search = edge.GridSearchCV(own, {"alpha": [1e-4, 1e-2]}).fit(X, y)
    assert type(search.best_estimator_) is linear_model.SGDClassifier
    assert search.score(X, y) > 0.9
    search.best_estimator_.partial_fit(X, y)


def test_sample_weights_train_and_score():
    X, y = data("two", seed=9)
    w = np.random.default_rng(0).uniform(0.5, 2.0, len(X))
    # The mean weight of a split's own rows is a little off that of all rows, by which gradfold scales the step.
    theirs, mine = search_both(pair(), X, y, {"alpha": [1e-4, 1.0]}, {"sample_weight": w}, cv=3, scoring="neg_log_loss")
    assert_same(theirs, mine, atol=0.01)
    pipes = [make_pipeline(StandardScaler(), sgd) for sgd in pair()]
    search_both(pipes, X, y, {"sgdclassifier__alpha": [0.1]}, {"sgdclassifier__sample_weight": w}, cv=3)


def test_class_weights_and_early_stopping():
    X, y = data("three", seed=10)
    assert_same(*search_both(pair(class_weight="balanced"), X, y, cv=3))
    # With log_loss scikit-learn 1.9 compares predictions in {-1, 1} with labels in {0, 1}, so the hinge it is.
    settings = {"early_stopping": True, "random_state": 0, "loss": "hinge"}
    estimators = [clone(sgd).set_params(tol=1e-3, max_iter=100) for sgd in pair(**settings)]
    assert_same(*search_both(estimators, X, y, cv=3))


def test_candidates_that_cannot_train_together():
    X, y = data("two", seed=11)
    grid = {"loss": ["log_loss", "hinge"], "fit_intercept": [True, False], "max_iter": [2, 5], "average": [False, True]}
    assert_same(*search_both(pair(), X, y, grid, cv=3))
    mixed = edge.GridSearchCV(
        edge.SGDClassifier(learning_rate="constant", eta0=0.01, random_state=0), {"batch_size": [1, 16], "solver": ["sgd", "adam"]}, cv=3
    ).fit(X, y)
    assert (mixed.cv_results_["mean_test_score"] > 0.7).all()


def test_a_model_is_the_same_alone_and_in_a_search():
    X, y = data("three", seed=12)
    base = edge.SGDClassifier(loss="log_loss", random_state=4, batch_size=8, max_iter=200)
    kept = {}

    def keep(estimator, X, y):
        kept[estimator.alpha, len(kept) // 3] = estimator.coef_
        return 0.0

    folds = list(model_selection.StratifiedKFold(3).split(X, y))
    edge.GridSearchCV(base, {"alpha": [1e-4, 1e-3, 1e-2]}, cv=folds, scoring=keep, refit=False).fit(X, y)
    for (alpha, split), coef in kept.items():
        train = np.zeros(len(X), bool)
        train[folds[split][0]] = True
        alone = edge.GridSearchCV(base, {"alpha": [alpha]}, cv=[folds[split]], scoring=keep, refit=False)
        before = dict(kept)
        kept.clear()
        alone.fit(X, y)
        (again,) = kept.values()
        np.testing.assert_array_equal(again, coef)
        kept.clear()
        kept.update(before)
        break


def test_randomized_search_draws_scikit_learns_candidates():
    from scipy.stats import loguniform

    X, y = data("two", seed=13)
    space = {"alpha": loguniform(1e-5, 1e-1), "penalty": ["l2", None]}
    theirs, mine = (
        kind(estimator, space, n_iter=5, random_state=3, cv=3).fit(X, y)
        for kind, estimator in zip((model_selection.RandomizedSearchCV, edge.RandomizedSearchCV), pair())
    )
    assert_same(theirs, mine)


def test_a_stock_script_with_one_import_changed():
    script = """
import numpy as np
from {module} import GridSearchCV
from sklearn.datasets import make_classification
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

X, y = make_classification(n_samples=600, n_features=10, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
pipe = Pipeline([("scale", StandardScaler()), ("sgd", SGDClassifier(loss="log_loss", random_state=0))])
search = GridSearchCV(pipe, {{"sgd__alpha": np.logspace(-4, -1, 4), "sgd__penalty": ["l2", "l1"]}}, cv=5, n_jobs=1)
search.fit(X_train, y_train)
result = search.best_score_, search.score(X_test, y_test), len(search.cv_results_["params"])
"""
    results = []
    for module in ("sklearn.model_selection", "gradfold.sklearn"):
        space: dict = {}
        exec(script.format(module=module), space)
        results.append(space["result"])
    assert results[1][2] == results[0][2] == 8
    assert results[1][0] >= results[0][0] - 0.02 and results[1][1] >= results[0][1] - 0.03


def test_nested_clone_and_pickle():
    X, y = data("two", seed=14)
    theirs, mine = (
        kind(estimator, GRID, cv=2) for kind, estimator in zip((model_selection.GridSearchCV, edge.GridSearchCV), pair())
    )
    np.testing.assert_array_equal(
        model_selection.cross_val_score(mine, X, y, cv=3), model_selection.cross_val_score(theirs, X, y, cv=3)
    )
    fitted = clone(mine).fit(X, y)
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    loaded.best_estimator_.partial_fit(X, y)
    assert isinstance(mine, model_selection.GridSearchCV)


def test_names_of_columns():
    pd = pytest.importorskip("pandas")
    X, y = data("two")
    frame = pd.DataFrame(X, columns=list("abcd"))
    search = edge.GridSearchCV(pair()[1], GRID, cv=2, scoring=lambda e, X, y: len(e.feature_names_in_) + len(X.columns))
    assert list(search.fit(frame, pd.Series(y)).feature_names_in_) == list("abcd")
    assert search.best_score_ == 8
    pipe = make_pipeline(StandardScaler(), edge.SGDClassifier(random_state=0))
    edge.GridSearchCV(pipe, {"sgdclassifier__alpha": [0.01]}, cv=2).fit(frame, y).predict(frame)


def test_a_model_that_did_not_converge_is_said_once():
    X, y = data("two")
    search = edge.GridSearchCV(edge.SGDClassifier(max_iter=1, random_state=0), {"alpha": [1e-4, 1e-2]}, cv=2, refit=False)
    with pytest.warns(ConvergenceWarning, match="by 4 of 4 fits") as found:
        search.fit(X, y)
    assert len(found) == 1


@pytest.mark.parametrize(
    "estimator, message",
    [
        (RandomForestClassifier(), "got RandomForestClassifier, wanted SGDClassifier or SGDRegressor"),
        (linear_model.LogisticRegression(), "got LogisticRegression"),
        (make_pipeline(PCA(), edge.SGDClassifier()), "got a Pipeline of PCA, SGDClassifier"),
        (make_pipeline(StandardScaler(with_mean=False), edge.SGDClassifier()), "with_mean=True"),
    ],
)
def test_estimators_that_are_not_trained_here(estimator, message):
    with pytest.raises(TypeError, match=message):
        edge.GridSearchCV(estimator, {}).fit(*data("two"))


def test_bad_input():
    X, y = data("two")
    pipe = make_pipeline(StandardScaler(), edge.SGDClassifier())
    with pytest.raises(TypeError, match="standardscaler__with_mean: got a candidate that varies it"):
        edge.GridSearchCV(pipe, {"standardscaler__with_mean": [True]}).fit(X, y)
    with pytest.raises(ValueError, match="Invalid parameter 'alhpa'"):
        edge.GridSearchCV(edge.SGDClassifier(), {"alhpa": [1]}).fit(X, y)
    with pytest.raises(TypeError, match="fit: got coef_init, wanted sample_weight"):
        edge.GridSearchCV(edge.SGDClassifier(), {"alpha": [1]}).fit(X, y, coef_init=np.zeros(4))
    with pytest.raises(ValueError, match="requires y"):
        edge.GridSearchCV(edge.SGDClassifier(), {"alpha": [1]}).fit(X)
    with pytest.raises(ValueError, match="refit must be set to a scorer key"):
        edge.GridSearchCV(edge.SGDClassifier(), {"alpha": [1]}, scoring=["accuracy", "f1"]).fit(X, y)
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        edge.GridSearchCV(edge.SGDClassifier(), {"alpha": [1]}).fit(X, y)
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="[Ss]parse"):
        edge.GridSearchCV(edge.SGDClassifier(), {"alpha": [1]}).fit(sparse.csr_matrix(np.eye(4)), [0, 1, 0, 1])


# ---- columns that are standardised already, weights of held-out rows, mistakes in the grid ----


def test_columns_that_are_standardised_already_are_not_constant():
    X = StandardScaler().fit_transform(data("two", n=180, p=30)[0])
    scaler = StandardScaler().fit(X)
    assert ((scaler.scale_ == 1) & (scaler.var_ != 1)).any()  # what made them look constant
    y = (X.sum(axis=1) > 0).astype(int)
    pipe = make_pipeline(StandardScaler(), edge.SGDClassifier(random_state=0))
    search = edge.GridSearchCV(pipe, {"sgdclassifier__alpha": [1e-3, 1e-2]}).fit(X, y)
    assert (search.best_estimator_[-1].coef_ != 0).all()


@pytest.mark.filterwarnings("ignore:The scoring")
@pytest.mark.parametrize("kind", ["SGDClassifier", "SGDRegressor"])
def test_weights_of_held_out_rows_do_not_reach_the_model(kind):
    X, y = data("two" if kind == "SGDClassifier" else "numbers")
    cv = list(model_selection.KFold(3).split(X))
    _, estimator = pair(kind, alpha=0.01)
    rng = np.random.default_rng(3)
    weight = rng.uniform(0.5, 2, len(y))

    def weights_of_splits(weight):
        found = []

        def scoring(model, X, y):
            found.append(np.append(model.coef_.ravel(), model.intercept_))
            return 0.0

        edge.GridSearchCV(estimator, {"alpha": [0.01]}, cv=cv, scoring=scoring, refit=False).fit(X, y, sample_weight=weight)
        return found

    before = weights_of_splits(weight)
    for split, (_, held_out) in enumerate(cv):
        changed = weight.copy()
        changed[held_out] *= 50
        after = weights_of_splits(changed)
        assert after[split].tobytes() == before[split].tobytes()
        assert all(after[other].tobytes() != before[other].tobytes() for other in range(3) if other != split)


def test_a_misspelled_parameter_raises_beside_good_ones():
    X, y = data("two")
    with pytest.raises(ValueError, match="Invalid parameter 'alhpa'"):
        edge.GridSearchCV(edge.SGDClassifier(), [{"alpha": [0.1]}, {"alhpa": [0.1]}]).fit(X, y)


@pytest.mark.skipif(not hasattr(linear_model.SGDClassifier, "__sklearn_tags__"), reason="scikit-learn before 1.6 has no such tag")
def test_searches_say_that_they_take_no_sparse_data():
    assert linear_model.SGDClassifier().__sklearn_tags__().input_tags.sparse  # which a search passes on by itself
    assert not edge.GridSearchCV(linear_model.SGDClassifier(), {"alpha": [0.1]}).__sklearn_tags__().input_tags.sparse
    assert not edge.RandomizedSearchCV(linear_model.SGDRegressor(), {"alpha": [0.1]}).__sklearn_tags__().input_tags.sparse


def test_partial_fit_after_a_search_over_a_pipeline():
    X, y = data("two")
    X = 3 * X + 1
    pipe = make_pipeline(StandardScaler(), edge.SGDClassifier(random_state=0))
    best = edge.GridSearchCV(pipe, {"sgdclassifier__alpha": [1e-3, 1e-2]}).fit(X, y).best_estimator_
    before, updates = best[-1].coef_.copy(), best[-1].t_
    best[-1].partial_fit(best[0].transform(X[:2]), y[:2])
    assert best[-1].t_ == updates + 2
    assert 0 < np.abs(best[-1].coef_ - before).max() < 0.1 * np.abs(before).max()
