#include "index/index_kernels.h"
#include "levels/levels.h"

namespace gradfold {

const IndexKernels& index_kernels() {
  GRADFOLD_SELECT_LEVEL(current_level(), index_kernels_)
}

}  // namespace gradfold
