"""The batched loss and gradient of many linear models over one matrix, on the host or on a GPU.

Arrays of other libraries on the GPU become `DeviceArray`s first, so that both kinds go through the same checks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _core, _device, _target
from gradfold import loss as _loss

if TYPE_CHECKING:
    from gradfold.index import Folds

Array = npt.NDArray[Any]
Given = Any  # an ndarray, or an array of whatever library on the GPU
Result = tuple[Any, Any, Any]


def loss_gradient(
    X: Given,
    y: Given,
    W: Given,
    intercept: Given | None = None,
    *,
    loss: str,
    reduction: str = "mean",
    rows: Given | None = None,
    folds: Folds | None = None,
    split_of_model: Given | None = None,
    sample_weight: Given | None = None,
    loss_epsilon: float | Given = _loss.EPSILON,
    return_loss: bool = True,
    n_threads: int | None = None,
    out: Result | None = None,
    check_finite: bool = False,
    device: str | None = None,
) -> Result:
    """Loss and gradient of many models in one pass over X. No penalty is added; nothing is converted.

    With arrays on the GPU (of torch, CuPy or another library with ``__cuda_array_interface__`` or DLPack) the work is
    done there, queued on the stream that is current in that library, and the results are arrays of that library, on the
    GPU. They have the bits of the host's results.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        float32 or float64, C-contiguous. Its dtype T is the dtype of `y`, `W`, `intercept` and `sample_weight` too.
    y : ndarray of shape (n_rows,)
        For losses of two classes in {0, 1} or {-1, 1}; for "multinomial" class codes 0 to n_outputs - 1.
    W : ndarray of shape (n_features, n_models) or (n_features, n_outputs, n_models)
        Weights, C-contiguous. "multinomial" has 2 to 1,000 outputs, one for each class; every other loss has one.
    intercept : ndarray of shape (n_models,) or (n_outputs, n_models), optional
        Absent: no intercept, and no gradient of one.
    loss : str
        One of the names that `gradfold.loss.get` knows.
    reduction : {"mean", "sum"}
        "sum" is the sum over the training rows visited, weighted; "mean" divides it by the sum of their weights.
    rows : ndarray of int64, shape (n_positions,), optional
        Row numbers to visit, in this order, repeats allowed. Sums are chunked by position, so the order decides the
        last bits. Default: all rows in natural order.
    folds : Folds, optional
        A model sums over the training rows of its split only. Default: every model trains on every row.
    split_of_model : ndarray of int64, shape (n_models,), optional
        The split of each model. Default: m mod n_splits. Needs `folds`.
    sample_weight : ndarray of shape (n_rows,), optional
        At least 0. A row of weight 0 touches nothing.
    loss_epsilon : float or ndarray of float64, shape (n_models,)
        Huber's threshold, above 0, or the zone that the insensitive losses do not count, at least 0; for each model.
        Other losses do not read it.
    return_loss : bool
        False leaves the loss out, which is faster.
    n_threads : int, optional
        Default: the processors this process may use. The result's bits do not depend on it.
    out : tuple, optional
        (loss, grad_W, grad_intercept) to write into, None where the result has None. C-contiguous, writable, not
        overlapping an input or each other.
    check_finite : bool
        Also check that X, y, W, intercept and sample_weight are finite and y is in its loss's domain.
    device : {None, "cpu", "cuda"}
        None is where the data lives. "cuda" with NumPy arrays copies them to the GPU and the results back. On the GPU
        X, y, W, intercept, sample_weight and `out` lie either all there or all on the host; `rows`, `split_of_model`
        and `loss_epsilon` may lie on either.

    Returns
    -------
    loss : ndarray of float64, shape (n_models,), or None
        NaN for the mean of no rows.
    grad_W : ndarray of T, the shape of `W`
        Zero for no rows.
    grad_intercept : ndarray of T, the shape of `intercept`, or None

    Raises
    ------
    TypeError
        A wrong type or dtype.
    ValueError
        A wrong shape or layout, an id out of range, an unknown name, a negative weight, an `out` that is read-only
        or overlaps, and, with `check_finite`, a value that is not finite or not in the domain of the loss; arrays on
        the GPU beside device="cpu"; and what is not built for GPUs: "multinomial".
    DeviceError
        A GPU is asked for, by `device` or by where the data lives, and there is none that can be used.
    DeviceMemoryError
        The GPU's memory does not hold copies of the arrays.
    """
    floats = {"X": X, "y": y, "W": W, "intercept": intercept, "sample_weight": sample_weight}
    where = _device.resolve(device, **floats, **_named(out))
    if where == "cuda":
        _device.require_cuda()
        X, y, W, intercept, sample_weight = (_adopted(name, value) for name, value in floats.items())
        rows, split_of_model = _adopted("rows", rows), _adopted("split_of_model", split_of_model)
        loss_epsilon = _adopted("loss_epsilon", loss_epsilon)
        given, out = out, tuple(map(_adopted, _OUT, out)) if isinstance(out, tuple) and len(out) == 3 else out
        _check_together({"X": X, "y": y, "W": W, "intercept": intercept, "sample_weight": sample_weight, **_named(out)})
    X = _check.float_array("X", X, 2)
    n_rows, n_features = X.shape
    dtype = X.dtype
    y = _check.kernel_array("y", y, dtype, (n_rows,))
    name = _check.choice("loss", loss, _loss.NAMES)
    several = name == "multinomial"
    if several and where == "cuda":
        raise ValueError(f"loss: got {name!r}, which is not built for GPUs; wanted another, or the data on the host")
    if several or getattr(W, "ndim", 2) == 3:
        W = _check.kernel_array("W", W, dtype, (n_features, None if several else 1, None))
    else:
        W = _check.kernel_array("W", W, dtype, (n_features, None))
    n_models = W.shape[-1]
    n_outputs = W.shape[1] if several else 1
    if several and not 2 <= n_outputs <= _target.MOST_CLASSES:
        raise ValueError(f"W: got {n_outputs} outputs, wanted 2 to {_target.MOST_CLASSES}, one for each class")
    if n_models == 0:
        raise ValueError(f"W: got the empty shape {W.shape}, wanted at least one model")
    per_model = W.shape[1:]
    if intercept is not None:
        intercept = _check.kernel_array("intercept", intercept, dtype, per_model)
    mean = _check.choice("reduction", reduction, ("mean", "sum")) == "mean"
    if rows is not None:
        rows = _ids("rows", rows, None, n_rows, "n_rows")
    ids, conditions, split_of_model = _roles(folds, split_of_model, n_rows, n_models)
    threads = 1 if n_threads is None and _device.is_device_array(X) else _check.threads(n_threads)  # the GPU takes none
    epsilon = _epsilon(loss_epsilon, name, n_models)
    check = _check.boolean("check_finite", check_finite)
    with_loss = _check.boolean("return_loss", return_loss)
    if sample_weight is not None:
        sample_weight = _check.kernel_array("sample_weight", sample_weight, dtype, (n_rows,))
    if not _clean_on_gpu(X, y, W, intercept, sample_weight, name, check):
        # On the GPU each of these waits for the device.
        if sample_weight is not None:
            _check.weights("sample_weight", sample_weight, threads, check)
        if check:
            _check.finite("X", X, threads)
            _check.finite("W", W.reshape((n_features, n_outputs * n_models)), threads)
            if intercept is not None:
                _check.finite("intercept", intercept.reshape((n_outputs * n_models,)), threads)
            _target.check_domain(y.numpy() if _device.is_device_array(y) else y, name, threads, n_outputs)

    if where == "cuda":
        _device.check_shape(n_rows, n_features)
    read = {"X": X, "y": y, "W": W, "intercept": intercept, "rows": rows, "sample_weight": sample_weight}
    if out is not None:
        _check_outputs(out, with_loss, W, intercept, read | {"folds": ids, "split_of_model": split_of_model})
    one = None if several else (n_features, n_models)  # the shape that a kernel of one output wants

    def shaped(weights: Any, intercepts: Any) -> tuple[Any, Any]:
        if one is None:
            return weights, intercepts
        return weights.reshape(one), None if intercepts is None else intercepts.reshape(one[1:])

    def outputs() -> Result:
        return _new_outputs(with_loss, W, intercept, X) if out is None else out

    read["W"], read["intercept"] = shaped(W, intercept)
    if where == "cuda":
        splits = {"ids": ids, "conditions": conditions, "split_of_model": split_of_model, "loss_epsilon": epsilon}
        found = _on_gpu(read, splits, name, mean, with_loss, outputs)
        return tuple(map(_handed_back, found)) if given is None else given
    loss_out, grad_W, grad_intercept = outputs()
    _core.gradient.loss_gradient(
        X,
        y,
        read["W"],
        read["intercept"],
        name,
        mean,
        rows,
        ids,
        conditions,
        split_of_model,
        sample_weight,
        loss_out,
        *shaped(grad_W, grad_intercept),
        threads,
        epsilon,
    )
    return loss_out, grad_W, grad_intercept


# -- arrays on the GPU -------------------------------------------------------------------------------------------------

_OUT = ("out[0] (loss)", "out[1] (grad_W)", "out[2] (grad_intercept)")


def _named(out: object) -> dict[str, object]:
    """The arrays of `out` by name; none where it is no such tuple, which a later check says."""
    return dict(zip(_OUT, out, strict=True)) if isinstance(out, tuple) and len(out) == 3 else {}


def _adopted(argument: str, value: Any) -> Any:
    """A `DeviceArray` for what lies on the GPU; anything else as it came."""
    if _device.is_device_array(value) or not _device.lives_on_gpu(value):
        return value
    from gradfold.cuda.arrays import from_object

    return from_object(argument, value)


def _check_together(arrays: dict[str, Any]) -> None:
    """Raise unless all arrays lie on the GPU, or all on the host."""
    there = [name for name, value in arrays.items() if _device.is_device_array(value)]
    for name, value in arrays.items():
        if there and isinstance(value, np.ndarray):
            raise TypeError(
                f"{name}: got {_check.describe(value)} on the host, wanted an array on the GPU as {there[0]} is; "
                "nothing is copied in silence"
            )


def _on_gpu(
    read: dict[str, Any], splits: dict[str, Any], loss: str, mean: bool, with_loss: bool, outputs: Callable[[], Result]
) -> Result:
    """Call the kernels, with copies of what lies on the host; returns what `outputs` has given, written.

    It is asked for when the device has begun to compute.
    """
    from gradfold.cuda import arrays
    from gradfold.cuda.gradient import begin, release

    stream = read["X"].stream if _device.is_device_array(read["X"]) else 0
    hint = "wanted fewer models a call, or device='cpu'"
    there: dict[str, Any] = {
        name: arrays.to_device(value, stream, hint) if isinstance(value, np.ndarray) else value for name, value in read.items()
    }
    if _device.is_device_array(splits["split_of_model"]):
        splits["split_of_model"] = splits["split_of_model"].numpy()
    arrays.join(stream, there.values())
    options: dict[str, Any] = {"loss": loss, "mean": mean, "want_loss": with_loss, "want_gradient": True, "stream": stream}
    sums = begin(**there, **splits, **options)
    try:
        found = outputs()
    except _device.DeviceMemoryError:  # beside what the sums have taken: then results first, and sums in what is left
        del sums
        release()
        found = outputs()
        sums = begin(**there, **splits, **options)
    written = [
        arrays.empty(array.shape, array.dtype, stream, hint) if isinstance(array, np.ndarray) else array for array in found
    ]
    arrays.join(stream, written)
    sums.write(*written)
    for array, on_device in zip(found, written, strict=True):
        if isinstance(array, np.ndarray):
            array[...] = on_device.numpy()
        elif array is not None:
            arrays.join(array.stream, [there["X"]])
    return found


def _handed_back(result: Any) -> Any:
    """A result as the caller is given it: in the library that X is of."""
    if not _device.is_device_array(result):
        return result
    from gradfold.cuda.arrays import theirs

    return theirs(result)


def _new(shape: tuple[int, ...], dtype: npt.DTypeLike, beside: Any) -> Any:
    """An array to write, where `beside` lies."""
    if not _device.is_device_array(beside):
        return np.empty(shape, dtype)
    from gradfold.cuda import arrays

    return arrays.result(shape, dtype, beside, "wanted fewer models a call")


def _overlap(a: Any, b: Any) -> bool:
    """Whether two arrays share memory. Both are contiguous, so a comparison of bounds is exact."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.may_share_memory(a, b)
    if not (_device.is_device_array(a) and _device.is_device_array(b)):
        return False
    from gradfold.cuda.arrays import overlap

    return overlap(a, b)


