// The optimiser step, lanes are models. Include after the level's lanes; internal linkage throughout.
//
// A step stores as it goes and keeps the values it replaces; a lane that got a value which is not finite has its own put back. So a diverged
// model keeps its last finite weights. Where lanes must be judged together first, `probe` computes the step without storing.
#pragma once
#include "gradient/gradient.h"
#include "simd/half-inl.h"
#include "simd/math-inl.h"
#include "update/update.h"
#ifdef GRADFOLD_FREE  // for scripts/price_of_promises.py alone
#include "simd/free-inl.h"
#endif

namespace gradfold {
namespace {

// A panel of half a vector is one vector of the half lanes.
template <class T>
int vectors_of(const PanelState<T>& p) {
  return p.n_vectors == kHalfVector ? 1 : p.n_vectors;
}
template <class L>
std::int64_t lanes_of(const PanelState<typename L::T>& p) {
  return vectors_of(p) * L::N;
}

// Rounds kWide vectors of float64 scalars to L, once.
template <class L>
typename L::V rounded(const typename L::Wide::V (&d)[L::kWide]) {
  return L::narrow(d);
}

// The solvers whose steps have the same form. With EXTRA a step also clips, averages and decays weights apart from l2; a run that does
// none of these has sgd and adam without. squares: adagrad and rmsprop.
enum class Form { sgd, momentum, squares, adam };

template <class T>
bool has_extra(const SolverSettings& settings, const PanelState<T>& p) {
  return settings.any_clip || p.average_W != nullptr || (settings.solver != Solver::sgd && settings.solver != Solver::adam);
}

template <class L>
const double* hyper_of(const PanelState<typename L::T>& p, Hyper h, int at) {
  return p.hyper + static_cast<int>(h) * p.lanes + at;
}

// base^exponent for base > 0, within |exponent * ln(base)| + 1 ULP.
template <class D>
typename D::V power(typename D::V base, typename D::V exponent) {
  return exp<D>(D::mul(exponent, log<D>(base)));
}

// The largest whole number that is not above x, for 0 <= x; from 2^51 on x itself.
template <class D>
typename D::V whole(typename D::V x) {
  const auto big = D::set1(0x1.8p52);
  const auto nearest = D::sub(D::add(x, big), big);
  const auto below = D::select(D::lt(x, nearest), D::sub(nearest, D::set1(1.0)), nearest);
  return D::select(D::lt(x, D::set1(0x1p51)), below, x);
}

// The learning rate of the next update of each lane under its own schedule; `used` has a bit for each schedule that occurs.
template <class L>
[[gnu::noinline]] typename L::Wide::V scheduled_rate(const SolverSettings& settings, const PanelState<typename L::T>& p, int at,
                                                     unsigned used) {
  using D = typename L::Wide;
  const auto one = D::set1(1.0), t = D::load(p.updates + at), base = D::load(p.learning_rate + at);
  const auto epoch_steps = D::set1(settings.steps_per_epoch);
  auto hyper = [&](Hyper h) { return D::load(hyper_of<L>(p, h, at)); };
  auto rate = base;
  auto put = [&](Schedule schedule, typename D::V value) {
    std::uint64_t bits = 0;
    for (int i = 0; i < D::N; ++i) bits |= std::uint64_t{p.schedule[at + i] == static_cast<std::int64_t>(schedule)} << i;
    rate = D::select(D::from_bits(bits), value, rate);
  };
  auto occurs = [used](Schedule schedule) { return (used >> static_cast<int>(schedule) & 1) != 0; };
  if (occurs(Schedule::cosine)) {  // learning_rate * (1 + cos(pi * min(updates / horizon, 1))) / 2
    auto part = D::div(t, D::set1(settings.horizon));
    part = D::select(D::lt(part, one), part, one);
    const auto angle = D::mul(D::set1(0x1.921fb54442d18p+1), part);
    put(Schedule::cosine, D::mul(D::mul(base, D::set1(0.5)), D::add(one, cos<D>(angle))));
  }
  if (occurs(Schedule::inverse_scaling))
    put(Schedule::inverse_scaling, D::div(base, power<D>(D::add(t, hyper(Hyper::t0)), hyper(Hyper::power_t))));
  if (occurs(Schedule::exponential))
    put(Schedule::exponential, D::mul(base, power<D>(hyper(Hyper::decay), D::div(t, epoch_steps))));
  if (occurs(Schedule::step)) {
    const auto falls = whole<D>(D::div(t, D::mul(epoch_steps, hyper(Hyper::decay_epochs))));
    put(Schedule::step, D::mul(base, power<D>(hyper(Hyper::decay), falls)));
  }
  if (occurs(Schedule::optimal)) {
    // scikit-learn's SGDClassifier, after L. Bottou's svmsgd: 1 / (alpha (t0 + t)), and t0 makes the first rate the size of a typical
    // weight, over the loss's slope at -typical for y = 1 where that is above 1, which it is for no loss that falls there.
    const auto alpha = D::load(p.l2 + at);
    const auto typical = D::sqrt(D::div(one, D::sqrt(alpha)));
    const auto t0 = D::div(one, D::mul(typical, alpha));
    put(Schedule::optimal, D::div(one, D::mul(alpha, D::add(t0, t))));
  }
  return rate;
}

// What a step needs of one vector of lanes, in L; computed in float64 and rounded once.
template <class L>
struct StepScalars {
  typename L::M active;          // wanted, and with rows in the batch
  typename L::V q;               // 1 / (count * mean weight)
  typename L::V l2, l1;          // l1: sgd and momentum have learning_rate * l1 here, the others l1 alone
  typename L::M has_l1;
  typename L::V rate;            // the learning rate; adam: learning_rate / (1 - beta1^t)
  typename L::V momentum;
  typename L::V inv_root;        // adam: 1 / sqrt(1 - beta2^t)
  typename L::V beta1_new, beta2, beta2_new, epsilon;  // 1 - beta1, beta2, 1 - beta2; rmsprop: rho for beta2; adagrad: 1 and 1
  typename L::V clip_factor, clip_value, kept_weight;   // kept_weight: 1 - learning_rate * weight_decay
  typename L::M averages;        // an average of two or more weights
  typename L::V average_part;    // 1 / how many
  typename L::Wide::V updates[L::kWide], beta1_power[L::kWide], beta2_power[L::kWide];  // after the step
};

template <class L>
void mean_factor(const PanelState<typename L::T>& p, const BatchSums<typename L::T>& sums, int v, typename L::Wide::V (&q)[L::kWide]) {
  using D = typename L::Wide;
  for (int h = 0; h < L::kWide; ++h) {
    const int at = v * L::N + h * D::N;
    q[h] = D::div(D::set1(1.0), D::mul(D::load(sums.count + at), D::load(p.mean_weight + at)));
  }
}

template <class L>
StepScalars<L> step_scalars(const SolverSettings& settings, const PanelState<typename L::T>& p,
                            const BatchSums<typename L::T>& sums, int v, std::uint64_t wanted, const double* clip_factor) {
  using D = typename L::Wide;
  const Solver solver = settings.solver;
  const bool adam = solver == Solver::adam || solver == Solver::adamw;
  const bool squares = solver == Solver::adagrad || solver == Solver::rmsprop;
  const bool extra = has_extra(settings, p);
  using Wides = typename D::V[L::kWide];
  const auto one = D::set1(1.0);
  Wides q, l1, l2, rate, momentum, inv_root, beta1_new, beta2, beta2_new, epsilon, factor, value, kept, part;
  StepScalars<L> s;
  std::uint64_t has_rows = 0, has_l1 = 0, averages = 0;
  mean_factor<L>(p, sums, v, q);
  for (int h = 0; h < L::kWide; ++h) {
    const int at = v * L::N + h * D::N;
    auto hyper = [&](Hyper name) { return D::load(hyper_of<L>(p, name, at)); };
    has_rows |= D::bits(D::lt(D::zero(), D::load(sums.count + at))) << (h * D::N);
    const auto updates = D::load(p.updates + at);
    s.updates[h] = D::add(updates, one);
    unsigned used = 0;
    for (int i = 0; i < D::N; ++i) used |= 1u << p.schedule[at + i];
    auto lr = D::load(p.learning_rate + at);
    constexpr unsigned kFlat = 1u << static_cast<int>(Schedule::constant) | 1u << static_cast<int>(Schedule::adaptive);
    if ((used & ~kFlat) != 0) lr = scheduled_rate<L>(settings, p, at, used);
    if (settings.any_warmup) {  // min(1, (t + 1) / (warmup * steps_per_epoch)); without warm-up the quotient is inf
      const auto reached = D::div(s.updates[h], D::mul(hyper(Hyper::warmup), D::set1(settings.steps_per_epoch)));
      lr = D::mul(lr, D::select(D::lt(reached, one), reached, one));
    }
    lr = D::mul(lr, D::load(p.rate_scale + at));
    const auto l1_at = D::load(p.l1 + at);
    has_l1 |= D::bits(D::lt(D::zero(), l1_at)) << (h * D::N);
    l2[h] = D::load(p.l2 + at);
    rate[h] = lr;
    l1[h] = adam || squares ? l1_at : D::mul(lr, l1_at);
    if (squares) {
      const bool forgets = solver == Solver::rmsprop;
      beta2[h] = forgets ? hyper(Hyper::rho) : one;
      beta2_new[h] = forgets ? D::sub(one, beta2[h]) : one;
    }
    if (adam) {
      const auto beta1 = hyper(Hyper::beta1);
      beta1_new[h] = D::sub(one, beta1);
      beta2[h] = hyper(Hyper::beta2);
      beta2_new[h] = D::sub(one, beta2[h]);
      s.beta1_power[h] = D::mul(D::load(p.beta1_power + at), beta1);
      s.beta2_power[h] = D::mul(D::load(p.beta2_power + at), beta2[h]);
      rate[h] = D::div(lr, D::sub(one, s.beta1_power[h]));
      inv_root[h] = D::div(one, D::sqrt(D::sub(one, s.beta2_power[h])));
    }
    if (adam || squares)
      epsilon[h] = hyper(Hyper::epsilon);
    else if (solver != Solver::sgd)
      momentum[h] = hyper(Hyper::momentum);
    if (extra) {
      factor[h] = clip_factor != nullptr ? D::load(clip_factor + at) : one;
      value[h] = hyper(Hyper::clip_value);
      kept[h] = solver == Solver::adamw ? D::fnma(lr, hyper(Hyper::weight_decay), one) : one;
      const auto from = hyper(Hyper::average);
      const auto mean = D::m_and(D::le(one, from), D::lt(from, s.updates[h]));
      averages |= D::bits(mean) << (h * D::N);
      part[h] = D::div(one, D::select(mean, D::add(D::sub(s.updates[h], from), one), one));
    }
  }
  s.active = L::from_bits((wanted >> (v * L::N)) & has_rows);
  s.has_l1 = L::from_bits(has_l1);
  s.q = rounded<L>(q);
  s.l1 = rounded<L>(l1);
  s.l2 = rounded<L>(l2);
  s.rate = rounded<L>(rate);
  if (adam || squares) {
    s.beta2 = rounded<L>(beta2);
    s.beta2_new = rounded<L>(beta2_new);
    s.epsilon = rounded<L>(epsilon);
    if (adam) {
      s.inv_root = rounded<L>(inv_root);
      s.beta1_new = rounded<L>(beta1_new);
    }
  } else if (solver != Solver::sgd) {
    s.momentum = rounded<L>(momentum);
  }
  if (extra) {
    s.clip_factor = rounded<L>(factor);
    s.clip_value = rounded<L>(value);
    s.kept_weight = rounded<L>(kept);
    s.averages = L::from_bits(averages);
    s.average_part = rounded<L>(part);
  }
  return s;
}

// W' or +0: shrinks towards 0 by tau, where the lane has an l1.
template <class L>
typename L::V shrink(typename L::V w, typename L::V tau, typename L::M where) {
  const auto down = L::sub(w, tau);
  const auto up = L::add(w, tau);
  const auto shrunk = L::select(L::lt(tau, w), down, L::select(L::lt(w, L::neg(tau)), up, L::zero()));
  return L::select(where, shrunk, w);
}

// One parameter of L::N models: from its gradient to its new value, and whether all that is new is finite.
template <class L, Form FORM, bool EXTRA, bool PENALTY>
struct NewParameter {
  typename L::V w, first, second, average;
  typename L::M finite;

