"""The one door to Numba's CUDA target: nothing else in gradfold imports it.

numba-cuda is in maintenance and has a successor, so whatever depends on it stands here: the arithmetic that device functions
are written in, how kernels are declared, compiled and launched, and what the simulator (``NUMBA_ENABLE_CUDASIM=1``) lacks.

Arithmetic. Numba contracts ``a*b + c`` into an FMA and ptxas fuses unsuffixed ``mul`` and ``add``, so device code never
writes ``+``, ``-`` or ``*`` on floats: it calls `F32` and `F64`, whose operations round once each. ``/`` and ``sqrt`` are IEEE.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradfold._device import INSTALL, DeviceMemoryError

# numba-cuda 0.30 asks NumPy for `row_stack`, an old name of vstack that NumPy 2.5 no longer has, while it imports its arrays.
_LACKS_ROW_STACK = not hasattr(np, "row_stack")
if _LACKS_ROW_STACK:
    np.row_stack = np.vstack  # noqa: NPY201
try:
    from numba import cuda, types

    if _LACKS_ROW_STACK:
        importlib.import_module("numba.cuda.np.arrayobj")
except ImportError as error:  # not installed, or a broken installation: its own words are in the chain
    raise ImportError(f"CUDA kernels need numba-cuda, which cannot be imported ({error}): {INSTALL}") from error

finally:
    if _LACKS_ROW_STACK:
        del np.row_stack  # noqa: NPY201

from numba import config as _config  # noqa: E402

SIMULATED = bool(_config.ENABLE_CUDASIM)

float32, float64 = types.float32, types.float64
int8, int32, int64, uint8, uint16, uint32, uint64 = (
    types.int8, types.int32, types.int64, types.uint8, types.uint16, types.uint32, types.uint64,
)  # fmt: skip


def device(function: Callable[..., Any]) -> Any:
    """A device function. Kernels and other device functions call it; it is inlined."""
    if SIMULATED and "cuda" not in function.__code__.co_names:
        return function  # plain arithmetic needs none of the simulator's bookkeeping
    return cuda.jit(device=True)(function)


@dataclass(frozen=True)
class Arithmetic:
    """Operations of one float type, each rounded once, for device code of both types.

    ``fma(a, b, c)``, ``add``, ``sub``, ``mul``, ``div``, ``sqrt``; ``smaller(a, b)``, of a number and a NaN the number;
    ``bits(x)`` and ``value(b)`` between a float and the unsigned integer of its bits; ``T`` the type as a cast, ``U`` the type of
    the bits as a cast.
    """

    dtype: np.dtype[Any]
    type: Any
    T: Any
    U: Any
    fma: Any
    add: Any
    sub: Any
    mul: Any
    div: Any
    sqrt: Any
    smaller: Any
    bits: Any
    value: Any

    @property
    def is_float32(self) -> bool:
        return self.dtype.itemsize == 4


if not SIMULATED:
    from numba.cuda import libdevice

    def _arithmetic32() -> Arithmetic:
        add, sqrt, as_int, as_float = libdevice.fadd_rn, libdevice.fsqrt_rn, libdevice.float_as_int, libdevice.int_as_float

        @device
        def sub(a, b):  # type: ignore[no-untyped-def]
            return add(a, -b)

        @device
        def div(a, b):  # type: ignore[no-untyped-def]
            return libdevice.fdiv_rn(a, b)

        @device
        def bits(x):  # type: ignore[no-untyped-def]
            return np.uint32(as_int(x))

        @device
        def value(b):  # type: ignore[no-untyped-def]
            return as_float(np.int32(b))

        return Arithmetic(
            np.dtype(np.float32), float32, np.float32, np.uint32, libdevice.fmaf_rn, add, sub, libdevice.fmul_rn, div, sqrt,
            libdevice.fminf, bits, value,
        )  # fmt: skip

    def _arithmetic64() -> Arithmetic:
        add, sqrt = libdevice.dadd_rn, libdevice.dsqrt_rn
        as_int, as_float = libdevice.double_as_longlong, libdevice.longlong_as_double

        @device
        def sub(a, b):  # type: ignore[no-untyped-def]
            return add(a, -b)

        @device
        def div(a, b):  # type: ignore[no-untyped-def]
            return libdevice.ddiv_rn(a, b)

        @device
        def bits(x):  # type: ignore[no-untyped-def]
            return np.uint64(as_int(x))

        @device
        def value(b):  # type: ignore[no-untyped-def]
            return as_float(np.int64(b))

        return Arithmetic(
            np.dtype(np.float64), float64, np.float64, np.uint64, libdevice.fma_rn, add, sub, libdevice.dmul_rn, div, sqrt,
            libdevice.fmin, bits, value,
        )  # fmt: skip

    F32, F64 = _arithmetic32(), _arithmetic64()

    def _element(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
        """The pointer to array[index]."""
        from numba.cuda import cgutils

        return builder.gep(cgutils.create_struct_proxy(kind)(context, builder, value=array).data, [index])

    def _address(shared: bool) -> Any:
        """An intrinsic: where an element lies, as a number of bytes: 64 bits, or 32 within a block's shared memory."""
        from llvmlite import ir
        from numba.cuda.extending import intrinsic

        @intrinsic
        def address(typing_context, array, index):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                place = _element(context, builder, signature.args[0], *arguments)
                if shared:
                    place = builder.addrspacecast(place, place.type.pointee.as_pointer(3))
                return builder.ptrtoint(place, ir.IntType(32 if shared else 64))

            return (types.uint32 if shared else types.uint64)(array, types.uint64), generate

        return address

    shared_address, global_address = _address(True), _address(False)

    def _access(store: bool) -> Any:
        """An intrinsic: read or write what lies at an address of `global_address`; the array says only of what type it is."""
        from numba.cuda.extending import intrinsic

        def pointer(context: Any, builder: Any, kind: Any, place: Any) -> tuple[Any, int]:
            value = context.get_data_type(kind.dtype)
            return builder.inttoptr(place, value.as_pointer(1)), kind.dtype.bitwidth // 8

        @intrinsic
        def load(typing_context, array, place):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                at, align = pointer(context, builder, signature.args[0], arguments[1])
                return builder.load(at, align=align)

            return array.dtype(array, types.uint64), generate

        @intrinsic
        def write(typing_context, array, place, value):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                at, align = pointer(context, builder, signature.args[0], arguments[1])
                builder.store(arguments[2], at, align=align)
                return context.get_dummy_value()

            return types.void(array, types.uint64, array.dtype), generate

        return write if store else load

    load_at, store_at = _access(False), _access(True)

    def _copy_async(size: int) -> Any:
        """An intrinsic: start copying `size` bytes from global to shared memory, or zeros where ``valid`` is False.

        ``to`` and ``source`` are the arrays, ``at`` and ``place`` the addresses in them. Whoever copies in a loop adds bytes to
        addresses: an index would be multiplied, widened and added to the array's beginning in every round.
        """
        from llvmlite import ir
        from numba.cuda.extending import intrinsic

        # .cg keeps out of L1 but wants 16 bytes; smaller copies have only .ca.
        text = f"cp.async.{'cg' if size == 16 else 'ca'}.shared.global [$0], [$1], {size}, $2;"

        @intrinsic
        def copy(typing_context, to, at, source, place, valid):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                i32, i64 = ir.IntType(32), ir.IntType(64)
                kind = ir.FunctionType(ir.VoidType(), [i32, i64, i32])
                code = ir.InlineAsm(kind, text, "r,l,r,~{memory}", side_effect=True)
                bytes_ = builder.select(arguments[4], ir.Constant(i32, size), ir.Constant(i32, 0))
                builder.call(code, [arguments[1], arguments[3], bytes_])
                return context.get_dummy_value()

            return types.void(to, types.uint32, source, types.uint64, types.boolean), generate

        return copy

    def _vector(width: int, store: bool, by_address: bool) -> Any:
        """An intrinsic: read or write `width` neighbours of an array as a tuple, at once. The index is a multiple of the width; or
        it is an address of `global_address`, a multiple of their bytes."""
        from llvmlite import ir
        from numba.cuda.extending import intrinsic

        i32 = ir.IntType(32)

        def place(context: Any, builder: Any, array: Any, arguments: Any) -> tuple[Any, Any, int]:
            kind = ir.VectorType(context.get_data_type(array.dtype), width)
            if by_address:
                at = builder.inttoptr(arguments[1], kind.as_pointer(1))
            else:
                at = builder.bitcast(_element(context, builder, array, arguments[0], arguments[1]), kind.as_pointer())
            return kind, at, width * array.dtype.bitwidth // 8

        @intrinsic
        def load(typing_context, source, index):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                _, at, align = place(context, builder, signature.args[0], arguments)
                values = builder.load(at, align=align)
                parts = [builder.extract_element(values, ir.Constant(i32, i)) for i in range(width)]
                return context.make_tuple(builder, signature.return_type, parts)

            return types.UniTuple(source.dtype, width)(source, types.uint64), generate

        @intrinsic
        def write(typing_context, to, index, values):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                kind, at, align = place(context, builder, signature.args[0], arguments)
                packed = ir.Constant(kind, ir.Undefined)
                for i in range(width):
                    packed = builder.insert_element(packed, builder.extract_value(arguments[2], i), ir.Constant(i32, i))
                builder.store(packed, at, align=align)
                return context.get_dummy_value()

            return types.void(to, types.uint64, types.UniTuple(to.dtype, width)), generate

        return write if store else load

    def _writer(width: int, by_address: bool) -> Any:
        store2, store4 = _vector(2, True, by_address), _vector(4, True, by_address)

        @device
        def write1(to, index, source, at):  # type: ignore[no-untyped-def]
            to[np.uint64(index)] = source[at]

        @device
        def write2(to, index, source, at):  # type: ignore[no-untyped-def]
            store2(to, np.uint64(index), (source[at], source[at + 1]))

        @device
        def write4(to, index, source, at):  # type: ignore[no-untyped-def]
            store4(to, np.uint64(index), (source[at], source[at + 1], source[at + 2], source[at + 3]))

        return {1: write1, 2: write2, 4: write4}[width]

    def _reader(width: int, by_address: bool) -> Any:
        load2, load4 = _vector(2, False, by_address), _vector(4, False, by_address)

        @device
        def read1(to, at, source, index):  # type: ignore[no-untyped-def]
            to[at] = source[np.uint64(index)]

        @device
        def read2(to, at, source, index):  # type: ignore[no-untyped-def]
            a, b = load2(source, np.uint64(index))
            to[at] = a
            to[at + 1] = b

        @device
        def read4(to, at, source, index):  # type: ignore[no-untyped-def]
            a, b, c, d = load4(source, np.uint64(index))
            to[at] = a
            to[at + 1] = b
            to[at + 2] = c
            to[at + 3] = d

        return {1: read1, 2: read2, 4: read4}[width]

    def vector_writer(width: int) -> Any:
        """A device function write(to, index, source, at): `width` values of a register tile to neighbours, by one store."""
        return _writer(width, False)

    def vector_reader(width: int) -> Any:
        """A device function read(to, at, source, index): `width` neighbours into a register tile, by one load."""
        return _reader(width, False)

    def vector_writer_at(width: int) -> Any:
        """As `vector_writer` for 2 or 4, with an address of `global_address` in the index's place."""
        return _writer(width, True)

    def vector_reader_at(width: int) -> Any:
        """As `vector_reader` for 2 or 4, with an address of `global_address` in the index's place."""
        return _reader(width, True)

    copy_async4, copy_async8, copy_async16 = _copy_async(4), _copy_async(8), _copy_async(16)

    def _asm(text: str) -> Any:
        from llvmlite import ir
        from numba.cuda.extending import intrinsic

        @intrinsic
        def call(typing_context):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                kind = ir.FunctionType(ir.VoidType(), [])
                builder.call(ir.InlineAsm(kind, text, "~{memory}", side_effect=True), [])
                return context.get_dummy_value()

            return types.void(), generate

        return call

    def _opaque() -> Any:
        from llvmlite import ir
        from numba.cuda.extending import intrinsic

        @intrinsic
        def opaque(typing_context, x):  # type: ignore[no-untyped-def]
            """x, an int32, as a value of which the compiler knows nothing: what follows from it is computed here and not
            hoisted out of all loops around, where it would hold a register for the whole kernel."""

            def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                i32 = ir.IntType(32)
                code = ir.InlineAsm(ir.FunctionType(i32, [i32]), "mov.b32 $0, $1;", "=r,r", side_effect=True)
                return builder.call(code, arguments)

            return types.int32(types.int32), generate

        return opaque

    opaque = _opaque()
    commit_copies = _asm("cp.async.commit_group;")
    _waits = [_asm(f"cp.async.wait_group {n};") for n in range(4)]

    # ptxas moves no access to memory across it: for loops in which loads of all rounds at once would take too many registers.
    warp_fence = _asm("bar.warp.sync -1;")

    def waiter(n: int) -> Any:
        """A device function: wait until all groups of copies but the last n have arrived."""
        return _waits[n]

