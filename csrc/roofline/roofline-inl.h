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

// Sums of elements, in as many vectors as there are streams.
template <class L>
struct Sums {
  typename L::V acc[kStreams];
  double rest = 0;  // of the elements that fill no vector

  Sums() {
    for (auto& v : acc) v = L::zero();
  }

  void add(const typename L::T* from, std::int64_t n) {
    std::int64_t i = 0;
    for (; i + kStreams * L::N <= n; i += kStreams * L::N) {
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) acc[s] = L::add(acc[s], L::load(from + i + s * L::N));
    }
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) {  // no index that is known at run time only: the sums must stay in registers
      if (i + L::N <= n) {
        acc[s] = L::add(acc[s], L::load(from + i));
        i += L::N;
      }
    }
    for (; i < n; ++i) rest += static_cast<double>(from[i]);
  }

  double total() const {
    double out = rest;
    for (const auto& v : acc) {
      typename L::T lanes[L::N];
      L::store(lanes, v);
      for (auto x : lanes) out += static_cast<double>(x);
    }
    return out;
  }
};

template <class L>
double read_all(const double* memory, std::int64_t n) {
  Sums<L> sums;
  sums.add(memory, n);
  return sums.total();
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
  if (width == 1) return gather_elements<L>(table, rows, n);
  Sums<L> sums;
  for (std::int64_t i = 0; i < n; ++i) sums.add(table + rows[i] * width, width);
  return sums.total();
}

}  // namespace
}  // namespace gradfold

#define GRADFOLD_ROOFLINE_KERNELS(level)                                                                         \
  namespace gradfold {                                                                                           \
  extern const RooflineKernels roofline_##level;                                                                 \
  const RooflineKernels roofline_##level = {&fma_chains<F32>, &fma_chains<F64>, kChains* F32::N, kChains* F64::N, \
                                            &read_all<F64>,   &copy_all<F64>,   &gather_rows<F32>, &gather_rows<F64>}; \
  }
