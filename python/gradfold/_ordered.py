"""Sums that reach a weight: float64, in chunks of 1,024 rows, chunks added in order, whatever NumPy's build.

`numpy.bincount` adds its weights one by one in the order of the rows, which NumPy's own sums do not promise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ROW_CHUNK = 1024


def total(values: Array) -> float:
    """The sum of one float64 number a row; 0 for no row."""
    if len(values) == 0:
        return 0.0
    chunks = np.bincount(np.arange(len(values)) // ROW_CHUNK, weights=values)
    return float(np.bincount(np.zeros(len(chunks), np.int64), weights=chunks)[0])
