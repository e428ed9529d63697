// Batches. Four plans share the panels, the kernels and hence the bits:
//   by panel   each thread owns panels and walks all batches with them, without a barrier;
//   by window  panels that cannot be shared out evenly: each thread takes the next few batches and trains all panels on them, each
//              panel after the thread that has the batches before;
//   by tile    fewer panels than threads: each panel's batch is split over the threads, by rows and then by features, with barriers;
//   by chunk   for batches of more than one chunk: threads take (panel, chunk) items, sums are committed in chunk order, and
//              whoever commits a batch's last chunk makes the step.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "threads/team.h"
#include "train/trainer.h"

namespace gradfold {
namespace {

// Shuffled rows are copied side by side before a thread's panels use them, so that they are gathered once and not once a panel.
// A window of batches holds about kWindowBytes of them; a single batch is copied while it takes no more than kStageBytes.
constexpr std::int64_t kWindowBytes = 256 * 1024;
// Windows that panels go through on one thread after the other are larger, since their weights have to follow each time.
constexpr std::int64_t kPassedWindowBytes = 512 * 1024;
constexpr std::int64_t kStageBytes = 4 * 1024 * 1024;
// Multiply-adds of a thread's part of one batch of one panel, between barriers, below which another thread costs more than it saves.
constexpr double kTileWork = 1 << 19;
// Finding and copying rows, in units of panel_cost, and a step, in rows. Measured with 100 features; all grow with them.
constexpr double kLoadCost = 0.6;
constexpr double kStepRows = 30;

}  // namespace

template <class T>
std::int64_t TrainerOf<T>::staged_values(const Permutation* order, std::int64_t rows) const {
  return order == nullptr ? 0 : std::min(rows, kStageBytes / row_bytes()) * p_;
}

// Whole batches of one chunk each in a window of about so many bytes.
template <class T>
std::int64_t TrainerOf<T>::window_batches(std::int64_t bytes) const {
  return std::max<std::int64_t>(1, std::min(kRowChunk, bytes / row_bytes()) / std::min(a_.batch_size, n_));
}

// Positions [begin, begin + n) of the epoch's order.
template <class T>
void TrainerOf<T>::find_rows(const RowSource<T>& source, const Permutation* order, std::int64_t begin, std::int64_t n,
                             RowBuffer<T>& rows) const {
  rows.weight_of = source.weight;
  if (order != nullptr)
    permutation_fill(*order, begin, n, rows.ids.data());
  else
    for (std::int64_t i = 0; i < n; ++i) rows.ids[i] = begin + i;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t id = rows.ids[i];
    rows.x[i] = source.X.row(id);
    rows.y[i] = source.y[id];
    if (source.weight != nullptr) rows.weight[i] = source.weight[id];
  }
}

// Copies the rows that were found side by side, where the buffer has room.
template <class T>
void TrainerOf<T>::stage_rows(std::int64_t n, RowBuffer<T>& rows) const {
  if (n * p_ > rows.staged.size()) return;
  for (std::int64_t i = 0; i < n; ++i) {
    T* to = rows.staged.get() + i * p_;
    std::memcpy(to, rows.x[i], sizeof(T) * p_);
    rows.x[i] = to;
  }
}

template <class T>
void TrainerOf<T>::load_rows(const RowSource<T>& source, const Permutation* order, std::int64_t begin, std::int64_t n,
                             RowBuffer<T>& rows) const {
  find_rows(source, order, begin, n, rows);
  stage_rows(n, rows);
}

template <class T>
WidestOf<T> TrainerOf<T>::widest_of(const std::vector<const TrainPanel<T>*>& panels) const {
  WidestOf<T> widest;
  for (const TrainPanel<T>* panel : panels) widest.add(p_, n_outputs_, panel->lanes, panel->blocks.size());
  return widest;
}
template <class T>
WidestOf<T> TrainerOf<T>::widest() const {
  std::vector<const TrainPanel<T>*> all;
  for (const TrainPanel<T>& panel : panels_) all.push_back(&panel);
  return widest_of(all);
}

