"""`SGDClassifier` and `SGDRegressor`: scikit-learn's, trained by gradfold's kernels."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets

from gradfold import _check
from gradfold.sklearn import _compat, _engine, _translate

Array = npt.NDArray[Any]


def _defaults(kind: Any) -> dict[str, Any]:
    """The installed scikit-learn's own defaults, which are not the same in every version."""
    return {name: p.default for name, p in inspect.signature(kind.__init__).parameters.items()}


_C = _defaults(linear_model.SGDClassifier)
_R = _defaults(linear_model.SGDRegressor)


def n_threads(n_jobs: Any) -> int:
    """Threads for scikit-learn's `n_jobs`: None is all processors, −1 too, −2 all but one."""
    if n_jobs is None:
        return _check.threads(None)
    if n_jobs == 0:
        raise ValueError("n_jobs: got 0, wanted None, a number of threads, or -1 for all")
    return int(n_jobs) if n_jobs > 0 else max(1, _check.threads(None) + 1 + int(n_jobs))


def check_own(params: dict[str, Any]) -> None:
    """Check the parameters that scikit-learn does not know."""
    if isinstance(params["batch_size"], str):
        _check.choice("batch_size", params["batch_size"], ("auto",))
    else:
        _check.integer("batch_size", params["batch_size"], 1, 2**63 - 1)
    _check.choice("solver", params["solver"], _translate.SOLVERS)


def set_fitted(estimator: Any, model: _engine.Model, *, one_row: bool) -> None:
    """Give an SGD estimator, scikit-learn's or one of these, what fitting sets."""
    estimator.coef_ = model.coef[0].copy() if one_row else model.coef
    estimator.intercept_ = model.intercept
    estimator.n_iter_ = model.n_iter
    estimator.t_ = 1.0 + model.updates
    if model.classes is not None:
        estimator.classes_ = model.classes


def _kind(estimator: Any) -> tuple[str, bool]:
    """What decides which arrays a state has."""
    return estimator.solver, bool(estimator.average)


def keep_states(estimator: Any, states: Sequence[Any]) -> None:
    """Keep where a training ended, and the weights that it gave, so that others, set by the caller, are noticed."""
    estimator._states = list(states)
    estimator._trained = (_kind(estimator), estimator.coef_.copy(), estimator.intercept_.copy())