  NewParameter(const SolverSettings& settings, const StepScalars<L>& s, typename L::V total, typename L::V w0,
               const typename L::T* first0, const typename L::T* second0, const typename L::T* average0) {
    auto g = L::mul(total, s.q);
    auto given = L::m_all();
    if constexpr (EXTRA)
      if (settings.any_clip) {
        given = L::is_finite(g);  // clipping would hide an infinity
        g = L::mul(g, s.clip_factor);
        g = L::select(L::lt(s.clip_value, g), s.clip_value, g);
        g = L::select(L::lt(g, L::neg(s.clip_value)), L::neg(s.clip_value), g);
      }
    if constexpr (PENALTY) g = L::fma(s.l2, w0, g);
    if constexpr (PENALTY && EXTRA && FORM == Form::adam) w0 = L::mul(s.kept_weight, w0);
    typename L::V tau = s.l1;
    if constexpr (FORM == Form::sgd) {
      w = L::fnma(s.rate, g, w0);
      finite = L::is_finite(w);  // a g that is not finite makes w so
    } else if constexpr (FORM == Form::momentum) {
      first = L::fma(s.momentum, L::load(first0), g);
      const auto step = settings.solver == Solver::nesterov ? L::fma(s.momentum, first, g) : first;
      w = L::fnma(s.rate, step, w0);
      finite = L::m_and(L::is_finite(w), L::is_finite(first));
    } else {
      typename L::V d;
      second = L::fma(L::mul(s.beta2_new, g), g, L::mul(s.beta2, L::load(second0)));
      if constexpr (FORM == Form::adam) {
        first = L::load(first0);
        first = L::fma(s.beta1_new, L::sub(g, first), first);
#ifdef GRADFOLD_FREE
        d = L::fma(quick_root<L>(second), s.inv_root, s.epsilon);
        w = L::fnma(s.rate, quick_quotient<L>(first, d), w0);
#else
        d = L::fma(L::sqrt(second), s.inv_root, s.epsilon);
        w = L::fnma(s.rate, L::div(first, d), w0);
#endif
        finite = L::m_and(L::is_finite(w), L::m_and(L::is_finite(first), L::is_finite(second)));
      } else {
        d = L::add(L::sqrt(second), s.epsilon);
        w = L::fnma(s.rate, L::div(g, d), w0);
        finite = L::m_and(L::is_finite(w), L::is_finite(second));
      }
      if constexpr (PENALTY)
        if (settings.any_l1) tau = L::mul(L::div(s.rate, d), s.l1);
    }
    if constexpr (PENALTY)
      if (settings.any_l1) w = shrink<L>(w, tau, s.has_l1);
    if constexpr (EXTRA) {
      finite = L::m_and(finite, given);
      if (average0 != nullptr) {
        const auto old = L::load(average0);
        average = L::select(s.averages, L::fma(L::sub(w, old), s.average_part, old), w);
        finite = L::m_and(finite, L::is_finite(average));
      }
    }
  }
};

// Gradient sums of one vector of lanes, in L, as the optimiser wants them.
template <class L, bool STANDARDIZE>
struct Gradients {
  using T = typename L::T;
  using D = typename L::Wide;
  const PanelState<T>& p;
  const BatchSums<T>& sums;
  int v;
  typename D::V intercept[L::kWide];

