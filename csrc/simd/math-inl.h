// exp, log, log1p and cos over a lane type L: one sequence of IEEE operations for all levels, so all levels return the
// same bits. Include after a lanes_<level>.h, from files of that level only.
//
// Beside each function stand its bound, which tests/test_simd.py asserts, and the largest error that was measured, in
// units in the last place: over every float32 of the domain (against the C library in float64), and over a few million
// float64, half of them where the function is hard (against 80-bit long double and mpmath).
//
// NaN in gives the canonical quiet NaN (sign clear, payload 0) out, unless a function says otherwise: hardware
// differs in the payloads that it passes on.
#pragma once
#include <cstdint>

#include "simd/math_constants.h"

#define GRADFOLD_LANE_FUNCTION [[gnu::always_inline]] inline

namespace gradfold {
namespace {

// Bits before the exponent field.
template <class L>
inline constexpr int kSignificandBits = sizeof(typename L::T) == 4 ? 23 : 52;
template <class L>
inline constexpr bool kIsFloat = sizeof(typename L::T) == 4;

template <class L>
GRADFOLD_LANE_FUNCTION typename L::V canonical_nan() {
  return L::as_float(L::iset1(MathConstants<typename L::T>::kNan));
}

template <class L>
GRADFOLD_LANE_FUNCTION typename L::V infinity() {
  return L::set1(static_cast<typename L::T>(__builtin_inf()));
}

// (..((high x + next) x + ..) x + last: coefficients from the highest power down.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V horner(typename L::V, typename L::V sum) {
  return sum;
}
template <class L, class... Rest>
GRADFOLD_LANE_FUNCTION typename L::V horner(typename L::V x, typename L::V sum, typename L::T next, Rest... rest) {
  return horner<L>(x, L::fma(sum, x, L::set1(next)), rest...);
}

// exp(x) = 2^n exp(r), r = x - n ln(2), |r| <= ln(2)/2. Returns exp(r)·scale and leaves n, plus what `round` carries
// beside its 1.5·2^p, in the low bits of `rounded`. `scale` is a power of two: it scales every step exactly.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V exp_reduced(typename L::V x, typename L::T round, typename L::T scale,
                                                 typename L::I& rounded) {
  using C = MathConstants<typename L::T>;
  const auto t = L::fma(x, L::set1(C::kLog2E), L::set1(round));
  rounded = L::as_int(t);
  const auto n = L::sub(t, L::set1(round));
  const auto r = L::fnma(n, L::set1(C::kLn2Lo), L::fnma(n, L::set1(C::kLn2Hi), x));
  if constexpr (kIsFloat<L>) {
    return horner<L>(r, L::set1(C::kExp6 * scale), C::kExp5 * scale, C::kExp4 * scale, C::kExp3 * scale,
                     C::kExp2 * scale, scale, scale);
  } else {
    return horner<L>(r, L::set1(C::kExp11 * scale), C::kExp10 * scale, C::kExp9 * scale, C::kExp8 * scale,
                     C::kExp7 * scale, C::kExp6 * scale, C::kExp5 * scale, C::kExp4 * scale, C::kExp3 * scale,
                     C::kExp2 * scale, scale, scale);
  }
}

// e^x. At most 1 ULP (measured: float32 0.894, float64 0.902). Overflow gives inf; underflow passes through the
// subnormals to +0.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V exp(typename L::V x) {
  using C = MathConstants<typename L::T>;
  constexpr int kShift = kSignificandBits<L>;
  auto inside = L::max(L::set1(C::kExpLow), x);
  inside = L::select(L::lt(L::set1(C::kExpHigh), x), L::set1(C::kExpHigh), inside);
  typename L::I rounded;
  const auto p = exp_reduced<L>(inside, C::kExpRound, 1, rounded);
  // The low bits hold n + 2·bias: one half of it, rounded down, and the rest are the exponent fields of two powers of
  // two, neither subnormal nor inf, whose product is 2^n. The first product is exact, the second rounds once.
  const auto half = L::template ishr<1>(rounded);
  const auto first = L::as_float(L::template ishl<kShift>(half));
  const auto second = L::as_float(L::template ishl<kShift>(L::isub(rounded, half)));
  const auto y = L::mul(L::mul(p, first), second);
  return L::select(L::eq(x, x), y, canonical_nan<L>());
}

// e^x for x <= 0: the bits of exp(x), so its bound too, in two thirds of its operations. A NaN gives a NaN with an
// unspecified payload, so whoever stores the final result makes it canonical. Positive x is outside the domain.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V exp_nonpositive(typename L::V x) {
  using C = MathConstants<typename L::T>;
  const auto inside = L::max(L::set1(C::kExpLow), x);
  typename L::I rounded;
  // The polynomial carries the first power of two (exact), so 2^n needs one more product, which rounds once.
  const auto p = exp_reduced<L>(inside, C::kExpRoundNonpositive, C::kExpScaleNonpositive, rounded);
  return L::mul(p, L::as_float(L::template ishl<kSignificandBits<L>>(rounded)));
}

