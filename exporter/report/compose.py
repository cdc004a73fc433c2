"""The document of an export, put together from what each step returned."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.merge.coverage import Coverage, coverage, missed_experts
from exporter.report.changed import changed_weights
from exporter.report.document import check_document
from exporter.report.schema import SCHEMA, Document

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.plan import Plan
    from exporter.run import Run

Fields = dict[str, Any]
ENOUGH_CHUNKS = 10


def new_document(command: Sequence[str]) -> Fields:
    """The fields of every document: its form, its program, its time and its command."""
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"schema": SCHEMA, "ggufx": version("ggufx"), "created": created, "command": list(command)}


def export_blocks(run: "Run", source: "Merged", plan: "Plan", hashes: "Mapping[Path, str]") -> Fields:
    """What only an export knows: the run, the merge, the warnings."""
    merge = merge_block(source) if run.adapters else None
    missed = missed_experts(_coverage(source)) if run.adapters else None
    warnings = [*plan.warnings, *([missed] if missed else [])]
    return {"run": run_block(run, plan, hashes), "merge": merge, "warnings": warnings}


def run_block(run: "Run", plan: "Plan", hashes: "Mapping[Path, str]") -> Fields:
    """What was exported."""
    return {
        "path": nearest(run.path),
        "kind": run.kind,
        "trainer": run.trainer,
        "architecture": str(run.config["architecture"]),
        "family": run.family.name,
        "parameters": plan.parameters,
        "left_out": list(plan.left_out),
        "notes": list(plan.notes),
        "trainer_from": run.trainer_from,
        "moe_lora_layout": run.packing,
        "qlora_base": run.rounded,
        "dataset": {"name": run.dataset, "from": run.dataset_from} if run.dataset else None,
        "base": {"name": run.base_name, "path": nearest(run.base), "sha256": hashes[run.base]},
        "adapters": [
            {
                "path": nearest(adapter.folder),
                "sha256": hashes[adapter.folder],
                "method": adapter.method,
                "weight": adapter.weight,
                "given": None if adapter.given is None else nearest(adapter.given),
                "settings": adapter.settings,
            }
            for adapter in run.adapters
        ],
        "tokenizer": plan.tokenizer.facts,
        "vocabulary": plan.vocabulary.as_document(),
    }


def nearest(path: Path) -> str:
    """A path as a report has it, which others will read: from the current folder, where it lies in that."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def merge_block(source: "Merged") -> Fields:
    """What the merge did, once every row was read."""
    changes = source.changes
    deltas = source.deltas()
    return {
        "adapter_tensors": changes.tensors,
        "used": changes.tensors - len(changes.left_out),
        "left_out": list(changes.left_out),
        "weights_changed": len(changed_weights(source)),
        "unchanged": sorted(name for name, delta in deltas.items() if delta.change == 0),
        "largest_relative_delta": max((delta.relative for delta in deltas.values()), default=0.0),
        "head": "tied" if source.tied else "of its own",
        "coverage": [asdict(row) for row in _coverage(source)],
    }


def _coverage(source: "Merged") -> tuple[Coverage, ...]:
    """Which kinds of weights were changed, once every row was read."""
    return coverage(source.shapes(), changed_weights(source))


def level_block(plan: "Plan", k: int, sha256: str) -> Fields:
    """One level before it is measured."""
    output = plan.outputs[k]
    return {
        "quant": output.level,
        "files": [output.file],
        "file": output.file,
        "bytes": output.bytes,
        "bpw": plan.bits_per_weight(k),
        "sha256": sha256,
        "types": plan.types(k),
        "fallbacks": [asdict(fallback) for fallback in plan.fallbacks(k)],
        "verdict": "not measured",
    }


def projector_fields(plan: "Plan", hashes: Sequence[str], processor: Mapping[str, str]) -> Fields:
    """The projector's file, where one was written, with its hash, and those of the image processor's files."""
    if plan.projector is None:
        return {}
    output = plan.projector.output
    return {
        "projector": {
            "quant": output.level,
            "file": output.file,
            "bytes": output.bytes,
            "sha256": hashes[0],
            "types": plan.projector.types,
            "fallbacks": [asdict(fallback) for fallback in plan.projector.fallbacks],
            "processor": dict(processor),
        }
    }


def finished(fields: Fields) -> Document:
    """The fields as a document, with a warning where few windows were measured while any level's figures stand."""
    on = fields.get("measured_on")
    if on and any(level.get("kld") for level in fields["levels"]):
        fields = fields | {"warnings": [*fields["warnings"], *_few_windows(on)]}
    return check_document(fields, "report.json")


def _few_windows(on: Mapping[str, Any]) -> list[str]:
    """What a reader of the errors should know: a standard error from n values is itself uncertain by 1/sqrt(2(n-1)).

    That is the relative standard deviation of a sample's standard deviation, for normal values and large n.
    """
    chunks, asked = on["chunks"], on.get("asked")
    if chunks >= ENOUGH_CHUNKS:
        return []
    known = (
        f"the errors are themselves uncertain by about {100 / (2 * (chunks - 1)) ** 0.5:.0f} %" if chunks > 1 else ""
    )
    windows = f"{chunks} window{'s' * (chunks > 1)} of {on['context']} tokens"
    advice = f"Give --chunks {ENOUGH_CHUNKS} or more"
    if asked is None or asked > chunks:
        advice = f"The text has no more: give a longer one with --text, for {ENOUGH_CHUNKS} or more"
    return [f"Measured on {windows}: {known or 'no error can be given'}. {advice}."]
