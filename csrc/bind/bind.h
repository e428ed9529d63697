// What every binding file shares: one register function per family, called by module.cpp.
#pragma once
#include <pybind11/pybind11.h>

namespace gradfold {
namespace py = pybind11;

void register_levels(py::module_& m);
void register_simd(py::module_& m);
void register_index(py::module_& m);
void register_gradient(py::module_& m);
void register_train(py::module_& m);
void register_roofline(py::module_& m);

}  // namespace gradfold
