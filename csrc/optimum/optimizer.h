// Many models at their own optima, in lock-step: each pass over X evaluates one trial point of every model that has not arrived.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "gradient/gradient.h"
#include "gradient/panels.h"
#include "optimum/optimum.h"
#include "train/train.h"

namespace gradfold {

// The end of the time that advance() may take: `seconds` from now, or never where they are below 0.
class Deadline {
 public:
  explicit Deadline(double seconds) : seconds_(seconds) {}
  bool operator()() const { return seconds_ >= 0 && std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count() >= seconds_; }

 private:
  const double seconds_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// How a model stands. `precision`: no step along a direction of descent lowers the objective any more, short of `tol`.
enum class Arrival : std::uint8_t { running, converged, max_iter, precision, diverged };

// What is known of the training rows of one split. Pointers are not owned.
struct SplitSums {
  double weight;           // sum of weights
  const double* mean;      // [n_features + 1], the last is that of y
  const double* scale;     // [n_features]: above 0, -1 for a column whose weight stays 0, or none that is finite where a variance is not
  const double* comoment;  // [n_features + 1][n_features + 1], the last column is y; null: no curvature is known, so that none is used
  double y_square = 0;     // mean square of y, less that of its mean with an intercept; where comoment is null
};

template <class T>
struct OptimumArgs {
  DenseRows<T> X;
  const T* y;
  const T* weight;  // null: 1
  FoldsView folds;
  std::vector<std::int64_t> split_of_model;
  std::vector<SplitSums> sums;  // of every split that a model has; others are not read
  // Squared error: the same of the rows that each split scores, without scales; comoment is null where it is not known. May be empty.
  std::vector<SplitSums> scored;
  Loss loss;
  std::vector<double> loss_epsilon;  // per model, or empty
  std::int64_t n_outputs;
  std::vector<double> l2;
  bool fit_intercept, standardize;
  std::vector<double> l1;        // with it: of squared error or log_loss alone, by coordinate descent
  bool exact;                    // squared error: the solution of the normal equations, refined where they are ill-conditioned
  std::vector<std::int64_t> left_out;  // per model the row that it leaves out of its split, or empty (leave_one_out.cpp)
  const double* coef_init;       // [n_models][n_outputs][n_features] on the scale of X; null: 0
  const double* intercept_init;  // [n_models][n_outputs]; null: 0
  std::int64_t max_iter;
  double tol;
  // Rows on which models come near their optimum before they see all of them: a start, of which no result knows more than that. Null: none.
  const std::int64_t* sample;
  std::int64_t n_sample;
  std::vector<double> sample_weight;  // per split: sum of weights of its training rows among them; 0: its models start near enough
  std::int64_t refresh;  // passes over X after which a model's own Hessian takes the place of that at 0; 1 is Newton's method, 0 never
  int n_threads;
  // Passes over X, with one output: whoever takes them elsewhere gives the bits of `loss_gradient`, in loss_out, total_W and total_intercept.
  // What it throws leaves advance(), and the models are where the pass before has left them.
  std::function<void(const LossGradientArgs<T>&)> evaluate = loss_gradient<T>;
  // Held-out losses.
  const T* held_out_weight;  // null: weight
  DenseRows<T> validation_X;  // x null: the folds' own score rows
  const T* validation_y;
  const T* validation_weight;
};

// What became of each model.
struct Arrivals {
  std::vector<Arrival> how;
  std::vector<std::int64_t> n_iter, n_passes, n_hessians;
  std::vector<double> objective;      // mean loss and penalty
  std::vector<double> gradient_norm;  // the largest component, as `tol` is compared with it
  std::vector<double> gap;            // half the slope along the last direction: how much lower the objective may still be
  std::vector<double> smallest_pivot;  // of the scaled Gram matrix with its penalty; NaN where none was factored
  std::vector<std::int64_t> dropped;   // columns that are sums of others
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // At most max_passes passes over X (< 0: to the end), until `seconds` are over (< 0: never). After cancel(): interrupted.
  virtual Status advance(std::int64_t max_passes, double seconds, const std::function<void()>& poll) = 0;
  virtual void coef(void* out) const = 0;       // [n_models][n_outputs][n_features] of T
  virtual void intercept(void* out) const = 0;  // [n_models][n_outputs] of T
  virtual std::vector<double> held_out() const = 0;  // per model; NaN before the end
  const Arrivals& arrivals() const { return arrivals_; }
  void cancel() { __atomic_store_n(&stop_, 1, __ATOMIC_RELAXED); }
  bool cancelled() const { return __atomic_load_n(&stop_, __ATOMIC_RELAXED) != 0; }

 protected:
  int stop_ = 0;
  Arrivals arrivals_;
};

// The second derivative of a loss at a raw prediction of 0, or 0 for a loss that has none everywhere.
double curvature_at_zero(Loss loss, std::int64_t n_outputs);

template <class T>
std::unique_ptr<Optimizer> make_lbfgs(OptimumArgs<T> args);  // exact, too

template <class T>
std::unique_ptr<Optimizer> make_elastic_net(OptimumArgs<T> args);

template <class T>
std::unique_ptr<Optimizer> make_elastic_net_path(OptimumArgs<T> args);  // without comoments

template <class T>
std::unique_ptr<Optimizer> make_proximal_newton(OptimumArgs<T> args);  // of log_loss

template <class T>
std::unique_ptr<Optimizer> make_leave_one_out(OptimumArgs<T> args);

template <class T>
std::unique_ptr<Optimizer> make_optimizer(OptimumArgs<T> args) {
  if (!args.left_out.empty()) return make_leave_one_out(std::move(args));
  if (args.l1.empty()) return make_lbfgs(std::move(args));
  if (args.loss == Loss::log_loss) return make_proximal_newton(std::move(args));
  return args.sums.front().comoment != nullptr ? make_elastic_net(std::move(args)) : make_elastic_net_path(std::move(args));
}

}  // namespace gradfold
