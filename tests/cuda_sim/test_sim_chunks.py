"""Batches of several chunks in the simulator, which would take hours at the true length of a chunk: here it is 16 rows.

The CPU's chunks keep theirs, so what is compared is one path with the other, and threads in step with threads of which one is late.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

import calls
import on_device
from gradfold.cuda import gradient, stream, tiles, train
from test_promises import poison

for module in (tiles, train, gradient, stream):
    module.ROW_CHUNK = 16

LATE: list[int | None] = [None]
plain = tiles.arithmetic


def with_a_late_thread(dtype):
    """The arithmetic of a type, in whose gradient one thread waits before each product."""
    A = plain(dtype)

    def fma(a, b, c):
        # The simulator's threads bear their index. Only what `gradient` itself multiplies is slowed.
        index = getattr(threading.current_thread(), "threadIdx", None)
        if LATE[0] is not None and index.x == LATE[0] and sys._getframe(1).f_code.co_name == "gradient":
            time.sleep(0.001)
        return A.fma(a, b, c)

    return replace(A, fma=fma)


tiles.arithmetic = with_a_late_thread


@pytest.fixture(scope="module")
def problem():
    """Model 0 and its split do not use the poisoned rows; others do, so the gradient selects."""
    q = calls.problem(29, n=32, p=1, m=4, dtype=np.float32, kind="kfold", weights="none")
    return poison(calls.replace(q, split_of_model=np.array([1, 0, 1, 2])), 0, "nan", seed=1)


def trained(q, path, late=None):
    """The coefficients after an epoch of one batch: two chunks."""
    trainer = on_device.trainer(q, path=path, solver="sgd", epochs=1, batch_size=32, shuffle=False)
    LATE[0] = late
    try:
        assert trainer.advance() == "done"
    finally:
        LATE[0] = None
    return trainer.coef().tobytes()


@pytest.mark.parametrize("late", range(8))
def test_a_late_thread_still_reads_its_chunks_rows(problem, late):
    """Nobody overwrites a chunk's row numbers while another thread selects by them."""
    assert tiles.SHAPES["float32"]["narrow"].threads == 8
    assert trained(problem, "persistent", late) == trained(problem, "persistent") == trained(problem, "tiled")
