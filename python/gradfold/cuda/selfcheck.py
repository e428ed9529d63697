"""Checks this machine's GPU against the CPU, byte for byte, and measures it: ``python -m gradfold.cuda.selfcheck``.

Sections, in this order, each a child process of its own, so that a crash or a lost context ends nothing but itself:

=========  =======================================================================================================
machine    what is measured: GPU, driver, versions
bits       the bytes of a sample of cases on both sides (`_check_cases.few`)
sanitizer  compute-sanitizer's memcheck and racecheck over section tiny, where it is installed
peaks      FLOP/s of FMAs in registers, bytes/s of memory (`roofline`)
speed      times of our kernels (`_check_speed`)
fit        one large search
errors     requests that the GPU's memory cannot hold
peers      other libraries' times for the same gradient (`_peers`)
more       many more cases, for as long as there is time
tiny       only if it is named: a handful of small cases in this process
=========  =======================================================================================================

Exit code: 0 if nothing differed and nothing failed, 1 if something did, 2 where there is no GPU, or for wrong options.
"""

from __future__ import annotations

import argparse
import glob
import importlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from gradfold import _check, _storage
from gradfold._device import DeviceError, require_cuda

# Section -> seconds that it may take at most. What is worth most comes first; the sanitizers need the kernels that the section
# before has compiled, and nothing is timed beside them.
SECTIONS = {
    "machine": 40,
    "bits": 120,
    "sanitizer": 90,
    "peaks": 45,
    "speed": 80,
    "fit": 150,
    "errors": 45,
    "peers": 150,
    "more": 900,
}
_QUICK = ("machine", "bits", "peaks", "speed", "errors")
_LEAST = {"fit": 40}  # seconds without which a section is not begun
_PEER_SECONDS = 45
_STALLED = 100  # seconds without a sign of life, compilation included
_GRACE = 10
_RESTARTS = 5  # of a worker whose process died
_LOST = 3  # a child's exit code: an error left its context unusable
_WIDTH = 240  # letters of a message in the table
_KEPT = 300  # differing or failed cases that the report describes
_SHOWN = 12  # differences in the table; the report has all


# -- children ---------------------------------------------------------------------------------------------------------


class _Child:
    """A process that does one task and writes results as lines of JSON."""

    def __init__(self, folder: str, task: str, arguments: dict[str, Any], seconds: float) -> None:
        handle, self._out = tempfile.mkstemp(dir=folder, suffix=".jsonl")
        os.close(handle)
        spec = self._out + ".spec"
        self.end = time.time() + seconds
        with open(spec, "w") as file:
            json.dump({"task": task, "arguments": arguments, "out": self._out, "deadline": self.end}, file)
        self._errors = open(self._out + ".stderr", "w+")  # noqa: SIM115
        self._process = _start([sys.executable, "-m", "gradfold.cuda.selfcheck", "--child", spec], self._errors)
        self._read = 0
        self.last_sign = time.time()

    def lines(self) -> list[dict[str, Any]]:
        """What has been written since the last call."""
        with open(self._out) as file:
            file.seek(self._read)
            text = file.read()
        whole, _, _ = text.rpartition("\n")
        if not whole:
            return []
        self._read += len(whole.encode()) + 1
        self.last_sign = time.time()
        return [json.loads(line) for line in whole.split("\n")]

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def overdue(self) -> bool:
        """Whether its time is over, and that which it has to notice."""
        return time.time() > self.end + _GRACE

    def stalled(self) -> bool:
        return time.time() - self.last_sign > _STALLED

    def stop(self) -> None:
        _stop(self._process)
        self._errors.close()

    def tail(self, length: int = 1500) -> str:
        """The end of what it wrote to standard error."""
        with open(self._errors.name, errors="replace") as file:
            return file.read()[-length:]


