// Every member of a lane type against plain C++ on one element at a time. Include after a lanes_<level>.h.
#pragma once
#include <cstdint>

namespace gradfold {
namespace {

inline float plain_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double plain_fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float plain_sqrt(float a) { return __builtin_sqrtf(a); }
inline double plain_sqrt(double a) { return __builtin_sqrt(a); }

// The name of the first member of L that disagrees, or nullptr.
template <class L>
const char* wrong_lane_member() {
  using T = typename L::T;
  using Bits = typename L::Bits;
  using V = typename L::V;
  using M = typename L::M;
  using I = typename L::I;
  constexpr T kInf = static_cast<T>(__builtin_inf());
  constexpr T kTiny = sizeof(T) == 4 ? T(0x1p-140) : static_cast<T>(0x1p-1060);  // subnormal
  constexpr T kHuge = sizeof(T) == 4 ? T(0x1.8p126) : static_cast<T>(0x1.8p1022);
  constexpr T kValues[] = {T(0),   T(-0.0), T(1),  T(-1.5),          T(1) / T(3), T(-7.25), kTiny,
                           -kTiny, kHuge,   -kHuge, kInf,            -kInf,       static_cast<T>(__builtin_nan("")),
                           T(3)};
  constexpr int kCount = sizeof(kValues) / sizeof(kValues[0]);
  static_assert(L::kWide * L::Wide::N == L::N);
  constexpr std::uint64_t kAll = (std::uint64_t{1} << L::N) - 1;

  T a[L::N], b[L::N], c[L::N], got[L::N];
  const auto same = [](T x, T y) { return x != x ? y != y : __builtin_memcmp(&x, &y, sizeof(T)) == 0; };
  const auto value_is = [&](V v, auto wanted) {
    L::store(got, v);
    for (int i = 0; i < L::N; ++i)
      if (!same(got[i], wanted(i))) return false;
    return true;
  };
  const auto mask_is = [&](M m, auto wanted) {
    for (int i = 0; i < L::N; ++i)
      if (((L::bits(m) >> i) & 1) != static_cast<std::uint64_t>(wanted(i))) return false;
    return (L::bits(m) >> L::N) == 0 && L::any(m) == (L::bits(m) != 0);
  };
  const auto integer_is = [&](I v, auto wanted) {
    Bits words[L::N];
    const V moved = L::as_float(v);
    L::store(got, moved);
    __builtin_memcpy(words, got, sizeof words);
    for (int i = 0; i < L::N; ++i)
      if (words[i] != wanted(i)) return false;
    return true;
  };
#define GRADFOLD_CHECK(condition, member) \
  if (!(condition)) return member

  for (int round = 0; round < kCount * kCount * 3; ++round) {
    for (int i = 0; i < L::N; ++i) {
      a[i] = kValues[(round + i) % kCount];
      b[i] = kValues[(round / kCount + 3 * i) % kCount];
      c[i] = kValues[(round / 5 + 5 * i + 1) % kCount];
    }
    const V va = L::load(a), vb = L::load(b), vc = L::load(c);
    const std::uint64_t pattern = (0x9e3779b97f4a7c15ull * static_cast<std::uint64_t>(round + 1)) >> 13 & kAll;
    const auto on = [pattern](int i) { return ((pattern >> i) & 1) != 0; };
    const M m = L::from_bits(pattern);
    const M other = L::from_bits(pattern >> 1 ^ kAll >> 2);
    const auto other_on = [pattern](int i) { return (((pattern >> 1 ^ kAll >> 2) >> i) & 1) != 0; };

    GRADFOLD_CHECK(value_is(va, [&](int i) { return a[i]; }), "load");
    GRADFOLD_CHECK(value_is(L::set1(a[0]), [&](int) { return a[0]; }), "set1");
    GRADFOLD_CHECK(value_is(L::zero(), [](int) { return T(0); }), "zero");
    GRADFOLD_CHECK(value_is(L::add(va, vb), [&](int i) { return a[i] + b[i]; }), "add");
    GRADFOLD_CHECK(value_is(L::sub(va, vb), [&](int i) { return a[i] - b[i]; }), "sub");
    GRADFOLD_CHECK(value_is(L::mul(va, vb), [&](int i) { return a[i] * b[i]; }), "mul");
    GRADFOLD_CHECK(value_is(L::div(va, vb), [&](int i) { return a[i] / b[i]; }), "div");
    GRADFOLD_CHECK(value_is(L::sqrt(va), [&](int i) { return plain_sqrt(a[i]); }), "sqrt");
    GRADFOLD_CHECK(value_is(L::fma(va, vb, vc), [&](int i) { return plain_fma(a[i], b[i], c[i]); }), "fma");
    GRADFOLD_CHECK(value_is(L::fnma(va, vb, vc), [&](int i) { return plain_fma(-a[i], b[i], c[i]); }), "fnma");
    GRADFOLD_CHECK(
        value_is(L::fma_where(m, va, vb, vc), [&](int i) { return on(i) ? plain_fma(a[i], b[i], c[i]) : c[i]; }),
        "fma_where");
    GRADFOLD_CHECK(value_is(L::add_where(m, va, vb), [&](int i) { return on(i) ? a[i] + b[i] : a[i]; }), "add_where");
    GRADFOLD_CHECK(value_is(L::mul_where(m, va, vb), [&](int i) { return on(i) ? a[i] * b[i] : T(0); }), "mul_where");
    GRADFOLD_CHECK(value_is(L::max(va, vb), [&](int i) { return a[i] > b[i] ? a[i] : b[i]; }), "max");
    GRADFOLD_CHECK(value_is(L::neg_where(m, va), [&](int i) { return on(i) ? -a[i] : a[i]; }), "neg_where");
    GRADFOLD_CHECK(value_is(L::neg_abs(va), [&](int i) { return -static_cast<T>(__builtin_fabs(a[i])); }), "neg_abs");
    GRADFOLD_CHECK(value_is(L::neg(va), [&](int i) { return -a[i]; }), "neg");
    GRADFOLD_CHECK(value_is(L::abs(va), [&](int i) { return static_cast<T>(__builtin_fabs(a[i])); }), "abs");
    GRADFOLD_CHECK(value_is(L::select(m, va, vb), [&](int i) { return on(i) ? a[i] : b[i]; }), "select");
    GRADFOLD_CHECK(mask_is(L::lt(va, vb), [&](int i) { return a[i] < b[i]; }), "lt");
    GRADFOLD_CHECK(mask_is(L::le(va, vb), [&](int i) { return a[i] <= b[i]; }), "le");
    GRADFOLD_CHECK(mask_is(L::eq(va, vb), [&](int i) { return a[i] == b[i]; }), "eq");
    GRADFOLD_CHECK(mask_is(L::is_finite(va), [&](int i) { return a[i] - a[i] == 0; }), "is_finite");
    GRADFOLD_CHECK(mask_is(m, on), "from_bits");
    GRADFOLD_CHECK(mask_is(L::m_and(m, other), [&](int i) { return on(i) && other_on(i); }), "m_and");
    GRADFOLD_CHECK(mask_is(L::m_or(m, other), [&](int i) { return on(i) || other_on(i); }), "m_or");
    GRADFOLD_CHECK(mask_is(L::m_andnot(m, other), [&](int i) { return !on(i) && other_on(i); }), "m_andnot");
    GRADFOLD_CHECK(mask_is(L::m_none(), [](int) { return false; }), "m_none");
    GRADFOLD_CHECK(mask_is(L::m_all(), [](int) { return true; }), "m_all");

    Bits x[L::N], y[L::N];
    __builtin_memcpy(x, a, sizeof x);
    __builtin_memcpy(y, b, sizeof y);
    const I ia = L::as_int(va), ib = L::as_int(vb);
    GRADFOLD_CHECK(integer_is(ia, [&](int i) { return x[i]; }), "as_int");
    GRADFOLD_CHECK(integer_is(L::iload(y), [&](int i) { return y[i]; }), "iload");
    GRADFOLD_CHECK(integer_is(L::iset1(x[0]), [&](int) { return x[0]; }), "iset1");
    GRADFOLD_CHECK(integer_is(L::iadd(ia, ib), [&](int i) { return static_cast<Bits>(x[i] + y[i]); }), "iadd");
    GRADFOLD_CHECK(integer_is(L::isub(ia, ib), [&](int i) { return static_cast<Bits>(x[i] - y[i]); }), "isub");
    GRADFOLD_CHECK(integer_is(L::iand(ia, ib), [&](int i) { return x[i] & y[i]; }), "iand");
    GRADFOLD_CHECK(integer_is(L::ior(ia, ib), [&](int i) { return x[i] | y[i]; }), "ior");
    GRADFOLD_CHECK(integer_is(L::ixor(ia, ib), [&](int i) { return x[i] ^ y[i]; }), "ixor");
    GRADFOLD_CHECK(integer_is(L::template ishl<5>(ia), [&](int i) { return static_cast<Bits>(x[i] << 5); }), "ishl");
    GRADFOLD_CHECK(integer_is(L::template ishr<5>(ia), [&](int i) { return x[i] >> 5; }), "ishr");

    typename L::Wide::V wide[L::kWide];
    double widened[L::N];
    L::widen(va, wide);
    for (int k = 0; k < L::kWide; ++k) L::Wide::store(widened + k * L::Wide::N, wide[k]);
    for (int i = 0; i < L::N; ++i) {
      const double wanted = a[i];
      const bool good = wanted != wanted ? widened[i] != widened[i]
                                         : __builtin_memcmp(&widened[i], &wanted, sizeof wanted) == 0;
      GRADFOLD_CHECK(good, "widen");
      widened[i] = wanted * (1 + 0x1p-24);  // halfway between two float32 where a[i] is one
    }
    for (int k = 0; k < L::kWide; ++k) wide[k] = L::Wide::load(widened + k * L::Wide::N);
    GRADFOLD_CHECK(value_is(L::narrow(wide), [&](int i) { return static_cast<T>(widened[i]); }), "narrow");
    typename L::Wide::M wide_masks[L::kWide];
    L::widen_mask(m, wide_masks);
    std::uint64_t joined = 0;
    for (int k = 0; k < L::kWide; ++k) joined |= L::Wide::bits(wide_masks[k]) << (k * L::Wide::N);
    GRADFOLD_CHECK(joined == pattern, "widen_mask");
  }
#undef GRADFOLD_CHECK
  return nullptr;
}

}  // namespace
}  // namespace gradfold
