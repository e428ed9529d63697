// Kernels freed of the promises, for scripts/price_of_promises.py alone: built only with GRADFOLD_FREE, on one thread. They sum in
// the data's type, in whatever order is fastest, use approximations good to about 1e-5, and let a held-out row that is not finite
// reach its models. Include after the level's lanes and the losses.
#pragma once
#include <cstdint>

#include "gradient/gradient.h"
#include "loss/losses-inl.h"
#include "simd/free-inl.h"

namespace gradfold {
namespace {

// e^x for x <= 0, to 4e-6: one constant for ln 2, four powers, and 2^n by adding to the exponent.
template <class L>
GRADFOLD_LANE_FUNCTION typename L::V free_exp_nonpositive(typename L::V x) {
  static_assert(kIsFloat<L>);
  constexpr float kRound = 0x1.8p+23f;
  const auto inside = larger<L>(x, L::set1(-87.0f));
  const auto t = L::fma(inside, L::set1(0x1.715476p+0f), L::set1(kRound));
  const auto r = L::fnma(L::sub(t, L::set1(kRound)), L::set1(0x1.62e43p-1f), inside);
  const auto p = horner<L>(r, L::set1(0x1.57636ep-5f), 0x1.57e748p-3f, 0x1.fffd0ap-2f, 0x1.fffb0ep-1f, 0x1.000002p+0f);
  return L::as_float(L::iadd(L::as_int(p), L::template ishl<kSignificandBits<L>>(L::as_int(t))));
}

// Loss and gradient; those of log_loss in float32 with cheap maths, the others as they are.
template <class L, class LossType, bool WANT_LOSS>
GRADFOLD_LANE_FUNCTION void free_evaluate(typename L::V z, typename L::V y, typename L::V epsilon, typename L::V* loss,
                                          typename L::V* gradient) {
  if constexpr (kFreeMaths && std::is_same_v<LossType, LogLoss> && kIsFloat<L>) {
    const auto one = L::set1(1);
    const auto target = L::select(L::lt(L::zero(), y), one, L::zero());
    const auto e = free_exp_nonpositive<L>(L::neg(L::abs(z)));
    const auto r = quick_quotient<L>(one, L::add(one, e));
    *gradient = L::sub(L::select(L::lt(L::zero(), z), r, L::mul(e, r)), target);
    if constexpr (WANT_LOSS) {  // e * (ln(1 + e) / e), to 1.4e-6 of it
      const auto log1p_over_e = horner<L>(e, L::set1(0x1.d165fp-7f), -0x1.10bea2p-4f, 0x1.320ac2p-3f, -0x1.e1959cp-3f, 0x1.531142p-2f,
                                          -0x1.ffde6cp-2f, 0x1.ffffd6p-1f);
      *loss = L::fma(e, log1p_over_e, L::fnma(target, z, larger<L>(z, L::zero())));
    }
  } else {
    LossType::template evaluate<L>(z, y, epsilon, loss, gradient);
  }
}

// Of one vector of lanes over the rows of a block. UNIFORM: all rows have the lanes of the first.
template <class L, class LossType, bool WANT_GRADIENT, bool WANT_LOSS, bool UNIFORM, class Sums>
void free_residual_rows(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, typename L::T* z, int lane, int lanes,
                        Sums& sums) {
  using T = typename L::T;
  using V = typename L::V;
  using D = typename L::Wide;
  const V one = L::set1(T(1));
  const V epsilon = task.loss_epsilon != nullptr ? L::load(task.loss_epsilon + lane) : L::set1(static_cast<T>(kLossEpsilon));
  auto use = L::from_bits(task.roles[r0] >> lane);
  V residual_sum = L::zero(), loss_sum = L::zero(), weight_sum = L::zero(), count = L::zero();
#pragma GCC unroll 2
  for (std::int64_t r = 0; r < n; ++r) {
    T* at = z + r * lanes + lane;
    if constexpr (!UNIFORM) use = L::from_bits(task.roles[r0 + r] >> lane);
    V loss = L::zero(), gradient;
    free_evaluate<L, LossType, WANT_LOSS>(L::load(at), L::set1(task.y[r0 + r]), epsilon, &loss, &gradient);
    if (task.weight != nullptr) {
      const V weight = L::set1(task.weight[r0 + r]);
      gradient = L::mul(weight, gradient);
      loss = L::mul(weight, loss);
      if (task.weight_sum != nullptr) weight_sum = L::add(weight_sum, L::select(use, weight, L::zero()));
    }
    if constexpr (WANT_GRADIENT) {
      gradient = L::select(use, gradient, L::zero());
      L::store(at, gradient);
      residual_sum = L::add(residual_sum, gradient);
    }
    if constexpr (WANT_LOSS) loss_sum = L::add(loss_sum, L::select(use, loss, L::zero()));
    if constexpr (!UNIFORM) count = L::add(count, L::select(use, one, L::zero()));
  }
  if constexpr (UNIFORM) count = L::select(use, L::set1(static_cast<T>(n)), L::zero());
  if (task.weight == nullptr) weight_sum = count;
  sums.residual = L::add(sums.residual, residual_sum);
  sums.count = L::add(sums.count, count);
  typename D::V wide[L::kWide];
  L::widen(loss_sum, wide);
  for (int h = 0; h < L::kWide; ++h) sums.loss[h] = D::add(sums.loss[h], wide[h]);
  L::widen(weight_sum, wide);
  for (int h = 0; h < L::kWide; ++h) sums.weight[h] = D::add(sums.weight[h], wide[h]);
}

template <class L, class LossType, bool WANT_GRADIENT, bool WANT_LOSS, class Sums>
bool free_residual_lanes(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, typename L::T* z, int lane, int lanes,
                         Sums& sums) {
  std::uint64_t differ = 0;
  for (std::int64_t r = 0; r < n; ++r) differ |= task.roles[r0 + r] ^ task.roles[r0];
  if (differ == 0)
    free_residual_rows<L, LossType, WANT_GRADIENT, WANT_LOSS, true>(task, r0, n, z, lane, lanes, sums);
  else
    free_residual_rows<L, LossType, WANT_GRADIENT, WANT_LOSS, false>(task, r0, n, z, lane, lanes, sums);
  return false;
}

// ---- few models: lanes are features in the forward pass too ----

// Forward of a block's rows [r0, r0 + n) for n_features >= L::N. tail: per model, the weights of the last L::N features, 0 for those that
// whole vectors before them have.
template <class L, int M, class Ahead>
void free_narrow_forward(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, const typename L::T* W,
                         const typename L::T* tail, Ahead& ahead_of) {
  using T = typename L::T;
  using V = typename L::V;
  constexpr int ROWS = M == 1 ? 8 : 4;
  constexpr int kLines = (ROWS * L::N * static_cast<int>(sizeof(T)) * 3 / 4 + 63) / 64;
  const std::int64_t p = task.n_features;
  Ahead ahead = ahead_of;
  for (std::int64_t i = 0; i < n; i += ROWS) {
    const T* x[ROWS];
    for (int k = 0; k < ROWS; ++k) x[k] = task.x[r0 + (i + k < n ? i + k : n - 1)];
    V acc[M][ROWS];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int k = 0; k < ROWS; ++k) acc[m][k] = L::zero();
    auto add = [&](std::int64_t f, const T* w, std::int64_t stride) {
      V wv[M];
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) wv[m] = L::load(w + m * stride);
#pragma GCC unroll 8
      for (int k = 0; k < ROWS; ++k) {
        const V xv = L::load(x[k] + f);
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) acc[m][k] = L::fma(xv, wv[m], acc[m][k]);
      }
    };
    std::int64_t f = 0;
    for (; f + L::N <= p; f += L::N) {
      ahead.template fetch<kLines>();
      add(f, W + f, p);
    }
    if (f < p) add(p - L::N, tail, L::N);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
      for (int k = 0; k < ROWS; k += 4) {
        T* z = task.scratch + m * kScratchRows + i + k;
        sums_of_four<L>(&acc[m][k], z);
        for (int j = 0; j < 4; ++j) z[j] += task.intercept[m];
      }
  }
  ahead_of = ahead;
}

