"""`Run.partial_fit`: the refitted model goes on with new rows."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _class_weight, _missing, _optimum, _plan, _problem, _splits, _target
from gradfold._interrupt import Interrupt
from gradfold._plan import Settings
from gradfold._problem import Problem, Rows
from gradfold.candidates import DEFAULTS

if TYPE_CHECKING:
    from gradfold.run import Run

Array = npt.NDArray[Any]

# What a trainer says beside a model's own state: where in its epochs it was, and what it has counted.
_PASSING = ("position", "history", "finished", "diverged_epoch", "diverged_batch", "train_loss", "train_weight")


def state_of(trainer: Any, model: int) -> dict[str, Array]:
    """What one model of a trainer needs to go on: weights, moments, counts; one row each."""
    state = trainer.get_state()
    return {name: np.array(array[model : model + 1]) for name, array in state.items() if name not in _PASSING}


def partial_fit(
    run: Run, X: object, y: object, sample_weight: object, epochs: object, n_threads: object, stacklevel: int
) -> None:
    """Train the refitted model on; see `Run.partial_fit`."""
    if run.best_coef is None:
        raise RuntimeError("partial_fit needs the refitted model; this run holds none")
    if run.best_diverged:
        raise RuntimeError("partial_fit: the model has diverged, so there is nothing to go on from; fit anew")
    if run.solver in _optimum.SOLVERS:
        raise RuntimeError(f"partial_fit goes on by epochs, and this run's solver {run.solver!r} has none; fit anew with 'sgd' or 'adam'")
    if run._state is None:
        raise RuntimeError("partial_fit needs the optimiser's state, which this run does not hold (an older file)")
    dtype, n_features = run.best_coef.dtype, run.best_coef.shape[-1]
    n_epochs = _check.integer("epochs", epochs, 1, 2**31 - 1)
    threads = _check.threads(n_threads)
    data, _ = _check.data_matrix("X", X, dtype)
    if data.shape[1] != n_features:
        raise ValueError(f"X: got {data.shape[1]} features, wanted {n_features} as in fit")
    if run.fill is not None:
        data = np.ascontiguousarray(_missing.filled_rows(data, run.fill))
    _check.same_features("X", X, run.feature_names)
    _check.finite("X", data, threads)
    target = _problem.labels(y, len(data), run.classes, dtype, "y")
    _check.finite("y", target, threads)
    weight = None
    if sample_weight is not None:
        weight = _check.per_row("sample_weight", sample_weight, len(data), dtype)
        weight = _check.weights("sample_weight", weight, threads, check_finite=True)
    if run.class_weight is not None:
        codes = target.astype(np.int32) if run.loss == "multinomial" else (target > 0).astype(np.int8)
        weight = _class_weight.applied(run.class_weight, codes, weight, dtype)
    if weight is not None and not (weight > 0).any():
        raise ValueError("sample_weight: got no row of a weight above 0, wanted at least one")

    row = _parameters(run)
    settings = Settings(
        params=[row],
        epochs=n_epochs,
        batch_size=row["batch_size"],
        batch_scaling=None,
        shuffle=run.settings["shuffle"],
        seed=run.settings["seed"],
        fit_intercept=run.settings["fit_intercept"],
        standardize=run.settings["standardize"],
        check_finite=True,
        n_threads=threads,
        deadline=None,
    )
    problem = Problem(loss=run.loss, X=data, target=_target.Target(run.loss, target, run.classes))
    state = dict(run._state)
    # A cosine has come to its end: each call is a new one, over its own epochs.
    restarts = row["schedule"] == "cosine"
    if restarts:
        state["updates"] = np.zeros_like(state["updates"])
    with Interrupt() as interrupt:
        ids, conditions = _splits.of_all_rows(len(data))
        trainer = _plan.make_trainer(
            problem, settings, [row], np.array([run.settings["refit_learning_rate"]], np.float64), Rows(weight, None, None),
            ids=ids, conditions=conditions,
            splits=np.zeros(1, np.int64), coef_init=None, intercept_init=None,
            first_epoch=run.best_epochs, state=state,
        )  # fmt: skip
        interrupt.advance(trainer, None)
    run.best_coef = np.array(trainer.coef()[0])
    run.best_intercept = np.array(trainer.intercept()[0]) if problem.outputs else float(trainer.intercept()[0])
    run.best_steps = int(trainer.steps()[0]) + (run.best_steps if restarts else 0)
    run.best_epochs += int(trainer.epochs_done)
    run.best_diverged = bool(trainer.diverged_epoch[0] >= 0)
    run._state = None if run.best_diverged else state_of(trainer, 0)
    if run.best_diverged:
        warnings.warn(
            "the model diverged in partial_fit and keeps its last finite weights; lower learning_rate",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
    if interrupt.pressed:  # a loop over pieces of data must not go on as if this one had been seen
        raise KeyboardInterrupt


def _parameters(run: Run) -> dict[str, Any]:
    """Every parameter of the refitted model."""
    shown = run.params[run.best_candidate]
    return {**DEFAULTS, "batch_size": run.settings["batch_size"], **shown, "solver": run.solver, "loss": run.loss}
