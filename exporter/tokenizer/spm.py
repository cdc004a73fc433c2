"""SentencePiece-style BPE with byte fallback: scores, token types, and the space in front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.errors import TokenizerError
from exporter.tokenizer.pre import flat
from exporter.tokenizer.vocab import BYTE, BYTE_TOKEN, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from exporter.tokenizer.vocab import Vocabulary

# The scores that llama.cpp's converter gives to what SentencePiece has no score for.
PAD_SCORE, ADDED_SCORE = -10000.0, -1000.0
WHITESPACE_SCORE = -1e9  # Llama's and Mistral's tokenizer.model: pieces of nothing but spaces are merged last

PREPEND = f"prepend {SPACE}"
REPLACE = f"spaces to {SPACE}"
NO_SPLIT = f"{REPLACE} (never splits)"


@dataclass(frozen=True)
class Pieces:
    """What tokenizer.model says of its pieces."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]


def read_pieces(path: Path) -> Pieces:
    """Read a SentencePiece model.

    Raises:
        TokenizerError: The file is no SentencePiece model.
    """
    from sentencepiece import SentencePieceProcessor  # noqa: PLC0415 - needed by some tokenizers only

    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise TokenizerError(
            f"{path}: no SentencePiece model ({error}). Copy it again, or take it away: tokenizer.json is enough."
        ) from error
    ids = range(model.vocab_size())
    kinds = ((model.is_unknown, UNKNOWN), (model.is_control, CONTROL), (model.is_unused, UNUSED), (model.is_byte, BYTE))
    return Pieces(
        texts=tuple(model.id_to_piece(token) for token in ids),
        scores=tuple(model.get_score(token) for token in ids),
        types=tuple(next((kind for says, kind in kinds if says(token)), NORMAL) for token in ids),
    )


def check_pieces(pieces: Pieces, vocabulary: Vocabulary, path: Path) -> None:
    """Compare tokenizer.model with tokenizer.json.

    Raises:
        TokenizerError: They differ in a token that no other file has renamed.
    """
    for token, piece in enumerate(pieces.texts):
        if vocabulary.base.get(token, vocabulary.text(token)) != piece and token not in vocabulary.added:
            raise TokenizerError(
                f"{path}: piece {token} is {piece!r}, tokenizer.json has {vocabulary.text(token)!r} there. They are "
                "of two models: take tokenizer.model away (tokenizer.json is enough), or give the right --base."
            )


def piece_types(
    texts: Sequence[str], types: Sequence[int], pieces: Pieces | None, declared: frozenset[int]
) -> list[int]:
    """Refine types: bytes and unused pieces, and what tokenizer.model says where no file ``declared`` the token."""
    known = pieces.types if pieces is not None else ()
    refined = []
    for token, (text, kind) in enumerate(zip(texts, types, strict=True)):
        piece = known[token] if token < len(known) and token not in declared else None
        refined.append(_piece_type(text, kind, piece))
    return refined


def _piece_type(text: str, kind: int, piece: int | None) -> int:
    if kind == CONTROL and piece == UNKNOWN:
        return UNKNOWN
    if kind != NORMAL:
        return kind
    if piece is not None:
        return piece
    if BYTE_TOKEN.fullmatch(text):
        return BYTE
    return UNUSED if text.startswith("[UNUSED") else NORMAL


def piece_scores(
    model: Mapping[str, Any], types: Sequence[int], pieces: Pieces | None, declared: frozenset[int]
) -> list[float]:
    """Return a score for each token: real ones where there are any, else ones that merge in the same order."""
    if pieces is not None:
        real = dict(enumerate(pieces.scores))
    else:
        real = {token: score for token, score in _merge_scores(model).items() if token < len(types)}
        real = {token: score for token, score in real.items() if types[token] in {NORMAL, BYTE, UNUSED}}
    rest = {UNUSED: PAD_SCORE}
    return [
        real[token] if token in real and token not in declared else rest.get(kind, ADDED_SCORE)
        for token, kind in enumerate(types)
    ]


def check_joins(model: Mapping[str, Any], types: Sequence[int]) -> None:
    """Compare what llama.cpp joins with what tokenizer.json does.

    llama.cpp joins any two neighbours that together are a piece, the ``tokenizers`` library only those that are among
    the merges. Neighbours are pieces, or single letters that are none.

    Raises:
        TokenizerError: A piece can be cut in two such parts, and their pair is not among the merges.
    """
    vocab: Mapping[str, int] = model["vocab"]
    marked = {text for text, token in vocab.items() if token >= len(types) or types[token] not in {NORMAL, UNUSED}}
    pieces, pairs = [text for text in vocab if text not in marked], set(merge_pairs(model))
    parts = set(pieces) | (set().union(*pieces) - marked)
    missing = [
        (text[:k], text[k:])
        for text in pieces
        for k in range(1, len(text))
        if text[k:] in parts and text[:k] in parts and (text[:k], text[k:]) not in pairs
    ]
    if not missing:
        return
    left, right = min(missing, key=lambda pair: (vocab["".join(pair)], pair))
    raise TokenizerError(
        f"tokenizer.json: model.merges lacks {len(missing)} pair(s), the first is {left!r} and {right!r}: their piece "
        f"{left + right!r} (token {vocab[left + right]}) is in the vocabulary. Expected, with byte_fallback, every "
        "pair whose piece there is: llama.cpp's SentencePiece tokenizer joins those too, and gives other ids. Take the "
        "tokenizer.json of the base model; or train with SentencePiece, whose pieces are so."
    )


