"""`gradfold cv`: read a file, cross-validate candidates, say which is best and by how much, and write the model."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import gradfold as gf
from gradfold import _auto, _axis, _baseline, _check, _optimum, _storage, data
from gradfold._cli_model import collected, remember, say

if TYPE_CHECKING:
    from rich.console import Console

    from gradfold.run import Run

Array = npt.NDArray[Any]

REGRESSION = ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")

# The losses of a constant prediction that need no parameter.
_BASELINES = ("squared_error", "log_loss", "multinomial", "hinge", "squared_hinge", "modified_huber")

# Candidates when the command names none.
DEFAULT_AXIS = "1e-6:1:20log"

_SHOWN = 10  # candidates in the table


@dataclass
class _Plan:
    """The call of `fit` that a command asks for, and the same as Python."""

    axes: list[_axis.Axis]
    keywords: dict[str, Any]
    folds: Any
    folds_code: str
    splits: str  # in words
    metric: str | None


@dataclass
class _Result:
    """What is reported, in one form for people and programs."""

    options: argparse.Namespace
    data: data.Data
    plan: _Plan
    run: Run
    score: Array  # (n_candidates, n_splits), in the metric's own direction
    higher: bool
    baseline: Array | None  # (n_splits,), of the held-out loss
    warnings: list[str]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.plan.metric or f"held-out {self.run.loss}"

    def mean(self, candidate: int) -> float:
        return float(self.score[candidate].mean())

    def order(self) -> list[int]:
        """Candidates from best to worst, the chosen one first, NaN last."""
        mean = self.score.mean(axis=1)
        key = np.where(np.isnan(mean), np.inf, -mean if self.higher else mean)
        best = self.run.best_candidate
        return sorted(range(len(key)), key=lambda i: (i != best, not self.survived(i), key[i], i))

    def survived(self, candidate: int) -> bool:
        """Whether halving did not drop it; its score is then that of all epochs."""
        return self.run.survived is None or bool(self.run.survived[candidate])

    def params(self, candidate: int) -> dict[str, Any]:
        """What the candidate sets, after the few parameters that every model has."""
        row = self.run.params[candidate]
        names = ["l1", "l2", "learning_rate", "schedule", *(axis.name for axis in self.plan.axes)]
        names += [name for name in self.plan.keywords if name in row]
        return {name: row[name] for name in dict.fromkeys(names)}


def run(options: argparse.Namespace) -> int:
    """Do what `gradfold cv` was asked to; returns the exit code."""
    axes, fixed = _parameters(options)
    if options.metric is not None:
        _check_metric(options.metric)
    if options.out is not None:
        _check_folder(options.out)
    table = data.read(
        options.file,
        options.target,
        weight=options.weight,
        group=options.group,
        ignore=options.ignore,
        categorical=options.categorical,
        format=options.format,
        header=options.header,
        delimiter=_delimiter(options.delimiter),
        encoding=options.encoding,
        missing=tuple(options.na),
        dtype=options.dtype,
        max_categories=options.max_categories,
    )
    loss = options.loss.split(",")
    _check_target(table, loss)
    plan = _plan(options, table, axes, fixed, loss)
    with collected() as warnings:
        grid = gf.grid(**{axis.name: list(axis.values) for axis in plan.axes}) if plan.axes else None
        try:
            model = gf.fit(
                table.X,
                table.y,
                grid,
                folds=plan.folds,
                n_threads=options.threads,
                progress=_progress(options),
                **plan.keywords,
            )
        except ValueError as error:
            raise ValueError(_with_names(str(error), table)) from error
        if model.stop_reason == "interrupted":
            raise KeyboardInterrupt
        if not model.ranked or model.best_coef is None:
            raise ValueError(
                "every candidate diverged or scores no row, so there is no best one; try a lower --learning-rate, or numbers on a "
                "smaller scale"
            )
        score, higher = _score(model, plan.metric)
        baseline = _baseline_loss(model, table)
    result = _Result(options, table, plan, model, score, higher, baseline, [*table.notes, *warnings])
    if options.out is not None:
        remember(model, table.table.with_moments(table.X))
        _write(result)
    _report(result)
    return 0


# -- what to train ----------------------------------------------------------------------------------------------------


def _parameters(options: argparse.Namespace) -> tuple[list[_axis.Axis], dict[str, Any]]:
    """Parameters of several values, which candidates take, and those of one, which are keywords of `fit`."""
    from gradfold.candidates import PARAMETERS

    given = {
        "l2": options.l2,
        "l1": options.l1,
        "learning_rate": options.learning_rate,
        "batch_size": options.batch_size,
        "schedule": options.schedule,
        "solver": options.solver,
    }
    if "," in options.loss:
        given["loss"] = options.loss
    for text in options.param:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not values:
            raise ValueError(f"--param: got {text!r}, wanted NAME=VALUES")
        if name not in PARAMETERS:
            raise ValueError(
                f"--param: got the unknown parameter {name!r}, wanted {', '.join(PARAMETERS)}"
                f"{_check.near(name, PARAMETERS)}"
            )
        if given.get(name) is not None:
            raise ValueError(f"--param: got {name!r} twice")
        given[name] = values
    kinds: dict[str, type] = {"schedule": str, "solver": str, "loss": str}
    kinds |= {"batch_size": int, "init_seed": int, "average": int}
    axes: list[_axis.Axis] = []
    fixed: dict[str, Any] = {}
    for name, text in given.items():
        if text is None:
            continue
        if name == "learning_rate" and text == "auto":
            fixed[name] = text
            continue
        axis = _axis.parse(name, text, kinds.get(name, float))
        if len(axis.values) > 1:
            axes.append(axis)
        else:
            fixed[name] = axis.values[0]
    if not axes and "l2" not in fixed:
        axes.append(_axis.parse("l2", DEFAULT_AXIS))
    return axes, fixed


def _plan(
    options: argparse.Namespace, table: data.Data, axes: list[_axis.Axis], fixed: dict[str, Any], loss: list[str]
) -> _Plan:
    assert table.y is not None
    n_rows = len(table.X)
    batch = fixed.pop("batch_size", None)
    keywords: dict[str, Any] = {}
    if len(loss) == 1 and loss[0] != "auto":
        keywords["loss"] = loss[0]
    keywords |= fixed
    if not _to_the_optimum(options, axes, fixed, loss, batch):
        if not any(axis.name == "schedule" for axis in axes):
            keywords.setdefault("schedule", "cosine")
        if not any(axis.name == "batch_size" for axis in axes):
            batch = _auto.batch_of(n_rows) if batch is None else batch
        epochs = options.epochs
        if epochs is None:
            epochs = _auto.epochs_of(n_rows, max(1, _auto.BATCH_SIZE if batch is None else batch))
        keywords["epochs"] = epochs
    elif options.epochs is not None:
        raise ValueError(f"--epochs: got {options.epochs} with a solver that has none; leave it out")
    if batch is not None:
        keywords["batch_size"] = batch
    keywords["standardize"] = options.standardize
    keywords["seed"] = options.seed
    if options.early_stopping is not None:
        keywords["early_stopping"] = True if options.early_stopping is True else {"patience": options.early_stopping}
    if options.choose is not None:
        keywords["choose"] = options.choose
    if options.halving is not None:
        keywords["halving"] = True if options.halving is True else {"factor": options.halving}
    if np.isnan(table.X).any():
        keywords["missing"] = "mean"
    if table.sample_weight is not None:
        keywords["sample_weight"] = table.sample_weight
    metric = options.metric
    if metric is not None:
        keywords["scoring"] = _scoring(metric)
    folds, code, words = _folds(options, table, loss)
    return _Plan(axes, keywords, folds, code, words, metric)


def _to_the_optimum(
    options: argparse.Namespace, axes: list[_axis.Axis], fixed: dict[str, Any], loss: list[str], batch: int | None
) -> bool:
    """Whether the solver is one that has no epochs."""
    named = [value for axis in axes if axis.name == "solver" for value in axis.values]
    named = named or [fixed.get("solver", "auto")]
    if named != ["auto"]:
        return any(name in _optimum.SOLVERS for name in named)
    names = {axis.name for axis in axes} | fixed.keys()
    names |= {name for name in ("epochs", "early_stopping", "halving") if getattr(options, name) is not None}
    sparse = fixed.get("l1", 0) > 0 or any(axis.name == "l1" and max(axis.values) > 0 for axis in axes)
    return _auto.goes_to_optimum(names | ({"batch_size"} if batch is not None else set()), loss, sparse)


def _folds(options: argparse.Namespace, table: data.Data, loss: list[str]) -> tuple[Any, str, str]:
    """The argument `folds` of `fit`, the same as Python, and in words."""
    assert table.y is not None
    index, n_rows, seed = gf.index, len(table.X), options.seed
    labels = _labels(table.y, loss)
    stratify = labels if options.stratify is None else options.stratify
    if stratify and not labels:
        raise ValueError("--stratify: wants labels, and the target is numbers")
    if options.holdout is not None:
        for name in ("folds", "group", "repeat"):
            if getattr(options, name) is not None:
                raise ValueError(f"--holdout: goes without --{name}")
        if not 0 < options.holdout < 1:
            raise ValueError(f"--holdout: got {options.holdout:g}, wanted a share between 0 and 1")
        folds = index.holdout(n_rows, options.holdout, seed=seed, stratify=table.y if stratify else None)
        rest = ", stratify=data.y" if stratify else ""
        words = f"a hold-out of {options.holdout:g}{', stratified' if stratify else ''}"
        return folds, f"gf.index.holdout(len(data.X), {options.holdout!r}, seed={seed}{rest})", words
    k = 5 if options.folds is None else options.folds
    if k > n_rows:
        raise ValueError(f"--folds: got {k} folds of {n_rows} rows, wanted at most {n_rows}")
    if options.group is not None:
        if options.repeat is not None:
            raise ValueError("--repeat: goes without --group")
        assert table.groups is not None
        n_groups = len(np.unique(table.groups))
        if n_groups < k:
            raise ValueError(f"--group: column {options.group!r} has {n_groups} groups, wanted at least {k}, one a fold")
        folds = index.group_kfold(table.groups, k, y=table.y if stratify else None, seed=seed)
        rest = f"{', y=data.y' if stratify else ''}, seed={seed}"
        words = f"{k} folds by {options.group!r}{', classes level' if stratify else ''}"
        return folds, f"gf.index.group_kfold(data.groups, {k}{rest})", words
    repeats = 1 if options.repeat is None else options.repeat
    words = f"{k} folds{f' × {repeats} repeats' if repeats > 1 else ''}{', stratified' if stratify else ''}"
    if repeats == 1 and stratify == labels:
        return k, str(k), words
    rest = f"seed={seed}" + (f", n_repeats={repeats}" if repeats > 1 else "")
    if stratify:
        folds = index.stratified_kfold(table.y, k, seed=seed, n_repeats=repeats)
        return folds, f"gf.index.stratified_kfold(data.y, {k}, {rest})", words
    folds = index.kfold(n_rows, k, seed=seed, n_repeats=repeats)
    return folds, f"gf.index.kfold(len(data.X), {k}, {rest})", words


def _labels(y: Array, loss: list[str]) -> bool:
    """Whether `fit` reads the target as labels."""
    if loss != ["auto"]:
        return not any(name in REGRESSION for name in loss)
    return y.dtype.kind != "f" or bool(np.isin(y, (0, 1)).all()) or bool(np.isin(y, (-1, 1)).all())


def _check_target(table: data.Data, loss: list[str]) -> None:
    y = table.y
    assert y is not None
    name = f"target {table.table.target!r}" if table.table.target is not None else "target"
    if len(y) < 2:
        raise ValueError(f"{name}: got 1 row, wanted at least 2: one to train on and one to score")
    if (y == y[0]).all():
        raise ValueError(f"{name}: got the one value {y[0].item()!r} in all {len(y):,} rows, wanted at least two")
    regression = [one for one in loss if one in REGRESSION]
    if y.dtype.kind in "US" and regression:
        raise ValueError(f"{name}: got text ({y[0].item()!r}, …), wanted numbers for --loss {regression[0]}")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError(f"{name}: got {y[~np.isfinite(y)][0]}, wanted finite numbers")
    if y.dtype.kind in "iu" and loss == ["auto"]:
        count = len(np.unique(y))
        if count > 20:
            table.notes.append(
                f"{name} holds integers, which are read as {count:,} labels; pass --loss squared_error for a regression"
            )


def _with_names(message: str, table: data.Data) -> str:
    """A message of `fit` in the words of the command: the file's name of a column of X, the option for `scoring`."""
    if message.startswith("scoring: "):
        return f"--metric{message.removeprefix('scoring').replace('gradfold.metrics.SCORINGS', '--metric')}"
    if not message.startswith("X: "):
        return message
    names = table.table.features
    return re.sub(r"\bcolumn (\d+)", lambda found: f"column {names[int(found.group(1))]!r}", message)


