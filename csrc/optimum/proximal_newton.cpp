// log_loss with l1, and l2, at its optimum: the proximal Newton method (J. Friedman, T. Hastie, R. Tibshirani, "Regularization paths for
// generalized linear models via coordinate descent", 2010; J. D. Lee, Y. Sun, M. A. Saunders, "Proximal Newton-type methods for
// minimizing composite functions", 2014). A pass over X gives every model its loss and gradient at a trial point. Around the point that
// it accepts, the loss becomes a quadratic with the model's own Hessian, whose minimum with the penalties coordinate descent finds; the
// way there is searched backwards on the objective.
//
// The Hessian is that of a working set of columns alone: those with a weight, and those whose gradient is beyond l1, the worst first,
// up to twice as many as have a weight. So memory and time go by what the optimum uses, not by the number of columns. All others
// are judged at each point, by the gradient of all columns that a pass gives anyway.
//
// Each model starts from 0 and the best intercept: to start from the neighbour with the next larger l1 would make it depend on it.
#include "optimum/models.h"

#include <cmath>
#include <utility>

#include "optimum/hessian.h"
#include "optimum/quadratic.h"
#include "simd/simd.h"

namespace gradfold {

namespace {

constexpr double kDecrease = 1e-4;  // of the slope: Armijo's condition
constexpr int kTries = 20;          // trial points along a direction
constexpr int kTriesInNoise = 4;    // where rounding hides what there is to win
constexpr int kPatience = 10;       // steps there without a smaller violation
// What the objective's rounding may hide, as a share of it; there the violation must fall to this share instead.
template <class T>
constexpr double kRounding = sizeof(T) == 4 ? 1e-6 : 1e-10;
constexpr double kFalls = 0.9;
// As for L-BFGS: the decrease that may be left, as a share of tol and of the objective, or of this share of it at weights of 0.
constexpr double kGap = 1e-3;
constexpr double kFloor = 1e-2;
constexpr double kLog2 = 0.6931471805599453;

constexpr std::int64_t kStart = 32;           // columns of the first working set, at most
constexpr double kNear = 0.8;                 // of l1: gradients of columns that fill what is left of a working set
constexpr double kKeep = 0.2;                 // a Hessian serves again where the violation has fallen to this share

constexpr double kBend = 1e-14;       // of the Hessian at 0, in every Hessian

template <class T>
class ProximalNewton final : public ModelsAtOptimum<T> {
  using Models = ModelsAtOptimum<T>;
  using Models::a_, Models::arrivals_, Models::kernels_, Models::m_, Models::p_, Models::size_, Models::stop_;
  using Models::cancelled, Models::centre, Models::constant, Models::scale, Models::settle, Models::sums, Models::weights_at;

 public:
  explicit ProximalNewton(OptimumArgs<T> args) : Models(std::move(args), 1), models_(m_) {
    for (std::int64_t m = 0; m < m_; ++m) {
      models_[m].at = AlignedArray<double>(size_);
      if (this->overflows(sums(m))) arrivals_.how[m] = Arrival::diverged;
    }
  }

  Status advance(std::int64_t max_passes, double seconds, const std::function<void()>& poll) override {
    FloatingPointGuard guard;
    const Deadline late(seconds);
    if (cancelled()) return Status::interrupted;
    for (;;) {
      std::vector<std::int64_t> active;
      for (std::int64_t m = 0; m < m_; ++m)
        if (arrivals_.how[m] == Arrival::running) active.push_back(m);
      if (active.empty()) break;
      if (max_passes == 0 || late()) return Status::paused;
      if (max_passes > 0) --max_passes;
      if (!pass(active, poll)) return Status::interrupted;
    }
    return this->score(poll) ? Status::done : Status::interrupted;
  }

 protected:
  const double* parameters(std::int64_t m) const override { return models_[m].at.get(); }

 private:
  // Where a model is: its first pass is at 0, its second at 0 and the best intercept; then its trial points lie along a direction.
  enum class Stage { zero, intercept, search };
  // What it needs before its next pass.
  enum class Need { nothing, direction, hessian };

