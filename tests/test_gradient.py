"""The batched loss-gradient against the float64 reference, finite differences and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calls
import splits
from reference import gradient as reference
from reference import loss as point
from reference.roles import TRAIN

DTYPES = [np.float32, np.float64]
LOSSES = point.NAMES


def expected(q, *, reduction="mean", rows=None, use_splits=True):
    return reference.loss_gradient(
        q.X, q.y, q.W, q.intercept, loss=q.loss, reduction=reduction, rows=rows,
        roles=q.model_roles() if use_splits else None, sample_weight=q.sample_weight, loss_epsilon=q.loss_epsilon,
    )


def assert_close(got, want, bound):
    assert got.shape == want.shape
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    off = np.abs(got.astype(np.float64) - want) > bound
    off &= ~np.isnan(want)
    assert not off.any(), (
        f"{off.sum()} of {off.size} are off, first at {tuple(np.argwhere(off)[0])}: "
        f"{got[off][0]!r}, wanted {want[off][0]!r} within {bound[off][0]!r}"
    )


def check(q, **options):
    """One call of the kernel against the reference, within the reference's own rounding bound."""
    n_threads = options.pop("n_threads", 1)
    with_loss = options.pop("with_loss", True)
    want = expected(q, **options)
    loss, grad_W, grad_intercept = calls.loss_gradient(q, n_threads=n_threads, with_loss=with_loss, **options)
    assert_close(grad_W, want.grad_W, want.grad_W_bound)
    if grad_intercept is not None:
        assert_close(grad_intercept, want.grad_intercept, want.grad_intercept_bound)
    if with_loss:
        assert_close(loss, want.loss, want.loss_bound)


# ---- the reference itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reference_gradient_is_the_slope_of_its_loss(loss, reduction):
    q = calls.problem(1, n=40, p=5, m=4, loss=loss)
    options = {
        "loss": loss, "reduction": reduction, "roles": q.model_roles(), "sample_weight": q.sample_weight,
        "loss_epsilon": q.loss_epsilon,
    }
    at = reference.loss_gradient(q.X, q.y, q.W, q.intercept, **options)
    h = 1e-5
    for j in range(5):
        step = np.zeros_like(q.W)
        step[j] = h
        up = reference.loss_gradient(q.X, q.y, q.W + step, q.intercept, **options).loss
        down = reference.loss_gradient(q.X, q.y, q.W - step, q.intercept, **options).loss
        np.testing.assert_allclose((up - down) / (2 * h), at.grad_W[j], rtol=1e-6, atol=1e-7)
    up = reference.loss_gradient(q.X, q.y, q.W, q.intercept + h, **options).loss
    down = reference.loss_gradient(q.X, q.y, q.W, q.intercept - h, **options).loss
    np.testing.assert_allclose((up - down) / (2 * h), at.grad_intercept, rtol=1e-6, atol=1e-7)


def test_reference_roles_by_hand():
    # Two outer folds; the inner ones live in id rows of their own. 255 is skip.
    ids = np.array([[0, 0, 1, 1, 1, 255], [255, 255, 0, 1, 0, 0]], np.uint8)
    inner = splits.conditions([[(0, 0, 1, 0, 2), (1, 0, 1, 0, 2)], [(0, 0, 1, 0, 2), (1, 1, 2, 0, 2)]])
    assert splits.Splits(ids, inner).roles().tolist() == [[0, 0, 2, 1, 2, 0], [0, 0, 1, 2, 1, 0]]
    fold = splits.conditions([[(0, 1, 2, 0, 2)], [(0, 1, 2, 0, 1)]])
    assert splits.Splits(ids, fold).roles().tolist() == [[1, 1, 2, 2, 2, 0]] * 2


@pytest.mark.parametrize("kind", splits.KINDS)
def test_a_split_told_alone_has_the_same_roles(kind):
    of_rows = splits.make(kind, np.random.default_rng(3), 300)
    roles = of_rows.roles()
    for s in range(0, of_rows.n_splits, 7):
        np.testing.assert_array_equal(of_rows.alone(s).roles()[0], roles[s])
    assert (roles == TRAIN).any(axis=1).all()


