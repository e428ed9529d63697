#include "index/index-inl.h"

namespace gradfold {
const IndexKernels index_kernels_neon = kKernels;
}  // namespace gradfold
