"""Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini: queries, keys and values in one matrix, gate and up in another."""

from converters.decoder import ATTN, DEFAULTS, DROPPED, FFN_NORM, HEAD, LAYER, MLP, SIZES, WINDOW
from converters.rope import long_factors, longrope_attention, short_factors
from converters.spec import Family, Generated, Ratio, given
from converters.spec.derive import or_else, qkv_rows, rotated_part, times

PHI3 = Family(
    name="phi3",
    architectures=("Phi3ForCausalLM",),
    arch="phi3",
    tensors=HEAD
    | FFN_NORM
    | {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "rope_factors_long.weight": Generated(long_factors),
        "rope_factors_short.weight": Generated(short_factors),
        "blk.{i}.attn_norm.weight": LAYER + ".input_layernorm.weight",
        "blk.{i}.attn_qkv.weight": ATTN + ".qkv_proj.weight",
        "blk.{i}.attn_output.weight": ATTN + ".o_proj.weight",
        "blk.{i}.ffn_up.weight": MLP + ".gate_up_proj.weight",
        "blk.{i}.ffn_down.weight": MLP + ".down_proj.weight",
    },
    metadata=SIZES
    | {
        "attention.sliding_window": "window",
        "rope.freq_base": "rope_theta",
        "rope.dimension_count": "rope_dim",
        "rope.scaling.original_context_length": "rope_original_context",
        "rope.scaling.attn_factor": given("longrope_attention"),
    },
    fields={"rope_original_context": "original_max_position_embeddings"},
    defaults=DEFAULTS | {"rms_norm_eps": 1e-5, "rope_original_context": 4096, "partial_rotary_factor": 1.0},
    derived={
        "rope_dim": rotated_part("partial_rotary_factor"),
        "longrope_attention": longrope_attention,
        "window": or_else("sliding_window", 0),
        "qkv_rows": qkv_rows,
        "gate_up_rows": times("intermediate_size", 2),
    },
    counts=("original_max_position_embeddings",),
    requires={
        "hidden_act": ("silu", None),
        "rope_type": ("default", "longrope"),
        "partial_rotary_factor": (),
        "head_dim": (None, Ratio("hidden_size", "num_attention_heads")),
    },
    notes=WINDOW
    | {
        "longrope_attention": "llama.cpp rotates by LongRoPE's long factors whatever the text's length, as soon as the "
        "context asked for is longer than the trained one."
    },
    shapes={"attn_qkv.weight": ("qkv_rows", "hidden_size"), "ffn_up.weight": ("gate_up_rows", "hidden_size")},
    dropped=DROPPED,
)
