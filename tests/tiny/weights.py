"""The weights of a tiny model: each a function of its own name, in whichever layout they are stored."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .models import TINY, spell
from .values import Array, Layout

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]

# Names of a module in memory (transformers 4 or 5) -> the names that weights are generated under.
CANONICAL = (
    (r"^model\.language_model\.", "model."),
    (r"^language_model\.model\.", "model."),
    (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
    (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
    (r"\.block_sparse_moe\.", ".mlp."),
    (r"\.w1\.weight$", ".gate_proj.weight"),
    (r"\.w2\.weight$", ".down_proj.weight"),
    (r"\.w3\.weight$", ".up_proj.weight"),
)
# Canonical names -> the names in the file; "fused" joins tensors as well, in `_fused`.
LAYOUTS: Mapping[Layout, Sequence[tuple[str, str]]] = MappingProxyType(
    {
        "plain": (),
        "fused": (),
        "turned": (),
        "mixtral": (
            (r"\.mlp\.", ".block_sparse_moe."),
            (r"(\.experts\.\d+)\.gate_proj\.", r"\1.w1."),
            (r"(\.experts\.\d+)\.down_proj\.", r"\1.w2."),
            (r"(\.experts\.\d+)\.up_proj\.", r"\1.w3."),
        ),
        "vision-v4": ((r"^model\.", "language_model.model."),),
        "vision-v5": (
            (r"^model\.", "model.language_model."),
            (r"^(vision_tower|multi_modal_projector)\.", r"model.\1."),
        ),
    }
)


def _rename(name: str, rows: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rows:
        name = re.sub(pattern, replacement, name)
    return name


def _unfused(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """One entry for each expert's projection where transformers 5 keeps all of them in one parameter."""
    stem, _, last = name.rpartition(".")
    if not stem.endswith(".experts"):
        yield name, shape
    elif last == "down_proj":
        yield from ((f"{stem}.{e}.down_proj.weight", shape[1:]) for e in range(shape[0]))
    else:
        half = (shape[1] // 2, shape[2])
        yield from ((f"{stem}.{e}.{p}_proj.weight", half) for e in range(shape[0]) for p in ("gate", "up"))


@lru_cache
def shapes(name: str) -> Shapes:
    """Canonical names and shapes (rows first), from the transformers model on the meta device."""
    import torch  # noqa: PLC0415  (seconds to import)
    import transformers  # noqa: PLC0415

    tiny = TINY[name]
    if tiny.shapes is not None:
        return MappingProxyType(dict(tiny.shapes(dict(tiny.config))))
    fields = spell(tiny, "float32", "v4")
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **_plain(fields))
    with torch.device("meta"):
        state = getattr(transformers, tiny.architecture)(config).state_dict()
    if getattr(config.get_text_config(), "tie_word_embeddings", config.tie_word_embeddings):
        state.pop("lm_head.weight")
    stored = [(_rename(key, CANONICAL), tuple(tensor.shape)) for key, tensor in state.items()]
    if tiny.layout == "turned":  # experts in one tensor, (experts, inputs, outputs), in every checkpoint
        return MappingProxyType(dict(stored))
    return MappingProxyType({k: s for key, shape in stored for k, s in _unfused(key, shape)})


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that make a config in transformers, which writes into them: a copy."""
    left_out = {"architectures", "torch_dtype", "transformers_version"}
    return deepcopy({key: value for key, value in fields.items() if key not in left_out})


def _mean_and_deviation(name: str, shape: tuple[int, ...], *, gemma: bool) -> tuple[float, float]:
    """Around which value, and how widely, the weights of this name are spread."""
    if "norm" in name and name.endswith(".weight"):
        # Gemma adds 1 to a stored norm when it runs; its vision tower has plain ones.
        return (0.0 if gemma and "vision_tower" not in name else 1.0), 0.1
    if len(shape) == 1:
        return 0.0, 0.1
    if name.endswith(("embed_tokens.weight", "lm_head.weight")):
        return 0.0, 0.25  # logits of a deviation of 2 at a width of 64
    return 0.0, 0.8 / np.sqrt(np.prod(shape[1:])).item()


def weight(name: str, shape: tuple[int, ...], mean: float, deviation: float) -> Array:
    """The tensor of a canonical name, in float32.

    Four 16-bit integers of PCG64, whose stream numpy keeps, are added: nearly normal, and the same bits everywhere,
    since no logarithm is taken.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    count = int(np.prod(shape))
    words = np.asarray(np.random.PCG64(seed).random_raw(count), dtype="<u8").view("<u2").reshape(count, 4)
    centred = words.sum(axis=1, dtype=np.int64) - 131070
    # The variance of a sum of four is 4 * 65536^2 / 12.
    values: Array = (mean + centred * (deviation / (65536 / 3**0.5))).astype(np.float32)
    return values.reshape(shape)


def weights(name: str) -> dict[str, Array]:
    """All tensors of a tiny model by canonical name, in float32; no head where it is tied."""
    # Gemma's first three store their norms less one.
    gemma = TINY[name].config["model_type"] in {"gemma", "gemma2", "gemma3", "gemma3_text"}
    own = TINY[name].spread
    spreads = {
        key: (own(key, shape) if own else None) or _mean_and_deviation(key, shape, gemma=gemma)
        for key, shape in shapes(name).items()
    }
    return {key: weight(key, shape, *spreads[key]) for key, shape in shapes(name).items()}


def fingerprint(tensors: Mapping[str, Array]) -> str:
    """SHA-256 over names, shapes and float32 bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape}\n".encode())
        digest.update(tensors[name].astype("<f4").tobytes())
    return digest.hexdigest()


def _fused(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Experts of a layer in two 3-D tensors: gate over up, and down."""
    out, stacks = dict[str, Array](), dict[str, list[Array]]()
    for name, tensor in tensors.items():
        stem, found, rest = name.partition(".experts.")
        if not found:
            out[name] = tensor
        elif rest.endswith(".gate_proj.weight"):
            up = tensors[name.replace(".gate_proj.", ".up_proj.")]
            stacks.setdefault(f"{stem}.experts.gate_up_proj", []).append(np.concatenate([tensor, up]))
        elif rest.endswith(".down_proj.weight"):
            stacks.setdefault(f"{stem}.experts.down_proj", []).append(tensor)
    return out | {name: np.stack(stack) for name, stack in stacks.items()}


def store(name: str, dtype: str) -> dict[str, "torch.Tensor"]:
    """The tensors of a checkpoint under the names of its layout, rounded to `dtype`."""
    import torch  # noqa: PLC0415

    tiny = TINY[name]
    tensors = weights(name)
    tensors = _fused(tensors) if tiny.layout == "fused" else tensors
    tensors = dict(tiny.stores(tensors)) if tiny.stores else tensors
    kind: torch.dtype = getattr(torch, dtype)
    named = {_rename(key, [*LAYOUTS[tiny.layout], *tiny.renames]): value for key, value in tensors.items()}
    return {key: torch.from_numpy(np.ascontiguousarray(value)).to(kind) for key, value in named.items()}
