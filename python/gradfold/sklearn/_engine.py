"""Training for the scikit-learn edge: settings × splits × classes in lock-step, stopped as scikit-learn stops.

scikit-learn stops a fit after `n_iter_no_change` epochs in a row in which the objective (the mean training loss, each
row's at the weights that met it, plus the penalty) was above its best so far minus `tol`; with `early_stopping` after as
many in which the score (accuracy or R²) of a held-out part of the training rows was below its best plus `tol`. The
models here train an epoch at a time, and those that stop leave the trainer, so each has the weights that it would have
alone. The loss is weighted as the training is, and the penalty is that at the epoch's end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight

from gradfold import _check, _core, _splits, index
from gradfold._interrupt import Interrupt
from gradfold.candidates import SCHEDULES
from gradfold.run import _raw
from gradfold.sklearn._translate import Spec

Array = npt.NDArray[Any]
Split = tuple[Array, Array]  # rows to train on, rows held out
State = dict[str, Array]  # of a trainer

# gradfold's values of what a setting may leave out.
_DEFAULTS = {"power_t": 0.25, "t0": 1.0, "average": 0.0, "weight_decay": 0.01, "clip_value": math.inf}
_SMALLEST_RATE = 1e-6  # as scikit-learn: the adaptive learning rate falls no further
_FALL = 0.2


@dataclass
class Data:
    """What all models share.

    Attributes
    ----------
    X : ndarray of shape (n_rows, n_features)
        float32 or float64, C-contiguous and finite.
    y : ndarray of shape (n_rows,)
        Class codes 0, 1, … of a classifier, in the order of `classes`; else targets in X's dtype.
    classes : ndarray or None
        The labels of a classifier.
    sample_weight : ndarray or None
        In X's dtype, at least 0.
    n_threads : int
    """

    X: Array
    y: Array
    classes: Array | None
    sample_weight: Array | None
    n_threads: int


@dataclass
class Model:
    """One setting trained on one split.

    Attributes
    ----------
    coef : ndarray of shape (n_outputs, n_features)
        One output for a regression and for two classes, else one a class.
    intercept : ndarray of shape (n_outputs,)
    classes : ndarray or None
        The labels that the split trains on.
    n_iter, updates : int
        The largest of the outputs.
    error : Exception or None
        Why there is no such model.
    """

    coef: Array
    intercept: Array
    classes: Array | None
    n_iter: int
    updates: int
    converged: bool = True
    error: Exception | None = None
    states: Sequence[State] = ()  # one an output, where asked for


@dataclass
class Start:
    """Where one estimator begins or goes on: one entry an output of each.

    Attributes
    ----------
    coef, intercept : ndarray or None
        Weights of shape (n_outputs, n_features) and (n_outputs,); the schedule begins anew.
    states : sequence of dict
        Of the trainers, to go on with the same bits; the weights are in them.
    """

    coef: Array | None = None
    intercept: Array | None = None
    states: Sequence[State] = ()

    def output(self, k: int) -> Start:
        """That of one output."""
        return Start(
            None if self.coef is None else self.coef[k : k + 1],
            None if self.intercept is None else self.intercept[k : k + 1],
            self.states[k : k + 1],
        )


def fit_models(
    data: Data,
    specs: Sequence[Spec],
    splits: Sequence[Split],
    *,
    moments: tuple[Array, Array] | None = None,
    start: Start | None = None,
    stop: bool = True,
    raising: bool = False,
    keep_state: bool = False,
) -> list[list[Model]]:
    """A model for each setting and split.

    Parameters
    ----------
    moments : (mean, scale), optional
        float64, each (n_splits, n_features): train on (X − mean) / scale. The weights come back on X's own scale.
    start : Start, optional
        For a single setting and split.
    stop : bool
        Whether the stopping criterion is looked at.
    raising : bool
        Raise what goes wrong, instead of keeping it in the models that it concerns.
    keep_state : bool
        Keep the trainers' states, of a single setting and split.
    """
    out: list[list[Model | None]] = [[None] * len(splits) for _ in specs]
    for members in _alike(specs):
        shared = specs[members[0]].shared
        for places, task in _tasks(data, shared, splits):
            here = None if moments is None else (moments[0][places], moments[1][places])
            chosen = [specs[i] for i in members]
            try:
                models = _train_task(data, shared, chosen, [splits[s] for s in places], task, here, start, stop, keep_state)
            except Exception as error:
                if raising:
                    raise
                empty = np.zeros((0, data.X.shape[1])), np.zeros(0)
                models = [[Model(*empty, None, 0, 0, error=error) for _ in places] for _ in chosen]
            for row, i in enumerate(members):
                for column, s in enumerate(places):
                    model = models[row][column]
                    if raising and model.error is not None:
                        raise model.error
                    out[i][s] = model
    return out  # type: ignore[return-value]


def plain_state(dtype: Any, n_features: int, updates: float) -> State:
    """The state of a trainer of plain SGD after so many updates, without its weights."""
    one = {"updates": updates, "rate_scale": 1.0, "beta1_power": 1.0, "beta2_power": 1.0}
    return {
        "W": np.zeros((1, n_features), dtype),
        "intercept": np.zeros((1, 1), dtype),
        **{name: np.full((1, 1), value) for name, value in one.items()},
        "diverged_epoch": np.full(1, -1),
        "diverged_batch": np.full(1, -1),
        "finished": np.zeros(1, np.bool_),
        "train_loss": np.zeros(1),
        "train_weight": np.zeros(1),
    }


def with_weights(states: Sequence[State], coef: Array, intercept: Array) -> list[State]:
    """States with other weights, of shapes (n_outputs, n_features) and (n_outputs,); averages begin there, too."""
    out = []
    for k, state in enumerate(states):
        own = dict(state)
        for name, value in (("W", coef[k : k + 1]), ("intercept", intercept[k : k + 1, None])):
            for array in (name, f"average_{name}"):
                if array in own:
                    own[array] = np.ascontiguousarray(value, own[array].dtype)
        out.append(own)
    return out


def partial_fit(data: Data, spec: Spec, start: Start | None) -> Model:
    """One setting's model after an epoch over these rows, whose y need not hold every class."""
    splits = [(np.arange(len(data.X)), np.empty(0, np.int64))]
    codes = weight = None
    if data.classes is not None:
        codes = np.arange(len(data.classes))
        if spec.shared["class_weight"] is not None:
            weight = np.array([spec.shared["class_weight"].get(label, 1.0) for label in data.classes.tolist()])
    model = _train_task(data, spec.shared, [spec], splits, _Task(codes, weight), None, start, False, True)[0][0]
    if model.error is not None:
        raise model.error
    model.converged = True
    return model


