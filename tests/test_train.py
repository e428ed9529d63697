"""Whole trainings against the float64 reference, and the pacing, divergence and interrupt rules of the epoch loop."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import calls
import splits
from reference import train as reference
from reference.loss import BINARY
from reference.loss import NAMES as ALL_LOSSES
from reference.loss import SMOOTH as LOSSES  # a training with a kink may leave its reference
from reference.roles import SCORE, TRAIN

SOLVERS = ["sgd", "adam"]


def expected(q, *, solver="sgd", epochs=2, batch_size=64, shuffle=True, seed=7, fit_intercept=True, standardize=False,
             warm=False, n_threads=1):
    """What the reference makes of the same call."""
    from gradfold.index import Permutation

    return reference.train(
        q.X, q.y, roles=q.model_roles(), sample_weight=q.sample_weight, loss=q.loss, solver=solver, l1=q.l1, l2=q.l2,
        learning_rate=q.learning_rate, schedule=q.schedule, epochs=epochs, batch_size=batch_size,
        order=(lambda epoch: Permutation(len(q.X), seed, epoch=epoch)[:]) if shuffle else None,
        fit_intercept=fit_intercept, standardize=standardize, coef_init=q.W.T if warm else None,
        intercept_init=q.intercept if warm else None, hyper=q.hyper,
    )


def check(q, rtol=1e-9, **options):
    got, want = calls.train(q, **options), expected(q, **options)
    np.testing.assert_array_equal(got.steps, want.steps)
    np.testing.assert_array_equal(got.diverged_epoch, want.diverged_epoch)
    np.testing.assert_array_equal(got.diverged_batch, want.diverged_batch)
    # Rounding is relative to the largest weights of a model: a coefficient near 0 is a difference of larger ones.
    # And a gradient of 0 in exact arithmetic is a rounding error here or there, which adam multiplies by up to 1e8.
    size = np.maximum(np.abs(want.coef).max(axis=1), np.abs(want.intercept))
    size = np.maximum(size, 1.0 if options.get("solver") == "adam" else 1e-3)
    assert (np.abs(got.coef - want.coef) <= rtol * size[:, None]).all(), np.abs(got.coef - want.coef).max() / size.max()
    assert (np.abs(got.intercept - want.intercept) <= rtol * size).all()
    np.testing.assert_allclose(got.history, want.history, rtol=10 * rtol, atol=rtol)
    return got


# ---- the reference itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_reference_sgd_is_scikit_learns(loss):
    """One row at a time, in order, constant rate, no penalty: SGDClassifier and SGDRegressor make the same steps."""
    from sklearn.linear_model import SGDClassifier, SGDRegressor

    q = calls.problem(1, n=150, p=6, m=1, loss=loss, weights="none", kind="holdout")
    rows = q.model_roles()[0] == TRAIN
    common = dict(penalty=None, alpha=0.0001, learning_rate="constant", eta0=0.05, shuffle=False, max_iter=3, tol=None)
    peer = SGDClassifier(loss=loss, **common) if loss in BINARY else SGDRegressor(loss=loss, epsilon=0.1, **common)
    peer.fit(q.X[rows], q.y[rows])
    got = reference.train(
        q.X, q.y, roles=q.model_roles(), loss=loss, solver="sgd", l1=[0.0], l2=[0.0], learning_rate=[0.05],
        schedule=["constant"], epochs=3, batch_size=1,
    )
    np.testing.assert_allclose(got.coef[0], peer.coef_.ravel(), rtol=1e-10)
    np.testing.assert_allclose(got.intercept[0], peer.intercept_[0], rtol=1e-10)
    assert got.steps[0] == 3 * rows.sum()
    ours = calls.train(
        calls.replace(
            q, l1=np.zeros(1), l2=np.zeros(1), learning_rate=np.full(1, 0.05), schedule=["constant"], loss_epsilon=None
        ),
        epochs=3, batch_size=1, shuffle=False,
    )
    np.testing.assert_allclose(ours.coef[0], peer.coef_.ravel(), rtol=1e-10)


def test_reference_reaches_scikit_learns_ridge():
    """Full-batch descent converges to the closed form: mean squared error / 2 + l2 |w|^2 / 2 on weighted rows."""
    from sklearn.linear_model import Ridge

    q = calls.problem(2, n=80, p=3, m=1, loss="squared_error", kind="holdout")
    rows = q.model_roles()[0] == TRAIN
    w = q.sample_weight[rows]
    peer = Ridge(alpha=0.1 * w.sum()).fit(q.X[rows], q.y[rows], sample_weight=w)
    got = reference.train(
        q.X, q.y, roles=q.model_roles(), sample_weight=q.sample_weight, loss="squared_error", solver="sgd", l1=[0.0],
        l2=[0.1], learning_rate=[0.5], schedule=["constant"], epochs=400, batch_size=80,
    )
    np.testing.assert_allclose(got.coef[0], peer.coef_, rtol=1e-9)
    np.testing.assert_allclose(got.intercept[0], peer.intercept_, rtol=1e-9)


def test_reference_lasso_is_scikit_learns():
    """Proximal descent converges to scikit-learn's Lasso, whose objective is the same one."""
    from sklearn.linear_model import Lasso

    q = calls.problem(3, n=80, p=8, m=1, loss="squared_error", kind="holdout", weights="none")
    rows = q.model_roles()[0] == TRAIN
    peer = Lasso(alpha=0.15, tol=1e-12, max_iter=100_000).fit(q.X[rows], q.y[rows])
    got = reference.train(
        q.X, q.y, roles=q.model_roles(), loss="squared_error", solver="sgd", l1=[0.15], l2=[0.0], learning_rate=[0.3],
        schedule=["constant"], epochs=800, batch_size=80,
    )
    assert 0 < (peer.coef_ == 0).sum() < 8
    np.testing.assert_array_equal(got.coef[0] == 0, peer.coef_ == 0)
    np.testing.assert_allclose(got.coef[0], peer.coef_, rtol=1e-7)


