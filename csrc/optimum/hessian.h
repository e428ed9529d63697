// The Hessian of each model's own loss, as moments of its training rows weighted by the second derivative.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "gradient/gradient.h"
#include "gradient/gram.h"

namespace gradfold {

template <class T>
struct HessianModel {
  std::int64_t split;
  const T* w;           // [n_features] on the scale of X
  T intercept;
  double epsilon;       // of the loss
  const double* shift;  // [n_features + 1], for digits alone; the last is not read
};

// Whether a loss's second derivative can be told from its first one; it can for all that have one, but for multinomial.
bool has_hessian(Loss loss);

// Models that may be given at once: so that their sums take no more than 32 MB a thread.
std::int64_t most_hessians(std::int64_t n_features);

// Per model, in `out` (whose column n_features is meaningless): sum of h, the means weighted by h, and sum of h * (a - mean a) * (b -
// mean b), with h = weight * the second derivative of the loss at the row. Chunks of kRowChunk rows in natural order, each from +0.
template <class T>
void hessian_moments(const DenseRows<T>& X, const T* y, const T* weight, const FoldsView& folds, Loss loss,
                     const std::vector<HessianModel<T>>& models, const CellMoments& out, int n_threads,
                     const std::function<void()>& poll, const int* stop);

}  // namespace gradfold
