"""Gemma 4, text: layers of two head sizes, shared keys and values, per-layer embeddings (E2B, E4B), experts (26B)."""

from converters.decoder import ATTN, DECODER, FFN, HEAD, LAYER, QK_NORM
from converters.gemma_layers import (
    GEMMA4_DEFAULTS,
    GEMMA4_DERIVED,
    GEMMA4_GRAPH,
    GEMMA4_METADATA,
    GEMMA4_SHAPES,
    GEMMA4_VISIBLE,
    MEDIA,
    NORMS,
    PER_LAYER_EMBEDDINGS,
)
from converters.rope import proportional_factors
from converters.spec import Family, Generated, Tokens, at, each, flagged, flagged_rows, strip, unread

EXPERTS = "enable_moe_block"

GEMMA4 = Family(
    name="gemma4",
    architectures=("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
    arch="gemma4",
    tensors=DECODER
    | HEAD
    | FFN
    | QK_NORM
    | NORMS
    | flagged_rows(PER_LAYER_EMBEDDINGS, by="hidden_size_per_layer_input")
    | {
        "rope_freqs.weight": Generated(proportional_factors),
        "blk.{i}.attn_k.weight": unread(ATTN + ".k_proj.weight", layers="reuses"),
        "blk.{i}.attn_v.weight": unread(at(ATTN + ".v_proj.weight", layers="own_values"), layers="reuses"),
        "blk.{i}.attn_k_norm.weight": unread(ATTN + ".k_norm.weight", layers="reuses"),
        "blk.{i}.layer_output_scale.weight": LAYER + ".layer_scalar",
        "blk.{i}.ffn_gate_inp.weight": flagged(LAYER + ".router.proj.weight", by=EXPERTS),
        "blk.{i}.ffn_gate_inp.scale": flagged(LAYER + ".router.scale", by=EXPERTS),
        "blk.{i}.ffn_gate_up_exps.weight": flagged(LAYER + ".experts.{e}.gate_up_proj.weight", by=EXPERTS),
        "blk.{i}.ffn_down_exps.weight": flagged(LAYER + ".experts.{e}.down_proj.weight", by=EXPERTS),
        "blk.{i}.ffn_down_exps.scale": flagged(LAYER + ".router.per_expert_scale", by=EXPERTS),
        "blk.{i}.pre_ffw_norm_2.weight": flagged(LAYER + ".pre_feedforward_layernorm_2.weight", by=EXPERTS),
        "blk.{i}.post_ffw_norm_1.weight": flagged(LAYER + ".post_feedforward_layernorm_1.weight", by=EXPERTS),
        "blk.{i}.post_ffw_norm_2.weight": flagged(LAYER + ".post_feedforward_layernorm_2.weight", by=EXPERTS),
    },
    layouts={
        "model.": strip("model.language_model."),
        LAYER + ".experts.{e}.gate_up_proj.weight": each(LAYER + ".experts.gate_up_proj"),
        LAYER + ".experts.{e}.down_proj.weight": each(LAYER + ".experts.down_proj"),
    },
    metadata=GEMMA4_METADATA,
    fields={"num_experts_per_tok": "top_k_experts"},
    defaults=GEMMA4_DEFAULTS,
    derived=GEMMA4_DERIVED,
    counts=("global_head_dim", "num_global_key_value_heads", "num_kv_shared_layers", "hidden_size_per_layer_input"),
    requires=GEMMA4_GRAPH,
    shapes=GEMMA4_SHAPES,
    left_out=MEDIA,
    tokens=Tokens(pre="gemma4", visible=GEMMA4_VISIBLE),
)
