#include "optimum/optimizer.h"

#include <atomic>
#include <cmath>

#include "bind/arrays.h"
#include "bind/folds.h"
#include "gradient/gram.h"
#include "optimum/hessian.h"
#include "threads/team.h"
#include "train/standardize.h"

namespace gradfold {
namespace {

template <class T>
py::tuple bind_cell_moments(const py::array& X, const py::object& y, const py::object& weight, const py::object& order,
                            const py::object& offset, int n_threads) {
  const DenseRows<T> rows{read_array<T>(X, "X", {-1, -1}), X.shape(0), X.shape(1)};
  const T* target = read_array<T>(y, "y", {rows.n_rows});
  const T* w = weight.is_none() ? nullptr : read_array<T>(weight, "weight", {rows.n_rows});
  const std::int64_t* list = read_array<std::int64_t>(order, "order", {-1});
  const std::int64_t* cells = read_array<std::int64_t>(offset, "offset", {-1});
  const std::int64_t n_listed = py::reinterpret_borrow<py::array>(order).shape(0);
  const std::int64_t n_cells = py::reinterpret_borrow<py::array>(offset).shape(0) - 1;
  if (n_cells < 1 || cells[0] != 0 || cells[n_cells] != n_listed) wrong_value("offset", "other ends", "0 first and len(order) last");
  for (std::int64_t c = 0; c < n_cells; ++c)
    if (cells[c] > cells[c + 1]) wrong_value("offset", "a number below the one before", "ascending numbers");
  for (std::int64_t i = 0; i < n_listed; ++i)
    if (list[i] < 0 || list[i] >= rows.n_rows) wrong_value("order", std::to_string(list[i]), "rows of X");
  const std::int64_t size = rows.n_features + 1;
  py::array_t<double> sum(n_cells), mean({n_cells, size}), comoment({n_cells, size, size});
  const CellMoments out{sum.mutable_data(), mean.mutable_data(), comoment.mutable_data()};
  int stop = 0;
  Signals signals([&stop] { __atomic_store_n(&stop, 1, __ATOMIC_RELAXED); });
  {
    const NoGil released;  // reads X, and the arrays written are this call's own
    cell_moments(rows, target, w, list, cells, n_cells, out, n_threads, [&] { signals(); }, &stop);
  }
  signals.rethrow();
  return py::make_tuple(sum, mean, comoment);
}

double bind_add_moments(double weight, const py::object& mean, const py::object& comoment, double other_weight, const py::object& other_mean,
                        const py::object& other_comoment) {
  const std::int64_t n = py::len(mean);
  double* own_mean = write_array<double>(mean, "mean", {n});
  double* own = write_array<double>(comoment, "comoment", {n, n});
  const double* from_mean = read_array<double>(other_mean, "other_mean", {n});
  const double* from = read_array<double>(other_comoment, "other_comoment", {n, n});
  const NoGil released;  // the arrays are held by the caller's arguments
  return add_moments(n, weight, own_mean, own, other_weight, from_mean, from);
}

py::array_t<double> bind_column_scales(double weight, const py::object& mean, const py::object& comoment, std::int64_t n_rows) {
  const std::int64_t columns = py::len(mean);
  if (columns < 1) wrong_value("mean", "no column", "at least one");
  const double* own_mean = read_array<double>(mean, "mean", {columns});
  const double* own = read_array<double>(comoment, "comoment", {columns, columns});
  py::array_t<double> out(columns - 1);
  column_scales(columns - 1, n_rows, weight, own_mean, own, out.mutable_data());
  return out;
}

template <class T>
py::tuple bind_split_moments(const py::array& X, const py::object& weight, const py::object& ids, const py::object& conditions,
                             const py::object& of, int n_threads) {
  const std::int64_t* chosen = read_array<std::int64_t>(of, "splits", {-1});
  const std::vector<std::int64_t> splits(chosen, chosen + py::reinterpret_borrow<py::array>(of).shape(0));
  const DenseRows<T> rows{read_array<T>(X, "X", {-1, -1}), X.shape(0), X.shape(1)};
  const T* w = weight.is_none() ? nullptr : read_array<T>(weight, "weight", {rows.n_rows});
  const FoldsView folds = folds_view(ids, conditions, rows.n_rows);
  for (const std::int64_t s : splits)
    if (s < 0 || s >= folds.n_splits) wrong_value("splits", std::to_string(s), "splits of the folds");
  int stop = 0;
  Signals signals([&stop] { __atomic_store_n(&stop, 1, __ATOMIC_RELAXED); });
  SplitMoments moments;
  SplitWeights weights;
  {
    const NoGil released;  // reads X and the folds
    weights = split_weights(folds, splits, w, n_threads, [&] { signals(); }, &stop);
    moments = split_moments(rows, folds, splits, weights, w, n_threads, [&] { signals(); }, &stop);
  }
  signals.rethrow();
  py::array_t<double> sum(folds.n_splits), mean({folds.n_splits, rows.n_features}), scale({folds.n_splits, rows.n_features});
  std::copy(weights.sum.begin(), weights.sum.end(), sum.mutable_data());
  std::copy(moments.mean.begin(), moments.mean.end(), mean.mutable_data());
  std::copy(moments.scale.begin(), moments.scale.end(), scale.mutable_data());
  return py::make_tuple(sum, mean, scale);
}

// A pass over X that Python takes: evaluate(W, intercept, split_of_model, loss_epsilon, sampled, scores) is to return the losses of the
// models and the sums [n_features + 1][n_models] of their gradients, the intercept's last, or, of the rows that are scored, mean losses and None.
template <class T>
void evaluate_in_python(const py::handle& evaluate, const LossGradientArgs<T>& call) {
  while (finalizing()) pause();  // as in NoGil
  const py::gil_scoped_acquire acquire;
  const std::int64_t n = call.n_models, p = call.X.n_features;
  const bool scores = call.use == Use::score;
  const py::object epsilon = call.loss_epsilon == nullptr ? py::object(py::none()) : py::array_t<double>(n, call.loss_epsilon);
  // Copies, so that whoever keeps them reads no memory that is gone.
  const py::object found = evaluate(py::array_t<T>({p, n}, call.W), py::array_t<T>(n, call.intercept),
                                    py::array_t<std::int64_t>(n, call.split_of_model), epsilon, call.rows != nullptr, scores);
  if (!py::isinstance<py::tuple>(found) || py::len(found) != 2) wrong_type("evaluate", type_text(found), "a tuple (losses, sums)");
  const auto results = py::reinterpret_borrow<py::tuple>(found);
  std::copy_n(read_array<double>(results[0], "evaluate (losses)", {n}), n, call.loss_out);
  if (scores) return;
  const double* total = read_array<double>(results[1], "evaluate (sums)", {p + 1, n});
  std::copy_n(total, p * n, call.total_W);
  std::copy_n(total + p * n, n, call.total_intercept);
}

// The Python object: an Optimizer, and the arrays that it points into.
class BoundOptimizer {
 public:
  template <class T>
  void create(const py::array& X, const py::object& y, const py::object& sample_weight, const py::object& ids,
              const py::object& conditions, const py::object& split_of_model, const std::string& loss, const py::object& loss_epsilon,
              std::int64_t n_outputs, const py::object& l1, const py::object& l2, bool fit_intercept, bool standardize, bool exact, const py::object& weight_sum,
              const py::object& mean, const py::object& scale, const py::object& comoment, const py::object& coef_init,
              const py::object& intercept_init, std::int64_t max_iter, double tol, std::int64_t refresh, int n_threads, const py::object& held_out_weight,
              const py::object& validation, const py::object& sample, const py::object& sample_weight_sum, const py::object& scored, const py::object& left_out, const py::object& evaluate,
              const py::object& y_square) {
    OptimumArgs<T> a{};
    a.X.x = read_array<T>(X, "X", {-1, -1});
    const std::int64_t n = a.X.n_rows = X.shape(0), p = a.X.n_features = X.shape(1);
    if (n < 1 || p < 1) wrong_value("X", "shape " + shape_text(X), "at least one row and one feature");
    const std::int64_t m = static_cast<std::int64_t>(py::reinterpret_borrow<py::array>(split_of_model).size());
    if (m < 1) wrong_value("split_of_model", "no model", "at least one");
    a.y = read_array<T>(y, "y", {n});
    a.weight = sample_weight.is_none() ? nullptr : read_array<T>(sample_weight, "sample_weight", {n});
    a.folds = folds_view(ids, conditions, n);
    const std::int64_t* splits = split_of_model_array(split_of_model, m, a.folds.n_splits);
    a.split_of_model.assign(splits, splits + m);
    a.loss = parse_loss(loss);
    const bool several = a.loss == Loss::multinomial;
    if (several ? n_outputs < 2 || n_outputs > kMaxOutputs : n_outputs != 1)
      wrong_value("n_outputs", std::to_string(n_outputs), several ? "2 to " + std::to_string(kMaxOutputs) : "1 for loss '" + loss + "'");
    a.n_outputs = n_outputs;
    if (curvature_at_zero(a.loss, n_outputs) == 0) wrong_value("loss", "'" + loss + "'", "a loss with a second derivative");
    if (exact && a.loss != Loss::squared_error) wrong_value("loss", "'" + loss + "'", "'squared_error' for exact");
    auto per_model = [m](const py::object& h, const char* name) {
      const double* v = read_array<double>(h, name, {m});
      for (std::int64_t i = 0; i < m; ++i)
        if (!(v[i] >= 0 && v[i] < HUGE_VAL)) wrong_value(name, std::to_string(v[i]), "finite numbers of at least 0");
      return std::vector<double>(v, v + m);
    };
    if (!loss_epsilon.is_none()) a.loss_epsilon = per_model(loss_epsilon, "loss_epsilon");
    if (!l1.is_none()) a.l1 = per_model(l1, "l1");
    if (!a.l1.empty() && (exact || (a.loss != Loss::squared_error && a.loss != Loss::log_loss)))
      wrong_value("l1", "an array", "None but for squared_error and log_loss");
    a.l2 = per_model(l2, "l2");
    a.fit_intercept = fit_intercept;
    a.standardize = standardize;
    a.exact = exact;
    const std::int64_t n_splits = a.folds.n_splits;
    const double* sums = read_array<double>(weight_sum, "weight_sum", {n_splits});
    const double* means = read_array<double>(mean, "mean", {n_splits, p + 1});
    const double* scales = read_array<double>(scale, "scale", {n_splits, p});
    const double* comoments = comoment.is_none() ? nullptr : read_array<double>(comoment, "comoment", {n_splits, p + 1, p + 1});
    if (exact && comoments == nullptr) wrong_value("comoment", "None", "an array for exact");
    const double* squares = y_square.is_none() ? nullptr : read_array<double>(y_square, "y_square", {n_splits});
    for (std::int64_t s = 0; s < n_splits; ++s)
      a.sums.push_back({sums[s], means + s * (p + 1), scales + s * p, comoments == nullptr ? nullptr : comoments + s * (p + 1) * (p + 1),
                        squares == nullptr ? 0.0 : squares[s]});
    if (!scored.is_none()) {
      const auto given = py::cast<py::tuple>(scored);
      if (py::len(given) != 3 || a.loss != Loss::squared_error) wrong_value("scored", type_text(scored), "(weight, mean, comoment) of squared_error");
      const double* weight = read_array<double>(given[0], "scored[0]", {n_splits});
      const double* own_mean = read_array<double>(given[1], "scored[1]", {n_splits, p + 1});
      const double* own = read_array<double>(given[2], "scored[2]", {n_splits, p + 1, p + 1});
      for (std::int64_t s = 0; s < n_splits; ++s) a.scored.push_back({weight[s], own_mean + s * (p + 1), nullptr, own + s * (p + 1) * (p + 1), 0.0});
    }
    std::vector<std::int64_t> coef_shape{m, p}, intercept_shape{m};
    if (several) coef_shape = {m, n_outputs, p}, intercept_shape = {m, n_outputs};
    a.coef_init = coef_init.is_none() ? nullptr : read_array<double>(coef_init, "coef_init", coef_shape);
    a.intercept_init = intercept_init.is_none() ? nullptr : read_array<double>(intercept_init, "intercept_init", intercept_shape);
    if (max_iter < 0) wrong_value("max_iter", std::to_string(max_iter), "at least 0");
    if (!(tol >= 0 && tol < HUGE_VAL)) wrong_value("tol", std::to_string(tol), "a finite number of at least 0");
    if (n_threads < 1) wrong_value("n_threads", std::to_string(n_threads), "at least 1");
    a.max_iter = max_iter;
    a.tol = tol;
    if (refresh < 0) wrong_value("refresh", std::to_string(refresh), "at least 0");
    if (refresh > 0 && (comoments == nullptr || !has_hessian(a.loss)))
      wrong_value("refresh", std::to_string(refresh), "0 for a loss of several outputs, and without comoments");
    a.refresh = refresh;
    if (!sample.is_none()) {
      a.sample = read_array<std::int64_t>(sample, "sample", {-1});
      a.n_sample = py::reinterpret_borrow<py::array>(sample).shape(0);
      for (std::int64_t i = 0; i < a.n_sample; ++i)
        if (a.sample[i] < 0 || a.sample[i] >= n) wrong_value("sample", std::to_string(a.sample[i]), "rows of X");
      a.sample_weight.assign(n_splits, 0.0);
      if (!sample_weight_sum.is_none()) {
        const double* sum = read_array<double>(sample_weight_sum, "sample_weight_sum", {n_splits});
        a.sample_weight.assign(sum, sum + n_splits);
      }
    }
    if (!left_out.is_none()) {
      if (!exact || standardize || n_splits != 1) wrong_value("left_out", "an array", "None but for exact, without standardize, of one split");
      const std::int64_t* rows = read_array<std::int64_t>(left_out, "left_out", {m});
      for (std::int64_t i = 0; i < m; ++i)
        if (rows[i] < 0 || rows[i] >= n) wrong_value("left_out", std::to_string(rows[i]), "rows of X");
      a.left_out.assign(rows, rows + m);
    }
    a.n_threads = n_threads;
    if (!evaluate.is_none()) {
      if (!PyCallable_Check(evaluate.ptr())) wrong_type("evaluate", type_text(evaluate), "a callable or None");
      if (several) wrong_value("evaluate", "a callable", "None for a loss of several outputs");
      a.evaluate = [evaluate = py::handle(evaluate)](const LossGradientArgs<T>& call) { evaluate_in_python(evaluate, call); };
    }
    a.held_out_weight = held_out_weight.is_none() ? nullptr : read_array<T>(held_out_weight, "held_out_weight", {n});
    if (!validation.is_none()) {
      const auto given = py::cast<py::tuple>(validation);
      if (py::len(given) != 3) wrong_type("validation", type_text(validation), "a tuple (X, y, weight or None)");
      a.validation_X = {read_array<T>(given[0], "validation[0]", {-1, p}), py::reinterpret_borrow<py::array>(given[0]).shape(0), p};
      a.validation_y = read_array<T>(given[1], "validation[1]", {a.validation_X.n_rows});
      a.validation_weight = given[2].is_none() ? nullptr : read_array<T>(given[2], "validation[2]", {a.validation_X.n_rows});
    }
    kept_alive_ = py::make_tuple(X, y, sample_weight, ids, conditions, weight_sum, mean, scale, comoment, coef_init, intercept_init,
                                 held_out_weight, validation, sample, scored, evaluate);
    coef_shape_.assign(coef_shape.begin(), coef_shape.end());
    intercept_shape_.assign(intercept_shape.begin(), intercept_shape.end());
    dtype_ = py::dtype::of<T>();
    optimizer_ = make_optimizer(std::move(a));
  }

