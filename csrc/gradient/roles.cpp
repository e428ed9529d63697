#include "gradient/roles.h"

#include <algorithm>

namespace gradfold {
namespace {

constexpr std::int64_t kTableIds = 4096;  // 32 KiB of masks: beyond that, comparing is as fast as missing the cache

}  // namespace

LaneRoles::LaneRoles(const FoldsView* folds, const std::vector<std::int64_t>& split_of_lane, Use use) : folds_(folds) {
  for (std::size_t l = 0; l < split_of_lane.size(); ++l)
    if (split_of_lane[l] >= 0) lanes_ |= std::uint64_t{1} << l;
  if (folds == nullptr) return;
  for (std::int64_t k = 0; k < folds->n_conditions; ++k) {
    const bool wants_score = use == Use::score && k + 1 == folds->n_conditions;
    std::vector<Condition> groups;
    for (std::size_t l = 0; l < split_of_lane.size(); ++l) {
      if (split_of_lane[l] < 0) continue;
      const FoldCondition& c = folds->conditions[split_of_lane[l] * folds->n_conditions + k];
      auto group = std::find_if(groups.begin(), groups.end(), [&c](const Condition& g) { return g.id_row == c.id_row; });
      if (group == groups.end()) group = groups.insert(groups.end(), Condition{c.id_row, wants_score, 0, {}, {}});
      const Range range{static_cast<std::uint32_t>(c.score_lo), static_cast<std::uint32_t>(c.score_hi - c.score_lo),
                        static_cast<std::uint32_t>(c.train_lo), static_cast<std::uint32_t>(c.train_hi - c.train_lo), 0};
      auto same = std::find_if(group->ranges.begin(), group->ranges.end(), [&range](const Range& r) {
        return r.score_lo == range.score_lo && r.score_length == range.score_length && r.train_lo == range.train_lo &&
               r.train_length == range.train_length;
      });
      if (same == group->ranges.end()) same = group->ranges.insert(group->ranges.end(), range);
      same->lanes |= std::uint64_t{1} << l;
      group->lanes |= std::uint64_t{1} << l;
    }
    for (Condition& group : groups) {
      std::int64_t top = 0;
      for (const Range& r : group.ranges)
        top = std::max({top, static_cast<std::int64_t>(r.score_lo) + r.score_length,
                        static_cast<std::int64_t>(r.train_lo) + r.train_length});
      if (top <= kTableIds) {
        group.table.assign(static_cast<std::size_t>(top) + 1, 0);  // the last entry stands for every larger id
        for (std::int64_t id = 0; id <= top; ++id)
          for (const Range& r : group.ranges) {
            const bool scored = static_cast<std::uint32_t>(id) - r.score_lo < r.score_length;
            const bool trained = static_cast<std::uint32_t>(id) - r.train_lo < r.train_length && !scored;
            if (wants_score ? scored : trained) group.table[id] |= r.lanes;
          }
      }
      conditions_.push_back(std::move(group));
    }
  }
}

std::uint64_t LaneRoles::mask(std::int64_t row) const {
  std::uint64_t out = lanes_;
  for (const Condition& c : conditions_) {
    const std::uint32_t id = fold_id(*folds_, c.id_row, row);
    std::uint64_t pass = 0;
    if (!c.table.empty()) {
      pass = c.table[std::min<std::size_t>(id, c.table.size() - 1)];
    } else {
      for (const Range& r : c.ranges) {
        const bool scored = id - r.score_lo < r.score_length;
        const bool trained = id - r.train_lo < r.train_length && !scored;
        if (c.wants_score ? scored : trained) pass |= r.lanes;
      }
    }
    out &= pass | ~c.lanes;
  }
  return out;
}

template <class T>
void LaneRoles::fill(const std::int64_t* rows, std::int64_t n, const T* weight, std::uint64_t* masks) const {
  if (conditions_.size() == 1 && !conditions_[0].table.empty()) {  // k-fold and hold-out: one look-up a row
    const Condition& c = conditions_[0];
    const std::uint64_t* table = c.table.data();
    const std::uint32_t last = static_cast<std::uint32_t>(c.table.size() - 1);
    auto look_up = [&]<class Id>(const Id* ids) {
      ids += c.id_row * folds_->n_rows;
      for (std::int64_t i = 0; i < n; ++i) masks[i] = table[std::min<std::uint32_t>(ids[rows[i]], last)];
    };
    switch (folds_->id_bytes) {
      case 1: look_up(static_cast<const std::uint8_t*>(folds_->ids)); break;
      case 2: look_up(static_cast<const std::uint16_t*>(folds_->ids)); break;
      default: look_up(static_cast<const std::uint32_t*>(folds_->ids));
    }
  } else if (conditions_.empty()) {
    std::fill_n(masks, n, lanes_);
  } else {
    for (std::int64_t i = 0; i < n; ++i) masks[i] = mask(rows[i]);
  }
  if (weight != nullptr)
    for (std::int64_t i = 0; i < n; ++i)
      if (weight[rows[i]] == T(0)) masks[i] = 0;
}

template void LaneRoles::fill(const std::int64_t*, std::int64_t, const float*, std::uint64_t*) const;
template void LaneRoles::fill(const std::int64_t*, std::int64_t, const double*, std::uint64_t*) const;

}  // namespace gradfold
