"""Llama 1 to 3.3, and what shares its graph: Yi, SmolLM2, Vicuna, TinyLlama, CodeLlama, DeepSeek-R1 distills, Falcon 3.

Of HyperCLOVA X SEED the text models of 0.5B and 1.5B; those of ``HyperCLOVAXForCausalLM`` llama.cpp does not know.
"""

from converters.decoder import (
    ATTN,
    DECODER,
    DEFAULTS,
    DROPPED,
    DYNAMIC,
    FFN,
    FFN_NORM,
    GIVEN_HEAD_DIM,
    HEAD,
    MLP,
    ROPE,
    SIZES,
    YARN_GRAPH,
)
from converters.rope import llama3_factors
from converters.spec import Family, Generated, Ratio, Tokens, flagged, rope_pairs

HEADS = "num_attention_heads"
KV_HEADS = "num_key_value_heads"
ATTENTION = "attention_bias"

LLAMA = Family(
    name="llama",
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM"),
    arch="llama",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | FFN
    | {
        "rope_freqs.weight": Generated(llama3_factors),
        "blk.{i}.attn_q.weight": rope_pairs(ATTN + ".q_proj.weight", heads=HEADS),
        "blk.{i}.attn_k.weight": rope_pairs(ATTN + ".k_proj.weight", heads=KV_HEADS),
        "blk.{i}.attn_q.bias": flagged(rope_pairs(ATTN + ".q_proj.bias", heads=HEADS), by=ATTENTION),
        "blk.{i}.attn_k.bias": flagged(rope_pairs(ATTN + ".k_proj.bias", heads=KV_HEADS), by=ATTENTION),
        "blk.{i}.attn_v.bias": flagged(ATTN + ".v_proj.bias", by=ATTENTION),
        "blk.{i}.attn_output.bias": flagged(ATTN + ".o_proj.bias", by=ATTENTION),
        "blk.{i}.ffn_gate.bias": flagged(MLP + ".gate_proj.bias", by="mlp_bias"),
        "blk.{i}.ffn_up.bias": flagged(MLP + ".up_proj.bias", by="mlp_bias"),
        "blk.{i}.ffn_down.bias": flagged(MLP + ".down_proj.bias", by="mlp_bias"),
    },
    metadata=SIZES | GIVEN_HEAD_DIM | ROPE | {"vocab_size": "vocab_size", "rope.dimension_count": "rope_dim"},
    defaults=DEFAULTS | {"rope_dim": Ratio("hidden_size", HEADS, unless="head_dim")},
    requires=YARN_GRAPH
    | {"hidden_act": ("silu", None), "rope_type": ("default", "linear", "llama3", "yarn", "dynamic")}
    | {"rope_dynamic_factor": ()},
    notes=DYNAMIC,
    dropped=DROPPED,
    tokens=Tokens(follows_add_prefix_space=True),
)
