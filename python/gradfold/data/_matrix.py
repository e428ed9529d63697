"""Arrow columns as one C-ordered matrix, block by block."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold.data._file import pyarrow
from gradfold.data._source import Source

Array = npt.NDArray[Any]

_CACHE_BYTES, _MIN_STEP = 1 << 19, 64

_EXACT = 2**53  # integers beyond it are not all float64


@dataclass
class Filler:
    """One column of a file on its way into the matrix.

    Attributes
    ----------
    name : str
    first : int
        The column of the matrix that it begins at.
    codes : dict or None
        For text: the place of each category, that of a missing cell under None. None for numbers.
    unseen, missing, rounded : int
        What was met: cells of an unknown category, missing cells, integers that float64 does not hold.
    example : str or None
        The first unknown category.
    """

    name: str
    first: int
    codes: dict[str | None, int] | None
    unseen: int = 0
    missing: int = 0
    rounded: int = 0
    example: str | None = None

    @property
    def width(self) -> int:
        return 1 if self.codes is None else len(self.codes)


def fill(source: Source, positions: Sequence[int], fillers: Sequence[Filler], dtype: np.dtype[Any]) -> Array:
    """The matrix of shape (n_rows, sum of the fillers' widths).

    Missing numbers are NaN. Text becomes one 0/1 column for each category; what is unknown becomes zeros.

    Raises
    ------
    ValueError
        An infinite number, or text where numbers are wanted, with its place.
        Or a matrix larger than the memory of this machine.
    """
    n_rows = source.n_rows
    n_columns = sum(filler.width for filler in fillers)
    check_size(source.file.name, n_rows, n_columns, dtype, 1.0)
    X = np.empty((n_rows, n_columns), dtype)
    # Columns are written into rows: the rows that are under way have to stay in the cache.
    step = max(_MIN_STEP, _CACHE_BYTES // (n_columns * dtype.itemsize))
    done = 0
    for arrays in source.batches(positions):
        rows = len(arrays[0])
        block = X[done : done + rows]
        # Of each column its values, or the places of its ones.
        columns = [
            _numbers(filler, array, source) if filler.codes is None else text_codes(filler, array)
            for filler, array in zip(fillers, arrays, strict=True)
        ]
        # A number that only float64 holds becomes infinite in float32, which is refused below.
        with np.errstate(over="ignore"):
            for a in range(0, rows, step):
                part = block[a : a + step]
                for filler, values in zip(fillers, columns, strict=True):
                    if filler.codes is None:
                        part[:, filler.first] = values[a : a + step]
                    else:
                        _one_hot(values[a : a + step], part[:, filler.first : filler.first + filler.width])
                if not np.isfinite(part).all():
                    _refuse_infinite(part, fillers, source, done + a)
        done += rows
    assert done == n_rows
    return X


def check_size(name: str, n_rows: int, n_columns: int, dtype: np.dtype[Any], share: float) -> None:
    """Refuse a matrix that takes more than a share of the machine's memory, before the system ends the process."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system says
        return
    size = n_rows * n_columns * dtype.itemsize
    if size > share * memory:
        raise ValueError(
            f"{name}: {n_rows:,} rows × {n_columns:,} columns of {dtype} would take {size / 1e9:.3g} GB, and this "
            f"machine has {memory / 1e9:.3g} GB; wanted fewer columns, or float32 (--dtype float32)"
        )


def text_codes(filler: Filler, array: Any) -> Array:
    """The place of each cell's category, and -1 for an unknown one; int64 of shape (n_rows,)."""
    assert filler.codes is not None
    pa = pyarrow("pyarrow")
    if not pa.types.is_dictionary(array.type):
        array = as_text(array).dictionary_encode()
    words = as_text(array.dictionary).to_pylist()
    # The last place serves missing cells.
    places = np.array([filler.codes.get(word, -1) for word in (*words, None)], np.int64)
    indices = array.indices.fill_null(len(words)).to_numpy(zero_copy_only=False).astype(np.int64)
    for i, word in enumerate(words):
        if word is None:  # a dictionary may hold a null itself
            indices[indices == i] = len(words)
    codes = places[indices]
    unknown = codes < 0
    if unknown.any():
        if filler.example is None:
            first = int(indices[unknown.argmax()])
            filler.example = "a missing cell" if first == len(words) else repr(words[first])
        filler.unseen += int(unknown.sum())
    return np.asarray(codes)


def as_text(array: Any) -> Any:
    """An Arrow array of any plain type as strings; what a user wrote into a file, as far as the file keeps it."""
    pa = pyarrow("pyarrow")
    return array if array.type == pa.string() else array.cast(pa.string())


def numbers(array: Any) -> Array:
    """An Arrow array (or one of its chunks) of numbers or booleans as NumPy's; NaN where it is missing."""
    pa = pyarrow("pyarrow")
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    elif pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    elif pa.types.is_null(array.type):
        return np.full(len(array), np.nan)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _numbers(filler: Filler, array: Any, source: Source) -> Array:
    """A block of a column of numbers, NaN where it is missing."""
    pa = pyarrow("pyarrow")
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_dictionary(array.type):
        text = as_text(array).drop_null()
        if len(text):
            raise ValueError(
                f"{source.file.name}: column {filler.name!r}: got the text {text[0].as_py()!r}, "
                "wanted numbers as in training"
            )
        array = pa.nulls(len(array))
    elif pa.types.is_temporal(array.type) or pa.types.is_nested(array.type) or pa.types.is_binary(array.type):
        raise ValueError(
            f"{source.file.name}: column {filler.name!r} holds {array.type}, wanted numbers as in training"
        )
    values = numbers(array)
    if values.dtype.kind == "f":
        filler.missing += int(np.isnan(values).sum())
    if pa.types.is_integer(array.type) and array.type.bit_width == 64:
        beyond = values > _EXACT
        if values.dtype.kind != "u":
            beyond |= values < -_EXACT
        filler.rounded += int(beyond.sum())
    return values


def _one_hot(codes: Array, out: Array) -> None:
    out[:] = 0
    known = np.flatnonzero(codes >= 0)
    out[known, codes[known]] = 1


def _refuse_infinite(block: Array, fillers: Sequence[Filler], source: Source, row: int) -> None:
    infinite = np.isinf(block)
    if not infinite.any():
        return  # NaN: missing cells
    at, column = (int(i[0]) for i in np.nonzero(infinite))
    name = next(f.name for f in fillers if f.first <= column < f.first + f.width)
    where = source.where(row + at)
    raise ValueError(
        f"{source.file.name}: column {name!r}: got {block[at, column]} on {where}, wanted numbers that are finite "
        f"in {block.dtype}"
    )
