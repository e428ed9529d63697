// With s = 1 for y > 0 and −1 else, t = s·z and d = 1 − t: loss = 0 for t >= 1, d² for −1 <= t < 1, else −4·t;
// gradient = +0, −2·s·d, −4·s. A z that is NaN gives NaN for both.
#pragma once

namespace gradfold {
namespace {

struct ModifiedHuber {
  template <class L>
  static void evaluate(typename L::V z, typename L::V y, typename L::V, typename L::V* loss, typename L::V* gradient) {
    const auto one = L::set1(typename L::T(1));
    const auto four = L::set1(typename L::T(4));
    const auto positive = L::lt(L::zero(), y);
    const auto t = L::select(positive, z, L::neg(z));
    const auto d = L::sub(one, t);
    const auto beyond = L::le(one, t);
    const auto linear = L::lt(t, L::neg(one));
    const auto slope = L::select(linear, four, L::add(d, d));
    *loss = L::select(beyond, L::zero(), L::select(linear, L::neg(L::mul(four, t)), L::mul(d, d)));
    *gradient = L::select(beyond, L::zero(), L::select(positive, L::neg(slope), slope));
  }
};

}  // namespace
}  // namespace gradfold
