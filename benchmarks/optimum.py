"""Optima beside scikit-learn's: `python benchmarks/optimum.py [section ...]`.

Sections: iid, ill (20 C × 5 folds on 200,000 × 100, well- and ill-conditioned), ridge (5 folds × 100 alphas), net (elastic
nets of 100 alphas × 5 folds), l1 (of log_loss, 20 × 5 folds), single (one fit, no folds). Both sides in one process,
n_jobs=2 and two threads; a grid of scikit-learn's without l1 is timed on 4 of its 20 values of C, after its processes have
started, and counted five times. How near each is to the optimum is told by its objective on one fold's training rows,
beside that of the solver newton-cholesky with tol=1e-12 in float64.
"""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np
from sklearn.linear_model import ElasticNetCV, LogisticRegression, LogisticRegressionCV, Ridge
from sklearn.model_selection import GridSearchCV

import gradfold as gf
from gradfold import _core
from gradfold._bench_timing import median_seconds

N_ROWS, N_FEATURES = 200_000, 100
C = np.logspace(-4, 4, 20)


def data(ill: bool, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Normal columns, or a rotation of columns whose scales span four decades (condition 1e8 of the Gram matrix)."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_ROWS, N_FEATURES))
    weights = 0.3 * rng.standard_normal(N_FEATURES)
    if ill:
        turn, _ = np.linalg.qr(rng.standard_normal((N_FEATURES, N_FEATURES)))
        X, weights = X @ (turn * np.logspace(0, -4, N_FEATURES)) @ turn.T, weights * 10
    y = rng.random(N_ROWS) < 1 / (1 + np.exp(-X @ weights))
    return np.ascontiguousarray(X, dtype), y.astype(np.int64)


def objective(X: np.ndarray, y: np.ndarray, coef: np.ndarray, intercept: float, l2: float) -> float:
    """Mean log loss and penalty in float64."""
    z = X @ coef.astype(np.float64) + float(intercept)
    return float((np.logaddexp(0, z) - y * z).mean() + 0.5 * l2 * (coef.astype(np.float64) ** 2).sum())


def seconds_of(call) -> float:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()
    return time.perf_counter() - start


def grid(ill: bool) -> None:
    X, y = data(ill, np.float32)
    wide = X.astype(np.float64)
    folds = gf.index.stratified_kfold(y, 5)
    train = folds.train_indices(0)
    l2 = 1 / (C * len(train))
    runs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gf.ChoiceWarning)
        ours = median_seconds(lambda: runs.append(gf.fit(X, y, gf.grid(l2=list(l2)), folds=folds, solver="lbfgs")), 5)
    run = runs[-1]
    some = [0, 6, 12, 19]
    best = [LogisticRegression(C=C[c], solver="newton-cholesky", tol=1e-12, max_iter=200).fit(wide[train], y[train]) for c in some]
    exact = [objective(wide[train], y[train], m.coef_[0], m.intercept_[0], l2[c]) for m, c in zip(best, some, strict=True)]

    def beyond(coef, intercept) -> str:
        found = [objective(wide[train], y[train], coef(i, c), intercept(i, c), l2[c]) for i, c in enumerate(some)]
        return f"{max(f / e - 1 for f, e in zip(found, exact, strict=True)):.1e}"

    mine = beyond(lambda i, c: run.coef[c * 5], lambda i, c: run.intercept[c * 5])
    print(
        f"{'ill-conditioned' if ill else 'iid'}: gradfold float32 {ours:.2f} s with refit, {run.n_iter.max()} iterations at most, "
        f"converged {run.converged.all()}, objective {mine} above the optimum"
    )
    cv = [(folds.train_indices(s), folds.score_indices(s)) for s in range(5)]

    def peer(solver: str, A: np.ndarray) -> None:
        model = LogisticRegression(solver=solver, max_iter=2000)
        one = [LogisticRegression(C=C[c], solver=solver, max_iter=2000).fit(A[train], y[train]) for c in some]
        search = GridSearchCV(model, {"C": C[some]}, cv=cv, scoring="neg_log_loss", n_jobs=2, refit=False)
        seconds_of(lambda: GridSearchCV(model, {"C": [1.0, 2.0]}, n_jobs=2).fit(A[:500], y[:500]))
        theirs = 5 * seconds_of(lambda: search.fit(A, y))
        gap = beyond(lambda i, c: one[i].coef_[0], lambda i, c: one[i].intercept_[0])
        print(f"  GridSearchCV(LogisticRegression({solver!r})) {A.dtype} {theirs:.0f} s: {theirs / ours:.0f} x; objective {gap} above")
        together = LogisticRegressionCV(Cs=C, cv=cv, scoring="neg_log_loss", n_jobs=2, refit=False, solver=solver, max_iter=2000)
        theirs = seconds_of(lambda: together.fit(A, y))
        print(f"  LogisticRegressionCV({solver!r}) {A.dtype} {theirs:.0f} s: {theirs / ours:.0f} x")

    for solver, dtype in (("lbfgs", np.float32), ("lbfgs", np.float64), ("newton-cholesky", np.float64)):
        peer(solver, X if dtype == np.float32 else wide)