// Rows [at, at + n) of the buffer, one chunk at most, as a task for a panel (of several outputs, less its blocks); rows that no lane uses are left out, positions stay. Its
// results go to `buffer`. n_rows is 0 when no row is used.
template <class T>
ChunkTask<T> TrainerOf<T>::chunk_task(const RowBuffer<T>& rows, std::int64_t at, std::int64_t n, const PanelView<T>& panel,
                                      bool gradient, ChunkBuffer<T>& buffer, const T* const* later) const {
  const std::uint64_t wanted = panel.models_wanted;
  panel.roles->fill(rows.ids.data() + at, n, rows.weight_of, buffer.masks.data());
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < n; ++i) used += (buffer.masks[i] & wanted) != 0;
  const T* const* x = rows.x.data() + at;
  const T* y = rows.y.data() + at;
  const T* weight = rows.weight_of != nullptr ? rows.weight.data() + at : nullptr;
  const bool loss = !gradient || a_.track_train_loss;
  if (used < n) {
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      buffer.masks[kept] = buffer.masks[i];
      buffer.x[kept] = x[i];
      buffer.y[kept] = y[i];
      if (weight != nullptr) buffer.weight[kept] = weight[i];
      kept += (buffer.masks[kept] & wanted) != 0;
    }
    x = buffer.x.data();
    y = buffer.y.data();
    if (weight != nullptr) weight = buffer.weight.data();
  }
  return {used,
          x,
          y,
          weight,
          buffer.masks.data(),
          p_,
          panel.blocks[0].n_vectors,
          panel.blocks[0].W,
          panel.blocks[0].intercept,
          gradient ? buffer.grad.get() : nullptr,
          buffer.grad_intercept.get(),
          buffer.count.get(),
          loss ? buffer.loss.get() : nullptr,
          loss ? buffer.weight_sum.get() : nullptr,
          buffer.scratch.get(),
          n_outputs_ > 1 ? 0 : narrow_models(panel.n_models, panel.blocks[0].n_vectors, used),
          buffer.narrow.get(),
          &stop_,
          panel.loss_epsilon,
          later};
}

// Runs such a task. Returns false when it was abandoned, and sets *any to whether a row was used.
template <class T>
bool TrainerOf<T>::run_chunk(const RowBuffer<T>& rows, std::int64_t at, std::int64_t n, const PanelView<T>& panel, bool gradient,
                             ChunkBuffer<T>& buffer, bool* any, const T* const* later) const {
  const ChunkTask<T> task = chunk_task(rows, at, n, panel, gradient, buffer, later);
  *any = task.n_rows > 0;
  if (!*any) return true;
  if (n_outputs_ == 1) return gradient_kernels<T>(level_).chunk(a_.loss, task);
  std::int64_t first = 0;
  for (int b = 0; b < panel.n_blocks; ++b) {
    buffer.blocks[b] = panel.blocks[b];
    buffer.blocks[b].grad = gradient ? buffer.grad.get() + first * p_ : nullptr;
    buffer.blocks[b].grad_intercept = buffer.grad_intercept.get() + first;
    first += panel_lanes(panel.blocks[b].n_vectors, gradient_kernels<T>(level_).lanes);
  }
  return gradient_kernels<T>(level_).outputs({task.n_rows, task.x, task.y, task.weight, task.roles, p_, panel.n_models, n_outputs_,
                                              panel.n_blocks, buffer.blocks.data(), task.count, task.loss, task.weight_sum, task.scratch,
                                              task.stop});
}

template <class T>
PanelView<T> TrainerOf<T>::view(const TrainPanel<T>& panel) const {
  return {&panel.roles, panel.alive, static_cast<std::int64_t>(panel.models.size()), static_cast<int>(panel.views.size()),
          panel.views.data(), panel.loss_epsilon ? panel.loss_epsilon.get() : nullptr};
}

