"""The batched loss and gradient of many linear models on the device: forward, sums, gradient and total, one launch each.

Work is cut into windows of chunks of 1,024 batch positions and of panels of models, so that residuals take bounded memory.
A window is a few launches: forward tiles leave residuals (and point-wise losses), one thread for each (chunk, model) adds
losses over rows in order, gradient tiles leave each chunk's sums, and one thread for each parameter adds those to its
float64 total in chunk order. No float atomics, so the order is the CPU's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _splits
from gradfold.cuda import _driver, bad_values, tiles
from gradfold.cuda import loss as _loss
from gradfold.cuda import roles as _roles
from gradfold.cuda._driver import Kernel, cuda, device, float64, int32, int64, opaque, uint32
from gradfold.cuda.tiles import ROW_CHUNK, SHAPES, Shape

Array = npt.NDArray[Any]
u64 = np.uint64

WINDOW_COST = 3_600_000  # multiply-adds of a multiprocessor in the 15 µs for which a window's launches leave it without work


def window_bytes() -> int:
    """Of a window's residuals, losses and chunk sums, at most: large windows are few, but where memory is short they take an eighth."""
    there = _driver.properties()
    return max(64 << 20, min(768 << 20, there.memory // 32, there.free // 8))

# Places in the array of a launch's fixed parameters.
(
    P_FEATURES, P_STRIDE, P_PANEL_STEP, P_MODELS, P_HAS_WEIGHT, P_WORDS, P_LOSS, P_GRADIENT, P_LOSSES, P_HAS_ROWS,
    P_HAS_CHUNKS, P_SLOT_ROWS,
) = range(12)  # fmt: skip


@cache
def kernels(shape: Shape) -> SimpleNamespace:
    """The kernels of a shape of tiles: ``forward``, ``sums``, ``gradient``, ``total``, ``results``."""
    tile = tiles.of(shape)
    A = tile.A
    tile_forward, tile_residual, tile_gradient = tile.forward, tile.residual, tile.gradient
    place, feature_of, loss_sums, model_of = tile.place, tile.feature_of, tile.loss_sums, tile.model_of
    T, mul = A.T, A.mul
    kind = A.type
    D = _driver.F64
    add64, div64 = D.add, D.div
    canonical = tiles.canonical(shape.dtype)
    MODELS, ROWS, FEATURES, THREADS = shape.models, shape.rows, shape.features, shape.threads
    TM, TF, STAGE, FACTS = shape.thread_models, shape.thread_features, shape.stage, 2 * shape.rows
    GT = TF * TM
    ZERO, NAN64 = T(0), np.float64(np.nan)
    ZERO64, ONE64 = np.float64(0), np.float64(1)

    @device
    def chunk_of(P, base, end, chunks, z):  # type: ignore[no-untyped-def]
        """(first position, how many) of the z-th chunk: cut from `base` on, or, where they are given, chunks[base + z] to the next."""
        if P[u64(P_HAS_CHUNKS)] != 0:
            begin = chunks[u64(base + z)]
            return begin, chunks[u64(base + z + 1)] - begin
        begin = base + z * ROW_CHUNK
        return begin, min(ROW_CHUNK, end - begin)

    @device
    def tile_of(P, base, end, first_panel, chunks):  # type: ignore[no-untyped-def]
        """(first position, how many, panel, slot, where the slot's rows begin in R and L) of a forward block."""
        x, y, z = opaque(int32(cuda.blockIdx.x)), opaque(int32(cuda.blockIdx.y)), opaque(int32(cuda.blockIdx.z))
        begin, chunk_rows = chunk_of(P, base, end, chunks, int64(z))
        r0, slot = int64(x) * ROWS, int64(z) * cuda.gridDim.y + y
        return begin + r0, int32(min(ROWS, chunk_rows - r0)), first_panel + y, slot, (slot * P[u64(P_SLOT_ROWS)] + r0) * MODELS

    def forward(P, base, end, first_panel, chunks, rows, X, y, weight, roles, splits, W, epsilon, R, L, counts, poisoned):  # type: ignore[no-untyped-def]
        """Blocks: (row tiles of a chunk, panels, chunks of the window)."""
        tid = cuda.threadIdx.x
        begin, n, panel, slot, z_at = tile_of(P, base, end, first_panel, chunks)
        if n <= 0:
            return
        ids = cuda.shared.array(ROWS, int32)
        stage = cuda.shared.array(STAGE, kind, alignment=16)
        facts = cuda.shared.array(FACTS, kind)
        words = cuda.shared.array(ROWS, uint32)
        count = cuda.shared.array(MODELS, int32)
        bad = cuda.shared.array(1, int32)
        for i in range(tid, ROWS, THREADS):  # after the last row the last again
            at = begin + min(i, n - 1)
            ids[u64(i)] = rows[u64(at)] if P[u64(P_HAS_ROWS)] != 0 else at
        for m in range(tid, MODELS, THREADS):
            count[u64(m)] = 0
        if tid == 0:
            bad[0] = 0
        tile_forward(
            stage, facts, words, tid, ids, 0, n, X, P[u64(P_STRIDE)], int32(P[u64(P_FEATURES)]), W, panel * P[u64(P_PANEL_STEP)], R,
            z_at, y, weight, P[u64(P_HAS_WEIGHT)] != 0, roles, P[u64(P_WORDS)],
        )  # fmt: skip
        begin, n, panel, slot, z_at = tile_of(P, base, end, first_panel, chunks)  # anew: the products need all registers
        w_at = panel * P[u64(P_PANEL_STEP)]
        tile_residual(
            stage, facts, words, tid, ids, 0, n, W, w_at + P[u64(P_FEATURES)] * MODELS, P[u64(P_HAS_WEIGHT)] != 0, roles,
            P[u64(P_WORDS)], splits, panel * MODELS, epsilon, panel * MODELS, P[u64(P_LOSS)], R, L, z_at, P[u64(P_GRADIENT)] != 0,
            P[u64(P_LOSSES)] != 0, count, bad,
        )  # fmt: skip
        cuda.syncthreads()
        for m in range(tid, MODELS, THREADS):
            if count[u64(m)] > 0:
                cuda.atomic.add(counts, slot * MODELS + m, count[u64(m)])
        if tid == 0 and bad[0] != 0:
            poisoned[u64(slot)] = 1

    def sums(P, base, end, first_panel, chunks, rows, weight, L, loss_total, weight_total):  # type: ignore[no-untyped-def]
        """Blocks: panels, chunks of the window. The sums over a chunk's rows in order, [chunk][panel][MODELS]."""
        tid = cuda.threadIdx.x
        slot = cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x
        begin, n = chunk_of(P, base, end, chunks, cuda.blockIdx.y)
        ids = cuda.shared.array(ROW_CHUNK, int32)
        stage = cuda.shared.array(STAGE, kind, alignment=16)
        has_weight = P[u64(P_HAS_WEIGHT)] != 0
        if has_weight:
            for i in range(tid, n, THREADS):
                ids[u64(i)] = rows[u64(begin + i)] if P[u64(P_HAS_ROWS)] != 0 else begin + i
        loss_sum, weight_sum = loss_sums(stage, tid, ids, n, L, slot * P[u64(P_SLOT_ROWS)] * MODELS, weight, has_weight)
        if tid < MODELS:
            loss_total[u64(slot * MODELS + tid)] = loss_sum
            weight_total[u64(slot * MODELS + tid)] = weight_sum

    def gradient(P, base, end, first_panel, rows, X, roles, splits, R, poisoned, G, B):  # type: ignore[no-untyped-def]
        """Blocks: (tiles of features, panels, chunks of the window). G: [chunk][panel][feature][MODELS]; B: the intercepts'."""
        tid = cuda.threadIdx.x
        panel, slot = first_panel + cuda.blockIdx.y, cuda.blockIdx.z * cuda.gridDim.y + cuda.blockIdx.y
        begin = base + cuda.blockIdx.z * ROW_CHUNK
        n = int32(min(ROW_CHUNK, end - begin))
        n_features = int32(P[u64(P_FEATURES)])
        f0 = int32(cuda.blockIdx.x * FEATURES)
        ids = cuda.shared.array(ROW_CHUNK, int32)
        stage = cuda.shared.array(STAGE, kind, alignment=16)
        for i in range(tid, n, THREADS):
            ids[u64(i)] = rows[u64(begin + i)] if P[u64(P_HAS_ROWS)] != 0 else begin + i
        g = cuda.local.array(GT, kind)
        chain = cuda.shared.array(MODELS, kind)
        m, b = tile_gradient(
            stage, chain, tid, ids, n, X, P[u64(P_STRIDE)], f0, n_features, R, slot * P[u64(P_SLOT_ROWS)] * MODELS,
            poisoned[u64(slot)] != 0, roles, P[u64(P_WORDS)], splits, panel * MODELS, g,
        )  # fmt: skip
        if m >= 0:
            B[u64(slot * MODELS + m)] = b
        mg, fg = place(tid)
        for i in range(TF):
            f = f0 + feature_of(tid, i)
            if f < n_features:
                for j in range(TM):
                    G[u64((slot * n_features + f) * MODELS + model_of(mg, j))] = g[i * TM + j]

    def total(P, n_chunks, first_panel, n_panels, first, G, B, loss_sums, weight_sums, counts, poisoned, grad, losses, weights, used):  # type: ignore[no-untyped-def]
        """One thread for each (parameter, model) of the window's panels; the intercept is the last parameter, then two more
        for losses and for weights and counts. Totals: grad [panel][feature + 1][MODELS], the others [panel][MODELS].

        Counts and poisoned are left as 0, as the next window's forward wants them."""
        at = cuda.grid(1)
        n_features = P[u64(P_FEATURES)]
        height = n_features + 3
        if at >= n_panels * height * MODELS:
            return
        panel, f, m = at // (height * MODELS), at // MODELS % height, at % MODELS
        sum_ = ZERO64
        if f <= n_features:
            if P[u64(P_GRADIENT)] == 0:
                return
            to = u64(((first_panel + panel) * (n_features + 1) + f) * MODELS + m)
            if first == 0:
                sum_ = grad[to]
            for c in range(n_chunks):
                slot = c * n_panels + panel
                if f < n_features:
                    sum_ = add64(sum_, float64(G[u64((slot * n_features + f) * MODELS + m)]))
                else:
                    sum_ = add64(sum_, float64(B[u64(slot * MODELS + m)]))
            grad[to] = sum_
        else:
            to = u64((first_panel + panel) * MODELS + m)
            listed = P[u64(P_LOSSES)] != 0
            if f == n_features + 1:
                if not listed:
                    return
                if first == 0:
                    sum_ = losses[to]
                for c in range(n_chunks):
                    sum_ = add64(sum_, loss_sums[u64((c * n_panels + panel) * MODELS + m)])
                losses[to] = sum_
            else:
                count = ZERO64
                if first == 0:
                    sum_ = weights[to]
                    count = used[to]
                for c in range(n_chunks):
                    slot = c * n_panels + panel
                    n_used = float64(counts[u64(slot * MODELS + m)])
                    sum_ = add64(sum_, weight_sums[u64(slot * MODELS + m)] if listed else n_used)
                    count = add64(count, n_used)
                    counts[u64(slot * MODELS + m)] = 0
                    if m == 0:
                        poisoned[u64(slot)] = 0
                weights[to] = sum_
                used[to] = count

    def pack(P, has_intercept, n_panels, W, intercept, out):  # type: ignore[no-untyped-def]
        """W [feature][model] and the intercepts as panels [panel][feature + 1][MODELS], 0 where there is no model."""
        at = cuda.grid(1)
        n_features, n_models = P[u64(P_FEATURES)], P[u64(P_MODELS)]
        height = n_features + 1
        if at >= n_panels * height * MODELS:
            return
        panel, f, m = at // (height * MODELS), at // MODELS % height, at % MODELS
        model = panel * MODELS + m
        value = ZERO
        if model < n_models:
            if f < n_features:
                value = W[u64(f * n_models + model)]
            elif has_intercept != 0:
                value = intercept[u64(model)]
        out[u64(at)] = value

    def results(P, mean, want_loss, want_W, want_intercept, grad, losses, weights, loss_out, grad_W, grad_intercept):  # type: ignore[no-untyped-def]
        """One thread for each (parameter, model): totals to the caller's arrays."""
        at = cuda.grid(1)
        n_features, n_models = P[u64(P_FEATURES)], P[u64(P_MODELS)]
        f, model = at // n_models, at % n_models
        if f > n_features + 1:
            return
        panel, m = model // MODELS, model % MODELS
        weight = weights[u64(panel * MODELS + m)]
        if f == n_features + 1:
            if want_loss != 0:
                value = losses[u64(panel * MODELS + m)]
                if mean != 0:
                    value = div64(value, weight) if weight != ZERO64 else NAN64
                loss_out[u64(model)] = value if value == value else NAN64
            return
        if (f < n_features and want_W == 0) or (f == n_features and want_intercept == 0):
            return
        g = T(grad[u64((panel * (n_features + 1) + f) * MODELS + m)])
        if mean != 0 and weight != ZERO64:
            g = mul(g, T(div64(ONE64, weight)))
        g = canonical(g)
        if f < n_features:
            grad_W[u64(f * n_models + model)] = g
        else:
            grad_intercept[u64(model)] = g

    i64, f1, d1, i1, n1, w1 = int64, kind[::1], float64[::1], int64[::1], int32[::1], uint32[::1]
    return SimpleNamespace(
        forward=Kernel(forward, (i1, i64, i64, i64, i1, i1, f1, f1, f1, w1, n1, f1, f1, f1, f1, n1, n1), THREADS, shape.forward_blocks),
        sums=Kernel(sums, (i1, i64, i64, i64, i1, i1, f1, f1, d1, d1), THREADS),
        gradient=Kernel(gradient, (i1, i64, i64, i64, i1, f1, w1, n1, f1, n1, f1, f1), THREADS, shape.gradient_blocks),
        total=Kernel(total, (i1, i64, i64, i64, i64, f1, f1, d1, d1, n1, n1, d1, d1, d1, d1), THREADS),
        pack=Kernel(pack, (i1, i64, i64, f1, f1, f1), THREADS),
        results=Kernel(results, (i1, i64, i64, i64, i64, d1, d1, d1, d1, f1, f1), THREADS),
    )


def blocks_of(n: int, threads: int) -> int:
    """Blocks for n threads, at least one."""
    return max(1, -(-n // threads))


@dataclass
class Window:
    """Memory of a window: up to `chunks` chunks, of up to `rows` positions each, of up to `panels` panels."""

    rows: int
    chunks: int
    panels: int
    R: Any
    L: Any
    B: Any
    G: Any
    losses: Any
    weights: Any
    counts: Any
    poisoned: Any
    clean: bool = False  # whether counts and poisoned are 0: not so at first, nor after an interrupt between two launches

    def clear(self, stream: Any) -> None:
        """Counts and poisoned become 0 if they are not."""
        if not self.clean:
            for array in (self.counts, self.poisoned):
                zero("int32")(blocks_of(array.size, 256), stream, array, array.size)

    @classmethod
    def of(
        cls, shape: Shape, n_features: int, n_panels: int, n_chunks: int, *, gradient: bool, losses: bool, stream: Any,
        rows: int = ROW_CHUNK, budget: int | None = None,
    ) -> Window:  # fmt: skip
        """As much as the budget allows, at least one chunk of one panel."""
        size = np.dtype(shape.dtype).itemsize
        # Forward keeps sums of earlier chunks of features in R, also where no gradient is wanted.
        each = shape.models * (size * rows * (1 + losses) + size * (n_features + 1) * gradient + 2 * 8 + 2 * 4)
        slots = max(1, (window_bytes() if budget is None else budget) // each)
        panels = min(n_panels, slots, 65535)  # a grid is no taller
        row_tiles, feature_tiles = -(-rows // shape.rows), -(-n_features // shape.features)
        launches = [(panels * row_tiles, shape.forward_blocks, shape.rows * n_features * shape.models)]
        if gradient:
            launches.append((panels * feature_tiles, shape.gradient_blocks, rows * shape.features * shape.models))
        chunks = _even(max(1, min(n_chunks, slots // panels, 65535)), n_chunks, launches)
        n = chunks * panels * shape.models
        return cls(
            rows, chunks, panels,
            R=_driver.empty(n * rows, shape.dtype, stream),
            L=_driver.empty(n * rows if losses else 1, shape.dtype, stream),
            B=_driver.empty(n if gradient else 1, shape.dtype, stream),
            G=_driver.empty(n * n_features if gradient else 1, shape.dtype, stream),
            losses=_driver.empty(n, np.float64, stream),
            weights=_driver.empty(n, np.float64, stream),
            counts=_driver.empty(n, np.int32, stream),
            poisoned=_driver.empty(chunks * panels, np.int32, stream),
        )  # fmt: skip


def _even(most: int, n_chunks: int, launches: list[tuple[int, int, int]]) -> int:
    """How many chunks to take at a time, at most `most`: few windows, the last wave of each launch's blocks as full as can be.

    launches: (a chunk's blocks, how many of them a multiprocessor holds, a block's multiply-adds).
    """
    n_multiprocessors = _driver.multiprocessors()

    def cost(chunks: int) -> int:
        whole, rest = divmod(n_chunks, chunks)
        total = (whole + (rest > 0)) * WINDOW_COST
        for blocks, resident, work in launches:
            slots = resident * n_multiprocessors
            total += (whole * -(-chunks * blocks // slots) + -(-rest * blocks // slots)) * resident * work
        return total

    return min(range(most, most // 2, -1), key=cost)


@cache
def zero(dtype: str) -> Kernel:
    """out[:] = 0."""
    kind = _driver.numba_type(dtype)
    value = np.dtype(dtype).type(0)

    def fill_zero(out, n):  # type: ignore[no-untyped-def]
        at = cuda.grid(1)
        if at < n:
            out[u64(at)] = value

    return Kernel(fill_zero, (kind[::1], int64), 256)


@dataclass
class Totals:
    """What the chunks add up to: [panel][parameter][MODELS] and [panel][MODELS], float64."""

    grad: Any
    losses: Any
    weights: Any
    used: Any

    @classmethod
    def of(cls, shape: Shape, n_features: int, n_panels: int, *, gradient: bool, stream: Any) -> Totals:
        n = n_panels * shape.models
        grad = _driver.empty(n * (n_features + 1) if gradient else 1, np.float64, stream)
        return cls(grad, *(_driver.empty(n, np.float64, stream) for _ in range(3)))


@dataclass
class Inputs:
    """What the kernels of a window read, flat device arrays; arrays that are not wanted hold one value."""

    shape: Shape
    aligned: bool
    n_features: int
    X: Any
    y: Any
    weight: Any
    roles: Any
    splits: Any  # of each lane, -1 for nobody's
    epsilon: Any
    W: Any  # [panel][parameter][MODELS]
    rows: Any  # row numbers by position
    chunks: Any  # where chunks begin, by position


def accumulate(
    P: Any, a: Inputs, window: Window, totals: Totals, *, panels: tuple[int, int], positions: tuple[int, int] | None, n_chunks: int,
    gradient: bool, losses: bool, stream: Any, first: bool = True,
) -> None:  # fmt: skip
    """The totals of panels [first, last) over n_chunks chunks: of a batch's positions [begin, end), or those of `Inputs.chunks`.

    P holds the rest of what is asked for. A chunk has at most 1,024 positions. Totals begin at +0, or go on unless `first`.
    """
    shape = a.shape
    k = kernels(shape.of_rows(a.aligned))
    begin, end = (0, 0) if positions is None else positions
    rows = window.rows if positions is None else min(ROW_CHUNK, end - begin)
    row_tiles, feature_tiles = -(-rows // shape.rows), -(-a.n_features // shape.features)
    for panel in range(*panels, window.panels):
        width = min(window.panels, panels[1] - panel)
        for done in range(0, n_chunks, window.chunks):
            chunks = min(window.chunks, n_chunks - done)
            base = done if positions is None else begin + done * ROW_CHUNK
            window.clear(stream)
            window.clean = False
            k.forward(
                (row_tiles, width, chunks), stream, P, base, end, panel, a.chunks, a.rows, a.X, a.y, a.weight, a.roles, a.splits, a.W,
                a.epsilon, window.R, window.L, window.counts, window.poisoned,
            )  # fmt: skip
            if losses:
                k.sums(
                    (width, chunks), stream, P, base, end, panel, a.chunks, a.rows, a.weight, window.L, window.losses,
                    window.weights,
                )  # fmt: skip
            if gradient:
                k.gradient(
                    (feature_tiles, width, chunks), stream, P, base, end, panel, a.rows, a.X, a.roles, a.splits, window.R,
                    window.poisoned, window.G, window.B,
                )  # fmt: skip
            k.total(
                blocks_of(width * (a.n_features + 3) * shape.models, shape.threads), stream, P, chunks, panel, width,
                int(first and done == 0), window.G, window.B, window.losses, window.weights, window.counts, window.poisoned, totals.grad,
                totals.losses, totals.weights, totals.used,
            )  # fmt: skip
            window.clean = True


class _Workspace:
    """What a call of `loss_gradient` leaves to the next one of the same sizes, thread and stream: memory, and what it uploaded."""

    def __init__(self, window: Window, totals: Totals, panels: Any, dtype: str, stream: Any) -> None:
        self.window, self.totals, self.panels, self.stream = window, totals, panels, stream
        # One value for each kind of array that a call may lack.
        self.no_values, self.no_rows, self.no_doubles, self.no_roles = (
            _driver.empty(1, kind, stream) for kind in (dtype, np.int64, np.float64, np.uint32)
        )
        self.sent: dict[str, tuple[Any, Any]] = {}
        self.roles: _roles.Source | None = None
        self.ids: Array | None = None  # of `roles`, the array that came, if it keeps what it holds
        self.splits: tuple[bytes, tuple[Array, Array]] | None = None

    def send(self, name: str, key: Any, make: Callable[[], Array]) -> Any:
        """What `make` returns, on the device; made when `key`, on which alone it depends, is another than last time."""
        known = self.sent.get(name)
        if known is None or known[0] != key:
            known = self.sent[name] = key, _driver.to_device(make(), self.stream)
        return known[1]

    def slots(self, split_of_model: Array, key: bytes) -> tuple[Array, Array]:
        """The splits that have a model, and each model's place among them. `key`: the bytes of `split_of_model`."""
        if self.splits is None or self.splits[0] != key:
            self.splits = key, np.unique(split_of_model, return_inverse=True)
        return self.splits[1]

    def training(self, ids: Array, conditions: Array, weight: Any, dtype: Any) -> tuple[Any, int]:
        """The words of `roles`, made when the folds are others than last time, or when there are weights."""
        if self.roles is None or not self.roles.is_of(None if ids is self.ids else ids, conditions):
            self.roles = self.ids = None  # so that roles which cannot be made leave none of others behind
            self.roles = _roles.Source(ids.copy(), conditions.copy(), dtype, scores=False, stream=self.stream)
        self.ids = ids if _is_frozen(ids) else None
        return self.roles.words(weight)


def _is_frozen(array: Array) -> bool:
    """Whether an array is a view that cannot be written, of an owner that cannot, as those of `Folds` are: they keep what they hold."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and not owner.flags.writeable:
        if owner.base is None:
            return owner is not array  # an owner can be made writable again by whoever holds it; a view of it cannot
        owner = owner.base
    return False


_workspaces: dict[tuple[Any, ...], _Workspace] = {}


def _workspace(
    shape: Shape, n_features: int, n_panels: int, n_chunks: int, gradient: bool, losses: bool, stream: Any
) -> _Workspace:
    """Allocating takes longer than a small gradient, and freeing waits for the device; the last one is kept (`release`)."""
    key = (threading.get_ident(), _driver.handle_of(stream), shape, n_features, n_panels, n_chunks, gradient, losses)
    found = _workspaces.get(key)
    if found is None:
        _workspaces.clear()
        found = _Workspace(
            Window.of(shape, n_features, n_panels, n_chunks, gradient=gradient, losses=losses, stream=stream),
            Totals.of(shape, n_features, n_panels, gradient=gradient, stream=stream),
            _driver.empty(n_panels * shape.models * (n_features + 1), shape.dtype, stream),
            shape.dtype,
            stream,
        )
        _workspaces[key] = found
    return found


def release() -> None:
    """Frees the device memory that `loss_gradient` keeps for its next call: up to 768 MiB, the size of its result, roles with
    up to 64 MiB of ids, and up to 256 MiB of earlier results that nobody holds any more."""
    _workspaces.clear()
    bad_values.release()
    _driver.spare.clear()


def shape_for(dtype: Any, n_models: int) -> Shape:
    """The tiles for so many models: no wider than they fill, since lanes without a model cost as much as the others."""
    shapes = _by_width(np.dtype(dtype))
    for shape in shapes[:-1]:
        if n_models <= shape.models:
            return shape
    return shapes[-1]


@cache
def _by_width(dtype: np.dtype[Any]) -> list[Shape]:
    return sorted(SHAPES[dtype.name].values(), key=lambda shape: shape.models)


@dataclass
class Sums:
    """The sums of a call of `begin`, in memory of the next call too, and what it takes to make results of them."""

    totals: Totals
    work: _Workspace
    kernels: SimpleNamespace
    P: Any
    shape: Shape
    n_features: int
    n_models: int
    mean: bool
    stream: Any

    def write(self, loss_out: Any, grad_W: Any, grad_intercept: Any) -> None:
        """Round them into outputs, each a `DeviceArray` or None; `loss_out` and the others only where they were asked for."""
        totals, none = self.totals, self.work.no_values
        self.kernels.results(
            blocks_of((self.n_features + 2) * self.n_models, self.shape.threads), self.stream, self.P, int(self.mean),
            int(loss_out is not None), int(grad_W is not None), int(grad_intercept is not None), totals.grad, totals.losses,
            totals.weights, self.work.no_doubles if loss_out is None else loss_out.flat, none if grad_W is None else grad_W.flat,
            none if grad_intercept is None else grad_intercept.flat,
        )  # fmt: skip


def begin(
    X: Any, y: Any, W: Any, intercept: Any, *, loss: str, mean: bool, rows: Any, ids: Any, conditions: Any, split_of_model: Any,
    sample_weight: Any, loss_epsilon: Any, want_loss: bool, want_gradient: bool, stream: Any = 0,
    roles: tuple[Any, int] | None = None,
) -> Sums:  # fmt: skip
    """Queues the sums of `gradfold.gradient.loss_gradient` on the device; arguments are checked by the caller.

    The device computes while the caller allocates what the results are written to.

    Parameters
    ----------
    X, y, W, intercept, rows, sample_weight : DeviceArray
        Of the same float type but for `rows` (int64); None where there is none. X may be `PaddedRows`.
    ids, conditions, split_of_model, loss_epsilon : ndarray or None
        On the host.
    want_loss, want_gradient : bool
        What is summed.
    stream
        On which everything is queued; nothing waits for it.
    roles : (device array, int), optional
        Instead of `ids` and `conditions`: the words of `roles.words`, and how many a row has, for splits from 0 on.
    """
    n_rows, n_features = X.shape
    n_models = W.shape[1]
    shape = shape_for(X.dtype, n_models)
    dtype = shape.dtype
    n_panels = -(-n_models // shape.models)
    lanes = n_panels * shape.models
    n_positions = n_rows if rows is None else rows.shape[0]
    want_losses = want_loss or (mean and sample_weight is not None)  # weights are summed beside losses
    x, weight = X.flat, None if sample_weight is None else sample_weight.flat
    stride = getattr(X, "stride", n_features)
    aligned = stride % shape.vector == 0 and _driver.address(x) % 16 == 0
    k = kernels(shape.of_rows(aligned))

    n_chunks = max(1, -(-n_positions // ROW_CHUNK))
    work = _workspace(shape, n_features, n_panels, n_chunks, want_gradient, want_losses, stream)
    panels, totals = work.panels, work.totals
    key = b"" if split_of_model is None else split_of_model.tobytes()
    bits: Any = split_of_model  # of each model in the words of a row
    if roles is None and ids is not None:
        used, bits = work.slots(split_of_model, key)
        roles = work.training(ids, np.ascontiguousarray(conditions[used]), weight, dtype)
    elif roles is None:
        key, bits = b"", 0
        roles = (work.no_roles, 0) if weight is None else work.training(*_splits.of_all_rows(n_rows), weight, dtype)
    words, n_words = roles
    parameters = (
        n_features, stride, (n_features + 1) * shape.models, n_models, weight is not None, n_words, _loss.CODES[loss], want_gradient,
        want_losses, rows is not None, False, ROW_CHUNK,
    )  # fmt: skip
    P = work.send("parameters", parameters, lambda: np.array(parameters, np.int64))
    none, no_rows = work.no_values, work.no_rows
    k.pack(
        blocks_of(lanes * (n_features + 1), shape.threads), stream, P, int(intercept is not None), n_panels, W.flat,
        none if intercept is None else intercept.flat, panels,
    )  # fmt: skip

    def of_lanes(values: Any, nobody: Any, kind: Any) -> Array:
        out = np.full(lanes, nobody, kind)
        out[:n_models] = values
        return out

    if n_positions == 0:
        for array in (totals.grad, totals.losses, totals.weights, totals.used):
            zero("float64")(blocks_of(array.size, 256), stream, array, array.size)
    else:
        splits = work.send("splits", (ids is None, n_models, key), lambda: of_lanes(bits, -1, np.int32))
        epsilon = work.send(
            "epsilon", None if loss_epsilon is None else loss_epsilon.tobytes(),
            lambda: of_lanes(0.1 if loss_epsilon is None else loss_epsilon, 0.1, dtype),
        )  # fmt: skip
        inputs = Inputs(
            shape, aligned, n_features, x, y.flat, none if weight is None else weight, words, splits, epsilon, panels,
            no_rows if rows is None else rows.flat, no_rows,
        )  # fmt: skip
        accumulate(
            P, inputs, work.window, totals, panels=(0, n_panels), positions=(0, n_positions), n_chunks=n_chunks, gradient=want_gradient,
            losses=want_losses, stream=stream,
        )  # fmt: skip
    return Sums(totals, work, k, P, shape, n_features, n_models, mean, stream)


def loss_gradient(
    X: Any, y: Any, W: Any, intercept: Any, *, loss_out: Any, grad_W: Any, grad_intercept: Any, sums: bool = False, **options: Any
) -> Totals:
    """`begin` and `Sums.write` in one.

    Parameters
    ----------
    sums : bool
        Gradients are summed also where none is to be written.

    Returns
    -------
    Totals
        The sums before they are rounded, in memory of the next call too.
    """
    begun = begin(
        X, y, W, intercept, want_loss=loss_out is not None,
        want_gradient=sums or grad_W is not None or grad_intercept is not None, **options,
    )  # fmt: skip
    begun.write(loss_out, grad_W, grad_intercept)
    return begun.totals
