"""Pictures of a run: validation and learning curves, the spread over folds, ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold import _check

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gradfold.run import Run

Array = npt.NDArray[Any]

KINDS = ("validation", "learning", "folds", "roc", "pr")

# How many candidates are drawn where the caller names none: the best ones.
_LEARNING, _BOXES, _LINES, _CLASSES = 5, 20, 8, 10
_GRID = np.linspace(0.0, 1.0, 201)  # where curves of splits are averaged


def plot(
    run: Run,
    kind: str = "validation",
    ax: Axes | None = None,
    candidates: Iterable[int] | int | None = None,
) -> Axes:
    """Draw a picture of a run; needs matplotlib.

    Parameters
    ----------
    run : Run
    kind : {"validation", "learning", "folds", "roc", "pr"}
        - "validation": the mean held-out loss of each candidate with a band of one standard deviation over the splits.
          The horizontal axis is the parameter that varies; where several do, the number with most values, with a line
          for each combination of the others if there are at most 8, and else the candidate's index.
        - "learning": the mean held-out loss after each epoch, with the same band; default: the 5 best candidates. A
          curve ends with the first epoch in which one of its models was not scored any more.
        - "folds": a box of the splits' held-out losses for each candidate, best first; default: the 20 best.
        - "roc", "pr": from the held-out predictions of a classifier, a thin curve for each split and their mean;
          default: the best candidate. Of several candidates the means only; of more than two classes one against the
          rest, the mean of each class, or of all classes if there are more than 10. Rows count with their weight;
          splits that score one class only have no curve.
    ax : matplotlib Axes, optional
        Where to draw; default: a new figure.
    candidates : int or iterable of int, optional
        Which candidates to draw.

    Returns
    -------
    Axes

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError, TypeError
        An unknown kind, or candidates out of range or of the wrong type.
    RuntimeError
        The run has no splits; "learning": no epoch was completed; "roc" and "pr": the run is a regression, does not
        hold its data (it was loaded from a file), or no split scores two classes.

    Notes
    -----
    ROC curves are averaged vertically: the mean true-positive rate at each false-positive rate [1]_. The mean
    precision-recall curve takes, at each recall, the precision of each split's highest threshold that reaches it.

    References
    ----------
    .. [1] T. Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27, 2006.
    """
    chosen_kind = _check.choice("kind", kind, KINDS)
    if run.n_splits == 0:
        raise RuntimeError(f"this run has no splits, so there is nothing held out to draw ({chosen_kind})")
    chosen = None if candidates is None else _read(candidates, run.n_candidates)
    draw: Callable[[Run, Any, list[int] | None], None] = {
        "validation": _validation,
        "learning": _learning,
        "folds": _folds,
        "roc": _roc,
        "pr": _precision_recall,
    }[chosen_kind]
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("plot needs matplotlib: pip install 'gradfold[cli]'") from None
    own = ax is None
    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    try:
        draw(run, ax, chosen)
    except BaseException:
        if own:
            plt.close(ax.figure)  # type: ignore[arg-type]
        raise
    return ax


def _read(candidates: object, n_candidates: int) -> list[int]:
    if isinstance(candidates, (str, bytes)):
        raise TypeError(f"candidates: got {_check.describe(candidates)}, wanted a list of integers")
    values: Iterable[Any] = candidates if _check.iterable(candidates) else [candidates]  # type: ignore[assignment]
    chosen = [_check.integer("candidates", value, 0, n_candidates - 1) for value in values]
    if not chosen:
        raise ValueError("candidates: got an empty list, wanted at least one")
    return chosen


def _best(run: Run, at_most: int) -> list[int]:
    """The best candidates, best first; the run's own choice before all others, NaN last."""
    mean = run.mean_held_out_loss
    order = np.argsort(np.where(np.isnan(mean), np.inf, mean), kind="stable").tolist()
    first = run.best_candidate
    return [first, *(i for i in order if i != first)][:at_most]


