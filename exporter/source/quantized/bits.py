"""Numbers of a few bits, packed one after another in 32-bit words from the lowest bit up; and blocks' scales."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WORD = 32


def unpack(words: "torch.Tensor", bits: int) -> "torch.Tensor":
    """The numbers, unsigned, int32, along the last axis of int32 words; a number may lie across two words.

    So GPTQ packs along a weight's input axis, and compressed-tensors along rows.
    """
    import torch  # noqa: PLC0415

    count = words.shape[-1] * WORD // bits
    if 8 % bits == 0:  # none lies across two bytes
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        octets = words.clone(memory_format=torch.contiguous_format).view(torch.uint8)
        parts = (octets[..., None] >> shifts) & (2**bits - 1)
        numbers: torch.Tensor = parts.reshape(*words.shape[:-1], count).to(torch.int32)
        return numbers
    first = torch.arange(count) * bits
    wide = torch.nn.functional.pad(words.to(torch.int64) & (2**WORD - 1), (0, 1))
    pairs: torch.Tensor = wide[..., first // WORD] | (wide[..., first // WORD + 1] << WORD)
    found: torch.Tensor = (pairs >> (first % WORD)) & (2**bits - 1)
    return found.to(torch.int32)


def words_of(start: int, stop: int, bits: int) -> tuple[slice, int]:
    """Which words hold numbers ``start`` to ``stop``, and how many numbers before ``start`` come with them."""
    return slice(start // WORD * bits, -(-stop // WORD) * bits), start % WORD


def low_nibble_first(octets: "torch.Tensor", table: "torch.Tensor") -> "torch.Tensor":
    """The table's values for both halves of each byte, the low half first; the last axis is twice as long."""
    import torch  # noqa: PLC0415

    return table[torch.stack((octets & 15, octets >> 4), dim=-1).flatten(-2).to(torch.int32)]


def spread(blocks: "torch.Tensor", place: tuple[int, int], block: Sequence[int], columns: int) -> "torch.Tensor":
    """A number for each block, repeated for each weight: rows ``place`` of (rows, columns), or of (rows, 1).

    ``blocks`` begins with the blocks of the first row of ``place``; ``block`` is a block's height and width.
    """
    start, stop = place
    before = start % block[0]
    tall = blocks.repeat_interleave(block[0], 0)[before : before + stop - start]
    return tall if blocks.shape[1] == 1 else tall.repeat_interleave(block[1], 1)[:, :columns]