# -- checks ------------------------------------------------------------------------------------------------------------


def _clean_on_gpu(X: Any, y: Any, W: Any, intercept: Any, sample_weight: Any, loss: str, finite: bool) -> bool:
    """Whether arrays on the GPU hold nothing that a check refuses, found out in one go; False for arrays on the host."""
    if not _device.is_device_array(X):
        return False
    if not finite and sample_weight is None:
        return True
    from gradfold.cuda import bad_values

    every = bad_values.NOT_FINITE if finite else 0
    labels = bad_values.NOT_LABELS if finite and loss in _loss.BINARY else every
    arrays = [(sample_weight, bad_values.NEGATIVE | every), (X, every), (W, every), (intercept, every), (y, labels)]
    return not bad_values.any_bad([(array, what) for array, what in arrays if array is not None], X.stream)


def _epsilon(value: object, loss: str, n_models: int) -> Array | None:
    """`loss_epsilon` of each model, or None for a loss that has none."""
    positive = loss == "huber"
    wanted = "above 0" if positive else "at least 0"
    if _device.is_device_array(value):
        value = value.numpy()
    if isinstance(value, np.ndarray) and value.ndim:
        values = _check.kernel_array("loss_epsilon", value, np.float64, (n_models,))
        bad = ~np.isfinite(values) | (values < 0) | ((values == 0) & positive)
        if loss in _loss.WITH_EPSILON and bad.any():
            at = int(bad.argmax())
            raise ValueError(f"loss_epsilon: got {values[at]} for model {at}, wanted finite numbers {wanted}")
        return values if loss in _loss.WITH_EPSILON else None
    number = _check.real("loss_epsilon", value, positive=positive)
    return np.full(n_models, number, np.float64) if loss in _loss.WITH_EPSILON else None


