"""Mistral 7B v0.1 to v0.3, Nemo, Large, Codestral: Llama's graph with a head size of its own."""

from converters.decoder import (
    ATTN,
    DECODER,
    DEFAULTS,
    DROPPED,
    FFN,
    FFN_NORM,
    GIVEN_HEAD_DIM,
    HEAD,
    ROPE,
    SIZES,
    WINDOW,
    YARN_GRAPH,
)
from converters.spec import Family, Ratio, Tokens, rope_pairs

MISTRAL = Family(
    name="mistral",
    architectures=("MistralForCausalLM",),
    arch="llama",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | FFN
    | {
        "blk.{i}.attn_q.weight": rope_pairs(ATTN + ".q_proj.weight", heads="num_attention_heads"),
        "blk.{i}.attn_k.weight": rope_pairs(ATTN + ".k_proj.weight", heads="num_key_value_heads"),
    },
    metadata=SIZES | GIVEN_HEAD_DIM | ROPE | {"vocab_size": "vocab_size", "rope.dimension_count": "rope_dim"},
    defaults=DEFAULTS
    | {"sliding_window": 4096, "rope_dim": Ratio("hidden_size", "num_attention_heads", unless="head_dim")},
    requires=YARN_GRAPH | {"hidden_act": ("silu", None), "rope_type": ("default", "linear", "yarn")},
    notes=WINDOW,
    dropped=DROPPED,
    tokens=Tokens(follows_add_prefix_space=True),
)
