"""The finished weights: the base with each adapter laid over it in order, by rows, in float32."""

import threading
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Protocol

from converters.spec import EMBEDDING, HEAD
from exporter.merge.checks import check_finite
from exporter.merge.resized import count_rows
from exporter.merge.tied import ROWS
from exporter.merge.values import Changes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from exporter.merge.layer import Layer
    from exporter.vocabulary import Counts

FEWEST_ROWS = 64
"""A product over fewer rows sums in another order than the whole matrix's (a one-row product is a dot product)."""


SMALLEST, LARGEST = 1e-15, 1e15
"""Norms between which no square, and no sum of squares, that counts is beyond what float32 holds."""


@dataclass(frozen=True)
class Delta:
    """How much training changed one weight: the squared Frobenius norms of the change and of the weight before it.

    Rows that only one of the two has, since the vocabulary was resized, count as changed from nothing, or to nothing.
    """

    change: float
    weight: float

    @property
    def relative(self) -> float:
        """‖Δ‖/‖W‖."""
        return (self.change / self.weight) ** 0.5 if self.weight else 0.0


class Base(Protocol):
    """What adapters are laid over: a checkpoint, or a view of one."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """The parts that are not exported."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Each weight's shape, by our name."""

    def dtypes(self) -> set[str]:
        """The types the weights are stored in."""

    def files(self) -> list["Path"]:
        """The files of tensors, in order."""

    def read(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Rows from ``start`` to ``stop`` in float32; not to be written to."""


class Merged:
    """A checkpoint with adapters laid over it; without one, the checkpoint itself."""

    def __init__(self, base: Base, layers: "Sequence[Layer]" = (), *, tied: bool, notes: tuple[str, ...] = ()) -> None:
        self.base = base
        self.layers = tuple(layers)
        self.tied = tied
        self.notes = notes
        self.left_out = base.left_out
        self._stored = base.shapes()
        self._origin = {HEAD: EMBEDDING} if HEAD not in self._stored else {}
        tied_head = {HEAD: self._stored[EMBEDDING]} if EMBEDDING in self._stored else {}
        self._shapes = [tied_head | self._stored]
        for layer in self.layers:
            before = self._shapes[-1]
            changed = layer.changes.by_weight.items()
            self._shapes.append(before | {name: layer.shape(one, before[name]) for name, one in changed})
        self._parts: dict[tuple[str, int], Delta] = {}  # by the weight, and the slice's first row
        self._lock = threading.Lock()

    @property
    def changes(self) -> Changes:
        """What all adapters change: of a weight that several change the last change; tensors counted together."""
        by_weight = {name: change for layer in self.layers for name, change in layer.changes.by_weight.items()}
        return Changes(
            by_weight,
            sum(layer.changes.tensors for layer in self.layers),
            tuple(name for layer in self.layers for name in layer.changes.left_out),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Each finished weight's shape, by our name; a head only where it is not the embedding again."""
        return {name: shape for name, shape in self._shapes[-1].items() if name != HEAD or not self.tied}

    def files(self) -> list["Path"]:
        """The base's files of tensors, in order."""
        return self.base.files()

    def rows(self) -> "Counts":
        """How many rows of vocabulary the base's embedding and head have, and what each adapter holds of them."""
        stored = [layer.tensors.tensors.items() for layer in self.layers]
        held = [{name: one.shape for name, one in tensors} for tensors in stored]
        changes = [layer.changes for layer in self.layers]
        return count_rows(self._stored, list(zip(changes, held, strict=True)), tied=self.tied)

    def stored(self) -> set[str]:
        """Our names of the weights the base's files hold."""
        return set(self._stored)

    def dtypes(self) -> set[str]:
        """The types the base's weights are stored in, by safetensors' names."""
        return self.base.dtypes()

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

        WeightError where a tensor of an adapter is not finite, by that tensor's name.
        """
        finished = self._read(len(self.layers), name, range(start, stop))
        if any(name in layer.changes.by_weight for layer in self.layers):
            self._note(name, start, self._read(0, name, range(start, stop)), finished)
            self._note_cut(name, stop)
        return finished

    def _read(self, count: int, name: str, rows: range) -> "torch.Tensor":
        """Rows with so many of the adapters laid over; fewer where training grew the matrix beyond what there was."""
        if count == 0:
            place = self._origin.get(name, name)
            last = self._stored[place][0]
            return self.base.read(place, min(rows.start, last), min(rows.stop, last))
        layer = self.layers[count - 1]
        change = layer.changes.by_weight.get(name)
        if change is None:
            return self._read(count - 1, name, rows)
        return layer.read(
            change,
            lambda name, start, stop: self._read(count - 1, name, range(start, stop)),
            self._shapes[count - 1],
            rows,
        )

    def _note(self, name: str, start: int, before: "torch.Tensor", finished: "torch.Tensor") -> None:
        """Add a slice to the norms; a slice read again replaces its own sums."""
        rows = before.shape[0]
        change = _squared(finished[:rows] - before) + _squared(finished[rows:])
        part = Delta(change, _squared(before))
        if not isfinite(change):
            for layer in self.layers:
                if name in layer.changes.by_weight:
                    check_finite(layer.changes.by_weight[name], layer)
        with self._lock:
            self._parts[name, start] = part

    def _note_cut(self, name: str, stop: int) -> None:
        """Once the last finished row was read, add the rows behind it that the base has, and training took away."""
        count, kept = self._stored[self._origin.get(name, name)][0], self._shapes[-1][name][0]
        if stop < kept or kept >= count or (name, kept) in self._parts:
            return
        starts = range(kept, count, ROWS)
        cut = sum(_squared(self._read(0, name, range(row, min(row + ROWS, count)))) for row in starts)
        with self._lock:
            self._parts[name, kept] = Delta(cut, cut)


def _squared(values: "torch.Tensor") -> float:
    """The squared Frobenius norm."""
    norm = float(values.norm())  # of float32: a fifth of the time
    return (norm if SMALLEST < norm < LARGEST else float(values.double().norm())) ** 2
