#include "loss/metrics.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "threads/team.h"

namespace gradfold {
namespace {

constexpr std::int64_t kChunk = 1024;  // rows of one partial sum: part of the definition
constexpr std::int64_t kModels = 32;   // models of one work item of the sums: a row of them is a few cache lines
constexpr double kEpsilon = std::numeric_limits<double>::epsilon();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// body(first, last) for blocks of models, each on whichever thread comes first.
void for_model_blocks(const MetricJob& job, std::int64_t n_models, std::int64_t block,
                      const std::function<void(std::int64_t, std::int64_t)>& body) {
  const std::int64_t n_items = (n_models + block - 1) / block;
  std::atomic<std::int64_t> next{0};
  const int n_threads = static_cast<int>(std::clamp<std::int64_t>(n_items, 1, job.n_threads));
  run_team(
      n_threads,
      [&](int) {
        for (std::int64_t item; !job.stop->load(std::memory_order_relaxed) && (item = next.fetch_add(1)) < n_items;)
          body(item * block, std::min(n_models, (item + 1) * block));
      },
      job.poll);
}

// Adds `Terms` sums of a row to each model: term(row, model, out) fills out[Terms], chunk after chunk.
template <int Terms, class Term>
void chunked_sums(std::int64_t n_rows, std::int64_t first, std::int64_t last, const double* weight, double* sums,
                  const MetricJob& job, const Term& term) {
  double chunk[kModels][Terms];
  for (std::int64_t a = 0; a < n_rows && !job.stop->load(std::memory_order_relaxed); a += kChunk) {
    std::memset(chunk, 0, sizeof chunk);
    for (std::int64_t i = a; i < std::min(n_rows, a + kChunk); ++i) {
      const double w = weight ? weight[i] : 1.0;
      for (std::int64_t m = first; m < last; ++m) {
        double terms[Terms];
        term(i, m, terms);
        for (int t = 0; t < Terms; ++t) chunk[m - first][t] += w * terms[t];
      }
    }
    for (std::int64_t m = first; m < last; ++m)
      for (int t = 0; t < Terms; ++t) sums[m * Terms + t] += chunk[m - first][t];
  }
}

double squared(double x) { return x * x; }

// An unsigned integer that sorts as the float does, descending: larger score, smaller key; −0 and +0 are one.
inline std::uint32_t descending_key(float z) {
  std::uint32_t b;
  z += 0.0f;
  std::memcpy(&b, &z, sizeof b);
  return b >> 31 ? b : ~(b | 0x80000000u);
}
inline std::uint64_t descending_key(double z) {
  std::uint64_t b;
  z += 0.0;
  std::memcpy(&b, &z, sizeof b);
  return b >> 63 ? b : ~(b | 0x8000000000000000u);
}

template <class Key>
struct Entry {
  Key key;
  std::uint32_t item;
};

// Stable, by key: least significant digit first, a pass left out where all keys share the digit.
template <class Key>
void sort_entries(std::vector<Entry<Key>>& entries, std::vector<Entry<Key>>& scratch) {
  const std::size_t n = entries.size();
  if (n < 512) {
    std::sort(entries.begin(), entries.end(),
              [](const auto& a, const auto& b) { return a.key != b.key ? a.key < b.key : a.item < b.item; });
    return;
  }
  constexpr int kBits = 11, kPasses = (8 * static_cast<int>(sizeof(Key)) + kBits - 1) / kBits;
  constexpr std::size_t kDigits = std::size_t{1} << kBits, kMask = kDigits - 1;
  std::vector<std::uint32_t> counts(kPasses * kDigits, 0);
  for (const auto& e : entries)
    for (int pass = 0; pass < kPasses; ++pass) ++counts[pass * kDigits + ((e.key >> (pass * kBits)) & kMask)];
  scratch.resize(n);
  for (int pass = 0; pass < kPasses; ++pass) {
    std::uint32_t* const count = &counts[pass * kDigits];
    if (count[(entries[0].key >> (pass * kBits)) & kMask] == n) continue;
    std::uint32_t start = 0;
    for (std::size_t d = 0; d < kDigits; ++d) {
      const std::uint32_t here = count[d];
      count[d] = start;
      start += here;
    }
    for (const auto& e : entries) scratch[count[(e.key >> (pass * kBits)) & kMask]++] = e;
    entries.swap(scratch);
  }
}

template <class T>
using KeyOf = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

// The sorted items of each model of a block, one after another: use(model, entries), or nan(model) where a score is NaN.
template <class T, class Use, class Nan>
void for_sorted_models(const RawPredictions<T>& raw, std::int64_t output, const RankedItems& items, const MetricJob& job,
                       const Use& use, const Nan& nan) {
  using Key = KeyOf<T>;
  const std::int64_t n = items.n_items;
  // Columns of neighbouring models are read together, since their scores share cache lines; few where columns are long.
  const std::int64_t block = std::clamp<std::int64_t>((std::int64_t{1} << 20) / std::max<std::int64_t>(n, 1), 1, 16);
  for_model_blocks(job, raw.n_models, block, [&](std::int64_t first, std::int64_t last) {
    std::vector<std::vector<Entry<Key>>> columns(static_cast<std::size_t>(last - first));
    std::vector<std::uint8_t> invalid(static_cast<std::size_t>(last - first), 0);
    std::vector<Entry<Key>> scratch;
    for (auto& column : columns) column.resize(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t row = items.rows ? items.rows[i] : i;
      for (std::int64_t m = first; m < last; ++m) {
        const T z = *raw.at(row, output, m);
        invalid[m - first] |= z != z;
        columns[m - first][i] = {descending_key(z), static_cast<std::uint32_t>(i)};
      }
    }
    for (std::int64_t m = first; m < last && !job.stop->load(std::memory_order_relaxed); ++m) {
      if (invalid[m - first]) {
        nan(m);
        continue;
      }
      sort_entries(columns[m - first], scratch);
      use(m, columns[m - first]);
    }
  });
}

// For each group of equal scores, largest first: group(begin, end, weight of its positives, of its negatives).
template <class Key, class Group>
void for_groups(const std::vector<Entry<Key>>& entries, const RankedItems& items, const Group& group) {
  const std::size_t n = entries.size();
  for (std::size_t begin = 0, end; begin < n; begin = end) {
    double positives = 0, negatives = 0;
    for (end = begin; end < n && entries[end].key == entries[begin].key; ++end) {
      const std::uint32_t item = entries[end].item;
      const double w = items.weight ? items.weight[item] : 1.0;
      (items.positive[item] ? positives : negatives) += w;
    }
    group(begin, end, positives, negatives);
  }
}

// A number t with low <= t < high: their midpoint, or low where rounding has no number between them.
template <class T>
double between(T low, T high) {
  const T middle = std::isinf(low) || std::isinf(high) ? low : static_cast<T>(low / 2 + high / 2);
  return middle > low && middle < high ? middle : low;
}

}  // namespace

template <class T>
void regression_sums(const RawPredictions<T>& raw, const double* y, const double* weight, double* sums, const MetricJob& job) {
  for_model_blocks(job, raw.n_models, kModels, [&](std::int64_t first, std::int64_t last) {
    chunked_sums<4>(raw.n_rows, first, last, weight, sums, job, [&](std::int64_t i, std::int64_t m, double* out) {
      const double d = static_cast<double>(*raw.at(i, 0, m)) - y[i], size = std::fabs(d);
      out[0] = d * d;
      out[1] = size;
      out[2] = size / std::max(std::fabs(y[i]), kEpsilon);
      out[3] = d;
    });
  });
}

template <class T>
void probability_sums(const RawPredictions<T>& raw, const std::int32_t* codes, const double* weight, Link link, double* sums,
                      const MetricJob& job) {
  const std::int64_t n_outputs = raw.n_outputs;
  for_model_blocks(job, raw.n_models, kModels, [&](std::int64_t first, std::int64_t last) {
    std::vector<double> e(static_cast<std::size_t>(n_outputs));
    chunked_sums<2>(raw.n_rows, first, last, weight, sums, job, [&](std::int64_t i, std::int64_t m, double* out) {
      if (link == Link::softmax) {
        double high = -kInfinity;
        for (std::int64_t k = 0; k < n_outputs; ++k) high = std::max(high, static_cast<double>(*raw.at(i, k, m)));
        double sum = 0;
        for (std::int64_t k = 0; k < n_outputs; ++k) sum += e[k] = std::exp(static_cast<double>(*raw.at(i, k, m)) - high);
        double brier = 0, others = 0;  // of the true class: 1 − p is the sum of the others, which does not cancel
        for (std::int64_t k = 0; k < n_outputs; ++k) {
          if (k == codes[i]) continue;
          others += e[k];
          brier += squared(e[k] / sum);
        }
        const double own = *raw.at(i, codes[i], m);
        out[0] = std::log1p(own == high ? others : sum - 1) + (high - own);
        out[1] = brier + squared(others / sum);
        return;
      }
      const double z = static_cast<double>(*raw.at(i, 0, m)), t = codes[i] > 0 ? -z : z;
      if (link == Link::logistic) {
        const double shrunk = std::exp(-std::fabs(z)), wrong = (t > 0 ? 1.0 : shrunk) / (1.0 + shrunk);
        out[0] = (t > 0 ? t : 0.0) + std::log1p(shrunk);
        out[1] = squared(wrong);
      } else {
        const double wrong = z != z ? z : (std::clamp(t, -1.0, 1.0) + 1.0) / 2.0;
        out[0] = z != z ? z : -std::log(std::clamp(1.0 - wrong, kEpsilon, 1.0 - kEpsilon));
        out[1] = squared(wrong);
      }
    });
  });
}

namespace {

// One output: the four cells of a block of models, each a sum in row order; a row adds +0 to the cells that it is not in.
template <class T>
void binary_counts(const RawPredictions<T>& raw, const std::int32_t* codes, const double* weight, const double* threshold,
                   const LabelCounts& out, const MetricJob& job, std::int64_t first, std::int64_t last) {
  const std::int64_t n = last - first;
  double cells[2][2][kModels] = {}, cut[kModels] = {}, z[kModels] = {}, nans[kModels] = {};
  for (std::int64_t m = 0; m < n; ++m) {
    cut[m] = threshold[first + m];
    for (int c = 0; c < 4; ++c) cells[c >> 1][c & 1][m] = out.confusion[4 * (first + m) + c];
  }
  for (std::int64_t i = 0; i < raw.n_rows; ++i) {
    if (i % kChunk == 0 && job.stop->load(std::memory_order_relaxed)) return;
    const double w = weight ? weight[i] : 1.0;
    double(&cell)[2][kModels] = cells[codes[i]];
    for (std::int64_t m = 0; m < n; ++m) z[m] = static_cast<double>(*raw.at(i, 0, first + m));
    for (std::int64_t m = 0; m < kModels; ++m) {
      const bool positive = z[m] > cut[m];
      cell[0][m] += positive ? 0.0 : w;
      cell[1][m] += positive ? w : 0.0;
      nans[m] += z[m] != z[m] ? 1.0 : 0.0;
    }
  }
  for (std::int64_t m = 0; m < n; ++m) {
    for (int c = 0; c < 4; ++c) out.confusion[4 * (first + m) + c] = cells[c >> 1][c & 1][m];
    for (int label = 0; label < 2; ++label) {
      out.hits[2 * (first + m) + label] = cells[label][label][m];
      out.predicted[2 * (first + m) + label] = cells[0][label][m] + cells[1][label][m];
    }
    out.invalid[first + m] |= nans[m] > 0;
  }
}

}  // namespace

template <class T>
void label_counts(const RawPredictions<T>& raw, const std::int32_t* codes, const double* weight, const double* threshold,
                  std::int64_t k, const LabelCounts& out, const MetricJob& job) {
  const std::int64_t n_labels = raw.n_outputs;
  for_model_blocks(job, raw.n_models, kModels, [&](std::int64_t first, std::int64_t last) {
    if (n_labels == 1) return binary_counts(raw, codes, weight, threshold, out, job, first, last);
    for (std::int64_t i = 0; i < raw.n_rows; ++i) {
      if (i % kChunk == 0 && job.stop->load(std::memory_order_relaxed)) return;
      const double w = weight ? weight[i] : 1.0;
      const std::int64_t label = codes[i];
      for (std::int64_t m = first; m < last; ++m) {
        std::int64_t guess = 0, ahead = 0;  // ahead: outputs that come before the label's own
        const T own = *raw.at(i, label, m);
        T high = *raw.at(i, 0, m);
        bool nan = false;
        for (std::int64_t o = 0; o < n_labels; ++o) {
          const T z = *raw.at(i, o, m);
          if (z > high) high = z, guess = o;
          ahead += z > own || (z == own && o > label);
          nan |= z != z;
        }
        out.invalid[m] |= nan;
        if (guess == label) out.hits[m * n_labels + label] += w;
        out.predicted[m * n_labels + guess] += w;
        if (out.confusion) out.confusion[(m * n_labels + label) * n_labels + guess] += w;
        if (ahead < k) out.top[m] += w;
      }
    }
  });
}

template <class T>
void softmax(const RawPredictions<T>& raw, double* out, const MetricJob& job) {
  const std::int64_t n_outputs = raw.n_outputs, n_models = raw.n_models;
  for_model_blocks(job, n_models, kModels, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = 0; i < raw.n_rows; ++i) {
      if (i % kChunk == 0 && job.stop->load(std::memory_order_relaxed)) return;
      for (std::int64_t m = first; m < last; ++m) {
        double* const p = out + i * n_outputs * n_models + m;
        double high = -kInfinity, sum = 0;
        for (std::int64_t k = 0; k < n_outputs; ++k) high = std::max(high, static_cast<double>(*raw.at(i, k, m)));
        for (std::int64_t k = 0; k < n_outputs; ++k)
          sum += p[k * n_models] = std::exp(static_cast<double>(*raw.at(i, k, m)) - high);
        for (std::int64_t k = 0; k < n_outputs; ++k) p[k * n_models] /= sum;
      }
    }
  });
}

