"""The counts that a project commits, so that its head can be held against them without building the past."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from gradfold.perfgate import counts, processes, report
from gradfold.perfgate.config import Config, ConfigError, Side, Words
from gradfold.perfgate.counts import Count
from gradfold.perfgate.loops import Loop

FORMAT = 1


@dataclass(frozen=True)
class Baseline:
    """What was counted, by which compilers, and why it was renewed."""

    reason: str
    toolchain: dict[str, str]
    counts: dict[str, Count | str] = field(default_factory=dict)
    loops: dict[str, Loop] = field(default_factory=dict)


def toolchain(commands: Sequence[Words], side: Side, root: Path) -> dict[str, str]:
    """The first line that each command prints: counts of different compilers cannot be compared."""
    out = {}
    for words in commands:
        filled = side.fill(words)
        try:
            done = processes.run(filled, timeout=60, cwd=root)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"toolchain: {error}") from None
        if done.returncode != 0 or not done.stdout.strip():
            raise ConfigError(f"toolchain: {' '.join(filled)} ended with {done.returncode} and said {done.stdout!r}, wanted 0 and a line")
        out[" ".join(words)] = done.stdout.strip().splitlines()[0]
    return out


def path_of(config: Config) -> Path:
    if config.baseline is None:
        raise ConfigError("the configuration names no baseline: a path under `baseline`")
    return config.baseline


def load(path: Path) -> Baseline:
    """Raises ConfigError where there is none, or none of this format."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ConfigError(f"{path}: format {values['format']!r}, wanted {FORMAT}; renew it")
        loops = {f"{function}#{k}": Loop(*loop) for function, own in values["loops"].items() for k, loop in enumerate(own)}
        return Baseline(values["reason"], values["toolchain"], counts.from_json(values["counts"]), loops)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: no baseline can be read from it: {error!r}") from None


def save(path: Path, baseline: Baseline) -> None:
    loops: dict[str, list[tuple[int, ...]]] = {}  # by function: names of templates are long
    for name, loop in sorted(baseline.loops.items()):
        loops.setdefault(name.rpartition("#")[0], []).append(astuple(loop))
    values = {
        "format": FORMAT,
        "reason": baseline.reason,
        "toolchain": baseline.toolchain,
        "counts": counts.to_json(baseline.counts),
        "loops": "LOOPS",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # A line for each function, so that a change shows as what it is.
    lines = ",\n".join(f"  {json.dumps(function)}: {json.dumps(own)}" for function, own in loops.items())
    before, _, after = json.dumps(values, indent=1).rpartition('"LOOPS"')
    report.write(path, before + "{\n" + lines + "\n }" + after + "\n")
