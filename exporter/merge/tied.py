"""Whether the finished head is the finished embedding: decided by the tensors, not by the config's flag."""

from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD
from exporter.merge.changes import UNCHANGED, Change, Changes

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from exporter.source.checkpoint import Checkpoint
    from exporter.source.files import TensorFiles

ROWS = 4096


def is_tied(
    base: "Checkpoint", adapter: "TensorFiles | None" = None, changes: Changes = UNCHANGED, *, ensured: bool = False
) -> bool:
    """True where the base has no head or an equal one, and training changed neither of the two, or both alike.

    Both alike: PEFT kept them tied (``ensured``: ``ensure_weight_tying`` on a base that is tied), or it replaced both
    with equal tensors. A change of one only, or LoRA on both without the option, unties them.
    """
    shapes = base.shapes()
    if HEAD in shapes and not _equal(shapes[HEAD], shapes[EMBEDDING], _reader(base, HEAD), _reader(base, EMBEDDING)):
        return False
    embedding, head = changes.by_weight.get(EMBEDDING), changes.by_weight.get(HEAD)
    if (embedding is None and head is None) or ensured:
        return True
    return _replaced_alike(embedding, head, adapter)


def _replaced_alike(embedding: Change | None, head: Change | None, adapter: "TensorFiles | None") -> bool:
    """Whether both were replaced, by equal tensors, and nothing was added to either."""
    if embedding is None or head is None or adapter is None or embedding.factors or head.factors:
        return False
    one, other = embedding.replaced_by, head.replaced_by
    if one is None or other is None:
        return False
    shapes = adapter.tensors[one].shape, adapter.tensors[other].shape
    return _equal(
        *shapes,
        lambda start, stop: adapter.read(one, (slice(start, stop),)),
        lambda start, stop: adapter.read(other, (slice(start, stop),)),
    )


def _reader(base: "Checkpoint", name: str) -> "Callable[[int, int], torch.Tensor]":
    return lambda start, stop: base.read(name, start, stop)


def _equal(
    shape: tuple[int, ...],
    other: tuple[int, ...],
    read: "Callable[[int, int], torch.Tensor]",
    read_other: "Callable[[int, int], torch.Tensor]",
) -> bool:
    """Whether two matrices are equal; reads up to the first slice that differs."""
    starts = range(0, shape[0], ROWS)
    return shape == other and all(read(i, i + ROWS).equal(read_other(i, i + ROWS)) for i in starts)
