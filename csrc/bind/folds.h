// FoldsView over the arrays of gradfold.index.Folds, checked.
#pragma once
#include "bind/arrays.h"
#include "gradient/roles.h"

namespace gradfold {

inline FoldsView folds_view(const py::object& ids, const py::object& conditions, std::int64_t n_rows) {
  FoldsView view{};
  if (py::isinstance<py::array_t<std::uint8_t>>(ids)) {
    view.ids = read_array<std::uint8_t>(ids, "ids", {-1, n_rows});
    view.id_bytes = 1;
  } else if (py::isinstance<py::array_t<std::uint16_t>>(ids)) {
    view.ids = read_array<std::uint16_t>(ids, "ids", {-1, n_rows});
    view.id_bytes = 2;
  } else {
    view.ids = read_array<std::uint32_t>(ids, "ids", {-1, n_rows});
    view.id_bytes = 4;
  }
  static_assert(sizeof(FoldCondition) == 5 * sizeof(std::int64_t));
  view.conditions = reinterpret_cast<const FoldCondition*>(read_array<std::int64_t>(conditions, "conditions", {-1, -1, 5}));
  auto id_array = py::reinterpret_borrow<py::array>(ids);
  auto condition_array = py::reinterpret_borrow<py::array>(conditions);
  view.n_id_rows = id_array.shape(0);
  view.n_rows = n_rows;
  view.n_splits = condition_array.shape(0);
  view.n_conditions = condition_array.shape(1);
  if (view.n_splits < 1 || view.n_conditions < 1) wrong_value("conditions", "no split or no condition", "at least one of each");
  if (folds_first_bad_condition(view, 0, view.n_splits) >= 0)
    wrong_value("conditions", "a row that is out of range for ids", "(id_row, score_lo <= score_hi, train_lo <= train_hi)");
  return view;
}

inline const std::int64_t* split_of_model_array(const py::object& h, std::int64_t n_models, std::int64_t n_splits) {
  const std::int64_t* a = read_array<std::int64_t>(h, "split_of_model", {n_models});
  for (std::int64_t m = 0; m < n_models; ++m)
    if (a[m] < 0 || a[m] >= n_splits)
      wrong_value("split_of_model", std::to_string(a[m]) + " for model " + std::to_string(m),
                  "a split in [0, " + std::to_string(n_splits) + ")");
  return a;
}

}  // namespace gradfold
