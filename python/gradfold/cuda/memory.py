"""Memory of results, which goes to the next result of its size when nobody holds it any more.

To allocate, and above all to free, takes as long as a small gradient and waits for the device. Numba frees late and several
arrays at once, but frees; the driver's own pools (cuMemAllocAsync) would need a memory manager in Numba's place, which is the
process's to choose. So a few blocks are kept, ``_driver.spare``, and given up where memory is short.
"""

from __future__ import annotations

import threading
from typing import Any

from gradfold.cuda import _driver

MOST_BLOCKS = 8
MOST_BYTES = 32 << 20  # of a block; what is larger takes far longer to compute than to allocate


class Block:
    """Device memory, and the stream on which all work on it is queued, by a thread that may have a default stream of its own.

    It holds the stream: one that ends leaves its number to another, which does not wait for its work.
    """

    def __init__(self, flat: Any, stream: Any) -> None:
        self.flat, self.stream, self.thread = flat, stream, threading.get_ident()


class Memory:
    """The owner of a block: whatever uses the block refers to it, so that it ends with the last of them.

    Attributes
    ----------
    block : Block
        Of uint8.
    lent : bool
        Whether the block may be in use on a stream that is not known: then it is freed, which waits for the device.
    """

    def __init__(self, block: Block) -> None:
        self.block, self.lent = block, False

    @property
    def address(self) -> int:
        """Where the block begins."""
        flat = self.block.flat
        return int(flat.ctypes.data if _driver.SIMULATED else flat.device_ctypes_pointer.value)

    @staticmethod
    def can_keep(nbytes: int, stream: Any) -> bool:
        """Whether a block may be kept: it is not large, and its stream is the default one or of Numba, which a block can hold."""
        return 0 < nbytes <= MOST_BYTES and (not stream or getattr(stream, "external", True) is False)

    @classmethod
    def left(cls, nbytes: int, stream: Any) -> Memory | None:
        """A block of that size that earlier work of this thread on this stream has left."""
        thread = threading.get_ident()
        for block in _driver.spare[::-1]:  # the newest may still be in the cache
            if block.flat.size == nbytes and block.stream is stream and block.thread == thread:
                try:
                    _driver.spare.remove(block)
                except ValueError:  # another thread was faster
                    continue
                return cls(block)
        return None

    # Garbage may be collected in the middle of anything, so there is no lock: each line does to the list what it does in one
    # step. Defaults hold what the end of the interpreter may have taken from the module already.
    def __del__(self, spare: list[Any] = _driver.spare, most: int = MOST_BLOCKS) -> None:
        if not self.lent:
            spare.append(self.block)
            del spare[:-most]
