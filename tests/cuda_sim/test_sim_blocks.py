"""The blocks that all tests in the simulator run in: a barrier of theirs that lets threads pass too soon, or orders them more
than a barrier does, would hide bugs."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

import blocks
from gradfold.cuda._driver import cuda, int64

THREADS = 5


def launch(kernel: Any, *arguments: Any) -> None:
    """Two blocks."""
    try:
        cuda.jit(kernel)[2, THREADS](*arguments)
    finally:
        assert not [thread for thread in threading.enumerate() if isinstance(thread, blocks.Thread)]


def test_these_are_the_blocks_in_use() -> None:
    from numba.cuda.simulator import kernel

    assert kernel.BlockManager is blocks.Block


@pytest.mark.parametrize("late", range(THREADS))
def test_nobody_passes_before_all_have_come(late: int) -> None:
    def kernel(out: Any, late: int) -> None:
        tid = cuda.threadIdx.x
        shared = cuda.shared.array(THREADS, int64)
        shared[tid] = 100 * (1 + cuda.blockIdx.x)
        for step in range(4):
            if tid == late:
                time.sleep(0.003)
            cuda.syncthreads()
            left = shared[(tid + 1) % THREADS]
            cuda.syncthreads()
            shared[tid] = left + 10**step * tid
        out[cuda.blockIdx.x * THREADS + tid] = shared[tid]

    out = np.full(2 * THREADS, -1)
    launch(kernel, out, late)
    wanted = np.repeat(100 * np.arange(1, 3)[:, None], THREADS, axis=1)
    for step in range(4):
        wanted = np.roll(wanted, -1, axis=1) + 10**step * np.arange(THREADS)
    np.testing.assert_array_equal(out, wanted.reshape(-1))


def test_those_who_have_returned_are_not_waited_for() -> None:
    def kernel(out: Any) -> None:
        tid = cuda.threadIdx.x
        for step in range(tid):
            cuda.syncthreads()
            out[cuda.blockIdx.x * THREADS + tid] = step
        time.sleep(0.001 * (tid % 2))

    out = np.full(2 * THREADS, -1)
    launch(kernel, out)
    np.testing.assert_array_equal(out, [-1, 0, 1, 2, 3] * 2)


def test_votes() -> None:
    def kernel(out: Any) -> None:
        tid = cuda.threadIdx.x
        for least in range(THREADS + 1):
            yes = 1 if tid >= least else 0
            votes = cuda.syncthreads_count(yes), cuda.syncthreads_or(yes), cuda.syncthreads_and(yes)
            if tid == 2:
                out[3 * least : 3 * least + 3] = votes

    out = np.full(3 * (THREADS + 1), -1)
    launch(kernel, out)
    wanted = [(THREADS - least, least < THREADS, least == 0) for least in range(THREADS + 1)]
    np.testing.assert_array_equal(out, np.array(wanted, int).reshape(-1))


@pytest.mark.parametrize("late", [True, False])
def test_what_a_thread_raises_ends_the_block(late: bool) -> None:
    """Whether the others are at a barrier by then or come to it later; the second block does not begin."""
    begun, passed = [], []

    def kernel(late: bool) -> None:
        tid = cuda.threadIdx.x
        begun.append((cuda.blockIdx.x, tid))
        if (tid == 3) == late:
            time.sleep(0.003)
        if tid == 3:
            raise KeyError("of thread 3")
        cuda.syncthreads()
        passed.append(tid)

    with pytest.raises(KeyError, match=r"tid=\[3, 0, 0\] ctaid=\[0, 0, 0\]: 'of thread 3'"):
        launch(kernel, late)
    assert sorted(begun) == [(0, tid) for tid in range(THREADS)] and passed == []
