"""Calls of the solvers of optima on the problems of `calls`, with results as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from gradfold import _optimum
from gradfold._problem import Problem, Rows
from gradfold._target import Target


@dataclass
class Solved:
    """What a solver came to: arrays over the models."""

    coef: np.ndarray
    intercept: np.ndarray
    held_out: np.ndarray
    arrivals: dict[str, np.ndarray]

    def of(self, k):
        """Model k as bytes: weights, held-out loss, and how it got there."""
        parts = (self.weights_of(k), self.held_out[k].tobytes(), *(v[k].tobytes() for v in self.arrivals.values()))
        return b"".join(parts)

    def weights_of(self, k):
        return self.coef[k].tobytes() + self.intercept[k].tobytes()

    def bytes(self):
        return [self.of(k) for k in range(len(self.coef))]


def trainer(
    q, solver="lbfgs", *, n_threads=1, standardize=False, fit_intercept=True, tol=1e-6, max_iter=60, check_finite=False,
    device="cpu",
):
    """The trainer of a `calls.Problem`, whose learning rates and l1 it does not read."""
    classes = np.arange(q.W.shape[1]) if q.loss == "multinomial" else None
    problem = Problem(loss=q.loss, X=q.X, target=Target(q.loss, q.y, classes))
    settings = SimpleNamespace(
        n_threads=n_threads, standardize=standardize, fit_intercept=fit_intercept, tol=tol, max_iter=max_iter,
        check_finite=check_finite, device=device,
    )
    epsilon = np.full(q.n_models, 0.1) if q.loss_epsilon is None else q.loss_epsilon
    rows = [
        {"solver": solver, "loss": q.loss, "l1": float(l1), "l2": float(l2), "loss_epsilon": float(e)}
        for l1, l2, e in zip(q.l1, q.l2, epsilon, strict=True)
    ]
    return _optimum.Trainer(
        problem, settings, rows, Rows(q.sample_weight, None, None),
        ids=q.splits.ids, conditions=q.splits.conditions, splits=q.split_of_model, coef_init=None, intercept_init=None,
    )  # fmt: skip


def solve(q, solver="lbfgs", *, sample=False, **options):
    """All models at their optima; `sample`: L-BFGS starts on a few of the rows, however few there are."""
    t = trainer(q, solver, **options)
    kept = _optimum._SAMPLE_SHARE, _optimum._SAMPLE_ROWS, _optimum._SAMPLE_PER_PARAMETER
    if sample:
        _optimum._SAMPLE_SHARE, _optimum._SAMPLE_ROWS, _optimum._SAMPLE_PER_PARAMETER = 3, 1, 0
    try:
        assert t.advance() == "done"
    finally:
        _optimum._SAMPLE_SHARE, _optimum._SAMPLE_ROWS, _optimum._SAMPLE_PER_PARAMETER = kept
    return Solved(t.coef(), t.intercept(), t.history()[0], t.arrivals)
