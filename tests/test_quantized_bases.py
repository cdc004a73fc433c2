"""Bases that are stored quantized: opened, merged and exported like any other, from whatever files."""

from pathlib import Path

import pytest
import torch
from adapters import PAIR, finished, largest_excess, load, merged, source_of, train, write_adapter
from checkpoints import write
from exported import change_json, planned, tensors, written
from quantized_files import WHOLE, case_of, dequantize, whole
from safetensors.torch import load_file, save_file
from tiny import make

from exporter.errors import SourceError
from exporter.run import open_run
from exporter.source import open_source
from exporter.source.files import TensorFiles, open_model
from exporter.source.quantized import dequantized

MODULE = "base_model.model.transformer.h.0.attn.c_proj"
C_PROJ = dict.fromkeys(PAIR) | {
    f"{MODULE}.lora_A.weight": 0.1 * torch.arange(4 * 64.0).reshape(4, 64) / 64,
    f"{MODULE}.lora_B.weight": torch.linspace(-1, 1, 64 * 4).reshape(64, 4),
}


@pytest.mark.parametrize("way", WHOLE)
@pytest.mark.parametrize("model", ["llama", "mixtral"])
def test_a_base_opens_like_any_other(model: str, way: str, tmp_path: Path) -> None:
    folder, expected = whole(model, way, tmp_path)
    source = open_source(open_run(folder))
    assert source.dtypes() == {WHOLE[way][2], "F32"}
    assert source.files() == [folder / "model.safetensors"]
    assert source.shapes() == {name: tuple(weight.shape) for name, weight in expected.items()}
    for name, weight in expected.items():
        assert source.read(name, 0, weight.shape[0]).equal(weight)
        assert source.read(name, 1, 3).equal(weight[1:3])


def test_a_base_is_what_transformers_loads(tmp_path: Path) -> None:
    folder, expected = whole("llama", "fp8", tmp_path)
    state = load(folder).state_dict()
    assert set(state) == set(expected)
    assert all(state[name].equal(weight) for name, weight in expected.items())


@pytest.mark.parametrize(("model", "way"), [*(("llama", way) for way in WHOLE), ("gpt2", "nf4"), ("gpt2", "gptq")])
def test_an_export_is_that_of_the_dequantized_weights(model: str, way: str, tmp_path: Path) -> None:
    folder, expected = whole(model, way, tmp_path / "stored")
    plain = make(model, tmp_path / "plain")
    save_file({name: weight.contiguous() for name, weight in expected.items()}, plain / "model.safetensors")
    files = [written(run, run / "out", ("f32", "q8_0"))[1] for run in (folder, plain)]
    for level in ("f32", "q8_0"):
        assert tensors(files[0][level]) == tensors(files[1][level])


@pytest.mark.parametrize("way", ["nf4", "gptq"])
def test_a_quantized_conv1d_is_merged_as_the_base_would_hold_it_plain(way: str, tmp_path: Path) -> None:
    folder, expected = whole("gpt2", way, tmp_path / "stored")
    made = write_adapter(tmp_path / "run", folder, C_PROJ, target_modules=["h.0.attn.c_proj"])
    write(made, folder, tmp_path / "out", dtype="f32")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == {name for name in expected if not name.endswith(".attn.bias")}
    trained = "transformer.h.0.attn.c_proj.weight"
    assert all(found[name].equal(expected[name]) == (name != trained) for name in found)
    change = (C_PROJ[f"{MODULE}.lora_B.weight"] @ C_PROJ[f"{MODULE}.lora_A.weight"]).T
    assert torch.allclose(found[trained], expected[trained] + 2 * change, atol=1e-6)


def test_a_conv1d_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder, _ = whole("gpt2", "fp8", tmp_path)
    with pytest.raises(SourceError, match=r"c_attn.weight: is stored as fp8 .* which axis of such a Conv1D"):
        open_source(open_run(folder))


def test_the_reference_is_in_f16_only_where_all_is_stored_so(tmp_path: Path) -> None:
    assert planned(make("llama", tmp_path / "f16", dtype="float16"), "q8_0", verify=True).reference == "f16"
    folder, _ = whole("llama", "gptq", tmp_path / "gptq", dtype="float16")
    assert open_source(open_run(folder)).dtypes() == {"F16", "int4 (GPTQ)"}
    assert planned(folder, "q8_0", verify=True).reference == "bf16"


def test_an_adapter_over_a_quantized_base(tmp_path: Path) -> None:
    folder, expected = whole("llama", "fp8", tmp_path / "base")
    adapter = train(load(folder), tmp_path / "adapter", r=4, target_modules=["q_proj", "down_proj"])
    theirs = merged(load(folder), adapter)
    ours = finished(source_of(adapter, folder))
    assert largest_excess(ours, theirs, expected) <= 1


def test_key_value_scales_are_left_out_and_said(tmp_path: Path) -> None:
    folder, _ = whole("llama", "fp8", tmp_path)
    parts = load_file(folder / "model.safetensors")
    save_file(parts | {"model.layers.0.self_attn.k_scale": torch.ones(1)}, folder / "model.safetensors")
    assert open_source(open_run(folder)).left_out == ("scales of a quantized key-value cache",)


def test_without_settings_nothing_changes(tmp_path: Path) -> None:
    files = open_model(make("llama", tmp_path))
    assert dequantized(files, None, "base") is files
    assert isinstance(files, TensorFiles)


def test_settings_of_compressed_tensors_that_left_the_weights_plain(tmp_path: Path) -> None:
    base = make("llama", tmp_path)
    settings = {"quant_method": "compressed-tensors", "config_groups": {}, "format": "dense"}
    change_json(base / "config.json", quantization_config=settings | {"quantization_status": "frozen"})
    assert open_source(open_run(base)).dtypes() == {"F32"}


def test_parts_may_lie_in_different_shards(tmp_path: Path) -> None:
    parts, case = case_of("bnb_nf4_nested")
    expected = dequantize(parts, case["settings"], tmp_path / "one")
    folder = tmp_path / "two"
    folder.mkdir()
    names = sorted(parts)
    for number, shard in enumerate((names[:3], names[3:]), 1):
        save_file({name: parts[name] for name in shard}, folder / f"model-0000{number}-of-00002.safetensors")
    files = dequantized(open_model(folder), case["settings"], "base")
    assert files.read("x.weight", (slice(None),)).equal(expected)
    assert len(files.files()) == 2


def test_weights_in_pytorch_files(tmp_path: Path) -> None:
    for name in ("gptq_4", "bnb_nf4_nested", "ct_fp8_block"):
        parts, case = case_of(name)
        expected = dequantize(parts, case["settings"], tmp_path / name)
        folder = tmp_path / f"{name}.old"
        folder.mkdir()
        torch.save(parts, folder / "pytorch_model.bin")
        files = dequantized(open_model(folder), case["settings"], "base")
        assert files.read("x.weight", (slice(None),)).equal(expected)
