"""Metrics of 1,000 models on 10,000 rows, beside scikit-learn's function called once a model; one thread."""

from __future__ import annotations

import numpy as np

from gradfold import _bench_peers, metrics
from gradfold._bench_problems import Predictions
from gradfold._bench_timing import median_seconds, ratio

from . import devices, limits

N_ROWS, N_MODELS = 10_000, 1_000
PEER_MODELS = 20  # of which scikit-learn's time is taken


class BinaryMetrics:
    params = (devices.HOST, ["accuracy", "f1", "log_loss", "roc_auc", "average_precision"])
    param_names = ["device", "name"]
    timeout = 300

    def setup(self, device: str, name: str) -> None:
        self.problem = Predictions(N_ROWS, N_MODELS)

    def ours(self, name: str) -> None:
        q = self.problem
        metrics.evaluate(name, q.y, q.raw, loss="log_loss", sample_weight=q.weight, n_threads=1)

    def time_metric(self, device: str, name: str) -> None:
        self.ours(name)


class BinaryMetricsLimit(BinaryMetrics):
    """The limit is memory, from which the raw predictions come once; a ranking sorts them too."""

    time_metric = None

    def setup_cache(self) -> float:
        return limits.read_bandwidth(1)

    def setup(self, bandwidth: float, device: str, name: str) -> None:
        super().setup(device, name)

    def track_of_limit(self, bandwidth: float, device: str, name: str) -> float:
        self.ours(name)
        return self.problem.raw.nbytes / median_seconds(lambda: self.ours(name), 3) / bandwidth

    track_of_limit.unit = "fraction of the read bandwidth"


class BinaryMetricsPeer(BinaryMetrics):
    """scikit-learn's, of so many models that the time is known."""

    def setup(self, device: str, name: str) -> None:
        super().setup(device, name)
        q = self.problem
        self.peer = devices.peer("scikit-learn", lambda: _bench_peers.sklearn_metric(name, q.y, q.weight))
        self.columns = np.ascontiguousarray(q.raw[:, :PEER_MODELS].T)

    def time_metric(self, device: str, name: str) -> None:
        for column in self.columns:
            self.peer(column)

    def track_scikit_learn(self, device: str, name: str) -> float:
        times = ratio(lambda: self.time_metric(device, name), lambda: self.ours(name), 3)
        return times * N_MODELS / PEER_MODELS

    track_scikit_learn.unit = "times as fast"
