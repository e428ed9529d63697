"""What a stage found of one benchmark, and what all of it comes to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["same", "faster", "slower", "new", "skipped", "did not run"]

SLOWER, DID_NOT_RUN = 1, 2  # bits of the exit code


@dataclass(frozen=True)
class Result:
    """Attributes
    ----------
    stage, name : str
    state : str
    what : str
        One line for a reader.
    ratio : float or None
        head / base: above 1 is more work, or slower.
    """

    stage: str
    name: str
    state: State
    what: str
    ratio: float | None = None


def exit_code(results: Iterable[Result]) -> int:
    """0: nothing is slower; 1: something is; 2: something did not run, so nobody knows; 3: both."""
    states = {result.state for result in results}
    return SLOWER * ("slower" in states) | DID_NOT_RUN * ("did not run" in states)


def judged(ratio: float, threshold: float) -> State:
    """By the ratio alone, of what does not vary from run to run."""
    return "slower" if ratio > 1 + threshold else "faster" if ratio < 1 - threshold else "same"


def too_few(stage: str, found: Sequence[Result], minimum: int) -> list[Result]:
    """A failure where less was compared than the configuration expects: a suite that shrank in silence guards nothing."""
    compared = sum(result.ratio is not None for result in found)
    if compared >= minimum:
        return []
    return [Result(stage, "minimum", "did not run", f"{compared} compared, at least {minimum} expected")]
