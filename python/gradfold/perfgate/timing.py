"""Times of two builds in turn: a body of the one, a body of the other, and so on, so that both meet the same neighbours.

A benchmark is looked at briefly first. Where the look is suspicious it is measured: in several pairs of fresh processes,
since where a process's memory happens to lie can cost more than what is looked for. It counts as slower only if the
interval of the median ratio lies above the threshold, and an immediate second measurement, in fresh processes again, says so too.

For some seconds a neighbour, or a host that puts both processors on one core, can hide what threads lose by waiting for one
another: then they do not work together in base either. So time on the clock is suspicious where a part of the rounds says so,
and a measurement to which it is not clear goes on, to `PATIENCE` times its length.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gradfold.perfgate import counts
from gradfold.perfgate.config import Command, Side, Time
from gradfold.perfgate.results import Result, State, too_few
from gradfold.perfgate.runners import Failed, Program, Runner, Seconds, Skipped, Worker

STAGE = "time"
CONFIDENCE = 0.99
# Threads at work from which waiting for one another would show on the clock, and the clock is judged too.
PARALLEL = 1.3
# Of a body's least time: a processor's time below it is measured too coarsely, and the clock is judged alone.
SHORT = 0.25
PROCESSOR, WALL = "processor time", "time on the clock"
# Lengths of a measurement, at the most, and seconds after which none goes on.
PATIENCE, LONG = 4, 60.0

Pair = tuple[Runner, Runner]


@dataclass(frozen=True)
class Point:
    """A benchmark at one point of its parameters, and where it runs."""

    name: str
    benchmark: str
    index: tuple[int, int]  # of the point, in base and in head


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two of the values, between which the median of what they are drawn from lies with at least this confidence.

    By order statistics: the number of values below the median is binomial (B. C. Arnold, N. Balakrishnan, H. N. Nagaraja,
    "A First Course in Order Statistics", 7.1), whatever the distribution. Of too few values the whole range is given.
    """
    ordered, n = sorted(values), len(values)
    below, k = 0.0, 0
    while k < n // 2 and 2 * (below := below + math.comb(n, k) / 2**n) <= 1 - confidence:
        k += 1
    k = max(0, k - 1)
    return ordered[k], ordered[n - 1 - k]


