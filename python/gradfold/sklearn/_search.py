"""`GridSearchCV` and `RandomizedSearchCV`: scikit-learn's, with all candidates and splits in lock-step."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import linear_model, model_selection
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.multiclass import check_classification_targets

from gradfold import _check
from gradfold.sklearn import _compat, _engine, _estimators, _scoring, _translate

Array = npt.NDArray[Any]

_CLASSIFIERS = (_estimators.SGDClassifier, linear_model.SGDClassifier)
_REGRESSORS = (_estimators.SGDRegressor, linear_model.SGDRegressor)
_SUPPORTED = (
    "SGDClassifier or SGDRegressor of gradfold.sklearn or sklearn.linear_model, or a Pipeline of a StandardScaler and "
    "one of them"
)


@dataclass
class _Reading:
    """An estimator that can be trained here, taken apart."""

    sgd: Any
    prefix: str  # of its parameters in the whole
    scaler: Any  # a StandardScaler, or None

    @classmethod
    def of(cls, estimator: Any) -> _Reading:
        if type(estimator) in _CLASSIFIERS + _REGRESSORS:
            return cls(estimator, "", None)
        if type(estimator) is not Pipeline:
            raise TypeError(f"estimator: got {type(estimator).__name__}, wanted {_SUPPORTED}")
        steps = estimator.steps
        kinds = [type(step) for _, step in steps]
        if len(steps) == 2 and kinds[0] is StandardScaler and kinds[1] in _CLASSIFIERS + _REGRESSORS:
            scaler = steps[0][1]
            if not (scaler.with_mean and scaler.with_std):
                raise TypeError(
                    f"estimator: got {scaler!r} in a Pipeline, wanted one with with_mean=True and with_std=True"
                )
            if estimator.memory is not None:
                raise TypeError("estimator: got a Pipeline with memory, wanted memory=None; nothing is refitted here")
            return cls(steps[1][1], f"{steps[1][0]}__", scaler)
        listed = ", ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"estimator: got a Pipeline of {listed}, wanted {_SUPPORTED}")


class _SearchMixin:
    """`fit` for both searches; their scikit-learn parents bring delegation, tags and the form of the results."""

    def _candidates(self) -> Iterable[dict[str, Any]]:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.sparse = False  # scikit-learn's own estimators take it, these searches do not
        return tags

    def fit(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Train every candidate on every split, choose, and refit.

        Parameters
        ----------
        X : array_like of shape (n_rows, n_features)
        y : array_like of shape (n_rows,)
        **params
            `sample_weight`, which weights the training (and the scores where the installed scikit-learn does so), and
            `groups` for the splitter. With a Pipeline the weights are called `<step>__sample_weight`.

        Returns
        -------
        object
            The search itself.

        Raises
        ------
        TypeError
            An estimator, a parameter or an argument that gradfold does not train; the message names what it does.
        ValueError
            Bad data, or every fit failed.
        """
        return _Search(self, X, y, params).run()


