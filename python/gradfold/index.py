"""Permutations that are computed instead of stored, and splits of every kind in one form.

Two things live here. :class:`Permutation` is a keyed permutation of ``0 .. n-1`` with random access, an exact inverse
and constant memory; the order in which rows are visited comes from it. :class:`Folds` says which rows every split
trains on and which it scores, as small ids, so that no index array is kept and no row is copied; the functions
:func:`kfold`, :func:`stratified_kfold`, :func:`group_kfold`, :func:`holdout`, :func:`leave_one_out`,
:func:`time_series` and :func:`from_splits` make one.

Every draw is a function of (seed, epoch, stream): the same integers on every machine, level and thread count.
"""

from __future__ import annotations

import hashlib
import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from gradfold import _check, _core

__all__ = [
    "Folds",
    "Permutation",
    "from_splits",
    "group_kfold",
    "holdout",
    "kfold",
    "leave_one_out",
    "stratified_kfold",
    "time_series",
]

IntArray = npt.NDArray[np.int64]

_VERSION = "v1"
_ITER_CHUNK = 65_536
_ID_TYPES = (np.uint8, np.uint16, np.uint32)


# ---- arguments ------------------------------------------------------------------------------------------------------


def _integer(name: str, value: Any, low: int, high: int) -> int:
    """Return `value` as an int of ``low .. high``; numpy integers are welcome, bools and floats are not."""
    number = _index(value)
    if number is None:
        raise TypeError(f"{name}: got {_check.describe(value)}, wanted an integer")
    if not low <= number <= high:
        wanted = f"an integer >= {low}" if number < low else f"an integer <= {high}"
        raise ValueError(f"{name}: got {number}, wanted {wanted}")
    return number


