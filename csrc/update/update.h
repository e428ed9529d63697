// One optimiser step of a panel of models. Raw pointers and sizes only.
//
// A step has three parts: `norms` (squared norms of the mean gradients, where some model clips by norm), `probe` (which lanes stay finite)
// and `commit` (store). `step` does them in a row for panels whose lanes are models. A model of several outputs has a lane for each: its
// owner calls `norms` on every block of lanes, `clip_factors` over all of them, `probe` on every block, drops a model from `keep` when any
// of its lanes diverged, and calls `commit` with what is left. All lanes of a model have its hyper-parameters, updates and counts.
#pragma once
#include <cstdint>
#include <string>

#include "levels/levels.h"

namespace gradfold {

enum class Solver : int { sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw };
enum class Schedule : int { constant, cosine, inverse_scaling, exponential, step, optimal, adaptive };
constexpr int kSchedules = 7;

// Hyper-parameters of a model beside learning rate, l1 and l2. plateau_factor is carried for whoever scales learning rates.
enum class Hyper : int {
  momentum, beta1, beta2, epsilon, rho, weight_decay, clip_norm, clip_value, average, power_t, decay, decay_epochs, warmup, plateau_factor,
  t0
};
constexpr int kHypers = 15;

// "sgd" and so on; -1 for a name that is none.
int solver_index(const std::string& name);
std::string solver_names();
int hyper_index(const std::string& name);
std::string hyper_names();
double hyper_default(Solver solver, Hyper hyper);
// What the value must be, in words, or null when it is so. The smallest epsilon is that of the type in which it is added.
const char* hyper_wanted(Hyper hyper, double value, bool is_float);

// What a solver keeps beside the weights.
bool has_first(Solver solver);   // momentum's velocity, adam's first moment
bool has_second(Solver solver);  // sum or mean of squared gradients
bool has_powers(Solver solver);  // beta1^t and beta2^t

// Settings of the optimiser that all models of a run share. any_*: some model has it.
struct SolverSettings {
  Solver solver;
  bool fit_intercept;
  bool any_l1, any_clip, any_clip_norm, any_warmup;
  double horizon;          // of the cosine, in updates of a model
  double steps_per_epoch;  // batches of an epoch
};

// A panel of models as the optimiser sees it; arrays of features are [n_features][lanes], everything else is [lanes].
template <class T>
struct PanelState {
  std::int64_t n_features;
  int n_vectors;
  int lanes;
  T *W, *first, *second;  // weights, and what the solver keeps (null where it keeps none)
  T *intercept, *intercept_first, *intercept_second;
  T *average_W, *average_intercept;  // null where no model averages; a model that does not has its weights here

  const double* learning_rate;
  const double* rate_scale;  // multiplies the rate of every schedule
  const std::int64_t* schedule;
  const double *l1, *l2;
  const double* hyper;        // [kHypers][lanes]
  const double* mean_weight;  // S / N: mean sample weight of the rows that the model trains on
  double* updates;            // updates made so far, an exact integer
  double *beta1_power, *beta2_power;

  // standardize: moments of each lane's training rows, and what the gradient kernel sees instead of W and intercept. All null
  // when not standardizing.
  const double *mean, *scale;  // [n_features][lanes]; scale -1 marks a constant column: its scale is 1, its gradient +0
  const double* ratio;         // mean / |scale|
  T* seen_W;                   // [n_features][lanes]
  T* seen_intercept;
};

// The batch's gradient sums. Either `chunk` (the batch is one chunk) or `total` is set.
template <class T>
struct BatchSums {
  const T* chunk;  // [n_features][lanes]
  const T* chunk_intercept;
  const double* total;
  const double* total_intercept;
  const double* count;  // training rows in the batch, per lane
};

template <class T>
struct UpdateKernels {
  // Steps the lanes of `alive` that have rows in the batch. Returns the lanes that diverged: they are as they were before.
  // replaced: memory for step_memory values.
  std::uint64_t (*step)(const SolverSettings&, const PanelState<T>&, const BatchSums<T>&, std::uint64_t alive, T* replaced);
  // Per lane, the squared norm of its mean gradient before l2: of the features, and of the intercept (0 without one).
  void (*norms)(const SolverSettings&, const PanelState<T>&, const BatchSums<T>&, double* squares, double* intercept_squares);
  // Which lanes of `alive` with rows in the batch would diverge. clip_factor: [lanes], null where no model clips by norm.
  std::uint64_t (*probe)(const SolverSettings&, const PanelState<T>&, const BatchSums<T>&, std::uint64_t alive,
                         const double* clip_factor);
  // Steps the lanes of `keep` that have rows in the batch, and recomputes what is seen of the panel.
  void (*commit)(const SolverSettings&, const PanelState<T>&, const BatchSums<T>&, std::uint64_t keep, const double* clip_factor);
  // Recomputes seen_W and seen_intercept of all lanes from W, intercept, mean and scale.
  void (*see)(const PanelState<T>&);
};

template <class T>
const UpdateKernels<T>& update_kernels(Level level);

// Values that a step keeps of one vector of lanes while it replaces them: four arrays of features and an intercept.
template <class T>
constexpr int kMostLanes = 64 / sizeof(T);  // of one vector, on any level
constexpr std::int64_t step_memory(std::int64_t n_features, int lanes_of_vector) { return 4 * (n_features + 1) * lanes_of_vector; }

// clip_norm / norm for the models whose norm is above it, else 1, for each of a model's n_outputs lanes (side by side, models in order).
// squared norm = the outputs' features, added in order, then the outputs' intercepts. `factor` may be `squares`.
void clip_factors(const double* squares, const double* intercept_squares, const double* clip_norm, std::int64_t n_models,
                  std::int64_t n_outputs, double* factor);

}  // namespace gradfold
