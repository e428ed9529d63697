"""What solvers of the optimum cannot do, refused before a fit begins."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from gradfold._optimum import LOSSES, SOLVERS, from_gram
from gradfold.candidates import DEFAULTS, HYPER

# Losses with a second derivative wherever they have a first; huber's and the squared hinges' jumps do no harm.
SMOOTH = (
    "log_loss",
    "squared_error",
    "multinomial",
    "huber",
    "squared_hinge",
    "modified_huber",
    "squared_epsilon_insensitive",
)
MOST_OF_GRAM = 5000  # the factors of a group of models take 0.8 GB, and more go with its square

OF_OPTIMA = {"max_iter": 1000, "tol": 1e-4}  # keywords of `fit`, with what they are when nobody gave them
# Those that speak of epochs.
OF_EPOCHS = {
    "learning_rate": None,
    "schedule": "constant",
    "batch_scaling": None,
    "early_stopping": None,
    "halving": None,
    "callbacks": None,
    "track_train_loss": False,
    "average": 0,
    "warmup": 0.0,
    "clip_norm": np.inf,
    "clip_value": np.inf,
    **{name: DEFAULTS[name] for name in HYPER},
}


def given_for_epochs(name: str, value: Any, default: Any) -> bool:
    """Whether a keyword that speaks of epochs says anything: False switches off, as None does, and so does an empty list of callbacks.

    An empty mapping does say something: early stopping, or halving, with its defaults.
    """
    if value is None or value is False or (name == "callbacks" and not value):
        return default is True
    return not (value is default or value == default)


def check(params: list[dict[str, Any]], given: dict[str, Any], asked: Collection[str] = ()) -> bool:
    """Whether the candidates' solvers are those of optima; refuse what they cannot do.

    Parameters
    ----------
    params : list of dict
        Every parameter of every candidate.
    given : dict
        `fit`'s keywords.
    asked : collection of str
        The parameters that candidates set.
    """
    solvers = list(dict.fromkeys(str(row["solver"]) for row in params if row["solver"] != "auto"))
    if not solvers:
        return False  # `_auto.settle` sees to them
    mine = [name for name in solvers if name in SOLVERS]
    if not mine:
        for name, default in OF_OPTIMA.items():
            if given[name] != default:
                raise ValueError(
                    f"{name}: got {given[name]!r} with solver={solvers[0]!r}, which goes by epochs; wanted it left out, or one of "
                    f"{', '.join(map(repr, SOLVERS))}"
                )
        return False
    if len(mine) < len(solvers):
        raise ValueError(
            f"solver: got {', '.join(map(repr, solvers))} among the candidates, wanted solvers of epochs only, or of optima "
            f"only ({', '.join(map(repr, SOLVERS))})"
        )
    wanted = f"solver={mine[0]!r}"
    for name, default in OF_EPOCHS.items():
        known: Any = default  # most candidates share a keyword's value
        for value in [row[name] for row in params] if name in params[0] else [given.get(name)]:
            if value is known:
                continue
            known = value
            if given_for_epochs(name, value, default):
                raise ValueError(f"{name}: got {value!r} with {wanted}, which has no epochs; wanted it left out, or 'sgd' or 'adam'")
    for name in ("epochs", "batch_size"):
        if given[name] is not None or name in asked:
            value = params[0][name] if name in asked else given[name]
            raise ValueError(f"{name}: got {value!r} with {wanted}, which has no epochs; wanted it left out, or 'sgd' or 'adam'")
    for name in ("coef_init", "intercept_init", "init_seed"):
        started = given[name] is not None or any(row.get(name) is not None for row in params)
        if started and any(row["solver"] in LOSSES for row in params):
            raise ValueError(f"{name}: got a start with {wanted}, whose solution does not depend on one; wanted None, or 'lbfgs'")
    for row in params:
        if row["l1"] > 0 and row["solver"] not in ("auto", "coordinate-descent"):
            raise ValueError(
                f"l1: got {row['l1']!r} with {wanted}, which needs a smooth penalty; wanted 0, 'sgd', 'adam' or, for "
                "squared_error and log_loss, 'coordinate-descent'"
            )
    return True


def check_losses(params: list[dict[str, Any]], n_rows: int, n_features: int, device: str) -> None:
    """Refuse losses that have no second derivative, or that are not what an exact solver solves, and too many features."""
    for row in params:
        if row["loss"] == "multinomial" and device == "cuda":
            raise ValueError("loss: got 'multinomial' with device='cuda', wanted a loss of one output; use device='cpu'")
        whole = row["solver"] == "newton-cholesky" or from_gram(row["solver"], row["loss"], n_rows, n_features)
        if whole and n_features > MOST_OF_GRAM:
            raise ValueError(
                f"X: got {n_features} features with solver={row['solver']!r}, which holds their Gram matrix; wanted at most "
                f"{MOST_OF_GRAM}, or 'lbfgs', 'sgd' or 'adam'"
            )
        own = LOSSES.get(row["solver"], SMOOTH)
        if row["loss"] not in own and row["solver"] in LOSSES:
            raise ValueError(
                f"solver: got {row['solver']!r} with loss={row['loss']!r}, wanted {' or '.join(map(repr, own))}, or 'lbfgs'"
            )
        if row["solver"] == "newton-cholesky" and row["loss"] == "multinomial":
            raise ValueError("solver: got 'newton-cholesky' with loss='multinomial', whose Hessian is not built; wanted 'lbfgs'")
        if row["loss"] not in SMOOTH:
            raise ValueError(
                f"loss: got {row['loss']!r} with solver={row['solver']!r}, wanted one with a second derivative: "
                f"{', '.join(map(repr, SMOOTH))}; or 'sgd' or 'adam'"
            )
