"""How models came to their optima, and what `fit` says of those that did not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold._optimum import CONVERGED, DIVERGED, MAX_ITER, PRECISION

if TYPE_CHECKING:
    from gradfold.run import Run

Array = npt.NDArray[Any]

_ILL_CONDITIONED = 1e-9  # as in csrc/optimum/lbfgs.cpp


class ConvergenceWarning(UserWarning):
    """Models that have not come as near to their optimum as `tol` asks for."""


def gather(plan: Any) -> dict[str, Array]:
    """`Trainer.arrivals` of all parts of a plan, in the plan's order."""

    def of(name: str) -> Array:
        out: Array = plan.gather(lambda trainer: trainer.arrivals[name])
        return out

    return {name: of(name) for name in plan.parts[0].trainer.arrivals}


def mean_of_splits(run: Run) -> tuple[Array, Array] | None:
    """Weights (1, …) and intercepts of the best candidate, the mean over its splits; None unless all are at an optimum that exists."""
    if run.arrivals is None or not run.n_splits:
        return None
    models = run.best_candidate * run.n_splits + np.arange(run.n_splits)
    own = {name: run.arrivals[name].reshape(-1)[models] for name in ("how", "separable", "one_class")}
    if (own["how"] != CONVERGED).any() or own["separable"].any() or own["one_class"].any():
        return None

    def mean(values: Array) -> Array:
        total = np.zeros(values.shape[1:])
        for m in models.tolist():  # in this order, whatever NumPy's is
            total += values[m]
        return np.asarray(total / len(models))[None]

    return mean(run.coef), mean(run.intercept)


def warnings_of(arrivals: dict[str, Array], n_splits: int, settings: Any, dtype: np.dtype[Any]) -> list[str]:
    """What to say of models that did not converge, and of columns left out. Without splits it is the refit's."""
    tol = settings.tol
    exact = np.repeat([row["solver"] == "cholesky" for row in settings.params], max(1, n_splits))

    def named(models: Array) -> str:
        if not n_splits:
            return "the refit"
        candidates = np.unique(models // n_splits).tolist()
        shown = ", ".join(map(str, candidates[:10])) + (", …" if len(candidates) > 10 else "")
        return f"{len(models)} of {len(how)} models (candidates {shown})"

    how = arrivals["how"]
    dropped = np.where(exact & (how != DIVERGED), arrivals["dropped"], 0)
    out = []
    ill = (arrivals["smallest_pivot"] < _ILL_CONDITIONED) & (dropped == 0) & (how != DIVERGED) & exact
    if ill.any():
        out.append(
            f"{named(np.flatnonzero(ill))}: columns are nearly sums of others (of one no more than "
            f"{arrivals['smallest_pivot'][ill].min():.1g} of its square is its own), so that the normal equations have few digits "
            "left; passes over X have refined the fit, but single weights may be off. A larger l2 helps"
        )
    if arrivals["one_class"].any():
        out.append(
            f"{named(np.flatnonzero(arrivals['one_class']))}: the training rows lack one of the classes, so its intercept has no "
            "optimum whatever l2 is; stratified folds, or fit_intercept=False"
        )
    separable = np.flatnonzero(arrivals["separable"] & ~arrivals["one_class"])
    if len(separable):
        out.append(
            f"{named(separable)}: the training rows are separable and l2 is 0, so there is no "
            "optimum: larger weights fit ever better; these are where the gradient fell below tol. l2 above 0 has one"
        )
    if dropped.any():
        out.append(
            f"{named(np.flatnonzero(dropped))}: up to {int(dropped.max())} columns are sums of others up to rounding, and their "
            "weights stay 0; a larger l2 spreads them"
        )
    short = np.flatnonzero((how == MAX_ITER) | (how == PRECISION))
    if not len(short):
        return out
    reasons = []
    scaled = "" if settings.standardize else " or standardize=True"
    crowded = (how == MAX_ITER) & (arrivals["n_iter"] < settings.max_iter)
    if crowded.any():
        reasons.append("more columns want a weight than may have one, 5,000 (raise l1)")
    if ((how == MAX_ITER) & ~crowded).any():
        reasons.append(f"max_iter was reached (raise max_iter or l2{scaled})")
    if (how == PRECISION).any():
        wider = "dtype=np.float64 or " if dtype == np.float32 else ""
        reasons.append(f"no step lowers the objective in this precision ({wider}a larger tol{scaled})")
    worst = float(np.nanmax(arrivals["gradient_norm"][short]))
    out.append(
        f"{named(short)} did not converge to tol={tol:g}: {'; '.join(reasons)}; largest component of the gradient {worst:.3g}"
    )
    return out
