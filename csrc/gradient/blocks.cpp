// How much of the second-level cache a block of rows may take.
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

}  // namespace gradfold
