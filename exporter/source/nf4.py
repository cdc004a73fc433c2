"""A base as QLoRA's training saw it: linear weights rounded to 4 bits and back (bitsandbytes), by rows, in float32.

What is done is what the portable kernels of bitsandbytes 0.50 do, bit for bit: every number goes to the nearest value
of a table, scaled by its block. (Its C kernel for the CPU finds the scales' values by a coarser search: one in about
600 is the neighbour there.)
"""

import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from exporter.source.quantized.bitsandbytes import TABLES

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from exporter.run.values import FourBit
    from exporter.source.checkpoint import Checkpoint

BLOCK, NESTED_BLOCK = 64, 256
"""Numbers that share a scale, and scales that share one where they are quantized too (QLoRA, arXiv:2305.14314, 3)."""
SMALLEST = 1e-38
"""In place of a block's largest number where that is zero."""
CELLS = 512
"""In a unit: a power of two, so that only adding one rounds; the middles of FP4, and of NF4, lie further apart."""
SLICE = 1 << 19
"""Numbers that are read at once where a whole weight is."""
PIECE = 1 << 11
"""Blocks that are rounded at once: half a megabyte in float32, which stays in a core's cache."""
KEPT = 1 << 25
"""Bytes of quantized scales that are kept: those of some two thousand million numbers."""


@dataclass(frozen=True)
class Table:
    """The values of a type of few bits, float32, rising from about -1 to 1, and the middles between neighbours.

    Of a type whose middles lie apart, also for each cell of [-1, 1] how many lie below it, and the next one: in a cell
    is one at most, and finding a number's cell is many times faster than a search.
    """

    values: "torch.Tensor"
    middles: "torch.Tensor"
    below: "torch.Tensor | None" = None
    next: "torch.Tensor | None" = None

    def nearest(self, numbers: "torch.Tensor") -> "torch.Tensor":
        """The place of the nearest value for each number of [-1, 1], int32; of the lower one where it is midway."""
        import torch  # noqa: PLC0415  (slow to import)

        if self.below is None or self.next is None:
            return torch.bucketize(numbers, self.middles, out_int32=True)
        cells = numbers.add(1).mul_(CELLS).to(torch.int32).clamp_(0, 2 * CELLS)  # NaN has a cell too
        return self.below.index_select(0, cells).add_(numbers > self.next.index_select(0, cells))


@dataclass(frozen=True)
class Scales:
    """A weight's scales as they are stored: less their mean, each an entry of a table times its block's scale."""

    codes: "torch.Tensor"
    maxima: "torch.Tensor"
    mean: "torch.Tensor"

    def of(self, blocks: range) -> "torch.Tensor":
        """The scales of some blocks, float32."""
        import torch  # noqa: PLC0415  (slow to import)

        which = torch.arange(blocks.start, blocks.stop) // NESTED_BLOCK
        codes = self.codes[blocks.start : blocks.stop].to(torch.int32)
        return dynamic().values[codes] * self.maxima[which] + self.mean


