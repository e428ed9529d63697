"""The batched loss and gradient on the device: the simulator's tests, and larger problems where there is a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calls
import simulator
import test_promises
from simulator import on_gpu


def test_same_bits_in_the_simulator():
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    simulator.run("test_sim_gradient.py")


def test_what_a_call_asks_of_the_host():
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    simulator.run("test_sim_host.py")


@on_gpu
@settings(max_examples=60)
@given(st.data())
def test_same_bits_as_the_cpu(data):
    """The problems of the promises: every kind of split, data that diverge and underflow, one panel and several."""
    import on_device

    q = data.draw(test_promises.problems(large=data.draw(st.booleans(), label="large")))
    on_device.assert_same_gradient(q, **data.draw(test_promises.gradient_options(q)))


@on_gpu
@settings(max_examples=40)
@given(st.data())
def test_no_leak(data):
    import on_device

    q = data.draw(test_promises.problems())
    options = data.draw(test_promises.gradient_options(q))
    model = data.draw(st.integers(0, q.n_models - 1), label="model")
    how = data.draw(st.sampled_from(sorted(test_promises.POISONS)), label="poison")
    clean = on_device.of_models(on_device.loss_gradient(q, **options))
    found = on_device.assert_same_gradient(test_promises.poison(q, model, how, seed=1), **options)
    for k in test_promises.same_split(q, model):
        assert found[k] == clean[k]


@on_gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [1000, 1001])
def test_many_models_in_windows(dtype, p, monkeypatch):
    """Rows of X that begin at multiples of 16 bytes, and that do not; windows of a few chunks and panels."""
    import on_device
    from gradfold.cuda import gradient

    q = calls.problem(1, n=5000, p=p, m=150, dtype=dtype, kind="repeated_kfold")
    whole = on_device.assert_same_gradient(q)
    monkeypatch.setitem(gradient.Window.of.__func__.__kwdefaults__, "budget", 3 << 20)
    gradient.release()
    assert on_device.of_models(on_device.loss_gradient(q)) == whole
    gradient.release()
    assert on_device.of_models(on_device.loss_gradient(q.of_models([149]))) == [whole[149]]
