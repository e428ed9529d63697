// Include after the level's lanes; internal linkage throughout.
#pragma once
#include "gradient/gradient.h"
#include "optimum/optimum.h"

namespace gradfold {
namespace {

using Lanes = F64;
constexpr int kParts = kGroup / Lanes::N;  // vectors of a group

inline void group_dot(const double* a, const double* b, const ParameterShape& shape, double* out) {
  Lanes::V total[kParts];
  for (auto& t : total) t = Lanes::zero();
  auto chunk = [&](std::int64_t begin, std::int64_t n) {
    Lanes::V sum[kParts];
    for (auto& s : sum) s = Lanes::zero();
    for (std::int64_t d = begin; d < begin + n; ++d)
      for (int v = 0; v < kParts; ++v)
        sum[v] = Lanes::fma(Lanes::load(a + d * kGroup + v * Lanes::N), Lanes::load(b + d * kGroup + v * Lanes::N), sum[v]);
    for (int v = 0; v < kParts; ++v) total[v] = Lanes::add(total[v], sum[v]);
  };
  const std::int64_t p = shape.n_features;
  for (std::int64_t k = 0; k < shape.n_outputs; ++k)
    for (std::int64_t f = 0; f < p; f += kFeatureChunk) chunk(k * p + f, p - f < kFeatureChunk ? p - f : kFeatureChunk);
  if (shape.fit_intercept) chunk(shape.n_weights(), shape.n_outputs);
  for (int v = 0; v < kParts; ++v) Lanes::store(out + v * Lanes::N, total[v]);
}

inline void group_add_product(const double* factor, const double* x, std::int64_t n, double* y) {
  for (int v = 0; v < kParts; ++v) {
    const auto f = Lanes::load(factor + v * Lanes::N);
    for (std::int64_t d = 0; d < n; ++d) {
      const std::int64_t at = d * kGroup + v * Lanes::N;
      Lanes::store(y + at, Lanes::fma(f, Lanes::load(x + at), Lanes::load(y + at)));
    }
  }
}

inline void group_copy_where(const double* use, const double* from, std::int64_t n, double* to) {
  for (int v = 0; v < kParts; ++v) {
    const auto m = Lanes::lt(Lanes::zero(), Lanes::load(use + v * Lanes::N));
    for (std::int64_t d = 0; d < n; ++d) {
      const std::int64_t at = d * kGroup + v * Lanes::N;
      Lanes::store(to + at, Lanes::select(m, Lanes::load(from + at), Lanes::load(to + at)));
    }
  }
}

// What the columns of a matrix have lost so far.
struct Pivots {
  Lanes::V drop, smallest, dropped;

