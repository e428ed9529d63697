"""The self-check's side of the device, and the roofline's kernels, in the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradfold.cuda import _check_bits, _check_cases, roofline
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
