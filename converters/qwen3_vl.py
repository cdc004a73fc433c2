"""Qwen 3 VL, dense, the text: Qwen 3, rotated along three axes that take turns, and one and the same for text."""

from converters.decoder import (
    DECODER,
    DEFAULTS,
    DROPPED,
    FFN,
    FFN_NORM,
    HEAD,
    HEAD_DIM,
    QK_NORM,
    QWEN_GRAPH,
    ROPE,
    SIZES,
)
from converters.rope import image_axes, pairs_at_rest
from converters.spec import Family, strip
from converters.spec.derive import length_of
from converters.vision_qwen3 import VISION_QWEN3

QWEN3_VL = Family(
    name="qwen3_vl",
    architectures=("Qwen3VLForConditionalGeneration",),
    arch="qwen3vl",
    tensors=DECODER | HEAD | QK_NORM | FFN_NORM | FFN,
    layouts={"model.": strip("model.language_model.")},
    metadata=SIZES
    | HEAD_DIM
    | ROPE
    | {"rope.dimension_sections": "rope_axes", "n_deepstack_layers": "deepstack_layers"},
    defaults=DEFAULTS
    | {"num_key_value_heads": 32, "head_dim": 128, "rope_theta": 500000.0, "max_position_embeddings": 128000},
    derived={
        "rope_axes": image_axes(24, 20, 20),
        "rope_at_rest": pairs_at_rest,
        "deepstack_layers": length_of("vision_config", "deepstack_visual_indexes", usual=3),
    },
    requires=QWEN_GRAPH | {"attention_bias": (False, None), "rope_sections": (), "rope_interleaved": (True, None)},
    notes={"rope_at_rest": "llama.cpp does not rotate {value} over the whole context in training (radians)."},
    left_out={"vision tower": ("visual.", "model.visual.")},
    dropped=DROPPED,
    projector=VISION_QWEN3,
)
