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
  struct Rows {  // that are fetched one after the other; apart, so that a copy of the rest stays in registers
    const void *const *first, *const *last;
    std::uint64_t bytes;  // of a row
  };
  static constexpr std::uint64_t kLine = 64;
#ifdef GRADFOLD_PLANT_STRIDE  // so far that lines are gone before they are used: for the proof of the performance gate alone
  static constexpr std::int64_t kBlocks = 1024;
#else
  static constexpr std::int64_t kBlocks = 2;
#endif
  // The block of `step` rows that comes kBlocks later than that of the n rows from r0 on. After the chunk's last block come those of
  // task.next, or of what follows in memory where the n rows lie without gaps; that may be past the data: fetching never faults.
  template <class T>
  void aim(const ChunkTask<T>& task, std::int64_t r0, std::int64_t n, std::int64_t step, Rows& one_by_one) {
    const std::uint64_t bytes = static_cast<std::uint64_t>(task.n_features) * sizeof(T);
    at_ = end_ = 0;
    rows_ = nullptr;
    const auto without_gaps = [&task](const T* const* rows, std::int64_t n_rows) {
      return rows[n_rows - 1] - rows[0] == (n_rows - 1) * task.n_features;
    };
    const auto stream = [&](const T* from, std::int64_t row) {
      at_ = reinterpret_cast<std::uint64_t>(from) + static_cast<std::uint64_t>(row) * bytes;
      end_ = at_ + static_cast<std::uint64_t>(step) * bytes;
    };
    const T* const* rows = task.x + r0;
    const std::int64_t wanted = r0 + kBlocks * step;
    if (wanted < task.n_rows) {
      rows = task.x + wanted;
      const std::int64_t n_rows = wanted + step < task.n_rows ? step : task.n_rows - wanted;
      if (without_gaps(rows, n_rows)) return stream(rows[0], 0);
      // Else they are found one by one, which costs more than it saves where X lies in a cache: only with task.next does it probably not.
      if (task.next == nullptr) return;
      one_by_one = {reinterpret_cast<const void* const*>(rows), reinterpret_cast<const void* const*>(rows + n_rows), bytes};
      rows_ = &one_by_one;
    } else if (task.next != nullptr) {
      stream(task.next, wanted - (task.n_rows + step - 1) / step * step);
    } else if (without_gaps(rows, n)) {
      stream(rows[0], wanted - r0);
    }
  }
  template <int LINES>
  void fetch() {
    if (__builtin_expect(at_ + kLine * LINES <= end_, true)) {
#pragma GCC unroll 8
      for (int i = 0; i < LINES; ++i) fetch_line();
      return;
    }
#pragma GCC unroll 1
    for (int i = 0; i < LINES; ++i) {
      if (at_ >= end_ && !next_rows()) return;
      fetch_line();
    }
  }

 private:
  void fetch_line() {
    __builtin_prefetch(reinterpret_cast<const void*>(at_), 0, 2);
    at_ += kLine;
  }
  bool next_rows() {  // one, and those that follow it without a gap
    if (rows_ == nullptr) return false;
    do {
      if (rows_->first == rows_->last) {
        rows_ = nullptr;
        return false;
      }
      end_ = reinterpret_cast<std::uint64_t>(*rows_->first);
      const std::uint64_t line = end_ / kLine * kLine;
      if (line + kLine != at_) at_ = line;  // else it has been fetched
      do end_ += rows_->bytes;
      while (++rows_->first != rows_->last && reinterpret_cast<std::uint64_t>(*rows_->first) == end_);
    } while (at_ >= end_);
    return true;
  }

  std::uint64_t at_ = 0, end_ = 0;  // what is fetched before the rows
  Rows* rows_ = nullptr;  // null where none are left
};