  struct Model {
    AlignedArray<double> at, trial, direction, gradient, trial_gradient;  // [size]; gradients are the loss's alone
    Stage stage = Stage::zero;
    Need need = Need::nothing;
    double f = 0;        // the objective
    double slope = 0;    // along the direction
    double alpha = 1;
    int tries = 0;
    double least = std::numeric_limits<double>::infinity();  // the smallest measure of violations yet
    int idle = 0;        // steps in the noise since then
    bool last = false;   // too many of them
    double inside = 0, outside = 0;  // measures of the violations in the working set, and beyond it
    double left = 0;                 // what the columns beyond it may lower the objective by
    // The working set and its Hessian per unit of weight: centred by the means that the second derivatives weight, which lie at
    // `offset` from the point's own centre; `level` is that of the intercept.
    std::vector<std::int64_t> columns;
    std::vector<double> offset;
    AlignedArray<double> matrix;
    std::int64_t stride = 0;
    double level = 0;
    bool known = false;  // there is one
    bool fresh = false;  // and it is that of the point
  };

  // The variance of a column in the parameters here.
  double variance(const SplitSums& s, std::int64_t f) const {
    if (a_.standardize) return 1.0;
    return s.scale[f] > 0 && std::isfinite(s.scale[f]) ? s.scale[f] * s.scale[f] : 1.0;
  }

  // ---- one pass ----

  // f(i) for all items of `list`, on as many threads as their work is worth.
  template <class F>
  void each(const std::vector<std::int64_t>& list, double work, F&& f, const std::function<void()>& poll) const {
    this->each_group(static_cast<std::int64_t>(list.size()), work, [&](std::int64_t i, int) { f(i); }, poll);
  }

  bool pass(const std::vector<std::int64_t>& active, const std::function<void()>& poll) {
    const std::int64_t n = static_cast<std::int64_t>(active.size());
    std::vector<T> own_w(p_);
    AlignedArray<T> W(p_ * n), b(n);
    AlignedArray<double> total(p_ * n), total_b(n), loss(n);
    std::vector<std::int64_t> splits(n);
    for (std::int64_t i = 0; i < n; ++i) {
      Model& model = models_[active[i]];
      if (!model.trial) {
        for (auto* array : {&model.trial, &model.direction, &model.gradient, &model.trial_gradient}) *array = AlignedArray<double>(size_);
      }
      splits[i] = a_.split_of_model[active[i]];
      settle(active[i], model.trial.get(), own_w.data(), b.get() + i);
      for (std::int64_t f = 0; f < p_; ++f) W[f * n + i] = own_w[f];
    }
    LossGradientArgs<T> call{};
    call.X = a_.X;
    call.y = a_.y;
    call.weight = a_.weight;
    call.n_positions = a_.X.n_rows;
    call.folds = &a_.folds;
    call.split_of_model = splits.data();
    call.n_models = n;
    call.n_outputs = 1;
    call.W = W.get();
    call.intercept = b.get();
    call.loss = a_.loss;
    call.mean = false;
    call.loss_out = loss.get();
    call.total_W = total.get();
    call.total_intercept = total_b.get();
    call.n_threads = a_.n_threads;
    call.poll = poll ? &poll : nullptr;
    call.stop = &stop_;
    a_.evaluate(call);
    if (cancelled()) return false;
    each(active, 16.0 * static_cast<double>(size_), [&](std::int64_t i) {
      Model& model = models_[active[i]];
      const SplitSums& s = sums(active[i]);
      const double gb = total_b[i] / s.weight;
      for (std::int64_t f = 0; f < p_; ++f)
        model.trial_gradient[f] = constant(s, f) ? 0.0 : std::fma(-centre(s, f), gb, total[f * n + i] / s.weight) / scale(s, f);
      if (a_.fit_intercept) model.trial_gradient[p_] = gb;
      take(active[i], loss[i] / s.weight, gb);
    }, poll);
    if (cancelled()) return false;
    // Hessians, then directions; a direction may find that its Hessian is too old.
    for (;;) {
      std::vector<std::int64_t> due, turning;
      for (const std::int64_t m : active) {
        if (arrivals_.how[m] != Arrival::running || models_[m].need == Need::nothing) continue;
        if (models_[m].need == Need::hessian) due.push_back(m);
        turning.push_back(m);
      }
      if (turning.empty()) break;
      for (const std::int64_t m : due) choose_columns(m);
      for (std::size_t begin = 0, end = 0; begin < due.size(); begin = end) {
        std::int64_t bytes = 0;
        for (; end < due.size(); ++end) {
          bytes += hessian_bytes(static_cast<std::int64_t>(models_[due[end]].columns.size()));
          if (end > begin && bytes > kHessianBytes) break;
        }
        renew({due.begin() + begin, due.begin() + end}, poll);
        if (cancelled()) return false;
      }
      double work = 0;
      for (const std::int64_t m : turning) work += 16.0 * static_cast<double>(models_[m].stride) * static_cast<double>(models_[m].stride);
      each(turning, work / static_cast<double>(turning.size()), [&](std::int64_t i) { turn(turning[i]); }, poll);
      if (cancelled()) return false;
    }
    for (const std::int64_t m : active)
      if (arrivals_.how[m] != Arrival::running) release(models_[m]);
    return true;
  }

