"""Candidates: the points of a hyper-parameter grid, as a small table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gradfold import _check

SCHEDULES = ("constant", "cosine")


def _l1(value: object) -> float:
    return _check.real("l1", value)


def _l2(value: object) -> float:
    return _check.real("l2", value)


def _learning_rate(value: object) -> float:
    return _check.real("learning_rate", value, positive=True)


def _schedule(value: object) -> str:
    return _check.choice("schedule", value, SCHEDULES)


# What a candidate may set, and the check of one value of it. `fit` uses the same checks for its own keywords.
PARAMETERS: dict[str, Callable[[object], Any]] = {
    "l1": _l1,
    "l2": _l2,
    "learning_rate": _learning_rate,
    "schedule": _schedule,
}


class Candidates(Sequence[dict[str, Any]]):
    """A table with one row for each candidate and one column for each parameter that it sets.

    Parameters
    ----------
    rows : iterable of mappings
        Each maps parameter names to values: `l1`, `l2` (at least 0), `learning_rate` (above 0) and `schedule`
        ("constant" or "cosine"). All rows name the same parameters.

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
        `l1=`, `l2=`, `learning_rate=`, `schedule=`: the values to combine. The last keyword varies fastest.

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
