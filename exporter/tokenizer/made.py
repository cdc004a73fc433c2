"""A tokenizer.json where there is none: made of tekken.json, of a tiktoken file, or of a SentencePiece model.

Everything behind reads tokenizer.json only. The one made here lies in a temporary folder until the program ends.
"""

from __future__ import annotations

import atexit
import json
import shutil
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import TokenizerError
from exporter.tokenizer.pieces import of_sentencepiece
from exporter.tokenizer.ranks import is_tiktoken, of_tekken, of_tiktoken

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "ggufx-tokenizer-"

DAMAGED = (
    *(OSError, ValueError, KeyError, TypeError, IndexError, AttributeError),
    *(OverflowError, RecursionError, StopIteration, struct.error),
)
"""What a file that is not as tokenizers are saved makes its readers raise."""


def is_made(file: Path) -> bool:
    """Whether the file is no file of the user's, but made here."""
    return file.parent.name.startswith(PREFIX)


def with_tokenizer_json(files: Mapping[str, Path]) -> dict[str, Path]:
    """Add a tokenizer.json to a tokenizer's files, where there is none and it can be made of another.

    Raises:
        TokenizerError: The other file is damaged, or of a kind that llama.cpp's decoders do not have.
    """
    source = source_of(files)
    if "tokenizer.json" in files or source is None:
        return dict(files)
    config = files.get("tokenizer_config.json")
    return dict(files) | {"tokenizer.json": _written(source, config)}


def source_of(files: Mapping[str, Path]) -> Path | None:
    """The file that a tokenizer.json can be made of, None where there is none."""
    names = ("tekken.json", *(name for name in files if name.endswith(".tiktoken")), "tokenizer.model")
    return next((files[name] for name in names if name in files), None)


@cache
def _written(source: Path, config: Path | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(spec_of(source, config), ensure_ascii=False), encoding="utf-8")
    return file


def spec_of(source: Path, config: Path | None = None) -> dict[str, Any]:
    """Make tokenizer.json's content.

    Args:
        source: tekken.json, a tiktoken file, or tokenizer.model of either kind.
        config: tokenizer_config.json, which says the special tokens of a tiktoken file and whether BOS is added.

    Raises:
        TokenizerError: The source cannot be read, or llama.cpp has no such tokenizer.
    """
    try:
        data = source.read_bytes()
        said = json.loads(config.read_text(encoding="utf-8")) if config is not None else {}
        if source.name == "tekken.json":
            return of_tekken(json.loads(data))
        return of_tiktoken(data, said, source) if is_tiktoken(data) else of_sentencepiece(data, said, source)
    except DAMAGED as error:
        raise TokenizerError(
            f"{source}: cannot be read as a tokenizer ({type(error).__name__}: {error}). Copy the file again, or "
            "put the tokenizer.json of the model beside it."
        ) from error
