"""SentencePiece's tokenizer.model as a tokenizer.json: its pieces, and the merges that its scores mean."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.errors import TokenizerError
from exporter.tokenizer.spec import begins_with, document
from exporter.tokenizer.vocab import SPACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

KINDS = {1: "Unigram", 2: "BPE", 3: "Word", 4: "Char"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
BPE = 2


@dataclass(frozen=True)
class Model:
    """What a SentencePiece model says (the field numbers are those of sentencepiece_model.proto)."""

    pieces: tuple[tuple[str, float, int], ...]  # text, score, type
    trainer: Mapping[int, Any]
    normalizer: Mapping[int, Any]


def read_model(data: bytes) -> Model:
    """Read a SentencePiece model. ValueError where it is none."""
    pieces, parts = [], {2: b"", 3: b""}
    for number, value in _fields(data):
        if number == 1:
            said = dict(_fields(value))
            score = struct.unpack("<f", said[2])[0] if 2 in said else 0.0  # noqa: PLR2004
            pieces.append((said.get(1, b"").decode(), score, said.get(3, NORMAL)))
        elif number in parts:
            parts[number] = value
    if not pieces:
        raise ValueError("no pieces")
    return Model(tuple(pieces), dict(_fields(parts[2])), dict(_fields(parts[3])))


def of_sentencepiece(data: bytes, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Make a tokenizer.json of a SentencePiece model trained as BPE.

    Raises:
        TokenizerError: It is trained otherwise, or changes texts in a way that llama.cpp does not.
        ValueError: It is no SentencePiece model.
    """
    model = read_model(data)
    _check(model, path)
    vocab = {text: token for token, (text, _, _) in enumerate(model.pieces)}
    added = [
        (token, text, kind != USER_DEFINED)
        for token, (text, _, kind) in enumerate(model.pieces)
        if kind in {UNKNOWN, CONTROL, USER_DEFINED}
    ]
    unknown = next(text for text, _, kind in model.pieces if kind == UNKNOWN)
    prefix = [{"type": "Prepend", "prepend": SPACE}] if model.normalizer.get(3, 1) else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    bos = next((text for token, (text, _, _) in enumerate(model.pieces) if token == model.trainer.get(41, 1)), None)
    return document(
        {"vocab": vocab, "merges": merges(model), "byte_fallback": True, "fuse_unk": True, "unk_token": unknown},
        added,
        normalizer={"type": "Sequence", "normalizers": [*prefix, replace]},
        post_processor=begins_with(bos, vocab) if config.get("add_bos_token", True) else None,
    )


def merges(model: Model) -> list[list[str]]:
    """Return the merges that the scores mean: those that make a piece of a higher score come first."""
    scores = {text: score for text, score, kind in model.pieces if kind == NORMAL}
    ids = {text: token for token, (text, _, _) in enumerate(model.pieces)}
    found = []
    for text, score in scores.items():
        pairs = ((text[:k], text[k:]) for k in range(1, len(text)))
        known = [(ids[left], ids[right], left, right) for left, right in pairs if left in scores and right in scores]
        found += [(-score, ids[text], *pair) for pair in known]
    return [[left, right] for *_, left, right in sorted(found)]


def _check(model: Model, path: Path) -> None:
    kind = model.trainer.get(3, 1)
    if kind != BPE:
        raise TokenizerError(
            f"{path}: a SentencePiece model trained as {KINDS.get(kind, kind)}, expected BPE. llama.cpp's tokenizer "
            "for decoders merges by scores, which gives other tokens: no supported family has such a model."
        )
    charsmap, extra = model.normalizer.get(2), model.normalizer.get(4, 1)
    if charsmap or extra:
        what = "normalizes Unicode" if charsmap else "removes spaces that follow spaces"
        raise TokenizerError(
            f"{path}: {what}, which llama.cpp does not do. Put the tokenizer.json beside it that the model was trained "
            "with, if that leaves texts as they are."
        )


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Read the fields of a protocol buffer: numbers as int, all else as bytes. ValueError where it is none."""
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _number(data, at)
            yield key >> 3, value
            continue
        length, at = (_number(data, at)) if wire == 2 else ({1: 8, 5: 4}.get(wire, -1), at)  # noqa: PLR2004
        if length < 0 or at + length > len(data):
            raise ValueError("no protocol buffer")
        yield key >> 3, data[at : at + length]
        at += length


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:  # noqa: PLR2004
            return value, at
