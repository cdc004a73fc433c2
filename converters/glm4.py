"""GLM-4 of 2025 (0414), and GLM-Z1: half of each head is rotated, norms stand before and behind each block."""

from converters.decoder import (
    ATTN,
    DECODER,
    DEFAULTS,
    DROPPED,
    FFN_NORM,
    GIVEN_HEAD_DIM,
    HEAD,
    LAYER,
    MLP,
    ROPE,
    SIZES,
    YARN_GRAPH,
)
from converters.spec import Family, flagged
from converters.spec.derive import rotated_part, times

GLM4 = Family(
    name="glm4",
    architectures=("Glm4ForCausalLM",),
    arch="glm4",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | {
        "blk.{i}.attn_q.bias": flagged(ATTN + ".q_proj.bias", by="attention_bias"),
        "blk.{i}.attn_k.bias": flagged(ATTN + ".k_proj.bias", by="attention_bias"),
        "blk.{i}.attn_v.bias": flagged(ATTN + ".v_proj.bias", by="attention_bias"),
        "blk.{i}.post_attention_norm.weight": LAYER + ".post_self_attn_layernorm.weight",
        "blk.{i}.ffn_up.weight": MLP + ".gate_up_proj.weight",
        "blk.{i}.ffn_down.weight": MLP + ".down_proj.weight",
        "blk.{i}.post_ffw_norm.weight": LAYER + ".post_mlp_layernorm.weight",
    },
    metadata=SIZES | GIVEN_HEAD_DIM | ROPE | {"rope.dimension_count": "rope_dim"},
    defaults=DEFAULTS
    | {"rms_norm_eps": 1.5625e-07, "head_dim": 128, "num_key_value_heads": 2, "max_position_embeddings": 131072}
    | {"partial_rotary_factor": 0.5, "attention_bias": True},
    derived={"rope_dim": rotated_part(), "gate_up_rows": times("intermediate_size", 2)},
    requires=YARN_GRAPH
    | {"hidden_act": ("silu", None), "rope_type": ("default", "linear", "yarn"), "partial_rotary_factor": ()},
    shapes={"ffn_up.weight": ("gate_up_rows", "hidden_size")},
    dropped=DROPPED,
)
