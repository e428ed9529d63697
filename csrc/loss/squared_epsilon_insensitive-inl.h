// With r = z − y and d = |r| − epsilon: loss = d² and gradient = ±2·d where d > 0, else +0.
#pragma once

namespace gradfold {
namespace {

struct SquaredEpsilonInsensitive {
  template <class L>
  static void evaluate(typename L::V z, typename L::V y, typename L::V epsilon, typename L::V* loss, typename L::V* gradient) {
    const auto r = L::sub(z, y);
    const auto d = L::sub(L::abs(r), epsilon);
    const auto inside = L::le(d, L::zero());
    const auto twice = L::add(d, d);
    *loss = L::select(inside, L::zero(), L::mul(d, d));
    *gradient = L::select(inside, L::zero(), L::select(L::lt(r, L::zero()), L::neg(twice), twice));
  }
};

}  // namespace
}  // namespace gradfold
