"""The parameters `device`, `level` and `dtype` of the benchmarks, what does the same work on either device, and who is skipped."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

from gradfold import _core

ALL = ["cpu", "cuda"]
HOST = ["cpu"]  # of what has no kernel for GPUs
DTYPES = ["float32", "float64"]
LEVELS = ["serial", "x86_v3", "x86_v4", "neon"]  # all that there are: the parameters are the same on every machine


@functools.cache
def no_gpu() -> str | None:
    """Why nothing can run on a GPU here, or None. The cheap reasons come first: every skipped benchmark asks."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no driver"
    from gradfold import _device

    found = _device.gpu()
    return found if isinstance(found, str) else None


def need(device: str) -> None:
    """The first line of a setup: a device that is not there skips the benchmark."""
    if device == "cuda" and no_gpu() is not None:
        raise NotImplementedError(no_gpu())


def use_level(level: str | None) -> None:
    """Forces a level, and skips a benchmark whose level this build or this CPU does not have. None ends it."""
    if level is not None and level not in _core.levels.supported():
        raise NotImplementedError(f"level {level} is not supported here")
    _core.levels._force(level or "")


def peer(name: str, make: Callable[[], Any]) -> Any:
    """What `make` makes; in a setup a peer that is not installed skips the benchmark."""
    try:
        return make()
    except ImportError as error:
        raise NotImplementedError(f"{name} is not installed") from error


def wait(device: str) -> None:
    """Until the device has done what was asked of it."""
    if device == "cuda":
        from gradfold.cuda._driver import cuda

        cuda.synchronize()


def trainer(device: str) -> type:
    """The epoch loop of a device."""
    if device == "cpu":
        return _core.train.Trainer
    from gradfold.cuda.train import Trainer

    return Trainer


class AtEachLevel:
    """What a class with ``prepare(dtype, n_threads)`` measures, at each level, on one thread; serial is there for tests."""

    params = (HOST, LEVELS, DTYPES)
    param_names = ["device", "level", "dtype"]

    def setup(self, device: str, level: str, dtype: str) -> None:
        use_level(level)
        self.prepare(dtype, 1)

    def teardown(self, *params: object) -> None:
        use_level(None)
