"""Runs a case of the self-check on both sides and compares bytes.

A side offers each computation once: `Cpu` by the compiled kernels, `Cuda` by the device's. `outcome` says what differs,
with the first place and both values in hex, so that a report is enough to look for the cause.
"""

from __future__ import annotations

import time
import traceback
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

import gradfold as gf
from gradfold import _core, index
from gradfold import loss as _loss
from gradfold.cuda import _check_cases
from gradfold.cuda._check_cases import Case, Data

Array = npt.NDArray[Any]
Arrays = dict[str, "Array | None"]
Pair = tuple[str, str]  # two arrays of one side that must be equal

_UNSIGNED: dict[int, Any] = {4: np.uint32, 8: np.uint64}
_LOSS_EPSILON = 0.25
_DESCRIBED = 8  # arrays of a case that differ
_WINDOW = 3000  # positions of a large permutation that are looked at, in each of four places


class Cpu:
    """The compiled kernels."""

    name = "cpu"

    def __init__(self, n_threads: int = 1) -> None:
        self.n_threads = n_threads

    def fill(self, permutation: index.Permutation, first: int, count: int) -> Array:
        return np.asarray(permutation[first : first + count])

    def positions(self, permutation: index.Permutation, values: Array) -> Array:
        return np.asarray(permutation.inverse(values))

    def maths(self, name: str, x: Array) -> Array:
        out = np.full_like(x, -12345.678)
        _core.simd.apply(name, x, out)
        return out

    def loss(self, name: str, z: Array, y: Array) -> tuple[Array, Array]:
        """By the gradient of as many models as rows: each trains on a row of its own, whose only feature is 1."""
        n = len(z)
        ids, ends = np.arange(n, dtype=np.uint32)[None], np.arange(n, dtype=np.int64)
        conditions = np.zeros((n, 1, 5), np.int64)
        conditions[:, 0, 3], conditions[:, 0, 4] = ends, ends + 1
        loss, gradient = np.empty(n), np.empty((1, n), z.dtype)
        epsilon = np.full(n, _LOSS_EPSILON) if name in _loss.WITH_EPSILON else None
        _core.gradient.loss_gradient(
            np.ones((n, 1), z.dtype),
            y,
            z[None],
            None,
            name,
            False,
            None,
            ids,
            conditions,
            ends,
            None,
            loss,
            gradient,
            None,
            self.n_threads,
            epsilon,
        )
        return loss.astype(z.dtype), gradient[0]

    def loss_gradient(self, **arguments: Any) -> Any:
        return gf.gradient.loss_gradient(**arguments, n_threads=self.n_threads)

    def interop(self, library: str, arguments: dict[str, Any]) -> Any:
        return self.loss_gradient(**arguments)

    def trainer(self, *, path: str | None = None, memory_limit: int | None = None, **arguments: Any) -> Any:
        return _core.train.Trainer(**arguments, n_threads=self.n_threads)

    def fit(self, *data: Any, **arguments: Any) -> Any:
        return gf.fit(*data, **arguments, n_threads=self.n_threads)

    def wait(self) -> None:
        """Until all is computed; raises if nothing can be computed any more."""


