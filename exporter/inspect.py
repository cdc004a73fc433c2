"""What a run is, in plain words and as a document; reads headers only."""

from typing import Any

from exporter.run import Run, open_run
from exporter.source import open_source


def inspect_run(
    path: str, *, base: str | None = None, revision: str | None = None, base_revision: str | None = None
) -> dict[str, Any]:
    """What a run is: its trainer, family, base, adapter, tokenizer files and warnings. GgufxError as for an export."""
    run = open_run(path, base=base, revision=revision, base_revision=base_revision)
    source = open_source(run)
    shapes = source.shapes()
    embedding = shapes["model.embed_tokens.weight"]
    return {
        "path": str(run.path),
        "weights": str(run.folder),
        "kind": run.kind,
        "trainer": run.trainer,
        "architecture": run.config["architecture"],
        "family": run.family.name,
        "base": {"name": run.base_name, "path": str(run.base)},
        "stored_as": sorted(source.dtypes()),
        "layers": run.config["num_hidden_layers"],
        "embedding": list(embedding),
        "head": "the embedding again" if source.tied else "a tensor of its own",
        "adapters": [_adapter(run, k, len(source.changes.by_weight)) for k in range(len(run.adapters))],
        "adapter_tensors": source.changes.tensors,
        "left_out": [*source.left_out, *source.changes.left_out],
        "tokenizer": {name: str(file) for name, file in run.tokenizer_files.items()},
        "notes": list(run.notes),
        "warnings": list(run.warnings),
    }


def _adapter(run: Run, k: int, weights: int) -> dict[str, Any]:
    """One adapter's own figures."""
    adapter = run.adapters[k]
    fields = ("r", "lora_alpha", "use_rslora", "target_modules", "modules_to_save", "peft_version")
    return {"path": str(adapter.folder), "method": "lora", "weights_changed": weights} | {
        field: adapter.config[field] for field in fields if adapter.config.get(field) is not None
    }


def render(facts: dict[str, Any]) -> str:
    """The facts as text: a line for each."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{key}:", *(f"  {name}: {one}" for name, one in value.items())]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for one in value:
                lines += [f"{key}:", *(f"  {name}: {part}" for name, part in one.items())]
        elif value not in ([], None):
            text = ", ".join(str(one) for one in value) if isinstance(value, list) else str(value)
            lines.append(f"{key.replace('_', ' ')}: {text}")
    return "\n".join(lines)
