// Splits: which rows a split trains on and which it scores. One form for every kind of cross-validation.
#pragma once
#include <cstdint>

namespace gradfold {

enum class Role : std::int8_t { skip = 0, train = 1, score = 2 };

// The five numbers of a condition, in the order of the array `conditions`.
struct FoldCondition {
  std::int64_t id_row;
  std::int64_t score_lo, score_hi;  // ids of [score_lo, score_hi) are scored
  std::int64_t train_lo, train_hi;  // ids of [train_lo, train_hi) that are not scored train
};

// Borrowed arrays. A row trains when it trains under all conditions of the split; it is scored when the last condition
// scores it and the earlier ones train it; else it is skipped. The largest number of the id type is in no range.
struct FoldsView {
  const void* ids;  // (n_id_rows, n_rows), C order, unsigned integers of id_bytes
  int id_bytes;     // 1, 2 or 4
  std::int64_t n_id_rows;
  std::int64_t n_rows;
  const FoldCondition* conditions;  // (n_splits, n_conditions)
  std::int64_t n_splits;
  std::int64_t n_conditions;
};

// The first fault among the conditions of splits [first, last): its flat index, or -1 when every id_row exists and
// every range lies in 0 <= lo <= hi <= largest number of the id type.
std::int64_t folds_first_bad_condition(const FoldsView& folds, std::int64_t first, std::int64_t last);

// Roles of rows first .. first + count - 1 under one split.
void folds_role(const FoldsView& folds, std::int64_t split, std::int64_t first, std::int64_t count, std::int8_t* role);

// How many rows train and how many are scored: sizes (n_splits, 2).
void folds_sizes(const FoldsView& folds, std::int64_t* sizes);

// The rows of one role, ascending, into `out` of `room`; returns how many there are. Nothing is written past `room`.
std::int64_t folds_indices(const FoldsView& folds, std::int64_t split, Role role, std::int64_t room, std::int64_t* out);

// Rows by their ids: those of id c are order[offset[c]] to order[offset[c + 1] - 1], ascending; offset is [257].
void rows_by_id(const std::uint8_t* ids, std::int64_t n_rows, std::int64_t* order, std::int64_t* offset);

// The rows train[..] and test[..] as roles (n_rows); what is wrong with them, if anything.
struct SplitFault {
  enum Kind : int { none = 0, out_of_range = 1, repeated = 2, on_both_sides = 3 };
  Kind kind = none;
  bool in_test = false;
  std::int64_t position = 0;  // in its array
  std::int64_t row = 0;
};
SplitFault split_roles(std::int64_t n_rows, const std::int64_t* train, std::int64_t n_train, const std::int64_t* test,
                       std::int64_t n_test, std::int8_t* role);

// ---- assignments: which part every row falls into --------------------------------------------------------------

// Shuffled rows are assigned by j = p[i], stream 1, epoch `repeat`; unshuffled ones by j = i.
struct Shuffle {
  bool on;
  std::uint64_t seed;
  std::uint32_t repeat;
};

// Classes as codes: codes[i] in 0..n_classes-1, and for each code its count and its rank among the sorted classes.
struct Classes {
  const std::int32_t* codes;
  std::int64_t n_rows;
  std::int64_t n_classes;
  const std::int64_t* counts;
  const std::int64_t* rank;
};

// Part sizes of a hold-out, in the order train, validation (0 when there is none), test.
struct PartSizes {
  std::int64_t train, validation, test;
};

// k-fold: the first n mod k folds have one row more.
template <class Id>
void assign_kfold(std::int64_t n_rows, std::int64_t n_splits, const Shuffle& shuffle, Id* ids);

// Stratified k-fold. Shuffled: (start_c + p_c[r]) mod k for the r-th row of class c, where start_c counts the rows of
// earlier classes and p_c is stream 2 + rank. Unshuffled: runs within each class, with scikit-learn's allocation.
template <class Id>
void assign_stratified(const Classes& classes, std::int64_t n_splits, const Shuffle& shuffle, Id* ids);

// Hold-out: ids 0, 1, 2 for consecutive runs of j: train, then test; with a validation part train, validation, test.
void assign_holdout(std::int64_t n_rows, const PartSizes& sizes, const Shuffle& shuffle, std::uint8_t* ids);

// The same within classes: the classes stand one after another, and the parts are spread evenly over that order.
void assign_stratified_holdout(const Classes& classes, const PartSizes& sizes, const Shuffle& shuffle,
                               std::uint8_t* ids);

}  // namespace gradfold
