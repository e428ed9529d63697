"""Scores of many models, from raw predictions that are computed for all of them at once.

A scorer of scikit-learn only asks an estimator for its predictions. Those that gradfold has too are computed by its
kernels, for all models together; for the others scikit-learn's own scorer is handed an estimator whose raw predictions
are known already. Only a function of the user's own gets a fitted estimator and X.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import linear_model

from gradfold import metrics
from gradfold.run import _raw
from gradfold.sklearn import _compat, _engine, _estimators

Array = npt.NDArray[Any]

_BLOCK_BYTES = 64 << 20  # raw predictions held at once

# Names of scikit-learn's scorers whose values `gradfold.metrics` has, and for which labels.
_REGRESSION = ("r2", "neg_mean_squared_error", "neg_root_mean_squared_error", "neg_mean_absolute_error")
_LABELS = (
    "accuracy",
    "balanced_accuracy",
    "matthews_corrcoef",
    *(f"{name}_{average}" for name in ("f1", "precision", "recall") for average in ("macro", "micro", "weighted")),
)
_TWO_LABELS = ("roc_auc",)
_ZERO_ONE = ("f1", "precision", "recall", "average_precision")  # scikit-learn's positive label is 1, whatever the other is


class Judge:
    """Scores models as one search asks for it.

    Parameters
    ----------
    scoring : object
        As the search has it.
    scorer : callable
        scikit-learn's, made of it.
    error_score : float or "raise"
    data : Data
    """

    def __init__(self, scoring: Any, scorer: Any, error_score: Any, data: _engine.Data) -> None:
        self.scorer, self.error_score, self.data = scorer, error_score, data
        given = list(scoring.values()) if isinstance(scoring, Mapping) else [scoring]
        # What `make_scorer` makes only asks for predictions; any other function may look at what it likes.
        self.opaque = any(callable(one) and not hasattr(one, "_score_func") for one in given)
        self.names: dict[str, str] | None = None  # None: some scorer has no name
        if scoring is None:
            self.names = {"": "r2" if data.classes is None else "accuracy"}
        elif isinstance(scoring, str):
            self.names = {"": scoring}
        elif isinstance(scoring, (list, tuple, set)):
            self.names = {name: name for name in scoring}
        elif isinstance(scoring, Mapping) and all(isinstance(one, str) for one in given):
            self.names = dict(scoring)

    def ask(self, estimator: Any, X: Any, y: Any, params: Mapping[str, Any]) -> Any:
        """scikit-learn's scorer on one estimator: a number, or a dict of them."""
        return _compat.score(estimator, X, y, self.scorer, params, self.error_score)

    def scores(
        self, models: Sequence[_engine.Model], losses: Sequence[str], rows: Array, y: Any, params: Mapping[str, Any]
    ) -> list[Any]:
        """Each model's score on these rows; the models train on the same labels."""
        out: list[Any] = []
        X = np.ascontiguousarray(self.data.X[rows])
        for block, raw in _blocks(models, X, self.data.n_threads):
            first = len(out)
            known = self._by_kernels(block, rows, y, raw, params)
            for i, model in enumerate(block):
                score = None if known is None else known[i]
                if score is None:
                    # scikit-learn's own, which also knows what to say of predictions that are not finite.
                    estimator = _stand_in(model, losses[first + i], np.ascontiguousarray(raw[:, :, i]))
                    score = self.ask(estimator, X, y, params)
                out.append(score)
        return out

    def _by_kernels(
        self, models: Sequence[_engine.Model], rows: Array, y: Any, raw: Array, params: Mapping[str, Any]
    ) -> list[Any] | None:
        """The scores by gradfold's own kernels; None where they have no such metric, or for a model's whose is NaN."""
        weight = params.get("sample_weight")
        if self.names is None or set(params) - {"sample_weight"} or not self._known(models[0], rows):
            return None
        if weight is not None and not (np.asarray(weight) > 0).any():
            return None
        classes = self.data.classes
        kind = "squared_error" if classes is None else "hinge" if raw.shape[1] == 1 else "multinomial"
        target = np.asarray(y, np.float64).reshape(-1) if classes is None else self.data.y[rows].astype(np.float64)
        values = {}
        for key, name in self.names.items():
            scoring = metrics.SCORINGS[name]
            values[key] = scoring.sign * metrics.evaluate(
                scoring.metric,
                target,
                raw if kind == "multinomial" else raw[:, 0],
                loss=kind,
                sample_weight=weight,
                average=scoring.options.average,
                n_threads=self.data.n_threads,
            )
        finite = np.logical_and.reduce([np.isfinite(value) for value in values.values()])
        if "" in values:
            return [float(v) if ok else None for v, ok in zip(values[""], finite)]
        return [{key: float(v[i]) for key, v in values.items()} if finite[i] else None for i in range(len(models))]

    def _known(self, model: _engine.Model, rows: Array) -> bool:
        """Whether gradfold has every metric asked for, with scikit-learn's meaning for these labels."""
        assert self.names is not None
        names, classes = set(self.names.values()), self.data.classes
        if classes is None:
            return names <= set(_REGRESSION) and len(rows) > 1
        # A label that only one side has is for scikit-learn to judge.
        present = np.bincount(self.data.y[rows], minlength=len(classes)) > 0
        if model.classes is None or len(model.classes) != len(classes) or not present.all():
            return False
        possible = set(_LABELS)
        if len(classes) == 2:
            possible |= set(_TWO_LABELS)
            if classes.dtype.kind in "biuf" and classes[1] == 1 and classes[0] in (0, -1):
                possible |= set(_ZERO_ONE)
        return names <= possible


def _stand_in(model: _engine.Model, loss: str, raw: Array) -> Any:
    """An estimator whose raw predictions, of shape (n_rows, n_outputs), are known."""
    kind = _KnownRegressor if model.classes is None else _KnownClassifier
    estimator = kind(loss=loss)
    _estimators.set_fitted(estimator, model, one_row=model.classes is None)
    estimator.n_features_in_ = model.coef.shape[1]
    estimator._known = raw[:, 0] if raw.shape[1] == 1 else raw
    return estimator


class _KnownClassifier(linear_model.SGDClassifier):  # type: ignore[misc]
    """A classifier whose decision function has been computed; X is not looked at."""

    def decision_function(self, X: Any) -> Array:
        return self._known.copy()  # type: ignore[no-any-return]  # scikit-learn's predict_proba works in place


class _KnownRegressor(linear_model.SGDRegressor):  # type: ignore[misc]
    """A regressor whose predictions have been computed; X is not looked at."""

    def predict(self, X: Any) -> Array:
        return self._known.copy()  # type: ignore[no-any-return]


def _blocks(
    models: Sequence[_engine.Model], X: Array, n_threads: int
) -> Iterator[tuple[Sequence[_engine.Model], Array]]:
    """Models and their raw predictions, shape (n_rows, n_outputs, n_models), as many at once as memory is meant for."""
    if not models:
        return
    outputs = len(models[0].coef)
    step = max(1, _BLOCK_BYTES // max(1, len(X) * X.itemsize * outputs))
    for a in range(0, len(models), step):
        block = models[a : a + step]
        coef = np.concatenate([model.coef for model in block])
        raw = _raw(X, coef, np.concatenate([model.intercept for model in block]), n_threads)
        yield block, raw.reshape(len(X), len(block), outputs).transpose(0, 2, 1)
