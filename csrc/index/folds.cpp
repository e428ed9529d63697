#include "index/folds.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "index/divide.h"
#include "index/index_kernels.h"
#include "index/permutation.h"

namespace gradfold {
namespace {

constexpr std::int64_t kChunk = 4096;

template <class Use>
void with_ids(const FoldsView& folds, std::int64_t id_row, Use use) {
  const std::int64_t offset = id_row * folds.n_rows;
  if (folds.id_bytes == 1)
    use(static_cast<const std::uint8_t*>(folds.ids) + offset);
  else if (folds.id_bytes == 2)
    use(static_cast<const std::uint16_t*>(folds.ids) + offset);
  else
    use(static_cast<const std::uint32_t*>(folds.ids) + offset);
}

// One condition over some rows; `role` holds 1 where all earlier conditions train and 0 elsewhere. The loop is free of
// branches, so the compiler turns it into vector code; lo <= id < hi is one unsigned comparison.
template <class Id>
void apply_condition(const FoldCondition& c, bool last, const Id* ids, std::int64_t count, std::int8_t* role) {
  const Id score_lo = static_cast<Id>(c.score_lo), score_width = static_cast<Id>(c.score_hi - c.score_lo);
  const Id train_lo = static_cast<Id>(c.train_lo), train_width = static_cast<Id>(c.train_hi - c.train_lo);
  const std::int8_t scored = last ? static_cast<std::int8_t>(Role::score) : std::int8_t{0};
  for (std::int64_t i = 0; i < count; ++i) {
    const bool score = static_cast<Id>(ids[i] - score_lo) < score_width;
    const bool train = static_cast<Id>(ids[i] - train_lo) < train_width;
    const std::int8_t now = score ? scored : static_cast<std::int8_t>(train);
    role[i] = role[i] ? now : std::int8_t{0};
  }
}

void role_chunk(const FoldsView& folds, std::int64_t split, std::int64_t first, std::int64_t count, std::int8_t* role) {
  const FoldCondition* conditions = folds.conditions + split * folds.n_conditions;
  std::memset(role, 1, static_cast<std::size_t>(count));
  for (std::int64_t k = 0; k < folds.n_conditions; ++k)
    with_ids(folds, conditions[k].id_row, [&](const auto* ids) {
      apply_condition(conditions[k], k + 1 == folds.n_conditions, ids + first, count, role);
    });
}

// Calls use(first, count, role) for consecutive runs of rows.
template <class Use>
void for_role_chunks(const FoldsView& folds, std::int64_t split, Use use) {
  std::int8_t role[kChunk];
  for (std::int64_t first = 0; first < folds.n_rows; first += kChunk) {
    const std::int64_t count = std::min(kChunk, folds.n_rows - first);
    role_chunk(folds, split, first, count, role);
    use(first, count, static_cast<const std::int8_t*>(role));
  }
}

// Calls use(k, j) for k = 0 .. n-1 in order, where j is k's place in the shuffled order.
template <class Use>
void for_shuffled(std::int64_t n, const Shuffle& shuffle, std::uint32_t stream, Use use) {
  if (!shuffle.on) {
    for (std::int64_t k = 0; k < n; ++k) use(k, k);
    return;
  }
  const Permutation p = make_permutation(n, shuffle.seed, shuffle.repeat, stream);
  std::int64_t place[1024];
  for (std::int64_t first = 0; first < n; first += 1024) {
    const std::int64_t count = std::min<std::int64_t>(1024, n - first);
    permutation_fill(p, first, count, place);
    for (std::int64_t k = 0; k < count; ++k) use(first + k, place[k]);
  }
}

// Where each class begins when the classes stand one after another, sorted by rank.
std::vector<std::int64_t> class_starts(const Classes& classes, std::vector<std::int64_t>& by_rank) {
  by_rank.assign(static_cast<std::size_t>(classes.n_classes), 0);
  for (std::int64_t c = 0; c < classes.n_classes; ++c) by_rank[classes.rank[c]] = c;
  std::vector<std::int64_t> start(static_cast<std::size_t>(classes.n_classes));
  std::int64_t sum = 0;
  for (std::int64_t c : by_rank) {
    start[c] = sum;
    sum += classes.counts[c];
  }
  return start;
}

// ids[i] = parts[start_c + r] for the r-th row of class c: `next` starts at start_c and is used up.
template <class Id>
void hand_out(const Classes& classes, const std::vector<Id>& parts, std::vector<std::int64_t>& next, Id* ids) {
  for (std::int64_t i = 0; i < classes.n_rows; ++i) ids[i] = parts[next[classes.codes[i]]++];
}

// Calls part(start_c + place) for every row, place being its place within its shuffled class.
template <class Id, class Part>
void assign_by_class(const Classes& classes, const Shuffle& shuffle, Part part, Id* ids) {
  std::vector<std::int64_t> by_rank;
  std::vector<std::int64_t> start = class_starts(classes, by_rank);
  std::vector<Id> parts(static_cast<std::size_t>(classes.n_rows));
  for (std::int64_t rank = 0; rank < classes.n_classes; ++rank) {
    const std::int64_t c = by_rank[rank], begin = start[c];
    if (classes.counts[c] == 0) continue;
    for_shuffled(classes.counts[c], shuffle, kStreamClasses + static_cast<std::uint32_t>(rank),
                 [&](std::int64_t k, std::int64_t place) { parts[begin + k] = static_cast<Id>(part(begin + place)); });
  }
  hand_out(classes, parts, start, ids);
}

// How many rows of an id row have an id below a bound: from running counts where the ids are dense, and by bisection of
// the sorted ids where a few of them are far larger than there are rows.
class IdRanks {
 public:
  bool ready() const { return ready_; }