def _mean_and_std(values: Array) -> tuple[Array, Array]:
    """Over the last axis. A model on its way to divergence has losses whose squares are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.mean(axis=-1), values.std(axis=-1)


def _log_scale(ax: Any, values: Array) -> None:
    """A logarithmic vertical axis where one diverging curve would flatten all others."""
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() > 1000 * finite.min():
        ax.set_yscale("log", nonpositive="clip")


def _label(run: Run, candidate: int) -> str:
    """What sets a candidate apart: its values of the parameters that vary."""
    varying = _varying(run)
    row = run.params[candidate]
    return ", ".join(f"{name}={_text(row[name])}" for name in varying) or f"candidate {candidate}"


def _varying(run: Run) -> list[str]:
    rows = run.params
    names = list(rows[0]) if run.candidates is None else run.candidates.names  # in the grid's own order
    return [name for name in names if any(row.get(name) != rows[0][name] for row in rows[1:])]


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _loss_label(run: Run) -> str:
    return f"held-out {run.loss}, mean ± std of {run.n_splits} splits"


# -- from held-out losses ---------------------------------------------------------------------------------------------


def _validation(run: Run, ax: Any, chosen: list[int] | None) -> None:
    mean, std = _mean_and_std(run.held_out_loss)
    shown = list(range(run.n_candidates)) if chosen is None else chosen
    x, name, lines = _axis(run)
    for label, members in lines:
        line = np.array([i for i in members if i in set(shown)], np.int64)
        if len(line) == 0:
            continue
        line = line[np.argsort(x[line], kind="stable")]
        (drawn,) = ax.plot(x[line], mean[line], marker="o", markersize=3, label=label)
        low, high = mean[line] - std[line], mean[line] + std[line]
        ax.fill_between(x[line], low, high, alpha=0.2, linewidth=0, color=drawn.get_color())
    if run.ranked:
        ax.axvline(x[run.best_candidate], linestyle="--", linewidth=1, color="grey")
    placed = x[shown][np.isfinite(mean[shown])]
    if len(placed) and placed.min() > 0 and placed.max() > 20 * placed.min():
        ax.set_xscale("log")
    if len(lines) > 1:
        ax.legend(fontsize="small")
    _log_scale(ax, mean[shown])
    ax.set_xlabel(name)
    ax.set_ylabel(_loss_label(run))


def _axis(run: Run) -> tuple[Array, str, list[tuple[str, list[int]]]]:
    """Each candidate's place on the horizontal axis, the axis's name, and the lines: label and candidates."""
    rows = run.params
    varying = _varying(run)
    everyone = list(range(run.n_candidates))
    numbers = [n for n in varying if all(_is_number(row[n]) for row in rows)]
    if not numbers:
        return np.arange(run.n_candidates, dtype=np.float64), "candidate", [("", everyone)]
    name = max(numbers, key=lambda n: len({row[n] for row in rows}))  # the first of those with most values
    others = [n for n in varying if n != name]
    lines: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        lines.setdefault(", ".join(f"{n}={_text(row[n])}" for n in others), []).append(i)
    if len(lines) > _LINES:
        return np.arange(run.n_candidates, dtype=np.float64), "candidate", [("", everyone)]
    return np.array([row[name] for row in rows], np.float64), name, list(lines.items())


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _learning(run: Run, ax: Any, chosen: list[int] | None) -> None:
    if len(run.history) == 0:
        raise RuntimeError("no epoch was completed, so there is no learning curve")
    shown = _best(run, _LEARNING) if chosen is None else chosen
    if chosen is None and run.ranked:
        shown = [i for i in shown if np.isfinite(run.mean_held_out_loss[i])]
    epochs = np.arange(1, len(run.history) + 1)
    for candidate in shown:
        mean, std = _mean_and_std(run.history[:, candidate])
        (drawn,) = ax.plot(
            epochs, mean, label=_label(run, candidate), marker="o" if len(epochs) == 1 else None, markersize=3
        )
        ax.fill_between(epochs, mean - std, mean + std, alpha=0.15, linewidth=0, color=drawn.get_color())
    _log_scale(ax, _mean_and_std(run.history[:, shown])[0])
    if run.n_candidates > 1:
        ax.legend(fontsize="small")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("epoch")
    ax.set_ylabel(_loss_label(run))


def _folds(run: Run, ax: Any, chosen: list[int] | None) -> None:
    shown = _best(run, _BOXES) if chosen is None else chosen
    values = [run.held_out_loss[i][np.isfinite(run.held_out_loss[i])] for i in shown]
    places = np.arange(1, len(shown) + 1)
    ax.boxplot(values, positions=places, widths=0.6, showfliers=False)  # every split is drawn as a point
    for place, own in zip(places, values, strict=True):
        ax.plot(np.full(len(own), place), own, linestyle="", marker="o", markersize=3, alpha=0.6, color="grey")
    ax.set_xticks(
        places,
        [_label(run, i) for i in shown],
        rotation=45 if len(shown) > 3 else 0,
        ha="right" if len(shown) > 3 else "center",
    )
    ax.set_ylabel(f"held-out {run.loss} of {run.n_splits} splits")


# -- from held-out predictions ----------------------------------------------------------------------------------------


def _roc(run: Run, ax: Any, chosen: list[int] | None) -> None:
    ax.plot([0, 1], [0, 1], linestyle=":", linewidth=1, color="grey")
    _curves(run, ax, chosen, "ROC", roc_curve, roc_at)
    ax.set_xlabel("false-positive rate")
    ax.set_ylabel("true-positive rate")


def _precision_recall(run: Run, ax: Any, chosen: list[int] | None) -> None:
    _curves(run, ax, chosen, "precision-recall", precision_recall_curve, precision_at)
    ax.set_xlabel("recall")
    ax.set_ylabel("precision")


def _curves(
    run: Run,
    ax: Any,
    chosen: list[int] | None,
    what: str,
    curve: Callable[[Array, Array, Array], tuple[Array, Array, float]],
    at: Callable[[Array, Array, Array], Array],
) -> None:
    """Curves of splits and their means; `curve` gives x, y and the area, `at` reads a curve at given x."""
    if run.classes is None:
        raise RuntimeError(f"a {what} curve needs a classifier; this run is a regression (loss={run.loss!r})")
    shown = [run.best_candidate] if chosen is None else chosen
    n_outputs = 1 if run.coef.ndim == 2 else int(run.coef.shape[1])
    if n_outputs > 1 and len(shown) > 1:
        raise ValueError(f"candidates: got {len(shown)} for a run of {n_outputs} classes, wanted one")
    drawn = 0
    for candidate in shown:
        # class -> curves of the splits
        found: dict[int, list[tuple[Array, Array, float]]] = {}
        for split in range(run.n_splits):
            held_out = _held_out(run, candidate, split)
            if held_out is None:
                continue
            y, w, z = held_out
            for output in range(n_outputs):
                positive = y > 0 if n_outputs == 1 else y == output
                if 0 < positive.sum() < len(y):
                    found.setdefault(output, []).append(curve(positive, z[:, output], w))
        means = {
            output: (np.mean([at(x, y, _GRID) for x, y, _ in curves], axis=0), np.mean([a for *_, a in curves]))
            for output, curves in sorted(found.items())
        }
        if not means:
            continue
        drawn += 1
        name = _label(run, candidate) if run.n_candidates > 1 else "mean"
        if n_outputs == 1:
            mean, area = means[0]
            if len(shown) == 1:
                for split, (x, y, _) in enumerate(found[0]):
                    ax.plot(x, y, linewidth=0.7, alpha=0.5, color="grey", label="splits" if split == 0 else None)
            ax.plot(_GRID, mean, linewidth=2, label=f"{name} (area {area:.3f})")
        elif n_outputs <= _CLASSES:
            for output, (mean, area) in means.items():
                ax.plot(_GRID, mean, label=f"{run.classes[output]} (area {area:.3f})")
        else:
            mean = np.mean([m for m, _ in means.values()], axis=0)
            area = np.mean([a for _, a in means.values()])
            ax.plot(_GRID, mean, linewidth=2, label=f"mean of {len(means)} classes (area {area:.3f})")
    if not drawn:
        raise RuntimeError(f"no split scores rows of two classes with a model that did not diverge: no {what} curve")
    ax.legend(fontsize="small")


def _held_out(run: Run, candidate: int, split: int) -> tuple[Array, Array, Array] | None:
    """y, weight and raw predictions (n, n_outputs) of the rows that a split scores; None if there is nothing."""
    _, y, weight, folds = run._held_out()
    m = candidate * run.n_splits + split
    rows = folds.score_indices(split)
    if weight is not None:
        rows = rows[weight[rows] > 0]
    if len(rows) == 0 or run.diverged[m]:
        return None
    raw = run.held_out_raw_prediction(models=[m])[0]
    w = np.ones(len(rows)) if weight is None else weight[rows].astype(np.float64)
    return y[rows], w, raw[rows].reshape(len(rows), -1)


def _cumulated(positive: Array, score: Array, weight: Array) -> tuple[Array, Array]:
    """Weights of the true and the false positives for each distinct threshold, from the highest down."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    true = np.cumsum(np.where(positive, weight, 0)[order])[last]
    false = np.cumsum(np.where(positive, 0, weight)[order])[last]
    return true, false


def roc_curve(positive: Array, score: Array, weight: Array) -> tuple[Array, Array, float]:
    """False-positive rate, true-positive rate (both from 0 to 1), and the area under it by trapezia."""
    true, false = _cumulated(positive, score, weight)
    x, y = np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])
    return x, y, float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2)


def roc_at(x: Array, y: Array, where: Array) -> Array:
    """The true-positive rate at false-positive rates, the highest one where the curve is vertical."""
    last = np.append(np.flatnonzero(np.diff(x)), len(x) - 1)
    return np.asarray(np.interp(where, x[last], y[last]))


def precision_recall_curve(positive: Array, score: Array, weight: Array) -> tuple[Array, Array, float]:
    """Recall, precision (from the highest threshold down), and the average precision Σ (R_i − R_{i−1})·P_i."""
    true, false = _cumulated(positive, score, weight)
    recall, precision = true / true[-1], true / (true + false)
    return recall, precision, float((np.diff(np.append(0.0, recall)) * precision).sum())


def precision_at(recall: Array, precision: Array, where: Array) -> Array:
    """The precision of the highest threshold whose recall is at least `where`."""
    return np.asarray(precision[np.minimum(np.searchsorted(recall, where), len(recall) - 1)])
