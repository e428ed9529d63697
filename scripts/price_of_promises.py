"""What the promises cost: the dense kernels beside the same kernels freed of them.

    PYTHONPATH=python python scripts/price_of_promises.py [--rounds 21] [--own-maths] [--only TEXT] [--report FILE]

Builds two sides, the second with GRADFOLD_FREE, an option of CMake that is there for this alone. What it frees stands in the report.
Each side runs in a process of its own, on one thread; the two take turns, and their order changes from round to round. The price is the
least CPU seconds of one over those of the other, beside the 95 % interval of the median of promised / freed of a round, by the order of
the rounds, which assumes nothing of their distribution but that rounds are independent. Instructions are counted by Callgrind where it is
installed. Whatever is timed is compared first: a freed kernel that is wrong proves nothing. Needs a C++ compiler, CMake, Ninja and
pybind11, and an environment without an editable install of gradfold.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradfold.perfgate import config, counts, report

ROOT = Path(__file__).resolve().parent.parent
SIDES = {"promised": "OFF", "freed": "ON"}
VALUES = 2_000_000  # of X
TOLERANCE = 1e-4  # of the freed results: of the loss, relative; of a model's gradient, of its norm
TARGET = 1.3
TURN = 0.015  # CPU seconds of a side in a round, at least

FREED = """\
Freed of the promises: gradient totals in the data's type, losses and intercepts too for the rows of a block, in whatever order is fastest
(for few models several accumulators, and sums over lanes in place of transposes); {maths} no finite check, and no
select in the gradient; FTZ and DAZ on; and the objects of these kernels built with
`-ffp-contract=fast -fassociative-math -freciprocal-math -fno-signed-zeros -ffinite-math-only`.

Not freed: the blocking, which the promises leave free anyway; the feature chunks of 256;
the mask by which a held-out row gets the residual 0, since no fold would be held out without; the test for divergence, which is no
promise; the step's float64 scalars; in float64, the maths functions; sgd's step, in which nothing is slower for a promise. A library
with another algorithm, or with BLAS, is not what is measured here: the benchmarks have those beside ours. So the price is that of
these kernels, and a lower bound of what somebody who gave up everything could gain.

Raw predictions of ±30 are there for subnormal numbers: where |z| is large, e^-|z|, its square and the residual fall below the smallest
normal number, and an operation on one takes the processor many times as long, where it is not flushed to 0. Callgrind does not see that."""
FREE_MATHS = """\
log loss in float32 with an exp and a log1p good to 4e-6 and an estimated reciprocal with one step of Newton
in place of a division, adam's root and quotient by such estimates too;"""
OWN_MATHS = "the maths functions as they are (`--own-maths`), so that what is left is the price of order, totals and checks;"


@dataclass(frozen=True)
class Case:
    n_models: int
    n_features: int
    loss: bool = True
    folds: bool = True
    dtype: str = "float32"
    solver: str | None = None  # None: a gradient; else an epoch of the grid, with its held-out losses
    spread: int = 1  # standard deviation of the raw predictions of a gradient

    @property
    def name(self) -> str:
        if self.solver is not None:
            return f"epoch of {self.solver}, batches of 256"
        more = ("" if self.folds else ", no folds") + (f", raw predictions of ±{self.spread}" if self.spread > 1 else "")
        return "gradient" + (" and loss" if self.loss else "") + more


def cases() -> Iterator[Case]:
    for n_models in (1, 16, 96, 100):
        for n_features in (30, 100, 1000):
            for loss in (False, True):
                yield Case(n_models, n_features, loss)
    for n_models in (1, 100):
        yield Case(n_models, 100, folds=False)
    yield Case(100, 100, dtype="float64")
    yield Case(100, 100, spread=30)  # a residual below the smallest normal number is slow to multiply by, where it is not flushed to 0
    for solver in ("sgd", "adam"):
        yield Case(100, 100, solver=solver)


