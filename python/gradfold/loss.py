"""Losses by name, as objects with the methods of scikit-learn's losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check

Array = npt.NDArray[Any]


class Loss:
    """A loss of the raw prediction of a row.

    The methods follow scikit-learn's `BaseLoss`. They take `y_true` of shape (n_rows,) and `raw_prediction` of the same
    shape, or (n_rows, n_classes) for the multinomial loss, float32 or float64, and multiply every row's result by its
    `sample_weight` where one is given. Results have the dtype of `raw_prediction`. They raise ValueError for shapes that do
    not fit and TypeError for other dtypes. They are NumPy expressions for looking at a loss; training evaluates its own kernels,
    whose last bits may differ.

    Attributes
    ----------
    name : str
        The name that `get` and `fit` know it by.
    n_outputs : int or None
        Raw predictions of one row; None where it is the number of classes.
    """

    name: str = ""
    n_outputs: int | None = 1

    def loss(
        self, y_true: npt.ArrayLike, raw_prediction: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> Array:
        """The loss of each row, shape (n_rows,)."""
        y, z, w = self._arguments(y_true, raw_prediction, sample_weight)
        return _weighted(self._loss(y, z), w)

    def gradient(
        self, y_true: npt.ArrayLike, raw_prediction: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> Array:
        """The first derivative with respect to the raw prediction, of its shape."""
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
        """The first and the second derivative with respect to the raw prediction, each of its shape.

        Of several outputs the second derivative is the diagonal of each row's matrix.
        """
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
        z = self._raw(raw_prediction)
        y = _check.per_row("y_true", y_true, len(z), z.dtype)
        w = None if sample_weight is None else _check.per_row("sample_weight", sample_weight, len(z), z.dtype)
        return y, z, w

    def _raw(self, raw_prediction: npt.ArrayLike) -> Array:
        z = _check.plain_array("raw_prediction", raw_prediction, "shape (n_rows,)")
        if z.dtype not in _check.FLOATS:
            raise TypeError(f"raw_prediction: got dtype {z.dtype}, wanted float32 or float64")
        if z.ndim == 2 and z.shape[1] == 1:
            z = z[:, 0]
        if z.ndim != 1 or len(z) == 0:
            raise ValueError(f"raw_prediction: got shape {z.shape}, wanted (n_rows,) with at least one row")
        return z

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


class _BinaryMargin(Loss):
    """Losses of the margin t = s·z, with s = 1 where y > 0 and −1 elsewhere: y is in {0, 1} or {-1, 1}."""

    def _loss(self, y: Array, z: Array) -> Array:
        return np.asarray(self._of_margin(np.where(y > 0, z, -z))[0], dtype=z.dtype)

    def _gradient(self, y: Array, z: Array) -> Array:
        slope = self._of_margin(np.where(y > 0, z, -z))[1]
        return np.asarray(np.where(y > 0, slope, -slope), dtype=z.dtype)

    def _hessian(self, y: Array, z: Array) -> Array:
        return np.asarray(self._of_margin(np.where(y > 0, z, -z))[2], dtype=z.dtype)

    def _of_margin(self, t: Array) -> tuple[Array, Array, Array]:
        """Value, first and second derivative at each margin."""
        raise NotImplementedError


class Hinge(_BinaryMargin):
    """max(0, 1 − t), the loss of a linear support vector machine; t is z for the positive class and −z for the other."""

    name = "hinge"

    def _of_margin(self, t: Array) -> tuple[Array, Array, Array]:
        return _nan_kept(t, np.where(t > 1, 0, 1 - t), np.where(t > 1, 0, -1), np.zeros_like(t))


class Perceptron(_BinaryMargin):
    """max(0, −t), the loss of the perceptron; t is z for the positive class and −z for the other."""

    name = "perceptron"

    def _of_margin(self, t: Array) -> tuple[Array, Array, Array]:
        return _nan_kept(t, np.where(t > 0, 0, 0 - t), np.where(t > 0, 0, -1), np.zeros_like(t))


class SquaredHinge(_BinaryMargin):
    """max(0, 1 − t)²; t is z for the positive class and −z for the other."""

    name = "squared_hinge"

    def _of_margin(self, t: Array) -> tuple[Array, Array, Array]:
        d = np.where(t >= 1, 0, 1 - t)
        return _nan_kept(t, d * d, -2 * d, np.where(d > 0, 2, 0))


class ModifiedHuber(_BinaryMargin):
    """max(0, 1 − t)² for t >= −1, else −4t; t is z for the positive class and −z for the other. Source: Zhang, "Solving
    large scale linear prediction problems using stochastic gradient descent algorithms", 2004."""

    name = "modified_huber"

    def _of_margin(self, t: Array) -> tuple[Array, Array, Array]:
        linear, d = t < -1, np.where(t >= 1, 0, 1 - t)
        curve = np.where(~linear & (d > 0), 2, 0)
        return _nan_kept(t, np.where(linear, -4 * t, d * d), np.where(linear, -4, -2 * d), curve)


