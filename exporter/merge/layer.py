"""One adapter, laid over rows: of the base, or of what the adapters before it made of the base."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from exporter.merge.tied import equal_rows
from exporter.merge.values import Added, Change, Changes, Factors, Tokens, Whole

if TYPE_CHECKING:
    import torch

    from exporter.merge.peft_layers import Finished, PeftModules
    from exporter.source.files import TensorFiles

SLICE = 1 << 20
"""Numbers that are looked at together where a whole weight must be."""
Below = Callable[[str, int, int], "torch.Tensor"]
"""Reads rows of a weight as they are without the adapter, those of a vector or a matrix that it has."""
EVERYTHING = slice(None)


class Layer:
    """An adapter's changes with the tensors they are made of; ``weight`` is the factor that it was asked for with."""

    def __init__(
        self,
        tensors: "TensorFiles",
        changes: Changes,
        weight: float = 1.0,
        modules: "PeftModules | None" = None,
        *,
        said: tuple[str, ...] = (),
    ) -> None:
        self.tensors = tensors
        self.changes = changes
        self.weight = weight
        self.modules = modules
        self._said = said
        self._lengths: dict[str, torch.Tensor] = {}
        self._wholes: dict[str, Finished] = {}
        self._lock = threading.Lock()

    def shape(self, change: Change, before: tuple[int, ...]) -> tuple[int, ...]:
        """A changed weight's shape: that of what replaces it, else the one before."""
        return before if change.replaced_by is None else self.tensors.tensors[change.replaced_by].shape

    def adds(self, change: Change) -> bool:
        """Whether a change adds to a weight what does not depend on it, so that other adapters may add to it too."""
        if change.whole is not None:
            return self.modules is not None and self.modules.adds
        replaces = change.replaced_by is not None or change.tokens is not None
        return not replaces and (change.factors is None or change.factors.magnitude is None)

    def read(self, change: Change, below: Below, shapes: Mapping[str, tuple[int, ...]], rows: range) -> "torch.Tensor":
        """Finished rows of a changed weight; ``shapes`` are the weights' before the adapter."""
        start, stop = rows.start, rows.stop
        if change.whole is not None:
            return self._of_whole(change, change.whole, below, shapes)[start:stop]
        finished = self._sum(change, below, start, stop)
        if change.factors is not None and change.factors.magnitude is not None:
            count = self.shape(change, shapes[change.weight])[0]
            finished = finished.mul_(self._lengthening(change, below, finished, (start, count)))
        if change.added is not None:
            finished = finished + self._vector(change.added, start, stop)
        if change.tokens is not None and not change.tokens.first:
            finished = _with_tokens(change.tokens, self.tensors, finished, start)
        return finished

    def without_copies(self, read: Below, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Forget saved copies of what training began with where they equal the base: what lies below is read instead.

        PEFT saves such a copy of every embedding or head that it trains; over another adapter it must not hide it.
        """
        kept = {}
        for name, change in self.changes.by_weight.items():
            copy = change.replaced_by
            same = copy is not None and copy == change.origin and self.tensors.tensors[copy].shape == shapes[name]
            stored, base = partial(self._rows, str(copy)), partial(read, name)
            same = same and equal_rows(shapes[name], shapes[name], stored, base)
            kept[name] = replace(change, replaced_by=None, origin=None) if same else change
        self.changes = replace(self.changes, by_weight=kept)

    def _rows(self, name: str, start: int, stop: int) -> "torch.Tensor":
        return self.tensors.read(name, (slice(start, stop),))

    def notes(self) -> tuple[str, ...]:
        """What a reader of the plan should know of a method that PEFT merges, or of fields that the config lacks."""
        if self.modules is None:
            return self._said
        from exporter.merge.peft_layers import notes  # noqa: PLC0415  (imports peft)

        size = f"{4 * self.modules.largest / 1e6:,.1f} MB"
        whole = f"{self.modules.method} is merged by PEFT, a whole weight at a time: the largest is {size} in float32"
        return (whole, *notes(self.modules))

    def _vector(self, added: Added, start: int, stop: int) -> "torch.Tensor":
        return self.tensors.read(added.vector, (slice(start, stop),)) * (added.scale * self.weight)

    def _sum(self, change: Change, below: Below, start: int, stop: int) -> "torch.Tensor":
        """The weight's rows, or those that replace them, with the product of factors added."""
        if change.replaced_by is not None:
            rows = self.tensors.read(change.replaced_by, (slice(start, stop),))
        else:
            rows = below(change.weight, start, stop)
        if change.tokens is not None and change.tokens.first:
            rows = _with_tokens(change.tokens, self.tensors, rows, start)
        if change.factors is None:
            return rows
        return _product(change.factors, self.weight, self.tensors, range(start, stop)).add_(rows)

    def _lengthening(
        self, change: Change, below: Below, rows: "torch.Tensor", place: tuple[int, int]
    ) -> "torch.Tensor":
        """What DoRA multiplies rows by (columns, of an embedding): trained length over length (arXiv 2402.09353, 4).

        ``place`` is the first of the rows, and how many rows the weight has.
        """
        import torch  # noqa: PLC0415  (slow to import)

        factors = cast("Factors", change.factors)
        trained = self.tensors.read(str(factors.magnitude), (EVERYTHING,)).flatten()
        start, count = place
        if factors.turned:
            return trained / self._column_lengths(change, below, count)
        lengths = torch.linalg.norm(rows.T.contiguous(), dim=0) if factors.conv1d else torch.linalg.norm(rows, dim=1)
        ratio: torch.Tensor = trained[start : start + len(rows)] / lengths
        return ratio[:, None]

    def _column_lengths(self, change: Change, below: Below, count: int) -> "torch.Tensor":
        """The lengths of all columns of a weight with its product added; read once, a slice at a time."""
        with self._lock:
            if change.weight not in self._lengths:
                step = max(SLICE // len(self._sum(change, below, 0, 1)[0]), 1)
                slices = (self._sum(change, below, i, min(i + step, count)) for i in range(0, count, step))
                squares = sum(part.double().square().sum(dim=0) for part in slices)
                self._lengths[change.weight] = cast("torch.Tensor", squares).sqrt().float()
            lengths: torch.Tensor = self._lengths[change.weight]
            return lengths

    def _of_whole(
        self, change: Change, whole: Whole, below: Below, shapes: Mapping[str, tuple[int, ...]]
    ) -> "torch.Tensor":
        """A weight or bias that PEFT merges with its module; the last modules are kept."""
        modules = cast("PeftModules", self.modules)
        with self._lock:
            if whole.module not in self._wholes:
                over = self.changes.by_weight[whole.weight].replaced_by
                weight = (
                    self.tensors.read(over, (EVERYTHING,)) if over else below(whole.weight, 0, shapes[whole.weight][0])
                )
                bias = None if whole.bias is None else below(whole.bias, 0, shapes[whole.bias][0])
                self._wholes[whole.module] = modules.merged(whole.module, weight, bias)
                for module in list(self._wholes)[:-KEPT]:
                    del self._wholes[module]
            finished = self._wholes[whole.module]
        made = finished.weight if change.weight == whole.weight else cast("torch.Tensor", finished.bias)
        if self.weight == 1:
            return made
        before = below(change.weight, 0, len(made))
        return before + self.weight * (made - before)


KEPT = 2
"""Modules that are kept: slices are worked on by several threads, so those of two may be in work."""


def _product(factors: Factors, weight: float, tensors: "TensorFiles", rows: range) -> "torch.Tensor":
    """scale · B·A for a range of rows, in the order of PEFT's ``get_delta_weight``."""  # noqa: D403  (a formula)
    expert = factors.expert
    first, step = (expert.first_row, expert.step) if expert else (0, 1)
    here = slice(first + rows.start * step, first + rows.stop * step)
    ranks, columns = (expert.ranks, expert.columns) if expert else (EVERYTHING, EVERYTHING)
    a = tensors.read(factors.a, (ranks, here if factors.turned else EVERYTHING))
    b = tensors.read(factors.b, (EVERYTHING if factors.turned else here, EVERYTHING))[:, columns]
    if step > 1:
        a, b = (a[:, ::step], b) if factors.turned else (a, b[::step])
    product = (b @ a).mul_(factors.scale * weight)
    return product.T if factors.turned else product


def _with_tokens(tokens: Tokens, tensors: "TensorFiles", rows: "torch.Tensor", start: int) -> "torch.Tensor":
    """Rows from ``start`` on with those among them that were trained alone."""
    places = [(k, row - start) for k, row in enumerate(tokens.ids) if 0 <= row - start < len(rows)]
    if not places:
        return rows
    finished = rows.clone()
    for k, row in places:
        finished[row] = tensors.read(tokens.rows, (slice(k, k + 1),))[0]
    return finished
