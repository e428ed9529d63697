"""Shared by all tests: every instruction level as a parameter, and hypothesis without a stopwatch."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, Phase, settings

# Example sizes vary a thousandfold by design, so a deadline would only measure the machine. Examples are drawn from a
# fixed seed: a red test is red again.
settings.register_profile(
    "gradfold",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(  # for those who only want to know whether a test is red (scripts/break_promises.py)
    "gradfold-unshrunk", parent=settings.get_profile("gradfold"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("gradfold")

# A shell that starts the tests in the background has them ignore SIGINT, and so would every program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc):
    """A test that takes ``each_level`` runs once on every level of this machine, with that level forced."""
    if "each_level" in metafunc.fixturenames:
        from gradfold import _core

        metafunc.parametrize("each_level", _core.levels.supported(), indirect=True)


@pytest.fixture
def each_level(request):
    """The name of the level that is forced while the test runs."""
    from gradfold import _core

    _core.levels._force(request.param)
    yield request.param
    _core.levels._force("")


@pytest.fixture(autouse=True)
def no_level_left_forced():
    """A test that forgets to undo a forced level fails, and not the one after it."""
    yield
    import sys

    core = sys.modules.get("gradfold._core")
    if core is not None:
        forced = core.levels.current()
        core.levels._force("")
        assert core.levels.current() == forced, "the test left a level forced"
