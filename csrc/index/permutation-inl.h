// The mixer's loops, for one level. Include only from index_<level>.cpp: everything has internal linkage.
//
// A word x of b bits is kept in the top bits of its lane, X = x << (word bits - b). Products and sums then wrap at 2^b
// by themselves, and a round is multiply, add, shift, and one x ^ ((x >> s) & keep).
//
// Cycle walking without idle lanes. A block is a list of words. After the rounds, the words that are not below n are
// packed, in order, into a second list, which gets the rounds again, and so on: half the work at every list. Then each
// list, from the last to the first, hands its words back into the gaps of the one before it. Nothing is scattered and
// no position is stored.
#pragma once
#include <cstdint>

#include "index/lanes-inl.h"
#include "index/index_kernels.h"

namespace gradfold {
namespace {

constexpr int kBlock = 1024;  // words of a block
constexpr int kLists = 32;    // lists of a block; what is left then is walked where it stands
constexpr int kUnroll = 8;    // vectors in flight: a round's latency is about thirteen cycles

template <class L>
struct Mixer {
  using W = typename L::W;
  using V = typename L::V;
  V keep;   // the b bits in use
  V limit;  // n - 1, in place
  int shift;
  V s;  // a shift by a vector of counts is one operation, by one count in a register two
  int rounds;
  W key[kMaxRounds];
  W multiplier[4];  // of the forward rounds, or their inverses modulo 2^(word bits)
};

template <class W>
W odd_inverse(W a) {  // Newton: every step doubles the number of right low bits, and a*a = 1 mod 8 gives three
  W x = a;
  for (int i = 0; i < 5; ++i) x *= W{2} - a * x;
  return x;
}

template <class L, bool Inverse>
Mixer<L> make_mixer(const Permutation& p) {
  using W = typename L::W;
  Mixer<L> mixer;
  mixer.shift = L::kWordBits - p.bits;
  mixer.s = L::set1(static_cast<W>((p.bits + 1) / 2));
  mixer.rounds = p.rounds;
  mixer.keep = L::set1(static_cast<W>(static_cast<W>(~W{0}) << mixer.shift));
  mixer.limit = L::set1(static_cast<W>(static_cast<W>(p.n - 1) << mixer.shift));
  for (int r = 0; r < p.rounds; ++r) mixer.key[r] = static_cast<W>(static_cast<W>(p.key[r]) << mixer.shift);
  for (int i = 0; i < 4; ++i) {
    const W c = sizeof(W) == 4 ? static_cast<W>(kMultiplier32[i]) : static_cast<W>(kMultiplier64[i]);
    mixer.multiplier[i] = Inverse ? odd_inverse(c) : c;
  }
  return mixer;
}

// All rounds on U vectors side by side. The shift is its own inverse, since 2 s >= b.
template <class L, bool Inverse, int U>
void mix(const Mixer<L>& mixer, typename L::V* x) {
  using V = typename L::V;
  const V keep = mixer.keep;
  const V s = mixer.s;
  V v[U];
  for (int u = 0; u < U; ++u) v[u] = x[u];
  for (int block = 0; block < mixer.rounds; block += 4) {
    for (int i = 0; i < 4; ++i) {
      if constexpr (Inverse) {
        const int r = mixer.rounds - 1 - (block + i);
        for (int u = 0; u < U; ++u) v[u] = (L::xor_shift(v[u], s, keep) - mixer.key[r]) * mixer.multiplier[3 - i];
      } else {
        for (int u = 0; u < U; ++u) v[u] = L::xor_shift(v[u] * mixer.multiplier[i] + mixer.key[block + i], s, keep);
      }
    }
  }
  for (int u = 0; u < U; ++u) x[u] = v[u];
}

// The rounds on U vectors of words at `list`, in place; those above the limit are appended to `next`.
template <class L, bool Inverse, int U>
int mix_and_pack(const Mixer<L>& mixer, typename L::W* list, typename L::W* next) {
  typename L::V x[U];
  for (int u = 0; u < U; ++u) x[u] = L::load(list + u * L::N);
  mix<L, Inverse, U>(mixer, x);
  int count = 0;
  for (int u = 0; u < U; ++u) {
    L::store(list + u * L::N, x[u]);
    count += L::compress_above(next + count, x[u], mixer.limit);
  }
  return count;
}

constexpr int padded(int count, int lanes) { return (count + lanes - 1) / lanes * lanes; }

// Words start at `list`, `count` of them, and are replaced by their images. `room` words may be written there.
template <class L, bool Inverse>
void walk(const Mixer<L>& mixer, typename L::W* list, int count, int room) {
  using W = typename L::W;
  using V = typename L::V;
  constexpr int N = L::N;
  W* start[kLists];
  int size[kLists];
  int lists = 0;
  W* const end = list + room;
  // A list is followed by one vector of slack, which packing may write and spreading may read.
  while (true) {
    const int vectors = padded(count, N) / N;
    start[lists] = list;
    size[lists] = count;
    ++lists;
    W* const next = list + (vectors + 1) * N;
    // Not below n is only ever true of words that came from below n: the rest of the last vector must not walk, since
    // it might stand on a cycle that never comes below n. Zero is below n, but its image need not be: cleared again.
    const bool last = lists > 1 && (count <= N || lists == kLists || end - next < vectors * N + N);
    if (last) {  // few words, or no room for another list: each vector walks where it stands, finished lanes wait
      for (int i = 0; i < vectors; ++i) {
        V x = L::load(list + i * N);
        while (L::any_above(x, mixer.limit)) {
          V y = x;
          mix<L, Inverse, 1>(mixer, &y);
          x = L::replace_above(x, mixer.limit, y);
        }
        L::store(list + i * N, x);
      }
      break;
    }
    int left = 0;
    int i = 0;
    const int whole = count / N;  // vectors without a rest
    for (; i + kUnroll <= whole; i += kUnroll)
      left += mix_and_pack<L, Inverse, kUnroll>(mixer, list + i * N, next + left);
    for (; i + 2 <= whole; i += 2) left += mix_and_pack<L, Inverse, 2>(mixer, list + i * N, next + left);
    if (i < whole) {
      left += mix_and_pack<L, Inverse, 1>(mixer, list + i * N, next + left);
      ++i;
    }
    if (i < vectors) {
      V x = L::load(list + i * N);
      mix<L, Inverse, 1>(mixer, &x);
      L::store(list + i * N, x);
      for (int k = count; k < vectors * N; ++k) list[k] = 0;
      left += L::compress_above(next + left, L::load(list + i * N), mixer.limit);
    }
    if (left == 0) break;
    for (int k = left; k < padded(left, N); ++k) next[k] = 0;
    list = next;
    count = left;
  }
  for (int l = lists - 2; l >= 0; --l) {
    const W* from = start[l + 1];
    for (int i = 0; i < padded(size[l], N); i += N) {
      int used;
      L::store(start[l] + i, L::expand_above(L::load(start[l] + i), mixer.limit, from, &used));
      from += used;
    }
  }
}

template <class L>
constexpr int kRoom = 3 * kBlock + 8 * L::N;

template <class L>
void fill_words(const Permutation& p, std::int64_t first, std::int64_t step, std::int64_t count, std::int64_t* out) {
  using W = typename L::W;
  using V = typename L::V;
  const Mixer<L> mixer = make_mixer<L, false>(p);
  const W shifted_step = static_cast<W>(static_cast<W>(step) << mixer.shift);
  const V ramp = L::iota() * shifted_step;
  alignas(64) W words[kRoom<L>];
  for (std::int64_t done = 0; done < count; done += kBlock) {
    const int size = static_cast<int>(count - done < kBlock ? count - done : kBlock);
    W position = static_cast<W>((static_cast<W>(first) + static_cast<W>(step) * static_cast<W>(done)) << mixer.shift);
    for (int i = 0; i < size; i += L::N) {
      L::store(words + i, ramp + position);
      position = static_cast<W>(position + shifted_step * static_cast<W>(L::N));
    }
    walk<L, false>(mixer, words, size, kRoom<L>);
    for (int i = 0; i < size; ++i) out[done + i] = static_cast<std::int64_t>(words[i] >> mixer.shift);
  }
}

template <class L, bool Inverse>
void map_words(const Permutation& p, const std::int64_t* in, std::int64_t count, std::int64_t* out) {
  using W = typename L::W;
  const Mixer<L> mixer = make_mixer<L, Inverse>(p);
  alignas(64) W words[kRoom<L>];
  for (std::int64_t done = 0; done < count; done += kBlock) {
    const int size = static_cast<int>(count - done < kBlock ? count - done : kBlock);
    for (int i = 0; i < size; ++i) words[i] = static_cast<W>(static_cast<W>(in[done + i]) << mixer.shift);
    for (int i = size; i < padded(size, L::N); ++i) words[i] = 0;
    walk<L, Inverse>(mixer, words, size, kRoom<L>);
    for (int i = 0; i < size; ++i) out[done + i] = static_cast<std::int64_t>(words[i] >> mixer.shift);
  }
}

void fill(const Permutation& p, std::int64_t first, std::int64_t step, std::int64_t count, std::int64_t* out) {
  if (p.n <= kNarrowLimit)
    fill_words<Lanes32>(p, first, step, count, out);
  else
    fill_words<Lanes64>(p, first, step, count, out);
}

void map(const Permutation& p, bool inverse, const std::int64_t* in, std::int64_t count, std::int64_t* out) {
  if (p.n <= kNarrowLimit)
    inverse ? map_words<Lanes32, true>(p, in, count, out) : map_words<Lanes32, false>(p, in, count, out);
  else
    inverse ? map_words<Lanes64, true>(p, in, count, out) : map_words<Lanes64, false>(p, in, count, out);
}

}  // namespace
}  // namespace gradfold
