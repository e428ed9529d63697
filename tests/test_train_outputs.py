"""Trainings of models with several outputs: the multinomial loss against the reference, and its promises in bytes.

More of the promises, sampled, is in test_promises.py.
"""

from __future__ import annotations

import numpy as np
import pytest

import calls
import splits
from gradfold import _core
from reference import train as reference
from reference import update
from reference.roles import TRAIN

DTYPES = [np.float32, np.float64]
LEVELS = _core.levels.supported()


def problem(seed, *, n_classes, **shape):
    return calls.problem(seed, loss="multinomial", n_classes=n_classes, **shape)


def expected(q, *, solver="sgd", epochs=2, batch_size=64, shuffle=True, seed=7, fit_intercept=True, standardize=False,
             warm=False, n_threads=1, validation=None):
    from gradfold.index import Permutation

    return reference.train(
        q.X, q.y, roles=q.model_roles(), sample_weight=q.sample_weight, loss=q.loss, solver=solver, l1=q.l1, l2=q.l2,
        learning_rate=q.learning_rate, schedule=q.schedule, epochs=epochs, batch_size=batch_size, hyper=q.hyper,
        order=(lambda epoch: Permutation(len(q.X), seed, epoch=epoch)[:]) if shuffle else None,
        fit_intercept=fit_intercept, standardize=standardize, coef_init=q.W.T if warm else None,
        intercept_init=q.intercept.T if warm else None, n_outputs=q.W.shape[1], validation=validation,
    )


def check(q, rtol=1e-9, **options):
    t = calls.trainer(q, track_train_loss=True, **options)
    train_losses = []
    while t.advance(max_steps=t.steps_per_epoch) == "paused":
        train_losses.append(t.train_loss())
    train_losses.append(t.train_loss())
    got, want = calls.read(t), expected(q, **options)
    assert got.coef.shape == (q.n_models, q.W.shape[1], q.X.shape[1]) and got.intercept.shape == got.coef.shape[:2]
    np.testing.assert_array_equal(got.steps, want.steps)
    np.testing.assert_array_equal(got.diverged_epoch, want.diverged_epoch)
    np.testing.assert_array_equal(got.diverged_batch, want.diverged_batch)
    size = np.maximum(np.abs(want.coef).max(axis=(1, 2)), np.abs(want.intercept).max(axis=1))
    size = np.maximum(size, 1.0 if options.get("solver") in ("adam", "adamw") else 1e-3)
    assert (np.abs(got.coef - want.coef) <= rtol * size[:, None, None]).all(), np.abs(got.coef - want.coef).max()
    assert (np.abs(got.intercept - want.intercept) <= rtol * size[:, None]).all()
    np.testing.assert_allclose(got.history, want.history, rtol=10 * rtol, atol=rtol)
    np.testing.assert_allclose(np.array(train_losses), want.train_loss, rtol=10 * rtol, atol=rtol)
    return got


# ---- against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("solver", update.SOLVERS)
@pytest.mark.parametrize(("n_classes", "m"), [(2, 3), (3, 20), (10, 7)])
def test_against_the_reference(solver, n_classes, m, standardize):
    q = problem(n_classes + m, n=150, p=6, m=m, n_classes=n_classes)
    check(q, solver=solver, standardize=standardize, epochs=3, batch_size=32, warm=standardize)


@pytest.mark.parametrize("kind", splits.KINDS)
@pytest.mark.parametrize("batch_size", [1, 17, 1000])
def test_every_kind_of_split(each_level, kind, batch_size):
    q = problem(31, n=60, p=4, m=6, n_classes=3, kind=kind)
    check(q, epochs=2, batch_size=batch_size, fit_intercept=batch_size != 17)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_classes", "m", "p"), [(3, 70, 5), (10, 30, 3), (40, 5, 4), (100, 2, 20), (1000, 1, 2)])
def test_panels_of_every_form(each_level, n_classes, m, p, dtype):
    """Models that share vectors, models of many blocks, and one whose blocks are a panel alone."""
    q = problem(41, n=80, p=p, m=m, n_classes=n_classes, dtype=dtype)
    check(q, 1e-9 if dtype == np.float64 else 1e-4, solver="sgd", epochs=1, batch_size=30)


@pytest.mark.parametrize("batch_size", [1500, 2200])
def test_batches_of_several_chunks(batch_size):
    q = problem(51, n=2200, p=5, m=9, n_classes=4)
    for n_threads in (1, 2):
        check(q, solver="adam", standardize=True, epochs=2, batch_size=batch_size, n_threads=n_threads)


