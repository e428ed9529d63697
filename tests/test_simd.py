"""The kernels' exp, log, log1p and cos: error bounds, special values, the same bits on every level.

Errors are in units in the last place of the exact result (of the smallest normal number, where
the result is subnormal). float32 is held to NumPy's float64 functions, float64 to mpmath.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradfold import _core

Array = npt.NDArray[Any]
ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = ("exp", "exp_nonpositive", "log", "log1p", "log1p_unit", "cos")
# Same bits as the general function on part of its domain; NaN passes through with an unspecified
# payload.
NARROWED = {"exp_nonpositive": "exp", "log1p_unit": "log1p"}
# The bounds that csrc/simd/math-inl.h states; the measured maxima are printed (pytest -rP shows
# them).
BOUND = {"exp": 1.0, "log": 1.0, "log1p": 1.6, "cos": 1.6}
COS_LIMIT = 2.0**16
TYPES = (np.float32, np.float64)
BITS: dict[Any, Any] = {np.float32: np.uint32, np.float64: np.uint64}
CANONICAL_NAN = {np.float32: 0x7FC00000, np.float64: 0x7FF8000000000000}


@contextmanager
def level(name: str) -> Iterator[None]:
    """Force a level inside the block."""
    _core.levels._force(name)
    try:
        yield
    finally:
        _core.levels._force("")


@contextmanager
def flush_to_zero() -> Iterator[None]:
    """Subnormals become zero in this thread, as some libraries leave it."""
    if not _core.simd.flush_to_zero(True):
        pytest.skip("this CPU has no flush-to-zero switch")
    try:
        yield
    finally:
        _core.simd.flush_to_zero(False)


def apply(name: str, x: Array) -> Array:
    """f(x) at the current level, into a poisoned output."""
    out = np.full_like(x, -12345.678)
    _core.simd.apply(name, x, out)
    return out


def bits(x: Array) -> Array:
    return x.view(BITS[x.dtype.type])


def any_bits(dtype: Any, n: int, seed: int) -> Array:
    """Values of every kind: uniformly drawn bit patterns."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(BITS[dtype]).max, n, dtype=BITS[dtype], endpoint=True).view(
        dtype
    )


def specials(dtype: Any) -> Array:
    """Zeros, infinities, NaNs of several payloads, the edges of the format and of each function."""
    info = np.finfo(dtype)
    nan = CANONICAL_NAN[dtype]
    quiet_bit = 1 << (info.nmant - 1)
    payloads = np.array(
        [nan, nan | 1, nan | (1 << (info.bits - 1)), (nan & ~quiet_bit) | 1], dtype=BITS[dtype]
    )
    edges = [
        0.0,
        1.0,
        2.0,
        math.inf,
        info.max,
        info.tiny,
        info.smallest_subnormal,
        info.eps,
        0.5,
        math.sqrt(0.5),
    ]
    edges += [
        math.sqrt(2.0),
        math.sqrt(2.0) - 1,
        math.log(2.0) / 2,
        COS_LIMIT,
        1e-30,
        1e30,
        88.72284,
        103.97208,
        104,
    ]
    edges += [
        709.782712893384,
        745.1332191019412,
        746,
        87.33655,
        708.3964185322641,
        math.pi / 4,
        math.pi / 2,
    ]
    with np.errstate(over="ignore"):
        near = np.array(edges, dtype=dtype)
        near = np.concatenate(
            [near, np.nextafter(near, dtype(np.inf)), np.nextafter(near, dtype(-np.inf))]
        )
    return np.concatenate([near, -near, payloads.view(dtype)])


def domain(name: str, x: Array) -> Array:
    """The x on which `name` promises a finite, accurate result (or its overflow)."""
    x = x[np.isfinite(x)]
    if name == "exp_nonpositive":
        return x[x <= 0]
    if name == "log":
        return x[x > 0]
    if name == "log1p":
        return x[x > -1]
    if name == "log1p_unit":
        return x[(x >= 0) & (x <= 1)]
    if name == "cos":
        return x[np.abs(x) <= COS_LIMIT]
    return x