  static void release(Model& model) {
    for (auto* array : {&model.trial, &model.direction, &model.gradient, &model.trial_gradient, &model.matrix}) *array = {};
    model.columns = {};
    model.offset = {};
  }

  // The largest violations in the model's working set and beyond it, squared and by the variance of the column: so they are twice
  // what the objective could lose, but for the second derivative of the loss. Without a working set all are beyond it.
  struct Measures {
    double inside = 0, outside = 0, left = 0, norm = 0;
    double most() const { return std::max(inside, outside); }
  };
  Measures measure(std::int64_t m, const double* at, const double* gradient) const {
    const Model& model = models_[m];
    const SplitSums& s = sums(m);
    const double l1 = a_.l1[m], l2 = a_.l2[m], gb = a_.fit_intercept ? gradient[p_] : 0.0;
    Measures out;
    std::size_t next = 0;
    for (std::int64_t f = 0; f < p_; ++f) {
      const bool inside = next < model.columns.size() && model.columns[next] == f;
      next += inside;
      if (constant(s, f)) continue;
      const double pull = -std::fma(l2, at[f], gradient[f]), own = violation(at[f], pull, l1), share = own * own / variance(s, f);
      double& most = inside ? out.inside : out.outside;
      most = std::max(most, share);
      if (!inside && own > 0) out.left += 0.5 * own * own / (model.level * variance(s, f) + l2);
      // Without standardising, on X's own scale and about its own zero, as for L-BFGS.
      out.norm = std::max(out.norm, a_.standardize ? own : violation(at[f], std::fma(-centre(s, f), gb, pull), l1));
    }
    out.inside = std::max(out.inside, gb * gb);
    out.norm = std::max(out.norm, std::abs(gb));
    return out;
  }

  // What a pass says of a trial point.
  void take(std::int64_t m, double loss, double gb) {
    Model& model = models_[m];
    ++arrivals_.n_passes[m];
    double size = 0, square = 0, sum = loss + gb;
    for (std::int64_t f = 0; f < p_; ++f) {
      const double v = model.trial[f];
      size += std::abs(v);
      square += v * v;
      sum += model.trial_gradient[f];
    }
    const double value = loss + (a_.l1[m] * size + 0.5 * a_.l2[m] * square);
    const bool finite = std::isfinite(sum + value);  // not as soon as one of them is not
    if (model.stage != Stage::search) {
      if (!finite) {
        arrivals_.how[m] = Arrival::diverged;
        return;
      }
      if (model.stage == Stage::zero && a_.fit_intercept) {
        // At 0 the derivative of a row is ½ less its label: the mean tells the share of ones, and so the best intercept.
        const double share = 0.5 - gb, odds = share / (1 - share);
        if (share > 0 && share < 1 && odds > 0 && std::isfinite(odds)) {
          double best;
          math_apply(current_level(), MathFunction::log, &odds, &best, 1);
          model.trial[p_] = best;
          model.stage = Stage::intercept;
          return;
        }
      }
      model.stage = Stage::search;
      accept(m, value);
      return;
    }
    bool good = finite && value <= std::fma(kDecrease, model.alpha * model.slope, model.f);
    if (!good && finite && value <= model.f + kRounding<T> * std::abs(model.f)) {
      // The objective's rounding hides what was won; the violation shows it.
      const double before = std::max(model.inside, model.outside);
      good = measure(m, model.trial.get(), model.trial_gradient.get()).most() <= kFalls * kFalls * before;
    }
    if (good) {
      ++arrivals_.n_iter[m];
      const bool noise = in_noise(model);
      accept(m, value);
      const double now = std::max(model.inside, model.outside);
      if (!noise || now <= kFalls * kFalls * model.least)
        model.idle = 0;
      else if (++model.idle >= kPatience)
        model.last = true;
      model.least = std::min(model.least, now);
      return;
    }
    if (!model.fresh) {
      model.need = Need::hessian;
    } else if (++model.tries >= (in_noise(model) ? kTriesInNoise : kTries)) {
      arrivals_.how[m] = Arrival::precision;
    } else {
      model.alpha /= 2;
      next_trial(model);
    }
  }

