"""Command R7B, Command A, Aya Expanse 2: Command R with windows; each fourth layer attends to all, without rotation."""

from converters.decoder import ATTN, DECODER, DEFAULTS, DROPPED, FFN, LAYER_NORM_SIZES
from converters.spec import Family, Ratio, given, must_be_zero
from converters.spec.derive import constant, head_size

COHERE2 = Family(
    name="cohere2",
    architectures=("Cohere2ForCausalLM",),
    arch="cohere2",
    tensors=DECODER
    | FFN
    | {
        "blk.{i}.attn_q.bias": must_be_zero(ATTN + ".q_proj.bias"),
        "blk.{i}.attn_k.bias": must_be_zero(ATTN + ".k_proj.bias"),
        "blk.{i}.attn_v.bias": must_be_zero(ATTN + ".v_proj.bias"),
        "blk.{i}.attn_output.bias": must_be_zero(ATTN + ".o_proj.bias"),
    },
    metadata=LAYER_NORM_SIZES
    | {
        "attention.sliding_window": "sliding_window",
        "attention.key_length": given("head_dim"),
        "attention.value_length": given("head_dim"),
        "logit_scale": "logit_scale",
        "rope.dimension_count": "head_size",
        "rope.freq_base": "rope_theta",
        "rope.scaling.type": "no_scaling",
        "vocab_size": "vocab_size",
    },
    defaults=DEFAULTS
    | {"layer_norm_eps": 1e-5, "logit_scale": 0.0625, "sliding_window": 4096, "tie_word_embeddings": True}
    | {"vocab_size": 256000, "max_position_embeddings": 8192},
    derived={"no_scaling": constant("none"), "head_size": head_size},
    floats=("layer_norm_eps", "logit_scale"),
    requires={
        "hidden_act": ("silu", None),
        "rotary_pct": (1.0, None),
        "rope_type": ("default",),
        "head_dim": (None, Ratio("hidden_size", "num_attention_heads")),
        "sliding_window_pattern": (4, None),
    },
    dropped=DROPPED,
    head="never",
)
