"""The update step of each solver: batches of one row, so that nearly all the time goes into stepping the weights of many models."""

from __future__ import annotations

import numpy as np

from gradfold._bench_timing import seconds

from . import devices, limits

N_ROWS, N_FEATURES, N_MODELS, EPOCHS = 200, 200, 480, 2


class Update:
    params = (
        devices.HOST, ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"], ["plain", "clipped and averaged"],
        ["float32"],
    )
    param_names = ["device", "solver", "with", "dtype"]
    timeout = 120

    def setup(self, device: str, solver: str, extras: str, dtype: str) -> None:
        devices.need(device)
        self.Trainer = devices.trainer(device)
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((N_ROWS, N_FEATURES)).astype(dtype)
        self.y = (self.X[:, 0] > 0).astype(dtype)
        self.hyper = {}
        if extras != "plain":
            self.hyper = {"clip_norm": np.full(N_MODELS, 0.1), "average": np.ones(N_MODELS)}

    def train(self, solver: str) -> None:
        ones = np.ones(N_MODELS)
        trainer = self.Trainer(
            X=self.X, y=self.y, sample_weight=None, ids=np.zeros((1, N_ROWS), np.uint8),
            conditions=np.array([[[0, 1, 2, 0, 1]]], np.int64), split_of_model=np.zeros(N_MODELS, np.int64), loss="log_loss",
            solver=solver, l1=0 * ones, l2=1e-4 * ones, learning_rate=0.01 * ones, schedule=np.zeros(N_MODELS, np.int32), epochs=EPOCHS,
            batch_size=1, shuffle=True, seed=0, fit_intercept=True, standardize=False, coef_init=None, intercept_init=None, n_threads=1,
            hyper=self.hyper,
        )
        if trainer.advance() != "done" or (trainer.diverged_epoch >= 0).any():
            raise RuntimeError("the benchmark's models diverged")

    def seconds(self, solver: str) -> float:
        """Of a weight and step, the best of three."""
        return min(seconds(lambda: self.train(solver)) for _ in range(3)) / (EPOCHS * N_ROWS * N_FEATURES * N_MODELS)

    def track_weight_time(self, device: str, solver: str, extras: str, dtype: str) -> float:
        return self.seconds(solver) * 1e9

    track_weight_time.unit = "ns a weight and step, with its row's gradient"


class UpdateLimit(Update):
    """What is missing to the peak is the step: of the row's gradient four operations a weight are counted, of the step none."""

    params = (devices.HOST, Update.params[1], ["plain"], ["float32"])
    track_weight_time = None

    def track_of_limit(self, device: str, solver: str, extras: str, dtype: str) -> float:
        return 4 / self.seconds(solver) / limits.fma_peak(4, 1)

    track_of_limit.unit = "fraction of the FMA peak, the step's own operations not counted"


class UpdateOfFloat64(Update):
    params = (devices.HOST, Update.params[1], ["plain"], ["float64"])


class UpdateOnGpu(Update):
    """Without averaged weights, which have no kernel for GPUs."""

    params = (["cuda"], Update.params[1], ["plain"], ["float32"])
