// Batched loss-gradient of many models over one chunk of rows: what the level files offer, and the orchestration above them.
// Raw pointers and sizes only.
#pragma once
#include <cstdint>
#include <functional>

#include "gradient/roles.h"
#include "levels/levels.h"
#include "loss/losses.h"

namespace gradfold {

// Part of the format (they fix the order of summation), not tuning knobs.
constexpr std::int64_t kRowChunk = 1024;
constexpr std::int64_t kFeatureChunk = 256;

constexpr int kMaxPanelVectors = 3;  // models of a panel, in vectors: 3 fill the register tile
constexpr int kHalfVector = 0;       // the n_vectors of a panel of half a vector, on levels that have one

constexpr int panel_lanes(int n_vectors, int lanes_of_vector) {
  return n_vectors == kHalfVector ? lanes_of_vector / 2 : n_vectors * lanes_of_vector;
}

// What a block of rows of X may take of the second-level cache, beside the weights and the gradient: a quarter of what the system says
// that one has, or what was set. No result depends on it.
std::int64_t block_bytes();
void set_block_bytes(std::int64_t bytes);

// One panel of models over one chunk of at most kRowChunk batch positions. `lanes` = panel_lanes(n_vectors, lanes of the level);
// everything "per lane" has that length. Arrays of features are [n_features][lanes].
template <class T>
struct ChunkTask {
  std::int64_t n_rows;
  const T* const* x;           // row pointers, in batch order
  const T* y;                  // per row
  const T* weight;             // per row; null means 1
  const std::uint64_t* roles;  // per row: bit l set when lane l uses the row
  std::int64_t n_features;
  int n_vectors;
  const T* W;                  // [n_features][lanes]
  const T* intercept;          // [lanes]