class RoundTrip:
    """A checkpoint in which some weights are quantized and dequantized again; every other one is as it is stored."""

    def __init__(self, base: "Checkpoint", quantized: Collection[str], settings: "FourBit") -> None:
        self._base = base
        self._settings = settings
        self._shapes = base.shapes()
        self._scales: OrderedDict[str, Scales] = OrderedDict()
        self._lock = threading.Lock()
        self.quantized = frozenset(quantized)
        self.left_out = base.left_out

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Each weight's shape, by our name."""
        return self._base.shapes()

    def dtypes(self) -> set[str]:
        """The types the weights are stored in, before they are quantized."""
        return self._base.dtypes()

    def files(self) -> list["Path"]:
        """The base's files."""
        return self._base.files()

    def read(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Rows (elements of a vector) from ``start`` to ``stop`` in float32; not to be written to.

        Blocks run through the rows of a weight, so up to a block's numbers on either side are read too.
        """
        if name not in self.quantized or stop <= start:
            return self._base.read(name, start, stop)
        rows, columns = self._shapes[name]
        first, last = start * columns, min(stop, rows) * columns
        blocks = range(first // BLOCK, -(-last // BLOCK))
        begin = blocks.start * BLOCK // columns
        end = min(-(-blocks.stop * BLOCK // columns), rows)
        before = begin * columns
        values = self._base.read(name, begin, end).reshape(-1)
        values = values[blocks.start * BLOCK - before : blocks.stop * BLOCK - before]
        scales = self._nested(name).of(blocks) if self._settings.nested else None
        made = rounded(values, table_of(self._settings.kind), scales)
        return made[first - blocks.start * BLOCK : last - blocks.start * BLOCK].view(-1, columns)

    def _nested(self, name: str) -> Scales:
        """A weight's quantized scales: they need the mean of all, so the weight is read once, a slice at a time."""
        with self._lock:
            if name not in self._scales:
                self._scales[name] = _nested(self._maxima(name))
                while len(self._scales) > 1 and sum(one.codes.nbytes for one in self._scales.values()) > KEPT:
                    self._scales.popitem(last=False)
            self._scales.move_to_end(name)
            return self._scales[name]

    def _maxima(self, name: str) -> "torch.Tensor":
        """The largest absolute number of each block of a weight."""
        import torch  # noqa: PLC0415

        rows, columns = self._shapes[name]
        step = max(SLICE // columns // BLOCK, 1) * BLOCK  # whole blocks
        maxima = torch.empty(-(-rows * columns // BLOCK))
        for start in range(0, rows, step):
            part = _largest(self._base.read(name, start, min(start + step, rows)).reshape(-1), BLOCK)
            first = start * columns // BLOCK
            maxima[first : first + len(part)] = part
        return maxima


def rounded(values: "torch.Tensor", table: Table, scales: "torch.Tensor | None") -> "torch.Tensor":
    """Numbers quantized and dequantized, with their blocks' own scales where none are given.

    Args:
        values: (n,), float32, from the beginning of a block on; the last block may be short.
        table: the values of the type.
        scales: one for each block, or None.

    Returns:
        (n,), float32; besides it, some megabytes are used, however long it is.
    """
    import torch  # noqa: PLC0415  (slow to import)

    made = torch.zeros(-(-len(values) // BLOCK), BLOCK)
    for first in range(0, len(made), PIECE):
        codes, maxima = quantized(values[first * BLOCK : (first + PIECE) * BLOCK], table, BLOCK)
        piece = made[first : first + PIECE]
        torch.index_select(table.values, 0, codes, out=piece.view(-1)[: len(codes)])
        piece.mul_((maxima if scales is None else scales[first : first + PIECE])[:, None])
    return made.view(-1)[: len(values)]


def quantized(values: "torch.Tensor", table: Table, block: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    """The place in a table of each number over its block's largest one, and these largest ones.

    Args:
        values: (n,), float32, from the beginning of a block on; the last block may be short.
        table: the values of the type.
        block: how many numbers share a scale.

    Returns:
        (n,), int32, and (n / block, rounded up), float32.
    """
    import torch  # noqa: PLC0415  (slow to import)

    maxima = _largest(values, block)
    short = len(values) % block
    whole = values[: len(values) - short].view(-1, block)
    scaled = (whole * (1.0 / maxima[: len(whole)].clamp(min=SMALLEST))[:, None]).view(-1)
    if short:  # divided, where whole blocks are multiplied by the reciprocal
        scaled = torch.cat((scaled, values[-short:] / maxima[-1]))
    return table.nearest(scaled.clamp_(-1, 1)), maxima


def _largest(values: "torch.Tensor", block: int) -> "torch.Tensor":
    """The largest absolute number of each block; of a short one at least ``SMALLEST``."""
    import torch  # noqa: PLC0415

    short = len(values) % block
    largest: torch.Tensor = values[: len(values) - short].view(-1, block).abs().amax(1)
    return torch.cat((largest, values[-short:].abs().max().clamp(min=SMALLEST)[None])) if short else largest


def _nested(maxima: "torch.Tensor") -> Scales:
    """Scales as nested statistics: less their mean, to 8 bits."""
    import torch  # noqa: PLC0415

    # bitsandbytes' own mean in float32; of two equal rows, since torch splits one long row among its threads, and a sum
    # in another order may round otherwise.
    mean = maxima.expand(2, -1).mean(1)[0]
    codes = torch.empty(len(maxima), dtype=torch.uint8)
    largest = torch.empty(-(-len(maxima) // NESTED_BLOCK))
    for first in range(0, len(largest), PIECE):
        some = slice(first * NESTED_BLOCK, (first + PIECE) * NESTED_BLOCK)
        codes[some], largest[first : first + PIECE] = quantized(maxima[some] - mean, dynamic(), NESTED_BLOCK)
    return Scales(codes, largest, mean)


@cache
def table_of(kind: str) -> Table:
    """The values of 4 bits, rising; which bits stand for which does not matter here."""
    import torch  # noqa: PLC0415

    values = torch.tensor(sorted(TABLES[kind]))
    middles = (values[:-1] + values[1:]) / 2
    edges = torch.arange(2 * CELLS + 1) / CELLS - 1
    below = torch.bucketize(edges, middles, out_int32=True)
    return Table(values, middles, below, torch.cat((middles, torch.tensor([torch.inf])))[below])


@cache
def dynamic() -> Table:
    """The 256 values of the signed dynamic 8-bit type (arXiv:1511.04561; arXiv:2110.02861, 2.2).

    0, 1, and for each power 10^-6 to 10^0, of either sign, the middles of 2^0 to 2^6 equal parts of [0.1, 1] times it.
    """
    import torch  # noqa: PLC0415

    listed = [0.0, 1.0]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)
        parts = (edges[:-1] + edges[1:]) / 2
        listed += [value for sign in (1, -1) for value in (sign * 10 ** (power - 6) * parts).tolist()]
    values = torch.tensor(sorted(listed))
    return Table(values, (values[:-1] + values[1:]) / 2)
