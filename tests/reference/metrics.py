"""Metrics in plain Python, one row at a time, where scikit-learn has none."""

from __future__ import annotations

import math
from collections.abc import Sequence


def bias(y: Sequence[float], z: Sequence[float], w: Sequence[float]) -> float:
    return math.fsum(wi * (zi - yi) for yi, zi, wi in zip(y, z, w)) / math.fsum(w)


def rates(y: Sequence[int], guess: Sequence[int], w: Sequence[float], label: int) -> tuple[float, float, float, float]:
    """Weights of true positives, false positives, false negatives and true negatives of one label against the rest."""
    cells = {(True, True): 0.0, (False, True): 0.0, (True, False): 0.0, (False, False): 0.0}
    for yi, gi, wi in zip(y, guess, w):
        cells[yi == label, gi == label] += wi
    return cells[True, True], cells[False, True], cells[True, False], cells[False, False]


def false_positive_rate(y: Sequence[int], guess: Sequence[int], w: Sequence[float], average: str) -> float:
    def each(fp: float, tn: float) -> float:
        return fp / (fp + tn) if fp + tn else 0.0

    if average == "binary":
        _, fp, _, tn = rates(y, guess, w, 1)
        return each(fp, tn)
    labels = sorted(set(y) | set(guess))
    counts = [rates(y, guess, w, label) for label in labels]
    if average == "micro":
        return each(sum(c[1] for c in counts), sum(c[3] for c in counts))
    shares = [c[0] + c[2] if average == "weighted" else 1.0 for c in counts]
    return sum(s * each(c[1], c[3]) for s, c in zip(shares, counts)) / sum(shares)


def g_mean(y: Sequence[int], guess: Sequence[int], w: Sequence[float]) -> float:
    product, labels = 1.0, sorted(set(y))
    for label in labels:
        tp, _, fn, _ = rates(y, guess, w, label)
        product *= tp / (tp + fn)
    return product ** (1 / len(labels))


def log_loss(y: Sequence[int], z: Sequence[float], w: Sequence[float]) -> float:
    """Without a clipped probability, at any z."""
    losses = []
    for yi, zi in zip(y, z):
        t = -zi if yi else zi
        losses.append(max(t, 0.0) + math.log1p(math.exp(-abs(t))))
    return math.fsum(wi * li for wi, li in zip(w, losses)) / math.fsum(w)


def softmax(z: Sequence[float]) -> list[float]:
    top = max(z)
    e = [math.exp(v - top) for v in z]
    total = 0.0
    for v in e:
        total += v
    return [v / total for v in e]


def calibrate(
    y: Sequence[int], z: Sequence[float], w: Sequence[float], by: str, target: float = 0.0, beta: float = 1.0
) -> float:
    """The greatest value of the criterion over every threshold, tried one by one."""
    best = -math.inf
    for cut in [math.inf, *sorted(set(z), reverse=True)]:
        tp = sum(wi for yi, zi, wi in zip(y, z, w) if zi >= cut and yi)
        fp = sum(wi for yi, zi, wi in zip(y, z, w) if zi >= cut and not yi)
        positives = sum(wi for yi, wi in zip(y, w) if yi)
        negatives = sum(wi for yi, wi in zip(y, w) if not yi)
        if by == "accuracy":
            value = (tp + negatives - fp) / (positives + negatives)
        elif by == "f_beta":
            value = (1 + beta**2) * tp / (beta**2 * positives + tp + fp) if positives + tp + fp else 0.0
        elif positives == 0:
            return math.nan
        elif by == "precision_at_recall":
            value = tp / (tp + fp) if tp + fp and tp / positives >= target - 1e-12 else -math.inf
        else:
            value = tp / positives if tp + fp and tp / (tp + fp) >= target - 1e-12 else -math.inf
        best = max(best, value)
    return 0.0 if best == -math.inf else best
