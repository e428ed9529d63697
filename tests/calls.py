"""Calls of the private kernels: random problems, outputs poisoned beforehand, results as bytes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

import numpy as np

import splits
from gradfold import _core
from reference import loss as point

SCHEDULES = {
    name: code
    for code, name in enumerate(["constant", "cosine", "inverse_scaling", "exponential", "step", "optimal", "adaptive"])
}


@contextlib.contextmanager
def level(name):
    """Force one instruction level in this process."""
    _core.levels._force(name)
    try:
        yield
    finally:
        _core.levels._force("")


@dataclass(repr=False)
class Problem:
    """Data, splits and models for either kernel. ``split_of_model``, and all that is per model, is of length m."""

    X: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray | None
    splits: splits.Splits
    split_of_model: np.ndarray
    loss: str
    W: np.ndarray  # (p, m), or (p, n_outputs, m), where loss_gradient is taken and training starts if `warm`
    intercept: np.ndarray | None  # (m,) or (n_outputs, m)
    l1: np.ndarray = field(default=None)
    l2: np.ndarray = field(default=None)
    learning_rate: np.ndarray = field(default=None)
    schedule: list[str] = field(default=None)
    loss_epsilon: np.ndarray | None = None  # (m,)
    hyper: dict[str, np.ndarray] = field(default_factory=dict)  # further hyper-parameters, (m,) each

    def __repr__(self):
        weight = "none" if self.sample_weight is None else f"{(self.sample_weight == 0).sum()} zeros"
        return f"Problem({self.loss}, X {self.X.shape} {self.X.dtype}, {self.n_models} models, weight: {weight})"

    @property
    def n_models(self):
        return len(self.split_of_model)

    def model_roles(self):
        """Role of every row to every model, (m, n)."""
        used, of_used = np.unique(self.split_of_model, return_inverse=True)
        return self.splits.only(used).roles()[of_used]

    def of_models(self, models):
        """The same problem with only these models, in this order."""
        models = np.asarray(models)
        return replace(
            self,
            split_of_model=self.split_of_model[models],
            W=np.ascontiguousarray(self.W[..., models]),
            intercept=None if self.intercept is None else np.ascontiguousarray(self.intercept[..., models]),
            l1=self.l1[models],
            l2=self.l2[models],
            learning_rate=self.learning_rate[models],
            schedule=[self.schedule[k] for k in models],
            loss_epsilon=None if self.loss_epsilon is None else self.loss_epsilon[models],
            hyper={name: values[models] for name, values in self.hyper.items()},
        )

    def told_alone(self, model):
        """One model whose split is described by an id row of its own."""
        one = self.of_models([model])
        own = self.splits.alone(int(self.split_of_model[model]))
        return replace(one, splits=own, split_of_model=np.zeros(1, np.int64))


def problem(seed, *, n, p, m, dtype=np.float64, kind="kfold", loss="log_loss", weights="zeros", intercept=True,
            n_classes=3):
    """A random problem whose every model has a training row of positive weight.

    ``weights``: "none", "ones", "integers", or "zeros" (random, about a fifth of them 0).
    """
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    X = rng.standard_normal((n, p)).astype(dtype)
    truth = rng.standard_normal(p) / np.sqrt(p)
    z = X @ truth + 0.3
    outputs = (n_classes,) if loss == "multinomial" else ()
    if loss == "multinomial":
        noisy = X @ (rng.standard_normal((p, n_classes)) / np.sqrt(p)) + rng.gumbel(size=(n, n_classes))
        y = noisy.argmax(axis=1).astype(dtype)
    elif loss in point.BINARY:
        y = (rng.random(n) < 1 / (1 + np.exp(-2 * z))).astype(dtype)
    else:
        y = (z + 0.3 * rng.standard_normal(n)).astype(dtype)
    of_rows = splits.make(kind, rng, n)
    split_of_model = rng.integers(0, of_rows.n_splits, m).astype(np.int64)
    if weights == "none":
        weight = None
    elif weights == "ones":
        weight = np.ones(n, dtype)
    elif weights == "integers":
        weight = rng.integers(0, 4, n).astype(dtype)
    else:
        weight = np.where(rng.random(n) < 0.2, 0, rng.uniform(0.2, 3, n)).astype(dtype)
    if weight is not None:
        for role in of_rows.only(np.unique(split_of_model)).roles():
            trains = np.flatnonzero(role == splits.TRAIN)
            if len(trains) and not weight[trains].any():
                weight[trains[0]] = 1
    return Problem(
        X=X,
        y=y,
        sample_weight=weight,
        splits=of_rows,
        split_of_model=split_of_model,
        loss=loss,
        W=(rng.standard_normal((p, *outputs, m)) / np.sqrt(p)).astype(dtype),
        intercept=rng.standard_normal((*outputs, m)).astype(dtype) if intercept else None,
        l1=np.where(rng.random(m) < 0.5, 0, 10 ** rng.uniform(-4, -1.5, m)),
        l2=np.where(rng.random(m) < 0.2, 0, 10 ** rng.uniform(-5, -1, m)),
        learning_rate=10 ** rng.uniform(-2.5, -1, m),
        schedule=[str(s) for s in rng.choice(["constant", "cosine"], m)],
        loss_epsilon=rng.uniform(0.05, 0.5, m) if loss in point.WITH_EPSILON else None,
    )


def poisoned(shape, dtype, seed=0):
    """An output nobody has written yet: every value differs, and NaN, inf and huge ones are among them."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(-1e30, 1e30, shape).astype(dtype)
    a.flat[::3] = np.nan
    a.flat[1::3] = np.inf
    return a


