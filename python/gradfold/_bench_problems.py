"""What is measured: problems made by seed, for `gradfold bench` and for the suite in `benchmarks/`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _core, index

Array = npt.NDArray[Any]

N_SPLITS = 5


def train_mask(folds: index.Folds, split_of_model: Array, dtype: npt.DTypeLike = np.float32) -> Array:
    """(n_rows, n_models): 1 where a model trains on a row of a k-fold, and 0 where not."""
    mask: Array = folds.ids[0][:, None] != split_of_model
    return mask.astype(dtype)


class Rows:
    """Random rows of two classes, and five folds."""

    def __init__(self, n_rows: int, n_features: int, dtype: str = "float32") -> None:
        self.rng = np.random.default_rng(0)
        self.X: Array = self.rng.standard_normal((n_rows, n_features), np.float32).astype(dtype, copy=False)
        self.y: Array = (self.rng.random(n_rows) < 0.5).astype(dtype)
        self.folds = index.kfold(n_rows, N_SPLITS)

    def weights(self, n_models: int) -> tuple[Array, Array]:
        """W and the intercepts."""
        shape = (self.X.shape[1], n_models)
        W = self.rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(shape[0]))
        return W.astype(self.X.dtype, copy=False), np.zeros(n_models, self.X.dtype)


class Dense:
    """The gradient of the log loss of many models, model m being of split m mod 5; without the checks of `loss_gradient`."""

    def __init__(self, rows: Rows, n_models: int) -> None:
        self.rows, self.X, self.y = rows, rows.X, rows.y
        self.W, self.intercept = rows.weights(n_models)
        self.split_of_model = np.arange(n_models, dtype=np.int64) % N_SPLITS
        self.loss = np.empty(n_models)
        self.grad, self.grad_intercept = np.empty_like(self.W), np.empty_like(self.intercept)

    def gradient(self, loss: bool, n_threads: int) -> None:
        folds = self.rows.folds
        _core.gradient.loss_gradient(
            self.X,
            self.y,
            self.W,
            self.intercept,
            "log_loss",
            True,
            None,
            folds.ids,
            folds.conditions,
            self.split_of_model,
            None,
            self.loss if loss else None,
            self.grad,
            self.grad_intercept,
            n_threads,
        )

    def train_mask(self) -> Array:
        return train_mask(self.rows.folds, self.split_of_model, self.X.dtype)

    def flops(self) -> float:
        """Useful ones: of every row, held-out or not, two for the prediction and two for the gradient."""
        return 4.0 * float(self.X.size * self.W.shape[1])


class Multinomial:
    """The gradient of softmax regression of 20 models with 10 classes each."""

    n_classes, n_models = 10, 20

    def __init__(self, n_rows: int, n_features: int) -> None:
        rng = np.random.default_rng(1)
        self.X: Array = rng.standard_normal((n_rows, n_features), dtype=np.float32)
        self.y = rng.integers(0, self.n_classes, n_rows).astype(np.float32)
        shape = (n_features, self.n_classes, self.n_models)
        self.W: Array = (rng.standard_normal(shape) / n_features**0.5).astype(np.float32)
        self.intercept = np.zeros(shape[1:], np.float32)
        self.folds = index.kfold(n_rows, N_SPLITS)
        self.split_of_model = np.arange(self.n_models, dtype=np.int64) % N_SPLITS
        self.grad, self.grad_intercept = np.empty_like(self.W), np.empty_like(self.intercept)

    def gradient(self, n_threads: int) -> None:
        _core.gradient.loss_gradient(
            self.X,
            self.y,
            self.W,
            self.intercept,
            "multinomial",
            True,
            None,
            self.folds.ids,
            self.folds.conditions,
            self.split_of_model,
            None,
            None,
            self.grad,
            self.grad_intercept,
            n_threads,
        )

    def train_mask(self) -> Array:
        return train_mask(self.folds, self.split_of_model)

    def flops(self) -> float:
        return 4.0 * self.X.size * self.n_classes * self.n_models


class Points:
    """Raw predictions x·w of 400,000 (row, model) pairs, with 10 outputs of 40,000, at which a loss is evaluated with its gradient."""

    n_classes = 10

    def __init__(self, loss: str, dtype: str) -> None:
        rng = np.random.default_rng(0)
        self.loss = loss
        several = loss == "multinomial"
        n_rows, n_models = 4_000, 10 if several else 100
        outputs = (self.n_classes,) if several else ()
        self.X: Array = rng.standard_normal((n_rows, 1)).astype(dtype)
        self.y: Array = rng.integers(0, self.n_classes if several else 2, n_rows).astype(dtype)
        self.W: Array = rng.standard_normal((1, *outputs, n_models)).astype(dtype)
        self.raw: Array = np.tensordot(self.X, self.W, 1)  # (n_rows, n_models) or (n_rows, n_outputs, n_models)
        self.intercept = np.zeros((*outputs, n_models), dtype)
        self.losses = np.empty(n_models)
        self.grad, self.grad_intercept = np.empty_like(self.W), np.empty_like(self.intercept)

    def loss_gradient(self, n_threads: int) -> None:
        _core.gradient.loss_gradient(
            self.X,
            self.y,
            self.W,
            self.intercept,
            self.loss,
            True,
            None,
            None,
            None,
            None,
            None,
            self.losses,
            self.grad,
            self.grad_intercept,
            n_threads,
        )

    def flat(self) -> tuple[Array, Array]:
        """y and the raw predictions as one model's: a row for each (row, model)."""
        n_models = self.W.shape[-1]
        shape = (-1, self.n_classes) if self.raw.ndim == 3 else (-1,)
        return np.repeat(self.y, n_models), np.moveaxis(self.raw, -1, 1).reshape(shape)

    def flops(self) -> float:
        """Useful ones beside the loss: two for the raw prediction, two for the gradient of the weight."""
        return 4.0 * self.raw.size


