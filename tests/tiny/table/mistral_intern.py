"""Mistral Nemo, Mistral 3 and Ministral 3, InternLM, EXAONE, Baichuan."""

import numpy as np

from tiny.as_llama import as_llama, biased_shapes, fused, llama_shapes, unfused
from tiny.sizes import SIZES
from tiny.values import Array, Config, Layout, Tiny

MISTRAL: Config = SIZES | {
    "model_type": "mistral",
    "vocab_size": 312,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "head_dim": 32,  # not hidden size / heads
    "sliding_window": None,
    "bos_token_id": 304,
    "eos_token_id": 305,
}
# 48 ids reach three times over the trained context: scores of three kinds, and all of YaRN's ramp.
MINISTRAL: Config = {k: v for k, v in MISTRAL.items() if k != "rope_theta"} | {
    "model_type": "ministral3",
    "max_position_embeddings": 256,
    "rope_parameters": {
        "type": "yarn",
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16,
        "max_position_embeddings": 256,
        "beta_fast": 16.0,
        "beta_slow": 0.5,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}
PIXTRAL: Config = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,  # or the converter finds no name for linear_2, which has a number of its own
    "num_attention_heads": 2,
    "head_dim": 16,
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
}
PROCESSOR: Config = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
MISTRAL3: Config = {
    "model_type": "mistral3",
    "text_config": MISTRAL,
    "vision_config": PIXTRAL,
    "image_token_index": 10,
    "multimodal_projector_bias": False,
    "projector_hidden_act": "gelu",
    "spatial_merge_size": 2,
    "tie_word_embeddings": False,
    "vision_feature_layer": -1,
}
INTERNLM2: Config = SIZES | {
    "model_type": "internlm2",
    "vocab_size": 409,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
INTERNLM3: Config = INTERNLM2 | {
    "model_type": "internlm3",
    "vocab_size": 416,
    "eos_token_id": 410,
    "head_dim": 32,
    "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
    "qkv_bias": False,
}
INTERNLM2_NAMES = [
    (r"^model\.embed_tokens\.", "model.tok_embeddings."),
    (r"^lm_head\.", "output."),
    (r"\.self_attn\.o_proj\.", ".attention.wo."),
    (r"\.self_attn\.wqkv\.", ".attention.wqkv."),
    (r"\.mlp\.gate_proj\.", ".feed_forward.w1."),
    (r"\.mlp\.down_proj\.", ".feed_forward.w2."),
    (r"\.mlp\.up_proj\.", ".feed_forward.w3."),
    (r"\.input_layernorm\.", ".attention_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
]

# Both bounds of the rope's interpolation fall between its wavelengths.
EXAONE: Config = {k: v for k, v in SIZES.items() if k != "num_hidden_layers"} | {
    "model_type": "exaone",
    "num_layers": 2,
    "vocab_size": 320,
    "activation_function": "silu",
    "layer_norm_epsilon": 1e-5,
    "head_dim": 16,
    "embed_dropout": 0.0,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "max_position_embeddings": 65536,
    "bos_token_id": 304,
    "eos_token_id": 306,
    "pad_token_id": 304,
    "tie_word_embeddings": True,
}
EXAONE_NAMES = [
    (r"^model\.embed_tokens\.", "transformer.wte."),
    (r"^model\.norm\.", "transformer.ln_f."),
    (r"^model\.layers\.", "transformer.h."),
    (r"\.self_attn\.o_proj\.", ".attn.attention.out_proj."),
    (r"\.self_attn\.", ".attn.attention."),
    (r"\.gate_proj\.", ".c_fc_0."),
    (r"\.up_proj\.", ".c_fc_1."),
    (r"\.down_proj\.", ".c_proj."),
    (r"\.input_layernorm\.", ".ln_1."),
    (r"\.post_attention_layernorm\.", ".ln_2."),
]
# llama.cpp needs the epsilon under the first key; its converter writes it under the second, and the file does not load.
EXAONE_EPSILON = {
    "exaone.attention.layer_norm_rms_epsilon": ("FLOAT32", 9.999999747378752e-06),
    "exaone.attention.layer_norm_epsilon": None,
}

EXAONE4: Config = SIZES | {
    "model_type": "exaone4",
    "vocab_size": 320,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "head_dim": 16,
    "rope_theta": 1000000.0,
    "rope_scaling": EXAONE["rope_scaling"],
    "max_position_embeddings": 65536,
    "layer_types": ["full_attention"] * 2,
    "sliding_window": None,
    "sliding_window_pattern": None,
    "bos_token_id": 304,
    "eos_token_id": 306,
    "pad_token_id": 304,
    "tie_word_embeddings": True,
}
# As the 32B: 64 layers, for llama.cpp knows by their number that there are windows. 48 ids are three of them.
EXAONE4_WINDOW: Config = EXAONE4 | {
    "num_hidden_layers": 64,
    "intermediate_size": 64,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 16,
    "sliding_window": 16,
    "sliding_window_pattern": "LLLG",
    "tie_word_embeddings": False,
}

# llama.cpp knows by the number of layers how positions are told. Six heads: no power of two.
BAICHUAN: Config = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"} | {
    "model_type": "baichuan",
    "vocab_size": 409,
    "hidden_act": "silu",
    "num_hidden_layers": 32,
    "intermediate_size": 64,
    "rms_norm_eps": 1e-6,
    "model_max_length": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
BAICHUAN_13B: Config = {k: v for k, v in BAICHUAN.items() if k != "max_position_embeddings"} | {
    "num_hidden_layers": 40,
    "num_attention_heads": 6,
    "hidden_size": 96,
}


def _group_rows(config: Config) -> int:
    """The rows of InternLM 2's fused matrix."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    return int((heads + 2 * groups) * (config["hidden_size"] // heads))


def _groups(matrix: Array, config: Config) -> tuple[Array, Array, Array]:
    """Of each group first the queries, then the key, then the value."""
    heads, groups, hidden = config["num_attention_heads"], config["num_key_value_heads"], config["hidden_size"]
    split = matrix.reshape(groups, heads // groups + 2, hidden // heads, hidden)
    q, k, v = (part.reshape(-1, hidden) for part in (split[:, :-2], split[:, -2], split[:, -1]))
    return q, k, v


def _biases_v5(config: Config) -> Config:
    """As transformers 5 calls them."""
    return config | {"attention_bias": config.pop("qkv_bias"), "mlp_bias": config.pop("bias")}


def _thirds(matrix: Array, _: Config) -> tuple[Array, Array, Array]:
    """All queries, all keys, all values."""
    q, k, v = np.split(matrix, 3)
    return q, k, v


def _baichuan(config: Config, *, alibi: bool = False) -> Tiny:
    return Tiny(
        "BaichuanForCausalLM",
        config,
        "spm",
        shapes=fused("W_pack", lambda config: 3 * int(config["hidden_size"])),
        forward=as_llama(unfused("W_pack", _thirds), alibi=alibi),
        # llama.cpp takes as many as heads where its converter says nothing.
        faults={"baichuan.attention.head_count_kv": ("UINT32", config["num_attention_heads"])},
    )


def _exaone(**changes: object) -> Tiny:
    called = {
        "rms_norm_eps": "layer_norm_epsilon",
        "num_hidden_layers": "num_layers",
        "hidden_act": "activation_function",
    }
    return Tiny(
        "ExaoneForCausalLM",
        EXAONE | changes,
        "qwen",
        renames=EXAONE_NAMES,
        shapes=llama_shapes,
        forward=as_llama(**called),
        faults=EXAONE_EPSILON,
    )


def _mistral3(text: Config, layout: str) -> Tiny:
    config = MISTRAL3 | {"text_config": text}
    renames = [(r"vision_tower\.vision_model\.", "vision_tower.")]  # Pixtral has no level between
    kind: Layout = "vision-v5" if layout == "v5" else "vision-v4"
    return Tiny("Mistral3ForConditionalGeneration", config, "llama3-image", kind, renames=renames, processor=PROCESSOR)


MODELS: dict[str, Tiny] = {
    "mistral-nemo": Tiny("MistralForCausalLM", MISTRAL, "llama3"),
    "mistral3": _mistral3(MISTRAL, "v4"),
    "mistral3-v5": _mistral3(MISTRAL, "v5"),
    "mistral3-ministral": _mistral3(MINISTRAL, "v4"),
    # llama.cpp puts a space in front of every text of such a vocabulary unless told otherwise; its converter says it.
    "internlm2": Tiny(
        "InternLM2ForCausalLM",
        INTERNLM2,
        "spm",
        renames=INTERNLM2_NAMES,
        shapes=fused("wqkv", _group_rows),
        forward=as_llama(unfused("wqkv", _groups)),
        faults={"tokenizer.ggml.add_space_prefix": None},
    ),
    "internlm3": Tiny("InternLM3ForCausalLM", INTERNLM3, "spm-added", shapes=llama_shapes, forward=as_llama()),
    "internlm3-bias": Tiny(
        "InternLM3ForCausalLM",
        INTERNLM3 | {"bias": True, "qkv_bias": True},
        "spm-added",
        version5=_biases_v5,
        shapes=biased_shapes,
        forward=as_llama(attention_bias="qkv_bias", mlp_bias="bias"),
    ),
    "exaone": _exaone(),
    "exaone-untied": _exaone(tie_word_embeddings=False, rope_scaling=None),
    "exaone4": Tiny("Exaone4ForCausalLM", EXAONE4, "qwen"),
    "exaone4-window": Tiny("Exaone4ForCausalLM", EXAONE4_WINDOW, "qwen"),
    "baichuan": _baichuan(BAICHUAN),
    "baichuan-13b": _baichuan(BAICHUAN_13B, alibi=True),
    "ministral3": Tiny("Ministral3ForCausalLM", MINISTRAL, "llama3"),
}
