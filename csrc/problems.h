// Made-up problems for the executables that call kernels without Python: selftest.cpp and counts.cpp.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gradient/gradient.h"
#include "gradient/gram.h"
#include "optimum/optimizer.h"
#include "train/train.h"
#include "update/update.h"

namespace gradfold {

// Rows in five folds (some in none), weights that are often 0, and models on all of the splits.
template <class T>
struct Problem {
  std::int64_t n, p, m;
  std::int64_t outputs = 1;  // of a training
  std::vector<T> X, y, w, W, b;
  std::vector<std::uint8_t> ids;
  std::vector<FoldCondition> conditions;
  std::vector<std::int64_t> split_of_model;
  FoldsView folds;

  Problem(std::int64_t n_, std::int64_t p_, std::int64_t m_, unsigned seed) : n(n_), p(p_), m(m_) {
    std::mt19937 random(seed);
    // Not std::normal_distribution: its bits depend on the library, and the digest is compared between machines.
    auto normal = [](std::mt19937& r) { return (static_cast<double>(r() % 4001) - 2000.0) / 700.0; };
    for (std::int64_t i = 0; i < n * p; ++i) X.push_back(static_cast<T>(normal(random)));
    for (std::int64_t i = 0; i < n; ++i) {
      y.push_back(static_cast<T>(random() % 2));
      w.push_back(static_cast<T>(random() % 4));
      ids.push_back(static_cast<std::uint8_t>(i % 5 == 4 && i % 7 == 0 ? 255 : i % 5));
    }
    for (std::int64_t i = 0; i < p * m; ++i) W.push_back(static_cast<T>(normal(random)));
    for (std::int64_t i = 0; i < m; ++i) {
      b.push_back(static_cast<T>(normal(random)));
      split_of_model.push_back(i % 5);
    }
    for (std::int64_t k = 0; k < 5; ++k) conditions.push_back({0, k, k + 1, 0, 5});
    folds = {ids.data(), 1, 1, n, conditions.data(), 5, 1};
  }
};

// A loss_gradient call over all rows of a problem, with the arrays that it reads and writes. The loss, the mean gradient and everything
// else that can be had is wanted; whoever wants less sets pointers of `args` to null.
template <class T>
struct GradientCall {
  std::vector<T> X, y, W, b, grad, grad_b;
  std::vector<double> epsilon, loss;
  LossGradientArgs<T> args{};

  // Of several outputs the weights are those of one, turned around for each next output.
  GradientCall(const Problem<T>& q, Loss of, std::int64_t outputs = 1) : X(q.X), y(q.y), epsilon(q.m, 0.25) {
    for (std::int64_t f = 0; f < q.p; ++f)
      for (std::int64_t k = 0; k < outputs; ++k)
        for (std::int64_t i = 0; i < q.m; ++i) W.push_back(q.W[f * q.m + (i + k) % q.m] * static_cast<T>(1 - k % 3));
    for (std::int64_t k = 0; k < outputs; ++k) b.insert(b.end(), q.b.begin(), q.b.end());
    for (std::int64_t i = 0; i < q.n && outputs > 1; ++i) y[i] = static_cast<T>(i * 7 % outputs);  // class codes
    loss.assign(q.m, -1);
    grad.assign(q.p * outputs * q.m, T(-1));
    grad_b.assign(outputs * q.m, T(-1));
    args.X = {X.data(), q.n, q.p};
    args.y = y.data();
    args.n_positions = q.n;
    args.n_models = q.m;
    args.n_outputs = outputs;
    args.W = W.data();
    args.intercept = b.data();
    args.loss = of;
    args.mean = true;
    args.loss_out = loss.data();
    args.grad_W = grad.data();
    args.grad_intercept = grad_b.data();
    args.n_threads = 1;
  }
  GradientCall(const GradientCall&) = delete;  // `args` points into it

