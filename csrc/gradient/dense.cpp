// Orchestration of the dense kernels over chunks, panels and threads. No lane code here.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "gradient/gradient.h"
#include "gradient/panels.h"
#include "simd/fpenv.h"
#include "threads/team.h"

namespace gradfold {

GRADFOLD_DISPATCH(GradientKernels, gradient_kernels, gradient)

namespace {

// Multiply-adds below which handing work to another thread costs more than it saves.
constexpr std::int64_t kThreadWork = std::int64_t{1} << 21;

int useful_threads(int wanted, std::int64_t items, double multiply_adds) {
#ifdef GRADFOLD_FREE
  wanted = 1;  // nothing keeps threads off each other's totals
#endif
  const double by_work = multiply_adds / static_cast<double>(kThreadWork);
  const std::int64_t most = std::min<std::int64_t>(items, by_work < 1 ? 1 : static_cast<std::int64_t>(std::min(by_work, 1e6)));
  return static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(wanted, most)));
}

template <class T>
T canonical(T value) {
  return std::isnan(value) ? std::numeric_limits<T>::quiet_NaN() : value;
}

// The rows of a chunk that some lane of a panel uses. Leaving the others out is adding +0: no bit depends on it.
template <class T>
struct UsedRows {
  std::vector<const T*> x;
  std::vector<T> y, weight;
  std::vector<std::uint64_t> masks;

  UsedRows() = default;
  explicit UsedRows(std::int64_t n) : x(n), y(n), weight(n), masks(n) {}

  std::int64_t gather(const T* const* from_x, const T* from_y, const T* from_weight, const std::uint64_t* from_masks, std::int64_t n) {
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      x[kept] = from_x[i];
      y[kept] = from_y[i];
      if (from_weight != nullptr) weight[kept] = from_weight[i];
      masks[kept] = from_masks[i];
      kept += from_masks[i] != 0;
    }
    return kept;
  }
};

// Columns of a panel that lie side by side in whole vectors.
template <class T>
struct Block {
  int first, n;  // columns of the panel
  int n_vectors;
  int lanes;
  AlignedArray<T> W;          // [n_features][lanes]
  AlignedArray<T> intercept;  // [lanes]
};

// Models [first, first + n). Column c of the panel is output c % n_outputs of its model c / n_outputs; with one output a panel is one
// block, and its lanes are models.
template <class T>
struct Panel {
  std::int64_t first;
  int n;
  std::vector<Block<T>> blocks;
  AlignedArray<T> loss_epsilon;  // [lanes], with one output and where given
  std::int64_t lanes() const { return blocks.back().first + blocks.back().lanes; }
};

template <class T>
Block<T> pack_block(const T* W, const T* intercept, std::int64_t n_features, std::int64_t n_outputs, std::int64_t n_models,
                    std::int64_t first_model, int first, int n, int width, int lanes) {
  Block<T> block{first, n, width, lanes, AlignedArray<T>(n_features * lanes), AlignedArray<T>(lanes)};
  for (int l = 0; l < n; ++l) {
    const std::int64_t at = (first + l) % n_outputs * n_models + first_model + (first + l) / n_outputs;
    for (std::int64_t f = 0; f < n_features; ++f) block.W[f * lanes + l] = W[f * n_outputs * n_models + at];
    if (intercept != nullptr) block.intercept[l] = intercept[at];
  }
  return block;
}

template <class T>
std::vector<Panel<T>> pack_panels(const T* W, const T* intercept, std::int64_t n_features, std::int64_t n_models,
                                  const GradientKernels<T>& kernels) {
  std::vector<Panel<T>> panels;
  std::int64_t first = 0;
  for (int width : panel_widths(n_models, kernels.lanes, kernels.has_half, kMaxPanelVectors)) {
    const int lanes = panel_lanes(width, kernels.lanes);
    const int n = static_cast<int>(std::min<std::int64_t>(lanes, n_models - first));
    Block<T> block{0, n, width, lanes, AlignedArray<T>(n_features * lanes), AlignedArray<T>(lanes)};
    for (std::int64_t f = 0; f < n_features; ++f)
      std::memcpy(&block.W[f * lanes], W + f * n_models + first, sizeof(T) * n);
    if (intercept != nullptr) std::memcpy(block.intercept.get(), intercept + first, sizeof(T) * n);
    panels.push_back({first, n, {}, {}});
    panels.back().blocks.push_back(std::move(block));
    first += n;
  }
  return panels;
}

