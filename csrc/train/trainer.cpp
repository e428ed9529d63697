// The epoch loop. Models lie in panels; a panel walks the batches of an epoch in the order of the permutation.
//
// Three plans share the panels, the kernels and hence the bits:
//   by panel   each thread owns panels and walks all batches with them, without a barrier;
//   by tile    fewer panels than threads: each panel's batch is split over the threads, by rows and then by features, with barriers;
//   by chunk   for batches of more than one chunk: threads take (panel, chunk) items, sums are committed in chunk order, and
//              whoever commits a batch's last chunk makes the step.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>

#include "gradient/panels.h"
#include "index/permutation.h"
#include "simd/fpenv.h"
#include "threads/team.h"
#include "train/standardize.h"
#include "train/train.h"

namespace gradfold {
namespace {

// Shuffled rows are copied side by side before a thread's panels use them, so that they are gathered once and not once a panel.
// A window of batches holds about kWindowBytes of them; a single batch is copied while it takes no more than kStageBytes.
constexpr std::int64_t kWindowBytes = 512 * 1024;
constexpr std::int64_t kStageBytes = 4 * 1024 * 1024;
// Multiply-adds below which another thread costs more than it saves.
constexpr double kThreadWork = 1 << 21;
// The same for a thread's part of one batch of one panel, between barriers.
constexpr double kTileWork = 1 << 19;

template <class T>
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
  std::uint64_t alive = 0;
  std::int64_t split_count = 0;

  AlignedArray<T> W, first, second, intercept, intercept_first, intercept_second, seen_W, seen_intercept;
  AlignedArray<T> average_W, average_intercept;            // where some model averages
  AlignedArray<T> average_seen_W, average_seen_intercept;  // those on the scale of X, when standardizing; made by show_average
  AlignedArray<double> learning_rate, rate_scale, l1, l2, hyper, mean_weight, updates, beta1_power, beta2_power;  // hyper: [kHypers][lanes]
  AlignedArray<std::int64_t> schedule;
  std::shared_ptr<StandardizeTables<T>> standardize;

  const T* kernel_W() const { return standardize ? seen_W.get() : W.get(); }
  const T* kernel_intercept() const { return standardize ? seen_intercept.get() : intercept.get(); }
  // What coef() and held-out scores see: the averages, while training goes on with the weights.
  const T* result_W() const { return !average_W ? kernel_W() : standardize ? average_seen_W.get() : average_W.get(); }
  const T* result_intercept() const {
    return !average_W ? kernel_intercept() : standardize ? average_seen_intercept.get() : average_intercept.get();
  }
};

// A batch's or chunk's rows, in batch order.
template <class T>
struct RowBuffer {
  std::vector<std::int64_t> ids;
  std::vector<const T*> x;
  std::vector<T> y, weight;
  AlignedArray<T> staged;

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
  AlignedArray<double> grad, grad_intercept, count;
  BatchTotals(std::int64_t n_features, int lanes) : grad(n_features * lanes), grad_intercept(lanes), count(lanes) {}
  void clear(std::int64_t n_features, int lanes) {
    std::fill_n(grad.get(), n_features * lanes, 0.0);
    std::fill_n(grad_intercept.get(), lanes, 0.0);
    std::fill_n(count.get(), lanes, 0.0);
  }
};

template <class T>
class TrainerOf final : public Trainer {
 public:
  explicit TrainerOf(TrainArgs<T> args)
      : a_(std::move(args)),
        n_models_(static_cast<std::int64_t>(a_.split_of_model.size())),
        p_(a_.X.n_features),
        n_(a_.X.n_rows),
        batches_((n_ + a_.batch_size - 1) / a_.batch_size),
        natural_order_(!a_.shuffle || a_.batch_size >= n_),
        level_(current_level()) {
    settings_.solver = a_.solver;
    settings_.fit_intercept = a_.fit_intercept;
    settings_.any_l1 = std::any_of(a_.l1.begin(), a_.l1.end(), [](double v) { return v > 0; });
    settings_.horizon = static_cast<double>(a_.epochs) * static_cast<double>(batches_);
    settings_.steps_per_epoch = static_cast<double>(batches_);
    auto any = [this](Hyper h, auto&& condition) {
      const auto& values = a_.hyper[static_cast<int>(h)];
      return std::any_of(values.begin(), values.end(), condition);
    };
    auto finite = [](double v) { return std::isfinite(v); };
    auto positive = [](double v) { return v > 0; };
    settings_.any_clip_norm = any(Hyper::clip_norm, finite);
    settings_.any_clip = settings_.any_clip_norm || any(Hyper::clip_value, finite);
    settings_.any_warmup = any(Hyper::warmup, positive);
    averages_ = any(Hyper::average, positive);
    diverged_epoch_.assign(n_models_, -1);
    diverged_batch_.assign(n_models_, -1);
    used_splits_ = a_.split_of_model;
    std::sort(used_splits_.begin(), used_splits_.end());
    used_splits_.erase(std::unique(used_splits_.begin(), used_splits_.end()), used_splits_.end());
  }

  Status advance(std::int64_t max_steps, double seconds, const std::function<void()>& poll) override {
    if (failed_) throw std::runtime_error("this trainer failed before, so its weights are of no one step; make a new one");
    try {
      return advance_unguarded(max_steps, seconds, poll);
    } catch (...) {
      failed_ = true;
      throw;
    }
  }