class _OfDifference(Loss):
    """Losses of r = z − y, with a number epsilon."""

    epsilon: float

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def __repr__(self) -> str:
        return f"<gradfold loss {self.name!r}, epsilon={self.epsilon}>"

    def _loss(self, y: Array, z: Array) -> Array:
        return np.asarray(self._of_difference(z - y, z.dtype.type(self.epsilon))[0], dtype=z.dtype)

    def _gradient(self, y: Array, z: Array) -> Array:
        return np.asarray(self._of_difference(z - y, z.dtype.type(self.epsilon))[1], dtype=z.dtype)

    def _hessian(self, y: Array, z: Array) -> Array:
        return np.asarray(self._of_difference(z - y, z.dtype.type(self.epsilon))[2], dtype=z.dtype)

    def _of_difference(self, r: Array, epsilon: Any) -> tuple[Array, Array, Array]:
        """Value, first and second derivative at each difference."""
        raise NotImplementedError


class Huber(_OfDifference):
    """½ r² for |r| <= epsilon, else epsilon·|r| − ½ epsilon², r being z − y. Source: Huber, "Robust estimation of a
    location parameter", 1964."""

    name = "huber"

    def _of_difference(self, r: Array, epsilon: Any) -> tuple[Array, Array, Array]:
        size, half = np.abs(r), r.dtype.type(0.5)
        linear = size > epsilon
        value = np.where(linear, epsilon * size - half * (epsilon * epsilon), half * (r * r))
        return _nan_kept(r, value, np.where(linear, np.copysign(epsilon, r), r), np.where(linear, 0, 1))


class EpsilonInsensitive(_OfDifference):
    """max(0, |r| − epsilon), r being z − y: support vector regression."""

    name = "epsilon_insensitive"

    def _of_difference(self, r: Array, epsilon: Any) -> tuple[Array, Array, Array]:
        inside = np.abs(r) <= epsilon
        return _nan_kept(r, np.where(inside, 0, np.abs(r) - epsilon), np.where(inside, 0, np.sign(r)), np.zeros_like(r))


class SquaredEpsilonInsensitive(_OfDifference):
    """max(0, |r| − epsilon)², r being z − y."""

    name = "squared_epsilon_insensitive"

    def _of_difference(self, r: Array, epsilon: Any) -> tuple[Array, Array, Array]:
        d = np.where(np.abs(r) <= epsilon, 0, np.abs(r) - epsilon)
        return _nan_kept(r, d * d, np.copysign(2 * d, r), np.where(d > 0, 2, 0))


