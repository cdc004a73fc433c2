"""DeepSeek V2 Lite and what is built like it: latent attention, dense layers first, then routed and shared experts.

The large V2 and V2.5 choose groups of experts by each group's best one; llama.cpp sums the best two, so those are
refused.
"""

from converters.decoder import (
    DEFAULTS,
    DROPPED,
    EXPERT_COUNTS,
    EXPERTS,
    FFN_NORM,
    FUSED_EXPERTS,
    HEAD,
    ROPE,
    SHARED_EXPERTS,
    YARN_GRAPH,
)
from converters.mla import DENSE_FIRST, MLA, MLA_COUNTS, MLA_DERIVED, MLA_GRAPH, MLA_SHAPES, MLA_SIZES
from converters.spec import Family, given, some_layers
from converters.spec.derive import constant

DEEPSEEK_V2 = Family(
    name="deepseek_v2",
    architectures=("DeepseekV2ForCausalLM",),
    arch="deepseek2",
    tensors=MLA | HEAD | FFN_NORM | DENSE_FIRST | some_layers(EXPERTS | SHARED_EXPERTS, layers="moe_layers"),
    layouts=FUSED_EXPERTS,
    metadata=MLA_SIZES
    | ROPE
    | EXPERT_COUNTS
    | {"expert_group_count": given("n_group"), "expert_group_used_count": given("topk_group")},
    defaults=DEFAULTS | {"first_k_dense_replace": 0, "n_shared_experts": 2, "routed_scaling_factor": 1.0},
    derived=MLA_DERIVED | {"gating": constant(1)},
    counts=MLA_COUNTS,
    floats=("routed_scaling_factor",),
    requires=YARN_GRAPH
    | MLA_GRAPH
    | {
        "scoring_func": ("softmax", None),
        "norm_topk_prob": (False, None),
        "topk_method": ("greedy", "group_limited_greedy", None),
        "n_group": (1, None),
    },
    shapes=MLA_SHAPES,
    dropped=DROPPED,
)
