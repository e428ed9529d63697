// The elastic net at its optimum, for squared error, where there are more features than rows: no Gram matrix of all columns is made.
//
// Models of one split go down a ladder of penalties: from the smallest l1 at which every weight is 0, by a fixed factor from rung to
// rung, each rung starting from the one above. The ladder is the split's own, and so are its rungs, whichever models there are: a
// model starts from the last rung above it, and no rung or model starts from a model. So many models share one way down, as in J.
// Friedman, T. Hastie, R. Tibshirani, "Regularization paths for generalized linear models via coordinate descent", 2010, and none
// depends on its neighbours. The ladder of a model with l2 has l2 in proportion to l1, by a power of two.
//
// A point is sought on the columns that have come in so far, whose products with each other are known, by the equations of supports
// (quadratic.h); then the residual is held against all columns, and those that violate the conditions of optimality come in.
#include "optimum/models.h"

#include <atomic>
#include <cmath>
#include <map>
#include <utility>

#include "optimum/elastic_net.h"
#include "optimum/quadratic.h"
#include "train/moments.h"

namespace gradfold {

namespace {

constexpr double kRung = 0.8;                  // l1 of a rung, as a share of the one above
constexpr double kLowest = 1e-9;               // of the first l1: where the ladder ends
constexpr int kNoLadder = std::numeric_limits<int>::max();
constexpr int kWithoutL2 = std::numeric_limits<int>::min();
constexpr std::size_t kTogether = 4;            // models that look at all columns together
constexpr double kBeyond = kSettled;           // rounding of the conditions of optimality, as a share of l1 and of the columns' own sizes
constexpr double kArrived = 1e-6;              // of l1: a violation that an optimum may have
constexpr std::size_t kFewLadders = 4;          // for a thread
constexpr std::size_t kSplitFrom = 16;          // models of a part of a ladder

// The training rows of one split, their columns as they are needed, and the products of those that have come in. Everything is in the
// parameters of the models, each row times the root of its share of the weight.
template <class T>
class Columns {
 public:
  // What is seen from a point: the products of every column with the residual there, whose mean square is `square`.
  struct View {
    std::vector<double> q;
    double square = 0;
  };

  Columns(const OptimumArgs<T>& a, std::int64_t split, const double* centre, const double* scale, const OptimumKernels& kernels)
      : X_(a.X), centre_(centre), scale_(scale), kernels_(kernels), moments_(moment_kernels<T>(current_level())) {
    const double total = a.sums[split].weight;
    std::vector<std::int64_t> rows(X_.n_rows);
    rows.resize(folds_indices(a.folds, split, Role::train, X_.n_rows, rows.data()));
    double sum = 0, first = 0;
    for (const std::int64_t row : rows) {
      const double weight = a.weight != nullptr ? static_cast<double>(a.weight[row]) : 1.0;
      if (weight == 0) continue;
      if (x_.empty()) first = static_cast<double>(a.y[row]);  // so that a mean far beyond the scale costs no digits
      x_.push_back(X_.row(row));
      root_.push_back(std::sqrt(weight / total));
      y_.push_back(static_cast<double>(a.y[row]));
      sum = std::fma(weight, y_.back() - first, sum);
    }
    mean_y_ = a.fit_intercept ? first + sum / total : 0.0;
    n_ = static_cast<std::int64_t>(x_.size());
    padded_ = whole_groups(n_);
    target_ = AlignedArray<double>(padded_);
    residual_ = AlignedArray<double>(padded_);
    for (std::int64_t i = 0; i < n_; ++i) target_[i] = (y_[i] - mean_y_) * root_[i];
    place_.assign(X_.n_features, -1);
    std::vector<double> squares(n_);
    for (std::int64_t i = 0; i < n_; ++i) squares[i] = root_[i] * root_[i];
    square_.assign(X_.n_features, 0.0);
    moments_.sums(x_.data(), squares.data(), n_, X_.n_features, centre_, square_.data());
    for (std::int64_t f = 0; f < X_.n_features; ++f) square_[f] /= scale_[f] * scale_[f];
    look({nullptr}, 0, {&start_});
    const double size = std::sqrt(square());
    for (std::int64_t f = 0; f < X_.n_features; ++f) rounding_.push_back(square_[f] > 0 ? kBeyond * std::sqrt(square_[f]) * size : std::numeric_limits<double>::infinity());
  }