def _check_metric(metric: str) -> None:
    """Refuse a metric that does not exist before the file is read."""
    from gradfold.metrics import SCORINGS

    names = sorted({name.removeprefix("neg_") for name in SCORINGS} | set(SCORINGS))
    if metric not in names:
        short = ", ".join(("accuracy", "roc_auc", "f1", "rmse", "mae", "r2"))
        raise ValueError(f"--metric: got {metric!r}, wanted a metric such as {short}{_check.near(metric, names)}")


def _check_folder(out: str) -> None:
    """Refuse a folder that cannot be written before hours of training."""
    if not out:
        raise ValueError("--out: got '', wanted a folder")
    folder = os.path.abspath(out)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise ValueError(f"--out: got {out!r}, but {folder} is a file, wanted a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"--out: got {out!r}, but {folder} cannot be written to")


def _delimiter(given: str | None) -> str | None:
    return {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " "}.get(given or "", given)


def _progress(options: argparse.Namespace) -> bool:
    return not options.quiet and not options.json and sys.stderr.isatty()


# -- what came of it --------------------------------------------------------------------------------------------------


def _scoring(metric: str) -> str:
    """The name for `scoring`, higher is better, of a metric's own name."""
    from gradfold.metrics import SCORINGS

    return metric if metric in SCORINGS or f"neg_{metric}" not in SCORINGS else f"neg_{metric}"


def _score(model: Run, metric: str | None) -> tuple[Array, bool]:
    """Each candidate's and split's score in its own direction, and whether higher is better."""
    if metric is None:
        return model.held_out_loss, False
    scoring = _scoring(metric)
    score = model.scores(scoring)
    return (-score, False) if scoring != metric else (score, True)


def _baseline_loss(model: Run, table: data.Data) -> Array | None:
    """The held-out loss of a constant prediction; None where there is no single loss to compare."""
    y, folds = table.y, model._folds
    losses = {row.get("loss", model.loss) for row in model.params}
    if folds is None or model.loss not in _BASELINES or len(losses) > 1:
        return None
    assert y is not None
    if model.classes is not None:
        codes = np.searchsorted(model.classes, y)
        y = codes.astype(np.float64)
    loss = _baseline.held_out_loss(model.loss, y, table.sample_weight, folds)
    return None if np.isnan(loss).any() else loss


def standard_error(values: Array) -> float:
    """Of the mean of scores over splits; NaN for a single one."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _write(result: _Result) -> None:
    """The files of `--out`, each written whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    out = result.options.out
    os.makedirs(out, exist_ok=True)
    names = {
        "model": "model.npz",
        "candidates": "candidates.csv",
        "validation_curve": "validation_curve.png",
        "report": "report.txt",
    }
    result.files = {what: os.path.join(out, name) for what, name in names.items()}
    frame = result.run.to_frame()
    if result.plan.metric is not None:
        frame.insert(len(frame.columns), f"{result.plan.metric}_mean", result.score.mean(axis=1))
        for split in range(result.score.shape[1]):
            frame[f"{result.plan.metric}_split{split}"] = result.score[:, split]
    with _storage.atomic(result.files["candidates"]) as file:
        file.write(frame.to_csv(index=False).encode())
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")  # without pyplot: no global state, no display
    FigureCanvasAgg(figure)
    result.run.plot(ax=figure.subplots())
    with _storage.atomic(result.files["validation_curve"]) as file:
        figure.savefig(file, format="png", dpi=150)
    from rich.console import Console

    text = io.StringIO()
    _print(result, Console(file=text, width=110, highlight=False, color_system=None), warnings=True)
    with _storage.atomic(result.files["report"]) as file:
        file.write(text.getvalue().encode())
    result.run.save(result.files["model"])


def _report(result: _Result) -> None:
    if result.options.json:
        print(json.dumps(_json(result), indent=2, allow_nan=False))
        return
    if not result.options.quiet:
        for warning in result.warnings:
            say(f"warning: {warning}")
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=110)
    # rich ends the process when a pipe is closed; Python's own stream raises, and `cli` answers.
    with console.capture() as captured:
        _print(result, console, short=result.options.quiet)
    sys.stdout.write(captured.get())


