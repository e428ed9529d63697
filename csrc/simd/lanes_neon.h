// Lanes of Advanced SIMD (aarch64): 4 float32 or 2 float64. See csrc/simd/README.md for what every lane type offers.
// Include only from a *_neon.cpp file: everything here has internal linkage on purpose.
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace gradfold {
namespace {

struct F64 {
  using T = double;
  using Bits = std::uint64_t;
  using V = float64x2_t;
  using M = uint64x2_t;  // all bits of a lane set, or none
  using I = uint64x2_t;
  using Wide = F64;
  using Half = void;
  static constexpr int N = 2;
  static constexpr int kWide = 1;
  static constexpr int kRowTile = 8;  // rows of a forward register tile: 8 x 3 accumulators fill 24 of 32 registers

  static V load(const T* p) { return vld1q_f64(p); }
  static void store(T* p, V v) { vst1q_f64(p, v); }
  static V set1(T x) { return vdupq_n_f64(x); }
  static V zero() { return vdupq_n_f64(0.0); }
  static V add(V a, V b) { return vaddq_f64(a, b); }
  static V sub(V a, V b) { return vsubq_f64(a, b); }
  static V mul(V a, V b) { return vmulq_f64(a, b); }
  static V div(V a, V b) { return vdivq_f64(a, b); }
  static V sqrt(V a) { return vsqrtq_f64(a); }
  static V fma(V a, V b, V c) { return vfmaq_f64(c, a, b); }
  static V fnma(V a, V b, V c) { return vfmsq_f64(c, a, b); }
  static V fma_where(M m, V a, V b, V c) { return vbslq_f64(m, vfmaq_f64(c, a, b), c); }
  static V add_where(M m, V a, V b) { return vbslq_f64(m, vaddq_f64(a, b), a); }
  static V mul_where(M m, V a, V b) { return select(m, vmulq_f64(a, b), zero()); }
  static V max(V a, V b) { return select(lt(b, a), a, b); }  // vmaxq passes a NaN on, whichever it is
  static V neg_where(M m, V a) { return select(m, neg(a), a); }
  static V neg_abs(V a) { return neg(abs(a)); }
  static V neg(V a) { return vnegq_f64(a); }
  static V abs(V a) { return vabsq_f64(a); }
  static V select(M m, V a, V b) { return vbslq_f64(m, a, b); }
  static M lt(V a, V b) { return vcltq_f64(a, b); }
  static M le(V a, V b) { return vcleq_f64(a, b); }
  static M eq(V a, V b) { return vceqq_f64(a, b); }
  static M is_finite(V a) { return lt(abs(a), set1(__builtin_inf())); }
  static M m_and(M a, M b) { return vandq_u64(a, b); }
  static M m_or(M a, M b) { return vorrq_u64(a, b); }
  static M m_andnot(M a, M b) { return vbicq_u64(b, a); }  // not a, and b
  static M m_none() { return vdupq_n_u64(0); }
  static M m_all() { return vdupq_n_u64(~std::uint64_t{0}); }
  static bool any(M m) { return (vgetq_lane_u64(m, 0) | vgetq_lane_u64(m, 1)) != 0; }
  static std::uint64_t bits(M m) { return (vgetq_lane_u64(m, 0) & 1) | (vgetq_lane_u64(m, 1) & 2); }
  static M from_bits(std::uint64_t b) {  // the low N bits, lane 0 lowest
    const M lane = vcombine_u64(vcreate_u64(1), vcreate_u64(2));
    return vtstq_u64(vdupq_n_u64(b), lane);
  }
  static I as_int(V a) { return vreinterpretq_u64_f64(a); }
  static V as_float(I a) { return vreinterpretq_f64_u64(a); }
  static I iload(const Bits* p) { return vld1q_u64(p); }
  static I iset1(Bits x) { return vdupq_n_u64(x); }
  static I iadd(I a, I b) { return vaddq_u64(a, b); }
  static I isub(I a, I b) { return vsubq_u64(a, b); }
  static I iand(I a, I b) { return vandq_u64(a, b); }
  static I ior(I a, I b) { return vorrq_u64(a, b); }
  static I ixor(I a, I b) { return veorq_u64(a, b); }
  template <int K>
  static I ishl(I a) {
    return vshlq_n_u64(a, K);
  }
  template <int K>
  static I ishr(I a) {
    return vshrq_n_u64(a, K);
  }
  static void widen(V v, V out[1]) { out[0] = v; }
  static V narrow(const V in[1]) { return in[0]; }
  static void widen_mask(M m, M out[1]) { out[0] = m; }
};

struct F32 {
  using T = float;
  using Bits = std::uint32_t;
  using V = float32x4_t;
  using M = uint32x4_t;
  using I = uint32x4_t;
  using Wide = F64;
  using Half = void;
  static constexpr int N = 4;
  static constexpr int kWide = 2;
  static constexpr int kRowTile = 8;

  static V load(const T* p) { return vld1q_f32(p); }
  static void store(T* p, V v) { vst1q_f32(p, v); }
  static V set1(T x) { return vdupq_n_f32(x); }
  static V zero() { return vdupq_n_f32(0.0f); }
  static V add(V a, V b) { return vaddq_f32(a, b); }
  static V sub(V a, V b) { return vsubq_f32(a, b); }
  static V mul(V a, V b) { return vmulq_f32(a, b); }
  static V div(V a, V b) { return vdivq_f32(a, b); }
  static V sqrt(V a) { return vsqrtq_f32(a); }
  static V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
  static V fnma(V a, V b, V c) { return vfmsq_f32(c, a, b); }
  static V fma_where(M m, V a, V b, V c) { return vbslq_f32(m, vfmaq_f32(c, a, b), c); }
  static V add_where(M m, V a, V b) { return vbslq_f32(m, vaddq_f32(a, b), a); }
  static V mul_where(M m, V a, V b) { return select(m, vmulq_f32(a, b), zero()); }
  static V max(V a, V b) { return select(lt(b, a), a, b); }  // vmaxq passes a NaN on, whichever it is
  static V neg_where(M m, V a) { return select(m, neg(a), a); }
  static V neg_abs(V a) { return neg(abs(a)); }
  static V neg(V a) { return vnegq_f32(a); }
  static V abs(V a) { return vabsq_f32(a); }
  static V select(M m, V a, V b) { return vbslq_f32(m, a, b); }
  static M lt(V a, V b) { return vcltq_f32(a, b); }
  static M le(V a, V b) { return vcleq_f32(a, b); }
  static M eq(V a, V b) { return vceqq_f32(a, b); }
  static M is_finite(V a) { return lt(abs(a), set1(__builtin_inff())); }
  static M m_and(M a, M b) { return vandq_u32(a, b); }
  static M m_or(M a, M b) { return vorrq_u32(a, b); }
  static M m_andnot(M a, M b) { return vbicq_u32(b, a); }
  static M m_none() { return vdupq_n_u32(0); }
  static M m_all() { return vdupq_n_u32(~std::uint32_t{0}); }
  static bool any(M m) { return vmaxvq_u32(m) != 0; }
  static std::uint64_t bits(M m) { return vaddvq_u32(vandq_u32(m, lane_bits())); }
  static M from_bits(std::uint64_t b) { return vtstq_u32(vdupq_n_u32(static_cast<std::uint32_t>(b)), lane_bits()); }
  static I as_int(V a) { return vreinterpretq_u32_f32(a); }
  static V as_float(I a) { return vreinterpretq_f32_u32(a); }
  static I iload(const Bits* p) { return vld1q_u32(p); }
  static I iset1(Bits x) { return vdupq_n_u32(x); }
  static I iadd(I a, I b) { return vaddq_u32(a, b); }
  static I isub(I a, I b) { return vsubq_u32(a, b); }
  static I iand(I a, I b) { return vandq_u32(a, b); }
  static I ior(I a, I b) { return vorrq_u32(a, b); }
  static I ixor(I a, I b) { return veorq_u32(a, b); }
  template <int K>
  static I ishl(I a) {
    return vshlq_n_u32(a, K);
  }
  template <int K>
  static I ishr(I a) {
    return vshrq_n_u32(a, K);
  }
  static void widen(V v, F64::V out[2]) {  // lanes 0..1, then 2..3
    out[0] = vcvt_f64_f32(vget_low_f32(v));
    out[1] = vcvt_high_f64_f32(v);
  }
  static V narrow(const F64::V in[2]) { return vcvt_high_f32_f64(vcvt_f32_f64(in[0]), in[1]); }  // to nearest even
  static void widen_mask(M m, F64::M out[2]) {
    const int32x4_t all = vreinterpretq_s32_u32(m);
    out[0] = vreinterpretq_u64_s64(vmovl_s32(vget_low_s32(all)));
    out[1] = vreinterpretq_u64_s64(vmovl_high_s32(all));
  }

 private:
  static M lane_bits() { return vcombine_u32(vcreate_u32(0x0000000200000001ull), vcreate_u32(0x0000000800000004ull)); }
};

}  // namespace
}  // namespace gradfold
