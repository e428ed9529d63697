"""A whole grid: 20 candidates x 5 folds, mini-batches, held-out losses every epoch; beside scikit-learn's one model at a time."""

from __future__ import annotations

import itertools
import time
import warnings

import numpy as np

import gradfold as gf
from gradfold import _bench_peers
from gradfold._bench_problems import Grid, classification
from gradfold._bench_timing import ratio

from . import devices, limits

EPOCHS = 10


class Fit:
    params = (devices.ALL, ["sgd", "adam"], [32, 256], [20_000, 200_000])
    param_names = ["device", "solver", "batch_size", "n_rows"]
    timeout = 300

    def setup(self, device: str, solver: str, batch_size: int, n_rows: int) -> None:
        devices.need(device)
        self.X, self.y = classification(n_rows, 100)
        self.candidates = gf.grid(l2=np.logspace(-6, -1, 20))
        self.folds = gf.index.stratified_kfold(self.y, 5)
        if device == "cuda":
            self.fit(device, solver, batch_size, epochs=1)  # compiles

    def fit(self, device: str, solver: str, batch_size: int, epochs: int = EPOCHS) -> gf.Run:
        return gf.fit(
            self.X, self.y, self.candidates, folds=self.folds, loss="log_loss", solver=solver, epochs=epochs,
            batch_size=batch_size, learning_rate=0.05 if solver == "sgd" else 0.002, schedule="cosine", device=device,
        )

    def time_grid(self, device: str, solver: str, batch_size: int, n_rows: int) -> None:
        self.fit(device, solver, batch_size)


class FitMemory(Fit):
    params = (devices.HOST, ["adam"], [256], [20_000, 200_000])
    time_grid = None

    def peakmem_grid(self, device: str, solver: str, batch_size: int, n_rows: int) -> None:
        self.fit(device, solver, batch_size, epochs=2)


class FitRates:
    """What `Fit` makes of the device, copies to it included: each size is measured once, for all that is said of it."""

    params = (devices.ALL, ["sgd", "adam"], [32, 256])
    param_names = ["device", "solver", "batch_size"]
    timeout = 600
    n_rows = 200_000

    def setup_cache(self) -> dict[tuple[object, ...], dict[str, float]]:
        found = {}
        for device, solver, batch_size in itertools.product(*self.params):
            case = Fit()
            try:
                case.setup(device, solver, batch_size, self.n_rows)
            except NotImplementedError:
                continue
            start = time.perf_counter()
            case.fit(device, solver, batch_size)
            seconds = time.perf_counter() - start
            # a training row costs 4 flops a feature, a scored row 2; the refit is not counted as useful
            visits = EPOCHS * self.n_rows * 100
            peak = limits.fma_peak(4, limits.cores(), device)
            found[device, solver, batch_size] = limits.rates(seconds, visits, visits * 100 * (4 * 0.8 + 2 * 0.2), peak)
        return found

    def setup(self, found: dict, device: str, *params: object) -> None:
        devices.need(device)

    def track_model_rows(self, found: dict, *params: object) -> float:
        return found[params]["model_rows"]

    def track_fma_peak(self, found: dict, *params: object) -> float:
        return found[params]["fma_peak"]

    track_model_rows.unit = "model x rows / s"
    track_fma_peak.unit = "useful fraction of the FMA peak"


