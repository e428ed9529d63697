"""Permutation and Folds: the exact integers, properties for random shapes, scikit-learn as a peer, and bad input."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradfold import _core, index
from gradfold.index import (
    Folds,
    Permutation,
    from_splits,
    group_kfold,
    holdout,
    kfold,
    leave_one_out,
    stratified_kfold,
    time_series,
)
from reference import index as reference

SEEDS = st.integers(0, 2**64 - 1)
# Both sides of the table's limit, of the change in rounds, of powers of two, of the block of the loops.
SIZES = [1, 2, 3, 5, 31, 1023, 1024, 1025, 1500, 2047, 2048, 2049, 4096, 65_535, 65_536, 65_537, 100_003, 2**17 + 1]
WIDE = [2**32 - 1, 2**32, 2**32 + 1, 10**10, 2**40 + 12_345, 2**62, 2**63 - 1]


def every(p: Permutation) -> np.ndarray:
    return p[:]


# ---- Philox ---------------------------------------------------------------------------------------------------------

# Known answers of Random123 (kat_vectors, philox4x32, 10 rounds).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_known_answers(counter, key, answer):
    out = np.full((1, 4), 7, dtype=np.uint32)
    _core.index.philox(np.array([counter], dtype=np.uint32), np.array([key], dtype=np.uint32), out)
    assert " ".join(f"{word:08x}" for word in out[0]) == answer
    assert list(out[0]) == reference.philox4x32_10(counter, key)


# ---- Permutation: the integers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1023, 1024, 1025, 2048, 2049])
def test_equals_the_reference_everywhere(each_level, n):
    p, expected = Permutation(n, 2**40 + 5, epoch=3, stream=9), reference.Permutation(n, 2**40 + 5, 3, 9)
    assert every(p).tolist() == [expected[i] for i in range(n)]


@pytest.mark.parametrize("n", [65_536, 65_537, 10_000_000, 2**24, 2**24 + 1, *WIDE])
def test_equals_the_reference_at_random_positions(each_level, n):
    p, expected = Permutation(n, 77, epoch=1), reference.Permutation(n, 77, 1)
    positions = np.random.default_rng(n % 1000).integers(0, n, 200)
    values = [expected[int(i)] for i in positions]
    assert p[positions].tolist() == values
    assert [p[int(i)] for i in positions] == values
    assert p.inverse(np.array(values)).tolist() == positions.tolist()
    assert [p.inverse(v) for v in values] == positions.tolist()


def test_pinned_values():
    """Version "v1" never changes: these integers are part of the format."""
    assert Permutation(10, 0)[:].tolist() == PINNED_10
    assert Permutation(1500, 1, epoch=2, stream=3)[:6].tolist() == PINNED_1500
    assert Permutation(10_000_000, 42)[:4].tolist() == PINNED_10M
    assert Permutation(10**12, 42)[:3].tolist() == PINNED_1T


@pytest.mark.parametrize("n", SIZES)
def test_bijection_inverse_and_slices(each_level, n):
    p = Permutation(n, seed=n, epoch=4)
    values = every(p)
    assert values.dtype == np.int64
    assert np.array_equal(np.sort(values), np.arange(n))
    assert np.array_equal(p.inverse(values), np.arange(n))
    rng = np.random.default_rng(n)
    for _ in range(12):
        a, b = (int(v) for v in rng.integers(-n - 3, n + 4, 2))
        step = int(rng.choice([1, 1, 2, 7, -1, -3, n + 1]))
        assert np.array_equal(p[a:b:step], values[a:b:step])
    for length in (1, 15, 16, 17, 255, 1023, 1024, 1025, 2051):
        first = int(rng.integers(0, n))
        assert np.array_equal(p[first : first + length], values[first : first + length])


@pytest.mark.parametrize("near", [11, 12, 13, 16, 17, 20])
def test_bijection_next_to_powers_of_two(each_level, near):
    for n in (2**near - 1, 2**near, 2**near + 1):
        seen = np.zeros(n, dtype=bool)
        seen[every(Permutation(n, seed=near))] = True
        assert seen.all(), n


def test_bijection_for_every_small_n():
    for n in range(1, 4098):
        seen = np.zeros(n, dtype=bool)
        seen[every(Permutation(n, seed=n * 3))] = True
        assert seen.all(), n


def test_all_levels_give_the_same_integers():
    for n in (1, 1000, 1025, 70_000, 2**20 + 3):
        results = []
        for level in _core.levels.supported():
            _core.levels._force(level)
            try:
                p = Permutation(n, 11)
                results.append((every(p).tobytes(), p[::-7].tobytes(), p.inverse(np.arange(n)).tobytes()))
            finally:
                _core.levels._force("")
        assert len(set(results)) == 1


def test_a_power_of_two_never_walks_and_others_walk_less_than_twice():
    assert all(reference.Permutation(2048, s).walk_length(i) == 1 for s in range(3) for i in range(0, 2048, 17))
    # Just above a power of two half of the domain is out of range: two runs of the rounds on average.
    lengths = [reference.Permutation(2049, s).walk_length(i) for s in range(5) for i in range(0, 2049, 4)]
    assert 1.85 < np.mean(lengths) < 2.15


@given(st.integers(1, 2**63 - 1), SEEDS, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.data())
def test_random_access_and_inverse(n, seed, epoch, stream, data):
    p, expected = Permutation(n, seed, epoch=epoch, stream=stream), reference.Permutation(n, seed, epoch, stream)
    i = data.draw(st.integers(0, n - 1))
    assert p[i] == p[i - n] == expected[i] == p[i : i + 1][0]
    assert p.inverse(expected[i]) == i == p.inverse(np.array([expected[i]]))[0]


def test_seeds_epochs_and_streams_differ():
    for n in (100, 1025, 100_000):
        a = every(Permutation(n, 5))
        others = [
            Permutation(n, 6),
            Permutation(n, 5 + 2**32),
            Permutation(n, 5, epoch=1),
            Permutation(n, 5, stream=1),
        ]
        for other in others:
            assert np.count_nonzero(a == every(other)) < 10  # unrelated permutations agree in one place on average


# ---- Permutation: the object ----------------------------------------------------------------------------------------


def test_iteration_array_length():
    p = Permutation(70_000, 3)
    assert len(p) == p.n == 70_000
    listed = list(p)
    assert listed == every(p).tolist() and type(listed[0]) is int
    assert np.array_equal(np.asarray(p), every(p))
    assert np.asarray(p, dtype=np.int32).dtype == np.int32
    assert len(Permutation(2**63 - 1, 0)) == 2**63 - 1


def test_integer_arrays_keep_their_shape():
    p = Permutation(5000, 3)
    places = np.array([[0, 1, 2], [-1, 4999, 7]], dtype=np.int32)
    assert np.array_equal(p[places], every(p)[places])
    assert np.array_equal(p.inverse(p[places]), places % 5000)
    assert p[[]].shape == p[np.empty(0, dtype=np.uint8)].shape == (0,)
    assert p[np.uint64(3)] == p[np.array(3)] == p[3]
    assert p[10:10].shape == (0,) and p[10:10].dtype == np.int64


def test_state_survives():
    p = Permutation(10**6, 2**63 + 1, epoch=7, stream=2**31)
    assert p.state_dict() == {"version": "v1", "n": 10**6, "seed": 2**63 + 1, "epoch": 7, "stream": 2**31}
    for other in (Permutation.from_state_dict(p.state_dict()), pickle.loads(pickle.dumps(p)), copy.deepcopy(p)):
        assert other == p and hash(other) == hash(p) and other[123] == p[123]
    assert p != Permutation(10**6, 2**63 + 1, epoch=8, stream=2**31)
    assert p != "p"
    assert eval(repr(p)) == p


@pytest.mark.parametrize(
    "change", [{"version": "v2"}, {"extra": 1}, {"n": 0}, {"seed": -1}], ids=["version", "extra", "n", "seed"]
)
def test_bad_state(change):
    with pytest.raises(ValueError, match=next(iter(change)) if "extra" not in change else "keys"):
        Permutation.from_state_dict({**Permutation(10, 0).state_dict(), **change})
    with pytest.raises(ValueError, match="keys"):
        Permutation.from_state_dict({"version": "v1"})


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ((0, 0), ValueError, "n"),
        ((-1, 0), ValueError, "n"),
        ((2**63, 0), ValueError, "n"),
        ((10.0, 0), TypeError, "n"),
        ((True, 0), TypeError, "n"),
        ((10, -1), ValueError, "seed"),
        ((10, 2**64), ValueError, "seed"),
        ((10, "1"), TypeError, "seed"),
        ((10, 0, 2**32), ValueError, "epoch"),
        ((10, 0, 0, -1), ValueError, "stream"),
    ],
)
def test_bad_permutation(arguments, error, name):
    n, seed, *rest = arguments
    with pytest.raises(error, match=rf"^{name}: got .*, wanted "):
        Permutation(n, seed, **dict(zip(("epoch", "stream"), rest)))


@pytest.mark.parametrize("n", [10, 5000])
def test_bad_positions(n):
    p = Permutation(n, 0)
    for bad in (n, -n - 1, 2**70):
        with pytest.raises(IndexError, match=rf"^i: got {bad}, wanted {-n} to {n - 1}$"):
            p[bad]
        with pytest.raises(ValueError, match=rf"^j: got {bad}, wanted {-n} to {n - 1}$"):
            p.inverse(bad)
    for bad in ([0, n], [0, -n - 1], np.array([n]), np.array([2**64 - 1], dtype=np.uint64)):
        with pytest.raises(IndexError, match=rf"^i: got {bad[-1]}, wanted {-n} to {n - 1}$"):
            p[bad]
        with pytest.raises(ValueError, match=rf"^j: got {bad[-1]}, wanted {-n} to {n - 1}$"):
            p.inverse(np.array(bad))
    with pytest.raises(ValueError, match=r"^i: got .*, wanted an integer, a slice or an integer array"):
        p[[[0, 1], [2]]]
    with pytest.raises(TypeError, match="^j: got a masked array"):
        p.inverse(np.ma.MaskedArray([1, 2], mask=[True, False]))
    for bad in (1.0, "1", None, True, np.array([1.5]), np.array([True])):
        with pytest.raises(TypeError, match="wanted"):
            p[bad]
    with pytest.raises(ValueError, match="step"):
        p[::0]
    with pytest.raises(TypeError):
        p.inverse(2.0)


def test_the_binding_guards_its_arrays():
    p = _core.index.Permutation(2000, 0, 0, 0)
    out = np.empty(10, dtype=np.int64)
    for first, step in ((1995, 1), (0, 300), (5, -1), (-1, 1), (0, 2**62), (1999, -(2**62))):
        with pytest.raises((ValueError, IndexError)):
            p.fill(first, step, out)
    with pytest.raises(TypeError):
        p.fill(0, 1, out.astype(np.int32))
    with pytest.raises(IndexError):
        p.map(np.full(10, 2000), False, out)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        p.fill(0, 1, out)


# ---- Folds: roles ---------------------------------------------------------------------------------------------------

DTYPES = (np.uint8, np.uint16, np.uint32)


@st.composite
def arbitrary_folds(draw):
    """ids and conditions with any ranges, skipped rows, several id rows, and one to three conditions."""
    dtype = draw(st.sampled_from(DTYPES))
    n_id_rows, n_rows = draw(st.integers(1, 3)), draw(st.integers(1, 60))
    n_ids = draw(st.integers(1, 6))
    skip = int(np.iinfo(dtype).max)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ids = rng.integers(0, n_ids, (n_id_rows, n_rows)).astype(dtype)
    ids[rng.random(ids.shape) < 0.15] = skip
    ids[rng.random(ids.shape) < 0.05] = skip - 1
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 3)))
    conditions = np.empty((*shape, 5), dtype=np.int64)
    conditions[..., 0] = rng.integers(0, n_id_rows, shape)
    score = np.sort(rng.integers(0, n_ids + 1, (*shape, 2)), axis=-1)
    train = np.sort(rng.integers(0, n_ids + 1, (*shape, 2)), axis=-1)
    train[rng.random(shape) < 0.5] = (0, skip)
    conditions[..., 1:3], conditions[..., 3:5] = score, train
    return ids, conditions


@given(arbitrary_folds())
def test_roles_and_indices_follow_the_conditions(case):
    ids, conditions = case
    expected = [reference.roles(ids.tolist(), split.tolist()) for split in conditions]
    if any(1 not in roles for roles in expected):
        with pytest.raises(ValueError, match="no training row"):
            Folds(ids, conditions)
        return
    folds = Folds(ids, conditions)
    for s, roles in enumerate(expected):
        role = folds.role(s)
        assert role.dtype == np.int8 and role.tolist() == roles
        for found, wanted in ((folds.train_indices(s), 1), (folds.score_indices(s), 2)):
            assert found.dtype == np.int64
            assert found.tolist() == [i for i, r in enumerate(roles) if r == wanted]
        assert folds.train_sizes[s] == roles.count(1) and folds.score_sizes[s] == roles.count(2)


def test_ranges_may_reach_far_beyond_the_ids():
    """Ranges up to the end of uint32, and ids near it: counted without an array of that length."""
    top = 2**32 - 1
    ids = np.array([[0, 5, top - 1, top, 2**31, 5]], dtype=np.uint32)
    folds = Folds(ids, np.array([[[0, 5, 6, 0, top]], [[0, 2**31, top, 0, 2**31]], [[0, 0, 0, 6, top]]]))
    assert folds.train_sizes.tolist() == [3, 3, 2] and folds.score_sizes.tolist() == [2, 2, 0]
    assert folds.role(0).tolist() == [1, 2, 1, 0, 1, 2]


def test_roles_of_many_rows(each_level):
    """More rows than a chunk of the loop, both conditions, every id type."""
    n = 10_007
    rng = np.random.default_rng(3)
    for dtype in DTYPES:
        ids = rng.integers(0, 4, (2, n)).astype(dtype)
        ids[0, ::97] = np.iinfo(dtype).max
        conditions = np.array([[[0, 1, 2, 0, 4], [1, 2, 3, 0, 4]], [[1, 0, 1, 0, 4], [0, 3, 4, 0, 2]]])
        folds = Folds(ids, conditions)
        for s in range(2):
            role = folds.role(s)
            assert role.tolist() == reference.roles(ids.tolist(), conditions[s].tolist())
            assert np.array_equal(folds.train_indices(s), np.flatnonzero(role == 1))
            assert np.array_equal(folds.score_indices(s), np.flatnonzero(role == 2))


def test_nested_conditions():
    """An outer 3-fold and an inner 4-fold: the inner splits see nothing of the outer's held-out rows."""
    outer, inner = kfold(120, 3, seed=1), kfold(120, 4, seed=2)
    ids = np.concatenate([outer.ids, inner.ids])
    conditions = np.array([[[0, o, o + 1, 0, 3], [1, i, i + 1, 0, 4]] for o in range(3) for i in range(4)])
    nested = Folds(ids, conditions)
    for o in range(3):
        pool = set(outer.train_indices(o).tolist())
        scored: list[int] = []
        for i in range(4):
            s = 4 * o + i
            train, score = set(nested.train_indices(s).tolist()), set(nested.score_indices(s).tolist())
            assert train | score == pool and not train & score
            assert score == pool & set(inner.score_indices(i).tolist())
            assert set(np.flatnonzero(nested.role(s) == 0).tolist()) == set(outer.score_indices(o).tolist())
            scored += score
        assert sorted(scored) == sorted(pool)


