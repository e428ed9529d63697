// The table of loops that each level provides.
#pragma once
#include <cstdint>

#include "index/permutation.h"

namespace gradfold {

struct IndexKernels {
  // The mixer (rounds > 0); see permutation.h.
  void (*fill)(const Permutation& p, std::int64_t first, std::int64_t step, std::int64_t count, std::int64_t* out);
  void (*map)(const Permutation& p, bool inverse, const std::int64_t* in, std::int64_t count, std::int64_t* out);
  // Writes first + i for every i with role[i] == wanted, ascending, and returns how many; chosen in folds.cpp. Up to
  // count + kPackSlack numbers are written.
  std::int64_t (*pack)(const std::int8_t* role, std::int8_t wanted, std::int64_t first, std::int64_t count,
                       std::int64_t* out);
};

inline constexpr std::int64_t kPackSlack = 8;

// The loops of the level in use.
const IndexKernels& index_kernels();

extern const IndexKernels index_kernels_serial;
extern const IndexKernels index_kernels_x86_v3;
extern const IndexKernels index_kernels_x86_v4;
extern const IndexKernels index_kernels_neon;

}  // namespace gradfold
