"""What PTX may hold, and what a kernel costs: for tests that compile kernels without a GPU.

ptxas fuses an unsuffixed product and sum into an FMA, which rounds once where the CPU rounds twice; ``.rn`` it leaves
alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_FLOAT = r"(?:f16|f16x2|bf16|bf16x2|f32|f32x2|f64)"
# (what an opcode must not match, why)
_FORBIDDEN = [
    (re.compile(rf"(?:add|sub|mul|mad|fma)(?!.*\.rn)(?:\..*)?\.{_FLOAT}$"), "is not .rn: ptxas may fuse it"),
    (re.compile(rf"mad\..*\.{_FLOAT}$"), "mad: write fma"),
    (re.compile(rf"(?:div|sqrt|rcp)(?!.*\.rn)\..*\.{_FLOAT}$"), "is not correctly rounded"),
    (re.compile(r"(?:sin|cos|tanh|ex2|lg2|rsqrt)\."), "is an approximation"),
    (re.compile(r".*\.approx"), "is an approximation"),
    (re.compile(r".*\.full\."), "is an approximation"),
    (re.compile(r".*\.ftz"), "flushes subnormals to zero"),
    (re.compile(rf"(?:atom|red)\..*{_FLOAT}$"), "adds floats in no fixed order"),
    (re.compile(r"(?:wmma|mma|wgmma|tcgen05)\."), "sums in an order that is not documented"),
]


def opcodes(ptx: str) -> list[str]:
    """The opcode of every instruction, in order."""
    found = []
    for line in re.sub(r"/\*.*?\*/", "", ptx, flags=re.S).splitlines():
        for statement in line.split("//")[0].split(";"):
            match = re.match(r"[\s{]*(?:@!?%\w+\s+)?([a-z][a-z0-9_]*(?:[.:]+[a-z0-9_]+)*)(?=\s|$)", statement)
            if match:
                found.append(match[1])
    return found


def check(ptx: str) -> list[str]:
    """One line for every kind of instruction that would give other bits than the CPU; empty if there is none."""
    problems = []
    for opcode in dict.fromkeys(opcodes(ptx)):
        problems += [f"{opcode} {why}" for pattern, why in _FORBIDDEN if pattern.match(opcode)]
    return problems


def loops(ptx: str) -> list[tuple[int, list[str]]]:
    """(depth, opcodes) of every basic block of the kernel that lies in a loop, in order.

    A loop is what stands between a label and a branch back to it; the depth is the number of loops around.
    """
    names, texts, ends = ["entry"], [""], [0]
    for line in ptx[ptx.index(".entry") :].splitlines():
        label = re.match(r"\s*(\$L\w+):", line)
        if label:
            names.append(label[1])
            texts.append("")
        else:
            texts[-1] += line + "\n"
    places = {name: place for place, name in enumerate(names)}
    ends = [place for place in range(len(names))]
    for place, text in enumerate(texts):
        for target in re.findall(r"\bbra(?:\.uni)?\s+(\$L\w+)", text):
            ends[places[target]] = max(ends[places[target]], place) if places[target] < place else ends[places[target]]
    own = [bool(re.search(rf"\bbra(?:\.uni)?\s+{re.escape(name)}\b", text)) for name, text in zip(names, texts, strict=True)]
    found = []
    for place, text in enumerate(texts):
        depth = sum(begin <= place <= end for begin, end in enumerate(ends) if end > begin) + own[place]
        if depth:
            found.append((depth, opcodes(text)))
    return found


@dataclass(frozen=True)
class Resources:
    """What ptxas says of a kernel: registers of a thread, and bytes of shared memory, of the stack, and of spills."""

    registers: int
    shared: int
    local: int
    spilled: int


def link(ptx: str) -> tuple[bytes, str]:
    """The cubin for the architecture that the PTX names, and ptxas' report. No GPU is needed."""
    from cuda.bindings import nvjitlink

    architecture = re.search(r"\.target\s+(sm_\w+)", ptx)
    assert architecture is not None
    handle = nvjitlink.create(2, [f"-arch={architecture[1]}", "-verbose"])
    try:
        text = ptx.encode()
        try:
            nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), "kernel.ptx")
            nvjitlink.complete(handle)
        except nvjitlink.nvJitLinkError as error:
            log = bytearray(nvjitlink.get_error_log_size(handle))
            nvjitlink.get_error_log(handle, log)
            raise RuntimeError(log.decode(errors="replace")) from error
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin), log.decode(errors="replace")


def resources(ptx: str) -> dict[str, Resources]:
    """By the (mangled) name of each kernel.

    Shared memory of a size that the launch gives is not counted; the KiB that sm_90 keeps for itself is.
    """
    log = link(ptx)[1]
    spilled = dict(re.findall(r"properties for (\w+)\s+ptxas .*?(\d+) bytes spill stores", log))
    used = re.findall(r"properties for '(\w+)':\s+info\s+: used (\d+) registers.*?(\d+) stack, (\d+) bytes smem", log)
    return {
        name: Resources(int(registers), int(shared), int(local), int(spilled[name]))
        for name, registers, local, shared in used
    }


def assert_lean(kernel: Any, cc: tuple[int, int], registers: int, foreign: tuple[str, ...]) -> None:
    """A kernel of functions over arrays: the CPU's bits, few registers, no memory of its own, no type that is none of its own."""
    text = kernel.ptx(cc)
    assert check(text) == [], kernel.name
    (used,) = resources(text).values()
    assert used.registers <= registers and used.local == used.spilled == 0, (kernel.name, used)
    assert not [opcode for opcode in opcodes(text) if opcode.endswith(foreign)], kernel.name