def _start(command: Sequence[str], output: Any) -> subprocess.Popen[bytes]:
    # A process group of its own, so that whatever it starts can be stopped with it.
    group: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **group)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def _task(folder: str, task: str, arguments: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Run a task to its end: "results", and "problem" if it died, or "cut" if its time was over before."""
    child = _Child(folder, task, arguments, seconds)
    found: dict[str, Any] = {"results": []}
    try:
        while True:
            code = child.poll()
            found["results"] += child.lines()
            if code is None and not child.overdue():
                time.sleep(0.05)
                continue
            if code is None:
                found["cut"] = "time"
            elif code:
                found["problem"] = f"exit code {code}: {child.tail()}"
            return found
    finally:
        child.stop()


class _Worker:
    """Cases in a child, and in the next one after it died, without the case that it died of."""

    def __init__(self, folder: str, cases: list[dict[str, Any]], end: float, arguments: dict[str, Any]) -> None:
        self._folder, self._end, self._arguments = folder, end, arguments
        self.left, self.records = cases, list[dict[str, Any]]()
        self._child: _Child | None = None
        self._begun, self._deaths, self._ended = 0, 0, False

    def step(self) -> bool:
        """Look after the child; False when there is nothing left to do."""
        if self._child is None:
            if self._ended or not self.left or time.time() >= self._end or self._deaths > _RESTARTS:
                return False
            arguments = {"cases": self.left, **self._arguments}
            self._child, self._begun = _Child(self._folder, "cases", arguments, self._end - time.time()), 0
        child = self._child
        code = child.poll()
        for line in child.lines():
            if line.pop("event") == "start":
                self._begun = 1
            else:
                self.records.append(line)
                self.left, self._begun = self.left[1:], 0
        if code is None and not (child.overdue() or child.stalled()):
            return True
        child.stop()
        self._child = None
        if code == 0 or (code is None and child.overdue()):
            self._ended = True
        elif code != _LOST:  # if the context was lost, the last record says of what
            self._deaths += 1
            text = f"no sign of life for {_STALLED} s" if code is None else f"exit code {code}"
            case = self.left[0] if self._begun else None
            self.records.append({"case": case, "status": "crash", "error": f"{child.tail()}\n{text}"})
            self.left = self.left[self._begun :]
        else:
            self._deaths += 1
        return True

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()


_SIDE = "gradfold.cuda._check_bits:Cuda"


def run_cases(folder: str, cases: list[dict[str, Any]], seconds: float, side: str | None = None) -> dict[str, Any]:
    """All cases, in several processes at once: most of the time goes into compiling kernels.

    Parameters
    ----------
    folder : str
        For the children's files.
    side : str
        "module:class" of what is held against the CPU.
    """
    from gradfold.cuda import _check_cases

    cores = _check.threads(None)
    shares = _check_cases.spread(cases, max(1, min(8, cores // 2)))
    own = {"side": side or _SIDE, "n_threads": max(1, cores // max(1, len(shares)))}
    workers = [_Worker(folder, share, time.time() + seconds, own) for share in shares]
    try:
        while any([worker.step() for worker in workers]):  # a list: all of them take their step
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.stop()
    records = [record for worker in workers for record in worker.records]
    counts = Counter(record["status"] for record in records)
    kinds: dict[str, Counter[str]] = {}
    for record in records:
        if record["case"] is not None:
            kinds.setdefault(record["case"]["kind"], Counter())[record["status"]] += 1
    bad = [record for record in records if record["status"] in ("differs", "error", "crash")]
    return {
        "status": "failed" if bad else "ok" if records else "skipped: time",
        "counts": {**counts, "not run": sum(len(worker.left) for worker in workers)},
        "kinds": {kind: dict(own) for kind, own in sorted(kinds.items())},
        "failures": bad[:_KEPT],
        "slowest": sorted((r for r in records if "seconds" in r), key=lambda r: -r["seconds"])[:5],
    }


# -- what a child does ------------------------------------------------------------------------------------------------


def _child(path: str) -> int:
    with open(path) as file:
        spec = json.load(file)
    out = open(spec["out"], "a")  # noqa: SIM115

    def emit(record: dict[str, Any]) -> None:
        out.write(json.dumps(_finite(record)) + "\n")
        out.flush()

    if spec["task"] == "cases":
        return _child_cases(spec["arguments"], spec["deadline"], emit)
    from gradfold.cuda import _check_speed

    tasks: dict[str, Callable[..., None]] = {
        name: getattr(_check_speed, name) for name in ("machine", "peaks", "speed", "peer", "errors", "large_fit")
    }
    tasks[spec["task"]](emit, **spec["arguments"])
    return 0


def _child_cases(arguments: dict[str, Any], deadline: float, emit: Callable[[dict[str, Any]], None]) -> int:
    from gradfold.cuda._check_bits import outcome

    module, _, name = arguments["side"].partition(":")
    side = getattr(importlib.import_module(module), name)(arguments["n_threads"])
    for case in arguments["cases"]:
        if time.time() > deadline:
            break
        emit({"event": "start"})
        record = outcome(case, side, arguments["n_threads"])
        emit({"event": "done", **record})
        if record["status"] == "error":
            try:
                side.wait()
            except Exception:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(_LOST)  # the context is of no more use, not even for an orderly end
    return 0


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no word for."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- sections ---------------------------------------------------------------------------------------------------------


class _Run:
    """The sections of one run, and its report."""

    def __init__(self, options: argparse.Namespace, chosen: list[str], folder: str) -> None:
        self.options, self.chosen, self.folder = options, chosen, folder
        self.began = time.time()
        self.end = self.began + 60 * options.minutes
        self.report: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "status": "ok",
            "sections": {},
        }
        self.path: str = options.out or ""
        self._sanitizers: dict[str, Any] = {}

    def run(self) -> None:
        for name in self.chosen:
            left = self.end - time.time()
            seconds = min(float(SECTIONS[name]), left)
            if seconds < _LEAST.get(name, 8):
                self._record(name, {"status": "skipped: time"}, 0.0)
                continue
            print(f"{time.time() - self.began:5.0f} s  {name} …", file=sys.stderr, flush=True)
            began = time.time()
            try:
                found = getattr(self, f"_{name}")(seconds)
            except Exception:
                found = {"status": "failed", "problem": traceback.format_exc()}
            self._record(name, found, time.time() - began)
        self.write()

    def _record(self, name: str, found: dict[str, Any], seconds: float) -> None:
        self.report["sections"][name] = {**found, "seconds": round(seconds, 2)}
        if found["status"] == "failed":
            self.report["status"] = "failed"
        self.write()

    def write(self) -> None:
        self.report["seconds"] = round(time.time() - self.began, 1)
        if not self.path:
            machine = self.report["sections"].get("machine", {}).get("results") or [{}]
            gpu = machine[0].get("gpu")
            slug = re.sub(r"[^A-Za-z0-9]+", "-", gpu["name"] if isinstance(gpu, dict) else "gpu").strip("-")
            results = os.path.join("benchmarks", "results")
            self.path = os.path.join(results if os.path.isdir(results) else ".", f"selfcheck-{slug}.json")
        with _storage.atomic(self.path) as file:
            file.write((json.dumps(_finite(self.report), indent=1, allow_nan=False) + "\n").encode())

    def _simple(self, task: str, seconds: float, **arguments: Any) -> dict[str, Any]:
        found = _task(self.folder, task, arguments, seconds)
        bad = "problem" in found or any(result.get("failed") or "error" in result for result in found["results"])
        late = "cut" in found and not found["results"]
        return {"status": "failed" if bad else "skipped: time" if late else "ok", **found}

    def _machine(self, seconds: float) -> dict[str, Any]:
        return self._simple("machine", seconds)

    def _bits(self, seconds: float) -> dict[str, Any]:
        from gradfold.cuda import _check_cases

        return run_cases(self.folder, _check_cases.few(), seconds)

    def _more(self, seconds: float) -> dict[str, Any]:
        from gradfold.cuda import _check_cases

        return run_cases(self.folder, _check_cases.many(), seconds)

    def _peaks(self, seconds: float) -> dict[str, Any]:
        return self._simple("peaks", seconds)

    def _speed(self, seconds: float) -> dict[str, Any]:
        found = self._simple("speed", seconds, quick=self.options.quick)
        self._share(found["results"])
        return found

    def _peers(self, seconds: float) -> dict[str, Any]:
        from gradfold.cuda import _peers

        end = time.time() + seconds
        results: list[dict[str, Any]] = []
        for name in _peers.PEERS:
            left = min(end - time.time(), _PEER_SECONDS)
            if left < 10:
                results.append({"name": name, "skipped": "time"})
                continue
            peer = _task(self.folder, "peer", {"name": name}, left)
            # Another library's failure is none of ours.
            results += peer["results"] or [{"name": name, "skipped": peer.get("problem", "time")[-400:]}]
        self._share(results)
        return {"status": "ok", "results": results}

    def _share(self, results: list[dict[str, Any]]) -> None:
        """Of the peaks that were measured."""
        section = self.report["sections"].get("peaks", {})
        peaks = {r["name"]: r["tflops"] for r in section.get("results", []) if "tflops" in r}
        for result in results:
            for measured, share in (("tflops", "of_peak"), ("kernel_tflops", "kernels_of_peak")):
                if result.get("peak") in peaks and measured in result:
                    result[share] = result[measured] / peaks[result["peak"]]

    def _errors(self, seconds: float) -> dict[str, Any]:
        return self._simple("errors", seconds)

    def _fit(self, seconds: float) -> dict[str, Any]:
        return self._simple("large_fit", seconds)

    def _sanitizer(self, seconds: float) -> dict[str, Any]:
        """Both tools, side by side, around a handful of cases."""
        tool = _sanitizer_path()
        if tool is None:
            return {"status": "skipped: compute-sanitizer is not installed"}
        for name in ("memcheck", "racecheck"):
            log = open(os.path.join(self.folder, f"{name}.log"), "w+")  # noqa: SIM115
            command = [
                tool,
                "--tool",
                name,
                "--print-limit",
                "20",
                sys.executable,
                "-m",
                "gradfold.cuda.selfcheck",
                "--only",
                "tiny",
            ]
            self._sanitizers[name] = (_start(command, log), log, time.time() + seconds)
        return self._sanitized()

    def _sanitized(self) -> dict[str, Any]:
        """What both tools found, when they are done or their time is."""
        out: dict[str, Any] = {"status": "ok"}
        for name, (process, log, end) in self._sanitizers.items():
            late = False
            try:
                process.wait(max(0.1, end - time.time()))
            except subprocess.TimeoutExpired:
                late = True
            _stop(process)
            log.close()
            with open(log.name, errors="replace") as file:
                out[name] = _summary(file.read(), process.returncode, late)
            if out[name]["status"] == "failed":
                out["status"] = "failed"
        self._sanitizers = {}
        if all(out[name]["status"].startswith("skipped") for name in out if name != "status"):
            out["status"] = "skipped: neither tool came to an end"
        return out


def _sanitizer_path() -> str | None:
    places = ["/usr/local/cuda*/bin/compute-sanitizer", "/usr/local/cuda*/compute-sanitizer/compute-sanitizer"]
    places += [f"/opt/nvidia/{'*/' * depth}compute-sanitizer" for depth in (1, 2, 3)]
    found = [path for place in places for path in sorted(glob.glob(place), reverse=True) if os.path.isfile(path)]
    return shutil.which("compute-sanitizer") or next(iter(found), None)


def _summary(text: str, code: int, late: bool) -> dict[str, Any]:
    """What a log of compute-sanitizer says."""
    last = [line for line in text.splitlines() if "SUMMARY" in line][-1:]
    if late or (not last and re.search(r"not supported|Unable to|Internal Sanitizer Error", text)):
        return {"status": "skipped: time" if late else "skipped: the tool does not run here", "tail": text[-1500:]}
    if not last:
        return {"status": "failed", "problem": "no summary", "exit_code": code, "tail": text[-3000:]}
    summary = last[0].strip("= ")
    counted = re.search(r"\((\d+) errors?, (\d+) warnings?\)", summary) or re.search(r"(\d+) errors?", summary)
    errors = int(counted.group(1)) if counted else -1
    tiny = re.search(r"tiny: .*", text)
    found = {"status": "ok" if errors == 0 and code == 0 else "failed", "summary": summary, "exit_code": code}
    return found | {"tiny": tiny.group(0) if tiny else None} | ({} if found["status"] == "ok" else {"log": text[:6000]})


def _tiny() -> int:
    """A handful of cases in this process."""
    from gradfold.cuda._check_bits import Cuda, outcome
    from gradfold.cuda._check_cases import tiny

    found = [outcome(case, Cuda()) for case in tiny()]
    bad = [record for record in found if record["status"] != "same"]
    for record in bad:
        print(json.dumps(_finite(record)))
    print(f"tiny: {len(found) - len(bad)} of {len(found)} cases have the CPU's bits")
    return 1 if bad else 0


# -- the table --------------------------------------------------------------------------------------------------------


def table(report: dict[str, Any]) -> str:
    """A report for the eye."""
    lines = []
    for name, found in report["sections"].items():
        lines.append(f"{name:<10} {found['status']:<8} {found['seconds']:6.1f} s  {_headline(name, found)}".rstrip())
        for result in found.get("results", []):
            if name != "machine":
                lines.append(f"{'':10} {_result(result)}")
            for record in result.get("records", [])[:2]:
                lines += _failure(record)
        if "problem" in found:
            lines.append(f"{'':10} {found['problem'].strip()[-600:]}")
        if "cut" in found:
            lines.append(f"{'':10} … not to its end: {found['cut']}")
        for record in found.get("failures", [])[:_SHOWN]:
            lines += _failure(record)
        if len(found.get("failures", [])) > _SHOWN:
            lines.append(f"{'':10} … {len(found['failures']) - _SHOWN} more in the report")
    return "\n".join([*lines, f"{report['status']}, {report['seconds']:.0f} s"])


def _headline(name: str, found: dict[str, Any]) -> str:
    if "counts" in found:
        return ", ".join(f"{n:,} {word}" for word, n in found["counts"].items())
    if name == "machine" and found.get("results"):
        first = found["results"][0]
        gpu = first["gpu"]
        words = f"{gpu['name']}, driver {gpu['driver']}" if isinstance(gpu, dict) else str(gpu)[:_WIDTH]
        numba = first["versions"].get("numba-cuda")
        return f"{words}, CPU {first['cpu_level']} on {first['cpu_cores']} cores, numba-cuda {numba}"
    if name == "sanitizer":
        return "; ".join(
            f"{tool}: {own.get('summary', own['status'])}" for tool, own in found.items() if isinstance(own, dict)
        )
    return ""


def _result(result: dict[str, Any]) -> str:
    words = []
    for key, form in (
        ("seconds", "{:.5f} s"),
        ("device_seconds", "{:.5f} s between events"),
        ("tflops", "{:.2f} TFLOP/s"),
        ("of_peak", "{:.1%} of the peak"),
        ("kernel_seconds", "kernels alone {:.5f} s"),
        ("kernels_of_peak", "{:.1%} of the peak"),
        ("gbytes_per_s", "{:.0f} GB/s"),
        ("gindices_per_s", "{:.1f} G indices/s"),
        ("scoring_seconds", "scoring {:.4f} s"),
        ("relative_error", "off by {:.1e}"),
        ("message", "{}"),
        ("skipped", "skipped: {}"),
        ("error", "ERROR {}"),
        ("peak_gpu_bytes", "{:,} bytes of the GPU at most"),
    ):
        if result.get(key) is not None:
            value = result[key]
            words.append(form.format(" ".join(value.split())[:_WIDTH] if isinstance(value, str) else value))
    if result.get("failed"):
        words.append("FAILED")
    return f"{result.get('name', '')}: {', '.join(words) or 'ok'}"


def _failure(record: dict[str, Any]) -> list[str]:
    lines = [f"{'':10} {record['status'].upper()} {json.dumps(record['case'])}"]
    if "error" in record:
        lines.append(f"{'':12} {record['error'].strip().splitlines()[-1][:_WIDTH]}")
    for one in record.get("mismatches", [])[:3]:
        what = one.get("problem")
        if what is None:
            sides = [
                f"{side} {one[side]['hex']}"
                for side in ("cpu", "device", "first", "second")
                if isinstance(one.get(side), dict)
            ]
            what = f"{one['differing']} of {math.prod(one['shape'])} differ, first at {one['at']}: {', '.join(sides)}"
        lines.append(f"{'':12} {one['array']}: {what}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gradfold.cuda.selfcheck", description=(__doc__ or "").splitlines()[0]
    )
    names = [*SECTIONS, "tiny"]
    parser.add_argument(
        "--out", metavar="FILE", help="the report (default: benchmarks/results/selfcheck-<GPU>.json, or here)"
    )
    parser.add_argument("--minutes", type=float, default=8, help="when to end, at the latest (default: 8)")
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(_QUICK)}, fewer sizes and no other libraries")
    parser.add_argument("--only", nargs="+", choices=names, metavar="SECTION", help=", ".join(names))
    parser.add_argument("--skip", nargs="+", choices=names, default=[], metavar="SECTION")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        return _child(options.child)
    if options.minutes <= 0:
        parser.error(f"argument --minutes: got {options.minutes}, wanted a number above 0")
    try:
        simulated = require_cuda().SIMULATED
    except DeviceError as error:
        print(f"gradfold.cuda.selfcheck: {error}", file=sys.stderr)
        return 2
    if options.only == ["tiny"]:
        return _tiny()
    if simulated:
        print("gradfold.cuda.selfcheck: Numba's simulator is no GPU; it runs --only tiny", file=sys.stderr)
        return 2
    chosen = [
        name
        for name in SECTIONS
        if name in (options.only or (_QUICK if options.quick else SECTIONS)) and name not in options.skip
    ]
    with tempfile.TemporaryDirectory(prefix="gradfold-selfcheck-") as folder:
        check = _Run(options, chosen, folder)
        check.run()
    print(table(check.report))
    print(f"report: {check.path}")
    return 0 if check.report["status"] == "ok" else 1


if __name__ == "__main__":
    raise SystemExit(main())
