"""Gemma 1 and CodeGemma: norms stored less one, a head that is always the embedding."""

from converters.decoder import DECODER, DEFAULTS, DROPPED, FFN, FFN_NORM, GEMMA_GRAPH, HEAD_DIM, LAYER, SIZES
from converters.spec import Family, Tokens, plus_one

GEMMA = Family(
    name="gemma",
    architectures=("GemmaForCausalLM",),
    arch="gemma",
    tensors=DECODER
    | FFN_NORM
    | FFN
    | {
        "output_norm.weight": plus_one("model.norm.weight"),
        "blk.{i}.attn_norm.weight": plus_one(LAYER + ".input_layernorm.weight"),
        "blk.{i}.ffn_norm.weight": plus_one(LAYER + ".post_attention_layernorm.weight"),
    },
    metadata=SIZES | HEAD_DIM,
    defaults=DEFAULTS | {"head_dim": 256, "tie_word_embeddings": True},
    # Gemma 1's files say "gelu" and mean its tanh form, as transformers notes where it reads them.
    requires=GEMMA_GRAPH
    | {"hidden_act": ("gelu", "gelu_pytorch_tanh", None), "rope_type": ("default",), "rope_theta": (10000.0,)},
    dropped=DROPPED,
    head="never",
    tokens=Tokens(add_space_prefix=False),
)
