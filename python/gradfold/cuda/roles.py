"""From folds to bits: which splits train on a row, or score it. 32 splits to a word, words of a row side by side."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold.cuda import _driver
from gradfold.cuda._driver import Kernel, arithmetic, cuda, int64, uint32

Array = npt.NDArray[Any]
u64 = np.uint64

THREADS = 256
_BLOCK_BYTES = 64 << 20  # of the ids that are on the device at a time


@cache
def kernel(dtype: str) -> Kernel:
    """One thread a row and word: words[row * n_words + word]."""
    A = arithmetic(dtype)
    ZERO = A.T(0)

    def roles(ids, first, n, conditions, n_splits, n_conditions, weight, has_weight, scores, n_words, words):  # type: ignore[no-untyped-def]
        """ids: [id row][n] of the rows from `first` on. conditions: [split][condition][5], as in `Folds`."""
        at = cuda.grid(1)
        if at >= n * n_words:
            return
        row, word = at // n_words, at % n_words
        bits = uint32(0)
        if has_weight == 0 or weight[u64(first + row)] != ZERO:
            for split in range(word * 32, min(n_splits, word * 32 + 32)):
                used = True
                for k in range(n_conditions):
                    c = (split * n_conditions + k) * 5
                    id_ = int64(ids[u64(conditions[u64(c)] * n + row)])
                    scored = conditions[u64(c + 1)] <= id_ and id_ < conditions[u64(c + 2)]
                    trained = conditions[u64(c + 3)] <= id_ and id_ < conditions[u64(c + 4)] and not scored
                    if scores != 0 and k == n_conditions - 1:
                        used = used and scored
                    else:
                        used = used and trained
                if used:
                    bits = uint32(bits | uint32(uint32(1) << uint32(split & 31)))
        words[u64((first + row) * n_words + word)] = bits

    i64 = _driver.int64
    signature = (
        uint32[::1], i64, i64, int64[::1], i64, i64, A.type[::1], i64, i64, i64, uint32[::1],
    )  # fmt: skip
    return Kernel(roles, signature, THREADS)


class Source:
    """Folds from which words are made, on the device; again and again where weights change.

    Parameters
    ----------
    ids : ndarray of shape (n_id_rows, n_rows), on the host
    conditions : ndarray of int64, shape (n_splits, n_conditions, 5)
        Of the splits that are to have a bit, in this order.
    scores : bool
        The rows that are scored instead of those that train.
    """

    def __init__(self, ids: Array, conditions: Array, dtype: Any, *, scores: bool, stream: Any) -> None:
        n_splits = len(conditions)
        self._ids, self._conditions, self._dtype, self._scores, self._stream = ids, conditions, dtype, scores, stream
        self._n_words = (n_splits + 31) // 32
        self._words = _driver.empty(ids.shape[1] * self._n_words, np.uint32, stream)
        self._conditions_there = _driver.to_device(np.ascontiguousarray(conditions.reshape(-1)), stream)
        self._none = _driver.empty(1, dtype, stream)
        self._ids_there: Any = None  # kept where there are weights, if they went there in one part
        self._made_without_weights = False

    def is_of(self, ids: Array | None, conditions: Array) -> bool:
        """Whether these are the folds; `ids` are None where the caller knows that they are."""
        same = ids is None or (self._ids.dtype == ids.dtype and np.array_equal(self._ids, ids))
        return same and np.array_equal(self._conditions, conditions)

    def words(self, weight: Any) -> tuple[Any, int]:
        """The words of all rows on the device, which the next call overwrites, and how many each row has.

        weight: device array of shape (n_rows,), or None. A row of weight 0 is used by no split.
        """
        if weight is None and self._made_without_weights:
            return self._words, self._n_words
        self._made_without_weights = False
        n_id_rows, n_rows = self._ids.shape
        n_splits, n_conditions = self._conditions.shape[:2]
        step = max(1, _BLOCK_BYTES // (4 * n_id_rows))
        for first in range(0, n_rows, step):
            n, part = min(step, n_rows - first), self._ids_there
            if part is None:
                part = _driver.to_device(np.ascontiguousarray(self._ids[:, first : first + n], np.uint32).reshape(-1), self._stream)
            launch(
                part, first, n, self._conditions_there, n_splits, n_conditions, self._none if weight is None else weight,
                self._dtype, has_weight=weight is not None, scores=self._scores, out=self._words, stream=self._stream,
            )  # fmt: skip
            if weight is not None and n == n_rows:
                self._ids_there = part
        self._made_without_weights = weight is None
        return self._words, self._n_words


def words(
    ids: Array, conditions: Array, weight: Any, dtype: Any, *, scores: bool, stream: Any
) -> tuple[Any, int]:
    """The words of a `Source` that nobody else needs."""
    return Source(ids, conditions, dtype, scores=scores, stream=stream).words(weight)


def launch(
    ids: Any, first: int, n: int, conditions: Any, n_splits: int, n_conditions: int, weight: Any, dtype: Any, *,
    has_weight: bool, scores: bool, out: Any, stream: Any,
) -> None:  # fmt: skip
    """The words of rows [first, first + n), as in `words`.

    Everything lies on the device, ids as uint32, [id row][n] of these rows alone.
    """
    n_words = (n_splits + 31) // 32
    kernel(np.dtype(dtype).name)(
        -(-n * n_words // THREADS), stream, ids, first, n, conditions, n_splits, n_conditions, weight, int(has_weight),
        int(scores), n_words, out,
    )  # fmt: skip


def everybody(stream: Any) -> tuple[Any, int]:
    """For models that use every row: no words at all."""
    return _driver.empty(1, np.uint32, stream), 0


KERNELS = [("roles", kernel)]
