// The elastic net at its optimum, for squared error: coordinate descent on the Gram matrix (J. Friedman, T. Hastie, R. Tibshirani,
// "Regularization paths for generalized linear models via coordinate descent", 2010) finds which weights are not zero, and with which
// signs. It ends where the duality gap is small enough. Where it does not get there soon, as with columns that are nearly the same, the
// normal equations of the support are solved, or followed to the first weight that they would turn around: it becomes 0, and so on.
//
// Each model goes its own way: it starts from 0 and lowers its own l1 in steps from where the first weight appears, so that few
// coordinates move at a time. To start from the neighbour with the next larger l1 would make a model depend on it; where there are more
// features than rows that matters, and elastic_net_path.cpp has another way.

#include "optimum/elastic_net.h"
#include "optimum/models.h"
#include "simd/fpenv.h"

namespace gradfold {

namespace {

constexpr double kLower = 3;        // the factor between two steps of l1
constexpr double kCoarse = 1e-3;    // a step is done when no coordinate moves the fit by more than this share of y
constexpr double kFine = 1e-4;      // and the last one, at first
constexpr int kSweeps = 10;         // between two looks at the coordinates that rest
constexpr int kPatience = 2;        // looks after which a step before the last counts as done
constexpr int kSolutions = 200;     // supports that are solved at most; then the descent alone goes on
constexpr double kTrace = 1e-10;    // of the largest diagonal element, where the equations of a support have no one solution
constexpr double kBoundary = 1e-9;  // rounding of the conditions of optimality, as a share of l1

}  // namespace

template <class T>
class ElasticNet final : public ModelsAtOptimum<T> {
  using Models = ModelsAtOptimum<T>;
  using Models::a_, Models::arrivals_, Models::kernels_, Models::m_, Models::p_, Models::size_, Models::stop_;
  using Models::cancelled, Models::gram, Models::sums;

 public:
  explicit ElasticNet(OptimumArgs<T> args) : Models(std::move(args)), home_(m_) {
    // Lanes of a group share a Gram matrix.
    std::vector<std::vector<std::int64_t>> of_split(a_.sums.size());
    for (std::int64_t m = 0; m < m_; ++m) of_split[a_.split_of_model[m]].push_back(m);
    for (std::size_t s = 0; s < of_split.size(); ++s)
      for (std::size_t at = 0; at < of_split[s].size(); at += kGroup) {
        Group group;
        group.split = static_cast<std::int64_t>(s);
        group.models.assign(of_split[s].begin() + at, of_split[s].begin() + std::min(at + kGroup, of_split[s].size()));
        for (std::size_t l = 0; l < group.models.size(); ++l)
          home_[group.models[l]] = {static_cast<std::int64_t>(groups_.size()), static_cast<int>(l)};
        groups_.push_back(std::move(group));
      }
  }

  Status advance(std::int64_t max_passes, double seconds, const std::function<void()>& poll) override {
    FloatingPointGuard guard;
    const Deadline late(seconds);
    if (cancelled()) return Status::interrupted;
    if (max_passes == 0 || late()) return Status::paused;
    const std::int64_t n = static_cast<std::int64_t>(groups_.size());
    std::int64_t last = -1;
    AlignedArray<double> matrix(p_ * p_), product(p_);
    // Split by split, so that one Gram matrix is held in these parameters.
    for (std::int64_t first = 0; first < n; first = last) {
      for (last = first; last < n && groups_[last].split == groups_[first].split;) ++last;
      bool all = true;
      for (std::int64_t g = first; g < last; ++g) all = all && groups_[g].done;
      if (all) continue;
      if (late()) return Status::paused;
      const SplitSums& s = a_.sums[groups_[first].split];
      bool finite = !this->overflows(s) && std::isfinite(gram(s, p_, p_));
      for (std::int64_t i = 0; i < p_; ++i) {
        for (std::int64_t j = 0; j < p_; ++j) matrix[i * p_ + j] = gram(s, i, j);
        product[i] = gram(s, i, p_);
        for (std::int64_t j = 0; j < p_; ++j) finite = finite && std::isfinite(matrix[i * p_ + j]);
        finite = finite && std::isfinite(product[i]);
      }
      if (poll) poll();
      std::atomic<std::int64_t> next{first};
      const std::int64_t threads = std::min<std::int64_t>(a_.n_threads, last - first);
      run_team(static_cast<int>(threads), [&](int) {
        for (std::int64_t g = next++; g < last && !late(); g = next++) {
          if (groups_[g].done) continue;
          groups_[g].v = AlignedArray<double>(size_ * kGroup);
          if (finite) {
            descend(groups_[g], s, matrix.get(), product.get());
          } else {
            for (const std::int64_t m : groups_[g].models) arrivals_.how[m] = Arrival::diverged;
          }
          groups_[g].done = !cancelled();
        }
      }, poll);
      if (cancelled()) return Status::interrupted;
      for (std::int64_t g = first; g < last; ++g)
        if (!groups_[g].done) return Status::paused;
    }
    return this->score(poll) ? Status::done : Status::interrupted;
  }

