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

// Fetches memory ahead of use, a few lines at a time between the arithmetic: a burst would fill the queues, and a hardware
// prefetcher does not follow as many streams as a vector has rows. Rows that lie without gaps are fetched as one stream, into the
// second-level cache: the first level's queue of misses is too short to cover the latency of memory (measured: half the speed).
class Ahead {
 public:
#ifdef GRADFOLD_PLANT_STRIDE  // so far that lines are gone before they are used: for the proof of the performance gate alone
  static constexpr std::uint64_t kBlocks = 1024;
#else
  static constexpr std::uint64_t kBlocks = 4;
#endif
  // The memory kBlocks blocks after these n rows, if they lie without gaps. It may be past the data: fetching never faults, and where the
  // next chunk follows in memory its first rows are there in time.
  template <class T>
  void aim(const T* const* rows, std::int64_t n, std::int64_t n_features) {
    at_ = end_ = 0;
    if (rows[n - 1] - rows[0] != (n - 1) * n_features) return;
    const std::uint64_t bytes = static_cast<std::uint64_t>(n * n_features) * sizeof(T);
    at_ = reinterpret_cast<std::uint64_t>(rows[0]) + kBlocks * bytes;
    end_ = at_ + bytes;
  }
  template <int LINES>
  void fetch() {
    if (at_ >= end_) return;
#pragma GCC unroll 8
    for (int i = 0; i < LINES; ++i) __builtin_prefetch(reinterpret_cast<const void*>(at_ + 64 * i), 0, 2);
    at_ += 64 * LINES;
  }

 private:
  std::uint64_t at_ = 0, end_ = 0;
};

// z[m][i] for L::N rows, z being [n_models][kScratchRows].
template <class L, int M, class Rows>
void narrow_forward(const Rows rows, Ahead& ahead_of, std::int64_t n_features, const typename L::T* W,
                    const typename L::T* intercept, typename L::T* z) {
  using T = typename L::T;
  using V = typename L::V;
  using C = Columns<L>;
  Ahead ahead = ahead_of;  // a copy stays in registers
  // Three quarters of the lines that the step itself uses; the gradient's pass fetches the rest.
  constexpr int kLines = (C::kColumns * L::N * static_cast<int>(sizeof(T)) * 3 / 4 + 63) / 64;
  V sum[M];
  for (int m = 0; m < M; ++m) sum[m] = L::zero();
  for (std::int64_t f0 = 0; f0 < n_features; f0 += kFeatureChunk) {
    const std::int64_t f1 = f0 + kFeatureChunk < n_features ? f0 + kFeatureChunk : n_features;
    V acc[M];
    for (int m = 0; m < M; ++m) acc[m] = L::zero();
    std::int64_t f = f0;
    for (; f + C::kColumns <= f1; f += C::kColumns) {
      ahead.fetch<kLines>();
      V column[C::kColumns];
      C::load(rows, f, column);
#pragma GCC unroll 4
      for (int c = 0; c < C::kColumns; ++c)
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) acc[m] = L::fma(column[c], L::set1(W[m * n_features + f + c]), acc[m]);
    }
    for (; f < f1; ++f) {
      T column[L::N];
      const auto at = rows.template at<1, L::N>(f);
      for (int i = 0; i < L::N; ++i) column[i] = *at.row(i, 0);
      const V v = L::load(column);
      for (int m = 0; m < M; ++m) acc[m] = L::fma(v, L::set1(W[m * n_features + f]), acc[m]);
    }
    for (int m = 0; m < M; ++m) sum[m] = L::add(sum[m], acc[m]);
  }
  for (int m = 0; m < M; ++m) L::store(z + m * kScratchRows, L::add(sum[m], L::set1(intercept[m])));
  ahead_of = ahead;
}