else:
    # The simulator runs kernels as Python: floats are NumPy scalars, whose operators round once, but its fma is a*b + c.
    np.seterr(over="ignore", invalid="ignore", divide="ignore", under="ignore")
    _libm = ctypes.CDLL(None)
    _libm.fmaf.restype, _libm.fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    _libm.fma.restype, _libm.fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3

    def _simulated(dtype: Any, unsigned: Any, kind: Any, fused: Any) -> Arithmetic:
        def rounded(f: Callable[..., Any]) -> Callable[..., Any]:
            def call(*values: Any) -> Any:
                with np.errstate(all="ignore"):
                    return dtype(f(*map(dtype, values)))

            return call

        return Arithmetic(
            np.dtype(dtype), kind, dtype, unsigned,
            fma=rounded(lambda a, b, c: fused(float(a), float(b), float(c))),
            add=rounded(lambda a, b: a + b),
            sub=rounded(lambda a, b: a - b),
            mul=rounded(lambda a, b: a * b),
            div=rounded(lambda a, b: a / b),
            sqrt=rounded(np.sqrt),
            smaller=np.fmin,
            bits=lambda x: dtype(x).view(unsigned),
            value=lambda b: unsigned(b).view(dtype),
        )  # fmt: skip

    F32 = _simulated(np.float32, np.uint32, float32, _libm.fmaf)
    F64 = _simulated(np.float64, np.uint64, float64, _libm.fma)

    def shared_address(array: Any, index: Any) -> Any:
        """In the simulator an address is counted from the array's beginning."""
        return np.uint32(int(index) * array.itemsize)

    def global_address(array: Any, index: Any) -> Any:
        return np.uint64(int(index) * array.itemsize)

    def load_at(array: Any, place: Any) -> Any:
        return array[int(place) // array.itemsize]

    def store_at(array: Any, place: Any, value: Any) -> None:
        array[int(place) // array.itemsize] = value

    def _copied(size: int) -> Callable[..., None]:
        def copy(to: Any, at: Any, source: Any, place: Any, valid: Any) -> None:
            n, to_at, from_ = size // to.itemsize, int(at) // to.itemsize, int(place) // to.itemsize
            for i in range(n):
                to[to_at + i] = source[from_ + i] if valid else 0

        return copy

    copy_async4, copy_async8, copy_async16 = _copied(4), _copied(8), _copied(16)

    def vector_reader(width: int) -> Any:
        """As on hardware."""

        def read(to: Any, at: Any, source: Any, index: Any) -> None:
            _aligned(index, width)
            for i in range(width):
                to[at + i] = source[int(index) + i]

        return read

    def vector_writer(width: int) -> Any:
        """As on hardware."""

        def write(to: Any, index: Any, source: Any, at: Any) -> None:
            _aligned(index, width)
            for i in range(width):
                to[int(index) + i] = source[at + i]

        return write

    def vector_reader_at(width: int) -> Any:
        """As on hardware."""

        def read(to: Any, at: Any, source: Any, place: Any) -> None:
            _aligned(place, width * source.itemsize)
            for i in range(width):
                to[at + i] = load_at(source, int(place) + i * source.itemsize)

        return read

    def vector_writer_at(width: int) -> Any:
        """As on hardware."""

        def write(to: Any, place: Any, source: Any, at: Any) -> None:
            _aligned(place, width * to.itemsize)
            for i in range(width):
                store_at(to, int(place) + i * to.itemsize, source[at + i])

        return write

    def _aligned(place: Any, by: int) -> None:
        if int(place) % by:
            raise IndexError(f"{int(place)} is no multiple of {by}")

    def opaque(x: Any) -> Any:
        return x

    def commit_copies() -> None: ...
    def warp_fence() -> None: ...
    def waiter(n: int) -> Any:
        return lambda: None

    def _ignore_alignment() -> None:
        """Shared and local arrays take the `alignment` that hardware kernels ask for."""
        from numba.cuda.simulator import kernelapi

        for owner in (kernelapi.FakeCUDAShared, kernelapi.FakeCUDALocal):
            plain = owner.array
            if owner is kernelapi.FakeCUDALocal:
                owner.array = lambda self, shape, dtype, alignment=None, plain=plain: plain(self, shape, dtype)
                continue

            def array(self: Any, shape: Any, dtype: Any, alignment: Any = None, plain: Any = plain) -> Any:
                # The original tells allocations apart by the line that calls it: it must see the kernel's line, not this one.
                import sys

                frame = sys._getframe(1)
                key = (frame.f_code.co_filename, frame.f_lineno)
                found = self._allocations.get(key)
                if found is None:
                    kind = dtype if not isinstance(dtype, types.Type) else numpy_type(dtype)
                    fresh = np.empty(shape, kind)
                    fresh.view(np.uint8)[...] = 0xA5  # what the last block left there would often do
                    found = self._allocations.setdefault(key, fresh)
                return found

            owner.array = array

    def numpy_type(kind: Any) -> Any:
        from numba.np import numpy_support

        return numpy_support.as_dtype(kind)

    _ignore_alignment()


def arithmetic(dtype: Any) -> Arithmetic:
    """`F32` or `F64`."""
    return F32 if np.dtype(dtype) == np.float32 else F64


# -- kernels ------------------------------------------------------------------------------------------------------------


class Kernel:
    """A kernel with one signature, compiled when it is first launched, and then kept on disk.

    Parameters
    ----------
    function : callable
        Its module must have the name ``cuda`` (from this module) at its top: that is where the simulator looks.
    signature : tuple of types
        ``float32[::1]``, ``int64``, …
    threads : int
        Of a block; all launches have it.
    min_blocks : int
        Blocks that should fit on a multiprocessor: limits registers. `blocks_for` says how many are asked for.
    """

    def __init__(self, function: Callable[..., Any], signature: tuple[Any, ...], threads: int, min_blocks: int = 1) -> None:
        self.name = function.__name__
        self.function, self.signature, self.threads, self.min_blocks = function, signature, threads, min_blocks
        self._launch: Callable[..., None] | None = None
        self._lock = threading.Lock()

    def compile(self) -> Callable[..., None]:
        """Make it ready for the current device; returns ``launch(blocks, stream, arguments)``."""
        with self._lock:
            if self._launch is None:
                self._launch = self._simulated() if SIMULATED else self._from_cubin()
            return self._launch

    def __call__(self, blocks: int | tuple[int, ...], stream: Any, *arguments: Any) -> None:
        """Launch on `stream` (of `new_stream` or `stream_of`; 0 is the default stream). Returns at once."""
        (self._launch or self.compile())(blocks, stream, arguments)

    def blocks_for(self, cc: tuple[int, int]) -> int:
        """`min_blocks`, or fewer before compute capability 9.0, for which the same kernel takes more registers."""
        fewer = 2 if self.min_blocks > 3 else 1
        return self.min_blocks if cc >= (9, 0) else max(1, self.min_blocks - fewer)

    def ptx(self, cc: tuple[int, int]) -> str:
        """The PTX for a compute capability, made without a GPU."""
        with _compiling_for(cc):
            text, _ = cuda.compile(
                self.function, self.signature, device=False, abi="numba", cc=cc, output="ptx",
                launch_bounds=(self.threads, self.blocks_for(cc)),
            )  # fmt: skip
        return str(text)

    def _simulated(self) -> Callable[..., None]:
        compiled = cuda.jit(self.function)
        return lambda blocks, stream, arguments: compiled[blocks, self.threads](*arguments)

    def _from_cubin(self) -> Callable[..., None]:
        from numba.cuda.dispatcher import LaunchConfig, launch

        cc = properties().compute_capability
        key = _cache_key(self, cc)
        cubin = _cache.read(key)
        try:
            code, kernel = _loaded(cubin) if cubin is not None else (None, None)
        except Exception:  # a damaged file
            code = None
        if code is None:
            cubin = _linked(self.ptx(cc), cc)
            _cache.write(key, cubin)
            code, kernel = _loaded(cubin)
        flatten, threads = _flattener(self.signature), self.threads

        configurations: dict[Any, Any] = {}

        def start(blocks: Any, stream: Any, arguments: tuple[Any, ...]) -> None:
            config = configurations.get(blocks)
            if config is None:
                if len(configurations) > 256:
                    configurations.clear()
                config = configurations[blocks] = LaunchConfig(grid=blocks, block=threads)
            launch(_core_stream(stream), config, kernel, *flatten(arguments))

        start.code = code  # type: ignore[attr-defined]  # it lives as long as its kernel
        return start


def _loaded(cubin: bytes) -> tuple[Any, Any]:
    """The module of machine code, and its one kernel."""
    try:
        from cuda.core import ObjectCode
    except ImportError:
        from cuda.core.experimental import ObjectCode
    name = _entry_name(cubin)
    code = ObjectCode.from_cubin(cubin)
    return code, code.get_kernel(name)


_core_streams: dict[int, tuple[Any, Any]] = {}  # by the stream's id; the stream is kept so that the id stays its own


def _core_stream(stream: Any) -> Any:
    found = _core_streams.get(id(stream))
    if found is None:
        from numba.cuda.cudadrv import driver

        if len(_core_streams) > 64:
            _core_streams.clear()
        found = _core_streams[id(stream)] = stream, driver._to_core_stream(stream)
    return found[1]


_C_TYPES = {
    "int32": ctypes.c_int32, "int64": ctypes.c_int64, "uint32": ctypes.c_uint32, "uint64": ctypes.c_uint64,
    "float32": ctypes.c_float, "float64": ctypes.c_double, "uint8": ctypes.c_uint8, "int8": ctypes.c_int8,
}  # fmt: skip


def _flattener(signature: tuple[Any, ...]) -> Callable[[tuple[Any, ...]], list[Any]]:
    """What turns a call's arguments into a kernel's parameters: an array is seven, a tuple its members."""

    def of_array(out: list[Any], array: Any) -> None:
        try:
            out += array.gradfold_parameters
        except AttributeError:  # the first time; neither size nor place of an array ever changes
            size, item = array.size, array.dtype.itemsize
            # Numba's own struct of an array: owner, parent, values, bytes of one, address, shape, strides.
            array.gradfold_parameters = (0, 0, size, item, int(array.device_ctypes_pointer.value or 0), size, item)
            out += array.gradfold_parameters

    def of_number(kind: Any) -> Callable[[list[Any], Any], None]:
        return lambda out, value: out.append(kind(value))

    def of_tuple(kind: Any, count: int) -> Callable[[list[Any], Any], None]:
        return lambda out, values: out.extend(kind(value) for value in values[:count])

    parts: list[Callable[[list[Any], Any], None]] = []
    for kind in signature:
        if isinstance(kind, types.Array):
            parts.append(of_array)
        elif isinstance(kind, types.UniTuple):
            parts.append(of_tuple(_C_TYPES[str(kind.dtype)], kind.count))
        else:
            parts.append(of_number(_C_TYPES[str(kind)]))

    def flatten(arguments: tuple[Any, ...]) -> list[Any]:
        out: list[Any] = []
        for part, argument in zip(parts, arguments, strict=True):
            part(out, argument)
        return out

    return flatten


def _linked(ptx: str, cc: tuple[int, int]) -> bytes:
    """Machine code: the PTX may be newer than the driver, so the driver is not asked to compile it."""
    from cuda.bindings import nvjitlink

    handle = nvjitlink.create(1, [f"-arch=sm_{cc[0]}{cc[1]}"])
    try:
        text = ptx.encode()
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), "gradfold")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin)


