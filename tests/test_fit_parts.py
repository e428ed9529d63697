"""Candidates that differ in batch_size, solver or loss; starting weights; scaling of rates; choosing by a score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fits
import gradfold as gf
from gradfold import _start
from gradfold.candidates import DEFAULTS


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from([1, 7, 32, 300, 1000]), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(["auto", "sgd", "adam"]), min_size=1, max_size=2, unique=True),
    st.lists(st.sampled_from([1e-4, 0.1]), min_size=1, max_size=2, unique=True),
    st.booleans(),
)
def test_parts_are_as_their_candidates_alone(
    batch_sizes: list[int], solvers: list[str], l2: list[float], standardize: bool
) -> None:
    X, y = fits.labels(120, 3)
    table = gf.grid(batch_size=batch_sizes, solver=solvers, l2=l2)
    keywords: dict[str, Any] = {"folds": 3, "epochs": 3, "standardize": standardize}
    run = gf.fit(X, y, table, **keywords)
    for c, row in enumerate(table):
        alone = gf.fit(X, y, **keywords, **row)
        for s in range(3):
            assert fits.model(alone, 0, s) == fits.model(run, c, s)
            assert fits.history(alone, 0, s) == fits.history(run, c, s)
        if c == run.best_candidate:
            assert fits.refit(alone) == fits.refit(run)
            assert run.solver == alone.solver


def test_threads_and_levels_of_parts(each_level: str) -> None:
    X, y = fits.labels(dtype=np.float32)
    table = gf.grid(batch_size=[16, 100], solver=["sgd", "adam"])
    one, three = (gf.fit(X, y, table, folds=3, epochs=3, n_threads=k) for k in (1, 3))
    assert one.weights_sha256 == three.weights_sha256
    from gradfold import _core

    _core.levels._force("serial")
    assert gf.fit(X, y, table, folds=3, epochs=3).weights_sha256 == one.weights_sha256


def test_default_rates_are_each_solvers_own() -> None:
    X, y = fits.labels()
    run = gf.fit(X, y, gf.grid(solver=["sgd", "adam"]), folds=2, epochs=1)
    assert [row["learning_rate"] for row in run.params] == [0.1, 0.01]
    assert run.learning_rate.tolist() == [[0.1, 0.1], [0.01, 0.01]]


@pytest.mark.parametrize(("rule", "power"), [("linear", 1.0), ("sqrt", 0.5)])
def test_batch_scaling(rule: str, power: float) -> None:
    X, y = fits.labels()
    keywords: dict[str, Any] = {"folds": 3, "epochs": 2, "solver": "sgd"}
    run = gf.fit(X, y, gf.grid(batch_size=[10, 40]), batch_size=20, batch_scaling=rule, learning_rate=0.04, **keywords)
    for c, size in enumerate((10, 40)):
        rate = 0.04 * (size / 20 if power == 1 else math.sqrt(size / 20))
        alone = gf.fit(X, y, batch_size=size, learning_rate=rate, **keywords)
        assert run.learning_rate[c].tolist() == [rate] * 3
        assert all(fits.model(alone, 0, s) == fits.model(run, c, s) for s in range(3))
    assert run.settings["refit_learning_rate"] == run.learning_rate[run.best_candidate, 0]
    with pytest.raises(ValueError, match="batch_scaling: got 'cubic'"):
        gf.fit(X, y, batch_scaling="cubic")


def test_learning_rate_auto_is_each_splits_own() -> None:
    X, y = fits.labels()
    rows = np.arange(300)
    folds = [(rows[:200], rows[200:]), (rows[100:], rows[:100])]
    keywords: dict[str, Any] = {"epochs": 2, "loss": "log_loss", "check_finite": False, "solver": "sgd"}
    run = gf.fit(X, y, folds=folds, learning_rate="auto", **keywords)
    for s in range(2):
        alone = gf.fit(X, y, folds=folds[s : s + 1], learning_rate=float(run.learning_rate[0, s]), refit=False, **keywords)
        assert fits.model(alone, 0, 0) == fits.model(run, 0, s)
    refit = gf.fit(X, y, learning_rate=run.settings["refit_learning_rate"], **keywords)
    assert fits.refit(refit) == fits.refit(run)
    X[200:] = np.nan  # rows that split 0 does not train on
    poisoned = gf.fit(X, y, folds=folds[:1], learning_rate="auto", refit=False, **keywords)
    assert poisoned.learning_rate[0, 0] == run.learning_rate[0, 0]
    assert poisoned.coef[0].tobytes() == run.coef[0].tobytes()
    with pytest.raises(ValueError, match="learning_rate: got 'fast'"):
        gf.fit(X, y, learning_rate="fast")


# -- starts -----------------------------------------------------------------------------------------------------------


def test_normal_draws_are_normal_and_belong_to_their_seed(each_level: str) -> None:
    z = _start.normal(200_001, 7, 1.0)
    stats = pytest.importorskip("scipy.stats")
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 0.01
    assert _start.normal(11, 7, 1.0).tobytes() == z[:11].tobytes()
    assert (_start.normal(50, 8, 1.0) != z[:50]).all()
    np.testing.assert_array_equal(_start.normal(50, 2**64 - 1, 0.5) * 2, _start.normal(50, 2**64 - 1, 1.0))
    from gradfold import _core

    _core.levels._force("serial")
    assert _start.normal(999, 7, 1.0).tobytes() == z[:999].tobytes()


def test_box_muller_is_written_out() -> None:
    """Against the formula with NumPy's functions, from the same words."""
    from gradfold import _core

    words = np.empty((4, 4), np.uint32)
    counters = np.array([[k, 0, 0, 1] for k in range(4)], np.uint32)
    _core.index.philox(counters, np.tile(np.array([5, 0], np.uint32), (4, 1)), words)
    bits = [(int(a) << 32 | int(b)) >> 11 for row in words for a, b in (row[:2], row[2:])]
    wanted = []
    for u, v in zip(bits[::2], bits[1::2], strict=True):
        radius = math.sqrt(-2 * math.log((u + 1) / 2**53))
        wanted += [radius * math.cos(2 * math.pi * v / 2**53), radius * math.sin(2 * math.pi * v / 2**53)]
    np.testing.assert_allclose(_start.normal(8, 5, 3.0), 3 * np.array(wanted), rtol=1e-12, atol=1e-12)


