// Lanes in plain C++: 4 float32 or 2 float64 in a struct, one loop per operation, for any architecture. This level is
// there to be correct, not fast. fma goes through the compiler's builtin: where the target has no such instruction
// that is a call of the C library's fma, which is correctly rounded and so gives the same bits.
// See csrc/simd/README.md for what every lane type offers. Include only from a *_serial.cpp file.
#pragma once
#include <cstdint>

namespace gradfold {
namespace {

static_assert(__FLT_EVAL_METHOD__ == 0 || __FLT_EVAL_METHOD__ == 16,
              "float and double must be evaluated in their own precision (not in x87 registers)");

template <class T>
struct SerialScalar;
template <>
struct SerialScalar<float> {
  using Bits = std::uint32_t;
  static float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static float sqrt(float a) { return __builtin_sqrtf(a); }
};
template <>
struct SerialScalar<double> {
  using Bits = std::uint64_t;
  static double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
  static double sqrt(double a) { return __builtin_sqrt(a); }
};

template <class Element, int Lanes>
struct SerialLanes {
  using T = Element;
  using Scalar = SerialScalar<T>;
  using Bits = typename Scalar::Bits;
  struct V {
    T at[Lanes];
  };
  struct M {
    bool at[Lanes];
  };
  struct I {
    Bits at[Lanes];
  };
  static constexpr int N = Lanes;
  static constexpr int kRowTile = 4;  // rows of a forward register tile; any value would do here

