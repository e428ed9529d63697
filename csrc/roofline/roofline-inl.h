// Include after the level's lanes; internal linkage throughout.
#pragma once
#include "roofline/roofline.h"

namespace gradfold {
namespace {

constexpr int kChains = 12;  // more than latency x units of any CPU in use, and few enough for 16 registers

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

template <class L>
double read_all(const double* memory, std::int64_t n) {
  constexpr int kStreams = 8;
  typename L::V acc[kStreams];
  for (auto& v : acc) v = L::zero();
  std::int64_t i = 0;
  for (; i + kStreams * L::N <= n; i += kStreams * L::N) {
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) acc[s] = L::add(acc[s], L::load(memory + i + s * L::N));
  }
  double out = 0, lanes[L::N];
  for (const auto& v : acc) {
    L::store(lanes, v);
    for (double x : lanes) out += x;
  }
  return out;
}

}  // namespace
}  // namespace gradfold

#define GRADFOLD_ROOFLINE_KERNELS(level)                                                                         \
  namespace gradfold {                                                                                           \
  extern const RooflineKernels roofline_##level;                                                                 \
  const RooflineKernels roofline_##level = {&fma_chains<F32>, &fma_chains<F64>, kChains* F32::N, kChains* F64::N, \
                                            &read_all<F64>};                                                     \
  }
