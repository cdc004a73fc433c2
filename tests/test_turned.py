"""Adapters over weights that lie turned over, or cut, in the base: Conv1D, and fused experts of (inputs, outputs)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import Weights, adapted, finished, largest_excess, load, one_thread, quiet, source_of, store, train
from checkpoints import of_peft, same, state, write
from exported import change_json
from peft_cases import IDS, case
from peft_cases import train as train_other
from safetensors.torch import load_file
from tiny import TINY, make

from converters import ALL
from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError
from exporter.merge_check import check_merge
from exporter.run import open_run
from exporter.source import open_source
from exporter.source.names import is_turned, our_name, our_parts

__all__ = ["one_thread"]
LINEAR = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
BOTH = ["experts.gate_up_proj", "experts.down_proj"]
FILE = "adapter_model.safetensors"


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("turned")
    return {name: make(name, folder / name) for name in ("gpt2", "gptoss", "llama4", "qwen3vlmoe")}


def in_our_names(name: str, weights: Mapping[str, torch.Tensor]) -> Weights:
    """The weights of a transformers model by our names, as they do not lie turned over."""
    family = next(family for family in ALL if TINY[name].architecture in family.architectures)
    ours = {}
    for key, tensor in weights.items():
        parts = our_parts(key, family)
        upright = tensor.transpose(1, 2) if parts and parts[0].turned else tensor
        for part in parts:
            cut = upright[:, part.index :: part.of] if part.mixed else upright.chunk(part.of, dim=1)[part.index]
            ours |= {part.weight.replace("{e}", str(expert)): matrix for expert, matrix in enumerate(cut)}
        if not parts:
            ours[our_name(key, family) or key] = tensor.T if is_turned(key, family) else tensor
    return ours


def beside_peft(name: str, base: Path, run: Path) -> tuple[float, int]:
    """How far our weights are from PEFT's, in units of what is allowed, and how many changed; the proofs must pass."""
    before = finished(source_of(base))
    before = {HEAD: before[EMBEDDING]} | before
    source = source_of(run, base)
    found = finished(source)
    opened = open_run(run, base=str(base))
    assert check_merge(opened, open_source(opened), lambda *_: None)["status"] == "pass"
    with torch.no_grad():
        model = adapted(load(base), run)
        live = model(IDS).logits
        with quiet():
            merged = model.merge_and_unload()
        expected = {key: tensor for key, tensor in in_our_names(name, merged.state_dict()).items() if key in before}
        assert torch.allclose(merged(IDS).logits, live, atol=1e-4 * float(live.std()), rtol=0)
    changed = sum(not found[key].equal(before[key]) for key in found)
    return largest_excess(found, expected, before), changed


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        (LINEAR, 8),
        ({"target_modules": ["c_attn", "c_proj", "c_fc"]}, 8),  # PEFT corrects the flag itself
        ({"target_modules": "all-linear", "fan_in_fan_out": True}, 8),
        (LINEAR | {"use_rslora": True, "rank_pattern": {"c_fc": 2}}, 8),
        (LINEAR | {"use_dora": True}, 8),
        (LINEAR | {"lora_bias": True}, 16),
        (LINEAR | {"bias": "all"}, 21),
        # Whole modules are saved as they lie, also where they are square.
        (LINEAR | {"target_modules": ["c_attn"], "modules_to_save": ["attn.c_proj", "mlp.c_fc"]}, 10),
        (LINEAR | {"target_modules": ["c_attn"], "modules_to_save": ["mlp"]}, 10),
    ],
)
def test_lora_over_conv1d_equals_peft(
    fields: dict[str, Any], changed: int, bases: dict[str, Path], tmp_path: Path
) -> None:
    run = train(load(bases["gpt2"]), tmp_path, **fields)
    assert beside_peft("gpt2", bases["gpt2"], run) == (0, changed)


