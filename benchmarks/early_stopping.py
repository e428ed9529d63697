"""Early stopping and halving against the full search: the same best candidate, in how much of the time?

Twenty seeded problems of classification: 8,000 rows, 60 features of which 2 to 60 matter, more or less noise. The search is over 16
candidates (four values each of l1 and l2, far apart) on five folds, for at most 36 epochs. Both searches run one after the
other on each problem, so that a busy machine slows both. The exit code is 1 if fewer than nine in ten best candidates agree or
the time is more than a third.

Where candidates are as good as equal, halving picks one of them, and which one is chance: on a grid whose neighbours differ by
a factor of ten or less the best candidates agree less often, at losses that differ in the fourth digit.

    python benchmarks/early_stopping.py [--problems 20] [--rows 8000]
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np

import gradfold as gf

EPOCHS = 36
HALVING = {"factor": 3, "min_epochs": 4}
STOPPING = {"patience": 5, "tolerance": 1e-5}


def problem(seed: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, 60), np.float32)
    coef = np.zeros(60, np.float32)
    n_useful = int(rng.integers(2, 61))
    coef[:n_useful] = rng.standard_normal(n_useful)
    signal = np.exp(rng.uniform(np.log(0.25), np.log(4)))
    z = signal * X @ coef / np.linalg.norm(coef) + rng.logistic(size=n_rows)
    return X, (z > 0).astype(np.int64)


def search(X: np.ndarray, y: np.ndarray, seed: int, **keywords: object) -> tuple[int, float, gf.Run]:
    table = gf.grid(l1=[0.0, 0.003, 0.03, 0.3], l2=[0.001, 0.03, 1.0, 30.0])
    began = time.perf_counter()
    run = gf.fit(
        X, y, table, folds=5, epochs=EPOCHS, batch_size=32, learning_rate=0.003, seed=seed, refit=False, **keywords
    )
    return run.best_candidate, time.perf_counter() - began, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--rows", type=int, default=8000)
    options = parser.parse_args()
    warnings.simplefilter("ignore", gf.ChoiceWarning)
    search(*problem(0, 500), 0)  # the first call pays for imports
    same, times = 0, np.zeros(2)
    for seed in range(options.problems):
        X, y = problem(seed, options.rows)
        full, seconds, run = search(X, y, seed)
        times[0] += seconds
        short, seconds, quick = search(X, y, seed, early_stopping=STOPPING, halving=HALVING)
        times[1] += seconds
        same += full == short
        loss = run.mean_held_out_loss
        share = quick.epochs_trained.sum() / run.epochs_trained.sum()
        print(f"problem {seed:2}: full {full:2} loss {loss[full]:.6f}   short {short:2} loss there {loss[short]:.6f}   "
              f"model-epochs {share:.0%}")  # fmt: skip
    ratio = times[1] / times[0]
    print(f"same best candidate: {same} of {options.problems}")
    print(f"time: {times[1]:.2f} s of {times[0]:.2f} s = {ratio:.2f}")
    return int(same < 0.9 * options.problems or ratio > 1 / 3)


if __name__ == "__main__":
    raise SystemExit(main())
