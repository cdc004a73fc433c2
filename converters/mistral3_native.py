"""Ministral 3 in Mistral's own format: YaRN, and queries scaled by their place; text only."""

from converters.decoder import (
    ASSUMED_CONTEXT,
    DECODER,
    FFN,
    FFN_NORM,
    GIVEN_HEAD_DIM,
    HEAD,
    NATIVE,
    NATIVE_VISION,
    ROPE,
    SIZES,
    WINDOW,
    YARN_GRAPH,
)
from converters.spec import Family, Ratio, SameAs, Tokens, given

MISTRAL3_NATIVE = Family(
    name="mistral3_native",
    architectures=("Mistral params.json with llama_4_scaling",),
    arch="mistral3",
    tensors=DECODER | HEAD | FFN_NORM | FFN,
    layouts=NATIVE,
    metadata=SIZES
    | GIVEN_HEAD_DIM
    | ROPE
    | {
        "vocab_size": "vocab_size",
        "rope.dimension_count": "rope_dim",
        "rope.scaling.yarn_log_multiplier": given("rope_mscale_all_dim"),
        "attention.temperature_scale": "rope_scaling_beta",
    },
    defaults={
        "num_key_value_heads": SameAs("num_attention_heads"),
        "tie_word_embeddings": False,
        "rope_dim": Ratio("hidden_size", "num_attention_heads", unless="head_dim"),
    },
    # The graph reads the betas, and takes mscale for 1.
    requires=YARN_GRAPH
    | {"hidden_act": ("silu", None), "rope_type": ("yarn",), "rope_beta_fast": (), "rope_beta_slow": ()}
    | {"rope_scaling_beta": (), "rope_mscale": (SameAs("rope_mscale_all_dim"),), "rope_mscale_all_dim": (1.0, None)},
    notes=WINDOW | ASSUMED_CONTEXT,
    left_out=NATIVE_VISION,
    tokens=Tokens(follows_add_prefix_space=True),
)