@pytest.mark.parametrize("loss", point.SMOOTH)
def test_reference_agrees_with_scikit_learn(loss):
    from sklearn._loss import HalfBinomialLoss, HalfSquaredError

    peer = HalfBinomialLoss() if loss == "log_loss" else HalfSquaredError()
    rng = np.random.default_rng(5)
    z = np.concatenate([rng.standard_normal(200) * 3, rng.standard_normal(50) * 300])
    y = (rng.random(250) < 0.5).astype(np.float64)
    np.testing.assert_allclose(point.value(loss, y, z), peer.loss(y, z), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(point.gradient(loss, y, z), peer.gradient(y, z), rtol=1e-12, atol=1e-16)


def test_reference_agrees_with_scikit_learns_sgd():
    """The formulas of SGDClassifier and SGDRegressor, kinks included; huber is compared in a training (test_train)."""
    from sklearn.linear_model import _sgd_fast

    peers = {
        "hinge": _sgd_fast.Hinge(1.0), "perceptron": _sgd_fast.Hinge(0.0), "squared_hinge": _sgd_fast.SquaredHinge(1.0),
        "modified_huber": _sgd_fast.ModifiedHuber(), "epsilon_insensitive": _sgd_fast.EpsilonInsensitive(0.25),
        "squared_epsilon_insensitive": _sgd_fast.SquaredEpsilonInsensitive(0.25),
    }
    rng = np.random.default_rng(6)
    z = np.concatenate([rng.standard_normal(200) * 2, [-2, -1, -0.25, 0, 0.25, 0.75, 1, 1.25, 2]])
    for name, peer in peers.items():
        for label in (-1.0, 1.0):
            want = np.array([(peer.py_loss(label, v), peer.py_dloss(v, label)) for v in z])
            np.testing.assert_allclose(point.value(name, label, z, 0.25), want[:, 0], rtol=1e-14, atol=1e-15)
            np.testing.assert_allclose(point.gradient(name, label, z, 0.25), want[:, 1], rtol=1e-14, atol=1e-15)


def test_reference_multinomial_agrees_with_scikit_learn():
    from sklearn._loss import HalfMultinomialLoss

    rng = np.random.default_rng(7)
    z, y = rng.standard_normal((200, 5)) * 4, rng.integers(0, 5, 200).astype(np.float64)
    peer = HalfMultinomialLoss(n_classes=5)
    losses, slope = point.multinomial(y, z)
    np.testing.assert_allclose(losses, peer.loss(y, z), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(slope, peer.gradient(y, z), rtol=1e-12, atol=1e-15)


# ---- the kernel against the reference ----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 15, 16, 17, 48, 100, 113])
def test_panel_widths(each_level, m, dtype, loss):
    """Every remainder of the panels' lanes, over one chunk of rows and a second, short one."""
    check(calls.problem(m, n=1030, p=7, m=m, dtype=dtype, loss=loss))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 2, 7, 255, 256, 257, 512, 1000])
def test_feature_chunks(each_level, p, dtype):
    check(calls.problem(p, n=70, p=p, m=5, dtype=dtype, loss="squared_error"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 31, 1023, 1024, 1025, 2047, 2048, 2049, 2500])
def test_row_chunks(each_level, n, dtype):
    q = calls.problem(n, n=n, p=3, m=17, dtype=dtype, kind="kfold")
    check(q)
    check(q, use_splits=False)


