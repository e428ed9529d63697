"""The optima of "lbfgs" and "cholesky" beside scikit-learn's own, and what its users try first.

scikit-learn minimises C · Σ w loss + ½ |w|² and Σ w (y − Xw)² + α |w|²; here it is the mean loss and ½ l2 |w|². So
C = 1 / (l2 · Σw) and α = l2 · Σw, where Σw is that of the split's training rows.
"""

from __future__ import annotations

import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn import datasets
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import fits
import gradfold as gf

L2 = [1e-4, 1e-2, 1.0]
SPLITS = 3
TARGETS = ["two", "several", "numbers"]
LOSS = {"two": "log_loss", "several": "multinomial", "numbers": "squared_error"}
SOLVERS = [("two", "lbfgs"), ("several", "lbfgs"), ("numbers", "lbfgs"), ("numbers", "cholesky")]


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_small_matrices():
    """scikit-learn's are so small that its threads would wait for each other."""
    with threadpool_limits(1):
        yield


# ---- sets ------------------------------------------------------------------------------------------------------------


def target(X, kind, seed):
    """Noisy targets of the standardised columns."""
    rng = np.random.default_rng(seed)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    if kind == "numbers":
        return Z @ rng.standard_normal(X.shape[1]) + 0.3 * rng.standard_normal(len(X)) + 2
    scores = Z @ rng.standard_normal((X.shape[1], 2 if kind == "two" else 3)) + rng.standard_normal((len(X), 1))
    return (scores + rng.standard_normal(scores.shape)).argmax(axis=1)


def seeded(name):
    """A matrix with the trouble that its name says."""
    rng = np.random.default_rng(0)
    n, p = 150, 8
    X = rng.standard_normal((n, p))
    if name == "ill_conditioned":
        U, V = np.linalg.qr(rng.standard_normal((n, p)))[0], np.linalg.qr(rng.standard_normal((p, p)))[0]
        X = U * np.logspace(0, -8, p) @ V.T * np.sqrt(n)
    elif name == "duplicated":
        X = np.column_stack([X, X[:, :4]])
    elif name == "wide":
        X = rng.standard_normal((40, 100))
    elif name == "far":
        X = X + 1e6
    elif name == "scales":
        X = X * np.logspace(-4, 4, p)
    else:
        assert name == "plain"
    return np.ascontiguousarray(X)


SEEDED = ["plain", "ill_conditioned", "duplicated", "wide", "far", "scales"]


def separable():
    """Classes with a wide gap between them."""
    X = np.random.default_rng(3).standard_normal((120, 5))
    y = (X[:, 0] > 0).astype(np.int64)
    X[:, 0] += np.where(y > 0, 0.5, -0.5)
    return X, y


def bundled(name):
    """A set of scikit-learn's; of digits 0 to 4 only, whose 325 weights its exact solver finds quickly."""
    X, y = datasets.load_digits(n_class=5, return_X_y=True) if name == "digits" else getattr(datasets, f"load_{name}")(return_X_y=True)
    rows = slice(300) if name == "digits" else slice(None)
    return np.ascontiguousarray(X[rows]), y[rows]


# ---- the comparison --------------------------------------------------------------------------------------------------


def objective(loss, X, y, coef, intercept, l2, weight):
    """The objective in long double, so that its rounding tells nobody apart."""
    X, coef, intercept, weight = (np.asarray(a, np.longdouble) for a in (X, coef, intercept, weight))
    z = X @ coef.T + intercept
    if loss == "multinomial":
        top = z.max(axis=1)
        value = top + np.log(np.exp(z - top[:, None]).sum(axis=1)) - z[np.arange(len(z)), y]
    elif loss == "log_loss":
        value = np.logaddexp(np.longdouble(0), z) - y * z
    else:
        value = (z - y) ** 2 / 2
    return (weight * value).sum() / weight.sum() + np.longdouble(l2) / 2 * (coef**2).sum()


