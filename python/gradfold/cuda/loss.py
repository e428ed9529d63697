"""The point-wise losses for device code: the operations of csrc/loss/<name>-inl.h one by one, so the same bits.

A loss here is two device functions of (z, y, epsilon), its value and its gradient. What they share, such as an
exponential, the compiler computes once. The formulas stand in those headers; a z that is NaN gives NaN for both, of any
payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gradfold.cuda import maths
from gradfold.cuda._driver import F32, F64, Arithmetic, Kernel, arithmetic, cuda, device, int32

# In the order of csrc/loss/losses.h, so that an index is the code of that enumeration.
NAMES = (
    "squared_error",
    "log_loss",
    "hinge",
    "squared_hinge",
    "modified_huber",
    "perceptron",
    "huber",
    "epsilon_insensitive",
    "squared_epsilon_insensitive",
)
CODES = {name: code for code, name in enumerate(NAMES)}


@dataclass(frozen=True)
class Losses:
    """Device functions of one float type, over all losses: ``loss_code`` is an index of `NAMES`, the same for a warp.

    ``evaluate(loss_code, z, y, epsilon)`` gives (loss, gradient); ``gradient`` of the same arguments only the latter,
    with the same bits.
    """

    evaluate: Any
    gradient: Any


def of(dtype: Any) -> Losses:
    """The functions of float32 or float64."""
    return _losses(np.dtype(dtype).name)


@cache
def _losses(name: str) -> Losses:
    F = arithmetic(name)
    log_loss, log_gradient = _log_loss(F)
    error_loss, error_gradient = _squared_error(F)
    hinge_loss, hinge_gradient, perceptron_loss, perceptron_gradient = _hinges(F)
    squared_hinge_loss, squared_hinge_gradient, modified_loss, modified_gradient = _squared_hinges(F)
    huber_loss, huber_gradient = _huber(F)
    zone_loss, zone_gradient, squared_zone_loss, squared_zone_gradient = _insensitive(F)

    # log_loss first: the common case.
    @device
    def gradient(code, z, y, epsilon):  # type: ignore[no-untyped-def]
        if code == 1:
            return log_gradient(z, y, epsilon)
        if code == 0:
            return error_gradient(z, y, epsilon)
        if code == 2:
            return hinge_gradient(z, y, epsilon)
        if code == 3:
            return squared_hinge_gradient(z, y, epsilon)
        if code == 4:
            return modified_gradient(z, y, epsilon)
        if code == 5:
            return perceptron_gradient(z, y, epsilon)
        if code == 6:
            return huber_gradient(z, y, epsilon)
        if code == 7:
            return zone_gradient(z, y, epsilon)
        return squared_zone_gradient(z, y, epsilon)

    @device
    def evaluate(code, z, y, epsilon):  # type: ignore[no-untyped-def]
        if code == 1:
            return log_loss(z, y, epsilon), log_gradient(z, y, epsilon)
        if code == 0:
            return error_loss(z, y, epsilon), error_gradient(z, y, epsilon)
        if code == 2:
            return hinge_loss(z, y, epsilon), hinge_gradient(z, y, epsilon)
        if code == 3:
            return squared_hinge_loss(z, y, epsilon), squared_hinge_gradient(z, y, epsilon)
        if code == 4:
            return modified_loss(z, y, epsilon), modified_gradient(z, y, epsilon)
        if code == 5:
            return perceptron_loss(z, y, epsilon), perceptron_gradient(z, y, epsilon)
        if code == 6:
            return huber_loss(z, y, epsilon), huber_gradient(z, y, epsilon)
        if code == 7:
            return zone_loss(z, y, epsilon), zone_gradient(z, y, epsilon)
        return squared_zone_loss(z, y, epsilon), squared_zone_gradient(z, y, epsilon)

    return Losses(evaluate, gradient)


def _unit_quotient(F: Arithmetic) -> Any:
    """``quotient(inverse, e)`` for 0 <= e <= 1 or NaN: 1 / (1 + e) where `inverse`, else e / (1 + e), correctly rounded.

    In float32 without the hardware's division, whose branch for rare operands keeps several quotients from being computed
    side by side: a reciprocal by a quadratic and two of Newton's steps, a product, and a correction by the exact remainder
    (P. Markstein, "Computation of elementary functions on the IBM RISC System/6000 processor", 1990). His one exception, a
    divisor of nothing but ones, needs the reciprocal rounded up in the correction. scripts/check_unit_quotient.cpp compares
    it with the division for every float32 e from 0 to 1.
    """
    add, mul, fma, div, T = F.add, F.mul, F.fma, F.div, F.T
    one = T(1)
    # 1/d on [1, 2] with the relative error (4 x^3 - 3 x) / 99, x = 2 d - 3: Chebyshev's.
    c0, c1, c2 = (T(float.fromhex(c)) for c in ("0x1.0f83e0p+1", "-0x1.745d18p+0", "0x1.4afd6ap-2"))
    ulp = T(2.0**-23)

    @device
    def newton(inverse, e):  # type: ignore[no-untyped-def]
        d = add(one, e)
        r = fma(fma(c2, d, c1), d, c0)
        r = fma(fma(-d, r, one), r, r)
        r = fma(fma(-d, r, one), r, r)
        numerator = one if inverse else e
        q = mul(numerator, r)
        return fma(fma(-q, d, numerator), fma(r, ulp, r) if inverse else r, q)

    @device
    def divided(inverse, e):  # type: ignore[no-untyped-def]
        return div(one if inverse else e, add(one, e))

    return newton if F.is_float32 else divided


def _log_loss(F: Arithmetic) -> tuple[Any, Any]:
    add, T = F.add, F.T
    quotient = _unit_quotient(F)
    functions = maths.of(F.dtype)
    exp_nonpositive, log1p_unit = functions.exp_nonpositive, functions.log1p_unit
    zero = T(0)

    @device
    def loss(z, y, epsilon):  # type: ignore[no-untyped-def]
        t = -z if zero < y else z
        return add(t if zero < t else zero, log1p_unit(exp_nonpositive(-abs(z))))

    @device
    def gradient(z, y, epsilon):  # type: ignore[no-untyped-def]
        positive = zero < y
        t = -z if positive else z
        e = exp_nonpositive(-abs(z))
        probability = quotient(zero < t, e)
        return -probability if positive else probability

    return loss, gradient


def _squared_error(F: Arithmetic) -> tuple[Any, Any]:
    sub, mul, half = F.sub, F.mul, F.T(0.5)

    @device
    def loss(z, y, epsilon):  # type: ignore[no-untyped-def]
        d = sub(z, y)
        return mul(half, mul(d, d))

    @device
    def gradient(z, y, epsilon):  # type: ignore[no-untyped-def]
        return sub(z, y)

    return loss, gradient


def _hinges(F: Arithmetic) -> tuple[Any, Any, Any, Any]:
    """hinge and perceptron."""
    sub, T = F.sub, F.T
    zero, one, minus_one = T(0), T(1), T(-1)

    @device
    def hinge(z, y, epsilon):  # type: ignore[no-untyped-def]
        margin = z if zero < y else -z
        return zero if one < margin else sub(one, margin)

    @device
    def hinge_gradient(z, y, epsilon):  # type: ignore[no-untyped-def]
        positive = zero < y
        margin = z if positive else -z
        slope = minus_one if positive else one
        slope = slope if z == z else z
        return zero if one < margin else slope

    @device
    def perceptron(z, y, epsilon):  # type: ignore[no-untyped-def]
        margin = z if zero < y else -z
        return zero if zero < margin else sub(zero, margin)

    @device
    def perceptron_gradient(z, y, epsilon):  # type: ignore[no-untyped-def]
        positive = zero < y
        margin = z if positive else -z
        slope = minus_one if positive else one
        slope = slope if z == z else z
        return zero if zero < margin else slope

    return hinge, hinge_gradient, perceptron, perceptron_gradient


def _squared_hinges(F: Arithmetic) -> tuple[Any, Any, Any, Any]:
    """squared_hinge and modified_huber."""
    add, sub, mul, T = F.add, F.sub, F.mul, F.T
    zero, one, minus_one, four = T(0), T(1), T(-1), T(4)

    @device
    def squared_hinge(z, y, epsilon):  # type: ignore[no-untyped-def]
        d = sub(one, z if zero < y else -z)
        return zero if d <= zero else mul(d, d)

    @device
    def squared_hinge_gradient(z, y, epsilon):  # type: ignore[no-untyped-def]
        positive = zero < y
        d = sub(one, z if positive else -z)
        twice = add(d, d)
        slope = -twice if positive else twice
        return zero if d <= zero else slope

    @device
    def modified_huber(z, y, epsilon):  # type: ignore[no-untyped-def]
        t = z if zero < y else -z
        d = sub(one, t)
        value = -mul(four, t) if t < minus_one else mul(d, d)
        return zero if one <= t else value

    @device
    def modified_huber_gradient(z, y, epsilon):  # type: ignore[no-untyped-def]
        positive = zero < y
        t = z if positive else -z
        d = sub(one, t)
        slope = four if t < minus_one else add(d, d)
        slope = -slope if positive else slope
        return zero if one <= t else slope

    return squared_hinge, squared_hinge_gradient, modified_huber, modified_huber_gradient


def _huber(F: Arithmetic) -> tuple[Any, Any]:
    sub, mul, T = F.sub, F.mul, F.T
    zero, half = T(0), T(0.5)

    @device
    def loss(z, y, epsilon):  # type: ignore[no-untyped-def]
        r = sub(z, y)
        size = abs(r)
        straight = sub(mul(epsilon, size), mul(half, mul(epsilon, epsilon)))
        return straight if epsilon < size else mul(half, mul(r, r))

    @device
    def gradient(z, y, epsilon):  # type: ignore[no-untyped-def]
        r = sub(z, y)
        slope = -epsilon if r < zero else epsilon
        return slope if epsilon < abs(r) else r

    return loss, gradient


def _insensitive(F: Arithmetic) -> tuple[Any, Any, Any, Any]:
    """epsilon_insensitive and squared_epsilon_insensitive."""
    add, sub, mul, T = F.add, F.sub, F.mul, F.T
    zero, one, minus_one = T(0), T(1), T(-1)

    @device
    def plain(z, y, epsilon):  # type: ignore[no-untyped-def]
        size = abs(sub(z, y))
        return zero if size <= epsilon else sub(size, epsilon)

    @device
    def plain_gradient(z, y, epsilon):  # type: ignore[no-untyped-def]
        r = sub(z, y)
        slope = minus_one if r < zero else one
        slope = slope if r == r else r
        return zero if abs(r) <= epsilon else slope

    @device
    def squared(z, y, epsilon):  # type: ignore[no-untyped-def]
        d = sub(abs(sub(z, y)), epsilon)
        return zero if d <= zero else mul(d, d)

    @device
    def squared_gradient(z, y, epsilon):  # type: ignore[no-untyped-def]
        r = sub(z, y)
        d = sub(abs(r), epsilon)
        twice = add(d, d)
        slope = -twice if r < zero else twice
        return zero if d <= zero else slope

    return plain, plain_gradient, squared, squared_gradient


# -- kernels: a loss over arrays, for self-checks ----------------------------------------------------------------------

THREADS = 256


def _evaluate_kernel(F: Arithmetic) -> Kernel:
    function = of(F.dtype).evaluate

    def evaluate(code, z, y, epsilon, loss_out, gradient_out):  # type: ignore[no-untyped-def]
        i = np.uint64(cuda.blockIdx.x) * np.uint64(THREADS) + np.uint64(cuda.threadIdx.x)
        if i < np.uint64(z.size):
            value, slope = function(code, z[i], y[i], epsilon)
            loss_out[i] = value
            gradient_out[i] = slope

    evaluate.__name__ = evaluate.__qualname__ = f"evaluate_{F.dtype.name}"
    vector = F.type[::1]
    return Kernel(evaluate, (int32, vector, vector, F.type, vector, vector), THREADS)


def _gradient_kernel(F: Arithmetic) -> Kernel:
    function = of(F.dtype).gradient

    def gradient(code, z, y, epsilon, gradient_out):  # type: ignore[no-untyped-def]
        i = np.uint64(cuda.blockIdx.x) * np.uint64(THREADS) + np.uint64(cuda.threadIdx.x)
        if i < np.uint64(z.size):
            gradient_out[i] = function(code, z[i], y[i], epsilon)

    gradient.__name__ = gradient.__qualname__ = f"gradient_{F.dtype.name}"
    vector = F.type[::1]
    return Kernel(gradient, (int32, vector, vector, F.type, vector), THREADS)


_EVALUATE = {F.dtype: _evaluate_kernel(F) for F in (F32, F64)}
_GRADIENT = {F.dtype: _gradient_kernel(F) for F in (F32, F64)}
KERNELS = [*_EVALUATE.values(), *_GRADIENT.values()]


def apply(name: str, z: Any, y: Any, epsilon: float, loss_out: Any, gradient_out: Any, *, stream: Any = 0) -> None:
    """Loss and gradient of each raw prediction, on the device.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    z, y : device arrays
        Raw predictions and targets, of one length and one type, float32 or float64.
    epsilon : float
        Rounded to that type; losses without one do not read it.
    loss_out : device array or None
        None: the function that computes only the gradient.
    gradient_out : device array
    stream : optional
        The stream to launch on.
    """
    if name not in CODES:
        raise ValueError(f"name: got {name!r}, wanted one of {', '.join(NAMES)}")
    for argument, array in (("y", y), ("loss_out", loss_out), ("gradient_out", gradient_out)):
        if array is not None and (array.shape, array.dtype) != (z.shape, z.dtype):
            raise ValueError(
                f"{argument}: got {array.dtype} of shape {array.shape}, wanted z's {z.dtype} and {z.shape}"
            )
    dtype = np.dtype(z.dtype)
    code, blocks = np.int32(CODES[name]), -(-z.size // THREADS)
    if z.size == 0:
        return
    if loss_out is None:
        _GRADIENT[dtype](blocks, stream, code, z, y, dtype.type(epsilon), gradient_out)
    else:
        _EVALUATE[dtype](blocks, stream, code, z, y, dtype.type(epsilon), loss_out, gradient_out)
