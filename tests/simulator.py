"""Runs a file of ``tests/cuda_sim`` with Numba's CUDA simulator, in a process of its own; or is there a GPU?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradfold import _device

on_gpu = pytest.mark.skipif(not isinstance(_device.gpu(), dict), reason="there is no GPU")

TESTS = Path(__file__).resolve().parent


def run(name: str) -> None:
    """Fail with the output of pytest where a test of that file fails."""
    # NumPy warns of unsigned scalars that wrap, which device code does on purpose, and in the simulator's threads.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::RuntimeWarning",
        f"cuda_sim/{name}",
    ]
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout[-6000:]}{done.stderr[-2000:]}", pytrace=False)
