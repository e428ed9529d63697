"""Ctrl-C during `fit`: end with what there is, instead of an exception that throws it away."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any


class Interrupted(BaseException):
    """Ends a set-up phase of `fit`. Not an Exception, so that nobody's `except Exception` swallows it."""


class Interrupt:
    """A SIGINT handler for the duration of `fit`.

    It is installed only in the main thread and only over Python's own handler: whoever installed another one gets
    his own, and what it raises leaves `fit` after the workers have stopped.

    While `raising` is True the handler raises `Interrupted` (set-up: there is nothing to lose); while a trainer
    advances it cancels that trainer, which then keeps each model's last whole batch; at any other time it only
    notes that it was pressed. A second Ctrl-C more than a second after the first raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.pressed = False
        self.raising = False
        self._pressed_at = 0.0
        self._trainer: Any = None
        self._installed = False

    def __enter__(self) -> Interrupt:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._installed = True
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raising = False
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def advance(self, trainer: Any, deadline: float | None, max_steps: int = -1) -> str:
        """Train until the end, `max_steps` batches, a Ctrl-C or the deadline (of `time.monotonic`).

        Returns "done", "interrupted" or, after `max_steps` or at the deadline, "paused".
        """
        self._trainer = trainer
        try:
            if self.pressed:
                return "interrupted"
            seconds = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
            return str(trainer.advance(max_steps=max_steps, seconds=seconds))
        finally:
            self._trainer = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.pressed and now - self._pressed_at > 1.0:
            raise KeyboardInterrupt
        if not self.pressed:
            self.pressed, self._pressed_at = True, now
        trainer = self._trainer
        if trainer is not None:
            trainer.cancel()
        elif self.raising:
            self.raising = False
            raise Interrupted