def _print(result: _Result, console: Console, short: bool = False, warnings: bool = False) -> None:
    """The report for people. `short` leaves out all but the best candidate and the files."""
    table = result.data.table
    if not short:
        what = f"{table.target!r}" if table.target is not None else "the first cell"
        shape = f"{len(result.data.X):,} rows × {result.data.X.shape[1]:,} features"
        console.print(f"{result.options.file}: {shape}, target {what}", soft_wrap=True, markup=False)
        console.print(_settings_line(result), soft_wrap=True, markup=False)
        console.print(_candidates(result))
    for line in _lines(result):
        console.print(line, soft_wrap=True, markup=False)
    for warning in result.warnings if warnings else []:
        console.print(f"warning    {warning}", soft_wrap=True, markup=False)
    if result.files:
        names = ", ".join(os.path.basename(path) for path in result.files.values())
        console.print(f"written    {result.options.out}{os.sep}: {names}", soft_wrap=True, markup=False)
    elif not short:
        console.print("written    nothing; --out FOLDER writes the model and a report", soft_wrap=True, markup=False)
    if not short:
        console.print("\nthe same in Python", markup=False)
        for line in code(result).splitlines():
            console.print(f"  {line}", soft_wrap=True, markup=False)


def _settings_line(result: _Result) -> str:
    model, keywords = result.run, result.plan.keywords
    count = f"{model.n_candidates} candidate{'s' * (model.n_candidates != 1)}"
    scaled = "standardized features (--no-standardize turns it off)" if keywords["standardize"] else "features as they are"
    batches = f", batches of {keywords['batch_size']}" if "batch_size" in keywords else ""
    length = f"{keywords['epochs']} epochs{batches}" if "epochs" in keywords else f"to the optimum (tol {model.settings['tol']:g})"
    filled = ", missing numbers are their column's mean" if keywords.get("missing") == "mean" else ""
    return (
        f"{count} × {result.plan.splits}: {model.loss}, {model.solver}, {length}, "
        f"{scaled}{filled}"
    )


