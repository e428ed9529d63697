"""Every kernel of the package, compiled to machine code without a GPU: what it may hold, and what it costs.

All are compiled once, for both architectures, by processes of their own; the tests read what those found. Registers, shared
and local memory also go to a file: to the one that the environment variable GRADFOLD_KERNEL_REPORT names, else to a
temporary one. The report in the repository is made by

    GRADFOLD_KERNEL_REPORT=benchmarks/results/cuda-kernels.json python -m pytest tests/test_cuda_kernels.py
"""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import ptx

pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)

CAPABILITIES = [(8, 0), (9, 0)]
SHARED_BYTES = 48 << 10  # of a block, without asking for more
PRODUCTS = {"gradient.forward": 1, "gradient.gradient": 1, "train.epoch": 2}  # loops over products in each kernel


@dataclass(frozen=True)
class Found:
    """Of a kernel on one architecture. Products: (depth, how often each opcode occurs) of the blocks that multiply tiles."""

    problems: list[str]
    resources: ptx.Resources
    opcodes: Counter[str]
    products: list[tuple[int, Counter[str]]]


def compiled(names: list[str]) -> dict[tuple[str, tuple[int, int]], Found]:
    """The work of a process. Both architectures in one, since Numba's typing, most of the time, is of neither."""
    from gradfold.cuda import _driver, catalogue

    kernels, out = catalogue.every_kernel(), {}
    known: dict[str, Found] = {}  # what does not touch X is the same code whether its rows are aligned or not
    for name in names:
        for cc in CAPABILITIES:
            key = _driver._cache_key(kernels[name], cc)
            if key in known:
                out[name, cc] = known[key]
                continue
            text = kernels[name].ptx(cc)
            (used,) = ptx.resources(text).values()
            blocks = [(depth, Counter(opcodes)) for depth, opcodes in ptx.loops(text)]
            # An optimiser's step reads the scalars of its models as vectors too; it divides.
            products = [
                (depth, own) for depth, own in blocks
                if of(own, "ld.shared.v") >= 4 and of(own, "fma.rn.f") >= 16 and not of(own, "div.")
            ]  # fmt: skip
            out[name, cc] = known[key] = Found(ptx.check(text), used, Counter(ptx.opcodes(text)), products)
    return out


def of(opcodes: Counter[str], start: str) -> int:
    """How many begin so."""
    return sum(count for opcode, count in opcodes.items() if opcode.startswith(start))