// The step of a panel of several outputs: its blocks are judged together. Returns the models that diverged.
template <class T>
std::uint64_t TrainerOf<T>::step_outputs(TrainPanel<T>& panel, const BatchSums<T>& sums) {
  const UpdateKernels<T>& kernels = update_kernels<T>(level_);
  const std::int64_t n_models = static_cast<std::int64_t>(panel.models.size());
  for (std::int64_t c = 0; c < n_models * n_outputs_; ++c) panel.count[c] = sums.count[c / n_outputs_];
  // f(block, its state, its sums, its first lane)
  auto each_block = [&](auto&& f) {
    std::int64_t first = 0;
    for (const TrainBlock<T>& block : panel.blocks) {
      const BatchSums<T> own{sums.chunk != nullptr ? sums.chunk + first * p_ : nullptr,
                             sums.chunk_intercept != nullptr ? sums.chunk_intercept + first : nullptr,
                             sums.total != nullptr ? sums.total + first * p_ : nullptr,
                             sums.total_intercept != nullptr ? sums.total_intercept + first : nullptr, panel.count.get() + first};
      f(block, state_of(block), own, first);
      first += block.lanes;
    }
  };
  auto lanes_of = [&](std::uint64_t models, const TrainBlock<T>& block, std::int64_t first) {
    std::uint64_t lanes = 0;
    for (std::size_t l = 0; l < block.columns.size(); ++l)
      lanes |= (models >> ((first + static_cast<std::int64_t>(l)) / n_outputs_) & 1) << l;
    return lanes;
  };
  const double* factor = nullptr;
  if (settings_.any_clip_norm) {
    each_block([&](const TrainBlock<T>&, const PanelState<T>& state, const BatchSums<T>& own, std::int64_t first) {
      kernels.norms(settings_, state, own, panel.squares.get() + first, panel.intercept_squares.get() + first);
    });
    clip_factors(panel.squares.get(), panel.intercept_squares.get(), panel.clip_norm.get(), n_models, n_outputs_, panel.squares.get());
    factor = panel.squares.get();
  }
  std::uint64_t lost = 0;
  each_block([&](const TrainBlock<T>& block, const PanelState<T>& state, const BatchSums<T>& own, std::int64_t first) {
    const std::uint64_t lanes =
        kernels.probe(settings_, state, own, lanes_of(panel.alive, block, first), factor != nullptr ? factor + first : nullptr);
    for (std::size_t l = 0; l < block.columns.size(); ++l)
      if (lanes >> l & 1) lost |= std::uint64_t{1} << ((first + static_cast<std::int64_t>(l)) / n_outputs_);
  });
  each_block([&](const TrainBlock<T>& block, const PanelState<T>& state, const BatchSums<T>& own, std::int64_t first) {
    kernels.commit(settings_, state, own, lanes_of(panel.alive & ~lost, block, first), factor != nullptr ? factor + first : nullptr);
  });
  return lost;
}

// Ends a batch of a panel: `loss` and `weight` are the batch's sums for train_loss(), read only when it is tracked; `replaced` is memory of
// this thread's.
template <class T>
void TrainerOf<T>::step(TrainPanel<T>& panel, const BatchSums<T>& sums, const double* loss, const double* weight, T* replaced,
                        std::int64_t epoch, std::int64_t batch) {
  const std::uint64_t lost = n_outputs_ > 1 ? step_outputs(panel, sums)
                                            : update_kernels<T>(level_).step(settings_, state_of(panel.blocks[0]), sums, panel.alive, replaced);
  if (lost != 0) {
    for (std::size_t l = 0; l < panel.models.size(); ++l)
      if (lost >> l & 1) {
        progress_.diverged_epoch[panel.models[l]] = epoch;
        progress_.diverged_batch[panel.models[l]] = batch;
      }
    panel.alive &= ~lost;
  }
  if (!a_.track_train_loss) return;
  for (std::size_t l = 0; l < panel.models.size(); ++l)
    if (panel.alive >> l & 1) {  // a batch that made its model diverge was not made
      panel.train_loss[l] += loss[l];
      panel.train_weight[l] += weight[l];
    }
}

// A batch of one chunk, whose rows begin at `at`, and its step. Returns false when it was abandoned.
template <class T>
bool TrainerOf<T>::run_batch(TrainPanel<T>& panel, const RowBuffer<T>& rows, std::int64_t at, std::int64_t epoch, std::int64_t batch,
                             ChunkBuffer<T>& chunk, const T* const* later) {
  bool any = false;
  if (!run_chunk(rows, at, std::min(a_.batch_size, n_ - batch * a_.batch_size), view(panel), true, chunk, &any, later)) return false;
  if (!any) return true;
  for (int l = 0; l < panel.lanes; ++l) chunk.batch_count[l] = static_cast<double>(chunk.count[l]);
  step(panel, {chunk.grad.get(), chunk.grad_intercept.get(), nullptr, nullptr, chunk.batch_count.get()}, chunk.loss.get(),
       chunk.weight_sum.get(), chunk.replaced.get(), epoch, batch);
  return true;
}

