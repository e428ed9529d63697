"""Fit the constants of ``csrc/simd/math_constants.h`` and ``python/gradfold/cuda/constants.py``.

``python scripts/fit_polynomials.py`` prints the header and ``--python`` the module; ``--check FILE``
compares it with a file instead (exit code 1 when they differ). Needs mpmath. Every polynomial is
the minimax one for the *relative* error of the function that it ends up in, found by the exchange
algorithm of E. Remez (1934) and then rounded, coefficient by coefficient.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp  # type: ignore[import-untyped]

mp.mp.prec = 200
Function = Callable[[mp.mpf], mp.mpf]
Fit = tuple[
    list[mp.mpf], mp.mpf
]  # coefficients, lowest power first, and the weighted error reached


def remez(target: Function, weight: Function, lo: mp.mpf, hi: mp.mpf, degree: int) -> Fit:
    """Polynomial p minimising max |weight * (p - target)| on [lo, hi].

    Parameters
    ----------
    target, weight : callable
        ``weight`` may vanish inside the interval, but must not change its sign there.
    lo, hi : mpf
        The interval.
    degree : int
        Degree of p.

    Returns
    -------
    coefficients : list of mpf
        Lowest power first, ``degree + 1`` of them.
    error : mpf
        The weighted error reached.
    """
    count = degree + 2

    def chebyshev(n: int) -> list[mp.mpf]:
        return [(lo + hi) / 2 - (hi - lo) / 2 * mp.cos(mp.pi * i / (n - 1)) for i in range(n)]

    grid = [x for x in chebyshev(60 * count) if abs(x) > 1e-12]  # the weight vanishes at 0
    goal = [target(x) for x in grid]
    weights = [weight(x) for x in grid]
    points = [int((i + 0.5) * len(grid) / count) for i in range(count)]
    coefficients: list[mp.mpf] = []
    for _ in range(60):
        system = mp.matrix(count, count)
        right = mp.matrix(count, 1)
        for row, i in enumerate(points):
            for power in range(degree + 1):
                system[row, power] = weights[i] * grid[i] ** power
            system[row, degree + 1] = (-1) ** row
            right[row] = weights[i] * goal[i]
        solution = mp.lu_solve(system, right)
        coefficients = [solution[i] for i in range(degree + 1)]
        level = abs(solution[degree + 1])
        error = [
            w * (mp.polyval(coefficients[::-1], x) - g)
            for x, g, w in zip(grid, goal, weights, strict=True)
        ]
        # One extremum of the error for each run of one sign.
        extrema: list[int] = []
        for i, e in enumerate(error):
            if extrema and (error[extrema[-1]] > 0) == (e > 0):
                if abs(e) > abs(error[extrema[-1]]):
                    extrema[-1] = i
            else:
                extrema.append(i)
        while len(extrema) > count:  # drop the weaker end, which keeps the signs alternating
            extrema.pop(0 if abs(error[extrema[0]]) < abs(error[extrema[-1]]) else -1)
        if len(extrema) < count:
            raise RuntimeError(f"the error alternates {len(extrema)} times, {count} were expected")
        points = extrema
        worst = max(abs(e) for e in error)
        if worst < level * mp.mpf("1.001"):
            break
    return coefficients, worst


@dataclass(frozen=True)
class Format:
    """One IEEE binary format and the degrees that serve it."""

    type_name: str
    bits_name: str
    suffix: str
    bits_suffix: str
    digits: int  # of the significand, the hidden one included
    bias: int  # of the exponent
    exp_degree: int  # of the whole polynomial
    log_degree: int  # of the factor of f^3
    sin_degree: int  # of the factor of r^3, in r^2
    cos_degree: int  # of the factor of r^4, in r^2
    exp_low: int  # exp rounds to 0 from here down
    exp_high: int  # exp rounds to inf from here up
    exp_shift: int  # exp_nonpositive carries its polynomial scaled by 2^-exp_shift

    def round(self, x: mp.mpf) -> float:
        """Nearest number of the format, ties to even."""
        with mp.workprec(self.digits):
            return float(+x)

    def literal(self, x: mp.mpf | float) -> str:
        """C++ hexadecimal literal of the nearest number of the format."""
        text = self.round(mp.mpf(x)).hex()
        head, exponent = text.split("p")
        return f"{head.rstrip('0').rstrip('.')}p{exponent}{self.suffix}"

    def bits(self, x: float) -> str:
        """C++ literal of the bits of x, which the format must hold."""
        pack, unpack = ("<f", "<I") if self.suffix else ("<d", "<Q")
        return f"{struct.unpack(unpack, struct.pack(pack, x))[0]:#x}{self.bits_suffix}"


FLOAT = Format("float", "std::uint32_t", "f", "u", 24, 127, 6, 7, 3, 3, -104, 89, 65)
DOUBLE = Format("double", "std::uint64_t", "", "ull", 53, 1023, 11, 18, 6, 6, -746, 710, 513)


def block(fmt: Format) -> list[str]:
    """Lines of the constants of one format."""
    lines: list[str] = []

    def value(name: str, x: mp.mpf | float) -> None:
        lines.append(f"  static constexpr {fmt.type_name} {name} = {fmt.literal(x)};")

    def bits(name: str, x: float) -> None:
        lines.append(f"  static constexpr {fmt.bits_name} {name} = {fmt.bits(x)};")

    def polynomial(name: str, first: int, fit: Fit, step: int = 1) -> None:
        coefficients, error = fit
        unit = fmt.digits - 1
        lines.append(f"  // relative error of the fit: {mp.nstr(error * 2**unit, 2)} * 2^-{unit}")
        for i, c in enumerate(coefficients):
            value(f"{name}{first + step * i}", c)

    def split(name: str, x: mp.mpf, parts: list[str]) -> None:
        for part in parts:
            value(name + part, x)
            x -= fmt.round(x)

    round_to_integer = mp.mpf(3) * 2 ** (
        fmt.digits - 2
    )  # adding it leaves the nearest integer in the low bits
    ln2, half_pi = mp.log(2), mp.pi / 2
    bits("kNan", float("nan"))
    value("kLog2E", 1 / ln2)
    split("kLn2", ln2, ["Hi", "Lo"])
    lines.append("  // exp: exp(r) = 1 + r + r^2 (kExp2 + kExp3 r + ...), |r| <= ln(2)/2")
    value("kExpLow", fmt.exp_low)
    value("kExpHigh", fmt.exp_high)
    value("kExpRound", round_to_integer + 2 * fmt.bias)
    value("kExpRoundNonpositive", round_to_integer + fmt.bias + fmt.exp_shift)
    value("kExpScaleNonpositive", mp.mpf(2) ** -fmt.exp_shift)
    h = ln2 / 2 * (1 + mp.mpf(2) ** -12)
    polynomial(
        "kExp",
        2,
        remez(
            lambda r: (mp.expm1(r) - r) / r**2,
            lambda r: r**2 / mp.exp(r),
            -h,
            h,
            fmt.exp_degree - 2,
        ),
    )
    lines.append(
        "  // log: log(1+f) = f + f^2 (-1/2 + f (kLog3 + kLog4 f + ...)), sqrt(1/2) <= 1+f < sqrt(2)"  # noqa: E501
    )
    root = fmt.round(mp.sqrt(mp.mpf(1) / 2))
    value("kSqrtHalf", root)
    bits("kSqrtHalfBits", root)
    value("kSmallestNormal", mp.mpf(2) ** (1 - fmt.bias))
    value("kLogScale", mp.mpf(2) ** fmt.digits)  # lifts subnormal arguments into the normal range
    value("kExponentToValue", mp.mpf(2) ** (fmt.digits - 1))
    value("kExponentBias", mp.mpf(2) ** (fmt.digits - 1) + fmt.bias)
    value("kExponentBiasScaled", mp.mpf(2) ** (fmt.digits - 1) + fmt.bias + fmt.digits)

    def log_part(f: mp.mpf) -> mp.mpf:
        return (mp.log1p(f) - f + f**2 / 2) / f**3

    polynomial(
        "kLog",
        3,
        remez(
            log_part,
            lambda f: f**3 / mp.log1p(f),
            mp.sqrt(mp.mpf(1) / 2) - 1,
            mp.sqrt(2) - 1,
            fmt.log_degree,
        ),
    )
    lines.append("  // cos: sin(r) = r + r^3 (kSin3 + kSin5 r^2 + ...), |r| <= pi/4,")
    lines.append("  //      cos(r) = 1 - r^2/2 + r^4 (kCos4 + kCos6 r^2 + ...)")
    value("kCosLimit", 2**16)
    value("kTwoOverPi", 2 / mp.pi)
    value("kCosRound", round_to_integer)
    split("kHalfPi", half_pi, ["Hi", "Mid", "Lo"])
    end = (
        mp.pi / 4 * (1 + mp.mpf(2) ** -8)
    ) ** 2  # the rounded 2/pi may leave a little more than pi/4

    def sin_part(u: mp.mpf) -> mp.mpf:
        return (mp.sin(mp.sqrt(u)) / mp.sqrt(u) - 1) / u

    def cos_part(u: mp.mpf) -> mp.mpf:
        return (mp.cos(mp.sqrt(u)) - 1 + u / 2) / u**2

    def sin_weight(u: mp.mpf) -> mp.mpf:
        return u * mp.sqrt(u) / mp.sin(mp.sqrt(u))

    def cos_weight(u: mp.mpf) -> mp.mpf:
        return u**2 / mp.cos(mp.sqrt(u))

    polynomial("kSin", 3, remez(sin_part, sin_weight, mp.mpf(0), end, fmt.sin_degree - 1), step=2)
    polynomial("kCos", 4, remez(cos_part, cos_weight, mp.mpf(0), end, fmt.cos_degree - 1), step=2)
    return lines


def blocks() -> dict[str, list[str]]:
    """Lines of the constants, by the C++ name of the type."""
    return {fmt.type_name: block(fmt) for fmt in (FLOAT, DOUBLE)}


def header() -> str:
    """Text of ``csrc/simd/math_constants.h``."""
    lines = [
        "// The constants of csrc/simd/math-inl.h. scripts/fit_polynomials.py writes this file:",
        "// change them there. One constant a line, exact (hexadecimal), so that kernels of other",
        "// devices can read this very file.",
        "#pragma once",
        "#include <cstdint>",
        "",
        "namespace gradfold {",
        "namespace {",
        "",
        "template <class T>",
        "struct MathConstants;",
    ]
    for name, constants in blocks().items():
        lines += ["", "template <>", f"struct MathConstants<{name}> {{", *constants, "};"]
    lines += ["", "}  // namespace", "}  // namespace gradfold", ""]
    return "\n".join(lines)


MODULE = '''"""The constants of csrc/simd/math_constants.h.

