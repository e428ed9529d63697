// What lanes do faster without the promises: approximate reciprocals and roots, sums over lanes. For builds with GRADFOLD_FREE alone.
// Include after the level's lanes.
#pragma once
#include <type_traits>
#include <utility>

#include "simd/math-inl.h"

namespace gradfold {
namespace {

#ifdef GRADFOLD_FREE_MATHS
constexpr bool kFreeMaths = true;
#else
constexpr bool kFreeMaths = false;
#endif

// One step of Newton on the instruction's estimate: at least 22 bits.
#if defined(__AVX2__)
#if defined(__AVX512F__)
inline __m512 estimated_reciprocal(__m512 a) { return _mm512_maskz_rcp14_ps(0xffff, a); }
inline __m512 estimated_inverse_root(__m512 a) {  // 0 of 0
  return _mm512_maskz_rsqrt14_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_OQ), a);
}
inline __m512 larger_of(__m512 a, __m512 b) { return _mm512_maskz_max_ps(0xffff, a, b); }
inline float added(__m512 a) { return _mm512_reduce_add_ps(a); }
inline double added(__m512d a) { return _mm512_reduce_add_pd(a); }
inline __m128 quarters(__m512 a) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_maskz_extractf32x8_ps(0xff, a, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
#endif
inline __m256 estimated_reciprocal(__m256 a) { return _mm256_rcp_ps(a); }
inline __m256 estimated_inverse_root(__m256 a) {
  return _mm256_and_ps(_mm256_rsqrt_ps(a), _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_OQ));
}
inline __m256 larger_of(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
inline float added(__m128 a) {
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}
inline __m128 quarters(__m256 a) { return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)); }
inline float added(__m256 a) { return added(quarters(a)); }
#endif

template <class L>
GRADFOLD_LANE_FUNCTION typename L::V larger(typename L::V a, typename L::V b) {
  if constexpr (requires { larger_of(a, b); })
    return larger_of(a, b);
  else
    return L::select(L::lt(a, b), b, a);
}

template <class L>
GRADFOLD_LANE_FUNCTION typename L::V quick_quotient(typename L::V a, typename L::V b) {
  if constexpr (kFreeMaths && requires { estimated_reciprocal(b); }) {
    const auto r = estimated_reciprocal(b);
    return L::mul(a, L::mul(r, L::fnma(b, r, L::set1(2))));
  } else {
    return L::div(a, b);
  }
}

template <class L>
GRADFOLD_LANE_FUNCTION typename L::V quick_root(typename L::V a) {
  if constexpr (kFreeMaths && requires { estimated_inverse_root(a); }) {
    const auto r = estimated_inverse_root(a);
    const auto root = L::mul(a, r);
    return L::mul(L::mul(L::set1(0.5f), root), L::fnma(root, r, L::set1(3)));
  } else {
    return L::sqrt(a);
  }
}

template <class L>
GRADFOLD_LANE_FUNCTION typename L::T sum_of(typename L::V a) {
  if constexpr (requires { added(a); }) {
    return added(a);
  } else {
    typename L::T lane[L::N], sum = 0;
    L::store(lane, a);
    for (int l = 0; l < L::N; ++l) sum += lane[l];
    return sum;
  }
}

// to[k] = the sum over the lanes of a[k].
template <class L>
GRADFOLD_LANE_FUNCTION void sums_of_four(const typename L::V* a, typename L::T* to) {
  if constexpr (requires { quarters(a[0]); }) {
#if defined(__AVX2__)
    __m128 q[4];
    for (int k = 0; k < 4; ++k) q[k] = quarters(a[k]);
    _MM_TRANSPOSE4_PS(q[0], q[1], q[2], q[3]);
    _mm_storeu_ps(to, _mm_add_ps(_mm_add_ps(q[0], q[1]), _mm_add_ps(q[2], q[3])));
#endif
  } else {
    for (int k = 0; k < 4; ++k) to[k] = sum_of<L>(a[k]);
  }
}

}  // namespace
}  // namespace gradfold