// z[m][i] for GROUPS * L::N rows, z being [n_models][kScratchRows].
template <class L, int M, int GROUPS, class Rows>
void narrow_forward(const Rows (&rows)[GROUPS], Ahead& ahead_of, std::int64_t n_features, const typename L::T* W,
                    const typename L::T* intercept, typename L::T* z) {
  using T = typename L::T;
  using V = typename L::V;
  using C = Columns<L>;
  Ahead ahead = ahead_of;  // a copy stays in registers
  // Three quarters of the lines that the step itself uses; the gradient's pass fetches the rest.
  constexpr int kLines = (GROUPS * C::kColumns * L::N * static_cast<int>(sizeof(T)) * 3 / 4 + 63) / 64;
  V sum[GROUPS][M];
  for (int g = 0; g < GROUPS; ++g)
    for (int m = 0; m < M; ++m) sum[g][m] = L::zero();
  for (std::int64_t f0 = 0; f0 < n_features; f0 += kFeatureChunk) {
    const std::int64_t f1 = f0 + kFeatureChunk < n_features ? f0 + kFeatureChunk : n_features;
    V acc[GROUPS][M];
#pragma GCC unroll 4
    for (int g = 0; g < GROUPS; ++g)
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) acc[g][m] = L::zero();
    std::int64_t f = f0;
    for (; f + C::kColumns <= f1; f += C::kColumns) {
      ahead.fetch<kLines>();
#pragma GCC unroll 4
      for (int g = 0; g < GROUPS; ++g) {
        V column[C::kColumns];
        C::load(rows[g], f, column);
#pragma GCC unroll 4
        for (int c = 0; c < C::kColumns; ++c)
#pragma GCC unroll 4
          for (int m = 0; m < M; ++m) acc[g][m] = L::fma(column[c], L::set1(W[m * n_features + f + c]), acc[g][m]);
      }
    }
    for (; f < f1; ++f)
#pragma GCC unroll 4
      for (int g = 0; g < GROUPS; ++g) {
        T column[L::N];
        const auto at = rows[g].template at<1, L::N>(f);
        for (int i = 0; i < L::N; ++i) column[i] = *at.row(i, 0);
        const V v = L::load(column);
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) acc[g][m] = L::fma(v, L::set1(W[m * n_features + f]), acc[g][m]);
      }
#pragma GCC unroll 4
    for (int g = 0; g < GROUPS; ++g)
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) sum[g][m] = L::add(sum[g][m], acc[g][m]);
  }
  for (int g = 0; g < GROUPS; ++g)
    for (int m = 0; m < M; ++m) L::store(z + m * kScratchRows + g * L::N, L::add(sum[g][m], L::set1(intercept[m])));
  ahead_of = ahead;
}

// Whether rows lie at one stride, as those of an array do.
template <class T>
bool evenly_spaced(const T* const* rows, std::int64_t n) {
  const auto at = [rows](std::int64_t r) { return reinterpret_cast<std::uint64_t>(rows[r]); };
  std::uint64_t differ = 0;
  for (std::int64_t r = 2; r < n; ++r) differ |= (at(r) - at(r - 1)) ^ (at(1) - at(0));
  return differ == 0;
}

// Forward of a block's rows [r0, r0 + n); even: those of the chunk are evenly spaced.
template <class L, int M>
void narrow_forward_block(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, bool even, const typename L::T* W,
                          Ahead& ahead) {
  using T = typename L::T;
  constexpr int kGroups = M > 2 ? 1 : 2;  // each has a chain of FMAs for a model, and one or two chains would wait for themselves
  std::int64_t i = 0;
  const auto take = [&]<int GROUPS>() {
    constexpr int kRows = GROUPS * L::N;
    static_assert(kScratchRows % kRows == 0);
    const T* const* rows = task.x + r0 + i;
    const auto run = [&]<class Rows>(const Rows(&groups)[GROUPS]) {
      narrow_forward<L, M, GROUPS>(groups, ahead, task.n_features, W, task.intercept, task.scratch + i);
    };
    if (even && i + kRows <= n) {
      RowStride<T> groups[GROUPS];
      for (int g = 0; g < GROUPS; ++g) groups[g] = {rows[g * L::N], rows[1] - rows[0]};
      run(groups);
    } else {
      const T* filled[kRows];
      if (i + kRows > n) {  // the last rows of a block: their vector is filled up with the last row again
        for (int k = 0; k < kRows; ++k) filled[k] = rows[k < n - i ? k : n - i - 1];
        rows = filled;
      }
      RowPointers<T> groups[GROUPS];
      for (int g = 0; g < GROUPS; ++g) groups[g] = {rows + g * L::N};
      run(groups);
    }
    i += kRows;
  };
  if constexpr (kGroups > 1)
    while (i + (kGroups - 1) * L::N < n) take.template operator()<kGroups>();
  while (i < n) take.template operator()<1>();
}

