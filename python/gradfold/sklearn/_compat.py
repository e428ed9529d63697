"""scikit-learn's own helpers, where versions 1.4 and later differ. Nothing else here imports a private name of it."""

from __future__ import annotations

import inspect
from typing import Any

from sklearn.metrics._scorer import _MultimetricScorer
from sklearn.model_selection._validation import _score
from sklearn.utils.validation import _check_method_params, _check_sample_weight

try:
    from sklearn.utils.validation import validate_data as _validate_data
except ImportError:  # before 1.6
    _validate_data = None

__all__ = ["check_method_params", "sample_weight", "score", "scorers", "validate_data"]


def validate_data(estimator: Any, *args: Any, **options: Any) -> Any:
    """X, or X and y, as arrays; `n_features_in_` and `feature_names_in_` are set or checked."""
    if _validate_data is None:
        return estimator._validate_data(*args, **options)
    return _validate_data(estimator, *args, **options)


def sample_weight(value: Any, X: Any) -> Any:
    """Sample weights as an array of X's dtype; None stays None."""
    return None if value is None else _check_sample_weight(value, X, dtype=X.dtype)


def check_method_params(X: Any, params: Any, indices: Any = None) -> Any:
    """`fit`'s parameters, those with one entry a row cut to `indices`."""
    return _check_method_params(X, params=params, indices=indices)


def scorers(search: Any) -> tuple[Any, Any]:
    """What `search` scores with, and the name of the metric that chooses."""
    if inspect.signature(search._get_scorers).parameters:  # 1.4
        found, metric = search._get_scorers(convert_multimetric=True)
    else:
        found, metric = search._get_scorers()
    if isinstance(found, dict):
        found = _MultimetricScorer(scorers=found, raise_exc=search.error_score == "raise")
    return found, metric


def score(estimator: Any, X: Any, y: Any, scorer: Any, params: Any, error_score: Any) -> Any:
    """A number, or a dict of numbers for several metrics."""
    return _score(estimator, X, y, scorer, params, error_score)
