"""scikit-learn's parameters as gradfold's, without training anything."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("sklearn")

from sklearn import linear_model

from gradfold import sklearn as edge
from gradfold.sklearn import _translate


def spec(n_rows=100, kind=edge.SGDClassifier, **params):
    return _translate.spec(kind(**params).get_params(), n_rows)


@pytest.mark.parametrize(
    "penalty, l1, l2",
    [("l2", 0.0, 0.02), ("l1", 0.02, 0.0), ("elasticnet", 0.005, 0.015), (None, 0.0, 0.0)],
)
def test_penalties(penalty, l1, l2):
    got = spec(penalty=penalty, alpha=0.02, l1_ratio=0.25)
    assert (got.l1, got.l2) == pytest.approx((l1, l2), abs=1e-18)


def test_adamw_takes_the_l2_penalty_as_its_weight_decay():
    got = spec(solver="adamw", alpha=0.02, learning_rate="constant", eta0=0.1)
    assert got.l2 == 0 and got.hyper["weight_decay"] == 0.02


@pytest.mark.parametrize("penalty", ["l2", "l1", None])
def test_optimal_is_scikit_learns_whatever_the_penalty(penalty):
    alpha = 0.003
    got = spec(penalty=penalty, alpha=alpha, learning_rate="optimal")
    typical = math.sqrt(1 / math.sqrt(alpha))
    for t in (0, 1, 1000):
        rate = got.learning_rate / (t + got.hyper["t0"]) ** got.hyper["power_t"]
        assert rate == pytest.approx(1 / (alpha * (1 / (typical * alpha) + t)), rel=1e-14)
    assert got.schedule == "inverse_scaling"


def test_schedules_with_eta0():
    scaling = spec(learning_rate="invscaling", eta0=0.3, power_t=0.2)
    assert (scaling.schedule, scaling.learning_rate, scaling.hyper["power_t"]) == ("inverse_scaling", 0.3, 0.2)
    assert "t0" not in scaling.hyper
    constant, adaptive = (spec(learning_rate=rule, eta0=0.3) for rule in ("constant", "adaptive"))
    assert constant.schedule == adaptive.schedule == "constant"
    assert adaptive.adaptive and not constant.adaptive


@pytest.mark.parametrize("n_rows, size", [(1, 1), (1999, 1), (2000, 2), (50_000, 50), (256_000, 256), (10**7, 256)])
def test_automatic_batch_size(n_rows, size):
    assert spec(n_rows).shared["batch_size"] == size


@pytest.mark.parametrize("average, size, first", [(True, 10, 1), (25, 10, 3), (25, 1, 25)])
def test_average_counts_updates(average, size, first):
    assert spec(average=average, batch_size=size).hyper["average"] == first


@pytest.mark.parametrize(
    "params, message",
    [
        ({"learning_rate": "pa1"}, "learning_rate: got 'pa1'"),
        ({"learning_rate": "optimal", "alpha": 0.0}, "alpha: got 0"),
        ({"learning_rate": "optimal", "solver": "adam"}, "learning_rate: got 'optimal' with solver='adam'"),
        ({"penalty": "elasticnet", "l1_ratio": None}, "l1_ratio: got None"),
        ({"learning_rate": "invscaling", "eta0": 0.1, "power_t": -0.5}, "power_t: got -0.5"),
        ({"learning_rate": "constant", "eta0": 0.0}, "eta0: got 0.0"),
    ],
)
def test_what_makes_no_sense(params, message):
    with pytest.raises(ValueError, match=message):
        spec(**params)


@pytest.mark.parametrize(
    "own, theirs",
    [
        (edge.SGDClassifier, linear_model.SGDClassifier),
        (edge.SGDRegressor, linear_model.SGDRegressor),
    ],
)
def test_every_parameter_of_scikit_learn_with_its_default(own, theirs):
    mine, wanted = own().get_params(), theirs().get_params()
    assert mine.pop("batch_size") == "auto" and mine.pop("solver") == "sgd"
    assert mine == wanted
    assert issubclass(own, theirs)


def test_searches_have_scikit_learns_parameters():
    import inspect

    from sklearn import model_selection

    for name in ("GridSearchCV", "RandomizedSearchCV"):
        mine = inspect.signature(getattr(edge, name)).parameters
        theirs = inspect.signature(getattr(model_selection, name)).parameters
        assert list(mine) == list(theirs)
        assert [str(p.default) for p in mine.values()] == [str(p.default) for p in theirs.values()]


def test_import_gradfold_does_not_import_scikit_learn():
    import subprocess
    import sys

    code = "import sys, gradfold, gradfold.train; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