  Gradients(const PanelState<T>& panel, const BatchSums<T>& batch, int vector) : p(panel), sums(batch), v(vector) {
    wide(sums.chunk_intercept, sums.total_intercept, v * L::N, intercept);
  }
  static void wide(const T* chunk, const double* total, std::int64_t at, typename D::V (&out)[L::kWide]) {
    if (total != nullptr) {
      for (int h = 0; h < L::kWide; ++h) out[h] = D::load(total + at + h * D::N);
    } else {
      L::widen(L::load(chunk + at), out);
      for (int h = 0; h < L::kWide; ++h) out[h] = D::add(D::zero(), out[h]);  // totals are added to +0, never moved
    }
  }
  typename L::V of_intercept() const { return L::narrow(intercept); }
  typename L::V of_feature(std::int64_t f) const {
    const std::int64_t at = f * lanes_of<L>(p) + v * L::N;
    if constexpr (!STANDARDIZE) {
      if (sums.total == nullptr) return L::add(L::zero(), L::load(sums.chunk + at));
    }
    typename D::V g[L::kWide];
    wide(sums.chunk, sums.total, at, g);
    if constexpr (STANDARDIZE)
      for (int h = 0; h < L::kWide; ++h)
      {
        const auto scale = D::load(p.scale + at + h * D::N);
        const auto centred = D::div(D::fnma(D::load(p.mean + at + h * D::N), intercept[h], g[h]), D::abs(scale));
        // What is left of a constant column is rounding noise, which adam would turn into whole steps.
        g[h] = D::select(D::lt(scale, D::zero()), D::zero(), centred);
      }
    return L::narrow(g);
  }
};

// seen_W = W / scale, rounded once; seen_intercept = intercept - sum of mean * seen_W, in chunks of 256 features. The sum takes
// the rounded seen_W, so that a large mean cancels against what the kernel really multiplies.
template <class L>
void see_vector(const PanelState<typename L::T>& p, int v) {
  using D = typename L::Wide;
  const std::int64_t lanes = lanes_of<L>(p);
  typename D::V total[L::kWide];
  for (int h = 0; h < L::kWide; ++h) total[h] = D::zero();
  for (std::int64_t f0 = 0; f0 < p.n_features; f0 += kFeatureChunk) {
    const std::int64_t f1 = f0 + kFeatureChunk < p.n_features ? f0 + kFeatureChunk : p.n_features;
    typename D::V sum[L::kWide];
    for (int h = 0; h < L::kWide; ++h) sum[h] = D::zero();
    for (std::int64_t f = f0; f < f1; ++f) {
      const std::int64_t at = f * lanes + v * L::N;
      typename D::V w[L::kWide];
      L::widen(L::load(p.W + at), w);
      for (int h = 0; h < L::kWide; ++h) w[h] = D::div(w[h], D::abs(D::load(p.scale + at + h * D::N)));
      const auto seen = L::narrow(w);
      L::store(p.seen_W + at, seen);
      L::widen(seen, w);
      for (int h = 0; h < L::kWide; ++h) sum[h] = D::fma(D::load(p.mean + at + h * D::N), w[h], sum[h]);
    }
    for (int h = 0; h < L::kWide; ++h) total[h] = D::add(total[h], sum[h]);
  }
  typename D::V b[L::kWide];
  L::widen(L::load(p.intercept + v * L::N), b);
  for (int h = 0; h < L::kWide; ++h) b[h] = D::sub(b[h], total[h]);
  L::store(p.seen_intercept + v * L::N, L::narrow(b));
}

template <class L>
void see_all(const PanelState<typename L::T>& p) {
  for (int v = 0; v < vectors_of(p); ++v) see_vector<L>(p, v);
}

// Whether new weights would still be finite on the scale of X: W / scale and intercept - sum of mean * W / scale. A thousandth below
// the largest number of T leaves room for the roundings that see_vector makes and this test does not.
template <class L>
class SeenTest {
  using D = typename L::Wide;

