"""The range test, on a trainer in plain NumPy, and the rules for another batch size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradfold import _learning_rate
from gradfold._learning_rate import choose, range_test, scaled


class _Trainer:
    """Plain SGD or adam over models that differ in rate and split, with what `range_test` asks of a trainer."""

    def __init__(
        self, X: Any, y: Any, train: Any, rates: Any, splits: Any, *, loss: str, solver: str, batch_size: int
    ) -> None:
        self.X, self.y, self.solver, self.loss = X, y, solver, loss
        self.rates, self.batch_size = rates, batch_size
        self.mask = train[splits].astype(float)  # (m, n_rows)
        m, p = len(rates), X.shape[1]
        self.W, self.b = np.zeros((m, p)), np.zeros(m)
        self.m1, self.m2 = np.zeros((m, p + 1)), np.zeros((m, p + 1))
        self.steps = 0
        self.total, self.count = np.zeros(m), np.zeros(m)
        self.diverged_epoch = np.full(m, -1)

    def advance(self, max_steps: int) -> str:
        n = len(self.X)
        per_epoch = -(-n // self.batch_size)
        for _ in range(max_steps):
            epoch, batch = divmod(self.steps, per_epoch)
            rows = np.random.default_rng(epoch).permutation(n)[batch * self.batch_size : (batch + 1) * self.batch_size]
            self._step(rows)
        return "paused"

    def _step(self, rows: Any) -> None:
        self.steps += 1
        X, y, mask = self.X[rows], self.y[rows], self.mask[:, rows]
        with np.errstate(all="ignore"):
            z = self.W @ X.T + self.b[:, None]
            if self.loss == "log_loss":
                t = np.where(y > 0, -z, z)
                loss, r = np.logaddexp(0, t), np.where(y > 0, -1, 1) / (1 + np.exp(-t))
            else:
                loss, r = (z - y) ** 2 / 2, z - y
            on = mask > 0
            self.total += np.where(on, loss, 0).sum(axis=1)
            self.count += on.sum(axis=1)
            r = np.where(on, r, 0) / np.maximum(on.sum(axis=1), 1)[:, None]
            g = np.concatenate([r @ X, r.sum(axis=1)[:, None]], axis=1)
            if self.solver == "adam":
                self.m1 = 0.9 * self.m1 + 0.1 * g
                self.m2 = 0.999 * self.m2 + 0.001 * g * g
                g = self.m1 / (1 - 0.9**self.steps) / (np.sqrt(self.m2 / (1 - 0.999**self.steps)) + 1e-8)
            step = self.rates[:, None] * g
            new = np.concatenate([self.W, self.b[:, None]], axis=1) - step
        fine = np.isfinite(new).all(axis=1) & (self.diverged_epoch < 0)
        self.diverged_epoch[(self.diverged_epoch < 0) & ~fine] = 0
        self.W[fine], self.b[fine] = new[fine, :-1], new[fine, -1]

    def train_loss(self, reset: bool = True) -> Any:
        with np.errstate(all="ignore"):
            out = self.total / self.count
        if reset:
            self.total[:] = self.count[:] = 0
        return out

    def full_loss(self, split_rows: Any) -> Any:
        with np.errstate(all="ignore"):
            z = self.W @ self.X[split_rows].T + self.b[:, None]
            y = self.y[split_rows]
            loss = np.logaddexp(0, np.where(y > 0, -z, z)) if self.loss == "log_loss" else (z - y) ** 2 / 2
            return np.where(self.diverged_epoch >= 0, np.inf, loss.mean(axis=1))


def _folds(n: int, k: int = 3) -> Any:
    return np.arange(n)[None, :] % k != np.arange(k)[:, None]


def _classification(n: int, scale: Any, seed: int = 0, p: int = 8) -> Any:
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((n, p))
    y = (Z @ rng.standard_normal(p) * 1.5 + rng.logistic(size=n) > 0).astype(float)
    return Z * scale, y


def _regression(n: int, scale: Any, seed: int = 0, p: int = 8) -> Any:
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((n, p))
    return Z * scale, Z @ rng.standard_normal(p) + 0.3 * rng.standard_normal(n)


_CASES = {
    "well, log_loss": (_classification(1500, 1.0), "log_loss"),
    "well, squared_error": (_regression(1500, 1.0), "squared_error"),
    "ill, log_loss": (_classification(1500, np.logspace(0, 2, 8)), "log_loss"),
    "ill, squared_error": (_regression(1500, np.logspace(0, 2, 8)), "squared_error"),
    "huge, squared_error": (_regression(1500, 1e6), "squared_error"),
}


@pytest.mark.parametrize("batch_size", [16, 128])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("case", _CASES)
def test_the_rate_trains_nearly_as_well_as_the_best_of_the_grid(case: str, solver: str, batch_size: int) -> None:
    """Over ten epochs the chosen rate gets at least 3/4 of the decrease that the best fixed rate gets."""
    (X, y), loss = _CASES[case]
    train = _folds(len(X))

    def trainer_of(rates: Any, splits: Any, epochs: int) -> _Trainer:
        return _Trainer(X, y, train, rates, splits, loss=loss, solver=solver, batch_size=batch_size)

    chosen = range_test(trainer_of, 3, default=0.1)
    assert chosen.shape == (3,) and np.isfinite(chosen).all() and (chosen > 0).all()
    oracle_rates = np.unique(np.concatenate([_learning_rate._grid(s) for s in range(2)]))
    for split in (0, 2):
        near = (oracle_rates > chosen[split] / 100) & (oracle_rates < chosen[split] * 100)
        rates = np.concatenate([[chosen[split]], oracle_rates[near]])
        trainer = trainer_of(rates, np.full(len(rates), split), 3)
        start = trainer.full_loss(train[split])[0]
        trainer.advance(10 * -(-len(X) // batch_size))
        end = trainer.full_loss(train[split])
        best = start - end[1:].min()
        assert start - end[0] >= 0.75 * best, (chosen[split], rates[1 + np.argmin(end[1:])])


def test_held_out_rows_do_not_matter() -> None:
    X, y = _classification(900, 1.0)
    train = _folds(len(X))

    def rates(X: Any, y: Any) -> Any:
        return range_test(
            lambda r, s, e: _Trainer(X, y, train, r, s, loss="log_loss", solver="sgd", batch_size=32), 3, default=0.1
        )

    clean = rates(X, y)
    other_X, other_y = X.copy(), y.copy()
    other_X[~train[1]] *= 1e6
    other_y[~train[1]] = 1 - other_y[~train[1]]
    poisoned = rates(other_X, other_y)
    assert poisoned[1] == clean[1] and poisoned[0] != clean[0] and poisoned[2] != clean[2]


def test_a_constant_target_has_a_flat_loss() -> None:
    X = np.random.default_rng(0).standard_normal((300, 4))
    train = _folds(300)
    chosen = range_test(
        lambda r, s, e: _Trainer(X, np.zeros(300), train, r, s, loss="squared_error", solver="sgd", batch_size=32),
        3,
        default=0.05,
    )
    assert chosen.tolist() == [0.05] * 3


class _Scripted:
    """A trainer whose losses are given by a function of the rate."""

    def __init__(self, rates: Any, splits: Any, loss: Any, status: str = "paused") -> None:
        self.rates, self.splits, self.status = rates, splits, status
        self.loss = loss
        self.asked: list[int] = []
        values = np.array([loss(r, s) for r, s in zip(rates, splits)])
        self.diverged_epoch = np.where(np.isfinite(values), -1, 0)
        self.values = values

    def advance(self, max_steps: int) -> str:
        self.asked.append(max_steps)
        return self.status

    def train_loss(self, reset: bool) -> Any:
        return np.where(self.diverged_epoch >= 0, 0.001, self.values)  # a diverged model's loss is not to be believed


def test_each_split_has_its_own_grid() -> None:
    """Split 0 is well-behaved, split 1 bears nothing above 1e-13, split 2 diverges at every rate."""
    made = []

    def loss(rate: float, split: int) -> float:
        if split == 2:
            return math.inf
        top = 1.0 if split == 0 else 1e-13
        return math.inf if rate > top else 1 - rate / top

    def trainer_of(rates: Any, splits: Any, epochs: int) -> _Scripted:
        made.append((rates[0], rates[-1], sorted(set(splits.tolist())), epochs))
        return _Scripted(rates, splits, loss)

    chosen = range_test(trainer_of, 3, default=0.1)
    assert chosen.tolist() == [0.5, 0.5e-13, 1e-35]
    assert [splits for _, _, splits, _ in made] == [[0, 1, 2], [1, 2], [2], [2]]
    assert all(epochs >= _learning_rate.STEPS for *_, epochs in made)
    for (low, *_), (_, high, *_) in zip(made[:-1], made[1:]):
        assert low * 10 == pytest.approx(high)  # they share a decade, since a rate of the lowest is not trusted


def test_steps_and_interrupt() -> None:
    trainers = []

    def trainer_of(rates: Any, splits: Any, epochs: int, status: str = "paused") -> _Scripted:
        trainers.append(_Scripted(rates, splits, lambda r, s: 1.0, status))
        return trainers[-1]

    range_test(trainer_of, 2, default=0.1)
    assert sum(trainers[0].asked) == _learning_rate.STEPS
    chosen = range_test(lambda r, s, e: trainer_of(r, s, e, "interrupted"), 2, default=0.1)
    assert np.isnan(chosen).all() and len(trainers[-1].asked) == 1
    calls = []

    def advance(trainer: Any, steps: int) -> str:
        calls.append(steps)
        return "done" if len(calls) == 1 else "interrupted"

    assert np.isnan(range_test(trainer_of, 2, default=0.1, advance=advance)).all() and len(calls) == 2


_RATES = _learning_rate._grid(0)


def test_grid() -> None:
    assert len(_RATES) == 41 and (np.diff(_RATES) > 0).all()
    assert _RATES[0] == 1e-8 and _RATES[-1] == 100 and (_RATES[1:] / _RATES[:-1] < 1.81).all()


@given(
    loss=st.lists(st.one_of(st.floats(0.01, 10), st.just(math.inf), st.just(math.nan)), min_size=41, max_size=41),
    default=st.floats(1e-4, 1),
)
def test_any_losses_give_a_rate_or_ask_for_lower_ones(loss: list[float], default: float) -> None:
    rate = choose(_RATES, np.array(loss), default)
    if rate is None:
        return
    assert rate == default or rate * 2 in _RATES
    if rate * 2 in _RATES and rate != default:
        # The rate has been seen to bear the double of itself.
        assert np.isfinite(loss[int(np.flatnonzero(_RATES == rate * 2)[0])])


def test_rule_by_hand() -> None:
    loss = np.full(41, 1.0)
    loss[20:26] = [0.6, 0.3, 0.15, 0.12, 0.1, np.nan]
    loss[25:] = np.inf
    assert choose(_RATES, loss, 0.1) == _RATES[23] / 2  # 1 − 0.12 = 0.88 ≥ 0.95 · 0.9
    flat = np.full(41, 2.0)
    assert choose(_RATES, flat, 0.1) == 0.1
    flat[20:] = np.nan
    assert choose(_RATES, flat, 0.1) == _RATES[19] / 2  # the default is above what the data bears
    assert choose(_RATES, np.full(41, np.nan), 0.1) is None
    low = np.full(41, np.inf)
    low[:3] = [1.0, 0.5, 0.4]
    assert choose(_RATES, low, 0.1) is None  # the lowest rates move already
    assert choose(_RATES, np.zeros(41), 0.1) == 0.1


# -- another batch size -----------------------------------------------------------------------------------------------


def test_scaled() -> None:
    assert scaled(0.1, 512, 128, "linear") == 0.1 * 4
    assert scaled(0.1, 512, 128, "sqrt") == 0.1 * 2
    assert scaled(0.1, 32, 128, "linear") == 0.1 / 4
    assert scaled(0.1, 128, 128, "sqrt") == 0.1


@given(st.floats(1e-6, 10), st.integers(1, 2**40), st.integers(1, 2**40), st.integers(1, 2**40))
def test_rules_compose(rate: float, a: int, b: int, c: int) -> None:
    for rule in ("linear", "sqrt"):
        np.testing.assert_allclose(scaled(scaled(rate, b, a, rule), c, b, rule), scaled(rate, c, a, rule), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((0.1, 8, 8, "cubic"), ValueError, "^batch_scaling: got 'cubic', wanted one of 'linear', 'sqrt'"),
        ((0.1, 0, 8, "linear"), ValueError, "^batch_size: got 0"),
        ((0.1, 8.0, 8, "linear"), TypeError, "^batch_size: got 8.0"),
        ((0.0, 8, 8, "linear"), ValueError, "^learning_rate: got 0.0"),
        ((1e308, 2**60, 1, "linear"), ValueError, "^learning_rate: got inf"),
        ((5e-324, 1, 2**60, "linear"), ValueError, "^learning_rate: got 0.0"),
    ],
)
def test_bad_scaling(arguments: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        scaled(*arguments)
