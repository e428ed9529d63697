// What stands behind MathTable. Include after a lanes_<level>.h.
#pragma once
#include <cstdint>
#include <type_traits>

#include "simd/check-inl.h"
#include "simd/math-inl.h"
#include "simd/simd.h"

namespace gradfold {
namespace {

template <class L, class F>
GRADFOLD_LANE_FUNCTION void apply_each(F f, const typename L::T* in, typename L::T* out, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + L::N <= n; i += L::N) L::store(out + i, f(L::load(in + i)));
  if (i == n) return;
  typename L::T rest[L::N] = {};
  for (std::int64_t j = i; j < n; ++j) rest[j - i] = in[j];
  L::store(rest, f(L::load(rest)));
  for (std::int64_t j = i; j < n; ++j) out[j] = rest[j - i];
}

template <class L>
void apply(MathFunction f, const typename L::T* in, typename L::T* out, std::int64_t n) {
  using V = typename L::V;
  switch (f) {
    case MathFunction::exp: return apply_each<L>([](V x) { return exp<L>(x); }, in, out, n);
    case MathFunction::exp_nonpositive: return apply_each<L>([](V x) { return exp_nonpositive<L>(x); }, in, out, n);
    case MathFunction::log: return apply_each<L>([](V x) { return log<L>(x); }, in, out, n);
    case MathFunction::log1p: return apply_each<L>([](V x) { return log1p<L>(x); }, in, out, n);
    case MathFunction::log1p_unit: return apply_each<L>([](V x) { return log1p_unit<L>(x); }, in, out, n);
    case MathFunction::cos: return apply_each<L>([](V x) { return cos<L>(x); }, in, out, n);
  }
}

// A lane type and, where the level has them, its half lanes.
template <class L>
const char* wrong_member_with_half() {
  if (const char* wrong = wrong_lane_member<L>()) return wrong;
  if constexpr (!std::is_void_v<typename L::Half>) return wrong_lane_member<typename L::Half>();
  return nullptr;
}

inline const char* wrong_member_of_either() {
  const char* wrong = wrong_member_with_half<F32>();
  return wrong != nullptr ? wrong : wrong_member_with_half<F64>();
}

}  // namespace
}  // namespace gradfold
