// The dense panel kernels: lanes are models. Include after the level's lanes; internal linkage throughout.
//
// A chunk is worked through in row blocks. For each block: forward (z tile), residual pass over the z tile, gradient. Blocking
// is free; the orders of summation are not: forward adds features in chunks of 256, the gradient adds the rows of the chunk
// in batch order.
#pragma once
#include <cstdint>

#include "gradient/gradient.h"
#include "loss/losses-inl.h"
#include "simd/half-inl.h"
#ifdef GRADFOLD_FREE  // for scripts/price_of_promises.py alone
#include "gradient/free-inl.h"
#endif

namespace gradfold {
namespace {

// An instruction more, for the proof of the performance gate alone; else nothing.
inline __attribute__((always_inline)) void planted_instruction() {
#ifdef GRADFOLD_PLANT_INSTRUCTION
  asm volatile("clc");  // of x86: it has no operands, so that the loop's others stay as they are
#endif
}

// z[r] (+)= sum over features [f0, f1) of x[r][f] * W[f], one chain of FMAs per (row, lane) from +0. The rows `ahead` are fetched
// meanwhile: a hardware prefetcher does not follow as many streams as a tile has rows. far: into the L2 cache only.
template <class L, int NV, int ROWS>
inline __attribute__((always_inline)) void forward_tile(const typename L::T* const* x, const typename L::T* const* ahead, bool far,
                                                        std::int64_t f0, std::int64_t f1, const typename L::T* W, const typename L::T* intercept, bool first,
                                                        bool last, typename L::T* z) {
  using V = typename L::V;
  constexpr int lanes = NV * L::N;
  const typename L::T* row[ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) row[r] = x[r];
  V acc[ROWS][NV];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[r][v] = L::zero();
  const typename L::T* w = W + f0 * lanes;
  constexpr std::int64_t kLine = 64 / sizeof(typename L::T);
  for (std::int64_t line = f0; line < f1; line += kLine) {
    if (far)
      for (int r = 0; r < ROWS; ++r) __builtin_prefetch(ahead[r] + line, 0, 2);
    else
      for (int r = 0; r < ROWS; ++r) __builtin_prefetch(ahead[r] + line);
    const std::int64_t end = line + kLine < f1 ? line + kLine : f1;
    for (std::int64_t f = line; f < end; ++f, w += lanes) {
      planted_instruction();
      V wv[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) wv[v] = L::load(w + v * L::N);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const V xv = L::set1(row[r][f]);
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[r][v] = L::fma(xv, wv[v], acc[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      typename L::T* out = z + r * lanes + v * L::N;
      V sum = L::add(first ? L::zero() : L::load(out), acc[r][v]);
      if (last) sum = L::add(sum, L::load(intercept + v * L::N));
      L::store(out, sum);
    }
}

template <class L, int NV>
constexpr int row_tile() {
  return NV == 3 ? L::kRowTile : (NV == 2 && L::kRowTile < 8 ? L::kRowTile * 3 / 2 : 8);
}

template <class L, int NV>
void forward_block(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, typename L::T* z) {
  constexpr int lanes = NV * L::N;
  constexpr int tile = row_tile<L, NV>();
  for (std::int64_t f0 = 0; f0 < task.n_features; f0 += kFeatureChunk) {
    const std::int64_t f1 = f0 + kFeatureChunk < task.n_features ? f0 + kFeatureChunk : task.n_features;
    const bool first = f0 == 0, last = f1 == task.n_features;
    std::int64_t r = 0;
    auto tiles = [&]<int ROWS>() {
      for (; r + ROWS <= n; r += ROWS) {
        const auto* rows = task.x + r0 + r;
        const bool far = task.later != nullptr;
        const auto* ahead = far ? task.later + r0 + r : r0 + r + 3 * ROWS <= task.n_rows ? rows + 2 * ROWS : rows;
        forward_tile<L, NV, ROWS>(rows, ahead, far, f0, f1, task.W, task.intercept, first, last, z + r * lanes);
      }
    };
    tiles.template operator()<tile>();
    if constexpr (tile > 4) tiles.template operator()<4>();
    tiles.template operator()<2>();
    tiles.template operator()<1>();
  }
}

// Sums of the residual pass of one vector of lanes, that live for one chunk.
template <class L>
struct LaneSums {
  typename L::V residual = L::zero();  // gradient of the intercept
  typename L::V count = L::zero();
  typename L::Wide::V loss[L::kWide], weight[L::kWide];
  LaneSums() {
    for (int h = 0; h < L::kWide; ++h) loss[h] = weight[h] = L::Wide::zero();
  }
};

// z tile -> residual tile: weight * dloss/dz where the lane uses the row, else +0 by select. Returns whether any z is not finite: then x
// itself may be NaN or infinite, on a row that some lane does not use, and the gradient must select. Works on the vector of lanes that
// begins at `lane`: its running sums stay in registers over the rows.
template <class L, class LossType, bool WANT_GRADIENT, bool WANT_LOSS>
bool residual_lanes(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, typename L::T* z, int lane, int lanes,
                    LaneSums<L>& sums) {
#ifdef GRADFOLD_FREE
  return free_residual_lanes<L, LossType, WANT_GRADIENT, WANT_LOSS>(task, r0, n, z, lane, lanes, sums);
#else
  using T = typename L::T;
  using V = typename L::V;
  using D = typename L::Wide;
  const V one = L::set1(T(1));
  const V epsilon = task.loss_epsilon != nullptr ? L::load(task.loss_epsilon + lane) : L::set1(static_cast<T>(kLossEpsilon));
  V finite = L::zero();  // z * 0 is a zero or NaN, and a NaN stays in a sum
  V residual_sum = sums.residual, count = sums.count;
  typename D::V loss_sum[L::kWide], weight_sum[L::kWide];
  for (int h = 0; h < L::kWide; ++h) {
    loss_sum[h] = sums.loss[h];
    weight_sum[h] = sums.weight[h];
  }
  // A CPU looks ahead over fewer instructions than a row of log loss has, and each waits for the one before: in two loops it works on more
  // rows side by side. Without the loss it waits for the division, which hides the rest.
  constexpr bool kInTwo = WANT_LOSS && Prepares<LossType, L>;
  constexpr std::int64_t kStage = 32;
  V prepared[kInTwo ? kStage : 1];
  for (std::int64_t begin = 0; begin < n; begin += kStage) {
    const std::int64_t end = begin + kStage < n ? begin + kStage : n;
    if constexpr (kInTwo) {
#pragma GCC unroll 2
      for (std::int64_t r = begin; r < end; ++r) prepared[r - begin] = LossType::template prepare<L>(L::load(z + r * lanes + lane));
    }
#pragma GCC unroll 2
    for (std::int64_t r = begin; r < end; ++r) {
      T* at = z + r * lanes + lane;
      const V zv = L::load(at);
      const V y = L::set1(task.y[r0 + r]);
      const auto use = L::from_bits(task.roles[r0 + r] >> lane);
      V loss, gradient;
      if constexpr (kInTwo)
        LossType::template finish<L>(zv, prepared[r - begin], y, &loss, &gradient);
      else
        LossType::template evaluate<L>(zv, y, epsilon, &loss, &gradient);
      if constexpr (WANT_GRADIENT) {
        if (task.weight != nullptr) gradient = L::mul(L::set1(task.weight[r0 + r]), gradient);
        gradient = L::select(use, gradient, L::zero());
        L::store(at, gradient);
        residual_sum = L::add(residual_sum, gradient);
        finite = L::fma(zv, L::zero(), finite);
      }
      count = L::add_where(use, count, one);
      typename D::M wide_use[L::kWide];
      L::widen_mask(use, wide_use);
      if constexpr (WANT_LOSS) {
        typename D::V wide_loss[L::kWide];
        L::widen(loss, wide_loss);
        if (task.weight != nullptr) {
          const auto weight = D::set1(task.weight[r0 + r]);
          for (int h = 0; h < L::kWide; ++h) loss_sum[h] = D::fma_where(wide_use[h], weight, wide_loss[h], loss_sum[h]);
        } else {
          for (int h = 0; h < L::kWide; ++h) loss_sum[h] = D::add_where(wide_use[h], loss_sum[h], wide_loss[h]);
        }
      }
      if (task.weight_sum != nullptr) {
        const auto weight = D::set1(task.weight != nullptr ? task.weight[r0 + r] : T(1));
        for (int h = 0; h < L::kWide; ++h) weight_sum[h] = D::add_where(wide_use[h], weight_sum[h], weight);
      }
    }
  }
  sums.residual = residual_sum;
  sums.count = count;
  for (int h = 0; h < L::kWide; ++h) {
    sums.loss[h] = loss_sum[h];
    sums.weight[h] = weight_sum[h];
  }
  return L::bits(L::eq(finite, finite)) != L::bits(L::m_all());
#endif
}

// All that a loss is to the kernels: its residual passes. The rest is compiled once for a level, whatever the number of losses.
template <class L>
using ResidualPass = bool (*)(const ChunkTask<typename L::T>&, std::int64_t r0, std::int64_t n, typename L::T* z, int lane, int lanes,
                              LaneSums<L>&);

template <class L, bool WANT_GRADIENT, bool WANT_LOSS>
ResidualPass<L> residual_pass(Loss loss) {
  switch (loss) {
#define GRADFOLD_RESIDUAL_CASE(name, type) \
  case Loss::name: return &residual_lanes<L, type, WANT_GRADIENT, WANT_LOSS>;
    GRADFOLD_LOSSES(GRADFOLD_RESIDUAL_CASE)
#undef GRADFOLD_RESIDUAL_CASE
    default: return nullptr;
  }
}

// grad[f] += sum over the block's rows, in order, of x[r][f] * residual[r]: the chain of the chunk goes on. SELECT leaves
// a lane's sum alone on rows it does not use, whatever x holds there; without it their residual +0 adds +0.
template <class L, int NV, int FEATURES, bool SELECT>
inline __attribute__((always_inline)) void gradient_tile(const typename L::T* const* x, const std::uint64_t* roles,
                                                         std::int64_t n, std::int64_t f, const typename L::T* residual,
                                                         typename L::T* grad) {
  using V = typename L::V;
  constexpr int lanes = NV * L::N;
  typename L::T* g = grad + f * lanes;
  V acc[FEATURES][NV];
#pragma GCC unroll 16
  for (int i = 0; i < FEATURES; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[i][v] = L::load(g + i * lanes + v * L::N);
  for (std::int64_t r = 0; r < n; ++r) {
    planted_instruction();
    const typename L::T* row = x[r] + f;
    V rv[NV];
    typename L::M use[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      rv[v] = L::load(residual + r * lanes + v * L::N);
      if constexpr (SELECT) use[v] = L::from_bits(roles[r] >> (v * L::N));
    }
#pragma GCC unroll 16
    for (int i = 0; i < FEATURES; ++i) {
      const V xv = L::set1(row[i]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        if constexpr (SELECT)
          acc[i][v] = L::fma_where(use[v], xv, rv[v], acc[i][v]);
        else
          acc[i][v] = L::fma(xv, rv[v], acc[i][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < FEATURES; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) L::store(g + i * lanes + v * L::N, acc[i][v]);
}

template <class L, int NV, bool SELECT>
void gradient_block(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, const typename L::T* residual,
                    std::int64_t f0, std::int64_t f1) {
  constexpr int tile = row_tile<L, NV>();
  const auto* x = task.x + r0;
  const auto* roles = task.roles + r0;
  std::int64_t f = f0;
  for (; f + tile <= f1; f += tile)
    gradient_tile<L, NV, tile, SELECT>(x, roles, n, f, residual, task.grad);
  if constexpr (tile > 4)
    for (; f + 4 <= f1; f += 4) gradient_tile<L, NV, 4, SELECT>(x, roles, n, f, residual, task.grad);
  for (; f + 2 <= f1; f += 2) gradient_tile<L, NV, 2, SELECT>(x, roles, n, f, residual, task.grad);
  for (; f < f1; ++f) gradient_tile<L, NV, 1, SELECT>(x, roles, n, f, residual, task.grad);
}

// Rows of a block: the z tile and the block's rows of X must stay in the caches between the three passes.
template <class T>
std::int64_t block_rows(std::int64_t n_features) {
  const std::int64_t rows = block_bytes() / (static_cast<std::int64_t>(sizeof(T)) * n_features) / 8 * 8;
  return rows < 16 ? 16 : (rows > kScratchRows ? kScratchRows : rows);
}

template <class L>
void store_sums(const ChunkTask<typename L::T>& task, int v, const LaneSums<L>& sums) {
  using D = typename L::Wide;
  if (task.grad_intercept != nullptr) L::store(task.grad_intercept + v * L::N, sums.residual);
  if (task.count != nullptr) L::store(task.count + v * L::N, sums.count);
  for (int h = 0; h < L::kWide; ++h) {
    const int at = v * L::N + h * D::N;
    if (task.loss != nullptr) D::store(task.loss + at, sums.loss[h]);
    if (task.weight_sum != nullptr) D::store(task.weight_sum + at, sums.weight[h]);
  }
}

template <class L, int NV>
bool residual_of(Loss loss, const ChunkTask<typename L::T>& task, typename L::T* z) {
  const ResidualPass<L> pass = task.loss != nullptr ? residual_pass<L, true, true>(loss) : residual_pass<L, true, false>(loss);
  bool select = false;
  for (int v = 0; v < NV; ++v) {
    LaneSums<L> sums;
    select |= pass(task, 0, task.n_rows, z, v * L::N, NV * L::N, sums);
    store_sums(task, v, sums);
  }
  return select;
}

template <class L, int NV>
void gradient_of(const ChunkTask<typename L::T>& task, const typename L::T* residual, bool select, std::int64_t f0, std::int64_t f1) {
  for (std::int64_t i = f0 * NV * L::N; i < f1 * NV * L::N; i += L::N) L::store(task.grad + i, L::zero());
  if (select)
    gradient_block<L, NV, true>(task, 0, task.n_rows, residual, f0, f1);
  else
    gradient_block<L, NV, false>(task, 0, task.n_rows, residual, f0, f1);
}

template <class L, int NV>
bool chunk_of(Loss loss, const ChunkTask<typename L::T>& task) {
  using T = typename L::T;
  constexpr int lanes = NV * L::N;
  const ResidualPass<L> pass = task.grad == nullptr   ? residual_pass<L, false, true>(loss)
                               : task.loss != nullptr ? residual_pass<L, true, true>(loss)
                                                      : residual_pass<L, true, false>(loss);
  LaneSums<L> sums[NV];
#ifdef GRADFOLD_FREE
  if (!task.goes_on)
#endif
  if (task.grad != nullptr)
    for (std::int64_t i = 0; i < task.n_features * lanes; i += L::N) L::store(task.grad + i, L::zero());
  const std::int64_t step = block_rows<T>(task.n_features);
  for (std::int64_t r0 = 0; r0 < task.n_rows; r0 += step) {
    if (task.stop != nullptr && __atomic_load_n(task.stop, __ATOMIC_RELAXED) != 0) return false;
    const std::int64_t n = r0 + step < task.n_rows ? step : task.n_rows - r0;
    forward_block<L, NV>(task, r0, n, task.scratch);
    bool select = false;
    for (int v = 0; v < NV; ++v) select |= pass(task, r0, n, task.scratch, v * L::N, lanes, sums[v]);
    if (task.grad == nullptr) continue;
    if (select)
      gradient_block<L, NV, true>(task, r0, n, task.scratch, 0, task.n_features);
    else
      gradient_block<L, NV, false>(task, r0, n, task.scratch, 0, task.n_features);
  }
  for (int v = 0; v < NV; ++v) store_sums(task, v, sums[v]);
  return true;
}

}  // namespace
}  // namespace gradfold

#include "gradient/narrow-inl.h"
#include "gradient/outputs-inl.h"

namespace gradfold {
namespace {

template <class L>
bool chunk(Loss loss, const ChunkTask<typename L::T>& task) {
  if (task.n_narrow > 0) return narrow_chunk<L>(loss, task);
  switch (task.n_vectors) {
    case kHalfVector: return chunk_of<HalfOf<L>, 1>(loss, task);
    case 1: return chunk_of<L, 1>(loss, task);
    case 2: return chunk_of<L, 2>(loss, task);
    default: return chunk_of<L, 3>(loss, task);
  }
}

template <class L>
void forward(const ChunkTask<typename L::T>& task, typename L::T* z) {
  if (task.n_vectors == kHalfVector) return forward_block<HalfOf<L>, 1>(task, 0, task.n_rows, z);
  switch (task.n_vectors) {
    case 1: return forward_block<L, 1>(task, 0, task.n_rows, z);
    case 2: return forward_block<L, 2>(task, 0, task.n_rows, z);
    default: return forward_block<L, 3>(task, 0, task.n_rows, z);
  }
}

template <class L>
bool residual(Loss loss, const ChunkTask<typename L::T>& task, typename L::T* z) {
  switch (task.n_vectors) {
    case kHalfVector: return residual_of<HalfOf<L>, 1>(loss, task, z);
    case 1: return residual_of<L, 1>(loss, task, z);
    case 2: return residual_of<L, 2>(loss, task, z);
    default: return residual_of<L, 3>(loss, task, z);
  }
}

template <class L>
void gradient(const ChunkTask<typename L::T>& task, const typename L::T* residual, bool select, std::int64_t f0, std::int64_t f1) {
  switch (task.n_vectors) {
    case kHalfVector: return gradient_of<HalfOf<L>, 1>(task, residual, select, f0, f1);
    case 1: return gradient_of<L, 1>(task, residual, select, f0, f1);
    case 2: return gradient_of<L, 2>(task, residual, select, f0, f1);
    default: return gradient_of<L, 3>(task, residual, select, f0, f1);
  }
}

template <class L>
constexpr GradientKernels<typename L::T> gradient_kernels_of() {
  return {L::N, !std::is_void_v<typename L::Half>, &chunk<L>, &forward<L>, &residual<L>, &gradient<L>, &outputs_chunk<L>};
}

}  // namespace
}  // namespace gradfold

#define GRADFOLD_GRADIENT_KERNELS(level)                                                  \
  namespace gradfold {                                                                    \
  extern const GradientKernels<float> gradient_f32_##level;                               \
  extern const GradientKernels<double> gradient_f64_##level;                              \
  const GradientKernels<float> gradient_f32_##level = gradient_kernels_of<F32>();         \
  const GradientKernels<double> gradient_f64_##level = gradient_kernels_of<F64>();        \
  }
