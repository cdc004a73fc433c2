"""OLMo 1: Llama's layers with norms that hold no numbers, and queries, keys and values that may be clipped."""

from converters.decoder import ATTN, DEFAULTS, DROPPED, FFN, GIVEN_HEAD_DIM, HEAD, LAYER_NORM_SIZES, ROPE, WIDE_GRAPH
from converters.spec import Family, given, rope_pairs
from converters.spec.derive import constant, yarn_attention

OLMO = Family(
    name="olmo",
    architectures=("OlmoForCausalLM",),
    arch="olmo",
    tensors=HEAD
    | FFN
    | {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.{i}.attn_q.weight": rope_pairs(ATTN + ".q_proj.weight", heads="num_attention_heads"),
        "blk.{i}.attn_k.weight": rope_pairs(ATTN + ".k_proj.weight", heads="num_key_value_heads"),
        "blk.{i}.attn_v.weight": ATTN + ".v_proj.weight",
        "blk.{i}.attn_output.weight": ATTN + ".o_proj.weight",
    },
    metadata=LAYER_NORM_SIZES | ROPE | GIVEN_HEAD_DIM | {"attention.clamp_kqv": given("clip_qkv")},
    defaults=DEFAULTS,
    derived={"layer_norm_eps": constant(1e-5), "yarn_attention": yarn_attention},  # OlmoLayerNorm's own
    floats=("clip_qkv",),
    requires=WIDE_GRAPH,
    dropped=DROPPED,
)
