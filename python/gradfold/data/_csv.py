"""CSV and TSV: delimiter and header are found by looking, everything else is pyarrow's reader."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradfold.data._file import HEAD_BYTES, File, pyarrow

# Cells that mean "missing" beside those that the user names; pyarrow's and pandas' common ground.
MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A", "NA", "NULL",
    "NaN", "n/a", "nan", "null",
)  # fmt: skip

NUMBER = r"[ \t]*-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?[ \t]*"  # what pyarrow reads as one
_NUMBER = re.compile(NUMBER + r"|[ \t]*[-+]?(inf|infinity)[ \t]*", re.IGNORECASE)
_BOOLEANS = ("true", "false", "1", "0")
_DELIMITERS = ",\t;|"
_LOOK = 200  # lines looked at

# A row has to fit into a block; larger blocks make a very wide file cheaper, smaller ones a narrow file no slower.
_BLOCK, _WIDE_BLOCK, _WIDE = 1 << 20, 1 << 24, 1000


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Attributes
    ----------
    delimiter : str
    header : bool
        Whether the first row holds names.
    names : tuple of str
        Those names, or "0", "1", … without a header.
    encoding : str
    missing : tuple of str
        The cells that mean "missing".
    """

    delimiter: str
    header: bool
    names: tuple[str, ...]
    encoding: str = "utf-8"
    missing: tuple[str, ...] = MISSING


def dialect(
    file: File, *, delimiter: str | None, header: bool | None, encoding: str, missing: Sequence[str], known: Sequence[str]
) -> Dialect:
    """Find out how `file` is written.

    Parameters
    ----------
    delimiter, header
        None: find out.
    missing : sequence of str
        More cells that mean "missing".
    known : sequence of str
        The names that a model knows; a first row that holds one of them is a header.
    """
    if file.head[:2] in (b"\xff\xfe", b"\xfe\xff") and encoding == "utf-8":
        raise ValueError(f"{file.name}: is UTF-16; pass --encoding utf-16")
    try:
        text = file.head.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace")
    except LookupError:
        raise ValueError(f"encoding: got {encoding!r}, which is no known encoding") from None
    if "\0" in text:
        raise ValueError(f"{file.name}: holds zero bytes, wanted a text file")
    lines = list(io.StringIO(text, newline=""))  # unlike splitlines, which knows more line ends than CSV does
    if len(file.head) == HEAD_BYTES and len(lines) > 1:
        lines.pop()  # cut off
    lines = [line for line in lines if line.strip("\r\n")][:_LOOK]
    if delimiter is None:
        delimiter = "\t" if file.format == "tsv" else _delimiter(lines)
    elif len(delimiter) != 1:
        raise ValueError(f"delimiter: got {delimiter!r}, wanted a single character")
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    if not rows:
        raise ValueError(f"{file.name}: the file is empty")
    tokens = (*MISSING, *missing)
    first = [cell.strip() for cell in rows[0]]
    if header is None:
        header = _has_header(first, rows[1:], set(tokens), set(known))
    if header:  # a column without a name is the index that pandas wrote, most often
        names = tuple(cell or f"unnamed_{i}" for i, cell in enumerate(first))
        garbled = next((name for name in names if "\ufffd" in name), None)
        if garbled is not None:
            raise ValueError(
                f"{file.name}: the column name {garbled!r} holds bytes that are not {encoding} text; pass the file's --encoding, "
                "for example latin-1"
            )
    else:
        names = tuple(str(i) for i in range(len(first)))
    return Dialect(delimiter, header, names, encoding, tokens)


