// The pace of a training, and its results. Models lie in panels; a panel walks the batches of an epoch in the order of the permutation.
#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "simd/fpenv.h"

namespace gradfold {

template <class T>
TrainerOf<T>::TrainerOf(TrainArgs<T> args)
    : saved_(std::move(args.state)),
      a_(std::move(args)),
      n_models_(static_cast<std::int64_t>(a_.split_of_model.size())),
      n_outputs_(a_.n_outputs),
      n_columns_(n_models_ * n_outputs_),
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
  averages_ = any_average(a_);
  used_splits_ = a_.split_of_model;
  std::sort(used_splits_.begin(), used_splits_.end());
  used_splits_.erase(std::unique(used_splits_.begin(), used_splits_.end()), used_splits_.end());
  if (saved_) progress_ = saved_->progress;
  const std::size_t m = static_cast<std::size_t>(n_models_);
  progress_.diverged_epoch.resize(m, -1);
  progress_.diverged_batch.resize(m, -1);
  progress_.finished.resize(m, 0);
  progress_.train_loss.resize(m, 0.0);
  progress_.train_weight.resize(m, 0.0);
  if (progress_.position < 0 || progress_.position > a_.epochs * batches_)
    throw std::invalid_argument("state: got position " + std::to_string(progress_.position) + ", wanted 0 to epochs * steps_per_epoch = " +
                                std::to_string(a_.epochs * batches_));
  const std::size_t whole = static_cast<std::size_t>(progress_.position / batches_);
  if (progress_.history.empty())
    progress_.history.assign(whole, std::vector<double>(m, std::numeric_limits<double>::quiet_NaN()));
  else if (progress_.history.size() != whole && (progress_.history.size() + 1 != whole || progress_.position % batches_ != 0))
    throw std::invalid_argument("state: got a history of " + std::to_string(progress_.history.size()) + " epochs, wanted " +
                                std::to_string(whole) + ", the whole epochs before its position");
}

template <class T>
Status TrainerOf<T>::advance(std::int64_t max_steps, double seconds, const Poll& poll) {
  usable();
  try {
    return advance_unguarded(max_steps, seconds, poll);
  } catch (...) {
    failed_ = true;
    throw;
  }
}

template <class T>
Status TrainerOf<T>::advance_unguarded(std::int64_t max_steps, double seconds, const Poll& poll) {
  FloatingPointGuard guard;  // the workers have their own; set-up and scores round here
  using clock = std::chrono::steady_clock;
  const auto start = clock::now();
  auto elapsed = [&] { return std::chrono::duration<double>(clock::now() - start).count(); };
  if (!prepared_ && !prepare(poll)) return Status::interrupted;
  std::int64_t& position = progress_.position;
  const std::int64_t end = a_.epochs * batches_;
  std::int64_t last = end;
  if (max_steps >= 0 && max_steps < end - position) last = position + max_steps;
  std::int64_t slice = seconds < 0 ? batches_ : 1;  // batches between two looks at the clock
  double polled = elapsed();
  const bool any_finished = std::count(progress_.finished.begin(), progress_.finished.end(), 0) < n_models_;
  for (;;) {
    if (poll && elapsed() - polled > 0.05) {  // a slice may be shorter than the team's own interval
      poll();
      polled = elapsed();
    }
    if (cancelled()) return Status::interrupted;
    compact();
    // Scoring belongs to the step that ends an epoch, so that a paused trainer has the history of its whole epochs.
    if (position > 0 && position % batches_ == 0 && static_cast<std::int64_t>(progress_.history.size()) < position / batches_) {
      if (!score(poll)) return Status::interrupted;
    }
    if (position >= end) return Status::done;
    if (any_finished && n_planned_ == 0) return Status::done;  // nobody is left; those that only diverged have NaN to the end
    if (position >= last || (seconds >= 0 && elapsed() >= seconds)) return Status::paused;
    const std::int64_t epoch = position / batches_;
    const std::int64_t target = std::min({(epoch + 1) * batches_, last, position + slice});
    const double before = elapsed();
    walk(epoch, position % batches_, target - epoch * batches_, poll);
    torn_ = cancelled();
    if (torn_) return Status::interrupted;
    position = target;
    if (seconds >= 0 && elapsed() - before < 0.02) slice = std::min<std::int64_t>(slice * 2, batches_);
  }
}

template <class T>
void TrainerOf<T>::coef(void* out) const {
  T* to = static_cast<T*>(out);
  each_column([&](const TrainBlock<T>& block, int l, std::int64_t c) {
    for (std::int64_t f = 0; f < p_; ++f) to[c * p_ + f] = block.result_W()[f * block.lanes + l];
  });
  if (prepared_) return;  // else cancelled or asked for before it began
  const T* W = nullptr;
  for (const char* name : {"average_seen_W", "average_W", "seen_W", "W"})
    if (W == nullptr) W = saved<T>(name);
  for (std::int64_t i = 0; i < n_columns_ * p_; ++i)
    to[i] = W != nullptr ? W[i] : a_.coef_init != nullptr ? static_cast<T>(a_.coef_init[i]) : T(0);
}

template <class T>
void TrainerOf<T>::intercept(void* out) const {
  T* to = static_cast<T*>(out);
  each_column([&](const TrainBlock<T>& block, int l, std::int64_t c) { to[c] = block.result_intercept()[l]; });
  if (prepared_) return;
  const T* b = nullptr;
  for (const char* name : {"average_seen_intercept", "average_intercept", "seen_intercept", "intercept"})
    if (b == nullptr) b = saved<T>(name);
  for (std::int64_t c = 0; c < n_columns_; ++c)
    to[c] = b != nullptr ? b[c] : a_.intercept_init != nullptr && a_.fit_intercept ? static_cast<T>(a_.intercept_init[c]) : T(0);
}

template <class T>
void TrainerOf<T>::steps(std::int64_t* out) const {
  const double* updates = saved<double>("updates");
  for (std::int64_t m = 0; m < n_models_; ++m) out[m] = updates != nullptr ? static_cast<std::int64_t>(updates[m * n_outputs_]) : 0;
  each_column([&](const TrainBlock<T>& block, int l, std::int64_t c) {  // the same for all outputs of a model
    out[c / n_outputs_] = static_cast<std::int64_t>(block.updates[l]);
  });
}

template <class T>
std::unique_ptr<Trainer> make_trainer(TrainArgs<T> args) {
  return std::make_unique<TrainerOf<T>>(std::move(args));
}
template std::unique_ptr<Trainer> make_trainer(TrainArgs<float>);
template std::unique_ptr<Trainer> make_trainer(TrainArgs<double>);

}  // namespace gradfold
