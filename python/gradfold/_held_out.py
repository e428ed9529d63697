"""Metrics and thresholds of a run, from its models' raw predictions of the rows that their splits score.

One split after another, one block of models after another; a block's rows come in chunks, unless the metric sorts
them. So memory holds one block of raw predictions and one chunk of X, whatever the number of models and rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, metrics

if TYPE_CHECKING:
    from gradfold.run import Run

Array = npt.NDArray[Any]

_CHUNK_BYTES = 16 << 20  # of the rows of X, and of their raw predictions, while a metric takes them chunk by chunk


def scores(run: Run, scoring: str, *, n_threads: int | None = None) -> Array:
    """The held-out score of each candidate and split, higher is better; (n_candidates, n_splits).

    Raises
    ------
    ValueError
        A name that is not in `metrics.SCORINGS`, or that does not suit the run's loss.
    RuntimeError
        The run does not hold its data, or has no splits.
    """
    name = _check.choice("scoring", scoring, metrics.SCORINGS)
    metric_name, sign, options = metrics.SCORINGS[name]
    run._held_out()
    threads, none = _check.threads(n_threads), np.zeros(_shape(run))
    return np.asarray(sign * _by_loss(run, "scoring", name, metric_name, options, none, threads))


def metric(
    run: Run,
    name: str,
    *,
    average: str | None = None,
    multi_class: str = "ovr",
    beta: float = 1.0,
    k: int = 2,
    threshold: npt.ArrayLike = 0.0,
    n_threads: int | None = None,
) -> Array:
    """A held-out metric with its own sign, (n_candidates, n_splits), or with two more axes for "confusion_matrix".

    The options are those of `metrics.evaluate`; `threshold` may be an array (n_candidates, n_splits).

    Raises
    ------
    ValueError, TypeError
        As `metrics.evaluate`.
    RuntimeError
        The run does not hold its data, or has no splits.
    """
    name = _check.choice("name", name, metrics.NAMES)
    options = metrics.read_options(average, multi_class, beta, k)
    run._held_out()
    limits = metrics.read_threshold(threshold, _shape(run))
    return _by_loss(run, "name", name, name, options, limits, _check.threads(n_threads))


def _by_loss(
    run: Run, argument: str, given: str, name: str, options: Any, threshold: Array, n_threads: int
) -> Array:
    """Each candidate's metric by what its own loss makes of raw predictions; refused if it does not suit one of them."""
    losses = [str(row.get("loss", _loss(run))) for row in run.params]
    works = {
        loss: metrics.Evaluation.of(argument, given, name, options, loss, _n_outputs(run)) for loss in dict.fromkeys(losses)
    }
    out = None
    for loss, work in works.items():
        all_of_them = _evaluate(run, loss, work, threshold, n_threads)
        mine = np.array([own == loss for own in losses])
        if out is None:
            out = all_of_them
        out[mine] = all_of_them[mine]
    assert out is not None
    return out


def calibrate(
    run: Run,
    *,
    by: str = "accuracy",
    target: float | None = None,
    beta: float = 1.0,
    n_threads: int | None = None,
) -> metrics.Calibration:
    """The best threshold of each candidate and split on its held-out rows; arrays (n_candidates, n_splits).

    Raises
    ------
    ValueError, TypeError
        As `metrics.calibrate`.
    RuntimeError
        The run is no binary classifier, does not hold its data, or has no splits.
    """
    criterion = metrics.read_criterion(by, target, beta)
    run._held_out()
    if _loss(run) not in metrics.BINARY:
        raise RuntimeError(f"calibrate needs a binary classifier; this run used loss={_loss(run)!r}")
    threads = _check.threads(n_threads)
    out = metrics.Calibration(np.full(_shape(run), np.nan), np.full(_shape(run), np.nan))

    def block(problem: metrics.Problem, models: Array, raw: Any, place: tuple[slice, int]) -> None:
        whole = np.empty((problem.n_rows, 1, len(models)), run.coef.dtype)
        for a, z in raw():
            whole[a : a + len(z)] = z
        found = metrics.calibrated(problem, whole, criterion)
        out.threshold[place], out.value[place] = found

    _each_block(run, _loss(run), threads, lambda problem: metrics.block_models(_column_bytes(run, problem, True)), block)
    for array in out:
        array[run.diverged.reshape(array.shape)] = np.nan
    return out


