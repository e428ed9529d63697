"""What a training file teaches about its columns, and the same applied to other files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check
from gradfold.data import _csv, _matrix
from gradfold.data._file import FORMATS, File, pyarrow
from gradfold.data._source import Csv, JsonLines, Parquet, Source

Array = npt.NDArray[Any]

MAX_CATEGORIES = 256

# Text of which this share reads as numbers is a column of numbers with mistakes in it, not a category.
_ALMOST_NUMERIC = 0.9
# A number with a decimal comma, or with thousands set apart by commas.
_COMMAS = r"[ \t]*-?[0-9][0-9.]*(,[0-9.]+)+([eE][-+]?[0-9]+)?[ \t]*"
_VERSION = 1
_INDEX = "__index_level_0__"  # pandas' name for an index without one, in Parquet


@dataclass(frozen=True)
class Column:
    """A feature column of a file.

    Attributes
    ----------
    name : str
    position : int
        In the training file, counted from 0.
    kind : {"number", "boolean", "category"}
    categories : tuple of str
        Of a category column, sorted; each is a 0/1 feature.
    missing : bool
        Whether the training file had missing cells here. Those of a category column are one more 0/1 feature, the
        last; those of numbers are NaN.
    """

    name: str
    position: int
    kind: str
    categories: tuple[str, ...] = ()
    missing: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features made of this column."""
        if self.kind != "category":
            return (self.name,)
        return (*(f"{self.name}={word}" for word in self.categories), *([f"{self.name} missing"] * self.missing))


def _no_name(text: str) -> bool:
    """Whether a column of a DataFrame has no name that a header would repeat: a number, blanks around it, pandas' own word for none."""
    try:
        float(text)
    except ValueError:
        return not text or text != text.strip() or text.startswith("Unnamed: ")
    return True