def _alike(specs: Sequence[Spec]) -> list[list[int]]:
    """The settings in groups that can train together."""
    groups: list[list[int]] = []
    for i, spec in enumerate(specs):
        for group in groups:
            if specs[group[0]].shared == spec.shared:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


@dataclass
class _Task:
    """What splits have in common that can train together: their classes and the classes' weights."""

    classes: Array | None  # codes
    weight: Array | None  # of each class


def _tasks(data: Data, shared: dict[str, Any], splits: Sequence[Split]) -> Iterator[tuple[list[int], _Task]]:
    if data.classes is None:
        yield list(range(len(splits))), _Task(None, None)
        return
    found: dict[tuple[bytes, bytes], tuple[list[int], _Task]] = {}
    for s, (train, _) in enumerate(splits):
        codes = np.flatnonzero(np.bincount(data.y[train], minlength=len(data.classes)))
        weight = None
        if shared["class_weight"] is not None:
            weight = compute_class_weight(
                shared["class_weight"], classes=data.classes[codes], y=data.classes[data.y[train]]
            )
        key = codes.tobytes(), b"" if weight is None else weight.tobytes()
        found.setdefault(key, ([], _Task(codes, weight)))[0].append(s)
    yield from found.values()


def _train_task(
    data: Data,
    shared: dict[str, Any],
    specs: Sequence[Spec],
    splits: Sequence[Split],
    task: _Task,
    moments: tuple[Array, Array] | None,
    start: Start | None,
    stop: bool,
    keep_state: bool,
) -> list[list[Model]]:
    codes = task.classes
    if codes is not None and len(codes) < 2:
        raise ValueError(f"The number of classes has to be greater than one; got {len(codes)} class")
    # One fit against the rest for each class; two classes need one only, of the second.
    positive = [None] if codes is None else list(codes) if len(codes) > 2 else [codes[1]]
    validation = _validation_splits(data, shared, splits) if shared["early_stopping"] and stop else None
    outputs = []
    for k, code in enumerate(positive):
        y, weight = data.y, data.sample_weight
        if code is not None:
            is_positive = data.y == code
            y = np.where(is_positive, 1, -1).astype(data.X.dtype)
            if task.weight is not None:
                rest, own = (1.0, task.weight[k]) if len(positive) > 1 else task.weight
                factor = np.where(is_positive, own, rest).astype(data.X.dtype)
                weight = factor if weight is None else weight * factor
        begin = None if start is None else start.output(k)
        problem = _Problem(data, y, weight, shared, specs, splits, validation, moments)
        outputs.append(problem.train(begin, stop, keep_state))
    classes = None if codes is None or data.classes is None else data.classes[codes]
    models = []
    for i in range(len(specs)):
        row = []
        for s in range(len(splits)):
            parts = [output[i][s] for output in outputs]
            errors = [part.error for part in parts if part.error is not None]
            row.append(
                Model(
                    np.concatenate([part.coef for part in parts]),
                    np.concatenate([part.intercept for part in parts]),
                    classes,
                    max(part.n_iter for part in parts),
                    max(part.updates for part in parts),
                    all(part.converged for part in parts),
                    errors[0] if errors else None,
                    [state for part in parts for state in part.states],
                )
            )
        models.append(row)
    return models


