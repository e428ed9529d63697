#include "gradient/gram.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "gradient/panels.h"
#include "simd/fpenv.h"
#include "threads/team.h"
#include "train/moments.h"

namespace gradfold {

GRADFOLD_DISPATCH(GramKernels, gram_kernels, gram)

namespace {

// Values of X below which another thread costs more than it saves of their sums.
constexpr std::int64_t kThreadValues = 1 << 17;

bool stopped(const int* stop) { return stop != nullptr && __atomic_load_n(stop, __ATOMIC_RELAXED) != 0; }

// One chunk of a cell's rows, as the kernels want them.
template <class T>
struct ChunkRows {
  std::vector<const T*> x = std::vector<const T*>(kRowChunk);
  std::vector<double> y = std::vector<double>(kRowChunk), weight = std::vector<double>(kRowChunk);

  void read(const DenseRows<T>& X, const T* y_of, const T* weight_of, const std::int64_t* rows, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      x[i] = X.row(rows[i]);
      y[i] = static_cast<double>(y_of[rows[i]]);
      weight[i] = weight_of != nullptr ? static_cast<double>(weight_of[rows[i]]) : 1.0;
    }
  }
};

}  // namespace

double add_moments(std::int64_t columns, double weight, double* mean, double* comoment, double other_weight, const double* other_mean,
                   const double* other_comoment) {
  FloatingPointGuard guard;
  const double both = weight + other_weight, share = other_weight / both, product = weight * share;
  std::vector<double> apart(columns);
  for (std::int64_t i = 0; i < columns; ++i) apart[i] = other_mean[i] - mean[i];
  for (std::int64_t i = 0; i < columns; ++i) {
    double* to = comoment + i * columns;
    const double* other = other_comoment + i * columns;
    const double own = apart[i];
    for (std::int64_t j = 0; j < columns; ++j) to[j] = own * apart[j] * product + to[j] + other[j];
  }
  for (std::int64_t i = 0; i < columns; ++i) mean[i] += apart[i] * share;
  return both;
}

void column_scales(std::int64_t n_features, std::int64_t n_rows, double weight, const double* mean, const double* comoment, double* scale) {
  FloatingPointGuard guard;
  constexpr double eps = std::numeric_limits<double>::epsilon();
  const double n = static_cast<double>(n_rows);
  for (std::int64_t f = 0; f < n_features; ++f) {
    const double variance = comoment[f * (n_features + 1) + f] / weight;
    const double drift = n * eps * mean[f];
    const double noise = n * eps * variance + drift * drift;
    scale[f] = variance <= noise && std::isfinite(variance) ? -1.0 : std::sqrt(variance);
  }
}

void finish_moments(const double* total, std::int64_t size, std::int64_t n_features, const double* shift, double* weight, double* mean,
                    double* comoment) {
  const std::int64_t one = n_features + 1;
  *weight = total[one * size + one];
  for (std::int64_t i = 0; i < one; ++i) mean[i] = total[i * size + one] / *weight;  // of the shifted column
  for (std::int64_t i = 0; i < one; ++i)
    for (std::int64_t j = i; j < one; ++j)
      comoment[i * one + j] = comoment[j * one + i] = __builtin_fma(-mean[i], total[j * size + one], total[i * size + j]);
  for (std::int64_t i = 0; i < one; ++i) mean[i] += shift[i];
}

