"""Tiny models in Mistral's own format: params.json, consolidated*.safetensors, and tekken.json where asked for."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny import TINY, make

from exporter.tokenizer.pre_table import TEKKEN

NAMES = (
    (r"^model\.embed_tokens\.", "tok_embeddings."),
    (r"^lm_head\.", "output."),
    (r"^model\.", ""),
    (r"\.input_layernorm\.", ".attention_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.self_attn\.(.)_proj\.", r".attention.w\1."),
    (r"\.mlp\.gate_proj\.", ".feed_forward.w1."),
    (r"\.mlp\.down_proj\.", ".feed_forward.w2."),
    (r"\.mlp\.up_proj\.", ".feed_forward.w3."),
)
PARAMS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "vocab_size": "vocab_size",
    "sliding_window": "sliding_window",
    "max_position_embeddings": "max_position_embeddings",
}
CONTROLS = 20
WORDS = ("the", "of", "and", "in", "er", "ed", "is", "th", "an", "nd", "on", "re", "at", "en", "or", "he", " t", " a")
NATIVE = {"Mistral params.json", "Mistral params.json with llama_4_scaling"}
"""Of models without a config.json, which are made here."""


def in_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of each head from halves to pairs: Mistral's own order."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()


def native(name: str, folder: Path, *, shards: int = 1) -> Path:
    """A tiny model in Mistral's own format, with the tokenizer's files of Hugging Face's."""
    run, config = make(name, folder), dict(TINY[name].config)
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    stored: dict[str, torch.Tensor] = {}
    for key, weight in load_file(run / "model.safetensors").items():
        named, projection = key, re.search(r"\.([qk])_proj\.", key)
        for pattern, replacement in NAMES:
            named = re.sub(pattern, replacement, named)
        stored[named] = in_pairs(weight, heads[projection[1]]) if projection else weight
    for k in range(shards):
        part = dict([*stored.items()][k::shards])
        file = "consolidated.safetensors" if shards == 1 else f"consolidated-{k + 1:05}-of-{shards:05}.safetensors"
        save_file(part, run / file)
    (run / "params.json").write_text(json.dumps(params(config)), encoding="utf-8")
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        (run / file).unlink()
    return run


def params(config: Mapping[str, object]) -> dict[str, object]:
    """A model's params.json."""
    said = {key: config[theirs] for key, theirs in PARAMS.items() if config.get(theirs) is not None}
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return said | {"rope_theta": config["rope_theta"], "model_type": "transformer", "moe": None}
    length = rope["original_max_position_embeddings"]
    yarn = {"factor": rope["factor"], "beta": rope["beta_fast"], "alpha": rope["beta_slow"], "apply_scale": False}
    scaling = {"original_max_position_embeddings": length, "beta": rope["llama_4_scaling_beta"]}
    yarn |= {"original_max_position_embeddings": length}
    return said | {"rope_theta": rope["rope_theta"], "yarn": yarn, "llama_4_scaling": scaling}


def with_tekken(run: Path) -> Path:
    """The run with tekken.json in place of its tokenizer's files: all bytes, then words, then bytes in pairs."""
    for file in run.iterdir():
        if file.name not in {"params.json", "consolidated.safetensors"}:
            file.unlink()
    rows = json.loads((run / "params.json").read_text(encoding="utf-8"))["vocab_size"]
    pairs = (bytes([65 + k // 16, 97 + k % 16]) for k in range(256))
    strings = [bytes([byte]) for byte in range(256)] + [word.encode() for word in WORDS] + [*pairs]
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(one).decode(), "token_str": one.decode("utf-8", "replace")}
        for rank, one in enumerate(strings[: rows - CONTROLS])
    ]
    config = {
        "pattern": TEKKEN.removeprefix("split "),
        "num_vocab_tokens": len(vocab),
        "default_vocab_size": rows,
        "default_num_special_tokens": CONTROLS,
        "version": "v3",
    }
    (run / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocab}), encoding="utf-8")
    return run
