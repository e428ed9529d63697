"""Promises 1, 2, 3 and 5 in bytes, for one loss-gradient and for whole trainings, sampled by hypothesis.

1. Solo = batched.  2. Any number of threads.  3. Any level.  5. A row that a model does not train on cannot
touch it. And: the caller's floating-point environment changes nothing.

scripts/break_promises.py breaks each of them in a copy of the kernels and watches these tests go red.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calls
import splits
from gradfold import _core
from reference.loss import NAMES as LOSSES
from reference.roles import SCORE, TRAIN

DTYPES = [np.float32, np.float64]
LEVELS = _core.levels.supported()

# Widths below, at and above whole vectors of every level, and more than one panel; up to 4 models have kernels of
# their own.
N_FEATURES = [1, 7, 257, 1000]
N_MODELS = [1, 2, 4, 15, 16, 17, 48, 100]


OUTPUTS = [2, 3, 10, 33]  # of the multinomial loss


@st.composite
def problems(draw, large=False, several=False):
    """A problem from the grid of issue and design: features, models, dtype, weights, loss, and every kind of split.

    Some have models that diverge on the way, some have columns so small that products underflow, some are mostly zeros.
    ``large`` problems have work enough that more than one thread is worth its while. ``several``: also of several outputs.
    """
    p = draw(st.sampled_from(N_FEATURES), label="n_features")
    m = draw(st.sampled_from(N_MODELS), label="n_models")
    loss = draw(st.sampled_from([*LOSSES, *["multinomial"] * (4 if several else 0)]), label="loss")
    n_classes = draw(st.sampled_from(OUTPUTS), label="n_classes") if loss == "multinomial" else 1
    if n_classes > 1:
        m = min(m, 100 // n_classes if p > 7 else m)
    kind = draw(st.sampled_from(sorted(splits.KINDS)), label="splits")
    if large:
        most = {1: 20_000, 7: 20_000, 257: 2_200, 1000: 1_100}[p]
        most = min(most, 2_200) if kind == "leave_one_out" else most
        rows = st.integers(most // 4, most)
    else:
        rows = st.integers(12, 200 if p <= 7 else 60)
        if p * m * n_classes <= 5000:  # kept from the largest sizes for the slow level's sake
            rows = st.one_of(rows, rows, st.integers(1020, 2200))  # crosses the chunks of 1,024
    q = calls.problem(
        draw(st.integers(0, 2**32 - 1), label="data"),
        n=draw(rows, label="n_rows"),
        p=p,
        m=m,
        dtype=draw(st.sampled_from(DTYPES), label="dtype"),
        kind=kind,
        loss=loss,
        n_classes=n_classes,
        weights=draw(st.sampled_from(["none", "integers", "zeros", "zeros"]), label="weights"),
        intercept=draw(st.booleans(), label="intercept"),
    )
    rng = np.random.default_rng(m * p)
    special = draw(st.sampled_from(["plain", "plain", "plain", "diverging", "underflowing", "sparse"]), label="data")
    if special == "diverging":
        q = calls.replace(q, learning_rate=np.where(rng.random(m) < 0.4, 1e8, q.learning_rate))
    elif special == "underflowing":
        tiny = np.where(rng.random(p) < 0.7, np.sqrt(np.finfo(q.X.dtype).smallest_normal) * 1e-3, 1)
        q = calls.replace(q, X=(q.X * tiny).astype(q.X.dtype), W=(q.W.T * tiny).T.astype(q.X.dtype, order="C"))
    elif special == "sparse":
        q = calls.replace(q, X=q.X * rng.choice([0.0, -0.0, 0.0, 1.0], q.X.shape).astype(q.X.dtype))
    return q


@st.composite
def gradient_options(draw, q):
    n = len(q.X)
    rng = np.random.default_rng(draw(st.integers(0, 999), label="rows seed"))
    rows = {
        "all": lambda: None,
        "subset": lambda: rng.permutation(n)[: max(1, n // 3)],
        "repeats": lambda: rng.integers(0, n, n + 5),
    }[draw(st.sampled_from(["all", "all", "subset", "repeats"]), label="rows")]()
    return {
        "reduction": draw(st.sampled_from(["mean", "sum"]), label="reduction"),
        "with_loss": draw(st.booleans(), label="with_loss"),
        "rows": None if rows is None else rows.astype(np.int64),
    }


@st.composite
def train_options(draw, q):
    n = len(q.X)
    batch_size = draw(st.sampled_from([1, 3, 256, 1025, n]), label="batch_size")
    few = n * q.W.size > 300_000 and batch_size <= 3
    return {
        "solver": draw(st.sampled_from(["sgd", "adam"]), label="solver"),
        "batch_size": batch_size,
        "epochs": 1 if few else draw(st.integers(1, 3), label="epochs"),
        "shuffle": draw(st.booleans(), label="shuffle"),
        "fit_intercept": draw(st.booleans(), label="fit_intercept"),
        "standardize": draw(st.booleans(), label="standardize"),
        "warm": draw(st.booleans(), label="warm"),
        "seed": draw(st.integers(0, 999), label="order seed"),
    }


def gradient_bytes(q, **options):
    """What loss_gradient says of every model, as bytes."""
    loss, grad_W, grad_intercept = calls.loss_gradient(q, **options)
    return [
        tuple(None if a is None else np.ascontiguousarray(a[..., k]).tobytes() for a in (loss, grad_W, grad_intercept))
        for k in range(q.n_models)
    ]


def train_bytes(q, **options):
    return calls.train(q, **options).bytes()


def assert_same(got, want, where=""):
    """Byte equality of what is said of every model, with a message that a person can read."""
    assert len(got) == len(want)
    differ = [k for k, (a, b) in enumerate(zip(got, want, strict=True)) if a != b]
    assert not differ, f"{len(differ)} of {len(want)} models differ {where}, the first is {differ[0]}"


def two_models(draw, q):
    """One model drawn, and the last one: it stands in the narrowest panel."""
    return sorted({draw(st.integers(0, q.n_models - 1), label="model"), q.n_models - 1})


# ---- 1. solo = batched -------------------------------------------------------------------------------------------


def check_solo_is_batched(draw, q, run, options):
    together = run(q, **options)
    order = draw(st.permutations(range(q.n_models)), label="order")
    most = st.sampled_from([2, 3, 4, 5]).map(lambda k: min(k, q.n_models))
    chosen = order[: draw(st.one_of(most, st.integers(1, q.n_models)), label="how many")]
    assert_same(run(q.of_models(chosen), **options), [together[k] for k in chosen], "in other company")
    for k in two_models(draw, q):
        assert_same(run(q.of_models([k]), **options), [together[k]], "alone")
        assert_same(run(q.told_alone(k), **options), [together[k]], "with ids of its own")


@settings(max_examples=120)
@given(st.data())
def test_solo_is_batched_gradient(data):
    q = data.draw(problems(several=True))
    options = data.draw(gradient_options(q))
    check_solo_is_batched(data.draw, q, gradient_bytes, options | {"n_threads": data.draw(st.sampled_from([1, 2]))})


@settings(max_examples=120)
@given(st.data())
def test_solo_is_batched_training(data):
    q = data.draw(problems(several=True))
    options = data.draw(train_options(q))
    check_solo_is_batched(data.draw, q, train_bytes, options | {"n_threads": data.draw(st.sampled_from([1, 2]))})


@pytest.mark.parametrize(("every", "tame", "wild"), [(3, 50.0, 0.01), (6, 0.01, 50.0)])
def test_solo_is_batched_among_models_that_diverge(every, tame, wild):
    """Neighbours in the same vector blow up on the way, until very few are left; nobody notices."""
    q = calls.problem(5, n=200, p=7, m=17, dtype=np.float32, loss="squared_error")
    rates = np.where(np.arange(17) % every == 1, tame, wild)
    q = calls.replace(q, learning_rate=rates, l1=np.zeros(17))
    options = {"epochs": 30, "batch_size": 8}
    t = calls.train(q, **options)
    assert (t.diverged_epoch >= 0).sum() >= 4 and (t.diverged_epoch < 0).sum() >= 2
    for k in range(17):
        assert_same(train_bytes(q.of_models([k]), **options), [t.of(k)])


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("n_threads", [1, 5])
def test_solo_is_batched_among_models_that_finish(each_level, solver, n_threads):
    """Half of the models leave at a time, so those that stay are moved from panel to panel; nobody notices."""
    q = calls.problem(14, n=250, p=7, m=100, dtype=np.float32)
    options = {"solver": solver, "standardize": True, "epochs": 6, "batch_size": 16}
    t = calls.trainer(q, n_threads=n_threads, **options)
    order = np.random.default_rng(2).permutation(100)
    for left, steps in ((50, 5), (75, 16), (88, 1), (97, 30)):
        t.advance(max_steps=steps)
        mask = np.zeros(100, bool)
        mask[order[:left]] = True
        t.finish(mask)
    assert t.advance() == "done"
    got = calls.read(t)
    for k in order[97:]:
        assert_same(train_bytes(q.of_models([k]), **options), [got.of(k)], f"model {k}")


# ---- 2. any number of threads ------------------------------------------------------------------------------------


@settings(max_examples=120)
@given(st.data())
def test_threads_gradient(data):
    q = data.draw(problems(large=True, several=True))
    options = data.draw(gradient_options(q))
    one = gradient_bytes(q, n_threads=1, **options)
    for n_threads in (2, 7):
        assert_same(gradient_bytes(q, n_threads=n_threads, **options), one, f"on {n_threads} threads")


@settings(max_examples=120)
@given(st.data())
def test_threads_training(data):
    q = data.draw(problems(large=True, several=True))
    options = data.draw(train_options(q))
    one = train_bytes(q, n_threads=1, **options)
    for n_threads in (2, 7):
        assert_same(train_bytes(q, n_threads=n_threads, **options), one, f"on {n_threads} threads")


def test_threads_one_wide_model_and_large_batches():
    """Few models and much work a batch: the plan that shares a batch among threads."""
    q = calls.problem(6, n=4200, p=1000, m=1, dtype=np.float32)
    for options in ({"batch_size": 4200}, {"batch_size": 1500, "solver": "adam", "standardize": True}):
        one = train_bytes(q, n_threads=1, epochs=2, **options)
        assert_same(train_bytes(q, n_threads=2, epochs=2, **options), one, "on 2 threads")
        assert_same(train_bytes(q, n_threads=7, epochs=2, **options), one, "on 7 threads")
    one = gradient_bytes(q, n_threads=1)
    assert_same(gradient_bytes(q, n_threads=2), one, "on 2 threads")
    assert_same(gradient_bytes(q, n_threads=7), one, "on 7 threads")


@pytest.mark.parametrize("m", [1, 4, 52, 100, 192])
def test_threads_that_pass_panels_on(m):
    """Panels that are no multiple of the threads, and a single one, with batches enough that a thread takes every few of them."""
    q = calls.problem(8, n=200_000 if m < 5 else 20_000, p=12 if m < 5 else 30, m=m, dtype=np.float32)
    q = calls.replace(q, learning_rate=np.where(np.random.default_rng(m).random(m) < 0.1, 1e8, q.learning_rate))
    for options in ({"batch_size": 256, "solver": "adam", "standardize": True}, {"batch_size": 100, "shuffle": False}):
        one = train_bytes(q, n_threads=1, epochs=2, **options)
        for n_threads in (2, 3, 7):
            assert_same(train_bytes(q, n_threads=n_threads, epochs=2, **options), one, f"on {n_threads} threads")
            t = calls.trainer(q, n_threads=n_threads, epochs=2, **options)
            while t.advance(seconds=0.004) == "paused":
                pass
            assert_same(calls.read(t).bytes(), one, f"on {n_threads} threads, in slices of time")


def test_several_python_threads_at_once():
    q = calls.problem(7, n=500, p=20, m=48)
    options = {"epochs": 3, "n_threads": 2}
    want = train_bytes(q, **options)
    got = {}

    def work(name):
        got[name] = train_bytes(q, **options)

    workers = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert [got[name] == want for name in range(4)] == [True] * 4


# ---- 3. any level ------------------------------------------------------------------------------------------------


@settings(max_examples=120)
@given(st.data())
def test_levels_gradient(data):
    q = data.draw(problems(several=True))
    options = data.draw(gradient_options(q))
    got = {}
    for name in LEVELS:
        with calls.level(name):
            got[name] = gradient_bytes(q, **options)
    for name in LEVELS[1:]:
        assert_same(got[name], got[LEVELS[0]], name)


@settings(max_examples=120)
@given(st.data())
def test_levels_training(data):
    q = data.draw(problems(several=True))
    options = data.draw(train_options(q))
    got = {}
    for name in LEVELS:
        with calls.level(name):
            got[name] = train_bytes(q, **options)
    for name in LEVELS[1:]:
        assert_same(got[name], got[LEVELS[0]], name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_where_raw_predictions_are_extreme(dtype):
    """Signed zeros, infinities and NaN in z and in what follows: canonical, so equal too."""
    q = calls.problem(8, n=64, p=7, m=33, dtype=dtype, weights="ones")
    X = q.X.copy()
    X[::5] *= 1e3
    X[1::7] = 0
    X[2::11] = np.finfo(dtype).max
    X[3::13, 2] = np.inf
    X[5::17, 1] = np.nan
    X[7::19] = np.finfo(dtype).smallest_subnormal
    for loss in LOSSES:
        for rows in (None, np.arange(0, 64, 5), np.arange(1, 64, 7), np.arange(2, 64, 11), np.arange(7, 64, 19)):
            extreme = calls.replace(q, X=X, loss=loss)
            got = {}
            for name in LEVELS:
                with calls.level(name):
                    got[name] = gradient_bytes(extreme, rows=rows)
            for name in LEVELS[1:]:
                assert_same(got[name], got[LEVELS[0]], f"{name} {loss}")


# ---- 5. no leak --------------------------------------------------------------------------------------------------

POISONS = {"nan": [np.nan], "inf": [np.inf, -np.inf], "huge": [1e30, -1e30], "mixed": [np.nan, np.inf, -np.inf, 1e30]}


def poison(q, model, how, seed):
    """The data with X, y and weight of every row that ``model`` does not train on replaced.

    "mixed" leaves some entries as they were: a row may have a single bad feature, or only a bad weight. A weightless
    training row is no training row either: its X and y are poisoned, its weight stays 0.
    """
    rng = np.random.default_rng(seed)
    role = q.of_models([model]).model_roles()[0]
    not_trained = role != TRAIN
    weightless = ~not_trained & (q.sample_weight == 0) if q.sample_weight is not None else np.zeros(len(role), bool)

    def poured(a, rows):
        a = a.copy()
        bad = np.broadcast_to(rows.reshape(-1, *[1] * (a.ndim - 1)), a.shape)
        if how == "mixed":
            bad = bad & (rng.random(a.shape) < rng.choice([0.05, 0.5]))
        a[bad] = rng.choice(POISONS[how], bad.sum()).astype(a.dtype)
        return a

    return calls.replace(
        q,
        X=poured(q.X, not_trained | weightless),
        y=poured(q.y, not_trained | weightless),
        sample_weight=None if q.sample_weight is None else poured(q.sample_weight, not_trained),
    )


def same_split(q, model):
    """The models that may not notice: all that share the split of ``model``."""
    return np.flatnonzero(q.split_of_model == q.split_of_model[model])


@settings(max_examples=150)
@given(st.data())
def test_no_leak_into_gradients(data):
    q = data.draw(problems(several=True))
    options = data.draw(gradient_options(q))
    model = data.draw(st.integers(0, q.n_models - 1), label="model")
    how = data.draw(st.sampled_from(sorted(POISONS)), label="poison")
    clean = gradient_bytes(q, **options)
    poisoned = poison(q, model, how, seed=1)
    for name in LEVELS:
        with calls.level(name):
            got = gradient_bytes(poisoned, **options)
        for k in same_split(q, model):
            assert_same([got[k]], [clean[k]], name)


@settings(max_examples=150)
@given(st.data())
def test_no_leak_into_trainings(data):
    q = data.draw(problems(several=True))
    options = data.draw(train_options(q))
    model = data.draw(st.integers(0, q.n_models - 1), label="model")
    how = data.draw(st.sampled_from(sorted(POISONS)), label="poison")
    n_threads = data.draw(st.sampled_from([1, 2]), label="n_threads")
    clean = calls.train(q, **options)
    poisoned = poison(q, model, how, seed=2)
    for name in LEVELS:
        with calls.level(name):
            got = calls.train(poisoned, n_threads=n_threads, **options)
        for k in same_split(q, model):
            assert_same([got.weights_of(k)], [clean.weights_of(k)], name)


@pytest.mark.parametrize("how", sorted(POISONS))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", sorted(splits.KINDS))
def test_no_leak_of_a_whole_grid(each_level, kind, dtype, how):
    """Every kind of split with every poison: each split in turn, its neighbours training on the poison."""
    q = calls.problem(9, n=40, p=9, m=19, dtype=dtype, kind=kind)
    clean = gradient_bytes(q)
    options = {"batch_size": 7, "solver": "adam", "epochs": 2, "standardize": True}
    trained = calls.train(q, **options)
    for split in np.unique(q.split_of_model)[:4]:
        model = int(np.flatnonzero(q.split_of_model == split)[0])
        poisoned = poison(q, model, how, seed=int(split))
        got, got_trained = gradient_bytes(poisoned), calls.train(poisoned, **options)
        for k in same_split(q, model):
            assert_same([got[k]], [clean[k]], "gradient")
            assert_same([got_trained.weights_of(k)], [trained.weights_of(k)], "training")


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_leak_of_skipped_rows_into_held_out_losses(each_level, dtype):
    """A skipped row reaches neither weights nor held-out losses, and a scored one no weights."""
    for kind in ("holdout", "time_series", "nested", "overlapping"):
        q = calls.problem(10, n=60, p=5, m=1, dtype=dtype, kind=kind)
        q = calls.replace(q, split_of_model=np.zeros(1, np.int64))
        role = q.model_roles()[0]
        assert (role == SCORE).any() and (role == 0).any()
        clean = calls.train(q, batch_size=8)
        for value in (np.nan, np.inf, 1e30):
            X, y, w = q.X.copy(), q.y.copy(), q.sample_weight.copy()
            X[role == 0], y[role == 0], w[role == 0] = value, value, value
            got = calls.train(calls.replace(q, X=X, y=y, sample_weight=w), batch_size=8)
            assert_same(got.bytes(), clean.bytes(), str(value))


def test_a_poisoned_training_row_does_leak():
    """The poison is strong enough to be seen: poured on one row that a model trains on, it changes the bits."""
    for loss in LOSSES:
        q = calls.problem(11, n=60, p=5, m=1, loss=loss, weights="ones")
        row = int(np.flatnonzero(q.model_roles()[0] == TRAIN)[7])
        for value in (np.nan, np.inf, 1e30):
            X = q.X.copy()
            X[row] = value
            bad = calls.replace(q, X=X)
            assert gradient_bytes(bad) != gradient_bytes(q)
            assert calls.train(bad).weights_of(0) != calls.train(q).weights_of(0)


# ---- the caller's floating-point environment ---------------------------------------------------------------------


def subnormal_problem(dtype):
    """X around the smallest normal number: products, sums and weights are subnormal, and so are the inputs."""
    q = calls.problem(12, n=1100, p=7, m=20, dtype=dtype)
    q = calls.replace(q, l1=np.zeros(20))
    return calls.replace(q, X=(q.X * np.finfo(dtype).smallest_normal / 8).astype(dtype))


def is_flushing():
    """Whether this thread flushes subnormal results to zero, seen from NumPy's own multiplication."""
    return not (np.full(8, 1e-30, np.float32) * np.full(8, 1e-10, np.float32)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_flushing_subnormals_in_the_caller_changes_nothing(each_level, dtype, n_threads):
    q = subnormal_problem(dtype)
    runs = [
        lambda: gradient_bytes(q, n_threads=n_threads),
        lambda: train_bytes(q, n_threads=n_threads, solver="sgd", batch_size=64),
        lambda: train_bytes(q, n_threads=n_threads, solver="adam", batch_size=1100),
        lambda: train_bytes(q, n_threads=n_threads, standardize=True),
    ]
    grad_W = calls.loss_gradient(q)[1]
    assert ((grad_W != 0) & (np.abs(grad_W) < np.finfo(dtype).smallest_normal)).any()
    want = [run() for run in runs]
    assert not is_flushing()
    if not _core.simd.flush_to_zero(True):
        pytest.skip("this CPU has no such switch")
    try:
        flushing_before = is_flushing()
        got = [run() for run in runs]
        flushing_after = is_flushing()
    finally:
        _core.simd.flush_to_zero(False)
    assert flushing_before, "the switch did nothing, so this test shows nothing"
    assert flushing_after, "the caller's environment was not restored"
    for name, a, b in zip(("gradient", "sgd", "adam", "standardized"), got, want, strict=True):
        assert_same(a, b, name)


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the rounding modes' numbers are those of x86-64"
)
@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00], ids=["down", "up", "to zero"])
def test_the_callers_rounding_mode_changes_nothing(each_level, mode):
    libm = ctypes.CDLL("libm.so.6")
    q = calls.problem(13, n=300, p=7, m=20, dtype=np.float32)
    options = {"standardize": True, "solver": "adam"}
    want, want_trained = calls.loss_gradient(q), calls.train(q, **options)
    libm.fesetround(mode)
    try:
        got, got_trained = calls.loss_gradient(q), calls.train(q, **options)
        rounding = libm.fegetround()
    finally:
        libm.fesetround(0)
    assert rounding == mode, "the caller's environment was not restored"
    assert [a.tobytes() == b.tobytes() for a, b in zip(got, want, strict=True)] == [True] * 3
    assert_same(got_trained.bytes(), want_trained.bytes())


