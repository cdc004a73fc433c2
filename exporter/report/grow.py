"""A folder that gets more levels of the same run: what must agree with its report, and how the report grows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.errors import OutputError
from exporter.report.document import read_report
from exporter.report.schema import Document

FILES = ("report.json", "report.md", "report.html")


def earlier_report(
    folder: Path, inputs: Mapping[str, Any], asked: Mapping[str, Any], *, overwrite: bool
) -> Document | None:
    """The folder's report, to be grown; None where there is none, or where it is to be replaced.

    Args:
        folder: the output folder.
        inputs: the hashes of base and adapters, as in the report's ``run``.
        asked: fields of ``measured_on`` that the user fixed.
        overwrite: whether a report of another run is replaced.

    Raises:
        OutputError: the folder is another run's, or its levels were measured on something else.
    """
    if not (folder / FILES[0]).exists():
        return None
    report = read_report(folder)
    run: Mapping[str, Any] = report.get("run") or {}
    theirs = {
        "base": (run.get("base") or {}).get("sha256"),
        "adapters": [a.get("sha256") for a in run.get("adapters") or []],
    }
    if theirs != inputs:
        if overwrite:
            return None
        raise OutputError(
            f"{folder}: holds the export of another run, or of other files of this one (report.json names "
            f"{run.get('path')}). Give another --out, or --overwrite to replace its report."
        )
    measured: Mapping[str, Any] = report.get("measured_on") or {}
    for key, value in asked.items():
        if measured and value is not None and measured.get(key) != value:
            raise OutputError(
                f"{folder}: its levels were measured with {key} {measured.get(key)}, not {value}: figures of one "
                "report must be comparable. Measure the new levels the same way, or give another --out."
            )
    return report


def grown(new: dict[str, Any], earlier: Document | None) -> dict[str, Any]:
    """A document with the levels of an earlier one before its own; a level made again stands once, as it is now."""
    if earlier is None:
        return new
    made = {level["quant"] for level in new["levels"]}
    kept = [level for level in earlier["levels"] if level["quant"] not in made]
    fields = new | {"levels": [*kept, *new["levels"]]}
    for key in ("measured_on", "reference"):
        if fields.get(key) is None and earlier.get(key) is not None:
            fields[key] = earlier.get(key)
    return fields


def remove_report(folder: Path) -> None:
    """Take away a report whose files are being replaced, so that it never stands beside others."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
