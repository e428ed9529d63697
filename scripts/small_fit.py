"""Fit a small search and print the levels of this machine and a digest of every number that came out.

Needs nothing but an installed gradfold, so that it runs beside a wheel, on an emulated CPU, and on a level that
GRADFOLD_LEVEL names; by the promises the digest is the same everywhere. Used by check_dist.py and check_levels_qemu.py.
"""

from __future__ import annotations

import hashlib

import numpy as np

import gradfold as gf
from gradfold import _core

rng = np.random.Generator(np.random.PCG64(20))
# Integers scaled by a power of two: nothing of NumPy's that could round differently on another CPU.
X = rng.integers(-1000, 1000, (300, 7)).astype(np.float64) / 512
y = (rng.integers(-1000, 1000, 300) / 512 + X[:, 0] - X[:, 3] > 0).astype(np.int64)

digest = hashlib.sha256()
for dtype in (np.float32, np.float64):
    for solver in ("sgd", "adam"):
        run = gf.fit(
            X.astype(dtype), y, gf.grid(l2=[1e-4, 1e-2], learning_rate=[0.01, 0.1]), folds=5, loss="log_loss", solver=solver,
            epochs=3, batch_size=32, seed=1, standardize=True, n_threads=2,
        )  # fmt: skip
        for array in (run.coef, run.intercept, run.held_out_loss, run.best_coef, run.predict_raw(X.astype(dtype))):
            digest.update(np.ascontiguousarray(array).tobytes())

print("levels", *_core.levels.supported())
print("digest", digest.hexdigest())
