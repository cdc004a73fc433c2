"""Qwen 3.5 and 3.6 35B-A3B, 122B-A10B and 397B-A17B, the text: Qwen 3.5 with routed experts and a shared one."""

from converters.decoder import DROPPED, EXPERTS, FUSED_EXPERTS, HEAD
from converters.delta_net import (
    DELTA_COUNTS,
    DELTA_DEFAULTS,
    DELTA_DERIVED,
    DELTA_GRAPH,
    DELTA_NET,
    DELTA_SHAPES,
    DELTA_SIZES,
    LEFT_OUT,
    MOE_DEFAULTS,
    MOE_GRAPH,
    MOE_SIZES,
    SHARED_EXPERT,
    TILED,
)
from converters.rope import image_axes
from converters.spec import Family, strip

QWEN3_5_MOE = Family(
    name="qwen3_5_moe",
    architectures=("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
    arch="qwen35moe",
    tensors=DELTA_NET | HEAD | EXPERTS | SHARED_EXPERT | TILED,
    layouts={**FUSED_EXPERTS, "model.": strip("model.language_model.")},
    metadata=DELTA_SIZES | MOE_SIZES | {"rope.dimension_sections": "rope_axes"},
    defaults=DELTA_DEFAULTS | MOE_DEFAULTS | {"num_key_value_heads": 2, "num_experts": 256, "num_experts_per_tok": 8},
    derived=DELTA_DERIVED | {"rope_axes": image_axes(11, 11, 10)},
    counts=DELTA_COUNTS,
    requires=DELTA_GRAPH | MOE_GRAPH | {"rope_sections": (), "rope_interleaved": (True, None)},
    shapes=DELTA_SHAPES,
    left_out=LEFT_OUT,
    dropped=DROPPED,
)
