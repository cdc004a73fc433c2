"""The weights of tiny models as their generator gives them, and their stored files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from tiny import TINY, weights
from tiny.values import Array

Weights = Mapping[str, torch.Tensor]
Dtype = Literal["float32", "float16", "bfloat16"]
# Our spelling of the names that `tiny.weights` gives to Mixtral's experts.
EXPERTS = {".mlp.": ".block_sparse_moe.", ".gate_proj.": ".w1.", ".down_proj.": ".w2.", ".up_proj.": ".w3."}


def load_stored(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file  # noqa: PLC0415

    return load_file(folder / "model.safetensors")


def save_stored(tensors: Weights, folder: Path) -> Path:
    from safetensors.torch import save_file  # noqa: PLC0415

    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def expected_weights(name: str, dtype: str) -> dict[str, torch.Tensor]:
    """The weights of a tiny model as its generator gives them, rounded to a type, in our spelling."""
    kind: torch.dtype = getattr(torch, dtype)
    found = {}
    for key, array in weights(name).items():
        ours = key.removeprefix("language_model.")
        for old, new in EXPERTS.items() if TINY[name].config["model_type"] == "mixtral" and ".mlp." in key else ():
            ours = ours.replace(old, new)
        if TINY[name].layout == "turned" and ".experts." in key and array.ndim == 3:
            found |= {k: torch.from_numpy(v).to(kind).to(torch.float32) for k, v in _experts(key, array).items()}
        elif not key.startswith(("vision_tower.", "vision_model.", "multi_modal_projector.", "model.visual.")):
            found[ours] = torch.from_numpy(array).to(kind).to(torch.float32)
    return found


def _experts(key: str, array: Array) -> dict[str, Array]:
    """Each expert's matrices of a tensor (experts, inputs, outputs); gpt-oss has gate and up in turn."""
    stem, _, joined = key.rpartition(".")
    made = {}
    for e, matrix in enumerate(array.transpose(0, 2, 1)):
        half = len(matrix) // 2
        gate_up = (matrix[::2], matrix[1::2]) if ".mlp." in key else (matrix[:half], matrix[half:])
        parts = (matrix,) if joined == "down_proj" else gate_up
        made |= {f"{stem}.{e}.{p}_proj.weight": v.copy() for p, v in zip(joined[:-5].split("_"), parts, strict=True)}
    return made


def equal_weights(found: Weights, expected: Weights) -> bool:
    return found.keys() == expected.keys() and all(found[key].equal(expected[key]) for key in expected)
