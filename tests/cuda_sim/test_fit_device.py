"""`fit` and `loss_gradient` on a GPU, in the simulator: what goes where, what is copied, and what is said.

The routing is tested with stand-ins that compute on the host, so that it takes no time; the kernels have tests of their
own, and two here run with them.
"""

from __future__ import annotations

import gc
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_arrays import Foreign

import gradfold as gf
from fits import labels, numbers
from gradfold import _core
from gradfold._device import DeviceMemoryError
from gradfold.cuda import arrays

CANDIDATES = {"l2": [1e-3, 1.0], "batch_size": [16, 64]}


class StandIn:
    """`gradfold.cuda.train.Trainer` as far as the rest of the library sees it."""

    made: list[StandIn]

    def __init__(self, *, X: Any, **arguments: Any) -> None:
        self.X, self.arguments = X, arguments
        host = X.host if isinstance(X, arrays.PaddedRows) else X.numpy() if isinstance(X, arrays.DeviceArray) else X
        self.trainer = _core.train.Trainer(X=host, **arguments)
        self.made.append(self)

    @property
    def reason(self) -> str:
        return f"stand-in for batches of {self.arguments['batch_size']}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trainer, name)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """The trainers that a test makes."""
    StandIn.made = []
    monkeypatch.setitem(sys.modules, "gradfold.cuda.train", SimpleNamespace(Trainer=StandIn))  # type: ignore[arg-type]
    return StandIn.made


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each array that a test copies to the GPU."""
    sizes: list[int] = []
    plain = arrays.DeviceArray.write

    def write(self: arrays.DeviceArray, values: Any) -> None:
        sizes.append(values.nbytes)
        plain(self, values)

    class Padded(arrays.PaddedRows):
        def __init__(self, X: Any, *rest: Any) -> None:
            sizes.append(X.nbytes)
            super().__init__(X, *rest)

    monkeypatch.setattr(arrays.DeviceArray, "write", write)
    monkeypatch.setattr(arrays, "PaddedRows", Padded)
    return sizes


def same(a: Any, b: Any) -> None:
    """Two runs with the same bits."""
    for name in (
        "coef",
        "intercept",
        "history",
        "held_out_loss",
        "best_coef",
        "steps",
        "diverged_epoch",
        "learning_rate",
    ):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    assert (a.best_intercept, a.best_steps) == (b.best_intercept, b.best_steps)


# -- fit ---------------------------------------------------------------------------------------------------------------


def test_numpy_with_device_cuda(made: list[StandIn], copied: list[int]) -> None:
    X, y = labels(120)
    run = gf.fit(X, y, gf.grid(**CANDIDATES), folds=3, epochs=2, device="cuda")
    same(run, gf.fit(X, y, gf.grid(**CANDIDATES), folds=3, epochs=2))
    assert run.device == "cuda"
    assert run.device_reason == "cuda: asked for; stand-in for batches of 16; stand-in for batches of 64"
    assert (
        len(made) == 3 and len({id(trainer.X) for trainer in made}) == 1
    )  # two parts and the refit share one copy of X
    assert copied == [X.nbytes]
    assert np.may_share_memory(run._data[0], X)  # what is scored later is the host's


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_data_on_the_gpu(made: list[StandIn], copied: list[int], dtype: Any) -> None:
    X, y = labels(120, dtype=dtype)
    weight = np.random.default_rng(3).uniform(0, 2, 120).astype(dtype)
    options: dict[str, Any] = dict(folds=3, epochs=2, standardize=True, class_weight="balanced", early_stopping=True)
    run = gf.fit(Foreign(X), Foreign(y), gf.grid(**CANDIDATES), sample_weight=Foreign(weight), **options)
    host = gf.fit(X, y, gf.grid(**CANDIDATES), sample_weight=weight, **options)
    same(run, host)
    assert run.device == "cuda" and run.device_reason.startswith("cuda: where the data lives; stand-in")
    assert all(trainer.X.pointer == X.ctypes.data for trainer in made)
    assert X.nbytes not in copied  # only row numbers, of the rows that scores look at
    assert run.coef.dtype == dtype and type(run.coef) is np.ndarray
    # What comes after the fit fetches the rows that it needs.
    assert run.held_out_raw_prediction(models=[0, 5]).tobytes() == host.held_out_raw_prediction(models=[0, 5]).tobytes()
    assert run.scores("roc_auc").tobytes() == host.scores("roc_auc").tobytes()
    assert run.metric("confusion_matrix").tobytes() == host.metric("confusion_matrix").tobytes()
    assert run.calibrate().threshold.tobytes() == host.calibrate().threshold.tobytes()
    with pytest.raises(RuntimeError, match="^diagnose needs X on the host"):
        run.diagnose()


