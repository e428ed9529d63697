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
constexpr int kApart = 16;  // doubles between two threads' sums: two cache lines

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

namespace {

// Calls work(begin, end) on every thread's share of [0, n), `repeats` times, and adds up what the last repeat returned.
template <class Work>
Bandwidth measure(std::int64_t n, double bytes, int n_threads, int repeats, Work work) {
  std::vector<double> sums(static_cast<std::size_t>(n_threads) * kApart);
  const auto start = clock::now();
  run_team(n_threads, [&](int thread) {
    const std::int64_t begin = n / n_threads * thread + std::min<std::int64_t>(thread, n % n_threads);
    const std::int64_t end = begin + n / n_threads + (thread < n % n_threads);
    double sum = 0;
    for (int r = 0; r < repeats; ++r) sum = work(begin, end);
    sums[static_cast<std::size_t>(thread) * kApart] = sum;
  });
  Bandwidth out{bytes * repeats / seconds_since(start), 0};
  for (double sum : sums) out.sum += sum;
  return out;
}

}  // namespace

Bandwidth read_bandwidth(Level level, const double* memory, std::int64_t n, int n_threads, int repeats) {
  const auto kernel = roofline_kernels(level).read;
  return measure(n, 8.0 * static_cast<double>(n), n_threads, repeats,
                 [=](std::int64_t begin, std::int64_t end) { return kernel(memory + begin, end - begin); });
}

double copy_bandwidth(Level level, const double* from, double* to, std::int64_t n, int n_threads, int repeats) {
  const auto kernel = roofline_kernels(level).copy;
  const auto work = [=](std::int64_t begin, std::int64_t end) {
    kernel(from + begin, to + begin, end - begin);
    return 0.0;
  };
  return measure(n, 16.0 * static_cast<double>(n), n_threads, repeats, work).bytes_per_second;
}

template <class T>
Bandwidth gather_bandwidth(Level level, const T* table, std::int64_t width, const std::int64_t* rows, std::int64_t n,
                           int n_threads, int repeats) {
  const RooflineKernels& kernels = roofline_kernels(level);
  const auto work = [=, &kernels](std::int64_t begin, std::int64_t end) {
    if constexpr (sizeof(T) == 4) {
      return kernels.gather_f32(table, width, rows + begin, end - begin);
    } else {
      return kernels.gather_f64(table, width, rows + begin, end - begin);
    }
  };
  return measure(n, static_cast<double>(sizeof(T)) * static_cast<double>(width * n), n_threads, repeats, work);
}
template Bandwidth gather_bandwidth<float>(Level, const float*, std::int64_t, const std::int64_t*, std::int64_t, int, int);
template Bandwidth gather_bandwidth<double>(Level, const double*, std::int64_t, const std::int64_t*, std::int64_t, int, int);

}  // namespace gradfold
