// Lanes of AVX-512: 16 float32 or 8 float64. See csrc/simd/README.md for what every lane type offers.
// Include only from a *_x86_v4.cpp file: everything here has internal linkage on purpose.
// A maskz form with a full mask compiles to the plain instruction; it stands where g++ 12 would warn of an
// uninitialised variable in its own header.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace gradfold {
namespace {

// Half a vector: where a CPU runs 512-bit operations at half rate, a panel of up to half a vector of models costs half.
struct F64Half {
  using T = double;
  using Bits = std::uint64_t;
  using V = __m256d;
  using M = __mmask8;
  using I = __m256i;
  using Wide = F64Half;
  using Half = void;
  static constexpr int N = 4;
  static constexpr int kWide = 1;
  static constexpr int kRowTile = 8;

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
  static V fma_where(M m, V a, V b, V c) { return _mm256_mask3_fmadd_pd(a, b, c, m); }
  static V add_where(M m, V a, V b) { return _mm256_mask_add_pd(a, m, a, b); }
  static V mul_where(M m, V a, V b) { return _mm256_maskz_mul_pd(m, a, b); }
  static V max(V a, V b) { return _mm256_max_pd(a, b); }
  static V neg_where(M m, V a) { return _mm256_mask_xor_pd(a, m, a, as_float(iset1(0x8000000000000000ull))); }
  static V neg_abs(V a) { return as_float(ior(as_int(a), iset1(0x8000000000000000ull))); }
  static V neg(V a) { return as_float(ixor(as_int(a), iset1(0x8000000000000000ull))); }
  static V abs(V a) { return as_float(iand(as_int(a), iset1(0x7fffffffffffffffull))); }
  static V select(M m, V a, V b) { return _mm256_mask_blend_pd(m, b, a); }
  static M lt(V a, V b) { return _mm256_cmp_pd_mask(a, b, _CMP_LT_OQ); }
  static M le(V a, V b) { return _mm256_cmp_pd_mask(a, b, _CMP_LE_OQ); }
  static M eq(V a, V b) { return _mm256_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
  static M is_finite(V a) { return lt(abs(a), set1(__builtin_inf())); }
  static M m_and(M a, M b) { return static_cast<M>(a & b); }
  static M m_or(M a, M b) { return static_cast<M>(a | b); }
  static M m_andnot(M a, M b) { return static_cast<M>(~a & b); }
  static M m_none() { return 0; }
  static M m_all() { return static_cast<M>(0x0f); }
  static bool any(M m) { return m != 0; }
  static std::uint64_t bits(M m) { return m; }
  static M from_bits(std::uint64_t b) { return static_cast<M>(b & 0x0f); }
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
    return _mm256_maskz_slli_epi64(0x0f, a, K);
  }
  template <int K>
  static I ishr(I a) {
    return _mm256_maskz_srli_epi64(0x0f, a, K);
  }
  static void widen(V v, V out[1]) { out[0] = v; }
  static V narrow(const V in[1]) { return in[0]; }
  static void widen_mask(M m, M out[1]) { out[0] = m; }
};

struct F64 {
  using T = double;
  using Bits = std::uint64_t;
  using V = __m512d;
  using M = __mmask8;
  using I = __m512i;
  using Wide = F64;
  using Half = F64Half;
  static constexpr int N = 8;
  static constexpr int kWide = 1;
  static constexpr int kRowTile = 8;  // rows of a forward register tile: 8 x 3 accumulators fill 24 of 32 registers

