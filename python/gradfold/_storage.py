"""Files: written whole or not at all, and arrays with their settings in one `.npz`.

A saved object is a zip file with one `.npy` member for each array and a member `meta.json` with everything else.
It holds no pickle. Members carry a fixed date, so the same object gives the same file.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_META = "meta.json"
_DATE = (1980, 1, 1, 0, 0, 0)


@contextmanager
def atomic(path: str) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` only when the block has ended without an exception.

    The bytes go to a new file in the same folder, are flushed to the disk, and that file replaces `path` in one
    step. A full disk, an interrupt or any other exception leaves what was there before and removes the new file.

    Raises
    ------
    ValueError
        `path` is a folder, a device, a pipe or a socket: replacing it would not write to it, but destroy it.
    """
    target = check_target(path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".{os.path.basename(target)}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
    try:  # the folder's entry too, where the system lets a folder be opened
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def check_target(path: str) -> str:
    """The file that `atomic` would replace. Raises as it would, for those who work long before they write."""
    target = os.path.realpath(path)
    if os.path.lexists(target) and not os.path.isfile(target):
        raise ValueError(f"path: got {path!r}, which is there and is no regular file; wanted a new or a regular file")
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "no such folder", folder)
    return target


def write(path: str, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
    """Write arrays and a JSON object, with a checksum of each array."""
    sums = {name: checksum(array) for name, array in arrays.items()}
    text = json.dumps({**meta, "sha256": sums}, indent=2, sort_keys=True, allow_nan=False)
    with atomic(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_META, _DATE), text.encode())
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)


def read(path: str, form: str, version: int) -> tuple[dict[str, Array], dict[str, Any]]:
    """What `write` wrote.

    Parameters
    ----------
    form, version : str, int
        What `meta["format"]` and `meta["format_version"]` must say; older versions are accepted.

    Raises
    ------
    ValueError
        Not such a file, damaged, or of a newer version.
    OSError
        The file cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                meta = json.loads(archive.read(_META))
                if not isinstance(meta, dict) or meta.get("format") != form:
                    raise ValueError(f"its format is not {form!r}")
                if not isinstance(meta["format_version"], int) or meta["format_version"] > version:
                    raise ValueError(
                        f"its format version is {meta['format_version']}, this gradfold reads up to {version}"
                    )
                arrays = {}
                for member, wanted in meta["sha256"].items():
                    # Read whole first: that compares the CRC before any header is believed.
                    content = io.BytesIO(archive.read(f"{member}.npy"))
                    arrays[member] = np.lib.format.read_array(content, allow_pickle=False)
                    if checksum(arrays[member]) != wanted:
                        raise ValueError(f"the checksum of {member} does not match")
        except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, TypeError, AttributeError, EOFError,
                NotImplementedError, RuntimeError, MemoryError, OverflowError, SyntaxError) as error:  # fmt: skip
            raise ValueError(f"path: {path!r} is not a {form} file, or is damaged: {error}") from error
    return arrays, meta


def checksum(array: Array) -> str:
    """SHA-256 of an array's type, shape and little-endian bytes in C order."""
    little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    sha = hashlib.sha256(f"{little.dtype.str}{array.shape}".encode())
    if little.size:
        sha.update(little.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
