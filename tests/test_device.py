"""Where a computation runs, without a GPU: what `device` takes, what a missing GPU says, and no silent fall-back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gradfold as gf
import ptx
import simulator
from fits import labels
from gradfold import _device, cli


class OnGpu:
    """An array of another library that says it lies on a GPU. Nothing may read its memory."""

    def __init__(self, shape: tuple[int, ...] = (4, 2)) -> None:
        self.shape = shape

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": "<f8", "data": (0xDEAD000, False), "version": 3}


class ByDlpack:
    """An array that has DLPack only."""

    def __init__(self, kind: int) -> None:
        self.kind = kind

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0


class Differentiated:
    """torch's tensors that require a gradient, which raise a RuntimeError when their memory is asked for."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")


class Broken:
    """Memory that DLPack has no name for."""

    def __dlpack_device__(self) -> tuple[int, int]:
        raise ValueError("no device")


HOST = [
    None,
    np.zeros(3),
    np.float64(1),
    [1.0],
    (1, 2),
    "text",
    3,
    ByDlpack(1),
    ByDlpack(3),
    ByDlpack(10),
    Broken(),
    OnGpu,
    ByDlpack,
]
GPU = [OnGpu(), ByDlpack(2), ByDlpack(13), Differentiated()]


def _is_there() -> bool:
    return isinstance(_device.gpu(), dict)


# -- device ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", HOST, ids=lambda v: type(v).__name__)
def test_lives_on_the_host(value: object) -> None:
    assert not _device.lives_on_gpu(value)
    assert _device.resolve(None, value) == _device.resolve("cpu", X=value) == "cpu"
    assert _device.resolve("cuda", X=value) == "cuda"


@pytest.mark.parametrize("value", GPU, ids=lambda v: type(v).__name__)
def test_lives_on_a_gpu(value: object) -> None:
    assert _device.lives_on_gpu(value)
    assert _device.resolve(None, np.zeros(2), value) == _device.resolve("cuda", X=value) == "cuda"
    with pytest.raises(ValueError, match="^device: got 'cpu', but y lies on the GPU and nothing is copied in silence"):
        _device.resolve("cpu", X=np.zeros(2), y=value)


@pytest.mark.parametrize("device", ["CUDA", "gpu", "cuda:0", "", 0, True, np.zeros(2)], ids=repr)
def test_unknown_device(device: Any) -> None:
    with pytest.raises(ValueError, match="^device: got .*, wanted None, 'cpu' or 'cuda'"):
        _device.resolve(device, np.zeros(2))


def test_reason() -> None:
    assert _device.reason(None, "cpu") == "cpu: where the data lives"
    assert _device.reason("cuda", "cuda") == "cuda: asked for"


# -- no GPU ------------------------------------------------------------------------------------------------------------


def _driver(
    monkeypatch: pytest.MonkeyPatch, *, version: Any = (13, 0), cc: Any = (9, 0), error: Exception | None = None, number: int = 0
) -> None:
    """A driver and a GPU as described, in the place of Numba's."""

    def context() -> Any:
        if error is not None:
            raise error
        return SimpleNamespace(device=SimpleNamespace(compute_capability=cc, name=b"GPU of a test", id=number))

    driver = SimpleNamespace(driver=SimpleNamespace(get_version=lambda: version))
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(get_version=lambda: (13, 1)),
        current_context=context,
        cudadrv=SimpleNamespace(driver=driver),
    )
    monkeypatch.setattr(_device.importlib.util, "find_spec", lambda name: name)
    made = SimpleNamespace(SIMULATED=False, cuda=cuda, memory_info=lambda: (60_000_000_000, 80_000_000_000))
    monkeypatch.setitem(sys.modules, "gradfold.cuda._driver", made)  # type: ignore[arg-type]
    monkeypatch.setattr(_device, "_first_used", None)


