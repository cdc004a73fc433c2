"""What an adapter does to each weight: plain values, by our name of the weight."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """A weight's place in a fused parameter of the experts."""

    weight: str
    """Our name of it, with ``{e}`` for the expert."""
    index: int = 0
    """Which part of the parameter's rows it is."""
    of: int = 1
    mixed: bool = False
    """The parts' rows lie in turn, not one part after another."""
    turned: bool | None = False
    """Each expert's matrix lies turned over, (columns, rows); None: in some versions of transformers."""


@dataclass(frozen=True)
class Given:
    """An adapter as it is stored, and what it is laid over.

    Attributes:
        config: adapter_config.json.
        shapes: the adapter's tensors.
        path: its file, for messages.
        base: the base's weights.
        spell: our name of a weight as the adapter calls it; None for one of a part that is left out.
        split: the weights that a fused parameter of the experts holds, by what the adapter calls it.
        turned: whether a module, by what the adapter calls its weight, holds that turned over (Conv1D).
        packing: how lora_B of fused experts is packed; None where that is not known.
    """

    config: Mapping[str, object]
    shapes: Shapes
    path: Path
    base: Shapes
    spell: Callable[[str], str | None]
    split: Callable[[str], tuple[Part, ...]] = field(default=lambda _: ())
    turned: Callable[[str], bool] = field(default=lambda _: False)
    packing: str | None = "rank_major"
    tied: bool = False
    """The base's config says that its head is its embedding."""


@dataclass(frozen=True)
class Expert:
    """One expert's place in a pair of factors that holds those of all experts."""

    index: int
    count: int
    rank: int
    rows: int
    first_row: int
    """Of the weight's rows in the fused parameter's."""
    step: int
    """From one of its rows to the next."""
    grouped: bool
    """An expert's columns of lora_B lie together; else every count-th column is the expert's, as PEFT has it."""

    @property
    def ranks(self) -> slice:
        """The expert's rows of lora_A."""
        return slice(self.index * self.rank, (self.index + 1) * self.rank)

    @property
    def columns(self) -> slice:
        """The expert's columns of lora_B."""
        return self.ranks if self.grouped else slice(self.index, None, self.count)


@dataclass(frozen=True)
class Factors:
    """What is added to a weight: scale · B·A, the adapter's own names of the two."""

    a: str
    b: str
    scale: float
    turned: bool = False
    """B·A is (columns, rows) of the weight: PEFT's layer for embeddings."""
    magnitude: str | None = None
    """DoRA: the length that each row of the sum gets, each column where ``turned``."""
    conv1d: bool = False
    """Its module holds the weight turned over: PEFT adds what DoRA's lengths are made of in that order."""
    expert: Expert | None = None


@dataclass(frozen=True)
class Added:
    """A vector that is added to a bias, with its factor."""

    vector: str
    scale: float


@dataclass(frozen=True)
class Tokens:
    """Rows that were trained alone: the tensor that holds them, and the rows they replace."""

    rows: str
    ids: tuple[int, ...]
    first: bool = False
    """Before what is added: PEFT's LoRA on a head lies around the rows that the head shares with the embedding."""


@dataclass(frozen=True)
class Whole:
    """A module that PEFT merges as a whole: its name in the adapter, our names of its weight and bias (None: none)."""

    module: str
    weight: str
    bias: str | None


@dataclass(frozen=True)
class Change:
    """What training did to one weight: replaced it, or some rows of it, or added to it."""

    weight: str
    replaced_by: str | None = None
    factors: Factors | None = None
    copy: str | None = None
    """The same tensor as ``replaced_by``, saved once more."""
    origin: str | None = None
    """What the base held when training began, where that was saved too: of other rows if the vocabulary was resized."""
    added: Added | None = None
    tokens: Tokens | None = None
    whole: Whole | None = None


@dataclass(frozen=True)
class Changes:
    """All changes of an adapter, by our name of the weight; its tensors of parts that are not exported."""

    by_weight: Mapping[str, Change] = field(default_factory=dict)
    tensors: int = 0
    left_out: tuple[str, ...] = ()


UNCHANGED = Changes()