 protected:
  const double* parameters(std::int64_t m) const override {
    const Home& home = home_[m];
    const AlignedArray<double>& v = groups_[home.group].v;
    return v ? v.get() + home.lane : nullptr;
  }

 private:
  struct Home {
    std::int64_t group = 0;
    int lane = 0;
  };
  struct Group {
    std::int64_t split = 0;
    std::vector<std::int64_t> models;
    AlignedArray<double> v;  // [size][kGroup]
    bool done = false;
  };
  // ready: waits for its support to be solved, together with its neighbours'; stepped: went part of the way to the solution.
  enum class Stage { lowering, last, ready, stepped, solved, done };
  struct Lane {
    Stage stage = Stage::lowering;
    double l1 = 0;         // of this step
    double settled = 0;    // no coordinate moves by more: the step is done
    bool rests = false;    // the last sweeps have settled
    int looks = 0;         // of this step
    int solutions = 0;     // supports that were solved
    bool exhausted = false;
    bool alone = false;    // the equations of its support have no one solution: the descent must do
  };

  // Everything of one group while it descends; arrays are [p][kGroup].
  struct Descent {
    AlignedArray<double> c, q, use, v;
    std::vector<std::int64_t> list;  // coordinates that some lane moves
    AlignedArray<double> own_v, own_q, own_use, own_gram;  // of those alone
    double l1[kGroup] = {}, l2[kGroup] = {};
    Lane lanes[kGroup];
    int n_lanes = 0;
  };

  void descend(Group& group, const SplitSums& s, const double* matrix, const double* product) {
    Descent d;
    for (auto* array : {&d.c, &d.q, &d.use, &d.v}) *array = AlignedArray<double>(p_ * kGroup);
    d.n_lanes = static_cast<int>(group.models.size());
    double most = 0;
    for (std::int64_t j = 0; j < p_; ++j) {
      most = std::max(most, std::abs(product[j]));
      for (int l = 0; l < kGroup; ++l) d.c[j * kGroup + l] = product[j];
    }
    const double size = std::sqrt(gram(s, p_, p_));  // the root of the mean square of y
    for (int l = 0; l < kGroup; ++l) {
      Lane& lane = d.lanes[l];
      if (l >= d.n_lanes) {
        lane.stage = Stage::done;
        continue;
      }
      lane.l1 = std::max(a_.l1[group.models[l]], most / kLower);
      lane.settled = kCoarse * size;
      lane.rests = true;
      d.l2[l] = a_.l2[group.models[l]];
    }
    while (!cancelled()) {
      kernels_.residual(matrix, p_, d.list.data(), static_cast<std::int64_t>(d.list.size()), listed(d).get(), d.c.get(), d.q.get());
      bool running = false, moves = false;
      for (int l = 0; l < d.n_lanes; ++l) {
        Stage& stage = d.lanes[l].stage;
        if (stage == Stage::done) continue;
        if (stage != Stage::ready) {
          const std::int64_t m = group.models[l];
          if (arrivals_.n_iter[m] == a_.max_iter) {
            d.lanes[l].exhausted = true;
            stage = Stage::done;
            continue;
          }
          ++arrivals_.n_iter[m];
          decide(d, l, m, size);
        }
        running = running || stage != Stage::done;
        moves = moves || stage == Stage::lowering || stage == Stage::last;
      }
      if (!running) break;
      relist(d);
      if (moves)
        sweep(d, matrix);
      else
        solve(d, matrix, product);
    }
    for (std::int64_t j = 0; j < p_ * kGroup; ++j) group.v[j] = d.v[j];
    // The residual of all once more.
    d.list.clear();
    for (std::int64_t j = 0; j < p_; ++j) d.list.push_back(j);
    kernels_.residual(matrix, p_, d.list.data(), static_cast<std::int64_t>(d.list.size()), listed(d).get(), d.c.get(), d.q.get());
    for (int l = 0; l < d.n_lanes; ++l) {
      const std::int64_t m = group.models[l];
      if (a_.fit_intercept) group.v[p_ * kGroup + l] = s.mean[p_];
      report(d, l, m, gram(s, p_, p_));
      this->refuse_overflow(m, group.v.get() + l);
    }
  }