# ---- whole trainings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", splits.KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_kind_of_split(each_level, kind, solver):
    check(calls.problem(11, n=90, p=5, m=10, kind=kind), solver=solver, epochs=3, batch_size=16)


def has_no_gradient(q):
    """Whether some model has hardly a training row, or one class only.

    On centred columns its gradient is then 0 in exact arithmetic and a rounding error in ours, which adam divides by
    itself plus 1e-8: no two implementations agree on what becomes of it.
    """
    weight = np.ones(len(q.y)) if q.sample_weight is None else q.sample_weight
    trains = (q.model_roles() == TRAIN) & (weight > 0)
    one_class = q.loss == "log_loss" and any(len(set(q.y[rows])) == 1 for rows in trains)
    return one_class or trains.sum(axis=1).min() < 4


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(12, 150),
    p=st.sampled_from([1, 2, 7, 30]),
    m=st.sampled_from([1, 3, 9]),
    loss=st.sampled_from(LOSSES),
    kind=st.sampled_from(sorted(splits.KINDS)),
    weights=st.sampled_from(["none", "ones", "integers", "zeros"]),
    solver=st.sampled_from(SOLVERS),
    epochs=st.integers(1, 4),
    batch_size=st.sampled_from([1, 3, 16, 100, 1000]),
    shuffle=st.booleans(),
    fit_intercept=st.booleans(),
    standardize=st.booleans(),
    warm=st.booleans(),
    n_threads=st.sampled_from([1, 2]),
)
def test_against_the_reference(seed, n, p, m, loss, kind, weights, **options):
    q = calls.problem(seed, n=n, p=p, m=m, loss=loss, kind=kind, weights=weights)
    assume(not has_no_gradient(q))
    check(q, **options)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("batch_size", [1024, 1025, 2100])