  template <class Id>
  void count(const Id* ids, std::int64_t n_rows) {
    ready_ = true;
    const Id skip = static_cast<Id>(~Id{0});
    std::int64_t top = 0;
    for (std::int64_t i = 0; i < n_rows; ++i)
      if (ids[i] != skip) top = std::max(top, static_cast<std::int64_t>(ids[i]) + 1);
    if (top > 4 * n_rows + (1 << 16)) {
      sorted_.assign(ids, ids + n_rows);
      std::sort(sorted_.begin(), sorted_.end());
      return;
    }
    sum_.assign(static_cast<std::size_t>(top) + 1, 0);
    for (std::int64_t i = 0; i < n_rows; ++i)
      if (ids[i] != skip) ++sum_[static_cast<std::size_t>(ids[i]) + 1];
    for (std::int64_t id = 0; id < top; ++id) sum_[id + 1] += sum_[id];
  }

  std::int64_t operator()(std::int64_t bound) const {
    if (sum_.empty()) {
      const auto smaller = [](std::uint32_t id, std::int64_t limit) { return static_cast<std::int64_t>(id) < limit; };
      return std::lower_bound(sorted_.begin(), sorted_.end(), bound, smaller) - sorted_.begin();
    }
    return sum_[std::min(bound, static_cast<std::int64_t>(sum_.size()) - 1)];
  }

