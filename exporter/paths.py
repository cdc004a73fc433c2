"""Paths that every program can open."""

import os
from pathlib import Path

from exporter.errors import GgufxError


def require_utf8(path: Path, error: type[GgufxError], advice: str) -> None:
    """Such an error, with what to do, for a path that is not in UTF-8.

    Neither safetensors nor every program that reads GGUF files opens one.
    """
    octets = os.fsencode(path)
    try:
        octets.decode()
    except UnicodeDecodeError:
        shown = octets.decode(errors="backslashreplace")
        raise error(f"{shown}: this path is not in UTF-8. {advice}") from None
