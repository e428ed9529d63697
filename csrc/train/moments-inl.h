// Include after the level's lanes; internal linkage throughout.
#pragma once
#include "train/moments.h"

namespace gradfold {
namespace {

template <class L>
void load_wide(const typename L::T* p, typename L::Wide::V (&out)[L::kWide]) {
  L::widen(L::load(p), out);
}

inline double moment_term(double weight, double x, const double* mean, double sum) {
  if (mean == nullptr) return __builtin_fma(weight, x, sum);
  const double d = x - *mean;
  return __builtin_fma(weight * d, d, sum);
}

template <class L, bool CENTRED>
void moment_sums_of(const typename L::T* const* x, const double* weight, std::int64_t n_rows, std::int64_t n_features,
                    const double* mean, double* out) {
  using D = typename L::Wide;
  constexpr int kTile = 4;  // vectors of L at a time: enough independent chains to hide the latency of an FMA
  std::int64_t f = 0;
  for (; f + kTile * L::N <= n_features; f += kTile * L::N) {
    typename D::V sum[kTile][L::kWide], centre[kTile][L::kWide];
    for (int t = 0; t < kTile; ++t)
      for (int h = 0; h < L::kWide; ++h) {
        sum[t][h] = D::zero();
        centre[t][h] = CENTRED ? D::load(mean + f + t * L::N + h * D::N) : D::zero();
      }
    for (std::int64_t r = 0; r < n_rows; ++r) {
      const auto w = D::set1(weight[r]);
#pragma GCC unroll 4
      for (int t = 0; t < kTile; ++t) {
        typename D::V v[L::kWide];
        load_wide<L>(x[r] + f + t * L::N, v);
#pragma GCC unroll 2
        for (int h = 0; h < L::kWide; ++h) {
          if constexpr (CENTRED) {
            const auto d = D::sub(v[h], centre[t][h]);
            sum[t][h] = D::fma(D::mul(w, d), d, sum[t][h]);
          } else {
            sum[t][h] = D::fma(w, v[h], sum[t][h]);
          }
        }
      }
    }
    for (int t = 0; t < kTile; ++t)
      for (int h = 0; h < L::kWide; ++h) D::store(out + f + t * L::N + h * D::N, sum[t][h]);
  }
  for (std::int64_t g = f; g < n_features; ++g) out[g] = 0.0;
  for (std::int64_t r = 0; r < n_rows; ++r)
    for (std::int64_t g = f; g < n_features; ++g)
      out[g] = moment_term(weight[r], static_cast<double>(x[r][g]), CENTRED ? mean + g : nullptr, out[g]);
}

template <class L>
void moment_sums(const typename L::T* const* x, const double* weight, std::int64_t n_rows, std::int64_t n_features,
                 const double* mean, double* out) {
  if (mean != nullptr)
    moment_sums_of<L, true>(x, weight, n_rows, n_features, mean, out);
  else
    moment_sums_of<L, false>(x, weight, n_rows, n_features, nullptr, out);
}

// Adds NR rows to NS sums of the columns [first, last).
template <class L, int NS, int NR>
void add_centred(const typename L::T* const* x, const double* const* weight, std::int64_t row, std::int64_t first, std::int64_t last,
                 const double* mean, double* const* out) {
  using D = typename L::Wide;
  typename D::V w[NS][NR];
#pragma GCC unroll 4
  for (int k = 0; k < NS; ++k)
#pragma GCC unroll 4
    for (int r = 0; r < NR; ++r) w[k][r] = D::set1(weight[k][row + r]);
  std::int64_t f = first;
  for (; f + L::N <= last; f += L::N) {
    typename D::V sum[NS][L::kWide], centre[L::kWide];
#pragma GCC unroll 2
    for (int h = 0; h < L::kWide; ++h) {
      centre[h] = D::load(mean + f + h * D::N);
#pragma GCC unroll 4
      for (int k = 0; k < NS; ++k) sum[k][h] = D::load(out[k] + f + h * D::N);
    }
#pragma GCC unroll 4
    for (int r = 0; r < NR; ++r) {
      typename D::V v[L::kWide];
      load_wide<L>(x[row + r] + f, v);
#pragma GCC unroll 2
      for (int h = 0; h < L::kWide; ++h) {
        const auto d = D::sub(v[h], centre[h]);
#pragma GCC unroll 4
        for (int k = 0; k < NS; ++k) sum[k][h] = D::fma(w[k][r], d, sum[k][h]);
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < NS; ++k)
      for (int h = 0; h < L::kWide; ++h) D::store(out[k] + f + h * D::N, sum[k][h]);
  }
  for (; f < last; ++f)
    for (int r = 0; r < NR; ++r)
      for (int k = 0; k < NS; ++k) out[k][f] = __builtin_fma(weight[k][row + r], static_cast<double>(x[row + r][f]) - mean[f], out[k][f]);
}

template <class L, int NS>
void centred_sums(const typename L::T* const* x, const double* const* weight, std::int64_t n_rows, std::int64_t n_features,
                  const double* mean, double* const* out) {
  constexpr std::int64_t kBlock = 512;  // columns whose sums stay in the first-level cache while all rows go by
  constexpr int kRows = 4;
  for (int k = 0; k < NS; ++k)
    for (std::int64_t f = 0; f < n_features; ++f) out[k][f] = 0;
  for (std::int64_t first = 0; first < n_features; first += kBlock) {
    const std::int64_t last = first + kBlock < n_features ? first + kBlock : n_features;
    std::int64_t row = 0;
    for (; row + kRows <= n_rows; row += kRows) add_centred<L, NS, kRows>(x, weight, row, first, last, mean, out);
    for (; row < n_rows; ++row) add_centred<L, NS, 1>(x, weight, row, first, last, mean, out);
  }
}

template <class L>
void moment_centred(const typename L::T* const* x, const double* const* weight, std::int64_t n_sums, std::int64_t n_rows,
                    std::int64_t n_features, const double* mean, double* const* out) {
  std::int64_t k = 0;
  for (; k + 4 <= n_sums; k += 4) centred_sums<L, 4>(x, weight + k, n_rows, n_features, mean, out + k);
  if (k + 2 <= n_sums) {
    centred_sums<L, 2>(x, weight + k, n_rows, n_features, mean, out + k);
    k += 2;
  }
  if (k < n_sums) centred_sums<L, 1>(x, weight + k, n_rows, n_features, mean, out + k);
}

}  // namespace
}  // namespace gradfold

#define GRADFOLD_MOMENT_KERNELS(level)                                       \
  namespace gradfold {                                                       \
  extern const MomentKernels<float> moments_f32_##level;                     \
  extern const MomentKernels<double> moments_f64_##level;                    \
  const MomentKernels<float> moments_f32_##level = {&moment_sums<F32>, &moment_centred<F32>};      \
  const MomentKernels<double> moments_f64_##level = {&moment_sums<F64>, &moment_centred<F64>};     \
  }
