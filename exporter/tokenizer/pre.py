r"""The pre-tokenizer: from the structure of tokenizer.json to llama.cpp's name for it.

llama.cpp knows pre-tokenizers by name only; the name decides the regular expressions that cut a text into words, and
whether a word that is a token is taken whole (``ignore_merges``). `exporter.tokenizer.pre_table` has the structure that
gives the same words for every name. Several names behave alike, which is why the name may differ from the one that
llama.cpp's converter finds by its hash of token ids.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

from exporter.errors import TokenizerError
from exporter.tokenizer.pre_table import ALL_GAPS, BYTES, DIGITS, GPT2, NAMES, NO_ROW, RAW, SUFFIX, TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.tokenizer.pre_table import Pre

# Other spellings of the same expressions.
SPELLINGS = (("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", SUFFIX), (r"[\p{L}]+", r"\p{L}+"))
PUNCTUATION = {"Contiguous": "punctuation", "Isolated": "punctuation marks one by one"}


def pre_tokenizer(spec: Mapping[str, Any], preferred: str | None = None) -> str:
    """Return llama.cpp's name of the pre-tokenizer of a byte-level tokenizer.json.

    Args:
        spec: tokenizer.json.
        preferred: The name that is taken where several cut alike and it is one of them.

    Raises:
        TokenizerError: No row of the table has this structure.
    """
    found = steps(spec.get("pre_tokenizer"))
    merges = bool(spec["model"].get("ignore_merges"))
    nfc = normalizes(spec)
    for row in TABLE:
        if row.steps == _gapless(found) and row.ignore_merges in {None, merges} and row.nfc in {None, nfc}:
            return preferred if preferred in row.names else row.name
    shown = _lines(found, ignore_merges=merges)
    nearest = max(TABLE, key=lambda row: _likeness(shown, _lines(row.steps, ignore_merges=row.ignore_merges)))
    raise TokenizerError(
        "tokenizer.json: llama.cpp has no pre-tokenizer that is known to cut words like this one.\n"
        f"Found:\n{shown}\n"
        f"Nearest known, {nearest.name}:\n{_lines(nearest.steps, ignore_merges=nearest.ignore_merges)}\n"
        f"{_difference(found, nearest)}"
        "If another name fits, give it with --pre NAME; the proof of token ids then decides.\n"
        f"The names: {', '.join(name for name in NAMES if name not in {*RAW, *NO_ROW})}."
    )


def unknown(name: str) -> str:
    """Say of a name that llama.cpp does not know which ones are near; all names in the last line."""
    near = ", ".join(difflib.get_close_matches(name, NAMES, n=5, cutoff=0.4)) or "none"
    return (
        f"llama.cpp knows no pre-tokenizer {name!r}; near: {near}. Give one of its names, or leave --pre out: the "
        f"tokenizer's structure then gives the name.\nAll {len(NAMES)} names: {', '.join(NAMES)}."
    )


def check_name(name: str, *, byte_level: bool) -> None:
    """Refuse a pre-tokenizer's name that does not fit.

    Raises:
        TokenizerError: llama.cpp does not know it, with near names; or it is of the other kind of tokenizer.
    """
    if name not in NAMES:
        raise TokenizerError(f"--pre {name}: {unknown(name)}")
    if name in NO_ROW:
        raise TokenizerError(f"--pre {name}: {NO_ROW[name]}. Give another name.")
    if (name in RAW) is byte_level:
        raise TokenizerError(
            f"--pre {name}: of a {'SentencePiece-style' if name in RAW else 'byte-level'} tokenizer, this one is "
            f"{'byte-level' if byte_level else 'SentencePiece-style'}. Leave --pre out, or give "
            f"{'a byte-level name' if byte_level else 'one of ' + ', '.join(sorted(RAW))}."
        )


def _gapless(found: tuple[str, ...]) -> tuple[str, ...]:
    """Spell a single expression that ends in any white space or symbol alike: nothing lies between its matches."""
    return tuple(step.removesuffix(ALL_GAPS) if step.endswith(r"\s+" + ALL_GAPS) else step for step in found)


def _difference(found: tuple[str, ...], nearest: Pre) -> str:
    """Show the first step that differs, from the character where it does."""
    pairs = zip((*found, "(none)"), (*nearest.steps, "(none)"), strict=False)
    ours, theirs = next(((one, other) for one, other in pairs if one != other), ("", ""))
    same = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    return f"They differ from here: {ours[same:]!r} against {theirs[same:]!r}.\n" if ours != theirs else ""


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
    if kind == "Punctuation" and item.get("behavior") in PUNCTUATION:
        return PUNCTUATION[item["behavior"]]
    return json.dumps(item, ensure_ascii=False, sort_keys=True)


def _split(item: Mapping[str, Any]) -> str:
    pattern = item.get("pattern") or {}
    if "Regex" not in pattern:
        return json.dumps(item, ensure_ascii=False, sort_keys=True)
    text = str(pattern["Regex"]).replace("\r", r"\r").replace("\n", r"\n").replace("\t", r"\t")
    for spelling, ours in SPELLINGS:
        text = text.replace(spelling, ours)
    behaviour = (str(item.get("behavior")), bool(item.get("invert")))
    suffixes = {("Isolated", False): "", ("Removed", True): ALL_GAPS}
    return f"split {text}" + suffixes.get(behaviour, f", {behaviour[0]}, invert={behaviour[1]}")


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def _lines(found: tuple[str, ...], *, ignore_merges: bool | None) -> str:
    return "\n".join(f"  {line}" for line in (*(found or ("(none)",)), f"ignore_merges: {ignore_merges}"))
