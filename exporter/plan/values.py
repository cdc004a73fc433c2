"""What a plan is made of: plain values that can be printed, compared, and made by hand in a test."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

import numpy as np

from converters.spec import Span
from exporter.profiles import Choice
from exporter.tokenizer import Tokenizer
from exporter.vocabulary import Ledger

Value = bool | int | np.int32 | float | str | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]
"""A metadata value: an int is stored as UINT32, a numpy.int32 as INT32, a float as FLOAT32, a tuple as an array (of
INT32 or FLOAT32)."""
ALIGNMENT = 32


@dataclass(frozen=True)
class Steps:
    """What is done to a source's numbers on their way into a tensor, in this order."""

    height: int = 0
    """Rows of the source, or numbers of a vector."""
    rows: tuple[Span, ...] = ()
    """The rows that are taken, in order; none: all."""
    columns: tuple[Span, ...] = ()
    heads: int = 0
    """The rows of so many heads go from halves to pairs; 0: they stay."""
    minus_exp: bool = False
    """Of each number x it holds -exp(x)."""
    add: float = 0.0
    transposed: bool = False
    """Each matrix of the tensor is turned over."""
    unit: bool = False
    """Each row is divided by its length."""
    vectors: bool = False
    """Each source is a vector, and a row of the tensor."""


STEPS = Steps()
"""Nothing is done."""


@dataclass(frozen=True)
class Job:
    """One GGUF tensor: what it is read from, what is done to its rows, and where it goes in each output."""

    tensor: str
    shape: tuple[int, ...]
    """Rows and columns, experts before them; one number for a vector."""
    sources: tuple[str, ...]
    """Our names of the weights: one, or one for each expert; none for a vector that no checkpoint stores."""
    types: tuple[str, ...]
    """GGML's type of the tensor in each output."""
    offsets: tuple[int, ...]
    """Where the tensor begins in each output's data."""
    steps: Steps = STEPS
    values: tuple[float, ...] = ()
    """The vector itself where there is no source."""
    axes: tuple[int, ...] = ()
    """The shape that the file says where it is another; empty: ``shape``."""

    @property
    def weights(self) -> int:
        """How many numbers the tensor holds."""
        return prod(self.shape)


@dataclass(frozen=True)
class Fallback:
    """A type that a row's width forced."""

    tensor: str
    wanted: str
    got: str
    why: str
    weights: int


@dataclass(frozen=True)
class Output:
    """One file: its level, name and metadata."""

    level: str
    file: str
    metadata: Mapping[str, Value] = field(repr=False)
    choices: Mapping[str, Choice] = field(repr=False)
    data_bytes: int
    """Bytes of all tensors with their padding."""
    header_bytes: int
    """Bytes before the data, padded."""
    tensor_bytes: int
    """Bytes of all tensors without padding."""

    @property
    def bytes(self) -> int:
        """The size of the whole file."""
        return self.header_bytes + self.data_bytes


class Written(Protocol):
    """What is written: jobs, and the files they go to."""

    @property
    def jobs(self) -> "tuple[Job, ...]":
        """The tensors, in order."""

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The files."""

    @property
    def zeros(self) -> tuple[str, ...]:
        """Our names of the weights that are not written, and must hold zeros alone."""


@dataclass(frozen=True)
class ProjectorPlan:
    """Every decision about a projector's file."""

    jobs: tuple[Job, ...]
    output: Output
    warnings: tuple[str, ...]
    zeros: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The one file."""
        return (self.output,)

    @property
    def fallbacks(self) -> tuple[Fallback, ...]:
        """The tensors whose rows forced another type than the one asked for."""
        weights, choices = {job.tensor: job.weights for job in self.jobs}, self.output.choices
        there = [(name, choice) for name, choice in choices.items() if choice.why is not None]
        return tuple(Fallback(name, one.wanted, one.type, one.why or "", weights[name]) for name, one in there)

    @property
    def types(self) -> dict[str, int]:
        """How many weights have each type."""
        counts: dict[str, int] = {}
        for job in self.jobs:
            counts[job.types[0]] = counts.get(job.types[0], 0) + job.weights
        return counts


@dataclass(frozen=True)
class Plan:
    """Every decision of an export, before a weight is read."""

    name: str
    arch: str
    jobs: tuple[Job, ...]
    outputs: tuple[Output, ...]
    """The levels asked for, then the reference where it is a file of its own."""
    levels: int
    """How many of the outputs were asked for."""
    reference: str | None
    """The level the others are measured against; None where nothing is to be measured."""
    parameters: int
    zeros: tuple[str, ...]
    """Our names of the weights that are not written, and must hold zeros alone."""
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    tokenizer: Tokenizer = field(repr=False)
    vocabulary: Ledger = field(repr=False)
    projector: ProjectorPlan | None = None
    """The projector's file, where one was asked for."""

    def output(self, level: str) -> Output:
        """The output of a level."""
        return next(output for output in self.outputs if output.level == level)

    def types(self, output: int) -> dict[str, int]:
        """How many weights have each type in one output."""
        counts: dict[str, int] = {}
        for job in self.jobs:
            counts[job.types[output]] = counts.get(job.types[output], 0) + job.weights
        return counts

    def fallbacks(self, output: int) -> tuple[Fallback, ...]:
        """The tensors of one output whose rows forced another type than the profile's."""
        weights = {job.tensor: job.weights for job in self.jobs}
        return tuple(
            Fallback(tensor, choice.wanted, choice.type, choice.why, weights[tensor])
            for tensor, choice in self.outputs[output].choices.items()
            if choice.why is not None
        )

    def bits_per_weight(self, output: int) -> float:
        """Bits of all tensors per weight."""
        return 8 * self.outputs[output].tensor_bytes / sum(job.weights for job in self.jobs)


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of a row of so many numbers in a GGML type."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: PLC0415  (slow to import)

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return int(columns // block * size)


def padded(size: int) -> int:
    """A size rounded up to GGUF's alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT
