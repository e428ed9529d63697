"""gradfold.cuda.train in the simulator: all that a Trainer says, to the bit what the C++ one says, by both paths.

Cases are few and dense. One case costs about a second for ten steps, so what can go together does.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

import calls
import gradfold as gf
import on_device
import splits
from gradfold.cuda import train, update
from gradfold.cuda.tiles import SHAPES
from on_device import assert_same_trainers
from test_promises import poison

PATHS = ["persistent", "tiled"]
F32, F64 = np.float32, np.float64


def both(q, path, **options):
    """A Trainer of each side."""
    return on_device.trainer(q, path=path, **options), calls.trainer(q, **options)


def assert_same(q, path, **options):
    """Trains on both sides to the end, and compares; returns the device's Trainer."""
    found, wanted = both(q, path, **options)
    assert found.reason.startswith(path)
    assert (found.advance(), wanted.advance()) == ("done", "done")
    tracked = options.get("track_train_loss", False)
    assert_same_trainers(found, wanted, tracked)
    if tracked:
        on_device.assert_bits(found.train_loss(), wanted.train_loss(), "train_loss")
        assert np.isnan(found.train_loss()).all()
    return found


def problem(seed, **options):
    """Small, with models that differ in all that models can."""
    schedules = options.pop("schedules", None)
    hyper = options.pop("hyper", {})
    q = calls.problem(seed, **{"n": 12, "p": 3, "m": 4, "dtype": F32, **options})
    m = q.n_models
    if schedules is not None:
        q = calls.replace(q, schedule=[schedules[k % len(schedules)] for k in range(m)], l2=np.maximum(q.l2, 1e-4))
    rng = np.random.default_rng(seed)
    return calls.replace(q, hyper={name: rng.uniform(low, high, m) for name, (low, high) in hyper.items()})


CLIPS = {"clip_norm": (0.01, 0.3), "clip_value": (0.005, 0.2)}
MOMENTA = {"momentum": (0.3, 0.95)}
BETAS = {"beta1": (0.5, 0.95), "beta2": (0.9, 0.999), "epsilon": (1e-9, 1e-7)}
FALLS = {"power_t": (0.2, 0.9), "decay": (0.4, 0.9), "decay_epochs": (0.2, 0.9), "t0": (1, 3)}
WARM = {"warmup": (0, 3)}

# (name, problem, options); each goes by one path, a solver by both.
CASES = [
    ("sgd", dict(schedules=["constant", "cosine"], p=4), dict(track_train_loss=True)),
    ("sgd", dict(schedules=update.SCHEDULES, hyper=FALLS | WARM, m=7, dtype=F64, weights="none"), dict(standardize=True, warm=True)),
    ("momentum", dict(hyper=MOMENTA | CLIPS, loss="squared_error", kind="repeated_kfold"), dict(fit_intercept=False)),
    ("momentum", dict(hyper=MOMENTA, dtype=F64, kind="time_series"), dict(standardize=True, shuffle=False)),
    ("nesterov", dict(hyper=MOMENTA, dtype=F64, loss="huber", kind="nested"), dict(track_train_loss=True)),
    ("nesterov", dict(hyper=MOMENTA | CLIPS, loss="hinge", weights="integers"), dict(standardize=True, warm=True)),
    ("adagrad", dict(schedules=update.SCHEDULES, hyper=FALLS, m=7, kind="overlapping"), dict(track_train_loss=True)),
    ("adagrad", dict(dtype=F64, hyper=CLIPS, loss="modified_huber"), dict(standardize=True, fit_intercept=False)),
    ("rmsprop", dict(hyper={"rho": (0.8, 0.99)}, dtype=F64, kind="holdout", weights="ones"), dict(shuffle=False)),
    ("rmsprop", dict(hyper={"rho": (0.8, 0.99)} | WARM, kind="leave_one_out", m=9), dict(standardize=True)),
    ("adam", dict(hyper=BETAS, kind="time_series", loss="epsilon_insensitive"), dict(standardize=True, track_train_loss=True)),
    ("adam", dict(hyper=BETAS | CLIPS | WARM, dtype=F64, schedules=update.SCHEDULES, m=7), dict(fit_intercept=False)),
    ("adamw", dict(hyper=BETAS | {"weight_decay": (0, 0.3)}, p=8, m=9), dict(warm=True)),
    ("adamw", dict(hyper={"weight_decay": (0, 0.3)}, dtype=F64, loss="squared_hinge"), dict(standardize=True)),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(CASES)), ids=lambda at: f"{CASES[at][0]}-{at}")
