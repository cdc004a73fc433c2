"""Qwen 3 30B-A3B, 235B-A22B and Coder: Qwen 3's attention and routed experts."""

from converters.decoder import (
    ALL_SPARSE,
    DECODER,
    DEFAULTS,
    DROPPED,
    EXPERT_COUNTS,
    EXPERTS,
    FFN_NORM,
    FUSED_EXPERTS,
    HEAD,
    HEAD_DIM,
    QK_NORM,
    QWEN_GRAPH,
    ROPE,
    SIZES,
)
from converters.spec import Family, Ratio

QWEN3_MOE = Family(
    name="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    arch="qwen3moe",
    tensors=DECODER | HEAD | QK_NORM | FFN_NORM | EXPERTS,
    layouts=FUSED_EXPERTS,
    metadata=SIZES | HEAD_DIM | ROPE | EXPERT_COUNTS | {"expert_feed_forward_length": "moe_intermediate_size"},
    defaults=DEFAULTS | {"head_dim": Ratio("hidden_size", "num_attention_heads")},
    requires=QWEN_GRAPH | ALL_SPARSE | {"attention_bias": (False, None), "norm_topk_prob": (True,)},
    dropped=DROPPED,
)
