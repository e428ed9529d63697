#include "simd/simd.h"

#include "simd/fpenv.h"

namespace gradfold {
namespace {

const MathTable& table(Level level) {
  GRADFOLD_SELECT_LEVEL(level, math_table_)
}

}  // namespace

void math_apply(Level level, MathFunction f, const float* in, float* out, std::int64_t n) {
  const FloatingPointGuard guard;
  table(level).apply_float(f, in, out, n);
}

void math_apply(Level level, MathFunction f, const double* in, double* out, std::int64_t n) {
  const FloatingPointGuard guard;
  table(level).apply_double(f, in, out, n);
}

const char* wrong_lane_member(Level level) {
  const FloatingPointGuard guard;
  return table(level).wrong_lane_member();
}

}  // namespace gradfold
