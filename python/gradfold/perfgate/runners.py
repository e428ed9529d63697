"""What is timed, as two kinds of things that run a body when they are asked: a benchmark in a worker, and a command."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import resource
import selectors
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gradfold.perfgate import processes
from gradfold.perfgate.config import Command, ConfigError, Side, Time

_MOST_PROGRAMS = 100  # started for one time


class Seconds(NamedTuple):
    """Of some bodies: of the processor, all threads together, and on the clock."""

    cpu: float
    wall: float


class Failed(Exception):
    """A side could not run it; the message begins with the side."""


def _failed(side: Side, why: str) -> Failed:
    return Failed(f"{side.name}: {why}")


class Skipped(Exception):
    """The suite does not want it here."""


class Runner(Protocol):
    """One process, or a line of them, of one side."""

    def set_up(self, name: str, index: int) -> None:
        """Raises Skipped, or Failed."""

    def number(self, seconds: float) -> int:
        """Bodies that take so long together."""

    def run(self, number: int) -> Seconds:
        """Of so many bodies."""

    def tear_down(self) -> None: ...

    def close(self) -> None: ...


class Worker:
    """A process with the suite, in the Python of a side."""

    def __init__(self, settings: Time, side: Side, root: Path) -> None:
        assert settings.suite is not None
        if not settings.suite.is_dir():
            raise ConfigError(f"[time] suite: there is no folder {settings.suite}")
        self.side, self._timeout = side, settings.timeout
        words = [*side.fill(settings.python), str(Path(__file__).with_name("_worker.py")), str(settings.suite), _runner_folder()]
        if os.path.dirname(words[0]) and not os.path.isabs(words[0]):
            words[0] = str(root / words[0])
        self._errors = tempfile.TemporaryFile()
        self._folder = tempfile.TemporaryDirectory()
        try:
            self._process = subprocess.Popen(
                words, cwd=self._folder.name, env=side.environment(settings.environment), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._errors.close()
            self._folder.cleanup()
            raise ConfigError(f"[time] python of {side.name}: {error}") from None
        self._rest = b""

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def names(self, modules: tuple[str, ...] = ()) -> dict[str, Any]:
        """benchmarks: of each its points of parameters; others: how many are of other kinds; files: where modules lie."""
        return dict(self._ask("names", modules=modules))

    def set_up(self, name: str, index: int) -> None:
        if self._ask("set_up", name=name, index=index) == "skipped":
            raise Skipped("its setup says so")

    def number(self, seconds: float) -> int:
        return int(self._ask("number", seconds=seconds))

    def run(self, number: int) -> Seconds:
        return Seconds(*self._ask("run", number=number))

    def tear_down(self) -> None:
        self._ask("tear_down")

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(2)
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            processes.end(self._process)
            self._process.stdout.close()
            self._errors.close()
            self._folder.cleanup()

    def _ask(self, what: str, **arguments: object) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise _failed(self.side, self._end()) from None
        try:
            answer = json.loads(self._line())
        except ValueError:
            processes.end(self._process)
            raise _failed(self.side, "its answer is none: something else wrote to the pipe") from None
        if "ok" in answer:
            return answer["ok"]
        raise _failed(self.side, answer["failed"][-300:])

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        end = time.monotonic() + self._timeout
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not ready.select(max(0.0, end - time.monotonic())):
                    processes.end(self._process)
                    raise _failed(self.side, f"no answer after {self._timeout:g} s")
                more = os.read(self._process.stdout.fileno(), 1 << 16)
                if not more:
                    raise _failed(self.side, self._end())
                self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _end(self) -> str:
        processes.end(self._process)
        self._errors.seek(0)
        return f"its process ended with {self._process.returncode}: {self._errors.read().decode(errors='replace').strip()[-300:]}"


def _runner_folder() -> str:
    """Where asv_runner lies."""
    found = importlib.util.find_spec("asv_runner")
    if found is None or found.origin is None:
        raise ConfigError("an asv suite needs asv_runner, which is not installed: pip install asv_runner")
    return str(Path(found.origin).parent.parent)


@dataclass
class Program:
    """A case of a command, on a side; each body is a process."""

    command: Command
    case: str
    side: Side
    root: Path
    timeout: float

    def set_up(self, name: str, index: int) -> None:
        self._words = self.side.fill(self.command.command, case=self.case)
        self._environment = self.side.environment(self.command.environment)

    def number(self, seconds: float) -> int:
        self.run(1)  # its files are in the cache now
        return min(_MOST_PROGRAMS, math.ceil(seconds / max(self.run(1).cpu, 1e-4)))

    def run(self, number: int) -> Seconds:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        for _ in range(number):
            try:
                done = processes.run(self._words, timeout=self.timeout, cwd=self.root, env=self._environment, stderr=subprocess.STDOUT)
            except subprocess.TimeoutExpired:
                raise _failed(self.side, f"no end after {self.timeout:g} s") from None
            except OSError as error:
                raise _failed(self.side, str(error)) from None
            if done.returncode != 0:
                raise _failed(self.side, f"ended with {done.returncode}: {done.stdout.strip()[-300:]}")
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        return Seconds(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)

    def tear_down(self) -> None:
        pass

    def close(self) -> None:
        pass
