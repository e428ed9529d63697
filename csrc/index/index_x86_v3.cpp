#include "index/index-inl.h"

namespace gradfold {
const IndexKernels index_kernels_x86_v3 = kKernels;
}  // namespace gradfold
