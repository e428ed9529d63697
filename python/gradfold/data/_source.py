"""An opened file as columns: what the table needs of CSV, JSON Lines and Parquet alike.

A source knows its columns by position. `column` reads one of them whole (text, targets, weights); `batches` hands
out blocks of rows and lets go of each, so that the file's columns and the matrix made of them are never both whole.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gradfold.data import _csv
from gradfold.data._file import File, pyarrow

# Parquet is read by row group, which has a thread for each column, unless one is so large that it is read in blocks.
_PARQUET_BYTES = 256 << 20
_JSON_BLOCK = 1 << 24  # no line may be longer than a block


class Source:
    """The columns of one file.

    Attributes
    ----------
    names : tuple of str
        Of all columns of the file.
    header : bool
        Whether the file names its columns.
    file : File
    dialect : Dialect or None
        Of a CSV file.
    """

    names: tuple[str, ...]
    header = True
    dialect: _csv.Dialect | None = None

    def __init__(self, file: File) -> None:
        self.file = file

    def load(self, columns: Sequence[int], types: Mapping[int, Any], max_categories: int) -> None:
        """Read what has to be read whole. Only `columns` are asked for afterwards; `types` are known ones."""
        raise NotImplementedError

    @property
    def n_rows(self) -> int:
        raise NotImplementedError

    def type(self, position: int) -> Any:
        """The Arrow type of a column."""
        raise NotImplementedError

    def column(self, position: int) -> Any:
        """One column as a ChunkedArray."""
        raise NotImplementedError

    def batches(self, columns: Sequence[int]) -> Iterator[list[Any]]:
        """Blocks of rows, each the list of Arrow arrays of `columns`. The source can be used only once."""
        raise NotImplementedError

    def where(self, row: int) -> str:
        """How a user finds data row `row`, counted from 0."""
        return f"row {row + 1}"


class _Whole(Source):
    """A source whose reader makes the whole Arrow table."""

    _table: Any = None

    @property
    def n_rows(self) -> int:
        return int(self._table.num_rows)

    def _key(self, position: int) -> str:
        raise NotImplementedError

    def type(self, position: int) -> Any:
        return self._table.schema.field(self._key(position)).type

    def column(self, position: int) -> Any:
        return self._table.column(self._key(position))

    def batches(self, columns: Sequence[int]) -> Iterator[list[Any]]:
        batches = self._table.select([self._key(i) for i in columns]).to_batches()
        self._table = None
        batches.reverse()
        while batches:
            batch = batches.pop()
            yield [batch.column(i) for i in range(len(columns))]


class Csv(_Whole):
    def __init__(self, file: File, dialect: _csv.Dialect) -> None:
        super().__init__(file)
        self.dialect = dialect
        self.names, self.header = dialect.names, dialect.header

    def load(self, columns: Sequence[int], types: Mapping[int, Any], max_categories: int) -> None:
        assert self.dialect is not None
        with self.file.reading():
            self._table = _csv.read(self.file, self.dialect, columns, types, max_categories)
        if self._table.num_rows == 0:
            raise ValueError(f"{self.file.name}: holds a header only, no rows")

    def _key(self, position: int) -> str:
        return str(position)

    def where(self, row: int) -> str:
        assert self.dialect is not None
        return f"line {_csv.line_of(self.file, self.dialect, row)}"


class JsonLines(_Whole):
    def __init__(self, file: File) -> None:
        super().__init__(file)
        module = pyarrow("pyarrow.json")
        if file.head.lstrip().startswith(b"["):
            raise ValueError(f"{file.name}: holds a JSON array, wanted JSON Lines: one object on each line")
        try:
            with file.reading(), file.open() as stream:
                self._table = module.read_json(stream, read_options=module.ReadOptions(block_size=_JSON_BLOCK))
        except pyarrow("pyarrow").ArrowInvalid as error:
            raise ValueError(f"{file.name}: {_explain_json(file, error)}") from error
        self.names = tuple(self._table.column_names)

    def load(self, columns: Sequence[int], types: Mapping[int, Any], max_categories: int) -> None:
        self._table = self._table.select([self.names[i] for i in columns])

    def _key(self, position: int) -> str:
        return self.names[position]


class Parquet(Source):
    def __init__(self, file: File) -> None:
        super().__init__(file)
        try:
            parquet, of = pyarrow("pyarrow.parquet"), pyarrow("pyarrow").types
            fields = parquet.read_schema(file.open())
            texts = [one.name for one in fields if of.is_string(one.type) or of.is_large_string(one.type)]
            self._file = parquet.ParquetFile(file.open(), read_dictionary=texts)
        except pyarrow("pyarrow").ArrowInvalid as error:
            raise ValueError(f"{file.name}: is a damaged Parquet file: {' '.join(str(error).split())}") from error
        self._schema = self._file.schema_arrow
        self.names = tuple(self._schema.names)
        if self._file.metadata.num_rows == 0:
            raise ValueError(f"{file.name}: holds no rows")

    def load(self, columns: Sequence[int], types: Mapping[int, Any], max_categories: int) -> None:
        pass

    @property
    def n_rows(self) -> int:
        return int(self._file.metadata.num_rows)

    def type(self, position: int) -> Any:
        return self._schema.field(position).type

    def column(self, position: int) -> Any:
        return self._file.read(columns=[self.names[position]]).column(self.names[position])

    def batches(self, columns: Sequence[int]) -> Iterator[list[Any]]:
        names = [self.names[i] for i in columns]
        metadata = self._file.metadata
        for group in range(metadata.num_row_groups):
            if metadata.row_group(group).num_rows * 8 * len(names) <= _PARQUET_BYTES:
                batches = iter(self._file.read_row_group(group, columns=names).to_batches())
            else:
                rows = max(1024, _PARQUET_BYTES // (32 * len(names)))
                batches = self._file.iter_batches(batch_size=rows, row_groups=[group], columns=names)
            for batch in batches:
                yield [batch.column(batch.schema.get_field_index(name)) for name in names]


def _explain_json(file: File, error: Exception) -> str:
    """The first line that is no object, or whose values are of another type than before."""
    types: dict[str, str] = {}
    with file.open() as stream, io.TextIOWrapper(stream, encoding="utf-8", errors="replace") as text:
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as reason:
                return f"line {number} is no JSON: {reason.msg}"
            if not isinstance(row, dict):
                return f"line {number} holds {json.dumps(row)[:40]}, wanted an object, {{...}}"
            for name, value in row.items():
                kind = _json_kind(value)
                if kind is not None and types.setdefault(name, kind) != kind:
                    return f"column {name!r}: got {json.dumps(value)[:40]} on line {number}, wanted {types[name]} as before"
    return " ".join(str(error).split())


def _json_kind(value: object) -> str | None:
    if value is None:
        return None
    for kind, name in ((bool, "true or false"), ((int, float), "a number"), (str, "text"), (list, "a list")):
        if isinstance(value, kind):
            return name
    return "an object"
