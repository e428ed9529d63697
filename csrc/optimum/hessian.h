// Second derivatives of each model's own loss at its training rows: the Hessian, as moments that are weighted by them, and their sums
// along the raw predictions.
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

// A model whose sums are wanted: about `centre`, a raw prediction.
template <class T>
struct CurvatureModel {
  std::int64_t split;
  const T* w;
  T intercept;
  double epsilon, centre;
};

// Sums of the weights, h, h * u and h * u^2 of a model's rows, u being the raw prediction less the centre, and h as above; and how many
// rows have an h that is not 0.
struct CurvatureSums {
  double weight = 0, h = 0, hu = 0, huu = 0;
  std::int64_t bent = 0;
};

// Of the training rows among rows[0] to rows[n_rows - 1]. Chunks of kRowChunk of these positions, each from +0, added in order.
template <class T>
std::vector<CurvatureSums> curvature_sums(const DenseRows<T>& X, const T* y, const T* weight, const std::int64_t* rows, std::int64_t n_rows,
                                          const FoldsView& folds, Loss loss, const std::vector<CurvatureModel<T>>& models, int n_threads,
                                          const std::function<void()>& poll, const int* stop);

}  // namespace gradfold
