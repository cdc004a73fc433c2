"""Llama 4 Scout and Maverick, text: rotation and chunks in three layers of four; experts stored turned over."""

from converters.decoder import (
    DECODER,
    DEFAULTS,
    DROPPED,
    EXPERT_COUNTS,
    FFN_NORM,
    HEAD,
    HEAD_DIM,
    LAYER,
    LLAMA4_GRAPH,
    LLAMA4_LAYERS,
    ROPE,
    SIZES,
    feed_forward,
)
from converters.rope import llama3_factors
from converters.spec import Family, Generated, SameAs, at, each_transposed, part_transposed, some_layers, strip
from converters.vision_llama4 import VISION_LLAMA4

FFN = LAYER + ".feed_forward"
LLAMA4 = Family(
    name="llama4",
    architectures=("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    arch="llama4",
    tensors=DECODER
    | {"rope_freqs.weight": Generated(llama3_factors)}
    | HEAD
    | FFN_NORM
    | some_layers(feed_forward(FFN, ""), layers="dense_layers")
    | some_layers(feed_forward(FFN + ".experts.{e}", "_exps"), layers="sparse_layers")
    | some_layers(feed_forward(FFN + ".shared_expert", "_shexp"), layers="sparse_layers")
    | {"blk.{i}.ffn_gate_inp.weight": at(FFN + ".router.weight", layers="sparse_layers")},
    layouts={"model.": strip("language_model.model."), "lm_head.": strip("language_model.lm_head.")}
    | {
        FFN + ".experts.{e}.gate_proj.weight": part_transposed(FFN + ".experts.gate_up_proj", 0, of=2),
        FFN + ".experts.{e}.up_proj.weight": part_transposed(FFN + ".experts.gate_up_proj", 1, of=2),
        FFN + ".experts.{e}.down_proj.weight": each_transposed(FFN + ".experts.down_proj"),
    },
    metadata=SIZES
    | {"feed_forward_length": "intermediate_size_mlp", "expert_feed_forward_length": "intermediate_size"}
    | {"vocab_size": "vocab_size", "rope.dimension_count": "head_dim"}
    | {"interleave_moe_layer_step": "interleave_moe_layer_step"}
    | HEAD_DIM
    | ROPE
    | EXPERT_COUNTS,
    defaults=DEFAULTS
    | {"rms_norm_eps": 1e-5, "rope_theta": 500000.0, "head_dim": 128, "rope_dim": SameAs("head_dim")}
    | {"interleave_moe_layer_step": 1, "use_qk_norm": True, "intermediate_size_mlp": 16384},
    derived=LLAMA4_LAYERS,
    requires=LLAMA4_GRAPH,
    left_out={"vision tower": ("vision_model.",), "vision projector": ("multi_modal_projector.",)},
    counts=("intermediate_size_mlp", "interleave_moe_layer_step"),
    shapes=dict.fromkeys(("ffn_gate.weight", "ffn_up.weight"), ("intermediate_size_mlp", "hidden_size"))
    | {"ffn_down.weight": ("hidden_size", "intermediate_size_mlp")},
    dropped=DROPPED,
    projector=VISION_LLAMA4,
)
