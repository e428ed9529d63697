"""The data of a `fit` as the kernels read it, and what depends on it alone: splits, weights, fills, starting weights."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _class_weight, _device, _missing, _splits, _start, _target
from gradfold._moments import Moments

if TYPE_CHECKING:
    from gradfold.index import Folds

Array = npt.NDArray[Any]
Matrix = Any  # an ndarray, or a `DeviceArray` of gradfold.cuda.arrays

SHARE_OF_X = 0.8  # of the GPU's free memory: the rest is for the models

REFIT = -1  # in the place of a split: all rows that some split trains or scores


@dataclass
class Validation:
    """`validation_data`, in the types of the training data; NaN where a cell is missing."""

    X: Array
    y: Array
    sample_weight: Array | None

    n_splits = 1

    def score_indices(self, split: int) -> Array:
        """All rows: what `Folds.score_indices` is for rows of the training data."""
        return np.arange(len(self.X), dtype=np.int64)


@dataclass(frozen=True)
class Rows:
    """What a trainer of some splits is given beside X: training weights, the weights of its scores, and fills."""

    sample_weight: Array | None
    held_out_weight: Array | None  # None: as sample_weight
    fill: Array | None


@dataclass
class Problem:
    """The data as the kernels read it. An interrupt can come before all of it is known."""

    loss: str
    X: Matrix | None = None  # with NaN where a cell is missing
    target: _target.Target | None = None
    sample_weight: Array | None = None
    folds: Folds | None = None
    validation: Validation | None = None
    # float64, (1, n_features) for all models or (n_models, n_features); of several outputs with an axis n_outputs in between
    coef_init: Array | None = None
    intercept_init: Array | None = None  # float64, (1,) or (n_models,), or (…, n_outputs)
    class_weight: str | Array | None = None
    filled: _missing.Filled | None = None  # only with missing="mean"
    feature_names: tuple[str, ...] | None = None
    _factors: dict[int, Array] = field(default_factory=dict)
    _rows: dict[tuple[int, ...], Rows] = field(default_factory=dict)
    _fills: dict[int, Array] = field(default_factory=dict)
    _codes: Array | None = None
    _moments: Moments | None = None
    _on_gpu: Any = None
    _on_host: Array | None = None

    @property
    def n_splits(self) -> int:
        return 0 if self.folds is None else self.folds.n_splits

    @property
    def data(self) -> Matrix:
        """X without missing cells, for trainers; `enter` fills it for one of them."""
        assert self.X is not None
        return self.X if self.filled is None else self.filled.X

    def data_on_gpu(self) -> Any:
        """`data` as the trainers of the GPU take it: copied there once, where it fits beside the models, and shared by all.

        Else it stays on the host and each trainer streams it. Where trainers have fills of their own, each has a copy.
        """
        from gradfold.cuda import arrays, stream

        if _device.is_device_array(self.data) or self._on_gpu is not None:
            return self.data if self._on_gpu is None else self._on_gpu
        nbytes = len(self.data) * arrays.PaddedRows.stride_of(self.data) * self.data.itemsize
        if not stream.check(int(nbytes / SHARE_OF_X)):
            return self.data
        copy = arrays.PaddedRows(self.data)
        if self.filled is None or not self.filled.any:
            self._on_gpu = copy
        return copy

    def data_on_host(self) -> Array:
        """`data` as the kernels of the CPU read it: fetched from the GPU once, where it lies there, and shared by all."""
        if self._on_host is None:
            self._on_host = self.data.numpy() if _device.is_device_array(self.data) else self.data
        return self._on_host

    @property
    def outputs(self) -> tuple[int, ...]:
        """The axis of a model's outputs: () where it has one."""
        n_outputs = 1 if self.target is None else self.target.n_outputs
        return (n_outputs,) if n_outputs > 1 else ()

    # -- reading ------------------------------------------------------------------------------------------------------

    def read_start(self, coef_init: object, intercept_init: object, n_candidates: int, fit_intercept: bool) -> None:
        """Check `coef_init` and `intercept_init`."""
        assert self.X is not None
        dtype = self.X.dtype
        n_features = self.X.shape[1]
        n_models = n_candidates * max(1, self.n_splits)
        if coef_init is not None:
            own = (*self.outputs, n_features)
            self.coef_init = _array("coef_init", coef_init, [own, (n_models, *own)], dtype).reshape(-1, *own)
        if intercept_init is not None:
            own = self.outputs
            self.intercept_init = _array("intercept_init", intercept_init, [own, (n_models, *own)], dtype).reshape(-1, *own)
            if not fit_intercept and self.intercept_init.any():
                raise ValueError(
                    f"intercept_init: got {_check.describe(intercept_init)} with fit_intercept=False, wanted None or 0"
                )

    # -- what a group of splits trains on -------------------------------------------------------------------------------

    def groups(self) -> list[list[int]]:
        """The splits that can share a trainer: those with the same training weights and the same fills."""
        splits = range(self.n_splits)
        if self.filled is not None and self.filled.any:
            return [[s] for s in splits]
        if not isinstance(self.class_weight, str):
            return [list(splits)]
        same: dict[bytes, list[int]] = {}
        for s in splits:
            same.setdefault(self.factors(s).tobytes(), []).append(s)
        return list(same.values())

    def factors(self, split: int) -> Array:
        """The class weights of a split's (or the refit's) training rows, shape (n_classes,)."""
        if not isinstance(self.class_weight, str):
            assert self.class_weight is not None
            return self.class_weight
        if split not in self._factors:
            assert self.target is not None and self.target.classes is not None
            rows = self.training_rows(split)
            weight = None if self.sample_weight is None else self.sample_weight[rows]
            self._factors[split] = _class_weight.balanced(self.codes[rows], len(self.target.classes), weight)
        return self._factors[split]

    def rows(self, splits: list[int]) -> Rows:
        """Weights and fills of splits that can share a trainer."""
        key = tuple(splits[:1])
        if key not in self._rows:
            assert self.X is not None
            weight, held_out = self.sample_weight, None
            if self.class_weight is not None:
                factors = self.factors(splits[0])
                weight = _class_weight.applied(factors, self.codes, self.sample_weight, self.X.dtype)
                held_out = self.sample_weight if self.sample_weight is not None else np.ones(len(self.X), self.X.dtype)
            self._rows[key] = Rows(weight, held_out, self.fill(splits[0]) if self.filled is not None else None)
        return self._rows[key]

    def fill(self, split: int) -> Array:
        """The means of a split's training rows, shape (n_features,): of the columns with missing cells, or, for the
        refit, of all."""
        if split not in self._fills:
            assert self.X is not None and self.filled is not None
            all_columns = split == REFIT or self.validation is not None
            columns = np.arange(self.X.shape[1]) if all_columns else self.filled.columns
            weight = self.sample_weight
            where = "the refit" if split == REFIT else f"split {split}"
            self._fills[split] = _missing.means(self.X, self.training_rows(split), weight, columns, where)
        return self._fills[split]

    def split_fills(self) -> Array | None:
        """`fill` of every split, (n_splits, n_features); None where nothing is missing."""
        if self.filled is None or not self.n_splits or not (self.filled.any or self.validation is not None):
            return None
        return np.stack([self.fill(s) for s in range(self.n_splits)])

    def moments_of(self, rows: Rows, ids: Array, conditions: Array, n_threads: int) -> Moments:
        """Those of splits that share a trainer; cells that another one has read are kept until the fit ends, and not read again."""
        assert self.target is not None
        if self.filled is not None and self.filled.any:  # each trainer's X has other values
            return Moments(self.data_on_host(), self.target.y, rows.sample_weight, ids, conditions, n_threads)
        if self._moments is None or not self._moments.is_of(rows.sample_weight, ids):
            self._moments = Moments(self.data_on_host(), self.target.y, rows.sample_weight, ids, conditions, n_threads)
        return self._moments.of_splits(conditions)

    def check_finite_by_moments(self, n_threads: int) -> None:
        """Raise a ValueError that names the first cell of X that is NaN or infinite; for solvers that ask for moments anyway.

        Where these say that all is finite, X is not gone through once more.
        """
        ids, conditions = _splits.of_all_rows(len(self.data))
        if self.folds is not None:
            ids, conditions = self.folds.ids, self.folds.conditions
        moments = self.moments_of(Rows(self.sample_weight, None, None), ids, conditions, n_threads)
        if not moments.tell_finite():
            _check.finite("X", self.data, n_threads)

    def enter(self, rows: Rows) -> None:
        """Fill the missing cells as a trainer wants them."""
        if self.filled is not None and rows.fill is not None:
            self.filled.fill(rows.fill)

    def training_rows(self, split: int) -> Array:
        """The rows that a split, or the refit, trains on."""
        assert self.X is not None
        if split != REFIT:
            assert self.folds is not None
            return self.folds.train_indices(split)
        return np.flatnonzero(_splits.refit_ids(self.folds, len(self.X))[0] == 0)

    @property
    def codes(self) -> Array:
        """The class of each row, an index into `target.classes`."""
        if self._codes is None:
            assert self.target is not None and self.target.classes is not None
            y = self.target.y
            self._codes = y.astype(np.int32) if self.target.n_outputs > 1 else (y > 0).astype(np.int8)
        return self._codes

    # -- starting weights -----------------------------------------------------------------------------------------------

    def start(self, rows: list[dict[str, Any]], models: Array, n_models: int) -> tuple[Array | None, Array | None]:
        """`coef_init` and `intercept_init` of some of `n_models` models, whose parameters are `rows`."""
        assert self.X is not None
        shape = (len(models), *self.outputs, self.X.shape[1])

        def own(values: Array | None) -> Array | None:
            if values is None or len(values) not in (1, n_models):
                return None
            return np.ascontiguousarray(np.broadcast_to(values, (n_models, *values.shape[1:]))[models])

        coef, intercept = own(self.coef_init), own(self.intercept_init)
        seeds = {(row["init_seed"], row["init_scale"]) for row in rows if row["init_seed"] is not None}
        if seeds:
            draws = {key: _start.normal(math.prod(shape[1:]), *key).reshape(shape[1:]) for key in seeds}
            coef = np.zeros(shape) if coef is None else coef
            for m, row in enumerate(rows):
                if row["init_seed"] is not None:
                    coef[m] += draws[row["init_seed"], row["init_scale"]]
        return coef, intercept


