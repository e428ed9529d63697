// Panels: who lies where, what a lane begins with, and moving together when models have left.
#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>
#include <string>

#include "simd/fpenv.h"
#include "train/trainer.h"

namespace gradfold {

template <class T>
bool TrainerOf<T>::prepare(const Poll& poll) {
  panels_.clear();  // what an earlier attempt left that ran out of memory
  score_panels_.clear();
  weights_ = split_weights(a_.folds, used_splits_, a_.weight, a_.n_threads, poll, &stop_);
  if (cancelled()) return false;
  for (std::int64_t s : used_splits_)
    if (weights_.count[s] == 0)
      throw std::invalid_argument("folds: split " + std::to_string(s) +
                                  " has no training row with a positive sample_weight, wanted at least one");
  fraction_.resize(weights_.count.size());
  for (std::size_t s = 0; s < fraction_.size(); ++s) fraction_[s] = static_cast<double>(weights_.count[s]) / static_cast<double>(n_);
  if (a_.standardize) {
    use_moments(poll);
    if (cancelled()) return false;
  }
  // Everybody gets a lane first, those that have left already too: compact() parks them.
  std::vector<std::int64_t> everybody(n_models_);
  for (std::int64_t m = 0; m < n_models_; ++m) everybody[m] = m;
  panels_ = make_panels(training_layout(everybody, layout_args()));
  for (TrainPanel<T>& panel : panels_)
    for (TrainBlock<T>& block : panel.blocks) start(block);
  parked_.resize(n_columns_);
  find_homes();
  spread_train_loss();
  make_score_panels(score_layout(everybody, layout_args(), a_.validation_X.x != nullptr));
  n_planned_ = n_models_;
  saved_.reset();
  prepared_ = true;
  return true;
}

template <class T>
void TrainerOf<T>::set_up() {
  usable();
  if (prepared_) return;
  FloatingPointGuard guard;
  if (!prepare({})) throw std::runtime_error("Trainer: cancelled before it began");
}

// Moments: given, saved, or those of each split's own training rows.
template <class T>
void TrainerOf<T>::use_moments(const Poll& poll) {
  const std::size_t size = static_cast<std::size_t>(a_.folds.n_splits * p_);
  if (a_.mean != nullptr) {
    moments_ = {std::vector<double>(a_.mean, a_.mean + size), std::vector<double>(a_.scale, a_.scale + size)};
  } else if (saved_) {
    moments_ = {std::vector<double>(size, 0.0), std::vector<double>(size, 1.0)};
    const double *mean = saved<double>("mean"), *scale = saved<double>("scale");
    for (std::int64_t m = n_models_ - 1; m >= 0; --m) {
      std::copy_n(mean + m * p_, p_, moments_.mean.data() + a_.split_of_model[m] * p_);
      std::copy_n(scale + m * p_, p_, moments_.scale.data() + a_.split_of_model[m] * p_);
    }
  } else {
    moments_ = split_moments(a_.X, a_.folds, used_splits_, weights_, a_.weight, a_.n_threads, poll, &stop_);
  }
}

template <class T>
LayoutArgs TrainerOf<T>::layout_args() const {
  const GradientKernels<T>& kernels = gradient_kernels<T>(level_);
  return {a_.split_of_model, fraction_, std::min({a_.batch_size, n_, kRowChunk}), kernels.lanes, kernels.has_half, a_.n_threads,
          n_outputs_};
}

template <class T>
std::vector<std::int64_t> TrainerOf<T>::models_alive() const {
  std::vector<std::int64_t> models;
  for (std::int64_t m = 0; m < n_models_; ++m)
    if (alive(m)) models.push_back(m);
  return models;
}

// The models' own loss_epsilon, lane by lane, or nothing.
template <class T>
AlignedArray<T> TrainerOf<T>::epsilon_of(const std::vector<std::int64_t>& models, int lanes) const {
  if (a_.loss_epsilon.empty() || n_outputs_ > 1) return {};
  AlignedArray<T> epsilon(lanes);
  for (std::size_t l = 0; l < models.size(); ++l) epsilon[l] = static_cast<T>(a_.loss_epsilon[models[l]]);
  return epsilon;
}

// Panels with their models' settings; weights and all that changes are as before the first step.
template <class T>
std::vector<TrainPanel<T>> TrainerOf<T>::make_panels(const std::vector<PanelPlan>& plans) const {
  std::vector<TrainPanel<T>> panels;
  Tables tables;
  for (const PanelPlan& plan : plans) {
    TrainPanel<T> panel;
    panel.models = plan.models;
    panel.lanes = plan.lanes;
    panel.cost = panel_cost(plan, layout_args());
    panel.loss_epsilon = epsilon_of(plan.models, plan.lanes);
    // A mask has a bit for each lane of a block of models, and for each model of those of several outputs.
    std::vector<std::int64_t> split_of_bit(n_outputs_ > 1 ? static_cast<int>(plan.models.size()) : plan.lanes, -1);
    for (std::size_t m = 0; m < panel.models.size(); ++m) {
      split_of_bit[m] = a_.split_of_model[panel.models[m]];
      if (alive(panel.models[m])) panel.alive |= std::uint64_t{1} << m;
    }
    panel.roles = LaneRoles(&a_.folds, split_of_bit, Use::train);
    if (a_.track_train_loss) {
      panel.train_loss = AlignedArray<double>(static_cast<std::int64_t>(panel.models.size()));
      panel.train_weight = AlignedArray<double>(static_cast<std::int64_t>(panel.models.size()));
    }
    std::size_t at = 0;  // columns laid out so far
    for (int width : plan.widths) {
      const int lanes = panel_lanes(width, layout_args().lanes);
      std::vector<std::int64_t> columns;
      for (; static_cast<int>(columns.size()) < lanes && at < panel.models.size() * n_outputs_; ++at)
        columns.push_back(panel.models[at / n_outputs_] * n_outputs_ + static_cast<std::int64_t>(at) % n_outputs_);
      panel.blocks.push_back(make_block(std::move(columns), width, lanes, tables));
      const TrainBlock<T>& block = panel.blocks.back();
      panel.views.push_back({width, block.kernel_W(), block.kernel_intercept(), nullptr, nullptr});
    }
    if (n_outputs_ > 1) {
      for (AlignedArray<double>* array : {&panel.clip_norm, &panel.count, &panel.squares, &panel.intercept_squares})
        *array = AlignedArray<double>(panel.lanes);
      int first = 0;
      for (const TrainBlock<T>& block : panel.blocks) {
        std::copy_n(block.hyper.get() + static_cast<int>(Hyper::clip_norm) * block.lanes, block.lanes, panel.clip_norm.get() + first);
        first += block.lanes;
      }
    }
    panels.push_back(std::move(panel));
  }
  return panels;
}

template <class T>
TrainBlock<T> TrainerOf<T>::make_block(std::vector<std::int64_t> columns, int n_vectors, int lanes, Tables& tables) const {
  TrainBlock<T> block;
  block.columns = std::move(columns);
  block.n_vectors = n_vectors;
  block.allocate(p_, lanes, a_.solver, a_.standardize, averages_);
  std::vector<std::int64_t> split_of_lane(lanes, -1);
  for (std::size_t l = 0; l < block.columns.size(); ++l) {
    const std::int64_t m = block.columns[l] / n_outputs_, s = split_of_lane[l] = a_.split_of_model[m];
    block.l1[l] = a_.l1[m];
    block.l2[l] = a_.l2[m];
    block.schedule[l] = a_.schedule[m];
    block.mean_weight[l] = weights_.sum[s] / static_cast<double>(weights_.count[s]);
    block.learning_rate[l] = a_.learning_rate[m];
  }
  for (int h = 0; h < kHypers; ++h) {
    std::fill_n(block.hyper.get() + h * lanes, lanes, hyper_default(a_.solver, static_cast<Hyper>(h)));
    if (!a_.hyper[h].empty())
      for (std::size_t l = 0; l < block.columns.size(); ++l) block.hyper[h * lanes + l] = a_.hyper[h][block.columns[l] / n_outputs_];
  }
  if (a_.standardize) {
    auto& table = tables[split_of_lane];
    if (!table) {
      table = std::make_shared<StandardizeTables>();
      table->mean = AlignedArray<double>(p_ * lanes);
      table->scale = AlignedArray<double>(p_ * lanes);
      table->ratio = AlignedArray<double>(p_ * lanes);
      for (std::int64_t f = 0; f < p_; ++f)
        for (int l = 0; l < lanes; ++l) {
          const std::int64_t s = split_of_lane[l];
          table->mean[f * lanes + l] = s < 0 ? 0.0 : moments_.mean[s * p_ + f];
          table->scale[f * lanes + l] = s < 0 ? 1.0 : moments_.scale[s * p_ + f];
          table->ratio[f * lanes + l] = table->mean[f * lanes + l] / std::fabs(table->scale[f * lanes + l]);
        }
    }
    block.standardize = table;
  }
  return block;
}

template <class T>
std::unique_ptr<TrainBlock<T>> TrainerOf<T>::one_lane() const {
  auto block = std::make_unique<TrainBlock<T>>();
  block->allocate(p_, 1, a_.solver, a_.standardize, averages_);
  return block;
}

// What the columns of a new training, or of a saved one, begin with.
template <class T>
void TrainerOf<T>::start(TrainBlock<T>& block) const {
  const int lanes = block.lanes;
  if (saved_) {
    block.each_state(p_, [&](const char* name, const auto& array, std::int64_t height) {
      if (!array) return;
      const auto* from = saved<std::remove_reference_t<decltype(array[0])>>(name);
      for (std::size_t l = 0; l < block.columns.size(); ++l)
        for (std::int64_t i = 0; i < height; ++i) array[i * lanes + static_cast<std::int64_t>(l)] = from[block.columns[l] * height + i];
    });
    return;
  }
  for (std::size_t l = 0; l < block.columns.size(); ++l) {
    const std::int64_t c = block.columns[l];
    double moved = 0;  // what standardizing takes out of the intercept: sum of mean * coef
    if (a_.coef_init != nullptr) {
      for (std::int64_t f0 = 0; f0 < p_; f0 += kFeatureChunk) {
        double chunk = 0;
        for (std::int64_t f = f0; f < std::min(p_, f0 + kFeatureChunk); ++f) {
          const std::int64_t at = f * lanes + static_cast<std::int64_t>(l);
          const double w = a_.coef_init[c * p_ + f];
          block.W[at] = static_cast<T>(block.standardize ? w * std::fabs(block.standardize->scale[at]) : w);
          if (block.standardize) chunk = __builtin_fma(block.standardize->mean[at], w, chunk);
        }
        moved += chunk;
      }
    }
    // Without an intercept of its own a standardized model still has the one that centring implies.
    const double b = a_.intercept_init != nullptr ? a_.intercept_init[c] : 0.0;
    if (a_.fit_intercept) block.intercept[l] = static_cast<T>(b + moved);
  }
  if (block.standardize) update_kernels<T>(level_).see(state_of(block));
  if (averages_) {
    std::copy_n(block.W.get(), p_ * lanes, block.average_W.get());
    std::copy_n(block.intercept.get(), lanes, block.average_intercept.get());
  }
}

template <class T>
void TrainerOf<T>::show_averages() const {
  if (!averages_ || !a_.standardize) return;
  FloatingPointGuard guard;
  for (const TrainPanel<T>& panel : panels_)
    for (const TrainBlock<T>& block : panel.blocks) {
      PanelState<T> averages = state_of(block);
      averages.W = block.average_W.get();
      averages.intercept = block.average_intercept.get();
      averages.seen_W = block.average_seen_W.get();
      averages.seen_intercept = block.average_seen_intercept.get();
      update_kernels<T>(level_).see(averages);
    }
}

template <class T>
void TrainerOf<T>::find_homes() {
  home_.assign(n_columns_, Home{});
  for (std::size_t i = 0; i < panels_.size(); ++i)
    for (std::size_t b = 0; b < panels_[i].blocks.size(); ++b)
      for (std::size_t l = 0; l < panels_[i].blocks[b].columns.size(); ++l)
        home_[panels_[i].blocks[b].columns[l]] = {static_cast<std::int64_t>(i), static_cast<int>(b), static_cast<int>(l)};
}

template <class T>
void TrainerOf<T>::make_score_panels(const std::vector<PanelPlan>& plans) {
  std::vector<ScorePanel<T>> panels;
  for (const PanelPlan& plan : plans) {
    std::vector<std::int64_t> split_of_bit(n_outputs_ > 1 ? static_cast<int>(plan.models.size()) : plan.lanes, -1);
    for (std::size_t m = 0; m < plan.models.size(); ++m) split_of_bit[m] = a_.split_of_model[plan.models[m]];
    const FoldsView* folds = a_.validation_X.x != nullptr ? nullptr : &a_.folds;  // null: every model scores every row
    panels.push_back(
        {plan.models, plan.widths, plan.lanes, LaneRoles(folds, split_of_bit, Use::score), epsilon_of(plan.models, plan.lanes)});
  }
  score_panels_ = std::move(panels);
}

// Models that finished or diverged keep their lanes until the others, laid out anew, would be at least a quarter less work. Then what
// the others carry is moved bit for bit, and the leavers are parked.
template <class T>
void TrainerOf<T>::compact() {
  const std::vector<std::int64_t> models = models_alive();
  if (models.size() == n_planned_) return;
  n_planned_ = models.size();
  const LayoutArgs args = layout_args();
  const std::vector<PanelPlan> plans = training_layout(models, args);
  double now = 0, then = 0;
  for (const TrainPanel<T>& panel : panels_)
    if (panel.alive != 0) now += panel.cost;  // the walks leave out panels in which nobody is alive
  for (const PanelPlan& plan : plans) then += panel_cost(plan, args);
  if (!(then <= 0.75 * now)) return;

  show_averages();
  std::vector<TrainPanel<T>> panels = make_panels(plans);
  for (TrainPanel<T>& panel : panels)
    for (TrainBlock<T>& block : panel.blocks)
      for (std::size_t l = 0; l < block.columns.size(); ++l) {
        const Home home = home_[block.columns[l]];
        copy_lane(block_of(home), home.lane, block, static_cast<int>(l), p_);
      }
  for (std::int64_t c = 0; c < n_columns_; ++c)
    if (!alive(c / n_outputs_) && home_[c].panel >= 0) parked_[c] = record_of(c);
  collect_train_loss();
  panels_ = std::move(panels);
  find_homes();
  spread_train_loss();
  make_score_panels(score_layout(models, args, a_.validation_X.x != nullptr));
}

template <class T>
PanelState<T> TrainerOf<T>::state_of(const TrainBlock<T>& block) const {
  const StandardizeTables* tables = block.standardize.get();
  return {p_,
          block.n_vectors,
          block.lanes,
          block.W.get(),
          block.first.get(),
          block.second.get(),
          block.intercept.get(),
          block.intercept_first.get(),
          block.intercept_second.get(),
          block.average_W.get(),
          block.average_intercept.get(),
          block.learning_rate.get(),
          block.rate_scale.get(),
          block.schedule.get(),
          block.l1.get(),
          block.l2.get(),
          block.hyper.get(),
          block.mean_weight.get(),
          block.updates.get(),
          block.beta1_power.get(),
          block.beta2_power.get(),
          tables != nullptr ? tables->mean.get() : nullptr,
          tables != nullptr ? tables->scale.get() : nullptr,
          tables != nullptr ? tables->ratio.get() : nullptr,
          block.seen_W.get(),
          block.seen_intercept.get()};
}

#define GRADFOLD_INSTANTIATE(T)                                                                   \
  template bool TrainerOf<T>::prepare(const Poll&);                                               \
  template void TrainerOf<T>::set_up();                                                           \
  template std::vector<TrainPanel<T>> TrainerOf<T>::make_panels(const std::vector<PanelPlan>&) const; \
  template std::unique_ptr<TrainBlock<T>> TrainerOf<T>::one_lane() const;                         \
  template void TrainerOf<T>::compact();                                                          \
  template void TrainerOf<T>::show_averages() const;                                              \
  template PanelState<T> TrainerOf<T>::state_of(const TrainBlock<T>&) const;
GRADFOLD_INSTANTIATE(float)
GRADFOLD_INSTANTIATE(double)
#undef GRADFOLD_INSTANTIATE

}  // namespace gradfold