def check_bytes(texts: Sequence[str]) -> None:
    """Look for the 256 tokens that llama.cpp spells unknown letters with.

    Raises:
        TokenizerError: Some are missing.
    """
    missing = sorted({f"<0x{byte:02X}>" for byte in range(256)} - set(texts))
    if missing:
        raise TokenizerError(
            f"tokenizer.json: byte_fallback is set, and {len(missing)} of the 256 byte tokens are not in the "
            f"vocabulary: {', '.join(missing[:5])}. llama.cpp cannot read letters that need them. Take the base's "
            "tokenizer.json, or train the tokenizer with all of them."
        )


def _merge_scores(model: Mapping[str, Any]) -> dict[int, float]:
    """Make the scores of which llama.cpp merges in the order of the merges of tokenizer.json.

    llama.cpp merges the pair whose result has the highest score. A SentencePiece model trained as BPE scores its
    pieces 0, -1, -2, … in the order of their ids, which is the order of its merges, spaces excepted. Where the merges
    confirm that, these very scores are made again; where not, a token's score is the rank of its first merge.
    """
    vocab: Mapping[str, int] = model["vocab"]
    ranks: dict[int, int] = {}
    for rank, (left, right) in enumerate(merge_pairs(model)):
        ranks.setdefault(vocab[left + right], rank)
    blank = {token for text, token in vocab.items() if text and not text.strip(SPACE)}
    order = sorted(ranks, key=ranks.__getitem__)
    solid = [token for token in order if token not in blank]
    if solid != sorted(solid):
        lowest = len(model["merges"])
        return {token: float(-ranks.get(token, lowest)) for token in vocab.values()}
    first = min(order, default=0)
    last = blank if order != sorted(order) else set()
    return {token: WHITESPACE_SCORE if token in last else float(min(first - token, 0)) for token in vocab.values()}


def merge_pairs(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Return the merges as pairs, each once; older files write each as one text.

    Of a pair that is there twice the ``tokenizers`` library goes by the last, llama.cpp by the first.
    """
    found: dict[tuple[str, str], None] = {}
    for merge in model["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        found.pop((left, right), None)
        found[left, right] = None
    return iter(found)


def space_prefix(spec: Mapping[str, Any], *, chats: bool) -> tuple[bool, list[str]]:
    """Say whether llama.cpp shall put a space before each piece of text, and what it then cannot do alike.

    Args:
        spec: tokenizer.json.
        chats: There is a chat template, so prompts begin with a special token.

    Raises:
        TokenizerError: Normalizer and pre-tokenizer do more than SentencePiece's handling of spaces.
    """
    found = [_normalizer(item) for item in flat(spec.get("normalizer"), "normalizers")]
    found += [_pre_tokenizer(item) for item in flat(spec.get("pre_tokenizer"), "pretokenizers")]
    lines = tuple(line for line in found if line != NO_SPLIT)
    if lines in {(PREPEND, REPLACE), (REPLACE, PREPEND)}:
        return True, []
    if lines in {(REPLACE,), ("metaspace never",)}:
        return False, []
    if lines == ("metaspace always",):
        return True, [f"Of ' a', tokenizer.json makes '{SPACE}a' and llama.cpp '{SPACE}{SPACE}a'."]
    if lines == ("metaspace first",):
        where = "plain text lacks the one in front" if chats else "it also stands behind special tokens"
        return not chats, [
            f"tokenizer.json puts {SPACE} before a text's first word only, llama.cpp before all or none: {where}."
        ]
    raise TokenizerError(
        f"tokenizer.json: llama.cpp's SentencePiece tokenizer cannot do this: {', then '.join(found) or '(nothing)'}. "
        f"Known: '{PREPEND}' and '{REPLACE}', '{REPLACE}' alone, or Metaspace with split=false."
    )


def _normalizer(item: Mapping[str, Any]) -> str:
    if item.get("type") == "Prepend" and item.get("prepend") == SPACE:
        return PREPEND
    if item.get("type") == "Replace" and item.get("pattern") == {"String": " "} and item.get("content") == SPACE:
        return REPLACE
    return f"normalizer {dict(item)}"


def _pre_tokenizer(item: Mapping[str, Any]) -> str:
    if item.get("type") == "Metaspace" and item.get("replacement") == SPACE and item.get("split") is False:
        return f"metaspace {item.get('prepend_scheme')}"
    if item.get("type") == "Split" and item.get("pattern") == {"String": " "}:
        return NO_SPLIT  # the normalizer has left no space to split at
    return f"pre-tokenizer {dict(item)}"


def added_warnings(vocabulary: Vocabulary, types: Sequence[int], *, prefix: bool) -> list[str]:
    """Name the added tokens that llama.cpp matches in another way than tokenizer.json."""
    words = [
        repr(added.text)
        for token, added in sorted(vocabulary.added.items())
        if added.normalized and prefix and types[token] == USER_DEFINED
    ]
    if not words:
        return []
    rule = "The tokenizer finds them behind a space only and swallows it, llama.cpp finds them anywhere"
    return [f"Added with normalized=true: {', '.join(words[:5])}. {rule}; with normalized=false the two agree."]
