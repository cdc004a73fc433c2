"""A projector's file: the vision tower and what leads to the text model, of their own table, by the same steps."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD, Family, Generated, Projector, Row
from exporter.errors import PlanError
from exporter.header import header
from exporter.plan.jobs import placed, size
from exporter.plan.metadata import Identity, general, of_model
from exporter.plan.tensors import Shapes, Tensor, lay_out
from exporter.plan.values import Output, ProjectorPlan, padded
from exporter.profiles import Choice, load_profile

if TYPE_CHECKING:
    from exporter.run import Run

TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
BLOCK = 32
KERNELS = (".patch_embd.weight", ".patch_merger.weight")
"""Of these llama.cpp's converter makes F16 or F32 alone; it looks for them anywhere in a name."""
TABLES = ("v.position_embd.weight",)


def of_text(run: "Run", shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The weights of the text model: all but the projector's."""
    if run.tower is None:
        return dict(shapes)
    apart = of_projector(run.tower.table, shapes)
    return {name: shape for name, shape in shapes.items() if name not in apart or name in (EMBEDDING, HEAD)}


def of_projector(table: Family, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The weights that a projector's rows are made of, whatever the layer."""
    rows = [row for row in table.tensors.values() if not isinstance(row, Generated)]
    sources = {row.source if isinstance(row, Row) else row for row in rows}
    patterns = [re.compile(re.escape(source).replace(r"\{i\}", r"\d+")) for source in sources]
    return {name: shape for name, shape in shapes.items() if any(one.fullmatch(name) for one in patterns)}


def plan_projector(run: "Run", identity: Identity, shapes: Shapes) -> ProjectorPlan:
    """Every decision about the projector's file. PlanError where weights and config.json do not fit together."""
    tower, vision = run.tower, run.vision
    if tower is None or vision is None:
        raise PlanError(f"{run.path}: no projector was asked for.")
    table, config = tower.table, vision.config
    tensors, zeros = lay_out(table, config, of_projector(table, shapes))
    choices = {tensor.name: _choice(tensor, vision.level, tower) for tensor in tensors}
    jobs = placed(tensors, [choices])
    metadata = {key: value for key, value in general(identity, run).items() if not key.startswith("general.sampling.")}
    metadata |= {"general.architecture": table.arch, "general.type": "mmproj"} | of_model(table, config)
    metadata |= {"general.file_type": load_profile(vision.level).file_type_id}
    del metadata["general.size_label"]
    sizes = [size(job, job.types[0]) for job in jobs]
    output = Output(
        level=vision.level,
        file=identity.projector(vision.level),
        metadata=metadata,
        choices=choices,
        data_bytes=sum(padded(one) for one in sizes),
        header_bytes=len(header(metadata, [(job.tensor, job.axes or job.shape, job.types[0]) for job in jobs])),
        tensor_bytes=sum(sizes),
    )
    return ProjectorPlan(jobs, output, vision.warnings, zeros)


def _choice(tensor: Tensor, level: str, projector: Projector) -> Choice:
    """A tensor's type, by the rules of llama.cpp's converter (``prepare_tensors`` of its models)."""
    kind = _type(tensor, level, projector.types)
    if kind == "Q8_0" and tensor.shape[-1] % BLOCK:
        return Choice("F16", kind, f"row of {tensor.shape[-1]}")
    return Choice(kind, kind, None)


def _type(tensor: Tensor, level: str, fixed: Mapping[str, str]) -> str:
    name, axes = tensor.name, tensor.axes or tensor.shape
    if len(axes) == 1 or name.endswith("_norm.weight"):
        return "F32"
    if name in fixed:
        return fixed[name]
    if any(kernel in name for kernel in KERNELS):
        return "F16" if level == "f16" else "F32"
    return "F32" if name in TABLES or not name.endswith(".weight") else TYPES[level]
