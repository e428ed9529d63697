// Unsigned integer lanes for the permutation: the compiler's vector type, as wide as the level, plus the few operations
// that it cannot spell. Include only from a file of one level: everything has internal linkage.
#pragma once
#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace gradfold {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// What holds for every width. A lane is "above" when it exceeds `limit`; lists of lanes keep their order.
template <class Word, class Vector>
struct PlainLanes {
  using W = Word;
  using V = Vector;
  static constexpr int N = kVectorBytes / static_cast<int>(sizeof(W));
  static constexpr int kWordBits = 8 * static_cast<int>(sizeof(W));

  static V load(const W* from) {
    V v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
  }
  static void store(W* to, V v) { __builtin_memcpy(to, &v, sizeof v); }
  static V set1(W x) { return V{} + x; }
  static V iota() {
    W lane[N];
    for (int i = 0; i < N; ++i) lane[i] = static_cast<W>(i);
    return load(lane);
  }
  // y ^ ((y >> s) & keep)
  static V xor_shift(V y, V s, V keep) { return y ^ ((y >> s) & keep); }
  static V replace_above(V v, V limit, V with) {
    const V above = reinterpret_cast<V>(v > limit);
    return (v & ~above) | (with & above);
  }
  static bool any_above(V v, V limit) {
    W lane[N], bound[N];
    store(lane, v);
    store(bound, limit);
    bool any = false;
    for (int i = 0; i < N; ++i) any |= lane[i] > bound[i];
    return any;
  }
  // Appends the lanes above the limit to `to` and returns how many there are. Writes up to N words.
  static int compress_above(W* to, V v, V limit) {
    W lane[N], bound[N];
    store(lane, v);
    store(bound, limit);
    int count = 0;
    for (int i = 0; i < N; ++i) {
      to[count] = lane[i];
      count += lane[i] > bound[i];
    }
    return count;
  }
  // Replaces the lanes above the limit by the next words of `from`, in order; `used` is how many. Reads up to N words.
  static V expand_above(V v, V limit, const W* from, int* used) {
    W lane[N], bound[N];
    store(lane, v);
    store(bound, limit);
    int count = 0;
    for (int i = 0; i < N; ++i) {
      const bool above = lane[i] > bound[i];
      lane[i] = above ? from[count] : lane[i];
      count += above;
    }
    *used = count;
    return load(lane);
  }
};

typedef std::uint32_t Vector32 __attribute__((vector_size(kVectorBytes)));
typedef std::uint64_t Vector64 __attribute__((vector_size(kVectorBytes)));

#if defined(__AVX512F__)

struct Lanes32 : PlainLanes<std::uint32_t, Vector32> {
  static V xor_shift(V y, V s, V keep) {  // one ternary operation, a ^ (b & c)
    return reinterpret_cast<V>(_mm512_ternarylogic_epi32(reinterpret_cast<__m512i>(y),
                                                         reinterpret_cast<__m512i>(y >> s),
                                                         reinterpret_cast<__m512i>(keep), 0x78));
  }
  static __mmask16 above(V v, V limit) {
    return _mm512_cmpgt_epu32_mask(reinterpret_cast<__m512i>(v), reinterpret_cast<__m512i>(limit));
  }
  static bool any_above(V v, V limit) { return above(v, limit) != 0; }
  // Compressing into a register and storing it whole is fast everywhere; compressing into memory is not.
  static int compress_above(W* to, V v, V limit) {
    const __mmask16 m = above(v, limit);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(m, reinterpret_cast<__m512i>(v)));
    return __builtin_popcount(m);
  }
  static V expand_above(V v, V limit, const W* from, int* used) {
    const __mmask16 m = above(v, limit);
    *used = __builtin_popcount(m);
    return reinterpret_cast<V>(
        _mm512_mask_expand_epi32(reinterpret_cast<__m512i>(v), m, _mm512_loadu_si512(from)));
  }
};

struct Lanes64 : PlainLanes<std::uint64_t, Vector64> {
  static V xor_shift(V y, V s, V keep) {
    return reinterpret_cast<V>(_mm512_ternarylogic_epi64(reinterpret_cast<__m512i>(y),
                                                         reinterpret_cast<__m512i>(y >> s),
                                                         reinterpret_cast<__m512i>(keep), 0x78));
  }
  static __mmask8 above(V v, V limit) {
    return _mm512_cmpgt_epu64_mask(reinterpret_cast<__m512i>(v), reinterpret_cast<__m512i>(limit));
  }
  static bool any_above(V v, V limit) { return above(v, limit) != 0; }
  static int compress_above(W* to, V v, V limit) {
    const __mmask8 m = above(v, limit);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(m, reinterpret_cast<__m512i>(v)));
    return __builtin_popcount(m);
  }
  static V expand_above(V v, V limit, const W* from, int* used) {
    const __mmask8 m = above(v, limit);
    *used = __builtin_popcount(m);
    return reinterpret_cast<V>(
        _mm512_mask_expand_epi64(reinterpret_cast<__m512i>(v), m, _mm512_loadu_si512(from)));
  }
};

#elif defined(__AVX2__)

// For each of the 256 masks: where the chosen lanes come from when they are packed, and which packed word each lane
// takes when they are spread again.
struct LaneTable {
  std::uint8_t pack[256][8];
  std::uint8_t spread[256][8];
};
constexpr LaneTable make_lane_table() {
  LaneTable t{};
  for (int m = 0; m < 256; ++m) {
    int count = 0;
    for (int i = 0; i < 8; ++i) {
      t.spread[m][i] = static_cast<std::uint8_t>(count & 7);
      if ((m >> i) & 1) t.pack[m][count++] = static_cast<std::uint8_t>(i);
    }
  }
  return t;
}
constexpr LaneTable kLaneTable = make_lane_table();

struct Lanes32 : PlainLanes<std::uint32_t, Vector32> {
  static __m256i order(const std::uint8_t* row) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row)));
  }
  static __m256i above_lanes(V v, V limit) { return reinterpret_cast<__m256i>(v > limit); }
  static unsigned mask_of(__m256i lanes) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(lanes)));
  }
  static bool any_above(V v, V limit) { return mask_of(above_lanes(v, limit)) != 0; }
  static int compress_above(W* to, V v, V limit) {
    const unsigned m = mask_of(above_lanes(v, limit));
    const __m256i packed = _mm256_permutevar8x32_epi32(reinterpret_cast<__m256i>(v), order(kLaneTable.pack[m]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed);
    return __builtin_popcount(m);
  }
  static V expand_above(V v, V limit, const W* from, int* used) {
    const __m256i lanes = above_lanes(v, limit);
    const unsigned m = mask_of(lanes);
    const __m256i next = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m256i spread = _mm256_permutevar8x32_epi32(next, order(kLaneTable.spread[m]));
    *used = __builtin_popcount(m);
    return reinterpret_cast<V>(_mm256_blendv_epi8(reinterpret_cast<__m256i>(v), spread, lanes));
  }
};
using Lanes64 = PlainLanes<std::uint64_t, Vector64>;

#else

using Lanes32 = PlainLanes<std::uint32_t, Vector32>;
using Lanes64 = PlainLanes<std::uint64_t, Vector64>;

#endif

}  // namespace
}  // namespace gradfold