def theirs(loss, X, y, l2, weight, fit_intercept):
    """scikit-learn's optimum, by the most accurate of its solvers: Newton's method with a Cholesky factor, or singular values."""
    total = weight.sum()
    if loss == "squared_error":
        model = Ridge(alpha=l2 * total, solver="svd", fit_intercept=fit_intercept)
    else:
        model = LogisticRegression(
            C=1 / (l2 * total), solver="newton-cholesky", tol=1e-12, max_iter=500, fit_intercept=fit_intercept
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of line searches that end in rounding; where it ended is judged by its objective
        model.fit(X, y, sample_weight=weight)
    shape = model.coef_.shape if loss == "multinomial" else (X.shape[1],)
    intercept = np.broadcast_to(model.intercept_, shape[:1] if loss == "multinomial" else (1,))
    return model.coef_.reshape(shape), intercept if loss == "multinomial" else intercept[0]


def centred(z):
    """Raw predictions of a softmax without what is common to all classes, which nothing determines."""
    return z - z.mean(axis=1, keepdims=True) if z.ndim == 2 else z


def compare(X, y, loss, solver, *, weight=None, fit_intercept=True, standardize=False, tol=1e-9, max_iter=5000, shift=0.0, l2=L2):
    """All splits of a grid beside scikit-learn.

    Returns
    -------
    objective : float
        The largest relative distance of the objectives; negative distances (gradfold is lower) count too.
    coef : float
        That of the coefficients, relative to the largest of the model. With `standardize` they are those of standardised columns.
    raw : float
        That of raw predictions on the training rows, relative to the largest of them.
    how : ndarray
        How gradfold's models ended.

    Parameters
    ----------
    shift : float
        What scikit-learn gets subtracted from X. Where that is exact, the optimum has the same coefficients.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gf.ConvergenceWarning)  # what was reached is judged here
        run = gf.fit(
            X, y, gf.grid(l2=l2), folds=SPLITS, loss=loss, solver=solver, sample_weight=weight, fit_intercept=fit_intercept,
            standardize=standardize, tol=tol, max_iter=max_iter, refit=False,
        )  # fmt: skip
    far = np.zeros(3)
    wide = X.astype(np.float64)  # the same values
    for m in range(len(run.coef)):
        rows = run._folds.train_indices(m % SPLITS)
        A, own_y = wide[rows] - shift, y[rows].astype(np.float64) if loss == "squared_error" else y[rows]
        own_weight = np.ones(len(rows)) if weight is None else weight[rows].astype(np.float64)
        coef, intercept = run.coef[m].astype(np.longdouble), run.intercept[m].astype(np.longdouble)
        intercept = intercept + coef.sum(axis=-1) * shift
        if standardize:
            scaler = StandardScaler().fit(A, sample_weight=own_weight)
            intercept = intercept + coef @ scaler.mean_.astype(np.longdouble)
            coef = coef * scaler.scale_
            A = scaler.transform(A)
        want, want_intercept = theirs(loss, A, own_y, l2[m // SPLITS], own_weight, fit_intercept)
        got_value, want_value = (
            objective(loss, A, own_y, c, b, l2[m // SPLITS], own_weight) for c, b in ((coef, intercept), (want, want_intercept))
        )
        z, want_z = centred(A @ coef.T + intercept), centred(A @ want.T + want_intercept)
        seen = own_weight > 0
        far = np.maximum(
            far,
            np.array([
                abs(got_value - want_value) / want_value,
                np.abs(coef - want).max() / np.abs(want).max(),
                np.abs(z - want_z)[seen].max() / np.abs(want_z[seen]).max(),
            ], np.float64),
        )  # fmt: skip
    return SimpleNamespace(objective=far[0], coef=far[1], raw=far[2], how=run.arrivals["how"])


def assert_near(got, *, value=1e-6, coef=1e-4):
    assert got.objective <= value and got.coef <= coef and got.raw <= coef, got


# ---- the same optimum ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("kind", "solver"), SOLVERS)
@pytest.mark.parametrize("name", ["digits", "wine", "breast_cancer", "diabetes"])
def test_bundled_sets(name, kind, solver, standardize):
    X, y = bundled(name)
    if kind == "two":
        y = (y > y.mean()).astype(np.int64)
    elif kind == "several" and name in ("breast_cancer", "diabetes"):
        y = target(X, kind, 1)
    elif kind == "numbers":
        y = y.astype(np.float64)
    assert_near(compare(X, y, LOSS[kind], solver, standardize=standardize))


def test_two_outputs_are_one_with_half_the_penalty():
    """A softmax of two classes has ½ l2 (|w/2|² + |w/2|²) where the sigmoid has ½ l2 |w|²."""
    X = seeded("plain")
    y = target(X, "two", 1)
    run = gf.fit(X, y, gf.grid(l2=L2), folds=SPLITS, loss="multinomial", solver="lbfgs", tol=1e-9, refit=False)
    for m in range(len(run.coef)):
        rows = run._folds.train_indices(m % SPLITS)
        want, intercept = theirs("log_loss", X[rows], y[rows], L2[m // SPLITS] / 2, np.ones(len(rows)), True)
        np.testing.assert_allclose(run.coef[m, 1] - run.coef[m, 0], want, atol=1e-6 * np.abs(want).max())
        np.testing.assert_allclose(run.intercept[m, 1] - run.intercept[m, 0], intercept, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("kind", "solver"), SOLVERS)
@pytest.mark.parametrize("name", SEEDED)
def test_seeded_sets(name, kind, solver, standardize):
    X = seeded(name)
    # scikit-learn's logistic regression does not centre: 1e6 squared leaves its Hessian no digits. It gets the columns less
    # 1e6, a difference without rounding.
    # And no gradient about zero is below 1e-9 there, so that only max_iter ends it.
    more = {"shift": 1e6, "max_iter": 500} if name == "far" else {}
    assert_near(compare(X, target(X, kind, 1), LOSS[kind], solver, standardize=standardize, **more))


@pytest.mark.parametrize(("kind", "solver"), SOLVERS[:2])
def test_far_from_zero_is_no_worse_than_scikit_learn(kind, solver):
    """Given the same columns far from zero, whose objective is lower?"""
    X = seeded("far")
    y = target(X, kind, 1)
    run = gf.fit(X, y, l2=1e-2, solver=solver)
    weight = np.ones(len(X))
    coef, intercept = theirs(LOSS[kind], X, y, 1e-2, weight, True)
    got = objective(LOSS[kind], X, y, run.best_coef, run.best_intercept, 1e-2, weight)
    assert run.best_converged and got <= objective(LOSS[kind], X, y, coef, intercept, 1e-2, weight) * (1 + 1e-9)


@pytest.mark.parametrize("standardize", [False, True])
def test_separable_classes_with_a_penalty(standardize):
    X, y = separable()
    assert_near(compare(X, y, "log_loss", "lbfgs", standardize=standardize, l2=[1e-8, 1e-6, 1e-3]))
    three = y + (y > 0) * (X[:, 1] > 0)
    X[:, 1] += np.where(X[:, 1] > 0, 0.5, -0.5)
    assert_near(compare(X, three, "multinomial", "lbfgs", standardize=standardize, l2=[1e-6, 1e-3, 1e-1]))


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("kind", "solver"), SOLVERS)
def test_sample_weights_with_zeros(kind, solver, standardize):
    X = seeded("plain") * [1, 10, 100, 0.1, 1, 1, 5, 0.5] + [0, 3, -50, 1, 2, 0, 0, 0]
    y = target(X, kind, 1)
    weight = np.random.default_rng(4).choice([0.0, 0.3, 1.0, 7.0], len(X))
    # What stands in a row of weight 0 is nobody's business, whoever fits.
    X[weight == 0] *= 100
    assert_near(compare(X, y, LOSS[kind], solver, weight=weight, standardize=standardize))


@pytest.mark.parametrize(("kind", "solver"), SOLVERS)
@pytest.mark.parametrize("name", ["plain", "ill_conditioned", "wide", "scales", "far"])
def test_no_intercept(name, kind, solver):
    X = seeded(name)
    y = target(X, kind, 1)
    if name == "far":
        X = X - 1e6 + 3.0  # without an intercept a mean of 1e6 is the one direction that there is
    assert_near(compare(X, y, LOSS[kind], solver, fit_intercept=False))


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("kind", "solver"), SOLVERS)
@pytest.mark.parametrize("name", ["plain", "ill_conditioned", "duplicated", "wide", "scales", "digits", "breast_cancer", "wine"])
def test_float32(name, kind, solver, standardize):
    """scikit-learn gets float64 of the same values."""
    X, y = bundled(name) if name not in SEEDED else (seeded(name), None)
    if y is None or kind == "numbers" or (kind == "two") != (len(np.unique(y)) == 2):
        y = target(X[:, X.std(axis=0) > 0], kind, 1)
    X = np.ascontiguousarray(X, np.float32)
    y = y.astype(np.float32) if kind == "numbers" else y
    # Classes of digits are separable: nearly all loss is gone before the smallest curvature has a say.
    tol, max_iter = (1e-7, 5000) if (name, kind) == ("digits", "several") else (1e-6, 1000)
    got = compare(X, y, LOSS[kind], solver, standardize=standardize, tol=tol, max_iter=max_iter)
    assert got.objective <= 1e-5, got


@pytest.mark.parametrize(("kind", "solver"), SOLVERS)
def test_standardize_without_an_intercept(kind, solver):
    """A pipeline's scaler centres all the same, and so do the solvers of epochs."""
    X = seeded("plain") + 1
    assert_near(compare(X, target(X, kind, 1), LOSS[kind], solver, standardize=True, fit_intercept=False))


def test_units_of_the_columns_cost_no_iterations():
    """A power of two on X, its square on l2, and tol in the gradient's new unit: the same problem to the bit."""
    X, y = bundled("breast_cancer")
    X = StandardScaler().fit_transform(X)
    unit = 2.0**30
    near = gf.fit(X, y, l2=1e-8, solver="lbfgs", tol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gf.ConvergenceWarning)
        far = gf.fit(X * unit, y, l2=1e-8 * unit**2, solver="lbfgs", tol=1e-6 * unit)
    assert near.best_converged and far.best_converged
    np.testing.assert_allclose(far.refit_arrival["objective"], near.refit_arrival["objective"], rtol=1e-3)


def test_the_gap_is_what_the_documentation_says():
    X, y = bundled("digits")
    run = gf.fit(X, y, l2=1e-4, solver="lbfgs")  # nearly separable: the objective is 2e-4 of what it is at the start
    assert run.best_converged
    assert run.refit_arrival["gap"] <= 1e-4 / 1000 * max(run.refit_arrival["objective"], 0.01 * 4 * np.log(2))


def separable_by_large_columns():
    """Columns of scales from 1e-3 to 1e3, and classes that the large ones tell apart without an error."""
    rng = np.random.default_rng(0)
    X = np.ascontiguousarray(rng.standard_normal((100, 15)) * np.logspace(-3, 3, 15))
    return X, (X @ rng.standard_normal(15) > 0).astype(np.int64)


def above(run, X, y, l2):
    """How far the refit's objective lies above scikit-learn's, relative to it."""
    weight = np.ones(len(X))
    best = objective("log_loss", X, y, *theirs("log_loss", X, y, l2, weight, True), l2, weight)
    return float(objective("log_loss", X, y, run.best_coef, run.best_intercept, l2, weight) / best - 1)


@pytest.mark.parametrize("l2", [1e-5, 1e-3])
def test_separable_classes_take_no_more_steps_than_scikit_learn(l2):
    """Its L-BFGS, which starts from the identity, takes 79 and 116 steps to 1e-7."""
    X, y = separable_by_large_columns()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gf.ConvergenceWarning)
        run = gf.fit(X, y, l2=l2, solver="lbfgs", tol=1e-9, max_iter=1000)
    assert above(run, X, y, l2) <= 1e-6