def test_folds_are_frozen_and_independent_of_the_caller():
    ids, conditions = np.zeros((1, 4), dtype=np.uint8), np.array([[[0, 1, 2, 0, 1]]])
    ids[0, 3] = 1
    folds = Folds(ids, conditions)
    before = folds.digest()
    ids[:] = 7
    conditions[:] = 0
    assert folds.role(0).tolist() == [1, 1, 1, 2]
    assert folds.digest() == before
    with pytest.raises(ValueError):
        folds.ids[0, 0] = 1
    with pytest.raises(ValueError):
        folds.conditions[0, 0, 0] = 1


def test_nobody_writes_into_folds():
    ids, conditions = np.array([[0, 1, 0, 1]], dtype=np.uint8), np.array([[[0, 1, 2, 0, 1]]])
    views = ids[:], conditions[:]
    for view in views:
        view.flags.writeable = False
    given = Folds(*views)
    ids[:], conditions[:] = 7, 0
    assert given.role(0).tolist() == [1, 2, 1, 2]
    others = [kfold(10, 5), time_series(20, 3), holdout(9, 0.3), from_splits(3, [([0], [1])]), leave_one_out(4)]
    for folds in [given, *others, copy.deepcopy(given), pickle.loads(pickle.dumps(given))]:
        arrays = [folds.ids, folds.conditions, folds.train_sizes, folds.score_sizes]
        for array in arrays:
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.setflags(write=True)


