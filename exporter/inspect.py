"""What a run is, in plain words and as a document; reads headers and the tokenizer, of a QLoRA run weights too."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from exporter.plan import Wishes, build
from exporter.report.changed import changed_weights
from exporter.run import Asked, Run, open_run
from exporter.run.said import front_matter, read_text
from exporter.source import comparison_fields, open_source
from exporter.text import printable
from exporter.vocabulary import label

if TYPE_CHECKING:
    from exporter.merge import Merged

BYTE_LEVEL = "gpt2"
"""What GGUF calls byte-level BPE, the one kind of tokenizer that llama.cpp has pre-tokenizers for."""
WIDE = 100
"""Characters from which on a list has a line for each entry."""


def inspect_run(path: str, *, pre: str | None = None, **asked: Unpack[Asked]) -> dict[str, Any]:
    """What a run is: trainer, data, family, base, adapter, licence, tokenizer, warnings. GgufxError as in an export."""
    run = open_run(path, **asked)
    source = open_source(run)
    plan = build(run, [], source, Wishes(measured=False, pre=pre))
    shapes = source.shapes()
    embedding = shapes["model.embed_tokens.weight"]
    facts = {
        "path": str(run.path),
        "weights": str(run.folder),
        "kind": run.kind,
        "trainer": run.trainer,
        "trainer_from": run.trainer_from,
        "dataset": {"name": run.dataset, "from": run.dataset_from} if run.dataset else None,
        "architecture": run.config["architecture"],
        "family": run.family.name,
        "base": {"name": run.base_name, "path": str(run.base), "from": run.base_from or "the run itself"},
        "stored_as": sorted(source.dtypes()),
        "parameters": plan.parameters,
        "layers": run.config["num_hidden_layers"],
        "embedding": " x ".join(map(str, embedding)),
        "head": "the embedding again" if source.tied else "a tensor of its own",
        "vocabulary": plan.vocabulary.as_document(),
        "adapters": [_adapter(run, source, k) for k in range(len(run.adapters))],
        "adapter_tensors": source.changes.tensors,
        "weights_changed": len(changed_weights(source)),
        "left_out": [*source.left_out, *source.changes.left_out],
        "license": {"run": _license(run.folder), "base": _license(run.base)},
        "tokenizer": plan.tokenizer.facts | {"files": sorted({str(file) for file in run.tokenizer_files.values()})},
        "notes": list(plan.notes),
        "warnings": list(plan.warnings),
    }
    return facts | comparison_fields(run, source, plan.warnings)


def _adapter(run: Run, source: "Merged", k: int) -> dict[str, Any]:
    """One adapter's own figures."""
    adapter = run.adapters[k]
    return {
        "path": str(adapter.folder),
        "method": adapter.method,
        "weight": adapter.weight,
        "weights_changed": len(changed_weights(source, source.layers[k : k + 1])),
    } | adapter.settings


def _license(folder: Path) -> str | None:
    """The licence that a folder's model card names, else the name of its licence file; None where it has neither."""
    named = (front_matter(read_text(folder / "README.md")) or {}).get("license")
    listed = named if isinstance(named, list) else [named]
    if names := dict.fromkeys(one for one in listed if isinstance(one, str) and one):  # an alias may repeat one
        return ", ".join(names)
    return next((file.name for file in sorted(folder.glob("LICENSE*"))), None)


def render(facts: dict[str, Any]) -> str:
    """The facts as text: a line for each, those that belong together under a heading."""
    shown = _shown(facts)
    return "\n".join(printable(line) for name, value in shown.items() for line in _lines(name.replace("_", " "), value))


def _shown(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts that a reader is told: each once, and by words that need nothing beside them."""
    shown = facts | {"parameters": f"{facts['parameters']:,}", "tokenizer": _tokenizer(facts["tokenizer"])}
    shown["kind"] = "adapter" if facts["adapters"] else facts["kind"]  # of whatever method: its own line says which
    shown["dataset"] = facts["dataset"] or "not named in the run's files"
    dropped = set() if facts["trainer_from"] else {"trainer_from"}
    if not facts["adapters"]:
        dropped |= {"adapter_tensors", "weights_changed"}
    if len(facts["adapters"]) == 1:  # whose own line says as much
        dropped |= {"weights_changed"}
    named = {"weights_changed": "weights changed by all adapters together"}
    return {named.get(name, name): value for name, value in shown.items() if name not in dropped}


def _tokenizer(facts: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's facts; the pre-tokenizer of byte-level ones only, for llama.cpp cuts no other's texts."""
    shown = {"model, as GGUF names it": facts["model"]}
    shown |= {"pre-tokenizer": facts["pre"]} if facts["model"] == BYTE_LEVEL else {}
    ends = {f"token {end['id']}": _end(**end) for end in facts["ends"]}
    return shown | {
        name: ends if name == "ends" else one for name, one in facts.items() if name not in {"model", "pre"}
    }


def _end(*, text: str, said_by: list[str], stops: str, **_: object) -> str:
    """An end as a reader would have it: the token, whether llama.cpp stops there, and who says that it is one."""
    how = "does not stop there" if stops == "no" else f"stops there ({stops})"
    return f"{text}, llama.cpp {how}; said by {', '.join(said_by)}"


def _lines(name: str, value: object, indent: str = "") -> list[str]:
    """A fact's lines; none for an empty list."""
    match value:
        case dict() if line := _in_one_line(name, value):
            return [indent + line]
        case dict():
            inner = _inner_lines(value, indent + "  ")
            return [f"{indent}{name}:", *inner] if inner else []
        case [dict(), *_]:
            return [line for one in value for line in _lines(name, one, indent)]
        case list() if len(", ".join(map(str, value))) > WIDE:
            return [f"{indent}{name}:", *(f"{indent}  {one}" for one in value)]
        case []:
            return []
        case _:
            return [f"{indent}{name}: {_word(value)}"]


def _inner_lines(value: dict[str, object], indent: str) -> list[str]:
    """The lines under a heading: a fact each; a ledger's counts, and in a sentence each what becomes of them."""
    match value:
        case {"rows": dict(rows), "rules": list(rules)}:
            said = (str(rule).partition(": ")[2] for rule in rules)  # what stands in front is the rule's name
            return [indent + line for line in (*(f"{label(key)}: {count}" for key, count in rows.items()), *said)]
    return [line for key, one in value.items() for line in _lines(key.replace("_", " "), one, indent)]


def _in_one_line(name: str, value: dict[str, object]) -> str | None:
    """A fact of several fields that a reader would have in one line; None for every other."""
    match value:
        case {"id": token, "text": text, "source": source}:
            return f"{name}: {token} {text} ({source})"
        case {"layer": layer, "delta": float(delta), "error": float(error)}:
            ratio = f"{error / delta:.3g} times" if delta else "more than"
            return f"layer {layer}: ‖rounding to 4 bits‖ {error:.4g}, ‖training‖ {delta:.4g}: {ratio} as much"
    return None


def _word(value: object) -> str:
    """A plain value, or several, as a reader would write them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
