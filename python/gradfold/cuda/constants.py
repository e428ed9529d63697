"""The constants of csrc/simd/math_constants.h.

``scripts/fit_polynomials.py --python`` writes this file: change them there. Floats are hexadecimal, so exact; integers
are the bits of a float.
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

_LITERALS: dict[str, dict[str, str | int]] = {
    "float32": {
        "kNan": 0x7FC00000,
        "kLog2E": "0x1.715476p+0",
        "kLn2Hi": "0x1.62e43p-1",
        "kLn2Lo": "-0x1.05c61p-29",
        # exp: exp(r) = 1 + r + r^2 (kExp2 + kExp3 r + ...), |r| <= ln(2)/2
        "kExpLow": "-0x1.ap+6",
        "kExpHigh": "0x1.64p+6",
        "kExpRound": "0x1.8001fcp+23",
        "kExpRoundNonpositive": "0x1.80018p+23",
        "kExpScaleNonpositive": "0x1p-65",
        # relative error of the fit: 0.026 * 2^-23
        "kExp2": "0x1.fffffcp-2",
        "kExp3": "0x1.555492p-3",
        "kExp4": "0x1.5558f2p-5",
        "kExp5": "0x1.1239fap-7",
        "kExp6": "0x1.6a2418p-10",
        # log: log(1+f) = f + f^2 (-1/2 + f (kLog3 + kLog4 f + ...)), sqrt(1/2) <= 1+f < sqrt(2)
        "kSqrtHalf": "0x1.6a09e6p-1",
        "kSqrtHalfBits": 0x3F3504F3,
        "kSmallestNormal": "0x1p-126",
        "kLogScale": "0x1p+24",
        "kExponentToValue": "0x1p+23",
        "kExponentBias": "0x1.0000fep+23",
        "kExponentBiasScaled": "0x1.00012ep+23",
        # relative error of the fit: 0.049 * 2^-23
        "kLog3": "0x1.555554p-2",
        "kLog4": "-0x1.000226p-2",
        "kLog5": "0x1.99a008p-3",
        "kLog6": "-0x1.547246p-3",
        "kLog7": "0x1.22da22p-3",
        "kLog8": "-0x1.0d8542p-3",
        "kLog9": "0x1.055b4cp-3",
        "kLog10": "-0x1.38b52ap-4",
        # cos: sin(r) = r + r^3 (kSin3 + kSin5 r^2 + ...), |r| <= pi/4,
        #      cos(r) = 1 - r^2/2 + r^4 (kCos4 + kCos6 r^2 + ...)
        "kCosLimit": "0x1p+16",
        "kTwoOverPi": "0x1.45f306p-1",
        "kCosRound": "0x1.8p+23",
        "kHalfPiHi": "0x1.921fb6p+0",
        "kHalfPiMid": "-0x1.777a5cp-25",
        "kHalfPiLo": "-0x1.ee59dap-50",
        # relative error of the fit: 0.033 * 2^-23
        "kSin3": "-0x1.555544p-3",
        "kSin5": "0x1.110714p-7",
        "kSin7": "-0x1.993632p-13",
        # relative error of the fit: 0.001 * 2^-23
        "kCos4": "0x1.55554ap-5",
        "kCos6": "-0x1.6c0c08p-10",
        "kCos8": "0x1.99df1ap-16",
    },
    "float64": {
        "kNan": 0x7FF8000000000000,
        "kLog2E": "0x1.71547652b82fep+0",
        "kLn2Hi": "0x1.62e42fefa39efp-1",
        "kLn2Lo": "0x1.abc9e3b39803fp-56",
        # exp: exp(r) = 1 + r + r^2 (kExp2 + kExp3 r + ...), |r| <= ln(2)/2
        "kExpLow": "-0x1.75p+9",
        "kExpHigh": "0x1.63p+9",
        "kExpRound": "0x1.80000000007fep+52",
        "kExpRoundNonpositive": "0x1.80000000006p+52",
        "kExpScaleNonpositive": "0x1p-513",
        # relative error of the fit: 0.016 * 2^-52
        "kExp2": "0x1.000000000000ap-1",
        "kExp3": "0x1.55555555554fap-3",
        "kExp4": "0x1.5555555550866p-5",
        "kExp5": "0x1.1111111127c42p-7",
        "kExp6": "0x1.6c16c1842f501p-10",
        "kExp7": "0x1.a01a012a41653p-13",
        "kExp8": "0x1.a01999fd40148p-16",
        "kExp9": "0x1.71df256e564a2p-19",
        "kExp10": "0x1.28ad8188e640bp-22",
        "kExp11": "0x1.ad7f6675be84ap-26",
        # log: log(1+f) = f + f^2 (-1/2 + f (kLog3 + kLog4 f + ...)), sqrt(1/2) <= 1+f < sqrt(2)
        "kSqrtHalf": "0x1.6a09e667f3bcdp-1",
        "kSqrtHalfBits": 0x3FE6A09E667F3BCD,
        "kSmallestNormal": "0x1p-1022",
        "kLogScale": "0x1p+53",
        "kExponentToValue": "0x1p+52",
        "kExponentBias": "0x1.00000000003ffp+52",
        "kExponentBiasScaled": "0x1.0000000000434p+52",
        # relative error of the fit: 0.041 * 2^-52
        "kLog3": "0x1.5555555555533p-2",
        "kLog4": "-0x1.fffffffffef14p-3",
        "kLog5": "0x1.999999999f751p-3",
        "kLog6": "-0x1.555555566b37bp-3",
        "kLog7": "0x1.24924922a412dp-3",
        "kLog8": "-0x1.ffffff2bf7105p-4",
        "kLog9": "0x1.c71c71dfff932p-4",
        "kLog10": "-0x1.9999c26b06c06p-4",
        "kLog11": "0x1.745d3f1f4654bp-4",
        "kLog12": "-0x1.5550ee7d7ef2ap-4",
        "kLog13": "0x1.3b0b88f49c931p-4",
        "kLog14": "-0x1.24d74e0379358p-4",
        "kLog15": "0x1.11cd0111f3b76p-4",
        "kLog16": "-0x1.fba1cfef8141p-5",
        "kLog17": "0x1.d05a6ebeddaeap-5",
        "kLog18": "-0x1.d11f79e601d49p-5",
        "kLog19": "0x1.0a620d291f8f8p-4",
        "kLog20": "-0x1.ea062bc1d9491p-5",
        "kLog21": "0x1.ac764729c0a57p-6",
        # cos: sin(r) = r + r^3 (kSin3 + kSin5 r^2 + ...), |r| <= pi/4,
        #      cos(r) = 1 - r^2/2 + r^4 (kCos4 + kCos6 r^2 + ...)
        "kCosLimit": "0x1p+16",
        "kTwoOverPi": "0x1.45f306dc9c883p-1",
        "kCosRound": "0x1.8p+52",
        "kHalfPiHi": "0x1.921fb54442d18p+0",
        "kHalfPiMid": "0x1.1a62633145c07p-54",
        "kHalfPiLo": "-0x1.f1976b7ed8fbcp-110",
        # relative error of the fit: 0.017 * 2^-52
        "kSin3": "-0x1.5555555555548p-3",
        "kSin5": "0x1.111111110f6cep-7",
        "kSin7": "-0x1.a01a019bdc7f3p-13",
        "kSin9": "0x1.71de3549e6ccbp-19",
        "kSin11": "-0x1.ae5e4278110b6p-26",
        "kSin13": "0x1.5d88a6e16ca9bp-33",
        # relative error of the fit: 0.00027 * 2^-52
        "kCos4": "0x1.555555555554ap-5",
        "kCos6": "-0x1.6c16c16c14e6bp-10",
        "kCos8": "0x1.a01a019c66e3bp-16",
        "kCos10": "-0x1.27e4f7d509a41p-22",
        "kCos12": "0x1.1ee9c8a07514cp-29",
        "kCos14": "-0x1.8f9ca4207a4cp-37",
    },
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