@pytest.mark.parametrize(("n", "dtype_of_ids"), [(300, np.uint16), (4100, np.uint16), (70_000, np.uint32)])
def test_many_ids(each_level, n, dtype_of_ids):
    """Leave-one-out outgrows uint8, any table of ids, and uint16."""
    q = calls.problem(n, n=n, p=1, m=6, kind="leave_one_out")
    q.split_of_model[:3] = [0, n - 1, n // 2]
    assert q.splits.ids.dtype == dtype_of_ids
    check(q)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    n=st.one_of(st.integers(1, 200), st.integers(1000, 2500)),
    p_m=st.sampled_from([(1, 1), (1, 16), (1, 113), (7, 3), (7, 48), (7, 100), (257, 2), (257, 15), (1000, 4)]),
    dtype=st.sampled_from(DTYPES),
    loss=st.sampled_from(LOSSES),
    kind=st.sampled_from(sorted(splits.KINDS)),
    weights=st.sampled_from(["none", "ones", "integers", "zeros"]),
    intercept=st.booleans(),
    reduction=st.sampled_from(["mean", "sum"]),
    with_loss=st.booleans(),
    use_splits=st.booleans(),
    subset=st.sampled_from(["all", "half", "repeats", "long"]),
    n_threads=st.sampled_from([1, 2, 7]),
)
def test_against_the_reference(
    seed, n, p_m, dtype, loss, kind, weights, intercept, reduction, with_loss, use_splits, subset, n_threads
):
    p, m = p_m
    n = max(n, 2) if kind == "leave_one_out" else n
    q = calls.problem(
        seed, n=n, p=p, m=m, dtype=dtype, kind=kind, loss=loss, weights=weights, intercept=intercept
    )
    rng = np.random.default_rng(seed + 1)
    rows = {
        "all": lambda: None,
        "half": lambda: rng.permutation(n)[: (n + 1) // 2],
        "repeats": lambda: rng.integers(0, n, n),
        "long": lambda: rng.integers(0, n, 1500),  # more positions than rows, and more than one chunk of them
    }[subset]()
    check(
        q, reduction=reduction, with_loss=with_loss, use_splits=use_splits, n_threads=n_threads,
        rows=None if rows is None else rows.astype(np.int64),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_minus_one_and_one_are_labels_zero_and_one(each_level, dtype):
    q = calls.problem(11, n=90, p=5, m=6, dtype=dtype)
    signed = calls.replace(q, y=2 * q.y - 1)
    for a, b in zip(calls.loss_gradient(q), calls.loss_gradient(signed), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_asked_for_or_not_and_the_gradient_is_the_same(each_level, dtype, reduction):
    q = calls.problem(12, n=1100, p=9, m=20, dtype=dtype)
    _, grad_W, grad_intercept = calls.loss_gradient(q, reduction=reduction, with_loss=True)
    _, same_W, same_intercept = calls.loss_gradient(q, reduction=reduction, with_loss=False)
    assert grad_W.tobytes() == same_W.tobytes()
    assert grad_intercept.tobytes() == same_intercept.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_intercepts_of_zero_are_no_intercepts(each_level, dtype):
    q = calls.problem(13, n=300, p=4, m=5, dtype=dtype)
    loss, grad_W, _ = calls.loss_gradient(calls.replace(q, intercept=np.zeros(5, dtype)))
    same_loss, same_W, none = calls.loss_gradient(calls.replace(q, intercept=None))
    assert none is None
    assert loss.tobytes() == same_loss.tobytes()
    assert grad_W.tobytes() == same_W.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_no_training_row_at_all(each_level, dtype, reduction):
    """Gradient +0 and mean loss NaN, whether no row is visited, none has weight, or none trains; others go on."""
    nothing = 0.0 if reduction == "sum" else np.nan
    q = calls.problem(14, n=60, p=4, m=6, dtype=dtype, kind="overlapping")
    idle = 2
    ids = q.splits.ids.copy()
    ids[q.split_of_model[idle]] = 1
    q = calls.replace(q, splits=splits.Splits(ids, q.splits.conditions))
    loss, grad_W, grad_intercept = calls.loss_gradient(q, reduction=reduction)
    of_idle = q.split_of_model == q.split_of_model[idle]
    assert of_idle.any() and not of_idle.all()
    assert not grad_W[:, of_idle].any() and not np.signbit(grad_W[:, of_idle]).any()
    assert not grad_intercept[of_idle].any() and not np.signbit(grad_intercept[of_idle]).any()
    np.testing.assert_array_equal(loss[of_idle], nothing)
    assert np.isfinite(loss[~of_idle]).all() and grad_W[:, ~of_idle].all()

    weightless = calls.replace(q, sample_weight=np.zeros(60, dtype))
    no_rows = np.zeros(0, np.int64)
    for r in (
        calls.loss_gradient(weightless, reduction=reduction),
        calls.loss_gradient(q, rows=no_rows, reduction=reduction),
    ):
        np.testing.assert_array_equal(r[0], nothing)
        assert not r[1].any() and not np.signbit(r[1]).any()
        assert not r[2].any() and not np.signbit(r[2]).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_raw_predictions(each_level, dtype, loss):
    """Far out the log-loss is linear and its gradient tiny on one side and 1 on the other; nothing overflows."""
    z = np.array([-1e4, -800, -90, -40, -15, -1e-3, 0, 1e-3, 15, 40, 90, 800, 1e4], dtype)
    n = len(z)
    for label in (0, 1):
        one = np.ones(1, np.int64)
        q = calls.Problem(
            X=np.ascontiguousarray(z[:, None]), y=np.full(n, label, dtype), sample_weight=None, splits=None,
            split_of_model=one, loss=loss, W=np.ones((1, 1), dtype), intercept=np.zeros(1, dtype),
        )
        for i in range(n):
            rows = np.array([i])
            got, _, grad_intercept = calls.loss_gradient(q, rows=rows, use_splits=False)
            close = {"rtol": 6 * np.finfo(dtype).eps, "atol": 2 * float(np.finfo(dtype).smallest_subnormal)}
            np.testing.assert_allclose(got[0], point.value(loss, label, z[i]), **close)
            np.testing.assert_allclose(grad_intercept[0], point.gradient(loss, label, z[i]), **close)


# ---- the kernel against calculus and a peer ----------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", splits.KINDS)
def test_gradient_is_the_slope_of_the_loss(loss, kind):
    """Central differences of the kernel's own loss, in random directions of all models at once."""
    q = calls.problem(21, n=120, p=6, m=9, loss=loss, kind=kind)
    _, grad_W, grad_intercept = calls.loss_gradient(q)
    rng = np.random.default_rng(22)
    h = 1e-6
    for _ in range(3):
        dW, db = rng.standard_normal(q.W.shape), rng.standard_normal(9)
        up = calls.loss_gradient(calls.replace(q, W=q.W + h * dW, intercept=q.intercept + h * db))[0]
        down = calls.loss_gradient(calls.replace(q, W=q.W - h * dW, intercept=q.intercept - h * db))[0]
        slope = (grad_W * dW).sum(axis=0) + grad_intercept * db
        np.testing.assert_allclose((up - down) / (2 * h), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", point.SMOOTH)
@pytest.mark.parametrize("dtype", DTYPES)
def test_scikit_learn_says_the_same(loss, dtype):
    """scikit-learn's LinearModelLoss, one model at a time, on a copy of its training rows."""
    from sklearn._loss import HalfBinomialLoss, HalfSquaredError
    from sklearn.linear_model._linear_loss import LinearModelLoss

    q = calls.problem(31, n=1500, p=12, m=7, dtype=dtype, loss=loss)
    losses, grad_W, grad_intercept = calls.loss_gradient(q)
    base = HalfBinomialLoss() if loss == "log_loss" else HalfSquaredError()
    peer = LinearModelLoss(base_loss=base, fit_intercept=True)
    for k, role in enumerate(q.model_roles()):
        rows = role == TRAIN
        x, y, w = (a[rows].astype(np.float64) for a in (q.X, q.y, q.sample_weight))
        value, slope = peer.loss_gradient(np.append(q.W[:, k], q.intercept[k]).astype(np.float64), x, y, w)
        tolerance = {"rtol": 1e-12, "atol": 1e-14} if dtype == np.float64 else {"rtol": 1e-5, "atol": 1e-6}
        np.testing.assert_allclose(losses[k], value, **tolerance)
        np.testing.assert_allclose(grad_W[:, k], slope[:-1], **tolerance)
        np.testing.assert_allclose(grad_intercept[k], slope[-1], **tolerance)


# ---- losses of one output: kinks, NaN and a number for each model --------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 4, 40])
@pytest.mark.parametrize("loss", point.WITH_EPSILON)
def test_epsilon_is_each_models_own(each_level, loss, m, dtype):
    """Bits: model k beside others with other epsilons is model k alone with its own, and not with another."""
    q = calls.problem(71, n=150, p=3, m=m, dtype=dtype, loss=loss)
    together = calls.loss_gradient(q)
    for k in {0, m // 2, m - 1}:
        alone = calls.loss_gradient(q.of_models([k]))
        for a, b in zip(together, alone, strict=True):
            assert np.ascontiguousarray(a[..., k]).tobytes() == b[..., 0].tobytes()
    other = calls.loss_gradient(calls.replace(q, loss_epsilon=q.loss_epsilon + 0.3))
    assert (other[0] != together[0]).all()
    default = calls.loss_gradient(calls.replace(q, loss_epsilon=None))
    tenth = calls.loss_gradient(calls.replace(q, loss_epsilon=np.full(m, 0.1)))
    assert [a.tobytes() for a in default] == [a.tobytes() for a in tenth]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 20])
@pytest.mark.parametrize("loss", LOSSES)
def test_nan_in_a_training_row_is_never_lost(each_level, loss, m, dtype):
    """A z that is NaN makes loss and gradient NaN: no compare-and-select turns it into a 0."""
    q = calls.problem(72, n=30, p=3, m=m, dtype=dtype, loss=loss, weights="none")
    X = q.X.copy()
    X[7] = np.nan
    for label in (0, 1):
        got = calls.loss_gradient(calls.replace(q, X=X, y=np.full(30, label, dtype)), use_splits=False)
        assert all(np.isnan(a).all() for a in got)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 20])
@pytest.mark.parametrize("loss", LOSSES)
def test_kinks_are_scikit_learns(each_level, loss, m, dtype):
    """Raw predictions that lie on a kink exactly."""
    z = np.array([-2, -1.25, -1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.25, 2], dtype)
    for label in (0, 1):
        q = calls.Problem(
            X=np.ascontiguousarray(z[:, None]), y=np.full(len(z), label, dtype), sample_weight=None, splits=None,
            split_of_model=np.zeros(m, np.int64), loss=loss, W=np.ones((1, m), dtype), intercept=np.zeros(m, dtype),
            loss_epsilon=np.full(m, 0.25),
        )
        for i in range(len(z)):
            got, _, slope = calls.loss_gradient(q, rows=np.array([i]), use_splits=False)
            close = {"rtol": 6 * np.finfo(dtype).eps, "atol": 0}
            np.testing.assert_allclose(got, point.value(loss, label, z[i], 0.25), **close)
            np.testing.assert_allclose(slope, point.gradient(loss, label, z[i], 0.25), **close)


# ---- several outputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n_classes", "m"), [(2, 1), (2, 70), (3, 1), (3, 17), (5, 13), (10, 1), (10, 30), (16, 3), (33, 4), (100, 2), (1000, 1)]
)
def test_multinomial_panels(each_level, n_classes, m, dtype):
    """Columns that fill vectors, blocks and panels in every way, over one chunk of rows and a second, short one."""
    n = 60 if n_classes * m > 200 else 1030
    check(calls.problem(n_classes + m, n=n, p=5, m=m, dtype=dtype, loss="multinomial", n_classes=n_classes))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 7, 256, 257, 1000])
