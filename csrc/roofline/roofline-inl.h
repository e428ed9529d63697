// Include after the level's lanes; internal linkage throughout.
#pragma once
#include "roofline/roofline.h"

namespace gradfold {
namespace {

constexpr int kChains = 12;  // more than latency x units of any CPU in use, and few enough for 16 registers
constexpr int kStreams = 8;  // loads or stores in flight of one round

template <class L>
double fma_chains(std::int64_t iterations) {
  using T = typename L::T;
  typename L::V acc[kChains];
  for (int c = 0; c < kChains; ++c) acc[c] = L::set1(T(c));
  auto a = L::set1(T(0.999)), b = L::set1(T(0.001));
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) acc[c] = L::fma(acc[c], a, b);
  }
  double out = 0;
  for (int c = 0; c < kChains; ++c) {
    T lanes[L::N];
    L::store(lanes, acc[c]);
    for (T v : lanes) out += static_cast<double>(v);
  }
  return out;
}

// The sum of rows of at least one vector. kRest: how many vectors a row has after its whole rounds, which is known when this is
// compiled, so that a short row is a line of loads without a branch.
template <class L, int kRest>
double sum_wide_rows(const typename L::T* table, std::int64_t width, const std::int64_t* rows, std::int64_t n) {
  constexpr std::int64_t kRound = kStreams * L::N;
  const std::int64_t rounds = width / kRound * kRound, tail = width % L::N;
  // The tail is read as the row's last whole vector, without the lanes that are in the sums already.
  const auto fresh = L::from_bits(tail == 0 ? 0 : ~std::uint64_t(0) << (L::N - tail));
  typename L::V acc[kStreams];
  for (auto& v : acc) v = L::zero();
  for (std::int64_t r = 0; r < n; ++r) {
    const typename L::T* row = table + rows[r] * width;
    for (std::int64_t i = 0; i < rounds; i += kRound) {
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) acc[s] = L::add(acc[s], L::load(row + i + s * L::N));
    }
#pragma GCC unroll 8
    for (int s = 0; s < kRest; ++s) acc[s] = L::add(acc[s], L::load(row + rounds + s * L::N));
    if (tail) acc[kStreams - 1] = L::add(acc[kStreams - 1], L::select(fresh, L::load(row + width - L::N), L::zero()));
  }
#pragma GCC unroll 8
  for (int s = 1; s < kStreams; ++s) acc[0] = L::add(acc[0], acc[s]);  // lane by lane would take as long as reading a small cache
  typename L::T lanes[L::N];
  L::store(lanes, acc[0]);
  double out = 0;
  for (auto x : lanes) out += static_cast<double>(x);
  return out;
}

template <class L>
double sum_rows(const typename L::T* table, std::int64_t width, const std::int64_t* rows, std::int64_t n) {
  if (width < L::N) {
    double out = 0;
    for (std::int64_t r = 0; r < n; ++r)
      for (std::int64_t i = 0; i < width; ++i) out += static_cast<double>(table[rows[r] * width + i]);
    return out;
  }
  switch (width / L::N % kStreams) {
    case 0: return sum_wide_rows<L, 0>(table, width, rows, n);
    case 1: return sum_wide_rows<L, 1>(table, width, rows, n);
    case 2: return sum_wide_rows<L, 2>(table, width, rows, n);
    case 3: return sum_wide_rows<L, 3>(table, width, rows, n);
    case 4: return sum_wide_rows<L, 4>(table, width, rows, n);
    case 5: return sum_wide_rows<L, 5>(table, width, rows, n);
    case 6: return sum_wide_rows<L, 6>(table, width, rows, n);
    default: return sum_wide_rows<L, 7>(table, width, rows, n);
  }
}

template <class L>
double read_all(const double* memory, std::int64_t n) {
  const std::int64_t first = 0;
  return sum_rows<L>(memory, n, &first, 1);  // one long row
}

template <class L>
void copy_all(const double* from, double* to, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kStreams * L::N <= n; i += kStreams * L::N) {
    typename L::V held[kStreams];
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) held[s] = L::load(from + i + s * L::N);
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) L::store(to + i + s * L::N, held[s]);
  }
  for (; i < n; ++i) to[i] = from[i];
}

// Single elements are loads that wait for nothing but their own index; no level's gather instruction is faster than that.
template <class L>
double gather_elements(const typename L::T* table, const std::int64_t* rows, std::int64_t n) {
  typename L::T acc[kStreams] = {};
  std::int64_t i = 0;
  for (; i + kStreams <= n; i += kStreams) {
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) acc[s] += table[rows[i + s]];
  }
  double out = 0;
  for (; i < n; ++i) out += static_cast<double>(table[rows[i]]);
  for (auto x : acc) out += static_cast<double>(x);
  return out;
}

template <class L>
double gather_rows(const typename L::T* table, std::int64_t width, const std::int64_t* rows, std::int64_t n) {
  return width == 1 ? gather_elements<L>(table, rows, n) : sum_rows<L>(table, width, rows, n);
}

}  // namespace
}  // namespace gradfold

#define GRADFOLD_ROOFLINE_KERNELS(level)                                                                         \
  namespace gradfold {                                                                                           \
  extern const RooflineKernels roofline_##level;                                                                 \
  const RooflineKernels roofline_##level = {&fma_chains<F32>, &fma_chains<F64>, kChains* F32::N, kChains* F64::N, \
                                            &read_all<F64>,   &copy_all<F64>,   &gather_rows<F32>, &gather_rows<F64>}; \
  }