template <class T>
std::vector<Panel<T>> pack_output_panels(const LossGradientArgs<T>& args, const GradientKernels<T>& kernels) {
  std::vector<Panel<T>> panels;
  const std::int64_t most = output_panel_models(args.n_models, args.n_outputs, kernels.lanes);
  for (std::int64_t first = 0; first < args.n_models; first += most) {
    Panel<T> panel{first, static_cast<int>(std::min(most, args.n_models - first)), {}, {}};
    const int columns = static_cast<int>(panel.n * args.n_outputs);
    int at = 0;
    for (int width : panel_widths(columns, kernels.lanes, false, kMaxPanelVectors)) {
      const int lanes = panel_lanes(width, kernels.lanes);
      const int n = std::min(lanes, columns - at);
      panel.blocks.push_back(pack_block(args.W, args.intercept, args.X.n_features, args.n_outputs, args.n_models, first, at, n, width, lanes));
      at += n;
    }
    panels.push_back(std::move(panel));
  }
  return panels;
}

}  // namespace

template <class T>
void loss_gradient(const LossGradientArgs<T>& args) {
  FloatingPointGuard guard;  // the workers have their own; packing and the last roundings happen here
  const GradientKernels<T>& kernels = gradient_kernels<T>(current_level());
  const std::int64_t p = args.X.n_features;
  const bool several = args.loss == Loss::multinomial;
  const bool want_gradient = args.grad_W != nullptr || args.grad_intercept != nullptr || args.total_W != nullptr;
  const bool want_loss = args.loss_out != nullptr || !want_gradient;
  const bool want_weight_sum = args.mean && args.weight != nullptr;
  std::vector<Panel<T>> panels =
      several ? pack_output_panels(args, kernels) : pack_panels(args.W, args.intercept, p, args.n_models, kernels);
  const std::int64_t n_panels = static_cast<std::int64_t>(panels.size());
  const std::int64_t n_chunks = (args.n_positions + kRowChunk - 1) / kRowChunk;

#ifdef GRADFOLD_FREE  // float32 totals, and the kernels add to them
  using Sum = T;
#else
  using Sum = double;
#endif
  struct Totals {
    AlignedArray<Sum> grad;  // of the panel's blocks, one after the other, as the others
    AlignedArray<double> grad_intercept, loss, weight;
  };
  std::vector<LaneRoles> roles;
  std::vector<Totals> totals;
  std::int64_t widest = 0, most_scratch = 0;
  for (Panel<T>& panel : panels) {
    const std::int64_t lanes = panel.lanes();
    std::vector<std::int64_t> split_of_model(several ? panel.n : lanes, -1);
    for (int m = 0; m < panel.n; ++m) split_of_model[m] = args.folds != nullptr ? args.split_of_model[panel.first + m] : 0;
    roles.emplace_back(args.folds, split_of_model, args.use);
    if (!several && args.loss_epsilon != nullptr) {
      panel.loss_epsilon = AlignedArray<T>(lanes);
      for (int l = 0; l < panel.n; ++l) panel.loss_epsilon[l] = static_cast<T>(args.loss_epsilon[panel.first + l]);
    }
    totals.push_back({AlignedArray<Sum>(want_gradient ? p * lanes : 0), AlignedArray<double>(lanes), AlignedArray<double>(lanes),
                      AlignedArray<double>(lanes)});
    widest = std::max(widest, lanes);
    most_scratch = std::max(most_scratch, several ? output_scratch<T>(p, lanes) : kScratchRows * lanes);
  }

  const bool some_unused = args.folds != nullptr || args.weight != nullptr;
  OrderedItems items;
  const std::int64_t n_items = n_chunks * n_panels;
  const double multiply_adds = 2.0 * static_cast<double>(args.n_positions) * static_cast<double>(p) *
                               static_cast<double>(args.n_models) * static_cast<double>(args.n_outputs);
  const int threads = useful_threads(args.n_threads, n_items, multiply_adds);
  auto work = [&](int) {
    std::vector<std::int64_t> ids(kRowChunk);
    std::vector<const T*> x(kRowChunk);
    std::vector<T> y(kRowChunk), weight(kRowChunk);
    std::vector<std::uint64_t> masks(kRowChunk);
    UsedRows<T> used = some_unused ? UsedRows<T>(kRowChunk) : UsedRows<T>();
    AlignedArray<T> grad(want_gradient ? p * widest : 0), grad_intercept(widest), count(widest), scratch(most_scratch);
    AlignedArray<double> loss(widest), weight_sum(widest);
    AlignedArray<T> narrow(several ? 0 : 2 * kNarrowModels * p);
    std::vector<OutputBlock<T>> blocks;
    std::int64_t have_chunk = -1, n = 0;
    const T *chunk_y = nullptr, *chunk_weight = nullptr;
    for (;;) {
      const std::int64_t item = items.take();
      if (item >= n_items) break;
      if (args.stop != nullptr && __atomic_load_n(args.stop, __ATOMIC_RELAXED) != 0) {
        items.turn(item);
        items.done(item);
        continue;
      }
      const std::int64_t chunk = item / n_panels;
      const std::int64_t at = item % n_panels;
      if (chunk != have_chunk) {
        const std::int64_t begin = chunk * kRowChunk;
        n = std::min(kRowChunk, args.n_positions - begin);
        if (args.rows != nullptr) {
          std::copy_n(args.rows + begin, n, ids.data());
          for (std::int64_t i = 0; i < n; ++i) y[i] = args.y[ids[i]];
          for (std::int64_t i = 0; args.weight != nullptr && i < n; ++i) weight[i] = args.weight[ids[i]];
          for (std::int64_t i = 0; i < n; ++i) x[i] = args.X.row(ids[i]);
          chunk_y = y.data();
          chunk_weight = args.weight != nullptr ? weight.data() : nullptr;
        } else {
          for (std::int64_t i = 0; i < n; ++i) ids[i] = begin + i;
          const T* const first = args.X.row(begin);
          for (std::int64_t i = 0; i < n; ++i) x[i] = first + i * p;
          chunk_y = args.y + begin;
          chunk_weight = args.weight != nullptr ? args.weight + begin : nullptr;
        }
        have_chunk = chunk;
      }
      const Panel<T>& panel = panels[at];
      roles[at].fill(ids.data(), n, args.weight, masks.data());
      // Most panels use most rows, and then it is not worth it to move them.
      const std::int64_t unused = some_unused ? std::count(masks.begin(), masks.begin() + n, std::uint64_t{0}) : 0;
      const bool gathers = unused > n / 8;
      const std::int64_t n_used = gathers ? used.gather(x.data(), chunk_y, chunk_weight, masks.data(), n) : n;
      const T* const* used_x = gathers ? used.x.data() : x.data();
      const T* used_y = gathers ? used.y.data() : chunk_y;
      const T* used_weight = gathers && chunk_weight != nullptr ? used.weight.data() : chunk_weight;
      const std::uint64_t* used_masks = gathers ? used.masks.data() : masks.data();
      double* chunk_loss = want_loss ? loss.get() : nullptr;
      double* chunk_weight_sum = want_weight_sum ? weight_sum.get() : nullptr;
      if (several) {
        blocks.clear();
        for (const Block<T>& block : panel.blocks)
          blocks.push_back({block.n_vectors, block.W.get(), block.intercept.get(),
                            want_gradient ? grad.get() + p * block.first : nullptr, grad_intercept.get() + block.first});
        kernels.outputs({n_used, used_x, used_y, used_weight, used_masks, p, panel.n, args.n_outputs,
                         static_cast<int>(blocks.size()), blocks.data(), count.get(), chunk_loss, chunk_weight_sum, scratch.get(), args.stop});
      } else {
        const Block<T>& block = panel.blocks[0];
        // Items are taken in turn, all panels of a chunk before the next chunk.
        const std::int64_t after = ids[0] + std::max<std::int64_t>(1, threads / n_panels) * kRowChunk;
        // Where most rows are left out, most of what lies there would be fetched in vain.
        const bool follows = args.rows == nullptr && n_used > n / 2 && after < args.X.n_rows;
        const T* const next = follows ? args.X.row(after) : nullptr;
        kernels.chunk(args.loss, {n_used,
                                  used_x,
                                  used_y,
                                  used_weight,
                                  used_masks,
                                  p,
                                  block.n_vectors,
                                  block.W.get(),
                                  block.intercept.get(),
#ifdef GRADFOLD_FREE
                                  want_gradient ? totals[at].grad.get() : nullptr,
#else
                                  want_gradient ? grad.get() : nullptr,
#endif
                                  grad_intercept.get(),
                                  count.get(),
                                  chunk_loss,
                                  chunk_weight_sum,
                                  scratch.get(),
                                  narrow_models(panel.n, block.n_vectors, n_used),
                                  narrow.get(),
                                  args.stop,
                                  panel.loss_epsilon ? panel.loss_epsilon.get() : nullptr,
                                  nullptr,
                                  next,
#ifdef GRADFOLD_FREE
                                  true
#endif
                                 });
      }
      items.turn(item);
      Totals& total = totals[at];
      const std::int64_t lanes = panel.lanes();
      if (want_gradient) {
#ifdef GRADFOLD_FREE
        if (several)
#endif
        for (std::int64_t i = 0; i < p * lanes; ++i) total.grad[i] += static_cast<Sum>(grad[i]);
        for (std::int64_t l = 0; l < lanes; ++l) total.grad_intercept[l] += static_cast<double>(grad_intercept[l]);
      }
      for (int m = 0; m < panel.n; ++m) {
        if (want_loss) total.loss[m] += loss[m];
        total.weight[m] += want_weight_sum ? weight_sum[m] : static_cast<double>(count[m]);
      }
      items.done(item);
    }
  };
  run_team(threads, work, args.poll != nullptr ? *args.poll : std::function<void()>());

  for (std::int64_t i = 0; i < n_panels; ++i) {
    const Panel<T>& panel = panels[i];
    const Totals& total = totals[i];
    for (int m = 0; m < panel.n && args.loss_out != nullptr; ++m) {
      const double sum = total.weight[m];
      args.loss_out[panel.first + m] = !args.mean ? canonical(total.loss[m])
                                       : sum != 0 ? canonical(total.loss[m] / sum)
                                                  : std::numeric_limits<double>::quiet_NaN();
    }
    for (const Block<T>& block : panel.blocks)
      for (int l = 0; l < block.n; ++l) {
        const std::int64_t m = (block.first + l) / args.n_outputs, output = (block.first + l) % args.n_outputs;
        const double sum = total.weight[m];
        const bool scaled = args.mean && sum != 0;
        const T factor = scaled ? static_cast<T>(1.0 / sum) : T(1);
        auto finish = [&](double value) {
          const T rounded = static_cast<T>(value);
          return canonical(scaled ? rounded * factor : rounded);
        };
        const std::int64_t to = output * args.n_models + panel.first + m;
        if (args.total_intercept != nullptr) args.total_intercept[to] = canonical(total.grad_intercept[block.first + l]);
        if (args.total_W != nullptr)
          for (std::int64_t f = 0; f < p; ++f)
            args.total_W[f * args.n_outputs * args.n_models + to] =
                canonical(static_cast<double>(total.grad[p * block.first + f * block.lanes + l]));
        if (args.grad_intercept != nullptr) args.grad_intercept[to] = finish(total.grad_intercept[block.first + l]);
        if (args.grad_W != nullptr)
          for (std::int64_t f = 0; f < p; ++f)
            args.grad_W[f * args.n_outputs * args.n_models + to] = finish(total.grad[p * block.first + f * block.lanes + l]);
      }
  }
}

