"""What went wrong with a model: diverging, vanishing gradient, overfitting, underfitting; and columns that others explain.

The formulas stand in docs/diagnostics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradfold import _check, gradient
from gradfold._moments import of_all

if TYPE_CHECKING:
    import pandas as pd

    from gradfold.index import Folds
    from gradfold.run import Run

Array = npt.NDArray[Any]
_Kind = tuple[str, tuple[tuple[str, float], ...]]  # a loss's name, and its keywords of `loss_gradient`

__all__ = ["FINDINGS", "Collinearity", "Finding", "Report", "collinearity", "diagnose"]

DIVERGING, VANISHING, OVERFITTING, UNDERFITTING = "diverging", "vanishing gradient", "overfitting", "underfitting"
FINDINGS = (DIVERGING, VANISHING, OVERFITTING, UNDERFITTING)

# A finding is there above (+1) or below (-1) its threshold.
_THRESHOLDS = {DIVERGING: (1.1, 1), VANISHING: (1e-4, -1), OVERFITTING: (1.0, 1), UNDERFITTING: (0.05, -1)}
_GAP, _RISE = 0.2, 0.05  # of the null loss: what a gap, and a rise from the best epoch, may be
_FALLEN = 0.5  # a gradient below this share of the one at zero weights has been used by the training

_WITH_EPSILON = ("huber", "epsilon_insensitive", "squared_epsilon_insensitive")
_CONSTANTS, _ROUNDS = 33, 6  # of the search for the best constant: each round narrows it by 16


class Finding(NamedTuple):
    """One finding about one model.

    Attributes
    ----------
    candidate, split : int
    finding : str
        One of `FINDINGS`.
    statistic, threshold : float
        The finding is there because the statistic is above the threshold for "diverging" and "overfitting", and below
        it for the others.
    """

    candidate: int
    split: int
    finding: str
    statistic: float
    threshold: float


@dataclass(frozen=True)
class Report:
    """The findings about the models of a run, in the order of candidates, splits and `FINDINGS`.

    It is a sequence of `Finding`; an empty one means that nothing was found.

    Attributes
    ----------
    findings : list of Finding
    statistics : dict of ndarray
        Every statistic, found or not: name -> float64 of shape (n_candidates, n_splits), NaN where it does not apply.
    """

    findings: list[Finding]
    statistics: dict[str, Array] = field(repr=False)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, index: Any) -> Any:
        return self.findings[index]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def found(self, finding: str) -> Array:
        """Which models have this finding, bool of shape (n_candidates, n_splits).

        Raises
        ------
        ValueError, TypeError
            No name of a finding.
        """
        return _found(_check.choice("finding", finding, FINDINGS), self.statistics[finding])

    def to_frame(self) -> pd.DataFrame:
        """A table with the columns candidate, split, finding, statistic, threshold; needs pandas."""
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install 'gradfold[cli]'") from None
        return pd.DataFrame(self.findings, columns=list(Finding._fields))

    def __repr__(self) -> str:
        shape = " × ".join(map(str, next(iter(self.statistics.values())).shape))
        if not self.findings:
            return f"<gradfold.diagnostics.Report: nothing found in {shape} models>"
        lines = [f"{len(self.findings)} findings in {shape} models", "candidate  split  finding             statistic"]
        for row in self.findings[:20]:
            sign = ">" if _THRESHOLDS[row.finding][1] > 0 else "<"
            lines.append(
                f"{row.candidate:>9}  {row.split:>5}  {row.finding:<18}  {row.statistic:.3g} {sign} {row.threshold:g}"
            )
        if len(self.findings) > 20:
            lines.append(f"… and {len(self.findings) - 20} more (to_frame() has them all)")
        return "\n".join(lines)


def diagnose(run: Run, *, n_threads: int | None = None) -> Report:
    """Look for models that diverge, do not learn, learn by heart, or learn too little.

    One pass over X gives the training loss and its gradient of all models at their final weights; held-out losses come
    from the run. It holds two more copies of the weights meanwhile.

    Parameters
    ----------
    run : Run
        With its data: not one that was loaded from a file.
    n_threads : int, optional
        Default: the processors this process may use.

    Returns
    -------
    Report
        For each model these statistics, L being the weighted mean training loss without penalty at the final weights,
        L₀ that at zero weights, L_c that of the best constant prediction (L₀ if the run fits no intercept), H the
        held-out loss, and g the gradient of L with respect to the weights (the standardised ones if the run
        standardises), g₀ that at zero weights:

        - diverging: L / L₀ > 1.1, unless the held-out loss is below that of the first epoch; infinite for a model that
          met a value that is not finite. Such a model has no other finding;
        - vanishing gradient: ‖g‖ / L < 10⁻⁴ although ‖g‖ ≥ ½ ‖g₀‖: a unit of weight hardly moves the loss, and that is
          not because training has brought the gradient down;
        - overfitting: max(G / 0.2, min(G, R) / 0.05) > 1, with the gap G = (H − L) / L_c and the rise of the held-out
          loss from its best epoch R = (H − min over epochs) / L_c;
        - underfitting: 1 − L / L_c < 0.05: the model is hardly better than a constant.

    Raises
    ------
    RuntimeError
        The run was loaded from a file, or has no splits.
    """
    X, y, weight, folds = _training_data(run)
    threads = _check.threads(n_threads)
    shape = (run.n_candidates, run.n_splits)
    L, L0, Lc, norm, norm0 = (np.full(shape, np.nan) for _ in range(5))
    fits_intercept = run.settings.get("fit_intercept", True)
    kinds = [_kind(run, candidate) for candidate in range(run.n_candidates)]
    for kind in dict.fromkeys(kinds):
        mine = np.array([i for i, other in enumerate(kinds) if other == kind])
        for data, splits in _views(run, X):
            at = np.ix_(mine, splits)
            L[at], L0[at], norm[at], norm0[at] = _loss_and_norm(
                run, mine, splits, kind, data, y, weight, folds, threads
            )
        Lc[mine] = _constant_loss(kind, X.dtype, y, weight, folds, threads) if fits_intercept else L0[mine]

    H = run.held_out_loss
    history = run.history.reshape(-1, *shape)
    lowest = np.fmin.reduce(history, axis=0) if len(history) else H
    with np.errstate(all="ignore"):
        rose = ~(H < history[0]) if len(history) > 1 else np.ones(shape, bool)
        ratio = np.where((L0 > 0) & rose, L / L0, np.nan)
        ratio[run.diverged.reshape(shape)] = np.inf
        gap, rise = (np.where(Lc > 0, (H - other) / Lc, np.nan) for other in (L, lowest))
        statistics = {
            DIVERGING: ratio,
            VANISHING: np.where((norm >= _FALLEN * norm0) & (L > 0), norm / L, np.nan),
            OVERFITTING: np.fmax(gap / _GAP, np.minimum(gap, rise) / _RISE),
            UNDERFITTING: np.where(Lc > 0, 1 - L / Lc, np.nan),
        }
    diverging = _found(DIVERGING, ratio)
    for name in FINDINGS[1:]:
        statistics[name][diverging] = np.nan
    findings = [
        Finding(int(candidate), int(split), name, float(statistics[name][candidate, split]), _THRESHOLDS[name][0])
        for candidate, split in np.argwhere(np.any([_found(name, statistics[name]) for name in FINDINGS], axis=0))
        for name in FINDINGS
        if _found(name, statistics[name])[candidate, split]
    ]
    return Report(findings, statistics)


class Collinearity(NamedTuple):
    """How far the columns of a matrix explain each other.

    Attributes
    ----------
    variance_inflation : ndarray of float64, shape (n_features,)
        1 / (1 − R²) of each column on all others: by how much they inflate the variance of its weight. Infinite for a
        column that is a sum of others up to rounding, NaN for a constant one.
    rank : int
        Of the centred columns, each in units of its standard deviation.
    condition : float
        Their largest singular value over the smallest, infinite where the rank is not full.
    """

    variance_inflation: Array
    rank: int
    condition: float


def collinearity(X: Any, sample_weight: npt.ArrayLike | None = None, *, n_threads: int | None = None) -> Collinearity:
    """Variance inflation factors, rank and condition of X's columns, from one pass that sums their Gram matrix in float64.

    Parameters
    ----------
    X : array_like of shape (n_rows, n_features)
    sample_weight : array_like of shape (n_rows,), optional
        At least 0.
    n_threads : int, optional
        Default: the processors this process may use.

    Returns
    -------
    Collinearity
        Inflation factors in float64, shape (n_features,) [1]_.

    Raises
    ------
    ValueError
        Values that are not finite, fewer than two rows, or no weight above 0.

    References
    ----------
    .. [1] D. W. Marquardt, "Generalized inverses, ridge regression, biased linear estimation, and nonlinear estimation",
       Technometrics 12, 1970.
    """
    threads = _check.threads(n_threads)
    data, _ = _check.data_matrix("X", X, None)
    sums = of_all(data, np.zeros(len(data), data.dtype), sample_weight, threads)
    C, n_features = sums.comoment[:-1, :-1], data.shape[1]
    varies = sums.scales(len(data)) > 0  # constant by the bound that standardising has
    root = np.sqrt(np.diagonal(C)[varies])
    inflation = np.full(n_features, np.nan)
    values, vectors = np.linalg.eigh(C[np.ix_(varies, varies)] / np.multiply.outer(root, root))
    kept = values > n_features * np.finfo(np.float64).eps * values.max(initial=0.0)
    # A column with a part outside the space of those that are kept is a sum of others.
    outside = (vectors[:, ~kept] ** 2).sum(axis=1)
    inside = (vectors[:, kept] ** 2 / values[kept]).sum(axis=1)
    inflation[varies] = np.where(outside > 1e-8, np.inf, inside)
    full = len(values) == n_features and bool(kept.all())
    condition = float(np.sqrt(values.max() / values.min())) if full and len(values) else float(np.inf)
    return Collinearity(inflation, int(kept.sum()), condition)


def _found(finding: str, statistic: Array) -> Array:
    threshold, sign = _THRESHOLDS[finding]
    return np.asarray(sign * statistic > sign * threshold)  # False for NaN


def _training_data(run: Run) -> tuple[Array, Array, Array | None, Folds]:
    run._held_out()  # raises for a run without data or splits
    assert run._data is not None and run._folds is not None
    return (*run._data, run._folds)


def _kind(run: Run, candidate: int) -> _Kind:
    """A candidate's loss, and what it needs beside its name, as keywords of `loss_gradient`."""
    row = run.params[candidate]
    loss = str(row.get("loss", run.loss))
    if loss not in _WITH_EPSILON:
        return loss, ()
    return loss, (("loss_epsilon", float(row.get("loss_epsilon", run.settings.get("loss_epsilon", 0.1)))),)


