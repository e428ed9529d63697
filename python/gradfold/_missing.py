"""`missing="mean"`: a missing cell counts as the mean of its column over the split's own training rows.

There is one private copy of X, whose missing cells are filled anew whenever a trainer of another split goes on; the
caller's array is never written to. The means are float64 sums in row order of weight times value over the sum of the
weights, so that no held-out row reaches them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _ordered

Array = npt.NDArray[Any]

MODES = ("error", "mean")

_STEP = 1 << 20  # missing cells filled at once


class Filled:
    """A copy of X whose missing cells hold what `fill` was last given.

    Attributes
    ----------
    X : ndarray of shape (n_rows, n_features)
        The copy, or, where nothing is missing, the caller's own array.
    """

    def __init__(self, X: Array) -> None:
        self._cells = _missing_cells(X)
        self.any = bool(len(self._cells))
        self.columns = np.unique(self._cells % X.shape[1])
        self.X = X
        self._current: Array | None = None
        if self.any:
            self.X = X.copy()
            self.fill(np.zeros(X.shape[1], X.dtype))

    def fill(self, values: Array) -> None:
        """Write `values`, shape (n_features,), into the missing cells; nothing to do if they hold it."""
        if not self.any or values is self._current:
            return
        flat = self.X.reshape(-1)
        for a in range(0, len(self._cells), _STEP):
            cells = self._cells[a : a + _STEP]
            flat[cells] = values[cells % self.X.shape[1]]
        self._current = values


def means(X: Array, rows: Array, weight: Array | None, columns: Array, where: str) -> Array:
    """The weighted mean of the cells of `rows` that are there, for each of `columns`; 0 elsewhere, in X's dtype.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        With NaN where a cell is missing.
    rows : ndarray of int64
        Training rows, ascending.
    weight : ndarray of shape (n_rows,) or None
        Training weights.
    where : str
        What these rows are, for the message.

    Raises
    ------
    ValueError
        A column with no cell of positive weight among `rows`, or whose mean is not finite.
    """
    w = np.ones(len(rows)) if weight is None else weight[rows].astype(np.float64)
    used = w > 0
    rows, w = rows[used], w[used]
    out = np.zeros(X.shape[1], X.dtype)
    for column in columns:
        values = X[rows, column].astype(np.float64)
        there = ~np.isnan(values)
        own = np.where(there, w, 0.0)
        total = _ordered.total(own)
        if not total > 0:
            raise ValueError(
                f"X: got column {column} with no value in the training rows of {where}, so it has no mean; wanted at "
                "least one value (or leave the column out)"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            mean = _ordered.total(np.where(there, own * values, 0.0)) / total
            out[column] = mean
        if not np.isfinite(out[column]):
            raise ValueError(f"X: got a mean of {mean} in column {column} over the training rows of {where}")
    return out


def filled_rows(X: Array, values: Array) -> Array:
    """`X`, or a copy whose NaNs are `values` of their columns."""
    missing = np.isnan(X)
    return np.where(missing, values.astype(X.dtype), X) if missing.any() else X


def _missing_cells(X: Array) -> Array:
    """Places of the NaNs in X laid flat, int64, ascending."""
    found = []
    for a, b in _check.row_blocks(X):
        cells = np.flatnonzero(np.isnan(X[a:b]))
        found.append(cells + a * X.shape[1])
    return np.concatenate(found).astype(np.int64, copy=False)
