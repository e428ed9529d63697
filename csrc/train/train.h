// The trainer: many models in lock-step through epochs of shuffled batches. An object, so that checkpoints, halving and
// streams need no second loop.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gradient/gradient.h"
#include "update/update.h"

namespace gradfold {

// How far a training has come, beside what each model carries.
struct Progress {
  std::int64_t position = 0;                 // batches walked since the first epoch; -1: models are at batches of their own
  std::vector<std::vector<double>> history;  // [epochs done][n_models]
  std::vector<std::int64_t> diverged_epoch, diverged_batch;  // per model, -1: it has not
  std::vector<unsigned char> finished;                       // per model
  std::vector<double> train_loss, train_weight;              // per model, since the last reset
};

// One array of what the models carry from step to step: [n_models][height] of T ('t'), float64 ('d') or int64 ('q').
struct StateField {
  std::string name;
  char type;
  std::int64_t height;
};

struct SavedState {
  std::map<std::string, std::vector<unsigned char>> arrays;  // one for each StateField
  Progress progress;
};

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
  std::int64_t n_outputs = 1;                 // of a model: the number of classes for multinomial
  std::vector<double> loss_epsilon;           // per model; empty: kLossEpsilon
  Solver solver;
  std::int64_t epochs, batch_size;
  std::int64_t first_epoch;  // of the permutation, in the first epoch walked
  bool shuffle;
  std::uint64_t seed;
  bool fit_intercept, standardize, track_train_loss;
  const double* coef_init;       // [n_models][n_outputs][n_features], null: 0
  const double* intercept_init;  // [n_models][n_outputs], null: 0
  const double *mean, *scale;    // [n_splits][n_features], null: of each split's own training rows
  const T* held_out_weight;      // of the held-out losses; null: `weight`
  DenseRows<T> validation_X;     // x null: held-out losses are those of each split's own score rows
  const T *validation_y, *validation_weight;  // the weight may be null: 1
  std::shared_ptr<const SavedState> state;    // null: from the start
  int n_threads;
};

enum class Status { done, paused, interrupted };

class Trainer {
 public:
  virtual ~Trainer() = default;
  // Walks at most max_steps batches (< 0: to the end), and stops at a whole batch once `seconds` have passed (< 0: never).
  // `poll` is called by the calling thread about every 50 ms. After cancel() it returns interrupted, now and ever after. Done at
  // once when finish() has left no model to train.
  virtual Status advance(std::int64_t max_steps, double seconds, const std::function<void()>& poll) = 0;
  void cancel() { __atomic_store_n(&stop_, 1, __ATOMIC_RELAXED); }
  bool cancelled() const { return __atomic_load_n(&stop_, __ATOMIC_RELAXED) != 0; }
  virtual std::int64_t steps_per_epoch() const = 0;

  virtual void coef(void* out) const = 0;       // [n_models][n_outputs][n_features] of T, on the scale of X
  virtual void intercept(void* out) const = 0;  // [n_models][n_outputs] of T
  virtual void steps(std::int64_t* out) const = 0;
  const std::vector<std::vector<double>>& history() const { return progress_.history; }  // NaN: finished, diverged, or no weight
  const std::vector<std::int64_t>& diverged_epoch() const { return progress_.diverged_epoch; }
  const std::vector<std::int64_t>& diverged_batch() const { return progress_.diverged_batch; }
  bool alive(std::int64_t model) const { return !progress_.finished[model] && progress_.diverged_epoch[model] < 0; }

  // All masks are [n_models]; these calls may set the trainer up, so they take as long as reading X once or twice.
  virtual void finish(const bool* mask) = 0;                           // these models leave for good
  virtual void snapshot(const bool* mask) = 0;                         // remember them as they are
  virtual std::int64_t first_unremembered(const bool* mask) const = 0;  // -1: all of them can be restored
  virtual void restore(const bool* mask) = 0;
  virtual void scale_learning_rate(const double* factor) = 0;
  // Weighted mean loss over the training rows visited since the last reset, each at the weights of its batch; NaN where none.
  virtual void train_loss(double* out, bool reset) = 0;

  virtual std::vector<StateField> state_fields() const = 0;
  // One array for each field, in their order, and the rest.
  virtual Progress state(const std::vector<void*>& out) = 0;

 protected:
  int stop_ = 0;  // a plain int under atomic builtins: level files read it without instantiating std::atomic
  Progress progress_;
};

// What state() of such a trainer will hold.
template <class T>
std::vector<StateField> state_fields(const TrainArgs<T>& args);

template <class T>
std::unique_ptr<Trainer> make_trainer(TrainArgs<T> args);

}  // namespace gradfold