@dataclass(frozen=True)
class Table:
    """The columns that a model was trained on.

    Attributes
    ----------
    format : str
        Of the training file: "csv", "tsv", "jsonl", "parquet" or "svmlight".
    header : bool
        Whether that file named its columns. They are then matched by name, and otherwise by position.
    n_columns : int
        All columns of that file.
    target, weight, group : str or None
        The columns with a role of their own.
    columns : tuple of Column
    dtype : str
        "float32" or "float64".
    encoding, missing : str, tuple of str
        How a CSV file is read.
    mean, scale : tuple of float
        Mean and standard deviation of each feature over its cells that are not missing; empty if nobody asked.
    zero_based : bool
        Of svmlight: whether the first feature is number 0.
    target_position : int or None
        Where the target stood.
    """

    format: str
    header: bool
    n_columns: int
    target: str | None
    columns: tuple[Column, ...]
    weight: str | None = None
    group: str | None = None
    dtype: str = "float64"
    encoding: str = "utf-8"
    missing: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    zero_based: bool = False
    target_position: int | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the matrix's columns."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def n_features(self) -> int:
        """The number of the matrix's columns."""
        return sum(len(column.features) for column in self.columns)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict that `from_json` reads."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Table:
        """The table that `to_json` wrote.

        Raises
        ------
        ValueError
            Not such a dict, or of a newer version.
        """
        try:
            rest = dict(given)
            version = rest.pop("version")
            if version > _VERSION:
                raise ValueError(f"table: got version {version}, this gradfold reads up to {_VERSION}")
            columns = tuple(
                Column(**{**column, "categories": tuple(column["categories"])}) for column in rest.pop("columns")
            )
            rest.update({name: tuple(rest[name]) for name in ("missing", "mean", "scale")})
            return cls(columns=columns, **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"table: got a description of columns that is damaged: {error!r}") from error

    @classmethod
    def of_numbers(cls, n_features: int, dtype: str, names: Sequence[str] | None = None) -> Table:
        """A table of numbers, for models that were not trained from a file; `names` are those of a DataFrame's columns.

        Names that a file's header could not have, or that could be cells, say nothing: columns are then matched by position.
        """
        named = names is not None and len(set(names)) == n_features and not any(map(_no_name, names))
        columns = tuple(Column(names[i] if names is not None and named else str(i), i, "number") for i in range(n_features))
        return cls("csv", named, n_features, None, columns, dtype=dtype)

    def with_moments(self, X: Array) -> Table:
        """This table with the mean and standard deviation of each column of `X`, missing cells left out."""
        n_features = X.shape[1]
        count, mean, spread = np.zeros(n_features), np.zeros(n_features), np.zeros(n_features)
        for a in range(0, len(X), 1 << 14):
            block = X[a : a + (1 << 14)].astype(np.float64)
            known = ~np.isnan(block)
            block[~known] = 0
            n = known.sum(axis=0).astype(np.float64)
            centre = block.sum(axis=0) / np.maximum(n, 1)
            own = (np.where(known, block - centre, 0) ** 2).sum(axis=0)
            total = np.maximum(count + n, 1)
            # Chan, Golub and LeVeque's rule for the moments of two samples together.
            spread += own + (centre - mean) ** 2 * count * n / total
            mean += (centre - mean) * n / total
            count += n
        scale = np.sqrt(spread / np.maximum(count, 1))
        return replace(self, mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))

    def fill(self, X: Array) -> int:
        """Put the mean of training into the missing cells of `X`, in place; returns how many there were."""
        filled = 0
        for a in range(0, len(X), 1 << 14):
            block = X[a : a + (1 << 14)]
            rows, columns = np.nonzero(np.isnan(block))
            if len(rows):
                block[rows, columns] = np.array(self.mean, X.dtype)[columns]
                filled += len(rows)
        return filled

    def read(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        header: bool | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
    ) -> Data:
        """The features of another file, as this table's training file had them.

        Columns are matched by name if both files name theirs: their order is free, more of them are ignored. Else they
        are matched by position; the target may then be left out.

        Parameters
        ----------
        path, format, header, delimiter, encoding
            As for `read`.

        Returns
        -------
        Data
            Without `y`.

        Raises
        ------
        ValueError, OSError, ImportError
            As for `read`; also columns that are not there.
        """
        file = File(_check.path("path", path), _format(format))
        if (file.format == "svmlight") != (self.format == "svmlight"):
            raise ValueError(f"{file.name}: is a {file.format} file, wanted {self.format} as in training")
        if file.format == "svmlight":
            from gradfold.data import _svmlight

            X, notes = _svmlight.features(file, self.n_features, self.zero_based, np.dtype(self.dtype))
            return Data(X, None, None, None, self, notes)
        known = [column.name for column in self.columns] if self.header else []
        source = _open(file, delimiter, header, encoding or self.encoding, self.missing, known)
        positions = self._by_name(source) if self.header and source.header else self._by_position(source)

        pa = pyarrow("pyarrow")
        arrow = {
            "number": pa.float64(),
            "boolean": pa.bool_(),
            "category": pa.dictionary(pa.int32(), pa.string()),
        }
        types = {i: arrow[column.kind] for i, column in zip(positions, self.columns, strict=True)}
        source.load(positions, types, MAX_CATEGORIES)
        fillers = _fillers(self.columns)
        X = _matrix.fill(source, positions, fillers, np.dtype(self.dtype))
        return Data(X, None, None, None, self, _notes(file, fillers))

    def _by_name(self, source: Source) -> list[int]:
        counts = Counter(source.names)
        missing = [column.name for column in self.columns if column.name not in counts]
        if missing:
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise ValueError(
                f"{source.file.name}: has no column {missing[0]!r}{others}, which the model was trained on"
                f"{_near(missing[0], source.names)}"
            )
        for column in self.columns:
            if counts[column.name] > 1:
                raise ValueError(f"{source.file.name}: has {counts[column.name]} columns named {column.name!r}")
        return [source.names.index(column.name) for column in self.columns]

    def _by_position(self, source: Source) -> list[int]:
        found = len(source.names)
        positions = [column.position for column in self.columns]
        if found == self.n_columns:
            return positions
        if self.target_position is not None and found == self.n_columns - 1:
            return [i - (i > self.target_position) for i in positions]
        without = "" if self.target is None else f", or {self.n_columns - 1} without the target"
        raise ValueError(
            f"{source.file.name}: has {found} columns, wanted {self.n_columns} as in training{without} "
            "(columns without names are matched by position)"
        )