def test_our_own_arrays(made: list[StandIn]) -> None:
    X, y = numbers(60)
    array = arrays.to_device(X)
    run = gf.fit(array, arrays.to_device(y), folds=3, epochs=2, loss="squared_error")
    same(run, gf.fit(X, y, folds=3, epochs=2, loss="squared_error"))
    assert made[0].X is array


def test_y_alone_on_the_gpu_decides(made: list[StandIn]) -> None:
    X, y = labels(60)
    assert gf.fit(X, Foreign(y), folds=3, epochs=1).device == "cuda" and len(made) == 2


def test_without_splits(made: list[StandIn]) -> None:
    X, y = labels(60)
    run = gf.fit(Foreign(X), y, epochs=2)
    assert run.device_reason == "cuda: where the data lives; stand-in for batches of 256"
    same(run, gf.fit(X, y, epochs=2))


def test_range_test_and_scoring_and_splitter(made: list[StandIn]) -> None:
    class Splitter:
        def split(self, X: Any, y: Any) -> Any:
            assert type(y) is np.ndarray
            return [(np.arange(0, 60), np.arange(60, 120)), (np.arange(60, 120), np.arange(0, 60))]

    X, y = labels(120)
    options: dict[str, Any] = dict(folds=Splitter(), learning_rate="auto", epochs=2, scoring="accuracy")
    run = gf.fit(Foreign(X), Foreign(y), gf.grid(l2=[0.1, 1.0]), **options)
    same(run, gf.fit(X, y, gf.grid(l2=[0.1, 1.0]), **options))
    assert len(made) == 4  # a range test and a training, of the splits and of the refit


def test_validation_data_anywhere(made: list[StandIn]) -> None:
    X, y = labels(120)
    train, test = slice(0, 80), slice(80, 120)
    host = gf.fit(X[train], y[train], validation_data=(X[test], y[test]), epochs=2)
    for place in (lambda a: a, Foreign):
        run = gf.fit(Foreign(X[train]), y[train], validation_data=(place(X[test]), place(y[test])), epochs=2)
        same(run, host)
        assert run.scores("accuracy").tobytes() == host.scores("accuracy").tobytes()


def test_missing_cells(made: list[StandIn]) -> None:
    X, y = labels(120)
    X[::7, 2] = np.nan
    run = gf.fit(X, y, folds=3, epochs=2, missing="mean", device="cuda")
    same(run, gf.fit(X, y, folds=3, epochs=2, missing="mean"))
    assert len({id(trainer.X) for trainer in made}) == 4  # each has fills of its own
    with pytest.raises(ValueError, match="^missing: got 'mean' with X on the GPU, wanted 'error', or X on the host"):
        gf.fit(Foreign(X), y, folds=3, missing="mean")


def test_partial_fit_goes_on_on_the_host(made: list[StandIn]) -> None:
    X, y = labels(60)
    run, host = gf.fit(Foreign(X), y, epochs=2), gf.fit(X, y, epochs=2)
    n = len(made)
    assert run.partial_fit(X, y).best_coef.tobytes() == host.partial_fit(X, y).best_coef.tobytes() and len(made) == n