def _entry_name(cubin: bytes) -> str:
    """The one kernel of a cubin: it has an ELF section .nv.constant0.<name>, which subroutines, those of / say, have not."""
    found = set(re.findall(rb"\x00\.nv\.constant0\.([\w$.]+)\x00", cubin))
    if len(found) != 1:
        raise RuntimeError(f"a compiled kernel holds {len(found)} entries, wanted one")
    return str(found.pop(), "ascii")


class _Cache:
    """Compiled kernels on disk: to compile those of a training takes some fifteen seconds, to read them none.

    In ``$GRADFOLD_CACHE_DIR``, else ``$XDG_CACHE_HOME/gradfold``, else ``~/.cache/gradfold``; an empty GRADFOLD_CACHE_DIR
    turns it off. A file is written under another name and renamed, so nobody reads half of one. What cannot be
    written is not kept: a cache is no reason to fail.
    """

    def folder(self) -> Path | None:
        named = os.environ.get("GRADFOLD_CACHE_DIR")
        if named is not None:
            return Path(named) if named else None
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return None if base.startswith("~") else Path(base) / "gradfold"  # nobody's home

    def read(self, key: str) -> bytes | None:
        folder = self.folder()
        try:
            return None if folder is None else (folder / f"{key}.cubin").read_bytes()
        except OSError:
            return None

    def write(self, key: str, cubin: bytes) -> None:
        folder = self.folder()
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                try:
                    file.write(cubin)
                    file.close()
                    os.chmod(file.name, 0o644)  # a folder may be shared
                    os.replace(file.name, folder / f"{key}.cubin")
                except OSError:
                    os.unlink(file.name)
                    raise
        except OSError:
            return


