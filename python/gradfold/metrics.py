"""Metrics of many models at once, from their raw predictions.

:func:`evaluate` takes the raw predictions of any number of models and gives one number for each; :func:`calibrate` gives
each model's best threshold. `Run.metric`, `Run.scores` and `Run.calibrate` do the same with the held-out rows of a run,
without holding all predictions. ``docs/metrics.md`` has every formula and its source.

Sums are float64 in a fixed order, one model at a time: a metric depends neither on the threads nor on the models beside
it. A row of weight 0 is no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradfold import _check, _core

__all__ = ["NAMES", "SCORINGS", "Calibration", "calibrate", "evaluate"]

Array = npt.NDArray[Any]

REGRESSION = ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")
BINARY = ("log_loss", "hinge", "squared_hinge", "modified_huber", "perceptron")
LOSSES = (*REGRESSION, *BINARY, "multinomial")
_LINKS = {"log_loss": 0, "multinomial": 1, "modified_huber": 2}  # losses whose raw predictions are probabilities' own

AVERAGES = ("binary", "macro", "micro", "weighted")
MULTI_CLASS = ("ovr", "ovo")
CRITERIA = ("accuracy", "f_beta", "precision_at_recall", "recall_at_precision")

_BLOCK_BYTES = 128 << 20  # of the arrays that a block of models needs at once


# ---- what is evaluated ----------------------------------------------------------------------------------------------


@dataclass
class Problem:
    """The rows that are evaluated, all of positive weight.

    Attributes
    ----------
    loss : str
    n_outputs : int
    y : ndarray of float64, shape (n_rows,), or None
        Targets of a regression.
    codes : ndarray of int32, shape (n_rows,), or None
        Labels: 0 and 1 for one output, else 0 to n_outputs - 1.
    weight : ndarray of float64, shape (n_rows,), or None
        None counts every row as 1.
    n_threads : int
    """

    loss: str
    n_outputs: int
    y: Array | None
    codes: Array | None
    weight: Array | None
    n_threads: int

    @property
    def n_rows(self) -> int:
        rows = self.y if self.codes is None else self.codes
        assert rows is not None
        return len(rows)

    @property
    def n_labels(self) -> int:
        return 2 if self.n_outputs == 1 else self.n_outputs

    @cached_property
    def total(self) -> float:
        """The weight of all rows."""
        return float(self.n_rows) if self.weight is None else float(np.sum(self.weight))

    @cached_property
    def support(self) -> Array:
        """The weight of each label, float64 of shape (n_labels,)."""
        assert self.codes is not None
        return np.bincount(self.codes, weights=self.weight, minlength=self.n_labels).astype(np.float64)


class Options(NamedTuple):
    """What a metric's name leaves open."""

    average: str | None = None
    multi_class: str = "ovr"
    beta: float = 1.0
    k: int = 2


def read_problem(loss: str, n_outputs: int, y: Array, weight: Array | None, n_threads: int) -> Problem:
    """`Problem` of the rows given; y as the kernels read it, every weight above 0."""
    weight = None if weight is None else weight.astype(np.float64)
    if loss in REGRESSION:
        return Problem(loss, n_outputs, y.astype(np.float64), None, weight, n_threads)
    if loss != "multinomial":
        return Problem(loss, n_outputs, None, (y > 0).astype(np.int32), weight, n_threads)
    outside = ~((y >= 0) & (y < n_outputs) & (y == np.floor(y)))
    if outside.any():
        raise ValueError(f"y: got {y[outside][0]}, wanted class codes, integers of 0 to {n_outputs - 1}")
    return Problem(loss, n_outputs, None, y.astype(np.int32), weight, n_threads)


# ---- what is gathered from raw predictions --------------------------------------------------------------------------


