"""Typed stubs of the compiled module. Private: the Python modules beside it check, allocate and route.

The bindings convert nothing: every array is C-contiguous and has the dtype and shape stated, or they raise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]
_Int64 = npt.NDArray[np.int64]
_Float64 = npt.NDArray[np.float64]

class levels:
    @staticmethod
    def supported() -> list[str]:
        """The levels that this build holds and this CPU runs, slowest first."""
    @staticmethod
    def current() -> str:
        """The level in use. ValueError if GRADFOLD_LEVEL names an unknown or unsupported one."""
    @staticmethod
    def _force(name: str) -> None:
        """For tests: force a level in this process; '' undoes it."""

class gradient:
    @staticmethod
    def first_non_finite(A: _Array, n_threads: int) -> tuple[int, int] | None:
        """The first (row, column), in row order, that is NaN or infinite; column 0 for one dimension."""
    @staticmethod
    def raw_prediction(X: _Array, W: _Array, intercept: _Array | None, out: _Array, n_threads: int) -> None:
        """X (n, p) @ W (p, m) + intercept (m,) into out (n, m). Several outputs are that many models here."""
    @staticmethod
    def raw_prediction_of_rows(
        X: _Array, rows: _Array, W: _Array, intercept: _Array | None, out: _Array, n_threads: int
    ) -> None:
        """X[rows] @ W (p, m) + intercept (m,) into out (len(rows), m), in float64 whatever X is; rows are int64."""
    @staticmethod
    def loss_gradient(
        X: _Array,
        y: _Array,
        W: _Array | None,
        intercept: _Array | None,
        loss: str,
        mean: bool,
        rows: _Int64 | None,
        ids: _Array | None,
        conditions: _Int64 | None,
        split_of_model: _Int64 | None,
        sample_weight: _Array | None,
        loss_out: _Float64 | None,
        grad_W: _Array | None,
        grad_intercept: _Array | None,
        n_threads: int,
        loss_epsilon: _Float64 | None = None,
    ) -> None:
        """For multinomial W and grad_W are (p, n_outputs, m), the intercepts (n_outputs, m); else (p, m) and (m,)."""

class train:
    class Trainer:
        """Many models in lock-step; what one step is stands in docs/design.md."""

        def __init__(
            self,
            *,
            X: _Array,
            y: _Array,
            sample_weight: _Array | None,
            ids: _Array,
            conditions: _Int64,
            split_of_model: _Int64,
            loss: str,
            solver: str,
            l1: _Float64,
            l2: _Float64,
            learning_rate: _Float64,
            schedule: npt.NDArray[np.int32],
            epochs: int,
            batch_size: int,
            shuffle: bool,
            seed: int,
            fit_intercept: bool,
            standardize: bool,
            coef_init: _Float64 | None,
            intercept_init: _Float64 | None,
            n_threads: int,
            hyper: dict[str, _Float64] = {},
            first_epoch: int = 0,
            held_out_weight: _Array | None = None,
            validation: tuple[_Array, _Array, _Array | None] | None = None,
            moments: tuple[_Float64, _Float64] | None = None,
            track_train_loss: bool = False,
            state: dict[str, _Array] | None = None,
            n_outputs: int = 1,
            loss_epsilon: _Float64 | None = None,
        ) -> None:
            """`first_epoch`: the permutation's epoch of the first epoch walked. `held_out_weight` (n_rows,): weights of the
            held-out losses, default `sample_weight`. `validation` (X, y, weight or None): every model is scored on all of
            these rows instead of its split's own. `moments` (mean, scale), each (n_splits, n_features): standardise with
            these; scale -1 marks a constant column. `state`: what `get_state` of a Trainer with the same arguments returned;
            without "position" and "history" the epochs begin anew, without "finished" and "diverged_epoch" and
            "diverged_batch" all models train again, without "train_loss" and "train_weight" those sums begin at 0.
            `n_outputs` is the number of classes of multinomial; `coef_init` is then (n_models, n_outputs, n_features) and
            `intercept_init` (n_models, n_outputs), and so are `coef` and `intercept`. `loss_epsilon` (n_models,), default 0.1."""
        def advance(self, max_steps: int = -1, seconds: float = -1.0) -> str:
            """Train on: "done", "paused" (a limit was reached) or "interrupted" (`cancel`)."""
        def cancel(self) -> None:
            """From a signal handler or another thread: `advance` returns soon, at each model's last whole batch."""
        def coef(self) -> _Array: ...
        def intercept(self) -> _Array: ...
        def steps(self) -> _Int64: ...
        def history(self, first: int = 0) -> _Float64:
            """(n_epochs_done - first, n_models): held-out losses after each epoch from `first` on."""
        @property
        def epochs_done(self) -> int: ...
        @property
        def steps_per_epoch(self) -> int: ...
        @property
        def diverged_epoch(self) -> _Int64: ...
        @property
        def diverged_batch(self) -> _Int64: ...
        def alive(self) -> npt.NDArray[np.bool_]:
            """(n_models,): which models still train; False for finished and for diverged ones."""
        def finish(self, mask: npt.NDArray[np.bool_]) -> None:
            """These models leave for good: no training, no scoring (history is NaN). Their weights stay readable."""
        def snapshot(self, mask: npt.NDArray[np.bool_]) -> None:
            """Remember these models as they are now: weights and optimiser state; replaces what was remembered before."""
        def restore(self, mask: npt.NDArray[np.bool_]) -> None:
            """Make these models what `snapshot` remembered; ValueError names a model that was never remembered."""
        def scale_learning_rate(self, factor: _Float64) -> None:
            """Multiply each model's learning rate, whatever its schedule, from its next step on; finished ones keep theirs."""
        def train_loss(self, reset: bool = True) -> _Float64:
            """(n_models,): weighted mean loss over the training rows visited since the last reset, each at the weights of its
            batch, without penalties; NaN where there is none. Needs `track_train_loss`."""
        def get_state(self) -> dict[str, _Array]:
            """Copies of all that is needed to go on with the same bits; the first axis of each is the model. What models
            carry is (n_models, height), the rest (n_models,), and "history" (n_models, epochs_done). After an interrupt in
            mid-epoch without "position" and "history", since each model is then at a batch of its own."""