def shares(names: list[str]) -> list[list[str]]:
    """Kernels of the same tiles are made of the same device functions, which a process compiles once; large shares first."""
    by_tiles: dict[str, list[str]] = {}
    for name in names:
        by_tiles.setdefault("/".join(name.split("/")[1:3]) if name.count("/") > 1 else "", []).append(name)
    return sorted(by_tiles.values(), key=lambda own: (any("train.epoch" in name for name in own), len(own)), reverse=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, tuple[int, int]], Found]:
    from gradfold.cuda import catalogue

    out: dict[tuple[str, tuple[int, int]], Found] = {}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(compiled, shares(list(catalogue.every_kernel()))):
            out |= part
    path = Path(os.environ.get("GRADFOLD_KERNEL_REPORT") or tmp_path_factory.mktemp("report") / "cuda-kernels.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report(out), indent=1) + "\n", encoding="utf-8")
    return out


def report(found: dict[tuple[str, tuple[int, int]], Found]) -> dict[str, object]:
    names = ("numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink")
    versions = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"] in names}
    kernels: dict[str, dict[str, dict[str, int]]] = {}
    for (name, cc), facts in sorted(found.items()):
        used = facts.resources
        kernels.setdefault(name, {})["sm_{}{}".format(*cc)] = {
            "registers": used.registers, "shared_bytes": used.shared, "local_bytes": used.local,
        }  # fmt: skip
    return {"compilers": dict(sorted(versions.items())), "kernels": kernels}


def test_the_catalogue_leaves_none_out() -> None:
    """By the sources: whatever makes a kernel is called for by the catalogue as often as it has variants."""
    from gradfold.cuda import catalogue, tiles

    kernels = catalogue.every_kernel()
    assert len({id(kernel) for kernel in kernels.values()}) == len(kernels)
    functions = {kernel.function.__code__.co_name for kernel in kernels.values()}
    written = set()
    for path in Path(catalogue.__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        written |= set(re.findall(r"(?<!class )\bKernel\(\s*(\w+),", text))
    assert written == functions
    counts = Counter(name.partition("/")[0] for name in kernels)
    shapes = [shape for of_type in tiles.SHAPES.values() for shape in of_type.values()]
    assert counts["gradient.forward"] == 2 * len(shapes)
    assert counts["train.epoch"] == 2 * sum(shape.epoch_blocks > 0 for shape in shapes)


def test_same_bits_as_the_cpu(found) -> None:
    """Nothing that ptxas may fuse, approximate or flush to zero, and no sum in whatever order threads come."""
    wrong = {f"{name} {cc}": facts.problems for (name, cc), facts in found.items() if facts.problems}
    assert wrong == {}


def test_no_local_memory(found) -> None:
    """Neither spills nor arrays in memory: a register tile is one only when every index of it is a constant."""
    wrong = {
        f"{name} {cc}": (facts.resources.local, facts.resources.spilled)
        for (name, cc), facts in found.items()
        if facts.resources.local or facts.resources.spilled or of(facts.opcodes, "ld.local") or of(facts.opcodes, "st.local")
    }
    assert wrong == {}


def test_shared_memory(found) -> None:
    """From compute capability 9.0 on the system's KiB is counted in."""
    for (name, cc), facts in found.items():
        assert facts.resources.shared - (1024 if cc >= (9, 0) else 0) <= SHARED_BYTES, (name, cc)


def test_blocks_fit_on_a_multiprocessor(found) -> None:
    """As many as their kernel asks for: registers come in units of 8, shared memory beside a KiB of the system's."""
    from gradfold.cuda import catalogue

    kernels = catalogue.every_kernel()
    for (name, cc), facts in found.items():
        kernel, used = kernels[name], facts.resources
        blocks = kernel.blocks_for(cc)
        assert blocks * kernel.threads * -(-used.registers // 8) * 8 <= 65536, name
        assert blocks * (used.shared + 1024) <= (164 << 10 if cc == (8, 0) else 228 << 10), name


@pytest.mark.parametrize("cc", CAPABILITIES, ids=str)
def test_products(found, cc: tuple[int, int]) -> None:
    """The loops that the time goes into: FMAs and vectors from shared memory, and hardly anything else that goes to memory;
    while they run, copies of 16 bytes are on their way."""
    seen = 0
    for (name, own), facts in found.items():
        kernel, _, variant = name.partition("/")
        if own != cc or kernel not in PRODUCTS:
            continue
        dtype, tiles, *unaligned = variant.split("/")
        vector = "f64" if dtype == "float64" else "f32"
        assert len(facts.products) == PRODUCTS[kernel], name
        for depth, opcodes in facts.products:
            assert depth >= 1, name
            loads, fmas = of(opcodes, "ld.shared.v"), opcodes[f"fma.rn.{vector}"]
            assert fmas == of(opcodes, "fma.") and loads == of(opcodes, "ld.shared"), (name, opcodes)
            # An unrolled loop is one block with what follows it, which may read the sums so far.
            assert 8 * of(opcodes, "ld.global") <= loads and not of(opcodes, "st.") and not of(opcodes, "bar"), (name, opcodes)
            assert fmas >= 2 * loads, (name, fmas, loads)
            if tiles != "narrow":
                assert loads == opcodes["ld.shared.v4.f32" if dtype == "float32" else "ld.shared.v2.f64"], (name, opcodes)
            if (dtype, tiles) == ("float32", "wide"):
                assert fmas >= 10 * loads, (name, fmas, loads)
        # Only rows of X that begin anywhere are copied value by value, and what forward wants of a row beside X.
        assert of(facts.opcodes, "cp.async.cg.shared.global") >= 2, name
        if kernel == "gradient.gradient":
            assert bool(of(facts.opcodes, "cp.async.ca.shared.global")) == bool(unaligned), name
        seen += 1
    from gradfold.cuda.tiles import SHAPES

    shapes = [shape for of_type in SHAPES.values() for shape in of_type.values()]
    assert seen == sum(4 + 2 * (shape.epoch_blocks > 0) for shape in shapes)


def test_the_deepest_loop_of_forward(found) -> None:
    for cc in CAPABILITIES:
        ((depth, opcodes),) = found["gradient.forward/float32/wide", cc].products
        assert depth == 2, "the loop over a stage's features, within the one over stages"
        assert opcodes["fma.rn.f32"] >= 10 * opcodes["ld.shared.v4.f32"] > 0


def test_loops_are_found() -> None:
    text = """
.visible .entry f() {
	mov.b32 %r1, 0;
$L__BB0_1:
	add.s32 %r1, %r1, 1;
$L__BB0_2:
	fma.rn.f32 %f1, %f1, %f1, %f1;
	@%p1 bra $L__BB0_2;
	@%p2 bra 	$L__BB0_4;
	bra.uni $L__BB0_1;
$L__BB0_4:
	ret;
}"""
    assert ptx.loops(text) == [(1, ["add.s32"]), (2, ["fma.rn.f32", "bra", "bra", "bra.uni"])]