def _candidates(result: _Result) -> Any:
    from rich import box
    from rich.table import Table

    model = result.run
    order = result.order()
    rows = model.params
    varying = [axis.name for axis in result.plan.axes]
    own_loss = result.plan.metric is not None
    best = f"best {_SHOWN} of {len(order)} candidates" if len(order) > _SHOWN else None
    out = Table(box=box.SIMPLE_HEAD, title=best, title_justify="left")
    for name in ("rank", *varying, f"{result.name}, mean ± standard error", *(["held-out loss"] * own_loss)):
        out.add_column(name, justify="right")
    diverged = model.diverged.reshape(len(order), -1).sum(axis=1)
    for rank, i in enumerate(order[:_SHOWN], 1):
        score = _with_error(result.mean(i), standard_error(result.score[i]))
        if diverged[i]:
            score = f"{diverged[i]} of {model.n_splits} diverged"
        elif not result.survived(i):
            score = "dropped by halving"
        cells = [_short(rows[i][name]) for name in varying]
        extra = [f"{model.held_out_loss[i].mean():.6g}"] if own_loss else []
        out.add_row(str(rank), *cells, score, *extra, style="bold" if rank == 1 else None)
    return out


def _lines(result: _Result) -> list[str]:
    """The best candidate, and how far it is from the next and from the baseline."""
    model, order = result.run, result.order()
    best = order[0]
    lines = [
        f"best       {_words(model.best_params)}: {result.name} "
        f"{_with_error(result.mean(best), standard_error(result.score[best]))} over {model.n_splits} "
        f"split{'s' * (model.n_splits != 1)}"
    ]
    step = _next(result)
    if step is not None:
        varied = {axis.name: model.params[step["candidate"]][axis.name] for axis in result.plan.axes}
        difference, error = step["difference"], step["standard_error"]
        clear = ""
        if error is not None and abs(difference) <= 2 * error:
            clear = ", no more than the splits' noise"
        spread = "" if error is None else f" ± {error:.2g}"
        if difference < 0:  # the one-standard-error rule passed it over
            clear = "; the chosen one is simpler, and within one standard error of the best"
        way = "worse" if difference >= 0 else "better"
        lines.append(f"next       {_words(varied)}: {way} by {abs(difference):.3g}{spread} (same splits){clear}")
    if result.baseline is not None:
        base, own = float(result.baseline.mean()), float(model.held_out_loss[best].mean())
        what = "the mean" if model.classes is None else "the class shares"
        gain = 100 * (base - own) / abs(base) if base else 0.0
        better = f"{gain:.3g} % lower" if gain > 0 else "NOT lower: the features do not help"
        lines.append(f"baseline   predicting {what}: held-out {model.loss} {base:.6g}; the best candidate's is {better}")
    return lines


