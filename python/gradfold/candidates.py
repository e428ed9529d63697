"""Candidates: the points of a hyper-parameter grid, as a small table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gradfold import _check

SCHEDULES = ("constant", "cosine", "inverse_scaling", "exponential", "step", "optimal", "adaptive")
SOLVERS = ("auto", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw",
           "lbfgs", "newton-cholesky", "cholesky", "coordinate-descent")  # fmt: skip


def _not_negative(name: str) -> Callable[[object], float]:
    return lambda value: _check.real(name, value)


def _positive(name: str) -> Callable[[object], float]:
    return lambda value: _check.real(name, value, positive=True)


def _below_one(name: str, *, positive: bool = False) -> Callable[[object], float]:
    """At least 0, or above 0, and below 1."""

    def check(value: object) -> float:
        number = _check.real(name, value, positive=positive)
        if number >= 1:
            raise ValueError(f"{name}: got {value!r}, wanted a number below 1")
        return number

    return check


def _limit(name: str) -> Callable[[object], float]:
    """Above 0; infinity is no limit."""

    def check(value: object) -> float:
        if isinstance(value, (float, np.floating)) and value == math.inf:
            return math.inf
        return _check.real(name, value, positive=True)

    return check


def _choice(name: str, options: Sequence[str]) -> Callable[[object], str]:
    return lambda value: _check.choice(name, value, options)


def _loss_name(value: object) -> str:
    from gradfold import loss

    return _check.choice("loss", value, ("auto", *loss.NAMES))


def _init_seed(value: object) -> int | None:
    return None if value is None else _check.integer("init_seed", value, 0, 2**64 - 1)


def _epsilon(value: object) -> float | None:
    return None if value is None else _check.real("epsilon", value, positive=True)


def _rate(value: object) -> float | str | None:
    if value is None or (isinstance(value, str) and value == "auto"):
        return value
    if isinstance(value, str):
        raise ValueError(f"learning_rate: got {value!r}, wanted a finite number above 0, 'auto' or None")
    return _check.real("learning_rate", value, positive=True)


# What a candidate may set, and the check of one value of it. `fit` uses the same checks for its own keywords.
PARAMETERS: dict[str, Callable[[object], Any]] = {
    "l1": _not_negative("l1"),
    "l2": _not_negative("l2"),
    "learning_rate": _positive("learning_rate"),
    "schedule": _choice("schedule", SCHEDULES),
    "batch_size": lambda value: _check.integer("batch_size", value, 1, 2**63 - 1),
    "solver": _choice("solver", SOLVERS),
    "loss": _loss_name,
    "loss_epsilon": _not_negative("loss_epsilon"),
    "init_seed": _init_seed,
    "init_scale": _not_negative("init_scale"),
    "momentum": _below_one("momentum"),
    "beta1": _below_one("beta1"),
    "beta2": _below_one("beta2"),
    "epsilon": _epsilon,
    "rho": _below_one("rho"),
    "weight_decay": _not_negative("weight_decay"),
    "clip_norm": _limit("clip_norm"),
    "clip_value": _limit("clip_value"),
    "average": lambda value: _check.integer("average", value, 0, 2**53),
    "power_t": _not_negative("power_t"),
    "decay": _positive("decay"),
    "decay_epochs": _positive("decay_epochs"),
    "warmup": _not_negative("warmup"),
    "plateau_factor": _below_one("plateau_factor", positive=True),
}

# The values of `fit`'s keywords that nobody gave.
DEFAULTS: dict[str, Any] = {
    "l1": 0.0,
    "l2": 1e-4,
    "learning_rate": None,
    "schedule": "constant",
    "batch_size": 256,
    "solver": "auto",
    "loss": "auto",
    "loss_epsilon": 0.1,
    "init_seed": None,
    "init_scale": 0.01,
    "momentum": 0.9,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": None,
    "rho": 0.99,
    "weight_decay": 0.01,
    "clip_norm": math.inf,
    "clip_value": math.inf,
    "average": 0,
    "power_t": 0.25,
    "decay": 0.9,
    "decay_epochs": 10.0,
    "warmup": 0.0,
    "plateau_factor": 0.2,
}

# Those that the optimiser takes by name, as numbers for each model.
HYPER = tuple(list(DEFAULTS)[list(DEFAULTS).index("momentum") :])


def keyword(name: str, value: object) -> Any:
    """The value of `fit`'s keyword of that name, checked: as for a candidate, and None or "auto" for a learning rate."""
    return _rate(value) if name == "learning_rate" else PARAMETERS[name](value)


