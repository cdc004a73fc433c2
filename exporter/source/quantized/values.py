"""What every scheme of stored quantized weights is told, and what it answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.errors import SourceError
from exporter.source.files import Index, Stored

if TYPE_CHECKING:
    import torch

Take = Callable[[str, Index], "torch.Tensor"]
"""A part of a stored tensor, in the type it is stored in."""
Place = tuple[int | None, int, int]
"""Which rows: the expert of a fused weight (None of a matrix), the first row, and the one behind the last."""


@dataclass(frozen=True)
class Folder:
    """The tensors of a model folder, and what its config.json says of how they are quantized."""

    where: str
    stored: Mapping[str, Stored]
    settings: Mapping[str, object]
    take: Take


@dataclass(frozen=True)
class Packed:
    """One weight that is made of several stored tensors."""

    name: str
    """What the weight would be stored as, were it not quantized."""
    shape: tuple[int, ...]
    word: str
    """How it is stored: ``nf4 (bitsandbytes)``."""
    parts: tuple[str, ...]
    """The stored tensors it is made of."""
    rows: Callable[[Take, Place], "torch.Tensor"]
    """Rows of it, in float32."""
    columns: "Callable[[Take, Place], torch.Tensor] | None" = None
    """Columns of it, where they can be had without the rest."""


def need(folder: Folder, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...] | None = None) -> Stored:
    """A stored tensor that another one needs. SourceError where it is missing, of another type, or of another shape."""
    found = folder.stored.get(name)
    if found is None:
        raise SourceError(
            f"{folder.where}: {name} is missing, a part of a quantized weight ({_method(folder)}) whose other parts "
            "are stored. Copy the checkpoint again."
        )
    if found.dtype not in dtypes or (shape is not None and found.shape != shape):
        expected = " or ".join(dtypes) + (f" {list(shape)}" if shape is not None else "")
        raise refused(folder, name, f"is {found.dtype} {list(found.shape)}, expected {expected}")
    return found


def need_weight(folder: Folder, name: str, dtypes: tuple[str, ...], *, experts: bool = False) -> Stored:
    """A stored matrix, or one for each expert where that may be. SourceError where it is neither."""
    found = need(folder, name, dtypes)
    if len(found.shape) not in ((2, 3) if experts else (2,)) or 0 in found.shape:
        raise refused(folder, name, f"has shape {list(found.shape)}, expected a matrix")
    return found


def refused(folder: Folder, name: str, why: str) -> SourceError:
    """The error for a stored tensor, or a field of ``quantization_config``, that cannot be read exactly."""
    return SourceError(
        f"{folder.where}: {name} {why}. A base that is stored quantized ({_method(folder)}) is read exactly or not at "
        "all: give the 16-bit model with --base DIR_OR_ID, or save this one dequantized."
    )


def _method(folder: Folder) -> str:
    return str(folder.settings.get("quant_method"))
