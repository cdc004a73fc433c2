"""InternLM 3: Llama's graph, with biases of its own names."""

from converters.decoder import (
    ATTN,
    DECODER,
    DEFAULTS,
    DROPPED,
    DYNAMIC,
    FFN,
    FFN_NORM,
    GIVEN_HEAD_DIM,
    HEAD,
    MLP,
    ROPE,
    SIZES,
    YARN_GRAPH,
)
from converters.spec import Family, Ratio, Tokens, flagged, rope_pairs

HEADS = "num_attention_heads"
KV_HEADS = "num_key_value_heads"

INTERNLM3 = Family(
    name="internlm3",
    architectures=("InternLM3ForCausalLM",),
    arch="llama",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | FFN
    | {
        "blk.{i}.attn_q.weight": rope_pairs(ATTN + ".q_proj.weight", heads=HEADS),
        "blk.{i}.attn_k.weight": rope_pairs(ATTN + ".k_proj.weight", heads=KV_HEADS),
        "blk.{i}.attn_q.bias": flagged(rope_pairs(ATTN + ".q_proj.bias", heads=HEADS), by="attention_bias"),
        "blk.{i}.attn_k.bias": flagged(rope_pairs(ATTN + ".k_proj.bias", heads=KV_HEADS), by="attention_bias"),
        "blk.{i}.attn_v.bias": flagged(ATTN + ".v_proj.bias", by="attention_bias"),
        "blk.{i}.attn_output.bias": flagged(ATTN + ".o_proj.bias", by="mlp_bias"),
        "blk.{i}.ffn_gate.bias": flagged(MLP + ".gate_proj.bias", by="mlp_bias"),
        "blk.{i}.ffn_up.bias": flagged(MLP + ".up_proj.bias", by="mlp_bias"),
        "blk.{i}.ffn_down.bias": flagged(MLP + ".down_proj.bias", by="mlp_bias"),
    },
    metadata=SIZES | GIVEN_HEAD_DIM | ROPE | {"vocab_size": "vocab_size", "rope.dimension_count": "rope_dim"},
    fields={"attention_bias": "qkv_bias", "mlp_bias": "bias"},
    defaults=DEFAULTS | {"rms_norm_eps": 1e-5, "rope_dim": Ratio("hidden_size", HEADS, unless="head_dim")},
    requires=YARN_GRAPH
    | {"hidden_act": ("silu", None), "rope_type": ("default", "linear", "yarn", "dynamic"), "rope_dynamic_factor": ()},
    notes=DYNAMIC,
    dropped=DROPPED,
    tokens=Tokens(follows_add_prefix_space=True),
)
