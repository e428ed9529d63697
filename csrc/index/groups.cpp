#include "index/groups.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "index/permutation.h"

namespace gradfold {
namespace {

using Index = std::int64_t;

// Groups in the order of the tie-break.
std::vector<Index> keyed_order(const Classes& groups, const Shuffle& shuffle) {
  std::vector<Index> at(static_cast<std::size_t>(groups.n_classes));
  if (shuffle.on)
    permutation_map(make_permutation(groups.n_classes, shuffle.seed, shuffle.repeat, kStreamFolds), false, groups.rank,
                    groups.n_classes, at.data());
  else
    std::copy(groups.rank, groups.rank + groups.n_classes, at.begin());
  std::vector<Index> order(at.size());
  for (Index g = 0; g < groups.n_classes; ++g) order[at[g]] = g;
  return order;
}

// ---- by size -----------------------------------------------------------------------------------------------------

// Largest first, equal sizes in the order given: a counting sort, so that ten million groups take O(n).
std::vector<Index> by_size(const Classes& groups, const std::vector<Index>& order) {
  const Index largest = *std::max_element(groups.counts, groups.counts + groups.n_classes);
  std::vector<Index> start(static_cast<std::size_t>(largest) + 2, 0);
  for (Index g = 0; g < groups.n_classes; ++g) ++start[largest - groups.counts[g] + 1];
  for (std::size_t s = 1; s < start.size(); ++s) start[s] += start[s - 1];
  std::vector<Index> sorted(order.size());
  for (const Index g : order) sorted[start[largest - groups.counts[g]]++] = g;
  return sorted;
}

// Moves or exchanges groups between the largest and the smallest fold until the best such step no longer levels them.
void level(const Classes& groups, const std::vector<Index>& sorted, std::vector<Index>& fold_of, std::vector<Index>& rows) {
  const Index n_splits = static_cast<Index>(rows.size());
  Index patience = 4 * groups.n_classes + 16 * n_splits;  // groups looked at, so that all of this stays linear
  std::vector<Index> large, small;
  while (patience > 0) {
    const Index from = std::max_element(rows.begin(), rows.end()) - rows.begin();
    const Index to = std::min_element(rows.begin(), rows.end()) - rows.begin();
    const Index gap = rows[from] - rows[to];
    if (gap <= 1) return;
    large.clear();
    small.clear();
    for (const Index g : sorted) {  // both by size, largest first
      if (fold_of[g] == from) large.push_back(g);
      if (fold_of[g] == to) small.push_back(g);
    }
    patience -= groups.n_classes + n_splits;
    // The pair whose difference d makes |gap − 2d| least; -1 stands for no group at all, of size 0.
    Index best_large = -1, best_small = -1, left = gap;
    const auto consider = [&](Index a, Index b) {
      const Index d = groups.counts[a] - (b < 0 ? 0 : groups.counts[b]);
      const Index now = gap > 2 * d ? gap - 2 * d : 2 * d - gap;
      if (d > 0 && now < left) left = now, best_large = a, best_small = b;
      return 2 * d;
    };
    if (large.size() > 1)
      for (const Index a : large) consider(a, -1);
    for (std::size_t i = 0, j = 0; i < large.size() && j < small.size();) {
      if (consider(large[i], small[j]) > gap)
        ++i;  // too much: a smaller one of the large fold
      else
        ++j;  // too little: a smaller one of the small fold
    }
    if (best_large < 0) return;
    const Index d = groups.counts[best_large] - (best_small < 0 ? 0 : groups.counts[best_small]);
    fold_of[best_large] = to;
    if (best_small >= 0) fold_of[best_small] = from;
    rows[from] -= d;
    rows[to] += d;
  }
}

void folds_by_size(const Classes& groups, const std::vector<Index>& order, Index n_splits, std::vector<Index>& fold_of) {
  const std::vector<Index> sorted = by_size(groups, order);
  struct Fold {
    Index rows, fold;
    bool operator<(const Fold& other) const { return rows != other.rows ? rows > other.rows : fold > other.fold; }
  };
  std::vector<Fold> heap;  // the smallest fold on top
  for (Index f = 0; f < n_splits; ++f) heap.push_back({0, f});
  std::make_heap(heap.begin(), heap.end());
  for (const Index g : sorted) {
    std::pop_heap(heap.begin(), heap.end());
    fold_of[g] = heap.back().fold;
    heap.back().rows += groups.counts[g];
    std::push_heap(heap.begin(), heap.end());
  }
  std::vector<Index> rows(static_cast<std::size_t>(n_splits));
  for (const Fold& f : heap) rows[f.fold] = f.rows;
  level(groups, sorted, fold_of, rows);
}

// ---- by class counts ---------------------------------------------------------------------------------------------

struct Share {
  Index label;  // the class's place among the sorted ones
  double h;  // of the class's rows, those in the group
};

// Each group's classes: shares[start[g]] to shares[start[g + 1]].
struct Contents {
  std::vector<Index> start;
  std::vector<Share> shares;
};

Contents contents_of(const Classes& groups, const Classes& y) {
  const Index n_groups = groups.n_classes;
  std::vector<Index> first(static_cast<std::size_t>(n_groups) + 1, 0);
  for (Index g = 0; g < n_groups; ++g) first[g + 1] = first[g] + groups.counts[g];
  std::vector<std::int32_t> labels(static_cast<std::size_t>(groups.n_rows));
  std::vector<Index> next(first.begin(), first.end() - 1);
  for (Index i = 0; i < groups.n_rows; ++i) labels[next[groups.codes[i]]++] = static_cast<std::int32_t>(y.rank[y.codes[i]]);
  std::vector<Index> total(static_cast<std::size_t>(y.n_classes));
  for (Index c = 0; c < y.n_classes; ++c) total[y.rank[c]] = y.counts[c];
  Contents found;
  found.start.reserve(first.size());
  found.start.push_back(0);
  std::vector<Index> count(static_cast<std::size_t>(y.n_classes), 0);
  std::vector<std::int32_t> met;
  for (Index g = 0; g < n_groups; ++g) {
    met.clear();
    for (Index i = first[g]; i < first[g + 1]; ++i)
      if (count[labels[i]]++ == 0) met.push_back(labels[i]);
    std::sort(met.begin(), met.end());  // so that sums do not depend on the order of the rows
    for (const std::int32_t c : met) {
      found.shares.push_back({c, static_cast<double>(count[c]) / static_cast<double>(total[c])});
      count[c] = 0;
    }
    found.start.push_back(static_cast<Index>(found.shares.size()));
  }
  return found;
}

constexpr Index kFew = 400;  // groups up to which every pair is tried

class Balance {
 public:
  Balance(const Classes& groups, const Contents& contents, Index n_labels, Index n_splits, std::vector<Index>& fold_of)
      : groups_(groups), contents_(contents), n_labels_(n_labels), n_splits_(n_splits), fold_of_(fold_of),
        x_(static_cast<std::size_t>(n_labels * n_splits), 0.0), rows_(static_cast<std::size_t>(n_splits), 0),
        size_(static_cast<std::size_t>(n_splits), 0), change_(static_cast<std::size_t>(n_labels), 0.0) {}

