"""Results as a table for people, as JUnit for what shows test runs, and as JSON."""

from __future__ import annotations

import json
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gradfold.perfgate.results import Result, State, exit_code

_ORDER: tuple[State, ...] = ("slower", "did not run", "skipped", "new", "faster", "same")
_VERDICTS = (
    "nothing is slower",
    "something is slower",
    "something did not run, so nobody knows",
    "something is slower, and something did not run",
)


def write(path: Path, text: str) -> None:
    """The whole file or none of it."""
    handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def summary(results: Sequence[Result]) -> str:
    states = Counter(result.state for result in results)
    return f"{_VERDICTS[exit_code(results)]}: " + (", ".join(f"{states[s]} {s}" for s in _ORDER if states[s]) or "nothing was asked for")


def markdown(results: Sequence[Result]) -> str:
    """All that is not the same, and how much is."""
    lines = ["## Performance gate", "", f"**{summary(results).capitalize()}.**", ""]
    told = sorted((r for r in results if r.state != "same"), key=lambda r: (_ORDER.index(r.state), -(r.ratio or 0), r.stage, r.name))
    if told:
        lines += ["| | stage | benchmark | found |", "|---|---|---|---|"]
        lines += [f"| {r.state} | {r.stage} | `{_cell(r.name)}` | {_cell(r.what)} |" for r in told]
        lines.append("")
    for stage in dict.fromkeys(r.stage for r in results):
        ratios = [r.ratio for r in results if r.stage == stage and r.ratio is not None]
        if ratios:
            lines.append(f"{stage}: {len(ratios)} compared, head / base from {min(ratios):.3f} to {max(ratios):.3f}.")
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def junit(results: Sequence[Result]) -> str:
    """Slower is a failure, what did not run an error."""
    root = ElementTree.Element("testsuites", name="perfgate")
    for stage in dict.fromkeys(r.stage for r in results):
        own = [r for r in results if r.stage == stage]
        count = Counter(r.state for r in own)
        suite = ElementTree.SubElement(
            root, "testsuite", name=stage, tests=str(len(own)), failures=str(count["slower"]), errors=str(count["did not run"]),
            skipped=str(count["skipped"]),
        )  # fmt: skip
        for result in own:
            case = ElementTree.SubElement(suite, "testcase", classname=stage, name=_xml(result.name))
            tag = {"slower": "failure", "did not run": "error", "skipped": "skipped"}.get(result.state)
            if tag is not None:
                ElementTree.SubElement(case, tag, message=_xml(result.what))
            else:
                ElementTree.SubElement(case, "system-out").text = _xml(result.what)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    """Without the characters that XML has no way to hold."""
    return "".join(c if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "?" for c in text)


def as_json(results: Sequence[Result]) -> str:
    return json.dumps({"exit_code": exit_code(results), "results": [asdict(r) for r in results]}, indent=1) + "\n"