 public:
  SeenTest(const PanelState<typename L::T>& panel, int vector) : p_(panel), v_(vector) {
    for (int h = 0; h < L::kWide; ++h) {
      sum_[h] = D::zero();
      good_[h] = D::m_all();
    }
  }
  void feature(std::int64_t f, typename L::V w) {
    const std::int64_t at = f * lanes_of<L>(p_) + v_ * L::N;
    typename D::V wide[L::kWide];
    L::widen(w, wide);
    for (int h = 0; h < L::kWide; ++h) {
      const auto most = D::mul(D::set1(kMost), D::abs(D::load(p_.scale + at + h * D::N)));
      good_[h] = D::m_and(good_[h], D::le(D::abs(wide[h]), most));
      sum_[h] = D::fma(D::load(p_.ratio + at + h * D::N), wide[h], sum_[h]);
    }
  }
  void intercept(typename L::V b) {
    typename D::V wide[L::kWide];
    L::widen(b, wide);
    for (int h = 0; h < L::kWide; ++h)
      good_[h] = D::m_and(good_[h], D::le(D::abs(D::sub(wide[h], sum_[h])), D::set1(kMost)));
  }
  typename L::M finite() const {
    std::uint64_t bits = 0;
    for (int h = 0; h < L::kWide; ++h) bits |= D::bits(good_[h]) << (h * D::N);
    return L::from_bits(bits);
  }

