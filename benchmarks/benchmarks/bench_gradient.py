"""Dense gradient of many models over one pass of X, beside the machine's limit and beside other libraries.

The times are of 80 MB of X, beyond the caches of many machines; the shares of one model are of as much as lies in memory here. What is
measured for a ratio has fewer rows where there are many models: each value of X is then used so often that where it lies does not
matter, and a peer needs a mask of rows times models.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from gradfold import _bench_peers, _core, _limits, gradient
from gradfold._bench_problems import Dense, Rows
from gradfold._bench_problems import Multinomial as MultinomialProblem
from gradfold._bench_timing import beside, median_seconds, ratio

from . import devices, limits

VALUES = 20_000_000  # of X: n_rows = VALUES / n_features
MOST_MASK = 1 << 23  # rows times models of a problem that peers get


class Problem(Dense):
    """For "cuda" the data and the results lie on the GPU."""

    def __init__(
        self, n_features: int, n_models: int, device: str = "cpu", n_rows: int | None = None, dtype: str = "float32"
    ) -> None:
        super().__init__(Rows(n_rows or VALUES // n_features, n_features, dtype), n_models)
        self.device = device
        if device == "cuda":
            from gradfold.cuda import arrays

            self.on_gpu = [arrays.to_device(a) for a in (self.X, self.y, self.W, self.intercept)]

    def gradient(self, loss: bool, n_threads: int) -> None:
        if self.device == "cuda":
            gradient.loss_gradient(*self.on_gpu, loss="log_loss", folds=self.rows.folds, return_loss=loss)
            devices.wait("cuda")
            return
        super().gradient(loss, n_threads)

    def rates(self, loss: bool, n_threads: int) -> dict[str, float]:
        """Of the median of five gradients."""
        if self.device == "cuda":
            self.gradient(loss, n_threads)  # compiles
        seconds = median_seconds(lambda: self.gradient(loss, n_threads))
        peak = limits.fma_peak(4, n_threads, self.device)
        found = limits.rates(seconds, len(self.X) * self.W.shape[1], self.flops(), peak)
        n_bytes = self.X.nbytes + self.y.nbytes
        found["of_limit"] = limits.least_seconds(self.flops(), n_bytes, 4, n_threads, self.device) / seconds
        return found


def smaller(n_features: int, n_models: int) -> Problem:
    """For ratios on the CPU."""
    return Problem(n_features, n_models, n_rows=min(VALUES // n_features, MOST_MASK // n_models))


class DenseGradient:
    """On all cores, or on the GPU."""

    params = (devices.ALL, [1, 16, 96, 100, 512], [30, 100, 1000])
    param_names = ["device", "n_models", "n_features"]
    timeout = 300

    def setup(self, device: str, n_models: int, n_features: int) -> None:
        devices.need(device)
        self.problem = Problem(n_features, n_models, device)
        if device == "cuda":
            self.problem.gradient(False, 1)  # compiles

    def time_gradient(self, device: str, n_models: int, n_features: int) -> None:
        self.problem.gradient(False, limits.cores())


class DenseGradientOneThread(DenseGradient):
    params = (devices.HOST, [1, 100], DenseGradient.params[2])

    def time_gradient(self, device: str, n_models: int, n_features: int) -> None:
        self.problem.gradient(False, 1)


class DenseGradientMemory(DenseGradient):
    """Of the whole process: 80 MB of X, a pass that makes them, and what the gradient adds."""

    params = (devices.HOST, [1, 512], [100])
    time_gradient = None

    def peakmem_gradient(self, device: str, n_models: int, n_features: int) -> None:
        self.problem.gradient(True, limits.cores())


class DenseGradientThreads:
    """The gradient of 100 models of 100 features in both types, on one thread and on all."""

    params = (devices.HOST, devices.DTYPES, limits.THREADS)
    param_names = ["device", "dtype", "threads"]
    timeout = 120

    def setup(self, device: str, dtype: str, threads: str) -> None:
        self.prepare(dtype, limits.threads(threads))

    def prepare(self, dtype: str, n_threads: int) -> None:
        self.problem = Problem(100, 100, n_rows=8_000, dtype=dtype)
        self.n_threads = n_threads
        self.time_gradient()  # the caches, and the pages of the results

    def time_gradient(self, *params: object) -> None:
        self.problem.gradient(False, self.n_threads)

    def track_of_limit(self, *params: object) -> float:
        """Of many models the limit is the peak: of this level, type and number of threads."""
        q = self.problem
        peak = limits.fma_peak(q.X.itemsize, self.n_threads, level=_core.levels.current())
        return q.flops() / median_seconds(self.time_gradient, 3) / peak

    track_of_limit.unit = "useful fraction of the FMA peak"


class DenseGradientLevels(devices.AtEachLevel, DenseGradientThreads):
    pass


class DenseGradientRates:
    """Useful operations of `DenseGradient`: each size is measured once, for all that is said of it. One model is `OneModel`'s."""

    params = (devices.ALL, [16, 100, 512], [30, 100, 1000])
    param_names = DenseGradient.param_names
    timeout = 600

    def setup_cache(self) -> dict[tuple[object, ...], dict[str, float]]:
        return measured(self.params, limits.cores())

    def setup(self, found: dict, device: str, n_models: int, n_features: int) -> None:
        devices.need(device)

    def track_of_limit(self, found: dict, *params: object) -> float:
        return found[(*params, False)]["of_limit"]

    def track_of_limit_with_loss(self, found: dict, *params: object) -> float:
        return found[(*params, True)]["of_limit"]

    track_of_limit.unit = track_of_limit_with_loss.unit = "useful fraction of the limit"


