// What the solvers of optima share: models and their splits' moments, the way between parameters and weights, held-out losses.
//
// A model's parameters are v = scale * w and the intercept at the mean of its training rows: centred and, if asked for, standardised,
// with no copy of X.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "optimum/optimizer.h"
#include "simd/fpenv.h"
#include "threads/team.h"

namespace gradfold {

// Pivots of no more than this share of their diagonal element are rounding.
inline double drop_limit(std::int64_t p) { return 16.0 * static_cast<double>(p) * std::numeric_limits<double>::epsilon(); }

template <class T>
class ModelsAtOptimum : public Optimizer {
 public:
  // `stride`: between two parameters of a model.
  explicit ModelsAtOptimum(OptimumArgs<T> args, std::int64_t stride = kGroup)
      : a_(std::move(args)),
        m_(static_cast<std::int64_t>(a_.split_of_model.size())),
        p_(a_.X.n_features),
        shape_{p_, a_.n_outputs, a_.fit_intercept},
        size_(shape_.size()),
        stride_(stride),
        kernels_(optimum_kernels(current_level())) {
    arrivals_.how.assign(m_, Arrival::running);
    for (auto* counts : {&arrivals_.n_iter, &arrivals_.n_passes, &arrivals_.n_hessians, &arrivals_.dropped}) counts->assign(m_, 0);
    for (auto* values : {&arrivals_.objective, &arrivals_.gradient_norm, &arrivals_.gap, &arrivals_.smallest_pivot})
      values->assign(m_, std::numeric_limits<double>::quiet_NaN());
    held_out_.assign(m_, std::numeric_limits<double>::quiet_NaN());
  }

  void coef(void* out) const override {
    FloatingPointGuard guard;
    std::vector<T> b(a_.n_outputs);
    for (std::int64_t m = 0; m < m_; ++m) weights_at(m, static_cast<T*>(out) + m * a_.n_outputs * p_, b.data());
  }
  void intercept(void* out) const override {
    FloatingPointGuard guard;
    std::vector<T> w(a_.n_outputs * p_);
    for (std::int64_t m = 0; m < m_; ++m) weights_at(m, w.data(), static_cast<T*>(out) + m * a_.n_outputs);
  }
  std::vector<double> held_out() const override { return held_out_; }

 protected:
  // The parameters of a model, stride_ apart; null before there are any.
  virtual const double* parameters(std::int64_t m) const = 0;

  const SplitSums& sums(std::int64_t model) const { return a_.sums[a_.split_of_model[model]]; }
  // Whether the weight of a column stays 0: one that is constant, unless it stands for an intercept.
  bool constant(const SplitSums& s, std::int64_t f) const { return s.scale[f] <= 0 && (a_.standardize || a_.fit_intercept); }
  double scale(const SplitSums& s, std::int64_t f) const { return a_.standardize && s.scale[f] > 0 && std::isfinite(s.scale[f]) ? s.scale[f] : 1.0; }
  // Whether a variance is beyond float64, or of rows that are not finite.
  bool overflows(const SplitSums& s) const {
    bool out = false;
    for (std::int64_t f = 0; f < p_; ++f) out = out || !std::isfinite(s.scale[f]);
    return out && a_.standardize;
  }
  // Standardised columns are centred without an intercept, too, as in scikit-learn's StandardScaler; then it makes up for the means.
  double centre(const SplitSums& s, std::int64_t f) const { return a_.fit_intercept || a_.standardize ? s.mean[f] : 0.0; }

  // f(group, thread) for all groups, on as many threads as their work is worth; the rest is left out once cancelled.
  template <class F>
  void each_group(std::int64_t n, double work_of_one, F&& f, const std::function<void()>& poll = {}) const {
    constexpr double kThreadWork = 1 << 20;
    const double worth = std::max(1.0, std::min(1e6, work_of_one * static_cast<double>(n) / kThreadWork));
    const int threads = static_cast<int>(std::min<double>({static_cast<double>(a_.n_threads), static_cast<double>(n), worth}));
    std::atomic<std::int64_t> next{0};
    run_team(threads, [&](int thread) {
      for (std::int64_t g = next++; g < n && !cancelled(); g = next++) f(g, thread);
    }, poll);
  }
  // f(lane, model) for the models of a group.
  template <class F>
  void each_lane(std::int64_t g, F&& f) const {
    for (int l = 0; l < kGroup && g * kGroup + l < m_; ++l) f(l, g * kGroup + l);
  }

  // The mean of a column (p is y) about the centre that it has here.
  double mean_here(const SplitSums& s, std::int64_t i) const {
    if (i < p_) return s.mean[i] - centre(s, i);
    return a_.fit_intercept ? 0.0 : s.mean[p_];
  }

  // Element (i, j) of a split's Gram matrix in the parameters here, per unit of weight; column p is y.
  double gram(const SplitSums& s, std::int64_t i, std::int64_t j) const {
    if ((i < p_ && constant(s, i)) || (j < p_ && constant(s, j))) return i == j ? 1 : 0;
    double value = s.comoment[i * (p_ + 1) + j];
    if (!a_.fit_intercept) value += s.weight * (mean_here(s, i) * mean_here(s, j));
    const double scales = (i < p_ ? scale(s, i) : 1.0) * (j < p_ ? scale(s, j) : 1.0);
    return value / s.weight / scales;
  }

