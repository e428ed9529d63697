"""Permutations beside numpy's and torch's, splits beside scikit-learn's: the same work in one run, on one thread."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np

from gradfold import _bench_peers, index
from gradfold._bench_timing import median_seconds, ratio

from . import devices, limits


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


class PermutePeer:
    """All of an order of 10 M rows, on the device; NumPy is on the CPU whatever the device."""

    params = (devices.ALL, ["numpy", "torch"])
    param_names = ["device", "peer"]
    timeout = 120
    n = 10_000_000

    def setup(self, device: str, peer: str) -> None:
        devices.need(device)
        self.order = Order(device, self.n)
        if peer == "numpy":
            self.body = _bench_peers.numpy_permutation(self.n)
        else:
            run = devices.peer("torch", lambda: _bench_peers.torch_permutation(self.n, device=device))
            self.body = lambda: (run(), devices.wait(device))

    def time_permutation(self, device: str, peer: str) -> None:
        self.body()

    def track_times_peer(self, device: str, peer: str) -> float:
        return ratio(self.body, self.order.fill, 3)

    track_times_peer.unit = "times as fast"


class PermuteRate:
    params = (devices.ALL,)
    param_names = ["device"]

    def setup(self, device: str) -> None:
        devices.need(device)
        self.order = Order(device, PermutePeer.n)

    def track_indices(self, device: str) -> float:
        return PermutePeer.n / self.seconds() / 1e9

    def track_of_limit(self, device: str) -> float:
        """int64s written once, at the bandwidth at which they are read; on one thread."""
        n_bytes = PermutePeer.n * np.dtype(np.int64).itemsize
        return n_bytes / self.seconds() / limits.read_bandwidth(1, device)

    def seconds(self) -> float:
        self.order.fill()
        return median_seconds(self.order.fill)

    track_indices.unit = "G indices / s"
    track_of_limit.unit = "fraction of the read bandwidth"


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


class SplitPeer(Split):
    """scikit-learn's. Both sides hand out the index arrays of every split, so that the work is the same."""

    time_folds = None

    def setup(self, device: str, kind: str, n_rows: int) -> None:
        if n_rows > 1_000_000 and kind == "kfold":
            raise NotImplementedError("takes long, and the ratio is that of 1 M rows")
        super().setup(device, kind, n_rows)
        name = "kfold" if kind == "kfold" else "stratified_kfold"
        self.splits = devices.peer("scikit-learn", lambda: _bench_peers.sklearn_splits(name, n_rows, self.y))

    def time_folds_and_all_indices(self, device: str, kind: str, n_rows: int) -> None:
        for _ in self.splits():
            pass

    def track_scikit_learn(self, device: str, kind: str, n_rows: int) -> float:
        mine = median_seconds(lambda: Split.time_folds_and_all_indices(self, device, kind, n_rows), 3)
        theirs = median_seconds(lambda: self.time_folds_and_all_indices(device, kind, n_rows), 2)
        return theirs / mine

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


class GroupSplitPeer:
    """scikit-learn's, run once for all that is said of it. Both sides hand out the index arrays of every split."""

    params = GroupSplit.params
    param_names = GroupSplit.param_names
    timeout = 300

    def setup_cache(self) -> dict[tuple[str, int], dict[str, float]]:
        found = {}
        for kind, n_rows in itertools.product(*self.params[1:]):
            case = GroupSplit()
            try:
                case.setup("cpu", kind, n_rows)
                found[kind, n_rows] = beside_scikit_learn(case, kind, n_rows)
            except (NotImplementedError, ImportError):
                continue
        return found

    def setup(self, found: dict, device: str, kind: str, n_rows: int) -> None:
        if (kind, n_rows) not in found:
            large = kind == "stratified" and n_rows > 200_000
            raise NotImplementedError("scikit-learn takes minutes" if large else "scikit-learn is not installed")

    def track_seconds(self, found: dict, device: str, *which: object) -> float:
        return found[which]["seconds"]

    def track_scikit_learn(self, found: dict, device: str, *which: object) -> float:
        return found[which]["times"]

    def track_imbalance(self, found: dict, device: str, *which: object) -> float:
        """Mean over classes of the standard deviation of the folds' shares, ours over scikit-learn's: below 1 is better;
        not of the plain kind, which has no classes."""
        return found[which].get("imbalance", float("nan"))

    track_seconds.unit = "s"
    track_scikit_learn.unit = "times as fast"
    track_imbalance.unit = "of scikit-learn's"


def beside_scikit_learn(case: GroupSplit, kind: str, n_rows: int) -> dict[str, float]:
    name = "group_kfold" if kind == "group_kfold" else "stratified_group_kfold"
    splits = _bench_peers.sklearn_splits(name, n_rows, case.y, case.groups)
    theirs = np.zeros(n_rows, dtype=np.int64)
    start = time.perf_counter()
    for fold, (_, test) in enumerate(splits()):
        theirs[test] = fold
    found = {"seconds": time.perf_counter() - start}
    found["times"] = found["seconds"] / median_seconds(lambda: list(case.ours().split()), 3)
    if case.y is not None:
        sides = []
        for folds in (case.ours().ids[0], theirs):
            counts = np.zeros((5, 5))
            np.add.at(counts, (folds, case.y), 1)
            sides.append((counts / counts.sum(axis=0)).std(axis=0).mean())
        found["imbalance"] = float(sides[0] / sides[1])
    return found
