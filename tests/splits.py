"""Splits of every kind, built by hand as ids and conditions, so that kernel tests need none of ``gradfold.index``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reference import roles as reference_roles
from reference.roles import SCORE, TRAIN


@dataclass(frozen=True)
class Splits:
    """What a kernel is told of splits: ``ids`` (n_id_rows, n_rows) and ``conditions`` (n_splits, n_conditions, 5)."""

    ids: np.ndarray
    conditions: np.ndarray

    @property
    def n_splits(self):
        return len(self.conditions)

    def roles(self):
        """Role of every row to every split, int8 (n_splits, n_rows), by the reference."""
        return reference_roles.roles(self.ids, self.conditions)

    def only(self, chosen):
        """The same ids and these splits alone, in this order."""
        return Splits(self.ids, np.ascontiguousarray(self.conditions[chosen]))

    def alone(self, split):
        """The same rows for one split, told in another way: one id row of its own, 0 train, 1 score, else skip."""
        role = self.only([split]).roles()[0]
        ids = np.where(role == TRAIN, 0, np.where(role == SCORE, 1, 255)).astype(np.uint8)
        return Splits(ids[None, :], conditions([[(0, 1, 2, 0, 1)]]))


def narrowest(ids):
    """``ids``, where -1 means skip, in the narrowest unsigned type; skip is that type's maximum."""
    ids = np.ascontiguousarray(np.atleast_2d(ids), np.int64)
    dtype = next(t for t in (np.uint8, np.uint16, np.uint32) if ids.max() < np.iinfo(t).max)
    return np.where(ids < 0, np.iinfo(dtype).max, ids).astype(dtype)


def conditions(splits):
    """(n_splits, n_conditions, 5) from nested lists of (id_row, score_lo, score_hi, train_lo, train_hi)."""
    return np.ascontiguousarray(splits, np.int64)


def kfold(rng, n, k=5, repeats=1):
    """Shuffled k-fold: fold ids 0..k-1, every row in one fold of each repeat."""
    ids = [rng.permutation(np.arange(n) % k) for _ in range(repeats)]
    return Splits(narrowest(ids), conditions([[(r, f, f + 1, 0, k)] for r in range(repeats) for f in range(k)]))


def repeated_kfold(rng, n):
    return kfold(rng, n, k=3, repeats=2)


def holdout(rng, n):
    """Three ways: train, score, and a test set that is skipped."""
    ids = np.where(np.arange(n) % 4 == 3, 2, np.arange(n) % 4 == 2).astype(np.int64)
    return Splits(narrowest(rng.permutation(ids)), conditions([[(0, 1, 2, 0, 1)]]))


def time_series(rng, n, k=4):
    """Blocks in order: split s trains on the blocks before s + 1, scores that one, skips the rest."""
    ids = np.arange(n) * (k + 1) // n
    return Splits(narrowest(ids), conditions([[(0, s, s + 1, 0, s)] for s in range(1, k + 1)]))


def leave_one_out(rng, n):
    """Ids are row numbers, so that they outgrow uint8."""
    return Splits(narrowest(np.arange(n)), conditions([[(0, i, i + 1, 0, n)] for i in range(n)]))


def nested(rng, n, outer=3, inner=2):
    """Inner splits of every outer training set, in an id row of their own, where outer held-out rows are skipped."""
    fold = rng.permutation(np.arange(n) % outer)
    ids = [fold]
    for f in range(outer):
        own = rng.permutation(np.arange(n) % inner)
        ids.append(np.where(fold == f, -1, own))
    both = [
        [(0, f, f + 1, 0, outer), (1 + f, g, g + 1, 0, inner)] for f in range(outer) for g in range(inner)
    ]
    return Splits(narrowest(ids), conditions(both))


def overlapping(rng, n, k=4):
    """Splits that are no partition: each draws its own train, score and skipped rows into an id row of its own."""
    ids = rng.choice([0, 1, -1], size=(k, n), p=[0.6, 0.25, 0.15])
    ids[:, 0] = 0
    return Splits(narrowest(ids), conditions([[(s, 1, 2, 0, 1)] for s in range(k)]))


KINDS = {
    f.__name__: f for f in (kfold, repeated_kfold, holdout, time_series, leave_one_out, nested, overlapping)
}


def make(kind, rng, n):
    """Splits of one kind over ``n`` rows; 12 rows are enough for every kind to train every split."""
    return KINDS[kind](rng, n)
