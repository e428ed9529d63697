"""Prints the figures of the README: `python benchmarks/figures.py [section ...]`.

Sections: gradient, peers, one-model, permutation, grid. Every ratio has both sides measured in turn in this process;
medians. Peers that are not installed are named and left out.
"""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np
from benchmarks import limits
from benchmarks.bench_gradient import Problem
from benchmarks.bench_gradient import one_model as one_model_problem

from gradfold import _bench_peers as peers
from gradfold._bench_problems import classification
from gradfold._bench_timing import median_seconds, ratio


def gradient() -> None:
    for n_features, n_models in ((100, 96), (100, 100), (1000, 96), (1000, 100), (30, 100)):
        q = Problem(n_features, n_models)
        parts = []
        for n_threads in (1, limits.cores()):
            for loss in (False, True):
                seconds = median_seconds(lambda q=q, loss=loss, n=n_threads: q.gradient(loss, n), 9)
                share = q.flops() / seconds / limits.fma_peak(4, n_threads)
                parts.append(f"{n_threads} thread(s){' with loss' if loss else ''} {share:.0%}")
        print(f"dense gradient, {n_models} models, {n_features} features, useful share of the FMA peak:", ", ".join(parts))


def peer_ratios() -> None:
    q = Problem(100, 100)
    mask = q.train_mask()
    n = limits.cores()
    ours = lambda: q.gradient(False, n)  # noqa: E731
    print(f"times as fast as NumPy in row blocks: {ratio(peers.numpy_blocks(q.X, q.y, q.W, mask), ours, 5):.1f}")
    for name, make in (
        ("PyTorch in row blocks", lambda: peers.torch_blocks(q.X, q.y, q.W, mask, n)),
        ("jax.vmap(jax.grad)", lambda: peers.jax_vmap(q.X, q.y, q.W, mask)),
    ):
        try:
            peer = make()
        except ImportError:
            print(f"{name}: not installed")
            continue
        peer()
        print(f"times as fast as {name}: {ratio(peer, ours, 5):.1f}")


def one_model() -> None:
    for n_features in (30, 100, 1000):
        q = one_model_problem(n_features, "cpu", limits.cores())
        shares = []
        for n_threads in (1, limits.cores()):
            seconds = median_seconds(lambda q=q, n=n_threads: q.gradient(False, n), 9)
            shares.append(f"{n_threads} thread(s) {q.X.nbytes / seconds / limits.read_bandwidth(n_threads):.0%}")
        print(f"one model, {n_features} features, {q.X.nbytes >> 20} MiB of X, share of the read bandwidth:", ", ".join(shares))


def permutation() -> None:
    import gradfold as gf

    n = 10_000_000
    rng = np.random.default_rng(0)
    p = gf.index.Permutation(n, 0)
    print(f"permutation of 10 M, times as fast as numpy: {ratio(lambda: rng.permutation(n), lambda: p[:], 5):.0f}")


def grid() -> None:
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import GridSearchCV

    import gradfold as gf

    X, y = classification(200_000, 100)
    l2 = np.logspace(-6, -1, 20)
    folds = gf.index.stratified_kfold(y, 5)
    runs = []

    def ours() -> None:
        runs.append(gf.fit(X, y, gf.grid(l2=l2), folds=folds, loss="log_loss", solver="adam", epochs=10, batch_size=256,
                           learning_rate=0.002, schedule="cosine"))

    peer = GridSearchCV(SGDClassifier(loss="log_loss", max_iter=10, tol=None, random_state=0), {"alpha": l2[::5]},
                        cv=folds, scoring="neg_log_loss", n_jobs=limits.cores(), refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        GridSearchCV(SGDClassifier(loss="log_loss"), {"alpha": [1e-5, 1e-3]}, n_jobs=limits.cores()).fit(X[:500], y[:500])
        start = time.perf_counter()
        peer.fit(X, y)
    theirs = (time.perf_counter() - start) * len(l2) / len(l2[::5])
    seconds = median_seconds(ours, 3)
    print(f"grid 20 x 5 on 200,000 x 100, 10 epochs: {seconds:.2f} s; GridSearchCV(SGDClassifier) {theirs:.0f} s "
          f"(from 4 of 20 candidates, processes started, no refit), {theirs / seconds:.0f} times; held-out log-loss "
          f"{runs[-1].held_out_loss.mean(axis=1).min():.5f} against {-peer.best_score_:.5f}")


SECTIONS = {"gradient": gradient, "peers": peer_ratios, "one-model": one_model, "permutation": permutation, "grid": grid}

if __name__ == "__main__":
    for name in sys.argv[1:] or SECTIONS:
        SECTIONS[name]()
