#include "update/update.h"

namespace gradfold {

#define GRADFOLD_EXTERN(level)                            \
  extern const UpdateKernels<float> update_f32_##level;   \
  extern const UpdateKernels<double> update_f64_##level;
GRADFOLD_EXTERN(serial)
GRADFOLD_EXTERN(x86_v3)
GRADFOLD_EXTERN(x86_v4)
GRADFOLD_EXTERN(neon)
#undef GRADFOLD_EXTERN

template <>
const UpdateKernels<float>& update_kernels(Level level) {
#define GRADFOLD_TABLE(level) update_f32_##level
  GRADFOLD_SELECT_LEVEL(level, GRADFOLD_TABLE)
#undef GRADFOLD_TABLE
}
template <>
const UpdateKernels<double>& update_kernels(Level level) {
#define GRADFOLD_TABLE(level) update_f64_##level
  GRADFOLD_SELECT_LEVEL(level, GRADFOLD_TABLE)
#undef GRADFOLD_TABLE
}

}  // namespace gradfold
