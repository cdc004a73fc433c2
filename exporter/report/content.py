"""What a report says, in order, before it is Markdown or a page."""

import json
import shlex
from typing import get_type_hints

from exporter.report.blocks import Block, Cell, Code, Facts, Fold, Mark, Section, Table, Text
from exporter.report.levels import level_sections
from exporter.report.numbers import NOT_MEASURED, count, plain, with_error
from exporter.report.schema import Coverage, Document, Level, RunFacts

NOT_SAID = "not said"
MODES = {
    "default": "ggufx's: every token of a window but the first",
    "llama.cpp": "llama.cpp: as llama-perplexity does",
}
SPECIAL = {"bos": "bos: begin of text", "eos": "eos: end of text", "eot": "eot: end of turn"}


def title(document: Document) -> tuple[str, str]:
    """Return the model's name and the run's."""
    run = document.get("run")
    if not run:
        return "Measured files", document["levels"][0]["file"] if document["levels"] else ""
    base = run.get("base") or {}
    name = base.get("name") or base.get("path") or run.get("architecture") or run["path"]
    return _last(name), run["path"].rstrip("/").rpartition("/")[2]


def sections(document: Document) -> list[Section]:
    """Return everything that the report says, sections without content left out."""
    every = [
        *level_sections(document),
        Section("Measured on", _measured_on(document)),
        Section("Checks", _checks(document)),
        Section("Run", _run(document.get("run"))),
        Section("Tokenizer", _tokenizer(document.get("run"))),
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
            ("SHA-256 of the text", (_code(measured.get("sha256")),)),
            ("Windows (chunks)", (_count(measured.get("chunks")),)),
            ("Tokens in a window", (_count(measured.get("context")),)),
            ("Tokens", (_count(measured.get("tokens")),)),
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


def _run(run: RunFacts | None) -> tuple[Block, ...]:
    if not run:
        return ()
    base = run.get("base") or {}
    left_out: tuple[Cell, ...] = tuple(run.get("left_out") or ()) or ("nothing",)
    rows: list[tuple[str, tuple[Cell, ...]]] = [
        ("Run", (Code(run["path"]),)),
        ("Kind", (run["kind"],)),
        ("Trainer", (run.get("trainer") or NOT_SAID,)),
        ("Architecture", (_code(run.get("architecture")),)),
        ("Family", (run.get("family") or NOT_SAID,)),
        ("Parameters", (_count(run.get("parameters")),)),
        ("Parts left out of the files", left_out if run.get("left_out") is not None else (NOT_SAID,)),
    ]
    if run["kind"] == "lora":
        rows += [("Base", (_code(base.get("name")),)), ("Path of the base", (_code(base.get("path")),))]
    dataset = run.get("dataset") or {}
    if dataset.get("name"):
        rows.append(("Dataset", (Code(dataset["name"]), f"by {dataset.get('from') or NOT_SAID}")))
    rows += [("Note", (note,)) for note in run.get("notes") or ()]
    of = "base" if run["kind"] == "lora" else "model"
    rows.append((f"SHA-256 of the {of}'s files", (_code(base.get("sha256")),)))
    adapters = tuple(
        (Code(a["path"]), a.get("method") or NOT_SAID, _factor(a.get("weight")), _code(a.get("sha256")))
        for a in run.get("adapters") or ()
    )
    table = Table(("Adapter", "Method", "Weight", "SHA-256"), adapters, frozenset({2}))
    return (Facts(tuple(rows)), table) if adapters else (Facts(tuple(rows)),)


def _tokenizer(run: RunFacts | None) -> tuple[Block, ...]:
    """Special tokens, what is put before a text, and the chat template's file."""
    tokenizer = run.get("tokenizer") if run else None
    if not tokenizer:
        return ()
    template = tokenizer.get("chat_template")
    facts: tuple[tuple[str, tuple[Cell, ...]], ...] = (
        ("Tokens", (_count(tokenizer.get("tokens")),)),
        ("Model, as GGUF names it", (_code(tokenizer.get("model")),)),
        ("Pre-tokenizer", (_code(tokenizer.get("pre")),)),
        ("A text begins with", ("the bos token" if tokenizer.get("adds_bos") else "no token of its own",)),
        ("Chat template", (Code(template) if template else "none",)),
    )
    rows = tuple(
        (SPECIAL.get(kind, kind), Code(token["text"]), str(token["id"]), token["source"])
        for kind, token in (tokenizer.get("special") or {}).items()
    )
    table = Table(("Special token", "Text", "Id", "From"), rows, frozenset({2}))
    return (Facts(facts), *([table] if rows else []), *_vocabulary(run))


def _vocabulary(run: RunFacts | None) -> tuple[Block, ...]:
    """How many rows or tokens each part has, and what became of them."""
    vocabulary = run.get("vocabulary") if run else None
    if not vocabulary:
        return ()
    rows = tuple((name, count(number)) for name, number in vocabulary["rows"].items())
    return (Table(("Vocabulary", "Rows"), rows, frozenset({1})), *(Text(rule) for rule in vocabulary["rules"]))


def _merge(document: Document) -> tuple[Block, ...]:
    merge = document.get("merge")
    if not merge:
        return ()
    delta = merge.get("largest_relative_delta")
    zero = merge.get("unchanged")
    return (
        Facts(
            (
                ("Tensors in the adapters", (_count(merge.get("adapter_tensors")),)),
                ("Tensors used", (_count(merge.get("used")),)),
                ("Weights changed", (_count(merge.get("weights_changed")),)),
                *([("Changed by nothing, since a factor is zero", tuple(map(Code, zero)))] if zero else []),
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
    text = json.dumps(fields, indent=2, ensure_ascii=False)
    return Fold(f"{place}: {', '.join(fields)}", Code(text)) if fields else None


def _code(text: str | None) -> Cell:
    return Code(text) if text else NOT_SAID


def _count(value: int | None) -> str:
    return NOT_SAID if value is None else count(value)


def _factor(value: float | None) -> str:
    return NOT_SAID if value is None else f"{value:g}"


def _last(path: str) -> str:
    """Return the last part of a path; a model id keeps its owner."""
    name = path.rstrip("/")
    return name if name.count("/") == 1 and not name.startswith((".", "/")) else name.rsplit("/", 1)[-1] or path
