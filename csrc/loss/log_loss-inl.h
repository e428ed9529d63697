// Binary log loss of a raw prediction z; y > 0 is the positive class, so {0, 1} and {-1, 1} both serve.
// With t = −z for the positive class and z for the other, loss = log(1 + exp(t)) and |gradient| = 1 / (1 + exp(−t)), both written
// with e = exp(−|z|) ≤ 1: nothing overflows, and a gradient near 0 keeps its relative accuracy, which p − y would lose.
#pragma once
#include "simd/math-inl.h"

namespace gradfold {
namespace {

struct LogLoss {
  template <class L>
  static typename L::V prepare(typename L::V z) {
    return exp_nonpositive<L>(L::neg_abs(z));
  }
  template <class L>
  static void finish(typename L::V z, typename L::V e, typename L::V y, typename L::V* loss, typename L::V* gradient) {
    const auto zero = L::zero();
    const auto one = L::set1(typename L::T(1));
    const auto positive = L::lt(zero, y);
    const auto t = L::neg_where(positive, z);
    const auto above = L::lt(zero, t);
    *gradient = L::neg_where(positive, L::div(L::select(above, one, e), L::add(one, e)));
    *loss = L::add_where(above, log1p_unit<L>(e), t);
  }
  template <class L>
  static void evaluate(typename L::V z, typename L::V y, typename L::V, typename L::V* loss, typename L::V* gradient) {
    finish<L>(z, prepare<L>(z), y, loss, gradient);
  }
};

}  // namespace
}  // namespace gradfold