// narrow_residual, with sums over lanes.
template <class L, class LossType, bool WANT_LOSS>
void free_narrow_residual(const ChunkTask<typename L::T>& task, std::int64_t r0, std::int64_t n, int lane, typename L::T* z,
                          typename L::T& residual_sum, typename L::T& count, double& loss_sum, double& weight_sum) {
  using T = typename L::T;
  using V = typename L::V;
  const V epsilon = L::set1(task.loss_epsilon != nullptr ? task.loss_epsilon[lane] : static_cast<T>(kLossEpsilon));
  V residuals = L::zero(), losses = L::zero(), weights = L::zero();
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < n; i += L::N) {
    const std::int64_t left = n - i < L::N ? n - i : L::N;
    std::uint64_t common = ~std::uint64_t{0}, bits = (std::uint64_t{1} << left) - 1;
    for (std::int64_t k = 0; k < left; ++k) common &= task.roles[r0 + i + k];
    if ((common >> lane & 1) == 0) {
      bits = 0;
      for (std::int64_t k = 0; k < left; ++k) bits |= (task.roles[r0 + i + k] >> lane & 1) << k;
    }
    T y_tail[L::N], w_tail[L::N];
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
    V loss = L::zero(), gradient;
    free_evaluate<L, LossType, WANT_LOSS>(L::load(z + i), L::load(y), epsilon, &loss, &gradient);
    const auto use = L::from_bits(bits);
    if (w != nullptr) {
      gradient = L::mul(L::load(w), gradient);
      loss = L::mul(L::load(w), loss);
      weights = L::add(weights, L::select(use, L::load(w), L::zero()));
    }
    gradient = L::select(use, gradient, L::zero());
    L::store(z + i, gradient);
    residuals = L::add(residuals, gradient);
    if constexpr (WANT_LOSS) losses = L::add(losses, L::select(use, loss, L::zero()));
    used += __builtin_popcountll(bits);
  }
  residual_sum += sum_of<L>(residuals);
  count += static_cast<T>(used);
  if constexpr (WANT_LOSS) loss_sum += static_cast<double>(sum_of<L>(losses));
  if (task.weight_sum != nullptr) weight_sum += task.weight != nullptr ? double{sum_of<L>(weights)} : static_cast<double>(used);
}