# ---- the plan by tile: fewer panels than threads -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize(("m", "batch_size"), [(5, 256), (16, 100), (20, 300)])
def test_threads_that_share_a_panel(each_level, dtype, solver, m, batch_size):
    """Few models of many features: rows and then features of one batch are split over the threads."""
    q = calls.problem(61 + m, n=300, p=2500, m=m, dtype=dtype)
    one, *others = (
        calls.train(q, solver=solver, epochs=2, batch_size=batch_size, n_threads=k).bytes() for k in (1, 2, 3, 7)
    )
    assert all(run == one for run in others)


@pytest.mark.parametrize("how", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("split", [0, 3])
def test_no_leak_where_threads_share_a_panel(each_level, how, split):
    """The models of one split stay, though the others of their panel train on the poisoned rows."""
    q = calls.problem(67, n=200, p=2500, m=16, dtype=np.float32)
    mine = np.flatnonzero(q.split_of_model == split)
    unused = q.model_roles()[mine[0]] != TRAIN
    assert len(mine) > 1 and unused.any()
    X, y, weight = q.X.copy(), q.y.copy(), q.sample_weight.copy()
    X[unused], y[unused], weight[unused] = how, how, how
    clean = calls.train(q, solver="adam", batch_size=128, n_threads=4)
    dirty = calls.train(calls.replace(q, X=X, y=y, sample_weight=weight), solver="adam", batch_size=128, n_threads=4)
    for model in mine:
        assert clean.weights_of(model) == dirty.weights_of(model)
