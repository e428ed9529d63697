// Which models share a panel. Free: no bit depends on it. Knows models and splits by number only, neither weights nor types.
#pragma once
#include <cstdint>
#include <vector>

namespace gradfold {

// A panel to be: its models, whose columns (n_outputs each) fill the lanes of its blocks one after the other; lanes beyond them are empty.
struct PanelPlan {
  std::vector<std::int64_t> models;
  std::vector<int> widths;  // of its blocks, in vectors: one block where models have one output
  int lanes;                // of all blocks
  double share;  // of the rows that it walks
};

struct LayoutArgs {
  const std::vector<std::int64_t>& split_of_model;
  const std::vector<double>& fraction;  // per split: its training rows among all rows
  std::int64_t chunk_rows;              // rows of the usual chunk: few of them, and narrow panels do not pay
  int lanes;                            // of one vector
  bool has_half;
  int n_threads;
  std::int64_t n_outputs;
};

// Panels that train `models`. Those of one split skip the rows that the split does not train on, but may leave lanes empty; mixed
// ones are full, but mask. The cheaper way is taken.
std::vector<PanelPlan> training_layout(const std::vector<std::int64_t>& models, const LayoutArgs& args);

// Panels that score `models`: those of one split side by side, so that a panel forwards only the rows which that split scores;
// where a split has too few models to fill a vector, neighbouring splits share one. With `same_rows` every model scores the same rows.
std::vector<PanelPlan> score_layout(const std::vector<std::int64_t>& models, const LayoutArgs& args, bool same_rows);

// Time of a panel, in those of a vector of a full panel: what a new layout must save to be worth the move. Measured on the float32
// gradient of log_loss with 30, 100 and 1,000 features, AVX-512; the three agree within 5 %.
double panel_cost(const PanelPlan& plan, const LayoutArgs& args);

}  // namespace gradfold
