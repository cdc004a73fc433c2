"""Which finished weights training changed: one count for inspect, which reads no weight, and for the report."""

from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.merge import Layer, Merged
    from exporter.merge.values import Change
    from exporter.source.files import TensorFiles

SLICE = 64
"""Rows of a factor that are looked at together: the first ones that are not zero end the search."""


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
    if change.tokens is not None or change.whole is not None or change.replaced_by != change.origin:
        return True
    if change.added is not None:
        return change.added.scale != 0 and _any(layer.tensors, change.added.vector)
    if factors is None:
        return False
    columns = factors.expert.columns if factors.expert else slice(None)
    return factors.magnitude is not None or (
        factors.scale != 0
        and _any(layer.tensors, factors.a, rows=factors.expert.ranks if factors.expert else slice(None))
        and _any(layer.tensors, factors.b, columns=columns)
    )


def _any(tensors: "TensorFiles", name: str, *, rows: slice = slice(None), columns: slice = slice(None)) -> bool:
    """Whether a tensor, or those rows and columns of it, holds anything but zeros."""
    within = range(*rows.indices(tensors.tensors[name].shape[0]))
    for start in range(within.start, within.stop, SLICE):
        part = tensors.read(name, (slice(start, min(start + SLICE, within.stop)),))
        if bool((part[:, columns] if part.dim() > 1 else part).any()):
            return True
    return False
