// Every kernel family on small problems, one case a run, for counting the instructions of its kernels:
//   valgrind --tool=callgrind --collect-atstart=no --toggle-collect=gradfold_counted gradfold_counts CASE
// counts what gradfold_counted() does: one call, on one thread, after a call that was not counted. GRADFOLD_LEVEL picks the level; Valgrind
// knows none above x86_v3. The counts of a build are the same in every run: nothing here depends on addresses, time or the environment.
// Callgrind counts an instruction for each byte of `rep stosb` and `rep movsb`, by which glibc sets and copies more than about two
// kilobytes; GLIBC_TUNABLES=glibc.cpu.x86_rep_stosb_threshold=1000000000:glibc.cpu.x86_rep_movsb_threshold=1000000000 has it use vectors.
#include <alloca.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "gradient/gradient.h"
#include "gradient/gram.h"
#include "gradient/roles.h"
#include "index/folds.h"
#include "index/groups.h"
#include "index/labels.h"
#include "index/permutation.h"
#include "levels/levels.h"
#include "loss/metrics.h"
#include "optimum/optimizer.h"
#include "problems.h"
#include "simd/fpenv.h"
#include "simd/simd.h"
#include "train/moments.h"
#include "train/train.h"
#include "update/update.h"

using Run = std::function<void()>;

// What is counted. A C name, so that it is the same under every compiler; the barrier keeps the call from becoming a jump.
extern "C" __attribute__((noinline, used, visibility("default"))) void gradfold_counted(const Run* run) {
  (*run)();
  asm volatile("" ::: "memory");
}

using namespace gradfold;