  // Results: sums of this chunk alone, written, not added to. grad null: no gradient is wanted. loss null: no loss.
  T* grad;             // [n_features][lanes]
  T* grad_intercept;   // [lanes]
  T* count;            // [lanes] rows used, an exact integer; null when not wanted
  double* loss;        // [lanes] sum of weight * loss
  double* weight_sum;  // [lanes] sum of weight over the rows used; null when not wanted
  T* scratch;          // kScratchRows * lanes
  // A panel of n_narrow models (1 to kNarrowModels, the first lanes) may be run with lanes = rows; 0: lanes are models.
  int n_narrow;
  T* narrow_scratch;  // 2 * n_narrow * n_features
  const int* stop;     // polled at every row block; the task is abandoned when it is non-zero. May be null.
  const T* loss_epsilon = nullptr;  // [lanes] for the losses that have one; null means kLossEpsilon
  // n_rows rows that will be wanted later: brought into the L2 cache in passing, instead of the task's own, which lie close. May be null.
  const T* const* later = nullptr;
  const T* next = nullptr;  // where the rows of this thread's next chunk probably begin, in an array that is passed over once. May be null.
#ifdef GRADFOLD_FREE
  bool goes_on = false;  // grad is added to
#endif
};

constexpr std::int64_t kScratchRows = 128;
constexpr int kNarrowModels = 4;  // measured with 4: half the time of a panel of models; wider ones were not built

// The n_narrow of a panel that holds n_models and is to run chunks of up to n_rows rows.
inline int narrow_models(std::int64_t n_models, int n_vectors, std::int64_t n_rows) {
  return n_vectors <= 1 && n_models <= kNarrowModels && n_rows >= 16 ? static_cast<int>(n_models) : 0;
}

// ---- several outputs ----

constexpr int kMaxOutputs = 1000;     // of a model
constexpr int kMaxOutputModels = 64;  // of a panel of several outputs: a bit of a mask each

// Columns of a panel of several outputs that lie side by side, in one to three whole vectors. All but the last are full.
template <class T>
struct OutputBlock {
  int n_vectors;
  const T* W;          // [n_features][lanes]
  const T* intercept;  // [lanes]
  T* grad;             // [n_features][lanes]; null, for all blocks or none, when no gradient is wanted
  T* grad_intercept;   // [lanes]
};

// A panel of models with n_outputs raw predictions each, over one chunk as in ChunkTask; column = model * n_outputs + output. The loss
// is multinomial: y holds class codes 0 to n_outputs - 1. Any other y makes its row's loss and gradient NaN.
template <class T>
struct OutputsTask {
  std::int64_t n_rows;
  const T* const* x;
  const T* y;
  const T* weight;
  const std::uint64_t* roles;  // per row: bit m set when model m of the panel uses the row
  std::int64_t n_features, n_models, n_outputs;
  int n_blocks;
  const OutputBlock<T>* blocks;
  // Per model; each may be null when not wanted.
  T* count;
  double* loss;
  double* weight_sum;
  T* scratch;  // output_scratch(n_features, lanes of all blocks)
  const int* stop;
};

// Rows of a row block of several outputs: its z tiles and its rows of X stay in the second-level cache.
template <class T>
constexpr std::int64_t output_rows(std::int64_t n_features, std::int64_t n_lanes) {
  constexpr std::int64_t kBytes = 256 * 1024;
  const std::int64_t widest = n_features > n_lanes ? n_features : n_lanes;
  const std::int64_t rows = kBytes / (static_cast<std::int64_t>(sizeof(T)) * widest) / 16 * 16;
  return rows < 16 ? 16 : (rows > kScratchRows ? kScratchRows : rows);
}
template <class T>
constexpr std::int64_t output_scratch(std::int64_t n_features, std::int64_t n_lanes) {
  return n_lanes * (output_rows<T>(n_features, n_lanes) + 16);  // the tiles, and 16 rows of them transposed
}

template <class T>
struct GradientKernels {
  int lanes;  // of one vector
  bool has_half;
  // Returns false when it was abandoned.
  bool (*chunk)(Loss, const ChunkTask<T>&);
  // Raw predictions [n_rows][lanes] of a panel: reads n_rows, x, n_features, n_vectors, W, intercept.
  void (*forward)(const ChunkTask<T>&, T* z);
  // The other two thirds of `chunk`, for several threads on one panel. residual: z becomes residuals, writes grad_intercept, count and,
  // where they are wanted, loss and weight_sum; returns whether the gradient must select. gradient: writes the chunk's sums of features [f0, f1).
  bool (*residual)(Loss, const ChunkTask<T>&, T* z);
  void (*gradient)(const ChunkTask<T>&, const T* residual, bool select, std::int64_t f0, std::int64_t f1);
  // A chunk of a panel of several outputs. Returns false when it was abandoned.
  bool (*outputs)(const OutputsTask<T>&);
};

template <class T>
const GradientKernels<T>& gradient_kernels(Level level);

// Row-major data: row i begins at x + i * stride.
template <class T>
struct DenseRows {
  const T* x;
  std::int64_t n_rows;
  std::int64_t n_features;
  const T* row(std::int64_t i) const { return x + i * n_features; }
};

template <class T>
struct LossGradientArgs {
  DenseRows<T> X;
  const T* y;
  const T* weight;               // null: 1
  const std::int64_t* rows;      // null: all rows in natural order
  std::int64_t n_positions;
  const FoldsView* folds;        // null: every model uses every row
  const std::int64_t* split_of_model;
  std::int64_t n_models;
  std::int64_t n_outputs;        // 1, or the number of classes for multinomial
  const T* W;                    // [n_features][n_outputs][n_models]
  const T* intercept;            // [n_outputs][n_models]; null: 0
  Loss loss;
  const double* loss_epsilon;    // [n_models]; null: kLossEpsilon
  bool mean;
  double* loss_out;              // [n_models]; null: not wanted
  T* grad_W;                     // the shape of W; null with grad_intercept null: only the loss
  T* grad_intercept;             // null: not wanted
  int n_threads;
  Use use = Use::train;          // which rows: those that a model's split trains on, or those that it scores
  // With mean = false, the float64 totals before they are rounded, in the shapes of grad_W and grad_intercept. Null: not wanted.
  double* total_W = nullptr;
  double* total_intercept = nullptr;
  const std::function<void()>* poll = nullptr;  // called now and then by the calling thread
  const int* stop = nullptr;     // when it becomes non-zero the call ends soon, and no result is defined
};

template <class T>
void loss_gradient(const LossGradientArgs<T>& args);

// Several outputs are that many models here.
// out[i][m] = intercept[m] + sum over features, in the promised order; W is [n_features][n_models].
template <class T>
void raw_prediction(const DenseRows<T>& X, const T* W, const T* intercept, std::int64_t n_models, T* out, int n_threads);

// The same of some rows, in float64 whatever X's type.
template <class T>
void raw_prediction_of_rows(const DenseRows<T>& X, const std::int64_t* rows, std::int64_t n_rows, const double* W, const double* intercept,
                            std::int64_t n_models, double* out, int n_threads);

// Flat index of the first value that is NaN or infinite, or -1.
template <class T>
std::int64_t first_non_finite(const T* a, std::int64_t n, int n_threads);

}  // namespace gradfold
