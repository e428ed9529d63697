"""`fit`: train every split of every candidate at once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import gradfold
from gradfold import _check, _core, _splits, _target
from gradfold import loss as _loss
from gradfold._interrupt import Interrupt, Interrupted
from gradfold.candidates import PARAMETERS, SCHEDULES, Candidates
from gradfold.run import Run

if TYPE_CHECKING:
    from gradfold.index import Folds

Array = npt.NDArray[Any]

SOLVERS = ("auto", "sgd", "adam")
LEARNING_RATES = {"sgd": 0.1, "adam": 0.01}  # of `learning_rate=None`

_REMEDY = "lower learning_rate, or use standardize=True"


def fit(
    X: Any,
    y: Any,
    candidates: Candidates | Iterable[Mapping[str, Any]] | None = None,
    *,
    folds: Any = None,
    loss: str = "auto",
    solver: str = "auto",
    l1: float = 0.0,
    l2: float = 1e-4,
    learning_rate: float | None = None,
    schedule: str = "constant",
    epochs: int = 10,
    batch_size: int = 256,
    shuffle: bool = True,
    seed: int = 0,
    fit_intercept: bool = True,
    sample_weight: npt.ArrayLike | None = None,
    standardize: bool = False,
    coef_init: npt.ArrayLike | None = None,
    intercept_init: npt.ArrayLike | None = None,
    refit: bool = True,
    max_seconds: float | None = None,
    device: str | None = None,
    n_threads: int | None = None,
    dtype: npt.DTypeLike | None = None,
    check_finite: bool = True,
) -> Run:
    """Train one linear model for each candidate and split, all in one pass over X, and refit the best candidate.

    Every model's weights have the same bits whether it trains alone or beside thousands, on any number of threads and
    on any instruction level; and a row that a model does not train on cannot touch it.

    Parameters
    ----------
    X : array_like of shape (n_rows, n_features)
        float32 and float64 in C order are used where they lie. All else is copied, with one warning that names it.
        Sparse matrices and float16 raise, because their kernels do not exist yet.
    y : array_like of shape (n_rows,)
        Targets or labels; converted to X's dtype.
    candidates : Candidates or iterable of mappings, optional
        What varies, from `grid`: any of l1, l2, learning_rate, schedule. They override the keywords of the same name.
        Default: one candidate made of the keywords.
    folds : Folds, int, iterable of (train, test) index arrays, splitter, or None
        The splits. An int k is k-fold, stratified for labels, shuffled by `seed`. A splitter is any object with
        `split(X, y)`, scikit-learn's for example. None is 5-fold where there is something to choose (two candidates
        or more), and otherwise no split at all: only the refit is trained.
    loss : {"auto", "log_loss", "squared_error"}
        "auto" reads y. Two distinct labels of any type are encoded (the larger is positive) for "log_loss"; booleans,
        text and integers always count as labels, so integers with more than two values are an error that says how
        to ask for a regression; floats outside {0, 1} and {-1, 1} mean "squared_error", which is ½ (y − z)².
    solver : {"auto", "sgd", "adam"}
        "auto" is adam in this version; `Run.solver_reason` says why.
    l1, l2 : float
        Penalties, at least 0: l1 · Σ|w| (proximal) and ½ · l2 · Σw², beside the mean loss. The intercept has none.
    learning_rate : float, optional
        Above 0. Default: 0.1 for sgd, 0.01 for adam.
    schedule : {"constant", "cosine"}
        "cosine" lowers the learning rate to 0 over all epochs.
    epochs, batch_size : int
        An epoch visits every row once, in batches of `batch_size` rows: ⌈n_rows / batch_size⌉ steps. Under k-fold a
        model trains on about (k − 1)/k of each batch.
    shuffle : bool
        Whether each epoch has its own order. It is computed on the fly from `seed`; nothing is stored.
    seed : int
        0 to 2^64 − 1: of the order of rows and of folds that `fit` makes itself.
    fit_intercept : bool
    sample_weight : array_like of shape (n_rows,), optional
        At least 0; converted to X's dtype. A row of weight 0 is no training row.
    standardize : bool
        Train on standardised features, with mean and scale from each split's own training rows; penalties act on the
        standardised weights, and the weights returned are on X's own scale. X is not copied.
    coef_init : array_like of shape (n_features,) or (n_models, n_features), optional
        Where to start, on X's own scale. Default: 0. Weights for a single model serve every model and the refit; for
        two models or more, a row for each serves the models of the splits, and the refit starts from 0.
    intercept_init : float or array_like of shape (n_models,), optional
        The same for the intercepts; without `fit_intercept` only 0 is possible.
    refit : bool
        Train the best candidate once more, on every row that some split trains or scores.
    max_seconds : float, optional
        Stop at the first batch that ends after this time, as an interrupt does.
    device : {None, "cpu"}
        There are no CUDA kernels in this version.
    n_threads : int, optional
        Default: the processors this process may use.
    dtype : {float32, float64}, optional
        Convert X to it, without a warning. Default: keep float32 and float64, make float64 of the rest.
    check_finite : bool
        Check that X, y and sample_weight are finite, and that y is in the domain of its loss. Without it, a NaN in a
        row that a model trains on, its weight included, makes that model diverge.

    Returns
    -------
    Run
        With `interrupted=True`, if Ctrl-C or `max_seconds` came first: each model then has the weights of its own
        last whole batch, scores are those of the last epoch that all completed (NaN if there is none), and nothing
        is refitted; if the refit was under way, the refitted model has the weights of its last whole batch. Ctrl-C
        is caught in the main thread only, and only where Python's own handler is installed.

    Raises
    ------
    ValueError
        A bad value, shape or layout, or a split without a training row; the message names the argument.
    TypeError
        A bad type or dtype.

    Warns
    -----
    RuntimeWarning
        Models of the splits diverged (one warning, with their number), the refit diverged, or no candidate could be
        ranked.
    UserWarning
        X was copied, or a class has fewer rows than there are folds.
    """
    started = time.monotonic()
    _check.device(device)
    params, table = _candidates(candidates, l1, l2, learning_rate, schedule, solver)
    settings = _Settings(
        loss=_check.choice("loss", loss, ("auto", *_loss.NAMES)),
        solver="adam" if solver == "auto" else solver,
        params=params,
        epochs=_check.integer("epochs", epochs, 1, 2**31 - 1),
        batch_size=_check.integer("batch_size", batch_size, 1, 2**63 - 1),
        shuffle=_check.boolean("shuffle", shuffle),
        seed=_check.seed(seed),
        fit_intercept=_check.boolean("fit_intercept", fit_intercept),
        standardize=_check.boolean("standardize", standardize),
        check_finite=_check.boolean("check_finite", check_finite),
        n_threads=_check.threads(n_threads),
        deadline=None if max_seconds is None else started + _check.real("max_seconds", max_seconds, positive=True),
    )
    refit = _check.boolean("refit", refit)
    wanted = None if dtype is None else _check.float_dtype("dtype", dtype)

    with Interrupt() as interrupt:
        problem = _Problem(loss=settings.loss)
        try:
            interrupt.raising = True
            _set_up(problem, settings, X, y, sample_weight, folds, wanted)
            problem.read_start(coef_init, intercept_init, len(params), settings.fit_intercept)
            if problem.folds is None and not refit:
                raise ValueError(
                    "refit: got False with no splits to train; wanted folds, two candidates, or refit=True"
                )
            trainer = problem.trainer_of_splits(settings)
            interrupt.raising = False
        except Interrupted:
            run = _collect(problem, settings, table, solver, None, "interrupted")
        else:
            run = _run(problem, settings, table, solver, trainer, refit, interrupt)
    if interrupt.pressed and not run.interrupted:
        run.stop_reason = "interrupted"
    return run


@dataclass
class _Settings:
    """`fit`'s arguments that do not depend on the data, checked."""

    loss: str
    solver: str
    params: list[dict[str, Any]]
    epochs: int
    batch_size: int
    shuffle: bool
    seed: int
    fit_intercept: bool
    standardize: bool
    check_finite: bool
    n_threads: int
    deadline: float | None