// Sums over a chunk's rows, in order and so scalar.
template <class T, int M>
struct NarrowSums {
  T residual[M] = {}, count[M] = {};
  double loss[M] = {}, weight[M] = {};
};

// The same without the number of models in its type, so that the residual passes need not have it in theirs.
template <class T>
struct NarrowSumsOf {
  T *residual, *count;
  double *loss, *weight;
};

// Bit k: whether the lane uses row k, of `n` <= L::N rows.
template <class L>
std::uint64_t use_of_rows(const std::uint64_t* roles, std::int64_t n, int lane) {
  using D = typename L::Wide;
  std::uint64_t bits = 0;
  if (n < L::N) {  // never read past the rows that the caller gave
    for (std::int64_t k = 0; k < n; ++k) bits |= (roles[k] >> lane & 1) << k;
    return bits;
  }
  static_assert(kNarrowModels <= 8, "the lane's bit, moved to where it makes a positive number");
  for (int h = 0; h < L::kWide; ++h) {
    const auto mine = D::template ishl<52>(D::iand(D::iload(roles + h * D::N), D::iset1(std::uint64_t{1} << lane)));
    bits |= D::bits(D::lt(D::zero(), D::as_float(mine))) << (h * D::N);
  }
  return bits;
}

// Residuals of the models over `n` rows, in place of their z: +0 on a row that a model does not use. So are the losses (WANT_LOSS), where
// `losses` is not null; with weights, which may be anything on such a row, they are summed here. Returns whether any z is not finite. The
// sums of the residuals are the caller's, but of the kernels freed of the promises.
template <class L, class LossType, bool WANT_LOSS>
bool narrow_residual(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, int n_models, typename L::T* z,
                     [[maybe_unused]] typename L::T* losses, const NarrowSumsOf<typename L::T>& sums) {
#ifdef GRADFOLD_FREE
  for (int m = 0; m < n_models; ++m)
    free_narrow_residual<L, LossType, WANT_LOSS>(task, r0, n, m, z + m * kScratchRows, sums.residual[m], sums.count[m], sums.loss[m],
                                                 sums.weight[m]);
  return false;
#else
  using T = typename L::T;
  using V = typename L::V;
  V finite = L::zero();  // z * 0 is a zero or NaN, and a NaN stays in a sum
  constexpr bool kInTwo = WANT_LOSS && Prepares<LossType, L>;  // as residual_lanes does, and for its reason
  V prepared[kInTwo ? kNarrowModels * kScratchRows / L::N : 1];
  if constexpr (kInTwo) {
    for (int m = 0; m < n_models; ++m)
      for (std::int64_t i = 0; i < n; i += L::N)
        prepared[(m * kScratchRows + i) / L::N] = LossType::template prepare<L>(L::load(z + m * kScratchRows + i));
  }
  for (int m = 0; m < n_models; ++m) {
    const V epsilon = L::set1(task.loss_epsilon != nullptr ? task.loss_epsilon[m] : static_cast<T>(kLossEpsilon));
    int used = 0;
    for (std::int64_t i = 0; i < n; i += L::N) {
      T* const at = z + m * kScratchRows + i;
      const std::int64_t left = n - i < L::N ? n - i : L::N;
      const std::uint64_t bits = use_of_rows<L>(task.roles + r0 + i, left, m);
      T y_tail[L::N], w_tail[L::N], loss_of[L::N];
      const T* y = task.y + r0 + i;
      const T* w = task.weight != nullptr ? task.weight + r0 + i : nullptr;
      if (left < L::N) {
        for (int k = 0; k < L::N; ++k) {
          y_tail[k] = k < left ? y[k] : T(0);
          w_tail[k] = w != nullptr && k < left ? w[k] : T(0);
        }
        y = y_tail;
        if (w != nullptr) w = w_tail;
      }
      const V zv = L::load(at);
      V loss, gradient;
      if constexpr (kInTwo)
        LossType::template finish<L>(zv, prepared[(m * kScratchRows + i) / L::N], L::load(y), &loss, &gradient);
      else
        LossType::template evaluate<L>(zv, L::load(y), epsilon, &loss, &gradient);
      if (w != nullptr) gradient = L::mul(L::load(w), gradient);
      const auto use = L::from_bits(bits);
      L::store(at, L::select(use, gradient, L::zero()));
      finite = L::fma(zv, L::zero(), finite);
      used += __builtin_popcountll(bits);
      if constexpr (WANT_LOSS) {
        if (losses != nullptr) L::store(losses + m * kScratchRows + i, L::select(use, loss, L::zero()));
        if (w != nullptr) {
          L::store(loss_of, loss);
          for (std::int64_t k = 0; k < left; ++k)
            if (bits >> k & 1) sums.loss[m] = scalar_fma(static_cast<double>(w[k]), static_cast<double>(loss_of[k]), sums.loss[m]);
        }
      }
      if (task.weight_sum != nullptr)
        for (std::int64_t k = 0; k < left; ++k)
          if (bits >> k & 1) sums.weight[m] += w != nullptr ? static_cast<double>(w[k]) : 1.0;
    }
    sums.count[m] += static_cast<T>(used);
  }
  return L::bits(L::eq(finite, finite)) != L::bits(L::m_all());
#endif
}

