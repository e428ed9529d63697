// The `index` family at the Python boundary. Arrays are allocated in Python; everything here is checked so that no
// argument can make a loop leave its arrays.
#include <pybind11/stl.h>

#include <tuple>

#include "bind/arrays.h"
#include "index/folds.h"
#include "index/groups.h"
#include "index/labels.h"
#include "index/permutation.h"
#include "index/philox.h"

namespace gradfold {
namespace {

// All loops of this file run without the GIL: they touch only arrays that the caller holds, and may take seconds.

std::string text(std::int64_t x) { return std::to_string(x); }

Permutation checked_permutation(std::int64_t n, std::uint64_t seed, std::uint32_t epoch, std::uint32_t stream) {
  if (n < 1) wrong_value("n", text(n), "an integer >= 1");
  return make_permutation(n, seed, epoch, stream);
}

std::int64_t checked_place(const char* name, std::int64_t i, std::int64_t n) {
  if (i < 0 || i >= n) throw py::index_error(std::string(name) + ": got " + text(i) + ", wanted 0 to " + text(n - 1));
  return i;
}

void fill(const Permutation& p, std::int64_t first, std::int64_t step, const py::array& out) {
  std::int64_t* to = write_array<std::int64_t>(out, "out", {-1});
  const std::int64_t count = out.shape(0);
  if (count == 0) return;
  if (count > p.n) wrong_value("out", text(count) + " items", "at most n = " + text(p.n));
  checked_place("first", first, p.n);
  __extension__ using Wide = __int128;
  const Wide last = static_cast<Wide>(first) + static_cast<Wide>(step) * (count - 1);
  if (last < 0 || last >= p.n) wrong_value("step", text(step), "positions that stay in 0 to n - 1");
  const NoGil released;
  permutation_fill_strided(p, first, step, count, to);
}

void map(const Permutation& p, const py::array& positions, bool inverse, const py::array& out) {
  const std::int64_t* from = read_array<std::int64_t>(positions, inverse ? "j" : "i", {-1});
  const std::int64_t count = positions.shape(0);
  std::int64_t* to = write_array<std::int64_t>(out, "out", {count});
  std::int64_t bad = -1;
  {
    const NoGil released;
    for (std::int64_t k = 0; k < count && bad < 0; ++k)
      if (from[k] < 0 || from[k] >= p.n) bad = k;
    if (bad < 0) permutation_map(p, inverse, from, count, to);
  }
  if (bad >= 0) checked_place(inverse ? "j" : "i", from[bad], p.n);
}

// For the statistical tests: out[k] = the values at the first positions under seeds[k].
void heads(std::int64_t n, const py::array& seeds, std::uint32_t epoch, std::uint32_t stream, std::int64_t step,
           const py::array& out) {
  const std::uint64_t* seed = read_array<std::uint64_t>(seeds, "seeds", {-1});
  const std::int64_t count = seeds.shape(0);
  std::int64_t* to = write_array<std::int64_t>(out, "out", {count, -1});
  const std::int64_t width = out.shape(1);
  if (n < 1) wrong_value("n", text(n), "an integer >= 1");
  if (step < 1 || width < 1 || (width - 1) > (n - 1) / step) wrong_value("out", text(width) + " columns", "at most n");
  const NoGil released;
  for (std::int64_t k = 0; k < count; ++k)
    permutation_fill_strided(make_permutation(n, seed[k], epoch, stream), 0, step, width, to + k * width);
}

void philox(const py::array& counters, const py::array& keys, const py::array& out) {
  const std::uint32_t* counter = read_array<std::uint32_t>(counters, "counters", {-1, 4});
  const std::int64_t count = counters.shape(0);
  const std::uint32_t* key = read_array<std::uint32_t>(keys, "keys", {count, 2});
  std::uint32_t* to = write_array<std::uint32_t>(out, "out", {count, 4});
  const NoGil released;
  for (std::int64_t k = 0; k < count; ++k) {
    const std::uint32_t* c = counter + 4 * k;
    const PhiloxBlock block = philox4x32_10({{c[0], c[1], c[2], c[3]}}, key[2 * k], key[2 * k + 1]);
    for (int i = 0; i < 4; ++i) to[4 * k + i] = block.word[i];
  }
}

// ---- folds -----------------------------------------------------------------------------------------------------

// Calls use(pointer) with ids of the array's own type: uint8, uint16 or uint32.
template <class Use>
auto with_id_type(const py::array& ids, const char* name, Use use) {
  if (py::isinstance<py::array_t<std::uint8_t>>(ids)) return use(std::uint8_t{});
  if (py::isinstance<py::array_t<std::uint16_t>>(ids)) return use(std::uint16_t{});
  if (py::isinstance<py::array_t<std::uint32_t>>(ids)) return use(std::uint32_t{});
  wrong_type(name, type_text(ids), "an array of uint8, uint16 or uint32");
}

// The arrays as a view. With `split` only that split's conditions are checked: leave-one-out asks for one of very many.
FoldsView view(const py::array& ids, const py::array& conditions, std::int64_t split = -1) {
  static_assert(sizeof(FoldCondition) == 5 * sizeof(std::int64_t));
  FoldsView folds{};
  with_id_type(ids, "ids", [&](auto id) {
    using Id = decltype(id);
    folds.ids = read_array<Id>(ids, "ids", {-1, -1});
    folds.id_bytes = static_cast<int>(sizeof(Id));
  });
  const std::int64_t* numbers = read_array<std::int64_t>(conditions, "conditions", {-1, -1, 5});
  folds.conditions = reinterpret_cast<const FoldCondition*>(numbers);
  folds.n_id_rows = ids.shape(0);
  folds.n_rows = ids.shape(1);
  folds.n_splits = conditions.shape(0);
  folds.n_conditions = conditions.shape(1);
  if (folds.n_rows == 0 || folds.n_id_rows == 0) wrong_value("ids", "shape " + shape_text(ids), "at least one row");
  if (folds.n_splits == 0 || folds.n_conditions == 0)
    wrong_value("conditions", "shape " + shape_text(conditions), "at least one split and one condition");
  const std::int64_t bad = split != -1 ? folds_first_bad_condition(folds, split, split + 1)
                                       : folds_first_bad_condition(folds, 0, folds.n_splits);
  if (bad >= 0) {
    const std::int64_t skip = (std::int64_t{1} << (8 * folds.id_bytes)) - 1;
    const FoldCondition& c = folds.conditions[bad];
    wrong_value("conditions",
                "(" + text(c.id_row) + ", " + text(c.score_lo) + ", " + text(c.score_hi) + ", " + text(c.train_lo) +
                    ", " + text(c.train_hi) + ") for split " + text(bad / folds.n_conditions),
                "(id_row, score_lo, score_hi, train_lo, train_hi) with id_row below " + text(folds.n_id_rows) +
                    " and 0 <= lo <= hi <= " + text(skip));
  }
  return folds;
}

FoldsView view_of_split(const py::array& ids, const py::array& conditions, std::int64_t split) {
  return view(ids, conditions, checked_place("split", split, conditions.ndim() > 0 ? conditions.shape(0) : 0));
}

void sizes(const py::array& ids, const py::array& conditions, const py::array& out) {
  const FoldsView folds = view(ids, conditions);
  std::int64_t* to = write_array<std::int64_t>(out, "out", {folds.n_splits, 2});
  const NoGil released;
  folds_sizes(folds, to);
}

void role(const py::array& ids, const py::array& conditions, std::int64_t split, const py::array& out) {
  const FoldsView folds = view_of_split(ids, conditions, split);
  std::int8_t* to = write_array<std::int8_t>(out, "out", {folds.n_rows});
  const NoGil released;
  folds_role(folds, split, 0, folds.n_rows, to);
}

std::int64_t indices(const py::array& ids, const py::array& conditions, std::int64_t split, bool score,
                     const py::array& out) {
  const FoldsView folds = view_of_split(ids, conditions, split);
  std::int64_t* to = write_array<std::int64_t>(out, "out", {-1});
  const std::int64_t room = out.shape(0);
  const NoGil released;
  return folds_indices(folds, split, score ? Role::score : Role::train, room, to);
}

void by_id(const py::array& ids, const py::array& order, const py::array& offset) {
  const std::uint8_t* of_row = read_array<std::uint8_t>(ids, "ids", {-1});
  const std::int64_t n_rows = ids.shape(0);
  std::int64_t* to = write_array<std::int64_t>(order, "order", {n_rows});
  std::int64_t* ends = write_array<std::int64_t>(offset, "offset", {257});
  const NoGil released;
  rows_by_id(of_row, n_rows, to, ends);
}

std::tuple<int, bool, std::int64_t, std::int64_t> check_split(std::int64_t n_rows, const py::array& train,
                                                              const py::array& test, const py::array& role_out) {
  const std::int64_t* train_rows = read_array<std::int64_t>(train, "train", {-1});
  const std::int64_t* test_rows = read_array<std::int64_t>(test, "test", {-1});
  if (n_rows < 0) wrong_value("n_rows", text(n_rows), "at least 0");
  std::int8_t* to = write_array<std::int8_t>(role_out, "role", {n_rows});
  SplitFault fault;
  {
    const NoGil released;
    fault = split_roles(n_rows, train_rows, train.shape(0), test_rows, test.shape(0), to);
  }
  return {static_cast<int>(fault.kind), fault.in_test, fault.position, fault.row};
}

// ---- assignments -----------------------------------------------------------------------------------------------

void check_n_splits(std::int64_t n_splits, std::int64_t n_rows, std::int64_t skip) {
  if (n_splits < 2 || n_splits > n_rows) wrong_value("n_splits", text(n_splits), "2 to n_rows = " + text(n_rows));
  if (n_splits > skip) wrong_value("out", "an id type with " + text(skip) + " ids", "one with n_splits ids");
}

void kfold(std::int64_t n_splits, bool shuffle, std::uint64_t seed, std::uint32_t repeat, const py::array& out) {
  with_id_type(out, "out", [&](auto id) {
    using Id = decltype(id);
    Id* ids = write_array<Id>(out, "out", {-1});
    const std::int64_t n_rows = out.shape(0);
    check_n_splits(n_splits, n_rows, static_cast<Id>(~Id{0}));
    const NoGil released;
    assign_kfold(n_rows, n_splits, {shuffle, seed, repeat}, ids);
  });
}

// Codes, counts and ranks that contradict one another would write outside the arrays: counted again here.
Classes checked_classes(const py::array& codes, const py::array& counts, const py::array& rank, std::int64_t n_rows) {
  Classes classes{};
  classes.codes = read_array<std::int32_t>(codes, "codes", {n_rows});
  classes.n_rows = n_rows;
  classes.counts = read_array<std::int64_t>(counts, "counts", {-1});
  classes.n_classes = counts.shape(0);
  classes.rank = read_array<std::int64_t>(rank, "rank", {classes.n_classes});
  std::vector<std::int64_t> seen(static_cast<std::size_t>(classes.n_classes), 0);
  bool good = true;
  {
    const NoGil released;
    for (std::int64_t i = 0; i < n_rows && good; ++i) {
      const std::int32_t c = classes.codes[i];
      good = 0 <= c && c < classes.n_classes;
      if (good) ++seen[c];
    }
    std::vector<bool> taken(static_cast<std::size_t>(classes.n_classes), false);
    for (std::int64_t c = 0; c < classes.n_classes && good; ++c) {
      const std::int64_t r = classes.rank[c];
      good = seen[c] == classes.counts[c] && 0 <= r && r < classes.n_classes && !taken[r];
      if (good) taken[r] = true;
    }
  }
  if (!good) wrong_value("codes", "codes that disagree with counts or rank", "codes of encode_labels");
  return classes;
}

void stratified(const py::array& codes, const py::array& counts, const py::array& rank, std::int64_t n_splits,
                bool shuffle, std::uint64_t seed, std::uint32_t repeat, const py::array& out) {
  with_id_type(out, "out", [&](auto id) {
    using Id = decltype(id);
    Id* ids = write_array<Id>(out, "out", {-1});
    const std::int64_t n_rows = out.shape(0);
    check_n_splits(n_splits, n_rows, static_cast<Id>(~Id{0}));
    const Classes classes = checked_classes(codes, counts, rank, n_rows);
    const NoGil released;
    assign_stratified(classes, n_splits, {shuffle, seed, repeat}, ids);
  });
}

// y: None, or (codes, counts, rank) of the classes to balance.
void group_kfold(const py::array& codes, const py::array& counts, const py::array& rank, const py::object& y,
                 std::int64_t n_splits, bool shuffle, std::uint64_t seed, const py::array& out) {
  with_id_type(out, "out", [&](auto id) {
    using Id = decltype(id);
    Id* ids = write_array<Id>(out, "out", {-1});
    const std::int64_t n_rows = out.shape(0);
    check_n_splits(n_splits, n_rows, static_cast<Id>(~Id{0}));
    const Classes groups = checked_classes(codes, counts, rank, n_rows);
    if (n_splits > groups.n_classes) wrong_value("n_splits", text(n_splits), "at most the groups, " + text(groups.n_classes));
    Classes classes{};
    if (!y.is_none()) {
      const auto arrays = y.cast<std::tuple<py::array, py::array, py::array>>();
      classes = checked_classes(std::get<0>(arrays), std::get<1>(arrays), std::get<2>(arrays), n_rows);
    }
    const bool stratified = !y.is_none();
    const NoGil released;
    assign_groups(groups, stratified ? &classes : nullptr, n_splits, {shuffle, seed, 0}, ids);
  });
}

PartSizes checked_parts(std::int64_t train, std::int64_t validation, std::int64_t test, std::int64_t n_rows) {
  if (train < 1 || validation < 0 || test < 1 || train > n_rows || validation > n_rows - train || test != n_rows - train - validation)
    wrong_value("sizes", "(" + text(train) + ", " + text(validation) + ", " + text(test) + ")",
                "parts of n_rows = " + text(n_rows));
  return {train, validation, test};
}

void holdout(std::int64_t train, std::int64_t validation, std::int64_t test, bool shuffle, std::uint64_t seed,
             const py::array& out) {
  std::uint8_t* ids = write_array<std::uint8_t>(out, "out", {-1});
  const PartSizes parts = checked_parts(train, validation, test, out.shape(0));
  const std::int64_t n_rows = out.shape(0);
  const NoGil released;
  assign_holdout(n_rows, parts, {shuffle, seed, 0}, ids);
}

void stratified_holdout(const py::array& codes, const py::array& counts, const py::array& rank, std::int64_t train,
                        std::int64_t validation, std::int64_t test, bool shuffle, std::uint64_t seed,
                        const py::array& out) {
  std::uint8_t* ids = write_array<std::uint8_t>(out, "out", {-1});
  const PartSizes parts = checked_parts(train, validation, test, out.shape(0));
  const Classes classes = checked_classes(codes, counts, rank, out.shape(0));
  const NoGil released;
  assign_stratified_holdout(classes, parts, {shuffle, seed, 0}, ids);
}

// labels: (n, item_bytes) uint8. Returns (first_row, counts) per code.
std::tuple<std::vector<std::int64_t>, std::vector<std::int64_t>> encode(const py::array& labels,
                                                                        const py::array& codes) {
  const std::uint8_t* bytes = read_array<std::uint8_t>(labels, "labels", {-1, -1});
  const std::int64_t n = labels.shape(0), item_bytes = labels.shape(1);
  if (item_bytes < 1) wrong_value("labels", "items of no bytes", "at least one byte");
  if (n > std::int64_t{0x7fffffff}) wrong_value("labels", text(n) + " rows", "at most 2147483647 rows");
  std::int32_t* to = write_array<std::int32_t>(codes, "codes", {n});
  LabelCodes found;
  {
    const NoGil released;
    found = encode_labels(bytes, n, item_bytes, to);
  }
  return {std::move(found.first_row), std::move(found.counts)};
}

}  // namespace

void register_index(py::module_& m) {
  auto sub = m.def_submodule("index", "permutations and splits");
  py::class_<Permutation>(sub, "Permutation")
      .def(py::init(&checked_permutation), py::arg("n"), py::arg("seed"), py::arg("epoch"), py::arg("stream"))
      .def("at", [](const Permutation& p, std::int64_t i) { return permutation_at(p, checked_place("i", i, p.n)); })
      .def("inverse",
           [](const Permutation& p, std::int64_t j) { return permutation_inverse(p, checked_place("j", j, p.n)); })
      .def("fill", &fill, py::arg("first"), py::arg("step"), py::arg("out"))
      .def("map", &map, py::arg("positions"), py::arg("inverse"), py::arg("out"));
  sub.def("philox", &philox, py::arg("counters"), py::arg("keys"), py::arg("out"));
  sub.def("heads", &heads, py::arg("n"), py::arg("seeds"), py::arg("epoch"), py::arg("stream"), py::arg("step"),
          py::arg("out"), "Private, for tests: positions 0, step, 2 step, ... under many seeds.");
  sub.def("sizes", &sizes, py::arg("ids"), py::arg("conditions"), py::arg("out"));
  sub.def("role", &role, py::arg("ids"), py::arg("conditions"), py::arg("split"), py::arg("out"));
  sub.def("indices", &indices, py::arg("ids"), py::arg("conditions"), py::arg("split"), py::arg("score"),
          py::arg("out"));
  sub.def("rows_by_id", &by_id, py::arg("ids"), py::arg("order"), py::arg("offset"));
  sub.def("check_split", &check_split, py::arg("n_rows"), py::arg("train"), py::arg("test"), py::arg("role"));
  sub.def("kfold", &kfold, py::arg("n_splits"), py::arg("shuffle"), py::arg("seed"), py::arg("repeat"),
          py::arg("out"));
  sub.def("stratified", &stratified, py::arg("codes"), py::arg("counts"), py::arg("rank"), py::arg("n_splits"),
          py::arg("shuffle"), py::arg("seed"), py::arg("repeat"), py::arg("out"));
  sub.def("group_kfold", &group_kfold, py::arg("codes"), py::arg("counts"), py::arg("rank"), py::arg("y"),
          py::arg("n_splits"), py::arg("shuffle"), py::arg("seed"), py::arg("out"));
  sub.def("holdout", &holdout, py::arg("train"), py::arg("validation"), py::arg("test"), py::arg("shuffle"),
          py::arg("seed"), py::arg("out"));
  sub.def("stratified_holdout", &stratified_holdout, py::arg("codes"), py::arg("counts"), py::arg("rank"),
          py::arg("train"), py::arg("validation"), py::arg("test"), py::arg("shuffle"), py::arg("seed"),
          py::arg("out"));
  sub.def("encode_labels", &encode, py::arg("labels"), py::arg("codes"));
}

}  // namespace gradfold
