"""Tokenizers made on the spot, built as the real families build theirs, from a handful of words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .values import Kind

Json = dict[str, Any]

WORDS = "▁the ▁of ▁and ▁to ▁in ▁is ▁that ▁it ▁was ▁for ▁on ▁are ▁with ▁this ▁have ▁you ing er ed ll 123 00 's .."
LETTERS = "▁" + "".join(map(chr, chain(range(33, 127)))) + "éüñßλжя中文"
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
THREE = r"\p{N}{1,3}"
DIGITS: Mapping[Kind, str] = MappingProxyType(
    {"llama3": THREE, "llama3-image": THREE, "qwen": r"\p{N}", "glm": r"\p{N}"}
)

LLAMA3_SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
]
QWEN_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
]
GLM_SPECIAL = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"]
SPECIAL: Mapping[Kind, list[str]] = MappingProxyType(
    {
        "llama3": LLAMA3_SPECIAL,
        "llama3-image": [*LLAMA3_SPECIAL[:-1], "[IMG_BREAK]"],
        "qwen": QWEN_SPECIAL,
        "glm": GLM_SPECIAL,
    }
)
GEMMA_NAMED = [
    *["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]"],
    *(f"<unused{i}>" for i in range(97)),
]
GEMMA_NAMED += ["<start_of_image>", "<end_of_image>", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n"]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES: Mapping[Kind, str] = MappingProxyType(
    {
        "spm": "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
        "spm-added": CHATML,
        "spm-inst": "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + '[/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}"
        "{% endif %}{% endfor %}",
        "llama3": "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        "qwen": CHATML,
        "glm": "[gMASK]<sop>{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        "gemma": "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + "
        "('model' if message['role'] == 'assistant' else message['role']) + '\\n' + message['content'] | trim + "
        "'<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
    }
)


@dataclass(frozen=True)
class Piece:
    """One entry of a SentencePiece model; `kind` is the number of its protobuf's enumeration."""

    text: str
    score: float
    kind: int


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def _prefixes(words: str) -> list[str]:
    """Every beginning of every word of two letters or more, short ones first: merges in an order that can be done."""
    parts = (word[:end] for word in words.split() for end in range(2, len(word) + 1))
    return sorted(dict.fromkeys(parts), key=len)


def _merges(merged: Sequence[str], vocab: Mapping[str, int]) -> list[list[str]]:
    """All ways to make each piece of two others, in the pieces' order, as converters of SentencePiece models write."""
    return [
        [text[:cut], text[cut:]]
        for text in merged
        for cut in range(1, len(text))
        if text[:cut] in vocab and text[cut:] in vocab
    ]


def _added(index: int, text: str, *, special: bool) -> Json:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": text, **flags, "special": special}


def _bpe_file(model: Json, added: list[Json], **steps: Json | None) -> Json:
    empty = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    head: Json = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    return head | steps | {"model": {"type": "BPE"} | empty | flags | model}


def _begin_with(token: str, index: int) -> Json:
    """A post-processor that puts one token in front."""
    begin = [{"SpecialToken": {"id": token, "type_id": kind}} for kind in (0, 1)]
    text = [{"Sequence": {"id": which, "type_id": kind}} for kind, which in enumerate("AB")]
    special = {token: {"id": token, "ids": [index], "tokens": [token]}}
    pair = [begin[0], text[0], begin[1], text[1]]
    return {"type": "TemplateProcessing", "single": [begin[0], text[0]], "pair": pair, "special_tokens": special}


