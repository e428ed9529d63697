// The floating-point environment of every kernel entry and worker: round to nearest, subnormals kept.
#pragma once
#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace gradfold {

// Sets the environment for its lifetime and restores what the caller had. A caller may have switched on
// flush-to-zero (PyTorch and some BLAS do) or another rounding mode; either would change bits.
class FloatingPointGuard {
 public:
  FloatingPointGuard() : saved_(read()) { write(kDefault); }
  ~FloatingPointGuard() { write(saved_); }
  FloatingPointGuard(const FloatingPointGuard&) = delete;
  FloatingPointGuard& operator=(const FloatingPointGuard&) = delete;

 private:
#if defined(__x86_64__)
#ifdef GRADFOLD_FREE  // FTZ and DAZ on
  static constexpr std::uint64_t kDefault = 0x9FC0;
#else
  static constexpr std::uint64_t kDefault = 0x1F80;  // all exceptions masked, nearest, FTZ and DAZ off
#endif
  static std::uint64_t read() { return _mm_getcsr(); }
  static void write(std::uint64_t v) { _mm_setcsr(static_cast<unsigned>(v)); }
#elif defined(__aarch64__)
  static constexpr std::uint64_t kDefault = 0;
  static std::uint64_t read() {
    std::uint64_t v;
    asm volatile("mrs %0, fpcr" : "=r"(v));
    return v;
  }
  static void write(std::uint64_t v) { asm volatile("msr fpcr, %0" ::"r"(v)); }
#else
  static constexpr std::uint64_t kDefault = 0;
  static std::uint64_t read() { return 0; }
  static void write(std::uint64_t) {}
#endif
  std::uint64_t saved_;
};

}  // namespace gradfold
