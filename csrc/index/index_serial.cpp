#include "index/index-inl.h"

namespace gradfold {
const IndexKernels index_kernels_serial = kKernels;
}  // namespace gradfold
