"""Tokenizers that are a list of byte strings by rank: Mistral's tekken.json, and tiktoken's files."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.errors import TokenizerError
from exporter.tokenizer.cuts import PLAIN, made
from exporter.tokenizer.pre_table import BYTES, KIMI, LLAMA3, QWEN2
from exporter.tokenizer.spec import begins_with, document
from exporter.tokenizer.vocab import content

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# tekken.json of before it listed them (as mistral-common does).
FIRST_CONTROLS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
LLAMA3_CONTROLS = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    *(f"<|reserved_special_token_{k}|>" for k in range(3, 248)),
)
QWEN_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{k}|>" for k in range(205)))


@dataclass(frozen=True)
class Program:
    """What the program that reads a tiktoken file knows beside the file, which holds ranks alone."""

    words: str  # the expression that cuts them
    whole: bool = False  # a word that is a token is taken whole, as llama.cpp's name of the expression has it
    controls: tuple[str, ...] = ()  # the special tokens behind the ranks
    bos: str | None = None
    nfc: bool = False


TIKTOKEN: Mapping[int, Program] = {  # by the number of ranks
    128000: Program(LLAMA3, whole=True, controls=LLAMA3_CONTROLS, bos="<|begin_of_text|>"),
    151643: Program(QWEN2, controls=QWEN_CONTROLS, nfc=True),
    163584: Program(KIMI),
}


def is_tiktoken(data: bytes) -> bool:
    """Whether a tokenizer.model is tiktoken's: lines of base64 and a rank."""
    words = data.partition(b"\n")[0].split()
    return len(words) == 2 and words[1].isdigit()  # noqa: PLR2004


def of_tekken(tekken: Mapping[str, Any]) -> dict[str, Any]:
    """Make a tokenizer.json of a tekken.json. KeyError, TypeError or ValueError where it is not as Mistral saves it."""
    config = tekken["config"]
    listed = tekken.get("special_tokens")
    controls = [item["token_str"] for item in listed] if listed is not None else [*FIRST_CONTROLS]
    if listed is not None and [item["rank"] for item in listed] != [*range(len(listed))]:
        raise ValueError("special_tokens are not in the order of their ranks")
    count, total = int(config.get("default_num_special_tokens") or len(controls)), int(config["default_vocab_size"])
    if not len(controls) <= count < total or total - count > len(tekken["vocab"]):
        raise ValueError(f"{total} tokens, {count} of them special, are not what vocab and special_tokens hold")
    pattern = config["pattern"]
    if not isinstance(pattern, str) or not all(isinstance(text, str) for text in controls):
        raise TypeError("pattern or a special token is no text")
    if any("rank" in item and item["rank"] != k for k, item in enumerate(tekken["vocab"])):
        raise ValueError("vocab is not in the order of its ranks")
    controls += [f"<SPECIAL_{k}>" for k in range(len(controls), count)]
    size = total - count
    ranks = {base64.b64decode(item["token_bytes"]): k for k, item in enumerate(tekken["vocab"][:size])}
    vocab, merges = vocabulary(ranks, count)
    vocab |= {text: token for token, text in enumerate(controls)}
    return document(
        {"vocab": vocab, "merges": merges, "ignore_merges": True},
        [(token, text, True) for token, text in enumerate(controls)],
        pre_tokenizer=made(("split " + pattern, BYTES)),
        decoder=PLAIN[BYTES],
        post_processor=begins_with("<s>", vocab),
    )


def of_tiktoken(data: bytes, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Make a tokenizer.json of a tiktoken file.

    Raises:
        TokenizerError: It is of no tokenizer whose words and special tokens are known here.
    """
    lines = [line.split() for line in data.splitlines() if line]
    ranks = {base64.b64decode(text): int(rank) for text, rank in lines}
    if len(ranks) not in TIKTOKEN:
        raise TokenizerError(
            f"{path}: a tiktoken file of {len(ranks)} ranks, which does not say how words are cut. Known are those of "
            f"{', '.join(map(str, TIKTOKEN))} (Llama 3, Qwen, Kimi K2). Put the model's tokenizer.json beside it."
        )
    program = TIKTOKEN[len(ranks)]
    vocab, merges = vocabulary(ranks, 0)
    added = {len(ranks) + k: text for k, text in enumerate(program.controls)}
    declared = config.get("added_tokens_decoder") or {}
    added |= {int(token): text for token, item in declared.items() if (text := content(item))}
    if not added:
        raise TokenizerError(
            f"{path}: a tiktoken file without its special tokens; tokenizer_config.json names none in "
            "added_tokens_decoder. Put that file, or the model's tokenizer.json, beside it."
        )
    return document(
        {"vocab": vocab, "merges": merges, "ignore_merges": program.whole},
        [(token, text, True) for token, text in added.items()],
        normalizer={"type": "NFC"} if program.nfc else None,
        pre_tokenizer=made((program.words, BYTES)),
        decoder=PLAIN[BYTES],
        post_processor=begins_with(program.bos, {text: token for token, text in added.items()}),
    )


def vocabulary(ranks: Mapping[bytes, int], first: int) -> tuple[dict[str, int], list[list[str]]]:
    """Return token -> id, the ids counted from ``first``, and the merges in order.

    A token of rank r may be merged of any two tokens; where several pairs make it, those of lower ranks come first.
    """
    letters = alphabet()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        pairs = ((token[:k], token[k:]) for k in range(1, len(token)))
        known = [(ranks[left], ranks[right], left, right) for left, right in pairs if left in ranks and right in ranks]
        merges += [[spelled[left], spelled[right]] for _, _, left, right in sorted(known)]
    return {spelled[token]: rank + first for token, rank in ranks.items()}, merges


def alphabet() -> list[str]:
    """Return byte-level BPE's letter for each byte: itself where it can be seen, else one from 256 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]
