"""Reading files beside pyarrow's own readers: times as long, and times as much memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import numpy as np

from . import devices

_ROWS, _COLUMNS = 100_000, 30
FORMATS = ("csv", "csv.gz", "jsonl", "parquet")

_PEAK = """
import sys, pyarrow.csv, pyarrow.json, pyarrow.parquet, gradfold.data
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before, path = peak(), sys.argv[1]
{work}
print(peak() - before)
"""
_WORK = {
    "csv": "data = pyarrow.csv.read_csv(path)",
    "csv.gz": "data = pyarrow.csv.read_csv(path)",
    "jsonl": "data = pyarrow.json.read_json(path)",
    "parquet": "data = pyarrow.parquet.read_table(path)",
    "gradfold": "data = gradfold.data.read(path, 'y')",
}


class Read:
    """One text column, 29 of numbers and a target. The files are written once, into the folder that asv lets `setup_cache` fill."""

    params = (devices.HOST, list(FORMATS))
    param_names = ["device", "format"]
    timeout = 300

    def setup_cache(self) -> None:
        try:
            import pyarrow as pa
            import pyarrow.csv
            import pyarrow.parquet
        except ImportError:
            return
        rng = np.random.default_rng(0)
        table = pa.table(
            {f"c{i}": rng.standard_normal(_ROWS).round(6) for i in range(_COLUMNS - 1)}
            | {"colour": rng.choice(["red", "green", "blue"], _ROWS), "y": rng.integers(0, 2, _ROWS)}
        )
        pyarrow.parquet.write_table(table, "data.parquet")
        for name in ("data.csv", "data.csv.gz"):
            with pa.output_stream(name) as stream:  # the name says whether it compresses
                pyarrow.csv.write_csv(table, stream)
        names = table.column_names
        cell = ", ".join(f'"{name}": ' + ('"%s"' if name == "colour" else "%s") for name in names)
        columns = [table.column(name).to_pylist() for name in names]
        with open("data.jsonl", "w") as file:
            file.writelines(f"{{{cell}}}\n" % row for row in zip(*columns))

    def setup(self, device: str, form: str) -> None:
        try:
            import pyarrow.csv
            import pyarrow.json
            import pyarrow.parquet
        except ImportError as error:
            raise NotImplementedError("pyarrow is not installed") from error
        self.path = os.path.abspath(f"data.{form}")
        self.peer: Any = {
            "jsonl": pyarrow.json.read_json, "parquet": pyarrow.parquet.read_table,
        }.get(form, pyarrow.csv.read_csv)  # fmt: skip

    def time_read(self, device: str, form: str) -> None:
        from gradfold import data

        data.read(self.path, "y")

    def time_pyarrow(self, device: str, form: str) -> None:
        self.peer(self.path)

    def track_time_beside_pyarrow(self, device: str, form: str) -> float:
        """Best of rounds in turn: a busy machine disturbs both."""
        ours, theirs = [], []
        for _ in range(3):
            start = time.perf_counter()
            self.peer(self.path)
            middle = time.perf_counter()
            self.time_read(device, form)
            theirs.append(middle - start)
            ours.append(time.perf_counter() - middle)
        return min(ours) / min(theirs)

    def track_memory_beside_pyarrow(self, device: str, form: str) -> float:
        if not sys.platform.startswith("linux"):
            return float("nan")
        return self._peak(_WORK["gradfold"]) / self._peak(_WORK[form])

    def _peak(self, work: str) -> int:
        """What a process of its own grows by, in kB."""
        out = subprocess.run(
            [sys.executable, "-c", _PEAK.format(work=work), self.path], stdout=subprocess.PIPE, check=True
        )
        return int(out.stdout)

    track_time_beside_pyarrow.unit = "times as long"
    track_memory_beside_pyarrow.unit = "times as much"
