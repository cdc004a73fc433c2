"""MXFP4 as gpt-oss stores its experts: blocks of 32 values of four bits with one exponent of two each."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from exporter.source.files import Index
from exporter.source.quantized.bits import low_nibble_first
from exporter.source.quantized.fields import ANY, Fields
from exporter.source.quantized.grid import EXPONENT_BIAS
from exporter.source.quantized.values import Folder, Packed, Place, Take, need, refused

if TYPE_CHECKING:
    import torch

FIELDS: Fields = dict.fromkeys(("quant_method", "modules_to_not_convert", "dequantize"), ANY)
# E2M1 (OCP Microscaling Formats 1.0, 5.3.3): a sign, two bits of exponent, one of mantissa.
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = (*_POSITIVE, *(-value for value in _POSITIVE))
BLOCK = 32


def find(folder: Folder) -> Iterator[Packed]:
    """The fused experts stored as ``…_blocks`` (experts, outputs, blocks, 16) and ``…_scales``.

    Their own shape is (experts, inputs, outputs), the other way round, as transformers stores them in 16 bits.
    """
    for name in folder.stored:
        weight = name.removesuffix("_blocks")
        if weight != name:
            blocks = need(folder, name, ("U8",))
            if len(blocks.shape) != 4 or blocks.shape[-1] != BLOCK // 2:  # noqa: PLR2004
                raise refused(folder, name, f"is {list(blocks.shape)}, expected (experts, outputs, blocks, 16)")
            experts, outputs, count, _ = blocks.shape
            need(folder, f"{weight}_scales", ("U8",), (experts, outputs, count))
            shape = experts, count * BLOCK, outputs
            parts = name, f"{weight}_scales"
            yield Packed(weight, shape, "mxfp4 (gpt-oss)", parts, partial(_rows, *parts), partial(_columns, *parts))


def _rows(blocks: str, scales: str, take: Take, place: Place) -> "torch.Tensor":
    """Rows of one expert: columns of what is stored, so blocks of them, turned."""
    expert, start, stop = place
    first = start // BLOCK
    turned = _values(blocks, scales, take, (expert or 0, slice(None), slice(first, -(-stop // BLOCK)))).T
    return turned[start - first * BLOCK : stop - first * BLOCK]


def _columns(blocks: str, scales: str, take: Take, place: Place) -> "torch.Tensor":
    """Columns of one expert: rows of what is stored, turned."""
    expert, start, stop = place
    return _values(blocks, scales, take, (expert or 0, slice(start, stop), slice(None))).T


def _values(blocks: str, scales: str, take: Take, index: Index) -> "torch.Tensor":
    """The numbers of some blocks of some stored rows, (rows, 32 * blocks)."""
    import torch  # noqa: PLC0415

    values = low_nibble_first(take(blocks, index), torch.tensor(E2M1))
    exponents = take(scales, index).to(torch.int32) - EXPONENT_BIAS
    return torch.ldexp(values, exponents[..., None]).flatten(1)
