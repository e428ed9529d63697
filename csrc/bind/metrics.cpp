// The metrics at the Python boundary. Arrays are allocated in Python; raw predictions may have any layout.
#include "loss/metrics.h"

#include <optional>

#include "bind/arrays.h"

namespace gradfold {
namespace {

template <class T>
RawPredictions<T> read_raw(const py::array& a) {
  const py::ssize_t size = sizeof(T);
  if (a.ndim() != 3) wrong_value("raw", "shape " + shape_text(a), "(n_rows, n_outputs, n_models)");
  if (a.shape(0) < 1 || a.shape(1) < 1 || a.shape(2) < 1) wrong_value("raw", "shape " + shape_text(a), "at least one of each");
  if (reinterpret_cast<std::uintptr_t>(a.data()) % alignof(T) || a.strides(0) % size || a.strides(1) % size || a.strides(2) % size)
    wrong_value("raw", "a misaligned array", "alignment");
  return {static_cast<const T*>(a.data()), a.shape(0), a.shape(1), a.shape(2), a.strides(0) / size, a.strides(1) / size,
          a.strides(2) / size};
}

// Calls use(raw) with float or double raw predictions.
template <class Use>
void with_raw(const py::array& raw, Use use) {
  if (py::isinstance<py::array_t<float>>(raw)) return use(read_raw<float>(raw));
  if (py::isinstance<py::array_t<double>>(raw)) return use(read_raw<double>(raw));
  wrong_type("raw", type_text(raw), "an array of float32 or float64");
}

const double* read_weight(const py::object& weight, std::int64_t n) {
  return weight.is_none() ? nullptr : read_array<double>(weight, "weight", {n});
}

const std::int32_t* read_codes(const py::object& codes, std::int64_t n, std::int64_t n_outputs) {
  const std::int32_t* c = read_array<std::int32_t>(codes, "codes", {n});
  const std::int32_t n_labels = static_cast<std::int32_t>(n_outputs == 1 ? 2 : n_outputs);
  for (std::int64_t i = 0; i < n; ++i)
    if (c[i] < 0 || c[i] >= n_labels)
      wrong_value("codes", std::to_string(c[i]) + " at row " + std::to_string(i), "0 to " + std::to_string(n_labels - 1));
  return c;
}

// Runs the work without the GIL: it touches raw pointers only, whose arrays the caller's arguments hold, and may take seconds.
// The calling thread asks for signals meanwhile; a Ctrl-C stops the work and is raised here.
template <class Work>
void released(int n_threads, const Work& work) {
  if (n_threads < 1) wrong_value("n_threads", std::to_string(n_threads), "at least 1");
  std::atomic<bool> stop{false};
  std::optional<py::error_already_set> raised;
  {
    const NoGil no_gil;
    work(MetricJob{n_threads,
                   [&] {
                     if (finalizing()) return stop.store(true);  // a daemon thread at exit: the GIL cannot be had any more
                     py::gil_scoped_acquire acquire;
                     if (!raised && PyErr_CheckSignals() != 0) {
                       raised.emplace();
                       stop.store(true);
                     }
                   },
                   &stop});
  }
  if (raised) throw *raised;
}

void bind_regression_sums(const py::array& raw, const py::object& y, const py::object& weight, const py::object& sums, int n_threads) {
  with_raw(raw, [&](const auto& r) {
    const double* target = read_array<double>(y, "y", {r.n_rows});
    const double* w = read_weight(weight, r.n_rows);
    double* out = write_array<double>(sums, "sums", {r.n_models, 4});
    released(n_threads, [&](const MetricJob& job) { regression_sums(r, target, w, out, job); });
  });
}

void bind_probability_sums(const py::array& raw, const py::object& codes, const py::object& weight, int link, const py::object& sums,
                           int n_threads) {
  with_raw(raw, [&](const auto& r) {
    const std::int32_t* c = read_codes(codes, r.n_rows, r.n_outputs);
    const double* w = read_weight(weight, r.n_rows);
    double* out = write_array<double>(sums, "sums", {r.n_models, 2});
    if (link < 0 || link > 2 || (link == 1) != (r.n_outputs > 1)) wrong_value("link", std::to_string(link), "one that fits n_outputs");
    released(n_threads, [&](const MetricJob& job) { probability_sums(r, c, w, static_cast<Link>(link), out, job); });
  });
}

void bind_label_counts(const py::array& raw, const py::object& codes, const py::object& weight, const py::object& threshold,
                       std::int64_t k, const py::object& hits, const py::object& predicted, const py::object& confusion,
                       const py::object& top, const py::object& invalid, int n_threads) {
  with_raw(raw, [&](const auto& r) {
    const std::int32_t* c = read_codes(codes, r.n_rows, r.n_outputs);
    const double* w = read_weight(weight, r.n_rows);
    const double* t = read_array<double>(threshold, "threshold", {r.n_models});
    const std::int64_t m = r.n_models, n_labels = r.n_outputs == 1 ? 2 : r.n_outputs;
    if (r.n_outputs == 1 && confusion.is_none()) wrong_type("confusion", "None", "an array, for one output");
    const LabelCounts out{write_array<double>(hits, "hits", {m, n_labels}),
                          write_array<double>(predicted, "predicted", {m, n_labels}),
                          confusion.is_none() ? nullptr : write_array<double>(confusion, "confusion", {m, n_labels, n_labels}),
                          write_array<double>(top, "top", {m}),
                          write_array<std::uint8_t>(invalid, "invalid", {m})};
    released(n_threads, [&](const MetricJob& job) { label_counts(r, c, w, t, k, out, job); });
  });
}

void bind_softmax(const py::array& raw, const py::object& out, int n_threads) {
  with_raw(raw, [&](const auto& r) {
    double* to = write_array<double>(out, "out", {r.n_rows, r.n_outputs, r.n_models});
    released(n_threads, [&](const MetricJob& job) { softmax(r, to, job); });
  });
}

RankedItems read_items(const py::object& rows, const py::object& positive, const py::object& weight, std::int64_t n_rows) {
  RankedItems items{};
  items.n_items = n_rows;
  if (!rows.is_none()) {
    items.rows = read_array<std::int64_t>(rows, "rows", {-1});
    items.n_items = py::reinterpret_borrow<py::array>(rows).shape(0);
    for (std::int64_t i = 0; i < items.n_items; ++i)
      if (items.rows[i] < 0 || items.rows[i] >= n_rows)
        wrong_value("rows", std::to_string(items.rows[i]), "rows of 0 to " + std::to_string(n_rows - 1));
  }
  if (items.n_items > std::int64_t{0xffffffff}) wrong_value("raw", std::to_string(items.n_items) + " rows", "at most 2^32 - 1 to rank");
  items.positive = read_array<std::uint8_t>(positive, "positive", {items.n_items});
  items.weight = read_weight(weight, items.n_items);
  return items;
}

void bind_ranking(const py::array& raw, std::int64_t output, const py::object& rows, const py::object& positive,
                  const py::object& weight, const py::object& auc, const py::object& average_precision, int n_threads) {
  with_raw(raw, [&](const auto& r) {
    if (output < 0 || output >= r.n_outputs) wrong_value("output", std::to_string(output), "an output of raw");
    const RankedItems items = read_items(rows, positive, weight, r.n_rows);
    double* area = auc.is_none() ? nullptr : write_array<double>(auc, "auc", {r.n_models});
    double* precision =
        average_precision.is_none() ? nullptr : write_array<double>(average_precision, "average_precision", {r.n_models});
    released(n_threads, [&](const MetricJob& job) { ranking(r, output, items, area, precision, job); });
  });
}

void bind_calibrate(const py::array& raw, const py::object& positive, const py::object& weight, int by, double target, double beta,
                    const py::object& threshold, const py::object& value, int n_threads) {
  with_raw(raw, [&](const auto& r) {
    const RankedItems items = read_items(py::none(), positive, weight, r.n_rows);
    if (by < 0 || by > 3) wrong_value("by", std::to_string(by), "0 to 3");
    double* to = write_array<double>(threshold, "threshold", {r.n_models});
    double* reached = write_array<double>(value, "value", {r.n_models});
    released(n_threads, [&](const MetricJob& job) { calibrate(r, items, static_cast<Calibrate>(by), target, beta, to, reached, job); });
  });
}

}  // namespace

void register_metrics(py::module_& m) {
  using namespace pybind11::literals;
  auto sub = m.def_submodule("metrics", "sums, counts and rankings of raw predictions");
  sub.def("regression_sums", &bind_regression_sums, "raw"_a, "y"_a, "weight"_a, "sums"_a, "n_threads"_a);
  sub.def("probability_sums", &bind_probability_sums, "raw"_a, "codes"_a, "weight"_a, "link"_a, "sums"_a, "n_threads"_a);
  sub.def("label_counts", &bind_label_counts, "raw"_a, "codes"_a, "weight"_a, "threshold"_a, "k"_a, "hits"_a, "predicted"_a, "confusion"_a,
          "top"_a, "invalid"_a, "n_threads"_a);
  sub.def("softmax", &bind_softmax, "raw"_a, "out"_a, "n_threads"_a);
  sub.def("ranking", &bind_ranking, "raw"_a, "output"_a, "rows"_a, "positive"_a, "weight"_a, "auc"_a, "average_precision"_a,
          "n_threads"_a);
  sub.def("calibrate", &bind_calibrate, "raw"_a, "positive"_a, "weight"_a, "by"_a, "target"_a, "beta"_a, "threshold"_a, "value"_a,
          "n_threads"_a);
}

}  // namespace gradfold
