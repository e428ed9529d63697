"""One input file: its bytes, decompressed, and which format they are in."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FORMATS = ("csv", "tsv", "jsonl", "parquet", "svmlight")

_EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".svm": "svmlight",
    ".svmlight": "svmlight",
    ".libsvm": "svmlight",
}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_FOREIGN = {
    b"PK\x03\x04": "a zip archive (an Excel file, or a saved model)",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"ARROW1": "an Arrow IPC file",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
}
_SVMLIGHT = re.compile(r"[^\s,;]+([ \t]+qid:\d+)?([ \t]+\d+:[^\s:]+)+[ \t]*(#.*)?")

# What is looked at to tell formats, delimiters and headers apart.
HEAD_BYTES = 1 << 18


def pyarrow(module: str) -> Any:
    """A module of pyarrow, or an ImportError that says what to install."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError("reading files needs pyarrow: pip install 'gradfold[cli]'") from None


class File:
    """A file that can be opened several times; `-` is standard input.

    Attributes
    ----------
    name : str
        For messages.
    head : bytes
        The first bytes after decompression.
    format : str
        One of `FORMATS`.
    """

    def __init__(self, path: str, form: str | None = None) -> None:
        self.name = "standard input" if path == "-" else path
        self._path: str | None = None
        self._content: Any = None
        pa = pyarrow("pyarrow")
        if path == "-":
            self._content = pa.py_buffer(sys.stdin.buffer.read())
        else:
            mode = os.stat(path).st_mode  # FileNotFoundError names the path
            if stat.S_ISDIR(mode):
                raise ValueError(f"{path}: is a folder, wanted a file")
            if stat.S_ISREG(mode):
                self._path = path
            else:  # a pipe can be read only once
                with open(path, "rb") as stream:
                    self._content = pa.py_buffer(stream.read())
        with self._raw() as stream:
            magic = stream.read(8)
        if not magic:
            raise ValueError(f"{self.name}: the file is empty")
        self._codec = next((codec for start, codec in _COMPRESSED.items() if magic.startswith(start)), None)
        with self.open() as stream:
            with self.reading():
                self.head = stream.read(HEAD_BYTES)
        if not self.head.strip():
            raise ValueError(f"{self.name}: the file is empty")
        self.format = form or self._format()
        if (self.format == "parquet") != self.head.startswith(b"PAR1"):
            raise ValueError(
                f"{self.name}: " + ("is not a Parquet file" if self.format == "parquet" else "is a Parquet file")
            )
        for start, what in _FOREIGN.items():
            if self.head.startswith(start):
                raise ValueError(f"{self.name}: is {what}, wanted one of {', '.join(FORMATS)}")

    def open(self) -> Any:
        """A new pyarrow stream over the decompressed bytes."""
        stream = self._raw()
        return stream if self._codec is None else pyarrow("pyarrow").CompressedInputStream(stream, self._codec)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Give an error of the decompression, which knows no name, that of the file."""
        try:
            yield
        except OSError as error:
            if error.errno is not None:
                raise
            raise ValueError(f"{self.name}: is damaged: {' '.join(str(error).split())}") from error

    def _raw(self) -> Any:
        pa = pyarrow("pyarrow")
        return pa.OSFile(self._path) if self._path is not None else pa.BufferReader(self._content)

    def _format(self) -> str:
        if self.head.startswith(b"PAR1"):
            return "parquet"
        stem, extension = os.path.splitext(self.name)
        if self._codec is not None and extension.lower() in (".gz", ".bz2", ".zst", ".lz4"):
            extension = os.path.splitext(stem)[1]
        known = _EXTENSIONS.get(extension.lower())
        if known is not None:
            return known
        text = self.head.decode("utf-8-sig", "replace")
        lines = [line for line in text.splitlines()[:50] if line.strip() and not line.startswith("#")]
        if not lines:
            return "csv"
        if lines[0].lstrip().startswith("{"):
            return "jsonl"
        # The last line may be cut off.
        if all(_SVMLIGHT.fullmatch(line) for line in (lines[:-1] or lines)):
            return "svmlight"
        return "csv"
