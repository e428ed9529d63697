"""The same work by other libraries, written as well as we know how. Only what is asked for is imported.

A function here returns what to run; it raises ImportError where its library is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Body = Callable[[], Any]

# Name -> the module that holds it, and the seconds that its threads may go on spinning.
MODULES = {"numpy": "numpy", "sklearn": "sklearn", "torch": "torch", "jax": "jax"}
PAUSES = {"numpy": 0.15, "sklearn": 0.0, "torch": 0.3, "jax": 0.3}
DEFAULT = ("numpy", "sklearn")
BLOCK = 2000  # rows whose raw predictions are made at once: they stay in the caches


def installed(name: str) -> bool:
    return importlib.util.find_spec(MODULES[name]) is not None


@contextmanager
def blas_threads(n_threads: int) -> Iterator[bool]:
    """NumPy's matrix products on so many threads meanwhile; False where threadpoolctl, which can say so, is not installed."""
    if importlib.util.find_spec("threadpoolctl") is None:
        yield False
        return
    with importlib.import_module("threadpoolctl").threadpool_limits(n_threads, user_api="blas"):
        yield True


# ---- the masked logistic gradient ----------------------------------------------------------------------------------


def numpy_blocks(X: Array, y: Array, W: Array, train: Array | None, loss: bool = False) -> Body:
    """`train` is (n_rows, n_models) of 0 and 1, or None; returns the gradients, and with `loss` the sums of the losses."""

    def run() -> tuple[Array, ...]:
        grad = np.zeros_like(W)
        intercept = np.zeros(W.shape[1], W.dtype)
        losses = np.zeros(W.shape[1])
        for begin in range(0, len(X), BLOCK):
            rows = slice(begin, begin + BLOCK)
            z = X[rows] @ W
            if loss:
                value = np.logaddexp(0, z, dtype=z.dtype)
                value -= y[rows, None] * z
                if train is not None:
                    value *= train[rows]
                losses += value.sum(axis=0, dtype=np.float64)
            np.negative(z, out=z)
            np.exp(z, out=z)
            z += 1
            np.reciprocal(z, out=z)
            z -= y[rows, None]
            if train is not None:
                z *= train[rows]
            grad += X[rows].T @ z
            intercept += z.sum(axis=0)
        return (grad, intercept, losses) if loss else (grad, intercept)

    return run


def torch_blocks(X: Array, y: Array, W: Array, train: Array | None, n_threads: int, loss: bool = False) -> Body:
    torch = importlib.import_module("torch")
    torch.set_num_threads(n_threads)
    tX, ty, tW = (torch.from_numpy(a) for a in (X, y, W))
    mask = None if train is None else torch.from_numpy(train)

    def run() -> tuple[Any, ...]:
        grad = torch.zeros_like(tW)
        intercept = torch.zeros(W.shape[1], dtype=tW.dtype)
        losses = torch.zeros(W.shape[1], dtype=torch.float64)
        with torch.no_grad():
            for begin in range(0, len(X), BLOCK):
                rows = slice(begin, begin + BLOCK)
                z = tX[rows] @ tW
                if loss:
                    value = torch.nn.functional.softplus(z).sub_(ty[rows, None] * z)
                    losses += (value if mask is None else value.mul_(mask[rows])).sum(dim=0, dtype=torch.float64)
                z = z.sigmoid_().sub_(ty[rows, None])
                if mask is not None:
                    z *= mask[rows]
                grad.addmm_(tX[rows].T, z)
                intercept += z.sum(dim=0)
        return (grad, intercept, losses) if loss else (grad, intercept)

    return run


def jax_vmap(X: Array, y: Array, W: Array, train: Array, loss: bool = False) -> Body:
    """One masked loss, its gradient by jax.grad, all models by jax.vmap, compiled; on as many threads as jax likes."""
    jax = importlib.import_module("jax")
    jnp = jax.numpy
    jX, jy = jnp.asarray(X), jnp.asarray(y)
    jW, masks = jnp.asarray(W.T), jnp.asarray(train.T)

    def one(w: Any, intercept: Any, mask: Any) -> Any:
        z = jX @ w + intercept
        return jnp.sum(mask * (jax.nn.softplus(z) - jy * z))

    differentiate = jax.value_and_grad if loss else jax.grad
    compiled = jax.jit(jax.vmap(differentiate(one, argnums=(0, 1))))
    zeros = jnp.zeros(W.shape[1], dtype=jW.dtype)
    return lambda: jax.block_until_ready(compiled(jW, zeros, masks))


