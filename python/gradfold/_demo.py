"""`gradfold demo`: a grid of 20 values of l2 over 5 folds on three data sets, with scikit-learn beside it."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

import gradfold as gf
from gradfold import _storage

if TYPE_CHECKING:
    from gradfold.index import Folds
    from gradfold.run import Run

Array = npt.NDArray[Any]

N_SPLITS = 5
L2 = np.logspace(-6, 0, 20)
SEED = 0

# scikit-learn's settings: its defaults, and enough iterations that the tolerance ends a fit and not the count.
PEER_SOLVERS = ("lbfgs", "newton-cholesky")
PEER_SETTINGS: dict[str, Any] = {"tol": 1e-4, "max_iter": 1000}
PEER_SECONDS = 18.0  # a grid that would take longer on one data set is timed on fewer candidates
PEER_ROUNDS = 5


@dataclass
class _Set:
    """One data set and the settings that gradfold trains it with."""

    name: str
    title: str
    load: Callable[[], tuple[Array, Array]]
    epochs: int
    batch_size: int
    learning_rate: float


@dataclass
class _Peer:
    """What scikit-learn did on the same folds."""

    solver: str
    candidates: Array  # indices of the candidates it was timed on
    seconds: float
    loss: Array  # (n_candidates, n_splits), NaN where it was not timed


def main(out: str, *, quick: bool) -> int:
    """Run the demo, write its files into the folder `out`, and return the exit code."""
    import sklearn

    console = Console(highlight=False)
    os.makedirs(out, exist_ok=True)
    # Worker processes of joblib repeat scikit-learn's warnings once each; the table shows what matters.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    console.print(
        f"gradfold {gf.__version__}, {len(L2)} values of l2 × {N_SPLITS} folds = {len(L2) * N_SPLITS} models in one "
        f"pass and a refit; scikit-learn {sklearn.__version__} beside it on the same folds, all cores",
        soft_wrap=True,
    )
    _warm_up()
    for data in _sets(quick):
        X, y = data.load()
        run, seconds, folds = _train(data, X, y)
        if run.interrupted:
            console.print("interrupted")
            return 130
        peer = _scikit_learn(X, y, folds, PEER_SECONDS / 6 if quick else PEER_SECONDS)
        console.print()
        console.print(_table(data, X, run, peer))
        for line in _verdict(data, run, seconds, peer):
            console.print(line, soft_wrap=True)
        _write(out, data, run, peer)
    console.print(
        f"\nwritten to {out}{os.sep}: a table (.csv), a validation curve (.png) and the best model (.npz) of each",
        soft_wrap=True,
    )
    return 0


def _sets(quick: bool) -> list[_Set]:
    rows = 5_000 if quick else 100_000
    return [
        _Set("digits", "ten-class digits, even against odd", _digits, 200, 64, 0.05),
        _Set("breast_cancer", "breast cancer", _breast_cancer, 300, 32, 0.05),
        _Set("generated", "generated, correlated, badly scaled", lambda: generated(rows), 30, 256, 0.02),
    ]


def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return np.ascontiguousarray(X), (y % 2).astype(np.int64)


def _breast_cancer() -> tuple[Array, Array]:
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    return np.ascontiguousarray(X), y


def generated(n_rows: int, n_features: int = 50, n_factors: int = 12, seed: int = SEED) -> tuple[Array, Array]:
    """Rows from a factor model, so that columns are correlated, with scales from 10⁻³ to 10³; y is logistic."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n_rows, n_factors))
    X = factors @ rng.standard_normal((n_factors, n_features)) + 0.5 * rng.standard_normal((n_rows, n_features))
    odds = X @ (0.15 * rng.standard_normal(n_features)) - 0.5
    y = rng.random(n_rows) < 1 / (1 + np.exp(-odds))
    X = X * 10.0 ** rng.uniform(-3, 3, n_features) + rng.standard_normal(n_features)
    return X, y.astype(np.int64)


def _train(data: _Set, X: Array, y: Array) -> tuple[Run, float, Folds]:
    folds = gf.index.stratified_kfold(y, N_SPLITS, seed=SEED)
    started = time.perf_counter()
    run = gf.fit(
        X,
        y,
        gf.grid(l2=L2),
        folds=folds,
        solver="adam",
        learning_rate=data.learning_rate,
        schedule="cosine",
        epochs=data.epochs,
        batch_size=data.batch_size,
        standardize=True,
        seed=SEED,
    )
    return run, time.perf_counter() - started, folds


def _warm_up() -> None:
    """Start joblib's worker processes, so that no timing holds their start."""
    from joblib import Parallel, delayed

    Parallel(n_jobs=-1)(delayed(_import_peer)() for _ in range(2 * (os.cpu_count() or 1)))


def _import_peer() -> None:
    import sklearn.linear_model  # noqa: F401
    import sklearn.model_selection  # noqa: F401


def _scikit_learn(X: Array, y: Array, folds: Folds, budget: float) -> _Peer:
    """GridSearchCV over StandardScaler and LogisticRegression, and a refit of its best candidate.

    The solver is the one that is faster on the two ends of the grid. The grid then runs in five searches of four
    candidates each, spread over it, and ends early when another one would exceed the budget.
    """
    # mean loss + ½ l2 w² is scikit-learn's C Σ loss + ½ w² at C = 1 / (l2 · rows); its C is one number for all folds.
    C = 1 / (L2 * folds.train_sizes.mean())
    probes = {solver: _search(X, y, folds, C[[0, -1]], solver)[0] for solver in PEER_SOLVERS}
    solver = min(probes, key=lambda name: probes[name])
    loss = np.full((len(L2), folds.n_splits), np.nan)
    seconds, longest = 0.0, 0.0
    for first in range(PEER_ROUNDS):
        if seconds + longest > budget:
            break
        chosen = np.arange(first, len(L2), PEER_ROUNDS)
        spent, loss[chosen] = _search(X, y, folds, C[chosen], solver)
        seconds, longest = seconds + spent, max(longest, spent)
    best = int(np.nanargmin(loss.mean(axis=1)))
    started = time.perf_counter()
    _pipeline(solver).set_params(logisticregression__C=C[best]).fit(X, y)
    seconds += time.perf_counter() - started
    return _Peer(solver, np.flatnonzero(np.isfinite(loss[:, 0])), seconds, loss)


