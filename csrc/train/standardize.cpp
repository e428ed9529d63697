#include "train/standardize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "threads/team.h"
#include "train/moments.h"

namespace gradfold {

GRADFOLD_DISPATCH(MomentKernels, moment_kernels, moments)

namespace {

bool stopped(const int* stop) { return __atomic_load_n(stop, __ATOMIC_RELAXED) != 0; }

// The training rows of one split, chunk by chunk in natural order.
template <class T>
class TrainingRows {
 public:
  TrainingRows(const FoldsView& folds, std::int64_t split, const T* weight)
      : n_rows_(folds.n_rows), weight_(weight), roles_(&folds, {split}, Use::train), ids_(kRowChunk), masks_(kRowChunk) {}

  // each_chunk(ids, n): the ids of the chunk's training rows, those of weight 0 left out. Returns false when stopped.
  template <class F>
  bool for_each_chunk(const int* stop, F&& each_chunk) {
    for (std::int64_t begin = 0; begin < n_rows_; begin += kRowChunk) {
      if (stopped(stop)) return false;
      const std::int64_t n = std::min(kRowChunk, n_rows_ - begin);
      for (std::int64_t i = 0; i < n; ++i) ids_[i] = begin + i;
      roles_.fill(ids_.data(), n, weight_, masks_.data());
      std::int64_t kept = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        ids_[kept] = begin + i;
        kept += masks_[i] != 0;
      }
      each_chunk(ids_.data(), kept);
    }
    return true;
  }

 private:
  std::int64_t n_rows_;
  const T* weight_;
  LaneRoles roles_;
  std::vector<std::int64_t> ids_;
  std::vector<std::uint64_t> masks_;
};

}  // namespace

template <class T>
SplitWeights split_weights(const FoldsView& folds, const std::vector<std::int64_t>& splits, const T* weight, int n_threads,
                           const std::function<void()>& poll, const int* stop) {
  SplitWeights out{std::vector<std::int64_t>(folds.n_splits), std::vector<double>(folds.n_splits)};
  std::atomic<std::size_t> next{0};
  run_team(static_cast<int>(std::min<std::size_t>(n_threads, splits.size())), [&](int) {
    for (std::size_t at = next++; at < splits.size(); at = next++) {
      TrainingRows<T> rows(folds, splits[at], weight);
      std::int64_t count = 0;
      double sum = 0;
      rows.for_each_chunk(stop, [&](const std::int64_t* ids, std::int64_t n) {
        double chunk = 0;
        for (std::int64_t i = 0; i < n; ++i) chunk += weight != nullptr ? static_cast<double>(weight[ids[i]]) : 1.0;
        count += n;
        sum += chunk;
      });
      out.count[splits[at]] = count;
      out.sum[splits[at]] = sum;
    }
  }, poll);
  return out;
}

template <class T>
SplitMoments split_moments(const DenseRows<T>& X, const FoldsView& folds, const std::vector<std::int64_t>& splits,
                           const SplitWeights& weights, const T* weight, int n_threads, const std::function<void()>& poll,
                           const int* stop) {
  const MomentKernels<T>& kernels = moment_kernels<T>(current_level());
  const std::int64_t p = X.n_features;
  SplitMoments out{std::vector<double>(folds.n_splits * p, 0.0), std::vector<double>(folds.n_splits * p, 1.0)};
  constexpr std::int64_t kBlock = 512;  // features of one work item
  const std::int64_t n_blocks = (p + kBlock - 1) / kBlock;
  const std::int64_t n_items = static_cast<std::int64_t>(splits.size()) * n_blocks;
  std::atomic<std::int64_t> next{0};
  run_team(static_cast<int>(std::min<std::int64_t>(n_threads, n_items)), [&](int) {
    std::vector<const T*> x(kRowChunk);
    std::vector<double> w(kRowChunk);
    for (std::int64_t item = next++; item < n_items; item = next++) {
      const std::int64_t split = splits[item / n_blocks];
      const std::int64_t f0 = item % n_blocks * kBlock;
      const std::int64_t n_features = std::min(kBlock, p - f0);
      double* mean = out.mean.data() + split * p + f0;
      double* scale = out.scale.data() + split * p + f0;
      const double total_weight = weights.sum[split];
      TrainingRows<T> rows(folds, split, weight);
      std::vector<double> total(n_features), chunk(n_features);
      auto pass = [&](const double* centre) {
        std::fill(total.begin(), total.end(), 0.0);
        return rows.for_each_chunk(stop, [&](const std::int64_t* ids, std::int64_t n) {
          for (std::int64_t i = 0; i < n; ++i) {
            x[i] = X.row(ids[i]) + f0;
            w[i] = weight != nullptr ? static_cast<double>(weight[ids[i]]) : 1.0;
          }
          kernels.sums(x.data(), w.data(), n, n_features, centre, chunk.data());
          for (std::int64_t f = 0; f < n_features; ++f) total[f] += chunk[f];
        });
      };
      if (!pass(nullptr)) return;
      for (std::int64_t f = 0; f < n_features; ++f) mean[f] = total[f] / total_weight;
      if (!pass(mean)) return;
      constexpr double eps = std::numeric_limits<double>::epsilon();
      const double n = static_cast<double>(weights.count[split]);
      for (std::int64_t f = 0; f < n_features; ++f) {
        const double variance = total[f] / total_weight;
        const double drift = n * eps * mean[f];
        const double noise = n * eps * variance + drift * drift;
        scale[f] = variance <= noise && std::isfinite(variance) ? -1.0 : std::sqrt(variance);
      }
    }
  }, poll);
  return out;
}

#define GRADFOLD_INSTANTIATE(T)                                                                                            \
  template SplitWeights split_weights(const FoldsView&, const std::vector<std::int64_t>&, const T*, int,                   \
                                      const std::function<void()>&, const int*);                                           \
  template SplitMoments split_moments(const DenseRows<T>&, const FoldsView&, const std::vector<std::int64_t>&,             \
                                      const SplitWeights&, const T*, int, const std::function<void()>&, const int*);
GRADFOLD_INSTANTIATE(float)
GRADFOLD_INSTANTIATE(double)

}  // namespace gradfold