class _Mixin:
    """What both estimators share; their scikit-learn parents bring everything else."""

    def _fit_rows(
        self,
        X: Array,
        y: Array,
        classes: Array | None,
        sample_weight: Any,
        start: _engine.Start | None,
        max_iter: int | None = None,
    ) -> None:
        """Train on rows that are arrays already; `max_iter` is that of a `partial_fit`, which looks at no criterion."""
        params = self.get_params(deep=False)  # type: ignore[attr-defined]
        if max_iter is not None:
            params["max_iter"] = max_iter
        spec = _translate.spec(params, len(X))
        threads = n_threads(params.get("n_jobs"))
        data = _engine.Data(X, y, classes, _compat.sample_weight(sample_weight, X), threads)
        if max_iter is None:
            splits = [(np.arange(len(X)), np.empty(0, np.int64))]
            model = _engine.fit_models(data, [spec], splits, start=start, raising=True, keep_state=True)[0][0]
        else:
            model = _engine.partial_fit(data, spec, start)
        set_fitted(self, model, one_row=classes is None)
        keep_states(self, model.states)
        if not model.converged:
            warnings.warn(
                "Maximum number of iteration reached before convergence. Consider increasing max_iter to improve the "
                "fit.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _begin(self, X: Array, n_outputs: int, coef_init: Any, intercept_init: Any) -> _engine.Start | None:
        """Where `fit` begins: the arguments, or with `warm_start` what was fitted before."""
        if self.warm_start and getattr(self, "coef_", None) is not None:  # type: ignore[attr-defined]
            coef_init = self.coef_ if coef_init is None else coef_init  # type: ignore[attr-defined]
            intercept_init = self.intercept_ if intercept_init is None else intercept_init  # type: ignore[attr-defined]
        if coef_init is None and intercept_init is None:
            return None
        start = _engine.Start()
        if coef_init is not None:
            coef = np.asarray(coef_init.toarray() if hasattr(coef_init, "toarray") else coef_init, np.float64)
            if coef.size != n_outputs * X.shape[1] or coef.ndim > 2:
                raise ValueError(f"coef_init: got shape {coef.shape}, wanted ({n_outputs}, {X.shape[1]})")
            start.coef = coef.reshape(n_outputs, X.shape[1])
        if intercept_init is not None and self.fit_intercept:  # type: ignore[attr-defined]
            intercept = np.asarray(intercept_init, np.float64)
            if intercept.size != n_outputs or intercept.ndim > 1:
                raise ValueError(f"intercept_init: got shape {intercept.shape}, wanted ({n_outputs},)")
            start.intercept = intercept.reshape(n_outputs)
        for name, value in (("coef_init", start.coef), ("intercept_init", start.intercept)):
            if value is not None and not np.isfinite(value).all():
                raise ValueError(f"{name}: got a value that is not finite, wanted finite numbers only")
        return start

    def _go_on(self, n_outputs: int, shape: tuple[int, ...]) -> _engine.Start | None:
        """Where `partial_fit` goes on: where training ended, with the weights that stand in `coef_` and `intercept_` now."""
        if getattr(self, "coef_", None) is None:
            return None
        coef, intercept = (np.asarray(own) for own in (self.coef_, self.intercept_))  # type: ignore[attr-defined]
        for name, value, size in (("coef_", coef, n_outputs * shape[1]), ("intercept_", intercept, n_outputs)):
            if value.size != size or not np.isfinite(value).all():
                raise ValueError(f"{name}: got shape {value.shape}, wanted {size} finite numbers with partial_fit")
        kind = _kind(self)
        states, trained = getattr(self, "_states", []), getattr(self, "_trained", None)
        if len(states) != n_outputs or trained is None:
            if kind != ("sgd", False):
                raise ValueError(
                    "partial_fit: got an estimator without the state of its training, wanted one fitted by this class, or "
                    "solver='sgd' and average=False"
                )
            states = [_engine.plain_state(coef.dtype, shape[1], self.t_ - 1.0) for _ in range(n_outputs)]  # type: ignore[attr-defined]
        elif trained[0] != kind:
            raise ValueError(
                f"partial_fit: got solver={kind[0]!r} and average={kind[1]} after a training with solver={trained[0][0]!r} and "
                f"average={trained[0][1]}, wanted the same or fit"
            )
        elif np.array_equal(coef, trained[1]) and np.array_equal(intercept, trained[2]):
            return _engine.Start(states=states)
        return _engine.Start(states=_engine.with_weights(states, coef.reshape(n_outputs, -1), intercept))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.sparse = False
        return tags

    def _more_tags(self) -> dict[str, Any]:  # scikit-learn before 1.6
        return {
            "_xfail_checks": {
                "check_sample_weights_invariance": "weights count as repeated rows only in the limit of many epochs"
            }
        }


class SGDClassifier(_Mixin, linear_model.SGDClassifier):  # type: ignore[misc]
    """scikit-learn's `SGDClassifier` on gradfold's kernels; all parameters, plus `batch_size` and `solver`.

    Parameters
    ----------
    loss, penalty, alpha, l1_ratio, fit_intercept, max_iter, tol, shuffle, verbose, epsilon, random_state, \
learning_rate, eta0, power_t, early_stopping, validation_fraction, n_iter_no_change, class_weight, warm_start, average
        As in scikit-learn, with the defaults of the installed version; see `sklearn.linear_model.SGDClassifier`.
        `learning_rate` "pa1" and "pa2" are a ValueError; `verbose` is ignored.
    n_jobs : int, optional
        Threads. None and -1 are all processors; the result has the same bits for any number.
    batch_size : int or "auto"
        Rows of one update. 1 is plain SGD, the update of scikit-learn; more rows make an update of their mean
        gradient, so an epoch is faster and has fewer updates, and schedules and `average` count those. "auto" is
        ⌊n_rows / 1000⌋, at least 1 and at most 256: plain SGD for small data, where every update counts, and never
        fewer than 1,000 updates an epoch before batches reach 256 rows, where the kernels run at full speed.
    solver : {"sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"}
        The update. "sgd" is scikit-learn's. The last four need a `learning_rate` other than "optimal" and an `eta0` of
        their own kind (0.01, say); for "adamw" the L2 penalty is its decoupled weight decay.

    Attributes
    ----------
    coef_, intercept_, classes_, n_iter_, n_features_in_, feature_names_in_
        As in scikit-learn.
    t_ : float
        One more than the updates made; for `batch_size=1` as in scikit-learn.

    Notes
    -----
    The optimisation problem is scikit-learn's: the mean of the weighted losses plus the penalty, several classes one
    against the rest. With `batch_size=1` and `shuffle=False` an L2 penalty gives its weights up to rounding. What
    differs:

    - the order of rows is gradfold's own permutation, so `random_state` gives other weights than in scikit-learn;
    - an L1 penalty is a proximal step, where scikit-learn cuts off a cumulative one (Tsuruoka et al. 2009);
    - a row of weight 0 is no training row, where scikit-learn still decays the weights;
    - the objective that the stopping criterion watches is weighted as the training is, its penalty that of the epoch's
      end (scikit-learn takes the unweighted loss, and before it added the penalty, the loss alone);
    - sparse X is a TypeError: its kernels are not built yet.

    Examples
    --------
    >>> import numpy as np
    >>> from gradfold.sklearn import SGDClassifier
    >>> X = np.array([[-1.0, -1], [-2, -1], [1, 1], [2, 1]])
    >>> SGDClassifier(random_state=0).fit(X, [1, 1, 2, 2]).predict([[-0.8, -1]])
    array([1])
    """

    def __init__(
        self,
        loss: Any = _C["loss"],
        *,
        penalty: Any = _C["penalty"],
        alpha: Any = _C["alpha"],
        l1_ratio: Any = _C["l1_ratio"],
        fit_intercept: Any = _C["fit_intercept"],
        max_iter: Any = _C["max_iter"],
        tol: Any = _C["tol"],
        shuffle: Any = _C["shuffle"],
        verbose: Any = _C["verbose"],
        epsilon: Any = _C["epsilon"],
        n_jobs: Any = _C["n_jobs"],
        random_state: Any = _C["random_state"],
        learning_rate: Any = _C["learning_rate"],
        eta0: Any = _C["eta0"],
        power_t: Any = _C["power_t"],
        early_stopping: Any = _C["early_stopping"],
        validation_fraction: Any = _C["validation_fraction"],
        n_iter_no_change: Any = _C["n_iter_no_change"],
        class_weight: Any = _C["class_weight"],
        warm_start: Any = _C["warm_start"],
        average: Any = _C["average"],
        batch_size: Any = "auto",
        solver: Any = "sgd",
    ) -> None:
        super().__init__(
            loss=loss,
            penalty=penalty,
            alpha=alpha,
            l1_ratio=l1_ratio,
            fit_intercept=fit_intercept,
            max_iter=max_iter,
            tol=tol,
            shuffle=shuffle,
            verbose=verbose,
            epsilon=epsilon,
            n_jobs=n_jobs,
            random_state=random_state,
            learning_rate=learning_rate,
            eta0=eta0,
            power_t=power_t,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            class_weight=class_weight,
            warm_start=warm_start,
            average=average,
        )
        self.batch_size = batch_size
        self.solver = solver

    def fit(
        self, X: Any, y: Any, coef_init: Any = None, intercept_init: Any = None, sample_weight: Any = None
    ) -> SGDClassifier:
        """Fit the model.

        Parameters
        ----------
        X : array_like of shape (n_rows, n_features)
            float32 and float64 train in their own type, all else as float64.
        y : array_like of shape (n_rows,)
            Labels of two classes or more.
        coef_init, intercept_init : array_like, optional
            Of shapes (n_classes, n_features) and (n_classes,); for two classes one row each.
        sample_weight : array_like of shape (n_rows,), optional
            At least 0.

        Returns
        -------
        SGDClassifier
            The estimator itself.
        """
        self._validate_params()
        check_own(self.get_params(deep=False))
        X, y = _compat.validate_data(self, X, y, accept_sparse=False, dtype=[np.float64, np.float32], order="C")
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"The number of classes has to be greater than one; got {len(classes)} class")
        start = self._begin(X, len(classes) if len(classes) > 2 else 1, coef_init, intercept_init)
        self._fit_rows(X, codes, classes, sample_weight, start)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> SGDClassifier:
        """Go on for one epoch over these rows, from where the last `fit` or `partial_fit` ended.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`; y need not hold every class.
        classes : array_like of shape (n_classes,), optional
            All labels; wanted by the first call.

        Returns
        -------
        SGDClassifier
            The estimator itself.
        """
        self._validate_params()
        check_own(self.get_params(deep=False))
        first = getattr(self, "coef_", None) is None
        if self.early_stopping:
            raise ValueError("early_stopping: got True, wanted False with partial_fit")
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight: got 'balanced', wanted None or a dict with partial_fit, which cannot count the classes; "
                "sklearn.utils.class_weight.compute_class_weight makes one"
            )
        dtype = [np.float64, np.float32] if first else self.coef_.dtype
        X, y = _compat.validate_data(self, X, y, accept_sparse=False, dtype=dtype, order="C", reset=first)
        if first:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            known = np.unique(np.asarray(classes))
        else:
            known = self.classes_
            if classes is not None and not np.array_equal(known, np.unique(np.asarray(classes))):
                raise ValueError(
                    f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {known!r}"
                )
        if len(known) < 2:
            raise ValueError(f"The number of classes has to be greater than one; got {len(known)} class")
        unknown = np.setdiff1d(y, known)
        if len(unknown):
            raise ValueError(f"y: got the label {unknown.tolist()[0]!r}, wanted one of classes")
        start = self._go_on(len(known) if len(known) > 2 else 1, X.shape)
        self._fit_rows(X, np.searchsorted(known, y), known, sample_weight, start, max_iter=1)
        return self