@dataclass
class Data:
    """A file as arrays.

    Attributes
    ----------
    X : ndarray of shape (n_rows, n_features)
        C-ordered; missing numbers are NaN.
    y : ndarray of shape (n_rows,) or None
        As the file has it: integers, booleans, floats or text.
    sample_weight : ndarray of float64, shape (n_rows,), or None
    groups : ndarray of int64, shape (n_rows,), or None
        Equal numbers for equal cells of the group column.
    table : Table
    notes : list of str
        What a user should know, one sentence each.
    """

    X: Array
    y: Array | None
    sample_weight: Array | None
    groups: Array | None
    table: Table
    notes: list[str] = field(default_factory=list)


def read(
    path: str | os.PathLike[str],
    target: str | int | None = None,
    *,
    weight: str | int | None = None,
    group: str | int | None = None,
    ignore: Iterable[str | int] = (),
    categorical: Iterable[str | int] = (),
    format: str | None = None,
    header: bool | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    missing: Sequence[str] = (),
    dtype: npt.DTypeLike = "float64",
    max_categories: int = MAX_CATEGORIES,
) -> Data:
    """Read a training file: features, target, and what the columns are.

    Numbers and booleans are features as they are. Text is one 0/1 feature for each category, with one more for
    missing cells if there are some.

    Parameters
    ----------
    path : str or path
        CSV, TSV, JSON Lines, Parquet or svmlight, also compressed (gzip, bz2, zstd, lz4). "-" is standard input.
    target : str or int
        The column to predict: its name, or its place from 0, negative from the end. svmlight needs none.
    weight, group : str or int, optional
        A column of sample weights; a column whose equal cells belong together.
    ignore : iterable of str or int
        Columns to leave out.
    categorical : iterable of str or int
        Columns of numbers that are names: one 0/1 feature for each value.
    format : {"csv", "tsv", "jsonl", "parquet", "svmlight"}, optional
        Default: by the file's name and first bytes.
    header : bool, optional
        Of CSV: whether the first row names the columns. Default: found out by looking.
    delimiter, encoding : str, optional
        Of CSV. Default: found out by looking, and UTF-8.
    missing : sequence of str
        Of CSV: cells that mean "missing", beside the empty one, NA, NaN, null and their like.
    dtype : {"float32", "float64"}
    max_categories : int
        More distinct texts in a column are an error.

    Returns
    -------
    Data

    Raises
    ------
    ValueError
        The file is empty, ragged or damaged; a column that is not there, has dates, too many categories or no cell
        at all, or is text with almost only numbers in it; a target with missing cells. The message names the place.
    OSError
        The file cannot be opened.
    ImportError
        pyarrow, or for svmlight scikit-learn, is not installed.
    """
    file = File(_check.path("path", path), _format(format))
    kind = _check.float_dtype("dtype", dtype)
    limit = _check.integer("max_categories", max_categories, 1)
    if file.format == "svmlight":
        return _read_svmlight(file, target, weight, group, [*ignore, *categorical], kind)
    if target is None:
        raise ValueError("target: got None, wanted the name or the place of a column")
    source = _open(file, delimiter, header, encoding, tuple(missing), ())
    for name, count in Counter(source.names).items():
        if count > 1:
            places = ", ".join(str(i + 1) for i, other in enumerate(source.names) if other == name)
            raise ValueError(f"{file.name}: got {count} columns named {name!r} (columns {places}), wanted different names")

    roles: dict[int, str] = {}
    for role, given in (("target", target), ("weight", weight), ("group", group)):
        if given is not None:
            _take(roles, role, _position(file, source.names, role, given))
    for given in ignore:
        _take(roles, "ignore", _position(file, source.names, "ignore", given))
    at = {role: i for i, role in roles.items() if role != "ignore"}
    as_text = {_position(file, source.names, "categorical", given) for given in categorical}
    notes = []
    if _INDEX in source.names and (index := source.names.index(_INDEX)) not in roles:
        roles[index] = "ignore"
        notes.append(f"column {_INDEX!r}, the index of a pandas table, is left out")
    if source.dialect is not None and "unnamed_0" in source.names[:1] and 0 not in roles:
        notes.append("the first column has no name (an index?) and counts as a feature; --ignore unnamed_0 leaves it out")
    positions = [i for i in range(len(source.names)) if i not in roles]
    if not positions:
        raise ValueError(f"{file.name}: has no column beside {', '.join(sorted(set(roles.values())))}, wanted features")

    pa = pyarrow("pyarrow")
    text = pa.dictionary(pa.int32(), pa.string())
    source.load(sorted([*positions, *at.values()]), {i: text for i in as_text - set(at.values())}, limit)
    columns = tuple(_learn(source, i, i in as_text, limit) for i in positions)
    y = _target(source, at["target"])
    notes += _note_of_target(source, at["target"])
    sample_weight = _weight(source, at["weight"]) if "weight" in at else None
    groups = _groups(source, at["group"]) if "group" in at else None
    fillers = _fillers(columns)
    X = _matrix.fill(source, positions, fillers, kind)
    notes += _note_of_names(columns, len(X))
    for filler in fillers:
        if filler.codes is None and filler.missing == len(X):
            raise ValueError(_all_missing(file, filler.name))
    columns = tuple(
        column if filler.codes is not None else replace(column, missing=filler.missing > 0)
        for column, filler in zip(columns, fillers, strict=True)
    )
    table = Table(
        format=file.format,
        header=source.header,
        n_columns=len(source.names),
        target=source.names[at["target"]],
        target_position=at["target"],
        columns=columns,
        weight=source.names[at["weight"]] if "weight" in at else None,
        group=source.names[at["group"]] if "group" in at else None,
        dtype=kind.name,
        encoding=encoding,
        missing=tuple(missing),
    )
    return Data(X, y, sample_weight, groups, table, notes + _notes(file, fillers))