  void weigh(const Problem<T>& q) {
    args.weight = q.w.data();
    args.loss_epsilon = epsilon.data();
  }
  void split(const Problem<T>& q) {
    args.folds = &q.folds;
    args.split_of_model = q.split_of_model.data();
    for (std::int64_t i = 0; i < q.n && args.n_outputs > 1; ++i)  // out of range on the rows that are skipped
      if (q.ids[i] == 255) y[i] = static_cast<T>(args.n_outputs + 5);
  }
  void poison(const Problem<T>& q) {  // the rows that are skipped
    for (std::int64_t i = 0; i < q.n; ++i)
      if (q.ids[i] == 255) X[i * q.p] = std::numeric_limits<T>::quiet_NaN();
  }
};

// A panel of whole vectors of models as the optimiser sees it, and a batch's gradient sums. Its lanes are those of the level in use.
template <class T>
struct PanelProblem {
  std::int64_t p, lanes;
  int n_vectors;
  std::vector<T> W, first, second, average, b, b_first, b_second, b_average, grad, grad_b;
  std::vector<double> learning_rate, scale, l1, l2, mean_weight, updates, power1, power2, count, hyper;
  std::vector<std::int64_t> schedule;

  PanelProblem(const Problem<T>& q, Solver solver, int vectors)
      : p(q.p), lanes(panel_lanes(vectors, gradient_kernels<T>(current_level()).lanes)), n_vectors(vectors), schedule(lanes, 0) {
    for (auto* array : {&W, &first, &second, &average, &grad}) array->assign(p * lanes, T(0));
    for (auto* array : {&b, &b_first, &b_second, &b_average, &grad_b}) array->assign(lanes, T(0));
    for (auto* array : {&scale, &mean_weight, &power1, &power2}) array->assign(lanes, 1.0);
    learning_rate.assign(lanes, 0.1);
    l1.assign(lanes, 1e-3);
    l2.assign(lanes, 1e-2);
    updates.assign(lanes, 0.0);
    count.assign(lanes, 5.0);
    for (int h = 0; h < kHypers; ++h) hyper.insert(hyper.end(), lanes, hyper_default(solver, static_cast<Hyper>(h)));
  }
  void set(Hyper h, std::int64_t lane, double value) { hyper[static_cast<int>(h) * lanes + lane] = value; }
  // Gradient sums number `turn`.
  void draw(const Problem<T>& q, std::int64_t turn) {
    for (std::int64_t f = 0; f < p; ++f)
      for (std::int64_t l = 0; l < lanes; ++l) grad[f * lanes + l] = q.W[(f * 7 + l + turn) % (q.p * q.m)];
    for (std::int64_t l = 0; l < lanes; ++l) grad_b[l] = q.b[(l + turn) % q.m];
  }
  BatchSums<T> sums() const { return {grad.data(), grad_b.data(), nullptr, nullptr, count.data()}; }
  std::uint64_t all() const { return lanes == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << lanes) - 1; }
  PanelState<T> state() {
    return {p,           n_vectors,    static_cast<int>(lanes), W.data(),         first.data(),     second.data(), b.data(),
            b_first.data(), b_second.data(), average.data(), b_average.data(), learning_rate.data(), scale.data(), schedule.data(),
            l1.data(),   l2.data(),    hyper.data(),            mean_weight.data(), updates.data(), power1.data(), power2.data(),
            nullptr,     nullptr,      nullptr,                 nullptr,          nullptr};
  }
};

