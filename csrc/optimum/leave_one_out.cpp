// Leave-one-out of ridge regression in closed form: D. M. Allen, "The relationship between variable selection and data augmentation and a
// method for prediction", 1974 (PRESS); G. H. Golub, M. Heath, G. Wahba, "Generalized cross-validation as a method for choosing a good ridge
// parameter", 1979; the row is taken from the equations by Sherman and Morrison's formula.
//
// The sums are of all rows; the intercept stands at their mean, so that the Hessian falls apart into it and the weights. Per unit of
// their weight W, with G the Gram matrix, q = s_i / W the share of row i, x its columns and y its target, both centred:
//
//     (G + l) w = g       l = l2 * (1 - q)          the split's own penalty: it multiplies the weight that is left
//     (G + l) u = x       h = q * (1 + x'u)         the leverage; without an intercept q * x'u
//     c = q * (y - x'w) / (1 - h)
//     w - c * u           mean of y - c             the model without row i: as if the row had never been there
//
// Models of one l share a factor and w, whatever their l2 and their row. A model whose equations without the row would be left with few
// digits stays `running`: its fold's own sums have more.
#include "optimum/models.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "simd/fpenv.h"

namespace gradfold {

namespace {

// 1 - h below this has lost four of its digits.
constexpr double kLeastSlack = 1e-4;
// The pivots of the split's own matrix are at least 1 - h of those of all rows. Below this share of their diagonals six digits are gone.
constexpr double kLeastPivot = 1e-6;
// A column, or y, of which the row alone brings all of the square but this share has lost three of its digits without it.
constexpr double kLeastVariance = 1e-6;
constexpr std::int64_t kItemModels = 64;       // that a thread takes at once
constexpr std::int64_t kWaveBytes = 64 << 20;  // of factors

template <class T>
class LeaveOneOut final : public ModelsAtOptimum<T> {
  using Models = ModelsAtOptimum<T>;
  using Models::a_, Models::arrivals_, Models::kernels_, Models::m_, Models::p_, Models::shape_;
  using Models::cancelled, Models::centre, Models::constant, Models::gram;

 public:
  explicit LeaveOneOut(OptimumArgs<T> args)
      : Models(std::move(args)), coef_(m_ * p_), intercept_(m_), held_out_(m_, std::numeric_limits<double>::quiet_NaN()), order_(m_) {}

  Status advance(std::int64_t max_passes, double seconds, const std::function<void()>& poll) override {
    FloatingPointGuard guard;
    const Deadline late(seconds);
    if (cancelled()) return Status::interrupted;
    if (max_passes == 0 || late()) return Status::paused;
    if (keys_.empty() && !unclear_) prepare();
    if (unclear_) return Status::done;
    const std::int64_t n_keys = static_cast<std::int64_t>(keys_.size());
    const std::int64_t group_bytes = triangle(p_) * kGroup * static_cast<std::int64_t>(sizeof(double));
    const std::int64_t wave = kGroup * std::max<std::int64_t>(a_.n_threads, kWaveBytes / group_bytes);
    while (next_ < n_keys) {
      if (!solve_wave(next_, std::min(n_keys, next_ + wave), late, poll)) return cancelled() ? Status::interrupted : Status::paused;
      next_ = std::min(n_keys, next_ + wave);
    }
    return Status::done;
  }

  void coef(void* out) const override { std::copy(coef_.begin(), coef_.end(), static_cast<T*>(out)); }
  void intercept(void* out) const override { std::copy(intercept_.begin(), intercept_.end(), static_cast<T*>(out)); }
  std::vector<double> held_out() const override { return held_out_; }

 protected:
  const double* parameters(std::int64_t) const override { return nullptr; }

 private:
  // The models of one penalty: order_[first] to order_[first + n - 1].
  struct Key {
    double penalty;
    std::int64_t first, n;
  };
  // What a key's models share.
  struct Solved {
    double smallest, dropped;
    double value;  // of the objective on all rows, twice
  };
  struct Item {
    std::int64_t key, first, n;
  };
  // Arrays are [n_features][kGroup]: eight rows of X side by side, and what becomes of them.
  struct Scratch {
    AlignedArray<double> x, u, v, w, residual;
    AlignedArray<double> factors, one;  // of a group, and of one of its keys
    void make(std::int64_t n) {
      if (!x)
        for (auto* array : {&x, &u, &v, &w, &residual}) *array = AlignedArray<double>(n);
    }
  };
  // What kGroup models that are solved side by side have of their keys. model < 0: a lane without one.
  struct SideBySide {
    std::int64_t model[kGroup];
    double penalty[kGroup];
    Solved solved[kGroup];
  };