def _views(run: Run, X: Array) -> Iterator[tuple[Array, Array]]:
    """X and the splits that see it so: all of them, or, where missing cells are filled, one after another."""
    fill: Array | None = getattr(run, "_split_fill", None)
    if fill is None:
        yield X, np.arange(run.n_splits)
        return
    for split in range(run.n_splits):
        yield np.where(np.isnan(X), fill[split].astype(X.dtype), X), np.array([split])


def _loss_and_norm(
    run: Run,
    candidates: Array,
    splits: Array,
    kind: _Kind,
    X: Array,
    y: Array,
    weight: Array | None,
    folds: Folds,
    threads: int,
) -> tuple[Array, Array, Array, Array]:
    """Training loss at the final and at zero weights, and the norms of their gradients.

    Of shapes (n_candidates, n_splits) and (n_splits,). One call for all of them: the models at zero weights, one for
    each split, stand behind the others.
    """
    k = len(splits)
    models = (candidates[:, None] * run.n_splits + splits).ravel()
    outputs = run.coef.shape[1:-1]  # () or (n_outputs,)
    W = np.zeros((run.n_features, *outputs, len(models) + k), X.dtype)
    W[..., : len(models)] = np.moveaxis(run.coef[models], (0, -1), (-1, 0))
    intercept = np.zeros((*outputs, len(models) + k), X.dtype)
    intercept[..., : len(models)] = np.moveaxis(run.intercept[models], 0, -1)
    value, g, g_intercept = gradient.loss_gradient(
        X,
        y,
        W,
        intercept,
        loss=kind[0],
        folds=folds,
        split_of_model=np.tile(splits, len(candidates) + 1),
        sample_weight=weight,
        n_threads=threads,
        **_keywords(kind),
    )
    assert value is not None and g_intercept is not None
    del W
    mean, scale = np.zeros(run.n_features), np.ones(run.n_features)
    if run.settings.get("standardize", False):
        mean, scale = _moments(X, weight, folds)
    with np.errstate(all="ignore"):  # of models whose weights have grown without end
        square = sum(((g[j].astype(np.float64) - mean[j] * g_intercept) / scale[j]) ** 2 for j in range(len(g)))
        norm = np.sqrt(np.asarray(square).reshape(-1, len(value)).sum(axis=0))
    value, zero_value = value[: len(models)].reshape(-1, k), value[len(models) :]
    return value, zero_value, norm[: len(models)].reshape(-1, k), norm[len(models) :]