def _next(result: _Result) -> dict[str, Any] | None:
    """The second best candidate, how much worse it is, and the standard error of that over the splits."""
    order = result.order()
    if len(order) < 2 or math.isnan(result.mean(order[1])) or not result.survived(order[1]):
        return None
    difference = result.score[order[1]] - result.score[order[0]]
    if result.higher:
        difference = -difference
    error = standard_error(difference)
    return {
        "candidate": order[1],
        "difference": float(difference.mean()),
        "standard_error": None if math.isnan(error) else error,
    }


def _json(result: _Result) -> dict[str, Any]:
    model = result.run
    best = model.best_candidate
    step = _next(result)
    if step is not None:
        step["params"] = result.params(step["candidate"])
    candidates = [
        {
            "params": result.params(i),
            "mean": _number(result.mean(i)),
            "standard_error": _number(standard_error(result.score[i])),
            "scores": [_number(value) for value in result.score[i]],
            "held_out_loss": [_number(value) for value in model.held_out_loss[i]],
        }
        for i in range(model.n_candidates)
    ]
    base = None
    if result.baseline is not None:
        base = {"held_out_loss": _number(result.baseline.mean()), "splits": [_number(v) for v in result.baseline]}
    settings = {name: value for name, value in result.plan.keywords.items() if name != "sample_weight"}
    return {
        "gradfold": gf.__version__,
        "file": result.options.file,
        "target": result.data.table.target,
        "n_rows": len(result.data.X),
        "n_features": result.data.X.shape[1],
        "loss": model.loss,
        "solver": model.solver,
        "classes": None if model.classes is None else model.classes.tolist(),
        "metric": result.plan.metric,
        "higher_is_better": result.higher,
        "splits": result.plan.splits,
        "n_splits": model.n_splits,
        "settings": settings,
        "best": {"candidate": best, **candidates[best]},
        "next": step,
        "baseline": base,
        "candidates": candidates,
        "warnings": result.warnings,
        "files": result.files,
        "python": code(result),
    }


