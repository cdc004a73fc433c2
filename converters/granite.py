"""Granite 3: Llama with a factor of its own for the embedding, the scores, each layer's sum and the logits."""

from converters.decoder import (
    ATTN,
    DECODER,
    DROPPED,
    FFN,
    FFN_NORM,
    GRANITE_DEFAULTS,
    GRANITE_FACTORS,
    GRANITE_GRAPH,
    GRANITE_KEYS,
    HEAD,
    MLP,
)
from converters.spec import Family, Tokens, flagged, rope_pairs

HEADS = "num_attention_heads"
KV_HEADS = "num_key_value_heads"
ATTENTION = "attention_bias"

GRANITE = Family(
    name="granite",
    architectures=("GraniteForCausalLM",),
    arch="granite",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | FFN
    | {
        "blk.{i}.attn_q.weight": rope_pairs(ATTN + ".q_proj.weight", heads=HEADS),
        "blk.{i}.attn_k.weight": rope_pairs(ATTN + ".k_proj.weight", heads=KV_HEADS),
        "blk.{i}.attn_q.bias": flagged(rope_pairs(ATTN + ".q_proj.bias", heads=HEADS), by=ATTENTION),
        "blk.{i}.attn_k.bias": flagged(rope_pairs(ATTN + ".k_proj.bias", heads=KV_HEADS), by=ATTENTION),
        "blk.{i}.attn_v.bias": flagged(ATTN + ".v_proj.bias", by=ATTENTION),
        "blk.{i}.attn_output.bias": flagged(ATTN + ".o_proj.bias", by=ATTENTION),
        "blk.{i}.ffn_gate.bias": flagged(MLP + ".gate_proj.bias", by="mlp_bias"),
        "blk.{i}.ffn_up.bias": flagged(MLP + ".up_proj.bias", by="mlp_bias"),
        "blk.{i}.ffn_down.bias": flagged(MLP + ".down_proj.bias", by="mlp_bias"),
    },
    metadata=GRANITE_KEYS,
    defaults=GRANITE_DEFAULTS,
    floats=GRANITE_FACTORS,
    requires=GRANITE_GRAPH,
    dropped=DROPPED,
    tokens=Tokens(follows_add_prefix_space=True),
)
