"""Qwen's models that see (their text), and those with linear attention in most layers."""

import numpy as np

from tiny.sizes import SIZES
from tiny.values import Array, Config, Tiny, Weights

# As on the Hub: of Qwen 2 VL and 2.5 VL the text's fields stand at the top. Transformers 5 puts them apart.
QWEN2_VL: Config = SIZES | {
    "model_type": "qwen2_vl",
    "vocab_size": 320,
    "hidden_act": "silu",
    # llama.cpp reads none for this architecture, and adds 0: so little that all else can be compared.
    "rms_norm_eps": 1e-9,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "use_sliding_window": False,
    "sliding_window": 32,
    "max_window_layers": 2,
    "bos_token_id": 304,
    "eos_token_id": 306,
    "image_token_id": 307,
    "video_token_id": 308,
    "vision_start_token_id": 309,
    "vision_end_token_id": 310,
    "vision_config": {
        "model_type": "qwen2_vl",
        "depth": 1,
        "embed_dim": 32,
        "hidden_size": 64,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": 4,
        "spatial_patch_size": 4,
    },
}
QWEN25_VL: Config = QWEN2_VL | {
    "model_type": "qwen2_5_vl",
    "tie_word_embeddings": True,
    "vision_config": {
        "model_type": "qwen2_5_vl",
        "depth": 3,  # or the converter finds no name for the projector's second matrix, which has the number 2
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "num_heads": 2,
        "in_chans": 3,
        "patch_size": 4,
        "window_size": 112,
        "fullatt_block_indexes": [2],
    },
}
# Its README's advice for long texts.
YARN = {"type": "yarn", "mrope_section": [2, 3, 3], "factor": 4.0, "original_max_position_embeddings": 128}
COLOURS: Config = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
# 64 pairs and the axes of the real ones.
QWEN3_VL: Config = {
    "model_type": "qwen3_vl",
    "text_config": SIZES
    | {
        "model_type": "qwen3_vl_text",
        "vocab_size": 320,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "head_dim": 128,
        "rope_theta": 5000000.0,
        "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
        "attention_bias": False,
        "bos_token_id": 304,
        "eos_token_id": 306,
    },
    "vision_config": {
        "model_type": "qwen3_vl",
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": 4,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 2],
    },
    "image_token_id": 307,
    "video_token_id": 308,
    "vision_start_token_id": 309,
    "vision_end_token_id": 310,
    "tie_word_embeddings": False,
}
QWEN3_VL_MOE: Config = QWEN3_VL | {
    "model_type": "qwen3_vl_moe",
    "text_config": QWEN3_VL["text_config"]
    | {
        "model_type": "qwen3_vl_moe_text",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
    "vision_config": QWEN3_VL["vision_config"] | {"model_type": "qwen3_vl_moe"},
}
EXPERTS = {"num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size"}
EXPERTS |= {"decoder_sparse_step", "mlp_only_layers", "norm_topk_prob"}
# Two heads of keys, each with two of values; as published, without `layer_types`, and five layers of two kinds.
QWEN3_NEXT: Config = SIZES | {
    "model_type": "qwen3_next",
    "num_hidden_layers": 5,
    "vocab_size": 320,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "head_dim": 32,
    "partial_rotary_factor": 0.25,
    "rope_theta": 10000000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 128,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "bos_token_id": 304,
    "eos_token_id": 306,
}
# Half of a head is rotated: eight pairs for the three axes. Three heads of values for each of keys.
QWEN35: Config = {key: value for key, value in QWEN3_NEXT.items() if key not in EXPERTS} | {
    "model_type": "qwen3_5_text",
    "linear_num_value_heads": 6,
    "rope_theta": 10000000.0,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [3, 3, 2], "rope_type": "default"},
    "partial_rotary_factor": 0.5,
    "layer_types": ["full_attention" if i == 3 else "linear_attention" for i in range(5)],
    "attn_output_gate": True,
    "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False,
}
QWEN35_MOE: Config = {key: value for key, value in QWEN35.items() if key != "intermediate_size"} | {
    "model_type": "qwen3_5_moe_text",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 128,
}
OUTSIDE = ("model_type", "vision_config", "image_token_id", "video_token_id", "vision_start_token_id")
OUTSIDE += ("vision_end_token_id", "tie_word_embeddings")

# Where the vision tower stands in the file: beside the text as always on the Hub, or with it as in memory.
BESIDE = ((r"^model\.visual\.", "visual."),)
WITHIN = ((r"^model\.(?!visual\.)", "model.language_model."),)


def _text_apart(config: Config) -> Config:
    """The fields of the text in a part of their own."""
    text = {key: value for key, value in config.items() if key not in OUTSIDE}
    outside = {key: config[key] for key in OUTSIDE}
    kind = config["model_type"] + "_text"
    if text["rope_scaling"]["type"] == "mrope":
        text["rope_scaling"] |= {"rope_type": "default"}
    return outside | {"text_config": text | {"model_type": kind}}