def test_multi_start() -> None:
    X, y = fits.labels()
    keywords: dict[str, Any] = {"folds": 3, "epochs": 1, "solver": "sgd", "learning_rate": 1e-300}
    run = gf.fit(X, y, gf.grid(init_seed=[None, 0, 1]), init_scale=0.5, **keywords)
    np.testing.assert_allclose(run.coef[:3], 0, atol=1e-290)
    for c, seed in ((1, 0), (2, 1)):
        np.testing.assert_array_equal(run.coef[3 * c : 3 * c + 3], np.tile(_start.normal(5, seed, 0.5), (3, 1)))
    start = np.arange(5.0)
    both = gf.fit(X, y, init_seed=1, init_scale=0.5, coef_init=start, **keywords)
    np.testing.assert_array_equal(both.coef[0], start + _start.normal(5, 1, 0.5))
    np.testing.assert_array_equal(both.best_coef, both.coef[0])
    assert both.params[0]["init_seed"] == 1 and "init_seed" not in gf.fit(X, y, epochs=1).params[0]


# -- choice -----------------------------------------------------------------------------------------------------------


def test_scoring_ranks() -> None:
    X, y = fits.labels(200)
    table = gf.grid(l2=[1e-3, 0.3, 3.0], learning_rate=[0.003, 0.1])
    run = gf.fit(X, y, table, folds=4, epochs=4, scoring="accuracy")
    plain = gf.fit(X, y, table, folds=4, epochs=4)
    np.testing.assert_array_equal(run.split_scores, plain.scores("accuracy"))
    assert run.best_candidate == np.argmax(plain.scores("accuracy").mean(axis=1))
    assert fits.refit(run) == fits.refit(gf.fit(X, y, epochs=4, **run.best_params))
    pytest.importorskip("pandas")
    frame = run.to_frame()
    np.testing.assert_array_equal(frame["accuracy"], run.split_scores.mean(axis=1))
    assert frame["rank"].iloc[run.best_candidate] == 1
    assert "accuracy" in repr(run)
    with pytest.raises(ValueError, match="scoring: got 'acuracy'"):
        gf.fit(X, y, scoring="acuracy")
    with pytest.raises(ValueError, match="scoring: got 'r2'"):
        gf.fit(X, y, table, scoring="r2")


