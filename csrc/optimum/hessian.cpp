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

// Panels of one vector: raw predictions are little beside the products of columns.
template <class T>
struct Panel {
  std::int64_t first, n;
  AlignedArray<T> W, intercept, epsilon;
  LaneRoles roles;
};

template <class T, class Model>
std::vector<Panel<T>> make_panels(const std::vector<Model>& models, std::int64_t p, int lanes, const FoldsView& folds) {
  const std::int64_t m = static_cast<std::int64_t>(models.size());
  std::vector<Panel<T>> panels;
  for (std::int64_t first = 0; first < m; first += lanes) {
    Panel<T> panel{first, std::min<std::int64_t>(lanes, m - first), AlignedArray<T>(p * lanes), AlignedArray<T>(lanes),
                   AlignedArray<T>(lanes), {}};
    std::vector<std::int64_t> splits(lanes, -1);
    for (std::int64_t l = 0; l < panel.n; ++l) {
      const Model& model = models[first + l];
      for (std::int64_t f = 0; f < p; ++f) panel.W[f * lanes + l] = model.w[f];
      panel.intercept[l] = model.intercept;
      panel.epsilon[l] = static_cast<T>(model.epsilon);
      splits[l] = model.split;
    }
    panel.roles = LaneRoles(&folds, splits, Use::train);
    panels.push_back(std::move(panel));
  }
  return panels;
}

// One thread's chunk of rows under one panel.
template <class T>
class Chunk {
 public:
  Chunk(const GradientKernels<T>& kernels, Loss loss)
      : x(kRowChunk), masks(kRowChunk), raw(kRowChunk * kernels.lanes), first(kRowChunk * kernels.lanes), kernels_(kernels), loss_(loss),
        y_(kRowChunk), grad_intercept_(kernels.lanes), count_(kernels.lanes), scratch_(kScratchRows * kernels.lanes) {}

  // Of the rows ids[0] to ids[n - 1], at most kRowChunk: addresses, masks, raw predictions and first derivatives of the unweighted loss.
  void evaluate(const DenseRows<T>& X, const T* y, const T* weight, const std::int64_t* ids, std::int64_t n, const Panel<T>& panel) {
    for (std::int64_t i = 0; i < n; ++i) {
      x[i] = X.row(ids[i]);
      y_[i] = y[ids[i]];
    }
    panel.roles.fill(ids, n, weight, masks.data());
    ChunkTask<T> task{};
    task.n_rows = n;
    task.x = x.data();
    task.y = y_.data();
    task.roles = masks.data();
    task.n_features = X.n_features;
    task.n_vectors = 1;
    task.W = panel.W.get();
    task.intercept = panel.intercept.get();
    task.grad_intercept = grad_intercept_.get();
    task.count = count_.get();
    task.scratch = scratch_.get();
    task.loss_epsilon = panel.epsilon.get();
    kernels_.forward(task, raw.get());
    std::copy_n(raw.get(), n * kernels_.lanes, first.get());
    kernels_.residual(loss_, task, first.get());
  }

  std::vector<const T*> x;
  std::vector<std::uint64_t> masks;
  AlignedArray<T> raw, first;  // [rows][lanes]

 private:
  const GradientKernels<T>& kernels_;
  const Loss loss_;
  std::vector<T> y_;
  AlignedArray<T> grad_intercept_, count_, scratch_;
};

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

template <class T>
void hessian_moments(const DenseRows<T>& X, const T* y, const T* weight, const FoldsView& folds, Loss loss,
                     const std::vector<HessianModel<T>>& models, int n_threads,
                     const std::function<void()>& poll, const int* stop) {
  FloatingPointGuard guard;
  const GramKernels<T>& grams = gram_kernels<T>(current_level());
  const GradientKernels<T>& kernels = gradient_kernels<T>(current_level());
  const std::int64_t p = X.n_features;
  auto columns = [p](const HessianModel<T>& model) { return model.columns != nullptr ? model.n_columns : p; };
  auto size_of = [&](const HessianModel<T>& model) { return gram_size(columns(model), grams.panel); };
  std::int64_t largest = 0, gathered = 0;
  for (const HessianModel<T>& model : models) {
    largest = std::max(largest, size_of(model));
    if (model.columns != nullptr) gathered = std::max(gathered, model.n_columns);
  }
  const std::int64_t m = static_cast<std::int64_t>(models.size());
  const int lanes = kernels.lanes;
  auto stopped = [stop] { return stop != nullptr && __atomic_load_n(stop, __ATOMIC_RELAXED) != 0; };

  const std::vector<Panel<T>> panels = make_panels<T>(models, p, lanes, folds);
  std::vector<AlignedArray<double>> total;
  for (const HessianModel<T>& model : models) total.emplace_back(size_of(model) * size_of(model));

  const std::int64_t n_chunks = (X.n_rows + kRowChunk - 1) / kRowChunk;
  const std::int64_t n_items = n_chunks * static_cast<std::int64_t>(panels.size());
  OrderedItems items;
  run_team(static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(n_threads, n_items))), [&](int) {
    std::vector<std::int64_t> ids(kRowChunk);
    std::vector<const T*> kept(kRowChunk);
    std::vector<double> h(kRowChunk), nothing(kRowChunk, 0.0);
    Chunk<T> chunk(kernels, loss);
    AlignedArray<double> scratch_of_gram(gram_scratch(largest));
    AlignedArray<T> side_by_side(kRowChunk * gathered);
    std::vector<AlignedArray<double>> gram;
    for (int l = 0; l < lanes && l < m; ++l) gram.emplace_back(largest * largest);
    for (std::int64_t item = items.take(); item < n_items; item = items.take()) {
      const Panel<T>& panel = panels[item % panels.size()];
      const std::int64_t begin = item / static_cast<std::int64_t>(panels.size()) * kRowChunk;
      const std::int64_t n = std::min(kRowChunk, X.n_rows - begin);
      std::int64_t used[64] = {};  // rows of each model
      if (!stopped()) {
        for (std::int64_t i = 0; i < n; ++i) ids[i] = begin + i;
        chunk.evaluate(X, y, weight, ids.data(), n, panel);
        for (std::int64_t l = 0; l < panel.n; ++l) {
          const HessianModel<T>& model = models[panel.first + l];
          for (std::int64_t i = 0; i < n; ++i) {
            if ((chunk.masks[i] >> l & 1) == 0) continue;
            kept[used[l]] = chunk.x[i];
            if (model.columns != nullptr) {
              T* const own = side_by_side.get() + used[l] * model.n_columns;
              for (std::int64_t f = 0; f < model.n_columns; ++f) own[f] = chunk.x[i][model.columns[f]];
              kept[used[l]] = own;
            }
            const double own = curvature(loss, static_cast<double>(chunk.first[i * lanes + l]), static_cast<double>(panel.epsilon[l]));
            h[used[l]++] = weight != nullptr ? static_cast<double>(weight[begin + i]) * own : own;
          }
          if (used[l] > 0)
            grams.chunk({used[l], kept.data(), nothing.data(), h.data(), columns(model), model.shift, gram[l].get(), scratch_of_gram.get()});
        }
      }
      items.turn(item);
      for (std::int64_t l = 0; l < panel.n; ++l) {
        const std::int64_t size = size_of(models[panel.first + l]), n_sums = columns(models[panel.first + l]) + 2;
        for (std::int64_t i = 0; used[l] > 0 && i < n_sums; ++i)
          for (std::int64_t j = i; j < n_sums; ++j) total[panel.first + l][i * size + j] += gram[l][i * size + j];
      }
      items.done(item);
    }
  }, poll);
  for (std::int64_t i = 0; i < m && !stopped(); ++i) {
    const CellMoments& out = models[i].out;
    finish_moments(total[i].get(), size_of(models[i]), columns(models[i]), models[i].shift, out.weight, out.mean, out.comoment);
  }
}