def test_digest_and_equality():
    folds = kfold(1000, 5, seed=3)
    same = Folds(folds.ids.astype(np.uint32), folds.conditions)
    assert same.digest() == folds.digest() and same == folds and hash(same) == hash(folds)
    assert folds != kfold(1000, 5, seed=4)
    assert folds != kfold(1000, 4, seed=3)
    assert folds != "folds"
    twice = kfold(1000, 5, seed=3, n_repeats=2)
    assert twice != folds and twice != Folds(twice.ids, twice.conditions)
    skipped = from_splits(4, [([0], [1])])
    assert Folds(np.array([[1, 0, 2**32 - 1, 2**32 - 1]], dtype=np.uint32), skipped.conditions) == skipped
    for other in (pickle.loads(pickle.dumps(twice)), copy.deepcopy(twice)):
        assert other == twice and other.n_repeats == 2
    assert kfold(10, 5, shuffle=False).digest() == PINNED_DIGEST


def test_repr_and_length():
    folds = kfold(11, 5, n_repeats=2)
    assert repr(folds) == "<Folds: n_rows=11, n_splits=10, n_repeats=2; 8 to 9 rows train, 2 to 3 are scored>"
    assert len(folds) == folds.n_splits == folds.get_n_splits() == 10
    assert np.array_equal(folds.role(-1), folds.role(9))


@pytest.mark.parametrize(
    ("ids", "conditions", "error", "text"),
    [
        (np.zeros((1, 3)), None, TypeError, "ids: got an array of float64"),
        ([[0, 0, 1]], None, TypeError, "ids: got list"),
        (np.zeros(3, np.uint8), None, ValueError, r"ids: got shape \(3,\)"),
        (np.zeros((1, 0), np.uint8), None, ValueError, "ids: got shape"),
        (None, np.zeros((1, 1, 5), np.int32), TypeError, "conditions: got an array of int32"),
        (None, np.zeros((1, 5), np.int64), ValueError, r"conditions: got shape \(1, 5\)"),
        (None, np.zeros((0, 1, 5), np.int64), ValueError, "at least one split"),
        (None, np.array([[[1, 0, 1, 0, 2]]]), ValueError, "conditions: got .*id_row below 1"),
        (None, np.array([[[0, 1, 0, 0, 2]]]), ValueError, "conditions: got .*lo <= hi"),
        (None, np.array([[[0, -1, 0, 0, 2]]]), ValueError, "conditions: got"),
        (None, np.array([[[0, 1, 2, 0, 256]]]), ValueError, "<= 255"),
        (None, np.array([[[0, 0, 2, 0, 2]]]), ValueError, "no training row for split 0"),
    ],
)
def test_bad_folds(ids, conditions, error, text):
    ids = np.array([[0, 1, 0]], dtype=np.uint8) if ids is None else ids
    conditions = np.array([[[0, 1, 2, 0, 2]]]) if conditions is None else conditions
    with pytest.raises(error, match=text):
        Folds(ids, conditions)


