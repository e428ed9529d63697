"""The device functions of gradfold.cuda.loss in the simulator, against the C++ kernels."""

from __future__ import annotations

import numpy as np
import pytest

import gradfold as gf
from gradfold.cuda import loss
from gradfold.cuda._driver import cuda

DTYPES = [np.float32, np.float64]


def canonical(x):
    """One NaN, and one zero: the C++ kernels below add their result to +0."""
    return np.where(x == x, x, x.dtype.type(np.nan)) + x.dtype.type(0)


def core(name, z, y, epsilon):
    """Loss and gradient of each z against one y: one row whose only feature is 1, and a model for each z."""
    X, target, W = np.ones((1, 1), z.dtype), np.array([y], z.dtype), np.ascontiguousarray(z[None])
    value, slope, _ = gf.gradient.loss_gradient(
        X, target, W, loss=name, reduction="sum", loss_epsilon=epsilon, n_threads=1
    )
    return value, slope[0]


def raw(dtype, seed):
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    edges = [
        0,
        0.25,
        0.5,
        0.75,
        1,
        1.25,
        2,
        4,
        88,
        104,
        745,
        1e4,
        1e30,
        info.max,
        info.tiny,
        info.smallest_subnormal,
        np.inf,
    ]
    edges += [np.nextafter(dtype(1), dtype(0)), np.nextafter(dtype(1), dtype(2)), np.nan]
    edges = np.array(edges, dtype)
    wide = rng.standard_normal(60) * np.exp2(rng.uniform(-30, 8, 60))
    return np.concatenate([edges, -edges, 3 * rng.standard_normal(120), wide]).astype(dtype)


def targets(name, dtype):
    if name in gf.loss.BINARY:
        return [0.0, 1.0, -1.0]
    return [
        0.0,
        -0.0,
        1.0,
        -0.7,
        1e-3,
        12345.678,
        float(np.finfo(dtype).max),
        float(np.finfo(dtype).smallest_subnormal),
    ]


def equal(got, want, what):
    got, want = canonical(got), canonical(want)
    assert got.dtype == want.dtype and got.tobytes() == want.tobytes(), what


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", loss.NAMES)
def test_function(name, dtype):
    functions, code = loss.of(dtype), np.int32(loss.CODES[name])
    epsilons = (0.1, 0.25, 3.0) if name in gf.loss.WITH_EPSILON else (0.1,)
    for k, y in enumerate(targets(name, dtype)):
        z = raw(dtype, 10 * k + code)
        for epsilon in epsilons:
            wanted_loss, wanted_gradient = core(name, z, y, epsilon)
            both = [functions.evaluate(code, v, dtype(y), dtype(epsilon)) for v in z]
            alone = np.array([functions.gradient(code, v, dtype(y), dtype(epsilon)) for v in z], dtype)
            value, slope = (np.array(part, dtype) for part in zip(*both))
            what = f"{name}, y = {y}, epsilon = {epsilon}"
            equal(value.astype(np.float64), wanted_loss, what)
            equal(slope, wanted_gradient, what)
            assert alone.tobytes() == slope.tobytes(), what


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", loss.NAMES)
def test_kernels(name, dtype):
    z = raw(dtype, 7)[:140]
    y = 1.0
    wanted_loss, wanted_gradient = core(name, z, y, 0.25)
    z_there, y_there = cuda.to_device(z), cuda.to_device(np.full_like(z, y))
    value, slope, alone = (cuda.to_device(np.zeros_like(z)) for _ in range(3))
    loss.apply(name, z_there, y_there, 0.25, value, slope)
    loss.apply(name, z_there, y_there, 0.25, None, alone)
    equal(value.copy_to_host().astype(np.float64), wanted_loss, name)
    equal(slope.copy_to_host(), wanted_gradient, name)
    equal(alone.copy_to_host(), wanted_gradient, name)


def test_wrong_arguments():
    z = cuda.to_device(np.ones(3))
    with pytest.raises(ValueError, match="name"):
        loss.apply("multinomial", z, z, 0.1, None, z)
    with pytest.raises(ValueError, match="gradient_out"):
        loss.apply("hinge", z, z, 0.1, None, cuda.to_device(np.ones(4)))
