"""Proves that the performance gate measures: it must say nothing of a build against itself, and must see three slower ones.

    python scripts/prove_gate.py [--runs 20] [--builds build/proof] [--no-build] [--only KIND ...]
        [--report benchmarks/results/gate-proof.md]

Needs what docs/perfgate.md lists, and the extras `bench`. The builds are made with GRADFOLD_PLANT, an option of CMake that is there
for this alone: an instruction more in the inner loops, memory fetched too far ahead (as many instructions, a worse pattern of
memory), and a lock around what a thread of the pool does. Runs of the kinds are taken in turn, and each is a whole run of
`python -m gradfold.perfgate compare` with benchmarks/gate/proof.toml. After every turn the report is written anew, and beside it
a .json, from which a run of other kinds goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from gradfold.perfgate import report, results

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "benchmarks/gate/proof.toml"


@dataclass
class Kind:
    """One head that base is compared with."""

    name: str
    what: str
    plant: str | None  # None: base itself, in another folder
    stage: str | None  # the one that must see it
    codes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)  # how often each benchmark was called slower
    right: int = 0  # runs that said what they had to
    loads: list[float] = field(default_factory=list)  # of the machine when a run began: processes that want a core, its own too
    machine: str = "not recorded"


KINDS = [
    Kind("A/A", "the same build twice", None, None),
    Kind("instruction", "one instruction more in the inner loops of the gradient", "instruction", "counts"),
    Kind("stride", "memory fetched 1,024 blocks ahead instead of 4, by as many instructions", "stride", "time"),
    Kind("lock", "a lock around what each thread of the pool does", "lock", "time"),
]


def build(folder: Path) -> None:
    for plant in ("", *(kind.plant for kind in KINDS if kind.plant)):
        side = str(folder / (plant or "base"))
        subprocess.run([sys.executable, ROOT / "scripts/build_side.py", ROOT, side, f"-DGRADFOLD_PLANT={plant}"], check=True)
    shutil.rmtree(folder / "same", ignore_errors=True)
    shutil.copytree(folder / "base", folder / "same")


def run(kind: Kind, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary, "found.json")
        words = [
            sys.executable, "-m", "gradfold.perfgate", "compare", "--config", str(CONFIG), "--json", str(out),
            "--base", f"build={folder / 'base'}", "--head", f"build={folder / (kind.plant or 'same')}",
        ]  # fmt: skip
        kind.loads.append(os.getloadavg()[0])
        start = time.monotonic()
        done = subprocess.run(words, capture_output=True, text=True)
        kind.seconds.append(time.monotonic() - start)
        kind.codes.append(done.returncode)
        found = json.loads(out.read_text(encoding="utf-8"))["results"] if out.exists() else []
        slower = [result for result in found if result["state"] == "slower"]
        for result in slower:
            kind.seen[f"{result['stage']}: {result['name']}"] += 1
        if kind.plant is None:
            kind.right += done.returncode == 0
        else:
            kind.right += done.returncode == results.SLOWER and any(result["stage"] == kind.stage for result in slower)
        if done.returncode & results.DID_NOT_RUN:
            print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)


def processor() -> str:
    """What this machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    known = dict(line.partition(":")[::2] for line in lines if line.startswith(("model name", "cpu family")))
    found = {key.strip(): value.strip() for key, value in known.items()}
    return f"{found.get('model name', platform.machine())}, family {found.get('cpu family', '?')}"


def text() -> str:
    lines = [
        "# Does the gate measure?",
        "",
        "Written by `python scripts/prove_gate.py`; what each kind is, and that the runs are whole ones, stands there.",
        "",
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}.",
        "",
        "| head | what is different | must be seen by | runs | said what they had to | slower, in how many runs | seconds a run | load "
        "| machine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        seen = "<br>".join(f"`{name}` {n}" for name, n in kind.seen.most_common()) or "nothing"
        middle = f"{sorted(kind.seconds)[len(kind.seconds) // 2]:.0f}" if kind.seconds else "-"
        load = f"{min(kind.loads):.1f} to {max(kind.loads):.1f}" if kind.loads else "-"
        cells = (kind.name, kind.what, kind.stage or "nobody", len(kind.codes), kind.right, seen, middle, load, kind.machine)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    missing = sum(code & results.DID_NOT_RUN != 0 for kind in KINDS for code in kind.codes)
    lines += ["", f"Runs in which something did not run: {missing}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--builds", type=Path, default=ROOT / "build/proof")
    parser.add_argument("--only", nargs="+", choices=[kind.name for kind in KINDS])
    parser.add_argument("--no-build", action="store_true", help="the builds are there already")
    parser.add_argument("--report", type=Path, default=ROOT / "benchmarks/results/gate-proof.md")
    options = parser.parse_args()
    folder = options.builds.resolve()
    if not options.no_build:
        build(folder)
    state = options.report.with_suffix(".json")
    if state.exists():
        for kind, known in zip(KINDS, json.loads(state.read_text(encoding="utf-8")), strict=True):
            for name in ("codes", "seconds", "right", "loads", "machine"):
                setattr(kind, name, known[name])
            kind.seen.update(known["seen"])
    chosen = [kind for kind in KINDS if options.only is None or kind.name in options.only]
    for kind in chosen:
        kind.codes, kind.seconds, kind.right, kind.loads, kind.machine = [], [], 0, [], processor()
        kind.seen.clear()
    for turn in range(options.runs):
        for kind in chosen:
            run(kind, folder)
        report.write(options.report, text())
        report.write(state, json.dumps([{**vars(kind), "seen": dict(kind.seen)} for kind in KINDS], indent=1) + "\n")
        print(f"{turn + 1}/{options.runs}: " + ", ".join(f"{kind.name} {kind.right}" for kind in chosen), flush=True)
    sys.exit(any(kind.right != options.runs for kind in chosen))


if __name__ == "__main__":
    main()