@pytest.mark.parametrize("l2", [1e-5, 1e-3])
def test_converged_means_near_the_optimum(l2):
    X, y = separable_by_large_columns()
    run = gf.fit(X, y, l2=l2, solver="lbfgs")
    assert not run.best_converged or above(run, X, y, l2) <= 1e-2


# ---- l1 of log_loss ------------------------------------------------------------------------------------------------


def theirs_with_l1(A, y, alpha, ratio, weight, fit_intercept):
    """scikit-learn's by saga, whose objective is ours times C · Σw.

    Its steps are too long for weights above 1, and too short beside large rows of weight 0.
    """
    A, y, weight = A[weight > 0], y[weight > 0], weight[weight > 0] / weight.max()
    total = weight.sum()
    model = LogisticRegression(
        C=1 / (alpha * total), l1_ratio=ratio, solver="saga", tol=1e-10, max_iter=100_000, fit_intercept=fit_intercept,
        random_state=0,
    )  # fmt: skip
    model.fit(A, y, sample_weight=weight)
    assert model.n_iter_.max() < 100_000
    return model.coef_[0], model.intercept_[0] if fit_intercept else 0.0


def value_with_l1(A, y, coef, intercept, alpha, ratio, weight):
    smooth = objective("log_loss", A, y, coef, intercept, alpha * (1 - ratio), weight)
    return smooth + np.longdouble(alpha * ratio) * np.abs(np.asarray(coef, np.longdouble)).sum()


