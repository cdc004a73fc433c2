"""Every family's adapters: a merged checkpoint lies as the base does, and exports to what the adapter itself does."""

import re
from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest
import torch
from adapters import load, one_thread, quiet, train
from checkpoints import write
from exported import metadata, tensors, written
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from tiny import TINY, make

from converters import ALL
from exporter.source.names import is_turned

__all__ = ["one_thread"]
RANK, SCALE = 4, 2.0
ATTENTION = re.compile(r"(?:attn|attention|linear_attn)\.\w+\.weight$")
ELSEWHERE = re.compile(r"vis(?:ion|ual)|multi_modal|audio|mtp|norm")
PICTURES = ".*(?:vision|visual|multi_modal|audio).*"
DROPPED = (".attn.bias", ".masked_bias", ".inv_freq")
"""Buffers that old checkpoints hold beside their weights, and no model is made of."""


def attention(name: str, stored: Mapping[str, torch.Tensor]) -> list[str]:
    """The matrices of a tiny model's attention, as they are stored."""
    found = [key for key, tensor in stored.items() if tensor.dim() == 2 and ATTENTION.search(key)]
    layers = int(TINY[name].config.get("num_hidden_layers", 0)) or 10**6
    beyond = re.compile(rf"\.layers\.({layers})\.")  # the layer that predicts more than one token
    return [key for key in found if not ELSEWHERE.search(key) and not beyond.search(key)]


def adapter(name: str, base: Path, folder: Path) -> tuple[Path, list[str]]:
    """A LoRA adapter of a tiny model's attention; the stored names of what it changes."""
    import json

    folder.mkdir()
    family = next(family for family in ALL if TINY[name].architecture in family.architectures)
    stored = load_file(base / "model.safetensors")
    changed = attention(name, stored)
    generator = torch.Generator().manual_seed(7)
    made = {}
    for key in changed:
        rows, columns = stored[key].shape[:: -1 if is_turned(key, family) else 1]
        module = f"base_model.model.{key.removesuffix('.weight')}"
        made[f"{module}.lora_A.weight"] = 0.1 * torch.randn(RANK, columns, generator=generator)
        made[f"{module}.lora_B.weight"] = 0.1 * torch.randn(rows, RANK, generator=generator)
    save_file(made, folder / "adapter_model.safetensors")
    targets = sorted({key.split(".")[-2] for key in changed})
    fields = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK * SCALE, "target_modules": targets}
    config = {**fields, "bias": "none", "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder, changed


def beyond_general(file: Path) -> dict[str, Any]:
    return {key: value for key, value in metadata(GGUFReader(file)).items() if not key.startswith("general.")}


@pytest.mark.parametrize("name", TINY)
def test_a_merged_checkpoint_lies_as_the_base_and_exports_the_same(name: str, tmp_path: Path) -> None:
    base, out = make(name, tmp_path / "base"), tmp_path / "merged"
    run, changed = adapter(name, base, tmp_path / "run")
    assert changed
    write(run, base, out, dtype="f32")
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    kept = {key for key in before if not key.endswith(DROPPED)}
    assert kept == set(after)
    assert {key: before[key].shape for key in kept} == {key: tensor.shape for key, tensor in after.items()}
    assert {key for key in kept if not before[key].equal(after[key])} == set(changed)
    direct = written(run, tmp_path / "direct")[1]["f32"]
    again = written(out, tmp_path / "again")[1]["f32"]
    assert tensors(direct) == tensors(again)
    assert beyond_general(direct) == beyond_general(again)