template <class T>
void TrainerOf<T>::add_chunk(const TrainPanel<T>& panel, const ChunkBuffer<T>& chunk, BatchTotals& totals) const {
  for (std::int64_t i = 0; i < p_ * panel.lanes; ++i) totals.grad[i] += static_cast<double>(chunk.grad[i]);
  for (int l = 0; l < panel.lanes; ++l) {
    totals.grad_intercept[l] += static_cast<double>(chunk.grad_intercept[l]);
    totals.count[l] += static_cast<double>(chunk.count[l]);
  }
  if (!a_.track_train_loss) return;
  for (int l = 0; l < panel.lanes; ++l) {
    totals.loss[l] += chunk.loss[l];
    totals.weight_sum[l] += chunk.weight_sum[l];
  }
}

// Batches [b0, b1) of an epoch, for all panels.
template <class T>
void TrainerOf<T>::walk(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Poll& poll) {
  std::int64_t n_alive = 0;
  for (const TrainPanel<T>& panel : panels_) n_alive += __builtin_popcountll(panel.alive);
  if (n_alive == 0) return;
  Permutation order;
  if (!natural_order_)
    order = make_permutation(n_, a_.seed, static_cast<std::uint32_t>(a_.first_epoch + epoch), kStreamBatches);
  const Permutation* shuffled = natural_order_ ? nullptr : &order;
  const double multiply_adds = 2.0 * static_cast<double>(std::min(n_, (b1 - b0) * a_.batch_size)) * static_cast<double>(p_) *
                               static_cast<double>(n_alive * n_outputs_);
  const int useful = static_cast<int>(std::min<double>(a_.n_threads, std::max(1.0, multiply_adds / kThreadWork)));
  // By chunk balances better where there are chunks enough to hand out; by panel needs no hand-over at all.
  const std::int64_t chunks = (std::min(a_.batch_size, n_) + kRowChunk - 1) / kRowChunk;
  const int by_tile = tile_threads(chunks);
  const int by_window = chunks >= 2 ? 1 : window_threads(b1 - b0, shuffled, useful);
  if (useful > 1 && chunks >= 2)
    walk_by_chunk(epoch, b0, b1, shuffled, useful, poll);
  else if (by_tile > 1)
    walk_by_tile(epoch, b0, b1, shuffled, by_tile, poll);
  else if (by_window > 1)
    walk_by_window(epoch, b0, b1, shuffled, by_window, poll);
  else
    walk_by_panel(epoch, b0, b1, shuffled, std::min<int>(useful, static_cast<int>(panels_.size())), poll);
}

// Threads worth having on one panel at a time: a batch is then four barriers, so each thread must have enough of it.
template <class T>
int TrainerOf<T>::tile_threads(std::int64_t chunks) const {
  if (n_outputs_ > 1 || chunks > 1 || a_.n_threads <= static_cast<int>(panels_.size())) return 1;
  // A narrow panel on one thread does about as much as eight threads on the vector it fills badly.
  for (const TrainPanel<T>& panel : panels_)
    if (narrow_models(static_cast<std::int64_t>(panel.models.size()), panel.blocks[0].n_vectors, std::min(a_.batch_size, n_)) > 0 &&
        a_.n_threads < 8)
      return 1;
  const double work = 2.0 * static_cast<double>(std::min(a_.batch_size, n_)) * static_cast<double>(p_) *
                      static_cast<double>(panels_.front().lanes);
  return static_cast<int>(std::min({static_cast<double>(a_.n_threads), static_cast<double>((p_ + 15) / 16), work / kTileWork}));
}

