"""Granite 3's mixtures of experts, some with a shared expert: its factors, and experts stored in two tensors."""

from converters.decoder import (
    ATTN,
    DECODER,
    DROPPED,
    EXPERT_COUNTS,
    EXPERTS,
    FFN_NORM,
    GRANITE_DEFAULTS,
    GRANITE_FACTORS,
    GRANITE_GRAPH,
    GRANITE_KEYS,
    HEAD,
    LAYER,
    MLP,
)
from converters.spec import Family, Tokens, each, flagged, given, part, rope_pairs, rows
from converters.spec.orders import equal_part

MOE = LAYER + ".block_sparse_moe"
SHARED = LAYER + ".shared_mlp"
SIZE = "shared_intermediate_size"

GRANITE_MOE = Family(
    name="granite_moe",
    architectures=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    arch="granitemoe",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | EXPERTS
    | {
        "blk.{i}.attn_q.weight": rope_pairs(ATTN + ".q_proj.weight", heads="num_attention_heads"),
        "blk.{i}.attn_k.weight": rope_pairs(ATTN + ".k_proj.weight", heads="num_key_value_heads"),
        "blk.{i}.ffn_gate_shexp.weight": flagged(rows(SHARED + ".input_linear.weight", equal_part(0, of=2)), by=SIZE),
        "blk.{i}.ffn_up_shexp.weight": flagged(rows(SHARED + ".input_linear.weight", equal_part(1, of=2)), by=SIZE),
        "blk.{i}.ffn_down_shexp.weight": flagged(SHARED + ".output_linear.weight", by=SIZE),
    },
    layouts={  # as they are published, and as transformers 5 calls them
        MLP + ".gate.weight": (MOE + ".router.layer.weight", MOE + ".router.weight"),
        MLP + ".experts.{e}.gate_proj.weight": (
            part(MOE + ".input_linear.weight", 0, of=2),
            part(MOE + ".experts.gate_up_proj", 0, of=2),
        ),
        MLP + ".experts.{e}.up_proj.weight": (
            part(MOE + ".input_linear.weight", 1, of=2),
            part(MOE + ".experts.gate_up_proj", 1, of=2),
        ),
        MLP + ".experts.{e}.down_proj.weight": (each(MOE + ".output_linear.weight"), each(MOE + ".experts.down_proj")),
    },
    metadata=GRANITE_KEYS | EXPERT_COUNTS | {"expert_shared_feed_forward_length": given(SIZE)},
    fields={"shared_expert_intermediate_size": SIZE},
    defaults=GRANITE_DEFAULTS | {"num_experts": 8, "num_experts_per_tok": 2},
    floats=GRANITE_FACTORS,
    requires=GRANITE_GRAPH | {"attention_bias": (False, None)},
    dropped=DROPPED,
    tokens=Tokens(follows_add_prefix_space=True),
)
