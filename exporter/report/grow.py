"""A folder that gets more levels of the same run: what must agree with its report, and how the report grows."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.errors import OutputError
from exporter.report.document import read_report
from exporter.report.schema import Document

COMPARED = ("sha256", "mode", "chunks", "reference")
WORDS = {"text": "the text", "mode": "mode", "chunks": "--chunks", "reference": "the reference in"}
CAUSES = {
    "sha256": " (or its content has changed)",
    "reference": " (an f32 level makes the reference f32, and needs a folder of its own)",
}
FILES = ("report.json", "report.md", "report.html")


def earlier_report(
    folder: Path, inputs: Mapping[str, Any], asked: Mapping[str, Any], *, replaced: set[str]
) -> Document | None:
    """The folder's report, to be grown; None where there is none, or where all its levels are made again.

    Args:
        folder: the output folder.
        inputs: what the weights are made of, as in the report's ``run``: hashes, factors, choices.
        asked: the fields of ``measured_on`` that the user fixed, and the kind of the reference.
        replaced: the levels that may be made again; empty: nothing may be overwritten.

    Raises:
        OutputError: the folder is another run's, its levels were measured on something else, or a page is of no export.
    """
    if not (folder / FILES[0]).exists():
        if not replaced:
            _require_no_page(folder)
        return None
    report = read_report(folder)
    kept = [level["quant"] for level in report["levels"] if level["quant"] not in replaced]
    if not kept:
        return None
    run: Mapping[str, Any] = report.get("run") or {}
    adapters = [[adapter.get("sha256"), adapter.get("weight")] for adapter in run.get("adapters") or []]
    found = {"base": (run.get("base") or {}).get("sha256"), "adapters": adapters}
    if found | {key: run.get(key) for key in inputs if key not in found} != inputs:
        raise OutputError(
            f"{folder}: holds {', '.join(kept)} of another run, or of other files of this one: report.json names "
            f"{run.get('path')}. Give another --out."
        )
    _require_comparable(folder, report, asked, kept)
    return report


def _require_comparable(folder: Path, report: Document, asked: Mapping[str, Any], kept: list[str]) -> None:
    """OutputError where the levels that are kept were measured on something else than what is asked for now."""
    if not report.get("measured_on"):
        return
    measured: dict[str, Any] = dict(report.get("measured_on") or {})
    reference: Mapping[str, Any] = report.get("reference") or {}
    measured["reference"] = reference.get("kind")
    differs = next((key for key in COMPARED if not _agrees(key, measured, asked)), None)
    if differs is not None:
        shown = "text" if differs == "sha256" else differs
        raise OutputError(
            f"{folder}: {', '.join(kept)} were measured with {WORDS.get(shown, shown)} {measured.get(shown)}, not "
            f"{asked[shown]}{CAUSES.get(differs, '')}: figures of one report must be comparable. Measure the new "
            "levels the same way, or give another --out."
        )


def _agrees(key: str, measured: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a field is as asked, or was not asked; the windows may be as many as were asked for the last time."""
    value = asked.get(key)
    return value is None or value == measured.get(key) or (key == "chunks" and value == measured.get("asked"))


def _require_no_page(folder: Path) -> None:
    """OutputError where a page has the name of a report's, and no report stands beside it."""
    for name in FILES[1:]:
        if os.path.lexists(folder / name):
            raise OutputError(
                f"{folder / name}: exists already, and no {FILES[0]} of an export stands beside it. Move it away, give "
                "--overwrite to replace it, or give another --out."
            )


def grown(new: dict[str, Any], earlier: Document | None) -> dict[str, Any]:
    """A document with the levels of an earlier one before its own; a level made again stands once, as it is now."""
    if earlier is None:
        return new | {"levels": _ordered(new["levels"])}
    made = {level["quant"] for level in new["levels"]}
    kept = [level for level in earlier["levels"] if level["quant"] not in made]
    fields = new | {"levels": _ordered([*kept, *new["levels"]])}
    fields["checks"] = _all_checks(new["checks"], earlier.get("checks") or [], [level["quant"] for level in kept])
    if kept:
        commands: Any = earlier.get("earlier_commands") or []
        fields["earlier_commands"] = [*commands, earlier["command"]]
    for key in ("measured_on", "reference"):
        if fields.get(key) is None and earlier.get(key) is not None:
            fields[key] = earlier.get(key)
    return fields


def _all_checks(new: list[Any], earlier: Sequence[Any], kept: list[str]) -> list[Any]:
    """The proofs of all levels: those of an earlier export still stand for the levels it made that were kept."""
    before = {check["name"]: [name for name in check.get("levels") or [] if name in kept] for check in earlier}
    return [check | {"levels": [*before.get(check["name"], []), *check["levels"]]} for check in new]


def _ordered(levels: list[Any]) -> list[Any]:
    """Levels from the largest file to the smallest, however they came."""
    return sorted(levels, key=lambda level: -int(level["bytes"]))