  const SplitSums& all() const { return a_.sums[0]; }
  double weight_of(std::int64_t row) const { return a_.weight != nullptr ? static_cast<double>(a_.weight[row]) : 1.0; }
  // What the sums lose with a row, as a share of its squares about the mean of all rows: with an intercept the mean moves too.
  double loss_of_row(double share) const { return a_.fit_intercept ? share / (1 - share) : share; }

  void prepare() {
    const SplitSums& s = all();
    if (!std::isfinite(s.weight)) {
      unclear_ = true;
      return;
    }
    std::vector<double> penalty(m_);
    for (std::int64_t m = 0; m < m_; ++m) penalty[m] = a_.l2[m] * ((s.weight - weight_of(a_.left_out[m])) / s.weight);
    std::iota(order_.begin(), order_.end(), std::int64_t{0});
    std::stable_sort(order_.begin(), order_.end(), [&](std::int64_t a, std::int64_t b) { return penalty[a] < penalty[b]; });
    for (std::int64_t i = 0; i < m_; ++i) {
      const double own = penalty[order_[i]];
      if (keys_.empty() || keys_.back().penalty != own) keys_.push_back({own, i, 0});
      ++keys_.back().n;
    }
    square_of_y_ = gram(s, p_, p_);
    find_rest();
    packed_ = AlignedArray<double>(triangle(p_));
    square_ = AlignedArray<double>(p_ * p_);
    g_ = AlignedArray<double>(p_ * kGroup);
    centre_ = AlignedArray<double>(p_ * kGroup);
    list_.resize(p_);
    std::iota(list_.begin(), list_.end(), std::int64_t{0});
    for (std::int64_t i = 0; i < p_; ++i) {
      for (std::int64_t j = 0; j <= i; ++j) square_[i * p_ + j] = square_[j * p_ + i] = packed_[triangle(i) + j] = gram(s, i, j);
      for (int l = 0; l < kGroup; ++l) {
        g_[i * kGroup + l] = gram(s, i, p_);
        centre_[i * kGroup + l] = centre(s, i);
      }
    }
    // A column that is constant by a hair's breadth here may not be so without a row.
    for (std::int64_t f = 0; f < p_; ++f) {
      const double variance = s.comoment[f * (p_ + 1) + f] / s.weight, noise = rounding(std::abs(s.mean[f]));
      unclear_ = unclear_ || (constant(s, f) && !(variance <= noise * noise / 4));
    }
  }

  // What the rounding of the means has left: far from zero it is much beside a column's scale, and the Gram matrix is about the true mean.
  // Rows of positive weight in natural order, in chunks of kRowChunk, each from +0.
  void find_rest() {
    const SplitSums& s = all();
    rest_ = AlignedArray<double>(p_ + 1);
    if (!a_.fit_intercept) return;
    AlignedArray<double> sum(p_ + 1);
    for (std::int64_t begin = 0; begin < a_.X.n_rows; begin += kRowChunk) {
      std::fill_n(sum.get(), p_ + 1, 0.0);
      for (std::int64_t i = begin; i < std::min(a_.X.n_rows, begin + kRowChunk); ++i) {
        const double weight = weight_of(i);
        if (weight == 0) continue;
        const T* x = a_.X.row(i);
        for (std::int64_t f = 0; f < p_; ++f) sum[f] += weight * (static_cast<double>(x[f]) - s.mean[f]);
        sum[p_] += weight * (static_cast<double>(a_.y[i]) - s.mean[p_]);
      }
      for (std::int64_t f = 0; f <= p_; ++f) rest_[f] += sum[f];
    }
    for (std::int64_t f = 0; f <= p_; ++f) rest_[f] /= s.weight;
  }

  // What rounding may make of a column of this size, as column_scales has it.
  double rounding(double size) const { return static_cast<double>(a_.X.n_rows) * std::numeric_limits<double>::epsilon() * size; }

