// With s = 1 for y > 0 and −1 else: loss = max(0, −s·z), gradient = −s where s·z <= 0, else +0. A z that is NaN gives NaN for both.
#pragma once

namespace gradfold {
namespace {

struct Perceptron {
  template <class L>
  static void evaluate(typename L::V z, typename L::V y, typename L::V, typename L::V* loss, typename L::V* gradient) {
    const auto one = L::set1(typename L::T(1));
    const auto positive = L::lt(L::zero(), y);
    const auto margin = L::select(positive, z, L::neg(z));
    const auto beyond = L::lt(L::zero(), margin);
    const auto slope = L::select(positive, L::neg(one), one);
    *loss = L::select(beyond, L::zero(), L::sub(L::zero(), margin));
    *gradient = L::select(beyond, L::zero(), L::select(L::eq(z, z), slope, z));
  }
};

}  // namespace
}  // namespace gradfold