  // The values of the listed coordinates side by side.
  AlignedArray<double>& listed(Descent& d) const {
    d.own_v = AlignedArray<double>(static_cast<std::int64_t>(d.list.size()) * kGroup);
    for (std::size_t a = 0; a < d.list.size(); ++a) std::copy_n(d.v.get() + d.list[a] * kGroup, kGroup, d.own_v.get() + a * kGroup);
    return d.own_v;
  }

  // What a lane does next, by the residual of its own coordinates alone.
  void decide(Descent& d, int l, std::int64_t m, double size) const {
    Lane& lane = d.lanes[l];
    const double l1 = a_.l1[m];
    if (lane.stage == Stage::stepped) {  // on with the support that is left
      if (lane.solutions++ < kSolutions) {
        lane.stage = Stage::ready;
        return;
      }
      lane.stage = Stage::last;
      lane.alone = true;
    } else if (lane.stage == Stage::solved) {
      lane.stage = Stage::done;
      for (std::int64_t j = 0; j < p_; ++j)  // the conditions of optimality where weights are zero; the others' are solved
        if (d.v[j * kGroup + l] == 0 && std::abs(d.q[j * kGroup + l]) > l1 + kBoundary * (l1 + size)) lane.stage = Stage::last;
      if (lane.stage == Stage::done) return;
      lane.rests = false;
      lane.looks = 0;
    }
    // As many sweeps as a support has columns: six times what a solution of its equations costs, and most often the end without one.
    const std::int64_t patience = lane.stage == Stage::last ? 1 + moving(d, l) / kSweeps : kPatience;
    if (!lane.alone && ++lane.looks > patience) lane.rests = true;
    bool grows = false;
    // Those that want to leave 0 move from now on. `anew`: of the others only those that are not 0.
    auto take_violators = [&](bool anew) {
      for (std::int64_t j = 0; j < p_; ++j) {
        const std::int64_t at = j * kGroup + l;
        if (anew && d.v[at] == 0) d.use[at] = 0;
        if (d.use[at] != 0 || std::abs(d.q[at]) <= lane.l1) continue;
        d.use[at] = 1;
        grows = true;
      }
    };
    take_violators(false);
    while (!grows && lane.rests && lane.stage == Stage::lowering) {
      if (lane.l1 <= l1) {
        lane.stage = Stage::last;
        lane.settled = kFine * size;
        lane.looks = 0;
        lane.rests = false;
        break;
      }
      lane.l1 = std::max(l1, lane.l1 / kLower);
      lane.looks = 0;
      take_violators(true);
    }
    if (grows && lane.stage == Stage::lowering) lane.looks = 0;
    if (lane.stage != Stage::last || (grows && lane.looks <= patience)) return;
    if (gap_of(d, l, m, size * size).gap <= kNearOptimum * a_.tol * size * size) {
      lane.stage = Stage::done;
      return;
    }
    if (!lane.rests) return;
    if (!lane.alone && lane.solutions++ < kSolutions) {
      lane.stage = Stage::ready;
      return;
    }
    lane.settled /= 10;
    lane.rests = false;
  }

