"""Models at their own optima: what a trainer of epochs is to `fit`, for the solvers that have no epochs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _core, _device, _missing, _splits
from gradfold._limits import told_memory
from gradfold._moments import Moments, Sums, trains
from gradfold._problem import Problem, Rows
from gradfold.index import Permutation

Array = npt.NDArray[Any]

SOLVERS = ("lbfgs", "newton-cholesky", "cholesky", "coordinate-descent")
# Whose losses are fewer than those with a second derivative.
LOSSES = {"cholesky": ("squared_error",), "coordinate-descent": ("squared_error", "log_loss")}

# Losses with numbers as targets, whose spread is the scale of the objective.
OF_NUMBERS = ("squared_error", "huber", "squared_epsilon_insensitive")
CONVERGED, MAX_ITER, PRECISION, DIVERGED = 1, 2, 3, 4  # csrc/optimum/optimizer.h: Arrival

_HISTORY = 10  # pairs that L-BFGS remembers
# A start on a share of the rows, drawn by a stream of its own, where it has so many rows, and so many for each parameter.
_SAMPLE_SHARE, _SAMPLE_ROWS, _SAMPLE_PER_PARAMETER, _SAMPLE_STREAM = 16, 4096, 20, 2**31 + 7
_GROUP = 8  # models whose parameters lie side by side
_MOST_FEATURES = 1000
_MOST_COLUMNS = 5000  # csrc/optimum/quadratic.h: kMostColumns
_PASSES = 60
# Up to here the moments of each row are kept as a cell, and a split's own sums cost little (_moments.py).
_FEW_ROWS = 64
_ROWS = 1 << 14  # that are looked at together
_REPORT_BYTES = 200  # what a model takes beside its weights, in a trainer and in the `Run`


def uses_curvature(n_rows: int, n_features: int) -> bool:
    """Whether directions start from the inverse of the loss's Hessian at 0, from the Gram matrix of the training rows.

    Its factor costs n_features³/3 flops of float64 for each model where a pass over X costs 4 · n_rows · n_features, so it
    is worth so many passes as n_features² / (6 · n_rows): ten at most. The shape alone decides, so that no model's
    result depends on who else trains.
    """
    return n_features <= _MOST_FEATURES and n_features**2 <= _PASSES * n_rows


def uses_moments(solver: str, loss: str, n_rows: int, n_features: int) -> bool:
    """Whether a solver asks for the weights, means and comoments of its splits' training rows."""
    if solver == "lbfgs":
        return uses_curvature(n_rows, n_features)
    return solver == "newton-cholesky" or from_gram(solver, loss, n_rows, n_features)


def without_passes(solver: str, loss: str) -> bool:
    """Whether no pass over X evaluates the models' trial points: they go by what is summed before."""
    return solver == "cholesky" or (solver == "coordinate-descent" and loss == "squared_error")


def from_gram(solver: str, loss: str, n_rows: int, n_features: int) -> bool:
    """Whether a solver holds the Gram matrices of splits; elastic nets with more features than rows need that of a few columns."""
    return without_passes(solver, loss) and (solver == "cholesky" or n_features <= n_rows)


