// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011): a keyed bijection of 128-bit counters. Every random draw of the library comes from it.
#pragma once
#include <cstdint>

namespace gradfold {

struct PhiloxBlock {
  std::uint32_t word[4];
};

inline PhiloxBlock philox4x32_10(PhiloxBlock counter, std::uint32_t key0, std::uint32_t key1) {
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53u;
  constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57u;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9u;
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85u;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = kMultiplier0 * counter.word[0];
    const std::uint64_t p1 = kMultiplier1 * counter.word[2];
    counter = {{static_cast<std::uint32_t>(p1 >> 32) ^ counter.word[1] ^ key0, static_cast<std::uint32_t>(p1),
                static_cast<std::uint32_t>(p0 >> 32) ^ counter.word[3] ^ key1, static_cast<std::uint32_t>(p0)}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

// The words that (seed, epoch, stream) own: counters (block, stream, epoch, 0) for block 0, 1, 2, ..., the four words
// of a block in order.
class PhiloxWords {
 public:
  PhiloxWords(std::uint64_t seed, std::uint32_t epoch, std::uint32_t stream)
      : seed_(seed), epoch_(epoch), stream_(stream) {}

  std::uint32_t next() {
    if (used_ == 4) {
      block_ = philox4x32_10({{counter_++, stream_, epoch_, 0u}}, static_cast<std::uint32_t>(seed_),
                             static_cast<std::uint32_t>(seed_ >> 32));
      used_ = 0;
    }
    return block_.word[used_++];
  }

 private:
  std::uint64_t seed_;
  std::uint32_t epoch_;
  std::uint32_t stream_;
  std::uint32_t counter_ = 0;
  int used_ = 4;
  PhiloxBlock block_{};
};

}  // namespace gradfold
