"""What a tokenizer is, in few words: its special tokens, and the file that each was taken from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.tokenizer.special import KINDS

if TYPE_CHECKING:
    from exporter.tokenizer import Tokenizer

GGML = "tokenizer.ggml."


def describe(tokenizer: Tokenizer) -> dict[str, object]:
    """A tokenizer's facts: kind, size, special tokens with their sources, what is put around a text, chat template.

    ``special`` has a key for each special token that is written, "eot" for the end of a turn where it is another token
    than the end of text; ``ends`` are all tokens that some file has for an end, who says so, and why llama.cpp stops
    there (``no``: it does not); ``chat_template`` is the file of the default template, None where there is none.
    """
    metadata, sources = tokenizer.metadata, tokenizer.sources
    tokens = metadata[f"{GGML}tokens"]
    special = {}
    for kind, key in (KINDS | {"eot": "eot"}).items():
        token = metadata.get(f"{GGML}{key}_token_id")
        if isinstance(token, int) and isinstance(tokens, tuple):
            special[kind] = {"id": token, "text": tokens[token], "source": sources.get(kind, "the family")}
    return {
        "model": metadata[f"{GGML}model"],
        "pre": metadata.get(f"{GGML}pre", metadata[f"{GGML}model"]),
        "tokens": len(tokens) if isinstance(tokens, tuple) else 0,
        "special": special,
        "ends": [end.document for end in tokenizer.ends],
        "adds_bos": metadata.get(f"{GGML}add_bos_token", False),
        "chat_template": sources.get("chat_template"),
        **({"scores": sources["scores"]} if "scores" in sources else {}),
    }
