#include "roofline/roofline.h"

#include "bind/arrays.h"

namespace gradfold {

void register_roofline(py::module_& m) {
  using namespace pybind11::literals;
  auto sub = m.def_submodule("roofline", "the machine's limits, for benchmarks");
  sub.def(
      "fma_peak",
      [](int sizeof_type, int n_threads, double seconds) {
        if (sizeof_type != 4 && sizeof_type != 8) wrong_value("sizeof_type", std::to_string(sizeof_type), "4 or 8");
        if (n_threads < 1) wrong_value("n_threads", std::to_string(n_threads), "at least 1");
        const NoGil released;  // touches no Python object
        return fma_peak(current_level(), sizeof_type, n_threads, seconds);
      },
      "sizeof_type"_a, "n_threads"_a, "seconds"_a = 0.2);
  sub.def(
      "read_bandwidth",
      [](const py::array& memory, int n_threads, int repeats) {
        if (n_threads < 1) wrong_value("n_threads", std::to_string(n_threads), "at least 1");
        if (repeats < 1) wrong_value("repeats", std::to_string(repeats), "at least 1");
        const double* data = read_array<double>(memory, "memory", {-1});
        const std::int64_t bytes = static_cast<std::int64_t>(memory.nbytes());
        const NoGil released;  // reads memory only
        return read_bandwidth(current_level(), data, bytes, n_threads, repeats);
      },
      "memory"_a, "n_threads"_a, "repeats"_a = 3);
}

}  // namespace gradfold
