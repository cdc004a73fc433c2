"""A merged checkpoint is opened again before it gets its name: as planned, and with the rows that were meant."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from converters.spec import HEAD
from exporter.checkpoint.plan import Part, Tensor
from exporter.checkpoint.write import rounded, slices
from exporter.errors import ProofError
from exporter.merge.coverage import kind_of
from exporter.run import open_run
from exporter.source import open_source
from exporter.source.files import open_model

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.run import Run


def prove(folder: Path, tensors: Sequence[Tensor], run: "Run", source: "Merged") -> int:
    """Open a merged checkpoint as a run, and compare a sample of its rows; of how many weights.

    The sample is the first and the last weight of each kind, and of each kind the first that training changed; of each
    its first slice and its last.

    ProofError where a tensor is not as planned, or rows are not the finished ones, rounded.
    """
    found = {name: (stored.shape, stored.dtype) for name, stored in open_model(folder).tensors.items()}
    planned = {tensor.name: (tensor.shape, tensor.dtype) for tensor in tensors}
    wrong = next((name for name in {**planned, **found} if planned.get(name) != found.get(name)), None)
    if wrong is not None:
        raise ProofError(f"{wrong}: the file has it as {found.get(wrong)}, planned was {planned.get(wrong)}.")
    opened = open_source(replace(open_run(folder), tower=run.tower))
    # Rounded, an untied head may be the embedding again: it is stored all the same.
    shapes = opened.shapes() | ({HEAD: source.shapes()[HEAD]} if HEAD in source.shapes() else {})
    if shapes != source.shapes():
        odd = min(set(shapes.items()) ^ set(source.shapes().items()))
        raise ProofError(f"{odd[0]}: the merged folder, opened again, has other weights than were written.")
    sample = _sample(tensors, source)
    for tensor, part in sample:
        _compare(tensor, part, source, opened)
    return len(sample)


def _sample(tensors: Sequence[Tensor], source: "Merged") -> list[tuple[Tensor, Part]]:
    """The weights that are compared, each with the tensor it lies in."""
    chosen: dict[tuple[str, str], tuple[Tensor, Part]] = {}
    for tensor in tensors:
        for part in tensor.parts:
            kind = kind_of(part.weight)
            chosen.setdefault((kind, "first"), (tensor, part))
            chosen[kind, "last"] = (tensor, part)
            if part.weight in source.changes.by_weight:
                chosen.setdefault((kind, "changed"), (tensor, part))
    return list({part.weight: (tensor, part) for tensor, part in chosen.values()}.values())


def _compare(tensor: Tensor, part: Part, source: "Merged", opened: "Merged") -> None:
    """ProofError where a weight's first or last slice differs."""
    every = list(slices(part.rows, tensor.shape[-1] if len(tensor.shape) > 1 else 1))
    for start, stop in dict.fromkeys((every[0], every[-1])):
        expected = rounded(source.read(part.weight, start, stop), tensor).float()
        if not opened.read(part.weight, start, stop).equal(expected):
            raise ProofError(
                f"{part.weight}: rows {start} to {stop} of the merged checkpoint are not the finished ones, rounded to "
                f"{tensor.dtype}. The disk or memory may be at fault: merge again, or to another --out."
            )