def torch_vmap(X: Array, y: Array, W: Array, train: Array, n_threads: int) -> Body:
    """One masked loss, its gradient by torch.func.grad, all models by torch.func.vmap."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(n_threads)
    tX, ty = torch.from_numpy(X), torch.from_numpy(y)
    tW, masks = (torch.from_numpy(np.ascontiguousarray(a.T)) for a in (W, train))

    def one(w: Any, intercept: Any, mask: Any) -> Any:
        z = tX @ w + intercept
        return (mask * (torch.nn.functional.softplus(z) - ty * z)).sum()

    gradients = torch.func.vmap(torch.func.grad(one, argnums=(0, 1)))
    zeros = torch.zeros(W.shape[1], dtype=tW.dtype)
    return lambda: gradients(tW, zeros, masks)


def sklearn_linear_loss(X: Array, y: Array, W: Array, train: Array, n_threads: int) -> Body:
    """What LogisticRegression asks for its gradients, one model after another; the rows of a model are those of weight 1."""
    linear = importlib.import_module("sklearn.linear_model._linear_loss")
    losses = importlib.import_module("sklearn._loss")
    model = linear.LinearModelLoss(losses.HalfBinomialLoss(), fit_intercept=True)
    coefs = np.concatenate([W, np.zeros((1, W.shape[1]), W.dtype)]).T.copy()
    weights = np.ascontiguousarray(train.T)

    def run() -> list[Any]:
        return [model.gradient(coef, X, y, weight, n_threads=n_threads) for coef, weight in zip(coefs, weights)]

    return run


# ---- losses of raw predictions -------------------------------------------------------------------------------------


def sklearn_loss(name: str, y: Array, raw: Array, method: str, n_threads: int) -> Body:
    """`method` of scikit-learn's loss of that name ("loss_gradient", "gradient_hessian"), its results written where they were."""
    losses = importlib.import_module("sklearn._loss")
    loss = {
        "log_loss": losses.HalfBinomialLoss,
        "squared_error": losses.HalfSquaredError,
        "multinomial": lambda: losses.HalfMultinomialLoss(n_classes=raw.shape[-1]),
    }[name]()
    outs = {"loss_gradient": ("loss_out", "gradient_out"), "gradient_hessian": ("gradient_out", "hessian_out")}[method]
    places = {out: np.empty_like(y if out == "loss_out" else raw) for out in outs}
    return lambda: getattr(loss, method)(y, raw, n_threads=n_threads, **places)


def lightgbm_objective(name: str, y: Array, raw: Array, n_threads: int) -> Body:
    """Gradient and hessian of a built-in objective. There is no call for them alone, but of data whose only feature is constant
    an iteration does nothing else: there is no tree to grow. The objective takes and gives what it always does, raw predictions
    of float64 and results of float32."""
    lightgbm = importlib.import_module("lightgbm")
    objective = {"log_loss": "binary", "squared_error": "regression"}[name]
    quiet = {"verbose": -1}
    data = lightgbm.Dataset(np.zeros((len(y), 1), np.float32), y, init_score=raw, params=quiet)
    booster = lightgbm.Booster(
        {"objective": objective, "boost_from_average": False, "num_threads": n_threads, **quiet}, data
    )
    update: Body = booster.update
    return update


# ---- the multinomial gradient --------------------------------------------------------------------------------------


def numpy_softmax(X: Array, y: Array, W: Array, train: Array) -> Body:
    """`X @ W`, softmax, `X.T @ residual`. W is (n_features, n_classes, n_models), `train` (n_rows, n_models) of 0 and 1."""
    n_features, n_classes, n_models = W.shape

    def run() -> Array:
        wide = np.ascontiguousarray(W.transpose(0, 2, 1)).reshape(n_features, -1)
        grad = np.zeros_like(wide)
        for begin in range(0, len(X), BLOCK):
            rows = slice(begin, begin + BLOCK)
            x, own = X[rows], y[rows].astype(np.intp)
            z = (x @ wide).reshape(len(x), n_models, n_classes)
            z -= z.max(axis=2, keepdims=True)
            np.exp(z, out=z)
            z /= z.sum(axis=2, keepdims=True)
            z[np.arange(len(x)), :, own] -= 1
            z *= train[rows, :, None]
            grad += x.T @ z.reshape(len(x), -1)
        return grad.reshape(n_features, n_models, n_classes).transpose(0, 2, 1)

    return run


# ---- an epoch of a grid --------------------------------------------------------------------------------------------