def test_clipping_by_norm_is_of_all_outputs_together():
    """One sgd step of rate 1 from 0 is the clipped gradient: joint norm clip_norm, direction as without clipping."""
    q = problem(61, n=90, p=5, m=20, n_classes=6, kind="holdout")
    m = q.n_models
    still = dict(l1=np.zeros(m), l2=np.zeros(m), learning_rate=np.ones(m), schedule=["constant"] * m)
    free = calls.train(calls.replace(q, **still), epochs=1, batch_size=90)
    limits = np.where(np.arange(m) % 3 == 0, np.inf, np.linspace(0.01, 0.3, m))
    clipped = calls.train(calls.replace(q, **still, hyper={"clip_norm": limits}), epochs=1, batch_size=90)
    step = np.concatenate([free.coef, free.intercept[:, :, None]], axis=2)
    norm = np.linalg.norm(step, axis=(1, 2))
    assert (norm > limits).sum() > 5
    factor = np.minimum(1, limits / norm)[:, None, None]
    got = np.concatenate([clipped.coef, clipped.intercept[:, :, None]], axis=2)
    np.testing.assert_allclose(got, factor * step, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_everything_at_once(solver):
    """Clipping, averages, decay, schedules and warm-up, all per model."""
    q = problem(62, n=90, p=6, m=12, n_classes=5)
    rng = np.random.default_rng(3)
    q = calls.replace(
        q, schedule=[str(s) for s in rng.choice(update.SCHEDULES, 12)], l2=10 ** rng.uniform(-3, -1, 12),
        hyper={
            "clip_norm": np.where(rng.random(12) < 0.5, 10 ** rng.uniform(-2, -0.5, 12), np.inf),
            "clip_value": np.where(rng.random(12) < 0.5, 10 ** rng.uniform(-2, -0.5, 12), np.inf),
            "average": rng.choice([0.0, 1.0, 3.0], 12), "warmup": rng.choice([0.0, 1.5], 12),
        },
    )
    check(q, solver=solver, epochs=3, batch_size=20, standardize=True)


def test_validation_data():
    q = problem(63, n=90, p=4, m=7, n_classes=3)
    rng = np.random.default_rng(1)
    other = rng.standard_normal((1100, 4)), rng.integers(0, 3, 1100).astype(float), rng.random(1100)
    check(q, solver="adam", validation=other)


def test_two_classes_from_zero_are_the_log_loss():
    """From 0 the two rows of softmax weights stay opposite, so that their difference learns as log_loss does at twice the rate."""
    q = calls.problem(64, n=200, p=5, m=8)
    q = calls.replace(q, l1=np.zeros(8), l2=np.zeros(8))
    both = calls.replace(
        q, loss="multinomial", W=np.zeros((5, 2, 8)), intercept=np.zeros((2, 8)), learning_rate=q.learning_rate / 2
    )
    one, two = calls.train(q), calls.train(both)
    np.testing.assert_allclose(two.coef[:, 1] - two.coef[:, 0], one.coef, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(two.history, one.history, rtol=1e-9)


# ---- divergence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_outputs_of_a_model_diverge_together(each_level, solver, dtype):
    """A weight of one class overflows: all of its model stay at the last finite step, and no other model notices."""
    q = problem(71, n=120, p=4, m=9, n_classes=10, dtype=dtype, weights="none", kind="holdout")
    rates = np.where(np.arange(9) % 4 == 1, 0.3 * float(np.finfo(dtype).max), 0.05)
    q = calls.replace(q, learning_rate=rates, l1=np.zeros(9), schedule=["constant"] * 9)
    t = calls.train(q, solver=solver, epochs=4, batch_size=30, standardize=solver == "adam")
    lost = t.diverged_epoch >= 0
    assert lost.tolist() == (np.arange(9) % 4 == 1).tolist()
    assert np.isfinite(t.coef).all() and np.isfinite(t.intercept).all() and np.isnan(t.history[-1][lost]).all()
    for k in range(9):
        alone = calls.train(q.of_models([k]), solver=solver, epochs=4, batch_size=30, standardize=solver == "adam")
        assert alone.of(0) == t.of(k)
    # What it kept is what the steps before made: a run of so many steps alone ends there.
    k = int(np.flatnonzero(lost)[0])
    short = calls.trainer(q.of_models([k]), solver=solver, epochs=4, batch_size=30, standardize=solver == "adam")
    short.advance(max_steps=int(t.diverged_epoch[k]) * 4 + int(t.diverged_batch[k]))
    assert short.coef()[0].tobytes() == t.coef[k].tobytes() and short.steps()[0] == t.steps[k]


def test_a_label_that_is_no_class_makes_its_models_diverge():
    """The Python layer checks labels; the trainer itself must stay upright."""
    q = problem(72, n=60, p=3, m=8, n_classes=3, weights="none")
    for code in (-1.0, 3.0, 1e30, np.nan, 0.5):
        y = q.y.copy()
        y[13] = code
        trains = q.model_roles()[:, 13] == TRAIN
        t = calls.train(calls.replace(q, y=y))
        assert ((t.diverged_epoch == 0) == trains).all() and np.isfinite(t.coef).all()


# ---- promises ----------------------------------------------------------------------------------------------------------

PLANS = {
    "panel": (dict(n=300, p=7, m=40, n_classes=3), dict(batch_size=16)),
    "panel of several chunks": (dict(n=2200, p=3, m=20, n_classes=5), dict(batch_size=1500)),
    "many classes": (dict(n=200, p=9, m=3, n_classes=120), dict(batch_size=50)),
    "chunk": (dict(n=4200, p=40, m=20, n_classes=4), dict(batch_size=2100)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("plan", PLANS)
def test_solo_threads_and_levels(plan, dtype):
    shape, options = PLANS[plan]
    q = problem(81, dtype=dtype, **shape)
    options = options | {"solver": "adam", "standardize": True, "epochs": 2}
    want = calls.train(q, n_threads=1, **options)
    for n_threads in (2, 3, 7):
        assert calls.train(q, n_threads=n_threads, **options).bytes() == want.bytes()
    for k in (0, q.n_models // 2, q.n_models - 1):
        assert calls.train(q.told_alone(k), n_threads=2, **options).weights_of(0) == want.weights_of(k)
    order = np.random.default_rng(0).permutation(q.n_models)
    shuffled = calls.train(q.of_models(order), n_threads=2, **options)
    assert [shuffled.of(i) for i in range(q.n_models)] == [want.of(k) for k in order]
    if plan == "chunk":
        return  # the serial level is slow
    for name in LEVELS:
        with calls.level(name):
            assert calls.train(q, n_threads=2, **options).bytes() == want.bytes(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["kfold", "holdout", "nested", "overlapping", "time_series"])
def test_no_leak(each_level, kind, dtype):
    """Poison on every row that a model's split does not train on, labels that are no class included."""
    q = problem(82, n=60, p=5, m=15, n_classes=4, kind=kind, dtype=dtype)
    options = {"solver": "adam", "batch_size": 9, "standardize": True, "epochs": 2}
    clean = calls.train(q, **options)
    for split in np.unique(q.split_of_model)[:3]:
        mine = np.flatnonzero(q.split_of_model == split)
        unused = q.model_roles()[mine[0]] != TRAIN
        for value in (np.nan, np.inf, 1e30, -7.0):
            X, y, weight = q.X.copy(), q.y.copy(), q.sample_weight.copy()
            X[unused], y[unused], weight[unused] = value, value, abs(value)
            dirty = calls.train(calls.replace(q, X=X, y=y, sample_weight=weight), n_threads=2, **options)
            for k in mine:
                assert dirty.weights_of(k) == clean.weights_of(k)


def play(q, slices, events, **options):
    """A training in slices of batches, after each of which some models finish, are remembered and come back."""
    t = calls.trainer(q, track_train_loss=True, **options)
    for steps, (finish, snapshot, restore) in zip(slices, events, strict=True):
        t.advance(max_steps=steps)
        t.snapshot(np.ascontiguousarray(snapshot))
        t.finish(np.ascontiguousarray(finish))
        t.restore(np.ascontiguousarray(restore))
        t.scale_learning_rate(np.full(q.n_models, 0.5))
    while t.advance(max_steps=t.steps_per_epoch) == "paused":
        pass
    state = t.get_state()
    del state["history"], state["position"]
    return [
        (*calls.read(t).weights_of(k), t.train_loss(reset=False)[k].tobytes(), *(v[k].tobytes() for v in state.values()))
        for k in range(q.n_models)
    ]


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("plan", PLANS)
def test_no_bit_depends_on_who_leaves(plan, solver):
    shape, options = PLANS[plan]
    q = problem(83, **shape)
    m = q.n_models
    options = options | {"solver": solver, "epochs": 3, "standardize": True}
    rng = np.random.default_rng(5)
    remembered = rng.random(m) < 0.5
    events = [(rng.random(m) < 0.4, remembered, np.zeros(m, bool)) for _ in range(3)]
    events[-1] = (events[-1][0], np.zeros(m, bool), remembered)
    one = play(q, [1, 2, 1], events, n_threads=1, **options)
    for n_threads in (2, 5):
        assert play(q, [1, 2, 1], events, n_threads=n_threads, **options) == one
    for k in (0, m // 2, m - 1):
        own = [tuple(e[[k]] for e in event) for event in events]
        assert play(q.of_models([k]), [1, 2, 1], own, n_threads=1, **options) == [one[k]]


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_saved_and_continued(solver):
    q = problem(84, n=150, p=4, m=11, n_classes=5)
    options = {"solver": solver, "standardize": True, "epochs": 4, "batch_size": 20}
    want = calls.train(q, **options)
    t = calls.trainer(q, **options)
    t.advance(max_steps=13)
    state = t.get_state()
    assert state["W"].shape == (11, 5 * 4) and state["intercept"].shape == (11, 5)
    again = calls.trainer(q, state=state, n_threads=2, **options)
    assert again.coef().tobytes() == t.coef().tobytes() and again.steps().tolist() == t.steps().tolist()
    assert again.advance() == "done"
    assert calls.read(again).bytes() == want.bytes()


# ---- what does not fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_outputs": 1}, "n_outputs: got 1, wanted 2 to 1000"),
        ({"n_outputs": 1001}, "n_outputs: got 1001"),
        ({"coef_init": np.zeros((4, 3))}, r"coef_init: got shape \(4, 3\), wanted shape \(4, 3, 3\)"),
        ({"intercept_init": np.zeros(4)}, r"intercept_init: got shape \(4,\), wanted shape \(4, 3\)"),
        ({"loss": "log_loss"}, "n_outputs: got 3, wanted 1 for loss 'log_loss'"),
        ({"loss_epsilon": np.full(4, -1.0)}, "loss_epsilon: got -1.0"),
        ({"loss_epsilon": np.ones(3)}, "loss_epsilon: got shape"),
    ],
)
def test_what_does_not_fit(change, message):
    q = problem(91, n=20, p=3, m=4, n_classes=3)
    good = dict(
        X=q.X, y=q.y, sample_weight=None, ids=q.splits.ids, conditions=q.splits.conditions,
        split_of_model=q.split_of_model, loss="multinomial", solver="sgd", l1=q.l1, l2=q.l2,
        learning_rate=q.learning_rate, schedule=np.zeros(4, np.int32), epochs=1, batch_size=4, shuffle=True, seed=1,
        fit_intercept=True, standardize=False, coef_init=None, intercept_init=None, n_threads=1, n_outputs=3,
    )
    assert _core.train.Trainer(**good).advance() == "done"
    with pytest.raises(ValueError, match=message):
        _core.train.Trainer(**(good | change))


# ---- a number for each model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 3, 30])
def test_loss_epsilon_of_each_model_in_a_training(each_level, m):
    """Training and held-out losses under each model's own epsilon, alone as among others."""
    q = calls.problem(95, n=90, p=4, m=m, loss="huber")
    t = calls.train(q, epochs=2, batch_size=20)
    for k in {0, m - 1}:
        assert calls.train(q.of_models([k]), epochs=2, batch_size=20).of(0) == t.of(k)
    other = calls.train(calls.replace(q, loss_epsilon=q.loss_epsilon * 3), epochs=2, batch_size=20)
    assert (other.coef != t.coef).any(axis=1).all() and (other.history != t.history).all()
    want = reference.train(
        q.X, q.y, roles=q.model_roles(), sample_weight=q.sample_weight, loss="huber", l1=q.l1, l2=q.l2,
        learning_rate=q.learning_rate, schedule=q.schedule, epochs=2, batch_size=90, loss_epsilon=q.loss_epsilon,
    )
    got = calls.train(q, epochs=2, batch_size=90)
    np.testing.assert_allclose(got.coef, want.coef, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.history, want.history, rtol=1e-9)
