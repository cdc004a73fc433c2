"""`--qlora-base nf4`: the base as training saw it; what the rounding took, against the delta."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapters import PAIR, finished, load, one_thread, source_of, train, write_adapter
from qlora_cases import DOUBLE, GOLDEN, LINEAR, PEFT_LIST, base, lora, source_of_nf4, told, trip
from quantized_files import digest
from safetensors.torch import load_file, save_file
from tiny import make
from trainers import write

from exporter.errors import MergeError, OutputError
from exporter.inspect import inspect_run, render
from exporter.merge.qlora import LayerError, by_layer, warning
from exporter.pipeline import Options, export
from exporter.profiles import load_profile
from exporter.report.numbers import plain
from exporter.run import open_run
from exporter.run.values import FourBit
from exporter.source import open_source
from exporter.source.qlora import quantized as rounded_weights

__all__ = ["base", "lora", "one_thread"]


def test_live_qlora_layers(tmp_path: Path, base: Path) -> None:
    tensors = load_file(GOLDEN / "live.safetensors")
    live = told("live")
    assert live["model"] == "llama"
    run = write_adapter(tmp_path / "run", base, {})
    write(run / "adapter_config.json", json.loads(live["config"]) | {"base_model_name_or_path": str(base)})
    write(run / "config.json", {"quantization_config": json.loads(live["quantization"])})
    save_file({k: v for k, v in tensors.items() if "lora" in k}, run / "adapter_model.safetensors")
    found = {}
    for choice in ("full", "nf4"):
        source = open_source(open_run(run, qlora_base=choice))
        model = load(base)
        model.load_state_dict(finished(source))
        with torch.no_grad():
            found[choice] = float((model(tensors["ids"]).logits - tensors["logits"]).abs().max())
    assert found["nf4"] < 1e-5 * float(tensors["logits"].abs().max())
    assert found["full"] > 1e3 * found["nf4"]


def test_rounded_weights_are_the_live_model_s(base: Path, lora: Path) -> None:
    weights = json.loads(told("live")["weights"])
    source = source_of_nf4(lora)
    shapes = source.shapes()
    assert len(weights) == 2 * len(LINEAR)
    rounded = {f"{name}.weight" for name in weights}
    stored = load_file(base / "model.safetensors")
    for name, shape in shapes.items():
        rows = source._read(0, name, range(shape[0]))
        if name in rounded:
            assert digest(rows) == weights[name.removesuffix(".weight")], name
        else:
            assert rows.equal(stored[name].float()), name


def experts(lora: Path, base: Path) -> set[str]:
    """Which kinds of a Mixtral's weights are rounded."""
    source, stored = source_of_nf4(lora, base), source_of(lora, base)
    shapes = source.shapes()
    changed = {
        name
        for name, shape in shapes.items()
        if not source._read(0, name, range(shape[0])).equal(stored._read(0, name, range(shape[0])))
    }
    return {name.removesuffix(".weight").rpartition(".")[2] for name in changed}


def test_experts(tmp_path: Path) -> None:
    base = make("mixtral", tmp_path / "base")
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    run = write_adapter(tmp_path / "one", base, {})
    with pytest.raises(MergeError, match=r"whether training saw \S+ in 4 bits is not known.*- Transformers 4"):
        source_of_nf4(run, base)
    write(run / "README.md", "QLoRA\n\n### Framework versions\n\n- Transformers 4.57.1\n")
    assert experts(run, base) == attention | {"w1", "w2", "w3", "gate"}
    write(run / "README.md", "QLoRA\n\n### Framework versions\n\n- Transformers: 5.2.0\n")
    assert experts(run, base) == attention
    (run / "README.md").unlink()
    fused = train(
        load(base), tmp_path / "fused", target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"]
    )
    assert experts(fused, base) == attention
    key = "base_model.model.model.layers.0.block_sparse_moe.experts.1.w1.lora_{}.weight"
    pair = {key.format("A"): torch.ones(4, 64), key.format("B"): torch.ones(160, 4)}
    single = write_adapter(
        tmp_path / "single", base, pair, target_modules=["q_proj", "layers.0.block_sparse_moe.experts.1.w1"]
    )
    assert experts(single, base) == attention | {"w1", "w2", "w3", "gate"}


