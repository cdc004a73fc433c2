"""Weights of one small float or whole number each, with a scale for each block of rows and columns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.source.files import Stored
from exporter.source.quantized.bits import spread
from exporter.source.quantized.values import Folder, Place, Take, refused

if TYPE_CHECKING:
    import torch

EXPONENT_BIAS = 127


@dataclass(frozen=True)
class Grid:
    """The scales (or zero points) of a weight: one for each block of so many rows and columns."""

    name: str
    stored: tuple[int, ...]
    block: tuple[int, int]
    columns: int
    exponents: bool = False
    """Stored as bytes that are exponents of two (``ue8m0``)."""


def lay_grid(folder: Folder, scales: Stored, shape: tuple[int, ...], block: Sequence[int] | None = None) -> Grid:
    """How scales lie over a weight. SourceError where their shape fits no reading.

    Args:
        folder: the folder, for messages.
        scales: the stored scales: one number; one for each row; for each expert; or a grid, (rows, columns) of blocks
            under the weight's leading axis.
        shape: the weight's own.
        block: a block's size, the last ones cut off at the edge; without it (or where the grid is another one) the grid
            divides the weight evenly.
    """
    rows, columns = shape[-2:]
    grid = scales.shape
    if (math.prod(grid) == 1 and len(shape) == 2) or grid == shape[:-2]:  # noqa: PLR2004  (a matrix; experts)
        return Grid(scales.name, grid, (rows, columns), columns)
    if grid == (rows,) and len(shape) == 2:  # noqa: PLR2004
        return Grid(scales.name, grid, (1, columns), columns)
    if len(grid) == len(shape) and grid[:-2] == shape[:-2] and 0 not in grid:
        high, wide = grid[-2:]
        if block is not None and (high, wide) == (-(-rows // block[0]), -(-columns // block[1])):
            return Grid(scales.name, grid, (block[0], block[1]), columns)
        if rows % high == 0 and columns % wide == 0:
            return Grid(scales.name, grid, (rows // high, columns // wide), columns)
    told = f" (blocks of {' x '.join(map(str, block))})" if block else ""
    raise refused(folder, scales.name, f"has shape {list(grid)}, which fits no grid over {list(shape)}{told}")


def on_grid(grid: Grid, take: Take, place: Place) -> "torch.Tensor":
    """The scale of each weight of some rows, float32: (rows, columns), or with axes of one where all are alike."""
    import torch  # noqa: PLC0415

    expert, start, stop = place
    high = grid.block[0]
    lead: tuple[int, ...] = () if expert is None else (expert,)
    if math.prod(grid.stored[len(lead) :]) == 1:
        numbers = take(grid.name, (slice(expert, expert + 1),) if expert is not None else ()).reshape(1, 1)
    else:
        cells = take(grid.name, (*lead, slice(start // high, -(-stop // high))))
        numbers = cells.reshape(cells.shape[0], -1)
    factors = numbers.to(torch.float32)
    if grid.exponents and numbers.dtype == torch.uint8:
        factors = (factors - EXPONENT_BIAS).exp2()
    return factors if numbers.numel() == 1 else spread(factors, (start, stop), grid.block, grid.columns)
