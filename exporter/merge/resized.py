"""Rows of the vocabulary in the base and in its adapters, counted for the ledger."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD
from exporter.vocabulary import Counts, Held, Matrix

if TYPE_CHECKING:
    from exporter.merge.values import Changes, Shapes


def count_rows(base: "Shapes", adapters: "Sequence[tuple[Changes, Shapes]]", *, tied: bool) -> Counts:
    """The rows of embedding and head, of the base and of what each adapter holds; tokens and config are not counted.

    Args:
        base: the base's weights.
        adapters: each one's changes and stored tensors, in order.
        tied: the finished head is the finished embedding.
    """
    matrices = [
        Matrix(base.get(name, base[EMBEDDING])[0], tuple(_held(name, *adapter, base) for adapter in adapters))
        for name in (EMBEDDING, HEAD)
    ]
    return Counts(matrices[0], None if tied else matrices[1])


def _held(name: str, changes: "Changes", shapes: "Shapes", base: Mapping[str, tuple[int, ...]]) -> Held:
    """What one adapter holds of one matrix; factors of another width are another model's, and not counted."""
    change = changes.by_weight.get(name)
    if change is None:
        return Held()
    factors = None
    if change.factors is not None and change.factors.expert is None:
        a, b = shapes[change.factors.a], shapes[change.factors.b]
        rows, columns = (a[1], b[0]) if change.factors.turned else (b[0], a[1])
        factors = rows if columns == base[EMBEDDING][1] else None
    return Held(
        whole=None if change.replaced_by is None else shapes[change.replaced_by][0],
        factors=factors,
        last_token=None if change.tokens is None else max(change.tokens.ids, default=None),
    )
