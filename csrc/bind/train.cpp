#include "train/train.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>

#include "bind/arrays.h"
#include "bind/folds.h"

namespace gradfold {
namespace {

std::string number_text(double v) { return py::cast<std::string>(py::repr(py::float_(v))); }

// The `hyper` dict {name: (n_models,) float64}, and the checks of every hyper-parameter.
template <class T>
void read_hyper(const py::dict& hyper, TrainArgs<T>& a) {
  const std::int64_t m = static_cast<std::int64_t>(a.split_of_model.size());
  for (const auto& [key, array] : hyper) {
    if (!py::isinstance<py::str>(key)) wrong_type("hyper", "a key of type " + type_text(key), "names");
    const std::string name = py::cast<std::string>(key);
    const int h = hyper_index(name);
    if (h < 0) wrong_value("hyper", "'" + name + "'", hyper_names());
    const double* v = read_array<double>(array, name.c_str(), {m});
    a.hyper[h].assign(v, v + m);
    for (double value : a.hyper[h])
      if (const char* wanted = hyper_wanted(static_cast<Hyper>(h), value, sizeof(T) == 4)) wrong_value(name.c_str(), number_text(value), wanted);
  }
  const std::pair<const char*, const std::vector<double>*> own[] = {{"learning_rate", &a.learning_rate}, {"l1", &a.l1}, {"l2", &a.l2}};
  for (const auto& [name, values] : own)
    for (double value : *values)
      if (!(value >= 0 && value < HUGE_VAL)) wrong_value(name, number_text(value), "a finite number of at least 0");
  for (std::int64_t i = 0; i < m; ++i) {
    const std::int64_t schedule = a.schedule[i];
    if (schedule < 0 || schedule >= kSchedules) wrong_value("schedule", std::to_string(schedule), "0 to " + std::to_string(kSchedules - 1));
    if (schedule == static_cast<std::int64_t>(Schedule::optimal) && !(a.l2[i] > 0))
      wrong_value("l2", number_text(a.l2[i]) + " under the schedule 'optimal'", "a number above 0");
  }
}

// The Python object: a Trainer, and the arrays that it points into.
class BoundTrainer {
 public:
  template <class T>
  void create(const py::array& X, const py::object& y, const py::object& sample_weight, const py::object& ids,
              const py::object& conditions, const py::object& split_of_model, const std::string& loss, const std::string& solver,
              const py::object& l1, const py::object& l2, const py::object& learning_rate, const py::object& schedule,
              std::int64_t epochs, std::int64_t batch_size, bool shuffle, std::uint64_t seed, bool fit_intercept, bool standardize,
              const py::object& coef_init, const py::object& intercept_init, int n_threads, const py::dict& hyper) {
    TrainArgs<T> a{};
    a.X.x = read_array<T>(X, "X", {-1, -1});
    const std::int64_t n = a.X.n_rows = X.shape(0), p = a.X.n_features = X.shape(1);
    if (n < 1 || p < 1) wrong_value("X", "shape " + shape_text(X), "at least one row and one feature");
    if (!py::isinstance<py::array>(split_of_model)) wrong_type("split_of_model", type_text(split_of_model), "an int64 array");
    const std::int64_t m = static_cast<std::int64_t>(py::reinterpret_borrow<py::array>(split_of_model).size());
    if (m < 1) wrong_value("split_of_model", "no model", "at least one");
    a.y = read_array<T>(y, "y", {n});
    a.weight = sample_weight.is_none() ? nullptr : read_array<T>(sample_weight, "sample_weight", {n});
    a.folds = folds_view(ids, conditions, n);
    const std::int64_t* splits = split_of_model_array(split_of_model, m, a.folds.n_splits);
    a.split_of_model.assign(splits, splits + m);
    auto per_model = [m](const py::object& h, const char* name) {
      const double* v = read_array<double>(h, name, {m});
      return std::vector<double>(v, v + m);
    };
    a.l1 = per_model(l1, "l1");
    a.l2 = per_model(l2, "l2");
    a.learning_rate = per_model(learning_rate, "learning_rate");
    const std::int32_t* s = read_array<std::int32_t>(schedule, "schedule", {m});
    a.schedule.assign(s, s + m);
    a.loss = parse_loss(loss);
    if (solver_index(solver) < 0) wrong_value("solver", "'" + solver + "'", solver_names());
    a.solver = static_cast<Solver>(solver_index(solver));
    read_hyper(hyper, a);
    if (epochs < 1 || epochs > 0xffffffffll) wrong_value("epochs", std::to_string(epochs), "1 to 2^32 - 1");
    if (batch_size < 1) wrong_value("batch_size", std::to_string(batch_size), "at least 1");
    if (n_threads < 1) wrong_value("n_threads", std::to_string(n_threads), "at least 1");
    a.epochs = epochs;
    a.batch_size = std::min(batch_size, n);  // the same batches, and no product of it can overflow
    a.shuffle = shuffle;
    a.seed = seed;
    a.fit_intercept = fit_intercept;
    a.standardize = standardize;
    a.coef_init = coef_init.is_none() ? nullptr : read_array<double>(coef_init, "coef_init", {m, p});
    a.intercept_init = intercept_init.is_none() ? nullptr : read_array<double>(intercept_init, "intercept_init", {m});
    a.n_threads = n_threads;
    n_models_ = m;
    n_features_ = p;
    dtype_ = py::dtype::of<T>();
    kept_alive_ = py::make_tuple(X, y, sample_weight, ids, conditions, coef_init, intercept_init);
    trainer_ = make_trainer(std::move(a));
  }