def _pipeline(solver: str) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(solver=solver, **PEER_SETTINGS))


def _search(X: Array, y: Array, folds: Folds, C: Array, solver: str) -> tuple[float, Array]:
    """Seconds and held-out losses of one search over `C` on all cores."""
    from sklearn.model_selection import GridSearchCV

    grid = {"logisticregression__C": list(C)}
    search = GridSearchCV(_pipeline(solver), grid, scoring="neg_log_loss", cv=folds, n_jobs=-1, refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        search.fit(X, y)
        seconds = time.perf_counter() - started
    splits = range(folds.n_splits)
    return seconds, np.stack([-search.cv_results_[f"split{s}_test_score"] for s in splits], axis=1)


def _table(data: _Set, X: Array, run: Run, peer: _Peer) -> Table:
    """Candidates × mean ± std of the held-out log loss."""
    table = Table(title=f"{data.title}\n{len(X):,} rows × {X.shape[1]} features, held-out log loss, mean ± std")
    for name in ("l2", "gradfold", "scikit-learn", "difference"):
        table.add_column(name, justify="right")
    ours, theirs = run.mean_held_out_loss, peer.loss.mean(axis=1)
    for i, l2 in enumerate(L2):
        mine = f"{ours[i]:.5f} ± {run.held_out_loss[i].std():.5f}"
        other, gap = "not timed", ""
        if np.isfinite(theirs[i]):
            other, gap = f"{theirs[i]:.5f} ± {peer.loss[i].std():.5f}", f"{ours[i] - theirs[i]:+.5f}"
        table.add_row(f"{l2:.2e}", mine, other, gap, style="bold" if i == run.best_candidate else None)
    return table


def _verdict(data: _Set, run: Run, seconds: float, peer: _Peer) -> list[str]:
    """Who won, in time and in loss."""
    timed = len(peer.candidates)
    ours, theirs = run.mean_held_out_loss, peer.loss.mean(axis=1)
    best = int(np.nanargmin(theirs))
    lines = [
        f"time       gradfold {seconds:.2f} s for {len(L2)} candidates (adam, {data.epochs} epochs, batches of "
        f"{data.batch_size}, cosine), scikit-learn ({peer.solver}) {peer.seconds:.2f} s for {timed} of {len(L2)}, "
        "both with the refit",
    ]
    whole = peer.seconds
    if timed < len(L2):
        whole = peer.seconds * len(L2) / timed
        lines.append(f"           scikit-learn extrapolated to {len(L2)} candidates: {whole:.1f} s (not measured)")
    lines.append(
        f"best loss  gradfold {ours[run.best_candidate]:.5f} at l2 = {L2[run.best_candidate]:.1e}, "
        f"scikit-learn {theirs[best]:.5f} at l2 = {L2[best]:.1e}"
    )
    faster = (
        f"gradfold is {whole / seconds:.1f} × faster"
        if seconds < whole
        else f"scikit-learn is {seconds / whole:.1f} × faster"
    )
    gap = ours[run.best_candidate] - theirs[best]
    if timed < len(L2):
        faster += " (extrapolated)"
    if abs(gap) < 1e-5:
        lower = "the best losses agree to 1e-5"
    else:
        lower = f"{'scikit-learn' if gap > 0 else 'gradfold'}'s best loss is lower by {abs(gap):.5f}"
    lines.append(f"verdict    {faster}; {lower}")
    worse = ours - theirs
    lost = int(np.nansum(worse > 1e-5))
    if lost:
        lines.append(
            f"           scikit-learn's mean loss is lower at {lost} of the {timed} candidates it ran, by up to "
            f"{float(np.nanmax(worse)):.5f}: it stops at the optimum of each, gradfold after {data.epochs} epochs"
        )
    else:
        lines.append(
            f"           scikit-learn's mean loss is lower by more than 1e-5 at none of the {timed} candidates it ran"
        )
    if np.nanmin(worse) < -1e-3:
        lines.append(
            "           where gradfold's is lower at a small l2 it stopped short of the optimum, as if penalised"
        )
    return lines


def _write(out: str, data: _Set, run: Run, peer: _Peer) -> None:
    """The data set's three files, each written whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frame = run.to_frame()
    frame["scikit_learn_mean"] = peer.loss.mean(axis=1)
    frame["scikit_learn_std"] = peer.loss.std(axis=1)
    with _storage.atomic(os.path.join(out, f"{data.name}.csv")) as file:
        file.write(frame.to_csv(index=False).encode())

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")  # without pyplot: no global state, no display
    FigureCanvasAgg(figure)
    ax = run.plot(figure.subplots())
    ax.lines[0].set_label("gradfold")
    ran = peer.candidates
    ax.plot(
        L2[ran], peer.loss[ran].mean(axis=1), "x", color="black", markersize=5, label=f"scikit-learn, {peer.solver}"
    )
    ax.set_title(data.title)
    ax.legend(handles=[ax.lines[0], ax.lines[-1]])
    with _storage.atomic(os.path.join(out, f"{data.name}.png")) as file:
        figure.savefig(file, format="png", dpi=150)
    run.save(os.path.join(out, f"{data.name}.npz"))