// Forward of a block's rows [r0, r0 + n).
template <class L, int M>
void narrow_forward_block(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, const typename L::T* W, Ahead& ahead) {
  using T = typename L::T;
  for (std::int64_t i = 0; i < n; i += L::N) {
    const T* const* rows = task.x + r0 + i;
    const T* filled[L::N];
    if (i + L::N > n) {  // the last rows of a block: their vector is filled up with the last row again
      for (int k = 0; k < L::N; ++k) filled[k] = rows[k < n - i ? k : n - i - 1];
      rows = filled;
    }
    const std::int64_t stride = rows[1] - rows[0];
    bool even = true;
    for (int k = 2; k < L::N; ++k) even &= rows[k] - rows[k - 1] == stride;
    T* z = task.scratch + i;
    if (even)
      narrow_forward<L, M>(RowStride<T>{rows[0], stride}, ahead, task.n_features, W, task.intercept, z);
    else
      narrow_forward<L, M>(RowPointers<T>{rows}, ahead, task.n_features, W, task.intercept, z);
  }
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
#ifdef GRADFOLD_FREE
  if (task.loss != nullptr)
    free_narrow_residual<L, LossType, true>(task, r0, n, lane, z, residual_sum, count, loss_sum, weight_sum);
  else
    free_narrow_residual<L, LossType, false>(task, r0, n, lane, z, residual_sum, count, loss_sum, weight_sum);
  return false;
#else
  using T = typename L::T;
  using V = typename L::V;
  const V epsilon = L::set1(task.loss_epsilon != nullptr ? task.loss_epsilon[lane] : static_cast<T>(kLossEpsilon));
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
    LossType::template evaluate<L>(zv, L::load(y), epsilon, &loss, &gradient);
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
#endif
}

template <class L>
using NarrowResidual = bool (*)(const ChunkTask<typename L::T>&, std::int64_t r0, std::int64_t n, int lane, typename L::T* z,
                                typename L::T& residual_sum, typename L::T& count, double& loss_sum, double& weight_sum);

template <class L>
NarrowResidual<L> narrow_residual_pass(Loss loss) {
  switch (loss) {
#define GRADFOLD_NARROW_CASE(name, type) \
  case Loss::name: return &narrow_residual<L, type>;
    GRADFOLD_LOSSES(GRADFOLD_NARROW_CASE)
#undef GRADFOLD_NARROW_CASE
    default: return nullptr;
  }
}

// grad[m][f] goes on over `n` rows, for the features of TILE vectors from f on. The last vector ends with the last feature at the
// latest: it may overlap the one before it, and then both hold the same sums.
template <class L, int M, int TILE>
void narrow_gradient_tile(const typename L::T* const* x, std::int64_t n, std::int64_t f, std::int64_t n_features,
                          const typename L::T* residual, typename L::T* grad, Ahead& ahead_of) {
  using V = typename L::V;
  Ahead ahead = ahead_of;
  std::int64_t at[TILE];
#pragma GCC unroll 8
  for (int t = 0; t < TILE; ++t) at[t] = f + t * L::N;
  if (at[TILE - 1] > n_features - L::N) at[TILE - 1] = n_features - L::N;
  V acc[M][TILE];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int t = 0; t < TILE; ++t) acc[m][t] = L::load(grad + m * n_features + at[t]);
  for (std::int64_t r = 0; r < n; ++r) {
    ahead.fetch<(TILE + 3) / 4>();
    V xv[TILE];
#pragma GCC unroll 8
    for (int t = 0; t < TILE; ++t) xv[t] = L::load(x[r] + at[t]);
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
    for (int t = 0; t < TILE; ++t) L::store(grad + m * n_features + at[t], acc[m][t]);
  ahead_of = ahead;
}

template <class L, int M, int TILE>
void narrow_gradient_tiles(int n_vectors, const typename L::T* const* x, std::int64_t n, std::int64_t f, std::int64_t n_features,
                           const typename L::T* residual, typename L::T* grad, Ahead& ahead) {
  if (n_vectors == TILE)
#ifdef GRADFOLD_FREE
    free_narrow_gradient_tile<L, M, TILE>(x, n, f, n_features, residual, grad, ahead);
#else
    narrow_gradient_tile<L, M, TILE>(x, n, f, n_features, residual, grad, ahead);
#endif
  else if constexpr (TILE > 1)
    narrow_gradient_tiles<L, M, TILE - 1>(n_vectors, x, n, f, n_features, residual, grad, ahead);
}

template <class L, int M>
void narrow_gradient(const typename L::T* const* x, std::int64_t n, std::int64_t n_features, const typename L::T* residual,
                     typename L::T* grad, Ahead& ahead) {
  constexpr std::int64_t kTile = M == 1 ? 8 : 4;
  if (n_features < L::N) {
    for (std::int64_t r = 0; r < n; ++r)
      for (std::int64_t f = 0; f < n_features; ++f)
        for (int m = 0; m < M; ++m) {
          auto* at = grad + m * n_features + f;
          *at = scalar_fma(x[r][f], residual[m * kScratchRows + r], *at);
        }
    return;
  }
  for (std::int64_t f = 0; f < n_features;) {
    const std::int64_t wanted = (n_features - f + L::N - 1) / L::N;
    // A last vector that overlaps must not stand alone: the tile before it has stored what it would add to again.
    const std::int64_t take = wanted <= kTile ? wanted : (wanted == kTile + 1 ? kTile - 1 : kTile);
    narrow_gradient_tiles<L, M, static_cast<int>(kTile)>(static_cast<int>(take), x, n, f, n_features, residual, grad, ahead);
    f += take * L::N;
  }
}

