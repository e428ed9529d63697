#include "update/update.h"

#include <cmath>
#include <iterator>
#include <limits>

namespace gradfold {

GRADFOLD_DISPATCH(UpdateKernels, update_kernels, update)

namespace {

constexpr const char* kSolverNames[] = {"sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"};

struct HyperRule {
  const char* name;
  double initial;
  const char* wanted;
  bool (*good)(double);
};
constexpr double kInf = HUGE_VAL;
bool fraction(double v) { return v >= 0 && v < 1; }
bool positive(double v) { return v > 0 && v < kInf; }
bool positive_or_inf(double v) { return v > 0; }
bool not_negative(double v) { return v >= 0 && v < kInf; }
constexpr const char* kFraction = "at least 0 and below 1";
constexpr const char* kPositive = "a finite number above 0";
constexpr const char* kNotNegative = "a finite number of at least 0";

// In the order of Hyper.
constexpr HyperRule kHyperRules[] = {
    {"momentum", 0.9, kFraction, fraction},
    {"beta1", 0.9, kFraction, fraction},
    {"beta2", 0.999, kFraction, fraction},
    {"epsilon", 1e-8, "a finite number above 0, also in the type of X", positive},
    {"rho", 0.99, kFraction, fraction},
    {"weight_decay", 0.01, kNotNegative, not_negative},
    {"clip_norm", kInf, "above 0 (inf: no clipping)", positive_or_inf},
    {"clip_value", kInf, "above 0 (inf: no clipping)", positive_or_inf},
    {"average", 0, "a whole number from 0 (no average) to 2^53", [](double v) { return v >= 0 && v <= 0x1p53 && v == std::floor(v); }},
    {"power_t", 0.25, kNotNegative, not_negative},
    {"decay", 0.9, kPositive, positive},
    {"decay_epochs", 10, kPositive, positive},
    {"warmup", 0, kNotNegative, not_negative},
    {"plateau_factor", 0.2, "above 0 and below 1", [](double v) { return v > 0 && v < 1; }},
    {"t0", 1, kPositive, positive},  // inverse_scaling: learning_rate / (updates + t0)^power_t
};
static_assert(std::size(kHyperRules) == kHypers);

template <class Names>
std::string quoted(int n, Names name) {
  std::string text;
  for (int i = 0; i < n; ++i) text += (i == 0 ? "'" : i + 1 == n ? "' or '" : "', '") + std::string(name(i));
  return text + "'";
}

}  // namespace

int solver_index(const std::string& name) {
  for (int i = 0; i < static_cast<int>(std::size(kSolverNames)); ++i)
    if (name == kSolverNames[i]) return i;
  return -1;
}
std::string solver_names() {
  return quoted(static_cast<int>(std::size(kSolverNames)), [](int i) { return kSolverNames[i]; });
}

int hyper_index(const std::string& name) {
  for (int i = 0; i < kHypers; ++i)
    if (name == kHyperRules[i].name) return i;
  return -1;
}
std::string hyper_names() {
  return quoted(kHypers, [](int i) { return kHyperRules[i].name; });
}
double hyper_default(Solver solver, Hyper hyper) {
  if (hyper == Hyper::epsilon && solver == Solver::adagrad) return 1e-10;  // as torch.optim has them
  return kHyperRules[static_cast<int>(hyper)].initial;
}
const char* hyper_wanted(Hyper hyper, double value, bool is_float) {
  const HyperRule& rule = kHyperRules[static_cast<int>(hyper)];
  const bool good = rule.good(value) && (hyper != Hyper::epsilon || !is_float || static_cast<float>(value) > 0);
  return good ? nullptr : rule.wanted;
}

bool has_first(Solver s) { return s == Solver::momentum || s == Solver::nesterov || has_powers(s); }
bool has_second(Solver s) { return s == Solver::adagrad || s == Solver::rmsprop || has_powers(s); }
bool has_powers(Solver s) { return s == Solver::adam || s == Solver::adamw; }

void clip_factors(const double* squares, const double* intercept_squares, const double* clip_norm, std::int64_t n_models,
                  std::int64_t n_outputs, double* factor) {
  for (std::int64_t m = 0; m < n_models; ++m) {
    const std::int64_t first = m * n_outputs;
    double total = 0;
    for (std::int64_t k = 0; k < n_outputs; ++k) total += squares[first + k];
    for (std::int64_t k = 0; k < n_outputs; ++k) total += intercept_squares[first + k];
    double f = 1.0;  // also of NaN: the step diverges anyway
    if (clip_norm[first] < kInf) {
      const double norm = std::sqrt(total);
      if (norm > clip_norm[first]) f = clip_norm[first] / norm;
      // Squares that overflow say nothing of the norm: the step diverges, where a factor of 0 would stop the model without a word.
      if (norm == kInf) f = std::numeric_limits<double>::quiet_NaN();
    }
    for (std::int64_t k = 0; k < n_outputs; ++k) factor[first + k] = f;
  }
}

}  // namespace gradfold
