"""The type that a profile gives each tensor of a model, by the order and the counters of llama.cpp's quantizer."""

import re
from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatchcase

import gguf

from exporter.errors import PlanError
from exporter.profiles.rules import PATTERNS, SIZE_CLASSES, Choice, Facts, Profile, Rule, halves_name, quantizes_name

FALLBACK = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0", "Q3_K": "Q4_0", "Q2_K": "Q4_0"}  # blocks of 256 -> of 32

HALVES = ("F16", "BF16")
V_LIKE = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


def choose_types(profile: Profile, shapes: Mapping[str, tuple[int, ...]], facts: Facts) -> dict[str, Choice]:
    """Return the type of every tensor of a file.

    Args:
        profile: The level.
        shapes: All tensors of the file: GGUF name -> shape in numpy's order (rows last, experts first).
        facts: The model they belong to.

    Raises:
        PlanError: ``facts.tied`` contradicts the tensors.
    """
    if facts.tied == ("output.weight" in shapes):
        found = "tied, but the file has it" if facts.tied else "not tied, but the file lacks it"
        raise PlanError(f"output.weight: the model is {found}.")
    positions = _positions(shapes, facts)
    return {name: _choice(profile, facts, (name, shape), positions.get(name)) for name, shape in shapes.items()}


def _choice(
    profile: Profile, facts: Facts, tensor: tuple[str, tuple[int, ...]], position: tuple[int, int] | None
) -> Choice:
    name, shape = tensor
    if not _quantizes(name, shape):
        kind = profile.default if profile.default in HALVES and halves_name(name) else "F32"
        return Choice(kind, kind, None)
    wanted = next((rule.type for rule in profile.rules if _fits(rule, facts, name, position)), profile.default)
    width = shape[-1]
    # llama.cpp asks this inside its rule for the head, and knows but one substitute there.
    head = name == "output.weight" or (facts.tied and name in EMBEDDINGS)
    candidates = (wanted, "Q8_0" if head else FALLBACK.get(wanted, wanted), "F16")
    got = next(kind for kind in candidates if width % _block(kind) == 0)
    return Choice(got, wanted, None if got == wanted else f"row of {width}")


def _fits(rule: Rule, facts: Facts, name: str, position: tuple[int, int] | None) -> bool:
    gqa = facts.heads // facts.kv_heads if facts.kv_heads else 0
    return (
        (not rule.tensors or any(fnmatchcase(name, glob) for glob in rule.tensors))
        and (rule.layers is None or (position is not None and PATTERNS[rule.layers](*position)))
        and rule.experts in {None, facts.experts}
        and rule.tied in {None, facts.tied}
        and (rule.gqa_min is None or gqa >= rule.gqa_min)
        and (rule.size_class is None or SIZE_CLASSES[rule.size_class](facts))
        and (not rule.arch or facts.arch in rule.arch)
        and rule.imatrix in {None, facts.imatrix}
    )


def _positions(shapes: Mapping[str, tuple[int, ...]], facts: Facts) -> dict[str, tuple[int, int]]:
    """Index and count that ``layers`` is asked with; absent for tensors outside the layers.

    llama.cpp counts value-like tensors, and in dense models each kind of feed-forward tensor, in the order of (layer,
    name); beside experts a feed-forward tensor has its layer's number. Counters and numbers differ where a layer lacks
    a tensor. For other tensors llama.cpp has no such rule: they have the layer's number.
    """
    seen: Counter[str] = Counter()
    values = sum(_kind(name) == "value" for name in shapes)
    positions = {}
    for name in sorted(shapes, key=lambda name: (_layer(name), name)):
        if not _quantizes(name, shapes[name]):
            continue
        kind = _kind(name)
        counted = kind == "value" or (kind.startswith("ffn") and facts.experts <= 1)
        if counted:
            positions[name] = (seen[kind], values if kind == "value" else facts.layers)
        elif _layer(name) >= 0:
            positions[name] = (_layer(name), facts.layers)
        seen[kind] += 1
    return positions


def _kind(name: str) -> str:
    if any(part in name for part in V_LIKE):
        return "value"
    return next((part for part in ("ffn_up", "ffn_gate", "ffn_down") if part in name), "other")


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)", name)
    return int(found[1]) if found else -1


def _quantizes(name: str, shape: tuple[int, ...]) -> bool:
    """Whether llama.cpp quantizes the tensor; ggml ignores leading sizes of 1, so (1, n) is a vector."""
    return max(shape[:-1], default=1) > 1 and quantizes_name(name)


def _block(name: str) -> int:
    return int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][0])
