"""The solvers of the optimum with their passes on the device, in the simulator: the CPU's bytes, and how a fit ends early."""

from __future__ import annotations

import signal
import warnings
from typing import Any

import numpy as np
import pytest
from test_arrays import Foreign

import calls
import fits
import gradfold as gf
import optima
import splits
from gradfold import _optimum
from gradfold._device import DeviceMemoryError
from gradfold._optimum_check import SMOOTH
from gradfold.cuda import arrays, gradient
from test_promises import POISONS, assert_same, poison

POINTWISE = [name for name in SMOOTH if name != "multinomial"]
WEIGHTS = ["none", "zeros", "integers"]
PAIRS = [(solver, loss) for solver in ("lbfgs", "newton-cholesky") for loss in POINTWISE]
PAIRS += [("coordinate-descent", "log_loss"), ("coordinate-descent", "squared_error"), ("cholesky", "squared_error")]

# Every solver and loss in both types; what else there is goes round, at lengths that are prime to each other.
CASES = [
    (
        {
            "n": 12 + at % 3,
            "p": [3, 4, 1, 2, 5][at % 5],
            "m": [3, 9, 1, 5][at % 4] if dtype == np.float32 else [5, 2, 3][at % 3],
            "dtype": dtype,
            "kind": sorted(splits.KINDS)[at % 7],
            "loss": loss,
            "weights": WEIGHTS[(at // 2) % 3],
        },
        solver,
        {"standardize": at % 3 == 1, "fit_intercept": (at // 2) % 3 != 2},
    )
    for at, (solver, loss, dtype) in enumerate((*pair, dtype) for pair in PAIRS for dtype in (np.float32, np.float64))
]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of the passes that the device takes in a test."""
    taken: list[dict[str, Any]] = []
    plain = gradient.loss_gradient

    def counted(*data: Any, **arguments: Any) -> Any:
        taken.append(arguments)
        return plain(*data, **arguments)

    monkeypatch.setattr(gradient, "loss_gradient", counted)
    return taken


def problem(seed: int, **options: Any) -> calls.Problem:
    q = calls.problem(seed, **options)
    rng = np.random.default_rng(seed)
    return calls.replace(q, l2=10.0 ** rng.uniform(-3, 0, q.n_models))


@pytest.mark.parametrize(
    ("data", "solver", "how"), CASES, ids=[f"{solver}-{data['loss']}-{np.dtype(data['dtype'])}-{data['kind']}" for data, solver, _ in CASES]
)
def test_same_bits_as_the_cpu(passes: list[Any], data: dict[str, Any], solver: str, how: dict[str, Any]) -> None:
    q = problem(7, **data)
    how = {**how, "max_iter": 5, "tol": 1e-4}
    found = optima.solve(q, solver, device="cuda", **how)
    assert_same(found.bytes(), optima.solve(q, solver, **how).bytes(), solver)
    scores = [call["mean"] for call in passes]
    if q.loss == "squared_error":  # whose held-out losses moments may tell
        assert _optimum.without_passes(solver, q.loss) == (not passes)
    else:
        assert scores == [False] * found.arrivals["n_passes"].max() + [True]


def test_sums_of_two_chunks() -> None:
    """In float64: one of them alone would be a float32."""
    q = problem(11, n=1030, p=1, m=1, dtype=np.float32, kind="kfold", weights="none")
    assert_same(optima.solve(q, device="cuda", max_iter=1).bytes(), optima.solve(q, max_iter=1).bytes())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weights", ["none", "zeros"])
def test_a_start_on_a_sample(passes: list[Any], dtype: Any, weights: str) -> None:
    q = problem(8, n=30, p=2, m=4, dtype=dtype, weights=weights)
    found = optima.solve(q, sample=True, device="cuda", max_iter=5)
    assert_same(found.bytes(), optima.solve(q, sample=True, max_iter=5).bytes())
    assert found.bytes() != optima.solve(q, max_iter=5).bytes()
    sampled = [call["rows"] is not None for call in passes]
    assert sampled == sorted(sampled, reverse=True) and 0 < sum(sampled) < len(sampled) - 1


@pytest.mark.parametrize("how", sorted(POISONS))
@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky", "coordinate-descent"])
def test_no_leak(solver: str, how: str) -> None:
    q = problem(9, n=13, p=3, m=3, dtype=np.float32, kind="nested")
    q = calls.replace(q, split_of_model=np.full(3, q.split_of_model[0]))
    clean, got = (optima.solve(data, solver, device="cuda", max_iter=3) for data in (q, poison(q, 0, how, seed=3)))
    assert_same([got.weights_of(k) for k in range(3)], [clean.weights_of(k) for k in range(3)])


# -- fit ---------------------------------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> None:
    """Two runs with the same bits."""
    for name in ("coef", "intercept", "steps", "held_out_loss", "best_coef", "best_intercept", "best_candidate"):
        assert np.asarray(getattr(a, name)).tobytes() == np.asarray(getattr(b, name)).tobytes(), name
    for name, values in a.arrivals.items():
        assert values.tobytes() == b.arrivals[name].tobytes(), name
    assert a.solver_reason == b.solver_reason


def quick(X: Any, y: Any, *rest: Any, **options: Any) -> Any:
    """A fit of a few steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gf.ConvergenceWarning)
        warnings.simplefilter("ignore", gf.ChoiceWarning)
        return gf.fit(X, y, *rest, **{"max_iter": 4, **options})


GRID = gf.grid(l2=[1e-3, 1e-1])
PASSES = "cuda: asked for; passes over X on the GPU, moments and Hessians on the CPU"


@pytest.mark.parametrize(
    ("data", "options", "solver", "reason"),
    [
        (fits.labels, {}, "lbfgs", PASSES),
        (fits.labels, {"class_weight": "balanced", "standardize": True, "dtype": np.float32}, "lbfgs", PASSES),
        (fits.labels, {"l1": 0.01}, "coordinate-descent", PASSES),
        (fits.numbers, {}, "cholesky", "cuda: asked for; cholesky of squared_error on the CPU, which reads X once for its moments"),
        (
            fits.numbers, {"l1": 0.01}, "coordinate-descent",
            "cuda: asked for; coordinate-descent of squared_error on the CPU, which reads X once for its moments",
        ),
    ],
    ids=["labels", "class weights", "l1", "numbers", "net"],
)  # fmt: skip
def test_auto_is_the_same_here_and_there(data: Any, options: dict[str, Any], solver: str, reason: str) -> None:
    X, y = data(24, 3)
    X = X.astype(options.pop("dtype", np.float64))
    run = quick(X, y, GRID, folds=2, device="cuda", **options)
    same(run, quick(X, y, GRID, folds=2, **options))
    assert (run.solver, run.device, run.device_reason) == (solver, "cuda", reason)


@pytest.mark.parametrize("solver", ["lbfgs", "cholesky"])
def test_data_on_the_gpu(monkeypatch: pytest.MonkeyPatch, passes: list[Any], solver: str) -> None:
    """X is used where it lies, and fetched once for all trainers; the rest is small."""
    fetched: list[Any] = []
    plain = arrays.DeviceArray.numpy

    def numpy(self: arrays.DeviceArray) -> Any:
        fetched.extend([self.shape] if self.ndim == 2 else [])
        return plain(self)

    monkeypatch.setattr(arrays.DeviceArray, "numpy", numpy)
    X, y = fits.labels(24, 3)
    weight = np.random.default_rng(2).integers(0, 3, 24).astype(np.float64)
    options = {"folds": 2, "solver": solver, "loss": "log_loss" if solver == "lbfgs" else "squared_error"}
    run = quick(Foreign(X), Foreign(y), GRID, sample_weight=Foreign(weight), **options)
    assert fetched.count(X.shape) == 1
    same(run, quick(X, y, GRID, sample_weight=weight, **options))
    assert run.device_reason.startswith("cuda: where the data lives; ")
    assert run.device_reason.endswith("; X was copied to the host for them")
    assert bool(passes) == (solver == "lbfgs")


def test_leave_one_out_in_closed_form() -> None:
    X, y = fits.numbers(70, 3)
    run = quick(Foreign(X), y, GRID, folds=gf.index.leave_one_out(70))
    assert run.arrivals["closed_form"].all()
    same(run, quick(X, y, GRID, folds=gf.index.leave_one_out(70)))


def test_validation_data_and_missing_cells(passes: list[Any]) -> None:
    X, y = fits.labels(36, 3)
    X[::5, 1] = np.nan
    options: dict[str, Any] = {"solver": "lbfgs", "missing": "mean"}
    same(quick(X, y, GRID, folds=2, device="cuda", **options), quick(X, y, GRID, folds=2, **options))
    passes.clear()
    options["validation_data"] = (X[24:], y[24:])
    same(quick(X[:24], y[:24], GRID, device="cuda", **options), quick(X[:24], y[:24], GRID, **options))
    assert passes and not any(call["mean"] for call in passes)  # those rows are scored on the CPU


@pytest.mark.parametrize("solver", ["lbfgs", "coordinate-descent"])
def test_an_interrupt_during_a_pass(monkeypatch: pytest.MonkeyPatch, solver: str) -> None:
    """The pass ends, and the models have what the passes before have led to."""
    plain, done = gradient.loss_gradient, []

    def pressed(*data: Any, **arguments: Any) -> Any:
        done.append(arguments)
        if len(done) == 4:
            signal.raise_signal(signal.SIGINT)
        return plain(*data, **arguments)

    monkeypatch.setattr(gradient, "loss_gradient", pressed)
    X, y = fits.labels(24, 3)
    run = quick(X, y, GRID, folds=2, device="cuda", solver=solver, loss="log_loss")
    assert run.stop_reason == "interrupted" and len(done) == 4
    assert (run.arrivals["n_passes"] == 3).all() and np.isfinite(run.coef).all() and run.coef.any()


def test_what_the_device_raises_leaves_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, done = gradient.loss_gradient, []

    def full(*data: Any, **arguments: Any) -> Any:
        done.append(arguments)
        if len(done) == 3:
            raise DeviceMemoryError("the GPU has nothing free")
        return plain(*data, **arguments)

    X, y = fits.labels(24, 3)
    with monkeypatch.context() as patch:
        patch.setattr(gradient, "loss_gradient", full)
        with pytest.raises(DeviceMemoryError, match="^the GPU has nothing free"):
            quick(X, y, GRID, folds=2, device="cuda", solver="lbfgs")
    # A trainer that has met it goes on.
    q = problem(10, n=12, p=2, m=2, dtype=np.float64)
    trainer = optima.trainer(q, device="cuda", max_iter=3)
    done.clear()
    with monkeypatch.context() as patch:
        patch.setattr(gradient, "loss_gradient", full)
        with pytest.raises(DeviceMemoryError):
            trainer.advance()
    assert trainer.advance() == "done"
    assert trainer.coef().tobytes() == optima.solve(q, max_iter=3).coef.tobytes()


def test_X_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = fits.numbers(60, 5)
    monkeypatch.setattr(arrays, "free_memory", lambda: 1000)
    with pytest.raises(DeviceMemoryError, match="^the GPU has 1 kB free, wanted 3 kB; solvers of the optimum want all of X there"):
        gf.fit(X, y, device="cuda", solver="lbfgs")
    assert gf.fit(X, y, device="cuda").solver == "cholesky"  # nothing of which goes there


def test_multinomial_is_not_built() -> None:
    X, y = fits.labels(30, 3)
    for solver in ("auto", "lbfgs", "adam"):
        with pytest.raises(ValueError, match="^loss: got 'multinomial' with device='cuda', wanted a loss of one output; use device='cpu'"):
            gf.fit(X, y + 2 * (np.arange(30) % 3 == 0), device="cuda", solver=solver)
