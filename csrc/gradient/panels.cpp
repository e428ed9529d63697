#include "gradient/panels.h"

#include <algorithm>

#include "gradient/gradient.h"

namespace gradfold {

std::vector<int> panel_widths(std::int64_t n_models, int lanes, bool has_half, int most) {
  const std::int64_t rest = n_models % lanes;
  // A panel of half a vector costs a row nearly as much as one of a whole vector, so it pays only beside full panels.
  const bool half = has_half && rest > 0 && rest <= lanes / 2 && n_models / lanes % most == 0;
  const std::int64_t n_vectors = n_models / lanes + (rest > 0 && !half ? 1 : 0);
  const std::int64_t n_panels = (n_vectors + most - 1) / most;
  std::vector<int> widths;
  for (std::int64_t i = 0; i < n_panels; ++i)
    widths.push_back(static_cast<int>(n_vectors / n_panels + (i < n_vectors % n_panels ? 1 : 0)));
  if (half) widths.push_back(kHalfVector);
  return widths;
}

std::int64_t output_panel_models(std::int64_t n_models, std::int64_t n_outputs, int lanes) {
  const std::int64_t most = std::clamp<std::int64_t>(std::int64_t{kOutputVectors} * lanes / n_outputs, 1, kMaxOutputModels);
  const std::int64_t n_panels = (n_models + most - 1) / most;
  return (n_models + n_panels - 1) / n_panels;
}

}  // namespace gradfold
