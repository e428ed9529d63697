// Lanes of AVX2 with FMA: 8 float32 or 4 float64. See csrc/simd/README.md for what every lane type offers.
// Include only from a *_x86_v3.cpp file: everything here has internal linkage on purpose.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace gradfold {
namespace {

struct F64 {
  using T = double;
  using Bits = std::uint64_t;
  using V = __m256d;
  using M = __m256d;  // all bits of a lane set, or none
  using I = __m256i;
  using Wide = F64;
  using Half = void;
  static constexpr int N = 4;
  static constexpr int kWide = 1;
  static constexpr int kRowTile = 4;  // rows of a forward register tile: 4 x 3 accumulators leave 4 of 16 registers

  static V load(const T* p) { return _mm256_loadu_pd(p); }
  static void store(T* p, V v) { _mm256_storeu_pd(p, v); }
  static V set1(T x) { return _mm256_set1_pd(x); }
  static V zero() { return _mm256_setzero_pd(); }
  static V add(V a, V b) { return _mm256_add_pd(a, b); }
  static V sub(V a, V b) { return _mm256_sub_pd(a, b); }
  static V mul(V a, V b) { return _mm256_mul_pd(a, b); }
  static V div(V a, V b) { return _mm256_div_pd(a, b); }
  static V sqrt(V a) { return _mm256_sqrt_pd(a); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  static V fnma(V a, V b, V c) { return _mm256_fnmadd_pd(a, b, c); }
  static V fma_where(M m, V a, V b, V c) { return _mm256_blendv_pd(c, _mm256_fmadd_pd(a, b, c), m); }
  static V add_where(M m, V a, V b) { return _mm256_blendv_pd(a, _mm256_add_pd(a, b), m); }
  static V mul_where(M m, V a, V b) { return _mm256_mul_pd(_mm256_and_pd(m, a), _mm256_and_pd(m, b)); }
  static V max(V a, V b) { return _mm256_max_pd(a, b); }
  static V neg_where(M m, V a) { return _mm256_xor_pd(a, _mm256_and_pd(m, set1(-0.0))); }
  static V neg_abs(V a) { return _mm256_or_pd(a, set1(-0.0)); }
  static V neg(V a) { return _mm256_xor_pd(a, set1(-0.0)); }
  static V abs(V a) { return _mm256_andnot_pd(set1(-0.0), a); }
  static V select(M m, V a, V b) { return _mm256_blendv_pd(b, a, m); }
  static M lt(V a, V b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
  static M le(V a, V b) { return _mm256_cmp_pd(a, b, _CMP_LE_OQ); }
  static M eq(V a, V b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
  static M is_finite(V a) { return lt(abs(a), set1(__builtin_inf())); }
  static M m_and(M a, M b) { return _mm256_and_pd(a, b); }
  static M m_or(M a, M b) { return _mm256_or_pd(a, b); }
  static M m_andnot(M a, M b) { return _mm256_andnot_pd(a, b); }  // not a, and b
  static M m_none() { return _mm256_setzero_pd(); }
  static M m_all() { return _mm256_castsi256_pd(_mm256_set1_epi64x(-1)); }
  static bool any(M m) { return _mm256_movemask_pd(m) != 0; }
  static std::uint64_t bits(M m) { return static_cast<std::uint64_t>(_mm256_movemask_pd(m)); }
  static M from_bits(std::uint64_t b) {  // the low N bits, lane 0 lowest
    const I lane = _mm256_set_epi64x(8, 4, 2, 1);
    const I mine = _mm256_and_si256(_mm256_set1_epi64x(static_cast<long long>(b)), lane);
    return _mm256_castsi256_pd(_mm256_cmpeq_epi64(mine, lane));
  }
  static I as_int(V a) { return _mm256_castpd_si256(a); }
  static V as_float(I a) { return _mm256_castsi256_pd(a); }
  static I iload(const Bits* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static I iset1(Bits x) { return _mm256_set1_epi64x(static_cast<long long>(x)); }
  static I iadd(I a, I b) { return _mm256_add_epi64(a, b); }
  static I isub(I a, I b) { return _mm256_sub_epi64(a, b); }
  static I iand(I a, I b) { return _mm256_and_si256(a, b); }
  static I ior(I a, I b) { return _mm256_or_si256(a, b); }
  static I ixor(I a, I b) { return _mm256_xor_si256(a, b); }
  template <int K>
  static I ishl(I a) {
    return _mm256_slli_epi64(a, K);
  }
  template <int K>
  static I ishr(I a) {
    return _mm256_srli_epi64(a, K);
  }
  static void widen(V v, V out[1]) { out[0] = v; }
  static V narrow(const V in[1]) { return in[0]; }
  static void widen_mask(M m, M out[1]) { out[0] = m; }
};

struct F32 {
  using T = float;
  using Bits = std::uint32_t;
  using V = __m256;
  using M = __m256;
  using I = __m256i;
  using Wide = F64;
  using Half = void;
  static constexpr int N = 8;
  static constexpr int kWide = 2;
  static constexpr int kRowTile = 4;

  static V load(const T* p) { return _mm256_loadu_ps(p); }
  static void store(T* p, V v) { _mm256_storeu_ps(p, v); }
  static V set1(T x) { return _mm256_set1_ps(x); }
  static V zero() { return _mm256_setzero_ps(); }
  static V add(V a, V b) { return _mm256_add_ps(a, b); }
  static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  static V div(V a, V b) { return _mm256_div_ps(a, b); }
  static V sqrt(V a) { return _mm256_sqrt_ps(a); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V fnma(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
  static V fma_where(M m, V a, V b, V c) { return _mm256_blendv_ps(c, _mm256_fmadd_ps(a, b, c), m); }
  static V add_where(M m, V a, V b) { return _mm256_blendv_ps(a, _mm256_add_ps(a, b), m); }
  static V mul_where(M m, V a, V b) { return _mm256_mul_ps(_mm256_and_ps(m, a), _mm256_and_ps(m, b)); }
  static V max(V a, V b) { return _mm256_max_ps(a, b); }
  static V neg_where(M m, V a) { return _mm256_xor_ps(a, _mm256_and_ps(m, set1(-0.0f))); }
  static V neg_abs(V a) { return _mm256_or_ps(a, set1(-0.0f)); }
  static V neg(V a) { return _mm256_xor_ps(a, set1(-0.0f)); }
  static V abs(V a) { return _mm256_andnot_ps(set1(-0.0f), a); }
  static V select(M m, V a, V b) { return _mm256_blendv_ps(b, a, m); }
  static M lt(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static M le(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
  static M eq(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  static M is_finite(V a) { return lt(abs(a), set1(__builtin_inff())); }
  static M m_and(M a, M b) { return _mm256_and_ps(a, b); }
  static M m_or(M a, M b) { return _mm256_or_ps(a, b); }
  static M m_andnot(M a, M b) { return _mm256_andnot_ps(a, b); }
  static M m_none() { return _mm256_setzero_ps(); }
  static M m_all() { return _mm256_castsi256_ps(_mm256_set1_epi32(-1)); }
  static bool any(M m) { return _mm256_movemask_ps(m) != 0; }
  static std::uint64_t bits(M m) { return static_cast<std::uint64_t>(_mm256_movemask_ps(m)); }
  static M from_bits(std::uint64_t b) {
    const I lane = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    const I mine = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(b)), lane);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(mine, lane));
  }
  static I as_int(V a) { return _mm256_castps_si256(a); }
  static V as_float(I a) { return _mm256_castsi256_ps(a); }
  static I iload(const Bits* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static I iset1(Bits x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static I iadd(I a, I b) { return _mm256_add_epi32(a, b); }
  static I isub(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I iand(I a, I b) { return _mm256_and_si256(a, b); }
  static I ior(I a, I b) { return _mm256_or_si256(a, b); }
  static I ixor(I a, I b) { return _mm256_xor_si256(a, b); }
  template <int K>
  static I ishl(I a) {
    return _mm256_slli_epi32(a, K);
  }
  template <int K>
  static I ishr(I a) {
    return _mm256_srli_epi32(a, K);
  }
  static void widen(V v, F64::V out[2]) {  // lanes 0..3, then 4..7
    out[0] = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    out[1] = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
  }
  static V narrow(const F64::V in[2]) {  // rounds to nearest even
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(in[0])), _mm256_cvtpd_ps(in[1]), 1);
  }
  static void widen_mask(M m, F64::M out[2]) {
    const I all = _mm256_castps_si256(m);
    out[0] = _mm256_castsi256_pd(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(all)));
    out[1] = _mm256_castsi256_pd(_mm256_cvtepi32_epi64(_mm256_extracti128_si256(all, 1)));
  }
};

}  // namespace
}  // namespace gradfold