@dataclass
class _Problem:
    """The data as the kernels read it. An interrupt can come before all of it is known."""

    loss: str
    X: Array | None = None
    target: _target.Target | None = None
    sample_weight: Array | None = None
    folds: Folds | None = None
    coef_init: Array | None = None  # float64, (1, n_features) for all models or (n_models, n_features)
    intercept_init: Array | None = None  # float64, (1,) or (n_models,)

    def read_start(self, coef_init: object, intercept_init: object, n_candidates: int, fit_intercept: bool) -> None:
        """Check `coef_init` and `intercept_init`."""
        assert self.X is not None
        dtype = self.X.dtype
        n_features = self.X.shape[1]
        n_models = n_candidates * (1 if self.folds is None else self.folds.n_splits)
        if coef_init is not None:
            shapes: list[tuple[int, ...]] = [(n_features,), (n_models, n_features)]
            self.coef_init = _start("coef_init", coef_init, shapes, dtype).reshape(-1, n_features)
        if intercept_init is not None:
            self.intercept_init = _start("intercept_init", intercept_init, [(), (n_models,)], dtype).reshape(-1)
            if not fit_intercept and self.intercept_init.any():
                raise ValueError(
                    f"intercept_init: got {_check.describe(intercept_init)} with fit_intercept=False, wanted None or 0"
                )

    def trainer_of_splits(self, settings: _Settings) -> Any:
        """A trainer of every candidate on every split, model = candidate · n_splits + split; None without splits."""
        if self.folds is None:
            return None
        n_splits = self.folds.n_splits
        models = [row for row in settings.params for _ in range(n_splits)]
        splits = np.tile(np.arange(n_splits, dtype=np.int64), len(settings.params))
        return self._trainer(settings, models, self.folds.ids, self.folds.conditions, splits)

    def trainer_of_refit(self, settings: _Settings, candidate: int) -> Any:
        """A trainer of one candidate on every row that some split trains or scores."""
        assert self.X is not None
        ids = _splits.refit_ids(self.folds, len(self.X))
        conditions = np.array([[[0, 0, 0, 0, 1]]], np.int64)
        return self._trainer(settings, [settings.params[candidate]], ids, conditions, np.zeros(1, np.int64))

    def _trainer(
        self, settings: _Settings, models: list[dict[str, Any]], ids: Array, conditions: Array, splits: Array
    ) -> Any:
        assert self.X is not None and self.target is not None
        n_models, n_features = len(models), self.X.shape[1]

        def column(name: str) -> Array:
            return np.array([row[name] for row in models], np.float64)

        def start(values: Array | None, shape: tuple[int, ...]) -> Array | None:
            if values is None or len(values) not in (1, n_models):
                return None
            return np.ascontiguousarray(np.broadcast_to(values, shape))

        return _core.train.Trainer(
            X=self.X,
            y=self.target.y,
            sample_weight=self.sample_weight,
            ids=ids,
            conditions=conditions,
            split_of_model=splits,
            loss=self.target.loss,
            solver=settings.solver,
            l1=column("l1"),
            l2=column("l2"),
            learning_rate=column("learning_rate"),
            schedule=np.array([SCHEDULES.index(row["schedule"]) for row in models], np.int32),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            shuffle=settings.shuffle,
            seed=settings.seed,
            fit_intercept=settings.fit_intercept,
            standardize=settings.standardize,
            coef_init=start(self.coef_init, (n_models, n_features)),
            intercept_init=start(self.intercept_init, (n_models,)),
            n_threads=settings.n_threads,
        )


