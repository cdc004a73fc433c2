"""What a merged checkpoint says of itself: the base's licence, and merge.json, a record of what it was made of."""

import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import RunError
from exporter.report.compose import merge_block
from exporter.text import json_text

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.run import Run

RECORD = "merge.json"
SCHEMA = 1
LICENCES = re.compile(r"(?:licen[cs]e|notice|use_policy)", re.IGNORECASE)
"""How the names of files begin that a model's terms ask to be handed on with it."""
COMMIT = re.compile(r"[0-9a-f]{40}")
MOST = 1 << 20
"""Bytes of such a file; they are some kilobytes of text."""


def licences(base: Path) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The contents of a base's LICENSE, NOTICE and USE_POLICY files by name, and the names of those that are no text.

    No text is what is no file, holds a zero byte or more than ``MOST`` bytes, or is a link to somewhere else. RunError
    for a file that cannot be read.
    """
    found: dict[str, bytes] = {}
    others = []
    for path in sorted(base.iterdir()):
        if LICENCES.match(path.name):
            content = _text(path) if _is_of(path, base) else None
            if content is None:
                others.append(path.name)
            else:
                found[path.name] = content
    return found, tuple(others)


def _is_of(path: Path, base: Path) -> bool:
    """Whether a file lies in a model's folder, or, of a snapshot in the Hub's cache, among that repository's files."""
    real, home = Path(os.path.realpath(path)), base.resolve()  # which, unlike Path.resolve, takes links in a circle
    cache = (home.parent.parent / "blobs",) if home.parent.name == "snapshots" else ()
    return real.is_file() and any(real.is_relative_to(place) for place in (home, *cache))


def _text(path: Path) -> bytes | None:
    """A file's content; None for one that is too large, or no text."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST + 1)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}). Copy the file again.") from error
    return None if len(content) > MOST or b"\0" in content else content


def record(run: "Run", source: "Merged", made: Mapping[str, Any], hashes: Mapping[Path, str]) -> bytes:
    """The text of merge.json: no paths and no time, so that the same inputs make the same bytes.

    Args:
        run: the run.
        source: its finished weights, all read.
        made: what was written: type, head, tensors, bytes.
        hashes: SHA-256 of the base's folder and of each adapter's, as a report has them; null for one that is missing.
    """
    adapters = [
        {
            "name": adapter.name,
            "method": adapter.method,
            "weight": adapter.weight,
            "sha256": hashes.get(adapter.folder),
            "settings": adapter.settings,
        }
        for adapter in run.adapters
    ]
    document = {
        "schema": SCHEMA,
        "ggufx": version("ggufx"),
        "name": run.name,
        "trainer": run.trainer,
        "architecture": str(run.config["architecture"]),
        "base": {"name": _base_name(run), "revision": _revision(run), "sha256": hashes.get(run.base)},
        "adapters": adapters,
        "qlora_base": run.rounded,
        "moe_lora_layout": run.packing,
        "merge": merge_block(source) if run.adapters else None,
        **made,
    }
    return (json_text(document) + "\n").encode()


def _base_name(run: "Run") -> str:
    """The base's Hub id, or its folder's name without the path to it."""
    given = Path(os.path.expanduser(run.base_name))  # noqa: PTH111  (which takes a user that there is not)
    return run.base.name if given.is_dir() else run.base_name


def _revision(run: "Run") -> str | None:
    """The commit of a base that lies in the Hub's cache; None for any other folder."""
    cached = run.base.parent.name == "snapshots" and COMMIT.fullmatch(run.base.name)
    return run.base.name if cached else None
