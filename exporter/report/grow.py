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
CHOICES = (("--qlora-base", "qlora_base", "full"), ("--moe-lora-layout", "moe_lora_layout", "not given"))
"""Options that decide what the weights are: the option, its field of a report's run, what it is by itself."""
PROJECTOR = "projector"
"""The report's field of the projector's file, and the name of its proof."""
FILES = ("report.json", "report.md", "report.html")


def earlier_report(
    folder: Path, run: Mapping[str, Any], asked: Mapping[str, Any], *, replaced: set[str]
) -> Document | None:
    """The folder's report, to be grown; None where there is none, or where all its levels are made again.

    Args:
        folder: the output folder.
        run: what the weights are made of now, as a report's ``run`` has it.
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
    differences = _differences(report.get("run") or {}, run)
    if differences:
        raise OutputError(
            f"{folder}: holds {', '.join(kept)} of another run, or of this one made otherwise: "
            f"{'; '.join(differences)}. The levels of a folder are of the same weights: give another --out."
        )
    _require_comparable(folder, report, asked, kept)
    return report


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two runs' weights are made of differently, in words; nothing where they are the same."""
    found = []
    old, new = before.get("base") or {}, now["base"]
    if old.get("sha256") != new["sha256"]:
        found.append(_changed("the base", str(old.get("path") or before.get("path")), new["path"]))
    old, new = before.get("adapters") or [], now["adapters"]
    if [(one.get("sha256"), one.get("weight")) for one in old] != [(one["sha256"], one["weight"]) for one in new]:
        found.append(_changed("the adapters", *(" + ".join(map(_adapter, some)) or "none" for some in (old, new))))
    for option, key, default in CHOICES:
        was, value = before.get(key) or default, now.get(key) or default
        found += [f"{option} was {was}, is {value}"] if was != value else []
    return found


def _changed(what: str, was: str, now: str) -> str:
    """What became of a part of a run: another one, or other files in its place."""
    return f"{what}: {was} before, {now} now" if was != now else f"{what}: files in {now} were changed since"


def _adapter(adapter: Mapping[str, Any]) -> str:
    """An adapter with its factor."""
    weight = adapter.get("weight")
    return str(adapter.get("path")) + ("" if weight in (None, 1) else f" with weight {weight!r}")


def _require_comparable(folder: Path, report: Document, asked: Mapping[str, Any], kept: list[str]) -> None:
    """OutputError where the levels that are kept were measured on something else than what is asked for now."""
    if not report.get("measured_on"):
        return
    measured: dict[str, Any] = dict(report.get("measured_on") or {})
    reference: Mapping[str, Any] = report.get("reference") or {}
    measured["reference"] = reference.get("kind")
    differs = [key for key in COMPARED if not _agrees(key, measured, asked)]
    if differs:
        shown = {key: "text" if key == "sha256" else key for key in differs}
        was = (
            f"{WORDS[name]} {measured.get(name)}, not {asked[name]}{CAUSES.get(key, '')}" for key, name in shown.items()
        )
        raise OutputError(
            f"{folder}: {', '.join(kept)} were measured with {'; '.join(was)}: figures of one report must be "
            "comparable. Measure the new levels the same way, or give another --out."
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
    for key in ("measured_on", "reference", PROJECTOR):
        if fields.get(key) is None and earlier.get(key) is not None:
            fields[key] = earlier.get(key)
    return fields


def _all_checks(new: list[Any], earlier: Sequence[Any], kept: list[str]) -> list[Any]:
    """The proofs of all levels: those of an earlier export still stand for the levels it made that were kept."""
    before = {check["name"]: [name for name in check.get("levels") or [] if name in kept] for check in earlier}
    checks = [check | {"levels": [*before.get(check["name"], []), *check["levels"]]} for check in new]
    done = {check["name"] for check in new}
    others = [check | {"levels": before[check["name"]]} for check in earlier if check["name"] not in done]
    return checks + [check for check in others if check["levels"] or check["name"] == PROJECTOR]


def _ordered(levels: list[Any]) -> list[Any]:
    """Levels from the largest file to the smallest, however they came."""
    return sorted(levels, key=lambda level: -int(level["bytes"]))
