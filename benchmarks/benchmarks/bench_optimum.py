"""Searches at the optimum: 20 penalties x 5 folds by every solver of the optimum, leave-one-out, and the folds' Gram matrices; beside
scikit-learn."""

from __future__ import annotations

import numpy as np

import gradfold as gf
from gradfold import _core
from gradfold._bench_problems import classification
from gradfold._bench_timing import ratio

from . import limits

N_FEATURES = 100


class Optima:
    params = (["lbfgs", "newton-cholesky", "cholesky", "coordinate-descent"], ["float32", "float64"], [20_000, 100_000])
    param_names = ["solver", "dtype", "n_rows"]
    timeout = 300

    def setup(self, solver: str, dtype: str, n_rows: int) -> None:
        if solver == "newton-cholesky" and n_rows > 20_000:
            raise NotImplementedError("a Hessian for each model and step: measured on the smaller size")
        X, y = classification(n_rows, N_FEATURES)
        self.X, self.y = X.astype(dtype), y
        self.squares = solver in ("cholesky", "coordinate-descent")
        if self.squares:
            self.y = (self.X @ np.linspace(-1, 1, N_FEATURES) + np.random.default_rng(1).standard_normal(n_rows)).astype(dtype)
        self.folds = gf.index.kfold(n_rows, 5)
        self.grid = gf.grid(l2=list(np.logspace(-6, -1, 20)))

    def fit(self, solver: str) -> gf.Run:
        return gf.fit(
            self.X, self.y, self.grid, folds=self.folds, solver=solver, l1=0.05 if solver == "coordinate-descent" else 0.0,
            loss="squared_error" if self.squares else "log_loss", refit=False,
        )  # fmt: skip

    def time_grid(self, solver: str, dtype: str, n_rows: int) -> None:
        self.fit(solver)


class OptimaMemory(Optima):
    params = (["lbfgs", "cholesky"], ["float32"], [100_000])
    time_grid = None

    def peakmem_grid(self, solver: str, dtype: str, n_rows: int) -> None:
        self.fit(solver)


class LeaveOneOut:
    """Ridge without each row in turn, 20 penalties; beside RidgeCV, which goes by the same formulas."""

    params = (["none", "of their own"],)
    param_names = ["weights"]

    def setup(self, weights: str) -> None:
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((2_000, 50))
        self.y = self.X @ rng.standard_normal(50) + rng.standard_normal(2_000)
        self.weight = None if weights == "none" else rng.uniform(0.5, 2, 2_000)
        self.alphas = np.logspace(-2, 4, 20)
        self.grid = gf.grid(l2=list(self.alphas / 1_999))
        self.folds = gf.index.leave_one_out(2_000)

    def fit(self) -> None:
        gf.fit(
            self.X, self.y, self.grid, folds=self.folds, solver="cholesky", loss="squared_error", sample_weight=self.weight,
            refit=False,
        )  # fmt: skip

    def time_grid(self, weights: str) -> None:
        self.fit()

    def track_x_ridge_cv(self, weights: str) -> float:
        try:
            from sklearn.linear_model import RidgeCV
        except ImportError:
            raise NotImplementedError("scikit-learn is not installed") from None
        peer = RidgeCV(alphas=self.alphas, store_cv_results=True)
        return ratio(lambda: peer.fit(self.X, self.y, self.weight), self.fit, 5)

    track_x_ridge_cv.unit = "times as fast as RidgeCV"


class Gram:
    """Comoments of five folds, one pass."""

    params = (["float32", "float64"], [10, 100, 500], [1, limits.cores()])
    param_names = ["dtype", "n_features", "n_threads"]

    def setup(self, dtype: str, n_features: int, n_threads: int) -> None:
        n_rows = 5_000_000 // n_features
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((n_rows, n_features), np.float32).astype(dtype)
        self.y = self.X[:, 0].copy()
        self.order = np.argsort(gf.index.kfold(n_rows, 5).ids[0], kind="stable")
        self.offset = np.arange(6) * n_rows // 5

    def gram(self, n_threads: int) -> None:
        _core.optimum.cell_moments(self.X, self.y, None, self.order, self.offset, n_threads)

    def time_gram(self, dtype: str, n_features: int, n_threads: int) -> None:
        self.gram(n_threads)


class BesideScikitLearn:
    """A grid of log_loss beside LogisticRegressionCV, which starts each C from the one before."""

    timeout = 600

    def setup(self) -> None:
        try:
            from sklearn.linear_model import LogisticRegressionCV
        except ImportError:
            raise NotImplementedError("scikit-learn is not installed") from None
        self.X, y = classification(20_000, N_FEATURES)
        self.y = y.astype(np.int64)
        C = np.logspace(-4, 4, 20)
        self.grid = gf.grid(l2=list(1 / (C * 16_000)))
        self.folds = gf.index.stratified_kfold(self.y, 5)
        self.peer = LogisticRegressionCV(
            Cs=C, cv=self.folds, n_jobs=limits.cores(), refit=False, scoring="neg_log_loss", max_iter=1000, l1_ratios=(0,),
            use_legacy_attributes=False,
        )  # fmt: skip

    def track_x_logistic_regression_cv(self) -> float:
        return ratio(
            lambda: self.peer.fit(self.X, self.y),
            lambda: gf.fit(self.X, self.y, self.grid, folds=self.folds, solver="lbfgs", refit=False),
            3,
        )

    track_x_logistic_regression_cv.unit = "times as fast as LogisticRegressionCV"