def refresh(solver: str, loss: str, n_features: int) -> int:
    """Passes over X after which a model's own Hessian is made; 0 is never.

    A Hessian costs n_rows · n_features² flops of float64, about as much as n_features / 2 passes over X of 4 · n_rows ·
    n_features flops in which float32 goes twice as fast. So L-BFGS turns to it when that many have not been enough: it then
    costs at most twice of what the better of both would have.
    """
    if loss in ("multinomial", "squared_error"):
        return 0
    return 1 if solver == "newton-cholesky" else max(8, n_features // 2)


def left_out_rows(ids: Array, conditions: Array) -> Array:
    """The row that each split leaves out of all rows and scores, int64 (n_splits,); −1 where it is no leave-one-out.

    That is one with a single condition, on an id row where each row of X has an id of its own: `index.leave_one_out`, a
    k-fold of as many folds as rows, or what scikit-learn's `LeaveOneOut` becomes. The split's own condition and its
    ids decide, never the other splits.
    """
    n_rows = ids.shape[1]
    out = np.full(len(conditions), -1, np.int64)
    if conditions.shape[1] > 1:
        return out
    id_row, score_lo, score_hi, train_lo, train_hi = conditions[:, 0].T
    one = (score_hi - score_lo == 1) & (train_hi - train_lo >= n_rows)
    for own in np.unique(id_row[one]).tolist():
        values = ids[own].astype(np.int64)
        order = np.argsort(values, kind="stable")
        values = values[order]
        if values[-1] == np.iinfo(ids.dtype).max or (np.diff(values) == 0).any():  # a skipped row, or two of one id
            continue
        mine = np.flatnonzero(one & (id_row == own) & (train_lo <= values[0]) & (train_hi > values[-1]))
        at = np.minimum(np.searchsorted(values, score_lo[mine]), n_rows - 1)
        out[mine] = np.where(values[at] == score_lo[mine], order[at], -1)
    return out


class _Cancelled(BaseException):
    """Ends the summing of moments."""


class Trainer:
    """The part of `_core.train.Trainer` that a run without epochs needs; its one epoch is the way to the optimum.

    Models go in blocks of so many as memory allows: 64 MiB beside a twentieth of X. Their results do not depend on it.
    """

    steps_per_epoch = 1

    def __init__(
        self,
        problem: Problem,
        settings: Any,
        rows: list[dict[str, Any]],
        own: Rows,
        *,
        ids: Array,
        conditions: Array,
        splits: Array,
        coef_init: Array | None,
        intercept_init: Array | None,
        near: tuple[Array, Array] | None = None,
    ) -> None:
        assert problem.X is not None and problem.target is not None
        self.problem, self.settings, self.rows, self.own = problem, settings, rows, own
        self.ids, self.conditions = ids, conditions
        self.splits = np.ascontiguousarray(splits, np.int64)
        self.coef_init, self.intercept_init = coef_init, intercept_init
        self.near = near  # weights and intercepts that a start on a sample would not come nearer to the optimum than
        n_models, n_features = len(rows), problem.X.shape[1]
        shape, dtype = (n_models, *problem.outputs), problem.X.dtype
        self._check_memory(n_models, math.prod(shape[1:]) * (n_features + 1) * dtype.itemsize)
        self._coef = np.zeros((*shape, n_features), dtype) if coef_init is None else coef_init.astype(dtype)
        self._intercept = np.zeros(shape, dtype) if intercept_init is None else intercept_init.astype(dtype)
        self._held_out = np.full(n_models, np.nan)
        self.arrivals: dict[str, Array] = {
            "how": np.zeros(n_models, np.uint8),
            **{name: np.zeros(n_models, np.int64) for name in ("n_iter", "n_passes", "n_hessians", "dropped")},
            **{name: np.zeros(n_models, np.bool_) for name in ("separable", "one_class", "closed_form")},
            **{name: np.full(n_models, np.nan) for name in ("objective", "gradient_norm", "gap", "smallest_pivot")},
        }
        self.epochs_done = 0
        self._cancelled = False
        self._current: Any = None
        self._sampled: Array | None = None
        self._of_all_rows: Sums | None = None
        self._l2 = np.empty(0)  # per model, of the closed form
        self._reader: int | None = None  # the thread that sums moments
        self._passes: Any = None  # `gradfold.cuda.optimum.Passes`, while they are taken
        # Per model the row that it leaves out in closed form, or −1: then it goes through its fold.
        self._left_out, self._why_folds = self._plan_leave_one_out()

    @staticmethod
    def _check_memory(n_models: int, weight_bytes: int) -> None:
        """The weights of all models are held at once: say so before the system ends the process."""
        needed, available = n_models * (weight_bytes + _REPORT_BYTES), told_memory()
        if available is not None and needed > available:
            raise MemoryError(
                f"candidates: got {n_models} models (candidates × splits), whose weights take {needed / 2**30:.1f} GiB of the "
                f"{available / 2**30:.1f} GiB that are available; wanted fewer candidates or splits, or float32"
            )

    @property
    def solver_reason(self) -> str:
        """Which way splits that leave one row out have taken; "" where there are none, or the solver has one way only."""
        if self._why_folds:
            return f"leave-one-out through the folds: {self._why_folds}"
        asked, solved = int((self._left_out >= 0).sum()), int(self.arrivals["closed_form"].sum())
        if not asked:
            return ""
        if solved == asked or not self.epochs_done:
            return "leave-one-out in closed form"
        return f"leave-one-out in closed form for {solved} of {asked} models, through the folds where that would cost digits"

    @property
    def X(self) -> Array:
        """All rows, on the host: for moments, Hessians and leave-one-out, whatever the device."""
        return self.problem.data_on_host()

    @property
    def reason(self) -> str:
        """What the GPU does, where one was asked for."""
        solver, loss = self.rows[0]["solver"], self.rows[0]["loss"]
        if without_passes(solver, loss):
            what = f"{solver} of {loss} on the CPU"
            what += ", which reads X once for its moments" if from_gram(solver, loss, *self.problem.data.shape) else ""
        else:
            what = "passes over X on the GPU, moments and Hessians on the CPU"
        return f"{what}; X was copied to the host for them" if _device.is_device_array(self.problem.data) else what

    # -- what a trainer has -------------------------------------------------------------------------------------------

    def advance(self, max_steps: int = -1, seconds: float = -1.0) -> str:
        """To the optimum, whatever `max_steps`; "done", "interrupted", or "paused" after `seconds`."""
        try:
            return self._advance(seconds)
        except _Cancelled:
            return "interrupted"
        finally:
            self._passes = None

    def _advance(self, seconds: float) -> str:
        deadline = np.inf if seconds < 0 else time.monotonic() + seconds

        def late() -> bool:
            return time.monotonic() >= deadline

        moments = self._moments()
        # The second list is made when the first has been walked: of the models that the closed form has left.
        for make, blocks in ((self._closed_form, self._closed_blocks), (self._optimizer, self._blocks)):
            for models in blocks():
                try:
                    self._reader = threading.get_ident()
                    made = make(models, moments, late)
                finally:
                    self._reader = None
                if made is None:
                    return "interrupted" if self._cancelled else "paused"
                optimizer, weight_sum = made
                left = -1.0 if seconds < 0 else max(0.0, deadline - time.monotonic())
                self._current = optimizer
                try:
                    status = "interrupted" if self._cancelled else str(optimizer.advance(seconds=left))
                finally:
                    self._current = None
                self._collect(models, optimizer, weight_sum)
                if make == self._closed_form:
                    self.arrivals["closed_form"][models] = self.arrivals["how"][models] == CONVERGED
                if status != "done":
                    return status
        self.epochs_done = 1
        return "done"

    def cancel(self) -> None:
        """End `advance` soon; from a signal handler or another thread."""
        self._cancelled = True
        if self._reader == threading.get_ident():  # of the handler, which runs while moments are summed: it ends them
            self._reader = None
            raise _Cancelled
        current = self._current
        if current is not None:
            current.cancel()

    def coef(self) -> Array:
        """(n_models, n_features), or with an axis of outputs in between."""
        return self._coef

    def intercept(self) -> Array:
        """(n_models,) or (n_models, n_outputs)."""
        return self._intercept

    def steps(self) -> Array:
        """Iterations of each model."""
        return self.arrivals["n_iter"]

    def history(self, first: int = 0) -> Array:
        """Held-out losses at the optima, (epochs_done − first, n_models)."""
        return self._held_out[None, :][first : self.epochs_done].copy()

    @property
    def diverged_epoch(self) -> Array:
        """0 for a model whose loss at the start was not finite, else −1."""
        return np.where(self.arrivals["how"] == DIVERGED, 0, -1).astype(np.int64)

    diverged_batch = diverged_epoch

    # -- the way there ------------------------------------------------------------------------------------------------

    def _moments(self) -> Moments:
        return self.problem.moments_of(self.own, self.ids, self.conditions, self.settings.n_threads)

    @property
    def _curvature(self) -> bool:
        return uses_moments(self.rows[0]["solver"], self.rows[0]["loss"], *self.problem.data.shape)

    @property
    def _scores_by_moments(self) -> bool:
        """Whether the moments that training rows are added up from say all that a held-out loss is made of."""
        own = self.own.held_out_weight
        same = own is None or own is self.own.sample_weight
        return self._curvature and self.rows[0]["loss"] == "squared_error" and self.problem.validation is None and same

    def _blocks(self) -> list[Array]:
        """Models that go together, those of a split side by side: their panels skip the rows that none of them uses."""
        X = self.problem.data
        n_features, outputs = X.shape[1], max(1, *self.problem.outputs, 1)
        doubles = (8 + 2 * _HISTORY) * (n_features + 1) * outputs
        solver, loss = self.rows[0]["solver"], self.rows[0]["loss"]
        if without_passes(solver, loss):  # what else they need is made for a few models at a time
            doubles = (2 if self._curvature else 1) * (n_features + 1)
        elif solver == "coordinate-descent":
            # The Hessian of a working set: twice a support, which with l1 has no more columns than there are rows.
            doubles = 8 * (n_features + 1) + min(n_features, 2 * len(X), _MOST_COLUMNS) ** 2
        elif self._curvature:
            doubles += n_features * (n_features + 1) // 2
        square = 3 * (n_features + 1) ** 2 // 2 if self._curvature else 0
        square += (n_features + 1) ** 2 if self._curvature and self._scores_by_moments else 0
        budget = ((64 << 20) + X.nbytes // 20) // 8
        out: list[list[int]] = [[]]
        n_splits, last = 0, -1
        left = np.flatnonzero(~self.arrivals["closed_form"])
        left = left[np.argsort(self.splits[left], kind="stable")]
        if -(-len(left) // _GROUP) * _GROUP * doubles + len(np.unique(self.splits[left])) * square <= budget:
            return [left] if len(left) else []
        for m in left.tolist():
            split = int(self.splits[m])
            n_splits += split != last
            groups = len(out[-1]) // _GROUP + 1
            if out[-1] and _GROUP * groups * doubles + n_splits * square > budget:
                out.append([])
                n_splits = 1
            out[-1].append(m)
            last = split
        return [np.array(block, np.int64) for block in out if block]

    # -- leave-one-out in closed form ---------------------------------------------------------------------------------

    def _plan_leave_one_out(self) -> tuple[Array, str]:
        """The row that each model leaves out in closed form, or −1, and why leave-one-out goes through the folds, or "".

        The closed form holds the row that a split must not see, so it takes finite data alone; and the penalty must be
        the same matrix for every split, up to a factor. No model's rule depends on the other models.
        """
        problem, own, none = self.problem, self.own, np.full(len(self.rows), -1, np.int64)
        if self.rows[0]["solver"] != "cholesky":
            return none, ""
        rows = left_out_rows(self.ids, self.conditions)[self.splits]
        if not (rows >= 0).any():
            return none, ""
        fills = own.fill is not None and problem.filled is not None and problem.filled.any
        refusals = (
            (len(problem.data) <= _FEW_ROWS, f"no more than {_FEW_ROWS} rows, whose own sums cost little"),
            (not self.settings.check_finite, "check_finite=False, and a NaN would reach every split"),
            (self.settings.standardize, "standardize=True, and each split's scales are its own"),
            (fills, "missing='mean', and each split's means are its own"),
            (problem.validation is not None, "validation_data"),
        )
        for holds, why in refusals:
            if holds:
                return none, why
        return rows, ""

    def _closed_blocks(self) -> list[Array]:
        """Models of one penalty side by side, as many as memory allows."""
        models = np.flatnonzero((self._left_out >= 0) & ~self.arrivals["closed_form"])
        if not len(models):
            return []
        X, weight = self.problem.data, self.own.sample_weight
        self._l2 = np.array([row["l2"] for row in self.rows], np.float64)
        l2 = self._l2[models]
        of_row = np.ones(len(models)) if weight is None else weight[self._left_out[models]]
        models = models[np.lexsort((models, of_row, l2))]
        budget = (64 << 20) + X.nbytes // 20
        size = max(_GROUP, budget // (2 * X.shape[1] * X.itemsize + _REPORT_BYTES))
        return [models[at : at + size] for at in range(0, len(models), size)]

    def _closed_form(self, models: Array, moments: Moments, late: Callable[[], bool]) -> tuple[Any, Array] | None:
        """What solves these models from the sums of all rows; where that would cost digits, they stay as they are."""
        settings, own, target = self.settings, self.own, self.problem.target
        assert target is not None
        X = self.X
        if self._cancelled or late():
            return None
        if self._of_all_rows is None:
            self._of_all_rows = moments.of_all_rows()
        sums = self._of_all_rows
        ids, conditions = _splits.of_all_rows(len(X))
        optimizer = _core.optimum.Optimizer(
            X=X,
            y=target.y,
            sample_weight=own.sample_weight,
            ids=ids,
            conditions=conditions,
            split_of_model=np.zeros(len(models), np.int64),
            loss="squared_error",
            loss_epsilon=None,
            n_outputs=1,
            l1=None,
            l2=self._l2[models],
            fit_intercept=settings.fit_intercept,
            standardize=False,
            exact=True,
            weight_sum=np.array([sums.weight]),
            mean=sums.mean[None],
            scale=sums.scales(len(X))[None],
            comoment=sums.comoment[None],
            coef_init=None,
            intercept_init=None,
            max_iter=settings.max_iter,
            tol=settings.tol,
            refresh=0,
            n_threads=settings.n_threads,
            held_out_weight=own.held_out_weight,
            left_out=np.ascontiguousarray(self._left_out[models]),
        )
        return optimizer, np.full(len(models), sums.weight)

    # -- through the folds --------------------------------------------------------------------------------------------

    def _optimizer(self, models: Array, moments: Moments, late: Callable[[], bool]) -> tuple[Any, Array] | None:
        """What takes these models to their optima, and the Σw of each one's training rows; None if there was no time."""
        problem, settings, own, target = self.problem, self.settings, self.own, self.problem.target
        assert target is not None
        X = self.X
        used, splits = np.unique(self.splits[models], return_inverse=True)
        n_features = X.shape[1]
        mean, scale = np.zeros((len(used), n_features + 1)), np.ones((len(used), n_features))
        comoment = scored = y_square = None
        loss = self.rows[0]["loss"]
        if self._curvature:
            weight = np.empty(len(used))
            comoment = np.empty((len(used), n_features + 1, n_features + 1))
            if self._scores_by_moments:
                scored = np.zeros(len(used)), np.zeros(mean.shape), np.zeros(comoment.shape)
            for place, split in enumerate(used.tolist()):
                if self._cancelled or late():
                    return None
                sums: Sums = moments.of(split)
                weight[place], mean[place], comoment[place] = sums.weight, sums.mean, sums.comoment
                scale[place] = sums.scales(len(X))
                held_out = None if scored is None else moments.of_scored(split)
                if scored is not None and held_out is not None:
                    scored[0][place], scored[1][place], scored[2][place] = held_out.weight, held_out.mean, held_out.comoment
        else:
            every = _core.optimum.split_moments(
                X, own.sample_weight, self.ids, self.conditions, used, settings.n_threads
            )
            weight, mean[:, :-1], scale = (np.ascontiguousarray(array[used]) for array in every)
            if loss in OF_NUMBERS:
                column_y = np.ascontiguousarray(target.y[:, None])
                _, mean_y, scale_y = _core.optimum.split_moments(
                    column_y, own.sample_weight, self.ids, self.conditions, used, settings.n_threads
                )
                mean[:, -1] = mean_y[used, 0]
                y_square = np.maximum(scale_y[used, 0], 0.0) ** 2
                if not settings.fit_intercept:
                    with np.errstate(over="ignore"):  # beyond float64 it is no scale
                        y_square += mean[:, -1] ** 2
        self._check_weights(used, weight)
        rows = [self.rows[m] for m in models.tolist()]

        def column(name: str) -> Array:
            return np.array([row[name] for row in rows], np.float64)

        def of(values: Array | None) -> Array | None:
            return None if values is None else np.ascontiguousarray(values[models], np.float64)

        validation = None
        if problem.validation is not None:
            v = problem.validation
            seen = v.X if own.fill is None else np.ascontiguousarray(_missing.filled_rows(v.X, own.fill))
            validation = (seen, v.y, v.sample_weight)
        sample = self._sample(used)
        coef_init, intercept_init = self.coef_init, self.intercept_init
        if self.near is not None and sample and self._curvature and loss not in ("multinomial", "squared_error"):
            coef_init, intercept_init = self.near
            del sample["sample_weight_sum"]  # its rows tell how the loss bends, no more
        conditions = np.ascontiguousarray(self.conditions[used])
        evaluate = None
        if settings.device == "cuda" and not without_passes(rows[0]["solver"], loss):
            if self._passes is None:
                from gradfold.cuda.optimum import Passes

                self._passes = Passes(problem, own)
            evaluate = self._passes.over(loss, self.ids, conditions, sample.get("sample"))
        optimizer = _core.optimum.Optimizer(
            X=X,
            y=target.y,
            sample_weight=own.sample_weight,
            ids=self.ids,
            conditions=conditions,
            split_of_model=np.ascontiguousarray(splits, np.int64),
            loss=loss,
            loss_epsilon=column("loss_epsilon"),
            n_outputs=target.n_outputs,
            l1=column("l1") if rows[0]["solver"] == "coordinate-descent" else None,
            l2=column("l2"),
            fit_intercept=settings.fit_intercept,
            standardize=settings.standardize,
            exact=rows[0]["solver"] == "cholesky",
            weight_sum=weight,
            mean=mean,
            scale=scale,
            comoment=comoment,
            coef_init=of(coef_init),
            intercept_init=of(intercept_init),
            max_iter=settings.max_iter,
            tol=settings.tol,
            refresh=refresh(rows[0]["solver"], loss, n_features) if self._curvature else 0,
            n_threads=settings.n_threads,
            held_out_weight=own.held_out_weight if validation is None else None,
            validation=validation,
            scored=scored,
            evaluate=evaluate,
            y_square=y_square,
            **sample,
        )
        return optimizer, weight[splits]

    def _sample(self, used: Array) -> dict[str, Array]:
        """Rows for a start, and what the splits train on among them; nothing where a start would not pay."""
        n_rows, n_features = self.problem.data.shape
        n_sample = n_rows // _SAMPLE_SHARE
        outputs = max(1, *self.problem.outputs, 1)
        if n_sample < _SAMPLE_ROWS or n_sample < _SAMPLE_PER_PARAMETER * n_features * outputs or self.rows[0]["solver"] != "lbfgs":
            return {}
        if self._sampled is None:
            self._sampled = np.sort(np.asarray(Permutation(n_rows, 0, stream=_SAMPLE_STREAM)[:n_sample]))
        rows, weight = self._sampled, self.own.sample_weight
        ids = np.ascontiguousarray(self.ids[:, rows])
        sums = []
        for split in used.tolist():
            mine = trains(ids, self.conditions[split])
            if weight is None:
                sums.append(float(mine.sum()))
                continue
            # One after the other: the order in which `sum` adds depends on the processor.
            own = weight[rows][mine].astype(np.float64)
            with np.errstate(all="ignore"):  # of weights that are not finite: their models diverge
                sums.append(float(np.cumsum(own)[-1]) if len(own) else 0.0)
        return {"sample": rows, "sample_weight_sum": np.array(sums)}

    def _check_weights(self, splits: Array, weight: Array) -> None:
        """Weights of classes, or their sum, may have come to what no mean can be taken with."""
        if not self.settings.check_finite:
            return
        for split, total in zip(splits.tolist(), weight.tolist(), strict=True):
            if total == 0 or not np.isfinite(total):
                what = "no training row of positive weight" if total == 0 else "a sum of weights that overflows"
                raise ValueError(f"sample_weight: got {what} for split {split}, class_weight included, wanted a finite sum above 0")

    def _lightest(self, split: int) -> float:
        """The smallest weight of a training row."""
        weight = self.own.sample_weight
        if weight is None:
            return 1.0
        own = weight[trains(self.ids, self.conditions[split])]
        return float(own.min(where=own > 0, initial=np.inf))

    def _one_class(self, split: int) -> bool:
        """Whether a split's training rows lack one of the classes."""
        target = self.problem.target
        assert target is not None
        seen = np.zeros(max(2, target.n_outputs), np.bool_)
        for a in range(0, len(target.y), _ROWS):  # the first of them nearly always hold all
            rows = trains(self.ids[:, a : a + _ROWS], self.conditions[split])
            if self.own.sample_weight is not None:
                rows &= self.own.sample_weight[a : a + _ROWS] != 0
            y = target.y[a : a + _ROWS][rows]
            seen[(y > 0 if target.n_outputs == 1 else y).astype(np.int64)] = True
            if seen.all():
                return False
        return True

    def _collect(self, models: Array, optimizer: Any, weight_sum: Array) -> None:
        for name, values in optimizer.arrivals().items():
            self.arrivals[name][models] = values
        # The others are where they started.
        moved = (self.arrivals["how"][models] != 0) | (self.arrivals["n_passes"][models] > 0)
        chosen = slice(None) if moved.all() else moved  # nothing is copied where all have
        self._coef[models[chosen]], self._intercept[models[chosen]] = optimizer.coef()[chosen], optimizer.intercept()[chosen]
        self._held_out[models] = optimizer.held_out()
        loss = self.rows[0]["loss"]
        if loss in ("log_loss", "multinomial"):
            # A row that is on the wrong side costs log 2 at least.
            used = {split: self._lightest(split) for split in np.unique(self.splits[models]).tolist()}
            lightest = np.array([used[split] for split in self.splits[models].tolist()])
            penalised = self.rows[0]["solver"] == "coordinate-descent"  # by l1, which the others do not read
            free = np.array([self.rows[m]["l2"] == 0 and not (penalised and self.rows[m]["l1"] > 0) for m in models.tolist()])
            if self.settings.fit_intercept and self.settings.check_finite:
                lacking = {split: self._one_class(split) for split in np.unique(self.splits[models]).tolist()}
                self.arrivals["one_class"][models] = [lacking[split] for split in self.splits[models].tolist()]
            self.arrivals["separable"][models] = free & (self.arrivals["objective"][models] * weight_sum < np.log(2) * lightest)