def test_one_standard_error() -> None:
    X, y = fits.labels(100)
    table = gf.grid(l2=np.logspace(-5, -2, 7))
    best = gf.fit(X, y, table, epochs=5)
    run = gf.fit(X, y, table, epochs=5, choose="one_se")
    assert run.held_out_loss.tobytes() == best.held_out_loss.tobytes()
    mean, error = run.mean_held_out_loss, run.held_out_loss.std(axis=1, ddof=1) / math.sqrt(5)
    limit = mean[best.best_candidate] + error[best.best_candidate]
    assert run.best_candidate == max(c for c in range(7) if mean[c] <= limit) > best.best_candidate
    assert fits.refit(run) == fits.refit(gf.fit(X, y, epochs=5, **run.best_params))


def test_warnings_about_the_choice() -> None:
    X, y = fits.labels(400)
    with pytest.warns(gf.ChoiceWarning, match="at an edge of the grid: l2=10.0 is the smallest of 3") as caught:
        gf.fit(X, y, gf.grid(l2=[10.0, 20.0, 30.0]), epochs=5)
    assert caught[0].filename == __file__ and issubclass(gf.ChoiceWarning, UserWarning)
    drift = np.where(np.arange(400) < 200, y, 1 - y)
    halves = [(np.arange(200), np.arange(200, 400)), (np.arange(0, 400, 2), np.arange(1, 200, 2))]
    with pytest.warns(gf.ChoiceWarning, match="differ by more than their noise"):
        gf.fit(X, drift, gf.grid(l2=[1e-3, 1e-2]), folds=halves, epochs=20, learning_rate=0.1)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gf.fit(X, y, gf.grid(l2=[1e-4, 1e-2]), epochs=5)  # two values have nothing but ends
        gf.fit(X, y, folds=5, epochs=5)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"schedule": "optimal", "l2": 0.0}, ValueError, "l2: got 0 with schedule='optimal'"),
        ({"momentum": 1.0}, ValueError, "momentum: got 1.0, wanted a number below 1"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm: got 0.0"),
        ({"clip_norm": math.nan}, ValueError, "clip_norm: got nan"),
        ({"average": -1}, ValueError, "average: got -1"),
        ({"average": 1.5}, TypeError, "average: got 1.5"),
        ({"plateau_factor": 1.0}, ValueError, "plateau_factor: got 1.0"),
        ({"init_seed": -1}, ValueError, "init_seed: got -1"),
        ({"epsilon": 0.0}, ValueError, "epsilon: got 0.0"),
        ({"choose": "worst"}, ValueError, "choose: got 'worst'"),
        ({"progress": "yes"}, TypeError, "progress: got 'yes'"),
        ({"track_train_loss": 1}, TypeError, "track_train_loss: got 1"),
    ],
)
def test_bad_keywords(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    X, y = fits.labels(60)
    with pytest.raises(error, match=message):
        gf.fit(X, y, epochs=1, **keywords)


def test_every_hyper_parameter_reaches_its_models() -> None:
    """As a keyword and as a column it does the same, and it does something."""
    X, y = fits.numbers(200, 4)
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("momentum", 0.5, {"solver": "momentum"}),
        ("momentum", 0.5, {"solver": "nesterov"}),
        ("beta1", 0.5, {"solver": "adam"}),
        ("beta2", 0.9, {"solver": "adamw"}),
        ("epsilon", 0.1, {"solver": "adagrad"}),
        ("epsilon", 0.1, {"solver": "adam"}),
        ("rho", 0.9, {"solver": "rmsprop"}),
        ("weight_decay", 1.0, {"solver": "adamw"}),
        ("clip_norm", 0.1, {"solver": "sgd"}),
        ("clip_value", 0.1, {"solver": "sgd"}),
        ("average", 1, {"solver": "sgd"}),
        ("power_t", 0.5, {"schedule": "inverse_scaling"}),
        ("decay", 0.5, {"schedule": "exponential"}),
        ("decay_epochs", 1.0, {"schedule": "step"}),
        ("warmup", 2.0, {}),
        ("schedule", "optimal", {"l2": 0.1}),
    ]
    for name, value, keywords in cases:
        common: dict[str, Any] = {"folds": 2, "epochs": 3, "batch_size": 32, **keywords}
        usual = DEFAULTS[name]
        column = [usual, value] if usual is not None else [1e-8, value]
        both = gf.fit(X, y, gf.grid(**{name: column}), **common)
        one = gf.fit(X, y, **common, **{name: value})
        assert both.coef[2:].tobytes() == one.coef.tobytes(), name
        assert both.coef[:2].tobytes() != one.coef.tobytes(), name
        assert one.params[0][name] == value


