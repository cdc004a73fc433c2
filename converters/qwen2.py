"""Qwen 1.5, 2 and 2.5, dense, Coder, DeepSeek-R1 distills: biases on the attention's inputs, rows as they are."""

from converters.decoder import (
    ATTN,
    DECODER,
    DEFAULTS,
    DROPPED,
    FFN,
    FFN_NORM,
    GIVEN_HEAD_DIM,
    HEAD,
    QWEN_GRAPH,
    ROPE,
    SIZES,
)
from converters.spec import Family
from converters.spec.layers import some_windowed

QWEN2 = Family(
    name="qwen2",
    architectures=("Qwen2ForCausalLM",),
    arch="qwen2",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | FFN
    | {
        "blk.{i}.attn_q.bias": ATTN + ".q_proj.bias",
        "blk.{i}.attn_k.bias": ATTN + ".k_proj.bias",
        "blk.{i}.attn_v.bias": ATTN + ".v_proj.bias",
    },
    metadata=SIZES | ROPE | GIVEN_HEAD_DIM,
    defaults=DEFAULTS | {"max_window_layers": 28},
    derived={"use_sliding_window": some_windowed},
    requires=QWEN_GRAPH,
    dropped=DROPPED,
)
