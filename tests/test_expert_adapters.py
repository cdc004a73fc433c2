"""Adapters of a model with experts, as PEFT converts them for transformers 5: the same as PEFT's merge."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import (
    Weights,
    by_our_names,
    finished,
    largest_excess,
    load,
    merged,
    one_thread,
    quiet,
    source_of,
    store,
    train,
)
from exported import change_json
from safetensors.torch import load_file
from tiny import make

from exporter.errors import MergeError
from exporter.merge_check import check_merge
from exporter.run import open_run
from exporter.source import open_source

__all__ = ["one_thread"]
EXPERTS = {"mixtral": ("w1", "w3", "w2"), "qwen3moe": ("gate_proj", "up_proj", "down_proj")}
"""What a family calls an expert's modules: gate, up, down."""
SPELLED = ((".block_sparse_moe.", ".mlp."), *((f".{one}.", f".{other}.") for one, other in zip(*EXPERTS.values())))  # noqa: B905


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in EXPERTS}


def _spelled(weights: Weights, name: str) -> Weights:
    """Weights by Mixtral's names, as the family calls them."""
    if name == "mixtral":
        return weights
    for ours, theirs in SPELLED:
        weights = {key.replace(ours, theirs): tensor for key, tensor in weights.items()}
    return weights


def _excess(name: str, base: Path, run: Path) -> float:
    """How far our view of an adapter is from PEFT's merge, in units of what is allowed."""
    expected, before = merged(load(base), run), by_our_names(load(base).state_dict())
    return largest_excess(finished(source_of(run, base)), _spelled(expected, name), _spelled(before, name))


@pytest.mark.parametrize(
    "fields",
    [
        {"alpha_pattern": {"q_proj": 32}},
        {"rank_pattern": {"q_proj": 8}},
        {"alpha_pattern": {"down_proj": 32}},
        {"rank_pattern": {"k_proj": 2}, "use_rslora": True},
    ],
)
@pytest.mark.parametrize("count", [2, 3])  # of gate, up and down
@pytest.mark.parametrize("name", EXPERTS)
def test_plain_modules_beside_experts_that_peft_fused(
    *, name: str, count: int, fields: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    targets = ["q_proj", "k_proj", *EXPERTS[name][:count]]
    train(load(bases[name]), tmp_path, target_modules=targets, task_type="CAUSAL_LM", **fields)
    assert _excess(name, bases[name], tmp_path) <= 1


@pytest.mark.parametrize("key", [r".*\.down_proj", "down_proj", r".*\.q_proj"])
@pytest.mark.parametrize("name", EXPERTS)
def test_a_short_name_of_a_parameter_is_none_of_a_module(
    name: str, key: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"target_modules": ["q_proj"], "target_parameters": ["down_proj"]}
    train(load(bases[name]), tmp_path, alpha_pattern={key: 32}, **fields)
    assert _excess(name, bases[name], tmp_path) <= 1


@pytest.mark.parametrize("fields", [{"target_modules": ["k_proj"]}, {"layers_to_transform": [1]}])
def test_a_module_beside_a_short_name_of_a_parameter_is_checked_too(
    fields: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    train(load(bases["mixtral"]), tmp_path, target_modules=["q_proj"], target_parameters=["down_proj"])
    change_json(tmp_path / "adapter_config.json", **fields)
    with pytest.raises(MergeError, match=r"layers\.0\.self_attn\.q_proj.*PEFT would leave the module as it was"):
        source_of(tmp_path, bases["mixtral"])


@pytest.mark.parametrize("saved", ["mlp", "experts", "layers.1.mlp.experts"])
@pytest.mark.parametrize("name", EXPERTS)
def test_experts_saved_whole_equal_peft(name: str, saved: str, bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases[name]
    train(load(base), tmp_path, target_modules=["q_proj"], modules_to_save=[saved])
    assert _excess(name, base, tmp_path) <= 1
    run = open_run(tmp_path, base=str(base))
    source = open_source(run)
    assert source.changes.tensors == len(load_file(tmp_path / "adapter_model.safetensors"))
    assert sum(".experts." in weight for weight in source.changes.by_weight) == (12 if "." in saved else 24)
    with quiet():
        assert check_merge(run, source, lambda *_: None)["status"] == "pass"


@pytest.mark.parametrize(
    ("count", "message"),
    [(3, r"experts\.down_proj holds 3 experts, the base model has more"), (5, r"experts\.4\.\S+ .*does not have it")],
)
def test_another_number_of_experts_is_refused(count: int, message: str, bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["qwen3moe"]), tmp_path, target_modules=["q_proj"], modules_to_save=["experts"])
    stored = load_file(tmp_path / "adapter_model.safetensors")
    experts = {name: tensor for name, tensor in stored.items() if ".experts." in name}
    store(tmp_path, {name: torch.cat([one, one])[:count].contiguous() for name, one in experts.items()})
    with pytest.raises(MergeError, match=message):
        source_of(tmp_path, bases["qwen3moe"])


def test_fused_experts_that_nobody_says_were_saved_are_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["qwen3moe"]), tmp_path, target_modules=["q_proj"], modules_to_save=["experts"])
    change_json(tmp_path / "adapter_config.json", modules_to_save=None)
    with pytest.raises(MergeError, match=r"experts\.0\.\w+\.weight is of a kind that is not merged"):
        source_of(tmp_path, bases["qwen3moe"])
