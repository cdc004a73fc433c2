"""GLM-4 of 2024 (glm-4-9b-chat-hf), and GLM-Edge: half of each head is rotated, gate and up are one matrix."""

from converters.decoder import ATTN, DECODER, DEFAULTS, DROPPED, FFN_NORM, HEAD, MLP, SIZES
from converters.spec import Family, Ratio, flagged
from converters.spec.derive import rotated_part, times

GLM = Family(
    name="glm",
    architectures=("GlmForCausalLM",),
    arch="chatglm",
    tensors=DECODER
    | HEAD
    | FFN_NORM
    | {
        "blk.{i}.attn_q.bias": flagged(ATTN + ".q_proj.bias", by="attention_bias"),
        "blk.{i}.attn_k.bias": flagged(ATTN + ".k_proj.bias", by="attention_bias"),
        "blk.{i}.attn_v.bias": flagged(ATTN + ".v_proj.bias", by="attention_bias"),
        "blk.{i}.ffn_up.weight": MLP + ".gate_up_proj.weight",
        "blk.{i}.ffn_down.weight": MLP + ".down_proj.weight",
    },
    metadata=SIZES | {"rope.freq_base": "rope_theta", "rope.dimension_count": "rope_dim"},
    defaults=DEFAULTS
    | {"rms_norm_eps": 1.5625e-07, "head_dim": 128, "num_key_value_heads": 2, "max_position_embeddings": 131072}
    | {"partial_rotary_factor": 0.5, "attention_bias": True},
    derived={"rope_dim": rotated_part(), "gate_up_rows": times("intermediate_size", 2)},
    requires={
        "hidden_act": ("silu", None),
        "rope_type": ("default",),
        "partial_rotary_factor": (),
        "head_dim": (Ratio("hidden_size", "num_attention_heads"),),
    },
    shapes={"ffn_up.weight": ("gate_up_rows", "hidden_size")},
    dropped=DROPPED,
)
