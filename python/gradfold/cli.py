"""The command `gradfold`: `info` and `demo`.

A mistake in a command is one line on standard error and exit code 2; Ctrl-C is exit code 130.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import gradfold
from gradfold import _check

# Optional packages that `info` lists, and what `demo` imports with the name to install.
_OPTIONAL = ("scipy", "scikit-learn", "pandas", "pyarrow", "matplotlib", "rich", "numba-cuda")
_DEMO_NEEDS = {"rich": "rich", "pandas": "pandas", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}


class _Parser(argparse.ArgumentParser):
    """argparse with one line for a mistake, instead of the usage and a line."""

    def error(self, message: str) -> NoReturn:
        _fail(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = _parser()
    if given and not given[0].startswith("-") and given[0] not in commands:
        known = ", ".join(commands)
        _fail(f"unknown command {given[0]!r}, wanted {known}{_check.near(given[0], commands)}")
    options = parser.parse_args(given)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return int(options.run(options))
    except (ValueError, OSError) as error:
        _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("gradfold: interrupted", file=sys.stderr)
        return 130


def _parser() -> tuple[_Parser, list[str]]:
    parser = _Parser(prog="gradfold", description="Train every cross-validation fold and every candidate at once.")
    parser.add_argument("--version", action="version", version=f"gradfold {gradfold.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)

    demo = commands.add_parser(
        "demo",
        help="cross-validate 20 candidates on three data sets, beside scikit-learn",
        description="Cross-validate 20 values of l2 over 5 folds on three data sets in one pass each, "
        "with scikit-learn on the same folds beside it. Writes a table (CSV), a validation curve (PNG) and the "
        "refitted best model of each.",
    )
    demo.add_argument(
        "--out", default="gradfold-demo", metavar="FOLDER", help="where to write (default: gradfold-demo)"
    )
    demo.add_argument("--quick", action="store_true", help="smaller data and fewer scikit-learn candidates, for a test")
    demo.set_defaults(run=_demo)

    info = commands.add_parser("info", help="print version, CPU levels, threads, device and optional packages")
    info.add_argument("--json", action="store_true", help="as one JSON object")
    info.set_defaults(run=_info)
    return parser, ["demo", "info"]


def _info(options: argparse.Namespace) -> int:
    facts = _facts()
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    levels = ", ".join(f"{name} (in use)" if name == facts["level"] else name for name in facts["levels"])
    packages = ", ".join(f"{name} {version or 'absent'}" for name, version in facts["packages"].items())
    lines = {
        "gradfold": facts["version"],
        "levels": levels + (f", forced by GRADFOLD_LEVEL={facts['forced']}" if facts["forced"] else ""),
        "threads": f"{facts['threads']} (of {facts['cpus']} processors)",
        "device": facts["device"],
        "python": f"{facts['python']}, numpy {facts['numpy']}, {facts['machine']}",
        "optional": packages,
    }
    for name, value in lines.items():
        print(f"{name:<10}{value}")
    return 0


def _facts() -> dict[str, Any]:
    from gradfold import _core

    return {
        "version": gradfold.__version__,
        "levels": _core.levels.supported(),
        "level": _core.levels.current(),
        "forced": os.environ.get("GRADFOLD_LEVEL") or None,
        "threads": _check.threads(None),
        "cpus": os.cpu_count(),
        "device": "cpu",
        "python": platform.python_version(),
        "numpy": importlib.metadata.version("numpy"),
        "machine": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _OPTIONAL},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _demo(options: argparse.Namespace) -> int:
    missing = [name for module, name in _DEMO_NEEDS.items() if importlib.util.find_spec(module) is None]
    if missing:
        _fail(f"demo needs {', '.join(missing)}: pip install 'gradfold[cli]'")
    if not options.out:
        _fail("argument --out: got '', wanted a folder (see gradfold demo --help)")
    from gradfold import _demo

    return _demo.main(options.out, quick=options.quick)


def _fail(message: str) -> NoReturn:
    print(f"gradfold: error: {message}", file=sys.stderr)
    raise SystemExit(2)
