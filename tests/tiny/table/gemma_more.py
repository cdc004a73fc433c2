"""Gemma 3n and Gemma 4."""

import re
from collections.abc import Callable, Mapping

from tiny.sizes import SIZES
from tiny.values import Config, Tiny

WINDOWED, FULL = "sliding_attention", "full_attention"

# Layers with a window have heads of 16, the others of 32, of which a quarter turns. E2B: the last layers read the keys
# and values of layers 2 and 3, and are twice as wide inside.
GEMMA4: Config = SIZES | {
    "model_type": "gemma4_text",
    "vocab_size": 516,
    "num_hidden_layers": 6,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        FULL: {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
        WINDOWED: {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "attention_bias": False,
    "attention_k_eq_v": False,
    "sliding_window": 16,
    "layer_types": [WINDOWED, FULL] * 3,
    "final_logit_softcapping": 30.0,
    "use_bidirectional_attention": None,
    "vocab_size_per_layer_input": 516,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "enable_moe_block": False,
    "num_experts": None,
    "top_k_experts": None,
    "moe_intermediate_size": None,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
# 31B: the values of layers without a window are their keys, of fewer heads; no per-layer embeddings.
GEMMA4_LARGE: Config = GEMMA4 | {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "num_global_key_value_heads": 2,
    "attention_k_eq_v": True,
    "layer_types": [WINDOWED, WINDOWED, FULL],
    "use_bidirectional_attention": "vision",
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
}
GEMMA4_MOE: Config = GEMMA4_LARGE | {
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
    "final_logit_softcapping": None,
    "tie_word_embeddings": False,
}
GEMMA4_VISION: Config = {
    "model_type": "gemma4",
    "text_config": GEMMA4_LARGE | {"vocab_size": 517, "vocab_size_per_layer_input": 517},
    "vision_config": {
        "model_type": "gemma4_vision",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "position_embedding_size": 16,
    },
    "audio_config": None,
    "image_token_id": 516,
    "video_token_id": 600,
    "audio_token_id": 601,
    "boi_token_id": 104,
    "eoi_token_id": 105,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}
# llama.cpp's graph has in its code: 20 layers with keys of their own, 10 sparse ones, sizes of 256, 64 and 4. A token
# that has no per-layer embedding takes the first row.
GEMMA3N: Config = SIZES | {
    "model_type": "gemma3n_text",
    "vocab_size": 516,
    "num_hidden_layers": 25,
    "head_dim": 16,
    "intermediate_size": [96] * 25,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "sliding_window": 16,
    "layer_types": ([WINDOWED] * 4 + [FULL]) * 5,
    "final_logit_softcapping": 30.0,
    "vocab_size_per_layer_input": 480,
    "hidden_size_per_layer_input": 256,
    "num_kv_shared_layers": 5,
    "laurel_rank": 64,
    "altup_active_idx": 0,
    "altup_coef_clip": 120.0,
    "altup_correct_scale": True,
    "altup_num_inputs": 4,
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 15,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
# transformers needs a package that is not here to make its vision tower, so its few tensors are made up.
GEMMA3N_VISION: Config = {
    "model_type": "gemma3n",
    "text_config": GEMMA3N,
    "vision_config": {"model_type": "gemma3n_vision", "hidden_size": 32, "vocab_size": 4, "vocab_offset": 508},
    "audio_config": {"model_type": "gemma3n_audio", "hidden_size": 32, "vocab_size": 4, "vocab_offset": 512},
    "image_token_id": 508,
    "audio_token_id": 512,
    "boi_token_id": 104,
    "eoi_token_id": 509,
    "boa_token_id": 105,
    "eoa_token_id": 513,
    "vision_soft_tokens_per_image": 4,
    "audio_soft_tokens_per_image": 4,
    "initializer_range": 0.02,
}
GEMMA3N_MEDIA = {
    "vision_tower.vision_model.timm_model.conv_stem.conv.weight": (4, 3, 3, 3),
    "model.embed_vision.embedding.weight": (4, 32),
    "model.embed_vision.embedding_projection.weight": (64, 32),
    "model.audio_tower.conformer.0.norm.weight": (32,),
    "model.embed_audio.embedding_projection.weight": (64, 32),
}
IN_VISION_MODEL = (
    (r"^model\.(?!embed_vision|embed_audio|audio_)", "model.language_model."),
    (r"^vision_tower\.vision_model\.", "model.vision_tower."),
)

# The converter takes only those tokens for markers that tokenizer_config.json names, so not the turns'; and it leaves
# the end of a turn to llama.cpp, which finds it by its text. Our files say both.
TURN_ENDS = {"tokenizer.ggml.eot_token_id": ("UINT32", 107)}
TYPES = [3] * 104 + [4] * 2 + [3] * 2 + [4] * 2 + [6] * 256 + [1] * 150
MARKERS = TURN_ENDS | {"tokenizer.ggml.token_type": ("INT32[]", TYPES)}
# llama.cpp loads keys and values of layers that read others'; of a checkpoint without them the converter makes a file
# that does not load. And to tokens that have no per-layer embedding it gives zeros, transformers the first row.
NO_EMBEDDING = ("per_layer_token_embd.weight",)
UNREAD = tuple(f"blk.{i}.attn_{part}.weight" for i in range(20, 25) for part in ("k", "v", "k_norm"))


def _calm(name: str, _: tuple[int, ...]) -> tuple[float, float] | None:
    """Scales near 1; small ones where a deep model of random weights would make much of a last bit.

    Scores are not divided by the root of the head's width here: the norms of queries do it.
    """
    if name.endswith("q_norm.weight"):
        return 0.25, 0.03
    if re.search(r"post_\w+norm(_\d)?\.weight$", name):
        return 0.4, 0.04
    return (1.0, 0.1) if name.endswith(("_scale", ".scale", "layer_scalar")) else None


def _by_layer(config: Config) -> Config:
    """What transformers 5 writes in place of the sizes of layers without a window."""
    if "text_config" in config:
        return config | {"text_config": _by_layer(config["text_config"])}
    own = {"head_dim": config.pop("global_head_dim")}
    heads = config.pop("num_global_key_value_heads")
    own |= {"num_key_value_heads": heads} if heads and config["attention_k_eq_v"] else {}
    return config | {"per_layer_config": {str(i): own for i, kind in enumerate(config["layer_types"]) if kind == FULL}}


def _with_unread_keys(name: str) -> Callable[[Config], Mapping[str, tuple[int, ...]]]:
    """Google's checkpoints hold keys and values for the layers that read others' too; transformers 5 drops them."""

    def shapes_of(config: Config) -> Mapping[str, tuple[int, ...]]:
        from tiny.weights import shapes  # noqa: PLC0415  (it imports the tables)

        own = dict(shapes(name)) | (GEMMA3N_MEDIA if "text_config" in config else {})
        text = config.get("text_config", config)
        kinds = text["layer_types"]
        first = len(kinds) - text["num_kv_shared_layers"]
        for layer in range(first, len(kinds)):
            read = first - 1 - kinds[:first][::-1].index(kinds[layer])
            own |= {
                key.replace(f".{read}.", f".{layer}."): shape
                for key, shape in own.items()
                if re.search(rf"\.{read}\.self_attn\.(k_proj|v_proj|k_norm)\.", key)
            }
        return own

    return shapes_of


MODELS: dict[str, Tiny] = {
    "gemma3n": Tiny(
        "Gemma3nForCausalLM", GEMMA3N, "gemma", spread=_calm, faults=TURN_ENDS, wrong=UNREAD + NO_EMBEDDING
    ),
    "gemma3n-keys": Tiny(
        "Gemma3nForCausalLM",
        GEMMA3N,
        "gemma",
        spread=_calm,
        shapes=_with_unread_keys("gemma3n"),
        faults=TURN_ENDS,
        wrong=NO_EMBEDDING,
    ),
    "gemma3n-vision": Tiny(
        "Gemma3nForConditionalGeneration",
        GEMMA3N_VISION,
        "gemma",
        loads=False,
        renames=IN_VISION_MODEL,
        spread=_calm,
        shapes=_with_unread_keys("gemma3n"),
        faults=TURN_ENDS,
        wrong=NO_EMBEDDING,
    ),
    "gemma4": Tiny("Gemma4ForCausalLM", GEMMA4, "gemma", spread=_calm, version5=_by_layer, faults=MARKERS),
    "gemma4-keys": Tiny(
        "Gemma4ForCausalLM",
        GEMMA4,
        "gemma",
        spread=_calm,
        version5=_by_layer,
        shapes=_with_unread_keys("gemma4"),
        faults=MARKERS,
    ),
    "gemma4-moe": Tiny(
        "Gemma4ForCausalLM",
        GEMMA4_MOE,
        "gemma",
        "fused",
        spread=_calm,
        version5=_by_layer,
        # Where the file says nothing llama.cpp caps logits at 30; the model has no cap.
        faults=MARKERS | {"gemma4.final_logit_softcapping": ("FLOAT32", 0.0)},
    ),
    "gemma4-vision": Tiny(
        "Gemma4ForConditionalGeneration",
        GEMMA4_VISION,
        "gemma-image",
        renames=IN_VISION_MODEL,
        spread=_calm,
        version5=_by_layer,
        faults=TURN_ENDS | {"tokenizer.ggml.token_type": ("INT32[]", [*TYPES, 3])},
    ),
}
