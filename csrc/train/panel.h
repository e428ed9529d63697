// Panels of models in training: what each lane carries from step to step, and the buffers that a walk over batches needs.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "gradient/gradient.h"
#include "gradient/panels.h"
#include "train/layout.h"
#include "train/train.h"
#include "update/update.h"

namespace gradfold {

// Moments of each lane's split; panels of the same splits share one.
struct StandardizeTables {
  AlignedArray<double> mean, scale, ratio;  // [n_features][lanes]
};

// Columns side by side in one to three vectors. A column is an output of a model: model * n_outputs + output.
template <class T>
struct TrainBlock {
  std::vector<std::int64_t> columns;  // of lane 0, 1, ...
  int n_vectors = 0;
  int lanes = 0;

  AlignedArray<T> W, first, second, intercept, intercept_first, intercept_second, seen_W, seen_intercept;
  AlignedArray<T> average_W, average_intercept;            // where some model averages
  AlignedArray<T> average_seen_W, average_seen_intercept;  // those on the scale of X, when standardizing; made by show_averages
  AlignedArray<double> learning_rate, rate_scale, l1, l2, hyper, mean_weight, updates, beta1_power, beta2_power;  // hyper: [kHypers][lanes]
  AlignedArray<std::int64_t> schedule;
  std::shared_ptr<StandardizeTables> standardize;

  const T* kernel_W() const { return standardize ? seen_W.get() : W.get(); }
  const T* kernel_intercept() const { return standardize ? seen_intercept.get() : intercept.get(); }
  // What coef() and held-out scores see: the averages, while training goes on with the weights; on the scale of X.
  const T* result_W() const { return (average_seen_W ? average_seen_W : average_W ? average_W : seen_W ? seen_W : W).get(); }
  const T* result_intercept() const {
    return (average_seen_W ? average_seen_intercept : average_W ? average_intercept : seen_W ? seen_intercept : intercept).get();
  }

  // The arrays that change as a model trains, each of `height` values a lane. This is the one list of them: moving a model to another
  // panel, snapshots and saved state follow it. Settings are not among them: they are set anew wherever a lane is.
  template <class F>
  void each_state(std::int64_t n_features, F&& f) const {
    f("W", W, n_features);
    f("intercept", intercept, 1);
    f("seen_W", seen_W, n_features);
    f("seen_intercept", seen_intercept, 1);
    f("average_W", average_W, n_features);
    f("average_intercept", average_intercept, 1);
    f("average_seen_W", average_seen_W, n_features);
    f("average_seen_intercept", average_seen_intercept, 1);
    f("first", first, n_features);
    f("second", second, n_features);
    f("intercept_first", intercept_first, 1);
    f("intercept_second", intercept_second, 1);
    f("updates", updates, 1);
    f("rate_scale", rate_scale, 1);
    f("beta1_power", beta1_power, 1);
    f("beta2_power", beta2_power, 1);
  }

  // The arrays alone, as of models that have not begun.
  void allocate(std::int64_t n_features, int n_lanes, Solver solver, bool standardizes, bool averages) {
    lanes = n_lanes;
    auto make = [&](AlignedArray<T>& of_features, AlignedArray<T>& of_intercept) {
      of_features = AlignedArray<T>(n_features * lanes);
      of_intercept = AlignedArray<T>(lanes);
    };
    make(W, intercept);
    if (has_first(solver)) make(first, intercept_first);
    if (has_second(solver)) make(second, intercept_second);
    if (standardizes) make(seen_W, seen_intercept);
    if (averages) make(average_W, average_intercept);
    if (averages && standardizes) make(average_seen_W, average_seen_intercept);
    for (AlignedArray<double>* array :
         {&learning_rate, &rate_scale, &l1, &l2, &mean_weight, &updates, &beta1_power, &beta2_power})
      *array = AlignedArray<double>(lanes);
    hyper = AlignedArray<double>(kHypers * lanes);
    schedule = AlignedArray<std::int64_t>(lanes);
    for (int l = 0; l < lanes; ++l) beta1_power[l] = beta2_power[l] = mean_weight[l] = rate_scale[l] = 1.0;
  }
};

// Models that walk batches together, up to 64. Those of one output lie in one block, whose lanes they are; the columns of those of several
// follow each other through the blocks, all but the last of which are full. Arrays of "lanes of all blocks" have the blocks in a row.
template <class T>
struct TrainPanel {
  std::vector<std::int64_t> models;  // of bit 0, 1, ... of the masks
  int lanes = 0;                     // of all blocks
  double cost = 0;
  LaneRoles roles;
  std::uint64_t alive = 0;  // models that still train
  std::vector<TrainBlock<T>> blocks;
  std::vector<OutputBlock<T>> views;              // what the kernels see of the blocks
  AlignedArray<T> loss_epsilon;                   // [lanes]; absent where no model has its own
  AlignedArray<double> train_loss, train_weight;  // per model, sums since the last reset; absent when not tracked
  // Of several outputs, for a step: per lane of all blocks.
  AlignedArray<double> clip_norm, count, squares, intercept_squares;
};

template <class T>
bool any_average(const TrainArgs<T>& args) {
  const std::vector<double>& values = args.hyper[static_cast<int>(Hyper::average)];
  return std::any_of(values.begin(), values.end(), [](double v) { return v > 0; });
}

// One column's lane, taken out of its block: the values of each_state, one array after the other.
using LaneRecord = std::vector<unsigned char>;

template <class T>
LaneRecord pack_lane(const TrainBlock<T>& block, int lane, std::int64_t n_features) {
  std::size_t bytes = 0;
  block.each_state(n_features, [&](const char*, const auto& array, std::int64_t height) {
    if (array) bytes += sizeof(array[0]) * height;
  });
  LaneRecord record(bytes);
  unsigned char* to = record.data();
  block.each_state(n_features, [&](const char*, const auto& array, std::int64_t height) {
    if (!array) return;
    for (std::int64_t i = 0; i < height; ++i, to += sizeof(array[0])) std::memcpy(to, &array[i * block.lanes + lane], sizeof(array[0]));
  });
  return record;
}

template <class T>
void unpack_lane(const LaneRecord& record, TrainBlock<T>& block, int lane, std::int64_t n_features) {
  const unsigned char* from = record.data();
  block.each_state(n_features, [&](const char*, const auto& array, std::int64_t height) {
    if (!array) return;
    for (std::int64_t i = 0; i < height; ++i, from += sizeof(array[0]))
      std::memcpy(&array[i * block.lanes + lane], from, sizeof(array[0]));
  });
}

template <class T>
void copy_lane(const TrainBlock<T>& from, int lane, TrainBlock<T>& to, int to_lane, std::int64_t n_features) {
  unpack_lane(pack_lane(from, lane, n_features), to, to_lane, n_features);
}

// A panel that scores: it holds no weights of its own, they are packed from the training panels.
template <class T>
struct ScorePanel {
  std::vector<std::int64_t> models;
  std::vector<int> widths;  // of its blocks, in vectors
  int lanes;                // of all blocks
  LaneRoles roles;
  AlignedArray<T> loss_epsilon;  // as in TrainPanel
};

// Rows as a walk reads them: the training data, or the validation data.
template <class T>
struct RowSource {
  DenseRows<T> X;
  const T* y;
  const T* weight;  // null: 1
};

// A batch's or chunk's rows, in batch order.
template <class T>
struct RowBuffer {
  std::vector<std::int64_t> ids;
  std::vector<const T*> x;
  std::vector<T> y, weight;
  AlignedArray<T> staged;
  const T* weight_of = nullptr;  // of all rows, by id; null: 1

