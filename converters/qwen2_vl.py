"""Qwen 2 VL and 2.5 VL, the text: Qwen 2, rotated along three axes, which are one and the same for text."""

from converters.decoder import ATTN, DECODER, DEFAULTS, DROPPED, FFN, FFN_NORM, HEAD, QWEN_GRAPH, ROPE, SIZES, SQUARE
from converters.rope import image_axes
from converters.spec import Family, strip
from converters.spec.layers import some_windowed
from converters.vision_qwen2_5 import VISION_QWEN2_5

QWEN2_VL = Family(
    name="qwen2_vl",
    architectures=("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
    arch="qwen2vl",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | FFN
    | {
        "blk.{i}.attn_q.bias": ATTN + ".q_proj.bias",
        "blk.{i}.attn_k.bias": ATTN + ".k_proj.bias",
        "blk.{i}.attn_v.bias": ATTN + ".v_proj.bias",
    },
    layouts={"model.": strip("model.language_model.")},
    metadata=SIZES | ROPE | {"rope.dimension_sections": "rope_axes"},
    defaults=DEFAULTS
    | {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0}
    | {"max_position_embeddings": 32768, "max_window_layers": 80},
    derived={"use_sliding_window": some_windowed, "rope_axes": image_axes(16, 24, 24)},
    requires=QWEN_GRAPH | SQUARE | {"rope_sections": (), "rope_interleaved": (False, None)},
    notes={"rms_norm_eps": "llama.cpp computes the norms of Qwen 2 VL without their epsilon of {value}."},
    left_out={"vision tower": ("visual.", "model.visual.")},
    dropped=DROPPED,
    projector=VISION_QWEN2_5,
)