def code(result: _Result) -> str:
    """The same search in Python: it reads the file and gives the same bits."""
    options, plan = result.options, result.plan
    read: dict[str, Any] = {
        "weight": options.weight,
        "group": options.group,
        "ignore": list(options.ignore) or None,
        "categorical": list(options.categorical) or None,
        "format": options.format,
        "header": options.header,
        "delimiter": _delimiter(options.delimiter),
        "encoding": None if options.encoding == "utf-8" else options.encoding,
        "missing": list(options.na) or None,
        "dtype": None if options.dtype == "float64" else options.dtype,
        "max_categories": None if options.max_categories == data.table.MAX_CATEGORIES else options.max_categories,
    }
    arguments = [repr(options.file), *([] if options.target is None else [repr(options.target)])]
    arguments += [f"{name}={value!r}" for name, value in read.items() if value is not None]
    grid = ", ".join(f"{axis.name}={axis.code}" for axis in plan.axes)
    keywords = {name: repr(value) for name, value in plan.keywords.items()}
    if "sample_weight" in keywords:
        keywords["sample_weight"] = "data.sample_weight"
    rest = ", ".join([f"folds={plan.folds_code}", *(f"{name}={text}" for name, text in keywords.items())])
    lines = [
        "import gradfold as gf",
        *(["import numpy as np"] if "np." in grid else []),
        f"data = gf.data.read({', '.join(arguments)})",
        f"run = gf.fit(data.X, data.y, {f'gf.grid({grid}), ' if grid else ''}{rest})",
        "print(run.best_params, run.mean_held_out_loss[run.best_candidate])",
    ]
    return "\n".join(lines)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _words(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_short(value)}" for name, value in params.items())


def _with_error(mean: float, error: float) -> str:
    if math.isnan(mean):
        return "not a number"
    return f"{mean:.6g}" if math.isnan(error) else f"{mean:.6g} ± {error:.2g}"


