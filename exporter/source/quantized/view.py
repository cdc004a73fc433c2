"""A folder's tensors with its quantized weights as if they were stored plain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.source.files import Index, Stored, TensorFiles
from exporter.source.quantized.values import Packed

if TYPE_CHECKING:
    import torch


class Dequantized:
    """What ``TensorFiles`` is, laid over one: a quantized weight has its own shape, and its ``word`` as its type."""

    def __init__(
        self, files: TensorFiles, plain: Mapping[str, Stored], packed: Sequence[Packed], left_out: tuple[str, ...]
    ) -> None:
        self._files = files
        self._packed = {weight.name: weight for weight in packed}
        self.left_out = left_out
        made = {
            weight.name: Stored(weight.name, files.tensors[weight.parts[0]].file, weight.shape, weight.word)
            for weight in packed
        }
        self.tensors: Mapping[str, Stored] = {**plain, **made}
        self.words = frozenset(weight.word for weight in packed)

    def files(self) -> list[Path]:
        """The files that hold them, in order."""
        return self._files.files()

    def read(self, name: str, index: Index) -> "torch.Tensor":
        """A part of a tensor in float32.

        Of a quantized one rows, ``(rows,)``, or an expert's, ``(expert, rows)``; or columns, ``(all rows, columns)``,
        with the expert before them where there is one.
        """
        import torch  # noqa: PLC0415

        weight = self._packed.get(name)
        if weight is None:
            return self._files.read(name, index)
        if len(index) == len(weight.shape):
            return self._columns(weight, index)
        *lead, rows = index
        expert = lead[0] if lead else None
        if not isinstance(rows, slice) or isinstance(expert, slice) or len(index) != len(weight.shape) - 1:
            raise TypeError(f"{name}: a quantized weight of {list(weight.shape)} is not read by {index}")
        start, stop, _ = rows.indices(weight.shape[-2])
        if stop <= start:
            return torch.empty(0, weight.shape[-1])
        return weight.rows(self._files.take, (expert, start, stop))

    def _columns(self, weight: Packed, index: Index) -> "torch.Tensor":
        """Columns of a matrix, all its rows."""
        *lead, rows, columns = index
        expert = lead[0] if lead else None
        if rows != slice(None) or not isinstance(columns, slice) or isinstance(expert, slice):
            raise TypeError(f"{weight.name}: a quantized weight of {list(weight.shape)} is not read by {index}")
        start, stop, step = columns.indices(weight.shape[-1])
        if weight.columns is not None:
            return weight.columns(self._files.take, (expert, start, max(stop, start)))[:, ::step]
        return weight.rows(self._files.take, (expert, 0, weight.shape[-2]))[:, columns]