class DenseGradientRatesOneThread(DenseGradientRates):
    params = (devices.HOST, [96, 100], DenseGradientRates.params[2])

    def setup_cache(self) -> dict[tuple[object, ...], dict[str, float]]:
        return measured(self.params, 1)


class DenseGradientThroughput:
    """In other units, of few sizes: they follow from the time."""

    params = (devices.ALL, [100, 4096])
    param_names = ["device", "n_models"]
    timeout = 300

    def setup_cache(self) -> dict[tuple[object, ...], dict[str, float]]:
        return measured((*self.params, [100]), limits.cores(), (False,))

    def setup(self, found: dict, device: str, n_models: int) -> None:
        devices.need(device)
        if (device, n_models, 100, False) not in found:
            raise NotImplementedError("takes long on a CPU, and is as fast as 512 models")

    def track_model_rows(self, found: dict, device: str, n_models: int) -> float:
        return found[device, n_models, 100, False]["model_rows"]

    def track_gflops(self, found: dict, device: str, n_models: int) -> float:
        return found[device, n_models, 100, False]["gflops"]

    track_model_rows.unit = "model x rows / s"
    track_gflops.unit = "useful GFLOP/s"


def measured(
    params: tuple[list, list, list], n_threads: int, losses: tuple[bool, ...] = (False, True)
) -> dict[tuple[object, ...], dict[str, float]]:
    """Rates by (device, n_models, n_features, loss), of the devices that are there."""
    found = {}
    for device, n_models, n_features in itertools.product(*params):
        if devices.no_gpu() is not None if device == "cuda" else n_models > 512:
            continue
        problem = smaller(n_features, n_models) if device == "cpu" else Problem(n_features, n_models, device)
        for loss in losses:
            found[device, n_models, n_features, loss] = problem.rates(loss, n_threads)
    return found


class OneModel:
    """One model reads X once and does little with it: the limit is memory, where X lies. On all cores, or on the GPU."""

    params = (devices.ALL, [30, 100, 1000])
    param_names = ["device", "n_features"]
    timeout = 300

    def setup_cache(self) -> dict[tuple[str, int], float]:
        return shares_of_bandwidth(self.params, limits.cores())

    def setup(self, found: dict, device: str, n_features: int) -> None:
        devices.need(device)

    def track_read_bandwidth(self, found: dict, device: str, n_features: int) -> float:
        return found[device, n_features]

    track_read_bandwidth.unit = "fraction of the read bandwidth, X counted once"


class OneModelOneThread(OneModel):
    params = (devices.HOST, *OneModel.params[1:])

    def setup_cache(self) -> dict[tuple[str, int], float]:
        return shares_of_bandwidth(self.params, 1)


