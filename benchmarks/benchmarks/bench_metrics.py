"""Metrics of 1,000 models on 10,000 rows, beside scikit-learn's function called once a model; one thread."""

from __future__ import annotations

import time

import numpy as np

from gradfold import metrics

from . import devices

N_ROWS, N_MODELS = 10_000, 1_000
PEER_MODELS = 50  # of which scikit-learn's time is taken


class BinaryMetrics:
    params = (devices.HOST, ["accuracy", "f1", "log_loss", "roc_auc", "average_precision"])
    param_names = ["device", "name"]
    timeout = 300

    def setup(self, device: str, name: str) -> None:
        rng = np.random.default_rng(0)
        self.raw = rng.standard_normal((N_ROWS, N_MODELS), dtype=np.float32)
        self.y = rng.integers(0, 2, N_ROWS)
        self.weight = rng.random(N_ROWS)

    def ours(self, name: str) -> None:
        metrics.evaluate(name, self.y, self.raw, loss="log_loss", sample_weight=self.weight, n_threads=1)

    def time_metric(self, device: str, name: str) -> None:
        self.ours(name)

    def track_scikit_learn(self, device: str, name: str) -> float:
        try:
            import sklearn.metrics as peer
        except ImportError as error:
            raise NotImplementedError("scikit-learn is not installed") from error
        calls = {
            "accuracy": lambda z: peer.accuracy_score(self.y, z > 0, sample_weight=self.weight),
            "f1": lambda z: peer.f1_score(self.y, z > 0, sample_weight=self.weight),
            "log_loss": lambda z: peer.log_loss(self.y, 1 / (1 + np.exp(-z)), sample_weight=self.weight),
            "roc_auc": lambda z: peer.roc_auc_score(self.y, z, sample_weight=self.weight),
            "average_precision": lambda z: peer.average_precision_score(self.y, z, sample_weight=self.weight),
        }
        columns = np.ascontiguousarray(self.raw[:, :PEER_MODELS].T)
        ratios = []
        for _ in range(3):
            start = time.perf_counter()
            self.ours(name)
            mine = (time.perf_counter() - start) / N_MODELS
            start = time.perf_counter()
            for column in columns:
                calls[name](column)
            ratios.append((time.perf_counter() - start) / PEER_MODELS / mine)
        return float(np.median(ratios))

    track_scikit_learn.unit = "times as fast"
