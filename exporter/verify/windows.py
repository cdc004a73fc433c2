"""Token windows: which ids a model is given, and which of its predictions count."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from exporter.errors import EngineError
from exporter.llamacpp import Facts
from exporter.verify.text import Mode

Ids = npt.NDArray[np.int32]


class Tokenizer(Protocol):
    """What windows ask of a model: an ``exporter.llamacpp.Engine``."""

    @property
    def facts(self) -> Facts:
        """What llama.cpp says of the file."""

    def tokenize(self, text: bytes, *, add_special: bool, parse_special: bool) -> Ids:
        """Ids of UTF-8 text."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of token ids, and what their predictions are compared with.

    ``ids`` (windows x context) is what a model is given. Its logits at position p, for p from ``first`` to the last but
    one, predict ``ids[:, p + 1]``; nothing else is scored.
    """

    ids: Ids
    first: int

    @property
    def scored(self) -> int:
        """Predictions in a window."""
        return int(self.ids.shape[1]) - 1 - self.first

    def targets(self, window: int) -> npt.NDArray[np.intp]:
        """The ids that a window's scored positions are to predict."""
        return self.ids[window, self.first + 1 :].astype(np.intp)


def make_windows(
    model: Tokenizer, text: bytes, *, mode: Mode = "default", context: int = 512, most: int | None = None
) -> Windows:
    """Cut a text into at most ``most`` windows.

    Mode "default": BOS, where the file asks for it, stands before context - 1 ids of text, none of which it replaces,
    and every id after a window's first is predicted. Fewer windows than there are lie evenly over the text.
    Mode "llama.cpp": llama-perplexity's: ids with the special tokens the file asks for are cut into windows of
    ``context`` from the start, BOS replaces the first id of each, and the second half is predicted.
    EngineError where the text has not enough tokens for one window (llama-perplexity wants two).
    """
    return _llamacpp(model, text, context, most) if mode == "llama.cpp" else _default(model, text, context, most)


def _default(model: Tokenizer, text: bytes, context: int, most: int | None) -> Windows:
    facts = model.facts
    ids = model.tokenize(text, add_special=False, parse_special=False)
    bos = [facts.bos] if facts.add_bos and facts.bos is not None else []
    width = context - len(bos)
    _require(len(ids), width, context)
    found = len(ids) // width
    count = found if most is None else min(most, found)
    chosen = np.arange(count) * found // count
    rows = ids[: found * width].reshape(found, width)[chosen]
    start = np.full((count, len(bos)), bos, np.int32)
    return Windows(np.ascontiguousarray(np.hstack([start, rows]), np.int32), 0)


def _llamacpp(model: Tokenizer, text: bytes, context: int, most: int | None) -> Windows:
    facts = model.facts
    if facts.add_eos:
        raise EngineError(
            "The file's tokenizer adds an end token (tokenizer.ggml.add_eos_token), which llama-perplexity refuses. "
            "Measure it without --compat llama.cpp."
        )
    ids = model.tokenize(text.removesuffix(b"\n"), add_special=True, parse_special=False)
    _require(len(ids), 2 * context, context)
    found = len(ids) // context
    count = found if most is None else min(most, found)
    rows = ids[: count * context].reshape(count, context).copy()
    if facts.add_bos and facts.bos is not None:
        rows[:, 0] = facts.bos
    return Windows(rows, context // 2)


def _require(found: int, least: int, context: int) -> None:
    if found < least:
        raise EngineError(
            f"The evaluation text has {found} tokens; windows of {context} need at least {least}. "
            "Give a longer one with --text, or none, for the text that comes with ggufx."
        )
