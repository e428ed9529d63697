"""Passes over X on the device, for the solvers of the optimum: what `_core.optimum.Optimizer` takes as `evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _device
from gradfold._problem import SHARE_OF_X, Problem, Rows
from gradfold.cuda import _driver, arrays, gradient
from gradfold.cuda import roles as _roles
from gradfold.cuda import stream as _stream

Array = npt.NDArray[Any]


class Passes:
    """X, y and the weights of a trainer on the device.

    Raises
    ------
    DeviceMemoryError
        X does not lie on the GPU and does not fit there: nothing streams here.
    """

    def __init__(self, problem: Problem, own: Rows) -> None:
        assert problem.target is not None
        _device.check_shape(*problem.data.shape)
        self.X = problem.data_on_gpu()
        if not arrays.on_gpu(self.X):
            hint = "solvers of the optimum want all of X there, with some room; solvers of epochs stream it, and device='cpu' needs no GPU"
            raise _driver.too_much(self.X.nbytes / SHARE_OF_X, hint, arrays.free_memory())
        self.stream = getattr(self.X, "stream", 0)
        self.y = arrays.to_device(problem.target.y, self.stream)
        self.weight = self._moved(own.sample_weight)
        self.held_out_weight = self.weight if own.held_out_weight is None else self._moved(own.held_out_weight)

    def _moved(self, array: Array | None) -> Any:
        return None if array is None else arrays.to_device(array, self.stream)

    def over(self, loss: str, ids: Array, conditions: Array, sample: Array | None) -> Callable[..., tuple[Array, Array | None]]:
        """Passes for models of the splits that have these `conditions`; `sample` are the rows of a start."""
        dtype, n_features = self.X.dtype, self.X.shape[1]
        rows = self._moved(sample)

        def words(weight: Any, scores: bool) -> tuple[Any, int]:
            flat = None if weight is None else weight.flat
            return _roles.words(ids, conditions, flat, dtype, scores=scores, stream=self.stream)

        trains = words(self.weight, False)

        def evaluate(
            W: Array, intercept: Array, split_of_model: Array, loss_epsilon: Array | None, sampled: bool, scores: bool
        ) -> tuple[Array, Array | None]:
            n_models = len(intercept)
            losses = arrays.empty(n_models, np.float64, self.stream)
            totals = gradient.loss_gradient(
                self.X, self.y, self._moved(W), self._moved(intercept), loss=loss, mean=scores, rows=rows if sampled else None,
                ids=None, conditions=None, split_of_model=split_of_model,
                sample_weight=self.held_out_weight if scores else self.weight, loss_out=losses, grad_W=None, grad_intercept=None,
                loss_epsilon=loss_epsilon, stream=self.stream, sums=not scores,
                roles=words(self.held_out_weight, True) if scores else trains,
            )  # fmt: skip
            _stream.wait_for(_stream.mark(self.stream))  # signal handlers run meanwhile
            if scores:
                return losses.numpy(), None
            lanes = gradient.shape_for(dtype, n_models).models
            sums = _driver.to_host(totals.grad, (-1, n_features + 1, lanes), self.stream)
            return losses.numpy(), np.ascontiguousarray(sums.transpose(1, 0, 2).reshape(n_features + 1, -1)[:, :n_models])

        return evaluate
