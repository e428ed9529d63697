"""`class_weight`: factors on the sample weights of training rows, one for each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _ordered

Array = npt.NDArray[Any]


def read(value: object, classes: Array | None, dtype: np.dtype[Any]) -> str | Array | None:
    """The argument `class_weight`: None, "balanced", or a float64 factor for each of `classes`.

    A mapping names labels as they stand in y; labels that it leaves out have the factor 1.

    Raises
    ------
    ValueError
        Another text, a regression, a label that y does not hold, or a factor that is negative, or infinite in `dtype`, or
        above 0 and 0 in `dtype`.
    TypeError
        Neither text nor a mapping, or a factor that is no number.
    """
    if value is None:
        return None
    if not isinstance(value, (str, Mapping)):
        raise TypeError(f"class_weight: got {_check.describe(value)}, wanted None, 'balanced' or a mapping from labels")
    if isinstance(value, str):
        _check.choice("class_weight", value, ("balanced",))
    if classes is None:
        raise ValueError("class_weight: got one with a regression, wanted None, or labels as y")
    if isinstance(value, str):
        return value
    labels = classes.tolist()
    factors = np.ones(len(labels))
    for label, factor in value.items():
        if label not in labels:
            raise ValueError(
                f"class_weight: got the label {label!r}, wanted labels of y: "
                f"{', '.join(map(repr, labels[:5]))}{', …' if len(labels) > 5 else ''}"
            )
        given = _check.real(f"class_weight[{label!r}]", factor)
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(dtype.type(given))
        if not np.isfinite(rounded) or (rounded == 0) != (given == 0):
            raise ValueError(f"class_weight[{label!r}]: got {factor!r}, which is {rounded} in {dtype}")
        factors[labels.index(label)] = given
    return factors


def balanced(codes: Array, n_classes: int, weight: Array | None) -> Array:
    """Factors that give every class the same total weight; float64, shape (n_classes,).

    scikit-learn's formula, ``Σ w / (k · Σ w of the class)`` with k the number of classes that occur, so that a weight of
    3 counts three times; without weights it is ``n / (k · n of the class)``. A class that does not occur has factor 1.

    Parameters
    ----------
    codes : ndarray of int, shape (n_training_rows,)
        The class of each training row.
    n_classes : int
    weight : ndarray of shape (n_training_rows,) or None
        Rows of weight 0 are no training rows.
    """
    if weight is None:
        sums = np.bincount(codes, minlength=n_classes).astype(np.float64)
    else:
        w = weight.astype(np.float64)
        sums = np.array([_ordered.total(np.where(codes == k, w, 0.0)) for k in range(n_classes)])
    occurs = sums > 0
    factors = np.ones(n_classes)
    # Divided in this order, k · Σ is exact for counts, and each factor is one division.
    factors[occurs] = _ordered.total(sums) / (np.count_nonzero(occurs) * sums[occurs])
    return factors


def applied(factors: Array, codes: Array, weight: Array | None, dtype: np.dtype[Any]) -> Array:
    """The training weight of each row: factor times sample weight in float64, rounded once to `dtype`."""
    product = factors[codes]
    with np.errstate(invalid="ignore", over="ignore"):  # an infinite weight on a row that nobody trains on
        if weight is not None:
            product = product * weight.astype(np.float64)
        return np.ascontiguousarray(product, dtype=dtype)
