// L-BFGS of many models together (J. Nocedal, "Updating quasi-Newton matrices with limited storage", 1980), and the normal equations.
//
// A model's parameters here are v = scale * w and the intercept at the mean of its training rows: centred and, if asked for,
// standardised, with no copy of X. Where the comoments are known, what L-BFGS starts each direction from is the inverse of
// curvature * comoment + l2, the Hessian of the loss at 0: so the first step is Newton's, and the scales of the columns and what they
// have in common cost no iterations. Whether it is used depends on the shape of X alone, never on who else trains. Where a sample has
// led near the optimum, the curvature is that of its rows there (`rescale`). After `refresh` passes a model's own Hessian takes its place,
// and what was remembered is forgotten: with 1 that is Newton's method.
#include "optimum/models.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>

#include "optimum/hessian.h"
#include "simd/fpenv.h"
#include "threads/team.h"

namespace gradfold {

namespace {

constexpr int kHistory = 10;        // pairs of steps and gradients that are remembered; scipy's default
constexpr double kDecrease = 1e-4;  // Wolfe's conditions
constexpr double kSlope = 0.9;
constexpr double kLonger = 10;      // how much further a step may go that was too short
constexpr int kTries = 20;          // trial points along a direction
// W. Hager, H. Zhang, "A new conjugate gradient method with guaranteed descent and an efficient line search", 2005: near the optimum
// the objective's own rounding hides a decrease, and the slopes tell instead.
constexpr double kApproximate = 0.1;
// What the objective's rounding may hide, as a share of it.
template <class T>
constexpr double kRounding = sizeof(T) == 4 ? 1e-6 : 1e-10;
// The possible decrease that is left must be below this share of tol, relative to the objective.
constexpr double kGap = 1e-3;
// Of the Hessian at 0 in a model's own: rows without a second derivative, as huber's far ones, may have a gradient that their own Hessian
// knows nothing of, and a step without end. Where every row that has a gradient bends the loss, little is enough, and more would hide the
// Hessian behind rows far out; where no step along a direction lowers the objective, there is more in the next.
constexpr double kTrace = 1e-6, kLeastTrace = 1e-10, kMoreTrace = 1e4, kMostTrace = 1;
// The same for the intercept, whose second derivative is 0 up to rounding where every row is saturated.
constexpr double kLevelTrace = 1e-10;
// On a sample of n rows the optimum lies about p / 2n of the objective beside that of all, so that more digits would be for nothing.
constexpr double kSampleGap = 1e-3;
constexpr std::int64_t kSamplePasses = 30;
constexpr std::int64_t kBendShare = 4;  // of the sample's rows that many say how the loss bends
// A loss with rows that do not bend it needs so many that do for each parameter, or a model's own Hessian says whether it has arrived. They
// are counted among so many.
constexpr std::int64_t kBentRows = 4;
constexpr std::int64_t kCheckedRows = 16384;
constexpr double kMinusOne[kGroup] = {-1, -1, -1, -1, -1, -1, -1, -1};
constexpr double kLog2 = 0.6931471805599453;
constexpr double kFloor = 1e-2;  // or to this share of what it is at weights of 0: a perfect fit has an objective of 0
// Pivots below this share of their diagonal leave too few digits in a solution of the normal equations.
constexpr double kIllConditioned = 1e-9;

// One line search.
struct Search {
  double alpha = 0, low = 0, f_low = 0, slope_low = 0, high = 0, f_high = 0;
  bool bracketed = false;
  int tries = 0;

  void start(double first, double f, double slope) { *this = {first, 0, f, slope, 0, 0, false, 0}; }
  void too_long(double f) {
    high = alpha;
    f_high = f;
    bracketed = true;
    between();
  }
  void too_short(double f, double slope) {
    const double before = low, slope_before = slope_low;
    low = alpha;
    f_low = f;
    slope_low = slope;
    if (bracketed) return between();
    // Where the slope would vanish if it went on as it did.
    const double rise = slope - slope_before;
    const double guess = rise > 0 ? alpha - slope * (alpha - before) / rise : kLonger * alpha;
    alpha = std::min(std::max(guess, 1.5 * low), kLonger * low);
  }

 private:
  void between() {
    const double width = high - low;
    const double bend = f_high - f_low - slope_low * width;
    double t = bend > 0 ? -slope_low * width / (2 * bend) : 0.5;  // the minimum of the parabola through what is known
    if (!(t > 0.1)) t = 0.1;
    if (t > 0.9) t = 0.9;
    alpha = low + t * width;
  }
};

template <class T>
class Lbfgs final : public ModelsAtOptimum<T> {
  using Models = ModelsAtOptimum<T>;
  using Models::a_, Models::arrivals_, Models::kernels_, Models::m_, Models::p_, Models::shape_, Models::size_, Models::stop_;
  using Models::cancelled, Models::centre, Models::constant, Models::each_lane, Models::gram, Models::scale, Models::sums,
      Models::settle, Models::weights_at;

 public:
  explicit Lbfgs(OptimumArgs<T> args) : Models(std::move(args)), lanes_(m_), groups_((m_ + kGroup - 1) / kGroup) {
    if (a_.loss != Loss::huber && a_.loss != Loss::modified_huber)
      for (Lane& lane : lanes_) lane.trace = kLeastTrace;
  }

  Status advance(std::int64_t max_passes, double seconds, const std::function<void()>& poll) override {
    FloatingPointGuard guard;
    const Deadline late(seconds);
    if (cancelled()) return Status::interrupted;
    if (max_passes == 0 || late()) return Status::paused;
    if (!prepared_) {
      if (!prepare(late, poll)) return cancelled() ? Status::interrupted : Status::paused;
      if (cancelled()) return Status::interrupted;
      prepared_ = true;
    }
    for (;;) {
      std::vector<std::int64_t> active;
      for (std::int64_t m = 0; m < m_; ++m)
        if (arrivals_.how[m] == Arrival::running && !(sampling_ && lanes_[m].sampled)) active.push_back(m);
      if (active.empty() && sampling_) {
        leave_sample(poll);
        if (cancelled()) return Status::interrupted;
        continue;
      }
      if (active.empty()) break;
      if (max_passes == 0 || late()) return Status::paused;
      if (max_passes > 0) --max_passes;
      if (!pass(active, poll)) return Status::interrupted;
    }
    return this->score(poll) ? Status::done : Status::interrupted;
  }

