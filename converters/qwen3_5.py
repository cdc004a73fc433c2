"""Qwen 3.5 and 3.6, dense, the text: gated delta nets, full attention in every fourth layer."""

from converters.decoder import DROPPED, FFN, HEAD
from converters.delta_net import (
    DELTA_COUNTS,
    DELTA_DEFAULTS,
    DELTA_DERIVED,
    DELTA_GRAPH,
    DELTA_NET,
    DELTA_SHAPES,
    DELTA_SIZES,
    LEFT_OUT,
    TILED,
)
from converters.rope import image_axes
from converters.spec import Family, strip

QWEN3_5 = Family(
    name="qwen3_5",
    architectures=("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
    arch="qwen35",
    tensors=DELTA_NET | HEAD | FFN | TILED,
    layouts={"model.": strip("model.language_model.")},
    metadata=DELTA_SIZES | {"rope.dimension_sections": "rope_axes"},
    defaults=DELTA_DEFAULTS | {"num_key_value_heads": 4},
    derived=DELTA_DERIVED | {"rope_axes": image_axes(11, 11, 10)},
    counts=DELTA_COUNTS,
    requires=DELTA_GRAPH | {"rope_sections": (), "rope_interleaved": (True, None)},
    shapes=DELTA_SHAPES,
    left_out=LEFT_OUT,
    dropped=DROPPED,
)
