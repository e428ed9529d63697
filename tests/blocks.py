"""Thread blocks whose threads wait for each other.

Those of Numba's simulator are watched by a loop that asks every thread, over and over, whether it has come to a barrier. The
loop keeps the interpreter's lock, five milliseconds at a time, from the very threads it watches: most of the time of a test.
"""

from __future__ import annotations

import functools
import math
import threading
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel

# The threads that begin, and go on from every barrier, only when all others have come to the next one or have ended: whatever a
# barrier is missing for, they find it overwritten, or the others found it not yet written.
LATE: set[int] = set()


class Block(kernel.BlockManager):
    """Like the simulator's: a barrier waits for all that have not returned, and what a thread raises ends the others."""

    def __init__(self, f: Any, grid_dim: tuple[int, ...], block_dim: tuple[int, ...], debug: bool) -> None:
        super().__init__(f, grid_dim, block_dim, debug)
        self._changed = threading.Condition()
        self._running, self._waiting, self._barriers = math.prod(block_dim), 0, 0
        self._late = len(LATE & set(range(math.prod(block_dim))))  # of those that are running
        self._raised: tuple[BaseException, Any] | None = None  # by the first thread that raised, and its traceback

    def run(self, grid_point: tuple[int, ...], *args: Any) -> None:
        f = functools.partial(self._f, *args)
        threads = [Thread(f, self, grid_point, at, self._debug) for at in np.ndindex(*self._block_dim)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._raised is not None:
            raise self._raised[0].with_traceback(self._raised[1])

    def wait(self) -> None:
        """Of a thread that is at a barrier."""
        with self._changed:
            own = self._barriers
            self._waiting += 1
            self._go_on()
            self._changed.wait_for(lambda: self._barriers > own)
            self._be_late(threading.current_thread())
            if self._raised is not None:
                raise RuntimeError("another thread of the block raised")

    def begin(self, thread: Any) -> None:
        """Of a thread that is about to begin."""
        with self._changed:
            self._be_late(thread)

    def _be_late(self, thread: Any) -> None:
        if thread.threadIdx.x in LATE:
            self._changed.wait_for(lambda: self._waiting >= self._running - self._late or self._raised is not None)

    def leave(self, thread: Any, raised: tuple[BaseException, Any] | None) -> None:
        """Of a thread that has ended."""
        with self._changed:
            self._running -= 1
            self._late -= thread.threadIdx.x in LATE
            self._raised = self._raised or raised
            self._go_on()

    def _go_on(self) -> None:
        if self._waiting == self._running:
            self._waiting = 0
            self._barriers += 1
            self._changed.notify_all()
        elif self._late:
            self._changed.notify_all()


class Thread(kernel.BlockThread):
    def run(self) -> None:
        self._manager.begin(self)
        super().run()  # keeps what is raised in self.exception
        self._manager.leave(self, self.exception)

    def syncthreads(self) -> None:
        self._manager.wait()