_cache = _Cache()


@functools.cache
def _sources() -> str:
    """Of everything that can change what a kernel compiles to, apart from the kernel: our sources and the compilers."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    compilers = ("nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12")  # of CUDA 13, of 12
    for name in ("numba", "numba-cuda", "llvmlite", "cuda-bindings", *compilers):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "none"
        digest.update(f"{name} {version}\0".encode())
    return digest.hexdigest()


def _cache_key(kernel: Kernel, cc: tuple[int, int]) -> str:
    parts = (_sources(), cc, kernel.threads, kernel.min_blocks, str(kernel.signature), _identity(kernel.function))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]


def _identity(value: Any) -> Any:
    """What tells two functions of the same source apart: what their closures hold, all the way down."""
    if isinstance(value, tuple):
        return tuple(map(_identity, value))
    if isinstance(value, (int, float, str, bytes, bool, type(None), np.generic, type)):
        return repr(value)
    function = next((getattr(value, name) for name in ("py_func", "_defn") if hasattr(value, name)), value)
    if hasattr(function, "__code__"):
        cells = function.__closure__ or ()
        return (function.__module__, function.__qualname__, tuple(_identity(cell.cell_contents) for cell in cells))
    return str(value)


_compiling = threading.Lock()  # what it changes is Numba's, of the whole process


@contextlib.contextmanager
def _compiling_for(cc: tuple[int, int]) -> Iterator[None]:
    """Device functions ask the current GPU for its compute capability; here there may be none."""
    from numba.cuda import dispatcher

    class Described:
        compute_capability = cc

    with _compiling:
        plain = dispatcher.get_current_device
        dispatcher.get_current_device = lambda: Described
        try:
            yield
        finally:
            dispatcher.get_current_device = plain


def numba_type(dtype: Any) -> Any:
    """Numba's type of a NumPy dtype."""
    return getattr(types, np.dtype(dtype).name)


