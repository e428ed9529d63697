// Held-out losses: one forward pass at the end of an epoch.
#include <algorithm>
#include <limits>

#include "threads/team.h"
#include "train/trainer.h"

namespace gradfold {

template <class T>
RowSource<T> TrainerOf<T>::score_rows() const {
  if (a_.validation_X.x != nullptr) return {a_.validation_X, a_.validation_y, a_.validation_weight};
  return {a_.X, a_.y, a_.held_out_weight != nullptr ? a_.held_out_weight : a_.weight};
}

template <class T>
bool TrainerOf<T>::score(const Poll& poll) {
  show_averages();
  const RowSource<T> source = score_rows();
  const std::int64_t n_rows = source.X.n_rows;
  std::vector<const ScorePanel<T>*> panels;  // those in which somebody is alive
  WidestOf<T> widest;
  std::int64_t n_models = 0;
  for (const ScorePanel<T>& panel : score_panels_) {
    const auto n = std::count_if(panel.models.begin(), panel.models.end(), [this](std::int64_t m) { return alive(m); });
    if (n == 0) continue;
    panels.push_back(&panel);
    widest.add(p_, n_outputs_, panel.lanes, panel.widths.size());
    n_models += n;
  }
  const std::int64_t n_chunks = (n_rows + kRowChunk - 1) / kRowChunk;
  const std::int64_t n_items = n_chunks * static_cast<std::int64_t>(panels.size());
  std::vector<double> loss(n_models_, 0.0), weight(n_models_, 0.0);
  OrderedItems items;
  const double multiply_adds = static_cast<double>(n_rows) * static_cast<double>(p_) * static_cast<double>(n_models * n_outputs_) /
                               (a_.validation_X.x != nullptr ? 1.0 : static_cast<double>(used_splits_.size()));
  const int useful = static_cast<int>(std::min({static_cast<double>(a_.n_threads), static_cast<double>(n_items),
                                                std::max(1.0, multiply_adds / kThreadWork)}));
  if (n_items > 0)
    run_team(useful, [&](int) {
      RowBuffer<T> rows(kRowChunk, 0);
      ChunkBuffer<T> buffer(p_, widest, false);
      AlignedArray<T> W(p_ * widest.lanes), intercept(widest.lanes);
      std::vector<OutputBlock<T>> views(widest.blocks);
      const ScorePanel<T>* packed = nullptr;
      for (std::int64_t item = items.take(); item < n_items; item = items.take()) {
        const ScorePanel<T>& panel = *panels[item / n_chunks];
        if (packed != &panel) {
          pack(panel, W.get(), intercept.get());
          packed = &panel;
          std::int64_t first = 0;
          for (std::size_t b = 0; b < panel.widths.size(); ++b) {
            views[b] = {panel.widths[b], W.get() + first * p_, intercept.get() + first, nullptr, nullptr};
            first += panel_lanes(panel.widths[b], gradient_kernels<T>(level_).lanes);
          }
        }
        const std::int64_t begin = item % n_chunks * kRowChunk;
        const std::int64_t n = std::min(kRowChunk, n_rows - begin);
        bool any = false;
        if (!cancelled()) {
          load_rows(source, nullptr, begin, n, rows);
          run_chunk(rows, 0, n,
                    {&panel.roles, panel.roles.lanes(), static_cast<std::int64_t>(panel.models.size()),
                     static_cast<int>(panel.widths.size()), views.data(), panel.loss_epsilon ? panel.loss_epsilon.get() : nullptr},
                    false, buffer, &any);
        }
        items.turn(item);
        if (any)
          for (std::size_t l = 0; l < panel.models.size(); ++l) {
            loss[panel.models[l]] += buffer.loss[l];
            weight[panel.models[l]] += buffer.weight_sum[l];
          }
        items.done(item);
      }
    }, poll);
  if (cancelled()) return false;
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> held_out(n_models_);
  for (std::int64_t m = 0; m < n_models_; ++m) {
    const double mean = weight[m] > 0 && alive(m) ? loss[m] / weight[m] : nan;
    held_out[m] = mean == mean ? mean : nan;
  }
  progress_.history.push_back(std::move(held_out));
  return true;
}

// The panel's columns, block by block.
template <class T>
void TrainerOf<T>::pack(const ScorePanel<T>& to, T* W, T* intercept) const {
  const std::size_t n_columns = to.models.size() * n_outputs_;
  std::size_t column = 0;
  for (int width : to.widths) {
    const int lanes = panel_lanes(width, gradient_kernels<T>(level_).lanes);
    for (int l = 0; l < lanes; ++l, ++column) {
      const Home home =
          column < n_columns ? home_[to.models[column / n_outputs_] * n_outputs_ + static_cast<std::int64_t>(column) % n_outputs_] : Home{};
      const TrainBlock<T>* from = home.panel >= 0 ? &block_of(home) : nullptr;  // null: nobody's lane, or one that has left
      for (std::int64_t f = 0; f < p_; ++f) W[f * lanes + l] = from != nullptr ? from->result_W()[f * from->lanes + home.lane] : T(0);
      intercept[l] = from != nullptr ? from->result_intercept()[home.lane] : T(0);
    }
    W += p_ * lanes;
    intercept += lanes;
  }
}

template bool TrainerOf<float>::score(const Poll&);
template bool TrainerOf<double>::score(const Poll&);

}  // namespace gradfold