@dataclass
class _Search:
    """One call of `fit`."""

    search: Any
    X: Any  # as it came
    y: Any
    params: dict[str, Any]

    def run(self) -> Any:
        search = self.search
        search._validate_params()
        if getattr(search, "_skl_callbacks", None):
            raise TypeError("callbacks: got some set on the search, wanted none; they are not called here")
        self.reading = _Reading.of(search.estimator)
        scorer, metric = _compat.scorers(search)
        if self.y is None:
            raise ValueError(
                f"This {type(search).__name__} estimator requires y to be passed, but the target y is None."
            )
        self.X, self.y = X, y = indexable(self.X, self.y)
        routed = search._get_routed_params_for_fit(_compat.check_method_params(X, self.params))
        fit_params = dict(routed.estimator.fit)
        weight = fit_params.pop(f"{self.reading.prefix}sample_weight", None)
        if fit_params:
            raise TypeError(
                f"fit: got {', '.join(sorted(fit_params))}, wanted {self.reading.prefix}sample_weight, groups, or nothing"
            )
        classifier = is_classifier(search.estimator)
        cv = model_selection.check_cv(search.cv, y, classifier=classifier)
        n_splits = cv.get_n_splits(X, y, **routed.splitter.split)

        self.names = clone(self.reading.sgd)
        data = self._data(weight, classifier)
        splits = [self._rows(train, test, data) for train, test in cv.split(X, y, **routed.splitter.split)]
        if len(splits) != n_splits:
            raise ValueError(
                "cv.split and cv.get_n_splits returned inconsistent results. "
                f"Expected {n_splits} splits, got {len(splits)}"
            )
        candidates = [dict(point) for point in search._candidates()]
        if not splits or not candidates:
            raise ValueError("No fits were performed. Was the CV iterator empty? Were there no candidates?")
        if search.verbose > 0:
            print(
                f"Fitting {n_splits} folds for each of {len(candidates)} candidates, totalling "
                f"{len(candidates) * n_splits} fits in lock-step"
            )
        scalers = [None if self.reading.scaler is None else self._scaler(data, train) for train, _ in splits]
        started = time.monotonic()
        models = self._train(data, candidates, splits, scalers)
        fit_time = (time.monotonic() - started) / (len(candidates) * n_splits)
        out = self._scores(data, candidates, models, splits, scalers, scorer, routed.scorer.score, fit_time)

        results = search._format_results(candidates, n_splits, out)
        search.multimetric_ = isinstance(out[0]["test_scores"], dict)
        if callable(search.scoring) and search.multimetric_:
            search._check_refit_for_multimetric(out[0]["test_scores"])
            metric = search.refit
        if search.refit or not search.multimetric_:
            search.best_index_ = search._select_best_index(search.refit, metric, results)
            if not callable(search.refit):
                search.best_score_ = results[f"mean_test_{metric}"][search.best_index_]
            search.best_params_ = results["params"][search.best_index_]
        if search.refit:
            self._refit(data)
        search.scorer_ = getattr(scorer, "_scorers", scorer)
        search.cv_results_ = results
        search.n_splits_ = n_splits
        return search

    # -- reading ------------------------------------------------------------------------------------------------------

    def _data(self, weight: Any, classifier: bool) -> _engine.Data:
        """X and y as arrays, once for all; `self.names` learns the features' names."""
        options: dict[str, Any] = {"accept_sparse": False, "dtype": [np.float64, np.float32], "order": "C"}
        if not classifier:
            options["y_numeric"] = True
        X, y = _compat.validate_data(self.names, self.X, self.y, **options)
        classes = None
        if classifier:
            check_classification_targets(y)
            classes, y = np.unique(y, return_inverse=True)
        else:
            y = y.astype(X.dtype, copy=False)
            if not np.isfinite(y).all():
                raise ValueError(f"y: got a value beyond {X.dtype}, wanted numbers that are finite in X's dtype")
        threads = _estimators.n_threads(self.search.n_jobs)
        weight = _compat.sample_weight(weight, X)
        if weight is not None:
            _check.weights("sample_weight", weight, threads, True)
        return _engine.Data(X, y, classes, weight, threads)

    @staticmethod
    def _rows(train: Any, test: Any, data: _engine.Data) -> tuple[Array, Array]:
        every = np.arange(len(data.X))
        return every[np.asarray(train)], every[np.asarray(test)]

    @staticmethod
    def _scaler(data: _engine.Data, rows: Array) -> Any:
        return StandardScaler().fit(data.X if len(rows) == len(data.X) else data.X[rows])

    def _check_names(self, point: Mapping[str, Any]) -> None:
        prefix, known = self.reading.prefix, self.reading.sgd.get_params(deep=False)
        for name in point:
            if name.startswith(prefix) and name[len(prefix) :] in known:
                continue
            if name in self.search.estimator.get_params():
                raise TypeError(f"{name}: got a candidate that varies it, wanted a parameter of the SGD estimator")
            valid = ", ".join(prefix + own for own in known)
            raise ValueError(f"Invalid parameter {name!r} for estimator, wanted one of {valid}")

    def _spec(self, point: Mapping[str, Any], n_rows: int) -> _translate.Spec:
        """One candidate, checked as its estimator checks itself."""
        own = {name[len(self.reading.prefix) :]: value for name, value in point.items()}
        estimator = clone(self.reading.sgd).set_params(**clone(own, safe=False))
        estimator._validate_params()
        params = estimator.get_params(deep=False)
        if "batch_size" in params:
            _estimators.check_own(params)
        if params.get("warm_start"):
            params["warm_start"] = False  # a clone has nothing to start from
        return _translate.spec(params, n_rows)

    # -- training -----------------------------------------------------------------------------------------------------

    def _train(
        self,
        data: _engine.Data,
        candidates: Sequence[Mapping[str, Any]],
        splits: Sequence[tuple[Array, Array]],
        scalers: Sequence[Any],
    ) -> list[list[_engine.Model]]:
        search = self.search
        raising = search.error_score == "raise"
        specs: list[Any] = []
        for point in candidates:
            self._check_names(point)  # a mistake in the grid, not a fit that fails
            try:
                specs.append(self._spec(point, len(data.X)))
            except ValueError as error:
                # A candidate that cannot be is a failed fit, as in scikit-learn.
                if raising or len(candidates) == 1:
                    raise
                specs.append(error)
        good = [spec for spec in specs if not isinstance(spec, ValueError)]
        moments = _moments(scalers)
        trained = iter(_engine.fit_models(data, good, splits, moments=moments, raising=raising) if good else [])
        nothing = np.zeros((0, data.X.shape[1])), np.zeros(0)
        models = [
            [_engine.Model(*nothing, None, 0, 0, error=spec) for _ in splits]
            if isinstance(spec, ValueError)
            else next(trained)
            for spec in specs
        ]
        self._report(models)
        return models

    def _report(self, models: Sequence[Sequence[_engine.Model]]) -> None:
        every = [model for row in models for model in row]
        failed = Counter(f"{type(m.error).__name__}: {m.error}" for m in every if m.error is not None)
        if failed:
            details = "\n".join(f"{n} fits failed with the following error:\n{text}" for text, n in failed.items())
            if failed.total() == len(every):
                raise ValueError(
                    f"\nAll the {len(every)} fits failed.\nIt is very likely that your model is misconfigured.\n"
                    f"You can try to debug the error by setting error_score='raise'.\n\n{details}"
                )
            warnings.warn(
                f"\n{failed.total()} fits failed out of a total of {len(every)}.\nThe score on these train-test "
                f"partitions for these parameters will be set to {self.search.error_score}.\n\n{details}",
                FitFailedWarning,
                stacklevel=5,
            )
        late = sum(model.error is None and not model.converged for model in every)
        if late:
            warnings.warn(
                f"Maximum number of iteration reached before convergence by {late} of {len(every)} fits. Consider "
                "increasing max_iter to improve the fit.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _refit(self, data: _engine.Data) -> None:
        search = self.search
        started = time.time()
        spec = self._spec(search.best_params_, len(data.X))
        rows = np.arange(len(data.X))
        scaler = None if self.reading.scaler is None else self._scaler(data, rows)
        splits = [(rows, np.empty(0, np.int64))]
        model = _engine.fit_models(data, [spec], splits, moments=_moments([scaler]), raising=True, keep_state=True)[0][0]
        search.best_estimator_ = self._estimator(search.best_params_, model, scaler)
        search.refit_time_ = time.time() - started
        if not model.converged:
            warnings.warn(
                "Maximum number of iteration reached before convergence by the refit. Consider increasing max_iter to "
                "improve the fit.",
                ConvergenceWarning,
                stacklevel=4,
            )
        if hasattr(search.best_estimator_, "feature_names_in_"):
            search.feature_names_in_ = search.best_estimator_.feature_names_in_

    def _estimator(self, point: Mapping[str, Any], model: _engine.Model, scaler: Any) -> Any:
        """The user's own estimator, fitted."""
        whole = clone(self.search.estimator).set_params(**clone(dict(point), safe=False))
        sgd = whole if scaler is None else whole.steps[1][1]
        states = list(model.states)
        if scaler is not None:
            coef = model.coef.astype(np.float64)
            model = _engine.Model(
                (coef * scaler.scale_).astype(model.coef.dtype),
                (model.intercept + coef @ scaler.mean_).astype(model.coef.dtype),
                model.classes,
                model.n_iter,
                model.updates,
            )
            fitted = whole.steps[0][1]
            fitted.__dict__.update({k: v for k, v in scaler.__dict__.items() if k.endswith("_")})
            self._name(fitted)
            sgd.n_features_in_ = scaler.n_features_in_
        else:
            self._name(sgd)
        _estimators.set_fitted(sgd, model, one_row=model.classes is None)
        if isinstance(sgd, (_estimators.SGDClassifier, _estimators.SGDRegressor)) and scaler is None:
            _estimators.keep_states(sgd, states)
        return whole

    def _name(self, estimator: Any) -> None:
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.names, name):
                setattr(estimator, name, getattr(self.names, name))

    # -- scoring ------------------------------------------------------------------------------------------------------

    def _scores(
        self,
        data: _engine.Data,
        candidates: Sequence[Mapping[str, Any]],
        models: Sequence[Sequence[_engine.Model]],
        splits: Sequence[tuple[Array, Array]],
        scalers: Sequence[Any],
        scorer: Any,
        score_params: Mapping[str, Any],
        fit_time: float,
    ) -> list[dict[str, Any]]:
        """What scikit-learn's `_format_results` takes, candidate after candidate, split after split."""
        search = self.search
        judge = _scoring.Judge(search.scoring, scorer, search.error_score, data)
        sides = ("test_scores", "train_scores") if search.return_train_score else ("test_scores",)
        out: list[list[dict[str, Any]]] = [[{} for _ in splits] for _ in candidates]
        loss = f"{self.reading.prefix}loss"
        for s, (train, test) in enumerate(splits):
            alive = [c for c in range(len(candidates)) if models[c][s].error is None]
            for side, rows in zip(sides, (test, train)):
                started = time.monotonic()
                y = _safe_indexing(self.y, rows)
                extra = _compat.check_method_params(self.X, dict(score_params), rows)
                if judge.opaque:
                    X = _safe_indexing(self.X, rows)
                    scores = [
                        judge.ask(self._estimator(candidates[c], models[c][s], scalers[s]), X, y, extra) for c in alive
                    ]
                else:
                    losses = [candidates[c].get(loss, self.reading.sgd.loss) for c in alive]
                    scores = judge.scores([models[c][s] for c in alive], losses, rows, y, extra)
                each = (time.monotonic() - started) / max(1, len(alive))
                for c, score in zip(alive, scores):
                    entry = out[c][s]
                    entry[side] = score
                    entry["fit_time"] = fit_time
                    entry["score_time"] = entry.get("score_time", 0.0) + each
        every = [entry for row in out for entry in row]
        like = next(entry for entry in every if entry)
        error = search.error_score
        for entry in every:
            if not entry:  # a failed fit
                entry.update(fit_time=fit_time, score_time=0.0)
                for side in sides:
                    entry[side] = dict.fromkeys(like[side], error) if isinstance(like[side], dict) else error
        return every


