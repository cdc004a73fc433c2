"""Qwen 1.5 MoE and Qwen 2 57B-A14B: Qwen 2's attention, routed experts and one shared expert with a gate."""

from converters.decoder import (
    ALL_SPARSE,
    ATTN,
    DECODER,
    DEFAULTS,
    DROPPED,
    EXPERT_COUNTS,
    EXPERTS,
    FFN_NORM,
    FUSED_EXPERTS,
    GIVEN_HEAD_DIM,
    HEAD,
    MLP,
    QWEN_GRAPH,
    ROPE,
    SIZES,
)
from converters.spec import Family

QWEN2_MOE = Family(
    name="qwen2_moe",
    architectures=("Qwen2MoeForCausalLM",),
    arch="qwen2moe",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | EXPERTS
    | {
        "blk.{i}.attn_q.bias": ATTN + ".q_proj.bias",
        "blk.{i}.attn_k.bias": ATTN + ".k_proj.bias",
        "blk.{i}.attn_v.bias": ATTN + ".v_proj.bias",
        "blk.{i}.ffn_gate_inp_shexp.weight": MLP + ".shared_expert_gate.weight",
        "blk.{i}.ffn_gate_shexp.weight": MLP + ".shared_expert.gate_proj.weight",
        "blk.{i}.ffn_up_shexp.weight": MLP + ".shared_expert.up_proj.weight",
        "blk.{i}.ffn_down_shexp.weight": MLP + ".shared_expert.down_proj.weight",
    },
    layouts=FUSED_EXPERTS,
    metadata=SIZES
    | ROPE
    | EXPERT_COUNTS
    | GIVEN_HEAD_DIM
    | {
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    },
    defaults=DEFAULTS,
    requires=QWEN_GRAPH | ALL_SPARSE | {"norm_topk_prob": (False, None)},
    dropped=DROPPED,
    head="always",
)
