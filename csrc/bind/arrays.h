// Checks of NumPy arrays at the boundary. Nothing is converted here: a wrong dtype, layout or shape raises and names
// the argument, what came and what was wanted.
#pragma once
#include <pybind11/numpy.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bind/bind.h"

namespace gradfold {

inline std::string shape_text(const py::array& a) {
  std::string s = "(";
  for (py::ssize_t i = 0; i < a.ndim(); ++i) s += (i ? ", " : "") + std::to_string(a.shape(i));
  return s + (a.ndim() == 1 ? ",)" : ")");
}

[[noreturn]] inline void wrong_type(const char* name, const std::string& came, const std::string& wanted) {
  throw py::type_error(std::string(name) + ": got " + came + ", wanted " + wanted);
}
[[noreturn]] inline void wrong_value(const char* name, const std::string& came, const std::string& wanted) {
  throw py::value_error(std::string(name) + ": got " + came + ", wanted " + wanted);
}

inline std::string type_text(const py::handle& h) {
  if (py::isinstance<py::array>(h))
    return "an array of " + py::cast<std::string>(py::str(py::reinterpret_borrow<py::array>(h).dtype()));
  return py::cast<std::string>(py::str(py::type::handle_of(h).attr("__name__")));
}

inline bool is_float32(const py::array& a) { return py::isinstance<py::array_t<float>>(a); }

// A C-contiguous, aligned, native array of T with the given shape; -1 in `shape` accepts any length there.
template <class T>
const T* read_array(const py::handle& h, const char* name, const std::vector<std::int64_t>& shape) {
  if (!py::isinstance<py::array>(h) || !py::isinstance<py::array_t<T>>(h))
    wrong_type(name, type_text(h), "an array of " + py::cast<std::string>(py::str(py::dtype::of<T>())));
  auto a = py::reinterpret_borrow<py::array>(h);
  if (!(a.flags() & py::array::c_style)) wrong_value(name, "an array that is not C-contiguous", "C order");
  if (reinterpret_cast<std::uintptr_t>(a.data()) % alignof(T) != 0) wrong_value(name, "a misaligned array", "alignment");
  bool good = a.ndim() == static_cast<py::ssize_t>(shape.size());
  for (py::ssize_t i = 0; good && i < a.ndim(); ++i)
    good = shape[i] < 0 || a.shape(i) == static_cast<py::ssize_t>(shape[i]);
  if (!good) {
    std::string want = "shape (";
    for (std::size_t i = 0; i < shape.size(); ++i)
      want += (i ? ", " : "") + (shape[i] < 0 ? std::string("any") : std::to_string(shape[i]));
    wrong_value(name, "shape " + shape_text(a), want + (shape.size() == 1 ? ",)" : ")"));
  }
  return static_cast<const T*>(a.data());
}

template <class T>
T* write_array(const py::handle& h, const char* name, const std::vector<std::int64_t>& shape) {
  const T* p = read_array<T>(h, name, shape);
  if (!py::reinterpret_borrow<py::array>(h).writeable()) wrong_value(name, "a read-only array", "a writeable array");
  return const_cast<T*>(p);
}

}  // namespace gradfold
