"""Make token_ids.json: llama.cpp's own vectors, with as much of each vocabulary as they need.

``python make_token_ids.py LLAMA_CPP`` with LLAMA_CPP the source tree of llama.cpp (``vendor/llama.cpp`` of the source
distribution of llama-cpp-python 0.3.36), whose folder ``models`` has the vocabularies and the vectors. Of a vocabulary
are kept: single characters, and the tokens and merges that llama.cpp's ids of the texts are made of; a merge that no
text needs would not be done without it either. Ids are renumbered in the order of the vocabulary.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import gguf

STEMS = {"gpt-2": "gpt-2", "falcon": "falcon", "deepseek-llm": "deepseek-llm", "qwen35": "qwen35", "gemma-4": "gemma4"}


def used(tokens: list[str], ids: list[int], ranks: dict[tuple[str, str], int]) -> set[tuple[str, str]]:
    """Return the merges of which the tokens are made, each from single characters."""
    found = set()
    for token in {tokens[number] for number in ids}:
        parts = [*token]
        while len(parts) > 1:
            known = [(ranks[pair], k) for k, pair in enumerate(pairwise(parts)) if pair in ranks]
            if not known:
                break
            _, k = min(known)
            found.add((parts[k], parts[k + 1]))
            parts[k : k + 2] = [parts[k] + parts[k + 1]]
    return found


def small(models: Path, stem: str) -> dict[str, object]:
    """Return one vocabulary's part, the texts and the ids."""
    path = models / f"ggml-vocab-{stem}.gguf"
    fields = gguf.GGUFReader(path).fields
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    merges = [(m[: m.index(" ", 1)], m[m.index(" ", 1) + 1 :]) for m in fields["tokenizer.ggml.merges"].contents()]
    ranks = {pair: rank for rank, pair in reversed([*enumerate(merges)])}
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    texts = texts if texts[-1] else texts[:-1]
    lines = path.with_name(path.name + ".out").read_text("utf-8").split("\n")[: len(texts)]
    ids = [[int(word) for word in line.split()] for line in lines]
    every = [number for line in ids for number in line]
    pairs = sorted(used(tokens, every, ranks), key=ranks.__getitem__)
    kept = {*every} | {k for k, text in enumerate(tokens) if text in {part for pair in pairs for part in pair}}
    kept |= {k for k, text in enumerate(tokens) if text in {"".join(pair) for pair in pairs}}
    bytes_too = {k for k, text in enumerate(tokens) if len(text) == 1 and ord(text) < 0x144}
    order = sorted(kept | bytes_too | {k for k, text in enumerate(tokens) if text.startswith("<0x")})
    number = {old: new for new, old in enumerate(order)}
    return {
        "pre": STEMS[stem],
        "vocab": [tokens[k] for k in order],
        "merges": [list(pair) for pair in pairs],
        "texts": texts,
        "ids": [[number[old] for old in line] for line in ids],
    }


def main(models: Path) -> None:
    """Write token_ids.json beside this script."""
    made = {stem: small(models, stem) for stem in STEMS}
    lines = ",\n".join(f"{json.dumps(stem)}: {json.dumps(value, ensure_ascii=False)}" for stem, value in made.items())
    (Path(__file__).parent / "token_ids.json").write_text("{" + lines + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "models")
