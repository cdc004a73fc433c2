"""Adapters whose files are damaged are refused by name, never with a traceback; odd types are cast as by PEFT."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import (
    PAIR,
    by_our_names,
    finished,
    largest_excess,
    load,
    merged,
    one_thread,
    source_of,
    store,
    train,
    write_adapter,
)
from tiny import make

from exporter.errors import MergeError, SourceError
from exporter.report.changed import changed_weights
from exporter.source.files import CAST, TORCH_NAMES

__all__ = ["one_thread"]
MODEL = "base_model.model.model."
Q = f"{MODEL}layers.0.self_attn.q_proj."
ONE = torch.tensor(1.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("llama") / "base")


SCALARS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("base_model.model.lm_head.weight", {"modules_to_save": ["lm_head"]}),
    (f"{MODEL}embed_tokens.base_layer.weight", {}),
    (f"{MODEL}embed_tokens.token_adapter.trainable_tokens_delta", {"trainable_token_indices": [1]}),
    (f"{Q}lora_magnitude_vector", {"use_dora": True}),
    (f"{Q}lora_A.weight", {}),
)


@pytest.mark.parametrize("case", SCALARS, ids=lambda case: case[0])
def test_a_single_number_is_no_tensor_of_a_module(case: tuple[str, dict[str, Any]], base: Path, tmp_path: Path) -> None:
    name, fields = case
    with pytest.raises(MergeError, match=f"{name} is a single number, expected a vector or a matrix"):
        source_of(write_adapter(tmp_path / "run", base, {name: ONE}, **fields))


@pytest.mark.parametrize("shape", [(1, 64), (1,)])
def test_a_norm_has_no_tokens(shape: tuple[int, ...], base: Path, tmp_path: Path) -> None:
    rows = {f"{MODEL}norm.token_adapter.trainable_tokens_delta": torch.zeros(shape)}
    with pytest.raises(MergeError, match=r"names 1 tokens from 1 on, model.norm.weight is \[64\]"):
        source_of(write_adapter(tmp_path / "run", base, rows, trainable_token_indices={"norm": [1]}))


def test_a_pattern_of_layers_must_take_the_number(base: Path, tmp_path: Path) -> None:
    fields = {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["layers|foo"]}
    run = write_adapter(tmp_path / "run", base, {}, **fields)
    with pytest.raises(MergeError, match=r'layers_pattern is \["layers|foo"\], .* without the layer\'s number'):
        source_of(run)


BINS: Mapping[str, Callable[[torch.Tensor], object]] = {
    "meta": lambda one: one.to("meta"),
    "sparse": lambda one: one.to_sparse(),
    "rows": lambda one: one.to_sparse_csr(),
    "nested": lambda one: torch.nested.nested_tensor([one[0], one[1, :2]]),
}


@pytest.mark.filterwarnings("ignore")  # of torch, that such tensors are in beta
@pytest.mark.parametrize("kind", BINS)
def test_a_bin_of_other_than_plain_tensors_is_refused(kind: str, base: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path / "run", base, {})
    (run / "adapter_model.safetensors").unlink()
    torch.save({name: BINS[kind](tensor) for name, tensor in PAIR.items()}, run / "adapter_model.bin")
    with pytest.raises(SourceError, match=r"q_proj.lora_A.weight' is no plain tensor with a name"):
        source_of(run)


def test_a_bin_whose_tensors_have_no_names_is_refused(base: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path / "run", base, {})
    (run / "adapter_model.safetensors").unlink()
    torch.save({**PAIR, 0: ONE}, run / "adapter_model.bin")
    with pytest.raises(SourceError, match="0 is no plain tensor with a name"):
        source_of(run)


def test_a_long_value_is_cut_in_the_message(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match=r'extra is "x+\.\.\. \(3000002 characters\)') as refused:
        source_of(write_adapter(tmp_path / "run", base, {}, extra="x" * 3_000_000))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("name", ["float64", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("fields", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_a_type_that_peft_casts_is_cast(name: str, fields: dict[str, Any], base: Path, tmp_path: Path) -> None:
    assert TORCH_NAMES[f"torch.{name}"] in CAST
    run = train(load(base), tmp_path, target_modules=["q_proj"], **fields)
    store(run, getattr(torch, name))
    before = by_our_names(load(base).state_dict())
    assert largest_excess(finished(source_of(run, base)), merged(load(base), run), before) <= 1


@pytest.mark.parametrize(("half", "shape"), [("A", (3, 64)), ("B", (64, 3))])
def test_the_rank_that_differs_is_named(half: str, shape: tuple[int, int], base: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path / "run", base, {f"{Q}lora_{half}.weight": torch.ones(shape)})
    with pytest.raises(MergeError, match=r"q_proj has rank 3 by its tensors, 4 by adapter_config\.json"):
        source_of(run)


def test_what_changes_nothing_is_not_counted(base: Path, tmp_path: Path) -> None:
    empty = {f"{MODEL}embed_tokens.token_adapter.trainable_tokens_delta": torch.zeros(0, 64)}
    tiny = {name.replace("layers.0", "layers.1"): torch.full_like(one, 1e-25) for name, one in PAIR.items()}
    fields = {"target_modules": ["q_proj"], "trainable_token_indices": []}
    source = source_of(write_adapter(tmp_path / "run", base, empty | tiny, **fields))
    before = changed_weights(source)
    finished(source)
    assert before == changed_weights(source) == ["model.layers.0.self_attn.q_proj.weight"]
    uneven = {f"{Q}lora_A.weight": torch.full((4, 64), 1e-30), f"{Q}lora_B.weight": torch.full((64, 4), 1e28)}
    assert changed_weights(source_of(write_adapter(tmp_path / "uneven", base, uneven))) == before