// Few models: the threads share each panel, in forward by rows and in the gradient by features.
template <class T>
void TrainerOf<T>::walk_by_tile(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Permutation* order, int n_threads,
                  const Poll& poll) {
  const GradientKernels<T>& kernels = gradient_kernels<T>(level_);
  const std::int64_t B = std::min(a_.batch_size, n_);
  const WidestOf<T> widest = this->widest();
  // Everything that can fail is made here: a thread that threw between two barriers would leave the others waiting.
  std::vector<RowBuffer<T>> rows;
  std::vector<ChunkBuffer<T>> buffers;
  for (int t = 0; t < n_threads; ++t) {
    rows.emplace_back(B, 0);
    buffers.emplace_back(p_, widest, t == 0);
  }
  ChunkBuffer<T>& result = buffers[0];
  AlignedArray<T> z(B * widest.lanes);
  Barrier barrier(n_threads);
  bool select = false, leave = false;  // written by thread 0 between two barriers
  run_team(n_threads, [&](int t) {
    const std::int64_t f0 = (p_ * t / n_threads + 15) / 16 * 16, f1 = t + 1 == n_threads ? p_ : (p_ * (t + 1) / n_threads + 15) / 16 * 16;
    for (std::int64_t b = b0; b < b1; ++b) {
      const std::int64_t begin = b * B, n = std::min(B, n_ - begin);
      load_rows(training_rows(), order, begin, n, rows[t]);
      for (TrainPanel<T>& panel : panels_) {
        if (panel.alive == 0) continue;
        ChunkTask<T> task = chunk_task(rows[t], 0, n, view(panel), true, buffers[t]);
        if (task.n_rows == 0) continue;  // the same for every thread
        task.grad = result.grad.get();
        ChunkTask<T> part = task;
        const std::int64_t r0 = task.n_rows * t / n_threads;
        part.n_rows = task.n_rows * (t + 1) / n_threads - r0;
        part.x += r0;
        if (part.n_rows > 0) kernels.forward(part, z.get() + r0 * panel.lanes);
        barrier.wait();
        if (t == 0) {
          select = kernels.residual(a_.loss, task, z.get());
          leave = cancelled();
        }
        barrier.wait();
        if (leave) return;
        if (f0 < f1) kernels.gradient(task, z.get(), select, f0, f1);
        barrier.wait();
        if (t == 0) {
          for (int l = 0; l < panel.lanes; ++l) result.batch_count[l] = static_cast<double>(result.count[l]);
          step(panel, {result.grad.get(), result.grad_intercept.get(), nullptr, nullptr, result.batch_count.get()}, result.loss.get(),
               result.weight_sum.get(), result.replaced.get(), epoch, b);
        }
        barrier.wait();
      }
    }
  }, poll);
}

template <class T>
void TrainerOf<T>::walk_by_panel(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Permutation* order, int n_threads,
                   const Poll& poll) {
  const std::vector<std::vector<TrainPanel<T>*>> groups = share_out(n_threads);
  const std::int64_t B = a_.batch_size;
  const bool one_chunk = B <= kRowChunk || n_ <= kRowChunk;
  // A window is a run of whole batches whose rows are loaded together; a batch of several chunks is walked chunk by chunk.
  const std::int64_t window = one_chunk ? window_batches(kWindowBytes) : 1;
  run_team(static_cast<int>(groups.size()), [&](int thread) {
    const auto& group = groups[thread];
    const WidestOf<T> widest = widest_of({group.begin(), group.end()});
    const std::int64_t capacity = one_chunk ? std::min(n_, window * std::min(B, n_)) : kRowChunk;
    RowBuffer<T> rows(capacity, staged_values(order, capacity));
    ChunkBuffer<T> chunk(p_, widest, true);
    if (one_chunk) {
      // Rows that are staged are found one window early, so that the first panel's kernels can fetch them meanwhile.
      const bool early = rows.staged.size() >= capacity * p_;
      RowBuffer<T> later(early ? capacity : 0, 0);
      auto find = [&](std::int64_t w0, RowBuffer<T>& to) {
        find_rows(training_rows(), order, w0 * B, std::min(n_, std::min(b1, w0 + window) * B) - w0 * B, to);
      };
      find(b0, rows);
      for (std::int64_t w0 = b0; w0 < b1; w0 += window) {
        const std::int64_t w1 = std::min(b1, w0 + window);
        const std::int64_t begin = w0 * B, end = std::min(n_, w1 * B);
        const std::int64_t n_later = early && w1 < b1 ? std::min(n_, std::min(b1, w1 + window) * B) - w1 * B : 0;
        if (w0 != b0) early ? rows.swap_rows(later) : find(w0, rows);
        stage_rows(end - begin, rows);
        if (n_later > 0) find(w1, later);
        for (TrainPanel<T>* panel : group) {
          for (std::int64_t b = w0; b < w1 && panel->alive != 0; ++b) {
            const std::int64_t at = b * B - begin, n = std::min(B, n_ - b * B);
            const T* const* fetch = panel == group.front() && at + n <= n_later ? later.x.data() + at : nullptr;
            if (!run_batch(*panel, rows, at, epoch, b, chunk, fetch)) return;
          }
          if (cancelled()) return;
        }
      }
      return;
    }
    BatchTotals totals(p_, widest.lanes);
    bool any = false;
    for (std::int64_t b = b0; b < b1; ++b) {
      const std::int64_t begin = b * B, end = std::min(n_, begin + B);
      for (TrainPanel<T>* panel : group) {
        if (panel->alive == 0) continue;
        totals.clear(p_, panel->lanes);
        for (std::int64_t c = begin; c < end; c += kRowChunk) {
          const std::int64_t n = std::min(kRowChunk, end - c);
          load_rows(training_rows(), order, c, n, rows);
          if (!run_chunk(rows, 0, n, view(*panel), true, chunk, &any))
            return;
          if (any) add_chunk(*panel, chunk, totals);
        }
        step(*panel, {nullptr, nullptr, totals.grad.get(), totals.grad_intercept.get(), totals.count.get()}, totals.loss.get(),
             totals.weight_sum.get(), chunk.replaced.get(), epoch, b);
      }
    }
  }, poll);
}

