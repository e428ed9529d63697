"""Permutations beside numpy's and torch's, splits beside scikit-learn's: the same work in one run, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gradfold import _bench_peers, index

from . import devices


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median of some runs after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


class Order:
    """All of a permutation, and the positions of all rows, on a device; there the results stay on it."""

    def __init__(self, device: str, n: int) -> None:
        self.permutation = index.Permutation(n, 1)
        self.rows: Any = np.arange(n)
        self.device = device
        if device == "cuda":
            from gradfold.cuda import index as on_gpu
            from gradfold.cuda._driver import cuda

            self.on_gpu, self.rows = on_gpu, cuda.to_device(self.rows)
            self.out = cuda.device_array(n, np.int64)
            self.fill()  # compiles
            self.inverse()

    def fill(self) -> None:
        if self.device == "cpu":
            self.permutation[:]
        else:
            self.on_gpu.fill(self.permutation, out=self.out)
            devices.wait(self.device)

    def inverse(self) -> None:
        if self.device == "cpu":
            self.permutation.inverse(self.rows)
        else:
            self.on_gpu.positions(self.permutation, self.rows, out=self.out)
            devices.wait(self.device)


class Permute:
    """All of an order. Just above a power of two is the worst size: half of the walk is out of range."""

    params = (devices.ALL, [100_000, 10_000_000, 2**24, 2**24 + 1])
    param_names = ["device", "n"]

    def setup(self, device: str, n: int) -> None:
        devices.need(device)
        self.order = Order(device, n)

    def time_permutation(self, device: str, n: int) -> None:
        self.order.fill()

    def time_inverse_of_all(self, device: str, n: int) -> None:
        self.order.inverse()


class PermuteBesidePeers:
    """How many times as fast as the peer, 10 M rows, both on the device; NumPy is on the CPU whatever the device."""

    params = devices.ALL
    param_names = ["device"]
    timeout = 120
    n = 10_000_000

    def setup(self, device: str) -> None:
        devices.need(device)
        self.order = Order(device, self.n)

    def track_numpy(self, device: str) -> float:
        return seconds(_bench_peers.numpy_permutation(self.n), 3) / seconds(self.order.fill)

    def track_torch(self, device: str) -> float:
        try:
            peer = _bench_peers.torch_permutation(self.n, device=device)
        except ImportError:
            return float("nan")  # asv shows it as n/a
        return seconds(lambda: (peer(), devices.wait(device)), 3) / seconds(self.order.fill)

    def track_indices(self, device: str) -> float:
        return self.n / seconds(self.order.fill) / 1e9

    track_numpy.unit = track_torch.unit = "times as fast"
    track_indices.unit = "G indices / s"


class Slices:
    """The rows of one batch after another: one epoch of 1 M rows, Python's call included."""

    params = (devices.HOST, [32, 256, 1024])
    param_names = ["device", "batch_size"]

    def setup(self, device: str, batch_size: int) -> None:
        self.permutation = index.Permutation(1_000_000, 1)

    def time_epoch(self, device: str, batch_size: int) -> None:
        for first in range(0, 1_000_000, batch_size):
            self.permutation[first : first + batch_size]


class Split:
    params = (devices.HOST, ["kfold", "stratified_kfold", "strings"], [1_000_000, 10_000_000])
    param_names = ["device", "kind", "n_rows"]
    timeout = 300

    def setup(self, device: str, kind: str, n_rows: int) -> None:
        self.y = np.random.default_rng(0).integers(0, 10, n_rows)
        if kind == "strings":
            if n_rows > 1_000_000:
                raise NotImplementedError("scikit-learn sorts strings: minutes")
            self.y = self.y.astype("U8")

    def ours(self, kind: str, n_rows: int) -> index.Folds:
        return index.kfold(n_rows, 5) if kind == "kfold" else index.stratified_kfold(self.y, 5)

    def time_folds(self, device: str, kind: str, n_rows: int) -> None:
        self.ours(kind, n_rows)

    def time_folds_and_all_indices(self, device: str, kind: str, n_rows: int) -> None:
        for _ in self.ours(kind, n_rows).split():
            pass

    def track_scikit_learn(self, device: str, kind: str, n_rows: int) -> float:
        """Both sides hand out the index arrays of every split, so that the work is the same."""
        try:
            splits = _bench_peers.sklearn_splits("kfold" if kind == "kfold" else "stratified_kfold", n_rows, self.y)
        except ImportError as error:
            raise NotImplementedError("scikit-learn is not installed") from error

        def peer() -> None:
            for _ in splits():
                pass

        return seconds(peer, 3) / seconds(lambda: self.time_folds_and_all_indices(device, kind, n_rows), 3)

    track_scikit_learn.unit = "times as fast"


class GroupSplit:
    """Whole groups. The stratified peer is slow, so it gets the smaller problem, and its balance is compared too."""

    params = (devices.HOST, ["group_kfold", "stratified"], [200_000, 10_000_000])
    param_names = ["device", "kind", "n_rows"]
    timeout = 300

    def setup(self, device: str, kind: str, n_rows: int) -> None:
        if kind == "stratified" and n_rows > 200_000:
            raise NotImplementedError("scikit-learn takes minutes")
        rng = np.random.default_rng(0)
        self.groups = rng.integers(0, 10_000, n_rows)
        self.y = rng.integers(0, 5, n_rows) if kind == "stratified" else None

    def ours(self) -> index.Folds:
        return index.group_kfold(self.groups, 5, y=self.y)

    def time_folds(self, device: str, kind: str, n_rows: int) -> None:
        self.ours()

    def track_scikit_learn(self, device: str, kind: str, n_rows: int) -> float:
        """Both sides hand out the index arrays of every split."""
        splits = self.peer(kind, n_rows)

        def mine() -> None:
            for _ in self.ours().split():
                pass

        return seconds(lambda: list(splits()), 1) / seconds(mine, 3)

    def track_imbalance(self, device: str, kind: str, n_rows: int) -> float:
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
        name = "group_kfold" if kind == "group_kfold" else "stratified_group_kfold"
        try:
            return _bench_peers.sklearn_splits(name, n_rows, self.y, self.groups)
        except ImportError as error:
            raise NotImplementedError("scikit-learn is not installed") from error

    track_scikit_learn.unit = "times as fast"
    track_imbalance.unit = "of scikit-learn's"