def read(
    problem: Problem,
    *,
    X: object,
    y: object,
    sample_weight: object,
    folds: object,
    validation_data: object,
    class_weight: object,
    missing: str,
    dtype: Any,
    seed: int,
    n_candidates: int,
    check_finite: bool,
    n_threads: int,
    device: str = "cpu",
    search_X: bool = True,
) -> None:
    """Read, convert and check the data, and make the splits; without `search_X` all but that X is finite.

    With device="cuda" X stays where it lies, and what else lies on the GPU is copied to the host.
    """
    copied = None
    if device == "cuda" and _device.lives_on_gpu(X):
        problem.X = _matrix_on_gpu(X, dtype)
        if missing != "error":
            raise ValueError(
                f"missing: got {missing!r} with X on the GPU, wanted 'error', or X on the host and device='cuda'"
            )
    else:
        problem.X, copied = _check.data_matrix("X", X, dtype)
        problem.feature_names = _check.feature_names(X)
    if device == "cuda":
        y, sample_weight = _on_host("y", y), _on_host("sample_weight", sample_weight)
        if isinstance(validation_data, (tuple, list)):
            names = ("validation_data X", "validation_data y", "validation_data sample_weight")
            own = zip(names, validation_data, strict=False)
            validation_data = (*(_on_host(name, value) for name, value in own), *validation_data[len(names) :])
    if copied:
        # The frames above: read, fit, the caller.
        warnings.warn(f"fit copied {copied}", UserWarning, stacklevel=3)
    n_rows = len(problem.X)
    if n_rows < 2:
        raise ValueError("X: got 1 row, wanted at least two: nothing can be learned from one")
    target = _target.read(y, problem.loss, n_rows, problem.X.dtype, check_finite, n_threads)
    if sample_weight is not None:
        weight = _check.per_row("sample_weight", sample_weight, n_rows, problem.X.dtype)
        problem.sample_weight = _check.weights("sample_weight", weight, n_threads, check_finite)
        if not (problem.sample_weight > 0).any():
            raise ValueError("sample_weight: got no weight above 0, wanted at least one")
    if missing == "mean":
        problem.filled = _missing.Filled(problem.X)
    if check_finite and search_X:
        _check.finite("X", problem.data, n_threads)
    problem.target, problem.loss = target, target.loss
    _check_constant(target, stacklevel=4)
    problem.class_weight = _class_weight.read(class_weight, target.classes, problem.X.dtype)
    if validation_data is not None:
        if folds is not None:
            raise ValueError("validation_data: got it together with folds, wanted one of the two")
        problem.validation = _read_validation(validation_data, problem, check_finite, n_threads)
        problem.folds = _splits.train_on_all(n_rows)
    else:
        problem.folds = _splits.read(folds, X, y, target, n_candidates, seed)
    if problem.folds is not None:
        _splits.check_every_split_trains(problem.folds, _counting_weight(problem))


