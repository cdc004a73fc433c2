"""StarCoder 2: biases everywhere, norms that subtract the mean, a feed-forward of two matrices."""

from converters.decoder import (
    ATTN,
    DECODER,
    DEFAULTS,
    DROPPED,
    FFN_NORM,
    GIVEN_HEAD_DIM,
    HEAD,
    LAYER_NORM_SIZES,
    MLP,
    NORM_BIASES,
    ROPE,
    SQUARE,
    TANH_GELU,
    WINDOW,
    YARN_SAID,
)
from converters.spec import Family
from converters.spec.derive import yarn_attention

STARCODER2 = Family(
    name="starcoder2",
    architectures=("Starcoder2ForCausalLM",),
    arch="starcoder2",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | NORM_BIASES
    | {
        "blk.{i}.attn_q.bias": ATTN + ".q_proj.bias",
        "blk.{i}.attn_k.bias": ATTN + ".k_proj.bias",
        "blk.{i}.attn_v.bias": ATTN + ".v_proj.bias",
        "blk.{i}.attn_output.bias": ATTN + ".o_proj.bias",
        "blk.{i}.ffn_up.weight": MLP + ".c_fc.weight",
        "blk.{i}.ffn_up.bias": MLP + ".c_fc.bias",
        "blk.{i}.ffn_down.weight": MLP + ".c_proj.weight",
        "blk.{i}.ffn_down.bias": MLP + ".c_proj.bias",
    },
    metadata=LAYER_NORM_SIZES | ROPE | GIVEN_HEAD_DIM,
    fields={"layer_norm_eps": "norm_epsilon"},
    defaults=DEFAULTS | {"num_key_value_heads": 2, "layer_norm_eps": 1e-5, "tie_word_embeddings": True},
    derived={"yarn_attention": yarn_attention},
    floats=("layer_norm_eps",),
    requires=YARN_SAID
    | SQUARE
    | {"hidden_act": TANH_GELU, "use_bias": (True, None), "rope_type": ("default", "linear", "yarn")},
    notes=WINDOW,
    dropped=DROPPED,
)
