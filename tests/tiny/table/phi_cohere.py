"""Phi 2, 3 and 4, Command R, SmolLM3, Granite, GLM."""

import numpy as np

from tiny.sizes import SIZES
from tiny.values import Config, Tiny, Weights

PHI3: Config = SIZES | {
    "model_type": "phi3",
    "vocab_size": 416,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "original_max_position_embeddings": 512,
    "sliding_window": 300,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 410,
    "pad_token_id": 2,
}
LONG = {
    "type": "longrope",
    "long_factor": [1.0 + 0.5 * i for i in range(8)],
    "short_factor": [1.0 + 0.125 * i for i in range(8)],
}
# As Phi-4-mini: three quarters of a head are rotated, and the embedding is the head.
PHI4_MINI: Config = PHI3 | {
    "partial_rotary_factor": 0.75,
    "rope_scaling": LONG | {key: LONG[key][:6] for key in ("long_factor", "short_factor")},
    "max_position_embeddings": 4096,
    "sliding_window": None,
    "tie_word_embeddings": True,
}
COHERE: Config = SIZES | {
    "model_type": "cohere",
    "vocab_size": 320,
    "hidden_act": "silu",
    "layer_norm_eps": 1e-5,
    "rope_theta": 8000000.0,
    "rope_scaling": None,
    "logit_scale": 0.8,
    "attention_bias": False,
    "use_qk_norm": False,
    "model_max_length": 1024,
    "tie_word_embeddings": True,
    "bos_token_id": 304,
    "eos_token_id": 306,
    "pad_token_id": 304,
}
# llama.cpp takes a model of 64 layers, and more, for one with norms on queries and keys.
COMMAND_R_PLUS: Config = COHERE | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 64,
    "use_qk_norm": True,
}
COHERE2: Config = {k: v for k, v in COHERE.items() if k not in {"use_qk_norm", "model_max_length"}} | {
    "model_type": "cohere2",
    "num_hidden_layers": 5,
    "head_dim": 16,
    "rotary_pct": 1.0,
    "sliding_window": 16,
    "sliding_window_pattern": 4,
}
SMOLLM3: Config = SIZES | {
    "model_type": "smollm3",
    "vocab_size": 320,
    "hidden_act": "silu",
    "num_hidden_layers": 5,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "no_rope_layers": [1, 1, 1, 0, 1],
    "no_rope_layer_interval": 4,
    "layer_types": ["full_attention"] * 5,
    "use_sliding_window": False,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "bos_token_id": 304,
    "eos_token_id": 306,
    "pad_token_id": 304,
}
GRANITE: Config = SIZES | {
    "model_type": "granite",
    "vocab_size": 320,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 2,
    "residual_multiplier": 0.22,
    "logits_scaling": 3,
    "tie_word_embeddings": True,
    "bos_token_id": 304,
    "eos_token_id": 306,
    "pad_token_id": 304,
}