def body(case: Case) -> tuple[Callable[[], Any], Callable[[], dict[str, Any]]]:
    """What is timed, and what has come out of it."""
    from gradfold import _bench_problems as problems
    from gradfold import _core, gradient

    if case.solver is not None:
        grid = problems.Grid(VALUES // case.n_features, case.n_features, case.n_models // problems.N_SPLITS)
        trainer = grid.trainer(_core.train.Trainer, case.solver, 1_000_000, 1)
        epoch = trainer.steps_per_epoch
        return lambda: trainer.advance(max_steps=epoch), lambda: {"loss": np.asarray(trainer.history()[-1])}
    rows = problems.Rows(VALUES // case.n_features, case.n_features, case.dtype)
    dense = problems.Dense(rows, case.n_models)
    dense.W *= case.spread
    folds = rows.folds if case.folds else None
    out = (dense.loss if case.loss else None, dense.grad, dense.grad_intercept)

    def run() -> None:
        gradient.loss_gradient(
            dense.X, dense.y, dense.W, dense.intercept, loss="log_loss", folds=folds, return_loss=case.loss, n_threads=1, out=out
        )

    def results() -> dict[str, Any]:
        found = {"gradient": np.vstack([dense.grad, dense.grad_intercept])}
        return found | ({"loss": dense.loss} if case.loss else {})

    return run, results


def worker() -> None:
    """Answers one line by one: a case and a file for its results, or null for one turn."""
    from gradfold import _core

    if Path(os.environ["PYTHONPATH"]).resolve() not in Path(_core.__file__).resolve().parents:
        sys.exit(f"gradfold comes from {_core.__file__}: an editable install stands before PYTHONPATH. Run this where there is none.")
    run: Callable[[], Any] = lambda: None  # noqa: E731
    calls = 1

    def turn() -> float:
        start = time.process_time()
        for _ in range(calls):
            run()
        return (time.process_time() - start) / calls

    for line in sys.stdin:
        asked = json.loads(line)
        if asked is not None:
            run, results = body(Case(**asked["case"]))
            run()
            np.savez(asked["file"], **results())
            calls = 1
            calls = max(1, math.ceil(TURN / min(turn() for _ in range(3))))
        print(json.dumps(turn()), flush=True)


class Worker:
    def __init__(self, side: Path, level: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(side / "site"), "GRADFOLD_LEVEL": level}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, what: dict[str, Any] | None) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self.process.wait()}")
        return float(json.loads(line))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def apart(promised: Path, freed: Path) -> float:
    """The largest distance of results, in the units of TOLERANCE."""
    worst = 0.0
    with np.load(promised) as ours, np.load(freed) as theirs:
        for name in ours.files:
            a, b = ours[name].astype(np.float64), theirs[name].astype(np.float64)
            scale = np.linalg.norm(a, axis=0) if name == "gradient" else np.abs(a)
            distance = np.linalg.norm(a - b, axis=0) if name == "gradient" else np.abs(a - b)
            worst = max(worst, float(np.max(distance / scale)))
            if not np.isfinite(b).all():
                worst = math.inf
    return worst


def interval(ratios: list[float]) -> tuple[float, float]:
    """Of the median, at 95 % or more: the values of two ranks, by the binomial distribution."""
    n = len(ratios)
    rank, tail = 0, 0.5**n
    while rank < (n - 1) // 2 and tail + math.comb(n, rank + 1) * 0.5**n <= 0.025:
        rank += 1
        tail += math.comb(n, rank) * 0.5**n
    values = sorted(ratios)
    return values[rank], values[n - 1 - rank]


@dataclass(frozen=True)
class Found:
    case: Case
    level: str
    seconds: float  # of the promised side, the least
    price: float  # least promised / least freed: what else the machine does only ever adds
    ratios: list[float]  # promised / freed, of each round
    apart: float


def measure(case: Case, level: str, workers: dict[str, Worker], rounds: int, folder: Path) -> Found:
    files = {name: folder / f"{name}.npz" for name in SIDES}
    for name, side in workers.items():
        side.ask({"case": asdict(case), "file": str(files[name])})
    distance = apart(files["promised"], files["freed"])
    if not distance <= TOLERANCE:
        raise RuntimeError(f"{case.name}, {level}: the freed results are {distance:.2g} apart, wanted {TOLERANCE:g} at most")
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(rounds):
        for name in sorted(SIDES, reverse=turn % 2 == 0):
            seconds[name].append(workers[name].ask(None))
    ratios = [a / b for a, b in zip(seconds["promised"], seconds["freed"], strict=True)]
    least = {name: min(seconds[name]) for name in SIDES}
    return Found(case, level, least["promised"], least["promised"] / least["freed"], ratios, distance)


COUNTED = (
    *(f"gradient/float32/{name}" for name in (
        "models1", "models1/loss", "models1/features1000", "models4/loss", "models100", "models100/loss", "models100/loss_only",
        "models100/folds/loss", "models100/features30/loss", "models24/features1000",
    )),
    "gradient/float64/models100/loss", "residual/float32/log_loss", "residual/float32/log_loss/loss",
    "epoch/float32/sgd/models100", "epoch/float32/adam/models100",
)  # fmt: skip


