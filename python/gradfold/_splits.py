"""What `fit` asks of splits beyond their roles: reading the argument, counting, the rows of the refit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _target

if TYPE_CHECKING:
    from gradfold.index import Folds

Array = npt.NDArray[Any]

DEFAULT_SPLITS = 5
SKIP = 255  # the id of a skipped row in the uint8 ids that the refit uses

_STEP = 1 << 20


def read(folds: object, X: Any, y: Any, target: _target.Target, n_candidates: int, seed: int) -> Folds | None:
    """The splits that `fit`'s argument `folds` asks for; None means that there is nothing to choose.

    Parameters
    ----------
    folds : Folds, int, object with a method `split`, iterable of (train, test) pairs, or None
    X, y
        As the caller of `fit` gave them: a splitter of his own gets them so.
    target : Target
        y as `fit` reads it; an int means stratified folds where it holds labels.
    """
    from gradfold import index

    n_rows = len(target.y)
    if folds is None:
        if n_candidates < 2:
            return None
        folds = DEFAULT_SPLITS
    if isinstance(folds, index.Folds):
        if folds.n_rows != n_rows:
            raise ValueError(f"folds: got Folds over {folds.n_rows} rows, wanted {n_rows} as in X")
        return folds
    if isinstance(folds, (int, np.integer)):
        k = _check.integer("folds", folds, 2)
        if k > n_rows:
            raise ValueError(f"folds: got {k} splits of {n_rows} rows, wanted n_splits <= n_rows")
        if target.classes is not None:
            codes = target.y.astype(np.int16) if target.n_outputs > 1 else (target.y > 0).astype(np.int8)
            labels = index._labels("y", codes)
            # A warning about a small class names it as the caller does. The frames above: stratified_kfold's own, this
            # one, _set_up, fit, the caller.
            labels = labels._replace(names=[target.classes.tolist()[name] for name in labels.names])
            return index._stratified_kfold(labels, k, shuffle=True, seed=seed, n_repeats=1, stacklevel=5)
        return index.kfold(n_rows, k, seed=seed)
    if isinstance(folds, (str, bytes, type)):
        pass  # a class of splitters instead of a splitter, or text, which has a method `split` too
    elif callable(getattr(folds, "split", None)):
        return index._from_pairs("folds", n_rows, folds.split(X, y))  # type: ignore[attr-defined]
    elif _check.iterable(folds):
        return index._from_pairs("folds", n_rows, folds)
    raise TypeError(
        f"folds: got {_check.describe(folds)}, wanted Folds, an int, (train, test) pairs, "
        "an object with split(X, y), or None"
    )


# Conditions of one split that trains on the rows of id 0 and scores none.
TRAINS_ON_0 = np.array([[[0, 0, 0, 0, 1]]], np.int64)


def of_all_rows(n_rows: int) -> tuple[Array, Array]:
    """Ids and conditions of one split that trains on every row and scores none."""
    return np.zeros((1, n_rows), np.uint8), TRAINS_ON_0


def train_on_all(n_rows: int) -> Folds:
    """That split; the rows to score come from elsewhere."""
    from gradfold import index

    return index.Folds(*of_all_rows(n_rows))


def check_every_split_trains(folds: Folds, sample_weight: Array | None) -> None:
    """Raise a ValueError that names the first split with no training row of positive weight."""
    if sample_weight is None:
        return  # Folds themselves refuse a split without a training row
    trained = _training_counts(folds, sample_weight)
    if (trained == 0).any():
        split = int((trained == 0).argmax())
        raise ValueError(
            f"sample_weight: folds' split {split} has no training row of a weight above 0, wanted at least one"
        )


def refit_condition(folds: Folds) -> Array | None:
    """The rows of the refit as a split of the folds' own ids, (1, 1, 5) like `Folds.conditions`, that scores no row.

    Its ids are those of the last split's id row. None where no range of ids holds just the rows that some split trains or
    scores.
    """
    if folds.conditions.shape[1] > 1:
        return None
    id_row = int(folds.conditions[-1, 0, 0])
    mine = folds.conditions[folds.conditions[:, 0, 0] == id_row, 0]
    used = np.flatnonzero(_used_ids(mine))
    low, high = int(used[0]), int(used[-1]) + 1
    if len(used) < high - low:
        return None
    if len(mine) < folds.n_splits and (folds.ids[id_row].min() < low or folds.ids[id_row].max() >= high):
        return None  # another id row may hold rows of its own
    return np.array([[[id_row, high, high, low, high]]], np.int64)


def refit_ids(folds: Folds | None, n_rows: int) -> Array:
    """Ids of shape (1, n_rows): 0 for a row that some split trains or scores, `SKIP` for the rest."""
    if folds is None:
        return of_all_rows(n_rows)[0]
    ids = np.full((1, n_rows), SKIP, np.uint8)
    if folds.conditions.shape[1] > 1:
        for s in range(folds.n_splits):
            ids[0, folds.role(s) != 0] = 0
        return ids
    conditions = folds.conditions[:, 0]
    for row in np.unique(conditions[:, 0]):
        used = _used_ids(conditions[conditions[:, 0] == row])
        for a, b in _blocks(n_rows):
            ids[0, a:b][used[np.minimum(folds.ids[row, a:b], len(used) - 1)]] = 0
    return ids


def _used_ids(conditions: Array) -> Array:
    """Which ids of an id row some split of it trains or scores, bool; the last one is False, as are all beyond.

    Parameters
    ----------
    conditions : ndarray of shape (n, 5)
        Those of the id row's splits.
    """
    # +1 where a range begins, -1 behind its end.
    steps = np.zeros(int(conditions[:, [2, 4]].max()) + 1, np.int64)
    for low, high in ((1, 2), (3, 4)):
        some = conditions[:, low] < conditions[:, high]
        np.add.at(steps, conditions[some, low], 1)
        np.add.at(steps, conditions[some, high], -1)
    return np.cumsum(steps) > 0


def _training_counts(folds: Folds, sample_weight: Array) -> Array:
    """Rows of positive weight that each split trains on, shape (n_splits,)."""
    if folds.conditions.shape[1] > 1:
        counts = np.zeros(folds.n_splits, np.int64)
        for s in range(folds.n_splits):
            counts[s] = np.count_nonzero((folds.role(s) == 1) & (sample_weight > 0))
        return counts
    # One condition: count the rows of each id once, then every split is a difference of cumulative counts. So
    # leave-one-out over n rows takes n steps and not n².
    counts = np.zeros(folds.n_splits, np.int64)
    conditions = folds.conditions[:, 0]
    for row in np.unique(conditions[:, 0]):
        mine = conditions[:, 0] == row
        _, score_lo, score_hi, train_lo, train_hi = conditions[mine].T
        top = int(max(score_hi.max(), train_hi.max(), 0))
        below = np.zeros(top + 2, np.int64)
        for a, b in _blocks(folds.n_rows):
            ids = np.minimum(folds.ids[row, a:b], top).astype(np.int64)
            below[1:] += np.bincount(ids[sample_weight[a:b] > 0], minlength=top + 1)
        below = np.cumsum(below)
        both_lo, both_hi = np.maximum(score_lo, train_lo), np.minimum(score_hi, train_hi)
        both_hi = np.maximum(both_lo, both_hi)
        train_hi = np.maximum(train_lo, train_hi)
        both = np.where(both_hi > both_lo, below[np.minimum(both_hi, top)] - below[np.minimum(both_lo, top)], 0)
        counts[mine] = below[train_hi] - below[train_lo] - both
    return counts


def _blocks(n: int) -> Iterable[tuple[int, int]]:
    for a in range(0, n, _STEP):
        yield a, min(a + _STEP, n)
