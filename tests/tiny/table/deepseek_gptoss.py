"""DeepSeek 1 to 3, gpt-oss, Llama 4."""

import re
from copy import deepcopy
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tiny.as_llama import llama_shapes
from tiny.sizes import SIZES
from tiny.values import Array, Config, Tiny, Weights

# The first: Llama's attention; transformers has no class for it.
DEEPSEEK: Config = SIZES | {
    "model_type": "deepseek",
    "num_hidden_layers": 3,
    "vocab_size": 320,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "moe_intermediate_size": 96,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "bos_token_id": 304,
    "eos_token_id": 306,
}
# As V2 Lite: queries of full rank, one dense layer, no groups of experts; three layers, so that two are sparse.
DEEPSEEK_V2: Config = SIZES | {
    "model_type": "deepseek_v2",
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "vocab_size": 320,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "max_position_embeddings": 163840,
    "attention_bias": False,
    "kv_lora_rank": 32,
    "q_lora_rank": None,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "moe_intermediate_size": 96,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "bos_token_id": 304,
    "eos_token_id": 306,
}
DEEPSEEK_V3: Config = DEEPSEEK_V2 | {
    "model_type": "deepseek_v3",
    "q_lora_rank": 48,
    "rope_scaling": DEEPSEEK_V2["rope_scaling"] | {"mscale": 1.0, "mscale_all_dim": 1.0},
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1,
}
# Published configurations have truncate: false, which llama.cpp does not compute; here it is as llama.cpp has it.
GPT_OSS: Config = SIZES | {
    "model_type": "gpt_oss",
    "vocab_size": 320,
    "num_hidden_layers": 4,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": True,
    },
    "max_position_embeddings": 131072,
    "head_dim": 32,
    "attention_bias": True,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "experts_per_token": 2,
    "swiglu_limit": 7.0,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.9,
    "bos_token_id": 304,
    "eos_token_id": 306,
}
# As Scout: experts in all layers, norms of queries and keys; as in Maverick every second layer is dense below.
LLAMA4: Config = SIZES | {
    "model_type": "llama4_text",
    "vocab_size": 320,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "intermediate_size_mlp": 160,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 16.0,
        "high_freq_factor": 1.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "max_position_embeddings": 65536,
    "head_dim": 16,
    "attention_bias": False,
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "attn_scale": 0.1,
    "use_qk_norm": True,
    "no_rope_layers": [1, 1, 1, 0],
    "interleave_moe_layer_step": 1,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
    "bos_token_id": 304,
    "eos_token_id": [305, 306],
}
MAVERICK: Config = LLAMA4 | {
    "interleave_moe_layer_step": 2,
    "moe_layers": [1, 3],
    "no_rope_layers": [],
    "num_local_experts": 128,
    "intermediate_size": 32,
    "use_qk_norm": False,
    "rope_scaling": None,
}
LLAMA4_VISION: Config = {
    "model_type": "llama4",
    "text_config": LLAMA4 | {"num_local_experts": 8, "interleave_moe_layer_step": 2},
    "vision_config": {
        "model_type": "llama4_vision_model",
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 3,  # or the converter finds no name for the adapter's fc2
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "projector_input_dim": 64,
        "projector_output_dim": 64,
        "vision_output_dim": 64,
        "rope_theta": 10000.0,
    },
    "image_token_index": 318,
    "boi_token_index": 316,
    "eoi_token_index": 317,
    "tie_word_embeddings": False,
}
# llama.cpp asks for the rank of queries unless a model has the layers of a known small one; 0 is none.
NO_RANK = {"deepseek2.attention.q_lora_rank": ("UINT32", 0)}


def _first_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Llama's weights; in the sparse layers the router, and experts in place of the one block."""
    hidden, wide = config["hidden_size"], config["moe_intermediate_size"]
    blocks = {f"experts.{e}": wide for e in range(config["n_routed_experts"])}
    blocks["shared_experts"] = wide * config["n_shared_experts"]
    made = {key: shape for key, shape in llama_shapes(config).items() if not _of_sparse(key, config)}
    for layer in range(config["first_k_dense_replace"], config["num_hidden_layers"]):
        made[f"model.layers.{layer}.mlp.gate.weight"] = config["n_routed_experts"], hidden
        for block, rows in blocks.items():
            of_block = f"model.layers.{layer}.mlp.{block}"
            made |= {f"{of_block}.{part}_proj.weight": (rows, hidden) for part in ("gate", "up")}
            made[f"{of_block}.down_proj.weight"] = hidden, rows
    return made


