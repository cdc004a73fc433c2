"""What a report says of the run: its title, the base, the adapters, the tokenizer."""

from exporter.report.blocks import Block, Cell, Code, Facts, Table, Text
from exporter.report.numbers import count
from exporter.report.schema import Adapter, Document, RunFacts
from exporter.vocabulary import label

NOT_SAID = "not said"
SPECIAL = {"bos": "bos: begin of text", "eos": "eos: end of text", "eot": "eot: end of turn"}
SETTINGS = {
    "r": "Rank (r)",
    "lora_alpha": "Alpha (lora_alpha)",
    "alpha": "Alpha (alpha)",
    "use_rslora": "rsLoRA (use_rslora)",
    "use_dora": "DoRA (use_dora)",
    "target_modules": "Modules (target_modules)",
    "target_parameters": "Parameters (target_parameters)",
    "modules_to_save": "Saved whole (modules_to_save)",
    "trainable_token_indices": "Tokens trained alone (trainable_token_indices)",
    "peft_version": "PEFT",
}
"""Fields of adapter_config.json, in words; others by their names."""
MOST = 16
"""Entries of a list that are shown."""


def title(document: Document) -> tuple[str, str]:
    """Return the model's name, and the run's with what was asked beside it."""
    run = document.get("run")
    if not run:
        return "Measured files", document["levels"][0]["file"] if document["levels"] else ""
    base = run.get("base") or {}
    name = base.get("name") or base.get("path") or run.get("architecture") or run["path"]
    more = "".join(map(_on_top, run.get("adapters") or ()))
    over = ", over the base rounded to 4 bits" if run.get("qlora_base") else ""
    return _last(name), _folder(run["path"]) + more + over


def run_blocks(run: RunFacts | None) -> tuple[Block, ...]:
    """Return what was exported, and a table of its adapters."""
    if not run:
        return ()
    base = run.get("base") or {}
    left_out: tuple[Cell, ...] = tuple(run.get("left_out") or ()) or ("nothing",)
    rows: list[tuple[str, tuple[Cell, ...]]] = [
        ("Run", (Code(run["path"]),)),
        ("Kind", (run["kind"],)),
        ("Trainer", (run.get("trainer") or NOT_SAID,)),
        ("Architecture", (name_or_not(run.get("architecture")),)),
        ("Family", (run.get("family") or NOT_SAID,)),
        ("Parameters", (count_or_not(run.get("parameters")),)),
        ("Parts left out of the files", left_out if run.get("left_out") is not None else (NOT_SAID,)),
    ]
    if run["kind"] == "lora":
        rows += [("Base", (name_or_not(base.get("name")),)), ("Path of the base", (name_or_not(base.get("path")),))]
    dataset = run.get("dataset") or {}
    if dataset.get("name"):
        rows.append(("Dataset", (Code(dataset["name"]), f"by {dataset.get('from') or NOT_SAID}")))
    rows += [("Note", (note,)) for note in run.get("notes") or ()]
    of = "base" if run["kind"] == "lora" else "model"
    rows.append((f"SHA-256 of the {of}'s files", (name_or_not(base.get("sha256")),)))
    if run.get("moe_lora_layout"):
        rows.append(("Layout of lora_B of fused experts", (name_or_not(run.get("moe_lora_layout")),)))
    return (Facts(tuple(rows)), *_adapters(run.get("adapters") or []))


def _on_top(adapter: Adapter) -> str:
    """An adapter that was given beside the run's own, as a title has it; empty for the run's own."""
    given, weight = adapter.get("given"), adapter.get("weight")
    if not given:
        return ""
    factor = 1.0 if weight is None else weight
    return f" {'+' if factor > 0 else '-'} {_folder(given)}{f' × {abs(factor):g}' * (abs(factor) != 1)}"  # noqa: RUF001


def _adapters(adapters: list[Adapter]) -> tuple[Block, ...]:
    """A column for each adapter, in the order in which they were laid over the base."""
    if not adapters:
        return ()
    names = dict.fromkeys(name for adapter in adapters for name in adapter.get("settings") or {})
    rows: list[tuple[Cell, ...]] = [
        ("Folder", *(Code(one["path"]) for one in adapters)),
        ("Given by", *("--adapter" if one.get("given") else "the run" for one in adapters)),
        ("Weight (factor)", *(_factor(one.get("weight")) for one in adapters)),
        ("Method", *(one.get("method") or NOT_SAID for one in adapters)),
        *(
            (SETTINGS.get(name, name), *(_setting((one.get("settings") or {}).get(name)) for one in adapters))
            for name in names
        ),
        ("SHA-256", *(name_or_not(one.get("sha256")) for one in adapters)),
    ]
    return (Table(("Adapter", *(_folder(one.get("given") or one["path"]) for one in adapters)), tuple(rows)),)


def _setting(value: object) -> str:
    """A field of adapter_config.json as a reader would write it; long ones are cut, for report.json has them whole."""
    match value:
        case None | False:
            return "no" if value is False else "-"
        case True:
            return "yes"
        case dict():
            return _setting([f"{name}: {_setting(one)}" for name, one in value.items()])
        case list():
            more = f" and {len(value) - MOST} more" if len(value) > MOST else ""
            return ", ".join(map(_setting, value[:MOST])) + more
        case _:
            return str(value)


def tokenizer_blocks(run: RunFacts | None) -> tuple[Block, ...]:
    """Special tokens, what is put before a text, and the chat template's file."""
    tokenizer = run.get("tokenizer") if run else None
    if not tokenizer:
        return ()
    template = tokenizer.get("chat_template")
    facts: tuple[tuple[str, tuple[Cell, ...]], ...] = (
        ("Tokens", (count_or_not(tokenizer.get("tokens")),)),
        ("Model, as GGUF names it", (name_or_not(tokenizer.get("model")),)),
        ("Pre-tokenizer", (name_or_not(tokenizer.get("pre")),)),
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
    rows = tuple((label(name), count(number)) for name, number in vocabulary["rows"].items())
    return (Table(("Vocabulary", "Number"), rows, frozenset({1})), *(Text(rule) for rule in vocabulary["rules"]))


def name_or_not(text: str | None) -> Cell:
    """Return a name to be read letter by letter, or that it is not said."""
    return Code(text) if text else NOT_SAID


def count_or_not(value: int | None) -> str:
    """Return a whole number, or that it is not said."""
    return NOT_SAID if value is None else count(value)


def _factor(value: float | None) -> str:
    return NOT_SAID if value is None else f"{value:g}"


def _folder(path: str) -> str:
    """Return the last part of a path or id."""
    return path.rstrip("/").rpartition("/")[2]


def _last(path: str) -> str:
    """Return the last part of a path; a model id keeps its owner."""
    name = path.rstrip("/")
    return name if name.count("/") == 1 and not name.startswith((".", "/")) else name.rsplit("/", 1)[-1] or path
