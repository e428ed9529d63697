"""Programs that are run to their end, with all that they start."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any


def run(words: Sequence[str], *, timeout: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run`` with text and no standard input; when time is up, or the gate is interrupted, the program's children end too.

    Raises
    ------
    OSError
        The program cannot be started.
    subprocess.TimeoutExpired
    """
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, text=True, errors="replace", start_new_session=True, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            end(process)
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def end(process: subprocess.Popen[Any]) -> None:
    """A process that began a session, and whoever is left in it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # all have ended
    process.kill()
    process.wait()
