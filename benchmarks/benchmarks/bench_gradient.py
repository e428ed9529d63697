"""Dense gradient of many models over one pass of X (80 MB, beyond the caches), beside NumPy and PyTorch in row blocks."""

from __future__ import annotations

import itertools

from gradfold import _bench_peers as peers
from gradfold import gradient
from gradfold._bench_problems import Dense, Rows
from gradfold._bench_problems import Multinomial as MultinomialProblem
from gradfold._bench_timing import median_seconds, ratio

from . import devices, limits

VALUES = 20_000_000  # of X: n_rows = VALUES / n_features


class Problem(Dense):
    """For "cuda" the data and the results lie on the GPU."""

    def __init__(self, n_features: int, n_models: int, device: str = "cpu") -> None:
        super().__init__(Rows(VALUES // n_features, n_features), n_models)
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
        return limits.rates(seconds, len(self.X) * self.W.shape[1], self.flops(), peak)


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
    params = (devices.HOST, *DenseGradient.params[1:])

    def time_gradient(self, device: str, n_models: int, n_features: int) -> None:
        self.problem.gradient(False, 1)


class DenseGradientRates:
    """Useful operations of `DenseGradient`: each size is measured once, for all that is said of it."""

    params = DenseGradient.params
    param_names = DenseGradient.param_names
    timeout = 600

    def setup_cache(self) -> dict[tuple[object, ...], dict[str, float]]:
        return measured(self.params, limits.cores())

    def setup(self, found: dict, device: str, n_models: int, n_features: int) -> None:
        devices.need(device)

    def track_fma_peak(self, found: dict, *params: object) -> float:
        return found[(*params, False)]["fma_peak"]

    def track_fma_peak_with_loss(self, found: dict, *params: object) -> float:
        return found[(*params, True)]["fma_peak"]

    track_fma_peak.unit = track_fma_peak_with_loss.unit = "useful fraction of the FMA peak"


class DenseGradientRatesOneThread(DenseGradientRates):
    params = DenseGradientOneThread.params

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
        problem = Problem(n_features, n_models, device)
        for loss in losses:
            found[device, n_models, n_features, loss] = problem.rates(loss, n_threads)
    return found


class OneModel:
    """One model reads X once and does little with it: the limit is memory. On all cores, or on the GPU."""

    params = (devices.ALL, [30, 100, 1000])
    param_names = ["device", "n_features"]
    timeout = 300

    def setup(self, device: str, n_features: int) -> None:
        devices.need(device)
        self.problem = Problem(n_features, 1, device)

    def share(self, device: str, n_threads: int) -> float:
        if device == "cuda":
            self.problem.gradient(False, 1)  # compiles
        seconds = median_seconds(lambda: self.problem.gradient(False, n_threads))
        return self.problem.X.nbytes / seconds / limits.read_bandwidth(n_threads, device)

    def track_read_bandwidth(self, device: str, n_features: int) -> float:
        return self.share(device, limits.cores())

    track_read_bandwidth.unit = "fraction of the read bandwidth, X counted once"


class OneModelOneThread(OneModel):
    params = (devices.HOST, *OneModel.params[1:])

    def track_read_bandwidth(self, device: str, n_features: int) -> float:
        return self.share(device, 1)

    track_read_bandwidth.unit = OneModel.track_read_bandwidth.unit


class DenseGradientPeers:
    """Ratios to the peers at equal threads, measured in turn in one process."""

    params = (devices.HOST, [1, 16, 96, 100, 512], [30, 100, 1000])
    param_names = ["device", "n_models", "n_features"]
    timeout = 600

    def setup(self, device: str, n_models: int, n_features: int) -> None:
        self.problem = Problem(n_features, n_models)
        self.mask = self.problem.train_mask()

    def times(self, peer) -> float:
        n = limits.cores()
        return ratio(peer, lambda: self.problem.gradient(False, n), 3)

    def track_times_numpy_blocks(self, device: str, n_models: int, n_features: int) -> float:
        q = self.problem
        return self.times(peers.numpy_blocks(q.X, q.y, q.W, self.mask))

    def track_times_torch_blocks(self, device: str, n_models: int, n_features: int) -> float:
        q = self.problem
        try:
            peer = peers.torch_blocks(q.X, q.y, q.W, self.mask, limits.cores())
        except ImportError:
            return float("nan")  # asv shows it as n/a
        return self.times(peer)

    track_times_numpy_blocks.unit = track_times_torch_blocks.unit = "times as fast"


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
        self.problem = MultinomialProblem(VALUES // 4 // n_features, n_features)

    def track_fma_peak(self, device: str, n_features: int) -> float:
        n = limits.cores()
        return self.problem.flops() / median_seconds(lambda: self.problem.gradient(n)) / limits.fma_peak(4, n)

    def track_times_numpy_blocks(self, device: str, n_features: int) -> float:
        q = self.problem
        peer = peers.numpy_softmax(q.X, q.y, q.W, q.train_mask())
        return ratio(peer, lambda: q.gradient(limits.cores()), 3)

    track_fma_peak.unit = "useful fraction of the FMA peak"
    track_times_numpy_blocks.unit = "times as fast"
