"""Losses at raw predictions: the compiled ones, and the objects of `gradfold.loss`, which are NumPy expressions; beside other libraries.

The compiled losses have no call of their own. They are timed through the gradient of many models of one feature, whose product and sums
cost a few operations beside the loss; those count as ours, and scikit-learn's side gets its raw predictions ready-made. Losses summed
over rows are what `bench_metrics` measures.

XGBoost is skipped: an iteration of it cannot be had without the prediction and the tree, which take as long as its
objective, and there is no call for the objective alone. LightGBM has none either, but of data without a feature that could be split its
iteration is the objective.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from gradfold import _bench_peers, _core, loss
from gradfold._bench_problems import Points
from gradfold._bench_timing import beside, median_seconds

from . import devices, limits


class Pointwise:
    """Loss and gradient of 4,000 rows x 100 models (with classes, 10 of 10), on one thread."""

    params = (devices.HOST, list(loss.NAMES), devices.DTYPES)
    param_names = ["device", "loss", "dtype"]

    def setup(self, device: str, name: str, dtype: str) -> None:
        self.points = Points(name, dtype)

    def time_loss_gradient(self, device: str, name: str, dtype: str) -> None:
        self.points.loss_gradient(1)


class PointwiseThreads:
    """The log loss in both types, on one thread and on all."""

    params = (devices.HOST, devices.DTYPES, limits.THREADS)
    param_names = ["device", "dtype", "threads"]

    def setup(self, device: str, dtype: str, threads: str) -> None:
        self.prepare(dtype, limits.threads(threads))

    def prepare(self, dtype: str, n_threads: int) -> None:
        self.points = Points("log_loss", dtype)
        self.n_threads = n_threads
        self.time_loss_gradient()  # the caches

    def time_loss_gradient(self, *params: object) -> None:
        self.points.loss_gradient(self.n_threads)

    def track_of_limit(self, *params: object) -> float:
        """The limit is of the product and the sum alone, four operations a raw prediction: what is missing to 1 is the loss."""
        points = self.points
        peak = limits.fma_peak(points.X.itemsize, self.n_threads, level=_core.levels.current())
        return points.flops() / median_seconds(self.time_loss_gradient) / peak

    track_of_limit.unit = "fraction of the limit, the loss's own operations not counted"


class PointwiseLevels(devices.AtEachLevel, PointwiseThreads):
    pass


class PointwisePeer:
    """scikit-learn's losses of the same raw predictions."""

    params = (devices.HOST, ["scikit-learn"], ["log_loss", "squared_error", "multinomial"], devices.DTYPES)
    param_names = ["device", "library", "loss", "dtype"]

    def setup(self, device: str, library: str, name: str, dtype: str) -> None:
        self.points = points = Points(name, dtype)
        y, raw = points.flat()
        self.body = devices.peer(library, lambda: _bench_peers.sklearn_loss(name, y, raw, "loss_gradient", 1))

    def time_loss_gradient(self, device: str, library: str, name: str, dtype: str) -> None:
        self.body()

    def track_times_peer(self, device: str, library: str, name: str, dtype: str) -> float:
        return beside(lambda: self.points.loss_gradient(1), [self.body], 3, pause=0.0).ratios[0]

    track_times_peer.unit = "times as fast"


class Objective:
    """Gradient and hessian of one model's 1,000,000 raw predictions on one thread: what boosting asks of its objective."""

    n_rows = 1_000_000
    params = (devices.HOST, ["gradfold", "scikit-learn", "lightgbm", "xgboost"], ["log_loss", "squared_error"], devices.DTYPES)
    param_names = ["device", "library", "loss", "dtype"]

    def setup(self, device: str, library: str, name: str, dtype: str) -> None:
        y, raw = objective_problem(name, dtype, self.n_rows)
        self.body = objective(library, name, y, raw)

    def time_gradient_hessian(self, device: str, library: str, name: str, dtype: str) -> None:
        self.body()


class ObjectiveBesidePeers:
    """`Objective`, measured in turn."""

    params = (devices.HOST, ["scikit-learn", "lightgbm", "best"], ["log_loss", "squared_error"], devices.DTYPES)
    param_names = ["device", "peer", "loss", "dtype"]
    timeout = 300

    def setup_cache(self) -> dict[tuple[str, str, str], float]:
        found = {}
        for name, dtype in itertools.product(*self.params[2:]):
            y, raw = objective_problem(name, dtype, Objective.n_rows)
            bodies: dict[str, Any] = {}
            for peer in ("scikit-learn", "lightgbm"):
                try:
                    bodies[peer] = objective(peer, name, y, raw)
                except NotImplementedError:
                    continue
            ours = objective("gradfold", name, y, raw)
            ratios = dict(zip(bodies, beside(ours, list(bodies.values()), 3, pause=0.0).ratios))
            found.update(((peer, name, dtype), times) for peer, times in ratios.items())
            if ratios:
                found["best", name, dtype] = min(ratios.values())
        return found

    def setup(self, found: dict, device: str, peer: str, name: str, dtype: str) -> None:
        if (peer, name, dtype) not in found:
            raise NotImplementedError("no peer is installed" if peer == "best" else f"{peer} is not installed")

    def track_times_peer(self, found: dict, device: str, peer: str, name: str, dtype: str) -> float:
        return found[peer, name, dtype]

    track_times_peer.unit = "times as fast"


class ObjectiveLimit:
    """The share of the limit, which is memory: y and the raw predictions read, both results written."""

    params = (devices.HOST, *Objective.params[2:])
    param_names = ["device", "loss", "dtype"]

    def setup_cache(self) -> float:
        return limits.read_bandwidth(1)

    def setup(self, bandwidth: float, device: str, name: str, dtype: str) -> None:
        y, raw = objective_problem(name, dtype, Objective.n_rows)
        self.body, self.n_bytes = objective("gradfold", name, y, raw), 4 * raw.nbytes

    def track_of_limit(self, bandwidth: float, device: str, name: str, dtype: str) -> float:
        self.body()
        return self.n_bytes / median_seconds(self.body) / bandwidth

    track_of_limit.unit = "fraction of the read bandwidth"


def objective_problem(name: str, dtype: str, n_rows: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    raw = rng.standard_normal(n_rows).astype(dtype)
    return ((raw + rng.standard_normal(n_rows) > 0).astype(dtype) if name == "log_loss" else (raw + 1)), raw


def objective(library: str, name: str, y: Any, raw: Any) -> _bench_peers.Body:
    if library == "gradfold":
        own = loss.get(name)
        return lambda: own.gradient_hessian(y, raw)
    if library == "xgboost":
        raise NotImplementedError("xgboost has no call for its objective alone")
    if library == "lightgbm":
        return devices.peer(library, lambda: _bench_peers.lightgbm_objective(name, y, raw, 1))
    return devices.peer(library, lambda: _bench_peers.sklearn_loss(name, y, raw, "gradient_hessian", 1))
