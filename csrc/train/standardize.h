// Per split: how much weight it trains on, and the moments of its training rows.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "gradient/gradient.h"

namespace gradfold {

struct SplitWeights {
  std::vector<std::int64_t> count;  // training rows with a weight other than 0
  std::vector<double> sum;          // their weight, float64 in chunks of 1,024 rows in natural order
};

// For the splits of `splits` alone; other entries stay 0. Stops early when *stop is set.
template <class T>
SplitWeights split_weights(const FoldsView& folds, const std::vector<std::int64_t>& splits, const T* weight, int n_threads,
                           const std::function<void()>& poll, const int* stop);

struct SplitMoments {
  std::vector<double> mean;   // [n_splits][n_features]
  std::vector<double> scale;  // the same; -1 marks a constant column, whose scale is 1 and whose gradient is 0
};

// Weighted mean and standard deviation (divisor: the sum of weights) of each split's own training rows: two passes, float64,
// chunks of 1,024 rows in natural order. A column that is constant up to rounding has scale 1 (the bound is scikit-learn's,
// var <= n eps var + (n eps mean)^2). Each split is summed on its own over the rows it trains on, so its moments are the same
// bits whatever other splits exist, and no held-out row can touch them.
template <class T>
SplitMoments split_moments(const DenseRows<T>& X, const FoldsView& folds, const std::vector<std::int64_t>& splits,
                           const SplitWeights& weights, const T* weight, int n_threads, const std::function<void()>& poll,
                           const int* stop);

}  // namespace gradfold
