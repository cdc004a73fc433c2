"""Mixtral 8x7B and 8x22B: Llama's attention, and experts that GGUF keeps as one 3-D tensor per projection."""

from converters.decoder import (
    ATTN,
    DECODER,
    DROPPED,
    EXPERT_COUNTS,
    FFN_NORM,
    GIVEN_HEAD_DIM,
    HEAD,
    LAYER,
    MIXTRAL_DEFAULTS,
    MLP,
    ROPE,
    SIZES,
    WINDOW,
    YARN_GRAPH,
)
from converters.spec import Family, Ratio, Tokens, each, part, rope_pairs

MOE = LAYER + ".block_sparse_moe"

MIXTRAL = Family(
    name="mixtral",
    architectures=("MixtralForCausalLM",),
    arch="llama",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | {
        "blk.{i}.attn_q.weight": rope_pairs(ATTN + ".q_proj.weight", heads="num_attention_heads"),
        "blk.{i}.attn_k.weight": rope_pairs(ATTN + ".k_proj.weight", heads="num_key_value_heads"),
        "blk.{i}.ffn_gate_inp.weight": MOE + ".gate.weight",
        "blk.{i}.ffn_gate_exps.weight": MOE + ".experts.{e}.w1.weight",
        "blk.{i}.ffn_down_exps.weight": MOE + ".experts.{e}.w2.weight",
        "blk.{i}.ffn_up_exps.weight": MOE + ".experts.{e}.w3.weight",
    },
    layouts={
        MOE + ".gate.weight": MLP + ".gate.weight",
        MOE + ".experts.{e}.w1.weight": (
            MLP + ".experts.{e}.gate_proj.weight",
            part(MLP + ".experts.gate_up_proj", 0, of=2),
        ),
        MOE + ".experts.{e}.w3.weight": (
            MLP + ".experts.{e}.up_proj.weight",
            part(MLP + ".experts.gate_up_proj", 1, of=2),
        ),
        MOE + ".experts.{e}.w2.weight": (MLP + ".experts.{e}.down_proj.weight", each(MLP + ".experts.down_proj")),
    },
    metadata=SIZES
    | GIVEN_HEAD_DIM
    | ROPE
    | EXPERT_COUNTS
    | {"vocab_size": "vocab_size", "rope.dimension_count": "rope_dim"},
    defaults=MIXTRAL_DEFAULTS | {"rope_dim": Ratio("hidden_size", "num_attention_heads", unless="head_dim")},
    requires=YARN_GRAPH | {"hidden_act": ("silu", None), "rope_type": ("default", "linear", "yarn")},
    notes=WINDOW,
    dropped=DROPPED,
    tokens=Tokens(follows_add_prefix_space=True),
)