# -- memory and streams -------------------------------------------------------------------------------------------------


def memory_info() -> tuple[int, int]:
    """Bytes that can be allocated now, and all; without end in the simulator, and in memory pools, which do not say."""
    try:
        free, total = (1 << 62,) * 2 if SIMULATED else cuda.current_context().get_memory_info()
    except NotImplementedError:
        free = total = 1 << 62
    return int(free), int(total)


def free_memory() -> int:
    """Bytes of the GPU's memory that can be allocated now; without end in the simulator."""
    return memory_info()[0]


def too_much(nbytes: float, hint: str = "", free: float | None = None) -> DeviceMemoryError:
    """What is raised where so many bytes do not fit; `hint` ends the message: what would fit."""
    there = free_memory() if free is None else free
    return DeviceMemoryError(f"the GPU has {_size(there)} free, wanted {_size(nbytes)}{f'; {hint}' if hint else ''}")


def _size(nbytes: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes:.0f} bytes"


spare: list[Any] = []  # memory that nobody uses, of `memory.Memory`; never another list


def give_up_spare() -> None:
    """Free what is kept for later, and what Numba has not freed yet though nobody holds it."""
    spare.clear()
    if not SIMULATED:
        # Another memory manager than Numba's may keep none.
        waiting = getattr(cuda.current_context().memory_manager, "deallocations", None)
        if waiting is not None:
            waiting.clear()


