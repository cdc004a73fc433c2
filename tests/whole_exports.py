"""Whole exports of a tiny Llama, and what is asked of their folders and reports."""

import hashlib
from pathlib import Path
from typing import Any

from exporter import Options, export, load_profile

REPORTS = {"report.json", "report.md", "report.html"}
Q8, Q4, BF16 = "run-139K-Q8_0.gguf", "run-139K-Q4_0.gguf", "run-139K-BF16.gguf"


def export_to(out: Path, run: Path, *levels: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401  (by name)
    """The report of an export; without measuring, unless a text is given."""
    asked = Options(**{"verify": "text" in options, "threads": 1} | options)
    profiles = [load_profile(level) for level in levels]
    return dict(export(str(run), profiles, out, options=asked, progress=lambda _step, _done, _total: None)[0])


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*")}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def level_of(document: dict[str, Any], quant: str) -> dict[str, Any]:
    return next(dict(level) for level in document["levels"] if level["quant"] == quant)
