"""Qwen 2.5 VL's eyes: patches of two equal frames, attention within windows, four patches to an embedding."""

from converters.spec import Family, Projector, kernel, rows, strip
from converters.spec.derive import constant
from converters.spec.images import every_so_manyth, frame, told
from converters.spec.orders import equal_part
from converters.towers import NAMED_RIGHT, NOT_EXCHANGED, QWEN_PARTS, QWEN_SHAPES
from converters.vision import COLOURS, PREPARED, PROJECTOR, QWEN_FIELDS, QWEN_GRAPH, SILU, SIZES, TOWER

LAYER = "visual.blocks.{i}"
ATTN, MLP, MERGER = LAYER + ".attn", LAYER + ".mlp", "visual.merger"

VISION_QWEN2_5 = Projector(
    Family(
        name="qwen2_5",
        architectures=(),
        arch=PROJECTOR,
        tensors={
            "v.patch_embd.weight": kernel("visual.patch_embed.proj.weight", order=frame(0, of=2)),
            "v.patch_embd.weight.1": kernel("visual.patch_embed.proj.weight", order=frame(1, of=2)),
            "v.blk.{i}.ln1.weight": LAYER + ".norm1.weight",
            "v.blk.{i}.attn_q.weight": rows(ATTN + ".qkv.weight", equal_part(0, of=3)),
            "v.blk.{i}.attn_q.bias": rows(ATTN + ".qkv.bias", equal_part(0, of=3)),
            "v.blk.{i}.attn_k.weight": rows(ATTN + ".qkv.weight", equal_part(1, of=3)),
            "v.blk.{i}.attn_k.bias": rows(ATTN + ".qkv.bias", equal_part(1, of=3)),
            "v.blk.{i}.attn_v.weight": rows(ATTN + ".qkv.weight", equal_part(2, of=3)),
            "v.blk.{i}.attn_v.bias": rows(ATTN + ".qkv.bias", equal_part(2, of=3)),
            "v.blk.{i}.attn_out.weight": ATTN + ".proj.weight",
            "v.blk.{i}.attn_out.bias": ATTN + ".proj.bias",
            "v.blk.{i}.ln2.weight": LAYER + ".norm2.weight",
            "v.blk.{i}.ffn_gate.weight": MLP + ".gate_proj.weight",
            "v.blk.{i}.ffn_gate.bias": MLP + ".gate_proj.bias",
            "v.blk.{i}.ffn_up.weight": MLP + ".up_proj.weight",
            "v.blk.{i}.ffn_up.bias": MLP + ".up_proj.bias",
            "v.blk.{i}.ffn_down.weight": MLP + ".down_proj.weight",
            "v.blk.{i}.ffn_down.bias": MLP + ".down_proj.bias",
            "v.post_ln.weight": MERGER + ".ln_q.weight",
            "mm.0.weight": MERGER + ".mlp.0.weight",
            "mm.0.bias": MERGER + ".mlp.0.bias",
            "mm.2.weight": MERGER + ".mlp.2.weight",
            "mm.2.bias": MERGER + ".mlp.2.bias",
        },
        layouts={"visual.": strip("model.visual.")},
        metadata=TOWER | SILU | {"vision.n_wa_pattern": "full_every"},
        fields=QWEN_FIELDS,
        defaults={"num_channels": 3, "image_size": 560, "patch_size": 14, "window_size": 112, "out_hidden_size": 3584}
        | {"intermediate_size": 3420},
        derived=COLOURS
        | QWEN_PARTS
        | NAMED_RIGHT
        | {"projector_type": told("model_model_type", {"qwen2_5_vl": "qwen2.5vl_merger"})}
        # What training computes with, whatever the config says; a side of 560 pixels warms llama.cpp up.
        | {"layer_norm_eps": constant(1e-6), "full_every": every_so_manyth("fullatt_block_indexes")},
        counts=SIZES,
        requires=PREPARED | QWEN_GRAPH | NOT_EXCHANGED | {"hidden_act": ("silu", None), "window_size": (112,)},
        shapes=QWEN_SHAPES,
    ),
    parts=("vision tower",),
)