  // Factors and solutions of keys [begin, end), then their models. False when there was no time, or it was cancelled.
  bool solve_wave(std::int64_t begin, std::int64_t end, const Deadline& late, const std::function<void()>& poll) {
    const std::int64_t n = end - begin, groups = (n + kGroup - 1) / kGroup, size = triangle(p_);
    const double square = static_cast<double>(p_) * static_cast<double>(p_);
    std::vector<AlignedArray<double>> factors(groups), solutions(groups);  // of the keys that have many models
    std::vector<Solved> solved(groups * kGroup);
    std::vector<Scratch> scratch(a_.n_threads);
    std::atomic<bool> leaves{false};
    this->each_group(groups, square * static_cast<double>(p_) / 6, [&](std::int64_t g, int thread) {
      if (leaves || late()) {
        leaves = true;
        return;
      }
      Scratch& own = scratch[thread];
      own.make(p_ * kGroup);
      if (!own.factors) own.factors = AlignedArray<double>(size * kGroup);
      const std::int64_t first = begin + g * kGroup, n_keys = std::min<std::int64_t>(kGroup, end - first);
      factor(first, n_keys, own, solved.data() + g * kGroup);
      std::int64_t most = 0;
      for (std::int64_t k = 0; k < n_keys; ++k) most = std::max(most, keys_[first + k].n);
      if (most < kGroup) {  // a model of each key side by side, as with weights of the rows' own: the bits are the same
        for (std::int64_t round = 0; round < most; ++round) leave_out(one_of_each(first, n_keys, round, solved.data() + g * kGroup), nullptr, own);
        return;
      }
      factors[g] = std::move(own.factors);
      solutions[g] = AlignedArray<double>(p_ * kGroup);
      std::copy_n(own.w.get(), p_ * kGroup, solutions[g].get());
    }, poll);
    if (leaves || cancelled()) return false;
    for (Scratch& s : scratch) s.factors = {};
    std::vector<Item> items;
    for (std::int64_t k = 0; k < n; ++k) {
      const Key& key = keys_[begin + k];
      for (std::int64_t at = 0; factors[k / kGroup] && at < key.n; at += kItemModels)
        items.push_back({k, key.first + at, std::min(kItemModels, key.n - at)});
    }
    const double work = 2 * square * static_cast<double>(std::min<std::int64_t>(kItemModels, m_)) / 8;
    this->each_group(static_cast<std::int64_t>(items.size()), work, [&](std::int64_t i, int thread) {
      if (leaves || late()) {
        leaves = true;
        return;
      }
      Scratch& own = scratch[thread];
      own.make(p_ * kGroup);
      if (!own.one) own.one = AlignedArray<double>(size);
      const Item& item = items[i];
      const std::int64_t g = item.key / kGroup, lane = item.key % kGroup;
      for (std::int64_t e = 0; e < size; ++e) own.one[e] = factors[g][e * kGroup + lane];
      for (std::int64_t f = 0; f < p_; ++f)
        for (int l = 0; l < kGroup; ++l) own.w[f * kGroup + l] = solutions[g][f * kGroup + lane];
      for (std::int64_t at = 0; at < item.n; at += kGroup) {
        SideBySide lanes;
        for (std::int64_t l = 0; l < kGroup; ++l) {
          lanes.model[l] = at + l < item.n ? order_[item.first + at + l] : -1;
          lanes.penalty[l] = keys_[begin + item.key].penalty;
          lanes.solved[l] = solved[item.key];
        }
        leave_out(lanes, own.one.get(), own);
      }
    }, poll);
    return !leaves && !cancelled();
  }

  SideBySide one_of_each(std::int64_t first, std::int64_t n_keys, std::int64_t round, const Solved* solved) const {
    SideBySide lanes;
    for (std::int64_t l = 0; l < kGroup; ++l) {
      const Key& key = keys_[l < n_keys ? first + l : first];
      lanes.model[l] = l < n_keys && round < key.n ? order_[key.first + round] : -1;
      lanes.penalty[l] = key.penalty;
      lanes.solved[l] = solved[l];
    }
    return lanes;
  }