  // Starts anew: each group in the order given goes to the fold that has least of its classes.
  void place_greedily(const std::vector<Index>& order) {
    std::fill(x_.begin(), x_.end(), 0.0);
    std::fill(rows_.begin(), rows_.end(), 0);
    std::fill(size_.begin(), size_.end(), 0);
    for (const Index g : order) {
      Index best = 0;
      double least = overlap(g, 0);
      for (Index f = 1; f < n_splits_; ++f) {
        const double here = overlap(g, f);
        if (here < least || (here == least && rows_[f] < rows_[best])) least = here, best = f;
      }
      fold_of_[g] = best;
      for_shares(g, [&](const Share& s) { at(best, s.label) += s.h; });
      rows_[best] += groups_.counts[g];
      ++size_[best];
    }
  }

  // Passes over all groups, each of which may move or change places with another one. Returns the sum of the deviations.
  double improve(const std::vector<Index>& order) {
    const Index n = groups_.n_classes;
    spread_.assign(static_cast<std::size_t>(n_labels_), 0.0);
    for (Index c = 0; c < n_labels_; ++c) spread_[c] = deviation(c);
    // All pairs where there are few groups; else a few partners of each, at strides that visit all groups over the passes.
    const bool few = n <= kFew;
    const Index n_passes = few ? 12 : 1, partners = few ? n - 1 : 2;
    const Index stride = few ? 1 : n / 7 + 1;
    bool improved = true;
    for (Index pass = 0; pass < n_passes && improved; ++pass) {
      improved = false;
      for (Index i = 0; i < n; ++i) {
        const Index g = order[i];
        if (n_splits_ <= 64)
          for (Index f = 0; f < n_splits_; ++f)
            if (f != fold_of_[g] && size_[fold_of_[g]] > 1) improved |= accept(g, -1, f);
        for (Index p = 1; p <= partners; ++p) {
          const Index other = order[(i + pass + p * stride) % n];
          if (fold_of_[other] != fold_of_[g]) improved |= accept(g, other, fold_of_[other]);
        }
      }
    }
    double sum = 0;
    for (const double spread : spread_) sum += std::sqrt(spread);
    return sum;
  }

 private:
  double& at(Index fold, Index label) { return x_[fold * n_labels_ + label]; }

  template <class Use>
  void for_shares(Index g, const Use& use) const {
    for (Index i = contents_.start[g]; i < contents_.start[g + 1]; ++i) use(contents_.shares[i]);
  }

  double overlap(Index g, Index fold) {
    double sum = 0;
    for_shares(g, [&](const Share& s) { sum += s.h * at(fold, s.label); });
    return sum;
  }

