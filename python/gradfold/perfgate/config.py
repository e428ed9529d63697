"""What is measured: the file ``perfgate.toml`` of a project, read and checked."""

from __future__ import annotations

import math
import os
import re
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

Words = tuple[str, ...]


class ConfigError(ValueError):
    """The file or the command line asks for what cannot be done; nothing was measured."""


@dataclass(frozen=True)
class Side:
    """One of the two builds that are compared.

    Attributes
    ----------
    name : str
        "base" or "head".
    values : mapping
        What ``{name}`` in a command of the configuration stands for on this side.
    """

    name: str
    values: Mapping[str, str]

    def fill(self, words: Words, **more: str) -> list[str]:
        """The words with their placeholders filled in."""
        values = {**self.values, **more}
        return [self._filled(word, values) for word in words]

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """This process's, with those variables."""
        return {**os.environ, **{name: self._filled(value, dict(self.values)) for name, value in own.items()}}

    def _filled(self, word: str, values: Mapping[str, str]) -> str:
        try:
            parts = [part for part in string.Formatter().parse(word) if part[1] is not None]
        except ValueError as error:
            raise ConfigError(f"{word!r}: {error}; a brace that is meant is written twice") from None
        wanted = [str(name) for _, name, _, _ in parts]
        if any(form or conversion for _, _, form, conversion in parts):
            raise ConfigError(f"{word!r}: wanted a name alone between braces; a brace that is meant is written twice")
        for name in wanted:
            if name not in values:
                raise ConfigError(f"{word!r}: nothing is known of {{{name}}} of {self.name}, wanted --{self.name} {name}=VALUE")
        return word.format_map(values)


@dataclass(frozen=True)
class Command:
    """A program to measure.

    Attributes
    ----------
    name : str
        Of its results; those of a case are called ``name/case``.
    command : tuple of str
        ``{case}`` stands for the case.
    cases : tuple of str
        Cases, or with `lists` a command that prints one a line.
    lists : bool
    inside : str or None
        Count only while this function runs: one that runs once, or a few times.
    environment : mapping
    """

    name: str
    command: Words
    cases: Words = ()
    lists: bool = False
    inside: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    commands: tuple[Command, ...]
    threshold: float = 0.03
    minimum: int = 1
    timeout: float = 300.0


@dataclass(frozen=True)
class Loops:
    objects: Words
    threshold: float = 0.03
    minimum: int = 1


@dataclass(frozen=True)
class Time:
    """How two builds are timed.

    Attributes
    ----------
    suite : Path or None
        The folder of an asv suite; `benchmarks` is a regular expression of which of it, `python` runs it.
    modules : tuple of str
        Modules that the sides must import from different files.
    threshold, wall_threshold : float
        By which the processor's time, and the clock's, may grow. The latter counts where several threads work.
    body : float
        Seconds that are timed at once, at least.
    rounds, repeats, generations : int
        A measurement is `generations` pairs of fresh processes, `rounds` pairs of times each, a time the best of `repeats`; where it
        is not clear what it says of time on the clock it goes on, to four times that, but nothing more begins after a minute.
    timeout : float
        Seconds until a benchmark must have answered.
    """

    suite: Path | None = None
    benchmarks: str = ""
    modules: Words = ()
    commands: tuple[Command, ...] = ()
    python: Words = ("{python}",)
    environment: Mapping[str, str] = field(default_factory=dict)
    threshold: float = 0.05
    wall_threshold: float = 0.2
    body: float = 0.02
    rounds: int = 5
    repeats: int = 3
    generations: int = 3
    minimum: int = 1
    timeout: float = 300.0


@dataclass(frozen=True)
class Build:
    """How a side is made of a source tree: ``{source}`` and ``{build}`` stand for the two folders, ``{root}`` for the project's."""

    commands: tuple[Words, ...]
    timeout: float = 3600.0


@dataclass(frozen=True)
class Config:
    root: Path
    baseline: Path | None = None
    toolchain: tuple[Words, ...] = ()
    build: Build | None = None
    counts: Counts | None = None
    loops: Loops | None = None
    time: Time | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(name for name in ("counts", "loops", "time") if getattr(self, name) is not None)


def told_apart(config: Config, base: Side, head: Side, stages: Sequence[str]) -> None:
    """Raises ConfigError where a stage would do the same on both sides, and find nothing."""
    for name in stages:
        stage = getattr(config, name)
        commands = getattr(stage, "commands", ())
        tried: list[tuple[str, Words, Mapping[str, str]]] = [(command.name, command.command, command.environment) for command in commands]
        if isinstance(stage, Loops):
            tried.append(("objects", stage.objects, {}))
        if isinstance(stage, Time) and stage.suite is not None:
            tried.append(("suite", stage.python, stage.environment))
        for what, words, environment in tried:
            told = [(side.fill(words, case=""), side.environment(environment)) for side in (base, head)]
            if told[0] == told[1]:
                raise ConfigError(f"[{name}] {what}: is the same on both sides; wanted a --base and a --head that differ in what it uses")


