// Binary log loss of a raw prediction z; y > 0 is the positive class, so {0, 1} and {-1, 1} both serve.
// With t = −z for the positive class and z for the other, loss = log(1 + exp(t)) and |gradient| = 1 / (1 + exp(−t)), both written
// with e = exp(−|z|) ≤ 1: nothing overflows, and a gradient near 0 keeps its relative accuracy, which p − y would lose.
#pragma once
#include "simd/math-inl.h"

namespace gradfold {
namespace {

struct LogLoss {
  template <class L>
  static void evaluate(typename L::V z, typename L::V y, typename L::V, typename L::V* loss, typename L::V* gradient) {
    const auto zero = L::zero();
    const auto one = L::set1(typename L::T(1));
    const auto positive = L::lt(zero, y);
    const auto t = L::select(positive, L::neg(z), z);
    const auto above = L::lt(zero, t);
    const auto e = exp_nonpositive<L>(L::neg(L::abs(z)));
    const auto probability = L::div(L::select(above, one, e), L::add(one, e));
    *gradient = L::select(positive, L::neg(probability), probability);
    *loss = L::add(L::select(above, t, zero), log1p_unit<L>(e));
  }
};

}  // namespace
}  // namespace gradfold
