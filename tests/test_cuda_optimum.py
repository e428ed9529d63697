"""The solvers of the optimum with their passes on the device: the simulator's tests, and larger problems where there is a GPU."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optima
import simulator
from gradfold import _optimum_check
from simulator import on_gpu
from test_optimum import drawn
from test_promises import POISONS, assert_same, poison, same_split

ON_GPU = [loss for loss in _optimum_check.SMOOTH if loss != "multinomial"]  # `fit` refuses it there


def test_same_bits_in_the_simulator():
    pytest.importorskip("gradfold.cuda._driver", exc_type=ImportError)
    simulator.run("test_sim_optimum.py")


@on_gpu
@settings(max_examples=60)
@given(st.data())
def test_same_bits_as_the_cpu(data):
    q, solver, how = drawn(data, large=data.draw(st.booleans(), label="large"), among=ON_GPU)
    assert_same(optima.solve(q, solver, device="cuda", **how).bytes(), optima.solve(q, solver, **how).bytes())


@on_gpu
@settings(max_examples=40)
@given(st.data())
def test_no_leak(data):
    q, solver, how = drawn(data, among=ON_GPU)
    model = data.draw(st.integers(0, q.n_models - 1), label="model")
    how_bad = data.draw(st.sampled_from(sorted(POISONS)), label="poison")
    clean, got = (optima.solve(p, solver, device="cuda", **how) for p in (q, poison(q, model, how_bad, seed=3)))
    for k in same_split(q, model):
        assert_same([got.weights_of(k)], [clean.weights_of(k)])
