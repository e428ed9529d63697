// A quadratic with l1 and l2, of one model: what proximal Newton makes of a loss, and what squared error is.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "gradient/panels.h"
#include "optimum/support_factor.h"

namespace gradfold {

constexpr double kSettled = 1e-10;  // of l1: a violation that is none

inline double sign_of(double v) { return v > 0 ? 1.0 : -1.0; }

// How far a coordinate is from the condition of optimality; `pull` is minus the derivative of all but l1.
inline double violation(double v, double pull, double l1) {
  return v == 0 ? std::max(0.0, std::abs(pull) - l1) : std::abs(pull - l1 * sign_of(v));
}

// The minimum of ½ d' matrix d − q' d + l1 |v + d| + ½ l2 |v + d|², by coordinate descent; v becomes v + d, q what is left of it.
// Where it is slow, as with columns that are nearly the same, the equations of the weights that are not 0, with their signs, are
// solved in turn: weights that would change their signs become 0, and when none does, some that are 0 join (H. Lee, A. Battle, R. Raina,
// A. Y. Ng, "Efficient sparse coding algorithms", 2007, whose feature-sign search takes one at a time).
class Quadratic {
 public:
  // `factor` may be of an earlier quadratic, whose matrix this one's begins with.
  Quadratic(const OptimumKernels& kernels, const double* matrix, std::int64_t n, std::int64_t stride, double l1, double l2, SupportFactor& factor)
      : kernels_(kernels), matrix_(matrix), n_(n), stride_(stride), l1_(l1), l2_(l2), factor_(factor) {}

  template <class Stop>
  void minimize(double* v, double* q, Stop&& stopped) {
    const double start = worst(v, q), target = std::max(kInner * kInner * start, noise(v, q));
    if (!(start > target)) return;
    AlignedArray<double> c(stride_);  // q for v = 0
    std::copy_n(q, n_, c.get());
    take(v, -1.0, c.get());
    if (sweeps(v, q, target, stopped) || supports(v, q, c.get(), target, kSolutions, stopped)) return;
    from_zero(v, q, c.get(), target, stopped);
  }

  // The minimum up to rounding, from near it and without sweeps, if it takes no more than about so many solutions; c [stride] is q for
  // v = 0.
  template <class Stop>
  void settle(double* v, double* q, const double* c, std::int64_t most, Stop&& stopped) {
    double target = noise(v, q);
    // Copies of columns leave more than that to rounding.
    for (std::int64_t a = 0; a < n_; ++a)
      if (divisor(a) > 0) target = std::max(target, kSettled * l1_ * (kSettled * l1_ / divisor(a)));
    const bool done = supports(v, q, c, target, static_cast<int>(std::min<std::int64_t>(kSolutions, most)), stopped);
    if (!done && solutions_ < most) from_zero(v, q, c, target, stopped);
  }

  // Whether some of the weights that are 0 want to be none, and those that do so most, each on its own.
  bool enter(double* v, double* q) const {
    std::vector<std::pair<double, std::int64_t>> wanting;
    for (std::int64_t a = 0; a < n_; ++a)
      if (v[a] == 0 && divisor(a) > 0 && std::abs(q[a]) > l1_) {
        const double own = std::abs(q[a]) - l1_;
        wanting.push_back({-(own * (own / divisor(a))), a});
      }
    std::sort(wanting.begin(), wanting.end());
    const std::size_t most = static_cast<std::size_t>(1 + support(v) / kAtOnce);
    for (std::size_t i = 0; i < wanting.size() && i < most; ++i) {
      const std::int64_t a = wanting[i].second;
      const double beyond = std::abs(q[a]) - l1_;
      if (!(beyond > 0)) continue;  // those before have done enough
      v[a] = sign_of(q[a]) * beyond / divisor(a);
      kernels_.subtract_product(v[a], matrix_ + a * stride_, stride_, q);
    }
    return !wanting.empty();
  }

  // Supports whose equations were solved.
  std::int64_t solutions() const { return solutions_; }

