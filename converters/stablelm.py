"""StableLM 2 (and its 3B forerunners): a part of each head is rotated; 12B norms each head by itself, in parallel."""

from converters.decoder import (
    ATTN,
    DECODER,
    DEFAULTS,
    DROPPED,
    FFN,
    FFN_NORM,
    HEAD,
    LAYER_NORM_SIZES,
    NORM_BIASES,
    ROPE,
)
from converters.spec import Family, flagged, stacked
from converters.spec.derive import head_size, lacks, rotated_part

STABLELM = Family(
    name="stablelm",
    architectures=("StableLmForCausalLM",),
    arch="stablelm",
    tensors=DECODER
    | HEAD
    | FFN
    | NORM_BIASES
    | {
        "blk.{i}.attn_q.bias": flagged(ATTN + ".q_proj.bias", by="use_qkv_bias"),
        "blk.{i}.attn_k.bias": flagged(ATTN + ".k_proj.bias", by="use_qkv_bias"),
        "blk.{i}.attn_v.bias": flagged(ATTN + ".v_proj.bias", by="use_qkv_bias"),
        "blk.{i}.attn_q_norm.weight": flagged(
            stacked(ATTN + ".q_layernorm.norms.{e}.weight", count="num_attention_heads"), by="qk_layernorm"
        ),
        "blk.{i}.attn_k_norm.weight": flagged(
            stacked(ATTN + ".k_layernorm.norms.{e}.weight", count="num_key_value_heads"), by="qk_layernorm"
        ),
        "blk.{i}.ffn_norm.weight": flagged(FFN_NORM["blk.{i}.ffn_norm.weight"], by="sequential"),
        "blk.{i}.ffn_norm.bias": flagged(NORM_BIASES["blk.{i}.ffn_norm.bias"], by="sequential"),
    },
    metadata=LAYER_NORM_SIZES
    | ROPE
    | {"rope.dimension_count": "rope_dim", "use_parallel_residual": "use_parallel_residual"},
    defaults=DEFAULTS
    | {"num_key_value_heads": 32, "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25}
    | {"use_parallel_residual": False},
    derived={"rope_dim": rotated_part(), "head_size": head_size, "sequential": lacks("use_parallel_residual")},
    floats=("layer_norm_eps", "partial_rotary_factor"),
    requires={
        "hidden_act": ("silu", None),
        "rope_type": ("default", "linear"),
        "partial_rotary_factor": (),
        "head_dim": (None,),
    },
    shapes={
        "attn_q_norm.weight": ("num_attention_heads", "head_size"),
        "attn_k_norm.weight": ("num_key_value_heads", "head_size"),
    },
    dropped=DROPPED,
    head="always",
)