def hard_points(name: str, dtype: Any, n: int, seed: int) -> Array:
    """Points where a function is hard: results near 0 or 1, subnormals, edges of a reduction."""
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    low, high = math.log(float(info.smallest_subnormal)), math.log(float(info.max))

    def around(center: Array | float, width: float) -> Array:
        return np.asarray(center + width * rng.uniform(-1, 1, n))

    if name.startswith("exp"):
        halves = (
            rng.integers(int(low / math.log(2)), int(high / math.log(2)), n) + 0.5
        ) * math.log(2)
        parts = [
            rng.uniform(low - 1, high, n),
            rng.uniform(low - 1, math.log(float(info.tiny)), n),
            around(0, 1),
            around(0, float(info.eps) * 4),
            around(halves, 1e-4),
        ]
        if name == "exp_nonpositive":
            parts = [-np.abs(p) for p in parts]
    elif name == "log":
        subnormal = rng.uniform(0, 1, n) * float(info.tiny)
        parts = [
            rng.uniform(0.5, 2, n),
            around(1, 1e-3),
            around(1, 8 * float(info.eps)),
            subnormal,
            around(math.sqrt(0.5), 1e-4),
            around(math.sqrt(2), 1e-4),
            np.exp2(rng.uniform(-126, 127, n)),
        ]
    elif name.startswith("log1p"):
        parts = [
            rng.uniform(0, 1, n),
            around(math.sqrt(2) - 1, 0.02),
            np.exp(-rng.uniform(0, 80, n)),
            rng.uniform(0, 1, n) * float(info.tiny),
        ]
        if name == "log1p":
            parts += [-p for p in parts] + [
                rng.uniform(-1, 10, n),
                around(math.sqrt(0.5) - 1, 0.02),
                -1 + np.exp(-rng.uniform(0, 16, n)),
                np.exp2(rng.uniform(0, 127.9, n)),
            ]
    else:
        zeros = (2 * rng.integers(-20000, 20000, n) + 1) * (math.pi / 2)
        parts = [
            rng.uniform(-COS_LIMIT, COS_LIMIT, n),
            rng.uniform(-7, 7, n),
            zeros,
            around(zeros, 1e-3),
            around(zeros + math.pi / 4, 1e-3),
        ]
    return domain(name, np.concatenate(parts).astype(dtype))


def error_float32(name: str, x: Array) -> tuple[float, float]:
    """Largest error over x, and where."""
    reference: Callable[[Array], Array] = getattr(np, NARROWED.get(name, name))
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
        y = apply(name, x)
        rounded = exact.astype(np.float32)
    overflow = np.isinf(rounded)
    assert np.array_equal(y[overflow], rounded[overflow])
    _, exponent = np.frexp(exact)
    unit = np.ldexp(1.0, np.maximum(np.where(exact == 0, -1000, exponent) - 1, -126) - 23)
    with np.errstate(invalid="ignore"):
        error = np.where(overflow, 0.0, np.abs(y - exact) / unit)
    worst = int(np.argmax(error))
    return float(error[worst]), float(x[worst])


def error_float64(name: str, x: Array) -> tuple[float, float]:
    """Largest error over x, and where, against mpmath at 160 bits."""
    reference = getattr(mpmath, NARROWED.get(name, name))
    largest, where = 0.0, math.nan
    with mpmath.workprec(160):
        for value, y in zip(x.tolist(), apply(name, x).tolist(), strict=True):
            exact = reference(mpmath.mpf(value))
            if math.isinf(y):
                assert exact >= mpmath.mpf(2) ** 1024 * (1 - mpmath.mpf(2) ** -54)
                continue
            exponent = max(mpmath.frexp(exact)[1] - 1, -1022) if exact else -1022
            error = float(abs(mpmath.mpf(y) - exact) / mpmath.mpf(2) ** (exponent - 52))
            if not error <= largest:
                largest, where = error, value
    return largest, where


def test_lanes_agree_with_plain_arithmetic() -> None:
    for current in _core.levels.supported():
        with level(current):
            assert _core.simd.wrong_lane_member() is None, current


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_float32(name: str) -> None:
    sampled = domain(name, any_bits(np.float32, 1 << 21, 11))
    x = np.concatenate(
        [sampled, hard_points(name, np.float32, 1 << 18, 12), domain(name, specials(np.float32))]
    )
    error, where = error_float32(name, x)
    print(f"{name} float32: {error:.4f} ULP at {where.hex()} of {x.size} points")
    assert error <= BOUND[NARROWED.get(name, name)] <= 2.0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_float64(name: str) -> None:
    sampled = domain(name, any_bits(np.float64, 1 << 12, 13))
    x = np.concatenate(
        [sampled, hard_points(name, np.float64, 1 << 9, 14), domain(name, specials(np.float64))]
    )
    error, where = error_float64(name, x)
    print(f"{name} float64: {error:.4f} ULP at {where.hex()} of {x.size} points")
    assert error <= BOUND[NARROWED.get(name, name)] <= 2.0