class _Gather:
    """Sums of a block of models; rows may come in several calls, in chunks that are multiples of 1,024, unless `whole`."""

    whole = False

    def __init__(self, problem: Problem, n_models: int) -> None:
        self.problem = problem
        self.n_models = n_models
        self.allocate()

    @staticmethod
    def bytes_per_model(problem: Problem) -> int:
        """What one model takes beside its raw predictions."""
        return 64

    def allocate(self) -> None:
        raise NotImplementedError

    def add(self, raw: Array, first: int) -> None:
        """`raw` (n_rows, n_outputs, n_models), any strides, of the rows from `first`."""
        raise NotImplementedError

    def rows(self, values: Array | None, raw: Array, first: int) -> Any:
        return None if values is None else values[first : first + len(raw)]


class _Regression(_Gather):
    def allocate(self) -> None:
        self.sums = np.zeros((self.n_models, 4))

    def add(self, raw: Array, first: int) -> None:
        p = self.problem
        _core.metrics.regression_sums(
            raw, self.rows(p.y, raw, first), self.rows(p.weight, raw, first), self.sums, p.n_threads
        )


class _Probability(_Gather):
    def allocate(self) -> None:
        self.sums = np.zeros((self.n_models, 2))

    def add(self, raw: Array, first: int) -> None:
        p = self.problem
        codes, weight = self.rows(p.codes, raw, first), self.rows(p.weight, raw, first)
        _core.metrics.probability_sums(raw, codes, weight, _LINKS[p.loss], self.sums, p.n_threads)


class _Labels(_Gather):
    k = 1
    with_confusion = False
    threshold: Array  # (n_models,)

    @staticmethod
    def bytes_per_model(problem: Problem) -> int:
        return 16 * problem.n_labels + 96

    def allocate(self) -> None:
        shape = (self.n_models, self.problem.n_labels)
        self.hits, self.predicted = np.zeros(shape), np.zeros(shape)
        self.confusion = np.zeros((*shape, shape[1])) if self.with_confusion or shape[1] == 2 else None
        self.top = np.zeros(self.n_models)
        self.invalid = np.zeros(self.n_models, np.uint8)
        self.threshold = np.zeros(self.n_models)

    def add(self, raw: Array, first: int) -> None:
        p = self.problem
        _core.metrics.label_counts(
            raw, self.rows(p.codes, raw, first), self.rows(p.weight, raw, first), self.threshold, self.k,
            self.hits, self.predicted, self.confusion, self.top, self.invalid, p.n_threads,
        )  # fmt: skip


class _Confusion(_Labels):
    with_confusion = True

    @staticmethod
    def bytes_per_model(problem: Problem) -> int:
        return 8 * problem.n_labels**2 + 16 * problem.n_labels + 64


