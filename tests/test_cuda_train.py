"""The trainer on the device: which path it takes here, its bits in the simulator, and larger problems where there is a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calls
import simulator
import test_promises
from simulator import on_gpu


@pytest.fixture
def plan():
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    from gradfold.cuda.train import plan

    return plan


def test_same_bits_in_the_simulator():
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    simulator.run("test_sim_train.py")


def test_late_threads_in_the_simulator():
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    simulator.run("test_sim_late.py")


def test_chunks_in_the_simulator():
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    simulator.run("test_sim_chunks.py")


# -- which path --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_models_in_small_batches_are_persistent(plan, dtype):
    """Launches would cost more than such a batch; and there is a panel for every multiprocessor."""
    for n_models, n_features, batch in ((5000, 100, 64), (10_000, 30, 256), (2000, 500, 32), (64, 20, 16)):
        path = plan(dtype, n_models, n_features, batch, 132)
        assert path.persistent and path.reason.startswith("persistent epochs: "), path


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_few_models_in_huge_batches_are_tiled(plan, dtype):
    """One panel on one multiprocessor would leave the others idle."""
    for n_models, n_features, batch in ((1, 1000, 100_000), (40, 500, 50_000), (100, 4000, 1_000_000)):
        path = plan(dtype, n_models, n_features, batch, 132)
        assert not path.persistent and path.reason.startswith("tiled epochs: "), path


@settings(max_examples=200)
@given(
    dtype=st.sampled_from(["float32", "float64"]), n_models=st.integers(1, 10**6), n_features=st.integers(1, 10**5),
    batch=st.integers(1, 10**7), multiprocessors=st.integers(1, 200), force=st.sampled_from([None, "persistent", "tiled"]),
)  # fmt: skip
def test_the_rule(dtype, n_models, n_features, batch, multiprocessors, force):
    """It is a function of its arguments; `force` decides the path, not the tiles; every model has a lane."""
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    from gradfold.cuda.tiles import SHAPES
    from gradfold.cuda.train import plan

    path = plan(dtype, n_models, n_features, batch, multiprocessors, force)
    assert path == plan(dtype, n_models, n_features, batch, multiprocessors, force)
    assert path.shape is SHAPES[dtype][path.name]
    assert path.n_panels == -(-n_models // path.shape.models)
    if force is None:
        same = plan(dtype, n_models, n_features, batch, multiprocessors, "persistent" if path.persistent else "tiled")
        assert same.shape is path.shape and same.reason == path.reason + " (forced)"
    else:
        assert path.persistent == (force == "persistent") and path.reason.endswith(" (forced)")
    # Tiles that are not for whole epochs have no registers set aside for them.
    assert not path.persistent or path.shape.epoch_blocks > 0


# -- on a GPU ----------------------------------------------------------------------------------------------------------

PATHS = st.sampled_from(["persistent", "tiled", None])


@st.composite
def trainings(draw):
    """A problem of the promises with options of both kernels' trainers, and hyper-parameters of each model's own."""
    q = draw(test_promises.problems())
    options = draw(test_promises.train_options(q))
    rng = np.random.default_rng(draw(st.integers(0, 99), label="hyper"))
    m = q.n_models
    hyper = {
        "none": {},
        "clip": {"clip_norm": rng.uniform(0.01, 0.5, m), "clip_value": rng.uniform(0.01, 0.3, m)},
        "momenta": {"momentum": rng.uniform(0.3, 0.95, m), "beta1": rng.uniform(0.5, 0.95, m), "warmup": rng.uniform(0, 2, m)},
    }[draw(st.sampled_from(["none", "clip", "momenta"]), label="kind of hyper")]
    options |= {
        "solver": draw(st.sampled_from(["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"]), label="solver"),
        "track_train_loss": draw(st.booleans(), label="track"),
    }
    if options["batch_size"] <= 3:
        options["epochs"] = 1
    schedule = [sorted(calls.SCHEDULES)[k] for k in rng.integers(0, len(calls.SCHEDULES), m)]
    return calls.replace(q, hyper=hyper, schedule=schedule, l2=np.maximum(q.l2, 1e-5)), options


@on_gpu
@settings(max_examples=60)
@given(trainings(), PATHS)
def test_same_bits_as_the_cpu(training, path):
    import on_device

    q, options = training
    found, wanted = on_device.trainer(q, path=path, **options), calls.trainer(q, **options)
    assert (found.advance(), wanted.advance()) == ("done", "done")
    on_device.assert_same_trainers(found, wanted, options["track_train_loss"])


@on_gpu
@settings(max_examples=25)
@given(trainings(), PATHS, st.integers(1, 40))
def test_saved_state_goes_on_on_either_side(training, path, steps):
    import on_device

    q, options = training
    whole = calls.trainer(q, **options)
    whole.advance()
    begun = [on_device.trainer(q, path=path, **options), calls.trainer(q, **options)]
    for t in begun:
        t.advance(max_steps=steps)
    ended = [calls.trainer(q, state=begun[0].get_state(), **options)]
    ended += [on_device.trainer(q, path=path, state=begun[1].get_state(), **options)]
    for t in ended:
        assert t.advance() == "done"
        on_device.assert_same_trainers(t, whole, options["track_train_loss"])


@on_gpu
@settings(max_examples=25)
@given(st.data())
def test_no_leak(data):
    import on_device

    q = data.draw(test_promises.problems())
    options = data.draw(test_promises.train_options(q)) | {"path": data.draw(PATHS, label="path")}
    model = data.draw(st.integers(0, q.n_models - 1), label="model")
    how = data.draw(st.sampled_from(sorted(test_promises.POISONS)), label="poison")
    clean, poisoned = (on_device.trainer(p, **options) for p in (q, test_promises.poison(q, model, how, seed=1)))
    for t in (clean, poisoned):
        assert t.advance() == "done"
    for k in test_promises.same_split(q, model):
        assert calls.read(poisoned).weights_of(k) == calls.read(clean).weights_of(k)


@on_gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("path", ["persistent", "tiled"])
def test_thousands_of_models_that_leave(path, dtype):
    """Solo = batched while panels are laid out anew."""
    import on_device

    q = calls.problem(3, n=3000, p=40, m=2000, dtype=dtype, kind="repeated_kfold")
    options = dict(solver="adam", epochs=4, batch_size=128, standardize=True)
    pair = on_device.trainer(q, path=path, **options), calls.trainer(q, n_threads=2, **options)
    order = np.random.default_rng(2).permutation(2000)
    for left, steps in ((900, 30), (1900, 20)):
        for t in pair:
            assert t.advance(max_steps=steps) == "paused"
            t.finish(np.isin(np.arange(2000), order[:left]))
    for t in pair:
        assert t.advance() == "done"
    on_device.assert_same_trainers(*pair)
    alone = on_device.trainer(q.of_models(order[-1:]), path=path, **options)
    alone.advance()
    assert calls.read(alone).bytes() == [calls.read(pair[0]).of(order[-1])]
