"""The same masked logistic gradient by other libraries, written as well as we know how: in row blocks that stay in the caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Gradient = Callable[[], tuple[Any, Any]]
BLOCK = 2000


def numpy_blocks(X: np.ndarray, y: np.ndarray, W: np.ndarray, train: np.ndarray | None) -> Gradient:
    """train: (n_rows, n_models) of 0 and 1, or None."""

    def run() -> tuple[np.ndarray, np.ndarray]:
        grad = np.zeros_like(W)
        intercept = np.zeros(W.shape[1], W.dtype)
        for begin in range(0, len(X), BLOCK):
            rows = slice(begin, begin + BLOCK)
            z = X[rows] @ W
            np.negative(z, out=z)
            np.exp(z, out=z)
            z += 1
            np.reciprocal(z, out=z)
            z -= y[rows, None]
            if train is not None:
                z *= train[rows]
            grad += X[rows].T @ z
            intercept += z.sum(axis=0)
        return grad, intercept

    return run


def torch_blocks(X: np.ndarray, y: np.ndarray, W: np.ndarray, train: np.ndarray | None, n_threads: int) -> Gradient:
    """Raises ImportError where torch is not installed."""
    import torch

    torch.set_num_threads(n_threads)
    tX, ty, tW = (torch.from_numpy(a) for a in (X, y, W))
    mask = None if train is None else torch.from_numpy(train)

    def run() -> tuple[Any, Any]:
        grad = torch.zeros_like(tW)
        intercept = torch.zeros(W.shape[1], dtype=tW.dtype)
        with torch.no_grad():
            for begin in range(0, len(X), BLOCK):
                rows = slice(begin, begin + BLOCK)
                z = torch.sigmoid(tX[rows] @ tW).sub_(ty[rows, None])
                if mask is not None:
                    z *= mask[rows]
                grad.addmm_(tX[rows].T, z)
                intercept += z.sum(dim=0)
        return grad, intercept

    return run


def jax_vmap(X: np.ndarray, y: np.ndarray, W: np.ndarray, train: np.ndarray) -> Gradient:
    """One masked loss, its gradient by jax.grad, all models by jax.vmap, compiled. Raises ImportError where jax is not installed."""
    import jax
    import jax.numpy as jnp

    jX, jy = jnp.asarray(X), jnp.asarray(y)
    jW, masks = jnp.asarray(W.T), jnp.asarray(train.T)

    def loss(w: Any, intercept: Any, mask: Any) -> Any:
        z = jX @ w + intercept
        return jnp.sum(mask * (jax.nn.softplus(z) - jy * z))

    compiled = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))
    zeros = jnp.zeros(W.shape[1], dtype=jW.dtype)

    def run() -> tuple[Any, Any]:
        grad, intercept = compiled(jW, zeros, masks)
        return grad.block_until_ready(), intercept

    return run