 protected:
  const double* parameters(std::int64_t m) const override {
    const AlignedArray<double>& at = groups_[m / kGroup].at;
    return at ? at.get() + m % kGroup : nullptr;
  }

 private:
  struct Lane {
    Search search;
    double f = 0, scale_f = 0;           // at the point, and what it is at weights of 0
    bool sampled = false;                // has seen enough of the sample
    bool started = false, fresh = true;  // fresh: no pair is remembered
    bool accepted = false;               // in the last pass
    bool scaled = false;                 // its matrix has the curvature of where it is: pairs do not scale it
    bool again = false;                  // its own Hessian is to be made, whatever its passes
    bool checked = false;                // whether this is the optimum is asked of its own rows' second derivatives here
    double trace = kTrace;               // of the Hessian at 0 in its own
    std::int64_t passes = 0;             // since its matrix was made
  };

  // kGroup models; arrays are [size][kGroup].
  struct Group {
    AlignedArray<double> at, gradient, direction, trial, trial_gradient, work;
    std::vector<AlignedArray<double>> steps, changes;  // the last first
    std::vector<double> inverse = std::vector<double>(kHistory * kGroup, 0.0);  // of step * change
    AlignedArray<double> factor;  // empty: unknown
    // The matrix is of the weights and the intercept at `offset` [n_features] from the centre, whose own element is `level`.
    AlignedArray<double> offset;  // empty: 0
    double level[kGroup];
    double scaling[kGroup];       // of the matrix that each direction starts from
  };

  double epsilon(std::int64_t m) const { return a_.loss_epsilon.empty() ? kLossEpsilon : a_.loss_epsilon[m]; }
  double factor_work() const { return static_cast<double>(p_) * static_cast<double>(p_) * static_cast<double>(p_) / 6; }
  bool knows_curvature() const { return a_.sums[a_.split_of_model[0]].comoment != nullptr; }

  // ---- the start ----

  // Matrices, factors and exact solutions. False when there was no time, or it was cancelled: then nothing has happened.
  bool prepare(const Deadline& late, const std::function<void()>& poll) {
    std::atomic<bool> leaves{false};
    const bool curvature = knows_curvature();
    const double c = curvature_at_zero(a_.loss, a_.n_outputs);
    for (std::int64_t g = 0; g < static_cast<std::int64_t>(groups_.size()); ++g) {
      Group& group = groups_[g];
      std::fill_n(group.scaling, kGroup, 1.0);
      std::fill_n(group.level, kGroup, c);
      group.at = AlignedArray<double>(size_ * kGroup);
    }
    for (std::int64_t m = 0; m < m_; ++m)
      if (this->overflows(sums(m))) arrivals_.how[m] = Arrival::diverged;
    std::vector<AlignedArray<double>> scratch(a_.n_threads), residuals(a_.n_threads);
    for (std::int64_t m = 0; m < m_ && sampling_; ++m)
      if (!(a_.sample_weight[a_.split_of_model[m]] > 0)) lanes_[m].sampled = true;
    packed_.resize(a_.sums.size());
    if (curvature) {
      std::vector<std::int64_t> used = a_.split_of_model;
      std::sort(used.begin(), used.end());
      used.erase(std::unique(used.begin(), used.end()), used.end());
      for (const std::int64_t s : used) packed_[s] = AlignedArray<double>(triangle(p_ + 1));
      constexpr double kDivides = 100;  // an element's divisions, in multiply-adds
      this->each_group(static_cast<std::int64_t>(used.size()), kDivides * static_cast<double>(triangle(p_)), [&](std::int64_t u, int) {
        const std::int64_t s = used[u];
        for (std::int64_t i = 0; i <= p_; ++i)
          for (std::int64_t j = 0; j <= i; ++j) packed_[s][triangle(i) + j] = c * gram(a_.sums[s], i, j);
      }, poll);
    }
    this->each_group(static_cast<std::int64_t>(groups_.size()), factor_work(), [&](std::int64_t g, int thread) {
      Group& group = groups_[g];
      if (leaves || late()) {
        leaves = true;
        return;
      }
      const double* from[kGroup] = {};
      double* factor = nullptr;
      if (curvature) {
        // An exact solution needs its factor once: then a thread's groups share the memory.
        AlignedArray<double>& own = a_.exact ? scratch[thread] : group.factor;
        if (!own) own = AlignedArray<double>(triangle(p_) * kGroup);
        factor = own.get();
        double smallest[kGroup], dropped[kGroup], unchanged[kGroup];
        std::fill_n(unchanged, kGroup, 1.0);
        lane_matrices(g, from);
        factor_sum(g, from, unchanged, factor, smallest, dropped);
        each_lane(g, [&](int l, std::int64_t m) {
          arrivals_.smallest_pivot[m] = smallest[l];
          arrivals_.dropped[m] = static_cast<std::int64_t>(dropped[l]);
        });
      }
      if (a_.exact) {
        if (!residuals[thread]) residuals[thread] = AlignedArray<double>(p_ * kGroup);
        solve_exactly(g, from, factor, residuals[thread].get());
        bool runs = false;
        each_lane(g, [&](int, std::int64_t m) { runs = runs || arrivals_.how[m] == Arrival::running; });
        if (runs) group.factor = std::move(scratch[thread]);
      } else {
        start_at(g);
      }
    }, poll);
    if (!knows_bend()) packed_.clear();
    if (leaves || cancelled()) {
      std::fill(arrivals_.how.begin(), arrivals_.how.end(), Arrival::running);
      return false;
    }
    if (a_.exact && std::all_of(arrivals_.how.begin(), arrivals_.how.end(), [](Arrival h) { return h != Arrival::running; })) return true;
    for (std::int64_t g = 0; g < static_cast<std::int64_t>(groups_.size()); ++g) {
      bool runs = false;
      each_lane(g, [&](int, std::int64_t m) { runs = runs || arrivals_.how[m] == Arrival::running; });
      if (!runs) continue;
      Group& group = groups_[g];
      for (auto* array : {&group.gradient, &group.direction, &group.trial, &group.trial_gradient, &group.work})
        *array = AlignedArray<double>(size_ * kGroup);
      std::copy_n(group.at.get(), size_ * kGroup, group.trial.get());
    }
    return true;
  }

