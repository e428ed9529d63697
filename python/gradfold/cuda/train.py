"""The trainer on the device: `gradfold._core.train.Trainer` with the same arguments, methods and bits.

Two paths share tiles, step and bits. *Persistent*: a block owns a panel of models and walks whole epochs, its order computed
on the fly, without the host and without a barrier between blocks. *Tiled*: each batch is a few launches over all
multiprocessors. `plan` says which is taken and why.

Weights and optimiser state stay in device memory, of which a panel's part lives in the second-level cache: a step touches each
once a batch, which is nothing beside the batch's products, and so no number of features is too many for a panel.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import _core, _device, _splits
from gradfold.cuda import _driver, arrays, gradient, index, tiles, update
from gradfold.cuda import loss as _loss
from gradfold.cuda import roles as _roles
from gradfold.cuda import stream as _stream
from gradfold.cuda._driver import Kernel, cuda, float64, int32, int64, opaque, uint32
from gradfold.cuda.gradient import Inputs, Totals, Window, blocks_of
from gradfold.cuda.tiles import ROW_CHUNK, SHAPES, Shape
from gradfold.cuda.update import (
    ALIVE,
    N_FLAGS,
    N_SCALARS,
    N_TRAINING,
    SPLIT,
    T_BATCH,
    T_FEATURES,
    T_FIRST_EPOCH,
    T_HAS_WEIGHT,
    T_LANES,
    T_LOSS,
    T_ORDER,
    T_PANEL,
    T_ROWS,
    T_SEED,
    T_SEEN,
    T_STANDARDIZE,
    T_STRIDE,
    T_TRACK,
    T_WORDS,
    F,
)
from gradfold.index import Permutation

Array = npt.NDArray[Any]
u64 = np.uint64

NATURAL, TABLE, MIXED = range(3)  # orders of an epoch
SLICE_SECONDS = 0.05  # about what is queued between two looks at a signal


@cache
def kernels(shape: Shape) -> SimpleNamespace:
    """``epoch``, the persistent kernel, where the tiles are for it, and ``step``, which ends a batch of the tiled path."""
    tile, updater = tiles.of(shape), update.of(shape)
    forward, residual, gradient_tile, feature_of, place, loss_sums, model_of = (
        tile.forward, tile.residual, tile.gradient, tile.feature_of, tile.place, tile.loss_sums, tile.model_of,
    )  # fmt: skip
    step = updater.step
    A, D64 = tile.A, _driver.F64
    add64 = D64.add
    kind = A.type
    key_of, row_at = index.permutation_key32, index.forward32
    MODELS, THREADS, ROWS, FEATURES, STAGE = shape.models, shape.threads, shape.rows, shape.features, shape.stage
    FACTS = 2 * ROWS
    TM, TF = shape.thread_models, shape.thread_features
    GT = TM * TF
    PAIR = min(2, TM)  # neighbouring models' sums, 16 bytes
    read_pair, write_pair = _driver.vector_reader(PAIR), _driver.vector_writer(PAIR)
    SCALARS, FLAGS = N_SCALARS * MODELS, N_FLAGS * MODELS + 1
    assert SCALARS <= STAGE or not shape.epoch_blocks
    ZERO64 = np.float64(0)
    u32 = np.uint32

    def epoch(P, epoch, b0, b1, offset, X, y, weight, roles, table, mask, s, S, D, N, Z, M, epsilon, R, L, G):  # type: ignore[no-untyped-def]
        """Batches [b0, b1) of an epoch; one block a panel.

        Natural order visits row position − offset: where data are streamed, X, y, weight and roles begin at position `offset`.
        R and L: [panel][min(batch, 1024)][MODELS]; G: [panel][feature + 1][MODELS] float64.
        """
        tid = cuda.threadIdx.x
        panel = cuda.blockIdx.x
        ids = cuda.shared.array(ROW_CHUNK, int32)
        stage = cuda.shared.array(STAGE, kind, alignment=16)
        facts = cuda.shared.array(FACTS, kind)
        words = cuda.shared.array(ROWS, uint32)
        chain = cuda.shared.array(MODELS, kind)
        flags = cuda.shared.array(FLAGS, int32)
        keys = cuda.shared.array(12, uint32)
        count = cuda.shared.array(MODELS, int32)
        bad = cuda.shared.array(1, int32)
        losses = cuda.shared.array(MODELS, float64)
        weights = cuda.shared.array(MODELS, float64)
        n_rows, n_features, batch_size, lanes = P[u64(T_ROWS)], int32(P[u64(T_FEATURES)]), P[u64(T_BATCH)], P[u64(T_LANES)]
        order, rounds = P[u64(T_ORDER)], 12 if n_rows <= 65536 else 8
        track = P[u64(T_TRACK)] != 0
        if order == MIXED:
            for r in range(tid, 12, THREADS):
                keys[u64(r)] = key_of(u64(P[u64(T_SEED)]), u32(epoch + P[u64(T_FIRST_EPOCH)]), u32(0), u32(r))
            cuda.syncthreads()
        m = tid % MODELS
        lane = panel * MODELS + m
        w_at = panel * P[u64(T_PANEL)] + P[u64(T_SEEN)]
        g_at = panel * P[u64(T_PANEL)]
        z_at = panel * min(batch_size, ROW_CHUNK) * MODELS
        for b in range(b0, b1):
            tid = opaque(cuda.threadIdx.x)
            begin = b * batch_size
            end = min(n_rows, begin + batch_size)
            alive = 1 if tid < MODELS and N[u64(ALIVE * lanes + lane)] != 0 else 0
            for c0 in range(begin, end, ROW_CHUNK):
                n = int32(min(ROW_CHUNK, end - c0))
                if c0 > begin:
                    cuda.syncthreads()  # the last chunk's gradient may still look up rows in ids; the last batch's ended before its step
                for i in range(tid, -(-n // ROWS) * ROWS, THREADS):  # after the last row the last again
                    position = c0 + min(i, n - 1)
                    row = position - offset
                    if order == MIXED:
                        row = int64(row_at(u32(position), u32(n_rows - 1), u32(mask), u32(s), u32(rounds), keys))
                    elif order == TABLE:
                        row = table[u64(position)]
                    ids[u64(i)] = row
                if tid < MODELS and c0 == begin:
                    count[u64(tid)] = 0
                    losses[u64(tid)] = ZERO64
                    weights[u64(tid)] = ZERO64
                if tid == 0:
                    bad[0] = 0
                if c0 == begin and cuda.syncthreads_or(alive) == 0:
                    return
                for r0_ in range(0, n, ROWS):
                    r0 = int32(r0_)
                    forward(
                        stage, facts, words, tid, ids, r0, n, X, P[u64(T_STRIDE)], n_features, S, w_at, R, z_at, y, weight,
                        P[u64(T_HAS_WEIGHT)] != 0, roles, P[u64(T_WORDS)],
                    )  # fmt: skip
                    residual(
                        stage, facts, words, tid, ids, r0, n, S, w_at + n_features * MODELS, P[u64(T_HAS_WEIGHT)] != 0, roles,
                        P[u64(T_WORDS)], N, SPLIT * lanes + panel * MODELS, epsilon, panel * MODELS, P[u64(T_LOSS)], R, L, z_at,
                        True, track, count, bad,
                    )  # fmt: skip
                cuda.syncthreads()
                if track:
                    loss_sum, weight_sum = loss_sums(stage, tid, ids, n, L, z_at, weight, P[u64(T_HAS_WEIGHT)] != 0)
                    if tid < MODELS:
                        losses[u64(tid)] = add64(losses[u64(tid)], loss_sum)
                        weights[u64(tid)] = add64(weights[u64(tid)], weight_sum)
                for f0_ in range(0, n_features, FEATURES):
                    f0 = int32(f0_)
                    g = cuda.local.array(GT, kind)
                    summed, b_sum = gradient_tile(
                        stage, chain, tid, ids, n, X, P[u64(T_STRIDE)], f0, n_features, R, z_at, bad[0] != 0, roles, P[u64(T_WORDS)], N,
                        SPLIT * lanes + panel * MODELS, g,
                    )  # fmt: skip
                    if summed >= 0:
                        at = u64(g_at + n_features * MODELS + summed)
                        G[at] = add64(ZERO64 if c0 == begin else G[at], float64(b_sum))
                    mg, fg = place(opaque(tid))
                    for i in range(TF):
                        f = f0 + feature_of(tid, i)
                        if f < n_features:
                            for j in range(0, TM, PAIR):
                                at = u64(g_at + f * MODELS + model_of(mg, j))
                                before = cuda.local.array(PAIR, float64)
                                for k in range(PAIR):
                                    before[k] = ZERO64
                                if c0 > begin:
                                    read_pair(before, 0, G, at)
                                for k in range(PAIR):
                                    before[k] = add64(before[k], float64(g[i * TM + j + k]))
                                write_pair(G, at, before, 0)
            # A step's scalars lie where tiles are staged: it begins with a barrier, and so does the next tile.
            step(tid, panel, P, S, D, N, Z, M, G, g_at, count, 0, epoch, b, stage, flags, losses, weights)

    def step_batch(P, epoch, b, S, D, N, Z, M, G, used, loss_totals, weight_totals):  # type: ignore[no-untyped-def]
        """Ends a batch whose totals are those of `gradient.accumulate`; one block a panel."""
        tid = cuda.threadIdx.x
        panel = cuda.blockIdx.x
        scalar = cuda.shared.array(SCALARS, kind)
        flags = cuda.shared.array(FLAGS, int32)
        step(
            tid, panel, P, S, D, N, Z, M, G, panel * P[u64(T_PANEL)], used, panel * MODELS, epoch, b, scalar, flags, loss_totals,
            weight_totals,
        )  # fmt: skip

    i64, f1, d1, i1, n1, w1 = int64, kind[::1], float64[::1], int64[::1], int32[::1], uint32[::1]
    made = SimpleNamespace(step=Kernel(step_batch, (i1, i64, i64, f1, d1, n1, i1, d1, d1, d1, d1, d1), THREADS))
    if shape.epoch_blocks:
        made.epoch = Kernel(
            epoch, (i1, i64, i64, i64, i64, f1, f1, f1, w1, i1, i64, i64, f1, d1, n1, i1, d1, f1, f1, f1, d1), THREADS,
            shape.epoch_blocks,
        )  # fmt: skip
    return made


# -- which path -----------------------------------------------------------------------------------------------------------

# Of the cost rule of `plan`. Shares of a multiprocessor's FMA peak that a panel reaches alone on it and among others, and the
# rest of a batch (barriers, the step), as measured on an H100 with 128 features and batches of 256 rows (benchmarks/NOTES.md).
CLOCK = 1.9e9
FMAS = {"float32": 128, "float64": 64}  # of a multiprocessor in a cycle
ALONE = {"medium": 0.32, "narrow": 0.165}
SHARED = {"medium": 0.37, "narrow": 0.18}
TILED_SHARE = 0.5
BATCH_SECONDS = 8e-6
LAUNCH_SECONDS = 1.2e-5  # it costs the host more than the device
LAUNCHES = 8  # of a batch of the tiled path


@dataclass(frozen=True)
class Path:
    """How a training walks its batches."""

    persistent: bool
    name: str
    shape: Shape
    n_panels: int
    reason: str


def plan(dtype: str, n_models: int, n_features: int, batch_size: int, multiprocessors: int, force: str | None = None) -> Path:
    """The path and the tiles that take least time by a count of multiply-adds.

    A persistent batch costs the work of the panels that share a multiprocessor; a tiled batch the work of all panels over all
    multiprocessors, and its launches.

    Parameters
    ----------
    force : {None, "persistent", "tiled"}
        For tests and measurements.
    """
    best: tuple[float, bool, str] | None = None
    rate = CLOCK * FMAS[dtype]
    for name, shape in SHAPES[dtype].items():
        panels = -(-n_models // shape.models)
        features = -(-n_features // shape.features) * shape.features
        work = shape.models * (-(-batch_size // shape.rows) * shape.rows * n_features + batch_size * features)  # of a panel
        persistent = np.inf
        if shape.epoch_blocks:
            deep = -(-panels // multiprocessors)
            persistent = BATCH_SECONDS + max(work / (rate * ALONE[name]), deep * work / (rate * SHARED[name]))
        blocks = max(1, -(-panels * batch_size // (shape.rows * multiprocessors)))  # each does at least a tile's work
        tile = work / max(1, batch_size // shape.rows)
        tiled = LAUNCHES * LAUNCH_SECONDS + max(panels * work / multiprocessors, blocks * tile) / (rate * TILED_SHARE)
        for is_persistent, seconds in ((True, persistent), (False, tiled)):
            if force is not None and is_persistent != (force == "persistent"):
                continue
            if np.isfinite(seconds) and (best is None or seconds < best[0]):
                best = seconds, is_persistent, name
    assert best is not None
    _, is_persistent, name = best
    shape = SHAPES[dtype][name]
    panels = -(-n_models // shape.models)
    text = (
        f"{'persistent' if is_persistent else 'tiled'} epochs: {panels} panel{'s' if panels > 1 else ''} of {shape.models} models on "
        f"{multiprocessors} multiprocessors, batches of {batch_size} rows"
    )
    return Path(is_persistent, name, shape, panels, text if force is None else text + " (forced)")


# -- the trainer ----------------------------------------------------------------------------------------------------------

_OF_FEATURES = ("W", "first", "second", "seen_W")
_OF_INTERCEPT = ("intercept", "intercept_first", "intercept_second", "seen_intercept")
_NUMBERS = ("updates", "rate_scale", "beta1_power", "beta2_power")


class Trainer:
    """Many models in lock-step on the device; the interface of ``gradfold._core.train.Trainer``, whose bits it has.

    Arguments are those of the other one; X may be a `DeviceArray`. Raises ValueError for what has no kernels yet: several
    outputs, averaged weights; and a `DeviceMemoryError` where a batch is too large for the GPU. X on the host that does
    not fit into the GPU's memory, or not into `memory_limit` bytes, streams through it (`stream`).
    """

    def __init__(
        self,
        *,
        X: Any,
        y: Array,
        sample_weight: Array | None,
        ids: Array,
        conditions: Array,
        split_of_model: Array,
        loss: str,
        solver: str,
        l1: Array,
        l2: Array,
        learning_rate: Array,
        schedule: Array,
        epochs: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
        fit_intercept: bool,
        standardize: bool,
        coef_init: Array | None,
        intercept_init: Array | None,
        n_threads: int,
        hyper: dict[str, Array] | None = None,
        first_epoch: int = 0,
        held_out_weight: Array | None = None,
        validation: tuple[Any, Any, Any] | None = None,
        moments: tuple[Array, Array] | None = None,
        track_train_loss: bool = False,
        state: dict[str, Array] | None = None,
        n_outputs: int = 1,
        loss_epsilon: Array | None = None,
        path: str | None = None,
        memory_limit: int | None = None,
    ) -> None:
        hyper = {} if hyper is None else hyper
        if loss == "multinomial" or n_outputs != 1:
            raise ValueError("loss: got 'multinomial' with device='cuda', wanted a loss of one output; use device='cpu'")
        if "average" in hyper and np.any(hyper["average"] > 0):
            raise ValueError("average: got averaged weights with device='cuda', wanted 0; use device='cpu'")
        n_rows, n_features = map(int, X.shape)
        _device.check_shape(n_rows, n_features)
        self._dtype = np.dtype(X.dtype)
        # The CPU's trainer checks the arguments and says what every model begins with, moments of standardising included. It
        # reads X for nothing else, so where no moments are wanted it gets memory that is never touched.
        reads = standardize and moments is None and state is None
        host = X.host if isinstance(X, arrays.PaddedRows) else X
        if isinstance(X, arrays.DeviceArray):
            host = X.numpy() if reads else np.empty((n_rows, n_features), self._dtype)
        beginning = _core.train.Trainer(
            X=host, y=y, sample_weight=sample_weight, ids=ids, conditions=conditions, split_of_model=split_of_model, loss=loss,
            solver=solver, l1=l1, l2=l2, learning_rate=learning_rate, schedule=schedule, epochs=epochs, batch_size=batch_size,
            shuffle=shuffle, seed=seed, fit_intercept=fit_intercept, standardize=standardize, coef_init=coef_init,
            intercept_init=intercept_init, n_threads=n_threads, hyper=hyper, first_epoch=first_epoch,
            held_out_weight=held_out_weight, moments=moments, track_train_loss=track_train_loss, state=state,
            loss_epsilon=loss_epsilon,
            validation=None if validation is None else _host_validation(validation, n_features, self._dtype),
        )  # fmt: skip
        begun = beginning.get_state()
        del beginning, host
        self._n, self._p, self._n_models = n_rows, n_features, len(split_of_model)
        self._epochs, self._first_epoch, self._batch = epochs, first_epoch, min(batch_size, n_rows)
        self._steps = -(-n_rows // self._batch)
        self._loss, self._solver, self._standardize, self._track = loss, solver, standardize, track_train_loss
        self._seed, self._fit_intercept = seed, fit_intercept
        self._natural = not shuffle or batch_size >= n_rows
        self._splits, self._slot = np.unique(split_of_model, return_inverse=True)
        self._settings = {"learning_rate": learning_rate, "l1": l1, "l2": l2}
        for name in update.HYPER:
            usual = 1e-10 if name == "epsilon" and solver == "adagrad" else update.DEFAULTS[name]
            self._settings[name] = np.asarray(hyper.get(name, np.full(self._n_models, usual)), np.float64)
        self._schedule = np.asarray(schedule, np.int32)
        self._epsilon = np.full(self._n_models, 0.1) if loss_epsilon is None else loss_epsilon
        self._ids, self._conditions = ids, conditions[self._splits]
        self._weight, self._y = sample_weight, y
        self._held_out_weight = sample_weight if held_out_weight is None else held_out_weight
        self._validation = validation
        count, total = _split_weights(ids, self._conditions, sample_weight)
        self._settings["mean_weight"] = (total / count)[self._slot]

        self._fields = [name for name in begun if name in (*_OF_FEATURES, *_OF_INTERCEPT, *_NUMBERS)]
        self._host = {name: begun[name] for name in self._fields}  # of every model; what is on the device is newer
        self._moments = {name: begun[name] for name in ("mean", "scale") if name in begun}
        self._position = int(begun["position"][0]) if "position" in begun else 0
        self._history: list[Array] = [np.array(row) for row in begun["history"].T] if "history" in begun else []
        self._diverged_epoch, self._diverged_batch = begun["diverged_epoch"], begun["diverged_batch"]
        self._finished = np.array(begun["finished"], np.bool_)
        self._train = {"train_loss": begun["train_loss"], "train_weight": begun["train_weight"]}
        self._remembered: dict[str, Array] | None = None
        self._known = np.zeros(self._n_models, np.bool_)
        self._cancelled = False

        props = _driver.properties()
        self._sms = props.multiprocessors
        self._path = plan(self._dtype.name, self._n_models, n_features, self._batch, self._sms, path)
        self._stream = _driver.new_stream()
        self._lanes: Array | None = None  # the model of each lane, -1 for nobody's; None: nothing is laid out yet
        self._data = _Data(self, X)
        self._data.windows = self._data.plan(n_threads, memory_limit)

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def reason(self) -> str:
        """Which path was taken, and why."""
        windows = self._data.windows
        return self._path.reason if windows is None else f"{self._path.reason}; {windows.text}"

    @property
    def steps_per_epoch(self) -> int:
        return self._steps

    @property
    def epochs_done(self) -> int:
        return len(self._history)

    @property
    def diverged_epoch(self) -> Array:
        self._pull_diverged()
        return self._diverged_epoch.copy()

    @property
    def diverged_batch(self) -> Array:
        self._pull_diverged()
        return self._diverged_batch.copy()

    def alive(self) -> Array:
        self._pull_diverged()
        return ~self._finished & (self._diverged_epoch < 0)

    def coef(self) -> Array:
        self._pull()
        return self._host["seen_W" if self._standardize else "W"].copy()

    def intercept(self) -> Array:
        self._pull()
        return self._host["seen_intercept" if self._standardize else "intercept"][:, 0].copy()

    def steps(self) -> Array:
        self._pull()
        return self._host["updates"][:, 0].astype(np.int64)

    def history(self, first: int = 0) -> Array:
        if not 0 <= first <= len(self._history):
            raise ValueError(f"first: got {first}, wanted 0 to {len(self._history)}")
        return np.array(self._history[first:]).reshape(len(self._history) - first, self._n_models)

    # -- changing it --------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        self._cancelled = True

    def finish(self, mask: Array) -> None:
        self._pull_diverged()
        self._finished |= mask
        self._push_alive()

    def snapshot(self, mask: Array) -> None:
        self._pull()
        if self._remembered is None:
            self._remembered = {name: np.empty_like(array) for name, array in self._host.items()}
        for name, array in self._host.items():
            self._remembered[name][mask] = array[mask]
        self._known |= mask

    def restore(self, mask: Array) -> None:
        missing = np.flatnonzero(mask & ~self._known)
        if missing.size:
            raise ValueError(f"mask: got model {missing[0]}, which snapshot() never remembered, wanted models that it did")
        if self._remembered is None:
            return
        self._pull()
        for name, array in self._host.items():
            array[mask] = self._remembered[name][mask]
        self._push()

    def scale_learning_rate(self, factor: Array) -> None:
        self._pull()
        alive = self.alive()
        self._host["rate_scale"][alive, 0] *= factor[alive]
        self._push()

    def train_loss(self, reset: bool = True) -> Array:
        if not self._track:
            raise RuntimeError("Trainer.train_loss: not tracked; construct with track_train_loss=True")
        self._pull()
        loss, weight = self._train["train_loss"], self._train["train_weight"]
        with np.errstate(invalid="ignore", divide="ignore"):
            out = np.where(weight > 0, loss / weight, np.nan)
        if reset:
            loss[:] = 0
            weight[:] = 0
            self._push()
        return out

    def get_state(self) -> dict[str, Array]:
        self._pull()
        state = {name: self._host[name].copy() for name in self._fields}
        state |= {name: array.copy() for name, array in self._moments.items()}
        state["position"] = np.full(self._n_models, self._position, np.int64)
        state["history"] = np.array(self._history).reshape(-1, self._n_models).T.copy()
        state["diverged_epoch"], state["diverged_batch"] = self._diverged_epoch.copy(), self._diverged_batch.copy()
        state["finished"] = self._finished.copy()
        return state | {name: array.copy() for name, array in self._train.items()}

    # -- training -----------------------------------------------------------------------------------------------------

    def advance(self, max_steps: int = -1, seconds: float = -1.0) -> str:
        """Train on: "done", "paused" (a limit was reached) or "interrupted" (`cancel`)."""
        started = time.monotonic()
        end = self._epochs * self._steps
        last = end if max_steps < 0 else min(end, self._position + max_steps)
        any_finished = bool(self._finished.any())
        if self._cancelled:
            return "interrupted"
        self._set_up()
        while True:
            if self._cancelled:
                return "interrupted"
            self._compact()
            position = self._position
            if position > 0 and position % self._steps == 0 and len(self._history) < position // self._steps:
                self._history.append(self._data.score())
            if position >= end:
                return "done"
            if any_finished and not self.alive().any():
                return "done"
            if position >= last or (seconds >= 0 and time.monotonic() - started >= seconds):
                return "paused"
            epoch = position // self._steps
            target = min((epoch + 1) * self._steps, last)
            deadline = None if seconds < 0 else started + seconds
            self._position = epoch * self._steps + self._data.walk(epoch, position % self._steps, target - epoch * self._steps, deadline)

    def _set_up(self) -> None:
        """Data and models on the device, if they are not there."""
        begins = self._lanes is None
        try:
            if not self._data.loaded and self._data.windows is None:  # others may have taken memory since
                self._data.windows = self._data.plan(self._data.n_threads, self._data.limit)
            self._data.load()
            if begins:
                self._lay_out(np.flatnonzero(self.alive()))
        except MemoryError:
            if begins:  # nothing has trained yet, so nothing has to stay there; the error's traceback would keep it
                self._data, self._lanes = self._data.emptied(), None
            raise

    def _lay_out(self, models: Array) -> None:
        """Give every model a lane: those of a split side by side, so that a panel scores few rows that it does not need."""
        self._pull()  # of those that leave
        models = models[np.argsort(self._slot[models], kind="stable")]
        shape = self._path.shape
        n_panels = max(1, -(-len(models) // shape.models))
        self._lanes = np.full(n_panels * shape.models, -1, np.int64)
        self._lanes[: len(models)] = models
        self._data.allocate(n_panels, self._lanes, self._slot)
        self._push()

    def _compact(self) -> None:
        """Lays the lanes out anew when that saves a quarter of the panels."""
        assert self._lanes is not None
        alive = self.alive()
        taken = np.where(self._lanes >= 0, alive[np.maximum(self._lanes, 0)], False).reshape(-1, self._path.shape.models)
        panels = int(taken.any(axis=1).sum())
        wanted = max(1, -(-int(alive.sum()) // self._path.shape.models))
        if alive.any() and wanted <= 0.75 * panels:
            self._lay_out(np.flatnonzero(alive))

    # -- between here and the device ----------------------------------------------------------------------------------

    def _pull_diverged(self) -> None:
        """Who has diverged since: a few bytes, where `_pull` fetches weights."""
        if self._lanes is None or not self._data.walked:
            return
        lanes = np.flatnonzero(self._lanes >= 0)
        models = self._lanes[lanes]
        Z = _driver.to_host(self._data.Z, (2, -1), self._stream)
        self._diverged_epoch[models], self._diverged_batch[models] = Z[0][lanes], Z[1][lanes]
        self._data.walked = False

    def _pull(self) -> None:
        """What every laid-out model has come to, from the device."""
        if self._lanes is None or not self._data.changed:
            return
        lanes = np.flatnonzero(self._lanes >= 0)
        models = self._lanes[lanes]
        data, models_of, p = self._data, self._path.shape.models, self._p
        S = _driver.to_host(data.S, None, self._stream)
        D = _driver.to_host(data.D, (len(update.FIELDS), -1), self._stream)
        self._pull_diverged()
        for k, name in enumerate(data.names):
            # [panel][parameter][MODELS] -> [lane][parameter]
            block = S[k * data.size : (k + 1) * data.size].reshape(-1, p + 1, models_of).transpose(0, 2, 1).reshape(-1, p + 1)
            self._host[name][models] = block[lanes, :p]
            self._host[_OF_INTERCEPT[_OF_FEATURES.index(name)]][models, 0] = block[lanes, p]
        for name in _NUMBERS:
            if name in self._host:
                self._host[name][models, 0] = D[F[name]][lanes]
        for name, array in self._train.items():
            array[models] = D[F[name]][lanes]
        data.changed = False

    def _push(self) -> None:
        """The other way."""
        if self._lanes is None:
            return
        lanes = np.flatnonzero(self._lanes >= 0)
        models = self._lanes[lanes]
        data, models_of, p = self._data, self._path.shape.models, self._p
        n_lanes = len(self._lanes)
        S = np.zeros(data.S.size, self._dtype)
        for k, name in enumerate(data.names):
            block = np.zeros((n_lanes, p + 1), self._dtype)
            block[lanes, :p] = self._host[name][models]
            block[lanes, p] = self._host[_OF_INTERCEPT[_OF_FEATURES.index(name)]][models, 0]
            S[k * data.size : (k + 1) * data.size] = block.reshape(-1, models_of, p + 1).transpose(0, 2, 1).reshape(-1)
        D = np.ones((len(update.FIELDS), n_lanes))
        for name, values in self._settings.items():
            D[F[name], lanes] = values[models]
        for name in _NUMBERS:
            if name in self._host:
                D[F[name], lanes] = self._host[name][models, 0]
        for name, values in self._train.items():
            D[F[name], lanes] = values[models]
        Z = np.full((2, n_lanes), -1, np.int64)
        Z[0, lanes], Z[1, lanes] = self._diverged_epoch[models], self._diverged_batch[models]
        data.S.copy_to_device(S, stream=self._stream)
        data.D.copy_to_device(D.reshape(-1), stream=self._stream)
        data.Z.copy_to_device(Z.reshape(-1), stream=self._stream)
        self._push_alive()
        if not _driver.SIMULATED:
            self._stream.synchronize()  # the copies read NumPy memory that is about to go

    def _push_alive(self) -> None:
        if self._lanes is None:
            return
        N = np.zeros((3, len(self._lanes)), np.int32)
        taken = self._lanes >= 0
        models = self._lanes[taken]
        N[SPLIT] = -1
        N[SPLIT, taken] = self._slot[models]
        N[update.SCHEDULE, taken] = self._schedule[models]
        N[ALIVE, taken] = (~self._finished & (self._diverged_epoch < 0))[models]
        self._data.N.copy_to_device(N.reshape(-1), stream=self._stream)
        if not _driver.SIMULATED:
            self._stream.synchronize()


def _host_validation(validation: tuple[Any, Any, Any], n_features: int, dtype: np.dtype[Any]) -> tuple[Any, Any, Any]:
    X, y, weight = validation
    return (np.empty(X.shape, dtype) if isinstance(X, arrays.DeviceArray) else X), y, weight


def _split_weights(ids: Array, conditions: Array, weight: Array | None) -> tuple[Array, Array]:
    """Training rows with a weight other than 0, and their weight, of each split: as csrc/train/standardize.cpp sums them."""
    count, total = np.zeros(len(conditions), np.int64), np.zeros(len(conditions))
    for split, rows in enumerate(_rows_of(ids, conditions, scored=False)):
        if weight is None:
            count[split] = total[split] = len(rows)
            continue
        rows = rows[weight[rows] != 0]
        count[split] = len(rows)
        chunks = np.bincount(rows // ROW_CHUNK, weights=weight[rows].astype(np.float64))
        total[split] = np.bincount(np.zeros(len(chunks), np.int64), weights=chunks)[0] if len(chunks) else 0.0
    return count, total


def _place(values: Array, bound: int) -> int:
    """How many of the sorted ids are below a bound. In their own type: NumPy would convert all of them to the bound's."""
    most = int(np.iinfo(values.dtype).max)
    return len(values) if bound > most else int(np.searchsorted(values, values.dtype.type(max(0, bound))))