  explicit RowBuffer(std::int64_t capacity, std::int64_t staged_values)
      : ids(capacity), x(capacity), y(capacity), weight(capacity), staged(staged_values) {}
  void swap_rows(RowBuffer& other) {  // all but the memory for staging
    ids.swap(other.ids);
    x.swap(other.x);
    y.swap(other.y);
    weight.swap(other.weight);
    std::swap(weight_of, other.weight_of);
  }
};

// What the largest of some panels needs of a buffer.
template <class T>
struct WidestOf {
  int lanes = 0, blocks = 0;
  std::int64_t scratch = 0;
  void add(std::int64_t n_features, std::int64_t n_outputs, int panel_lanes, std::size_t panel_blocks) {
    lanes = std::max(lanes, panel_lanes);
    blocks = std::max(blocks, static_cast<int>(panel_blocks));
    scratch = std::max(scratch, n_outputs > 1 ? output_scratch<T>(n_features, panel_lanes) : kScratchRows * panel_lanes);
  }
};

// What a thread needs to run one chunk of one panel.
template <class T>
struct ChunkBuffer {
  std::vector<std::uint64_t> masks;
  std::vector<const T*> x;  // rows that some lane uses, when not all are
  std::vector<T> y, weight;
  AlignedArray<T> grad, grad_intercept, count, scratch, narrow;  // the gradients of lanes of all blocks; the rest per model
  AlignedArray<T> replaced;                                      // by a step
  AlignedArray<double> loss, weight_sum;
  AlignedArray<double> batch_count;    // `count` as a step takes it
  std::vector<OutputBlock<T>> blocks;  // of the task that runs
  ChunkBuffer(std::int64_t n_features, const WidestOf<T>& widest, bool gradient)
      : masks(kRowChunk), x(kRowChunk), y(kRowChunk), weight(kRowChunk), grad(gradient ? n_features * widest.lanes : 0),
        grad_intercept(widest.lanes), count(widest.lanes), scratch(widest.scratch), narrow(2 * kNarrowModels * n_features),
        replaced(gradient ? step_memory(n_features, kMostLanes<T>) : 0), loss(widest.lanes),
        weight_sum(widest.lanes), batch_count(gradient ? widest.lanes : 0), blocks(widest.blocks) {}
};

// Sums of a batch of several chunks.
struct BatchTotals {
  AlignedArray<double> grad, grad_intercept, count, loss, weight_sum;
  BatchTotals(std::int64_t n_features, int lanes)
      : grad(n_features * lanes), grad_intercept(lanes), count(lanes), loss(lanes), weight_sum(lanes) {}
  void clear(std::int64_t n_features, int lanes) {
    std::fill_n(grad.get(), n_features * lanes, 0.0);
    for (AlignedArray<double>* array : {&grad_intercept, &count, &loss, &weight_sum}) std::fill_n(array->get(), lanes, 0.0);
  }
};

// What the kernels see of a panel, of training or of scoring.
template <class T>
struct PanelView {
  const LaneRoles* roles;
  std::uint64_t models_wanted;
  std::int64_t n_models;
  int n_blocks;
  const OutputBlock<T>* blocks;
  const T* loss_epsilon;  // null: the losses' own
};

}  // namespace gradfold