  // The packed matrices of a group's lanes; a lane without a model has the first one's.
  void lane_matrices(std::int64_t g, const double** from) const {
    std::fill_n(from, kGroup, packed_[a_.split_of_model[g * kGroup]].get());
    each_lane(g, [&](int l, std::int64_t m) { from[l] = packed_[a_.split_of_model[m]].get(); });
  }

  // The factor of times * matrix + l2, per lane.
  void factor_sum(std::int64_t g, const double* const* from, const double* times, double* to, double* smallest, double* dropped) const {
    double l2[kGroup];
    std::fill_n(l2, kGroup, a_.l2[g * kGroup]);
    each_lane(g, [&](int l, std::int64_t m) { l2[l] = a_.l2[m]; });
    if (std::all_of(from, from + kGroup, [&](const double* own) { return own == from[0]; })) {  // as most often: of one split
      for (std::int64_t e = 0; e < triangle(p_); ++e)
        for (int l = 0; l < kGroup; ++l) to[e * kGroup + l] = times[l] * from[0][e];
    } else {
      for (std::int64_t e = 0; e < triangle(p_); ++e)
        for (int l = 0; l < kGroup; ++l) to[e * kGroup + l] = times[l] * from[l][e];
    }
    for (std::int64_t i = 0; i < p_; ++i)
      for (int l = 0; l < kGroup; ++l) to[(triangle(i) + i) * kGroup + l] += l2[l];
    kernels_.factor(to, p_, drop_limit(p_), smallest, dropped);
  }

  void start_at(std::int64_t g) {
    Group& group = groups_[g];
    each_lane(g, [&](int l, std::int64_t m) {
      const SplitSums& s = sums(m);
      for (std::int64_t k = 0; k < a_.n_outputs; ++k) {
        double b = a_.intercept_init != nullptr ? a_.intercept_init[m * a_.n_outputs + k] : 0.0;
        for (std::int64_t f = 0; f < p_; ++f) {
          const double w = a_.coef_init != nullptr && !constant(s, f) ? a_.coef_init[(m * a_.n_outputs + k) * p_ + f] : 0.0;
          group.at[(k * p_ + f) * kGroup + l] = w * scale(s, f);
          b = std::fma(w, centre(s, f), b);
        }
        if (a_.fit_intercept) group.at[(shape_.n_weights() + k) * kGroup + l] = b;
      }
    });
  }

  // v = (gram + l2)^-1 (comoment with y), and the mean of y; `from` are the lanes' Gram matrices, `residuals` scratch, [p][kGroup].
  void solve_exactly(std::int64_t g, const double* const* from, const double* factor, double* residuals) {
    Group& group = groups_[g];
    each_lane(g, [&](int l, std::int64_t m) {
      for (std::int64_t f = 0; f < p_; ++f) group.at[f * kGroup + l] = from[l][triangle(p_) + f];
      if (a_.fit_intercept) group.at[p_ * kGroup + l] = sums(m).mean[p_];
    });
    kernels_.solve(factor, p_, group.at.get());
    each_lane(g, [&](int l, std::int64_t m) {
      double* v = group.at.get() + l;
      bool finite = true;
      for (std::int64_t d = 0; d < size_; ++d) finite = finite && std::isfinite(v[d * kGroup]);
      if (!finite) {
        arrivals_.how[m] = Arrival::diverged;
        for (std::int64_t d = 0; d < size_; ++d) v[d * kGroup] = 0;
        return;
      }
      if (arrivals_.smallest_pivot[m] < kIllConditioned || arrivals_.dropped[m] > 0) {  // passes over X refine it
        return;
      }
      if (arrivals_.how[m] != Arrival::running) return;
      arrivals_.how[m] = Arrival::converged;
      arrivals_.n_iter[m] = 1;
      arrivals_.gap[m] = 0;
      this->refuse_overflow(m, v);
    });
    // What the normal equations say of the solutions: the residual of each, and the objective. Reports: no weight depends on them.
    double norm[kGroup] = {}, product[kGroup] = {};
    const double* v = group.at.get();
    kernels_.product(from, p_, v, residuals);
    for (std::int64_t i = 0; i < p_; ++i)
      each_lane(g, [&](int l, std::int64_t m) {
        const double y = from[l][triangle(p_) + i];
        const double residual = residuals[i * kGroup + l] + (a_.l2[m] * v[i * kGroup + l] - y);
        norm[l] = std::max(norm[l], std::abs(residual));
        product[l] += v[i * kGroup + l] * (residual - y);  // v'(G + l2)v - 2 v'y
      });
    each_lane(g, [&](int l, std::int64_t m) {
      if (arrivals_.how[m] != Arrival::converged) return;
      arrivals_.gradient_norm[m] = norm[l];
      arrivals_.objective[m] = std::max(0.0, 0.5 * (from[l][triangle(p_) + p_] + product[l]));
    });
  }

  // ---- one pass ----

