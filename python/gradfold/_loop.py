"""The training of a plan: all epochs in one go, or epoch by epoch where somebody watches.

A run with one part, no stopping, no callback and no progress is one call of its trainer. Otherwise the parts go on by an
epoch each in turn, and after each epoch, in this order: losses are read, early stopping and halving decide, callbacks are
called, progress is shown.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold._callbacks import Callback, Epoch
from gradfold._interrupt import Interrupt
from gradfold._plan import Part, Plan, Settings
from gradfold._progress import Progress
from gradfold._stopping import LOWEST_RATE, REASONS, EarlyStopping, Tracker, survivors

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

# An epoch that takes longer is walked in slices of about half of it, so that progress moves.
_LONG_EPOCH = 1.0


@dataclass
class Watch:
    """What looks at a training epoch by epoch.

    Attributes
    ----------
    adaptive : ndarray of bool, shape (n_models,)
        Models whose learning rate falls on a plateau, by `factor`, from `rates`.
    rungs : dict
        Epoch after which candidates leave: how many go on.
    order : callable, optional
        What halving ranks by: (n_candidates, n_splits), lower is better. Default: held-out losses.
    """

    stopping: EarlyStopping | None
    adaptive: Mask
    factors: Array
    rates: Array
    rungs: dict[int, int]
    order: Callable[[], Array] | None
    callbacks: list[Callback]
    progress: bool | None
    track_train_loss: bool
    started: float

    @property
    def idle(self) -> bool:
        """Whether nobody looks."""
        watchers = self.stopping, self.rungs, self.callbacks, self.progress, self.track_train_loss
        return not any(watchers) and not self.adaptive.any()


@dataclass
class Trained:
    """What a training has come to. Arrays over models are in the plan's order.

    Attributes
    ----------
    status : str
        "done", "interrupted", "max_seconds" or "callback".
    epochs : int
        Epochs that all models completed which were still training.
    history, train_history : ndarray of shape (epochs, n_models)
        Held-out and training losses; NaN after a model has left. The second is None where it is not tracked.
    held_out : ndarray of shape (n_models,)
        Of the weights that are kept; NaN for diverged models.
    best_epoch, epochs_trained : ndarray of int64, shape (n_models,)
        The second is epochs trained; the first too, or under early stopping the epoch of the lowest monitored loss, whose weights
        are kept under `restore_best`.
    reason : ndarray of uint8, shape (n_models,)
        Places in `REASONS`.
    survived : ndarray of bool, shape (n_candidates,)
    """

    status: str
    epochs: int
    history: Array
    train_history: Array | None
    held_out: Array
    best_epoch: Array
    epochs_trained: Array
    reason: Array
    survived: Mask


def train(
    plan: Plan,
    settings: Settings,
    watch: Watch,
    interrupt: Interrupt,
    shape: tuple[int, int],
    epochs: int | None = None,
) -> Trained:
    """Train a plan's models for `epochs` of `settings.epochs` epochs.

    Parameters
    ----------
    shape : tuple
        (n_candidates, n_splits): models in the plan's order have this shape.
    """
    limit = settings.epochs if epochs is None else epochs
    if len(plan.parts) == 1 and watch.idle:
        return _at_once(plan, settings, interrupt, shape, limit)
    return _Loop(plan, settings, watch, interrupt, shape, limit).run()


def _at_once(plan: Plan, settings: Settings, interrupt: Interrupt, shape: tuple[int, int], limit: int) -> Trained:
    part = plan.parts[0]
    plan.enter(part)
    steps = -1 if limit >= settings.epochs else limit * part.steps_per_epoch
    status = _status(interrupt.advance(part.trainer, settings.deadline, steps), part.trainer, limit)
    history = np.asarray(part.trainer.history())
    diverged = _diverged(part.trainer)
    done = len(history)
    trained = np.where(diverged, part.trainer.diverged_epoch, done)
    held_out = history[-1].copy() if done else np.full(plan.n_models, np.nan)
    held_out[diverged] = np.nan
    reason = np.full(plan.n_models, REASONS.index(status), np.uint8)
    reason[diverged] = REASONS.index("diverged")
    return Trained(status, done, history, None, held_out, trained.copy(), trained, reason, np.ones(shape[0], np.bool_))


class _Loop:
    """The state of a training that goes epoch by epoch."""

    def __init__(
        self, plan: Plan, settings: Settings, watch: Watch, interrupt: Interrupt, shape: tuple[int, int], limit: int
    ) -> None:
        n = plan.n_models
        self.plan, self.settings, self.watch, self.interrupt = plan, settings, watch, interrupt
        self.shape, self.limit = shape, limit
        self.alive = np.ones(n, np.bool_)
        self.reason = np.zeros(n, np.uint8)
        self.epochs_trained = np.zeros(n, np.int64)
        self.held_out = np.full(n, np.nan)  # after the last epoch that the model trained
        self.kept = np.full(n, np.nan)  # after its best epoch
        self.survived = np.ones(shape[0], np.bool_)
        self.epoch = 0
        self.history: list[Array] = []
        self.train_history: list[Array] = []
        stopping = watch.stopping
        self.restores = stopping is not None and stopping.restore_best
        self.tracker: Tracker | None = None
        if stopping is not None or watch.adaptive.any():
            usual = EarlyStopping(monitor="train") if stopping is None else stopping
            self.tracker = Tracker(n, usual.patience, usual.tolerance)
            self.monitor = usual.monitor
        self.rate = watch.rates.copy()

    def run(self) -> Trained:
        n_rows = len(self.plan.problem.data)
        progress = Progress(
            self.watch.progress, n_models=self.plan.n_models, epochs=self.limit,
            rows_per_epoch=n_rows * len(self.plan.parts),
        )  # fmt: skip
        with progress:
            status = self._epochs(progress)
        self._mark(self.alive & self.plan.gather(_diverged), "diverged")
        if self.restores and self.tracker is not None:
            self._restore(self.alive & (self.tracker.best_epoch > 0))
        left = self.alive
        self.reason[left] = REASONS.index(status)
        return self._result(status)

    def _epochs(self, progress: Progress) -> str:
        seconds = 0.0
        for epoch in range(1, self.limit + 1):
            began = time.monotonic()
            for number, part in enumerate(self.plan.parts):
                if not self.alive[part.models].any():
                    continue
                status = self._advance(part, number, epoch, progress, seconds)
                if status != "done":
                    return status
            seconds = time.monotonic() - began
            if self._end_of(epoch, progress):
                return "callback"
            if not self.alive.any():
                return "done"
        return "done"

    def _advance(self, part: Part, number: int, epoch: int, progress: Progress, last: float) -> str:
        """One epoch of one part: "done", "interrupted" or "max_seconds"."""
        self.plan.enter(part)
        steps = part.steps_per_epoch
        slices = 1
        if self.watch.progress and last > _LONG_EPOCH:
            slices = min(steps, math.ceil(last / (_LONG_EPOCH / 2) / len(self.plan.parts)))
        # A trainer that starts from a saved state counts its own epochs.
        for k in range(slices):
            size = steps * (k + 1) // slices - steps * k // slices
            raw = self.interrupt.advance(part.trainer, self.settings.deadline, size)
            status = _status(raw, part.trainer, epoch if k == slices - 1 else 0)
            if status != "done":
                return status
            if k < slices - 1:
                if self._late():
                    return "max_seconds"
                n_rows = len(self.plan.problem.data)
                visited = ((epoch - 1) * len(self.plan.parts) + number + (k + 1) / slices) * n_rows
                progress.update(epoch=epoch - 1, alive=int(self.alive.sum()), best=self._best(), rows=visited)
        return "done"

    def _late(self) -> bool:
        return self.settings.deadline is not None and time.monotonic() >= self.settings.deadline

    def _end_of(self, epoch: int, progress: Progress) -> bool:
        """Losses, policies, callbacks, progress; whether a callback ends the run."""
        self.epoch = epoch
        row = self._row(_last_held_out)
        self.history.append(row)
        self._mark(self.alive & self.plan.gather(_diverged), "diverged")
        self.epochs_trained[self.alive] = epoch
        self.held_out[self.alive] = row[self.alive]
        train_loss = None
        if self.watch.track_train_loss:
            train_loss = self._row(lambda trainer: np.asarray(trainer.train_loss(reset=True)))
            self.train_history.append(train_loss)
        if self.tracker is not None:
            monitored = row if self.monitor == "held_out" else train_loss
            assert monitored is not None
            self._track(epoch, monitored, row)
        if epoch in self.watch.rungs:
            self._rung(epoch)
        stopped = False
        if self.watch.callbacks:
            stopped = self._call(epoch)
        progress.update(epoch=epoch, alive=int(self.alive.sum()), best=self._best())
        return stopped

    def _track(self, epoch: int, monitored: Array, row: Array) -> None:
        assert self.tracker is not None
        improved, exhausted = self.tracker.update(epoch, monitored, self.alive)
        self.kept[improved] = row[improved]
        if self.restores and improved.any():
            self._each(improved, lambda trainer, mask: trainer.snapshot(mask))
        # scikit-learn's order: a rate that can still fall does so instead of the model stopping.
        falls = exhausted & self.watch.adaptive & (self.rate > LOWEST_RATE)
        if falls.any():
            factor = np.where(falls, self.watch.factors, 1.0)
            self.rate *= factor
            for part in self.plan.parts:
                if falls[part.models].any():
                    part.trainer.scale_learning_rate(np.ascontiguousarray(factor[part.models]))
            self.tracker.reset(falls)
        if self.watch.stopping is not None:
            self._stop(exhausted & ~falls, "early_stopping")

    def _rung(self, epoch: int) -> None:
        values = self._values() if self.watch.order is None else self.watch.order()
        with np.errstate(invalid="ignore"):
            order = values.reshape(self.shape).mean(axis=1)
        self.survived = survivors(order, self.survived, self.watch.rungs[epoch])
        self._stop(np.repeat(~self.survived, self.shape[1]), "halving")

    def _call(self, epoch: int) -> bool:
        held_out, alive = self.held_out.reshape(self.shape).copy(), self.alive.reshape(self.shape).copy()
        held_out.flags.writeable = alive.flags.writeable = False
        elapsed = time.monotonic() - self.watch.started
        state = Epoch(epoch, self.limit, held_out, alive, elapsed)
        for callback in self.watch.callbacks:
            callback(state)
        self._stop(state.stopped.reshape(-1), "callback")
        return state.run_stopped

    def _stop(self, mask: Mask, reason: str) -> None:
        """These models leave, with the weights that are kept."""
        mask = mask & self.alive
        if not mask.any():
            return
        if self.restores and self.tracker is not None:
            self._restore(mask & (self.tracker.best_epoch > 0))
        self._each(mask, lambda trainer, own: trainer.finish(own))
        self._mark(mask, reason)

    def _mark(self, mask: Mask, reason: str) -> None:
        if reason == "diverged":
            self.held_out[mask] = np.nan
            if mask.any():
                at = self.plan.gather(lambda trainer: np.asarray(trainer.diverged_epoch))
                self.epochs_trained[mask] = at[mask]
        self.reason[mask] = REASONS.index(reason)
        self.alive &= ~mask

    def _restore(self, mask: Mask) -> None:
        if mask.any():
            self._each(mask, lambda trainer, own: trainer.restore(own))

    def _each(self, mask: Mask, call: Callable[[Any, Mask], None]) -> None:
        """Call for each trainer that has some of these models, with its own part of the mask."""
        for part in self.plan.parts:
            own = np.ascontiguousarray(mask[part.models])
            if own.any():
                call(part.trainer, own)

    def _row(self, read: Callable[[Any], Array]) -> Array:
        """One number of each model that still trains, NaN of the others."""
        out = np.full(self.plan.n_models, np.nan)
        for part in self.plan.parts:
            if self.alive[part.models].any():
                out[part.models] = read(part.trainer)
        out[~self.alive] = np.nan
        return out

    def _values(self) -> Array:
        """The held-out loss of the weights that each model keeps, or would keep."""
        if not self.restores or self.tracker is None:
            return self.held_out
        diverged = self.reason == REASONS.index("diverged")
        return np.where((self.tracker.best_epoch > 0) & ~diverged, self.kept, self.held_out)

    def _best(self) -> float | None:
        with np.errstate(invalid="ignore"):
            mean = self._values().reshape(self.shape).mean(axis=1)[self.survived]
        return None if np.isnan(mean).all() else float(np.nanmin(mean))

    def _result(self, status: str) -> Trained:
        best_epoch = self.epochs_trained.copy()
        if self.watch.stopping is not None and self.tracker is not None:
            diverged = self.reason == REASONS.index("diverged")
            known = (self.tracker.best_epoch > 0) & ~diverged
            best_epoch[known] = self.tracker.best_epoch[known]
        n = self.plan.n_models
        return Trained(
            status,
            self.epoch,
            np.array(self.history).reshape(len(self.history), n),
            np.array(self.train_history).reshape(len(self.train_history), n) if self.watch.track_train_loss else None,
            self._values().copy(),
            best_epoch,
            self.epochs_trained,
            self.reason,
            self.survived,
        )


def _status(raw: str, trainer: Any, epoch: int) -> str:
    """What `Interrupt.advance` came to: "done" if `epoch` epochs are, else "interrupted" or "max_seconds"."""
    if raw == "interrupted":
        return "interrupted"
    return "done" if raw == "done" or trainer.epochs_done >= epoch else "max_seconds"


def _diverged(trainer: Any) -> Mask:
    return np.asarray(trainer.diverged_epoch) >= 0


def _last_held_out(trainer: Any) -> Array:
    return np.asarray(trainer.history(trainer.epochs_done - 1)[0])

