"""gradfold.cuda.arrays in the simulator, where the GPU's memory is the host's: layouts, protocols, bad values."""

from __future__ import annotations

import gc
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gradfold._device import DeviceMemoryError
from gradfold.cuda import _driver, arrays, bad_values
from gradfold.cuda._driver import SIMULATED

DTYPES = [
    np.float32,
    np.float64,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint16,
    np.uint32,
    np.uint64,
    np.bool_,
]


class Foreign:
    """Another library's array, by ``__cuda_array_interface__``; `array` is its memory."""

    def __init__(self, array: np.ndarray, **changed: Any) -> None:
        self.array = array
        strides = None if array.flags.c_contiguous else array.strides
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (array.ctypes.data, False), "strides": strides,
            "version": 3, **changed,
        }  # fmt: skip


class ByDlpack:
    """Another library's array that has DLPack only."""

    def __init__(self, array: arrays.DeviceArray) -> None:
        self.array, self.streams = array, []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, stream: Any = None) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__(stream=stream)


def matrix(dtype: Any = np.float64, shape: tuple[int, ...] = (5, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, shape).astype(dtype)


def test_this_is_the_simulator() -> None:
    assert SIMULATED


# -- our own -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", [(5, 3), (4,), (2, 3, 4), (0, 3), (1, 1), ()], ids=str)
def test_there_and_back(dtype: Any, shape: tuple[int, ...]) -> None:
    host = matrix(dtype, shape)
    array = arrays.to_device(host)
    assert (array.shape, array.dtype, array.ndim, array.size, array.nbytes) == (
        shape,
        host.dtype,
        host.ndim,
        host.size,
        host.nbytes,
    )
    assert array.itemsize == host.itemsize and (not shape or len(array) == len(host))
    back = array.numpy()
    assert back.dtype == host.dtype and back.shape == shape and (back == host).all()
    if host.size:
        assert back is not host and not np.may_share_memory(back, host)


def test_a_copy_of_what_is_not_contiguous_read_only_or_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_COPY_BYTES", 64)
    host = matrix(shape=(40, 6))[::2, ::-1]
    host.flags.writeable = False
    assert (arrays.to_device(host).numpy() == host).all()


def test_write_and_reshape() -> None:
    array = arrays.empty((2, 3), np.float32)
    array.reshape((3, 2)).write(np.arange(6, dtype=np.float32).reshape(3, 2))
    assert array.numpy().tolist() == [[0, 1, 2], [3, 4, 5]] and array.item(4) == 4
    with pytest.raises(ValueError, match=r"^shape: got \(2, 2\), wanted 6 numbers"):
        array.reshape((2, 2))
    with pytest.raises(ValueError, match="^values: got float64"):
        array.write(np.zeros((2, 3)))


def test_not_a_numpy_array_by_accident() -> None:
    with pytest.raises(TypeError, match=r"lies on the GPU; \.numpy\(\) copies it"):
        np.asarray(arrays.to_device(np.zeros(3)))
    with pytest.raises(TypeError, match="no length"):
        len(arrays.to_device(np.zeros(())))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows(dtype: Any) -> None:
    X = np.random.default_rng(1).standard_normal((20, 7)).astype(dtype)
    array = arrays.to_device(X)
    for ids in ([3, 3, 0, 19], [], list(range(20)), [5]):
        rows = array.rows(np.array(ids, np.int64))
        assert rows.dtype == dtype and rows.tobytes() == X[np.array(ids, np.int64)].tobytes()


def test_overlap() -> None:
    memory = np.zeros(10)
    whole, first, last = (arrays.from_object("x", Foreign(part)) for part in (memory, memory[:5], memory[5:]))
    assert arrays.overlap(whole, first) and arrays.overlap(last, whole) and not arrays.overlap(first, last)
    assert not arrays.overlap(whole, arrays.empty(0, np.float64))


# -- memory ------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_said_and_the_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "free_memory", lambda: 1_500_000)
    with pytest.raises(MemoryError, match=r"^the GPU has 1\.5 MB free, wanted 8 MB; wanted fewer models$") as caught:
        arrays.empty(1_000_000, np.float64, hint="wanted fewer models")
    assert isinstance(caught.value, DeviceMemoryError)
    with pytest.raises(DeviceMemoryError, match="wanted 1.6 MB$"):
        arrays.to_device(np.zeros(200_000))
    assert arrays.to_device(np.zeros(100_000)).nbytes == 800_000


def test_memory_that_goes_between_the_check_and_the_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")

    monkeypatch.setattr(_driver, "cuda", SimpleNamespace(device_array=fail))
    with pytest.raises(DeviceMemoryError, match="wanted 800 bytes; hint"):
        arrays.empty(100, np.float64, hint="hint")


# -- other libraries' --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_interface_without_a_copy(dtype: Any) -> None:
    host = matrix(dtype)
    array = arrays.from_object("X", Foreign(host))
    assert array.pointer == host.ctypes.data and array.dtype == dtype and array.shape == host.shape
    host[2, 1] = 1 - host[2, 1]
    assert (array.numpy() == host).all()
    assert arrays.from_object("X", array) is array


def test_our_own_interface() -> None:
    array = arrays.to_device(matrix(np.float32))
    interface = array.__cuda_array_interface__
    assert interface["version"] == 3 and interface["strides"] is None and interface["typestr"] == "<f4"
    assert (
        interface["data"] == (array.pointer, False) and interface["stream"] == 1
    )  # 0 is not allowed; 1 is the default stream
    again = arrays.from_object("X", SimpleNamespace(__cuda_array_interface__=interface))
    assert again.pointer == array.pointer


def test_sides_of_one_may_have_any_stride() -> None:
    host = np.arange(6.0).reshape(6, 1)
    assert arrays.from_object("X", Foreign(host, strides=(8, 4000))).numpy().tolist() == host.tolist()
    assert arrays.from_object("X", Foreign(host[:0], strides=(1, 1))).shape == (0, 1)
    assert arrays.from_object("X", Foreign(np.zeros((0, 3)), data=(None, False))).pointer == 0


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            lambda: Foreign(np.asfortranarray(matrix())),
            ValueError,
            r"got a layout with strides \(8, 40\) on the GPU, wanted C-contiguous",
        ),
        (lambda: Foreign(matrix()[::2]), ValueError, "got a layout with strides"),
        (lambda: Foreign(matrix()[:, ::-1]), ValueError, "got a layout with strides"),
        (
            lambda: Foreign(matrix().astype(np.float16)),
            TypeError,
            "got dtype float16 on the GPU, wanted float32, float64 or integers",
        ),
        (lambda: Foreign(matrix().astype(complex)), TypeError, "got dtype complex128"),
        (lambda: Foreign(matrix().astype(">f8")), TypeError, "got dtype >f8"),
        (lambda: Foreign(matrix(), data=(matrix().ctypes.data + 1, False)), ValueError, "got float64 numbers at the address"),
        (lambda: Foreign(matrix(), mask=object()), TypeError, "got a masked array"),
        (lambda: np.zeros(3), TypeError, r"got an array of float64, shape \(3,\), wanted an array on the GPU"),
        (lambda: 3, TypeError, "got 3, wanted an array on the GPU"),
    ],
    ids=["fortran", "rows", "columns", "float16", "complex", "big endian", "misaligned", "masked", "numpy", "int"],
)
def test_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        arrays.from_object("X", value())
    assert str(caught.value).startswith("X: ")


