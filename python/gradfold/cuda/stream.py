"""Data larger than the GPU: windows of consecutive batch positions, two in memory at a time.

While the kernels of a window run, the next one is gathered on the host into pinned memory, in the order in which its
rows are visited, and copied on a stream of its own. The device then sees rows in natural order from the window's first
position on, so kernels and bits are those of data that lie on the device. A window is whole batches, or for scores
whole chunks of 1,024 rows.

What bounds it, for m models. A value of X costs 2 m multiply-adds an epoch, of which an H100 does about 1.6e13 a second
in float32, half its peak; PCIe 5 brings some 50 GB/s, which are 1.25e10 values. So from about 600 models on copies hide
behind the products, and below that the bus is the bound, if the host keeps up. It gathers a row with the memory traffic
of three (read, read for ownership, write) and the bus reads it once more: 50 GB/s ask for 200 GB/s of host memory, and
for many threads, since one gathers 1.5 to 3 GB/s, short rows being the slow ones (measured on two cores of a shared
machine; 7 GB/s in natural order, where it is a plain copy). So one thread is the bound up to some 15,000 models, 16
threads up to about 1,000. The permutation is 4 ns a row beside that. Scores read X once more an epoch, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold._device import DeviceMemoryError
from gradfold.cuda import _driver, arrays, gradient
from gradfold.cuda import roles as _roles
from gradfold.cuda._driver import SIMULATED, cuda
from gradfold.cuda.gradient import Inputs
from gradfold.cuda.tiles import ROW_CHUNK

if TYPE_CHECKING:
    from gradfold.index import Permutation

Array = npt.NDArray[Any]

WINDOW_BYTES = (
    256 << 20
)  # of a window, unless a batch needs more: a few milliseconds on the bus, a launch beside that is little
SPARE = 0.1  # of the free memory that is left alone: kernels' stacks, other libraries
_PIECE_BYTES = 1 << 20  # that a thread gathers at a time
_PAD_BYTES = 128 << 10  # of rows that wait in a cache for their padding


# -- streams and events ------------------------------------------------------------------------------------------------


def mark(stream: Any) -> Any:
    """A point on the stream."""
    if SIMULATED:
        return None
    event = cuda.event(timing=False)
    event.record(stream)
    return event


def wait_for(mark: Any) -> None:
    """Until the stream has reached it. Signal handlers run meanwhile."""
    if mark is None:
        return
    spins = 0
    while not mark.query():
        spins += 1
        if spins > 1000:
            sleep(1e-4)


def follow(stream: Any, mark: Any) -> None:
    """What is queued on `stream` from now on waits for the mark of another; the host does not."""
    if mark is not None:
        mark.wait(stream)


# -- memory ------------------------------------------------------------------------------------------------------------


def check(nbytes: int) -> bool:
    """Whether so many bytes are free, if need be without what `loss_gradient` keeps for its next call."""
    for attempt in range(2):
        try:
            arrays.check_memory(nbytes)
            return True
        except DeviceMemoryError:
            if attempt == 0:
                gradient.release()
    return False


@contextmanager
def guard(wanted: int, hint: Callable[[], str]) -> Iterator[None]:
    """Allocations of `wanted` bytes: a `DeviceMemoryError` before the first if they do not fit, or where one fails."""
    try:
        if not check(wanted):
            raise DeviceMemoryError
        yield
    except DeviceMemoryError:
        raise _driver.too_much(wanted, hint(), arrays.free_memory()) from None


def _pinned(size: int, dtype: Any) -> Array:
    """Page-locked memory of the host, zeroed: copies from it run beside kernels."""
    kind = np.dtype(dtype)
    try:
        out: Array = cuda.pinned_array(max(1, size), kind)
    except Exception as error:
        if "MEMORY" not in str(error).upper():
            raise
        wanted = _driver._size(size * kind.itemsize)
        raise DeviceMemoryError(f"the host has no {wanted} of pinned memory to stream X; free some") from error
    out[:] = 0
    return out


# -- windows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """How X streams: windows of so many whole batches, and for scores of whole chunks, or of all rows if few."""

    batches: int
    rows: int
    score_rows: int

    @property
    def capacity(self) -> int:
        """Rows of the larger kind."""
        return max(self.rows, self.score_rows)

    @property
    def text(self) -> str:
        return f"X streams in windows of {self.rows} rows"


def plan(
    n_rows: int, batch: int, row_bytes: int, resident: int, rest: int, most_batches: int, limit: int | None
) -> Windows | None:
    """Windows for X, or None where it fits.

    Parameters
    ----------
    row_bytes : int
        Of a row of a window on the device, with all that comes with it.
    resident, rest : int
        Bytes of all rows if they lie on the device, and of everything else.
    most_batches : int
        A window has no more, however small they are.
    limit : int or None
        Bytes for rows; None is what is free, less `rest` and `SPARE`.

    Raises
    ------
    DeviceMemoryError
        Two windows of one batch do not fit.
    """
    if limit is None:
        if check(int((resident + rest) / (1 - SPARE))):
            return None
        limit = max(0, int(arrays.free_memory() * (1 - SPARE)) - rest)
    elif resident <= limit:
        return None
    rows = min(limit // (2 * row_bytes), max(batch, WINDOW_BYTES // row_bytes))
    if rows < batch:
        fits = (
            f"batch_size up to {rows} fits"
            if rows > 0
            else "not even rows one by one fit beside the models: train fewer"
        )
        raise DeviceMemoryError(
            "X does not fit into the GPU's memory and streams in windows of at least one batch; two windows of "
            f"{batch} rows want {_driver._size(2 * batch * row_bytes)}, and there are {_driver._size(limit)} for them; "
            f"{fits}"
        )
    batches = min(rows // batch, most_batches, -(-n_rows // batch))
    rows = min(n_rows, batches * batch)
    return Windows(batches, rows, min(n_rows, max(1, rows // ROW_CHUNK) * ROW_CHUNK))


class Slot:
    """A window's memory, on the host and on the device, and the marks of its last copy and its last kernel."""

    def __init__(self, feed: Feed) -> None:
        # Allocated on the stream of the copies, which whoever reads a window follows.
        n, dtype, stream = feed.capacity, feed.dtype, feed.copies
        n_weights, n_ids = (n if feed.has_weight else 0), n * len(feed.ids)
        self.host_X, self.X = _pinned(n * feed.stride, dtype), _driver.empty(n * feed.stride, dtype, stream)
        self.host_y, self.y = _pinned(n, dtype), _driver.empty(n, dtype, stream)
        self.host_weight, self.weight = _pinned(n_weights, dtype), _driver.empty(n_weights, dtype, stream)
        self.host_ids, self.ids = _pinned(n_ids, np.uint32), _driver.empty(n_ids, np.uint32, stream)
        self.host_lists, self.lists = _pinned(0, np.int64), _driver.empty(0, np.int64, stream)
        self.roles = _driver.empty(n * feed.n_words, np.uint32, stream)
        self.copied: Any = None
        self.done: Any = None

    def inputs(self, like: Inputs, *, rows: Any = None, chunks: Any = None) -> Inputs:
        """What kernels read, with the rows of this window."""
        return replace(
            like, X=self.X, y=self.y, weight=self.weight, roles=self.roles, rows=like.rows if rows is None else rows,
            chunks=like.chunks if chunks is None else chunks,
        )  # fmt: skip


