"""DeepSeek MoE 16B, the first: Llama's attention, dense layers first, then routed and shared experts."""

from converters.decoder import (
    ATTN,
    DECODER,
    DEFAULTS,
    DROPPED,
    EXPERT_COUNTS,
    EXPERTS,
    FFN,
    FFN_NORM,
    FUSED_EXPERTS,
    HEAD,
    SHARED_EXPERTS,
    SIZES,
)
from converters.spec import Family, Ratio, rope_pairs, some_layers
from converters.spec.derive import constant, layers_but, layers_from, product_of

DEEPSEEK = Family(
    name="deepseek",
    architectures=("DeepseekForCausalLM",),
    arch="deepseek",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | some_layers(FFN, layers="dense_layers")
    | some_layers(EXPERTS | SHARED_EXPERTS, layers="moe_layers")
    | {
        "blk.{i}.attn_q.weight": rope_pairs(ATTN + ".q_proj.weight", heads="num_attention_heads"),
        "blk.{i}.attn_k.weight": rope_pairs(ATTN + ".k_proj.weight", heads="num_key_value_heads"),
    },
    layouts=FUSED_EXPERTS,
    metadata=SIZES
    | EXPERT_COUNTS
    | {"rope.freq_base": "rope_theta", "rope.dimension_count": "rope_dim", "rope.scaling.type": "no_scaling"}
    | {"vocab_size": "vocab_size", "leading_dense_block_count": "first_k_dense_replace", "expert_gating_func": "gating"}
    | {"expert_feed_forward_length": "moe_intermediate_size", "expert_shared_count": "n_shared_experts"}
    | {"expert_weights_scale": "no_scale"},
    defaults=DEFAULTS | {"first_k_dense_replace": 0, "rope_dim": Ratio("hidden_size", "num_attention_heads")},
    derived={
        "no_scaling": constant("none"),
        "no_scale": constant(1.0),
        "gating": constant(1),
        "shared_expert_intermediate_size": product_of("moe_intermediate_size", "n_shared_experts"),
        "moe_layers": layers_from("first_k_dense_replace"),
        "dense_layers": layers_but("moe_layers"),
    },
    counts=("first_k_dense_replace", "n_shared_experts"),
    requires={
        "hidden_act": ("silu", None),
        "attention_bias": (False, None),
        "rope_type": ("default",),
        "head_dim": (Ratio("hidden_size", "num_attention_heads"), None),
        "moe_layer_freq": (1, None),
        "scoring_func": ("softmax", None),
        "norm_topk_prob": (False, None),
    },
    dropped=DROPPED,
)