namespace {

struct Case {
  std::string name;
  std::function<Run()> set_up;
};
std::vector<Case> cases;

void add(std::string name, std::function<Run()> set_up) { cases.push_back({std::move(name), std::move(set_up)}); }

template <class T>
const std::string kType = sizeof(T) == 4 ? "/float32" : "/float64";

template <class T>
int vector_lanes() {
  return gradient_kernels<T>(current_level()).lanes;
}

// ---- index ----

void add_permutations() {
  add("permutation/table", [] {
    return [out = std::vector<std::int64_t>(1000)]() mutable {
      for (std::uint32_t epoch = 0; epoch < 40; ++epoch)
        permutation_fill(make_permutation(1000, 5, epoch, kStreamBatches), 0, 1000, out.data());
    };
  });
  struct Mixer {
    const char* name;
    std::int64_t n;
  };
  for (const Mixer& m : {Mixer{"rounds12", 50'000}, Mixer{"rounds8", 100'000}, Mixer{"wide", std::int64_t{1} << 33 | 1}}) {
    constexpr std::int64_t kCount = 50'000;
    const auto make = [n = m.n] { return make_permutation(n, 5, 1, kStreamBatches); };
    const std::string name = std::string("permutation/") + m.name;
    add(name + "/fill", [make] {
      return [p = make(), out = std::vector<std::int64_t>(kCount)]() mutable { permutation_fill(p, 0, kCount, out.data()); };
    });
    if (m.n > kNarrowLimit) continue;
    add(name + "/inverse", [make] {
      std::vector<std::int64_t> in(kCount);
      for (std::int64_t i = 0; i < kCount; ++i) in[i] = i;
      return [p = make(), in, out = in]() mutable { permutation_map(p, true, in.data(), kCount, out.data()); };
    });
  }
  add("permutation/rounds8/at", [] {
    return [p = make_permutation(100'000, 5, 1, kStreamBatches), out = std::vector<std::int64_t>(10'000)]() mutable {
      for (std::int64_t i = 0; i < 10'000; ++i) out[i] = permutation_at(p, i) + permutation_inverse(p, i);
    };
  });
}

// Rows in classes of unequal sizes; the ranks of the codes are the codes.
struct MadeClasses {
  std::vector<std::int32_t> codes;
  std::vector<std::int64_t> counts, rank;
  MadeClasses(std::int64_t n, std::int64_t n_classes) : codes(n), counts(n_classes), rank(n_classes) {
    for (std::int64_t i = 0; i < n; ++i) ++counts[codes[i] = static_cast<std::int32_t>(i * i % 10'007 % n_classes)];
    for (std::int64_t c = 0; c < n_classes; ++c) rank[c] = c;
  }
  Classes view() const {
    return {codes.data(), static_cast<std::int64_t>(codes.size()), static_cast<std::int64_t>(counts.size()), counts.data(), rank.data()};
  }
};

void add_folds() {
  constexpr std::int64_t kRows = 30'000;
  using Ids = std::vector<std::uint8_t>;
  const Shuffle shuffled{true, 3, 0}, in_order{false, 3, 0};
  const PartSizes parts{kRows / 2, kRows / 4, kRows / 4};
  add("folds/kfold", [=] { return [=, ids = Ids(kRows)]() mutable { assign_kfold(kRows, 5, shuffled, ids.data()); }; });
  for (const Shuffle& how : {shuffled, in_order})
    add(how.on ? "folds/stratified" : "folds/stratified/in_order", [how] {
      return [how, y = MadeClasses(kRows, 7), ids = Ids(kRows)]() mutable { assign_stratified(y.view(), 5, how, ids.data()); };
    });
  add("folds/stratified_holdout", [=] {
    return [=, y = MadeClasses(kRows, 7), ids = Ids(kRows)]() mutable { assign_stratified_holdout(y.view(), parts, shuffled, ids.data()); };
  });
  add("folds/groups", [=] {
    return [=, groups = MadeClasses(20'000, 1500), ids = Ids(20'000)]() mutable {
      assign_groups(groups.view(), nullptr, 5, shuffled, ids.data());
    };
  });
  add("folds/stratified_groups", [=] {
    return [=, groups = MadeClasses(3000, 500), y = MadeClasses(3000, 3), ids = Ids(3000)]() mutable {
      const Classes classes = y.view();
      assign_groups(groups.view(), &classes, 5, shuffled, ids.data());
    };
  });
  const auto problem = [] { return std::make_shared<const Problem<float>>(100'000, 1, 100, 11); };
  add("folds/role", [=] {
    return [q = problem(), role = std::vector<std::int8_t>(100'000)]() mutable { folds_role(q->folds, 3, 0, q->n, role.data()); };
  });
  add("folds/sizes", [=] {
    return [q = problem(), sizes = std::vector<std::int64_t>(10)]() mutable { folds_sizes(q->folds, sizes.data()); };
  });
  add("folds/indices", [=] {
    return [q = problem(), rows = std::vector<std::int64_t>(100'000)]() mutable {
      folds_indices(q->folds, 3, Role::train, q->n, rows.data());
    };
  });
  add("folds/rows_by_id", [=] {
    return [q = problem(), order = std::vector<std::int64_t>(100'000), offset = std::vector<std::int64_t>(257)]() mutable {
      rows_by_id(static_cast<const std::uint8_t*>(q->folds.ids), q->n, order.data(), offset.data());
    };
  });
  add("folds/split_roles", [=] {
    auto rows = std::make_shared<std::vector<std::int64_t>>(100'000);
    for (std::int64_t i = 0; i < 100'000; ++i) (*rows)[i] = i * 7 % 100'000;
    return [rows, role = std::vector<std::int8_t>(100'000)]() mutable {
      split_roles(100'000, rows->data(), 80'000, rows->data() + 80'000, 20'000, role.data());
    };
  });
  add("folds/lane_masks", [=] {
    const auto q = problem();
    std::vector<std::int64_t> split_of_lane(48), ids(kRowChunk);
    for (std::int64_t l = 0; l < 48; ++l) split_of_lane[l] = l % 5;
    for (std::int64_t i = 0; i < kRowChunk; ++i) ids[i] = i * 7;
    return [q, ids, roles = LaneRoles(&q->folds, split_of_lane, Use::train), masks = std::vector<std::uint64_t>(kRowChunk)]() mutable {
      for (int turn = 0; turn < 50; ++turn) roles.fill(ids.data(), kRowChunk, q->w.data(), masks.data());
    };
  });
  add("labels/encode", [] {
    return [y = MadeClasses(50'000, 700), out = std::vector<std::int32_t>(50'000)]() mutable {
      encode_labels(y.codes.data(), 50'000, 4, out.data());
    };
  });
}

// ---- gradient ----

// A loss_gradient call; `change` may ask for more or less of it.
template <class T>
void add_gradient(const std::string& name, std::int64_t n, std::int64_t p, const std::function<std::int64_t()>& n_models,
                  const std::function<void(const Problem<T>&, GradientCall<T>&)>& change = {}, std::int64_t outputs = 1) {
  add("gradient" + kType<T> + "/" + name, [=] {
    auto q = std::make_shared<const Problem<T>>(n, p, n_models(), 11);
    auto call = std::make_shared<GradientCall<T>>(*q, outputs > 1 ? Loss::multinomial : Loss::log_loss, outputs);
    if (change) change(*q, *call);
    return [q, call] { loss_gradient(call->args); };
  });
}

template <class T>
void add_gradients() {
  using Q = Problem<T>;
  using C = GradientCall<T>;
  const auto models = [](std::int64_t m) { return [m] { return m; }; };
  const auto vectors = [](std::int64_t n) { return [n] { return n * vector_lanes<T>(); }; };
  const auto without_loss = [](const Q&, C& c) { c.args.loss_out = nullptr; };
  // Models of a vector depend on the level, so a case that is about the width of panels counts vectors.
  for (int n = 1; n <= kMaxPanelVectors; ++n) add_gradient<T>("vectors" + std::to_string(n) + "/loss", 1100, 100, vectors(n));
  for (int m : {1, 4}) add_gradient<T>("models" + std::to_string(m) + "/loss", 3000, 100, models(m));
  add_gradient<T>("models100/loss", sizeof(T) == 4 ? 400 : 200, 100, models(100));
  if (sizeof(T) == 8) return;
  add_gradient<T>("models100", 400, 100, models(100), without_loss);
  add_gradient<T>("half/loss", 1100, 100, [] { return std::int64_t{vector_lanes<T>() / 2}; });
  for (int m : {1, 2, 3, 4}) add_gradient<T>("models" + std::to_string(m), 3000, 100, models(m), without_loss);
  for (int m : {1, 4})  // rows that are not used leave gaps, which the next chunk is fetched around
    add_gradient<T>("models" + std::to_string(m) + "/folds", 3000, 100, models(m), [](const Q& q, C& c) {
      c.split(q);
      c.args.loss_out = nullptr;
    });
  add_gradient<T>("models1/features1000", 1100, 1000, models(1), without_loss);
  add_gradient<T>("models24/features1000", 200, 1000, models(24), without_loss);
  add_gradient<T>("models100/features30/loss", 900, 30, models(100));
  add_gradient<T>("models100/loss_only", 400, 100, models(100), [](const Q&, C& c) { c.args.grad_W = c.args.grad_intercept = nullptr; });
  add_gradient<T>("models100/folds/loss", 400, 100, models(100), [](const Q& q, C& c) { c.split(q); });
  add_gradient<T>("models100/weights/loss", 400, 100, models(100), [](const Q& q, C& c) { c.weigh(q); });
  for (int m : {1, 100})
    add_gradient<T>("models" + std::to_string(m) + "/folds/select/loss", 400, 100, models(m), [](const Q& q, C& c) {
      c.split(q);
      c.poison(q);
    });
  add_gradient<T>("models100/rows/loss", 400, 100, models(100), [](const Q& q, C& c) {
    static std::vector<std::int64_t> rows;  // of the one case that a run sets up
    rows.clear();
    for (std::int64_t i = 0; i < q.n; ++i) rows.push_back(i * 7 % q.n);
    c.args.rows = rows.data();
  });
}

template <class T>
void add_outputs() {
  struct Shape {
    std::int64_t outputs, n, models;
  };
  for (const Shape& s : {Shape{3, 1100, 20}, Shape{10, 500, 7}, Shape{101, 250, 2}}) {
    const std::string name = "outputs" + std::to_string(s.outputs);
    const auto models = [m = s.models] { return m; };
    if (sizeof(T) == 4 || s.outputs == 10) add_gradient<T>(name + "/loss", s.n, 60, models, {}, s.outputs);
    if (sizeof(T) == 8 || s.outputs != 10) continue;
    add_gradient<T>(name + "/weights/loss", s.n, 60, models, [](const Problem<T>& q, GradientCall<T>& c) { c.weigh(q); }, s.outputs);
    add_gradient<T>(name + "/folds/select/loss", s.n, 60, models, [](const Problem<T>& q, GradientCall<T>& c) {
      c.split(q);
      c.poison(q);
    }, s.outputs);
  }
}

// The residual pass alone, of one chunk of a panel of three vectors.
template <class T>
void add_residual(const std::string& name, Loss loss, bool with_loss, bool weighted) {
  add("residual" + kType<T> + "/" + name, [=]() -> Run {
    const int lanes = 3 * vector_lanes<T>();
    auto q = std::make_shared<const Problem<T>>(kRowChunk, 1, lanes, 11);
    auto values = std::make_shared<std::vector<T>>(2 * lanes);
    auto sums = std::make_shared<std::vector<double>>(2 * lanes);
    auto roles = std::make_shared<std::vector<std::uint64_t>>(kRowChunk, ~std::uint64_t{0});
    std::vector<T> z;
    for (std::int64_t i = 0; i < kRowChunk * lanes; ++i) z.push_back(q->W[i % lanes] * q->X[i / lanes]);
    ChunkTask<T> task{};
    task.n_rows = kRowChunk;
    task.y = q->y.data();
    task.weight = weighted ? q->w.data() : nullptr;
    task.roles = roles->data();
    task.n_vectors = 3;
    task.grad_intercept = values->data();
    task.count = values->data() + lanes;
    task.loss = with_loss ? sums->data() : nullptr;
    task.weight_sum = weighted ? sums->data() + lanes : nullptr;
    return [=, z = std::move(z)]() mutable {
      const FloatingPointGuard guard;
      for (int turn = 0; turn < 4; ++turn) gradient_kernels<T>(current_level()).residual(loss, task, z.data());
      (void)q, (void)values, (void)sums, (void)roles;  // what `task` points to
    };
  });
}

void add_residuals() {
#define GRADFOLD_ADD(name, type) add_residual<float>(#name "/loss", Loss::name, true, false);
  GRADFOLD_LOSSES(GRADFOLD_ADD)
#undef GRADFOLD_ADD
  add_residual<float>("log_loss", Loss::log_loss, false, false);
  add_residual<float>("squared_error", Loss::squared_error, false, false);
  add_residual<float>("log_loss/weights/loss", Loss::log_loss, true, true);
  add_residual<double>("log_loss/loss", Loss::log_loss, true, false);
}

template <class T>
void add_scans() {
  add("prediction" + kType<T> + "/models100", [] {
    auto q = std::make_shared<const Problem<T>>(400, 100, 100, 11);
    return [q, out = std::vector<T>(q->n * q->m)]() mutable {
      raw_prediction(DenseRows<T>{q->X.data(), q->n, q->p}, q->W.data(), q->b.data(), q->m, out.data(), 1);
    };
  });
  add("prediction" + kType<T> + "/rows", [] {
    auto q = std::make_shared<const Problem<T>>(400, 100, 1, 11);
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < q->n; ++i) rows.push_back(i * 7 % q->n);
    return [q, rows, w = std::vector<double>(q->p, 0.5), out = std::vector<double>(q->n)]() mutable {
      raw_prediction_of_rows(DenseRows<T>{q->X.data(), q->n, q->p}, rows.data(), q->n, w.data(), nullptr, 1, out.data(), 1);
    };
  });
  add("finite" + kType<T>, [] {
    return [a = std::vector<T>(500'000, T(1))] { first_non_finite(a.data(), static_cast<std::int64_t>(a.size()), 1); };
  });
  for (bool centred : {false, true}) {
    if (sizeof(T) == 8 && !centred) continue;
    add("moments" + kType<T> + (centred ? "/centred" : "/sums"), [centred] {
      auto q = std::make_shared<const Problem<T>>(kRowChunk, 200, 1, 11);
      std::vector<const T*> x;
      for (std::int64_t i = 0; i < q->n; ++i) x.push_back(q->X.data() + i * q->p);
      return [q, x, centred, weight = std::vector<double>(q->n, 1.0), mean = std::vector<double>(q->p, 0.1),
              out = std::vector<double>(q->p)]() mutable {
        const FloatingPointGuard guard;
        for (int turn = 0; turn < 4; ++turn)
          moment_kernels<T>(current_level()).sums(x.data(), weight.data(), q->n, q->p, centred ? mean.data() : nullptr, out.data());
      };
    });
  }
}

// ---- update ----

// Steps of a panel of three vectors of models.
template <class T>
void add_steps(const std::string& name, std::int64_t p, Solver solver,
               const std::function<void(PanelProblem<T>&, SolverSettings&)>& change = {}) {
  add("update" + kType<T> + "/" + name, [=]() -> Run {
    auto q = std::make_shared<const Problem<T>>(1, p, 100, 11);
    auto panel = std::make_shared<PanelProblem<T>>(*q, solver, 3);
    SolverSettings settings{solver, true, false, false, false, false, 1000, 5};
    if (change) change(*panel, settings);
    panel->draw(*q, 0);
    return [=, replaced = std::vector<T>(step_memory(p, kMostLanes<T>))]() mutable {
      const FloatingPointGuard guard;
      const UpdateKernels<T>& kernels = update_kernels<T>(current_level());
      for (std::int64_t turn = 0; turn < 2000 / p; ++turn)
        kernels.step(settings, panel->state(), panel->sums(), panel->all(), replaced.data());
    };
  });
}

void add_updates() {
  for (Solver solver : {Solver::sgd, Solver::momentum, Solver::nesterov, Solver::adagrad, Solver::rmsprop, Solver::adam, Solver::adamw}) {
    const char* const names[] = {"sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"};
    const std::string name = names[static_cast<int>(solver)];
    add_steps<float>(name, 100, solver);
    if (solver == Solver::sgd || solver == Solver::adam) {
      add_steps<float>(name + "/l1", 100, solver, [](auto&, SolverSettings& s) { s.any_l1 = true; });
      add_steps<float>(name + "/clip", 100, solver, [](PanelProblem<float>& panel, SolverSettings& s) {
        s.any_clip = s.any_clip_norm = true;
        for (std::int64_t l = 0; l < panel.lanes; ++l) {
          panel.set(Hyper::clip_norm, l, 0.5);
          panel.set(Hyper::clip_value, l, 0.1);
        }
      });
      add_steps<float>(name + "/average", 100, solver, [](PanelProblem<float>& panel, SolverSettings&) {
        for (std::int64_t l = 0; l < panel.lanes; ++l) panel.set(Hyper::average, l, 1);
      });
    }
  }
  add_steps<double>("adam", 100, Solver::adam);
  // Few features, so that the scalars of a step weigh.
  const char* const schedules[kSchedules] = {"constant", "cosine", "inverse_scaling", "exponential", "step", "optimal", "adaptive"};
  for (int k = 1; k < kSchedules; ++k)
    add_steps<float>(std::string("schedule/") + schedules[k], 2, Solver::sgd, [k](PanelProblem<float>& panel, SolverSettings& s) {
      std::fill(panel.schedule.begin(), panel.schedule.end(), k);
      s.any_warmup = true;
      for (std::int64_t l = 0; l < panel.lanes; ++l) panel.set(Hyper::warmup, l, 1000);
    });
}

// ---- train ----

template <class T>
using ChangeTrain = std::function<void(const Problem<T>&, TrainArgs<T>&)>;

constexpr std::int64_t kForEver = std::int64_t{1} << 40;  // epochs

// An epoch with its held-out losses; the one before it, and whatever a first epoch sets up, is not counted.
template <class T>
void add_epoch(const std::string& name, std::int64_t n, std::int64_t p, std::int64_t m, Solver solver, std::int64_t batch,
               const ChangeTrain<T>& change = {}, std::int64_t outputs = 1) {
  add("epoch" + kType<T> + "/" + name, [=]() -> Run {
    auto q = std::make_shared<Problem<T>>(n, p, m, 12);
    q->outputs = outputs;
    for (std::int64_t i = 0; i < n && outputs > 1; ++i) q->y[i] = static_cast<T>(i * 7 % outputs);
    TrainArgs<T> args = train_args(*q, solver, batch, false, true, 1, false);
    args.epochs = kForEver;
    args.learning_rate.assign(m, 1e-3);  // nobody may diverge
    if (change) change(*q, args);
    const std::shared_ptr<Trainer> trainer = make_trainer(std::move(args));
    return [q, trainer] {
      trainer->advance(trainer->steps_per_epoch(), -1, {});
      if (!trainer->alive(0)) throw std::logic_error("a model diverged");
    };
  });
}

void add_epochs() {
  for (Solver solver : {Solver::sgd, Solver::adam}) {
    const std::string name = solver == Solver::sgd ? "sgd" : "adam";
    add_epoch<float>(name + "/models100", 500, 100, 100, solver, 256);
    add_epoch<double>(name + "/models100", 500, 60, 50, solver, 256);
    add_epoch<float>(name + "/models100/standardize", 500, 60, 100, solver, 256, [](auto&, auto& a) { a.standardize = true; });
    add_epoch<float>(name + "/models1", 3000, 100, 1, solver, 256);
  }
  add_epoch<float>("sgd/models1/features1000", 1500, 1000, 1, Solver::sgd, 256);
  add_epoch<float>("sgd/models100/batch1", 70, 60, 100, Solver::sgd, 1);
  add_epoch<float>("sgd/models10/batch1100", 2200, 60, 10, Solver::sgd, 1100);
  add_epoch<float>("sgd/models100/in_order", 500, 60, 100, Solver::sgd, 256, [](auto&, auto& a) { a.shuffle = false; });
  add_epoch<float>("sgd/models100/train_loss", 500, 60, 100, Solver::sgd, 256, [](auto&, auto& a) { a.track_train_loss = true; });
  add_epoch<float>("adam/models20/outputs5", 500, 60, 20, Solver::adam, 256, {}, 5);
  // Many rows to score and few to train on.
  add_epoch<float>("score/models100", 256, 60, 100, Solver::sgd, 256, [](auto&, auto& a) {
    static Problem<float> rows(700, 60, 1, 13);  // of the one case that a run sets up
    a.validation_X = {rows.X.data(), rows.n, rows.p};
    a.validation_y = rows.y.data();
  });
  add("trainer/float32/set_up", [] {
    return [q = std::make_shared<const Problem<float>>(1000, 60, 100, 12)] {
      const auto trainer = make_trainer(train_args(*q, Solver::adam, 64, true, true, 1, true));
      trainer->advance(1, -1, {});
    };
  });
  add("trainer/float32/state", [] {
    auto q = std::make_shared<const Problem<float>>(300, 100, 100, 12);
    const TrainArgs<float> args = train_args(*q, Solver::adam, 64, true, true, 1, false);
    std::vector<std::vector<unsigned char>> memory;
    for (const StateField& field : state_fields(args)) memory.emplace_back(q->m * field.height * (field.type == 't' ? 4 : 8));
    const std::shared_ptr<Trainer> trainer = make_trainer(args);
    trainer->advance(2, -1, {});
    return [q, trainer, memory]() mutable {
      std::vector<void*> arrays;
      for (auto& array : memory) arrays.push_back(array.data());
      const std::unique_ptr<bool[]> all(new bool[q->m]);
      std::fill_n(all.get(), q->m, true);
      trainer->state(arrays);
      trainer->snapshot(all.get());
      trainer->restore(all.get());
    };
  });
}

// ---- optima ----

void add_optima() {
  for (const bool weighted : {false, true})
    add(std::string("gram/float32") + (weighted ? "/weights" : ""), [weighted] {
      auto q = std::make_shared<const Problem<float>>(900, 60, 1, 14);
      return [=, order = std::vector<std::int64_t>(), out = std::vector<double>(3 * (1 + 61 + 61 * 61))]() mutable {
        order.clear();
        for (std::int64_t i = 0; i < q->n; ++i) order.push_back(i * 7 % q->n);
        const std::int64_t offset[] = {0, 300, 500, 900};
        cell_moments<float>({q->X.data(), q->n, q->p}, q->y.data(), weighted ? q->w.data() : nullptr, order.data(), offset, 3,
                            {out.data(), out.data() + 3, out.data() + 3 * 62}, 1, {}, nullptr);
      };
    });
  add("gram/float64", [] {
    auto q = std::make_shared<const Problem<double>>(900, 60, 1, 14);
    return [=, order = std::vector<std::int64_t>(), out = std::vector<double>(62 + 61 * 61)]() mutable {
      order.clear();
      for (std::int64_t i = 0; i < q->n; ++i) order.push_back(i);
      const std::int64_t offset[] = {0, 900};
      cell_moments<double>({q->X.data(), q->n, q->p}, q->y.data(), nullptr, order.data(), offset, 1,
                           {out.data(), out.data() + 1, out.data() + 62}, 1, {}, nullptr);
    };
  });
  const auto add_optimum = [](const std::string& name, Loss loss, std::int64_t n, std::int64_t m, const std::function<void(OptimumArgs<float>&)>& change,
                              std::int64_t p = 40) {
    add("optimum/float32/" + name, [=] {
      auto q = std::make_shared<const Problem<float>>(n, p, m, 15);
      auto call = std::make_shared<OptimumCall<float>>(*q, loss, false, 1);
      change(call->args);
      return [q, call] {
        if (make_optimizer(call->args)->advance(-1, -1, {}) != Status::done) throw std::logic_error("not done");
      };
    });
  };
  add_optimum("lbfgs/models20", Loss::log_loss, 300, 20, [](auto&) {});
  add_optimum("newton/models5", Loss::log_loss, 300, 5, [](auto& a) { a.refresh = 1; });
  add_optimum("cholesky/models100", Loss::squared_error, 60, 100, [](auto& a) { a.exact = true; });
  add_optimum("coordinate_descent/models40", Loss::squared_error, 60, 40, [](auto& a) {
    for (std::size_t i = 0; i < a.l2.size(); ++i) a.l1.push_back(0.3 / static_cast<double>(1 + i / 5));
  });
  add_optimum("elastic_net_path/models20", Loss::squared_error, 60, 20, [](auto& a) {
    for (SplitSums& s : a.sums) s.comoment = nullptr;
    for (std::size_t i = 0; i < a.l2.size(); ++i) a.l1.push_back(0.2 / static_cast<double>(1 + i / 5));
  }, 150);
  add_optimum("proximal_newton/models20", Loss::log_loss, 300, 20, [](auto& a) {
    for (std::size_t i = 0; i < a.l2.size(); ++i) a.l1.push_back(0.05 / static_cast<double>(1 + i));
  });
}

// ---- metrics ----

struct Scored {  // rows that are scored
  Problem<float> problem;
  std::vector<double> y, weight, threshold;
  std::vector<std::int32_t> codes;
  std::vector<std::uint8_t> positive;
  std::vector<double> out;
  std::vector<std::uint8_t> invalid;
  std::atomic<bool> stop{false};
  RawPredictions<float> raw;
  MetricJob job{1, {}, &stop};

  Scored(std::int64_t n, std::int64_t n_outputs, std::int64_t n_models)
      : problem(n, n_outputs * n_models, 1, 11), threshold(n_models, 0.25), out(4 * n_models * (1 + n_outputs) * (1 + n_outputs)),
        invalid(n_models), raw{problem.X.data(), n, n_outputs, n_models, n_outputs * n_models, n_models, 1} {
    for (std::int64_t i = 0; i < n; ++i) {
      y.push_back(problem.y[i]);
      weight.push_back(problem.w[i]);
      codes.push_back(static_cast<std::int32_t>(i * 7 % std::max<std::int64_t>(2, n_outputs)));
      positive.push_back(problem.y[i] > 0);
    }
  }
  Scored(const Scored&) = delete;
  RankedItems items() const { return {nullptr, problem.n, positive.data(), weight.data()}; }
  LabelCounts counts() {
    const std::int64_t m = raw.n_models, labels = std::max<std::int64_t>(2, raw.n_outputs);
    double* at = out.data();
    return {at, at + m * labels, at + 2 * m * labels, at + 2 * m * labels + m * labels * labels, invalid.data()};
  }
};

void add_metric(const std::string& name, std::int64_t n, std::int64_t n_outputs, std::int64_t n_models, void (*run)(Scored&)) {
  add("metrics/float32/" + name, [=] {
    auto s = std::make_shared<Scored>(n, n_outputs, n_models);
    return [s, run] { run(*s); };
  });
}

void add_metrics() {
  add_metric("regression", 2000, 1, 100, [](Scored& s) { regression_sums(s.raw, s.y.data(), s.weight.data(), s.out.data(), s.job); });
  add_metric("logistic", 500, 1, 100, [](Scored& s) {
    probability_sums(s.raw, s.codes.data(), s.weight.data(), Link::logistic, s.out.data(), s.job);
  });
  add_metric("clipped", 500, 1, 100, [](Scored& s) {
    probability_sums(s.raw, s.codes.data(), s.weight.data(), Link::clipped, s.out.data(), s.job);
  });
  add_metric("softmax", 500, 5, 20, [](Scored& s) {
    probability_sums(s.raw, s.codes.data(), s.weight.data(), Link::softmax, s.out.data(), s.job);
  });
  add_metric("labels", 2000, 1, 100, [](Scored& s) {
    label_counts(s.raw, s.codes.data(), s.weight.data(), s.threshold.data(), 1, s.counts(), s.job);
  });
  add_metric("labels/outputs5", 1000, 5, 20, [](Scored& s) {
    label_counts(s.raw, s.codes.data(), s.weight.data(), s.threshold.data(), 2, s.counts(), s.job);
  });
  for (std::int64_t n : {300, 3000})  // a comparison sort, and a radix sort
    add_metric("ranking/rows" + std::to_string(n), n, 1, 8, [](Scored& s) {
      ranking(s.raw, 0, s.items(), s.out.data(), s.out.data() + s.raw.n_models, s.job);
    });
  add_metric("calibrate/accuracy", 3000, 1, 8, [](Scored& s) {
    calibrate(s.raw, s.items(), Calibrate::accuracy, 0, 1, s.out.data(), s.out.data() + s.raw.n_models, s.job);
  });
  add_metric("calibrate/precision_at_recall", 3000, 1, 8, [](Scored& s) {
    calibrate(s.raw, s.items(), Calibrate::precision_at_recall, 0.8, 1, s.out.data(), s.out.data() + s.raw.n_models, s.job);
  });
}

// ---- maths ----

// What kernels use of them: the losses in their own type, the schedules in float64.
template <class T>
void add_maths(const std::vector<int>& functions) {
  const char* const names[] = {"exp", "exp_nonpositive", "log", "log1p", "log1p_unit", "cos"};
  for (int f : functions)
    add("maths" + kType<T> + "/" + names[f], [f] {
      std::vector<T> in;
      for (int i = 0; i < 40'000; ++i) in.push_back(static_cast<T>(f == 1 ? -(i % 977) : i % 977 + 1) / T(978));
      return [f, in, out = in]() mutable {
        math_apply(current_level(), static_cast<MathFunction>(f), in.data(), out.data(), static_cast<std::int64_t>(in.size()));
      };
    });
}

void add_all() {
  add_permutations();
  add_folds();
  add_gradients<float>();
  add_gradients<double>();
  add_outputs<float>();
  add_outputs<double>();
  add_residuals();
  add_scans<float>();
  add_scans<double>();
  add_updates();
  add_epochs();
  add_optima();
  add_metrics();
  add_maths<float>({1, 2, 4});
  add_maths<double>({0, 1, 2, 3, 4, 5});
}

double milliseconds(const Run& run, int times) {
  std::vector<double> took;
  for (int i = 0; i < times; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    took.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(took.begin(), took.begin() + times / 2, took.end());
  return took[times / 2];
}

int usage() {
  std::fprintf(stderr, "usage: gradfold_counts --list | --all | CASE [--repeat TIMES]\n");
  return 2;
}

__attribute__((noinline)) int main_on_a_page(int argc, char** argv) {
  if (argc < 2) return usage();
  add_all();
  const std::string wanted = argv[1];
  if (wanted == "--list" && argc == 2) {
    for (const Case& c : cases) std::printf("%s\n", c.name.c_str());
    return 0;
  }
  force_level(level_name(current_level()));  // read from the environment now, and not while counting
  set_block_bytes(512 << 10);                // and not what Valgrind says that the caches are
  if (wanted == "--all" && argc == 2) {      // no counting: that nothing fails
    for (const Case& c : cases) {
      const Run run = c.set_up();
      run();
      gradfold_counted(&run);
    }
    std::printf("%zu cases ran\n", cases.size());
    return 0;
  }
  int times = 0;
  if (argc == 4 && std::strcmp(argv[2], "--repeat") == 0) times = std::atoi(argv[3]);
  if (wanted[0] == '-' || (argc != 2 && times < 1)) return usage();
  const auto found = std::find_if(cases.begin(), cases.end(), [&](const Case& c) { return c.name == wanted; });
  if (found == cases.end()) {
    std::fprintf(stderr, "gradfold_counts: no case '%s'; --list lists them\n", wanted.c_str());
    return 2;
  }
  const Run run = found->set_up();
  run();
  gradfold_counted(&run);
  if (times > 0) std::printf("%.4f ms, median of %d\n", milliseconds(run, times), times);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  // The stack begins below the environment and the arguments, and copies on it take more or fewer instructions by their alignment:
  // from here on it begins at a page.
  const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  volatile char* rest = static_cast<volatile char*>(alloca(here % 4096 + 16));
  rest[0] = 0;
  try {
    return main_on_a_page(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gradfold_counts: %s\n", error.what());
    return 1;
  }
}
