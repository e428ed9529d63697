"""What the commands keep in a saved run beside its models: the columns of the training file."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import gradfold as gf
from gradfold.data.table import Table

if TYPE_CHECKING:
    from gradfold.run import Run

_KEY = "table"


def remember(run: Run, table: Table) -> None:
    """Put the columns into a run, so that `save` writes them."""
    run.metadata[_KEY] = table.to_json()


def load(path: str) -> tuple[Run, Table | None]:
    """A saved run and its columns; None for a run that was not trained from a file.

    Raises
    ------
    ValueError
        No saved run, or a damaged one.
    OSError
        The file cannot be opened.
    """
    run = gf.load(path)
    kept = run.metadata.get(_KEY)
    if kept is None:
        return run, None
    try:
        table = Table.from_json(kept)
        if table.n_features != run.n_features:
            raise ValueError(f"it names {table.n_features} features, and the model has {run.n_features}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: is damaged: {error}") from error
    return run, table


def say(message: str) -> None:
    """One line on standard error."""
    print(f"gradfold: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def collected() -> Iterator[list[str]]:
    """The warnings of a block, as sentences, each once; the list is complete when the block has ended."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages.extend(dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught))
