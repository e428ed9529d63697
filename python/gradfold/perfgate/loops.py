"""What the inner loops of compiled kernels are made of, read from their disassembly.

Callgrind counts instructions that run, but knows no AVX-512. What stands in an object file can be counted for every x86-64 level: how
many instructions, loads and stores an inner loop needs for its fused multiply-adds, and whether it spills registers or calls a function.

What this cannot see: how often a loop runs (the remainder loops of a tile weigh as much as the tile's own), how the code lies in
memory, the latency of instructions and the chains they form, and caches. An *innermost loop* is the span of a backward jump that holds the
span of no other; blocks that the compiler moves out of a loop are not counted in it, and a jump back from such a block may look like a
loop of its own. A *spill* is a vector read from or written to a fixed place on the stack; small local arrays whose index the compiler knows
look the same. Padding (``nop``) is not counted. A function whose loops lost all their FMAs is only listed, as vanished.

Only x86-64 objects are read, in the AT&T syntax of GNU ``objdump``; an object of another machine is refused.
"""

from __future__ import annotations

import glob
import math
import os
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

__all__ = ["Difference", "Loop", "compare", "loops_in", "loops_of"]


@dataclass(frozen=True, order=True)
class Loop:
    """One innermost loop, or the sum of several: what one turn holds.

    Parameters
    ----------
    instructions : int
        All of them, padding left out.
    fmas : int
        Fused multiply-adds and -subtracts, packed or scalar.
    loads : int
        Instructions that read memory: moves, broadcasts, and arithmetic with an operand in memory. Prefetches are none.
    stores : int
        Instructions that write memory.
    spills : int
        Those of the loads and stores that move vectors from or to a fixed place on the stack.
    calls : int
        Calls of functions.
    multiplied : int
        Bytes that its FMAs multiply: 64 for one of a whole zmm register, 4 for one of a single float32.
    """

    instructions: int
    fmas: int
    loads: int
    stores: int
    spills: int
    calls: int
    multiplied: int

    def __add__(self, other: Loop) -> Loop:
        return Loop(*(a + b for a, b in zip(astuple(self), astuple(other))))


@dataclass(frozen=True)
class Difference:
    """One thing that differs between the loops of two builds.

    Parameters
    ----------
    function : str
        ``object::demangled function``.
    what : str
        ``"instructions"`` or ``"loads"`` (for 64 bytes that are multiplied, as by one FMA of AVX-512), ``"spills"`` or ``"calls"`` (of a
        turn), ``"vanished"`` or ``"appeared"`` (the function; ``base`` and ``head`` are numbers of loops then).
    base, head : float
        The number in each build.
    regression : bool
        Whether it is one; functions that come and go are not.
    """

    function: str
    what: str
    base: float
    head: float
    regression: bool

    def __str__(self) -> str:
        if not self.regression:
            return f"{self.function}: {self.what} ({self.base or self.head:g} loops)"
        unit = "for 64 bytes multiplied" if self.what in ("instructions", "loads") else "in a turn"
        return f"{self.function}: {self.what} {unit} {self.base:.3f} -> {self.head:.3f}"


# ---- one instruction ----

_HEADER = re.compile(r"^[0-9a-f]+ <(.*)>:$")
_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S.*)$")
_FMA = re.compile(r"^vf(n?m(add|sub)|maddsub|msubadd)")
_VECTOR = re.compile(r"%[xyz]mm\d")
_STACK = re.compile(r"^-?(0x[0-9a-f]+)?\(%(rsp|rbp)\)")  # without an index: an indexed place is an array
_PREFIXES = {"lock", "rep", "repz", "repnz", "notrack", "bnd", "data16", "cs", "ds", "es", "fs", "gs", "ss", "{evex}", "{vex}"}
# Memory as the last operand, where AT&T has the destination: read only; written only; anything else both.
_READS_LAST = re.compile(r"^(cmp|test|bt[bwlq]?$|v?u?comis|vp?test|push|mul|i?mul|i?div|fld|v?ldmxcsr)")
_WRITES_LAST = re.compile(r"^(v?mov|set|v?p?extr|vextract|vp?compress|vp?scatter|vp?maskmov|vpmov|vcvtps2ph|pop|fst|v?stmxcsr|cmov)")
_NO_ACCESS = re.compile(r"^(lea|prefetch|nop|clflush|j|call|ret)")


@dataclass(frozen=True)
class _Instruction:
    address: int
    mnemonic: str
    operands: tuple[str, ...]

    @property
    def padding(self) -> bool:
        return self.mnemonic.startswith("nop") or (self.mnemonic == "xchg" and len(set(self.operands)) == 1)

    @property
    def target(self) -> int | None:
        """Where a direct jump goes."""
        if not self.mnemonic.startswith("j") or len(self.operands) != 1:
            return None
        return int(self.operands[0], 16) if re.fullmatch(r"[0-9a-f]+", self.operands[0]) else None