def _byte_level(kind: Kind) -> Json:
    """tokenizer.json of a byte-level BPE: 256 bytes, merges, special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel  # noqa: PLC0415  (sorted, its letters are in GPT-2's order)

    merged = ["ĠĠ", "ĊĊ", *_prefixes(WORDS.replace("▁", "Ġ"))]
    vocab = {text: index for index, text in enumerate([*sorted(ByteLevel.alphabet()), *merged])}
    names = SPECIAL[kind]
    added = [_added(len(vocab) + i, text, special=text[1] == "|") for i, text in enumerate(names)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT % DIGITS[kind]}, "behavior": "Isolated", "invert": False}
    llama3 = {"type": "Sequence", "processors": [level, _begin_with(names[0], len(vocab))]}
    return _bpe_file(
        {"vocab": vocab, "merges": _merges(merged, vocab), "ignore_merges": kind.startswith("llama3")},
        added,
        normalizer=None if kind.startswith("llama3") else {"type": "NFC"},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]},
        post_processor=llama3 if kind.startswith("llama3") else level,
        decoder=level,
    )


def pieces(kind: Kind) -> list[Piece]:
    """What `tokenizer.model` holds: named pieces, bytes, merged pieces with falling scores, letters."""
    if kind.startswith("gemma"):
        kinds = {"<pad>": CONTROL, "<eos>": CONTROL, "<bos>": CONTROL, "<unk>": UNKNOWN}
        named = [Piece(text, 0.0, kinds.get(text, USER_DEFINED)) for text in GEMMA_NAMED]
    else:
        named = [Piece("<unk>", 0.0, UNKNOWN), Piece("<s>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL)]
        named += [Piece(text, 0.0, CONTROL) for text in ("[INST]", "[/INST]") if kind == "spm-inst"]
    single = [Piece(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    learned = enumerate([*_prefixes(WORDS), *LETTERS])
    return [*named, *single, *(Piece(text, -float(order), NORMAL) for order, text in learned)]


def _spm_json(kind: Kind, table: Sequence[Piece], extra: Sequence[str]) -> Json:
    """tokenizer.json with the same ids as the SentencePiece model."""
    gemma = kind.startswith("gemma")
    vocab = {piece.text: index for index, piece in enumerate(table)}
    named = [(i, p) for i, p in enumerate(table) if p.kind in {UNKNOWN, CONTROL, USER_DEFINED}]
    added = [_added(i, p.text, special=p.kind != USER_DEFINED or "turn" in p.text) for i, p in named]
    added += [_added(len(table) + i, text, special=True) for i, text in enumerate(extra)]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps: list[Json] = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
    steps += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    steps += [] if gemma else [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    begin = "<bos>" if gemma else "<s>"
    merged = [piece.text for piece in table if piece.kind == NORMAL and len(piece.text) > 1]
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]}
    model = {"vocab": vocab, "merges": _merges(merged, vocab), "unk_token": "<unk>"}
    return _bpe_file(
        model | {"fuse_unk": True, "byte_fallback": True},
        added,
        normalizer=space if gemma else prepend,
        pre_tokenizer=split if gemma else None,
        post_processor=_begin_with(begin, vocab[begin]),
        decoder={"type": "Sequence", "decoders": steps},
    )


def _spm_model(kind: Kind, table: Sequence[Piece]) -> bytes:
    """The SentencePiece protobuf itself."""
    from sentencepiece import sentencepiece_model_pb2 as proto  # noqa: PLC0415  (needs protobuf)

    gemma = kind.startswith("gemma")
    model = proto.ModelProto()
    for piece in table:
        model.pieces.add(piece=piece.text, score=piece.score, type=piece.kind)
    spec = model.trainer_spec
    spec.model_type, spec.vocab_size, spec.byte_fallback = proto.TrainerSpec.BPE, len(table), True
    ids = (3, 2, 1, 0) if gemma else (0, 1, 2, -1)
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = ids
    spec.bos_piece, spec.eos_piece = ("<bos>", "<eos>") if gemma else ("<s>", "</s>")
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = not gemma
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    return bytes(model.SerializeToString(deterministic=True))


CONFIGS: Mapping[Kind, Json] = MappingProxyType(
    {
        "spm": {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "llama3": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
        },
        "qwen": {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_bos_token": False,
            "add_prefix_space": False,
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
        },
        "glm": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
        },
        "gemma": {
            "tokenizer_class": "GemmaTokenizer",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
        },
    }
)


def _config(kind: Kind, added: Sequence[Json]) -> Json:
    """tokenizer_config.json."""
    like = next((name for name in ("gemma", "spm", "llama3") if kind.startswith(name)), kind)
    config = dict(CONFIGS[like])
    if kind.startswith(("spm", "gemma")):
        config |= {"add_bos_token": True, "add_eos_token": False}
    if kind == "spm-inst":
        config |= {"add_prefix_space": True}
    if kind == "spm-added":
        config |= {"eos_token": "<|im_end|>", "pad_token": "</s>"}
    decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
    common = {"clean_up_tokenization_spaces": False, "model_max_length": 512, "added_tokens_decoder": decoder}
    return config | common | {"chat_template": TEMPLATES[kind if kind in TEMPLATES else like]}


def write_tokenizer(kind: Kind, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and, for the SentencePiece kinds, tokenizer.model."""
    if kind in SPECIAL:
        document = _byte_level(kind)
    else:
        extra = {"spm-added": ["<|im_start|>", "<|im_end|>"], "gemma-image": ["<image_soft_token>"]}.get(kind, [])
        table = pieces(kind)
        document = _spm_json(kind, table, extra)
        (folder / "tokenizer.model").write_bytes(_spm_model(kind, table))
        if extra:
            ids = {text: len(table) + i for i, text in enumerate(extra)}
            (folder / "added_tokens.json").write_text(json.dumps(ids, indent=2), encoding="utf-8")
    config = _config(kind, document["added_tokens"])
    for name, value in (("tokenizer.json", document), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")