def _of_sparse(key: str, config: Config) -> bool:
    """Whether a weight is of a sparse layer's feed-forward part."""
    found = re.match(r"model\.layers\.(\d+)\.mlp\.", key)
    return found is not None and int(found[1]) >= config["first_k_dense_replace"]


def _first_logits(weights: Weights, config: Config, ids: NDArray[np.int32]) -> Array:
    """The logits of transformers' Llama with experts in its sparse layers (arXiv 2401.06066, equations 9 to 11)."""
    import torch  # noqa: PLC0415  (seconds to import)
    from torch.nn.functional import silu  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    tensors = {key: torch.from_numpy(value) for key, value in weights.items()}

    def block(name: str, x: torch.Tensor) -> torch.Tensor:
        gate, up, down = (tensors[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        return (silu(x @ gate.T) * (x @ up.T)) @ down.T

    def sparse(mlp: str, x: torch.Tensor) -> torch.Tensor:
        scores = (x @ tensors[f"{mlp}.gate.weight"].T).softmax(-1)
        best = scores.topk(config["num_experts_per_tok"], -1).indices
        kept = torch.zeros_like(scores).scatter(-1, best, scores.gather(-1, best))
        experts = [kept[..., e, None] * block(f"{mlp}.experts.{e}", x) for e in range(config["n_routed_experts"])]
        return torch.stack(experts).sum(0) + block(f"{mlp}.shared_experts", x)

    said = {key: value for key, value in config.items() if key != "model_type"}
    model = LlamaForCausalLM(LlamaConfig(**deepcopy(said), attn_implementation="eager")).eval()
    model.load_state_dict(tensors, strict=False)
    for layer in range(config["first_k_dense_replace"], config["num_hidden_layers"]):
        model.model.layers[layer].mlp.forward = partial(sparse, f"model.layers.{layer}.mlp")
    with torch.no_grad():
        logits: Array = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()
    return logits


def _turned(name: str, shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Experts in one tensor: each number's deviation is by the inputs of its expert."""
    return (0.0, 0.8 / shape[1] ** 0.5) if ".experts." in name and len(shape) == 3 else None


def _with_prediction(weights: Weights) -> Weights:
    """The checkpoint's tensors with a layer behind the last, as V3 and R1 have one for a second token at once."""
    last = "model.layers.2."
    more = {
        key.replace(last, "model.layers.3."): value.copy() for key, value in weights.items() if key.startswith(last)
    }
    own = {"enorm.weight": "model.norm.weight", "eh_proj.weight": last + "self_attn.o_proj.weight"}
    return dict(weights) | more | {f"model.layers.3.{name}": weights[key].copy() for name, key in own.items()}


MODELS: dict[str, Tiny] = {
    "deepseek": Tiny("DeepseekForCausalLM", DEEPSEEK, "qwen", shapes=_first_shapes, forward=_first_logits),
    "deepseek2": Tiny("DeepseekV2ForCausalLM", DEEPSEEK_V2, "qwen", faults=NO_RANK),
    "deepseek2-fused": Tiny("DeepseekV2ForCausalLM", DEEPSEEK_V2, "qwen", "fused", faults=NO_RANK),
    "deepseek3": Tiny("DeepseekV3ForCausalLM", DEEPSEEK_V3, "qwen"),
    "deepseek2-rank": Tiny("DeepseekV2ForCausalLM", DEEPSEEK_V2 | {"q_lora_rank": 48}, "qwen"),
    "deepseek3-full": Tiny("DeepseekV3ForCausalLM", DEEPSEEK_V3 | {"q_lora_rank": None}, "qwen", faults=NO_RANK),
    "deepseek3-mtp": Tiny("DeepseekV3ForCausalLM", DEEPSEEK_V3, "qwen", stores=_with_prediction),
    "gptoss": Tiny("GptOssForCausalLM", GPT_OSS, "qwen", "turned", spread=_turned),
    "gptoss-tied": Tiny(
        "GptOssForCausalLM",
        GPT_OSS | {"tie_word_embeddings": True},
        "qwen",
        "turned",
        spread=_turned,
        wrong=("output.weight",),  # the converter leaves out a head without which llama.cpp does not load
    ),
    "llama4": Tiny("Llama4ForCausalLM", LLAMA4, "llama3", "turned", spread=_turned),
    "llama4-128": Tiny("Llama4ForCausalLM", MAVERICK, "llama3", "turned", spread=_turned),
    "llama4-vision": Tiny(
        "Llama4ForConditionalGeneration",
        LLAMA4_VISION,
        "llama3",
        "turned",
        spread=_turned,
        renames=((r"^model\.", "language_model.model."), (r"^lm_head\.", "language_model.lm_head.")),
        processor={"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]},
    ),
}