class SGDRegressor(_Mixin, linear_model.SGDRegressor):  # type: ignore[misc]
    """scikit-learn's `SGDRegressor` on gradfold's kernels; all parameters, plus `batch_size` and `solver`.

    Parameters
    ----------
    loss, penalty, alpha, l1_ratio, fit_intercept, max_iter, tol, shuffle, verbose, epsilon, random_state, \
learning_rate, eta0, power_t, early_stopping, validation_fraction, n_iter_no_change, warm_start, average
        As in scikit-learn, with the defaults of the installed version; see `sklearn.linear_model.SGDRegressor`.
    batch_size, solver
        As in `SGDClassifier`.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
    intercept_ : ndarray of shape (1,)
    n_iter_, t_, n_features_in_, feature_names_in_
        As in `SGDClassifier`.

    Notes
    -----
    What is the same as in scikit-learn and what differs is said for `SGDClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> from gradfold.sklearn import SGDRegressor
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> bool(abs(SGDRegressor(random_state=0, max_iter=200, tol=None).fit(X, 3 * X[:, 0]).coef_[0] - 3) < 0.1)
    True
    """

    def __init__(
        self,
        loss: Any = _R["loss"],
        *,
        penalty: Any = _R["penalty"],
        alpha: Any = _R["alpha"],
        l1_ratio: Any = _R["l1_ratio"],
        fit_intercept: Any = _R["fit_intercept"],
        max_iter: Any = _R["max_iter"],
        tol: Any = _R["tol"],
        shuffle: Any = _R["shuffle"],
        verbose: Any = _R["verbose"],
        epsilon: Any = _R["epsilon"],
        random_state: Any = _R["random_state"],
        learning_rate: Any = _R["learning_rate"],
        eta0: Any = _R["eta0"],
        power_t: Any = _R["power_t"],
        early_stopping: Any = _R["early_stopping"],
        validation_fraction: Any = _R["validation_fraction"],
        n_iter_no_change: Any = _R["n_iter_no_change"],
        warm_start: Any = _R["warm_start"],
        average: Any = _R["average"],
        batch_size: Any = "auto",
        solver: Any = "sgd",
    ) -> None:
        super().__init__(
            loss=loss,
            penalty=penalty,
            alpha=alpha,
            l1_ratio=l1_ratio,
            fit_intercept=fit_intercept,
            max_iter=max_iter,
            tol=tol,
            shuffle=shuffle,
            verbose=verbose,
            epsilon=epsilon,
            random_state=random_state,
            learning_rate=learning_rate,
            eta0=eta0,
            power_t=power_t,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            warm_start=warm_start,
            average=average,
        )
        self.batch_size = batch_size
        self.solver = solver

    def fit(
        self, X: Any, y: Any, coef_init: Any = None, intercept_init: Any = None, sample_weight: Any = None
    ) -> SGDRegressor:
        """Fit the model.

        Parameters
        ----------
        X : array_like of shape (n_rows, n_features)
            float32 and float64 train in their own type, all else as float64.
        y : array_like of shape (n_rows,)
            Targets; converted to X's dtype.
        coef_init, intercept_init : array_like, optional
            Of shapes (n_features,) and (1,).
        sample_weight : array_like of shape (n_rows,), optional
            At least 0.

        Returns
        -------
        SGDRegressor
            The estimator itself.
        """
        X, y = self._read(X, y, reset=True)
        self._fit_rows(X, y, None, sample_weight, self._begin(X, 1, coef_init, intercept_init))
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> SGDRegressor:
        """Go on for one epoch over these rows, from where the last `fit` or `partial_fit` ended.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        SGDRegressor
            The estimator itself.
        """
        if self.early_stopping:
            raise ValueError("early_stopping: got True, wanted False with partial_fit")
        X, y = self._read(X, y, reset=getattr(self, "coef_", None) is None)
        self._fit_rows(X, y, None, sample_weight, self._go_on(1, X.shape), max_iter=1)
        return self

    def _read(self, X: Any, y: Any, *, reset: bool) -> tuple[Array, Array]:
        self._validate_params()
        check_own(self.get_params(deep=False))
        dtype = [np.float64, np.float32] if reset else self.coef_.dtype
        X, y = _compat.validate_data(
            self, X, y, accept_sparse=False, dtype=dtype, order="C", reset=reset, y_numeric=True
        )
        with np.errstate(over="ignore"):
            y = y.astype(X.dtype, copy=False)
        if not np.isfinite(y).all():
            raise ValueError(f"y: got a value beyond {X.dtype}, wanted numbers that are finite in X's dtype")
        return X, y
