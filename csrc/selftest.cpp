// Calls every kernel on every supported level and compares the bits with the serial level. No Python: built with
// -fsanitize=address,undefined this finds what a Python test cannot. `gradfold_selftest N` takes every Nth case of the
// gradients and trainings only, for an emulated CPU; digests are comparable between runs of the same N.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gradient/gradient.h"
#include "index/permutation.h"
#include "levels/levels.h"
#include "problems.h"
#include "roofline/roofline.h"
#include "simd/simd.h"
#include "threads/team.h"
#include "train/train.h"

using namespace gradfold;

namespace {

int passed = 0, failed = 0;
int every = 1, turns = 0;
std::uint64_t digest = 1469598103934665603ull;  // FNV-1a over every result of the serial level

void check(bool good, const std::string& what) {
  ++(good ? passed : failed);
  if (!good) std::printf("FAILED %s\n", what.c_str());
}

using Bytes = std::vector<unsigned char>;

template <class T>
void append(Bytes& bytes, const std::vector<T>& v) {
  const auto* p = reinterpret_cast<const unsigned char*>(v.data());
  bytes.insert(bytes.end(), p, p + v.size() * sizeof(T));
}

// The same bytes on every level, whatever `run` computes. False if it is not this case's turn.
bool same_on_all_levels(const std::string& what, const std::function<Bytes()>& run) {
  if (turns++ % every != 0) return false;
  force_level("serial");
  const Bytes expected = run();
  for (unsigned char byte : expected) digest = (digest ^ byte) * 1099511628211ull;
  for (Level level : supported_levels()) {
    force_level(level_name(level));
    check(run() == expected, what + " on " + level_name(level));
  }
  force_level("");
  return true;
}

template <class T>
Bytes gradient_bytes(const Problem<T>& q, Loss loss, bool weighted, bool with_folds, bool poison, int n_threads, std::int64_t outputs = 1) {
  GradientCall<T> call(q, loss, outputs);
  if (weighted) call.weigh(q);
  if (with_folds) call.split(q);
  if (poison) call.poison(q);
  call.args.n_threads = n_threads;
  loss_gradient(call.args);
  std::vector<T> z(q.n * outputs * q.m);
  raw_prediction(call.args.X, call.W.data(), call.b.data(), outputs * q.m, z.data(), n_threads);
  Bytes out;
  append(out, call.loss);
  append(out, call.grad);
  append(out, call.grad_b);
  append(out, z);
  return out;
}

enum class Method { lbfgs, newton, exact, elastic_net, elastic_net_path, proximal_newton };

template <class T>
Bytes optimum_bytes(const Problem<T>& q, Method method, bool standardize, bool intercept, bool weighted, int n_threads) {
  const bool path = method == Method::elastic_net_path, net = method == Method::elastic_net || path;
  const bool squares = method == Method::exact || net;
  OptimumCall<T> call(q, squares ? Loss::squared_error : Loss::log_loss, weighted, n_threads);
  call.args.standardize = standardize;
  call.args.fit_intercept = intercept;
  call.args.exact = method == Method::exact;
  call.args.refresh = method == Method::newton ? 1 : 0;
  const bool with_l1 = net || method == Method::proximal_newton;
  for (SplitSums& s : call.args.sums)
    if (path) s.comoment = nullptr;
  for (std::int64_t i = 0; i < q.m && with_l1; ++i) call.args.l1.push_back((squares ? 0.2 : 0.05) / static_cast<double>(1 + i));
  if (method == Method::lbfgs && intercept) call.start_on_sample(q);
  const auto optimizer = make_optimizer(call.args);
  if (optimizer->advance(2, -1, {}) == Status::interrupted || optimizer->advance(-1, -1, {}) != Status::done) return {};
  std::vector<T> coef(q.m * q.p), b(q.m);
  optimizer->coef(coef.data());
  optimizer->intercept(b.data());
  Bytes out;
  append(out, call.comoment);
  append(out, coef);
  append(out, b);
  append(out, optimizer->held_out());
  append(out, optimizer->arrivals().objective);
  append(out, optimizer->arrivals().n_iter);
  return out;
}

template <class T>
Bytes results(const Problem<T>& q, const Trainer& trainer) {
  std::vector<T> coef(q.m * q.outputs * q.p), intercept(q.m * q.outputs);
  trainer.coef(coef.data());
  trainer.intercept(intercept.data());
  Bytes out;
  append(out, coef);
  append(out, intercept);
  for (const auto& epoch : trainer.history()) append(out, epoch);
  return out;
}

template <class T>
Bytes train_bytes(const Problem<T>& q, Solver solver, std::int64_t batch_size, bool standardize, bool shuffle, int n_threads,
                  bool rich = false) {
  auto trainer = make_trainer(train_args(q, solver, batch_size, standardize, shuffle, n_threads, rich));
  if (trainer->advance(-1, -1, {}) != Status::done) return {};
  return results(q, *trainer);
}

// A training in which models finish one after the other, are remembered and restored, and which is saved and continued in between.
template <class T>
Bytes control_bytes(const Problem<T>& q, Solver solver, std::int64_t batch_size, bool validate, int n_threads) {
  auto args = [&] {
    TrainArgs<T> a = train_args(q, solver, batch_size, true, true, n_threads, false);
    a.track_train_loss = true;
    a.epochs = 3;
    if (solver == Solver::adam) a.hyper[static_cast<int>(Hyper::average)].assign(q.m, 3.0);
    if (validate) {
      a.validation_X = a.X;
      a.validation_y = a.y;
    }
    return a;
  };
  auto trainer = make_trainer(args());
  const auto mask = [&q](auto&& of) {
    std::unique_ptr<bool[]> chosen(new bool[q.m]);
    for (std::int64_t k = 0; k < q.m; ++k) chosen[k] = of(k);
    return chosen;
  };
  const auto remembered = mask([](std::int64_t k) { return k % 2 == 0; });
  trainer->snapshot(remembered.get());
  Bytes out;
  std::vector<double> loss(q.m);
  for (std::int64_t part = 1; part <= 4; ++part) {
    trainer->advance(2, -1, {});
    trainer->finish(mask([&](std::int64_t k) { return k * 4 < q.m * part && k % 7 != 3; }).get());
    trainer->scale_learning_rate(std::vector<double>(q.m, 0.5).data());
    trainer->train_loss(loss.data(), part % 2 == 0);
    append(out, loss);
    if (part == 3) trainer->restore(remembered.get());
    const TrainArgs<T> again = args();
    auto saved = std::make_shared<SavedState>();
    std::vector<void*> arrays;
    for (const StateField& field : state_fields<T>(again)) {
      saved->arrays[field.name].resize(q.m * field.height * (field.type == 't' ? sizeof(T) : 8));
      arrays.push_back(saved->arrays[field.name].data());
    }
    saved->progress = trainer->state(arrays);
    TrainArgs<T> next = again;
    next.state = saved;
    if (part % 2 == 0) trainer = make_trainer(std::move(next));
    if (part == 2) trainer->snapshot(remembered.get());
  }
  trainer->advance(-1, -1, {});
  const Bytes ended = results(q, *trainer);
  out.insert(out.end(), ended.begin(), ended.end());
  return out;
}

constexpr Solver kSolvers[] = {Solver::sgd,     Solver::momentum, Solver::nesterov, Solver::adagrad,
                               Solver::rmsprop, Solver::adam,     Solver::adamw};

// A panel of two whole vectors of models, stepped three times on made-up gradient sums: at once, or in its parts.
template <class T>
Bytes parts_bytes(const Problem<T>& q, Solver solver) {
  auto run = [&](bool in_parts) {
    PanelProblem<T> panel(q, solver, 2);
    const std::int64_t lanes = panel.lanes;
    for (std::int64_t l = 0; l < lanes; l += 2) {
      panel.set(Hyper::clip_norm, l, 0.5);
      panel.set(Hyper::average, l, 1);
    }
    const PanelState<T> state = panel.state();
    const SolverSettings settings{solver, true, true, true, true, false, 10, 5};
    const UpdateKernels<T>& kernels = update_kernels<T>(current_level());
    const std::uint64_t all = panel.all();
    std::vector<T> replaced(step_memory(q.p, kMostLanes<T>), T(7));
    std::uint64_t lost = 0;
    for (int step = 0; step < 3; ++step) {
      panel.draw(q, step);
      if (step == 1) panel.grad[3 % lanes] = std::numeric_limits<T>::infinity();
      const BatchSums<T> sums = panel.sums();
      if (!in_parts) {
        lost |= kernels.step(settings, state, sums, all & ~lost, replaced.data());
      } else {
        std::vector<double> squares(lanes), squares_b(lanes);
        kernels.norms(settings, state, sums, squares.data(), squares_b.data());
        clip_factors(squares.data(), squares_b.data(), panel.hyper.data() + static_cast<int>(Hyper::clip_norm) * lanes, lanes, 1,
                     squares.data());
        const std::uint64_t now = kernels.probe(settings, state, sums, all & ~lost, squares.data());
        lost |= now;
        kernels.commit(settings, state, sums, all & ~lost, squares.data());
      }
    }
    check(lost == (std::uint64_t{1} << 3 % lanes), "the lane of an infinite gradient diverges, and no other");
    Bytes bytes;
    for (const auto* array : {&panel.W, &panel.first, &panel.second, &panel.average, &panel.b, &panel.b_first, &panel.b_second, &panel.b_average})
      append(bytes, *array);
    for (const auto* array : {&panel.updates, &panel.power1, &panel.power2}) append(bytes, *array);
    return bytes;
  };
  check(run(true) == run(false), "norms, probe and commit are a step");
  return {};  // levels differ in lanes, so there is nothing to compare between them here
}

// Two outputs of one model have one norm, and one factor.
void joint_clipping() {
  const double squares[] = {9, 7, 1, 1}, intercepts[] = {0, 9, 0, 2}, clip[] = {1, 1, 2, 2};
  double factor[4];
  clip_factors(squares, intercepts, clip, 2, 2, factor);
  check(factor[0] == 0.2 && factor[1] == 0.2 && factor[2] == 1 && factor[3] == 1, "clip_factors joins the outputs of a model");
}

template <class T>
void kernels(const char* type) {
  const std::int64_t shapes[][3] = {{40, 1, 1}, {33, 7, 3}, {700, 20, 17}, {1100, 9, 50}, {70, 257, 5}, {120, 1500, 8}};
  for (const auto& shape : shapes) {
    const Problem<T> q(shape[0], shape[1], shape[2], 11);
    const std::string name = std::string(type) + " " + std::to_string(q.n) + "x" + std::to_string(q.p) + "x" + std::to_string(q.m);
    // Under the sanitizers the serial level is slow: all combinations on the small problems, every eleventh on the others.
    auto due = [large = q.n * q.p * q.m > 1000, turn = 0]() mutable { return !large || turn++ % 11 == 0; };
    for (int loss = 0; loss < static_cast<int>(Loss::multinomial); ++loss)
      for (int flags = 0; flags < 8; ++flags)
        if (due()) same_on_all_levels("loss_gradient " + name + " flags " + std::to_string(flags), [&] {
          return gradient_bytes<T>(q, static_cast<Loss>(loss), flags & 1, flags & 2, (flags & 6) == 6, 1 + (flags & 1));
        });
    if (q.p > 256 && q.m > 4) {
      const auto with_blocks_of = [&](std::int64_t bytes) {
        const std::int64_t before = block_bytes();
        set_block_bytes(bytes);
        const Bytes out = gradient_bytes<T>(q, Loss::log_loss, true, true, true, 2);
        set_block_bytes(before);
        return out;
      };
      check(with_blocks_of(1) == with_blocks_of(1 << 30) && with_blocks_of(1) == with_blocks_of(block_bytes()), "blocks of any size " + name);
    }
    for (std::int64_t outputs : {2, 3, 10, 101})
      for (int flags = 0; flags < 8; ++flags) {
        if (outputs * q.p * q.m > 100'000 || !due()) continue;
        same_on_all_levels("multinomial " + name + " outputs " + std::to_string(outputs) + " flags " + std::to_string(flags), [&] {
          return gradient_bytes<T>(q, Loss::multinomial, flags & 1, flags & 2, (flags & 6) == 6, 1 + (flags & 1), outputs);
        });
      }
    for (Method method : {Method::lbfgs, Method::newton, Method::exact, Method::elastic_net, Method::elastic_net_path, Method::proximal_newton})
      for (int flags = 0; flags < 8; ++flags)
        if (q.p <= 300 && due())
          same_on_all_levels("optimum " + name + " method " + std::to_string(static_cast<int>(method)) + " flags " + std::to_string(flags), [&] {
            return optimum_bytes<T>(q, method, flags & 1, flags & 2, flags & 4, 1 + (flags & 1));
          });
    for (Solver solver : kSolvers)
      for (int flags = 0; flags < 2; ++flags)
        if (due()) same_on_all_levels("train, clipped and averaged, " + name + " solver " + std::to_string(static_cast<int>(solver)), [&] {
          return train_bytes<T>(q, solver, q.n > 1024 ? 1030 : 16, flags & 1, true, 1 + (flags & 1), true);
        });
    for (Solver solver : kSolvers)
      if (due()) same_on_all_levels("parts of a step " + name, [&] { return parts_bytes<T>(q, solver); });
    for (Solver solver : {Solver::sgd, Solver::adam})
      for (std::int64_t batch : {std::int64_t{1}, std::int64_t{16}, std::int64_t{1030}, q.n})
        for (int flags = 0; flags < 2; ++flags) {
          if ((batch == 1 && q.n > 100) || !due()) continue;
          same_on_all_levels("train " + name + " batch " + std::to_string(batch), [&] {
            return train_bytes<T>(q, solver, batch, flags & 1, true, 1 + 2 * (flags & 1));
          });
        }
  }
  // The last number is that of the outputs.
  for (const auto& shape : {std::array<std::int64_t, 4>{300, 5, 60, 1}, {1100, 9, 23, 1}, {40, 300, 9, 1}, {2100, 1, 100, 1},
                            {300, 5, 30, 3}, {1100, 9, 7, 10}, {40, 30, 2, 101}}) {
    Problem<T> q(shape[0], shape[1], shape[2], 12);
    q.outputs = shape[3];
    for (std::int64_t i = 0; i < q.n && q.outputs > 1; ++i) q.y[i] = static_cast<T>(q.ids[i] == 255 ? -1 : i * 7 % q.outputs);
    if (q.outputs > 1)
      for (Solver solver : {Solver::nesterov, Solver::rmsprop, Solver::adamw})
        same_on_all_levels("train outputs, clipped and averaged, " + std::to_string(q.outputs),
                           [&] { return train_bytes<T>(q, solver, q.n > 1024 ? 1030 : 16, true, true, 3, true); });
    for (Solver solver : {Solver::sgd, Solver::adam})
      for (std::int64_t batch : {std::int64_t{16}, std::int64_t{1030}})
        for (int flags = 0; flags < 2; ++flags) {
          if (batch < 100 && q.n > 1000) continue;
          const std::string name = std::string("finishing models ") + type + " " + std::to_string(q.n) + "x" + std::to_string(q.p) + " batch " +
                                   std::to_string(batch);
          if (!same_on_all_levels(name, [&] { return control_bytes<T>(q, solver, batch, flags, 1 + 4 * flags); })) continue;
          const Bytes alone = control_bytes<T>(q, solver, batch, flags, 1);
          check(!alone.empty() && control_bytes<T>(q, solver, batch, flags, 5) == alone, name + " on 5 threads");
        }
  }
  std::vector<T> values(1000, T(1));
  check(first_non_finite(values.data(), 1000, 2) == -1, "first_non_finite: all finite");
  values[777] = std::numeric_limits<T>::infinity();
  check(first_non_finite(values.data(), 1000, 2) == 777, "first_non_finite: one infinity");
}

void folds() {
  const Problem<float> q(700, 1, 1, 5);
  same_on_all_levels("folds", [&] {
    std::vector<std::int64_t> sizes(10), rows(q.n);
    std::vector<std::int8_t> role(q.n);
    folds_sizes(q.folds, sizes.data());
    folds_role(q.folds, 3, 0, q.n, role.data());
    rows.resize(folds_indices(q.folds, 3, Role::score, q.n, rows.data()));
    std::vector<std::uint16_t> ids(q.n);
    assign_kfold<std::uint16_t>(q.n, 9, Shuffle{true, 4, 1}, ids.data());
    Bytes bytes;
    append(bytes, sizes);
    append(bytes, role);
    append(bytes, rows);
    append(bytes, ids);
    return bytes;
  });
}

void index() {
  for (std::int64_t n : {1, 2, 3, 1000, 1024, 1025, 5000, 65537}) {
    same_on_all_levels("permutation " + std::to_string(n), [&] {
      const Permutation p = make_permutation(n, 5, 1, kStreamBatches);
      std::vector<std::int64_t> out(n);
      permutation_fill(p, 0, n, out.data());
      std::vector<bool> seen(n);
      for (std::int64_t i = 0; i < n; ++i) {
        seen.at(out[i]) = true;
        if (permutation_inverse(p, out[i]) != i) return Bytes{0};
      }
      check(std::count(seen.begin(), seen.end(), true) == n, "permutation is a bijection");
      Bytes bytes;
      append(bytes, out);
      return bytes;
    });
  }
}

void maths() {
  std::mt19937_64 random(3);
  std::vector<float> in32;
  std::vector<double> in64;
  for (int i = 0; i < 4099; ++i) {
    const std::uint64_t bits = random();
    float f;
    double d;
    std::memcpy(&f, &bits, 4);
    std::memcpy(&d, &bits, 8);
    in32.push_back(f);
    in64.push_back(d);
  }
  for (MathFunction function : {MathFunction::exp, MathFunction::log, MathFunction::log1p, MathFunction::cos})
    same_on_all_levels("maths", [&] {
      std::vector<float> out32(in32.size());
      std::vector<double> out64(in64.size());
      math_apply(current_level(), function, in32.data(), out32.data(), static_cast<std::int64_t>(in32.size()));
      math_apply(current_level(), function, in64.data(), out64.data(), static_cast<std::int64_t>(in64.size()));
      Bytes bytes;
      append(bytes, out32);
      append(bytes, out64);
      return bytes;
    });
}

void threads() {
  std::vector<int> seen(37, 0);
  run_team(37, [&](int i) { seen[i] = i + 1; });
  bool all = true;
  for (int i = 0; i < 37; ++i) all = all && seen[i] == i + 1;
  check(all, "run_team runs every body once, with more threads than cores");
  bool thrown = false;
  try {
    run_team(3, [](int i) {
      if (i == 2) throw std::runtime_error("expected");
    });
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  check(thrown, "run_team rethrows");
  for (Level level : supported_levels()) {
    check(fma_peak(level, 4, 1, 0.001) > 0 && fma_peak(level, 8, 2, 0.001) > 0, "fma_peak");
    std::vector<double> memory(1003), copied(1003, -1.0);
    std::vector<float> table(1003 * 3);
    std::vector<std::int64_t> rows;
    double sum = 0, gathered = 0;
    for (int i = 0; i < 1003; ++i) {
      sum += memory[i] = i;
      for (int j = 0; j < 3; ++j) table[3 * i + j] = static_cast<float>(i);
      if (i % 5) rows.push_back(1002 - i), gathered += 3.0 * (1002 - i);
    }
    const auto n_rows = static_cast<std::int64_t>(rows.size());
    check(read_bandwidth(level, memory.data(), 1003, 2, 2).sum == sum, "read_bandwidth");
    check(copy_bandwidth(level, memory.data(), copied.data(), 1003, 2, 2) > 0 && copied == memory, "copy_bandwidth");
    check(gather_bandwidth(level, table.data(), 3, rows.data(), n_rows, 2, 2).sum == gathered, "gather_bandwidth of rows");
    gathered /= 3;
    check(gather_bandwidth(level, memory.data(), 1, rows.data(), n_rows, 2, 2).sum == gathered, "gather_bandwidth of elements");
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int asked = count == 2 ? std::atoi(arguments[1]) : 1;
  if (count > 2 || asked < 1) {
    std::fprintf(stderr, "usage: %s [N]    every Nth case of the gradients and trainings, N at least 1\n", arguments[0]);
    return 2;
  }
  std::printf("levels");
  for (Level level : supported_levels()) std::printf(" %s", level_name(level));
  std::printf("\n");
  threads();
  maths();
  index();
  folds();
  joint_clipping();
  every = asked;
  kernels<float>("float32");
  kernels<double>("float64");
  std::printf("digest %016llx\n", static_cast<unsigned long long>(digest));
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
