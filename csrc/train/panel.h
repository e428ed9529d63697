// A panel of models in training: what each lane carries from step to step, and the buffers that a walk over batches needs.
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

template <class T>
struct TrainPanel {
  std::vector<std::int64_t> models;  // of lane 0, 1, ...
  int n_vectors = 0;
  int lanes = 0;
  double cost = 0;
  LaneRoles roles;
  std::uint64_t alive = 0;  // lanes whose model still trains

  AlignedArray<T> W, first, second, intercept, intercept_first, intercept_second, seen_W, seen_intercept;
  AlignedArray<T> average_W, average_intercept;            // where some model averages
  AlignedArray<T> average_seen_W, average_seen_intercept;  // those on the scale of X, when standardizing; made by show_averages
  AlignedArray<double> learning_rate, rate_scale, l1, l2, hyper, mean_weight, updates, beta1_power, beta2_power;  // hyper: [kHypers][lanes]
  AlignedArray<std::int64_t> schedule;
  std::shared_ptr<StandardizeTables> standardize;
  AlignedArray<double> train_loss, train_weight;  // sums since the last reset; absent when not tracked

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

template <class T>
bool any_average(const TrainArgs<T>& args) {
  const std::vector<double>& values = args.hyper[static_cast<int>(Hyper::average)];
  return std::any_of(values.begin(), values.end(), [](double v) { return v > 0; });
}

// One model's lane, taken out of its panel: the values of each_state, one array after the other.
using LaneRecord = std::vector<unsigned char>;

template <class T>
LaneRecord pack_lane(const TrainPanel<T>& panel, int lane, std::int64_t n_features) {
  std::size_t bytes = 0;
  panel.each_state(n_features, [&](const char*, const auto& array, std::int64_t height) {
    if (array) bytes += sizeof(array[0]) * height;
  });
  LaneRecord record(bytes);
  unsigned char* to = record.data();
  panel.each_state(n_features, [&](const char*, const auto& array, std::int64_t height) {
    if (!array) return;
    for (std::int64_t i = 0; i < height; ++i, to += sizeof(array[0])) std::memcpy(to, &array[i * panel.lanes + lane], sizeof(array[0]));
  });
  return record;
}

template <class T>
void unpack_lane(const LaneRecord& record, TrainPanel<T>& panel, int lane, std::int64_t n_features) {
  const unsigned char* from = record.data();
  panel.each_state(n_features, [&](const char*, const auto& array, std::int64_t height) {
    if (!array) return;
    for (std::int64_t i = 0; i < height; ++i, from += sizeof(array[0]))
      std::memcpy(&array[i * panel.lanes + lane], from, sizeof(array[0]));
  });
}

template <class T>
void copy_lane(const TrainPanel<T>& from, int lane, TrainPanel<T>& to, int to_lane, std::int64_t n_features) {
  unpack_lane(pack_lane(from, lane, n_features), to, to_lane, n_features);
}

// A panel that scores: it holds no weights of its own, they are packed from the training panels.
struct ScorePanel {
  std::vector<std::int64_t> models;
  int n_vectors, lanes;
  LaneRoles roles;
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
};

// What a thread needs to run one chunk of one panel.
template <class T>
struct ChunkBuffer {
  std::vector<std::uint64_t> masks;
  std::vector<const T*> x;  // rows that some lane uses, when not all are
  std::vector<T> y, weight;
  AlignedArray<T> grad, grad_intercept, count, scratch, narrow;
  AlignedArray<double> loss, weight_sum;
  ChunkBuffer(std::int64_t n_features, int lanes, bool gradient)
      : masks(kRowChunk), x(kRowChunk), y(kRowChunk), weight(kRowChunk), grad(gradient ? n_features * lanes : 0), grad_intercept(lanes),
        count(lanes), scratch(kScratchRows * lanes), narrow(2 * kNarrowModels * n_features), loss(lanes), weight_sum(lanes) {}
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
  std::uint64_t lanes_wanted;
  std::int64_t n_models;
  int n_vectors;
  const T *W, *intercept;
};

}  // namespace gradfold
