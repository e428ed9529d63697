"""The cases of the self-check as small dictionaries, which a report can repeat, and the data that they stand for.

No case holds data: everything is made from its numbers, by `data` and by `gradfold.cuda._check_bits`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfold import index
from gradfold import loss as _loss

Array = npt.NDArray[Any]
Case = dict[str, Any]

DTYPES = ("float32", "float64")
LOSSES = (*_loss.BINARY, *_loss.REGRESSION)
FEW_LOSSES = ("log_loss", "squared_error", "huber")  # one of each kind: every loss more is kernels to compile
FUNCTIONS = ("exp", "exp_nonpositive", "log", "log1p", "log1p_unit", "cos")
FOLDS = ("none", "kfold", "repeated", "leave_one_out", "time_series", "holdout")
SCHEDULES = ("constant", "cosine", "inverse_scaling", "exponential", "step", "optimal")  # their codes are their places
_SIZES = (
    1,
    2,
    3,
    5,
    63,
    1023,
    1024,
    1025,
    2048,
    4097,
    2**16 - 1,
    2**16,
    2**16 + 1,
    1_000_000,
    2**32 - 1,
    2**32,
    2**32 + 12345,
)


# -- lists of cases ---------------------------------------------------------------------------------------------------


def few() -> list[Case]:
    """The quick sample: few losses, every pair of what matters most."""
    cases = [*_permutations(2), *_functions(FEW_LOSSES)]
    cases += _gradients(FEW_LOSSES, 1) + _poisons(1) + _trainings(FEW_LOSSES[:2], 2)
    cases += _solos(3) + _train_poisons(4) + _resumes(5) + _fits(6) + _streams(7)[:12] + _optima(8)[:12]
    return cases


def many(rounds: int = 6) -> list[Case]:
    """What a longer check adds: all losses, other draws, inputs that lie on the device."""
    cases = [*_functions(LOSSES), *_interop()]
    for seed in range(11, 11 + rounds):
        cases += _gradients(LOSSES, seed) + _trainings(LOSSES, seed) + _poisons(seed)
        cases += _solos(seed) + _train_poisons(seed) + _resumes(seed) + _fits(seed) + _other_solvers(seed)
        cases += _streams(seed) + _optima(seed)
        cases += _permutations(seed) if seed < 13 else []
    return _distinct(cases)


def tiny() -> list[Case]:
    """A handful that launches the main kernels once: for a sanitizer, which slows each of them."""
    shape = {"n": 300, "p": 17, "m": 70, "dtype": "float32", "loss": "log_loss"}
    small = {**_PLAIN_GRADIENT, **shape, "folds": "kfold", "weights": "zeros", "intercept": True}
    trained = {**_PLAIN_TRAINING, **shape, "folds": "kfold"}
    return [
        {"kind": "permutation", "n": 1000, "seed": 1, "epoch": 0, "stream": 0},
        {"kind": "permutation", "n": 5000, "seed": 1, "epoch": 3, "stream": 1},
        {"kind": "loss", "name": "log_loss", "dtype": "float32", "seed": 0, "count": 500},
        {**small, "return_loss": True, "seed": 1},
        {**small, "return_loss": False, "rows": "repeats", "seed": 2},
        {**small, "n": 2100, "return_loss": True, "seed": 3},
        {**trained, "solver": "sgd", "batch_size": 64, "seed": 4, "l1": True},
        {**trained, "solver": "adam", "batch_size": 64, "seed": 5},
        {**trained, "solver": "adam", "n": 1200, "batch_size": 1100, "epochs": 1, "seed": 6},
        # Two chunks to a batch, in both of which the gradient selects.
        {**trained, "kind": "train_poison", "fill": "nan", "n": 2048, "batch_size": 2048, "epochs": 1, "path": "persistent", "seed": 7},
    ]


def affinity(case: Case) -> str:
    """Cases of one affinity need the same kernels, and had better run in one process."""
    kind = "gradient" if "reduction" in case or case["kind"] == "optimum" else "train" if "epochs" in case else case["kind"]
    return f"{kind}/{case.get('dtype', '')}"


def spread(cases: Sequence[Case], n_workers: int) -> list[list[Case]]:
    """The cases by affinity, over workers of about equal numbers; each worker's in their order of importance."""
    groups: dict[str, list[int]] = {}
    for i, case in enumerate(cases):
        groups.setdefault(affinity(case), []).append(i)
    most = -(-len(cases) // max(1, n_workers))
    pieces = [own[at :: -(-len(own) // most)] for own in groups.values() for at in range(-(-len(own) // most))]
    shares: list[list[int]] = [[] for _ in range(max(1, min(n_workers, len(pieces))))]
    for own in sorted(pieces, key=len, reverse=True):
        min(shares, key=len).extend(own)
    return [[cases[i] for i in sorted(share)] for share in shares if share]


def pairwise(
    factors: dict[str, Sequence[Any]], seed: int, valid: Callable[[Case], bool] = lambda case: True
) -> list[Case]:
    """Rows such that every pair of values of two factors stands in one of them, where `valid` allows it.

    Greedy, by seed; each row has a "seed" of its own.
    """
    rng = np.random.default_rng(seed)
    every = [
        ((a, i), (b, j))
        for a, b in itertools.combinations(factors, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    ]
    open_pairs = set(every)

    def pairs(row: dict[str, int]) -> set[Any]:
        return set(itertools.combinations(row.items(), 2))

    out = []
    for wanted in (every[i] for i in rng.permutation(len(every))):
        if wanted not in open_pairs:
            continue
        best: tuple[int, dict[str, int]] | None = None
        for _ in range(30):
            row = {name: int(rng.integers(len(values))) for name, values in factors.items()} | dict(wanted)
            if valid({name: factors[name][i] for name, i in row.items()}):
                gain = len(pairs(row) & open_pairs)
                if best is None or gain > best[0]:
                    best = gain, row
        if best is not None:  # a pair may have no valid row
            open_pairs -= pairs(best[1])
            out.append({name: factors[name][i] for name, i in best[1].items()} | {"seed": int(rng.integers(2**31))})
    return out


def _distinct(cases: list[Case]) -> list[Case]:
    return list({repr(sorted(case.items(), key=str)): case for case in cases}.values())


def _permutations(seed: int) -> list[Case]:
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    for n in _SIZES:
        for own in (0, int(rng.integers(2**63)), 2**64 - 1):
            epoch, stream = int(rng.integers(3)), int(rng.choice([0, 1, 7, 2**31]))
            cases.append({"kind": "permutation", "n": n, "seed": own, "epoch": epoch, "stream": stream})
    return cases


def _functions(losses: Sequence[str]) -> list[Case]:
    maths = [{"kind": "maths", "name": name, "dtype": dtype, "seed": 3} for dtype in DTYPES for name in FUNCTIONS]
    points = [
        {"kind": "loss", "name": name, "dtype": dtype, "seed": 4, "count": 3000}
        for dtype in DTYPES
        for name in dict.fromkeys(losses)
    ]
    return maths + points


_PLAIN_GRADIENT: Case = {
    "kind": "gradient",
    "dtype": "float32",
    "n": 1025,
    "p": 30,
    "m": 65,
    "loss": "log_loss",
    "weights": "none",
    "folds": "kfold",
    "rows": "all",
    "intercept": True,
    "return_loss": True,
    "reduction": "mean",
    "data": "plain",
    "seed": 0,
}


def _gradients(losses: Sequence[str], seed: int) -> list[Case]:
    factors: dict[str, Sequence[Any]] = {
        "dtype": DTYPES,
        "n": (1, 7, 1024, 1025, 5000),
        "p": (1, 3, 30, 100, 257, 513),
        "m": (1, 3, 64, 65, 200),
        "loss": losses,
        "weights": ("none", "zeros", "integers"),
        "folds": FOLDS,
        "rows": ("all", "repeats"),
        "intercept": (True, False),
        "return_loss": (True, False),
        "reduction": ("mean", "sum"),
        "data": ("plain", "plain", "tiny", "wild"),
    }
    cases = [{**_PLAIN_GRADIENT, "dtype": dtype, "return_loss": loss} for dtype in DTYPES for loss in (True, False)]
    cases += [
        {**_PLAIN_GRADIENT, **row} for row in pairwise(factors, seed, lambda c: c["n"] > 1 or c["folds"] == "none")
    ]
    cases.append({**_PLAIN_GRADIENT, "rows": "nothing"})
    # More than one window of rows and models.
    cases += [{**_PLAIN_GRADIENT, "dtype": dtype, "n": 70_000, "p": 7, "m": 1300, "seed": seed} for dtype in DTYPES]
    return cases


def _poisons(seed: int) -> list[Case]:
    factors: dict[str, Sequence[Any]] = {
        "dtype": DTYPES,
        "fill": ("nan", "inf", "1e30"),
        "folds": ("kfold", "time_series", "holdout"),
        "weights": ("none", "zeros"),
        "loss": FEW_LOSSES[:2],
        "n": (40, 1025, 3000),
        "p": (3, 100, 257),
        "m": (1, 65, 200),
    }
    return [{**_PLAIN_GRADIENT, "kind": "poison", **row} for row in pairwise(factors, seed)]


def _interop() -> list[Case]:
    return [
        {**_PLAIN_GRADIENT, "kind": "interop", "library": library, "dtype": dtype, "weights": "zeros"}
        for library in ("gradfold", "torch", "cupy")
        for dtype in DTYPES
    ]


_PLAIN_TRAINING: Case = {
    "kind": "train",
    "dtype": "float32",
    "n": 1025,
    "p": 30,
    "m": 65,
    "loss": "log_loss",
    "solver": "adam",
    "batch_size": 256,
    "weights": "none",
    "folds": "kfold",
    "shuffle": True,
    "standardize": False,
    "intercept": True,
    "warm": False,
    "l1": False,
    "l2": True,
    "schedule": "constant",
    "data": "plain",
    "epochs": 2,
    "path": None,
    "track": False,
    "seed": 0,
}
PATHS = (None, "persistent", "tiled")  # of the device's trainer; None is its own choice


def _trainings(losses: Sequence[str], seed: int) -> list[Case]:
    factors: dict[str, Sequence[Any]] = {
        "dtype": DTYPES,
        "solver": ("sgd", "adam"),
        "batch_size": (1, 7, 256, 1024, 1025, 3000, "n"),
        "n": (40, 700, 1024, 1025, 3100),
        "p": (1, 3, 30, 128, 257),
        "m": (1, 3, 64, 65, 200),
        "loss": losses,
        "weights": ("none", "zeros", "integers"),
        "folds": FOLDS,
        "shuffle": (True, False),
        "standardize": (False, True),
        "intercept": (True, False),
        "warm": (False, True),
        "l1": (False, True),
        "l2": (True, False),
        "schedule": ("constant", "cosine", "mixed"),
        "data": ("plain", "plain", "diverging", "tiny"),
        "path": PATHS,
        "track": (False, True),
    }
    cases = [{**_PLAIN_TRAINING, "dtype": dtype, "solver": solver} for dtype in DTYPES for solver in ("sgd", "adam")]
    # Enough models that a path for many of them is taken, where there is one.
    cases += [{**_PLAIN_TRAINING, "solver": solver, "m": 4100, "n": 600, "epochs": 1} for solver in ("sgd", "adam")]
    cases.append({**_PLAIN_TRAINING, "m": 4100, "n": 17_000, "p": 5, "batch_size": 3000, "epochs": 1, "seed": seed})
    # A step costs launches whatever its batch: single rows of many are for the CPU.
    return cases + [
        {**_PLAIN_TRAINING, **row} for row in pairwise(factors, seed, lambda c: c["batch_size"] != 1 or c["n"] < 1100)
    ]


def _other_solvers(seed: int) -> list[Case]:
    """What has the same bits although only sgd and adam are promised to."""
    factors: dict[str, Sequence[Any]] = {
        "dtype": DTYPES,
        "solver": ("momentum", "nesterov", "adagrad", "rmsprop", "adamw", "sgd", "adam"),
        "hyper": ("none", "own", "clip", "warmup"),
        "batch_size": (7, 256, 1025),
        "l1": (False, True),
        "standardize": (False, True),
        "schedule": ("constant", "mixed"),
        "path": PATHS,
        "data": ("plain", "diverging"),
    }
    return [{**_PLAIN_TRAINING, **row} for row in pairwise(factors, seed)]


def _streams(seed: int) -> list[Case]:
    """X in windows of some batches, as where it does not fit into the GPU's memory."""
    factors: dict[str, Sequence[Any]] = {
        "dtype": DTYPES,
        "solver": ("sgd", "adam"),
        "batch_size": (7, 64, 256),
        "n": (700, 1025, 3100),
        "p": (3, 30, 257),
        "weights": ("none", "zeros"),
        "folds": FOLDS,
        "shuffle": (True, False),
        "standardize": (False, True),
        "path": PATHS,
        "windows": (1, 2, 5),  # batches of one
    }

    def valid(case: Case) -> bool:
        return bool(2 * case["windows"] * case["batch_size"] < case["n"])  # two windows at a time are less than all

    return [{**_PLAIN_TRAINING, "kind": "stream", **row} for row in pairwise(factors, seed, valid)]


def _solos(seed: int) -> list[Case]:
    factors: dict[str, Sequence[Any]] = {
        "path": PATHS,
        "dtype": DTYPES,
        "solver": ("sgd", "adam"),
        "batch_size": (7, 256, 1025),
        "m": (65, 200),
        "loss": FEW_LOSSES[:2],
        "data": ("plain", "diverging"),
    }
    return [{**_PLAIN_TRAINING, "kind": "solo", **row} for row in pairwise(factors, seed)]


def _train_poisons(seed: int) -> list[Case]:
    factors: dict[str, Sequence[Any]] = {
        "path": PATHS,
        "dtype": DTYPES,
        "solver": ("sgd", "adam"),
        "fill": ("nan", "inf", "1e30"),
        "folds": ("kfold", "time_series", "holdout"),
        "weights": ("none", "zeros"),
        "batch_size": (7, 256, 2048),
        "standardize": (False, True),
    }
    return [{**_PLAIN_TRAINING, "kind": "train_poison", "n": 2048, "m": 33, **row} for row in pairwise(factors, seed)]


def _resumes(seed: int) -> list[Case]:
    factors: dict[str, Sequence[Any]] = {
        "dtype": DTYPES,
        "solver": ("sgd", "adam"),
        "batch_size": (7, 256, 1025),
        "standardize": (False, True),
        "steps": (1, 2, 5),  # before the state is taken
    }
    return [
        {**_PLAIN_TRAINING, "kind": "resume", "m": 33, "schedule": "mixed", **row} for row in pairwise(factors, seed)
    ]


def _fits(seed: int) -> list[Case]:
    factors: dict[str, Sequence[Any]] = {
        "dtype": DTYPES,
        "solver": ("sgd", "adam"),
        "target": ("labels", "numbers"),
        "batch_size": (32, 256),
        "standardize": (False, True),
    }
    return [{"kind": "fit", "n": 900, "p": 12, **row} for row in pairwise(factors, seed)]


def _optima(seed: int) -> list[Case]:
    """Models at their optima, whose passes the device takes; the first begins on a sample of its rows."""
    factors: dict[str, Sequence[Any]] = {
        "dtype": DTYPES,
        "solver": ("lbfgs", "newton-cholesky", "coordinate-descent"),
        "loss": FEW_LOSSES,
        "n": (300, 1025, 3100),
        "p": (3, 30, 257),
        "folds": ("kfold", "repeated", "time_series", "holdout"),
        "weights": ("none", "zeros", "integers"),
        "standardize": (False, True),
        "intercept": (True, False),
    }

    def valid(case: Case) -> bool:
        return bool(case["solver"] != "coordinate-descent" or case["loss"] == "log_loss")  # the others go by moments

    plain: Case = {"kind": "optimum", "m": 1, "data": "plain"}
    sampled = {"dtype": "float32", "solver": "lbfgs", "loss": "log_loss", "n": 70_000, "p": 7, "folds": "kfold", "weights": "zeros"}
    cases = [{**plain, **sampled, "standardize": True, "intercept": True, "seed": seed}]
    return cases + [{**plain, **row} for row in pairwise(factors, seed, valid)]


# -- data -------------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """What a case of gradients or of training stands for."""

    X: Array
    y: Array
    sample_weight: Array | None
    folds: index.Folds | None
    split_of_model: Array  # int64, (n_models,)
    W: Array  # (n_features, n_models)
    intercept: Array  # (n_models,)
    loss_epsilon: Array | None  # float64, (n_models,)
    rng: np.random.Generator


def folds_of(kind: str, n: int, seed: int) -> index.Folds | None:
    """Splits of one kind; every kind but "none" wants at least 7 rows."""
    if kind == "kfold":
        return index.kfold(n, 5, seed=seed)
    if kind == "repeated":
        return index.kfold(n, 3, seed=seed, n_repeats=2)
    if kind == "leave_one_out":
        return index.leave_one_out(n)
    if kind == "time_series":
        return index.time_series(n, 4)
    if kind == "holdout":
        return index.holdout(n, [0.6, 0.25, 0.15], seed=seed)
    return None


def data(case: Case) -> Data:
    """Random data of the case's shape, by its seed; every model has a training row of positive weight."""
    rng = np.random.default_rng(case["seed"])
    n, p, m, dtype = int(case["n"]), int(case["p"]), int(case["m"]), np.dtype(case["dtype"])
    X = rng.standard_normal((n, p)).astype(dtype)
    z = X @ (rng.standard_normal(p) / np.sqrt(p)) + 0.3
    if case["loss"] in _loss.BINARY:
        y: Array = np.asarray(rng.random(n) < 1 / (1 + np.exp(-2 * z)))
    else:
        y = z + 0.3 * rng.standard_normal(n)
    W: Array = rng.standard_normal((p, m)) / np.sqrt(p)
    if case["data"] == "tiny":  # products underflow
        small = np.where(rng.random(p) < 0.7, np.sqrt(np.finfo(dtype).smallest_normal) * 1e-3, 1)
        X, W = (X * small).astype(dtype), W * small[:, None]
    elif case["data"] == "wild":
        values = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0, np.finfo(dtype).smallest_subnormal]).astype(
            dtype
        )
        places = rng.integers(0, X.size, max(1, min(20, n // 50)))
        X.reshape(-1)[places] = rng.choice(values, len(places))
    folds = folds_of(case["folds"], n, case["seed"])
    split_of_model: Array = rng.integers(0, 1 if folds is None else folds.n_splits, m).astype(np.int64)
    weight: Array | None = None
    if case["weights"] == "zeros":
        weight = np.where(rng.random(n) < 0.2, 0, rng.uniform(0.2, 3, n)).astype(dtype)
    elif case["weights"] == "integers":
        weight = rng.integers(0, 4, n).astype(dtype)
    if weight is not None:
        for s in np.unique(split_of_model):
            trains = np.arange(n) if folds is None else folds.train_indices(int(s))
            if not weight[trains].any():
                weight[trains[:1]] = 1
    epsilon: Array | None = rng.uniform(0.05, 0.5, m) if case["loss"] in _loss.WITH_EPSILON else None
    intercept: Array = rng.standard_normal(m).astype(dtype)
    return Data(X, y.astype(dtype), weight, folds, split_of_model, W.astype(dtype), intercept, epsilon, rng)
