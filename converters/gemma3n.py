"""Gemma 3n E2B and E4B, text: four streams of the residual, low-rank ones beside it, per-layer embeddings."""

from converters.decoder import ATTN, DECODER, FFN, HEAD, HEAD_DIM, LAYER, QK_NORM, SIZES
from converters.gemma_layers import (
    GEMMA3N_DEFAULTS,
    GEMMA3N_DERIVED,
    GEMMA3N_GRAPH,
    GEMMA3N_SHAPES,
    MEDIA,
    NORMS,
    PER_LAYER_EMBEDDINGS,
    WINDOWS,
)
from converters.spec import Family, Tokens, stacked, strip, unread

ALTUP, LAUREL = LAYER + ".altup", LAYER + ".laurel"

GEMMA3N = Family(
    name="gemma3n",
    architectures=("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
    arch="gemma3n",
    tensors=DECODER
    | HEAD
    | FFN
    | QK_NORM
    | NORMS
    | PER_LAYER_EMBEDDINGS
    | {
        "altup_proj.weight": stacked("model.altup_projections.{e}.weight", count="further_streams"),
        "altup_unembd_proj.weight": stacked("model.altup_unembed_projections.{e}.weight", count="further_streams"),
        "blk.{i}.attn_k.weight": unread(ATTN + ".k_proj.weight", layers="reuses", stands_in=True),
        "blk.{i}.attn_v.weight": unread(ATTN + ".v_proj.weight", layers="reuses", stands_in=True),
        "blk.{i}.attn_k_norm.weight": unread(ATTN + ".k_norm.weight", layers="reuses", stands_in=True),
        "blk.{i}.altup_correct_coef.weight": ALTUP + ".correction_coefs.weight",
        "blk.{i}.altup_correct_scale.weight": ALTUP + ".correct_output_scale",
        "blk.{i}.altup_predict_coef.weight": ALTUP + ".prediction_coefs.weight",
        "blk.{i}.altup_router.weight": ALTUP + ".modality_router.weight",
        "blk.{i}.altup_router_norm.weight": ALTUP + ".router_norm.weight",
        "blk.{i}.laurel_l.weight": LAUREL + ".linear_left.weight",
        "blk.{i}.laurel_r.weight": LAUREL + ".linear_right.weight",
        "blk.{i}.laurel_post_norm.weight": LAUREL + ".post_laurel_norm.weight",
    },
    layouts={"model.": strip("model.language_model.")},
    metadata=SIZES
    | HEAD_DIM
    | WINDOWS
    | {"altup.active_idx": "altup_active_idx", "altup.num_inputs": "altup_num_inputs"}
    | {"activation_sparsity_scale": "sparsity", "final_logit_softcapping": "final_logit_softcapping"},
    defaults=GEMMA3N_DEFAULTS,
    derived=GEMMA3N_DERIVED,
    requires=GEMMA3N_GRAPH,
    shapes=GEMMA3N_SHAPES,
    left_out=MEDIA,
    tokens=Tokens(add_space_prefix=False),
)
