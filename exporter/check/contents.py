"""The proofs of what a file holds: its fields and its weights are those that the run gives at the file's own types."""

from collections.abc import Iterator, Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporter.check.values import Check
from exporter.outputs import shards
from exporter.profiles.rules import TYPES
from exporter.quantize import quantize
from exporter.slices import finished, one_thread, slices

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor
    from typing_extensions import TypeIs

    from exporter.merge import Merged
    from exporter.plan import Job, Plan

FIELDS, WEIGHTS = "fields", "weights"
EXACT = {"F32", "F16", "BF16", "Q8_0", "MXFP4"}
"""Types that an importance matrix leaves as they are."""
IMATRIX = "quantize.imatrix.file"
COMPARED = ("general.architecture", "general.sampling.", "tokenizer.")
"""Fields that are compared beside the architecture's: all that decides what llama.cpp computes."""
CLOSE = 1e-6
"""Of a field's value: two programs may compute it in another order."""


def check_contents(file: Path, plan: "Plan", source: "Merged") -> list[Check]:
    """Compare a file's fields, and a part of each tensor, with what the run gives.

    Of each tensor, one slice of some two million numbers is read from the run, quantized to the file's type, and
    compared byte by byte: in turn the first, the second, … of its slices.

    Args:
        file: a GGUF file that llama.cpp loads, or the first of its shards.
        plan: of the run, at any level.
        source: the run's finished weights.
    """
    from gguf import GGUFReader  # noqa: PLC0415  (slow to import)

    parts = [GGUFReader(shard) for shard in shards(file)]
    with one_thread():  # as the writer merges
        return [_fields(parts[0], plan), _weights(parts, plan, source)]


def _fields(reader: "GGUFReader", plan: "Plan") -> Check:
    """Whether the keys about the architecture, the tokenizer and sampling are the plan's, with its values."""
    compared = (f"{plan.arch}.", *COMPARED)
    wanted = {key: value for key, value in plan.outputs[0].metadata.items() if key.startswith(compared)}
    found = {key: field.contents() for key, field in reader.fields.items() if key.startswith(compared)}
    unlike = [key for key in wanted | found if not _same(wanted.get(key), found.get(key))]
    if not unlike:
        return Check(FIELDS, "pass", f"{len(wanted)} fields about architecture, tokenizer and sampling are the run's")
    key = unlike[0]
    return Check(
        FIELDS, "fail", f"unlike the run's: {_difference(key, found.get(key), wanted.get(key))}{_more(unlike)}"
    )


def _same(one: object, other: object) -> bool:
    if _is_list(one) and _is_list(other):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=CLOSE)
    return one == other


def _is_list(value: object) -> "TypeIs[Sequence[object]]":
    return isinstance(value, Sequence) and not isinstance(value, str)


def _difference(key: str, found: object, wanted: object) -> str:
    """What a field holds in the file, and by the run; of lists of one length, the first place that differs."""
    if _is_list(found) and _is_list(wanted) and len(found) == len(wanted):
        place = next(k for k, pair in enumerate(zip(found, wanted, strict=True)) if not _same(*pair))
        return _difference(f"{key}[{place}]", found[place], wanted[place])
    shown = ["absent" if value is None else f"{value!r:.60}" for value in (found, wanted)]
    return f"{key} is {shown[0]} in the file, and {shown[1]} by the run"


def _more(names: Sequence[str]) -> str:
    return f"; and {len(names) - 1} more: {', '.join(names[1:4])}" if len(names) > 1 else ""


def _weights(parts: "Sequence[GGUFReader]", plan: "Plan", source: "Merged") -> Check:
    """Whether each tensor is there, in the run's shape, with the run's bytes in the slice that is compared."""
    there = {tensor.name: tensor for part in parts for tensor in part.tensors}
    jobs = {job.tensor: job for job in plan.jobs}
    missing, extra = sorted(jobs.keys() - there.keys()), sorted(there.keys() - jobs.keys())
    if missing or extra:
        names = f"without {missing[0]}" if missing else f"with {extra[0]}, of which the run knows nothing"
        return Check(WEIGHTS, "fail", f"{len(missing) + len(extra)} tensors too few or too many: the file is {names}")
    matrix = IMATRIX in parts[0].fields
    comparable = {
        name: job
        for name, job in jobs.items()
        if (kind := there[name].tensor_type.name) in TYPES and (kind in EXACT or not matrix)
    }
    unlike, numbers = [], 0
    for name, slice_numbers, why in _compared(comparable, there, source):
        numbers += slice_numbers
        unlike += [f"{name}: {why}"] if why else []
    total = sum(job.weights for job in plan.jobs)
    beside = f"{numbers:,} of {total:,} numbers in {len(comparable)} of {len(jobs)} tensors compared"
    if unlike:
        return Check(WEIGHTS, "fail", f"{len(unlike)} of {len(jobs)} tensors unlike the run's: {unlike[0]} ({beside})")
    if len(comparable) < len(jobs):
        why = "an importance matrix chose their values" if matrix else "their types are not made here"
        return Check(WEIGHTS, "skipped", f"{len(jobs) - len(comparable)} tensors: {why}; {beside}, and alike")
    return Check(WEIGHTS, "pass", f"the run's own bytes at the file's types: {beside}")


def _compared(
    jobs: "Mapping[str, Job]", there: "Mapping[str, ReaderTensor]", source: "Merged"
) -> Iterator[tuple[str, int, str]]:
    """Each tensor, how many of its numbers were compared, and in what it is unlike the run's; empty: in nothing."""
    for turn, (name, job) in enumerate(jobs.items()):
        tensor = there[name]
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if shape != (job.axes or job.shape):
            yield name, 0, f"has the shape {list(shape)}, the run's has {list(job.axes or job.shape)}"
            continue
        pieces = list(slices([job]))
        piece = pieces[turn % len(pieces)]
        rows = finished(piece, source)
        kind = tensor.tensor_type.name
        made = quantize(kind, rows)
        row = made.nbytes // rows.shape[0]
        found = np.asarray(tensor.data).reshape(-1).view(np.uint8)[piece.before * row :][: made.nbytes]
        yield name, rows.size, "" if np.array_equal(found, made) else _unlike(kind, rows, made, found)


def _unlike(kind: str, rows: NDArray[np.float32], made: NDArray[np.uint8], found: NDArray[np.uint8]) -> str:
    """How far a file's rows, and the run's own rounded to the same type, are from the run's numbers."""
    from gguf import GGMLQuantizationType  # noqa: PLC0415  (slow to import)
    from gguf.quants import dequantize  # noqa: PLC0415

    number, length = GGMLQuantizationType[kind], float(np.linalg.norm(rows)) or 1.0
    away: list[Any] = [
        float(np.linalg.norm(dequantize(data.reshape(len(rows), -1), number) - rows)) / length for data in (found, made)
    ]
    return (
        f"{away[0]:.2g} of its length from the run's numbers in {kind}, where rounding alone gives {away[1]:.2g}: "
        "other weights, or weights that were rounded before, as by a 16-bit copy of a merge"
    )
