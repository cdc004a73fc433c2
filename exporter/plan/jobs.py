"""Tensors whose types are chosen become jobs, each with its place in every file."""

from typing import TYPE_CHECKING

from exporter.plan.values import Job, padded, row_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.plan.tensors import Tensor
    from exporter.profiles import Choice


def placed(tensors: "Sequence[Tensor]", choices: "Sequence[Mapping[str, Choice]]") -> tuple[Job, ...]:
    """The tensors with their types, one after another in each output, each padded."""
    ends = [0] * len(choices)
    jobs = []
    for tensor in tensors:
        types = tuple(chosen[tensor.name].type for chosen in choices)
        jobs.append(
            Job(
                tensor=tensor.name,
                shape=tensor.shape,
                sources=tensor.sources,
                types=types,
                offsets=tuple(ends),
                steps=tensor.steps,
                values=tensor.values,
                axes=tensor.axes,
            )
        )
        ends = [end + padded(size(jobs[-1], kind)) for end, kind in zip(ends, types, strict=True)]
    return tuple(jobs)


def size(job: Job, kind: str) -> int:
    """Bytes of a job's tensor in a type."""
    return job.weights // job.shape[-1] * row_bytes(kind, job.shape[-1])