class Candidates(Sequence[dict[str, Any]]):
    """A table with one row for each candidate and one column for each parameter that it sets.

    Parameters
    ----------
    rows : iterable of mappings
        Each maps parameter names to values: any of `PARAMETERS`, which are `l1`, `l2`, `learning_rate`, `schedule`,
        `batch_size`, `solver`, `loss`, `loss_epsilon`, `init_seed`, `init_scale` and the optimiser's own, with the
        meaning and the domain of `fit`'s keywords. All rows name the same parameters.

    Raises
    ------
    ValueError
        No row, an unknown parameter, rows that name different ones, or a value out of its domain.
    TypeError
        A value of the wrong type.

    Examples
    --------
    >>> import gradfold as gf
    >>> table = gf.grid(l2=[0.01, 0.1], learning_rate=[0.001, 0.01])
    >>> len(table), table[1]
    (4, {'l2': 0.01, 'learning_rate': 0.01})
    """

    #: Whether `sample` drew them, so that there is no grid with edges.
    drawn: bool = False

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        checked: list[dict[str, Any]] = []
        for row in rows:
            if not isinstance(row, Mapping):
                raise TypeError(
                    f"candidates: got {_check.describe(row)}, wanted a mapping from parameter names to values"
                )
            if checked and list(row) != list(checked[0]) and set(row) != set(checked[0]):
                raise ValueError(
                    f"candidates: got a row with {sorted(row)}, wanted {sorted(checked[0])} as in the first"
                )
            names = list(checked[0]) if checked else list(row)
            checked.append({name: _parameter(name)(row[name]) for name in names})
        if not checked:
            raise ValueError("candidates: got none, wanted at least one")
        self._rows = tuple(checked)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that every candidate sets."""
        return tuple(self._rows[0])

    def column(self, name: str) -> list[Any]:
        """The values of one parameter, one for each candidate."""
        return [row[_check.choice("name", name, self.names)] for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            part = Candidates(self._rows[index])
            part.drawn = self.drawn
            return part
        return dict(self._rows[index])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(row) for row in self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidates) and self._rows == other._rows

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        head = ", ".join(str(row) for row in self._rows[:3])
        return f"Candidates({len(self)}: {head}{', …' if len(self) > 3 else ''})"


def grid(**values: Iterable[Any]) -> Candidates:
    """The Cartesian product of lists of values.

    Parameters
    ----------
    **values : iterables
        `l1=`, `l2=`, `learning_rate=`, … (any parameter of `Candidates`): the values to combine. The last keyword
        varies fastest.

    Returns
    -------
    Candidates
        One row for each combination.

    Raises
    ------
    ValueError
        No keyword, an unknown one, an empty list, or a value out of its domain.
    TypeError
        A single number or string where a list was wanted, or a value of the wrong type.
    """
    if not values:
        raise ValueError(f"grid: got no parameter, wanted at least one of {', '.join(PARAMETERS)}")
    columns = []
    for name, column in values.items():
        _parameter(name)
        if isinstance(column, (str, bytes)) or not _check.iterable(column):
            raise TypeError(f"{name}: got {_check.describe(column)}, wanted a list of values")
        columns.append(list(column))
        if not columns[-1]:
            raise ValueError(f"{name}: got an empty list, wanted at least one value")
    return Candidates(dict(zip(values, point, strict=True)) for point in itertools.product(*columns))


def _parameter(name: object) -> Callable[[object], Any]:
    if not isinstance(name, str) or name not in PARAMETERS:
        raise ValueError(
            f"candidates: got the unknown parameter {name!r}, wanted {', '.join(PARAMETERS)}"
            f"{_check.near(str(name), PARAMETERS)}"
        )
    return PARAMETERS[name]
