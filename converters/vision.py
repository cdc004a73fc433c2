"""What projectors share: the keys of a vision tower, and how llama.cpp prepares an image for it."""

from converters.spec import Field, Required, SameAs
from converters.spec.derive import Derive, constant, product_of
from converters.spec.images import channels

PROJECTOR = "clip"
TOWER: dict[str, str | Field] = {
    "has_vision_encoder": "yes",
    "projector_type": "projector_type",
    "vision.projection_dim": "text_hidden_size",
    "vision.image_size": "image_size",
    "vision.patch_size": "patch_size",
    "vision.embedding_length": "hidden_size",
    "vision.feed_forward_length": "intermediate_size",
    "vision.block_count": "num_hidden_layers",
    "vision.attention.head_count": "num_attention_heads",
    "vision.attention.layer_norm_epsilon": "layer_norm_eps",
    "vision.image_mean": "image_mean",
    "vision.image_std": "image_std",
}
GELU: dict[str, str | Field] = {"use_gelu": "yes"}
SILU: dict[str, str | Field] = {"use_silu": "yes"}
COLOURS: dict[str, Derive] = {
    "yes": constant(value=True),
    "image_mean": channels("processor_image_mean"),
    "image_std": channels("processor_image_std"),
    "patch_numbers": product_of("num_channels", "patch_size", "patch_size"),
}
SIZES = ("text_hidden_size", "image_size", "patch_size", "num_channels")
# Colours from 0 to 255 become numbers from 0 to 1, then those of the mean and the deviation.
PREPARED: dict[str, tuple[Required, ...]] = {
    "num_channels": (3,),
    "processor_do_normalize": (True, None),
    "processor_do_rescale": (True, None),
    "processor_rescale_factor": (1 / 255, None),
}
QWEN_FIELDS = {"num_hidden_layers": "depth", "num_attention_heads": "num_heads", "num_channels": "in_channels"}
QWEN_GRAPH: dict[str, tuple[Required, ...]] = {
    "spatial_merge_size": (2, None),
    "temporal_patch_size": (2, None),
    "processor_merge_size": (2, None),
    "processor_patch_size": (SameAs("patch_size"), None),
    "processor_temporal_patch_size": (2, None),
    "out_hidden_size": (SameAs("text_hidden_size"),),
}
