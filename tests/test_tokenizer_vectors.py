"""llama.cpp's own vectors: vocabularies taken out of its GGUF files, put into a tokenizer.json, and exported again.

``LLAMA_CPP`` names llama.cpp's source tree (``vendor/llama.cpp`` of llama-cpp-python 0.3.36's source distribution),
whose folder ``models`` holds the vocabularies; without it the tests skip.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import pytest
from vocabs import ask_llama, write_vocab

from converters.spec import Tokens
from exporter.tokenizer import Tokenizer, find_tokenizer_files, read_tokenizer
from exporter.tokenizer.cuts import made, row_of
from exporter.tokenizer.pre_table import RAW
from exporter.tokenizer.sample import SAMPLE, expected_ids, prepared

MODELS = Path(os.environ.get("LLAMA_CPP", "/nonexistent")) / "models"
CONTROL, USER_DEFINED = 3, 4
# The vocabularies with vectors; those whose real tokenizer passes in test_tokenizer_families are not here again.
BYTE_LEVEL = {
    "deepseek-coder": "deepseek-coder",
    "deepseek-llm": "deepseek-llm",
    "falcon": "falcon",
    "gpt-2": "gpt-2",
    "mpt": "mpt",
    "qwen35": "qwen35",
    "refact": "refact",
    "starcoder": "starcoder",
}

pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="needs LLAMA_CPP, the source tree of llama.cpp")


def fields(stem: str) -> dict[str, Any]:
    reader = gguf.GGUFReader(MODELS / f"ggml-vocab-{stem}.gguf")
    found = {key: field.contents() for key, field in reader.fields.items()}
    return {key.removeprefix("tokenizer.ggml."): value for key, value in found.items() if key.startswith("tokenizer.g")}


def vectors(stem: str) -> tuple[list[str], list[list[int]]]:
    path = MODELS / f"ggml-vocab-{stem}.gguf"
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    texts = texts if texts[-1] else texts[:-1]
    lines = path.with_name(path.name + ".out").read_text("utf-8").split("\n")
    return texts, [[int(word) for word in line.split()] for line in lines[: len(texts)]]


def rebuilt(stem: str, folder: Path, facts: Tokens) -> Tokenizer:
    """Write a tokenizer.json of a vocabulary and read it as an export does."""
    said = fields(stem)
    flags = dict.fromkeys(("normalized", "lstrip", "rstrip", "single_word"), False)
    added = [
        {"id": token, "content": text, "special": kind == CONTROL, **flags}
        for token, (text, kind) in enumerate(zip(said["tokens"], said["token_type"], strict=True))
        if kind in {CONTROL, USER_DEFINED}
    ]
    merges = [[merge[: merge.index(" ", 1)], merge[merge.index(" ", 1) + 1 :]] for merge in said["merges"]]
    vocab = {text: token for token, text in enumerate(said["tokens"])}
    merges = [pair for pair in merges if "".join(pair) in vocab and pair[0] in vocab and pair[1] in vocab]
    parts = dict.fromkeys(("post_processor", "decoder", "truncation", "padding", "normalizer", "pre_tokenizer"))
    model: dict[str, Any] = {"type": "BPE", "vocab": vocab, "merges": merges}
    row = row_of(BYTE_LEVEL.get(stem, ""))
    if row is not None:
        parts |= {"pre_tokenizer": made(row.steps), "normalizer": {"type": "NFC"} if row.nfc else None}
        model["ignore_merges"] = bool(row.ignore_merges)
    else:
        parts["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        model |= {"byte_fallback": True, "fuse_unk": True, "unk_token": said["tokens"][said["unknown_token_id"]]}
    folder.mkdir()
    spec = {"version": "1.0", **parts, "added_tokens": added, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    return read_tokenizer(find_tokenizer_files(folder), {}, len(vocab), facts)


@pytest.mark.parametrize("stem", [*sorted(BYTE_LEVEL), "gemma-4"])
def test_vectors(stem: str, tmp_path: Path) -> None:
    facts = Tokens(pre="gemma4") if stem == "gemma-4" else Tokens(pre=BYTE_LEVEL[stem])
    tokenizer = rebuilt(stem, tmp_path / "run", facts)
    assert tokenizer.metadata.get("tokenizer.ggml.pre") == BYTE_LEVEL.get(stem)
    assert tokenizer.metadata["tokenizer.ggml.model"] == RAW.get(str(facts.pre), "gpt2")
    given, truth = vectors(stem)
    texts = [*given, *prepared((*SAMPLE, *given), tokenizer)]
    parsed, plain, _ = ask_llama(write_vocab(tokenizer, tmp_path / "v.gguf"), texts)
    assert plain[: len(given)] == truth
    kept = texts[len(given) :]
    expected = expected_ids(tmp_path / "run" / "tokenizer.json", kept, tokenizer)
    assert [text for text, a, b in zip(kept, parsed[len(given) :], expected, strict=True) if a != b] == []