template <class L>
using NarrowResidual = bool (*)(const ChunkTask<typename L::T>&, std::int64_t r0, std::int64_t n, int n_models, typename L::T* z,
                                typename L::T* losses, const NarrowSumsOf<typename L::T>& sums);

template <class L, bool WANT_LOSS>
NarrowResidual<L> narrow_residual_pass(Loss loss) {
  switch (loss) {
#define GRADFOLD_NARROW_CASE(name, type) \
  case Loss::name: return &narrow_residual<L, type, WANT_LOSS>;
    GRADFOLD_LOSSES(GRADFOLD_NARROW_CASE)
#undef GRADFOLD_NARROW_CASE
    default: return nullptr;
  }
}

// What a row adds to the sums of its chunk; losses may be null.
template <class T, int M>
inline void narrow_add(const T* residual, const T* losses, std::int64_t r, T (&residual_sum)[M], double (&loss_sum)[M]) {
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) residual_sum[m] += residual[m * kScratchRows + r];
  if (losses == nullptr) return;
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) loss_sum[m] += static_cast<double>(losses[m * kScratchRows + r]);
}

template <class T, int M>
void narrow_sums(const T* residual, const T* losses, std::int64_t n, NarrowSums<T, M>& sums) {
  for (std::int64_t r = 0; r < n; ++r) narrow_add<T, M>(residual, losses, r, sums.residual, sums.loss);
}