def _matrix_on_gpu(X: object, dtype: Any) -> Matrix:
    """X where it lies on the GPU."""
    from gradfold.cuda.arrays import from_object

    array = from_object("X", X)
    if array.ndim != 2:
        raise ValueError(f"X: got shape {array.shape}, wanted (n_rows, n_features)")
    if array.dtype not in _check.FLOATS or (dtype is not None and array.dtype != dtype):
        wanted = "float32 or float64" if dtype is None else f"{dtype}, as `dtype` says"
        raise TypeError(f"X: got dtype {array.dtype} on the GPU, wanted {wanted}; nothing is converted there")
    return _check.float_array("X", array, 2)


def _on_host(argument: str, value: object) -> Any:
    """What lies on the GPU, copied to the host: for arrays that are small beside X."""
    if not _device.lives_on_gpu(value):
        return value
    from gradfold.cuda.arrays import from_object

    return from_object(argument, value).numpy()


def labels(y: object, n_rows: int, classes: Array | None, dtype: np.dtype[Any], argument: str) -> Array:
    """New targets in the coding of a fit: the class's index, or the number itself for a regression.

    Raises
    ------
    ValueError
        Another shape, or a label that is none of `classes`.
    TypeError
        No numbers, for a regression.
    """
    if classes is None:
        return _check.per_row(argument, y, n_rows, dtype)
    array = _check.plain_array(argument, y, f"shape ({n_rows},)")
    if array.shape != (n_rows,):
        raise ValueError(f"{argument}: got shape {array.shape}, wanted ({n_rows},), one for each row of X")
    known = classes.tolist()
    out = np.full(n_rows, -1, np.int64)
    for code, label in enumerate(known):
        out[np.asarray(array == label)] = code
    if (out < 0).any():
        row = int((out < 0).argmax())
        raise ValueError(
            f"{argument}: got the label {array[row : row + 1].tolist()[0]!r} at row {row}, wanted one of those in fit: "
            f"{', '.join(map(repr, known[:5]))}{', …' if len(known) > 5 else ''}"
        )
    return out.astype(dtype)


