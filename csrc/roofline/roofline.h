// What the machine can do at best, measured: the limits that benchmarks are held against.
#pragma once
#include <cstdint>

#include "levels/levels.h"

namespace gradfold {

// Floating-point operations (an FMA is two) a second of n_threads threads that do nothing but independent FMAs in registers
// for about `seconds`; sizeof_type is 4 or 8.
double fma_peak(Level level, int sizeof_type, int n_threads, double seconds);

struct Bandwidth {
  double bytes_per_second;
  double sum;  // of all elements that one repeat read, added in no particular order: proof that they were read
};

// n_threads threads read n elements `repeats` times with vector loads, each a contiguous share.
Bandwidth read_bandwidth(Level level, const double* memory, std::int64_t n, int n_threads, int repeats);

// Bytes a second, those read and those written, of n_threads threads that copy n elements `repeats` times with ordinary
// vector stores. What a cache fetches before it is written to is not counted.
double copy_bandwidth(Level level, const double* from, double* to, std::int64_t n, int n_threads, int repeats);

// n_threads threads read the n rows table[rows[i] * width ...] of `width` elements, each a contiguous share of `rows`,
// `repeats` times. Counted are the rows; the row numbers, 8 bytes each and read in order, are not. T is float or double.
template <class T>
Bandwidth gather_bandwidth(Level level, const T* table, std::int64_t width, const std::int64_t* rows, std::int64_t n,
                           int n_threads, int repeats);

struct RooflineKernels {
  double (*fma_f32)(std::int64_t iterations);  // returns a value that depends on every FMA
  double (*fma_f64)(std::int64_t iterations);
  std::int64_t fma_per_iteration_f32, fma_per_iteration_f64;
  double (*read)(const double* memory, std::int64_t n);  // the sum
  void (*copy)(const double* from, double* to, std::int64_t n);
  double (*gather_f32)(const float* table, std::int64_t width, const std::int64_t* rows, std::int64_t n);  // the sum
  double (*gather_f64)(const double* table, std::int64_t width, const std::int64_t* rows, std::int64_t n);
};

const RooflineKernels& roofline_kernels(Level level);

}  // namespace gradfold
