"""Random candidates: `sample`, and the distributions that it draws from.

Draw i of a parameter is a function of (seed, the parameter's name, i) and of its distribution alone, and has the same
bits on every machine: adding a parameter, or asking for more candidates, leaves the others' draws as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _core
from gradfold.candidates import Candidates, _parameter

_Float64 = npt.NDArray[np.float64]

_MOST = 2**31 - 1  # candidates; a parameter's counters then stay within 32 bits
_EXACT = 2**53  # integers up to here are floats


class Distribution:
    """What one parameter is drawn from: made by `uniform`, `log_uniform` or `choice`."""

    def _draw(self, u: _Float64) -> list[Any]:
        """Values from numbers that are uniform in [0, 1)."""
        raise NotImplementedError


class _Range(Distribution):
    """Between two numbers, evenly, or evenly in the logarithm."""

    def __init__(self, name: str, low: object, high: object, integer: object) -> None:
        self._name = name
        self._integer = _check.boolean("integer", integer)
        self._low, self._high = (self._number(side, value) for side, value in (("low", low), ("high", high)))
        if not self._low < self._high:
            raise ValueError(f"high: got {high!r} with low={low!r}, wanted a number above low")

    def _number(self, side: str, value: object) -> Any:
        positive = self._name == "log_uniform"
        if self._integer:
            return _check.integer(side, value, 1 if positive else 0, _EXACT)
        return _check.real(side, value, positive=positive)

    def __repr__(self) -> str:
        return f"{self._name}({self._low!r}, {self._high!r}{', integer=True' if self._integer else ''})"


class _Uniform(_Range):
    def _draw(self, u: _Float64) -> list[Any]:
        # On Python's own floats: a product and a sum, each rounded once, on every machine.
        width = self._high - self._low
        if self._integer:
            return [min(self._low + int(v * (width + 1)), self._high) for v in u.tolist()]
        return [min(self._low + v * width, self._high) for v in u.tolist()]


class _LogUniform(_Range):
    def _draw(self, u: _Float64) -> list[Any]:
        # An integer k stands for [k, k + 1).
        ends = np.array([self._low, self._high + 1 if self._integer else self._high], np.float64)
        first, last = _own("log", ends).tolist()
        values = _own("exp", np.array([first + v * (last - first) for v in u.tolist()])).tolist()
        if self._integer:
            values = [int(v) for v in values]
        return [min(max(v, self._low), self._high) for v in values]


class _Choice(Distribution):
    def __init__(self, values: object) -> None:
        if isinstance(values, (str, bytes)) or not _check.iterable(values):
            raise TypeError(f"values: got {_check.describe(values)}, wanted a list of values")
        self._values = list(values)  # type: ignore[call-overload]
        if not self._values:
            raise ValueError("values: got an empty list, wanted at least one value")

    def _draw(self, u: _Float64) -> list[Any]:
        return [self._values[min(int(v * len(self._values)), len(self._values) - 1)] for v in u.tolist()]

    def __repr__(self) -> str:
        return f"choice({self._values!r})"


def uniform(low: float, high: float, *, integer: bool = False) -> Distribution:
    """Every number between `low` and `high` alike, for `sample`.

    Parameters
    ----------
    low, high : float
        Finite, at least 0, `low` below `high`.
    integer : bool
        Draw integers, both ends included; `low` and `high` must be integers then.

    Returns
    -------
    Distribution

    Raises
    ------
    ValueError, TypeError
        A bad value or type.
    """
    return _Uniform("uniform", low, high, integer)


def log_uniform(low: float, high: float, *, integer: bool = False) -> Distribution:
    """Numbers between `low` and `high` whose logarithm is uniform, for `sample`: as many in each factor of ten.

    Parameters
    ----------
    low, high : float
        Finite, above 0, `low` below `high`.
    integer : bool
        Draw integers, both ends included, each k with a probability proportional to log((k + 1) / k); `low` and `high`
        must be integers then.

    Returns
    -------
    Distribution

    Raises
    ------
    ValueError, TypeError
        A bad value or type.
    """
    return _LogUniform("log_uniform", low, high, integer)


def choice(values: Iterable[Any]) -> Distribution:
    """One of a list of values, each alike, for `sample`.

    Parameters
    ----------
    values : list
        At least one, of any type that the parameter takes.

    Returns
    -------
    Distribution

    Raises
    ------
    ValueError
        An empty list.
    TypeError
        No list.
    """
    return _Choice(values)


def sample(n: int, *, seed: int = 0, **distributions: Any) -> Candidates:
    """n random candidates.

    Parameters
    ----------
    n : int
        At least 1. The first candidates of a larger sample are those of a smaller one.
    seed : int
        0 to 2^64 − 1. The same seed gives the same bits on every machine.
    **distributions : Distribution or list
        What each parameter is drawn from: `uniform`, `log_uniform` or `choice`, or a list, which means `choice`. A
        parameter's draws depend on its own name and distribution only. Nothing keeps two candidates from being equal.

    Returns
    -------
    Candidates
        `fit` does not warn about edges of drawn ones.

    Raises
    ------
    ValueError
        No parameter, an unknown one, or a value out of its domain.
    TypeError
        No distribution and no list, or a value of the wrong type.

    Notes
    -----
    Draw i of a parameter takes the words 2i (low half) and 2i + 1 of Philox4x32-10 [1]_ under key (low, high half of
    seed) and counters (block, stream, 0, 0), with stream = 2^31 + the last 31 bits of the first four bytes
    (little-endian) of SHA-256 of the name; u is the upper 53 of these 64 bits times 2^-53. Exponential and logarithm
    are the kernels' own.

    References
    ----------
    .. [1] J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> import gradfold as gf
    >>> table = gf.sample(50, seed=1, l2=gf.log_uniform(1e-6, 1.0), schedule=["constant", "cosine"])
    >>> len(table), table.names
    (50, ('l2', 'schedule'))
    """
    count = _check.integer("n", n, 1, _MOST)
    key = _check.seed(seed)
    if not distributions:
        raise ValueError("sample: got no parameter, wanted at least one, as in sample(50, l2=log_uniform(1e-6, 1.0))")
    columns = []
    for name, given in distributions.items():
        _parameter(name)
        if isinstance(given, Distribution):
            distribution = given
        elif isinstance(given, (list, tuple, range, np.ndarray)):
            distribution = _Choice(given)
        else:
            raise TypeError(
                f"{name}: got {_check.describe(given)}, wanted uniform, log_uniform or choice of gradfold, or a list"
            )
        columns.append(distribution._draw(_uniforms(count, key, name)))
    drawn = Candidates(dict(zip(distributions, row, strict=True)) for row in zip(*columns, strict=True))
    drawn.drawn = True
    return drawn


def _uniforms(n: int, seed: int, name: str) -> _Float64:
    """n numbers in [0, 1), multiples of 2^-53, of one parameter."""
    stream = 2**31 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") % 2**31
    blocks = (n + 1) // 2
    counters = np.zeros((blocks, 4), np.uint32)
    counters[:, 0] = np.arange(blocks)
    counters[:, 1] = stream
    keys = np.empty((blocks, 2), np.uint32)
    keys[:] = seed % 2**32, seed >> 32
    words = np.empty((blocks, 4), np.uint32)
    _core.index.philox(counters, keys, words)
    pairs = words.reshape(-1, 2).astype(np.uint64)[:n]
    return np.asarray(((pairs[:, 0] | pairs[:, 1] << np.uint64(32)) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _own(function: str, x: _Float64) -> _Float64:
    """exp or log of the kernels: the same bits everywhere, which libm's are not."""
    out = np.empty_like(x)
    _core.simd.apply(function, x, out)
    return out