def _rows_of(ids: Array, conditions: Array, *, scored: bool) -> Any:
    """The rows that each split trains on, or scores, ascending, one split after another."""
    n_conditions = conditions.shape[1]
    orders: dict[int, tuple[Array, Array]] = {}
    for split in conditions.tolist():
        if n_conditions == 1:  # sorted ids: a split then costs no more than its rows, also where splits are many
            id_row, score_lo, score_hi, train_lo, train_hi = split[0]
            if id_row not in orders:
                order = np.argsort(ids[id_row], kind="stable")
                orders[id_row] = order, ids[id_row][order]
            order, values = orders[id_row]
            bounds = [(score_lo, score_hi)] if scored else [(train_lo, min(train_hi, score_lo)), (max(train_lo, score_hi), train_hi)]
            parts = [order[_place(values, low) : _place(values, high)] for low, high in bounds if low < high]
            rows = np.concatenate(parts) if parts else np.zeros(0, np.int64)
            rows.sort()
            yield rows
            continue
        used = np.ones(ids.shape[1], np.bool_)
        for k, (id_row, score_lo, score_hi, train_lo, train_hi) in enumerate(split):
            own = ids[id_row]
            in_score = (score_lo <= own) & (own < score_hi)
            trains = (train_lo <= own) & (own < train_hi) & ~in_score
            used &= in_score if scored and k == n_conditions - 1 else trains
        yield np.flatnonzero(used)


