#include "optimum/hessian.h"

#include <algorithm>
#include <cmath>

#include "gradient/panels.h"
#include "simd/fpenv.h"
#include "threads/team.h"

namespace gradfold {

namespace {

// The second derivative from the first one, g, of the unweighted loss. For log_loss |g| is the probability of the other class.
double curvature(Loss loss, double g, double epsilon) {
  const double size = std::abs(g);
  switch (loss) {
    case Loss::squared_error: return 1;
    case Loss::log_loss: return size * (1 - size);
    case Loss::huber: return size < epsilon ? 1 : 0;
    case Loss::modified_huber: return size > 0 && size < 4 ? 2 : 0;
    default: return size > 0 ? 2 : 0;  // the squared hinges
  }
}

}  // namespace

bool has_hessian(Loss loss) {
  switch (loss) {
    case Loss::squared_error:
    case Loss::log_loss:
    case Loss::huber:
    case Loss::modified_huber:
    case Loss::squared_hinge:
    case Loss::squared_epsilon_insensitive: return true;
    default: return false;
  }
}

std::int64_t most_hessians(std::int64_t n_features) {
  constexpr std::int64_t kBytes = std::int64_t{32} << 20;
  return std::max<std::int64_t>(1, kBytes / (8 * (n_features + 32) * (n_features + 32)));
}

template <class T>
void hessian_moments(const DenseRows<T>& X, const T* y, const T* weight, const FoldsView& folds, Loss loss,
                     const std::vector<HessianModel<T>>& models, const CellMoments& out, int n_threads,
                     const std::function<void()>& poll, const int* stop) {
  FloatingPointGuard guard;
  const GramKernels<T>& grams = gram_kernels<T>(current_level());
  const GradientKernels<T>& kernels = gradient_kernels<T>(current_level());
  const std::int64_t p = X.n_features, size = gram_size(p, grams.panel), one = p + 1;
  const std::int64_t m = static_cast<std::int64_t>(models.size());
  const int lanes = kernels.lanes;
  auto stopped = [stop] { return stop != nullptr && __atomic_load_n(stop, __ATOMIC_RELAXED) != 0; };

  // Panels of one vector: their raw predictions are little beside the products of columns.
  struct Panel {
    std::int64_t first, n;
    AlignedArray<T> W, intercept, epsilon;
    LaneRoles roles;
  };
  std::vector<Panel> panels;
  for (std::int64_t first = 0; first < m; first += lanes) {
    Panel panel{first, std::min<std::int64_t>(lanes, m - first), AlignedArray<T>(p * lanes), AlignedArray<T>(lanes), AlignedArray<T>(lanes), {}};
    std::vector<std::int64_t> splits(lanes, -1);
    for (std::int64_t l = 0; l < panel.n; ++l) {
      const HessianModel<T>& model = models[first + l];
      for (std::int64_t f = 0; f < p; ++f) panel.W[f * lanes + l] = model.w[f];
      panel.intercept[l] = model.intercept;
      panel.epsilon[l] = static_cast<T>(model.epsilon);
      splits[l] = model.split;
    }
    panel.roles = LaneRoles(&folds, splits, Use::train);
    panels.push_back(std::move(panel));
  }
  std::vector<AlignedArray<double>> total;
  for (std::int64_t i = 0; i < m; ++i) total.emplace_back(size * size);

  const std::int64_t n_chunks = (X.n_rows + kRowChunk - 1) / kRowChunk;
  const std::int64_t n_items = n_chunks * static_cast<std::int64_t>(panels.size());
  OrderedItems items;
  run_team(static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(n_threads, n_items))), [&](int) {
    std::vector<std::int64_t> ids(kRowChunk);
    std::vector<const T*> x(kRowChunk), kept(kRowChunk);
    std::vector<std::uint64_t> masks(kRowChunk);
    std::vector<double> h(kRowChunk), nothing(kRowChunk, 0.0);
    AlignedArray<T> z(kRowChunk * lanes), grad_intercept(lanes), count(lanes), scratch(kScratchRows * lanes);
    AlignedArray<double> scratch_of_gram(gram_scratch(size));
    std::vector<AlignedArray<double>> gram;
    for (int l = 0; l < lanes && l < m; ++l) gram.emplace_back(size * size);
    for (std::int64_t item = items.take(); item < n_items; item = items.take()) {
      const Panel& panel = panels[item % panels.size()];
      const std::int64_t begin = item / static_cast<std::int64_t>(panels.size()) * kRowChunk;
      const std::int64_t n = std::min(kRowChunk, X.n_rows - begin);
      std::int64_t used[64] = {};  // rows of each model
      if (!stopped()) {
        for (std::int64_t i = 0; i < n; ++i) {
          ids[i] = begin + i;
          x[i] = X.row(begin + i);
        }
        panel.roles.fill(ids.data(), n, weight, masks.data());
        ChunkTask<T> task{};
        task.n_rows = n;
        task.x = x.data();
        task.y = y + begin;
        task.roles = masks.data();
        task.n_features = p;
        task.n_vectors = 1;
        task.W = panel.W.get();
        task.intercept = panel.intercept.get();
        task.grad_intercept = grad_intercept.get();
        task.count = count.get();
        task.scratch = scratch.get();
        task.loss_epsilon = panel.epsilon.get();
        kernels.forward(task, z.get());
        kernels.residual(loss, task, z.get());
        for (std::int64_t l = 0; l < panel.n; ++l) {
          const HessianModel<T>& model = models[panel.first + l];
          for (std::int64_t i = 0; i < n; ++i) {
            if ((masks[i] >> l & 1) == 0) continue;
            kept[used[l]] = x[i];
            const double own = curvature(loss, static_cast<double>(z[i * lanes + l]), static_cast<double>(panel.epsilon[l]));
            h[used[l]++] = weight != nullptr ? static_cast<double>(weight[begin + i]) * own : own;
          }
          if (used[l] > 0)
            grams.chunk({used[l], kept.data(), nothing.data(), h.data(), p, model.shift, gram[l].get(), scratch_of_gram.get()});
        }
      }
      items.turn(item);
      for (std::int64_t l = 0; l < panel.n; ++l)
        for (std::int64_t i = 0; used[l] > 0 && i < p + 2; ++i)
          for (std::int64_t j = i; j < p + 2; ++j) total[panel.first + l][i * size + j] += gram[l][i * size + j];
      items.done(item);
    }
  }, poll);
  for (std::int64_t i = 0; i < m && !stopped(); ++i)
    finish_moments(total[i].get(), size, p, models[i].shift, out.weight + i, out.mean + i * one, out.comoment + i * one * one);
}

#define GRADFOLD_INSTANTIATE(T)                                                                                           \
  template void hessian_moments(const DenseRows<T>&, const T*, const T*, const FoldsView&, Loss,                          \
                                const std::vector<HessianModel<T>>&, const CellMoments&, int, const std::function<void()>&, \
                                const int*);
GRADFOLD_INSTANTIATE(float)
GRADFOLD_INSTANTIATE(double)

}  // namespace gradfold