// grad[m][f] goes on over `n` rows, for the features of TILE vectors from f on. The last vector ends with the last feature at the
// latest: it may overlap the one before it, and then both hold the same sums. With sums (SUMS), those of the rows go on in the same loop:
// all are chains that wait for themselves.
template <class L, int M, int TILE, bool SUMS>
void narrow_gradient_tile(const typename L::T* const* x, std::int64_t n, std::int64_t f, std::int64_t n_features, const typename L::T* residual,
                          typename L::T* grad, Ahead& ahead_of, const typename L::T* losses, NarrowSums<typename L::T, M>* sums_of) {
  using T = typename L::T;
  using V = typename L::V;
  Ahead ahead = ahead_of;
  // Another name for the same memory: what is summed as a scalar would be broadcast from its register, by the port of the shuffles, which
  // the FMAs of many models need; from memory it costs a load alone.
  const T* spread = residual;
  if constexpr (M > 2) asm("" : "+r"(spread));
  // The last vector's place, from f on; the others follow each other, at constants that the loads' addresses absorb: the empty asm keeps
  // the compiler from holding a register for each.
  const std::int64_t last = f + TILE * L::N > n_features ? n_features - L::N - f : (TILE - 1) * L::N;
  const auto at = [last](auto* first, int t) { return first + (t + 1 == TILE ? last : t * L::N); };
  const auto from = [f](auto* row) {
    row += f;
    asm("" : "+r"(row));
    return row;
  };
  V acc[M][TILE];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
    const T* const sums = from(grad + m * n_features);
#pragma GCC unroll 8
    for (int t = 0; t < TILE; ++t) acc[m][t] = L::load(at(sums, t));
  }
  T residual_sum[M];
  double loss_sum[M];
  if constexpr (SUMS)
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) residual_sum[m] = sums_of->residual[m], loss_sum[m] = sums_of->loss[m];
  for (std::int64_t r = 0; r < n; ++r) {
    ahead.fetch<(TILE + 3) / 4>();
    const T* const row = from(x[r]);
    V xv[TILE];
#pragma GCC unroll 8
    for (int t = 0; t < TILE; ++t) xv[t] = L::load(at(row, t));
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const V rv = L::set1(spread[m * kScratchRows + r]);
#pragma GCC unroll 8
      for (int t = 0; t < TILE; ++t) acc[m][t] = L::fma(xv[t], rv, acc[m][t]);
    }
    if constexpr (SUMS) narrow_add<T, M>(residual, losses, r, residual_sum, loss_sum);
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
    T* const sums = from(grad + m * n_features);
#pragma GCC unroll 8
    for (int t = 0; t < TILE; ++t) L::store(at(sums, t), acc[m][t]);
  }
  if constexpr (SUMS)
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) sums_of->residual[m] = residual_sum[m], sums_of->loss[m] = loss_sum[m];
  ahead_of = ahead;
}

template <class L, int M, int TILE, bool SUMS>
void narrow_gradient_tiles(int n_vectors, const typename L::T* const* x, std::int64_t n, std::int64_t f, std::int64_t n_features,
                           const typename L::T* residual, typename L::T* grad, Ahead& ahead, const typename L::T* losses,
                           NarrowSums<typename L::T, M>* sums) {
  if (n_vectors == TILE)
#ifdef GRADFOLD_FREE
    free_narrow_gradient_tile<L, M, TILE>(x, n, f, n_features, residual, grad, ahead);
#else
    narrow_gradient_tile<L, M, TILE, SUMS>(x, n, f, n_features, residual, grad, ahead, losses, sums);
#endif
  else if constexpr (TILE > 1)
    narrow_gradient_tiles<L, M, TILE - 1, SUMS>(n_vectors, x, n, f, n_features, residual, grad, ahead, losses, sums);
}

// The gradient of `n` rows and, where `sums` is not null, what they add to those.
template <class L, int M>
void narrow_gradient(const typename L::T* const* x, std::int64_t n, std::int64_t n_features, const typename L::T* residual,
                     typename L::T* grad, Ahead& ahead, const typename L::T* losses, NarrowSums<typename L::T, M>* sums) {
  constexpr std::int64_t kTile = M == 1 ? 8 : (M > 2 && L::kRowTile < 8 ? 2 : 4);  // 16 registers, or 32
  if (n_features < L::N) {
    if (sums != nullptr) narrow_sums(residual, losses, n, *sums);
    for (std::int64_t r = 0; r < n; ++r)
      for (std::int64_t f = 0; f < n_features; ++f)
        for (int m = 0; m < M; ++m) {
          auto* at = grad + m * n_features + f;
          *at = scalar_fma(x[r][f], residual[m * kScratchRows + r], *at);
        }
    return;
  }
  // Backwards: where the first-level cache does not hold the block, it still holds what the forward pass has read last. And so the last
  // vector, which may overlap, does not stand alone: a tile before it would have stored what it adds to again.
  const std::int64_t n_vectors = (n_features + L::N - 1) / L::N;
  for (std::int64_t left = n_vectors; left > 0;) {
    const int tile = static_cast<int>(left < kTile ? left : kTile);
    const bool first = left == n_vectors;
    left -= tile;
    if (first && sums != nullptr)
      narrow_gradient_tiles<L, M, static_cast<int>(kTile), true>(tile, x, n, left * L::N, n_features, residual, grad, ahead, losses, sums);
    else
      narrow_gradient_tiles<L, M, static_cast<int>(kTile), false>(tile, x, n, left * L::N, n_features, residual, grad, ahead, losses, sums);
  }
}

