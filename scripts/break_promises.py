#!/usr/bin/env python
"""Break each promise in the kernels on purpose and show that its test goes red.

Works on a copy of the sources in a temporary directory: nothing in the checkout is touched. For every breakage below, a
few lines of the copy are changed, the extension is built again, and the tests named beside it run; they must fail. The
same tests must pass on the unbroken copy first. Needs a C++ compiler, CMake, pybind11 and the `test` extra.

    python scripts/break_promises.py            # all breakages
    python scripts/break_promises.py narrow     # those whose name contains "narrow"

Exits 1 if a breakage stays unnoticed, and 2 if a breakage no longer fits the sources (then mend its anchors here).
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Breakage:
    """One way to break a promise: (old, new) pairs of text in one file, each of which must occur."""

    name: str
    promise: str
    why: str  # what a programmer might have been thinking
    file: str
    edits: tuple[tuple[str, str], ...]
    tests: str  # a -k expression
    x86_only: bool = False
    at: str = "test_promises.py"  # the tests' file


BREAKAGES = (
    Breakage(
        "narrow panels round the product",
        "1 solo = batched",
        "a multiply and an add look the same as an FMA, and few models have a kernel of their own",
        "csrc/gradient/narrow-inl.h",
        (
            (
                "acc[g][m] = L::fma(column[c], L::set1(W[m * n_features + f + c]), acc[g][m]);",
                "acc[g][m] = L::add(L::mul(column[c], L::set1(W[m * n_features + f + c])), acc[g][m]);",
            ),
        ),
        "solo_is_batched",
    ),
    Breakage(
        "a diverged model stops its panel",
        "1 solo = batched",
        "once something is infinite, the panel is of no use",
        "csrc/train/walk.cpp",
        (("panel.alive &= ~lost;", "panel.alive = 0;"),),
        "solo_is_batched",
    ),
    Breakage(
        "a model that is moved loses a moment",
        "1 solo = batched",
        "adam finds its second moment again soon enough",
        "csrc/train/panel.h",
        (('    f("second", second, n_features);\n', ""),),
        "models_that_finish",
    ),
    Breakage(
        "a shared panel leaves features to nobody",
        "2 any number of threads",
        "rounding down is as good as rounding up",
        "csrc/train/walk.cpp",
        (("(p_ * (t + 1) / n_threads + 15) / 16 * 16", "p_ * (t + 1) / n_threads / 16 * 16"),),
        "threads_that_share_a_panel",
    ),
    Breakage(
        "the cut of a batch depends on the plan",
        "2 any number of threads",
        "smaller chunks balance better when threads share a batch",
        "csrc/train/walk.cpp",
        (
            (
                "const std::int64_t chunks_full = (B + kRowChunk - 1) / kRowChunk;",
                "const std::int64_t chunks_full = (B + kRowChunk / 2 - 1) / (kRowChunk / 2);",
            ),
            (
                "const std::int64_t begin = std::min(end, b * B + c * kRowChunk);",
                "const std::int64_t begin = std::min(end, b * B + c * (kRowChunk / 2));",
            ),
            (
                "const std::int64_t n = std::min(kRowChunk, end - begin);",
                "const std::int64_t n = std::min(kRowChunk / 2, end - begin);",
            ),
        ),
        "threads and training",
    ),
    Breakage(
        "a panel does not wait for the batches before",
        "2 any number of threads",
        "each thread has batches of its own, so they are in nobody's way",
        "csrc/train/walk.cpp",
        (("        of_panel[i].turn(w);\n", ""), ("        of_panel[i].done(w);\n", "")),
        "pass_panels_on",
    ),
    Breakage(
        "chunks are added as threads finish",
        "2 any number of threads",
        "a sum is a sum, so nobody needs to wait for its turn",
        "csrc/gradient/dense.cpp",
        (
            # A mutex keeps the additions whole, only their order is lost; a chunk in three dawdles, as it may on a
            # busy machine.
            ("  OrderedItems items;\n", "  static std::mutex lock;\n  OrderedItems items;\n"),
            (
                "items.turn(item);",
                "if (item % 3 == 1) std::this_thread::sleep_for(std::chrono::milliseconds(2));\n"
                "      std::lock_guard<std::mutex> locked(lock);",
            ),
            ("#include <cmath>\n", "#include <chrono>\n#include <cmath>\n#include <mutex>\n#include <thread>\n"),
        ),
        "threads_gradient",
    ),
    Breakage(
        "AVX2 rounds the product",
        "3 any level",
        "not every AVX2 machine has FMA",
        "csrc/simd/lanes_x86_v3.h",
        (
            ("return _mm256_fmadd_ps(a, b, c);", "return _mm256_add_ps(_mm256_mul_ps(a, b), c);"),
            ("return _mm256_fmadd_pd(a, b, c);", "return _mm256_add_pd(_mm256_mul_pd(a, b), c);"),
        ),
        "levels",
        x86_only=True,
    ),
    Breakage(
        "the residual is masked by a product",
        "5 no leak",
        "times 0 is 0",
        "csrc/gradient/gradient-inl.h",
        (
            (
                "gradient = L::select(use, gradient, L::zero());",
                "gradient = L::mul(gradient, L::select(use, one, L::zero()));",
            ),
        ),
        "no_leak",
    ),
    Breakage(
        "the gradient never selects",
        "5 no leak",
        "a residual of 0 cannot add anything",
        "csrc/gradient/gradient-inl.h",
        (("    if (select)\n      gradient_block", "    if (false && select)\n      gradient_block"),),
        "no_leak",
    ),
    Breakage(
        "narrow panels never select",
        "5 no leak",
        "a residual of 0 cannot add anything",
        "csrc/gradient/narrow-inl.h",
        (("if (want_gradient && !select) {", "if (want_gradient) {"),),
        "no_leak",
    ),
    Breakage(
        "several outputs never select",
        "5 no leak",
        "a residual of 0 cannot add anything",
        "csrc/gradient/outputs-inl.h",
        (("if (!select) return gradient_block", "if (true || !select) return gradient_block"),),
        "no_leak",
    ),
    Breakage(
        "the softmax of held-out rows is masked by a product",
        "5 no leak",
        "times 0 is 0",
        "csrc/gradient/outputs-inl.h",
        (
            (
                "L::store(z + k * L::N, L::select(use, gradient, L::zero()));",
                "L::store(z + k * L::N, L::mul(gradient, L::select(use, one, L::zero())));",
            ),
        ),
        "no_leak",
    ),
    Breakage(
        "moments of all rows",
        "5 no leak",
        "standardising once for all splits is cheaper",
        "csrc/train/standardize.cpp",
        (("kept += masks_[i] != 0;", "kept += 1;"),),
        "no_leak",
    ),
    Breakage(
        "weightless rows are training rows",
        "5 no leak",
        "a weight of 0 multiplies whatever stands there away",
        "csrc/gradient/roles.cpp",
        (("if (weight[rows[i]] == T(0)) masks[i] = 0;", "(void)0;"),),
        "no_leak",
    ),
    Breakage(
        "the GPU rounds the product",
        "4 CPU = CUDA",
        "Numba will contract it",
        "python/gradfold/cuda/tiles.py",
        (
            (
                "acc[i * TM + j] = fma(x[k], w[k * TM + j], acc[i * TM + j])",
                "acc[i * TM + j] = add(mul(x[k], w[k * TM + j]), acc[i * TM + j])",
            ),
        ),
        "simulator",
        at="test_cuda_gradient.py",
    ),
    Breakage(
        "the GPU's gradient never selects",
        "5 no leak",
        "a residual of 0 cannot add anything",
        "python/gradfold/cuda/tiles.py",
        (("poisoned[0] = 1", "poisoned[0] = 0"),),
        "simulator",
        at="test_cuda_gradient.py",
    ),
    Breakage(
        "the GPU's next chunk does not wait",
        "5 no leak",
        "the barrier before the products is enough",
        "python/gradfold/cuda/train.py",
        (("if c0 > begin:", "if c0 > end:"),),
        "chunks",
        at="test_cuda_train.py",
    ),
    Breakage(
        "the caller's floating-point environment stays",
        "1 to 5",
        "nobody switches flush-to-zero on",
        "csrc/simd/fpenv.h",
        (("saved_(read()) { write(kDefault); }", "saved_(read()) {}"),),
        "flushing or rounding_mode",
    ),
    Breakage(
        "a support's pivots are judged by the group's largest",
        "1 solo = batched",
        "the factor is of that size, so its rounding is, too",
        "csrc/optimum/elastic_net.cpp",
        (("drop_limit(p_), smallest", "drop_limit(most), smallest"),),
        "near_copy",
        at="test_optimum.py",
    ),
    Breakage(
        "rows that are left out share the first one's penalty",
        "1 solo = batched",
        "weights hardly differ, so a group of eight has one penalty",
        "csrc/optimum/leave_one_out.cpp",
        (("penalty[l] = keys_[l < n ? first + l : first].penalty", "penalty[l] = keys_[first].penalty"),),
        "solo_is_batched",
        at="test_leave_one_out.py",
    ),
    Breakage(
        "a working set is larger for models further back",
        "1 solo = batched",
        "how many columns a quadratic has is a matter of speed: the optimum is the same",
        "csrc/optimum/proximal_newton.cpp",
        (("std::max(kStart, 2 * support)", "std::max(kStart + m, 2 * support)"),),
        "supports_of_log_loss",
        at="test_optimum.py",
    ),
    Breakage(
        "columns that a model has taken in stay for the next",
        "1 solo = batched",
        "they are there already, and more columns cannot make an optimum worse",
        "csrc/optimum/elastic_net_path.cpp",
        (
            (
                "        columns.keep(rung.n);\n      }\n",
                "      }\n      room(rung, columns.stride());\n"
                "      for (; rung.n < columns.size(); ++rung.n) rung.q[rung.n] = rung.view.q[columns.feature(rung.n)];\n",
            ),
        ),
        "other_models or shared_out",
        at="test_elastic_net_path.py",
    ),
    Breakage(
        "a model goes on with the factor of the one before",
        "1 solo = batched",
        "a factor follows its support, so its columns are right, in another order",
        "csrc/optimum/elastic_net_path.cpp",
        (("    own.start_from(start, at.l2);  // a point must not see what another one has made of it\n", ""),),
        "other_models or shared_out",
        at="test_elastic_net_path.py",
    ),
    Breakage(
        "products of rows that a model has changed stay for the next",
        "1 solo = batched",
        "what has joined and left is told apart, so the products are right but for rounding",
        "csrc/optimum/support_factor.h",
        (("    of_rows_ = other.of_rows_;\n", "    if (of_rows_ && other.of_rows_) return;\n    of_rows_ = other.of_rows_;\n"),),
        "outgrow_their_rows",
        at="test_elastic_net_path.py",
    ),
    Breakage(
        "a rung takes in more columns for each four models",
        "1 solo = batched",
        "they violate the rung's conditions, and more columns cannot make an optimum worse",
        "csrc/optimum/elastic_net_path.cpp",
        (
            (
                "    for (std::size_t i = 0; i < models.size() && (i == 0 || !late());) {\n",
                "    for (std::size_t i = 0; i < models.size() && (i == 0 || !late());) {\n      foresee();\n",
            ),
        ),
        "between_two_rungs",
        at="test_elastic_net_path.py",
    ),
    Breakage(
        "the mean second derivative is of all rows",
        "5 no leak",
        "it is a start alone, and a row that is held out bends the loss as the others do",
        "csrc/optimum/hessian.cpp",
        (
            (
                "            if ((chunk.masks[i] >> l & 1) == 0) continue;\n            const CurvatureModel<T>& model",
                "            const CurvatureModel<T>& model",
            ),
        ),
        "no_leak or sample or curvature",
        at="test_optimum.py",
    ),
    Breakage(
        "a refit starts from the mean of all candidates",
        "1 solo = batched",
        "it is nearer to the optimum than nothing is",
        "python/gradfold/_convergence.py",
        (
            (
                "    models = run.best_candidate * run.n_splits + np.arange(run.n_splits)\n",
                "    models = np.arange(len(run.coef))\n",
            ),
        ),
        "refit_starts",
        at="test_optimum.py",
    ),
    Breakage(
        "a Hessian sums all rows",
        "5 no leak",
        "the second derivative of rows that a model does not use is 0 already",
        "csrc/optimum/hessian.cpp",
        (
            (
                "            if ((chunk.masks[i] >> l & 1) == 0) continue;\n            kept[used[l]]",
                "            kept[used[l]]",
            ),
        ),
        "no_leak",
        at="test_optimum.py",
    ),
)


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, **options)


class Copy:
    """A copy of the sources with a build of its own."""

    def __init__(self, at: Path) -> None:
        self.at = at
        for folder in ("csrc", "python", "tests"):
            shutil.copytree(ROOT / folder, at / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        for file in ("CMakeLists.txt", "pyproject.toml"):
            shutil.copy2(ROOT / file, at / file)
        pybind = run([sys.executable, "-m", "pybind11", "--cmakedir"], check=True).stdout.strip()
        command = ["cmake", "-S", str(at), "-B", str(at / "build"), "-DCMAKE_BUILD_TYPE=Release"]
        command += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind}"]
        if shutil.which("ninja"):
            command += ["-G", "Ninja"]
        run(command, check=True)

    def build(self) -> None:
        done = run(["cmake", "--build", str(self.at / "build"), "-j", str(os.cpu_count() or 1)])
        if done.returncode != 0:
            raise SystemExit(f"the build failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        (module,) = (self.at / "build").glob("_core*.so")
        shutil.copy2(module, self.at / "python" / "gradfold" / module.name)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.at / "python")}

    def check_import(self) -> None:
        """An editable installation comes before PYTHONPATH, and then every breakage would stay unnoticed."""
        command = [sys.executable, "-c", "import gradfold; print(gradfold.__file__)"]
        found = run(command, cwd=self.at, env=self.environment(), check=True).stdout.strip()
        if not Path(found).is_relative_to(self.at):
            raise SystemExit(f"python imports {found} instead of the copy: run this where gradfold is not installed editable")

    def tests_pass(self, at: str, chosen: str) -> tuple[bool, str]:
        """Whether the chosen tests of a file pass, and the first that fails. Red is red: nothing is shrunk."""
        command = [sys.executable, "-m", "pytest", f"tests/{at}", "-x", "-q", "--tb=no", "-rfp", "-k", chosen]
        command += ["-p", "no:cacheprovider", "--hypothesis-profile=gradfold-unshrunk"]
        try:
            done = run(command, cwd=self.at, env=self.environment(), timeout=600)
        except subprocess.TimeoutExpired:
            return False, "did not end"
        if done.returncode not in (0, 1) and done.returncode > 0:
            raise SystemExit(f"pytest could not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        if done.returncode == 0 and "\nPASSED " not in done.stdout:
            raise SystemExit(f"tests/{at} -k '{chosen}' skipped everything; is the `test` extra installed?\n{done.stdout[-1000:]}")
        mark = f"FAILED tests/{at}::"
        failed = [line.removeprefix(mark) for line in done.stdout.splitlines() if line.startswith(mark)]
        return done.returncode == 0, failed[0].split(" - ")[0] if failed else f"ended with {done.returncode}"

    def edit(self, breakage: Breakage) -> str:
        """Apply a breakage; returns the text that was there."""
        path = self.at / breakage.file
        before = text = path.read_text()
        for old, new in breakage.edits:
            if old not in text:
                print(f"\n{breakage.name}: {breakage.file} no longer holds\n  {old}", file=sys.stderr)
                raise SystemExit(2)
            text = text.replace(old, new)
        path.write_text(text)
        return before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("name", nargs="?", default="", help="only breakages whose name contains this")
    wanted = parser.parse_args().name
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    chosen = [b for b in BREAKAGES if wanted in b.name and (x86 or not b.x86_only)]
    if not chosen:
        parser.error(f"no breakage's name contains {wanted!r}")
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="gradfold-break-") as directory:
        copy = Copy(Path(directory))
        for b in chosen:  # all anchors are checked before the first, long build
            (copy.at / b.file).write_text(copy.edit(b))
        copy.build()
        copy.check_import()
        for at, tests in sorted({(b.at, b.tests) for b in chosen}):
            passes, first = copy.tests_pass(at, tests)
            print(f"unbroken        {at} -k '{tests}': {'green' if passes else 'RED, ' + first}", flush=True)
            if not passes:
                return 1
        for b in chosen:
            start = time.monotonic()
            before = copy.edit(b)
            copy.build()
            passes, first = copy.tests_pass(b.at, b.tests)
            (copy.at / b.file).write_text(before)
            unnoticed += passes
            verdict = "GREEN: nobody noticed" if passes else f"red: {first}"
            print(f"{b.promise:24} {b.name:44} {verdict}  ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{len(chosen) - unnoticed} of {len(chosen)} breakages were noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    raise SystemExit(main())
