"""`init_seed`: normal initial weights, the same bits on every machine.

Draws come from Philox with counters of their own, and the Box-Muller transform [1]_ makes them normal with the kernels'
own log and cos; the square root is correctly rounded everywhere.

.. [1] G. E. P. Box, M. E. Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29 (1958).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _core

Array = npt.NDArray[Any]

_COUNTER = 1  # the last word of the counter, which is 0 in all other draws of the library


def normal(n: int, seed: int, scale: float) -> npt.NDArray[np.float64]:
    """`n` draws of N(0, scale²) that belong to `seed`."""
    blocks = (n + 1) // 2
    counters = np.zeros((blocks, 4), np.uint32)
    counters[:, 0] = np.arange(blocks)
    counters[:, 3] = _COUNTER
    keys = np.empty((blocks, 2), np.uint32)
    keys[:] = seed & 0xFFFFFFFF, seed >> 32
    words = np.empty((blocks, 4), np.uint32)
    _core.index.philox(counters, keys, words)
    # Two words make 53 bits: a uniform number in (0, 1] for the radius, and one in [0, 1) for the angle.
    high, low = words[:, [0, 2]].astype(np.uint64), words[:, [1, 3]].astype(np.uint64)
    bits = (high << np.uint64(21)) | (low >> np.uint64(11))
    radius = np.sqrt(-2.0 * _apply("log", (bits[:, 0] + np.uint64(1)).astype(np.float64) * 2.0**-53))
    angle = (bits[:, 1].astype(np.float64) * 2.0**-53) * (2 * 3.141592653589793)
    out = np.stack([radius * _apply("cos", angle), radius * _apply("cos", angle - 3.141592653589793 / 2)], axis=1)
    return np.ascontiguousarray(out.reshape(-1)[:n] * scale)


def _apply(name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    out = np.empty_like(x)
    _core.simd.apply(name, np.ascontiguousarray(x), out)
    return out
