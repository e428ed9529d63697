"""``python -m gradfold.perfgate``: compare two builds, hold one against the committed counts, renew those."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gradfold.perfgate import baseline, counts, objects, report, sides, timing
from gradfold.perfgate.baseline import Baseline
from gradfold.perfgate.config import Config, ConfigError, Side, read, told_apart
from gradfold.perfgate.loops import Loop
from gradfold.perfgate.results import DID_NOT_RUN, Result, exit_code

_CODES = "exit codes: 0 nothing is slower, 1 something is, 2 something did not run, 3 both"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        for path in (getattr(options, name, None) for name in ("markdown", "junit", "json")):
            if path is not None and not path.resolve().parent.is_dir():
                raise ConfigError(f"{path}: there is no folder {path.resolve().parent}")
        if options.jobs is not None and options.jobs < 1:
            raise ConfigError(f"--jobs: got {options.jobs}, wanted at least 1")
        config = read(Path(options.config))
        return int(options.run(config, options))
    except (ConfigError, counts.DidNotRun) as error:
        print(f"perfgate: {error}", file=sys.stderr)
        return DID_NOT_RUN
    except KeyboardInterrupt:
        print("perfgate: interrupted", file=sys.stderr)
        return 130
    except Exception:  # Python's own code for it is 1, which here says that something is slower
        traceback.print_exc()
        return DID_NOT_RUN


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)  # so that what was started is ended on the way


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m gradfold.perfgate", description=__doc__, epilog=_CODES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, what: str, run: Callable[[Config, argparse.Namespace], int]) -> argparse.ArgumentParser:
        own = commands.add_parser(name, help=what, description=what, epilog=_CODES, allow_abbrev=False)
        own.set_defaults(run=run)
        own.add_argument("--config", default="perfgate.toml", metavar="FILE", help="what is measured (default: %(default)s)")
        own.add_argument("--head", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="what {NAME} stands for in head")
        own.add_argument("--jobs", type=int, metavar="N", help="programs that are counted at once (default: one for each core)")
        return own

    def reports(own: argparse.ArgumentParser) -> None:
        own.add_argument("--markdown", type=Path, metavar="FILE")
        own.add_argument("--junit", type=Path, metavar="FILE")
        own.add_argument("--json", type=Path, metavar="FILE")

    compare = command("compare", "measure two builds, the stages in turn", _compare)
    compare.add_argument("--base", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="what {NAME} stands for in base")
    compare.add_argument("--revision", metavar="REV", help="build base from this revision, and head from the tree as it is")
    compare.add_argument("--stages", nargs="+", choices=("counts", "loops", "time"), help="only these")
    check = command("check", "count one build, and hold it against the baseline", _check)
    renew = command("renew", "count one build, and make that the baseline", _renew)
    renew.add_argument("--reason", required=True, help="why; it is kept in the file")
    for own in (check, renew):
        own.add_argument("--build", action="store_true", help="build head from the tree as it is")
    for own in (compare, check, renew):
        where = "where builds are made (default: %(default)s)"
        own.add_argument("--builds", type=Path, default=Path("build/perfgate"), metavar="FOLDER", help=where)
    reports(compare)
    reports(check)
    return parser


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _compare(config: Config, options: argparse.Namespace) -> int:
    stages = options.stages or list(config.stages)
    for stage in stages:
        if stage not in config.stages:
            raise ConfigError(f"--stages: got {stage!r}, and the configuration has no [{stage}]")
    if options.revision is not None:
        if options.base:
            raise ConfigError("--base: cannot be given with --revision, which builds base")
        base, head = sides.built(config, options.revision, options.head, options.builds, _tell)
    else:
        if not options.base:
            raise ConfigError("--base NAME=VALUE or --revision REV is wanted")
        base, head = sides.named("base", options.base, config.root), sides.named("head", options.head, config.root)
    told_apart(config, base, head, stages)

    def count() -> list[Result]:
        assert config.counts is not None
        found = []
        for side in (base, head):
            _tell(f"counting {side.name}")
            found.append(counts.measure(config.counts, side, config.root, options.jobs))
        return counts.compare(found[0], found[1], config.counts.threshold, config.counts.minimum)

    def read_loops() -> list[Result]:
        assert config.loops is not None
        return objects.compare(config.loops, *(objects.measure(config.loops, side, config.root) for side in (base, head)))

    def take_times() -> list[Result]:
        assert config.time is not None
        return timing.run(config.time, base, head, config.root, _tell)

    work = {counts.STAGE: count, objects.STAGE: read_loops, timing.STAGE: take_times}
    return _reported({stage: work[stage] for stage in stages}, options)


def _counted(config: Config, head: Side, options: argparse.Namespace) -> dict[str, counts.Count | str]:
    return {} if config.counts is None else counts.measure(config.counts, head, config.root, options.jobs)


def _looped(config: Config, head: Side) -> dict[str, Loop]:
    return {} if config.loops is None else objects.measure(config.loops, head, config.root)


def _head(config: Config, options: argparse.Namespace) -> Side:
    if options.build:
        return sides.of_tree(config, options.head, options.builds, _tell)
    return sides.named("head", options.head, config.root)


def _check(config: Config, options: argparse.Namespace) -> int:
    before = baseline.load(baseline.path_of(config))
    head = _head(config, options)
    tools = baseline.toolchain(config.toolchain, head, config.root)
    if tools != before.toolchain:
        differ = [f"{name}: {before.toolchain.get(name)!r} then, {tools.get(name)!r} now" for name in sorted({*tools, *before.toolchain})]
        raise ConfigError("counts of other compilers cannot be compared; renew the baseline, or compare two builds\n" + "\n".join(differ))
    work: dict[str, Callable[[], list[Result]]] = {}
    if (of_counts := config.counts) is not None:
        work[counts.STAGE] = lambda: counts.compare(
            before.counts, _counted(config, head, options), of_counts.threshold, of_counts.minimum
        )
    if (of_loops := config.loops) is not None:
        work[objects.STAGE] = lambda: objects.compare(of_loops, before.loops, _looped(config, head))
    return _reported(work, options)


def _renew(config: Config, options: argparse.Namespace) -> int:
    path = baseline.path_of(config)
    head = _head(config, options)
    tools = baseline.toolchain(config.toolchain, head, config.root)
    counted, looped = _counted(config, head, options), _looped(config, head)
    for result in _against_itself(config, counted, looped):
        if result.state == "did not run":
            raise counts.DidNotRun(f"{result.stage}: {result.name}: {result.what}; the baseline stays as it was")
    baseline.save(path, Baseline(options.reason, tools, counted, looped))
    print(f"{path}: {len(counted)} counts, {len(looped)} loops")
    return 0


def _against_itself(config: Config, counted: dict[str, counts.Count | str], looped: dict[str, Loop]) -> list[Result]:
    out: list[Result] = []
    if config.counts is not None:
        out += counts.compare(counted, counted, config.counts.threshold, config.counts.minimum)
    if config.loops is not None:
        out += objects.compare(config.loops, looped, looped)
    return out


def _reported(stages: Mapping[str, Callable[[], list[Result]]], options: argparse.Namespace) -> int:
    """Does the stages, and tells what they found; one that cannot be done takes nothing from the others."""
    results: list[Result] = []
    for stage, find in stages.items():
        try:
            results += find()
        except ConfigError as error:
            results.append(Result(stage, "stage", "did not run", str(error)))
    if not results:
        raise ConfigError("nothing was compared: the configuration has no [counts] and no [loops]")
    for path, make in ((options.markdown, report.markdown), (options.junit, report.junit), (options.json, report.as_json)):
        if path is not None:
            report.write(path, make(results))
    for result in results:
        if result.state in ("slower", "did not run"):
            print(f"{result.state}: {result.stage}: {result.name}: {result.what}")
    print(report.summary(results))
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