  bool pass(const std::vector<std::int64_t>& active, const std::function<void()>& poll) {
    const std::int64_t n = static_cast<std::int64_t>(active.size()), outputs = a_.n_outputs;
    // Trial points into the layout of the gradient's call.
    std::vector<T> own_w(p_ * outputs), own_b(outputs);
    AlignedArray<T> W(p_ * outputs * n), b(outputs * n);
    AlignedArray<double> total(p_ * outputs * n), total_b(outputs * n), loss(n);
    std::vector<std::int64_t> splits(n);
    std::vector<double> epsilon(a_.loss_epsilon.empty() ? 0 : n);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t m = active[i];
      splits[i] = a_.split_of_model[m];
      if (!epsilon.empty()) epsilon[i] = a_.loss_epsilon[m];
      settle(m, groups_[m / kGroup].trial.get() + m % kGroup, own_w.data(), own_b.data());
      for (std::int64_t k = 0; k < outputs; ++k) {
        for (std::int64_t f = 0; f < p_; ++f) W[(f * outputs + k) * n + i] = own_w[k * p_ + f];
        b[k * n + i] = own_b[k];
      }
    }
    LossGradientArgs<T> call{};
    call.X = a_.X;
    call.y = a_.y;
    call.weight = a_.weight;
    call.rows = sampling_ ? a_.sample : nullptr;
    call.n_positions = sampling_ ? a_.n_sample : a_.X.n_rows;
    call.folds = &a_.folds;
    call.split_of_model = splits.data();
    call.n_models = n;
    call.n_outputs = outputs;
    call.W = W.get();
    call.intercept = b.get();
    call.loss = a_.loss;
    call.loss_epsilon = epsilon.empty() ? nullptr : epsilon.data();
    call.mean = false;
    call.loss_out = loss.get();
    call.total_W = total.get();
    call.total_intercept = total_b.get();
    call.n_threads = a_.n_threads;
    call.poll = poll ? &poll : nullptr;
    call.stop = &stop_;
    a_.evaluate(call);
    if (cancelled()) return false;
    const double work = (4 * kHistory + 4.0) * static_cast<double>(size_) +
                        (knows_curvature() ? 2.0 * static_cast<double>(p_) * static_cast<double>(p_ * outputs) : 0.0);
    std::vector<std::int64_t> first(groups_.size() + 1, n);  // of the group's models in `active`
    for (std::int64_t i = n - 1; i >= 0; --i) first[active[i] / kGroup] = i;
    for (std::int64_t g = static_cast<std::int64_t>(groups_.size()) - 1; g >= 0; --g)
      if (first[g] == n || active[first[g]] / kGroup != g) first[g] = first[g + 1];
    this->each_group(static_cast<std::int64_t>(groups_.size()), work, [&](std::int64_t g, int) {
      if (first[g] == first[g + 1]) return;
      take(g, active.data(), first[g], first[g + 1], loss.get(), total.get(), total_b.get(), n);
    });
    if (sampling_) return true;
    std::vector<std::int64_t> due;
    for (const std::int64_t m : active)
      if (knows_bend() && arrivals_.how[m] == Arrival::running && lanes_[m].accepted && arrivals_.n_iter[m] == 1) due.push_back(m);
    rescale(due, poll);
    if (cancelled()) return false;
    due.clear();
    for (const std::int64_t m : active)
      if (arrivals_.how[m] == Arrival::running && lanes_[m].accepted && lanes_[m].checked) due.push_back(m);
    check(due, poll);
    if (cancelled()) return false;
    due.clear();
    for (const std::int64_t m : active)
      if (a_.refresh > 0 && arrivals_.how[m] == Arrival::running &&
          (lanes_[m].again || (lanes_[m].accepted && lanes_[m].passes >= a_.refresh)))
        due.push_back(m);
    const std::size_t most = static_cast<std::size_t>(std::max<std::int64_t>(1, kHessianBytes / hessian_bytes(p_)));
    for (std::size_t begin = 0; begin < due.size(); begin += most) {
      renew({due.begin() + begin, due.begin() + std::min(begin + most, due.size())}, poll);
      if (cancelled()) return false;
    }
    return true;
  }

  // Whether there is a sample of rows whose second derivatives say how the loss bends.
  bool knows_bend() const {
    return a_.sample != nullptr && knows_curvature() && !a_.exact && a_.loss != Loss::squared_error && has_hessian(a_.loss);
  }

  // Directions start from the mean second derivative over the sample's rows, at each model's own point, instead of that at 0, and from one
  // pair: along its weights v the loss bends otherwise than across them. With normal columns that is all of the Hessian, by Stein's lemma:
  // E[h xx'] = E[h] C + E[h''] Cvv'C for h = h(v'x), and E[hx] = E[h'] Cv is its column of the intercept.
  void rescale(const std::vector<std::int64_t>& due, const std::function<void()>& poll) {
    if (due.empty()) return;
    const double c = curvature_at_zero(a_.loss, a_.n_outputs);
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < a_.n_sample; i += kBendShare) rows.push_back(a_.sample[i]);
    const std::vector<CurvatureSums> found = curvatures(due, rows, poll);
    if (cancelled()) return;
    this->each_group(static_cast<std::int64_t>(groups_.size()), factor_work(), [&](std::int64_t g, int) {
      const auto begin = std::lower_bound(due.begin(), due.end(), g * kGroup), end = std::lower_bound(begin, due.end(), (g + 1) * kGroup);
      if (begin == end) return;
      Group& group = groups_[g];
      const double* from[kGroup];
      lane_matrices(g, from);
      double use[kGroup] = {}, bend[kGroup], times[kGroup], smallest[kGroup], dropped[kGroup];
      std::fill_n(times, kGroup, 1.0);
      for (auto at = begin; at != end; ++at) {
        const int l = static_cast<int>(*at % kGroup);
        bend[l] = found[at - due.begin()].h / found[at - due.begin()].weight;
        if (!(bend[l] > 0 && std::isfinite(bend[l]))) continue;  // no row bends the loss any more: what there was is as good
        use[l] = 1;
        times[l] = bend[l] / c + kTrace;
      }
      AlignedArray<double> matrix(triangle(p_) * kGroup), product(p_ * kGroup);
      factor_sum(g, from, times, matrix.get(), smallest, dropped);
      kernels_.product(from, p_, group.at.get(), product.get());  // c * comoment * v
      if (!group.offset) group.offset = AlignedArray<double>(p_ * kGroup);
      for (auto at = begin; at != end; ++at) {
        const std::int64_t m = *at;
        const int l = static_cast<int>(m % kGroup);
        // A matrix of lower rank than the one at 0 is no better.
        if (dropped[l] > static_cast<double>(arrivals_.dropped[m])) use[l] = 0;
        if (use[l] == 0) continue;
        forget(group, l);
        lanes_[m].fresh = lanes_[m].scaled = true;
        lanes_[m].checked = false;  // it has another measure now
        group.level[l] = bend[l] + kLevelTrace * c;
        along_weights(group, m, product.get(), found[at - due.begin()]);
      }
      kernels_.copy_where(use, matrix.get(), triangle(p_), group.factor.get());
      if (sampling_) return;
      turn(group, g, use);
      next_trial(group, g);
    }, poll);
  }