@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_losses_side_by_side(kind: str) -> None:
    """Losses of one kind are compared by a score; each candidate is as alone, and the refit has the best one's loss."""
    names = {
        "labels": ["log_loss", "hinge", "squared_hinge", "modified_huber", "perceptron"],
        "numbers": ["squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"],
    }[kind]
    X, y = getattr(fits, kind)()
    scoring = "accuracy" if kind == "labels" else "neg_mean_absolute_error"
    table = gf.grid(loss=names, loss_epsilon=[0.05, 0.3])
    keywords: dict[str, Any] = {"folds": 3, "epochs": 4, "solver": "sgd", "learning_rate": 0.05}
    run = gf.fit(X, y, table, scoring=scoring, **keywords)
    for c, row in enumerate(table):
        alone = gf.fit(X, y, **keywords, **row)
        for s in range(3):
            assert fits.model(alone, 0, s) == fits.model(run, c, s)
        np.testing.assert_allclose(alone.scores(scoring)[0], run.split_scores[c], rtol=1e-12)
        if c == run.best_candidate:
            assert fits.refit(alone) == fits.refit(run) and run.loss == row["loss"]
            assert alone.predict(X).tolist() == run.predict(X).tolist()
    with pytest.raises(ValueError, match="^scoring: got None with the losses"):
        gf.fit(X, y, table, **keywords)
    with pytest.raises(ValueError, match="^loss: got .* among the candidates, wanted losses of binary"):
        gf.fit(X, (y > 0).astype(float), gf.grid(loss=["log_loss", "squared_error"]), scoring="accuracy")


def test_loss_epsilon_is_per_model() -> None:
    X, y = fits.numbers()
    keywords: dict[str, Any] = {"folds": 2, "epochs": 3, "loss": "huber", "solver": "sgd"}
    run = gf.fit(X, y, gf.grid(loss_epsilon=[0.05, 5.0]), **keywords)
    for c, epsilon in enumerate((0.05, 5.0)):
        alone = gf.fit(X, y, loss_epsilon=epsilon, **keywords)
        assert all(fits.model(alone, 0, s) == fits.model(run, c, s) for s in range(2))
        assert alone.params[0]["loss_epsilon"] == epsilon
    assert run.coef[0].tobytes() != run.coef[2].tobytes()


def test_metrics_of_a_run_with_several_losses_go_by_each_candidates_own() -> None:
    X, y = fits.labels()
    run = gf.fit(
        X, y, gf.grid(loss=["modified_huber", "log_loss"]), folds=3, epochs=3, scoring="neg_brier"
    )
    assert run.scores("neg_brier").tobytes() == run.split_scores.tobytes()
    for k, loss in enumerate(["modified_huber", "log_loss"]):
        alone = gf.fit(X, y, loss=loss, folds=3, epochs=3)
        assert run.metric("brier")[k].tobytes() == alone.metric("brier")[0].tobytes()
    run = gf.fit(X, y, gf.grid(loss=["hinge", "log_loss"]), folds=3, epochs=3, scoring="accuracy")
    with pytest.raises(ValueError, match="does not suit loss='hinge'"):
        run.metric("log_loss")
