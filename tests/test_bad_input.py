"""Every bad argument is a ValueError or TypeError that names it, says what came and what was wanted."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import gradfold as gf

N, P, M = 60, 5, 3


def _data(dtype: Any = np.float64) -> tuple[Any, Any]:
    rng = np.random.default_rng(7)
    X = rng.standard_normal((N, P)).astype(dtype)
    y = (X[:, 0] + rng.standard_normal(N) > 0).astype(dtype)
    return X, y


def _fit(X: Any = None, y: Any = None, candidates: Any = None, **keywords: Any) -> gf.Run:
    own_X, own_y = _data()
    keywords.setdefault("epochs", 1)
    return gf.fit(own_X if X is None else X, own_y if y is None else y, candidates, **keywords)


def _broken(value: float, row: int = 3, column: int = 2) -> Any:
    X, _ = _data()
    X[row, column] = value
    return X


# -- fit: settings ----------------------------------------------------------------------------------------------------

_SETTINGS = [
    ("epochs", 0, ValueError, "got 0, wanted an integer, at least 1"),
    ("epochs", 2.5, TypeError, "got 2.5, wanted an integer"),
    ("epochs", True, TypeError, "got True"),
    ("batch_size", 0, ValueError, "got 0"),
    ("batch_size", -3, ValueError, "got -3"),
    ("batch_size", "64", TypeError, "got '64'"),
    ("l2", -1e-3, ValueError, "got -0.001, wanted a finite number, at least 0"),
    ("l1", -1.0, ValueError, "got -1.0"),
    ("l2", np.nan, ValueError, "got nan"),
    ("l2", "0.1", TypeError, "got '0.1'"),
    ("l2", None, TypeError, "got None"),
    ("learning_rate", 0.0, ValueError, "wanted a finite number above 0"),
    ("learning_rate", np.inf, ValueError, "got inf"),
    ("loss", "log_los", ValueError, "did you mean 'log_loss'"),
    ("loss", 3, TypeError, "wanted one of"),
    ("solver", "adm", ValueError, "did you mean 'adam'"),
    ("schedule", "cosin", ValueError, "did you mean 'cosine'"),
    ("seed", -1, ValueError, "got -1"),
    ("seed", 2**64, ValueError, "at most 18446744073709551615"),
    ("seed", 1.0, TypeError, "wanted an integer"),
    ("shuffle", 1, TypeError, "wanted True or False"),
    ("standardize", "yes", TypeError, "wanted True or False"),
    ("refit", None, TypeError, "wanted True or False"),
    ("n_threads", 0, ValueError, "got 0"),
    ("max_seconds", -1, ValueError, "wanted a finite number above 0"),
    ("device", "cuda:1", ValueError, "wanted None, 'cpu' or 'cuda', which is the current GPU"),
    ("device", "tpu", ValueError, "wanted None, 'cpu' or 'cuda'$"),
    ("dtype", "float16", TypeError, "wanted float32 or float64"),
    ("dtype", "flot32", TypeError, "wanted float32 or float64"),
    ("coef_init", np.zeros(P + 1), ValueError, r"got shape \(6,\), wanted \(5,\)"),
    ("coef_init", np.full(P, np.nan), ValueError, "not finite"),
    ("coef_init", "zeros", TypeError, "wanted real numbers"),
    ("coef_init", np.full(P, 1j), TypeError, "wanted real numbers"),
    ("coef_init", [[1.0], [1.0, 2.0]], ValueError, "coef_init: got an object of type list"),
    ("coef_init", np.ma.MaskedArray(np.zeros(P), mask=np.eye(P)[0]), TypeError, "coef_init: got a masked array"),
    ("intercept_init", np.ma.masked, TypeError, "intercept_init: got a masked array"),
    ("intercept_init", np.zeros((2, 2)), ValueError, "got shape"),
    ("folds", 1, ValueError, "got 1, wanted an integer, at least 2"),
    ("folds", N + 1, ValueError, "n_splits <= n_rows"),
    ("folds", "5", TypeError, "got '5'"),
    ("folds", 2.0, TypeError, "got 2.0"),
    ("folds", [], ValueError, "folds: got no .train, test. pair"),
    ("folds", np.array(5), TypeError, "folds: got an array of int64"),
    ("folds", [1, 2], TypeError, r"^folds\[0\]: got 1, wanted a pair"),
    ("folds", [([0], [99])], ValueError, r"^folds\[0\] test: got row 99, wanted rows of 0 to 59"),
    ("folds", gf.index.Folds, TypeError, "^folds: got an object of type type"),
]


@pytest.mark.parametrize(
    ("argument", "value", "error", "message"), _SETTINGS, ids=[f"{a}-{v!r:.12}" for a, v, _, _ in _SETTINGS]
)
def test_setting(argument: str, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        _fit(**{argument: value})
    assert argument in str(caught.value) or argument == "folds"


@pytest.mark.parametrize("argument", ["coef_init", "intercept_init"])
def test_start_that_overflows_in_the_dtype(argument: str) -> None:
    X, y = _data(np.float32)
    start = np.full(P, -1e300) if argument == "coef_init" else 1e300
    with pytest.raises(ValueError, match=rf"^{argument}: got the magnitude 1e\+300, .* finite in float32"):
        _fit(X, y, **{argument: start})
    largest = float(np.finfo(np.float32).max)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the refit diverged")
        _fit(X, y, **{argument: np.full(P, largest) if argument == "coef_init" else largest})


def test_intercept_init_without_an_intercept() -> None:
    with pytest.raises(ValueError, match=r"^intercept_init: got 0\.5 with fit_intercept=False, wanted None or 0"):
        _fit(fit_intercept=False, intercept_init=0.5)
    assert _fit(fit_intercept=False, intercept_init=0.0).best_intercept == 0


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="refit: got False with no splits"):
        _fit(refit=False)


# -- fit: X -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.zeros(N), ValueError, r"X: got shape \(60,\), wanted \(n_rows, n_features\)"),
        (np.zeros((N, P, 1)), ValueError, "X: got shape"),
        (np.zeros((0, P)), ValueError, "X: got the empty shape"),
        (np.zeros((N, 0)), ValueError, "X: got the empty shape"),
        (np.zeros((N, P), np.float16), TypeError, "no float16 kernels"),
        (np.zeros((N, P), np.complex128), TypeError, "X: got dtype complex128"),
        (np.full((N, P), "a"), TypeError, "X: got dtype <U1"),
        (np.zeros((N, P), "datetime64[s]"), TypeError, "X: got dtype datetime64"),
        (np.full((N, P), "a", object), TypeError, "X: got dtype object"),
        (scipy.sparse.csr_matrix(np.eye(N, P)), TypeError, "X: got a sparse csr_matrix"),
        (scipy.sparse.coo_array(np.eye(N, P)), TypeError, "X: got a sparse coo_array"),
        (np.ma.MaskedArray(np.ones((N, P)), mask=np.eye(N, P)), TypeError, "X: got a masked array"),
        ([[1.0, 2.0], [3.0]], ValueError, "X: got an object of type list"),
        (None, ValueError, "X: got shape"),
        (_broken(np.nan), ValueError, "X: got nan at row 3, column 2, wanted finite"),
        (_broken(-np.inf, 59, 4), ValueError, "X: got -inf at row 59, column 4"),
    ],
)
@pytest.mark.filterwarnings("ignore:fit copied")
def test_X(X: Any, error: type[Exception], message: str) -> None:
    _, y = _data()
    with pytest.raises(error, match=message):
        gf.fit(X, y, epochs=1)


def test_first_non_finite_of_several_is_named() -> None:
    X = _broken(np.inf, 40, 0)
    X[12, 4] = np.nan
    X[12, 1] = np.inf
    with pytest.raises(ValueError, match="X: got inf at row 12, column 1"):
        _fit(X)


def test_overflow_of_a_conversion_is_named() -> None:
    X = _broken(1e300)
    with pytest.raises(ValueError, match="X: got inf at row 3, column 2"):
        _fit(X, dtype="float32")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda X: np.asfortranarray(X), "Fortran order"),
        (lambda X: np.repeat(X, 2, axis=1)[:, ::2], "not contiguous"),
        (lambda X: (100 * X).astype(np.int32), "dtype int32"),
        (lambda X: X.astype(np.longdouble), "dtype "),
        (lambda X: X.astype(X.dtype.newbyteorder()), "foreign byte order"),
        (lambda X: X.tolist(), "list"),
    ],
)
def test_copies_are_visible_and_exact(make: Any, reason: str) -> None:
    X, y = _data()
    with pytest.warns(UserWarning, match="fit copied X") as caught:
        run = gf.fit(make(X), y, epochs=2)
    assert len(caught) == 1 and reason in str(caught[0].message)
    assert caught[0].filename == __file__
    if "int" not in reason:
        assert run.best_coef.tobytes() == gf.fit(X, y, epochs=2).best_coef.tobytes()


def test_data_frame() -> None:
    pandas = pytest.importorskip("pandas")
    X, y = _data()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fit copied X")
        run = gf.fit(pandas.DataFrame(X), pandas.Series(y), epochs=2)
    assert run.best_coef.tobytes() == gf.fit(X, y, epochs=2).best_coef.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_kept_without_a_warning(dtype: Any) -> None:
    X, y = _data(dtype)
    X.flags.writeable = False
    run = _fit(X, y)
    assert run.best_coef.dtype == dtype


def test_dtype_converts_silently() -> None:
    X, y = _data()
    assert _fit(X, y, dtype=np.float32).best_coef.dtype == np.float32
    assert _fit(X.astype(np.float16), y, dtype=np.float32).best_coef.dtype == np.float32


# -- fit: y and sample_weight -----------------------------------------------------------------------------------------


def _labels(*values: Any) -> Any:
    return np.resize(np.array(values), N)


@pytest.mark.parametrize(
    ("y", "keywords", "error", "message"),
    [
        (np.zeros(N - 1), {}, ValueError, r"y: got shape \(59,\), wanted \(60,\)"),
        (np.zeros((N, 1)), {}, ValueError, r"y: got shape \(60, 1\)"),
        (_labels("a", "b", "c"), {"loss": "log_loss"}, ValueError, "more than two labels"),
        (_labels("a", "b", "c"), {"loss": "hinge"}, ValueError, "more than two labels"),
        (_labels(4), {}, ValueError, "the one label 4"),
        (_labels(0.0, 1.0, 2.0), {"loss": "log_loss"}, ValueError, "y: got 2.0 at row 2, wanted labels in"),
        (_labels(-1, 1, 0), {"loss": "log_loss"}, ValueError, "y: got 0.0 at row 2"),
        (_labels(1, 2), {"loss": "log_loss"}, ValueError, "y: got 2.0 at row 1"),
        (_labels(0.0, np.nan), {"loss": "log_loss"}, ValueError, "y: got nan at row 1"),
        (_labels(0.5, np.inf), {}, ValueError, "y: got inf at row 1, wanted finite"),
        (_labels("a", "b"), {"loss": "squared_error"}, TypeError, "y: got dtype"),
        (np.resize(np.array(["a", None], object), N), {}, ValueError, "the label None"),
        (np.resize(np.array(["a", 1], object), N), {}, ValueError, "mixed types"),
        (np.resize(np.array(["a", "a\0"], object), N), {}, ValueError, r"y: got the labels 'a', 'a\\x00', of which"),
        (np.resize(np.array([2**53 + 1, 0.5], object), N), {}, ValueError, "y: got the labels 0.5, 9007199254740"),
        (np.ma.MaskedArray(_labels(0, 1), mask=_labels(0, 1)), {}, TypeError, "y: got a masked array"),
        (np.zeros(N, np.complex64), {}, TypeError, "y: got dtype complex64"),
        (np.zeros(N, "datetime64[D]"), {}, TypeError, "y: got dtype datetime64"),
    ],
)
def test_y(y: Any, keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _fit(y=y, **keywords)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (np.ones(N + 1), ValueError, r"sample_weight: got shape \(61,\)"),
        (np.where(np.arange(N) == 8, -0.5, 1.0), ValueError, "sample_weight: got -0.5 at row 8"),
        (np.where(np.arange(N) == 8, np.nan, 1.0), ValueError, "sample_weight: got nan at row 8"),
        (np.where(np.arange(N) == 8, np.inf, 1.0), ValueError, "sample_weight: got inf at row 8"),
        (np.zeros(N), ValueError, "sample_weight: got no weight above 0"),
        (["heavy"] * N, TypeError, "sample_weight: got dtype"),
    ],
)
@pytest.mark.parametrize("folds", [None, 3])
def test_sample_weight(weight: Any, error: type[Exception], message: str, folds: Any) -> None:
    with pytest.raises(error, match=f"^{message}"):
        _fit(sample_weight=weight, folds=folds)


def test_check_finite_off_lets_unused_rows_be_anything() -> None:
    X, y = _data()
    unused = np.arange(N) < 10
    train, score = np.arange(10, 40), np.arange(40, N)
    clean = _fit(
        X, y, loss="log_loss", folds=[(train, score)], refit=False, check_finite=False, sample_weight=np.ones(N)
    )
    X[unused], y[unused] = np.nan, 1e30
    run = _fit(
        X, y, loss="log_loss", folds=[(train, score)], refit=False, check_finite=False,
        sample_weight=np.where(unused, np.inf, 1.0),
    )  # fmt: skip
    assert run.coef.tobytes() == clean.coef.tobytes()
    assert run.held_out_loss.tobytes() == clean.held_out_loss.tobytes()


# -- fit: splits and candidates ---------------------------------------------------------------------------------------


def test_split_without_training_row_is_named() -> None:
    rows = np.arange(N)
    with pytest.raises(ValueError, match=r"folds\[1\] train: got no row"):
        _fit(folds=[(rows[:30], rows[30:]), (rows[:0], rows[30:])])
    ids = (rows % 3).astype(np.uint8)[None]
    conditions = np.array([[[0, 0, 1, 0, 3]], [[0, 0, 3, 0, 3]]])
    with pytest.raises(ValueError, match="no training row for split 1"):
        _fit(folds=gf.index.Folds(ids, conditions))
    weight = (rows >= 30).astype(np.float64)
    with pytest.raises(ValueError, match="^sample_weight: folds' split 0 has no training row of a weight above 0"):
        _fit(folds=[(rows[:30], rows[30:]), (rows[30:], rows[:30])], sample_weight=weight)


def test_folds_of_other_data() -> None:
    with pytest.raises(ValueError, match="folds: got Folds over 50 rows, wanted 60"):
        _fit(folds=gf.index.kfold(50, 5))


@pytest.mark.parametrize(
    "pairs",
    [
        [(np.array([0, 1]), np.array([1, 2]))],
        [(np.array([0, 0]), np.array([1, 2]))],
        [(np.array([0, 1]), np.array([N]))],
        [(np.array([-1, 1]), np.array([2]))],
    ],
    ids=["overlap", "repeat", "too large", "negative"],
)
def test_bad_pairs(pairs: Any) -> None:
    with pytest.raises(ValueError):
        _fit(folds=pairs)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gf.grid(), ValueError, "grid: got no parameter"),
        (lambda: gf.grid(l3=[1.0]), ValueError, "unknown parameter 'l3'.*did you mean 'l"),
        (lambda: gf.grid(learningrate=[1.0]), ValueError, "did you mean 'learning_rate'"),
        (lambda: gf.grid(l2=[]), ValueError, "l2: got an empty list"),
        (lambda: gf.grid(l2=0.1), TypeError, "l2: got 0.1, wanted a list"),
        (lambda: gf.grid(l2=np.array(3.0)), TypeError, "l2: got an array of float64, shape .., wanted a list"),
        (lambda: gf.grid(schedule="cosine"), TypeError, "schedule: got 'cosine', wanted a list"),
        (lambda: gf.grid(l2=[0.1, -1.0]), ValueError, "l2: got -1.0"),
        (lambda: gf.grid(learning_rate=[None]), TypeError, "learning_rate: got None"),
        (lambda: gf.Candidates([]), ValueError, "candidates: got none"),
        (lambda: gf.Candidates([{"l1": 0.0}, {"l2": 0.0}]), ValueError, "wanted \\['l1'\\] as in the first"),
        (lambda: _fit(candidates={"l2": [0.1]}), TypeError, "candidates: got an object of type dict"),
        (lambda: _fit(candidates=3), TypeError, "candidates: got 3"),
    ],
)
def test_candidates(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# -- Run --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda run: run.held_out_raw_prediction(models=3), TypeError, "^models: got 3, wanted a list of integers"),
        (lambda run: run.held_out_raw_prediction(models="01"), TypeError, "^models: got '01', wanted a list"),
        (lambda run: run.held_out_raw_prediction(models=[6]), ValueError, "^models: got 6"),
        (lambda run: run.predict(np.zeros((2, P), np.float16)), TypeError, r"^X: got float16.*X\.astype\('float32'\)"),
        (lambda run: run.predict(np.zeros((2, P + 1))), ValueError, "^X: got 6 features, wanted 5"),
    ],
)
def test_run(call: Any, error: type[Exception], message: str) -> None:
    run = _fit(folds=2)
    with pytest.raises(error, match=message):
        call(run)


# -- loss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gf.loss.get("squared_eror"), ValueError, "did you mean 'squared_error'"),
        (lambda: gf.loss.get(None), TypeError, "loss: got None"),
        (lambda: gf.loss.get("log_loss").loss(np.zeros(3), np.zeros(4)), ValueError, r"y_true: got shape \(3,\)"),
        (
            lambda: gf.loss.get("log_loss").loss(np.zeros(3), np.zeros(3, int)),
            TypeError,
            "raw_prediction: got dtype int64",
        ),
        (lambda: gf.loss.get("log_loss")(np.zeros(0), np.zeros(0)), ValueError, "raw_prediction: got shape"),
        (
            lambda: gf.loss.get("log_loss")([0, 1], [0.0, 1.0], [0, 0]),
            ValueError,
            "^sample_weight: got weights that sum to zero",
        ),
        (
            lambda: gf.loss.get("log_loss").gradient(np.zeros(2), np.ma.MaskedArray([0.0, 1.0])),
            TypeError,
            "^raw_prediction: got a masked array",
        ),
        (
            lambda: gf.loss.get("log_loss").loss(np.ma.MaskedArray([0.0, 1.0]), np.zeros(2)),
            TypeError,
            "^y_true: got a masked array",
        ),
        (
            lambda: gf.loss.get("log_loss").loss(np.zeros(2), np.zeros(2), np.ma.MaskedArray([0.0, 1.0])),
            TypeError,
            "^sample_weight: got a masked array",
        ),
    ],
)
def test_loss(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# -- gradient.loss_gradient -------------------------------------------------------------------------------------------


def _arguments() -> dict[str, Any]:
    X, y = _data()
    rng = np.random.default_rng(3)
    return {"X": X, "y": y, "W": rng.standard_normal((P, M)), "intercept": rng.standard_normal(M), "loss": "log_loss"}


def _out() -> tuple[Any, Any, Any]:
    return np.full(M, 7.0), np.full((P, M), 7.0), np.full(M, 7.0)


def _read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


_GRADIENT = [
    ("X", lambda a: a["X"].astype(np.float16), TypeError, "X: got an array of float16"),
    ("X", lambda a: a["X"].astype(np.int64), TypeError, "X: got an array of int64"),
    ("X", lambda a: a["X"].astype(">f8"), TypeError, "nothing is converted"),
    ("X", lambda a: a["X"].tolist(), TypeError, "X: got an object of type list"),
    ("X", lambda a: scipy.sparse.csr_matrix(a["X"]), TypeError, "X: got a sparse"),
    ("X", lambda a: np.asfortranarray(a["X"]), ValueError, "X: got a layout"),
    ("X", lambda a: a["X"][::2], ValueError, "X: got a layout"),
    ("X", lambda a: a["X"][:0], ValueError, "X: got the empty shape"),
    ("X", lambda a: a["X"][0], ValueError, "X: got an array of float64, shape"),
    ("y", lambda a: a["y"].astype(np.float32), TypeError, "y: got an array of float32"),
    ("y", lambda a: a["y"][:-1].copy(), ValueError, r"y: got .*\(59,\), wanted float64 of shape \(60,\)"),
    ("W", lambda a: a["W"].astype(np.float32), TypeError, "W: got an array of float32"),
    ("W", lambda a: np.asfortranarray(a["W"]), ValueError, "W: got a layout"),
    ("W", lambda a: a["W"][:-1].copy(), ValueError, "W: got"),
    ("W", lambda a: np.zeros((P, 0)), ValueError, "W: got the empty shape"),
    ("W", lambda a: np.zeros((P, 2, M)), ValueError, "W: got"),
    ("intercept", lambda a: np.zeros(M + 1), ValueError, "intercept: got"),
    ("loss", lambda a: "logloss", ValueError, "did you mean 'log_loss'"),
    ("reduction", lambda a: "average", ValueError, "reduction: got 'average', wanted one of 'mean', 'sum'"),
    ("rows", lambda a: [0, 1], TypeError, "rows: got an object of type list"),
    ("rows", lambda a: np.arange(3, dtype=np.int32), TypeError, "rows: got an array of int32"),
    ("rows", lambda a: np.array([0, 5, N]), ValueError, "rows: got 60 at position 2, wanted 0 to n_rows - 1 = 59"),
    ("rows", lambda a: np.array([0, -1]), ValueError, "rows: got -1 at position 1"),
    ("folds", lambda a: 5, TypeError, "folds: got 5, wanted a Folds"),
    ("folds", lambda a: gf.index.kfold(N - 1, 5), ValueError, "folds: got 59 rows"),
    ("split_of_model", lambda a: np.zeros(M, np.int64), ValueError, "split_of_model: got one without folds"),
    ("sample_weight", lambda a: np.ones(N, np.float32), TypeError, "sample_weight: got an array of float32"),
    ("sample_weight", lambda a: -np.ones(N), ValueError, "sample_weight: got -1.0 at row 0"),
    ("n_threads", lambda a: 0, ValueError, "n_threads: got 0"),
    ("return_loss", lambda a: 1, TypeError, "return_loss: got 1"),
    ("out", lambda a: list(_out()), TypeError, "out: got an object of type list"),
    ("out", lambda a: _out()[:2], TypeError, "out: got an object of type tuple"),
    ("out", lambda a: (None, *_out()[1:]), TypeError, "out.0. .loss.: got None"),
    ("out", lambda a: (np.zeros(M, np.float32), *_out()[1:]), TypeError, "out.0. .loss.: got an array of float32"),
    ("out", lambda a: (_out()[0], np.zeros((P, M + 1)), _out()[2]), ValueError, "out.1. .grad_W.: got"),
    ("out", lambda a: (_out()[0], np.zeros((M, P)).T, _out()[2]), ValueError, "out.1. .grad_W.: got a layout"),
    ("out", lambda a: (_out()[0], _read_only(_out()[1]), _out()[2]), ValueError, "out.1. .grad_W.: got a read-only"),
    ("out", lambda a: (_out()[0], a["W"], _out()[2]), ValueError, "out.1. .grad_W.: overlaps the memory of W"),
    (
        "out",
        lambda a: (_out()[0], a["X"][:P, :M].ravel().reshape(P, M), a["intercept"]),
        ValueError,
        "overlaps .* intercept",
    ),
]


@pytest.mark.parametrize("argument", ["X", "y", "W", "intercept", "rows", "split_of_model", "sample_weight"])
def test_loss_gradient_refuses_masks(argument: str) -> None:
    arguments = _arguments() | {"rows": np.arange(9), "sample_weight": np.ones(N), "folds": gf.index.kfold(N, 3)}
    arguments["split_of_model"] = np.arange(M)
    gf.gradient.loss_gradient(**arguments)
    arguments[argument] = np.ma.MaskedArray(arguments[argument], mask=arguments[argument] > 0)
    with pytest.raises(TypeError, match=f"^{argument}: got a masked array, whose mask would be lost"):
        gf.gradient.loss_gradient(**arguments)


@pytest.mark.parametrize(("argument", "make", "error", "message"), _GRADIENT)
def test_loss_gradient(argument: str, make: Any, error: type[Exception], message: str) -> None:
    arguments = _arguments()
    arguments[argument] = make(arguments)
    with pytest.raises(error, match=message):
        gf.gradient.loss_gradient(**arguments)


def test_loss_gradient_out_overlaps_itself() -> None:
    memory = np.zeros(2 * M)
    with pytest.raises(ValueError, match=r"out\[2\] \(grad_intercept\): overlaps the memory of out\[0\]"):
        gf.gradient.loss_gradient(**_arguments(), out=(memory[:M], np.zeros((P, M)), memory[2 : M + 2]))


def test_loss_gradient_out_where_none_is_wanted() -> None:
    with pytest.raises(ValueError, match=r"out\[0\] \(loss\): got .*, wanted None"):
        gf.gradient.loss_gradient(**_arguments(), return_loss=False, out=_out())
    arguments = _arguments() | {"intercept": None}
    with pytest.raises(ValueError, match=r"out\[2\] \(grad_intercept\): got .*, wanted None"):
        gf.gradient.loss_gradient(**arguments, out=_out())


def test_loss_gradient_split_out_of_range() -> None:
    folds = gf.index.kfold(N, 5)
    with pytest.raises(ValueError, match="split_of_model: got 5 at position 1, wanted 0 to n_splits - 1 = 4"):
        gf.gradient.loss_gradient(**_arguments(), folds=folds, split_of_model=np.array([0, 5, 1]))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("X", "X: got nan at row 0, column 0"),
        ("y", "y: got nan at row 0, wanted labels"),
        ("W", "W: got nan at row 0, column 0"),
        ("intercept", "intercept: got nan at row 0"),
        ("sample_weight", "sample_weight: got nan at row 0"),
    ],
)
def test_loss_gradient_check_finite(argument: str, message: str) -> None:
    arguments = _arguments() | {"sample_weight": np.ones(N)}
    arguments[argument].flat[0] = np.nan
    gf.gradient.loss_gradient(**arguments)
    with pytest.raises(ValueError, match=message):
        gf.gradient.loss_gradient(**arguments, check_finite=True)


def test_failed_call_leaves_out_alone() -> None:
    out = _out()
    with pytest.raises(ValueError, match="rows"):
        gf.gradient.loss_gradient(**_arguments(), rows=np.array([N]), out=out)
    assert all((array == 7.0).all() for array in out)


def test_out_is_what_is_returned() -> None:
    out = _out()
    result = gf.gradient.loss_gradient(**_arguments(), out=out)
    fresh = gf.gradient.loss_gradient(**_arguments())
    for mine, given, new in zip(result, out, fresh, strict=True):
        assert mine is given and mine.tobytes() == new.tobytes()


def test_one_output_in_the_middle() -> None:
    arguments = _arguments()
    flat = gf.gradient.loss_gradient(**arguments)
    arguments["W"], arguments["intercept"] = arguments["W"][:, None, :].copy(), arguments["intercept"][None].copy()
    deep = gf.gradient.loss_gradient(**arguments)
    assert deep[1].shape == (P, 1, M) and deep[2].shape == (1, M)
    assert deep[1].tobytes() == flat[1].tobytes() and deep[0].tobytes() == flat[0].tobytes()