 private:
  // With too many weights none of which is far from 0 it is long to the end. From 0 and down from a large l1 there are few.
  template <class Stop>
  void from_zero(double* v, double* q, const double* c, double target, Stop&& stopped) {
    if (l1_ == 0 || stopped()) return;
    AlignedArray<double> own(stride_), own_q(stride_);
    double most = 0;
    for (std::int64_t a = 0; a < n_; ++a) {
      own_q[a] = c[a];
      most = std::max(most, std::abs(c[a]));
    }
    const double l1 = l1_;
    for (l1_ = std::max(l1, most / kLower); l1_ > l1 && !stopped(); l1_ = std::max(l1, l1_ / kLower)) {
      enter(own.get(), own_q.get());
      supports(own.get(), own_q.get(), c, std::max(target, kInner * worst(own.get(), own_q.get())), kSolutions, stopped);
    }
    l1_ = l1;
    enter(own.get(), own_q.get());
    supports(own.get(), own_q.get(), c, target, kMostSolutions, stopped);
    if (!(value(own.get(), own_q.get(), c) < value(v, q, c))) return;
    std::copy_n(own.get(), n_, v);
    std::copy_n(own_q.get(), n_, q);
  }

  // Whether sweeps came to the target.
  template <class Stop>
  bool sweeps(double* v, double* q, double target, Stop&& stopped) {
    for (std::int64_t sweep = 0; sweep < kSweeps + support(v) / 6 && !stopped(); ++sweep) {
      kernels_.model_sweep({n_, stride_, matrix_, l1_, l2_, v, q});
      if (!(worst(v, q) > target)) return true;  // or NaN
    }
    return false;
  }

  // Whether the equations of supports came to the target, or to the end up to rounding, `most` of them at most.
  template <class Stop>
  bool supports(double* v, double* q, const double* c, double target, int most, Stop&& stopped) {
    for (int solution = 0; worst(v, q) > target; ++solution) {
      if (solution == most || stopped()) return false;
      const bool whole = solve_support(v, q);
      std::copy_n(c, stride_, q);
      take(v, 1.0, q);
      if (whole && !enter(v, q)) return true;
    }
    return true;
  }

  // The matrix times v, with that sign, from q.
  void take(const double* v, double sign, double* q) {
    factors_.clear();
    rows_.clear();
    for (std::int64_t a = 0; a < n_; ++a) {
      if (v[a] == 0) continue;
      factors_.push_back(sign * v[a]);
      rows_.push_back(matrix_ + a * stride_);
    }
    kernels_.subtract_products(factors_.data(), rows_.data(), static_cast<std::int64_t>(rows_.size()), whole_groups(n_), q);
  }

  // Of the quadratic with its penalties, less what it is at v = 0.
  double value(const double* v, const double* q, const double* c) const {
    double sum = 0;
    for (std::int64_t a = 0; a < n_; ++a) sum += l1_ * std::abs(v[a]) + 0.5 * v[a] * (l2_ * v[a] - c[a] - q[a]);
    return sum;
  }
  double divisor(std::int64_t a) const { return matrix_[a * stride_ + a] + l2_; }

  // The largest decrease, times 2, that one coordinate could bring.
  double worst(const double* v, const double* q) const {
    double most = 0;
    for (std::int64_t a = 0; a < n_; ++a) {
      if (!(divisor(a) > 0)) continue;
      const double own = violation(v[a], q[a] - l2_ * v[a], l1_);
      const double decrease = own * (own / divisor(a));
      if (!(decrease <= most)) most = decrease;
    }
    return most;
  }
  // What rounding leaves of it.
  double noise(const double* v, const double* q) const {
    double most = 0;
    for (std::int64_t a = 0; a < n_; ++a) {
      if (!(divisor(a) > 0)) continue;
      const double own = kNoise * (std::abs(q[a]) + l1_ + divisor(a) * std::abs(v[a]));
      most = std::max(most, own * (own / divisor(a)));
    }
    return most;
  }
  std::int64_t support(const double* v) const {
    std::int64_t n = 0;
    for (std::int64_t a = 0; a < n_; ++a) n += v[a] != 0;
    return n;
  }

