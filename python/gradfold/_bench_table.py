"""The table of `gradfold bench`: kernels × shapes, each beside the machine's limit and the best peer; where we lose."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradfold import _bench_peers, _bench_timing, _core, _limits, index, metrics
from gradfold._bench_problems import Dense, Grid, Multinomial, Predictions, Rows

Body = Callable[[], Any]


@dataclass(frozen=True)
class Sizes:
    """Of the problems, and the time for each.

    Attributes
    ----------
    few_values, many_values : int
        Values of X for up to 16 models, and for more.
    beyond_caches : bool
        Make X of one model so large, at least, that it lies in memory.
    """

    models: tuple[int, ...] = (1, 16, 100, 512)
    features: tuple[int, ...] = (30, 100, 1000)
    few_values: int = 16_000_000
    beyond_caches: bool = True
    many_values: int = 4_000_000
    permutation: int = 10_000_000
    split_rows: int = 1_000_000
    groups: int = 10_000
    epoch_rows: int = 20_000
    candidates: int = 20
    metric_rows: int = 10_000
    metric_models: int = 200
    rounds: int = 3
    row_seconds: float = 1.0


FULL = Sizes()
QUICK = Sizes(
    models=(1, 100),
    features=(100,),
    few_values=4_000_000,
    beyond_caches=False,
    many_values=2_000_000,
    permutation=2_000_000,
    split_rows=200_000,
    groups=2_000,
    epoch_rows=10_000,
    metric_models=50,
    rounds=2,
    row_seconds=0.4,
)
_SERIAL = 16  # problems are so much smaller at the level without vectors, which is there for tests
_MASK_ROWS = 1 << 16  # of a problem of many models: a peer needs a mask of rows × models

# The shares of the limit that we aim at: of a gradient of many models, of one with the loss beside it, and of one model whose X lies
# in memory, on one thread and on several.
_TARGET, _TARGET_WITH_LOSS, _TARGET_WIDE = 0.75, 0.70, 0.90
_TARGET_ONE_MODEL = {True: 0.65, False: 0.75}


@dataclass(frozen=True)
class Peer:
    """Another library's way.

    Attributes
    ----------
    make : callable
        Returns what to run; imports the library.
    times : float
        What its time is multiplied by, where it does a part of the work.
    """

    make: Callable[[], Body]
    times: float = 1.0


@dataclass(frozen=True)
class Work:
    """What one row of the table measures.

    Attributes
    ----------
    run : callable
    flops : float
        Useful ones; 0 where the kernel does none to speak of.
    traffic : mapping
        Bytes that must be moved at least, by the name of the limit that moves them so: "read", "copy", "gather_rows".
    n_bytes : float
        Of the data, which says where they lie.
    n_threads : int
    peers : mapping of str to Peer
    """

    run: Body
    flops: float
    traffic: Mapping[str, float]
    n_bytes: float
    n_threads: int
    peers: Mapping[str, Peer] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A row of the table before it is measured; `target` is a share of the limit, of data that lie in memory if `in_memory`."""

    kernel: str
    shape: str
    make: Callable[[], Work]
    target: float | None = None
    in_memory: bool = False

    @property
    def name(self) -> str:
        return f"{self.kernel} {self.shape}"


def cases(sizes: Sizes, n_threads: int) -> list[Case]:
    """All rows of the table."""
    out = []
    for n_models in sizes.models:
        for n_features in sizes.features:
            for loss in (False, True):
                out.append(
                    Case(
                        "gradient + loss" if loss else "gradient",
                        f"{n_models} × {n_features}",
                        functools.partial(_dense, sizes, n_models, n_features, loss, n_threads),
                        dense_target(n_models, n_features, loss, n_threads),
                        in_memory=n_models == 1,
                    )
                )
    for n_features in sizes.features:
        shape = f"{Multinomial.n_models} × {Multinomial.n_classes} × {n_features}"
        out.append(Case("multinomial", shape, functools.partial(_multinomial, sizes, n_features, n_threads)))
    for solver in ("sgd", "adam"):
        shape = f"{5 * sizes.candidates} × 100, {sizes.epoch_rows:,} rows"
        out.append(Case(f"epoch of {solver}", shape, functools.partial(_epoch, sizes, solver, n_threads)))
    out.append(Case("permutation", f"{sizes.permutation:,}", functools.partial(_permutation, sizes)))
    for kind in ("stratified_kfold", "group_kfold"):
        out.append(Case(kind, f"{sizes.split_rows:,} rows", functools.partial(_splits, sizes, kind)))
    for name in ("accuracy", "log_loss", "roc_auc"):
        shape = f"{sizes.metric_models} models, {sizes.metric_rows:,} rows"
        out.append(Case(f"metric {name}", shape, functools.partial(_metric, sizes, name)))
    return out


