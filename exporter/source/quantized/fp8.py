"""FP8 weights (``fp8``: one scale, one for each row, or one for each block; ``fbgemm_fp8``: one for each row).

The stored value is multiplied by the scale, whether that is called ``weight_scale_inv``, as transformers does, or
``weight_scale``, as AutoFP8 and vLLM do.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeGuard

from exporter.source.quantized.fields import ANY, Fields
from exporter.source.quantized.grid import Grid, lay_grid, on_grid
from exporter.source.quantized.values import Folder, Packed, Place, Take, need, need_weight, refused

if TYPE_CHECKING:
    import torch

FP8 = ("F8_E4M3", "F8_E5M2")
BLOCK = [128, 128]
"""Where the config does not say; null says that there are no blocks."""
SCALES = ("F32", "BF16", "F16", "F8_E8M0")
FIELDS: Fields = {
    "quant_method": ANY,
    "activation_scheme": ANY,
    "weight_block_size": ANY,
    "dequantize": ANY,
    "modules_to_not_convert": ANY,
    "modules_to_convert": ANY,
    "ignored_layers": ANY,
    "scale_fmt": ("float", "ue8m0"),
    "expert_dtype": ("fp8",),
    "fmt": ("e4m3", "e5m2", "float8_e4m3fn", "float8_e5m2"),
}
FBGEMM_FIELDS: Fields = dict.fromkeys(
    ("quant_method", "activation_scale_ub", "modules_to_not_convert", "dequantize"), ANY
)


def find(folder: Folder) -> Iterator[Packed]:
    """The weights that have scales ``…_scale_inv`` or ``….weight_scale``."""
    block = folder.settings.get("weight_block_size", BLOCK)
    if block is not None and not _are_sizes(block):
        raise refused(folder, "quantization_config.weight_block_size", f"is {block!r}, expected two sizes")
    octets = str(folder.settings.get("scale_fmt")).lower() == "ue8m0"
    for name in folder.stored:
        if name.endswith(("_scale_inv", ".weight_scale")):
            weight = name.removesuffix("_inv").removesuffix("_scale")
            stored = need_weight(folder, weight, FP8, experts=True)
            scales = need(folder, name, (*SCALES, "U8") if octets else SCALES)
            grid = replace(lay_grid(folder, scales, stored.shape, block), exponents=octets)
            yield Packed(weight, stored.shape, "fp8 (fine-grained)", (weight, name), partial(scaled_rows, weight, grid))


def find_fbgemm(folder: Folder) -> Iterator[Packed]:
    """The weights that have a scale for each row, ``weight_scale``."""
    for name in folder.stored:
        if name.endswith(".weight_scale"):
            weight = name.removesuffix("_scale")
            stored = need_weight(folder, weight, FP8)
            scales = need(folder, name, SCALES, (stored.shape[0], 1))
            grid = lay_grid(folder, scales, stored.shape)
            yield Packed(weight, stored.shape, "fp8 (FBGEMM)", (weight, name), partial(scaled_rows, weight, grid))


def scaled_rows(weight: str, grid: Grid, take: Take, place: Place) -> "torch.Tensor":
    """Rows of stored values times their scales."""
    import torch  # noqa: PLC0415

    expert, start, stop = place
    rows = slice(start, stop)
    values = take(weight, (rows,) if expert is None else (expert, rows))
    return values.to(torch.float32) * on_grid(grid, take, place)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    """Whether a value is a block's height and width."""
    if not isinstance(value, list) or len(value) != 2:  # noqa: PLR2004
        return False
    return all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in value)
