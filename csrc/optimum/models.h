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
        const double of_it = v[(k * p_ + f) * stride_];
        const T own = w[k * p_ + f] = static_cast<T>(of_it == 0 ? of_it : of_it / scale(s, f));
        if (own != 0) shift = std::fma(static_cast<double>(own), centre(s, f), shift);  // a call, and many weights are 0
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

  // Held-out losses, at the weights as they are returned. False when it was interrupted.
  bool score(const std::function<void()>& poll) {
    if (scored_) return true;
    std::vector<std::int64_t> models;  // that are scored row by row
    if (a_.scored.empty() || a_.validation_X.x != nullptr) {
      for (std::int64_t m = 0; m < m_; ++m) models.push_back(m);
    } else {
      models = score_by_moments(poll);
    }
    if (!models.empty() && !cancelled()) score_rows(models, poll);
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
  const DenseRows<T>& rows_of_scores() const { return a_.validation_X.x != nullptr ? a_.validation_X : a_.X; }
  bool in_order(std::int64_t a, std::int64_t b) const { return a_.split_of_model[a] < a_.split_of_model[b]; }
  // Models whose splits have many go by themselves: their panels then leave out the rows that other splits score.
  void score_rows(std::vector<std::int64_t> models, const std::function<void()>& poll) {
    constexpr std::ptrdiff_t kMany = 16;
    std::stable_sort(models.begin(), models.end(), [this](std::int64_t a, std::int64_t b) { return in_order(a, b); });
    std::vector<std::int64_t> rest;
    for (auto at = models.begin(); at != models.end();) {
      const auto end = std::find_if(at, models.end(), [&](std::int64_t m) { return a_.split_of_model[m] != a_.split_of_model[*at]; });
      if (a_.validation_X.x == nullptr && end - at >= kMany)
        score_together({at, end}, poll);
      else
        rest.insert(rest.end(), at, end);
      at = end;
    }
    score_together(rest, poll);
  }
  // As many at a time as have weights of a quarter of the rows' size.
  void score_together(const std::vector<std::int64_t>& models, const std::function<void()>& poll) {
    constexpr double kLeast = 1 << 20;  // bytes
    const double row = static_cast<double>(p_) * sizeof(T), n_rows = static_cast<double>(rows_of_scores().n_rows);
    const auto most = 1 + static_cast<std::ptrdiff_t>(std::max(kLeast, 0.25 * n_rows * row) / (row * static_cast<double>(a_.n_outputs)));
    for (auto at = models.begin(); at != models.end() && !cancelled();) {
      const auto end = models.end() - at > most ? at + most : models.end();
      score_part({at, end}, poll);
      at = end;
    }
  }
  void score_part(const std::vector<std::int64_t>& models, const std::function<void()>& poll) {
    const std::int64_t outputs = a_.n_outputs, n = static_cast<std::int64_t>(models.size());
    constexpr std::int64_t kTogether = 64 / sizeof(T);  // of a cache line
    std::vector<T> w(kTogether * p_ * outputs), own_b(kTogether * outputs);
    AlignedArray<T> W(p_ * outputs * n), b(outputs * n);
    std::vector<std::int64_t> splits(n);
    std::vector<double> epsilon, losses(n);
    for (std::int64_t first = 0; first < n; first += kTogether) {
      const std::int64_t last = std::min(n, first + kTogether);
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t m = models[i];
        weights_at(m, w.data() + (i - first) * p_ * outputs, own_b.data() + (i - first) * outputs);
        splits[i] = a_.split_of_model[m];
        if (!a_.loss_epsilon.empty()) epsilon.push_back(a_.loss_epsilon[m]);
      }
      for (std::int64_t k = 0; k < outputs; ++k) {
        for (std::int64_t f = 0; f < p_; ++f)
          for (std::int64_t i = first; i < last; ++i) W[(f * outputs + k) * n + i] = w[((i - first) * outputs + k) * p_ + f];
        for (std::int64_t i = first; i < last; ++i) b[k * n + i] = own_b[(i - first) * outputs + k];
      }
    }
    const bool own_rows = a_.validation_X.x != nullptr;
    LossGradientArgs<T> call{};
    call.X = rows_of_scores();
    call.y = own_rows ? a_.validation_y : a_.y;
    call.weight = own_rows ? a_.validation_weight : (a_.held_out_weight != nullptr ? a_.held_out_weight : a_.weight);
    call.n_positions = call.X.n_rows;
    call.folds = own_rows ? nullptr : &a_.folds;
    call.split_of_model = splits.data();
    call.use = Use::score;
    call.n_models = n;
    call.n_outputs = outputs;
    call.W = W.get();
    call.intercept = b.get();
    call.loss = a_.loss;
    call.loss_epsilon = epsilon.empty() ? nullptr : epsilon.data();
    call.mean = true;
    call.loss_out = losses.data();
    call.n_threads = a_.n_threads;
    call.poll = poll ? &poll : nullptr;
    call.stop = &stop_;
    own_rows ? loss_gradient(call) : a_.evaluate(call);
    for (std::int64_t i = 0; i < n; ++i) held_out_[models[i]] = losses[i];
  }

  // The mean of half the squared residual is half of u' C u / weight and the squared mean residual: C the comoments of the scored rows, u
  // the weights and -1 for y. It costs a model n_features^2 where rows cost rows * n_features. Those come back whose loss is too small
  // beside what cancels in it, or beside what rounding to T leaves of a raw prediction: their rows are gone through.
  std::vector<std::int64_t> score_by_moments(const std::function<void()>& poll) {
    constexpr double kCancels = 1e-5, kRounds = 1e-5;
    std::vector<std::int64_t> order(m_), first{0};
    for (std::int64_t m = 0; m < m_; ++m) order[m] = m;
    std::stable_sort(order.begin(), order.end(), [this](std::int64_t a, std::int64_t b) { return in_order(a, b); });
    for (std::int64_t i = 1; i <= m_; ++i)  // a group has one split
      if (i == m_ || i - first.back() == kGroup || a_.split_of_model[order[i]] != a_.split_of_model[order[i - 1]]) first.push_back(i);
    const std::int64_t size = p_ + 1;
    std::vector<std::int64_t> all(size);
    for (std::int64_t f = 0; f < size; ++f) all[f] = f;
    std::vector<char> done(m_, 0);
    each_group(static_cast<std::int64_t>(first.size()) - 1, static_cast<double>(kGroup) * static_cast<double>(size) * static_cast<double>(size), [&](std::int64_t g, int) {
      const SplitSums& s = a_.scored[a_.split_of_model[order[first[g]]]];
      if (s.comoment == nullptr || !(s.weight > 0)) return;
      const int n = static_cast<int>(first[g + 1] - first[g]);
      AlignedArray<double> u(size * kGroup), zero(size * kGroup), means(size * kGroup), product(size * kGroup);
      std::fill_n(u.get(), size * kGroup, 0.0);
      std::fill_n(zero.get(), size * kGroup, 0.0);
      std::vector<T> w(p_);
      T b[kGroup] = {};
      double spread[kGroup] = {}, reach[kGroup] = {};
      for (int l = 0; l < n; ++l) {
        weights_at(order[first[g] + l], w.data(), b + l);
        reach[l] = std::abs(static_cast<double>(b[l]));
        for (std::int64_t f = 0; f < size; ++f) {
          const double own = u[f * kGroup + l] = f < p_ ? static_cast<double>(w[f]) : -1.0;
          spread[l] += std::abs(own) * std::sqrt(s.comoment[f * size + f]);
          if (f < p_) reach[l] += std::abs(own * s.mean[f]);
        }
      }
      for (std::int64_t f = 0; f < size; ++f) std::fill_n(means.get() + f * kGroup, kGroup, s.mean[f]);
      kernels_.residual(s.comoment, size, all.data(), size, u.get(), zero.get(), product.get());  // -C u
      const ParameterShape shape{size, 1, false};
      double square[kGroup], mean[kGroup];
      kernels_.dot(u.get(), product.get(), shape, square);
      kernels_.dot(u.get(), means.get(), shape, mean);  // less the intercept
      for (int l = 0; l < n; ++l) {
        const double off = mean[l] + static_cast<double>(b[l]), twice = -square[l] / s.weight + off * off;
        if (!(twice * s.weight >= kCancels * (spread[l] * spread[l]))) continue;
        if (!(reach[l] * static_cast<double>(std::numeric_limits<T>::epsilon()) <= kRounds * std::sqrt(twice))) continue;
        held_out_[order[first[g] + l]] = 0.5 * twice;
        done[order[first[g] + l]] = 1;
      }
    }, poll);
    std::vector<std::int64_t> rest;
    for (std::int64_t m = 0; m < m_; ++m)
      if (!done[m]) rest.push_back(m);
    return rest;
  }

  std::vector<double> held_out_;
  bool scored_ = false;
};

}  // namespace gradfold
