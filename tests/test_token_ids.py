"""llama.cpp's own vectors, over as much of each vocabulary as they need: `tests/reference/make_token_ids.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vocabs import ask_llama, write_vocab

from converters.spec import Tokens
from exporter.tokenizer import find_tokenizer_files, read_tokenizer
from exporter.tokenizer.cuts import made, row_of
from exporter.tokenizer.spec import document

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "reference" / "token_ids.json").read_text("utf-8"))


@pytest.mark.parametrize("stem", sorted(GOLDEN))
def test_vectors_of_small_vocabularies(stem: str, tmp_path: Path) -> None:
    said = GOLDEN[stem]
    row = row_of(said["pre"])
    model: dict[str, Any] = {"vocab": {text: k for k, text in enumerate(said["vocab"])}, "merges": said["merges"]}
    parts: dict[str, Any] = {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}}
    if row is None:
        model["byte_fallback"] = True
    else:
        parts = {"pre_tokenizer": made(row.steps)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document(model, [], **parts)), encoding="utf-8")
    rows, end = len(said["vocab"]), {"eos_token_id": 0}  # some end of text must be named
    tokenizer = read_tokenizer(find_tokenizer_files(tmp_path), end, rows, Tokens(pre=said["pre"]))
    assert ask_llama(write_vocab(tokenizer, tmp_path / "v.gguf"), said["texts"])[1] == said["ids"]