  // The reciprocal of the root of a pivot, or 0.
  Lanes::V reciprocal(Lanes::V pivot, Lanes::V diagonal) {
    const auto one = Lanes::set1(1.0);
    const auto stays = Lanes::lt(Lanes::mul(drop, diagonal), pivot);  // false on NaN
    const auto share = Lanes::div(pivot, diagonal);
    smallest = Lanes::select(stays, Lanes::select(Lanes::lt(share, smallest), share, smallest), smallest);
    dropped = Lanes::select(stays, dropped, Lanes::add(dropped, one));
    return Lanes::select(stays, Lanes::div(one, Lanes::sqrt(pivot)), Lanes::zero());
  }
};

// Rows [i, i + NI) and columns [j, j + NJ) of the factor; DIAGONAL: i = j, and NI = NJ.
template <int NI, int NJ, bool DIAGONAL>
void factor_tile(double* a, std::int64_t i, std::int64_t j, Pivots* pivots) {
  double* row[NI];
  for (int r = 0; r < NI; ++r) row[r] = a + triangle(i + r) * kGroup;
  const double* column[NJ];
  for (int c = 0; c < NJ; ++c) column[c] = a + triangle(j + c) * kGroup;
  Lanes::V sum[NI][NJ];
#pragma GCC unroll 4
  for (int r = 0; r < NI; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < NJ; ++c) sum[r][c] = DIAGONAL && c > r ? Lanes::zero() : Lanes::load(row[r] + (j + c) * kGroup);
  Lanes::V diagonal[NJ];
  for (int c = 0; c < NJ; ++c) diagonal[c] = sum[DIAGONAL ? c : 0][c];
  for (std::int64_t k = 0; k < j; ++k) {
    Lanes::V right[NJ];
#pragma GCC unroll 4
    for (int c = 0; c < NJ; ++c) right[c] = Lanes::load(column[c] + k * kGroup);
#pragma GCC unroll 4
    for (int r = 0; r < NI; ++r) {
      const auto left = DIAGONAL ? right[r < NJ ? r : 0] : Lanes::load(row[r] + k * kGroup);
#pragma GCC unroll 4
      for (int c = 0; c < NJ; ++c)
        if (!DIAGONAL || c <= r) sum[r][c] = Lanes::fnma(left, right[c], sum[r][c]);
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < NJ; ++c) {
    Lanes::V inverse = Lanes::zero();
    if (!DIAGONAL) inverse = Lanes::load(column[c] + (j + c) * kGroup);
#pragma GCC unroll 4
    for (int r = DIAGONAL ? c : 0; r < NI; ++r) {
#pragma GCC unroll 4
      for (int k = 0; k < c; ++k) {
        const auto right = DIAGONAL ? sum[c][k] : Lanes::load(column[c] + (j + k) * kGroup);
        sum[r][c] = Lanes::fnma(sum[r][k], right, sum[r][c]);
      }
      if (DIAGONAL && r == c)
        inverse = sum[r][c] = pivots->reciprocal(sum[r][c], diagonal[c]);
      else
        sum[r][c] = Lanes::mul(sum[r][c], inverse);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < NI; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < NJ; ++c)
      if (!DIAGONAL || c <= r) Lanes::store(row[r] + (j + c) * kGroup, sum[r][c]);
}

inline void group_factor(double* a, std::int64_t n, double drop, double* smallest, double* dropped) {
  // A tile is kTile x kTile accumulators and as many operands: 16 + 8 of 32 registers, or 4 + 4 of 16.
  constexpr int kTile = Lanes::kRowTile == 8 ? 4 : 2;
  for (int v = 0; v < kParts; ++v) {
    Pivots pivots{Lanes::set1(drop), Lanes::set1(1.0), Lanes::zero()};
    double* const own = a + v * Lanes::N;
    std::int64_t i = 0;
    for (; i + kTile <= n; i += kTile) {
      for (std::int64_t j = 0; j < i; j += kTile) factor_tile<kTile, kTile, false>(own, i, j, &pivots);
      factor_tile<kTile, kTile, true>(own, i, i, &pivots);
    }
    for (; i < n; ++i) {
      std::int64_t j = 0;
      for (; j + kTile <= i; j += kTile) factor_tile<1, kTile, false>(own, i, j, &pivots);
      for (; j < i; ++j) factor_tile<1, 1, false>(own, i, j, &pivots);
      factor_tile<1, 1, true>(own, i, i, &pivots);
    }
    Lanes::store(smallest + v * Lanes::N, pivots.smallest);
    Lanes::store(dropped + v * Lanes::N, pivots.dropped);
  }
}

// Element e of the factors of all lanes; SHARED: of the one factor that they have.
template <bool SHARED>
Lanes::V factor_element(const double* a, std::int64_t e) {
  if constexpr (SHARED)
    return Lanes::set1(a[e]);
  else
    return Lanes::load(a + e * kGroup);
}

// x_i = (b_i - sum of l[i][k] x_k) / l[i][i] for NI rows from i on.
template <int NI, bool SHARED>
void forward_rows(const double* a, std::int64_t i, double* b) {
  std::int64_t row[NI];
  Lanes::V sum[NI];
  for (int r = 0; r < NI; ++r) {
    row[r] = triangle(i + r);
    sum[r] = Lanes::load(b + (i + r) * kGroup);
  }
  for (std::int64_t k = 0; k < i; ++k) {
    const auto x = Lanes::load(b + k * kGroup);
#pragma GCC unroll 4
    for (int r = 0; r < NI; ++r) sum[r] = Lanes::fnma(factor_element<SHARED>(a, row[r] + k), x, sum[r]);
  }
  for (int r = 0; r < NI; ++r) {
    for (int k = 0; k < r; ++k) sum[r] = Lanes::fnma(factor_element<SHARED>(a, row[r] + i + k), sum[k], sum[r]);
    sum[r] = Lanes::mul(sum[r], factor_element<SHARED>(a, row[r] + i + r));
    Lanes::store(b + (i + r) * kGroup, sum[r]);
  }
}

// The unknowns [i, i + NI), last first, and what they take from the rows above.
template <int NI, bool SHARED>
void backward_rows(const double* a, std::int64_t i, double* b) {
  std::int64_t row[NI];
  Lanes::V x[NI];
  for (int r = 0; r < NI; ++r) row[r] = triangle(i + r);
  for (int r = NI - 1; r >= 0; --r) {
    x[r] = Lanes::load(b + (i + r) * kGroup);
    for (int k = NI - 1; k > r; --k) x[r] = Lanes::fnma(factor_element<SHARED>(a, row[k] + i + r), x[k], x[r]);
    x[r] = Lanes::mul(x[r], factor_element<SHARED>(a, row[r] + i + r));
    Lanes::store(b + (i + r) * kGroup, x[r]);
  }
  for (std::int64_t k = 0; k < i; ++k) {
    auto sum = Lanes::load(b + k * kGroup);
#pragma GCC unroll 4
    for (int r = NI - 1; r >= 0; --r) sum = Lanes::fnma(factor_element<SHARED>(a, row[r] + k), x[r], sum);
    Lanes::store(b + k * kGroup, sum);
  }
}

template <bool SHARED>
void group_solve(const double* factor, std::int64_t n, double* b) {
  const std::int64_t whole = n / 4 * 4;
  for (int v = 0; v < kParts; ++v) {
    const double* a = SHARED ? factor : factor + v * Lanes::N;
    double* own = b + v * Lanes::N;
    for (std::int64_t i = 0; i < whole; i += 4) forward_rows<4, SHARED>(a, i, own);
    for (std::int64_t i = whole; i < n; ++i) forward_rows<1, SHARED>(a, i, own);
    for (std::int64_t i = n - 1; i >= whole; --i) backward_rows<1, SHARED>(a, i, own);
    for (std::int64_t i = whole - 4; i >= 0; i -= 4) backward_rows<4, SHARED>(a, i, own);
  }
}

// Lanes' matrices one beside the other: element e.
template <bool SHARED>
Lanes::V matrix_element(const double* const* matrices, std::int64_t e) {
  if constexpr (SHARED) {
    return Lanes::set1(matrices[0][e]);
  } else {
    double own[Lanes::N];
    for (int l = 0; l < Lanes::N; ++l) own[l] = matrices[l][e];
    return Lanes::load(own);
  }
}

template <bool SHARED>
void product_of(const double* const* matrices, std::int64_t n, const double* v, double* out) {
  for (int part = 0; part < kParts; ++part) {
    const double* const* own = matrices + part * Lanes::N;
    const std::int64_t lane = part * Lanes::N;
    // Each element serves both triangles. A row's own columns come before those that later rows bring it.
    for (std::int64_t i = 0; i < n; ++i) {
      const auto x = Lanes::load(v + i * kGroup + lane);
      auto sum = Lanes::zero();
      std::int64_t e = triangle(i);
      for (std::int64_t j = 0; j < i; ++j, ++e) {
        const auto a = matrix_element<SHARED>(own, e);
        sum = Lanes::add(sum, Lanes::mul(a, Lanes::load(v + j * kGroup + lane)));
        double* const to = out + j * kGroup + lane;
        Lanes::store(to, Lanes::add(Lanes::load(to), Lanes::mul(a, x)));
      }
      Lanes::store(out + i * kGroup + lane, Lanes::add(sum, Lanes::mul(matrix_element<SHARED>(own, e), x)));
    }
  }
}

inline void group_product(const double* const* matrices, std::int64_t n, const double* v, double* out) {
  bool shared = true;
  for (int l = 1; l < kGroup; ++l) shared = shared && matrices[l] == matrices[0];
  (shared ? product_of<true> : product_of<false>)(matrices, n, v, out);
}

inline void group_sweep(const SweepTask& task) {
  const std::int64_t n = task.n;
  for (int part = 0; part < kParts; ++part) {
    const std::int64_t lane = part * Lanes::N;
    const auto l1 = Lanes::load(task.l1 + lane), l2 = Lanes::load(task.l2 + lane);
    auto largest = Lanes::zero();
    for (std::int64_t a = 0; a < n; ++a) {
      const double* row = task.gram + a * n;
      const auto own = Lanes::set1(row[a]);
      const auto before = Lanes::load(task.v + a * kGroup + lane);
      const auto t = Lanes::fma(own, before, Lanes::load(task.q + a * kGroup + lane));
      const auto beyond = Lanes::sub(Lanes::abs(t), l1);
      const auto size = Lanes::div(beyond, Lanes::add(own, l2));
      auto after = Lanes::select(Lanes::lt(Lanes::zero(), beyond), Lanes::neg_where(Lanes::lt(t, Lanes::zero()), size), Lanes::zero());
      after = Lanes::select(Lanes::lt(Lanes::zero(), Lanes::load(task.use + a * kGroup + lane)), after, before);
      const auto step = Lanes::sub(after, before);
      if (!Lanes::any(Lanes::lt(Lanes::zero(), Lanes::abs(step)))) continue;
      Lanes::store(task.v + a * kGroup + lane, after);
      largest = Lanes::max(Lanes::mul(Lanes::abs(step), Lanes::sqrt(own)), largest);
      double* q = task.q + lane;
      for (std::int64_t b = 0; b < n; ++b, q += kGroup) Lanes::store(q, Lanes::fnma(Lanes::set1(row[b]), step, Lanes::load(q)));
    }
    Lanes::store(task.largest + lane, largest);
  }
}

template <int NJ>
void residual_columns(const double* gram, std::int64_t size, const std::int64_t* list, std::int64_t n, const double* v, const double* c,
                      double* q, std::int64_t j) {
  Lanes::V sum[NJ];
  for (int k = 0; k < NJ; ++k) sum[k] = Lanes::load(c + (j + k) * kGroup);
  for (std::int64_t i = 0; i < n; ++i) {
    const double* row = gram + list[i] * size + j;
    const auto own = Lanes::load(v + i * kGroup);
#pragma GCC unroll 8
    for (int k = 0; k < NJ; ++k) sum[k] = Lanes::fnma(Lanes::set1(row[k]), own, sum[k]);
  }
  for (int k = 0; k < NJ; ++k) Lanes::store(q + (j + k) * kGroup, sum[k]);
}

inline void group_residual(const double* gram, std::int64_t size, const std::int64_t* list, std::int64_t n, const double* v, const double* c,
                           double* q) {
  for (int part = 0; part < kParts; ++part) {
    const std::int64_t lane = part * Lanes::N;
    std::int64_t j = 0;
    for (; j + 8 <= size; j += 8) residual_columns<8>(gram, size, list, n, v + lane, c + lane, q + lane, j);
    for (; j < size; ++j) residual_columns<1>(gram, size, list, n, v + lane, c + lane, q + lane, j);
  }
}

// ---- one model, lanes are rows ----

template <int NX, int NC>
void column_products(const double* const* x, const double* const* columns, std::int64_t n, double* out, std::int64_t stride) {
  Lanes::V sum[NX][NC][kParts];
  for (auto& row : sum)
    for (auto& column : row)
      for (auto& s : column) s = Lanes::zero();
  for (std::int64_t i = 0; i < n; i += kGroup)
    for (int v = 0; v < kParts; ++v) {
      const std::int64_t at = i + v * Lanes::N;
      Lanes::V own[NC];
#pragma GCC unroll 4
      for (int c = 0; c < NC; ++c) own[c] = Lanes::load(columns[c] + at);
#pragma GCC unroll 4
      for (int r = 0; r < NX; ++r) {
        const auto left = Lanes::load(x[r] + at);
#pragma GCC unroll 4
        for (int c = 0; c < NC; ++c) sum[r][c][v] = Lanes::fma(left, own[c], sum[r][c][v]);
      }
    }
  for (int r = 0; r < NX; ++r)
    for (int c = 0; c < NC; ++c) {
      alignas(64) double parts[kGroup];
      for (int v = 0; v < kParts; ++v) Lanes::store(parts + v * Lanes::N, sum[r][c][v]);
      double total = 0;
      for (const double part : parts) total += part;
      out[r * stride + c] = total;
    }
}

template <int NX>
void rows_of_products(const double* const* x, const double* const* columns, std::int64_t n_columns, std::int64_t n, double* out,
                      std::int64_t stride) {
  constexpr int kColumns = kParts == 1 || NX == 1 ? 4 : 2;  // as many sums as there are registers for
  std::int64_t c = 0;
  for (; c + kColumns <= n_columns; c += kColumns) column_products<NX, kColumns>(x, columns + c, n, out + c, stride);
  for (; c < n_columns; ++c) column_products<NX, 1>(x, columns + c, n, out + c, stride);
}

inline void products(const double* const* x, std::int64_t n_x, const double* const* columns, std::int64_t n_columns, std::int64_t n,
                     double* out, std::int64_t stride) {
  constexpr int kTogether = kParts == 1 ? 4 : 2;
  std::int64_t i = 0;
  for (; i + kTogether <= n_x; i += kTogether) rows_of_products<kTogether>(x + i, columns, n_columns, n, out + i * stride, stride);
  for (; i < n_x; ++i) rows_of_products<1>(x + i, columns, n_columns, n, out + i * stride, stride);
}

// Rows [i, i + 4) and kGroup columns from j on.
inline void add_row_products_tile(const double* factor, const double* const* columns, std::int64_t n_columns, std::int64_t stride,
                                  std::int64_t i, std::int64_t j, double* out) {
  Lanes::V sum[4][kParts];
  for (int r = 0; r < 4; ++r)
    for (int v = 0; v < kParts; ++v) sum[r][v] = Lanes::load(out + (i + r) * stride + j + v * Lanes::N);
  for (std::int64_t c = 0; c < n_columns; ++c) {
    const double* const column = columns[c];
    Lanes::V right[kParts];
    for (int v = 0; v < kParts; ++v) right[v] = Lanes::load(column + j + v * Lanes::N);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const auto left = Lanes::set1(factor[c] * column[i + r]);
      for (int v = 0; v < kParts; ++v) sum[r][v] = Lanes::fma(left, right[v], sum[r][v]);
    }
  }
  for (int r = 0; r < 4; ++r)
    for (int v = 0; v < kParts; ++v) Lanes::store(out + (i + r) * stride + j + v * Lanes::N, sum[r][v]);
}

inline void add_row_products(const double* factor, const double* const* columns, std::int64_t n_columns, std::int64_t n,
                             std::int64_t stride, double* out) {
  for (std::int64_t i = 0; i < n; i += 4)
    for (std::int64_t j = i / kGroup * kGroup; j < n; j += kGroup) add_row_products_tile(factor, columns, n_columns, stride, i, j, out);
}

// ---- one model, lanes are coordinates ----

inline void subtract_product(double factor, const double* x, std::int64_t n, double* y) {
  const auto f = Lanes::set1(factor);
  for (std::int64_t i = 0; i < n; i += Lanes::N) Lanes::store(y + i, Lanes::fnma(f, Lanes::load(x + i), Lanes::load(y + i)));
}

template <int NJ>
void subtract_products_tile(const double* factor, const double* const* rows, std::int64_t n_rows, std::int64_t j, double* y) {
  Lanes::V sum[NJ];
  for (int v = 0; v < NJ; ++v) sum[v] = Lanes::load(y + j + v * Lanes::N);
  for (std::int64_t r = 0; r < n_rows; ++r) {
    const auto f = Lanes::set1(factor[r]);
#pragma GCC unroll 8
    for (int v = 0; v < NJ; ++v) sum[v] = Lanes::fnma(f, Lanes::load(rows[r] + j + v * Lanes::N), sum[v]);
  }
  for (int v = 0; v < NJ; ++v) Lanes::store(y + j + v * Lanes::N, sum[v]);
}

inline void subtract_products(const double* factor, const double* const* rows, std::int64_t n_rows, std::int64_t n, double* y) {
  std::int64_t j = 0;
  for (; j + 8 * Lanes::N <= n; j += 8 * Lanes::N) subtract_products_tile<8>(factor, rows, n_rows, j, y);
  for (; j + 2 * Lanes::N <= n; j += 2 * Lanes::N) subtract_products_tile<2>(factor, rows, n_rows, j, y);
  for (; j < n; j += Lanes::N) subtract_products_tile<1>(factor, rows, n_rows, j, y);
}

inline void model_sweep(const ModelSweep& task) {
  for (std::int64_t a = 0; a < task.n; ++a) {
    const double* row = task.matrix + a * task.stride;
    const double divisor = row[a] + task.l2;
    if (!(divisor > 0)) continue;
    const double before = task.v[a], t = row[a] * before + task.q[a];
    const double beyond = (t < 0 ? -t : t) - task.l1;
    double after = 0;
    if (!(beyond <= 0)) {  // NaN goes on
      after = beyond / divisor;
      if (t < 0) after = -after;
    }
    if (after == before) continue;
    task.v[a] = after;
    subtract_product(after - before, row, task.stride, task.q);
  }
}

// ---- one model, the factor of its matrix ----

constexpr std::int64_t kRows = kGroup;  // that are finished together

// Rows [k, last) on their own columns, of which those below `known` are finished; how many pivots are dropped.
inline std::int64_t factor_corner(double* a, std::int64_t k, std::int64_t last, std::int64_t known, std::int64_t stride, double drop,
                                  const double* diagonal) {
  std::int64_t dropped = 0;
  for (std::int64_t i = k; i < last; ++i) {
    double* const row = a + i * stride;
    if (i >= known) {
      const bool stays = row[i] > drop * diagonal[i];  // false on NaN
      dropped += stays ? 0 : 1;
      row[i] = stays ? 1.0 / __builtin_sqrt(row[i]) : 0.0;
    }
    for (std::int64_t j = i + 1 > known ? i + 1 : known; j < last; ++j) row[j] *= row[i];
    for (std::int64_t b = i + 1; b < last; ++b)
      for (std::int64_t j = b > known ? b : known; j < last; ++j) a[b * stride + j] = __builtin_fma(-row[b], row[j], a[b * stride + j]);
  }
  return dropped;
}

// The rows [k, k + kRows) whose corner is finished, on the columns of a vector from j on.
inline void finish_rows(double* a, std::int64_t k, std::int64_t j, std::int64_t stride) {
  const double* const corner = a + k * stride + k;
  Lanes::V x[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) x[r] = Lanes::load(a + (k + r) * stride + j);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    x[r] = Lanes::mul(x[r], Lanes::set1(corner[r * stride + r]));
#pragma GCC unroll 8
    for (int b = r + 1; b < kRows; ++b) x[b] = Lanes::fnma(Lanes::set1(corner[r * stride + b]), x[r], x[b]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) Lanes::store(a + (k + r) * stride + j, x[r]);
}

// What the finished rows above k take from NI rows from i on, on the columns of NJ vectors from j on.
template <int NI, int NJ>
void take_rows(double* a, std::int64_t k, std::int64_t i, std::int64_t j, std::int64_t stride) {
  Lanes::V sum[NI][NJ];
  for (int r = 0; r < NI; ++r)
    for (int v = 0; v < NJ; ++v) sum[r][v] = Lanes::load(a + (i + r) * stride + j + v * Lanes::N);
  for (std::int64_t s = 0; s < k; ++s) {
    const double* const from = a + s * stride;
    Lanes::V right[NJ];
    for (int v = 0; v < NJ; ++v) right[v] = Lanes::load(from + j + v * Lanes::N);
#pragma GCC unroll 8
    for (int r = 0; r < NI; ++r) {
      const auto left = Lanes::set1(from[i + r]);
      for (int v = 0; v < NJ; ++v) sum[r][v] = Lanes::fnma(left, right[v], sum[r][v]);
    }
  }
  for (int r = 0; r < NI; ++r)
    for (int v = 0; v < NJ; ++v) Lanes::store(a + (i + r) * stride + j + v * Lanes::N, sum[r][v]);
}

// Row by row, so that what is not finished is read and written once.
inline std::int64_t model_factor(double* a, std::int64_t known, std::int64_t n, std::int64_t stride, double drop, double* diagonal) {
  constexpr int kTile = kParts == 1 ? 8 : 4, kVectors = kParts == 1 ? 3 : 2;  // as many sums as there are registers for
  std::int64_t dropped = 0;
  for (std::int64_t i = known; i < n; ++i) diagonal[i] = a[i * stride + i];
  for (std::int64_t k = 0; k < n; k += kRows) {
    for (std::int64_t i = k; i < k + kRows; i += kTile) {
      std::int64_t j = k > known ? k : known;
      for (; j + (kVectors - 1) * Lanes::N < n; j += kVectors * Lanes::N) take_rows<kTile, kVectors>(a, k, i, j, stride);
      for (; j + Lanes::N < n; j += 2 * Lanes::N) take_rows<kTile, 2>(a, k, i, j, stride);
      for (; j < n; j += Lanes::N) take_rows<kTile, 1>(a, k, i, j, stride);
    }
    const std::int64_t last = k + kRows < n ? k + kRows : n;
    dropped += factor_corner(a, k, last, known, stride, drop, diagonal);
    for (std::int64_t j = last > known ? last : known; j < n; j += Lanes::N) finish_rows(a, k, j, stride);
  }
  return dropped;
}

inline void model_forward(const double* factor, std::int64_t n, std::int64_t stride, double* b) {
  for (std::int64_t k = 0; k < n; k += kRows) {
    const std::int64_t rows = n - k < kRows ? n - k : kRows;
    const double* const corner = factor + k * stride + k;
    double x[kRows];
    for (std::int64_t r = 0; r < rows; ++r) x[r] = b[k + r];
    for (std::int64_t r = 0; r < rows; ++r) {
      x[r] *= corner[r * stride + r];
      for (std::int64_t s = r + 1; s < rows; ++s) x[s] = __builtin_fma(-corner[r * stride + s], x[r], x[s]);
    }
    for (std::int64_t r = 0; r < rows; ++r) b[k + r] = x[r];
    for (std::int64_t j = k + kRows; j < n; j += Lanes::N) {  // of whole rows only, since otherwise there is none
      auto sum = Lanes::load(b + j);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum = Lanes::fnma(Lanes::set1(x[r]), Lanes::load(factor + (k + r) * stride + j), sum);
      Lanes::store(b + j, sum);
    }
  }
}

// parts[r] are the sums of row k + r over the columns from k + kRows on.
inline void sums_of_rows(const double* factor, std::int64_t k, std::int64_t n, std::int64_t stride, const double* b,
                         double (*parts)[kGroup]) {
  Lanes::V sum[kRows];
  for (int v = 0; v < kParts; ++v) {
    for (auto& s : sum) s = Lanes::zero();
    std::int64_t j = (n - 1) / kGroup * kGroup;
    auto add = [&](auto&& kept) {
      const std::int64_t at = j + v * Lanes::N;
      const auto own = kept(Lanes::load(b + at));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[r] = Lanes::fma(kept(Lanes::load(factor + (k + r) * stride + at)), own, sum[r]);
    };
    const std::int64_t more = n - j - v * Lanes::N;  // of the last group, what is from n on is anything
    const std::int64_t lanes = more < 0 ? 0 : more < Lanes::N ? more : Lanes::N;
    const auto valid = Lanes::from_bits((std::uint64_t{1} << lanes) - 1);
    add([&](Lanes::V x) { return Lanes::select(valid, x, Lanes::zero()); });
    for (j -= kGroup; j > k; j -= kGroup) add([](Lanes::V x) { return x; });
    for (int r = 0; r < kRows; ++r) Lanes::store(parts[r] + v * Lanes::N, sum[r]);
  }
}

inline void model_solve(const double* factor, std::int64_t n, std::int64_t stride, double* b) {
  model_forward(factor, n, stride, b);
  for (std::int64_t k = (n - 1) / kRows * kRows; k >= 0; k -= kRows) {
    const std::int64_t rows = n - k < kRows ? n - k : kRows;
    const double* const corner = factor + k * stride + k;
    double x[kRows];
    for (std::int64_t r = 0; r < rows; ++r) x[r] = b[k + r];
    if (k + kRows < n) {
      alignas(64) double parts[kRows][kGroup];
      sums_of_rows(factor, k, n, stride, b, parts);
      for (int r = 0; r < kRows; ++r) {
        double sum = 0;
        for (const double part : parts[r]) sum += part;
        x[r] -= sum;
      }
    }
    for (std::int64_t r = rows - 1; r >= 0; --r) {
      x[r] *= corner[r * stride + r];
      for (std::int64_t s = r - 1; s >= 0; --s) x[s] = __builtin_fma(-corner[s * stride + r], x[r], x[s]);
    }
    for (std::int64_t r = 0; r < rows; ++r) b[k + r] = x[r];
  }
}

}  // namespace
}  // namespace gradfold

#define GRADFOLD_OPTIMUM_KERNELS(level)                                                                                      \
  namespace gradfold {                                                                                                       \
  extern const OptimumKernels optimum_##level;                                                                               \
  const OptimumKernels optimum_##level = {&group_dot, &group_add_product, &group_copy_where, &group_factor,                   \
                                          &group_solve<false>, &group_solve<true>, &group_product, &group_sweep,             \
                                          &group_residual, &products, &add_row_products, &model_sweep, &subtract_product,        \
                                          &subtract_products, &model_factor, &model_solve};                                  \
  }
