"""The stage `loops` of the gate: which results come of which loops."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradfold.perfgate import objects
from gradfold.perfgate.config import ConfigError, Loops, Side
from gradfold.perfgate.loops import Loop

SETTINGS = Loops(("{build}/*.o",))
LEAN = Loop(20, 10, 4, 0, 0, 0, 640)


def found(base, head):
    return {result.name: result for result in objects.compare(SETTINGS, base, head)}


def test_states():
    base = {"a.o::f(int)#0": LEAN, "a.o::f(int)#1": LEAN, "a.o::gone()#0": LEAN, "a.o::g()#0": LEAN}
    head = {"a.o::f(int)#0": LEAN, "a.o::f(int)#1": LEAN, "a.o::came()#0": LEAN, "a.o::g()#0": Loop(22, 10, 4, 0, 2, 0, 640)}
    results = found(base, head)
    assert {name.removeprefix("a.o::"): r.state for name, r in results.items()} == {
        "f(int)": "same", "gone()": "did not run", "came()": "new", "g()": "slower",
    }  # fmt: skip
    assert results["a.o::g()"].ratio == pytest.approx(1.1)
    assert "instructions" in results["a.o::g()"].what and "spills" in results["a.o::g()"].what
    assert "a.o::" not in results["a.o::g()"].what


def test_a_new_spill_alone_is_slower():
    assert found({"a.o::f#0": LEAN}, {"a.o::f#0": Loop(20, 10, 4, 0, 1, 0, 640)})["a.o::f"].state == "slower"


def test_functions_that_were_renamed_are_not_taken_for_compared():
    results = objects.compare(Loops(("*.o",), minimum=1), {"a.o::f#0": LEAN}, {"a.o::g#0": Loop(90, 10, 4, 0, 0, 0, 640)})
    assert {r.name: r.state for r in results} == {"a.o::f": "did not run", "a.o::g": "new", "minimum": "did not run"}


def test_fewer_than_expected():
    results = objects.compare(Loops(("*.o",), minimum=2), {"a.o::f#0": LEAN}, {"a.o::f#0": LEAN})
    assert [r.state for r in results] == ["same", "did not run"]


def test_objects_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="loops. of head: .*matches none"):
        objects.measure(SETTINGS, Side("head", {"build": "nowhere"}), Path(tmp_path))