def read(path: Path) -> Config:
    """The configuration in a file; paths in it are relative to its folder.

    Raises
    ------
    ConfigError
        It is not there, is no TOML, or says what is not known.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    tables = _Table(_parsed(text, path), str(path))
    root = path.resolve().parent
    baseline = tables.take("baseline", str, None)
    config = Config(
        root,
        None if baseline is None else root / baseline,
        tuple(_words(tables, "toolchain", several=True)),
        _build(tables.table("build")),
        _counts(tables.table("counts")),
        _loops(tables.table("loops")),
        _time(tables.table("time"), root),
    )
    tables.done()
    if not config.stages:
        raise ConfigError(f"{path}: got none of [counts], [loops], [time], wanted at least one")
    return config


def _parsed(text: str, path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError:
            raise ConfigError("reading TOML before Python 3.11 needs tomli: pip install tomli") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: no TOML: {error}") from None


class _Table:
    """A table of the file, of which everything must be asked for."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where, self.known = dict(values), where, list[str]()

    def take(self, name: str, kind: type | tuple[type, ...], default: Any) -> Any:
        self.known.append(name)
        value = self.values.pop(name, default)
        # bool is a number to Python, and to nobody who writes a configuration.
        if value is not default and (not isinstance(value, kind) or isinstance(value, bool)):
            self.wrong(name, value, " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,))))
        return value

    def number(self, name: str, default: float, least: float, *, above: bool = False) -> float:
        value = self.take(name, (int, float), default)
        if not (math.isfinite(value) and (value > least if above else value >= least)):
            self.wrong(name, value, f"a number {'above' if above else 'of at least'} {least:g}")
        return float(value)

    def whole(self, name: str, default: int, least: int) -> int:
        value = self.take(name, int, default)
        if value < least:
            self.wrong(name, value, f"a whole number of at least {least}")
        return int(value)

    def table(self, name: str) -> _Table | None:
        values = self.take(name, dict, None)
        return None if values is None else _Table(values, f"{self.where}: [{name}]")

    def strings(self, name: str) -> dict[str, str]:
        values = self.take(name, dict, {})
        if not all(isinstance(value, str) for value in values.values()):
            self.wrong(name, values, "a table of strings")
        return dict(values)

    def wrong(self, name: str, value: object, wanted: str) -> NoReturn:
        raise ConfigError(f"{self.where}: {name}: got {value!r}, wanted {wanted}")

    def done(self) -> None:
        for name in self.values:
            raise ConfigError(f"{self.where}: unknown name {name!r}, wanted one of {', '.join(self.known)}")


def _words(table: _Table, name: str, *, several: bool = False) -> list[Any]:
    """A list of strings, or of lists of strings."""
    value = table.take(name, list, [])
    for entry in value if several else [value]:
        if not isinstance(entry, list) or not all(isinstance(word, str) for word in entry) or (several and not entry):
            table.wrong(name, value, "a list of lists of strings" if several else "a list of strings")
    return [tuple(entry) for entry in value] if several else list(value)


def _commands(table: _Table, *, counted: bool) -> tuple[Command, ...]:
    out, value = [], table.take("commands", list, [])
    for values in value:
        if not isinstance(values, dict):
            table.wrong("commands", value, f"tables, {table.where}.commands each")
        own = _Table(values, f"{table.where}.commands")
        name = own.take("name", str, "")
        command, cases, list_cases = (tuple(_words(own, key)) for key in ("command", "cases", "list_cases"))
        if not name or not command:
            own.wrong("name" if not name else "command", values.get("name" if not name else "command"), "one that is not empty")
        if cases and list_cases:
            own.wrong("cases", cases, "either cases or list_cases")
        inside = own.take("inside", str, None) if counted else None
        out.append(Command(name, command, cases or list_cases, bool(list_cases), inside, own.strings("environment")))
        own.done()
    names = [command.name for command in out]
    if len(set(names)) < len(names):
        table.wrong("commands", names, "names that differ")
    return tuple(out)


def _build(table: _Table | None) -> Build | None:
    if table is None:
        return None
    out = Build(tuple(_words(table, "commands", several=True)), table.number("timeout", 3600.0, 0, above=True))
    table.done()
    return out


def _counts(table: _Table | None) -> Counts | None:
    if table is None:
        return None
    out = Counts(
        _commands(table, counted=True),
        table.number("threshold", 0.03, 0),
        table.whole("minimum", 1, 1),
        table.number("timeout", 300.0, 0, above=True),
    )
    if not out.commands:
        table.wrong("commands", [], "at least one")
    table.done()
    return out


def _loops(table: _Table | None) -> Loops | None:
    if table is None:
        return None
    out = Loops(tuple(_words(table, "objects")), table.number("threshold", 0.03, 0), table.whole("minimum", 1, 1))
    if not out.objects:
        table.wrong("objects", [], "at least one pattern of paths")
    table.done()
    return out


def _time(table: _Table | None, root: Path) -> Time | None:
    if table is None:
        return None
    suite = table.take("suite", str, None)
    pattern = table.take("benchmarks", str, "")
    try:
        re.compile(pattern)
    except re.error as error:
        table.wrong("benchmarks", pattern, f"a regular expression: {error}")
    out = Time(
        None if suite is None else root / suite,
        pattern,
        tuple(_words(table, "modules")),
        _commands(table, counted=False),
        tuple(_words(table, "python")) or ("{python}",),
        table.strings("environment"),
        table.number("threshold", 0.05, 0, above=True),
        table.number("wall_threshold", 0.2, 0, above=True),
        table.number("body", 0.02, 0.001),
        table.whole("rounds", 5, 3),
        table.whole("repeats", 3, 1),
        table.whole("generations", 3, 2),
        table.whole("minimum", 1, 1),
        table.number("timeout", 300.0, 0, above=True),
    )
    if out.suite is None and not out.commands:
        table.wrong("suite", None, "a suite, or commands")
    table.done()
    return out