def _ids(argument: str, value: object, length: int | None, bound: int, bound_name: str) -> Any:
    array = _check.kernel_array(argument, value, np.int64, (length,))
    # A bad id would read beyond X, so those on the GPU are looked at too.
    ids: Array = array.numpy() if _device.is_device_array(array) else array
    if ids.size and (ids.min() < 0 or ids.max() >= bound):
        place = int(((ids < 0) | (ids >= bound)).argmax())
        raise ValueError(
            f"{argument}: got {ids[place]} at position {place}, wanted 0 to {bound_name} - 1 = {bound - 1}"
        )
    return array


def _roles(
    folds: Folds | None, split_of_model: object, n_rows: int, n_models: int
) -> tuple[Array | None, Array | None, Array | None]:
    """The two arrays of `folds`, and each model's split."""
    if folds is None:
        if split_of_model is not None:
            raise ValueError("split_of_model: got one without folds, wanted folds too")
        return None, None, None
    from gradfold.index import Folds

    if not isinstance(folds, Folds):
        raise TypeError(f"folds: got {_check.describe(folds)}, wanted a Folds of gradfold.index")
    if folds.n_rows != n_rows:
        raise ValueError(f"folds: got {folds.n_rows} rows, wanted {n_rows} as in X")
    if split_of_model is None:
        return folds.ids, folds.conditions, _in_turn(n_models, folds.n_splits)
    return folds.ids, folds.conditions, _ids("split_of_model", split_of_model, n_models, folds.n_splits, "n_splits")


