"""Jobs become bytes: a slice of rows is read and merged once, and quantized for every output."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporter.errors import OutputError, WeightError
from exporter.header import header
from exporter.quantize import is_finite, quantize
from exporter.slices import FEWEST_ROWS, Slice, finished, one_thread, slices

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.plan import Job, Written

LARGEST_F16 = 65504.0


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
    check_zeros(plan.zeros, source)
    sinks: list[int] = []
    try:
        for k, (output, file) in enumerate(zip(plan.outputs, files, strict=True)):
            tensors = [(job.tensor, job.axes or job.shape, job.types[k]) for job in plan.jobs]
            sinks.append(_begin(file, header(output.metadata, tensors), output.bytes))
        starts = [output.header_bytes for output in plan.outputs]
        with one_thread():
            _run(plan, threads, progress, lambda piece: _do(piece, source, sinks, starts))
        for sink in sinks:
            os.fsync(sink)
    except OSError as error:
        raise OutputError(
            f"{files[0].parent}: cannot be written: {error}. Free some space, or give another --out."
        ) from error
    finally:
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


def _do(piece: Slice, source: "Merged", sinks: Sequence[int], starts: Sequence[int]) -> int:
    """Read, merge, quantize and write one slice; its numbers."""
    job = piece.job
    rows = finished(piece, source)
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
        _put(
            sinks[k], made[kind].data, starts[k] + job.offsets[k] + piece.before * (made[kind].nbytes // rows.shape[0])
        )
    return rows.size


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
