// Models that leave, that are remembered, and that are saved.
#include <algorithm>
#include <limits>

#include "train/trainer.h"

namespace gradfold {

template <class T>
LaneRecord TrainerOf<T>::record_of(std::int64_t column) const {
  const Home home = home_[column];
  return home.panel < 0 ? parked_[column] : pack_lane(block_of(home), home.lane, p_);
}

template <class T>
void TrainerOf<T>::put_record(std::int64_t column, const LaneRecord& record) {
  const Home home = home_[column];
  if (home.panel < 0)
    parked_[column] = record;
  else
    unpack_lane(record, block_of(home), home.lane, p_);
}

// They keep their lanes until compact() finds it worth while to move the others together.
template <class T>
void TrainerOf<T>::finish(const bool* mask) {
  usable();
  for (std::int64_t m = 0; m < n_models_; ++m)
    if (mask[m]) progress_.finished[m] = 1;
  for (TrainPanel<T>& panel : panels_)
    for (std::size_t l = 0; l < panel.models.size(); ++l)
      if (mask[panel.models[l]]) panel.alive &= ~(std::uint64_t{1} << l);
}

template <class T>
void TrainerOf<T>::snapshot(const bool* mask) {
  set_up();
  show_averages();
  if (remembered_.empty()) remembered_.resize(n_columns_);
  for (std::int64_t c = 0; c < n_columns_; ++c)
    if (mask[c / n_outputs_]) remembered_[c] = record_of(c);
}

template <class T>
std::int64_t TrainerOf<T>::first_unremembered(const bool* mask) const {
  for (std::int64_t m = 0; m < n_models_; ++m)
    if (mask[m] && (remembered_.empty() || remembered_[m * n_outputs_].empty())) return m;
  return -1;
}

template <class T>
void TrainerOf<T>::restore(const bool* mask) {
  set_up();
  for (std::int64_t c = 0; c < n_columns_; ++c)
    if (mask[c / n_outputs_]) put_record(c, remembered_[c]);
}

template <class T>
void TrainerOf<T>::scale_learning_rate(const double* factor) {
  set_up();
  for (TrainPanel<T>& panel : panels_)
    for (TrainBlock<T>& block : panel.blocks)
      for (std::size_t l = 0; l < block.columns.size(); ++l) {
        const std::int64_t m = block.columns[l] / n_outputs_;
        if (alive(m)) block.rate_scale[l] *= factor[m];
      }
}

template <class T>
void TrainerOf<T>::collect_train_loss() {
  if (!a_.track_train_loss) return;
  for (const TrainPanel<T>& panel : panels_)
    for (std::size_t l = 0; l < panel.models.size(); ++l) {
      progress_.train_loss[panel.models[l]] = panel.train_loss[l];
      progress_.train_weight[panel.models[l]] = panel.train_weight[l];
    }
}

template <class T>
void TrainerOf<T>::spread_train_loss() {
  if (!a_.track_train_loss) return;
  for (TrainPanel<T>& panel : panels_)
    for (std::size_t l = 0; l < panel.models.size(); ++l) {
      panel.train_loss[l] = progress_.train_loss[panel.models[l]];
      panel.train_weight[l] = progress_.train_weight[panel.models[l]];
    }
}

template <class T>
void TrainerOf<T>::train_loss(double* out, bool reset) {
  usable();
  collect_train_loss();
  for (std::int64_t m = 0; m < n_models_; ++m)
    out[m] = progress_.train_weight[m] > 0 ? progress_.train_loss[m] / progress_.train_weight[m]
                                           : std::numeric_limits<double>::quiet_NaN();
  if (!reset) return;
  std::fill(progress_.train_loss.begin(), progress_.train_loss.end(), 0.0);
  std::fill(progress_.train_weight.begin(), progress_.train_weight.end(), 0.0);
  spread_train_loss();
}

template <class T>
std::vector<StateField> state_fields(const TrainArgs<T>& args) {
  const std::int64_t n_features = args.X.n_features;
  TrainBlock<T> block;
  block.allocate(n_features, 1, args.solver, args.standardize, any_average(args));
  std::vector<StateField> fields;
  block.each_state(n_features, [&](const char* name, const auto& array, std::int64_t height) {
    using Value = std::remove_reference_t<decltype(array[0])>;
    if (array) fields.push_back({name, std::is_same_v<Value, std::int64_t> ? 'q' : std::is_same_v<Value, T> ? 't' : 'd', args.n_outputs * height});
  });
  if (args.standardize) {
    fields.push_back({"mean", 'd', n_features});
    fields.push_back({"scale", 'd', n_features});
  }
  return fields;
}

template <class T>
std::vector<StateField> TrainerOf<T>::state_fields() const {
  return gradfold::state_fields<T>(a_);
}

template <class T>
Progress TrainerOf<T>::state(const std::vector<void*>& out) {
  set_up();
  each_column([&](const TrainBlock<T>& block, int l, std::int64_t c) {
    std::size_t field = 0;
    block.each_state(p_, [&](const char*, const auto& array, std::int64_t height) {
      if (!array) return;
      auto* to = static_cast<std::remove_reference_t<decltype(array[0])>*>(out[field++]) + c * height;
      for (std::int64_t i = 0; i < height; ++i) to[i] = array[i * block.lanes + l];
    });
    if (!a_.standardize || c % n_outputs_ != 0) return;
    const std::int64_t m = c / n_outputs_;
    std::copy_n(moments_.mean.data() + a_.split_of_model[m] * p_, p_, static_cast<double*>(out[field]) + m * p_);
    std::copy_n(moments_.scale.data() + a_.split_of_model[m] * p_, p_, static_cast<double*>(out[field + 1]) + m * p_);
  });
  collect_train_loss();
  Progress progress = progress_;
  if (torn_) progress.position = -1;
  return progress;
}

#define GRADFOLD_INSTANTIATE(T)                                                        \
  template std::vector<StateField> state_fields<T>(const TrainArgs<T>&);               \
  template LaneRecord TrainerOf<T>::record_of(std::int64_t) const;                     \
  template void TrainerOf<T>::finish(const bool*);                                     \
  template void TrainerOf<T>::snapshot(const bool*);                                   \
  template std::int64_t TrainerOf<T>::first_unremembered(const bool*) const;           \
  template void TrainerOf<T>::restore(const bool*);                                    \
  template void TrainerOf<T>::scale_learning_rate(const double*);                      \
  template void TrainerOf<T>::collect_train_loss();                                    \
  template void TrainerOf<T>::spread_train_loss();                                     \
  template void TrainerOf<T>::train_loss(double*, bool);                               \
  template std::vector<StateField> TrainerOf<T>::state_fields() const;                 \
  template Progress TrainerOf<T>::state(const std::vector<void*>&);
GRADFOLD_INSTANTIATE(float)
GRADFOLD_INSTANTIATE(double)
#undef GRADFOLD_INSTANTIATE

}  // namespace gradfold
