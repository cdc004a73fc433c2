"""Tiny models' config.json with other fields, and what is read of it."""

import json
from pathlib import Path
from typing import Any

from tiny import TINY

from converters import find
from converters.spec import Family
from exporter.config import complete, read_config


def family_of(name: str) -> Family:
    family = find(TINY[name].architecture)
    assert family is not None
    return family


def written_config(name: str, folder: Path, **fields: object) -> Path:
    """A tiny model's config.json (its text part) with other fields; None takes one away."""
    config: dict[str, Any] = {"architectures": [TINY[name].architecture]} | dict(TINY[name].config)
    folder.mkdir(exist_ok=True)
    kept = {key: value for key, value in (config | fields).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder / "config.json"


def read_fields(file: Path, name: str) -> dict[str, object]:
    return complete(read_config(file), family_of(name), file)[0]
