"""gradfold.cuda.gradient in the simulator: the bits of the C++ kernels, at sizes that cross every border of the tiles.

The simulator's tiles are tiny, 2 to 8 models and 4 rows, so that a few numbers take as many tiles, steps and panels as large
problems do on a GPU; chunks of 1,024 rows and 256 features are part of the format and stay.
"""

from __future__ import annotations

import numpy as np
import pytest

import calls
import splits
from gradfold.cuda import gradient
from gradfold.cuda._driver import SIMULATED
from gradfold.cuda.tiles import SHAPES
from on_device import assert_same_gradient, loss_gradient, of_models
from reference.loss import NAMES as LOSSES
from test_promises import POISONS, poison

KINDS = sorted(splits.KINDS)
WEIGHTS = ["none", "zeros", "integers", "ones"]


def test_this_is_the_simulator():
    assert SIMULATED


# Every loss in both types; what else there is goes round, at lengths that are prime to each other.
CASES = [
    {
        "loss": loss,
        "dtype": dtype,
        "n": 12 + at % 5,
        "p": [3, 4, 8, 5, 1, 2, 9][at % 7],
        "m": [5, 9, 1, 3, 17, 8][at % 6] if dtype == np.float32 else [3, 5, 2, 1][at % 4],
        "kind": KINDS[at % 7],
        "weights": WEIGHTS[(at // 2) % 4],
        "intercept": at % 3 != 2,
        "reduction": ["mean", "sum"][(at // 2) % 2],
        "with_loss": (at // 2) % 3 != 2,
        "rows": ["all", "repeats", "subset"][(at // 3) % 3],
    }
    for at, (loss, dtype) in enumerate((loss, dtype) for loss in LOSSES for dtype in (np.float32, np.float64))
]


def positions(how, n, rng):
    return {"all": None, "repeats": rng.integers(0, n, n + 3), "subset": rng.permutation(n)[: n // 2], "none": np.zeros(0, np.int64)}[how]


def made(case, seed=3):
    case = dict(case)
    options = {name: case.pop(name) for name in ("reduction", "with_loss", "rows")}
    q = calls.problem(seed, **case)
    options["rows"] = positions(options["rows"], len(q.X), np.random.default_rng(seed))
    return q, options


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['loss']}-{np.dtype(case['dtype'])}-{case['kind']}-{case['rows']}")
def test_same_bits_as_the_cpu(case):
    q, options = made(case)
    assert_same_gradient(q, **options)


def test_the_cases_cover_what_they_should():
    for name in ("kind", "weights", "rows", "reduction", "with_loss", "intercept"):
        for dtype in (np.float32, np.float64):
            values = {case[name] for case in CASES if case["dtype"] == dtype}
            assert values == {case[name] for case in CASES}, (name, dtype)
    for dtype in (np.float32, np.float64):
        own = [case for case in CASES if case["dtype"] == dtype]
        widest = max(SHAPES[np.dtype(dtype).name].values(), key=lambda shape: shape.models)
        assert {gradient.shape_for(dtype, case["m"]) for case in own} == set(SHAPES[np.dtype(dtype).name].values())
        assert {case["p"] % widest.vector == 0 for case in own} == {True, False}  # aligned, unaligned
        assert max(case["m"] for case in own) > widest.models  # several panels
        assert max(case["p"] for case in own) > widest.step_features


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_folds(dtype):
    q = calls.problem(4, n=9, p=4, m=3, dtype=dtype)
    assert_same_gradient(q, use_splits=False)
    assert_same_gradient(calls.replace(q, sample_weight=None), use_splits=False, with_loss=False)


def test_no_rows():
    """Mean loss NaN, summed loss and gradients +0."""
    for m, intercept in ((3, True), (9, False)):
        q = calls.problem(5, n=12, p=5, m=m, dtype=np.float32, intercept=intercept)
        for reduction in ("mean", "sum"):
            assert_same_gradient(q, rows=np.zeros(0, np.int64), reduction=reduction)


def test_models_that_no_row_trains():
    """Beside those that have rows: of zero weight, or in another split."""
    q = calls.problem(6, n=12, p=3, m=6, dtype=np.float32, kind="time_series", weights="ones")
    q = calls.replace(q, split_of_model=np.array([0, 1, 2, 3, 0, 3]))
    last = np.flatnonzero(q.splits.roles()[0] != splits.TRAIN)
    found = assert_same_gradient(q, rows=last)
    assert np.isnan(np.frombuffer(found[0][0])).all() and not np.isnan(np.frombuffer(found[3][0])).any()
    assert_same_gradient(calls.replace(q, sample_weight=np.zeros(12, np.float32)))


def test_more_than_32_splits():
    """Roles are words of 32 splits: 35 take two."""
    n = 35
    q = calls.problem(7, n=n, p=2, m=n, dtype=np.float32, kind="leave_one_out", weights="zeros")
    q = calls.replace(q, split_of_model=np.random.default_rng(0).permutation(n).astype(np.int64))
    assert q.splits.ids.max() >= 33
    assert_same_gradient(q)


@pytest.mark.parametrize(("p", "dtype"), [(516, np.float32), (259, np.float64)])
def test_more_than_256_features(p, dtype):
    """Chunks of features, the last one of four or three: each from +0, then added up, then the intercept."""
    assert_same_gradient(calls.problem(8, n=4, p=p, m=2, dtype=dtype, kind="holdout", weights="none"))


@pytest.fixture
def one_slot(monkeypatch):
    """Windows of one chunk of one panel."""
    monkeypatch.setitem(gradient.Window.of.__func__.__kwdefaults__, "budget", 1)
    gradient.release()
    yield
    gradient.release()


def test_windows_of_panels(one_slot):
    q = calls.problem(9, n=12, p=5, m=9, dtype=np.float64)
    shape = gradient.shape_for(np.float64, 9)
    assert shape.models < 9
    assert gradient.Window.of(shape, 5, 3, 1, gradient=True, losses=True, stream=0).panels == 1
    found = assert_same_gradient(q)
    gradient.release()
    assert found == of_models(calls.loss_gradient(q))


@pytest.mark.parametrize("windows", ["one window", "two windows"])
def test_more_than_1024_positions(windows, request):
    """Two chunks: sums of the second one begin at +0 and are added to those of the first."""
    if windows == "two windows":
        request.getfixturevalue("one_slot")
    q = calls.problem(10, n=40, p=1, m=2, dtype=np.float64, weights="zeros")
    assert_same_gradient(q, rows=np.random.default_rng(1).integers(0, 40, 1027))


@pytest.mark.parametrize("how", sorted(POISONS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_leak(how, dtype):
    """Rows that a model does not train on are filled with what is not finite, or huge: it stays as it was.

    Those that others train on make those others' sums NaN, and the whole block goes by select; on a GPU as on the CPU.
    """
    at = sorted(POISONS).index(how)
    usual = how == "inf"  # the plainest of log loss's branches
    q = calls.problem(
        11 + at, n=14, p=[3, 4][at % 2], m=5, dtype=dtype, loss=["log_loss", "squared_error"][at // 2],
        kind=["kfold", "overlapping"][at // 2], weights="none" if usual else "zeros",
    )  # fmt: skip
    options = {"with_loss": not usual}
    clean = of_models(loss_gradient(q, **options))
    poisoned = poison(q, 1, how, seed=at + 6)
    assert not np.array_equal(poisoned.X, q.X, equal_nan=False)
    found = assert_same_gradient(poisoned, **options)
    for k in np.flatnonzero(q.split_of_model == q.split_of_model[1]):
        assert found[k] == clean[k]


@pytest.mark.parametrize("how", ["nan", "huge"])
def test_no_leak_from_rows_that_nobody_trains_on(how):
    q = calls.problem(15, n=14, p=4, m=5, dtype=np.float32, kind="holdout", loss="huber")
    clean = of_models(loss_gradient(q))
    assert assert_same_gradient(poison(q, 0, how, seed=2)) == clean


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_underflow(dtype):
    """Sums of products that are -0 are added to +0, so that the zeros of a gradient are +0, as where a row is left out."""
    tiny = float(np.sqrt(np.finfo(dtype).smallest_normal)) * 1e-10
    # As many rows as stages hold: a place beyond the last row adds +0, which would hide the sign.
    q = calls.problem(18, n=16, p=4, m=5, dtype=dtype, loss="squared_error", weights="none")
    q = calls.replace(q, X=(q.X * tiny).astype(dtype), y=(q.y * tiny).astype(dtype), intercept=(q.intercept * tiny).astype(dtype))
    _, grad_W, _ = loss_gradient(q, reduction="sum", use_splits=False)
    assert (grad_W == 0).all() and not np.signbit(grad_W).any()
    assert_same_gradient(q, reduction="sum", use_splits=False)


def test_solo_is_batched():
    q = calls.problem(16, n=13, p=5, m=11, dtype=np.float32, kind="repeated_kfold")
    together = of_models(loss_gradient(q))
    for k in (0, 4, 10):
        assert of_models(loss_gradient(q.of_models([k]))) == [together[k]]
    order = [7, 2, 9, 0, 5]
    assert of_models(loss_gradient(q.of_models(order))) == [together[k] for k in order]


def test_extreme_raw_predictions():
    """Infinities and NaN in z of rows that train: the losses' and the sums' NaN are the canonical one."""
    q = calls.problem(17, n=12, p=3, m=6, dtype=np.float32, weights="ones")
    X = q.X.copy()
    X[0], X[1, 2], X[2, 1], X[3] = np.finfo(np.float32).max, np.inf, np.nan, 0
    for loss in ("log_loss", "squared_error", "modified_huber"):
        assert_same_gradient(calls.replace(q, X=X, loss=loss))
