"""What a call of `loss_gradient` asks of the host beside its kernels: allocations, copies, launches; and what it keeps for the next."""

from __future__ import annotations

import gc
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_arrays import ByDlpack

import calls
import gradfold as gf
from gradfold._device import DeviceMemoryError
from gradfold.cuda import _driver, arrays, bad_values, gradient, memory, roles
from gradfold.cuda._driver import Kernel
from on_device import assert_same_gradient

N, P, M = 14, 3, 5
FOLDS = gf.index.kfold(N, 2)


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Neither before nor after a test."""
    gradient.release()
    yield
    gradient.release()


def problem(dtype: Any = np.float32, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "X": rng.standard_normal((N, P)).astype(dtype),
        "y": rng.integers(0, 2, N).astype(dtype),
        "W": rng.standard_normal((P, M)).astype(dtype),
        "intercept": rng.standard_normal(M).astype(dtype),
        "sample_weight": rng.uniform(0.5, 2, N).astype(dtype),
    }


def moved(values: dict[str, Any]) -> dict[str, Any]:
    return {name: arrays.to_device(array) for name, array in values.items()}


def call(values: dict[str, Any], **options: Any) -> Any:
    return gf.gradient.loss_gradient(**values, **{"loss": "log_loss", "folds": FOLDS, **options})


def as_bytes(result: Any) -> list[Any]:
    return [None if a is None else (a.numpy() if isinstance(a, arrays.DeviceArray) else a).tobytes() for a in result]


# -- counts ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the driver was asked: to allocate, to free, to copy either way, to launch, to say what is free."""
    found: Counter[str] = Counter()

    def count(owner: Any, name: str, word: str) -> None:
        plain = getattr(owner, name)

        def counted(*given: Any, **named: Any) -> Any:
            # A class is asked for by an array of no bytes, which takes no memory.
            found[word] += not (word == "allocations" and given[0] == 0)
            return plain(*given, **named)

        monkeypatch.setattr(owner, name, counted)

    array = type(_driver.cuda.device_array(1))
    count(_driver.cuda, "device_array", "allocations")
    count(array, "copy_to_host", "copies to the host")
    count(array, "copy_to_device", "copies to the device")
    count(_driver, "memory_info", "questions what is free")
    count(Kernel, "__call__", "launches")
    return found


WARM = {
    "plain": ({}, {"launches": 5}),
    "loss": ({"return_loss": True}, {"launches": 6}),
    "finite": ({"check_finite": True}, {"launches": 5 + 4, "copies to the host": 1}),
    "another loss": ({"check_finite": True, "loss": "squared_error"}, {"launches": 5 + 4, "copies to the host": 1}),
}


@pytest.mark.parametrize(("options", "wanted"), WARM.values(), ids=WARM)
def test_a_warm_call(counts: Counter[str], options: dict[str, Any], wanted: dict[str, int]) -> None:
    """pack, forward, (sums,) gradient, total, results; a kernel for each array that is checked, and one answer for all of them."""
    values = moved({name: a for name, a in problem().items() if name != "sample_weight"})
    for _ in range(2):
        result = call(values, **{"return_loss": False, **options})  # noqa: F841 what the last call returned is held meanwhile
    counts.clear()
    for rounds in (1, 2, 3):
        result = call(values, **{"return_loss": False, **options})  # noqa: F841
        assert +counts == {word: rounds * n for word, n in wanted.items()}


def test_the_device_is_at_work_before_results_are_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    values = moved({name: a for name, a in problem().items() if name != "sample_weight"})
    call(values)
    done: list[str] = []
    launch, result = Kernel.__call__, arrays.result
    monkeypatch.setattr(Kernel, "__call__", lambda self, *given: (done.append(self.name), launch(self, *given)))
    monkeypatch.setattr(arrays, "result", lambda *given: (done.append("result"), result(*given))[1])
    call(values)
    assert done == ["pack", "forward", "sums", "gradient", "total", *3 * ["result"], "results"]


def test_any_number_of_models_after_any_other() -> None:
    """What the call before has left there, of the same panels."""
    values = problem()
    for m in (2, 3, 1, M, 4):
        for folds in (None, FOLDS, None):
            own = values | {"W": values["W"][:, :m].copy(), "intercept": values["intercept"][:m].copy()}
            for lacking in ((), ("sample_weight",), ("intercept",)):
                some = {name: array for name, array in own.items() if name not in lacking}
                assert as_bytes(call(moved(some), folds=folds)) == as_bytes(call(some, folds=folds)), (m, lacking)


