"""Phi-1, Phi-1.5 and Phi-2: attention and feed-forward side by side, and a bias to everything."""

from converters.decoder import ATTN, DEFAULTS, DROPPED, LAYER, LAYER_NORM_SIZES, MLP
from converters.spec import Family, Ratio
from converters.spec.derive import rotated_part

PHI2 = Family(
    name="phi2",
    architectures=("PhiForCausalLM",),
    arch="phi2",
    tensors={
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.final_layernorm.weight",
        "output_norm.bias": "model.final_layernorm.bias",
        "output.weight": "lm_head.weight",
        "output.bias": "lm_head.bias",
        "blk.{i}.attn_norm.weight": LAYER + ".input_layernorm.weight",
        "blk.{i}.attn_norm.bias": LAYER + ".input_layernorm.bias",
        "blk.{i}.attn_q.weight": ATTN + ".q_proj.weight",
        "blk.{i}.attn_q.bias": ATTN + ".q_proj.bias",
        "blk.{i}.attn_k.weight": ATTN + ".k_proj.weight",
        "blk.{i}.attn_k.bias": ATTN + ".k_proj.bias",
        "blk.{i}.attn_v.weight": ATTN + ".v_proj.weight",
        "blk.{i}.attn_v.bias": ATTN + ".v_proj.bias",
        "blk.{i}.attn_output.weight": ATTN + ".dense.weight",
        "blk.{i}.attn_output.bias": ATTN + ".dense.bias",
        "blk.{i}.ffn_up.weight": MLP + ".fc1.weight",
        "blk.{i}.ffn_up.bias": MLP + ".fc1.bias",
        "blk.{i}.ffn_down.weight": MLP + ".fc2.weight",
        "blk.{i}.ffn_down.bias": MLP + ".fc2.bias",
    },
    metadata=LAYER_NORM_SIZES | {"rope.dimension_count": "rope_dim"},
    defaults=DEFAULTS | {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5},
    derived={"rope_dim": rotated_part()},
    floats=("layer_norm_eps",),
    requires={
        "hidden_act": ("gelu_new", "gelu_pytorch_tanh", None),
        "qk_layernorm": (False, None),
        "rope_theta": (10000.0,),
        "rope_type": ("default",),
        "partial_rotary_factor": (),
        "head_dim": (None, Ratio("hidden_size", "num_attention_heads")),
        "tie_word_embeddings": (False,),
    },
    dropped=DROPPED,
)
