"""`gradfold show`: what is in a saved model."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold._cli_cv import _number, _with_error, _words, standard_error
from gradfold._cli_model import load
from gradfold.data.table import Table

if TYPE_CHECKING:
    from gradfold.run import Run

Array = npt.NDArray[Any]

_CLASSES = 10  # columns of weights


def run(options: argparse.Namespace) -> int:
    """Do what `gradfold show` was asked to; returns the exit code."""
    if options.top < 0:
        raise ValueError(f"--top: got {options.top}, wanted at least 0")
    model, table = load(options.model)
    facts = _facts(model, table, options.top)
    if options.json:
        print(json.dumps({"file": options.model, **facts}, indent=2, allow_nan=False))
        return 0
    _print(options.model, facts)
    return 0


def _facts(model: Run, table: Table | None, top: int) -> dict[str, Any]:
    best = model.best_candidate
    has_best = model.n_splits > 0 and model.ranked
    facts: dict[str, Any] = {
        "gradfold": model.version,
        "loss": model.loss,
        "solver": model.solver,
        "classes": None if model.classes is None else model.classes.tolist(),
        "n_candidates": model.n_candidates,
        "n_splits": model.n_splits,
        "diverged": int(model.diverged.sum()),
        "stop_reason": model.stop_reason,
        "best": None,
        "settings": {k: v for k, v in model.settings.items() if isinstance(v, (str, int, float, bool, type(None)))},
        "n_features": model.n_features,
        "target": None if table is None else table.target,
        "columns": None,
        "feature_names": None if model.feature_names is None else list(model.feature_names),
        "intercept": None,
        "weights": None,
    }
    if has_best:
        own = model.held_out_loss[best]
        facts["best"] = {
            "candidate": best,
            "params": model.best_params,
            "held_out_loss": _number(own.mean()),
            "standard_error": _number(standard_error(own)),
        }
    elif model.n_candidates == 1:
        facts["best"] = {"candidate": 0, "params": model.params[0], "held_out_loss": None, "standard_error": None}
    if table is not None:
        facts["columns"] = [
            {"name": c.name, "kind": c.kind, "categories": list(c.categories), "missing": c.missing}
            for c in table.columns
        ]
    if model.best_coef is not None:
        facts["intercept"] = np.asarray(model.best_intercept, np.float64).tolist()
        facts["weights"] = _weights(model, table, top)
    return facts


def _weights(model: Run, table: Table | None, top: int) -> list[dict[str, Any]]:
    """The largest weights, each times its feature's standard deviation if that is known; all for `top` 0."""
    assert model.best_coef is not None
    coef = np.atleast_2d(model.best_coef).astype(np.float64)  # (n_outputs, n_features)
    own = model.feature_names if table is None else table.features
    names = [f"feature {i}" for i in range(coef.shape[1])] if own is None else list(own)
    scale = np.array(table.scale) if table is not None and table.scale else None
    effect = coef if scale is None else coef * scale
    size = np.abs(effect).max(axis=0)
    order = np.argsort(-size, kind="stable")[: top or None]
    out = []
    for i in order:
        row: dict[str, Any] = {"feature": names[i], "weight": _plain(coef[:, i])}
        if scale is not None:
            row["per_standard_deviation"] = _plain(effect[:, i])
        out.append(row)
    return out


def _plain(values: Array) -> Any:
    return float(values[0]) if len(values) == 1 else values.tolist()


def _print(path: str, facts: dict[str, Any]) -> None:
    print(f"{path}: {facts['loss']}, {facts['solver']}, by gradfold {facts['gradfold']}")
    if facts["classes"] is not None:
        print(f"classes     {', '.join(str(label) for label in facts['classes'])}")
    if facts["target"] is not None:
        print(f"target      {facts['target']}")
    models = f"{facts['n_candidates']} candidates × {facts['n_splits']} splits"
    print(f"candidates  {models}" + (f", {facts['diverged']} models diverged" if facts["diverged"] else ""))
    best = facts["best"]
    if best is not None:
        score = ""
        if best["held_out_loss"] is not None:
            error = best["standard_error"]
            score = f": held-out {facts['loss']} {_with_error(best['held_out_loss'], math.nan if error is None else error)}"
        print(f"best        {_words(best['params'])}{score}")
    print(f"settings    {_words(facts['settings'])}")
    if facts["columns"] is not None:
        kinds = [column["kind"] for column in facts["columns"]]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        print(f"columns     {len(kinds)} ({counts}), {facts['n_features']} features")
        for column in facts["columns"]:
            if column["kind"] == "category":
                words = ", ".join(column["categories"][:12]) + (", …" if len(column["categories"]) > 12 else "")
                print(f"            {column['name']}: {words}{' or missing' if column['missing'] else ''}")
    else:
        print(f"columns     {facts['n_features']}{', without names' if facts['feature_names'] is None else ''}")
    if facts["weights"] is None:
        print("weights     none: no candidate was refitted")
        return
    print(f"intercept   {_cell(facts['intercept'])}")
    if not facts["weights"]:
        return
    width = max(len("weight for"), *(len(row["feature"]) for row in facts["weights"]))
    if isinstance(facts["intercept"], list):
        _print_classes(facts, width)
        return
    scaled = "per_standard_deviation" in facts["weights"][0]
    print(f"\n{'feature':<{width}}  {'weight':>12}" + ("  per standard deviation" if scaled else ""))
    for row in facts["weights"]:
        line = f"{row['feature']:<{width}}  {_cell(row['weight']):>12}"
        print(line + (f"  {_cell(row['per_standard_deviation']):>12}" if scaled else ""))
    _print_more(facts)


def _print_classes(facts: dict[str, Any], width: int) -> None:
    """The weights of a model of several classes: a column for each, of the first few."""
    labels = [str(label) for label in facts["classes"]][:_CLASSES]
    columns = [max(12, len(label)) for label in labels]
    line = "  ".join(f"{label:>{w}}" for label, w in zip(labels, columns, strict=True))
    print(f"\n{'weight for':<{width}}  {line}")
    for row in facts["weights"]:
        cells = (f"{_cell(value):>{w}}" for value, w in zip(row["weight"], columns, strict=False))
        print(f"{row['feature']:<{width}}  {'  '.join(cells)}")
    _print_more(facts)
    if len(facts["classes"]) > len(labels):
        print(f"… {len(facts['classes']) - len(labels)} more classes; --json shows all")


def _print_more(facts: dict[str, Any]) -> None:
    left = facts["n_features"] - len(facts["weights"])
    if left:
        print(f"… {left} more; --top 0 shows all")


def _cell(value: Any) -> str:
    return "  ".join(f"{one:.6g}" for one in value) if isinstance(value, list) else f"{value:.6g}"