class _Data:
    """What the kernels read and write, and the walks over it.

    Attributes
    ----------
    S, D, N, Z : device arrays
        Weights and what the solver keeps; numbers of models; integers of models; where they diverged (`update`).
    names : list of str
        The arrays in S.
    size : int
        Values of one of them.
    changed, walked : bool
        Whether the device holds newer models, and newer marks of divergence, than the trainer.
    windows : _stream.Windows or None
        How X streams, None where it lies on the device.
    """

    def __init__(self, trainer: Trainer, X: Any) -> None:
        # Weakly: in a cycle, X would stay on the device until somebody collects garbage.
        self._trainer, self.X_given = weakref.ref(trainer), X
        self.windows: _stream.Windows | None = None
        self.feed: _stream.Feed | None = None
        self.n_threads = 1
        self.limit: int | None = None
        self.n_panels = trainer._path.n_panels
        self.changed = self.walked = False
        self.stream = trainer._stream
        self.loaded = False
        self.shape = trainer._path.shape
        self.S: Any = None
        self.D: Any = None
        self.N: Any = None
        self.Z: Any = None

    @property
    def trainer(self) -> Trainer:
        found = self._trainer()
        assert found is not None
        return found

    # -- rows ---------------------------------------------------------------------------------------------------------

    def plan(self, n_threads: int, limit: int | None) -> _stream.Windows | None:
        """How X is to stream, None where it fits."""
        self.n_threads, self.limit = n_threads, limit
        if arrays.on_gpu(self.X_given):
            return None
        t = self.trainer
        n_words, size = -(-len(t._splits) // 32), t._dtype.itemsize
        window_row = self._row_bytes(self.X_given) + 4 * (len(t._ids) + n_words)
        row = self._row_bytes(self.X_given) + 4 * n_words * (1 + (t._validation is None)) + 8  # of score lists
        row += size * (t._held_out_weight is not None and t._held_out_weight is not t._weight)
        validation = 0 if t._validation is None else len(t._validation[1]) * (self._row_bytes(t._validation[0]) + 4)
        # Half a slice: up to four windows are queued when a signal comes.
        most = max(1, self._slice() // 2)
        rest = validation + self._model_bytes(self.n_panels)
        if limit is None and not _stream.check(rest):  # no window would help
            raise _driver.too_much(rest, self._fewer(self.n_panels), arrays.free_memory())
        return _stream.plan(t._n, t._batch, window_row, t._n * row, rest, most, limit)

    def _row_bytes(self, X: Any) -> int:
        """Of a row of X on the device, with y and a weight."""
        size, p, vector = int(self.trainer._dtype.itemsize), int(X.shape[1]), self.shape.vector
        return size * (2 + (0 if arrays.on_gpu(X) else -(-p // vector) * vector))

    def load(self) -> None:
        """X, y, weights and roles on the device, once; where X streams, memory for its windows."""
        if self.loaded:
            return
        t = self.trainer
        n_words = -(-len(t._splits) // 32)
        wanted = 0 if t._validation is None else len(t._validation[1]) * (self._row_bytes(t._validation[0]) + 4)
        if self.windows is None:
            wanted += t._n * (self._row_bytes(self.X_given) + 4 * n_words * (1 + (t._validation is None)))
            hint = "train on fewer rows" + ("" if t._dtype.itemsize == 4 else ", or in float32")
        else:
            wanted += 2 * self.windows.capacity * (self._row_bytes(self.X_given) + 4 * (len(t._ids) + n_words))
            hint = "X streams already; free memory, take a smaller batch_size or fewer rows of validation data"
        with _stream.guard(wanted, lambda: hint):
            self._load()
        self.loaded = True

    def emptied(self) -> _Data:
        """The same before anything was loaded; this one lets go of all memory."""
        out = _Data(self.trainer, self.X_given)
        out.windows, out.n_threads, out.limit = self.windows, self.n_threads, self.limit
        vars(self).clear()
        return out

    def _load(self) -> None:
        t, stream, dtype = self.trainer, self.stream, self.trainer._dtype
        held_out = t._held_out_weight
        self.none = _driver.empty(1, dtype, stream)
        self.no_rows = _driver.empty(1, np.int64, stream)
        if self.windows is None:
            self.X, self.stride, self.aligned = self._matrix(self.X_given)
            self.y = _driver.to_device(t._y, stream)
            self.weight = None if t._weight is None else _driver.to_device(t._weight, stream)
            self.roles, self.n_words = _roles.words(
                t._ids, t._conditions, self.weight, dtype, scores=False, stream=stream
            )
            self.score_weight = self.weight
            if held_out is not t._weight:
                self.score_weight = None if held_out is None else _driver.to_device(held_out, stream)
        else:  # of all these a window has its own
            vector = self.shape.vector
            self.X = self.y = self.none
            self.stride, self.aligned = -(-t._p // vector) * vector, True
            self.weight, self.score_weight = (None if w is None else self.none for w in (t._weight, held_out))
            self.roles, _ = _roles.everybody(stream)
            self.feed = _stream.Feed(
                self.X_given, t._y, t._ids, t._conditions, t._weight, held_out, capacity=self.windows.capacity,
                stride=self.stride, n_threads=self.n_threads, stream=stream,
            )  # fmt: skip
            self.n_words = self.feed.n_words
        if t._validation is None:
            self.score_roles, self.score_words = self.roles, self.n_words
            if self.windows is None:
                self.score_roles, _ = _roles.words(
                    t._ids, t._conditions, self.score_weight, dtype, scores=True, stream=stream
                )
            self.score_X, self.score_stride, self.score_aligned, self.score_y = self.X, self.stride, self.aligned, self.y
        else:
            X, y, weight = t._validation
            self.score_X, self.score_stride, self.score_aligned = self._matrix(X)
            self.score_y = _driver.to_device(y, stream)
            self.score_weight = None if weight is None else _driver.to_device(weight, stream)
            self.score_roles, self.score_words = _roles.everybody(stream)
            if weight is not None:
                # Rows of weight 0 are nobody's; the others are everybody's, whatever split a model is of.
                ids, whole = _splits.of_all_rows(len(y))
                self.score_roles, self.score_words = _roles.words(
                    ids, np.repeat(whole, len(t._splits), axis=0), self.score_weight, dtype, scores=False, stream=stream
                )
        moments = np.zeros(1)
        if t._standardize:
            first = np.zeros(len(t._splits), np.int64)
            first[t._slot[::-1]] = np.arange(t._n_models)[::-1]
            mean, scale = t._moments["mean"][first], t._moments["scale"][first]
            moments = np.stack([mean, scale, mean / np.abs(scale)])
        self.M = _driver.to_device(moments, stream)

    def _matrix(self, X: Any) -> tuple[Any, int, bool]:
        """(X on the device, values from row to row, whether rows begin at multiples of 16 bytes)."""
        p = X.shape[1]
        if isinstance(X, arrays.DeviceArray):
            X.synchronize()  # whatever its owner has queued
            return X.flat, p, p % self.shape.vector == 0 and _driver.address(X.flat) % 16 == 0
        if not isinstance(X, arrays.PaddedRows):
            X = arrays.PaddedRows(X, self.stream, "train on fewer rows, or in float32")
        return X.flat, X.stride, True

    # -- models -------------------------------------------------------------------------------------------------------

    def allocate(self, n_panels: int, lanes: Array, slot: Array) -> None:
        """Memory for so many panels. What there was before goes first: its models have been fetched."""
        for name in (
            "S", "D", "N", "Z", "result", "inputs", "R", "L", "G", "window", "totals", "groups", "score_inputs",
            "score_window", "score_totals",
        ):  # fmt: skip
            setattr(self, name, None)
        with _stream.guard(self._model_bytes(n_panels), lambda: self._fewer(n_panels)):
            self._allocate(n_panels, lanes, slot)

    def _names(self) -> list[str]:
        return [name for name in _OF_FEATURES if name in self.trainer._host]

    def _model_bytes(self, n_panels: int) -> int:
        """Of the models and what is computed from them, about."""
        t, shape, size = self.trainer, self.shape, self.trainer._dtype.itemsize
        n_lanes, n_arrays = n_panels * shape.models, 2 * len(self._names()) - t._standardize
        out: int = n_lanes * ((t._p + 1) * (size * n_arrays + 8) + 8 * (len(update.FIELDS) + 8))
        if t._path.persistent:
            out += n_lanes * size * min(t._batch, ROW_CHUNK) * (1 + t._track)
        else:
            chunks = -(-t._batch // ROW_CHUNK)
            out += _window_bytes(n_panels * chunks, shape.models * size * (ROW_CHUNK * (1 + t._track) + t._p + 1))
        chunks = -(-t._n // ROW_CHUNK)
        return out + _window_bytes(n_panels * chunks, shape.models * size * ROW_CHUNK * 2)

    def _fewer(self, n_panels: int) -> str:
        """What would fit where that many panels do not."""
        free, models = arrays.free_memory() * (1 - _stream.SPARE), self.shape.models
        most = self.trainer._n_models
        panels = next((n for n in range(n_panels - 1, 0, -1) if self._model_bytes(n) <= free), 0)
        fits = f" (about {panels * models} models of {most} fit)" if panels else ""
        parts = [f"fewer candidates at a time{fits}"]
        parts += ["float32"] if self.trainer._dtype.itemsize == 8 else []
        return f"wanted {', '.join([*parts, 'or a smaller batch_size'])}"

    def _allocate(self, n_panels: int, lanes: Array, slot: Array) -> None:
        t, stream, dtype, shape = self.trainer, self.stream, self.trainer._dtype, self.shape
        p, n_lanes, models = t._p, n_panels * shape.models, shape.models
        self.n_panels = n_panels
        self.names = self._names()
        kept = [name for name in self.names if name != "seen_W"]
        self.size = n_lanes * (p + 1)
        self.S = arrays.empty(self.size * (len(self.names) + len(kept)), dtype, stream, "train fewer candidates at a time").flat
        self.D = _driver.empty(len(update.FIELDS) * n_lanes, np.float64, stream)
        self.N = _driver.empty(3 * n_lanes, np.int32, stream)
        self.Z = _driver.empty(2 * n_lanes, np.int64, stream)
        self.result = self.S[self.names.index("seen_W") * self.size :] if t._standardize else self.S
        epsilon = np.full(n_lanes, 0.1, dtype)
        epsilon[lanes >= 0] = t._epsilon[lanes[lanes >= 0]]
        self.epsilon = _driver.to_device(epsilon, stream)
        order = NATURAL if t._natural or self.windows is not None else TABLE if t._n <= ROW_CHUNK else MIXED
        P = np.zeros(N_TRAINING, np.int64)
        P[T_FEATURES], P[T_STRIDE], P[T_ROWS], P[T_BATCH], P[T_LANES] = p, self.stride, t._n, t._batch, n_lanes
        P[update.T_SOLVER], P[update.T_FIT_INTERCEPT] = update.SOLVERS.index(t._solver), t._fit_intercept
        P[T_STANDARDIZE] = len(t._splits) if t._standardize else 0
        clips_norm = bool(np.isfinite(t._settings["clip_norm"]).any())
        P[update.T_ANY_CLIP_NORM] = clips_norm
        P[update.T_ANY_CLIP] = clips_norm or bool(np.isfinite(t._settings["clip_value"]).any())
        P[update.T_ANY_WARMUP] = bool((t._settings["warmup"] > 0).any())
        P[T_HAS_WEIGHT], P[T_WORDS], P[T_LOSS], P[T_TRACK] = self.weight is not None, self.n_words, _loss.CODES[t._loss], t._track
        P[T_ORDER], P[T_SEED], P[T_FIRST_EPOCH] = order, np.uint64(t._seed).astype(np.int64), t._first_epoch
        P[update.T_HORIZON], P[update.T_STEPS] = t._epochs * t._steps, t._steps
        for place, name in ((update.T_FIRST, "first"), (update.T_SECOND, "second")):
            P[place] = self.names.index(name) * self.size if name in self.names else 0
        P[T_SEEN] = self.names.index("seen_W") * self.size if t._standardize else 0
        P[update.T_OLD], P[T_PANEL] = len(self.names) * self.size, models * (p + 1)
        self.P = _driver.to_device(P, stream)
        self.order = order
        _, self.mask, self.s, _ = index.shape(t._n)
        self.table = _driver.empty(ROW_CHUNK if order == TABLE else 1, np.int64, stream)
        self.table_epoch = -1
        rows = min(t._batch, ROW_CHUNK)
        self.parameters = self._parameters(False)
        if t._path.persistent:
            self.R = arrays.empty(n_lanes * rows, dtype, stream, "train fewer candidates at a time").flat
            self.L = _driver.empty(n_lanes * rows if t._track else 1, dtype, stream)
            self.G = _driver.empty(n_lanes * (p + 1), np.float64, stream)
        else:
            n_chunks = -(-t._batch // ROW_CHUNK)
            self.window = Window.of(shape, p, n_panels, n_chunks, gradient=True, losses=t._track, stream=stream)
            self.totals = Totals.of(shape, p, n_panels, gradient=True, stream=stream)
        self.slice = self._slice()
        self.rows = self.no_rows
        if not t._path.persistent and order != NATURAL:
            self.rows = _driver.empty(min(t._n, self.slice * t._batch), np.int64, stream)
        self.inputs = Inputs(
            shape, self.aligned, p, self.X, self.y, self.none if self.weight is None else self.weight, self.roles, self.N,
            self.epsilon, self.S[P[T_SEEN] :], self.rows, self.no_rows,
        )  # fmt: skip
        self._score_groups(lanes, slot)

    def _parameters(self, scores: bool) -> Any:
        """The fixed parameters of `gradient`'s kernels."""
        t = self.trainer
        P = np.zeros(12, np.int64)
        weight = self.score_weight if scores else self.weight
        P[gradient.P_FEATURES], P[gradient.P_STRIDE] = t._p, self.score_stride if scores else self.stride
        P[gradient.P_PANEL_STEP], P[gradient.P_MODELS] = (t._p + 1) * self.shape.models, self.n_panels * self.shape.models
        P[gradient.P_HAS_WEIGHT], P[gradient.P_WORDS] = weight is not None, self.score_words if scores else self.n_words
        P[gradient.P_LOSS], P[gradient.P_GRADIENT] = _loss.CODES[t._loss], not scores
        P[gradient.P_LOSSES] = scores or t._track
        P[gradient.P_SLOT_ROWS] = self.score_rows if scores else ROW_CHUNK
        listed = scores and t._validation is None
        P[gradient.P_HAS_ROWS], P[gradient.P_HAS_CHUNKS] = listed or (not scores and self.order != NATURAL), listed
        return _driver.to_device(P, self.stream)

    def _slice(self) -> int:
        """Batches to queue between two looks at a signal."""
        t, shape = self.trainer, self.shape
        work = float(t._batch) * t._p * self.n_panels * shape.models * 2
        seconds = work / (CLOCK * FMAS[t._dtype.name] * min(t._sms, max(1, self.n_panels)) * 0.25) + BATCH_SECONDS
        if not t._path.persistent:
            seconds = max(seconds / max(1, t._sms / self.n_panels), LAUNCHES * LAUNCH_SECONDS)
        return max(1, int(SLICE_SECONDS / seconds))

    # -- walks --------------------------------------------------------------------------------------------------------

    def walk(self, epoch: int, b0: int, b1: int, deadline: float | None) -> int:
        """Batches [b0, b1) of an epoch, or fewer when cancelled or late; returns where it stopped. Two slices are queued at a time."""
        if self.windows is not None:
            return self._walk_windows(epoch, b0, b1, deadline)
        queue: list[Any] = []
        b = b0
        while b < b1 and not self.trainer._cancelled and (deadline is None or b == b0 or time.monotonic() < deadline):
            end = min(b1, b + self.slice)
            self._launch(epoch, b, end)
            self.changed = self.walked = True
            b = end
            queue.append(_stream.mark(self.stream))
            if len(queue) > 1:
                _stream.wait_for(queue.pop(0))
        for mark in queue:
            _stream.wait_for(mark)
        return b

    def _walk_windows(self, epoch: int, b0: int, b1: int, deadline: float | None) -> int:
        """`walk` where X streams, a window at a time."""
        assert self.feed is not None and self.windows is not None
        t, b, most = self.trainer, b0, self.windows.batches

        def spans() -> Iterator[tuple[int, int]]:
            nonlocal b
            while b < b1 and not t._cancelled and (deadline is None or b == b0 or time.monotonic() < deadline):
                end = min(b1, b + most)
                yield b * t._batch, min(t._n, end * t._batch)
                b = end

        order = None if t._natural else Permutation(t._n, t._seed, epoch=t._first_epoch + epoch)
        with closing(self.feed.windows(spans(), order, scores=False)) as windows:
            for first, last, slot in windows:
                self._launch(epoch, first // t._batch, -(-last // t._batch), slot)
                self.changed = self.walked = True
        return b

    def _launch(self, epoch: int, b0: int, b1: int, slot: _stream.Slot | None = None) -> None:
        """Queues batches [b0, b1); where X streams they are all of the window in `slot`."""
        t = self.trainer
        a = self.inputs if slot is None else slot.inputs(self.inputs)
        first = b0 * t._batch
        k = kernels(self.shape.of_rows(self.aligned))
        permutation = None if self.order == NATURAL else Permutation(t._n, t._seed, epoch=t._first_epoch + epoch)
        if t._path.persistent:
            if permutation is not None and self.order == TABLE and self.table_epoch != epoch:
                index.fill(permutation, out=self.table[: t._n], stream=self.stream)
                self.table_epoch = epoch
            k.epoch(
                self.n_panels, self.stream, self.P, epoch, b0, b1, 0 if slot is None else first, a.X, a.y, a.weight, a.roles,
                self.table, self.mask, self.s, self.S, self.D, self.N,
                self.Z, self.M, self.epsilon, self.R, self.L, self.G,
            )  # fmt: skip
            return
        count = min(t._n, b1 * t._batch) - first
        if permutation is not None:
            index.fill(permutation, first, count, out=self.rows[:count], stream=self.stream)
        origin = 0 if permutation is None and slot is None else first
        for b in range(b0, b1):
            begin, end = b * t._batch, min(t._n, (b + 1) * t._batch)
            gradient.accumulate(
                self.parameters, a, self.window, self.totals, panels=(0, self.n_panels),
                positions=(begin - origin, end - origin), n_chunks=-(-(end - begin) // ROW_CHUNK), gradient=True,
                losses=t._track, stream=self.stream,
            )  # fmt: skip
            k.step(
                self.n_panels, self.stream, self.P, epoch, b, self.S, self.D, self.N, self.Z, self.M, self.totals.grad,
                self.totals.used, self.totals.losses, self.totals.weights,
            )  # fmt: skip

    # -- scores -------------------------------------------------------------------------------------------------------

    def _score_groups(self, lanes: Array, slot: Array) -> None:
        """Panels of the same splits, with the rows that these score: nothing else is forwarded."""
        t, shape, stream = self.trainer, self.shape, self.stream
        self.groups: list[tuple[tuple[int, int], Inputs, tuple[int, int] | None, int]] = []
        self.listed: list[_stream.Listed] = []  # in place of groups where X streams
        self.score_inputs: Inputs | None = None
        weight = self.none if self.score_weight is None else self.score_weight

        def inputs(rows: Any, chunks: Any) -> Inputs:
            return Inputs(
                shape, self.score_aligned, t._p, self.score_X, self.score_y, weight, self.score_roles, self.N, self.epsilon,
                self.result, rows, chunks,
            )  # fmt: skip

        most = widest = 1
        self.score_rows = 1  # of a chunk
        if t._validation is not None:
            n = len(t._validation[1])
            most, widest, self.score_rows = -(-n // ROW_CHUNK), self.n_panels, min(n, ROW_CHUNK)
            self.groups.append(((0, self.n_panels), inputs(self.no_rows, self.no_rows), (0, n), most))
        else:
            scored = dict(enumerate(_rows_of(t._ids, t._conditions, scored=True)))
            of_panel = [
                tuple(np.unique(slot[panel[panel >= 0]]).tolist()) for panel in lanes.reshape(-1, shape.models)
            ]
            first = 0
            for panel in range(1, self.n_panels + 1):
                if panel < self.n_panels and of_panel[panel] == of_panel[first]:
                    continue
                splits = of_panel[first]
                rows = np.concatenate([scored[s] for s in splits]) if splits else np.zeros(0, np.int64)
                rows = np.unique(rows) if len(splits) > 1 else rows
                if len(rows):
                    own = _stream.Listed((first, panel), rows)
                    self.listed.append(own)
                    most, widest = max(most, len(own.chunks)), max(widest, panel - first)
                    self.score_rows = max(self.score_rows, own.most)
                first = panel
            if self.windows is None:
                for own in self.listed:
                    lists = inputs(_driver.to_device(own.rows, stream), _driver.to_device(own.bounds, stream))
                    self.groups.append((own.panels, lists, None, len(own.chunks)))
                self.listed = []
            else:
                self.score_inputs = inputs(self.no_rows, self.no_rows)
        self.score_parameters = self._parameters(True)
        self.score_window = Window.of(
            shape, t._p, widest, most, gradient=False, losses=True, stream=stream, rows=self.score_rows
        )
        self.score_totals = Totals.of(shape, t._p, self.n_panels, gradient=False, stream=stream)

    def score(self) -> Array:
        """The held-out loss of every model now; NaN for those that no longer train."""
        t, stream = self.trainer, self.stream
        totals = self.score_totals
        for array in (totals.losses, totals.weights, totals.used):
            gradient.zero("float64")(blocks_of(array.size, 256), stream, array, array.size)
        for panels, inputs, positions, n_chunks in self.groups:
            gradient.accumulate(
                self.score_parameters, inputs, self.score_window, totals, panels=panels, positions=positions, n_chunks=n_chunks,
                gradient=False, losses=True, stream=stream,
            )  # fmt: skip
        if self.listed:
            self._score_windows()
        _stream.wait_for(_stream.mark(stream))
        losses, weights = (_driver.to_host(array, None, stream) for array in (totals.losses, totals.weights))
        assert t._lanes is not None
        lanes = np.flatnonzero(t._lanes >= 0)
        models = t._lanes[lanes]
        out = np.full(t._n_models, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(weights > 0, losses / weights, np.nan)
        out[models] = mean[lanes]
        out[~t.alive() | np.isnan(out)] = np.nan
        return out

    def _score_windows(self) -> None:
        """Goes on with the totals of losses and weights from window to window."""
        assert self.feed is not None and self.windows is not None and self.score_inputs is not None
        n, step = self.trainer._n, self.windows.score_rows
        here: tuple[Array, list[_stream.Part]] = np.zeros(0, np.int64), []

        def spans() -> Iterator[tuple[int, int]]:
            nonlocal here
            for first in range(0, n, step):
                here = _stream.lists(self.listed, first, min(n, first + step))
                if here[1]:  # nobody scores a row of the others
                    yield first, min(n, first + step)

        windows = self.feed.windows(spans(), None, scores=True, lists=lambda first, last: here[0])
        with closing(windows):
            for _, _, slot in windows:
                for part in here[1]:
                    rows, chunks = slot.lists[part.rows : part.chunks], slot.lists[part.chunks : part.end]
                    gradient.accumulate(
                        self.score_parameters, slot.inputs(self.score_inputs, rows=rows, chunks=chunks), self.score_window,
                        self.score_totals, panels=part.panels, positions=None, n_chunks=part.n_chunks, gradient=False,
                        losses=True, stream=self.stream, first=False,
                    )  # fmt: skip


def _window_bytes(slots: int, each: int) -> int:
    """Of a `Window` for so many chunks of panels."""
    return each * max(1, min(slots, gradient.window_bytes() // each))