GRANITE_MOE: Config = {k: v for k, v in GRANITE.items() if k != "mlp_bias"} | {
    "model_type": "granitemoe",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
GRANITE_SHARED: Config = GRANITE_MOE | {
    "model_type": "granitemoeshared",
    "shared_intermediate_size": 96,
    "tie_word_embeddings": False,
}
# As transformers names and groups the experts, and as they are published.
GRANITE_STORED = (
    (r"\.mlp\.experts\.gate_up_proj$", ".block_sparse_moe.input_linear.weight"),
    (r"\.mlp\.experts\.down_proj$", ".block_sparse_moe.output_linear.weight"),
    (r"\.mlp\.router\.weight$", ".block_sparse_moe.router.layer.weight"),
)
GRANITE_STORED_V5 = ((r"\.mlp\.(experts|router)\.", r".block_sparse_moe.\1."),)
GLM4: Config = SIZES | {
    "model_type": "glm4",
    "vocab_size": 312,
    "hidden_act": "silu",
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "partial_rotary_factor": 0.5,
    "attention_bias": True,
    "eos_token_id": [304, 308],
    "pad_token_id": 304,
}
# The converter says that the end of a text is its beginning too, and the unknown token; the tokenizer has neither.
GLM_TOKENS = {"tokenizer.ggml.bos_token_id": None, "tokenizer.ggml.unknown_token_id": None}
GLM: Config = GLM4 | {"model_type": "glm", "rms_norm_eps": 2**-22, "rope_theta": 20000.0}
# The converter reads the fields of ChatGLM's own code, and has the width for the context, 1e-5 and 10000 without them.
GLM_FAULTS = {
    "tokenizer.ggml.unknown_token_id": None,
    "chatglm.context_length": ("UINT32", 512),
    "chatglm.attention.layer_norm_rms_epsilon": ("FLOAT32", 2**-22),
    "chatglm.rope.freq_base": ("FLOAT32", 20000.0),
}
PHI2: Config = SIZES | {
    "model_type": "phi",
    "vocab_size": 320,
    "intermediate_size": 256,
    "num_key_value_heads": 4,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "partial_rotary_factor": 0.5,
    "qk_layernorm": False,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "bos_token_id": 304,
    "eos_token_id": 304,
}


def _zero_biases(tensors: Weights) -> Weights:
    """Each projection of the attention with a bias of zeros."""
    weights = [key for key in tensors if ".self_attn." in key]
    return {**tensors} | {
        key.removesuffix("weight") + "bias": np.zeros(tensors[key].shape[0], np.float32) for key in weights
    }


def _cohere2_v5(config: Config) -> Config:
    """Transformers 5 names each layer's kind in place of their pattern."""
    every = config.pop("sliding_window_pattern")
    kinds = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(config["num_hidden_layers"])]
    return config | {"layer_types": kinds}


MODELS: dict[str, Tiny] = {
    "phi3": Tiny("Phi3ForCausalLM", PHI3, "spm-added"),
    # 48 ids are beyond the trained context: the long factors. Below: within it, the short ones.
    "phi3-long": Tiny(
        "Phi3ForCausalLM", PHI3 | {"rope_scaling": LONG, "original_max_position_embeddings": 16}, "spm-added"
    ),
    "phi4-mini": Tiny("Phi3ForCausalLM", PHI4_MINI, "spm-added"),
    "command-r": Tiny("CohereForCausalLM", COHERE, "qwen"),
    "command-r-plus": Tiny("CohereForCausalLM", COMMAND_R_PLUS, "qwen"),
    "cohere2": Tiny("Cohere2ForCausalLM", COHERE2, "qwen", version5=_cohere2_v5),
    # llama.cpp's graph has no place for biases: those of zeros are left out.
    "cohere2-bias": Tiny("Cohere2ForCausalLM", COHERE2, "qwen", loads=False, version5=_cohere2_v5, stores=_zero_biases),
    "smollm3": Tiny("SmolLM3ForCausalLM", SMOLLM3, "qwen"),
    "smollm3-untied": Tiny("SmolLM3ForCausalLM", SMOLLM3 | {"tie_word_embeddings": False}, "qwen"),
    "granite": Tiny("GraniteForCausalLM", GRANITE, "qwen"),
    "granite-bias": Tiny(
        "GraniteForCausalLM", GRANITE | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}, "qwen"
    ),
    "granitemoe": Tiny("GraniteMoeForCausalLM", GRANITE_MOE, "qwen", "fused", renames=GRANITE_STORED),
    "granitemoe-v5": Tiny("GraniteMoeForCausalLM", GRANITE_MOE, "qwen", "fused", renames=GRANITE_STORED_V5),
    "granitemoe-shared": Tiny("GraniteMoeSharedForCausalLM", GRANITE_SHARED, "qwen", "fused", renames=GRANITE_STORED),
    "glm4": Tiny("Glm4ForCausalLM", GLM4, "glm", faults=GLM_TOKENS),
    "glm4-no-bias": Tiny("Glm4ForCausalLM", GLM4 | {"attention_bias": False}, "glm", faults=GLM_TOKENS),
    "glm": Tiny("GlmForCausalLM", GLM, "glm", faults=GLM_FAULTS),
    "phi2": Tiny("PhiForCausalLM", PHI2, "qwen"),
}
