#include "roofline/roofline.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "threads/team.h"

namespace gradfold {

extern const RooflineKernels roofline_serial, roofline_x86_v3, roofline_x86_v4, roofline_neon;

const RooflineKernels& roofline_kernels(Level level) {
  GRADFOLD_SELECT_LEVEL(level, roofline_)
}

namespace {

using clock = std::chrono::steady_clock;
double seconds_since(clock::time_point start) { return std::chrono::duration<double>(clock::now() - start).count(); }
std::atomic<double> sink;  // keeps the compiler from dropping the work

}  // namespace

double fma_peak(Level level, int sizeof_type, int n_threads, double seconds) {
  const RooflineKernels& kernels = roofline_kernels(level);
  const auto kernel = sizeof_type == 4 ? kernels.fma_f32 : kernels.fma_f64;
  const std::int64_t per_iteration = sizeof_type == 4 ? kernels.fma_per_iteration_f32 : kernels.fma_per_iteration_f64;
  std::int64_t iterations = 1000;
  for (;;) {  // until one measurement is long enough
    const auto start = clock::now();
    sink = kernel(iterations);
    const double took = seconds_since(start);
    if (took > 0.01) {
      iterations = std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(iterations) * seconds / took));
      break;
    }
    iterations *= 4;
  }
  const auto start = clock::now();
  run_team(n_threads, [&](int) { sink = kernel(iterations); });
  return 2.0 * static_cast<double>(iterations * per_iteration) * n_threads / seconds_since(start);
}

double read_bandwidth(Level level, const void* memory, std::int64_t bytes, int n_threads, int repeats) {
  const RooflineKernels& kernels = roofline_kernels(level);
  const std::int64_t n = bytes / static_cast<std::int64_t>(sizeof(double));
  const std::int64_t share = n / n_threads;
  const auto start = clock::now();
  run_team(n_threads, [&](int thread) {
    for (int r = 0; r < repeats; ++r) sink = kernels.read(static_cast<const double*>(memory) + thread * share, share);
  });
  return static_cast<double>(share * n_threads * 8) * repeats / seconds_since(start);
}

}  // namespace gradfold
