#include "optimum/optimum.h"

#include "optimum/optimizer.h"

namespace gradfold {

extern const OptimumKernels optimum_serial, optimum_x86_v3, optimum_x86_v4, optimum_neon;

const OptimumKernels& optimum_kernels(Level level) { GRADFOLD_SELECT_LEVEL(level, optimum_) }

double curvature_at_zero(Loss loss, std::int64_t n_outputs) {
  switch (loss) {
    case Loss::log_loss: return 0.25;
    case Loss::squared_error:
    case Loss::huber: return 1;
    case Loss::squared_hinge:
    case Loss::modified_huber:
    case Loss::squared_epsilon_insensitive: return 2;
    case Loss::multinomial: return 1.0 / static_cast<double>(n_outputs);
    default: return 0;
  }
}

}  // namespace gradfold