  std::string advance(std::int64_t max_steps, double seconds) {
    const Exclusive running(busy_, "Optimizer.advance: already running in another thread");
    Optimizer* const optimizer = optimizer_.get();
    Signals signals([optimizer] { optimizer->cancel(); });
    Status status;
    {
      const NoGil released;  // passes over X touch no Python object, or take it back; other Python threads go on meanwhile
      status = optimizer->advance(max_steps, seconds, [&] { signals(); });
    }
    signals.rethrow();
    return status == Status::done ? "done" : status == Status::paused ? "paused" : "interrupted";
  }
  void cancel() { optimizer_->cancel(); }
  py::array coef() const {
    py::array out(dtype_, coef_shape_);
    resting().coef(out.mutable_data());
    return out;
  }
  py::array intercept() const {
    py::array out(dtype_, intercept_shape_);
    resting().intercept(out.mutable_data());
    return out;
  }
  py::array_t<double> held_out() const { return copied<double>(resting().held_out()); }
  py::dict arrivals() const {
    using namespace pybind11::literals;
    const Arrivals& a = resting().arrivals();
    std::vector<std::uint8_t> how;
    for (const Arrival h : a.how) how.push_back(static_cast<std::uint8_t>(h));
    return py::dict("how"_a = copied<std::uint8_t>(how), "n_iter"_a = copied<std::int64_t>(a.n_iter),
                    "n_passes"_a = copied<std::int64_t>(a.n_passes), "n_hessians"_a = copied<std::int64_t>(a.n_hessians), "objective"_a = copied<double>(a.objective),
                    "gradient_norm"_a = copied<double>(a.gradient_norm), "gap"_a = copied<double>(a.gap),
                    "smallest_pivot"_a = copied<double>(a.smallest_pivot), "dropped"_a = copied<std::int64_t>(a.dropped));
  }

