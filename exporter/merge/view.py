"""The finished weights: ``W + scale · B·A``, by rows, in float32."""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from converters.spec import EMBEDDING, HEAD
from exporter.merge.values import UNCHANGED, Change, Changes, Factors, Tokens

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from exporter.source.checkpoint import Checkpoint
    from exporter.source.files import TensorFiles

SLICE = 4096
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
        self._lengths: dict[str, torch.Tensor] = {}
        self._lengths_lock = threading.Lock()
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
        before, finished = self._before(change, start, stop), self._sum(change, self._adapter, start, stop)
        if change.factors is not None and change.factors.magnitude is not None:
            finished = finished.mul_(self._lengthening(change, self._adapter, finished, start))
        if change.added is not None:
            vector = self._adapter.read(change.added.vector, (slice(start, stop),))
            finished = finished + vector * change.added.scale
        if change.tokens is not None:
            finished = _with_tokens(change.tokens, self._adapter, finished, start)
        self._note(name, start, before, finished)
        return finished

    def _sum(self, change: Change, adapter: "TensorFiles", start: int, stop: int) -> "torch.Tensor":
        """The weight's rows, or those that replace them, with the product of factors added."""
        if change.replaced_by is not None:
            rows = adapter.read(change.replaced_by, (slice(start, stop),))
        else:
            rows = self._before(change, start, stop)
        return rows if change.factors is None else _product(change.factors, adapter, start, stop).add_(rows)

    def _lengthening(self, change: Change, adapter: "TensorFiles", rows: "torch.Tensor", start: int) -> "torch.Tensor":
        """What DoRA multiplies rows by (columns, of an embedding): trained length over length (arXiv 2402.09353, 4)."""
        import torch  # noqa: PLC0415  (slow to import)

        factors = cast("Factors", change.factors)
        trained = adapter.read(str(factors.magnitude), (slice(None),)).flatten()
        if factors.turned:
            return trained / self._column_lengths(change, adapter)
        ratio: torch.Tensor = trained[start : start + len(rows)] / torch.linalg.norm(rows, dim=1)
        return ratio[:, None]

    def _column_lengths(self, change: Change, adapter: "TensorFiles") -> "torch.Tensor":
        """The lengths of all columns of a weight with its product added; read once, a slice at a time."""
        with self._lengths_lock:
            if change.weight not in self._lengths:
                rows = self.shapes().get(change.weight, self._shapes[EMBEDDING])[0]
                slices = (self._sum(change, adapter, i, min(i + SLICE, rows)) for i in range(0, rows, SLICE))
                squares = sum(part.double().square().sum(dim=0) for part in slices)
                self._lengths[change.weight] = cast("torch.Tensor", squares).sqrt().float()
            lengths: torch.Tensor = self._lengths[change.weight]
            return lengths

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
    everything, expert = slice(None), factors.expert
    first = expert.first_row if expert else 0
    rows = slice(first + start, first + stop)
    ranks, columns = (expert.ranks, expert.columns) if expert else (everything, everything)
    a = adapter.read(factors.a, (ranks, rows if factors.turned else everything))
    b = adapter.read(factors.b, (everything if factors.turned else rows, everything))[:, columns]
    product = (b @ a).mul_(factors.scale)
    return product.T if factors.turned else product


def _with_tokens(tokens: Tokens, adapter: "TensorFiles", rows: "torch.Tensor", start: int) -> "torch.Tensor":
    """Rows from ``start`` on with those among them that were trained alone."""
    places = [(k, row - start) for k, row in enumerate(tokens.ids) if 0 <= row - start < len(rows)]
    if not places:
        return rows
    trained = adapter.read(tokens.rows, (slice(None),))
    finished = rows.clone()
    finished[[row for _, row in places]] = trained[[k for k, _ in places]]
    return finished


def _squared(values: "torch.Tensor") -> float:
    """The squared Frobenius norm."""
    return float(values.norm()) ** 2