template <class T>
TrainArgs<T> train_args(const Problem<T>& q, Solver solver, std::int64_t batch_size, bool standardize, bool shuffle, int n_threads,
                        bool rich) {
  TrainArgs<T> a{};
  a.X = {q.X.data(), q.n, q.p};
  a.y = q.y.data();
  a.weight = q.w.data();
  a.folds = q.folds;
  a.split_of_model = q.split_of_model;
  a.l1.assign(q.m, 1e-3);
  a.l2.assign(q.m, 1e-2);
  a.learning_rate.assign(q.m, 0.05);
  for (std::int64_t i = 0; i < q.m; ++i) a.schedule.push_back(i % kSchedules);
  auto hyper = [&](Hyper h, double even, double odd) {
    for (std::int64_t i = 0; i < q.m; ++i) a.hyper[static_cast<int>(h)].push_back(i % 2 == 0 ? even : odd);
  };
  if (rich) {
    hyper(Hyper::momentum, 0.9, 0.5);
    hyper(Hyper::beta1, 0.9, 0);
    hyper(Hyper::rho, 0.99, 0.5);
    hyper(Hyper::clip_norm, HUGE_VAL, 0.05);
    hyper(Hyper::clip_value, 0.01, HUGE_VAL);
    hyper(Hyper::average, 2, 0);
    hyper(Hyper::warmup, 0, 1.5);
    hyper(Hyper::decay_epochs, 10, 0.5);
  }
  a.loss = q.outputs > 1 ? Loss::multinomial : Loss::log_loss;
  a.n_outputs = q.outputs;
  a.solver = solver;
  a.epochs = 2;
  a.batch_size = batch_size;
  a.shuffle = shuffle;
  a.seed = 7;
  a.fit_intercept = true;
  a.standardize = standardize;
  a.n_threads = n_threads;
  return a;
}

// A call that brings the models of a problem to their optima, with the arrays that it reads.
template <class T>
struct OptimumCall {
  std::vector<T> y;
  std::vector<double> weight, mean, comoment, scale;
  std::vector<std::int64_t> sample;
  OptimumArgs<T> args{};

  OptimumCall(const Problem<T>& q, Loss loss, bool weighted, int n_threads) : y(q.y), scale(5 * q.p, 1.0) {
    if (loss == Loss::squared_error)
      for (std::int64_t i = 0; i < q.n; ++i) y[i] += q.X[i * q.p] + static_cast<T>(i % 13) / T(8);
    // The moments of each split's training rows, one split after another: a row has its place in several of the lists.
    std::vector<std::int64_t> order, offset{0};
    for (std::int64_t s = 0; s < 5; ++s) {
      for (std::int64_t i = 0; i < q.n; ++i)
        if (q.ids[i] < 5 && q.ids[i] != s && !(weighted && q.w[i] == T(0))) order.push_back(i);
      offset.push_back(static_cast<std::int64_t>(order.size()));
    }
    const std::int64_t columns = q.p + 1;
    weight.resize(5);
    mean.resize(5 * columns);
    comoment.resize(5 * columns * columns);
    args.X = {q.X.data(), q.n, q.p};
    args.y = y.data();
    args.weight = weighted ? q.w.data() : nullptr;
    cell_moments<T>(args.X, args.y, args.weight, order.data(), offset.data(), 5, {weight.data(), mean.data(), comoment.data()}, n_threads, {},
                    nullptr);
    for (std::int64_t s = 0; s < 5; ++s)
      args.sums.push_back({weight[s], &mean[s * columns], &scale[s * q.p], &comoment[s * columns * columns]});
    args.folds = q.folds;
    args.split_of_model = q.split_of_model;
    args.loss = loss;
    args.n_outputs = 1;
    for (std::int64_t i = 0; i < q.m; ++i) args.l2.push_back(i % 3 == 0 ? 1e-3 : 0.1);
    args.fit_intercept = true;
    args.max_iter = 30;
    args.tol = 1e-6;
    args.n_threads = n_threads;
  }
  // A start on every third row.
  void start_on_sample(const Problem<T>& q) {
    args.sample_weight.assign(5, 0.0);
    for (std::int64_t i = 0; i < q.n; i += 3) {
      sample.push_back(i);
      for (std::int64_t s = 0; s < 5; ++s)
        if (q.ids[i] < 5 && q.ids[i] != s) args.sample_weight[s] += args.weight != nullptr ? static_cast<double>(q.w[i]) : 1.0;
    }
    args.sample = sample.data();
    args.n_sample = static_cast<std::int64_t>(sample.size());
  }
  OptimumCall(const OptimumCall&) = delete;  // `args` points into it
};

}  // namespace gradfold
