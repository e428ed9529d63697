"""Progress of a `fit`: one bar on a terminal, `key=value` lines elsewhere, on standard error."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any

from gradfold import _check

# Updates over which the pace is measured: models leave as they finish, so the pace of long ago says little.
_WINDOW = 10
_SECONDS_BETWEEN_LINES = 1.0
_SECONDS_BETWEEN_DRAWINGS = 0.1

# What a write to a closed, full or broken standard error raises. Whoever watches has gone; the fit has not.
_GONE = (OSError, ValueError, AttributeError)


class Progress:
    """What `fit` shows while it trains. A context manager; leaving it closes it.

    Parameters
    ----------
    kind : bool or None
        None and False are silent. True is one bar where standard error is a terminal and `rich` is installed, and
        otherwise a line `epoch=3 epochs=10 alive=100 best=0.4412 rows_per_s=1.2e+06 eta_s=4.1` an epoch, at most
        one a second and always the last.
    n_models : int
        Models at the start.
    epochs : int
        Epochs planned.
    rows_per_epoch : int
        Rows that one epoch visits. Each is visited once for all models.

    Raises
    ------
    TypeError
        `kind` is no bool and not None.

    Notes
    -----
    Rows per second, and the time left, come from the last few updates. Nothing here raises because of standard error:
    where it is closed, or a disk behind it is full, the rest of the display is left out.
    """

    def __init__(self, kind: bool | None, *, n_models: int, epochs: int, rows_per_epoch: int) -> None:
        self._epochs = epochs
        self._rows_per_epoch = rows_per_epoch
        self._n_models = n_models
        now = time.monotonic()
        self._marks: deque[tuple[float, float]] = deque([(now, 0.0)], maxlen=_WINDOW + 1)  # (time, rows visited)
        self._shown_at = -math.inf
        self._waiting: str | None = None  # the newest line, if it came too soon after the one before
        self._bar: Any = None
        self._task: Any = None
        # The stream of this moment: rich replaces sys.stderr while a bar is shown.
        self._stream = _Stream(sys.stderr) if _wanted(kind) else None
        if self._stream is not None and self._stream.isatty():
            self._start_bar(self._stream)

    def update(self, *, epoch: int, alive: int, best: float | None = None, rows: float | None = None) -> None:
        """Show where the training is.

        Parameters
        ----------
        epoch : int
            Epochs done.
        alive : int
            Models that still train.
        best : float, optional
            The best candidate's mean held-out score so far; NaN or None if there is none yet.
        rows : float, optional
            Rows visited since the start, for updates within an epoch. Default: those of `epoch` whole epochs.
        """
        if self._stream is None or self._stream.gone:
            return
        visited = float(epoch * self._rows_per_epoch if rows is None else rows)
        now = time.monotonic()
        self._marks.append((now, visited))
        score = "nan" if best is None or math.isnan(best) else f"{best:.4g}"
        pace = self._pace()
        left = max(0.0, self._epochs * self._rows_per_epoch - visited)
        eta = left / pace if pace > 0 else math.nan
        last = epoch >= self._epochs
        if self._bar is not None:
            self._draw(now, last, visited, epoch=epoch, alive=alive, best=score, pace=f"{pace:.2g}", eta=_duration(eta))
            return
        line = f"epoch={epoch} epochs={self._epochs} alive={alive} best={score} rows_per_s={pace:.2g} eta_s={eta:.1f}"
        if last or now - self._shown_at >= _SECONDS_BETWEEN_LINES:
            self._print(line, now)
        else:
            self._waiting = line

    def close(self) -> None:
        """Show the last state and give the terminal back. A second call does nothing."""
        if self._bar is not None:
            self._bar.stop()
        elif self._waiting is not None:
            self._print(self._waiting, time.monotonic())
        self._bar = self._stream = self._waiting = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pace(self) -> float:
        """Rows visited per second over the last updates."""
        (t0, r0), (t1, r1) = self._marks[0], self._marks[-1]
        return (r1 - r0) / (t1 - t0) if t1 > t0 else 0.0

    def _print(self, line: str, now: float) -> None:
        assert self._stream is not None
        self._waiting, self._shown_at = None, now
        self._stream.write(line + "\n")
        self._stream.flush()

    def _start_bar(self, stream: _Stream) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar
        except ImportError:
            return
        # No thread redraws it: a fork in a callback, say, must not meet one that holds a lock. Whether this is a
        # terminal is settled here, or rich would ask again at each drawing, and not stop a bar whose stream is closed.
        self._bar = Bar(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[alive]}/{task.fields[n_models]} models"),
            TextColumn("best {task.fields[best]}"),
            TextColumn("{task.fields[pace]} rows/s"),
            TextColumn("ETA {task.fields[eta]}"),
            console=Console(file=stream, force_terminal=True),  # type: ignore[arg-type]
            auto_refresh=False,
            expand=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(
            "",
            total=max(self._epochs * self._rows_per_epoch, 1),
            epoch=0,
            epochs=self._epochs,
            alive=self._n_models,
            n_models=self._n_models,
            best="nan",
            pace="0",
            eta="?",
        )
        self._bar.refresh()

    def _draw(self, now: float, last: bool, visited: float, **fields: Any) -> None:
        self._bar.update(self._task, completed=visited, **fields)
        if last or now - self._shown_at >= _SECONDS_BETWEEN_DRAWINGS:
            self._bar.refresh()
            self._shown_at = now


class _Stream:
    """Standard error, whose errors end the display instead of the fit (rich leaves the process at a broken pipe)."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.gone = stream is None
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if not self.gone:
            try:
                self._stream.write(text)
            except _GONE:
                self.gone = True
        return len(text)

    def flush(self) -> None:
        if not self.gone:
            try:
                self._stream.flush()
            except _GONE:
                self.gone = True

    def isatty(self) -> bool:
        """Whether a bar can be drawn: a dumb terminal, as inside editors, cannot go back to the start of a line."""
        try:
            return bool(self._stream.isatty()) and os.environ.get("TERM", "") not in ("dumb", "unknown")
        except _GONE:
            return False


def _wanted(kind: object) -> bool:
    return kind is not None and _check.boolean("progress", kind)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