def test_differentiated_tensor() -> None:
    class Tensor:
        @property
        def __cuda_array_interface__(self) -> Any:
            raise RuntimeError("requires grad; use .detach()")

    with pytest.raises(ValueError, match="^W: got a Tensor that gives no memory .*detach"):
        arrays.from_object("W", Tensor())


def test_owner_is_kept() -> None:
    array = arrays.from_object("X", Foreign(matrix(np.float64, (1000, 100)) + 7))
    gc.collect()
    assert (array.numpy() >= 7).all()


def test_read_only() -> None:
    host = matrix()
    assert arrays.from_object("X", Foreign(host, data=(host.ctypes.data, True))).readonly
    assert not arrays.from_object("X", Foreign(host)).readonly


# -- DLPack ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", [(5, 3), (4,), (2, 3, 4), (0, 3)], ids=str)
def test_dlpack_round_trip(dtype: Any, shape: tuple[int, ...]) -> None:
    array = arrays.to_device(matrix(dtype, shape))
    before = len(arrays._exported)
    other = ByDlpack(array)
    mine = arrays.from_object("X", other)
    assert other.streams == [1]  # the legacy default stream: ours, since nothing says what the owner's is
    assert mine.pointer == array.pointer and mine.dtype == array.dtype and mine.shape == shape
    assert (mine.numpy() == array.numpy()).all() and len(arrays._exported) == before + 1
    del mine
    gc.collect()
    assert len(arrays._exported) == before  # the owner was told


