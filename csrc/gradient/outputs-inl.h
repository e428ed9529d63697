// Panels of models with several outputs. A panel's columns (model * n_outputs + output) are cut into blocks of whole vectors, and a
// block is to the forward and the gradient tiles a panel of that many models. Between the two stands the softmax of each (row, model):
// there lanes are rows, so the tiles of L::N rows are transposed to [column][row] and back.
//
// The multinomial loss of a row with raw predictions z and class code y: most = the maximum, by compare-and-select in class order;
// e_k = exp(z_k - most); sum = e_0 + e_1 + ... from +0; others = the same with +0 for e_y;
// loss = log1p(z_y = most ? others : sum - 1) + (most - z_y); gradient_k = e_k / sum, of k = y (+0 - others) / sum, times the weight.
// Where y is nearly certain log(sum) and e_y / sum - 1 would be nothing but the rounding of 1.
#pragma once
#include <cstdint>

#include "gradient/gradient.h"
#include "simd/columns-inl.h"
#include "simd/math-inl.h"

namespace gradfold {
namespace {

// L::N rows of a tile [row][lanes] as columns [lane][L::N], and back; lanes is a multiple of L::N.
template <class L>
void rows_to_columns(const typename L::T* tile, std::int64_t lanes, typename L::T* columns) {
  using C = Columns<L>;
  const RowStride<typename L::T> rows{tile, lanes};
  for (std::int64_t lane = 0; lane < lanes; lane += C::kColumns) {
    typename L::V column[C::kColumns];
    C::load(rows, lane, column);
    for (int k = 0; k < C::kColumns; ++k) L::store(columns + (lane + k) * L::N, column[k]);
  }
}
template <class L>
void columns_to_rows(const typename L::T* columns, std::int64_t lanes, typename L::T* tile) {
  using C = Columns<L>;
  for (std::int64_t lane = 0; lane < lanes; lane += L::N) {
    const RowStride<typename L::T> rows{columns + lane * L::N, L::N};
    for (int r = 0; r < L::N; r += C::kColumns) {
      typename L::V row[C::kColumns];
      C::load(rows, r, row);
      for (int k = 0; k < C::kColumns; ++k) L::store(tile + (r + k) * lanes + lane, row[k]);
    }
  }
}

// The softmax pass of one model over L::N rows; z is [n_outputs][L::N] and becomes residuals where the gradient is wanted. `loss` is
// set where it is wanted. A y that is no class code gives NaN for everything. Returns the rows whose z are all finite.
template <class L>
typename L::M softmax(typename L::T* z, std::int64_t n_outputs, typename L::V y, const typename L::V* weight, typename L::M use,
                      bool want_gradient, typename L::V* loss) {
  using V = typename L::V;
  const V one = L::set1(typename L::T(1));
  V most = L::load(z), of_y = canonical_nan<L>(), code = L::zero();
  auto finite = L::m_all();
  for (std::int64_t k = 0; k < n_outputs; ++k) {
    const V at = L::load(z + k * L::N);
    most = L::select(L::lt(most, at), at, most);
    of_y = L::select(L::eq(y, code), at, of_y);
    finite = L::m_and(finite, L::is_finite(at));
    code = L::add(code, one);
  }
  V sum = L::zero(), others = L::zero();
  code = L::zero();
#pragma GCC unroll 4
  for (std::int64_t k = 0; k < n_outputs; ++k) {
    const V e = exp_nonpositive<L>(L::sub(L::load(z + k * L::N), most));
    L::store(z + k * L::N, e);
    sum = L::add(sum, e);
    others = L::add(others, L::select(L::eq(y, code), L::zero(), e));
    code = L::add(code, one);
  }
  sum = L::select(L::eq(of_y, of_y), sum, canonical_nan<L>());
  if (loss != nullptr) *loss = L::add(log1p<L>(L::select(L::eq(of_y, most), others, L::sub(sum, one))), L::sub(most, of_y));
  if (!want_gradient) return finite;
  const V of_own = L::sub(L::zero(), others);
  code = L::zero();
#pragma GCC unroll 4
  for (std::int64_t k = 0; k < n_outputs; ++k) {
    V gradient = L::div(L::select(L::eq(y, code), of_own, L::load(z + k * L::N)), sum);
    if (weight != nullptr) gradient = L::mul(*weight, gradient);
    L::store(z + k * L::N, L::select(use, gradient, L::zero()));
    code = L::add(code, one);
  }
  return finite;
}

// A block as the panel of models that the tiles take it for, over the rows from r0 on.
template <class L>
ChunkTask<typename L::T> block_task(const OutputsTask<typename L::T>& task, const OutputBlock<typename L::T>& block, std::int64_t r0) {
  ChunkTask<typename L::T> part{};
  part.n_rows = task.n_rows - r0;
  part.x = task.x + r0;
  part.n_features = task.n_features;
  part.n_vectors = block.n_vectors;
  part.W = block.W;
  part.intercept = block.intercept;
  part.grad = block.grad;
  return part;
}

// Softmax of the panel's models over the rows [r0, r0 + n), in place of their z. Returns whether a model met a z that is not finite on a
// row that it does not use.
template <class L>
bool softmax_rows(const OutputsTask<typename L::T>& task, std::int64_t r0, std::int64_t n, typename L::T* tiles, std::int64_t tile_rows,
                  std::int64_t n_lanes) {
  using T = typename L::T;
  using V = typename L::V;
  T* columns = tiles + tile_rows * n_lanes;
  const bool want_gradient = task.blocks[0].grad != nullptr;
  bool poisoned = false;
  for (std::int64_t i = 0; i < n; i += L::N) {
    const std::int64_t left = n - i < L::N ? n - i : L::N;
    std::int64_t first = 0;
    for (int b = 0; b < task.n_blocks; ++b) {
      const std::int64_t lanes = panel_lanes(task.blocks[b].n_vectors, L::N);
      rows_to_columns<L>(tiles + first * tile_rows + i * lanes, lanes, columns + first * L::N);
      first += lanes;
    }
    const std::uint64_t* roles = task.roles + r0 + i;
    const std::uint64_t all = (std::uint64_t{1} << left) - 1;
    std::uint64_t common = ~std::uint64_t{0};
    for (std::int64_t k = 0; k < left; ++k) common &= roles[k];
    T y[L::N], w[L::N], loss_of[L::N];
    for (int k = 0; k < L::N; ++k) {  // never read past the rows that the caller gave
      y[k] = k < left ? task.y[r0 + i + k] : T(0);
      w[k] = k < left && task.weight != nullptr ? task.weight[r0 + i + k] : T(1);
    }
    const V yv = L::load(y), wv = L::load(w);
    for (std::int64_t m = 0; m < task.n_models; ++m) {
      std::uint64_t bits = all;
      if ((common >> m & 1) == 0) {
        bits = 0;
        for (std::int64_t k = 0; k < left; ++k) bits |= (roles[k] >> m & 1) << k;
      }
      V loss;
      const auto finite = softmax<L>(columns + m * task.n_outputs * L::N, task.n_outputs, yv, task.weight != nullptr ? &wv : nullptr,
                                     L::from_bits(bits), want_gradient, task.loss != nullptr ? &loss : nullptr);
      poisoned |= (~L::bits(finite) & ~bits & all) != 0;
      if (task.count != nullptr) task.count[m] += static_cast<T>(__builtin_popcountll(bits));
      if (task.loss != nullptr) {  // sums over rows are in order, so they are scalar
        L::store(loss_of, loss);
        for (std::int64_t k = 0; k < left; ++k)
          if (bits >> k & 1) task.loss[m] = scalar_fma(static_cast<double>(w[k]), static_cast<double>(loss_of[k]), task.loss[m]);
      }
      if (task.weight_sum != nullptr)
        for (std::int64_t k = 0; k < left; ++k)
          if (bits >> k & 1) task.weight_sum[m] += static_cast<double>(w[k]);
    }
    if (!want_gradient) continue;
    for (std::int64_t c = task.n_models * task.n_outputs; c < n_lanes; ++c) L::store(columns + c * L::N, L::zero());
    first = 0;
    for (int b = 0; b < task.n_blocks; ++b) {
      const std::int64_t lanes = panel_lanes(task.blocks[b].n_vectors, L::N);
      columns_to_rows<L>(columns + first * L::N, lanes, tiles + first * tile_rows + i * lanes);
      first += lanes;
    }
  }
  return poisoned;
}

// Residuals of a block's rows -> its gradient sums, going on from the rows before.
template <class L, int NV>
void outputs_gradient(const OutputsTask<typename L::T>& task, const OutputBlock<typename L::T>& block, std::int64_t r0, std::int64_t n,
                      std::int64_t first, bool select, const typename L::T* residual) {
  constexpr int lanes = NV * L::N;
  for (int v = 0; v < NV; ++v) {
    auto sum = L::load(block.grad_intercept + v * L::N);
    for (std::int64_t r = 0; r < n; ++r) sum = L::add(sum, L::load(residual + r * lanes + v * L::N));
    L::store(block.grad_intercept + v * L::N, sum);
  }
  ChunkTask<typename L::T> part = block_task<L>(task, block, r0);
  std::uint64_t roles[kScratchRows];
  part.roles = roles;
  if (!select) return gradient_block<L, NV, false>(part, 0, n, residual, 0, task.n_features);
  for (std::int64_t r = 0; r < n; ++r) {  // the lanes whose model uses the row
    roles[r] = 0;
    for (int l = 0; l < lanes && first + l < task.n_models * task.n_outputs; ++l)
      roles[r] |= (task.roles[r0 + r] >> ((first + l) / task.n_outputs) & 1) << l;
  }
  gradient_block<L, NV, true>(part, 0, n, residual, 0, task.n_features);
}

template <class L>
bool outputs_chunk(const OutputsTask<typename L::T>& task) {
  using T = typename L::T;
  std::int64_t n_lanes = 0;
  for (int b = 0; b < task.n_blocks; ++b) {
    const OutputBlock<T>& block = task.blocks[b];
    const std::int64_t lanes = panel_lanes(block.n_vectors, L::N);
    n_lanes += lanes;
    if (block.grad == nullptr) continue;
    for (std::int64_t i = 0; i < task.n_features * lanes; i += L::N) L::store(block.grad + i, L::zero());
    for (std::int64_t i = 0; i < lanes; i += L::N) L::store(block.grad_intercept + i, L::zero());
  }
  for (std::int64_t m = 0; m < task.n_models; ++m) {
    if (task.count != nullptr) task.count[m] = T(0);
    if (task.loss != nullptr) task.loss[m] = 0.0;
    if (task.weight_sum != nullptr) task.weight_sum[m] = 0.0;
  }
  const std::int64_t step = output_rows<T>(task.n_features, n_lanes);
  for (std::int64_t r0 = 0; r0 < task.n_rows; r0 += step) {
    if (task.stop != nullptr && __atomic_load_n(task.stop, __ATOMIC_RELAXED) != 0) return false;
    const std::int64_t n = r0 + step < task.n_rows ? step : task.n_rows - r0;
    std::int64_t first = 0;
    for (int b = 0; b < task.n_blocks; ++b) {
      const ChunkTask<T> part = block_task<L>(task, task.blocks[b], r0);
      T* tile = task.scratch + first * step;
      switch (part.n_vectors) {
        case 1: forward_block<L, 1>(part, 0, n, tile); break;
        case 2: forward_block<L, 2>(part, 0, n, tile); break;
        default: forward_block<L, 3>(part, 0, n, tile); break;
      }
      first += panel_lanes(part.n_vectors, L::N);
    }
    const bool select = softmax_rows<L>(task, r0, n, task.scratch, step, n_lanes);
    if (task.blocks[0].grad == nullptr) continue;
    first = 0;
    for (int b = 0; b < task.n_blocks; ++b) {
      const OutputBlock<T>& block = task.blocks[b];
      const T* residual = task.scratch + first * step;
      switch (block.n_vectors) {
        case 1: outputs_gradient<L, 1>(task, block, r0, n, first, select, residual); break;
        case 2: outputs_gradient<L, 2>(task, block, r0, n, first, select, residual); break;
        default: outputs_gradient<L, 3>(task, block, r0, n, first, select, residual); break;
      }
      first += panel_lanes(block.n_vectors, L::N);
    }
  }
  return true;
}

}  // namespace
}  // namespace gradfold