def chosen(found: Sequence[Case], pattern: str | None) -> list[Case]:
    """Those whose name, as "gradient 100 × 30", the pattern is found in."""
    if pattern is None:
        return list(found)
    try:
        kept = [case for case in found if re.search(pattern, case.name)]
    except re.error as error:
        raise ValueError(f"--filter: got {pattern!r}, which is no regular expression: {error}") from None
    if not kept:
        kernels = ", ".join(dict.fromkeys(case.kernel for case in found))
        raise ValueError(f"--filter: got {pattern!r}, which no row has; there are {kernels}, with shapes as {found[0].shape!r}")
    return kept


def dense_target(n_models: int, n_features: int, loss: bool, n_threads: int) -> float | None:
    """The share of the limit aimed at; None where none is stated."""
    if n_models == 1:
        return None if loss else _TARGET_ONE_MODEL[n_threads == 1]
    if n_models < 96 or n_features < 100:
        return None
    if n_features >= 1000 and not loss:
        return _TARGET_WIDE
    return _TARGET_WITH_LOSS if loss else _TARGET


def _scaled(n: int) -> int:
    return n // _SERIAL if _core.levels.current() == "serial" else n


@functools.lru_cache(1)
def _rows(n_rows: int, n_features: int) -> Rows:
    """The same for the rows of the table that follow each other."""
    return Rows(n_rows, n_features)


