"""`import gradfold` is quick and brings in none of the large optional packages."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import gradfold as gf

_HEAVY = ("sklearn", "torch", "numba", "pandas", "matplotlib", "rich", "scipy.sparse")


def _python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout


@pytest.mark.parametrize(
    "work",
    [
        "pass",
        "import numpy as np; gf.fit(np.eye(6), [0, 1] * 3, gf.grid(l2=[0.1, 1.0]), folds=2, epochs=1)",
    ],
    ids=["import", "fit"],
)
def test_heavy_packages_stay_out(work: str) -> None:
    code = (
        f"import sys, json; import gradfold as gf; {work}; print(json.dumps([m for m in {_HEAVY} if m in sys.modules]))"
    )
    assert json.loads(_python(f"import warnings; warnings.simplefilter('error'); {code}")) == []


def test_import_takes_at_most_300_ms() -> None:
    # The best of three: the machine may be busy, and a lazy import that is not lazy costs far more than 0.3 s.
    code = "import time; t = time.perf_counter(); import gradfold; print(time.perf_counter() - t)"
    assert min(float(_python(code)) for _ in range(3)) <= 0.3


def test_every_public_name_resolves() -> None:
    for name in gf.__all__:
        assert getattr(gf, name) is not None
    assert set(gf.__all__) <= set(dir(gf))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        gf.fitt  # noqa: B018
