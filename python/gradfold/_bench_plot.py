"""Pictures of `gradfold bench`: the roofline, and the crossover over the number of models. Without pyplot: no global state, no display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gradfold import _storage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gradfold._limits import Limits

_MARKERS = "osD^vP*X"


def save(path: str, report: Mapping[str, Any], limits: Limits | None, title: str) -> None:
    """Write a PNG; the roofline is left out where the limits were not measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 if limits is None else 2
    figure = Figure(figsize=(6.4 if panels == 1 else 15.0, 4.0 if panels == 1 else 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(1, panels, width_ratios=[1] if panels == 1 else [3, 2]))
    if limits is not None:
        roofline(axes[0], report, limits)
    crossover(axes[-1], report, title)
    with _storage.atomic(path) as file:
        figure.savefig(file, format="png", dpi=150)


def roofline(ax: Axes, report: Mapping[str, Any], limits: Limits) -> None:
    """Kernels that do floating-point work, under the peaks of every level and the bandwidths of every place."""
    rows = [row for row in report["table"] if row["gflops"] is not None]
    n = report["threads"]
    x = np.array([row["flops_per_byte"] for row in rows] or [1.0])
    left, right = x.min() / 4, x.max() * 4
    for level in dict.fromkeys(p.level for p in limits.peaks):
        peak = limits.peak("float32", n, level) / 1e9
        own = level == limits.level
        ax.axhline(peak, color="black" if own else "grey", linewidth=1.2 if own else 0.8, linestyle="-" if own else ":")
        ax.annotate(f"{level}: {peak:,.0f} GFLOP/s", (right, peak), ha="right", va="bottom", fontsize=7)
    peak = limits.peak("float32", n) / 1e9
    for at, b in enumerate(b for b in limits.bandwidths if b.n_threads == n):
        rate = b.read / 1e9
        ax.plot([left, peak / rate], [left * rate, peak], color=f"C{at}", linewidth=1)
        ax.annotate(
            f"{b.place.name}: {rate:,.0f} GB/s", (left, left * rate), xytext=(9, -1), textcoords="offset points",
            color=f"C{at}", fontsize=7,
        )  # fmt: skip
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    for at, kernel in enumerate(kernels):
        own_rows = [row for row in rows if row["kernel"] == kernel]
        ax.plot(
            [row["flops_per_byte"] for row in own_rows], [row["gflops"] for row in own_rows],
            _MARKERS[at % len(_MARKERS)], color=f"C{4 + at}", markersize=4, label=kernel, alpha=0.8,
        )  # fmt: skip
        for row in own_rows:
            side = -1 if at % 2 else 1  # two kernels of one shape are named on two sides
            ax.annotate(
                row["shape"].split(",")[0], (row["flops_per_byte"], row["gflops"]), xytext=(4 * side, -2),
                textcoords="offset points", fontsize=5, ha="left" if side > 0 else "right",
            )  # fmt: skip
    ax.set_xlim(left, right)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("useful operations per byte that must be moved")
    ax.set_ylabel("GFLOP/s")
    ax.set_title(f"Roofline, {limits.level}, {n} thread{'s' * (n > 1)}, float32", fontsize="medium")
    if kernels:
        ax.legend(fontsize="small", loc="lower center")


def crossover(ax: Axes, report: Mapping[str, Any], title: str) -> None:
    """Time of one gradient over the number of models, both devices."""
    names = {"cpu": f"CPU, {report['level']}, {report['threads']} threads", "cuda": report["gpu"] or "GPU"}
    for name in report["peaks"]:
        own = [r for r in report["results"] if r["device"] == name]
        ax.plot([r["models"] for r in own], [1e3 * r["seconds"] for r in own], "o-", markersize=4, label=names[name])
    found = report["gpu_is_faster_from"]
    if found is not None:
        ax.axvline(found, color="grey", linewidth=0.8, linestyle="--", label=f"the GPU is faster from {found:,} on")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("models")
    ax.set_ylabel("ms for one gradient")
    ax.set_title(title, fontsize="medium")
    ax.legend(fontsize="small")
