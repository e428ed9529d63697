"""Weights, means and comoments of what each split trains on: those of the other folds, added up.

Disjoint cells of rows are read once, each from its own rows alone; what a split trains on is the cells before those that
it scores, added in ascending order, and the cells after them, added in descending order. Nothing is ever subtracted, so a
held-out row touches nothing. All in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _core, _splits

Array = npt.NDArray[Any]

# More ids than this on an id row are not read as cells, whose comoments would all have to be held at once.
_MOST_CELLS = 64
_SKIP = np.iinfo(np.uint8).max  # of the ids as they are sorted


@dataclass(frozen=True)
class Sums:
    """Of some rows: Σw, the weighted means of the features and y, and Σ w (a − mean a) (b − mean b)."""

    weight: float
    mean: Array
    comoment: Array

    def scales(self, n_rows: int) -> Array:
        """The standard deviation of each feature; −1 for one that is constant up to rounding of `n_rows` rows."""
        return _core.optimum.column_scales(self.weight, self.mean, self.comoment, n_rows)

    @staticmethod
    def total(parts: Iterable[Sums], size: int) -> Sums:
        """All of them, added in this order."""
        own: Sums | None = None
        for part in parts:
            if part.weight == 0:
                continue
            if own is None:
                own = Sums(part.weight, part.mean.copy(), part.comoment.copy())
                continue
            weight = _core.optimum.add_moments(
                own.weight, own.mean, own.comoment, part.weight, part.mean, part.comoment
            )
            own = Sums(weight, own.mean, own.comoment)
        return Sums(0.0, np.zeros(size), np.zeros((size, size))) if own is None else own


class Moments:
    """`Sums` of splits, made when they are asked for; the cells of an id row are read once."""

    def __init__(self, X: Array, y: Array, weight: Array | None, ids: Array, conditions: Array, n_threads: int) -> None:
        self.X, self.y, self.weight = X, y, weight
        self.ids, self.conditions, self.n_threads = ids, conditions, n_threads
        self._cells: dict[int, list[Sums] | None] = {}
        self._last: tuple[int, Sums] | None = None

    def of_splits(self, conditions: Array) -> Moments:
        """Of other splits of the same rows under the same ids, whose cells are not read anew."""
        out = Moments(self.X, self.y, self.weight, self.ids, conditions, self.n_threads)
        out._cells = self._cells
        return out

    def is_of(self, weight: Array | None, ids: Array) -> bool:
        """Whether these are the sums of rows with such weights under such ids."""
        return _same(self.ids, ids) and _same(self.weight, weight)

    def tell_finite(self) -> bool:
        """Whether the cells of the first split say that no value of X is NaN or infinite; they are read for it.

        They do if each row is in one of them with a weight above 0, and all their means are finite. Otherwise it remains
        open: there may be rows that no cell holds, and sums of finite values overflow.
        """
        if self.conditions.shape[1] != 1 or not (self.weight is None or self.weight.all()):
            return False
        id_row = int(self.conditions[0, 0, 0])
        if self.ids[id_row].max() >= _MOST_CELLS:  # too many, or "skip"
            return False
        cells = self._of_row(id_row)
        return cells is not None and all(np.isfinite(cell.mean).all() for cell in cells)

    def of(self, split: int) -> Sums:
        """Of the rows of positive weight that a split trains on."""
        if self._last is None or self._last[0] != split:
            self._last = None  # its memory may be needed for the next
            self._last = split, self._of(split)
        return self._last[1]

    def of_scored(self, split: int) -> Sums | None:
        """Of the rows of positive weight that a split scores, where they are cells that are read anyway; None elsewhere."""
        conditions = self.conditions[split]
        if len(conditions) != 1:
            return None
        id_row, score_lo, score_hi = conditions[0, :3].tolist()
        cells = self._of_row(id_row)
        return None if cells is None else Sums.total(cells[score_lo:score_hi], self.X.shape[1] + 1)

    def of_all_rows(self) -> Sums:
        """Of all rows of positive weight, whatever the splits."""
        return self._read(np.arange(len(self.X)), np.array([0, len(self.X)]))[0]

    def _of(self, split: int) -> Sums:
        conditions = self.conditions[split]
        if len(conditions) == 1:
            id_row, score_lo, score_hi, train_lo, train_hi = conditions[0].tolist()
            cells = self._of_row(id_row)
            if cells is not None:
                size = self.X.shape[1] + 1
                before = Sums.total(cells[train_lo : min(score_lo, train_hi)], size)
                after = Sums.total(cells[max(score_hi, train_lo) : train_hi][::-1], size)
                return Sums.total((before, after), size)
        rows = np.flatnonzero(trains(self.ids, conditions))
        return self._read(rows, np.array([0, len(rows)]))[0]

    def _of_row(self, id_row: int) -> list[Sums] | None:
        if id_row not in self._cells:
            self._cells.clear()  # splits come in order, and those of an id row side by side
            # The ids alone decide, so that it does not matter which of the splits train.
            ids = self.ids[id_row]
            if ids.dtype != np.uint8:
                ids = np.where(ids == np.iinfo(ids.dtype).max, _SKIP, np.minimum(ids, _SKIP - 1)).astype(np.uint8)
            order, offset = np.empty(len(ids), np.int64), np.empty(_SKIP + 2, np.int64)
            _core.index.rows_by_id(ids, order, offset)
            top = int(np.flatnonzero(np.diff(offset[: _SKIP + 1])).max(initial=0)) + 1
            few = top <= _MOST_CELLS
            self._cells[id_row] = self._read(order[: offset[top]], offset[: top + 1]) if few else None
        return self._cells[id_row]

    def _read(self, order: Array, offset: Array) -> list[Sums]:
        """The sums of cells, whose rows are order[offset[c]:offset[c + 1]]; rows of weight 0 are left out."""
        if self.weight is not None:
            keep = self.weight[order] != 0  # one that is NaN makes its models diverge
            offset = np.concatenate([[0], np.cumsum(keep)])[offset]
            order = order[keep]
        order, offset = np.ascontiguousarray(order, np.int64), np.ascontiguousarray(offset, np.int64)
        weight, mean, comoment = _core.optimum.cell_moments(self.X, self.y, self.weight, order, offset, self.n_threads)
        return [Sums(float(w), m, c) for w, m, c in zip(weight, mean, comoment, strict=True)]


def _checked(X: Array, sample_weight: object, n_threads: int) -> Array | None:
    """The weights; both are checked."""
    _check.finite("X", X, n_threads)
    if len(X) < 2:
        raise ValueError(f"X: got {len(X)} rows, wanted at least two")
    if sample_weight is None:
        return None
    given = _check.per_row("sample_weight", sample_weight, len(X), X.dtype)
    weight: Array = _check.weights("sample_weight", given, n_threads, check_finite=True)
    if not (weight > 0).any():
        raise ValueError("sample_weight: got no weight above 0, wanted at least one")
    return weight


def of_all(X: Array, y: Array, sample_weight: object, n_threads: int) -> Sums:
    """Of all rows of positive weight; X and the weights are checked.

    Raises
    ------
    ValueError
        Values that are not finite, fewer than two rows, or no weight above 0.
    """
    weight = _checked(X, sample_weight, n_threads)
    return Moments(X, y, weight, *_splits.of_all_rows(len(X)), n_threads).of(0)


def with_target(X: Array, y: Array, sample_weight: object, n_threads: int) -> tuple[Array, Array, Array]:
    """The comoment of each feature with y per unit of weight, the means (y's last) and the scales; raises as `of_all`.

    Where there are more features than rows, without their comoments with each other.
    """
    if X.shape[1] <= len(X):
        sums = of_all(X, y, sample_weight, n_threads)
        return sums.comoment[:-1, -1] / sums.weight, sums.mean, sums.scales(len(X))
    weight = _checked(X, sample_weight, n_threads)
    everything = _splits.of_all_rows(len(X))
    total, means, scales = _core.optimum.split_moments(X, weight, *everything, np.zeros(1, np.int64), n_threads)
    share = (np.ones(len(X)) if weight is None else weight.astype(np.float64)) / total[0]
    target = y.astype(np.float64)
    mean_y = math.fsum((share * target).tolist())  # in no order of BLAS's own
    pull = share * (target - mean_y)
    out = np.zeros(X.shape[1])
    for row in np.flatnonzero(pull).tolist():
        out += pull[row] * (X[row] - means[0])
    return out, np.append(means[0], mean_y), scales[0]


def _same(a: Array | None, b: Array | None) -> bool:
    return a is b or (a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b))


def trains(ids: Array, conditions: Array) -> npt.NDArray[np.bool_]:
    """Which rows a split trains on, as `gradfold.index.Folds` defines it."""
    out = np.ones(ids.shape[1], np.bool_)
    for id_row, score_lo, score_hi, train_lo, train_hi in conditions.tolist():
        own = ids[id_row]
        out &= (own >= train_lo) & (own < train_hi) & ~((own >= score_lo) & (own < score_hi))
    return out
