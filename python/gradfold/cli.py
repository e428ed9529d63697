"""The command `gradfold`: its commands and their options. What they do stands in `_cli_*.py` and `_demo.py`.

A mistake in a command is one line on standard error and exit code 2; Ctrl-C is exit code 130, and a reader of the
output that closed it early (`gradfold predict … | head`) is exit code 141, as of a process that SIGPIPE ended.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
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
_CV_NEEDS = {"pyarrow": "pyarrow", "rich": "rich"}
_CV_OUT_NEEDS = {**_CV_NEEDS, "pandas": "pandas", "matplotlib": "matplotlib"}
_PREDICT_NEEDS = {"pyarrow": "pyarrow"}
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter
    parser, commands = _parser()
    if given and not given[0].startswith("-") and given[0] not in commands:
        known = ", ".join(commands)
        _fail(f"unknown command {given[0]!r}, wanted {known}{_check.near(given[0], commands)}")
    options = parser.parse_args(given)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output has gone. What is left in the buffer must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError:
        _fail("out of memory")
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        _fail(" ".join(str(error).split()) or type(error).__name__)
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

    _add_cv(commands)
    _add_predict(commands)
    _add_show(commands)

    _add_bench(commands)

    info = commands.add_parser("info", help="print version, CPU levels, threads, GPU and optional packages")
    info.add_argument("--json", action="store_true", help="as one JSON object")
    info.set_defaults(run=_info)
    return parser, ["bench", "cv", "demo", "info", "predict", "show"]


_CV_EXAMPLES = """
examples:
  gradfold cv train.csv --target y
  gradfold cv train.csv --target y --l2 1e-6:1:20log --learning-rate 0.003,0.01 --out result
  gradfold cv train.csv --target y --holdout 0.2 --metric accuracy --json
  gradfold cv train.csv --target price --ignore y --loss squared_error --folds 10 --epochs 20
"""
_PREDICT_EXAMPLES = """
examples:
  gradfold predict result/model.npz test.csv
  gradfold predict result/model.npz test.csv --proba --out predictions.csv
  gradfold predict result/model.npz test.csv --threshold 0.3 --out labels.parquet
"""
_BENCH_EXAMPLES = """
examples:
  gradfold bench
  gradfold bench --quick --plot roofline.png
  gradfold bench --filter 'gradient.* 100 ×' --peers numpy,torch --threads 1
  gradfold bench --rows 200000 --features 128 --models 100,4096 --plot crossover.png
"""
_SHOW_EXAMPLES = """
examples:
  gradfold show result/model.npz
  gradfold show result/model.npz --top 5 --json
