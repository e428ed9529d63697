// Group k-fold: groups of rows to folds of equal size, or of equal class counts. O(n) memory; the same on every platform.
#pragma once
#include "index/folds.h"

namespace gradfold {

// ids[i] = the fold of row i's group; no group is split and no fold is empty. groups.n_classes >= n_splits.
//
// Without y: groups by size, largest first, equal ones in the order p[rank] (stream 1; shuffle.on false: the rank), each to the
// smallest fold, the lowest of equals. Then the largest and the smallest fold exchange the two groups (or move the one) that come
// nearest to levelling them, until that no longer helps.
//
// With y: h is a group's class counts over the classes' totals, x_f the sum of h in fold f. Groups by Σ h², largest first, equal
// ones as above, each to the fold of the least Σ h · x_f, of equals to the one of fewest rows. Then groups move to another fold or
// are exchanged where that lowers the sum over classes of the standard deviation of x_f over folds, in a fixed number of passes. Up
// to 400 groups every pair is tried, and some other orders to begin with (p of epochs 1, 2, … of the same stream), the best kept.
template <class Id>
void assign_groups(const Classes& groups, const Classes* y, std::int64_t n_splits, const Shuffle& shuffle, Id* ids);

}  // namespace gradfold
