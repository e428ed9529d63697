#include "index/permutation.h"

#include <bit>

#include "index/index_kernels.h"
#include "index/philox.h"

namespace gradfold {
namespace {

void shuffle_table(Permutation& p) {
  PhiloxWords words(p.seed, p.epoch, p.stream);
  for (std::int64_t i = 0; i < p.n; ++i) p.table[i] = static_cast<std::uint16_t>(i);
  for (std::uint32_t i = static_cast<std::uint32_t>(p.n) - 1; i > 0; --i) {
    // 2^32 mod (i + 1); a word is taken when it lies below the largest multiple of i + 1.
    const std::uint32_t rest = static_cast<std::uint32_t>((std::uint64_t{1} << 32) % (i + 1));
    std::uint32_t word = words.next();
    while (word >= (std::uint64_t{1} << 32) - rest) word = words.next();
    const std::uint32_t j = word % (i + 1);
    const std::uint16_t moved = p.table[i];
    p.table[i] = p.table[j];
    p.table[j] = moved;
  }
}

// One word at a time, straight from the definition: for single look-ups, and a second opinion on the vector loops.
template <class W>
struct Scalar {
  const Permutation& p;
  const W mask = static_cast<W>(~std::uint64_t{0} >> (64 - p.bits));
  const int s = (p.bits + 1) / 2;

  static W multiplier(int r) {
    return sizeof(W) == 4 ? static_cast<W>(kMultiplier32[r & 3]) : static_cast<W>(kMultiplier64[r & 3]);
  }
  static W odd_inverse(W a) {
    W x = a;
    for (int i = 0; i < 5; ++i) x *= W{2} - a * x;
    return x;
  }
  std::int64_t forward(W x) const {
    do {
      for (int r = 0; r < p.rounds; ++r) {
        x = (x * multiplier(r) + static_cast<W>(p.key[r])) & mask;
        x ^= x >> s;
      }
    } while (x >= static_cast<std::uint64_t>(p.n));
    return static_cast<std::int64_t>(x);
  }
  std::int64_t backward(W x) const {
    W inverse[4];
    for (int i = 0; i < 4; ++i) inverse[i] = odd_inverse(multiplier(i));
    do {
      for (int r = p.rounds - 1; r >= 0; --r) {
        x ^= x >> s;
        x = ((x - static_cast<W>(p.key[r])) * inverse[r & 3]) & mask;
      }
    } while (x >= static_cast<std::uint64_t>(p.n));
    return static_cast<std::int64_t>(x);
  }
};

}  // namespace

Permutation make_permutation(std::int64_t n, std::uint64_t seed, std::uint32_t epoch, std::uint32_t stream) {
  Permutation p{};
  p.n = n;
  p.seed = seed;
  p.epoch = epoch;
  p.stream = stream;
  p.bits = std::bit_width(static_cast<std::uint64_t>(n - 1));
  p.rounds = n <= kTableLimit ? 0 : p.bits <= 16 ? 12 : 8;
  if (p.rounds == 0) {
    shuffle_table(p);
    return p;
  }
  PhiloxWords words(seed, epoch, stream);
  for (int r = 0; r < p.rounds; ++r) {
    const std::uint64_t low = words.next();
    if (n <= kNarrowLimit)
      p.key[r] = static_cast<std::uint32_t>(low) * kMultiplier32[r & 3];
    else
      p.key[r] = (low | std::uint64_t{words.next()} << 32) * kMultiplier64[r & 3];
  }
  return p;
}

std::int64_t permutation_at(const Permutation& p, std::int64_t i) {
  if (p.rounds == 0) return p.table[i];
  if (p.n <= kNarrowLimit) return Scalar<std::uint32_t>{p}.forward(static_cast<std::uint32_t>(i));
  return Scalar<std::uint64_t>{p}.forward(static_cast<std::uint64_t>(i));
}

std::int64_t permutation_inverse(const Permutation& p, std::int64_t j) {
  if (p.rounds == 0) {
    std::int64_t i = 0;
    while (p.table[i] != j) ++i;
    return i;
  }
  if (p.n <= kNarrowLimit) return Scalar<std::uint32_t>{p}.backward(static_cast<std::uint32_t>(j));
  return Scalar<std::uint64_t>{p}.backward(static_cast<std::uint64_t>(j));
}

void permutation_fill_strided(const Permutation& p, std::int64_t first, std::int64_t step, std::int64_t count,
                              std::int64_t* out) {
  if (p.rounds == 0) {
    for (std::int64_t k = 0; k < count; ++k) out[k] = p.table[first + k * step];
    return;
  }
  index_kernels().fill(p, first, step, count, out);
}

void permutation_fill(const Permutation& p, std::int64_t first, std::int64_t count, std::int64_t* out) {
  permutation_fill_strided(p, first, 1, count, out);
}

void permutation_map(const Permutation& p, bool inverse, const std::int64_t* in, std::int64_t count,
                     std::int64_t* out) {
  if (p.rounds > 0) {
    index_kernels().map(p, inverse, in, count, out);
    return;
  }
  std::uint16_t position[kTableLimit];
  const std::uint16_t* look_up = p.table;
  if (inverse) {
    for (std::int64_t i = 0; i < p.n; ++i) position[p.table[i]] = static_cast<std::uint16_t>(i);
    look_up = position;
  }
  for (std::int64_t k = 0; k < count; ++k) out[k] = look_up[in[k]];
}

}  // namespace gradfold