@pytest.mark.parametrize(
    ("entry", "before", "since"),
    [
        ("model.layers.0", True, True),
        ("model.layers.1", False, False),
        ("model.layers.0.mlp.up_proj", True, True),
        ("self_attn", False, False),
        ("mlp", True, False),  # a part of the name
        ("up_proj", False, True),  # its ending
        ("layers.0.mlp.up_proj", True, True),
        ("model.language_model.layers.0.mlp", True, True),
        ("model.layers.0.ml", False, False),
    ],
)
def test_modules_that_stay(entry: str, before: bool, since: bool) -> None:  # noqa: FBT001
    name, shape = "model.layers.0.mlp.up_proj.weight", (160, 64)
    for version, stays in ((4, before), (5, since), (None, before if before == since else None)):
        four_bit = FourBit(skipped=(entry,), transformers=version)
        run: Any = SimpleNamespace(four_bit=four_bit, adapters=(), config={}, family=SimpleNamespace(arch="llama"))
        names, undecided = rounded_weights({name: shape, "model.norm.weight": (64,)}, run, {})
        assert (name in names, name in undecided) == (stays is False, stays is None), version


def test_by_layer() -> None:
    rows = [
        ("model.layers.10.mlp.up_proj.weight", 3.0, 1.0),
        ("model.layers.2.mlp.up_proj.weight", 3.0, 6.0),
        ("model.layers.2.mlp.down_proj.weight", 4.0, 8.0),
        ("lm_head.weight", 0.0, 1.0),
    ]
    layers = by_layer(rows)
    assert [(one.layer, one.weights, one.delta, one.error) for one in layers] == [
        ("2", 2, 5.0, 10.0),
        ("10", 1, 3.0, 1.0),
        ("lm_head.weight", 1, 0.0, 1.0),
    ]
    assert layers[0].ratio == 2.0
    message = warning(layers, over="full")
    assert message is not None
    assert "in 2 of 3 layers" in message
    assert "(median of all layers: 2 times; worst, lm_head.weight: training added nothing)" in message
    assert warning([LayerError("0", 1, 2.0, 1.0)], over="full") is None
    assert by_layer([]) == ()


@pytest.mark.parametrize("choice", ["full", "nf4"])
@pytest.mark.parametrize("size", [0.002, 0.5])
def test_inspect_compares(lora: Path, base: Path, choice: str, size: float) -> None:
    write_adapter(lora, base, {name: torch.full_like(part, size) for name, part in PAIR.items()})
    write(lora / "config.json", {"quantization_config": DOUBLE})
    facts = inspect_run(str(lora), qlora_base=choice)
    block = facts["qlora"]
    assert block["base"] == choice
    assert block["settings"] == "lora-run/config.json"
    (layer,) = block["layers"]
    assert (layer["layer"], layer["weights"]) == ("0", 1)
    weight = load_file(base / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    error = (trip(weight).read("x", 0, 64) - weight.float()).norm()
    assert layer["error"] == pytest.approx(float(error), rel=1e-5)
    assert layer["delta"] == pytest.approx(2 * 4 * size * size * 64, rel=1e-3)
    assert any(one.startswith("QLoRA: in 1 of 1 layers") for one in facts["warnings"]) is (size < 0.01)
    assert f"layer 0: ‖rounding to 4 bits‖ {layer['error']:.4g}, ‖training‖ " in render(facts)


def test_report(lora: Path, base: Path, tmp_path: Path) -> None:
    write_adapter(lora, base, {name: torch.full_like(part, 0.002) for name, part in PAIR.items()})
    write(lora / "README.md", PEFT_LIST + "".join(f"- {key}: {value}\n" for key, value in DOUBLE.items()))
    options = Options(verify=False, threads=1)
    out, levels = tmp_path / "out", [load_profile("q8_0")]
    document: Any = export(str(lora), levels, out, options=options, progress=lambda *_: None)[0]
    facts = inspect_run(str(lora))
    assert document["qlora"] == facts["qlora"]
    assert [one for one in document["warnings"] if one.startswith("QLoRA")]
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "the base in 16 bits" in page
    (layer,) = facts["qlora"]["layers"]
    assert f"| 0 | 1 | {plain(layer['error'])} | {plain(layer['delta'])} |" in page
    rounded = replace(options, qlora_base="nf4")
    with pytest.raises(OutputError, match="of another run"):
        export(str(lora), [load_profile("q4_0")], out, options=rounded, progress=lambda *_: None)
    document = export(str(lora), levels, tmp_path / "nf4", options=rounded, progress=lambda *_: None)[0]
    assert document["run"]["qlora_base"] == "nf4"
    assert "as README.md says" in document["run"]["notes"][-1]
    assert document["qlora"]["base"] == "nf4"
    assert document["qlora"]["layers"][0]["error"] == facts["qlora"]["layers"][0]["error"]
