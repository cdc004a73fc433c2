"""Gated delta nets with full attention in every so-manyth layer: what Qwen 3 Next and Qwen 3.5 share."""

from converters.decoder import ALL_SPARSE, ATTN, EXPERT_COUNTS, HEAD_DIM, LAYER, MLP, ROPE, SIZES, YARN_GRAPH
from converters.spec import (
    EMBEDDING,
    Default,
    Field,
    Required,
    Row,
    SameAs,
    at,
    columns,
    flat,
    given,
    minus_exp,
    plus_one,
    rows,
    some_layers,
)
from converters.spec.combined import any_of
from converters.spec.derive import (
    Derive,
    all_but_every,
    layers_but,
    layers_that_are,
    or_else,
    product_of,
    quotient,
    rotated_part,
    sum_of,
    times,
)
from converters.spec.orders import tiled

LINEAR = LAYER + ".linear_attn"
KEY_HEADS, VALUE_HEADS = "linear_num_key_heads", "linear_num_value_heads"
KEY_DIM, VALUE_DIM = "linear_key_head_dim", "linear_value_head_dim"

NORMS: dict[str, str | Row] = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": plus_one("model.norm.weight"),
    "blk.{i}.attn_norm.weight": plus_one(LAYER + ".input_layernorm.weight"),
    "blk.{i}.post_attention_norm.weight": plus_one(LAYER + ".post_attention_layernorm.weight"),
    "blk.{i}.ssm_norm.weight": at(LINEAR + ".norm.weight", layers="linear_layers"),
}
DELTA_NET = NORMS | some_layers(
    {
        "blk.{i}.attn_q.weight": ATTN + ".q_proj.weight",  # in each head the rows of the query, then of the gate
        "blk.{i}.attn_k.weight": ATTN + ".k_proj.weight",
        "blk.{i}.attn_v.weight": ATTN + ".v_proj.weight",
        "blk.{i}.attn_output.weight": ATTN + ".o_proj.weight",
        "blk.{i}.attn_q_norm.weight": plus_one(ATTN + ".q_norm.weight"),
        "blk.{i}.attn_k_norm.weight": plus_one(ATTN + ".k_norm.weight"),
    },
    layers="full_layers",
)
VALUES_TILED = tiled(VALUE_HEADS, of=KEY_HEADS, width=VALUE_DIM)
GATES_TILED = tiled(VALUE_HEADS, of=KEY_HEADS)
LAST_TILED = tiled(VALUE_HEADS, of=KEY_HEADS, width=VALUE_DIM, behind="linear_pair_rows")
# Qwen 3.5: llama.cpp's heads of values follow those of keys in turn, where the checkpoint's are grouped by them.
TILED = some_layers(
    {
        "blk.{i}.attn_qkv.weight": rows(LINEAR + ".in_proj_qkv.weight", LAST_TILED),
        "blk.{i}.attn_gate.weight": rows(LINEAR + ".in_proj_z.weight", VALUES_TILED),
        "blk.{i}.ssm_alpha.weight": rows(LINEAR + ".in_proj_a.weight", GATES_TILED),
        "blk.{i}.ssm_beta.weight": rows(LINEAR + ".in_proj_b.weight", GATES_TILED),
        "blk.{i}.ssm_conv1d.weight": flat(rows(LINEAR + ".conv1d.weight", LAST_TILED)),
        "blk.{i}.ssm_a": minus_exp(rows(LINEAR + ".A_log", GATES_TILED)),
        "blk.{i}.ssm_dt.bias": rows(LINEAR + ".dt_bias", GATES_TILED),
        "blk.{i}.ssm_out.weight": columns(LINEAR + ".out_proj.weight", VALUES_TILED),
    },
    layers="linear_layers",
)
SHARED_EXPERT: dict[str, str | Row] = {
    "blk.{i}.ffn_gate_inp_shexp.weight": MLP + ".shared_expert_gate.weight",
    "blk.{i}.ffn_gate_shexp.weight": MLP + ".shared_expert.gate_proj.weight",
    "blk.{i}.ffn_up_shexp.weight": MLP + ".shared_expert.up_proj.weight",
    "blk.{i}.ffn_down_shexp.weight": MLP + ".shared_expert.down_proj.weight",
}
DELTA_SIZES: dict[str, str | Field] = (
    SIZES
    | HEAD_DIM
    | ROPE
    | {
        "feed_forward_length": given("intermediate_size"),
        "rope.dimension_count": "rope_dim",
        "full_attention_interval": "full_attention_interval",
        "attention.recurrent_layers": "linear_layers",
        "ssm.conv_kernel": "linear_conv_kernel_dim",
        "ssm.state_size": KEY_DIM,
        "ssm.group_count": KEY_HEADS,
        "ssm.time_step_rank": VALUE_HEADS,
        "ssm.inner_size": "linear_value_rows",
    }
)
MOE_SIZES: dict[str, str | Field] = EXPERT_COUNTS | {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
DELTA_DEFAULTS: dict[str, Default] = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "partial_rotary_factor": 0.25,
    "linear_conv_kernel_dim": 4,
    KEY_DIM: 128,
    VALUE_DIM: 128,
    KEY_HEADS: 16,
    VALUE_HEADS: 32,
}
MOE_DEFAULTS: dict[str, Default] = {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512}
DELTA_DERIVED: dict[str, Derive] = {
    "full_attention_interval": or_else("full_attention_interval", 4),
    "linear_layers": layers_that_are("linear_attention", absent=all_but_every("full_attention_interval")),
    "full_layers": layers_that_are("full_attention", absent=layers_but("linear_layers")),
    "some layer linear": any_of("linear_layers"),
    "rope_dim": rotated_part(),
    "attention_rows": product_of("num_attention_heads", "head_dim"),
    "query_rows": times("attention_rows", 2),
    "linear_group_heads": quotient(VALUE_HEADS, KEY_HEADS),
    "linear_group_rows": product_of("linear_group_heads", VALUE_DIM),
    "linear_key_rows": product_of(KEY_HEADS, KEY_DIM),
    "linear_pair_rows": times("linear_key_rows", 2),
    "linear_value_rows": product_of(VALUE_HEADS, VALUE_DIM),
    "linear_rows": sum_of("linear_pair_rows", "linear_value_rows"),
    "linear_gates": times(VALUE_HEADS, 2),
}
DELTA_COUNTS = ("full_attention_interval", "linear_conv_kernel_dim", KEY_DIM, VALUE_DIM, KEY_HEADS, VALUE_HEADS)
DELTA_SHAPES: dict[str, tuple[str | int, ...] | None] = {
    "attn_q.weight": ("query_rows", "hidden_size"),
    "attn_qkv.weight": ("linear_rows", "hidden_size"),
    "attn_gate.weight": ("linear_value_rows", "hidden_size"),
    "ssm_conv1d.weight": ("linear_rows", "linear_conv_kernel_dim"),
    "ssm_ba.weight": ("linear_gates", "hidden_size"),
    "ssm_alpha.weight": (VALUE_HEADS, "hidden_size"),
    "ssm_beta.weight": (VALUE_HEADS, "hidden_size"),
    "ssm_a": (VALUE_HEADS,),
    "ssm_dt.bias": (VALUE_HEADS,),
    "ssm_norm.weight": (VALUE_DIM,),
    "ssm_out.weight": ("hidden_size", "linear_value_rows"),
}
# The state is square: keys are as wide as values.
DELTA_GRAPH: dict[str, tuple[Required, ...]] = YARN_GRAPH | {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "attn_output_gate": (True, None),
    "rope_type": ("default", "linear", "yarn"),
    "partial_rotary_factor": (),
    "some layer linear": (True,),
    VALUE_DIM: (SameAs(KEY_DIM),),
}
MOE_GRAPH = ALL_SPARSE | {"norm_topk_prob": (True, None)}
LEFT_OUT = {"multi-token prediction": ("mtp.", "model.mtp."), "vision tower": ("visual.", "model.visual.")}
