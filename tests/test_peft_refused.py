"""PEFT methods, options and damaged files that are refused by name, before a tensor is read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import load, one_thread, source_of
from peft_cases import CASES, FILE, adapters, bases, case, modules, opened, stored, train
from tiny import make

from exporter.errors import MergeError
from exporter.merge.methods import ADDS, AGAIN, BIAS, HEAVY, MERGED, METHODS, NEEDED, RENAMED, WIDEST
from exporter.merge.peft_layers import Module, Stored, open_modules, share_out

__all__ = ["adapters", "bases", "one_thread"]


def test_every_method_is_decided() -> None:
    """A method that a newer PEFT brings is merged with a case above, or refused with a reason, before this passes."""
    from peft import PeftType  # noqa: PLC0415

    today = set(METHODS) - set(RENAMED)
    assert today == {kind.value for kind in PeftType}
    assert {one.method for one in CASES.values()} == {method for method in today if METHODS[method] == MERGED}
    assert all(METHODS[method] == MERGED for method in {*NEEDED, *HEAVY, *ADDS, *BIAS, *WIDEST, *AGAIN})


@pytest.mark.parametrize("method", [method for method, why in METHODS.items() if why != MERGED])
def test_what_cannot_be_merged_is_refused_by_name(method: str) -> None:
    message = refused(Stored({"peft_type": method}, {}, never, Path("run") / FILE))
    assert message.startswith(f"run/{FILE}: the adapter's method is {method}, which ")
    assert METHODS[method] in message


@pytest.mark.parametrize("method", ["NEWEST", None, ["LOHA"]])
def test_unknown_methods_are_refused_by_name(method: object) -> None:
    assert repr(method) in refused(Stored({"peft_type": method}, {}, never, Path(FILE)))


@pytest.mark.parametrize("method", NEEDED)
def test_options_that_leave_out_what_is_needed_are_refused(method: str, bases: dict[str, Path], tmp_path: Path) -> None:
    name, needed, why = NEEDED[method]
    fields = dict(next(one.fields for one in CASES.values() if one.method == method))
    adapter = train(case(method, **(fields | {name: not needed})), bases["llama"], tmp_path)
    message = refused(stored(adapter), bases["llama"])
    assert f"{method} with {name} {not needed}: {why}" in message


def test_vectors_without_their_modules_are_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = train(case("TINYLORA"), bases["llama"], tmp_path)
    assert "TINYLORA with 6 vectors: which module uses which" in refused(stored(adapter), bases["llama"])


def refused(adapter: Stored, base: Path | None = None) -> str:
    with pytest.raises(MergeError) as error:
        opened(adapter, base) if base else share_out(adapter)
    return str(error.value)


def never(name: str) -> torch.Tensor:
    raise AssertionError(name)


Q = "base_model.model.model.layers.0.self_attn.q_proj."
CHANGED: dict[str, tuple[dict[str, object], dict[str, tuple[int, ...] | None], str]] = {
    "no-half": ({}, {Q + "hada_w1_a": None}, "hada_w1_a is not there; expected it as [64, 4]"),
    "one-more": ({}, {Q + "hada_t1": (4, 4)}, "hada_t1 is [4, 4]; expected no such tensor"),
    "rank": ({"r": 5}, {}, "hada_w1_a is [64, 8]; expected it as [64, 5]"),
    "empty": ({}, {Q + "hada_w1_a": (0,)}, "DeepSpeed ZeRO-3"),
    "prefix": ({}, {"model.layers.0.self_attn.q_proj.hada_w1_a": (64, 4)}, "does not begin with 'base_model.model.'"),
    "no-module": ({}, {Q.replace("0", "2") + "hada_w1_a": (64, 4)}, "layers.2.self_attn.q_proj, the base model does"),
    "field": ({"new_scale": 2}, {}, "new_scale is 2 in adapter_config.json, a field that PEFT "),
    "targets": ({"target_modules": ["v_proj"]}, {}, "target_modules of adapter_config.json is v_proj"),
    "layers": ({"layers_to_transform": [1]}, {}, "layers_to_transform of adapter_config.json is [1]"),
    "pattern": ({"rank_pattern": {"(a+)+b": 4}}, {}, "a regular expression that may take for ever"),
    "replicated": ({"layer_replication": [[0, 2]]}, {}, "layer_replication is [[0, 2]]; such an adapter is not merged"),
    "refused-by-peft": ({"r": -1, "rank_pattern": {}}, {}, "PEFT cannot merge model.layers.0"),
    "config": ({"layers_pattern": "h", "target_modules": ".*proj"}, {}, "PEFT cannot merge adapter_config.json"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_damaged_adapters_are_refused_before_a_tensor_is_read(
    name: str, bases: dict[str, Path], adapters: Callable[[str], Path]
) -> None:
    fields, shapes, message = CHANGED[name]
    adapter = stored(adapters("loha"), **fields)
    changed = {key: shape for key, shape in {**adapter.shapes, **shapes}.items() if shape is not None}
    damaged = replace(adapter, shapes=changed, read=never)
    base = modules(load(bases["llama"]).state_dict(), tuple(share_out(adapter).modules))
    with pytest.raises(MergeError) as error:
        open_modules(damaged, base)
    assert message in str(error.value)


def test_another_base_is_refused_before_a_tensor_is_read(adapters: Callable[[str], Path]) -> None:
    for name, one in CASES.items():
        if one.method not in {*HEAVY, "FOURIERFT", "WAVEFT"} and name != "miss-mini":  # the same for any base
            adapter = replace(stored(adapters(name)), read=never)
            wider = {module: Module((512, 320), bias=True) for module in share_out(adapter).modules}
            with pytest.raises(MergeError, match="trained over another base"):
                open_modules(adapter, wider)


@pytest.mark.parametrize("name", ["oft", "osf", "shira", "supertuning", "vblora-top", "waveft"])
def test_a_tensor_that_is_missing_is_found_while_merging_at_the_latest(
    name: str, bases: dict[str, Path], adapters: Callable[[str], Path]
) -> None:
    adapter, state = stored(adapters(name)), load(bases["llama"]).state_dict()
    lost = next(key for key in adapter.shapes if key.startswith(Q))
    fewer = replace(adapter, shapes={key: shape for key, shape in adapter.shapes.items() if key != lost})
    names = share_out(adapter).modules
    module = Q.removeprefix("base_model.model.")[:-1]
    with pytest.raises(MergeError, match=r"is not there; expected it|the file differs in|PEFT cannot merge model|does"):
        open_modules(fewer, modules(state, tuple(names))).merged(module, state[f"{module}.weight"])


def test_a_bias_that_the_base_lacks_is_refused(bases: dict[str, Path], adapters: Callable[[str], Path]) -> None:
    assert "BEFT trained a bias of model.layers.0.self_attn.q_proj" in refused(stored(adapters("beft")), bases["llama"])


def test_merging_needs_what_was_opened(bases: dict[str, Path], adapters: Callable[[str], Path]) -> None:
    ours = opened(stored(adapters("ia3-bias")), bases["llama-bias"])
    with pytest.raises(MergeError, match="without its bias"):
        ours.merged("model.layers.0.self_attn.q_proj", torch.zeros(64, 64))
    with pytest.raises(MergeError, match="with another shape"):
        ours.merged("model.layers.0.self_attn.q_proj", torch.zeros(64, 32), torch.zeros(64))


@pytest.mark.parametrize("variant", [{"velora_config": {"num_groups": 4}}, {"kasa_config": {}}])
def test_variants_of_lora_have_no_bias_of_their_own(variant: dict[str, Any], tmp_path: Path) -> None:
    base = make("llama-bias", tmp_path / "base")
    run = train(case("LORA", target_modules=["q_proj"], lora_bias=True, **variant), base, tmp_path / "run")
    with pytest.raises(MergeError, match=r"lora_bias is true beside \w+_config; such an adapter is not merged"):
        source_of(run, base)


@pytest.mark.parametrize("variant", [{"velora_config": {"num_groups": 2}}, {"kasa_config": {}}])
@pytest.mark.parametrize("more", [{}, {"trainable_token_indices": [3, 7]}])
def test_variants_of_lora_on_a_tied_head_are_refused(
    variant: dict[str, Any], more: dict[str, Any], tmp_path: Path
) -> None:
    base = make("llama-tied", tmp_path / "base")
    run = train(case("LORA", target_modules=["q_proj", "lm_head"], **variant, **more), base, tmp_path / "run")
    with pytest.raises(MergeError, match="of a model in which the two are one"):
        source_of(run, base)
