#include "levels/levels.h"

#include <pybind11/stl.h>

#include "bind/bind.h"

namespace gradfold {

void register_levels(py::module_& m) {
  auto sub = m.def_submodule("levels", "CPU instruction levels");
  sub.def("supported", [] {
    std::vector<std::string> names;
    for (Level level : supported_levels()) names.emplace_back(level_name(level));
    return names;
  });
  sub.def("current", [] { return std::string(level_name(current_level())); });
  sub.def("_force", &force_level, py::arg("name"), "Private, for tests: force a level in this process; '' undoes it.");
}

}  // namespace gradfold
