"""GPT-NeoX and Pythia: queries, keys and values in one matrix, head by head; a part of each head is rotated."""

from converters.decoder import DEFAULTS, DROPPED, HEAD, LAYER, MLP, NORM_BIASES, ROPE, TANH_GELU, UNGROUPED_SIZES
from converters.spec import EMBEDDING, Family, rows, strip
from converters.spec import HEAD as HEAD_WEIGHT
from converters.spec.derive import qkv_rows, rotated_part, where
from converters.spec.orders import parts_in_turn

HEADS = parts_in_turn("num_attention_heads", of=3)
QKV = LAYER + ".attention.query_key_value"

GPT_NEOX = Family(
    name="gpt_neox",
    architectures=("GPTNeoXForCausalLM",),
    arch="gptneox",
    tensors=HEAD
    | NORM_BIASES
    | {
        "token_embd.weight": EMBEDDING,
        "output_norm.weight": "model.norm.weight",
        "blk.{i}.attn_norm.weight": LAYER + ".input_layernorm.weight",
        "blk.{i}.attn_qkv.weight": rows(QKV + ".weight", HEADS),
        "blk.{i}.attn_qkv.bias": rows(QKV + ".bias", HEADS),
        "blk.{i}.attn_output.weight": LAYER + ".attention.dense.weight",
        "blk.{i}.attn_output.bias": LAYER + ".attention.dense.bias",
        "blk.{i}.ffn_norm.weight": LAYER + ".post_attention_layernorm.weight",
        "blk.{i}.ffn_up.weight": MLP + ".dense_h_to_4h.weight",
        "blk.{i}.ffn_up.bias": MLP + ".dense_h_to_4h.bias",
        "blk.{i}.ffn_down.weight": MLP + ".dense_4h_to_h.weight",
        "blk.{i}.ffn_down.bias": MLP + ".dense_4h_to_h.bias",
    },
    layouts={
        "model.norm.": strip("gpt_neox.final_layer_norm."),
        "model.": strip("gpt_neox."),
        EMBEDDING: "model.embed_in.weight",
        HEAD_WEIGHT: "embed_out.weight",
    },
    metadata=UNGROUPED_SIZES
    | ROPE
    | {"rope.dimension_count": "rope_dim", "use_parallel_residual": "use_parallel_residual"},
    fields={"partial_rotary_factor": "rotary_pct", "rope_theta": "rotary_emb_base"},
    defaults=DEFAULTS
    | {"partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5, "hidden_act": "gelu", "use_parallel_residual": True},
    derived={"rope_dim": rotated_part(), "qkv_rows": qkv_rows, "exact_gelu": where("hidden_act", "gelu")},
    floats=("layer_norm_eps", "rope_theta", "partial_rotary_factor"),
    requires={
        "hidden_act": ("gelu", *TANH_GELU),
        "attention_bias": (True, None),
        "rope_type": ("default", "linear"),
        "partial_rotary_factor": (),
    },
    notes={"exact_gelu": "llama.cpp computes GELU by the formula with tanh, which is off by 0.0005 at the most."},
    shapes={"attn_qkv.weight": ("qkv_rows", "hidden_size"), "attn_qkv.bias": ("qkv_rows",)},
    dropped=(*DROPPED, ".attention.bias", ".attention.masked_bias"),
    head="always",
)
