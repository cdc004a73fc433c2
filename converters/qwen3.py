"""Qwen 3, dense: norms on queries and keys, a head size of its own."""

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
from converters.spec import Family
from converters.spec.layers import some_windowed

QWEN3 = Family(
    name="qwen3",
    architectures=("Qwen3ForCausalLM",),
    arch="qwen3",
    tensors=DECODER | HEAD | QK_NORM | FFN_NORM | FFN,
    metadata=SIZES | HEAD_DIM | ROPE,
    defaults=DEFAULTS | {"head_dim": 128, "max_window_layers": 28},
    derived={"use_sliding_window": some_windowed},
    requires=QWEN_GRAPH | {"attention_bias": (False, None)},
    dropped=DROPPED,
)
