// With r = z − y: loss = max(0, |r| − epsilon), gradient = ±1 where |r| > epsilon, else +0. A z that is NaN gives NaN for both.
#pragma once

namespace gradfold {
namespace {

struct EpsilonInsensitive {
  template <class L>
  static void evaluate(typename L::V z, typename L::V y, typename L::V epsilon, typename L::V* loss, typename L::V* gradient) {
    const auto one = L::set1(typename L::T(1));
    const auto r = L::sub(z, y);
    const auto size = L::abs(r);
    const auto inside = L::le(size, epsilon);
    const auto slope = L::select(L::lt(r, L::zero()), L::neg(one), one);
    *loss = L::select(inside, L::zero(), L::sub(size, epsilon));
    *gradient = L::select(inside, L::zero(), L::select(L::eq(r, r), slope, r));
  }
};

}  // namespace
}  // namespace gradfold
