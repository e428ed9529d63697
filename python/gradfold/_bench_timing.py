"""How benchmarks take times: on machines that other work disturbs, and beside peers whose threads spin."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Body = Callable[[], Any]

# The threads of OpenBLAS and OpenMP wait for more work on every core for a while, and would halve whatever runs next.
PAUSE = 0.3
# After a pause a virtual machine's second processor took 30 ms to be as fast as before it (NOTES); seconds of one side that are not timed.
_WARM = 0.05
_SHORT = 0.03  # seconds of one side in a round, if it is shorter


def seconds(body: Body) -> float:
    """Of one call."""
    start = time.perf_counter()
    body()
    return time.perf_counter() - start


def median_seconds(body: Body, repeats: int = 5) -> float:
    return float(statistics.median(seconds(body) for _ in range(repeats)))


def ratio(theirs: Body, ours: Body, repeats: int) -> float:
    """Median of theirs / ours, measured in turn."""
    return beside(ours, [theirs], repeats, pause=PAUSE).ratios[0]


class Beside(NamedTuple):
    """What `beside` measured.

    Attributes
    ----------
    seconds : float
        Of our side, a median.
    ratios : list of float
        Of each peer: the median of its time over ours of the same round.
    """

    seconds: float
    ratios: list[float]


def beside(ours: Body, peers: Sequence[Body], rounds: int, pause: float = PAUSE, most: float = float("inf")) -> Beside:
    """Our time, and the times of peers over it, measured in turn, each side after a twentieth of a second that is not timed.

    Parameters
    ----------
    ours, peers
        Each returns when its work is done.
    rounds : int
    pause : float
        Seconds after each peer, for its threads to go to sleep; ours do not spin.
    most : float
        Seconds after which no round begins, but the first.
    """
    end = time.perf_counter() + most
    own: list[float] = []
    ratios: list[list[float]] = [[] for _ in peers]
    for at in range(rounds):
        if at and time.perf_counter() > end:
            break
        times = []
        for side, body in enumerate((*peers, ours)):
            if side:
                time.sleep(pause)
            warm = seconds(body)  # the caches, threads and processors of this side
            while warm < _WARM:
                warm += seconds(body)
            took = [seconds(body)]
            while sum(took) < _SHORT and len(took) < 5:
                took.append(seconds(body))
            times.append(statistics.median(took))
        own.append(times[-1])
        for found, theirs in zip(ratios, times):
            found.append(theirs / times[-1])
    return Beside(statistics.median(own), [statistics.median(found) for found in ratios])