def test_batches_of_more_than_one_chunk(each_level, solver, batch_size):
    check(calls.problem(13, n=2100, p=3, m=7), solver=solver, epochs=2, batch_size=batch_size)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("p", [257, 1000])
def test_more_than_one_chunk_of_features(each_level, solver, p):
    check(calls.problem(14, n=60, p=p, m=4), solver=solver, epochs=2, batch_size=16)


@pytest.mark.parametrize("solver", SOLVERS)
def test_float32_is_near(each_level, solver):
    q = calls.problem(15, n=400, p=12, m=20, dtype=np.float32)
    check(q, rtol=2e-4, solver=solver, epochs=2, batch_size=32)


# ---- standardize -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_standardize_is_training_on_standardised_columns(each_level, solver):
    """Badly scaled columns: the same as standardising a copy by each split's own training rows, mapped back."""
    q = calls.problem(21, n=200, p=6, m=5)
    X = np.ascontiguousarray(q.X * 10.0 ** np.arange(-3, 3) + 10.0 ** np.arange(3, -3, -1))
    check(calls.replace(q, X=X), rtol=1e-7, solver=solver, epochs=4, batch_size=32, standardize=True)


def test_moments_come_from_the_splits_own_training_rows():
    """Held-out and weightless rows far away move nothing."""
    q = calls.problem(22, n=120, p=3, m=1, kind="holdout")
    far = q.X.copy()
    far[(q.model_roles()[0] != TRAIN) | (q.sample_weight == 0)] += 1e6
    a = calls.train(q, standardize=True)
    b = calls.train(calls.replace(q, X=far), standardize=True)
    assert a.weights_of(0) == b.weights_of(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [3.0, 0.1, 1e-8, 12345.678, -1e6])