def test_dlpack_capsule_that_nobody_reads() -> None:
    array = arrays.to_device(matrix())
    before = len(arrays._exported)
    capsule = array.__dlpack__()
    assert len(arrays._exported) == before + 1
    del capsule
    assert len(arrays._exported) == before


def test_dlpack_of_what_is_gone() -> None:
    mine = arrays.from_object("X", ByDlpack(arrays.to_device(np.full(50_000, 3.0))))
    gc.collect()
    assert (mine.numpy() == 3).all()


def test_dlpack_refused() -> None:
    class Refusing(ByDlpack):
        def __dlpack__(self, stream: Any = None) -> Any:
            raise BufferError("not today")

    array = arrays.to_device(matrix())
    with pytest.raises(ValueError, match=r"^X: got a Refusing that gives no memory \(not today\)"):
        arrays.from_object("X", Refusing(array))

    class Newer(ByDlpack):
        def __dlpack__(self, stream: Any = None) -> Any:
            return object()

    with pytest.raises(TypeError, match="^X: got a Newer whose DLPack capsule is not of version 0"):
        arrays.from_object("X", Newer(array))
    with pytest.raises(BufferError, match="no copies"):
        array.__dlpack__(copy=True)


def test_dlpack_strides_and_types(monkeypatch: pytest.MonkeyPatch) -> None:
    array = arrays.to_device(matrix(np.float32, (4, 2)))
    export = arrays._export

    def changed(**fields: Any) -> Any:
        def make(a: arrays.DeviceArray) -> Any:
            capsule = export(a)
            managed, _, _ = list(arrays._exported.values())[-1]
            for name, value in fields.items():
                setattr(managed.tensor, name, value)
            return capsule

        return make

    import ctypes

    def strides(*values: int) -> Any:
        return (ctypes.c_int64 * len(values))(*values)

    kept = strides(2, 1), strides(1, 4)  # the description holds pointers only
    for fields, error, message in (
        ({"strides": kept[1]}, ValueError, r"layout with strides \(1, 4\)"),
        ({"bits": 16}, TypeError, "got dtype float16"),
        ({"code": 4}, TypeError, "got a DLPack type of code 4"),
        ({"lanes": 2}, TypeError, "got a DLPack type"),
        ({"device_type": 1}, TypeError, "device type 1, wanted that of an NVIDIA GPU"),
    ):
        monkeypatch.setattr(arrays, "_export", changed(**fields))
        with pytest.raises(error, match=f"^X: .*{message}"):
            arrays.from_object("X", ByDlpack(array))
    monkeypatch.setattr(arrays, "_export", changed(strides=kept[0], byte_offset=8, shape=strides(3, 2)))
    assert (arrays.from_object("X", ByDlpack(array)).numpy() == array.numpy()[1:]).all()
    gc.collect()
    assert arrays._exported == {}