def test_saved(made: list[StandIn], tmp_path: Any) -> None:
    X, y = labels(60)
    run = gf.fit(Foreign(X), y, folds=3, epochs=1)
    run.save(tmp_path / "run.npz")
    loaded = gf.load(tmp_path / "run.npz")
    assert (loaded.device, loaded.device_reason) == (run.device, run.device_reason)


def _with(X: np.ndarray, place: tuple[int, int], value: float) -> np.ndarray:
    out = X.copy()
    out[place] = value
    return out


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda X: _with(X, (7, 3), np.nan), ValueError, "X: got nan at row 7, column 3, wanted finite numbers only"),
        (lambda X: _with(X, (0, 0), -np.inf), ValueError, "X: got -inf at row 0, column 0"),
        (np.asfortranarray, ValueError, r"X: got a layout with strides \(8, 480\) on the GPU, wanted C-contiguous"),
        (lambda X: X[:, 0], ValueError, r"X: got a layout|X: got shape \(60,\), wanted \(n_rows, n_features\)"),
        (lambda X: X[:, 0].copy(), ValueError, r"X: got shape \(60,\), wanted \(n_rows, n_features\)"),
        (lambda X: X[:0], ValueError, r"X: got the empty shape \(0, 5\)"),
        (lambda X: X[:1], ValueError, "X: got 1 row"),
        (
            lambda X: (X > 0).astype(np.int32),
            TypeError,
            "X: got dtype int32 on the GPU, wanted float32 or float64; nothing is converted",
        ),
        (lambda X: X.astype(np.float16), TypeError, "X: got dtype float16 on the GPU"),
    ],
    ids=["nan", "inf", "fortran", "column", "1-d", "empty", "1 row", "int", "float16"],
)
def test_bad_X(made: list[StandIn], change: Any, error: type[Exception], message: str) -> None:
    X, y = labels(60)
    with pytest.raises(error, match=f"^{message}"):
        gf.fit(Foreign(change(X)), y[: len(change(X))], folds=2)
    assert made == []


def test_other_bad_input(made: list[StandIn]) -> None:
    X, y = labels(60)
    with pytest.raises(TypeError, match="^X: got dtype float64 on the GPU, wanted float32, as `dtype` says"):
        gf.fit(Foreign(X), y, dtype="float32")
    with pytest.raises(ValueError, match=r"^y: got shape \(59,\), wanted \(60,\)"):
        gf.fit(Foreign(X), Foreign(y[:59].copy()))
    with pytest.raises(ValueError, match="^sample_weight: got -1.0 at row 2"):
        gf.fit(Foreign(X), y, sample_weight=Foreign(np.where(np.arange(60) == 2, -1.0, 1.0)))
    holed, folds = _with(X, (7, 3), np.nan), [(range(20, 60), range(7))]
    run = gf.fit(Foreign(holed), y * 1.0, loss="log_loss", check_finite=False, refit=False, folds=folds)
    assert run.device == "cuda" and not run.diverged.any()


def test_what_is_not_built_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**arguments: Any) -> None:
        raise ValueError("average: got 3 on a GPU")

    monkeypatch.setitem(sys.modules, "gradfold.cuda.train", SimpleNamespace(Trainer=refuse))  # type: ignore[arg-type]
    X, y = labels(60)
    with pytest.raises(ValueError, match="^average: got 3 on a GPU"):
        gf.fit(X, y, folds=2, average=3, device="cuda")