``scripts/fit_polynomials.py --python`` writes this file: change them there. Floats are hexadecimal, so exact; integers
are the bits of a float.
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

_LITERALS: dict[str, dict[str, str | int]] = {
%s
}


@cache
def of(dtype: Any) -> MappingProxyType[str, Any]:
    """The constants of float32 or float64 by their C++ names, as NumPy scalars of that type or unsigned integers."""
    kind = np.dtype(dtype)
    number: Any = kind.type
    bits: Any = np.uint32 if kind.itemsize == 4 else np.uint64
    values = {
        name: bits(literal) if isinstance(literal, int) else number(float.fromhex(literal))
        for name, literal in _LITERALS[kind.name].items()
    }
    return MappingProxyType(values)
'''


def module() -> str:
    """Text of ``python/gradfold/cuda/constants.py``: the literals of the header."""
    lines: list[str] = []
    for fmt, constants in zip((FLOAT, DOUBLE), blocks().values(), strict=True):
        lines.append(f'    "float{32 if fmt is FLOAT else 64}": {{')
        for line in constants:
            words = line.split()
            if words[0] == "//":
                lines.append(f"        {line.strip().replace('//', '#', 1)}")
            elif words[2] == fmt.bits_name:
                lines.append(f'        "{words[3]}": 0x{words[5][2:-1].removesuffix(fmt.bits_suffix).upper()},')
            else:
                lines.append(f'        "{words[3]}": "{words[5][:-1].removesuffix(fmt.suffix)}",')
        lines.append("    },")
    return MODULE % "\n".join(lines)


def main() -> int:
    """Print the header or the module, or compare it with a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", metavar="FILE", help="compare with FILE instead of printing")
    parser.add_argument("--python", action="store_true", help="the Python module, not the C++ header")
    arguments = parser.parse_args()
    text = module() if arguments.python else header()
    if arguments.check is None:
        sys.stdout.write(text)
        return 0
    with open(arguments.check, encoding="utf-8") as file:
        if file.read() == text:
            return 0
    print(f"{arguments.check} is not what this script writes", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
