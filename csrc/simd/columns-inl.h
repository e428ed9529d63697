// Columns of row-major data as vectors of rows: Columns<L>::load reads kColumns neighbouring features of L::N rows and
// gives one vector for each feature, lane i being row i. Include after the level's lanes; internal linkage throughout.
//
// The blocks are built by 128-bit loads from the rows and transposed within 128-bit lanes, which takes half the
// shuffles of a full N x N transpose.
#pragma once
#include <cstdint>

namespace gradfold {
namespace {

// Where row i begins. Evenly spaced rows need no table of pointers, whose loads would cost as much as the data's.
template <class T>
struct RowPointers {
  const T* const* row;
  const T* operator()(int i) const { return row[i]; }
};
template <class T>
struct RowStride {
  const T* first;
  std::int64_t stride;
  const T* operator()(int i) const { return first + i * stride; }
};

template <class L>
struct Columns {  // any level: through memory
  static constexpr int kColumns = 1;
  template <class Rows>
  static void load(const Rows& rows, std::int64_t f, typename L::V (&out)[1]) {
    typename L::T column[L::N];
    for (int i = 0; i < L::N; ++i) column[i] = rows(i)[f];
    out[0] = L::load(column);
  }
};

#if defined(__AVX512F__)

template <>
struct Columns<F32> {
  static constexpr int kColumns = 4;
  template <class Rows>
  static void load(const Rows& rows, std::int64_t f, __m512 (&out)[4]) {
    __m512 a[4];
    for (int k = 0; k < 4; ++k) {  // 128-bit lane q of a[k] holds row 4q + k
      a[k] = _mm512_castps128_ps512(_mm_loadu_ps(rows(k) + f));
      a[k] = _mm512_insertf32x4(a[k], _mm_loadu_ps(rows(4 + k) + f), 1);
      a[k] = _mm512_insertf32x4(a[k], _mm_loadu_ps(rows(8 + k) + f), 2);
      a[k] = _mm512_insertf32x4(a[k], _mm_loadu_ps(rows(12 + k) + f), 3);
    }
    const __m512d t0 = _mm512_castps_pd(_mm512_unpacklo_ps(a[0], a[1])), t1 = _mm512_castps_pd(_mm512_unpackhi_ps(a[0], a[1]));
    const __m512d t2 = _mm512_castps_pd(_mm512_unpacklo_ps(a[2], a[3])), t3 = _mm512_castps_pd(_mm512_unpackhi_ps(a[2], a[3]));
    out[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(t0, t2));
    out[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(t0, t2));
    out[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(t1, t3));
    out[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(t1, t3));
  }
};

template <>
struct Columns<F64> {
  static constexpr int kColumns = 2;
  template <class Rows>
  static void load(const Rows& rows, std::int64_t f, __m512d (&out)[2]) {
    __m512d a[2];
    for (int k = 0; k < 2; ++k) {
      a[k] = _mm512_castpd128_pd512(_mm_loadu_pd(rows(k) + f));
      a[k] = _mm512_insertf64x2(a[k], _mm_loadu_pd(rows(2 + k) + f), 1);
      a[k] = _mm512_insertf64x2(a[k], _mm_loadu_pd(rows(4 + k) + f), 2);
      a[k] = _mm512_insertf64x2(a[k], _mm_loadu_pd(rows(6 + k) + f), 3);
    }
    out[0] = _mm512_unpacklo_pd(a[0], a[1]);
    out[1] = _mm512_unpackhi_pd(a[0], a[1]);
  }
};

#elif defined(__AVX2__)

template <>
struct Columns<F32> {
  static constexpr int kColumns = 4;
  template <class Rows>
  static void load(const Rows& rows, std::int64_t f, __m256 (&out)[4]) {
    __m256 a[4];
    for (int k = 0; k < 4; ++k)
      a[k] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows(k) + f)), _mm_loadu_ps(rows(4 + k) + f), 1);
    const __m256d t0 = _mm256_castps_pd(_mm256_unpacklo_ps(a[0], a[1])), t1 = _mm256_castps_pd(_mm256_unpackhi_ps(a[0], a[1]));
    const __m256d t2 = _mm256_castps_pd(_mm256_unpacklo_ps(a[2], a[3])), t3 = _mm256_castps_pd(_mm256_unpackhi_ps(a[2], a[3]));
    out[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(t0, t2));
    out[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(t0, t2));
    out[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(t1, t3));
    out[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(t1, t3));
  }
};

template <>
struct Columns<F64> {
  static constexpr int kColumns = 2;
  template <class Rows>
  static void load(const Rows& rows, std::int64_t f, __m256d (&out)[2]) {
    __m256d a[2];
    for (int k = 0; k < 2; ++k)
      a[k] = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(rows(k) + f)), _mm_loadu_pd(rows(2 + k) + f), 1);
    out[0] = _mm256_unpacklo_pd(a[0], a[1]);
    out[1] = _mm256_unpackhi_pd(a[0], a[1]);
  }
};

#endif

}  // namespace
}  // namespace gradfold