def _candidates(
    candidates: object, l1: object, l2: object, learning_rate: object, schedule: object, solver: object
) -> tuple[list[dict[str, Any]], Candidates | None]:
    """Every candidate's full parameters, and the grid itself."""
    _check.choice("solver", solver, SOLVERS)
    default = LEARNING_RATES["sgd" if solver == "sgd" else "adam"]
    given = {
        "l1": l1,
        "l2": l2,
        "learning_rate": default if learning_rate is None else learning_rate,
        "schedule": schedule,
    }
    own = {name: PARAMETERS[name](value) for name, value in given.items()}
    if candidates is None:
        return [own], None
    if not isinstance(candidates, Candidates):
        if not isinstance(candidates, Iterable) or isinstance(candidates, (str, bytes, Mapping)):
            raise TypeError(
                f"candidates: got {_check.describe(candidates)}, wanted Candidates, as gradfold.grid makes them"
            )
        candidates = Candidates(candidates)
    return [{**own, **row} for row in candidates], candidates


def _set_up(
    problem: _Problem, settings: _Settings, X: object, y: object, sample_weight: object, folds: object, dtype: Any
) -> None:
    """Read, convert and check the data, and make the splits."""
    problem.X, copied = _check.data_matrix("X", X, dtype)
    if copied:
        # The frames above: _set_up, fit, the caller.
        warnings.warn(f"fit copied {copied}", UserWarning, stacklevel=3)
    n_rows = len(problem.X)
    target = _target.read(y, settings.loss, n_rows, problem.X.dtype, settings.check_finite, settings.n_threads)
    if target.n_outputs > 1 or target.loss == "multinomial":
        raise ValueError(
            "y: got more than two labels (or asked for multinomial); fit does not train the multinomial loss yet, wanted "
            "two labels; for regression pass loss='squared_error', or y as floats"
        )
    if sample_weight is not None:
        weight = _check.per_row("sample_weight", sample_weight, n_rows, problem.X.dtype)
        problem.sample_weight = _check.weights("sample_weight", weight, settings.n_threads, settings.check_finite)
        if not (problem.sample_weight > 0).any():
            raise ValueError("sample_weight: got no weight above 0, wanted at least one")
    if settings.check_finite:
        _check.finite("X", problem.X, settings.n_threads)
    problem.target, problem.loss = target, target.loss
    problem.folds = _splits.read(folds, X, y, target, len(settings.params), settings.seed)
    if problem.folds is not None:
        _splits.check_every_split_trains(problem.folds, problem.sample_weight)


def _start(argument: str, value: object, shapes: list[tuple[int, ...]], dtype: np.dtype[Any]) -> Array:
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


