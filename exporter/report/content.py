"""What a report says, in order, before it is Markdown or a page."""

import shlex
from typing import get_type_hints

from exporter.report.blocks import Block, Cell, Code, Facts, Fold, Mark, Section, Table, Text
from exporter.report.levels import level_sections
from exporter.report.numbers import NOT_MEASURED, count, plain, with_error
from exporter.report.of_run import NOT_SAID, count_or_not, name_or_not, run_blocks, tokenizer_blocks
from exporter.report.projector import projector_blocks
from exporter.report.schema import Coverage, Document, Level
from exporter.text import json_text

MODES = {
    "default": "ggufx's: every token of a window but the first",
    "llama.cpp": "llama.cpp: as llama-perplexity does",
}


def sections(document: Document) -> list[Section]:
    """Return everything that the report says, sections without content left out."""
    every = [
        *level_sections(document),
        Section("Projector", projector_blocks(document.get("projector"))),
        Section("Measured on", _measured_on(document)),
        Section("Checks", _checks(document)),
        Section("Run", run_blocks(document.get("run"))),
        Section("Tokenizer", tokenizer_blocks(document.get("run"))),
        Section("Merge", _merge(document)),
        Section("Base in 4 bits", _qlora(document)),
        Section("This report", _origin(document)),
        Section("Further fields", _further(document)),
    ]
    return [section for section in every if section.blocks]


def _measured_on(document: Document) -> tuple[Block, ...]:
    measured, reference = document.get("measured_on"), document.get("reference")
    if not measured and not reference:
        return (Text("Nothing was measured."),)
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    if measured:
        rows += [
            ("Text", (Code(measured["text"]),)),
            ("SHA-256 of the text", (name_or_not(measured.get("sha256")),)),
            ("Windows (chunks)", (count_or_not(measured.get("chunks")),)),
            ("Tokens in a window", (count_or_not(measured.get("context")),)),
            ("Tokens", (count_or_not(measured.get("tokens")),)),
            ("Way of measuring", (MODES.get(measured.get("mode") or "", NOT_SAID),)),
            ("Engine", (measured.get("engine") or NOT_SAID,)),
        ]
    if reference:
        perplexity = reference.get("perplexity")
        value = with_error(perplexity["value"], perplexity.get("error")) if perplexity else NOT_MEASURED
        rows += [("Reference", (Code(reference["kind"]),)), ("Perplexity of the reference", (value,))]
    return (Facts(tuple(rows)),)


def _checks(document: Document) -> tuple[Block, ...]:
    checks = document.get("checks")
    if not checks:
        return ()
    rows = tuple(
        (check["name"], Mark(check["status"]), ", ".join(check.get("levels") or ()), check.get("detail") or "")
        for check in checks
    )
    return (Table(("Check", "Result", "Levels", "Detail"), rows),)


def _merge(document: Document) -> tuple[Block, ...]:
    merge = document.get("merge")
    if not merge:
        return ()
    delta = merge.get("largest_relative_delta")
    zero = merge.get("unchanged")
    return (
        Facts(
            (
                ("Tensors in the adapters", (count_or_not(merge.get("adapter_tensors")),)),
                ("Tensors used", (count_or_not(merge.get("used")),)),
                ("Weights changed", (count_or_not(merge.get("weights_changed")),)),
                *([("Named by an adapter, but as before", tuple(map(Code, zero)))] if zero else []),
                ("Largest relative change of a weight, ‖Δ‖/‖W‖", (NOT_SAID if delta is None else plain(delta),)),
            )
        ),
        *_coverage(merge.get("coverage") or []),
    )


def _coverage(rows: list[Coverage]) -> tuple[Block, ...]:
    """Which kinds of weights training changed, and in how many layers."""
    cells = tuple(
        (
            Code(row["kind"]),
            f"{count(row['changed'])} of {count(row['weights'])}",
            f"{row.get('layers_changed')} of {row.get('layers')}" if row.get("layers") else "-",
        )
        for row in rows
    )
    return (Table(("Kind of weight", "Changed", "In layers"), cells, frozenset({1, 2})),) if cells else ()


def _qlora(document: Document) -> tuple[Block, ...]:
    """What training saw of the base, what the adapter was laid over, and by layer what rounding and training did."""
    qlora = document.get("qlora")
    if not qlora:
        return ()
    laid_over = "the base as rounded for training" if qlora["base"] == "nf4" else "the base in 16 bits"
    facts: list[tuple[str, tuple[Cell, ...]]] = [
        ("Training in 4 bits is said by", (qlora["because"],)),
        ("Settings of the rounding", (qlora["settings"],)),
        ("The adapter is laid over", (laid_over,)),
    ]
    if qlora.get("not_compared"):
        facts.append(("Not compared", (qlora.get("not_compared") or "",)))
    rows = tuple(
        (
            row["layer"],
            count(row["weights"]),
            plain(row["error"]),
            plain(row["delta"]),
            plain(row["error"] / row["delta"]) if row["delta"] else "-",
        )
        for row in qlora.get("layers") or ()
    )
    names = ("Layer", "Trained weights", "Rounding, ‖Q(W) - W‖", "Training, ‖Δ‖", "Ratio")
    return (Facts(tuple(facts)), *([Table(names, rows, frozenset({1, 2, 3, 4}))] if rows else []))


def _origin(document: Document) -> tuple[Block, ...]:
    return (
        Facts(
            (
                ("Created", (document["created"],)),
                ("ggufx", (document["ggufx"],)),
                ("Form", (f"report.json, schema {document['schema']}",)),
                ("Command", (Code(shlex.join(document["command"])),)),
                *([("Folder", (Code(str(document.get("folder"))),))] if document.get("folder") else []),
            )
        ),
    )


def _further(document: Document) -> tuple[Block, ...]:
    """The fields that may be added to the form: shown as they are, so that nothing measured is hidden."""
    blocks = [_as_json("report", _unknown(dict(document), Document))]
    blocks += [_as_json(level["quant"], _unknown(dict(level), Level)) for level in document["levels"]]
    return tuple(block for block in blocks if block)


def _unknown(fields: dict[str, object], kind: type) -> dict[str, object]:
    known = get_type_hints(kind)
    return {name: value for name, value in fields.items() if name not in known and value is not None}


def _as_json(place: str, fields: dict[str, object]) -> Fold | None:
    return Fold(f"{place}: {', '.join(fields)}", Code(json_text(fields))) if fields else None