def _keywords(kind: _Kind) -> dict[str, Any]:
    return dict(kind[1])


def _moments(X: Array, weight: Array | None, folds: Folds) -> tuple[Array, Array]:
    """Mean and scale of the features over the rows that some split uses; a constant feature has the scale 1.

    A split's own moments differ by little, and a norm beside a threshold needs no more.
    """
    from gradfold import _splits

    used = _splits.refit_ids(folds, len(X))[0] == 0
    w = used.astype(np.float64) if weight is None else np.where(used, weight, 0).astype(np.float64)
    total = w.sum()

    def mean_of(values: Callable[[Array], Array]) -> Array:
        out = np.zeros(X.shape[1])
        for a, b in _check.row_blocks(X):
            some = w[a:b] > 0
            out += w[a:b][some] @ values(X[a:b][some].astype(np.float64))
        return np.asarray(out / total)

    mean = mean_of(lambda x: x)
    scale: Array = np.sqrt(mean_of(lambda x: (x - mean) ** 2))
    scale[scale <= 1e-7 * np.abs(mean)] = 1.0
    scale[scale == 0] = 1.0
    return mean, scale


def _constant_loss(
    kind: _Kind,
    dtype: np.dtype[Any],
    y: Array,
    weight: Array | None,
    folds: Folds,
    threads: int,
) -> Array:
    """The training loss of the best constant prediction of each split, shape (n_splits,)."""
    k, loss = folds.n_splits, kind[0]
    if loss == "multinomial":
        return _entropy(y, weight, folds)
    finite = y[np.isfinite(y)]
    labels = loss not in ("squared_error", *_WITH_EPSILON)
    low, high = (-20.0, 20.0) if labels else (float(finite.min()), float(finite.max()))
    lows, highs = np.full(k, low), np.full(k, high)
    X, W = np.zeros((len(y), 1), dtype), np.zeros((1, _CONSTANTS * k), dtype)
    best = np.full(k, np.inf)
    splits = np.arange(k)
    for _ in range(_ROUNDS):
        constants = np.linspace(lows, highs, _CONSTANTS)  # (_CONSTANTS, n_splits), model = constant · n_splits + split
        value, _, _ = gradient.loss_gradient(
            X,
            y,
            W,
            constants.ravel().astype(dtype),
            loss=loss,
            folds=folds,
            sample_weight=weight,
            n_threads=threads,
            **_keywords(kind),
        )
        assert value is not None
        values = value.reshape(_CONSTANTS, k)
        place = np.argmin(values, axis=0)
        best = np.minimum(best, values[place, splits])
        lows = constants[np.maximum(place - 1, 0), splits]
        highs = constants[np.minimum(place + 1, _CONSTANTS - 1), splits]
    return best


def _entropy(y: Array, weight: Array | None, folds: Folds) -> Array:
    """Of the classes in each split's training rows: what the multinomial loss of the class frequencies is."""
    codes = y.astype(np.int64)
    out = np.empty(folds.n_splits)
    for split in range(folds.n_splits):
        trains = folds.role(split) == 1
        w = None if weight is None else weight[trains].astype(np.float64)
        share = np.bincount(codes[trains], w)
        share = share[share > 0] / share.sum()
        out[split] = -(share * np.log(share)).sum()
    return out
