"""Llama, Mistral, Mixtral, Qwen 2 and 3, Gemma 1 to 3."""

from tiny.sizes import SIZES
from tiny.values import Config, Kind, Tiny

LLAMA: Config = SIZES | {
    "model_type": "llama",
    "vocab_size": 409,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Both bounds of the rope's interpolation fall between the eight wavelengths: each of its three branches is taken.
LLAMA3: Config = LLAMA | {
    "vocab_size": 312,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "max_position_embeddings": 65536,
    "tie_word_embeddings": True,
    "bos_token_id": 304,
    "eos_token_id": [305, 309, 310],
}
MISTRAL: Config = {k: v for k, v in LLAMA.items() if k not in {"attention_bias", "mlp_bias", "rope_scaling"}} | {
    "model_type": "mistral",
    "vocab_size": 411,
    "rope_theta": 1000000.0,
    "sliding_window": None,
}
# Published Mixtral configurations have no head_dim; transformers 5 then writes null.
MIXTRAL: Config = {k: v for k, v in MISTRAL.items() if k != "head_dim"} | {
    "model_type": "mixtral",
    "vocab_size": 409,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.02,
    "router_jitter_noise": 0.0,
}
QWEN: Config = SIZES | {
    "vocab_size": 320,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 2,
    "bos_token_id": 304,
    "eos_token_id": 306,
}
QWEN3: Config = QWEN | {"head_dim": 32, "attention_bias": False}
EXPERTS: Config = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": False,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
QWEN2_MOE: Config = QWEN | EXPERTS | {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 128}
QWEN3_MOE: Config = QWEN3 | EXPERTS | {"model_type": "qwen3_moe", "norm_topk_prob": True}
GEMMA: Config = SIZES | {
    "vocab_size": 516,
    "head_dim": 32,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
# llama.cpp scales attention by the head's width (but for the 27B models), so the config must say the same.
GEMMA2: Config = GEMMA | {
    "model_type": "gemma2",
    "num_hidden_layers": 4,
    "hidden_act": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 32,
    "sliding_window": 16,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
# Seven layers: llama.cpp's pattern is five windows, then one full layer, and the seventh is a window again.
GEMMA3: Config = GEMMA | {
    "model_type": "gemma3_text",
    "num_hidden_layers": 7,
    "query_pre_attn_scalar": 32,
    "sliding_window": 16,
    "sliding_window_pattern": 6,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "eos_token_id": [1, 107],
    "layer_types": ["full_attention" if i == 5 else "sliding_attention" for i in range(7)],
}
GEMMA3_VISION: Config = {
    "model_type": "gemma3",
    "text_config": GEMMA3 | {"vocab_size": 520},
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "vision_use_head": False,
    },
    "mm_tokens_per_image": 4,
    "boi_token_index": 104,
    "eoi_token_index": 105,
    "image_token_index": 516,
    "initializer_range": 0.02,
    "eos_token_id": [1, 107],
}
# Means and deviations of their own, so that nothing passes by a default of llama.cpp's.
SIGLIP: Config = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7], "image_seq_length": 4}


def _llama(tokenizer: Kind = "spm", **changes: object) -> Tiny:
    return Tiny("LlamaForCausalLM", LLAMA | changes, tokenizer)


# The converter leaves the end of a turn to llama.cpp, which finds it by its text; our files say it.
TURN_ENDS = {"tokenizer.ggml.eot_token_id": ("UINT32", 107)}

MODELS: dict[str, Tiny] = {
    "llama": _llama(),
    "llama-tied": _llama(tie_word_embeddings=True),
    "llama-head-dim": _llama(head_dim=32),
    "llama-bias": _llama(attention_bias=True),
    "llama-linear": _llama(
        "spm-added", rope_scaling={"type": "linear", "factor": 4.0}, vocab_size=416, eos_token_id=410
    ),
    "llama-256": _llama(hidden_size=256, intermediate_size=512, head_dim=64),
    "llama3": Tiny("LlamaForCausalLM", LLAMA3, "llama3"),
    "mistral": Tiny("MistralForCausalLM", MISTRAL, "spm-inst"),
    "mixtral": Tiny("MixtralForCausalLM", MIXTRAL, "spm", "mixtral"),
    "mixtral-experts": Tiny("MixtralForCausalLM", MIXTRAL, "spm", "plain", loads=False),
    "mixtral-fused": Tiny("MixtralForCausalLM", MIXTRAL, "spm", "fused"),
    "qwen2": Tiny("Qwen2ForCausalLM", QWEN | {"model_type": "qwen2", "tie_word_embeddings": True}, "qwen"),
    "qwen3": Tiny("Qwen3ForCausalLM", QWEN3 | {"model_type": "qwen3"}, "qwen"),
    "qwen2moe": Tiny("Qwen2MoeForCausalLM", QWEN2_MOE, "qwen"),
    "qwen2moe-fused": Tiny("Qwen2MoeForCausalLM", QWEN2_MOE, "qwen", "fused"),
    "qwen3moe": Tiny("Qwen3MoeForCausalLM", QWEN3_MOE, "qwen"),
    "qwen3moe-fused": Tiny("Qwen3MoeForCausalLM", QWEN3_MOE, "qwen", "fused"),
    "gemma": Tiny("GemmaForCausalLM", GEMMA | {"model_type": "gemma", "hidden_act": "gelu_pytorch_tanh"}, "gemma"),
    "gemma2": Tiny("Gemma2ForCausalLM", GEMMA2, "gemma", faults=TURN_ENDS),
    "gemma3": Tiny("Gemma3ForCausalLM", GEMMA3 | {"rope_scaling": None}, "gemma", faults=TURN_ENDS),
    "gemma3-vision": Tiny(
        "Gemma3ForConditionalGeneration", GEMMA3_VISION, "gemma-image", "vision-v4", faults=TURN_ENDS, processor=SIGLIP
    ),
    "gemma3-vision-v5": Tiny(
        "Gemma3ForConditionalGeneration", GEMMA3_VISION, "gemma-image", "vision-v5", faults=TURN_ENDS, processor=SIGLIP
    ),
}