def _format(given: str | None) -> str | None:
    return None if given is None else _check.choice("format", given, FORMATS)


def _open(
    file: File,
    delimiter: str | None,
    header: bool | None,
    encoding: str,
    missing: tuple[str, ...],
    known: Sequence[str],
) -> Source:
    if file.format == "parquet":
        return Parquet(file)
    if file.format == "jsonl":
        return JsonLines(file)
    form = _csv.dialect(file, delimiter=delimiter, header=header, encoding=encoding, missing=missing, known=known)
    return Csv(file, form)


def _read_svmlight(file: File, target: Any, weight: Any, group: Any, others: list[Any], dtype: np.dtype[Any]) -> Data:
    from gradfold.data import _svmlight

    if target not in (None, 0, "0") or weight is not None or group is not None or others:
        raise ValueError(f"{file.name}: is svmlight, whose target is the first cell and whose columns have no names")
    X, y, zero_based, notes = _svmlight.training(file, dtype)
    columns = tuple(Column(str(i + (not zero_based)), i, "number") for i in range(X.shape[1]))
    table = Table("svmlight", False, X.shape[1], None, columns, dtype=dtype.name, zero_based=zero_based)
    return Data(X, y, None, None, table, notes)


def _position(file: File, names: Sequence[str], role: str, given: str | int) -> int:
    """The place of a column that is given by name, or by a place from either end."""
    if isinstance(given, str) and given in names:
        return names.index(given)
    try:
        place = int(given)
    except ValueError:
        raise ValueError(
            f"{role}: got {given!r}, which is no column of {file.name}; it has {_some(names)}"
            f"{_near(str(given), names)}"
        ) from None
    if not -len(names) <= place < len(names):
        raise ValueError(f"{role}: got the place {place}, but {file.name} has {len(names)} columns: {_some(names)}")
    return place % len(names)