def test_dlpack_of_numpy_reads_ours_and_we_read_its(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of the descriptions, beside another implementation; NumPy takes memory of the host only."""
    host = np.arange(12, dtype=np.float32).reshape(4, 3)

    class OnHost(arrays.DeviceArray):
        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

    array = OnHost(arrays.to_device(host).flat, host.shape)
    before = len(arrays._exported)
    read = np.from_dlpack(array)
    assert (read == host).all() and read.dtype == np.float32 and read.ctypes.data == array.pointer
    assert len(arrays._exported) == before + 1
    del read
    gc.collect()
    assert len(arrays._exported) == before

    class OfNumpy:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

        def __dlpack__(self, stream: Any = None) -> Any:
            return host.__dlpack__()

    monkeypatch.setattr(arrays, "CUDA_DLPACK", (1,))
    holders = sys.getrefcount(host)
    mine = arrays.from_object("X", OfNumpy())
    held = sys.getrefcount(host)  # not within the assert, which holds what it compares
    assert mine.pointer == host.ctypes.data and mine.shape == (4, 3)
    del mine
    gc.collect()
    released = sys.getrefcount(host)
    assert (held, released) == (holders + 1, holders)


# -- torch and CuPy, as far as they are looked at ----------------------------------------------------------------------


class Tensor(Foreign):
    device = "cuda:0"


def _torch(make: Any = None) -> Any:
    """torch as far as it is looked at: `make` is what ``torch.empty`` does."""
    return SimpleNamespace(
        __name__="torch", Tensor=Tensor, empty=make, float32=np.float32, float64=np.float64,
        cuda=SimpleNamespace(current_stream=lambda d: SimpleNamespace(cuda_stream=77)),
    )  # fmt: skip


def test_results_are_of_the_callers_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its own memory, which its pool takes back; whatever is of no such library gets ours."""
    monkeypatch.setattr(arrays, "stream_of", lambda pointer: 0)
    monkeypatch.setitem(sys.modules, "torch", _torch(lambda shape, dtype, device: Tensor(np.empty(shape, dtype), device=device)))
    X = arrays.from_object("X", Tensor(np.zeros((2, 3), np.float32)))
    for dtype in (np.float32, np.float64):
        result = arrays.result((4, 5), dtype, X)
        tensor = arrays.theirs(result)
        assert isinstance(tensor, Tensor) and tensor.array.dtype == dtype and tensor.array.shape == (4, 5)
        assert result.pointer == tensor.array.ctypes.data and result.dtype == dtype and result.shape == (4, 5)
        assert tensor.__cuda_array_interface__["device"] == "cuda:0"  # of this test: where it was asked for

    class Array(Foreign):
        pass

    cupy = SimpleNamespace(
        __name__="cupy", ndarray=Array, empty=lambda shape, dtype: Array(np.empty(shape, dtype)), float64=np.float64,
        cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=0)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert isinstance(arrays.theirs(arrays.result((2,), np.float64, arrays.from_object("X", Array(np.zeros(1))))), Array)
    for other in (Foreign(np.zeros(1)), arrays.to_device(np.zeros(1))):
        result = arrays.result((2,), np.float64, arrays.from_object("X", other))
        assert arrays.theirs(result) is result


def test_memory_that_the_callers_library_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    def full(shape: Any, dtype: Any, device: Any) -> Any:
        asked.append(shape)
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    asked: list[Any] = []
    monkeypatch.setattr(arrays, "stream_of", lambda pointer: 0)
    monkeypatch.setitem(sys.modules, "torch", _torch(full))
    X = arrays.from_object("X", Tensor(np.zeros(1)))
    with pytest.raises(DeviceMemoryError, match="wanted 80 bytes; fewer$"):
        arrays.result((2, 5), np.float64, X, "fewer")
    assert asked == [(2, 5)] * 2  # the second time without what is kept here


def test_stream_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(arrays, "stream_of", lambda pointer: asked.append(pointer) or 0)
    monkeypatch.setitem(sys.modules, "torch", _torch())

    class Array(Foreign):
        pass

    stream = SimpleNamespace(ptr=55)
    cupy = SimpleNamespace(ndarray=Array, cuda=SimpleNamespace(get_current_stream=lambda: stream))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    host = matrix()
    for value in (
        Foreign(host),
        Foreign(host, stream=None),
        Foreign(host, stream=2),
        Tensor(host),
        Array(host),
        Array(host, stream=9),
    ):
        arrays.from_object("X", value)
    assert asked == [None, None, 2, 77, 55, 9]


# -- bad values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_first_bad_value(dtype: Any) -> None:
    info = np.finfo(dtype)
    good = np.array([0, -0.0, 1, info.max, -info.max, info.tiny, info.smallest_subnormal], dtype)
    host = np.resize(good, (9, 5))
    assert bad_values.first_non_finite(arrays.to_device(host)) == -1
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for places in ([0], [44], [17, 30], [44, 12, 13]):
            bad = host.copy()
            bad.reshape(-1)[places] = value
            assert bad_values.first_non_finite(arrays.to_device(bad)) == min(places)
    assert bad_values.first_non_finite(arrays.empty((0, 3), dtype)) == -1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_first_negative(dtype: Any) -> None:
    weight = np.array([0, -0.0, np.nan, 1, np.inf, 3], dtype)
    assert bad_values.first_negative(arrays.to_device(weight)) == -1
    weight[4], weight[3] = -np.inf, -np.finfo(dtype).smallest_subnormal
    assert bad_values.first_negative(arrays.to_device(weight)) == 3
