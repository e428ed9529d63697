// With s = 1 for y > 0 and −1 else, d = 1 − s·z: loss = d² and gradient = −2·s·d where d > 0, else +0.
#pragma once

namespace gradfold {
namespace {

struct SquaredHinge {
  template <class L>
  static void evaluate(typename L::V z, typename L::V y, typename L::V, typename L::V* loss, typename L::V* gradient) {
    const auto one = L::set1(typename L::T(1));
    const auto positive = L::lt(L::zero(), y);
    const auto d = L::sub(one, L::select(positive, z, L::neg(z)));
    const auto beyond = L::le(d, L::zero());
    const auto twice = L::add(d, d);
    *loss = L::select(beyond, L::zero(), L::mul(d, d));
    *gradient = L::select(beyond, L::zero(), L::select(positive, L::neg(twice), twice));
  }
};

}  // namespace
}  // namespace gradfold
