"""svmlight (libsvm) files, through scikit-learn's reader.

The kernels read dense rows, so a file is made dense if that is small enough, and refused otherwise.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold.data import _matrix
from gradfold.data._file import File

Array = npt.NDArray[Any]

_SHARE = 0.5  # of the machine's memory, that a dense matrix may take
_CELL = re.compile(rb"(qid:)?[0-9]+:\S+")


def training(file: File, dtype: np.dtype[Any]) -> tuple[Array, Array, bool, list[str]]:
    """X, y, whether features are counted from 0, and notes."""
    zero_based = _zero_based(file)
    sparse, y = _load(file, None, zero_based, dtype)
    if sparse.shape[1] == 0:
        raise ValueError(f"{file.name}: holds no feature")
    X, notes = _dense(file, sparse, dtype)
    whole = np.isfinite(y).all() and (y == np.round(y)).all() and np.abs(y).max(initial=0) < 2**53
    return X, y.astype(np.int64) if whole else y, zero_based, notes


def features(file: File, n_features: int, zero_based: bool, dtype: np.dtype[Any]) -> tuple[Array, list[str]]:
    """X with the features of training, and notes."""
    sparse, _ = _load(file, None, zero_based, dtype)
    found = sparse.shape[1]
    extra = []
    if found > n_features:
        extra = [f"{file.name}: features above number {n_features - zero_based} are left out, as training had none"]
        sparse = sparse[:, :n_features]
    elif found < n_features:
        sparse.resize((sparse.shape[0], n_features))
    X, notes = _dense(file, sparse, dtype)
    return X, extra + notes


def _load(file: File, n_features: int | None, zero_based: bool, dtype: np.dtype[Any]) -> tuple[Any, Array]:
    try:
        from sklearn.datasets import load_svmlight_file
    except ImportError:
        raise ImportError("reading svmlight needs scikit-learn: pip install 'gradfold[cli]'") from None
    try:
        with file.open() as raw, io.BufferedReader(raw) as stream:
            X, y = load_svmlight_file(stream, n_features=n_features, zero_based=zero_based, dtype=dtype)
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{file.name}: {_explain(file, error)}") from error
    if X.shape[0] == 0:
        raise ValueError(f"{file.name}: holds no rows")
    if not np.isfinite(X.data).all():
        raise ValueError(f"{file.name}: holds a value that is not finite in {dtype}")
    return X, np.asarray(y, np.float64)


def _dense(file: File, sparse: Any, dtype: np.dtype[Any]) -> tuple[Array, list[str]]:
    n_rows, n_columns = sparse.shape
    share = sparse.nnz / max(1, n_rows * n_columns)
    try:
        _matrix.check_size(file.name, n_rows, n_columns, dtype, _SHARE)
    except ValueError as error:
        raise ValueError(f"{error}. The file is sparse ({100 * share:.2g} % of its cells are not 0), and this version "
                         "has no sparse kernels") from None  # fmt: skip
    X = np.zeros((n_rows, n_columns), dtype)
    step = max(1, (16 << 20) // (n_columns * dtype.itemsize))
    for a in range(0, n_rows, step):
        sparse[a : a + step].toarray(out=X[a : a + step])
    note = (
        f"{file.name}: made dense, {X.nbytes / 1e6:.3g} MB ({100 * share:.2g} % of its cells are not 0): "
        "this version has no sparse kernels"
    )
    return X, [note]


def _zero_based(file: File) -> bool:
    """Whether some feature has number 0; otherwise they are counted from 1, as svmlight does."""
    with file.open() as stream:
        rest = b""
        while block := stream.read(1 << 22):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            if any(re.search(rb"[ \t]0+:", line.split(b"#")[0]) for line in lines):
                return True
    return re.search(rb"[ \t]0+:", rest.split(b"#")[0]) is not None


def _explain(file: File, error: Exception) -> str:
    """The first line that is not `label index:value …`."""
    with file.open() as stream:
        for number, line in enumerate(stream.read().split(b"\n"), 1):
            cells = line.split(b"#")[0].split()
            for i, cell in enumerate(cells):
                try:
                    if i and not _CELL.fullmatch(cell):
                        raise ValueError
                    float(cell.rsplit(b":", 1)[-1])
                except ValueError:
                    return f"got {cell.decode(errors='replace')!r} on line {number}, wanted label index:value index:value …"
    return " ".join(str(error).split())
