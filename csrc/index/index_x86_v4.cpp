#include "index/index-inl.h"

namespace gradfold {
const IndexKernels index_kernels_x86_v4 = kKernels;
}  // namespace gradfold