  static bool in_noise(const Model& model) { return -model.slope <= kRounding<T> * std::abs(model.f); }

  void accept(std::int64_t m, double value) {
    Model& model = models_[m];
    std::swap(model.at, model.trial);
    std::swap(model.gradient, model.trial_gradient);
    const double before = std::max(model.inside, model.outside);
    const Measures now = measure(m, model.at.get(), model.gradient.get());
    arrivals_.objective[m] = model.f = value;
    arrivals_.gradient_norm[m] = now.norm;
    model.inside = now.inside;
    model.outside = now.outside;
    model.left = now.left;
    model.fresh = false;
    // A Hessian costs more than a pass. One that has brought the model so far will serve once more, or say that it has arrived.
    const bool serves = model.known && (now.norm <= a_.tol || (now.outside <= now.inside && now.most() <= kKeep * kKeep * before));
    model.need = serves ? Need::direction : Need::hessian;
  }

  void next_trial(Model& model) const {
    for (std::int64_t d = 0; d < size_; ++d) model.trial[d] = model.at[d] + model.alpha * model.direction[d];
  }

  // The working set at the point.
  void choose_columns(std::int64_t m) {
    Model& model = models_[m];
    const SplitSums& s = sums(m);
    const double l1 = a_.l1[m], l2 = a_.l2[m];
    std::vector<std::pair<double, std::int64_t>> ranked;  // less is sooner
    std::int64_t support = 0;
    for (std::int64_t f = 0; f < p_; ++f) support += model.at[f] != 0;
    const bool fits = 2 * support <= kMostColumns;
    for (std::int64_t f = 0; f < p_; ++f) {
      if (constant(s, f)) continue;
      const double own = std::abs(model.gradient[f]), root = std::sqrt(variance(s, f));
      if (model.at[f] != 0) {
        // Before all others; where there is no room for that, by violation as they are.
        const double far = violation(model.at[f], -std::fma(l2, model.at[f], model.gradient[f]), l1) / root;
        ranked.push_back({(fits ? -2.0 : 0.0) - far / (1 + far), f});
      } else if (own > l1) {
        const double far = (own - l1) / root;
        ranked.push_back({-far / (1 + far), f});
      } else if (own > kNear * l1) {
        ranked.push_back({(l1 - own) / root, f});
      }
    }
    const std::size_t most = static_cast<std::size_t>(std::min(kMostColumns, std::max(kStart, 2 * support)));
    std::sort(ranked.begin(), ranked.end());
    if (ranked.size() > most) ranked.resize(most);
    model.columns.clear();
    for (const auto& [rank, f] : ranked) model.columns.push_back(f);
    std::sort(model.columns.begin(), model.columns.end());
  }

  // The Hessian at each model's own point, over its working set.
  void renew(const std::vector<std::int64_t>& due, const std::function<void()>& poll) {
    const std::int64_t n = static_cast<std::int64_t>(due.size());
    AlignedArray<T> w(n * p_);
    AlignedArray<double> weight(n);
    std::vector<AlignedArray<double>> shift(n), mean(n), comoment(n);
    std::vector<HessianModel<T>> models;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t m = due[i];
      const std::vector<std::int64_t>& columns = models_[m].columns;
      const std::int64_t k = static_cast<std::int64_t>(columns.size());
      T b;
      weights_at(m, w.get() + i * p_, &b);
      for (auto* array : {&shift[i], &mean[i]}) *array = AlignedArray<double>(k + 1);
      comoment[i] = AlignedArray<double>((k + 1) * (k + 1));
      for (std::int64_t j = 0; j < k; ++j) shift[i][j] = sums(m).mean[columns[j]];
      static const std::int64_t none = 0;  // no column is not all columns
      models.push_back({a_.split_of_model[m], w.get() + i * p_, b, kLossEpsilon, shift[i].get(),
                        {weight.get() + i, mean[i].get(), comoment[i].get()}, columns.empty() ? &none : columns.data(), k});
    }
    hessian_moments(a_.X, a_.y, a_.weight, a_.folds, a_.loss, models, a_.n_threads, poll, &stop_);
    if (cancelled()) return;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t m = due[i];
      Model& model = models_[m];
      const SplitSums& s = sums(m);
      const std::int64_t k = static_cast<std::int64_t>(model.columns.size());
      ++arrivals_.n_hessians[m];
      model.stride = whole_groups(k);
      model.matrix = AlignedArray<double>(k * model.stride);
      model.offset.assign(k, 0.0);
      model.level = weight[i] / s.weight;
      model.known = model.fresh = true;
      for (std::int64_t j = 0; j < k; ++j) {
        const std::int64_t f = model.columns[j];
        const double from = mean[i][j] - centre(s, f);
        if (a_.fit_intercept) model.offset[j] = (mean[i][j] - s.mean[f]) / scale(s, f);
        for (std::int64_t l = 0; l <= j; ++l) {
          const std::int64_t other = model.columns[l];
          double value = comoment[i][j * (k + 1) + l];
          if (!a_.fit_intercept) value += weight[i] * (from * (mean[i][l] - centre(s, other)));
          value = value / s.weight / (scale(s, f) * scale(s, other));
          // Rows that are told apart without a doubt bend the loss no more: a trace keeps the steps finite.
          if (j == l) value = std::fma(kBend * 0.25, variance(s, f), value);
          model.matrix[j * model.stride + l] = model.matrix[l * model.stride + j] = value;
        }
      }
      if (model.need == Need::hessian) model.need = Need::direction;
      // What is inside and what is not has changed.
      const Measures now = measure(m, model.at.get(), model.gradient.get());
      model.inside = now.inside;
      model.outside = now.outside;
      model.left = now.left;
    }
  }

