// Metrics of many models from their raw predictions: weighted sums, counts of labels, rankings. float64 in a fixed order, one
// model at a time, so that neither the number of threads nor the models beside it change a result. exp and log are the C
// library's: metrics agree between platforms within a tolerance and not to the bit (docs/metrics.md).
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>

namespace gradfold {

// Borrowed raw predictions of any layout; strides in elements. Labels of a model with one output are 0 and 1, else its outputs.
template <class T>
struct RawPredictions {
  const T* data;
  std::int64_t n_rows, n_outputs, n_models;
  std::int64_t row_stride, output_stride, model_stride;
  const T* at(std::int64_t row, std::int64_t output, std::int64_t model) const {
    return data + row * row_stride + output * output_stride + model * model_stride;
  }
};

// How the work is done. The thread that calls runs `poll` now and then; when `stop` is set, what is left of the work is left out.
struct MetricJob {
  int n_threads;
  std::function<void()> poll;
  const std::atomic<bool>* stop;
};

// A weight of nullptr means 1. Sums of the first three are added to what the arrays hold, so rows may come in several calls:
// regression_sums and probability_sums add chunks of 1,024 rows of a call, label_counts adds row after row.

// sums (n_models, 4): Σ w d², Σ w |d|, Σ w |d| / max(|y|, 2^-52), Σ w d, with d = z − y. One output.
template <class T>
void regression_sums(const RawPredictions<T>& raw, const double* y, const double* weight, double* sums, const MetricJob& job);

// Where probabilities come from: 1 / (1 + exp(−z)); or softmax over the outputs; or (clip(z, −1, 1) + 1) / 2 (modified_huber).
enum class Link : int { logistic = 0, softmax = 1, clipped = 2 };

// sums (n_models, 2): Σ w · log loss and Σ w · Brier score of a row. The Brier score is (p − y)² for one output and Σ_k (p_k − y_k)²
// for several. Logistic and softmax losses are computed from z, without clipping; those of `clipped` clip p to [2^-52, 1 − 2^-52].
template <class T>
void probability_sums(const RawPredictions<T>& raw, const std::int32_t* codes, const double* weight, Link link, double* sums,
                      const MetricJob& job);

// What was predicted, in weight: hits and predicted (n_models, n_labels), confusion (n_models, n_labels, n_labels), or nullptr for
// several outputs. top (n_models), for several outputs only: the rows whose label is among the `k` largest outputs, of equal ones
// the higher output first, as scikit-learn has it. The label of one output is z > threshold[model], of several the first maximum.
// invalid[model] is set where a raw prediction is NaN.
struct LabelCounts {
  double *hits, *predicted, *confusion, *top;
  std::uint8_t* invalid;
};
template <class T>
void label_counts(const RawPredictions<T>& raw, const std::int32_t* codes, const double* weight, const double* threshold,
                  std::int64_t k, const LabelCounts& out, const MetricJob& job);

// out (n_rows, n_outputs, n_models): exp(z_k − max) / Σ, exponentials summed in class order.
template <class T>
void softmax(const RawPredictions<T>& raw, double* out, const MetricJob& job);

// Item i is row rows[i], or row i where `rows` is nullptr; positive and weight are per item. n_items < 2^32.
struct RankedItems {
  const std::int64_t* rows;
  std::int64_t n_items;
  const std::uint8_t* positive;
  const double* weight;
};

// Of one output: the area under the ROC curve, NaN without a positive or a negative; and average precision, 0 without a positive.
// Equal scores are one point of either curve. NaN where a score is NaN. Either array may be nullptr.
template <class T>
void ranking(const RawPredictions<T>& raw, std::int64_t output, const RankedItems& items, double* auc, double* average_precision,
             const MetricJob& job);

enum class Calibrate : int { accuracy = 0, f_beta = 1, precision_at_recall = 2, recall_at_precision = 3 };

// The threshold of z > threshold that is best on these items, and its value, both (n_models). docs/metrics.md says which.
template <class T>
void calibrate(const RawPredictions<T>& raw, const RankedItems& items, Calibrate by, double target, double beta, double* threshold,
               double* value, const MetricJob& job);

}  // namespace gradfold
