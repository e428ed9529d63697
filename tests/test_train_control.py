"""Models that finish, are remembered, scored elsewhere, saved and continued: none of it may change another's bits."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calls
import splits
from reference import train as reference
from reference.roles import TRAIN

SOLVERS = ["sgd", "adam"]
# (problem, options): 1,024 positions and more in a batch are walked by chunk, few models of many features by tile, and by window where
# panels are no multiple of the threads.
PLANS = {
    "panel": (dict(n=300, p=7, m=60), dict(batch_size=16)),
    "window": (dict(n=6000, p=10, m=100, dtype=np.float32), dict(batch_size=100)),
    "panel of several chunks": (dict(n=2200, p=3, m=40), dict(batch_size=1500)),
    "tile": (dict(n=300, p=2500, m=20, dtype=np.float32), dict(batch_size=150)),
    "chunk": (dict(n=4200, p=60, m=40), dict(batch_size=2100)),
}


def some(m, *models):
    mask = np.zeros(m, bool)
    mask[list(models)] = True
    return mask


def bytes_of(t, model):
    """All that a trainer says of one model."""
    loss = t.train_loss(reset=False)[model].tobytes()
    return (*calls.read(t).of(model), loss, {k: v[model].tobytes() for k, v in t.get_state().items()})


def same(got, want, where=""):
    assert len(got) == len(want)
    differ = [k for k, (a, b) in enumerate(zip(got, want, strict=True)) if a != b]
    assert not differ, f"{len(differ)} of {len(want)} models differ {where}, the first is {differ[0]}"


# ---- leaving, remembering, coming back -------------------------------------------------------------------------------


@st.composite
def schedules(draw, m, n_slices):
    """What happens to m models after each slice of a training: [(finish, snapshot, restore, factor)] as masks and numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6), label="schedule"))
    rate = draw(st.sampled_from([0.05, 0.3, 0.8]), label="share that leaves each time")
    remembered = np.zeros(m, bool)
    events = []
    for _ in range(n_slices):
        snapshot = rng.random(m) < 0.4
        restore = (rng.random(m) < 0.3) & (remembered | snapshot)
        remembered |= snapshot
        events.append((rng.random(m) < rate, snapshot, restore, rng.choice([1.0, 1.0, 0.5, 3.0], m)))
    return events


def play(q, slices, events, **options):
    """A training in slices of batches with these events in between, to the end; and what it says of every model."""
    t = calls.trainer(q, track_train_loss=True, **options)
    for steps, (finish, snapshot, restore, factor) in zip(slices, events, strict=True):
        t.advance(max_steps=steps)
        t.snapshot(snapshot)
        t.finish(finish)
        t.restore(restore)
        t.scale_learning_rate(factor)
    while t.advance(max_steps=t.steps_per_epoch) == "paused":
        pass
    padded = np.full((options["epochs"], q.n_models), np.nan)  # alone, a finished model ends its training at once
    history = t.history()
    padded[: len(history)] = history
    state = t.get_state()
    del state["history"], state["position"]
    return [
        (*calls.read(t).weights_of(k), padded[:, k].tobytes(), t.train_loss(reset=False)[k].tobytes(), t.alive()[k],
         *(v[k].tobytes() for v in state.values()))
        for k in range(q.n_models)
    ]


