"""Scripts that change sources find what they change."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "break_promises.py"


def test_every_breakage_fits_the_sources() -> None:
    if not SCRIPT.is_file():
        pytest.skip("only a checkout holds the scripts")
    spec = importlib.util.spec_from_file_location("break_promises", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # a dataclass looks its module up
    try:
        spec.loader.exec_module(script)
    finally:
        del sys.modules[spec.name]
    assert len(script.BREAKAGES) > 10
    for breakage in script.BREAKAGES:
        text = (SCRIPT.parent.parent / breakage.file).read_text(encoding="utf-8")
        for old, new in breakage.edits:
            assert old in text and old != new, f"{breakage.name}: {old}"