// Rows of a narrow block: what the forward pass has read is still in the first-level cache when the gradient reads it again.
template <class T>
std::int64_t narrow_block_rows(std::int64_t n_features) {
  constexpr std::int64_t kBlockBytes = 8 * 1024;
  const std::int64_t rows = kBlockBytes / (static_cast<std::int64_t>(sizeof(T)) * n_features) / 16 * 16;
  return rows < 16 ? 16 : (rows > kScratchRows ? kScratchRows : rows);
}

template <class L, int M>
bool narrow_chunk_of(NarrowResidual<L> residual, const ChunkTask<typename L::T>& task) {
  using T = typename L::T;
  const std::int64_t p = task.n_features;
  const int lanes = panel_lanes(task.n_vectors, L::N);
  T* W = task.narrow_scratch;
  T* grad = W + M * p;
  for (int m = 0; m < M; ++m)
    for (std::int64_t f = 0; f < p; ++f) W[m * p + f] = task.W[f * lanes + m];
  const bool want_gradient = task.grad != nullptr;
  if (want_gradient)
    for (std::int64_t i = 0; i < M * p; ++i) grad[i] = T(0);
#ifdef GRADFOLD_FREE
  T tail[M * L::N] = {};
  for (int m = 0; m < M; ++m)
    for (std::int64_t k = L::N - p % L::N; k < L::N && p >= L::N; ++k) tail[m * L::N + k] = W[m * p + p - L::N + k];
#endif
  NarrowSums<T, M> sums;
  const std::int64_t step = narrow_block_rows<T>(p);
  for (std::int64_t r0 = 0; r0 < task.n_rows; r0 += step) {
    if (task.stop != nullptr && __atomic_load_n(task.stop, __ATOMIC_RELAXED) != 0) return false;
    const std::int64_t n = r0 + step < task.n_rows ? step : task.n_rows - r0;
    Ahead ahead;
    ahead.aim(task.x + r0, n, p);
#ifdef GRADFOLD_FREE
    if (p >= L::N)
      free_narrow_forward<L, M>(task, r0, n, W, tail, ahead);
    else
#endif
    narrow_forward_block<L, M>(task, r0, n, W, ahead);
    bool select = false;
    for (int m = 0; m < M; ++m)
      select |= residual(task, r0, n, m, task.scratch + m * kScratchRows, sums.residual[m], sums.count[m], sums.loss[m], sums.weight[m]);
    if (!want_gradient) continue;
    if (!select) {
      narrow_gradient<L, M>(task.x + r0, n, p, task.scratch, grad, ahead);
      continue;
    }
    for (int m = 0; m < M; ++m)  // a row that is not finite: each model takes only its own rows
      for (std::int64_t r = 0; r < n; ++r)
        if (task.roles[r0 + r] >> m & 1)
          narrow_gradient<L, 1>(task.x + r0 + r, 1, p, task.scratch + m * kScratchRows + r, grad + m * p, ahead);
  }
  for (int m = 0; m < M; ++m) {
    if (want_gradient)
#ifdef GRADFOLD_FREE
      for (std::int64_t f = 0; f < p; ++f) task.grad[f * lanes + m] = grad[m * p + f] + (task.goes_on ? task.grad[f * lanes + m] : T(0));
#else
      for (std::int64_t f = 0; f < p; ++f) task.grad[f * lanes + m] = grad[m * p + f];
#endif
    if (task.grad_intercept != nullptr) task.grad_intercept[m] = sums.residual[m];
    if (task.count != nullptr) task.count[m] = sums.count[m];
    if (task.loss != nullptr) task.loss[m] = sums.loss[m];
    if (task.weight_sum != nullptr) task.weight_sum[m] = sums.weight[m];
  }
  return true;
}

template <class L>
bool narrow_chunk(Loss loss, const ChunkTask<typename L::T>& task) {
  const NarrowResidual<L> residual = narrow_residual_pass<L>(loss);
  switch (task.n_narrow) {
    case 1: return narrow_chunk_of<L, 1>(residual, task);
    case 2: return narrow_chunk_of<L, 2>(residual, task);
    case 3: return narrow_chunk_of<L, 3>(residual, task);
    default: return narrow_chunk_of<L, 4>(residual, task);
  }
}

}  // namespace
}  // namespace gradfold