@settings(max_examples=60)
@given(st.data())
def test_no_bit_depends_on_who_leaves(data):
    """A model among others that finish, are remembered and restored at any time: the same as alone, on any plan."""
    draw = data.draw
    shape = draw(st.sampled_from([(300, 7, 60), (300, 7, 20), (90, 257, 17), (2200, 3, 50), (1100, 20, 9)]), label="shape")
    n, p, m = shape
    q = calls.problem(
        draw(st.integers(0, 10**6), label="data"), n=n, p=p, m=m, dtype=draw(st.sampled_from([np.float32, np.float64])),
        kind=draw(st.sampled_from(sorted(splits.KINDS)), label="splits"), loss=draw(st.sampled_from(["log_loss", "squared_error"])),
    )
    if draw(st.booleans(), label="diverging"):
        q = calls.replace(q, learning_rate=np.where(np.arange(m) % 3 == 1, 1e8, q.learning_rate))
    options = {
        "solver": draw(st.sampled_from(SOLVERS)), "standardize": draw(st.booleans()), "epochs": 3,
        "batch_size": draw(st.sampled_from([16, 100, n // 2 + 1])),
    }
    n_slices = draw(st.integers(1, 5), label="slices")
    slices = [draw(st.integers(0, 12)) for _ in range(n_slices)]
    events = draw(schedules(m, n_slices))
    together = play(q, slices, events, n_threads=1, **options)
    for n_threads in (2, 5):
        same(play(q, slices, events, n_threads=n_threads, **options), together, f"on {n_threads} threads")
    for k in {draw(st.integers(0, m - 1), label="model"), m - 1}:
        own = [tuple(np.ascontiguousarray(e[[k]]) for e in event) for event in events]
        same(play(q.of_models([k]), slices, own, n_threads=1, **options), [together[k]], "alone")


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_finishing_on_every_plan_and_level(each_level, plan, solver):
    shape, options = PLANS[plan]
    if each_level == "serial" and plan == "tile":
        shape = shape | {"n": 160}
    q = calls.problem(91, **shape)
    m = q.n_models
    options = options | {"solver": solver, "epochs": 3, "standardize": plan != "chunk"}
    rng = np.random.default_rng(5)
    events = [(rng.random(m) < 0.4, rng.random(m) < 0.5, np.zeros(m, bool), np.ones(m)) for _ in range(4)]
    events[-1] = (events[-1][0], events[-1][1], events[0][1], np.full(m, 0.5))
    one, *others = (play(q, [1, 1, 2, 0], events, n_threads=k, **options) for k in (1, 2, 5))
    for run in others:
        same(run, one, plan)
    for k in (0, m // 2, m - 1):
        own = [tuple(np.ascontiguousarray(e[[k]]) for e in event) for event in events]
        same(play(q.of_models([k]), [1, 1, 2, 0], own, n_threads=1, **options), [one[k]], "alone")


@pytest.mark.parametrize("n_threads", [1, 5])
def test_a_finished_model_stays_as_it_was(each_level, n_threads):
    q = calls.problem(92, n=200, p=5, m=60)
    t = calls.trainer(q, solver="adam", standardize=True, epochs=6, batch_size=20, n_threads=n_threads, track_train_loss=True)
    t.advance(max_steps=2 * t.steps_per_epoch + 3)
    at = calls.read(t)
    left = np.arange(60) % 5 != 2
    t.finish(left)
    assert (t.alive() == ~left).all()
    loss = t.train_loss(reset=False)
    assert t.advance() == "done"
    for k in np.flatnonzero(left):
        assert calls.read(t).weights_of(k) == at.weights_of(k)
    np.testing.assert_array_equal(t.train_loss(reset=False)[left], loss[left])
    history = t.history()
    assert np.isfinite(history[:2]).all() and np.isnan(history[2:, left]).all() and np.isfinite(history[:, ~left]).all()
    whole = calls.train(q, solver="adam", standardize=True, epochs=6, batch_size=20)
    for k in np.flatnonzero(~left):
        assert calls.read(t).of(k) == whole.of(k)
    assert (t.alive() == ~left).all()


def test_when_all_have_finished_advance_is_done_at_once():
    q = calls.problem(93, n=20_000, p=30, m=30, dtype=np.float32)
    t = calls.trainer(q, epochs=100_000)
    t.advance(max_steps=t.steps_per_epoch)
    steps = t.steps()
    t.finish(np.ones(30, bool))
    start = time.monotonic()
    assert t.advance() == "done" and t.advance(max_steps=1) == "done"
    assert time.monotonic() - start < 10
    assert t.epochs_done == 1 and not t.alive().any()
    np.testing.assert_array_equal(t.steps(), steps)


def test_finished_before_the_first_step():
    q = calls.problem(94, n=80, p=3, m=6)
    t = calls.trainer(q, epochs=2, warm=True)
    t.finish(some(6, 0, 1, 2, 3, 4))
    assert t.advance() == "done"
    np.testing.assert_array_equal(t.coef()[:5], q.W.T[:5])
    assert t.steps()[:5].tolist() == [0] * 5
    assert calls.read(t).of(5) == calls.train(q, epochs=2, warm=True).of(5)


def test_models_that_only_diverged_have_nan_to_the_end():
    q = calls.problem(95, n=100, p=3, m=5, loss="squared_error")
    q = calls.replace(q, learning_rate=np.full(5, 1e200), l1=np.zeros(5))
    t = calls.train(q, epochs=50, batch_size=10)
    assert (t.diverged_epoch >= 0).all() and t.history.shape == (50, 5) and np.isnan(t.history).all()


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_restored_models_are_the_remembered_ones(solver, standardize):
    q = calls.problem(96, n=150, p=4, m=20)
    options = dict(solver=solver, standardize=standardize, epochs=5, batch_size=16)
    t = calls.trainer(q, **options)
    t.advance(max_steps=12)
    best = calls.read(t)
    mask = np.arange(20) % 2 == 0
    t.snapshot(mask)
    with pytest.raises(ValueError, match="mask: got model 1, which snapshot"):
        t.restore(some(20, 0, 1))
    t.finish(some(20, 0, 1, 2, 3))
    t.advance(max_steps=20)
    now = calls.read(t)
    t.restore(mask)
    after = calls.read(t)
    for k in range(20):
        assert after.weights_of(k) == (best if mask[k] else now).weights_of(k)
    assert t.advance() == "done"
    for k in (0, 2):
        assert calls.read(t).weights_of(k) == best.weights_of(k)


def test_finished_models_save_work():
    """Counted in batches' worth of lanes through the clock would be noise; three quarters gone must save well over a third."""
    q = calls.problem(97, n=20_000, p=60, m=96, dtype=np.float32, weights="none")
    q = calls.replace(q, split_of_model=np.arange(96) % 5, l1=np.zeros(96))

    def seconds(leave):
        t = calls.trainer(q, epochs=2, batch_size=250, n_threads=1)
        t.advance(max_steps=1)
        t.finish(np.arange(96) % 8 != 0 if leave else np.zeros(96, bool))
        start = time.process_time()
        t.advance()
        return time.process_time() - start

    seconds(False)
    ratios = sorted(seconds(True) / seconds(False) for _ in range(3))
    assert ratios[0] < 0.6, ratios


# ---- learning rates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_scaled_learning_rates(solver):
    """From the start, a factor is another learning rate; later, both parts are those of the reference."""
    q = calls.problem(98, n=120, p=4, m=9)
    factor = 2.0 ** np.arange(-4, 5)
    t = calls.trainer(q, solver=solver, epochs=2)
    t.scale_learning_rate(factor)
    t.advance()
    other = calls.train(calls.replace(q, learning_rate=q.learning_rate * factor), solver=solver, epochs=2)
    same(calls.read(t).bytes(), other.bytes())
    a, b = calls.trainer(q, solver=solver, epochs=2, batch_size=10), calls.trainer(q, solver=solver, epochs=2, batch_size=10)
    for trainer, parts in ((a, [factor]), (b, [np.sqrt(factor), np.sqrt(factor)])):
        trainer.advance(max_steps=7)
        for part in parts:
            trainer.scale_learning_rate(part)
        trainer.advance()
    np.testing.assert_allclose(a.coef(), b.coef(), rtol=1e-12, atol=1e-15)
    assert calls.read(a).bytes() != calls.train(q, solver=solver, epochs=2, batch_size=10).bytes()


# ---- training loss -----------------------------------------------------------------------------------------------------


def reference_of(q, **options):
    from gradfold.index import Permutation

    first = options.pop("first_epoch", 0)
    seed = options.pop("seed", 7)
    return reference.train(
        q.X, q.y, roles=q.model_roles(), sample_weight=q.sample_weight, loss=q.loss, l1=q.l1, l2=q.l2,
        learning_rate=q.learning_rate, schedule=q.schedule,
        order=lambda epoch: Permutation(len(q.X), seed, epoch=first + epoch)[:], **options,
    )


@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
@pytest.mark.parametrize("batch_size", [1, 16, 1025, 5000])
@pytest.mark.parametrize("standardize", [False, True])
def test_training_losses_are_the_references(each_level, loss, batch_size, standardize):
    n = 60 if batch_size == 1 else 1500 if batch_size > 1000 else 200
    q = calls.problem(101, n=n, p=5, m=11, loss=loss)
    options = dict(solver="adam", epochs=3, batch_size=batch_size, standardize=standardize)
    t = calls.trainer(q, track_train_loss=True, **options)
    assert np.isnan(t.train_loss()).all()
    want = reference_of(q, **options).train_loss
    for epoch in range(3):
        t.advance(max_steps=t.steps_per_epoch)
        kept = t.train_loss(reset=False)
        np.testing.assert_allclose(kept, want[epoch], rtol=1e-9)
        np.testing.assert_array_equal(t.train_loss(), kept)
        assert np.isnan(t.train_loss()).all()


@pytest.mark.parametrize("plan", PLANS)
def test_training_losses_are_the_same_on_any_plan(plan):
    shape, options = PLANS[plan]
    q = calls.problem(102, **shape)
    got = []
    for level in calls._core.levels.supported():
        for n_threads in (1, 2, 5):
            with calls.level(level):
                t = calls.trainer(q, epochs=2, n_threads=n_threads, track_train_loss=True, **options)
                t.advance()
                got.append((t.train_loss().tobytes(), t.coef().tobytes()))
    assert len(set(got)) == 1
    assert got[0][1] == calls.train(q, epochs=2, **options).coef.tobytes()  # and counting costs no bit of a weight


def test_a_training_loss_skips_held_out_rows_and_the_batch_that_diverged():
    q = calls.problem(103, n=100, p=3, m=4, loss="squared_error")
    far = calls.replace(q, X=q.X.copy(), y=q.y.copy())
    mine = q.split_of_model == q.split_of_model[0]
    unused = q.model_roles()[0] != TRAIN
    far.X[unused], far.y[unused] = np.nan, np.nan
    a, b = calls.trainer(q, track_train_loss=True), calls.trainer(far, track_train_loss=True)
    a.advance(), b.advance()
    np.testing.assert_array_equal(a.train_loss()[mine], b.train_loss()[mine])
    wild = calls.replace(q, learning_rate=np.full(4, 1e200), l1=np.zeros(4))
    t = calls.trainer(wild, track_train_loss=True, batch_size=10)
    t.advance()
    assert (t.diverged_epoch >= 0).all()
    assert (np.isfinite(t.train_loss()) == (t.steps() > 0)).all()


def test_an_untracked_training_loss_is_an_error():
    with pytest.raises(RuntimeError, match="track_train_loss"):
        calls.trainer(calls.problem(104, n=50, p=2, m=2)).train_loss()


# ---- scores of other rows and weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("m", [3, 40])
def test_validation_data_are_scored_by_every_model(each_level, standardize, weighted, m):
    q = calls.problem(111, n=150, p=5, m=m)
    v = calls.problem(112, n=1300, p=5, m=1)
    weight = v.sample_weight if weighted else None
    options = dict(epochs=3, batch_size=32, standardize=standardize)
    t = calls.trainer(q, validation=(v.X, v.y, weight), **options)
    t.advance(max_steps=2)
    t.finish(some(m, 1))
    assert t.advance() == "done"
    want = reference_of(q, solver="sgd", validation=(v.X, v.y, np.ones(1300) if weight is None else weight), **options)
    others = np.arange(m) != 1
    np.testing.assert_allclose(t.history()[:, others], want.history[:, others], rtol=1e-9)
    assert np.isnan(t.history()[:, 1]).all()
    plain = calls.train(q, **options)
    assert [plain.weights_of(k) == calls.read(t).weights_of(k) for k in np.flatnonzero(others)] == [True] * (m - 1)


def test_held_out_weights_weigh_held_out_losses_alone(each_level):
    q = calls.problem(113, n=200, p=4, m=12)
    weight = np.random.default_rng(3).uniform(0, 2, 200)
    weight[::7] = 0
    t = calls.train(q, epochs=2, held_out_weight=weight)
    want = reference_of(q, solver="sgd", epochs=2, batch_size=64, held_out_weight=weight)
    np.testing.assert_allclose(t.history, want.history, rtol=1e-9)
    plain = calls.train(q, epochs=2)
    assert all(plain.weights_of(k) == t.weights_of(k) for k in range(12)) and not np.allclose(plain.history, t.history)


def test_the_first_epoch_is_the_permutations():
    q = calls.problem(114, n=100, p=4, m=5)
    t = calls.train(q, epochs=2, batch_size=9, first_epoch=5)
    want = reference_of(q, solver="sgd", epochs=2, batch_size=9, first_epoch=5)
    np.testing.assert_allclose(t.coef, want.coef, rtol=1e-9)
    assert t.bytes() != calls.train(q, epochs=2, batch_size=9).bytes()


def test_given_moments_are_used():
    """Moments of a training given back to it are the same training; those of its saved state are these moments."""
    q = calls.problem(115, n=120, p=4, m=10)
    X = q.X.copy()
    X[:, 2] = 3.5
    q = calls.replace(q, X=X)
    t = calls.trainer(q, standardize=True, solver="adam")
    state = t.get_state()
    n_splits = q.splits.n_splits
    mean, scale = np.zeros((n_splits, 4)), np.ones((n_splits, 4))
    mean[q.split_of_model], scale[q.split_of_model] = state["mean"], state["scale"]
    assert (state["scale"][:, 2] == -1).all()
    t.advance()
    again = calls.train(q, standardize=True, solver="adam", moments=(mean, scale))
    same(again.bytes(), calls.read(t).bytes())
    twice = calls.train(q, standardize=True, solver="adam", moments=(mean, np.where(scale > 0, 2 * scale, scale)))
    assert twice.bytes() != again.bytes()


# ---- saved and continued -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 5])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("stops", [[0], [1], [10], [3, 5, 12], [20, 4], [30]], ids=str)
def test_a_saved_training_goes_on_with_the_same_bits(each_level, solver, n_threads, stops):
    q = calls.problem(121, n=200, p=6, m=40)
    q = calls.replace(q, learning_rate=np.where(np.arange(40) == 7, 1e200, q.learning_rate))
    options = dict(solver=solver, standardize=True, epochs=3, batch_size=20, n_threads=n_threads, track_train_loss=True)
    whole = calls.trainer(q, **options)
    parts = calls.trainer(q, **options)
    rng = np.random.default_rng(1)
    for steps in stops:
        leave, factor = rng.random(40) < 0.2, rng.choice([0.5, 1.0], 40)
        for t in (whole, parts):
            t.advance(max_steps=steps)
            t.finish(leave)
            t.scale_learning_rate(factor)
        state = {k: v.copy() for k, v in parts.get_state().items()}
        saved = calls.read(parts)
        parts = calls.trainer(q, state=state, **options)
        same(calls.read(parts).bytes(), saved.bytes(), "before the first step")
        for array in state.values():  # copied when given
            array[:] = 1
    assert whole.advance() == parts.advance() == "done"
    same([bytes_of(parts, k) for k in range(40)], [bytes_of(whole, k) for k in range(40)])


def test_state_without_a_position_begins_the_epochs_anew():
    """As for more rows later: the optimiser goes on, the epochs are those of the new data."""
    q = calls.problem(122, n=100, p=4, m=1, kind="holdout")
    options = dict(solver="adam", standardize=True, batch_size=16)
    t = calls.trainer(q, epochs=2, **options)
    t.advance()
    state = {k: v for k, v in t.get_state().items() if k not in ("position", "history")}
    u = calls.trainer(q, epochs=1, first_epoch=2, state=state, **options)
    assert u.epochs_done == 0 and u.steps() == t.steps()
    assert u.advance() == "done" and u.epochs_done == 1
    three = calls.trainer(calls.replace(q, schedule=["constant"]), epochs=3, **options)
    if q.schedule == ["constant"]:
        three.advance()
        assert u.coef().tobytes() == three.coef().tobytes()
    assert u.steps() > t.steps()


def test_state_arrays_are_copies():
    q = calls.problem(123, n=100, p=4, m=6)
    t, u = calls.trainer(q), calls.trainer(q)
    t.advance(max_steps=1), u.advance(max_steps=1)
    for array in t.get_state().values():
        array[:] = 0
    assert t.advance() == u.advance() == "done"
    same(calls.read(t).bytes(), calls.read(u).bytes())


def test_an_interrupted_training_has_state_but_no_position():
    q = calls.problem(124, n=20_000, p=20, m=60, dtype=np.float32, weights="ones")
    one = q.X[:1].copy(), q.y[:1].copy(), None  # hardly any scoring: the interrupt should come in mid-epoch
    for attempt in range(20):
        t = calls.trainer(q, epochs=100_000, n_threads=2, validation=one)
        t.advance(max_steps=1)
        worker = threading.Thread(target=t.advance)
        worker.start()
        time.sleep(0.05 * (attempt + 1))
        t.cancel()
        worker.join(timeout=60)
        state = t.get_state()
        assert state["W"].tobytes() == t.coef().tobytes() and t.steps().min() > 0
        if "position" not in state:
            break
        assert (t.steps() == state["position"]).all()  # between two epochs
    assert "position" not in state and "history" not in state


# ---- misuse --------------------------------------------------------------------------------------------------------------


def test_nothing_changes_a_trainer_while_it_advances():
    q = calls.problem(131, n=20_000, p=20, m=60, dtype=np.float32)
    t = calls.trainer(q, epochs=100_000, track_train_loss=True)
    worker = threading.Thread(target=t.advance)
    worker.start()
    time.sleep(0.1)
    try:
        mask = np.ones(60, bool)
        for call in (
            lambda: t.finish(mask), lambda: t.snapshot(mask), lambda: t.restore(mask), lambda: t.scale_learning_rate(np.ones(60)),
            t.train_loss, t.get_state, t.alive, t.coef, t.advance,
        ):
            with pytest.raises(RuntimeError, match="running"):
                call()
    finally:
        t.cancel()
        worker.join(timeout=30)


@pytest.mark.parametrize("call", ["finish", "snapshot", "restore"])
@pytest.mark.parametrize(
    ("mask", "error"),
    [(np.ones(3, bool), ValueError), (np.ones((4, 1), bool), ValueError), (np.ones(4), TypeError), ([True] * 4, TypeError),
     (None, TypeError), (np.ones(8, bool)[::2], ValueError)],
)
def test_wrong_masks(call, mask, error):
    t = calls.trainer(calls.problem(132, n=50, p=2, m=4))
    with pytest.raises(error, match="^mask: got"):
        getattr(t, call)(mask)


@pytest.mark.parametrize(
    ("factor", "error"),
    [(np.ones(3), ValueError), (np.ones(4, np.float32), TypeError), (np.array([1, 1, 0.0, 1]), ValueError),
     (np.array([1, 1, np.nan, 1]), ValueError), (np.array([1, 1, np.inf, 1]), ValueError), (2.0, TypeError)],
)
def test_wrong_factors(factor, error):
    with pytest.raises(error, match="^factor: got"):
        calls.trainer(calls.problem(133, n=50, p=2, m=4)).scale_learning_rate(factor)


def test_wrong_validation_data():
    q = calls.problem(134, n=50, p=2, m=4)
    X, y, w = np.ones((6, 2)), np.ones(6), np.ones(6)
    bad = np.array([1, 2, np.nan, 1, 1, 1.0])
    for validation, error, match in (
        ((X[:0], y[:0], None), ValueError, r"validation\[0\]: got no row"),
        ((np.ones((6, 3)), y, None), ValueError, r"validation\[0\]: got shape"),
        ((X * bad[:, None], y, None), ValueError, r"validation\[0\]: got a value that is NaN"),
        ((X, bad, None), ValueError, r"validation\[1\]: got a value that is NaN"),
        ((X, y, bad), ValueError, r"validation\[2\]: got a value that is NaN"),
        ((X, y, -w), ValueError, r"validation\[2\]: got a negative weight"),
        ((X, y[:5], None), ValueError, r"validation\[1\]: got shape"),
        ((X.astype(np.float32), y, None), TypeError, r"validation\[0\]: got an array of float32"),
        ((X, y), TypeError, "validation: got"),
        (X, TypeError, "validation: got"),
    ):
        with pytest.raises(error, match=match):
            calls.trainer(q, validation=validation)
    with pytest.raises(ValueError, match="held_out_weight"):
        calls.trainer(q, validation=(X, y, None), held_out_weight=np.ones(50))


def test_wrong_epochs_moments_and_weights():
    q = calls.problem(135, n=50, p=2, m=4)
    k = q.splits.n_splits
    mean, scale = np.zeros((k, 2)), np.ones((k, 2))
    nan = np.full((k, 2), np.nan)
    for control, error, match in (
        ({"first_epoch": -1}, ValueError, "first_epoch: got -1"),
        ({"first_epoch": 2**32 - 1}, ValueError, "first_epoch: got"),
        ({"held_out_weight": np.ones(49)}, ValueError, "held_out_weight: got shape"),
        ({"held_out_weight": np.ones(50, np.float32)}, TypeError, "held_out_weight: got"),
        ({"moments": (mean, scale)}, ValueError, "moments: got moments without standardize"),
        ({"moments": (mean, scale, scale), "standardize": True}, TypeError, "moments: got"),
        ({"moments": (mean[:1], scale), "standardize": True}, ValueError, r"moments\[0\]: got shape"),
        ({"moments": (nan, scale), "standardize": True}, ValueError, r"moments\[0\]: got a value that is not finite"),
        ({"moments": (mean, 0 * scale), "standardize": True}, ValueError, r"moments\[1\]: got 0"),
        ({"moments": (mean, nan), "standardize": True}, ValueError, r"moments\[1\]: got nan"),
    ):
        with pytest.raises(error, match=match):
            calls.trainer(q, **control)


def test_wrong_states():
    q = calls.problem(136, n=50, p=2, m=6)
    t = calls.trainer(q, standardize=True)
    t.advance(max_steps=1)
    good = t.get_state()
    calls.trainer(q, standardize=True, state=good)
    two = int(np.flatnonzero(q.split_of_model == q.split_of_model[0])[-1])
    other = good["mean"].copy()
    other[two] += 1
    for change, error, match in (
        ({"W": None}, ValueError, "state: got no 'W'"),
        ({"W": good["W"][:, :1].copy()}, ValueError, r"state\['W'\]: got shape"),
        ({"W": good["W"].astype(np.float32)}, TypeError, r"state\['W'\]: got an array of float32"),
        ({"W": good["W"] * np.nan}, ValueError, r"state\['W'\]: got a value that is NaN"),
        ({"updates": good["updates"] * np.inf}, ValueError, r"state\['updates'\]: got"),
        ({"scale": good["scale"] * 0}, ValueError, r"state\['scale'\]: got 0"),
        ({"mean": other}, ValueError if two else None, "state: got other moments"),
        ({"position": np.arange(6)}, ValueError, r"state\['position'\]: got"),
        ({"position": np.full(6, 10**6)}, ValueError, "state: got position 1000000"),
        ({"history": np.zeros((6, 3))}, ValueError, "state: got a history of 3 epochs"),
        ({"finished": np.zeros(5, bool)}, ValueError, r"state\['finished'\]: got shape"),
        ({"first": good["W"]}, ValueError, "state: got an unknown 'first'"),
    ):
        if error is None:
            continue
        state = {k: v for k, v in (good | change).items() if v is not None}
        with pytest.raises(error, match=match):
            calls.trainer(q, standardize=True, state=state)
    with pytest.raises(TypeError, match="state: got list"):
        calls.trainer(q, state=[1])
    with pytest.raises(ValueError, match="moments: got moments beside state"):
        k = q.splits.n_splits
        calls.trainer(q, standardize=True, state=good, moments=(np.zeros((k, 2)), np.ones((k, 2))))