class Halving:
    """A third of the candidates goes on after 1, 3 and 9 epochs of 27: the time beside that of a search in which all stay to the end.
    Models that finish leave their panels. In model-epochs it is 0.11; the five models left for 18 epochs fill no vector on each core."""

    params = (devices.ALL, ["sgd", "adam"])
    param_names = ["device", "solver"]
    timeout = 300
    epochs = n_candidates = 27

    def setup(self, device: str, solver: str) -> None:
        devices.need(device)
        self.Trainer = devices.trainer(device)
        self.grid = Grid(20_000, 100, self.n_candidates)

    def run(self, solver: str, halving: bool) -> float:
        trainer = self.grid.trainer(self.Trainer, solver, self.epochs, limits.cores())
        start = time.perf_counter()
        left = self.n_candidates
        while trainer.advance(max_steps=trainer.steps_per_epoch) == "paused":
            if halving and trainer.epochs_done in (1, 3, 9):
                left //= 3
                losses = trainer.history()[-1].reshape(self.n_candidates, -1).mean(axis=1)
                trainer.finish(np.repeat(np.argsort(np.argsort(losses)) >= left, len(self.grid.l2) // self.n_candidates))
        return time.perf_counter() - start

    def time_halving(self, device: str, solver: str) -> None:
        self.run(solver, halving=True)

    def track_share_of_the_whole_search(self, device: str, solver: str) -> float:
        return self.run(solver, halving=True) / self.run(solver, halving=False)

    track_share_of_the_whole_search.unit = "of the time when all models stay"


class Epoch:
    """An epoch of 20 candidates x 5 folds with the held-out losses; NumPy steps all models side by side."""

    params = (devices.HOST, ["gradfold", "numpy"], ["sgd", "adam"])
    param_names = ["device", "library", "solver"]
    timeout = 300

    def setup(self, device: str, library: str, solver: str) -> None:
        self.grid = Grid(20_000, 100, 20)
        self.trainer = self.grid.trainer(devices.trainer(device), solver, 100_000, limits.cores())
        self.body = self.ours if library == "gradfold" else self.numpy(solver)

    def ours(self) -> None:
        self.trainer.advance(max_steps=self.trainer.steps_per_epoch)

    def numpy(self, solver: str) -> _bench_peers.Body:
        g = self.grid
        return _bench_peers.numpy_epoch(g.X, g.y, g.train_mask(), g.l2, solver, g.batch_size, g.learning_rate)

    def time_epoch(self, device: str, library: str, solver: str) -> None:
        self.body()


class EpochPeers(Epoch):
    """scikit-learn trains with sgd alone, and is timed on a few models, without their held-out losses."""

    params = (devices.HOST, ["numpy", "scikit-learn"], ["sgd", "adam"])
    param_names = ["device", "peer", "solver"]
    time_epoch = None

    def setup(self, device: str, peer: str, solver: str) -> None:
        super().setup(device, "gradfold", solver)
        self.times = 1.0
        if peer == "numpy":
            self.peer = self.numpy(solver)
            return
        if solver != "sgd":
            raise NotImplementedError("scikit-learn has no adam for linear models")
        n, n_models = limits.cores(), 2 * limits.cores()
        self.peer = devices.peer(
            "scikit-learn", lambda: _bench_peers.sklearn_epoch(self.grid.X, self.grid.y, n_models, n)
        )
        self.times = len(self.grid.l2) / n_models

    def track_times_peer(self, device: str, peer: str, solver: str) -> float:
        return self.times * ratio(self.peer, self.ours, 3)

    track_times_peer.unit = "times as fast"


class FitBesideSGDClassifier:
    """The same grid through GridSearchCV(SGDClassifier), timed on two candidates without the refit and multiplied by their number: every
    candidate costs it the same. Its worker processes are started beforehand; our refit is counted."""

    params = (devices.ALL, [20_000])
    param_names = ["device", "n_rows"]
    timeout = 600

    def setup(self, device: str, n_rows: int) -> None:
        devices.need(device)
        try:
            import sklearn  # noqa: F401
        except ImportError as error:
            raise NotImplementedError("scikit-learn is not installed") from error
        self.case = Fit()
        self.case.setup(device, "adam", 256, n_rows)

    def track_times_sgdclassifier(self, device: str, n_rows: int) -> float:
        from sklearn.linear_model import SGDClassifier
        from sklearn.model_selection import GridSearchCV

        case = self.case
        peer = GridSearchCV(
            SGDClassifier(loss="log_loss", max_iter=EPOCHS, tol=None, random_state=0), {"alpha": [1e-5, 1e-3]},
            cv=case.folds, scoring="neg_log_loss", n_jobs=limits.cores(), refit=False,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            GridSearchCV(SGDClassifier(loss="log_loss"), {"alpha": [1e-5, 1e-3]}, n_jobs=limits.cores()).fit(
                case.X[:500], case.y[:500]
            )
            start = time.perf_counter()
            peer.fit(case.X, case.y)
        theirs = (time.perf_counter() - start) * len(case.candidates) / 2
        start = time.perf_counter()
        case.fit(device, "adam", 256)
        return theirs / (time.perf_counter() - start)

    track_times_sgdclassifier.unit = "times as fast"
