"""AWQ, as AutoAWQ's GEMM kernels have it: 4-bit numbers packed along the output axis, eight to a word, interleaved."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from exporter.source.quantized.bits import unpack
from exporter.source.quantized.fields import ANY, Fields, whole
from exporter.source.quantized.values import Folder, Packed, Place, Take, need, need_weight, refused

if TYPE_CHECKING:
    import torch

BITS, IN_WORD = 4, 8
SCALES = ("F16", "BF16", "F32")
_NOTES = (
    *("quant_method", "group_size", "zero_point", "modules_to_not_convert", "do_fuse", "fuse_max_seq_len"),
    *("modules_to_fuse", "exllama_config", "sym", "desc_act", "damp_percent", "act_group_aware", "true_sequential"),
    *("tokenizer", "dataset", "meta", "model_seqlen", "block_name_to_quantize", "module_name_preceding_first_block"),
    *("batch_size", "pad_token_id", "max_input_length", "cache_block_outputs", "modules_in_block_to_quantize"),
)
FIELDS: Fields = dict.fromkeys(_NOTES, ANY) | {
    "bits": (BITS,),
    "method": ("awq",),
    "checkpoint_format": ("gemm",),
    "dynamic": ({}, False),
    "lm_head": (True, False),
    "pack_dtype": ("int32",),
    "version": ("gemm",),
    "format": ("gemm",),
    "backend": ("autoawq", "auto", "auto_trainable", "gemm", "gemm_triton", "torch_awq", "torch_fused_awq"),
}
# Where in a word the outputs 0 to 7 are: the kernels take even and odd ones apart.
NIBBLE = (0, 4, 1, 5, 2, 6, 3, 7)


def find(folder: Folder) -> Iterator[Packed]:
    """The weights stored as ``qweight``, ``qzeros`` and ``scales``."""
    for name in folder.stored:
        if name.endswith(".qweight"):
            yield _weight(folder, name.removesuffix(".qweight"))


def _weight(folder: Folder, module: str) -> Packed:
    """One weight, (outputs, inputs). SourceError for parts that do not fit each other."""
    packed = need_weight(folder, f"{module}.qweight", ("I32",))
    inputs, words = packed.shape
    group = whole(folder, "group_size", 128)
    group = inputs if group == -1 else group
    if group <= 0 or inputs % group:
        raise refused(folder, packed.name, f"is {list(packed.shape)}, which is no weight in groups of {group}")
    need(folder, f"{module}.qzeros", ("I32",), (inputs // group, words))
    need(folder, f"{module}.scales", SCALES, (inputs // group, words * IN_WORD))
    parts = tuple(f"{module}.{part}" for part in ("qweight", "qzeros", "scales"))
    rows = partial(_rows, parts, group)
    return Packed(f"{module}.weight", (words * IN_WORD, inputs), "int4 (AWQ)", parts, rows)


def _rows(parts: tuple[str, ...], group: int, take: Take, place: Place) -> "torch.Tensor":
    """Rows of a weight: columns of what is stored; (stored number - zero point) times scale."""
    import torch  # noqa: PLC0415

    _, start, stop = place
    numbers, zeros = (_columns(take, part, start, stop) for part in parts[:2])
    scales = take(parts[2], (slice(None), slice(start, stop))).to(torch.float32)
    rows = (numbers.reshape(-1, group, stop - start) - zeros[:, None]).to(torch.float32) * scales[:, None]
    turned: torch.Tensor = rows.flatten(0, 1).T
    return turned


def _columns(take: Take, name: str, start: int, stop: int) -> "torch.Tensor":
    """The numbers of some outputs, (rows, outputs), in order."""
    first = start // IN_WORD
    numbers = unpack(take(name, (slice(None), slice(first, -(-stop // IN_WORD)))), BITS)
    ordered: torch.Tensor = numbers.reshape(numbers.shape[0], -1, IN_WORD)[..., list(NIBBLE)].flatten(1)
    return ordered[:, start - first * IN_WORD : stop - first * IN_WORD]
