// A keyed permutation of 0..n-1 that is computed, not stored: random access, an exact inverse, constant memory.
// Version "v1". All integers are the same on every level and every device.
#pragma once
#include <cstdint>

namespace gradfold {

// Streams: 0 batch order, 1 folds, 2 + c class c; other users take numbers from 2^31 up, so no two share a draw.
inline constexpr std::uint32_t kStreamBatches = 0;
inline constexpr std::uint32_t kStreamFolds = 1;
inline constexpr std::uint32_t kStreamClasses = 2;

inline constexpr std::int64_t kTableLimit = 1024;              // up to here a table, above it a mixer
inline constexpr std::int64_t kNarrowLimit = std::int64_t{1} << 32;  // up to here 32-bit words, above it 64-bit words
inline constexpr int kMaxRounds = 12;

// Odd multipliers of the mixer's rounds r = 0, 1, ..., taken at r & 3. The 64-bit ones serve n > 2^32. Not
// inline: a level's object must define nothing that another may share, and clang keeps these arrays.
constexpr std::uint32_t kMultiplier32[4] = {0x9E3779B1u, 0x85EBCA6Bu, 0xC2B2AE35u, 0x27D4EB2Fu};
constexpr std::uint64_t kMultiplier64[4] = {0x9E3779B97F4A7C15u, 0xBF58476D1CE4E5B9u, 0x94D049BB133111EBu,
                                            0xD6E8FEB86659FD93u};

// Plain data, trivially copyable; make_permutation fills it. About 2 KiB.
//
// rounds == 0: `table` holds the permutation (n <= 1024), Fisher-Yates for i = n-1, ..., 1 with j = word mod (i + 1);
//   words >= 2^32 - (2^32 mod (i + 1)) are drawn again.
// rounds > 0: with b = bit_width(n - 1), s = (b + 1) / 2 and mask = 2^b - 1 a round is
//     x = (x * multiplier[r & 3] + key[r]) & mask;  x ^= x >> s
//   and all rounds are repeated until x < n ("cycle walking": a power of two never repeats them). 12 rounds if
//   b <= 16, else 8. key[r] is Philox word r times multiplier[r & 3]; in the 64-bit form word 2r is the low half of
//   that word and 2r + 1 the high.
struct Permutation {
  std::int64_t n;
  std::uint64_t seed;
  std::uint32_t epoch;
  std::uint32_t stream;
  std::int32_t bits;
  std::int32_t rounds;
  std::uint64_t key[kMaxRounds];
  std::uint16_t table[kTableLimit];
};

// n >= 1.
Permutation make_permutation(std::int64_t n, std::uint64_t seed, std::uint32_t epoch, std::uint32_t stream);

// The value at position i, 0 <= i < n, and the position of value j.
std::int64_t permutation_at(const Permutation& p, std::int64_t i);
std::int64_t permutation_inverse(const Permutation& p, std::int64_t j);

// out[k] = p[first + k], 0 <= first, first + count <= n. No allocation; made for short slices too.
void permutation_fill(const Permutation& p, std::int64_t first, std::int64_t count, std::int64_t* out);

// out[k] = p[first + k * step]; every position must lie in 0..n-1.
void permutation_fill_strided(const Permutation& p, std::int64_t first, std::int64_t step, std::int64_t count,
                              std::int64_t* out);

// out[k] = p[in[k]], or with `inverse` the position of value in[k]; every in[k] must lie in 0..n-1. `out` may be `in`.
void permutation_map(const Permutation& p, bool inverse, const std::int64_t* in, std::int64_t count, std::int64_t* out);

}  // namespace gradfold