def classification(n_rows: int, n_features: int) -> tuple[Array, Array]:
    """X and labels that a linear model predicts, but not without errors."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_features), dtype=np.float32)
    logits = X @ rng.standard_normal(n_features).astype(np.float32) / np.float32(n_features**0.5)
    return X, (rng.random(n_rows) < 1 / (1 + np.exp(-2 * logits))).astype(np.int64)


class Grid:
    """Candidates that differ in l2, times five stratified folds, in batches of 256 rows, shuffled."""

    batch_size = 256
    learning_rate = 0.01

    def __init__(self, n_rows: int, n_features: int, n_candidates: int) -> None:
        self.X, labels = classification(n_rows, n_features)
        self.y = labels.astype(np.float32)
        self.folds = index.stratified_kfold(labels, N_SPLITS)
        self.l2 = np.repeat(np.logspace(-6, -1, n_candidates), N_SPLITS)  # of each model
        self.split_of_model = np.arange(len(self.l2), dtype=np.int64) % N_SPLITS

    def trainer(self, Trainer: type, solver: str, epochs: int, n_threads: int) -> Any:
        """The epoch loop of a device: `_core.train.Trainer`, or that of `gradfold.cuda`."""
        zeros = np.zeros(len(self.l2))
        return Trainer(
            X=self.X,
            y=self.y,
            sample_weight=None,
            ids=self.folds.ids,
            conditions=self.folds.conditions,
            split_of_model=self.split_of_model,
            loss="log_loss",
            solver=solver,
            l1=zeros,
            l2=self.l2,
            learning_rate=zeros + self.learning_rate,
            schedule=np.zeros(len(self.l2), np.int32),
            epochs=epochs,
            batch_size=self.batch_size,
            shuffle=True,
            seed=0,
            fit_intercept=True,
            standardize=False,
            coef_init=None,
            intercept_init=None,
            n_threads=n_threads,
        )

    def train_mask(self) -> Array:
        return train_mask(self.folds, self.split_of_model)

    def flops(self) -> float:
        """Useful ones of an epoch: a training row costs a model four a feature, a scored row two."""
        return self.X.size * len(self.l2) * (4 * (N_SPLITS - 1) + 2) / N_SPLITS


class Predictions:
    """Raw predictions of many models for two classes, and weights."""

    def __init__(self, n_rows: int, n_models: int) -> None:
        rng = np.random.default_rng(0)
        self.raw: Array = rng.standard_normal((n_rows, n_models), dtype=np.float32)
        self.y = rng.integers(0, 2, n_rows)
        self.weight = rng.random(n_rows)