def ridge() -> None:
    X, _ = data(False, np.float32)
    rng = np.random.default_rng(1)
    y = (X @ rng.standard_normal(N_FEATURES) + rng.standard_normal(N_ROWS)).astype(np.float32)
    folds = gf.index.kfold(N_ROWS, 5)
    alphas = np.logspace(-3, 5, 100)
    one = np.array([0, N_ROWS]), np.arange(N_ROWS)

    def fit() -> None:
        gf.fit(X, y, gf.grid(l2=list(alphas / (0.8 * N_ROWS))), folds=folds, solver="cholesky", refit=False)

    gram = median_seconds(lambda: _core.optimum.cell_moments(X, y, None, one[1], one[0], 2), 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gf.ChoiceWarning)
        ours = median_seconds(fit, 7)
    cv = [(folds.train_indices(s), folds.score_indices(s)) for s in range(5)]
    search = GridSearchCV(Ridge(), {"alpha": alphas[::10]}, cv=cv, scoring="neg_mean_squared_error", n_jobs=2, refit=False)
    seconds_of(lambda: GridSearchCV(Ridge(), {"alpha": [1.0, 2.0]}, n_jobs=2).fit(X[:500], y[:500]))
    theirs = 10 * seconds_of(lambda: search.fit(X, y))
    print(
        f"ridge, 5 folds x 100 alphas: {1e3 * ours:.0f} ms with held-out losses; one Gram matrix {1e3 * gram:.0f} ms: {ours / gram:.1f} "
        f"grams; GridSearchCV(Ridge()) {theirs:.0f} s: {theirs / ours:.0f} x"
    )


def net() -> None:
    for n_rows, n_features in ((200_000, 100), (20_000, 100), (200, 1000)):
        rng = np.random.default_rng(0)
        X = rng.standard_normal((n_rows, n_features))
        y = X[:, :20] @ (3 * rng.standard_normal(20)) + rng.standard_normal(n_rows)
        most = np.abs((X - X.mean(axis=0)).T @ (y - y.mean())).max() / n_rows
        folds = gf.index.kfold(n_rows, 5)
        cv = [(folds.train_indices(s), folds.score_indices(s)) for s in range(5)]
        for ratio in (1.0, 0.5):
            alphas = most / ratio * np.logspace(0, -3, 100)
            grid = gf.Candidates([{"l1": float(a * ratio), "l2": float(a * (1 - ratio))} for a in alphas])

            def fit(X=X, y=y, grid=grid, folds=folds) -> None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    gf.fit(X, y, grid, folds=folds, solver="coordinate-descent")

            ours = median_seconds(fit, 3)
            peer = ElasticNetCV(l1_ratio=ratio, alphas=alphas, cv=cv, n_jobs=2)
            seconds_of(lambda p=peer, X=X, y=y: p.fit(X, y))  # starts its processes
            theirs = seconds_of(lambda p=peer, X=X, y=y: p.fit(X, y))
            print(
                f"elastic net, {n_rows} x {n_features}, l1_ratio {ratio}, 100 alphas x 5 folds and the refit: {ours:.2f} s; ElasticNetCV "
                f"{theirs:.2f} s: {theirs / ours:.1f} x"
            )


def net_of_log_loss() -> None:
    for n_rows, n_features, eps in ((20_000, 100, 1e-3), (200, 1000, 1e-2)):
        rng = np.random.default_rng(0)
        X = rng.standard_normal((n_rows, n_features))
        y = (X[:, :10].sum(axis=1) / 2 + rng.logistic(size=n_rows) > 0).astype(np.int64)
        l1 = gf.l1_grid(X, y, 20, eps=eps)
        folds = gf.index.kfold(n_rows, 5)
        cv = [(folds.train_indices(s), folds.score_indices(s)) for s in range(5)]

        def fit(X=X, y=y, l1=l1, folds=folds) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                gf.fit(X, y, gf.grid(l1=list(l1)), folds=folds, l2=0.0, loss="log_loss", solver="coordinate-descent")

        ours = median_seconds(fit, 3)
        for solver in ("liblinear", "saga"):
            peer = LogisticRegressionCV(
                Cs=1 / (l1 * n_rows * 0.8), l1_ratios=(1,), cv=cv, solver=solver, max_iter=1000, n_jobs=2, scoring="neg_log_loss",
                use_legacy_attributes=False,
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = seconds_of(lambda p=peer, X=X, y=y: p.fit(X, y))
            print(
                f"l1 of log_loss, {n_rows} x {n_features}, 20 x 5 folds and the refit: {ours:.2f} s; LogisticRegressionCV {solver} "
                f"{theirs:.2f} s: {theirs / ours:.1f} x"
            )


def single() -> None:
    for ill in (False, True):
        for dtype in (np.float32, np.float64):
            X, y = data(ill, dtype)
            l2 = 1.0 / N_ROWS
            ours = median_seconds(lambda X=X, y=y, l2=l2: gf.fit(X, y, l2=l2, solver="lbfgs"), 5)
            for solver in ("lbfgs", "newton-cholesky"):
                model = LogisticRegression(solver=solver, max_iter=2000)
                theirs = median_seconds(lambda X=X, y=y, m=model: m.fit(X, y), 3)
                print(
                    f"one fit, {'ill-conditioned' if ill else 'iid'}, {X.dtype}: {ours:.3f} s; LogisticRegression({solver!r}) "
                    f"{theirs:.3f} s: {theirs / ours:.1f} x"
                )


SECTIONS = {"iid": lambda: grid(False), "ill": lambda: grid(True), "ridge": ridge, "net": net, "l1": net_of_log_loss, "single": single}

if __name__ == "__main__":
    for name in sys.argv[1:] or SECTIONS:
        SECTIONS[name]()
