// The constants of csrc/simd/math-inl.h. scripts/fit_polynomials.py writes this file:
// change them there. One constant a line, exact (hexadecimal), so that kernels of other
// devices can read this very file.
#pragma once
#include <cstdint>

namespace gradfold {
namespace {

template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr std::uint32_t kNan = 0x7fc00000u;
  static constexpr float kLog2E = 0x1.715476p+0f;
  static constexpr float kLn2Hi = 0x1.62e43p-1f;
  static constexpr float kLn2Lo = -0x1.05c61p-29f;
  // exp: exp(r) = 1 + r + r^2 (kExp2 + kExp3 r + ...), |r| <= ln(2)/2
  static constexpr float kExpLow = -0x1.ap+6f;
  static constexpr float kExpHigh = 0x1.64p+6f;
  static constexpr float kExpRound = 0x1.8001fcp+23f;
  static constexpr float kExpRoundNonpositive = 0x1.80018p+23f;
  static constexpr float kExpScaleNonpositive = 0x1p-65f;
  // relative error of the fit: 0.026 * 2^-23
  static constexpr float kExp2 = 0x1.fffffcp-2f;
  static constexpr float kExp3 = 0x1.555492p-3f;
  static constexpr float kExp4 = 0x1.5558f2p-5f;
  static constexpr float kExp5 = 0x1.1239fap-7f;
  static constexpr float kExp6 = 0x1.6a2418p-10f;
  // log: log(1+f) = f + f^2 (-1/2 + f (kLog3 + kLog4 f + ...)), sqrt(1/2) <= 1+f < sqrt(2)
  static constexpr float kSqrtHalf = 0x1.6a09e6p-1f;
  static constexpr std::uint32_t kSqrtHalfBits = 0x3f3504f3u;
  static constexpr float kSmallestNormal = 0x1p-126f;
  static constexpr float kLogScale = 0x1p+24f;
  static constexpr float kExponentToValue = 0x1p+23f;
  static constexpr float kExponentBias = 0x1.0000fep+23f;
  static constexpr float kExponentBiasScaled = 0x1.00012ep+23f;
  // relative error of the fit: 0.049 * 2^-23
  static constexpr float kLog3 = 0x1.555554p-2f;
  static constexpr float kLog4 = -0x1.000226p-2f;
  static constexpr float kLog5 = 0x1.99a008p-3f;
  static constexpr float kLog6 = -0x1.547246p-3f;
  static constexpr float kLog7 = 0x1.22da22p-3f;
  static constexpr float kLog8 = -0x1.0d8542p-3f;
  static constexpr float kLog9 = 0x1.055b4cp-3f;
  static constexpr float kLog10 = -0x1.38b52ap-4f;
  // cos: sin(r) = r + r^3 (kSin3 + kSin5 r^2 + ...), |r| <= pi/4,
  //      cos(r) = 1 - r^2/2 + r^4 (kCos4 + kCos6 r^2 + ...)
  static constexpr float kCosLimit = 0x1p+16f;
  static constexpr float kTwoOverPi = 0x1.45f306p-1f;
  static constexpr float kCosRound = 0x1.8p+23f;
  static constexpr float kHalfPiHi = 0x1.921fb6p+0f;
  static constexpr float kHalfPiMid = -0x1.777a5cp-25f;
  static constexpr float kHalfPiLo = -0x1.ee59dap-50f;
  // relative error of the fit: 0.033 * 2^-23
  static constexpr float kSin3 = -0x1.555544p-3f;
  static constexpr float kSin5 = 0x1.110714p-7f;
  static constexpr float kSin7 = -0x1.993632p-13f;
  // relative error of the fit: 0.001 * 2^-23
  static constexpr float kCos4 = 0x1.55554ap-5f;
  static constexpr float kCos6 = -0x1.6c0c08p-10f;
  static constexpr float kCos8 = 0x1.99df1ap-16f;
};

template <>
struct MathConstants<double> {
  static constexpr std::uint64_t kNan = 0x7ff8000000000000ull;
  static constexpr double kLog2E = 0x1.71547652b82fep+0;
  static constexpr double kLn2Hi = 0x1.62e42fefa39efp-1;
  static constexpr double kLn2Lo = 0x1.abc9e3b39803fp-56;
  // exp: exp(r) = 1 + r + r^2 (kExp2 + kExp3 r + ...), |r| <= ln(2)/2
  static constexpr double kExpLow = -0x1.75p+9;
  static constexpr double kExpHigh = 0x1.63p+9;
  static constexpr double kExpRound = 0x1.80000000007fep+52;
  static constexpr double kExpRoundNonpositive = 0x1.80000000006p+52;
  static constexpr double kExpScaleNonpositive = 0x1p-513;
  // relative error of the fit: 0.016 * 2^-52
  static constexpr double kExp2 = 0x1.000000000000ap-1;
  static constexpr double kExp3 = 0x1.55555555554fap-3;
  static constexpr double kExp4 = 0x1.5555555550866p-5;
  static constexpr double kExp5 = 0x1.1111111127c42p-7;
  static constexpr double kExp6 = 0x1.6c16c1842f501p-10;
  static constexpr double kExp7 = 0x1.a01a012a41653p-13;
  static constexpr double kExp8 = 0x1.a01999fd40148p-16;
  static constexpr double kExp9 = 0x1.71df256e564a2p-19;
  static constexpr double kExp10 = 0x1.28ad8188e640bp-22;
  static constexpr double kExp11 = 0x1.ad7f6675be84ap-26;
  // log: log(1+f) = f + f^2 (-1/2 + f (kLog3 + kLog4 f + ...)), sqrt(1/2) <= 1+f < sqrt(2)
  static constexpr double kSqrtHalf = 0x1.6a09e667f3bcdp-1;
  static constexpr std::uint64_t kSqrtHalfBits = 0x3fe6a09e667f3bcdull;
  static constexpr double kSmallestNormal = 0x1p-1022;
  static constexpr double kLogScale = 0x1p+53;
  static constexpr double kExponentToValue = 0x1p+52;
  static constexpr double kExponentBias = 0x1.00000000003ffp+52;
  static constexpr double kExponentBiasScaled = 0x1.0000000000434p+52;
  // relative error of the fit: 0.041 * 2^-52
  static constexpr double kLog3 = 0x1.5555555555533p-2;
  static constexpr double kLog4 = -0x1.fffffffffef14p-3;
  static constexpr double kLog5 = 0x1.999999999f751p-3;
  static constexpr double kLog6 = -0x1.555555566b37bp-3;
  static constexpr double kLog7 = 0x1.24924922a412dp-3;
  static constexpr double kLog8 = -0x1.ffffff2bf7105p-4;
  static constexpr double kLog9 = 0x1.c71c71dfff932p-4;
  static constexpr double kLog10 = -0x1.9999c26b06c06p-4;
  static constexpr double kLog11 = 0x1.745d3f1f4654bp-4;
  static constexpr double kLog12 = -0x1.5550ee7d7ef2ap-4;
  static constexpr double kLog13 = 0x1.3b0b88f49c931p-4;
  static constexpr double kLog14 = -0x1.24d74e0379358p-4;
  static constexpr double kLog15 = 0x1.11cd0111f3b76p-4;
  static constexpr double kLog16 = -0x1.fba1cfef8141p-5;
  static constexpr double kLog17 = 0x1.d05a6ebeddaeap-5;
  static constexpr double kLog18 = -0x1.d11f79e601d49p-5;
  static constexpr double kLog19 = 0x1.0a620d291f8f8p-4;
  static constexpr double kLog20 = -0x1.ea062bc1d9491p-5;
  static constexpr double kLog21 = 0x1.ac764729c0a57p-6;
  // cos: sin(r) = r + r^3 (kSin3 + kSin5 r^2 + ...), |r| <= pi/4,
  //      cos(r) = 1 - r^2/2 + r^4 (kCos4 + kCos6 r^2 + ...)
  static constexpr double kCosLimit = 0x1p+16;
  static constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  static constexpr double kCosRound = 0x1.8p+52;
  static constexpr double kHalfPiHi = 0x1.921fb54442d18p+0;
  static constexpr double kHalfPiMid = 0x1.1a62633145c07p-54;
  static constexpr double kHalfPiLo = -0x1.f1976b7ed8fbcp-110;
  // relative error of the fit: 0.017 * 2^-52
  static constexpr double kSin3 = -0x1.5555555555548p-3;
  static constexpr double kSin5 = 0x1.111111110f6cep-7;
  static constexpr double kSin7 = -0x1.a01a019bdc7f3p-13;
  static constexpr double kSin9 = 0x1.71de3549e6ccbp-19;
  static constexpr double kSin11 = -0x1.ae5e4278110b6p-26;
  static constexpr double kSin13 = 0x1.5d88a6e16ca9bp-33;
  // relative error of the fit: 0.00027 * 2^-52
  static constexpr double kCos4 = 0x1.555555555554ap-5;
  static constexpr double kCos6 = -0x1.6c16c16c14e6bp-10;
  static constexpr double kCos8 = 0x1.a01a019c66e3bp-16;
  static constexpr double kCos10 = -0x1.27e4f7d509a41p-22;
  static constexpr double kCos12 = 0x1.1ee9c8a07514cp-29;
  static constexpr double kCos14 = -0x1.8f9ca4207a4cp-37;
};

}  // namespace
}  // namespace gradfold
