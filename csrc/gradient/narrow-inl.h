// The same chunk for a panel of few models: lanes are rows in the forward and residual passes and features in the gradient, so that
// one model does not pay for a whole vector of models. The chains of FMAs are those of the wide kernel, and so are the bits.
#pragma once
#include <cstdint>

#include "gradient/gradient.h"
#include "loss/losses-inl.h"
#include "simd/columns-inl.h"

namespace gradfold {
namespace {

inline float scalar_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double scalar_fma(double a, double b, double c) { return __builtin_fma(a, b, c); }

// What to fetch while a group of rows is worked on: the group after it. So many streams of short rows are more than a hardware
// prefetcher follows; rows without gaps are fetched as the one stream that they are.
template <class T>
struct Ahead {
  const T* const* rows;
  const char* stream;  // null: row by row
  std::int64_t stream_bytes;
  template <int ROWS>
  void fetch(std::int64_t line) const {
    constexpr std::int64_t size = sizeof(T);
    if (stream != nullptr) {
      const std::int64_t begin = line * size * ROWS;
      for (std::int64_t at = begin; at < begin + 64 * ROWS && at < stream_bytes; at += 64) __builtin_prefetch(stream + at);
    } else {
      for (int i = 0; i < ROWS; ++i) __builtin_prefetch(rows[i] + line);
    }
  }
};

// z[m][i] for GROUPS * L::N rows, z being [n_models][kScratchRows].
template <class L, int M, int GROUPS, class Rows>
void narrow_forward(const Rows rows, const Ahead<typename L::T> ahead, std::int64_t n_features, const typename L::T* W,
                    const typename L::T* intercept, typename L::T* z) {
  using T = typename L::T;
  using V = typename L::V;
  using C = Columns<L>;
  constexpr std::int64_t kLine = 64 / sizeof(T);
  V sum[GROUPS][M];
  for (int g = 0; g < GROUPS; ++g)
    for (int m = 0; m < M; ++m) sum[g][m] = L::zero();
  for (std::int64_t f0 = 0; f0 < n_features; f0 += kFeatureChunk) {
    const std::int64_t f1 = f0 + kFeatureChunk < n_features ? f0 + kFeatureChunk : n_features;
    V acc[GROUPS][M];
    for (int g = 0; g < GROUPS; ++g)
      for (int m = 0; m < M; ++m) acc[g][m] = L::zero();
    for (std::int64_t line = f0; line < f1; line += kLine) {
      ahead.template fetch<GROUPS * L::N>(line);
      const std::int64_t end = line + kLine < f1 ? line + kLine : f1;
      std::int64_t f = line;
      for (; f + C::kColumns <= end; f += C::kColumns)
#pragma GCC unroll 2
        for (int g = 0; g < GROUPS; ++g) {
          V column[C::kColumns];
          C::load(rows.next(g * L::N), f, column);
#pragma GCC unroll 4
          for (int c = 0; c < C::kColumns; ++c)
#pragma GCC unroll 4
            for (int m = 0; m < M; ++m) acc[g][m] = L::fma(column[c], L::set1(W[m * n_features + f + c]), acc[g][m]);
        }
      for (; f < end; ++f)
        for (int g = 0; g < GROUPS; ++g) {
          T column[L::N];
          const auto at = rows.next(g * L::N).template at<1, L::N>(f);
          for (int i = 0; i < L::N; ++i) column[i] = *at.row(i, 0);
          const V v = L::load(column);
          for (int m = 0; m < M; ++m) acc[g][m] = L::fma(v, L::set1(W[m * n_features + f]), acc[g][m]);
        }
    }
    for (int g = 0; g < GROUPS; ++g)
      for (int m = 0; m < M; ++m) sum[g][m] = L::add(sum[g][m], acc[g][m]);
  }
  for (int g = 0; g < GROUPS; ++g)
    for (int m = 0; m < M; ++m) L::store(z + m * kScratchRows + g * L::N, L::add(sum[g][m], L::set1(intercept[m])));
}

// Forward of a block's rows [r0, r0 + n).
template <class L, int M>
void narrow_forward_block(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, const typename L::T* W) {
  using T = typename L::T;
  constexpr int kGroups = M == 1 ? 2 : 1;  // two chains for each model hide the latency of the FMA
  auto even = [](const T* const* rows, int count) {
    const std::int64_t stride = rows[1] - rows[0];
    bool same = true;
    for (int k = 2; k < count; ++k) same &= rows[k] - rows[k - 1] == stride;
    return same;
  };
  std::int64_t i = 0;
  auto run = [&]<int GROUPS>() {
    constexpr int rows_of = GROUPS * L::N;
    for (; i < n; i += rows_of) {
      const T* const* rows = task.x + r0 + i;
      const T* filled[rows_of];
      if (i + rows_of > n) {
        if constexpr (GROUPS > 1) return;
        // The last rows of a block: their vector is filled up with the last row again.
        for (int k = 0; k < rows_of; ++k) filled[k] = rows[k < n - i ? k : n - i - 1];
        rows = filled;
      }
      Ahead<T> ahead{rows, nullptr, 0};
      if (task.n_rows - r0 - i >= 3 * rows_of) {
        ahead.rows = rows + 2 * rows_of;
        if (rows[3 * rows_of - 1] - rows[0] == (3 * rows_of - 1) * task.n_features)
          ahead = {ahead.rows, reinterpret_cast<const char*>(ahead.rows[0]), rows_of * task.n_features * std::int64_t{sizeof(T)}};
      }
      T* z = task.scratch + i;
      if (even(rows, rows_of))
        narrow_forward<L, M, GROUPS>(RowStride<T>{rows[0], rows[1] - rows[0]}, ahead, task.n_features, W, task.intercept, z);
      else
        narrow_forward<L, M, GROUPS>(RowPointers<T>{rows}, ahead, task.n_features, W, task.intercept, z);
    }
  };
  if constexpr (kGroups > 1) run.template operator()<kGroups>();
  run.template operator()<1>();
}

template <class T, int M>
struct NarrowSums {
  T residual[M] = {}, count[M] = {};
  double loss[M] = {}, weight[M] = {};
};

// Residuals of one model over `n` rows, in place of its z; returns whether a row it does not use has a z that is not finite.
template <class L, class LossType>
bool narrow_residual(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, int lane, typename L::T* z,
                     typename L::T& residual_sum, typename L::T& count, double& loss_sum, double& weight_sum) {
  using T = typename L::T;
  using V = typename L::V;
  bool poisoned = false;
  for (std::int64_t i = 0; i < n; i += L::N) {
    const std::int64_t left = n - i < L::N ? n - i : L::N;
    const std::uint64_t all = left < 64 ? (std::uint64_t{1} << left) - 1 : ~std::uint64_t{0};
    std::uint64_t common = ~std::uint64_t{0}, bits = all;
    for (std::int64_t k = 0; k < left; ++k) common &= task.roles[r0 + i + k];
    if ((common >> lane & 1) == 0) {
      bits = 0;
      for (std::int64_t k = 0; k < left; ++k) bits |= (task.roles[r0 + i + k] >> lane & 1) << k;
    }
    T y_tail[L::N], w_tail[L::N], loss_of[L::N];
    const T* y = task.y + r0 + i;
    const T* w = task.weight != nullptr ? task.weight + r0 + i : nullptr;
    if (left < L::N) {  // never read past the rows that the caller gave
      for (int k = 0; k < L::N; ++k) {
        y_tail[k] = k < left ? y[k] : T(0);
        w_tail[k] = w != nullptr && k < left ? w[k] : T(0);
      }
      y = y_tail;
      if (w != nullptr) w = w_tail;
    }
    const V zv = L::load(z + i);
    V loss, gradient;
    LossType::template evaluate<L>(zv, L::load(y), &loss, &gradient);
    if (w != nullptr) gradient = L::mul(L::load(w), gradient);
    const auto use = L::from_bits(bits);
    L::store(z + i, L::select(use, gradient, L::zero()));
    poisoned |= (~L::bits(L::is_finite(zv)) & ~bits & all) != 0;
    // Sums over rows are in order, so they are scalar. A row that is not used adds +0 to the residuals and nothing to the rest.
    for (std::int64_t k = 0; k < left; ++k) residual_sum += z[i + k];
    count += static_cast<T>(__builtin_popcountll(bits));
    if (task.loss != nullptr) {
      L::store(loss_of, loss);
      for (std::int64_t k = 0; k < left; ++k)
        if (bits >> k & 1) loss_sum = scalar_fma(w != nullptr ? static_cast<double>(w[k]) : 1.0, static_cast<double>(loss_of[k]), loss_sum);
    }
    if (task.weight_sum != nullptr)
      for (std::int64_t k = 0; k < left; ++k)
        if (bits >> k & 1) weight_sum += w != nullptr ? static_cast<double>(w[k]) : 1.0;
  }
  return poisoned;
}

// grad[m][f] goes on over `n` rows; TILE vectors of features at a time.
template <class L, int M, int TILE>
void narrow_gradient_tile(const typename L::T* const* x, std::int64_t n, std::int64_t f, std::int64_t n_features,
                          const typename L::T* residual, typename L::T* grad) {
  using V = typename L::V;
  V acc[M][TILE];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int t = 0; t < TILE; ++t) acc[m][t] = L::load(grad + m * n_features + f + t * L::N);
  for (std::int64_t r = 0; r < n; ++r) {
    V xv[TILE];
#pragma GCC unroll 8
    for (int t = 0; t < TILE; ++t) xv[t] = L::load(x[r] + f + t * L::N);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const V rv = L::set1(residual[m * kScratchRows + r]);
#pragma GCC unroll 8
      for (int t = 0; t < TILE; ++t) acc[m][t] = L::fma(xv[t], rv, acc[m][t]);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int t = 0; t < TILE; ++t) L::store(grad + m * n_features + f + t * L::N, acc[m][t]);
}

template <class L, int M>
void narrow_gradient(const typename L::T* const* x, std::int64_t n, std::int64_t n_features, const typename L::T* residual,
                     typename L::T* grad) {
  constexpr int tile = M == 1 ? 8 : 4;
  std::int64_t f = 0;
  for (; f + tile * L::N <= n_features; f += tile * L::N) narrow_gradient_tile<L, M, tile>(x, n, f, n_features, residual, grad);
  if constexpr (tile > 4)
    for (; f + 4 * L::N <= n_features; f += 4 * L::N) narrow_gradient_tile<L, M, 4>(x, n, f, n_features, residual, grad);
  for (; f + 2 * L::N <= n_features; f += 2 * L::N) narrow_gradient_tile<L, M, 2>(x, n, f, n_features, residual, grad);
  for (; f + L::N <= n_features; f += L::N) narrow_gradient_tile<L, M, 1>(x, n, f, n_features, residual, grad);
  for (std::int64_t r = 0; f < n_features && r < n; ++r)
    for (std::int64_t g = f; g < n_features; ++g)
      for (int m = 0; m < M; ++m) {
        auto* at = grad + m * n_features + g;
        *at = scalar_fma(x[r][g], residual[m * kScratchRows + r], *at);
      }
}

template <class L, int M, class LossType>
bool narrow_chunk_of(const ChunkTask<typename L::T>& task) {
  using T = typename L::T;
  const std::int64_t p = task.n_features;
  const int lanes = task.n_vectors * L::N;
  T* W = task.narrow_scratch;
  T* grad = W + M * p;
  for (int m = 0; m < M; ++m)
    for (std::int64_t f = 0; f < p; ++f) W[m * p + f] = task.W[f * lanes + m];
  const bool want_gradient = task.grad != nullptr;
  if (want_gradient)
    for (std::int64_t i = 0; i < M * p; ++i) grad[i] = T(0);
  NarrowSums<T, M> sums;
  const std::int64_t step = block_rows<T>(p);
  for (std::int64_t r0 = 0; r0 < task.n_rows; r0 += step) {
    if (task.stop != nullptr && __atomic_load_n(task.stop, __ATOMIC_RELAXED) != 0) return false;
    const std::int64_t n = r0 + step < task.n_rows ? step : task.n_rows - r0;
    narrow_forward_block<L, M>(task, r0, n, W);
    bool select = false;
    for (int m = 0; m < M; ++m)
      select |= narrow_residual<L, LossType>(task, r0, n, m, task.scratch + m * kScratchRows, sums.residual[m], sums.count[m],
                                             sums.loss[m], sums.weight[m]);
    if (!want_gradient) continue;
    if (!select) {
      narrow_gradient<L, M>(task.x + r0, n, p, task.scratch, grad);
      continue;
    }
    for (int m = 0; m < M; ++m)  // a row that is not finite: each model takes only its own rows
      for (std::int64_t r = 0; r < n; ++r)
        if (task.roles[r0 + r] >> m & 1)
          narrow_gradient<L, 1>(task.x + r0 + r, 1, p, task.scratch + m * kScratchRows + r, grad + m * p);
  }
  for (int m = 0; m < M; ++m) {
    if (want_gradient)
      for (std::int64_t f = 0; f < p; ++f) task.grad[f * lanes + m] = grad[m * p + f];
    if (task.grad_intercept != nullptr) task.grad_intercept[m] = sums.residual[m];
    if (task.count != nullptr) task.count[m] = sums.count[m];
    if (task.loss != nullptr) task.loss[m] = sums.loss[m];
    if (task.weight_sum != nullptr) task.weight_sum[m] = sums.weight[m];
  }
  return true;
}

template <class L, class LossType>
bool narrow_chunk(const ChunkTask<typename L::T>& task) {
  switch (task.n_narrow) {
    case 1: return narrow_chunk_of<L, 1, LossType>(task);
    case 2: return narrow_chunk_of<L, 2, LossType>(task);
    case 3: return narrow_chunk_of<L, 3, LossType>(task);
    default: return narrow_chunk_of<L, 4, LossType>(task);
  }
}

}  // namespace
}  // namespace gradfold
