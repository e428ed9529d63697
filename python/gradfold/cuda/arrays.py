"""Arrays on the GPU: our own, and those of other libraries where they lie.

A `DeviceArray` is C-contiguous memory with a shape, a dtype and the stream that its owner works on. Whatever comes
from torch, CuPy, JAX or Numba is read through ``__cuda_array_interface__`` or DLPack without a copy; results go back
the same way (`result`). Work is queued on the stream that is the caller's current one, so neither side waits.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check
from gradfold._device import CUDA_DLPACK, OnDevice, lives_on_gpu
from gradfold.cuda import _driver
from gradfold.cuda._driver import SIMULATED, Kernel, cuda, float32, float64, int64
from gradfold.cuda.memory import Block, Memory

Array = npt.NDArray[Any]

_KINDS = frozenset(np.dtype(name) for name in ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"))
_COPY_BYTES = 64 << 20  # copied at once from the host, so that Ctrl-C is heard between two pieces
_LEGACY = 1  # the legacy default stream, in the words of both protocols


class DeviceArray(OnDevice):
    """C-contiguous memory on the GPU.

    Parameters
    ----------
    flat : Numba device array
        All of it, in one dimension.
    shape : tuple of int
    stream : Numba stream or 0
        What work on the array is queued on; 0 is the default stream.
    owner : object
        Whose memory this is; kept alive.
    readonly : bool
        Whether the owner forbids writing.

    Attributes
    ----------
    flat, shape, dtype, stream, owner, readonly
        `flat` is what kernels take.
    """

    def __init__(
        self, flat: Any, shape: tuple[int, ...], stream: Any = 0, owner: object = None, readonly: bool = False
    ) -> None:
        self.flat, self.shape, self.stream, self.owner, self.readonly = (
            flat,
            tuple(map(int, shape)),
            stream,
            owner,
            readonly,
        )
        self.dtype: np.dtype[Any] = np.dtype(flat.dtype)

    @property
    def pointer(self) -> int:
        """The address on the GPU; 0 for no bytes."""
        if self.size == 0:
            return 0
        return int(self.flat.ctypes.data if SIMULATED else self.flat.device_ctypes_pointer.value or 0)

    def numpy(self) -> Array:
        """A copy on the host; waits for what is queued on the stream."""
        out = np.empty(self.size, self.dtype)
        if self.size:
            self.flat.copy_to_host(out, stream=self.stream)
            self.synchronize()
        return out.reshape(self.shape)

    def write(self, values: Array) -> None:
        """Copy `values`, of this shape and dtype, from the host to here."""
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError(f"values: got {values.dtype} of shape {values.shape}, wanted {self.dtype} of {self.shape}")
        source = np.ascontiguousarray(values).reshape(-1)
        step = max(1, _COPY_BYTES // self.itemsize)
        for a in range(0, self.size, step):
            self.flat[a : a + step].copy_to_device(source[a : a + step], stream=self.stream)

    def rows(self, ids: Array) -> Array:
        """Some rows of a float matrix, copied to the host: what ``numpy()[ids]`` is, without the other rows."""
        n_features = self.shape[1]
        chosen = to_device(np.ascontiguousarray(ids, np.int64), self.stream)
        out = empty((len(ids), n_features), self.dtype, self.stream)
        if out.size:
            _gather(self.dtype)(blocks(out.size), self.stream, self.flat, np.int64(n_features), chosen.flat, out.flat)
        return out.numpy()

    def item(self, place: int) -> Any:
        """One number, by its place in C order."""
        self.synchronize()
        return self.flat[place : place + 1].copy_to_host()[0]

    def reshape(self, shape: tuple[int, ...]) -> DeviceArray:
        """The same memory in another shape of the same size."""
        if shape == self.shape:
            return self
        if math.prod(shape) != self.size:
            raise ValueError(f"shape: got {shape}, wanted {self.size} numbers as in {self.shape}")
        return DeviceArray(self.flat, shape, self.stream, self.owner, self.readonly)

    def lend(self) -> None:
        """From now on others may use the memory on streams that are not known here, so no result is to have it next."""
        if isinstance(self.owner, Memory):
            self.owner.lent = True

    def synchronize(self) -> None:
        """Wait for what is queued on the stream."""
        if not SIMULATED:
            (self.stream or cuda.default_stream()).synchronize()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self.lend()
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, self.readonly),
            "strides": None,
            "version": 3,
            "stream": _handle(self.stream) or _LEGACY,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0 if SIMULATED else int(cuda.get_current_device().id)

    def __dlpack__(
        self, *, stream: int | None = None, max_version: object = None, dl_device: object = None, copy: object = None
    ) -> Any:
        if copy:
            raise BufferError("no copies are made here")
        if self.readonly:
            raise BufferError("this memory is read-only, which DLPack before version 1.0 cannot say")
        self.lend()
        if stream != -1 and (stream or _LEGACY) != (_handle(self.stream) or _LEGACY):
            self.synchronize()
        return _export(self)

    def __array__(self, *_: object, **__: object) -> Array:
        raise TypeError("this array lies on the GPU; .numpy() copies it to the host")

    def __repr__(self) -> str:
        return f"<DeviceArray of {self.dtype}, shape {self.shape}>"


# -- memory ------------------------------------------------------------------------------------------------------------


def free_memory() -> int | float:
    """Bytes of the GPU's memory that can be allocated now; infinity where nobody knows (simulator, memory pools)."""
    free = _driver.free_memory()
    return math.inf if free >= 1 << 62 else free


