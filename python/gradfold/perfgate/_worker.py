"""Runs benchmarks of an asv suite inside a build's own Python, one answer for each line it is asked.

Started by its path, not as a module: the build under test may hold another gradfold, or none. ``asv_runner`` comes from the
gate's environment, so that both builds are asked by the same one.
"""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import importlib.machinery
import itertools
import json
import os
import sys
import time
import traceback
from typing import Any


class _First(importlib.abc.MetaPathFinder):
    """Finds modules in some folders before anybody else does.

    PYTHONPATH alone comes after the finders that editable installs put in front, of packages and of what lies in them, and
    both builds would be the one that is installed.
    """

    def __init__(self, folders: list[str], only: str | None = None) -> None:
        self._folders = [os.path.abspath(folder) for folder in folders if folder]
        self._only = only

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if self._only not in (None, name.partition(".")[0]):
            return None
        if path is None:
            return importlib.machinery.PathFinder.find_spec(name, self._folders)
        own = [entry for entry in path if any(os.path.abspath(entry).startswith(folder + os.sep) for folder in self._folders)]
        return importlib.machinery.PathFinder.find_spec(name, own) if own else None


class _Suite:
    def __init__(self, folder: str) -> None:
        from asv_runner import discovery

        discovery.update_sys_path(folder)
        found = list(discovery.disc_benchmarks(folder))
        # A "timeraw" benchmark is of the same type, but its body only makes the source of what is to be timed.
        self._of = {b.name: b for b in found if type(b).__name__ == "TimeBenchmark"}
        self._others = len(found) - len(self._of)
        self._caches: dict[str, Any] = {}
        self._now: Any = None
        self._call: Any = None

    def names(self, modules: list[str]) -> dict[str, Any]:
        """Benchmarks with their points of parameters, as text; how many are of other kinds; where some modules lie."""
        points = {name: list(itertools.product(*b.params)) if b.params else [()] for name, b in self._of.items()}
        return {
            "benchmarks": {name: [", ".join(map(str, point)) for point in own] for name, own in points.items()},
            "others": self._others,
            "files": {name: getattr(importlib.import_module(name), "__file__", None) for name in modules},
        }

    def set_up(self, name: str, index: int) -> str:
        """What is to be timed next; "skipped" where its setup does not want it here."""
        benchmark = self._of[name]
        if benchmark.params:
            benchmark.set_param_idx(index)
        if benchmark.setup_cache_key is not None:
            if benchmark.setup_cache_key not in self._caches:
                self._caches[benchmark.setup_cache_key] = benchmark.do_setup_cache()
            benchmark.set_cache(self._caches[benchmark.setup_cache_key])
        self._now = benchmark
        if benchmark.do_setup():
            return "skipped"
        self._fresh = True
        benchmark.run = lambda *arguments: arguments  # what do_run would call it with: the cache, and the parameters
        arguments = benchmark.do_run()
        self._call = lambda: benchmark.func(*arguments)
        return "ready"

    @property
    def _own_number(self) -> int:
        """What the suite says itself of how often a body can be called after its setup; 0 if nothing."""
        return int(getattr(self._now, "number", 0) or 0)

    def number(self, seconds: float) -> int:
        """How many calls take so much of the processor; also warms up."""
        if self._own_number:
            return self._own_number
        number = 1
        while True:
            cpu, wall = self.run(number)
            if cpu >= seconds or wall >= 10 * seconds:
                return number
            number = min(10 * number, max(number + 1, int(1.2 * number * seconds / max(cpu, 1e-6))))

    def run(self, number: int) -> tuple[float, float]:
        """Seconds of so many calls: of this process's threads and of children that have ended, and on the clock."""
        if self._own_number and not self._fresh:
            self._now.do_teardown()
            self._now.do_setup()
        self._fresh = False
        call = self._call
        gc.collect()
        gc.disable()
        try:
            wall, cpu = time.perf_counter(), _processor()
            for _ in range(number):
                call()
            cpu, wall = _processor() - cpu, time.perf_counter() - wall
        finally:
            gc.enable()
        return cpu, wall

    def tear_down(self) -> None:
        self._now.do_teardown()
        self._now = self._call = None
        gc.collect()


def _processor() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def _main(suite_folder: str, runner_folder: str) -> None:
    # What benchmarks print is no answer, and what they read no question.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    sys.meta_path.insert(0, _First([runner_folder], "asv_runner"))
    if os.environ.get("PYTHONPATH"):
        sys.meta_path.insert(0, _First(os.environ["PYTHONPATH"].split(os.pathsep)))
    suite: Any = None
    for line in questions:
        asked = json.loads(line)
        what, arguments = asked.pop("do"), asked
        try:
            if suite is None:
                suite = _Suite(suite_folder)
            answer = {"ok": getattr(suite, what)(**arguments)}
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": "".join(traceback.format_exception_only(type(error), error)).strip()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
