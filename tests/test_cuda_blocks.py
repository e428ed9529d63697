"""The simulator's blocks, which all tests in the simulator rest on."""

from __future__ import annotations

import pytest

import simulator


def test_in_the_simulator():
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    simulator.run("test_sim_blocks.py")