template <class T>
void ranking(const RawPredictions<T>& raw, std::int64_t output, const RankedItems& items, double* auc, double* average_precision,
             const MetricJob& job) {
  for_sorted_models(
      raw, output, items, job,
      [&](std::int64_t m, const auto& entries) {
        double tp = 0, fp = 0, area = 0, precision = 0;
        for_groups(entries, items, [&](std::size_t, std::size_t, double positives, double negatives) {
          area += negatives * (tp + positives / 2);
          tp += positives;
          fp += negatives;
          if (positives > 0) precision += positives * (tp / (tp + fp));
        });
        if (auc) auc[m] = tp > 0 && fp > 0 ? area / tp / fp : kNaN;
        if (average_precision) average_precision[m] = tp > 0 ? precision / tp : 0.0;
      },
      [&](std::int64_t m) {
        if (auc) auc[m] = kNaN;
        if (average_precision) average_precision[m] = kNaN;
      });
}

template <class T>
void calibrate(const RawPredictions<T>& raw, const RankedItems& items, Calibrate by, double target, double beta, double* threshold,
               double* value, const MetricJob& job) {
  const double beta2 = beta * beta;
  for_sorted_models(
      raw, 0, items, job,
      [&](std::int64_t m, const auto& entries) {
        const auto score = [&](std::size_t place) {
          const std::int64_t item = entries[place].item;
          return *raw.at(items.rows ? items.rows[item] : item, 0, m);
        };
        double all_positives = 0, all_negatives = 0;
        for_groups(entries, items, [&](std::size_t, std::size_t, double positives, double negatives) {
          all_positives += positives;
          all_negatives += negatives;
        });
        const bool needs_positive = by == Calibrate::precision_at_recall || by == Calibrate::recall_at_precision;
        if (all_positives + all_negatives == 0 || (needs_positive && all_positives == 0)) {
          threshold[m] = value[m] = kNaN;
          return;
        }
        double tp = 0, fp = 0, at = kInfinity;  // nothing is positive
        double best = by == Calibrate::accuracy ? all_negatives / (all_positives + all_negatives) : 0.0;
        if (by == Calibrate::precision_at_recall) best = -1;
        for_groups(entries, items, [&](std::size_t begin, std::size_t end, double positives, double negatives) {
          tp += positives;
          fp += negatives;
          double here;
          bool better;
          switch (by) {
            case Calibrate::accuracy:
              here = (tp + (all_negatives - fp)) / (all_positives + all_negatives);
              better = here > best;
              break;
            case Calibrate::f_beta:
              here = tp > 0 ? (1 + beta2) * tp / (beta2 * all_positives + tp + fp) : 0.0;
              better = here > best;
              break;
            case Calibrate::precision_at_recall:
              here = tp + fp > 0 ? tp / (tp + fp) : 0.0;
              better = here >= best && tp / all_positives >= target;
              break;
            default:
              here = tp / all_positives;
              better = here > best && tp + fp > 0 && tp / (tp + fp) >= target;
          }
          if (!better) return;
          best = here;
          at = end == entries.size() ? -kInfinity : between(score(end), score(begin));
        });
        threshold[m] = at;
        value[m] = best;
      },
      [&](std::int64_t m) { threshold[m] = value[m] = kNaN; });
}

#define GRADFOLD_METRICS(T)                                                                                                       \
  template void regression_sums(const RawPredictions<T>&, const double*, const double*, double*, const MetricJob&);              \
  template void probability_sums(const RawPredictions<T>&, const std::int32_t*, const double*, Link, double*, const MetricJob&); \
  template void label_counts(const RawPredictions<T>&, const std::int32_t*, const double*, const double*, std::int64_t,          \
                             const LabelCounts&, const MetricJob&);                                                              \
  template void softmax(const RawPredictions<T>&, double*, const MetricJob&);                                                    \
  template void ranking(const RawPredictions<T>&, std::int64_t, const RankedItems&, double*, double*, const MetricJob&);         \
  template void calibrate(const RawPredictions<T>&, const RankedItems&, Calibrate, double, double, double*, double*,             \
                          const MetricJob&);
GRADFOLD_METRICS(float)
GRADFOLD_METRICS(double)
#undef GRADFOLD_METRICS

}  // namespace gradfold