class Feed:
    """Rows of the host as windows on the device.

    Parameters
    ----------
    X, y, ids : ndarray
        On the host: (n_rows, n_features), (n_rows,), (n_id_rows, n_rows).
    conditions : ndarray
        Of the splits that have a bit in a row's words, as for `roles.words`.
    weight, score_weight : ndarray or None
        What training rows and scored rows weigh.
    capacity, stride : int
        Most rows of a window; values from a row to the next on the device.
    n_threads : int
        That gather.
    stream
        Of the kernels.
    """

    def __init__(
        self, X: Array, y: Array, ids: Array, conditions: Array, weight: Array | None, score_weight: Array | None, *,
        capacity: int, stride: int, n_threads: int, stream: Any,
    ) -> None:  # fmt: skip
        self.X, self.y, self.ids, self.weights = X, y, ids, (weight, score_weight)
        self.dtype, self.n_features, self.capacity, self.stride = X.dtype, X.shape[1], capacity, stride
        self.has_weight = weight is not None or score_weight is not None
        self.stream, self.copies = stream, _driver.new_stream()
        self.n_splits, self.n_conditions = conditions.shape[:2]
        self.n_words = (self.n_splits + 31) // 32
        self.conditions = _driver.to_device(conditions, stream)
        self.pool = ThreadPoolExecutor(n_threads, "gradfold-gather") if n_threads > 1 else None
        self.slots = Slot(self), Slot(self)
        self.turn = 0

    def windows(
        self, spans: Iterable[tuple[int, int]], order: Permutation | None, *, scores: bool,
        lists: Callable[[int, int], Array] | None = None,
    ) -> Generator[tuple[int, int, Slot], None, None]:  # fmt: skip
        """(first, last, slot) of each span of positions; queue kernels on `stream` before the next is asked for.

        Parameters
        ----------
        spans : iterable
            Asked for one at a time, before a window is gathered.
        order : Permutation or None
            The row at each position; None is natural order.
        lists : callable, optional
            What else a window needs, int64: found in `Slot.lists`.
        """
        weight = self.weights[scores]
        try:
            for first, last in spans:
                slot, n = self.slots[self.turn], last - first
                self.turn ^= 1
                wait_for(slot.copied)  # the bus reads its pinned memory until then
                self._gather(slot, first, last, order, weight)
                listed = None if lists is None else lists(first, last)
                if listed is not None and listed.size > slot.lists.size:
                    wait_for(slot.done)
                    size = 2 * listed.size
                    slot.host_lists, slot.lists = _pinned(size, np.int64), _driver.empty(size, np.int64, self.copies)
                if listed is not None:
                    slot.host_lists[: listed.size] = listed
                follow(self.copies, slot.done)  # its device memory is read until then
                for host, there, size in (
                    (slot.host_X, slot.X, n * self.stride), (slot.host_y, slot.y, n),
                    (slot.host_weight, slot.weight, 0 if weight is None else n),
                    (slot.host_ids, slot.ids, n * len(self.ids)),
                    (slot.host_lists, slot.lists, 0 if listed is None else listed.size),
                ):  # fmt: skip
                    if size:
                        there[:size].copy_to_device(host[:size], stream=self.copies)
                slot.copied = mark(self.copies)
                follow(self.stream, slot.copied)
                _roles.launch(
                    slot.ids, 0, n, self.conditions, self.n_splits, self.n_conditions, slot.weight, self.dtype,
                    has_weight=weight is not None, scores=scores, out=slot.roles, stream=self.stream,
                )  # fmt: skip
                try:
                    yield first, last, slot
                finally:
                    slot.done = mark(self.stream)
        finally:
            for slot in self.slots:
                wait_for(slot.copied)
                wait_for(slot.done)

    def _gather(self, slot: Slot, first: int, last: int, order: Permutation | None, weight: Array | None) -> None:
        """The rows at positions [first, last) into the slot's pinned memory."""
        n, p = last - first, self.n_features
        to = slot.host_X[: n * self.stride].reshape(n, self.stride)
        ids = slot.host_ids[: n * len(self.ids)].reshape(-1, n)
        flat = [(self.y, slot.host_y), *(() if weight is None else ((weight, slot.host_weight),))]
        flat += list(zip(self.ids, ids, strict=True))
        pad_rows = max(1, _PAD_BYTES // (p * self.dtype.itemsize))

        def piece(a: int, b: int) -> None:
            if order is None:
                to[a:b, :p] = self.X[first + a : first + b]
                for source, out in flat:
                    out[a:b] = source[first + a : first + b]
                return
            rows = order[first + a : first + b]
            # Rows are rows of X, so no mode changes them; "raise" would gather into a copy of `out`.
            if p == self.stride:
                self.X.take(rows, axis=0, out=to[a:b], mode="clip")
            else:  # `take` fills contiguous memory alone
                for c in range(a, b, pad_rows):
                    d = min(b, c + pad_rows)
                    to[c:d, :p] = self.X.take(rows[c - a : d - a], axis=0, mode="clip")
            for source, out in flat:
                out[a:b] = source.take(rows, mode="clip")

        step = max(1, _PIECE_BYTES // (self.stride * self.dtype.itemsize))
        bounds = range(0, n, step)
        if self.pool is None or len(bounds) == 1:
            for a in bounds:
                piece(a, min(n, a + step))
        else:
            pieces = [self.pool.submit(piece, a, min(n, a + step)) for a in bounds]
            try:
                for done in pieces:
                    done.result()
            finally:  # none may still write when the memory is used again
                for done in pieces:
                    done.cancel()
                wait(pieces)


# -- the rows of scores ------------------------------------------------------------------------------------------------


class Listed:
    """The rows that a group of panels scores, ascending, by chunks of 1,024 rows of X."""

    def __init__(self, panels: tuple[int, int], rows: Array) -> None:
        self.panels, self.rows = panels, rows
        self.chunks, counts = np.unique(rows // ROW_CHUNK, return_counts=True)
        self.bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.most = int(counts.max()) if len(rows) else 0

    def within(self, first: int, last: int) -> tuple[Array, Array]:
        """The rows in [first, last), which is whole chunks, less `first`, and where each chunk's begin among them."""
        a, b = np.searchsorted(self.chunks, (first // ROW_CHUNK, -(-last // ROW_CHUNK)))
        bounds = self.bounds[a : b + 1]
        return self.rows[bounds[0] : bounds[-1]] - first, bounds - bounds[0]


@dataclass(frozen=True)
class Part:
    """A group's lists in a window's: rows in [rows, chunks), bounds of its chunks in [chunks, end)."""

    panels: tuple[int, int]
    rows: int
    chunks: int
    end: int

    @property
    def n_chunks(self) -> int:
        return self.end - self.chunks - 1


def lists(groups: list[Listed], first: int, last: int) -> tuple[Array, list[Part]]:
    """The lists of all groups that score rows in [first, last), one after another."""
    out: list[Array] = []
    parts: list[Part] = []
    at = 0
    for group in groups:
        rows, bounds = group.within(first, last)
        if len(rows):
            middle = at + len(rows)
            parts.append(Part(group.panels, at, middle, middle + len(bounds)))
            at = middle + len(bounds)
            out += [rows, bounds]
    return (np.concatenate(out) if out else np.zeros(0, np.int64)), parts