def test_same_bits_as_the_cpu(at):
    solver, options, arguments = CASES[at]
    q = problem(at, **options)
    path = PATHS[(at // 2 + at) % 2]
    t = assert_same(q, path, solver=solver, epochs=[2, 1][at % 2], batch_size=[7, 5][at % 2], **arguments)
    assert t.steps().max() >= 2


@pytest.fixture
def fresh_kernels():
    """Kernels that are made in the test, of what it has patched, and not used after it."""
    caches = update.of, train.kernels
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(("solver", "path"), [("sgd", "persistent"), ("adam", "persistent"), ("adam", "tiled")])
def test_models_that_are_stepped_side_by_side(solver, path, dtype, monkeypatch, fresh_kernels):
    """Without l1 they are, by so many as 16 bytes hold: where all of these step, of which some have no row in a batch, some lost
    a number and were put back, and some are nobody's lanes."""
    q = problem(31, n=15, p=9, m=13, dtype=dtype, hyper=BETAS if solver == "adam" else {}, weights="integers", loss="squared_error")
    l1, rate = np.zeros(13), np.array(q.learning_rate)
    rate[2] = 0.1 * np.finfo(dtype).max
    folds = gf.index.kfold(15, 5, shuffle=False)  # each holds one batch out
    written = counted_writes(monkeypatch)
    for which in ([], [6]):
        l1[which] = 0.01
        own = calls.replace(q, splits=folds, split_of_model=np.arange(13) // 4, l1=l1, learning_rate=rate)
        t = assert_same(own, path, solver=solver, epochs=2, batch_size=3, shuffle=False)
        assert (t.diverged_epoch >= 0).tolist() == [k == 2 for k in range(13)]
        assert t.steps().tolist() == [8 if k != 2 else t.steps()[2] for k in range(13)]
        assert written and not written.clear()


def counted_writes(monkeypatch):
    """A list that grows with each vector that a step writes, until the test ends."""
    written, plain = [], update.vector_writer_at

    def writer(width):
        write = plain(width)

        def counted(*given):
            written.append(width)
            write(*given)

        return counted

    monkeypatch.setattr(update, "vector_writer_at", writer)
    return written


def test_the_cases_cover_what_they_should():
    assert {solver for solver, _, _ in CASES} == set(update.SOLVERS)
    paths = {(solver, PATHS[(at // 2 + at) % 2]) for at, (solver, _, _) in enumerate(CASES)}
    assert len(paths) == 2 * len(update.SOLVERS)
    assert list(update.SCHEDULES) == list(calls.SCHEDULES)
    q = problem(6, **CASES[6][1])
    assert set(q.schedule) == set(update.SCHEDULES) and (q.l1 > 0).any() and (q.l1 == 0).any()


@pytest.mark.parametrize("path", PATHS)
def test_a_constant_column_and_held_out_weights(path):
    q = problem(20, n=12, p=3, dtype=F32 if path == "tiled" else F64)
    X = q.X.copy()
    X[:, 1] = 0.1
    X[:, 2] += 100
    held_out = np.random.default_rng(1).integers(0, 3, 12).astype(X.dtype)
    t = assert_same(calls.replace(q, X=X), path, solver="adam", batch_size=5, standardize=True, held_out_weight=held_out)
    assert (t.get_state()["scale"] < 0).any() and (t.coef()[:, 1] == 0).all()


@pytest.mark.parametrize(("path", "weighted"), [("persistent", True), ("tiled", False)])
def test_validation_data(path, weighted):
    q = problem(21, m=6)
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((7, 3)).astype(F32), rng.integers(0, 2, 7).astype(F32)
    weight = np.array([0, 1, 2, 0, 1, 0.5, 1], F32) if weighted else None
    t = assert_same(q, path, epochs=2, batch_size=6, standardize=weighted, validation=(X, y, weight))
    assert np.isfinite(t.history()).all()


def test_more_than_32_splits():
    """Words of two for roles of training rows and of scored ones."""
    n = 35
    q = problem(22, n=n, p=1, m=n, kind="leave_one_out", weights="none")
    q = calls.replace(q, split_of_model=np.random.default_rng(0).permutation(n).astype(np.int64))
    assert_same(q, "persistent", epochs=1, batch_size=n)


def test_more_than_256_features():
    """Two chunks in forward, in the norm that clips, and in the intercept on the scale of X; doubles, so that it shows."""
    q = problem(23, n=5, p=290, m=4, dtype=F64, kind="holdout", weights="none", hyper={"clip_norm": (0.01, 0.02)})
    q = calls.replace(q, X=q.X + 3, loss="squared_error", learning_rate=np.array([0.1, 0.2, 0.3, 0.4]))
    assert_same(q, "persistent", solver="momentum", epochs=2, batch_size=3, standardize=True)


@pytest.mark.parametrize("path", PATHS)
def test_the_permutation_of_many_rows(path):
    """Above 1,024 rows the order is computed by rounds, not from a table; only the first batches are walked."""
    q = problem(24, n=1060, p=1, m=2, kind="holdout", weights="none")
    found, wanted = both(q, path, epochs=2, batch_size=9, seed=2**40 + 3, first_epoch=5)
    for t in (found, wanted):
        assert t.advance(max_steps=4) == "paused"
    assert_same_trainers(found, wanted)
    assert found.steps().min() == 4


def test_a_batch_of_two_chunks():
    """Sums of the second chunk of 1,024 positions begin at +0 and are added to those of the first, as are losses."""
    q = problem(25, n=1030, p=1, m=2, dtype=F64, kind="holdout", weights="zeros")
    q = calls.replace(q, learning_rate=np.array([0.5, 0.7]))
    scored = q.X[:1].copy(), q.y[:1].copy(), None
    assert_same(q, "persistent", epochs=1, batch_size=1030, track_train_loss=True, validation=scored)


@pytest.mark.parametrize(("path", "solver"), [("persistent", "adam"), ("tiled", "nesterov")])
def test_models_that_diverge(path, solver):
    """They get back what their last step replaced, are marked, and disturb nobody."""
    q = problem(26, n=12, m=7, loss="squared_error", weights="ones")
    huge = float(np.finfo(F32).max) / 16
    q = calls.replace(q, learning_rate=np.array([0.01, huge, 0.02, 1e8, 0.03, huge, 1e4]), l1=np.zeros(7))
    t = assert_same(q, path, solver=solver, epochs=2, batch_size=6, track_train_loss=True)
    assert (t.diverged_epoch >= 0).sum() >= 2 and (t.diverged_epoch < 0).sum() >= 2
    assert np.isfinite(t.coef()).all()


@pytest.mark.parametrize(("scale", "shift", "rates"), [(1e-30, 0, [0.01, 1e6, 1e9, 1e20]), (1, 1e5, [0.01, 1e34, 1e35, 1e36])])
def test_models_that_diverge_on_the_scale_of_x(scale, shift, rates):
    """Where only a weight divided by the scale is not finite, or only the intercept less mean times weight."""
    q = problem(27, n=12, m=4, dtype=F32, loss="squared_error", weights="ones")
    q = calls.replace(q, X=q.X * F32(scale) + F32(shift), learning_rate=np.array(rates), l1=np.zeros(4), schedule=["constant"] * 4)
    t = assert_same(q, "persistent", epochs=3, batch_size=6, standardize=True)
    assert (t.diverged_epoch[1:] >= 0).any() and np.isfinite(t.coef()).all() and np.isfinite(t.intercept()).all()


def test_gradients_that_are_not_finite_diverge_before_they_are_clipped():
    q = problem(28, n=12, m=4, loss="squared_error", weights="ones", hyper={"clip_value": (0.1, 0.2)})
    X = q.X.copy()
    X[3] = 1e30
    assert_same(calls.replace(q, X=X), "tiled", epochs=2, batch_size=5)


@pytest.mark.parametrize(("path", "standardize"), [("persistent", False), ("tiled", True)])
def test_no_leak(path, standardize):
    """Rows that one model does not train on hold what is not finite; models of its split never notice."""
    q = problem(29, n=12, m=6, kind="kfold", weights="zeros" if standardize else "none")
    q = calls.replace(q, split_of_model=np.array([1, 0, 1, 2, 1, 4]))
    options = dict(solver="adam", epochs=1, batch_size=5, standardize=standardize)
    clean = on_device.trainer(q, path=path, **options)
    clean.advance()
    found = assert_same(poison(q, 0, "huge" if standardize else "nan", seed=1), path, **options)
    for k in (0, 2, 4):
        assert calls.read(found).weights_of(k) == calls.read(clean).weights_of(k)


@pytest.mark.parametrize("path", PATHS)
def test_solo_is_batched(path):
    q = problem(30, m=10, kind="repeated_kfold")
    options = dict(solver="adam", epochs=1, batch_size=6, path=path)
    together = on_device.trainer(q, **options)
    together.advance()
    for models in ([9], [6, 2, 4]):
        alone = on_device.trainer(q.of_models(models), **options)
        alone.advance()
        assert calls.read(alone).bytes() == [calls.read(together).of(k) for k in models]


@pytest.mark.parametrize("path", PATHS)
def test_leaving_and_coming_back(path):
    """finish, snapshot, restore, scale_learning_rate, and panels laid out anew, at the same batches on both sides."""
    q = problem(31, n=12, m=10, schedules=["adaptive", "cosine"])
    pair = both(q, path, solver="adam", epochs=3, batch_size=6, track_train_loss=True)
    m = q.n_models
    some = np.arange(m) % 3 == 1
    for t in pair:
        assert t.advance(max_steps=1) == "paused"
        t.snapshot(some)
    before, taken = panels(pair[0]), pair[0]._lanes[pair[0]._lanes >= 0]
    stay = np.isin(np.arange(m), taken[[0, -1]])  # of the first panel and of the last
    for t in pair:
        assert t.advance(max_steps=2) == "paused"
        t.scale_learning_rate(np.where(some, 0.25, 1.0))
        t.restore(some)
    assert_same_trainers(*pair, train_loss=True)
    for t in pair:
        with pytest.raises(ValueError, match="^mask: got model 0, which snapshot"):
            t.restore(~some)
        t.finish(~stay)
        assert t.advance(max_steps=2) == "paused"
    assert panels(pair[0]) < before
    for t in pair:
        assert t.advance() == "done"
    assert_same_trainers(*pair, train_loss=True)
    on_device.assert_bits(pair[0].history(2), pair[1].history(2), "history")
    assert np.isnan(pair[0].history()[-1, ~stay]).all() and np.isfinite(pair[0].history()[:, stay]).all()


def panels(t):
    return len(t._lanes) // t._path.shape.models


def test_everybody_leaves():
    q = problem(32, m=3)
    for t in both(q, "tiled", epochs=3, batch_size=6):
        t.advance(max_steps=1)
        t.finish(np.ones(3, bool))
        assert t.advance() == "done" and not t.alive().any()


@pytest.mark.parametrize(("path", "solver", "standardize"), [("persistent", "adam", True), ("tiled", "momentum", False)])
def test_saved_state_goes_on_on_either_side(path, solver, standardize):
    q = problem(33, m=4, schedules=["cosine", "constant"])
    options = dict(solver=solver, epochs=2, batch_size=5, standardize=standardize, track_train_loss=True)
    whole = calls.trainer(q, **options)
    whole.advance()
    begun = both(q, path, **options)
    for t in begun:
        assert t.advance(max_steps=4) == "paused"
    for there, state in ((True, begun[1].get_state()), (False, begun[0].get_state())):
        t = on_device.trainer(q, path=path, state=state, **options) if there else calls.trainer(q, state=state, **options)
        assert t.advance() == "done"
        assert_same_trainers(t, whole, train_loss=True)


def test_states_without_a_position_begin_the_epochs_anew():
    q = problem(34, m=3)
    state = calls.trainer(q, epochs=1, batch_size=6)
    state.advance()
    kept = {k: v for k, v in state.get_state().items() if k not in ("position", "history", "finished", "diverged_epoch", "diverged_batch")}
    for path in PATHS:
        assert_same(q, path, epochs=1, batch_size=6, first_epoch=1, state=kept)


def test_limits_and_cancel():
    q = problem(35, m=3)
    found, wanted = both(q, "persistent", epochs=3, batch_size=4)
    for steps in (0, 1, 1, 5):
        for t in (found, wanted):
            assert t.advance(max_steps=steps) == "paused"
        assert_same_trainers(found, wanted)
    assert found.advance(seconds=0.0) == "paused"
    found.cancel()
    position = found.get_state()["position"]
    assert found.advance() == "interrupted"
    np.testing.assert_array_equal(found.get_state()["position"], position)


def test_cancel_from_another_thread():
    """The walk ends at whole batches, and the state that is then saved goes on to the same bits."""
    q = problem(36, n=12, m=3, weights="none")
    options = dict(epochs=500, batch_size=4)
    t = on_device.trainer(q, path="tiled", **options)
    timer = threading.Timer(1.0, t.cancel)
    timer.start()
    assert t.advance() == "interrupted"
    timer.join()
    done = int(t.get_state()["position"][0])
    wanted = calls.trainer(q, **options)
    assert 0 < done < 1500 and wanted.advance(max_steps=done) == "paused"
    on_device.assert_bits(t.coef(), wanted.coef(), "coef")


def test_what_is_not_built():
    q = problem(37, m=3)
    with pytest.raises(ValueError, match="^average: got averaged weights with device='cuda'"):
        on_device.trainer(calls.replace(q, hyper={"average": np.ones(3)}))
    with pytest.raises(ValueError, match="^loss: got 'multinomial' with device='cuda'"):
        on_device.trainer(calls.problem(1, n=12, p=2, m=2, loss="multinomial"))
    with pytest.raises(RuntimeError, match="track_train_loss=True"):
        on_device.trainer(q).train_loss()


def test_rows_of_splits():
    """What the trainer reads of roles on the host: the reference's, for every kind of split."""
    for kind in splits.KINDS:
        of_rows = splits.make(kind, np.random.default_rng(3), 20)
        for scored, role in ((False, splits.TRAIN), (True, splits.SCORE)):
            found = list(train._rows_of(of_rows.ids, of_rows.conditions, scored=scored))
            for rows, roles in zip(found, of_rows.roles(), strict=True):
                np.testing.assert_array_equal(rows, np.flatnonzero(roles == role))


def test_shapes_are_tiny():
    assert max(shape.threads for shapes in SHAPES.values() for shape in shapes.values()) <= 16
