"""The losses as Python objects, against the reference and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

import gradfold as gf
from reference import loss as reference

DTYPES = [np.float32, np.float64]


def close(dtype):
    return {"rtol": 1e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-14}


def test_every_kernel_has_its_object():
    assert sorted(gf.loss.NAMES) == sorted([*reference.NAMES, "multinomial"])
    assert sorted(gf.loss.BINARY) == sorted(reference.BINARY)
    assert sorted(gf.loss.REGRESSION) == sorted(reference.REGRESSION)
    assert sorted(gf.loss.WITH_EPSILON) == sorted(reference.WITH_EPSILON)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", reference.NAMES)
def test_of_one_output(name, dtype):
    rng = np.random.default_rng(1)
    kinks = [-1, -0.25, 0, 0.25, 1] if name not in reference.SMOOTH else []
    z = np.concatenate([3 * rng.standard_normal(300), kinks]).astype(dtype)
    w = rng.random(len(z)).astype(dtype)
    loss = gf.loss.get(name, epsilon=0.25)
    for y in ((rng.random(len(z)) < 0.5).astype(dtype), np.sign(z - 0.5).astype(dtype)):
        value, slope = reference.value(name, y, z, 0.25), reference.gradient(name, y, z, 0.25)
        np.testing.assert_allclose(loss.loss(y, z), value, **close(dtype))
        np.testing.assert_allclose(loss.gradient(y, z), slope, **close(dtype))
        np.testing.assert_allclose(loss.gradient(y, z, w), w * slope, **close(dtype))
        np.testing.assert_allclose(loss(y, z, w), np.average(value, weights=w), rtol=1e-5 if dtype == np.float32 else 1e-12)
        both = loss.loss_gradient(y, z, w)
        assert both[0].dtype == both[1].dtype == dtype
        gradient, hessian = loss.gradient_hessian(y, z)
        assert (hessian >= 0).all() and gradient.tobytes() == loss.gradient(y, z).tobytes()


@pytest.mark.parametrize("name", reference.NAMES)
def test_the_second_derivative_is_the_slope_of_the_first(name):
    rng = np.random.default_rng(2)
    z, y, h = 2 * rng.standard_normal(500), (rng.random(500) < 0.5) * 1.0, 1e-6
    loss = gf.loss.get(name)
    slope = (loss.gradient(y, z + h) - loss.gradient(y, z - h)) / (2 * h)
    np.testing.assert_allclose(loss.gradient_hessian(y, z)[1], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", reference.NAMES)
def test_nan_stays(name):
    loss = gf.loss.get(name)
    for label in (0.0, 1.0):
        value, slope = loss.loss_gradient(np.array([label]), np.array([np.nan]))
        assert np.isnan(value).all() and np.isnan(slope).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_multinomial_is_scikit_learns(dtype):
    module = pytest.importorskip("sklearn._loss.loss")
    rng = np.random.default_rng(3)
    z = (5 * rng.standard_normal((300, 4))).astype(dtype)
    y, w = rng.integers(0, 4, 300).astype(dtype), rng.random(300).astype(dtype)
    mine, theirs = gf.loss.get("multinomial"), module.HalfMultinomialLoss(n_classes=4)
    for weight in (None, w):
        np.testing.assert_allclose(mine.loss(y, z, weight), theirs.loss(y, z, weight), **close(dtype))
        np.testing.assert_allclose(mine.gradient(y, z, weight), theirs.gradient(y, z, weight), **close(dtype))
        for a, b in zip(mine.gradient_hessian(y, z, weight), theirs.gradient_hessian(y, z, weight), strict=True):
            np.testing.assert_allclose(a, b, **close(dtype))
        np.testing.assert_allclose(mine(y, z, weight), theirs(y, z, weight), rtol=1e-5 if dtype == np.float32 else 1e-12)
    np.testing.assert_allclose(mine.predict_proba(z), theirs.predict_proba(z), **close(dtype))
    assert mine.loss(y, z).dtype == mine.gradient(y, z).dtype == mine.predict_proba(z).dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_multinomial_of_rows_that_are_nearly_certain(dtype):
    """Losses of 1e-17 are as exact as those of 17, and so is the metric's."""
    rng = np.random.default_rng(2)
    z = np.round(rng.uniform(-20, 20, (60, 4)) * 16) / 16  # exact in float32
    z[:4] = 40 * np.eye(4) - 20
    z[4:8, 1] = z[4:8, 0] = 20
    y = np.arange(60) % 4
    value, slope = reference.multinomial(y, z)
    loss, rtol = gf.loss.get("multinomial"), 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(loss.loss(y.astype(dtype), z.astype(dtype)), value, rtol=rtol)
    np.testing.assert_allclose(loss.gradient(y.astype(dtype), z.astype(dtype)), slope, rtol=rtol)
    p = reference.softmax(z)
    far = p < 0.5  # where 1 - p does not cancel in the reference
    np.testing.assert_allclose(loss.gradient_hessian(y.astype(dtype), z.astype(dtype))[1][far], (p * (1 - p))[far], rtol=rtol)
    for i in (0, 3, 4, 20):
        one = gf.metrics.evaluate("log_loss", y, z.astype(dtype)[:, :, None], loss="multinomial", sample_weight=np.eye(60)[i])
        np.testing.assert_allclose(one, value[i], rtol=1e-13)
    assert value.min() < 1e-16


def test_multinomial_far_out_and_of_no_code():
    loss = gf.loss.get("multinomial")
    z = np.array([[1e4, 0.0, -1e4]] * 3)
    np.testing.assert_array_equal(loss.loss(np.arange(3.0), z), [0, 1e4, 2e4])
    np.testing.assert_array_equal(loss.gradient(np.arange(3.0), z), [[0, 0, 0], [1, -1, 0], [1, 0, -1]])
    for code in (-1, 3, 0.5, np.nan):
        value, slope = loss.loss_gradient(np.array([code]), z[:1])
        assert np.isnan(value).all() and np.isnan(slope).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gf.loss.get("hing"), ValueError, "did you mean 'hinge'"),
        (lambda: gf.loss.get("huber", epsilon=0), ValueError, "epsilon: got 0, wanted a finite number above 0"),
        (lambda: gf.loss.get("epsilon_insensitive", epsilon=-1), ValueError, "epsilon: got -1"),
        (lambda: gf.loss.get("huber", epsilon="a"), TypeError, "epsilon: got"),
        (lambda: gf.loss.get("multinomial").loss(np.zeros(3), np.zeros(3)), ValueError, r"raw_prediction: got shape \(3,\)"),
        (lambda: gf.loss.get("multinomial").loss(np.zeros(3), np.zeros((3, 1))), ValueError, "two classes"),
        (lambda: gf.loss.get("multinomial").loss(np.zeros(2), np.zeros((3, 2))), ValueError, "y_true: got shape"),
    ],
)
def test_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()
