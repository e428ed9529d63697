#include "bind/bind.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "gradfold's compiled kernels; private, use the Python modules beside it";
  gradfold::register_levels(m);
  gradfold::register_index(m);
  gradfold::register_simd(m);
  gradfold::register_gradient(m);
  gradfold::register_metrics(m);
  gradfold::register_train(m);
  gradfold::register_roofline(m);
  gradfold::register_optimum(m);
}