@pytest.mark.parametrize("form", ["modules_to_save.default.weight", "modules_to_save.weight", "original_module.weight"])
def test_a_saved_copy_of_a_conv1d_may_be_called_otherwise(form: str, bases: dict[str, Path], tmp_path: Path) -> None:
    base, module = bases["gpt2"], "base_model.model.transformer.h.0.attn.c_proj"
    run = train(load(base), tmp_path, **LINEAR | {"target_modules": ["c_attn"], "modules_to_save": ["attn.c_proj"]})
    expected, saved = finished(source_of(run, base)), load_file(run / FILE)[f"{module}.weight"]
    if form.startswith("original"):
        store(run, {f"{module}.{form}": load_file(base / "model.safetensors")["transformer.h.0.attn.c_proj.weight"]})
    else:
        store(run, {f"{module}.weight": None, f"{module}.{form}": saved})
    assert same(finished(source_of(run, base)), expected)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("ADALORA", {"total_step": 100}),
        ("FOURIERFT", {"n_frequency": 50}),
        ("HIRA", {}),
        ("IA3", {"feedforward_modules": ["mlp.c_proj"]}),
        ("VBLORA", {"num_vectors": 16, "vector_length": 16}),
        ("VERA", {"r": 8}),
        ("WAVEFT", {"n_frequency": 50}),
    ],
)
def test_other_methods_over_conv1d_equal_peft(
    method: str, fields: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    targets = {"target_modules": ["c_attn", "c_fc", "mlp.c_proj"]}
    run = train_other(case(method, **targets, **fields), bases["gpt2"], tmp_path)
    assert beside_peft("gpt2", bases["gpt2"], run) == (0, 6 if method != "IA3" else 10)


def test_a_method_that_peft_has_not_for_conv1d_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    run = train_other(case("LOHA"), make("llama", tmp_path / "llama"), tmp_path / "run")
    tensors = load_file(run / FILE)
    kept = {key: value for key, value in tensors.items() if "layers.0.self_attn.q_proj" in key}
    renamed = {
        key.replace("model.layers.0.self_attn.q_proj", "transformer.h.0.attn.c_proj"): t for key, t in kept.items()
    }
    store(run, {**dict.fromkeys(tensors), **renamed})
    change_json(run / "adapter_config.json", target_modules=["h.0.attn.c_proj"])
    with pytest.raises(
        MergeError, match=r"PEFT cannot merge transformer\.h\.0\.attn\.c_proj: .*Conv1D.* not supported"
    ):
        source_of(run, bases["gpt2"])


@pytest.mark.parametrize("name", ["gptoss", "llama4", "qwen3vlmoe"])
def test_lora_on_turned_experts_equals_peft(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    base, run, out = bases[name], tmp_path / "run", tmp_path / "out"
    text = {"exclude_modules": ".*visual.*", "target_modules": ["q_proj"]}
    train(load(base), run, target_parameters=BOTH, rank_pattern={"experts.down_proj": 2}, **text)
    experts = sum(".experts." in key and key.endswith(".weight") for key in source_of(base).shapes())
    excess, changed = beside_peft(name, base, run)
    assert excess == 0
    assert changed == experts + TINY[name].config.get("num_hidden_layers", 2)
    write(run, base, out)
    stored = load_file(base / "model.safetensors")
    assert {key: t.shape for key, t in stored.items()} == {k: t.shape for k, t in load_file(out / FILE[8:]).items()}
    assert same(state(out), of_peft(base, run))


def test_lora_on_what_lies_beside_the_experts_equals_peft(bases: dict[str, Path], tmp_path: Path) -> None:
    beside = [*BOTH, "experts.gate_up_proj_bias", "experts.down_proj_bias", "router.weight"]
    run = train(load(bases["gptoss"]), tmp_path, target_modules=["q_proj"], target_parameters=beside)
    assert beside_peft("gptoss", bases["gptoss"], run) == (0, 4 * (1 + 3 * 4 + 3))


@pytest.mark.parametrize("name", ["gptoss", "llama4"])
def test_a_pair_may_lie_the_other_way_round(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """PEFT exchanges the sides of parameters that transformers does not mark, as its versions did and do not."""
    run = train(exchanged(bases[name]), tmp_path, target_modules=["q_proj"], target_parameters=BOTH)
    base, found = finished(source_of(bases[name])), finished(source_of(run, bases[name]))
    with quiet():
        merged = in_our_names(name, adapted(exchanged(bases[name]), run).merge_and_unload().state_dict())
    assert largest_excess(found, {key: merged[key] for key in found}, base) == 0
    opened = open_run(run, base=str(bases[name]))
    assert check_merge(opened, open_source(opened), lambda *_: None)["status"] == "pass"


def exchanged(base: Path) -> Any:  # noqa: ANN401  (transformers has no public type for it)
    """A model whose experts are marked as lying the other way round."""
    model = load(base)
    for module in model.modules():
        if hasattr(module, "gate_up_proj") and hasattr(module, "num_experts"):
            module.is_transposed = not getattr(module, "is_transposed", False)
    return model


def square(folder: Path) -> Path:
    """gpt-oss as it is published: as many numbers within an expert as outside."""
    import transformers  # noqa: PLC0415  (seconds to import)

    base = make("gptoss", folder)
    change_json(base / "config.json", intermediate_size=64)
    torch.manual_seed(5)
    with quiet():
        model = transformers.GptOssForCausalLM(transformers.AutoConfig.from_pretrained(base))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(base)
    return base


def test_square_experts_lie_as_the_others_of_the_adapter(tmp_path: Path) -> None:
    base = square(tmp_path / "base")
    run = train(load(base), tmp_path / "both", target_modules=["q_proj"], target_parameters=BOTH)
    assert beside_peft("gptoss", base, run)[0] == 0
    run = train(load(base), tmp_path / "down", target_modules=["q_proj"], target_parameters=BOTH[1:])
    with pytest.raises(MergeError, match=r"square \(64 x 64\) and stored turned over, .* no other pair of the adapter"):
        source_of(run, base)
    change_json(run / "adapter_config.json", peft_version="0.18.1")  # which takes every parameter as it lies
    assert beside_peft("gptoss", base, run)[0] == 0