def _moments(scalers: Sequence[Any]) -> tuple[Array, Array] | None:
    """Mean and scale of each split's scaler; a scale of -1 marks a constant column."""
    if scalers[0] is None:
        return None
    mean = np.stack([scaler.mean_ for scaler in scalers])
    # StandardScaler gives a constant column the scale 1, and leaves its tiny variance as it was computed. The root of a variance next to 1
    # is 1, too.
    scale = np.stack([np.where((s.scale_ == 1) & (np.sqrt(s.var_) != 1), -1.0, s.scale_) for s in scalers])
    return mean, scale


class GridSearchCV(_SearchMixin, model_selection.GridSearchCV):  # type: ignore[misc]
    """scikit-learn's `GridSearchCV` for SGD estimators: all candidates × splits train together over one X.

    Parameters
    ----------
    estimator : estimator
        `SGDClassifier` or `SGDRegressor`, gradfold's or scikit-learn's, or a Pipeline of a `StandardScaler` and one of
        them. Any other is a TypeError: nothing is trained in another way in silence.
    param_grid : dict or list of dicts
        Of parameters of the SGD estimator. Candidates that differ only in penalties, learning rate, its schedule,
        epsilon, average, max_iter and the stopping criterion train in one pass; each further combination of loss,
        solver, batch_size, shuffle, fit_intercept, random_state, class_weight and early stopping is one more pass.
    scoring, refit, cv, verbose, error_score, return_train_score
        As in scikit-learn. The splits are those of scikit-learn's own splitters, row for row. Common scores are
        computed for all models at once and equal scikit-learn's to 1e-12; any other comes from scikit-learn's own
        scorer, and a function of your own gets a fitted estimator.
    n_jobs : int, optional
        Threads; None and -1 are all processors. No result depends on it.
    pre_dispatch : ignored

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_, \
multimetric_, classes_, n_features_in_, feature_names_in_
        As in scikit-learn; `mean_fit_time` is an equal share of the time that all took together. `best_estimator_` is
        of the type that was given. Each model stops by itself as its estimator's `tol`, `n_iter_no_change` and
        `early_stopping` say.

    Examples
    --------
    >>> import numpy as np
    >>> from gradfold.sklearn import GridSearchCV, SGDClassifier
    >>> X = np.random.default_rng(0).standard_normal((200, 4))
    >>> search = GridSearchCV(SGDClassifier(random_state=0), {"alpha": [1e-4, 1e-2]}, cv=3).fit(X, X[:, 0] > 0)
    >>> search.best_score_ > 0.8
    True
    """

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        scoring: Any = None,
        n_jobs: Any = None,
        refit: Any = True,
        cv: Any = None,
        verbose: Any = 0,
        pre_dispatch: Any = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: Any = False,
    ) -> None:
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )

    def _candidates(self) -> Iterable[dict[str, Any]]:
        return model_selection.ParameterGrid(self.param_grid)  # type: ignore[no-any-return]


