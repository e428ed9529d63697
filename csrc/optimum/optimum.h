// Optima of many models together: vectors and triangular matrices of groups of models, lanes = models, float64 throughout.
#pragma once
#include <cstdint>

#include "levels/levels.h"

namespace gradfold {

constexpr int kGroup = 8;  // models of a group, whatever the lanes of the level

// A model's parameters, [n_outputs][n_features] and then, with an intercept, [n_outputs]; a group's are [size()][kGroup].
struct ParameterShape {
  std::int64_t n_features, n_outputs;
  bool fit_intercept;
  std::int64_t n_weights() const { return n_features * n_outputs; }
  std::int64_t size() const { return n_weights() + (fit_intercept ? n_outputs : 0); }
};

// A lower triangular matrix of a group: element (i, j), j <= i, of every lane at triangle(i) + j, times kGroup.
constexpr std::int64_t triangle(std::int64_t i) { return i * (i + 1) / 2; }

// One sweep of coordinate descent over n coordinates that share a Gram matrix. Arrays of coordinates are [n][kGroup].
struct SweepTask {
  std::int64_t n;
  const double* gram;  // [n][n]
  const double* l1;    // [kGroup]
  const double* l2;
  const double* use;   // above 0 where a lane moves a coordinate
  double* v;
  double* q;           // the product with y less gram * v, kept up to date
  double* largest;     // [kGroup], written: the largest step, times the root of the coordinate's own element
};

// One sweep of coordinate descent of one model, whose quadratic is its own. Rows of the matrix are `stride` apart, a multiple of kGroup,
// and zero from n on; q has `stride` elements.
struct ModelSweep {
  std::int64_t n, stride;
  const double* matrix;
  double l1, l2;
  double* v;
  double* q;  // minus the gradient of the quadratic, kept up to date; without l2
};

struct OptimumKernels {
  // out[l] = sum of a[d][l] * b[d][l]: FMA over the features of an output in chunks of kFeatureChunk, outputs in order, then the
  // intercepts as a chunk of their own; each chunk from +0, chunks added in order.
  void (*dot)(const double* a, const double* b, const ParameterShape&, double* out);
  // y[d][l] = fma(factor[l], x[d][l], y[d][l])
  void (*add_product)(const double* factor, const double* x, std::int64_t n, double* y);
  // to[d][l] = from[d][l] where use[l] is above 0
  void (*copy_where)(const double* use, const double* from, std::int64_t n, double* to);
  // The Cholesky factor of a symmetric matrix, in its place, with reciprocals on the diagonal. Element (i, j) is a[i][j], less
  // l[i][k] * l[j][k] for k = 0, 1, ..., j - 1, one FMA each, times the reciprocal of l[j][j]. A pivot of no more than `drop` times the
  // matrix's own diagonal element drops its column: the reciprocal is 0, and so is that unknown. dropped[l] counts them, and
  // smallest[l] is the least pivot that stayed, as a share of its diagonal element.
  void (*factor)(double* a, std::int64_t n, double drop, double* smallest, double* dropped);
  // b becomes the solution of L L' x = b: forward by rows, k ascending; then backward, k descending; one FMA each.
  void (*solve)(const double* factor, std::int64_t n, double* b);
  // The same with one factor, [triangle(n)], for the right sides of all lanes: the bits are those of `solve`.
  void (*solve_shared)(const double* factor, std::int64_t n, double* b);
  // out[i] = sum of element (i, j) * v[j], j ascending from +0, products and sums rounded one by one. matrices[l] is the packed lower
  // triangle of lane l's symmetric matrix, [triangle(n)]; lanes may share one.
  void (*product)(const double* const* matrices, std::int64_t n, const double* v, double* out);
  // Coordinates in order: v = soft(q + gram v, l1) / (gram + l2), and what moved is taken from q, one FMA each.
  void (*sweep)(const SweepTask&);
  // q[j] = c[j] less gram[list[k]][j] * v[k] for k = 0 to n - 1 in order, for all j below `size`; gram is [size][size].
  void (*residual)(const double* gram, std::int64_t size, const std::int64_t* list, std::int64_t n, const double* v, const double* c,
                   double* q);

  // out[i * stride + c] = sum of x[i][r] * columns[c][r] for r below n, a multiple of kGroup, and i below n_x: kGroup sums of every
  // kGroup-th product, one FMA each from +0, added in order.
  void (*products)(const double* const* x, std::int64_t n_x, const double* const* columns, std::int64_t n_columns, std::int64_t n,
                   double* out, std::int64_t stride);
  // out[i * stride + j] = fma(factor[c] * columns[c][i], columns[c][j], out[i * stride + j]) over c in order, for j >= i below n, a multiple
  // of kGroup; what is below the diagonal is anything.
  void (*add_row_products)(const double* factor, const double* const* columns, std::int64_t n_columns, std::int64_t n, std::int64_t stride,
                           double* out);

  // Of one model, whose lanes are coordinates.
  // Coordinates in order: v = soft(matrix v + q, l1) / (matrix + l2), products and sums rounded one by one; then what moved, times the
  // coordinate's row, is taken from q, one FMA each. A coordinate whose divisor is not above 0 stays.
  void (*model_sweep)(const ModelSweep&);
  // y[i] = fnma(factor, x[i], y[i]) for i below n, a multiple of kGroup.
  void (*subtract_product)(double factor, const double* x, std::int64_t n, double* y);
  // The same for factor[r] and rows[r] in turn.
  void (*subtract_products)(const double* factor, const double* const* rows, std::int64_t n_rows, std::int64_t n, double* y);
  // The Cholesky factor U of U'U = a from a's upper triangle, in its place, with reciprocals on the diagonal. Element (i, j) is a[i][j],
  // less u[k][i] * u[k][j] for k = 0, 1, ..., i - 1, one FMA each, times the reciprocal of u[i][i]. Rows and columns below `known` are
  // finished; `stride` is at least n + kGroup, there are whole groups of rows, and what lies below the diagonal and from n on becomes
  // anything. A pivot of no more than `drop` times the matrix's own diagonal element is dropped: its row becomes 0. Returns how many;
  // `diagonal` [n] is overwritten.
  std::int64_t (*model_factor)(double* a, std::int64_t known, std::int64_t n, std::int64_t stride, double drop, double* diagonal);
  // b, of as many elements as whole groups hold n, becomes the solution of U'U x = b, and what is from n on anything. Forward, one FMA
  // each, k ascending. Backward, group by group of rows: first the columns of later groups, as kGroup sums of every kGroup-th of them,
  // groups descending, one FMA each from +0, added in order and taken from b; then the group's own columns, descending, one FMA each.
  void (*model_solve)(const double* factor, std::int64_t n, std::int64_t stride, double* b);
};

const OptimumKernels& optimum_kernels(Level level);

}  // namespace gradfold
