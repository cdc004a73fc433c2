"""Every family's adapters: a merged checkpoint lies as the base does, and exports to what the adapter itself does."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest
import torch
from adapters import adapted, load, one_thread, quiet, train
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
QUICK = {
    "gpt2", "gptoss", "llama4", "phi3", "mixtral", "mixtral-fused", "qwen3next", "qwen3vlmoe", "granitemoe",
    "internlm2", "deepseek3", "deepseek3-mtp", "gemma4",
}  # fmt: skip
"""One of each way in which weights are stored: turned over, cut, fused, of three axes, with parts that are left out."""


def some_full(names: Iterable[str]) -> list[Any]:
    """The names as parameters of a test, all but `QUICK` of the full run."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in sorted(names)]


def attention(name: str, stored: Mapping[str, torch.Tensor]) -> list[str]:
    """The matrices of a tiny model's attention, as they are stored."""
    found = [key for key, tensor in stored.items() if tensor.dim() == 2 and ATTENTION.search(key)]
    layers = int(TINY[name].config.get("num_hidden_layers", 0)) or 10**6
    beyond = re.compile(rf"\.layers\.({layers})\.")  # the layer that predicts more than one token
    return [key for key in found if not ELSEWHERE.search(key) and not beyond.search(key)]


def adapter(name: str, base: Path, folder: Path) -> tuple[Path, list[str]]:
    """A LoRA adapter of a tiny model's attention; the stored names of what it changes."""
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


@pytest.mark.parametrize("name", some_full(TINY))
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


FAMILY = {architecture: family.name for family in ALL for architecture in family.architectures}
OWN = {"deepseek", "internlm2", "internlm3", "exaone", "baichuan"}
"""Families whose model transformers has not: its authors' own code, which is not run."""
ONE = {FAMILY[tiny.architecture]: name for name, tiny in reversed(TINY.items()) if tiny.loads}
"""A tiny model of each family."""


def of_peft(base: Path, run: Path, out: Path) -> Path:
    """PEFT's merged checkpoint, as transformers saves it, with the base's tokenizer."""
    with quiet():
        adapted(load(base), run).merge_and_unload().save_pretrained(out)
    for file in base.glob("token*"):
        copyfile(file, out / file.name)
    return out


def values(run: Path, out: Path) -> dict[str, Any]:
    """The tensors of a run's f32 file."""
    return {tensor.name: tensor.data for tensor in GGUFReader(written(run, out)[1]["f32"]).tensors}


def test_only_these_have_no_class() -> None:
    assert {family for family, name in ONE.items() if TINY[name].shapes is not None} == OWN


@pytest.mark.parametrize("name", some_full(set(ONE.values()) - {ONE[family] for family in OWN}))
def test_all_linear_modules_of_a_family_export_as_peft_merges_them(name: str, tmp_path: Path) -> None:
    base, run = make(name, tmp_path / "base"), tmp_path / "run"
    train(load(base), run, target_modules="all-linear", exclude_modules=PICTURES)
    theirs = values(of_peft(base, run, tmp_path / "peft"), tmp_path / "theirs")
    ours, before = values(run, tmp_path / "ours"), values(base, tmp_path / "before")
    assert ours.keys() == theirs.keys()
    excess = {key: np.abs(ours[key] - value).max() - 2.0**-22 * np.abs(value).max() for key, value in theirs.items()}
    assert max(excess.values()) <= 0
    matrices = [key for key, value in before.items() if value.ndim > 1 and key.endswith(".weight")]
    changed = [key for key in matrices if not np.array_equal(ours[key], before[key])]
    assert len(changed) > len(matrices) / 4
