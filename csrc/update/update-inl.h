// The optimiser step, lanes are models. Include after the level's lanes; internal linkage throughout.
//
// A step is computed twice: once to see whether any new value of a lane is not finite, and once to store the lanes in which all
// are. So a diverged model keeps its last finite weights without a second buffer.
#pragma once
#include "gradient/gradient.h"
#include "simd/half-inl.h"
#include "simd/math-inl.h"
#include "update/update.h"

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

// What a step needs of one vector of lanes, in L; computed in float64 and rounded once.
template <class L>
struct StepScalars {
  typename L::M active;          // alive, and with rows in the batch
  typename L::V q;               // 1 / (count * mean weight)
  typename L::V l2, l1;          // l1: sgd has learning_rate * l1 here, adam l1 alone
  typename L::M has_l1;
  typename L::V rate;            // sgd: the learning rate; adam: learning_rate / (1 - beta1^t)
  typename L::V inv_root;        // adam: 1 / sqrt(1 - beta2^t)
  typename L::V beta1_new, beta2, beta2_new, epsilon;  // 1 - beta1, beta2, 1 - beta2
  typename L::Wide::V updates[L::kWide], beta1_power[L::kWide], beta2_power[L::kWide];  // after the step
};

template <class L, bool ADAM>
StepScalars<L> step_scalars(const SolverSettings& settings, const PanelState<typename L::T>& p,
                            const BatchSums<typename L::T>& sums, int v, std::uint64_t alive) {
  using T = typename L::T;
  using D = typename L::Wide;
  const auto one = D::set1(1.0);
  typename D::V q[L::kWide], l1[L::kWide], l2[L::kWide], rate[L::kWide], inv_root[L::kWide];
  StepScalars<L> s;
  std::uint64_t has_rows = 0, has_l1 = 0;
  for (int h = 0; h < L::kWide; ++h) {
    const int at = v * L::N + h * D::N;
    const auto count = D::load(sums.count + at);
    has_rows |= D::bits(D::lt(D::zero(), count)) << (h * D::N);
    q[h] = D::div(one, D::mul(count, D::load(p.mean_weight + at)));
    const auto updates = D::load(p.updates + at);
    auto lr = D::load(p.learning_rate + at);
    std::uint64_t cosine = 0;
    for (int i = 0; i < D::N; ++i)
      if (p.schedule[at + i] == static_cast<std::int64_t>(Schedule::cosine)) cosine |= std::uint64_t{1} << i;
    if (cosine != 0) {  // learning_rate * (1 + cos(pi * updates / horizon)) / 2
      const auto angle = D::mul(D::set1(0x1.921fb54442d18p+1), D::div(updates, D::set1(settings.horizon)));
      const auto falling = D::mul(D::mul(lr, D::set1(0.5)), D::add(one, cos<D>(angle)));
      lr = D::select(D::from_bits(cosine), falling, lr);
    }
    const auto l1_at = D::load(p.l1 + at);
    has_l1 |= D::bits(D::lt(D::zero(), l1_at)) << (h * D::N);
    l2[h] = D::load(p.l2 + at);
    s.updates[h] = D::add(updates, one);
    if constexpr (ADAM) {
      s.beta1_power[h] = D::mul(D::load(p.beta1_power + at), D::set1(settings.beta1));
      s.beta2_power[h] = D::mul(D::load(p.beta2_power + at), D::set1(settings.beta2));
      rate[h] = D::div(lr, D::sub(one, s.beta1_power[h]));
      inv_root[h] = D::div(one, D::sqrt(D::sub(one, s.beta2_power[h])));
      l1[h] = l1_at;
    } else {
      rate[h] = lr;
      inv_root[h] = one;
      l1[h] = D::mul(lr, l1_at);
    }
  }
  s.active = L::from_bits((alive >> (v * L::N)) & has_rows);
  s.has_l1 = L::from_bits(has_l1);
  s.q = rounded<L>(q);
  s.l1 = rounded<L>(l1);
  s.l2 = rounded<L>(l2);
  s.rate = rounded<L>(rate);
  s.inv_root = rounded<L>(inv_root);
  s.beta1_new = L::set1(static_cast<T>(1.0 - settings.beta1));
  s.beta2 = L::set1(static_cast<T>(settings.beta2));
  s.beta2_new = L::set1(static_cast<T>(1.0 - settings.beta2));
  s.epsilon = L::set1(static_cast<T>(settings.epsilon));
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

// One parameter of L::N models: from its gradient g to its new value, and whether all that is new is finite.
template <class L, bool ADAM, bool PENALTY>
struct NewParameter {
  typename L::V w, first, second;
  typename L::M finite;

  NewParameter(const StepScalars<L>& s, typename L::V total, typename L::V w0, const typename L::T* first0,
               const typename L::T* second0, bool any_l1) {
    auto g = L::mul(total, s.q);
    if constexpr (PENALTY) g = L::fma(s.l2, w0, g);
    typename L::V tau = s.l1;
    if constexpr (ADAM) {
      first = L::load(first0);
      first = L::fma(s.beta1_new, L::sub(g, first), first);
      second = L::fma(L::mul(s.beta2_new, g), g, L::mul(s.beta2, L::load(second0)));
      const auto d = L::fma(L::sqrt(second), s.inv_root, s.epsilon);
      w = L::fnma(s.rate, L::div(first, d), w0);
      finite = L::m_and(L::is_finite(w), L::m_and(L::is_finite(first), L::is_finite(second)));
      if constexpr (PENALTY)
        if (any_l1) tau = L::mul(L::div(s.rate, d), s.l1);
    } else {
      w = L::fnma(s.rate, g, w0);
      finite = L::is_finite(w);  // a g that is not finite makes w so
    }
    if constexpr (PENALTY)
      if (any_l1) w = shrink<L>(w, tau, s.has_l1);
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

template <class L, bool ADAM, bool STANDARDIZE, bool STORE>
typename L::M step_vector(const SolverSettings& settings, const StepScalars<L>& s, const Gradients<L, STANDARDIZE>& gradients,
                          const PanelState<typename L::T>& p, int v, typename L::M keep) {
  auto finite = L::m_all();
  SeenTest<L> seen(p, v);
  auto put = [keep](typename L::T* to, typename L::V value) { L::store(to, L::select(keep, value, L::load(to))); };
  for (std::int64_t f = 0; f < p.n_features; ++f) {
    const std::int64_t at = f * lanes_of<L>(p) + v * L::N;
    const NewParameter<L, ADAM, true> next(s, gradients.of_feature(f), L::load(p.W + at), ADAM ? p.first + at : nullptr,
                                           ADAM ? p.second + at : nullptr,
                                           settings.any_l1);
    if constexpr (STORE) {
      put(p.W + at, next.w);
      if constexpr (ADAM) {
        put(p.first + at, next.first);
        put(p.second + at, next.second);
      }
    } else {
      finite = L::m_and(finite, next.finite);
      if constexpr (STANDARDIZE) seen.feature(f, next.w);
    }
  }
  if (!settings.fit_intercept) {
    if constexpr (STANDARDIZE && !STORE) seen.intercept(L::load(p.intercept + v * L::N));
  } else {
    const int at = v * L::N;
    const NewParameter<L, ADAM, false> next(s, gradients.of_intercept(), L::load(p.intercept + at),
                                            ADAM ? p.intercept_first + at : nullptr,
                                            ADAM ? p.intercept_second + at : nullptr, false);
    if constexpr (STORE) {
      put(p.intercept + at, next.w);
      if constexpr (ADAM) {
        put(p.intercept_first + at, next.first);
        put(p.intercept_second + at, next.second);
      }
    } else {
      finite = L::m_and(finite, next.finite);
      if constexpr (STANDARDIZE) seen.intercept(next.w);
    }
  }
  if constexpr (STANDARDIZE && !STORE) finite = L::m_and(finite, seen.finite());
  return finite;
}

template <class L, bool ADAM, bool STANDARDIZE>
std::uint64_t step_of(const SolverSettings& settings, const PanelState<typename L::T>& p, const BatchSums<typename L::T>& sums,
                      std::uint64_t alive) {
  using D = typename L::Wide;
  std::uint64_t diverged = 0;
  for (int v = 0; v < vectors_of(p); ++v) {
    const StepScalars<L> s = step_scalars<L, ADAM>(settings, p, sums, v, alive);
    if (!L::any(s.active)) continue;
    const Gradients<L, STANDARDIZE> gradients(p, sums, v);
    const auto finite = step_vector<L, ADAM, STANDARDIZE, false>(settings, s, gradients, p, v, L::m_none());
    const auto keep = L::m_and(s.active, finite);
    diverged |= L::bits(L::m_andnot(finite, s.active)) << (v * L::N);
    step_vector<L, ADAM, STANDARDIZE, true>(settings, s, gradients, p, v, keep);
    typename D::M wide_keep[L::kWide];
    L::widen_mask(keep, wide_keep);
    for (int h = 0; h < L::kWide; ++h) {
      const int at = v * L::N + h * D::N;
      auto put = [&](double* to, typename D::V value) {
        D::store(to + at, D::select(wide_keep[h], value, D::load(to + at)));
      };
      put(p.updates, s.updates[h]);
      if constexpr (ADAM) {
        put(p.beta1_power, s.beta1_power[h]);
        put(p.beta2_power, s.beta2_power[h]);
      }
    }
    if constexpr (STANDARDIZE) see_vector<L>(p, v);
  }
  return diverged;
}

template <class L>
std::uint64_t step_all(const SolverSettings& settings, const PanelState<typename L::T>& p, const BatchSums<typename L::T>& sums,
                       std::uint64_t alive) {
  if (settings.solver == Solver::adam)
    return p.mean != nullptr ? step_of<L, true, true>(settings, p, sums, alive) : step_of<L, true, false>(settings, p, sums, alive);
  return p.mean != nullptr ? step_of<L, false, true>(settings, p, sums, alive) : step_of<L, false, false>(settings, p, sums, alive);
}

template <class L>
std::uint64_t step(const SolverSettings& settings, const PanelState<typename L::T>& p, const BatchSums<typename L::T>& sums,
                   std::uint64_t alive) {
  return p.n_vectors == kHalfVector ? step_all<HalfOf<L>>(settings, p, sums, alive) : step_all<L>(settings, p, sums, alive);
}

template <class L>
void see(const PanelState<typename L::T>& p) {
  return p.n_vectors == kHalfVector ? see_all<HalfOf<L>>(p) : see_all<L>(p);
}

}  // namespace
}  // namespace gradfold

#define GRADFOLD_UPDATE_KERNELS(level)                                              \
  namespace gradfold {                                                              \
  extern const UpdateKernels<float> update_f32_##level;                             \
  extern const UpdateKernels<double> update_f64_##level;                            \
  const UpdateKernels<float> update_f32_##level = {&step<F32>, &see<F32>};          \
  const UpdateKernels<double> update_f64_##level = {&step<F64>, &see<F64>};         \
  }
