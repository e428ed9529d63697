// loss = ½(y − z)², gradient = z − y.
#pragma once

namespace gradfold {
namespace {

struct SquaredError {
  template <class L>
  static void evaluate(typename L::V z, typename L::V y, typename L::V, typename L::V* loss, typename L::V* gradient) {
    const auto d = L::sub(z, y);
    *gradient = d;
    *loss = L::mul(L::set1(typename L::T(0.5)), L::mul(d, d));
  }
};

}  // namespace
}  // namespace gradfold
