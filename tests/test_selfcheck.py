"""The self-check of `gradfold.cuda`, without a GPU: its cases, what it notices, its children, its report.

The CPU stands on both sides; `Wrong`, `Lost`, `Dying` and `Stuck` are sides that fail in the ways of a GPU.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import simulator
from gradfold import _core
from gradfold.cuda import _check_bits, _check_cases, selfcheck
from gradfold.cuda._check_bits import Cpu

HERE = str(Path(__file__).parent)
MATHS = [{"kind": "maths", "name": name, "dtype": "float32", "seed": 3} for name in _check_cases.FUNCTIONS]
BAD = "log"  # the function at which the sides below fail


class Wrong(Cpu):
    """One bit of one value is another."""

    def maths(self, name, x):
        out = super().maths(name, x)
        if name == BAD:
            out.view(np.uint32)[77] ^= 1
        return out


class Lost(Cpu):
    """An error, after which nothing works."""

    lost = False

    def maths(self, name, x):
        self.lost |= name == BAD
        if self.lost:
            raise RuntimeError("an illegal address")
        return super().maths(name, x)

    def wait(self):
        if self.lost:
            raise RuntimeError("still lost")


class Dying(Cpu):
    def maths(self, name, x):
        if name == BAD:
            os.abort()
        return super().maths(name, x)


class Stuck(Cpu):
    def maths(self, name, x):
        if name == BAD:
            time.sleep(1000)
        return super().maths(name, x)


# ---- cases ---------------------------------------------------------------------------------------------------------


def test_every_case_of_the_quick_sample_runs() -> None:
    side = Cpu()
    found = [_check_bits.outcome(case, side) for case in _check_cases.few()]
    assert [record for record in found if record["status"] != "same"] == []
    assert {"train", "gradient", "poison", "solo", "resume", "fit", "optimum"} <= {record["case"]["kind"] for record in found}


def test_every_kind_of_the_longer_list_runs() -> None:
    cases = _check_cases.many(1)
    rng = np.random.default_rng(0)
    chosen = [cases[i] for i in rng.choice(len(cases), 60, replace=False)] + _check_cases.tiny()
    for case in chosen:
        assert _check_bits.outcome(case, Cpu())["status"] == "same", case


def test_cases_can_be_written_down() -> None:
    many = _check_cases.many(2)
    cases = _check_cases.few() + many + _check_cases.tiny()
    assert json.loads(json.dumps(cases, allow_nan=False)) == cases
    assert len({json.dumps(case, sort_keys=True) for case in many}) == len(many)


def test_some_models_of_the_diverging_cases_diverge() -> None:
    cases = [case for case in _check_cases.many(1) if case["kind"] == "train" and case["data"] == "diverging"]
    diverged = [(_check_bits.compute(case, Cpu())[0]["diverged_epoch"] >= 0).any() for case in cases[:12]]
    assert sum(diverged) >= 3


def test_pairwise_has_every_valid_pair() -> None:
    factors: dict[str, Any] = {"a": (1, 2, 3), "b": ("x", "y"), "c": (True, False), "d": (0, 1, 2, 3, 4)}
    rows = _check_cases.pairwise(factors, 5, lambda row: row["a"] != 3 or row["b"] == "y")
    for one, other in itertools.combinations(factors, 2):
        found = {(row[one], row[other]) for row in rows}
        wanted = set(itertools.product(factors[one], factors[other]))
        assert wanted - found <= {(3, "x")}
    assert len(rows) < 40
    assert rows == _check_cases.pairwise(factors, 5, lambda row: row["a"] != 3 or row["b"] == "y")


def test_spread_keeps_every_case_once() -> None:
    cases = _check_cases.few()
    for n in (1, 3, 8, 100):
        shares = _check_cases.spread(cases, n)
        assert len(shares) <= n
        assert sorted(map(repr, itertools.chain(*shares))) == sorted(map(repr, cases))
        assert max(map(len, shares)) < 2 * len(cases) / n + 10
    assert _check_cases.spread([], 4) == []


# ---- what is noticed -----------------------------------------------------------------------------------------------


def test_one_wrong_bit_is_found() -> None:
    record = _check_bits.outcome(MATHS[2], Wrong())
    assert record["status"] == "differs"
    (one,) = record["mismatches"]
    assert (one["array"], one["differing"], one["at"]) == ("log(x)", 1, [77])
    assert int(one["cpu"]["hex"], 16) ^ int(one["device"]["hex"], 16) == 1


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"a": np.zeros(3, np.float32)}, "cpu is float64 (3,), device is float32 (3,)"),
        ({"a": None}, "None on the device side alone"),
        ({}, "only on the cpu"),
        ({"a": np.zeros(3), "b": np.zeros(1)}, "only on the device"),
    ],
)
def test_other_shapes_and_names_are_found(found: dict[str, Any], problem: str) -> None:
    assert [one["problem"] for one in _check_bits.mismatches({"a": np.zeros(3)}, found, [])] == [problem]


def test_signs_of_zero_and_payloads_of_nan_count() -> None:
    a, b = np.array([[0.0, 1.0], [np.nan, 2.0]]), np.array([[-0.0, 1.0], [np.nan, 2.0]])
    b.view(np.uint64)[1, 0] |= 1
    (one,) = _check_bits.mismatches({"a": a}, {"a": b}, [])
    assert (one["differing"], one["at"], one["columns"], one["largest_relative"]) == (2, [0, 0], [0], 0.0)
    assert one["device"] == {"hex": "8000000000000000", "value": "-0.0"}


def test_pairs_of_one_side_are_compared() -> None:
    same = {"a": np.zeros(2), "b": np.ones(2)}
    (one,) = _check_bits.mismatches(same, same, [("a", "b")])
    assert (one["array"], one["differing"], one["at"]) == ("a | b", 2, [0])
    assert (one["first"]["value"], one["second"]["value"]) == ("0.0", "1.0")


# ---- children ------------------------------------------------------------------------------------------------------


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the maths cases in child processes, on a side of this file."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")]))
    return lambda side, seconds=60.0: selfcheck.run_cases(str(tmp_path), MATHS, seconds, f"test_selfcheck:{side}")


def test_children_run_all_cases(children: Any) -> None:
    found = children("Cpu")
    assert (found["status"], found["counts"], found["failures"]) == ("ok", {"same": 6, "not run": 0}, [])
    assert found["kinds"] == {"maths": {"same": 6}}


def test_a_difference_is_a_failure(children: Any) -> None:
    found = children("Wrong")
    assert (found["status"], found["counts"]) == ("failed", {"same": 5, "differs": 1, "not run": 0})
    assert found["failures"][0]["case"] == MATHS[2]


@pytest.mark.parametrize(
    ("side", "status", "text"), [("Lost", "error", "an illegal address"), ("Dying", "crash", "exit code -6")]
)
def test_the_cases_after_a_death_run_in_another_child(children: Any, side: str, status: str, text: str) -> None:
    found = children(side)
    assert (found["status"], found["counts"]) == ("failed", {"same": 5, status: 1, "not run": 0})
    (record,) = found["failures"]
    assert record["case"] == MATHS[2]
    assert text in record["error"]


def test_a_case_that_hangs_is_left(children: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "_STALLED", 10)
    found = children("Stuck")
    assert found["counts"] == {"same": 5, "crash": 1, "not run": 0}
    assert "no sign of life" in found["failures"][0]["error"]


def test_cases_end_with_their_time(children: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "_GRACE", 1)
    found = children("Stuck", 15.0)  # of which a child on a busy machine wants some to begin
    assert found["status"] == "ok"  # what ran was right
    assert Counter(found["counts"]) == {"same": 2, "not run": 4}


# ---- the command and its report ------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("NUMBA_ENABLE_CUDASIM", None)
    command = [sys.executable, "-m", "gradfold.cuda.selfcheck"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("gradfold.cuda.selfcheck: device 'cuda': ")
    assert "pip install 'gradfold[cuda13]'" in done.stderr


def fake_task(folder: str, task: str, arguments: dict[str, Any], seconds: float) -> dict[str, Any]:
    if task == "machine":
        versions = {"numba-cuda": "0.30"}
        gpu = {"name": "NVIDIA H100 80GB", "driver": "13.0"}
        return {"results": [{"gpu": gpu, "cpu_level": "x86_v4", "cpu_cores": 2, "versions": versions}]}
    if task == "peaks":
        return {"results": [{"name": "float32 FMA", "tflops": 50.0}, {"name": "read", "gbytes_per_s": 3000.0}]}
    if task == "speed":
        kernels = {"kernel_seconds": 0.08, "kernel_tflops": 31.25}
        return {"results": [{"name": "loss_gradient", "tflops": 25.0, "seconds": 0.1, "peak": "float32 FMA", **kernels}]}
    if task == "peer":
        if "jax" in arguments["name"]:
            return {"results": [], "problem": "exit code 1: no memory"}
        return {"results": [{"name": arguments["name"], "tflops": 5.0, "peak": "float32 FMA"}]}
    if task == "errors":
        return {"results": [{"name": "an array of 8 TB", "message": "MemoryError: no", "value": float("nan")}]}
    return {"results": [], "cut": "time"}


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A GPU is pretended; the CPU is in its place."""
    monkeypatch.setattr(selfcheck, "require_cuda", lambda: SimpleNamespace(SIMULATED=False))
    monkeypatch.setattr(selfcheck, "_task", fake_task)
    monkeypatch.setattr(selfcheck, "_SIDE", "gradfold.cuda._check_bits:Cpu")
    monkeypatch.setattr(selfcheck, "_sanitizer_path", lambda: None)
    monkeypatch.setattr(_check_cases, "few", lambda: MATHS[:2])
    monkeypatch.setattr(_check_cases, "many", lambda: MATHS[2:4])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_report(pretended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert selfcheck.main([]) == 0
    report = json.loads((pretended / "selfcheck-NVIDIA-H100-80GB.json").read_text())
    assert list(report["sections"]) == list(selfcheck.SECTIONS)
    assert report["status"] == "ok"
    assert report["sections"]["bits"]["counts"] == {"same": 2, "not run": 0}
    speed = report["sections"]["speed"]["results"][0]
    assert (speed["of_peak"], speed["kernels_of_peak"]) == (0.5, 0.625)
    assert report["sections"]["peers"]["results"][-1]["skipped"] == "exit code 1: no memory"
    assert report["sections"]["errors"]["results"][0]["value"] is None
    assert report["sections"]["fit"]["status"] == "skipped: time"
    assert report["sections"]["sanitizer"]["status"] == "skipped: compute-sanitizer is not installed"
    out = capsys.readouterr().out
    assert "50.0% of the peak, kernels alone 0.08000 s, 62.5% of the peak" in out
    assert "NVIDIA H100 80GB, driver 13.0" in out
    assert out.endswith("report: ./selfcheck-NVIDIA-H100-80GB.json\n")


def test_a_difference_fails_the_run(
    pretended: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(selfcheck, "_SIDE", "test_selfcheck:Wrong")
    assert selfcheck.main(["--only", "bits", "more", "--out", "report.json"]) == 1
    report = json.loads((pretended / "report.json").read_text())
    assert (report["status"], report["sections"]["bits"]["status"], report["sections"]["more"]["status"]) == (
        "failed",
        "ok",
        "failed",
    )
    out = capsys.readouterr().out
    assert 'DIFFERS {"kind": "maths", "name": "log"' in out
    assert "log(x): 1 of" in out


def test_a_failed_task_fails_the_run(pretended: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "_task", lambda *_: {"results": [{"name": "x", "failed": True, "error": "no"}]})
    assert selfcheck.main(["--only", "errors", "--out", "r.json"]) == 1
    monkeypatch.setattr(selfcheck, "_task", lambda *_: {"results": [], "problem": "exit code -11: "})
    assert selfcheck.main(["--only", "peaks", "--out", "r.json"]) == 1


def test_no_time_is_no_failure(pretended: Path) -> None:
    assert selfcheck.main(["--minutes", "0.01", "--out", "r.json"]) == 0
    report = json.loads((pretended / "r.json").read_text())
    assert {section["status"] for section in report["sections"].values()} == {"skipped: time"}


def test_sections_are_chosen(pretended: Path) -> None:
    assert selfcheck.main(["--quick", "--skip", "peaks", "errors", "--out", "r.json"]) == 0
    report = json.loads((pretended / "r.json").read_text())
    assert list(report["sections"]) == ["machine", "bits", "speed"]
    assert "peers" not in report["sections"]["speed"]


def test_wrong_options(pretended: Path) -> None:
    for wrong in (["--minutes", "0"], ["--only", "nothing"]):
        with pytest.raises(SystemExit) as end:
            selfcheck.main(wrong)
        assert end.value.code == 2


@pytest.mark.parametrize(
    ("log", "code", "status"),
    [
        ("tiny: 9 of 9\n========= ERROR SUMMARY: 0 errors\n", 0, "ok"),
        ("========= ERROR SUMMARY: 3 errors\n", 0, "failed"),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0, "ok"),
        ("========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)\n", 0, "failed"),
        ("========= ERROR SUMMARY: 0 errors\n", 1, "failed"),
        ("========= Error: Device not supported\n", 1, "skipped: the tool does not run here"),
        ("Traceback\n", 1, "failed"),
    ],
)
def test_summaries_of_the_sanitizer(log: str, code: int, status: str) -> None:
    assert selfcheck._summary(log, code, late=False)["status"] == status


def test_a_sanitizer_that_is_late_is_skipped() -> None:
    assert selfcheck._summary("", -9, late=True)["status"] == "skipped: time"


def test_both_sanitizers_run(pretended: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = pretended / "sanitizer"
    tool.write_text('#!/bin/sh\necho "$@"\necho "========= ERROR SUMMARY: 0 errors"\n')
    tool.chmod(0o755)
    monkeypatch.setattr(selfcheck, "_sanitizer_path", lambda: str(tool))
    assert selfcheck.main(["--only", "sanitizer", "--out", "r.json"]) == 0
    found = json.loads((pretended / "r.json").read_text())["sections"]["sanitizer"]
    assert found["status"] == found["memcheck"]["status"] == found["racecheck"]["status"] == "ok"


# ---- the roofline's kernels ----------------------------------------------------------------------------------------


def _roofline() -> Any:
    """The module, where numba-cuda is installed."""
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    from gradfold.cuda import roofline

    return roofline


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_peak_is_of_fused_multiply_adds(dtype: str) -> None:
    roofline = _roofline()

    text = roofline.fma_kernel(dtype).ptx((9, 0))
    bits = dtype[-2:]
    (loop,) = [part for part in text.split("$L__BB") if f"fma.rn.f{bits}" in part]
    assert loop.count(f"fma.rn.f{bits}") == roofline.CHAINS * roofline.UNROLLED
    assert loop.count("\n") < roofline.CHAINS * roofline.UNROLLED + 12  # and hardly anything else


def test_same_in_the_simulator() -> None:
    _roofline()
    simulator.run("test_sim_selfcheck.py")


def test_bandwidth_kernels_read_and_write_all() -> None:
    roofline = _roofline()

    read, copy = roofline.READ.ptx((9, 0)), roofline.COPY.ptx((9, 0))
    assert (read.count("ld.global"), read.count("st.global")) == (8, 1)
    assert (copy.count("ld.global"), copy.count("st.global")) == (8, 8)


def test_the_cpus_losses_are_those_of_the_kernels() -> None:
    """`Cpu.loss` against one model on one row."""
    z, y = np.array([0.3, -2.0, 5.0]), np.array([0.0, 1.0, 1.0])
    values, slopes = Cpu().loss("log_loss", z, y)
    for i in range(3):
        loss, gradient = np.empty(1), np.empty((1, 1))
        one = np.ones((1, 1))
        _core.gradient.loss_gradient(
            one,
            y[i : i + 1],
            z[i : i + 1, None],
            None,
            "log_loss",
            False,
            None,
            None,
            None,
            None,
            None,
            loss,
            gradient,
            None,
            1,
        )
        assert (loss[0], gradient[0, 0]) == (values[i], slopes[i])