  void coef(void* out) const override {
    T* to = static_cast<T*>(out);
    show_averages();
    each_lane([&](const TrainPanel<T>& panel, int l, std::int64_t m) {
      for (std::int64_t f = 0; f < p_; ++f) to[m * p_ + f] = panel.result_W()[f * panel.lanes + l];
    });
    if (!prepared_)  // cancelled before it began
      for (std::int64_t i = 0; i < n_models_ * p_; ++i) to[i] = a_.coef_init != nullptr ? static_cast<T>(a_.coef_init[i]) : T(0);
  }
  void intercept(void* out) const override {
    T* to = static_cast<T*>(out);
    show_averages();
    each_lane([&](const TrainPanel<T>& panel, int l, std::int64_t m) { to[m] = panel.result_intercept()[l]; });
    if (!prepared_)
      for (std::int64_t m = 0; m < n_models_; ++m) to[m] = a_.intercept_init != nullptr && a_.fit_intercept ? static_cast<T>(a_.intercept_init[m]) : T(0);
  }
  void steps(std::int64_t* out) const override {
    std::fill_n(out, n_models_, 0);
    each_lane([&](const TrainPanel<T>& panel, int l, std::int64_t m) { out[m] = static_cast<std::int64_t>(panel.updates[l]); });
  }

 private:
  template <class F>
  void each_lane(F&& f) const {
    if (!prepared_) return;
    for (const TrainPanel<T>& panel : panels_)
      for (std::size_t l = 0; l < panel.models.size(); ++l) f(panel, static_cast<int>(l), panel.models[l]);
  }

  Status advance_unguarded(std::int64_t max_steps, double seconds, const std::function<void()>& poll) {
    FloatingPointGuard guard;  // the workers have their own; set-up and scores round here
    using clock = std::chrono::steady_clock;
    const auto start = clock::now();
    auto elapsed = [&] { return std::chrono::duration<double>(clock::now() - start).count(); };
    if (!prepared_ && !prepare(poll)) return Status::interrupted;
    const std::int64_t end = a_.epochs * batches_;
    std::int64_t last = end;
    if (max_steps >= 0 && max_steps < end - position_) last = position_ + max_steps;
    std::int64_t slice = seconds < 0 ? batches_ : 1;  // batches between two looks at the clock
    double polled = elapsed();
    for (;;) {
      if (poll && elapsed() - polled > 0.05) {  // a slice may be shorter than the team's own interval
        poll();
        polled = elapsed();
      }
      if (cancelled()) return Status::interrupted;
      // Scoring belongs to the step that ends an epoch, so that a paused trainer has the history of its whole epochs.
      if (position_ > 0 && position_ % batches_ == 0 && static_cast<std::int64_t>(history_.size()) < position_ / batches_) {
        if (!score(poll)) return Status::interrupted;
      }
      if (position_ >= end) return Status::done;
      if (position_ >= last || (seconds >= 0 && elapsed() >= seconds)) return Status::paused;
      const std::int64_t epoch = position_ / batches_;
      const std::int64_t target = std::min({(epoch + 1) * batches_, last, position_ + slice});
      const double before = elapsed();
      walk(epoch, position_ % batches_, target - epoch * batches_, poll);
      if (cancelled()) return Status::interrupted;
      position_ = target;
      if (seconds >= 0 && elapsed() - before < 0.02) slice = std::min<std::int64_t>(slice * 2, batches_);
    }
  }

  // ---- set-up ---------------------------------------------------------------------------------------------------------------

  bool prepare(const std::function<void()>& poll) {
    panels_.clear();  // what an earlier attempt left that ran out of memory
    score_panels_.clear();
    weights_ = split_weights(a_.folds, used_splits_, a_.weight, a_.n_threads, poll, &stop_);
    if (cancelled()) return false;
    for (std::int64_t s : used_splits_)
      if (weights_.count[s] == 0)
        throw std::invalid_argument("folds: split " + std::to_string(s) +
                                    " has no training row with a positive sample_weight, wanted at least one");
    SplitMoments moments;
    if (a_.standardize) {
      moments = split_moments(a_.X, a_.folds, used_splits_, weights_, a_.weight, a_.n_threads, poll, &stop_);
      if (cancelled()) return false;
    }
    lay_out();
    std::map<std::vector<std::int64_t>, std::shared_ptr<StandardizeTables<T>>> tables;
    for (TrainPanel<T>& panel : panels_) allocate(panel, moments, tables);
    lay_out_scores();
    prepared_ = true;
    return true;
  }