def _near(name: str, names: Sequence[str]) -> str:
    same = [other for other in names if other.strip().lower() == name.strip().lower()]
    return f"; did you mean {same[0]!r}?" if same else _check.near(name, names)


def _take(roles: dict[int, str], role: str, position: int) -> None:
    if roles.get(position, role) != role:
        raise ValueError(f"{role}: got the column that is the {roles[position]} too, wanted another one")
    roles[position] = role


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (f", … ({len(names)} columns)" if len(names) > 8 else "")


def _learn(source: Source, position: int, as_text: bool, limit: int) -> Column:
    """What a feature column is."""
    of = pyarrow("pyarrow").types
    kind, name, file = source.type(position), source.names[position], source.file
    if of.is_null(kind):
        raise ValueError(_all_missing(file, name))
    if of.is_boolean(kind) and not as_text:
        return Column(name, position, "boolean")
    if (of.is_integer(kind) or of.is_floating(kind) or of.is_decimal(kind)) and not as_text:
        return Column(name, position, "number")
    if of.is_temporal(kind):
        value = next((v for v in source.column(position).slice(0, 100).to_pylist() if v is not None), kind)
        raise ValueError(
            f"{file.name}: column {name!r} holds dates or times ({value}), wanted numbers or text; turn it into a number, "
            f"or leave it out with --ignore {name!r}, or take each as a category with --categorical {name!r}"
            if not as_text
            else f"{file.name}: column {name!r} holds dates or times ({value}), which cannot be categories"
        )
    _refuse_bytes(file, name, kind)
    if of.is_nested(kind):
        raise ValueError(f"{file.name}: column {name!r} holds {kind}, wanted numbers or text; --ignore {name!r} leaves it out")

    column = source.column(position)
    if not as_text:
        _refuse_almost_numeric(source, name, column)
    words: set[str] = set()
    missing = 0
    for chunk in column.chunks:
        missing += chunk.null_count
        if not of.is_dictionary(chunk.type):
            chunk = _matrix.as_text(chunk).dictionary_encode()
        # Only what stands in the file: a dictionary of Parquet may hold more.
        taken = _matrix.as_text(chunk.dictionary).take(chunk.indices.unique().drop_null()).to_pylist()
        missing += 1 if None in taken else 0
        words.update(word for word in taken if word is not None)
    if not words:
        raise ValueError(_all_missing(file, name))
    if len(words) > limit:
        raise ValueError(
            f"{file.name}: column {name!r} holds {len(words):,} different texts in {source.n_rows:,} rows, wanted at most "
            f"{limit} categories; leave it out with --ignore {name!r}, or raise --max-categories"
        )
    return Column(name, position, "category", tuple(sorted(words)), missing > 0)


def _refuse_bytes(file: File, name: str, kind: Any) -> None:
    of = pyarrow("pyarrow").types
    if of.is_dictionary(kind):
        kind = kind.value_type
    if of.is_binary(kind) or of.is_large_binary(kind) or of.is_fixed_size_binary(kind):
        raise ValueError(
            f"{file.name}: column {name!r} holds bytes that are not UTF-8 text; pass the file's --encoding, "
            "for example latin-1"
        )


@dataclass
class _Cells:
    """What the cells of a text column look like: how many are numbers, or would be but for commas."""

    total: int = 0
    numbers: int = 0
    commas: int = 0
    other: tuple[int, str] | None = None  # the first that is no number: its row and text


