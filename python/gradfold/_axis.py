"""Values of a hyper-parameter as text on a command line: `0.1`, `0.001,0.01`, `1e-6:1:20log`, `0:1:5lin`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

_RANGE = re.compile(r"([^:]+):([^:]+):([0-9]+)(log|lin)")


@dataclass(frozen=True)
class Axis:
    """What a candidate parameter takes.

    Attributes
    ----------
    name : str
        As in `gradfold.grid`.
    values : tuple
        At least one.
    code : str
        The values as Python, `np` being NumPy.
    """

    name: str
    values: tuple[Any, ...]
    code: str


def parse(name: str, text: str, kind: type = float) -> Axis:
    """Read values of type `kind` (float, int or str).

    Raises
    ------
    ValueError
        The text is neither a number, nor a list, nor a range; or a logarithmic range does not stay above 0.
    """
    option = "--" + name.replace("_", "-")
    wanted = f"wanted {'a name' if kind is str else 'a number'}, a list a,b,c" + (
        "" if kind is str else " or a range like 1e-6:1:20log or 0:1:5lin"
    )
    if kind is not str and ":" in text:
        match = _RANGE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{option}: got {text!r}, {wanted}")
        low, high = (_number(option, cell, float, text, wanted) for cell in match.group(1, 2))
        count, log = int(match.group(3)), match.group(4) == "log"
        if not 1 <= count <= 100_000:
            raise ValueError(f"{option}: got {count} values in {text!r}, wanted 1 to 100,000")
        if log and not (low > 0 and high > 0):
            raise ValueError(f"{option}: got {text!r}, wanted a logarithmic range from above 0")
        spaced = np.geomspace(low, high, count) if log else np.linspace(low, high, count)
        if kind is int:
            whole = tuple(dict.fromkeys(int(value) for value in np.rint(spaced)))
            return Axis(name, whole, repr(list(whole)))
        code = f"np.{'geomspace' if log else 'linspace'}({low!r}, {high!r}, {count})"
        return Axis(name, tuple(spaced.tolist()), code)
    values = tuple(_number(option, cell.strip(), kind, text, wanted) for cell in text.split(","))
    return Axis(name, values, repr(list(values)))


def _number(option: str, cell: str, kind: type, text: str, wanted: str) -> Any:
    try:
        if not cell:
            raise ValueError
        return kind(cell)
    except ValueError:
        raise ValueError(f"{option}: got {text!r}, {wanted}") from None
