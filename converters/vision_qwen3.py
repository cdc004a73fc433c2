"""Qwen 3 VL's eyes: learned positions, and embeddings from some layers between that go beside the last one's."""

from converters.spec import Family, Projector, among, kernel, strip
from converters.spec.derive import constant
from converters.spec.images import chosen_layers, frame, numbers
from converters.towers import QWEN3_PARTS, QWEN3_SHAPES, QWEN3_SIZES
from converters.vision import COLOURS, GELU, PREPARED, PROJECTOR, QWEN_FIELDS, QWEN_GRAPH, TOWER

LAYER = "visual.blocks.{i}"
ATTN, MLP, MERGER, DEEP = LAYER + ".attn", LAYER + ".mlp", "visual.merger", "visual.deepstack_merger_list.{i}"

VISION_QWEN3 = Projector(
    Family(
        name="qwen3",
        architectures=(),
        arch=PROJECTOR,
        tensors={
            "v.patch_embd.weight": kernel("visual.patch_embed.proj.weight", order=frame(0, of=2)),
            "v.patch_embd.weight.1": kernel("visual.patch_embed.proj.weight", order=frame(1, of=2)),
            "v.patch_embd.bias": "visual.patch_embed.proj.bias",
            "v.position_embd.weight": "visual.pos_embed.weight",
            "v.blk.{i}.ln1.weight": LAYER + ".norm1.weight",
            "v.blk.{i}.ln1.bias": LAYER + ".norm1.bias",
            "v.blk.{i}.attn_qkv.weight": ATTN + ".qkv.weight",
            "v.blk.{i}.attn_qkv.bias": ATTN + ".qkv.bias",
            "v.blk.{i}.attn_out.weight": ATTN + ".proj.weight",
            "v.blk.{i}.attn_out.bias": ATTN + ".proj.bias",
            "v.blk.{i}.ln2.weight": LAYER + ".norm2.weight",
            "v.blk.{i}.ln2.bias": LAYER + ".norm2.bias",
            "v.blk.{i}.ffn_up.weight": MLP + ".linear_fc1.weight",
            "v.blk.{i}.ffn_up.bias": MLP + ".linear_fc1.bias",
            "v.blk.{i}.ffn_down.weight": MLP + ".linear_fc2.weight",
            "v.blk.{i}.ffn_down.bias": MLP + ".linear_fc2.bias",
            "v.deepstack.{i}.norm.weight": among(DEEP + ".norm.weight", layers="deepstack"),
            "v.deepstack.{i}.norm.bias": among(DEEP + ".norm.bias", layers="deepstack"),
            "v.deepstack.{i}.fc1.weight": among(DEEP + ".linear_fc1.weight", layers="deepstack"),
            "v.deepstack.{i}.fc1.bias": among(DEEP + ".linear_fc1.bias", layers="deepstack"),
            "v.deepstack.{i}.fc2.weight": among(DEEP + ".linear_fc2.weight", layers="deepstack"),
            "v.deepstack.{i}.fc2.bias": among(DEEP + ".linear_fc2.bias", layers="deepstack"),
            "v.post_ln.weight": MERGER + ".norm.weight",
            "v.post_ln.bias": MERGER + ".norm.bias",
            "mm.0.weight": MERGER + ".linear_fc1.weight",
            "mm.0.bias": MERGER + ".linear_fc1.bias",
            "mm.2.weight": MERGER + ".linear_fc2.weight",
            "mm.2.bias": MERGER + ".linear_fc2.bias",
        },
        layouts={"visual.": strip("model.visual.")},
        metadata=TOWER | GELU | {"vision.spatial_merge_size": "merge", "vision.is_deepstack_layers": "deep"},
        fields=QWEN_FIELDS,
        defaults=QWEN3_SIZES,
        derived=COLOURS
        | QWEN3_PARTS
        | {"projector_type": constant("qwen3vl_merger"), "merge": constant(2), "layer_norm_eps": constant(1e-6)}
        | {"deepstack": numbers("deepstack_visual_indexes", usual=(8, 16, 24)), "deep": chosen_layers("deepstack")},
        counts=("text_hidden_size", "patch_size", "num_channels"),
        requires=PREPARED | QWEN_GRAPH | {"hidden_act": ("gelu_pytorch_tanh", None)},
        shapes=QWEN3_SHAPES,
    ),
    parts=("vision tower",),
)