def test_a_constant_column_has_scale_one(each_level, dtype, value):
    """However its mean rounds: a scale of 1e-17 would blow the column up to noise of unit size."""
    q = calls.problem(23, n=1500, p=3, m=4, dtype=dtype)
    X = q.X.copy()
    X[:, 1] = value
    t = calls.train(calls.replace(q, X=X), solver="adam", standardize=True, epochs=3)
    without = calls.train(
        calls.replace(q, X=np.ascontiguousarray(X[:, [0, 2]]), W=q.W[[0, 2]]), solver="adam", standardize=True, epochs=3
    )
    assert (np.abs(t.coef[:, 1]) < 1).all(), t.coef[:, 1]
    if dtype == np.float64 and abs(value) < 1e3:
        np.testing.assert_allclose(t.coef[:, [0, 2]], without.coef, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("value", [0.0, 0.1, 3.0, 1000.0, 20240115.0, 1e8, -1e8])
def test_a_constant_column_keeps_weight_zero(dtype, solver, value):
    """Its centred gradient is rounding noise, of which adam would make whole steps; and the other columns' bits stay."""
    q = calls.problem(45, n=1003, p=4, m=6, dtype=dtype, weights="integers")
    q.X[:, 2] = dtype(value)
    t = calls.trainer(q, solver=solver, epochs=10, batch_size=100, standardize=True)
    assert t.advance() == "done"
    assert (t.coef()[:, 2] == 0).all() and (t.coef()[:, [0, 1, 3]] != 0).all()
    assert (t.diverged_epoch == -1).all()


def test_a_batch_size_near_the_largest_integer_is_one_batch():
    q = calls.problem(46, n=60, p=3, m=4)
    whole, huge = calls.trainer(q, epochs=3, batch_size=60), calls.trainer(q, epochs=3, batch_size=2**63 - 1)
    assert whole.advance() == huge.advance() == "done"
    assert huge.steps().tolist() == [3] * 4
    assert whole.coef().tobytes() == huge.coef().tobytes()


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize(("scale", "rate"), [(1e-6, 5.0), (1e-30, 1e10), (1e-40, 1.0)])
def test_diverging_standardized_weights_are_finite_on_the_scale_of_x(solver, scale, rate):
    """W may be finite while W / scale, which is what a model returns, is not."""
    q = calls.problem(47, n=300, p=3, m=5, dtype=np.float32, loss="squared_error")
    q = calls.replace(q, X=(q.X * np.float32(scale)).astype(np.float32), learning_rate=np.full(5, rate), l1=np.zeros(5))
    t = calls.trainer(q, solver=solver, epochs=40, batch_size=64, standardize=True)
    assert t.advance() == "done"
    assert np.isfinite(t.coef()).all() and np.isfinite(t.intercept()).all()


def test_a_column_constant_in_training_rows_alone_has_scale_one():
    q = calls.problem(24, n=90, p=3, m=2, kind="holdout")
    X = q.X.copy()
    X[(q.model_roles()[0] == TRAIN), 2] = 4.0
    check(calls.replace(q, X=X), rtol=1e-7, standardize=True)


# ---- pacing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_fifty_thousand_rows_in_batches_of_125_for_20_epochs_are_8000_steps(solver):
    q = calls.problem(31, n=50_000, p=3, m=5, dtype=np.float32)
    t = calls.trainer(q, solver=solver, epochs=20, batch_size=125)
    assert t.advance() == "done"
    assert t.steps().tolist() == [8000] * 5
    assert t.epochs_done == 20
    assert t.history().shape == (20, 5)


@pytest.mark.parametrize("batch_size", [500, 501, 10**12])
def test_a_batch_of_all_rows_is_one_step_an_epoch_in_natural_order(batch_size):
    q = calls.problem(32, n=500, p=3, m=5)
    t = calls.train(q, epochs=7, batch_size=batch_size, shuffle=True)
    assert t.steps.tolist() == [7] * 5
    assert t.bytes() == calls.train(q, epochs=7, batch_size=500, shuffle=False).bytes()


def test_the_last_batch_is_short():
    q = calls.problem(33, n=101, p=3, m=5, weights="none")
    assert calls.train(q, epochs=2, batch_size=100, shuffle=False).steps.max() == 4


def test_a_model_steps_only_where_it_trains():
    """Time series in natural order: split s trains on the first s + 1 of 5 blocks, and only there."""
    q = calls.problem(34, n=100, p=3, m=4, kind="time_series", weights="none")
    q = calls.replace(q, split_of_model=np.arange(4))
    assert calls.train(q, epochs=3, batch_size=10, shuffle=False).steps.tolist() == [6, 12, 18, 24]


def test_the_seed_and_the_epoch_change_the_order():
    q = calls.problem(35, n=100, p=3, m=2)
    runs = [
        calls.train(q, epochs=1, batch_size=9, **options)
        for options in ({"seed": 1}, {"seed": 2}, {"shuffle": False}, {"seed": 1})
    ]
    coefs = [r.coef.tobytes() for r in runs]
    assert coefs[0] == coefs[3] and len(set(coefs)) == 3


# ---- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("standardize", [False, True])
def test_integer_weights_are_repeated_rows_at_full_batch(each_level, solver, standardize):
    q = calls.problem(41, n=80, p=4, m=6, weights="integers")
    times = q.sample_weight.astype(int)
    repeated = calls.replace(
        q, X=np.repeat(q.X, times, axis=0), y=np.repeat(q.y, times), sample_weight=None,
        splits=splits.Splits(np.ascontiguousarray(np.repeat(q.splits.ids, times, axis=1)), q.splits.conditions),
    )
    options = {"solver": solver, "epochs": 20, "standardize": standardize, "batch_size": 1000}
    a, b = calls.train(q, **options), calls.train(repeated, **options)
    np.testing.assert_allclose(a.coef, b.coef, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(a.intercept, b.intercept, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(a.history, b.history, rtol=1e-9)


def test_a_weight_of_three_counts_three_times_at_batch_size_one():
    """One row, one step from 0 with sgd: dividing by the batch's own weight would cancel the weight."""
    q = calls.problem(42, n=6, p=3, m=1, kind="holdout", weights="ones")
    first = int(np.flatnonzero(q.model_roles()[0] == TRAIN)[0])
    weight = np.ones(6)
    weight[first] = 3
    t1 = calls.trainer(q, batch_size=1, shuffle=False, epochs=1)
    t3 = calls.trainer(calls.replace(q, sample_weight=weight), batch_size=1, shuffle=False, epochs=1)
    for t in (t1, t3):
        t.advance(max_steps=first + 1)
        assert t.steps().tolist() == [1]
    n_train = (q.model_roles()[0] == TRAIN).sum()
    mean_weight = (n_train + 2) / n_train
    assert t1.coef().any()
    if q.l1[0] == 0:
        np.testing.assert_allclose(t3.coef(), 3 / mean_weight * t1.coef(), rtol=1e-12)
    np.testing.assert_allclose(t3.intercept(), 3 / mean_weight * t1.intercept(), rtol=1e-12)


def test_all_weights_times_a_constant_change_nothing_but_rounding():
    q = calls.problem(43, n=80, p=4, m=6)
    a = calls.train(q, epochs=5)
    b = calls.train(calls.replace(q, sample_weight=q.sample_weight * 4), epochs=5)  # a power of two: no rounding at all
    assert a.bytes() == b.bytes()


@pytest.mark.parametrize("empty", ["weight", "split"])
def test_a_split_without_a_training_row_is_an_error_that_names_it(empty):
    q = calls.problem(44, n=40, p=2, m=5, kind="overlapping", weights="ones")
    q = calls.replace(q, split_of_model=np.array([0, 1, 3, 1, 2]))
    if empty == "weight":
        q.sample_weight[q.splits.roles()[3] == TRAIN] = 0
        q.sample_weight[(q.splits.roles()[:3] == TRAIN).all(axis=0) & (q.splits.roles()[3] != TRAIN)] = 1
    else:
        q.splits.ids[3] = 1
    with pytest.raises(ValueError, match="split 3"):
        calls.train(q)


# ---- held-out losses ---------------------------------------------------------------------------------------------


def test_held_out_losses_are_nan_where_nothing_weighs():
    q = calls.problem(51, n=40, p=2, m=4, kind="overlapping", weights="ones")
    q = calls.replace(q, split_of_model=np.array([0, 1, 2, 3]))
    q.splits.ids[1][q.splits.ids[1] == 1] = 255  # split 1 scores no row at all
    roles = q.splits.roles()
    only_in_2 = (roles[2] == SCORE)
    q.sample_weight[only_in_2] = 0  # and split 2 only weightless ones
    history = calls.train(q).history
    weighs = [(q.sample_weight[role == SCORE] > 0).any() for role in roles]
    assert weighs == [True, False, False, True]
    np.testing.assert_array_equal(np.isnan(history), [[not w for w in weighs]] * 2)


def test_skipped_rows_are_in_no_held_out_loss():
    q = calls.problem(52, n=100, p=3, m=3, kind="holdout")
    skipped = q.model_roles()[0] == 0
    X, y, w = q.X.copy(), q.y.copy(), q.sample_weight.copy()
    X[skipped], y[skipped], w[skipped] = np.nan, np.nan, np.nan
    assert calls.train(q).bytes() == calls.train(calls.replace(q, X=X, y=y, sample_weight=w)).bytes()


# ---- divergence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", SOLVERS)
def test_divergence_is_marked_and_touches_nobody_else(each_level, solver, dtype):
    q = calls.problem(61, n=120, p=4, m=20, dtype=dtype, loss="squared_error")
    rates = np.full(20, 0.01)
    wild = [3, 11]
    rates[wild] = 1e200 if solver == "adam" else [1e3, 1e12]
    q = calls.replace(q, learning_rate=rates, l1=np.zeros(20), schedule=["constant"] * 20)
    options = {"solver": solver, "epochs": 12, "batch_size": 10}
    t = calls.train(q, **options)
    tame = [k for k in range(20) if k not in wild]
    assert (t.diverged_epoch[wild] >= 0).all() and (t.diverged_batch[wild] >= 0).all()
    assert (t.diverged_epoch[tame] == -1).all() and (t.diverged_batch[tame] == -1).all()
    assert np.isfinite(t.coef).all() and np.isfinite(t.intercept).all()
    assert np.isnan(t.history[-1, wild]).all() and np.isfinite(t.history[:, tame]).all()
    for k in wild:  # the last finite weights are those of exactly `steps` batches
        assert t.steps[k] == t.diverged_epoch[k] * 12 + t.diverged_batch[k]
        before = calls.trainer(q.of_models([k]), **options)
        if t.steps[k]:
            before.advance(max_steps=int(t.steps[k]))
        assert before.coef().tobytes() == t.coef[k].tobytes()
        assert before.diverged_epoch.tolist() == [-1]
    alone = calls.train(q.of_models(tame), **options)
    assert alone.bytes() == [t.of(k) for k in tame]


@pytest.mark.parametrize("solver", SOLVERS)
def test_divergence_happens_where_the_reference_diverges(solver):
    q = calls.problem(62, n=120, p=4, m=3, loss="squared_error", weights="ones")
    q = calls.replace(q, learning_rate=np.array([0.01, 1e4, 1e30]), l1=np.zeros(3), schedule=["constant"] * 3)
    if solver == "adam":
        q = calls.replace(q, learning_rate=np.array([0.01, 0.02, 1e160]))
    got = check(q, rtol=1e-8, solver=solver, epochs=20, batch_size=10)
    assert got.diverged_epoch[0] == -1 and got.diverged_epoch[2] >= 0


def test_non_finite_training_data_diverge_at_once():
    q = calls.problem(63, n=60, p=4, m=8, kind="overlapping", weights="ones")
    q = calls.replace(q, split_of_model=np.arange(8) % 4)
    X = q.X.copy()
    trains = q.splits.roles() == TRAIN
    row = int(np.flatnonzero(trains[0] & ~trains[1])[0])
    X[row, 2] = np.inf
    t = calls.train(calls.replace(q, X=X), batch_size=60)
    hit = trains[q.split_of_model, row]
    np.testing.assert_array_equal(t.diverged_epoch, np.where(hit, 0, -1))
    np.testing.assert_array_equal(t.steps, np.where(hit, 0, 2))
    assert not t.coef[hit].any()


# ---- in slices, and interrupted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_slices_are_the_same_as_one_go(each_level, solver, n_threads):
    q = calls.problem(71, n=130, p=5, m=20)
    options = {"solver": solver, "epochs": 3, "batch_size": 20, "n_threads": n_threads}
    whole = calls.train(q, **options)
    for slices in ([1] * 21, [5, 2, 7, 7], [20, 1]):
        t = calls.trainer(q, **options)
        status = [t.advance(max_steps=k) for k in slices]
        assert set(status[:-1]) <= {"paused"}
        assert t.advance() == "done"
        assert calls.read(t).bytes() == whole.bytes()
    timed = calls.trainer(q, **options)
    while timed.advance(seconds=1e-4) == "paused":
        pass
    assert calls.read(timed).bytes() == whole.bytes()


def test_max_steps_counts_batches():
    q = calls.problem(72, n=130, p=5, m=4, weights="ones")
    t = calls.trainer(q, epochs=3, batch_size=20)
    assert t.advance(max_steps=0) == "paused" and t.steps().tolist() == [0] * 4
    assert t.advance(max_steps=3) == "paused" and t.steps().tolist() == [3] * 4 and t.epochs_done == 0
    assert t.advance(max_steps=4) == "paused" and t.steps().tolist() == [7] * 4 and t.epochs_done == 1
    assert t.advance(max_steps=1000) == "done" and t.steps().tolist() == [21] * 4 and t.epochs_done == 3
    assert t.advance() == "done"


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("m, batch_size", [(100, 50), (100, 20_000), (1, 50)])
def test_cancelled_every_model_keeps_its_own_last_whole_batch(solver, n_threads, m, batch_size):
    q = calls.problem(73, n=20_000, p=20 if m > 1 else 150, m=m, dtype=np.float32, weights="ones")
    options = {"solver": solver, "epochs": 100_000, "batch_size": batch_size}
    t = calls.trainer(q, n_threads=n_threads, **options)
    answer = []
    worker = threading.Thread(target=lambda: answer.append(t.advance()))
    worker.start()
    time.sleep(0.15)
    start = time.monotonic()
    t.cancel()
    worker.join(timeout=30)
    took = time.monotonic() - start
    assert answer == ["interrupted"]
    assert took < 2, f"{took:.2f} s to stop"  # 0.2 s is promised; this machine may be busy
    steps = t.steps()
    assert steps.min() > 0
    coef, intercept = t.coef(), t.intercept()
    for made in np.unique(steps):
        models = np.flatnonzero(steps == made)
        same = calls.trainer(q.of_models(models), **options)
        same.advance(max_steps=int(made))
        assert same.steps().tolist() == [made] * len(models)
        assert same.coef().tobytes() == coef[models].tobytes()
        assert same.intercept().tobytes() == intercept[models].tobytes()


def test_cancelled_before_it_starts():
    q = calls.problem(74, n=50, p=2, m=3)
    t = calls.trainer(q, warm=True)
    t.cancel()
    assert t.advance() == "interrupted"
    assert t.steps().tolist() == [0] * 3 and t.epochs_done == 0 and t.history().shape == (0, 3)
    np.testing.assert_array_equal(t.coef(), q.W.T)
    np.testing.assert_array_equal(t.intercept(), q.intercept)


# ---- the public function -----------------------------------------------------------------------------------------


def test_fit_is_the_trainer_over_all_models():
    import gradfold as gf

    q = calls.problem(81, n=150, p=4, m=1)
    folds = gf.index.kfold(150, 3, seed=5)
    l2 = [1e-3, 1e-2]
    run = gf.fit(
        q.X, q.y, gf.grid(l2=l2), folds=folds, loss="log_loss", solver="sgd", learning_rate=0.05, epochs=3,
        batch_size=16, seed=9, sample_weight=q.sample_weight, standardize=True,
    )
    from gradfold.index import Permutation

    want = reference.train(
        q.X, q.y, roles=np.stack([folds.role(k % 3) for k in range(6)]), sample_weight=q.sample_weight,
        loss="log_loss", solver="sgd", l1=[0.0] * 6, l2=np.repeat(l2, 3), learning_rate=[0.05] * 6,
        schedule=["constant"] * 6, epochs=3, batch_size=16, standardize=True,
        order=lambda epoch: Permutation(150, 9, epoch=epoch)[:],
    )
    np.testing.assert_allclose(run.coef, want.coef, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(run.intercept, want.intercept, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(run.held_out_loss, want.history[-1].reshape(2, 3), rtol=1e-9)
    best = run.held_out_loss.mean(axis=1).argmin()
    assert run.best_candidate == best
    refit = reference.train(
        q.X, q.y, roles=np.full((1, 150), TRAIN), sample_weight=q.sample_weight, loss="log_loss", solver="sgd",
        l1=[0.0], l2=[l2[best]], learning_rate=[0.05], schedule=["constant"], epochs=3, batch_size=16,
        standardize=True, order=lambda epoch: Permutation(150, 9, epoch=epoch)[:],
    )
    np.testing.assert_allclose(np.ravel(run.best_coef), refit.coef[0], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(np.ravel(run.best_intercept), refit.intercept[0], rtol=1e-9, atol=1e-11)