class _Ranking(_Gather):
    """Needs all rows of a model at once, to sort them."""

    whole = True
    options = Options()

    @staticmethod
    def bytes_per_model(problem: Problem) -> int:
        return 8 * problem.n_rows * problem.n_outputs if problem.n_outputs > 1 else 0

    def allocate(self) -> None:
        self.result = np.full(self.n_models, np.nan)

    def score(self, scores: Array, output: int, rows: Array | None, positive: Array, weight: Array | None) -> Array:
        """Of one output against `positive`, uint8 per item."""
        raise NotImplementedError

    def add(self, raw: Array, first: int) -> None:
        p = self.problem
        assert first == 0 and len(raw) == p.n_rows and p.codes is not None
        codes, weight = p.codes, p.weight
        if p.n_outputs == 1:
            self.result[:] = self.score(raw, 0, None, codes.astype(np.uint8), weight)
            return
        scores = np.empty(raw.shape)
        _core.metrics.softmax(raw, scores, p.n_threads)
        if self.options.average == "micro":
            positive = (codes[:, None] == np.arange(p.n_labels)).astype(np.uint8).ravel()
            repeated = None if weight is None else np.repeat(weight, p.n_labels)
            flat = scores.reshape(-1, 1, raw.shape[2])
            self.result[:] = self.score(flat, 0, None, positive, repeated)
        elif self.options.multi_class == "ovo":
            self.result[:] = self._one_versus_one(scores)
        else:
            each = [self.score(scores, k, None, (codes == k).astype(np.uint8), weight) for k in range(p.n_labels)]
            of_label = np.stack(each, axis=1)
            if self.options.average == "weighted":
                seen = p.support > 0
                self.result[:] = _row_sums(of_label[:, seen] * p.support[seen]) / np.cumsum(p.support[seen])[-1]
            else:
                self.result[:] = _row_sums(of_label) / p.n_labels

    def _one_versus_one(self, scores: Array) -> Array:
        p = self.problem
        assert p.codes is not None
        rows_of = {k: np.flatnonzero(p.codes == k) for k in np.flatnonzero(p.support).tolist()}
        total, share = np.zeros(self.n_models), 0.0
        for a, b in combinations(rows_of, 2):
            rows = np.concatenate([rows_of[a], rows_of[b]])
            first = (np.arange(len(rows)) < len(rows_of[a])).astype(np.uint8)
            weight = None if p.weight is None else p.weight[rows]
            pair = self.score(scores, a, rows, first, weight) + self.score(scores, b, rows, 1 - first, weight)
            mine = float(p.support[a] + p.support[b]) if self.options.average == "weighted" else 1.0
            total += mine * (pair / 2)
            share += mine
        return total / share if share else np.full(self.n_models, np.nan)


class _RocAuc(_Ranking):
    def score(self, scores: Array, output: int, rows: Array | None, positive: Array, weight: Array | None) -> Array:
        out = np.empty(scores.shape[2])
        _core.metrics.ranking(scores, output, rows, positive, weight, out, None, self.problem.n_threads)
        return out


class _AveragePrecision(_Ranking):
    def score(self, scores: Array, output: int, rows: Array | None, positive: Array, weight: Array | None) -> Array:
        out = np.empty(scores.shape[2])
        _core.metrics.ranking(scores, output, rows, positive, weight, None, out, self.problem.n_threads)
        return out


# ---- from what was gathered to the metric ---------------------------------------------------------------------------


def _row_sums(values: Array) -> Array:
    """Sums along the last axis in its order: NumPy's own sum may depend on the other axes."""
    return np.asarray(np.cumsum(values, axis=-1)[..., -1])


def _ratio(above: Array, below: Array) -> Array:
    """above / below, and 0 where that is 0 / 0, as scikit-learn's zero_division=0."""
    below = np.broadcast_to(below, np.shape(above))
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below != 0)


def _averaged(g: _Labels, options: Options, above: Array, below: Array) -> Array:
    """The average over labels of above / below, both (n_models, n_labels)."""
    p = g.problem
    below = np.broadcast_to(below, above.shape)
    average = options.average or ("binary" if p.n_outputs == 1 else "macro")
    if average == "binary":
        return _ratio(above[:, 1], below[:, 1])
    present = (g.predicted > 0) | (p.support > 0)  # a label that is neither in y nor predicted is no label, as in scikit-learn
    if average == "micro":
        return _ratio(_row_sums(np.where(present, above, 0)), _row_sums(np.where(present, below, 0)))
    weight = np.where(present, p.support, 0) if average == "weighted" else present.astype(np.float64)
    return np.asarray(_row_sums(_ratio(above, below) * weight) / _row_sums(weight))


def _precision(g: _Labels, options: Options) -> Array:
    return _averaged(g, options, g.hits, g.predicted)


def _recall(g: _Labels, options: Options) -> Array:
    return _averaged(g, options, g.hits, g.problem.support)


def _f_beta(g: _Labels, options: Options) -> Array:
    b = options.beta**2
    return _averaged(g, options, (1 + b) * g.hits, b * g.problem.support + g.predicted)


