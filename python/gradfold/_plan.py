"""Parts: which models share a trainer, and the making of trainers.

A trainer has one solver, one loss, one batch size, and one weight and one value a cell for all of its models.
Candidates that differ in the first three, and splits that differ in class weights or in the means of missing cells, go
to different trainers. What a model computes does not depend on who else is in its trainer, so neither does it depend
on the plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _core, _learning_rate, _missing, _optimum, _splits
from gradfold._problem import REFIT, Problem, Rows
from gradfold.candidates import DEFAULTS, HYPER, SCHEDULES

Array = npt.NDArray[Any]

LEARNING_RATES = {  # of `learning_rate=None`
    "sgd": 0.1,
    "momentum": 0.01,
    "nesterov": 0.01,
    "adagrad": 0.1,
    "rmsprop": 0.01,
    "adam": 0.01,
    "adamw": 0.01,
}

USE_LOSS_EPSILON = ("huber", "epsilon_insensitive", "squared_epsilon_insensitive")


@dataclass
class Settings:
    """`fit`'s arguments that do not depend on the data, checked.

    Attributes
    ----------
    params : list of dict
        Every parameter of every candidate, in full; `learning_rate` may be None or "auto", `solver` and `loss` are names.
    batch_size : int
        The keyword: what `batch_scaling` refers to.
    device : str
        "cpu" or "cuda": whose trainers are made.
    """

    params: list[dict[str, Any]]
    epochs: int
    batch_size: int
    batch_scaling: str | None
    shuffle: bool
    seed: int
    fit_intercept: bool
    standardize: bool
    check_finite: bool
    n_threads: int
    deadline: float | None
    track_train_loss: bool = False
    device: str = "cpu"
    device_reason: str = ""
    max_iter: int = 1000
    tol: float = 1e-4


@dataclass
class Part:
    """Models that share a trainer."""

    models: Array  # their numbers in the plan, ascending
    rows: Rows
    trainer: Any
    steps_per_epoch: int


@dataclass
class Plan:
    """All parts of one training."""

    problem: Problem
    parts: list[Part]
    n_models: int

    def enter(self, part: Part) -> None:
        """Before this part's trainer goes on: fill the missing cells as it wants them."""
        self.problem.enter(part.rows)

    def gather(self, read: Callable[[Any], Array]) -> Array:
        """What `read` says of each trainer's models, in the plan's order."""
        if len(self.parts) == 1:
            return read(self.parts[0].trainer)
        out: Array | None = None
        for part in self.parts:
            values = read(part.trainer)
            if out is None:
                out = np.empty((self.n_models, *values.shape[1:]), values.dtype)
            out[part.models] = values
        assert out is not None
        return out