def test_a_second_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels and memory are of the first one."""
    _driver(monkeypatch)
    assert isinstance(_device.gpu(), dict)
    used = _device._first_used
    _driver(monkeypatch, number=1)
    monkeypatch.setattr(_device, "_first_used", used)
    with pytest.raises(gf.DeviceError, match="the current GPU is 1, and this process has used GPU 0"):
        _device.require_cuda()


def test_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(monkeypatch, error=RuntimeError("the context is not to be asked"))
    monkeypatch.setattr(_device, "_first_used", (os.getpid() + 1, 0))
    with pytest.raises(gf.DeviceError, match="forked .*spawn"):
        _device.require_cuda()


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gradfold.cuda._driver", raising=False)
    monkeypatch.setattr(_device.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(gf.DeviceError, match=r"numba-cuda is not installed; .* pip install 'gradfold\[cuda13\]'"):
        _device.require_cuda()
    assert _device.gpu() == "numba-cuda is not installed"


def test_installation_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "gradfold.cuda._driver", None)  # type: ignore[arg-type]
    monkeypatch.delattr(sys.modules.get("gradfold.cuda", SimpleNamespace()), "_driver", raising=False)
    with pytest.raises(gf.DeviceError, match="numba-cuda cannot be imported .*pip install"):
        _device.require_cuda()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            dict(error=ImportError("Error at driver init: \n\nCUDA driver library cannot be found.\n:")),
            "CUDA driver library cannot be found; wanted",
        ),
        (dict(error=IndexError("list index out of range")), "no GPU can be used: list index out of range"),
        (dict(version=(12, 8)), r"the driver is too old: it is of CUDA 12\.8, and the CUDA packages are of 13\.1"),
        (dict(cc=(7, 5)), r"the GPU is too old: it has compute capability 7\.5, and kernels need 8\.0"),
    ],
    ids=["no driver", "no GPU", "old driver", "old GPU"],
)
def test_unusable(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], message: str) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    _driver(monkeypatch, **found)
    with pytest.raises(gf.DeviceError, match=message) as caught:
        gf.fit(*labels(20), device="cuda")
    assert _device.INSTALL in str(caught.value)
    assert isinstance(_device.gpu(), str)


def test_hidden_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(monkeypatch, error=IndexError())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(gf.DeviceError, match="CUDA_VISIBLE_DEVICES hides them"):
        _device.require_cuda()


def test_what_info_says_of_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _driver(monkeypatch)
    assert cli.main(["info"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("device"))
    wanted = "cpu; GPU: GPU of a test, 80 GB (60 GB free), compute capability 9.0, driver of CUDA 13.0"
    assert line.split(None, 1)[1] == wanted
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["device"] == "cpu" and facts["gpu"]["compute_capability"] == "9.0" and facts["no_gpu"] is None


def test_what_info_says_without_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "gradfold.cuda._driver", raising=False)
    monkeypatch.setattr(_device.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["info"]) == 0
    assert "cpu; GPU: none (numba-cuda is not installed)" in capsys.readouterr().out


def test_info_leaves_numba_alone_where_numba_cuda_is_missing() -> None:
    code = (
        "import importlib.util, sys; importlib.util.find_spec = lambda name, package=None: None; "
        "from gradfold import cli; cli.main(['info']); assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# -- the public functions ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(_is_there(), reason="there is a GPU")
@pytest.mark.parametrize("how", ["asked", "data"])
def test_no_silent_fall_back(how: str) -> None:
    X, y = labels(20)
    device = "cuda" if how == "asked" else None
    given = X if how == "asked" else OnGpu(X.shape)
    with pytest.raises(gf.DeviceError, match="pip install"):
        gf.fit(given, y, device=device)
    with pytest.raises(gf.DeviceError, match="pip install"):
        gf.gradient.loss_gradient(given, y, np.zeros((X.shape[1], 1)), loss="log_loss", device=device)


def test_data_on_the_gpu_beside_device_cpu() -> None:
    X, y = labels(20)
    W = np.zeros((X.shape[1], 2))
    for name, arguments in {"X": (OnGpu(), y), "y": (X, OnGpu((20,)))}.items():
        with pytest.raises(ValueError, match=f"^device: got 'cpu', but {name} lies on the GPU"):
            gf.fit(*arguments, device="cpu")
        with pytest.raises(ValueError, match=f"^device: got 'cpu', but {name} lies on the GPU"):
            gf.gradient.loss_gradient(*arguments, W, loss="log_loss", device="cpu")
    with pytest.raises(ValueError, match="sample_weight lies on the GPU"):
        gf.fit(X, y, sample_weight=OnGpu((20,)), device="cpu")
    with pytest.raises(ValueError, match=r"^device: got 'cpu', but out\[1\] \(grad_W\) lies on the GPU"):
        gf.gradient.loss_gradient(X, y, W, loss="log_loss", out=(None, OnGpu(W.shape), None), device="cpu")


def test_arrays_on_the_gpu_where_only_the_host_is_read() -> None:
    X, y = labels(40)
    run = gf.fit(X, y, folds=2, epochs=1)
    message = "got an array on the GPU, wanted one on the host; nothing is copied in silence"
    with pytest.raises(TypeError, match=f"^X: {message}"):
        run.predict(OnGpu(X.shape))
    with pytest.raises(TypeError, match=f"^X: {message}"):
        run.partial_fit(OnGpu(X.shape), y)
    with pytest.raises(TypeError, match=f"^validation_data X: {message}"):
        gf.fit(X, y, validation_data=(OnGpu(X.shape), y))
    with pytest.raises(TypeError, match="^coef_init: got an array on the GPU"):
        gf.fit(X, y, coef_init=OnGpu((5,)))
    with pytest.raises(TypeError, match="^rows: got an object of type OnGpu, wanted a NumPy array"):
        gf.gradient.loss_gradient(X, y.astype(float), np.zeros((5, 1)), loss="log_loss", rows=OnGpu((3,)))  # type: ignore[arg-type]


def test_cpu_asked_for() -> None:
    X, y = labels(40)
    run, same = gf.fit(X, y, folds=2, epochs=1, device="cpu"), gf.fit(X, y, folds=2, epochs=1)
    assert run.coef.tobytes() == same.coef.tobytes()
    assert (run.device, run.device_reason) == ("cpu", "cpu: asked for")
    assert (same.device, same.device_reason) == ("cpu", "cpu: where the data lives")
    W = np.zeros((5, 2))
    got = gf.gradient.loss_gradient(X, y.astype(float), W, loss="log_loss", device="cpu")
    assert got[1].tobytes() == gf.gradient.loss_gradient(X, y.astype(float), W, loss="log_loss")[1].tobytes()


def test_device_is_saved(tmp_path: Any) -> None:
    run = gf.fit(*labels(40), folds=2, epochs=1, device="cpu")
    run.device, run.device_reason = "cuda", "cuda: asked for; a way"
    run.save(tmp_path / "run.npz")
    loaded = gf.load(tmp_path / "run.npz")
    assert (loaded.device, loaded.device_reason) == ("cuda", "cuda: asked for; a way")


def test_numba_stays_out_until_a_gpu_is_asked_for() -> None:
    code = (
        "import sys, numpy as np, gradfold as gf; gf.DeviceError; X = np.eye(6); "
        "gf.fit(X, [0, 1] * 3, folds=2, epochs=1, device='cpu'); "
        "gf.gradient.loss_gradient(X, X[0].copy(), X, loss='log_loss', device='cpu'); "
        "assert not [m for m in ('numba', 'torch', 'gradfold.cuda') if m in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- in the simulator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_arrays.py", "test_fit_device.py"])
def test_in_the_simulator(name: str) -> None:
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    simulator.run(name)


@pytest.mark.parametrize("cc", [(8, 0), (9, 0)], ids=str)
def test_kernels_compile(cc: tuple[int, int]) -> None:
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    from gradfold.cuda import arrays

    for kernel in arrays.kernels().values():
        assert ptx.check(kernel.ptx(cc)) == [], kernel.name


def test_what_kernels_do_not_reach() -> None:
    _device.check_shape(2**31 - 1, 2**28 - 1)
    with pytest.raises(ValueError, match=r"X: got 2147483648 rows with device='cuda', wanted fewer than 2\^31"):
        _device.check_shape(2**31, 1)
    with pytest.raises(ValueError, match=r"X: got 268435456 features with device='cuda', wanted fewer than 2\^28"):
        _device.check_shape(1, 2**28)
