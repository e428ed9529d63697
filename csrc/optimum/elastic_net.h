// What elastic nets of squared error share, whichever way they come to their optimum.
#pragma once
#include <algorithm>

namespace gradfold {

constexpr double kNearOptimum = 0.05;  // the duality gap that is enough, as a share of tol and the mean square of y

// Objective and duality gap. With r = y - Xv, and l2 as further rows of X, any scaled residual is a dual point: the gap is that of the one
// that fits the constraint (as in scikit-learn's coordinate descent).
struct NetGap {
  double objective, gap;
};
// All per unit of weight. `square` is the mean square of y and `rest` that of r; `fitted` the product of Xv and y; norm1 and norm2 are
// sums of |v| and v^2; `most` is the largest product of a column with r less l2 * v.
inline NetGap net_gap(double square, double rest, double fitted, double norm1, double norm2, double most, double l1, double l2) {
  const double all = rest + l2 * norm2, by = most > l1 ? l1 / most : 1.0;
  const double objective = 0.5 * rest + l1 * norm1 + 0.5 * l2 * norm2;
  const double dual = by * (square - fitted) - 0.5 * by * by * all;
  return {objective, std::max(0.0, objective - dual)};
}

}  // namespace gradfold