// Threads for windows in turn, or 1 where panels by thread are expected to take no longer.
template <class T>
int TrainerOf<T>::window_threads(std::int64_t n_batches, const Permutation* order, int n_threads) {
  if (n_threads <= 1) return 1;
  const std::int64_t B = std::min(a_.batch_size, n_);
  const double load = staged_values(order, B) >= B * p_ ? kLoadCost : 0.0;
  const double with_step = 1.0 + kStepRows / static_cast<double>(B);
  double sum = load, largest_panel = 0, largest_group = 0;
  for (const std::vector<TrainPanel<T>*>& group : share_out(std::min(n_threads, static_cast<int>(panels_.size())))) {
    double cost = 0;
    for (const TrainPanel<T>* panel : group) {
      if (panel->alive == 0) continue;
      cost += panel->cost * with_step;
      largest_panel = std::max(largest_panel, panel->cost * with_step);
    }
    sum += cost;
    largest_group = std::max(largest_group, cost);
  }
  // More threads would only wait for the panel that is longest in a window.
  n_threads = static_cast<int>(std::min<double>(n_threads, std::ceil(sum / largest_panel)));
  const std::int64_t window = window_batches(kPassedWindowBytes), n_windows = (n_batches + window - 1) / window;
  // A thread meets others that are late where there is no slack in the longest panel, and each panel's weights change the core.
  const double by_window = 1.05 * std::max(sum / n_threads, 1.15 * largest_panel) *
                           (1.0 + static_cast<double>(n_threads - 1) / static_cast<double>(n_windows));
  return by_window < largest_group + load ? n_threads : 1;
}

template <class T>
void TrainerOf<T>::walk_by_window(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Permutation* order, int n_threads,
                   const Poll& poll) {
  const std::int64_t B = std::min(a_.batch_size, n_), window = window_batches(kPassedWindowBytes);
  const std::int64_t n_windows = (b1 - b0 + window - 1) / window;
  const std::int64_t capacity = std::min(n_, window * B);
  const WidestOf<T> widest = this->widest();
  OrderedItems windows;
  std::vector<OrderedItems> of_panel(panels_.size());  // windows that each panel has been through
  run_team(n_threads, [&](int) {
    RowBuffer<T> rows(capacity, staged_values(order, capacity));
    ChunkBuffer<T> chunk(p_, widest, true);
    for (std::int64_t w = windows.take(); w < n_windows; w = windows.take()) {
      const std::int64_t w0 = b0 + w * window, w1 = std::min(b1, w0 + window);
      if (!cancelled()) load_rows(training_rows(), order, w0 * B, std::min(n_, w1 * B) - w0 * B, rows);
      for (std::size_t i = 0; i < panels_.size(); ++i) {
        TrainPanel<T>& panel = panels_[i];
        of_panel[i].turn(w);
        // Once cancelled nobody trains any more, so an abandoned batch is each panel's last one.
        for (std::int64_t b = w0; b < w1 && panel.alive != 0 && !cancelled(); ++b) run_batch(panel, rows, (b - w0) * B, epoch, b, chunk);
        of_panel[i].done(w);
      }
    }
  }, poll);
}

