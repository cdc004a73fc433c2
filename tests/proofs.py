"""How the checks of a finished file go."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.check import Asked, check_file
from exporter.pipeline import Options, prepare


def statuses(run: Path, file: Path, **asked: Any) -> dict[str, tuple[str, str]]:  # noqa: ANN401
    """How each check went, and what it says."""
    what = prepare(str(run), [], Options(verify=False, prove=True))
    checks = check_file(what, file, Asked(**{"threads": 1} | asked))
    return {check.name: (check.status, check.detail) for check in checks}


def red(found: Mapping[str, tuple[str, str]]) -> set[str]:
    return {name for name, (status, _) in found.items() if status == "fail"}