def _look(column: Any) -> _Cells:
    pa, compute = pyarrow("pyarrow"), pyarrow("pyarrow.compute")
    out, row = _Cells(), 0
    for chunk in column.chunks:
        if not pa.types.is_dictionary(chunk.type):
            chunk = _matrix.as_text(chunk).dictionary_encode()
        words = _matrix.as_text(chunk.dictionary)
        if len(words):
            indices = chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            known = indices >= 0
            good, comma = (
                known & compute.match_substring_regex(words, f"^{form}$").fill_null(False).to_numpy(zero_copy_only=False)[indices]
                for form in (_csv.NUMBER, _COMMAS)
            )
            out.total += int(known.sum())
            out.numbers += int(good.sum())
            out.commas += int(comma.sum())
            bad = known & ~good
            if out.other is None and bad.any():
                at = int(bad.argmax())
                out.other = row + at, words[int(indices[at])].as_py()
        row += len(chunk)
    return out


def _refuse_almost_numeric(source: Source, name: str, column: Any) -> None:
    """Raise for text that is numbers but for a few cells, of which one is a mistake or means "missing", or but for commas."""
    cells = _look(column)
    if cells.other is None:
        return
    row, text = cells.other
    if cells.commas and cells.numbers + cells.commas >= _ALMOST_NUMERIC * cells.total:
        raise ValueError(
            f"{source.file.name}: column {name!r}: got {text!r} on {source.where(row)}, wanted numbers with a decimal point "
            f"and without separators of thousands; correct the file, or pass --categorical {name!r} if all are names, or "
            f"--ignore {name!r}"
        )
    if cells.numbers >= _ALMOST_NUMERIC * cells.total:
        bad = cells.total - cells.numbers
        raise ValueError(
            f"{source.file.name}: column {name!r}: got {text!r} on {source.where(row)}, but {cells.numbers:,} of its "
            f"{cells.total:,} cells are numbers{'' if bad == 1 else f' ({bad:,} are not)'}; if it means a missing "
            f"cell pass --na {text!r}, if all are names --categorical {name!r}, else correct it or --ignore {name!r}"
        )


def _note_of_target(source: Source, position: int) -> list[str]:
    """A warning for a target of text that is mostly numbers: one cell makes labels of them all."""
    of, name, kind = pyarrow("pyarrow").types, source.names[position], source.type(position)
    if not (of.is_dictionary(kind) or of.is_string(kind) or of.is_large_string(kind)):
        return []
    cells = _look(source.column(position))
    if cells.other is None or cells.numbers + cells.commas < _ALMOST_NUMERIC * cells.total:
        return []
    row, text = cells.other
    return [
        f"target {name!r} is read as labels because of {text!r} on {source.where(row)}, but "
        f"{cells.numbers + cells.commas:,} of its {cells.total:,} cells look like numbers"
    ]


def _note_of_names(columns: Sequence[Column], n_rows: int) -> list[str]:
    """A warning for text that hardly ever repeats: an identifier, from which nothing can be learned."""
    return [
        f"column {column.name!r} holds {len(column.categories):,} different texts in {n_rows:,} rows (an identifier?), a feature "
        f"each; --ignore {column.name!r} leaves it out"
        for column in columns
        if len(column.categories) > max(10, n_rows // 2)
    ]


def _all_missing(file: File, name: str) -> str:
    return f"{file.name}: column {name!r}: every cell is missing; leave it out with --ignore {name!r}"


def _target(source: Source, position: int) -> Array:
    pa = pyarrow("pyarrow")
    kind, name, file = source.type(position), source.names[position], source.file
    column = source.column(position)
    _refuse_bytes(file, name, kind)
    _no_gaps("target", source, column, position)
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        filler = _coded(column)
        assert filler.codes is not None
        labels = np.array([word for word in filler.codes if word is not None])
        return np.concatenate([labels[_matrix.text_codes(filler, chunk)] for chunk in column.chunks])
    _only_numbers("target", file, name, kind)
    if pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy())
    values = [_matrix.numbers(chunk) for chunk in column.chunks]
    return np.concatenate(values)


