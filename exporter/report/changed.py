"""Which finished weights training changed: one count for inspect, which reads no weight, and for the report."""

from math import inf
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.merge import Layer, Merged
    from exporter.merge.values import Change, Factors
    from exporter.source.files import TensorFiles

SLICE = 64
"""Rows of a factor that are looked at together: the first ones that are large enough end the search."""
ENOUGH = 1e-15
"""A number of which two make a product that float32 holds."""
SMALLEST = 2.0**-150
"""What float32 rounds to zero: half of its smallest number."""


def changed_weights(source: "Merged", layers: "Sequence[Layer] | None" = None) -> list[str]:
    """Our names of the finished weights that training changed: a tied head is the embedding, and counts once.

    Where a weight's rows were read, they decide. Before that the adapters' tensors do: a weight that they name is not
    among them if a factor is zero, or it was only saved as it was.

    Args:
        source: the finished weights.
        layers: those of its adapters whose changes are asked for; None: all.
    """
    read = source.deltas()
    counts = source.rows()
    matrices = {EMBEDDING: counts.embedding, HEAD: counts.head or counts.embedding}
    resized = {name for name, matrix in matrices.items() if matrix.rows != matrix.base}
    found: dict[str, bool] = {}
    for layer in source.layers if layers is None else layers:
        for name, change in layer.changes.by_weight.items():
            moved = read[name].change > 0 if name in read else name in resized or _moves(change, layer)
            found[name] = moved or found.get(name, False)
    return [name for name in source.shapes() if found.get(name)]


def _moves(change: "Change", layer: "Layer") -> bool:
    """Whether an adapter's tensors make a change of a weight, as far as they tell without the base."""
    factors = change.factors
    if change.replaced_by != change.origin or (change.tokens is not None and change.tokens.ids):
        return True
    if change.whole is not None:
        return layer.modules is None or layer.modules.changes_weight or change.weight != change.whole.weight
    if change.added is not None:
        return change.added.scale != 0 and _largest(layer.tensors, change.added.vector) > 0
    if factors is None:
        return False
    return factors.magnitude is not None or (factors.scale != 0 and _adds(factors, layer.tensors))


def _adds(factors: "Factors", tensors: "TensorFiles") -> bool:
    """Whether a product of factors may be anything but zero in float32."""
    expert = factors.expert
    rows, columns = (expert.ranks, expert.columns) if expert else (slice(None), slice(None))
    for enough in (ENOUGH, inf):  # the first slices tell of nearly all
        largest = _largest(tensors, factors.a, rows=rows, enough=enough)
        largest *= _largest(tensors, factors.b, columns=columns, enough=enough)
        if largest * tensors.tensors[factors.a].shape[0] >= SMALLEST:
            return True
    return False


def _largest(
    tensors: "TensorFiles", name: str, *, rows: slice = slice(None), columns: slice = slice(None), enough: float = 0.0
) -> float:
    """The largest size of a number in a tensor, or in those rows and columns of it; of the first slice with enough."""
    within = range(*rows.indices(tensors.tensors[name].shape[0]))
    largest = 0.0
    for start in range(within.start, within.stop, SLICE):
        part = tensors.read(name, (slice(start, min(start + SLICE, within.stop)),))
        largest = max(largest, float((part[:, columns] if part.dim() > 1 else part).abs().nan_to_num(inf).max()))
        if largest > enough:
            break
    return largest
