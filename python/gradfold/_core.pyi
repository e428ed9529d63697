"""Typed stubs of the compiled module. Private: the Python modules beside it check, allocate and route.

The bindings convert nothing: every array is C-contiguous and has the dtype and shape stated, or they raise.
"""

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
        """X (n, p) @ W (p, m) + intercept (m,) into out (n, m)."""
    @staticmethod
    def loss_gradient(
        X: _Array,
        y: _Array,
        W: _Array,
        intercept: _Array | None,
        loss: str,
        mean: bool,
        rows: _Int64 | None,
        ids: _Array | None,
        conditions: _Int64 | None,
        split_of_model: _Int64 | None,
        sample_weight: _Array | None,
        loss_out: _Float64 | None,
        grad_W: _Array,
        grad_intercept: _Array | None,
        n_threads: int,
    ) -> None: ...

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
        ) -> None: ...
        def advance(self, max_steps: int = -1, seconds: float = -1.0) -> str:
            """Train on: "done", "paused" (a limit was reached) or "interrupted" (`cancel`)."""
        def cancel(self) -> None:
            """From a signal handler or another thread: `advance` returns soon, at each model's last whole batch."""
        def coef(self) -> _Array: ...
        def intercept(self) -> _Array: ...
        def steps(self) -> _Int64: ...
        def history(self) -> _Float64: ...
        @property
        def epochs_done(self) -> int: ...
        @property
        def diverged_epoch(self) -> _Int64: ...
        @property
        def diverged_batch(self) -> _Int64: ...

# Their callers write their stubs as they need them.
index: Any
metrics: Any
simd: Any