def _false_positive_rate(g: _Labels, options: Options) -> Array:
    support = g.problem.support
    # The sum of the other labels before and after: total minus own would leave a rounding error where there are none.
    before = np.concatenate([[0.0], support.cumsum()[:-1]])
    negatives = before + np.concatenate([[0.0], support[::-1].cumsum()[:-1]])[::-1]
    return _averaged(g, options, g.predicted - g.hits, negatives)


def _accuracy(g: _Labels, options: Options) -> Array:
    return np.asarray(_row_sums(g.hits) / g.problem.support.cumsum()[-1])


def _top_k(g: _Labels, options: Options) -> Array:
    if g.problem.n_outputs == 1:
        return _accuracy(g, options) if options.k == 1 else np.ones(g.n_models)
    return np.asarray(g.top / g.problem.total)


def _misclassification(g: _Labels, options: Options) -> Array:
    return np.asarray(_row_sums(g.predicted - g.hits) / g.problem.support.cumsum()[-1])


def _recalls(g: _Labels) -> Array:
    """Recall of each label that y holds, (n_models, n_labels in y)."""
    seen = g.problem.support > 0
    return np.asarray(g.hits[:, seen] / g.problem.support[seen])


def _balanced_accuracy(g: _Labels, options: Options) -> Array:
    recalls = _recalls(g)
    return np.asarray(_row_sums(recalls) / recalls.shape[1])


def _g_mean(g: _Labels, options: Options) -> Array:
    recalls = _recalls(g)
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(_row_sums(np.log(recalls)) / recalls.shape[1]))


def _mcc(g: _Labels, options: Options) -> Array:
    true, predicted = g.problem.support, g.predicted
    n = _row_sums(predicted)
    both = _row_sums(g.hits) * n - _row_sums(true * predicted)
    spread = (n**2 - _row_sums(predicted**2)) * (n**2 - _row_sums(true**2))
    one = (np.count_nonzero(predicted, axis=1) < 2) | (np.count_nonzero(true) < 2)  # its spread is 0 but for rounding
    return np.where(one, 0.0, _ratio(both, np.sqrt(np.where(one | (spread <= 0), 0.0, spread))))


def _r2(g: _Regression, options: Options) -> Array:
    y, w = g.problem.y, g.problem.weight
    assert y is not None
    if len(y) < 2:
        return np.full(g.n_models, np.nan)
    errors = g.sums[:, 0]
    if (y == y[0]).all():
        return np.where(np.isnan(errors), np.nan, np.where(errors == 0, 1.0, 0.0))
    spread = (y - np.average(y, weights=w)) ** 2
    return np.asarray(1 - errors / float(np.sum(spread if w is None else w * spread)))