  // Which models share a panel is free: no bit depends on it. Panels of one split skip the rows that split does not train on, but
  // may leave lanes empty; mixed panels are full, but mask. The cheaper way is taken.
  void lay_out() {
    const int lanes = gradient_kernels<T>(level_).lanes;
    const bool has_half = gradient_kernels<T>(level_).has_half;
    std::vector<std::vector<std::int64_t>> of_split(a_.folds.n_splits);
    for (std::int64_t m = 0; m < n_models_; ++m) of_split[a_.split_of_model[m]].push_back(m);
    auto vectors = [lanes](std::size_t n) { return static_cast<std::int64_t>((n + lanes - 1) / lanes); };
    const std::int64_t unit = has_half ? lanes / 2 : lanes;  // lanes come in units of this
    auto units = [unit](std::size_t n) { return static_cast<double>((static_cast<std::int64_t>(n) + unit - 1) / unit); };
    auto fraction = [&](std::int64_t s) { return static_cast<double>(weights_.count[s]) / static_cast<double>(n_); };
    double by_split = 0;
    std::int64_t split_vectors = 0;
    for (std::int64_t s : used_splits_) {
      by_split += units(of_split[s].size()) * fraction(s);
      split_vectors += vectors(of_split[s].size());
    }
    const std::int64_t mixed_vectors = vectors(n_models_);
    const bool split_panels = used_splits_.size() == 1 || by_split < 0.95 * units(n_models_);
    auto widest = [this](std::int64_t n_vectors) {
      return static_cast<int>(std::min<std::int64_t>(kMaxPanelVectors, std::max<std::int64_t>(1, (n_vectors + a_.n_threads - 1) / a_.n_threads)));
    };
    auto cut = [&](const std::vector<std::int64_t>& models, int most, double share) {
      std::size_t at = 0;
      for (int width : panel_widths(static_cast<std::int64_t>(models.size()), lanes, has_half, most)) {
        TrainPanel<T> panel;
        panel.n_vectors = width;
        panel.lanes = panel_lanes(width, lanes);
        panel.cost = panel.lanes * share;
        const std::size_t n = std::min<std::size_t>(panel.lanes, models.size() - at);
        panel.models.assign(models.begin() + at, models.begin() + at + n);
        at += n;
        panels_.push_back(std::move(panel));
      }
    };
    if (split_panels) {
      for (std::int64_t s : used_splits_) cut(of_split[s], widest(split_vectors), fraction(s));
    } else {
      std::vector<std::int64_t> all(n_models_);
      for (std::int64_t m = 0; m < n_models_; ++m) all[m] = m;
      cut(all, widest(mixed_vectors), 1.0);
    }
  }

  void allocate(TrainPanel<T>& panel, const SplitMoments& moments,
                std::map<std::vector<std::int64_t>, std::shared_ptr<StandardizeTables<T>>>& tables) {
    const int lanes = panel.lanes;
    std::vector<std::int64_t> split_of_lane(lanes, -1);
    for (std::size_t l = 0; l < panel.models.size(); ++l) split_of_lane[l] = a_.split_of_model[panel.models[l]];
    panel.roles = LaneRoles(&a_.folds, split_of_lane, Use::train);
    panel.alive = panel.roles.lanes();
    panel.W = AlignedArray<T>(p_ * lanes);
    panel.intercept = AlignedArray<T>(lanes);
    if (has_first(a_.solver)) {
      panel.first = AlignedArray<T>(p_ * lanes);
      panel.intercept_first = AlignedArray<T>(lanes);
    }
    if (has_second(a_.solver)) {
      panel.second = AlignedArray<T>(p_ * lanes);
      panel.intercept_second = AlignedArray<T>(lanes);
    }
    for (AlignedArray<double>* array : {&panel.learning_rate, &panel.rate_scale, &panel.l1, &panel.l2, &panel.mean_weight, &panel.updates,
                                        &panel.beta1_power, &panel.beta2_power})
      *array = AlignedArray<double>(lanes);
    panel.schedule = AlignedArray<std::int64_t>(lanes);
    for (int l = 0; l < lanes; ++l) panel.rate_scale[l] = panel.beta1_power[l] = panel.beta2_power[l] = panel.mean_weight[l] = 1.0;
    panel.hyper = AlignedArray<double>(kHypers * lanes);
    for (int h = 0; h < kHypers; ++h) {
      std::fill_n(panel.hyper.get() + h * lanes, lanes, hyper_default(a_.solver, static_cast<Hyper>(h)));
      if (!a_.hyper[h].empty())
        for (std::size_t l = 0; l < panel.models.size(); ++l) panel.hyper[h * lanes + l] = a_.hyper[h][panel.models[l]];
    }
    for (std::size_t l = 0; l < panel.models.size(); ++l) {
      const std::int64_t m = panel.models[l], s = split_of_lane[l];
      panel.learning_rate[l] = a_.learning_rate[m];
      panel.l1[l] = a_.l1[m];
      panel.l2[l] = a_.l2[m];
      panel.schedule[l] = a_.schedule[m];
      panel.mean_weight[l] = weights_.sum[s] / static_cast<double>(weights_.count[s]);
    }
    if (a_.standardize) {
      auto& table = tables[split_of_lane];
      if (!table) {
        table = std::make_shared<StandardizeTables<T>>();
        table->mean = AlignedArray<double>(p_ * lanes);
        table->scale = AlignedArray<double>(p_ * lanes);
        table->ratio = AlignedArray<double>(p_ * lanes);
        for (std::int64_t f = 0; f < p_; ++f)
          for (int l = 0; l < lanes; ++l) {
            const std::int64_t s = split_of_lane[l];
            table->mean[f * lanes + l] = s < 0 ? 0.0 : moments.mean[s * p_ + f];
            table->scale[f * lanes + l] = s < 0 ? 1.0 : moments.scale[s * p_ + f];
            table->ratio[f * lanes + l] = table->mean[f * lanes + l] / std::fabs(table->scale[f * lanes + l]);
          }
      }
      panel.standardize = table;
      panel.seen_W = AlignedArray<T>(p_ * lanes);
      panel.seen_intercept = AlignedArray<T>(lanes);
    }
    for (std::size_t l = 0; l < panel.models.size(); ++l) {
      const std::int64_t m = panel.models[l];
      double moved = 0;  // what standardizing takes out of the intercept: sum of mean * coef
      if (a_.coef_init != nullptr) {
        for (std::int64_t f0 = 0; f0 < p_; f0 += kFeatureChunk) {
          double chunk = 0;
          for (std::int64_t f = f0; f < std::min(p_, f0 + kFeatureChunk); ++f) {
            const std::int64_t at = f * lanes + static_cast<std::int64_t>(l);
            const double w = a_.coef_init[m * p_ + f];
            panel.W[at] = static_cast<T>(panel.standardize ? w * std::fabs(panel.standardize->scale[at]) : w);
            if (panel.standardize) chunk = __builtin_fma(panel.standardize->mean[at], w, chunk);
          }
          moved += chunk;
        }
      }
      // Without an intercept of its own a standardized model still has the one that centring implies.
      const double b = a_.intercept_init != nullptr ? a_.intercept_init[m] : 0.0;
      if (a_.fit_intercept) panel.intercept[l] = static_cast<T>(b + moved);
    }
    if (panel.standardize) update_kernels<T>(level_).see(state(panel));
    if (averages_) {
      panel.average_W = AlignedArray<T>(p_ * lanes);
      panel.average_intercept = AlignedArray<T>(lanes);
      std::copy_n(panel.W.get(), p_ * lanes, panel.average_W.get());
      std::copy_n(panel.intercept.get(), lanes, panel.average_intercept.get());
      if (panel.standardize) {
        panel.average_seen_W = AlignedArray<T>(p_ * lanes);
        panel.average_seen_intercept = AlignedArray<T>(lanes);
      }
    }
  }

