#include "index/index_kernels.h"
#include "levels/levels.h"

namespace gradfold {

const IndexKernels& index_kernels() {
#define GRADFOLD_TABLE(NAME) index_kernels_##NAME
  GRADFOLD_SELECT_LEVEL(current_level(), GRADFOLD_TABLE)
#undef GRADFOLD_TABLE
}

}  // namespace gradfold
