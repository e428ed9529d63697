"""The losses for device code: names and PTX here, bits in the simulator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ptx
import simulator
from gradfold import loss as host

pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
from gradfold.cuda import loss  # noqa: E402

HEADER = Path(__file__).resolve().parents[1] / "csrc" / "loss" / "losses.h"


def test_every_loss_of_one_output():
    assert sorted([*loss.NAMES, "multinomial"]) == sorted(host.NAMES)
    assert loss.CODES["squared_error"] == 0 and loss.CODES["log_loss"] == 1


def test_codes_are_those_of_the_core():
    if not HEADER.exists():
        pytest.skip("only a checkout holds the sources")
    listed = re.findall(r"^  X\((\w+), \w+\)", HEADER.read_text(encoding="utf-8"), flags=re.M)
    assert list(loss.CODES.items()) == [(name, code) for code, name in enumerate(listed)]


def test_same_bits_in_the_simulator():
    simulator.run("test_sim_loss.py")


@pytest.mark.parametrize("cc", [(8, 0), (9, 0)], ids=str)
def test_compiles(cc):
    for kernel in loss.KERNELS:
        ptx.assert_lean(kernel, cc, 32, ("f64",) if kernel.name.endswith("float32") else ("f32",))


def test_the_gradient_alone_costs_less():
    """And where both are asked for, they share their exponential: one chain of products for exp, one for log1p.

    In float32 nine more are the quotient's, which is a division in float64. Compilers may have a few more, but fewer than a
    second exponential would.
    """
    by_name = {
        kernel.name: [op for op in ptx.opcodes(kernel.ptx((9, 0))) if op.startswith("fma")] for kernel in loss.KERNELS
    }
    for name, wanted, exponential in (
        ("gradient_float32", 9 + 9, 9), ("evaluate_float32", 20 + 9, 9), ("gradient_float64", 14, 13), ("evaluate_float64", 36, 13),
    ):  # fmt: skip
        assert wanted <= len(by_name[name]) < wanted + exponential, name