class Multinomial(Loss):
    """The log loss of several classes, scikit-learn's `HalfMultinomialLoss`.

    y holds class codes 0 to n_classes − 1; a row has one raw prediction for each class, of which the softmax is the
    probability: p_k = exp(z_k) / Σ exp(z). The loss is −log p_y. A y that is no class code gives NaN.
    """

    name = "multinomial"
    n_outputs = None

    def predict_proba(self, raw_prediction: npt.ArrayLike) -> Array:
        """The probability of each class, of the shape of `raw_prediction`, (n_rows, n_classes)."""
        return softmax(self._raw(raw_prediction))

    def _raw(self, raw_prediction: npt.ArrayLike) -> Array:
        z = _check.plain_array("raw_prediction", raw_prediction, "shape (n_rows, n_classes)")
        if z.dtype not in _check.FLOATS:
            raise TypeError(f"raw_prediction: got dtype {z.dtype}, wanted float32 or float64")
        if z.ndim != 2 or len(z) == 0 or z.shape[1] < 2:
            raise ValueError(
                f"raw_prediction: got shape {z.shape}, wanted (n_rows, n_classes) with at least one row and two classes"
            )
        return z

    def _own_class(self, y: Array, z: Array) -> Array:
        """Where a raw prediction is that of its row's class, (n_rows, n_classes)."""
        return np.asarray(y[:, None] == np.arange(z.shape[1]))

    def _loss(self, y: Array, z: Array) -> Array:
        own = self._own_class(y, z)
        most, z_y = z.max(axis=1), np.where(own, z, 0).sum(axis=1)
        total, others = _sums(z, own)
        value = np.log1p(np.where(z_y == most, others, total - 1)) + (most - z_y)
        return np.where(own.any(axis=1), value, np.nan).astype(z.dtype)

    def _gradient(self, y: Array, z: Array) -> Array:
        own = self._own_class(y, z)
        total, others = _sums(z, own)
        value = np.where(own, -(others / total)[:, None], softmax(z))
        return np.where(own.any(axis=1, keepdims=True), value, np.nan).astype(z.dtype)

    def _hessian(self, y: Array, z: Array) -> Array:
        p = softmax(z)
        first = np.arange(z.shape[1]) == z.argmax(axis=1)[:, None]
        total, others = _sums(z, first)
        return np.asarray(p * np.where(first, (others / total)[:, None], 1 - p))


def _sums(z: Array, own: Array) -> tuple[Array, Array]:
    """Σ exp(z_k − max) of each row, and the same without the class of `own`: no difference of nearly equal numbers."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e.sum(axis=1), np.where(own, 0, e).sum(axis=1)


def expit(z: Array) -> Array:
    """1 / (1 + exp(−z)) without overflow: the probability of the positive class from its log-odds."""
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z > 0, 1, e) / (1 + e), dtype=z.dtype)


def softmax(z: Array) -> Array:
    """exp(z_k) / Σ exp(z) over the last axis, without overflow: the probability of each class."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


# y > 0 is the positive class of the first, y a number for the second.
BINARY = ("log_loss", "hinge", "squared_hinge", "modified_huber", "perceptron")
REGRESSION = ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")
WITH_EPSILON = ("huber", "epsilon_insensitive", "squared_epsilon_insensitive")
EPSILON = 0.1  # where none is given

_PLAIN: dict[str, Loss] = {
    loss.name: loss
    for loss in (LogLoss(), SquaredError(), Multinomial(), Hinge(), SquaredHinge(), ModifiedHuber(), Perceptron())
}
_OF_EPSILON: dict[str, type[_OfDifference]] = {
    loss.name: loss for loss in (Huber, EpsilonInsensitive, SquaredEpsilonInsensitive)
}
NAMES = (*_PLAIN, *_OF_EPSILON)


def get(name: str, *, epsilon: float = EPSILON) -> Loss:
    """The loss of that name.

    Parameters
    ----------
    name : str
        "log_loss", "multinomial", "hinge", "squared_hinge", "modified_huber" or "perceptron" of labels;
        "squared_error", "huber", "epsilon_insensitive" or "squared_epsilon_insensitive" of numbers.
    epsilon : float
        Huber's threshold, above 0, or the zone that the insensitive losses do not count, at least 0. The other losses
        have none.

    Raises
    ------
    ValueError
        An unknown name; the message holds the names that are near it. Or an `epsilon` out of range.
    TypeError
        A `name` that is no string, or an `epsilon` that is no number.
    """
    _check.choice("loss", name, NAMES)
    if name in _PLAIN:
        return _PLAIN[name]
    return _OF_EPSILON[name](_check.real("epsilon", epsilon, positive=name == "huber"))


def _nan_kept(x: Array, value: Array, slope: Array, curve: Array) -> tuple[Array, Array, Array]:
    """The three, NaN where x is."""
    missing = np.isnan(x)
    return np.where(missing, x, value), np.where(missing, x, slope), np.where(missing, x, curve)


def _weighted(values: Array, weight: Array | None) -> Array:
    if weight is None:
        return values
    return values * (weight if values.ndim == 1 else weight[:, None])
