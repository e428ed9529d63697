"""Builds one side for the performance gate: the C++ driver, the kernels' objects, and a package that can be imported.

    python scripts/build_side.py SOURCE BUILD [-DNAME=VALUE ...]

BUILD gets ``gradfold_counts``, the objects under ``CMakeFiles``, and ``site``, a folder for PYTHONPATH. Further arguments go to CMake.
Only what changed is compiled again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def main(source: str, build: str, *options: str) -> None:
    def run(*words: str) -> None:
        subprocess.run(words, check=True)

    # Of the environment that calls this: CMake alone would look for pybind11 in the system's.
    where = subprocess.run([sys.executable, "-m", "pybind11", "--cmakedir"], check=True, capture_output=True, text=True).stdout.strip()
    run(
        "cmake", "-S", source, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGRADFOLD_COUNTS=ON",
        f"-Dpybind11_DIR={where}", f"-DPython_EXECUTABLE={sys.executable}", "-DGRADFOLD_PLANT=", *options,
    )  # fmt: skip
    run("cmake", "--build", build)
    site = Path(build, "site")
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(Path(source, "python/gradfold"), site / "gradfold", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    run("cmake", "--install", build, "--prefix", str(site))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