  // The direction to the minimum of the quadratic, and whether the model has arrived.
  void turn(std::int64_t m) {
    Model& model = models_[m];
    const double l1 = a_.l1[m], l2 = a_.l2[m];
    const std::int64_t k = static_cast<std::int64_t>(model.columns.size());
    const double gb = a_.fit_intercept ? model.gradient[p_] : 0.0;
    model.need = Need::nothing;
    // The intercept's own step leaves the others a quadratic without it.
    AlignedArray<double> v(std::max<std::int64_t>(model.stride, kGroup)), q(std::max<std::int64_t>(model.stride, kGroup));
    for (std::int64_t j = 0; j < k; ++j) {
      v[j] = model.at[model.columns[j]];
      q[j] = std::fma(model.offset[j], gb, -model.gradient[model.columns[j]]);
    }
    SupportFactor factor(kernels_);
    Quadratic(kernels_, model.matrix.get(), k, model.stride, l1, l2, factor).minimize(v.get(), q.get(), [this] { return cancelled(); });
    if (cancelled()) return;
    std::fill_n(model.direction.get(), size_, 0.0);
    double slope = 0, shift = model.level > 0 ? -gb / model.level : 0.0;
    for (std::int64_t j = 0; j < k; ++j) {
      const std::int64_t f = model.columns[j];
      const double before = model.at[f], step = v[j] - before;
      model.direction[f] = step;
      shift = std::fma(-model.offset[j], step, shift);
      slope += std::fma(l2, before, model.gradient[f]) * step + l1 * (std::abs(v[j]) - std::abs(before));
    }
    if (a_.fit_intercept) {
      model.direction[p_] = shift;
      slope += gb * shift;
    }
    model.slope = slope;
    const double gap = arrivals_.gap[m] = std::max(0.0, -0.5 * slope) + model.left;
    if (std::isfinite(slope)) {
      if (arrivals_.gradient_norm[m] <= a_.tol && gap <= kGap * a_.tol * std::max(std::abs(model.f), kFloor * kLog2)) {
        arrivals_.how[m] = Arrival::converged;
        return;
      }
      if (arrivals_.n_iter[m] >= a_.max_iter) {
        arrivals_.how[m] = Arrival::max_iter;
        return;
      }
    }
    // With columns beyond the working set that matter, or a Hessian of another point that leads nowhere.
    const bool late = arrivals_.gradient_norm[m] <= a_.tol || model.outside > model.inside;
    if (!model.fresh && (late || !(slope < 0))) {
      model.need = Need::hessian;
      return;
    }
    if (!(slope < 0) || model.last) {
      arrivals_.how[m] = Arrival::precision;
      return;
    }
    model.alpha = 1;
    model.tries = 0;
    next_trial(model);
  }

  std::vector<Model> models_;
};

}  // namespace

template <class T>
std::unique_ptr<Optimizer> make_proximal_newton(OptimumArgs<T> args) {
  return std::make_unique<ProximalNewton<T>>(std::move(args));
}
template std::unique_ptr<Optimizer> make_proximal_newton(OptimumArgs<float>);
template std::unique_ptr<Optimizer> make_proximal_newton(OptimumArgs<double>);

}  // namespace gradfold