template <class T>
std::vector<CurvatureSums> curvature_sums(const DenseRows<T>& X, const T* y, const T* weight, const std::int64_t* rows, std::int64_t n_rows,
                                          const FoldsView& folds, Loss loss, const std::vector<CurvatureModel<T>>& models, int n_threads,
                                          const std::function<void()>& poll, const int* stop) {
  FloatingPointGuard guard;
  const GradientKernels<T>& kernels = gradient_kernels<T>(current_level());
  const int lanes = kernels.lanes;
  const std::vector<Panel<T>> panels = make_panels<T>(models, X.n_features, lanes, folds);
  std::vector<CurvatureSums> out(models.size());
  const std::int64_t n_panels = static_cast<std::int64_t>(panels.size()), n_items = (n_rows + kRowChunk - 1) / kRowChunk * n_panels;
  OrderedItems items;
  run_team(static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(n_threads, n_items))), [&](int) {
    Chunk<T> chunk(kernels, loss);
    std::vector<CurvatureSums> sums(lanes);
    for (std::int64_t item = items.take(); item < n_items; item = items.take()) {
      const Panel<T>& panel = panels[item % n_panels];
      const std::int64_t begin = item / n_panels * kRowChunk, n = std::min(kRowChunk, n_rows - begin);
      std::fill(sums.begin(), sums.end(), CurvatureSums{});
      if (stop == nullptr || __atomic_load_n(stop, __ATOMIC_RELAXED) == 0) {
        chunk.evaluate(X, y, weight, rows + begin, n, panel);
        for (std::int64_t i = 0; i < n; ++i) {
          const double of_row = weight != nullptr ? static_cast<double>(weight[rows[begin + i]]) : 1.0;
          for (std::int64_t l = 0; l < panel.n; ++l) {
            if ((chunk.masks[i] >> l & 1) == 0) continue;
            const CurvatureModel<T>& model = models[panel.first + l];
            const double first = static_cast<double>(chunk.first[i * lanes + l]);
            const double h = of_row * curvature(loss, first, static_cast<double>(panel.epsilon[l]));
            const double u = static_cast<double>(chunk.raw[i * lanes + l]) - model.centre;
            sums[l].weight += of_row;
            sums[l].h += h;
            sums[l].hu += h * u;
            sums[l].huu += h * u * u;
            sums[l].bent += h != 0;
          }
        }
      }
      items.turn(item);
      for (std::int64_t l = 0; l < panel.n; ++l) {
        CurvatureSums& total = out[panel.first + l];
        total.weight += sums[l].weight;
        total.h += sums[l].h;
        total.hu += sums[l].hu;
        total.huu += sums[l].huu;
        total.bent += sums[l].bent;
      }
      items.done(item);
    }
  }, poll);
  return out;
}

#define GRADFOLD_INSTANTIATE(T)                                                                                           \
  template void hessian_moments(const DenseRows<T>&, const T*, const T*, const FoldsView&, Loss,                          \
                                const std::vector<HessianModel<T>>&, int, const std::function<void()>&, const int*);      \
  template std::vector<CurvatureSums> curvature_sums(const DenseRows<T>&, const T*, const T*, const std::int64_t*,        \
                                                     std::int64_t, const FoldsView&, Loss,                                \
                                                     const std::vector<CurvatureModel<T>>&, int,                          \
                                                     const std::function<void()>&, const int*);
GRADFOLD_INSTANTIATE(float)
GRADFOLD_INSTANTIATE(double)

}  // namespace gradfold
