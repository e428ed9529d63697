#include "index/permutation-inl.h"

namespace gradfold {
const PermutationKernels permutation_kernels_x86_v3 = kKernels;
}  // namespace gradfold