  // Σ_f (x_f − 1/k)² of a class, computed anew.
  double deviation(Index label) {
    const double mean = 1.0 / static_cast<double>(n_splits_);
    double sum = 0;
    for (Index f = 0; f < n_splits_; ++f) sum += (at(f, label) - mean) * (at(f, label) - mean);
    return sum;
  }

  // Moves g to `to`, and `other` (unless -1), which is there, to where g was, if that lowers the sum of the classes' deviations.
  bool accept(Index g, Index other, Index to) {
    const Index from = fold_of_[g];
    labels_.clear();
    for_shares(g, [&](const Share& s) {
      labels_.push_back(s.label);
      change_[s.label] = s.h;
    });
    if (other >= 0)
      for_shares(other, [&](const Share& s) {
        if (change_[s.label] == 0) labels_.push_back(s.label);
        change_[s.label] -= s.h;
      });
    double gain = 0;
    for (const Index c : labels_) {
      const double h = change_[c];
      if (h == 0) continue;
      const double spread = std::max(0.0, spread_[c] + 2 * h * (at(to, c) - at(from, c)) + 2 * h * h);
      gain += std::sqrt(spread_[c]) - std::sqrt(spread);
    }
    const bool better = gain > 1e-9;  // above the rounding errors, so that no two states take turns for ever
    if (better) {
      for (const Index c : labels_) {
        const double h = change_[c];
        change_[c] = 0;
        if (h == 0) continue;  // a label may stand here twice
        at(from, c) -= h;
        at(to, c) += h;
        spread_[c] = deviation(c);
      }
      fold_of_[g] = to;
      if (other >= 0) {
        fold_of_[other] = from;
      } else {
        --size_[from];
        ++size_[to];
      }
    } else {
      for (const Index c : labels_) change_[c] = 0;
    }
    return better;
  }

  const Classes& groups_;
  const Contents& contents_;
  const Index n_labels_, n_splits_;
  std::vector<Index>& fold_of_;
  std::vector<double> x_;       // (n_splits, n_labels)
  std::vector<Index> rows_;     // of each fold, while groups are placed
  std::vector<Index> size_;     // groups of each fold
  std::vector<double> change_;  // of each label, 0 between calls
  std::vector<double> spread_;  // deviation of each label
  std::vector<Index> labels_;
};

void folds_by_class(const Classes& groups, const Classes& y, const std::vector<Index>& order, Index n_splits,
                    const Shuffle& shuffle, std::vector<Index>& fold_of) {
  const Contents contents = contents_of(groups, y);
  std::vector<double> weight(order.size(), 0.0);
  for (Index g = 0; g < groups.n_classes; ++g)
    for (Index i = contents.start[g]; i < contents.start[g + 1]; ++i) weight[g] += contents.shares[i].h * contents.shares[i].h;
  std::vector<std::pair<double, Index>> places;  // (−weight, place in the keyed order)
  places.reserve(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) places.emplace_back(-weight[order[i]], static_cast<Index>(i));
  std::sort(places.begin(), places.end());
  std::vector<Index> sorted;
  sorted.reserve(order.size());
  for (const auto& place : places) sorted.push_back(order[place.second]);
  Balance balance(groups, contents, y.n_classes, n_splits, fold_of);
  balance.place_greedily(sorted);
  double least = balance.improve(sorted);
  // Few groups leave local optima: then other starts are tried, in keyed orders, and the best is kept.
  const Index n = groups.n_classes, n_starts = n > kFew ? 1 : std::clamp<Index>((Index{1} << 17) / (n * n), 4, 24);
  std::vector<Index> best = fold_of;
  for (Index start = 1; start < n_starts; ++start) {
    std::vector<Index> other(order.size());
    permutation_fill(make_permutation(n, shuffle.on ? shuffle.seed : 0, static_cast<std::uint32_t>(start), kStreamFolds), 0, n,
                     other.data());
    for (Index& g : other) g = order[g];
    balance.place_greedily(other);
    const double here = balance.improve(other);
    if (here < least) least = here, best = fold_of;
  }
  fold_of = best;
}

}  // namespace

template <class Id>
void assign_groups(const Classes& groups, const Classes* y, std::int64_t n_splits, const Shuffle& shuffle, Id* ids) {
  const std::vector<Index> order = keyed_order(groups, shuffle);
  std::vector<Index> fold_of(order.size());
  if (y)
    folds_by_class(groups, *y, order, n_splits, shuffle, fold_of);
  else
    folds_by_size(groups, order, n_splits, fold_of);
  std::vector<Id> id_of(fold_of.begin(), fold_of.end());
  for (Index i = 0; i < groups.n_rows; ++i) ids[i] = id_of[groups.codes[i]];
}

template void assign_groups(const Classes&, const Classes*, std::int64_t, const Shuffle&, std::uint8_t*);
template void assign_groups(const Classes&, const Classes*, std::int64_t, const Shuffle&, std::uint16_t*);
template void assign_groups(const Classes&, const Classes*, std::int64_t, const Shuffle&, std::uint32_t*);

}  // namespace gradfold