  double mean_y() const { return mean_y_; }
  // Mean squares of y and of a column, and the mean of their product.
  double square() const { return start_.square; }
  double square(std::int64_t f) const { return square_[f]; }
  double product(std::int64_t f) const { return start_.q[f]; }
  const View& start() const { return start_; }
  const double* products() const { return own_product_.get(); }  // of those that are in

  std::int64_t size() const { return static_cast<std::int64_t>(features_.size()); }
  std::int64_t stride() const { return stride_; }
  std::int64_t n_padded() const { return padded_; }
  const double* values(std::int64_t a) const { return columns_[a]; }
  const double* gram() const { return gram_.get(); }
  std::int64_t feature(std::int64_t a) const { return features_[a]; }
  bool is_in(std::int64_t f) const { return place_[f] >= 0; }
  // What rounding may make of a product with the residual; infinite for a column that never comes in.
  double rounding(std::int64_t f) const { return rounding_[f]; }
  void leave_out(std::int64_t f) { rounding_[f] = std::numeric_limits<double>::infinity(); }

  void add(const std::vector<std::int64_t>& features) {
    const std::int64_t n = size(), more = static_cast<std::int64_t>(features.size());
    while (n + more > stride_) grow();
    for (std::int64_t k = 0; k < more; ++k) {
      place_[features[k]] = n + k;
      features_.push_back(features[k]);
      if (static_cast<std::int64_t>(values_.size()) == n + k) values_.emplace_back(padded_);
      columns_.push_back(values_[n + k].get());
      own_product_[n + k] = start_.q[features[k]];
    }
    for (std::int64_t i = 0; i < n_; ++i)
      for (std::int64_t k = 0; k < more; ++k) {
        const std::int64_t f = features[k];
        values_[n + k][i] = (static_cast<double>(x_[i][f]) - centre_[f]) / scale_[f] * root_[i];
      }
    kernels_.products(columns_.data() + n, more, columns_.data(), n + more, padded_, gram_.get() + n * stride_, stride_);
    for (std::int64_t a = 0; a < n; ++a)
      for (std::int64_t k = n; k < n + more; ++k) gram_[a * stride_ + k] = gram_[k * stride_ + a];
  }
  // Only the first n stay.
  void keep(std::int64_t n) {
    while (size() > n) {
      place_[features_.back()] = -1;
      features_.pop_back();
      columns_.pop_back();
    }
  }

  // From points with weights v of the first n columns that are in.
  void look(const std::vector<const double*>& v, std::int64_t n, const std::vector<View*>& views) {
    const std::size_t many = v.size();
    by_.resize(many * n_);
    std::vector<double> factors;
    std::vector<const double*> by, support;
    std::vector<double*> out;
    for (std::size_t k = 0; k < many; ++k) {
      factors.clear();
      support.clear();
      for (std::int64_t a = 0; a < n; ++a) {
        if (v[k][a] == 0) continue;
        factors.push_back(v[k][a]);
        support.push_back(columns_[a]);
      }
      std::copy_n(target_.get(), padded_, residual_.get());
      kernels_.subtract_products(factors.data(), support.data(), static_cast<std::int64_t>(support.size()), padded_, residual_.get());
      for (std::int64_t i = 0; i < n_; ++i) by_[k * n_ + i] = residual_[i] * root_[i];
      views[k]->square = dot(residual_.get(), residual_.get());
      views[k]->q.resize(X_.n_features);
      by.push_back(by_.data() + k * n_);
      out.push_back(views[k]->q.data());
    }
    moments_.centred(x_.data(), by.data(), static_cast<std::int64_t>(many), n_, X_.n_features, centre_, out.data());
    for (double* q : out)
      for (std::int64_t f = 0; f < X_.n_features; ++f) q[f] /= scale_[f];
  }

 private:
  double dot(const double* a, const double* b) const {
    double out;
    kernels_.products(&a, 1, &b, 1, padded_, &out, 1);
    return out;
  }
  void grow() {
    const std::int64_t wider = whole_groups(std::min(std::max<std::int64_t>(32, stride_ + stride_ / 2), kMostColumns));
    AlignedArray<double> gram(wider * wider);
    for (std::int64_t a = 0; a < stride_; ++a) std::copy_n(gram_.get() + a * stride_, stride_, gram.get() + a * wider);
    gram_ = std::move(gram);
    AlignedArray<double> product(wider);
    std::copy_n(own_product_.get(), stride_, product.get());
    own_product_ = std::move(product);
    stride_ = wider;
  }

