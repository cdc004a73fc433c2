"""Mistral Small 3.1, 3.2 and Ministral 3: Mistral's graph, with YaRN and queries scaled by their place; text only."""

from converters.decoder import (
    ATTN,
    DECODER,
    DROPPED,
    FFN,
    FFN_NORM,
    GIVEN_HEAD_DIM,
    HEAD,
    ROPE,
    SIZES,
    VISION,
    WINDOW,
    YARN_GRAPH,
)
from converters.spec import Family, Ratio, SameAs, Tokens, given, rope_pairs, strip
from converters.spec.combined import joined
from converters.vision_pixtral import VISION_PIXTRAL

MISTRAL3 = Family(
    name="mistral3",
    architectures=("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
    arch="mistral3",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | FFN
    | {
        "blk.{i}.attn_q.weight": rope_pairs(ATTN + ".q_proj.weight", heads="num_attention_heads"),
        "blk.{i}.attn_k.weight": rope_pairs(ATTN + ".k_proj.weight", heads="num_key_value_heads"),
    },
    layouts={"model.": (strip("language_model.model."), strip("model.language_model."))}
    | {"lm_head.": strip("language_model.lm_head.")},
    metadata=SIZES
    | GIVEN_HEAD_DIM
    | ROPE
    | {
        "vocab_size": "vocab_size",
        "rope.dimension_count": "rope_dim",
        "rope.scaling.yarn_log_multiplier": given("rope_mscale_all_dim"),
        "attention.temperature_scale": given("rope_scaling_beta"),
    },
    # The two text models have different defaults: what a config does not say is refused.
    defaults={
        "num_key_value_heads": SameAs("num_attention_heads"),
        "rope_dim": Ratio("hidden_size", "num_attention_heads", unless="head_dim"),
    },
    derived={"text and rotation": joined("model_type", "rope_type")},
    # The graph reads the betas, and takes mscale for 1. Ministral 3 has no other rotation than YaRN.
    requires=YARN_GRAPH
    | {"hidden_act": ("silu", None), "rope_beta_fast": (), "rope_beta_slow": (), "rope_context": ()}
    | {"text and rotation": ("mistral default", "mistral linear", "mistral yarn", "ministral3 yarn")}
    | {"rope_scaling_beta": (), "rope_mscale": (SameAs("rope_mscale_all_dim"),), "rope_mscale_all_dim": (1.0, None)},
    notes=WINDOW,
    left_out=VISION,
    dropped=DROPPED,
    tokens=Tokens(follows_add_prefix_space=True),
    projector=VISION_PIXTRAL,
)
