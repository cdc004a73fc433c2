"""OLMoE: a Llama with experts, and norms over all queries and all keys."""

from converters.decoder import (
    DECODER,
    DEFAULTS,
    DROPPED,
    EXPERT_COUNTS,
    EXPERTS,
    FFN_NORM,
    FUSED_EXPERTS,
    GIVEN_HEAD_DIM,
    HEAD,
    QK_NORM,
    ROPE,
    SIZES,
    WIDE_GRAPH,
)
from converters.spec import Family, SameAs
from converters.spec.derive import yarn_attention

OLMOE = Family(
    name="olmoe",
    architectures=("OlmoeForCausalLM",),
    arch="olmoe",
    tensors=DECODER | HEAD | QK_NORM | FFN_NORM | EXPERTS,
    layouts=FUSED_EXPERTS,
    metadata=SIZES | ROPE | GIVEN_HEAD_DIM | EXPERT_COUNTS,
    defaults=DEFAULTS | {"rms_norm_eps": 1e-5, "num_experts": 64, "num_experts_per_tok": 8},
    derived={"yarn_attention": yarn_attention},
    # The graph norms as many keys as queries, and clips neither.
    requires=WIDE_GRAPH
    | {"num_key_value_heads": (SameAs("num_attention_heads"),), "clip_qkv": (None,), "norm_topk_prob": (False, None)},
    shapes={"attn_q_norm.weight": ("hidden_size",), "attn_k_norm.weight": ("hidden_size",)},
    dropped=DROPPED,
    head="always",
)
