"""Tables from files: CSV, TSV, JSON Lines, Parquet and svmlight, each through a library that keeps its reader.

`read` learns a `Table` from a training file: which columns are features, which of them hold text, and what
categories that text has. `Table.read` applies it to another file, so that a model meets the columns it was trained on.
"""

from __future__ import annotations

from gradfold.data.table import Column, Data, Table, read

__all__ = ["Column", "Data", "Table", "read"]
