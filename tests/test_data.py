"""Reading files: what comes back is what was written, and what is wrong in a file is named with its place."""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradfold as gf

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")

FORMATS = ("csv", "tsv", "csv.gz", "jsonl", "jsonl.gz", "parquet")


# ---- round trips -----------------------------------------------------------------------------------------------------

# A leading letter keeps a word from being a number, a date or "NA" by chance; those have tests of their own.
_words = st.text(alphabet="abzäß€ ,;\"'\t|\n#=", max_size=6).map(lambda text: "w" + text)
_cells: dict[str, st.SearchStrategy[Any]] = {
    "float": st.floats(allow_nan=False, allow_infinity=False, width=64),
    "integer": st.integers(-(2**53), 2**53),
    "boolean": st.booleans(),
    "category": st.sampled_from(["red", "green", "blue", "w,", 'w"x', "w\ny"]) | _words,
}


@st.composite
def _tables(draw: Any) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Columns with missing cells, and the kind of each."""
    rows = draw(st.integers(1, 30))
    kinds = draw(st.lists(st.sampled_from(sorted(_cells)), min_size=1, max_size=5))
    columns: dict[str, list[Any]] = {}
    for i, kind in enumerate(kinds):
        gaps = draw(st.booleans())
        column = draw(st.lists(_cells[kind] | st.none() if gaps else _cells[kind], min_size=rows, max_size=rows))
        if all(cell is None for cell in column):
            column[0] = draw(_cells[kind])
        columns[f"c {i}"] = column
    columns["y"] = draw(st.lists(st.integers(-5, 5), min_size=rows, max_size=rows))
    return columns, {f"c {i}": kind for i, kind in enumerate(kinds)}


def _expected(columns: dict[str, list[Any]], kinds: dict[str, str]) -> tuple[list[str], np.ndarray]:
    """Names of the features, and the matrix, cell by cell."""
    names: list[str] = []
    out: list[list[float]] = []
    for name, kind in kinds.items():
        column = columns[name]
        if kind != "category":
            names.append(name)
            out.append([math.nan if cell is None else float(cell) for cell in column])
            continue
        for word in sorted({cell for cell in column if cell is not None}):
            names.append(f"{name}={word}")
            out.append([float(cell == word) for cell in column])
        if None in column:
            names.append(f"{name} missing")
            out.append([float(cell is None) for cell in column])
    return names, np.array(out).T


def _write(path: Path, columns: dict[str, list[Any]]) -> None:
    """By pandas for CSV, by json for JSON Lines, by pyarrow for Parquet."""
    name = path.name.removesuffix(".gz")
    if name.endswith("parquet"):
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.table(columns), path)
        return
    if name.endswith("jsonl"):
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        content = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        frame = pd.DataFrame({key: pd.Series(cells, dtype=object) for key, cells in columns.items()})
        content = frame.to_csv(index=False, sep="\t" if name.endswith("tsv") else ",")
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)


@settings(max_examples=60)
@given(table=_tables(), form=st.sampled_from(FORMATS))
def test_what_was_written_is_read_back(
    table: tuple[dict[str, list[Any]], dict[str, str]], form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    columns, kinds = table
    path = tmp_path_factory.mktemp("t") / f"data.{form}"
    _write(path, columns)
    got = gf.data.read(path, "y")
    names, X = _expected(columns, kinds)
    assert list(got.table.features) == names and got.table.n_features == len(names)
    np.testing.assert_array_equal(got.X, X)
    assert got.X.flags.c_contiguous and got.X.dtype == np.float64 and got.y is not None
    assert got.y.tolist() == columns["y"]

    # The table survives JSON and reads the same file, and one of another format and another order, alike.
    again = gf.data.Table.from_json(json.loads(json.dumps(got.table.to_json())))
    assert again == got.table
    np.testing.assert_array_equal(again.read(path).X, X)
    other = path.with_name("other.parquet" if "parquet" not in form else "other.csv")
    _write(other, dict(reversed([*columns.items(), ("more", [f"x{i}" for i in range(len(X))])])))
    np.testing.assert_array_equal(again.read(other).X, X)


def test_float32_is_rounded_once(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal(50)
    _write(tmp_path / "a.csv", {"x": values.tolist(), "y": [0, 1] * 25})
    got = gf.data.read(tmp_path / "a.csv", "y", dtype="float32")
    assert got.X.dtype == np.float32 and got.table.dtype == "float32"
    np.testing.assert_array_equal(got.X[:, 0], values.astype(np.float32))


def test_many_blocks(tmp_path: Path) -> None:
    """Several of pyarrow's blocks, where a column of integers turns into floats and new categories appear late."""
    n = 60_000
    whole = [str(i) for i in range(n - 1)] + ["0.5"]
    words = ["early"] * (n - 2) + ["late", ""]
    lines = [f"{a},{b},{i % 3},{'pad' * 10}" for i, (a, b) in enumerate(zip(whole, words, strict=True))]
    (tmp_path / "a.csv").write_text("x,s,y,p\n" + "\n".join(lines) + "\n")
    got = gf.data.read(tmp_path / "a.csv", "y")
    assert got.table.features == ("x", "s=early", "s=late", "s missing", "p=" + "pad" * 10)
    np.testing.assert_array_equal(got.X[:, 0], np.append(np.arange(n - 1.0), 0.5))
    assert got.X[:, 1:4].sum(axis=0).tolist() == [n - 2, 1, 1] and (got.X[:, 1:4].sum(axis=1) == 1).all()
    assert got.X[-2, 2] == 1 and got.X[-1, 3] == 1


