"""OLMo 2: Llama's layers with norms after attention and feed-forward, and over all queries and all keys."""

from converters.decoder import DEFAULTS, DROPPED, FFN, GIVEN_HEAD_DIM, HEAD, POST_NORMS, ROPE, SIZES, WIDE_GRAPH
from converters.spec import Family
from converters.spec.derive import head_size, product_of, yarn_attention

OLMO2 = Family(
    name="olmo2",
    architectures=("Olmo2ForCausalLM",),
    arch="olmo2",
    tensors=POST_NORMS | FFN | HEAD,
    metadata=SIZES | ROPE | GIVEN_HEAD_DIM,
    defaults=DEFAULTS | {"rms_norm_eps": 1e-5},
    derived={
        "head_size": head_size,
        "key_rows": product_of("num_key_value_heads", "head_size"),
        "yarn_attention": yarn_attention,
    },
    requires=WIDE_GRAPH,
    shapes={"attn_q_norm.weight": ("hidden_size",), "attn_k_norm.weight": ("key_rows",)},
    dropped=DROPPED,
    head="always",
)
