"""`gradfold predict`: a saved model's predictions for a file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold import _storage
from gradfold._cli_cv import _delimiter
from gradfold._cli_model import collected, load, say
from gradfold.data._file import pyarrow
from gradfold.data.table import Table

if TYPE_CHECKING:
    from gradfold.run import Run

Array = npt.NDArray[Any]

_ROWS = 1 << 16  # written at once


def run(options: argparse.Namespace) -> int:
    """Do what `gradfold predict` was asked to; returns the exit code."""
    out = options.out
    if out is not None and not out.lower().endswith((".csv", ".parquet")):
        raise ValueError(f"--out: got {out!r}, wanted a name that ends in .csv or .parquet")
    model, table = load(options.model)
    if model.best_coef is None:
        raise ValueError(f"{options.model}: holds no refitted model")
    if options.proba and options.threshold is not None:
        raise ValueError("--threshold: goes without --proba")
    if options.proba or options.threshold is not None:
        _check_probabilities(model, options)
    if table is None:
        table = Table.of_numbers(model.n_features, model.best_coef.dtype.name, model.feature_names)
    given = table.read(
        options.file,
        format=options.format,
        header=options.header,
        delimiter=_delimiter(options.delimiter),
        encoding=options.encoding,
    )
    notes = list(given.notes)
    X = given.X
    if np.isnan(X).any() and model.fill is None:
        if not table.mean:
            raise ValueError(f"{options.file}: has missing cells, and the model does not know what to put there")
        notes.append(f"{options.file}: {table.fill(X):,} missing cells get their column's mean of the training file")
    with collected() as warnings:
        columns = _columns(model, X, options)
    if not options.quiet:
        for note in [*notes, *warnings]:
            say(f"warning: {note}")
    if out is None:
        _csv(columns, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    elif out.lower().endswith(".csv"):
        with _storage.atomic(out) as file:
            _csv(columns, file)
    else:
        with _storage.atomic(out) as file:
            pyarrow("pyarrow.parquet").write_table(pyarrow("pyarrow").table(columns), file)
    if out is not None and not options.quiet:
        say(f"{len(X):,} predictions written to {os.fspath(out)}")
    return 0


def _check_probabilities(model: Run, options: argparse.Namespace) -> None:
    option = "--proba" if options.proba else "--threshold"
    if model.classes is None:
        raise ValueError(f"{option}: {options.model} is a regression (loss {model.loss!r}), which has no probabilities")
    if not options.proba:
        if len(model.classes) != 2:
            raise ValueError(f"--threshold: wants two classes, {options.model} has {len(model.classes)}")
        if not 0 <= options.threshold <= 1:
            raise ValueError(f"--threshold: got {options.threshold}, wanted a probability, 0 to 1")


def _columns(model: Run, X: Array, options: argparse.Namespace) -> dict[str, Array]:
    """The columns to write, by name."""
    threads = options.threads
    if not options.proba and options.threshold is None:
        return {"prediction": _plain(model.predict(X, n_threads=threads))}
    proba = model.predict_proba(X, n_threads=threads)
    assert model.classes is not None
    if options.proba:
        return {f"probability {label}": proba[:, i] for i, label in enumerate(model.classes.tolist())}
    return {"prediction": _plain(model.classes[(proba[:, 1] > options.threshold).astype(np.intp)])}


def _plain(values: Array) -> Array:
    return values.astype(object) if values.dtype.kind in "US" else values


def _csv(columns: dict[str, Array], file: IO[bytes]) -> None:
    """CSV with a header, numbers in the shortest form that reads back equal."""
    import csv
    import io

    def lines() -> Iterator[str]:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        rows = len(next(iter(columns.values())))
        for a in range(0, rows, _ROWS):
            block = [_cells(values[a : a + _ROWS]) for values in columns.values()]
            writer.writerows(zip(*block, strict=True))
            yield text.getvalue()
            text.seek(0)
            text.truncate()
        if rows == 0:
            yield text.getvalue()

    for piece in lines():
        file.write(piece.encode())


def _cells(values: Array) -> list[Any]:
    """Numbers as text in the shortest form of their own type, so that float32 is not padded with float64's digits."""
    return list(values.astype(str) if values.dtype.kind == "f" else values.tolist())
