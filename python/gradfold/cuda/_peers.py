"""The masked logistic gradient of many models by other libraries on the GPU, in full float32, as well as we know how.

Each peer is a function of a problem on the host that returns what to run and how to wait for it; it raises ImportError
where its library is not installed.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Peer = tuple[Callable[[], Any], Callable[[], Any]]  # run, wait

BLOCK = 16_384  # rows whose raw predictions are made at once: they fill the GPU and leave its memory alone


@dataclass
class Problem:
    """float32; `train` is (n_rows, n_models) of 0 and 1."""

    X: Array
    y: Array
    W: Array
    train: Array


def torch_products(q: Problem, block: int | None = BLOCK) -> Peer:
    """Two matrix products and a sigmoid, in blocks of rows or over all rows at once."""
    torch = importlib.import_module("torch")
    torch.set_float32_matmul_precision("highest")
    X, y, W, train = (torch.from_numpy(a).cuda() for a in (q.X, q.y, q.W, q.train))
    step = block or len(X)

    def run() -> Any:
        grad = torch.zeros_like(W)
        intercept = torch.zeros(W.shape[1], device="cuda")
        with torch.no_grad():
            for a in range(0, len(X), step):
                z = torch.sigmoid(X[a : a + step] @ W).sub_(y[a : a + step, None]).mul_(train[a : a + step])
                grad.addmm_(X[a : a + step].T, z)
                intercept += z.sum(dim=0)
        return grad, intercept

    return run, torch.cuda.synchronize


def torch_vmap(q: Problem) -> Peer:
    """`torch.func.vmap` of `torch.func.grad` of one model's loss, eager."""
    torch = importlib.import_module("torch")
    torch.set_float32_matmul_precision("highest")
    X, y, train = (torch.from_numpy(a).cuda() for a in (q.X, q.y, np.ascontiguousarray(q.train.T)))
    W = torch.from_numpy(np.ascontiguousarray(q.W.T)).cuda()
    zeros = torch.zeros(len(W), device="cuda")

    def loss(w: Any, b: Any, mask: Any) -> Any:
        z = X @ w + b
        return (mask * (torch.nn.functional.softplus(z) - y * z)).sum()

    many = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))
    return lambda: many(W, zeros, train), torch.cuda.synchronize


def cupy_products(q: Problem, block: int | None = BLOCK) -> Peer:
    """Two matrix products and one fused kernel between them."""
    cupy = importlib.import_module("cupy")
    X, y, W, train = (cupy.asarray(a) for a in (q.X, q.y, q.W, q.train))
    step = block or len(X)

    @cupy.fuse()
    def residual(z: Any, y: Any, mask: Any) -> Any:
        return (1 / (1 + cupy.exp(-z)) - y) * mask

    def run() -> Any:
        grad = cupy.zeros_like(W)
        intercept = cupy.zeros(W.shape[1], W.dtype)
        for a in range(0, len(X), step):
            z = residual(X[a : a + step] @ W, y[a : a + step, None], train[a : a + step])
            grad += X[a : a + step].T @ z
            intercept += z.sum(axis=0)
        return grad, intercept

    return run, cupy.cuda.get_current_stream().synchronize


def jax_vmap(q: Problem) -> Peer:
    """`jax.vmap(jax.grad)` of one model's loss, compiled."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
    if jax.default_backend() != "gpu":
        raise ImportError(f"jax is installed for {jax.default_backend()} alone")
    jax.config.update("jax_default_matmul_precision", "highest")
    X, y, W, train = (jnp.asarray(a) for a in (q.X, q.y, q.W.T, q.train.T))
    zeros = jnp.zeros(len(W), W.dtype)

    def loss(w: Any, b: Any, mask: Any, X: Any, y: Any) -> Any:  # X as a constant would be folded into the program
        z = X @ w + b
        return jnp.sum(mask * (jax.nn.softplus(z) - y * z))

    many = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, 0, 0, None, None)))
    last: list[Any] = []

    def run() -> Any:
        last[:] = [many(W, zeros, train, X, y)]
        return last[0][0].T, last[0][1]

    return run, lambda: jax.block_until_ready(last[0])


PEERS: dict[str, Callable[[Problem], Peer]] = {
    "torch two products, blocks of rows": torch_products,
    "torch two products, whole": lambda q: torch_products(q, None),
    "torch vmap(grad)": torch_vmap,
    "cupy two products, blocks of rows": cupy_products,
    "jax vmap(grad)": jax_vmap,
}