def _index(value: Any) -> int | None:
    """`value` as an int, or None if it is no integer; a bool is none, an integer array of no dimension is one."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _seed(value: Any) -> int:
    return _integer("seed", value, 0, 2**64 - 1)


def _n_rows(value: Any) -> int:
    return _integer("n_rows", value, 1, 2**63 - 1)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: got {value!r} of type {type(value).__name__}, wanted True or False")
    return bool(value)


def _n_splits(value: Any, n_rows: int) -> int:
    n_splits = _integer("n_splits", value, -(2**63), 2**63 - 1)
    if n_splits < 2:
        raise ValueError(f"n_splits: got {n_splits}, wanted at least 2; one split would have no training row")
    if n_splits > n_rows:
        raise ValueError(f"n_splits: got {n_splits}, wanted at most the number of rows, {n_rows}")
    return n_splits


def _n_repeats(value: Any, shuffle: bool) -> int:
    n_repeats = _integer("n_repeats", value, 1, 2**32 - 1)
    if n_repeats > 1 and not shuffle:
        raise ValueError(f"n_repeats: got {n_repeats} with shuffle=False, wanted 1; every repeat would be the same")
    return n_repeats


# ---- Permutation ----------------------------------------------------------------------------------------------------


class Permutation:
    """A keyed permutation of ``0 .. n-1``, version "v1": computed on the fly, the same integers everywhere.

    ``p[i]`` is the row at position ``i``. Memory is constant, any position costs the same, and the inverse is exact.

    Parameters
    ----------
    n : int
        Number of rows, 1 to 2**63 - 1.
    seed : int
        0 to 2**64 - 1.
    epoch : int, default 0
        0 to 2**32 - 1. Every epoch has an order of its own.
    stream : int, default 0
        0 to 2**32 - 1. Keeps uses apart: 0 is the batch order, 1 folds, ``2 + c`` class ``c`` of a stratified
        assignment; other uses take numbers from 2**31 up.

    Raises
    ------
    TypeError, ValueError
        A number that is no integer, or out of its range.

    Notes
    -----
    The words of Philox4x32-10 [1]_ with key (low, high half of `seed`) and counters (block, stream, epoch, 0), block
    after block and the four words of a block in order, drive one of two constructions:

    * n <= 1024: Fisher-Yates for i = n-1, ..., 1 with j = word mod (i+1); words that would bias it are rejected.
    * n > 1024: with b = bit_width(n-1), s = (b+1) // 2, and r = 0, ..., R-1 (R = 12 for b <= 16, else 8)::

          x = (x * C[r % 4] + K[r]) mod 2**b;  x ^= x >> s

      and all R rounds again until x < n (cycle walking, so the map stays a bijection; for a power of two it never
      walks). C = 9E3779B1 85EBCA6B C2B2AE35 27D4EB2F, and K[r] is word r times C[r % 4]. The inverse undoes the rounds
      and walks the same cycle backwards. For n > 2**32 the words are 64 bits wide, C = 9E3779B97F4A7C15
      BF58476D1CE4E5B9 94D049BB133111EB D6E8FEB86659FD93, and K[r] is made of words 2r (low half) and 2r + 1.

    It is for sampling, not for cryptography.

    References
    ----------
    .. [1] J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> p = Permutation(10_000_000, seed=1, epoch=3)
    >>> batch = p[512:768]            # rows 512 to 767 of epoch 3's order, int64
    >>> p.inverse(int(batch[0]))      # when is that row seen?
    512
    """

    __slots__ = ("_core", "_epoch", "_n", "_seed", "_stream")

    version = _VERSION

    def __init__(self, n: int, seed: int, *, epoch: int = 0, stream: int = 0) -> None:
        self._n = _integer("n", n, 1, 2**63 - 1)
        self._seed = _seed(seed)
        self._epoch = _integer("epoch", epoch, 0, 2**32 - 1)
        self._stream = _integer("stream", stream, 0, 2**32 - 1)
        self._core = _core.index.Permutation(self._n, self._seed, self._epoch, self._stream)

    @property
    def n(self) -> int:
        """Number of rows."""
        return self._n

    @property
    def seed(self) -> int:
        """The seed."""
        return self._seed

    @property
    def epoch(self) -> int:
        """The epoch."""
        return self._epoch

    @property
    def stream(self) -> int:
        """The stream."""
        return self._stream

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice | npt.NDArray[np.integer[Any]] | Sequence[int]) -> IntArray: ...
    def __getitem__(self, index: Any) -> int | IntArray:
        """The row at a position (int), at a slice of positions, or at each position of an integer array."""
        if isinstance(index, slice):
            positions = range(*index.indices(self._n))
            out = np.empty(len(positions), dtype=np.int64)
            if out.size:
                self._core.fill(positions.start, positions.step, out)
            return out
        if isinstance(index, list) or (isinstance(index, np.ndarray) and index.ndim > 0):
            return self._map("i", index, inverse=False)
        return int(self._core.at(self._scalar("i", index)))

    @overload
    def inverse(self, j: int) -> int: ...
    @overload
    def inverse(self, j: npt.NDArray[np.integer[Any]] | Sequence[int]) -> IntArray: ...
    def inverse(self, j: Any) -> int | IntArray:
        """The position at which row `j` is visited: ``p[p.inverse(j)] == j``.

        Parameters
        ----------
        j : int or array of int
            Rows; negative ones count from the end, as in ``p[i]``.

        Returns
        -------
        int, or an int64 array of the shape of `j`

        Raises
        ------
        ValueError
            A row outside ``-n .. n-1``.
        TypeError
            `j` holds no integers.
        """
        try:
            if isinstance(j, list) or (isinstance(j, np.ndarray) and j.ndim > 0):
                return self._map("j", j, inverse=True)
            return int(self._core.inverse(self._scalar("j", j)))
        except IndexError as error:  # which only the sequence protocol of p[i] asks for
            raise ValueError(*error.args) from None

    def _scalar(self, name: str, value: Any) -> int:
        number = _index(value)
        if number is None:
            raise TypeError(f"{name}: got {_check.describe(value)}, wanted an integer, a slice or an integer array")
        self._check_range(name, number, number)
        return number + self._n if number < 0 else number

    def _check_range(self, name: str, lowest: int, highest: int) -> None:
        if lowest < -self._n or highest >= self._n:
            came = lowest if lowest < -self._n else highest
            raise IndexError(f"{name}: got {came}, wanted {-self._n} to {self._n - 1}")

    def _map(self, name: str, values: Any, *, inverse: bool) -> IntArray:
        given = _check.plain_array(name, values, "an integer, a slice or an integer array")
        if given.size == 0 and not isinstance(values, np.ndarray):
            given = given.astype(np.int64)  # an empty list has no type of its own
        if given.dtype.kind not in "iu":
            raise TypeError(f"{name}: got an array of {given.dtype}, wanted an integer, a slice or an integer array")
        if given.size:
            self._check_range(name, int(given.min()), int(given.max()))
        places = given.astype(np.int64).ravel()
        places[places < 0] += self._n
        out = np.empty(places.size, dtype=np.int64)
        self._core.map(places, inverse, out)
        return out.reshape(given.shape)

    def __iter__(self) -> Iterator[int]:
        for first in range(0, self._n, _ITER_CHUNK):
            yield from self[first : first + _ITER_CHUNK].tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("copy: got False, wanted None or True; a permutation is computed, not stored")
        values = self[:]
        return values if dtype is None else values.astype(dtype)

    def state_dict(self) -> dict[str, Any]:
        """Everything that makes the permutation, as plain numbers: version, n, seed, epoch, stream.

        A position within it belongs to whoever iterates; ``p[position:]`` goes on from there.
        """
        return {
            "version": _VERSION,
            "n": self._n,
            "seed": self._seed,
            "epoch": self._epoch,
            "stream": self._stream,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Permutation:
        """The permutation that `state`, a :meth:`state_dict`, describes.

        Raises
        ------
        ValueError
            A missing or unknown key, or a version other than "v1".
        """
        wanted = {"version", "n", "seed", "epoch", "stream"}
        if set(state) != wanted:
            raise ValueError(f"state: got the keys {sorted(map(str, state))}, wanted {sorted(wanted)}")
        if state["version"] != _VERSION:
            raise ValueError(f"state: got version {state['version']!r}, wanted {_VERSION!r}")
        return cls(state["n"], state["seed"], epoch=state["epoch"], stream=state["stream"])

    def __reduce__(self) -> tuple[Any, ...]:
        return (Permutation.from_state_dict, (self.state_dict(),))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Permutation):
            return NotImplemented
        return self.state_dict() == other.state_dict()

    def __hash__(self) -> int:
        return hash((self._n, self._seed, self._epoch, self._stream))

    def __repr__(self) -> str:
        return f"Permutation({self._n}, {self._seed}, epoch={self._epoch}, stream={self._stream})"


# ---- Folds ----------------------------------------------------------------------------------------------------------


class Folds:
    """Which rows every split trains on and which it scores.

    Parameters
    ----------
    ids : array of uint8, uint16 or uint32, shape (n_id_rows, n_rows)
        One or several ids per row of the data. The largest number of the type means *skip*: no range reaches it.
        Copied, like `conditions`.
    conditions : array of int64, shape (n_splits, n_conditions, 5)
        (id_row, score_lo, score_hi, train_lo, train_hi) each. An id of row `id_row` is scored if it lies in
        ``[score_lo, score_hi)``, and trains if it lies in ``[train_lo, train_hi)`` and is not scored. A row of the data
        *trains* if it trains under all conditions of the split; it is *scored* if the last condition scores it and the
        earlier ones train it; else it is *skipped*.
    n_repeats : int, default 1
        How many times the data is split anew; a divisor of n_splits, and split = repeat * k + fold.

    Raises
    ------
    TypeError, ValueError
        A wrong dtype or shape, a range out of bounds, or a split with no training row.

    Notes
    -----
    An object of this class is immutable, and may be passed as ``cv=`` to scikit-learn: it has `split` and
    `get_n_splits`.

    Examples
    --------
    >>> folds = kfold(10, 5, shuffle=False)
    >>> folds.score_indices(1)
    array([2, 3])
    >>> folds.role(1)                       # 0 skip, 1 train, 2 score
    array([1, 1, 2, 2, 1, 1, 1, 1, 1, 1], dtype=int8)
    """

    __slots__ = ("_conditions", "_digest", "_ids", "_n_repeats", "_sizes")

    def __init__(self, ids: npt.NDArray[Any], conditions: npt.NDArray[Any], *, n_repeats: int = 1) -> None:
        _check_form("ids", ids, _ID_TYPES, "(n_id_rows, n_rows)", 2)
        _check_form("conditions", conditions, (np.int64,), "(n_splits, n_conditions, 5)", 3)
        # Copies also of read-only arrays: who holds what they are views of can still write.
        self._own(ids.copy(order="C"), conditions.copy(order="C"), n_repeats)

    def _own(self, ids: npt.NDArray[Any], conditions: npt.NDArray[Any], n_repeats: int) -> None:
        """Set up from arrays that nobody else holds."""
        self._ids = _frozen(ids)
        self._conditions = _frozen(conditions)
        self._sizes = np.empty((self._conditions.shape[0], 2), dtype=np.int64)
        _core.index.sizes(self._ids, self._conditions, self._sizes)
        self._sizes = _frozen(self._sizes)
        self._n_repeats = _integer("n_repeats", n_repeats, 1, 2**32 - 1)
        if self.n_splits % self._n_repeats != 0:
            raise ValueError(f"n_repeats: got {self._n_repeats}, wanted a divisor of n_splits = {self.n_splits}")
        empty = np.flatnonzero(self._sizes[:, 0] == 0)
        if empty.size:
            raise ValueError(f"conditions: got no training row for split {int(empty[0])}, wanted at least one")
        self._digest: str | None = None

    @property
    def ids(self) -> npt.NDArray[Any]:
        """Ids, read-only, shape (n_id_rows, n_rows)."""
        return self._ids

    @property
    def conditions(self) -> IntArray:
        """Conditions, read-only, shape (n_splits, n_conditions, 5)."""
        return self._conditions

    @property
    def n_rows(self) -> int:
        """Number of rows of the data."""
        return int(self._ids.shape[1])

    @property
    def n_splits(self) -> int:
        """Number of splits, over all repeats."""
        return int(self._conditions.shape[0])

    @property
    def n_repeats(self) -> int:
        """Number of repeats; split = repeat * (n_splits / n_repeats) + fold."""
        return self._n_repeats

    @property
    def train_sizes(self) -> IntArray:
        """How many rows each split trains on, shape (n_splits,)."""
        return self._sizes[:, 0]

    @property
    def score_sizes(self) -> IntArray:
        """How many rows each split scores, shape (n_splits,)."""
        return self._sizes[:, 1]

    def role(self, s: int) -> npt.NDArray[np.int8]:
        """What each row is to split `s`: 0 skip, 1 train, 2 score; int8, shape (n_rows,).

        Negative splits count from the end; one outside ``-n_splits .. n_splits-1`` is a ValueError.
        """
        out = np.empty(self.n_rows, dtype=np.int8)
        _core.index.role(self._ids, self._conditions, self._split(s), out)
        return out

    def train_indices(self, s: int) -> IntArray:
        """Rows that split `s` trains on, int64, ascending."""
        return self._indices(s, score=False)

    def score_indices(self, s: int) -> IntArray:
        """Rows that split `s` scores, int64, ascending."""
        return self._indices(s, score=True)

    def _indices(self, s: int, *, score: bool) -> IntArray:
        split = self._split(s)
        out = np.empty(int(self._sizes[split, int(score)]), dtype=np.int64)
        _core.index.indices(self._ids, self._conditions, split, score, out)
        return out

    def _split(self, s: Any) -> int:
        return _integer("s", s, -self.n_splits, self.n_splits - 1) % self.n_splits

    def split(self, X: Any = None, y: Any = None, groups: Any = None) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield (train, score) indices of every split, as scikit-learn's splitters do.

        Parameters
        ----------
        X, y : array-like, optional
            Only their number of rows is looked at; it must be `n_rows`.
        groups : ignored

        Raises
        ------
        ValueError
            X or y has another number of rows.
        """
        for name, data in (("X", X), ("y", y)):
            if data is None:
                continue
            shape = getattr(data, "shape", None)
            rows = shape[0] if shape else len(data)
            if rows != self.n_rows:
                raise ValueError(f"{name}: got {rows} rows, wanted {self.n_rows}, the rows that these folds split")
        return ((self.train_indices(s), self.score_indices(s)) for s in range(self.n_splits))

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of splits; the arguments are there for scikit-learn and are ignored."""
        return self.n_splits

    def digest(self) -> str:
        """SHA-256, in hex, of the folds' contents: n_repeats, shapes, conditions and ids.

        It does not depend on the id type or the machine: all numbers enter as little-endian integers (64 bits; ids 32
        bits, *skip* as 2**32 - 1). Folds that hand the same rows to the same splits under other ids have another
        digest.
        """
        if self._digest is None:
            sha = hashlib.sha256(b"gradfold.Folds.v1")
            sha.update(np.array([self._n_repeats, *self._ids.shape, *self._conditions.shape], dtype="<i8").tobytes())
            sha.update(np.ascontiguousarray(self._conditions, dtype="<i8").data)
            skip = np.iinfo(self._ids.dtype).max
            for row in self._ids:
                for first in range(0, row.size, 1 << 16):
                    wide = row[first : first + (1 << 16)].astype("<u4")
                    wide[wide == skip] = 0xFFFFFFFF
                    sha.update(wide.data)
            self._digest = sha.hexdigest()
        return self._digest

    def __len__(self) -> int:
        return self.n_splits

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Folds):
            return NotImplemented
        return self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __reduce__(self) -> tuple[Any, ...]:
        return (_make, (self._ids, self._conditions, self._n_repeats))

    def __repr__(self) -> str:
        train, score = (
            str(sizes.min()) if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
            for sizes in (self.train_sizes, self.score_sizes)
        )
        repeats = f", n_repeats={self._n_repeats}" if self._n_repeats > 1 else ""
        shape = f"n_rows={self.n_rows}, n_splits={self.n_splits}{repeats}"
        return f"<Folds: {shape}; {train} rows train, {score} are scored>"


def _check_form(name: str, array: Any, types: Sequence[type], shape: str, ndim: int) -> None:
    """Raise for an array of a wrong type or shape."""
    _check.refuse_masked(name, array)
    if not isinstance(array, np.ndarray) or array.dtype not in [np.dtype(t) for t in types]:
        came = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name}: got {came}, wanted an array of {' or '.join(np.dtype(t).name for t in types)}")
    if array.ndim != ndim or (ndim == 3 and array.shape[2] != 5):
        raise ValueError(f"{name}: got shape {array.shape}, wanted {shape}")


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view, which unlike the owner of the memory cannot be made writable again."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    owner.flags.writeable = array.flags.writeable = False
    return array.view(np.ndarray)


def _make(ids: npt.NDArray[Any], conditions: npt.NDArray[Any], n_repeats: int = 1) -> Folds:
    """Folds of arrays that nobody else holds: frozen in place, not copied."""
    folds = Folds.__new__(Folds)
    folds._own(ids, conditions, n_repeats)
    return folds


def _id_type(n_ids: int) -> type[np.unsignedinteger[Any]]:
    """The narrowest id type that holds 0 .. n_ids - 1 beside its maximum, *skip*."""
    for dtype in _ID_TYPES:
        if n_ids <= np.iinfo(dtype).max:
            return dtype
    raise ValueError(f"n_splits: got {n_ids} ids, wanted at most {2**32 - 1}")


def _partition_conditions(n_ids: int, n_repeats: int = 1) -> IntArray:
    """Conditions of whole partitions, one id row per repeat: split (r, k) scores id k and trains on all others."""
    conditions = np.zeros((n_repeats, n_ids, 1, 5), dtype=np.int64)
    conditions[..., 0] = np.arange(n_repeats).reshape(-1, 1, 1)
    conditions[..., 1] = np.arange(n_ids).reshape(1, -1, 1)
    conditions[..., 2] = conditions[..., 1] + 1
    conditions[..., 4] = n_ids
    return conditions.reshape(n_repeats * n_ids, 1, 5)


# ---- splitters ------------------------------------------------------------------------------------------------------


def kfold(n_rows: int, n_splits: int, *, shuffle: bool = True, seed: int = 0, n_repeats: int = 1) -> Folds:
    """k folds of (nearly) equal size: each split scores one of them and trains on the others.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    n_splits : int
        Number of folds, 2 to n_rows. The first ``n_rows % n_splits`` have one row more.
    shuffle : bool, default True
        False: consecutive runs of rows, the folds of scikit-learn's ``KFold(n_splits)``.
    seed : int, default 0
        0 to 2**64 - 1.
    n_repeats : int, default 1
        Repeat r shuffles anew, as epoch r of stream 1.

    Returns
    -------
    Folds
        n_repeats * n_splits splits.

    Raises
    ------
    TypeError, ValueError
        Numbers of a wrong type or out of range; repeats without shuffling.
    """
    rows = _n_rows(n_rows)
    k = _n_splits(n_splits, rows)
    shuffled = _flag("shuffle", shuffle)
    key = _seed(seed)
    repeats = _n_repeats(n_repeats, shuffled)
    ids = np.empty((repeats, rows), dtype=_id_type(k))
    for r in range(repeats):
        _core.index.kfold(k, shuffled, key, r, ids[r])
    return _make(ids, _partition_conditions(k, repeats), repeats)


def stratified_kfold(
    y: npt.ArrayLike, n_splits: int, *, shuffle: bool = True, seed: int = 0, n_repeats: int = 1
) -> Folds:
    """k folds that keep the shares of the classes.

    Parameters
    ----------
    y : array-like, shape (n_rows,)
        Class labels of any type that sorts: integers, booleans, floats, strings, objects.
    n_splits, shuffle, seed, n_repeats
        As for :func:`kfold`. Without shuffling the folds are those of scikit-learn's ``StratifiedKFold(n_splits)``.

    Returns
    -------
    Folds
        With shuffling, the sizes of the folds, and the number of rows that each class has in them, differ by at most
        one. (Row r of class c, counted from 0, goes to fold ``(start_c + p_c[r]) % n_splits``, where start_c is the
        number of rows in earlier classes and p_c is stream ``2 + c``.)

    Raises
    ------
    TypeError, ValueError
        As for :func:`kfold`; also a `y` that is not one-dimensional, or holds NaN or labels that do not sort.

    Warns
    -----
    UserWarning
        A class has fewer rows than n_splits, so that some folds have none of it.
    """
    labels = _labels("y", y)
    return _stratified_kfold(labels, n_splits, shuffle=shuffle, seed=seed, n_repeats=n_repeats, stacklevel=3)


def _stratified_kfold(
    labels: _Labels, n_splits: Any, *, shuffle: Any, seed: Any, n_repeats: Any, stacklevel: int
) -> Folds:
    """`stratified_kfold` of labels that are read; `stacklevel` is that of a warning raised here."""
    k = _n_splits(n_splits, labels.n_rows)
    shuffled = _flag("shuffle", shuffle)
    key = _seed(seed)
    repeats = _n_repeats(n_repeats, shuffled)
    _warn_of_small_classes(labels, k, stacklevel + 1)
    # scikit-learn orders the classes by first appearance, the shuffled form sorts them.
    rank = labels.rank if shuffled else np.arange(labels.rank.size, dtype=np.int64)
    ids = np.empty((repeats, labels.n_rows), dtype=_id_type(k))
    for r in range(repeats):
        _core.index.stratified(labels.codes, labels.counts, rank, k, shuffled, key, r, ids[r])
    return _make(ids, _partition_conditions(k, repeats), repeats)


def _warn_of_small_classes(labels: _Labels, k: int, stacklevel: int) -> None:
    small = np.flatnonzero(labels.counts < k)
    if small.size:
        rarest = small[np.argmin(labels.counts[small])]
        others = f" (and {small.size - 1} more such classes)" if small.size > 1 else ""
        warnings.warn(
            f"y: class {labels.names[rarest]!r} has {int(labels.counts[rarest])} rows, fewer than "
            f"n_splits = {k}{others}; some folds will have none of it",
            UserWarning,
            stacklevel=stacklevel,
        )


def group_kfold(
    groups: npt.ArrayLike, n_splits: int, *, y: npt.ArrayLike | None = None, shuffle: bool = True, seed: int = 0
) -> Folds:
    """k folds that keep every group whole: no group has rows on both sides of a split.

    Parameters
    ----------
    groups : array-like, shape (n_rows,)
        Group labels of any type that sorts: integers, booleans, floats, strings, objects.
    n_splits : int
        Number of folds, 2 to the number of groups.
    y : array-like, shape (n_rows,), optional
        Class labels: the folds then share each class as evenly as the groups allow, instead of the rows.
    shuffle : bool, default True
        Whether groups that weigh the same are taken in an order that `seed` draws, or in that of their labels.
    seed : int, default 0
        0 to 2**64 - 1.

    Returns
    -------
    Folds
        Every fold has at least one group. Memory is O(n_rows).

    Raises
    ------
    TypeError, ValueError
        Fewer groups than folds; NaN among the groups or labels; another number of labels than of groups; numbers of a
        wrong type or out of range.

    Warns
    -----
    UserWarning
        A class has fewer rows than there are folds.

    Notes
    -----
    Groups go to folds one by one, the largest first, each to the smallest fold, which is the greedy rule of R. L.
    Graham, "Bounds on multiprocessing timing anomalies" (1969); then the largest and the smallest fold exchange groups
    while that levels them. With `y` a group is the vector of its shares of the classes, it goes to the fold that holds
    least of these classes, and groups move or change places while that lowers the sum over classes of the standard
    deviation of the folds' shares. Both give the same folds on every machine. Groups that all differ in size leave
    little to chance: then few folds depend on `seed`.

    Examples
    --------
    >>> folds = group_kfold(["a", "a", "b", "c", "c", "b", "d"], 2)
    >>> sorted(folds.score_sizes.tolist())
    [3, 4]
    """
    labels = _labels("groups", groups, "group labels")
    k = _n_splits(n_splits, labels.n_rows)
    shuffled = _flag("shuffle", shuffle)
    key = _seed(seed)
    if k > labels.counts.size:
        raise ValueError(f"n_splits: got {k}, wanted at most the number of groups, {labels.counts.size}")
    classes = None
    if y is not None:
        target = _labels("y", y)
        if target.n_rows != labels.n_rows:
            raise ValueError(f"y: got {target.n_rows} labels, wanted {labels.n_rows}, one for each row of groups")
        _warn_of_small_classes(target, k, 3)
        classes = (target.codes, target.counts, target.rank)
    ids = np.empty((1, labels.n_rows), dtype=_id_type(k))
    _core.index.group_kfold(labels.codes, labels.counts, labels.rank, classes, k, shuffled, key, ids[0])
    return _make(ids, _partition_conditions(k))


def holdout(
    n_rows: int,
    fractions: float | Sequence[float],
    *,
    shuffle: bool = True,
    seed: int = 0,
    stratify: npt.ArrayLike | None = None,
) -> Folds:
    """One split: train on some rows and score others.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    fractions : float, or 2 or 3 floats
        A float is the share of the test rows. Two are the shares of (train, test). Three are (train, validation,
        test): the split trains on the first, scores the second, and skips the third, which stays untouched for the end;
        its rows are those with ``folds.ids[0] == 2``. Several fractions sum to 1.
    shuffle : bool, default True
        False: the parts are consecutive runs of rows, in the order of `fractions`.
    seed : int, default 0
        0 to 2**64 - 1.
    stratify : array-like, shape (n_rows,), optional
        Class labels; the parts then keep the classes' shares. With two parts the number of rows of a class in a part
        is within 1 of its share, with three within 2.

    Returns
    -------
    Folds
        One split. Ids are 0 train, 1 score, 2 test of three parts. The validation and test parts have
        ``floor(fraction * n_rows + 1/2)`` rows, and the training part has the others.

    Raises
    ------
    TypeError, ValueError
        Fractions that are not in (0, 1) or do not sum to 1; a part with no row; labels as for `stratified_kfold`.
    """
    rows = _n_rows(n_rows)
    train, validation, test = _part_sizes(rows, fractions)
    shuffled = _flag("shuffle", shuffle)
    key = _seed(seed)
    ids = np.empty((1, rows), dtype=np.uint8)
    if stratify is None:
        _core.index.holdout(train, validation, test, shuffled, key, ids[0])
    else:
        labels = _labels("stratify", stratify)
        if labels.n_rows != rows:
            raise ValueError(f"stratify: got {labels.n_rows} labels, wanted n_rows = {rows}")
        _core.index.stratified_holdout(
            labels.codes, labels.counts, labels.rank, train, validation, test, shuffled, key, ids[0]
        )
    return _make(ids, np.array([[[0, 1, 2, 0, 1]]], dtype=np.int64))


def _part_sizes(n_rows: int, fractions: Any) -> tuple[int, int, int]:
    """Rows of the train, validation (0 of two parts) and test part."""
    single = isinstance(fractions, (int, float, np.integer, np.floating))
    try:
        if isinstance(fractions, (str, bytes)):
            raise TypeError
        shares = [float(fractions)] if single else [float(share) for share in fractions]
    except (TypeError, ValueError):
        raise TypeError(f"fractions: got {type(fractions).__name__}, wanted a float, or 2 or 3 of them") from None
    if single:
        shares = [1.0 - shares[0], shares[0]]
    elif len(shares) not in (2, 3):
        raise ValueError(f"fractions: got {len(shares)} of them, wanted a float, or 2 or 3 of them")
    if not all(0.0 < share < 1.0 for share in shares) or abs(sum(shares) - 1.0) > 1e-9:
        raise ValueError(f"fractions: got {fractions!r}, wanted numbers between 0 and 1, together 1")
    held = [int(np.floor(share * n_rows + 0.5)) for share in shares[1:]]
    sizes = [n_rows - sum(held), *held]
    if min(sizes) < 1:
        raise ValueError(f"fractions: got {fractions!r} of {n_rows} rows, wanted at least one row in every part")
    return sizes[0], sizes[1] if len(sizes) == 3 else 0, sizes[-1]


def leave_one_out(n_rows: int) -> Folds:
    """As many splits as rows: split i scores row i and trains on all others.

    For ``fit(..., loss="squared_error", solver="cholesky")`` they have a closed form: one Gram matrix, and one triangular
    solve for each model. It is the one exception to the promise that a held-out row cannot touch a model: such a row may
    change last digits (docs/optimum.md).

    Parameters
    ----------
    n_rows : int
        2 to 2**32 - 1.

    Raises
    ------
    TypeError, ValueError
        `n_rows` is no integer, or out of range.
    """
    rows = _integer("n_rows", n_rows, 2, 2**32 - 1)
    return _make(np.arange(rows, dtype=_id_type(rows)).reshape(1, rows), _partition_conditions(rows))


def time_series(
    n_rows: int, n_splits: int, *, gap: int = 0, test_size: int | None = None, max_train_size: int | None = None
) -> Folds:
    """Splits of rows in order of time: each trains on a past that grows and scores the rows that follow it.

    The splits of scikit-learn's ``TimeSeriesSplit`` with the same arguments. Rows between the two, and rows after the
    scored ones, are skipped.

    Parameters
    ----------
    n_rows : int
        Number of rows, oldest first.
    n_splits : int
        At least 2 and less than n_rows.
    gap : int, default 0
        Rows left out between the training and the scored rows.
    test_size : int, optional
        Rows that each split scores; ``n_rows // (n_splits + 1)`` by default.
    max_train_size : int, optional
        At most so many training rows, the latest ones.

    Raises
    ------
    TypeError, ValueError
        Numbers of a wrong type or out of range; a first split with no training row.
    """
    rows = _n_rows(n_rows)
    k = _n_splits(n_splits, rows)
    if k + 1 > rows:
        raise ValueError(f"n_splits: got {k}, wanted less than the number of rows, {rows}")
    between = _integer("gap", gap, 0, rows)
    size = rows // (k + 1) if test_size is None else _integer("test_size", test_size, 1, rows)
    longest = rows if max_train_size is None else _integer("max_train_size", max_train_size, 1, 2**63 - 1)
    if rows - between - k * size <= 0:
        raise ValueError(
            f"n_splits: got {k} splits of test_size {size} and gap {between}, wanted fewer than n_rows = {rows} in "
            "all; the first split would have no training row"
        )
    score_lo = rows - size * np.arange(k, 0, -1, dtype=np.int64)
    score_hi = score_lo + size
    train_hi = score_lo - between
    train_lo = np.maximum(train_hi - longest, 0)
    # An id is a run of rows between two of the borders.
    borders = np.unique(np.concatenate([[0, rows], score_lo, score_hi, train_lo, train_hi])).astype(np.int64)
    lengths = np.diff(borders)
    ids = np.repeat(np.arange(lengths.size, dtype=_id_type(lengths.size)), lengths).reshape(1, rows)
    ranges = [np.searchsorted(borders, edge) for edge in (score_lo, score_hi, train_lo, train_hi)]
    conditions = np.stack([np.zeros(k, dtype=np.int64), *ranges], axis=1).astype(np.int64).reshape(k, 1, 5)
    return _make(np.ascontiguousarray(ids), conditions)


# ---- splits that somebody else made ---------------------------------------------------------------------------------

_FAULTS = {1: "row {row}", 2: "row {row} twice", 3: "row {row} in train and in test"}
_FAULTS_WANTED = {1: "rows of 0 to {last}", 2: "every row at most once", 3: "every row on one side"}


def from_splits(n_rows: int, splits: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]) -> Folds:
    """Folds of explicit (train, test) pairs: the output of any splitter.

    Consecutive splits whose test rows are disjoint and whose training rows are all the others (the splits of a k-fold,
    or of one repeat of it) share one row of ids; every other split has a row of its own.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    splits : iterable of (train, test)
        Integer arrays of row numbers, in any order, or boolean masks of shape (n_rows,). Rows in neither are skipped.
        A test side may be empty.

    Returns
    -------
    Folds
        In the order given; n_repeats is 1.

    Raises
    ------
    TypeError
        A side that holds neither integers nor booleans, or a split that is no pair.
    ValueError
        No split at all, an empty training side, a row out of range, repeated, or on both sides.
    """
    return _from_pairs("splits", _n_rows(n_rows), splits)


def _from_pairs(name: str, rows: int, splits: Any) -> Folds:
    """`from_splits`, with the name of the argument that its messages begin with."""
    if isinstance(splits, (str, bytes)) or not _check.iterable(splits):
        raise TypeError(f"{name}: got {_check.describe(splits)}, wanted (train, test) pairs")
    pairs: list[tuple[IntArray, IntArray]] = []
    groups: list[list[int]] = []
    role = np.empty(rows, dtype=np.int8)
    used = tested = np.empty(0, dtype=np.bool_)  # of the last group: rows in use, rows some split of it has tested
    for s, split in enumerate(splits):
        try:
            given_train, given_test = split
        except (TypeError, ValueError):
            raise TypeError(f"{name}[{s}]: got {_check.describe(split)}, wanted a pair (train, test)") from None
        train = _side(f"{name}[{s}] train", given_train, rows)
        test = _side(f"{name}[{s}] test", given_test, rows)
        if train.size == 0:
            raise ValueError(f"{name}[{s}] train: got no row, wanted at least one")
        kind, in_test, _, row = _core.index.check_split(rows, train, test, role)
        if kind != 0:
            side = "test" if in_test else "train"
            came, wanted = _FAULTS[kind].format(row=row), _FAULTS_WANTED[kind].format(last=rows - 1)
            raise ValueError(f"{name}[{s}] {side}: got {came}, wanted {wanted}")
        pairs.append((train, test))
        now_used = role != 0
        if groups and not tested[test].any() and np.array_equal(used, now_used):
            groups[-1].append(s)
            tested[test] = True
        else:
            groups.append([s])
            used, tested = now_used, role == 2
    if not pairs:
        raise ValueError(f"{name}: got no (train, test) pair, wanted at least one")

    # A group of m splits has the ids 0 .. m-1 for the rows that each of them tests, and m for rows that always train.
    dtype = _id_type(max(len(group) for group in groups) + 1)
    ids = np.full((len(groups), rows), np.iinfo(dtype).max, dtype=dtype)
    conditions = np.zeros((len(pairs), 1, 5), dtype=np.int64)
    for g, group in enumerate(groups):
        train, test = pairs[group[0]]
        ids[g, train] = ids[g, test] = len(group)
        for k, s in enumerate(group):
            ids[g, pairs[s][1]] = k
            conditions[s, 0] = (g, k, k + 1, 0, len(group) + 1)
    return _make(ids, conditions)


def _side(name: str, value: Any, n_rows: int) -> IntArray:
    rows = _check.plain_array(name, value, "row numbers or a boolean mask")
    if rows.ndim != 1:
        raise ValueError(f"{name}: got shape {rows.shape}, wanted one dimension")
    if rows.dtype.kind == "b":
        if rows.shape != (n_rows,):
            raise ValueError(f"{name}: got a mask of shape {rows.shape}, wanted ({n_rows},)")
        return np.flatnonzero(rows).astype(np.int64, copy=False)
    if rows.size == 0:
        return np.empty(0, dtype=np.int64)  # an empty list has no type of its own
    if rows.dtype.kind not in "iu":
        raise TypeError(f"{name}: got an array of {rows.dtype}, wanted row numbers or a boolean mask")
    if rows.dtype.kind == "u" and int(rows.max()) >= n_rows:
        raise ValueError(f"{name}: got row {int(rows.max())}, wanted rows of 0 to {n_rows - 1}")
    return np.ascontiguousarray(rows, dtype=np.int64)


# ---- labels ---------------------------------------------------------------------------------------------------------


class _Labels(NamedTuple):
    codes: npt.NDArray[np.int32]  # per row, in the order of first appearance
    counts: IntArray  # per code
    rank: IntArray  # per code: its place among the sorted classes
    names: list[Any]  # per code: the label as a Python object

    @property
    def n_rows(self) -> int:
        return int(self.codes.size)


def _labels(name: str, y: npt.ArrayLike, wanted: str = "class labels") -> _Labels:
    """Labels of any type as codes, in O(n) for fixed-width types."""
    labels = _check.plain_array(name, y, "one label a row")
    if labels.ndim != 1:
        raise ValueError(f"{name}: got shape {labels.shape}, wanted one dimension")
    if labels.size == 0:
        raise ValueError(f"{name}: got no label, wanted at least one")
    kind = labels.dtype.kind
    # Equal labels must have equal bytes. A long double has padding and objects are pointers: those are sorted.
    by_bytes = kind in "biumMUS" or (kind == "f" and labels.dtype.itemsize <= 8)
    values = labels
    if not by_bytes:
        try:
            _, values = np.unique(labels, return_inverse=True)
        except TypeError as error:
            raise TypeError(f"{name}: got labels that do not sort ({error}), wanted labels of one type") from None
    codes, first_row, counts = _encode(values)
    names = labels[first_row]
    if kind == "f" and by_bytes and ((names == 0) & np.signbit(names)).any():
        codes, first_row, counts = _encode(labels + labels.dtype.type(0))  # -0.0 becomes +0.0
        names = labels[first_row]
    if kind not in "US":
        missing = np.flatnonzero(names != names)
        if missing.size:
            what = f"{names[missing[0]]} in row {int(first_row[missing[0]])}"
            raise ValueError(f"{name}: got {what}, wanted {wanted}")
    _, rank = np.unique(values[first_row], return_inverse=True)
    return _Labels(codes, counts, rank.astype(np.int64).reshape(-1), names.tolist())


def _encode(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int32], IntArray, IntArray]:
    """(code of every row, first row of every code, count of every code), codes in the order of first appearance."""
    values = np.ascontiguousarray(values)
    width = values.dtype.itemsize
    if width == 0:  # strings that are all empty
        values, width = np.zeros(values.size, dtype=np.uint8), 1
    codes = np.empty(values.size, dtype=np.int32)
    first_row, counts = _core.index.encode_labels(values.view(np.uint8).reshape(values.size, width), codes)
    return codes, np.array(first_row, dtype=np.int64), np.array(counts, dtype=np.int64)
