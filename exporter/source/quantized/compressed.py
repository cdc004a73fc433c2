"""compressed-tensors: whole numbers packed in words, or one number or FP8 value to a weight, with scales."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from exporter.source.quantized.bits import WORD, unpack, words_of
from exporter.source.quantized.fp8 import SCALES, scaled_rows
from exporter.source.quantized.grid import Grid, lay_grid, on_grid
from exporter.source.quantized.scheme import Scheme, read_schemes, scheme_of
from exporter.source.quantized.values import Folder, Packed, Place, Take, need, need_weight, refused

if TYPE_CHECKING:
    import torch

ZEROS = ("I8", *SCALES)


@dataclass(frozen=True)
class _Whole:
    """A weight of whole numbers: its scales, its zero points where it has any, and the group of each column."""

    module: str
    shape: tuple[int, ...]
    bits: int
    scales: Grid
    zeros: Grid | None
    ordered: bool


def find(folder: Folder) -> Iterator[Packed]:
    """The weights that have a ``weight_scale``; which scheme each one has, its module's name says."""
    schemes = read_schemes(folder)
    for name in folder.stored:
        if name.endswith(".weight_scale"):
            module = name.removesuffix(".weight_scale")
            scheme = scheme_of(folder, module, schemes)
            if f"{module}.weight_packed" in folder.stored:
                yield _packed(folder, module, scheme)
            elif scheme.kind == "int":
                yield _plain(folder, module, scheme)
            else:
                yield _float(folder, module, scheme)


def _float(folder: Folder, module: str, scheme: Scheme) -> Packed:
    """A weight of FP8 values."""
    weight = need_weight(folder, f"{module}.weight", ("F8_E4M3",))
    grid = _grid(folder, f"{module}.weight_scale", weight.shape, scheme)
    parts = (weight.name, grid.name)
    return Packed(weight.name, weight.shape, "fp8 (compressed-tensors)", parts, partial(scaled_rows, weight.name, grid))


def _plain(folder: Folder, module: str, scheme: Scheme) -> Packed:
    """A weight of whole numbers, one to a byte."""
    weight = need_weight(folder, f"{module}.weight", ("I8",))
    grid = _grid(folder, f"{module}.weight_scale", weight.shape, scheme)
    zeros, parts = None, [weight.name, grid.name]
    if not scheme.symmetric or f"{module}.weight_zero_point" in folder.stored:
        zeros = _grid(folder, f"{module}.weight_zero_point", weight.shape, scheme, dtypes=ZEROS)
        parts.append(zeros.name)
    layout = _Whole(module, weight.shape, scheme.bits, grid, zeros, ordered=False)
    return _named(layout, tuple(parts), _plain_rows)