  const DenseRows<T> X_;
  const double *const centre_, *const scale_;
  const OptimumKernels& kernels_;
  const MomentKernels<T>& moments_;
  std::vector<const T*> x_;
  std::vector<double> root_, y_;
  double mean_y_ = 0;
  std::int64_t n_ = 0, padded_ = 0, stride_ = 0;
  AlignedArray<double> target_, residual_, gram_, own_product_;
  std::vector<double> square_, rounding_, by_;
  View start_;  // from weights of 0
  std::vector<std::int64_t> features_, place_;  // of the columns that are in, in the order in which they came; where a feature is, or -1
  std::vector<AlignedArray<double>> values_;  // and of some that went
  std::vector<const double*> columns_;
};

template <class T>
class ElasticNetPath final : public ModelsAtOptimum<T> {
  using Models = ModelsAtOptimum<T>;
  using Models::a_, Models::arrivals_, Models::kernels_, Models::m_, Models::p_, Models::size_, Models::cancelled;

 public:
  explicit ElasticNetPath(OptimumArgs<T> args) : Models(std::move(args), 1), v_(m_) {
    std::map<std::pair<std::int64_t, int>, std::vector<std::int64_t>> ladders;
    for (std::int64_t m = 0; m < m_; ++m) ladders[{a_.split_of_model[m], kind(m)}].push_back(m);
    for (auto& [key, models] : ladders) {
      std::stable_sort(models.begin(), models.end(), [&](std::int64_t a, std::int64_t b) { return a_.l1[a] > a_.l1[b]; });
      ladders_.push_back({key.first, key.second, std::move(models)});
    }
    cut(static_cast<std::size_t>(a_.n_threads));
  }

  Status advance(std::int64_t max_passes, double seconds, const std::function<void()>& poll) override {
    FloatingPointGuard guard;
    const Deadline late(seconds);
    if (cancelled()) return Status::interrupted;
    if (max_passes == 0 || late()) return Status::paused;
    const std::int64_t n = static_cast<std::int64_t>(ladders_.size());
    std::atomic<std::int64_t> next{0};
    run_team(static_cast<int>(std::min<std::int64_t>(a_.n_threads, n)), [&](int) {
      for (std::int64_t i = next++; i < n && !late(); i = next++) descend(ladders_[i], late);
    }, poll);
    if (cancelled()) return Status::interrupted;
    for (const Arrival how : arrivals_.how)
      if (how == Arrival::running) return Status::paused;
    return this->score(poll) ? Status::done : Status::interrupted;
  }

 protected:
  const double* parameters(std::int64_t m) const override { return v_[m] ? v_[m].get() : nullptr; }

 private:
  struct Ladder {
    std::int64_t split;
    int kind;  // the binary exponent of l2 / l1 on it, or one of the two above
    std::vector<std::int64_t> models;
  };
  using View = typename Columns<T>::View;
  // A rung, or a model on its way from one.
  struct Point {
    double l1 = 0, l2 = 0;
    AlignedArray<double> v, q;  // of the columns that are in, and room for more
    std::int64_t n = 0;         // how many those are
    std::int64_t solutions = 0;
    View view;
  };

  int kind(std::int64_t m) const {
    if (a_.l1[m] == 0) return kNoLadder;
    const double ratio = a_.l2[m] / a_.l1[m];
    return ratio > 0 ? std::ilogb(ratio) : kWithoutL2;  // of a subnormal or infinite ratio, too
  }

  // Where whole ladders leave threads without work at the end, those left over are cut. Each part walks down on its own, so the lower a
  // part is, the fewer models it gets.
  void cut(std::size_t threads) {
    const std::size_t rest = ladders_.size() % threads, parts = rest > 0 ? threads / rest : 1;
    if (parts < 2 || ladders_.size() >= kFewLadders * threads) return;
    std::vector<Ladder> pieces;
    for (std::size_t i = 0; i < rest; ++i) {
      const Ladder whole = std::move(ladders_.back());
      ladders_.pop_back();
      const std::size_t n = whole.models.size(), most = std::min(parts, 1 + n / kSplitFrom);
      std::size_t end = n;
      for (std::size_t part = most; part-- > 0;) {
        const double below = 1 - static_cast<double>(part) / static_cast<double>(most);
        const std::size_t begin = n - static_cast<std::size_t>(std::round(static_cast<double>(n) * below * below));
        pieces.push_back({whole.split, whole.kind, {whole.models.data() + begin, whole.models.data() + end}});
        end = begin;
      }
    }
    std::move(pieces.begin(), pieces.end(), std::back_inserter(ladders_));
  }

