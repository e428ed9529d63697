"""The device's side of ``calls``: the same problems by the kernels of gradfold.cuda, in the simulator or on a GPU.

Outputs are poisoned beforehand here too, so a place that no kernel writes is seen.
"""

from __future__ import annotations

import numpy as np

import calls
from gradfold.cuda import arrays, gradient, train


def moved(array):
    """A copy on the device; None stays None."""
    return None if array is None else arrays.to_device(np.ascontiguousarray(array))


def loss_gradient(q, *, reduction="mean", rows=None, with_loss=True, use_splits=True, n_threads=1):
    """(loss or None, grad_W, grad_intercept or None), as `calls.loss_gradient` gives them."""
    loss = moved(calls.poisoned(q.n_models, np.float64)) if with_loss else None
    grad_W = moved(calls.poisoned(q.W.shape, q.X.dtype))
    grad_intercept = moved(calls.poisoned(q.W.shape[1:], q.X.dtype)) if q.intercept is not None else None
    gradient.loss_gradient(
        moved(q.X), moved(q.y), moved(q.W), moved(q.intercept), loss=q.loss, mean=reduction == "mean", rows=moved(rows),
        ids=q.splits.ids if use_splits else None, conditions=q.splits.conditions if use_splits else None,
        split_of_model=q.split_of_model if use_splits else None, sample_weight=moved(q.sample_weight), loss_out=loss,
        grad_W=grad_W, grad_intercept=grad_intercept, loss_epsilon=q.loss_epsilon,
    )  # fmt: skip
    return tuple(None if array is None else array.numpy() for array in (loss, grad_W, grad_intercept))


def trainer(q, *, path=None, **options):
    """A Trainer of the device, with the arguments of `calls.trainer`."""
    return calls.trainer(q, make=train.Trainer, path=path, **options)


def of_models(results):
    """The results of a loss-gradient by model, as bytes."""
    n_models = results[1].shape[-1]
    return [
        tuple(None if a is None else np.ascontiguousarray(a[..., k]).tobytes() for a in results) for k in range(n_models)
    ]


def assert_same_gradient(q, **options):
    """The device's bits are the CPU's; returns them by model."""
    wanted, found = calls.loss_gradient(q, **options), loss_gradient(q, **options)
    for name, a, b in zip(("loss", "grad_W", "grad_intercept"), wanted, found, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            assert_bits(b, a, name)
    return of_models(found)


def assert_bits(found, wanted, name):
    """Equal to the bit, with a message that names the first place."""
    found, wanted = np.ascontiguousarray(found), np.ascontiguousarray(wanted)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), name
    if found.tobytes() != wanted.tobytes():
        one, other = (a.reshape(-1).view(np.uint8).reshape(a.size, -1) for a in (found, wanted))
        wrong = np.flatnonzero((one != other).any(axis=1))
        at = np.unravel_index(wrong[0], found.shape)
        raise AssertionError(
            f"{name}: {wrong.size} of {found.size} differ, the first at {tuple(map(int, at))}: {found[at]!r}, wanted {wanted[at]!r}"
        )


def everything(t, train_loss=False):
    """All that a Trainer says of its models, by name. `train_loss` is asked without a reset."""
    out = {name: getattr(t, name)() for name in ("coef", "intercept", "steps", "history", "alive")}
    out |= {name: getattr(t, name) for name in ("diverged_epoch", "diverged_batch", "epochs_done", "steps_per_epoch")}
    if train_loss:
        out["train_loss"] = t.train_loss(reset=False)
    return out | {f"state[{name}]": array for name, array in t.get_state().items()}


def assert_same_trainers(found, wanted, train_loss=False):
    """Two Trainers say the same, to the bit, and would be continued with the same bits."""
    one, other = everything(found, train_loss), everything(wanted, train_loss)
    assert sorted(one) == sorted(other)
    for name, array in one.items():
        assert_bits(np.asarray(array), np.asarray(other[name]), name)