def _packed(folder: Folder, module: str, scheme: Scheme) -> Packed:
    """A weight of whole numbers packed in words; its shape is stored beside it."""
    stated = folder.take(need(folder, f"{module}.weight_shape", ("I64", "I32"), (2,)).name, ())
    shape = tuple(int(size) for size in stated)
    rows, columns = shape
    packed = need(folder, f"{module}.weight_packed", ("I32",), (rows, -(-columns * scheme.bits // WORD)))
    grid = _grid(folder, f"{module}.weight_scale", shape, scheme)
    zeros, parts = None, [packed.name, grid.name, f"{module}.weight_shape"]
    if not scheme.symmetric:
        groups = 1 if not grid.stored or grid.stored == (rows,) else grid.stored[-1]
        words = (-(-rows * scheme.bits // WORD), groups)
        zeros = Grid(need(folder, f"{module}.weight_zero_point", ("I32",), words).name, words, grid.block, columns)
        if grid.block[0] != 1:
            raise refused(folder, zeros.name, "is packed, but there is no zero point for each row")
        parts.append(zeros.name)
    ordered = f"{module}.weight_g_idx" in folder.stored
    if scheme.ordered and not ordered:
        raise refused(
            folder, f"{module}.weight_g_idx", "is missing, but the columns were grouped out of order (actorder)"
        )
    if ordered:
        _check_order(folder, module, columns, grid)
        parts.append(f"{module}.weight_g_idx")
    return _named(_Whole(module, shape, scheme.bits, grid, zeros, ordered), tuple(parts), _packed_rows)


def _named(layout: _Whole, parts: tuple[str, ...], rows: "Callable[[_Whole, Take, Place], torch.Tensor]") -> Packed:
    word = f"int{layout.bits} (compressed-tensors)"
    return Packed(f"{layout.module}.weight", layout.shape, word, parts, partial(rows, layout))


def _grid(
    folder: Folder, name: str, shape: tuple[int, ...], scheme: Scheme, *, dtypes: tuple[str, ...] = SCALES
) -> Grid:
    """Scales over a weight. SourceError where their shape is not what the scheme's strategy says."""
    block = scheme.block(folder, name, shape)
    grid = lay_grid(folder, need(folder, name, dtypes), shape, block)
    if tuple(min(pair) for pair in zip(grid.block, shape, strict=True)) != block:
        raise refused(folder, name, f"has shape {list(grid.stored)}, expected one for each {block[0]} x {block[1]}")
    return grid


def _check_order(folder: Folder, module: str, columns: int, grid: Grid) -> None:
    """SourceError for a ``weight_g_idx`` that names a group which is not there; -1 anywhere: it is not in use."""
    index = folder.take(need(folder, f"{module}.weight_g_idx", ("I32", "I64"), (columns,)).name, ())
    groups = columns // grid.block[1]
    if int(index.max()) >= groups or int(index.min()) < -1:
        raise refused(folder, f"{module}.weight_g_idx", f"names groups up to {int(index.max())}; there are {groups}")


def _plain_rows(layout: _Whole, take: Take, place: Place) -> "torch.Tensor":
    """(stored number - zero point) times scale."""
    import torch  # noqa: PLC0415

    values = take(f"{layout.module}.weight", (slice(*place[1:]),)).to(torch.float32)
    if layout.zeros is not None:
        values = values - on_grid(layout.zeros, take, place)
    return values * on_grid(layout.scales, take, place)


def _packed_rows(layout: _Whole, take: Take, place: Place) -> "torch.Tensor":
    """(stored number - zero point) times scale; both numbers are stored plus 2^(bits-1), so it falls out of them."""
    import torch  # noqa: PLC0415

    _, start, stop = place
    columns = layout.shape[1]
    half = 1 << (layout.bits - 1)
    numbers = unpack(take(f"{layout.module}.weight_packed", (slice(start, stop),)), layout.bits)[:, :columns]
    order = _order(layout, take)
    if layout.zeros is None:
        values = (numbers - half).to(torch.float32)
    else:
        words, before = words_of(start, stop, layout.bits)
        stored = unpack(take(layout.zeros.name, (words,)).T, layout.bits)[:, before:][:, : stop - start].T
        values = (numbers - _by_column(stored, layout, order)).to(torch.float32)
    if order is None:
        return values.mul_(on_grid(layout.scales, take, place))
    return values.mul_(_by_column(take(layout.scales.name, (slice(start, stop),)).to(torch.float32), layout, order))


def _order(layout: _Whole, take: Take) -> "torch.Tensor | None":
    """The group of each column where ``weight_g_idx`` gives one."""
    index = take(f"{layout.module}.weight_g_idx", ()) if layout.ordered else None
    return None if index is None or bool((index < 0).any()) else index.long()


def _by_column(groups: "torch.Tensor", layout: _Whole, order: "torch.Tensor | None") -> "torch.Tensor":
    """(rows, groups) as (rows, columns)."""
    if order is not None:
        return groups[:, order]
    return groups.repeat_interleave(layout.scales.block[1], 1)[:, : layout.shape[1]]
