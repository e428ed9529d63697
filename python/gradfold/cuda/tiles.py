"""The two products of a linear model, as tiles of a thread block: forward (rows × models) and gradient (features × models).

A block's threads hold a register tile each; X and what it is multiplied with come through shared memory in steps, the next
step on its way while this one is computed. Blocking is free; the orders of summation are not (docs/design.md): forward adds
features in chunks of 256, the gradient adds the rows of a chunk of 1,024 batch positions in batch order, every
multiply-add is one FMA. Threads run over models, rows and features, never over the index that is summed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from gradfold.cuda import loss as _loss
from gradfold.cuda import maths as _maths
from gradfold.cuda._driver import (
    F64,
    SIMULATED,
    arithmetic,
    commit_copies,
    copy_async4,
    copy_async8,
    copy_async16,
    cuda,
    device,
    float64,
    global_address,
    int32,
    int64,
    opaque,
    shared_address,
    uint32,
    vector_reader,
    vector_writer,
    waiter,
    warp_fence,
)

ROW_CHUNK = 1024  # part of the format, as in csrc/gradient/gradient.h
FEATURE_CHUNK = 256


@dataclass(frozen=True)
class Shape:
    """The tiles of a block.

    Attributes
    ----------
    models : int
        Of a panel: the width of both tiles.
    threads : int
    thread_models, thread_rows, thread_features : int
        A thread's register tile: thread_rows × thread_models forward, thread_features × thread_models in the gradient.
    step_features, step_rows : int
        What is staged at a time. step_features divides 256.
    forward_stages, gradient_stages : int
        Steps in shared memory: one is computed while the others are on their way.
    forward_blocks, gradient_blocks, epoch_blocks : int
        Blocks on a multiprocessor, of the tiled kernels and of the persistent one: what their registers allow without a spill.
        epoch_blocks is 0 for tiles that are not for the persistent path.
    aligned : bool
        Whether rows of X begin at multiples of 16 bytes.
    """

    dtype: str
    models: int
    threads: int
    thread_models: int
    thread_rows: int
    thread_features: int
    step_features: int
    step_rows: int
    forward_stages: int
    gradient_stages: int
    forward_blocks: int = 1
    gradient_blocks: int = 1
    epoch_blocks: int = 1
    aligned: bool = True

    def of_rows(self, aligned: bool) -> Shape:
        """The same tiles for rows of X that begin at multiples of 16 bytes, or anywhere: then X is staged value by value."""
        if aligned:
            return self
        return replace(self, aligned=False, forward_blocks=1, gradient_blocks=1, epoch_blocks=min(1, self.epoch_blocks))

    @property
    def vector(self) -> int:
        """Values in 16 bytes."""
        return 16 // np.dtype(self.dtype).itemsize

    @property
    def model_groups(self) -> int:
        return self.models // self.thread_models

    @property
    def groups(self) -> int:
        """Groups of threads along rows, and along features."""
        return self.threads // self.model_groups

    @property
    def rows(self) -> int:
        """Of a forward tile."""
        return self.groups * self.thread_rows

    @property
    def features(self) -> int:
        """Of a gradient tile."""
        return self.groups * self.thread_features

    @property
    def row_stride(self) -> int:
        """Of a staged row in forward: 16 bytes more, so that the rows a warp reads lie in different banks."""
        return self.step_features + self.vector

    @property
    def forward_stage(self) -> int:
        """Values of one stage."""
        return self.rows * self.row_stride + self.step_features * self.models

    @property
    def gradient_stage(self) -> int:
        return self.step_rows * (self.features + self.models)

    @property
    def stage(self) -> int:
        """Values of shared memory: all stages of whichever is larger, or a tile of raw predictions in their place."""
        return max(
            self.forward_stages * self.forward_stage, self.gradient_stages * self.gradient_stage, self.rows * self.models
        )


# "wide" tiles are for the tiled path: few instructions beside the FMAs, but a panel's block has few warps. "medium" and
# "narrow" are for both paths.
if SIMULATED:  # every thread is a Python thread: tiny tiles, the same code
    SHAPES = {
        "float32": {
            "wide": Shape("float32", 16, 16, 8, 2, 8, 8, 8, 3, 3, 1, 1, 0),
            "medium": Shape("float32", 8, 8, 4, 2, 4, 8, 8, 3, 2),
            "narrow": Shape("float32", 4, 8, 2, 2, 2, 4, 4, 3, 4),
        },
        "float64": {
            "medium": Shape("float64", 4, 4, 2, 2, 4, 8, 8, 3, 2),
            "narrow": Shape("float64", 2, 4, 1, 2, 2, 4, 4, 2, 3),
        },
    }
else:
    SHAPES = {
        "float32": {
            "wide": Shape("float32", 64, 128, 8, 8, 8, 16, 16, 3, 3, 3, 4, 0),
            "medium": Shape("float32", 32, 256, 4, 4, 4, 16, 32, 3, 2, 2, 2, 2),
            "narrow": Shape("float32", 8, 256, 2, 2, 2, 16, 16, 4, 4, 2, 2, 2),
        },
        "float64": {
            "medium": Shape("float64", 32, 256, 4, 4, 4, 8, 8, 3, 3, 2, 2, 1),
            "narrow": Shape("float64", 8, 256, 2, 2, 2, 8, 8, 3, 3, 2, 2, 1),
        },
    }


def canonical(dtype: Any) -> Any:
    """The device function that makes every NaN the quiet one without a sign."""
    return _maths.of(dtype).canonical


def lane_bits(lanes: int, model_groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The bits of a lane's number that say its group of models, and those that say its group of rows, lowest first.

    Rows get bits 0 and 2, models the others, as far as there are bits of each.
    """
    n_bits, n_models = lanes.bit_length() - 1, model_groups.bit_length() - 1
    rows: list[int] = []
    models: list[int] = []
    for bit in range(n_bits):
        wants_rows = bit in (0, 2) and len(rows) < n_bits - n_models
        (rows if wants_rows or len(models) == n_models else models).append(bit)
    return tuple(models), tuple(rows)


