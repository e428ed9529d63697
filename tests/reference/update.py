"""One update of one model's weights: sgd and adam, the proximal step of l1, and the learning-rate schedules.

Adam is Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1, with epsilon added to the
square root of the *corrected* second moment. The proximal step is soft thresholding with the step length that the
solver used in that coordinate.
"""

from __future__ import annotations

import math

import numpy as np

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def learning_rate(schedule, base, updates_made, horizon):
    """Rate of the next update; ``updates_made`` counts the model's own updates so far."""
    if schedule == "constant":
        return base
    if schedule == "cosine":
        return base * (1 + math.cos(math.pi * updates_made / horizon)) / 2
    raise ValueError(schedule)


def soft_threshold(w, tau):
    """Move ``w`` towards 0 by ``tau`` and stop at 0."""
    return np.where(w > tau, w - tau, np.where(w < -tau, w + tau, 0.0))


class Sgd:
    """Gradient descent of one vector (the features, or the intercept with l1 = 0)."""

    def step(self, w, g, rate, l1):
        return soft_threshold(w - rate * g, rate * l1)

    def finite(self):
        return True


class Adam:
    """Adam of one vector. A step changes the moments, so a caller that may reject a step copies the object first."""

    def __init__(self, size):
        self.m, self.v, self.t = np.zeros(size), np.zeros(size), 0

    def step(self, w, g, rate, l1):
        self.t += 1
        self.m = BETA1 * self.m + (1 - BETA1) * g
        self.v = BETA2 * self.v + (1 - BETA2) * g * g
        d = np.sqrt(self.v) / math.sqrt(1 - BETA2**self.t) + EPSILON
        s = rate / (1 - BETA1**self.t)
        return soft_threshold(w - s * self.m / d, s / d * l1)

    def finite(self):
        return bool(np.isfinite(self.m).all() and np.isfinite(self.v).all())


def solver(name, size):
    return {"sgd": lambda: Sgd(), "adam": lambda: Adam(size)}[name]()
