"""A model folder's weights: by our names, by rows, in float32."""

from dataclasses import replace
from typing import TYPE_CHECKING

from converters.spec import Family
from exporter.source.files import TensorFiles
from exporter.source.names import Names, spell
from exporter.source.quantized import Dequantized

if TYPE_CHECKING:
    from pathlib import Path

    import torch


class Checkpoint:
    """The weights of a whole model, as its files hold them."""

    def __init__(self, files: TensorFiles | Dequantized, names: Names) -> None:
        self._files = files
        self._weights = names.weights
        self.left_out = names.left_out

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Each weight's shape, by our name."""
        return {name: weight.shape for name, weight in self._weights.items()}

    def stored(self) -> dict[str, str]:
        """The tensor that each weight lies in, as the files call it, by our name."""
        return {name: weight.stored for name, weight in self._weights.items()}

    def dtypes(self) -> set[str]:
        """The types the weights are stored in: safetensors' names, or words such as ``nf4 (bitsandbytes)``."""
        return {weight.dtype for weight in self._weights.values()}

    def files(self) -> list["Path"]:
        """The files of tensors, in order; of an index too where there is one."""
        files = self._files.files()
        return files + sorted(files[0].parent.glob(f"*{files[0].suffix}.index.json"))

    def read(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Rows (elements of a vector) from ``start`` to ``stop`` in float32; not to be written to."""
        weight = self._weights[name]
        rows = slice(weight.first_row + start * weight.step, weight.first_row + stop * weight.step)
        lead = () if weight.expert is None else (weight.expert,)
        if not weight.turned:
            return self._files.read(weight.stored, (*lead, rows))
        return self._files.read(weight.stored, (*lead, slice(None), rows)).T[:: weight.step]


def open_checkpoint(files: TensorFiles | Dequantized, family: Family, where: str) -> Checkpoint:
    """The weights of opened files in the family's spelling. SourceError for a tensor without a place."""
    if isinstance(files, TensorFiles):
        return Checkpoint(files, spell(files.tensors, family, where))
    names = spell(files.tensors, family, where, words=files.words)
    return Checkpoint(files, replace(names, left_out=(*names.left_out, *files.left_out)))