// narrow_gradient_tile, with several rows at a time where few features would leave the FMA units waiting.
template <class L, int M, int TILE, class Ahead>
void free_narrow_gradient_tile(const typename L::T* const* x, std::int64_t n, std::int64_t f, std::int64_t n_features,
                               const typename L::T* residual, typename L::T* grad, Ahead& ahead_of) {
  using V = typename L::V;
  constexpr int ROWS = M * TILE >= 5 ? 1 : 8 / (M * TILE);
  Ahead ahead = ahead_of;
  std::int64_t at[TILE];
#pragma GCC unroll 8
  for (int t = 0; t < TILE; ++t) at[t] = f + t * L::N;
  if (at[TILE - 1] > n_features - L::N) at[TILE - 1] = n_features - L::N;
  V acc[ROWS][M][TILE];
#pragma GCC unroll 8
  for (int k = 0; k < ROWS; ++k)
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int t = 0; t < TILE; ++t) acc[k][m][t] = k == 0 ? L::load(grad + m * n_features + at[t]) : L::zero();
  auto add = [&]<int K>(std::int64_t r) {
    ahead.template fetch<(TILE + 3) / 4>();
    V xv[TILE];
#pragma GCC unroll 8
    for (int t = 0; t < TILE; ++t) xv[t] = L::load(x[r] + at[t]);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const V rv = L::set1(residual[m * kScratchRows + r]);
#pragma GCC unroll 8
      for (int t = 0; t < TILE; ++t) acc[K][m][t] = L::fma(xv[t], rv, acc[K][m][t]);
    }
  };
  std::int64_t r = 0;
  for (; r + ROWS <= n; r += ROWS)
    [&]<int... K>(std::integer_sequence<int, K...>) { (add.template operator()<K>(r + K), ...); }(std::make_integer_sequence<int, ROWS>());
  for (; r < n; ++r) add.template operator()<0>(r);
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int t = 0; t < TILE; ++t) {
      V sum = acc[0][m][t];
#pragma GCC unroll 8
      for (int k = 1; k < ROWS; ++k) sum = L::add(sum, acc[k][m][t]);
      L::store(grad + m * n_features + at[t], sum);
    }
  ahead_of = ahead;
}

}  // namespace
}  // namespace gradfold