def numpy_epoch(X: Array, y: Array, train: Array, l2: Array, solver: str, batch_size: int, learning_rate: float) -> Body:
    """All models side by side: mini-batches in random order, then the held-out losses; each call is one more epoch."""
    rng = np.random.default_rng(0)
    penalty = l2.astype(X.dtype)
    rate, beta1, beta2 = X.dtype.type(learning_rate), X.dtype.type(0.9), X.dtype.type(0.999)
    weights = [np.zeros((X.shape[1], len(l2)), X.dtype), np.zeros(len(l2), X.dtype)]
    first = [np.zeros_like(a) for a in weights]
    second = [np.zeros_like(a) for a in weights]
    steps = 0

    def step(gradients: list[Array]) -> None:
        nonlocal steps
        steps += 1
        for w, g, m, v in zip(weights, gradients, first, second):
            if solver == "sgd":
                w -= rate * g
                continue
            m += (1 - beta1) * (g - m)
            v += (1 - beta2) * (g * g - v)
            size = X.dtype.type(learning_rate / (1 - 0.9**steps))
            w -= size * m / (np.sqrt(v) * X.dtype.type(1 / (1 - 0.999**steps) ** 0.5) + X.dtype.type(1e-8))

    def run() -> Array:
        W, intercept = weights
        order = rng.permutation(len(X))
        for begin in range(0, len(X), batch_size):
            rows = order[begin : begin + batch_size]
            x, mask = X[rows], train[rows]
            z = x @ W
            z += intercept
            np.negative(z, out=z)
            np.exp(z, out=z)
            z += 1
            np.reciprocal(z, out=z)
            z -= y[rows, None]
            z *= mask
            count = np.maximum(mask.sum(axis=0), 1)
            step([x.T @ z / count + penalty * W, z.sum(axis=0) / count])
        loss, weight = np.zeros(len(l2)), np.zeros(len(l2))
        for begin in range(0, len(X), BLOCK):
            block = slice(begin, begin + BLOCK)
            z = X[block] @ W + intercept
            held_out = 1 - train[block]
            loss += (held_out * (np.logaddexp(0, z) - y[block, None] * z)).sum(axis=0)
            weight += held_out.sum(axis=0)
        return loss / weight

    return run


def sklearn_epoch(X: Array, y: Array, n_models: int, n_threads: int) -> Body:
    """One pass of SGDClassifier over four fifths of the rows for each model, a model a thread at a time (it lets go of the GIL)."""
    linear = importlib.import_module("sklearn.linear_model")
    rows = slice(0, 4 * len(X) // 5)
    x, labels, classes = X[rows], y[rows], np.unique(y)

    def one(_: int) -> None:
        linear.SGDClassifier(loss="log_loss", random_state=0).partial_fit(x, labels, classes=classes)

    def run() -> None:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(one, range(n_models)))

    return run


# ---- orders, splits and metrics ------------------------------------------------------------------------------------


def numpy_permutation(n: int) -> Body:
    generator = np.random.default_rng(0)
    return lambda: generator.permutation(n)


def torch_permutation(n: int, n_threads: int = 1, device: str = "cpu") -> Body:
    torch = importlib.import_module("torch")
    torch.set_num_threads(n_threads)
    return lambda: torch.randperm(n, device=device)


def sklearn_splits(kind: str, n_rows: int, y: Array | None = None, groups: Array | None = None) -> Callable[[], Any]:
    """What yields the index arrays of every split: "kfold", "stratified_kfold", "group_kfold", "stratified_group_kfold"."""
    selection = importlib.import_module("sklearn.model_selection")
    name, shuffled = {
        "kfold": ("KFold", True),
        "stratified_kfold": ("StratifiedKFold", True),
        "group_kfold": ("GroupKFold", False),
        "stratified_group_kfold": ("StratifiedGroupKFold", True),
    }[kind]
    splitter = getattr(selection, name)(5, **({"shuffle": True, "random_state": 0} if shuffled else {}))
    X = np.zeros(n_rows, dtype=np.int8)
    return lambda: splitter.split(X, y, groups)


def sklearn_metric(name: str, y: Array, weight: Array | None) -> Callable[[Array], float]:
    """Of the raw predictions of one model."""
    peer = importlib.import_module("sklearn.metrics")
    calls: dict[str, Callable[[Array], float]] = {
        "accuracy": lambda z: peer.accuracy_score(y, z > 0, sample_weight=weight),
        "f1": lambda z: peer.f1_score(y, z > 0, sample_weight=weight),
        "log_loss": lambda z: peer.log_loss(y, 1 / (1 + np.exp(-z)), sample_weight=weight),
        "roc_auc": lambda z: peer.roc_auc_score(y, z, sample_weight=weight),
        "average_precision": lambda z: peer.average_precision_score(y, z, sample_weight=weight),
    }
    return calls[name]
