"""The three kinds of tokenizer that GGUF has for decoders: byte-level, SentencePiece-style by scores, raw by merges.

`Tokens.pre` of a family or ``--pre`` chooses the third, Gemma 4's, whose files look like those of the second: merges
decide there, not scores, and nothing is merged across the end of a line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.errors import TokenizerError
from exporter.tokenizer import spm
from exporter.tokenizer.pre import check_name, pre_tokenizer
from exporter.tokenizer.pre_table import RAW
from exporter.tokenizer.vocab import USER_DEFINED, tokens_and_types

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converters.spec import Tokens
    from exporter.tokenizer.files import TokenizerFiles
    from exporter.tokenizer.vocab import Vocabulary

GGML = "tokenizer.ggml."

Value = bool | int | float | str | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]


def head(
    files: TokenizerFiles, vocabulary: Vocabulary, rows: int, facts: Tokens, *, pre: str | None
) -> tuple[dict[str, Value], list[str]]:
    """Return the keys of the vocabulary itself, and warnings.

    Args:
        files: The tokenizer's files.
        vocabulary: Their tokens.
        rows: Rows of the embedding.
        facts: What the family knows.
        pre: ``--pre``.

    Raises:
        TokenizerError: The tokenizer cannot be expressed in GGUF.
    """
    byte_level = not files.spec["model"].get("byte_fallback")
    if pre is not None:
        check_name(pre, byte_level=byte_level)
    if byte_level:
        return _byte_level(files, vocabulary, rows, facts, pre=pre)
    raw = pre or facts.pre
    if raw in RAW:
        return _raw(files, vocabulary, rows, facts, name=str(raw))
    return _sentencepiece(files, vocabulary, rows, facts)


def _byte_level(
    files: TokenizerFiles, vocabulary: Vocabulary, rows: int, facts: Tokens, *, pre: str | None
) -> tuple[dict[str, Value], list[str]]:
    texts, types, warnings = tokens_and_types(vocabulary, rows, files.templates)
    keys: dict[str, Value] = {
        GGML + "model": "gpt2",
        GGML + "pre": pre or pre_tokenizer(files.spec, facts.pre),
        GGML + "tokens": tuple(texts),
        GGML + "token_type": _shown(texts, types, facts),
        GGML + "merges": _merges(files),
    }
    return keys | _prefix_key(files, facts), warnings


def _raw(
    files: TokenizerFiles, vocabulary: Vocabulary, rows: int, facts: Tokens, *, name: str
) -> tuple[dict[str, Value], list[str]]:
    texts, first_types, warnings = tokens_and_types(vocabulary, rows, files.templates)
    prefix, _ = spm.space_prefix(files.spec, chats="default" in files.templates)
    if prefix:
        raise TokenizerError(
            f"tokenizer.json puts a space in front of a text; llama.cpp's {name} cannot. Leave --pre {name} out: the "
            "tokenizer is then written as SentencePiece's."
        )
    types = spm.piece_types(texts, first_types, None, frozenset())
    keys: dict[str, Value] = {
        GGML + "model": RAW[name],
        GGML + "pre": name,
        GGML + "tokens": tuple(texts),
        GGML + "scores": (spm.ADDED_SCORE,) * rows,  # as llama.cpp's converter has them; merges decide
        GGML + "token_type": _shown(texts, types, facts),
        GGML + "merges": _merges(files),
        GGML + "add_space_prefix": False,
    }
    if RAW[name] == name:  # the model says it all
        del keys[GGML + "pre"]
    return keys, warnings


def _sentencepiece(
    files: TokenizerFiles, vocabulary: Vocabulary, rows: int, facts: Tokens
) -> tuple[dict[str, Value], list[str]]:
    pieces = spm.read_pieces(files.model) if files.model is not None else None
    if pieces is not None and files.model is not None:
        spm.check_pieces(pieces, vocabulary, files.model)
    texts, first_types, warnings = tokens_and_types(vocabulary, rows, files.templates)
    declared = frozenset(int(token) for token in files.config.get("added_tokens_decoder") or {})
    declared |= {token for token in files.added.values() if isinstance(token, int)}
    types = spm.piece_types(texts, first_types, pieces, declared)
    spm.check_bytes(texts)
    spm.check_joins(files.spec["model"], types)
    prefix, prefix_warnings = spm.space_prefix(files.spec, chats="default" in files.templates)
    keys: dict[str, Value] = {
        GGML + "model": "llama",
        GGML + "pre": "default",
        GGML + "tokens": tuple(texts),
        GGML + "scores": tuple(spm.piece_scores(files.spec["model"], types, pieces, declared)),
        GGML + "token_type": _shown(texts, types, facts),
    }
    said = _prefix_key(files, facts)
    if said and said[GGML + "add_space_prefix"] != prefix:
        prefix_warnings.append(
            f"tokenizer.json puts {'a' if prefix else 'no'} space in front of a text, "
            f"{'tokenizer_config.json' if facts.add_space_prefix is None else 'the family'} says otherwise; "
            f"written as {'tokenizer.json does' if facts.add_space_prefix is None else 'the family has it'}."
        )
    if said or not prefix:  # llama.cpp's default is to put one
        keys[GGML + "add_space_prefix"] = prefix if facts.add_space_prefix is None else facts.add_space_prefix
    return keys, [*warnings, *prefix_warnings, *spm.added_warnings(vocabulary, types, prefix=prefix)]


def _merges(files: TokenizerFiles) -> tuple[str, ...]:
    """Each merge as one text with a space between: a space inside a part is spelled as byte-level BPE does."""
    pairs = spm.merge_pairs(files.spec["model"])
    return tuple(" ".join(part.replace(" ", "Ġ") for part in pair) for pair in pairs)


def _shown(texts: Sequence[str], types: Sequence[int], facts: Tokens) -> tuple[int, ...]:
    """The types, with what the family has visible as such."""
    pairs = zip(texts, types, strict=True)
    return tuple(USER_DEFINED if text in facts.visible else kind for text, kind in pairs)


def _prefix_key(files: TokenizerFiles, facts: Tokens) -> dict[str, Value]:
    value = facts.add_space_prefix
    if value is None and facts.follows_add_prefix_space:
        value = files.config.get("add_prefix_space")
    return {GGML + "add_space_prefix": value} if isinstance(value, bool) else {}
