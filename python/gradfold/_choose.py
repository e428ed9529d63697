"""Choosing among candidates: the one-standard-error rule, two warnings, and the rungs of successive halving."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold import _check
from gradfold import loss as _loss

if TYPE_CHECKING:
    from gradfold.run import Run

Array = npt.NDArray[Any]

class ChoiceWarning(UserWarning):
    """A choice among candidates that may not be what it seems: at the grid's edge, or among splits that are not alike."""


# A larger value is a simpler model, everything else being equal.
PENALTIES = ("l2", "l1", "weight_decay")

# Where an axis of a grid ends for good, so that the best candidate may well stand there. All others end at 0.
_DOMAIN_ENDS = {"batch_size": 1.0, "average": 1.0}
# Numbers that are names: a larger seed is no further in any direction.
_NO_DIRECTION = ("init_seed", "seed")
_EDGE_VALUES = 3  # an axis of two values has nothing but ends

NOISE_LEVEL = 0.001
_NOISE_ROWS = 4096


def standard_error(values: Array) -> Array:
    """The standard error of the mean over splits, shape (n_candidates,); NaN for fewer than two splits.

    ``s / √k`` with s² the unbiased variance over the k splits, as in Breiman et al. (1984) and glmnet. It takes the
    splits for independent, which overlapping training sets are not; that is how the one-standard-error rule is
    defined, and no more than a rule.
    """
    n_splits = values.shape[1]
    if n_splits < 2:
        return np.full(len(values), np.nan)
    return np.asarray(values.std(axis=1, ddof=1) / math.sqrt(n_splits))


