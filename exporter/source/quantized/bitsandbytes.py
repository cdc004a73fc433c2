"""bitsandbytes: NF4 and FP4 with scales for each block, themselves quantized or not, and int8 with one for each row."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from exporter.source.quantized.fields import ANY, Fields
from exporter.source.quantized.values import Folder, Packed, Place, Take, need, need_weight, refused

if TYPE_CHECKING:
    import torch

FIELDS: Fields = dict.fromkeys(
    (
        "quant_method",
        "load_in_4bit",
        "load_in_8bit",
        "_load_in_4bit",
        "_load_in_8bit",
        "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant",
        "bnb_4bit_compute_dtype",
        "bnb_4bit_quant_storage",
        "llm_int8_threshold",
        "llm_int8_skip_modules",
        "llm_int8_enable_fp32_cpu_offload",
        "llm_int8_has_fp16_weight",
        "target_parameters",
        "modules_to_not_convert",
    ),
    ANY,
)
"""All of them say how to quantize or to compute; what is stored says itself what it is."""

# NF4: quantiles of a normal distribution, scaled to [-1, 1] (QLoRA, arXiv:2305.14314, appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
# FP4: a sign, two bits of exponent, one of mantissa, over the largest one, 12.
_POSITIVE = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
FP4 = tuple(sign * value / 12.0 for sign in (1, -1) for value in _POSITIVE)
TABLES = {"nf4": NF4, "fp4": FP4}
LIKE_TABLE = 1e-4
"""The stored table may differ from the one that kernels compute with by what older versions rounded otherwise."""

STATE = re.compile(r"(?P<weight>.+)\.quant_state\.bitsandbytes__(?P<kind>\w+)")
OCTETS = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}
"""Types that the packed bytes may be stored as (``bnb_4bit_quant_storage``), and their size."""
PER_127 = 7.874015718698502e-3
"""1/127 as bitsandbytes multiplies by it."""


@dataclass(frozen=True)
class _Blocks:
    """A 4-bit weight: where its parts are. ``nested`` is the blocks' size of quantized scales, 0 where they are not."""

    weight: str
    shape: tuple[int, ...]
    kind: str
    block: int
    octets: int
    nested: int = 0
    offset: float = 0.0


def find(folder: Folder) -> Iterator[Packed]:
    """The weights that are stored in 4 bits (those with a ``quant_state``) and in 8 bits (those with ``SCB``)."""
    for name in folder.stored:
        state = STATE.fullmatch(name)
        if state:
            yield _four_bit(folder, state["weight"], state["kind"])
        elif name.endswith(".SCB"):
            yield _eight_bit(folder, name.removesuffix(".SCB"))