class RandomizedSearchCV(_SearchMixin, model_selection.RandomizedSearchCV):  # type: ignore[misc]
    """scikit-learn's `RandomizedSearchCV` for SGD estimators: all candidates × splits train together over one X.

    Parameters
    ----------
    param_distributions : dict or list of dicts
        Lists, or distributions with a method `rvs`. The draws are scikit-learn's own.
    n_iter : int
        How many candidates are drawn.
    random_state : int, RandomState or None
        Of the draws.
    estimator, scoring, n_jobs, refit, cv, verbose, pre_dispatch, error_score, return_train_score
        As in `GridSearchCV`.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_, \
multimetric_, classes_, n_features_in_, feature_names_in_
        As in `GridSearchCV`.
    """

    def __init__(
        self,
        estimator: Any,
        param_distributions: Any,
        *,
        n_iter: Any = 10,
        scoring: Any = None,
        n_jobs: Any = None,
        refit: Any = True,
        cv: Any = None,
        verbose: Any = 0,
        pre_dispatch: Any = "2*n_jobs",
        random_state: Any = None,
        error_score: Any = np.nan,
        return_train_score: Any = False,
    ) -> None:
        super().__init__(
            estimator,
            param_distributions,
            n_iter=n_iter,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            random_state=random_state,
            error_score=error_score,
            return_train_score=return_train_score,
        )

    def _candidates(self) -> Iterable[dict[str, Any]]:
        sampler = model_selection.ParameterSampler(
            self.param_distributions, self.n_iter, random_state=self.random_state
        )
        return sampler  # type: ignore[no-any-return]
