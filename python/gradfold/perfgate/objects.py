"""The stage that reads inner loops out of object files, for code that Callgrind cannot run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from gradfold.perfgate import loops
from gradfold.perfgate.config import ConfigError, Loops, Side
from gradfold.perfgate.loops import Difference, Loop
from gradfold.perfgate.results import Result, too_few

STAGE = "loops"


def measure(settings: Loops, side: Side, root: Path) -> dict[str, Loop]:
    """The loops with FMAs of a side's objects.

    Raises
    ------
    ConfigError
        There are none, they are not of x86-64, or objdump is not installed.
    """
    try:
        return loops.loops_of([root / pattern for pattern in side.fill(settings.objects)])
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"[loops] of {side.name}: {error}") from None


def compare(settings: Loops, base: Mapping[str, Loop], head: Mapping[str, Loop]) -> list[Result]:
    """A result for each function that holds such loops."""
    worse: dict[str, list[Difference]] = defaultdict(list)
    for difference in loops.compare(base, head, settings.threshold):
        worse[difference.function].append(difference)
    out = []
    for function, count in sorted(Counter(key.rpartition("#")[0] for key in {**base, **head}).items()):
        found = worse.get(function, [])
        what = "; ".join(str(difference).removeprefix(f"{function}: ") for difference in found)
        if any(difference.regression for difference in found):
            ratios = [d.head / d.base for d in found if d.base > 0]
            out.append(Result(STAGE, function, "slower", what, max(ratios, default=1.0)))
        elif found:  # where a function's loops have gone nobody knows, so it cannot be compared
            out.append(Result(STAGE, function, "new" if found[0].what == "appeared" else "did not run", what))
        else:
            out.append(Result(STAGE, function, "same", f"{count} loops", 1.0))
    return out + too_few(STAGE, out, settings.minimum)
