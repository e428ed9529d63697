"""The progress display: a bar on a terminal, lines elsewhere, and no error of the stream that leaves it."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import Any

import pytest

from gradfold import _progress
from gradfold._progress import Progress

_LINE = re.compile(r"epoch=\d+ epochs=\d+ alive=\d+ best=\S+ rows_per_s=\S+ eta_s=\S+\n")


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(_progress, "time", clock)
    return clock


# pytest sets sys.stderr anew between a fixture and its test, so every test redirects by itself.
@pytest.fixture
def stderr() -> io.StringIO:
    return io.StringIO()


class _Terminal:
    """The far end of a pseudo-terminal, read by a thread so that whoever writes never waits."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream = open(slave, "w")
        self._parts: list[bytes] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 65536)
            except OSError:  # the near end is closed
                return
            if not part:
                return
            self._parts.append(part)

    def text(self) -> str:
        if not self.stream.closed:
            self.stream.close()
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()
        return b"".join(self._parts).decode()

    def close(self) -> None:
        self.text()
        os.close(self._master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Terminal]:
    terminal = _Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    yield terminal
    terminal.close()


@pytest.mark.parametrize("kind", [None, False])
def test_silent(stderr: io.StringIO, kind: Any) -> None:
    with redirect_stderr(stderr), Progress(kind, n_models=3, epochs=2, rows_per_epoch=10) as progress:
        progress.update(epoch=2, alive=3, best=0.1)
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("kind", [1, "yes", 0.0])
def test_kind_is_checked(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"^progress: got .*, wanted True or False"):
        Progress(kind, n_models=3, epochs=2, rows_per_epoch=10)


def test_a_line_has_the_stated_numbers(stderr: io.StringIO, clock: _Clock) -> None:
    with redirect_stderr(stderr), Progress(True, n_models=100, epochs=10, rows_per_epoch=1000) as progress:
        clock.now += 2
        progress.update(epoch=1, alive=100, best=0.44123)
        clock.now += 6
        progress.update(epoch=3, alive=99, best=float("nan"))
    assert stderr.getvalue().splitlines() == [
        "epoch=1 epochs=10 alive=100 best=0.4412 rows_per_s=5e+02 eta_s=18.0",
        "epoch=3 epochs=10 alive=99 best=nan rows_per_s=3.8e+02 eta_s=18.7",
    ]


def test_pace_is_that_of_the_last_updates(stderr: io.StringIO, clock: _Clock) -> None:
    """Fifty slow epochs, then twenty that take a tenth: what is left is estimated from the quick ones."""
    with redirect_stderr(stderr), Progress(True, n_models=8, epochs=100, rows_per_epoch=100) as progress:
        for epoch in range(1, 71):
            clock.now += 10 if epoch <= 50 else 1
            progress.update(epoch=epoch, alive=8)
    assert stderr.getvalue().splitlines()[-1].endswith("best=nan rows_per_s=1e+02 eta_s=30.0")


def test_at_most_a_line_a_second_and_the_last(stderr: io.StringIO, clock: _Clock) -> None:
    with redirect_stderr(stderr), Progress(True, n_models=5, epochs=100, rows_per_epoch=10) as progress:
        for epoch in range(1, 101):
            clock.now += 0.25
            progress.update(epoch=epoch, alive=5, best=1.0)
    lines = stderr.getvalue()
    assert _LINE.fullmatch(lines.splitlines(keepends=True)[0])
    epochs = [int(n) for n in re.findall(r"epoch=(\d+) ", lines)]
    assert epochs == [*range(1, 100, 4), 100]


def test_the_last_line_comes_also_when_training_ends_early(stderr: io.StringIO, clock: _Clock) -> None:
    with redirect_stderr(stderr), Progress(True, n_models=5, epochs=100, rows_per_epoch=10) as progress:
        for epoch in (1, 2, 3):
            clock.now += 0.1
            progress.update(epoch=epoch, alive=5 - epoch)
    assert re.findall(r"epoch=(\d+) ", stderr.getvalue()) == ["1", "3"]
    progress.close()
    progress.update(epoch=4, alive=1)
    assert len(stderr.getvalue().splitlines()) == 2


def test_updates_within_an_epoch(stderr: io.StringIO, clock: _Clock) -> None:
    with redirect_stderr(stderr), Progress(True, n_models=5, epochs=2, rows_per_epoch=1000) as progress:
        clock.now += 1
        progress.update(epoch=0, alive=5, rows=500)
    assert "epoch=0 epochs=2 alive=5 best=nan rows_per_s=5e+02 eta_s=3.0\n" == stderr.getvalue()