@dataclass(frozen=True)
class Ratios:
    """head / base of every round, of the two clocks; base's threads, at the most, and its processor time in the middle round."""

    cpu: tuple[float, ...]
    wall: tuple[float, ...]
    threads: float
    cpu_seconds: float

    @staticmethod
    def of(rounds: Sequence[tuple[Seconds, Seconds]], threads: float = 0.0) -> Ratios:
        """`threads`: what is known of them already. A neighbour only ever lowers what is seen."""
        return Ratios(
            tuple(head.cpu / max(base.cpu, 1e-9) for base, head in rounds),
            tuple(head.wall / max(base.wall, 1e-9) for base, head in rounds),
            max(threads, *(base.cpu / max(base.wall, 1e-9) for base, _ in rounds)),
            statistics.median(base.cpu for base, _ in rounds),
        )

    def clocks(self, settings: Time) -> list[tuple[str, tuple[float, ...], float]]:
        """(name, ratios, threshold) of those that are judged."""
        out, waits = [], self.cpu_seconds < SHORT * settings.body
        if not waits:
            out.append((PROCESSOR, self.cpu, settings.threshold))
        if waits or self.threads > PARALLEL:
            out.append((WALL, self.wall, settings.wall_threshold))
        return out

    def suspicious(self, settings: Time) -> bool:
        """Whether it should be measured."""
        clocks = self.clocks(settings)
        return self.unclear(settings) or any(statistics.median(values) > 1 + threshold / 2 for _, values, threshold in clocks)

    def unclear(self, settings: Time) -> bool:
        """Whether more than a fourth of the rounds lies beyond the threshold of the wall clock, but the interval does not."""
        return any(
            sorted(values)[-1 - len(values) // 4] > 1 + threshold >= interval(values)[0]
            for name, values, threshold in self.clocks(settings)
            if name == WALL
        )

    def slower(self, settings: Time) -> set[str]:
        """The clocks that say so."""
        return {name for name, values, threshold in self.clocks(settings) if interval(values)[0] > 1 + threshold}


def run(settings: Time, base: Side, head: Side, root: Path, tell: Callable[[str], None]) -> list[Result]:
    """A result for each benchmark of the suite at each point of its parameters, and for each command."""
    out: list[Result] = []
    if settings.suite is not None:
        out += _suite(settings, base, head, root, tell)
    for command in settings.commands:
        out += _command(command, settings, base, head, root, tell)
    return out + too_few(STAGE, out, settings.minimum)


def _command(
    command: Command, settings: Time, base: Side, head: Side, root: Path, tell: Callable[[str], None]
) -> list[Result]:
    out = []
    of_base, of_head = (counts.cases_of(command, side, root, settings.timeout) for side in (base, head))
    for case in dict.fromkeys((*of_base, *of_head)):
        point = Point(f"{command.name}/{case}" if case else command.name, command.name, (0, 0))
        if case not in of_head:
            out.append(Result(STAGE, point.name, "did not run", "head has no such case"))
        elif case not in of_base:
            out.append(Result(STAGE, point.name, "new", "base has no such case"))
        else:
            pair = Program(command, case, base, root, settings.timeout), Program(command, case, head, root, settings.timeout)
            out.append(_result(point, settings, pair, lambda pair=pair: pair))  # type: ignore[misc]  # each body is a fresh process
        tell(f"{point.name}: {out[-1].what}")
    return out


def _suite(settings: Time, base: Side, head: Side, root: Path, tell: Callable[[str], None]) -> list[Result]:
    def pair() -> tuple[Worker, Worker]:
        first = Worker(settings, base, root)
        try:
            return first, Worker(settings, head, root)
        except BaseException:
            first.close()
            raise

    out = []
    with ExitStack() as opened:
        now = pair()
        for worker in now:
            opened.callback(worker.close)
        try:
            old, new = (worker.names(settings.modules) for worker in now)
        except Failed as error:
            return [Result(STAGE, "suite", "did not run", str(error))]
        for module in settings.modules:
            if old["files"][module] == new["files"][module]:
                return [Result(STAGE, "suite", "did not run", f"both sides import {module} from {old['files'][module]}")]
        if old["others"] or new["others"]:
            tell(f"{max(old['others'], new['others'])} benchmarks are not of time, and are left out")
        points, missing = points_of(old["benchmarks"], new["benchmarks"], settings.benchmarks)
        out += missing
        for at, point in enumerate(points):
            if not all(worker.alive for worker in now):  # the last benchmark took it along
                opened.close()
                now = pair()
                for worker in now:
                    opened.callback(worker.close)
            out.append(_result(point, settings, now, pair))
            tell(f"[{at + 1}/{len(points)}] {point.name}: {out[-1].what}")
    return out


def points_of(base: dict[str, list[str]], head: dict[str, list[str]], pattern: str) -> tuple[list[Point], list[Result]]:
    """What both have, and results for what only one has."""
    points, missing = [], []
    for name in sorted({**base, **head}):
        old, new = base.get(name, []), head.get(name, [])
        for text in dict.fromkeys((*old, *new)):
            whole = f"{name}({text})" if text else name
            if not re.search(pattern, whole):
                continue
            if text not in new:
                missing.append(Result(STAGE, whole, "did not run", "head has no such benchmark"))
            elif text not in old:
                missing.append(Result(STAGE, whole, "new", "base has no such benchmark"))
            else:
                points.append(Point(whole, name, (old.index(text), new.index(text))))
    return points, missing


def _result(point: Point, settings: Time, now: Pair, fresh: Callable[[], Pair]) -> Result:
    try:
        look = Ratios.of(_rounds(point, settings, now))
        if not look.suspicious(settings):
            return _said("same", point, look, settings, "")
        first = _measured(point, settings, fresh, look.threads)
        if not first.slower(settings):
            return _said("same", point, first, settings, ", not clear" if first.unclear(settings) else ", suspicious at first")
        second = _measured(point, settings, fresh, first.threads)
        if not first.slower(settings) & second.slower(settings):
            more = "not clear" if second.unclear(settings) else "not"
            return _said("same", point, second, settings, f", slower in a first measurement, {more} in a second one")
        return _said("slower", point, second, settings, ", in two measurements")
    except Skipped as why:
        return Result(STAGE, point.name, "skipped", str(why))
    except Failed as why:
        return Result(STAGE, point.name, "did not run", str(why))


def _measured(point: Point, settings: Time, fresh: Callable[[], Pair], threads: float) -> Ratios:
    rounds: list[tuple[Seconds, Seconds]] = []
    begin = time.monotonic()
    for _ in range(PATIENCE):
        for _ in range(settings.generations):
            pair = fresh()
            try:
                rounds += _rounds(point, settings, pair)
            finally:
                for runner in pair:
                    runner.close()
        found = Ratios.of(rounds, threads)
        if found.slower(settings) or not found.unclear(settings) or time.monotonic() - begin > LONG:
            break
    return found


def _rounds(point: Point, settings: Time, pair: Pair) -> list[tuple[Seconds, Seconds]]:
    """Pairs of (base, head); who goes first changes from round to round."""
    ready: list[Runner] = []
    try:
        skips = []
        for runner, index, side in zip(pair, point.index, ("base", "head"), strict=True):
            try:
                runner.set_up(point.benchmark, index)
                ready.append(runner)
            except Skipped as why:
                skips.append(f"{side}: {why}")
        if len(skips) == 1:
            raise Failed(f"only one side skips it, {skips[0]}")
        if skips:
            raise Skipped(skips[0].partition(": ")[2])
        number = max(runner.number(settings.body) for runner in pair)
        out = []
        for k in range(settings.rounds):
            first, second = pair if k % 2 == 0 else pair[::-1]
            a, b = (_best(runner, number, settings.repeats) for runner in (first, second))
            out.append((a, b) if k % 2 == 0 else (b, a))
    except BaseException:
        for runner in ready:
            try:
                runner.tear_down()
            except Failed:
                pass  # what went wrong first is told
        raise
    for runner in ready:
        runner.tear_down()
    return out


def _best(runner: Runner, number: int, repeats: int) -> Seconds:
    """Of each clock the least: a neighbour only ever adds to it."""
    found = [runner.run(number) for _ in range(repeats)]
    return Seconds(min(seconds.cpu for seconds in found), min(seconds.wall for seconds in found))


def _said(state: State, point: Point, ratios: Ratios, settings: Time, more: str) -> Result:
    parts, worst = [], 0.0
    for name, values, threshold in ratios.clocks(settings):
        low, high = interval(values)
        middle = statistics.median(values)
        parts.append(f"{name} x {middle:.3f} ({low:.3f} to {high:.3f})")
        worst = max(worst, middle)
        if state == "same" and high < 1 - threshold:
            state = "faster"
    return Result(STAGE, point.name, state, "; ".join(parts) + more, worst)