// log(2^k (1+f)) for sqrt(1/2) - 1 <= f < sqrt(2) - 1 and an integer k. `square` is f^2, or 0 where that is of no account.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V log_reduced(typename L::V f, typename L::V k, typename L::V square) {
  using C = MathConstants<typename L::T>;
  typename L::V p;
  if constexpr (kIsFloat<L>) {
    p = horner<L>(f, L::set1(C::kLog10), C::kLog9, C::kLog8, C::kLog7, C::kLog6, C::kLog5, C::kLog4, C::kLog3);
  } else {
    p = horner<L>(f, L::set1(C::kLog21), C::kLog20, C::kLog19, C::kLog18, C::kLog17, C::kLog16, C::kLog15, C::kLog14,
                  C::kLog13, C::kLog12, C::kLog11, C::kLog10, C::kLog9, C::kLog8, C::kLog7, C::kLog6, C::kLog5,
                  C::kLog4, C::kLog3);
  }
  const auto tail = L::mul(square, L::fma(f, p, L::set1(typename L::T(-0.5))));
  const auto low = L::fma(k, L::set1(C::kLn2Lo), tail);
  return L::fma(k, L::set1(C::kLn2Hi), L::add(f, low));
}

template <class L>
GRADFOLD_LANE_FUNCTION typename L::V log_reduced(typename L::V f, typename L::V k) {
  return log_reduced<L>(f, k, L::mul(f, f));
}

// f^2, but 0 where `size` is below 2^-60: there it changes no bit of f in either type, and in float32 it soon is subnormal, which takes
// a CPU a hundred times as long.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V square_of(typename L::V f, typename L::V size) {
  return L::mul_where(L::le(L::set1(typename L::T(0x1p-60)), size), f, f);
}

// Splits a positive normal x into 2^k m with sqrt(1/2) <= m < sqrt(2). `biased` is as_int(x) less the bits of
// sqrt(1/2), plus those of 1: its exponent field is k + bias.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::I log_biased(typename L::V x) {
  using C = MathConstants<typename L::T>;
  using Bits = typename L::Bits;
  constexpr Bits kOne = __builtin_bit_cast(Bits, typename L::T(1));
  return L::iadd(L::as_int(x), L::iset1(kOne - C::kSqrtHalfBits));
}
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V log_mantissa(typename L::I biased) {
  using C = MathConstants<typename L::T>;
  using Bits = typename L::Bits;
  constexpr Bits kField = (Bits(1) << kSignificandBits<L>) - 1;
  return L::as_float(L::iadd(L::iand(biased, L::iset1(kField)), L::iset1(C::kSqrtHalfBits)));
}
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V log_exponent(typename L::I biased, typename L::V bias) {
  using C = MathConstants<typename L::T>;
  using Bits = typename L::Bits;
  constexpr Bits kToValue = __builtin_bit_cast(Bits, C::kExponentToValue);
  return L::sub(L::as_float(L::ior(L::template ishr<kSignificandBits<L>>(biased), L::iset1(kToValue))), bias);
}

// ln x. At most 1 ULP (measured: float32 0.923, float64 0.957). log(±0) = -inf, log(x < 0) = NaN, log(inf) = inf;
// subnormal x is exact as any other.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V log(typename L::V x) {
  using C = MathConstants<typename L::T>;
  const auto tiny = L::lt(x, L::set1(C::kSmallestNormal));
  const auto normal = L::select(tiny, L::mul(x, L::set1(C::kLogScale)), x);
  const auto bias = L::select(tiny, L::set1(C::kExponentBiasScaled), L::set1(C::kExponentBias));
  const auto biased = log_biased<L>(normal);
  const auto f = L::sub(log_mantissa<L>(biased), L::set1(1));
  auto y = log_reduced<L>(f, log_exponent<L>(biased, bias));
  y = L::select(L::lt(x, infinity<L>()), y, infinity<L>());
  y = L::select(L::lt(L::zero(), x), y, canonical_nan<L>());
  return L::select(L::eq(x, L::zero()), L::neg(infinity<L>()), y);
}

