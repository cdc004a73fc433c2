"""SmolLM3: Llama, but that each fourth layer knows no positions."""

from converters.decoder import (
    ATTN,
    DECODER,
    DEFAULTS,
    DROPPED,
    FFN,
    FFN_NORM,
    GIVEN_HEAD_DIM,
    HEAD,
    ROPE,
    SIZES,
    YARN_GRAPH,
)
from converters.spec import Family, Ratio, SameAs, Tokens, rope_pairs
from converters.spec.derive import all_but_every

SMOLLM3 = Family(
    name="smollm3",
    architectures=("SmolLM3ForCausalLM",),
    arch="smollm3",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | FFN
    | {
        "blk.{i}.attn_q.weight": rope_pairs(ATTN + ".q_proj.weight", heads="num_attention_heads"),
        "blk.{i}.attn_k.weight": rope_pairs(ATTN + ".k_proj.weight", heads="num_key_value_heads"),
    },
    metadata=SIZES | GIVEN_HEAD_DIM | ROPE | {"vocab_size": "vocab_size", "rope.dimension_count": "rope_dim"},
    defaults=DEFAULTS
    | {"rope_theta": 2000000.0, "tie_word_embeddings": True, "num_key_value_heads": 4}
    | {"rope_dim": Ratio("hidden_size", "num_attention_heads", unless="head_dim")},
    derived={"llamacpps_rotation": all_but_every(4)},
    requires=YARN_GRAPH
    | {
        "hidden_act": ("silu", None),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "rope_type": ("default", "linear", "yarn"),
        "no_rope_layers": (SameAs("llamacpps_rotation"), None),
        "no_rope_layer_interval": (4, None),
        "use_sliding_window": (False, None),
        "sliding_window_pattern": (1, None),
    },
    dropped=DROPPED,
    tokens=Tokens(follows_add_prefix_space=True),
)