def _rotated_apart(config: Config) -> Config:
    """The rotated part of a head as transformers 5 has it, among what rotation needs."""
    part = config.pop("partial_rotary_factor")
    return config | {"rope_scaling": (config["rope_scaling"] or {}) | {"partial_rotary_factor": part}}


def _spread(name: str, _: tuple[int, ...]) -> tuple[float, float] | None:
    """Norms less one but those behind the delta nets, and decays that are far apart."""
    if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        return 0.0, 0.1
    return (0.0, 0.8) if name.endswith((".A_log", ".dt_bias")) else None


def _seeing(kind: str, text: Config) -> Config:
    """The configuration of a model that sees, around that of its text."""
    vision = {key: value for key, value in QWEN3_VL["vision_config"].items() if key != "deepstack_visual_indexes"}
    return QWEN3_VL | {"model_type": kind, "text_config": text, "vision_config": vision | {"model_type": kind}}


def _text_rotated_apart(config: Config) -> Config:
    """The same of a model that sees."""
    return config | {"text_config": _rotated_apart(config["text_config"])}


def _with_prediction(weights: Weights) -> Weights:
    """The checkpoint's tensors with the layer that predicts a second token at once, as the Hub's have."""
    last = "model.layers.3."
    more = {key.replace(last, "mtp.layers.0."): value.copy() for key, value in weights.items() if key.startswith(last)}
    norms = {f"mtp.{name}.weight": weights["model.norm.weight"].copy() for name in ("pre_fc_norm_embedding", "norm")}
    return dict(weights) | more | norms


def _turned(weights: Weights) -> Weights:
    """Experts fused as transformers 4 has them: columns before rows, the gate's rows before the other's."""
    stored, stacks = {}, dict[str, list[Array]]()
    for name, value in weights.items():
        stem, found, rest = name.partition(".experts.")
        if not found:
            stored[name] = value
        elif ".gate_proj." in rest:
            both = np.concatenate([value, weights[name.replace(".gate_proj.", ".up_proj.")]])
            stacks.setdefault(f"{stem}.experts.gate_up_proj", []).append(both.T)
        elif ".down_proj." in rest:
            stacks.setdefault(f"{stem}.experts.down_proj", []).append(value.T)
    return stored | {name: np.stack(stack) for name, stack in stacks.items()}


# The converter takes every fused tensor for one that transformers 4 stored, columns first.
TURNED = tuple(f"blk.{i}.ffn_{part}_exps.weight" for i in range(2) for part in ("gate", "up", "down"))

MODELS: dict[str, Tiny] = {
    "qwen2vl": Tiny("Qwen2VLForConditionalGeneration", QWEN2_VL, "qwen", renames=BESIDE, version5=_text_apart),
    "qwen2.5vl": Tiny(
        "Qwen2_5_VLForConditionalGeneration", QWEN25_VL, "qwen", renames=WITHIN, version5=_text_apart, processor=COLOURS
    ),
    "qwen2.5vl-yarn": Tiny(
        "Qwen2_5_VLForConditionalGeneration",
        QWEN25_VL | {"rope_scaling": YARN},
        "qwen",
        renames=BESIDE,
        version5=_text_apart,
        processor=COLOURS,
    ),
    "qwen3vl": Tiny("Qwen3VLForConditionalGeneration", QWEN3_VL, "qwen", renames=WITHIN, processor=COLOURS),
    "qwen3vlmoe": Tiny(
        "Qwen3VLMoeForConditionalGeneration", QWEN3_VL_MOE, "qwen", renames=WITHIN, stores=_turned, processor=COLOURS
    ),
    "qwen3vlmoe-v5": Tiny(
        "Qwen3VLMoeForConditionalGeneration", QWEN3_VL_MOE, "qwen", "fused", renames=WITHIN, wrong=TURNED
    ),
    "qwen35": Tiny(
        "Qwen3_5ForConditionalGeneration",
        _seeing("qwen3_5", QWEN35),
        "qwen",
        renames=WITHIN,
        stores=_with_prediction,
        spread=_spread,
        version5=_text_rotated_apart,
    ),
    "qwen35-text": Tiny(
        "Qwen3_5ForCausalLM", QWEN35 | {"tie_word_embeddings": True}, "qwen", spread=_spread, version5=_rotated_apart
    ),
    "qwen35moe": Tiny(
        "Qwen3_5MoeForConditionalGeneration",
        _seeing("qwen3_5_moe", QWEN35_MOE),
        "qwen",
        "fused",
        renames=WITHIN,
        spread=_spread,
        version5=_text_rotated_apart,
    ),
    "qwen35moe-text": Tiny("Qwen3_5MoeForCausalLM", QWEN35_MOE, "qwen", spread=_spread, version5=_rotated_apart),
    "qwen3next": Tiny(
        "Qwen3NextForCausalLM", QWEN3_NEXT, "qwen", stores=_with_prediction, spread=_spread, version5=_rotated_apart
    ),
    "qwen3next-fused": Tiny(
        "Qwen3NextForCausalLM", QWEN3_NEXT, "qwen", "fused", spread=_spread, version5=_rotated_apart
    ),
}
