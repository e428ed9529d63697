#include "train/train.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <set>

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
              const py::object& coef_init, const py::object& intercept_init, int n_threads, const py::dict& hyper,
              std::int64_t first_epoch, const py::object& held_out_weight, const py::object& validation, const py::object& moments, bool track_train_loss,
              const py::object& state, std::int64_t n_outputs, const py::object& loss_epsilon) {
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
    const bool several = a.loss == Loss::multinomial;
    if (several ? n_outputs < 2 || n_outputs > kMaxOutputs : n_outputs != 1)
      wrong_value("n_outputs", std::to_string(n_outputs), several ? "2 to " + std::to_string(kMaxOutputs) : "1 for loss '" + loss + "'");
    a.n_outputs = n_outputs;
    if (!loss_epsilon.is_none()) a.loss_epsilon = per_model(loss_epsilon, "loss_epsilon");
    for (double value : a.loss_epsilon)
      if (!(value >= 0 && value < HUGE_VAL)) wrong_value("loss_epsilon", number_text(value), "a finite number of at least 0");
    // What models of several outputs have of weights and intercepts.
    auto shaped = [&](std::vector<std::int64_t> tail) {
      if (several) tail.insert(tail.begin(), n_outputs);
      tail.insert(tail.begin(), m);
      return tail;
    };
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
    a.coef_init = coef_init.is_none() ? nullptr : read_array<double>(coef_init, "coef_init", shaped({p}));
    a.intercept_init = intercept_init.is_none() ? nullptr : read_array<double>(intercept_init, "intercept_init", shaped({}));
    a.n_threads = n_threads;
    if (first_epoch < 0 || first_epoch > 0x100000000ll - epochs)
      wrong_value("first_epoch", std::to_string(first_epoch), "0 to 2^32 - epochs");
    a.first_epoch = first_epoch;
    a.held_out_weight = held_out_weight.is_none() ? nullptr : read_array<T>(held_out_weight, "held_out_weight", {n});
    if (!validation.is_none()) {
      if (!held_out_weight.is_none()) wrong_value("held_out_weight", "an array beside validation", "the weights of validation itself");
      read_validation(validation, p, n_threads, a);
    }
    if (!moments.is_none()) {
      if (!standardize) wrong_value("moments", "moments without standardize", "standardize=True");
      if (!state.is_none()) wrong_value("moments", "moments beside state", "one of them, since a state has moments of its own");
      if (!py::isinstance<py::tuple>(moments) || py::len(moments) != 2) wrong_type("moments", type_text(moments), "a tuple (mean, scale)");
      const auto pair = py::reinterpret_borrow<py::tuple>(moments);
      a.mean = read_array<double>(pair[0], "moments[0]", {a.folds.n_splits, p});
      a.scale = read_array<double>(pair[1], "moments[1]", {a.folds.n_splits, p});
      check_moments("moments[0]", a.mean, "moments[1]", a.scale, a.folds.n_splits * p);
    }
    a.track_train_loss = track_train_loss;
    if (!state.is_none()) a.state = read_state<T>(state, a);
    n_models_ = m;
    const std::vector<std::int64_t> coef_shape = shaped({p}), intercept_shape = shaped({});
    coef_shape_.assign(coef_shape.begin(), coef_shape.end());
    intercept_shape_.assign(intercept_shape.begin(), intercept_shape.end());
    dtype_ = py::dtype::of<T>();
    tracks_train_loss_ = track_train_loss;
    kept_alive_ = py::make_tuple(X, y, sample_weight, ids, conditions, coef_init, intercept_init, held_out_weight, validation, moments);
    trainer_ = make_trainer(std::move(a));
  }

  std::string advance(std::int64_t max_steps, double seconds) {
    const Exclusive running(busy_, "Trainer.advance: already running in another thread");
    Trainer* const trainer = &made();
    Signals signals([trainer] { trainer->cancel(); });
    Status status;
    {
      const NoGil released;  // the epochs touch no Python object; other Python threads go on meanwhile
      status = trainer->advance(max_steps, seconds, [&] { signals(); });
    }
    signals.rethrow();
    return status == Status::done ? "done" : status == Status::paused ? "paused" : "interrupted";
  }

  void cancel() { made().cancel(); }
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
  py::array_t<std::int64_t> steps() const {
    py::array_t<std::int64_t> out(n_models_);
    resting().steps(out.mutable_data());
    return out;
  }
  std::int64_t epochs_done() const { return static_cast<std::int64_t>(resting().history().size()); }
  py::array_t<double> history(std::int64_t first) const {
    if (first < 0 || first > epochs_done()) wrong_value("first", std::to_string(first), "0 to " + std::to_string(epochs_done()));
    py::array_t<double> out({static_cast<py::ssize_t>(epochs_done() - first), static_cast<py::ssize_t>(n_models_)});
    double* to = out.mutable_data();
    const auto& epochs = resting().history();
    for (auto epoch = epochs.begin() + first; epoch != epochs.end(); ++epoch) to = std::copy(epoch->begin(), epoch->end(), to);
    return out;
  }
  std::int64_t steps_per_epoch() const { return made().steps_per_epoch(); }
  py::array_t<bool> alive() const {
    const Trainer& trainer = resting();
    py::array_t<bool> out(n_models_);
    for (std::int64_t m = 0; m < n_models_; ++m) out.mutable_data()[m] = trainer.alive(m);
    return out;
  }
  void finish(const py::object& mask) {
    const bool* chosen = read_array<bool>(mask, "mask", {n_models_});
    change([&](Trainer& trainer) { trainer.finish(chosen); });
  }
  void snapshot(const py::object& mask) {
    const bool* chosen = read_array<bool>(mask, "mask", {n_models_});
    change([&](Trainer& trainer) { trainer.snapshot(chosen); });
  }
  void restore(const py::object& mask) {
    const bool* chosen = read_array<bool>(mask, "mask", {n_models_});
    const std::int64_t missing = resting().first_unremembered(chosen);
    if (missing >= 0)
      wrong_value("mask", "model " + std::to_string(missing) + ", which snapshot() never remembered", "models that it did");
    change([&](Trainer& trainer) { trainer.restore(chosen); });
  }
  void scale_learning_rate(const py::object& factor) {
    const double* by = read_array<double>(factor, "factor", {n_models_});
    for (std::int64_t m = 0; m < n_models_; ++m)
      if (!(by[m] > 0 && by[m] <= std::numeric_limits<double>::max()))
        wrong_value("factor", number_text(by[m]) + " for model " + std::to_string(m), "a finite number above 0");
    change([&](Trainer& trainer) { trainer.scale_learning_rate(by); });
  }
  py::array_t<double> train_loss(bool reset) {
    if (!tracks_train_loss_) throw std::runtime_error("Trainer.train_loss: not tracked; construct with track_train_loss=True");
    py::array_t<double> out(n_models_);
    double* to = out.mutable_data();
    change([&](Trainer& trainer) { trainer.train_loss(to, reset); });
    return out;
  }
  py::dict get_state() {
    py::dict state;
    std::vector<void*> out;
    for (const StateField& field : resting().state_fields()) {
      const py::dtype type = field.type == 't' ? dtype_ : field.type == 'd' ? py::dtype::of<double>() : py::dtype::of<std::int64_t>();
      py::array array(type, std::vector<py::ssize_t>{n_models_, field.height});
      out.push_back(array.mutable_data());
      state[py::str(field.name)] = array;
    }
    Progress progress;
    change([&](Trainer& trainer) { progress = trainer.state(out); });
    if (progress.position >= 0) {
      py::array_t<std::int64_t> position(n_models_);
      std::fill_n(position.mutable_data(), n_models_, progress.position);
      state["position"] = position;
      py::array_t<double> history({static_cast<py::ssize_t>(n_models_), static_cast<py::ssize_t>(progress.history.size())});
      for (std::int64_t m = 0; m < n_models_; ++m)
        for (std::size_t e = 0; e < progress.history.size(); ++e)
          history.mutable_data()[m * static_cast<std::int64_t>(progress.history.size()) + static_cast<std::int64_t>(e)] = progress.history[e][m];
      state["history"] = history;
    }
    state["diverged_epoch"] = copied(progress.diverged_epoch);
    state["diverged_batch"] = copied(progress.diverged_batch);
    py::array_t<bool> finished(n_models_);
    for (std::int64_t m = 0; m < n_models_; ++m) finished.mutable_data()[m] = progress.finished[m] != 0;
    state["finished"] = finished;
    state["train_loss"] = copied(progress.train_loss);
    state["train_weight"] = copied(progress.train_weight);
    return state;
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
  template <class U>
  static py::array_t<U> copied(const std::vector<U>& v) {
    return py::array_t<U>(static_cast<py::ssize_t>(v.size()), v.data());
  }

  template <class F>
  void change(F&& f) {
    Trainer& trainer = made();
    const Exclusive changing(busy_, "Trainer: advance() is running; it can be changed and saved when that has returned");
    const NoGil released;  // copying many models, or setting up over all rows, touches no Python object
    f(trainer);
  }

  static void check_moments(const char* mean_name, const double* mean, const char* scale_name, const double* scale, std::int64_t n) {
    constexpr double most = std::numeric_limits<double>::max();
    for (std::int64_t i = 0; i < n; ++i) {
      if (!(std::fabs(mean[i]) <= most)) wrong_value(mean_name, "a value that is not finite", "finite means");
      if (scale[i] != -1.0 && !(scale[i] > 0 && scale[i] <= most))
        wrong_value(scale_name, number_text(scale[i]), "finite scales above 0, or -1 for a constant column");
    }
  }

  template <class T>
  static void read_validation(const py::object& validation, std::int64_t n_features, int n_threads, TrainArgs<T>& a) {
    if (!py::isinstance<py::tuple>(validation) || py::len(validation) != 3)
      wrong_type("validation", type_text(validation), "a tuple (X, y, weight or None)");
    const auto given = py::reinterpret_borrow<py::tuple>(validation);
    a.validation_X.x = read_array<T>(given[0], "validation[0]", {-1, n_features});
    const std::int64_t n = a.validation_X.n_rows = py::reinterpret_borrow<py::array>(given[0]).shape(0);
    a.validation_X.n_features = n_features;
    if (n < 1) wrong_value("validation[0]", "no row", "at least one");
    a.validation_y = read_array<T>(given[1], "validation[1]", {n});
    a.validation_weight = given[2].is_none() ? nullptr : read_array<T>(given[2], "validation[2]", {n});
    const char* bad = nullptr;
    {
      const NoGil released;  // reads all of the validation data
      if (first_non_finite(a.validation_X.x, n * n_features, n_threads) >= 0)
        bad = "validation[0]";
      else if (first_non_finite(a.validation_y, n, n_threads) >= 0)
        bad = "validation[1]";
      else if (a.validation_weight != nullptr && first_non_finite(a.validation_weight, n, n_threads) >= 0)
        bad = "validation[2]";
    }
    if (bad != nullptr) wrong_value(bad, "a value that is NaN or infinite", "finite values");
    for (std::int64_t i = 0; a.validation_weight != nullptr && i < n; ++i)
      if (a.validation_weight[i] < 0) wrong_value("validation[2]", "a negative weight", "weights of at least 0");
  }

  // The arrays of get_state(), checked and copied.
  template <class T>
  static std::shared_ptr<const SavedState> read_state(const py::object& given, const TrainArgs<T>& a) {
    if (!py::isinstance<py::dict>(given)) wrong_type("state", type_text(given), "a dict of arrays");
    const auto dict = py::reinterpret_borrow<py::dict>(given);
    const std::int64_t m = static_cast<std::int64_t>(a.split_of_model.size());
    auto state = std::make_shared<SavedState>();
    std::set<std::string> known;
    auto name_of = [](const std::string& key) { return "state['" + key + "']"; };
    auto copy = [&]<class U>(U, const std::string& key, std::vector<std::int64_t> shape) {
      const std::string name = name_of(key);
      const U* from = read_array<U>(dict[py::str(key)], name.c_str(), shape);
      std::int64_t n = 1;
      for (std::size_t i = 0; i < shape.size(); ++i)
        n *= shape[i] < 0 ? py::reinterpret_borrow<py::array>(dict[py::str(key)]).shape(static_cast<py::ssize_t>(i)) : shape[i];
      return std::vector<U>(from, from + n);
    };
    auto bytes = [](const auto& values) {
      const auto* from = reinterpret_cast<const unsigned char*>(values.data());
      return std::vector<unsigned char>(from, from + values.size() * sizeof(values[0]));
    };
    for (const StateField& field : state_fields<T>(a)) {
      known.insert(field.name);
      const std::string name = name_of(field.name);
      if (!dict.contains(py::str(field.name))) wrong_value("state", "no '" + field.name + "'", "all that get_state() of such a trainer returns");
      auto keep = [&](const auto& values) {
        if (first_non_finite(values.data(), static_cast<std::int64_t>(values.size()), 1) >= 0)
          wrong_value(name.c_str(), "a value that is NaN or infinite", "finite values");
        state->arrays[field.name] = bytes(values);
      };
      if (field.type == 't')
        keep(copy(T{}, field.name, {m, field.height}));
      else if (field.type == 'd')
        keep(copy(double{}, field.name, {m, field.height}));
      else
        state->arrays[field.name] = bytes(copy(std::int64_t{}, field.name, {m, field.height}));
    }
    if (a.standardize) {
      const std::int64_t p = a.X.n_features;
      const auto* mean = reinterpret_cast<const double*>(state->arrays["mean"].data());
      const auto* scale = reinterpret_cast<const double*>(state->arrays["scale"].data());
      check_moments("state['mean']", mean, "state['scale']", scale, m * p);
      std::map<std::int64_t, std::int64_t> first;  // model of each split
      for (std::int64_t k = 0; k < m; ++k) {
        const std::int64_t as = first.emplace(a.split_of_model[k], k).first->second;
        if (!std::equal(mean + k * p, mean + (k + 1) * p, mean + as * p) || !std::equal(scale + k * p, scale + (k + 1) * p, scale + as * p))
          wrong_value("state", "other moments for model " + std::to_string(k) + " than for model " + std::to_string(as),
                      "the same, since they have one split");
      }
    }
    Progress& progress = state->progress;
    auto optional = [&](const char* key) {
      known.insert(key);
      return dict.contains(key);
    };
    if (optional("position")) {
      const auto position = copy(std::int64_t{}, "position", {m});
      for (std::int64_t v : position)
        if (v != position[0] || v < 0) wrong_value("state['position']", std::to_string(v), "one position of all models, at least 0");
      progress.position = position[0];
    }
    if (optional("history")) {
      const auto history = copy(double{}, "history", {m, -1});
      const std::int64_t epochs = static_cast<std::int64_t>(history.size()) / m;
      progress.history.assign(epochs, std::vector<double>(m));
      for (std::int64_t k = 0; k < m; ++k)
        for (std::int64_t e = 0; e < epochs; ++e) progress.history[e][k] = history[k * epochs + e];
    }
    if (optional("diverged_epoch")) progress.diverged_epoch = copy(std::int64_t{}, "diverged_epoch", {m});
    if (optional("diverged_batch")) progress.diverged_batch = copy(std::int64_t{}, "diverged_batch", {m});
    if (optional("finished")) {
      const bool* finished = read_array<bool>(dict["finished"], "state['finished']", {m});
      progress.finished.assign(finished, finished + m);
    }
    if (optional("train_loss")) progress.train_loss = copy(double{}, "train_loss", {m});
    if (optional("train_weight")) progress.train_weight = copy(double{}, "train_weight", {m});
    for (const auto& item : dict) {
      if (!py::isinstance<py::str>(item.first)) wrong_type("state", "a key of " + type_text(item.first), "names");
      const std::string key = py::cast<std::string>(item.first);
      if (known.count(key) == 0) wrong_value("state", "an unknown '" + key + "'", "what get_state() of such a trainer returns");
    }
    return state;
  }

  std::unique_ptr<Trainer> trainer_;
  std::int64_t n_models_ = 0;
  std::vector<py::ssize_t> coef_shape_, intercept_shape_;
  bool tracks_train_loss_ = false;
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
                       int n_threads, const py::dict& hyper, std::int64_t first_epoch, const py::object& held_out_weight,
                       const py::object& validation, const py::object& moments, bool track_train_loss, const py::object& state,
                       std::int64_t n_outputs, const py::object& loss_epsilon) {
             auto self = std::make_unique<BoundTrainer>();
             auto create = [&]<class T>(T) {
               self->create<T>(X, y, sample_weight, ids, conditions, split_of_model, loss, solver, l1, l2, learning_rate, schedule,
                               epochs, batch_size, shuffle, seed, fit_intercept, standardize, coef_init, intercept_init, n_threads,
                               hyper, first_epoch, held_out_weight, validation, moments, track_train_loss, state, n_outputs, loss_epsilon);
             };
             if (is_float32(X))
               create(0.0f);
             else
               create(0.0);
             return self;
           }),
           py::kw_only(), "X"_a, "y"_a, "sample_weight"_a, "ids"_a, "conditions"_a, "split_of_model"_a, "loss"_a, "solver"_a, "l1"_a,
           "l2"_a, "learning_rate"_a, "schedule"_a, "epochs"_a, "batch_size"_a, "shuffle"_a, "seed"_a, "fit_intercept"_a,
           "standardize"_a, "coef_init"_a, "intercept_init"_a, "n_threads"_a, "hyper"_a = py::dict(), "first_epoch"_a = 0,
           "held_out_weight"_a = py::none(), "validation"_a = py::none(), "moments"_a = py::none(), "track_train_loss"_a = false, "state"_a = py::none(),
           "n_outputs"_a = 1, "loss_epsilon"_a = py::none())
      .def("advance", &BoundTrainer::advance, "max_steps"_a = -1, "seconds"_a = -1.0)
      .def("cancel", &BoundTrainer::cancel)
      .def("coef", &BoundTrainer::coef)
      .def("intercept", &BoundTrainer::intercept)
      .def("steps", &BoundTrainer::steps)
      .def("history", &BoundTrainer::history, "first"_a = 0)
      .def_property_readonly("epochs_done", &BoundTrainer::epochs_done)
      .def_property_readonly("steps_per_epoch", &BoundTrainer::steps_per_epoch)
      .def("alive", &BoundTrainer::alive)
      .def("finish", &BoundTrainer::finish, "mask"_a)
      .def("snapshot", &BoundTrainer::snapshot, "mask"_a)
      .def("restore", &BoundTrainer::restore, "mask"_a)
      .def("scale_learning_rate", &BoundTrainer::scale_learning_rate, "factor"_a)
      .def("train_loss", &BoundTrainer::train_loss, "reset"_a = true)
      .def("get_state", &BoundTrainer::get_state)
      .def_property_readonly("diverged_epoch", &BoundTrainer::diverged_epoch)
      .def_property_readonly("diverged_batch", &BoundTrainer::diverged_batch);
}

}  // namespace gradfold
