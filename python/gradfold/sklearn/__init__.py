"""Drop-in edges for scikit-learn: change one import and keep the code.

`SGDClassifier` and `SGDRegressor` have scikit-learn's parameters and attributes, plus `batch_size` and `solver`.
`GridSearchCV` and `RandomizedSearchCV` train all candidates on all splits in lock-step instead of one after another.
What is the same as in scikit-learn, and what differs, stands in docs/scikit-learn.md. Needs scikit-learn 1.4 or later.
"""

from __future__ import annotations

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError:
    raise ImportError("gradfold.sklearn needs scikit-learn: pip install 'gradfold[sklearn]'") from None

from gradfold.sklearn._estimators import SGDClassifier, SGDRegressor
from gradfold.sklearn._search import GridSearchCV, RandomizedSearchCV

__all__ = ["GridSearchCV", "RandomizedSearchCV", "SGDClassifier", "SGDRegressor"]