def test_data_that_do_not_fit_are_left_to_the_trainer(made: list[StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = labels(60)
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "free_memory", lambda: 1000)
        assert gf.fit(X, y, folds=2, epochs=1, device="cuda").device == "cuda"
        assert made and all(isinstance(trainer.X, np.ndarray) for trainer in made)  # which streams them
    made.clear()
    gf.fit(X, y, folds=2, epochs=1, device="cuda")
    assert len({id(trainer.X) for trainer in made}) == 1 and isinstance(made[0].X, arrays.PaddedRows)


# -- loss_gradient -----------------------------------------------------------------------------------------------------


def _stand_in(
    X: Any, y: Any, W: Any, intercept: Any, *, loss: str, mean: bool, rows: Any, ids: Any, conditions: Any,
    split_of_model: Any, sample_weight: Any, loss_epsilon: Any, want_loss: bool, want_gradient: bool, stream: Any,
) -> SimpleNamespace:  # fmt: skip
    """`gradfold.cuda.gradient.begin` as far as the rest of the library sees it."""
    there = (X, y, W, intercept, rows, sample_weight)
    assert all(array is None or isinstance(array, arrays.DeviceArray) for array in there)
    assert all(array is None or type(array) is np.ndarray for array in (ids, conditions, split_of_model, loss_epsilon))
    assert W.ndim == 2 and stream == 0 and want_gradient
    X, y, W, intercept, rows, sample_weight = (None if a is None else a.numpy() for a in there)

    def write(*outputs: Any) -> None:
        assert all(array is None or isinstance(array, arrays.DeviceArray) for array in outputs)
        assert (outputs[0] is not None) == want_loss
        values = [None if a is None else a.numpy() for a in outputs]
        values[1:] = values[1].reshape(W.shape), None if values[2] is None else values[2].reshape(W.shape[1:])
        _core.gradient.loss_gradient(
            X, y, W, intercept, loss, mean, rows, ids, conditions, split_of_model, sample_weight, *values, 1, loss_epsilon
        )
        for to, array in zip(outputs, values, strict=True):
            if to is not None:
                to.write(array.reshape(to.shape))

    return SimpleNamespace(write=write)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradfold.cuda.gradient", SimpleNamespace(begin=_stand_in, release=lambda: None))  # type: ignore[arg-type]


def _problem(dtype: Any = np.float64, m: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    X, y = labels(50, dtype=dtype)
    return {
        "X": X,
        "y": y.astype(dtype),
        "W": rng.standard_normal((5, m)).astype(dtype),
        "intercept": rng.standard_normal(m).astype(dtype),
        "sample_weight": rng.uniform(0, 2, 50).astype(dtype),
    }


def _bytes(result: Any) -> list[Any]:
    return [None if a is None else (a.numpy() if isinstance(a, arrays.DeviceArray) else a).tobytes() for a in result]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sum": {"reduction": "sum", "return_loss": False},
    "rows": {"rows": np.array([3, 3, 49, 0], np.int64)},
    "folds": {"folds": gf.index.kfold(50, 2), "split_of_model": np.array([1, 1, 0, 1])},
    "epsilon": {"loss": "huber", "loss_epsilon": np.array([0.1, 0.5, 1.0, 2.0])},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_loss_gradient_here_and_there(kernel: None, options: dict[str, Any], dtype: Any) -> None:
    problem = _problem(dtype)
    options = {"loss": "log_loss", "check_finite": True, **options}
    wanted = gf.gradient.loss_gradient(**problem, **options)
    asked = gf.gradient.loss_gradient(**problem, **options, device="cuda")
    assert _bytes(asked) == _bytes(wanted) and all(a is None or type(a) is np.ndarray for a in asked)
    there = {name: Foreign(array) for name, array in problem.items()}
    found = gf.gradient.loss_gradient(**there, **options)
    assert _bytes(found) == _bytes(wanted) and all(a is None or isinstance(a, arrays.DeviceArray) for a in found)
    for name in ("rows", "split_of_model", "loss_epsilon"):  # ids may lie there too
        if name in options:
            moved = {**options, name: Foreign(options[name])}
            assert _bytes(gf.gradient.loss_gradient(**there, **moved)) == _bytes(wanted)
    without = {name: there[name] for name in ("X", "y", "W")}
    assert _bytes(gf.gradient.loss_gradient(**without, **options)) == _bytes(
        gf.gradient.loss_gradient(**{name: problem[name] for name in without}, **options)
    )


def test_three_dimensions_of_one_output(kernel: None) -> None:
    problem = _problem()
    problem |= {"W": problem["W"].reshape(5, 1, 4), "intercept": problem["intercept"].reshape(1, 4)}
    found = gf.gradient.loss_gradient(**{name: Foreign(a) for name, a in problem.items()}, loss="log_loss")
    assert found[1].shape == (5, 1, 4) and found[2].shape == (1, 4)
    assert _bytes(found) == _bytes(gf.gradient.loss_gradient(**problem, loss="log_loss"))


def test_out(kernel: None) -> None:
    problem = _problem()
    there = {name: Foreign(array) for name, array in problem.items()}
    wanted = _bytes(gf.gradient.loss_gradient(**problem, loss="log_loss"))
    memory = [np.empty(4), np.empty((5, 4)), np.empty(4)]
    out = tuple(Foreign(a) for a in memory)
    assert gf.gradient.loss_gradient(**there, loss="log_loss", out=out) is out  # type: ignore[arg-type]
    assert _bytes(memory) == wanted
    memory = [np.empty(4), np.empty((5, 4)), np.empty(4)]
    result = gf.gradient.loss_gradient(**problem, loss="log_loss", out=tuple(memory), device="cuda")  # type: ignore[arg-type]
    assert result[1] is memory[1] and _bytes(memory) == wanted


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"y": np.zeros(50)},
            TypeError,
            "y: got an array of float64, shape .50,. on the host, wanted an array on the GPU as X is",
        ),
        (
            {"y": Foreign(np.zeros(50, np.float32))},
            TypeError,
            "y: got an array of float32 on the GPU, shape .50,., wanted float64 of shape",
        ),
        (
            {"W": Foreign(np.zeros((4, 2)))},
            ValueError,
            "W: got an array of float64 on the GPU, shape .4, 2., wanted float64 of shape .5, any",
        ),
        ({"W": Foreign(np.zeros((2, 5)).T)}, ValueError, "W: got a layout with strides"),
        ({"X": Foreign(np.zeros((50, 5), np.int64))}, TypeError, "X: got an array of int64 on the GPU"),
        (
            {"sample_weight": Foreign(np.where(np.arange(50) == 9, -2.0, 1))},
            ValueError,
            "sample_weight: got -2.0 at row 9, wanted weights",
        ),
        (
            {"W": Foreign(_with(np.zeros((5, 4)), (2, 1), np.inf))},
            ValueError,
            "W: got inf at row 2, column 1, wanted finite",
        ),
        ({"y": Foreign(np.full(50, 3.0))}, ValueError, "y: got 3.0 at row 0, wanted labels"),
        ({"rows": Foreign(np.array([0, 50]))}, ValueError, "rows: got 50 at position 1, wanted 0 to n_rows - 1 = 49"),
        ({"rows": np.array([-1])}, ValueError, "rows: got -1 at position 0"),
        ({"loss": "multinomial"}, ValueError, "loss: got 'multinomial', which is not built for GPUs"),
        (
            {"out": (Foreign(np.zeros(4)), Foreign(np.zeros((5, 3))), None)},
            ValueError,
            r"out\[1\] \(grad_W\): got an array of float64 on the GPU",
        ),
    ],
    ids=[
        "mixed",
        "dtype",
        "shape",
        "layout",
        "int X",
        "weight",
        "inf",
        "domain",
        "rows there",
        "rows here",
        "multinomial",
        "out",
    ],
)
def test_bad_arguments(kernel: None, change: dict[str, Any], error: type[Exception], message: str) -> None:
    there: dict[str, Any] = {name: Foreign(array) for name, array in _problem().items()}
    with pytest.raises(error, match=f"^{message}"):
        gf.gradient.loss_gradient(**{**there, "loss": "log_loss", "check_finite": True, **change})


