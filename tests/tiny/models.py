"""All tiny models, and their configuration in two spellings."""

from collections.abc import Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any, Literal

from .table import MODELS
from .values import Config, Tiny

TINY: Mapping[str, Tiny] = MappingProxyType(MODELS)


def _rope_v5(config: Config) -> Config:
    """`rope_parameters` in place of the three fields of version 4."""
    theta, scaling = config.pop("rope_theta"), dict(config.pop("rope_scaling", None) or {})
    scaling["rope_type"] = scaling.pop("rope_type", scaling.pop("type", "default"))
    rope = {"rope_theta": theta} | scaling
    if "rope_local_base_freq" not in config:
        return rope
    window = {"rope_theta": config.pop("rope_local_base_freq"), "rope_type": "default"}
    return {"full_attention": rope, "sliding_attention": window}


def _spell_v5(config: Mapping[str, Any]) -> Config:
    spelled = dict(config)
    for part in ("text_config", "vision_config"):
        if part in spelled:
            spelled[part] = _spell_v5(spelled[part])
    if "rope_theta" in spelled:
        spelled["rope_parameters"] = _rope_v5(spelled)
    if spelled["model_type"] == "qwen3_moe":
        spelled["num_local_experts"] = spelled.pop("num_experts")
    if spelled["model_type"] == "mixtral":
        spelled["head_dim"] = None
    if spelled["model_type"] == "gemma3_text":
        spelled["_sliding_window_pattern"] = spelled.pop("sliding_window_pattern")
    return spelled


def spell(tiny: Tiny, dtype: str, spelling: Literal["v4", "v5"]) -> Config:
    """`config.json` as transformers 4 or transformers 5 writes it."""
    head: Config = {"architectures": [tiny.architecture]}
    config = deepcopy(dict(tiny.config))  # transformers writes into the dictionaries it is given
    if spelling == "v4":
        return head | config | {"torch_dtype": dtype, "transformers_version": "4.57.6"}
    changed = tiny.version5(config) if tiny.version5 else config
    return head | _spell_v5(changed) | {"dtype": dtype, "transformers_version": "5.0.0"}