def test_parquet_row_groups_and_types(tmp_path: Path) -> None:
    import decimal

    import pyarrow.parquet

    n = 1000
    rng = np.random.default_rng(0)
    half = rng.standard_normal(n).astype(np.float16)
    table = pa.table(
        {
            "i8": pa.array(rng.integers(-9, 9, n), pa.int8()),
            "u64": pa.array(rng.integers(0, 99, n), pa.uint64()),
            "f16": pa.array(half),
            "dec": pa.array([decimal.Decimal(i) / 4 for i in range(n)], pa.decimal128(20, 2)),
            "cat": pa.array(rng.choice(["a", "b"], n)).dictionary_encode(),
            "large": pa.array(rng.choice(["p", "q"], n), pa.large_string()),
            "y": rng.standard_normal(n),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    got = gf.data.read(tmp_path / "a.parquet", "y")
    assert got.table.features == ("i8", "u64", "f16", "dec", "cat=a", "cat=b", "large=p", "large=q")
    for name in ("i8", "u64", "f16"):
        np.testing.assert_array_equal(got.X[:, got.table.features.index(name)], table.column(name).to_numpy())
    np.testing.assert_array_equal(got.X[:, 3], np.arange(n) / 4)
    np.testing.assert_array_equal(got.X[:, 5] == 1, np.array(table.column("cat").to_pylist()) == "b")
    assert got.y is not None and got.y.tolist() == table.column("y").to_pylist()
    np.testing.assert_array_equal(got.table.read(tmp_path / "a.parquet").X, got.X)


def test_a_large_row_group_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradfold.data import _source

    columns = {"x": list(range(5000)), "y": [0, 1] * 2500}
    _write(tmp_path / "a.parquet", columns)
    monkeypatch.setattr(_source, "_PARQUET_BYTES", 1000)
    assert gf.data.read(tmp_path / "a.parquet", "y").X[:, 0].tolist() == columns["x"]


def test_moments_and_fill() -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((40_000, 3)) * [1, 1e-3, 1e3] + [0, 5, 1e6]
    gaps = rng.random(X.shape) < 0.1
    X[gaps] = np.nan
    table = gf.data.Table.of_numbers(3, "float64").with_moments(X)
    np.testing.assert_allclose(table.mean, np.nanmean(X, axis=0), rtol=1e-12)
    np.testing.assert_allclose(table.scale, np.nanstd(X, axis=0), rtol=1e-9)
    before = X.copy()
    assert table.fill(X) == gaps.sum()
    np.testing.assert_array_equal(X[~gaps], before[~gaps])
    np.testing.assert_array_equal(X[gaps], np.broadcast_to(table.mean, X.shape)[gaps])


# ---- roles, names, headers -------------------------------------------------------------------------------------------


def _file(folder: Path, content: str | bytes, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "header", "delimiter", "names"),
    [
        ("a,b\n1,2\n", True, ",", ("a", "b")),
        ("1\t0.5\t3\n0\t0.2\t4\n", False, "\t", ("0", "1", "2")),  # as LightGBM's examples: label first
        ("39, State-gov, 7\n50, Private, 8\n", False, ",", ("0", "1", "2")),
        ("?,1\n3,2\n", False, ",", ("0", "1")),
        ("p,x,p\ne,y,q\n", False, ",", ("0", "1", "2")),  # all text, and a cell comes twice
        ("name,kind\nbob,x\nann,y\n", True, ",", ("name", "kind")),
        ("0,1,label\n1.5,2.5,3\n", True, ",", ("0", "1", "label")),  # pandas without names
        (",a,b\n0,1,2\n1,3,4\n", True, ",", ("unnamed_0", "a", "b")),
        ("a;b\n1,5;2\n", True, ";", ("a", "b")),
        ("a|b\n1|2\n", True, "|", ("a", "b")),
        ('"a,b";"c"\n1;2\n', True, ";", ("a,b", "c")),
        ('"x\ny",b\n1,2\n', True, ",", ("x\ny", "b")),
        (" a , b\n1,2\n", True, ",", ("a", "b")),
        ("\ufeffa,b\r\n1,2\r\n", True, ",", ("a", "b")),
        ("1,2\n", False, ",", ("0", "1")),
        ("\n\na,b\n1,2\n", True, ",", ("a", "b")),
    ],
)
def test_header_and_delimiter_are_found(
    content: str, header: bool, delimiter: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    from gradfold.data import _csv
    from gradfold.data._file import File

    file = File(str(_file(tmp_path, content, "a.data")))
    form = _csv.dialect(file, delimiter=None, header=None, encoding="utf-8", missing=(), known=())
    assert (form.header, form.delimiter, form.names) == (header, delimiter, names)


@pytest.mark.parametrize(("target", "y"), [(0, [1, 0, 1]), (-1, [3, 6, 9]), ("1", [2, 5, 8]), ("-3", [1, 0, 1])])
def test_target_by_place_without_a_header(target: Any, y: list[int], tmp_path: Path) -> None:
    got = gf.data.read(_file(tmp_path, "1\t2\t3\n0\t5\t6\n1\t8\t9\n", "binary.train"), target)
    assert got.y is not None and got.y.tolist() == y and got.X.shape == (3, 2)
    place = int(target) % 3
    assert got.table.features == tuple(str(i) for i in range(3) if i != place)


def test_header_forced(tmp_path: Path) -> None:
    path = _file(tmp_path, "1,2\n3,4\n5,6\n")
    got = gf.data.read(path, "2", header=True)
    assert got.table.features == ("1",) and got.X.tolist() == [[3], [5]]
    assert gf.data.read(path, "1", header=False).X.tolist() == [[1], [3], [5]]


def test_roles(tmp_path: Path) -> None:
    path = _file(tmp_path, "id,w,g,x,code,y\nq1,1,a,1.5,1,no\nq2,2,b,2.5,2,yes\nq3,0.5,a,3.5,1,no\n")
    got = gf.data.read(path, "y", weight="w", group="g", ignore=["id"], categorical=["code"])
    assert got.table.features == ("x", "code=1", "code=2")
    assert got.X.tolist() == [[1.5, 1, 0], [2.5, 0, 1], [3.5, 1, 0]]
    assert got.y is not None and got.y.tolist() == ["no", "yes", "no"]
    assert got.sample_weight is not None and got.sample_weight.tolist() == [1, 2, 0.5]
    assert got.groups is not None and got.groups[0] == got.groups[2] != got.groups[1]
    numbers = gf.data.read(path, "y", group="code", ignore=["id", "g", "w"]).groups
    assert numbers is not None and numbers[0] == numbers[2] != numbers[1]
    # Categories are text as it stands in the file.
    assert gf.data.read(_file(tmp_path, "z,y\n007,1\n7,2\n"), "y", categorical=["z"]).table.features == ("z=007", "z=7")


@pytest.mark.parametrize(
    ("cells", "y"),
    [
        (["true", "false"], [True, False]),
        (["1", "2"], [1, 2]),
        (["1.5", "2"], [1.5, 2.0]),
        (["a", "b"], ["a", "b"]),
        (["9007199254740993", "1"], [9007199254740993, 1]),  # exact, unlike a feature
    ],
)
def test_target_keeps_its_type(cells: list[str], y: list[Any], tmp_path: Path) -> None:
    got = gf.data.read(_file(tmp_path, "x,y\n" + "".join(f"1,{cell}\n" for cell in cells)), "y").y
    assert got is not None and got.tolist() == y and [type(v) for v in got.tolist()] == [type(v) for v in y]


def test_cells_that_mean_missing(tmp_path: Path) -> None:
    text = "x,s,y\n1,a,0\n?,?,1\nNA,null,0\n,,1\n"
    got = gf.data.read(_file(tmp_path, text), "y", missing=["?"])
    assert got.table.features == ("x", "s=a", "s missing")
    np.testing.assert_array_equal(got.X, [[1, 1, 0], [np.nan, 0, 1], [np.nan, 0, 1], [np.nan, 0, 1]])
    np.testing.assert_array_equal(got.table.read(tmp_path / "a.csv").X, got.X)


def test_integers_beyond_float64_are_noted(tmp_path: Path) -> None:
    got = gf.data.read(_file(tmp_path, "big,fine,y\n9007199254740993,9007199254740992,0\n1,2,1\n"), "y")
    assert len(got.notes) == 1 and "2^53" in got.notes[0] and "'big'" in got.notes[0] and "fine" not in got.notes[0]


def test_encoding(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16"):
        path = _file(tmp_path, "naïve,y\nä,1\nö,2\n".encode(encoding))
        got = gf.data.read(path, "y", encoding=encoding)
        assert got.table.features == ("naïve=ä", "naïve=ö")
        np.testing.assert_array_equal(got.table.read(path).X, got.X)


def test_concatenated_gzip_without_an_extension(tmp_path: Path) -> None:
    content = gzip.compress(b"a,y\n1,2\n") + gzip.compress(b"3,4\n")
    assert gf.data.read(_file(tmp_path, content, "data"), "y").X.tolist() == [[1], [3]]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 1, "y": 2}\n{"a": 3, "y": 4}\n')))
    assert gf.data.read("-", "y").X.tolist() == [[1], [3]]


# ---- applying a table ------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> gf.data.Table:
    return gf.data.read(_file(tmp_path, "y,a,s\n0,1,red\n1,2,blue\n0,3,red\n", "train.csv"), "y").table


@pytest.mark.parametrize(
    ("content", "X"),
    [
        ("s,extra,a\nblue,zz,5\n", [[5, 1, 0]]),  # by name: another order, one more, no target
        ("y,a,s\n,5,blue\n", [[5, 1, 0]]),  # a target without values
        ("5,blue\n", [[5, 1, 0]]),  # by position, without the target
        ("0,5,blue\n6,7,red\n", [[5, 1, 0], [7, 0, 1]]),  # and with it
    ],
)
def test_columns_are_matched(table: gf.data.Table, content: str, X: list[list[float]], tmp_path: Path) -> None:
    assert table.read(_file(tmp_path, content)).X.tolist() == X


def test_positions_with_a_header(tmp_path: Path) -> None:
    table = gf.data.read(_file(tmp_path, "1\t2\t3\n0\t5\t6\n", "train.tsv"), 0).table
    assert table.read(_file(tmp_path, "label,p,q\n1,2,3\n")).X.tolist() == [[2, 3]]
    assert table.read(_file(tmp_path, "p,q\n2,3\n")).X.tolist() == [[2, 3]]


def test_unknown_categories_are_zeros_with_one_note(table: gf.data.Table, tmp_path: Path) -> None:
    got = table.read(_file(tmp_path, "a,s\n1,mauve\n2,\n3,red\n"))
    assert got.X.tolist() == [[1, 0, 0], [2, 0, 0], [3, 0, 1]]
    assert len(got.notes) == 1 and "2 cells" in got.notes[0] and "'s' ('mauve')" in got.notes[0]
    assert table.read(_file(tmp_path, "a,s\n3,red\n")).notes == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("A,s\n1,red\n", "has no column 'a', which the model was trained on; did you mean 'A'?"),
        ("b,t\nx,red\n", "has no column 'a' (and 1 more)"),
        ("a,s,a\n1,red,2\n", "has 2 columns named 'a'"),
        ("a,s\n1,red\nfive,red\n", "column 'a': got 'five' on line 3, wanted a number as in training"),
        ("1,2,3,4\n", "has 4 columns, wanted 3 as in training, or 2 without the target"),
    ],
)
def test_other_columns(table: gf.data.Table, content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        table.read(_file(tmp_path, content))
    assert message in str(caught.value)


def test_text_where_a_json_file_had_numbers(table: gf.data.Table, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="column 'a': got the text 'x', wanted numbers as in training"):
        table.read(_file(tmp_path, '{"a": "x", "s": "red"}\n', "a.jsonl"))
    # A column that was true or false stays one.
    flags = gf.data.read(_file(tmp_path, "f,y\ntrue,1\nfalse,2\n"), "y").table
    with pytest.raises(ValueError, match="column 'f': got 'maybe' on line 2, wanted true or false as in training"):
        flags.read(_file(tmp_path, "f\nmaybe\n"))


def test_a_damaged_description() -> None:
    good = gf.data.Table.of_numbers(2, "float64").to_json()
    for bad in ({}, {**good, "columns": 3}, {**good, "version": 99}, {**good, "more": 1}, {**good, "columns": [{}]}):
        with pytest.raises(ValueError, match="table: got"):
            gf.data.Table.from_json(bad)


# ---- svmlight --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_based", [True, False])
def test_svmlight(zero_based: bool, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from sklearn.datasets import dump_svmlight_file

    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 6)) * (rng.random((30, 6)) < 0.4)
    X[:, 0] = X[:, 5] = 1
    y = rng.integers(0, 2, 30)
    dump_svmlight_file(X, y, str(tmp_path / "a"), zero_based=zero_based)
    got = gf.data.read(tmp_path / "a")  # found by looking
    assert got.table.format == "svmlight" and got.y is not None and got.y.tolist() == y.tolist()
    np.testing.assert_allclose(got.X, X, rtol=1e-15)
    assert got.table.features == tuple(str(i + (not zero_based)) for i in range(6))
    assert len(got.notes) == 1 and "no sparse kernels" in got.notes[0]
    # Fewer features, and more: those of training are kept.
    few = got.table.read(_file(tmp_path, f"0 {3 - zero_based}:7\n", "b.svm"))
    assert few.X.tolist() == [[0, 0, 7, 0, 0, 0]]
    more = got.table.read(_file(tmp_path, "0 2:7 99:1\n", "b.svm"))
    assert more.X.tolist() == [[0, 7, 0, 0, 0, 0] if not zero_based else [0, 0, 7, 0, 0, 0]]
    assert "above number" in more.notes[0]