// ln(1 + x). At most 1.6 ULP (measured: float32 1.523, float64 1.514). log1p(-1) = -inf, log1p(x < -1) = NaN, log1p(±0)
// = ±0, log1p(inf) = inf.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V log1p(typename L::V x) {
  using C = MathConstants<typename L::T>;
  using Bits = typename L::Bits;
  constexpr Bits kExponentField = ~((Bits(1) << kSignificandBits<L>) - 1);
  constexpr Bits kBias = __builtin_bit_cast(Bits, typename L::T(1));
  const auto one = L::set1(1);
  // u + lost is 1 + x exactly: the error of a sum after Knuth, The Art of Computer Programming 2, 4.2.2, theorem B.
  const auto u = L::add(one, x);
  const auto part = L::sub(u, one);
  const auto lost = L::add(L::sub(one, L::sub(u, part)), L::sub(x, part));
  const auto biased = log_biased<L>(u);
  const auto k = log_exponent<L>(biased, L::set1(C::kExponentBias));
  // f = (1 + x) 2^-k - 1 with one rounding; for k = 0 it is x itself. 2^-k is normal below `huge`, and from there on
  // what was lost is of no account.
  const auto huge = L::set1(1 / C::kSmallestNormal);
  const auto shrink = L::as_float(L::isub(L::iset1(2 * kBias), L::iand(biased, L::iset1(kExponentField))));
  const auto f = L::fma_where(L::lt(x, huge), lost, shrink, L::sub(log_mantissa<L>(biased), one));
  auto y = log_reduced<L>(f, k, square_of<L>(f, L::abs(f)));
  y = L::select(L::lt(x, infinity<L>()), y, infinity<L>());
  y = L::select(L::lt(L::neg(one), x), y, canonical_nan<L>());
  y = L::select(L::eq(x, L::neg(one)), L::neg(infinity<L>()), y);
  return L::select(L::eq(x, L::zero()), x, y);
}

// ln(1 + x) for 0 <= x <= 1: the bits of log1p(x), so its bound too, in half of its operations. A NaN gives a NaN with
// an unspecified payload; -0 gives +0; anything else is outside the domain.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V log1p_unit(typename L::V x) {
  using C = MathConstants<typename L::T>;
  using T = typename L::T;
  const auto doubled = L::le(L::set1(2 * C::kSqrtHalf), L::add(L::set1(1), x));  // k = 1, else k = 0
  const auto f = L::select(doubled, L::fma(x, L::set1(T(0.5)), L::set1(T(-0.5))), x);
  return log_reduced<L>(f, L::select(doubled, L::set1(1), L::zero()), square_of<L>(f, x));
}

// cos x for |x| <= 2^16, x in radians. At most 1.6 ULP (measured: float32 1.537, float64 1.445). Beyond, and for ±inf,
// the canonical NaN: three constants for pi/2 carry no
// further, and a wrong number would be worse.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V cos(typename L::V x) {
  using C = MathConstants<typename L::T>;
  using T = typename L::T;
  constexpr int kTop = 8 * sizeof(T) - 2;
  const auto one = L::set1(1);
  // x = n pi/2 + r, after W. J. Cody and W. Waite; the first step is exact, because x and n·kHalfPiHi are multiples
  // of the last bit of kHalfPiHi whenever n is not 0.
  const auto t = L::fma(x, L::set1(C::kTwoOverPi), L::set1(C::kCosRound));
  const auto quadrant = L::as_int(t);
  const auto n = L::sub(t, L::set1(C::kCosRound));
  auto r = L::fnma(n, L::set1(C::kHalfPiHi), x);
  r = L::fnma(n, L::set1(C::kHalfPiMid), r);
  r = L::fnma(n, L::set1(C::kHalfPiLo), r);
  const auto u = L::mul(r, r);
  typename L::V s, c;
  if constexpr (kIsFloat<L>) {
    s = horner<L>(u, L::set1(C::kSin7), C::kSin5, C::kSin3);
    c = horner<L>(u, L::set1(C::kCos8), C::kCos6, C::kCos4, T(-0.5));
  } else {
    s = horner<L>(u, L::set1(C::kSin13), C::kSin11, C::kSin9, C::kSin7, C::kSin5, C::kSin3);
    c = horner<L>(u, L::set1(C::kCos14), C::kCos12, C::kCos10, C::kCos8, C::kCos6, C::kCos4, T(-0.5));
  }
  s = L::fma(L::mul(u, r), s, r);
  c = L::fma(c, u, one);
  // cos(r + n pi/2) for n mod 4 = 0, 1, 2, 3 is cos r, -sin r, -cos r, sin r. Bit 0 of n, moved to where it makes a
  // normal number, picks the function; bit 1 of n + 1, moved to the sign, picks the sign.
  const auto one_bit = L::iset1(1);
  const auto even = L::eq(L::as_float(L::template ishl<kTop>(L::iand(quadrant, one_bit))), L::zero());
  const auto sign = L::template ishl<kTop>(L::iand(L::iadd(quadrant, one_bit), L::iset1(2)));
  const auto y = L::as_float(L::ixor(L::as_int(L::select(even, c, s)), sign));
  return L::select(L::le(L::abs(x), L::set1(C::kCosLimit)), y, canonical_nan<L>());
}

}  // namespace
}  // namespace gradfold