  static std::int64_t moving(const Descent& d, int l) {
    std::int64_t n = 0;
    for (const std::int64_t j : d.list) n += d.use[j * kGroup + l] > 0;
    return n;
  }

  // The normal equations of the support of each lane that is ready; what is solved takes the place of what was descended to.
  void solve(Descent& d, const double* matrix, const double* product) const {
    std::vector<std::int64_t> support[kGroup];
    std::int64_t most = 0;
    for (int l = 0; l < d.n_lanes; ++l) {
      if (d.lanes[l].stage != Stage::ready) continue;
      for (std::int64_t j = 0; j < p_; ++j)
        if (d.v[j * kGroup + l] != 0) support[l].push_back(j);
      most = std::max(most, static_cast<std::int64_t>(support[l].size()));
    }
    AlignedArray<double> factor(triangle(most) * kGroup), x(most * kGroup);
    double smallest[kGroup], dropped[kGroup] = {};
    // A support of more columns than there are rows, or of copies, has no one solution: a trace of l2 picks one that is good for a step
    // towards it, which shrinks the support.
    for (int attempt = 0; attempt < 2; ++attempt) {
      for (int l = 0; l < kGroup; ++l) {
        const std::int64_t n = static_cast<std::int64_t>(support[l].size());
        double trace = 0;
        for (std::int64_t i = 0; i < n && dropped[l] > 0; ++i) trace = std::max(trace, kTrace * matrix[support[l][i] * p_ + support[l][i]]);
        for (std::int64_t i = 0; i < most; ++i) {
          for (std::int64_t k = 0; k < i; ++k)
            factor[(triangle(i) + k) * kGroup + l] = i < n ? matrix[support[l][i] * p_ + support[l][k]] : 0.0;
          factor[(triangle(i) + i) * kGroup + l] = i < n ? matrix[support[l][i] * p_ + support[l][i]] + d.l2[l] + trace : 1.0;
        }
      }
      kernels_.factor(factor.get(), most, drop_limit(p_), smallest, dropped);  // not of `most`, which is the neighbours' too
      if (std::all_of(dropped, dropped + kGroup, [](double n) { return n == 0; })) break;
    }
    for (int l = 0; l < kGroup; ++l)
      for (std::size_t i = 0; i < support[l].size(); ++i)
        x[static_cast<std::int64_t>(i) * kGroup + l] = product[support[l][i]] - std::copysign(d.lanes[l].l1, d.v[support[l][i] * kGroup + l]);
    kernels_.solve(factor.get(), most, x.get());
    for (int l = 0; l < d.n_lanes; ++l) {
      if (d.lanes[l].stage != Stage::ready) continue;
      // How far it is to the first weight that turns around.
      double way = 1;
      bool finite = true;
      for (std::size_t i = 0; i < support[l].size(); ++i) {
        const double before = d.v[support[l][i] * kGroup + l], after = x[i * kGroup + l];
        finite = finite && std::isfinite(after);
        if (before > 0 ? after <= 0 : after >= 0) way = std::min(way, before / (before - after));
      }
      if (!finite) {
        d.lanes[l].stage = Stage::last;
        d.lanes[l].alone = true;
        continue;
      }
      d.lanes[l].stage = way < 1 ? Stage::stepped : Stage::solved;
      for (std::size_t i = 0; i < support[l].size(); ++i) {
        double& v = d.v[support[l][i] * kGroup + l];
        const double after = x[i * kGroup + l];
        if (way == 1)
          v = after;
        else if ((v > 0 ? after <= 0 : after >= 0) && v / (v - after) <= way)
          v = 0;
        else
          v = std::fma(way, after - v, v);
      }
    }
  }

  void relist(Descent& d) const {
    d.list.clear();
    for (std::int64_t j = 0; j < p_; ++j) {
      bool any = false;
      for (int l = 0; l < d.n_lanes; ++l) any = any || (d.lanes[l].stage != Stage::done && d.use[j * kGroup + l] > 0);
      if (any) d.list.push_back(j);
    }
  }

