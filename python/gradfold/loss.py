"""Losses by name, as objects with the methods of scikit-learn's losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check

Array = npt.NDArray[Any]


class Loss:
    """A point-wise loss of a raw prediction.

    The methods follow scikit-learn's `BaseLoss`. They take `y_true` and `raw_prediction` of one shape (n_rows,),
    float32 or float64, and multiply every row's result by its `sample_weight` where one is given. They are NumPy
    expressions for looking at a loss; training evaluates its own kernels, whose last bits may differ.

    Attributes
    ----------
    name : str
        The name that `get` and `fit` know it by.
    n_outputs : int
        Raw predictions of one row.
    """

    name: str = ""
    n_outputs: int = 1

    def loss(
        self, y_true: npt.ArrayLike, raw_prediction: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> Array:
        """The loss of each row, shape (n_rows,)."""
        y, z, w = self._arguments(y_true, raw_prediction, sample_weight)
        return _weighted(self._loss(y, z), w)

    def gradient(
        self, y_true: npt.ArrayLike, raw_prediction: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> Array:
        """The first derivative with respect to the raw prediction, shape (n_rows,)."""
        y, z, w = self._arguments(y_true, raw_prediction, sample_weight)
        return _weighted(self._gradient(y, z), w)

    def loss_gradient(
        self, y_true: npt.ArrayLike, raw_prediction: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """`loss` and `gradient` together."""
        y, z, w = self._arguments(y_true, raw_prediction, sample_weight)
        return _weighted(self._loss(y, z), w), _weighted(self._gradient(y, z), w)

    def gradient_hessian(
        self, y_true: npt.ArrayLike, raw_prediction: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """The first and the second derivative with respect to the raw prediction, each of shape (n_rows,)."""
        y, z, w = self._arguments(y_true, raw_prediction, sample_weight)
        return _weighted(self._gradient(y, z), w), _weighted(self._hessian(y, z), w)

    def __call__(
        self, y_true: npt.ArrayLike, raw_prediction: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> float:
        """The weighted mean of the loss, computed in float64.

        Raises
        ------
        ValueError
            The weights sum to zero.
        """
        y, z, w = self._arguments(y_true, raw_prediction, sample_weight)
        losses = self._loss(y, z).astype(np.float64)
        if w is None:
            return float(losses.mean())
        w = w.astype(np.float64)
        if w.sum() == 0:
            raise ValueError("sample_weight: got weights that sum to zero, wanted a sum above 0")
        return float(np.average(losses, weights=w))

    def __repr__(self) -> str:
        return f"<gradfold loss {self.name!r}>"

    def _arguments(
        self, y_true: npt.ArrayLike, raw_prediction: npt.ArrayLike, sample_weight: npt.ArrayLike | None
    ) -> Any:
        z = _check.plain_array("raw_prediction", raw_prediction, "shape (n_rows,)")
        if z.dtype not in _check.FLOATS:
            raise TypeError(f"raw_prediction: got dtype {z.dtype}, wanted float32 or float64")
        if z.ndim == 2 and z.shape[1] == 1:
            z = z[:, 0]
        if z.ndim != 1 or len(z) == 0:
            raise ValueError(f"raw_prediction: got shape {z.shape}, wanted (n_rows,) with at least one row")
        y = _check.per_row("y_true", y_true, len(z), z.dtype)
        w = None if sample_weight is None else _check.per_row("sample_weight", sample_weight, len(z), z.dtype)
        return y, z, w

    def _loss(self, y: Array, z: Array) -> Array:
        raise NotImplementedError

    def _gradient(self, y: Array, z: Array) -> Array:
        raise NotImplementedError

    def _hessian(self, y: Array, z: Array) -> Array:
        raise NotImplementedError


class SquaredError(Loss):
    """½ (y − z)², scikit-learn's `HalfSquaredError`."""

    name = "squared_error"

    def _loss(self, y: Array, z: Array) -> Array:
        d = z - y
        return np.asarray(z.dtype.type(0.5) * d * d)

    def _gradient(self, y: Array, z: Array) -> Array:
        return np.asarray(z - y)

    def _hessian(self, y: Array, z: Array) -> Array:
        return np.ones_like(z)


class LogLoss(Loss):
    """The log loss of a binary classifier, scikit-learn's `HalfBinomialLoss`.

    y is in {0, 1} or {-1, 1}, the larger label positive; the raw prediction is the log-odds of the positive class.
    With t = −z for the positive class and z for the other, the loss is log(1 + exp(t)).
    """

    name = "log_loss"

    def _loss(self, y: Array, z: Array) -> Array:
        t = np.where(y > 0, -z, z)
        return np.asarray(np.maximum(t, 0) + np.log1p(np.exp(-np.abs(z))))

    def _gradient(self, y: Array, z: Array) -> Array:
        # |gradient| is the probability of the wrong class: no p − y, which would cancel where the model is right.
        wrong = expit(np.where(y > 0, -z, z))
        return np.where(y > 0, -wrong, wrong)

    def _hessian(self, y: Array, z: Array) -> Array:
        e = np.exp(-np.abs(z))
        return np.asarray(e / ((1 + e) * (1 + e)))


def expit(z: Array) -> Array:
    """1 / (1 + exp(−z)) without overflow: the probability of the positive class from its log-odds."""
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z > 0, 1, e) / (1 + e), dtype=z.dtype)


_LOSSES: dict[str, Loss] = {loss.name: loss for loss in (LogLoss(), SquaredError())}
NAMES = tuple(_LOSSES)


def get(name: str) -> Loss:
    """The loss of that name: "log_loss" or "squared_error".

    Raises
    ------
    ValueError
        An unknown name; the message holds the names that are near it.
    TypeError
        Not a string.
    """
    return _LOSSES[_check.choice("loss", name, NAMES)]


def _weighted(values: Array, weight: Array | None) -> Array:
    return values if weight is None else values * weight
