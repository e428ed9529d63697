"""The two builds: named on the command line, or made here of a source tree and of a revision of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gradfold.perfgate import processes
from gradfold.perfgate.config import Config, ConfigError, Side


def named(name: str, pairs: Sequence[str], root: Path) -> Side:
    """The side of ``NAME=VALUE`` pairs; ``python`` is this one unless it is told.

    A value that is a path here is made absolute: commands run in the project's folder, and benchmarks in one of their own.
    """
    values = {"python": sys.executable, "root": str(root)}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--{name}: got {pair!r}, wanted NAME=VALUE")
        values[key] = os.path.abspath(value) if value and os.path.exists(value) else value
    return Side(name, values)


def built(config: Config, revision: str, pairs: Sequence[str], folder: Path, tell: Callable[[str], None]) -> tuple[Side, Side]:
    """(base, head): the revision, checked out beside, and the tree as it is, each built by the configuration's commands.

    The checkout and the builds stay in `folder`, so that the next time only what changed is compiled.

    Raises
    ------
    ConfigError
        The revision is not there, or a command failed; the end of its output is in the message.
    """
    folder = folder.resolve()
    _refuse(config, pairs, "--revision")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = f"--revision {revision}"
    commit = _run(["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"], config.root, wanted).strip()
    top = Path(_run(["git", "rev-parse", "--show-toplevel"], config.root, wanted).strip())
    checkout = folder / "base-source"
    if (checkout / ".git").exists():  # files that are the same keep their times, and are not compiled again
        _run(["git", "checkout", "--quiet", "--detach", "--force", commit], checkout, wanted)
        _run(["git", "clean", "-fdxq"], checkout, wanted)
    else:
        shutil.rmtree(checkout, ignore_errors=True)
        _run(["git", "worktree", "add", "--quiet", "--detach", "--force", str(checkout), commit], config.root, wanted)
    tell(f"building base: {commit[:12]}")
    base = _made(config, "base", checkout / config.root.relative_to(top), folder, pairs)
    return base, of_tree(config, pairs, folder, tell)


def of_tree(config: Config, pairs: Sequence[str], folder: Path, tell: Callable[[str], None]) -> Side:
    """head: the tree as it is, built by the configuration's commands. Raises as `built`."""
    _refuse(config, pairs, "--build")
    tell("building head: the tree as it is")
    return _made(config, "head", config.root, folder.resolve(), pairs)


def _refuse(config: Config, pairs: Sequence[str], asked: str) -> None:
    if config.build is None:
        raise ConfigError(f"{asked}: the configuration has no [build] that says how a side is made")
    for pair in pairs:
        if pair.partition("=")[0] in ("source", "build", "root"):
            raise ConfigError(f"--head {pair}: cannot be given with {asked}, which says it itself")


def _made(config: Config, name: str, source: Path, folder: Path, pairs: Sequence[str]) -> Side:
    assert config.build is not None
    folder.mkdir(parents=True, exist_ok=True)
    side = named(name, [f"source={source}", f"build={folder / name}", *pairs], config.root)
    for words in config.build.commands:
        _run(side.fill(words), source, f"building {name}", config.build.timeout)
    return side


def _run(words: Sequence[str], folder: Path, what: str, timeout: float = 600) -> str:
    try:
        done = processes.run(words, timeout=timeout, cwd=folder)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{what}: no end after {timeout:g} s: {' '.join(words)}") from None
    except OSError as error:
        raise ConfigError(f"{what}: {error}") from None
    if done.returncode != 0:
        end = (done.stdout + done.stderr).strip()[-1500:]
        raise ConfigError(f"{what}: {' '.join(words)} ended with {done.returncode}\n{end}".rstrip())
    return done.stdout
