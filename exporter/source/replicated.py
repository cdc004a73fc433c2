"""A model whose layers are the base's in another order, some of them several times (PEFT's ``layer_replication``)."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from exporter.merge.view import Base

LAYER = re.compile(r"(?<=\.layers\.)\d+(?=\.)")


def repeated(names: Iterable[str], layers: tuple[int, ...] | None) -> dict[str, str]:
    """The names of a model whose layer k is the base's layer ``layers[k]``, each with the base's; None: as they are."""
    of_base: dict[str, str] = {}
    for name in names:
        found = LAYER.search(name) if layers is not None else None
        if found is None or layers is None:
            of_base[name] = name
        else:
            again = [k for k, layer in enumerate(layers) if layer == int(found[0])]
            of_base |= {LAYER.sub(str(k), name, count=1): name for k in again}
    return of_base


def in_layer_of(name: str, other: str) -> str:
    """A name with another name's number of a layer, where both have one."""
    found = LAYER.search(other)
    return name if found is None else LAYER.sub(found[0], name, count=1)


class Replicated:
    """A checkpoint by other layers' names: layer k is the base's layer ``layers[k]``."""

    def __init__(self, base: "Base", layers: tuple[int, ...]) -> None:
        self._base = base
        self._names = repeated(base.shapes(), layers)
        self.left_out = base.left_out

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Each weight's shape, by our name."""
        shapes = self._base.shapes()
        return {name: shapes[stored] for name, stored in self._names.items()}

    def dtypes(self) -> set[str]:
        """The types the weights are stored in."""
        return self._base.dtypes()

    def files(self) -> list["Path"]:
        """The base's files."""
        return self._base.files()

    def read(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Rows from ``start`` to ``stop`` in float32; not to be written to."""
        return self._base.read(self._names[name], start, stop)
