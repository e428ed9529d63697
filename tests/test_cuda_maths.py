"""The maths functions for device code: constants and PTX here, bits in the simulator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ptx
import simulator

pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
from gradfold.cuda import constants, maths  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CAPABILITIES = [(8, 0), (9, 0)]


def header():
    """The constants of csrc/simd/math_constants.h by dtype and name, as bytes."""
    file = ROOT / "csrc" / "simd" / "math_constants.h"
    if not file.exists():
        pytest.skip("only a checkout holds the sources")
    found, kind = {}, None
    for line in file.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[:2] == ["struct", "MathConstants<float>"]:
            kind = np.float32
        elif words[:2] == ["struct", "MathConstants<double>"]:
            kind = np.float64
        elif words[:2] == ["static", "constexpr"]:
            literal = words[5].removesuffix(";")
            if words[2] in ("float", "double"):
                value = kind(float.fromhex(literal.removesuffix("f")))
            else:
                value = (np.uint32 if kind == np.float32 else np.uint64)(int(literal.rstrip("ul"), 16))
            found[np.dtype(kind).name, words[3]] = (value.dtype, value.tobytes())
    return found


def test_constants_are_those_of_the_header():
    ours = {
        (name, constant): (value.dtype, value.tobytes())
        for name in ("float32", "float64")
        for constant, value in constants.of(name).items()
    }
    assert len(ours) > 80 and ours == header()


def test_constants_are_what_the_fit_writes():
    script = ROOT / "scripts" / "fit_polynomials.py"
    if not script.exists():
        pytest.skip("only a checkout holds the scripts")
    subprocess.run([sys.executable, str(script), "--python", "--check", constants.__file__], check=True)


def test_same_bits_in_the_simulator():
    simulator.run("test_sim_maths.py")


@pytest.mark.parametrize("cc", CAPABILITIES, ids=str)
def test_compiles(cc):
    assert sorted(kernel.name for kernel in maths.KERNELS) == sorted(
        f"{name}_{dtype}" for name in maths.NAMES for dtype in ("float32", "float64")
    )
    for kernel in maths.KERNELS:
        # Each rounds as it is written: neither type leaks into the other.
        ptx.assert_lean(kernel, cc, 32, ("f64",) if kernel.name.endswith("float32") else ("f32",))


def test_the_check_of_ptx_sees_what_it_must():
    good = "fma.rn.f32 add.rn.f64 mul.rn.f32 div.rn.f32 sqrt.rn.f64 rcp.rn.f64 neg.f32 max.f32 mul.wide.s32 add.s64"
    good += " atom.global.add.u32 mad.lo.s32 sub.u64 cvt.rn.f32.f64"
    for opcode in good.split():
        assert ptx.check(f"\t{opcode} \t%f1, %f2;  // add.f32") == [], opcode
    bad = "add.f32 sub.f32 mul.f32 add.f64 sub.f64 mul.f64 mad.f32 mad.rn.f32 add.rn.ftz.f32 div.approx.f32"
    bad += " div.full.f32 sqrt.approx.f32 ex2.approx.ftz.f32 atom.global.add.f32 red.global.add.f64 add.f32x2"
    bad += " setp.lt.ftz.f32 add.rz.f32"
    bad += " mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
    for opcode in bad.split():
        for text in (f"\t{opcode} \t%f1, %f2;", f"@%p1 {opcode} %f1;", f"{{ mov.f32 %f1, %f2; {opcode} %f1; }}"):
            assert ptx.check(text), text