  // The factors of n keys from `first` on, at most kGroup, and their solutions in `own.w`.
  void factor(std::int64_t first, std::int64_t n, Scratch& own, Solved* solved) const {
    double* const to = own.factors.get();
    double penalty[kGroup], smallest[kGroup], dropped[kGroup], product[kGroup];
    for (int l = 0; l < kGroup; ++l) penalty[l] = keys_[l < n ? first + l : first].penalty;
    for (std::int64_t e = 0; e < triangle(p_); ++e)
      for (int l = 0; l < kGroup; ++l) to[e * kGroup + l] = packed_[e];
    for (std::int64_t i = 0; i < p_; ++i)
      for (int l = 0; l < kGroup; ++l) to[(triangle(i) + i) * kGroup + l] += penalty[l];
    kernels_.factor(to, p_, drop_limit(p_), smallest, dropped);
    std::copy_n(g_.get(), p_ * kGroup, own.w.get());
    kernels_.solve(to, p_, own.w.get());
    kernels_.dot(own.w.get(), g_.get(), {p_, 1, false}, product);
    for (int l = 0; l < kGroup; ++l) solved[l] = {smallest[l], dropped[l], square_of_y_ - product[l]};
  }

  // `factor` is that of all lanes; null: each has its own, in own.factors. own.w are the solutions on all rows.
  void leave_out(const SideBySide& lanes, const double* factor, Scratch& own) {
    const SplitSums& s = all();
    const ParameterShape columns{p_, 1, false};
    std::int64_t row[kGroup];
    double share[kGroup], lost[kGroup], y[kGroup], c[kGroup], slack[kGroup];
    std::int64_t some = 0;  // whose row stands in for that of a lane without a model
    for (int l = 0; l < kGroup; ++l) some = std::max(some, lanes.model[l]);
    for (int l = 0; l < kGroup; ++l) {
      row[l] = a_.left_out[lanes.model[l] >= 0 ? lanes.model[l] : some];
      share[l] = weight_of(row[l]) / s.weight;
      lost[l] = loss_of_row(share[l]);
      y[l] = static_cast<double>(a_.y[row[l]]) - (a_.fit_intercept ? s.mean[p_] : 0.0) - rest_[p_];
    }
    for (std::int64_t f = 0; f < p_; ++f)
      for (int l = 0; l < kGroup; ++l)
        own.x[f * kGroup + l] = constant(s, f) ? 0.0 : static_cast<double>(a_.X.row(row[l])[f]) - centre_[f * kGroup] - rest_[f];
    std::copy_n(own.x.get(), p_ * kGroup, own.u.get());
    if (factor != nullptr)
      kernels_.solve_shared(factor, p_, own.u.get());
    else
      kernels_.solve(own.factors.get(), p_, own.u.get());
    double leverage[kGroup], fitted[kGroup], left[kGroup];
    kernels_.dot(own.x.get(), own.u.get(), columns, leverage);
    kernels_.dot(own.x.get(), own.w.get(), columns, fitted);
    for (int l = 0; l < kGroup; ++l) {
      slack[l] = 1 - share[l] * (a_.fit_intercept ? 1 + leverage[l] : leverage[l]);
      left[l] = (y[l] - fitted[l]) / slack[l];
      c[l] = -(share[l] * left[l]);
    }
    std::copy_n(own.w.get(), p_ * kGroup, own.v.get());
    kernels_.add_product(c, own.u.get(), p_, own.v.get());

    // What the normal equations without the row say of it, per unit of the weight that is left. A report: no weight depends on it.
    double norm[kGroup] = {}, without[kGroup];
    kernels_.residual(square_.get(), p_, list_.data(), p_, own.v.get(), g_.get(), own.residual.get());
    kernels_.dot(own.x.get(), own.v.get(), columns, without);
    for (std::int64_t f = 0; f < p_; ++f)
      for (int l = 0; l < kGroup; ++l) {
        const std::int64_t at = f * kGroup + l;
        const double gradient = lanes.penalty[l] * own.v[at] - own.residual[at] + lost[l] * own.x[at] * (y[l] - without[l]);
        norm[l] = std::max(norm[l], std::abs(gradient / (1 - share[l])));
      }

    bool use[kGroup];
    for (int l = 0; l < kGroup; ++l)
      use[l] = lanes.model[l] >= 0 && lanes.solved[l].dropped == 0 && lanes.solved[l].smallest * slack[l] >= kLeastPivot &&
               slack[l] >= kLeastSlack && 1 - share[l] >= kLeastSlack && std::isfinite(c[l]);
    // What the row alone brought into a column, or into y, must not be all there is to it: the digits of the rest are those of the whole. And
    // the weight of a column that is constant without the row is 0, exactly.
    for (int l = 0; l < kGroup; ++l) use[l] = use[l] && lost[l] * (y[l] * y[l]) <= (1 - kLeastVariance) * square_of_y_;
    for (std::int64_t f = 0; f < p_; ++f) {
      if (constant(s, f)) continue;
      const double all_of_it = packed_[triangle(f) + f];
      for (int l = 0; l < kGroup; ++l) {
        const double x = own.x[f * kGroup + l];
        const double noise = a_.fit_intercept ? 2 * rounding(std::abs(s.mean[f]) + lost[l] * std::abs(x)) : 0.0;
        use[l] = use[l] && all_of_it - lost[l] * (x * x) >= kLeastVariance * all_of_it && all_of_it - lost[l] * (x * x) >= noise * noise;
      }
    }

    // Weights as they are returned: the intercept makes up for their rounding at the mean.
    double shift[kGroup];
    for (std::int64_t d = 0; d < p_ * kGroup; ++d) own.v[d] = static_cast<double>(static_cast<T>(own.v[d]));
    kernels_.dot(own.v.get(), centre_.get(), columns, shift);
    for (int l = 0; l < kGroup; ++l) {
      const std::int64_t m = lanes.model[l];
      if (m < 0) continue;
      T* const w = coef_.data() + m * p_;
      const T b = static_cast<T>((a_.fit_intercept ? s.mean[p_] + (rest_[p_] + c[l]) : 0.0) - shift[l]);
      bool finite = std::isfinite(b);
      for (std::int64_t f = 0; f < p_; ++f) {
        w[f] = static_cast<T>(own.v[f * kGroup + l]);
        finite = finite && std::isfinite(w[f]);
      }
      if (!use[l] || !finite) {
        std::fill_n(w, p_, T(0));
        continue;
      }
      intercept_[m] = b;
      held_out_[m] = held_out_loss(row[l], w, b);
      arrivals_.how[m] = Arrival::converged;
      arrivals_.n_iter[m] = 1;
      arrivals_.gap[m] = 0;
      arrivals_.smallest_pivot[m] = lanes.solved[l].smallest * slack[l];
      arrivals_.objective[m] = 0.5 * std::max(0.0, lanes.solved[l].value - share[l] * (y[l] - fitted[l]) * left[l]) / (1 - share[l]);
      arrivals_.gradient_norm[m] = norm[l];
    }
  }

