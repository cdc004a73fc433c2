"""The words into which a pre-tokenizer cuts: that of tokenizer.json, and what llama.cpp makes of its name."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend

from exporter.tokenizer.pre_table import ALL_GAPS, BYTES, DIGITS, GPT2, TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.tokenizer.pre_table import Pre

PLAIN: dict[str, dict[str, Any]] = {
    BYTES: {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    GPT2: {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    DIGITS: {"type": "Digits", "individual_digits": True},
    "digits together": {"type": "Digits", "individual_digits": False},
    "punctuation": {"type": "Punctuation", "behavior": "Contiguous"},
    "punctuation marks one by one": {"type": "Punctuation", "behavior": "Isolated"},
}


def made(steps: Sequence[str]) -> dict[str, Any]:
    """Return the ``pre_tokenizer`` of tokenizer.json that does these, as `exporter.tokenizer.pre.steps` says them."""
    return {"type": "Sequence", "pretokenizers": [PLAIN.get(step) or _split(step) for step in steps]}


def _split(step: str) -> dict[str, Any]:
    text = step.removeprefix("split ")
    kept = text.endswith(ALL_GAPS)
    pattern = {"Regex": text.removesuffix(ALL_GAPS)}
    return {"type": "Split", "pattern": pattern, "behavior": "Removed" if kept else "Isolated", "invert": kept}


def cuts_alike(name: str, text: str) -> bool:
    """Say whether llama.cpp cuts the text as tokenizer.json does, by what is known of the pre-tokenizer's name.

    For most names it always does. For those with a limit in the table, both are done here and compared: Indic, Thai,
    Arabic or Hebrew words with marks, and mixtures like ``HÄUSER``, may come out in other pieces, the same text
    in other tokens.
    """
    row = row_of(name)
    if row is None or row.limit is None:
        return True
    return cut(row.steps, text) == cut(row.engine, text)


@cache
def row_of(name: str) -> Pre | None:
    """Return the row of a name, None where the table has none."""
    return next((row for row in TABLE if name in row.names), None)


def cut(steps: tuple[str, ...], text: str) -> list[tuple[int, int]]:
    """Return the words as ranges of characters."""
    return [span for _, span in _cutter(steps).pre_tokenizer.pre_tokenize_str(text)]


@cache
def _cutter(steps: tuple[str, ...]) -> Backend:
    model = {"type": "BPE", "vocab": {}, "merges": []}
    parts = dict.fromkeys(("normalizer", "post_processor", "decoder", "truncation", "padding"))
    spec: dict[str, Any] = {"version": "1.0", **parts, "added_tokens": [], "pre_tokenizer": made(steps), "model": model}
    return Backend.from_str(json.dumps(spec))
