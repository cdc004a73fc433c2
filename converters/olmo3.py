"""OLMo 3: OLMo 2 with a sliding window in all layers but every fourth; only the full ones stretch their rotation."""

from converters.decoder import DROPPED, FFN, GIVEN_HEAD_DIM, HEAD, POST_NORMS, ROPE, SIZES, WIDE_GRAPH
from converters.spec import Family, SameAs
from converters.spec.combined import any_of, unlike
from converters.spec.derive import all_but_every, first_of, head_size, layers_that_are, product_of, yarn_attention

OLMO3 = Family(
    name="olmo3",
    architectures=("Olmo3ForCausalLM",),
    arch="olmo2",
    tensors=POST_NORMS | FFN | HEAD,
    metadata=SIZES
    | ROPE
    | GIVEN_HEAD_DIM
    | {"attention.sliding_window": "sliding_window", "attention.sliding_window_pattern": "windowed"},
    defaults={
        "num_key_value_heads": SameAs("num_attention_heads"),
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
    },
    derived={
        "head_size": head_size,
        "key_rows": product_of("num_key_value_heads", "head_size"),
        "yarn_attention": yarn_attention,
        "windowed": layers_that_are("sliding_attention", absent=all_but_every(4)),
        "some layer windowed": any_of("windowed"),
        "theta of all layers": unlike("rope_theta", 500000.0, unless="rope_local_theta"),
        "rope_local_theta": first_of("rope_local_theta", "rope_theta"),
    },
    # The graph knows one base for all layers.
    requires=WIDE_GRAPH | {"rope_local_theta": (SameAs("rope_theta"),), "some layer windowed": (True,)},
    notes={
        "theta of all layers": "llama.cpp rotates all layers by rope_theta ({value}), as transformers 4 does; "
        "transformers 5 takes 500000 in the windowed layers, where config.json does not say which."
    },
    shapes={"attn_q_norm.weight": ("hidden_size",), "attn_k_norm.weight": ("key_rows",)},
    dropped=DROPPED,
    head="always",
)