def _operands(text: str) -> tuple[str, ...]:
    """The operands, split at the commas that stand in no parentheses."""
    return tuple(re.split(r",(?![^(]*\))", text))


def _instruction(address: int, text: str) -> _Instruction | None:
    # A demangled name may hold anything, but only after the operands, which hold no blanks: "jne 40 <f<a, b>(int)#1+0x40>".
    words = text.split()
    while words and words[0] in _PREFIXES:
        words.pop(0)
    if not words:
        return None
    return _Instruction(address, words[0], _operands(words[1]) if len(words) > 1 else ())


def _functions(disassembly: str) -> Iterator[tuple[str, list[_Instruction]]]:
    name, body = "", list[_Instruction]()
    for line in disassembly.splitlines():
        header = _HEADER.match(line)
        if header or line.startswith("Disassembly of section"):
            if body:
                yield name, body
            name, body = header[1] if header else "", []
        elif (match := _LINE.match(line)) and (one := _instruction(int(match[1], 16), match[2])):
            body.append(one)
    if body:
        yield name, body


# ---- loops ----


def _innermost(body: Sequence[_Instruction]) -> list[tuple[int, int]]:
    """Spans (first, last address) of backward jumps that hold no other one's."""
    first = body[0].address
    spans = {(i.target, i.address) for i in body if i.target is not None and first <= i.target <= i.address}
    return sorted(s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans))


def _width(fma: _Instruction) -> int:
    """Bytes that it multiplies."""
    scalar = {"ss": 4, "sd": 8, "sh": 2}.get(fma.mnemonic[-2:])
    operands = "".join(fma.operands)
    return scalar or (64 if "%zmm" in operands else 32 if "%ymm" in operands else 16)


def _count(instructions: Iterable[_Instruction], frame: bool) -> Loop:
    """Counts a loop; `frame` says whether %rbp is the frame's pointer in this function, and not just a register."""
    n = fmas = loads = stores = spills = calls = multiplied = 0
    for i in instructions:
        if i.padding:
            continue
        n += 1
        if _FMA.match(i.mnemonic):
            fmas += 1
            multiplied += _width(i)
        calls += i.mnemonic.startswith("call")
        memory = [k for k, operand in enumerate(i.operands) if "(" in operand]
        if not memory or _NO_ACCESS.match(i.mnemonic):
            continue
        last = memory[-1] == len(i.operands) - 1
        # A masked or gathered vector has its register last too, so only the place of the memory operand tells.
        reads = not last or bool(_READS_LAST.match(i.mnemonic)) or not _WRITES_LAST.match(i.mnemonic)
        writes = last and not _READS_LAST.match(i.mnemonic)
        loads += reads
        stores += writes
        stack = _STACK.match(i.operands[memory[-1]])
        if stack and (stack[2] == "rsp" or frame) and any(_VECTOR.search(operand) for operand in i.operands):
            spills += 1
    return Loop(n, fmas, loads, stores, spills, calls, multiplied)


def loops_in(disassembly: str, *, every: bool = False) -> dict[str, Loop]:
    """Innermost loops in the text of ``objdump -d --no-show-raw-insn -C``.

    Parameters
    ----------
    disassembly : str
        The text.
    every : bool
        Loops without an FMA too.

    Returns
    -------
    dict of str to Loop
        By ``demangled function#k``, k from 0 in the order of addresses. Functions of one name are taken for one.
    """
    found: dict[str, list[Loop]] = defaultdict(list)
    for name, body in _functions(disassembly):
        frame = any(i.mnemonic == "mov" and i.operands == ("%rsp", "%rbp") for i in body)
        for first, last in _innermost(body):
            loop = _count((i for i in body if first <= i.address <= last), frame)
            if every or loop.fmas > 0:
                found[name].append(loop)
    return {f"{name}#{k}": loop for name, loops in found.items() for k, loop in enumerate(loops)}


def _objects(path: Path) -> Iterator[tuple[str, Path]]:
    """The object files of a path, with the names that tell them apart and are the same in another build folder."""
    if path.is_file():
        yield path.name, path
        return
    if path.is_dir():
        root, files = path, sorted(path.rglob("*.o"))
    else:
        fixed = [part for part in path.parts if not glob.has_magic(part)]
        root = Path(*fixed[: next((k for k, part in enumerate(path.parts) if glob.has_magic(part)), 0)])
        files = sorted(Path(f) for f in glob.glob(str(path), recursive=True) if os.path.isfile(f))
    if not files:
        raise ValueError(f"paths: got {str(path)!r}, which is no object file and holds or matches none")
    for file in files:
        yield file.relative_to(root).as_posix(), file