namespace {

// Of n_rows rows: what make_find() returns, once for each thread, is called with (begin, n, x) and writes the addresses of n of them.
// work_of_value: multiply-adds that a value of them is worth.
template <class T, class MakeFind>
void predict_rows(std::int64_t n_rows, std::int64_t n_features, const T* W, const T* intercept, std::int64_t n_models, T* out, int n_threads,
                  double work_of_value, MakeFind&& make_find) {
  const GradientKernels<T>& kernels = gradient_kernels<T>(current_level());
  const std::vector<Panel<T>> panels = pack_panels(W, intercept, n_features, n_models, kernels);
  const std::int64_t n_blocks = (n_rows + kScratchRows - 1) / kScratchRows;
  std::atomic<std::int64_t> next{0};
  auto work = [&](int) {
    const T* x[kScratchRows];
    AlignedArray<T> z(kScratchRows * kMaxPanelVectors * kernels.lanes);
    auto find = make_find();
    for (;;) {
      const std::int64_t block = next.fetch_add(1, std::memory_order_relaxed);
      if (block >= n_blocks) break;
      const std::int64_t begin = block * kScratchRows;
      const std::int64_t n = std::min(kScratchRows, n_rows - begin);
      find(begin, n, x);
      for (const Panel<T>& panel : panels) {
        const Block<T>& block = panel.blocks[0];
        ChunkTask<T> task{};
        task.n_rows = n;
        task.x = x;
        task.n_features = n_features;
        task.n_vectors = block.n_vectors;
        task.W = block.W.get();
        task.intercept = block.intercept.get();
        kernels.forward(task, z.get());
        for (std::int64_t i = 0; i < n; ++i)
          for (int l = 0; l < panel.n; ++l) out[(begin + i) * n_models + panel.first + l] = canonical(z[i * block.lanes + l]);
      }
    }
  };
  run_team(useful_threads(n_threads, n_blocks, static_cast<double>(n_rows) * static_cast<double>(n_features) * work_of_value), work);
}

}  // namespace

