"""OLMo 1 to 3 and OLMoE, StarCoder 2, GPT-2, GPT-NeoX, StableLM 2."""

import numpy as np

from tiny.sizes import SIZES
from tiny.values import Config, Tiny, Weights

COMMON: Config = SIZES | {
    "vocab_size": 320,
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_theta": 500000.0,
    "rope_scaling": None,
    "bos_token_id": 304,
    "eos_token_id": 306,
    "pad_token_id": 304,
}
OLMO2: Config = COMMON | {"model_type": "olmo2", "rms_norm_eps": 1e-6}
# As the 32B model in its long form: the pattern of windows is the default one, and the factor of YaRN is said.
OLMO3: Config = COMMON | {
    "model_type": "olmo3",
    "rms_norm_eps": 1e-6,
    "num_hidden_layers": 4,
    "max_position_embeddings": 4096,
    "sliding_window": 16,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 512,
        "attention_factor": 1.2079441541679836,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    },
}
# No numbers in its norms, and an embedding that is the head, as in the 1B model; the clip takes a tenth of the keys.
OLMO: Config = COMMON | {"model_type": "olmo", "clip_qkv": None, "tie_word_embeddings": True}
OLMOE: Config = COMMON | {
    "model_type": "olmoe",
    "rope_theta": 10000.0,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "clip_qkv": None,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": False,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.01,
}
STARCODER2: Config = {key: value for key, value in COMMON.items() if key != "attention_bias"} | {
    "model_type": "starcoder2",
    "hidden_act": "gelu_pytorch_tanh",
    "norm_epsilon": 1e-5,
    "use_bias": True,
    "sliding_window": None,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
    "tie_word_embeddings": True,
}
GPT2: Config = {
    "model_type": "gpt2",
    "vocab_size": 320,
    "n_ctx": 512,
    "n_positions": 512,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "bos_token_id": 304,
    "eos_token_id": 306,
}
# As GPT-NeoX 20B; Pythia's activation is the exact one.
GPT_NEOX: Config = {
    "model_type": "gpt_neox",
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "hidden_act": "gelu_fast",
    "layer_norm_eps": 1e-5,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "use_parallel_residual": True,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "bos_token_id": 304,
    "eos_token_id": 306,
}
STABLELM: Config = {key: value for key, value in COMMON.items() if key != "attention_bias"} | {
    "model_type": "stablelm",
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.25,
    "use_qkv_bias": True,
    "qk_layernorm": False,
    "use_parallel_residual": False,
    "hidden_dropout": 0.0,
}


def _gpt2_spread(name: str, shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Matrices are stored turned over; norms are called ``ln``."""
    if ".ln_" in name and name.endswith(".weight"):
        return 1.0, 0.1
    if name.endswith(("wte.weight", "wpe.weight")):
        return 0.0, 0.25
    return (0.0, 0.8 / np.sqrt(shape[0]).item()) if len(shape) == 2 else None


def _with_masks(tensors: Weights) -> Weights:
    """With the buffers that old checkpoints saved, which hold no weight."""
    masks = {f"transformer.h.{i}.attn.bias": np.tril(np.ones((1, 1, 512, 512), np.float32)) for i in range(2)}
    return {**tensors, **masks}


def _neox_v5(config: Config) -> Config:
    """The rotation's base and part as transformers 5 writes them for this architecture."""
    changed = dict(config)
    rope = {"rope_theta": changed.pop("rotary_emb_base"), "partial_rotary_factor": changed.pop("rotary_pct")}
    return changed | {"rope_parameters": {"rope_type": "default"} | rope}


def _part_v5(config: Config) -> Config:
    """How much of a head is rotated, among the rotation's parameters."""
    changed = dict(config)
    rope = {"rope_theta": changed.pop("rope_theta"), "partial_rotary_factor": changed.pop("partial_rotary_factor")}
    return changed | {"rope_parameters": {"rope_type": "default"} | rope}


def _olmo3_v5(config: Config) -> Config:
    """Rotation by kinds of layers, as transformers 5 writes it for this architecture alone."""
    changed = dict(config)
    plain = {"rope_theta": changed.pop("rope_theta"), "rope_type": "default"}
    full = plain | (changed.pop("rope_scaling") or {})
    return changed | {"rope_parameters": {"full_attention": full, "sliding_attention": plain}}


# The converter leaves the base out, so that llama.cpp takes 10000, whichever the model has.
NEOX_BASE = {"gptneox.rope.freq_base": ("FLOAT32", 10000.0)}
STABLELM_BASE = {"stablelm.rope.freq_base": ("FLOAT32", 10000.0)}


def _neox(bound: float | None = None, **changes: object) -> Tiny:
    embed_out = ((r"^lm_head\.", "embed_out."),)
    config = GPT_NEOX | changes
    return Tiny(
        "GPTNeoXForCausalLM", config, "qwen", renames=embed_out, version5=_neox_v5, bound=bound, faults=NEOX_BASE
    )


def _stablelm(**changes: object) -> Tiny:
    return Tiny("StableLmForCausalLM", STABLELM | changes, "qwen", version5=_part_v5, faults=STABLELM_BASE)


MODELS: dict[str, Tiny] = {
    "olmo2": Tiny("Olmo2ForCausalLM", OLMO2, "qwen"),
    # The converter writes no head for a tied model, and llama.cpp does not load an OLMo 2 without one.
    "olmo2-tied": Tiny("Olmo2ForCausalLM", OLMO2 | {"tie_word_embeddings": True}, "qwen", wrong=("output.weight",)),
    "olmo3": Tiny("Olmo3ForCausalLM", OLMO3, "qwen", version5=_olmo3_v5),
    "olmo3-short": Tiny(
        "Olmo3ForCausalLM",
        OLMO3 | {"rope_scaling": None, "layer_types": ["sliding_attention", "full_attention"] * 2},
        "qwen",
        version5=_olmo3_v5,
    ),
    "olmo": Tiny("OlmoForCausalLM", OLMO, "qwen"),
    "olmo-clip": Tiny("OlmoForCausalLM", OLMO | {"clip_qkv": 1.0, "tie_word_embeddings": False}, "qwen"),
    "olmoe": Tiny("OlmoeForCausalLM", OLMOE, "qwen"),
    "olmoe-fused": Tiny("OlmoeForCausalLM", OLMOE, "qwen", "fused"),
    "starcoder2": Tiny("Starcoder2ForCausalLM", STARCODER2, "qwen"),
    "starcoder2-head": Tiny("Starcoder2ForCausalLM", STARCODER2 | {"tie_word_embeddings": False}, "qwen"),
    "gpt2": Tiny("GPT2LMHeadModel", GPT2, "qwen", spread=_gpt2_spread),
    "gpt2-bare": Tiny(
        "GPT2LMHeadModel", GPT2, "qwen", spread=_gpt2_spread, stores=_with_masks, renames=((r"^transformer\.", ""),)
    ),
    "gpt2-head": Tiny("GPT2LMHeadModel", GPT2 | {"tie_word_embeddings": False}, "qwen", spread=_gpt2_spread),
    "gptneox": _neox(),
    # llama.cpp computes the exact GELU by the formula with tanh too, 0.0005 off at the most: 2.2e-3 of the logits.
    "gptneox-pythia": _neox(4e-3, hidden_act="gelu", use_parallel_residual=False),
    "stablelm": _stablelm(),
    # The converter loses the norms of the heads, and ends with "Unprocessed norms": only the logits are compared.
    "stablelm-12b": _stablelm(use_qkv_bias=False, qk_layernorm=True, use_parallel_residual=True),
}