def compare_with_l1(X, y, ratio, *, weight=None, fit_intercept=True, standardize=False, shares=(0.5, 0.1, 0.02), unique=True):
    """All splits of a grid of alphas, shares of the first one, beside scikit-learn's."""
    first = gf.l1_grid(X, y, 1, loss="log_loss", sample_weight=weight, fit_intercept=fit_intercept, standardize=standardize)[0]
    alphas = [first * share / ratio for share in shares]
    run = gf.fit(
        X, y, [{"l1": a * ratio, "l2": a * (1 - ratio)} for a in alphas], folds=SPLITS, loss="log_loss", solver="coordinate-descent",
        sample_weight=weight, fit_intercept=fit_intercept, standardize=standardize, tol=1e-9, refit=False,
    )  # fmt: skip
    assert run.converged.all()
    kept = 0
    for m in range(len(run.coef)):
        rows, alpha = run._folds.train_indices(m % SPLITS), alphas[m // SPLITS]
        own_weight = np.ones(len(rows)) if weight is None else weight[rows]
        A, coef, intercept = X[rows], run.coef[m], run.intercept[m]
        if standardize:
            scaler = StandardScaler().fit(A, sample_weight=own_weight)
            intercept, coef, A = intercept + coef @ scaler.mean_, coef * scaler.scale_, scaler.transform(A)
        want, want_intercept = theirs_with_l1(A, y[rows], alpha, ratio, own_weight, fit_intercept)
        got_value, want_value = (
            value_with_l1(A, y[rows], c, b, alpha, ratio, own_weight) for c, b in ((coef, intercept), (want, want_intercept))
        )
        assert abs(got_value - want_value) <= 1e-6 * want_value
        z, want_z = ((A @ c + b)[own_weight > 0] for c, b in ((coef, intercept), (want, want_intercept)))
        np.testing.assert_allclose(z, want_z, atol=1e-4 * max(1.0, np.abs(want_z).max()))
        if unique:
            np.testing.assert_allclose(coef, want, atol=1e-4 * max(1.0, np.abs(want).max()))
            np.testing.assert_allclose(intercept, want_intercept, rtol=1e-4, atol=1e-4)
        kept += np.count_nonzero(coef)
    return kept / run.coef.size


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_l1_of_breast_cancer(ratio):
    X, y = bundled("breast_cancer")
    assert 0.05 < compare_with_l1(X, y, ratio, standardize=True) < 0.9


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_l1_of_even_and_odd_digits(ratio):
    X, y = datasets.load_digits(return_X_y=True)
    X = np.ascontiguousarray(X[:500] / 16)
    assert 0.05 < compare_with_l1(X, y[:500] % 2, ratio, shares=(0.5, 0.1)) < 0.9


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("name", ["plain", "duplicated", "wide", "far"])
def test_l1_of_seeded_sets(name, ratio, standardize):
    if name == "far" and not standardize:
        pytest.skip("saga finds no optimum of columns at 1e6; tests/test_optimum.py has what they are when centred")
    X = seeded(name)
    # Without l2 the weight of copies is anyone's, and saga does not come to the end of a small l1 with few rows.
    shares = (0.5, 0.2) if name == "wide" else (0.5, 0.1, 0.02)
    unique = (name, ratio) != ("duplicated", 1.0)
    assert compare_with_l1(X, target(X, "two", 1), ratio, standardize=standardize, shares=shares, unique=unique) > 0.05


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_l1_of_separable_classes(ratio, fit_intercept):
    X, y = separable()
    compare_with_l1(X, y, ratio, fit_intercept=fit_intercept)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_l1_with_sample_weights_and_zeros(ratio, standardize):
    X = seeded("plain")
    y = target(X, "two", 1)
    weight = np.random.default_rng(4).choice([0.0, 0.3, 1.0, 7.0], len(X))
    if standardize:
        X = X * [1, 10, 100, 0.1, 1, 1, 5, 0.5] + [0, 3, -50, 1, 2, 0, 0, 0]
        X[weight == 0] *= 100  # what stands there is nobody's business, whoever fits
    compare_with_l1(np.ascontiguousarray(X), y, ratio, weight=weight, standardize=standardize)


@pytest.mark.parametrize("name", ["plain", "wide"])
def test_l1_beside_liblinear(name):
    """Which penalises the intercept: without one, the same objective."""
    X = seeded(name)
    y = target(X, "two", 1)
    l1 = list(gf.l1_grid(X, y, 4, eps=1e-2, fit_intercept=False))
    run = gf.fit(
        X, y, gf.grid(l1=l1), l2=0.0, folds=SPLITS, loss="log_loss", solver="coordinate-descent", fit_intercept=False,
        tol=1e-10, refit=False,
    )  # fmt: skip
    for m in range(len(run.coef)):
        rows = run._folds.train_indices(m % SPLITS)
        model = LogisticRegression(
            C=1 / (l1[m // SPLITS] * len(rows)), l1_ratio=1, solver="liblinear", tol=1e-10, max_iter=100_000,
            fit_intercept=False, random_state=0,
        ).fit(X[rows], y[rows])  # fmt: skip
        one = np.ones(len(rows))
        got, want = (value_with_l1(X[rows], y[rows], c, 0.0, l1[m // SPLITS], 1.0, one) for c in (run.coef[m], model.coef_[0]))
        assert run.converged[m] and abs(got - want) <= 1e-6 * want
        np.testing.assert_allclose(run.coef[m], model.coef_[0], atol=1e-4)


# ---- the first ten minutes -------------------------------------------------------------------------------------------


def fitted(X, y, candidates=None, **options):
    """A fit of few rows and what it said; it takes no time worth speaking of, on however busy a machine."""
    started = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = gf.fit(X, y, candidates, **{"solver": "lbfgs", **options})
    assert time.process_time() - started < 5
    said = " | ".join(str(w.message) for w in caught if w.category is not gf.ChoiceWarning)
    return run, said


def ridge(X, y, l2, weight=None):
    return Ridge(alpha=l2 * (len(X) if weight is None else weight.sum()), solver="svd").fit(X, y, sample_weight=weight)


@pytest.mark.parametrize(
    "coded",
    [
        lambda y: np.array(["no", "yes"])[y],
        lambda y: np.array(["no", "yes"], object)[y],
        lambda y: 2 * y - 1,
        lambda y: 2.0 * y - 1,
        lambda y: y > 0,
        lambda y: y + 1,
        lambda y: y.tolist(),
    ],
)
def test_labels_of_any_type(coded):
    X, y = fits.labels(150, 4)
    run, said = fitted(X, coded(y), gf.grid(l2=[1e-2, 1.0]), folds=3)
    want, _ = fitted(X, y, gf.grid(l2=[1e-2, 1.0]), folds=3)
    assert not said and run.coef.tobytes() == want.coef.tobytes() and run.best_coef.tobytes() == want.best_coef.tobytes()
    labels = np.asarray(coded(y))
    assert (run.predict(X) == labels[np.argmax(y)]).tolist() == (want.predict(X) == 1).tolist()
    assert run.classes.tolist() == sorted(set(labels.tolist()))


@pytest.mark.parametrize("convert", [lambda X: X.astype(np.int64), lambda X: X.astype(np.int8), lambda X: X > 0, lambda X: X.tolist()])
def test_other_types_of_X_are_copied_with_a_warning(convert):
    X, y = fits.labels(150, 4)
    given = convert(X * 10)
    run, said = fitted(given, y)
    want, _ = fitted(np.array(given, np.float64), y)
    assert "fit copied X" in said and run.best_coef.tobytes() == want.best_coef.tobytes()


def test_frames():
    pd = pytest.importorskip("pandas")
    X, y = fits.labels(150, 4)
    names = np.array(["no", "yes"])[y]
    run, _ = fitted(pd.DataFrame(X, columns=list("abcd")), pd.Series(names, index=np.arange(150)[::-1]))
    want, _ = fitted(X, names)
    np.testing.assert_array_equal(run.best_coef, want.best_coef)
    mixed = pd.DataFrame({"count": np.arange(150), "share": X[:, 0]})
    run, said = fitted(mixed, pd.Series(names, dtype="category"))
    assert run.best_converged and "DataFrame" in said


def test_a_training_side_of_one_class_is_finite():
    """scikit-learn raises; here the other splits of the grid go on, and this one's intercept tells the class."""
    X, y = fits.labels(100, 4)
    three = y + (y > 0) * (X[:, 0] > 0)
    one = np.flatnonzero(y == 1)[:30]
    for target_, side in ((y, one), (three, np.flatnonzero(three != 1))):
        folds = [(side, np.setdiff1d(np.arange(100), side)), (np.arange(50), np.arange(50, 100))]
        run, _ = fitted(X, target_, gf.grid(l2=[1e-2, 1.0]), folds=folds)
        assert np.isfinite(run.coef).all() and np.isfinite(run.held_out_loss).all()
        alone, _ = fitted(X, target_, gf.grid(l2=[1e-2, 1.0]), folds=folds[1:])
        np.testing.assert_array_equal(run.coef[1::2], alone.coef)


def test_a_training_side_of_one_class_is_named():
    X, y = fits.labels(100, 4)
    one = np.flatnonzero(y == 1)[:30]
    folds = [(one, np.setdiff1d(np.arange(100), one)), (np.arange(50), np.arange(50, 100))]
    _, said = fitted(X, y, gf.grid(l2=[1e-2, 1.0]), folds=folds)
    assert "class" in said


@pytest.mark.parametrize(
    ("loss", "solver"),
    [("auto", "lbfgs"), ("log_loss", "lbfgs"), ("multinomial", "lbfgs"), ("squared_error", "lbfgs"), ("squared_error", "cholesky")],
)
@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"l2": -1.0}, "l2"),
        ({"candidates": [{"l2": 1.0}, {"l2": -1.0}]}, "l2"),
        ({"l2": np.nan}, "l2"),
        ({"l2": np.inf}, "l2"),
        ({"tol": -1e-3}, "tol"),
        ({"max_iter": 1.5}, "max_iter"),
        ({"max_iter": -1}, "max_iter"),
        ({"X": np.zeros(60)}, "X"),
        ({"X": np.full((60, 3), np.nan)}, "X"),
        ({"X": np.zeros((60, 3), np.float16)}, "X"),
        ({"y": np.zeros((60, 1))}, "y"),
        ({"y": np.zeros(59)}, "y"),
        ({"y": np.full(60, np.nan)}, "y"),
        ({"sample_weight": np.zeros(60)}, "sample_weight"),
        ({"sample_weight": -np.ones(60)}, "sample_weight"),
        ({"sample_weight": np.ones(3)}, "sample_weight"),
        ({"solver": "newton-cg"}, "solver"),
        ({"coef_init": np.zeros(7)}, "coef_init"),
        ({"coef_init": np.full(3, np.inf)}, "coef_init"),
        ({"folds": 61}, "folds"),
    ],
)
def test_bad_input_is_named(change, names, loss, solver):
    X, y = fits.labels(60, 3)
    with pytest.raises((ValueError, TypeError), match=rf"^{names}: got "):
        gf.fit(**{"X": X, "y": y, "loss": loss, "solver": solver, **change})


@pytest.mark.parametrize("loss", ["auto", "log_loss", "multinomial"])
def test_one_class_in_all(loss):
    with pytest.raises(ValueError, match="^y: got the one label"):
        gf.fit(np.ones((10, 2)), np.ones(10, np.int64), solver="lbfgs", loss=loss)


def test_class_weights_of_zero_are_named():
    X, y = fits.labels(60, 3)
    with pytest.raises(ValueError, match="class_weight"):
        gf.fit(X, y, class_weight={0: 0.0, 1: 0.0}, solver="lbfgs")


@pytest.mark.parametrize("loss", list(LOSS.values()))
def test_a_column_of_zeros(loss):
    X, y = fits.numbers(150, 4)
    if loss != "squared_error":
        y = np.digitize(y, [0.5] if loss == "log_loss" else [0.0, 1.5])
    holed = np.ascontiguousarray(np.column_stack([X, np.zeros(150)]))
    for solver in ("lbfgs", "cholesky") if loss == "squared_error" else ("lbfgs",):
        for standardize in (False, True):
            for l2 in (0.0, 1e-2):
                options = {"loss": loss, "solver": solver, "standardize": standardize, "l2": l2, "tol": 1e-8}
                run, said = fitted(holed, y, **options)
                want, _ = fitted(X, y, **options)
                assert not said and run.best_converged and not run.best_coef[..., -1].any()
                np.testing.assert_allclose(run.best_coef[..., :-1], want.best_coef, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", ["lbfgs", "cholesky"])
def test_one_feature_and_two_rows(solver):
    X, y = fits.numbers(100, 3)
    for A, b in ((X[:, :1].copy(), y), (X[:2], y[:2]), (X[:2, :1].copy(), y[:2])):
        run, said = fitted(A, b, l2=1e-2, solver=solver, tol=1e-10)
        model = ridge(A, b, 1e-2)
        assert not said
        np.testing.assert_allclose(run.best_coef, model.coef_, rtol=1e-9)
        np.testing.assert_allclose(run.best_intercept, model.intercept_, rtol=1e-9)
    run, _ = fitted(X[:2], y[:2], gf.grid(l2=[1e-2, 1.0]), folds=2, solver=solver)
    assert not run.coef.any()  # of one training row: its y is the intercept
    np.testing.assert_array_equal(np.sort(run.intercept[:2]), np.sort(y[:2]))
    if solver == "lbfgs":
        run, said = fitted(X[:2], [0, 1], l2=1e-2, tol=1e-9)
        want, intercept = theirs("log_loss", X[:2], np.array([0, 1]), 1e-2, np.ones(2), True)
        np.testing.assert_allclose(run.best_coef, want, rtol=1e-5)
        np.testing.assert_allclose(run.best_intercept, intercept, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("solver", ["lbfgs", "cholesky"])
def test_all_weights_zero_but_two(solver):
    X, y = fits.numbers(100, 3)
    weight = np.zeros(100)
    weight[[3, 60]] = 1, 2
    run, said = fitted(X, y, l2=1e-2, sample_weight=weight, solver=solver, tol=1e-10)
    model = ridge(X[[3, 60]], y[[3, 60]], 1e-2, weight[[3, 60]])
    assert not said
    np.testing.assert_allclose(run.best_coef, model.coef_, rtol=1e-9)
    weight[60] = 0
    run, _ = fitted(X, y, l2=1e-2, sample_weight=weight, solver=solver)
    assert not run.best_coef.any() and run.best_intercept == y[3]


@pytest.mark.parametrize("solver", ["lbfgs", "cholesky"])
def test_fewer_independent_columns_than_columns_without_a_penalty(solver):
    """The fit is that of least squares, whatever weights it is spread over."""
    X, y = fits.numbers(100, 3)
    for A, b in ((np.column_stack([X, X[:, 0] + X[:, 1]]), y), (np.random.default_rng(0).standard_normal((20, 50)), y[:20])):
        run, _ = fitted(np.ascontiguousarray(A), b, l2=0.0, solver=solver, tol=1e-9)
        centre = A - A.mean(axis=0)
        want = b.mean() + centre @ np.linalg.lstsq(centre, b - b.mean(), rcond=1e-12)[0]
        np.testing.assert_allclose(run.predict_raw(np.ascontiguousarray(A)), want, atol=1e-6)


def test_copies_of_a_column():
    """The equations leave one of them out and say so; a penalty, as the warning advises, shares the weight."""
    X, y = fits.numbers(100, 3)
    twice = np.ascontiguousarray(np.column_stack([X, X[:, 0]]))
    _, said = fitted(twice, y, l2=0.0, solver="cholesky")
    assert "a larger l2 spreads them" in said
    run, said = fitted(twice, y, l2=1e-6, solver="cholesky")
    assert not said
    np.testing.assert_allclose(run.best_coef[0], run.best_coef[3], rtol=1e-6)


def test_a_perfect_fit_converges():
    rng = np.random.default_rng(0)
    run, _ = fitted(rng.standard_normal((20, 50)), rng.standard_normal(20), l2=0.0, solver="cholesky")
    assert run.refit_arrival["gradient_norm"] < 1e-12 and run.refit_arrival["objective"] < 1e-24
    assert run.best_converged


# ---- huge and tiny ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [-498, -166, 166, 498])  # 1e-150 to 1e150, as powers of two: they change no digit
@pytest.mark.parametrize(("kind", "solver"), SOLVERS)
def test_scales_of_the_columns(kind, solver, exponent):
    X = seeded("plain")
    y = target(X, kind, 1)
    unit = 2.0**exponent
    run, said = fitted(X * unit, y, loss=LOSS[kind], solver=solver, l2=1e-3, standardize=True, tol=1e-8)
    want, _ = fitted(X, y, loss=LOSS[kind], solver=solver, l2=1e-3, standardize=True, tol=1e-8)
    assert not said and run.best_converged
    np.testing.assert_allclose(run.best_coef * unit, want.best_coef, rtol=1e-12)
    one = np.ones(X.shape[1])
    one[:2] = unit, 1 / unit
    run, said = fitted(X * one, y, loss=LOSS[kind], solver=solver, l2=1e-3, standardize=True, tol=1e-8)
    assert not said
    np.testing.assert_allclose(run.best_coef * one, want.best_coef, rtol=1e-12)


@pytest.mark.parametrize("exponent", [-498, 498])
def test_scales_of_y_and_of_weights(exponent):
    X, y = fits.numbers(100, 3)
    unit = 2.0**exponent
    want, _ = fitted(X, y, l2=1e-3, solver="cholesky")
    run, said = fitted(X, y * unit, l2=1e-3, solver="cholesky")
    assert not said
    np.testing.assert_allclose(run.best_coef / unit, want.best_coef, rtol=1e-12)
    for solver in ("lbfgs", "cholesky"):
        run, said = fitted(X, y, l2=1e-3, solver=solver, sample_weight=np.full(100, unit))
        assert not said
        np.testing.assert_allclose(run.best_coef, want.best_coef, rtol=1e-9)


HUGE = {
    "all of 1e150": lambda X: X * 1e150,
    "all of 1e-300": lambda X: X * 1e-300,
    "1e150 and 1e-150": lambda X: X * [1e150, 1, 1e-150, 1],
    "a row of 1e100": lambda X: np.where(np.arange(len(X))[:, None] == 3, 1e100, X),
    "a row of 1e200": lambda X: np.where(np.arange(len(X))[:, None] == 3, 1e200, X),
    "a cell of 1e300": lambda X: np.where((np.arange(len(X))[:, None] == 3) & (np.arange(4) == 1), 1e300, X),
    "all of 1e300": lambda X: X * 1e300,
}


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("kind", "solver"), SOLVERS)
@pytest.mark.parametrize("name", sorted(HUGE))
def test_weights_stay_finite_and_losses_that_do_not_are_spoken_of(name, kind, solver, standardize):
    X = seeded("plain")[:, :4]
    y = target(X, kind, 1)
    hostile = np.ascontiguousarray(HUGE[name](X))
    for fit_intercept in (True, False):
        options = {"loss": LOSS[kind], "solver": solver, "standardize": standardize, "fit_intercept": fit_intercept}
        run, said = fitted(hostile, y, gf.grid(l2=[1e-2, 1.0]), folds=3, **options)
        assert np.isfinite(run.coef).all() and np.isfinite(run.intercept).all()
        assert said or np.isfinite(run.held_out_loss).all()
        assert run.best_coef is None or np.isfinite(run.best_coef).all()


@pytest.mark.parametrize(("solver", "standardize"), [("lbfgs", True), ("cholesky", False), ("cholesky", True)])
def test_a_variance_that_overflows(solver, standardize):
    X, y = fits.numbers(100, 3)
    run, said = fitted(X * 1e160, y, solver=solver, standardize=standardize)
    assert said or run.best_coef.any()


def test_a_held_out_loss_that_overflows_is_spoken_of():
    X, y = fits.numbers(100, 3)
    run, said = fitted(X.astype(np.float32), (y * 1e20).astype(np.float32), folds=3, solver="cholesky")
    assert said or np.isfinite(run.held_out_loss).all()


def test_a_sum_of_weights_that_overflows():
    X, y = fits.numbers(100, 3)
    with pytest.raises(ValueError, match="^sample_weight: got a sum of weights that overflows"):
        gf.fit(X, y, solver="lbfgs", sample_weight=np.full(100, 1e308))


# ---- what warnings advise --------------------------------------------------------------------------------------------


def test_advice_can_be_followed():
    X = seeded("far")
    _, said = fitted(X, target(X, "numbers", 1), l2=1e-4, tol=1e-15, standardize=True)
    assert "did not converge" in said
    assert "dtype=np.float64" not in said and "standardize=True" not in said


def test_advice_after_divergence_is_about_this_solver():
    X, y = fits.labels(100, 3)
    _, said = fitted(X, y, coef_init=np.full(3, 1e200))
    assert "diverged" in said
    assert "learning_rate" not in said and "epoch" not in said


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tol_that_rounding_forbids_ends_soon(dtype):
    """In float32 no gradient is below 1e-9; the objective is at its optimum all the same."""
    X, y = bundled("digits")
    X = X.astype(dtype)
    run, said = fitted(X, y, l2=1.0, tol=1e-15, max_iter=300)
    weight = np.ones(len(X))
    coef, intercept = theirs("multinomial", X.astype(np.float64), y, 1.0, weight, True)
    best = objective("multinomial", X, y, coef, intercept, 1.0, weight)
    assert objective("multinomial", X, y, run.best_coef, run.best_intercept, 1.0, weight) <= best * (1 + 1e-8)
    assert run.best_converged or "did not converge" in said
