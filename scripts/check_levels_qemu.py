#!/usr/bin/env python
"""Run every kernel, and a fit in Python, on emulated CPUs: no illegal instruction, and the bytes of this machine.

    python scripts/check_levels_qemu.py              # needs an installed gradfold, CMake, Ninja, a compiler; apt-get install qemu-user
    python scripts/check_levels_qemu.py --every 1    # all cases of the self-test, not every 17th; hours

Nehalem has SSE4.2 and no AVX, so that only the serial level may run there; Haswell has AVX2 and FMA, the level x86_v3. qemu raises SIGILL
where an instruction is not the CPU's. Both programs print their levels and a digest of their results (of the serial level's, the self-test,
which compares the other levels with it). QEMU_X86_64 names another emulator; it must be 7.2 or later, the first with AVX2.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPUS = {"Nehalem": ["serial"], "Haswell": ["serial", "x86_v3"]}


def fail(message: str) -> None:
    sys.exit(f"check_levels_qemu: {message}")


def results(name: str, command: list[str], cpu: str | None) -> tuple[list[str], str]:
    """The levels and the digest that a program prints on a CPU, None for this machine's."""
    begin = time.monotonic()
    emulator = [] if cpu is None else [os.environ.get("QEMU_X86_64", "qemu-x86_64"), "-cpu", cpu]
    environment = {key: value for key, value in os.environ.items() if key != "GRADFOLD_LEVEL"}
    done = subprocess.run(emulator + command, capture_output=True, text=True, env=environment)
    where = f"{name} {'here' if cpu is None else 'on ' + cpu}"
    if done.returncode != 0:
        fail(f"{where} exited with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    lines = {words[0]: words[1:] for words in map(str.split, done.stdout.splitlines()) if words}
    print(f"{where}: {', '.join(lines['levels'])}; digest {lines['digest'][0][:16]}; {time.monotonic() - begin:.0f} s", flush=True)
    return lines["levels"], lines["digest"][0]


def compare(name: str, command: list[str]) -> None:
    _, here = results(name, command, None)
    for cpu, wanted in CPUS.items():
        levels, digest = results(name, command, cpu)
        if levels != wanted:
            fail(f"{cpu} has the levels {levels}, wanted {wanted}")
        if digest != here:
            fail(f"the {name} has other bytes on {cpu} than here")


def build(folder: Path) -> Path:
    settings = ["-DCMAKE_BUILD_TYPE=Release", "-DGRADFOLD_PYTHON=OFF", "-DGRADFOLD_SELFTEST=ON"]
    for command in (["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *settings], ["cmake", "--build", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            fail(f"the self-test does not build\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return folder / "gradfold_selftest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=17, metavar="N", help="take every Nth case of the self-test's gradients and trainings")
    parser.add_argument("--selftest", type=Path, help="a self-test that is built already")
    parser.add_argument("--no-python", action="store_true", help="the self-test alone: no gradfold is installed")
    arguments = parser.parse_args()
    if platform.machine() != "x86_64":
        fail(f"this is {platform.machine()}: the levels are x86_64's (scripts/neon_check.sh is for aarch64)")
    if shutil.which(os.environ.get("QEMU_X86_64", "qemu-x86_64")) is None:
        fail("qemu-x86_64 is not installed; on Debian or Ubuntu: apt-get install qemu-user")
    with tempfile.TemporaryDirectory() as folder:
        selftest = arguments.selftest or build(Path(folder))
        compare("self-test", [str(selftest), str(arguments.every)])
    if not arguments.no_python:
        compare("fit", [sys.executable, str(ROOT / "scripts" / "small_fit.py")])
    print("check_levels_qemu: the same bytes on every CPU")


if __name__ == "__main__":
    main()
