"""Where a computation runs: on the host, or on an NVIDIA GPU. Nothing here imports Numba before a GPU is asked for.

Nothing falls back in silence: a GPU that was asked for, by `device="cuda"` or by data that lies on one, and is not
there raises `DeviceError`; data on the GPU beside `device="cpu"` raises too, because it would have to be copied.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any, TypeGuard

import numpy as np

INSTALL = "pip install 'gradfold[cuda13]' for a driver of CUDA 13, 'gradfold[cuda12]' for one of CUDA 12"

# Kernels copy from global to shared memory while they compute (cp.async), which began with this compute capability.
_OLDEST = (8, 0)

_first_used: tuple[int, int] | None = None  # the process and the GPU that kernels and memory of this process are of

CUDA_DLPACK = (2, 13)  # DLPack's device types of memory that a GPU reads: its own, and managed


class DeviceError(RuntimeError):
    """A GPU was asked for that cannot be used; the message says why, and what to install."""


class DeviceMemoryError(MemoryError):
    """The GPU's memory does not hold what was asked for. Nothing was allocated, and the process goes on."""


class OnDevice:
    """What `gradfold.cuda.arrays.DeviceArray` is; to recognise one without Numba."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array of no dimension has no length")
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return int(self.dtype.itemsize)

    @property
    def size(self) -> int:
        """How many numbers."""
        out = 1
        for n in self.shape:
            out *= n
        return out

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers."""
        return self.size * self.itemsize


def is_device_array(value: object) -> TypeGuard[Any]:
    """Whether `value` is a `DeviceArray` of this library."""
    return isinstance(value, OnDevice)


def lives_on_gpu(value: object) -> bool:
    """Whether an object of whatever library holds its data on an NVIDIA GPU."""
    if value is None or isinstance(
        value, (np.ndarray, np.generic, str, bytes, bool, int, float, list, tuple, dict, type)
    ):
        return False
    if isinstance(value, OnDevice):
        return True
    try:
        if getattr(value, "__cuda_array_interface__", None) is not None:
            return True
    except RuntimeError:  # of torch, for a tensor on the GPU that takes part in automatic differentiation
        return True
    kind = getattr(value, "__dlpack_device__", None)
    if not callable(kind):
        return False
    try:
        return int(kind()[0]) in CUDA_DLPACK
    except Exception:  # a class instead of an object, or memory that DLPack has no name for: not a GPU of ours
        return False


def resolve(device: object, *arrays: object, **named: object) -> str:
    """Where to compute: "cpu" or "cuda".

    Parameters
    ----------
    device : {None, "cpu", "cuda"}
        None is where the data lives: "cuda" if one of the arrays lies on a GPU.
    *arrays, **named : objects
        The data; the names are for the message.

    Raises
    ------
    ValueError
        Another device, or "cpu" for data on a GPU.
    """
    if not (device is None or (isinstance(device, str) and device in ("cpu", "cuda"))):
        which = ""
        if isinstance(device, str) and device.startswith("cuda"):
            which = ", which is the current GPU (CUDA_VISIBLE_DEVICES chooses among several)"
        raise ValueError(f"device: got {device!r}, wanted None, 'cpu' or 'cuda'{which}")
    on_gpu = [name for name, value in named.items() if lives_on_gpu(value)]
    on_gpu += ["an array" for value in arrays if lives_on_gpu(value)]
    if device == "cpu" and on_gpu:
        raise ValueError(
            f"device: got 'cpu', but {', '.join(on_gpu)} lies on the GPU and nothing is copied in silence; wanted None "
            "or 'cuda', or the data on the host"
        )
    return "cuda" if on_gpu or device == "cuda" else "cpu"


def reason(device: object, resolved: str) -> str:
    """Why a computation runs where it does: "cpu: where the data lives", "cuda: asked for"."""
    return f"{resolved}: {'where the data lives' if device is None else 'asked for'}"


def require_cuda() -> Any:
    """The module `gradfold.cuda._driver`, with a GPU behind it that kernels run on.

    Raises
    ------
    DeviceError
        numba-cuda is missing or broken, there is no driver or no GPU, or one of them is too old.
    """
    why = _why_not_imported() or _why_not_usable()
    if why is not None:
        raise DeviceError(f"device 'cuda': {why}; wanted an NVIDIA GPU with its driver, and numba-cuda: {INSTALL}")
    from gradfold.cuda import _driver

    return _driver


def gpu() -> dict[str, Any] | str:
    """The current GPU (name, memory and free memory in bytes, compute capability, driver), or why there is none."""
    why = _why_not_imported() or _why_not_usable()
    if why is not None:
        return why
    from gradfold.cuda._driver import SIMULATED, cuda, memory_info

    if SIMULATED:
        return "Numba's simulator (NUMBA_ENABLE_CUDASIM=1)"
    context = cuda.current_context()
    free, total = memory_info()
    name = context.device.name
    return {
        "name": name.decode() if isinstance(name, bytes) else str(name),
        "memory": int(total),
        "free": int(free),
        "compute_capability": "{}.{}".format(*context.device.compute_capability),
        "driver": "{}.{}".format(*_driver_version(cuda)),
    }


def _why_not_imported() -> str | None:
    if sys.modules.get("gradfold.cuda._driver") is not None:  # to look for a package takes longer than a small gradient
        return None
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed"
    try:
        from gradfold.cuda import _driver  # noqa: F401
    except ImportError as error:
        return f"numba-cuda cannot be imported ({_line(error)})"
    return None


def _why_not_usable() -> str | None:
    """Why kernels cannot run here; None if they can."""
    global _first_used
    from gradfold.cuda._driver import SIMULATED, cuda

    if SIMULATED:
        return None
    if _first_used is not None and _first_used[0] != os.getpid():
        return "this process was forked from one that uses the GPU, which CUDA does not survive (start it by spawn)"
    try:
        context = cuda.current_context()
        number = int(context.device.id)
        if _first_used is None:
            wanted = tuple(cuda.runtime.get_version())
            found = _driver_version(cuda)
            able = tuple(context.device.compute_capability)
    except (
        Exception
    ) as error:  # a missing driver is an ImportError, a broken one a CudaDriverError, no GPU an IndexError
        if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            return "no GPU is visible (CUDA_VISIBLE_DEVICES hides them)"
        return f"no GPU can be used: {_line(error).removeprefix('Error at driver init: ')}"
    if _first_used is None:  # else all of it was found good before
        if found[0] < wanted[0]:
            return "the driver is too old: it is of CUDA {}.{}, and the CUDA packages are of {}.{}".format(
                *found, *wanted[:2]
            )
        if able < _OLDEST:
            return "the GPU is too old: it has compute capability {}.{}, and kernels need {}.{}".format(*able, *_OLDEST)
        _first_used = os.getpid(), number
    if number != _first_used[1]:
        return f"the current GPU is {number}, and this process has used GPU {_first_used[1]} (CUDA_VISIBLE_DEVICES chooses one)"
    return None


def _driver_version(cuda: Any) -> tuple[int, int]:
    major, minor = cuda.cudadrv.driver.driver.get_version()
    return int(major), int(minor)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(":. ") or type(error).__name__


def check_shape(n_rows: int, n_features: int) -> None:
    """Raise for an X that kernels on a GPU do not reach: row numbers, and the bytes of a row, are 32 bits in them."""
    if n_rows >= 2**31:
        raise ValueError(f"X: got {n_rows} rows with device='cuda', wanted fewer than 2^31")
    if n_features >= 2**28:
        raise ValueError(f"X: got {n_features} features with device='cuda', wanted fewer than 2^28")
