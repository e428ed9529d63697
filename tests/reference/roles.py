"""What a row is to a split, from ids and conditions: 0 skip, 1 train, 2 score."""

from __future__ import annotations

import numpy as np

SKIP, TRAIN, SCORE = 0, 1, 2


def roles_of_split(ids, conditions):
    """Role of every row to one split; ``conditions`` is that split's (n_conditions, 5)."""
    trains_all = np.ones(ids.shape[1], bool)
    for c, (id_row, score_lo, score_hi, train_lo, train_hi) in enumerate(conditions):
        i = ids[id_row].astype(np.int64)
        scores = (score_lo <= i) & (i < score_hi)
        trains = (train_lo <= i) & (i < train_hi) & ~scores
        if c == len(conditions) - 1:
            return np.where(trains_all & trains, TRAIN, np.where(trains_all & scores, SCORE, SKIP))
        trains_all &= trains


def roles(ids, conditions):
    """Roles of every row to every split, int8 (n_splits, n_rows)."""
    return np.array([roles_of_split(ids, split) for split in conditions], np.int8)