  // The weights on X's scale that parameters v stand for, rounded to T: w [n_outputs][n_features], b [n_outputs].
  void weights_of(std::int64_t m, const double* v, T* w, T* b) const {
    const SplitSums& s = sums(m);
    for (std::int64_t k = 0; k < a_.n_outputs; ++k) {
      double shift = 0;
      for (std::int64_t f = 0; f < p_; ++f) {
        const T own = w[k * p_ + f] = static_cast<T>(v[(k * p_ + f) * stride_] / scale(s, f));
        shift = std::fma(static_cast<double>(own), centre(s, f), shift);
      }
      b[k] = static_cast<T>((a_.fit_intercept ? v[(shape_.n_weights() + k) * stride_] : 0.0) - shift);
    }
  }
  // The same, and v becomes what float32 weights stand for: the loss and the gradient will be those of that point.
  void settle(std::int64_t m, double* v, T* w, T* b) const {
    weights_of(m, v, w, b);
    if constexpr (sizeof(T) == sizeof(double)) return;
    const SplitSums& s = sums(m);
    for (std::int64_t k = 0; k < a_.n_outputs; ++k) {
      double shift = 0;
      for (std::int64_t f = 0; f < p_; ++f) {
        const double own = static_cast<double>(w[k * p_ + f]);
        v[(k * p_ + f) * stride_] = own * scale(s, f);
        shift = std::fma(own, centre(s, f), shift);
      }
      if (a_.fit_intercept) v[(shape_.n_weights() + k) * stride_] = static_cast<double>(b[k]) + shift;
    }
  }
  // A model whose weights T cannot hold has diverged, and has weights of 0.
  void refuse_overflow(std::int64_t m, double* v) {
    std::vector<T> w(a_.n_outputs * p_), b(a_.n_outputs);
    weights_of(m, v, w.data(), b.data());
    bool finite = true;
    for (const T value : w) finite = finite && std::isfinite(value);
    for (const T value : b) finite = finite && std::isfinite(value);
    if (finite) return;
    arrivals_.how[m] = Arrival::diverged;
    for (std::int64_t d = 0; d < size_; ++d) v[d * stride_] = 0;
  }
  void weights_at(std::int64_t m, T* w, T* b) const {
    const double* v = parameters(m);
    if (v != nullptr) {
      weights_of(m, v, w, b);
    } else {
      std::fill_n(w, a_.n_outputs * p_, T(0));
      std::fill_n(b, a_.n_outputs, T(0));
    }
  }

  // Held-out losses, at the weights as they are returned.
  // False when it was interrupted.
  bool score(const std::function<void()>& poll) {
    if (scored_) return true;
    const std::int64_t outputs = a_.n_outputs;
    AlignedArray<T> W(p_ * outputs * m_), b(outputs * m_);
    std::vector<T> w(p_ * outputs), own_b(outputs);
    for (std::int64_t m = 0; m < m_; ++m) {
      weights_at(m, w.data(), own_b.data());
      for (std::int64_t k = 0; k < outputs; ++k) {
        for (std::int64_t f = 0; f < p_; ++f) W[(f * outputs + k) * m_ + m] = w[k * p_ + f];
        b[k * m_ + m] = own_b[k];
      }
    }
    const bool own_rows = a_.validation_X.x != nullptr;
    LossGradientArgs<T> call{};
    call.X = own_rows ? a_.validation_X : a_.X;
    call.y = own_rows ? a_.validation_y : a_.y;
    call.weight = own_rows ? a_.validation_weight : (a_.held_out_weight != nullptr ? a_.held_out_weight : a_.weight);
    call.n_positions = call.X.n_rows;
    call.folds = own_rows ? nullptr : &a_.folds;
    call.split_of_model = a_.split_of_model.data();
    call.use = Use::score;
    call.n_models = m_;
    call.n_outputs = outputs;
    call.W = W.get();
    call.intercept = b.get();
    call.loss = a_.loss;
    call.loss_epsilon = a_.loss_epsilon.empty() ? nullptr : a_.loss_epsilon.data();
    call.mean = true;
    call.loss_out = held_out_.data();
    call.n_threads = a_.n_threads;
    call.poll = poll ? &poll : nullptr;
    call.stop = &stop_;
    loss_gradient(call);
    for (std::int64_t m = 0; m < m_; ++m)
      if (arrivals_.how[m] == Arrival::diverged || !std::isfinite(held_out_[m])) held_out_[m] = std::numeric_limits<double>::quiet_NaN();
    scored_ = !cancelled();
    return scored_;
  }

  const OptimumArgs<T> a_;
  const std::int64_t m_, p_;
  const ParameterShape shape_;
  const std::int64_t size_, stride_;
  const OptimumKernels& kernels_;

 private:
  std::vector<double> held_out_;
  bool scored_ = false;
};

}  // namespace gradfold
