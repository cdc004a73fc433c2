"""GPTQ: whole numbers of a few bits, packed along the input axis, with scales and zero points for each group."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from exporter.errors import SourceError
from exporter.source.quantized.bits import WORD, unpack, words_of
from exporter.source.quantized.fields import ANY, Fields, whole
from exporter.source.quantized.values import Folder, Packed, Place, Take, need, need_weight, refused

if TYPE_CHECKING:
    import torch

BITS = (2, 3, 4, 8)
SCALES = ("F16", "BF16", "F32")
_NOTES = (
    *("quant_method", "group_size", "damp_percent", "damp_auto_increment", "desc_act", "act_group_aware"),
    *("static_groups", "sym", "lm_head", "true_sequential", "meta", "model_name_or_path", "model_file_base_name"),
    *("tokenizer", "dataset", "backend", "model_seqlen", "block_name_to_quantize", "batch_size", "pad_token_id"),
    *("module_name_preceding_first_block", "max_input_length", "cache_block_outputs", "use_cuda_fp16", "use_exllama"),
    *("dynamic", "offload_to_disk", "offload_to_disk_path", "pack_impl"),
    *("modules_in_block_to_quantize", "modules_to_not_convert", "disable_exllama", "exllama_config", "mse"),
)
FIELDS: Fields = dict.fromkeys(_NOTES, ANY) | {
    "bits": BITS,
    "checkpoint_format": ("gptq", "gptq_v2"),
    "format": ("gptq", "gptq_v2"),
    "method": ("gptq",),
    "is_marlin_format": (False,),
    "pack_dtype": ("int32",),
    "rotation": (),
}


@dataclass(frozen=True)
class _Groups:
    """One weight: its module, sizes, and how its numbers mean values. ``ordered``: ``g_idx`` names the groups."""

    where: str
    module: str
    inputs: int
    bits: int
    group: int
    ordered: bool
    offset: int
    """What is added to a stored zero point: 1, but 0 in the second version of the format."""


def find(folder: Folder) -> Iterator[Packed]:
    """The weights stored as ``qweight``, ``qzeros``, ``scales`` and mostly ``g_idx``."""
    bits, group = whole(folder, "bits"), whole(folder, "group_size", 128)
    _check_dynamic(folder)
    form = folder.settings.get("checkpoint_format") or folder.settings.get("format") or "gptq"
    for name in folder.stored:
        if name.endswith(".qweight"):
            yield _weight(
                folder, name.removesuffix(".qweight"), (bits, group), 0 if str(form).lower() == "gptq_v2" else 1
            )


def _check_dynamic(folder: Folder) -> None:
    """SourceError for modules with settings of their own; those that are only left plain (``-:``) are stored so."""
    own = folder.settings.get("dynamic") or {}
    if not isinstance(own, dict) or any(not str(pattern).startswith("-:") for pattern in own):
        raise refused(folder, "quantization_config.dynamic", f"gives some modules settings of their own ({own!r})")


def _weight(folder: Folder, module: str, sizes: tuple[int, int], offset: int) -> Packed:
    """One weight, (outputs, inputs). SourceError for parts that do not fit, or groups that cannot be known."""
    bits, group = sizes
    packed = need_weight(folder, f"{module}.qweight", ("I32",))
    inputs, outputs = packed.shape[0] * WORD // bits, packed.shape[-1]
    group = inputs if group == -1 else group
    ordered = f"{module}.g_idx" in folder.stored
    if group <= 0 or packed.shape[0] * WORD % bits or outputs * bits % WORD:
        raise refused(
            folder, packed.name, f"is {list(packed.shape)}, which is no {bits}-bit weight in groups of {group}"
        )
    if folder.settings.get("desc_act") and not ordered:
        raise refused(folder, f"{module}.g_idx", "is missing, but the columns were quantized out of order (desc_act)")
    groups = -(-inputs // group)
    need(folder, f"{module}.scales", SCALES, (groups, outputs))
    need(folder, f"{module}.qzeros", ("I32",), (groups, outputs * bits // WORD))
    if ordered:
        need(folder, f"{module}.g_idx", ("I32", "I64"), (inputs,))
        _check_groups(folder, module, groups)
    layout = _Groups(folder.where, module, inputs, bits, group, ordered, offset)
    parts = tuple(f"{module}.{part}" for part in ("qweight", "qzeros", "scales", *(("g_idx",) if ordered else ())))
    return Packed(f"{module}.weight", (outputs, inputs), f"int{bits} (GPTQ)", parts, partial(_rows, layout))


def _check_groups(folder: Folder, module: str, groups: int) -> None:
    """SourceError for a ``g_idx`` that names a group which is not there, or has lost an order that there was."""
    lowest, highest = (int(one) for one in folder.take(f"{module}.g_idx", ()).aminmax())
    if lowest < 0 or highest >= groups:
        raise refused(folder, f"{module}.g_idx", f"names groups {lowest} to {highest}; there are {groups}")
    if folder.settings.get("desc_act") and highest < groups - 1:
        raise refused(folder, f"{module}.g_idx", "names not all groups, but the columns were out of order (desc_act)")


def _rows(layout: _Groups, take: Take, place: Place) -> "torch.Tensor":
    """Rows of a weight: columns of what is stored; (stored number - zero point) times scale."""
    import torch  # noqa: PLC0415

    _, start, stop = place
    numbers = unpack(take(f"{layout.module}.qweight", (slice(None), slice(start, stop))).T, layout.bits)
    words, before = words_of(start, stop, layout.bits)
    zeros = unpack(take(f"{layout.module}.qzeros", (slice(None), words)), layout.bits)[:, before:][:, : stop - start]
    if layout.offset and bool((zeros == 2**layout.bits - 1).any()):
        raise SourceError(
            f"{layout.where}: {layout.module}.qzeros holds a zero point of all ones. AutoGPTQ's kernels disagree on "
            f"it: for some it is 0, for some {2**layout.bits}. Give the 16-bit model with --base DIR_OR_ID."
        )
    zeros += layout.offset
    scales = take(f"{layout.module}.scales", (slice(None), slice(start, stop))).to(torch.float32)
    group = _group_of_each(layout, take)
    values: torch.Tensor = (numbers - zeros.T[:, group]).to(torch.float32)
    return values.mul_(scales.T[:, group])


def _group_of_each(layout: _Groups, take: Take) -> "torch.Tensor":
    """The group of each input. All zeros in ``g_idx`` is how some writers say: in order."""
    import torch  # noqa: PLC0415

    named = take(f"{layout.module}.g_idx", ()) if layout.ordered else None
    if named is not None and bool(named.any()):
        return named.to(torch.int64)
    return torch.arange(layout.inputs) // layout.group