def _evaluate(run: Run, loss: str, work: metrics.Evaluation, threshold: Array, n_threads: int) -> Array:
    out = np.full((*_shape(run), *work.result_shape), np.nan)
    n_outputs = _n_outputs(run)

    def at_once(problem: metrics.Problem) -> int:
        return work.models_at_once(problem, _column_bytes(run, problem, work.whole))

    def block(problem: metrics.Problem, models: Array, raw: Any, place: tuple[slice, int]) -> None:
        gathered = work.start(problem, len(models), threshold[place])
        if work.whole:
            # (model, output) side by side, as the kernels give them; metrics read any strides.
            whole = np.empty((problem.n_rows, len(models), n_outputs), run.coef.dtype).transpose(0, 2, 1)
            for a, z in raw():
                whole[a : a + len(z)] = z
            gathered.add(whole, 0)
        else:
            for a, z in raw():
                gathered.add(z, a)
        out[place] = work.finish(gathered)

    _each_block(run, loss, n_threads, at_once, block)
    out[run.diverged.reshape(_shape(run))] = np.nan
    return out


def _each_block(
    run: Run,
    loss: str,
    n_threads: int,
    at_once: Callable[[metrics.Problem], int],
    use: Callable[[metrics.Problem, Array, Any, tuple[slice, int]], None],
) -> None:
    """Call use(problem, models, raw, place) for blocks of at most `at_once(problem)` models of a split.

    raw() gives (first row, raw predictions (rows, n_outputs, n_models)) in turn; place is where the block stands in an
    array (n_candidates, n_splits). Splits that score no row of positive weight are left out.
    """
    X, y, weight, folds = run._held_out()
    n_outputs = _n_outputs(run)
    for split in range(run.n_splits):
        rows = folds.score_indices(split)
        if weight is not None:
            rows = rows[weight[rows] > 0]
        if len(rows) == 0:
            continue
        own = None if weight is None else weight[rows]
        problem = metrics.read_problem(loss, n_outputs, y[rows], own, n_threads)
        step = max(1, at_once(problem))
        for a in range(0, run.n_candidates, step):
            b = min(a + step, run.n_candidates)
            models = np.arange(a, b) * run.n_splits + split
            use(problem, models, lambda rows=rows, models=models: _raw(run, X, rows, models, n_threads), (slice(a, b), split))


def _raw(run: Run, X: Any, rows: Array, models: Array, n_threads: int) -> Iterator[tuple[int, Array]]:
    from gradfold.run import _raw as raw_prediction  # run.py imports this module in turn

    n_outputs = _n_outputs(run)
    coef = run.coef[models].reshape(-1, X.shape[1])
    intercept = run.intercept[models].reshape(-1)
    for a, b in _chunks(run, len(rows)):
        z = raw_prediction(run._rows(X, rows[a:b], int(models[0]) % run.n_splits), coef, intercept, n_threads)
        yield a, z.reshape(b - a, len(models), n_outputs).transpose(0, 2, 1)


def _chunks(run: Run, n_rows: int) -> Iterable[tuple[int, int]]:
    return metrics.row_chunks(n_rows, run.coef.shape[-1] * run.coef.itemsize, _CHUNK_BYTES)


def _column_bytes(run: Run, problem: metrics.Problem, whole: bool) -> int:
    """What the raw predictions of one model take: those of a chunk of rows, and of all rows if they are gathered."""
    chunk = next(iter(_chunks(run, problem.n_rows)))[1]
    return (chunk + (problem.n_rows if whole else 0)) * _n_outputs(run) * run.coef.itemsize


def _shape(run: Run) -> tuple[int, int]:
    return run.n_candidates, run.n_splits


def _loss(run: Run) -> str:
    return _check.choice("loss", run.loss, metrics.LOSSES)


def _n_outputs(run: Run) -> int:
    return 1 if run.coef.ndim == 2 else int(run.coef.shape[1])