@pytest.mark.parametrize("dtype", TYPES)
def test_the_reference_would_notice(dtype: Any) -> None:
    """The error measure sees three units in the last place in one element."""
    measure = error_float32 if dtype is np.float32 else error_float64
    x = hard_points("exp", dtype, 64, 15)
    true_apply = _core.simd.apply

    def off_by_three(name: str, from_: Array, to: Array) -> None:
        true_apply(name, from_, to)
        bits(to)[7] += 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core.simd, "apply", off_by_three)
        assert measure("exp", x)[0] > 2.0


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("name", "x", "wanted"),
    [
        ("exp", [0.0, -0.0, math.inf, -math.inf], [1.0, 1.0, math.inf, 0.0]),
        ("exp", [1e4, -1e4, 1e30, -1e30], [math.inf, 0.0, math.inf, 0.0]),
        ("exp_nonpositive", [0.0, -0.0, -math.inf, -1e30], [1.0, 1.0, 0.0, 0.0]),
        ("log", [1.0, 0.0, -0.0, math.inf], [0.0, -math.inf, -math.inf, math.inf]),
        ("log", [-1.0, -math.inf, -1e-40, -1e30], [math.nan] * 4),
        ("log1p", [0.0, -0.0, -1.0, math.inf], [0.0, -0.0, -math.inf, math.inf]),
        ("log1p", [-1.5, -math.inf, -1e30], [math.nan] * 3),
        ("log1p_unit", [0.0], [0.0]),
        ("cos", [0.0, -0.0, math.inf, -math.inf], [1.0, 1.0, math.nan, math.nan]),
        ("cos", [65536.5, -65536.5, 1e30], [math.nan] * 3),
    ],
)
def test_special_values(name: str, x: list[float], wanted: list[float], dtype: Any) -> None:
    """Bit for bit: signs of zeros and of NaNs count."""
    expected = bits(np.array(wanted, dtype=dtype)).copy()
    expected[np.isnan(wanted)] = CANONICAL_NAN[dtype]
    for current in _core.levels.supported():
        with level(current):
            assert bits(apply(name, np.array(x, dtype=dtype))).tolist() == expected.tolist(), (
                current
            )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_in_nan_out(name: str, dtype: Any) -> None:
    x = specials(dtype)
    x = x[np.isnan(x)]
    assert x.size == 4
    y = apply(name, x)
    assert np.isnan(y).all()
    if name not in NARROWED:
        assert (bits(y) == CANONICAL_NAN[dtype]).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", list(NARROWED))
def test_narrowed_has_the_bits_of_the_general(name: str, dtype: Any) -> None:
    x = np.concatenate(
        [any_bits(dtype, 1 << 19, 16), specials(dtype), hard_points(name, dtype, 1 << 17, 17)]
    )
    x = np.append(domain(name, x), dtype(-np.inf if name == "exp_nonpositive" else 1))
    if name == "log1p_unit":
        x = x[~np.signbit(x)]  # -0 is outside
    assert x.size > 1 << 17
    assert np.array_equal(bits(apply(name, x)), bits(apply(NARROWED[name], x)))


