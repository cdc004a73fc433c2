"""The finished weights: ``W + scale · B·A``, by rows, in float32."""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD
from exporter.merge.changes import UNCHANGED, Change, Changes, Factors

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from exporter.source.checkpoint import Checkpoint
    from exporter.source.files import TensorFiles

FEWEST_ROWS = 64
"""A product over fewer rows sums in another order than the whole matrix's (a one-row product is a dot product)."""


@dataclass(frozen=True)
class Delta:
    """How much training changed one weight: the squared Frobenius norms of the change and of the weight before it."""

    change: float
    weight: float

    @property
    def relative(self) -> float:
        """‖Δ‖/‖W‖."""
        return (self.change / self.weight) ** 0.5 if self.weight else 0.0


class Merged:
    """A checkpoint with the adapter's changes laid over it; without an adapter, the checkpoint itself."""

    def __init__(
        self, base: "Checkpoint", adapter: "TensorFiles | None" = None, changes: Changes = UNCHANGED, *, tied: bool
    ) -> None:
        self._base = base
        self._shapes = base.shapes()
        self._adapter = adapter
        self.changes = changes
        self.tied = tied
        self.left_out = base.left_out
        self._parts: dict[tuple[str, int], Delta] = {}
        self._lock = threading.Lock()
        self._origin = {HEAD: EMBEDDING} if HEAD not in self._shapes else {}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Each finished weight's shape, by our name; a head only where it is not the embedding again."""
        shapes = dict(self._shapes)
        shapes.setdefault(HEAD, shapes[EMBEDDING])
        if self._adapter is not None:
            for change in self.changes.by_weight.values():
                if change.replaced_by is not None:
                    shapes[change.weight] = self._adapter.tensors[change.replaced_by].shape
        if self.tied:
            del shapes[HEAD]
        return shapes

    def files(self) -> list["Path"]:
        """The base's files of tensors, in order."""
        return self._base.files()

    def stored(self) -> set[str]:
        """Our names of the weights the base's files hold."""
        return set(self._shapes)

    def dtypes(self) -> set[str]:
        """The types the base's weights are stored in, by safetensors' names."""
        return self._base.dtypes()

    def deltas(self) -> dict[str, Delta]:
        """What was changed so far, by weight; complete once every row was read."""
        sums: dict[str, Delta] = {}
        for (name, _), part in self._parts.items():
            before = sums.get(name, Delta(0.0, 0.0))
            sums[name] = Delta(before.change + part.change, before.weight + part.weight)
        return sums

    def read(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Finished rows (elements of a vector) from ``start`` to ``stop`` in float32; not to be written to.

        Read at least ``FEWEST_ROWS`` at a time, or all there are.
        """
        change = self.changes.by_weight.get(name)
        if change is None or self._adapter is None:
            return self._base.read(self._origin.get(name, name), start, stop)
        before = finished = self._before(change, start, stop)
        if change.replaced_by is not None:
            finished = self._adapter.read(change.replaced_by, (slice(start, stop),))
        if change.factors is not None:
            finished = _product(change.factors, self._adapter, start, stop).add_(finished)
        self._note(name, start, before, finished)
        return finished

    def _before(self, change: Change, start: int, stop: int) -> "torch.Tensor":
        """The base's rows; none of them where the training grew the matrix and they lie beyond the base's."""
        name = self._origin.get(change.weight, change.weight)
        rows = self._shapes[name][0]
        return self._base.read(name, min(start, rows), min(stop, rows))

    def _note(self, name: str, start: int, before: "torch.Tensor", finished: "torch.Tensor") -> None:
        """Add a slice to the norms; a slice read again replaces its own sums."""
        rows = before.shape[0]
        change = _squared(finished[:rows] - before) + _squared(finished[rows:])
        part = Delta(change, _squared(before))
        with self._lock:
            self._parts[name, start] = part


def _product(factors: Factors, adapter: "TensorFiles", start: int, stop: int) -> "torch.Tensor":
    """scale · B·A for a range of rows, in the order of PEFT's ``get_delta_weight``."""  # noqa: D403  (a formula)
    rows, everything = slice(start, stop), slice(None)
    a = adapter.read(factors.a, (everything, rows if factors.embedding else everything))
    b = adapter.read(factors.b, (everything if factors.embedding else rows, everything))
    product = (b @ a).mul_(factors.scale)
    return product.T if factors.embedding else product


def _squared(values: "torch.Tensor") -> float:
    """The squared Frobenius norm."""
    return float(values.norm()) ** 2