def count(builds: dict[str, Path]) -> dict[str, float]:
    """promised / freed in instructions, by case of gradfold_counts."""
    wanted = config.Counts(
        (config.Command("", ("{build}/gradfold_counts", "{case}"), COUNTED, inside="gradfold_counted",
                        environment={"GRADFOLD_LEVEL": "x86_v3"}),)
    )  # fmt: skip
    sides = {name: counts.measure(wanted, config.Side(name, {"build": str(builds[name])}), ROOT, 1) for name in SIDES}
    found = {}
    for case in COUNTED:
        both = [sides[name][f"/{case}"] for name in SIDES]
        if any(isinstance(value, str) for value in both):
            raise RuntimeError(f"{case}: {both}")
        found[case] = both[0].instructions / both[1].instructions  # type: ignore[union-attr]
    return found


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def text(found: list[Found], counted: dict[str, float], load: str, rounds: int, own_maths: bool) -> str:
    levels = list(dict.fromkeys(one.level for one in found))
    option = " --own-maths" if own_maths else ""
    lines = [
        "# The price of the promises",
        "",
        f"Written by `PYTHONPATH=python python scripts/price_of_promises.py{option}`. How much longer the kernels take than the same",
        f"kernels freed of the promises, on one thread: CPU seconds, the least of {rounds} rounds in which both take turns, beside the",
        "95 % interval of the median round, which neighbours of this machine move. Models are of five folds;",
        f"X has {VALUES:,} values. {processor()}, {len(os.sched_getaffinity(0))} cores,",
        f"load {load} when it began.",
        "",
        FREED.format(maths=OWN_MATHS if own_maths else FREE_MATHS),
        "",
        "| work | models | features | dtype | " + " | ".join(f"{level}, price | interval" for level in levels) + " | results apart |",
        "|---|---|---|---|" + "---|---|" * len(levels) + "---|",
    ]
    for case in dict.fromkeys(one.case for one in found):
        cells, distance = [], 0.0
        for level in levels:
            one = next((one for one in found if one.case == case and one.level == level), None)
            if one is None:
                cells += ["-", "-"]
                continue
            low, high = interval(one.ratios)
            cells += [f"**{percent(one.price)}**", f"{percent(low)} to {percent(high)}"]
            distance = max(distance, one.apart)
        lines.append(f"| {case.name} | {case.n_models} | {case.n_features} | {case.dtype} | {' | '.join(cells)} | {distance:.0e} |")
    for level in levels:
        prices = [one.price for one in found if one.level == level]
        above = sum(price > TARGET for price in prices)
        reach = f"from {percent(min(prices))} to {percent(max(prices))}, in the middle {percent(statistics.median(prices))}"
        lines += ["", f"{level}: {reach}; above the target of {percent(TARGET)}: {above} of {len(prices)}."]
    if counted:
        lines += ["", "Instructions at x86_v3, of cases of `gradfold_counts`, which the machine's load does not touch:", ""]
        lines += ["| case | price |", "|---|---|", *(f"| `{case}` | {percent(ratio)} |" for case, ratio in counted.items())]
    return "\n".join(lines) + "\n"


def percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--levels", nargs="+", default=["x86_v3", "x86_v4"])
    parser.add_argument("--own-maths", action="store_true", help="do not free the maths functions")
    parser.add_argument("--only", default="", help="cases whose name, models and features have this in them")
    parser.add_argument("--builds", type=Path, default=ROOT / "build/price")
    parser.add_argument("--report", type=Path, help="price-of-promises.md in benchmarks/results; price-of-order.md with --own-maths")
    options = parser.parse_args()
    if options.rounds < 6:
        parser.error(f"--rounds: got {options.rounds}, wanted 6 or more, for an interval of 95 %")
    to = options.report or ROOT / "benchmarks/results" / ("price-of-order.md" if options.own_maths else "price-of-promises.md")
    builds = {name: options.builds.resolve() / ("own-maths" if name == "freed" and options.own_maths else name) for name in SIDES}
    for name, free in SIDES.items():
        words = [f"-DGRADFOLD_FREE={free}", f"-DGRADFOLD_FREE_MATHS={'OFF' if options.own_maths else 'ON'}"]
        subprocess.run([sys.executable, ROOT / "scripts/build_side.py", ROOT, builds[name], *words], check=True)
    load = f"{os.getloadavg()[0]:.1f}"
    wanted = [case for case in cases() if options.only in f"{case.name} {case.n_models} {case.n_features} {case.dtype}"]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for level in options.levels:
            workers = {name: Worker(builds[name], level) for name in SIDES}
            try:
                for case in wanted:
                    one = measure(case, level, workers, options.rounds, Path(folder))
                    found.append(one)
                    low, high = (percent(value) for value in interval(one.ratios))
                    print(
                        f"{level} {case.name}, {case.n_models} x {case.n_features}, {case.dtype}: {percent(one.price)}"
                        f" ({low} to {high}), {one.seconds * 1e3:.2f} ms, {one.apart:.1e} apart",
                        flush=True,
                    )
            finally:
                for side in workers.values():
                    side.close()
    counted = count(builds) if shutil.which("valgrind") is not None else {}
    report.write(to, text(found, counted, load, options.rounds, options.own_maths))


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["--worker"] else main()
