// Private bindings of the maths functions: tests reach the kernels' exp, log, log1p and cos through them.
#include "simd/simd.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "bind/arrays.h"
#include "bind/bind.h"

namespace gradfold {
namespace {

struct NamedFunction {
  const char* name;
  MathFunction function;
};
constexpr NamedFunction kFunctions[] = {
    {"exp", MathFunction::exp},     {"exp_nonpositive", MathFunction::exp_nonpositive}, {"log", MathFunction::log},
    {"log1p", MathFunction::log1p}, {"log1p_unit", MathFunction::log1p_unit},           {"cos", MathFunction::cos},
};

MathFunction function_named(const std::string& name) {
  std::string names;
  for (const auto& known : kFunctions) {
    if (name == known.name) return known.function;
    names += (names.empty() ? "" : ", ") + std::string(known.name);
  }
  wrong_value("name", "'" + name + "'", "one of " + names);
}

template <class T>
void apply_typed(MathFunction f, const py::handle& x, const py::handle& out) {
  const T* from = read_array<T>(x, "x", {-1});
  const auto n = static_cast<std::int64_t>(py::len(x));
  T* to = write_array<T>(out, "out", {n});
  if (to != from && to < from + n && from < to + n)
    wrong_value("out", "an array that overlaps x", "x itself or none of it");
  const Level level = current_level();
  // The loop touches only the two buffers, which the arguments keep alive: other Python threads may run.
  const NoGil released;
  math_apply(level, f, from, to, n);
}

void apply(const std::string& name, const py::object& x, const py::object& out) {
  const MathFunction f = function_named(name);
  if (py::isinstance<py::array_t<double>>(x)) return apply_typed<double>(f, x, out);
  if (py::isinstance<py::array_t<float>>(x)) return apply_typed<float>(f, x, out);
  wrong_type("x", type_text(x), "an array of float32 or float64");
}

// Flush-to-zero for results and operands, in the thread that calls; true where the CPU has such a switch.
bool flush_to_zero(bool on) {
#if defined(__x86_64__)
  constexpr unsigned kBoth = 0x8040;  // FTZ and DAZ
  _mm_setcsr(on ? _mm_getcsr() | kBoth : _mm_getcsr() & ~kBoth);
  return true;
#elif defined(__aarch64__)
  constexpr std::uint64_t kFlush = std::uint64_t{1} << 24;
  std::uint64_t control;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  asm volatile("msr fpcr, %0" ::"r"(on ? control | kFlush : control & ~kFlush));
  return true;
#else
  static_cast<void>(on);
  return false;
#endif
}

}  // namespace

void register_simd(py::module_& m) {
  auto sub = m.def_submodule("simd", "Private: the kernels' maths functions, for tests");
  sub.def("apply", &apply, py::arg("name"), py::arg("x"), py::arg("out"),
          "out[i] = f(x[i]) at the current level; x and out are one-dimensional, float32 or float64 alike.");
  sub.def("wrong_lane_member", [] { return wrong_lane_member(current_level()); },
          "The first member of the current level's lane types that disagrees with plain C++, or None.");
  sub.def("flush_to_zero", &flush_to_zero, py::arg("on"),
          "Switch flush-to-zero of the calling thread; False where the CPU has no such switch.");
}

}  // namespace gradfold