 private:
  static constexpr double kMost = 0.999 * (sizeof(typename L::T) == 4 ? double{__FLT_MAX__} : double{__DBL_MAX__});
  const PanelState<typename L::T>& p_;
  int v_;
  typename D::V sum_[L::kWide];
  typename D::M good_[L::kWide];
};

// What a step replaces: every feature of one vector of lanes, array after array.
template <class L>
class Replaced {
 public:
  explicit Replaced(typename L::T* memory) : at_(memory) {}
  bool kept() const { return at_ != nullptr; }
  void keep(typename L::V value) {
    L::store(at_, value);
    at_ += L::N;
  }
  // Puts the values of `lanes` back; to be called for the same places in the same order.
  void put_back(typename L::T* to, typename L::M lanes) {
    L::store(to, L::select(lanes, L::load(at_), L::load(to)));
    at_ += L::N;
  }

 private:
  typename L::T* at_;
};

// Calls f(place) for every array of the state at one parameter.
template <class L, Form FORM, bool EXTRA, class F>
inline __attribute__((always_inline)) void each_place(typename L::T* W, typename L::T* first, typename L::T* second, typename L::T* average,
                                                      std::int64_t at, F&& f) {
  f(W + at);
  if constexpr (FORM == Form::momentum || FORM == Form::adam) f(first + at);
  if constexpr (FORM == Form::squares || FORM == Form::adam) f(second + at);
  if constexpr (EXTRA)
    if (average != nullptr) f(average + at);
}

// Steps one vector of lanes, or, without STORE, only looks. Returns which lanes got nothing but finite values. With `replaced`, a lane of
// `keep` that did not gets its old values back.
template <class L, Form FORM, bool EXTRA, bool STANDARDIZE, bool STORE>
[[gnu::noinline]] typename L::M step_vector(const SolverSettings& given_settings, const StepScalars<L>& scalars,
                                            const PanelState<typename L::T>& p, const BatchSums<typename L::T>& sums, int v,
                                            typename L::M keep, typename L::T* replaced) {
  using T = typename L::T;
  constexpr bool kFirst = FORM == Form::momentum || FORM == Form::adam, kSecond = FORM == Form::squares || FORM == Form::adam;
  // Copies: what is stored to a pointer could be these, so they would be loaded again for every feature.
  const SolverSettings settings = given_settings;
  const StepScalars<L> s = scalars;
  const Gradients<L, STANDARDIZE> gradients(p, sums, v);
  auto finite = L::m_all();
  SeenTest<L> seen(p, v), seen_average(p, v);
  const bool averages = EXTRA && p.average_W != nullptr;
  const std::int64_t stride = lanes_of<L>(p);
  Replaced<L> old(replaced);
  auto put = [&](T* to, typename L::V value) {
    const auto before = L::load(to);
    if (old.kept()) old.keep(before);
    L::store(to, L::select(keep, value, before));
  };
  auto store = [&](auto& next, T* W, T* first, T* second, T* average, std::int64_t at) {
    put(W + at, next.w);
    if constexpr (kFirst) put(first + at, next.first);
    if constexpr (kSecond) put(second + at, next.second);
    if (averages) put(average + at, next.average);
  };
  for (std::int64_t f = 0; f < p.n_features; ++f) {
    const std::int64_t at = f * stride + v * L::N;
    const NewParameter<L, FORM, EXTRA, true> next(settings, s, gradients.of_feature(f), L::load(p.W + at), kFirst ? p.first + at : nullptr,
                                                  kSecond ? p.second + at : nullptr, averages ? p.average_W + at : nullptr);
    finite = L::m_and(finite, next.finite);
    if constexpr (STANDARDIZE) {
      seen.feature(f, next.w);
      if (averages) seen_average.feature(f, next.average);
    }
    if constexpr (STORE) store(next, p.W, p.first, p.second, p.average_W, at);
  }
  const int at = v * L::N;
  if (!settings.fit_intercept) {
    if constexpr (STANDARDIZE) {
      seen.intercept(L::load(p.intercept + at));
      if (averages) seen_average.intercept(L::load(p.intercept + at));
    }
  } else {
    const NewParameter<L, FORM, EXTRA, false> next(settings, s, gradients.of_intercept(), L::load(p.intercept + at),
                                                   kFirst ? p.intercept_first + at : nullptr, kSecond ? p.intercept_second + at : nullptr,
                                                   averages ? p.average_intercept + at : nullptr);
    finite = L::m_and(finite, next.finite);
    if constexpr (STANDARDIZE) {
      seen.intercept(next.w);
      if (averages) seen_average.intercept(next.average);
    }
    if constexpr (STORE) store(next, p.intercept, p.intercept_first, p.intercept_second, p.average_intercept, at);
  }
  if constexpr (STANDARDIZE) {
    finite = L::m_and(finite, seen.finite());
    if (averages) finite = L::m_and(finite, seen_average.finite());
  }
  if constexpr (STORE) {
    const auto lost = L::m_andnot(finite, keep);
    if (replaced != nullptr && L::any(lost)) {
      Replaced<L> back(replaced);
      auto restore = [&](T* to) { back.put_back(to, lost); };
      for (std::int64_t f = 0; f < p.n_features; ++f)
        each_place<L, FORM, EXTRA>(p.W, p.first, p.second, p.average_W, f * stride + at, restore);
      if (settings.fit_intercept)
        each_place<L, FORM, EXTRA>(p.intercept, p.intercept_first, p.intercept_second, p.average_intercept, at, restore);
    }
  }
  return finite;
}

template <class L>
using StepVector = typename L::M (*)(const SolverSettings&, const StepScalars<L>&, const PanelState<typename L::T>&,
                                     const BatchSums<typename L::T>&, int v, typename L::M keep, typename L::T* replaced);
template <class L>
struct StepVectors {
  StepVector<L> probe, commit;
};

template <class L, Form FORM, bool EXTRA>
StepVectors<L> step_vectors_of(bool standardize) {
  if (standardize) return {&step_vector<L, FORM, EXTRA, true, false>, &step_vector<L, FORM, EXTRA, true, true>};
  return {&step_vector<L, FORM, EXTRA, false, false>, &step_vector<L, FORM, EXTRA, false, true>};
}

template <class L>
StepVectors<L> step_vectors(const SolverSettings& settings, const PanelState<typename L::T>& p) {
  const bool extra = has_extra(settings, p), standardize = p.mean != nullptr;
  switch (settings.solver) {
    case Solver::sgd: return extra ? step_vectors_of<L, Form::sgd, true>(standardize) : step_vectors_of<L, Form::sgd, false>(standardize);
    case Solver::momentum:
    case Solver::nesterov: return step_vectors_of<L, Form::momentum, true>(standardize);
    case Solver::adagrad:
    case Solver::rmsprop: return step_vectors_of<L, Form::squares, true>(standardize);
    case Solver::adam:
    case Solver::adamw: break;
  }
  return extra ? step_vectors_of<L, Form::adam, true>(standardize) : step_vectors_of<L, Form::adam, false>(standardize);
}

enum class Phase { step, probe, commit };

// Works on the lanes of `wanted` that have rows in the batch, vector by vector while its arrays are in the cache. Returns the lanes that
// diverged. replaced: for Phase::step.
template <class L>
std::uint64_t phase_all(Phase phase, const SolverSettings& settings, const PanelState<typename L::T>& p,
                        const BatchSums<typename L::T>& sums, std::uint64_t wanted, const double* clip_factor, typename L::T* replaced) {
  using D = typename L::Wide;
  const StepVectors<L> step_vector = step_vectors<L>(settings, p);
  std::uint64_t diverged = 0;
  for (int v = 0; v < vectors_of(p); ++v) {
    const StepScalars<L> s = step_scalars<L>(settings, p, sums, v, wanted, clip_factor);
    if (!L::any(s.active)) continue;
    auto keep = s.active;
    const auto finite = (phase == Phase::probe ? step_vector.probe : step_vector.commit)(settings, s, p, sums, v, keep, replaced);
    if (phase != Phase::commit) {
      diverged |= L::bits(L::m_andnot(finite, s.active)) << (v * L::N);
      keep = L::m_and(s.active, finite);
    }
    if (phase == Phase::probe) continue;
    typename D::M wide_keep[L::kWide];
    L::widen_mask(keep, wide_keep);
    for (int h = 0; h < L::kWide; ++h) {
      const int at = v * L::N + h * D::N;
      auto put = [&](double* to, typename D::V value) {
        D::store(to + at, D::select(wide_keep[h], value, D::load(to + at)));
      };
      put(p.updates, s.updates[h]);
      if (settings.solver == Solver::adam || settings.solver == Solver::adamw) {
        put(p.beta1_power, s.beta1_power[h]);
        put(p.beta2_power, s.beta2_power[h]);
      }
    }
    if (p.mean != nullptr) see_vector<L>(p, v);
  }
  return diverged;
}

// Squared norms of one vector of lanes: the features in chunks of 256, each from +0, added in order; the intercept apart.
template <class L, bool STANDARDIZE>
void norms_of(const SolverSettings& settings, const PanelState<typename L::T>& p, const BatchSums<typename L::T>& sums,
              double* squares, double* intercept_squares) {
  using D = typename L::Wide;
  for (int v = 0; v < vectors_of(p); ++v) {
    typename D::V reciprocal[L::kWide], total[L::kWide], wide[L::kWide];
    mean_factor<L>(p, sums, v, reciprocal);
    const auto q = rounded<L>(reciprocal);
    const Gradients<L, STANDARDIZE> gradients(p, sums, v);
    for (int h = 0; h < L::kWide; ++h) total[h] = D::zero();
    for (std::int64_t f0 = 0; f0 < p.n_features; f0 += kFeatureChunk) {
      const std::int64_t f1 = f0 + kFeatureChunk < p.n_features ? f0 + kFeatureChunk : p.n_features;
      typename D::V sum[L::kWide];
      for (int h = 0; h < L::kWide; ++h) sum[h] = D::zero();
      for (std::int64_t f = f0; f < f1; ++f) {
        L::widen(L::mul(gradients.of_feature(f), q), wide);
        for (int h = 0; h < L::kWide; ++h) sum[h] = D::fma(wide[h], wide[h], sum[h]);
      }
      for (int h = 0; h < L::kWide; ++h) total[h] = D::add(total[h], sum[h]);
    }
    L::widen(L::mul(gradients.of_intercept(), q), wide);
    for (int h = 0; h < L::kWide; ++h) {
      const int at = v * L::N + h * D::N;
      D::store(squares + at, total[h]);
      D::store(intercept_squares + at, settings.fit_intercept ? D::mul(wide[h], wide[h]) : D::zero());
    }
  }
}

template <class L>
void norms_all(const SolverSettings& settings, const PanelState<typename L::T>& p, const BatchSums<typename L::T>& sums,
               double* squares, double* intercept_squares) {
  return p.mean != nullptr ? norms_of<L, true>(settings, p, sums, squares, intercept_squares)
                           : norms_of<L, false>(settings, p, sums, squares, intercept_squares);
}

template <class L>
void norms(const SolverSettings& settings, const PanelState<typename L::T>& p, const BatchSums<typename L::T>& sums, double* squares,
           double* intercept_squares) {
  return p.n_vectors == kHalfVector ? norms_all<HalfOf<L>>(settings, p, sums, squares, intercept_squares)
                                    : norms_all<L>(settings, p, sums, squares, intercept_squares);
}

template <class L>
std::uint64_t phase_of_panel(Phase phase, const SolverSettings& settings, const PanelState<typename L::T>& p,
                             const BatchSums<typename L::T>& sums, std::uint64_t wanted, const double* clip_factor,
                             typename L::T* replaced = nullptr) {
  return p.n_vectors == kHalfVector ? phase_all<HalfOf<L>>(phase, settings, p, sums, wanted, clip_factor, replaced)
                                    : phase_all<L>(phase, settings, p, sums, wanted, clip_factor, replaced);
}

template <class L>
std::uint64_t probe(const SolverSettings& settings, const PanelState<typename L::T>& p, const BatchSums<typename L::T>& sums,
                    std::uint64_t alive, const double* clip_factor) {
  return phase_of_panel<L>(Phase::probe, settings, p, sums, alive, clip_factor);
}

template <class L>
void commit(const SolverSettings& settings, const PanelState<typename L::T>& p, const BatchSums<typename L::T>& sums,
            std::uint64_t keep, const double* clip_factor) {
  phase_of_panel<L>(Phase::commit, settings, p, sums, keep, clip_factor);
}

template <class L>
std::uint64_t step(const SolverSettings& settings, const PanelState<typename L::T>& p, const BatchSums<typename L::T>& sums,
                   std::uint64_t alive, typename L::T* replaced) {
  if (!settings.any_clip_norm) return phase_of_panel<L>(Phase::step, settings, p, sums, alive, nullptr, replaced);
  double squares[kMaxPanelVectors * L::N], intercept_squares[kMaxPanelVectors * L::N];
  norms<L>(settings, p, sums, squares, intercept_squares);
  clip_factors(squares, intercept_squares, p.hyper + static_cast<int>(Hyper::clip_norm) * p.lanes, p.lanes, 1, squares);
  return phase_of_panel<L>(Phase::step, settings, p, sums, alive, squares, replaced);
}

template <class L>
void see(const PanelState<typename L::T>& p) {
  return p.n_vectors == kHalfVector ? see_all<HalfOf<L>>(p) : see_all<L>(p);
}

}  // namespace
}  // namespace gradfold

#define GRADFOLD_UPDATE_KERNELS(level)                                                                            \
  namespace gradfold {                                                                                            \
  extern const UpdateKernels<float> update_f32_##level;                                                           \
  extern const UpdateKernels<double> update_f64_##level;                                                          \
  const UpdateKernels<float> update_f32_##level = {&step<F32>, &norms<F32>, &probe<F32>, &commit<F32>, &see<F32>};   \
  const UpdateKernels<double> update_f64_##level = {&step<F64>, &norms<F64>, &probe<F64>, &commit<F64>, &see<F64>};  \
  }