def loss_gradient(q, *, reduction="mean", rows=None, with_loss=True, use_splits=True, n_threads=1):
    """(loss or None, grad_W, grad_intercept or None) of a problem's models, from poisoned outputs."""
    loss = poisoned(q.n_models, np.float64) if with_loss else None
    grad_W = poisoned(q.W.shape, q.X.dtype)
    grad_intercept = poisoned(q.W.shape[1:], q.X.dtype) if q.intercept is not None else None
    _core.gradient.loss_gradient(
        q.X, q.y, q.W, q.intercept, q.loss, reduction == "mean", rows,
        q.splits.ids if use_splits else None, q.splits.conditions if use_splits else None,
        q.split_of_model if use_splits else None, q.sample_weight, loss, grad_W, grad_intercept, n_threads,
        q.loss_epsilon,
    )
    return loss, grad_W, grad_intercept


def trainer(q, *, solver="sgd", epochs=2, batch_size=64, shuffle=True, seed=7, fit_intercept=True, standardize=False,
            warm=False, n_threads=1, make=None, **control):
    """A Trainer of a problem's models, of another class with ``make``; ``control`` is passed on as it is."""
    if q.loss == "multinomial":
        control = {"n_outputs": q.W.shape[1], **control}
    return (make or _core.train.Trainer)(
        X=q.X, y=q.y, sample_weight=q.sample_weight, ids=q.splits.ids, conditions=q.splits.conditions,
        split_of_model=q.split_of_model, loss=q.loss, solver=solver, l1=q.l1, l2=q.l2,
        learning_rate=q.learning_rate, schedule=np.array([SCHEDULES[s] for s in q.schedule], np.int32),
        epochs=epochs, batch_size=batch_size, shuffle=shuffle, seed=seed, fit_intercept=fit_intercept,
        standardize=standardize, coef_init=np.ascontiguousarray(q.W.T, np.float64) if warm else None,
        intercept_init=np.ascontiguousarray(q.intercept.T, np.float64) if warm and q.intercept is not None else None,
        n_threads=n_threads, hyper=q.hyper, loss_epsilon=q.loss_epsilon, **control,
    )


@dataclass(frozen=True)
class Trained:
    """All that a Trainer says about its models; ``of(k)`` is what it says of one, as bytes."""

    coef: np.ndarray
    intercept: np.ndarray
    steps: np.ndarray
    history: np.ndarray
    diverged_epoch: np.ndarray
    diverged_batch: np.ndarray

    def weights_of(self, model):
        """What held-out rows must not reach: coefficients, intercept, number of updates, divergence."""
        return tuple(
            np.ascontiguousarray(a[model]).tobytes()
            for a in (self.coef, self.intercept, self.steps, self.diverged_epoch, self.diverged_batch)
        )

    def of(self, model):
        """All of it: the weights and the held-out losses."""
        return (*self.weights_of(model), np.ascontiguousarray(self.history[:, model]).tobytes())

    def bytes(self):
        return [self.of(k) for k in range(len(self.intercept))]


def read(t):
    """What a Trainer holds now."""
    return Trained(t.coef(), t.intercept(), t.steps(), t.history(), t.diverged_epoch, t.diverged_batch)


def train(q, **options):
    """Train a problem's models to the end."""
    t = trainer(q, **options)
    assert t.advance() == "done"
    return read(t)