def _dense(sizes: Sizes, n_models: int, n_features: int, loss: bool, n_threads: int) -> Work:
    values = sizes.few_values if n_models <= 16 else sizes.many_values
    if n_models == 1 and sizes.beyond_caches:
        values = max(values, _limits.beyond_caches(n_threads) // 4)
    n_rows = max(5, _scaled(values) // n_features)
    if n_models > 16:
        n_rows = min(n_rows, _MASK_ROWS)
    problem = Dense(_rows(n_rows, n_features), n_models)
    mask = functools.cache(problem.train_mask)
    given = (problem.X, problem.y, problem.W)
    n_bytes = problem.X.nbytes + problem.y.nbytes
    return Work(
        run=lambda: problem.gradient(loss, n_threads),
        flops=problem.flops(),
        traffic={"read": n_bytes},
        n_bytes=n_bytes,
        n_threads=n_threads,
        peers={
            "numpy": Peer(lambda: _bench_peers.numpy_blocks(*given, mask(), loss)),
            "torch": Peer(lambda: _bench_peers.torch_blocks(*given, mask(), n_threads, loss)),
            "jax": Peer(lambda: _bench_peers.jax_vmap(*given, mask(), loss)),
        },
    )


def _multinomial(sizes: Sizes, n_features: int, n_threads: int) -> Work:
    problem = Multinomial(max(5, _scaled(sizes.many_values) // 2 // n_features), n_features)
    n_bytes = problem.X.nbytes + problem.y.nbytes
    peer = Peer(lambda: _bench_peers.numpy_softmax(problem.X, problem.y, problem.W, problem.train_mask()))
    return Work(
        lambda: problem.gradient(n_threads), problem.flops(), {"read": n_bytes}, n_bytes, n_threads, {"numpy": peer}
    )


def _epoch(sizes: Sizes, solver: str, n_threads: int) -> Work:
    grid = Grid(max(50, _scaled(sizes.epoch_rows)), 100, sizes.candidates)
    trainer = grid.trainer(_core.train.Trainer, solver, 100_000, n_threads)

    def run() -> None:
        trainer.advance(max_steps=trainer.steps_per_epoch)

    def numpy() -> Body:
        return _bench_peers.numpy_epoch(
            grid.X, grid.y, grid.train_mask(), grid.l2, solver, grid.batch_size, grid.learning_rate
        )

    peers = {"numpy": Peer(numpy)}
    if solver == "sgd":
        n_models = 2 * n_threads
        peers["sklearn"] = Peer(
            lambda: _bench_peers.sklearn_epoch(grid.X, grid.y, n_models, n_threads), len(grid.l2) / n_models
        )
    n_bytes = grid.X.nbytes
    return Work(run, grid.flops(), {"gather_rows": n_bytes, "read": n_bytes}, n_bytes, n_threads, peers)


def _permutation(sizes: Sizes) -> Work:
    n = _scaled(sizes.permutation)
    order = index.Permutation(n, 1)
    peers = {
        "numpy": Peer(lambda: _bench_peers.numpy_permutation(n)),
        "torch": Peer(lambda: _bench_peers.torch_permutation(n)),
    }
    return Work(lambda: order[:], 0.0, {"copy": 8.0 * n}, 8.0 * n, 1, peers)


def _splits(sizes: Sizes, kind: str) -> Work:
    """Both sides hand out the row numbers of every split."""
    n = _scaled(sizes.split_rows)
    labels = np.random.default_rng(0).integers(0, 10 if kind == "stratified_kfold" else sizes.groups, n)
    fold = index.stratified_kfold if kind == "stratified_kfold" else index.group_kfold
    given = {"y" if kind == "stratified_kfold" else "groups": labels}

    def run() -> None:
        for _ in fold(labels, 5).split():
            pass

    def sklearn() -> Body:
        splits = _bench_peers.sklearn_splits(kind, n, **given)
        return lambda: list(splits())

    n_bytes = labels.nbytes + 5 * 8.0 * n
    return Work(run, 0.0, {"copy": n_bytes}, n_bytes, 1, {"sklearn": Peer(sklearn)})


def _metric(sizes: Sizes, name: str) -> Work:
    problem = Predictions(_scaled(sizes.metric_rows), sizes.metric_models)
    some = max(1, sizes.metric_models // 20)

    def run() -> None:
        metrics.evaluate(name, problem.y, problem.raw, loss="log_loss", n_threads=1)

    def sklearn() -> Body:
        metric = _bench_peers.sklearn_metric(name, problem.y, None)
        columns = np.ascontiguousarray(problem.raw[:, :some].T)
        return lambda: [metric(column) for column in columns]

    n_bytes = problem.raw.nbytes + problem.y.nbytes
    peers = {"sklearn": Peer(sklearn, sizes.metric_models / some)}
    return Work(run, 0.0, {"read": n_bytes}, n_bytes, 1, peers)


# ---- measuring -----------------------------------------------------------------------------------------------------


def bound(work: Work, limits: _limits.Limits) -> tuple[float, str]:
    """The seconds that no kernel can go below, and what binds: "compute", or the place that the data lie in.

    The larger of the time of the operations at the peak and the time of the bytes at the bandwidth, which is the roofline
    min(peak, bandwidth × operations per byte) in seconds.
    """
    place = limits.bandwidth(work.n_bytes, work.n_threads)
    memory = sum(n_bytes / getattr(place, kind) for kind, n_bytes in work.traffic.items())
    compute = work.flops / limits.peak("float32", work.n_threads)
    return (compute, "compute") if compute > memory else (memory, place.place.name)


def measure(case: Case, limits: _limits.Limits, peers: Iterable[str], sizes: Sizes) -> dict[str, Any]:
    """One row of the table, for JSON."""
    work = case.make()
    used = {name: work.peers[name] for name in peers if name in work.peers}
    found = _bench_timing.beside(
        work.run,
        [peer.make() for peer in used.values()],
        sizes.rounds,
        max((_bench_peers.PAUSES[name] for name in used), default=0.0),
        sizes.row_seconds,
    )
    ratios = {name: peer.times * ratio for (name, peer), ratio in zip(used.items(), found.ratios)}
    best = min(ratios, key=lambda name: ratios[name], default=None)
    least, limited_by = bound(work, limits)
    in_memory = limits.bandwidth(work.n_bytes, work.n_threads).place.capacity is None
    target = case.target if in_memory or not case.in_memory else None
    n_bytes = sum(work.traffic.values())
    row = {
        "kernel": case.kernel,
        "shape": case.shape,
        "threads": work.n_threads,
        "seconds": found.seconds,
        "gflops": work.flops / found.seconds / 1e9 if work.flops else None,
        "gbytes_per_second": n_bytes / found.seconds / 1e9,
        "flops_per_byte": work.flops / n_bytes,
        "limited_by": limited_by,
        "of_limit": least / found.seconds,
        "target_of_limit": target,
        "peers": ratios,
        "best_peer": best,
        "times_best_peer": None if best is None else ratios[best],
    }
    return {**row, "loses": losses(row)}


def losses(row: Mapping[str, Any]) -> list[str]:
    """In what this row is not what it should be: slower than a peer, or further from the limit than aimed at."""
    out = []
    if row["times_best_peer"] is not None and row["times_best_peer"] < 1:
        out.append(f"{row['best_peer']} is {1 / row['times_best_peer']:.2f} × as fast")
    if row["target_of_limit"] is not None and row["of_limit"] < row["target_of_limit"]:
        out.append(f"{row['of_limit']:.0%} of the limit, wanted {row['target_of_limit']:.0%}")
    return out


def peers_of(text: str | None) -> tuple[list[str], dict[str, str]]:
    """The peers asked for that can be run, and why the others cannot."""
    if text is None:
        asked = list(_bench_peers.DEFAULT)
    else:
        asked = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        wrong = [name for name in asked if name not in _bench_peers.MODULES]
        if wrong or not asked:
            raise ValueError(f"--peers: got {text!r}, wanted some of {', '.join(_bench_peers.MODULES)} with commas between them")
    skipped = {name: "not installed" for name in asked if not _bench_peers.installed(name)}
    return [name for name in asked if name not in skipped], skipped


# ---- printing ------------------------------------------------------------------------------------------------------

HEAD = ("", "kernel", "shape", "threads", "time", "rate", "limit", "% of limit", "× best peer")
_LEFT = (0, 1, 2, 6)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    rate = f"{row['gbytes_per_second']:,.1f} GB/s" if row["gflops"] is None else f"{row['gflops']:,.1f} GFLOP/s"
    best = "–" if row["best_peer"] is None else f"{row['times_best_peer']:,.2f} {row['best_peer']}"
    return (
        "!" if row["loses"] else "",
        row["kernel"],
        row["shape"],
        str(row["threads"]),
        duration(row["seconds"]),
        rate,
        row["limited_by"],
        f"{row['of_limit']:.1%}",
        best,
    )


def duration(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f} ms" if seconds >= 1e-4 else f"{1e6 * seconds:,.1f} µs"


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table as plain text."""
    return aligned([HEAD, *map(cells, rows)], _LEFT)


def aligned(body: Sequence[Sequence[str]], left: Iterable[int]) -> list[str]:
    """Rows of cells as lines; the columns `left` begin together, the others end together."""
    widths = [max(map(len, column)) for column in zip(*body)]
    return [
        "  ".join(f"{cell:<{w}}" if k in left else f"{cell:>{w}}" for k, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in body
    ]


def rich_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The table for `rich`."""
    from rich import box
    from rich.table import Table

    out = Table(box=box.SIMPLE_HEAD)
    for k, name in enumerate(HEAD):
        out.add_column(name, justify="left" if k in _LEFT else "right", no_wrap=True)
    for row in rows:
        out.add_row(*cells(row), style="yellow" if row["loses"] else None)
    return out


def legend(skipped: Mapping[str, str]) -> Iterator[str]:
    """What the columns mean, and by what they were measured."""
    yield (
        "shape: models × features of gradients, models × classes × features of multinomial; float32. threads: of both sides. "
        "time: a median"
    )
    yield (
        "rate: useful operations (4 × rows × features × models of a gradient), or for kernels without them the bytes that must "
        "be read and written at least"
    )
    yield (
        "limit: what binds, compute (multiply-adds in registers) or the cache or memory that the data lie in; % of limit is of "
        "the roofline, min(peak, bandwidth × operations per byte)"
    )
    yield "× best peer: its time over ours, measured in turn; ! marks a row that is slower than a peer or misses its target"
    for name, why in skipped.items():
        yield f"peer {name}: {why}"


def limit_lines(limits: _limits.Limits) -> Iterator[str]:
    """The limits in words."""
    sizes = ", ".join(f"{c.name} {_size(c.size)}" for c in limits.caches)
    yield f"caches ({limits.caches_from}): {sizes}"
    for n in limits.n_threads:
        own = dict.fromkeys(p.level for p in limits.peaks)
        peaks = ", ".join(
            f"{level} " + " and ".join(f"{limits.peak(dtype, n, level) / 1e9:,.3g}" for dtype in ("float32", "float64")) for level in own
        )
        yield f"{n} thread{'s' * (n > 1)}: FMA peak in GFLOP/s, float32 and float64: {peaks}"
        for b in (b for b in limits.bandwidths if b.n_threads == n):
            rates = (
                ("read", b.read),
                ("copy", b.copy),
                (f"gather of {_limits.ROW_BYTES}-byte rows", b.gather_rows),
                ("of 8 bytes", b.gather_8),
                ("of 4 bytes", b.gather_4),
            )
            words = ", ".join(f"{name} {rate / 1e9:,.1f}" for name, rate in rates)
            yield f"    {b.place.name} ({_size(b.place.working_set)}), GB/s: {words}"


def _size(n_bytes: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20)):
        if n_bytes >= 1 << shift:
            return f"{n_bytes / (1 << shift):.3g} {unit}"
    return f"{n_bytes / 1024:.3g} KiB"


def losing(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The regions where we lose, row by row."""
    found = [row for row in rows if row["loses"]]
    yield "Where we lose" + ("" if found else f": in none of these {len(rows)} rows")
    for row in found:
        yield f"  {row['kernel']} {row['shape']}, {row['threads']} thread{'s' * (row['threads'] > 1)}: {'; '.join(row['loses'])}"