  void descend(const Ladder& ladder, const Deadline& late) {
    std::vector<std::int64_t> models;
    for (const std::int64_t m : ladder.models)
      if (arrivals_.how[m] == Arrival::running) models.push_back(m);
    if (models.empty()) return;
    const SplitSums& s = a_.sums[ladder.split];
    std::vector<double> centre(p_), scale(p_);
    for (std::int64_t f = 0; f < p_; ++f) {
      centre[f] = this->centre(s, f);
      scale[f] = this->scale(s, f);
    }
    Columns<T> columns(a_, ladder.split, centre.data(), scale.data(), kernels_);
    double first = 0, finite = columns.start().square;
    for (std::int64_t f = 0; f < p_; ++f) {
      if (this->constant(s, f)) {
        columns.leave_out(f);
        continue;
      }
      first = std::max(first, std::abs(columns.product(f)));
      finite += columns.product(f) + columns.square(f);
    }
    if (this->overflows(s) || !std::isfinite(finite)) {
      for (const std::int64_t m : models) arrivals_.how[m] = Arrival::diverged;
      return;
    }
    Point rung;
    rung.l1 = first;
    rung.view = columns.start();
    const double lowest = std::max(kLowest * first, std::numeric_limits<double>::min());  // a subnormal number can be its own 0.8
    auto below = [&](std::size_t i) { return ladder.kind != kNoLadder && rung.l1 * kRung >= std::max(a_.l1[models[i]], lowest); };
    const auto values = [&columns](std::int64_t a) { return columns.values(a); };
    auto factor = [&] { return std::make_unique<SupportFactor>(kernels_, columns.n_padded(), values); };
    auto of_rung = factor(), of_next = factor(), of_model = factor();
    // What may come in before the next rung: once for each rung, however many models start from it.
    auto foresee = [&] {
      if (ladder.kind != kNoLadder) admit(columns, rung, rung.l1 * kRung);
    };
    foresee();
    for (std::size_t i = 0; i < models.size() && (i == 0 || !late());) {
      const std::size_t begin = i;
      std::vector<Point> points;
      for (; i < models.size() && i - begin < kTogether && !below(i); ++i) points.push_back(from(rung, a_.l1[models[i]], a_.l2[models[i]]));
      const bool down = i < models.size() && below(i);
      if (down) {
        const double l1 = rung.l1 * kRung, most = std::numeric_limits<double>::max();
        points.push_back(from(rung, l1, ladder.kind == kWithoutL2 ? 0.0 : std::min(std::ldexp(l1, ladder.kind), most)));
      }
      std::vector<char> solved;
      std::vector<const double*> v;
      std::vector<View*> views;
      for (Point& at : points) {
        SupportFactor& own = down && &at == &points.back() ? *of_next : *of_model;
        solved.push_back(settle(columns, *of_rung, own, at, false));
        v.push_back(at.v.get());
        views.push_back(&at.view);
      }
      columns.look(v, rung.n, views);
      for (std::size_t k = 0; k < i - begin; ++k) {
        if (solved[k]) solved[k] = go_on(columns, *of_rung, *of_model, points[k]);
        if (cancelled()) return;
        report(columns, models[begin + k], points[k], solved[k]);
        columns.keep(rung.n);
      }
      if (cancelled()) return;
      if (!down) continue;
      rung = std::move(points.back());
      std::swap(of_rung, of_next);
      foresee();
    }
  }

  static Point from(const Point& rung, double l1, double l2) {
    Point to{l1, l2, AlignedArray<double>(rung.v.size()), AlignedArray<double>(rung.q.size()), rung.n, rung.solutions, {}};
    std::copy_n(rung.v.get(), rung.n, to.v.get());
    std::copy_n(rung.q.get(), rung.n, to.q.get());
    return to;
  }

  // To the optimum on the columns that are in, from a rung whose factor is `start`, with one of its own; false where it may take no more
  // solutions. `entered`: with columns that have just come in.
  bool settle(Columns<T>& columns, const SupportFactor& start, SupportFactor& own, Point& at, bool entered) const {
    if (at.n == 0) return true;
    if (at.solutions >= a_.max_iter) return false;
    room(at, columns.stride());  // another point may have brought more columns
    own.start_from(start, at.l2);  // a point must not see what another one has made of it
    Quadratic quadratic(kernels_, columns.gram(), at.n, columns.stride(), at.l1, at.l2, own);
    if (entered) quadratic.enter(at.v.get(), at.q.get());  // else those that are there come first
    quadratic.settle(at.v.get(), at.q.get(), columns.products(), a_.max_iter - at.solutions, [this] { return cancelled(); });
    at.solutions += quadratic.solutions();
    return !cancelled() && at.solutions < a_.max_iter;
  }