def check_memory(nbytes: int, hint: str = "") -> None:
    """Raise a `DeviceMemoryError` unless so many bytes are free.

    Parameters
    ----------
    hint : str
        The end of the message: what would fit.
    """
    free = free_memory()
    if nbytes > free:
        _driver.give_up_spare()
        free = free_memory()
    if nbytes > free:
        raise _driver.too_much(nbytes, hint, free)


def empty(shape: int | tuple[int, ...], dtype: npt.DTypeLike, stream: Any = 0, hint: str = "") -> DeviceArray:
    """Memory with whatever stands in it.

    Raises
    ------
    DeviceMemoryError
        It does not fit; the message ends with `hint`.
    """
    sides = (shape,) if isinstance(shape, int) else tuple(map(int, shape))
    kind = np.dtype(dtype)
    n = math.prod(sides)
    check_memory(n * kind.itemsize, hint)
    flat = _driver.empty(n, kind, stream, hint) if n else cuda.device_array(0, kind, stream=stream)  # others allocate too
    return DeviceArray(flat, sides, stream)


def result(shape: tuple[int, ...], dtype: npt.DTypeLike, beside: DeviceArray, hint: str = "") -> DeviceArray:
    """Memory for a result on the stream of `beside`, with whatever stands in it, that costs no wait for the device.

    Where `beside` is an array of torch or CuPy the result is one too, of that library's own pool, and `theirs` gives it; else
    `memory.Memory` keeps what earlier results have left. Raises a `DeviceMemoryError` as `empty` does.
    """
    kind = np.dtype(dtype)
    nbytes = math.prod(shape) * kind.itemsize
    library = _library_of(beside.owner)
    if library is not None:
        make = library.empty
        if library.__name__ == "torch":
            make = partial(make, device=beside.owner.device)  # type: ignore[attr-defined]
        made = _driver.allocated(lambda: make(shape, dtype=getattr(library, kind.name)), nbytes, hint)
        return from_object("result", made)
    if not Memory.can_keep(nbytes, beside.stream):
        return empty(shape, kind, beside.stream, hint)
    owner = Memory.left(nbytes, beside.stream)
    if owner is None:
        owner = Memory(Block(empty(nbytes, np.uint8, beside.stream, hint).flat, beside.stream))
    return _wrap("result", owner.address, shape, kind, beside.stream, owner, False)


def theirs(result: DeviceArray) -> Any:
    """What the caller is given: the array of torch or CuPy that a result's memory is of, else the result."""
    return result if _library_of(result.owner) is None else result.owner


def to_device(array: Array, stream: Any = 0, hint: str = "") -> DeviceArray:
    """A copy of a NumPy array on the GPU. Raises a `DeviceMemoryError` as `empty` does."""
    out = empty(array.shape, array.dtype, stream, hint)
    out.write(array)
    return out