template <class T>
void raw_prediction(const DenseRows<T>& X, const T* W, const T* intercept, std::int64_t n_models, T* out, int n_threads) {
  predict_rows(X.n_rows, X.n_features, W, intercept, n_models, out, n_threads, static_cast<double>(n_models), [&X] {
    return [&X](std::int64_t begin, std::int64_t n, const T** x) {
      for (std::int64_t i = 0; i < n; ++i) x[i] = X.row(begin + i);
    };
  });
}

template <class T>
void raw_prediction_of_rows(const DenseRows<T>& X, const std::int64_t* rows, std::int64_t n_rows, const double* W, const double* intercept,
                            std::int64_t n_models, double* out, int n_threads) {
  const std::int64_t p = X.n_features;
  constexpr double kFetch = 16;  // what a value from a row that nothing foresees costs, in multiply-adds
  predict_rows(n_rows, p, W, intercept, n_models, out, n_threads, kFetch + static_cast<double>(n_models), [&X, rows, p] {
    constexpr bool kWidens = !std::is_same_v<T, double>;
    constexpr std::int64_t kAhead = 4;
    return [&X, rows, p, wide = AlignedArray<double>(kWidens ? kScratchRows * p : 0)](std::int64_t begin, std::int64_t n, const double** x) {
      for (std::int64_t i = 0; i < n; ++i) {
        const T* const row = X.row(rows[begin + i]);
        if (i + kAhead < n)
          for (std::int64_t f = 0; f < p; f += 64 / sizeof(T)) __builtin_prefetch(X.row(rows[begin + i + kAhead]) + f);
        if constexpr (kWidens) {
          for (std::int64_t f = 0; f < p; ++f) wide[i * p + f] = static_cast<double>(row[f]);
          x[i] = wide.get() + i * p;
        } else {
          x[i] = row;
        }
      }
    };
  });
}

