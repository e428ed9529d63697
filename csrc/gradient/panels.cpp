#include "gradient/panels.h"

namespace gradfold {

std::vector<int> panel_widths(std::int64_t n_vectors, int most) {
  const std::int64_t n_panels = (n_vectors + most - 1) / most;
  std::vector<int> widths;
  for (std::int64_t i = 0; i < n_panels; ++i)
    widths.push_back(static_cast<int>(n_vectors / n_panels + (i < n_vectors % n_panels ? 1 : 0)));
  return widths;
}

}  // namespace gradfold
