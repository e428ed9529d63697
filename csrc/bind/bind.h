// What every binding file shares: one register function per family, called by module.cpp.
#pragma once
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <optional>
#include <stdexcept>

namespace gradfold {
namespace py = pybind11;

// Whether the interpreter is going down: a thread that asks for the GIL then never gets it.
inline bool finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// Gives the GIL up for its lifetime; whoever declares one says why it may. A daemon thread that comes back while the interpreter
// finalizes sleeps for ever, as CPython 3.14 has it: older versions end the thread there, through C++ frames that cannot unwind.
class NoGil {
 public:
  NoGil() : state_(PyEval_SaveThread()) {}
  ~NoGil() {
    while (finalizing()) pause();
    PyEval_RestoreThread(state_);
  }
  NoGil(const NoGil&) = delete;
  NoGil& operator=(const NoGil&) = delete;

 private:
  PyThreadState* state_;
};

// Python's own signal handlers, for a loop that has given the GIL up: call it now and then on the thread that had it. What a handler
// raises calls `cancel` and waits for `rethrow`, which needs the GIL.
class Signals {
 public:
  explicit Signals(std::function<void()> cancel) : cancel_(std::move(cancel)) {}
  void operator()() {
    if (finalizing()) return cancel_();  // a daemon thread at exit: the GIL cannot be had any more
    py::gil_scoped_acquire acquire;
    if (!raised_ && PyErr_CheckSignals() != 0) {
      raised_.emplace();
      cancel_();
    }
  }
  void rethrow() const {
    if (raised_) throw *raised_;
  }

 private:
  std::function<void()> cancel_;
  std::optional<py::error_already_set> raised_;
};

// One thread at a time may advance an object or change it: for its lifetime the object is busy, and whoever comes then is refused.
class Exclusive {
 public:
  Exclusive(std::atomic<bool>& busy, const char* refusal) : busy_(busy) {
    if (busy_.exchange(true)) throw std::runtime_error(refusal);
  }
  ~Exclusive() { busy_.store(false); }
  Exclusive(const Exclusive&) = delete;
  Exclusive& operator=(const Exclusive&) = delete;

 private:
  std::atomic<bool>& busy_;
};

void register_levels(py::module_& m);
void register_simd(py::module_& m);
void register_index(py::module_& m);
void register_gradient(py::module_& m);
void register_metrics(py::module_& m);
void register_train(py::module_& m);
void register_roofline(py::module_& m);
void register_optimum(py::module_& m);

}  // namespace gradfold
