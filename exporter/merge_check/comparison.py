"""Changed weights beside what PEFT's own layers make of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD
from exporter.checkpoint.write import slices
from exporter.errors import MergeError
from exporter.merge_check.laid import Laid
from exporter.merge_check.live import in_double, live, needed, remade

if TYPE_CHECKING:
    import torch

    from exporter.merge import Merged
    from exporter.merge.view import Base
    from exporter.run import Run

MOST = 3 << 27
"""Numbers in one layer of PEFT's that is built: 1.6 GB in float32, of which some four copies are held."""
IN_DOUBLE = 4
"""How many times the memory a layer in float64 takes; 3.8 GB were measured with 66 million numbers."""
ALLOWED = 2.0**-22
"""Of the larger of the weight's and its change's largest value: what float32 sums in another order may differ by."""


@dataclass(frozen=True)
class Compared:
    """One weight beside PEFT's: the largest difference, and what is allowed."""

    weight: str
    status: str
    """``pass``, ``fail``, or ``skipped``: then ``detail`` says why."""
    difference: float | None = None
    allowed: float | None = None
    detail: str = ""


def compare(run: "Run", source: "Merged", names: Sequence[str]) -> list[Compared]:
    """Changed weights, and those in the same layers of PEFT's, beside what PEFT makes of them."""
    laid = [Laid(adapter, layer, run.names) for adapter, layer in zip(run.adapters, source.layers, strict=True)]
    compared: dict[str, Compared] = {}
    for name in names:
        if name not in compared:
            compared |= {one.weight: one for one in _beside(name, source.base, laid, source)}
    return list(compared.values())


def outcome(compared: Iterable[Compared]) -> str:
    """``fail`` where one differs, ``pass`` where some were compared, else ``unproved``."""
    states = {one.status for one in compared}
    return next((state for state in ("fail", "pass") if state in states), "unproved")


def _beside(name: str, base: "Base", laid: list[Laid], source: "Merged") -> list[Compared]:
    """A weight, and those in the same layer of PEFT's, compared."""
    mine = _those(name, laid)
    shapes = base.shapes()
    try:
        names = dict.fromkeys(weight for one in mine for weight in needed(one, name))
        size = sum(prod(shapes.get(_stored(weight, shapes), ())) for weight in names)
        if size * (IN_DOUBLE if any(in_double(one, name) for one in mine) else 1) > MOST:
            return [
                Compared(name, "skipped", detail=f"{size / 1e6:,.0f} million numbers are too many to build it whole")
            ]
        before = {weight: _whole(base.read, _stored(weight, shapes), shapes) for weight in names}
        made: dict[str, torch.Tensor] = dict(before)
        for one in mine:
            made |= live(one, name, made)
        detail = "; ".join(filter(None, (remade(one, name) for one in mine)))
    except MergeError as error:
        return [Compared(name, "skipped", detail=str(error))]
    finished = source.shapes()
    return [
        _difference(weight, _whole(source.read, weight, finished), made[weight], before[weight], detail=detail)
        for weight in made
        if weight in finished and _those(weight, laid) == mine
    ]


def _those(name: str, laid: list[Laid]) -> list[Laid]:
    """The adapters that change a weight."""
    return [one for one in laid if name in one.layer.changes.by_weight]


def _difference(
    name: str, found: "torch.Tensor", expected: "torch.Tensor", before: "torch.Tensor", *, detail: str
) -> Compared:
    """Two finished weights, compared."""
    if found.shape != expected.shape:
        return Compared(name, "fail", detail=f"is {list(found.shape)}, PEFT's is {list(expected.shape)}")
    change = expected - before if before.shape == expected.shape else expected
    allowed = ALLOWED * max(float(before.abs().max()), float(change.abs().max()))
    difference = float((found - expected).abs().max())
    return Compared(name, "pass" if difference <= allowed else "fail", difference, allowed, detail)


def _stored(name: str, shapes: dict[str, tuple[int, ...]]) -> str:
    """Where the base holds a weight: the head of a tied one in its embedding."""
    return EMBEDDING if name == HEAD and name not in shapes else name


def _whole(
    read: Callable[[str, int, int], "torch.Tensor"], name: str, shapes: dict[str, tuple[int, ...]]
) -> "torch.Tensor":
    """A whole weight in float32. MergeError for one that the base does not hold."""
    import torch  # noqa: PLC0415  (slow to import)

    if name not in shapes:
        raise MergeError(f"{name} is not in the base's files, so PEFT's layer has nothing to be built around.")
    shape = shapes[name]
    return torch.cat([read(name, *rows) for rows in slices(shape[0], columns(shape))])


def columns(shape: tuple[int, ...]) -> int:
    """The numbers in a row; one in a vector's."""
    return shape[1] if len(shape) > 1 else 1
