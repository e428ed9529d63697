#include "gradient/gradient.h"

#include "bind/arrays.h"
#include "bind/folds.h"
#include "threads/team.h"

namespace gradfold {
namespace {

template <class T>
void bind_loss_gradient(const py::array& X, const py::object& y, const py::object& W, const py::object& intercept,
                        const std::string& loss, bool mean, const py::object& rows, const py::object& ids,
                        const py::object& conditions, const py::object& split_of_model, const py::object& sample_weight,
                        const py::object& loss_out, const py::object& grad_W, const py::object& grad_intercept, int n_threads,
                        const py::object& loss_epsilon) {
  LossGradientArgs<T> args{};
  args.X.x = read_array<T>(X, "X", {-1, -1});
  const std::int64_t n = X.shape(0), p = X.shape(1);
  args.X.n_rows = n;
  args.X.n_features = p;
  args.y = read_array<T>(y, "y", {n});
  args.loss = parse_loss(loss);
  // A loss of several outputs has them as an axis of their own, before the models.
  const bool several = args.loss == Loss::multinomial;
  args.W = read_array<T>(W, "W", several ? std::vector<std::int64_t>{p, -1, -1} : std::vector<std::int64_t>{p, -1});
  const auto W_array = py::reinterpret_borrow<py::array>(W);
  const std::int64_t m = args.n_models = W_array.shape(W_array.ndim() - 1);
  const std::int64_t outputs = args.n_outputs = several ? W_array.shape(1) : 1;
  if (p < 1 || m < 1) wrong_value(p < 1 ? "X" : "W", "no column", "at least one");
  if (several && (outputs < 2 || outputs > kMaxOutputs))
    wrong_value("W", std::to_string(outputs) + " outputs", "2 to " + std::to_string(kMaxOutputs));
  const std::vector<std::int64_t> per_model = several ? std::vector<std::int64_t>{outputs, m} : std::vector<std::int64_t>{m};
  std::vector<std::int64_t> per_feature = per_model;
  per_feature.insert(per_feature.begin(), p);
  args.intercept = intercept.is_none() ? nullptr : read_array<T>(intercept, "intercept", per_model);
  args.loss_epsilon = loss_epsilon.is_none() ? nullptr : read_array<double>(loss_epsilon, "loss_epsilon", {m});
  args.weight = sample_weight.is_none() ? nullptr : read_array<T>(sample_weight, "sample_weight", {n});
  args.n_positions = n;
  if (!rows.is_none()) {
    args.rows = read_array<std::int64_t>(rows, "rows", {-1});
    args.n_positions = py::reinterpret_borrow<py::array>(rows).shape(0);
    for (std::int64_t i = 0; i < args.n_positions; ++i)
      if (args.rows[i] < 0 || args.rows[i] >= n)
        wrong_value("rows", std::to_string(args.rows[i]) + " at position " + std::to_string(i),
                    "row numbers in [0, " + std::to_string(n) + ")");
  }
  FoldsView folds;
  if (!ids.is_none()) {
    folds = folds_view(ids, conditions, n);
    args.folds = &folds;
    args.split_of_model = split_of_model_array(split_of_model, m, folds.n_splits);
  }
  args.mean = mean;
  args.loss_out = loss_out.is_none() ? nullptr : write_array<double>(loss_out, "loss_out", {m});
  args.grad_W = grad_W.is_none() ? nullptr : write_array<T>(grad_W, "grad_W", per_feature);
  args.grad_intercept = grad_intercept.is_none() ? nullptr : write_array<T>(grad_intercept, "grad_intercept", per_model);
  args.n_threads = n_threads;
  const NoGil released;  // pure arithmetic over raw pointers; the arrays are held by the caller's arguments
  loss_gradient(args);
}

template <class T>
void bind_raw_prediction(const py::array& X, const py::object& W, const py::object& intercept, const py::object& out, int n_threads) {
  const DenseRows<T> rows{read_array<T>(X, "X", {-1, -1}), X.shape(0), X.shape(1)};
  if (rows.n_features < 1) wrong_value("X", "shape " + shape_text(X), "at least one feature");
  const T* w = read_array<T>(W, "W", {rows.n_features, -1});
  const std::int64_t m = py::reinterpret_borrow<py::array>(W).shape(1);
  const T* b = intercept.is_none() ? nullptr : read_array<T>(intercept, "intercept", {m});
  T* z = write_array<T>(out, "out", {rows.n_rows, m});
  const NoGil released;  // as above
  raw_prediction(rows, w, b, m, z, n_threads);
}

template <class T>
void bind_raw_prediction_of_rows(const py::array& X, const py::object& rows, const py::object& W, const py::object& intercept,
                                 const py::object& out, int n_threads) {
  const DenseRows<T> data{read_array<T>(X, "X", {-1, -1}), X.shape(0), X.shape(1)};
  if (data.n_features < 1) wrong_value("X", "shape " + shape_text(X), "at least one feature");
  const std::int64_t* list = read_array<std::int64_t>(rows, "rows", {-1});
  const std::int64_t n = py::reinterpret_borrow<py::array>(rows).shape(0);
  for (std::int64_t i = 0; i < n; ++i)
    if (list[i] < 0 || list[i] >= data.n_rows) wrong_value("rows", std::to_string(list[i]), "rows of X");
  const double* w = read_array<double>(W, "W", {data.n_features, -1});
  const std::int64_t m = py::reinterpret_borrow<py::array>(W).shape(1);
  const double* b = intercept.is_none() ? nullptr : read_array<double>(intercept, "intercept", {m});
  double* z = write_array<double>(out, "out", {n, m});
  const NoGil released;  // as above
  raw_prediction_of_rows(data, list, n, w, b, m, z, n_threads);
}

template <class T>
py::object bind_first_non_finite(const py::array& a, int n_threads) {
  const std::int64_t columns = a.ndim() == 2 ? a.shape(1) : 1;
  const T* data = a.ndim() == 2 ? read_array<T>(a, "A", {-1, -1}) : read_array<T>(a, "A", {-1});
  std::int64_t at;
  {
    const NoGil released;  // reads memory only
    at = first_non_finite(data, static_cast<std::int64_t>(a.size()), n_threads);
  }
  if (at < 0) return py::none();
  return py::make_tuple(at / columns, at % columns);
}

}  // namespace

void register_gradient(py::module_& m) {
  auto sub = m.def_submodule("gradient", "batched loss-gradient of many models");
  using namespace pybind11::literals;
  sub.def(
      "loss_gradient",
      [](const py::array& X, const py::object& y, const py::object& W, const py::object& intercept, const std::string& loss,
         bool mean, const py::object& rows, const py::object& ids, const py::object& conditions,
         const py::object& split_of_model, const py::object& sample_weight, const py::object& loss_out,
         const py::object& grad_W, const py::object& grad_intercept, int n_threads, const py::object& loss_epsilon) {
        (is_float32(X) ? bind_loss_gradient<float> : bind_loss_gradient<double>)(
            X, y, W, intercept, loss, mean, rows, ids, conditions, split_of_model, sample_weight, loss_out, grad_W,
            grad_intercept, n_threads, loss_epsilon);
      },
      "X"_a, "y"_a, "W"_a, "intercept"_a, "loss"_a, "mean"_a, "rows"_a, "ids"_a, "conditions"_a, "split_of_model"_a,
      "sample_weight"_a, "loss_out"_a, "grad_W"_a, "grad_intercept"_a, "n_threads"_a, "loss_epsilon"_a = py::none());
  sub.def(
      "raw_prediction",
      [](const py::array& X, const py::object& W, const py::object& intercept, const py::object& out, int n_threads) {
        (is_float32(X) ? bind_raw_prediction<float> : bind_raw_prediction<double>)(X, W, intercept, out, n_threads);
      },
      "X"_a, "W"_a, "intercept"_a, "out"_a, "n_threads"_a);
  sub.def(
      "raw_prediction_of_rows",
      [](const py::array& X, const py::object& rows, const py::object& W, const py::object& intercept, const py::object& out, int n_threads) {
        (is_float32(X) ? bind_raw_prediction_of_rows<float> : bind_raw_prediction_of_rows<double>)(X, rows, W, intercept, out, n_threads);
      },
      "X"_a, "rows"_a, "W"_a, "intercept"_a, "out"_a, "n_threads"_a);
  sub.def(
      "first_non_finite",
      [](const py::array& A, int n_threads) {
        return (is_float32(A) ? bind_first_non_finite<float> : bind_first_non_finite<double>)(A, n_threads);
      },
      "A"_a, "n_threads"_a);
  sub.def("available_cores", &available_cores, "Cores this process may run on.");
}

}  // namespace gradfold
