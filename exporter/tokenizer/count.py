"""How many tokens a tokenizer has, and which of them the model cannot do without though they have no row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.tokenizer.files import read_files
from exporter.tokenizer.vocab import beyond, in_a_template, read_vocabulary
from exporter.vocabulary import Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from exporter.tokenizer.files import TokenizerFiles
    from exporter.tokenizer.vocab import Vocabulary

ENDS = ("bos_token", "eos_token")


def count(files: TokenizerFiles, rows: int, base: Mapping[str, Path] | None) -> Tokens:
    """Count a run's tokens against the rows of its finished embedding.

    Padding alone may be left out though it was added by the fine-tune: it is masked, and no answer depends on its row.

    Args:
        files: The run's tokenizer files.
        rows: Rows of the finished embedding.
        base: The tokenizer files of the model that an adapter was trained on; None for a model that is no adapter,
            whose own rows are all there ever were.

    Raises:
        TokenizerError: Files of the run or the base contradict each other.
    """
    vocabulary = read_vocabulary(files)
    ids = {*vocabulary.base, *vocabulary.added}
    needed, droppable = beyond(vocabulary, rows, files.templates)
    why = {
        token: "the chat template writes it" if in_a_template(text, vocabulary, files.templates) else "no special token"
        for token, text in needed.items()
    }
    before = frozenset(droppable.values()) if base is None or not droppable else _texts(base)
    for token, text in droppable.items():
        roles = {name for name, named in vocabulary.roles.items() if named == text}
        if roles & {*ENDS}:
            why[token] = "begins or ends texts"
        elif text not in before and roles != {"pad_token"}:
            why[token] = "not in the base's tokenizer, so added by the fine-tune"
    return Tokens(
        len(ids),
        max(ids, default=-1) + 1,
        needed=tuple(f"{_named(vocabulary, token)}: {why[token]}" for token in sorted(why)),
        dropped=tuple(_named(vocabulary, token) for token in sorted(droppable) if token not in why),
    )


def _texts(files: Mapping[str, Path]) -> frozenset[str]:
    """Every token's text; none where there is no tokenizer.json, so that nothing counts as known."""
    return frozenset(read_vocabulary(read_files(files)).ids()) if "tokenizer.json" in files else frozenset()


def _named(vocabulary: Vocabulary, token: int) -> str:
    return f"{vocabulary.text(token)!r} ({token})"