class PaddedRows:
    """A copy on the GPU of a matrix of the host, whose rows begin at multiples of 16 bytes; the gaps hold zeros.

    Attributes
    ----------
    flat, shape, dtype, stride
        Row i begins at ``flat[i * stride]``.
    host : ndarray
        What it is a copy of.
    """

    def __init__(self, X: Array, stream: Any = 0, hint: str = "") -> None:
        n_rows, n_features = X.shape
        self.host, self.shape, self.dtype = X, X.shape, X.dtype
        self.stride = self.stride_of(X)
        self.flat = empty(n_rows * self.stride, X.dtype, stream, hint).flat
        step = max(1, _COPY_BYTES // (self.stride * X.itemsize))
        for a in range(0, n_rows, step):
            rows = X[a : a + step]
            if self.stride != n_features:
                rows = np.concatenate([rows, np.zeros((len(rows), self.stride - n_features), X.dtype)], axis=1)
            part = self.flat[a * self.stride : (a + len(rows)) * self.stride]
            part.copy_to_device(np.ascontiguousarray(rows).reshape(-1), stream=stream)
            if stream and not SIMULATED:
                stream.synchronize()  # it reads memory that is about to go

    @staticmethod
    def stride_of(X: Array) -> int:
        """Values from one row of X's copy to the next."""
        vector = max(1, 16 // X.itemsize)
        return int(-(-X.shape[1] // vector) * vector)


def on_gpu(X: object) -> bool:
    """Whether a matrix is one of ours on the GPU."""
    return isinstance(X, (DeviceArray, PaddedRows))


def overlap(a: DeviceArray, b: DeviceArray) -> bool:
    """Whether two arrays share a byte."""
    return bool(a.nbytes and b.nbytes and a.pointer < b.pointer + b.nbytes and b.pointer < a.pointer + a.nbytes)


# -- streams -----------------------------------------------------------------------------------------------------------


def stream_of(pointer: int | None) -> Any:
    """The stream behind a handle, as kernels take it; None, 0 and 1 are the default stream."""
    if SIMULATED or pointer in (None, 0, _LEGACY):
        return 0
    return cuda.external_stream(pointer)


def join(stream: Any, arrays: Iterable[DeviceArray | None]) -> None:
    """Let `stream` wait for what is queued on the arrays' own streams."""
    if SIMULATED:
        return
    own = _handle(stream)
    seen = {own}
    for array in arrays:
        if array is None or _handle(array.stream) == own:
            continue
        array.lend()
        if _handle(array.stream) not in seen:
            seen.add(_handle(array.stream))
            event = cuda.event(timing=False)
            event.record(array.stream)
            event.wait(stream)


def _handle(stream: Any) -> int:
    """The number of a stream; 0 is the default stream."""
    number = 0 if SIMULATED or isinstance(stream, int) else int(stream)
    return 0 if number == _LEGACY else number


def _callers_stream(value: object) -> int | None:
    """The current stream of the library that an object is of; None where that is unknown."""
    torch = _library("torch", "Tensor", value)
    if torch is not None:
        return int(torch.cuda.current_stream(value.device).cuda_stream)  # type: ignore[attr-defined]
    cupy = _library("cupy", "ndarray", value)
    if cupy is not None:
        return int(cupy.cuda.get_current_stream().ptr)
    return None


def _library_of(value: object) -> Any:
    """The module torch or CuPy if `value` is one of its arrays."""
    return _library("torch", "Tensor", value) or _library("cupy", "ndarray", value)


def _library(name: str, kind: str, value: object) -> Any:
    """The module `name` if `value` is one of its arrays. Whoever holds one has imported it."""
    module = sys.modules.get(name)
    own = getattr(module, kind, None)
    return module if isinstance(own, type) and isinstance(value, own) else None


# -- arrays of other libraries -----------------------------------------------------------------------------------------


def from_object(argument: str, value: object) -> DeviceArray:
    """Another library's array on the GPU, where it lies.

    Raises
    ------
    TypeError
        Not on a GPU, masked, or of a dtype that no kernel reads.
    ValueError
        Not in C order, part of a computation that torch differentiates, or on another GPU than the current one.
    """
    if isinstance(value, DeviceArray):
        return value
    if not lives_on_gpu(value):
        raise TypeError(f"{argument}: got {_check.describe(value)}, wanted an array on the GPU")
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
    except RuntimeError as error:
        raise ValueError(f"{argument}: got a {type(value).__name__} that gives no memory ({error})") from None
    kind = getattr(value, "__dlpack_device__", None)
    if not SIMULATED and callable(kind):
        here, there = int(cuda.get_current_device().id), int(kind()[1])
        if here != there:
            raise ValueError(f"{argument}: lies on GPU {there}, wanted the current GPU, which is {here}")
    if interface is not None:
        return _from_interface(argument, value, interface)
    return _from_dlpack(argument, value)


def _from_interface(argument: str, value: object, interface: dict[str, Any]) -> DeviceArray:
    if interface.get("mask") is not None:
        raise TypeError(f"{argument}: got a masked array, whose mask would be lost; wanted a plain array")
    pointer, readonly = interface["data"]
    shape = tuple(map(int, interface["shape"]))
    dtype = _readable(argument, np.dtype(interface["typestr"]))
    _check_order(argument, shape, interface.get("strides"), dtype.itemsize)
    stream = interface.get("stream")
    if stream is None:
        stream = _callers_stream(value)
    return _wrap(argument, int(pointer or 0), shape, dtype, stream_of(stream), value, bool(readonly))


def _readable(argument: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype not in _KINDS or not dtype.isnative:
        raise TypeError(f"{argument}: got dtype {dtype} on the GPU, wanted float32, float64 or integers")
    return dtype


def _check_order(argument: str, shape: tuple[int, ...], strides: Any, unit: int) -> None:
    """Raise unless strides (in `unit`) are those of C order. Sides of 1 may have any."""
    if strides is None or 0 in shape:
        return
    wanted = unit
    for n, stride in zip(reversed(shape), reversed(tuple(strides)), strict=True):
        if n != 1 and stride != wanted:
            raise ValueError(
                f"{argument}: got a layout with strides {tuple(strides)} on the GPU, wanted C-contiguous memory "
                "(torch: .contiguous(), CuPy: ascontiguousarray)"
            )
        wanted *= n


def _wrap(
    argument: str, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], stream: Any, owner: object, readonly: bool
) -> DeviceArray:
    n = math.prod(shape)
    if n and pointer % dtype.itemsize:
        raise ValueError(f"{argument}: got {dtype} numbers at the address {pointer:#x}, wanted one that {dtype.itemsize} divides")
    if n == 0:
        flat = cuda.device_array(0, dtype)
    elif SIMULATED:  # device memory is the host's there
        interface = {"shape": (n,), "typestr": dtype.str, "data": (pointer, False), "version": 3}
        flat = type(cuda.device_array(0, dtype))(np.asarray(SimpleNamespace(__array_interface__=interface, owner=owner)))
    else:
        interface = {"shape": (n,), "strides": None, "typestr": dtype.str, "data": (pointer, False), "version": 3}
        flat = cuda.from_cuda_array_interface(interface, owner=owner, sync=False)
    return DeviceArray(flat, shape, stream, owner, readonly)


# -- DLPack: https://dmlc.github.io/dlpack/latest/c_api.html -----------------------------------------------------------


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _DLManagedTensor(ctypes.Structure):
    _fields_ = [("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


_CODES = {0: "i", 1: "u", 2: "f", 6: "b"}
_NAME, _USED = b"dltensor", b"used_dltensor"  # must outlive the capsules, which keep the pointers

_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _python(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    # A prototype of our own: those of ctypes.pythonapi's attributes are shared with everybody.
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_new_capsule = _python("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_capsule_pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_is_capsule = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_rename = _python("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
# The same two for a capsule that is being destroyed, which must not be referred to again.
_dying_pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_dying_valid = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)

_exported: dict[int, tuple[Any, ...]] = {}  # what readers of our capsules still use, by the address of its description


@_Deleter
def _release(address: int) -> None:
    _exported.pop(address, None)


@_Deleter
def _unread(capsule: int) -> None:
    """Whoever reads a capsule renames it, and calls the deleter; one that nobody read is released with the capsule."""
    if _dying_valid(capsule, _NAME):
        _release(_dying_pointer(capsule, _NAME))


def _export(array: DeviceArray) -> Any:
    managed = _DLManagedTensor()
    tensor = managed.tensor
    shape = (ctypes.c_int64 * max(1, array.ndim))(*array.shape)
    tensor.data, tensor.ndim, tensor.shape = array.pointer, array.ndim, shape
    tensor.device_type, tensor.device_id = array.__dlpack_device__()
    tensor.code = next(code for code, kind in _CODES.items() if kind == array.dtype.kind)
    tensor.bits, tensor.lanes = 8 * array.itemsize, 1
    managed.deleter = ctypes.cast(_release, ctypes.c_void_p).value
    address = ctypes.addressof(managed)
    _exported[address] = (managed, shape, array)
    return _new_capsule(address, _NAME, ctypes.cast(_unread, ctypes.c_void_p))


class _Capsule:
    """Another library's tensor, given back when nobody uses it any more."""

    def __init__(self, managed: _DLManagedTensor) -> None:
        self._managed = managed

    # Defaults hold what the end of the interpreter may have taken from the module already.
    def __del__(self, function: Any = _Deleter, addressof: Any = ctypes.addressof) -> None:
        if self._managed.deleter:
            function(self._managed.deleter)(addressof(self._managed))


def _from_dlpack(argument: str, value: Any) -> DeviceArray:
    pointer = _callers_stream(value)
    try:
        capsule = value.__dlpack__(stream=pointer or _LEGACY)
    except (BufferError, RuntimeError) as error:
        raise ValueError(f"{argument}: got a {type(value).__name__} that gives no memory ({error})") from None
    if not _is_capsule(capsule, _NAME):
        raise TypeError(f"{argument}: got a {type(value).__name__} whose DLPack capsule is not of version 0")
    managed = _DLManagedTensor.from_address(_capsule_pointer(capsule, _NAME))
    _rename(capsule, _USED)
    owner = _Capsule(managed)
    tensor = managed.tensor
    if tensor.device_type not in CUDA_DLPACK:
        raise TypeError(
            f"{argument}: got DLPack memory of device type {tensor.device_type}, wanted that of an NVIDIA GPU"
        )
    if tensor.lanes != 1 or tensor.code not in _CODES or tensor.bits not in (8, 16, 32, 64):
        raise TypeError(f"{argument}: got a DLPack type of code {tensor.code} and {tensor.bits} bits, wanted float32, float64 or integers")
    dtype = _readable(argument, np.dtype(f"{_CODES[tensor.code]}{tensor.bits // 8}"))
    shape = tuple(tensor.shape[k] for k in range(tensor.ndim))
    strides = tuple(tensor.strides[k] for k in range(tensor.ndim)) if tensor.strides else None
    _check_order(argument, shape, strides, 1)
    return _wrap(argument, (tensor.data or 0) + tensor.byte_offset, shape, dtype, stream_of(pointer), owner, False)


# -- rows by number ----------------------------------------------------------------------------------------------------

THREADS = 4 if SIMULATED else 256


def blocks(n: int) -> int:
    """Enough to fill the GPU, since each thread walks on; and so many that Numba does not warn of too few."""
    if SIMULATED:
        return 1
    return max(128, min(-(-n // THREADS), 8 * _driver.multiprocessors()))


@cache
def _gather(dtype: np.dtype[Any]) -> Kernel:
    kind = float32 if dtype == np.float32 else float64

    def gather_rows(x, n_features, ids, out):  # type: ignore[no-untyped-def]
        at = np.int64(cuda.blockIdx.x) * np.int64(cuda.blockDim.x) + np.int64(cuda.threadIdx.x)
        step = np.int64(cuda.gridDim.x) * np.int64(cuda.blockDim.x)
        while at < out.size:
            row = at // n_features
            out[at] = x[ids[row] * n_features + (at - row * n_features)]
            at += step

    return Kernel(gather_rows, (kind[::1], int64, int64[::1], kind[::1]), THREADS)


def kernels() -> dict[str, Kernel]:
    """Every kernel of this file, to be compiled where there is no GPU."""
    return {f"gather_rows_{dtype.name}": _gather(dtype) for dtype in (np.dtype(np.float32), np.dtype(np.float64))}
