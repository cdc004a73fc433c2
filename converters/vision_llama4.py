"""Llama 4's eyes: a tower with a class of its own, rotated by rows and columns, then squares of patches as one."""

from converters.spec import Family, Projector
from converters.spec.derive import constant
from converters.towers import LLAMA4_PARTS, LLAMA4_SHAPES, LLAMA4_SIZES, LLAMA4_WIDTHS
from converters.vision import COLOURS, GELU, PREPARED, PROJECTOR, SIZES, TOWER

TOP = "vision_model"
LAYER, ADAPTER = TOP + ".model.layers.{i}", TOP + ".vision_adapter.mlp"
ATTN, MLP = LAYER + ".self_attn", LAYER + ".mlp"

VISION_LLAMA4 = Projector(
    Family(
        name="llama4",
        architectures=(),
        arch=PROJECTOR,
        tensors={
            "v.class_embd": TOP + ".class_embedding",
            "v.patch_embd.weight": TOP + ".patch_embedding.linear.weight",
            "v.position_embd.weight": TOP + ".positional_embedding_vlm",
            "v.pre_ln.weight": TOP + ".layernorm_pre.weight",
            "v.pre_ln.bias": TOP + ".layernorm_pre.bias",
            "v.blk.{i}.ln1.weight": LAYER + ".input_layernorm.weight",
            "v.blk.{i}.ln1.bias": LAYER + ".input_layernorm.bias",
            "v.blk.{i}.attn_q.weight": ATTN + ".q_proj.weight",
            "v.blk.{i}.attn_q.bias": ATTN + ".q_proj.bias",
            "v.blk.{i}.attn_k.weight": ATTN + ".k_proj.weight",
            "v.blk.{i}.attn_k.bias": ATTN + ".k_proj.bias",
            "v.blk.{i}.attn_v.weight": ATTN + ".v_proj.weight",
            "v.blk.{i}.attn_v.bias": ATTN + ".v_proj.bias",
            "v.blk.{i}.attn_out.weight": ATTN + ".o_proj.weight",
            "v.blk.{i}.attn_out.bias": ATTN + ".o_proj.bias",
            "v.blk.{i}.ln2.weight": LAYER + ".post_attention_layernorm.weight",
            "v.blk.{i}.ln2.bias": LAYER + ".post_attention_layernorm.bias",
            "v.blk.{i}.ffn_up.weight": MLP + ".fc1.weight",
            "v.blk.{i}.ffn_up.bias": MLP + ".fc1.bias",
            "v.blk.{i}.ffn_down.weight": MLP + ".fc2.weight",
            "v.blk.{i}.ffn_down.bias": MLP + ".fc2.bias",
            "v.post_ln.weight": TOP + ".layernorm_post.weight",
            "v.post_ln.bias": TOP + ".layernorm_post.bias",
            "mm.model.mlp.1.weight": ADAPTER + ".fc1.weight",
            "mm.model.mlp.2.weight": ADAPTER + ".fc2.weight",
            "mm.model.fc.weight": "multi_modal_projector.linear_1.weight",
        },
        metadata=TOWER | GELU | {"vision.projector.scale_factor": "squares"},
        defaults=LLAMA4_SIZES,
        # Training computes its norms with 1e-5, whatever the config says.
        derived=COLOURS | LLAMA4_PARTS | {"projector_type": constant("llama4"), "layer_norm_eps": constant(1e-5)},
        counts=SIZES,
        requires=PREPARED | LLAMA4_WIDTHS | {"hidden_act": ("gelu", None), "rope_theta": (10000.0,)},
        notes={
            "squares": "llama.cpp hands the squares of {value} x {value} patches of an image over column by column, "
            "training row by row: what it answers about images is worse than what was trained."
        },
        shapes=LLAMA4_SHAPES,
    ),
    parts=("vision tower", "vision projector"),
)
