"""From a run's tokenizer files to the GGUF keys ``tokenizer.*``.

The token ids that llama.cpp then makes are those of tokenizer.json: `sample` holds the texts and the ids that prove it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.errors import TokenizerError
from exporter.tokenizer import kinds, template
from exporter.tokenizer.count import count
from exporter.tokenizer.cuts import row_of
from exporter.tokenizer.describe import describe
from exporter.tokenizer.files import TokenizerFiles, find_tokenizer_files, read_files
from exporter.tokenizer.kinds import GGML, Value
from exporter.tokenizer.overlaps import overlap_warnings
from exporter.tokenizer.pre import normalizes
from exporter.tokenizer.special import (
    KINDS,
    End,
    Specials,
    all_ends,
    end_of_turn_id,
    read_specials,
    stop_ids,
    stop_source,
    stop_warnings,
    taken_for_special,
)
from exporter.tokenizer.vocab import Vocabulary, fit, read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from converters.spec import Tokens
    from exporter.vocabulary import Tokens as Tally

__all__ = ["Tokenizer", "count_tokens", "find_tokenizer_files", "read_files", "read_tokenizer"]

NFC_WARNING = "The tokenizer normalizes to NFC, llama.cpp does not: 'e\\u0301' gives other ids than 'é'."
TAKEN_WARNING = "llama.cpp takes these ordinary tokens for the end of a text or the like, by their spelling: "
GIVEN = "--pre"
NO_END = (
    "tokenizer_config.json, config.json and generation_config.json: none of them names an end of text (eos_token, "
    "eos_token_id), and no chat template shows the end of a turn. llama.cpp would stop at a token of its own choice. "
    "Name it as eos_token in tokenizer_config.json."
)
DROPOUT_WARNING = (
    "tokenizer.json: model.dropout is {}, which drops merges at random, for training. llama.cpp has none; written, and "
    "proved, without it."
)
LIMIT_WARNING = "llama.cpp's pre-tokenizer {} {}. Such texts are left out of the proof of ids."


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as GGUF holds it."""

    metadata: Mapping[
        str, Value
    ]  # full keys; int is UINT32, float FLOAT32, tuples are arrays of INT32, FLOAT32, STRING
    normalizes: bool  # tokenizer.json applies NFC, llama.cpp does not
    warnings: tuple[str, ...]
    sources: Mapping[str, str]  # "eos" -> "tokenizer_config.json"; also "chat_template", "scores", "pre" where given
    split_off: Mapping[str, int] = field(default_factory=dict)  # what llama.cpp splits off, tokenizer.json does not
    ends: tuple[End, ...] = ()  # every token that some file has for an end

    @property
    def facts(self) -> dict[str, object]:
        """What it is, in few words, for reports."""
        return describe(self)


def read_tokenizer(
    files: Mapping[str, Path] | TokenizerFiles,
    config: Mapping[str, object],
    rows: int,
    facts: Tokens,
    *,
    pre: str | None = None,
) -> Tokenizer:
    """Read a run's tokenizer.

    Args:
        files: File name -> path, as `find_tokenizer_files` returns them; or what `read_files` made of that.
        config: config.json, as transformers spells its keys.
        rows: Rows of the finished embedding: so many tokens are written.
        facts: What the family knows.
        pre: llama.cpp's name of the pre-tokenizer, where the structure shall not decide.

    Raises:
        TokenizerError: The tokenizer cannot be expressed in GGUF.
    """
    read = files if isinstance(files, TokenizerFiles) else read_files(files)
    with _as_saved(read):
        made = _read_tokenizer(read, config, rows, facts, pre=pre)
        for value in made.metadata.values():
            _ = "".join(map(str, value)).encode() if isinstance(value, tuple) else str(value).encode()
    return made


def count_tokens(files: TokenizerFiles, rows: int, base: Mapping[str, Path] | None) -> Tally:
    """Count a run's tokens against ``rows`` of embedding; ``base`` are the files of what an adapter was trained on.

    Raises:
        TokenizerError: The files are not as they are saved.
    """
    with _as_saved(files):
        _check_model(files)
        return count(files, rows, base)