def test_out_that_overlaps_or_is_read_only(kernel: None) -> None:
    problem = _problem()
    there = {name: Foreign(array) for name, array in problem.items()}
    loss, grad = Foreign(np.empty(4)), Foreign(np.empty(4))
    with pytest.raises(ValueError, match=r"^out\[1\] \(grad_W\): overlaps the memory of W"):
        gf.gradient.loss_gradient(**there, loss="log_loss", out=(loss, Foreign(problem["W"]), grad))
    fixed = np.empty((5, 4))
    with pytest.raises(ValueError, match=r"^out\[1\] \(grad_W\): got a read-only array"):
        out = (loss, Foreign(fixed, data=(fixed.ctypes.data, True)), grad)
        gf.gradient.loss_gradient(**there, loss="log_loss", out=out)


# -- with the kernels --------------------------------------------------------------------------------------------------


def test_loss_gradient_with_its_kernels() -> None:
    problem = _problem(np.float32, m=2)
    problem |= {"X": problem["X"][:8].copy(), "y": problem["y"][:8], "sample_weight": problem["sample_weight"][:8]}
    wanted = gf.gradient.loss_gradient(**problem, loss="squared_error", folds=gf.index.kfold(8, 2))
    found = gf.gradient.loss_gradient(
        **{name: Foreign(a) for name, a in problem.items()}, loss="squared_error", folds=gf.index.kfold(8, 2)
    )
    assert _bytes(found) == _bytes(wanted)


