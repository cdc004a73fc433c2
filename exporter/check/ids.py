"""The proof of the tokenizer: llama.cpp's tokens and ids are those of the ``tokenizers`` library."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.check.values import Check

if TYPE_CHECKING:
    from exporter.check.expected import Expected
    from exporter.llamacpp import Engine

SPACE = "\u2581"
"""SentencePiece's sign for a space; GGUF holds the runs of it that were added as tokens as spaces."""
SHOWN = 3
ROOM = 80
NAME = "tokenizer"


def check_ids(engine: "Engine", expected: "Expected") -> Check:
    """Every token's text, and the ids of every text, special tokens parsed and none added."""
    found = engine.texts()
    if len(found) != expected.rows:
        return Check(NAME, "fail", f"the file has {len(found)} tokens, the run {expected.rows}")
    other = sorted(token for token, text in expected.vocabulary.items() if not _same(found[token], text))
    if other:
        shown = "; ".join(f"{n} is {_text(found[n])}, expected {expected.vocabulary[n]!r}" for n in other[:SHOWN])
        return Check(NAME, "fail", f"{len(other)} tokens are not those of tokenizer.json: {shown}")
    differ = []
    for text, wanted in zip(expected.texts, expected.ids, strict=True):
        ids = engine.tokenize(text.encode(), add_special=False, parse_special=True).tolist()
        if ids != list(wanted):
            differ.append(difference(text, ids, wanted))
    if differ:
        many = f"{len(differ)} of {len(expected.texts)} texts otherwise than tokenizer.json"
        return Check(NAME, "fail", f"llama.cpp splits {many}{_chosen(expected.given)}: {'; '.join(differ[:SHOWN])}")
    counted = f"{len(expected.vocabulary)} tokens, ids of {len(expected.texts)} texts"
    kinds = ", ".join(f"{count} {name}" for name, count in expected.counts.items())
    without = "".join(f"; {count} left out, {why}" for why, count in expected.left_out.items() if count)
    return Check(NAME, "pass", f"{counted} equal tokenizer.json's ({kinds}){without}")


def _chosen(pre: str | None) -> str:
    """What to do where the pre-tokenizer is not the one that the tokenizer's structure gives, but the user's."""
    if pre is None:
        return ""
    return f", by the pre-tokenizer that --pre {pre} chose (leave --pre out, or choose another)"


def difference(text: str, ids: Sequence[int], wanted: Sequence[int]) -> str:
    """A text and where its ids differ first, with what follows there."""
    both = zip(ids, wanted, strict=False)
    first = next((k for k, (one, other) in enumerate(both) if one != other), min(len(ids), len(wanted)))
    shown = text if len(text) <= ROOM else f"{text[:ROOM]}…"
    there, here = list(ids[first : first + 8]), list(wanted[first : first + 8])
    return f"{shown!r} from token {first} on: {there}, expected {here}"


def _same(found: bytes, text: str) -> bool:
    return found in {text.encode(), text.replace(SPACE, " ").encode()}


def _text(data: bytes) -> str:
    return repr(data.decode("utf-8", "replace"))
