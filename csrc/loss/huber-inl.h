// With r = z − y: loss = ½·r² and gradient = r where |r| <= epsilon, else epsilon·|r| − ½·epsilon² and ±epsilon. A z that is NaN
// gives NaN for both.
#pragma once

namespace gradfold {
namespace {

struct Huber {
  template <class L>
  static void evaluate(typename L::V z, typename L::V y, typename L::V epsilon, typename L::V* loss, typename L::V* gradient) {
    const auto half = L::set1(typename L::T(0.5));
    const auto r = L::sub(z, y);
    const auto size = L::abs(r);
    const auto linear = L::lt(epsilon, size);
    const auto slope = L::select(L::lt(r, L::zero()), L::neg(epsilon), epsilon);
    const auto straight = L::sub(L::mul(epsilon, size), L::mul(half, L::mul(epsilon, epsilon)));
    *loss = L::select(linear, straight, L::mul(half, L::mul(r, r)));
    *gradient = L::select(linear, slope, r);
  }
};

}  // namespace
}  // namespace gradfold
