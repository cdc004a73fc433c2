"""The pieces that a report is made of: Markdown and the page are two ways of writing the same ones."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Code:
    """Text to be read letter by letter: a path, a name, a hash, a command."""

    text: str


@dataclass(frozen=True)
class Mark:
    """A status, which the page shows in a colour of its own beside the word."""

    text: str


Cell = str | Code | Mark


@dataclass(frozen=True)
class Table:
    """Rows of cells; ``numeric`` are the columns whose cells are aligned to the right."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Facts:
    """Names and their values, one or several."""

    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Notes:
    """Short explanations: a term, and a sentence about it."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Alert:
    """What must not be overlooked; ``text`` is shown in full, line by line."""

    kind: Literal["error", "warning"]
    title: str
    text: str


@dataclass(frozen=True)
class Fold:
    """A long table or text, closed on the page until its summary is pressed."""

    summary: str
    content: Table | Code


@dataclass(frozen=True)
class Picture:
    """The place of size against quality, which only the page can show."""


Block = Table | Facts | Text | Notes | Alert | Fold | Picture


@dataclass(frozen=True)
class Section:
    """A heading, and what stands under it."""

    title: str
    blocks: tuple[Block, ...]
