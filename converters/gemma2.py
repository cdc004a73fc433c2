"""Gemma 2 and ShieldGemma: norms before and after each block, caps on scores and logits, windows in half the layers."""

from converters.decoder import (
    DECODER,
    DEFAULTS,
    DROPPED,
    FFN,
    GEMMA_DEFAULTS,
    GEMMA_GRAPH,
    GEMMA_NORMS,
    HEAD_DIM,
    SIZES,
    scaled_by_head_dim,
)
from converters.spec import Family, Tokens

GEMMA2 = Family(
    name="gemma2",
    architectures=("Gemma2ForCausalLM",),
    arch="gemma2",
    tensors=DECODER | FFN | GEMMA_NORMS,
    metadata=SIZES
    | HEAD_DIM
    | {
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
        "attention.sliding_window": "sliding_window",
    },
    defaults=DEFAULTS | GEMMA_DEFAULTS | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    requires=GEMMA_GRAPH
    | scaled_by_head_dim(but_at=46)
    | {"rope_type": ("default",), "rope_theta": (10000.0,), "sliding_window_pattern": (2, None)},
    dropped=DROPPED,
    head="never",
    tokens=Tokens(add_space_prefix=False),
)
