#include "index/permutation-inl.h"

namespace gradfold {
const PermutationKernels permutation_kernels_serial = kKernels;
}  // namespace gradfold
