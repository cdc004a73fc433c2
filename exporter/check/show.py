"""Checks as a table that a terminal shows."""

from collections.abc import Sequence
from pathlib import Path

from exporter.check.values import Check
from exporter.text import printable


def as_document(file: Path, run: str, checks: Sequence[Check]) -> dict[str, object]:
    """The file, the run, the verdict over all, and each check."""
    failed = any(check.status == "fail" for check in checks)
    document: dict[str, object] = {"file": str(file), "against": run, "status": "fail" if failed else "pass"}
    return document | {"checks": [check.as_document() for check in checks]}


def render(checks: Sequence[Check]) -> str:
    """A line for each check: its name, how it went, and what was compared or found. It cannot steer the terminal."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{check.name:<{width}}  {check.status:<7}  {printable(check.detail)}" for check in checks)