"""


def _command(commands: Any, name: str, summary: str, description: str, examples: str) -> Any:
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_file_options(parser: Any, encoding: str | None) -> None:
    """How a file is read."""
    group = parser.add_argument_group("the file")
    group.add_argument("--format", metavar="NAME", help="csv, tsv, jsonl, parquet or svmlight (default: by looking)")
    group.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the first row of a CSV file names the columns (default: by looking)",
    )
    group.add_argument("--delimiter", metavar="CHAR", help="of a CSV file, also 'tab' (default: by looking)")
    group.add_argument("--encoding", default=encoding, metavar="NAME", help="of a CSV file (default: utf-8)")


def _add_cv(commands: Any) -> None:
    parser = _command(
        commands,
        "cv",
        "cross-validate candidates on a file and say which is best",
        "Read a file, train every candidate on every split at once, and say which is best and by how much.\n"
        "VALUES are a number, a list a,b,c, or a range: 1e-6:1:20log is 20 values, 0:1:5lin is 5.\n"
        "Where nothing varies and l2 is not given, the candidates are --l2 1e-6:1:20log.",
        _CV_EXAMPLES,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="CSV, TSV, JSON Lines, Parquet, svmlight, also compressed; - is standard input")
    add("--target", metavar="COLUMN", help="the column to predict: its name, or its place from 0 (-1 is the last)")
    _add_file_options(parser, "utf-8")

    group = parser.add_argument_group("columns (by name or place)")
    group.add_argument("--ignore", action="append", default=[], metavar="COLUMN", help="leave it out; may be repeated")
    group.add_argument(
        "--categorical", action="append", default=[], metavar="COLUMN", help="numbers that are names; may be repeated"
    )
    group.add_argument("--weight", metavar="COLUMN", help="the weight of each row")
    group.add_argument("--na", action="append", default=[], metavar="TEXT", help="a cell that means missing; may be repeated")
    group.add_argument(
        "--max-categories", type=int, default=256, metavar="N", help="texts that a column may hold (default: 256)"
    )

    group = parser.add_argument_group("splits")
    group.add_argument("--folds", type=int, metavar="K", help="k-fold (default: 5)")
    group.add_argument("--holdout", type=float, metavar="SHARE", help="one split that scores this share of the rows")
    group.add_argument("--group", metavar="COLUMN", help="rows with the same cell here stay in one fold")
    group.add_argument("--repeat", type=int, metavar="R", help="repeat the k-fold with R shuffles")
    group.add_argument(
        "--stratify", action=argparse.BooleanOptionalAction, default=None, help="keep the classes' shares (default: yes)"
    )

    group = parser.add_argument_group("candidates")
    group.add_argument("--l2", metavar="VALUES", help="penalty, half its multiple of the squared weights")
    group.add_argument("--l1", metavar="VALUES", help="penalty, its multiple of the absolute weights")
    group.add_argument("--learning-rate", metavar="VALUES", help="step size, or 'auto'")
    group.add_argument("--batch-size", metavar="VALUES", help="rows of a step of epochs (default: 256, below 10,000 rows 32)")
    group.add_argument("--schedule", metavar="VALUES", help="of the learning rate (default: cosine)")
    group.add_argument("--solver", metavar="VALUES", help="lbfgs, adam, … (default: auto, the optimum if no option asks for epochs)")
    group.add_argument("--loss", default="auto", metavar="VALUES", help="log_loss, squared_error, … (default: by the target)")
    group.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUES", help="any other parameter; may be repeated"
    )

    group = parser.add_argument_group("training")
    group.add_argument("--metric", metavar="NAME", help="choose by accuracy, roc_auc, rmse, … (default: the held-out loss)")
    group.add_argument(
        "--choose", choices=("best", "one_se"), help="one_se: the simplest within one standard error (default: best)"
    )
    group.add_argument("--epochs", type=int, metavar="N", help="passes over the rows (default, of solvers of epochs: some 3,000 steps)")
    group.add_argument(
        "--standardize", action=argparse.BooleanOptionalAction, default=True,
        help="train on features of mean 0 and deviation 1, from each split's training rows (default: yes)",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of shuffles and folds (default: 0)")
    group.add_argument(
        "--early-stopping", type=int, nargs="?", const=True, metavar="PATIENCE",
        help="stop a model whose held-out loss has not improved for PATIENCE epochs (5)",
    )  # fmt: skip
    group.add_argument(
        "--halving", type=int, nargs="?", const=True, metavar="FACTOR",
        help="drop all but the best 1/FACTOR (3) of the candidates after 1, FACTOR, … epochs",
    )  # fmt: skip
    group.add_argument("--threads", type=int, metavar="N", help="default: all processors of this process")
    group.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="default: float64")

    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    group.add_argument("--out", metavar="FOLDER", help="write the model, all candidates, a curve and the report")
    group.add_argument("--quiet", action="store_true", help="only the best candidate, the next and the baseline; no warnings or progress")
    parser.set_defaults(run=_cv)


def _add_predict(commands: Any) -> None:
    parser = _command(
        commands,
        "predict",
        "predict the rows of a file with a model that cv wrote",
        "Predict each row of a file: its label, or for a regression its value, as CSV with a header.\n"
        "Columns are matched by name, or by position where the model or the file has no names.",
        _PREDICT_EXAMPLES,
    )
    parser.add_argument("model", metavar="MODEL", help="a model.npz")
    parser.add_argument("file", metavar="FILE", help="as for cv; the target may be left out")
    _add_file_options(parser, None)
    parser.add_argument("--proba", action="store_true", help="the probability of each class")
    parser.add_argument("--threshold", type=float, metavar="P", help="the positive label above this probability (0.5)")
    parser.add_argument("--out", metavar="FILE", help="write to a .csv or .parquet instead of standard output")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all processors of this process")
    parser.add_argument("--quiet", action="store_true", help="no warnings")
    parser.set_defaults(run=_predict)


def _add_show(commands: Any) -> None:
    parser = _command(
        commands,
        "show",
        "say what is in a model",
        "Print a saved model: loss, candidates, best parameters, columns, and weights by size.",
        _SHOW_EXAMPLES,
    )
    parser.add_argument("model", metavar="MODEL", help="a model.npz")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="weights shown (default: 20; 0: all)")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=_show)


def _add_bench(commands: Any) -> None:
    parser = _command(
        commands,
        "bench",
        "measure kernels beside this machine's limits and other libraries",
        "Measure kernels beside what this machine can do at best and beside other libraries, and say where we lose.\n"
        "With any option of the crossover, measure the dense gradient of 1 to 8,192 models alone, on the CPU and, where there\n"
        "is one, on the GPU.",
        _BENCH_EXAMPLES,
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU; default: all processors of this process")
    parser.add_argument("--level", metavar="NAME", help="force an instruction level (default: the fastest; see gradfold info)")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="one JSON object to FILE, or on standard output and nothing else"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the roofline, and time over models: a PNG file")

    add = parser.add_argument_group("the table").add_argument
    add("--quick", action="store_true", help="fewer and smaller problems, about a fourth of the time")
    add("--filter", metavar="REGEX", help="rows whose kernel and shape match, as 'gradient 100 × 1000'")
    add("--peers", metavar="LIST", help="some of numpy,sklearn,torch,jax (default: numpy,sklearn)")

    add = parser.add_argument_group("the crossover alone").add_argument
    add("--rows", type=int, metavar="N", help="default: 20000")
    add("--features", type=int, metavar="P", help="default: 100")
    add("--dtype", choices=("float32", "float64"), help="default: float32")
    add("--models", metavar="LIST", help="numbers of models, as 1,100,8192 (default: powers of two, 1 to 8192)")
    add("--seconds", type=float, metavar="S", help="for each device; larger sizes are then left out (default: 10)")
    add("--device", choices=("cpu", "cuda"), help="this one alone (default: cpu, and cuda where there is a GPU)")
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    if options.plot is not None:
        _require("bench --plot", {"matplotlib": "matplotlib"})
    from gradfold import _cli_bench

    return _cli_bench.run(options)


def _cv(options: argparse.Namespace) -> int:
    _require("cv", _CV_NEEDS if options.out is None else _CV_OUT_NEEDS)
    from gradfold import _cli_cv

    return _cli_cv.run(options)


def _predict(options: argparse.Namespace) -> int:
    _require("predict", _PREDICT_NEEDS)
    from gradfold import _cli_predict

    return _cli_predict.run(options)


def _show(options: argparse.Namespace) -> int:
    from gradfold import _cli_show

    return _cli_show.run(options)


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
        "device": f"{facts['device']}; {_gpu(facts['gpu'], facts['no_gpu'])}",
        "python": f"{facts['python']}, numpy {facts['numpy']}, {facts['machine']}",
        "optional": packages,
    }
    for name, value in lines.items():
        print(f"{name:<10}{value}")
    return 0


def _gpu(gpu: dict[str, Any] | None, why_not: str | None) -> str:
    """The GPU in words, or why there is none."""
    if gpu is None:
        return f"GPU: none ({why_not})"
    return (
        f"GPU: {gpu['name']}, {gpu['memory'] / 1e9:.3g} GB ({gpu['free'] / 1e9:.3g} GB free), compute capability "
        f"{gpu['compute_capability']}, driver of CUDA {gpu['driver']}"
    )


def _facts() -> dict[str, Any]:
    from gradfold import _core, _device

    gpu = _device.gpu()
    return {
        "version": gradfold.__version__,
        "levels": _core.levels.supported(),
        "level": _core.levels.current(),
        "forced": os.environ.get("GRADFOLD_LEVEL") or None,
        "threads": _check.threads(None),
        "cpus": os.cpu_count(),
        "device": "cpu",  # where NumPy arrays live
        "gpu": None if isinstance(gpu, str) else gpu,
        "no_gpu": gpu if isinstance(gpu, str) else None,
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
    _require("demo", _DEMO_NEEDS)
    if not options.out:
        _fail("argument --out: got '', wanted a folder (see gradfold demo --help)")
    from gradfold import _demo

    return _demo.main(options.out, quick=options.quick)


def _require(command: str, needs: dict[str, str]) -> None:
    missing = [name for module, name in needs.items() if importlib.util.find_spec(module) is None]
    if missing:
        _fail(f"{command} needs {', '.join(missing)}: pip install 'gradfold[cli]'")


def _fail(message: str) -> NoReturn:
    print(f"gradfold: error: {message}", file=sys.stderr)
    raise SystemExit(2)