// Items are (batch, panel, chunk), in this order. An item of a batch starts only when its panel's step of the batch before is
// committed; with several panels that is long past.
template <class T>
void TrainerOf<T>::walk_by_chunk(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Permutation* order, int n_threads,
                   const Poll& poll) {
  const std::int64_t B = std::min(a_.batch_size, n_);
  const std::int64_t chunks_full = (B + kRowChunk - 1) / kRowChunk;  // the last batch may have fewer: its items are empty
  const std::int64_t n_panels = static_cast<std::int64_t>(panels_.size());
  const std::int64_t per_batch = n_panels * chunks_full;
  const std::int64_t n_items = (b1 - b0) * per_batch;
  const WidestOf<T> widest = this->widest();
  BatchTotals totals(p_, widest.lanes);
  OrderedItems items;
  run_team(n_threads, [&](int) {
    RowBuffer<T> rows(kRowChunk, staged_values(order, kRowChunk));
    ChunkBuffer<T> chunk(p_, widest, true);
    for (std::int64_t item = items.take(); item < n_items; item = items.take()) {
      const std::int64_t b = b0 + item / per_batch;
      const std::int64_t at = item % per_batch / chunks_full;
      const std::int64_t c = item % chunks_full;
      TrainPanel<T>& panel = panels_[at];
      if (b > b0) items.reached(item - c - per_batch + chunks_full);  // the step of this panel's batch before
      const std::int64_t end = std::min(n_, (b + 1) * B);
      const std::int64_t begin = std::min(end, b * B + c * kRowChunk);
      const std::int64_t n = std::min(kRowChunk, end - begin);
      bool any = false;
      if (n > 0 && panel.alive != 0 && !cancelled()) {
        load_rows(training_rows(), order, begin, n, rows);
        run_chunk(rows, 0, n, view(panel), true, chunk, &any);
      }
      items.turn(item);
      // Once cancelled nothing is stored any more, so an abandoned chunk cannot reach a step.
      if (!abandoned_) abandoned_ = cancelled();
      if (!abandoned_) {
        if (c == 0) totals.clear(p_, panel.lanes);
        if (any) add_chunk(panel, chunk, totals);
        if (c + 1 == chunks_full && panel.alive != 0)
          step(panel, {nullptr, nullptr, totals.grad.get(), totals.grad_intercept.get(), totals.count.get()}, totals.loss.get(),
               totals.weight_sum.get(), chunk.replaced.get(), epoch, b);
      }
      items.done(item);
    }
  }, poll);
}

// Panels over threads, heaviest first onto the lightest thread.
template <class T>
std::vector<std::vector<TrainPanel<T>*>> TrainerOf<T>::share_out(int n_threads) {
  std::vector<TrainPanel<T>*> order;
  for (TrainPanel<T>& panel : panels_) order.push_back(&panel);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->cost > b->cost; });
  std::vector<std::vector<TrainPanel<T>*>> groups(n_threads);
  std::vector<double> load(n_threads, 0.0);
  for (TrainPanel<T>* panel : order) {
    const auto lightest = std::min_element(load.begin(), load.end()) - load.begin();
    groups[lightest].push_back(panel);
    load[lightest] += panel->cost;
  }
  return groups;
}

#define GRADFOLD_INSTANTIATE(T)                                                                                                     \
  template void TrainerOf<T>::walk(std::int64_t, std::int64_t, std::int64_t, const Poll&);                                          \
  template void TrainerOf<T>::load_rows(const RowSource<T>&, const Permutation*, std::int64_t, std::int64_t, RowBuffer<T>&) const;  \
  template bool TrainerOf<T>::run_chunk(const RowBuffer<T>&, std::int64_t, std::int64_t, const PanelView<T>&, bool,                 \
                                        ChunkBuffer<T>&, bool*, const T* const*) const;
GRADFOLD_INSTANTIATE(float)
GRADFOLD_INSTANTIATE(double)
#undef GRADFOLD_INSTANTIATE

}  // namespace gradfold