class Cuda(Cpu):
    """The kernels of the device; `Cpu`'s interface with NumPy arrays on both ends."""

    name = "cuda"

    def fill(self, permutation: index.Permutation, first: int, count: int) -> Array:
        from gradfold.cuda import index as device_index

        return _host(device_index.fill(permutation, first, count))

    def positions(self, permutation: index.Permutation, values: Array) -> Array:
        from gradfold.cuda import index as device_index
        from gradfold.cuda._driver import cuda

        return _host(device_index.positions(permutation, cuda.to_device(values)))

    def maths(self, name: str, x: Array) -> Array:
        from gradfold.cuda import maths
        from gradfold.cuda._driver import cuda

        out = cuda.to_device(np.full_like(x, -12345.678))
        maths.apply(name, cuda.to_device(x), out)
        return _host(out)

    def loss(self, name: str, z: Array, y: Array) -> tuple[Array, Array]:
        from gradfold.cuda import loss
        from gradfold.cuda._driver import cuda

        values, slopes = (cuda.to_device(np.full_like(z, -12345.678)) for _ in range(2))
        loss.apply(name, cuda.to_device(z), cuda.to_device(y), _LOSS_EPSILON, values, slopes)
        return _host(values), _host(slopes)

    def loss_gradient(self, **arguments: Any) -> Any:
        return gf.gradient.loss_gradient(**arguments, device="cuda")

    def interop(self, library: str, arguments: dict[str, Any]) -> Any:
        """Data of another library on the device, and results in that library."""
        move, kind = _mover(library)
        moved = ("X", "y", "W", "intercept", "sample_weight")
        given = {k: move(v) if k in moved and v is not None else v for k, v in arguments.items()}
        found = gf.gradient.loss_gradient(**given)
        wrong = [type(a).__name__ for a in found if a is not None and not isinstance(a, kind)]
        if wrong:
            raise TypeError(f"results of {library} data came as {', '.join(wrong)}, wanted {kind.__name__}")
        return tuple(None if a is None else _host(a) for a in found)

    def trainer(self, *, path: str | None = None, memory_limit: int | None = None, **arguments: Any) -> Any:
        from gradfold.cuda.train import Trainer

        trainer = Trainer(**arguments, path=path, memory_limit=memory_limit, n_threads=self.n_threads)
        if memory_limit is not None and "streams" not in trainer.reason:
            raise RuntimeError(f"X does not stream: {trainer.reason}")
        return trainer

    def fit(self, *data: Any, **arguments: Any) -> Any:
        return gf.fit(*data, **arguments, device="cuda", n_threads=self.n_threads)

    def wait(self) -> None:
        from gradfold.cuda._driver import cuda

        cuda.synchronize()


def _mover(library: str) -> tuple[Any, Any]:
    if library == "torch":
        import torch

        return (lambda a: torch.from_numpy(a).cuda()), torch.Tensor
    if library == "cupy":
        import cupy

        return cupy.asarray, cupy.ndarray
    from gradfold.cuda import arrays

    return arrays.to_device, arrays.DeviceArray


def _host(array: Any) -> Array:
    """A copy on the host of an array of whatever library."""
    for method in ("copy_to_host", "numpy", "get"):
        if hasattr(array, "cpu"):
            array = array.cpu()
        if hasattr(array, method):
            return np.asarray(getattr(array, method)())
    return np.asarray(array)


# -- what a case computes ---------------------------------------------------------------------------------------------