@contextmanager
def _as_saved(read: TokenizerFiles) -> Iterator[None]:
    """Say of whatever files raise that are not as they are saved: TokenizerError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise TokenizerError(
            f"{', '.join(read.names)}: one of these files is not as tokenizers are saved "
            f"({type(error).__name__}: {error}). Save the tokenizer again with transformers, or take the base's files."
        ) from error


def _read_tokenizer(
    read: TokenizerFiles, config: Mapping[str, object], rows: int, facts: Tokens, *, pre: str | None
) -> Tokenizer:
    """Make the metadata from what the files say, which may raise anything where they are not as they are saved."""
    _check_model(read)
    vocabulary = fit(read_vocabulary(read), rows, read.templates)
    specials = read_specials(read, config, vocabulary.ids(), rows)
    head, warnings = kinds.head(read, vocabulary, rows, facts, pre=pre)
    eot, end_source, ends, end_warnings = _ends(read, config, vocabulary, specials)
    normal = not read.spec["model"].get("byte_fallback") and normalizes(read.spec)
    taken = taken_for_special(vocabulary)
    notes = [
        *_limits(vocabulary, taken, str(head.get(GGML + "pre", head[GGML + "model"])), normal=normal),
        *overlap_warnings(read, vocabulary, taken),
        *_dropped(read),
    ]
    return Tokenizer(
        metadata=head | _special_keys(specials, eot, facts) | template.template_metadata(read.templates),
        normalizes=normal,
        warnings=(*vocabulary.warnings, *specials.warnings, *warnings, *end_warnings, *notes),
        sources=_sources(read, specials) | dict.fromkeys(eot, end_source) | ({"pre": GIVEN} if pre is not None else {}),
        split_off=taken | {item.text: n for n, item in vocabulary.added.items() if item.source != "tokenizer.json"},
        ends=ends,
    )


def _limits(vocabulary: Vocabulary, taken: Mapping[str, int], pre: str, *, normal: bool) -> list[str]:
    """Say what llama.cpp cannot do as tokenizer.json does."""
    row = row_of(pre)
    return [
        *_stripping(vocabulary),
        *([NFC_WARNING] if normal else []),
        *([TAKEN_WARNING + ", ".join(taken)] if taken else []),
        *([LIMIT_WARNING.format(pre, row.limit)] if row is not None and row.limit is not None else []),
    ]


def _dropped(files: TokenizerFiles) -> list[str]:
    """Say what the files have and the file has not."""
    found = [DROPOUT_WARNING.format(dropout)] if (dropout := files.spec["model"].get("dropout")) else []
    names = ", ".join(files.templates)
    if files.template_source is not None and "default" not in files.templates:
        what = f"its chat templates are {names}, none is called 'default'" if names else "the chat template is empty"
        found.append(f"{files.template_source}: {what}. llama.cpp is given no template to use of its own accord.")
    return found


def _special_keys(specials: Specials, ends: dict[str, int], facts: Tokens) -> dict[str, Value]:
    ids = {KINDS[kind]: token for kind, token in specials.ids.items()} | ends | dict(facts.ids)
    keys: dict[str, Value] = {f"{GGML}{kind}_token_id": token for kind, token in ids.items()}
    return keys | {f"{GGML}add_{kind}_token": value for kind, value in specials.flags.items()}


def _check_model(files: TokenizerFiles) -> None:
    model = files.spec.get("model") or {}
    found = str(model.get("type") or ("BPE" if "merges" in model else "unknown"))
    if found != "BPE":
        raise TokenizerError(
            f"tokenizer.json: its model is {found}; expected BPE, byte-level or SentencePiece-style. "
            "Tokenizers of other kinds cannot be exported yet."
        )
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not vocab or not all(type(token) is int for token in vocab.values()):
        raise TokenizerError(
            "tokenizer.json: model.vocab is no object of tokens and their ids. Save the tokenizer again with "
            "transformers, or take the base's tokenizer.json."
        )
    if not isinstance(merges, list) or not merges:
        raise TokenizerError(
            "tokenizer.json: model.merges is no list of pairs, or an empty one; llama.cpp's BPE needs them. Save the "
            "tokenizer again with transformers, or take the base's tokenizer.json."
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise TokenizerError(
                f"tokenizer.json: {key} is {model[key]!r}; llama.cpp's BPE has none. This tokenizer cannot be exported."
            )


def _ends(
    files: TokenizerFiles, config: Mapping[str, object], vocabulary: Vocabulary, specials: Specials
) -> tuple[dict[str, int], str, tuple[End, ...], list[str]]:
    """Return the ends that no file calls eos_token, what says so, all ends that are said, and warnings.

    That is the end of a turn where it is not the end of text: "eot", or "eos" where no file names an end of text.
    """
    ids = vocabulary.ids()
    text, failed = _marker(files, vocabulary, specials)
    marker = ids[text] if text is not None else None
    stops = stop_ids(files, config)
    inside = tuple(token for token in stops if vocabulary.text(token) is not None)
    eot = end_of_turn_id(specials, marker, inside)
    eos = specials.ids.get("eos")
    if eos is None and eot is None:
        raise TokenizerError(NO_END)
    # Without an end of text in the file, llama.cpp takes one of its own: token 11 or 2, whatever that is.
    written = {"eos": eot} if eos is None else {"eos": eos, "eot": eot}
    own = {name: token for name, token in written.items() if token is not None}
    warnings = [*([failed] if failed else []), *stop_warnings(ids, {eos, eot}, stops)]
    source = "the chat template" if marker is not None else stop_source(files, eot)
    ends = all_ends(files, config, ids, own, marker=marker)
    return {name: token for name, token in own.items() if token != eos}, source, ends, warnings


def _marker(files: TokenizerFiles, vocabulary: Vocabulary, specials: Specials) -> tuple[str | None, str | None]:
    """Return what the chat template puts behind an answer, and a warning where it failed."""
    if "default" not in files.templates:
        return None, None
    known = {f"{kind}_token": vocabulary.text(token) or "" for kind, token in specials.ids.items()}
    added = [item.text for item in vocabulary.added.values()]
    return template.end_of_turn(files.templates["default"], added, known)


def _stripping(vocabulary: Vocabulary) -> list[str]:
    names = [repr(added.text) for _, added in sorted(vocabulary.added.items()) if added.strips]
    if not names:
        return []
    flags = "lstrip, rstrip or single_word"
    return [f"llama.cpp knows no {flags}, but by general.name for Phi-3; set here on {', '.join(names[:5])}."]


def _sources(files: TokenizerFiles, specials: Specials) -> dict[str, str]:
    sources = dict(specials.sources)
    if files.template_source is not None and "default" in files.templates:
        sources["chat_template"] = files.template_source
    if files.spec["model"].get("byte_fallback"):
        sources["scores"] = "tokenizer.model" if files.model is not None else "the merges of tokenizer.json"
    return sources
