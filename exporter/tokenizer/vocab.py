"""Tokens, their GGUF types, and padding up to the rows of the embedding."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from exporter.errors import TokenizerError
from exporter.tokenizer.declared import check_forms, check_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.tokenizer.files import TokenizerFiles

# GGUF's token types (gguf.TokenType).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

SPACE = "▁"  # SentencePiece's visible space
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
PLACEHOLDER = re.compile(r"\[UNUSED|<unused|<\|?(reserved|placeholder|extra|SPECIAL_)|\[control_", re.IGNORECASE)
MARKER = re.compile(r"[<\[{|].*[>\]}|]", re.DOTALL)


@dataclass(frozen=True)
class AddedToken:
    """A token that the tokenizer splits off before anything else."""

    text: str
    special: bool
    normalized: bool = False
    strips: bool = False  # swallows whitespace beside it, or matches whole words only
    source: str = "tokenizer.json"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of all files by id; ``added`` ones override ``base`` ones."""

    base: Mapping[int, str]
    added: Mapping[int, AddedToken]
    named: frozenset[str]  # texts that a *_token entry or a list of special tokens names
    warnings: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)  # "pad_token" -> its text, as chat templates know it

    def text(self, token: int) -> str | None:
        """Return the token's text as the model's files spell it, or None where the id is free."""
        return self.added[token].text if token in self.added else self.base.get(token)

    def ids(self) -> dict[str, int]:
        """Return text -> id over both; an added token wins."""
        return {text: token for token, text in self.base.items() if token not in self.added} | {
            added.text: token for token, added in self.added.items()
        }


def read_vocabulary(files: TokenizerFiles) -> Vocabulary:
    """Collect the tokens of tokenizer.json, tokenizer_config.json and added_tokens.json.

    Raises:
        TokenizerError: Two files give one id to two texts, or one text has two ids, or the ``tokenizers`` library gives
            a token another id than it is declared with.
    """
    check_forms(files)
    vocab: Mapping[str, int] = files.spec["model"]["vocab"]
    base = {token: text for text, token in vocab.items()}
    if len(base) != len(vocab):
        raise TokenizerError(
            f"tokenizer.json: {len(vocab)} tokens share {len(base)} ids, expected one id for each. "
            "Save the tokenizer again with transformers, or take the base's tokenizer.json."
        )
    added = {int(item["id"]): _added(item) for item in files.spec.get("added_tokens") or ()}
    named = _named(files)
    warnings: list[str] = []
    for token, candidate in _declared(files, base, named).items():
        known = added.get(token)
        if known is None:
            added[token] = candidate
            warnings += _check_renamed(token, base.get(token), candidate)
        elif known.text != candidate.text:
            raise TokenizerError(
                f"Token {token} is {known.text!r} in tokenizer.json and {candidate.text!r} in {candidate.source}. "
                "Which one the model was trained with cannot be seen: correct one of the two files."
            )
    others = {token: item.text for token, item in added.items() if item.source != "tokenizer.json"}
    check_ids(files.spec.get("added_tokens") or (), base, others)
    return Vocabulary(base, added, named, tuple(warnings), _roles(files))


def token_type(token: AddedToken, named: frozenset[str], templates: Mapping[str, str]) -> int:
    """Return CONTROL for what steers the model, USER_DEFINED for what a reader shall see.

    llama.cpp leaves CONTROL tokens out of the text it returns. So a word that was merely added with ``special=True``
    stays visible: it must also be named as special, be used by a template, or be written like a marker.
    """
    if looks_special(token.text):
        return CONTROL
    if not token.special:
        return USER_DEFINED
    used = token.text in named or any(token.text in template for template in templates.values())
    return CONTROL if used or MARKER.fullmatch(token.text.strip(f"{SPACE} ")) else USER_DEFINED


def looks_special(text: str) -> bool:
    """Say whether llama.cpp's converter takes the text for a control token, whatever the files say of it."""
    fixed = text in {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
    pairs = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))  # noqa: RUF001 - DeepSeek's full-width bars
    return fixed or any(text.startswith(start) and text.endswith(end) for start, end in pairs)


def beyond(vocabulary: Vocabulary, rows: int, templates: Mapping[str, str]) -> tuple[dict[int, str], dict[int, str]]:
    """The tokens without a row in the embedding: those that are needed, and those whose absence loses nothing.

    A special token that no chat template uses is not needed: it is never read, unless somebody writes it out.
    """
    ids = (*vocabulary.base, *vocabulary.added)
    found = {token: vocabulary.text(token) or "" for token in ids if token >= rows}
    droppable = {
        token: added.text
        for token, added in vocabulary.added.items()
        if token >= rows and added.special and not in_a_template(added.text, vocabulary, templates)
    }
    return {token: text for token, text in found.items() if token not in droppable}, droppable


def in_a_template(text: str, vocabulary: Vocabulary, templates: Mapping[str, str]) -> bool:
    """Whether a chat template writes a token, by its text or by a name such as ``pad_token``."""
    names = (text, *(name for name, named in vocabulary.roles.items() if named == text))
    return any(name in template for name in names for template in templates.values())