def test_fit_with_its_kernels() -> None:
    X, y = labels(24, 3)
    options: dict[str, Any] = dict(folds=2, epochs=1, batch_size=16, solver="sgd")
    host = gf.fit(X, y, **options)
    run = gf.fit(Foreign(X), y, **options)
    same(run, host)
    assert run.device_reason.startswith("cuda: where the data lives; "), run.device_reason
    same(gf.fit(X, y, **options, device="cuda"), host)


def test_roles_that_could_not_be_made_leave_no_others_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call trains on its own split's rows, and not on those of the call before the failure."""
    from gradfold.cuda import roles

    problem = {name: a[:24] if len(a) > 5 else a for name, a in _problem(np.float32).items() if name != "sample_weight"}
    options: dict[str, Any] = dict(**problem, loss="log_loss", folds=gf.index.kfold(24, 4))
    first, second = np.zeros(4, np.int64), np.ones(4, np.int64)
    gf.gradient.loss_gradient(**options, split_of_model=first, device="cuda")

    def fails(*_: object, **__: object) -> None:
        raise DeviceMemoryError("the GPU has nothing free")

    with monkeypatch.context() as patch:
        patch.setattr(roles, "launch", fails)
        with pytest.raises(DeviceMemoryError):
            gf.gradient.loss_gradient(**options, split_of_model=second, device="cuda")
    found = gf.gradient.loss_gradient(**options, split_of_model=second, device="cuda")
    assert _bytes(found) == _bytes(gf.gradient.loss_gradient(**options, split_of_model=second))


def test_a_finished_fit_holds_nothing_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even until the next collection of garbage: the next fit wants the memory."""
    from gradfold.cuda import arrays

    made: list[weakref.ref[Any]] = []
    plain = arrays.PaddedRows.__init__

    def noted(self: Any, *given: Any, **named: Any) -> None:
        plain(self, *given, **named)
        made.append(weakref.ref(self))

    monkeypatch.setattr(arrays.PaddedRows, "__init__", noted)
    X, y = labels(24, 3)
    gc.collect()
    gc.disable()
    try:
        gf.fit(X, y, folds=2, epochs=1, batch_size=24, solver="sgd", device="cuda")
        assert made and not any(ref() for ref in made)
    finally:
        gc.enable()
