"""The thread cache: a fork, several Python threads at once, more threads than cores. Byte equality is in test_promises.py."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import calls
from gradfold import _core


def _run(script: str) -> str:
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    return out.stdout


_WORK = """
    import os, sys
    import numpy as np
    from gradfold import _core

    rng = np.random.default_rng(0)
    X = rng.normal(size=(60_000, 40)); y = (rng.random(60_000) < 0.5).astype(float); W = rng.normal(size=(40, 20))
    def work(n_threads=2):
        G = np.full_like(W, np.nan)
        _core.gradient.loss_gradient(X, y, W, None, "log_loss", True, None, None, None, None, None, None, G, None, n_threads)
        return G.tobytes()
"""


def test_a_fork_after_the_threads_have_started() -> None:
    script = _WORK + """
    expected = work()
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(0 if work() == expected and work(5) == expected else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert work() == expected
    print("done")
    """
    assert _run(script).strip() == "done"


def test_a_fork_while_another_thread_works() -> None:
    script = _WORK + """
    import threading, warnings
    warnings.simplefilter("ignore")  # newer Pythons warn of a fork with threads, which is what is tested
    expected = work()
    stop = threading.Event()
    def busy():
        while not stop.is_set():
            assert work() == expected
    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if work() == expected else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()
    print("done")
    """
    assert _run(script).strip() == "done"


def test_several_python_threads_at_once() -> None:
    q = calls.problem(5, n=3000, p=20, m=20)
    expected = None
    results: list[bytes] = []

    def train() -> None:
        t = calls.trainer(q, n_threads=3, epochs=3, batch_size=1100)
        assert t.advance() == "done"
        results.append(t.coef().tobytes())

    train()
    expected = results.pop()
    threads = [threading.Thread(target=train) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6 and set(results) == {expected}


def test_more_threads_than_cores() -> None:
    q = calls.problem(6, n=2500, p=30, m=60)
    few = calls.trainer(q, n_threads=1, epochs=2, batch_size=2500)
    many = calls.trainer(q, n_threads=4 * (os.cpu_count() or 1) + 3, epochs=2, batch_size=2500)
    assert few.advance() == many.advance() == "done"
    assert few.coef().tobytes() == many.coef().tobytes()


def test_a_running_trainer_refuses_everything_but_cancel() -> None:
    q = calls.problem(7, n=4000, p=30, m=30)
    t = calls.trainer(q, n_threads=1, epochs=1_000_000, batch_size=64)
    thread = threading.Thread(target=t.advance)
    thread.start()
    try:
        time.sleep(0.2)
        for name in ("advance", "coef", "intercept", "steps", "history"):
            with pytest.raises(RuntimeError, match="running"):
                getattr(t, name)()
        for name in ("epochs_done", "diverged_epoch", "diverged_batch"):
            with pytest.raises(RuntimeError, match="running"):
                getattr(t, name)
    finally:
        t.cancel()
        thread.join()
    assert t.epochs_done > 0 and np.isfinite(t.coef()).all()


def test_a_daemon_thread_that_trains_while_the_interpreter_exits() -> None:
    script = _WORK + """
    import threading, time
    import gradfold as gf
    thread = threading.Thread(target=lambda: gf.fit(X, y, epochs=1_000_000), daemon=True)
    thread.start()
    time.sleep(0.5)
    print("done")
    """
    assert _run(script).strip() == "done"


def test_available_cores() -> None:
    assert 1 <= _core.gradient.available_cores() <= (os.cpu_count() or 1)
    assert np.isfinite(_core.roofline.fma_peak(4, 2, 0.01))
