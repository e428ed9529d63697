"""Metrics of 1,000 models on 10,000 rows, beside scikit-learn's function called once a model; one thread."""

from __future__ import annotations

import time

import numpy as np

from gradfold import _bench_peers, metrics
from gradfold._bench_problems import Predictions

from . import devices

N_ROWS, N_MODELS = 10_000, 1_000
PEER_MODELS = 50  # of which scikit-learn's time is taken


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

    def track_scikit_learn(self, device: str, name: str) -> float:
        q = self.problem
        try:
            peer = _bench_peers.sklearn_metric(name, q.y, q.weight)
        except ImportError as error:
            raise NotImplementedError("scikit-learn is not installed") from error
        columns = np.ascontiguousarray(q.raw[:, :PEER_MODELS].T)
        ratios = []
        for _ in range(3):
            start = time.perf_counter()
            self.ours(name)
            mine = (time.perf_counter() - start) / N_MODELS
            start = time.perf_counter()
            for column in columns:
                peer(column)
            ratios.append((time.perf_counter() - start) / PEER_MODELS / mine)
        return float(np.median(ratios))

    track_scikit_learn.unit = "times as fast"
