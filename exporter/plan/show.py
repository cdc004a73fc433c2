"""A plan for people and for programs."""

from dataclasses import asdict
from typing import Any

from exporter.plan.values import Plan
from exporter.report.numbers import bits, size


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
        "special_tokens": dict(plan.tokenizer.sources),
        "warnings": list(plan.warnings),
    }


def render(plan: Plan) -> str:
    """A plan as text: a line for each file, each tensor and each warning."""
    lines = [f"{plan.name}: {plan.arch}, {plan.parameters:,} parameters, {len(plan.jobs)} tensors", ""]
    for k, output in enumerate(plan.outputs):
        kinds = ", ".join(f"{kind} {100 * count / plan.parameters:.1f} %" for kind, count in plan.types(k).items())
        lines.append(f"{output.file}  {size(output.bytes)}  {bits(plan.bits_per_weight(k))} bits a weight: {kinds}")
        lines += _fallbacks(plan, k)
    width = max(len(job.tensor) for job in plan.jobs)
    lines += ["", f"{'tensor':<{width}}  {'  '.join(f'{output.level:>7}' for output in plan.outputs)}  shape, source"]
    for job in plan.jobs:
        shape = " x ".join(str(side) for side in job.shape)
        source = job.sources[0] if job.sources else "computed from config.json"
        more = f" … {len(job.sources)} experts" if len(job.sources) > 1 else ""
        lines.append(f"{job.tensor:<{width}}  {'  '.join(f'{kind:>7}' for kind in job.types)}  {shape}, {source}{more}")
    lines += [f"left out: {part}" for part in plan.left_out]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in plan.warnings)])


def _fallbacks(plan: Plan, k: int) -> list[str]:
    """A line for each kind of substitution in one file."""
    groups: dict[tuple[str, str, str], int] = {}
    for one in plan.fallbacks(k):
        groups[one.wanted, one.got, one.why] = groups.get((one.wanted, one.got, one.why), 0) + 1
    return [
        f"  {count} tensors become {got} instead of {wanted}: {why}" for (wanted, got, why), count in groups.items()
    ]
