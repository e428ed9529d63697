"""The device functions of gradfold.cuda.maths, operation by operation in the simulator, against the C++ core."""

from __future__ import annotations

import numpy as np
import pytest

import test_simd
from gradfold import _core
from gradfold.cuda import maths
from gradfold.cuda._driver import SIMULATED, cuda

DTYPES = [np.float32, np.float64]


def test_this_is_the_simulator():
    assert SIMULATED


def bits(x):
    return x.view(np.uint32 if x.dtype == np.float32 else np.uint64)


def inputs(name, dtype):
    """The domain of the function: the region where it matters, bit patterns of every kind, and the edges."""
    rng = np.random.default_rng(sum(map(ord, name)) + np.dtype(dtype).itemsize)
    reach = 110 if dtype == np.float32 else 760
    low, high = {
        "exp": (-reach, reach), "exp_nonpositive": (-reach, 0), "log": (0, 10), "log1p": (-1, 5), "log1p_unit": (0, 1),
        "cos": (-200, 200),
    }[name]  # fmt: skip
    near = rng.uniform(low, high, 4000).astype(dtype)
    small = (rng.standard_normal(1000) * np.exp2(rng.uniform(-40, 0, 1000))).astype(dtype)
    x = np.concatenate([near, small, test_simd.any_bits(dtype, 3000, 3), test_simd.specials(dtype)])
    if name == "exp_nonpositive":
        return x[~(x > 0)]
    if name == "log1p_unit":
        return x[((x >= 0) & (x <= 1)) | (x != x)]
    return x


def core(name, x):
    out = np.empty_like(x)
    _core.simd.apply(name, x, out)
    return out


def canonical(x):
    return np.where(x == x, x, x.dtype.type(np.nan))


def equal(name, x, got, want):
    """The same bits; for the narrowed functions any NaN is as good as another."""
    if name in test_simd.NARROWED:
        got, want = canonical(got), canonical(want)
    off = np.flatnonzero(bits(got) != bits(want))
    assert off.size == 0, (
        f"{off.size} of {x.size} differ, first {name}({x[off[0]]!r}): {got[off[0]]!r}, wanted {want[off[0]]!r}"
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", maths.NAMES)
def test_function(name, dtype):
    x = np.ascontiguousarray(inputs(name, dtype))
    function = getattr(maths.of(dtype), name)
    got = np.array([function(v) for v in x], dtype=dtype)
    equal(name, x, got, core(name, x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_canonical(dtype):
    x = test_simd.specials(dtype)
    got = np.array([maths.of(dtype).canonical(v) for v in x], dtype=dtype)
    nan = bits(x).dtype.type(test_simd.CANONICAL_NAN[dtype])
    np.testing.assert_array_equal(bits(got), np.where(x == x, bits(x), nan))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", maths.NAMES)
def test_kernel(name, dtype):
    x = np.ascontiguousarray(inputs(name, dtype)[-300:])  # two blocks, the second one not full
    out = cuda.to_device(np.empty_like(x))
    maths.apply(name, cuda.to_device(x), out)
    equal(name, x, out.copy_to_host(), core(name, x))


def test_wrong_arguments():
    x = cuda.to_device(np.ones(3))
    with pytest.raises(ValueError, match="name"):
        maths.apply("tan", x, x)
    with pytest.raises(ValueError, match="out"):
        maths.apply("exp", x, cuda.to_device(np.ones(4)))