template <class T>
void cell_moments(const DenseRows<T>& X, const T* y, const T* weight, const std::int64_t* order, const std::int64_t* offset,
                  std::int64_t n_cells, const CellMoments& out, int n_threads, const std::function<void()>& poll, const int* stop) {
  FloatingPointGuard guard;
  const GramKernels<T>& kernels = gram_kernels<T>(current_level());
  const MomentKernels<T>& moments = moment_kernels<T>(current_level());
  const std::int64_t p = X.n_features, size = gram_size(p, kernels.panel), one = p + 1;

  struct Cell {
    AlignedArray<double> shift, total;
  };
  struct Item {
    std::int64_t cell, begin, n;
  };
  std::vector<Cell> cells(n_cells);
  std::vector<Item> list;
  for (std::int64_t c = 0; c < n_cells; ++c) {
    const std::int64_t rows = offset[c + 1] - offset[c];
    if (rows == 0) {
      std::fill_n(out.mean + c * one, one, 0.0);
      std::fill_n(out.comoment + c * one * one, one * one, 0.0);
      out.weight[c] = 0;
      continue;
    }
    for (std::int64_t at = 0; at < rows; at += kRowChunk) list.push_back({c, at, std::min(kRowChunk, rows - at)});
    cells[c] = {AlignedArray<double>(one), AlignedArray<double>(size * size)};
  }
  // Chunks of all cells side by side: rows of different folds share cache lines and pages.
  std::stable_sort(list.begin(), list.end(), [](const Item& a, const Item& b) { return a.begin < b.begin; });
  for (Item& item : list) item.begin += offset[item.cell];
  const std::int64_t values = std::min(n_cells * kRowChunk, offset[n_cells]) * p;
  const int cell_threads = values < kThreadValues ? 1 : static_cast<int>(std::min<std::int64_t>(n_threads, n_cells));
  std::atomic<std::int64_t> to_shift{0}, to_finish{0};
  run_team(cell_threads, [&](int) {
    ChunkRows<T> first;
    for (std::int64_t c = to_shift++; c < n_cells; c = to_shift++) {
      const std::int64_t n = std::min(kRowChunk, offset[c + 1] - offset[c]);
      if (n == 0) continue;
      first.read(X, y, weight, order + offset[c], n);
      double* shift = cells[c].shift.get();
      moments.sums(first.x.data(), first.weight.data(), n, p, nullptr, shift);
      double sum = 0, sum_y = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        sum += first.weight[i];
        sum_y = __builtin_fma(first.weight[i], first.y[i], sum_y);
      }
      shift[p] = sum_y;
      for (std::int64_t f = 0; f < one; ++f) shift[f] /= sum;
    }
  });

  const std::int64_t n_items = static_cast<std::int64_t>(list.size());
  OrderedItems items;
  run_team(static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(n_threads, n_items))), [&](int) {
    ChunkRows<T> rows;
    AlignedArray<double> gram(size * size), scratch(gram_scratch(size));
    for (std::int64_t at = items.take(), following; at < n_items; at = following) {
      const Item& item = list[at];
      Cell& cell = cells[item.cell];
      if (!stopped(stop)) {
        rows.read(X, y, weight, order + item.begin, item.n);
        kernels.chunk({item.n, rows.x.data(), rows.y.data(), weight != nullptr ? rows.weight.data() : nullptr, p, cell.shift.get(),
                       gram.get(), scratch.get()});
      }
      // The first block of a chunk has no block before it that would ask for its rows.
      following = items.take();
      for (std::int64_t i = 0; following < n_items && i < std::min(kGramRows, list[following].n); ++i) {
        const T* const row = X.row(order[list[following].begin + i]);
#pragma GCC unroll 4
        for (std::int64_t f = 0; f < p; f += 64 / static_cast<std::int64_t>(sizeof(T))) __builtin_prefetch(row + f, 0, 2);
      }
      items.turn(at);
      for (std::int64_t i = 0; i < p + 2; ++i)
        for (std::int64_t j = i; j < p + 2; ++j) cell.total[i * size + j] += gram[i * size + j];
      items.done(at);
    }
  }, poll);

  run_team(cell_threads, [&](int) {
    for (std::int64_t c = to_finish++; c < n_cells && !stopped(stop); c = to_finish++) {
      if (offset[c + 1] == offset[c]) continue;
      finish_moments(cells[c].total.get(), size, p, cells[c].shift.get(), out.weight + c, out.mean + c * one, out.comoment + c * one * one);
    }
  });
}

#define GRADFOLD_INSTANTIATE(T)                                                                                              \
  template void cell_moments(const DenseRows<T>&, const T*, const T*, const std::int64_t*, const std::int64_t*, std::int64_t, \
                             const CellMoments&, int, const std::function<void()>&, const int*);
GRADFOLD_INSTANTIATE(float)
GRADFOLD_INSTANTIATE(double)

}  // namespace gradfold