def level_input(name: str, dtype: Any, n: int, seed: int) -> Array:
    x = np.concatenate(
        [any_bits(dtype, n, seed), specials(dtype), hard_points(name, dtype, n // 4, seed + 1)]
    )
    return x[~np.isnan(x)] if name in NARROWED else x


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_level_same_bits(name: str, dtype: Any) -> None:
    """Serial against each other level, over values of every kind."""
    x = level_input(name, dtype, 1 << 17, 18)
    with level("serial"):
        wanted = apply(name, x)
    if name in NARROWED:
        x, wanted = x[~np.isnan(wanted)], wanted[~np.isnan(wanted)]
    for current in _core.levels.supported():
        with level(current):
            different = np.flatnonzero(bits(apply(name, x)) != bits(wanted))
        assert different.size == 0, (current, x[different[:5]])


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(FUNCTIONS),
    n=st.integers(0, 70),
    offset=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
    double=st.booleans(),
    in_place=st.booleans(),
)
def test_lengths_and_offsets(
    name: str, n: int, offset: int, seed: int, double: bool, in_place: bool
) -> None:
    """Any length, alignment, in place or not. y[i] depends on x[i] alone, no more is written."""
    dtype = np.float64 if double else np.float32
    x = hard_points(name, dtype, 80, seed)
    x = np.random.default_rng(seed).permutation(x)[:80]
    wanted = np.concatenate([apply(name, x[i : i + 1].copy()) for i in range(n)] or [x[:0]])
    frame = np.full(80, -77.0, dtype=dtype)
    frame[offset : offset + n] = x[:n]
    out = frame if in_place else np.full(80, -77.0, dtype=dtype)
    _core.simd.apply(name, frame[offset : offset + n], out[offset : offset + n])
    assert np.array_equal(bits(out[offset : offset + n].copy()), bits(wanted))
    assert (out[:offset] == -77).all() and (out[offset + n :] == -77).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_flush_to_zero_of_the_caller_changes_nothing(name: str, dtype: Any) -> None:
    x = level_input(name, dtype, 1 << 14, 20)
    tiny = np.finfo(dtype).tiny
    x = np.concatenate([x, np.linspace(0, 1, 1000, dtype=dtype) * tiny])
    out = np.empty_like(x)
    for current in _core.levels.supported():
        with level(current):
            wanted = apply(name, x)
            out.fill(-12345)
            with flush_to_zero():
                _core.simd.apply(name, x, out)
                still_on = float(tiny * dtype(0.5)) == 0.0
            assert still_on, "the caller's own setting must come back"
            number = ~np.isnan(wanted) if name in NARROWED else np.ones(x.size, bool)
            assert np.array_equal(bits(out)[number], bits(wanted)[number]), current
    if name.startswith("exp"):
        assert ((out > 0) & (bits(out) < bits(np.array([tiny]))[0])).any(), (
            "no subnormal result was tested"
        )


@pytest.mark.parametrize(
    ("name", "x", "out", "error", "words"),
    [
        ("sinh", np.ones(3), np.ones(3), ValueError, "name.*sinh.*exp"),
        ("exp", [1.0], np.ones(1), TypeError, "x: got list"),
        ("exp", np.ones(3, int), np.ones(3), TypeError, "x: got an array of int64"),
        ("exp", np.ones(3), np.ones(3, np.float32), TypeError, "out: .*float32.*float64"),
        ("exp", np.ones(3), np.ones(4), ValueError, r"out: .*\(4,\).*\(3,\)"),
        ("exp", np.ones(6)[::2], np.ones(3), ValueError, "x: .*C-contiguous"),
        ("exp", np.ones((2, 2)), np.ones(4), ValueError, r"x: .*\(2, 2\)"),
    ],
)
def test_bad_input(name: str, x: Any, out: Array, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        _core.simd.apply(name, x, out)


def test_read_only_and_overlapping_outputs() -> None:
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out.*read-only"):
        _core.simd.apply("exp", np.ones(3), frozen)
    shared = np.ones(4)
    with pytest.raises(ValueError, match="out.*overlaps"):
        _core.simd.apply("exp", shared[:3], shared[1:])


def test_constants_are_what_the_fit_writes() -> None:
    script = ROOT / "scripts" / "fit_polynomials.py"
    header = ROOT / "csrc" / "simd" / "math_constants.h"
    if not script.exists():
        pytest.skip("only a checkout holds the scripts")
    subprocess.run([sys.executable, str(script), "--check", str(header)], check=True)


def test_constants_can_be_parsed() -> None:
    """Other devices read the header: a constant is one line, its hexadecimal literal exact."""
    header = ROOT / "csrc" / "simd" / "math_constants.h"
    if not header.exists():
        pytest.skip("only a checkout holds the sources")
    found: dict[str, float] = {}
    for line in header.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[:2] == ["static", "constexpr"] and words[2] in ("float", "double"):
            literal = words[5].rstrip(";")
            value = float.fromhex(literal.rstrip("f") if words[2] == "float" else literal)
            found[f"{words[2]} {words[3]}"] = value
            if words[2] == "float":
                assert float(np.float32(value)) == value
                assert literal.endswith("f")
    assert found["double kLn2Hi"] == math.log(2)
    assert found["float kExp2"] == pytest.approx(0.5, rel=1e-6)
    assert len(found) > 70
