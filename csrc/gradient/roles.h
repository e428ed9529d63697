// From folds to lane masks: which lanes of a panel train on a row, or score it.
#pragma once
#include <cstdint>
#include <vector>

#include "index/folds.h"

namespace gradfold {

// The id of a row on one id row, and what it makes of the row under one split.
inline std::uint32_t fold_id(const FoldsView& folds, std::int64_t id_row, std::int64_t row) {
  const std::int64_t at = id_row * folds.n_rows + row;
  switch (folds.id_bytes) {
    case 1: return static_cast<const std::uint8_t*>(folds.ids)[at];
    case 2: return static_cast<const std::uint16_t*>(folds.ids)[at];
    default: return static_cast<const std::uint32_t*>(folds.ids)[at];
  }
}

enum class Use { train, score };

// The masks of one panel. Lanes that hold no model are never set.
class LaneRoles {
 public:
  LaneRoles() = default;
  // split_of_lane[l] is the split of lane l, or -1 for a lane without a model. folds null: every lane uses every row.
  LaneRoles(const FoldsView* folds, const std::vector<std::int64_t>& split_of_lane, Use use);

  // masks[i] = lanes that use row rows[i]; with `weight`, rows of weight 0 are used by none.
  template <class T>
  void fill(const std::int64_t* rows, std::int64_t n, const T* weight, std::uint64_t* masks) const;

  std::uint64_t lanes() const { return lanes_; }

 private:
  std::uint64_t mask(std::int64_t row) const;

  struct Range {  // one condition of one split, and the lanes it speaks for
    std::uint32_t score_lo, score_length, train_lo, train_length;
    std::uint64_t lanes;
  };
  struct Condition {  // the k-th condition of all the panel's splits, grouped by the id row it reads
    std::int64_t id_row;
    bool wants_score;
    std::uint64_t lanes;
    std::vector<std::uint64_t> table;  // id -> lanes that pass; empty when ids are too many for a table
    std::vector<Range> ranges;
  };
  const FoldsView* folds_ = nullptr;
  std::uint64_t lanes_ = 0;
  std::vector<Condition> conditions_;
};

}  // namespace gradfold
