"""What a profile can say: its rules, the types, the named layers, and the facts that rules ask about a model."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import gguf

TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0"),
    *("Q4_K", "Q4_1", "Q4_0", "MXFP4", "Q3_K", "Q2_K"),
)

# Names with one of these in them keep the source's type: small tensors, and harmed by few bits.
KEPT = re.compile(
    r"_norm\.weight|ffn_gate_(inp|tid2eid)\.weight|altup|laurel|per_layer_model_proj|ssm_conv1d|shortconv\.conv\.weight"
    r"|indexer\.[kq]_proj\.weight|time_mix_(first|[wva][012]|g[12]|decay_w[12]|lerp_fused)\.weight|attn_rel_b\.weight"
    r"|\.position_embd|sam\.(pos_embd|neck\.|net_)|\.rel_pos|\.patch_(embd|merger)|a\.rvq\.codebook|mm\.a\.code_embd"
)
# Of these, the ones that llama.cpp's converter stores in 16 bits where that is what it is to write.
HALVED = re.compile(r"per_layer_model_proj|altup_(un)?(embd_)?proj|altup_router\.|laurel_[lr]\.")


@dataclass(frozen=True)
class Rule:
    """All given conditions must fit a tensor; ``type`` is then its type. None and () stand for "not given"."""

    type: str
    tensors: tuple[str, ...] = ()
    layers: str | None = None
    experts: int | None = None
    tied: bool | None = None
    gqa_min: int | None = None
    size_class: str | None = None
    arch: tuple[str, ...] = ()
    imatrix: bool | None = None


@dataclass(frozen=True)
class Profile:
    """A level: ``default`` where no rule fits. ``text`` is the TOML it was read from."""

    name: str
    file_type: str
    default: str
    rules: tuple[Rule, ...]
    text: str

    @property
    def file_type_id(self) -> int:
        """The number of ``general.file_type``."""
        return int(gguf.LlamaFileType[self.file_type])


@dataclass(frozen=True)
class Facts:
    """What rules ask about a model.

    ``layers`` is ``block_count``; ``heads`` and ``kv_heads`` are the first layer's; ``experts`` is 0 in dense models;
    ``tied``: the file has no ``output.weight``, so it is false where a family writes a tied head twice.
    """

    arch: str
    layers: int
    heads: int
    kv_heads: int
    experts: int
    tied: bool
    imatrix: bool = False


@dataclass(frozen=True)
class Choice:
    """A tensor's type, the type the profile wanted, and why they differ (``None`` where they do not)."""

    type: str
    wanted: str
    why: str | None


# Named layers: (index, count) -> whether the layer is meant. Divisions are integer, as llama.cpp's are.
PATTERNS: dict[str, Callable[[int, int], bool]] = {
    "sensitive": lambda i, n: i < n // 8 or i >= 7 * n // 8 or (i - n // 8 + 1) % 3 == 0,  # its use_more_bits
    "first_eighth": lambda i, n: i < n // 8,
    "first_sixteenth": lambda i, n: i < n // 16,
    "first_two": lambda i, _: i in range(2),
    "first_four": lambda i, _: i in range(4),
}

# llama.cpp's size classes that decide types; its Llama of 80 layers without grouped queries is "65B", so not meant.
LAYERS_OF_70B = {"llama": 80, "qwen2": 80, "olmo": 80, "deci": 80, "jais2": 68}
SIZE_CLASSES: dict[str, Callable[[Facts], bool]] = {
    "70B": lambda facts: (
        facts.layers == LAYERS_OF_70B.get(facts.arch) and (facts.arch != "llama" or facts.heads != facts.kv_heads)
    )
}


def quantizes_name(name: str) -> bool:
    """Whether llama.cpp may quantize a tensor of this name, if it is no vector."""
    return (
        name.endswith("weight") and name not in {"position_embd.weight", "token_types.weight"} and not KEPT.search(name)
    )


def halves_name(name: str) -> bool:
    """Whether a tensor that is never quantized is stored in 16 bits in a file of 16 bits."""
    return HALVED.search(name) is not None