def read(file: File, form: Dialect, columns: Sequence[int] | None, types: Mapping[int, Any], max_categories: int) -> Any:
    """A pyarrow table with columns named by their position, "0", "1", …

    Parameters
    ----------
    columns : sequence of int, optional
        Which columns to convert; default all.
    types : mapping from position to Arrow type
        The types of columns that are not to be guessed.
    max_categories : int
        Text columns with at most this many distinct values come as dictionaries.
    """
    module = pyarrow("pyarrow.csv")
    wide = len(form.names) > _WIDE
    read_options = module.ReadOptions(
        column_names=[str(i) for i in range(len(form.names))],
        skip_rows_after_names=int(form.header),
        block_size=_WIDE_BLOCK if wide else _BLOCK,
        encoding={"utf-8": "utf8"}.get(form.encoding, form.encoding),
    )
    convert_options = module.ConvertOptions(
        column_types={str(i): kind for i, kind in types.items()},
        include_columns=None if columns is None else [str(i) for i in columns],
        null_values=list(form.missing),
        strings_can_be_null=True,
        auto_dict_encode=True,
        auto_dict_max_cardinality=max_categories,
    )
    invalid = pyarrow("pyarrow").ArrowInvalid
    error: Exception | None = None
    # Line ends inside quotes are rare, and looking for them slows the reader: only when it fails without.
    for newlines in (False, True):
        parse = module.ParseOptions(delimiter=form.delimiter, newlines_in_values=newlines)
        try:
            with file.open() as stream:
                return module.read_csv(
                    stream, read_options=read_options, parse_options=parse, convert_options=convert_options
                )
        except invalid as failure:
            error = error or failure
    raise ValueError(f"{file.name}: {_explain(file, form, types, error)}") from error


def line_of(file: File, form: Dialect, row: int) -> int:
    """The line, counted from 1, on which data row `row` (from 0) begins."""
    for i, (line, _) in enumerate(_rows(file, form)):
        if i == row:
            return line
    return row + 1 + int(form.header)


def _delimiter(lines: list[str]) -> str:
    """The delimiter that cuts the first lines into the same number of cells, and into the most."""
    best, score = ",", (0.0, 0)
    for candidate in _DELIMITERS:
        widths = [len(row) for row in csv.reader(lines, delimiter=candidate) if row]
        if widths and widths[0] > 1:
            found = (sum(width == widths[0] for width in widths) / len(widths), widths[0])
            if found > score:
                best, score = candidate, found
    return best


def _has_header(first: list[str], body: list[list[str]], missing: set[str], known: set[str]) -> bool:
    """Whether the first row names the columns.

    It does if it holds text over a column of numbers, or if all of it is text, no cell twice. Numbers in it speak
    against that, unless they count the columns, as in a table that pandas wrote without names.
    """
    if known and any(cell in known for cell in first):
        return True

    def number(cell: str) -> bool:
        return _NUMBER.fullmatch(cell) is not None

    cells = [(i, cell) for i, cell in enumerate(first) if cell not in missing and cell != "?"]
    numbers = [cell for _, cell in cells if number(cell)]
    texts = [i for i, cell in cells if not number(cell)]

    def over_numbers(i: int) -> bool:
        column = [row[i].strip() for row in body if i < len(row)]
        column = [cell for cell in column if cell not in missing and cell != "?"]
        return bool(column) and sum(map(number, column)) >= 0.9 * len(column)

    above = any(over_numbers(i) for i in texts)
    if numbers:
        counting = numbers == [str(i) for i in range(len(numbers))] and len(numbers) >= 2
        return counting and above
    return bool(texts) and (above or len({first[i] for i in texts}) == len(texts))


def _rows(file: File, form: Dialect) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each data row, by Python's own reader: slow, and only to say where a mistake is."""
    encoding = "utf-8-sig" if form.encoding == "utf-8" else form.encoding
    with file.open() as stream, io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="") as text:
        reader = csv.reader(text, delimiter=form.delimiter)
        skip = form.header
        line = 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                return
            here, line = line, reader.line_num + 1
            if not cells:
                continue
            if skip:
                skip = False
                continue
            yield here, cells


def _explain(file: File, form: Dialect, types: Mapping[int, Any], error: Exception | None) -> str:
    """Where the file is wrong, and what stands there."""
    of = pyarrow("pyarrow").types
    wanted = {i: "a number" for i, kind in types.items() if of.is_floating(kind)}
    wanted |= {i: "true or false" for i, kind in types.items() if of.is_boolean(kind)}
    missing = set(form.missing)
    width = len(form.names)
    seen = False
    for line, cells in _rows(file, form):
        seen = True
        if len(cells) != width:
            return f"line {line} has {len(cells)} cells, wanted {width} as in the first line"
        for i, what in wanted.items():
            cell = cells[i]
            fits = cell.lower() in _BOOLEANS if what == "true or false" else _NUMBER.fullmatch(cell)
            if not fits and cell not in missing:
                return f"column {form.names[i]!r}: got {cell!r} on line {line}, wanted {what} as in training"
    if not seen:
        return "holds a header only, no rows"
    return " ".join(str(error).split())
