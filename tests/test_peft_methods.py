"""Every PEFT method is merged by PEFT's own layer, one module at a time, and equals `merge_and_unload`."""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapters import load, one_thread, store
from peft_cases import CASES, adapters, bases, by_peft, case, finished, furthest, logits, modules, opened, stored, train

from exporter.merge.methods import ADDS
from exporter.merge.peft_layers import Module, notes, open_modules, share_out

__all__ = ["adapters", "bases", "one_thread"]


@pytest.mark.parametrize("name", CASES)
def test_every_method_equals_peft(name: str, bases: dict[str, Path], adapters: Callable[[str], Path]) -> None:
    base, adapter = bases[CASES[name].base], adapters(name)
    ours = opened(stored(adapter), base)
    before = load(base).state_dict()
    live, expected = by_peft(base, adapter)
    found = finished(ours, before)
    assert furthest(found, expected, before) <= 1
    changed = {key.rpartition(".")[0] for key in before if not expected[key].equal(before[key])}
    assert changed == set(ours.modules)
    assert torch.allclose(logits(base, found), live, atol=1e-4 * float(live.std()), rtol=0)
    biases = {key for key in before if key.endswith(".bias") and not expected[key].equal(before[key])}
    assert not biases or ours.changes_bias
    assert set(stored(adapter).shapes) == {*ours.parts.shared, *ours.parts.others}.union(*ours.parts.modules.values())


@pytest.mark.parametrize("name", CASES)
def test_what_adds_adds_the_same_to_any_weight(
    name: str, bases: dict[str, Path], adapters: Callable[[str], Path]
) -> None:
    base = bases[CASES[name].base]
    ours, state = opened(stored(adapters(name)), base), load(base).state_dict()
    module = ours.modules[0]
    weight, bias = state[f"{module}.weight"], state.get(f"{module}.bias")
    change = ours.merged(module, weight, bias).weight - weight
    alone = ours.merged(module, torch.zeros_like(weight), bias).weight
    adds = torch.allclose(change, alone, rtol=0, atol=1e-4 * float(change.abs().max()))
    assert adds == (ours.method in ADDS or name in {"beft", "lora-bd", "lora-velora", "miss", "miss-mini"})
    assert ours.adds == (ours.method in ADDS)


@pytest.mark.parametrize("name", ["loha", "vera", "delora", "glora", "osf"])
def test_16_bit_adapters_equal_peft(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases[CASES[name].base]
    adapter = store(train(CASES[name], base, tmp_path), torch.bfloat16)
    before = load(base).state_dict()
    assert furthest(finished(opened(stored(adapter), base), before), by_peft(base, adapter)[1], before) <= 1


@pytest.mark.parametrize("name", ["miss", "miss-bat"])
def test_bone_is_miss_by_another_name(name: str, bases: dict[str, Path], adapters: Callable[[str], Path]) -> None:
    """As PEFT 0.18 wrote it: its merge of what it trained with each of these options differed by 0."""
    miss = stored(adapters(name), peft_type="BONE")
    old = {key.replace(".miss_", ".bone_"): key for key in miss.shapes}
    config = {key: value for key, value in miss.config.items() if key not in {"mini_r", "miss_dropout"}}
    shapes = {key: miss.shapes[stored] for key, stored in old.items()}
    bone = opened(replace(miss, config=config, shapes=shapes, read=lambda key: miss.read(old[key])), bases["llama"])
    before = load(bases["llama"]).state_dict()
    assert all(key in old for names in bone.parts.modules.values() for key in names)
    assert furthest(finished(bone, before), by_peft(bases["llama"], adapters(name))[1], before) == 0


def test_trained_tokens_change_a_tied_head_too(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = train(CASES["trainable-tokens"], bases["qwen2"], tmp_path)
    before = load(bases["qwen2"]).state_dict()
    ours = opened(stored(adapter), bases["qwen2"])
    assert set(ours.modules) == {"model.embed_tokens", "lm_head"}
    found = finished(ours, before)
    assert furthest(found, by_peft(bases["qwen2"], adapter)[1], before) == 0
    assert found["lm_head.weight"].equal(found["model.embed_tokens.weight"])


def test_what_is_not_the_methods_own_is_left_to_the_caller(bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases["llama-bias"]
    one = case("OFT", "llama-bias", oft_block_size=4, bias="all", modules_to_save=["lm_head"])
    adapter = train(one, base, tmp_path)
    ours, before = opened(stored(adapter), base), load(base).state_dict()
    expected, kept = by_peft(base, adapter)[1], stored(adapter)
    others = {name.removeprefix("base_model.model.").replace(".base_layer", ""): name for name in ours.parts.others}
    assert set(others) == {"lm_head.weight"} | {name for name in before if name.endswith(".bias")}
    found = finished(ours, before) | {name: kept.read(other) for name, other in others.items()}
    assert furthest(found, expected, before) <= 1


def test_what_is_made_again_is_said(bases: dict[str, Path], adapters: Callable[[str], Path]) -> None:
    said = {name for name, one in CASES.items() if notes(opened(stored(adapters(name)), bases[one.base]))}
    again = ("fourierft", "osf", "waveft")
    assert said == {name for name in CASES if "redrawn" in name or name.startswith(again)} | {"randlora-sparse"}


@pytest.mark.parametrize("name", ["fourierft", "osf", "vera-redrawn"])
def test_threads_and_the_random_generator_change_nothing(
    name: str, bases: dict[str, Path], adapters: Callable[[str], Path]
) -> None:
    ours, state = opened(stored(adapters(name)), bases["llama"]), load(bases["llama"]).state_dict()
    copies = {key: tensor.clone() for key, tensor in state.items()}
    alone = finished(ours, state)
    torch.manual_seed(11)
    with ThreadPoolExecutor(4) as pool:
        together = [done.result() for done in [pool.submit(finished, ours, state) for _ in range(4)]]
    drawn = torch.rand(3)
    torch.manual_seed(11)
    assert drawn.equal(torch.rand(3))
    assert all(one[key].equal(alone[key]) for one in together for key in alone)
    assert all(state[key].equal(copies[key]) for key in state)


@pytest.mark.parametrize("name", ["vera", "vera-redrawn", "loha", "hira"])
def test_no_memory_of_the_bases_size_is_held(
    name: str, bases: dict[str, Path], adapters: Callable[[str], Path]
) -> None:
    """Beside a module of a terabyte, a small one is merged; afterwards nothing of a weight's size is left."""
    huge, small = "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.q_proj"
    adapter, size = stored(adapters(name)), 500_000
    grown = {64: size, 160: size}
    tensors = {
        key: torch.zeros([grown.get(n, n) for n in shape])
        if huge in key or key.startswith("base_model.vera")
        else adapter.read(key)
        for key, shape in adapter.shapes.items()
    }
    wide = replace(
        adapter, shapes={key: tuple(tensor.shape) for key, tensor in tensors.items()}, read=tensors.__getitem__
    )
    state = load(bases["llama"]).state_dict()
    base = modules(state, tuple(share_out(adapter).modules)) | {huge: Module((size, size))}
    before = large()
    ours = open_modules(wide, base)
    assert ours.merged(small, state[f"{small}.weight"]).weight.shape == (64, 64)
    assert large() <= before


def large() -> set[int]:
    """Where tensors lie that hold as much as the smallest weight, a q_proj."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    return {one.untyped_storage().data_ptr() for one in tensors if one.untyped_storage().nbytes() >= 4 * 64 * 64}