def test_results_that_do_not_fit_beside_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    values = problem()
    wanted, there = as_bytes(call(values)), moved(values)
    result, asked = arrays.result, []

    def full(*given: Any) -> Any:
        asked.append(bool(gradient._workspaces))
        if asked[-1] and len(asked) == 2:
            raise DeviceMemoryError("the GPU has nothing free")
        return result(*given)

    monkeypatch.setattr(arrays, "result", full)
    assert as_bytes(call(there)) == wanted and asked == [True, True, False, False, False]
    asked.clear()
    monkeypatch.setattr(arrays, "result", lambda *_: (_ for _ in ()).throw(DeviceMemoryError("the GPU has nothing free")))
    with pytest.raises(DeviceMemoryError, match="^the GPU has nothing free"):
        call(there)
    assert not gradient._workspaces


def test_frozen_arrays() -> None:
    """Whose identity says that nothing was written since."""
    owner = np.zeros(3)
    view = owner[:]
    assert not gradient._is_frozen(owner) and not gradient._is_frozen(view)
    view.flags.writeable = False
    assert not gradient._is_frozen(view)
    owner.flags.writeable = False
    assert gradient._is_frozen(view) and gradient._is_frozen(view[1:]) and not gradient._is_frozen(owner)
    assert gradient._is_frozen(FOLDS.ids) and gradient._is_frozen(gf.index.leave_one_out(N).ids)
    assert not gradient._is_frozen(np.frombuffer(bytearray(8)))


@pytest.mark.parametrize(("finite", "checks"), [(False, 1), (True, 5)])
def test_a_warm_call_with_weights(counts: Counter[str], finite: bool, checks: int) -> None:
    """Roles are made anew, because the weights may have changed; their signs are looked at in any case."""
    values = moved(problem())
    for _ in range(2):
        result = call(values, return_loss=False, check_finite=finite)  # noqa: F841
    counts.clear()
    result = call(values, return_loss=False, check_finite=finite)  # noqa: F841
    assert +counts == {"launches": 6 + 1 + checks, "copies to the host": 1}


def test_roles_follow_weights_and_folds() -> None:
    """Of what the call before has left on the device, nothing that is no longer so is used."""
    other = gf.index.kfold(N, 2, seed=9)
    zero = np.ones(N, np.float32)
    zero[::3] = 0
    plain = {name: array for name, array in problem().items() if name != "sample_weight"}
    for weight, folds in (
        (None, FOLDS), (zero, FOLDS), (None, FOLDS), (1 - zero, FOLDS), (zero, other), (None, other), (None, FOLDS), (zero, None),
        (zero, FOLDS),
    ):  # fmt: skip
        values = plain | ({} if weight is None else {"sample_weight": weight})
        assert as_bytes(call(moved(values), folds=folds)) == as_bytes(call(values, folds=folds))


def test_roles_follow_the_splits_of_models_and_ids_that_are_written() -> None:
    values = problem()
    for split in (0, 1, 1, 0):
        chosen = np.full(M, split, np.int64)
        assert as_bytes(call(moved(values), split_of_model=chosen)) == as_bytes(call(values, split_of_model=chosen))
    q = calls.problem(1, n=12, p=3, m=4, dtype=np.float32)
    ids = q.splits.ids.copy()
    q = calls.replace(q, splits=SimpleNamespace(ids=ids, conditions=q.splits.conditions))
    for _ in range(2):
        assert_same_gradient(q)
        ids[:] = ids[:, ::-1].copy()