def compute(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    """The arrays of a case on one side, and which of them must be equal among themselves."""
    return _KINDS[case["kind"]](case, side)


def _permutation(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    n = case["n"]
    p = index.Permutation(n, case["seed"], epoch=case["epoch"], stream=case["stream"])
    if n <= 1_000_000:
        windows = [(0, n)]
    else:
        windows = [(max(0, min(n - _WINDOW, a)), _WINDOW) for a in (0, n // 3, 2**32 - _WINDOW // 2, n - _WINDOW)]
    out: Arrays = {}
    for first, count in windows:
        values = side.fill(p, first, count)
        out[f"p[{first}:{first + count}]"] = values
        out[f"inverse of p[{first}:{first + count}]"] = side.positions(p, np.ascontiguousarray(values[:100_000]))
    return out, []


def _maths(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    name = case["name"]
    x = points(name, np.dtype(case["dtype"]), case["seed"])
    return {f"{name}(x)": side.maths(name, x), "x": x}, []


def points(name: str, dtype: np.dtype[Any], seed: int) -> Array:
    """Bit patterns at random, hard regions and special values, in the domain that `name` promises bits for."""
    rng = np.random.default_rng(seed)
    info, kind = np.finfo(dtype), _UNSIGNED[dtype.itemsize]
    any_bits = rng.integers(0, np.iinfo(kind).max, 100_000, dtype=kind, endpoint=True).view(dtype)
    regions = [rng.uniform(-750, 710, 20_000), rng.uniform(-2, 2, 40_000), 1 + rng.uniform(-1, 1, 10_000) * 1e-4]
    regions += [
        rng.uniform(-66_000, 66_000, 20_000),
        np.exp2(rng.uniform(-149, 127, 20_000)),
        rng.uniform(0, 1, 5000) * float(info.tiny),
    ]
    edges = np.array(
        [
            0,
            1,
            2,
            np.inf,
            info.max,
            info.tiny,
            info.smallest_subnormal,
            info.eps,
            0.5,
            0.5**0.5,
            2**0.5,
            65536,
            88.72284,
            103.97208,
            709.782712893384,
            745.1332191019412,
            np.pi / 4,
            np.pi / 2,
            np.nan,
        ],
        dtype,
    )
    with np.errstate(all="ignore"):
        near = [edges, np.nextafter(edges, dtype.type(np.inf)), np.nextafter(edges, dtype.type(-np.inf))]
        x = np.concatenate([any_bits, *(r.astype(dtype) for r in regions), *near, *(-a for a in near)])
    if name == "exp_nonpositive":
        x = x[x <= 0]
    elif name == "log1p_unit":
        x = x[(x >= 0) & (x <= 1) & ~np.signbit(x)]
    return np.ascontiguousarray(x)


def _loss_points(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    """A zero of either sign counts as +0, and a NaN of any payload as one: that is what sums make of them."""
    rng = np.random.default_rng(case["seed"])
    dtype, name, n = np.dtype(case["dtype"]), case["name"], int(case["count"])
    special = np.array(
        [0, 1, -1, np.inf, -np.inf, np.nan, 1e30, -1e30, 88.8, -104, 745, -745.2, _LOSS_EPSILON, 1 + _LOSS_EPSILON],
        dtype,
    )
    z: Array = (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 3, n)).astype(dtype)
    z[: 2 * len(special)] = np.concatenate([special, special])
    y: Array = np.asarray(rng.random(n) < 0.5 if name in _loss.BINARY else rng.standard_normal(n)).astype(dtype)
    y[: 2 * len(special)] = np.repeat([0, 1], len(special))
    values, slopes = side.loss(name, z, y)
    return {"loss": _plain(values), "gradient": _plain(slopes), "z": z, "y": y}, []


def _plain(a: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(np.isnan(a), a.dtype.type(np.nan), a + a.dtype.type(0)))


def _arguments(case: Case, d: Data) -> dict[str, Any]:
    n = case["n"]
    rows = {
        "all": None,
        "repeats": lambda: d.rng.integers(0, n, 3 * n // 2 + 1),
        "nothing": lambda: np.empty(0, np.int64),
    }[case["rows"]]
    return {
        "X": d.X,
        "y": d.y,
        "W": d.W,
        "intercept": d.intercept if case["intercept"] else None,
        "loss": case["loss"],
        "reduction": case["reduction"],
        "rows": None if rows is None else rows(),
        "folds": d.folds,
        "split_of_model": None if d.folds is None else d.split_of_model,
        "sample_weight": d.sample_weight,
        "return_loss": case["return_loss"],
    } | ({} if d.loss_epsilon is None else {"loss_epsilon": d.loss_epsilon})


def _gradient(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    found = side.loss_gradient(**_arguments(case, _check_cases.data(case)))
    return _results(found), []


def _results(found: Any, of: str = "") -> Arrays:
    return {f"{of}{name}": array for name, array in zip(("loss", "grad_W", "grad_intercept"), found, strict=True)}


def _interop(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    return _results(side.interop(case["library"], _arguments(case, _check_cases.data(case)))), []


def _one_split(case: Case, d: Data) -> None:
    """All models take the last split."""
    assert d.folds is not None
    d.split_of_model = np.full(case["m"], d.folds.n_splits - 1, np.int64)
    if d.sample_weight is not None:
        d.sample_weight[d.folds.train_indices(d.folds.n_splits - 1)[0]] = 1


def _fill_others(case: Case, d: Data) -> None:
    """Poison in every row that the last split does not train on."""
    assert d.folds is not None
    others = d.folds.role(d.folds.n_splits - 1) != 1
    for array in (d.X, d.y, d.sample_weight):
        if array is not None:
            array[others] = float(case["fill"])


def _poison(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    """Rows that no model trains on are filled with poison: the bits stay."""
    d = _check_cases.data(case)
    _one_split(case, d)
    clean = _results(side.loss_gradient(**_arguments(case, d)))
    _fill_others(case, d)
    poisoned = _results(side.loss_gradient(**_arguments(case, d)), "poisoned ")
    return clean | poisoned, [(name, f"poisoned {name}") for name in clean]


def trainer_arguments(case: Case, d: Data, models: Array | None = None) -> dict[str, Any]:
    """The keywords of a Trainer of some of a case's models, all but `n_threads`."""
    rng = np.random.default_rng(case["seed"] + 1)
    n, m = int(case["n"]), int(case["m"])
    some = np.arange(m) if models is None else models
    ids = np.zeros((1, n), np.uint8) if d.folds is None else d.folds.ids
    conditions = np.array([[[0, 1, 2, 0, 1]]], np.int64) if d.folds is None else d.folds.conditions
    l1 = np.where(rng.random(m) < 0.5, 0, 10 ** rng.uniform(-4, -1.5, m)) if case["l1"] else np.zeros(m)
    l2: Array = 10 ** rng.uniform(-5, -1, m) if case["l2"] else np.zeros(m)
    rate: Array = 10 ** rng.uniform(-2.5, -1, m)
    if case["data"] == "diverging":
        huge = np.finfo(case["dtype"]).max / 16
        rate = np.where(rng.random(m) < 0.4, rng.choice([1e8, float(huge)], m), rate)
    codes = (
        range(len(_check_cases.SCHEDULES))
        if case["schedule"] == "mixed"
        else [_check_cases.SCHEDULES.index(case["schedule"])]
    )
    schedule = rng.choice(np.array(codes, np.int32), m)
    hyper: dict[str, Array] = {
        "own": {
            "momentum": rng.uniform(0.3, 0.95, m),
            "beta1": rng.uniform(0.5, 0.95, m),
            "rho": rng.uniform(0.8, 0.99, m),
        },
        "clip": {"clip_norm": rng.uniform(0.01, 0.5, m), "clip_value": rng.uniform(0.01, 0.5, m)},
        "warmup": {"warmup": rng.integers(0, 5, m).astype(np.float64), "weight_decay": rng.uniform(0, 0.1, m)},
    }.get(case.get("hyper", "none"), {})
    l2 = np.where((schedule == _check_cases.SCHEDULES.index("optimal")) & (l2 == 0), 1e-4, l2)  # it divides by l2
    return {
        "X": d.X,
        "y": d.y,
        "sample_weight": d.sample_weight,
        "ids": ids,
        "conditions": conditions,
        "split_of_model": d.split_of_model[some],
        "loss": case["loss"],
        "solver": case["solver"],
        "l1": l1[some],
        "l2": l2[some],
        "learning_rate": rate[some],
        "schedule": schedule[some],
        "epochs": case["epochs"],
        "batch_size": n if case["batch_size"] == "n" else case["batch_size"],
        "shuffle": case["shuffle"],
        "seed": case["seed"],
        "fit_intercept": case["intercept"],
        "standardize": case["standardize"],
        "coef_init": np.ascontiguousarray(d.W.T[some], np.float64) if case["warm"] else None,
        "intercept_init": d.intercept[some].astype(np.float64) if case["warm"] and case["intercept"] else None,
        "loss_epsilon": None if d.loss_epsilon is None else d.loss_epsilon[some],
        "hyper": {name: values[some] for name, values in hyper.items()},
        "track_train_loss": case["track"],
        "path": case["path"],
    }


def _run(case: Case, trainer: Any, of: str = "", state: bool = True) -> Arrays:
    status = trainer.advance()
    if status != "done":
        raise RuntimeError(f"advance() returned {status!r}")
    return _trained(case, trainer, of, state)


def _trained(case: Case, trainer: Any, of: str = "", state: bool = True) -> Arrays:
    """All that a Trainer says of its models."""
    out: Arrays = {
        name: np.asarray(getattr(trainer, name)()) for name in ("coef", "intercept", "steps", "history", "alive")
    }
    out |= {name: np.asarray(getattr(trainer, name)) for name in ("diverged_epoch", "diverged_batch")}
    if case["track"]:
        out["train_loss"] = np.asarray(trainer.train_loss(reset=False))
    if state:
        out |= {f"state[{name}]": np.asarray(array) for name, array in trainer.get_state().items()}
    return {of + name: array for name, array in out.items()}


def _train(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    return _run(case, side.trainer(**trainer_arguments(case, _check_cases.data(case)))), []


def _stream(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    """X in windows."""
    arguments = trainer_arguments(case, _check_cases.data(case))
    size, p = arguments["X"].itemsize, arguments["X"].shape[1]
    words = len(arguments["ids"]) + -(-len(np.unique(arguments["split_of_model"])) // 32)  # of roles
    row = size * (2 + -(-p * size // 16) * 16 // size) + 4 * words  # y, weight, X in whole vectors
    limit = 2 * case["windows"] * case["batch_size"] * row
    return _run(case, side.trainer(**arguments, memory_limit=limit)), []


def _solo(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    """Some models beside all others, and each alone."""
    d = _check_cases.data(case)
    together = _run(case, side.trainer(**trainer_arguments(case, d)), state=False)
    out, pairs = dict(together), []
    for model in (0, case["m"] // 2, case["m"] - 1):
        alone = _run(
            case, side.trainer(**trainer_arguments(case, d, np.array([model]))), f"alone {model} ", state=False
        )
        out |= alone
        for name, array in together.items():
            assert array is not None
            out[f"together {model} {name}"] = array[:, [model]] if name == "history" else array[[model]]
            pairs.append((f"together {model} {name}", f"alone {model} {name}"))
    return out, pairs


def _train_poison(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    d = _check_cases.data(case)
    _one_split(case, d)
    clean = _run(case, side.trainer(**trainer_arguments(case, d)), state=False)
    _fill_others(case, d)
    poisoned = _run(case, side.trainer(**trainer_arguments(case, d)), "poisoned ", state=False)
    poisoned.pop("poisoned history")  # held-out rows are what it is made of
    return clean | poisoned, [(name, f"poisoned {name}") for name in clean if name != "history"]


def _resume(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    """The state of a training stopped in the middle, taken on by a trainer of the other side; both ways."""
    arguments = trainer_arguments(case, _check_cases.data(case))
    whole = _run(case, side.trainer(**arguments))
    out, pairs = dict(whole), []
    for first, second, of in (
        (Cpu(side.n_threads), side, "begun on the cpu: "),
        (side, Cpu(side.n_threads), "ended on the cpu: "),
    ):
        begun = first.trainer(**arguments)
        begun.advance(max_steps=case["steps"])
        found = _run(case, second.trainer(**arguments, state=begun.get_state()), of)
        out |= found
        pairs += [(name, of + name) for name in whole]
    return out, pairs


def _fit(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    rng = np.random.default_rng(case["seed"])
    X = rng.standard_normal((case["n"], case["p"])).astype(case["dtype"])
    z = X @ rng.standard_normal(case["p"]) + rng.standard_normal(case["n"])
    labels = case["target"] == "labels"
    y = (z > 0).astype(np.int64) if labels else z.astype(case["dtype"])
    run = side.fit(
        X,
        y,
        gf.grid(l2=[1e-5, 1e-2], learning_rate=[0.003, 0.03]),
        folds=3,
        loss="log_loss" if labels else "squared_error",
        solver=case["solver"],
        epochs=3,
        batch_size=case["batch_size"],
        standardize=case["standardize"],
        seed=case["seed"],
        schedule="cosine",
        progress=False,
    )
    names = ("coef", "intercept", "steps", "history", "held_out_loss", "best_coef", "best_intercept")
    out: Arrays = {name: np.asarray(getattr(run, name)) for name in names}
    return out | {"best_candidate": np.asarray(run.best_candidate)}, []


def _optimum(case: Case, side: Cpu) -> tuple[Arrays, list[Pair]]:
    """Models at their optima, and the refit."""
    d = _check_cases.data(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models that want more steps
        run = side.fit(
            d.X,
            d.y,
            gf.grid(l2=[1e-4, 1e-1]),
            folds=d.folds,
            loss=case["loss"],
            solver=case["solver"],
            l1=1e-3 if case["solver"] == "coordinate-descent" else 0.0,
            sample_weight=d.sample_weight,
            standardize=case["standardize"],
            fit_intercept=case["intercept"],
            max_iter=20,
        )
    names = ("coef", "intercept", "held_out_loss", "best_coef", "best_intercept")
    return {name: np.asarray(getattr(run, name)) for name in names} | run.arrivals, []


_KINDS = {
    "permutation": _permutation,
    "maths": _maths,
    "loss": _loss_points,
    "gradient": _gradient,
    "interop": _interop,
    "poison": _poison,
    "train": _train,
    "solo": _solo,
    "stream": _stream,
    "train_poison": _train_poison,
    "resume": _resume,
    "fit": _fit,
    "optimum": _optimum,
}


# -- comparing --------------------------------------------------------------------------------------------------------


def outcome(case: Case, side: Cpu, n_threads: int = 1) -> dict[str, Any]:
    """What became of a case on `side` against the CPU.

    Returns
    -------
    dict
        "case", "status" ("same", "differs", "skipped", "error"), "seconds", and where they apply "mismatches" (a list)
        and "error" (text).
    """
    began = time.perf_counter()
    out: dict[str, Any] = {"case": case, "status": "same"}
    try:
        with np.errstate(all="ignore"):
            wanted, _ = compute(case, Cpu(n_threads))
            found, pairs = compute(case, side)
        wrong = mismatches(wanted, found, pairs)
        if wrong:
            out |= {"status": "differs", "mismatches": wrong[:_DESCRIBED], "mismatching_arrays": len(wrong)}
    except ModuleNotFoundError as error:
        if case["kind"] != "interop" or error.name != case["library"]:
            raise
        out |= {"status": "skipped", "error": f"{case['library']} is not installed"}
    except Exception:
        out |= {"status": "error", "error": traceback.format_exc(limit=-8)}
    return out | {"seconds": round(time.perf_counter() - began, 3)}


def mismatches(wanted: Arrays, found: Arrays, pairs: list[Pair]) -> list[dict[str, Any]]:
    """Where `found` is not `wanted`, and where arrays of `found` that must be equal are not."""
    out = []
    for name in dict.fromkeys([*wanted, *found]):
        if name in wanted and name in found:
            out += _difference(name, wanted[name], found[name])
        else:
            out.append({"array": name, "problem": f"only on {'the cpu' if name in wanted else 'the device'}"})
    for one, other in pairs:
        out += _difference(f"{one} | {other}", found[one], found[other], ("first", "second"))
    return out


def _difference(
    name: str, a: Array | None, b: Array | None, words: tuple[str, str] = ("cpu", "device")
) -> list[dict[str, Any]]:
    if a is None or b is None:
        return (
            []
            if a is b
            else [{"array": name, "problem": f"None on the {words[0] if a is None else words[1]} side alone"}]
        )
    forms = [f"{array.dtype} {array.shape}" for array in (a, b)]
    if forms[0] != forms[1]:
        return [{"array": name, "problem": f"{words[0]} is {forms[0]}, {words[1]} is {forms[1]}"}]
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if a.tobytes() == b.tobytes():
        return []
    differs = (a.reshape(-1).view(np.uint8) != b.reshape(-1).view(np.uint8)).reshape(-1, a.itemsize).any(axis=1)
    at = int(differs.argmax())
    place = [int(i) for i in np.unravel_index(at, a.shape)]
    record: dict[str, Any] = {
        "array": name,
        "dtype": str(a.dtype),
        "shape": list(a.shape),
        "differing": int(differs.sum()),
        "at": place,
    }
    for word, array in zip(words, (a, b), strict=True):
        value = array.reshape(-1)[at]
        record[word] = {"hex": value.tobytes()[::-1].hex(), "value": repr(value.item())}
    if a.dtype.kind == "f":
        with np.errstate(all="ignore"):
            gap = np.abs(a - b) / np.maximum(np.abs(a), np.finfo(a.dtype).tiny)
            record["largest_relative"] = float(np.nanmax(np.where(np.isfinite(gap), gap, 0)))
    columns = np.flatnonzero(differs.reshape(a.shape[0], -1).any(axis=0)) if a.ndim > 1 else np.flatnonzero(differs)
    return [record | {"columns" if a.ndim > 1 else "places": [int(i) for i in columns[:12]]}]
