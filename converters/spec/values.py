"""The values a family's table is made of.

A family is data: no row computes anything. ``{i}`` in a name is the layer; ``{e}`` on the right is every expert, in
order. GGUF's names stand on the left of ``tensors`` and ``metadata``, Hugging Face's on the right; in ``layouts`` our
spelling of a Hugging Face name stands on the left and a stored one on the right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from numpy import float32
from numpy.typing import NDArray

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
"""What every family here calls its embedding and its head, in our spelling."""

Scalar = bool | int | float | str
Config = Mapping[str, object]
Span = tuple[int, int, int]
"""Start, stop and step of some rows or columns, as in a slice."""
Order = Callable[[Config, int], tuple[Span, ...]]
"""Which of so many source rows (or columns) a tensor takes, in its order; ValueError where they cannot be so many."""


@dataclass(frozen=True)
class Row:
    """How one GGUF tensor is made of a weight (of several weights, one above another, where the name holds ``{e}``)."""

    source: str
    count: str = "num_experts"
    """The config field that says how many ``{e}`` are."""
    heads: str | None = None
    """The config field with the number of heads whose rows go from halves to pairs; None: rows stay as they are."""
    add: float = 0.0
    optional: bool = False
    """Present in all layers or in none."""
    flag: str | None = None
    """The config field that says whether the model has it; None: its weights say so."""
    layers: str | None = None
    """The config field with a truth for each layer, which says where it is; None: in all."""
    unread: str | None = None
    """The config field with a truth for each layer, which says where the graph never reads it, so that it may lack."""
    stands_in: bool = False
    """llama.cpp loads it even where it is unread: the first layer's stands in for one that lacks."""
    rows: Order | None = None
    columns: Order | None = None
    matrices: str | None = None
    """The config field with the number of matrices that the rows are; None: one."""
    transposed: bool = False
    """Each matrix is turned over."""
    minus_exp: bool = False
    """Of each number x it holds -exp(x)."""
    unit: str | None = None
    """The config field that says whether each row is divided by its length."""
    flat: bool = False
    """The weight has further axes, which are joined to one row."""
    zero: bool = False
    """Not written: the graph has no place for it, so it must hold zeros alone."""
    among: str | None = None
    """The config field with the numbers of the layers that have it; on the right ``{i}`` is the place among them."""
    axes: tuple[str | int, ...] = ()
    """The shape that the file says, of as many numbers: numbers or config fields; none: rows and columns."""


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
    """One of our weights as a part of a stored tensor, whose first axis is the expert."""

    stored: str
    part: int = 0
    of: int = 1
    experts: bool = True
    """False: a plain matrix, of no experts."""
    turned: bool = False
    """The matrix is stored turned over: (…, columns, rows)."""
    mixed: bool = False
    """The parts' rows are stored in turn, not one part after another."""
    width: str | None = None
    """``rows`` or ``columns``: which of them are as many as the embedding's columns, where the matrix is stored turned
    over by some versions of transformers and not by others; None: always as ``turned`` says."""


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
    then: Scalar | SameAs | Ratio
    otherwise: Scalar | SameAs | Ratio


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
    pre: str | None = None
    """llama.cpp's pre-tokenizer where its names leave a choice: one of several that cut alike, or ``gemma4``."""
    visible: frozenset[str] = frozenset()
    """Special tokens that stay visible text, because a program reads them there."""


@dataclass(frozen=True)
class Family:
    """Everything the pipeline needs to know about one model family."""

    name: str
    architectures: tuple[str, ...]
    arch: str
    tensors: Mapping[str, "str | Row | Generated"]
    metadata: Mapping[str, "str | Field"]
    layouts: Layouts = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    """Our names of config fields that the family calls otherwise."""
    defaults: Mapping[str, Default] = field(default_factory=dict)
    derived: Mapping[str, Callable[[Config], object]] = field(default_factory=dict)
    """Fields that are worked out from the others, in order; ValueError where the others do not allow it."""
    counts: tuple[str, ...] = ()
    """Fields of its own that must be whole numbers, if they are there."""
    floats: tuple[str, ...] = ()
    """Fields of its own that are numbers above 0, if they are there, and stored as floats."""
    requires: Mapping[str, tuple[Required, ...]] = field(default_factory=dict)
    """Fields that GGUF cannot say: llama.cpp's graph assumes one of these values, so another one is refused."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Fields that llama.cpp ignores: a value is answered with this warning."""
    shapes: Mapping[str, tuple[str | int, ...] | None] = field(default_factory=dict)
    """Shapes that differ from the usual, by the tensor's name in a layer: numbers, or config fields (of one number, or
    of one for each layer); None: any."""
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Parts that are not exported: what they are called in the report, and the stored names' beginnings, in which
    ``{n}`` is the number of layers."""
    dropped: tuple[str, ...] = ()
    """Endings of stored names that hold no weight: buffers that old checkpoints saved."""
    head: str = "optional"
    """``optional``: tied or not; ``never``: the graph holds no head; ``always``: a tied one is written too."""
    tokens: Tokens = field(default_factory=Tokens)
    projector: "Projector | None" = None
    """What its images go through; None: the family has no eyes, or they are not exported."""


@dataclass(frozen=True)
class Projector:
    """What makes embeddings of an image: the vision tower and what leads to the text model, a file of its own.

    Its config is that of ``vision_config``; the fields of the text, of the whole model and of the image processor come
    before it as ``text_…``, ``model_…`` and ``processor_…``, the ids of added tokens as ``token_…``.
    """

    table: Family
    """Tensors, metadata and all else in the words of a family."""
    parts: tuple[str, ...]
    """The parts of the model, by the words of the family's ``left_out``, that this is."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Tensors whose type llama.cpp fixes, whatever is asked for."""