def allocated(allocate: Callable[[], Any], nbytes: int, hint: str = "", again: bool = True) -> Any:
    """What `allocate` returns, if need be after `give_up_spare`.

    Raises
    ------
    DeviceMemoryError
        The GPU does not hold `nbytes` bytes more; the message ends with `hint`.
    """
    try:
        return allocate()
    except Exception as error:
        if "OUT_OF_MEMORY" not in str(error).upper().replace(" ", "_"):
            raise
        if not again:
            raise too_much(nbytes, hint) from error
    give_up_spare()
    return allocated(allocate, nbytes, hint, again=False)


def empty(size: int, dtype: Any, stream: Any = 0, hint: str = "") -> Any:
    """Uninitialised device memory of `size` values, at least one (no kernel takes a null pointer)."""
    n, kind = max(1, int(size)), np.dtype(dtype)
    return allocated(lambda: cuda.device_array(n, kind, stream=stream), n * kind.itemsize, hint)


def to_device(array: Any, stream: Any = 0, hint: str = "") -> Any:
    """A flat copy of a NumPy array on the device."""
    flat = np.ascontiguousarray(array).reshape(-1)
    out = empty(flat.size, flat.dtype, stream, hint)
    if flat.size:
        out.copy_to_device(flat, stream=stream)
    return out


