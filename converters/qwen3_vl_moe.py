"""Qwen 3 VL 30B-A3B and 235B-A22B, the text: Qwen 3 VL with routed experts."""

from converters.decoder import (
    ALL_SPARSE,
    DECODER,
    DEFAULTS,
    DROPPED,
    EXPERT_COUNTS,
    EXPERTS,
    FFN_NORM,
    HEAD,
    HEAD_DIM,
    MLP,
    QK_NORM,
    QWEN_GRAPH,
    ROPE,
    SIZES,
)
from converters.rope import image_axes, pairs_at_rest
from converters.spec import Family, Ratio, each, part, strip
from converters.spec.derive import length_of
from converters.vision_qwen3 import VISION_QWEN3

QWEN3_VL_MOE = Family(
    name="qwen3_vl_moe",
    architectures=("Qwen3VLMoeForConditionalGeneration",),
    arch="qwen3vlmoe",
    tensors=DECODER | HEAD | QK_NORM | FFN_NORM | EXPERTS,
    layouts={
        "model.": strip("model.language_model."),
        MLP + ".experts.{e}.gate_proj.weight": part(MLP + ".experts.gate_up_proj", 0, of=2, width="columns"),
        MLP + ".experts.{e}.up_proj.weight": part(MLP + ".experts.gate_up_proj", 1, of=2, width="columns"),
        MLP + ".experts.{e}.down_proj.weight": each(MLP + ".experts.down_proj", width="rows"),
    },
    metadata=SIZES
    | HEAD_DIM
    | ROPE
    | EXPERT_COUNTS
    | {
        "expert_feed_forward_length": "moe_intermediate_size",
        "rope.dimension_sections": "rope_axes",
        "n_deepstack_layers": "deepstack_layers",
    },
    defaults=DEFAULTS
    | {"num_key_value_heads": 16, "head_dim": Ratio("hidden_size", "num_attention_heads"), "rope_theta": 500000.0}
    | {"max_position_embeddings": 128000, "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408},
    derived={
        "rope_axes": image_axes(24, 20, 20),
        "rope_at_rest": pairs_at_rest,
        "deepstack_layers": length_of("vision_config", "deepstack_visual_indexes", usual=3),
    },
    requires=QWEN_GRAPH
    | ALL_SPARSE
    | {"attention_bias": (False, None), "rope_sections": (), "rope_interleaved": (True, None)}
    | {"norm_topk_prob": (True, None)},
    notes={"rope_at_rest": "llama.cpp does not rotate {value} over the whole context in training (radians)."},
    left_out={"vision tower": ("visual.", "model.visual.")},
    dropped=DROPPED,
    projector=VISION_QWEN3,
)
