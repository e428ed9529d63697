// What the machine can do at best, measured: the limits that benchmarks are held against.
#pragma once
#include <cstdint>

#include "levels/levels.h"

namespace gradfold {

// Floating-point operations (an FMA is two) a second of n_threads threads that do nothing but independent FMAs in registers
// for about `seconds`; sizeof_type is 4 or 8.
double fma_peak(Level level, int sizeof_type, int n_threads, double seconds);

// Bytes a second of n_threads threads that read `bytes` bytes of memory `repeats` times with vector loads.
double read_bandwidth(Level level, const void* memory, std::int64_t bytes, int n_threads, int repeats);

struct RooflineKernels {
  double (*fma_f32)(std::int64_t iterations);  // returns a value that depends on every FMA
  double (*fma_f64)(std::int64_t iterations);
  std::int64_t fma_per_iteration_f32, fma_per_iteration_f64;
  double (*read)(const double* memory, std::int64_t n);
};

const RooflineKernels& roofline_kernels(Level level);

}  // namespace gradfold
