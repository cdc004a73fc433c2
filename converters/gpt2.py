"""GPT-2: learned positions, queries, keys and values in one matrix, every matrix stored turned over."""

from converters.decoder import DEFAULTS, HEAD, LAYER, MLP, TANH_GELU, UNGROUPED_SIZES
from converters.spec import EMBEDDING, Family, strip, transposed
from converters.spec.derive import first_of, qkv_rows, times

WIDTH, CONTEXT, ATTN = "hidden_size", "max_position_embeddings", LAYER + ".attn"

GPT2 = Family(
    name="gpt2",
    architectures=("GPT2LMHeadModel",),
    arch="gpt2",
    tensors=HEAD
    | {
        "token_embd.weight": EMBEDDING,
        "position_embd.weight": "model.wpe.weight",
        "output_norm.weight": "model.norm.weight",
        "output_norm.bias": "model.norm.bias",
        "blk.{i}.attn_norm.weight": LAYER + ".ln_1.weight",
        "blk.{i}.attn_norm.bias": LAYER + ".ln_1.bias",
        "blk.{i}.attn_qkv.weight": ATTN + ".c_attn.weight",
        "blk.{i}.attn_qkv.bias": ATTN + ".c_attn.bias",
        "blk.{i}.attn_output.weight": ATTN + ".c_proj.weight",
        "blk.{i}.attn_output.bias": ATTN + ".c_proj.bias",
        "blk.{i}.ffn_norm.weight": LAYER + ".ln_2.weight",
        "blk.{i}.ffn_norm.bias": LAYER + ".ln_2.bias",
        "blk.{i}.ffn_up.weight": MLP + ".c_fc.weight",
        "blk.{i}.ffn_up.bias": MLP + ".c_fc.bias",
        "blk.{i}.ffn_down.weight": MLP + ".c_proj.weight",
        "blk.{i}.ffn_down.bias": MLP + ".c_proj.bias",
    },
    layouts={
        "model.layers.": (strip("transformer.h."), strip("h.")),
        "model.wpe.": (strip("transformer.wpe."), strip("wpe.")),
        "model.norm.": (strip("transformer.ln_f."), strip("ln_f.")),
        EMBEDDING: ("transformer.wte.weight", "wte.weight"),
        ATTN + ".c_attn.weight": transposed(ATTN + ".c_attn.weight"),
        ATTN + ".c_proj.weight": transposed(ATTN + ".c_proj.weight"),
        MLP + ".c_fc.weight": transposed(MLP + ".c_fc.weight"),
        MLP + ".c_proj.weight": transposed(MLP + ".c_proj.weight"),
    },
    metadata=UNGROUPED_SIZES,
    fields={
        WIDTH: "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        CONTEXT: "n_positions",
        "layer_norm_eps": "layer_norm_epsilon",
    },
    defaults=DEFAULTS | {CONTEXT: 1024, "layer_norm_eps": 1e-5, "tie_word_embeddings": True},
    derived={"qkv_rows": qkv_rows, "usual": times(WIDTH, 4), "intermediate_size": first_of("n_inner", "usual")},
    counts=("n_inner",),
    floats=("layer_norm_eps",),
    requires={"activation_function": TANH_GELU, "scale_attn_weights": (True, None)}
    | {"scale_attn_by_inverse_layer_idx": (False, None), "add_cross_attention": (False, None)},
    shapes={"attn_qkv.weight": ("qkv_rows", WIDTH), "attn_qkv.bias": ("qkv_rows",)}
    | {"position_embd.weight": (CONTEXT, WIDTH)},
    dropped=(".attn.bias", ".attn.masked_bias"),
)