def of_splits(problem: Problem, settings: Settings, rates: Array) -> Plan | None:
    """Every candidate on every split, model = candidate · n_splits + split; None without splits.

    Parameters
    ----------
    rates : ndarray of float64, shape (n_candidates, n_splits)
    """
    if problem.folds is None:
        return None
    n_splits, n_models = problem.n_splits, len(settings.params) * problem.n_splits
    parts = []
    for splits in problem.groups():
        for candidates in _alike(settings.params).values():
            models = (np.array(candidates)[:, None] * n_splits + np.array(splits)).reshape(-1)
            rows = [settings.params[m // n_splits] for m in models.tolist()]
            own = problem.rows(splits)
            coef_init, intercept_init = problem.start(rows, models, n_models)
            problem.enter(own)
            trainer = make_trainer(
                problem, settings, rows, rates.reshape(-1)[models], own,
                ids=problem.folds.ids, conditions=problem.folds.conditions, splits=models % n_splits,
                coef_init=coef_init, intercept_init=intercept_init,
            )  # fmt: skip
            parts.append(Part(models, own, trainer, steps_per_epoch(problem, rows[0])))
    return Plan(problem, parts, n_models)


def of_refit(
    problem: Problem, settings: Settings, candidate: int, rate: float, near: tuple[Array, Array] | None = None
) -> Plan:
    """One candidate on every row that some split trains or scores; `near`: its weights and intercept, nearly, each of one model."""
    assert problem.X is not None
    row = settings.params[candidate]
    own = problem.rows([REFIT])
    ids, conditions = _rows_of_refit(problem, row["solver"])
    # Starting weights for a single model serve the refit; those with a row for each model of the splits do not.
    coef_init, intercept_init = problem.start([row], np.zeros(1, np.int64), 1)
    problem.enter(own)
    trainer = make_trainer(
        problem, settings, [row], np.array([rate]), own,
        ids=ids, conditions=conditions, splits=np.zeros(1, np.int64), coef_init=coef_init, intercept_init=intercept_init,
        near=near if coef_init is None and intercept_init is None else None,
    )  # fmt: skip
    return Plan(problem, [Part(np.zeros(1, np.int64), own, trainer, steps_per_epoch(problem, row))], 1)


def _rows_of_refit(problem: Problem, solver: str) -> tuple[Array, Array]:
    """Ids and conditions of the refit's one split.

    Solvers of the optimum have it under the folds' own ids where they can: its moments are then those of cells that have been read.
    """
    assert problem.X is not None
    if solver in _optimum.SOLVERS and problem.folds is not None:
        conditions = _splits.refit_condition(problem.folds)
        if conditions is not None:
            return problem.folds.ids, conditions
    return _splits.refit_ids(problem.folds, len(problem.X)), _splits.TRAINS_ON_0


def learning_rates(
    problem: Problem, settings: Settings, splits: list[list[int]], advance: Callable[[Any, int], str]
) -> Array | None:
    """The learning rate of each candidate on each split (or on the refit), float64 (n_candidates, n_splits).

    "auto" is a range test on each split's own training rows: one for all candidates that differ in nothing but numbers,
    with the parameters of the first of them. None if `advance` was interrupted.

    Parameters
    ----------
    splits : list of lists
        Groups of splits that can share a trainer; ``[[REFIT]]`` for the refit.
    """
    n_splits = sum(map(len, splits))
    out = np.empty((len(settings.params), n_splits))
    tests: dict[tuple[Any, ...], list[int]] = {}
    for c, row in enumerate(settings.params):
        if row["learning_rate"] == "auto":
            tests.setdefault(tuple(row[name] for name in ("solver", "loss", "batch_size")), []).append(c)
            continue
        if row["solver"] in _optimum.SOLVERS:
            out[c] = np.nan
            continue
        rate = LEARNING_RATES[row["solver"]] if row["learning_rate"] is None else row["learning_rate"]
        if settings.batch_scaling is not None:
            rate = _learning_rate.scaled(rate, row["batch_size"], settings.batch_size, settings.batch_scaling)
        out[c] = rate
    for candidates in tests.values():
        row = {**settings.params[candidates[0]], "schedule": "constant", "warmup": 0.0}
        for group in splits:
            found = _range_test(problem, settings, row, group, advance)
            if np.isnan(found).any():
                return None
            for place, split in enumerate(group):
                out[candidates, max(split, 0)] = found[place]
    return out


def _range_test(
    problem: Problem, settings: Settings, row: dict[str, Any], group: list[int], advance: Callable[[Any, int], str]
) -> Array:
    assert problem.X is not None
    own = problem.rows(group)
    if group == [REFIT]:
        ids = _splits.refit_ids(problem.folds, len(problem.X))
        conditions = _splits.TRAINS_ON_0
    else:
        assert problem.folds is not None
        ids, conditions = problem.folds.ids, np.ascontiguousarray(problem.folds.conditions[group])
    problem.enter(own)

    def trainer_of(rates: Array, splits: Array, epochs: int) -> Any:
        rows = [row] * len(rates)
        one = problem.coef_init is None or len(problem.coef_init) == 1
        coef, intercept = problem.start(rows, np.arange(len(rates)), len(rates)) if one else (None, None)
        return make_trainer(
            problem, settings, rows, np.asarray(rates, np.float64), own, ids=ids, conditions=conditions,
            splits=splits, coef_init=coef, intercept_init=intercept, epochs=epochs, track_train_loss=True, scores=False,
        )  # fmt: skip

    default = LEARNING_RATES[row["solver"]]
    return _learning_rate.range_test(trainer_of, len(group), default=default, advance=advance)


def steps_per_epoch(problem: Problem, row: dict[str, Any]) -> int:
    """⌈n / B⌉."""
    assert problem.X is not None
    if row["solver"] in _optimum.SOLVERS:
        return _optimum.Trainer.steps_per_epoch
    n_rows, batch_size = len(problem.X), int(row["batch_size"])
    return -(-n_rows // min(batch_size, n_rows))


def make_trainer(
    problem: Problem,
    settings: Settings,
    rows: list[dict[str, Any]],
    rates: Array,
    own: Rows,
    *,
    ids: Array,
    conditions: Array,
    splits: Array,
    coef_init: Array | None,
    intercept_init: Array | None,
    epochs: int | None = None,
    track_train_loss: bool = False,
    scores: bool = True,
    near: tuple[Array, Array] | None = None,
    **extra: Any,
) -> Any:
    """A trainer of models with the parameters `rows`, the learning rates `rates` and the splits `splits`.

    All rows have the same solver, loss and batch size. `near` is for solvers of the optimum alone. `extra` are further
    arguments of the Trainer. It is that of `settings.device`, and one that cannot be made raises.
    """
    assert problem.X is not None and problem.target is not None
    if rows[0]["solver"] in _optimum.SOLVERS:
        return _optimum.Trainer(
            problem, settings, rows, own, ids=ids, conditions=conditions, splits=splits, coef_init=coef_init,
            intercept_init=intercept_init, near=near,
        )  # fmt: skip

    def column(name: str) -> Array:
        return np.array([row[name] for row in rows], np.float64)

    hyper = {
        name: column(name) for name in HYPER if any(row[name] != DEFAULTS[name] for row in rows) and name != "epsilon"
    }
    if any(row["epsilon"] is not None for row in rows):
        usual = 1e-10 if rows[0]["solver"] == "adagrad" else 1e-8
        hyper["epsilon"] = np.array([usual if row["epsilon"] is None else row["epsilon"] for row in rows], np.float64)
    # Only what differs from the trainer's own defaults is passed: a plain fit calls it as plainly.
    if hyper:
        extra["hyper"] = hyper
    if rows[0]["loss"] in USE_LOSS_EPSILON:
        extra["loss_epsilon"] = column("loss_epsilon")
    if problem.target.n_outputs > 1:
        extra["n_outputs"] = problem.target.n_outputs
    if problem.validation is None and own.held_out_weight is not None:  # validation data have weights of their own
        extra["held_out_weight"] = own.held_out_weight
    if problem.validation is not None and scores:
        v = problem.validation
        seen = v.X if own.fill is None else np.ascontiguousarray(_missing.filled_rows(v.X, own.fill))
        extra["validation"] = (seen, v.y, v.sample_weight)
    if track_train_loss or settings.track_train_loss:
        extra["track_train_loss"] = True
    X: Any = problem.data
    trainer: Any = _core.train.Trainer
    if settings.device == "cuda":
        from gradfold.cuda.train import Trainer

        X, trainer = problem.data_on_gpu(), Trainer
    return trainer(
        X=X,
        y=problem.target.y,
        sample_weight=own.sample_weight,
        ids=ids,
        conditions=conditions,
        split_of_model=np.ascontiguousarray(splits, np.int64),
        loss=rows[0]["loss"],
        solver=rows[0]["solver"],
        l1=column("l1"),
        l2=column("l2"),
        learning_rate=np.ascontiguousarray(rates),
        schedule=np.array([SCHEDULES.index(row["schedule"]) for row in rows], np.int32),
        epochs=settings.epochs if epochs is None else epochs,
        batch_size=rows[0]["batch_size"],
        shuffle=settings.shuffle,
        seed=settings.seed,
        fit_intercept=settings.fit_intercept,
        standardize=settings.standardize,
        coef_init=coef_init,
        intercept_init=intercept_init,
        n_threads=settings.n_threads,
        **extra,
    )


def _alike(params: list[dict[str, Any]]) -> dict[tuple[Any, ...], list[int]]:
    """Candidates by solver, loss and batch size."""
    out: dict[tuple[Any, ...], list[int]] = {}
    for c, row in enumerate(params):
        out.setdefault((row["solver"], row["loss"], row["batch_size"]), []).append(c)
    return out
