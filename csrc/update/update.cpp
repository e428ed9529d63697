#include "update/update.h"

namespace gradfold {

GRADFOLD_DISPATCH(UpdateKernels, update_kernels, update)

}  // namespace gradfold
