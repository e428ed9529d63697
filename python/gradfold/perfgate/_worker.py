"""Runs benchmarks of an asv suite inside a build's own Python, one answer for each line it is asked.

Started by its path, not as a module: the build under test may hold another gradfold, or none. ``asv_runner`` comes from the
gate's environment, so that both builds are asked by the same one.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import itertools
import json
import os
import sys
import time
import traceback
from typing import Any


class _From(importlib.abc.MetaPathFinder):
    """Finds one package in one folder, and nothing else there."""

    def __init__(self, name: str, folder: str) -> None:
        self._name, self._folder = name, folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.machinery.PathFinder.find_spec(name, [self._folder]) if name == self._name else None


class _Suite:
    def __init__(self, folder: str) -> None:
        from asv_runner import discovery

        discovery.update_sys_path(folder)
        self._of = {b.name: b for b in discovery.disc_benchmarks(folder) if b.type == "time"}
        self._caches: dict[str, Any] = {}
        self._now: Any = None
        self._call: Any = None

    def names(self) -> dict[str, list[str]]:
        """Of each benchmark its points of parameters, as text."""
        out = {}
        for name, benchmark in self._of.items():
            points = itertools.product(*benchmark.params) if benchmark.params else [()]
            out[name] = [", ".join(map(str, point)) for point in points]
        return out

    def set_up(self, name: str, index: int) -> str:
        """What is to be timed next; "skipped" where the suite does not want it here."""
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
        benchmark.run = lambda *arguments: arguments  # what do_run would call it with: the cache, and the parameters
        arguments = benchmark.do_run()
        self._call = lambda: benchmark.func(*arguments)
        return "ready"

    def number(self, seconds: float) -> int:
        """How many calls take so much of the processor; also warms up. A suite's own ``number`` stays."""
        own = int(getattr(self._now, "number", 0) or 0)
        number = own or 1
        while True:
            cpu, wall = (number * of_one for of_one in self.run(number))
            if own or cpu >= seconds or wall >= 10 * seconds:
                return number
            number = min(10 * number, max(number + 1, int(1.2 * number * seconds / max(cpu, 1e-6))))

    def run(self, number: int) -> tuple[float, float]:
        """Seconds of a call: of this process's threads together, and on the clock."""
        call = self._call
        gc.collect()
        gc.disable()
        try:
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(number):
                call()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        finally:
            gc.enable()
        return cpu / number, wall / number

    def tear_down(self) -> None:
        self._now.do_teardown()
        self._now = self._call = None
        gc.collect()


def _main(suite_folder: str, runner_folder: str) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what benchmarks print is no answer
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != os.path.dirname(os.path.abspath(__file__))]
    sys.meta_path.insert(0, _From("asv_runner", runner_folder))
    suite: Any = None
    for line in sys.stdin:
        asked = json.loads(line)
        what, arguments = asked.pop("do"), asked
        try:
            if suite is None:
                suite = _Suite(suite_folder)
            answer = {"ok": getattr(suite, what)(**arguments)}
        except NotImplementedError as error:
            answer = {"skipped": str(error)}
        except Exception:
            answer = {"failed": traceback.format_exc(limit=-4)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