  // The pair along a model's weights, and its intercept's column. `product` is the curvature at 0 * comoment * weights.
  void along_weights(Group& group, std::int64_t m, const double* product, const CurvatureSums& found) {
    const int l = static_cast<int>(m % kGroup);
    const double* const v = group.at.get() + l;
    double square = 0, length = 0;
    for (std::int64_t f = 0; f < p_; ++f) {
      square += v[f * kGroup] * product[f * kGroup + l];
      length += v[f * kGroup] * v[f * kGroup];
    }
    const double mean = a_.fit_intercept && square > 0 ? found.hu / found.h : 0.0;
    for (std::int64_t f = 0; f < p_; ++f) group.offset[f * kGroup + l] = square > 0 ? mean / square * product[f * kGroup + l] : 0.0;
    const double bend = (found.huu - mean * found.hu) / found.weight + kTrace * square;
    const double whole = std::fma(a_.l2[m], length, bend);
    if (!(square > 0 && bend > 0 && std::isfinite(1 / whole))) return;
    if (group.steps.empty()) {
      group.steps.emplace_back(size_ * kGroup);
      group.changes.emplace_back(size_ * kGroup);
    }
    double* const step = group.steps[0].get() + l;
    double* const change = group.changes[0].get() + l;
    for (std::int64_t f = 0; f < p_; ++f) {
      step[f * kGroup] = v[f * kGroup];
      change[f * kGroup] = std::fma(a_.l2[m], v[f * kGroup], bend / square * product[f * kGroup + l]);
    }
    if (a_.fit_intercept) step[p_ * kGroup] = -mean;  // at the rows' mean as the second derivatives weigh them, it stays
    group.inverse[l] = 1 / whole;
    lanes_[m].fresh = false;
  }

