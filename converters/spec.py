"""The words a family's table is written in.

A family is data: no row computes anything. ``{i}`` in a name is the layer; ``{e}`` on the right is every expert, in
order. GGUF's names stand on the left of ``tensors`` and ``metadata``, Hugging Face's on the right; in ``layouts`` our
spelling of a Hugging Face name stands on the left and a stored one on the right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from numpy import float32
from numpy.typing import NDArray

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
"""What every family here calls its embedding and its head, in our spelling."""

Scalar = bool | int | float | str
Config = Mapping[str, object]


@dataclass(frozen=True)
class Row:
    """How one GGUF tensor is made of a weight (of all experts' weights, where the name holds ``{e}``)."""

    source: str
    heads: str | None = None
    """The config field with the number of heads whose rows go from halves to pairs; None: rows stay as they are."""
    add: float = 0.0
    optional: bool = False
    """Present in all layers or in none."""
    flag: str | None = None
    """The config field that says whether the model has it; None: its weights say so."""


@dataclass(frozen=True)
class Generated:
    """A tensor that no checkpoint stores: ``make(config)`` gives a vector, or None where the model needs none."""

    make: Callable[[Config], NDArray[float32] | None]


@dataclass(frozen=True)
class Field:
    """A config field behind a metadata key; an optional one is left out where the config has none."""

    name: str
    optional: bool = False


@dataclass(frozen=True)
class View:
    """One of our weights as a part of a stored tensor whose first axis is the expert."""

    stored: str
    part: int = 0
    of: int = 1


@dataclass(frozen=True)
class Prefix:
    """Stored names that begin with ``stored`` begin with the name on the left in our spelling."""

    stored: str


@dataclass(frozen=True)
class SameAs:
    """A default: the value of another field."""

    name: str


@dataclass(frozen=True)
class Ratio:
    """A default, or a required value: one field divided by another, in whole numbers."""

    over: str
    under: str
    unless: str | None = None
    """A field that is taken instead where the config has it."""


@dataclass(frozen=True)
class AtLayers:
    """A required value: one for the model with so many layers, another for every other."""

    layers: int
    then: SameAs | Ratio
    otherwise: SameAs | Ratio


Default = Scalar | SameAs | Ratio | None
Required = Default | AtLayers | tuple[()]
Layouts = Mapping[str, "str | View | Prefix | tuple[str | View | Prefix, ...]"]


@dataclass(frozen=True)
class Tokens:
    """What a family fixes about its tokenizer in GGUF."""

    add_space_prefix: bool | None = None
    """Always written so; None: as the tokenizer's files say."""
    follows_add_prefix_space: bool = False
    """Written as ``add_prefix_space`` of tokenizer_config.json says, where it does."""
    ids: Mapping[str, int] = field(default_factory=dict)
    """GGUF's word (``prefix``, ``eot``, …) and the id that is always written for it."""


@dataclass(frozen=True)
class Family:
    """Everything the pipeline needs to know about one model family."""

    name: str
    architectures: tuple[str, ...]
    arch: str
    tensors: Mapping[str, "str | Row | Generated"]
    metadata: Mapping[str, "str | Field"]
    layouts: Layouts = field(default_factory=dict)
    defaults: Mapping[str, Default] = field(default_factory=dict)
    requires: Mapping[str, tuple[Required, ...]] = field(default_factory=dict)
    """Fields that GGUF cannot say: llama.cpp's graph assumes one of these values, so another one is refused."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Fields that llama.cpp ignores: a value is answered with this warning."""
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Parts that are not exported: what they are called in the report, and the stored names' beginnings."""
    dropped: tuple[str, ...] = ()
    """Endings of stored names that hold no weight: buffers that old checkpoints saved."""
    head: str = "optional"
    """``optional``: tied or not; ``never``: the graph holds no head; ``always``: a tied one is written too."""
    tokens: Tokens = field(default_factory=Tokens)


def rope_pairs(source: str, *, heads: str) -> Row:
    """A weight whose rows go, in each head, from Hugging Face's halves to llama.cpp's pairs."""
    return Row(source, heads=heads)


def plus_one(source: str) -> Row:
    """A norm that Hugging Face stores less one."""
    return Row(source, add=1.0)


def optional(row: str | Row) -> Row:
    """A row that a model has in all layers or in none."""
    return replace(row, optional=True) if isinstance(row, Row) else Row(row, optional=True)


def flagged(row: str | Row, *, by: str) -> Row:
    """A row that a model has in all layers where a config field is true, and in none where it is not."""
    return replace(row if isinstance(row, Row) else Row(row), flag=by)


def given(name: str) -> Field:
    """A config field that is written only where the config gives it."""
    return Field(name, optional=True)


def part(stored: str, k: int, *, of: int) -> View:
    """Expert ``{e}``'s k-th of so many equal parts of the rows of a fused tensor (experts, of * rows, columns)."""
    return View(stored, part=k, of=of)


def each(stored: str) -> View:
    """Expert ``{e}``'s matrix of a fused tensor (experts, rows, columns)."""
    return View(stored)


def strip(stored: str) -> Prefix:
    """A beginning of stored names that our spelling has not."""
    return Prefix(stored)
