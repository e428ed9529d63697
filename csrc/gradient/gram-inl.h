// Include after the level's lanes; internal linkage throughout.
#pragma once
#include "gradient/gram.h"

namespace gradfold {
namespace {

template <class D>
struct GramTile {
  static constexpr int kVectors = 3;
  static constexpr int kPanel = kVectors * D::N;
  // Rows of the register tile, which must divide a panel.
  static constexpr int kRows = kPanel % D::kRowTile == 0 ? D::kRowTile : kPanel;
};

// gram[i][j] over kRows columns i and NV vectors of columns j: FMA over rows in order.
template <class D, int NV>
void gram_tile(const double* a, const double* b, std::int64_t n_rows, bool first, double* gram, std::int64_t size) {
  constexpr int kRows = GramTile<D>::kRows, kPanel = GramTile<D>::kPanel;
  typename D::V sum[kRows][NV];
  for (int i = 0; i < kRows; ++i)
    for (int v = 0; v < NV; ++v) sum[i][v] = first ? D::zero() : D::load(gram + i * size + v * D::N);
  for (std::int64_t r = 0; r < n_rows; ++r) {
    typename D::V right[NV];
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) right[v] = D::load(b + r * kPanel + v * D::N);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const auto left = D::set1(a[r * kPanel + i]);
#pragma GCC unroll 3
      for (int v = 0; v < NV; ++v) sum[i][v] = D::fma(left, right[v], sum[i][v]);
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int v = 0; v < NV; ++v) D::store(gram + i * size + v * D::N, sum[i][v]);
}

// Shifted columns of a row, panel by panel; the panels of a row lie kGramRows rows apart.
template <class T>
void pack_gram_row(const T* x, double y, const double* shift, std::int64_t p, std::int64_t size, int panel, double* to) {
  for (std::int64_t begin = 0; begin < size; begin += panel, to += kGramRows * panel) {
    const std::int64_t n = p - begin < panel ? (p > begin ? p - begin : 0) : panel;
    for (std::int64_t c = 0; c < n; ++c) to[c] = static_cast<double>(x[begin + c]) - shift[begin + c];
    for (std::int64_t c = n; c < panel; ++c) to[c] = begin + c == p ? y - shift[p] : (begin + c == p + 1 ? 1.0 : 0.0);
  }
}

// Asks for the rows x[begin] to x[end - 1] to be brought into the second-level cache.
template <class T>
void fetch_rows(const T* const* x, std::int64_t begin, std::int64_t end, std::int64_t p) {
  constexpr std::int64_t kLine = 64 / sizeof(T);
  for (std::int64_t r = begin; r < end; ++r) {
#pragma GCC unroll 4
    for (std::int64_t f = 0; f < p; f += kLine) __builtin_prefetch(x[r] + f, 0, 2);
  }
}

template <class L>
void gram_chunk(const GramTask<typename L::T>& task) {
  using D = typename L::Wide;
  constexpr int kPanel = GramTile<D>::kPanel, kRows = GramTile<D>::kRows;
  const std::int64_t columns = task.n_features + 2, size = gram_size(task.n_features, kPanel), n_panels = size / kPanel;
  double* const packed = task.scratch;
  double* const weighted = task.weight != nullptr ? task.scratch + kGramRows * size : packed;
  std::int64_t n_tiles = 0;
  for (std::int64_t k = 0; k < n_panels; ++k) n_tiles += ((k + 1 < n_panels ? (k + 1) * kPanel : columns) + kRows - 1) / kRows;
  const std::int64_t fetched = kGramRows / n_tiles + 1;  // rows for each tile
  for (std::int64_t begin = 0; begin < task.n_rows; begin += kGramRows) {
    const std::int64_t n = task.n_rows - begin < kGramRows ? task.n_rows - begin : kGramRows;
    for (std::int64_t r = 0; r < n; ++r)
      pack_gram_row(task.x[begin + r], task.y[begin + r], task.shift, task.n_features, size, kPanel, packed + r * kPanel);
    for (std::int64_t k = 0; task.weight != nullptr && k < n_panels; ++k)
      for (std::int64_t r = 0; r < n; ++r) {
        const std::int64_t at = (k * kGramRows + r) * kPanel;
        for (int c = 0; c < kPanel; ++c) weighted[at + c] = task.weight[begin + r] * packed[at + c];
      }
    // Rows of a fold lie apart, where no hardware foresees them: those of the next block are asked for while this one is multiplied.
    std::int64_t ahead = begin + n;
    const std::int64_t last = ahead + kGramRows < task.n_rows ? ahead + kGramRows : task.n_rows;
    for (std::int64_t k = 0; k < n_panels; ++k) {
      const double* right = packed + k * kGramRows * kPanel;
      const std::int64_t j = k * kPanel, left_of = j + kPanel < columns ? j + kPanel : columns;
      const std::int64_t n_vectors = (left_of - j + D::N - 1) / D::N;
      for (std::int64_t i = 0; i < left_of; i += kRows) {
        const double* left = weighted + i / kPanel * kGramRows * kPanel + i % kPanel;
        double* gram = task.gram + i * size + j;
        if (ahead < last) {
          const std::int64_t end = ahead + fetched < last ? ahead + fetched : last;
          fetch_rows(task.x, ahead, end, task.n_features);
          ahead = end;
        }
        if (n_vectors == 3)
          gram_tile<D, 3>(left, right, n, begin == 0, gram, size);
        else if (n_vectors == 2)
          gram_tile<D, 2>(left, right, n, begin == 0, gram, size);
        else
          gram_tile<D, 1>(left, right, n, begin == 0, gram, size);
      }
    }
  }
}

}  // namespace
}  // namespace gradfold

#define GRADFOLD_GRAM_KERNELS(level)                                                                        \
  namespace gradfold {                                                                                      \
  extern const GramKernels<float> gram_f32_##level;                                                         \
  extern const GramKernels<double> gram_f64_##level;                                                        \
  const GramKernels<float> gram_f32_##level = {GramTile<F64>::kPanel, &gram_chunk<F32>};                    \
  const GramKernels<double> gram_f64_##level = {GramTile<F64>::kPanel, &gram_chunk<F64>};                   \
  }
