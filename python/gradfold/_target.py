"""Reading y: which loss it asks for, and its labels as numbers.

The rules of `loss="auto"`, in this order:

- booleans, text, other objects and integers are labels. Two distinct ones are encoded, the larger positive, for
  "log_loss"; more are an error until the multinomial loss exists (whoever means regression says so, with
  `loss="squared_error"` or by passing floats);
- floats that are all in {0, 1} or all in {-1, 1} are labels too;
- all other floats are targets of "squared_error".

With `loss="log_loss"` numbers must be in {0, 1} or {-1, 1} already; text and other objects are encoded as above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check

Array = npt.NDArray[Any]

# Rows looked at between two chances for a signal handler to run; sorting this many labels takes some 50 ms.
_STEP = 1 << 19


@dataclass
class Target:
    """y as the kernels read it.

    Attributes
    ----------
    loss : str
        "log_loss" or "squared_error".
    y : ndarray of shape (n_rows,)
        In X's dtype. For log_loss every value above 0 is the positive class.
    classes : ndarray of shape (2,) or None
        The negative and the positive label, as they came.
    """

    loss: str
    y: Array
    classes: Array | None


def read(y: object, loss: str, n_rows: int, dtype: np.dtype[Any], check_finite: bool, n_threads: int) -> Target:
    """Read y for `loss`, a name or "auto".

    Raises
    ------
    ValueError
        A shape other than (n_rows,), fewer or more than two labels, values outside the domain of the loss, or, with
        `check_finite`, values that are not finite.
    TypeError
        Dates, complex numbers, or text for squared_error.
    """
    _check.refuse_sparse("y", y)
    array = _check.plain_array("y", y, f"shape ({n_rows},)")
    if array.shape != (n_rows,):
        raise ValueError(f"y: got shape {array.shape}, wanted ({n_rows},), one for each row of X")
    kind = array.dtype.kind
    if kind in "cmMV":
        raise TypeError(f"y: got dtype {array.dtype}, wanted numbers or labels")
    if kind == "T":
        array, kind = array.astype(object), "O"
    text = kind in "USO"

    if loss == "auto":
        if kind == "f" and not _within(array, 0) and not _within(array, -1):
            loss = "squared_error"
        else:
            return _encoded(array, dtype)
    elif loss == "log_loss" and text:
        return _encoded(array, dtype)
    values = _check.per_row("y", array, n_rows, dtype)
    if check_finite:
        check_domain(values, loss, n_threads)
    if loss != "log_loss":
        return Target(loss, values, None)
    negative = -1 if any((values[a:b] == -1).any() for a, b in _blocks(n_rows)) else 0
    classes = np.array([False, True]) if kind == "b" else np.array([negative, 1]).astype(array.dtype)
    return Target(loss, values, classes)


def check_domain(y: Array, loss: str, n_threads: int) -> None:
    """Raise a ValueError that names the first row whose y does not suit the loss."""
    if loss != "log_loss":
        _check.finite("y", y, n_threads)
        return
    first = _first_outside(y, 0), _first_outside(y, -1)
    if first[0] is not None and first[1] is not None:
        row = max(first[0], first[1])
        raise ValueError(
            f"y: got {y[row]} at row {row}, wanted labels in {{0, 1}} or {{-1, 1}} for loss='log_loss' "
            "(fit with loss='auto' encodes two labels of any type)"
        )


def _encoded(y: Array, dtype: np.dtype[Any]) -> Target:
    """Two labels of any type as 0 and 1."""
    labels = _distinct(y)
    if len(labels) > 2:
        advice = "; for regression pass loss='squared_error', or y as floats" if y.dtype.kind in "iu" else ""
        raise ValueError(
            f"y: got more than two labels ({', '.join(repr(v) for v in labels[:3])}, …); the multinomial loss does not "
            f"exist in this version, wanted two labels{advice}"
        )
    if len(labels) < 2:
        raise ValueError(f"y: got the one label {labels[0]!r} only, wanted two (or a loss by name)")
    classes = np.array(labels) if y.dtype.kind == "O" else np.array(labels, dtype=y.dtype.newbyteorder("="))
    if classes.tolist() != labels:
        # NumPy's text drops trailing NULs, and an integer beside a float is rounded to a float.
        raise ValueError(
            f"y: got the labels {labels[0]!r} and {labels[1]!r}, which NumPy keeps as {classes.tolist()}; "
            "wanted labels that an array holds unchanged"
        )
    out = np.empty(len(y), dtype)
    for a, b in _blocks(len(y)):
        out[a:b] = y[a:b] == labels[1]
    return Target("log_loss", out, classes)


def _distinct(y: Array) -> list[Any]:
    """The distinct labels in ascending order; the search ends when there are more than two."""
    found: set[Any] = set()
    for a, b in _blocks(len(y)):
        block = y[a:b]
        if y.dtype.kind == "O":
            for label in block:
                if not isinstance(label, (str, bytes, bool, int, float, np.generic)) or label != label:
                    raise ValueError(f"y: got the label {label!r}, wanted text or numbers")
                found.add(label)
                if len(found) > 2:
                    break
        else:
            found.update(np.unique(block).tolist())
        if len(found) > 2:
            break
    try:
        return sorted(found)
    except TypeError:
        raise ValueError(f"y: got labels of mixed types, {', '.join(map(repr, found))}, wanted one type") from None


def _within(y: Array, low: int) -> bool:
    return _first_outside(y, low) is None


def _first_outside(y: Array, low: int) -> int | None:
    """The first row whose y is neither `low` nor 1."""
    for a, b in _blocks(len(y)):
        outside = (y[a:b] != low) & (y[a:b] != 1)
        if outside.any():
            return a + int(outside.argmax())
    return None


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    for a in range(0, n, _STEP):
        yield a, min(a + _STEP, n)
