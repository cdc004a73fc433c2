"""The input of the benchmarks: a Llama of any size with random bf16 weights in shards, and a LoRA on its linear layers.

Made in seconds: all weights are cut from one random block, each from another place.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 25
"""Random numbers that are made; every tensor is cut from them."""
SHARD = 1 << 30
"""Bytes of a shard, about."""
RANK = 16
VOCABULARY = 32000
NORMS = ("input_layernorm", "post_attention_layernorm")
DEVIATION = 0.02


@dataclass(frozen=True)
class Size:
    """A Llama's measures."""

    hidden: int
    layers: int
    inner: int
    heads: int
    kv_heads: int = 4

    def linear(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of each linear layer of a block, by its name in the block."""
        hidden, inner, keys = self.hidden, self.inner, self.hidden // self.heads * self.kv_heads
        shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden)}
        shapes |= {"self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden)}
        return shapes | {
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the model."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, self.hidden)}
        for layer in range(self.layers):
            block = f"model.layers.{layer}."
            shapes |= {f"{block}{name}.weight": shape for name, shape in self.linear().items()}
            shapes |= {
                f"{block}{name}.weight": (self.hidden,) for name in ("input_layernorm", "post_attention_layernorm")
            }
        return shapes | {"model.norm.weight": (self.hidden,), "lm_head.weight": (VOCABULARY, self.hidden)}

    @property
    def parameters(self) -> int:
        """How many weights the model has."""
        return sum(prod(shape) for shape in self.shapes().values())


SIZES = {
    "40m": Size(512, 2, 1536, 8),
    "200m": Size(1024, 12, 2816, 16),
    "340m": Size(1024, 24, 2816, 16),
    "1.2b": Size(2048, 24, 5632, 32),
}


def make_run(size: Size, folder: Path, adapter: str = "lora") -> Path:
    """Write the base to ``folder/base`` and the adapter, one of `ADAPTERS`, to ``folder/tune``, which is returned."""
    base, tune = folder / "base", folder / "tune"
    base.mkdir(parents=True)
    tune.mkdir()
    numbers = np.random.default_rng(1).standard_normal(BLOCK, dtype=np.float32) * np.float32(DEVIATION)
    # The upper halves of float32 are bf16, rounded towards zero.
    halves: NDArray[np.uint16] = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    _write_shards(base, size.shapes(), halves)
    _write_json(base / "config.json", _config(size))
    _write_tokenizer(base)
    factors, fields = _adapter(size, adapter)
    _write_tensors(tune / "adapter_model.safetensors", factors, numbers, "F32")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    _write_json(tune / "adapter_config.json", config | fields | {"base_model_name_or_path": "../base"})
    return tune


ADAPTERS = ("lora", "dora", "saved")
"""LoRA on all linear layers; with DoRA, on the embedding too; with embedding and head trained as a whole."""


def _adapter(size: Size, kind: str) -> tuple[dict[str, tuple[int, ...]], dict[str, object]]:
    """An adapter's tensors and its configuration."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (name, (rows, columns)) in product(range(size.layers), size.linear().items()):
        module = f"base_model.model.model.layers.{layer}.{name}"
        shapes |= {f"{module}.lora_A.weight": (RANK, columns), f"{module}.lora_B.weight": (rows, RANK)}
        if kind == "dora":
            shapes[f"{module}.lora_magnitude_vector"] = (rows,)
    modules = sorted({name.rpartition(".")[2] for name in size.linear()})
    fields: dict[str, object] = {"target_modules": modules, "use_dora": kind == "dora"}
    embedding = "base_model.model.model.embed_tokens"
    if kind == "dora":
        fields["target_modules"] = [*modules, "embed_tokens"]
        shapes |= {
            f"{embedding}.lora_embedding_A": (RANK, VOCABULARY),
            f"{embedding}.lora_embedding_B": (size.hidden, RANK),
        }
        shapes[f"{embedding}.lora_magnitude_vector"] = (size.hidden,)
    if kind == "saved":
        fields["modules_to_save"] = ["embed_tokens", "lm_head"]
        whole = (f"{embedding}.weight", "base_model.model.lm_head.weight")
        shapes |= dict.fromkeys(whole, (VOCABULARY, size.hidden))
    return shapes, fields


def _write_shards(folder: Path, shapes: dict[str, tuple[int, ...]], halves: NDArray[np.uint16]) -> None:
    """Model shards and their index."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        if 2 * sum(prod(one) for one in shards[-1].values()) > SHARD:
            shards.append({})
        shards[-1][name] = shape
    files = [f"model-{k + 1:05}-of-{len(shards):05}.safetensors" for k in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):
        _write_tensors(folder / file, shard, halves, "BF16")
    places = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def _write_tensors(
    file: Path, shapes: dict[str, tuple[int, ...]], numbers: NDArray[np.uint16] | NDArray[np.float32], dtype: str
) -> None:
    """A safetensors file by its format: length of the header, header, data."""
    header, end = dict[str, object](), 0
    for name, shape in shapes.items():
        start, end = end, end + prod(shape) * numbers.itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for index, shape in enumerate(shapes.values()):
            for part in _cut(numbers, index, prod(shape)):
                stream.write(part.data)


def _cut(
    numbers: NDArray[np.uint16] | NDArray[np.float32], index: int, count: int
) -> Iterator[NDArray[np.uint16] | NDArray[np.float32]]:
    """So many numbers, from a place that differs from tensor to tensor."""
    start = index * 7919 % (BLOCK // 2)
    while count:
        part = numbers[start : start + count]
        yield part
        start, count = 0, count - part.size


def _config(size: Size) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.hidden // size.heads,
        "vocab_size": VOCABULARY,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _write_tokenizer(folder: Path) -> None:
    """A SentencePiece-like tokenizer.json of the vocabulary's size: words of up to three letters."""
    letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    words = ["".join(word) for length in (2, 3) for word in product(letters, repeat=length)]
    words = words[: VOCABULARY - len(texts)]
    vocab = {text: index for index, text in enumerate([*texts, *words])}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": index, "content": texts[index], "special": True} | flags for index in range(3)]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    begin = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*begin, {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    specials = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": begin, "pair": pair, "special_tokens": specials},
        "decoder": {"type": "Sequence", "decoders": [*steps, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [[word[:cut], word[cut:]] for word in words for cut in range(1, len(word))],
        },
    }
    _write_json(folder / "tokenizer.json", document)
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write_json(folder / "tokenizer_config.json", config | {"add_bos_token": True, "add_eos_token": False})


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