  static V load(const T* p) {
    return each([p](int i) { return p[i]; });
  }
  static void store(T* p, V v) {
    for (int i = 0; i < N; ++i) p[i] = v.at[i];
  }
  static V set1(T x) {
    return each([x](int) { return x; });
  }
  static V zero() { return set1(T(0)); }
  static V add(V a, V b) {
    return each([&](int i) { return a.at[i] + b.at[i]; });
  }
  static V sub(V a, V b) {
    return each([&](int i) { return a.at[i] - b.at[i]; });
  }
  static V mul(V a, V b) {
    return each([&](int i) { return a.at[i] * b.at[i]; });
  }
  static V div(V a, V b) {
    return each([&](int i) { return a.at[i] / b.at[i]; });
  }
  static V sqrt(V a) {
    return each([&](int i) { return Scalar::sqrt(a.at[i]); });
  }
  static V fma(V a, V b, V c) {
    return each([&](int i) { return Scalar::fma(a.at[i], b.at[i], c.at[i]); });
  }
  static V fnma(V a, V b, V c) {
    return each([&](int i) { return Scalar::fma(-a.at[i], b.at[i], c.at[i]); });
  }
  static V fma_where(M m, V a, V b, V c) {
    return each([&](int i) { return m.at[i] ? Scalar::fma(a.at[i], b.at[i], c.at[i]) : c.at[i]; });
  }
  static V add_where(M m, V a, V b) {
    return each([&](int i) { return m.at[i] ? a.at[i] + b.at[i] : a.at[i]; });
  }
  static V mul_where(M m, V a, V b) {
    return each([&](int i) { return m.at[i] ? a.at[i] * b.at[i] : T(0); });
  }
  static V max(V a, V b) {
    return each([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
  }
  static V neg_where(M m, V a) { return select(m, neg(a), a); }
  static V neg_abs(V a) { return as_float(ior(as_int(a), iset1(kSign))); }
  static V neg(V a) { return as_float(ixor(as_int(a), iset1(kSign))); }
  static V abs(V a) { return as_float(iand(as_int(a), iset1(kSign - 1))); }
  static V select(M m, V a, V b) {
    return each([&](int i) { return m.at[i] ? a.at[i] : b.at[i]; });
  }
  static M lt(V a, V b) {
    return mask([&](int i) { return a.at[i] < b.at[i]; });
  }
  static M le(V a, V b) {
    return mask([&](int i) { return a.at[i] <= b.at[i]; });
  }
  static M eq(V a, V b) {
    return mask([&](int i) { return a.at[i] == b.at[i]; });
  }
  static M is_finite(V a) { return lt(abs(a), set1(static_cast<T>(__builtin_inf()))); }
  static M m_and(M a, M b) {
    return mask([&](int i) { return a.at[i] && b.at[i]; });
  }
  static M m_or(M a, M b) {
    return mask([&](int i) { return a.at[i] || b.at[i]; });
  }
  static M m_andnot(M a, M b) {  // not a, and b
    return mask([&](int i) { return !a.at[i] && b.at[i]; });
  }
  static M m_none() {
    return mask([](int) { return false; });
  }
  static M m_all() {
    return mask([](int) { return true; });
  }
  static bool any(M m) { return bits(m) != 0; }
  static std::uint64_t bits(M m) {
    std::uint64_t b = 0;
    for (int i = 0; i < N; ++i) b |= static_cast<std::uint64_t>(m.at[i]) << i;
    return b;
  }
  static M from_bits(std::uint64_t b) {  // the low N bits, lane 0 lowest
    return mask([b](int i) { return ((b >> i) & 1) != 0; });
  }
  static I as_int(V a) {
    I r;
    __builtin_memcpy(&r, &a, sizeof r);
    return r;
  }
  static V as_float(I a) {
    V r;
    __builtin_memcpy(&r, &a, sizeof r);
    return r;
  }
  static I iload(const Bits* p) {
    return integers([p](int i) { return p[i]; });
  }
  static I iset1(Bits x) {
    return integers([x](int) { return x; });
  }
  static I iadd(I a, I b) {
    return integers([&](int i) { return a.at[i] + b.at[i]; });
  }
  static I isub(I a, I b) {
    return integers([&](int i) { return a.at[i] - b.at[i]; });
  }
  static I iand(I a, I b) {
    return integers([&](int i) { return a.at[i] & b.at[i]; });
  }
  static I ior(I a, I b) {
    return integers([&](int i) { return a.at[i] | b.at[i]; });
  }
  static I ixor(I a, I b) {
    return integers([&](int i) { return a.at[i] ^ b.at[i]; });
  }
  template <int K>
  static I ishl(I a) {
    return integers([&](int i) { return a.at[i] << K; });
  }
  template <int K>
  static I ishr(I a) {
    return integers([&](int i) { return a.at[i] >> K; });
  }

 private:
  static constexpr Bits kSign = Bits(1) << (8 * sizeof(T) - 1);
  template <class F>
  static V each(F f) {
    V r;
    for (int i = 0; i < N; ++i) r.at[i] = f(i);
    return r;
  }
  template <class F>
  static M mask(F f) {
    M r;
    for (int i = 0; i < N; ++i) r.at[i] = f(i);
    return r;
  }
  template <class F>
  static I integers(F f) {
    I r;
    for (int i = 0; i < N; ++i) r.at[i] = f(i);
    return r;
  }
};

struct F64 : SerialLanes<double, 2> {
  using Wide = F64;
  using Half = void;
  static constexpr int kWide = 1;
  static void widen(V v, V out[1]) { out[0] = v; }
  static V narrow(const V in[1]) { return in[0]; }
  static void widen_mask(M m, M out[1]) { out[0] = m; }
};

struct F32 : SerialLanes<float, 4> {
  using Wide = F64;
  using Half = void;
  static constexpr int kWide = 2;
  static void widen(V v, F64::V out[2]) {  // lanes 0..1, then 2..3
    for (int i = 0; i < N; ++i) out[i / F64::N].at[i % F64::N] = v.at[i];
  }
  static V narrow(const F64::V in[2]) {  // rounds to nearest even
    V r;
    for (int i = 0; i < N; ++i) r.at[i] = static_cast<float>(in[i / F64::N].at[i % F64::N]);
    return r;
  }
  static void widen_mask(M m, F64::M out[2]) {
    for (int i = 0; i < N; ++i) out[i / F64::N].at[i % F64::N] = m.at[i];
  }
};

}  // namespace
}  // namespace gradfold
