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
  CellMoments out;      // of this model
  // Which features' moments are wanted, ascending; `shift` and `out` are then of those alone, as though X had no others. Null: all.
  const std::int64_t* columns = nullptr;
  std::int64_t n_columns = 0;
};

// Whether a loss's second derivative can be told from its first one; it can for all that have one, but for multinomial.
bool has_hessian(Loss loss);

// Sums of all models that are given at once should take no more memory a thread than this; those of one model take hessian_bytes.
constexpr std::int64_t kHessianBytes = std::int64_t{32} << 20;
constexpr std::int64_t hessian_bytes(std::int64_t n_columns) { return 8 * (n_columns + 32) * (n_columns + 32); }

// Per model, in its `out` (whose column n_features is meaningless): sum of h, the means weighted by h, and sum of h * (a - mean a) * (b -
// mean b), with h = weight * the second derivative of the loss at the row. Chunks of kRowChunk rows in natural order, each from +0.
template <class T>
void hessian_moments(const DenseRows<T>& X, const T* y, const T* weight, const FoldsView& folds, Loss loss,
                     const std::vector<HessianModel<T>>& models, int n_threads,
                     const std::function<void()>& poll, const int* stop);

}  // namespace gradfold