  // Before result_W and result_intercept are read.
  void show_averages() const {
    if (!averages_ || !a_.standardize) return;
    FloatingPointGuard guard;
    for (const TrainPanel<T>& panel : panels_) {
      PanelState<T> averages = state(panel);
      averages.W = panel.average_W.get();
      averages.intercept = panel.average_intercept.get();
      averages.seen_W = panel.average_seen_W.get();
      averages.seen_intercept = panel.average_seen_intercept.get();
      update_kernels<T>(level_).see(averages);
    }
  }

  PanelState<T> state(const TrainPanel<T>& panel) const {
    return {p_,
            panel.n_vectors,
            panel.lanes,
            panel.W.get(),
            panel.first.get(),
            panel.second.get(),
            panel.intercept.get(),
            panel.intercept_first.get(),
            panel.intercept_second.get(),
            panel.average_W.get(),
            panel.average_intercept.get(),
            panel.learning_rate.get(),
            panel.rate_scale.get(),
            panel.schedule.get(),
            panel.l1.get(),
            panel.l2.get(),
            panel.hyper.get(),
            panel.mean_weight.get(),
            panel.updates.get(),
            panel.beta1_power.get(),
            panel.beta2_power.get(),
            panel.standardize ? panel.standardize->mean.get() : nullptr,
            panel.standardize ? panel.standardize->scale.get() : nullptr,
            panel.standardize ? panel.standardize->ratio.get() : nullptr,
            panel.seen_W.get(),
            panel.seen_intercept.get()};
  }

  // ---- rows -----------------------------------------------------------------------------------------------------------------

  std::int64_t row_bytes() const { return p_ * static_cast<std::int64_t>(sizeof(T)); }
  std::int64_t staged_values(const Permutation* order, std::int64_t rows) const {
    return order == nullptr ? 0 : std::min(rows, kStageBytes / row_bytes()) * p_;
  }

  // Positions [begin, begin + n) of the epoch's order. Shuffled rows are copied side by side where the buffer has room.
  void load_rows(const Permutation* order, std::int64_t begin, std::int64_t n, RowBuffer<T>& rows) const {
    if (order != nullptr)
      permutation_fill(*order, begin, n, rows.ids.data());
    else
      for (std::int64_t i = 0; i < n; ++i) rows.ids[i] = begin + i;
    const bool stage = order != nullptr && n * p_ <= rows.staged.size();
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t id = rows.ids[i];
      rows.x[i] = a_.X.row(id);
      rows.y[i] = a_.y[id];
      if (a_.weight != nullptr) rows.weight[i] = a_.weight[id];
    }
    if (!stage) return;
    for (std::int64_t i = 0; i < n; ++i) {
      T* to = rows.staged.get() + i * p_;
      std::memcpy(to, rows.x[i], sizeof(T) * p_);
      rows.x[i] = to;
    }
  }

  // What the kernels see of a panel, of training or of scoring.
  struct PanelView {
    const LaneRoles* roles;
    std::uint64_t lanes_wanted;
    std::int64_t n_models;
    int n_vectors;
    const T *W, *intercept;
  };
  static PanelView view(const TrainPanel<T>& panel) {
    return {&panel.roles, panel.alive, static_cast<std::int64_t>(panel.models.size()), panel.n_vectors, panel.kernel_W(),
            panel.kernel_intercept()};
  }

