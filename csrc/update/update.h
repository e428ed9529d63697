// One optimiser step of a panel of models. Raw pointers and sizes only.
#pragma once
#include <cstdint>

#include "levels/levels.h"

namespace gradfold {

enum class Solver : int { sgd, adam };
enum class Schedule : int { constant, cosine };

// Settings of the optimiser that all models of a run share. Source of adam: Kingma and Ba, "Adam", 2015, algorithm 1.
struct SolverSettings {
  Solver solver;
  bool fit_intercept;
  bool any_l1;
  double horizon;  // of a schedule, in updates of a model
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
};

// A panel of models as the optimiser sees it; arrays of features are [n_features][lanes], everything else is [lanes].
template <class T>
struct PanelState {
  std::int64_t n_features;
  int n_vectors;
  T *W, *first, *second;  // weights, and adam's two moments (null for sgd)
  T *intercept, *intercept_first, *intercept_second;

  const double* learning_rate;
  const std::int64_t* schedule;
  const double *l1, *l2;
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
  // Steps the lanes of `alive` that have rows in the batch. Returns the lanes that diverged: nothing of theirs is stored.
  std::uint64_t (*step)(const SolverSettings&, const PanelState<T>&, const BatchSums<T>&, std::uint64_t alive);
  // Recomputes seen_W and seen_intercept of all lanes from W, intercept, mean and scale.
  void (*see)(const PanelState<T>&);
};

template <class T>
const UpdateKernels<T>& update_kernels(Level level);

}  // namespace gradfold
