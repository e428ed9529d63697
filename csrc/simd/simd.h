// The maths functions of math-inl.h over arrays, for tests: kernels include the lanes and the functions themselves.
#pragma once
#include <cstdint>

#include "levels/levels.h"

namespace gradfold {

enum class MathFunction : int { exp, exp_nonpositive, log, log1p, log1p_unit, cos };

// out[i] = f(in[i]) for 0 <= i < n at one level. `in` and `out` are the same array or do not overlap.
void math_apply(Level level, MathFunction f, const float* in, float* out, std::int64_t n);
void math_apply(Level level, MathFunction f, const double* in, double* out, std::int64_t n);

// The name of the first member of a level's lanes that disagrees with plain C++ on single elements, or nullptr.
const char* wrong_lane_member(Level level);

// What each level provides.
struct MathTable {
  void (*apply_float)(MathFunction f, const float* in, float* out, std::int64_t n);
  void (*apply_double)(MathFunction f, const double* in, double* out, std::int64_t n);
  const char* (*wrong_lane_member)();
};
extern const MathTable math_table_serial;
extern const MathTable math_table_x86_v3;
extern const MathTable math_table_x86_v4;
extern const MathTable math_table_neon;

}  // namespace gradfold