template <class T>
std::int64_t first_non_finite(const T* a, std::int64_t n, int n_threads) {
  constexpr std::int64_t kBlock = 1 << 14;
  std::atomic<std::int64_t> next{0}, found{n};
  auto work = [&](int) {
    for (;;) {
      const std::int64_t begin = next.fetch_add(kBlock, std::memory_order_relaxed);
      if (begin >= n || begin >= found.load(std::memory_order_relaxed)) break;
      const std::int64_t end = std::min(n, begin + kBlock);
      // x - x is +0 for a finite x and NaN otherwise, and a NaN stays in the sum: no branch in the loop.
      T sum[16] = {};
      std::int64_t i = begin;
      for (; i + 16 <= end; i += 16)
        for (int k = 0; k < 16; ++k) sum[k] += a[i + k] - a[i + k];
      T all = 0;
      for (T s : sum) all += s;
      for (; i < end; ++i) all += a[i] - a[i];
      if (all == 0) continue;
      std::int64_t at = begin;
      while (std::isfinite(a[at])) ++at;
      std::int64_t known = found.load();
      while (at < known && !found.compare_exchange_weak(known, at)) {
      }
    }
  };
  run_team(useful_threads(n_threads, (n + kBlock - 1) / kBlock, static_cast<double>(n)), work);
  return found.load() == n ? -1 : found.load();
}

#define GRADFOLD_INSTANTIATE(T)                                                                                       \
  template void loss_gradient(const LossGradientArgs<T>&);                                                            \
  template void raw_prediction(const DenseRows<T>&, const T*, const T*, std::int64_t, T*, int);                       \
  template void raw_prediction_of_rows(const DenseRows<T>&, const std::int64_t*, std::int64_t, const double*,         \
                                       const double*, std::int64_t, double*, int);                                    \
  template std::int64_t first_non_finite(const T*, std::int64_t, int);
GRADFOLD_INSTANTIATE(float)
GRADFOLD_INSTANTIATE(double)

}  // namespace gradfold