  // Whether the solution was reached.
  bool solve_support(double* v, const double* q) {
    ++solutions_;
    const std::vector<std::int64_t>& own = factor_.follow(matrix_, stride_, n_, l2_, [&](std::int64_t a) { return v[a] != 0 && divisor(a) > 0; });
    const std::int64_t n = static_cast<std::int64_t>(own.size());
    if (x_.size() < factor_.stride()) x_ = AlignedArray<double>(factor_.stride());
    double* const x = x_.get();
    for (auto* array : {&curved_, &step_, &first_}) array->resize(n);
    double *const curved = curved_.data(), *const step = step_.data();
    for (std::int64_t i = 0; i < n; ++i) x[i] = curved[i] = q[own[i]] - l2_ * v[own[i]] - l1_ * sign_of(v[own[i]]);
    factor_.solve(x);
    double way = 1;  // to the first weight that changes its sign
    for (std::int64_t i = 0; i < n; ++i) {
      const double before = v[own[i]];
      if (!std::isfinite(x[i])) return false;
      curved[i] -= (l2_ + factor_.trace()) * x[i];  // the matrix times x
      if (crosses(before, before + x[i])) way = std::min(way, -before / x[i]);
    }
    // The step to `share` of the way to the solution, where weights that would change their signs end at 0.
    auto go = [&](double share) {
      for (std::int64_t i = 0; i < n; ++i) {
        const double before = v[own[i]], after = before + share * x[i];
        step[i] = crosses(before, after) ? -before : share * x[i];
      }
    };
    // What the quadratic loses by it.
    auto lost = [&](double share) {
      turned_.clear();
      for (std::int64_t i = 0; i < n; ++i)
        if (step[i] != share * x[i]) turned_.push_back(i);
      double sum = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const double* from = matrix_ + own[i] * stride_;
        double product = share * curved[i];
        for (const std::int64_t j : turned_) product += from[own[j]] * (step[j] - share * x[j]);
        const double before = v[own[i]], now = before + step[i];
        sum += step[i] * (q[own[i]] - 0.5 * product - l2_ * (before + 0.5 * step[i])) - l1_ * (std::abs(now) - std::abs(before));
      }
      return sum;
    };
    bool further = way == 1;
    if (further) {
      go(1.0);
    } else {
      // To the first of them the quadratic falls for sure; further on, with all that have turned at 0, most often more.
      for (std::int64_t i = 0; i < n; ++i) {
        const double before = v[own[i]];
        step[i] = crosses(before, before + x[i]) && -before / x[i] <= way ? -before : way * x[i];
      }
      const double least = lost(way);
      std::copy_n(step, n, first_.data());
      for (double share = 1; share > way && !further; share /= 2) {
        go(share);
        further = lost(share) >= least;
      }
    }
    const double* const taken = further ? step : first_.data();
    for (std::int64_t i = 0; i < n; ++i) v[own[i]] = taken[i] == -v[own[i]] ? 0.0 : v[own[i]] + taken[i];
    return way == 1;
  }
  bool crosses(double before, double after) const { return l1_ > 0 && (before > 0 ? after <= 0 : after >= 0); }

  static constexpr double kInner = 1e-2;  // minimize() goes to this share of the violation at its start
  static constexpr int kSweeps = 8;       // before the equations of the support are solved, and a sixth of its columns
  static constexpr int kSolutions = 25;   // of supports, before they are sought from 0, and there at each l1 but the last
  static constexpr int kMostSolutions = 200;
  static constexpr std::int64_t kAtOnce = 8;  // an eighth of a support's columns join it at once
  static constexpr double kLower = 3;         // the factor between two l1 of the way from 0
  static constexpr double kNoise = 16 * std::numeric_limits<double>::epsilon();

  const OptimumKernels& kernels_;
  const double* const matrix_;
  const std::int64_t n_, stride_;
  double l1_;
  const double l2_;
  SupportFactor& factor_;
  std::int64_t solutions_ = 0;
  // Reused from solution to solution.
  AlignedArray<double> x_;
  std::vector<double> curved_, step_, first_, factors_;
  std::vector<std::int64_t> turned_;
  std::vector<const double*> rows_;
};

}  // namespace gradfold
