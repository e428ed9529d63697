"""Data larger than the GPU: the windows in the simulator."""

from __future__ import annotations

import pytest

import simulator

pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)


def test_same_bits_in_the_simulator():
    simulator.run("test_sim_stream.py")