  // Rows [at, at + n) of the buffer, one chunk at most, as a task for a panel; rows that no lane uses are left out, positions stay. Its
  // results go to `buffer`. n_rows is 0 when no row is used.
  ChunkTask<T> chunk_task(const RowBuffer<T>& rows, std::int64_t at, std::int64_t n, const PanelView& panel, bool gradient,
                          ChunkBuffer<T>& buffer) const {
    const std::uint64_t lanes_wanted = panel.lanes_wanted;
    panel.roles->fill(rows.ids.data() + at, n, a_.weight, buffer.masks.data());
    std::int64_t used = 0;
    for (std::int64_t i = 0; i < n; ++i) used += (buffer.masks[i] & lanes_wanted) != 0;
    const T* const* x = rows.x.data() + at;
    const T* y = rows.y.data() + at;
    const T* weight = a_.weight != nullptr ? rows.weight.data() + at : nullptr;
    if (used < n) {
      std::int64_t kept = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        buffer.masks[kept] = buffer.masks[i];
        buffer.x[kept] = x[i];
        buffer.y[kept] = y[i];
        if (weight != nullptr) buffer.weight[kept] = weight[i];
        kept += (buffer.masks[kept] & lanes_wanted) != 0;
      }
      x = buffer.x.data();
      y = buffer.y.data();
      if (weight != nullptr) weight = buffer.weight.data();
    }
    return {used,
            x,
            y,
            weight,
            buffer.masks.data(),
            p_,
            panel.n_vectors,
            panel.W,
            panel.intercept,
            gradient ? buffer.grad.get() : nullptr,
            buffer.grad_intercept.get(),
            buffer.count.get(),
            gradient ? nullptr : buffer.loss.get(),
            gradient ? nullptr : buffer.weight_sum.get(),
            buffer.scratch.get(),
            narrow_models(panel.n_models, panel.n_vectors, used),
            buffer.narrow.get(),
            &stop_};
  }

  // Runs such a task. Returns false when it was abandoned, and sets *any to whether a row was used.
  bool run_chunk(const RowBuffer<T>& rows, std::int64_t at, std::int64_t n, const PanelView& panel, bool gradient,
                 ChunkBuffer<T>& buffer, bool* any) const {
    const ChunkTask<T> task = chunk_task(rows, at, n, panel, gradient, buffer);
    *any = task.n_rows > 0;
    return !*any || gradient_kernels<T>(level_).chunk(a_.loss, task);
  }

  // ---- steps ----------------------------------------------------------------------------------------------------------------

  void step(TrainPanel<T>& panel, const BatchSums<T>& sums, std::int64_t epoch, std::int64_t batch) {
    const std::uint64_t lost = update_kernels<T>(level_).step(settings_, state(panel), sums, panel.alive);
    if (lost == 0) return;
    for (std::size_t l = 0; l < panel.models.size(); ++l)
      if (lost >> l & 1) {
        diverged_epoch_[panel.models[l]] = epoch;
        diverged_batch_[panel.models[l]] = batch;
      }
    panel.alive &= ~lost;
  }

  void add_chunk(const TrainPanel<T>& panel, const ChunkBuffer<T>& chunk, BatchTotals& totals) const {
    for (std::int64_t i = 0; i < p_ * panel.lanes; ++i) totals.grad[i] += static_cast<double>(chunk.grad[i]);
    for (int l = 0; l < panel.lanes; ++l) {
      totals.grad_intercept[l] += static_cast<double>(chunk.grad_intercept[l]);
      totals.count[l] += static_cast<double>(chunk.count[l]);
    }
  }

  // Batches [b0, b1) of an epoch, for all panels.
  void walk(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const std::function<void()>& poll) {
    Permutation order;
    if (!natural_order_) order = make_permutation(n_, a_.seed, static_cast<std::uint32_t>(epoch), kStreamBatches);
    const Permutation* shuffled = natural_order_ ? nullptr : &order;
    const double multiply_adds = 2.0 * static_cast<double>(std::min(n_, (b1 - b0) * a_.batch_size)) * static_cast<double>(p_) *
                                 static_cast<double>(n_models_);
    const int useful = static_cast<int>(std::min<double>(a_.n_threads, std::max(1.0, multiply_adds / kThreadWork)));
    // By chunk balances better where there are chunks enough to hand out; by panel needs no hand-over at all.
    const std::int64_t chunks = (std::min(a_.batch_size, n_) + kRowChunk - 1) / kRowChunk;
    const int by_tile = tile_threads(chunks);
    if (useful > 1 && chunks >= 2)
      walk_by_chunk(epoch, b0, b1, shuffled, useful, poll);
    else if (by_tile > 1)
      walk_by_tile(epoch, b0, b1, shuffled, by_tile, poll);
    else
      walk_by_panel(epoch, b0, b1, shuffled, std::min<int>(useful, static_cast<int>(panels_.size())), poll);
  }

  // Threads worth having on one panel at a time: a batch is then four barriers, so each thread must have enough of it.
  int tile_threads(std::int64_t chunks) const {
    if (chunks > 1 || a_.n_threads <= static_cast<int>(panels_.size())) return 1;
    // A narrow panel on one thread does about as much as eight threads on the vector it fills badly.
    for (const TrainPanel<T>& panel : panels_)
      if (narrow_models(static_cast<std::int64_t>(panel.models.size()), panel.n_vectors, std::min(a_.batch_size, n_)) > 0 && a_.n_threads < 8)
        return 1;
    const double work = 2.0 * static_cast<double>(std::min(a_.batch_size, n_)) * static_cast<double>(p_) *
                        static_cast<double>(panels_.front().lanes);
    return static_cast<int>(std::min({static_cast<double>(a_.n_threads), static_cast<double>((p_ + 15) / 16), work / kTileWork}));
  }

  // Few models: the threads share each panel, in forward by rows and in the gradient by features.
  void walk_by_tile(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Permutation* order, int n_threads,
                    const std::function<void()>& poll) {
    const GradientKernels<T>& kernels = gradient_kernels<T>(level_);
    const std::int64_t B = std::min(a_.batch_size, n_);
    int widest = 0;
    for (const TrainPanel<T>& panel : panels_) widest = std::max(widest, panel.lanes);
    // Everything that can fail is made here: a thread that threw between two barriers would leave the others waiting.
    std::vector<RowBuffer<T>> rows;
    std::vector<ChunkBuffer<T>> buffers;
    for (int t = 0; t < n_threads; ++t) {
      rows.emplace_back(B, 0);
      buffers.emplace_back(p_, widest, t == 0);
    }
    ChunkBuffer<T>& result = buffers[0];
    AlignedArray<T> z(B * widest);
    AlignedArray<double> count(widest);
    Barrier barrier(n_threads);
    bool select = false, leave = false;  // written by thread 0 between two barriers
    run_team(n_threads, [&](int t) {
      const std::int64_t f0 = (p_ * t / n_threads + 15) / 16 * 16, f1 = t + 1 == n_threads ? p_ : (p_ * (t + 1) / n_threads + 15) / 16 * 16;
      for (std::int64_t b = b0; b < b1; ++b) {
        const std::int64_t begin = b * B, n = std::min(B, n_ - begin);
        load_rows(order, begin, n, rows[t]);
        for (TrainPanel<T>& panel : panels_) {
          if (panel.alive == 0) continue;
          ChunkTask<T> task = chunk_task(rows[t], 0, n, view(panel), true, buffers[t]);
          if (task.n_rows == 0) continue;  // the same for every thread
          task.grad = result.grad.get();
          ChunkTask<T> part = task;
          const std::int64_t r0 = task.n_rows * t / n_threads;
          part.n_rows = task.n_rows * (t + 1) / n_threads - r0;
          part.x += r0;
          if (part.n_rows > 0) kernels.forward(part, z.get() + r0 * panel.lanes);
          barrier.wait();
          if (t == 0) {
            select = kernels.residual(a_.loss, task, z.get());
            leave = cancelled();
          }
          barrier.wait();
          if (leave) return;
          if (f0 < f1) kernels.gradient(task, z.get(), select, f0, f1);
          barrier.wait();
          if (t == 0) {
            for (int l = 0; l < panel.lanes; ++l) count[l] = static_cast<double>(result.count[l]);
            step(panel, {result.grad.get(), result.grad_intercept.get(), nullptr, nullptr, count.get()}, epoch, b);
          }
          barrier.wait();
        }
      }
    }, poll);
  }

  void walk_by_panel(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Permutation* order, int n_threads,
                     const std::function<void()>& poll) {
    const std::vector<std::vector<TrainPanel<T>*>> groups = share_out(n_threads);
    const std::int64_t B = a_.batch_size;
    const bool one_chunk = B <= kRowChunk || n_ <= kRowChunk;
    // A window is a run of whole batches whose rows are loaded together; a batch of several chunks is walked chunk by chunk.
    const std::int64_t window_rows = std::min(kRowChunk, kWindowBytes / row_bytes());
    const std::int64_t window = one_chunk ? std::max<std::int64_t>(1, window_rows / std::min(B, n_)) : 1;
    run_team(static_cast<int>(groups.size()), [&](int thread) {
      const auto& group = groups[thread];
      int widest = 0;
      for (const TrainPanel<T>* panel : group) widest = std::max(widest, panel->lanes);
      const std::int64_t capacity = one_chunk ? std::min(n_, window * std::min(B, n_)) : kRowChunk;
      RowBuffer<T> rows(capacity, staged_values(order, capacity));
      ChunkBuffer<T> chunk(p_, widest, true);
      BatchTotals totals(one_chunk ? 0 : p_, widest);
      bool any = false;
      if (one_chunk) {
        for (std::int64_t w0 = b0; w0 < b1; w0 += window) {
          const std::int64_t w1 = std::min(b1, w0 + window);
          const std::int64_t begin = w0 * B, end = std::min(n_, w1 * B);
          load_rows(order, begin, end - begin, rows);
          for (TrainPanel<T>* panel : group) {
            for (std::int64_t b = w0; b < w1 && panel->alive != 0; ++b) {
              const std::int64_t at = b * B - begin;
              if (!run_chunk(rows, at, std::min(B, n_ - b * B), view(*panel), true, chunk, &any))
                return;
              if (!any) continue;
              for (int l = 0; l < panel->lanes; ++l) totals.count[l] = static_cast<double>(chunk.count[l]);
              step(*panel, {chunk.grad.get(), chunk.grad_intercept.get(), nullptr, nullptr, totals.count.get()}, epoch, b);
            }
            if (cancelled()) return;
          }
        }
        return;
      }
      for (std::int64_t b = b0; b < b1; ++b) {
        const std::int64_t begin = b * B, end = std::min(n_, begin + B);
        for (TrainPanel<T>* panel : group) {
          if (panel->alive == 0) continue;
          totals.clear(p_, panel->lanes);
          for (std::int64_t c = begin; c < end; c += kRowChunk) {
            const std::int64_t n = std::min(kRowChunk, end - c);
            load_rows(order, c, n, rows);
            if (!run_chunk(rows, 0, n, view(*panel), true, chunk, &any))
              return;
            if (any) add_chunk(*panel, chunk, totals);
          }
          step(*panel, {nullptr, nullptr, totals.grad.get(), totals.grad_intercept.get(), totals.count.get()}, epoch, b);
        }
      }
    }, poll);
  }

  // Items are (batch, panel, chunk), in this order. An item of a batch starts only when its panel's step of the batch before is
  // committed; with several panels that is long past.
  void walk_by_chunk(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Permutation* order, int n_threads,
                     const std::function<void()>& poll) {
    const std::int64_t B = std::min(a_.batch_size, n_);
    const std::int64_t chunks_full = (B + kRowChunk - 1) / kRowChunk;  // the last batch may have fewer: its items are empty
    const std::int64_t n_panels = static_cast<std::int64_t>(panels_.size());
    const std::int64_t per_batch = n_panels * chunks_full;
    const std::int64_t n_items = (b1 - b0) * per_batch;
    int widest = 0;
    for (const TrainPanel<T>& panel : panels_) widest = std::max(widest, panel.lanes);
    BatchTotals totals(p_, widest);
    OrderedItems items;
    run_team(n_threads, [&](int) {
      RowBuffer<T> rows(kRowChunk, staged_values(order, kRowChunk));
      ChunkBuffer<T> chunk(p_, widest, true);
      for (std::int64_t item = items.take(); item < n_items; item = items.take()) {
        const std::int64_t b = b0 + item / per_batch;
        const std::int64_t at = item % per_batch / chunks_full;
        const std::int64_t c = item % chunks_full;
        TrainPanel<T>& panel = panels_[at];
        if (b > b0) items.reached(item - c - per_batch + chunks_full);  // the step of this panel's batch before
        const std::int64_t end = std::min(n_, (b + 1) * B);
        const std::int64_t begin = std::min(end, b * B + c * kRowChunk);
        const std::int64_t n = std::min(kRowChunk, end - begin);
        bool any = false;
        if (n > 0 && panel.alive != 0 && !cancelled()) {
          load_rows(order, begin, n, rows);
          run_chunk(rows, 0, n, view(panel), true, chunk, &any);
        }
        items.turn(item);
        // Once cancelled nothing is stored any more, so an abandoned chunk cannot reach a step.
        if (!abandoned_) abandoned_ = cancelled();
        if (!abandoned_) {
          if (c == 0) totals.clear(p_, panel.lanes);
          if (any) add_chunk(panel, chunk, totals);
          if (c + 1 == chunks_full && panel.alive != 0)
            step(panel, {nullptr, nullptr, totals.grad.get(), totals.grad_intercept.get(), totals.count.get()}, epoch, b);
        }
        items.done(item);
      }
    }, poll);
  }

  // Panels over threads, heaviest first onto the lightest thread.
  std::vector<std::vector<TrainPanel<T>*>> share_out(int n_threads) {
    std::vector<TrainPanel<T>*> order;
    for (TrainPanel<T>& panel : panels_) order.push_back(&panel);
    std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->cost > b->cost; });
    std::vector<std::vector<TrainPanel<T>*>> groups(n_threads);
    std::vector<double> load(n_threads, 0.0);
    for (TrainPanel<T>* panel : order) {
      const auto lightest = std::min_element(load.begin(), load.end()) - load.begin();
      groups[lightest].push_back(panel);
      load[lightest] += panel->cost;
    }
    return groups;
  }

  // ---- held-out losses --------------------------------------------------------------------------------------------------------

  struct ScorePanel {
    std::vector<std::int64_t> models;
    int n_vectors, lanes;
    LaneRoles roles;
  };

  // Models of one split side by side, so that a panel forwards only the rows which that split scores; where a split has too few
  // models to fill a vector, neighbouring splits share one.
  void lay_out_scores() {
    const GradientKernels<T>& kernels = gradient_kernels<T>(level_);
    const int lanes = kernels.lanes;
    std::vector<std::int64_t> order(n_models_);
    for (std::int64_t m = 0; m < n_models_; ++m) order[m] = m;
    std::stable_sort(order.begin(), order.end(),
                     [this](std::int64_t a, std::int64_t b) { return a_.split_of_model[a] < a_.split_of_model[b]; });
    const bool by_split = n_models_ * 4 >= static_cast<std::int64_t>(used_splits_.size()) * lanes;
    for (std::size_t at = 0; at < order.size();) {
      std::size_t end = order.size();
      if (by_split) {
        end = at;
        while (end < order.size() && a_.split_of_model[order[end]] == a_.split_of_model[order[at]]) ++end;
      }
      for (int width : panel_widths(static_cast<std::int64_t>(end - at), lanes, kernels.has_half, kMaxPanelVectors)) {
        ScorePanel panel{{}, width, panel_lanes(width, lanes), {}};
        const std::size_t n = std::min<std::size_t>(panel.lanes, end - at);
        panel.models.assign(order.begin() + at, order.begin() + at + n);
        at += n;
        std::vector<std::int64_t> split_of_lane(panel.lanes, -1);
        for (std::size_t l = 0; l < n; ++l) split_of_lane[l] = a_.split_of_model[panel.models[l]];
        panel.roles = LaneRoles(&a_.folds, split_of_lane, Use::score);
        score_panels_.push_back(std::move(panel));
      }
    }
    home_.resize(n_models_);
    for (std::size_t i = 0; i < panels_.size(); ++i)
      for (std::size_t l = 0; l < panels_[i].models.size(); ++l) home_[panels_[i].models[l]] = {i, static_cast<int>(l)};
  }

  bool score(const std::function<void()>& poll) {
    show_averages();
    const std::int64_t n_chunks = (n_ + kRowChunk - 1) / kRowChunk;
    const std::int64_t n_items = n_chunks * static_cast<std::int64_t>(score_panels_.size());
    int widest = 0;
    for (const ScorePanel& panel : score_panels_) widest = std::max(widest, panel.lanes);
    std::vector<double> loss(n_models_, 0.0), weight(n_models_, 0.0);
    OrderedItems items;
    const double multiply_adds = static_cast<double>(n_) * static_cast<double>(p_) * static_cast<double>(n_models_) /
                                 static_cast<double>(used_splits_.size());
    const int useful = static_cast<int>(std::min({static_cast<double>(a_.n_threads), static_cast<double>(n_items),
                                                  std::max(1.0, multiply_adds / kThreadWork)}));
    run_team(useful, [&](int) {
      RowBuffer<T> rows(kRowChunk, 0);
      ChunkBuffer<T> buffer(p_, widest, false);
      AlignedArray<T> W(p_ * widest), intercept(widest);
      const ScorePanel* packed = nullptr;
      for (std::int64_t item = items.take(); item < n_items; item = items.take()) {
        const ScorePanel& panel = score_panels_[item / n_chunks];
        if (packed != &panel) {
          pack(panel, W.get(), intercept.get());
          packed = &panel;
        }
        const std::int64_t begin = item % n_chunks * kRowChunk;
        const std::int64_t n = std::min(kRowChunk, n_ - begin);
        bool any = false;
        if (!cancelled()) {
          load_rows(nullptr, begin, n, rows);
          run_chunk(rows, 0, n,
                    {&panel.roles, panel.roles.lanes(), static_cast<std::int64_t>(panel.models.size()), panel.n_vectors, W.get(),
                     intercept.get()},
                    false, buffer, &any);
        }
        items.turn(item);
        if (any)
          for (std::size_t l = 0; l < panel.models.size(); ++l) {
            loss[panel.models[l]] += buffer.loss[l];
            weight[panel.models[l]] += buffer.weight_sum[l];
          }
        items.done(item);
      }
    }, poll);
    if (cancelled()) return false;
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    std::vector<double> held_out(n_models_);
    for (std::int64_t m = 0; m < n_models_; ++m) {
      const double mean = weight[m] > 0 && diverged_epoch_[m] < 0 ? loss[m] / weight[m] : nan;
      held_out[m] = mean == mean ? mean : nan;
    }
    history_.push_back(std::move(held_out));
    return true;
  }

  void pack(const ScorePanel& to, T* W, T* intercept) const {
    for (std::size_t l = 0; l < to.models.size(); ++l) {
      const auto [index, lane] = home_[to.models[l]];
      const TrainPanel<T>& from = panels_[index];
      for (std::int64_t f = 0; f < p_; ++f) W[f * to.lanes + l] = from.result_W()[f * from.lanes + lane];
      intercept[l] = from.result_intercept()[lane];
    }
    for (int l = static_cast<int>(to.models.size()); l < to.lanes; ++l) {
      for (std::int64_t f = 0; f < p_; ++f) W[f * to.lanes + l] = T(0);
      intercept[l] = T(0);
    }
  }

  const TrainArgs<T> a_;
  const std::int64_t n_models_, p_, n_, batches_;
  const bool natural_order_;
  const Level level_;  // picked once: a run never changes its level
  SolverSettings settings_{};
  std::vector<std::int64_t> used_splits_;
  SplitWeights weights_;
  bool prepared_ = false;
  bool averages_ = false;  // some model averages its weights
  bool abandoned_ = false;
  bool failed_ = false;
  std::int64_t position_ = 0;  // batches walked since the start
  std::vector<TrainPanel<T>> panels_;
  std::vector<ScorePanel> score_panels_;
  std::vector<std::pair<std::size_t, int>> home_;  // model -> training panel and lane
};

}  // namespace

template <class T>
std::unique_ptr<Trainer> make_trainer(TrainArgs<T> args) {
  return std::make_unique<TrainerOf<T>>(std::move(args));
}
template std::unique_ptr<Trainer> make_trainer(TrainArgs<float>);
template std::unique_ptr<Trainer> make_trainer(TrainArgs<double>);

}  // namespace gradfold
