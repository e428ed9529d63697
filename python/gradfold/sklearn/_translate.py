"""scikit-learn's SGD parameters as gradfold's: the one table of who is called what.

==================  =========================================================================================
scikit-learn        gradfold
==================  =========================================================================================
loss, epsilon       loss, loss_epsilon
penalty, alpha,     l1 = alpha · r and l2 = alpha · (1 − r), where r is 0 for "l2", 1 for "l1" and l1_ratio for
l1_ratio            "elasticnet"; both 0 for None. For solver "adamw" l2 becomes weight_decay
learning_rate       schedule: "constant"; "optimal" and "invscaling" are "inverse_scaling"; "adaptive" is "constant"
                    and a fifth of it each time the stopping criterion is met
eta0, power_t       learning_rate, power_t
max_iter            epochs
tol,                the stopping criterion of `_engine`
n_iter_no_change
average             average, counted in updates: ⌈average / batch_size⌉
random_state        seed, drawn from it
class_weight        a factor of sample_weight
(a clip of slopes)  clip_value
==================  =========================================================================================

scikit-learn multiplies a row's gradient by its weight; gradfold divides the batch's weighted gradient by the mean
weight w̄. With learning_rate · w̄, l1 / w̄ and l2 / w̄ both make the same step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SOLVERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
SCHEDULES = ("constant", "optimal", "invscaling", "adaptive")
# Solvers that scale each coordinate by its past gradients: a learning rate near 1 throws them off.
_ADAPTIVE_SOLVERS = ("adagrad", "rmsprop", "adam", "adamw")

_EPSILON_LOSSES = ("huber", "epsilon_insensitive", "squared_epsilon_insensitive")

# Losses of unbounded slope. scikit-learn cuts a slope off here, and so keeps finite, if useless, weights where a step
# is too long; the gradient is cut off here instead.
_STEEP_LOSSES = ("squared_error", "squared_hinge", "modified_huber", "squared_epsilon_insensitive")
_STEEPEST = 1e12

# "auto": at most this many rows a batch, and, where there are that many rows, at least this many updates an epoch.
LARGEST_BATCH, UPDATES_AN_EPOCH = 256, 1000

# What all models that train together have in common; models that differ here train one group after the other.
SHARED = (
    "loss",
    "solver",
    "batch_size",
    "shuffle",
    "fit_intercept",
    "random_state",
    "early_stopping",
    "validation_fraction",
    "class_weight",
)


@dataclass(frozen=True)
class Spec:
    """One setting of the parameters, as the engine takes it.

    Attributes
    ----------
    shared : dict
        The values of `SHARED`, `batch_size` as a number.
    l1, l2, learning_rate : float
        For a mean sample weight of 1.
    schedule : str
        gradfold's name.
    hyper : dict
        Those of gradfold's hyper-parameters that are not at their defaults.
    loss_epsilon : float or None
    max_iter, n_iter_no_change : int
    tol : float or None
    adaptive : bool
        Whether the learning rate falls where the stopping criterion is met.
    """

    shared: dict[str, Any]
    l1: float
    l2: float
    learning_rate: float
    schedule: str
    hyper: dict[str, float]
    loss_epsilon: float | None
    max_iter: int
    tol: float | None
    n_iter_no_change: int
    adaptive: bool


def batch_size(value: Any, n_rows: int) -> int:
    """Rows of a batch: as given, or for "auto" as the data's size suggests."""
    if isinstance(value, str):
        return max(1, min(LARGEST_BATCH, n_rows // UPDATES_AN_EPOCH))
    return int(value)


def spec(params: Mapping[str, Any], n_rows: int) -> Spec:
    """Translate the parameters of an SGD estimator.

    Parameters
    ----------
    params : mapping
        `get_params` of one of gradfold's or scikit-learn's estimators, whose own checks they have passed.
    n_rows : int
        The rows of X.

    Raises
    ------
    ValueError
        A combination that makes no sense, or that gradfold does not have.
    """
    solver = params.get("solver", "sgd")
    rule, alpha = params["learning_rate"], float(params["alpha"])
    if rule not in SCHEDULES:
        raise ValueError(f"learning_rate: got {rule!r}, wanted one of {', '.join(map(repr, SCHEDULES))}")
    if rule == "optimal" and alpha == 0:
        raise ValueError("alpha: got 0 with learning_rate='optimal', which is computed from it; wanted alpha > 0")
    if rule == "optimal" and solver in _ADAPTIVE_SOLVERS:
        raise ValueError(
            f"learning_rate: got 'optimal' with solver={solver!r}, wanted 'constant', 'invscaling' or 'adaptive'; "
            "'optimal' is a step size for plain gradients"
        )
    ratio = {"l2": 0.0, "l1": 1.0, "elasticnet": params["l1_ratio"], None: 0.0}[params["penalty"]]
    if ratio is None:
        raise ValueError("l1_ratio: got None with penalty='elasticnet', wanted a number of 0 to 1")
    strength = 0.0 if params["penalty"] is None else alpha
    l1, l2 = strength * float(ratio), strength * (1.0 - float(ratio))

    if rule != "optimal" and not params["eta0"] > 0:
        raise ValueError(f"eta0: got {params['eta0']} with learning_rate={rule!r}, wanted a number above 0")

    hyper: dict[str, float] = {}
    if params["loss"] in _STEEP_LOSSES:
        hyper["clip_value"] = _STEEPEST
    if solver == "adamw":
        l2, hyper["weight_decay"] = 0.0, l2
    if rule == "optimal":
        # 1 / (alpha · (t0 + t)), t the updates made before, with Bottou's t0: the first step is that of a typical weight.
        typical = math.sqrt(1.0 / math.sqrt(alpha))
        schedule, rate = "inverse_scaling", 1.0 / alpha
        hyper["power_t"], hyper["t0"] = 1.0, 1.0 / (typical * alpha)
    elif rule == "invscaling":
        schedule, rate = "inverse_scaling", float(params["eta0"])
        hyper["power_t"] = float(params["power_t"])
        if hyper["power_t"] < 0:
            raise ValueError(f"power_t: got {params['power_t']}, wanted at least 0")
    else:
        schedule, rate = "constant", float(params["eta0"])
    rows = batch_size(params.get("batch_size", "auto"), n_rows)
    if params["average"]:
        hyper["average"] = math.ceil(int(params["average"]) / rows)
    shared = {name: params.get(name) for name in SHARED}
    shared["solver"], shared["batch_size"] = solver, rows
    return Spec(
        shared=shared,
        l1=l1,
        l2=l2,
        learning_rate=rate,
        schedule=schedule,
        hyper=hyper,
        loss_epsilon=float(params["epsilon"]) if params["loss"] in _EPSILON_LOSSES else None,
        max_iter=int(params["max_iter"]),
        tol=None if params["tol"] is None else float(params["tol"]),
        n_iter_no_change=int(params["n_iter_no_change"]),
        adaptive=rule == "adaptive",
    )
