"""gpt-oss: attention with sinks, every other layer windowed; experts with biases, turned over, often in MXFP4."""

from converters.decoder import (
    ATTN,
    ATTN_BIASES,
    DECODER,
    DEFAULTS,
    EXPERT_COUNTS,
    EXPERTS,
    GIVEN_HEAD_DIM,
    HEAD,
    LAYER,
    MLP,
    ROPE,
    SIZES,
    UNTRUNCATED,
    YARN_GRAPH,
)
from converters.rope import untruncated
from converters.spec import Family, columns, each_transposed, interleaved
from converters.spec.orders import each_nth

GPT_OSS = Family(
    name="gpt-oss",
    architectures=("GptOssForCausalLM",),
    arch="gpt-oss",
    tensors=DECODER
    | HEAD
    | ATTN_BIASES
    | EXPERTS
    | {
        "blk.{i}.post_attention_norm.weight": LAYER + ".post_attention_layernorm.weight",
        "blk.{i}.attn_sinks.weight": ATTN + ".sinks",
        "blk.{i}.ffn_gate_inp.weight": MLP + ".router.weight",
        "blk.{i}.ffn_gate_inp.bias": MLP + ".router.bias",
        "blk.{i}.ffn_gate_exps.bias": columns(MLP + ".experts.gate_up_proj_bias", each_nth(0, of=2)),
        "blk.{i}.ffn_up_exps.bias": columns(MLP + ".experts.gate_up_proj_bias", each_nth(1, of=2)),
        "blk.{i}.ffn_down_exps.bias": MLP + ".experts.down_proj_bias",
    },
    layouts={
        MLP + ".experts.{e}.gate_proj.weight": interleaved(MLP + ".experts.gate_up_proj", 0, of=2),
        MLP + ".experts.{e}.up_proj.weight": interleaved(MLP + ".experts.gate_up_proj", 1, of=2),
        MLP + ".experts.{e}.down_proj.weight": each_transposed(MLP + ".experts.down_proj"),
    },
    metadata=SIZES
    | ROPE
    | GIVEN_HEAD_DIM
    | EXPERT_COUNTS
    | {"attention.sliding_window": "sliding_window", "expert_feed_forward_length": "intermediate_size"},
    defaults=DEFAULTS | {"rms_norm_eps": 1e-5, "rope_theta": 150000.0, "head_dim": 64, "sliding_window": 128},
    derived={"untruncated": untruncated},
    requires=YARN_GRAPH
    | {"hidden_act": ("silu", None), "attention_bias": (True, None), "sliding_window_pattern": (2, None)}
    | {"rope_type": ("yarn",), "rope_truncate": (), "swiglu_alpha": (1.702, None), "swiglu_limit": (7.0, None)},
    notes=UNTRUNCATED,
    shapes={"attn_sinks.weight": ("num_attention_heads",), "ffn_gate_inp.bias": ("num_experts",)}
    | {"ffn_down_exps.bias": ("num_experts", "hidden_size")}
    | dict.fromkeys(("ffn_gate_exps.bias", "ffn_up_exps.bias"), ("num_experts", "intermediate_size")),
    head="always",
)