def _run(
    problem: _Problem,
    settings: _Settings,
    table: Candidates | None,
    asked: str,
    trainer: Any,
    refit: bool,
    interrupt: Interrupt,
) -> Run:
    """Train, choose, refit."""
    status = "done" if trainer is None else interrupt.advance(trainer, settings.deadline)
    run = _collect(problem, settings, table, asked, trainer, _reason(status))
    if run.diverged.any():
        warnings.warn(
            f"{int(run.diverged.sum())} of {len(run.diverged)} models diverged (Run.diverged says which), and their "
            f"held-out loss is NaN; {_REMEDY}",
            RuntimeWarning,
            stacklevel=3,
        )
    if not refit or status != "done":
        return run
    if run.n_candidates > 1 and not run.ranked:
        warnings.warn(
            "every candidate's mean held-out loss is NaN (diverged models, or splits that score no row), so there is "
            "no best one to refit",
            RuntimeWarning,
            stacklevel=3,
        )
        return run
    try:
        interrupt.raising = not interrupt.pressed
        trainer = problem.trainer_of_refit(settings, run.best_candidate)
        interrupt.raising = False
    except Interrupted:
        run.stop_reason = "interrupted"
        return run
    status = interrupt.advance(trainer, settings.deadline)
    run.best_coef = trainer.coef()[0]
    run.best_intercept = float(trainer.intercept()[0])
    run.best_steps = int(trainer.steps()[0])
    run.best_diverged = bool(trainer.diverged_epoch[0] >= 0)
    run.stop_reason = _reason(status)
    if run.best_diverged:
        warnings.warn(
            f"the refit diverged at epoch {int(trainer.diverged_epoch[0])}, batch {int(trainer.diverged_batch[0])} "
            f"(both counted from 0) and keeps its last finite weights; {_REMEDY}",
            RuntimeWarning,
            stacklevel=3,
        )
    return run


def _reason(status: str) -> str:
    return {"paused": "max_seconds"}.get(status, status)


def _collect(
    problem: _Problem, settings: _Settings, table: Candidates | None, asked: str, trainer: Any, reason: str
) -> Run:
    """The Run of a trainer, or, without one, of models that have not moved."""
    n_candidates = len(settings.params)
    n_splits = 0 if problem.folds is None else problem.folds.n_splits
    n_models = n_candidates * n_splits
    shape = (n_candidates, n_splits)
    if trainer is not None:
        coef, intercept, steps = trainer.coef(), trainer.intercept(), trainer.steps()
        history = trainer.history().reshape(-1, *shape)
        diverged_epoch, diverged_batch = np.array(trainer.diverged_epoch), np.array(trainer.diverged_batch)
    else:
        n_features, kind = (0, np.dtype(np.float64)) if problem.X is None else (problem.X.shape[1], problem.X.dtype)
        start = problem.coef_init if problem.coef_init is not None else np.zeros((1, n_features))
        coef = (
            np.broadcast_to(start, (n_models, n_features)).astype(kind) if n_models else np.zeros((0, n_features), kind)
        )
        start = problem.intercept_init if problem.intercept_init is not None else np.zeros(1)
        intercept = np.broadcast_to(start, (n_models,)).astype(kind) if n_models else np.zeros(0, kind)
        steps, history = np.zeros(n_models, np.int64), np.empty((0, *shape))
        diverged_epoch, diverged_batch = np.full((2, n_models), -1, np.int64)
    held_out = history[-1].copy() if len(history) else np.full(shape, np.nan)
    held_out[(diverged_epoch >= 0).reshape(shape)] = np.nan
    assert problem.target is None or problem.X is not None
    complete = problem.X is not None and problem.target is not None
    return Run(
        candidates=table,
        params=settings.params,
        loss=problem.loss,
        solver=settings.solver,
        solver_reason=("auto: adam, the only adaptive solver of this version" if asked == "auto" else "asked for"),
        settings={
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "shuffle": settings.shuffle,
            "seed": settings.seed,
            "fit_intercept": settings.fit_intercept,
            "standardize": settings.standardize,
            "check_finite": settings.check_finite,
            "n_threads": settings.n_threads,
            "sample_weight": problem.sample_weight is not None,
            "coef_init": problem.coef_init is not None,
            "n_rows": None if problem.X is None else len(problem.X),
            "dtype": coef.dtype.name,
        },
        classes=None if problem.target is None else problem.target.classes,
        coef=coef,
        intercept=intercept,
        steps=steps,
        history=history,
        held_out_loss=held_out,
        diverged_epoch=diverged_epoch,
        diverged_batch=diverged_batch,
        best_coef=None,
        best_intercept=None,
        best_steps=0,
        best_diverged=False,
        stop_reason=reason,
        version=gradfold.__version__,
        folds=problem.folds,
        data=(problem.X, problem.target.y, problem.sample_weight) if complete else None,  # type: ignore[arg-type, union-attr]
    )