def _validation_splits(data: Data, shared: dict[str, Any], splits: Sequence[Split]) -> list[Split]:
    """Each split's training rows divided by scikit-learn's own splitter: (train, validate)."""
    kind = ShuffleSplit if data.classes is None else StratifiedShuffleSplit
    out = []
    for train, _ in splits:
        parts = kind(test_size=shared["validation_fraction"], random_state=shared["random_state"])
        fit, held_out = next(parts.split(np.zeros((len(train), 1)), data.y[train]))
        fit, held_out = train[np.sort(fit)], train[np.sort(held_out)]
        if data.sample_weight is not None and not (data.sample_weight[held_out] > 0).any():
            raise ValueError(
                "sample_weight: got no weight above 0 in the validation rows, wanted one; try another random_state"
            )
        out.append((fit, held_out))
    return out


def seed_of(random_state: Any) -> int:
    """gradfold's seed from scikit-learn's `random_state`."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


@dataclass
class _Problem:
    """One target for every setting and split: a regression, or one class against the rest."""

    data: Data
    y: Array
    weight: Array | None
    shared: dict[str, Any]
    specs: Sequence[Spec]
    splits: Sequence[Split]
    validation: list[Split] | None
    moments: tuple[Array, Array] | None

    def train(self, start: Start | None, stop: bool, keep_state: bool) -> list[list[Model]]:
        X, n_threads = self.data.X, self.data.n_threads
        if self.weight is not None:
            _check.weights("sample_weight", self.weight, n_threads, True)
        folds = _folds(len(X), self.splits if self.validation is None else self.validation)
        _splits.check_every_split_trains(folds, self.weight)
        models = [spec for spec in self.specs for _ in self.splits]
        mean_weight = np.tile(self._mean_weights, len(self.specs))

        def column(values: list[float]) -> Array:
            return np.array(values, np.float64)

        options: dict[str, Any] = {}
        names = sorted({name for spec in models for name in spec.hyper})
        if names:
            options["hyper"] = {
                name: column([spec.hyper.get(name, _DEFAULTS[name]) for spec in models]) for name in names
            }
        if models[0].loss_epsilon is not None:
            options["loss_epsilon"] = column([spec.loss_epsilon or 0.0 for spec in models])
        watched = stop and any(spec.tol is not None for spec in models)
        if watched and self.validation is None:
            options["track_train_loss"] = True
        if self.moments is not None:
            options["moments"] = tuple(np.ascontiguousarray(part, np.float64) for part in self.moments)
        coef_init = intercept_init = None
        if start is not None and start.states:
            options["state"] = start.states[0]
        elif start is not None:
            coef_init = None if start.coef is None else np.ascontiguousarray(start.coef, np.float64)
            intercept_init = None if start.intercept is None else np.ascontiguousarray(start.intercept, np.float64)
        trainer = _core.train.Trainer(
            X=X,
            y=self.y,
            sample_weight=self.weight,
            ids=folds.ids,
            conditions=folds.conditions,
            split_of_model=np.tile(np.arange(len(self.splits), dtype=np.int64), len(self.specs)),
            loss=self.shared["loss"],
            solver=self.shared["solver"],
            l1=column([spec.l1 for spec in models]) / mean_weight,
            l2=column([spec.l2 for spec in models]) / mean_weight,
            learning_rate=column([spec.learning_rate for spec in models]) * mean_weight,
            schedule=np.array([SCHEDULES.index(spec.schedule) for spec in models], np.int32),
            epochs=max(spec.max_iter for spec in models),
            batch_size=self.shared["batch_size"],
            shuffle=self.shared["shuffle"],
            seed=seed_of(self.shared["random_state"]),
            fit_intercept=self.shared["fit_intercept"],
            standardize=self.moments is not None,
            coef_init=coef_init,
            intercept_init=intercept_init,
            n_threads=n_threads,
            **options,
        )
        with Interrupt() as interrupt:
            epochs = self._advance(trainer, models, watched, interrupt)
            if interrupt.pressed:
                raise KeyboardInterrupt  # as scikit-learn; half a fit would pass for a whole one
        out = self._collect(trainer, models, epochs)
        if keep_state:
            # Without the place in the epochs and the held-out losses, so that other rows can follow.
            state = trainer.get_state()
            out[0][0].states = [{k: v for k, v in state.items() if k not in ("position", "history")}]
        return out

    @cached_property
    def _mean_weights(self) -> Array:
        """The mean weight of the rows that each split trains on, which gradfold divides by and scikit-learn does not."""
        if self.weight is None:
            return np.ones(len(self.splits))
        means = []
        for rows, _ in self.splits:
            own = self.weight[rows]
            own = own[own > 0]
            means.append(math.fsum(own.tolist()) / len(own) if len(own) else 1.0)
        return np.array(means)

    def _advance(self, trainer: Any, models: list[Spec], watched: bool, interrupt: Interrupt) -> Array:
        """Train to each model's end; the epochs of each."""
        n_models = len(models)
        longest = np.array([spec.max_iter for spec in models])
        epochs = longest.copy()
        if not watched and (longest == longest[0]).all():
            interrupt.advance(trainer, None)
            return epochs
        tol = np.array([-math.inf if spec.tol is None else spec.tol for spec in models])
        patience = np.array([spec.n_iter_no_change for spec in models])
        adaptive = np.array([spec.adaptive for spec in models])
        rate = np.array([spec.learning_rate for spec in models])
        best = np.full(n_models, math.inf)
        waited = np.zeros(n_models, np.int64)
        live = np.ones(n_models, np.bool_)
        steps = -(-len(self.data.X) // self.shared["batch_size"])
        for epoch in range(1, int(longest.max()) + 1):
            if interrupt.advance(trainer, None, steps) == "interrupted":
                return epochs
            fell = live & (trainer.diverged_epoch >= 0)
            epochs[fell] = epoch
            live &= ~fell
            ends = live & (epoch >= longest)
            if watched:
                if self.validation is None:
                    value = trainer.train_loss() + self._penalty(trainer, models)
                else:
                    value = -self._validation_score(trainer, live)
                # NaN, of a model without a row to look at, counts as no improvement.
                waited = np.where((tol > -math.inf) & ~(value <= best - tol), waited + 1, 0)
                best = np.fmin(best, value)
                stops = live & (waited >= patience)
                lower = stops & adaptive & (rate > _SMALLEST_RATE)
                if lower.any():
                    trainer.scale_learning_rate(np.where(lower, _FALL, 1.0))
                    rate[lower] *= _FALL
                    waited[lower] = 0
                ends |= stops & ~lower
            epochs[ends] = epoch
            live &= ~ends
            if not live.any():
                break
            if ends.any():
                trainer.finish(ends)
        return epochs

    def _penalty(self, trainer: Any, models: list[Spec]) -> Array:
        """l1 · Σ|w| + ½ · l2 · Σw² of each model, summed in the order of the features."""
        coef = trainer.coef().astype(np.float64)
        if self.moments is not None:
            coef *= np.tile(np.abs(self.moments[1]), (len(self.specs), 1))
        absolute, square = np.zeros(len(coef)), np.zeros(len(coef))
        for column in np.ascontiguousarray(coef.T):
            absolute += np.abs(column)
            square += column * column
        l1, l2 = np.array([(spec.l1, spec.l2 + spec.hyper.get("weight_decay", 0.0)) for spec in models]).T
        return np.asarray((l1 * absolute + 0.5 * l2 * square) / np.tile(self._mean_weights, len(self.specs)))

    def _validation_score(self, trainer: Any, live: Array) -> Array:
        """Accuracy or R² of each model on its split's validation rows."""
        assert self.validation is not None
        coef, intercept = trainer.coef(), trainer.intercept()
        score = np.full(len(coef), np.nan)
        for s, (_, rows) in enumerate(self.validation):
            mine = np.arange(s, len(coef), len(self.splits))
            mine = mine[live[mine]]
            if len(mine) == 0:
                continue
            raw = _raw(self.data.X[rows], coef[mine], intercept[mine], self.data.n_threads)
            # scikit-learn's validation rows have the caller's weights, without those of the classes.
            weight = None if self.data.sample_weight is None else self.data.sample_weight[rows].astype(np.float64)
            y = self.y[rows]
            for column, m in enumerate(mine):
                if self.data.classes is not None:
                    score[m] = _accuracy((raw[:, column] > 0) == (y > 0), weight)
                else:
                    score[m] = _r2(y.astype(np.float64), raw[:, column].astype(np.float64), weight)
        return score

    def _collect(self, trainer: Any, models: list[Spec], epochs: Array) -> list[list[Model]]:
        coef, intercept, steps = trainer.coef(), trainer.intercept(), trainer.steps()
        diverged = np.asarray(trainer.diverged_epoch)
        out: list[list[Model]] = []
        for m, spec in enumerate(models):
            error = None
            if diverged[m] >= 0:
                error = ValueError(
                    f"Floating-point under-/overflow occurred at epoch #{diverged[m] + 1}. Scaling input data with "
                    "StandardScaler or MinMaxScaler, or a lower eta0, might help."
                )
            model = Model(
                coef[m : m + 1],
                intercept[m : m + 1],
                None,
                int(epochs[m]),
                int(steps[m]),
                spec.tol is None or int(epochs[m]) < spec.max_iter,
                error,
            )
            if m % len(self.splits) == 0:
                out.append([])
            out[-1].append(model)
        return out


def _folds(n_rows: int, splits: Sequence[Split]) -> index.Folds:
    if len(splits) == 1 and len(splits[0][0]) == n_rows:
        return _splits.train_on_all(n_rows)
    return index.from_splits(n_rows, splits)


# Sums of `math.fsum` are rounded once, so that no order of summation reaches the decision to stop.


def _accuracy(correct: Array, weight: Array | None) -> float:
    if weight is None:
        return int(correct.sum()) / len(correct)
    return math.fsum(weight[correct].tolist()) / math.fsum(weight.tolist())


def _r2(y: Array, raw: Array, weight: Array | None) -> float:
    w = np.ones(len(y)) if weight is None else weight
    centre = math.fsum((w * y).tolist()) / math.fsum(w.tolist())
    spread = math.fsum((w * (y - centre) ** 2).tolist())
    missed = math.fsum((w * (y - raw) ** 2).tolist())
    if spread == 0:
        return 1.0 if missed == 0 else 0.0
    return 1.0 - missed / spread
