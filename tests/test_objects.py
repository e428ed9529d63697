"""No instruction of a level stands outside its objects, and the linker has no way to carry one out.

The files looked at are those of the build directory that a source install leaves in the checkout. An instruction that begins with
the byte 0x62 has the EVEX encoding (AVX-512), one with 0xC4 or 0xC5 the VEX encoding (AVX, FMA, BMI, and the moves of AVX-512's masks):
in 64-bit mode these bytes begin nothing else (Intel SDM, volume 2, sections 2.3 and 2.7).
"""

from __future__ import annotations

import functools
import platform
import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from gradfold import _core

BUILDS = Path(__file__).resolve().parents[1] / "build"
EXTENSION = f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
PREFIXES = {"66", "67", "f0", "f2", "f3", "2e", "36", "3e", "26", "64", "65"}  # legacy ones, which may precede the encoding
LINE = re.compile(r"\s*[0-9a-f]+:\t((?:[0-9a-f]{2} )+)\s*\t(.*)")

pytestmark = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="the levels are x86-64's, and the tools Linux's"
)


def _tool(*command: object) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout


def _encoding(code: str, text: str) -> str:
    """"avx512", "vex" or "base"."""
    byte = next((byte for byte in code.split() if byte not in PREFIXES), "")
    if byte == "62" or (byte in ("c4", "c5") and "%k" in text):
        return "avx512"
    return "vex" if byte in ("c4", "c5") else "base"


@functools.cache
def _encodings(file: Path) -> Counter[str]:
    """How many instructions of a file have which encoding."""
    found: Counter[str] = Counter()
    for line in _tool("objdump", "--disassemble", "--insn-width=16", file).splitlines():
        if (match := LINE.fullmatch(line)) is not None:
            found[_encoding(match[1], match[2])] += 1
            # Data among the code would shift all that follows.
            assert "(bad)" not in match[2], f"{file.name}: {line}"
    return found


@pytest.fixture(scope="module")
def build() -> Path:
    """The build directory of the extension that is installed."""
    found = [path.parent for path in BUILDS.glob(f"*/{EXTENSION}")]
    if not found:
        pytest.skip(f"no build directory of {EXTENSION} in the checkout")
    assert len(found) == 1, f"several build directories: {found}"
    return found[0]


@pytest.fixture(scope="module")
def objects(build: Path) -> dict[str, list[Path]]:
    """All object files of the extension by level; ``base`` is everything compiled for the baseline."""
    by_level: dict[str, list[Path]] = {"base": [], "x86_v3": [], "x86_v4": []}
    for file in sorted(build.glob("CMakeFiles/*.dir/csrc/**/*.o")):
        level = next((level for level in by_level if file.name.endswith(f"_{level}.cpp.o")), "base")
        by_level[level].append(file)
    return by_level


def test_instructions_stand_in_their_level(objects: dict[str, list[Path]]) -> None:
    serial = {file.name.replace("_serial.", ".") for file in objects["base"] if "_serial." in file.name}
    for level in ("x86_v3", "x86_v4"):
        assert {file.name.replace(f"_{level}.", ".") for file in objects[level]} == serial != set()
    for file in objects["base"]:
        assert set(_encodings(file)) == {"base"}, f"{file.name}: {_encodings(file)}"
    for file in objects["x86_v3"]:
        assert set(_encodings(file)) == {"base", "vex"}, f"{file.name}: {_encodings(file)}"
    for file in objects["x86_v4"]:
        assert _encodings(file)["avx512"] > 0, file.name


def test_level_objects_share_no_definition(objects: dict[str, list[Path]]) -> None:
    """A weak or unique symbol (a template, an inline function) exists once in the extension, in whichever object's copy the linker took."""
    defined = Counter[str]()
    for level in ("x86_v3", "x86_v4"):
        for file in objects[level]:
            for line in _tool("nm", "--defined-only", "--extern-only", file).splitlines():
                _, kind, name = line.split()
                assert kind in "BDRT", f"{file.name} defines {name} ({kind}), which another object may share"
                defined[name] += 1
    assert defined and set(defined.values()) == {1}


def test_the_extension_is_its_objects(build: Path, objects: dict[str, list[Path]]) -> None:
    """The linker brings in no vector code of its own (a static library's, say), and what is installed is what was linked."""
    linked = _encodings(build / EXTENSION)
    for encoding in ("vex", "avx512"):
        assert linked[encoding] == sum(_encodings(file)[encoding] for files in objects.values() for file in files)
    if _text(Path(_core.__file__)) != _text(build / EXTENSION):
        pytest.skip("the extension that is installed was built elsewhere")


def _text(file: Path) -> list[str]:
    return _tool("objdump", "--full-contents", "--section=.text", file).splitlines()[3:]