  // Models that would have arrived, of a loss whose rows need not bend it: beyond their margin, or within epsilon, they neither pull nor
  // bend, and a matrix of all rows says too little of how far the optimum may be. Where enough rows are left, how much they bend the loss
  // on average and along the weights says it; where they are few, the model's own Hessian.
  void check(const std::vector<std::int64_t>& due, const std::function<void()>& poll) {
    if (due.empty()) return;
    const std::int64_t step = (a_.X.n_rows + kCheckedRows - 1) / kCheckedRows;
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < a_.X.n_rows; i += step) rows.push_back(i);
    const std::vector<CurvatureSums> found = curvatures(due, rows, poll);
    if (cancelled()) return;
    const double c = curvature_at_zero(a_.loss, a_.n_outputs);
    for (std::size_t i = 0; i < due.size(); ++i) {
      const std::int64_t m = due[i];
      if (found[i].bent * step < kBentRows * (p_ + 1)) {
        lanes_[m].again = true;
        lanes_[m].trace = kLeastTrace;
        continue;
      }
      const Group& group = groups_[m / kGroup];
      const double *const v = group.at.get() + m % kGroup, *const gradient = group.gradient.get() + m % kGroup;
      double slope = 0, square = 0;
      for (std::int64_t f = 0; f < p_; ++f) {
        slope = std::fma(gradient[f * kGroup], v[f * kGroup], slope);
        square = std::fma(v[f * kGroup], v[f * kGroup], square);
      }
      double& gap = arrivals_.gap[m];
      if (arrivals_.n_hessians[m] == 0 && !lanes_[m].scaled) gap *= std::max(1.0, c * found[i].weight / found[i].h);
      if (slope != 0) gap = std::max(gap, 0.5 * slope * (slope / std::fma(a_.l2[m], square, found[i].huu / found[i].weight)));
      if (gap <= least(m)) arrivals_.how[m] = Arrival::converged;
      else if (arrivals_.n_iter[m] >= a_.max_iter) arrivals_.how[m] = Arrival::max_iter;
    }
  }

  // The sums of second derivatives over some rows, at each model's own point, about the mean of its raw predictions.
  std::vector<CurvatureSums> curvatures(const std::vector<std::int64_t>& of, const std::vector<std::int64_t>& rows,
                                        const std::function<void()>& poll) {
    const std::int64_t n = static_cast<std::int64_t>(of.size());
    AlignedArray<T> w(n * p_);
    std::vector<CurvatureModel<T>> models;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t m = of[i];
      T b;
      weights_at(m, w.get() + i * p_, &b);
      models.push_back({a_.split_of_model[m], w.get() + i * p_, b, epsilon(m), a_.fit_intercept ? parameters(m)[p_ * kGroup] : 0.0});
    }
    return curvature_sums(a_.X, a_.y, a_.weight, rows.data(), static_cast<std::int64_t>(rows.size()), a_.folds, a_.loss, models, a_.n_threads,
                          poll, &stop_);
  }

  // The Hessian at each model's own point takes the place of the matrix that its directions start from.
  void renew(const std::vector<std::int64_t>& due, const std::function<void()>& poll) {
    const std::int64_t n = static_cast<std::int64_t>(due.size()), one = p_ + 1;
    const double c = curvature_at_zero(a_.loss, a_.n_outputs);
    AlignedArray<T> w(n * p_);
    AlignedArray<double> weight(n), mean(n * one), comoment(n * one * one);
    std::vector<HessianModel<T>> models;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t m = due[i];
      T b;
      weights_at(m, w.get() + i * p_, &b);
      models.push_back({a_.split_of_model[m], w.get() + i * p_, b, epsilon(m), sums(m).mean,
                        {weight.get() + i, mean.get() + i * one, comoment.get() + i * one * one}});
    }
    hessian_moments(a_.X, a_.y, a_.weight, a_.folds, a_.loss, models, a_.n_threads, poll, &stop_);
    if (cancelled()) return;
    std::vector<std::vector<std::int64_t>> of_group(groups_.size());
    for (std::int64_t i = 0; i < n; ++i) of_group[due[i] / kGroup].push_back(i);
    this->each_group(static_cast<std::int64_t>(groups_.size()), factor_work(), [&](std::int64_t g, int) {
      if (of_group[g].empty()) return;
      Group& group = groups_[g];
      AlignedArray<double> matrix(triangle(p_) * kGroup);
      for (std::int64_t i = 0; i < p_; ++i)
        for (int l = 0; l < kGroup; ++l) matrix[(triangle(i) + i) * kGroup + l] = 1;
      if (!group.offset) group.offset = AlignedArray<double>(p_ * kGroup);
      double use[kGroup] = {}, smallest[kGroup], dropped[kGroup];
      for (const std::int64_t i : of_group[g]) {
        const std::int64_t m = due[i];
        const int l = static_cast<int>(m % kGroup);
        lanes_[m].passes = 0;
        lanes_[m].again = false;
        const bool bends = weight[i] > 0;
        if (!bends && !lanes_[m].checked) continue;  // no row bends the loss any more: what there was is as good
        use[l] = 1;
        const SplitSums& s = sums(m);
        for (std::int64_t j = 0; j < p_; ++j)
          for (std::int64_t k = 0; k <= j; ++k) {
            double value = bends ? comoment[(i * one + j) * one + k] : 0.0;
            if (!a_.fit_intercept && bends) value += weight[i] * ((mean[i * one + j] - centre(s, j)) * (mean[i * one + k] - centre(s, k)));
            value = constant(s, j) || constant(s, k) ? (j == k ? 1 : 0)
                                                     : std::fma(lanes_[m].trace * c, gram(s, j, k), value / s.weight / (scale(s, j) * scale(s, k)));
            if (j == k) value += a_.l2[m];
            matrix[(triangle(j) + k) * kGroup + l] = value;
          }
      }
      kernels_.factor(matrix.get(), p_, drop_limit(p_), smallest, dropped);
      for (const std::int64_t i : of_group[g]) {
        const std::int64_t m = due[i];
        const int l = static_cast<int>(m % kGroup);
        // A matrix of lower rank than the one at 0 is no better, but where the question is what those rows say that are left.
        if (dropped[l] > static_cast<double>(arrivals_.dropped[m]) && !lanes_[m].checked) use[l] = 0;
        if (use[l] == 0) continue;
        ++arrivals_.n_hessians[m];
        const SplitSums& s = sums(m);
        for (std::int64_t j = 0; j < p_; ++j)
          group.offset[j * kGroup + l] =
              a_.fit_intercept && !constant(s, j) && weight[i] > 0 ? (mean[i * one + j] - s.mean[j]) / scale(s, j) : 0.0;
        group.level[l] = std::max(0.0, weight[i]) / s.weight + kLevelTrace * c;
        forget(group, l);
        lanes_[m].fresh = lanes_[m].checked = true;
        lanes_[m].scaled = false;
      }
      kernels_.copy_where(use, matrix.get(), triangle(p_), group.factor.get());
      turn(group, g, use);
      next_trial(group, g);
    }, poll);
  }

  // What a pass says of the trial points of a group: active[begin] to active[end - 1] are its models that run.
  void take(std::int64_t g, const std::int64_t* active, std::int64_t begin, std::int64_t end, const double* loss, const double* total,
            const double* total_b, std::int64_t n) {
    Group& group = groups_[g];
    const std::int64_t outputs = a_.n_outputs, weights = shape_.n_weights();
    double f_trial[kGroup] = {}, norm[kGroup] = {}, square[kGroup];
    bool finite[kGroup] = {};
    kernels_.dot(group.trial.get(), group.trial.get(), {p_, outputs, false}, square);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t m = active[i];
      const int l = static_cast<int>(m % kGroup);
      const SplitSums& s = sums(m);
      const double weight = sampling_ ? a_.sample_weight[a_.split_of_model[m]] : s.weight;
      if (!sampling_) ++arrivals_.n_passes[m];
      ++lanes_[m].passes;
      lanes_[m].accepted = false;
      f_trial[l] = std::fma(0.5 * a_.l2[m], square[l], loss[i] / weight);
      double sum = f_trial[l];  // not finite as soon as one of them is not
      for (std::int64_t k = 0; k < outputs; ++k) {
        const double gb = total_b[k * n + i] / weight;
        if (a_.fit_intercept) {
          group.trial_gradient[(weights + k) * kGroup + l] = gb;
          norm[l] = std::max(norm[l], std::abs(gb));
          sum += gb;
        }
        for (std::int64_t f = 0; f < p_; ++f) {
          const std::int64_t d = (k * p_ + f) * kGroup + l;
          double own = 0;
          if (!constant(s, f)) {
            own = std::fma(-centre(s, f), gb, total[(f * outputs + k) * n + i] / weight) / scale(s, f);
            own = std::fma(a_.l2[m], group.trial[d], own);
          }
          group.trial_gradient[d] = own;
          // Without standardising, on X's own scale and about its own zero, as scikit-learn has it.
          norm[l] = std::max(norm[l], std::abs(a_.standardize ? own : std::fma(centre(s, f), gb, own)));
          sum += own;
        }
      }
      finite[l] = std::isfinite(sum);
    }

    // Which points are accepted, and how the others are tried again.
    double accepted[kGroup] = {}, step_gradient[kGroup], step_before[kGroup];
    double* const step = group.work.get();
    std::copy_n(group.trial.get(), size_ * kGroup, step);
    kernels_.add_product(kMinusOne, group.at.get(), size_, step);
    kernels_.dot(step, group.trial_gradient.get(), shape_, step_gradient);
    kernels_.dot(step, group.gradient.get(), shape_, step_before);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t m = active[i];
      const int l = static_cast<int>(m % kGroup);
      Lane& lane = lanes_[m];
      if (!lane.started) {
        if (!finite[l]) {
          finish(m, Arrival::diverged);
          continue;
        }
        accepted[l] = 1;
        continue;
      }
      Search& search = lane.search;
      const double before = step_before[l], slope = step_gradient[l];
      bool good = false;
      if (finite[l] && before < 0) {
        const bool decreases = f_trial[l] <= std::fma(kDecrease, before, lane.f) ||
                               (f_trial[l] <= lane.f + kRounding<T> * std::abs(lane.f) && slope <= (2 * kApproximate - 1) * before);
        const bool long_enough = slope >= kSlope * before;
        good = decreases && long_enough;
        if (!good && decreases) search.too_short(f_trial[l], slope / search.alpha);
        if (!decreases) search.too_long(f_trial[l]);
      } else {
        search.too_long(std::numeric_limits<double>::infinity());
      }
      if (good) {
        accepted[l] = 1;
        continue;
      }
      if (++search.tries < kTries && before < 0) continue;
      if (lane.fresh && arrivals_.n_hessians[m] > 0 && lane.trace < kMostTrace && arrivals_.gap[m] > kRounding<T> * std::abs(lane.f)) {
        lane.trace *= kMoreTrace;
        lane.again = true;
      } else if (lane.fresh) {
        finish(m, Arrival::precision);
      } else {  // once more from here, without the pairs
        forget(group, l);
        lane.fresh = true;
        accepted[l] = -1;
      }
    }

    // Accepted points become the models' own; their steps and changes of the gradient are remembered.
    bool any = false, pairs = false;
    double remember[kGroup] = {};
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t m = active[i];
      const int l = static_cast<int>(m % kGroup);
      Lane& lane = lanes_[m];
      any = any || accepted[l] != 0;
      if (!(accepted[l] > 0)) continue;
      arrivals_.objective[m] = lane.f = f_trial[l];
      arrivals_.gradient_norm[m] = norm[l];
      if (lane.started)
        arrivals_.n_iter[m] += sampling_ ? 0 : 1;
      else
        lane.scale_f = scale_of_objective(m, lane.f);
      lane.accepted = true;
      lane.checked = false;
      remember[l] = lane.started ? 1 : 0;
      pairs = pairs || lane.started;
      lane.started = true;
    }
    if (any) {
      if (pairs) remember_pairs(group, g, remember);
      kernels_.copy_where(accepted, group.trial.get(), size_, group.at.get());
      kernels_.copy_where(accepted, group.trial_gradient.get(), size_, group.gradient.get());
      turn(group, g, accepted);
    }
    next_trial(group, g);
  }

  void next_trial(Group& group, std::int64_t g) {
    double alpha[kGroup] = {};
    each_lane(g, [&](int l, std::int64_t m) { alpha[l] = lanes_[m].search.alpha; });
    std::copy_n(group.at.get(), size_ * kGroup, group.trial.get());
    kernels_.add_product(alpha, group.direction.get(), size_, group.trial.get());
  }

  // What the loss is at weights of 0, whatever weights a model starts from. Of numbers: of one spread of y, about its mean where there is
  // an intercept, since the intercept alone comes so far; of what epsilon leaves of it, no one knows how much was to be fitted.
  double scale_of_objective(std::int64_t m, double at_start) const {
    const SplitSums& s = sums(m);
    switch (a_.loss) {
      case Loss::log_loss:
      case Loss::multinomial: return kLog2 * std::bit_width(static_cast<std::uint64_t>(std::max<std::int64_t>(a_.n_outputs - 1, 1)));  // or a bit more
      case Loss::squared_hinge:
      case Loss::modified_huber: return 1;
      default: break;
    }
    double square = s.comoment != nullptr ? gram(s, p_, p_) : s.y_square;
    if (!(square > 0)) square = s.mean[p_] * s.mean[p_];                    // constant: the intercept has to come to it
    if (!(square > 0 && std::isfinite(square))) return std::abs(at_start);  // there is nothing to fit, or it is beyond float64
    const double spread = std::sqrt(square), linear = epsilon(m);  // from where on
    switch (a_.loss) {
      case Loss::huber: return spread <= linear ? 0.5 * square : linear * (spread - 0.5 * linear);
      case Loss::squared_epsilon_insensitive: return square;
      default: return 0.5 * square;
    }
  }

  double size_of_objective(std::int64_t m) const { return std::max(std::abs(lanes_[m].f), kFloor * lanes_[m].scale_f); }
  // The gap with which a model has arrived.
  double least(std::int64_t m) const { return kGap * a_.tol * size_of_objective(m); }

  // How a model ends; while it sees a sample alone, that it has seen enough of it.
  void finish(std::int64_t m, Arrival how) {
    if (sampling_)
      lanes_[m].sampled = true;
    else
      arrivals_.how[m] = how;
  }

  // From the points that the sample led to, on all rows. Where nothing is known of the bend the pairs stay: the curvature of the sample is
  // nearly that of all.
  void leave_sample(const std::function<void()>& poll) {
    std::vector<std::int64_t> due;
    for (std::int64_t m = 0; m < m_; ++m)
      if (knows_bend() && arrivals_.how[m] == Arrival::running) due.push_back(m);
    rescale(due, poll);
    sampling_ = false;
    for (std::int64_t m = 0; m < m_; ++m) {
      if (arrivals_.how[m] != Arrival::running) continue;
      Lane& lane = lanes_[m];
      lane.started = false;
      lane.passes = 0;
      const Group& group = groups_[m / kGroup];
      for (std::int64_t d = 0; d < size_; ++d) group.trial[d * kGroup + m % kGroup] = group.at[d * kGroup + m % kGroup];
    }
  }

  void forget(Group& group, int l) {
    for (int h = 0; h < kHistory; ++h) {
      group.inverse[h * kGroup + l] = 0;
      for (auto* pairs : {&group.steps, &group.changes})
        if (h < static_cast<int>(pairs->size()))
          for (std::int64_t d = 0; d < size_; ++d) (*pairs)[h][d * kGroup + l] = 0;
    }
    group.scaling[l] = 1;
  }

  // The pair (trial - at, trial_gradient - gradient) of the lanes in `use` becomes their first one; the others' stay.
  void remember_pairs(Group& group, std::int64_t g, double* use) {
    AlignedArray<double> change(size_ * kGroup);
    std::copy_n(group.trial_gradient.get(), size_ * kGroup, change.get());
    kernels_.add_product(kMinusOne, group.gradient.get(), size_, change.get());
    double product[kGroup], square[kGroup], length[kGroup];
    kernels_.dot(group.work.get(), change.get(), shape_, product);
    kernels_.dot(change.get(), change.get(), shape_, square);
    kernels_.dot(group.work.get(), group.work.get(), shape_, length);
    bool any = false;
    for (int l = 0; l < kGroup; ++l) {
      // Nearly orthogonal: no curvature was seen, and there is nothing to learn from.
      if (!(product[l] > std::numeric_limits<double>::epsilon() * std::sqrt(square[l]) * std::sqrt(length[l]))) use[l] = 0;
      any = any || use[l] > 0;
    }
    if (!any) return;
    if (static_cast<int>(group.steps.size()) < kHistory) {
      group.steps.emplace_back(size_ * kGroup);
      group.changes.emplace_back(size_ * kGroup);
    }
    const int n = static_cast<int>(group.steps.size());
    for (int h = n - 1; h > 0; --h) {
      kernels_.copy_where(use, group.steps[h - 1].get(), size_, group.steps[h].get());
      kernels_.copy_where(use, group.changes[h - 1].get(), size_, group.changes[h].get());
    }
    kernels_.copy_where(use, group.work.get(), size_, group.steps[0].get());
    kernels_.copy_where(use, change.get(), size_, group.changes[0].get());
    // How large the curvature is along the step, in the measure of the matrix that directions start from.
    double measured[kGroup] = {};
    bool scaled = true;
    each_lane(g, [&](int l, std::int64_t m) { scaled = scaled && (use[l] == 0 || lanes_[m].scaled); });
    if (!scaled) {
      apply(group, change.get());
      kernels_.dot(group.changes[0].get(), change.get(), shape_, measured);
    }
    for (int l = 0; l < kGroup; ++l) {
      if (!(use[l] > 0)) continue;
      for (int h = n - 1; h > 0; --h) group.inverse[h * kGroup + l] = group.inverse[(h - 1) * kGroup + l];
      group.inverse[l] = 1 / product[l];
      if (g * kGroup + l >= m_) continue;
      Lane& lane = lanes_[g * kGroup + l];
      if (measured[l] > 0 && !lane.scaled) group.scaling[l] = product[l] / measured[l];
      lane.fresh = false;
    }
  }

  // v becomes the inverse of the matrix at the start, times v; without `scaling`.
  void apply(const Group& group, double* v) const {
    if (!group.factor) return;
    const bool moved = static_cast<bool>(group.offset) && a_.fit_intercept;  // then there is one output
    double* const b = v + shape_.n_weights() * kGroup;
    if (moved)
      for (std::int64_t f = 0; f < p_; ++f)
        for (int l = 0; l < kGroup; ++l) v[f * kGroup + l] = std::fma(-group.offset[f * kGroup + l], b[l], v[f * kGroup + l]);
    for (std::int64_t k = 0; k < a_.n_outputs; ++k) kernels_.solve(group.factor.get(), p_, v + k * p_ * kGroup);
    if (!a_.fit_intercept) return;
    for (std::int64_t k = 0; k < a_.n_outputs; ++k)
      for (int l = 0; l < kGroup; ++l) b[k * kGroup + l] /= group.level[l];
    if (moved)
      for (std::int64_t f = 0; f < p_; ++f)
        for (int l = 0; l < kGroup; ++l) b[l] = std::fma(-group.offset[f * kGroup + l], v[f * kGroup + l], b[l]);
  }

  // New directions of the lanes in `use` (those below 0 have met the end of a search), and whether they have arrived.
  void turn(Group& group, std::int64_t g, const double* use) {
    double* const v = group.work.get();
    double product[kHistory][kGroup], negative[kGroup], factor[kGroup];
    std::copy_n(group.gradient.get(), size_ * kGroup, v);
    const int n = static_cast<int>(group.steps.size());
    for (int h = 0; h < n; ++h) {
      kernels_.dot(group.steps[h].get(), v, shape_, product[h]);
      for (int l = 0; l < kGroup; ++l) {
        product[h][l] *= group.inverse[h * kGroup + l];
        negative[l] = -product[h][l];
      }
      kernels_.add_product(negative, group.changes[h].get(), size_, v);
    }
    apply(group, v);
    for (std::int64_t d = 0; d < size_; ++d)
      for (int l = 0; l < kGroup; ++l) v[d * kGroup + l] *= group.scaling[l];
    for (int h = n - 1; h >= 0; --h) {
      kernels_.dot(group.changes[h].get(), v, shape_, factor);
      for (int l = 0; l < kGroup; ++l) factor[l] = std::fma(-factor[l], group.inverse[h * kGroup + l], product[h][l]);
      kernels_.add_product(factor, group.steps[h].get(), size_, v);
    }
    for (std::int64_t d = 0; d < size_ * kGroup; ++d) v[d] = -v[d];
    double turns[kGroup], slope[kGroup], steepest[kGroup];
    for (int l = 0; l < kGroup; ++l) turns[l] = use[l] != 0 ? 1 : 0;
    kernels_.copy_where(turns, v, size_, group.direction.get());
    kernels_.dot(group.direction.get(), group.gradient.get(), shape_, slope);
    kernels_.dot(group.gradient.get(), group.gradient.get(), shape_, steepest);
    each_lane(g, [&](int l, std::int64_t m) {
      if (use[l] == 0 || arrivals_.how[m] != Arrival::running) return;
      Lane& lane = lanes_[m];
      const double gap = arrivals_.gap[m] = -0.5 * slope[l];
      if (sampling_) {
        lane.sampled = lane.sampled || lane.passes >= kSamplePasses || gap <= kSampleGap * size_of_objective(m);
        if (lane.sampled) return;
      }
      if (use[l] > 0 && !sampling_) {
        if (arrivals_.gradient_norm[m] <= a_.tol && gap <= least(m)) {
          if (!(gap > 0 && has_flat_rows_ && a_.refresh > 0 && !lane.checked)) {
            arrivals_.how[m] = Arrival::converged;
            return;
          }
          lane.checked = true;  // `check` sees to it, before its iterations may have come to their end
        } else if (arrivals_.n_iter[m] >= a_.max_iter) {
          arrivals_.how[m] = Arrival::max_iter;
          return;
        }
      }
      if (!(slope[l] < 0)) {
        finish(m, Arrival::precision);
        return;
      }
      // Without curvature the first step is of length 1, as in scipy.
      const double first = lane.fresh && !group.factor ? std::min(1.0, 1.0 / std::sqrt(steepest[l])) : 1.0;
      lane.search.start(first, lane.f, slope[l]);
    });
  }

  std::vector<Lane> lanes_;
  std::vector<Group> groups_;
  // Per split in use the packed lower triangle of its Gram matrix, times the curvature at 0; the last row is that of y.
  std::vector<AlignedArray<double>> packed_;
  bool prepared_ = false;
  const bool has_flat_rows_ = a_.loss != Loss::log_loss && a_.loss != Loss::squared_error && a_.loss != Loss::multinomial;
  bool sampling_ = a_.sample != nullptr && !a_.exact;
};

}  // namespace

template <class T>
std::unique_ptr<Optimizer> make_lbfgs(OptimumArgs<T> args) {
  return std::make_unique<Lbfgs<T>>(std::move(args));
}
template std::unique_ptr<Optimizer> make_lbfgs(OptimumArgs<float>);
template std::unique_ptr<Optimizer> make_lbfgs(OptimumArgs<double>);

}  // namespace gradfold