 private:
  template <class U>
  static py::array_t<U> copied(const std::vector<U>& values) {
    return py::array_t<U>(static_cast<py::ssize_t>(values.size()), values.data());
  }
  const Optimizer& resting() const {
    if (busy_.load()) throw std::runtime_error("Optimizer: advance() is running; read results when that has returned");
    return *optimizer_;
  }

  std::unique_ptr<Optimizer> optimizer_;
  std::vector<py::ssize_t> coef_shape_, intercept_shape_;
  py::dtype dtype_;
  py::tuple kept_alive_;
  std::atomic<bool> busy_{false};
};

}  // namespace

void register_optimum(py::module_& m) {
  using namespace pybind11::literals;
  auto sub = m.def_submodule("optimum", "many models at their own optima");
  sub.def(
      "cell_moments",
      [](const py::array& X, const py::object& y, const py::object& weight, const py::object& order, const py::object& offset, int n_threads) {
        return (is_float32(X) ? bind_cell_moments<float> : bind_cell_moments<double>)(X, y, weight, order, offset, n_threads);
      },
      "X"_a, "y"_a, "weight"_a, "order"_a, "offset"_a, "n_threads"_a);
  sub.def("column_scales", &bind_column_scales, "weight"_a, "mean"_a, "comoment"_a, "n_rows"_a);
  sub.def("add_moments", &bind_add_moments, "weight"_a, "mean"_a, "comoment"_a, "other_weight"_a, "other_mean"_a, "other_comoment"_a);
  sub.def(
      "split_moments",
      [](const py::array& X, const py::object& weight, const py::object& ids, const py::object& conditions,
         const py::object& splits, int n_threads) {
        return (is_float32(X) ? bind_split_moments<float> : bind_split_moments<double>)(X, weight, ids, conditions, splits, n_threads);
      },
      "X"_a, "weight"_a, "ids"_a, "conditions"_a, "splits"_a, "n_threads"_a);
  py::class_<BoundOptimizer>(sub, "Optimizer")
      .def(py::init([](const py::array& X, const py::object& y, const py::object& sample_weight, const py::object& ids,
                       const py::object& conditions, const py::object& split_of_model, const std::string& loss,
                       const py::object& loss_epsilon, std::int64_t n_outputs, const py::object& l1, const py::object& l2, bool fit_intercept,
                       bool standardize, bool exact, const py::object& weight_sum, const py::object& mean, const py::object& scale,
                       const py::object& comoment, const py::object& coef_init, const py::object& intercept_init,
                       std::int64_t max_iter, double tol, std::int64_t refresh, int n_threads, const py::object& held_out_weight,
                       const py::object& validation, const py::object& sample, const py::object& sample_weight_sum, const py::object& scored, const py::object& left_out,
                       const py::object& evaluate, const py::object& y_square) {
             auto self = std::make_unique<BoundOptimizer>();
             auto create = [&]<class T>(T) {
               self->create<T>(X, y, sample_weight, ids, conditions, split_of_model, loss, loss_epsilon, n_outputs, l1, l2, fit_intercept,
                               standardize, exact, weight_sum, mean, scale, comoment, coef_init, intercept_init, max_iter, tol,
                               refresh, n_threads, held_out_weight, validation, sample, sample_weight_sum, scored, left_out, evaluate,
                               y_square);
             };
             if (is_float32(X))
               create(0.0f);
             else
               create(0.0);
             return self;
           }),
           py::kw_only(), "X"_a, "y"_a, "sample_weight"_a, "ids"_a, "conditions"_a, "split_of_model"_a, "loss"_a, "loss_epsilon"_a,
           "n_outputs"_a, "l1"_a, "l2"_a, "fit_intercept"_a, "standardize"_a, "exact"_a, "weight_sum"_a, "mean"_a, "scale"_a, "comoment"_a,
           "coef_init"_a, "intercept_init"_a, "max_iter"_a, "tol"_a, "refresh"_a, "n_threads"_a, "held_out_weight"_a = py::none(),
           "validation"_a = py::none(), "sample"_a = py::none(), "sample_weight_sum"_a = py::none(), "scored"_a = py::none(), "left_out"_a = py::none(),
           "evaluate"_a = py::none(), "y_square"_a = py::none())
      .def("advance", &BoundOptimizer::advance, "max_steps"_a = -1, "seconds"_a = -1.0)
      .def("cancel", &BoundOptimizer::cancel)
      .def("coef", &BoundOptimizer::coef)
      .def("intercept", &BoundOptimizer::intercept)
      .def("held_out", &BoundOptimizer::held_out)
      .def("arrivals", &BoundOptimizer::arrivals);
}

}  // namespace gradfold
