// Division by a number that stays the same, as a product with its reciprocal.
#pragma once
#include <cstdint>

namespace gradfold {

// x / d for 0 <= x, 1 <= d. With m = floor(2^64 / d) + 1, floor(x * m / 2^64) is exact while x * d < 2^64, which holds
// for x and d below 2^32 (Granlund and Montgomery, PLDI 1994); beyond that it divides.
class Divider {
 public:
  explicit Divider(std::uint64_t d) : d_(d), m_(d > 1 && d < kNarrow ? ~std::uint64_t{0} / d + 1 : 0) {}

  std::uint64_t divide(std::uint64_t x) const {
    if (m_ == 0 || x >= kNarrow) return x / d_;
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>(static_cast<Wide>(x) * m_ >> 64);
  }
  std::uint64_t modulo(std::uint64_t x) const { return x - divide(x) * d_; }

 private:
  static constexpr std::uint64_t kNarrow = std::uint64_t{1} << 32;
  std::uint64_t d_;
  std::uint64_t m_;
};

}  // namespace gradfold
