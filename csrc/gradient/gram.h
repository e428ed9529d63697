// Gram matrices of cells: disjoint lists of rows, such as the folds of a k-fold. Sums are float64, whatever X's type.
#pragma once
#include <cstdint>
#include <functional>

#include "gradient/gradient.h"

namespace gradfold {

// One chunk of at most kRowChunk rows of a cell. Columns are the features, y and a constant 1, each less its shift (that of the last is 0).
template <class T>
struct GramTask {
  std::int64_t n_rows;
  const T* const* x;
  const double* y;
  const double* weight;  // null: 1
  std::int64_t n_features;
  const double* shift;   // [n_features + 1]
  double* gram;          // [size][size], written: sum over rows of weight * column i * column j, for i <= j; the rest is anything
  double* scratch;       // gram_scratch(size)
};

constexpr std::int64_t kGramRows = 64;  // rows that are packed at once

inline std::int64_t gram_size(std::int64_t n_features, int panel) { return (n_features + 2 + panel - 1) / panel * panel; }
inline std::int64_t gram_scratch(std::int64_t size) { return 2 * kGramRows * size; }

template <class T>
struct GramKernels {
  int panel;  // columns of a panel of packed rows; a size is a multiple of it
  void (*chunk)(const GramTask<T>&);
};

template <class T>
const GramKernels<T>& gram_kernels(Level level);

// What is known of each cell. Columns are the features and then y. A cell without rows has zeros.
struct CellMoments {
  double* weight;    // [n_cells] sum of weights
  double* mean;      // [n_cells][n_features + 1]
  double* comoment;  // [n_cells][n_features + 1][n_features + 1]: sum of weight * (a - mean a) * (b - mean b), both triangles
};

// Sums of other rows are added to some rows' own: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for
// computing sample variances", 1979. `columns` are n_features + 1; returns the sum of weights.
double add_moments(std::int64_t columns, double weight, double* mean, double* comoment, double other_weight, const double* other_mean,
                   const double* other_comoment);

// The standard deviation of each feature, -1 for one that is constant up to rounding by scikit-learn's bound, var <= n eps var +
// (n eps mean)^2; not finite where the variance is not.
void column_scales(std::int64_t n_features, std::int64_t n_rows, double weight, const double* mean, const double* comoment, double* scale);

// Of the totals of all chunks of a cell: [size][size], about `shift` and with a last column of 1.
void finish_moments(const double* total, std::int64_t size, std::int64_t n_features, const double* shift, double* weight, double* mean,
                    double* comoment);

// The rows of cell c are order[offset[c]] to order[offset[c + 1] - 1]; `weight` is per row of X, null means 1. Per cell: columns are
// shifted by their mean over the cell's first kRowChunk rows, so that a mean far beyond the scale costs no digits; then chunks of
// kRowChunk rows in the order given, each from +0, added in order. No row but the cell's own is read.
// Stops early, with results undefined, when *stop is set.
template <class T>
void cell_moments(const DenseRows<T>& X, const T* y, const T* weight, const std::int64_t* order, const std::int64_t* offset,
                  std::int64_t n_cells, const CellMoments& out, int n_threads, const std::function<void()>& poll, const int* stop);

}  // namespace gradfold