 private:
  bool ready_ = false;
  std::vector<std::int64_t> sum_;      // [id]: rows with a smaller id
  std::vector<std::uint32_t> sorted_;
};

}  // namespace

std::int64_t folds_first_bad_condition(const FoldsView& folds, std::int64_t first, std::int64_t last) {
  const std::int64_t skip = (std::int64_t{1} << (8 * folds.id_bytes)) - 1;
  for (std::int64_t k = first * folds.n_conditions; k < last * folds.n_conditions; ++k) {
    const FoldCondition& c = folds.conditions[k];
    const bool good = 0 <= c.id_row && c.id_row < folds.n_id_rows &&                               //
                      0 <= c.score_lo && c.score_lo <= c.score_hi && c.score_hi <= skip &&         //
                      0 <= c.train_lo && c.train_lo <= c.train_hi && c.train_hi <= skip;
    if (!good) return k;
  }
  return -1;
}

void folds_role(const FoldsView& folds, std::int64_t split, std::int64_t first, std::int64_t count, std::int8_t* role) {
  for (std::int64_t done = 0; done < count; done += kChunk)
    role_chunk(folds, split, first + done, std::min(kChunk, count - done), role + done);
}

void folds_sizes(const FoldsView& folds, std::int64_t* sizes) {
  if (folds.n_conditions != 1) {
    for (std::int64_t split = 0; split < folds.n_splits; ++split) {
      std::int64_t n_train = 0, n_score = 0;
      for_role_chunks(folds, split, [&](std::int64_t, std::int64_t count, const std::int8_t* role) {
        for (std::int64_t i = 0; i < count; ++i) {
          n_train += role[i] == static_cast<std::int8_t>(Role::train);
          n_score += role[i] == static_cast<std::int8_t>(Role::score);
        }
      });
      sizes[2 * split] = n_train;
      sizes[2 * split + 1] = n_score;
    }
    return;
  }
  // One condition: every size is a difference of two ranks. Leave-one-out has as many splits as rows, so a pass over
  // the rows for every split would be quadratic.
  std::vector<IdRanks> ranks(static_cast<std::size_t>(folds.n_id_rows));
  for (std::int64_t split = 0; split < folds.n_splits; ++split) {
    const FoldCondition& c = folds.conditions[split];
    IdRanks& below = ranks[c.id_row];
    if (!below.ready()) with_ids(folds, c.id_row, [&](const auto* ids) { below.count(ids, folds.n_rows); });
    const auto rows_in = [&](std::int64_t lo, std::int64_t hi) { return lo < hi ? below(hi) - below(lo) : 0; };
    const std::int64_t n_both = rows_in(std::max(c.score_lo, c.train_lo), std::min(c.score_hi, c.train_hi));
    sizes[2 * split] = rows_in(c.train_lo, c.train_hi) - n_both;
    sizes[2 * split + 1] = rows_in(c.score_lo, c.score_hi);
  }
}

std::int64_t folds_indices(const FoldsView& folds, std::int64_t split, Role role, std::int64_t room,
                           std::int64_t* out) {
  const std::int8_t wanted = static_cast<std::int8_t>(role);
  const IndexKernels& kernels = index_kernels();
  std::int64_t found = 0;
  for_role_chunks(folds, split, [&](std::int64_t first, std::int64_t count, const std::int8_t* roles) {
    if (found + count + kPackSlack <= room) {
      found += kernels.pack(roles, wanted, first, count, out + found);
      return;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      if (roles[i] != wanted) continue;
      if (found < room) out[found] = first + i;
      ++found;
    }
  });
  return found;
}

void rows_by_id(const std::uint8_t* ids, std::int64_t n_rows, std::int64_t* order, std::int64_t* offset) {
  constexpr int kIds = 256, kCounts = 4;  // several counts of each id: to count the same one twice in a row would wait for the store
  std::vector<std::int64_t> count(kIds * kCounts), to(kIds);
  for (std::int64_t i = 0; i < n_rows; ++i) ++count[ids[i] * kCounts + i % kCounts];
  offset[0] = 0;
  for (int c = 0; c < kIds; ++c) {
    to[c] = offset[c];
    offset[c + 1] = offset[c];
    for (int k = 0; k < kCounts; ++k) offset[c + 1] += count[c * kCounts + k];
  }
  for (std::int64_t i = 0; i < n_rows; ++i) order[to[ids[i]]++] = i;
}

SplitFault split_roles(std::int64_t n_rows, const std::int64_t* train, std::int64_t n_train, const std::int64_t* test,
                       std::int64_t n_test, std::int8_t* role) {
  std::memset(role, static_cast<int>(Role::skip), static_cast<std::size_t>(n_rows));
  const auto enter = [&](const std::int64_t* rows, std::int64_t count, Role own) -> SplitFault {
    const bool in_test = own == Role::score;
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t row = rows[k];
      if (row < 0 || row >= n_rows) return {SplitFault::out_of_range, in_test, k, row};
      if (role[row] == static_cast<std::int8_t>(own)) return {SplitFault::repeated, in_test, k, row};
      if (role[row] != static_cast<std::int8_t>(Role::skip)) return {SplitFault::on_both_sides, in_test, k, row};
      role[row] = static_cast<std::int8_t>(own);
    }
    return {};
  };
  const SplitFault fault = enter(train, n_train, Role::train);
  return fault.kind != SplitFault::none ? fault : enter(test, n_test, Role::score);
}

template <class Id>
void assign_kfold(std::int64_t n_rows, std::int64_t n_splits, const Shuffle& shuffle, Id* ids) {
  const std::int64_t size = n_rows / n_splits, larger = n_rows % n_splits;
  const std::int64_t border = larger * (size + 1);  // where the folds with one row more end
  const Divider by_larger(static_cast<std::uint64_t>(size + 1)), by_size(static_cast<std::uint64_t>(size));
  for_shuffled(n_rows, shuffle, kStreamFolds, [&](std::int64_t i, std::int64_t j) {
    const std::uint64_t place = static_cast<std::uint64_t>(j < border ? j : j - border);
    ids[i] = static_cast<Id>(j < border ? by_larger.divide(place)
                                        : static_cast<std::uint64_t>(larger) + by_size.divide(place));
  });
}