def one_standard_error(mean: npt.ArrayLike, standard_error: npt.ArrayLike, params: Sequence[Mapping[str, Any]]) -> int:
    """The simplest candidate whose mean is at most one standard error above the best one's.

    Parameters
    ----------
    mean : array_like of shape (n_candidates,)
        Lower is better (for a score: its negative). NaN is never chosen.
    standard_error : array_like of shape (n_candidates,)
        Of each mean. Only that of the best candidate is used; where it is NaN (one split), the best is chosen.
    params : sequence of mappings, one for each candidate
        Simpler is what has larger penalties. A candidate competes with the best one if each of its `l2`, `l1` and
        `weight_decay` is at least the best one's and all its other parameters are the same, since a learning rate or
        a batch size says nothing about simplicity. Among those within one standard error, the one of the largest l2
        is chosen, then of the largest l1, then of the largest weight_decay, then of the lowest mean, then the first.

    Returns
    -------
    int
        The candidate; 0 if every mean is NaN.

    References
    ----------
    L. Breiman, J. Friedman, R. Olshen, C. Stone, "Classification and regression trees", 1984, section 3.4.3.
    """
    values = np.asarray(mean, np.float64)
    ranked = np.where(np.isnan(values), np.inf, values)
    best = int(np.argmin(ranked))
    margin = float(np.asarray(standard_error, np.float64)[best])
    if not np.isfinite(ranked[best]) or not margin > 0:
        return best
    limit = ranked[best] + margin

    def penalties(row: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(float(row.get(name, 0.0)) for name in PENALTIES)

    def others(row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name not in PENALTIES}

    least, same = penalties(params[best]), others(params[best])
    chosen, key = best, (least, -ranked[best])
    for candidate, row in enumerate(params):
        own = penalties(row)
        if ranked[candidate] > limit or others(row) != same or any(a < b for a, b in zip(own, least)):
            continue
        if (own, -ranked[candidate]) > key:
            chosen, key = candidate, (own, -ranked[candidate])
    return chosen


def edge_warning(candidates: Sequence[Mapping[str, Any]] | None, best: int) -> str | None:
    """The text of a warning if the best candidate stands at an edge of the grid, else None.

    It does if one of its numbers is the smallest or the largest of at least three values of that parameter. The end
    of a parameter's domain is no edge (l2 = 0), nor is a seed's. Candidates that were drawn (`gradfold.sample`) have
    no edge: among n draws the best is the smallest or the largest with a probability of 2/n, whatever the data.
    """
    if candidates is None or len(candidates) < _EDGE_VALUES or getattr(candidates, "drawn", False):
        return None
    edges = []
    for name, value in candidates[best].items():
        column = [row.get(name) for row in candidates]
        if name in _NO_DIRECTION or not all(_is_number(v) for v in column):
            continue
        values = sorted({float(v) for v in column})  # type: ignore[arg-type]
        if len(values) < _EDGE_VALUES:
            continue
        if float(value) == values[-1]:
            edges.append(f"{name}={value!r} is the largest of {len(values)} values, larger ones may be better")
        elif float(value) == values[0] and values[0] > _DOMAIN_ENDS.get(name, 0.0):
            edges.append(f"{name}={value!r} is the smallest of {len(values)} values, smaller ones may be better")
    return f"the best candidate is at an edge of the grid: {'; '.join(edges)}" if edges else None


def noise_warning(mean: npt.ArrayLike, rank: npt.ArrayLike, count: npt.ArrayLike) -> str | None:
    """The text of a warning if the splits' held-out losses differ by more than their noise, else None.

    The test is Kruskal and Wallis's [1]_: do the losses of the rows have the same distribution in every split? With n_j
    rows in split j, and r̄_j the mean of their ranks among all rows (ties share the mean rank), shifted and scaled so that
    all ranks together have mean 0 and variance 1,

        H = Σ n_j · r̄_j²

    has about a χ² distribution with k − 1 degrees of freedom, whatever that of the losses. The warning comes at a p-value
    below 0.001. Then the splits are not alike (groups of rows that belong together, a drift in time, a split with rows
    of another kind), and the mean over them, with its standard error, is not what it seems.

    Parameters
    ----------
    mean, rank, count : array_like of shape (n_splits,)
        Of one candidate, as `fold_noise` gives them: each split's mean loss, mean standardised rank, and number of rows.
        A split without a row, or whose rank is NaN, is left out; fewer than two splits are no test.

    References
    ----------
    .. [1] W. H. Kruskal, W. A. Wallis, "Use of ranks in one-criterion variance analysis", Journal of the American
       Statistical Association 47, 1952.
    """
    x, r, n = (np.asarray(values, np.float64) for values in (mean, rank, count))
    used = np.isfinite(r) & (n > 0)
    if used.sum() < 2:
        return None
    from scipy.special import chdtrc  # scipy.stats takes a second to import

    p_value = float(chdtrc(used.sum() - 1, (n[used] * r[used] ** 2).sum()))
    if not p_value < NOISE_LEVEL:
        return None
    low, high = (int(np.flatnonzero(used)[place]) for place in (r[used].argmin(), r[used].argmax()))
    return (
        f"the splits' held-out losses differ by more than their noise (Kruskal-Wallis test, p = {p_value:.1g}): "
        f"{x[low]:.4g} in split {low}, {x[high]:.4g} in split {high}; are there groups of rows, or a drift?"
    )


def fold_noise(run: Run, candidate: int) -> tuple[Array, Array, Array]:
    """What `noise_warning` asks for, from the losses of the rows that each split scores.

    At most 4,096 rows of a split, evenly spaced, are looked at: enough to see what matters, and no pass over X. Rows of
    weight 0 are left out; otherwise weights do not count. A split with a loss that is not finite has no rank.

    Returns
    -------
    mean, rank, count : ndarray of float64, shape (n_splits,)
        Mean loss and mean standardised rank of a split's rows, and their number.
    """
    X, y, weight, folds = run._held_out()
    loss = _loss.get(run.loss)
    groups = []
    for split in range(run.n_splits):
        rows = folds.score_indices(split)
        if weight is not None:
            rows = rows[weight[rows] > 0]
        rows = rows[np.arange(min(len(rows), _NOISE_ROWS)) * len(rows) // max(1, min(len(rows), _NOISE_ROWS))]
        if len(rows) == 0:
            groups.append(np.empty(0))
            continue
        z = run._raw_of_rows(X, rows, candidate * run.n_splits + split)
        with np.errstate(all="ignore"):  # of a diverged model
            values = loss.loss(y[rows].astype(np.float64), z)
        groups.append(values if np.isfinite(values).all() else np.empty(0))
    return standardized_ranks(groups)


def standardized_ranks(groups: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Mean value, mean standardised rank (NaN for an empty group), and number of values of each group."""
    count = np.array([len(group) for group in groups], np.float64)
    mean = np.array([group.mean() if len(group) else np.nan for group in groups])
    rank = np.full(len(groups), np.nan)
    values = np.concatenate([*groups, np.empty(0)])
    if len(values) > 1:
        order = np.argsort(values)
        ascending = values[order]
        ranks = np.empty(len(values))
        ranks[order] = np.arange(1, len(values) + 1)
        apart = ascending[1:] != ascending[:-1]
        if not apart.all():
            first = np.flatnonzero(np.concatenate([[True], apart]))  # of those that are tied
            times = np.diff(first, append=len(values))
            ranks[order] = np.repeat(np.cumsum(times) - (times - 1) / 2, times)
        spread = ranks.std(ddof=1)
        ranks = (ranks - ranks.mean()) / (spread if spread > 0 else 1.0)
        ends = np.cumsum(count).astype(np.int64)
        for j, (end, n) in enumerate(zip(ends, count, strict=True)):
            if n:
                rank[j] = ranks[end - int(n) : end].mean()
    return mean, rank, count


def halving_rungs(n_candidates: int, epochs: int, factor: int, min_epochs: int) -> list[tuple[int, int]]:
    """Where successive halving stops to look, and how many candidates go on from there.

    After ``min_epochs · factor^i`` epochs, i = 0, 1, 2, …, the best ``⌈n / factor⌉`` of the n candidates that are
    left go on, until one is left or the epochs end.

    Parameters
    ----------
    n_candidates, epochs : int
        At least 1.
    factor : int
        At least 2.
    min_epochs : int
        At least 1, and less than `epochs`.

    Returns
    -------
    list of (epoch, n_left)
        In order; the rungs lie before the last epoch. Empty for one candidate.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or no integer.

    References
    ----------
    K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016.
    """
    eta = _check.integer("halving: factor", factor, 2)
    epoch = _check.integer("halving: min_epochs", min_epochs, 1)
    if epoch >= epochs:
        raise ValueError(f"halving: got min_epochs={epoch} with epochs={epochs}, wanted fewer than epochs")
    rungs = []
    left = n_candidates
    while left > 1 and epoch < epochs:
        left = -(-left // eta)
        rungs.append((epoch, left))
        epoch *= eta
    return rungs


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
