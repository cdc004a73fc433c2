"""Command R and R+, Aya 23: attention and feed-forward side by side behind one norm; R+ norms queries and keys."""

from converters.decoder import ATTN, DECODER, DEFAULTS, DROPPED, FFN, LAYER_NORM_SIZES
from converters.spec import Family, Ratio, SameAs, flagged
from converters.spec.derive import at_least, constant, head_size

COMMAND_R = Family(
    name="command_r",
    architectures=("CohereForCausalLM",),
    arch="command-r",
    tensors=DECODER
    | FFN
    | {
        "blk.{i}.attn_q_norm.weight": flagged(ATTN + ".q_norm.weight", by="use_qk_norm"),
        "blk.{i}.attn_k_norm.weight": flagged(ATTN + ".k_norm.weight", by="use_qk_norm"),
    },
    metadata=LAYER_NORM_SIZES
    | {"logit_scale": "logit_scale", "rope.freq_base": "rope_theta", "rope.scaling.type": "no_scaling"},
    # The first releases say 8192 positions and, beside it, for how many they were trained.
    fields={"max_position_embeddings": "model_max_length"},
    defaults=DEFAULTS
    | {"layer_norm_eps": 1e-5, "logit_scale": 0.0625, "use_qk_norm": False, "rope_theta": 500000.0}
    | {"tie_word_embeddings": True, "max_position_embeddings": 8192},
    derived={
        "no_scaling": constant("none"),
        "head_size": head_size,
        "llamacpps_qk_norm": at_least("num_hidden_layers", 64),
    },
    floats=("layer_norm_eps", "logit_scale"),
    requires={
        "hidden_act": ("silu", None),
        "attention_bias": (False, None),
        "use_qk_norm": (SameAs("llamacpps_qk_norm"),),
        "rope_type": ("default",),
        "head_dim": (None, Ratio("hidden_size", "num_attention_heads")),
    },
    shapes={
        "attn_q_norm.weight": ("num_attention_heads", "head_size"),
        "attn_k_norm.weight": ("num_key_value_heads", "head_size"),
    },
    dropped=DROPPED,
    head="never",
)
