// Rows of one role as numbers, for one level. Include only from index_<level>.cpp: everything has internal linkage.
#pragma once
#include <cstdint>
#if defined(__AVX512BW__)
#include <immintrin.h>
#endif

namespace gradfold {
namespace {

std::int64_t pack(const std::int8_t* role, std::int8_t wanted, std::int64_t first, std::int64_t count,
                  std::int64_t* out) {
  std::int64_t found = 0, i = 0;
#if defined(__AVX512BW__)
  const __m512i ramp = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  for (; i + 64 <= count; i += 64) {
    std::uint64_t chosen = _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(role + i), _mm512_set1_epi8(wanted));
    for (int part = 0; part < 64; part += 8, chosen >>= 8) {
      const __m512i rows = _mm512_add_epi64(ramp, _mm512_set1_epi64(first + i + part));
      _mm512_storeu_si512(out + found, _mm512_maskz_compress_epi64(static_cast<__mmask8>(chosen), rows));
      found += __builtin_popcountll(chosen & 0xff);
    }
  }
#endif
  for (; i < count; ++i) {  // a store per row, kept only where the role fits: no branch to mispredict
    out[found] = first + i;
    found += role[i] == wanted;
  }
  return found;
}

}  // namespace
}  // namespace gradfold
