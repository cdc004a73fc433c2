"""A plan for people and for programs."""

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from exporter.plan.values import Job, Plan, ProjectorPlan
from exporter.report.numbers import bits, size
from exporter.text import printable

if TYPE_CHECKING:
    from exporter.run import Run


def as_document(plan: Plan) -> dict[str, Any]:
    """A plan as a JSON document: files, tensors with the type they get in each, fallbacks, warnings."""
    return {
        "name": plan.name,
        "arch": plan.arch,
        "parameters": plan.parameters,
        "left_out": list(plan.left_out),
        "files": [
            {
                "quant": output.level,
                "file": output.file,
                "bytes": output.bytes,
                "bpw": plan.bits_per_weight(k),
                "types": plan.types(k),
                "fallbacks": [asdict(fallback) for fallback in plan.fallbacks(k)],
            }
            for k, output in enumerate(plan.outputs)
        ],
        "tensors": [
            {
                "tensor": job.tensor,
                "shape": list(job.shape),
                "sources": list(job.sources),
                "types": {output.level: kind for output, kind in zip(plan.outputs, job.types, strict=True)},
            }
            for job in plan.jobs
        ],
        "projector": plan.projector and _projector(plan.projector),
        "tokenizer": plan.tokenizer.facts,
        "notes": list(plan.notes),
        "warnings": list(plan.warnings),
    }


def _projector(plan: ProjectorPlan) -> dict[str, Any]:
    """The projector's file, as the text model's are shown."""
    output = plan.output
    return {
        "quant": output.level,
        "file": output.file,
        "bytes": output.bytes,
        "types": plan.types,
        "fallbacks": [asdict(fallback) for fallback in plan.fallbacks],
        "tensors": [
            {
                "tensor": job.tensor,
                "shape": list(job.axes or job.shape),
                "sources": list(job.sources),
                "type": job.types[0],
            }
            for job in plan.jobs
        ],
    }


def render(run: "Run", plan: Plan) -> str:
    """A plan as text: what it is of, a line for each file, tensor (one for all layers treated alike), and warning."""
    lines = [f"{plan.name}: {plan.arch}, {plan.parameters:,} parameters, {len(plan.jobs)} tensors", *_of(run, plan), ""]
    for k, output in enumerate(plan.outputs):
        kinds = ", ".join(f"{kind} {100 * count / plan.parameters:.1f} %" for kind, count in plan.types(k).items())
        lines.append(f"{output.file}  {size(output.bytes)}  {bits(plan.bits_per_weight(k))} bits a weight: {kinds}")
        lines += _fallbacks(plan, k)
    if plan.projector:
        output, count = plan.projector.output, len(plan.projector.jobs)
        kinds = ", ".join(plan.projector.types)
        lines.append(f"{output.file}  {size(output.bytes)}  the projector's {count} tensors: {kinds}")
    rows = _rows(plan)
    width = max(len(name) for name, _, _ in rows)
    lines += ["", f"{'tensor':<{width}}  {'  '.join(f'{output.level:>7}' for output in plan.outputs)}  shape, source"]
    for name, job, source in rows:
        shape = " x ".join(str(side) for side in job.shape)
        lines.append(f"{name:<{width}}  {'  '.join(f'{kind:>7}' for kind in job.types)}  {shape}, {source}")
    lines += [f"left out: {part}" for part in plan.left_out]
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(map(printable, [*lines, *(f"warning: {warning}" for warning in plan.warnings)]))


def _of(run: "Run", plan: Plan) -> list[str]:
    """What is merged, and which tokenizer and template go into the files."""
    facts = plan.tokenizer.facts
    cut = f", pre-tokenizer {facts['pre']}" if facts["model"] == "gpt2" else ""
    template = facts["chat_template"] or "none"
    return [
        f"base: {run.base_name}",
        *(f"adapter: {adapter.folder} x {adapter.weight:g}" for adapter in run.adapters),
        f"tokenizer: {facts['model']} as GGUF names it{cut}; chat template: {template}",
    ]


def _rows(plan: Plan) -> list[tuple[str, Job, str]]:
    """A row for each tensor, or for all layers of it that are alike: its name, one of its jobs, what it is made of."""
    groups: dict[tuple[str, str, tuple[int, ...], tuple[str, ...]], list[tuple[int, Job]]] = {}
    for job in plan.jobs:
        layer = re.match(r"blk\.(\d+)\.", job.tensor)
        number = layer[1] if layer else ""
        stem, source = job.tensor.removeprefix(f"blk.{number}."), _source(job).replace(f".{number}.", ".{i}.")
        groups.setdefault((stem, source, job.shape, job.types), []).append((int(number or 0), job))
    rows: list[tuple[str, Job, str]] = []
    for (stem, source, _, _), members in groups.items():
        job = members[0][1]
        many = len(members) > 1
        name = f"blk.{{{_ranges([layer for layer, _ in members])}}}.{stem}" if many else job.tensor
        rows.append((name, job, source if many else _source(job)))
    return rows


def _source(job: Job) -> str:
    """What a tensor is made of: one of our names, the first expert's where there are several."""
    more = f" … {len(job.sources)} experts" if len(job.sources) > 1 else ""
    return job.sources[0] + more if job.sources else "computed from config.json"


def _ranges(numbers: list[int]) -> str:
    """Rising numbers as ranges: 0-3,5."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in zip(starts, ends, strict=True))


def _fallbacks(plan: Plan, k: int) -> list[str]:
    """A line for each kind of substitution in one file."""
    groups: dict[tuple[str, str, str], int] = {}
    for one in plan.fallbacks(k):
        groups[one.wanted, one.got, one.why] = groups.get((one.wanted, one.got, one.why), 0) + 1
    return [f"  {count} x {got} instead of {wanted}: {why}" for (wanted, got, why), count in groups.items()]