// Rows of a narrow block: what the forward pass has read is still in the first-level cache when the gradient reads it again.
template <class T>
std::int64_t narrow_block_rows(std::int64_t n_features) {
  constexpr std::int64_t kBlockBytes = 16 * 1024;
  const std::int64_t rows = kBlockBytes / (static_cast<std::int64_t>(sizeof(T)) * n_features) / 16 * 16;
  return rows < 16 ? 16 : (rows > kScratchRows ? kScratchRows : rows);
}

template <class L, int M>
bool narrow_chunk_of(Loss loss, const ChunkTask<typename L::T>& task) {
  using T = typename L::T;
  const NarrowResidual<L> residual = task.loss != nullptr ? narrow_residual_pass<L, true>(loss) : narrow_residual_pass<L, false>(loss);
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
  T losses_of_rows[M * kScratchRows];
  T* const losses = task.loss != nullptr && task.weight == nullptr ? losses_of_rows : nullptr;
  const std::int64_t step = narrow_block_rows<T>(p);
  const bool even = evenly_spaced(task.x, task.n_rows);
  Ahead::Rows rows_ahead;
  for (std::int64_t r0 = 0; r0 < task.n_rows; r0 += step) {
    if (task.stop != nullptr && __atomic_load_n(task.stop, __ATOMIC_RELAXED) != 0) return false;
    const std::int64_t n = r0 + step < task.n_rows ? step : task.n_rows - r0;
    Ahead ahead;
    ahead.aim(task, r0, n, step, rows_ahead);
#ifdef GRADFOLD_FREE
    if (p >= L::N)
      free_narrow_forward<L, M>(task, r0, n, W, tail, ahead);
    else
#endif
    narrow_forward_block<L, M>(task, r0, n, even, W, ahead);
    const bool select = residual(task, r0, n, M, task.scratch, losses, {sums.residual, sums.count, sums.loss, sums.weight});
#ifdef GRADFOLD_FREE
    NarrowSums<T, M>* const sums_of_rows = nullptr;
#else
    NarrowSums<T, M>* const sums_of_rows = &sums;
#endif
    if (want_gradient && !select) {
      narrow_gradient<L, M>(task.x + r0, n, p, task.scratch, grad, ahead, losses, sums_of_rows);
      continue;
    }
    if (sums_of_rows != nullptr) narrow_sums(task.scratch, losses, n, sums);
    if (!want_gradient) continue;
    for (int m = 0; m < M; ++m)  // a row that is not finite: each model takes only its own rows
      for (std::int64_t r = 0; r < n; ++r)
        if (task.roles[r0 + r] >> m & 1)
          narrow_gradient<L, 1>(task.x + r0 + r, 1, p, task.scratch + m * kScratchRows + r, grad + m * p, ahead, nullptr, nullptr);
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
  switch (task.n_narrow) {
    case 1: return narrow_chunk_of<L, 1>(loss, task);
    case 2: return narrow_chunk_of<L, 2>(loss, task);
    case 3: return narrow_chunk_of<L, 3>(loss, task);
    default: return narrow_chunk_of<L, 4>(loss, task);
  }
}

}  // namespace
}  // namespace gradfold
