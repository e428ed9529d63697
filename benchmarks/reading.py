"""`gradfold.data.read` beside pyarrow's own reader: time and peak memory, each in a process of its own.

    PYTHONPATH=python python benchmarks/reading.py [--rows 2000000] [--columns 30] [--rounds 5]

pyarrow reads the file into its columns; gradfold reads it into those, and turns them into one C-ordered matrix, the
target and the table of columns. The target is at most twice pyarrow's time and memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

import numpy as np

_READERS = {
    "csv": "import pyarrow.csv as m; r = m.read_csv(p)",
    "csv.gz": "import pyarrow.csv as m; r = m.read_csv(p)",
    "jsonl": "import pyarrow.json as m; r = m.read_json(p)",
    "parquet": "import pyarrow.parquet as m; r = m.read_table(p)",
}
# Imports stand before the clock; the peak is what the process has grown by since.
_CHILD = """
import sys, time, resource
import pyarrow.csv, pyarrow.json, pyarrow.parquet, numpy, gradfold.data
p = sys.argv[1]
peak = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
before, start = peak(), time.perf_counter()
{work}
print(time.perf_counter() - start, peak() - before)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--columns", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", default="csv,csv.gz,parquet,jsonl")
    options = parser.parse_args()
    print(f"{options.rows:,} rows × {options.columns} columns, one of them text, and a target")
    print(f"{'format':<9} {'size':>8}  {'pyarrow':>16}  {'gradfold':>16}  ratio of time, of memory")
    with tempfile.TemporaryDirectory() as folder:
        for form in options.formats.split(","):
            path = os.path.join(folder, f"data.{form}")
            _write(path, form, options.rows, options.columns)
            runs: dict[str, list[tuple[float, float]]] = {"pyarrow": [], "gradfold": []}
            for _ in range(options.rounds):  # in turn, so that a busy machine disturbs both
                for name, work in (("pyarrow", _READERS[form]), ("gradfold", "r = gradfold.data.read(p, 'y')")):
                    runs[name].append(_measure(work, path))
            (t1, m1), (t2, m2) = (
                (statistics.median(t for t, _ in runs[name]), statistics.median(m for _, m in runs[name])) for name in runs
            )
            size = os.path.getsize(path) / 1e6
            print(f"{form:<9} {size:>5.0f} MB  {t1:>6.2f} s {m1:>4.0f} MiB  {t2:>6.2f} s {m2:>4.0f} MiB"
                  f"  {t2 / t1:.2f}, {m2 / m1:.2f}")  # fmt: skip
            os.remove(path)


def _write(path: str, form: str, rows: int, columns: int) -> None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    rng = np.random.default_rng(0)
    table = pa.table(
        {f"c{i}": rng.standard_normal(rows).round(6) for i in range(columns - 1)}
        | {"colour": rng.choice(["red", "green", "blue"], rows), "y": rng.integers(0, 2, rows)}
    )
    if form == "parquet":
        pyarrow.parquet.write_table(table, path)
    elif form == "jsonl":
        pd.DataFrame({name: table.column(name).to_numpy() for name in table.column_names}).to_json(
            path, orient="records", lines=True
        )
    else:
        with pa.output_stream(path, compression="gzip" if form.endswith("gz") else None) as stream:
            pyarrow.csv.write_csv(table, stream)


def _measure(work: str, path: str) -> tuple[float, float]:
    out = subprocess.run(
        [sys.executable, "-c", _CHILD.format(work=work), path], stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, megabytes = out.stdout.split()
    return float(seconds), float(megabytes)


if __name__ == "__main__":
    main()