def test_svmlight_that_is_too_large(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = _file(tmp_path, "".join(f"{i % 2} 1:1 2000000000:1\n" for i in range(1000)), "a.svm")
    with pytest.raises(ValueError, match="would take .* GB.*has no sparse kernels"):
        gf.data.read(path)


# ---- what is wrong ---------------------------------------------------------------------------------------------------

_RAGGED = "x,y\n" + "1,2\n" * 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("  \n\n", "the file is empty"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        ("x,y\n", "holds a header only, no rows"),
        (_RAGGED + "3\n" + "1,2\n", "line 12 has 1 cells, wanted 2 as in the first line"),
        (_RAGGED + "3,4,5\n", "line 12 has 3 cells, wanted 2"),
        ('x,y\n"a\nb",2\n3\n', "line 4 has 1 cells, wanted 2"),
        ("x,yy\n1,2\n", "target: got 'y', which is no column of"),
        ("x,yy\n1,2\n", "did you mean 'yy'?"),
        ("x,Y\n1,2\n", "did you mean 'Y'?"),
        ("x,x,y\n1,2,3\n", "got 2 columns named 'x' (columns 1, 2)"),
        ("x,e,y\n1,,2\n2,,3\n", "column 'e': every cell is missing; leave it out with --ignore 'e'"),
        ("x,y\n1,\n2,3\n", "target: column 'y' of"),
        ("x,y\n1,1\n\n2,\n", "is missing on line 4"),
        ("d,y\n2024-01-31,1\n2024-02-01,2\n", "column 'd' holds dates or times (2024-01-31)"),
        ("d,y\n12:30:00,1\n", "column 'd' holds dates or times"),
        ("x,y\n1,2024-01-31\n", "target: column 'y' of"),
        ("x,y\n" + "1,1\n" * 10 + "oops,1\n", "column 'x': got 'oops' on line 12, but 10 of its 11 cells are numbers"),
        ("x,y\n1,1\ninf,2\n", "column 'x': got inf on line 3, wanted numbers that are finite in float64"),
        ("x,y\n1,1\n1e999,2\n", "column 'x': got inf on line 3"),
        ("y\n1\n", "has no column beside target"),
        (b"x\xe9,y\n1,1\n2,2\n", "the column name 'x\ufffd' holds bytes that are not utf-8 text; pass the file's --encoding"),
        (b"x,y\nh\xe9,1\n", "column 'x' holds bytes that are not UTF-8 text; pass the file's --encoding"),
        ("x,y\n1,2\n".encode("utf-16"), "is UTF-16; pass --encoding utf-16"),
        (b"x,y\0\n1,2\n", "holds zero bytes"),
        (b"PK\x03\x04....", "is a zip archive"),
        ("PAR1 and no more", "is a damaged Parquet file"),
        (gzip.compress(b"x,y\n1,2\n" * 5000, mtime=0)[:-30], "a.data: is damaged: Truncated"),
        (gzip.compress(b"x,y\n" + b"".join(b"%d,1\n" % (i * i) for i in range(50_000)))[:-30], "a.data: is damaged: Trunc"),
        ("x;y\n" + "-1,5;1\n2;0\n" * 10, "column 'x': got '-1,5' on line 2, wanted numbers with a decimal point"),
        ("t,y\n" + "".join(f"w{i},1\n" for i in range(300)), "column 't' holds 300 different texts in 300 rows, wanted at most 256"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = _file(tmp_path, content, "a.data")
    with pytest.raises((ValueError, OSError)) as caught:
        gf.data.read(path, "y")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"x": 1, "y": 2}\n{"x": \n', "line 2 is no JSON"),
        ('{"x": 1, "y": 2}\n\n{"x": "q", "y": 2}\n', 'column \'x\': got "q" on line 3, wanted a number as before'),
        ('{"x": 1, "y": 2}\n[1]\n', "line 2 holds [1], wanted an object"),
        ('[{"x": 1}]', "holds a JSON array, wanted JSON Lines"),
        ('{"x": [1, 2], "y": 2}\n', "column 'x' holds list"),
        ('{"x": 1, "z": null, "y": 2}\n', "column 'z': every cell is missing"),
        ('{"x": 1}\n', "target: got 'y'"),
    ],
)
def test_what_is_wrong_in_json_lines(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        gf.data.read(_file(tmp_path, content, "a.jsonl"), "y")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_wrong_in_svmlight(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match="got '2:x' on line 3, wanted label index:value"):
        gf.data.read(_file(tmp_path, "1 1:2\n# a comment\n0 2:x\n", "a.svm"))
    with pytest.raises(ValueError, match="is svmlight, whose target is the first cell"):
        gf.data.read(_file(tmp_path, "1 1:2\n0 2:3\n", "a.svm"), "y")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: gf.data.read(path), "target: got None"),
        (lambda path: gf.data.read(path, 7), "target: got the place 7, but"),
        (lambda path: gf.data.read(path, "y", weight="y"), "weight: got the column that is the target too"),
        (lambda path: gf.data.read(path, "y", weight="s"), "weight: column 's' of"),
        (lambda path: gf.data.read(path, "y", ignore=["z"]), "ignore: got 'z'"),
        (lambda path: gf.data.read(path, "y", categorical=["z"]), "categorical: got 'z'"),
        (lambda path: gf.data.read(path, "y", dtype="int32"), "dtype: got int32"),
        (lambda path: gf.data.read(path, "y", format="xlsx"), "format: got 'xlsx'"),
        (lambda path: gf.data.read(path, "y", format="parquet"), "is not a Parquet file"),
        (lambda path: gf.data.read(path, "y", delimiter=";;"), "delimiter: got ';;'"),
        (lambda path: gf.data.read(path, "y", encoding="klingon"), "encoding: got 'klingon'"),
        (lambda path: gf.data.read(path, "y", max_categories=0), "max_categories: got 0"),
        (lambda path: gf.data.read(path.parent, "y"), "is a folder"),
        (lambda path: gf.data.read(path.with_name("none.csv"), "y"), "none.csv"),
    ],
)
def test_arguments(call: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    path = _file(tmp_path, "x,s,y\n1,a,0\n2,b,1\n")
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        call(path)
    assert message in str(caught.value)


def test_a_matrix_beyond_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 2)
    with pytest.raises(ValueError, match=r"3 rows × 2 columns of float64 would take .*--dtype float32"):
        gf.data.read(_file(tmp_path, "a,b,y\n1,2,3\n4,5,6\n7,8,9\n"), "y")


def test_text_that_hardly_repeats_and_a_target_that_is_almost_numbers_are_noted(tmp_path: Path) -> None:
    lines = [f"id{i},{i % 3},{'oops' if i == 7 else i % 4}" for i in range(40)]
    data = gf.data.read(_file(tmp_path, "id,x,y\n" + "\n".join(lines) + "\n", "a.csv"), "y")
    assert len(data.notes) == 2
    assert "'oops' on line 9, but 39 of its 40 cells look like numbers" in data.notes[0]
    assert "column 'id' holds 40 different texts in 40 rows" in data.notes[1]
    lines = [f"c{i % 9},{i % 3},{i % 4}" for i in range(40)]
    assert gf.data.read(_file(tmp_path, "id,x,y\n" + "\n".join(lines) + "\n", "a.csv"), "y").notes == []