def test_multinomial_feature_chunks(each_level, p, dtype):
    check(calls.problem(p, n=70, p=p, m=3, dtype=dtype, loss="multinomial", n_classes=4))


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10_000),
    n=st.one_of(st.integers(1, 200), st.integers(1000, 2100)),
    p=st.sampled_from([1, 7, 40]),
    k_m=st.sampled_from([(2, 3), (3, 1), (3, 20), (7, 9), (10, 2), (40, 3)]),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(sorted(splits.KINDS)),
    weights=st.sampled_from(["none", "ones", "integers", "zeros"]),
    intercept=st.booleans(),
    reduction=st.sampled_from(["mean", "sum"]),
    with_loss=st.booleans(),
    use_splits=st.booleans(),
    subset=st.sampled_from(["all", "half", "repeats"]),
    n_threads=st.sampled_from([1, 2, 7]),
)
def test_multinomial_against_the_reference(
    seed, n, p, k_m, dtype, kind, weights, intercept, reduction, with_loss, use_splits, subset, n_threads
):
    n_classes, m = k_m
    n = max(n, 2) if kind == "leave_one_out" else n
    q = calls.problem(
        seed, n=n, p=p, m=m, dtype=dtype, kind=kind, loss="multinomial", weights=weights, intercept=intercept,
        n_classes=n_classes,
    )
    rng = np.random.default_rng(seed + 1)
    rows = {
        "all": lambda: None,
        "half": lambda: rng.permutation(n)[: (n + 1) // 2].astype(np.int64),
        "repeats": lambda: rng.integers(0, n, n).astype(np.int64),
    }[subset]()
    check(q, reduction=reduction, with_loss=with_loss, use_splits=use_splits, n_threads=n_threads, rows=rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_multinomial_scikit_learn_says_the_same(dtype):
    from sklearn._loss import HalfMultinomialLoss
    from sklearn.linear_model._linear_loss import LinearModelLoss

    q = calls.problem(31, n=1500, p=12, m=7, dtype=dtype, loss="multinomial", n_classes=6)
    losses, grad_W, grad_intercept = calls.loss_gradient(q)
    peer = LinearModelLoss(base_loss=HalfMultinomialLoss(n_classes=6), fit_intercept=True)
    for k, role in enumerate(q.model_roles()):
        rows = role == TRAIN
        x, y, w = (a[rows].astype(np.float64) for a in (q.X, q.y, q.sample_weight))
        coef = np.concatenate([q.W[:, :, k].T, q.intercept[:, k, None]], axis=1).astype(np.float64)
        value, slope = peer.loss_gradient(np.asfortranarray(coef), x, y, w)
        slope = slope.reshape(6, -1, order="F")
        tolerance = {"rtol": 1e-11, "atol": 1e-13} if dtype == np.float64 else {"rtol": 1e-5, "atol": 1e-6}
        np.testing.assert_allclose(losses[k], value, **tolerance)
        np.testing.assert_allclose(grad_W[:, :, k], slope[:, :-1].T, **tolerance)
        np.testing.assert_allclose(grad_intercept[:, k], slope[:, -1], **tolerance)


def test_multinomial_gradient_is_the_slope_of_the_loss():
    q = calls.problem(21, n=120, p=6, m=9, loss="multinomial", n_classes=4)
    _, grad_W, grad_intercept = calls.loss_gradient(q)
    rng = np.random.default_rng(22)
    h = 1e-5
    for _ in range(3):
        dW, db = rng.standard_normal(q.W.shape), rng.standard_normal(q.intercept.shape)
        up = calls.loss_gradient(calls.replace(q, W=q.W + h * dW, intercept=q.intercept + h * db))[0]
        down = calls.loss_gradient(calls.replace(q, W=q.W - h * dW, intercept=q.intercept - h * db))[0]
        slope = (grad_W * dW).sum(axis=(0, 1)) + (grad_intercept * db).sum(axis=0)
        np.testing.assert_allclose((up - down) / (2 * h), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("code", [-1, 3, 0.5, 1e30, np.nan, np.inf])
def test_multinomial_of_a_code_that_is_none(each_level, dtype, code):
    """On a row that a model trains on it makes NaN; on every other row it is not seen."""
    q = calls.problem(73, n=50, p=4, m=11, dtype=dtype, loss="multinomial", weights="ones")
    y = q.y.copy()
    y[20] = code
    clean = calls.loss_gradient(q)
    got = calls.loss_gradient(calls.replace(q, y=y))
    trains = q.model_roles()[:, 20] == TRAIN
    assert trains.any() and not trains.all()
    for a, b in zip(got, clean, strict=True):
        assert np.isnan(a[..., trains]).all()
        assert np.ascontiguousarray(a[..., ~trains]).tobytes() == np.ascontiguousarray(b[..., ~trains]).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_multinomial_far_out(each_level, dtype):
    """Nothing overflows: the loss is linear far out, and an infinite or missing z makes NaN."""
    q = calls.problem(74, n=40, p=1, m=3, dtype=dtype, loss="multinomial", weights="none")
    check(calls.replace(q, X=(q.X * 1e4).astype(dtype)), use_splits=False)
    for value in (np.nan, np.inf, -np.inf):
        X = q.X.copy()
        X[5] = value
        assert all(np.isnan(a).all() for a in calls.loss_gradient(calls.replace(q, X=X), use_splits=False))


@pytest.mark.parametrize("dtype", DTYPES)
def test_multinomial_of_rows_that_are_nearly_certain(each_level, dtype):
    """Losses of 1e-17 are as exact as those of 17: nothing is taken from 1, or added to it."""
    from gradfold.gradient import loss_gradient

    rng = np.random.default_rng(76)
    n_classes, m = 4, 40
    z = np.round(rng.uniform(-20, 20, (1, n_classes, m)) * 16) / 16  # exact in float32, and so are its products with 1
    z[0, 1, :5] = z[0, 0, :5] = 20  # the largest twice
    z[0, :, 5:9] = 40 * np.eye(n_classes) - 20  # 3 e^-40 of each class
    X = np.ones((1, 1), dtype)
    for code in range(n_classes):
        y = np.array([code], dtype)
        loss, grad_W, grad_intercept = loss_gradient(X, y, z.astype(dtype), np.zeros((n_classes, m), dtype), loss="multinomial")
        want_loss, want = point.multinomial(np.full(m, code), z[0].T)
        rtol = 12 * np.finfo(dtype).eps
        np.testing.assert_allclose(loss, want_loss, rtol=rtol)
        np.testing.assert_allclose(grad_W[0], want.T, rtol=rtol)
        np.testing.assert_allclose(grad_intercept, want.T, rtol=rtol)
        assert min(want_loss) < 1e-16 and max(want_loss) > 5


def test_multinomial_of_two_classes_is_the_log_loss():
    """With raw predictions 0 and z the softmax of two classes is the logistic function of z."""
    q = calls.problem(75, n=300, p=5, m=6)
    W = np.stack([np.zeros_like(q.W), q.W], axis=1)
    both = calls.replace(q, loss="multinomial", W=W, intercept=np.stack([np.zeros(6), q.intercept]))
    one, two = calls.loss_gradient(q), calls.loss_gradient(both)
    np.testing.assert_allclose(two[0], one[0], rtol=1e-12)
    np.testing.assert_allclose(two[1][:, 1], one[1], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(two[1][:, 0], -one[1], rtol=1e-10, atol=1e-14)


def test_public_multinomial():
    import gradfold as gf

    q = calls.problem(42, n=200, p=6, m=10, loss="multinomial", n_classes=5)
    folds = gf.index.kfold(200, 5, seed=3)
    roles = np.stack([folds.role(s) for s in range(5)])[np.arange(10) % 5]
    out = (np.empty(10), np.empty_like(q.W), np.empty_like(q.intercept))
    got = gf.gradient.loss_gradient(
        q.X, q.y, q.W, q.intercept, loss="multinomial", folds=folds, sample_weight=q.sample_weight, check_finite=True,
        out=out,
    )
    want = reference.loss_gradient(
        q.X, q.y, q.W, q.intercept, loss="multinomial", roles=roles, sample_weight=q.sample_weight
    )
    assert [a is b for a, b in zip(got, out, strict=True)] == [True] * 3
    assert_close(got[0], want.loss, want.loss_bound)
    assert_close(got[1], want.grad_W, want.grad_W_bound)
    assert_close(got[2], want.grad_intercept, want.grad_intercept_bound)
    bad = q.y.copy()
    bad[9] = 5
    with pytest.raises(ValueError, match="y: got 5.0 at row 9, wanted class codes 0 to 4"):
        gf.gradient.loss_gradient(q.X, bad, q.W, loss="multinomial", check_finite=True)
    with pytest.raises(ValueError, match="W: got"):
        gf.gradient.loss_gradient(q.X, q.y, q.W[:, 0].copy(), loss="multinomial")
    with pytest.raises(ValueError, match="W: got 1001 outputs"):
        gf.gradient.loss_gradient(q.X, q.y, np.zeros((6, 1001, 1)), loss="multinomial")
    with pytest.raises(ValueError, match="W: got"):
        gf.gradient.loss_gradient(q.X, q.y, q.W, loss="log_loss")


def test_public_loss_epsilon():
    import gradfold as gf

    q = calls.problem(43, n=80, p=3, m=4, loss="huber")
    given = gf.gradient.loss_gradient(q.X, q.y, q.W, loss="huber", loss_epsilon=q.loss_epsilon)
    want = calls.loss_gradient(calls.replace(q, sample_weight=None, intercept=None), use_splits=False)
    assert given[0].tobytes() == want[0].tobytes() and given[1].tobytes() == want[1].tobytes()
    plain = gf.gradient.loss_gradient(q.X, q.y, q.W, loss="huber")
    tenth = gf.gradient.loss_gradient(q.X, q.y, q.W, loss="huber", loss_epsilon=0.1)
    assert plain[0].tobytes() == tenth[0].tobytes() != given[0].tobytes()
    for value, message in [
        (0.0, "loss_epsilon: got 0.0, wanted a finite number above 0"),
        (np.array([0.1, -1, 1, 1]), "loss_epsilon: got -1.0 for model 1, wanted finite numbers above 0"),
        (np.ones(3), "loss_epsilon: got an array of float64, shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            gf.gradient.loss_gradient(q.X, q.y, q.W, loss="huber", loss_epsilon=value)


# ---- the public function -----------------------------------------------------------------------------------------


def test_public_loss_gradient():
    import gradfold as gf

    q = calls.problem(41, n=200, p=6, m=10)
    folds = gf.index.kfold(200, 5, seed=3)
    roles = np.stack([folds.role(s) for s in range(5)])[np.arange(10) % 5]
    loss, grad_W, grad_intercept = gf.gradient.loss_gradient(
        q.X, q.y, q.W, q.intercept, loss="log_loss", folds=folds, sample_weight=q.sample_weight
    )
    want = reference.loss_gradient(
        q.X, q.y, q.W, q.intercept, loss="log_loss", roles=roles, sample_weight=q.sample_weight
    )
    assert_close(loss, want.loss, want.loss_bound)
    assert_close(grad_W, want.grad_W, want.grad_W_bound)
    assert_close(grad_intercept, want.grad_intercept, want.grad_intercept_bound)
    none, only_W, no_intercept = gf.gradient.loss_gradient(
        q.X, q.y, q.W, loss="log_loss", folds=folds, sample_weight=q.sample_weight, return_loss=False
    )
    assert none is None and no_intercept is None
    want = reference.loss_gradient(q.X, q.y, q.W, loss="log_loss", roles=roles, sample_weight=q.sample_weight)
    assert_close(only_W, want.grad_W, want.grad_W_bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 7, 257, 1000])
def test_raw_prediction(each_level, p, dtype):
    q = calls.problem(51, n=37, p=p, m=19, dtype=dtype)
    out = calls.poisoned((37, 19), dtype)
    calls._core.gradient.raw_prediction(q.X, q.W, q.intercept, out, 2)
    x, w, b = (a.astype(np.float64) for a in (q.X, q.W, q.intercept))
    bound = np.finfo(dtype).eps * (min(p, 256) + 6) * (np.abs(x) @ np.abs(w) + np.abs(b))
    assert_close(out, x @ w + b, bound)
    no_intercept = calls.poisoned((37, 19), dtype)
    calls._core.gradient.raw_prediction(q.X, q.W, None, no_intercept, 1)
    assert_close(no_intercept, x @ w, bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 7, 300])
def test_raw_prediction_of_rows(each_level, p, dtype):
    """Of rows in any order, in float64: to the bit what a copy of them gives, on any number of threads."""
    q = calls.problem(52, n=400, p=p, m=3, dtype=dtype)
    rows = np.random.default_rng(p).integers(0, 400, 2000)
    W, b, wide = (a.astype(np.float64) for a in (q.W, q.intercept, q.X[rows]))
    of_rows, whole = calls._core.gradient.raw_prediction_of_rows, calls._core.gradient.raw_prediction
    for intercept in (b, None):
        want = calls.poisoned((2000, 3), np.float64)
        whole(wide, W, intercept, want, 1)
        for n_threads in (1, 2, 7):
            out = calls.poisoned((2000, 3), np.float64)
            of_rows(q.X, rows, W, intercept, out, n_threads)
            assert out.tobytes() == want.tobytes()
    for row in (-1, 400):
        with pytest.raises(ValueError, match=f"rows: got {row}, wanted rows of X"):
            of_rows(q.X, np.array([0, row]), W, b, np.empty((2, 3)), 1)
    with pytest.raises(ValueError, match="out: "):
        of_rows(q.X, rows, W, b, np.empty((1, 3)), 1)


def test_first_non_finite(each_level):
    find = calls._core.gradient.first_non_finite
    for dtype in DTYPES:
        A = np.random.default_rng(61).standard_normal((3000, 17)).astype(dtype)
        A.flat[:5] = [np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal, -0.0, 0.0, np.finfo(dtype).min]
        assert find(A, 2) is None
        for value in (np.nan, np.inf, -np.inf):
            B = A.copy()
            B[2999, 16] = value
            assert tuple(find(B, 2)) == (2999, 16)
            B[1234, 5] = value
            B[1234, 9] = value
            for n_threads in (1, 2, 7):
                assert tuple(find(B, n_threads)) == (1234, 5)
        v = A[:, 0].copy()
        assert find(v, 1) is None
        v[777] = np.nan
        assert tuple(find(v, 1)) == (777, 0)
