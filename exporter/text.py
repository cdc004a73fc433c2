"""Text for a terminal, a page or a JSON file, whatever the names in it hold."""

import json
import unicodedata
from collections.abc import Callable, Mapping
from html import escape
from math import isfinite

STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what is no sign: control and format characters, lone surrogates, ends of lines."""
JOINERS = frozenset("\u200c\u200d")
"""Format characters that scripts and emoji are written with; they steer nothing."""


def printable(text: str) -> str:
    """A line of text, its control characters as Python's escapes: a name cannot steer a terminal, or hide itself."""
    return _escaped(text, lambda char: repr(char)[1:-1])


def printable_lines(text: str) -> str:
    """Several such lines, laid out by us: their ends and tabs stay."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def html_text(text: str) -> str:
    """Such lines, for a page that shows them as they are."""
    return escape(printable_lines(text))


def json_text(document: object) -> str:
    """A document as JSON, indented, that encodes and parses everywhere: what no sign is escaped, NaN is null."""
    text = json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False)
    return "\n".join(_escaped(line, lambda char: json.dumps(char)[1:-1]) for line in text.split("\n"))


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(escape(char) if _steers(char) else char for char in text)


def _steers(char: str) -> bool:
    return unicodedata.category(char) in STEERING and char not in JOINERS


def _finite(value: object) -> object:
    """A value without the numbers that JSON has no word for: null in their place."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value
