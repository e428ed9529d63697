"""The whole epoch loop, one model at a time, in float64. Under the multinomial loss a model has (n_outputs, n_features) weights.

Where the design leaves something open, this file chooses:

* standardising without an intercept still centres the columns (as a scaler in front of the estimator would), so the
  intercept on the original scale is then ``-sum(mean * coef)`` and not 0;
* ``coef_init`` and ``intercept_init`` are on the original scale, like the coefficients that come back; without an
  intercept, ``intercept_init`` is ignored;
* a column whose training rows all hold one value has scale 1, however its mean rounds;
* the update that diverges is not made: it is not counted in ``steps``;
* an epoch's held-out loss is NaN from the epoch of divergence on, and stays what it was before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reference import loss as point
from reference import update
from reference.roles import SCORE, TRAIN


@dataclass
class Trained:
    """What one model, or (stacked along the first axis; ``history`` along the second) many models, ended with."""

    coef: np.ndarray
    intercept: np.ndarray
    steps: np.ndarray
    history: np.ndarray
    diverged_epoch: np.ndarray
    diverged_batch: np.ndarray
    train_loss: np.ndarray  # of each epoch, like ``history``


def moments(X, weight, trains):
    """Weighted mean and scale of every column over the rows that train; a constant column has scale 1."""
    x, w = X[trains], weight[trains]
    mean = w @ x / w.sum()
    scale = np.sqrt(w @ (x - mean) ** 2 / w.sum())
    constant = x.min(axis=0) == x.max(axis=0)
    return mean, np.where(constant | (scale == 0), 1.0, scale)


def value_and_slope(loss, y, z, epsilon):
    """Loss (n,) and derivative, of the shape of z, of raw predictions (n,) or (n, n_outputs)."""
    if loss == "multinomial":
        return point.multinomial(y, z)
    return point.value(loss, y, z, epsilon), point.gradient(loss, y, z, epsilon)


def held_out_loss(loss, y, z, weight, scores, epsilon):
    """Weighted mean loss over the rows that a model scores; NaN where they weigh nothing."""
    scores = scores & (weight > 0)
    if not scores.any():
        return np.nan
    return weight[scores] @ value_and_slope(loss, y[scores], z[scores], epsilon)[0] / weight[scores].sum()


def train_one(X, y, weight, role, *, loss, solver, l1, l2, learning_rate, schedule, epochs, batch_size, order,
              fit_intercept, standardize, coef_init, intercept_init, max_steps, hyper, held_out_weight, validation,
              epsilon):
    """Train one model whose role of every row is ``role``; ``order(epoch)`` is the order in which rows are visited."""
    n, p = X.shape
    trains, scores = (role == TRAIN) & (weight > 0), role == SCORE
    N, S = trains.sum(), weight[trains].sum()
    assert N > 0
    mean, scale = moments(X, weight, trains) if standardize else (np.zeros(p), np.ones(p))
    Z = (np.where((trains | scores)[:, None], X, 0.0) - mean) / scale  # what the optimiser sees
    if standardize:  # a constant column is 0 when centred, and not the rounding of its mean
        Z[np.ix_(trains, np.ptp(X[trains], axis=0) == 0)] = 0.0
    w = coef_init * scale
    b = intercept_init + coef_init @ mean if fit_intercept else np.zeros(np.shape(intercept_init))
    model = update.Optimiser(
        w, b, solver=solver, schedule=schedule, learning_rate=learning_rate, l1=l1, l2=l2, hyper=hyper, epochs=epochs,
        epoch_steps=-(-n // batch_size), fit_intercept=fit_intercept,
    )
    if validation is not None:
        on = (np.asarray(validation[0], np.float64) - mean) / scale, *validation[1:], np.ones(len(validation[0]), bool)
    else:
        on = Z, y, weight if held_out_weight is None else held_out_weight, scores
    visited, history, train_losses, diverged = 0, [], [], (-1, -1)
    for epoch in range(epochs):
        summed = weighed = 0.0
        rows = np.arange(n) if batch_size >= n else np.asarray(order(epoch))
        for batch, start in enumerate(range(0, n, batch_size)):
            if diverged != (-1, -1) or visited == max_steps:
                break
            visited += 1
            kept = [i for i in rows[start : start + batch_size] if trains[i]]
            if not kept:
                continue
            x = Z[kept]
            values, slope = value_and_slope(loss, y[kept], x @ model.w.T + model.b, epsilon)
            residual = (weight[kept] * slope.T).T
            q = 1 / (len(kept) * (S / N))
            if not model.step(residual.T @ x * q, residual.sum(axis=0) * q):
                diverged = (epoch, batch)
                break
            summed += weight[kept] @ values
            weighed += weight[kept].sum()
        if visited == max_steps:
            break
        w, b = model.average_w, model.average_b
        score_x, score_y, score_weight, score_rows = on
        score = held_out_loss(loss, score_y, score_x @ w.T + b, score_weight, score_rows, epsilon)
        history.append(np.nan if diverged != (-1, -1) else score)
        train_losses.append(summed / weighed if weighed > 0 else np.nan)
    w, b = model.average_w, model.average_b
    coef = w / scale
    return Trained(coef, b - coef @ mean, model.t, np.array(history), *diverged, np.array(train_losses))


def train(X, y, *, roles, sample_weight=None, loss="log_loss", solver="sgd", l1, l2, learning_rate, schedule, epochs,
          batch_size, order=None, fit_intercept=True, standardize=False, coef_init=None, intercept_init=None,
          max_steps=-1, hyper=None, held_out_weight=None, validation=None, n_outputs=None, loss_epsilon=None):
    """Train every model; ``roles`` (m, n), the four hyper-parameters (m,) and those of the dict ``hyper``
    hold one entry per model.

    ``order(epoch)`` gives the rows in the order of the epoch; None is their natural order. ``max_steps`` stops every
    model after that many batches, updates or not. ``held_out_weight`` (n,) and ``validation`` (X, y, weight) are other
    weights and other rows for the held-out losses. ``train_loss`` of the result holds the weighted mean loss of the
    rows that each epoch trained on, every batch at the weights before its update. ``n_outputs`` is the number of
    classes of the multinomial loss.
    """
    X, y = np.asarray(X, np.float64), np.asarray(y, np.float64)
    n, p = X.shape
    outputs = () if n_outputs is None else (n_outputs,)
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, np.float64)
    with np.errstate(all="ignore"):  # divergence is a result here
        models = [
            train_one(
                X, y, weight, roles[k], loss=loss, solver=solver, l1=l1[k], l2=l2[k], learning_rate=learning_rate[k],
                schedule=schedule[k], epochs=epochs, batch_size=batch_size,
                order=order or (lambda epoch: np.arange(n)), fit_intercept=fit_intercept, standardize=standardize,
                coef_init=np.zeros((*outputs, p)) if coef_init is None else np.asarray(coef_init[k], np.float64),
                intercept_init=np.zeros(outputs) if intercept_init is None else np.asarray(intercept_init[k], np.float64),
                epsilon=0.1 if loss_epsilon is None else loss_epsilon[k], max_steps=max_steps,
                hyper={name: values[k] for name, values in (hyper or {}).items()}, held_out_weight=held_out_weight,
                validation=validation,
            )
            for k in range(len(roles))
        ]
    return Trained(
        coef=np.array([t.coef for t in models]),
        intercept=np.array([t.intercept for t in models]),
        steps=np.array([t.steps for t in models]),
        history=np.array([t.history for t in models]).T,
        diverged_epoch=np.array([t.diverged_epoch for t in models]),
        diverged_batch=np.array([t.diverged_batch for t in models]),
        train_loss=np.array([t.train_loss for t in models]).T,
    )