  std::string advance(std::int64_t max_steps, double seconds) {
    if (busy_.exchange(true)) throw std::runtime_error("Trainer.advance: already running in another thread");
    struct Idle {
      std::atomic<bool>& busy;
      ~Idle() { busy.store(false); }
    } idle{busy_};
    Trainer* const trainer = &made();
    std::optional<py::error_already_set> raised;
    Status status;
    {
      const NoGil released;  // the epochs touch no Python object; other Python threads go on meanwhile
      status = trainer->advance(max_steps, seconds, [&] {
        if (finalizing()) return trainer->cancel();  // a daemon thread at exit: the GIL cannot be had any more
        py::gil_scoped_acquire acquire;  // Python's own signal handlers run here, on the thread that called advance
        if (!raised && PyErr_CheckSignals() != 0) {
          raised.emplace();
          trainer->cancel();
        }
      });
    }
    if (raised) throw *raised;
    return status == Status::done ? "done" : status == Status::paused ? "paused" : "interrupted";
  }

  void cancel() { made().cancel(); }
  py::array coef() const {
    py::array out(dtype_, std::vector<py::ssize_t>{n_models_, n_features_});
    resting().coef(out.mutable_data());
    return out;
  }
  py::array intercept() const {
    py::array out(dtype_, std::vector<py::ssize_t>{n_models_});
    resting().intercept(out.mutable_data());
    return out;
  }
  py::array_t<std::int64_t> steps() const {
    py::array_t<std::int64_t> out(n_models_);
    resting().steps(out.mutable_data());
    return out;
  }
  std::int64_t epochs_done() const { return static_cast<std::int64_t>(resting().history().size()); }
  py::array_t<double> history() const {
    py::array_t<double> out({static_cast<py::ssize_t>(epochs_done()), static_cast<py::ssize_t>(n_models_)});
    double* to = out.mutable_data();
    for (const auto& epoch : resting().history()) to = std::copy(epoch.begin(), epoch.end(), to);
    return out;
  }
  py::array_t<std::int64_t> diverged_epoch() const { return copied(resting().diverged_epoch()); }
  py::array_t<std::int64_t> diverged_batch() const { return copied(resting().diverged_batch()); }

 private:
  Trainer& made() const {
    if (!trainer_) throw std::runtime_error("Trainer: not initialised");
    return *trainer_;
  }
  // For whatever reads results: workers of a running advance() are writing them.
  Trainer& resting() const {
    if (busy_.load()) throw std::runtime_error("Trainer: advance() is running; its results can be read when it has returned");
    return made();
  }
  static py::array_t<std::int64_t> copied(const std::vector<std::int64_t>& v) {
    return py::array_t<std::int64_t>(static_cast<py::ssize_t>(v.size()), v.data());
  }
  std::unique_ptr<Trainer> trainer_;
  std::int64_t n_models_ = 0, n_features_ = 0;
  py::dtype dtype_;
  py::tuple kept_alive_;
  std::atomic<bool> busy_{false};
};

}  // namespace

void register_train(py::module_& m) {
  using namespace pybind11::literals;
  auto sub = m.def_submodule("train", "many models in lock-step");
  py::class_<BoundTrainer>(sub, "Trainer")
      .def(py::init([](const py::array& X, const py::object& y, const py::object& sample_weight, const py::object& ids,
                       const py::object& conditions, const py::object& split_of_model, const std::string& loss,
                       const std::string& solver, const py::object& l1, const py::object& l2, const py::object& learning_rate,
                       const py::object& schedule, std::int64_t epochs, std::int64_t batch_size, bool shuffle, std::uint64_t seed,
                       bool fit_intercept, bool standardize, const py::object& coef_init, const py::object& intercept_init,
                       int n_threads, const py::dict& hyper) {
             auto self = std::make_unique<BoundTrainer>();
             auto create = [&]<class T>(T) {
               self->create<T>(X, y, sample_weight, ids, conditions, split_of_model, loss, solver, l1, l2, learning_rate, schedule,
                               epochs, batch_size, shuffle, seed, fit_intercept, standardize, coef_init, intercept_init, n_threads, hyper);
             };
             if (py::isinstance<py::array_t<float>>(X))
               create(0.0f);
             else
               create(0.0);
             return self;
           }),
           py::kw_only(), "X"_a, "y"_a, "sample_weight"_a, "ids"_a, "conditions"_a, "split_of_model"_a, "loss"_a, "solver"_a, "l1"_a,
           "l2"_a, "learning_rate"_a, "schedule"_a, "epochs"_a, "batch_size"_a, "shuffle"_a, "seed"_a, "fit_intercept"_a,
           "standardize"_a, "coef_init"_a, "intercept_init"_a, "n_threads"_a, "hyper"_a = py::dict())
      .def("advance", &BoundTrainer::advance, "max_steps"_a = -1, "seconds"_a = -1.0)
      .def("cancel", &BoundTrainer::cancel)
      .def("coef", &BoundTrainer::coef)
      .def("intercept", &BoundTrainer::intercept)
      .def("steps", &BoundTrainer::steps)
      .def("history", &BoundTrainer::history)
      .def_property_readonly("epochs_done", &BoundTrainer::epochs_done)
      .def_property_readonly("diverged_epoch", &BoundTrainer::diverged_epoch)
      .def_property_readonly("diverged_batch", &BoundTrainer::diverged_batch);
}

}  // namespace gradfold
