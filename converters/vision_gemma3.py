"""Gemma 3's eyes: SigLIP, whose patches are averaged by squares, normed, and turned into embeddings of the text."""

from converters.spec import Family, Projector, given, kernel, plus_one, strip
from converters.spec.derive import constant
from converters.spec.images import patches_per_token, unless
from converters.towers import NOT_EXCHANGED, SIGLIP_PARTS, SIGLIP_SHAPES, SIGLIP_SIZES
from converters.vision import COLOURS, GELU, PREPARED, PROJECTOR, SIZES, TOWER

TOP, BRIDGE = "vision_tower.vision_model", "multi_modal_projector"
EMBEDDINGS, LAYER = TOP + ".embeddings", TOP + ".encoder.layers.{i}"
ATTN, MLP = LAYER + ".self_attn", LAYER + ".mlp"

VISION_GEMMA3 = Projector(
    Family(
        name="gemma3",
        architectures=(),
        arch=PROJECTOR,
        tensors={
            "v.patch_embd.weight": kernel(EMBEDDINGS + ".patch_embedding.weight"),
            "v.patch_embd.bias": EMBEDDINGS + ".patch_embedding.bias",
            "v.position_embd.weight": EMBEDDINGS + ".position_embedding.weight",
            "v.blk.{i}.ln1.weight": LAYER + ".layer_norm1.weight",
            "v.blk.{i}.ln1.bias": LAYER + ".layer_norm1.bias",
            "v.blk.{i}.attn_q.weight": ATTN + ".q_proj.weight",
            "v.blk.{i}.attn_q.bias": ATTN + ".q_proj.bias",
            "v.blk.{i}.attn_k.weight": ATTN + ".k_proj.weight",
            "v.blk.{i}.attn_k.bias": ATTN + ".k_proj.bias",
            "v.blk.{i}.attn_v.weight": ATTN + ".v_proj.weight",
            "v.blk.{i}.attn_v.bias": ATTN + ".v_proj.bias",
            "v.blk.{i}.attn_out.weight": ATTN + ".out_proj.weight",
            "v.blk.{i}.attn_out.bias": ATTN + ".out_proj.bias",
            "v.blk.{i}.ln2.weight": LAYER + ".layer_norm2.weight",
            "v.blk.{i}.ln2.bias": LAYER + ".layer_norm2.bias",
            "v.blk.{i}.ffn_up.weight": MLP + ".fc1.weight",
            "v.blk.{i}.ffn_up.bias": MLP + ".fc1.bias",
            "v.blk.{i}.ffn_down.weight": MLP + ".fc2.weight",
            "v.blk.{i}.ffn_down.bias": MLP + ".fc2.bias",
            "v.post_ln.weight": TOP + ".post_layernorm.weight",
            "v.post_ln.bias": TOP + ".post_layernorm.bias",
            "mm.input_projection.weight": BRIDGE + ".mm_input_projection_weight",
            "mm.soft_emb_norm.weight": plus_one(BRIDGE + ".mm_soft_emb_norm.weight"),
        },
        # transformers 5 has no `vision_model` in memory.
        layouts={TOP + ".": (strip("model." + TOP + "."), strip(TOP + "."), strip("model.vision_tower."))}
        | {BRIDGE + ".": strip("model." + BRIDGE + ".")},
        metadata=TOWER | GELU | {"vision.projector.scale_factor": given("unusual_factor")},
        defaults=SIGLIP_SIZES,
        derived=COLOURS
        | SIGLIP_PARTS
        | {"projector_type": constant("gemma3")}
        | {"factor": patches_per_token("model_mm_tokens_per_image"), "unusual_factor": unless("factor", 4)},
        counts=SIZES,
        floats=("layer_norm_eps",),
        requires=PREPARED | NOT_EXCHANGED | {"hidden_act": ("gelu_pytorch_tanh", None)},
        shapes=SIGLIP_SHAPES,
        left_out={"vision tower's pooling": (TOP + ".head.", "model." + TOP + ".head.")},
    ),
    parts=("vision tower", "vision projector"),
    types={"mm.input_projection.weight": "F16", "v.patch_embd.weight": "F32"},
)
