"""The two builds: named on the command line, or made here of a source tree and of a revision of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gradfold.perfgate.config import Build, Config, ConfigError, Side


def named(name: str, pairs: Sequence[str], root: Path) -> Side:
    """The side of ``NAME=VALUE`` pairs; ``python`` is this one unless it is told."""
    values = {"python": sys.executable, "root": str(root)}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--{name}: got {pair!r}, wanted NAME=VALUE")
        values[key] = value
    return Side(name, values)


@contextmanager
def built(config: Config, revision: str, pairs: Sequence[str], folder: Path, tell: Callable[[str], None]) -> Iterator[tuple[Side, Side]]:
    """(base, head): the revision, checked out beside, and the tree as it is, each built by the configuration's commands.

    Builds stay in `folder`, so that the next time only what changed is compiled.

    Raises
    ------
    ConfigError
        The revision is not there, or a command failed; the end of its output is in the message.
    """
    if config.build is None:
        raise ConfigError("--revision: the configuration has no [build] that says how a side is made")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    commit = _run(["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"], config.root, f"--revision {revision}").strip()
    source = folder / "base-source"
    _remove(source, config.root)
    _run(["git", "worktree", "add", "--detach", "--force", str(source), commit], config.root, f"--revision {revision}")
    try:
        sides = []
        for name, tree in (("base", source), ("head", config.root)):
            tell(f"building {name}: {commit[:12] if name == 'base' else 'the tree as it is'}")
            own = [f"source={tree}", f"build={folder / name}", *pairs]
            sides.append(_made(config.build, named(name, own, config.root)))
        yield sides[0], sides[1]
    finally:
        _remove(source, config.root)


def _made(build: Build, side: Side) -> Side:
    for words in build.commands:
        _run(side.fill(words), Path(side.values["source"]), f"building {side.name}", build.timeout)
    return side


def _remove(source: Path, root: Path) -> None:
    if source.exists():
        subprocess.run(["git", "worktree", "remove", "--force", str(source)], cwd=root, capture_output=True)
        shutil.rmtree(source, ignore_errors=True)
    subprocess.run(["git", "worktree", "prune"], cwd=root, capture_output=True)


def _run(words: Sequence[str], folder: Path, what: str, timeout: float | None = None) -> str:
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace", timeout=timeout)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{what}: no end after {timeout:g} s: {' '.join(words)}") from None
    except OSError as error:
        raise ConfigError(f"{what}: {error}") from None
    if done.returncode != 0:
        end = (done.stdout + done.stderr).strip()[-1500:]
        raise ConfigError(f"{what}: {' '.join(words)} ended with {done.returncode}\n{end}".rstrip())
    return done.stdout