def _disassemble(path: Path) -> str:
    try:
        done = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", "-C", str(path)], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise RuntimeError("reading object files needs objdump, of GNU binutils, which is not installed") from None
    if done.returncode != 0:
        raise ValueError(f"paths: got {str(path)!r}, which objdump does not read: {done.stderr.strip()}")
    machine = re.search(r"file format (\S+)", done.stdout)
    if machine is None or machine[1] != "elf64-x86-64":
        raise ValueError(f"paths: got {str(path)!r} in format {machine[1] if machine else 'unknown'}, wanted elf64-x86-64")
    return done.stdout


def loops_of(paths: Sequence[Path], *, every: bool = False) -> dict[str, Loop]:
    """Innermost loops of object files.

    Parameters
    ----------
    paths : sequence of Path
        Object files; folders, of which all ``*.o`` are read; patterns as of :func:`glob.glob`, ``**`` included.
    every : bool
        Loops without an FMA too.

    Returns
    -------
    dict of str to Loop
        By ``object::demangled function#k``. The object is a file's name, or its path below the folder or below the fixed part of
        the pattern, so that two build folders have the same keys.

    Raises
    ------
    ValueError
        When a path gives no object file, two objects have one name, or a file is no x86-64 object.
    RuntimeError
        When ``objdump`` is not installed.
    """
    found: dict[str, Loop] = {}
    seen: dict[str, Path] = {}
    for path in paths:
        for name, file in _objects(Path(path)):
            if seen.setdefault(name, file) != file:
                raise ValueError(f"paths: got two objects of the name {name!r}, {str(seen[name])!r} and {str(file)!r}")
            found |= {f"{name}::{key}": loop for key, loop in loops_in(_disassemble(file), every=every).items()}
    return found


# ---- two builds ----


def _by_function(loops: Mapping[str, Loop]) -> dict[str, list[Loop]]:
    functions: dict[str, list[Loop]] = defaultdict(list)
    for key, loop in loops.items():
        if loop.fmas > 0:
            functions[key.rpartition("#")[0]].append(loop)
    return functions


def _pairs(base: Sequence[Loop], head: Sequence[Loop]) -> list[tuple[Loop, Loop]]:
    """Loops that are to be compared: those that stand in both builds are done with, whatever their numbers; the rest are paired in
    order of size, or, where a loop was split, joined or added, all loops are compared as one."""
    same = Counter(base) & Counter(head)
    old, new = (sorted((Counter(loops) - same).elements(), key=lambda loop: (loop.fmas, astuple(loop))) for loops in (base, head))
    if len(old) == len(new):
        return list(zip(old, new))
    nothing = Loop(0, 0, 0, 0, 0, 0, 0)
    return [(sum(base, nothing), sum(head, nothing))]


def compare(base: Mapping[str, Loop], head: Mapping[str, Loop], threshold: float) -> list[Difference]:
    """What became worse in the loops that hold FMAs.

    Loops are matched within a function, by what they hold and not by number. A function whose number of loops changed is compared by
    the sums over all its loops: its instructions over its FMAs are the loops' own ratios, weighted by their FMAs.

    Parameters
    ----------
    base, head : mapping of str to Loop
        Of :func:`loops_of`, for the old build and the new.
    threshold : float
        By how much instructions and loads for 64 bytes multiplied may grow: 0.03 is 3 %. A new spill or call is always reported.

    Returns
    -------
    list of Difference
        By function. Functions that are in one build only are listed, but are no regressions.
    """
    if not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold: got {threshold!r}, wanted a finite number of at least 0")
    old, new = _by_function(base), _by_function(head)
    found = []
    for function in sorted(old.keys() | new.keys()):
        if function not in old or function not in new:
            what = "vanished" if function in old else "appeared"
            found.append(Difference(function, what, len(old.get(function, ())), len(new.get(function, ())), False))
            continue
        for b, h in _pairs(old[function], new[function]):
            for what in ("instructions", "loads"):
                ratios = 64 * getattr(b, what) / b.multiplied, 64 * getattr(h, what) / h.multiplied
                if ratios[1] > ratios[0] * (1 + threshold):
                    found.append(Difference(function, what, *ratios, True))
            for what in ("spills", "calls"):
                if getattr(h, what) > getattr(b, what):
                    found.append(Difference(function, what, getattr(b, what), getattr(h, what), True))
    return found
