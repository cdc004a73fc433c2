"""Added tokens that overlap: tokenizer.json and llama.cpp then find others in one text.

The ``tokenizers`` library goes through a text from the left and takes the longest token that begins there, first of
those that are matched in the raw text, then, in what is left, of those with ``normalized=true``. llama.cpp splits off
the longest token wherever it is, then the next longest. Both are done here over every text of two tokens that overlap.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from exporter.tokenizer.pre import flat
from exporter.tokenizer.vocab import SPACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from exporter.tokenizer.files import TokenizerFiles
    from exporter.tokenizer.vocab import Vocabulary

ENOUGH = 10_000
"""Texts that are compared at most; so many words that overlap are no accident."""

Parts = list[tuple[int, str]]  # where a token begins in the text, and the token


def overlap_warnings(files: TokenizerFiles, vocabulary: Vocabulary, taken: Mapping[str, int]) -> list[str]:
    """Say how many texts of two overlapping tokens get other ids in llama.cpp, with an example.

    Args:
        files: Whose tokenizer.json says what is done to a text before the second kind is looked for.
        vocabulary: Its added tokens; those that swallow white space have a warning of their own and are passed over.
        taken: Ordinary tokens that llama.cpp splits off like added ones.
    """
    texts = dict.fromkeys(taken, False) | _late(files, vocabulary)
    compared = {text: _splits(text, texts) for text in islice(_joined(texts), ENOUGH)}
    sure = [text for text, (library, *engine) in compared.items() if all(parts != library for parts in engine)]
    differ = [text for text, (library, *engine) in compared.items() if any(parts != library for parts in engine)]
    if not differ:
        return []
    text = [*sure, *differ][0]
    library, *engine = compared[text]
    other = next(parts for parts in engine if parts != library)
    more = f", {len(differ) - len(sure)} with tokens of one length may" if len(differ) > len(sure) else ""
    warning = (
        "Added tokens overlap: llama.cpp splits off the longest one in a text first, tokenizer.json the one that "
        f"begins first. {'At least ' * (len(compared) == ENOUGH)}{len(sure)} text(s) of two of them get other ids"
        f"{more}, such as {text!r}: {_shown(text, library)} in tokenizer.json, {_shown(text, other)} in llama.cpp."
    )
    return [warning]


def _splits(text: str, texts: Mapping[str, bool]) -> tuple[Parts, ...]:
    """The library's split of a text, and llama.cpp's, of which there are two: see `_longest`."""
    inside = _inside(text, texts)
    return _leftmost(text, inside, texts), *_longest(text, inside)


def _late(files: TokenizerFiles, vocabulary: Vocabulary) -> dict[str, bool]:
    """The added tokens, with whether they are looked for in the normalized text."""
    prepends = any(step.get("type") == "Prepend" for step in flat(files.spec.get("normalizer"), "normalizers"))
    found = {}
    for _, item in sorted(vocabulary.added.items()):
        late = item.normalized and item.source == "tokenizer.json"
        # Found behind a space only (a warning of its own), or spelled otherwise in the file, which proofs leave out.
        if item.text and not (item.strips or (late and prepends) or SPACE in item.text or "\0" in item.text):
            found[item.text] = late
    return found


def _joined(texts: Mapping[str, bool]) -> Iterator[str]:
    """Texts in which the two rules may differ, each once."""
    starts: dict[str, list[str]] = {}
    for text in texts:
        for k in range(1, len(text)):
            starts.setdefault(text[:k], []).append(text)
    sizes = {text: len(text.encode()) for text in texts}
    seen: set[str] = set()
    for left, late in texts.items():
        made = [left] if late and any(not texts[one] for one in _inside(left, texts)) else []
        for k in range(1, len(left)):
            rights = (one for one in starts.get(left[k:], ()) if late != texts[one] or sizes[one] >= sizes[left])
            made += [left[:k] + right for right in rights]  # a shorter right one is the second in both
        yield from (text for text in made if text not in seen)
        seen.update(made)


def _inside(text: str, texts: Mapping[str, bool]) -> list[str]:
    """The tokens that a text holds, the longest first as llama.cpp counts, in bytes."""
    pieces = {text[i:k] for i in range(len(text)) for k in range(i + 1, len(text) + 1)}
    return sorted((piece for piece in pieces if piece in texts), key=lambda one: (-len(one.encode()), one))


def _leftmost(text: str, tokens: Sequence[str], texts: Mapping[str, bool]) -> Parts:
    """The library's rule."""
    early = _scan(text, 0, [one for one in tokens if not texts[one]])
    late = [one for one in tokens if texts[one]]
    return sorted([*early, *(part for at, rest in _rest(text, early) for part in _scan(rest, at, late))])


def _scan(text: str, first: int, tokens: Sequence[str]) -> Parts:
    found, at = [], 0
    while at < len(text):
        token = max((one for one in tokens if text.startswith(one, at)), key=len, default=None)
        if token is not None:
            found.append((first + at, token))
        at += len(token or " ")
    return found


def _longest(text: str, tokens: Sequence[str]) -> Iterator[Parts]:
    """llama.cpp's rule; it does not say which of two tokens of one length goes first, so both ways."""
    turned = [*tokens][::-1]
    turned.sort(key=lambda one: -len(one.encode()))
    for order in (tokens, turned):
        found: Parts = []
        for token in order:
            found += [part for at, rest in _rest(text, sorted(found)) for part in _scan(rest, at, [token])]
        yield sorted(found)


def _rest(text: str, parts: Parts) -> Iterator[tuple[int, str]]:
    """What tokens leave of a text, with where it begins."""
    at = 0
    for start, token in [*parts, (len(text), "")]:
        if start > at:
            yield at, text[at:start]
        at = start + len(token)


def _shown(text: str, parts: Parts) -> str:
    pieces = sorted([*parts, *_rest(text, parts)])
    return " + ".join(repr(piece) for _, piece in pieces)