  static V load(const T* p) { return _mm512_loadu_pd(p); }
  static void store(T* p, V v) { _mm512_storeu_pd(p, v); }
  static V set1(T x) { return _mm512_set1_pd(x); }
  static V zero() { return _mm512_setzero_pd(); }
  static V add(V a, V b) { return _mm512_add_pd(a, b); }
  static V sub(V a, V b) { return _mm512_sub_pd(a, b); }
  static V mul(V a, V b) { return _mm512_mul_pd(a, b); }
  static V div(V a, V b) { return _mm512_div_pd(a, b); }
  static V sqrt(V a) { return _mm512_maskz_sqrt_pd(0xff, a); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  static V fnma(V a, V b, V c) { return _mm512_fnmadd_pd(a, b, c); }
  static V fma_where(M m, V a, V b, V c) { return _mm512_mask3_fmadd_pd(a, b, c, m); }
  static V add_where(M m, V a, V b) { return _mm512_mask_add_pd(a, m, a, b); }
  static V mul_where(M m, V a, V b) { return _mm512_maskz_mul_pd(m, a, b); }
  static V max(V a, V b) { return _mm512_maskz_max_pd(0xff, a, b); }
  static V neg_where(M m, V a) { return _mm512_mask_xor_pd(a, m, a, as_float(iset1(0x8000000000000000ull))); }
  static V neg_abs(V a) { return as_float(ior(as_int(a), iset1(0x8000000000000000ull))); }
  static V neg(V a) { return as_float(ixor(as_int(a), iset1(0x8000000000000000ull))); }
  static V abs(V a) { return as_float(iand(as_int(a), iset1(0x7fffffffffffffffull))); }
  static V select(M m, V a, V b) { return _mm512_mask_blend_pd(m, b, a); }
  static M lt(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
  static M le(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ); }
  static M eq(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
  static M is_finite(V a) { return lt(abs(a), set1(__builtin_inf())); }
  static M m_and(M a, M b) { return static_cast<M>(a & b); }
  static M m_or(M a, M b) { return static_cast<M>(a | b); }
  static M m_andnot(M a, M b) { return static_cast<M>(~a & b); }  // not a, and b
  static M m_none() { return 0; }
  static M m_all() { return static_cast<M>(0xff); }
  static bool any(M m) { return m != 0; }
  static std::uint64_t bits(M m) { return m; }
  static M from_bits(std::uint64_t b) { return static_cast<M>(b); }  // the low N bits, lane 0 lowest
  static I as_int(V a) { return _mm512_castpd_si512(a); }
  static V as_float(I a) { return _mm512_castsi512_pd(a); }
  static I iload(const Bits* p) { return _mm512_loadu_si512(p); }
  static I iset1(Bits x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
  static I iadd(I a, I b) { return _mm512_add_epi64(a, b); }
  static I isub(I a, I b) { return _mm512_sub_epi64(a, b); }
  static I iand(I a, I b) { return _mm512_and_si512(a, b); }
  static I ior(I a, I b) { return _mm512_or_si512(a, b); }
  static I ixor(I a, I b) { return _mm512_xor_si512(a, b); }
  template <int K>
  static I ishl(I a) {
    return _mm512_maskz_slli_epi64(0xff, a, K);
  }
  template <int K>
  static I ishr(I a) {
    return _mm512_maskz_srli_epi64(0xff, a, K);
  }
  static void widen(V v, V out[1]) { out[0] = v; }
  static V narrow(const V in[1]) { return in[0]; }
  static void widen_mask(M m, M out[1]) { out[0] = m; }
};

struct F32Half {
  using T = float;
  using Bits = std::uint32_t;
  using V = __m256;
  using M = __mmask8;
  using I = __m256i;
  using Wide = F64;
  using Half = void;
  static constexpr int N = 8;
  static constexpr int kWide = 1;
  static constexpr int kRowTile = 8;

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
  static V fma_where(M m, V a, V b, V c) { return _mm256_mask3_fmadd_ps(a, b, c, m); }
  static V add_where(M m, V a, V b) { return _mm256_mask_add_ps(a, m, a, b); }
  static V mul_where(M m, V a, V b) { return _mm256_maskz_mul_ps(m, a, b); }
  static V max(V a, V b) { return _mm256_max_ps(a, b); }
  static V neg_where(M m, V a) { return _mm256_mask_xor_ps(a, m, a, as_float(iset1(0x80000000u))); }
  static V neg_abs(V a) { return as_float(ior(as_int(a), iset1(0x80000000u))); }
  static V neg(V a) { return as_float(ixor(as_int(a), iset1(0x80000000u))); }
  static V abs(V a) { return as_float(iand(as_int(a), iset1(0x7fffffffu))); }
  static V select(M m, V a, V b) { return _mm256_mask_blend_ps(m, b, a); }
  static M lt(V a, V b) { return _mm256_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static M le(V a, V b) { return _mm256_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  static M eq(V a, V b) { return _mm256_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static M is_finite(V a) { return lt(abs(a), set1(__builtin_inff())); }
  static M m_and(M a, M b) { return static_cast<M>(a & b); }
  static M m_or(M a, M b) { return static_cast<M>(a | b); }
  static M m_andnot(M a, M b) { return static_cast<M>(~a & b); }
  static M m_none() { return 0; }
  static M m_all() { return static_cast<M>(0xff); }
  static bool any(M m) { return m != 0; }
  static std::uint64_t bits(M m) { return m; }
  static M from_bits(std::uint64_t b) { return static_cast<M>(b); }
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
    return _mm256_maskz_slli_epi32(0xff, a, K);
  }
  template <int K>
  static I ishr(I a) {
    return _mm256_maskz_srli_epi32(0xff, a, K);
  }
  static void widen(V v, F64::V out[1]) { out[0] = _mm512_maskz_cvtps_pd(0xff, v); }
  static V narrow(const F64::V in[1]) { return _mm512_maskz_cvtpd_ps(0xff, in[0]); }
  static void widen_mask(M m, F64::M out[1]) { out[0] = m; }
};

struct F32 {
  using T = float;
  using Bits = std::uint32_t;
  using V = __m512;
  using M = __mmask16;
  using I = __m512i;
  using Wide = F64;
  using Half = F32Half;
  static constexpr int N = 16;
  static constexpr int kWide = 2;
  static constexpr int kRowTile = 8;

  static V load(const T* p) { return _mm512_loadu_ps(p); }
  static void store(T* p, V v) { _mm512_storeu_ps(p, v); }
  static V set1(T x) { return _mm512_set1_ps(x); }
  static V zero() { return _mm512_setzero_ps(); }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static V div(V a, V b) { return _mm512_div_ps(a, b); }
  static V sqrt(V a) { return _mm512_maskz_sqrt_ps(0xffff, a); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V fnma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
  static V fma_where(M m, V a, V b, V c) { return _mm512_mask3_fmadd_ps(a, b, c, m); }
  static V add_where(M m, V a, V b) { return _mm512_mask_add_ps(a, m, a, b); }
  static V mul_where(M m, V a, V b) { return _mm512_maskz_mul_ps(m, a, b); }
  static V max(V a, V b) { return _mm512_maskz_max_ps(0xffff, a, b); }
  static V neg_where(M m, V a) { return _mm512_mask_xor_ps(a, m, a, as_float(iset1(0x80000000u))); }
  static V neg_abs(V a) { return as_float(ior(as_int(a), iset1(0x80000000u))); }
  static V neg(V a) { return as_float(ixor(as_int(a), iset1(0x80000000u))); }
  static V abs(V a) { return as_float(iand(as_int(a), iset1(0x7fffffffu))); }
  static V select(M m, V a, V b) { return _mm512_mask_blend_ps(m, b, a); }
  static M lt(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static M le(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  static M eq(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static M is_finite(V a) { return lt(abs(a), set1(__builtin_inff())); }
  static M m_and(M a, M b) { return static_cast<M>(a & b); }
  static M m_or(M a, M b) { return static_cast<M>(a | b); }
  static M m_andnot(M a, M b) { return static_cast<M>(~a & b); }
  static M m_none() { return 0; }
  static M m_all() { return static_cast<M>(0xffff); }
  static bool any(M m) { return m != 0; }
  static std::uint64_t bits(M m) { return m; }
  static M from_bits(std::uint64_t b) { return static_cast<M>(b); }
  static I as_int(V a) { return _mm512_castps_si512(a); }
  static V as_float(I a) { return _mm512_castsi512_ps(a); }
  static I iload(const Bits* p) { return _mm512_loadu_si512(p); }
  static I iset1(Bits x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
  static I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I iand(I a, I b) { return _mm512_and_si512(a, b); }
  static I ior(I a, I b) { return _mm512_or_si512(a, b); }
  static I ixor(I a, I b) { return _mm512_xor_si512(a, b); }
  template <int K>
  static I ishl(I a) {
    return _mm512_maskz_slli_epi32(0xffff, a, K);
  }
  template <int K>
  static I ishr(I a) {
    return _mm512_maskz_srli_epi32(0xffff, a, K);
  }
  static void widen(V v, F64::V out[2]) {  // lanes 0..7, then 8..15
    out[0] = _mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, v, 0));
    out[1] = _mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, v, 1));
  }
  static V narrow(const F64::V in[2]) {  // rounds to nearest even
    const V low = _mm512_castps256_ps512(_mm512_maskz_cvtpd_ps(0xff, in[0]));
    return _mm512_insertf32x8(low, _mm512_maskz_cvtpd_ps(0xff, in[1]), 1);
  }
  static void widen_mask(M m, F64::M out[2]) {
    out[0] = static_cast<F64::M>(m);
    out[1] = static_cast<F64::M>(m >> 8);
  }
};

}  // namespace
}  // namespace gradfold
