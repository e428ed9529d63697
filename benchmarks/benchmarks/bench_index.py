"""Permutations beside numpy's and torch's, splits beside scikit-learn's: the same work in one run, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gradfold import index


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median of some runs after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


class Permute:
    """All of an order. Just above a power of two is the worst size: half of the walk is out of range."""

    params = [100_000, 10_000_000, 2**24, 2**24 + 1]
    param_names = ["n"]

    def setup(self, n: int) -> None:
        self.permutation = index.Permutation(n, 1)

    def time_permutation(self, n: int) -> None:
        self.permutation[:]

    def time_inverse_of_all(self, n: int) -> None:
        self.permutation.inverse(np.arange(n))


class PermuteBesidePeers:
    """How many times as fast as the peer, 10 M rows."""

    timeout = 120
    n = 10_000_000

    def track_numpy(self) -> float:
        generator = np.random.default_rng(0)
        ours = seconds(lambda: index.Permutation(self.n, 1)[:])
        return seconds(lambda: generator.permutation(self.n), 3) / ours

    def track_torch(self) -> float:
        try:
            import torch
        except ImportError:
            return float("nan")  # asv shows it as n/a
        torch.set_num_threads(1)
        ours = seconds(lambda: index.Permutation(self.n, 1)[:])
        return seconds(lambda: torch.randperm(self.n), 3) / ours

    track_numpy.unit = track_torch.unit = "times as fast"


class Slices:
    """The rows of one batch after another: one epoch of 1 M rows, Python's call included."""

    params = [32, 256, 1024]
    param_names = ["batch_size"]

    def setup(self, batch_size: int) -> None:
        self.permutation = index.Permutation(1_000_000, 1)

    def time_epoch(self, batch_size: int) -> None:
        for first in range(0, 1_000_000, batch_size):
            self.permutation[first : first + batch_size]


class Split:
    params = (["kfold", "stratified_kfold", "strings"], [1_000_000, 10_000_000])
    param_names = ["kind", "n_rows"]
    timeout = 300

    def setup(self, kind: str, n_rows: int) -> None:
        self.y = np.random.default_rng(0).integers(0, 10, n_rows)
        if kind == "strings":
            if n_rows > 1_000_000:
                raise NotImplementedError("scikit-learn sorts strings: minutes")
            self.y = self.y.astype("U8")

    def ours(self, kind: str, n_rows: int) -> index.Folds:
        return index.kfold(n_rows, 5) if kind == "kfold" else index.stratified_kfold(self.y, 5)

    def time_folds(self, kind: str, n_rows: int) -> None:
        self.ours(kind, n_rows)

    def time_folds_and_all_indices(self, kind: str, n_rows: int) -> None:
        for _ in self.ours(kind, n_rows).split():
            pass

    def track_scikit_learn(self, kind: str, n_rows: int) -> float:
        """Both sides hand out the index arrays of every split, so that the work is the same."""
        try:
            from sklearn.model_selection import KFold, StratifiedKFold
        except ImportError as error:
            raise NotImplementedError("scikit-learn is not installed") from error
        splitter = (KFold if kind == "kfold" else StratifiedKFold)(5, shuffle=True, random_state=0)
        X = np.zeros(n_rows, dtype=np.int8)

        def peer() -> None:
            for _ in splitter.split(X, self.y):
                pass

        return seconds(peer, 3) / seconds(lambda: self.time_folds_and_all_indices(kind, n_rows), 3)

    track_scikit_learn.unit = "times as fast"


class GroupSplit:
    """Whole groups. The stratified peer is slow, so it gets the smaller problem, and its balance is compared too."""

    params = (["group_kfold", "stratified"], [200_000, 10_000_000])
    param_names = ["kind", "n_rows"]
    timeout = 300

    def setup(self, kind: str, n_rows: int) -> None:
        if kind == "stratified" and n_rows > 200_000:
            raise NotImplementedError("scikit-learn takes minutes")
        rng = np.random.default_rng(0)
        self.groups = rng.integers(0, 10_000, n_rows)
        self.y = rng.integers(0, 5, n_rows) if kind == "stratified" else None

    def ours(self) -> index.Folds:
        return index.group_kfold(self.groups, 5, y=self.y)

    def time_folds(self, kind: str, n_rows: int) -> None:
        self.ours()

    def track_scikit_learn(self, kind: str, n_rows: int) -> float:
        """Both sides hand out the index arrays of every split."""
        splits = self.peer(kind, n_rows)

        def mine() -> None:
            for _ in self.ours().split():
                pass

        return seconds(lambda: list(splits()), 1) / seconds(mine, 3)

    def track_imbalance(self, kind: str, n_rows: int) -> float:
        """Mean over classes of the standard deviation of the folds' shares, ours over scikit-learn's: below 1 is better;
        not of the plain kind, which has no classes."""
        if self.y is None:
            return float("nan")
        theirs = np.zeros(n_rows, dtype=np.int64)
        for fold, (_, test) in enumerate(self.peer(kind, n_rows)()):
            theirs[test] = fold
        sides = []
        for folds in (self.ours().ids[0], theirs):
            counts = np.zeros((5, 5))
            np.add.at(counts, (folds, self.y), 1)
            sides.append((counts / counts.sum(axis=0)).std(axis=0).mean())
        return float(sides[0] / sides[1])

    def peer(self, kind: str, n_rows: int) -> Callable[[], Any]:
        try:
            from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
        except ImportError as error:
            raise NotImplementedError("scikit-learn is not installed") from error
        X = np.zeros(n_rows, dtype=np.int8)
        splitter = GroupKFold(5) if kind == "group_kfold" else StratifiedGroupKFold(5, shuffle=True, random_state=0)
        return lambda: splitter.split(X, self.y, self.groups)

    track_scikit_learn.unit = "times as fast"
    track_imbalance.unit = "of scikit-learn's"
