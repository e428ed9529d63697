#include "gradient/panels.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "gradient/gradient.h"

namespace gradfold {

namespace {

std::atomic<std::int64_t>& block_bytes_of_process() {
  static std::atomic<std::int64_t> bytes = [] {
    std::int64_t cache = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE  // of the GNU C library; 0 or -1 where it does not know
    cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return std::clamp<std::int64_t>((cache > 0 ? cache : 1 << 20) / 4, 128 << 10, 512 << 10);
  }();
  return bytes;
}

}  // namespace

std::int64_t block_bytes() { return block_bytes_of_process().load(std::memory_order_relaxed); }
void set_block_bytes(std::int64_t bytes) { block_bytes_of_process().store(bytes, std::memory_order_relaxed); }

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