def test_no_time_passed(stderr: io.StringIO, clock: _Clock) -> None:
    with redirect_stderr(stderr), Progress(True, n_models=5, epochs=2, rows_per_epoch=1000) as progress:
        progress.update(epoch=1, alive=5)
    assert stderr.getvalue() == "epoch=1 epochs=2 alive=5 best=nan rows_per_s=0 eta_s=nan\n"


def _closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [None, _closed(), _Full(), object()], ids=["None", "closed", "full", "no stream"])
def test_no_stream_raises(stream: Any) -> None:
    if type(stream) is object:
        stream = io.TextIOWrapper(io.RawIOBase())  # can do nothing
    with redirect_stderr(stream), Progress(True, n_models=5, epochs=3, rows_per_epoch=10) as progress:
        for epoch in (1, 2, 3):
            progress.update(epoch=epoch, alive=5)


def test_a_stream_that_closes_midway() -> None:
    stream = io.StringIO()
    with redirect_stderr(stream), Progress(True, n_models=5, epochs=3, rows_per_epoch=10) as progress:
        progress.update(epoch=1, alive=5)
        stream.close()
        progress.update(epoch=3, alive=5)


# -- the bar ----------------------------------------------------------------------------------------------------------


def _visible(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_bar(terminal: _Terminal) -> None:
    pytest.importorskip("rich")
    with redirect_stderr(terminal.stream), Progress(True, n_models=100, epochs=4, rows_per_epoch=1000) as progress:
        progress.update(epoch=1, alive=100, best=0.51)
        progress.update(epoch=4, alive=97, best=0.44123)
    text = _visible(terminal.text())
    assert "epoch 0/4" in text and "100/100 models" in text
    last = text[text.rindex("epoch 4/4") :]
    assert "97/100 models" in last and "best 0.4412" in last and "rows/s" in last and "ETA 0:00" in last
    assert "epoch=" not in text
    assert text.count("\n") == 1  # one line, which the bar keeps writing over


def test_many_updates_draw_few_bars(terminal: _Terminal, clock: _Clock) -> None:
    pytest.importorskip("rich")
    with redirect_stderr(terminal.stream), Progress(True, n_models=100, epochs=10_000, rows_per_epoch=1000) as progress:
        for epoch in range(1, 1001):
            clock.now += 0.001
            progress.update(epoch=epoch, alive=100, best=0.51)
    text = _visible(terminal.text())
    assert text.count("models") < 20
    assert "epoch 1000/10000" in text  # closing shows the last state


def test_what_a_callback_prints_stands_above_the_bar(terminal: _Terminal) -> None:
    pytest.importorskip("rich")
    with redirect_stderr(terminal.stream), Progress(True, n_models=100, epochs=4, rows_per_epoch=1000) as progress:
        progress.update(epoch=1, alive=100, best=0.51)
        print("hello", file=sys.stderr)
        progress.update(epoch=4, alive=97, best=0.44123)
    assert "hello" in _visible(terminal.text())


@pytest.mark.parametrize("error", [None, BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
def test_a_terminal_that_goes_away(terminal: _Terminal, error: OSError | None) -> None:
    """Also with a broken pipe, for which rich by itself would leave the process."""
    pytest.importorskip("rich")
    before = sys.stdout

    def fail(text: str) -> int:
        assert error is not None
        raise error

    with redirect_stderr(terminal.stream):
        with Progress(True, n_models=100, epochs=4, rows_per_epoch=1000) as progress:
            progress.update(epoch=1, alive=100)
            if error is None:
                terminal.stream.close()
            else:
                terminal.stream.write = fail  # type: ignore[method-assign, assignment]
            progress.update(epoch=4, alive=100)
            progress.update(epoch=4, alive=100)
        assert sys.stderr is terminal.stream and sys.stdout is before
    if error is not None:
        del terminal.stream.write


def test_an_exception_gives_the_terminal_back(terminal: _Terminal) -> None:
    pytest.importorskip("rich")
    before = sys.stdout, sys.stderr
    with (
        pytest.raises(ZeroDivisionError),
        redirect_stderr(terminal.stream),
        Progress(True, n_models=1, epochs=4, rows_per_epoch=1000) as progress,
    ):
        progress.update(epoch=1, alive=1)
        raise ZeroDivisionError
    assert (sys.stdout, sys.stderr) == before
    assert terminal.text().endswith("\x1b[?25h")  # the cursor is visible again


@pytest.mark.parametrize("why", ["no rich", "dumb"])
def test_lines_on_a_terminal_without_rich(terminal: _Terminal, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    else:
        for name in [n for n in sys.modules if n == "rich" or n.startswith("rich.")]:
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, "rich", None)
    with redirect_stderr(terminal.stream), Progress(True, n_models=5, epochs=1, rows_per_epoch=10) as progress:
        progress.update(epoch=1, alive=5)
    assert _LINE.fullmatch(terminal.text().replace("\r\n", "\n"))
