"""One update of one model's weights in plain float64: solvers, schedules, clipping, the proximal step of l1, averaging.

Sources: torch.optim's documentation for momentum, nesterov, adagrad, rmsprop and adamw; Kingma and Ba, "Adam: a method for
stochastic optimization" (2015), algorithm 1, with epsilon added to the square root of the *corrected* second moment;
scikit-learn's SGDClassifier for inverse_scaling, optimal and averaging. The proximal step is soft thresholding with the
step length that the solver used in that coordinate.
"""

from __future__ import annotations

import copy
import math

import numpy as np

SOLVERS = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"]
SCHEDULES = ["constant", "cosine", "inverse_scaling", "exponential", "step", "optimal", "adaptive"]
HYPER = {
    "momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "rho": 0.99, "weight_decay": 0.01, "clip_norm": math.inf,
    "clip_value": math.inf, "average": 0, "power_t": 0.25, "decay": 0.9, "decay_epochs": 10.0, "warmup": 0.0,
    "plateau_factor": 0.2,
}


def hyper_of(solver, given):
    """All hyper-parameters of a model, the absent ones at their defaults."""
    return HYPER | ({"epsilon": 1e-10} if solver == "adagrad" else {}) | dict(given)


def learning_rate(schedule, base, updates_made, horizon, *, epoch_steps=1, l2=0.0, hyper=HYPER):
    """Rate of the next update; ``updates_made`` counts the model's own updates so far."""
    t = updates_made
    if schedule in ("constant", "adaptive"):
        rate = base
    elif schedule == "cosine":
        rate = base * (1 + math.cos(math.pi * min(t / horizon, 1))) / 2
    elif schedule == "inverse_scaling":
        rate = base / (t + 1) ** hyper["power_t"]
    elif schedule == "exponential":
        rate = base * hyper["decay"] ** (t / epoch_steps)
    elif schedule == "step":
        rate = base * hyper["decay"] ** math.floor(t / (epoch_steps * hyper["decay_epochs"]))
    elif schedule == "optimal":
        typical_weight = math.sqrt(1 / math.sqrt(l2))
        rate = 1 / (l2 * (1 / (typical_weight * l2) + t))
    else:
        raise ValueError(schedule)
    if hyper["warmup"] > 0:
        rate *= min(1, (t + 1) / (hyper["warmup"] * epoch_steps))
    return rate


def soft_threshold(w, tau):
    """Move ``w`` towards 0 by ``tau`` and stop at 0."""
    return np.where(w > tau, w - tau, np.where(w < -tau, w + tau, 0.0))


class Solver:
    """One vector (the features; or the intercept, with l1 = weight_decay = 0) and what a solver keeps beside it.

    A step changes that, so a caller that may reject a step copies the object first.
    """

    def __init__(self, name, size, hyper=None):
        self.name, self.hyper = name, hyper_of(name, hyper or {})
        self.first, self.second, self.t = np.zeros(size), np.zeros(size), 0

    def step(self, w, g, rate, l1, weight_decay=0.0):
        h = self.hyper
        self.t += 1
        if self.name == "sgd":
            direction, per_coordinate = g, rate
        elif self.name in ("momentum", "nesterov"):
            self.first = h["momentum"] * self.first + g
            direction = g + h["momentum"] * self.first if self.name == "nesterov" else self.first
            per_coordinate = rate
        elif self.name in ("adagrad", "rmsprop"):
            rho = h["rho"]
            self.second = self.second + g * g if self.name == "adagrad" else rho * self.second + (1 - rho) * g * g
            direction, per_coordinate = g, rate / (np.sqrt(self.second) + h["epsilon"])
        else:
            self.first = h["beta1"] * self.first + (1 - h["beta1"]) * g
            self.second = h["beta2"] * self.second + (1 - h["beta2"]) * g * g
            d = np.sqrt(self.second) / math.sqrt(1 - h["beta2"] ** self.t) + h["epsilon"]
            direction, per_coordinate = self.first, rate / (1 - h["beta1"] ** self.t) / d
            if self.name == "adamw":
                w = w * (1 - rate * weight_decay)
        return soft_threshold(w - per_coordinate * direction, per_coordinate * l1)

    def finite(self):
        return bool(np.isfinite(self.first).all() and np.isfinite(self.second).all())


class Optimiser:
    """One model's weights ``w`` (p,) and intercept ``b``, or (n_outputs, p) and (n_outputs,), their averages, and the
    number ``t`` of its updates."""

    def __init__(self, w, b, *, solver, schedule, learning_rate, l1, l2, hyper, epochs, epoch_steps, fit_intercept):
        self.w, self.b, self.average_w, self.average_b, self.t = w, b, w, b, 0
        self.of_features, self.of_intercept = Solver(solver, np.shape(w), hyper), Solver(solver, np.shape(b), hyper)
        self.schedule, self.base, self.l1, self.l2 = schedule, learning_rate, l1, l2
        self.hyper = hyper_of(solver, hyper)
        self.horizon, self.epoch_steps, self.fit_intercept = epochs * epoch_steps, epoch_steps, fit_intercept

    def step(self, g, g_b):
        """Step along the mean loss gradient, without penalties. False, and nothing changed, if that diverges."""
        h, now = self.hyper, copy.deepcopy(self)
        g_b = g_b if self.fit_intercept else np.zeros(np.shape(self.b))
        if not (np.isfinite(g).all() and np.isfinite(g_b).all()):
            return False
        norm = math.sqrt((g * g).sum() + (g_b * g_b).sum())
        if norm > h["clip_norm"]:
            g, g_b = g * (h["clip_norm"] / norm), g_b * (h["clip_norm"] / norm)
        g, g_b = np.clip(g, -h["clip_value"], h["clip_value"]), np.clip(g_b, -h["clip_value"], h["clip_value"])
        rate = learning_rate(
            self.schedule, self.base, self.t, self.horizon, epoch_steps=self.epoch_steps, l2=self.l2, hyper=h
        )
        now.w = now.of_features.step(self.w, g + self.l2 * self.w, rate, self.l1, h["weight_decay"])
        if self.fit_intercept:
            now.b = now.of_intercept.step(self.b, g_b, rate, 0.0)
        now.t += 1
        many = now.t - h["average"] + 1
        if h["average"] >= 1 and many > 1:
            now.average_w = self.average_w + (now.w - self.average_w) / many
            now.average_b = self.average_b + (now.b - self.average_b) / many
        else:
            now.average_w, now.average_b = now.w, now.b
        if not (np.isfinite(now.w).all() and np.isfinite(now.b).all() and now.of_features.finite() and now.of_intercept.finite()
                and np.isfinite(now.average_w).all() and np.isfinite(now.average_b).all()):
            return False
        self.__dict__ = now.__dict__
        return True
