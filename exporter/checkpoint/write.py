"""Tensors become bytes: a slice of rows is read, merged, rounded and written; no more than a slice is ever held.

Of a tensor that lies turned over, one matrix is held, in the type that it is written in.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING

from exporter.checkpoint.plan import Part, Shard, Tensor
from exporter.errors import OutputError, WeightError

if TYPE_CHECKING:
    import torch

SLICE = 1 << 21
"""Numbers in a slice, about: 8 MiB in float32."""
FEWEST_ROWS = 64
"""Fewer rows are summed in another order by the matrix product of a merge."""
TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Reading:
    """Where rows come from: finished ones of a weight by our name, and stored ones of a tensor that is copied."""

    finished: Callable[[str, int, int], "torch.Tensor"]
    stored: Callable[[str, int, int], "torch.Tensor"]


def write_shards(
    shards: Sequence[Shard], files: Sequence[Path], reading: Reading, progress: Callable[[int, int], None]
) -> None:
    """Write every file, one after another, and have them reach the disk.

    Args:
        shards: what to write.
        files: where, one for each shard; replaced where they exist.
        reading: where rows come from.
        progress: called with the bytes written, and all of them.

    Raises:
        WeightError: a weight that is not finite, or too large for the type.
        OutputError: a file that cannot be written.
    """
    total = sum(shard.bytes for shard in shards)
    done = 0
    for shard, file in zip(shards, files, strict=True):
        every = (_as_bytes(piece) for tensor in shard.tensors for piece in pieces(tensor, reading))
        for written in _written(file, shard.bytes, chain([memoryview(shard.header())], every)):
            done += written
            progress(done, total)


def write_text(file: Path, content: bytes) -> None:
    """Write a small file, and have it reach the disk. OutputError where that fails."""
    for _ in _written(file, len(content), [memoryview(content)]):
        pass


def _written(file: Path, size: int, blocks: Iterable[memoryview]) -> Iterator[int]:
    """Write a file of that size, a block at a time; the size of each as it is written."""
    try:
        with _begun(file, size) as stream:
            yield from map(stream.write, blocks)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error}. Free some space, or give another --out.") from error


def _begun(file: Path, size: int) -> IO[bytes]:
    """A new file, its space reserved so that a full disk shows at once. A link of this name is never followed."""
    file.unlink(missing_ok=True)
    stream = file.open("xb")
    try:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
    except OSError:
        stream.close()
        raise
    return stream


def pieces(tensor: Tensor, reading: Reading) -> Iterator["torch.Tensor"]:
    """A tensor's rows in order, in its own type, a slice at a time. WeightError for one that cannot be held."""
    if not tensor.parts:
        yield from (rounded(reading.stored(tensor.name, *one), tensor) for one in _whole_slices(tensor.shape))
    if tensor.whole:
        yield from _matrices(tensor, reading)
        return
    for part in tensor.parts:
        for _, rows in _rows(part, tensor, reading):
            yield rows


def _rows(part: Part, tensor: Tensor, reading: Reading) -> Iterator[tuple[int, "torch.Tensor"]]:
    """A weight's rows, rounded, a slice at a time, each with the number of its first."""
    columns = prod(tensor.shape) // max(sum(one.rows for one in tensor.parts), 1)
    for start, stop in slices(part.rows, columns):
        rows = reading.finished(part.weight, start, stop)
        _check(part, rows, tensor.dtype)
        yield start, rounded(rows, tensor)


def _matrices(tensor: Tensor, reading: Reading) -> Iterator["torch.Tensor"]:
    """The matrices of a tensor whose parts' rows do not lie in order, one after another: one is held, in its type."""
    import torch  # noqa: PLC0415

    size = tensor.shape[-1 if tensor.turned else -2]
    for _, parts in groupby(tensor.parts, key=lambda part: part.first_row // size):
        matrix = torch.empty(tensor.shape[-2:], dtype=getattr(torch, TORCH[tensor.dtype]))
        rows = matrix.T if tensor.turned else matrix
        for part in parts:
            own = rows[part.first_row % size :: part.step][: part.rows]
            for start, values in _rows(part, tensor, reading):
                own[start : start + len(values)] = values
        yield matrix


def slices(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """First and last row (not included) of each slice: a vector whole, at least ``FEWEST_ROWS`` rows of a matrix.

    A rest that is too short for a product of its own goes with the slice before it.
    """
    step = rows if columns == 1 else max(SLICE // columns // FEWEST_ROWS, 1) * FEWEST_ROWS
    start = 0
    while start < rows:
        stop = rows if rows - start < step + FEWEST_ROWS else start + step
        yield start, stop
        start = stop


def _whole_slices(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The slices, along the first axis, of a tensor of any number of axes; a number alone has none."""
    return slices(shape[0], max(prod(shape[1:]), 2)) if shape else iter([(0, 1)])


def rounded(rows: "torch.Tensor", tensor: Tensor) -> "torch.Tensor":
    """Rows in a tensor's type, to the nearest, ties to even; rows that have it already as they are."""
    import torch  # noqa: PLC0415  (slow to import)

    return rows.to(getattr(torch, TORCH[tensor.dtype])) if tensor.dtype in TORCH else rows


def _check(part: Part, rows: "torch.Tensor", dtype: str) -> None:
    """WeightError for numbers that are not finite, or too large for the type."""
    import torch  # noqa: PLC0415

    low, high = (float(value) for value in rows.aminmax())
    most = torch.finfo(getattr(torch, TORCH[dtype])).max
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise WeightError(
            f"{part.weight}: holds NaN or infinity. The training diverged, or the file is damaged; nothing is written."
        )
    if max(abs(low), abs(high)) > most:
        raise WeightError(
            f"{part.weight}: holds {max(abs(low), abs(high)):g}, and {dtype} ends at {most:g}. Merge with --dtype "
            "bf16, or f32."
        )


def _as_bytes(rows: "torch.Tensor") -> memoryview:
    """The bytes of a tensor, little-endian as torch holds them."""
    import torch  # noqa: PLC0415

    return memoryview(rows.contiguous().reshape(-1).view(torch.uint8).numpy().data)