  // Sweeps over the coordinates that move, until every lane's have settled.
  void sweep(Descent& d, const double* matrix) const {
    const std::int64_t n = static_cast<std::int64_t>(d.list.size());
    if (n == 0) {
      for (Lane& lane : d.lanes) lane.rests = true;
      return;
    }
    listed(d);
    d.own_q = AlignedArray<double>(n * kGroup);
    d.own_use = AlignedArray<double>(n * kGroup);
    d.own_gram = AlignedArray<double>(n * n);
    for (std::int64_t a = 0; a < n; ++a) {
      for (std::int64_t b = 0; b < n; ++b) d.own_gram[a * n + b] = matrix[d.list[a] * p_ + d.list[b]];
      std::copy_n(d.q.get() + d.list[a] * kGroup, kGroup, d.own_q.get() + a * kGroup);
    }
    bool moves[kGroup];
    double l1[kGroup], largest[kGroup];
    for (int l = 0; l < kGroup; ++l) {
      const Lane& lane = d.lanes[l];
      moves[l] = lane.stage == Stage::lowering || lane.stage == Stage::last;
      l1[l] = lane.l1;
    }
    for (int round = 0; round < kSweeps; ++round) {
      bool any = false;
      for (int l = 0; l < kGroup; ++l) {
        any = any || moves[l];
        for (std::int64_t a = 0; a < n; ++a) d.own_use[a * kGroup + l] = moves[l] ? d.use[d.list[a] * kGroup + l] : 0.0;
      }
      if (!any) break;
      kernels_.sweep({n, d.own_gram.get(), l1, d.l2, d.own_use.get(), d.own_v.get(), d.own_q.get(), largest});
      for (int l = 0; l < kGroup; ++l) {
        if (!moves[l]) continue;
        d.lanes[l].rests = largest[l] <= d.lanes[l].settled;
        moves[l] = !d.lanes[l].rests;
      }
    }
    for (std::int64_t a = 0; a < n; ++a) std::copy_n(d.own_v.get() + a * kGroup, kGroup, d.v.get() + d.list[a] * kGroup);
  }

  struct Gap : NetGap {
    double violation;
  };
  Gap gap_of(const Descent& d, int l, std::int64_t m, double square) const {
    const double l1 = a_.l1[m], l2 = a_.l2[m];
    double fitted = 0, norm1 = 0, norm2 = 0, products = 0, most = 0, violation = 0;
    for (std::int64_t j = 0; j < p_; ++j) {
      const double v = d.v[j * kGroup + l], own = d.q[j * kGroup + l] - l2 * v;
      fitted += v * d.q[j * kGroup + l];
      products += v * d.c[j * kGroup + l];
      norm1 += std::abs(v);
      norm2 += v * v;
      most = std::max(most, std::abs(own));
      violation = std::max(violation, v == 0 ? std::abs(own) - l1 : std::abs(own - std::copysign(l1, v)));
    }
    const double rest = std::max(0.0, square - products - fitted);  // the mean square of r
    return {net_gap(square, rest, products, norm1, norm2, most, l1, l2), std::max(0.0, violation)};
  }

  void report(const Descent& d, int l, std::int64_t m, double square) {
    const Gap found = gap_of(d, l, m, square);
    arrivals_.objective[m] = found.objective;
    arrivals_.gradient_norm[m] = found.violation;
    arrivals_.gap[m] = found.gap;
    if (cancelled() && d.lanes[l].stage != Stage::done) return;
    const bool solved = d.lanes[l].stage == Stage::done && !d.lanes[l].exhausted;
    arrivals_.how[m] = solved || found.gap <= kNearOptimum * a_.tol * square ? Arrival::converged : Arrival::max_iter;
  }

  std::vector<Home> home_;
  std::vector<Group> groups_;
};

template <class T>
std::unique_ptr<Optimizer> make_elastic_net(OptimumArgs<T> args) {
  return std::make_unique<ElasticNet<T>>(std::move(args));
}
template std::unique_ptr<Optimizer> make_elastic_net(OptimumArgs<float>);
template std::unique_ptr<Optimizer> make_elastic_net(OptimumArgs<double>);

}  // namespace gradfold
