"""solver="auto": the rule of docs/optimum.md, and what `Run.solver_reason` says of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradfold as gf
from gradfold import _auto


def data(kind: str = "labels", n: int = 60, p: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(5)
    X = rng.standard_normal((n, p))
    z = X[:, 0] - X[:, 1] + rng.standard_normal(n)
    y = {"labels": (z > 0).astype(int), "classes": np.digitize(z, [-1, 1]), "numbers": z}[kind]
    return X, y


@pytest.mark.parametrize(
    ("kind", "keywords", "solver"),
    [
        ("labels", {}, "lbfgs"),
        ("classes", {}, "lbfgs"),
        ("numbers", {}, "cholesky"),
        ("numbers", {"l1": 0.01}, "coordinate-descent"),
        ("labels", {"l1": 0.01}, "coordinate-descent"),
        ("numbers", {"loss": "huber"}, "lbfgs"),
        ("numbers", {"coef_init": np.zeros(3)}, "lbfgs"),
        ("labels", {"tol": 1e-8, "max_iter": 50}, "lbfgs"),
        ("labels", {"early_stopping": False, "callbacks": [], "halving": None, "shuffle": True}, "lbfgs"),
        ("labels", {"standardize": True, "class_weight": "balanced", "scoring": "accuracy"}, "lbfgs"),
    ],
)  # fmt: skip
def test_the_optimum_where_nothing_speaks_of_epochs(kind: str, keywords: dict[str, Any], solver: str) -> None:
    X, y = data(kind)
    run = gf.fit(X, y, gf.grid(l2=[1e-3, 1e-1]), folds=3, **keywords)
    assert run.solver == solver and run.solver_reason == f"auto: {solver} (nothing was given that only epochs have)"
    assert run.converged is not None and run.converged.all() and run.best_converged
    named = gf.fit(X, y, gf.grid(l2=[1e-3, 1e-1]), folds=3, solver=solver, **keywords)
    assert named.solver_reason == "asked for"
    assert run.coef.tobytes() == named.coef.tobytes() and run.best_coef.tobytes() == named.best_coef.tobytes()


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"epochs": 10}, "epochs was given"),
        ({"batch_size": 256}, "batch_size was given"),
        ({"shuffle": False}, "shuffle was given"),
        ({"learning_rate": "auto"}, "learning_rate was given"),
        ({"schedule": "cosine"}, "schedule was given"),
        ({"early_stopping": {"patience": 2}}, "early_stopping was given"),
        ({"callbacks": lambda epoch: None}, "callbacks was given"),
        ({"track_train_loss": True}, "track_train_loss was given"),
        ({"early_stopping": {}}, "early_stopping was given"),
        ({"halving": {}, "epochs": 9}, "epochs was given"),
        ({"halving": {}}, "halving was given"),
        ({"loss": "squared_error", "l1": 0.1, "coef_init": np.zeros(3)}, "takes no start"),
        ({"init_seed": 0}, "init_seed was given"),
        ({"beta1": 0.8}, "beta1 was given"),
        ({"loss": "hinge"}, "no second derivative"),
        ({"loss": "multinomial", "l1": 0.1}, "no solver of the optimum takes l1"),
    ],
)  # fmt: skip
def test_adam_where_something_does(keywords: dict[str, Any], reason: str) -> None:
    X, y = data("classes" if keywords.get("loss") == "multinomial" else "labels")
    run = gf.fit(X, y, gf.grid(l2=[1e-3, 1e-1]), folds=3, **keywords)
    assert run.solver == "adam" and run.solver_reason.startswith("auto: adam (") and reason in run.solver_reason
    enough = {} if reason.endswith("was given") else {"epochs": 200, "batch_size": 32}
    named = gf.fit(X, y, gf.grid(l2=[1e-3, 1e-1]), folds=3, solver="adam", **keywords, **enough)
    assert run.coef.tobytes() == named.coef.tobytes()


def test_candidates() -> None:
    X, y = data()
    run = gf.fit(X, y, gf.grid(learning_rate=[0.1, 0.01]), folds=3)
    assert run.solver == "adam" and run.solver_reason == "auto: adam (candidates set learning_rate)"
    mixed = gf.fit(X, y, gf.grid(l2=[0.1], solver=["auto", "newton-cholesky"]), folds=3)
    assert mixed.solver in ("lbfgs", "newton-cholesky") and mixed.solver_reason.startswith("auto: lbfgs (")
    mixed = gf.fit(X, y, gf.grid(l2=[0.1], solver=["sgd", "auto"]), folds=3)
    assert mixed.solver_reason == "auto: adam (other candidates have solver='sgd')"
    numbers = gf.fit(*data("numbers"), gf.grid(l1=[0.1], solver=["auto", "coordinate-descent"]), folds=3, loss="squared_error")
    assert numbers.solver_reason.startswith("auto: coordinate-descent (")
    # One with l1 is enough: penalties of 0 are a case of it.
    numbers = gf.fit(*data("numbers"), gf.grid(l1=[0.0, 0.1]), folds=3)
    assert numbers.solver == "coordinate-descent"


def test_many_features_go_by_passes() -> None:
    X, y = data("numbers", n=12, p=1001)
    assert gf.fit(X, y, l2=1.0).solver == "lbfgs"
    wide = np.tile(X, 5)[:, :5001].copy()
    assert gf.fit(wide, y, l1=0.1).solver == "coordinate-descent"  # with more features than rows no Gram matrix is held
    assert gf.fit(np.ascontiguousarray(X[:, :1000]), y, l2=1.0).solver == "cholesky"


def test_both_asked_for() -> None:
    with pytest.raises(ValueError, match=r"^tol: got 0.001, .* epochs was given, .* wanted one of the two"):
        gf.fit(*data(), epochs=3, tol=1e-3)


def test_the_reason_is_saved(tmp_path: Any) -> None:
    run = gf.fit(*data())
    run.save(tmp_path / "run.npz")
    assert gf.load(tmp_path / "run.npz").solver_reason == run.solver_reason
    with pytest.raises(RuntimeError, match="this run's solver 'lbfgs' has none"):
        run.partial_fit(*data())


def test_enough_updates_where_only_the_loss_is_against_an_optimum() -> None:
    X, y = data("classes")
    run = gf.fit(X, y, gf.grid(l1=[1e-4, 1e-3]), folds=3, standardize=True)
    assert run.solver_reason.startswith("auto: adam (no solver of the optimum takes l1")
    named = gf.fit(X, y, gf.grid(l1=[1e-4, 1e-3]), folds=3, standardize=True, solver="adam", epochs=200, batch_size=32)
    assert run.coef.tobytes() == named.coef.tobytes()
    smooth = gf.fit(X, y, gf.grid(l2=[1e-4, 1e-3]), folds=3, standardize=True)
    assert run.held_out_loss.min() < 1.2 * smooth.held_out_loss.min()
    # By hand for more rows: batches of 256, so many epochs that there are about 3,000 updates, and 10 at least.
    assert (_auto.batch_of(20_000), _auto.epochs_of(20_000, 256)) == (256, 38)
    assert _auto.epochs_of(10**7, 256) == 10
