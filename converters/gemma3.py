"""Gemma 3, text from 270M to 27B: Gemma 2 with norms on queries and keys, five windowed layers for each full one."""

from converters.decoder import (
    ATTN,
    DECODER,
    DEFAULTS,
    DROPPED,
    FFN,
    GEMMA_DEFAULTS,
    GEMMA_GRAPH,
    GEMMA_NORMS,
    HEAD,
    HEAD_DIM,
    ROPE,
    SIZES,
    VISION,
    scaled_by_head_dim,
)
from converters.spec import Family, Tokens, given, plus_one, strip
from converters.spec.combined import not_of_class
from converters.vision_gemma3 import VISION_GEMMA3

GEMMA3 = Family(
    name="gemma3",
    architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    arch="gemma3",
    tensors=DECODER
    | HEAD
    | FFN
    | GEMMA_NORMS
    | {
        "blk.{i}.attn_q_norm.weight": plus_one(ATTN + ".q_norm.weight"),
        "blk.{i}.attn_k_norm.weight": plus_one(ATTN + ".k_norm.weight"),
    },
    layouts={
        "model.": (strip("language_model.model."), strip("model.language_model.")),
        "lm_head.": strip("language_model.lm_head."),
    },
    metadata=SIZES
    | HEAD_DIM
    | ROPE
    | {
        "rope.freq_base_swa": "rope_local_theta",
        "attention.sliding_window": "sliding_window",
        "final_logit_softcapping": given("final_logit_softcapping"),
    },
    defaults=DEFAULTS
    | GEMMA_DEFAULTS
    | {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 131072, "vocab_size": 262208}
    | {"rope_theta": 1000000.0, "rope_local_theta": 10000.0},
    # The class that sees does not cap its logits.
    derived={"final_logit_softcapping": not_of_class("final_logit_softcapping", "Gemma3ForConditionalGeneration")},
    requires=GEMMA_GRAPH
    | scaled_by_head_dim(but_at=62)
    | {"rope_type": ("default", "linear"), "sliding_window_pattern": (6, None), "attn_logit_softcapping": (None,)},
    left_out=VISION,
    dropped=DROPPED,
    tokens=Tokens(add_space_prefix=False),
    projector=VISION_GEMMA3,
)