class roofline:
    """Rates of this machine. `level` None is the one in use; a sum is of all elements read, and is there to be checked."""

    @staticmethod
    def fma_peak(sizeof_type: int, n_threads: int, seconds: float = 0.2, level: str | None = None) -> float:
        """Operations a second of independent FMAs in registers; an FMA is two."""
    @staticmethod
    def read_bandwidth(
        memory: _Float64, n_threads: int, repeats: int = 3, level: str | None = None
    ) -> tuple[float, float]:
        """Bytes a second, and the sum of `memory` (n,)."""
    @staticmethod
    def copy_bandwidth(
        source: _Float64, target: _Float64, n_threads: int, repeats: int = 3, level: str | None = None
    ) -> float:
        """Bytes a second, read and written, from (n,) to (n,), which may not overlap."""
    @staticmethod
    def gather_bandwidth(
        table: _Array, rows: _Int64, n_threads: int, repeats: int = 3, level: str | None = None
    ) -> tuple[float, float]:
        """Bytes a second of ``table[rows]``, and its sum; the row numbers (n,) are not counted. The table is (n_rows, width)."""

# Their callers write their stubs as they need them.
index: Any
metrics: Any
simd: Any

class optimum:
    """Many models at their own optima."""

    @staticmethod
    def cell_moments(
        X: _Array, y: _Array, weight: _Array | None, order: _Array, offset: _Array, n_threads: int
    ) -> tuple[_Array, _Array, _Array]:
        """Σw (n_cells,), weighted means (n_cells, n_features + 1) and comoments (n_cells, n_features + 1, n_features + 1) of
        cells, whose rows are order[offset[c]:offset[c + 1]]; the last column is y."""

    @staticmethod
    def column_scales(weight: float, mean: _Array, comoment: _Array, n_rows: int) -> _Array:
        """Standard deviations of the features, all columns but the last; −1 marks a constant."""

    @staticmethod
    def add_moments(
        weight: float, mean: _Array, comoment: _Array, other_weight: float, other_mean: _Array, other_comoment: _Array
    ) -> float:
        """Adds the sums of other rows to `mean` (n,) and `comoment` (n, n), in place; returns Σw of both."""

    @staticmethod
    def split_moments(
        X: _Array, weight: _Array | None, ids: _Array, conditions: _Array, splits: _Int64, n_threads: int
    ) -> tuple[_Array, _Array, _Array]:
        """Σw (n_splits,), means and scales (n_splits, n_features) of the training rows of some splits; −1 marks a constant."""

    class Optimizer:
        def __init__(
            self,
            *,
            X: _Array,
            y: _Array,
            sample_weight: _Array | None,
            ids: _Array,
            conditions: _Array,
            split_of_model: _Array,
            loss: str,
            loss_epsilon: _Array | None,
            n_outputs: int,
            l1: _Array | None,
            l2: _Array,
            fit_intercept: bool,
            standardize: bool,
            exact: bool,
            weight_sum: _Array,
            mean: _Array,
            scale: _Array,
            comoment: _Array | None,
            coef_init: _Array | None,
            intercept_init: _Array | None,
            max_iter: int,
            tol: float,
            refresh: int,
            n_threads: int,
            held_out_weight: _Array | None = None,
            validation: tuple[_Array, _Array, _Array | None] | None = None,
            sample: _Int64 | None = None,
            sample_weight_sum: _Float64 | None = None,
            scored: tuple[_Float64, _Float64, _Float64] | None = None,
            left_out: _Int64 | None = None,
            evaluate: Callable[[_Array, _Array, _Int64, _Float64 | None, bool, bool], tuple[_Float64, _Float64 | None]] | None = None,
            y_square: _Float64 | None = None,
        ) -> None:
            """Models of the splits `split_of_model`; `weight_sum` (n_splits,), `mean` (n_splits, n_features + 1, y last), `scale`
            (n_splits, n_features) and `comoment` (n_splits, n_features + 1, n_features + 1) are of their training rows, and
            `scored` (weight_sum, mean, comoment) of the rows that they score, weight 0 where nobody knows.
            Models come near their optima on the rows `sample` first, or, without `sample_weight_sum`, start near them.
            `left_out` (n_models,): each model leaves this row out of its split, in closed form; `how` stays 0 where that would
            cost digits. `evaluate(W, intercept, split_of_model, loss_epsilon, sampled, scores)` takes the passes over X, or over
            the rows of `sample`: it returns losses (n_models,) and sums of gradients (n_features + 1, n_models), the
            intercepts' last; where it `scores`, mean held-out losses and None. It has the bits of `loss_gradient`. `y_square`
            (n_splits,), where there are no comoments: the variance of y, or with no intercept its mean square."""

        def advance(self, max_steps: int = -1, seconds: float = -1.0) -> str:
            """At most `max_steps` passes over X: "done", "paused" or "interrupted"."""

        def cancel(self) -> None: ...
        def coef(self) -> _Array: ...
        def intercept(self) -> _Array: ...
        def held_out(self) -> _Array: ...
        def arrivals(self) -> dict[str, _Array]: ...
