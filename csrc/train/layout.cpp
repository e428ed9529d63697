#include "train/layout.h"

#include <algorithm>

#include "gradient/gradient.h"
#include "gradient/panels.h"

namespace gradfold {
namespace {

using Models = std::vector<std::int64_t>;

// Vectors of a panel: one block, or five where models have several outputs, so that few lanes of the last one stay empty.
int most_vectors(const LayoutArgs& args) { return args.n_outputs > 1 ? kOutputVectors : kMaxPanelVectors; }

// `models` in panels of at most `most` vectors, or of one model.
void cut(const Models& models, const LayoutArgs& args, int most, double share, std::vector<PanelPlan>& plans) {
  std::size_t at = 0;
  if (args.n_outputs > 1) {
    const std::int64_t n_models = static_cast<std::int64_t>(models.size());
    const std::int64_t fit = std::clamp<std::int64_t>(std::int64_t{most} * args.lanes / args.n_outputs, 1, kMaxOutputModels);
    const std::int64_t n_panels = (n_models + fit - 1) / fit;
    for (std::int64_t i = 0; i < n_panels; ++i) {
      const std::size_t end = static_cast<std::size_t>(n_models * (i + 1) / n_panels);
      PanelPlan plan{Models(models.begin() + at, models.begin() + end), {}, 0, share};
      at = end;
      const std::int64_t columns = static_cast<std::int64_t>(plan.models.size()) * args.n_outputs;
      plan.widths = panel_widths(columns, args.lanes, false, kMaxPanelVectors);
      for (int width : plan.widths) plan.lanes += panel_lanes(width, args.lanes);
      plans.push_back(std::move(plan));
    }
    return;
  }
  for (int width : panel_widths(static_cast<std::int64_t>(models.size()), args.lanes, args.has_half, most)) {
    PanelPlan plan{{}, {width}, panel_lanes(width, args.lanes), share};
    const std::size_t n = std::min<std::size_t>(plan.lanes, models.size() - at);
    plan.models.assign(models.begin() + at, models.begin() + at + n);
    at += n;
    plans.push_back(std::move(plan));
  }
}

// The models of each split, splits in order; within a split as they come.
std::vector<Models> by_split_of(const Models& models, const LayoutArgs& args) {
  Models order = models;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return args.split_of_model[a] < args.split_of_model[b]; });
  std::vector<Models> groups;
  for (std::int64_t m : order) {
    if (groups.empty() || args.split_of_model[groups.back().back()] != args.split_of_model[m]) groups.emplace_back();
    groups.back().push_back(m);
  }
  return groups;
}

}  // namespace

std::vector<PanelPlan> training_layout(const Models& models, const LayoutArgs& args) {
  auto vectors = [&](std::size_t n_models) {
    return (static_cast<std::int64_t>(n_models) * args.n_outputs + args.lanes - 1) / args.lanes;
  };
  auto widest = [&](std::int64_t n_vectors) {
    return static_cast<int>(std::clamp<std::int64_t>((n_vectors + args.n_threads - 1) / args.n_threads, 1, most_vectors(args)));
  };
  auto cost = [&](const std::vector<PanelPlan>& plans) {
    double sum = 0;
    for (const PanelPlan& plan : plans) sum += panel_cost(plan, args);
    return sum;
  };
  const std::vector<Models> groups = by_split_of(models, args);
  std::int64_t split_vectors = 0;
  for (const Models& group : groups) split_vectors += vectors(group.size());
  std::vector<PanelPlan> by_split, mixed;
  for (const Models& group : groups) cut(group, args, widest(split_vectors), args.fraction[args.split_of_model[group[0]]], by_split);
  if (groups.size() <= 1) return by_split;
  cut(models, args, widest(vectors(models.size())), 1.0, mixed);
  return cost(by_split) < 0.95 * cost(mixed) ? by_split : mixed;
}

std::vector<PanelPlan> score_layout(const Models& models, const LayoutArgs& args, bool same_rows) {
  std::vector<PanelPlan> plans;
  const std::vector<Models> groups = by_split_of(models, args);
  if (!same_rows && models.size() * args.n_outputs * 4 >= groups.size() * args.lanes) {
    for (const Models& group : groups) cut(group, args, most_vectors(args), 1.0 / static_cast<double>(groups.size()), plans);
  } else {
    Models all;
    for (const Models& group : groups) all.insert(all.end(), group.begin(), group.end());
    cut(all, args, most_vectors(args), 1.0, plans);
  }
  return plans;
}

double panel_cost(const PanelPlan& plan, const LayoutArgs& args) {
  static_assert(kHalfVector == 0 && kMaxPanelVectors == 3);
  constexpr double kTime[] = {1.5, 1.6, 2.3, 3.0};
  if (args.n_outputs == 1 && narrow_models(static_cast<std::int64_t>(plan.models.size()), plan.widths[0], args.chunk_rows) > 0)
    return 0.85 * plan.share;
  double time = 0;
  for (int width : plan.widths) time += kTime[width];
  return time * plan.share;
}

}  // namespace gradfold
