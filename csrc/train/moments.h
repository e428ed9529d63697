// Weighted sums of the columns of X, as for standardising: lanes are features, sums are float64 over the rows in order.
#pragma once
#include <cstdint>

#include "levels/levels.h"

namespace gradfold {

template <class T>
struct MomentKernels {
  // out[f] = sum over rows of weight * x[f], or, with `mean`, of weight * (x[f] - mean[f])^2; one chunk of rows from +0.
  void (*sums)(const T* const* x, const double* weight, std::int64_t n_rows, std::int64_t n_features, const double* mean,
               double* out);
  // out[k][f] = sum over rows of weight[k][row] * (x[f] - mean[f]) from +0, of n_sums such vectors; weights can be below 0.
  void (*centred)(const T* const* x, const double* const* weight, std::int64_t n_sums, std::int64_t n_rows, std::int64_t n_features,
                  const double* mean, double* const* out);
};

template <class T>
const MomentKernels<T>& moment_kernels(Level level);

}  // namespace gradfold
