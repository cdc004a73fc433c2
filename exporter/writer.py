"""Jobs become bytes: a slice of rows is read and merged once, and quantized for every output."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from math import lcm, prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporter.errors import OutputError, WeightError
from exporter.header import header
from exporter.quantize import is_finite, quantize

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.plan import Job, Steps, Written

SLICE = 1 << 21
"""Numbers in a slice, about: 8 MiB in float32, so that each thread needs some 40 MiB whatever the model."""
FEWEST_ROWS = 64
"""Fewer rows are summed in another order by the matrix product of a merge."""
LARGEST_F16 = 65504.0


@dataclass(frozen=True)
class Slice:
    """Rows ``start`` to ``stop`` of one source of a job."""

    job: "Job"
    part: int
    start: int
    stop: int


def write(
    plan: "Written", source: "Merged", files: Sequence[Path], *, threads: int, progress: Callable[[int, int], None]
) -> None:
    """Write every output of a plan in one pass over the source.

    Args:
        plan: what to write.
        source: the finished weights.
        files: where, one for each output of the plan; replaced where they exist.
        threads: how many slices are worked on at once.
        progress: called with the numbers written and all numbers.

    Raises:
        WeightError: a weight that is not finite, or too large for f16.
        OutputError: a file that cannot be written.
    """
    import torch  # noqa: PLC0415  (slow to import)

    check_zeros(plan.zeros, source)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the slices are the parallel work; more threads inside each would only wait
    sinks: list[int] = []
    try:
        for k, (output, file) in enumerate(zip(plan.outputs, files, strict=True)):
            tensors = [(job.tensor, job.axes or job.shape, job.types[k]) for job in plan.jobs]
            sinks.append(_begin(file, header(output.metadata, tensors), output.bytes))
        starts = [output.header_bytes for output in plan.outputs]
        _run(plan, threads, progress, lambda piece: _do(piece, source, sinks, starts))
        for sink in sinks:
            os.fsync(sink)
    except OSError as error:
        raise OutputError(
            f"{files[0].parent}: cannot be written: {error}. Free some space, or give another --out."
        ) from error
    finally:
        torch.set_num_threads(before)
        for sink in sinks:
            os.close(sink)


def _begin(file: Path, head: bytes, size: int) -> int:
    """A new file of the final size with its header, its space reserved so that a full disk shows at once."""
    file.unlink(missing_ok=True)
    # O_EXCL: a link of this name is never followed to a file elsewhere.
    sink = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(sink, 0, size)
        else:
            os.ftruncate(sink, size)
        _put(sink, memoryview(head), 0)
    except OSError:
        os.close(sink)
        raise
    return sink


def _run(plan: "Written", threads: int, progress: Callable[[int, int], None], work: Callable[[Slice], int]) -> None:
    """Work on all slices, a few at a time; the first error ends it."""
    total = sum(job.weights for job in plan.jobs)
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            for numbers in _ahead(pool, 2 * threads, work, slices(plan.jobs)):
                done += numbers
                progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _ahead(pool: ThreadPoolExecutor, most: int, work: Callable[[Slice], int], pieces: Iterator[Slice]) -> Iterator[int]:
    """What the work on each piece gives, as it finishes; so many pieces are handed out at a time."""
    pending: set[Future[int]] = set()
    for piece in pieces:
        pending.add(pool.submit(work, piece))
        if len(pending) > most:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
    yield from (future.result() for future in as_completed(pending))


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


def _do(piece: Slice, source: "Merged", sinks: Sequence[int], starts: Sequence[int]) -> int:
    """Read, merge, quantize and write one slice; its numbers."""
    job = piece.job
    rows = _rows(piece, source)
    _check(job, rows)
    made: dict[str, NDArray[np.uint8]] = {}
    for k, kind in enumerate(job.types):
        if kind not in made:
            made[kind] = quantize(kind, rows)
            if not is_finite(kind, made[kind]):
                raise WeightError(
                    f"{job.tensor}: holds {np.abs(rows).max():g}, which {kind} cannot hold. The training diverged, the "
                    "file is damaged, or the level is too narrow for the model: export to bf16 or f32."
                )
        per_row = made[kind].nbytes // rows.shape[0]
        before = piece.start + piece.part * (prod(job.shape[:-1]) // max(len(job.sources), 1))
        _put(sinks[k], made[kind].data, starts[k] + job.offsets[k] + (before * per_row if len(job.shape) > 1 else 0))
    return rows.size


def _rows(piece: Slice, source: "Merged") -> NDArray[np.float32]:
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


def check_zeros(names: Sequence[str], source: "Merged") -> None:
    """WeightError for a weight that has no place in the file, and is not zeros alone."""
    shapes = source.shapes() if names else {}
    for name in names:
        for start in range(0, shapes[name][0], FEWEST_ROWS):
            if source.read(name, start, min(start + FEWEST_ROWS, shapes[name][0])).any():
                raise WeightError(
                    f"{name}: holds other numbers than 0, and llama.cpp's graph has no place for it. The finished file "
                    "would answer differently from the trained model, so it is not made."
                )


def _check(job: "Job", rows: NDArray[np.float32]) -> None:
    """WeightError for numbers that are not finite, or too large for an f16 output."""
    import torch  # noqa: PLC0415

    low, high = (float(value) for value in torch.from_numpy(rows).aminmax())
    largest = max(abs(low), abs(high))
    if not np.isfinite(largest):
        raise WeightError(
            f"{job.tensor}: holds NaN or infinity (from {job.sources[0]}). The training diverged, or the "
            "file is damaged; nothing is written."
        )
    if largest > LARGEST_F16 and "F16" in job.types:
        raise WeightError(
            f"{job.tensor}: holds {largest:g}, and f16 ends at {LARGEST_F16:g}. Export to bf16 or to a quantized level."
        )


def _put(sink: int, rest: memoryview, offset: int) -> None:
    """Write all bytes at a place of a file."""
    while rest.nbytes:
        written = os.pwrite(sink, rest, offset)
        rest, offset = rest[written:], offset + written
