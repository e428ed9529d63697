#include "roofline/roofline.h"

#include <pybind11/stl.h>

#include <optional>

#include "bind/arrays.h"

namespace gradfold {

namespace {

// The level of that name, or for None the one in use.
Level read_level(const std::optional<std::string>& name) {
  if (!name) return current_level();
  std::string known;
  for (Level level : supported_levels()) {
    if (*name == level_name(level)) return level;
    known += (known.empty() ? "" : ", ") + std::string(level_name(level));
  }
  wrong_value("level", "'" + *name + "'", "one of " + known);
}

void check_counts(int n_threads, int repeats) {
  if (n_threads < 1) wrong_value("n_threads", std::to_string(n_threads), "at least 1");
  if (repeats < 1) wrong_value("repeats", std::to_string(repeats), "at least 1");
}

template <class T>
py::tuple gather(Level level, const py::array& table, const py::array& rows, int n_threads, int repeats) {
  const T* data = read_array<T>(table, "table", {-1, -1});
  const std::int64_t* index = read_array<std::int64_t>(rows, "rows", {-1});
  const std::int64_t n_rows = table.shape(0), width = table.shape(1), n = rows.shape(0);
  if (width < 1) wrong_value("table", "shape " + shape_text(table), "at least one column");
  for (std::int64_t i = 0; i < n; ++i)
    if (index[i] < 0 || index[i] >= n_rows)
      wrong_value("rows", std::to_string(index[i]) + " at " + std::to_string(i), "0 to " + std::to_string(n_rows - 1));
  Bandwidth found;
  {
    const NoGil released;  // reads memory only
    found = gather_bandwidth(level, data, width, index, n, n_threads, repeats);
  }
  return py::make_tuple(found.bytes_per_second, found.sum);
}

}  // namespace

void register_roofline(py::module_& m) {
  using namespace pybind11::literals;
  auto sub = m.def_submodule("roofline", "the machine's limits, for benchmarks");
  sub.def(
      "fma_peak",
      [](int sizeof_type, int n_threads, double seconds, const std::optional<std::string>& level) {
        if (sizeof_type != 4 && sizeof_type != 8) wrong_value("sizeof_type", std::to_string(sizeof_type), "4 or 8");
        if (n_threads < 1) wrong_value("n_threads", std::to_string(n_threads), "at least 1");
        if (!(seconds > 0)) wrong_value("seconds", std::to_string(seconds), "a number above 0");
        const Level chosen = read_level(level);
        const NoGil released;  // touches no Python object
        return fma_peak(chosen, sizeof_type, n_threads, seconds);
      },
      "sizeof_type"_a, "n_threads"_a, "seconds"_a = 0.2, "level"_a = py::none());
  sub.def(
      "read_bandwidth",
      [](const py::array& memory, int n_threads, int repeats, const std::optional<std::string>& level) {
        check_counts(n_threads, repeats);
        const double* data = read_array<double>(memory, "memory", {-1});
        const std::int64_t n = memory.shape(0);
        const Level chosen = read_level(level);
        Bandwidth found;
        {
          const NoGil released;  // reads memory only
          found = read_bandwidth(chosen, data, n, n_threads, repeats);
        }
        return py::make_tuple(found.bytes_per_second, found.sum);
      },
      "memory"_a, "n_threads"_a, "repeats"_a = 3, "level"_a = py::none());
  sub.def(
      "copy_bandwidth",
      [](const py::array& source, const py::array& target, int n_threads, int repeats, const std::optional<std::string>& level) {
        check_counts(n_threads, repeats);
        const double* from = read_array<double>(source, "source", {-1});
        const std::int64_t n = source.shape(0);
        double* to = write_array<double>(target, "target", {n});
        const auto a = reinterpret_cast<std::uintptr_t>(from), b = reinterpret_cast<std::uintptr_t>(to);
        const auto bytes = static_cast<std::uintptr_t>(n) * sizeof(double);
        if (a < b + bytes && b < a + bytes) wrong_value("target", "an array that overlaps source", "memory of its own");
        const Level chosen = read_level(level);
        const NoGil released;  // reads and writes memory only
        return copy_bandwidth(chosen, from, to, n, n_threads, repeats);
      },
      "source"_a, "target"_a, "n_threads"_a, "repeats"_a = 3, "level"_a = py::none());
  sub.def(
      "gather_bandwidth",
      [](const py::array& table, const py::array& rows, int n_threads, int repeats, const std::optional<std::string>& level) {
        check_counts(n_threads, repeats);
        const Level chosen = read_level(level);
        return py::isinstance<py::array_t<float>>(table) ? gather<float>(chosen, table, rows, n_threads, repeats)
                                                         : gather<double>(chosen, table, rows, n_threads, repeats);
      },
      "table"_a, "rows"_a, "n_threads"_a, "repeats"_a = 3, "level"_a = py::none());
}

}  // namespace gradfold