@lru_cache(1)
def _in_turn(n_models: int, n_splits: int) -> Array:
    """m mod n_splits for each model, read-only."""
    out = np.arange(n_models, dtype=np.int64) % n_splits
    out.flags.writeable = False
    return out


def _new_outputs(with_loss: bool, W: Any, intercept: Any, beside: Any) -> Result:
    """The arrays to write, where `beside` lies."""
    return (
        _new(W.shape[-1:], np.float64, beside) if with_loss else None,
        _new(W.shape, W.dtype, beside),
        None if intercept is None else _new(intercept.shape, W.dtype, beside),
    )


def _check_outputs(out: Any, with_loss: bool, W: Any, intercept: Any, inputs: dict[str, Any]) -> None:
    """Raise unless `out` is what `_new_outputs` would give, in memory of its own."""
    if not isinstance(out, tuple) or len(out) != 3:
        raise TypeError(f"out: got {_check.describe(out)}, wanted a tuple (loss, grad_W, grad_intercept)")
    wanted = {
        _OUT[0]: (W.shape[-1:], np.dtype(np.float64)) if with_loss else None,
        _OUT[1]: (W.shape, W.dtype),
        _OUT[2]: None if intercept is None else (intercept.shape, W.dtype),
    }
    for (argument, form), array in zip(wanted.items(), out, strict=True):
        if form is None:
            if array is not None:
                raise ValueError(
                    f"{argument}: got {_check.describe(array)}, wanted None, because the call does not ask for it"
                )
            continue
        _check.kernel_array(argument, array, form[1], form[0], writable=True)
        for other, memory in inputs.items():
            if memory is not None and _overlap(array, memory):
                raise ValueError(f"{argument}: overlaps the memory of {other}, wanted memory of its own")
        inputs = inputs | {argument: array}
