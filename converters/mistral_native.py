"""Mistral's own format, params.json and consolidated*.safetensors: rotation's rows are llama.cpp's pairs."""

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
from converters.spec import Family, Ratio, SameAs, Tokens

MISTRAL_NATIVE = Family(
    name="mistral_native",
    architectures=("Mistral params.json",),
    arch="llama",
    tensors=DECODER | HEAD | FFN_NORM | FFN,
    layouts=NATIVE,
    metadata=SIZES | GIVEN_HEAD_DIM | ROPE | {"vocab_size": "vocab_size", "rope.dimension_count": "rope_dim"},
    defaults={
        "num_key_value_heads": SameAs("num_attention_heads"),
        "tie_word_embeddings": False,
        "rope_dim": Ratio("hidden_size", "num_attention_heads", unless="head_dim"),
    },
    requires=YARN_GRAPH | {"hidden_act": ("silu", None), "rope_type": ("default", "yarn")},
    notes=WINDOW | ASSUMED_CONTEXT,
    left_out=NATIVE_VISION,
    tokens=Tokens(follows_add_prefix_space=True),
)
