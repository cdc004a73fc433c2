"""Parts of a tokenizer.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def document(model: Mapping[str, Any], added: Iterable[tuple[int, str, bool]], **parts: object) -> dict[str, Any]:
    """A whole tokenizer.json: its model, its added tokens as ``(id, text, special)``, and what else there is."""
    tokens = [
        {"id": token, "content": text, "special": special, **dict.fromkeys(FLAGS, False)}
        for token, text, special in sorted(added)
    ]
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", **empty, **parts, "added_tokens": tokens, "model": {"type": "BPE", **model}}


def begins_with(bos: str | None, ids: Mapping[str, int]) -> dict[str, Any] | None:
    """The post_processor that puts BOS in front of a text; None without a BOS."""
    if bos is None or bos not in ids:
        return None
    token, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    known = {bos: {"id": bos, "ids": [ids[bos]], "tokens": [bos]}}
    return {"type": "TemplateProcessing", "single": [token, text], "pair": [token, text], "special_tokens": known}