def _four_bit(folder: Folder, weight: str, kind: str) -> Packed:
    """One 4-bit weight; its shape is in the ``quant_state``, some bytes of JSON."""
    import torch  # noqa: PLC0415

    state_name = f"{weight}.quant_state.bitsandbytes__{kind}"
    state = _state(folder, state_name, kind)
    shape, block = tuple(state["shape"]), int(state["blocksize"])
    count, blocks = math.prod(shape), -(-math.prod(shape) // block)
    packed = need(folder, weight, tuple(OCTETS))
    items = -(-count // 2) // OCTETS[packed.dtype]
    if packed.shape not in ((items,), (items, 1)) or items * OCTETS[packed.dtype] * 2 - count not in {0, 1}:
        raise refused(folder, weight, f"is {packed.dtype} {list(packed.shape)}, expected 4 bits for each of {count:,}")
    table = folder.take(need(folder, f"{weight}.quant_map", ("F32",), (16,)).name, ())
    if not table.allclose(torch.tensor(TABLES[kind]), rtol=0, atol=LIKE_TABLE):
        raise refused(folder, f"{weight}.quant_map", f"is not the table of {kind}: {table.tolist()}")
    parts = [weight, f"{weight}.absmax", f"{weight}.quant_map", state_name]
    nested = int(state.get("nested_blocksize", 0))
    need(folder, f"{weight}.absmax", ("U8",) if nested else ("F32",), (blocks,))
    if nested:
        need(folder, f"{weight}.nested_absmax", ("F32",), (-(-blocks // nested),))
        need(folder, f"{weight}.nested_quant_map", ("F32",), (256,))
        parts += [f"{weight}.nested_absmax", f"{weight}.nested_quant_map"]
    layout = _Blocks(weight, shape, kind, block, OCTETS[packed.dtype], nested, float(state.get("nested_offset", 0.0)))
    return Packed(weight, shape, f"{kind} (bitsandbytes)", tuple(parts), partial(_four_bit_rows, layout))


def _state(folder: Folder, name: str, kind: str) -> dict[str, Any]:
    """What a ``quant_state`` says. SourceError where that is not what is read here."""
    octets = bytes(folder.take(need(folder, name, ("U8",)).name, ()).flatten().tolist())
    try:
        state = cast("dict[str, Any]", json.loads(octets))
        known = (
            kind in TABLES
            and state["quant_type"] == kind
            and set(state) <= {"quant_type", "blocksize", "dtype", "shape", *_NESTED}
            and (not _NESTED & set(state) or (set(state) >= _NESTED and state["nested_dtype"] == "float32"))
            and len(state["shape"]) >= 2  # noqa: PLR2004  (a matrix, or one for each expert)
            and all(
                type(one) is int and one > 0
                for one in (*state["shape"], state["blocksize"], state.get("nested_blocksize", 1))
            )
            and state["blocksize"] % 8 == 0
            and type(state.get("nested_offset", 0.0)) in {float, int}
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise refused(folder, name, f"says {octets[:200]!r}, which is no known state of a 4-bit weight")
    return state


_NESTED = {"nested_blocksize", "nested_dtype", "nested_offset"}


def _four_bit_rows(layout: _Blocks, take: Take, place: Place) -> "torch.Tensor":
    """Rows of a 4-bit weight: a table's value times its block's scale; blocks run through the rows."""
    import torch  # noqa: PLC0415

    expert, start, stop = place
    columns, before = layout.shape[-1], (expert or 0) * layout.shape[-2]
    first, last = (before + start) * columns, (before + stop) * columns
    blocks = slice(first // layout.block, -(-last // layout.block))
    per_item = 2 * layout.octets
    items = slice(blocks.start * layout.block // per_item, -(-blocks.stop * layout.block // per_item))
    octets = take(layout.weight, (items,)).reshape(-1).view(torch.uint8)
    halves = torch.stack((octets >> 4, octets & 15), dim=-1).reshape(-1)  # the high half first
    values = torch.tensor(TABLES[layout.kind])[halves.to(torch.int32)]
    missing = (blocks.stop - blocks.start) * layout.block - values.shape[0]  # the last block may be short
    values = torch.nn.functional.pad(values, (0, missing)).reshape(-1, layout.block)
    scaled = values.mul_(_scales(layout, take, blocks)[:, None]).reshape(-1)
    skipped = blocks.start * layout.block
    return scaled[first - skipped : last - skipped].reshape(stop - start, columns)


def _scales(layout: _Blocks, take: Take, blocks: slice) -> "torch.Tensor":
    """The scales of some blocks; where these are quantized, a table's value times their own scale, plus the mean."""
    import torch  # noqa: PLC0415

    scales = take(f"{layout.weight}.absmax", (blocks,))
    if not layout.nested:
        return scales
    table = take(f"{layout.weight}.nested_quant_map", ())
    which = torch.arange(blocks.start, blocks.start + scales.shape[0]) // layout.nested
    return table[scales.to(torch.int32)] * take(f"{layout.weight}.nested_absmax", ())[which] + layout.offset


def _eight_bit(folder: Folder, module: str) -> Packed:
    """One int8 weight. SourceError where it is not stored row by row (``weight_format``)."""
    weight, scales, form = f"{module}.weight", f"{module}.SCB", f"{module}.weight_format"
    stored = need_weight(folder, weight, ("I8",))
    need(folder, scales, ("F32",), stored.shape[:1])
    formed = form in folder.stored
    if formed and folder.take(form, ()).flatten().tolist() != [0]:
        raise refused(folder, form, "is not 0: the weight is stored in the order of one kind of GPU, not row by row")

    def rows(take: Take, place: Place) -> "torch.Tensor":
        import torch  # noqa: PLC0415

        part = (slice(*place[1:]),)
        return take(weight, part).to(torch.float32) * take(scales, part)[:, None] * PER_127

    parts = (weight, scales, form) if formed else (weight, scales)
    return Packed(weight, stored.shape, "int8 (bitsandbytes)", parts, rows)