def to_host(array: Any, shape: Sequence[int] | None = None, stream: Any = 0) -> Any:
    """A copy of device memory as a NumPy array; waits for the stream."""
    host = array.copy_to_host(stream=stream)
    if not SIMULATED and stream:
        stream.synchronize()
    return host if shape is None else host.reshape(shape)


def address(array: Any) -> int:
    """Where the array begins."""
    return 0 if SIMULATED else int(array.device_ctypes_pointer.value or 0)


def handle_of(stream: Any) -> int:
    """A number that is the same for two objects of the same stream."""
    if SIMULATED or not stream:
        return 0
    return int(_core_stream(stream).handle)


def new_stream() -> Any:
    """A stream of one's own."""
    return cuda.stream()


@dataclass(frozen=True)
class Properties:
    """Of the current device."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory: int
    free: int


@functools.cache
def multiprocessors() -> int:
    """Of the current device."""
    return properties().multiprocessors


def properties() -> Properties:
    """The current device."""
    if SIMULATED:
        return Properties("simulator", (9, 0), 2, 1 << 34, 1 << 34)
    device_ = cuda.get_current_device()
    free, total = memory_info()
    name = device_.name.decode() if isinstance(device_.name, bytes) else str(device_.name)
    return Properties(name, tuple(device_.compute_capability), int(device_.MULTIPROCESSOR_COUNT), int(total), int(free))