def _read_validation(value: object, problem: Problem, check_finite: bool, n_threads: int) -> Validation:
    assert problem.X is not None and problem.target is not None
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise TypeError(f"validation_data: got {_check.describe(value)}, wanted (X, y) or (X, y, sample_weight)")
    dtype, n_features = problem.X.dtype, problem.X.shape[1]
    X, _ = _check.data_matrix("validation_data X", value[0], dtype)
    _check.same_features("validation_data X", value[0], problem.feature_names)
    if X.shape[1] != n_features:
        raise ValueError(f"validation_data X: got {X.shape[1]} features, wanted {n_features} as in X")
    y = labels(value[1], len(X), problem.target.classes, dtype, "validation_data y")
    weight = None
    if len(value) == 3 and value[2] is not None:
        weight = _check.per_row("validation_data sample_weight", value[2], len(X), dtype)
        weight = _check.weights("validation_data sample_weight", weight, n_threads, check_finite)
        if not (weight > 0).any():
            raise ValueError("validation_data sample_weight: got no weight above 0, wanted at least one")
    if check_finite:
        seen = X if problem.filled is None else _missing.filled_rows(X, np.zeros(n_features, dtype))
        _check.finite("validation_data X", seen, n_threads)
        _check.finite("validation_data y", y, n_threads)
    return Validation(X, y, weight)


def _check_constant(target: _target.Target, stacklevel: int) -> None:
    """One class only cannot be told from another; one value only can be fitted, but hardly is what was meant."""
    y = target.y
    if target.classes is not None:
        code = (y > 0) if len(target.classes) == 2 else y
        if (code == code[0]).all():
            label = target.classes.tolist()[int(code[0])]
            raise ValueError(f"y: got the one label {label!r} only, wanted two classes or more for loss={target.loss!r}")
    elif (y[: 1 << 10] == y[0]).all() and (y == y[0]).all():
        warnings.warn(
            f"y: every row has the target {y[0]:.6g}, so there is nothing to learn from X and no candidate to prefer",
            UserWarning,
            stacklevel=stacklevel,
        )


def _counting_weight(problem: Problem) -> Array | None:
    """Sample weights for counting training rows: a class of weight 0 has none."""
    if not isinstance(problem.class_weight, np.ndarray):
        return problem.sample_weight
    return problem.rows([0]).sample_weight


def _array(argument: str, value: object, shapes: list[tuple[int, ...]], dtype: np.dtype[Any]) -> Array:
    """A float64 array of one of the shapes, finite also in `dtype`."""
    given = _check.plain_array(argument, value, f"shape {' or '.join(map(str, shapes))}")
    if given.dtype.kind not in "fiubO":
        raise TypeError(f"{argument}: got {_check.describe(value)}, wanted real numbers")
    try:
        array = given.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{argument}: got {_check.describe(value)}, wanted real numbers") from None
    if array.shape not in shapes:
        raise ValueError(f"{argument}: got shape {array.shape}, wanted {' or '.join(map(str, shapes))}")
    if not np.isfinite(array).all():
        raise ValueError(f"{argument}: got a value that is not finite, wanted finite numbers only")
    largest = np.abs(array).max(initial=0.0)
    if largest > np.finfo(dtype).max:
        raise ValueError(f"{argument}: got the magnitude {largest:.6g}, wanted numbers that are finite in {dtype}")
    return array
