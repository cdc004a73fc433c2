"""Multi-head latent attention, as llama.cpp keeps it: keys and values of all heads share one small vector.

What a model computes from that vector is split by heads: one matrix takes queries to it, one takes it to values.
"""

from converters.decoder import ATTN, FFN, LAYER, SIZES
from converters.rope import mla_yarn_multiplier
from converters.spec import EMBEDDING, Field, Required, Row, SameAs, flagged, given, some_layers
from converters.spec.derive import Derive, constant, lacks, layers_but, layers_from, or_else, product_of, sum_of
from converters.spec.orders import part_of_each

HEADS = "num_attention_heads"
KV_PARTS = ("qk_nope_head_dim", "v_head_dim")

MLA: dict[str, str | Row] = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": "model.norm.weight",
    "blk.{i}.attn_norm.weight": LAYER + ".input_layernorm.weight",
    "blk.{i}.attn_output.weight": ATTN + ".o_proj.weight",
    "blk.{i}.attn_q.weight": flagged(ATTN + ".q_proj.weight", by="full_queries"),
    "blk.{i}.attn_q_a.weight": flagged(ATTN + ".q_a_proj.weight", by="q_lora_rank"),
    "blk.{i}.attn_q_a_norm.weight": flagged(ATTN + ".q_a_layernorm.weight", by="q_lora_rank"),
    "blk.{i}.attn_q_b.weight": flagged(ATTN + ".q_b_proj.weight", by="q_lora_rank"),
    "blk.{i}.attn_kv_a_mqa.weight": ATTN + ".kv_a_proj_with_mqa.weight",
    "blk.{i}.attn_kv_a_norm.weight": ATTN + ".kv_a_layernorm.weight",
    "blk.{i}.attn_k_b.weight": Row(
        ATTN + ".kv_b_proj.weight", rows=part_of_each(HEADS, KV_PARTS, 0), matrices=HEADS, transposed=True
    ),
    "blk.{i}.attn_v_b.weight": Row(ATTN + ".kv_b_proj.weight", rows=part_of_each(HEADS, KV_PARTS, 1), matrices=HEADS),
}
DENSE_FIRST = some_layers(FFN, layers="dense_layers")
MLA_SIZES: dict[str, str | Field] = SIZES | {
    "vocab_size": "vocab_size",
    "attention.head_count_kv": "latent_heads",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.key_length": "latent_key",
    "attention.value_length": "kv_lora_rank",
    "attention.key_length_mla": "key_width",
    "attention.value_length_mla": "v_head_dim",
    "rope.dimension_count": "qk_rope_head_dim",
    "rope.scaling.yarn_log_multiplier": given("yarn_log_multiplier"),
    "leading_dense_block_count": "first_k_dense_replace",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_gating_func": "gating",
}
MLA_COUNTS = (
    *("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    *("first_k_dense_replace", "n_shared_experts", "n_group", "topk_group"),
)
MLA_DERIVED: dict[str, Derive] = {
    "q_lora_rank": or_else("q_lora_rank", 0),
    "full_queries": lacks("q_lora_rank"),
    "latent_heads": constant(1),
    "latent_key": sum_of("kv_lora_rank", "qk_rope_head_dim"),
    "key_width": sum_of("qk_nope_head_dim", "qk_rope_head_dim"),
    "query_rows": product_of(HEADS, "key_width"),
    "value_rows": product_of(HEADS, "v_head_dim"),
    "shared_expert_intermediate_size": product_of("moe_intermediate_size", "n_shared_experts"),
    "moe_layers": layers_from("first_k_dense_replace"),
    "dense_layers": layers_but("moe_layers"),
    "yarn_log_multiplier": mla_yarn_multiplier,
}
MLA_SHAPES: dict[str, tuple[str | int, ...] | None] = {
    "attn_q.weight": ("query_rows", "hidden_size"),
    "attn_q_a.weight": ("q_lora_rank", "hidden_size"),
    "attn_q_a_norm.weight": ("q_lora_rank",),
    "attn_q_b.weight": ("query_rows", "q_lora_rank"),
    "attn_kv_a_mqa.weight": ("latent_key", "hidden_size"),
    "attn_kv_a_norm.weight": ("kv_lora_rank",),
    "attn_k_b.weight": (HEADS, "kv_lora_rank", "qk_nope_head_dim"),
    "attn_v_b.weight": (HEADS, "v_head_dim", "kv_lora_rank"),
    "attn_output.weight": ("hidden_size", "value_rows"),
    "exp_probs_b.bias": ("num_experts",),
}
# The graph takes mscale from mscale_all_dim, and scales as DeepSeek does where the two are equal; the latent norms
# have the same epsilon as the others, which in transformers is always 1e-6.
MLA_GRAPH: dict[str, tuple[Required, ...]] = {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rms_norm_eps": (1e-6,),
    "num_key_value_heads": (SameAs(HEADS),),
    "moe_layer_freq": (1, None),
    "rope_type": ("default", "yarn"),
    "rope_mscale": (SameAs("rope_mscale_all_dim"),),
    "rope_mscale_all_dim": (),
}
