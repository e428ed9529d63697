// The table of loops that each level provides for the mixer (rounds > 0). Chosen in permutation.cpp.
#pragma once
#include <cstdint>

#include "index/permutation.h"

namespace gradfold {

struct PermutationKernels {
  void (*fill)(const Permutation& p, std::int64_t first, std::int64_t step, std::int64_t count, std::int64_t* out);
  void (*map)(const Permutation& p, bool inverse, const std::int64_t* in, std::int64_t count, std::int64_t* out);
};

extern const PermutationKernels permutation_kernels_serial;
extern const PermutationKernels permutation_kernels_x86_v3;
extern const PermutationKernels permutation_kernels_x86_v4;
extern const PermutationKernels permutation_kernels_neon;

}  // namespace gradfold
