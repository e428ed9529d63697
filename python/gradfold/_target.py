"""Reading y: which loss it asks for, and its labels as numbers.

The rules of `loss="auto"`, in this order:

- booleans, text, other objects and integers are labels. Two distinct ones are encoded, the larger positive, for
  "log_loss"; 3 to 1,000 are encoded as 0, 1, … in ascending order for "multinomial" (whoever means regression says so,
  with `loss="squared_error"` or by passing floats);
- floats that are all in {0, 1} or all in {-1, 1} are labels too;
- all other floats are targets of "squared_error".

With a loss of two classes by name numbers must be in {0, 1} or {-1, 1} already; text and other objects are encoded as
above. With `loss="multinomial"` labels of every type are encoded, floats too, and two of them are enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check
from gradfold import loss as _loss

Array = npt.NDArray[Any]

# Rows looked at between two chances for a signal handler to run; sorting this many labels takes some 50 ms.
_STEP, _FIRST = 1 << 19, 1 << 10

MOST_CLASSES = 1000  # of the multinomial loss


@dataclass
class Target:
    """y as the kernels read it.

    Attributes
    ----------
    loss : str
        A name that `gradfold.loss.get` knows.
    y : ndarray of shape (n_rows,)
        In X's dtype. For a loss of two classes every value above 0 is the positive class; for multinomial, codes: the
        index of the row's label in `classes`.
    classes : ndarray of shape (n_classes,) or None
        The labels as they came: the negative and the positive one, or all in ascending order. None for a regression.
    """

    loss: str
    y: Array
    classes: Array | None

    @property
    def n_outputs(self) -> int:
        """Raw predictions of one row: the number of classes for multinomial, else 1."""
        return len(self.classes) if self.loss == "multinomial" and self.classes is not None else 1


def read(y: object, loss: str, n_rows: int, dtype: np.dtype[Any], check_finite: bool, n_threads: int) -> Target:
    """Read y for `loss`, a name or "auto".

    Raises
    ------
    ValueError
        A shape other than (n_rows,), one label only or more than the loss takes, values outside the domain of the loss, or,
        with `check_finite`, values that are not finite.
    TypeError
        Dates, complex numbers, or text for a regression.
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
            return _encoded(array, dtype, loss)
    elif loss == "multinomial" or (loss in _loss.BINARY and text):
        return _encoded(array, dtype, loss)
    values = _check.per_row("y", array, n_rows, dtype)
    if check_finite:
        check_domain(values, loss, n_threads)
    if loss not in _loss.BINARY:
        return Target(loss, values, None)
    negative = -1 if any((values[a:b] == -1).any() for a, b in _blocks(n_rows)) else 0
    classes = np.array([False, True]) if kind == "b" else np.array([negative, 1]).astype(array.dtype)
    return Target(loss, values, classes)


def check_domain(y: Array, loss: str, n_threads: int, n_outputs: int = 1) -> None:
    """Raise a ValueError that names the first row whose y does not suit the loss."""
    if loss == "multinomial":
        for a, b in _blocks(len(y)):
            outside = ~((y[a:b] >= 0) & (y[a:b] < n_outputs) & (y[a:b] == np.floor(y[a:b])))
            if outside.any():
                row = a + int(outside.argmax())
                raise ValueError(f"y: got {y[row]} at row {row}, wanted class codes 0 to {n_outputs - 1} for loss='multinomial'")
        return
    if loss not in _loss.BINARY:
        _check.finite("y", y, n_threads)
        return
    first = _first_outside(y, 0), _first_outside(y, -1)
    if first[0] is not None and first[1] is not None:
        row = max(first[0], first[1])
        raise ValueError(
            f"y: got {y[row]} at row {row}, wanted labels in {{0, 1}} or {{-1, 1}} for loss={loss!r} "
            "(fit with loss='auto' encodes labels of any type)"
        )


def _encoded(y: Array, dtype: np.dtype[Any], loss: str) -> Target:
    """Labels of any type as codes: 0 and 1 for a loss of two classes, 0, 1, … in ascending order for multinomial."""
    most = 2 if loss in _loss.BINARY else MOST_CLASSES
    labels = _distinct(y, most)
    few = f"{', '.join(repr(v) for v in labels[:3])}{', …' if len(labels) > 3 else ''}"
    if len(labels) > most:
        advice = "; for regression pass loss='squared_error', or y as floats" if y.dtype.kind in "iu" else ""
        if loss in _loss.BINARY:
            raise ValueError(f"y: got more than two labels ({few}), wanted two for loss={loss!r}, or loss='multinomial'")
        raise ValueError(f"y: got more than {most:,} labels ({few}), wanted at most {most:,} classes{advice}")
    if len(labels) < 2:
        raise ValueError(f"y: got the one label {labels[0]!r} only, wanted two (or a loss by name)")
    if loss == "auto":
        loss = "log_loss" if len(labels) == 2 else "multinomial"
    classes = np.array(labels) if y.dtype.kind == "O" else np.array(labels, dtype=y.dtype.newbyteorder("="))
    if classes.tolist() != labels:
        # NumPy's text drops trailing NULs, and an integer beside a float is rounded to a float.
        got, kept = next(pair for pair in zip(labels, classes.tolist(), strict=True) if pair[0] != pair[1])
        raise ValueError(
            f"y: got the labels {few}, of which NumPy keeps {got!r} as {kept!r}; wanted labels that an array holds unchanged"
        )
    out = np.empty(len(y), dtype)
    code_of = {label: code for code, label in enumerate(labels)}
    for a, b in _blocks(len(y)):
        if len(labels) == 2:
            out[a:b] = y[a:b] == labels[1]
        elif y.dtype.kind == "O":
            out[a:b] = [code_of[label] for label in y[a:b]]
        else:
            out[a:b] = np.searchsorted(classes, y[a:b])
    return Target(loss, out, classes)


def _distinct(y: Array, most: int) -> list[Any]:
    """The distinct labels in ascending order; the search ends when there are more than `most`."""
    found: set[Any] = set()
    for a, b in _blocks(len(y)):
        block = y[a:b]
        if y.dtype.kind == "O":
            for label in block:
                if not isinstance(label, (str, bytes, bool, int, float, np.generic)) or label != label:
                    raise ValueError(f"y: got the label {label!r}, wanted text or numbers")
                found.add(label)
                if len(found) > most:
                    break
        else:
            if y.dtype.kind == "f" and not np.isfinite(block).all():
                row = a + int((~np.isfinite(block)).argmax())
                raise ValueError(f"y: got {y[row]} at row {row}, wanted finite labels")
            if 0 < len(found) <= 2:  # most often there are no others
                block = block[np.logical_and.reduce([block != label for label in found])]
            found.update(np.unique(block).tolist())
        if len(found) > most:
            break
    try:
        return sorted(found)
    except TypeError:
        few = ", ".join(repr(label) for label in list(found)[:3])
        raise ValueError(f"y: got labels of mixed types, {few}, wanted one type") from None


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
    """Consecutive (first, last + 1) rows; the first block is small, since most searches end there."""
    yield 0, min(_FIRST, n)
    for a in range(_FIRST, n, _STEP):
        yield a, min(a + _STEP, n)
