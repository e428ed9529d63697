"""exp, log, log1p and cos for device code: the operations of csrc/simd/math-inl.h one by one, so the same bits.

Bounds and special values are stated there. NaN in gives the canonical quiet NaN out, unless a function says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gradfold.cuda import constants
from gradfold.cuda._driver import F32, F64, Arithmetic, Kernel, arithmetic, cuda, device


@dataclass(frozen=True)
class Maths:
    """The device functions of one float type. Closures take them out one by one: device code reads no attributes."""

    canonical: Any
    exp: Any
    exp_nonpositive: Any
    log: Any
    log1p: Any
    log1p_unit: Any
    cos: Any


NAMES = ("exp", "exp_nonpositive", "log", "log1p", "log1p_unit", "cos")


def of(dtype: Any) -> Maths:
    """The functions of float32 or float64."""
    return _maths(np.dtype(dtype).name)


@cache
def _maths(name: str) -> Maths:
    F = arithmetic(name)
    canonical = _canonical(F)
    exp, exp_nonpositive = _exponentials(F, canonical)
    log, log1p, log1p_unit = _logarithms(F, canonical)
    return Maths(canonical, exp, exp_nonpositive, log, log1p, log1p_unit, _cosine(F, canonical))


def _canonical(F: Arithmetic) -> Any:
    bits, value = F.bits, F.value
    nan = constants.of(F.dtype)["kNan"]

    @device
    def canonical(x):  # type: ignore[no-untyped-def]
        # As integers: compilers may take any NaN for as good as another.
        return value(bits(x) if x == x else nan)

    return canonical


# -- polynomials, from the highest power down --------------------------------------------------------------------------


def _exp_polynomial(F: Arithmetic, scale: Any) -> Any:
    """exp(r)·scale for |r| <= ln(2)/2; the scale is a power of two, so it scales every step exactly."""
    fma, C = F.fma, constants.of(F.dtype)
    c2, c3, c4, c5, c6 = (F.T(C[f"kExp{i}"] * scale) for i in range(2, 7))
    scale = F.T(scale)
    if F.is_float32:

        @device
        def exp_polynomial(r):  # type: ignore[no-untyped-def]
            p = fma(fma(fma(c6, r, c5), r, c4), r, c3)
            return fma(fma(fma(p, r, c2), r, scale), r, scale)

        return exp_polynomial
    c7, c8, c9, c10, c11 = (F.T(C[f"kExp{i}"] * scale) for i in range(7, 12))

    @device
    def exp_polynomial_64(r):  # type: ignore[no-untyped-def]
        p = fma(fma(fma(fma(c11, r, c10), r, c9), r, c8), r, c7)
        p = fma(fma(fma(fma(p, r, c6), r, c5), r, c4), r, c3)
        return fma(fma(fma(p, r, c2), r, scale), r, scale)

    return exp_polynomial_64


def _log_polynomial(F: Arithmetic) -> Any:
    """The factor of f^3 in log(1 + f)."""
    fma, C = F.fma, constants.of(F.dtype)
    c3, c4, c5, c6, c7, c8, c9, c10 = (C[f"kLog{i}"] for i in range(3, 11))
    if F.is_float32:

        @device
        def log_polynomial(f):  # type: ignore[no-untyped-def]
            p = fma(fma(fma(fma(c10, f, c9), f, c8), f, c7), f, c6)
            return fma(fma(fma(p, f, c5), f, c4), f, c3)

        return log_polynomial
    c11, c12, c13, c14, c15, c16, c17, c18, c19, c20, c21 = (C[f"kLog{i}"] for i in range(11, 22))

    @device
    def log_polynomial_64(f):  # type: ignore[no-untyped-def]
        p = fma(fma(fma(fma(c21, f, c20), f, c19), f, c18), f, c17)
        p = fma(fma(fma(fma(p, f, c16), f, c15), f, c14), f, c13)
        p = fma(fma(fma(fma(p, f, c12), f, c11), f, c10), f, c9)
        p = fma(fma(fma(fma(p, f, c8), f, c7), f, c6), f, c5)
        return fma(fma(p, f, c4), f, c3)

    return log_polynomial_64


def _circle_polynomials(F: Arithmetic) -> tuple[Any, Any]:
    """In u = r^2: the factor of r^3 in sin r, and that of r^2 in cos r."""
    fma, C = F.fma, constants.of(F.dtype)
    s3, s5, s7, c4, c6, c8 = (C[f"k{i}"] for i in ("Sin3", "Sin5", "Sin7", "Cos4", "Cos6", "Cos8"))
    minus_half = F.T(-0.5)
    if F.is_float32:

        @device
        def sin_polynomial(u):  # type: ignore[no-untyped-def]
            return fma(fma(s7, u, s5), u, s3)

        @device
        def cos_polynomial(u):  # type: ignore[no-untyped-def]
            return fma(fma(fma(c8, u, c6), u, c4), u, minus_half)

        return sin_polynomial, cos_polynomial
    s9, s11, s13, c10, c12, c14 = (C[f"k{i}"] for i in ("Sin9", "Sin11", "Sin13", "Cos10", "Cos12", "Cos14"))

    @device
    def sin_polynomial_64(u):  # type: ignore[no-untyped-def]
        return fma(fma(fma(fma(fma(s13, u, s11), u, s9), u, s7), u, s5), u, s3)

    @device
    def cos_polynomial_64(u):  # type: ignore[no-untyped-def]
        p = fma(fma(fma(c14, u, c12), u, c10), u, c8)
        return fma(fma(fma(p, u, c6), u, c4), u, minus_half)

    return sin_polynomial_64, cos_polynomial_64


# -- functions ---------------------------------------------------------------------------------------------------------


def _exponentials(F: Arithmetic, canonical: Any) -> tuple[Any, Any]:
    fma, sub, mul, bits, value, T, U = F.fma, F.sub, F.mul, F.bits, F.value, F.T, F.U
    C = constants.of(F.dtype)
    log2_e, ln2_hi, ln2_lo, low, high = (C[f"k{i}"] for i in ("Log2E", "Ln2Hi", "Ln2Lo", "ExpLow", "ExpHigh"))
    round_, round_nonpositive = C["kExpRound"], C["kExpRoundNonpositive"]
    plain = _exp_polynomial(F, T(1))
    scaled = _exp_polynomial(F, C["kExpScaleNonpositive"])
    significand, one = U(np.finfo(F.dtype).nmant), U(1)

    # exp(x) = 2^n exp(r), r = x - n ln(2), |r| <= ln(2)/2.
    @device
    def remainder(x, n):  # type: ignore[no-untyped-def]
        return fma(-n, ln2_lo, fma(-n, ln2_hi, x))

    @device
    def exp(x):  # type: ignore[no-untyped-def]
        """e^x."""
        inside = low if x < low else x
        inside = high if high < inside else inside
        t = fma(inside, log2_e, round_)
        rounded = bits(t)
        p = plain(remainder(inside, sub(t, round_)))
        # The low bits hold n + 2·bias: one half of it, rounded down, and the rest are the exponent fields of two powers
        # of two. The first product is exact, the second rounds once.
        half = U(rounded >> one)
        first = value(U(half << significand))
        second = value(U(U(rounded - half) << significand))
        return canonical(mul(mul(p, first), second))

    @device
    def exp_nonpositive(x):  # type: ignore[no-untyped-def]
        """e^x for x <= 0: the bits of exp(x). A NaN gives a NaN of any payload."""
        inside = low if x < low else x
        t = fma(inside, log2_e, round_nonpositive)
        p = scaled(remainder(inside, sub(t, round_nonpositive)))
        return mul(p, value(U(bits(t) << significand)))

    return exp, exp_nonpositive


def _logarithms(F: Arithmetic, canonical: Any) -> tuple[Any, Any, Any]:
    fma, add, sub, mul, bits, value, T, U = F.fma, F.add, F.sub, F.mul, F.bits, F.value, F.T, F.U
    C = constants.of(F.dtype)
    significand, field = U(np.finfo(F.dtype).nmant), U(2 ** np.finfo(F.dtype).nmant - 1)
    exponent_field = U(~field)
    zero, one, half, infinity = T(0), T(1), T(0.5), T(np.inf)
    minus_half, minus_one, minus_infinity = T(-0.5), T(-1), T(-np.inf)
    ln2_hi, ln2_lo, smallest_normal, log_scale = (C[f"k{i}"] for i in ("Ln2Hi", "Ln2Lo", "SmallestNormal", "LogScale"))
    plain_bias, scaled_bias = C["kExponentBias"], C["kExponentBiasScaled"]
    nan, sqrt_half = C["kNan"], C["kSqrtHalfBits"]
    one_bits, to_value = (U(x.view(U)) for x in (one, C["kExponentToValue"]))
    offset, twice_bias = U(one_bits - sqrt_half), U(int(one_bits) * 2 % 2 ** (8 * F.dtype.itemsize))
    huge = T(one / smallest_normal)
    root_two = T(T(2) * C["kSqrtHalf"])
    polynomial = _log_polynomial(F)

    # log(2^k (1+f)) for sqrt(1/2) - 1 <= f < sqrt(2) - 1 and an integer k.
    @device
    def reduced(f, k):  # type: ignore[no-untyped-def]
        tail = mul(mul(f, f), fma(f, polynomial(f), minus_half))
        return fma(k, ln2_hi, add(f, fma(k, ln2_lo, tail)))

    # A positive normal x is 2^k m with sqrt(1/2) <= m < sqrt(2); the exponent field of `biased` is k + bias.
    @device
    def biased_of(x):  # type: ignore[no-untyped-def]
        return U(bits(x) + offset)

    @device
    def mantissa(biased):  # type: ignore[no-untyped-def]
        return value(U(U(biased & field) + sqrt_half))

    @device
    def exponent(biased, bias):  # type: ignore[no-untyped-def]
        return sub(value(U(U(biased >> significand) | to_value)), bias)

    @device
    def log(x):  # type: ignore[no-untyped-def]
        """ln x."""
        tiny = x < smallest_normal
        normal = mul(x, log_scale) if tiny else x
        bias = scaled_bias if tiny else plain_bias
        biased = biased_of(normal)
        y = reduced(sub(mantissa(biased), one), exponent(biased, bias))
        y = y if x < infinity else infinity
        y = value(bits(y) if zero < x else nan)
        return minus_infinity if x == zero else y

    @device
    def log1p(x):  # type: ignore[no-untyped-def]
        """ln(1 + x)."""
        # u + lost is 1 + x exactly: the error of a sum after Knuth.
        u = add(one, x)
        part = sub(u, one)
        lost = add(sub(one, sub(u, part)), sub(x, part))
        biased = biased_of(u)
        k = exponent(biased, plain_bias)
        # f = (1 + x) 2^-k - 1 with one rounding. 2^-k is normal below `huge`; beyond, what was lost is of no account.
        shrink = value(U(twice_bias - U(biased & exponent_field)))
        f = sub(mantissa(biased), one)
        f = fma(lost, shrink, f) if x < huge else f
        y = reduced(f, k)
        y = y if x < infinity else infinity
        y = value(bits(y) if minus_one < x else nan)
        y = minus_infinity if x == minus_one else y
        return x if x == zero else y

    @device
    def log1p_unit(x):  # type: ignore[no-untyped-def]
        """ln(1 + x) for 0 <= x <= 1: the bits of log1p(x). A NaN gives a NaN of any payload; -0 gives +0."""
        doubled = root_two <= add(one, x)
        f = fma(x, half, minus_half) if doubled else x
        return reduced(f, one if doubled else zero)

    return log, log1p, log1p_unit


def _cosine(F: Arithmetic, canonical: Any) -> Any:
    fma, sub, mul, bits, value, T, U = F.fma, F.sub, F.mul, F.bits, F.value, F.T, F.U
    C = constants.of(F.dtype)
    two_over_pi, round_, limit, nan = (C[f"k{i}"] for i in ("TwoOverPi", "CosRound", "CosLimit", "Nan"))
    half_pi_hi, half_pi_mid, half_pi_lo = (C[f"kHalfPi{i}"] for i in ("Hi", "Mid", "Lo"))
    sin_polynomial, cos_polynomial = _circle_polynomials(F)
    one, bit, two_bit, top = T(1), U(1), U(2), U(8 * F.dtype.itemsize - 2)
    none = U(0)

    @device
    def cos(x):  # type: ignore[no-untyped-def]
        """cos x for |x| <= 2^16, x in radians; the canonical NaN beyond."""
        # x = n pi/2 + r, after W. J. Cody and W. Waite.
        t = fma(x, two_over_pi, round_)
        quadrant = bits(t)
        n = sub(t, round_)
        r = fma(-n, half_pi_hi, x)
        r = fma(-n, half_pi_mid, r)
        r = fma(-n, half_pi_lo, r)
        u = mul(r, r)
        s = fma(mul(u, r), sin_polynomial(u), r)
        c = fma(cos_polynomial(u), u, one)
        # Bit 0 of n picks the function, bit 1 of n + 1 the sign: cos(r + n pi/2) is cos r, -sin r, -cos r, sin r.
        sign = U(U(U(quadrant + bit) & two_bit) << top)
        y = U(bits(c if U(quadrant & bit) == none else s) ^ sign)
        return value(y if abs(x) <= limit else nan)

    return cos


# -- kernels: each function over an array, for self-checks -------------------------------------------------------------

THREADS = 256


def _apply_kernel(name: str, F: Arithmetic) -> Kernel:
    function = getattr(of(F.dtype), name)

    def apply(x, out):  # type: ignore[no-untyped-def]
        i = np.uint64(cuda.blockIdx.x) * np.uint64(THREADS) + np.uint64(cuda.threadIdx.x)
        if i < np.uint64(x.size):
            out[i] = function(x[i])

    apply.__name__ = apply.__qualname__ = f"{name}_{F.dtype.name}"
    return Kernel(apply, (F.type[::1], F.type[::1]), THREADS)


_KERNELS = {(name, F.dtype): _apply_kernel(name, F) for F in (F32, F64) for name in NAMES}
KERNELS = list(_KERNELS.values())


def apply(name: str, x: Any, out: Any, *, stream: Any = 0) -> None:
    """out[i] = f(x[i]) on the device.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    x, out : device arrays
        Of one length and one type, float32 or float64.
    stream : optional
        The stream to launch on.
    """
    if name not in NAMES:
        raise ValueError(f"name: got {name!r}, wanted one of {', '.join(NAMES)}")
    if (x.shape, x.dtype) != (out.shape, out.dtype):
        raise ValueError(f"out: got {out.dtype} of shape {out.shape}, wanted x's {x.dtype} and {x.shape}")
    if x.size:
        _KERNELS[name, np.dtype(x.dtype)](-(-x.size // THREADS), stream, x, out)
