// Columns of row-major data as vectors of rows: Columns<L>::load reads kColumns neighbouring features of L::N rows and
// gives one vector for each feature, lane i being row i. Include after the level's lanes; internal linkage throughout.
//
// The blocks are built by 128-bit loads from the rows and transposed within 128-bit lanes, which takes half the
// shuffles of a full N x N transpose.
#pragma once
#include <cstdint>

namespace gradfold {
namespace {

// Where rows begin: at(f) gives the addresses of feature f, row(q, k) that of row 4q + k (or 2q + k: `Group` rows a group).
template <class T>
struct RowPointers {
  const T* const* first;
  template <int Group, int Groups>
  struct At {
    const T* const* rows;
    std::int64_t f;
    const T* row(int q, int k) const { return rows[Group * q + k] + f; }
  };
  template <int Group, int Groups>
  At<Group, Groups> at(std::int64_t f) const {
    return {first, f};
  }
};

// Evenly spaced rows: one base and one stride for a group of four, which the addressing modes of the loads absorb. The empty asm
// keeps the compiler from holding sixteen row pointers of its own instead, which cost half the speed in spills.
template <class T>
struct RowStride {
  const T* first;
  std::int64_t stride;
  template <int Group, int Groups>
  struct At {
    const char* base[Groups];
    std::int64_t bytes;
    const T* row(int q, int k) const { return reinterpret_cast<const T*>(base[q] + k * bytes); }
  };
  template <int Group, int Groups>
  At<Group, Groups> at(std::int64_t f) const {
    const char* base = reinterpret_cast<const char*>(first + f);
    asm("" : "+r"(base));
    At<Group, Groups> out;
    out.bytes = stride * static_cast<std::int64_t>(sizeof(T));
#pragma GCC unroll 16
    for (int q = 0; q < Groups; ++q) {
      out.base[q] = base;
      base += Group * out.bytes;
    }
    return out;
  }
};

template <class L>
struct Columns {  // any level: through memory
  static constexpr int kColumns = 1;
  template <class Rows>
  static void load(const Rows& rows, std::int64_t f, typename L::V (&out)[1]) {
    typename L::T column[L::N];
    const auto at = rows.template at<1, L::N>(f);
    for (int i = 0; i < L::N; ++i) column[i] = *at.row(i, 0);
    out[0] = L::load(column);
  }
};

#if defined(__AVX512F__)

template <>
struct Columns<F32> {
  static constexpr int kColumns = 4;
  template <class Rows>
  static void load(const Rows& rows, std::int64_t f, __m512 (&out)[4]) {
    const auto at = rows.template at<4, 4>(f);
    __m512 a[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {  // 128-bit lane q of a[k] holds row 4q + k
      a[k] = _mm512_castps128_ps512(_mm_loadu_ps(at.row(0, k)));
      a[k] = _mm512_insertf32x4(a[k], _mm_loadu_ps(at.row(1, k)), 1);
      a[k] = _mm512_insertf32x4(a[k], _mm_loadu_ps(at.row(2, k)), 2);
      a[k] = _mm512_insertf32x4(a[k], _mm_loadu_ps(at.row(3, k)), 3);
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
    const auto at = rows.template at<2, 4>(f);
    __m512d a[2];
#pragma GCC unroll 4
    for (int k = 0; k < 2; ++k) {
      a[k] = _mm512_castpd128_pd512(_mm_loadu_pd(at.row(0, k)));
      a[k] = _mm512_insertf64x2(a[k], _mm_loadu_pd(at.row(1, k)), 1);
      a[k] = _mm512_insertf64x2(a[k], _mm_loadu_pd(at.row(2, k)), 2);
      a[k] = _mm512_insertf64x2(a[k], _mm_loadu_pd(at.row(3, k)), 3);
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
    const auto at = rows.template at<4, 2>(f);
    __m256 a[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k)
      a[k] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at.row(0, k))), _mm_loadu_ps(at.row(1, k)), 1);
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
    const auto at = rows.template at<2, 2>(f);
    __m256d a[2];
#pragma GCC unroll 4
    for (int k = 0; k < 2; ++k)
      a[k] = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(at.row(0, k))), _mm_loadu_pd(at.row(1, k)), 1);
    out[0] = _mm256_unpacklo_pd(a[0], a[1]);
    out[1] = _mm256_unpackhi_pd(a[0], a[1]);
  }
};

#endif

}  // namespace
}  // namespace gradfold
