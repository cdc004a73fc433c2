"""Mistral's own params.json, in the words of a config.json of transformers."""

from collections.abc import Mapping
from pathlib import Path

from exporter.config.numbers import shown
from exporter.errors import RunError

NAME = "params.json"
ARCHITECTURE, SCALED = "Mistral params.json", "Mistral params.json with llama_4_scaling"
"""What the two families of this format are called in place of a class: queries scaled by their place have a graph."""
FIELDS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "vocab_size": "vocab_size",
    "rope_theta": "rope_theta",
    "tied_embeddings": "tie_word_embeddings",
    "sliding_window": "sliding_window",
    "activation": "hidden_act",
    "max_position_embeddings": "max_position_embeddings",
}
NEEDED = ("dim", "n_layers", "n_heads", "hidden_dim", "norm_eps", "vocab_size")
YARN = {
    "factor": "factor",
    "original_max_position_embeddings": "original_max_position_embeddings",
    "beta": "beta_fast",
    "alpha": "beta_slow",
}
ELSEWHERE = {"yarn", "llama_4_scaling", "vision_encoder", "max_seq_len", "max_batch_size", "lora", "model_type"}
"""Read by other functions here, or without a bearing on what the model computes; the weights say if LoRA is in them."""
CONTEXT = 32768
"""Written where nothing says how long a context was: Mistral 7B's."""
FIRST_THETA = 10000.0
"""Mistral 7B v0.1's, whose file says nothing but its window."""
BOS, EOS = 1, 2
"""Of every tokenizer of Mistral's (mistral-common has them fixed)."""


def as_config(params: Mapping[str, object], path: Path) -> dict[str, object]:
    """What config.json would say. RunError for what is missing, or is not known to be without a bearing."""
    missing = [key for key in NEEDED if params.get(key) is None]
    if missing:
        raise RunError(f"{path}: lacks {', '.join(missing)}. Copy it from the base model's folder.")
    _check_known(params, path)
    config = {ours: params[key] for key, ours in FIELDS.items() if params.get(key) is not None}
    config |= {"bos_token_id": BOS, "eos_token_id": EOS}
    if "max_position_embeddings" not in config:
        context = params.get("max_seq_len")
        config |= {"max_position_embeddings": context} if context else {"max_position_embeddings": CONTEXT}
        config |= {} if context else {"assumed_context": CONTEXT}
    if "rope_theta" not in config:
        config["rope_theta"] = _first_theta(params, path)
    scaling = params.get("llama_4_scaling")
    yarn = _yarn(params.get("yarn"), path) if params.get("yarn") else {}
    if scaling:
        yarn |= _scaled(scaling, yarn, path)
    if yarn:
        config["rope_parameters"] = yarn | {"rope_theta": config["rope_theta"]}
    return config | {"architectures": [SCALED if scaling else ARCHITECTURE]}


def _check_known(params: Mapping[str, object], path: Path) -> None:
    """RunError for a field that says what is not exported, or that is not known at all."""
    if params.get("model_type") not in (None, "transformer"):
        raise RunError(f"{path}: model_type is {shown(params['model_type'])}, expected 'transformer'. It has no graph.")
    for key, value in params.items():
        harmless = key == "causal" and value is True
        if key in FIELDS or key in ELSEWHERE or harmless or value is None or value is False:
            continue
        what = {"moe": "experts", "quantization": "quantized weights"}.get(key, "a field that is not known here")
        raise RunError(
            f"{path}: {key} is {shown(value)}: {what}, which is not read from Mistral's own format. Give the model in "
            "Hugging Face's format: a folder with config.json and model*.safetensors."
        )


def _first_theta(params: Mapping[str, object], path: Path) -> float:
    """The rotation's base of the first model. RunError where it is another one: programs fill in different numbers."""
    if params.get("sliding_window") is None:
        raise RunError(f"{path}: lacks rope_theta, for which programs take different numbers. Add the model's.")
    return FIRST_THETA


def _yarn(stored: object, path: Path) -> dict[str, object]:
    """YaRN's parameters. Where its factor is not applied to queries and keys, transformers says so by two mscales."""
    if not isinstance(stored, dict) or set(stored) != {*YARN, "apply_scale"}:
        raise RunError(f"{path}: yarn is {shown(stored)}, expected an object of {', '.join(YARN)}, apply_scale.")
    flat: dict[str, object] = {"rope_type": "yarn"} | {ours: stored[key] for key, ours in YARN.items()}
    return flat if stored["apply_scale"] else flat | {"mscale": 1.0, "mscale_all_dim": 1.0}


def _scaled(stored: object, yarn: Mapping[str, object], path: Path) -> dict[str, object]:
    """How queries grow with their place; RunError unless it begins where YaRN does, as llama.cpp has it."""
    length = yarn.get("original_max_position_embeddings")
    if not isinstance(stored, dict) or stored.get("original_max_position_embeddings") != length or "beta" not in stored:
        raise RunError(
            f"{path}: llama_4_scaling is {shown(stored)}, expected a beta, and yarn's original_max_position_embeddings "
            f"({length}): llama.cpp has one number for both."
        )
    return {"llama_4_scaling_beta": stored["beta"]}