def one_model(n_features: int, device: str, n_threads: int) -> Problem:
    """Its X is larger than all caches."""
    return Problem(n_features, 1, device, n_rows=max(VALUES, _limits.beyond_caches(n_threads) // 4) // n_features)


def shares_of_bandwidth(params: tuple[list, list], n_threads: int) -> dict[tuple[str, int], float]:
    found = {}
    for device, n_features in itertools.product(*params):
        if device == "cuda" and devices.no_gpu() is not None:
            continue
        problem = one_model(n_features, device, n_threads)
        problem.gradient(False, n_threads)
        seconds = median_seconds(lambda q=problem: q.gradient(False, n_threads))
        found[device, n_features] = problem.X.nbytes / seconds / limits.read_bandwidth(n_threads, device)
    return found


PEERS: dict[str, Callable[[Problem, int], _bench_peers.Body]] = {
    "numpy blocks": lambda q, n: _bench_peers.numpy_blocks(q.X, q.y, q.W, q.train_mask()),
    "torch blocks": lambda q, n: _bench_peers.torch_blocks(q.X, q.y, q.W, q.train_mask(), n),
    "torch.func.vmap": lambda q, n: _bench_peers.torch_vmap(q.X, q.y, q.W, q.train_mask(), n),
    "jax.vmap": lambda q, n: _bench_peers.jax_vmap(q.X, q.y, q.W, q.train_mask()),
    "scikit-learn": lambda q, n: _bench_peers.sklearn_linear_loss(q.X, q.y, q.W, q.train_mask(), n),
}
BLOCKS = ("numpy blocks", "torch blocks")


class DenseGradientPeer:
    """Other libraries' times of 100 features and of 1 or 100 models; the ratios are measured below."""

    params = (devices.HOST, ["gradfold", *PEERS], [1, 100])
    param_names = ["device", "library", "n_models"]
    timeout = 300

    def setup(self, device: str, library: str, n_models: int) -> None:
        problem = smaller(100, n_models)
        n = limits.cores()
        if library == "gradfold":
            self.body = lambda: problem.gradient(False, n)
        else:
            self.body = devices.peer(library, lambda: PEERS[library](problem, n))
        self.body()  # compiles

    def time_gradient(self, device: str, library: str, n_models: int) -> None:
        self.body()


class DenseGradientBesideBlocks:
    """Ratios to the best peers at equal threads, measured in turn in one process; each shape, models x features, once."""

    shapes = {
        f"{m} x {p}": (m, p) for m, p in ((1, 30), (1, 100), (1, 1000), (16, 100), (100, 30), (100, 100), (100, 1000), (512, 100))
    }
    params = (devices.HOST, [*BLOCKS, "best"], list(shapes))
    param_names = ["device", "peer", "shape"]
    timeout = 600
    peers: tuple[str, ...] = BLOCKS

    def setup_cache(self) -> dict[tuple[str, str], float]:
        return self.found()

    def found(self) -> dict[tuple[str, str], float]:
        found = {}
        for shape in self.params[2]:
            n_models, n_features = self.shapes[shape]
            ratios = ratios_of(smaller(n_features, n_models), self.peers, limits.cores())
            found.update(((name, shape), times) for name, times in ratios.items())
            found["best", shape] = min(ratios.values(), default=float("nan"))
        return found

    def setup(self, found: dict, device: str, peer: str, shape: str) -> None:
        if (peer, shape) not in found:
            raise NotImplementedError(f"{peer} is not installed")

    def track_times_peer(self, found: dict, device: str, *which: object) -> float:
        return found[which]

    track_times_peer.unit = "times as fast"


class DenseGradientBesideOthers(DenseGradientBesideBlocks):
    """Peers that make no blocks of rows, or one model after another, are far behind: one shape of them will do."""

    peers = tuple(name for name in PEERS if name not in BLOCKS)
    params = (devices.HOST, list(peers), ["100 x 100"])

    def setup_cache(self) -> dict[tuple[str, str], float]:
        return self.found()


def ratios_of(problem: Problem, names: Iterable[str], n_threads: int) -> dict[str, float]:
    """By the peers that are installed."""
    bodies: dict[str, Any] = {}
    for name in names:
        try:
            bodies[name] = PEERS[name](problem, n_threads)
        except ImportError:
            continue
    found = beside(lambda: problem.gradient(False, n_threads), list(bodies.values()), 3)
    return dict(zip(bodies, found.ratios))


class DenseGradientGpuPeers:
    """Ratios to other libraries on the same GPU, in full float32."""

    params = (["cuda"], [100, 4096])
    param_names = ["device", "n_models"]
    timeout = 300

    def setup(self, device: str, n_models: int) -> None:
        devices.need(device)
        self.problem = Problem(100, n_models, device)

    def times(self, name: str) -> float:
        from gradfold.cuda import _peers

        q = self.problem
        try:
            run, wait = _peers.PEERS[name](_peers.Problem(q.X, q.y, q.W, q.train_mask()))
        except ImportError:
            return float("nan")
        return ratio(lambda: (run(), wait()), lambda: q.gradient(False, 1), 3)

    def track_times_torch(self, device: str, n_models: int) -> float:
        return self.times("torch two products, blocks of rows")

    def track_times_cupy(self, device: str, n_models: int) -> float:
        return self.times("cupy two products, blocks of rows")

    track_times_torch.unit = track_times_cupy.unit = "times as fast"


class Multinomial:
    """Softmax regression of many models, beside NumPy in row blocks."""

    params = (devices.HOST, [30, 100, 1000])
    param_names = ["device", "n_features"]
    timeout = 600

    def setup(self, device: str, n_features: int) -> None:
        self.problem = MultinomialProblem(VALUES // 10 // n_features, n_features)
        self.peer = _bench_peers.numpy_softmax(self.problem.X, self.problem.y, self.problem.W, self.problem.train_mask())

    def time_gradient(self, device: str, n_features: int) -> None:
        self.problem.gradient(limits.cores())

    def time_numpy_blocks(self, device: str, n_features: int) -> None:
        self.peer()

    def track_fma_peak(self, device: str, n_features: int) -> float:
        n = limits.cores()
        return self.problem.flops() / median_seconds(lambda: self.problem.gradient(n)) / limits.fma_peak(4, n)

    def track_times_numpy_blocks(self, device: str, n_features: int) -> float:
        return ratio(self.peer, lambda: self.problem.gradient(limits.cores()), 3)

    track_fma_peak.unit = "useful fraction of the FMA peak"
    track_times_numpy_blocks.unit = "times as fast"