@cache
def of(shape: Shape) -> SimpleNamespace:
    """The device functions of a shape: ``forward``, ``residual``, ``gradient`` and what places their threads."""
    A = arithmetic(shape.dtype)
    T, fma, add, mul = A.T, A.fma, A.add, A.mul
    kind = A.type
    evaluate, slope = _loss.of(shape.dtype).evaluate, _loss.of(shape.dtype).gradient
    ZERO, ONE, INF, least_of = T(0), T(1), T(np.inf), A.smaller
    MODELS, THREADS, TM, TR, TF = (
        shape.models, shape.threads, shape.thread_models, shape.thread_rows, shape.thread_features,
    )  # fmt: skip
    ROWS, FEATURES, KF, KR, GROUPS = shape.rows, shape.features, shape.step_features, shape.step_rows, shape.groups
    STRIDE, VECTOR = shape.row_stride, shape.vector
    FORWARD, GRADIENT = shape.forward_stage, shape.gradient_stage  # sizes of a stage
    AHEAD_F = (shape.forward_stages - 1) * KF  # how far copying is ahead of computing
    FORWARD_END, GRADIENT_END = shape.forward_stages * FORWARD, shape.gradient_stages * GRADIENT
    LANES = min(4 if SIMULATED else 32, THREADS)  # a warp's threads lie in a near-square, so that few words are read twice
    # The residuals of a stage are added up, for the intercepts, by so many threads in turn, one to a model and whole warps. With
    # few turns to be had some lanes of every warp do it in every stage, so that no warp waits for others.
    CHAIN, CHAINS = max(MODELS, LANES), MODELS * LANES // THREADS
    TURNS = THREADS // CHAIN if THREADS // CHAIN >= (2 if SIMULATED else 4) else 1
    WARP_MODELS = min(8, shape.model_groups)
    WARPS_ACROSS = shape.model_groups // WARP_MODELS
    # Which bits of a lane say its group of models, and which its group of rows. Shared memory answers the half of a warp at once
    # for 16-byte words where every lane reads the word of its neighbour by bit 0 or of that by bit 1: weights and residuals are
    # the same across bit 0, rows of X across bit 1. With groups of models in the low bits they took 4 turns instead of 2.
    MODEL_BITS, ROW_BITS = lane_bits(LANES, WARP_MODELS)
    RUN, MRUN = min(TF, VECTOR), min(TM, VECTOR)  # a thread's features, and its models, lie in runs of these
    MODEL_STEP = shape.model_groups * MRUN  # from one of its runs to the next
    FORWARD_W, GRADIENT_R = ROWS * STRIDE, KR * FEATURES
    Z, WT, GT = TR * TM, VECTOR * TM, TF * TM  # sizes of register tiles
    # Vectors that a thread stages: of X and W forward, of X and residuals in the gradient.
    FX_WIDTH, FW_WIDTH, GX_WIDTH, GR_WIDTH = KF // VECTOR, MODELS // VECTOR, FEATURES // VECTOR, MODELS // VECTOR
    EVEN_FX, EVEN_FW = ROWS * FX_WIDTH % THREADS == 0, KF * FW_WIDTH % THREADS == 0
    EVEN_GX, EVEN_GR = KR * GX_WIDTH % THREADS == 0, KR * GR_WIDTH % THREADS == 0
    FX, FW = -(-ROWS * FX_WIDTH // THREADS), -(-KF * FW_WIDTH // THREADS)
    GX, GR = -(-KR * GX_WIDTH // THREADS), -(-KR * GR_WIDTH // THREADS)
    # A thread stages the same column of every so many rows, so that its addresses lie a constant apart.
    FX_ROWS, FW_ROWS, GX_ROWS, GR_ROWS = (THREADS // width for width in (FX_WIDTH, FW_WIDTH, GX_WIDTH, GR_WIDTH))
    assert all(THREADS % width == 0 for width in (FX_WIDTH, FW_WIDTH, GX_WIDTH, GR_WIDTH)) and ROW_CHUNK % KR == 0
    ITEM, ROW_BYTES = np.dtype(shape.dtype).itemsize, MODELS * np.dtype(shape.dtype).itemsize
    LOG_LOSS, UNUSED, ALL = _loss.CODES["log_loss"], T(-1), np.uint32(0xFFFFFFFF)  # no loss is negative
    KL, LOSS_WIDTH = min(64, shape.stage // (MODELS + 1) // 4 * 4), MODELS // VECTOR  # rows of losses staged at a time
    fma64, add64, ZERO64, ONE64 = F64.fma, F64.add, np.float64(0), np.float64(1)
    write_run = vector_writer(MRUN)
    read_model_run, read_row, read_run = vector_reader(MRUN), vector_reader(VECTOR), vector_reader(RUN)
    wait_forward, wait_gradient, wait_all = waiter(shape.forward_stages - 2), waiter(shape.gradient_stages - 2), waiter(0)
    copy1 = copy_async4 if A.is_float32 else copy_async8
    u64, u32, i32 = np.uint64, np.uint32, np.int32
    # Steps of an inner loop that are unrolled, about 128 FMAs: the compiler does no more of itself. A round has two such parts
    # where that leaves registers.
    UF = max(1, min(KF // VECTOR, 128 // (Z * VECTOR)))
    UR = max(2, min(KR, 128 // GT))
    TWICE_F, TWICE_R = KF // VECTOR % (2 * UF) == 0 and Z * VECTOR < 128, KR % (2 * UR) == 0
    ROUNDS_F, ROUNDS_R = KF // (UF * VECTOR * (2 if TWICE_F else 1)), KR // (UR * (2 if TWICE_R else 1))
    assert THREADS % CHAIN == 0 and MODELS % VECTOR == 0 and TM <= 32
    assert ROW_CHUNK % ROWS == 0 and FEATURE_CHUNK % KF == 0 and KF % (UF * VECTOR) == 0 and KR % UR == 0

    @device
    def place(tid):  # type: ignore[no-untyped-def]
        """(group of models, group of rows or features) of a thread."""
        lane, warp = tid % LANES, tid // LANES
        mg, rg = (warp % WARPS_ACROSS) * WARP_MODELS, (warp // WARPS_ACROSS) * (LANES // WARP_MODELS)
        for k in range(len(MODEL_BITS)):
            mg += ((lane >> MODEL_BITS[k]) & 1) << k
        for k in range(len(ROW_BITS)):
            rg += ((lane >> ROW_BITS[k]) & 1) << k
        return i32(mg), i32(rg)

    @device
    def model_of(mg, j):  # type: ignore[no-untyped-def]
        """The model, within the panel, of a thread's j-th column."""
        return j // MRUN * MODEL_STEP + mg * MRUN + j % MRUN

    @device
    def read_models(to, at, source, index, mg):  # type: ignore[no-untyped-def]
        """A thread's models of a row that begins at source[index]."""
        for j in range(0, TM, MRUN):
            read_model_run(to, at + j, source, index + j // MRUN * MODEL_STEP + mg * MRUN)

    @device
    def write_models(to, index, source, at, mg):  # type: ignore[no-untyped-def]
        for j in range(0, TM, MRUN):
            write_run(to, index + j // MRUN * MODEL_STEP + mg * MRUN, source, at + j)

    @device
    def uses(roles, row, n_words, split):  # type: ignore[no-untyped-def]
        """Whether a model of this split uses the row; of split -1, nobody's lane, never."""
        if n_words == 0 or split < 0:
            return split >= 0
        return (roles[u64(row * n_words + (split >> 5))] >> u32(split & 31)) & u32(1) != 0

    if shape.aligned:

        @device
        def stage_rows(stage, at, tid, f0, from_, ids, r0, n, X, stride, n_features):  # type: ignore[no-untyped-def]
            real = i32(f0 + tid % FX_WIDTH * VECTOR) < n_features
            to = u32(shared_address(stage, u64(at + tid // FX_WIDTH * STRIDE + tid % FX_WIDTH * VECTOR)))
            column = u64(global_address(X, u64(f0 + tid % FX_WIDTH * VECTOR)))
            row_bytes = u64(u32(stride * ITEM))
            for i in range(FX):
                if EVEN_FX or tid + i * THREADS < ROWS * FX_WIDTH:
                    place = u64(column + u64(from_[i]) * row_bytes)
                    copy_async16(stage, u32(to + u32(i * FX_ROWS * STRIDE * ITEM)), X, place, real)

        @device
        def stage_features(stage, at, tid, r0, ids, n, X, stride, f0, n_features):  # type: ignore[no-untyped-def]
            within = i32(f0 + tid % GX_WIDTH * VECTOR) < n_features
            to = u32(shared_address(stage, u64(at + tid // GX_WIDTH * FEATURES + tid % GX_WIDTH * VECTOR)))
            column = u64(global_address(X, u64(f0 + tid % GX_WIDTH * VECTOR)))
            row_bytes = u64(u32(stride * ITEM))
            for i in range(GX):
                if EVEN_GX or tid + i * THREADS < KR * GX_WIDTH:
                    r = i32(r0 + tid // GX_WIDTH + i * GX_ROWS)
                    place = u64(column + u64(u32(ids[u64(r)])) * row_bytes)  # where it is not real nothing is read
                    copy_async16(stage, u32(to + u32(i * GX_ROWS * FEATURES * ITEM)), X, place, within and r < n)
    else:

        @device
        def stage_rows(stage, at, tid, f0, from_, ids, r0, n, X, stride, n_features):  # type: ignore[no-untyped-def]
            for e in range(tid, ROWS * KF, THREADS):
                r, f = e // KF, e % KF
                real = r0 + r < n and f0 + f < n_features
                place = global_address(X, u64(int64(ids[u64(r0 + r)]) * stride + f0 + f if real else 0))
                copy1(stage, shared_address(stage, u64(at + r * STRIDE + f)), X, place, real)

        @device
        def stage_features(stage, at, tid, r0, ids, n, X, stride, f0, n_features):  # type: ignore[no-untyped-def]
            for e in range(tid, KR * FEATURES, THREADS):
                r, f = e // FEATURES, e % FEATURES
                real = r0 + r < n and f0 + f < n_features
                place = global_address(X, u64(int64(ids[u64(r0 + r)]) * stride + f0 + f if real else 0))
                copy1(stage, shared_address(stage, u64(at + e)), X, place, real)

    @device
    def stage_forward(stage, at, tid, f0, from_, ids, r0, n, X, stride, n_features, W, w_from):  # type: ignore[no-untyped-def]
        """KF features of the tile's rows and of the panel's weights; zeros where there are no features.

        Rows after the last are staged as whatever `ids` has there: nothing comes of them. `w_from` is an address.
        """
        stage_rows(stage, at, tid, f0, from_, ids, r0, n, X, stride, n_features)
        to = u32(shared_address(stage, u64(at + FORWARD_W + tid * VECTOR)))
        place = u64(w_from + u64(u32(f0)) * u64(ROW_BYTES))
        for i in range(FW):
            if EVEN_FW or tid + i * THREADS < KF * FW_WIDTH:
                real = i32(f0 + tid // FW_WIDTH + i * FW_ROWS) < n_features
                copy_async16(stage, u32(to + u32(i * THREADS * 16)), W, u64(place + u64(i * THREADS * 16)), real)

    @device
    def multiply_features(stage, x_at, w_row, mg, acc):  # type: ignore[no-untyped-def]
        """UF vectors of features of a thread's rows times those of its models, in order."""
        for f in range(0, UF * VECTOR, VECTOR):
            w = cuda.local.array(WT, kind)
            for k in range(VECTOR):
                read_models(w, k * TM, stage, w_row + (f + k) * MODELS, mg)
            for i in range(TR):
                x = cuda.local.array(VECTOR, kind)
                read_row(x, 0, stage, x_at + i * GROUPS * STRIDE + f)
                for k in range(VECTOR):
                    for j in range(TM):
                        acc[i * TM + j] = fma(x[k], w[k * TM + j], acc[i * TM + j])

    @device
    def multiply_rows(stage, x_at, r_at, mg, g):  # type: ignore[no-untyped-def]
        """UR rows' features times their residuals, in order."""
        for r in range(UR):
            res = cuda.local.array(TM, kind)
            read_models(res, 0, stage, r_at + r * MODELS, mg)
            x = cuda.local.array(TF, kind)
            for i in range(0, TF, RUN):
                read_run(x, i, stage, x_at + r * FEATURES + i * GROUPS)
            for i in range(TF):
                for j in range(TM):
                    g[i * TM + j] = fma(x[i], res[j], g[i * TM + j])

    @device
    def forward(  # type: ignore[no-untyped-def]
        stage, facts, words, tid, ids, r0, n, X, stride, n_features, W, w_at, R, z_at, y, weight, has_weight, roles, n_words,
    ):  # fmt: skip
        """Raw predictions of ROWS rows, from position r0 of the n in `ids` on, less the intercepts: stage[row * MODELS + model].

        `ids` holds row numbers for the whole tile, after the n-th whichever. W is [feature][MODELS] from w_at on, a multiple of 16
        bytes. What else `residual` needs of the rows comes meanwhile: y and weight to the shared facts[row] and facts[ROWS + row],
        roles to words[row] where a row has one word.

        Between chunks of features the sums so far wait in R, [position][MODELS] from z_at on: in registers they would spill.
        Begins with a barrier. A thread leaves what `residual` lets the same thread read, so none is needed between the two.
        """
        tid = opaque(tid)
        mg, rg = place(tid)
        cuda.syncthreads()  # `ids` is there, and whoever used the stages before has done
        from_ = cuda.local.array(FX, uint32)  # the rows of which this thread stages
        for i in range(FX):
            from_[i] = ids[u64(i32(r0 + tid // FX_WIDTH + i * FX_ROWS))]
        w_from = u64(global_address(W, u64(w_at + tid * VECTOR)))
        for i in range(tid, ROWS, THREADS):
            row = u64(u32(ids[u64(i32(r0 + i))]))
            copy1(facts, shared_address(facts, u64(i)), y, global_address(y, row), True)
            if has_weight:
                copy1(facts, shared_address(facts, u64(ROWS + i)), weight, global_address(weight, row), True)
            if n_words == 1:
                copy_async4(words, shared_address(words, u64(i)), roles, global_address(roles, row), True)
        acc = cuda.local.array(Z, kind)
        for i in range(Z):
            acc[i] = ZERO
        f1 = i32(0)
        for stage_at in range(0, FORWARD_END - FORWARD, FORWARD):
            if f1 < n_features:
                stage_forward(stage, i32(stage_at), tid, f1, from_, ids, r0, n, X, stride, n_features, W, w_from)
            commit_copies()
            f1 = i32(f1 + KF)
        here, f0 = i32(0), i32(0)
        while f0 < n_features:
            wait_forward()
            cuda.syncthreads()
            f1 = i32(f0 + AHEAD_F)
            if f1 < n_features:
                next_ = i32(here - FORWARD) if here > 0 else i32(FORWARD_END - FORWARD)  # the stage that was computed last
                stage_forward(stage, next_, tid, f1, from_, ids, r0, n, X, stride, n_features, W, w_from)
            commit_copies()  # of nothing at the end, so that the waits go on counting
            x_at = i32(here + rg * STRIDE)
            w_row = i32(here + FORWARD_W)
            for _ in range(ROUNDS_F):
                multiply_features(stage, x_at, w_row, mg, acc)
                if TWICE_F:
                    multiply_features(stage, i32(x_at + UF * VECTOR), i32(w_row + UF * VECTOR * MODELS), mg, acc)
                x_at = i32(x_at + KF // ROUNDS_F)
                w_row = i32(w_row + KF // ROUNDS_F * MODELS)
            here = i32(here + FORWARD) if here < FORWARD_END - FORWARD else i32(0)
            f0 = i32(f0 + KF)
            if f0 >= n_features or (f0 & (FEATURE_CHUNK - 1)) == 0:
                first = opaque(i32(r0 + rg))  # so that the rows' places are computed here, where there are registers for them
                for i in range(TR):
                    before = cuda.local.array(TM, kind)
                    for j in range(TM):
                        before[j] = ZERO
                    at = z_at + (first + i * GROUPS) * MODELS
                    real = i32(first + i * GROUPS) < n
                    if real and f0 > FEATURE_CHUNK:
                        read_models(before, 0, R, at, mg)
                    for j in range(TM):
                        acc[i * TM + j] = add(before[j], acc[i * TM + j])
                    if f0 < n_features:
                        if real:
                            write_models(R, at, acc, i * TM, mg)
                        for j in range(TM):
                            acc[i * TM + j] = ZERO
                    warp_fence()
        wait_all()
        cuda.syncthreads()
        for i in range(TR):
            write_models(stage, (rg + i * GROUPS) * MODELS, acc, i * TM, mg)

    @device
    def residual(  # type: ignore[no-untyped-def]
        stage, facts, words, tid, ids, r0, n, W, b_at, has_weight, roles, n_words, splits, s_at, epsilon, e_at, loss, R,
        L, z_at, want_gradient, want_loss, count, poisoned,
    ):  # fmt: skip
        """Ends a forward tile: residuals to R and point-wise losses to L, both [position][MODELS] from z_at on.

        W from b_at on holds the intercepts of the panel's models, splits and epsilon theirs. A loss of a row that its model
        does not use is UNUSED. count (shared, per model) gets the rows used; poisoned[0] becomes 1 when a z of a row that
        its model does not use is not finite: then x itself may be.
        """
        tid = opaque(tid)
        mg, rg = place(tid)
        bias = cuda.local.array(TM, kind)
        bit = cuda.local.array(TM, uint32)  # of its split in a row's word, where there is but one
        used = cuda.local.array(TM, int32)
        z = cuda.local.array(TM, kind)
        g = cuda.local.array(TM, kind)
        for j in range(TM):
            bias[j] = W[u64(b_at + model_of(mg, j))]
            split = splits[u64(s_at + model_of(mg, j))]
            bit[j] = u32(u32(1) << u32(split & 31)) if split >= 0 else u32(0)
            used[j] = 0
        bad = u32(0)
        last = min(ROWS, n - r0)
        for i in range(rg, last, GROUPS):
            at = z_at + (r0 + i) * MODELS
            y_row = facts[u64(i)]
            w_row = facts[u64(ROWS + i)] if has_weight else ONE
            role = cuda.local.array(TM, uint32)
            word = words[u64(i)] if n_words == 1 else ALL
            for j in range(TM):
                role[j] = word
            if n_words > 1:
                for j in range(TM):
                    split = max(splits[u64(s_at + model_of(mg, j))], 0)
                    role[j] = roles[u64(int64(ids[u64(r0 + i)]) * n_words + (split >> 5))]
            someone = u32(0)  # 1 where a model does not use the row
            for j in range(TM):
                use = role[j] & bit[j] != u32(0)
                used[j] += 1 if use else 0
                someone |= u32(0) if use else u32(1)
            if loss == LOG_LOSS:  # the usual one without the choice among losses, so that models are computed side by side
                read_models(z, 0, stage, i * MODELS, mg)
                least = INF
                for j in range(TM):
                    z[j] = add(z[j], bias[j])
                    least = least_of(least, abs(z[j]))
                # Where x is not finite no z of the row is: 0 times infinity is NaN, and nothing that is added makes it a number.
                bad |= u32(0) if least < INF else someone
                if want_loss:
                    for j in range(TM):
                        use = role[j] & bit[j] != u32(0)
                        value, slope_j = evaluate(LOG_LOSS, z[j], y_row, ONE)
                        z[j] = value if use else UNUSED
                        g[j] = mul(w_row, slope_j) if use else ZERO
                    write_models(L, at, z, 0, mg)
                else:
                    for j in range(TM):
                        slope_j = mul(w_row, slope(LOG_LOSS, z[j], y_row, ONE))
                        g[j] = slope_j if role[j] & bit[j] != u32(0) else ZERO
                if want_gradient:
                    write_models(R, at, g, 0, mg)
            else:
                on = u32(0)  # bit j: the j-th model uses the row. The loop over models below is not unrolled, so `role` will not do
                for j in range(TM):
                    on |= u32(1) << u32(j) if role[j] & bit[j] != u32(0) else u32(0)
                for j in range(TM):
                    m = model_of(mg, j)
                    z_j = add(stage[u64(i * MODELS + m)], W[u64(b_at + m)])
                    use = on >> u32(j) & u32(1) != u32(0)
                    eps = epsilon[u64(e_at + m)]
                    slope_j = ZERO
                    if want_loss:
                        value, slope_j = evaluate(loss, z_j, y_row, eps)
                        L[u64(at + m)] = value if use else UNUSED
                    else:
                        slope_j = slope(loss, z_j, y_row, eps)
                    if want_gradient:
                        R[u64(at + m)] = mul(w_row, slope_j) if use else ZERO
                        bad |= u32(0) if use or abs(z_j) < INF else u32(1)
        for j in range(TM):
            if used[j] > 0:
                cuda.atomic.add(count, model_of(mg, j), used[j])
        if want_gradient and bad != u32(0):
            poisoned[0] = 1

    @device
    def loss_sums(stage, tid, ids, n, L, z_at, weight, has_weight):  # type: ignore[no-untyped-def]
        """(Σ weight · loss, Σ weight) of model tid < MODELS over a chunk's n rows in order, those that it uses."""
        cuda.syncthreads()
        tid = opaque(tid)
        loss_sum, weight_sum = ZERO64, ZERO64
        for r0 in range(0, n, KL):
            for v in range(tid, KL * LOSS_WIDTH, THREADS):
                real = r0 + v // LOSS_WIDTH < n
                place = global_address(L, u64(z_at + r0 * MODELS + v * VECTOR if real else 0))
                copy_async16(stage, shared_address(stage, u64(v * VECTOR)), L, place, real)
            commit_copies()
            if has_weight:
                for r in range(tid, min(KL, n - r0), THREADS):
                    stage[u64(KL * MODELS + r)] = weight[u64(ids[u64(r0 + r)])]
            wait_all()
            cuda.syncthreads()
            if tid < MODELS:
                for r in range(min(KL, n - r0)):
                    value = stage[u64(r * MODELS + tid)]
                    w = float64(stage[u64(KL * MODELS + r)]) if has_weight else ONE64
                    if value != UNUSED:
                        loss_sum = fma64(w, float64(value), loss_sum)
                        weight_sum = add64(weight_sum, w)
            cuda.syncthreads()
        return loss_sum, weight_sum

    @device
    def stage_gradient(stage, at, tid, r0, ids, n, X, stride, f0, n_features, R, r_from):  # type: ignore[no-untyped-def]
        """KR positions of the tile's features and of the residuals; zeros where there are none. `r_from`: an address."""
        stage_features(stage, at, tid, r0, ids, n, X, stride, f0, n_features)
        to = u32(shared_address(stage, u64(at + GRADIENT_R + tid * VECTOR)))
        place = u64(r_from + u64(u32(r0)) * u64(ROW_BYTES))
        for i in range(GR):
            if EVEN_GR or tid + i * THREADS < KR * GR_WIDTH:
                real = i32(r0 + tid // GR_WIDTH + i * GR_ROWS) < n
                copy_async16(stage, u32(to + u32(i * THREADS * 16)), R, u64(place + u64(i * THREADS * 16)), real)

    @device
    def gradient(  # type: ignore[no-untyped-def]
        stage, sums, tid, ids, n, X, stride, f0, n_features, R, z_at, select, roles, n_words, splits, s_at, g,
    ):  # fmt: skip
        """g[i * TM + j], a thread's features (`feature_of`) × models summed over a chunk's n rows in order.

        Where f0 is 0, it returns a model and the sum of its residuals, which is the gradient of its intercept; most threads get
        the model -1. sums: shared, [MODELS].

        With `select` a row that a model does not use is left out, whatever x holds; without, its residual +0 adds +0.
        """
        tid = opaque(tid)
        mg, fg = place(tid)
        for i in range(GT):
            g[i] = ZERO
        total = ZERO
        mine = -1  # the model whose residuals this thread adds up
        if f0 == 0 and TURNS > 1:
            mine = tid % CHAIN if tid % CHAIN < MODELS else -1
        elif f0 == 0:
            mine = tid // LANES * CHAINS + tid % LANES if tid % LANES < CHAINS else -1
        turn, last = i32(tid // CHAIN), i32(-1)
        r_from = u64(global_address(R, u64(z_at + tid * VECTOR)))
        cuda.syncthreads()
        r1 = i32(0)
        for stage_at in range(0, GRADIENT_END - GRADIENT, GRADIENT):
            if r1 < n:
                stage_gradient(stage, i32(stage_at), tid, r1, ids, n, X, stride, f0, n_features, R, r_from)
            commit_copies()
            r1 = i32(r1 + KR)
        here, next_ = i32(0), i32(GRADIENT_END - GRADIENT)
        r0 = i32(0)
        while r0 < n:
            wait_gradient()
            cuda.syncthreads()
            if r1 < n:
                stage_gradient(stage, next_, tid, r1, ids, n, X, stride, f0, n_features, R, r_from)
            commit_copies()
            r1 = i32(r1 + KR)
            x_at = i32(here + fg * RUN)
            r_at = i32(here + GRADIENT_R)
            if select:
                for r in range(min(KR, n - r0)):
                    row = int64(ids[u64(r0 + r)])
                    for j in range(TM):
                        if uses(roles, row, n_words, splits[u64(s_at + model_of(mg, j))]):
                            res = stage[u64(r_at + r * MODELS + model_of(mg, j))]
                            for i in range(TF):
                                f = i // RUN * (GROUPS * RUN) + i % RUN
                                g[i * TM + j] = fma(stage[u64(x_at + r * FEATURES + f)], res, g[i * TM + j])
            else:
                for _ in range(ROUNDS_R):
                    multiply_rows(stage, x_at, r_at, mg, g)
                    if TWICE_R:
                        multiply_rows(stage, i32(x_at + UR * FEATURES), i32(r_at + UR * MODELS), mg, g)
                    x_at = i32(x_at + KR // ROUNDS_R * FEATURES)
                    r_at = i32(r_at + KR // ROUNDS_R * MODELS)
            if TURNS > 1:
                turn = i32(turn - 1) if turn > 0 else i32(TURNS - 1)
            if mine >= 0 and (TURNS == 1 or turn == TURNS - 1):
                at = i32(here + GRADIENT_R + mine)
                if TURNS > 1:
                    total = sums[u64(mine)] if r0 > 0 else ZERO
                for r in range(0, KR, 4):
                    a, b = stage[u64(at + r * MODELS)], stage[u64(at + r * MODELS + MODELS)]
                    c, d = stage[u64(at + r * MODELS + 2 * MODELS)], stage[u64(at + r * MODELS + 3 * MODELS)]
                    total = add(add(add(add(total, a), b), c), d)
                if TURNS > 1:
                    sums[u64(mine)] = total
                last = i32(r0 + KR)
            next_ = here
            here = i32(here + GRADIENT) if here < GRADIENT_END - GRADIENT else i32(0)
            r0 = i32(r0 + KR)
        wait_all()
        return (mine if last >= n else -1), total  # whose turn was the last

    @device
    def feature_of(tid, i):  # type: ignore[no-untyped-def]
        """The feature, within the tile, of a thread's i-th row of g."""
        mg, fg = place(opaque(tid))
        return i // RUN * (GROUPS * RUN) + fg * RUN + i % RUN

    return SimpleNamespace(
        A=A, place=place, forward=forward, residual=residual, gradient=gradient, feature_of=feature_of, loss_sums=loss_sums,
        model_of=model_of,
    )  # fmt: skip
