"""gradfold: train every cross-validation fold and every candidate at once."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Name -> the module that holds it. Resolved on first use, so that `import gradfold` stays fast.
_LAZY = {
    "fit": "gradfold.train",
    "grid": "gradfold.candidates",
    "sample": "gradfold._sample",
    "uniform": "gradfold._sample",
    "log_uniform": "gradfold._sample",
    "choice": "gradfold._sample",
    "Candidates": "gradfold.candidates",
    "ChoiceWarning": "gradfold._choose",
    "ConvergenceWarning": "gradfold._convergence",
    "DeviceError": "gradfold._device",
    "DeviceMemoryError": "gradfold._device",
    "Epoch": "gradfold._callbacks",
    "Run": "gradfold.run",
    "l1_grid": "gradfold._l1_grid",
    "load": "gradfold.run",
}
_SUBMODULES = ("index", "loss", "gradient", "metrics", "diagnostics", "data")

__all__ = ["__version__", *_LAZY, *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"gradfold.{name}")
    else:
        raise AttributeError(f"module 'gradfold' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