def _weight(source: Source, position: int) -> Array:
    column = source.column(position)
    _no_gaps("weight", source, column, position)
    kind = source.type(position)
    if pyarrow("pyarrow").types.is_boolean(kind):
        raise ValueError(f"weight: got the column {source.names[position]!r} of {kind}, wanted numbers")
    _only_numbers("weight", source.file, source.names[position], kind)
    return np.concatenate([_matrix.numbers(chunk) for chunk in column.chunks]).astype(np.float64)


def _groups(source: Source, position: int) -> Array:
    column = source.column(position)
    _no_gaps("group", source, column, position)
    if pyarrow("pyarrow").types.is_dictionary(column.type):
        filler = _coded(column)
        return np.concatenate([_matrix.text_codes(filler, chunk) for chunk in column.chunks])
    coded = column.combine_chunks().dictionary_encode()
    if hasattr(coded, "combine_chunks"):
        coded = coded.combine_chunks()
    return np.asarray(coded.indices.to_numpy(zero_copy_only=False).astype(np.int64))


def _coded(column: Any) -> _matrix.Filler:
    """A code for each text of a column, sorted."""
    of = pyarrow("pyarrow").types
    words: set[str] = set()
    for chunk in column.chunks:
        words.update(_matrix.as_text(chunk.dictionary if of.is_dictionary(chunk.type) else chunk.unique()).to_pylist())
    return _matrix.Filler("", 0, {word: i for i, word in enumerate(sorted(words))})


def _no_gaps(role: str, source: Source, column: Any, position: int) -> None:
    """Raise for a missing cell of a column whose cells are all needed."""
    nan = pyarrow("pyarrow").types.is_floating(column.type)
    gaps = column.is_null(nan_is_null=nan).to_numpy()
    count = int(gaps.sum())
    if count:
        row = int(gaps.argmax())
        others = "" if count == 1 else f" ({count:,} missing cells)"
        raise ValueError(
            f"{role}: column {source.names[position]!r} of {source.file.name} is missing on {source.where(row)}{others}, "
            "wanted a value in every row"
        )


def _only_numbers(role: str, file: File, name: str, kind: Any) -> None:
    of = pyarrow("pyarrow").types
    if not (of.is_integer(kind) or of.is_floating(kind) or of.is_decimal(kind) or of.is_boolean(kind)):
        what = "dates or times" if of.is_temporal(kind) else str(kind)
        wanted = "numbers or labels" if role == "target" else "numbers"
        raise ValueError(f"{role}: column {name!r} of {file.name} holds {what}, wanted {wanted}")


def _fillers(columns: Sequence[Column]) -> list[_matrix.Filler]:
    fillers, first = [], 0
    for column in columns:
        codes: dict[str | None, int] | None = None
        if column.kind == "category":
            codes = {word: i for i, word in enumerate(column.categories)}
            if column.missing:
                codes[None] = len(codes)
        fillers.append(_matrix.Filler(column.name, first, codes))
        first += fillers[-1].width
    return fillers


def _notes(file: File, fillers: Sequence[_matrix.Filler]) -> list[str]:
    notes = []
    unseen = [filler for filler in fillers if filler.unseen]
    if unseen:
        cells = sum(filler.unseen for filler in unseen)
        which = ", ".join(f"{filler.name!r} ({filler.example})" for filler in unseen[:5])
        more = f" and {len(unseen) - 5} more columns" if len(unseen) > 5 else ""
        notes.append(
            f"{file.name}: {cells:,} cells hold a category that the training file had not, and count as none: "
            f"{which}{more}"
        )
    rounded = [filler for filler in fillers if filler.rounded]
    if rounded:
        which = ", ".join(repr(filler.name) for filler in rounded[:5])
        notes.append(f"{file.name}: integers beyond 2^53 are rounded to {'' if len(rounded) == 1 else 'numbers '}float64: {which}")
    return notes
