"""DeepSeek V3, V3.1 and R1: latent attention; experts chosen with a bias, from the best groups; scores by sigmoid."""

from converters.decoder import (
    DEFAULTS,
    DROPPED,
    EXPERT_COUNTS,
    EXPERTS,
    FFN_NORM,
    FUSED_EXPERTS,
    HEAD,
    MLP,
    ROPE,
    SHARED_EXPERTS,
    YARN_GRAPH,
)
from converters.mla import DENSE_FIRST, MLA, MLA_COUNTS, MLA_DERIVED, MLA_GRAPH, MLA_SHAPES, MLA_SIZES
from converters.spec import Family, at, given, some_layers
from converters.spec.combined import groups, one_of
from converters.spec.derive import constant

DEEPSEEK_V3 = Family(
    name="deepseek_v3",
    architectures=("DeepseekV3ForCausalLM",),
    arch="deepseek2",
    tensors=MLA
    | HEAD
    | FFN_NORM
    | DENSE_FIRST
    | some_layers(EXPERTS | SHARED_EXPERTS, layers="moe_layers")
    | {"blk.{i}.exp_probs_b.bias": at(MLP + ".gate.e_score_correction_bias", layers="moe_layers")},
    layouts=FUSED_EXPERTS,
    metadata=MLA_SIZES
    | ROPE
    | EXPERT_COUNTS
    | {
        "expert_group_count": "groups",
        "expert_group_used_count": "used_groups",
        "expert_weights_norm": given("norm_topk_prob"),
    },
    defaults=DEFAULTS
    | {"first_k_dense_replace": 3, "n_shared_experts": 1, "routed_scaling_factor": 2.5}
    | {"n_group": 8, "topk_group": 4, "norm_topk_prob": True},
    derived=MLA_DERIVED | {"gating": constant(2), "groups": one_of(groups, 0), "used_groups": one_of(groups, 1)},
    counts=MLA_COUNTS,
    floats=("routed_scaling_factor",),
    requires=YARN_GRAPH
    | MLA_GRAPH
    | {"scoring_func": ("sigmoid", None), "topk_method": ("noaux_tc", None), "rope_interleave": (True, None)},
    left_out={"multi-token prediction": ("model.layers.{n}.",)},
    shapes=MLA_SHAPES,
    dropped=DROPPED,
)
