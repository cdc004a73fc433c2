r"""The pre-tokenizer: from the structure of tokenizer.json to llama.cpp's name for it.

llama.cpp knows pre-tokenizers by name only; the name decides the regular expressions that cut a text into words, and
whether a word that is a token is taken whole (``ignore_merges``). The table below holds for each name the structure
that gives the same words, read off the tokenizer.json files of the models the name was made for; the regular
expressions of each name stand in llama.cpp's src/llama-vocab.cpp. Several names behave alike there, which is
why the name may differ from the one that llama.cpp's converter finds by its hash of token ids.
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Mapping

WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+{suffix}"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*{suffix}"
)
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES

LLAMA3 = rf"split {SUFFIX}|{WORDS}|\p{{N}}{{1,3}}|{REST}"
QWEN2 = rf"split {SUFFIX}|{WORDS}|\p{{N}}|{REST}"
QWEN35 = (
    rf"split {SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}"
)
TEKKEN = "split " + CASED.replace("{suffix}", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
GPT4O = "split " + CASED.replace("{suffix}", SUFFIX + "?") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
DEEPSEEK = (
    r"split [!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + SPACES
).replace('\\"', '"')
ASCII_CASE = frozenset(("tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"))
ALL_GAPS = ", keeping what matches"  # the expression matches every character, so it cuts as "isolated" does
HAN = "split [一-龥ࠀ-一가-퟿]+"
DIGITS = "digits one by one"
BYTES = "bytes"
GPT2 = "bytes, cut as in GPT-2"


@dataclass(frozen=True)
class Pre:
    """One row: the steps of a pre-tokenizer and what is set beside them; None fits either way."""

    name: str
    steps: tuple[str, ...]
    ignore_merges: bool | None = False
    nfc: bool | None = None


TABLE = (
    Pre("llama-bpe", (LLAMA3, BYTES), ignore_merges=True),
    Pre("dbrx", (LLAMA3, BYTES)),
    Pre("dbrx", (LLAMA3 + ALL_GAPS, BYTES)),
    Pre("qwen2", (QWEN2, BYTES)),
    Pre("qwen35", (QWEN35, BYTES)),
    Pre("tekken", (TEKKEN, BYTES), ignore_merges=True),
    Pre("gpt-4o", (GPT4O, BYTES)),
    Pre("gpt-4o", (GPT4O + ALL_GAPS, BYTES)),
    Pre("llama4", (GPT4O, BYTES), ignore_merges=True),
    Pre("deepseek-v3", (r"split \p{N}{1,3}", "split [一-龥\u3040-ゟ\u30a0-ヿ]+", DEEPSEEK, BYTES)),
    Pre("deepseek-coder", (r"split [\r\n]", r"split \s?\p{L}+", r"split \s?\p{P}+", HAN, DIGITS, BYTES)),
    Pre("command-r", (DIGITS, GPT2), nfc=True),
    Pre("smollm", (DIGITS, GPT2), nfc=False),
    Pre("olmo", (GPT2,), nfc=True),
    Pre("gpt-2", (GPT2,), nfc=False),
    Pre("falcon", ("punctuation", GPT2, "digits together", "split [0-9][0-9][0-9]")),
)


def pre_tokenizer(spec: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of the pre-tokenizer of a byte-level tokenizer.json.

    Raises:
        TokenizerError: No row of the table has this structure.
    """
    found = steps(spec.get("pre_tokenizer"))
    merges = bool(spec["model"].get("ignore_merges"))
    nfc = normalizes(spec)
    for row in TABLE:
        if row.steps == found and row.ignore_merges in {None, merges} and row.nfc in {None, nfc}:
            return row.name
    shown = _lines(found, ignore_merges=merges)
    nearest = max(TABLE, key=lambda row: _likeness(shown, _lines(row.steps, ignore_merges=row.ignore_merges)))
    raise TokenizerError(
        "tokenizer.json: llama.cpp has no pre-tokenizer that is known to cut words like this one.\n"
        f"Found:\n{shown}\n"
        f"Nearest known, {nearest.name}:\n{_lines(nearest.steps, ignore_merges=nearest.ignore_merges)}\n"
        "If another name fits, give it with --pre NAME (the names stand in llama.cpp's src/llama-vocab.cpp); "
        "the proof of token ids then decides."
    )


def normalizes(spec: Mapping[str, Any]) -> bool:
    """Say whether a byte-level tokenizer.json applies NFC, which llama.cpp does not.

    Raises:
        TokenizerError: It changes the text in another way.
    """
    kinds = [str(item.get("type")) for item in flat(spec.get("normalizer"), "normalizers")]
    if any(kind != "NFC" for kind in kinds):
        raise TokenizerError(
            f"tokenizer.json: its normalizer is {' then '.join(kinds)}; llama.cpp's byte-level tokenizer changes no "
            "text (NFC is tolerated and reported). Such a model cannot be exported faithfully."
        )
    return bool(kinds)


def steps(pre: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Spell a pre-tokenizer's steps as lines that can be compared and read."""
    return tuple(_step(item) for item in flat(pre, "pretokenizers"))


def flat(item: Mapping[str, Any] | None, children: str) -> list[Mapping[str, Any]]:
    """Return the items of nested sequences in order."""
    if item is None:
        return []
    if item.get("type") == "Sequence":
        return [leaf for child in item[children] for leaf in flat(child, children)]
    return [item]


def _step(item: Mapping[str, Any]) -> str:
    kind = item.get("type")
    if kind == "Split":
        return _split(item)
    if kind == "ByteLevel":
        prefix = " after a space" if item.get("add_prefix_space") else ""
        return (GPT2 if item.get("use_regex", True) else BYTES) + prefix
    if kind == "Digits":
        return DIGITS if item.get("individual_digits") else "digits together"
    if kind == "Punctuation" and item.get("behavior") == "Contiguous":
        return "punctuation"
    return json.dumps(item, ensure_ascii=False, sort_keys=True)


def _split(item: Mapping[str, Any]) -> str:
    pattern = item.get("pattern") or {}
    if "Regex" not in pattern:
        return json.dumps(item, ensure_ascii=False, sort_keys=True)
    text = str(pattern["Regex"]).replace("\r", r"\r").replace("\n", r"\n").replace("\t", r"\t")
    behaviour = (str(item.get("behavior")), bool(item.get("invert")))
    suffixes = {("Isolated", False): "", ("Removed", True): ALL_GAPS}
    return f"split {text}" + suffixes.get(behaviour, f", {behaviour[0]}, invert={behaviour[1]}")


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def _lines(found: tuple[str, ...], *, ignore_merges: bool | None) -> str:
    return "\n".join(f"  {line}" for line in (*(found or ("(none)",)), f"ignore_merges: {ignore_merges}"))


def cuts_alike(name: str, text: str) -> bool:
    """Say whether llama.cpp cuts the text as tokenizer.json does, by what is known of the pre-tokenizer's name.

    For the names in `ASCII_CASE` its expressions know upper and lower case of A to Z only, and take no combining mark
    into a word: most Indic and Thai words, Arabic and Hebrew with vowel signs, and mixtures like ``HÄUSER`` come out in
    other pieces, with the same text and other token ids.
    """
    if name not in ASCII_CASE:
        return True
    if any(unicodedata.category(character).startswith("M") for character in text):
        return False
    words = "".join(character if character.isalpha() else " " for character in text).split()
    return all(_case_is_plain(word) for word in words)


def _case_is_plain(word: str) -> bool:
    if word.isascii() or word[1:] == word[1:].lower():
        return True
    return word == word.upper() and not any(character.isascii() for character in word)
