"""Mistral 3's eyes: Pixtral, rotated by rows and columns, patches merged; each row of an image ends in a token."""

from converters.spec import EMBEDDING, Family, Projector, Ratio, kernel, optional, rope_pairs, rows, shaped, strip
from converters.spec.derive import constant
from converters.spec.images import row_of
from converters.towers import INNER, PIXTRAL_PARTS, PIXTRAL_SHAPES
from converters.vision import COLOURS, PREPARED, PROJECTOR, SILU, SIZES, TOWER

TOP, BRIDGE = "vision_tower", "multi_modal_projector"
LAYER = TOP + ".transformer.layers.{i}"
ATTN, MLP = LAYER + ".attention", LAYER + ".feed_forward"
BREAK = "token_[IMG_BREAK]"

VISION_PIXTRAL = Projector(
    Family(
        name="pixtral",
        architectures=(),
        arch=PROJECTOR,
        tensors={
            "v.patch_embd.weight": kernel(TOP + ".patch_conv.weight"),
            "v.pre_ln.weight": TOP + ".ln_pre.weight",
            "v.blk.{i}.ln1.weight": LAYER + ".attention_norm.weight",
            "v.blk.{i}.attn_q.weight": rope_pairs(ATTN + ".q_proj.weight", heads="num_attention_heads"),
            "v.blk.{i}.attn_k.weight": rope_pairs(ATTN + ".k_proj.weight", heads="num_attention_heads"),
            "v.blk.{i}.attn_v.weight": ATTN + ".v_proj.weight",
            "v.blk.{i}.attn_out.weight": ATTN + ".o_proj.weight",
            "v.blk.{i}.ln2.weight": LAYER + ".ffn_norm.weight",
            "v.blk.{i}.ffn_gate.weight": MLP + ".gate_proj.weight",
            "v.blk.{i}.ffn_up.weight": MLP + ".up_proj.weight",
            "v.blk.{i}.ffn_down.weight": MLP + ".down_proj.weight",
            "v.token_embd.img_break": shaped(rows(EMBEDDING, row_of(BREAK)), "text_hidden_size"),
            "mm.input_norm.weight": BRIDGE + ".norm.weight",
            "mm.patch_merger.weight": BRIDGE + ".patch_merger.merging_layer.weight",
            "mm.1.weight": BRIDGE + ".linear_1.weight",
            "mm.1.bias": optional(BRIDGE + ".linear_1.bias"),
            "mm.2.weight": BRIDGE + ".linear_2.weight",
            "mm.2.bias": optional(BRIDGE + ".linear_2.bias"),
        },
        layouts={TOP + ".": strip("model." + TOP + "."), BRIDGE + ".": strip("model." + BRIDGE + ".")},
        metadata=TOWER | SILU | {"vision.spatial_merge_size": "model_spatial_merge_size"},
        defaults={
            "num_channels": 3,
            INNER: 4096,
            "hidden_act": "gelu",
            "model_spatial_merge_size": 2,
            "rope_theta": 10000.0,
            "head_dim": Ratio("hidden_size", "num_attention_heads"),
        },
        derived=COLOURS | PIXTRAL_PARTS | {"projector_type": constant("pixtral"), "layer_norm_eps": constant(1e-5)},
        counts=(*SIZES, "model_spatial_merge_size", BREAK),
        # Its norms share the epsilon of the one behind the tower, which is the text's.
        requires=PREPARED
        | {"hidden_act": ("silu",), "rope_theta": (10000.0,), "text_rms_norm_eps": (1e-5,)}
        | {"head_dim": (Ratio("hidden_size", "num_attention_heads"),), "model_vision_feature_layer": (-1, None)}
        | {"model_projector_hidden_act": ("gelu", None)},
        shapes=PIXTRAL_SHAPES,
    ),
    parts=("vision tower", "vision projector"),
)
