"""The finished numbers of a job, a slice of rows at a time: read, merged, and in the tensor's own order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm, prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.plan import Job, Steps

SLICE = 1 << 21
"""Numbers in a slice, about: 8 MiB in float32, so that each thread needs some 40 MiB whatever the model."""
FEWEST_ROWS = 64
"""Fewer rows are summed in another order by the matrix product of a merge."""


@dataclass(frozen=True)
class Slice:
    """Rows ``start`` to ``stop`` of one source of a job."""

    job: "Job"
    part: int
    start: int
    stop: int

    @property
    def before(self) -> int:
        """How many rows of the tensor come before."""
        if len(self.job.shape) == 1:
            return 0
        return self.start + self.part * (prod(self.job.shape[:-1]) // max(len(self.job.sources), 1))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work in one thread for a while: slices are the parallel work, and their sums stay in one order."""
    import torch  # noqa: PLC0415  (slow to import)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def slices(jobs: Sequence["Job"]) -> Iterator[Slice]:
    """Every job in slices of rows: whole heads, at least ``FEWEST_ROWS`` rows, of about ``SLICE`` numbers."""
    for job in jobs:
        if len(job.shape) == 1:
            yield Slice(job, 0, 0, job.shape[0])
            continue
        if job.steps.transposed:
            height = job.shape[-2]
            yield from (Slice(job, 0, k * height, (k + 1) * height) for k in range(prod(job.shape[:-2])))
            continue
        parts = max(len(job.sources), 1)
        rows, columns = prod(job.shape[:-1]) // parts, job.shape[-1]
        unit = lcm(FEWEST_ROWS, rows // job.steps.heads if job.steps.heads else 1)
        step = max(SLICE // columns // unit, 1) * unit
        for part in range(parts):
            start = 0
            while start < rows:
                # A rest that is too short for a product of its own goes with the slice before it.
                stop = rows if rows - start < step + FEWEST_ROWS else start + step
                yield Slice(job, part, start, stop)
                start = stop


def finished(piece: Slice, source: "Merged") -> NDArray[np.float32]:
    """The finished numbers of a slice, (rows, columns), contiguous; a vector is one row."""
    job = piece.job
    if not job.sources:
        return np.array([job.values], dtype=np.float32)
    steps, name = job.steps, job.sources[piece.part]
    start, stop = piece.start, piece.stop
    if steps.transposed:  # a matrix's own rows are the tensor's columns
        matrix = start // job.shape[-2]
        start, stop = matrix * job.shape[-1], (matrix + 1) * job.shape[-1]
    if steps.vectors:
        start, stop = 0, job.shape[-1]
    numbers = taken(lambda first, last: source.read(name, first, last).numpy(), steps, start, stop)
    if len(job.shape) > 1 or numbers.ndim > 1:
        numbers = numbers.reshape(1 if steps.vectors else numbers.shape[0], -1)
    if steps.columns:
        numbers = numbers[:, np.concatenate([np.arange(*span) for span in steps.columns])]
    if steps.heads:
        rows = prod(job.shape[:-1]) // len(job.sources) if len(job.shape) > 1 else job.shape[0]
        numbers = halves_to_pairs(numbers, rows // steps.heads)
    numbers = _computed(numbers, steps)
    if steps.unit:  # no shorter than torch's normalize takes it
        numbers = numbers / np.maximum(np.linalg.norm(numbers, axis=1, keepdims=True), np.float32(1e-12))
    if steps.transposed:
        numbers = numbers.T
    return np.ascontiguousarray(numbers.reshape(1, -1) if len(job.shape) == 1 else numbers)


def _computed(numbers: NDArray[np.float32], steps: "Steps") -> NDArray[np.float32]:
    """What a tensor holds of each number; the exponential as torch rounds it, with which models compute it, too."""
    import torch  # noqa: PLC0415

    if steps.minus_exp:
        numbers = -torch.from_numpy(numbers).exp().numpy()
    return numbers + np.float32(steps.add) if steps.add else numbers


def taken(
    read: Callable[[int, int], NDArray[np.float32]], steps: "Steps", start: int, stop: int
) -> NDArray[np.float32]:
    """Numbers ``start`` to ``stop`` of the rows that a tensor takes of its source, in the tensor's order.

    Args:
        read: gives the source's rows from one to another.
        steps: which rows are taken.
        start: the first.
        stop: the one behind the last.
    """
    if not steps.rows:
        return read(start, stop)
    found, before = [], 0
    for span in steps.rows:
        wanted = range(*span)[max(start - before, 0) : max(stop - before, 0)]
        before += len(range(*span))
        if wanted:
            last = max(wanted.stop - wanted.step + 1, wanted.start + 1)
            # Fewer rows are read together with others, which are dropped: they would be summed in another order.
            end = min(max(last, wanted.start + FEWEST_ROWS), steps.height)
            first = max(min(wanted.start, end - FEWEST_ROWS), 0)
            found.append(read(first, end)[wanted.start - first : last - first : wanted.step])
    return found[0] if len(found) == 1 else np.concatenate(found)


def halves_to_pairs(rows: NDArray[np.float32], head: int) -> NDArray[np.float32]:
    """Rows of whole heads in llama.cpp's order: of each head's halves, one row from the first, one from the second.

    Args:
        rows: (n * head, …).
        head: rows of a head.
    """
    split = rows.reshape(-1, 2, head // 2, *rows.shape[1:])
    return np.swapaxes(split, 1, 2).reshape(rows.shape)
