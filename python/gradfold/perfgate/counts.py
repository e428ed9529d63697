"""Instructions and allocations of commands under Callgrind: the same figure on every run, however busy the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradfold.perfgate import processes
from gradfold.perfgate.config import Command, ConfigError, Counts, Side
from gradfold.perfgate.results import Result, State, judged, too_few

STAGE = "counts"
# What C++'s operator new calls in its turn, so that an allocation is counted once.
_ALLOCATES = re.compile(r"(?:__libc_)?(?:malloc|calloc|realloc|aligned_alloc|memalign|posix_memalign)(?:@.*|'\d+)?")
_NAME = re.compile(r"c?fn=\((\d+)\)(?: (.*))?")


@dataclass(frozen=True)
class Count:
    instructions: int
    allocations: int

    def __add__(self, other: Count) -> Count:
        return Count(self.instructions + other.instructions, self.allocations + other.allocations)


class DidNotRun(Exception):
    """A command failed, so nothing is known of it."""


def measure(counts: Counts, side: Side, root: Path, jobs: int | None = None) -> dict[str, Count | str]:
    """Counts of every case of every command on a side; a string says why one did not run.

    Raises
    ------
    ConfigError
        Valgrind is not installed, or a command is not there.
    """
    if shutil.which("valgrind") is None:
        raise ConfigError("valgrind is not installed, and the stage counts needs it (Debian, Ubuntu: apt install valgrind)")
    work = [(command, case) for command in counts.commands for case in cases_of(command, side, root, counts.timeout)]
    with ThreadPoolExecutor(jobs or cores()) as pool:
        begun = [pool.submit(_counted, command, case, side, root, counts.timeout) for command, case in work]
        try:
            found = [future.result() for future in begun]
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt waits for those that run, not for all
            raise
    return {f"{command.name}/{case}" if case else command.name: count for (command, case), count in zip(work, found, strict=True)}


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cases_of(command: Command, side: Side, root: Path, timeout: float) -> list[str]:
    """The cases of a command on a side; one without a name where it has none.

    Raises
    ------
    ConfigError
        `list_cases` fails, or says nothing.
    """
    if not command.lists:
        return list(command.cases) or [""]
    words, where = side.fill(command.cases), f"{command.name}: list_cases of {side.name}"
    try:
        done = processes.run(words, timeout=timeout, cwd=root, env=side.environment(command.environment))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{where}: {error}") from None
    cases = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not cases:
        raise ConfigError(f"{where} ended with {done.returncode} and {len(cases)} cases: {done.stderr[-300:]}")
    return cases


def _counted(command: Command, case: str, side: Side, root: Path, timeout: float) -> Count | str:
    with tempfile.TemporaryDirectory() as folder:
        words = ["valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={folder}/callgrind.out.%p"]
        if command.inside is not None:
            # Callgrind counts calls from the start of the program, but begins anew after a dump.
            options = ("toggle-collect", "dump-before", "dump-after")
            words += ["--collect-atstart=no", *(f"--{option}={command.inside}" for option in options)]
        words += side.fill(command.command, case=case)
        # Python's dictionaries of strings differ from run to run without it.
        environment = {"PYTHONHASHSEED": "0", **side.environment(command.environment)}
        try:
            done = processes.run(words, timeout=timeout, cwd=root, env=environment)
        except subprocess.TimeoutExpired:
            return f"no end after {timeout:g} s"
        except OSError as error:
            return str(error)
        if done.returncode != 0:
            return f"ended with {done.returncode}: {done.stderr.strip()[-300:]}"
        try:
            found = Count(0, 0)
            for part in sorted(Path(folder).iterdir()):
                with part.open(encoding="utf-8", errors="replace") as lines:
                    found += parse(lines)
        except (OSError, DidNotRun) as error:
            return str(error)
    if found.instructions == 0:
        return "no instruction was counted" + (f": is {command.inside!r} a function that it calls?" if command.inside else "")
    return found


def parse(lines: Iterator[str]) -> Count:
    """The counts in a file of Callgrind's (its format: valgrind.org/docs/manual/cl-format.html).

    Raises
    ------
    DidNotRun
        It holds no sum, as that of a program that was killed.
    """
    names: dict[str, str] = {}
    callee, instructions, allocations = "", -1, 0
    for line in lines:
        if line.startswith(("fn=", "cfn=")):
            match = _NAME.match(line.rstrip("\n"))
            if match is None:
                continue
            number, name = match.groups()
            if name is not None:
                names[number] = name
            if line.startswith("cfn="):
                callee = names.get(number, "")
        elif line.startswith("calls="):
            if _ALLOCATES.fullmatch(callee):
                allocations += int(line[len("calls=") :].split()[0])
        elif line.startswith(("summary:", "totals:")):
            instructions = max(instructions, int(line.split()[1]))
    if instructions < 0:
        raise DidNotRun("Callgrind's file holds no sum")
    return Count(instructions, allocations)


def compare(base: Mapping[str, Count | str], head: Mapping[str, Count | str], threshold: float, minimum: int) -> list[Result]:
    """A result for each case; one that only base has did not run."""
    out = []
    for name in sorted({**base, **head}):
        old, new = base.get(name), head.get(name)
        if old is None and isinstance(new, Count):
            out.append(Result(STAGE, name, "new", f"{new.instructions:,} instructions, {new.allocations:,} allocations"))
        elif isinstance(old, Count) and isinstance(new, Count):
            out.append(_compared(name, old, new, threshold))
        else:
            why = "head has no such case" if new is None else f"head: {new}" if isinstance(new, str) else f"base: {old}"
            out.append(Result(STAGE, name, "did not run", why))
    return out + too_few(STAGE, out, minimum)


def _compared(name: str, old: Count, new: Count, threshold: float) -> Result:
    ratio = new.instructions / old.instructions
    state: State = judged(ratio, threshold)
    what = f"{old.instructions:,} -> {new.instructions:,} instructions ({ratio - 1:+.1%})"
    if new.allocations != old.allocations:
        what += f", {old.allocations:,} -> {new.allocations:,} allocations"
        if new.allocations > old.allocations * (1 + threshold):
            state = "slower"
    return Result(STAGE, name, state, what, ratio)


def to_json(found: Mapping[str, Count | str]) -> dict[str, Any]:
    """Of a baseline, for which everything must have run."""
    for name, count in found.items():
        if isinstance(count, str):
            raise DidNotRun(f"{name}: {count}")
    return {name: asdict(count) for name, count in sorted(found.items()) if isinstance(count, Count)}


def from_json(values: Mapping[str, Mapping[str, int]]) -> dict[str, Count | str]:
    return {name: Count(int(value["instructions"]), int(value["allocations"])) for name, value in values.items()}