def test_bad_splits_of_folds():
    folds = kfold(10, 5)
    for s in (5, -6):
        for method in (folds.role, folds.train_indices, folds.score_indices):
            with pytest.raises(ValueError, match=f"^s: got {s}, wanted an integer"):
                method(s)
    with pytest.raises(TypeError, match="wanted an integer"):
        folds.train_indices(1.0)
    with pytest.raises(ValueError, match="divisor"):
        Folds(folds.ids, folds.conditions, n_repeats=2)
    with pytest.raises(ValueError, match="X: got 9 rows, wanted 10"):
        folds.split(np.zeros((9, 2)))
    with pytest.raises(ValueError, match="y: got 3 rows, wanted 10"):
        folds.split(None, [1, 2, 3])


def test_the_id_type_is_the_narrowest():
    for n_splits, dtype in ((255, np.uint8), (256, np.uint16), (65_535, np.uint16), (65_536, np.uint32)):
        folds = kfold(70_000, n_splits)
        assert folds.ids.dtype == dtype
        assert folds.ids.max() == n_splits - 1
        assert set(folds.score_sizes.tolist()) <= {70_000 // n_splits, 70_000 // n_splits + 1}
        assert leave_one_out(n_splits).ids.dtype == dtype


# ---- splitters: properties ------------------------------------------------------------------------------------------


@st.composite
def rows_and_splits(draw):
    n = draw(st.integers(2, 300) | st.sampled_from([1024, 1025, 1300]))
    return n, draw(st.integers(2, min(n, 40)))


@given(rows_and_splits(), SEEDS, st.integers(1, 3))
def test_kfold(shape, seed, n_repeats):
    n, k = shape
    folds = kfold(n, k, seed=seed, n_repeats=n_repeats)
    assert (folds.n_rows, folds.n_splits, folds.n_repeats) == (n, k * n_repeats, n_repeats)
    assert folds.ids.shape == (n_repeats, n)
    for r in range(n_repeats):
        assert folds.ids[r].tolist() == reference.kfold_ids(n, k, seed, r)
        scored = [folds.score_indices(r * k + f) for f in range(k)]
        assert [len(rows) for rows in scored] == [n // k + (f < n % k) for f in range(k)]
        assert np.array_equal(np.sort(np.concatenate(scored)), np.arange(n))
        for f in range(k):
            assert np.array_equal(folds.role(r * k + f), np.where(folds.ids[r] == f, 2, 1))


@given(rows_and_splits(), SEEDS, st.integers(1, 6), st.integers(1, 2), st.randoms(use_true_random=False))
@pytest.mark.filterwarnings("ignore:y. class:UserWarning")
def test_stratified_kfold(shape, seed, n_classes, n_repeats, random):
    n, k = shape
    weights = [random.random() + 0.02 for _ in range(n_classes)]
    y = np.array(random.choices([f"class {c}" for c in range(n_classes)], weights, k=n))
    folds = stratified_kfold(y, k, seed=seed, n_repeats=n_repeats)
    for r in range(n_repeats):
        ids = folds.ids[r]
        assert ids.tolist() == reference.stratified_ids(y.tolist(), k, seed, r)
        for rows in (np.ones(n, dtype=bool), *(y == label for label in np.unique(y))):
            sizes = np.bincount(ids[rows], minlength=k)
            assert sizes.max() - sizes.min() <= 1


def test_stratified_kfold_of_many_rows(each_level):
    rng = np.random.default_rng(0)
    y = rng.choice(5, p=[0.6, 0.3, 0.07, 0.029, 0.001], size=30_001)
    ids = stratified_kfold(y, 7, seed=9).ids[0]
    assert ids.tolist() == reference.stratified_ids(y.tolist(), 7, 9, 0)


@given(st.integers(4, 200), SEEDS, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_holdout(n, seed, three, stratified, random):
    shares = (0.5, 0.2, 0.3) if three else (0.7, 0.3)
    y = [random.choice("aab") for _ in range(n)] if stratified else None
    folds = holdout(n, shares, seed=seed, stratify=y)
    assert folds.n_splits == 1 and folds.ids.dtype == np.uint8
    assert folds.ids[0].tolist() == reference.holdout_ids(n, shares, seed, y)
    held = [int(np.floor(share * n + 0.5)) for share in shares[1:]]
    sizes = np.bincount(folds.ids[0], minlength=len(shares))
    assert sizes.tolist() == [n - sum(held), *held]
    assert np.array_equal(folds.role(0), np.array([1, 2, 0])[folds.ids[0]])
    if y is not None:
        for label in set(y):
            own = folds.ids[0][np.array(y) == label]
            for part, size in enumerate(sizes):
                assert abs(np.count_nonzero(own == part) - own.size * size / n) <= (2 if three else 1)


def test_holdout_forms():
    assert holdout(10, 0.3, seed=5) == holdout(10, (0.7, 0.3), seed=5)
    assert holdout(10, (0.6, 0.2, 0.2), shuffle=False).ids.tolist() == [[0] * 6 + [1] * 2 + [2] * 2]
    assert holdout(100, 0.07).score_sizes[0] == 7  # a share that floating point puts above 7
    assert holdout(10, 0.25).score_sizes[0] == 3  # halves go to the held-out part
    assert not np.array_equal(holdout(1000, 0.5, seed=1).ids, holdout(1000, 0.5, seed=2).ids)
    unshuffled = holdout(12, 0.25, shuffle=False, stratify=[0, 1] * 6)
    assert unshuffled.score_sizes[0] == 3


def test_leave_one_out():
    folds = leave_one_out(300)
    assert folds.n_splits == 300 and folds.ids.dtype == np.uint16
    for s in (0, 17, 299):
        assert folds.score_indices(s).tolist() == [s]
        assert folds.train_indices(s).tolist() == [i for i in range(300) if i != s]


def test_repeats_seeds_and_batches_share_no_order():
    folds = kfold(5000, 2, seed=1, n_repeats=2)
    rows = [folds.ids[0], folds.ids[1], kfold(5000, 2, seed=2).ids[0], kfold(5000, 2, seed=1, shuffle=False).ids[0]]
    rows.append((Permutation(5000, 1)[:] >= 2500).astype(np.uint8))
    for a in range(len(rows)):
        for b in range(a):
            assert 0.45 < np.mean(rows[a] == rows[b]) < 0.55


def codes_are_right(values):
    """In the order in which labels are met, with their counts, as numpy.unique has it."""
    labels = index._labels("groups", values, "group labels")
    _, first, inverse, counts = np.unique(values, return_index=True, return_inverse=True, return_counts=True)
    met = np.argsort(first)
    np.testing.assert_array_equal(labels.codes, np.argsort(met)[inverse])
    np.testing.assert_array_equal(labels.counts, counts[met])


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "U3"])
@pytest.mark.parametrize("spread", ["all", "around zero", "at the top", "far apart"])
def test_codes_of_labels(dtype, spread):
    """However far apart they are."""
    rng = np.random.default_rng(list((dtype + spread).encode()))
    for n in (1, 2, 3000):
        wide = {"all": 2**62, "around zero": 50, "at the top": 100, "far apart": 400_000}[spread]
        values = rng.integers(0 if spread == "at the top" else -wide, wide, n)
        if dtype[0] in "iu":
            top = np.iinfo(dtype)
            values = (top.max - values.astype("u8")) if spread == "at the top" else values.clip(max(top.min, -(2**62)), min(top.max, 2**62))
        codes_are_right(values.astype(dtype))


@pytest.mark.parametrize(
    ("n", "span"), [(10, 65_536), (10, 65_537), (10, 65_538), (400_000, 90_000), (400_000, 100_001), (400_000, 100_002)]
)
def test_codes_of_labels_that_are_just_close_enough(n, span):
    """A table of up to 65,537 labels, or of a quarter of the rows and one; beyond, a hash table."""
    values = np.random.default_rng(span).integers(-span // 2, span - span // 2 - 1, n)
    values[[0, -1]] = -span // 2, span - span // 2 - 1
    codes_are_right(values)


def test_labels_of_every_type():
    base = np.array([2, 0, 1, 1, 0, 2, 0, 1, 2, 2] * 30)
    expected = stratified_kfold(base, 3, seed=4)
    kinds = [
        base.tolist(),
        base.astype(np.uint8),
        base.astype(">i4"),
        base.astype(np.float32) / 4,
        base.astype(np.float16),
        base.astype(np.longdouble),
        base.astype(complex),
        np.array(["ant", "bee", "a longer label than eight bytes"])[np.array([1, 2, 0])[base]],
        np.array([b"x", b"yy", b"zzz"])[base],
        np.array(["x", "y", "z"], dtype=object)[base],
        np.array(["2001-01-01", "2002-01-01", "2003-01-01"], dtype="M8[D]")[base],
        np.repeat(base, 2)[::2],
    ]
    sorts_otherwise = stratified_kfold(np.array([2, 0, 1])[base], 3, seed=4)
    for i, labels in enumerate(kinds):
        assert stratified_kfold(labels, 3, seed=4) == (sorts_otherwise if i == 7 else expected), i
    assert stratified_kfold(base > 0, 3, seed=4).n_splits == 3
    signs = np.array([0.0, -0.0, 1.0, 1.0] * 5)
    assert stratified_kfold(signs, 2) == stratified_kfold(np.abs(signs), 2)
    assert stratified_kfold(np.array([""] * 6), 2) == stratified_kfold(np.zeros(6), 2)


def test_many_classes():
    """The table of labels grows; long and short labels meet in it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for labels in (np.arange(5000) % 2500, (np.arange(5000) % 2500).astype("U12")):
            ids = stratified_kfold(labels, 3).ids[0]
            assert np.bincount(ids).tolist() == [1667, 1667, 1666]
            assert (ids[:2500] != ids[2500:]).all()
    assert len(caught) == 2 and "2499 more such classes" in str(caught[0].message)


def test_a_rare_class_warns():
    y = np.array(["common"] * 20 + ["rare"] * 3)
    with pytest.warns(UserWarning, match="class 'rare' has 3 rows, fewer than n_splits = 5; some folds") as caught:
        folds = stratified_kfold(y, 5)
    assert caught[0].filename == __file__
    assert sorted(np.bincount(folds.ids[0]).tolist()) == [4, 4, 5, 5, 5]


# ---- groups ---------------------------------------------------------------------------------------------------------


def grouped(seed, n, n_groups, n_classes=3):
    """Groups whose sizes differ much, each with its own mixture of classes."""
    rng = np.random.default_rng(seed)
    share = rng.pareto(1.2, n_groups) + 0.1
    groups = rng.choice(n_groups, n, p=share / share.sum())
    groups[:n_groups] = np.arange(n_groups)[:n]  # every group has a row
    mixture = rng.dirichlet(np.ones(n_classes), n_groups).cumsum(axis=1)
    return groups, (mixture[groups] < rng.random((n, 1))).sum(axis=1)


def spread(y, fold, k):
    """What StratifiedGroupKFold looks at: the mean over classes of the standard deviation of the folds' shares."""
    codes = np.unique(y, return_inverse=True)[1]
    counts = np.zeros((k, codes.max() + 1))
    np.add.at(counts, (fold, codes), 1)
    return float((counts / counts.sum(axis=0)).std(axis=0).mean())


def folds_of(splitter, y, groups):
    out = np.full(len(groups), -1)
    for s, (_, test) in enumerate(splitter.split(np.zeros(len(groups)), y, groups)):
        out[test] = s
    return out


@given(st.integers(0, 2**32 - 1), st.integers(2, 300), SEEDS, st.booleans(), st.booleans(), st.data())
@pytest.mark.filterwarnings("ignore:y. class")
def test_groups_stay_whole_and_no_fold_is_empty(draw, n, seed, shuffle, stratified, data):
    n_groups = data.draw(st.integers(2, n))
    k = data.draw(st.integers(2, n_groups))
    groups, y = grouped(draw, n, n_groups)
    options = {"shuffle": shuffle, "seed": seed, "y": y if stratified else None}
    folds = group_kfold(groups, k, **options)
    assert folds.n_splits == k and (folds.score_sizes > 0).all() and folds.score_sizes.sum() == n
    pairs = np.unique(np.stack([groups, folds.ids[0]]), axis=1)
    assert pairs.shape[1] == n_groups  # each group in one fold
    # Neither the order of the rows nor what the labels are called matters, only how they sort.
    shuffled = np.random.default_rng(draw).permutation(n)
    options["y"] = [f"c{c}" for c in y[shuffled]] if stratified else None
    again = group_kfold([f"{g:05d}" for g in groups[shuffled]], k, **options)
    assert np.array_equal(again.ids[0], folds.ids[0][shuffled])


@given(st.integers(0, 2**32 - 1), st.integers(2, 200), st.one_of(st.none(), SEEDS), st.data())
def test_groups_by_size_are_no_less_level_than_greedy(draw, n, seed, data):
    n_groups = data.draw(st.integers(2, n))
    k = data.draw(st.integers(2, n_groups))
    groups, _ = grouped(draw, n, n_groups)
    greedy = reference.group_ids(groups.tolist(), k, seed)
    folds = group_kfold(groups, k, shuffle=seed is not None, seed=seed or 0)
    before, after = np.bincount(greedy, minlength=k), folds.score_sizes
    assert np.ptp(after) <= np.ptp(before)
    if np.ptp(before) <= 1:
        assert folds.ids[0].tolist() == greedy


def test_groups_are_levelled_where_greedy_is_not():
    """Sizes 8 7 6 5 4 in two folds: greedy gives 17 and 13, one exchange 15 and 15."""
    groups = np.repeat(np.arange(5), [8, 7, 6, 5, 4])
    assert np.ptp(np.bincount(reference.group_ids(groups.tolist(), 2, 0))) == 4
    assert group_kfold(groups, 2).score_sizes.tolist() == [15, 15]


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.filterwarnings("ignore:y. class")
@pytest.mark.parametrize("seed", range(20))
def test_group_balance_beside_scikit_learn(seed):
    selection = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(100, 1500)), int(rng.choice([2, 3, 5]))
    groups, y = grouped(seed, n, int(rng.integers(15, 80)), int(rng.integers(2, 6)))
    peer = folds_of(selection.StratifiedGroupKFold(k, shuffle=True, random_state=seed), y, groups)
    ours = group_kfold(groups, k, y=y, seed=seed)
    assert spread(y, ours.ids[0], k) <= spread(y, peer, k) + 1e-12
    plain = folds_of(selection.GroupKFold(k), y, groups)
    assert np.ptp(group_kfold(groups, k, seed=seed).score_sizes) <= np.ptp(np.bincount(plain))


def test_many_groups_beside_scikit_learn():
    selection = pytest.importorskip("sklearn.model_selection")
    groups, y = grouped(3, 20_000, 1500, 4)  # above the number of groups up to which every pair is tried
    peer = folds_of(selection.StratifiedGroupKFold(5, shuffle=True, random_state=0), y, groups)
    assert spread(y, group_kfold(groups, 5, y=y).ids[0], 5) <= spread(y, peer, 5)


def test_groups_of_many_kinds_and_numbers():
    base = np.array([2, 0, 1, 3, 3, 2, 0, 1, 2, 3] * 30)
    expected = group_kfold(base, 3, seed=4)
    for labels in (base.tolist(), base / 4, base.astype("U3"), np.array(list("wxyz"), dtype=object)[base], base.astype("M8[D]")):
        assert group_kfold(labels, 3, seed=4) == expected
    each = group_kfold(np.arange(700), 700)  # leave one group out; ids of two bytes
    assert each.ids.dtype == np.uint16 and (each.score_sizes == 1).all()
    assert len({group_kfold(np.arange(60) // 2, 3, seed=s).digest() for s in range(20)}) == 20
    assert len({group_kfold(np.arange(60) // 2, 3, y=np.arange(60) % 3, seed=s).digest() for s in range(20)}) == 20
    assert len({group_kfold(np.arange(60) // 2, 3, shuffle=False, seed=s).digest() for s in range(5)}) == 1


def test_pinned_groups():
    """The same folds on every machine: these numbers are part of the format."""
    groups, y = np.arange(3000) ** 2 % 211, np.arange(3000) % 7
    assert group_kfold(groups, 5, seed=3).digest() == PINNED_GROUPS
    assert group_kfold(groups, 5, y=y, seed=3).digest() == PINNED_STRATIFIED_GROUPS
    assert group_kfold(np.arange(6000) // 4, 5, y=np.arange(6000) % 7, seed=3).digest() == PINNED_MANY_GROUPS


def test_group_kfold_warns_of_a_rare_class():
    with pytest.warns(UserWarning, match="class 1 has 2 rows, fewer than n_splits = 3") as caught:
        group_kfold(np.arange(12), 3, y=[1, 1] + [0] * 10)
    assert caught[0].filename == __file__


# ---- scikit-learn as a peer -----------------------------------------------------------------------------------------


def same_splits(folds: Folds, peer) -> None:
    peer = list(peer)
    assert folds.n_splits == len(peer)
    for (train, test), (peer_train, peer_test) in zip(folds.split(), peer):
        assert np.array_equal(train, np.sort(peer_train)) and np.array_equal(test, np.sort(peer_test))


@pytest.mark.parametrize(("n", "k"), [(2, 2), (10, 3), (11, 5), (300, 7), (1000, 300)])
def test_unshuffled_kfold_is_scikit_learns(n, k):
    model_selection = pytest.importorskip("sklearn.model_selection")
    same_splits(kfold(n, k, shuffle=False), model_selection.KFold(k).split(np.zeros(n)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(8))
def test_unshuffled_stratified_kfold_is_scikit_learns(seed):
    model_selection = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(seed)
    n, n_classes, k = int(rng.integers(40, 400)), int(rng.integers(1, 8)), int(rng.integers(2, 9))
    y = rng.choice(np.array(list("hgfedcba"))[:n_classes], n, p=rng.dirichlet(np.ones(n_classes)))
    same_splits(stratified_kfold(y, k, shuffle=False), model_selection.StratifiedKFold(k).split(np.zeros(n), y))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gap": 3},
        {"test_size": 5},
        {"max_train_size": 11},
        {"gap": 2, "test_size": 7, "max_train_size": 20},
        {"gap": 13, "max_train_size": 4},
    ],
)
@pytest.mark.parametrize(("n", "k"), [(60, 2), (61, 5), (100, 4)])
def test_time_series_is_scikit_learns(n, k, options):
    model_selection = pytest.importorskip("sklearn.model_selection")
    try:
        peer = list(model_selection.TimeSeriesSplit(k, **options).split(np.zeros(n)))
    except ValueError:
        with pytest.raises(ValueError, match="no training row"):
            time_series(n, k, **options)
        return
    same_splits(time_series(n, k, **options), peer)


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored:UserWarning")
def test_from_splits_takes_any_splitter():
    ms = pytest.importorskip("sklearn.model_selection")
    X, groups = np.zeros(60), np.arange(60) % 7
    y = np.arange(60) % 3
    for splitter, n_id_rows in (
        (ms.KFold(5), 1),
        (ms.KFold(5, shuffle=True, random_state=0), 1),
        (ms.RepeatedKFold(n_splits=4, n_repeats=3, random_state=0), 3),
        (ms.GroupKFold(3), 1),
        (ms.StratifiedKFold(4), 1),
        (ms.LeaveOneOut(), 1),
        (ms.LeaveOneGroupOut(), 1),
        (ms.ShuffleSplit(6, test_size=0.4, random_state=0), None),
        (ms.TimeSeriesSplit(4), 4),
        (ms.PredefinedSplit(np.arange(60) % 4 - 1), 1),
    ):
        pairs = list(splitter.split(X, y, groups))
        folds = from_splits(60, pairs)
        same_splits(folds, pairs)
        if n_id_rows is not None:
            assert folds.ids.shape[0] == n_id_rows, splitter
        assert from_splits(60, folds.split()) == folds
    pairs = list(ms.LeavePOut(2).split(np.zeros(9)))
    same_splits(from_splits(9, pairs), pairs)


def test_folds_serve_as_cv():
    ms = pytest.importorskip("sklearn.model_selection")
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((80, 3)), rng.standard_normal(80)
    folds = kfold(80, 4, seed=1)
    scores = ms.cross_val_score(Ridge(), X, y, cv=folds)
    assert np.array_equal(scores, ms.cross_val_score(Ridge(), X, y, cv=list(folds.split(X, y))))
    search = ms.GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=folds).fit(X, y)
    assert search.n_splits_ == 4


# ---- from_splits ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 5000), st.sampled_from([1, 2, 5, 64, 256]), st.integers(0, 2**32 - 1))
def test_rows_by_id(n, k, seed):
    """All rows by their ids, those of an id ascending; 255, which means skip, is an id like any other here."""
    ids = np.random.default_rng(seed).integers(0, k, n).astype(np.uint8)
    order, offset = np.full(n, -1), np.full(257, -1)
    _core.index.rows_by_id(ids, order, offset)
    assert (order == np.argsort(ids, kind="stable")).all()
    assert offset[0] == 0 and (np.diff(offset) == np.bincount(ids, minlength=256)).all()


def test_rows_by_id_refuses_what_does_not_fit():
    ids = np.zeros(5, np.uint8)
    for arguments, name in (
        ((ids.astype(np.uint16), np.empty(5, np.int64), np.empty(257, np.int64)), "ids"),
        ((ids, np.empty(4, np.int64), np.empty(257, np.int64)), "order"),
        ((ids, np.empty(5, np.int64), np.empty(256, np.int64)), "offset"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: got"):
            _core.index.rows_by_id(*arguments)


@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_from_splits_keeps_every_role(n, n_splits, seed, masks):
    rng = np.random.default_rng(seed)
    roles = rng.integers(0, 3, (n_splits, n))
    roles[:, rng.integers(n)] = 1
    pairs = []
    for role in roles:
        sides = [role == 1, role == 2]
        pairs.append(tuple(sides) if masks else tuple(rng.permutation(np.flatnonzero(side)) for side in sides))
    folds = from_splits(n, pairs)
    assert folds.n_splits == n_splits
    for s in range(n_splits):
        assert np.array_equal(folds.role(s), roles[s])


def test_from_splits_packs_partitions():
    """Disjoint tests over the same rows share a row of ids; rows outside them are skipped everywhere."""
    used = np.arange(2, 20)
    tests = [[2, 3], [4, 9, 10], []]
    folds = from_splits(22, [(np.setdiff1d(used, t), t) for t in tests])
    assert folds.ids.shape == (1, 22)
    assert folds.ids.dtype == np.uint8 and folds.ids[0, [0, 1, 20, 21]].tolist() == [255] * 4
    for s, t in enumerate(tests):
        assert folds.score_indices(s).tolist() == t
    others = from_splits(22, [(np.setdiff1d(used, t), t) for t in ([2, 3], [3, 4])])
    assert others.ids.shape == (2, 22)
    assert from_splits(3, ((t, s) for t, s in [([0, 2], [1])])).role(0).tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("splits", "error", "text"),
    [
        ([], ValueError, "^splits: got no .train, test. pair"),
        ([([], [1])], ValueError, r"splits\[0\] train: got no row"),
        ([([0], [1]), ([0, 1, 1], [2])], ValueError, r"splits\[1\] train: got row 1 twice"),
        ([([0], [2, 2])], ValueError, r"splits\[0\] test: got row 2 twice"),
        ([([0, 1], [1])], ValueError, r"splits\[0\] test: got row 1 in train and in test"),
        ([([0, 5], [1])], ValueError, r"splits\[0\] train: got row 5, wanted rows of 0 to 4"),
        ([([0], [-1])], ValueError, r"splits\[0\] test: got row -1"),
        ([([0], np.array([2**63], np.uint64))], ValueError, r"splits\[0\] test: got row 9223372036854775808"),
        ([([0.0], [1])], TypeError, r"splits\[0\] train: got an array of float64"),
        ([([[0]], [1])], ValueError, r"splits\[0\] train: got shape"),
        ([(np.ones(4, bool), [1])], ValueError, r"splits\[0\] train: got a mask of shape \(4,\), wanted \(5,\)"),
        ([5], TypeError, r"splits\[0\]: got 5, wanted a pair"),
        ([([0], [1], [2])], TypeError, r"splits\[0\]: got an object of type tuple, wanted a pair"),
        (5, TypeError, "^splits: got 5, wanted .train, test. pairs"),
        (None, TypeError, "^splits: got None, wanted .train, test. pairs"),
        (np.array(5), TypeError, "^splits: got an array of int64"),
        ("ab", TypeError, "^splits: got 'ab', wanted .train, test. pairs"),
        ([([[0], [1, 2]], [3])], ValueError, r"splits\[0\] train: got an object of type list, wanted row numbers"),
        ([([0], np.ma.MaskedArray([1, 2], [0, 1]))], TypeError, r"splits\[0\] test: got a masked array"),
        ([(np.ma.MaskedArray([True] * 5, [1] * 5), [])], TypeError, r"splits\[0\] train: got a masked array"),
    ],
)
def test_bad_from_splits(splits, error, text):
    with pytest.raises(error, match=text):
        from_splits(5, splits)


# ---- bad input of the splitters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: kfold(0, 2), ValueError, "n_rows: got 0"),
        (lambda: kfold(10.0, 2), TypeError, "n_rows: got 10.0"),
        (lambda: kfold(np.ones((3, 2)), 2), TypeError, r"^n_rows: got an array of float64, shape \(3, 2\), wanted"),
        (lambda: kfold(np.array([10]), 2), TypeError, r"^n_rows: got an array of int64, shape \(1,\), wanted an int"),
        (lambda: kfold(np.array(True), 2), TypeError, r"^n_rows: got an array of bool"),
        (lambda: stratified_kfold([[1], [1, 2]], 2), ValueError, "^y: got an object of type list, wanted one label"),
        (lambda: stratified_kfold(np.ma.MaskedArray([0, 1, 0, 1]), 2), TypeError, "^y: got a masked array"),
        (lambda: holdout(4, 0.5, stratify=np.ma.MaskedArray([0, 1, 0, 1])), TypeError, "^stratify: got a masked"),
        (lambda: Folds(np.ma.MaskedArray(np.zeros((1, 4), np.uint8)), None), TypeError, "^ids: got a masked array"),
        (lambda: kfold(10, 1), ValueError, "n_splits: got 1, wanted at least 2.*no training row"),
        (lambda: kfold(10, 11), ValueError, "n_splits: got 11, wanted at most the number of rows, 10"),
        (lambda: kfold(10, 2, seed=-1), ValueError, "seed: got -1"),
        (lambda: kfold(10, 2, shuffle=1), TypeError, "shuffle: got 1"),
        (lambda: kfold(10, 2, n_repeats=0), ValueError, "n_repeats: got 0"),
        (lambda: kfold(10, 2, shuffle=False, n_repeats=2), ValueError, "n_repeats: got 2 with shuffle=False"),
        (lambda: stratified_kfold([], 2), ValueError, "y: got no label"),
        (lambda: stratified_kfold([[1], [2]], 2), ValueError, r"y: got shape \(2, 1\)"),
        (lambda: stratified_kfold([1.0, np.nan, 1.0], 2), ValueError, "y: got nan in row 1"),
        (lambda: stratified_kfold(np.array(["2000", "NaT"], "M8[Y]"), 2), ValueError, "y: got NaT in row 1"),
        (lambda: stratified_kfold(np.array([1, "a"], dtype=object), 2), TypeError, "y: got labels that do not sort"),
        (lambda: stratified_kfold([0, 1], 3), ValueError, "n_splits: got 3"),
        (lambda: holdout(10, 0.0), ValueError, "fractions: got 0.0"),
        (lambda: holdout(10, 1), ValueError, "fractions: got 1"),
        (lambda: holdout(10, float("nan")), ValueError, "fractions: got nan"),
        (lambda: holdout(10, (0.5, 0.4)), ValueError, "fractions: got .*together 1"),
        (lambda: holdout(10, (0.5,)), ValueError, "fractions: got 1 of them"),
        (lambda: holdout(10, None), TypeError, "fractions: got NoneType"),
        (lambda: holdout(10, "0.5"), TypeError, "fractions: got str"),
        (lambda: holdout(10, [0.5, "b"]), TypeError, "fractions: got list"),
        (lambda: holdout(10, 0.01), ValueError, "fractions: got 0.01 of 10 rows"),
        (lambda: holdout(10, 0.5, stratify=[1, 2]), ValueError, "stratify: got 2 labels, wanted n_rows = 10"),
        (lambda: leave_one_out(1), ValueError, "n_rows: got 1"),
        (lambda: group_kfold([0, 0, 1, 1], 3), ValueError, "n_splits: got 3, wanted at most the number of groups, 2"),
        (lambda: group_kfold([0, 1], 3), ValueError, "n_splits: got 3, wanted at most the number of rows, 2"),
        (lambda: group_kfold([0, 1, 2], 1), ValueError, "n_splits: got 1"),
        (lambda: group_kfold([], 2), ValueError, "groups: got no label"),
        (lambda: group_kfold([[0], [1]], 2), ValueError, r"groups: got shape \(2, 1\)"),
        (lambda: group_kfold([0.0, np.nan, 1.0], 2), ValueError, "groups: got nan in row 1, wanted group labels"),
        (lambda: group_kfold(np.array([0, None, 1], object), 2), TypeError, "groups: got labels that do not sort"),
        (lambda: group_kfold([0, 1, 2], 2, y=[0, 1]), ValueError, "y: got 2 labels, wanted 3, one for each row of groups"),
        (lambda: group_kfold([0, 1, 2], 2, y=[0, 1, np.nan]), ValueError, "y: got nan in row 2"),
        (lambda: group_kfold([0, 1, 2], 2, seed=-1), ValueError, "seed: got -1"),
        (lambda: group_kfold([0, 1, 2], 2, shuffle=0), TypeError, "shuffle: got 0"),
        (lambda: time_series(5, 5), ValueError, "n_splits: got 5"),
        (lambda: time_series(10, 3, gap=9), ValueError, "no training row"),
        (lambda: time_series(10, 3, gap=-1), ValueError, "gap: got -1"),
        (lambda: time_series(10, 3, test_size=0), ValueError, "test_size: got 0"),
    ],
)
def test_bad_splitters(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_the_bindings_refuse_codes_that_lie():
    out, counts, rank = np.empty(4, np.uint8), np.array([2, 2]), np.array([0, 1])
    for codes, c, r in (
        ([0, 1, 2, 1], counts, rank),
        ([0, 1, -1, 1], counts, rank),
        ([0, 0, 0, 1], counts, rank),
        ([0, 0, 1, 1], counts, np.array([1, 1])),
    ):
        with pytest.raises(ValueError, match="codes"):
            _core.index.stratified(np.array(codes, np.int32), c, r, 2, True, 0, 0, out)
        with pytest.raises(ValueError, match="codes"):
            _core.index.group_kfold(np.array(codes, np.int32), c, r, None, 2, True, 0, out)
        with pytest.raises(ValueError, match="codes"):
            lying = (np.array(codes, np.int32), c, r)
            _core.index.group_kfold(np.array([0, 0, 1, 1], np.int32), counts, rank, lying, 2, True, 0, out)


PINNED_10 = [0, 2, 6, 3, 5, 7, 9, 4, 8, 1]
PINNED_1500 = [671, 827, 633, 419, 1168, 959]
PINNED_10M = [9533381, 1424445, 9433088, 816573]
PINNED_1T = [786599532158, 663667799957, 886577211927]
PINNED_DIGEST = "55020ce0771bc67f645d041f2d3a4f099c79638f49843a00b0bd9345bc937d28"
PINNED_GROUPS = "4ef519501fd2b1d055a49d1623a0f2f74a5519aabc62c0710802d7f4cdef5a8a"
PINNED_STRATIFIED_GROUPS = "d94ca90454bd3032e97675a6d29840d1b900de19c3b3d4be14ff44253d911b1f"
PINNED_MANY_GROUPS = "7bd48cfec0d4d8d32b185f7064ab928b3fbcc25a9c73467bbd99710742567b4d"