  // From there, and what is seen there, to the optimum on all columns; whether it got there.
  bool go_on(Columns<T>& columns, const SupportFactor& start, SupportFactor& own, Point& at) const {
    std::int64_t more;
    while ((more = admit(columns, at, at.l1)) > 0) {
      const bool settled = settle(columns, start, own, at, true);
      columns.look({at.v.get()}, at.n, {&at.view});
      if (!settled) return false;
    }
    return more == 0;
  }

  // Takes in columns that violate the conditions of optimality at l1, those first that could lower the objective most; how many, or -1
  // where some do and none has room.
  static std::int64_t admit(Columns<T>& columns, Point& at, double l1) {
    std::vector<std::pair<double, std::int64_t>> beyond;
    const std::vector<double>& q = at.view.q;
    for (std::int64_t f = 0; f < static_cast<std::int64_t>(q.size()); ++f) {
      const double own = std::abs(q[f]) - l1;
      if (!(own > kBeyond * l1 + columns.rounding(f)) || columns.is_in(f)) continue;
      beyond.push_back({-(own * (own / (columns.square(f) + at.l2))), f});
    }
    if (!beyond.empty() && at.n == kMostColumns) return -1;
    const std::size_t most = std::min(beyond.size(), static_cast<std::size_t>(std::min(std::max<std::int64_t>(8, at.n / 2), kMostColumns - at.n)));
    std::partial_sort(beyond.begin(), beyond.begin() + most, beyond.end());
    beyond.resize(most);
    std::vector<std::int64_t> features;
    for (const auto& [decrease, f] : beyond) features.push_back(f);
    columns.add(features);
    room(at, columns.stride());
    for (const auto& [decrease, f] : beyond) at.q[at.n++] = q[f];
    return static_cast<std::int64_t>(most);
  }

  // Room for so many columns.
  static void room(Point& at, std::int64_t n) {
    if (at.v.size() >= n) return;
    for (auto* array : {&at.v, &at.q}) {
      AlignedArray<double> wider(n);
      std::copy_n(array->get(), at.n, wider.get());
      *array = std::move(wider);
    }
  }

  void report(const Columns<T>& columns, std::int64_t m, const Point& at, bool solved) {
    const double l1 = a_.l1[m], l2 = a_.l2[m], square = columns.square();
    v_[m] = AlignedArray<double>(size_);
    for (std::int64_t a = 0; a < at.n; ++a) v_[m][columns.feature(a)] = at.v[a];
    if (a_.fit_intercept) v_[m][p_] = columns.mean_y();
    bool at_optimum = true;
    double norm1 = 0, norm2 = 0, products = 0, most = 0, worst = 0;
    for (std::int64_t f = 0; f < p_; ++f) {
      const double v = v_[m][f], own = at.view.q[f] - l2 * v;
      most = std::max(most, std::abs(own));
      if (v == 0 && std::abs(own) <= l1) continue;
      products += v * columns.product(f);
      norm1 += std::abs(v);
      norm2 += v * v;
      worst = std::max(worst, violation(v, own, l1));
      at_optimum = at_optimum && violation(v, own, l1) <= kArrived * l1 + 10 * columns.rounding(f);
    }
    const NetGap found = net_gap(square, at.view.square, products, norm1, norm2, most, l1, l2);
    arrivals_.objective[m] = found.objective;
    arrivals_.gradient_norm[m] = worst;
    arrivals_.gap[m] = found.gap;
    arrivals_.n_iter[m] = at.solutions;
    const bool arrived = (solved && at_optimum) || found.gap <= kNearOptimum * a_.tol * square;
    arrivals_.how[m] = arrived ? Arrival::converged : solved ? Arrival::precision : Arrival::max_iter;
    this->refuse_overflow(m, v_[m].get());
  }

  std::vector<AlignedArray<double>> v_;
  std::vector<Ladder> ladders_;
};

}  // namespace

template <class T>
std::unique_ptr<Optimizer> make_elastic_net_path(OptimumArgs<T> args) {
  return std::make_unique<ElasticNetPath<T>>(std::move(args));
}
template std::unique_ptr<Optimizer> make_elastic_net_path(OptimumArgs<float>);
template std::unique_ptr<Optimizer> make_elastic_net_path(OptimumArgs<double>);

}  // namespace gradfold
