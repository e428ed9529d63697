#include "optimum/optimum.h"

namespace gradfold {

extern const OptimumKernels optimum_serial, optimum_x86_v3, optimum_x86_v4, optimum_neon;

const OptimumKernels& optimum_kernels(Level level) { GRADFOLD_SELECT_LEVEL(level, optimum_) }

}  // namespace gradfold
