"""Which solver "auto" is (docs/optimum.md, "What auto chooses")."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gradfold import _optimum, _optimum_check

EPOCHS, BATCH_SIZE = 10, 256  # of solvers of epochs, where nobody gave them

# Where nobody asked for epochs, adam gets what takes it near the optimum: about so many updates, within so many epochs.
_UPDATES, _MOST_EPOCHS = 3000, 200
_SMALL, _SMALL_BATCH = 10_000, 32  # rows, and those of a batch

# Keywords that only epochs have, with what they are when nobody gave them.
_SPEAKS_OF_EPOCHS: dict[str, Any] = {
    "epochs": None,
    "batch_size": None,
    "shuffle": True,
    "init_seed": None,
    **_optimum_check.OF_EPOCHS,
}
_WITH_L1 = "coordinate-descent"  # the solver that takes it
_MOST_FOR_CHOLESKY = 1000  # features up to which normal equations are the quicker way


def batch_of(n_rows: int) -> int:
    """Rows of a batch near the optimum."""
    return _SMALL_BATCH if n_rows < _SMALL else BATCH_SIZE


def epochs_of(n_rows: int, batch_size: int) -> int:
    """Epochs that take adam near the optimum."""
    return min(_MOST_EPOCHS, max(EPOCHS, math.ceil(_UPDATES / math.ceil(n_rows / batch_size))))


def settle(
    params: list[dict[str, Any]], given: dict[str, Any], asked: set[str], n_rows: int, n_features: int
) -> tuple[str, int | None]:
    """Put solvers in the place of "auto"; what `Run.solver_reason` says of it, and the epochs if that decides them.

    Parameters
    ----------
    params : list of dict
        Every parameter of every candidate, with the losses that the target was read by.
    given : dict
        `fit`'s keywords.
    asked : set of str
        The parameters that candidates set.
    """
    rows = [row for row in params if row["solver"] == "auto"]
    if not rows:
        return "asked for", None
    by_name = [str(row["solver"]) for row in params if row["solver"] != "auto"]
    started = given["coef_init"] is not None or given["intercept_init"] is not None
    wished = _wished(by_name, given, asked)
    against = wished if wished is not None or by_name else _limits(rows, n_rows, n_features, started)
    if against is not None:
        for name, default in _optimum_check.OF_OPTIMA.items():
            if given[name] != default:
                raise ValueError(
                    f"{name}: got {given[name]!r}, which solvers of the optimum have, with solver='auto', which is adam here: {against}; "
                    "wanted one of the two"
                )
        for row in rows:
            row["solver"] = "adam"
        if wished is not None:
            return f"auto: adam ({against})", None
        batch = batch_of(n_rows)
        for row in rows:
            row["batch_size"] = batch
        return f"auto: adam ({against})", epochs_of(n_rows, batch)
    sparse = any(row["l1"] > 0 for row in rows)
    for row in rows:
        row["solver"] = _for_optimum(row["loss"], sparse, n_features, started)
    names = " and ".join(dict.fromkeys(str(row["solver"]) for row in rows))
    return f"auto: {names} (nothing was given that only epochs have)", None


def _wished(by_name: list[str], given: dict[str, Any], asked: set[str]) -> str | None:
    """Why the models are not meant to go to their optima; None if they are."""
    if by_name:
        return None if by_name[0] in _optimum.SOLVERS else f"other candidates have solver={by_name[0]!r}"
    for name, default in _SPEAKS_OF_EPOCHS.items():
        if name in asked:
            return f"candidates set {name}"
        if _optimum_check.given_for_epochs(name, given[name], default):
            return f"{name} was given, which only epochs have"
    return None


def _limits(rows: list[dict[str, Any]], n_rows: int, n_features: int, started: bool) -> str | None:
    """Why the models cannot go to their optima; None if they can."""
    if any(row["l1"] > 0 for row in rows):
        if started:
            return "coordinate-descent, which l1 needs, takes no start"
        most = _optimum_check.MOST_OF_GRAM
        if n_features > most and any(_optimum.from_gram(_WITH_L1, row["loss"], n_rows, n_features) for row in rows):
            return f"coordinate-descent, which l1 needs, is for {most} features at most with squared_error, or more features than rows"
    return next(filter(None, (_loss_against(str(row["loss"]), row["l1"] > 0) for row in rows)), None)


def _loss_against(loss: str, sparse: bool) -> str | None:
    """Why no solver of the optimum is for a loss, with or without l1; None if there is one."""
    if loss not in _optimum_check.SMOOTH:
        return f"the loss {loss!r} has no second derivative"
    if sparse and loss not in _optimum.LOSSES[_WITH_L1]:
        return f"no solver of the optimum takes l1 with the loss {loss!r}"
    return None


def goes_to_optimum(names: Iterable[str], losses: Iterable[str], sparse: bool) -> bool:
    """Whether "auto" is a solver of the optimum, before y is read, where parameters of these names are given.

    With a loss of "auto" it is so whatever y holds, and with l1 it is not.
    """
    kinds = ("log_loss", "multinomial", "squared_error")  # that y can ask for
    read = [kind for loss in losses for kind in (kinds if loss == "auto" else (loss,))]
    return not set(names) & _SPEAKS_OF_EPOCHS.keys() and not any(_loss_against(loss, sparse) for loss in read)


def _for_optimum(loss: str, sparse: bool, n_features: int, started: bool) -> str:
    if sparse and loss in _optimum.LOSSES[_WITH_L1]:
        return _WITH_L1
    if loss == "squared_error" and n_features <= _MOST_FOR_CHOLESKY and not started:
        return "cholesky"
    return "lbfgs"