def test_roles_that_failed_midway_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    values = problem()
    plain = {name: array for name, array in values.items() if name != "sample_weight"}
    values["sample_weight"][: N // 2] = 0
    wanted = as_bytes(call(plain))
    assert as_bytes(call(moved(plain))) == wanted
    launch = roles.launch

    def interrupted(*given: Any, **named: Any) -> None:
        launch(*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(roles, "launch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(moved(values))
    assert as_bytes(call(moved(plain))) == wanted


def test_roles_of_ids_that_go_there_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values, whole = problem(), call(problem())
    monkeypatch.setattr(roles, "_BLOCK_BYTES", 4 * 5)
    for _ in range(2):
        assert as_bytes(call(moved(values))) == as_bytes(whole)


# -- memory of results -------------------------------------------------------------------------------------------------


def overwrite_spare() -> set[int]:
    """Fill what is kept with bytes that are no result; where it lies."""
    for block in _driver.spare:
        block.flat.copy_to_device(np.full(block.flat.size, 0xA5, np.uint8))
    return {int(block.flat.ctypes.data) for block in _driver.spare}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_in_memory_that_others_had(dtype: Any) -> None:
    values = problem(dtype)
    there = moved(values)
    call(moved(problem(dtype, seed=1)))
    for options in ({}, {"reduction": "sum"}, {"rows": np.zeros(0, np.int64)}):
        places = overwrite_spare()
        assert len(places) == 3
        result = call(there, **options)
        assert {array.pointer for array in result} <= places
        assert as_bytes(result) == as_bytes(call(values, **options))
        del result


def test_two_results_share_nothing() -> None:
    first_values, second_values = problem(seed=1), problem(seed=2)
    call(moved(first_values))
    first = call(moved(first_values))
    second = call(moved(second_values))
    assert not any(arrays.overlap(a, b) for a, b in itertools.combinations([*first, *second], 2))
    del second
    overwrite_spare()
    call(moved(second_values))
    assert as_bytes(first) == as_bytes(call(first_values))


def hold_itself(array: Any) -> Any:
    return array


def hold_another_shape(array: Any) -> Any:
    return array.reshape((M, P))


def hold_a_part(array: Any) -> Any:
    return array.flat[2:7]


def hold_by_dlpack(array: Any) -> Any:
    return arrays.from_object("x", ByDlpack(array))


class Capsule:
    """What DLPack describes, read later."""

    def __init__(self, array: Any) -> None:
        self.capsule = array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, stream: Any = None) -> Any:
        return self.capsule


def hold_a_capsule(array: Any) -> Any:
    return Capsule(array)


def hold_by_interface(array: Any) -> Any:
    """As torch and CuPy do: they hold the object whose interface they read."""
    return arrays.from_object("x", SimpleNamespace(__cuda_array_interface__=array.__cuda_array_interface__, held=array))


def hold_another_shape_by_dlpack(array: Any) -> Any:
    return arrays.from_object("x", ByDlpack(array.reshape((M, P))))


HOLDERS = [hold_itself, hold_another_shape, hold_a_part, hold_by_dlpack, hold_a_capsule, hold_by_interface, hold_another_shape_by_dlpack]


@pytest.mark.parametrize("hold", HOLDERS, ids=lambda hold: hold.__name__)
def test_memory_that_is_held_is_nobody_elses(hold: Any) -> None:
    there = moved(problem(seed=1))
    loss, grad, grad_intercept = call(there)
    place = grad.pointer
    held = hold(grad)
    before = grad.numpy().tobytes()
    del loss, grad, grad_intercept
    gc.collect()
    places = overwrite_spare()
    assert len(places) == 2 and place not in places
    for seed in (2, 3):
        result = call(moved(problem(seed=seed)))
        assert all(array.pointer != place for array in result)
    if isinstance(held, Capsule):
        held = arrays.from_object("x", held)
    if isinstance(held, arrays.DeviceArray):
        assert held.numpy().tobytes() == before
    else:
        assert held.copy_to_host().tobytes() == before[8:28]
    lent = hold not in (hold_itself, hold_another_shape, hold_a_part)
    del held
    gc.collect()
    # Others may use on a stream of their own what they read here, and nobody would know when they are done.
    assert (place in overwrite_spare()) == (not lent)


def test_memory_that_another_stream_reads_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _, grad, grad_intercept = call(moved(problem()))
    places = {grad.pointer, grad_intercept.pointer}
    event = SimpleNamespace(record=lambda stream: None, wait=lambda stream: None)
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "SIMULATED", False)
        patch.setattr(arrays, "cuda", SimpleNamespace(event=lambda timing: event))
        patch.setattr(arrays, "_handle", int)
        arrays.join(0, [grad, grad_intercept])
        assert not grad.owner.lent and not grad_intercept.owner.lent
        arrays.join(7, [grad, None, grad_intercept])
    del grad, grad_intercept
    assert not places & set(overwrite_spare())


def block(size: int, stream: Any = 0) -> Any:
    return memory.Memory(memory.Block(_driver.empty(size, np.uint8), stream))


def test_the_size_the_stream_and_the_thread_are_the_same() -> None:
    mine, other = SimpleNamespace(external=False), SimpleNamespace(external=False)
    place = (made := block(64, mine)).address
    del made
    assert memory.Memory.left(32, mine) is None and memory.Memory.left(64, other) is None and memory.Memory.left(64, 0) is None
    elsewhere: list[Any] = []
    thread = threading.Thread(target=lambda: elsewhere.append(memory.Memory.left(64, mine)))
    thread.start()
    thread.join()
    assert elsewhere == [None]
    again = memory.Memory.left(64, mine)
    assert again is not None and again.address == place and memory.Memory.left(64, mine) is None


def test_which_memory_is_kept() -> None:
    assert memory.Memory.can_keep(1, 0) and memory.Memory.can_keep(memory.MOST_BYTES, SimpleNamespace(external=False))
    for nbytes, stream in ((0, 0), (memory.MOST_BYTES + 1, 0), (1, SimpleNamespace(external=True)), (1, object())):
        assert not memory.Memory.can_keep(nbytes, stream)
    X = arrays.to_device(np.zeros(1))
    large = arrays.result((memory.MOST_BYTES // 8 + 1,), np.float64, X)
    assert not isinstance(large.owner, memory.Memory) and arrays.result((0, 3), np.float64, X).size == 0


def test_a_few_blocks_are_kept_and_the_oldest_go() -> None:
    for size in range(1, 21):
        block(size)
    assert [one.flat.size for one in _driver.spare] == list(range(13, 21)) and memory.MOST_BLOCKS == 8
    assert memory.MOST_BLOCKS * memory.MOST_BYTES == 256 << 20


def test_release() -> None:
    call(moved(problem()), check_finite=True)
    assert len(_driver.spare) == 3 and gradient._workspaces and bad_values._found
    gradient.release()
    assert not _driver.spare and not gradient._workspaces and not bad_values._found


def test_what_is_kept_is_given_up_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    block(1000)
    monkeypatch.setattr(arrays, "free_memory", lambda: 500 if _driver.spare else 1500)
    assert arrays.empty(100, np.float64).size == 100
    assert not _driver.spare
    with pytest.raises(DeviceMemoryError, match="has 1.5 kB free, wanted 1.6 kB"):
        arrays.empty(200, np.float64)


def test_what_is_kept_is_given_up_before_an_allocation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    block(1000)
    plain, asked = _driver.cuda.device_array, []

    def full(*given: Any, **named: Any) -> Any:
        asked.append(len(_driver.spare))
        if _driver.spare:
            raise RuntimeError("Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
        return plain(*given, **named)

    monkeypatch.setattr(_driver.cuda, "device_array", full)
    assert _driver.empty(100, np.float64).size == 100 and asked == [1, 0]
    monkeypatch.setattr(_driver.cuda, "device_array", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("launch failed")))
    with pytest.raises(RuntimeError, match="^launch failed$"):
        _driver.empty(100, np.float64)


# -- bad values --------------------------------------------------------------------------------------------------------

BAD = {
    "X": [(np.nan, (5, 1)), (-np.inf, (N - 1, P - 1))],
    "y": [(2.0, 3), (np.nan, 0), (-1.0, 7), (-0.5, N - 1)],
    "W": [(np.inf, (0, M - 1)), (np.nan, (P - 1, 0))],
    "intercept": [(np.nan, M - 1)],
    "sample_weight": [(-1.0, 4), (np.nan, 2), (-np.inf, N - 1), (np.inf, 0)],
}


def message(values: dict[str, Any], **options: Any) -> str | None:
    try:
        call(values, **options)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("seed", range(12))
def test_bad_values_are_said_as_on_the_cpu(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One argument or several of them: the same is named first, with the same words."""
    monkeypatch.setattr(gradient, "begin", lambda **_: SimpleNamespace(write=lambda *_: None))
    rng = np.random.default_rng(seed)
    for loss, dtype in itertools.product(("log_loss", "squared_error"), (np.float32, np.float64)):
        values = problem(dtype, seed)
        for name in rng.permutation(sorted(BAD))[: rng.integers(1, 4)]:
            for which in rng.permutation(len(BAD[name]))[: rng.integers(1, 3)]:
                value, place = BAD[name][which]
                values[name][place] = value
        for finite in (True, False):
            options = {"loss": loss, "check_finite": finite}
            assert message(moved(values), **options) == message(values, **options)
        if rng.integers(2):
            del values["sample_weight"]
            assert message(moved(values), loss=loss, check_finite=True) == message(values, loss=loss, check_finite=True)


@pytest.mark.parametrize("name", sorted(BAD))
def test_each_bad_value_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "begin", lambda **_: SimpleNamespace(write=lambda *_: None))
    for value, place in BAD[name]:
        values = problem()
        assert message(moved(values), check_finite=True) is None
        values[name][place] = value
        found = message(moved(values), check_finite=True)
        assert found is not None and found.startswith(f"{name}: got ") and found == message(values, check_finite=True)
        assert message(moved(problem()), check_finite=True) is None  # nothing is left of it


def test_labels_of_either_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "begin", lambda **_: SimpleNamespace(write=lambda *_: None))
    for kind in ([0, 1], [-1, 1], [0, 0], [1, 1], [-1, -1], [-0.0, 1]):
        values = problem() | {"y": np.resize(np.array(kind, np.float32), N)}
        assert message(values, check_finite=True) is None and message(moved(values), check_finite=True) is None


def test_outputs_stay_where_a_value_is_bad() -> None:
    values = problem()
    values["W"][1, 2] = np.nan
    out = tuple(arrays.to_device(np.full(shape, 7, dtype)) for shape, dtype in ((M, np.float64), ((P, M), np.float32), (M, np.float32)))
    with pytest.raises(ValueError, match="^W: got nan at row 1, column 2, wanted finite"):
        call(moved(values), check_finite=True, out=out)
    assert all((array.numpy() == 7).all() for array in out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_bad(dtype: Any) -> None:
    """Every place of arrays that end anywhere in a round of the threads."""
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    good = np.array([0, -0.0, 1, info.max, info.tiny, info.smallest_subnormal], dtype)
    finite, negative, labels = bad_values.NOT_FINITE, bad_values.NEGATIVE, bad_values.NOT_LABELS
    for n in [1, 2, 3, 4, 5, 15, 16, 17, 31, 33]:
        host = np.resize(good, n)
        for what in (finite, negative, finite | negative):
            assert not bad_values.any_bad([(arrays.to_device(host), what)], 0)
        for at in {0, n - 1, int(rng.integers(n))}:
            for value, found_by in (
                (np.nan, finite), (-np.nan, finite), (np.inf, finite), (-np.inf, finite | negative), (-1, negative),
                (-info.smallest_subnormal, negative),
            ):  # fmt: skip
                bad = host.copy()
                bad[at] = value
                there = arrays.to_device(bad)
                for what in (finite, negative, finite | negative):
                    assert bad_values.any_bad([(there, what)], 0) == bool(what & found_by), (n, at, value, what)
        for kind in ([0, 1], [-1, 1]):
            host = np.resize(np.array(kind, dtype), n)
            assert not bad_values.any_bad([(arrays.to_device(host), labels)], 0)
            for value in (0.5, np.nan, np.inf):
                bad = host.copy()
                bad[-1] = value
                assert bad_values.any_bad([(arrays.to_device(bad), labels)], 0)
    both = arrays.to_device(np.array([0, 1, 1, 1, -1], dtype))
    assert bad_values.any_bad([(both, labels)], 0) and not bad_values.any_bad([(both, finite)], 0)
    assert not bad_values.any_bad([(arrays.empty((0, 3), dtype), finite), (both, 0)], 0)


def test_any_bad_of_several() -> None:
    good, bad = arrays.to_device(np.zeros(9)), arrays.to_device(np.full(9, np.nan))
    for order in itertools.permutations([good, good, bad]):
        assert bad_values.any_bad([(array, bad_values.NOT_FINITE) for array in order], 0)
    assert not bad_values.any_bad([(good, bad_values.NOT_FINITE)] * 3 + [(bad, bad_values.NEGATIVE)], 0)