template <class Id>
void assign_stratified(const Classes& classes, std::int64_t n_splits, const Shuffle& shuffle, Id* ids) {
  if (shuffle.on) {
    const Divider by_splits(static_cast<std::uint64_t>(n_splits));
    assign_by_class(classes, shuffle,
                    [&](std::int64_t place) { return by_splits.modulo(static_cast<std::uint64_t>(place)); }, ids);
    return;
  }
  // scikit-learn sorts the codes and gives fold f the places f, f + k, f + 2 k, ... of that order; how many of them
  // fall to a class is its allocation, and within the class the rows of a fold are a run.
  std::vector<std::int64_t> by_rank;
  std::vector<std::int64_t> start = class_starts(classes, by_rank);
  std::vector<Id> parts(static_cast<std::size_t>(classes.n_rows));
  for (std::int64_t c = 0; c < classes.n_classes; ++c) {
    const std::int64_t begin = start[c], end = begin + classes.counts[c];
    std::int64_t at = begin;
    for (std::int64_t fold = 0; fold < n_splits && at < end; ++fold) {
      const auto places_below = [&](std::int64_t place) {  // how many of fold's places lie below `place`
        return place > fold ? (place - fold - 1) / n_splits + 1 : 0;
      };
      const std::int64_t run = places_below(end) - places_below(begin);
      std::fill(parts.begin() + at, parts.begin() + at + run, static_cast<Id>(fold));
      at += run;
    }
  }
  hand_out(classes, parts, start, ids);
}

void assign_holdout(std::int64_t n_rows, const PartSizes& sizes, const Shuffle& shuffle, std::uint8_t* ids) {
  const std::int64_t validation_end = sizes.train + sizes.validation;
  const std::uint8_t test_id = sizes.validation > 0 ? 2 : 1;
  for_shuffled(n_rows, shuffle, kStreamFolds, [&](std::int64_t i, std::int64_t j) {
    ids[i] = j < sizes.train ? std::uint8_t{0} : j < validation_end ? std::uint8_t{1} : test_id;
  });
}

void assign_stratified_holdout(const Classes& classes, const PartSizes& sizes, const Shuffle& shuffle,
                               std::uint8_t* ids) {
  // Place t is a test row when floor((t + 1) m / n) > floor(t m / n): m of n places, as even as integers allow, so that
  // every run of places holds its share to within one. The rest is divided again, in the same way, for validation.
  __extension__ using Wide = unsigned __int128;
  const auto chosen_below = [](std::int64_t place, std::int64_t chosen, std::int64_t of) {
    return static_cast<std::int64_t>(static_cast<Wide>(place) * static_cast<Wide>(chosen) / static_cast<Wide>(of));
  };
  const std::int64_t rest = sizes.train + sizes.validation;
  const std::uint8_t test_id = sizes.validation > 0 ? 2 : 1;
  assign_by_class(
      classes, shuffle,
      [&](std::int64_t place) -> std::uint8_t {
        const std::int64_t tests = chosen_below(place, sizes.test, classes.n_rows);
        if (chosen_below(place + 1, sizes.test, classes.n_rows) > tests) return test_id;
        const std::int64_t left = place - tests;
        return chosen_below(left + 1, sizes.validation, rest) > chosen_below(left, sizes.validation, rest) ? 1 : 0;
      },
      ids);
}

template void assign_kfold(std::int64_t, std::int64_t, const Shuffle&, std::uint8_t*);
template void assign_kfold(std::int64_t, std::int64_t, const Shuffle&, std::uint16_t*);
template void assign_kfold(std::int64_t, std::int64_t, const Shuffle&, std::uint32_t*);
template void assign_stratified(const Classes&, std::int64_t, const Shuffle&, std::uint8_t*);
template void assign_stratified(const Classes&, std::int64_t, const Shuffle&, std::uint16_t*);
template void assign_stratified(const Classes&, std::int64_t, const Shuffle&, std::uint32_t*);

}  // namespace gradfold