  // Of the weights as they are returned, in the order of loss_gradient.
  double held_out_loss(std::int64_t row, const T* w, T b) const {
    const T* weights = a_.held_out_weight != nullptr ? a_.held_out_weight : a_.weight;
    const double weight = weights != nullptr ? static_cast<double>(weights[row]) : 1.0;
    const T* x = a_.X.row(row);
    T z = 0;
    for (std::int64_t begin = 0; begin < p_; begin += kFeatureChunk) {
      T sum = 0;
      for (std::int64_t f = begin; f < std::min(p_, begin + kFeatureChunk); ++f) sum = std::fma(x[f], w[f], sum);
      z += sum;
    }
    const T apart = z + b - a_.y[row];
    const double loss = weight * static_cast<double>(T(0.5) * (apart * apart)) / weight;
    return weight > 0 && std::isfinite(loss) ? loss : std::numeric_limits<double>::quiet_NaN();
  }

  std::vector<T> coef_, intercept_;
  std::vector<double> held_out_;
  std::vector<std::int64_t> order_, list_;  // models by key; 0 to n_features - 1
  std::vector<Key> keys_;
  AlignedArray<double> packed_, square_, g_, centre_, rest_;  // the Gram matrix twice, its column of y, the means and their rounding
  double square_of_y_ = 0;
  std::int64_t next_ = 0;
  bool unclear_ = false;  // nobody's equations are solved here
};

}  // namespace

template <class T>
std::unique_ptr<Optimizer> make_leave_one_out(OptimumArgs<T> args) {
  return std::make_unique<LeaveOneOut<T>>(std::move(args));
}
template std::unique_ptr<Optimizer> make_leave_one_out(OptimumArgs<float>);
template std::unique_ptr<Optimizer> make_leave_one_out(OptimumArgs<double>);

}  // namespace gradfold
