// The trainer: many models in lock-step through epochs of shuffled batches. An object, so that checkpoints, halving and
// streams need no second loop.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "gradient/gradient.h"
#include "update/update.h"

namespace gradfold {

template <class T>
struct TrainArgs {
  DenseRows<T> X;  // not owned, like every pointer here: the caller keeps the arrays alive
  const T* y;
  const T* weight;  // null: 1
  FoldsView folds;
  std::vector<std::int64_t> split_of_model;
  std::vector<double> l1, l2, learning_rate;  // per model
  std::vector<std::int64_t> schedule;         // per model
  std::vector<double> hyper[kHypers];         // per model, in the order of Hyper; empty: the solver's default
  Loss loss;
  Solver solver;
  std::int64_t epochs, batch_size;
  bool shuffle;
  std::uint64_t seed;
  bool fit_intercept, standardize;
  const double* coef_init;       // [n_models][n_features], null: 0
  const double* intercept_init;  // [n_models], null: 0
  int n_threads;
};

enum class Status { done, paused, interrupted };

class Trainer {
 public:
  virtual ~Trainer() = default;
  // Walks at most max_steps batches (< 0: to the end), and stops at a whole batch once `seconds` have passed (< 0: never).
  // `poll` is called by the calling thread about every 50 ms. After cancel() it returns interrupted, now and ever after.
  virtual Status advance(std::int64_t max_steps, double seconds, const std::function<void()>& poll) = 0;
  void cancel() { __atomic_store_n(&stop_, 1, __ATOMIC_RELAXED); }
  bool cancelled() const { return __atomic_load_n(&stop_, __ATOMIC_RELAXED) != 0; }

  virtual void coef(void* out) const = 0;       // [n_models][n_features] of T, on the scale of X
  virtual void intercept(void* out) const = 0;  // [n_models] of T
  virtual void steps(std::int64_t* out) const = 0;
  const std::vector<std::vector<double>>& history() const { return history_; }  // [epochs done][n_models]
  const std::vector<std::int64_t>& diverged_epoch() const { return diverged_epoch_; }
  const std::vector<std::int64_t>& diverged_batch() const { return diverged_batch_; }

 protected:
  int stop_ = 0;  // a plain int under atomic builtins: level files read it without instantiating std::atomic
  std::vector<std::vector<double>> history_;
  std::vector<std::int64_t> diverged_epoch_, diverged_batch_;
};

template <class T>
std::unique_ptr<Trainer> make_trainer(TrainArgs<T> args);

}  // namespace gradfold
