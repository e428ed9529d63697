"""Checks of arguments, shared by every public function.

Each function returns the value it was given, in the type the caller goes on with, or raises a TypeError (wrong
type or dtype) or a ValueError (wrong value, shape or layout) whose message names the argument, says what came
and what was wanted. Nothing is converted here except by `data_matrix` and `per_row`, which say so.
"""

from __future__ import annotations

import difflib
import math
import operator
import os
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _core, _device

Array = npt.NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# Long checks and copies go through X in pieces of this size, so that a signal handler runs between two of them.
_BLOCK_BYTES = 64 << 20


def near(name: str, options: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; did you mean 'a'?`, or nothing."""
    matches = difflib.get_close_matches(name, list(options), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""


def choice(argument: str, value: object, options: Iterable[str]) -> str:
    """`value` if it is one of the names `options`."""
    known = list(options)
    if not isinstance(value, str):
        raise TypeError(f"{argument}: got {describe(value)}, wanted one of {_listed(known)}")
    if value not in known:
        raise ValueError(f"{argument}: got {value!r}, wanted one of {_listed(known)}{near(value, known)}")
    return value


def real(argument: str, value: object, *, positive: bool = False) -> float:
    """A finite float, at least 0, or above 0 if `positive`."""
    wanted = "a finite number above 0" if positive else "a finite number, at least 0"
    if isinstance(value, (bool, np.bool_, str, bytes)) or value is None:
        raise TypeError(f"{argument}: got {describe(value)}, wanted {wanted}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{argument}: got {describe(value)}, wanted {wanted}") from None
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        raise ValueError(f"{argument}: got {value!r}, wanted {wanted}")
    return number


def integer(argument: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """An int between `minimum` and `maximum`; a float or a bool is a TypeError."""
    wanted = f"an integer, at least {minimum}" + ("" if maximum is None else f" and at most {maximum}")
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument}: got {value!r}, wanted {wanted}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{argument}: got {describe(value)}, wanted {wanted}") from None
    if number < minimum or (maximum is not None and number > maximum):
        raise ValueError(f"{argument}: got {number}, wanted {wanted}")
    return number


def boolean(argument: str, value: object) -> bool:
    """A bool, of Python or NumPy."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument}: got {describe(value)}, wanted True or False")
    return bool(value)


def seed(value: object) -> int:
    """A seed: an unsigned 64-bit integer."""
    return integer("seed", value, 0, 2**64 - 1)


def threads(value: object) -> int:
    """The number of threads: as given, or, for None, the processors this process may use."""
    if value is not None:
        return integer("n_threads", value, 1, 2**15)
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def float_dtype(argument: str, value: object) -> np.dtype[Any]:
    """float32 or float64, as a dtype."""
    try:
        dtype: np.dtype[Any] = np.dtype(value)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"{argument}: got {value!r}, wanted float32 or float64") from None
    dtype = dtype.newbyteorder("=")
    if dtype not in FLOATS:
        raise TypeError(f"{argument}: got {dtype}, wanted float32 or float64")
    return dtype


def describe(value: object) -> str:
    """Type, and for arrays dtype and shape, of what came."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    if _device.is_device_array(value):
        return f"an array of {value.dtype} on the GPU, shape {value.shape}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return f"an object of type {type(value).__name__}"


def kernel_array(
    argument: str, value: object, dtype: npt.DTypeLike, shape: tuple[int | None, ...], *, writable: bool = False
) -> Any:
    """An array that a kernel can read (or write) where it lies: of NumPy, or a `DeviceArray`.

    Parameters
    ----------
    shape : tuple
        The shape wanted; None is any length.
    writable : bool
        True for an output.

    Raises
    ------
    TypeError
        Not such an array, or another dtype (another byte order counts).
    ValueError
        Another shape, not C-contiguous, not aligned, or read-only though `writable`.
    """
    wanted_dtype = np.dtype(dtype)

    def wanted() -> str:  # the words take longer than the checks
        sides = ", ".join("any" if n is None else str(n) for n in shape)
        return f"{wanted_dtype} of shape ({sides}{',' * (len(shape) == 1)})"

    refuse_masked(argument, value)
    on_gpu = _device.is_device_array(value)
    if not isinstance(value, np.ndarray) and not on_gpu:
        raise TypeError(f"{argument}: got {describe(value)}, wanted a NumPy array, {wanted()}")
    array: Any = value
    if array.dtype != wanted_dtype or not array.dtype.isnative:
        raise TypeError(f"{argument}: got {describe(value)}, wanted {wanted()}; nothing is converted here")
    if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{argument}: got {describe(value)}, wanted {wanted()}")
    if not on_gpu and not (array.flags.c_contiguous and array.flags.aligned):  # a DeviceArray is both
        raise ValueError(
            f"{argument}: got a layout with strides {array.strides}, wanted C-contiguous, aligned memory; "
            "numpy.ascontiguousarray makes a copy"
        )
    if writable and (array.readonly if on_gpu else not array.flags.writeable):
        raise ValueError(f"{argument}: got a read-only array, wanted a writable one")
    return array


def float_array(argument: str, value: object, ndim: int) -> Any:
    """A C-contiguous float32 or float64 array of `ndim` dimensions with no empty side, as it lies."""
    if (isinstance(value, np.ndarray) or _device.is_device_array(value)) and value.dtype in FLOATS:
        dtype = value.dtype
    else:
        refuse_sparse(argument, value)
        raise TypeError(
            f"{argument}: got {describe(value)}, wanted a NumPy array of float32 or float64; nothing is converted here"
        )
    array = kernel_array(argument, value, dtype, (None,) * ndim)
    if array.size == 0:
        raise ValueError(f"{argument}: got the empty shape {array.shape}, wanted at least one of each")
    return array


def refuse_masked(argument: str, value: object) -> None:
    """Raise for masked arrays: whatever reads one as a plain array loses the mask."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{argument}: got a masked array, whose mask would be lost; wanted a plain array")


def plain_array(argument: str, value: object, wanted: str) -> Array:
    """`value` as an array; a ValueError that names the argument for nested lists of unequal lengths."""
    refuse_masked(argument, value)
    if _device.lives_on_gpu(value):
        raise TypeError(f"{argument}: got an array on the GPU, wanted one on the host; nothing is copied in silence")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{argument}: got {describe(value)}, wanted {wanted}: {error}") from None


def iterable(value: object) -> bool:
    """Whether `iter` takes it; an array of no dimension has the method, but raises."""
    try:
        iter(value)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def path(argument: str, value: object) -> str:
    """A file name as text."""
    try:
        name = os.fsdecode(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{argument}: got {describe(value)}, wanted a file name or path") from None
    if not name or "\0" in name:
        raise ValueError(f"{argument}: got {name!r}, wanted a file name or path")
    return name


def refuse_sparse(argument: str, value: object) -> None:
    """Raise for SciPy's sparse matrices and arrays: their kernels do not exist yet."""
    # Whoever holds a sparse matrix has imported scipy.sparse; importing it here would slow everyone else.
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(value):
        raise TypeError(
            f"{argument}: got a sparse {type(value).__name__}; there are no sparse kernels yet, wanted a dense array, "
            f"for example {argument}.toarray()"
        )


def feature_names(value: object) -> tuple[str, ...] | None:
    """The names of a DataFrame's columns, where all are text."""
    names = getattr(value, "columns", None)
    if names is None:
        return None
    names = tuple(names)
    return tuple(str(name) for name in names) if names and all(isinstance(name, str) for name in names) else None


def same_features(argument: str, value: object, known: tuple[str, ...] | None) -> None:
    """Refuse columns of other names, or in another order, where both are named."""
    names = feature_names(value)
    if names is None or known is None or names == known:
        return
    strange = sorted(set(names) - set(known))
    lacking = sorted(set(known) - set(names))
    if strange or lacking:
        told = "that fit did not see" if strange else "without some that fit saw"
        some = ", ".join(map(repr, (strange or lacking)[:5]))
        raise ValueError(f"{argument}: got columns {told}: {some}; wanted those of fit")
    at = next((i for i, (own, name) in enumerate(zip(names, known, strict=False)) if own != name), 0)
    raise ValueError(f"{argument}: got the columns of fit in another order ({names[at]!r} where {known[at]!r} was)")


def data_matrix(argument: str, value: object, dtype: np.dtype[Any] | None) -> tuple[Array, str | None]:
    """A feature matrix as the kernels need it, copied only where it must be.

    Parameters
    ----------
    value : array_like
        Shape (n_rows, n_features), both at least 1.
    dtype : dtype or None
        float32 or float64, if the caller asked for one. None keeps float32 and float64 and makes float64 of the rest.

    Returns
    -------
    X : ndarray
        C-contiguous float32 or float64. It is `value` itself, or a view of its memory, wherever that is possible.
    copied : str or None
        What was copied and why, for a warning; None if nothing was, or if `dtype` asked for it.

    Raises
    ------
    TypeError
        Sparse, masked, float16 (unless `dtype` asks for a conversion), complex, text or dates.
    ValueError
        Not two-dimensional, or empty.
    """
    refuse_sparse(argument, value)
    array = plain_array(argument, value, "numbers of shape (n_rows, n_features)")
    if array.ndim != 2:
        raise ValueError(f"{argument}: got shape {array.shape}, wanted (n_rows, n_features)")
    if 0 in array.shape:
        raise ValueError(f"{argument}: got the empty shape {array.shape}, wanted at least one row and one feature")
    kind = array.dtype
    if kind == np.float16 and dtype is None:
        raise TypeError(
            f"{argument}: got float16; this version has no float16 kernels, wanted float32 or float64 "
            f"(convert it first, for example with {argument}.astype('float32'))"
        )
    if kind.kind not in "fiubO":
        raise TypeError(f"{argument}: got dtype {kind}, wanted real numbers: float32 or float64")
    own = kind.newbyteorder("=")
    target = dtype if dtype is not None else own if own in FLOATS else np.dtype(np.float64)

    reasons = []
    if not isinstance(value, np.ndarray):
        reasons.append(type(value).__name__)
    if own != target:
        reasons.append(f"dtype {kind}")
    elif not kind.isnative:
        reasons.append("foreign byte order")
    if not array.flags.c_contiguous:
        reasons.append("Fortran order" if array.flags.f_contiguous else "not contiguous")
    elif not array.flags.aligned:
        reasons.append("not aligned")
    usable = kind == target and array.flags.c_contiguous and array.flags.aligned
    if usable and (isinstance(value, np.ndarray) or not array.flags.owndata):
        return array.view(np.ndarray), None
    if not usable:
        array = _converted(argument, array, target)
    if dtype is not None:
        return array, None
    return array, f"{argument} ({', '.join(reasons)}) to C-contiguous {target}, {array.nbytes / 1e6:.3g} MB"


def _converted(argument: str, array: Array, dtype: np.dtype[Any]) -> Array:
    out = np.empty(array.shape, dtype)
    with np.errstate(over="ignore"):  # an overflow becomes inf, which the check for finite values reports by place
        for a, b in row_blocks(out):
            try:
                out[a:b] = array[a:b]
            except (TypeError, ValueError) as error:
                raise TypeError(f"{argument}: got dtype {array.dtype}, wanted real numbers: {error}") from None
    return out


def row_blocks(array: Array) -> Iterable[tuple[int, int]]:
    """Consecutive (first, last + 1) rows of about 64 MiB each."""
    rows = len(array)
    step = max(1, _BLOCK_BYTES * rows // max(array.nbytes, 1))
    for a in range(0, rows, step):
        yield a, min(a + step, rows)


def per_row(argument: str, value: object, n_rows: int, dtype: np.dtype[Any]) -> Array:
    """One real number a row, converted to `dtype` without a warning: it is small beside X."""
    array = plain_array(argument, value, f"shape ({n_rows},)")
    if array.dtype.kind not in "fiubO":
        raise TypeError(f"{argument}: got dtype {array.dtype}, wanted real numbers")
    if array.shape != (n_rows,):
        raise ValueError(f"{argument}: got shape {array.shape}, wanted ({n_rows},), one for each row of X")
    with np.errstate(over="ignore"):
        try:
            return np.ascontiguousarray(array, dtype=dtype)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{argument}: got dtype {array.dtype}, wanted real numbers: {error}") from None


def finite(argument: str, array: Any, n_threads: int) -> None:
    """Raise a ValueError naming the first row (and column) that is NaN or infinite."""
    place: tuple[int, ...] | None = None
    if _device.is_device_array(array):
        from gradfold.cuda.bad_values import first_non_finite

        flat = first_non_finite(array)
        if flat >= 0:
            place, got = divmod(flat, array.shape[-1]) if array.ndim == 2 else (flat,), array.item(flat)
    else:
        for a, b in row_blocks(array):
            found = _core.gradient.first_non_finite(array[a:b], n_threads)
            if found is not None:
                place = (a + found[0], found[1])[: array.ndim]
                got = array[place]
                break
    if place is not None:
        where = f"row {place[0]}" + (f", column {place[1]}" if len(place) == 2 else "")
        raise ValueError(f"{argument}: got {got} at {where}, wanted finite numbers only")


def weights(argument: str, array: Any, n_threads: int, check_finite: bool) -> Any:
    """Sample weights: never negative, and finite if `check_finite`."""
    # NaN < 0 is False, so a NaN on a row that nobody trains on passes where check_finite is off.
    row = -1
    if _device.is_device_array(array):
        from gradfold.cuda.bad_values import first_negative

        row = first_negative(array)
    else:
        negative = array < 0
        if negative.any():
            row = int(negative.argmax())
    if row >= 0:
        got = array.item(row) if _device.is_device_array(array) else array[row]
        raise ValueError(f"{argument}: got {got} at row {row}, wanted weights of at least 0")
    if check_finite:
        finite(argument, array, n_threads)
    return array


def _listed(options: list[str]) -> str:
    return ", ".join(repr(option) for option in options)
