"""The self-check's side of the device, and the roofline's kernels, in the simulator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gradfold as gf
from gradfold.cuda import _check_bits, _check_cases, _check_speed, arrays, roofline
from gradfold.cuda._driver import arithmetic, cuda

_SMALL = {"n": 20, "p": 3, "m": 5}
_GRADIENT = {**_check_cases._PLAIN_GRADIENT, **_SMALL, "weights": "zeros"}
_TRAINING = {**_check_cases._PLAIN_TRAINING, **_SMALL, "batch_size": 7, "epochs": 1}


@pytest.mark.parametrize(
    "case",
    [
        {"kind": "permutation", "n": 50, "seed": 1, "epoch": 0, "stream": 0},
        {"kind": "permutation", "n": 1500, "seed": 1, "epoch": 2, "stream": 1},
        {"kind": "loss", "name": "huber", "dtype": "float32", "seed": 0, "count": 40},
        _GRADIENT,
        {**_GRADIENT, "kind": "interop", "library": "gradfold"},
        {**_TRAINING, "path": "persistent", "track": True},
        {**_TRAINING, "path": "tiled", "kind": "resume", "steps": 1},
        {**_check_cases._optima(1)[1], "n": 12, "p": 2},
    ],
    ids=lambda case: case["kind"],
)
def test_a_case_of_the_self_check(case: dict[str, Any]) -> None:
    assert _check_bits.outcome(case, _check_bits.Cuda())["status"] == "same"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_chains_are_as_many_fmas_as_they_count_for(dtype: str) -> None:
    A, n = arithmetic(dtype), 2 * roofline.THREADS
    a, b, iterations = A.T(0.999), A.T(0.001), 2
    out = cuda.device_array(n, dtype)
    roofline.fma_kernel(dtype)(2, 0, out, a, b, np.int32(iterations))
    for at, found in enumerate(out.copy_to_host()):
        chains = [A.T(at)] + [A.T(at + k) for k in range(1, 8)]
        chains += [A.add(A.add(A.T(at), b), A.T(k)) for k in range(8)]
        assert len(chains) == roofline.CHAINS
        for _ in range(iterations * roofline.UNROLLED):
            chains = [A.fma(c, a, b) for c in chains]
        while len(chains) > 1:
            chains = [A.add(one, other) for one, other in zip(chains[::2], chains[1::2], strict=True)]
        assert found == chains[0]


def test_bandwidth_kernels_touch_every_word() -> None:
    blocks = 2
    step = blocks * roofline.THREADS * 8
    words = np.random.default_rng(0).integers(0, 2**63, 3 * step)
    data, copied = cuda.to_device(words), cuda.to_device(np.zeros_like(words))
    out = cuda.device_array(blocks * roofline.THREADS, np.int64)
    roofline.READ(blocks, 0, data, out)
    roofline.COPY(blocks, 0, data, copied)
    assert np.bitwise_xor.reduce(out.copy_to_host()) == np.bitwise_xor.reduce(words)
    np.testing.assert_array_equal(copied.copy_to_host(), words)


def test_kernels_alone_are_behind_a_busy_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Event:
        def record(self) -> None:
            seen.append("event")

        def synchronize(self) -> None:
            seen.append("wait")

        def elapsed_time(self, end: Any) -> float:
            return 2.0

    monkeypatch.setattr(roofline, "cuda", SimpleNamespace(event=Event))
    monkeypatch.setattr(roofline, "_keep_busy", lambda: seen.append("busy"))
    assert roofline.seconds(lambda: seen.append("body"), 2, queued=True) == 2e-3
    assert seen == ["body", *2 * ["busy", "event", "body", "event", "wait"]]
    seen.clear()
    roofline.seconds(lambda: seen.append("body"), 1)
    assert seen == ["body", "event", "body", "event", "wait"]


def test_the_call_and_its_kernels_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call allocates its results and is waited for; kernels get outputs, and are measured behind a busy device."""
    calls: list[Any] = []

    def seconds(body: Any, repeats: int, queued: bool = False) -> float:
        calls.clear()
        body()
        assert [call is not None for call in calls] == [queued]
        return 0.5 if queued else 1.0

    def timed(body: Any, wait: Any) -> dict[str, float]:
        calls.clear()
        body()
        assert calls == [None]
        return {"seconds": 2.0}

    def gradient(X: Any, y: Any, W: Any, intercept: Any, *, return_loss: bool, out: Any = None, **_: Any) -> None:
        calls.append(out)
        if out is not None:
            forms = [None if a is None else (a.shape, a.dtype.name) for a in out]
            n_models = W.shape[1]
            assert forms == [((n_models,), "float64") if return_loss else None, (W.shape, "float32"), ((n_models,), "float32")]
            assert all(a is None or isinstance(a, arrays.DeviceArray) for a in out)

    monkeypatch.setattr(gf.gradient, "loss_gradient", gradient)
    monkeypatch.setattr(roofline, "seconds", seconds)
    monkeypatch.setattr(_check_speed, "timed", timed)
    monkeypatch.setattr(_check_speed, "N_ROWS", 64)
    found: list[dict[str, Any]] = []
    _check_speed._gradients(found.append, True)
    assert len(found) == 3
    for one in found:
        flops = 4 * 64 * _check_speed.N_FEATURES * one["models"]
        assert (one["seconds"], one["device_seconds"], one["kernel_seconds"]) == (2.0, 1.0, 0.5)
        assert (one["tflops"], one["kernel_tflops"]) == (flops / 2e12, flops / 0.5e12)
