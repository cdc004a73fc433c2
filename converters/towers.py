"""How large the tensors of vision towers are, and of what leads from them to the text model."""

from converters.spec import Default, Required, SameAs
from converters.spec.derive import Derive, product_of, times
from converters.spec.images import inverse, one_more, patches, same, table_side

WIDE, INNER = "hidden_size", "intermediate_size"
MERGED, TEXT, PATCH = "merged", "text_hidden_size", (WIDE, "patch_numbers")
"""``merged``: the numbers of the patches that become one embedding."""
Shapes = dict[str, tuple[str | int, ...] | None]
TOWER_SHAPES: Shapes = {
    **dict.fromkeys((f"attn_{one}.weight" for one in ("q", "k", "v", "out")), (WIDE, WIDE)),
    **dict.fromkeys((f"attn_{one}.bias" for one in ("q", "k", "v", "out")), (WIDE,)),
    **dict.fromkeys((f"ln{one}.{part}" for one in (1, 2) for part in ("weight", "bias")), (WIDE,)),
    **dict.fromkeys((f"v.{one}_ln.{part}" for one in ("pre", "post") for part in ("weight", "bias")), (WIDE,)),
    "ffn_gate.weight": (INNER, WIDE),
    "ffn_gate.bias": (INNER,),
    "ffn_up.weight": (INNER, WIDE),
    "ffn_up.bias": (INNER,),
    "ffn_down.weight": (WIDE, INNER),
    "ffn_down.bias": (WIDE,),
    "v.patch_embd.weight": PATCH,
    "v.patch_embd.weight.1": PATCH,
    "v.patch_embd.bias": (WIDE,),
}
QWEN_SHAPES: Shapes = TOWER_SHAPES | {
    "mm.0.weight": (MERGED, MERGED),
    "mm.0.bias": (MERGED,),
    "mm.2.weight": (TEXT, MERGED),
    "mm.2.bias": (TEXT,),
}
QWEN3_SHAPES: Shapes = QWEN_SHAPES | {
    "attn_qkv.weight": ("qkv_rows", WIDE),
    "attn_qkv.bias": ("qkv_rows",),
    "v.position_embd.weight": ("num_position_embeddings", WIDE),
    "deepstack.norm.weight": (MERGED,),
    "deepstack.norm.bias": (MERGED,),
    "deepstack.fc1.weight": (MERGED, MERGED),
    "deepstack.fc1.bias": (MERGED,),
    "deepstack.fc2.weight": (TEXT, MERGED),
    "deepstack.fc2.bias": (TEXT,),
}
SIGLIP_SHAPES: Shapes = TOWER_SHAPES | {
    "v.position_embd.weight": ("patches", WIDE),
    "mm.input_projection.weight": (WIDE, TEXT),
    "mm.soft_emb_norm.weight": (WIDE,),
}
PIXTRAL_SHAPES: Shapes = TOWER_SHAPES | {
    "v.token_embd.img_break": (1, TEXT),
    "mm.input_norm.weight": (WIDE,),
    "mm.patch_merger.weight": (WIDE, MERGED),
    "mm.1.weight": (TEXT, WIDE),
    "mm.1.bias": (TEXT,),
    "mm.2.weight": (TEXT, TEXT),
    "mm.2.bias": (TEXT,),
}
LLAMA4_SHAPES: Shapes = TOWER_SHAPES | {
    "v.class_embd": (WIDE,),
    "v.position_embd.weight": ("places", WIDE),
    "mm.model.mlp.1.weight": ("projector_input_dim", INNER),
    "mm.model.mlp.2.weight": ("projector_output_dim", "projector_output_dim"),
    "mm.model.fc.weight": (TEXT, "vision_output_dim"),
}
# What transformers takes where a config says nothing.
SIGLIP_SIZES: dict[str, Default] = {
    INNER: 3072,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "layer_norm_eps": 1e-6,
    "model_mm_tokens_per_image": 256,
}
QWEN3_SIZES: dict[str, Default] = {
    INNER: 4304,
    "num_channels": 3,
    "patch_size": 16,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
}
LLAMA4_SIZES: dict[str, Default] = {
    INNER: 5632,
    "image_size": 448,
    "patch_size": 14,
    "num_channels": 3,
    "pixel_shuffle_ratio": 0.5,
    "rope_theta": 10000.0,
    "projector_input_dim": 4096,
    "projector_output_dim": 4096,
    "vision_output_dim": 7680,
}
# Of old files llama.cpp takes the two matrices of a block, and their biases, to be named the wrong way round where the
# second has as many columns as the tower is wide: then it exchanges them, in the towers of Gemma 3 and Qwen 2.5 too.
EXCHANGED = "intermediate_size equal to hidden_size"
NAMED_RIGHT: dict[str, Derive] = {EXCHANGED: same(INNER, WIDE)}
NOT_EXCHANGED: dict[str, tuple[Required, ...]] = {EXCHANGED: (False,)}
PATCHES: dict[str, Derive] = {"patches": patches(of="image_size", side="patch_size")}
SIGLIP_PARTS = PATCHES | NAMED_RIGHT
QWEN_PARTS: dict[str, Derive] = {"merged": times(WIDE, 4), "qkv_rows": times(WIDE, 3)}
QWEN3_PARTS = QWEN_PARTS | {"image_size": table_side("num_position_embeddings")}
MERGE = "model_spatial_merge_size"
PIXTRAL_PARTS: dict[str, Derive] = {"merged": product_of(WIDE, MERGE, MERGE)}
LLAMA4_PARTS: dict[str, Derive] = PATCHES | {
    "squares": inverse("pixel_shuffle_ratio"),
    "places": one_more("patches"),
    "shuffled": product_of("squares", "squares", WIDE),
}
# What goes through: squares of patches side by side, and each matrix behind the other.
LLAMA4_WIDTHS: dict[str, tuple[Required, ...]] = {
    INNER: (SameAs("shuffled"),),
    "projector_output_dim": (SameAs("projector_input_dim"),),
    "vision_output_dim": (SameAs("projector_output_dim"),),
}
