"""EXAONE 4.0: norms behind each block, norms on queries and keys; the 32B rotates only in windowed layers."""

from converters.decoder import (
    DEFAULTS,
    DROPPED,
    DYNAMIC,
    FFN,
    GIVEN_HEAD_DIM,
    HEAD,
    POST_NORMS,
    ROPE,
    SIZES,
    SQUARE,
    YARN_GRAPH,
)
from converters.rope import llama3_factors
from converters.spec import AtLayers, Family, Generated, Ratio, given
from converters.spec.combined import has, only_with
from converters.spec.derive import all_but_every, layers_that_are, or_else

EXAONE4 = Family(
    name="exaone4",
    architectures=("Exaone4ForCausalLM",),
    arch="exaone4",
    tensors=POST_NORMS | HEAD | FFN | {"rope_freqs.weight": Generated(llama3_factors)},
    metadata=SIZES
    | GIVEN_HEAD_DIM
    | ROPE
    | {
        "vocab_size": "vocab_size",
        "attention.sliding_window": given("sliding_window"),
        "attention.sliding_window_pattern": given("windowed"),
    },
    defaults=DEFAULTS
    | {
        "rms_norm_eps": 1e-5,
        "sliding_window": 4096,
        "rope_dim": Ratio("hidden_size", "num_attention_heads", unless="head_dim"),
    },
    derived={
        "windowed": only_with("sliding_window", layers_that_are("sliding_attention", absent=all_but_every(4))),
        "window_pattern": only_with("sliding_window", or_else("sliding_window_pattern", 4)),
        "sliding_windows": has("sliding_window"),
    },
    requires=YARN_GRAPH
    | SQUARE
    | {
        "hidden_act": ("silu", None),
        "rope_type": ("default", "linear", "llama3", "yarn", "dynamic"),
        "rope_dynamic_factor": (),
        # llama.cpp goes by the number of layers: 64 have windows, others have none.
        "sliding_windows": (AtLayers(64, then=True, otherwise=False),),
        "window_pattern": (4, "LLLG", None),
    },
    notes=DYNAMIC,
    dropped=DROPPED,
)
