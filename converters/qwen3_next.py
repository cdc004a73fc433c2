"""Qwen 3 Next 80B-A3B: gated delta nets, full attention in every fourth layer, many experts and a shared one."""

from converters.decoder import DROPPED, EXPERTS, FUSED_EXPERTS, HEAD
from converters.delta_net import (
    DELTA_COUNTS,
    DELTA_DEFAULTS,
    DELTA_DERIVED,
    DELTA_GRAPH,
    DELTA_NET,
    DELTA_SHAPES,
    DELTA_SIZES,
    KEY_DIM,
    KEY_HEADS,
    LEFT_OUT,
    LINEAR,
    MOE_DEFAULTS,
    MOE_GRAPH,
    MOE_SIZES,
    SHARED_EXPERT,
)
from converters.spec import Family, flat, minus_exp, rows, some_layers
from converters.spec.orders import one_after_another, part_of_each

# For each head of keys: a query, a key, its values, and their gates.
PARTS = (KEY_DIM, KEY_DIM, "linear_group_rows", "linear_group_rows")
QKV = one_after_another(
    part_of_each(KEY_HEADS, PARTS, 0), part_of_each(KEY_HEADS, PARTS, 1), part_of_each(KEY_HEADS, PARTS, 2)
)

QWEN3_NEXT = Family(
    name="qwen3_next",
    architectures=("Qwen3NextForCausalLM",),
    arch="qwen3next",
    tensors=DELTA_NET
    | HEAD
    | EXPERTS
    | SHARED_EXPERT
    | some_layers(
        {
            "blk.{i}.attn_qkv.weight": rows(LINEAR + ".in_proj_qkvz.weight", QKV),
            "blk.{i}.attn_gate.weight": rows(LINEAR + ".in_proj_qkvz.weight", part_of_each(KEY_HEADS, PARTS, 3)),
            "blk.{i}.ssm_ba.weight": LINEAR + ".in_proj_ba.weight",
            "blk.{i}.ssm_conv1d.weight": flat(LINEAR + ".conv1d.weight"),
            "blk.{i}.ssm_a": minus_exp(LINEAR + ".A_log"),
            "blk.{i}.ssm_dt.bias": LINEAR + ".dt_bias",
            "blk.{i}.ssm_out.weight": LINEAR + ".out_proj.weight",
        },
        layers="linear_layers",
    ),
    layouts=FUSED_EXPERTS,
    metadata=DELTA_SIZES | MOE_SIZES,
    defaults=DELTA_DEFAULTS | MOE_DEFAULTS | {"num_key_value_heads": 2, "num_experts": 512, "num_experts_per_tok": 10},
    derived=DELTA_DERIVED,
    counts=DELTA_COUNTS,
    requires=DELTA_GRAPH | MOE_GRAPH,
    shapes=DELTA_SHAPES,
    left_out=LEFT_OUT,
    dropped=DROPPED,
)