def fit(vocabulary: Vocabulary, rows: int, templates: Mapping[str, str]) -> Vocabulary:
    """Leave out the added tokens that have no row in the embedding, where that loses nothing.

    Raises:
        TokenizerError: A token with an id of ``rows`` or more is needed.
    """
    needed, droppable = beyond(vocabulary, rows, templates)
    if needed:
        token, text = min(needed.items())
        raise TokenizerError(
            f"{len(needed)} token(s) of the tokenizer have no row in the embedding, the first is {token} ({text!r}); "
            f"the embedding has {rows} rows. Tokens were added without resizing the model, or its embedding was not "
            "saved: export a run that holds the resized embedding, or take the tokens out of the tokenizer files."
        )
    if not droppable:
        return vocabulary
    names = ", ".join(f"{text!r} ({token})" for token, text in sorted(droppable.items())[:5])
    return replace(
        vocabulary,
        base={token: text for token, text in vocabulary.base.items() if token < rows},
        added={token: added for token, added in vocabulary.added.items() if token < rows},
        warnings=(
            *vocabulary.warnings,
            f"Left out, because the embedding has only {rows} rows: {names}. The model cannot read these tokens.",
        ),
    )


def tokens_and_types(
    vocabulary: Vocabulary, rows: int, templates: Mapping[str, str]
) -> tuple[list[str], list[int], list[str]]:
    """Return the text and type of each of the ``rows`` tokens, and warnings.

    Raises:
        TokenizerError: Two tokens have one text, on which llama.cpp aborts.
    """
    texts, types, warnings = [], [], []
    for token in range(rows):
        text, kind = _entry(vocabulary, token, templates)
        if "\0" in text:  # llama.cpp reads C strings
            warnings.append(f"Token {token} ({text!r}) holds a zero byte, which llama.cpp cannot: [EMPTY_{token}].")
            text, kind = f"[EMPTY_{token}]", UNUSED
        texts.append(text)
        types.append(kind)
    _refuse_duplicates(texts)
    return texts, types, warnings


def _entry(vocabulary: Vocabulary, token: int, templates: Mapping[str, str]) -> tuple[str, int]:
    added = vocabulary.added.get(token)
    if added is not None:
        kind = token_type(added, vocabulary.named, templates)
        # llama.cpp looks for the text of a user-defined token in the raw text, where a space is a space.
        return (added.text.replace(SPACE, " "), kind) if kind == USER_DEFINED else (added.text, kind)
    text = vocabulary.base.get(token)
    if text is None:
        return f"[PAD{token}]", UNUSED
    return text, NORMAL


def _refuse_duplicates(texts: list[str]) -> None:
    first: dict[str, int] = {}
    for token, text in enumerate(texts):
        if first.setdefault(text, token) != token:
            raise TokenizerError(
                f"Tokens {first[text]} and {token} are both {text!r}; llama.cpp needs different texts and would abort. "
                "Rename one of them in the tokenizer files."
            )


def _added(item: Mapping[str, Any], source: str = "tokenizer.json") -> AddedToken:
    strips = any(item.get(flag) for flag in ("lstrip", "rstrip", "single_word"))
    return AddedToken(item["content"], bool(item.get("special")), bool(item.get("normalized")), strips, source)


def _named(files: TokenizerFiles) -> frozenset[str]:
    """Return the texts that the files name as special tokens, in every form that transformers has written."""
    found: set[str] = set()
    for mapping in (files.config, files.special_map):
        values: list[Any] = [value for key, value in mapping.items() if key.endswith("_token")]
        for key in ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"):
            extra = mapping.get(key) or []
            values += list(extra.values()) if isinstance(extra, dict) else list(extra)
        found |= {text for value in values if (text := content(value))}
    return frozenset(found)


def _roles(files: TokenizerFiles) -> dict[str, str]:
    """Return each name that ends in ``_token`` with the text it names; tokenizer_config.json's word counts."""
    both = dict(files.special_map) | dict(files.config)
    return {name: text for name, value in both.items() if name.endswith("_token") and (text := content(value))}


def content(value: object) -> str | None:
    """Return a token's text from either form, a text or an object with ``content``; None for anything else."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _declared(files: TokenizerFiles, base: Mapping[int, str], named: frozenset[str]) -> dict[int, AddedToken]:
    """Return the added tokens that other files than tokenizer.json declare."""
    found = {
        token: AddedToken(base[token], special=True, source="the special tokens") for token in _in_base(base, named)
    }
    found |= {
        token: AddedToken(text, special=False, source="added_tokens.json")
        for text, token in files.added.items()
        if isinstance(token, int)
    }
    decoder: Mapping[str, Any] = files.config.get("added_tokens_decoder") or {}
    found |= {int(token): _added(item, "tokenizer_config.json") for token, item in decoder.items()}
    return found


def _in_base(base: Mapping[int, str], named: frozenset[str]) -> list[int]:
    """Return the ids of named tokens; an ordinary word that serves as padding, say, stays a word."""
    return [token for token, text in base.items() if text in named and MARKER.fullmatch(text)]


def _check_renamed(token: int, old: str | None, new: AddedToken) -> list[str]:
    """Return a warning where a free token gets a name, nothing where the name is no news.

    Raises:
        TokenizerError: The token is in use under another text.
    """
    if old is None or old == new.text:
        return []
    if PLACEHOLDER.match(old):
        return [f"Token {token} is {old!r} in tokenizer.json; written as {new.text!r}, as {new.source} names it."]
    raise TokenizerError(
        f"Token {token} is {old!r} in tokenizer.json and {new.text!r} in {new.source}. "
        "Take the entry out of that file, or save the tokenizer again with transformers."
    )
