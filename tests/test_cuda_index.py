"""Permutations in device code: PTX here, integers in the simulator."""

from __future__ import annotations

import pytest

import ptx
import simulator

pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
from gradfold.cuda import index  # noqa: E402


def test_same_integers_in_the_simulator():
    simulator.run("test_sim_index.py")


@pytest.mark.parametrize("cc", [(8, 0), (9, 0)], ids=str)
def test_compiles(cc):
    for kernel in index.KERNELS:
        ptx.assert_lean(kernel, cc, 40, (".f32", ".f64"))


def test_a_round_is_short():
    """Multiply-add, shift, and, exclusive or: 8 rounds, or 12. (ptxas makes one instruction of the last two.)"""
    found = ptx.opcodes(index.FILL32.ptx((9, 0)))
    assert found.count("mad.lo.s32") <= 8 + 12 + 2 and found.count("xor.b32") == 8 + 12


def test_keys_and_shape_of_the_host():
    assert index.shape(1024) == (1023, 1023, 5, 0)
    assert index.shape(1025) == (1024, 2047, 6, 12)
    assert index.shape(2**16) == (2**16 - 1, 2**16 - 1, 8, 12)
    assert index.shape(2**16 + 1) == (2**16, 2**17 - 1, 9, 8)
    assert index.shape(2**32) == (2**32 - 1, 2**32 - 1, 16, 8)
    assert index.shape(2**32 + 1) == (2**32, 2**33 - 1, 17, 8)
    assert len(index.keys(2000, 1, 0, 0)) == 12 and len(index.keys(2**33, 1, 0, 0)) == 8