def _brier_skill(g: _Probability, options: Options) -> Array:
    p = g.problem
    if p.n_rows < 2:
        return np.full(g.n_models, np.nan)
    share = p.support / p.support.cumsum()[-1]
    labels = share[1:] if p.n_outputs == 1 else share
    reference = float((labels * (1 - labels)).cumsum()[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 - (g.sums[:, 1] / p.total) / reference)


class _Metric(NamedTuple):
    gather: type[_Gather]
    finish: Callable[[Any, Options], Array]
    kind: str  # "regression", "label", "probability" or "ranking"


def _mean(column: int) -> Callable[[Any, Options], Array]:
    return lambda g, _: g.sums[:, column] / g.problem.total


_METRICS: dict[str, _Metric] = {
    "mse": _Metric(_Regression, _mean(0), "regression"),
    "rmse": _Metric(_Regression, lambda g, _: np.sqrt(g.sums[:, 0] / g.problem.total), "regression"),
    "mae": _Metric(_Regression, _mean(1), "regression"),
    "mape": _Metric(_Regression, _mean(2), "regression"),
    "bias": _Metric(_Regression, _mean(3), "regression"),
    "r2": _Metric(_Regression, _r2, "regression"),
    "log_loss": _Metric(_Probability, _mean(0), "probability"),
    "brier": _Metric(_Probability, _mean(1), "probability"),
    "brier_skill": _Metric(_Probability, _brier_skill, "probability"),
    "accuracy": _Metric(_Labels, _accuracy, "label"),
    "balanced_accuracy": _Metric(_Labels, _balanced_accuracy, "label"),
    "misclassification_rate": _Metric(_Labels, _misclassification, "label"),
    "precision": _Metric(_Labels, _precision, "label"),
    "recall": _Metric(_Labels, _recall, "label"),
    "false_positive_rate": _Metric(_Labels, _false_positive_rate, "label"),
    "f_beta": _Metric(_Labels, _f_beta, "label"),
    "f1": _Metric(_Labels, lambda g, o: _f_beta(g, o._replace(beta=1.0)), "label"),
    "mcc": _Metric(_Labels, _mcc, "label"),
    "g_mean": _Metric(_Labels, _g_mean, "label"),
    "top_k_accuracy": _Metric(_Labels, _top_k, "label"),
    "confusion_matrix": _Metric(_Confusion, lambda g, _: g.confusion, "label"),
    "roc_auc": _Metric(_RocAuc, lambda g, _: g.result, "ranking"),
    "average_precision": _Metric(_AveragePrecision, lambda g, _: g.result, "ranking"),
}

NAMES = tuple(_METRICS)
"""Every metric that `evaluate` and `Run.metric` know."""


class Scoring(NamedTuple):
    """A metric whose sign makes more better."""

    metric: str
    sign: float
    options: Options


def _scorings() -> dict[str, Scoring]:
    table: dict[str, Scoring] = {}
    gains = ("accuracy", "balanced_accuracy", "f_beta", "mcc", "g_mean", "roc_auc", "average_precision", "top_k_accuracy")
    for name in (*gains, "r2", "brier_skill"):
        table[name] = Scoring(name, 1.0, Options())
    for name in ("precision", "recall", "f1"):
        for average in AVERAGES:
            table[name if average == "binary" else f"{name}_{average}"] = Scoring(name, 1.0, Options(average))
    for name in ("rmse", "mse", "mae", "mape", "log_loss", "brier", "misclassification_rate", "false_positive_rate"):
        table[f"neg_{name}"] = Scoring(name, -1.0, Options())
    for multi_class in MULTI_CLASS:
        table[f"roc_auc_{multi_class}"] = Scoring("roc_auc", 1.0, Options("macro", multi_class))
        table[f"roc_auc_{multi_class}_weighted"] = Scoring("roc_auc", 1.0, Options("weighted", multi_class))
    for name, own in {
        "matthews_corrcoef": "mcc",
        "d2_brier_score": "brier_skill",
        "neg_brier_score": "neg_brier",
        "neg_mean_squared_error": "neg_mse",
        "neg_root_mean_squared_error": "neg_rmse",
        "neg_mean_absolute_error": "neg_mae",
        "neg_mean_absolute_percentage_error": "neg_mape",
    }.items():
        table[name] = table[own]
    return table


SCORINGS: Mapping[str, Scoring] = _scorings()
"""The names that `Run.scores` takes: gains by their name, errors as ``neg_`` + name, and scikit-learn's own names.

"top_k_accuracy" has k = 2 and "f_beta" β = 1; `Run.metric` takes others.
"""


# ---- evaluating -----------------------------------------------------------------------------------------------------


@dataclass
class Evaluation:
    """One metric with its options, checked against the loss: what `evaluate` and the held-out scores share.

    `argument` is the name of the argument that messages begin with, `called` what the caller said.
    """

    metric: str
    options: Options
    loss: str
    n_outputs: int

    @classmethod
    def of(cls, argument: str, called: str, metric: str, options: Options, loss: str, n_outputs: int) -> Evaluation:
        kind = _METRICS[metric].kind
        fits = (kind == "regression") == (loss in REGRESSION) and (kind != "probability" or loss in _LINKS)
        if not fits:
            raise ValueError(f"{argument}: got {called!r}, which does not suit loss={loss!r}")
        average = options.average
        if n_outputs > 1 and average == "binary":
            more = ", ".join(f"{called}_{a}" for a in AVERAGES[1:])
            wanted = more if argument == "scoring" else "'macro', 'micro' or 'weighted'"
            where = argument if argument == "scoring" else "average"
            raise ValueError(f"{where}: got {called if argument == 'scoring' else average!r} for {n_outputs} classes, wanted {wanted}")
        if metric == "roc_auc" and options.multi_class == "ovo" and average == "micro":
            raise ValueError("average: got 'micro' with multi_class='ovo', wanted 'macro' or 'weighted'")
        return cls(metric, options, loss, n_outputs)

    @property
    def whole(self) -> bool:
        """Whether all rows of a model are needed at once."""
        return _METRICS[self.metric].gather.whole

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of one model's metric."""
        n_labels = 2 if self.n_outputs == 1 else self.n_outputs
        return (n_labels, n_labels) if self.metric == "confusion_matrix" else ()

    def models_at_once(self, problem: Problem, row_bytes: int) -> int:
        """How many models a block may have; `row_bytes` is what the raw predictions of a model take."""
        return block_models(_METRICS[self.metric].gather.bytes_per_model(problem) + row_bytes)

    def start(self, problem: Problem, n_models: int, threshold: Array) -> _Gather:
        """What gathers the raw predictions of a block of models."""
        gather = _METRICS[self.metric].gather
        made = gather(problem, n_models)
        if isinstance(made, _Labels):
            made.k = self.options.k
            made.threshold[:] = threshold
        if isinstance(made, _Ranking):
            made.options = self.options
        return made

    def finish(self, gathered: _Gather) -> Array:
        """The metric of each model of the block."""
        with np.errstate(over="ignore", invalid="ignore"):
            out = np.array(_METRICS[self.metric].finish(gathered, self.options), np.float64)
        if isinstance(gathered, _Labels):
            out[gathered.invalid != 0] = np.nan
        return out


def block_models(bytes_per_model: int) -> int:
    """How many models a block may have, at least one."""
    return max(1, _BLOCK_BYTES // max(bytes_per_model, 1))


def read_options(average: object, multi_class: object, beta: object, k: object) -> Options:
    """Options as the caller gave them, checked."""
    return Options(
        None if average is None else _check.choice("average", average, AVERAGES),
        _check.choice("multi_class", multi_class, MULTI_CLASS),
        _check.real("beta", beta),
        _check.integer("k", k, 1),
    )


def read_threshold(value: object, shape: tuple[int, ...]) -> Array:
    """A threshold for all models or one for each, as float64 of `shape`."""
    array = _check.plain_array("threshold", value, f"a number, or shape {shape}")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"threshold: got {_check.describe(value)}, wanted a number, or an array of shape {shape}")
    if array.shape not in ((), shape):
        raise ValueError(f"threshold: got shape {array.shape}, wanted a number, or shape {shape}")
    return np.ascontiguousarray(np.broadcast_to(array.astype(np.float64), shape))


def evaluate(
    name: str,
    y: npt.ArrayLike,
    raw_prediction: npt.ArrayLike,
    *,
    loss: str,
    sample_weight: npt.ArrayLike | None = None,
    average: str | None = None,
    multi_class: str = "ovr",
    beta: float = 1.0,
    k: int = 2,
    threshold: npt.ArrayLike = 0.0,
    n_threads: int | None = None,
) -> Array:
    """One metric of many models.

    Parameters
    ----------
    name : str
        One of `NAMES`; formulas in ``docs/metrics.md``. Its own sign: errors are better when lower.
    y : array_like of shape (n_rows,)
        Targets of a regression; labels of a binary loss, positive where y > 0; class codes 0 to n_outputs - 1 of
        "multinomial".
    raw_prediction : array_like of shape (n_rows, n_models) or (n_rows, n_outputs, n_models)
        float32 or float64, any strides: what a model gives before its link. Three dimensions for "multinomial".
    loss : str
        The loss of the models, which says what a raw prediction means.
    sample_weight : array_like of shape (n_rows,), optional
        At least 0. A row of weight 0 is left out.
    average : {"binary", "macro", "micro", "weighted"}, optional
        Of precision, recall, false_positive_rate and f_beta over labels, as in scikit-learn; "macro", "micro" and
        "weighted" also of roc_auc and average_precision of several outputs. Default: "binary" for one output, "macro"
        for several.
    multi_class : {"ovr", "ovo"}
        Of roc_auc of several outputs.
    beta : float
        Of f_beta.
    k : int
        Of top_k_accuracy.
    threshold : float or array_like of shape (n_models,)
        A row is positive where its raw prediction of one output is above this. On the scale of raw predictions: the
        probability p of log_loss is the threshold log(p / (1 - p)).
    n_threads : int, optional
        Default: the processors this process may use.

    Returns
    -------
    ndarray of float64, shape (n_models,)
        (n_models, n_labels, n_labels) for "confusion_matrix", rows being true labels. NaN for a model with a raw
        prediction that is NaN, and for all if no row has a positive weight.

    Raises
    ------
    ValueError
        An unknown name, one that does not suit the loss, or arrays of wrong shapes or values.
    TypeError
        Arrays of a wrong type.
    """
    metric = _check.choice("name", name, NAMES)
    raw, problem = _read(y, raw_prediction, loss, sample_weight, n_threads)
    options = read_options(average, multi_class, beta, k)
    work = Evaluation.of("name", metric, metric, options, problem.loss, problem.n_outputs)
    n_models = raw.shape[2]
    cut = read_threshold(threshold, (n_models,))
    out = np.full((n_models, *work.result_shape), np.nan)
    if problem.n_rows == 0:
        return out
    step = work.models_at_once(problem, 0)
    for a in range(0, n_models, step):
        block = slice(a, min(a + step, n_models))
        gathered = work.start(problem, block.stop - a, cut[block])
        gathered.add(raw[:, :, block], 0)
        out[block] = work.finish(gathered)
    return out


def _read(
    y: npt.ArrayLike,
    raw_prediction: npt.ArrayLike,
    loss: str,
    sample_weight: npt.ArrayLike | None,
    n_threads: int | None,
) -> tuple[Array, Problem]:
    """Raw predictions (n_rows, n_outputs, n_models) and the problem, of the rows with a positive weight."""
    _check.choice("loss", loss, LOSSES)
    threads = _check.threads(n_threads)
    multinomial = loss == "multinomial"
    wanted = "(n_rows, n_outputs, n_models)" if multinomial else "(n_rows, n_models)"
    raw = _check.plain_array("raw_prediction", raw_prediction, f"shape {wanted}")
    if raw.dtype.kind != "f" or raw.dtype.newbyteorder("=") not in _check.FLOATS:
        raise TypeError(f"raw_prediction: got dtype {raw.dtype}, wanted float32 or float64")
    if raw.ndim == 2 and not multinomial:
        raw = raw[:, None, :]
    if raw.ndim != 3 or 0 in raw.shape or (raw.shape[1] > 1) != multinomial:
        raise ValueError(f"raw_prediction: got shape {np.shape(raw_prediction)}, wanted {wanted} for loss={loss!r}")
    raw = np.require(raw, raw.dtype.newbyteorder("="), "A")
    target = _check.per_row("y", y, len(raw), np.dtype(np.float64))
    _check.finite("y", target, threads)
    weight = None
    if sample_weight is not None:
        weight = _check.per_row("sample_weight", sample_weight, len(raw), np.dtype(np.float64))
        _check.weights("sample_weight", weight, threads, True)
        used = weight > 0
        if not used.all():
            raw, target, weight = raw[used], target[used], weight[used]
    return raw, read_problem(loss, raw.shape[1], target, weight, threads)


# ---- thresholds -----------------------------------------------------------------------------------------------------


class Calibration(NamedTuple):
    """Thresholds and what they reach.

    Attributes
    ----------
    threshold : ndarray of float64
        On the scale of raw predictions, to be used as ``raw_prediction > threshold``.
    value : ndarray of float64
        The criterion at that threshold, on the rows it was chosen on: optimistic for any other rows.
    """

    threshold: Array
    value: Array


def read_criterion(by: object, target: object, beta: object) -> tuple[int, float, float]:
    """The arguments of a calibration, checked: the kernel's number of `by`, target and beta."""
    name = _check.choice("by", by, CRITERIA)
    if name.endswith(("_recall", "_precision")):
        what = name.split("_at_")[1]
        if target is None:
            raise ValueError(f"target: got None, wanted the {what} to reach, for by={name!r}")
        goal = _check.real("target", target)
        if goal > 1:
            raise ValueError(f"target: got {goal}, wanted a {what} of 0 to 1")
    elif target is not None:
        raise ValueError(f"target: got {target!r}, wanted None for by={name!r}")
    else:
        goal = 0.0
    return CRITERIA.index(name), goal, _check.real("beta", beta)


def calibrate(
    y: npt.ArrayLike,
    raw_prediction: npt.ArrayLike,
    *,
    by: str = "accuracy",
    target: float | None = None,
    beta: float = 1.0,
    sample_weight: npt.ArrayLike | None = None,
    n_threads: int | None = None,
) -> Calibration:
    """Each model's best threshold on these rows; a row is positive where its raw prediction is above it.

    Parameters
    ----------
    y : array_like of shape (n_rows,)
        Positive where above 0.
    raw_prediction : array_like of shape (n_rows, n_models)
        float32 or float64, of a binary loss.
    by : {"accuracy", "f_beta", "precision_at_recall", "recall_at_precision"}
        What is greatest at the threshold: the accuracy; f_beta; the precision among thresholds whose recall is at
        least `target`; the recall among thresholds whose precision is at least `target`.
    target : float, optional
        0 to 1, for the last two.
    beta : float
        Of f_beta.
    sample_weight : array_like of shape (n_rows,), optional
    n_threads : int, optional

    Returns
    -------
    Calibration
        threshold and value, each of shape (n_models,). Thresholds lie half way between two neighbouring scores, so
        rows of equal score stay together; -inf makes every row positive and inf none. Of thresholds of equal value
        the highest is taken, but by precision_at_recall the lowest, which has the higher recall. Where no threshold
        reaches the precision wanted: inf and recall 0. NaN without a positive row where recall is asked for, and for
        a model with a raw prediction that is NaN.

    Raises
    ------
    ValueError, TypeError
        As `evaluate`; a target out of range, missing, or not asked for.
    """
    criterion = read_criterion(by, target, beta)
    raw, problem = _read(y, raw_prediction, "log_loss", sample_weight, n_threads)
    return calibrated(problem, raw, criterion)


def calibrated(problem: Problem, raw: Array, criterion: tuple[int, float, float]) -> Calibration:
    """`calibrate` of what is read already; raw (n_rows, 1, n_models)."""
    out = Calibration(np.full(raw.shape[2], np.nan), np.full(raw.shape[2], np.nan))
    if problem.n_rows and problem.codes is not None:
        positive = problem.codes.astype(np.uint8)
        _core.metrics.calibrate(raw, positive, problem.weight, *criterion, *out, problem.n_threads)
    return out


def row_chunks(n_rows: int, row_bytes: int, chunk_bytes: int) -> Iterable[tuple[int, int]]:
    """(first, last + 1) of runs of rows; full ones are multiples of 1,024 rows where so many fit `chunk_bytes`."""
    step = max(1, chunk_bytes // row_bytes)
    step = step // 1024 * 1024 or step
    for a in range(0, n_rows, step):
        yield a, min(a + step, n_rows)
