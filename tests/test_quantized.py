"""Stored quantized bases: every scheme's weights as the libraries dequantize them, by any range of rows."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from adapters import finished, largest_excess, load, merged, source_of, train
from exported import change_json, planned, tensors, written
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import make
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from exporter.errors import SourceError
from exporter.run import open_run
from exporter.source import open_source
from exporter.source.files import TensorFiles, open_model
from exporter.source.quantized import Dequantized, dequantized
from exporter.source.quantized.bitsandbytes import NF4

GOLDEN = sorted((Path(__file__).parent / "reference" / "quantized").glob("*.safetensors"))
Settings = dict[str, Any]
Dtype = Literal["float32", "float16"]


def stem(file: Path) -> str:
    return file.stem


def case_of(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The stored tensors of a golden file, and what the library made of them."""
    file = next(file for file in GOLDEN if file.stem == name)
    with safe_open(file, framework="pt") as opened:
        return load_file(file), json.loads(opened.metadata()["case"])


def stored(tensors: Mapping[str, torch.Tensor], settings: Settings, folder: Path) -> Dequantized:
    """A folder with these tensors, opened."""
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    opened = dequantized(open_model(folder), settings, "base")
    assert isinstance(opened, Dequantized)
    return opened


def check_ranges(files: Dequantized, name: str, whole: torch.Tensor, expert: int | None = None) -> None:
    """Any range of rows is those rows of the whole."""
    rows = whole.shape[0]
    for start, stop in ((0, 1), (rows - 1, rows), (1, rows), (rows // 3, rows // 2 + 1), (3, rows + 9), (5, 5)):
        index = (slice(start, stop),) if expert is None else (expert, slice(start, stop))
        assert files.read(name, index).equal(whole[start:stop]), (start, stop)


@pytest.mark.parametrize("file", GOLDEN, ids=stem)
def test_as_the_library_dequantizes(file: Path, tmp_path: Path) -> None:
    tensors, case = case_of(file.stem)
    files = stored(tensors, case["settings"], tmp_path)
    assert {name: (one.shape, one.dtype) for name, one in files.tensors.items()} == {
        "x.weight": (tuple(case["shape"]), case["word"])
    }
    weight = files.read("x.weight", (slice(None),))
    assert weight.dtype == torch.float32
    # Where the library computes in 16 bits, a product of two numbers of so few bits is exact in float32: rounding ours
    # once is what it does.
    theirs = weight.to(getattr(torch, case["dtype"])).contiguous()
    assert theirs[0, :8].tolist() == case["first"]
    assert hashlib.sha256((theirs + 0).view(torch.uint8).numpy().tobytes()).hexdigest() == case["sha256"]
    check_ranges(files, "x.weight", weight)


def test_every_kind_of_scheme_was_recorded() -> None:
    assert {case_of(file.stem)[1]["word"] for file in GOLDEN} == {
        *("nf4 (bitsandbytes)", "fp4 (bitsandbytes)", "int8 (bitsandbytes)", "int4 (AWQ)", "fp8 (compressed-tensors)"),
        *("int2 (GPTQ)", "int3 (GPTQ)", "int4 (GPTQ)", "int8 (GPTQ)"),
        *("int3 (compressed-tensors)", "int4 (compressed-tensors)", "int8 (compressed-tensors)"),
    }


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7)) * 0.05


def fp8(settings: Settings, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A weight as transformers stores it, and as it dequantizes that."""
    told = SimpleNamespace(**({"weight_block_size": None, "scale_fmt": "float"} | settings))
    made = Fp8Quantize(SimpleNamespace(quantization_config=told)).convert({"x.weight": weight})
    back = Fp8Dequantize(None)._dequantize_one(made["x.weight"], made["x.weight_scale_inv"], torch.float32)
    return made, back


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_block_size": [128, 128]},
        {"weight_block_size": [1, 32]},
        {"weight_block_size": [128, 128], "scale_fmt": "ue8m0"},
        {"weight_block_size": None},
        {"weight_block_size": [1, 384]},  # a scale for each row
    ],
    ids=str,
)
def test_fp8_as_transformers(settings: Settings, tmp_path: Path) -> None:
    tensors, expected = fp8(settings, random(256, 384))
    files = stored(tensors, {"quant_method": "fp8", "activation_scheme": "dynamic"} | settings, tmp_path)
    assert files.words == {"fp8 (fine-grained)"}
    assert files.read("x.weight", (slice(None),)).equal(expected)
    check_ranges(files, "x.weight", expected)


def test_fp8_exponents_stored_as_bytes(tmp_path: Path) -> None:
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
    tensors, expected = fp8(settings, random(256, 128))
    tensors["x.weight_scale_inv"] = tensors["x.weight_scale_inv"].view(torch.uint8)
    theirs = Fp8Dequantize(None)._dequantize_one(tensors["x.weight"], tensors["x.weight_scale_inv"], torch.float32)
    assert theirs.equal(expected)
    assert stored(tensors, settings, tmp_path).read("x.weight", (slice(None),)).equal(expected)
    with pytest.raises(SourceError, match=r"weight_scale_inv is U8 \[2, 1\], expected F32 or BF16"):
        stored(tensors, settings | {"scale_fmt": "float"}, tmp_path)


def test_fp8_of_fused_experts(tmp_path: Path) -> None:
    settings = {"quant_method": "fp8", "weight_block_size": [16, 32]}
    told = SimpleNamespace(weight_block_size=[16, 32], scale_fmt="float")
    made = Fp8Quantize(SimpleNamespace(quantization_config=told)).convert({"x.gate_up_proj": random(3, 32, 64)})
    assert set(made) == {"x.gate_up_proj", "x.gate_up_proj_scale_inv"}
    expected = Fp8Dequantize(None)._dequantize_one(*made.values(), torch.float32)
    made["x.gate_up_proj_activation_scale"] = torch.ones(3)
    files = stored(made, settings, tmp_path)
    assert files.left_out == ("scales of quantized activations",)
    for expert in range(3):
        check_ranges(files, "x.gate_up_proj", expected[expert], expert)
    one = {"x.down_proj": made["x.gate_up_proj"], "x.down_proj_scale_inv": torch.tensor([1.0, 2.0, 3.0])}
    files = stored(one, {"quant_method": "fp8", "weight_block_size": None}, tmp_path)
    for expert in range(3):  # a scale for each expert
        check_ranges(files, "x.down_proj", made["x.gate_up_proj"][expert].float() * (expert + 1), expert)


def test_fp8_blocks_are_cut_off_at_the_edge(tmp_path: Path) -> None:
    # DeepSeek's 576 rows in blocks of 128: five rows of scales, the last one for 64. 192 rows have two, not 2 x 96.
    for rows, columns in ((576, 192), (192, 128)):
        weight = random(rows, columns).to(torch.float8_e4m3fn)
        scales = random(-(-rows // 128), -(-columns // 128)).abs()
        spread = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
        for told in ({"weight_block_size": [128, 128]}, {}):  # transformers' default
            settings = {"quant_method": "fp8", **told}
            files = stored({"x.weight": weight, "x.weight_scale_inv": scales}, settings, tmp_path)
            check_ranges(files, "x.weight", weight.float() * spread)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fbgemm(dtype: torch.dtype, tmp_path: Path) -> None:
    weight, scales = random(48, 32).to(dtype), random(48, 1).abs()
    tensors = {"x.weight": weight, "x.weight_scale": scales, "x.input_scale_ub": torch.tensor([1200.0])}
    files = stored(tensors, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, tmp_path)
    assert files.words == {"fp8 (FBGEMM)"}
    assert files.left_out == ("scales of quantized activations",)
    check_ranges(files, "x.weight", weight.float() * scales)


def test_mxfp4_as_transformers(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(8)
    blocks = torch.randint(0, 256, (2, 24, 3, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(100, 140, (2, 24, 3), generator=generator, dtype=torch.uint8)
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert expected.shape == (2, 96, 24)
    tensors = {"x.gate_up_proj_blocks": blocks, "x.gate_up_proj_scales": scales, "x.gate_up_proj_bias": random(2, 24)}
    files = stored(tensors, {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens"]}, tmp_path)
    assert files.words == {"mxfp4 (gpt-oss)"}
    assert files.tensors["x.gate_up_proj"].shape == (2, 96, 24)
    assert files.tensors["x.gate_up_proj_bias"].dtype == "F32"
    for expert in range(2):
        check_ranges(files, "x.gate_up_proj", expected[expert], expert)
        for columns in (slice(0, 24), slice(5, 6), slice(8, 20, 2), slice(9, 9)):
            assert files.read("x.gate_up_proj", (expert, slice(None), columns)).equal(expected[expert][:, columns])
    with pytest.raises(TypeError, match="is not read by"):
        files.read("x.gate_up_proj", (0, slice(1, 2), slice(0, 3)))


def test_columns_of_weights_that_are_quantized_by_rows(tmp_path: Path) -> None:
    tensors, expected = fp8({"weight_block_size": [16, 32]}, random(64, 96))
    files = stored(tensors, {"quant_method": "fp8", "weight_block_size": [16, 32]}, tmp_path)
    for columns in (slice(0, 96), slice(31, 65), slice(7, 90, 2)):
        assert files.read("x.weight", (slice(None), columns)).equal(expected[:, columns])


def test_gptq_second_version_has_zero_points_as_they_are(tmp_path: Path) -> None:
    tensors, case = case_of("gptq_4")
    first = stored(tensors, case["settings"], tmp_path).read("x.weight", (slice(None),))
    words = tensors["x.qzeros"].view(torch.uint8)
    low, high = ((words & 15) + 1) & 15, ((words >> 4) + 1) & 15
    tensors["x.qzeros"] = (low | (high << 4)).view(torch.int32)
    for key, word in (("checkpoint_format", "gptq_v2"), ("format", "GPTQ_V2")):
        files = stored(tensors, case["settings"] | {key: word}, tmp_path)
        assert files.read("x.weight", (slice(None),)).equal(first)


def test_gptq_zero_points_that_libraries_read_differently(tmp_path: Path) -> None:
    # AutoGPTQ 0.7.1: 15 + 1 is 0 in qlinear_cuda_old, and 16 in qlinear_cuda, marlin and triton.
    tensors_there, case = case_of("gptq_4")
    tensors_there["x.qzeros"][1, 2] = 0x000F0000
    files = stored(tensors_there, case["settings"], tmp_path)
    with pytest.raises(SourceError, match=r"^base: x\.qzeros holds a zero point of all ones.*some 16.*--base"):
        files.read("x.weight", (slice(None),))
    assert files.read("x.weight", (slice(0, 16),)).shape == (16, 96)
    second = stored(tensors_there, case["settings"] | {"checkpoint_format": "gptq_v2"}, tmp_path)
    assert second.read("x.weight", (slice(None),)).shape == (64, 96)


def test_gptq_groups_in_order(tmp_path: Path) -> None:
    tensors, case = case_of("gptq_4")
    expected = stored(tensors, case["settings"], tmp_path).read("x.weight", (slice(None),))
    zeros = tensors | {"x.g_idx": torch.zeros_like(tensors["x.g_idx"])}  # how older writers said: in order
    without = {name: tensor for name, tensor in tensors.items() if name != "x.g_idx"}
    for form in (zeros, without):
        assert stored(form, case["settings"], tmp_path).read("x.weight", (slice(None),)).equal(expected)


def test_compressed_tensors_groups_out_of_order(tmp_path: Path) -> None:
    tensors, case = case_of("ct_int4_zeros")
    order = torch.arange(96) // 32
    order = order[torch.randperm(96, generator=torch.Generator().manual_seed(9))].to(torch.int32)
    files = stored(tensors | {"x.weight_g_idx": order}, case["settings"], tmp_path)
    packed = tensors["x.weight_packed"].view(torch.uint8)
    numbers = torch.stack((packed & 15, packed >> 4), -1).flatten(-2).float()
    points = tensors["x.weight_zero_point"].T.contiguous().view(torch.uint8)
    zeros = torch.stack((points & 15, points >> 4), -1).flatten(-2).float().T
    groups = order.long()
    expected = (numbers - zeros[:, groups]) * tensors["x.weight_scale"][:, groups]
    check_ranges(files, "x.weight", expected)
    unused = tensors | {"x.weight_g_idx": torch.full((96,), -1, dtype=torch.int32)}
    plain = stored(tensors, case["settings"], tmp_path).read("x.weight", (slice(None),))
    assert stored(unused, case["settings"], tmp_path).read("x.weight", (slice(None),)).equal(plain)
    settings = json.loads(json.dumps(case["settings"]))
    for order_word in ("group", "DYNAMIC", True):
        settings["config_groups"]["group_0"]["weights"]["actorder"] = order_word
        with pytest.raises(SourceError, match=r"x\.weight_g_idx is missing, but .*actorder"):
            stored(tensors, settings, tmp_path)


def test_compressed_tensors_several_schemes(tmp_path: Path) -> None:
    four, case = case_of("ct_int4")
    eight, other = case_of("ct_fp8_channel")
    both = {name.replace("x.", "model.mlp."): tensor for name, tensor in four.items()}
    both |= {name.replace("x.", "model.attn."): tensor for name, tensor in eight.items()}
    groups = {
        "experts": case["settings"]["config_groups"]["group_0"]
        | {"targets": ["re:.*mlp$"], "format": "pack-quantized"},
        "attention": other["settings"]["config_groups"]["group_0"],  # every Linear: a pattern goes before a class
    }
    settings = case["settings"] | {"config_groups": groups, "format": "mixed-precision"}
    files = stored(both, settings, tmp_path)
    assert {name: one.dtype for name, one in files.tensors.items()} == {
        "model.mlp.weight": "int4 (compressed-tensors)",
        "model.attn.weight": "fp8 (compressed-tensors)",
    }
    groups["attention"]["targets"] = ["model.other"]
    with pytest.raises(SourceError, match=r"model\.attn is stored quantized, and 0 of 2 schemes"):
        stored(both, settings, tmp_path)


PLAIN = {"embed_tokens", "lm_head", "gate"}


def as_fp8(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A weight as transformers stores it in FP8, and as it dequantizes that."""
    parts, back = fp8({"weight_block_size": [8, 16]}, weight)
    return {part.replace("x.weight", name): value for part, value in parts.items()}, back


def as_nf4(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A weight as bitsandbytes stores it in NF4 without nested scales, written out."""
    table = torch.tensor(NF4)
    blocks = weight.reshape(-1, 64)
    scales = blocks.abs().amax(1)
    codes = torch.bucketize(blocks / scales[:, None], (table[1:] + table[:-1]) / 2)
    octets = (codes.reshape(-1, 2)[:, :1] << 4 | codes.reshape(-1, 2)[:, 1:]).to(torch.uint8)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": list(weight.shape)}
    told = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    parts = {"": octets, ".absmax": scales, ".quant_map": table.clone(), ".quant_state.bitsandbytes__nf4": told}
    return {name + key: part for key, part in parts.items()}, (table[codes] * scales[:, None]).reshape(weight.shape)


def as_gptq(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A weight as GPTQ stores it in 4 bits, groups of 16, rounded to nearest, written out."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, -1, 16)
    scales = (groups.amax(-1) - groups.amin(-1)).div(15).half().float()
    zeros = (-groups.amin(-1) / scales).round().clamp(1, 15)
    codes = (groups / scales[..., None] + zeros[..., None]).round().clamp(0, 15)
    back = ((codes - zeros[..., None]) * scales[..., None]).reshape(rows, columns)
    words = sum(codes.reshape(rows, columns).T[place::8].long() << 4 * place for place in range(8))
    points = sum((zeros.T[:, place::8].long() - 1) << 4 * place for place in range(8))
    assert isinstance(words, torch.Tensor)
    assert isinstance(points, torch.Tensor)
    parts = {"qweight": words.to(torch.int32), "qzeros": points.to(torch.int32), "scales": scales.T.half()}
    return {f"{name.removesuffix('weight')}{key}": part for key, part in parts.items()}, back


WHOLE: dict[str, tuple[Callable[..., Any], Settings, str]] = {
    "fp8": (as_fp8, {"quant_method": "fp8", "weight_block_size": [8, 16]}, "fp8 (fine-grained)"),
    "nf4": (as_nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4 (bitsandbytes)"),
    "gptq": (as_gptq, {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False}, "int4 (GPTQ)"),
}


def whole(model: str, way: str, folder: Path, *, dtype: Dtype = "float32") -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny model with its linear layers stored quantized, and its weights as they are dequantized."""
    make(model, folder, dtype=dtype)
    made, expected = {}, {}
    quantize, settings, _ = WHOLE[way]
    for name, weight in load_file(folder / "model.safetensors").items():
        made[name] = expected[name] = weight
        if weight.ndim == 2 and not PLAIN & set(name.split(".")):
            del made[name]
            parts, expected[name] = quantize(name, weight.float())
            made |= parts
    save_file({name: part.contiguous() for name, part in made.items()}, folder / "model.safetensors", {"format": "pt"})
    change_json(folder / "config.json", quantization_config=settings)
    return folder, {name: weight.float() for name, weight in expected.items()}


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


@pytest.mark.parametrize("way", WHOLE)
def test_an_export_is_that_of_the_dequantized_weights(way: str, tmp_path: Path) -> None:
    folder, expected = whole("llama", way, tmp_path / "stored")
    plain = make("llama", tmp_path / "plain")
    save_file({name: weight.contiguous() for name, weight in expected.items()}, plain / "model.safetensors")
    files = [written(run, run / "out", ("f32", "q8_0"))[1] for run in (folder, plain)]
    for level in ("f32", "q8_0"):
        assert tensors(files[0][level]) == tensors(files[1][level])


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
    tensors_there = load_file(folder / "model.safetensors")
    save_file(tensors_there | {"model.layers.0.self_attn.k_scale": torch.ones(1)}, folder / "model.safetensors")
    assert open_source(open_run(folder)).left_out == ("scales of a quantized key-value cache",)


def test_without_settings_nothing_changes(tmp_path: Path) -> None:
    files = open_model(make("llama", tmp_path))
    assert dequantized(files, None, "base") is files
    assert isinstance(files, TensorFiles)


def test_parts_may_lie_in_different_shards(tmp_path: Path) -> None:
    tensors, case = case_of("bnb_nf4_nested")
    expected = stored(tensors, case["settings"], tmp_path / "one").read("x.weight", (slice(None),))
    folder = tmp_path / "two"
    folder.mkdir()
    names = sorted(tensors)
    for number, part in enumerate((names[:3], names[3:]), 1):
        save_file({name: tensors[name] for name in part}, folder / f"model-0000{number}-of-00002.safetensors")
    files = dequantized(open_model(folder), case["settings"], "base")
    assert files.read("x.weight", (slice(None),)).equal(expected)
    assert len(files.files()) == 2


def test_weights_in_pytorch_files(tmp_path: Path) -> None:
    for name in ("gptq_4", "bnb_nf4_nested", "ct_fp8_block"):
        tensors_there, case = case_of(name)
        expected = stored(tensors_there, case["settings"], tmp_path / name).read("x.weight", (slice(None),))
        folder = tmp_path / f"{name}.old"
        folder.mkdir()
        torch.save(tensors_there, folder / "pytorch_model.bin")
        files = dequantized(open_model(folder), case["settings"], "base")
        assert files.read("x.weight", (slice(None),)).equal(expected)


REFUSED: list[tuple[str, Settings, str]] = [
    ("gptq_4", {"quant_method": "hqq"}, r"quant_method is 'hqq'; read are: bitsandbytes, fp8"),
    ("gptq_4", {"quant_method": None}, r"quant_method is None; read are"),
    ("gptq_4", {"hadamard": True}, r"hadamard is an unknown field \(its value: True\)"),
    ("gptq_4", {"bits": 5}, r"quantization_config\.bits is 5; read are: 2, 3, 4, 8"),
    ("gptq_4", {"bits": True}, r"quantization_config\.bits is True"),
    ("gptq_4", {"bits": None}, r"quantization_config\.bits is None, expected a whole number"),
    ("gptq_4", {"checkpoint_format": "marlin"}, r"checkpoint_format is 'marlin'; read are: 'gptq', 'gptq_v2'"),
    ("gptq_4", {"is_marlin_format": True}, r"is_marlin_format is True"),
    ("gptq_4", {"dynamic": {r"+:.*down.*": {"bits": 8}}}, r"dynamic gives some modules settings of their own"),
    ("gptq_4", {"bits": 4.0}, r"quantization_config\.bits is 4\.0"),
    ("gptq_4", {"group_size": 64}, r"x\.scales is F32 \[3, 64\], expected F16 or BF16 or F32 \[2, 64\]"),
    ("gptq_4", {"group_size": 0}, r"x\.qweight is \[12, 64\], which is no 4-bit weight in groups of 0"),
    ("awq", {"version": "gemv"}, r"version is 'gemv'; read are: 'gemm'"),
    ("awq", {"backend": "llm-awq"}, r"backend is 'llm-awq'"),
    ("awq", {"bits": 8}, r"bits is 8; read are: 4"),
    ("awq", {"group_size": 48}, r"x\.qweight is \[64, 5\], which is no weight in groups of 48"),
    ("ct_int4", {"format": "marlin-24"}, r"format is 'marlin-24'"),
    ("ct_int4", {"quantization_status": "initialized"}, r"quantization_status is 'initialized'"),
    ("ct_int4", {"sparsity_config": {"format": "sparse-24-bitmask"}}, r"sparsity_config is "),
    ("ct_int4", {"transform_config": {"config_groups": {"u": {"type": "hadamard"}}}}, r"transform_config is "),
    ("ct_int4", {"config_groups": None}, r"config_groups is None"),
    ("bnb_nf4", {"blocks": 32}, r"blocks is an unknown field"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED, ids=[f"{one[0]}-{one[1]}" for one in REFUSED])
def test_settings_that_are_not_read(name: str, change: Settings, message: str, tmp_path: Path) -> None:
    tensors, case = case_of(name)
    with pytest.raises(SourceError, match=f"^base: .*{message}.*--base DIR_OR_ID"):
        stored(tensors, case["settings"] | change, tmp_path)


SCHEMES = [
    ({"num_bits": 16}, r"weights\.num_bits is 16"),
    ({"num_bits": 4, "type": "float"}, r"weights is float of 4 bits"),
    ({"strategy": "tensor_group"}, r"weights\.strategy is 'tensor_group'"),
    ({"strategy": "channel"}, r"x\.weight_scale has shape \[40, 3\], expected one for each 1 x 96"),
    ({"group_size": 16}, r"x\.weight_scale has shape \[40, 3\], expected one for each 1 x 16"),
    ({"symmetric": False}, r"x\.weight_zero_point is missing"),
    ({"num_bits": 8}, r"x\.weight_packed is I32 \[40, 12\], expected I32 \[40, 24\]"),
    ({"dynamic": True}, r"weights\.dynamic is True"),
    ({"rotation": 1}, r"weights\.rotation is an unknown field"),
    ({"group_size": "32"}, r"group_0 has no known targets, group_size or block_structure"),
    ({"block_structure": "axb"}, r"group_0 has no known targets, group_size or block_structure"),
    ({"strategy": "block"}, r"x\.weight_scale has scales by block without a size"),
    (
        {"strategy": "block", "block_structure": "8x32"},
        r"x\.weight_scale has shape \[40, 3\], expected one for each 8 x",
    ),
]


@pytest.mark.parametrize(("change", "message"), SCHEMES, ids=[str(one[0]) for one in SCHEMES])
def test_schemes_that_are_not_read(change: Settings, message: str, tmp_path: Path) -> None:
    tensors, case = case_of("ct_int4")
    case["settings"]["config_groups"]["group_0"]["weights"] |= change
    with pytest.raises(SourceError, match=message):
        stored(tensors, case["settings"], tmp_path)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    for file in GOLDEN:
        tensors, case = case_of(file.stem)
        for part in tensors:
            if part in {"x.g_idx", "x.weight_format"} and not case["settings"].get("desc_act"):
                continue
            less = {name: tensor for name, tensor in tensors.items() if name != part}
            with pytest.raises(SourceError, match=r"^base: x\."):
                stored(less, case["settings"], tmp_path)


def test_a_part_of_another_shape_is_named(tmp_path: Path) -> None:
    for file in GOLDEN:
        tensors, case = case_of(file.stem)
        for part in set(tensors) - {"x.weight_format"}:
            cut = tensors | {part: tensors[part].flatten()[:-1]}
            with pytest.raises(SourceError, match=r"^base: x\."):
                stored(cut, case["settings"], tmp_path)


def test_an_extra_part_is_named(tmp_path: Path) -> None:
    for name, extra in (("gptq_4", "y.qzeros"), ("bnb_nf4", "y.weight.absmax"), ("ct_int4", "y.weight_packed")):
        tensors, case = case_of(name)
        with pytest.raises(SourceError, match=rf"^base: {extra} is stored as I32, and without the parts"):
            stored(tensors | {extra: torch.zeros(4, dtype=torch.int32)}, case["settings"], tmp_path)
    tensors, case = case_of("gptq_4")
    with pytest.raises(SourceError, match=r"x\.weight is stored twice, plain and as x\.qweight"):
        stored(tensors | {"x.weight": torch.zeros(64, 96)}, case["settings"], tmp_path)
    tensors, case = case_of("bnb_int8")
    with pytest.raises(SourceError, match=r"y\.weight is stored as I8, and without the parts"):
        stored(tensors | {"y.weight": tensors["x.weight"].clone()}, case["settings"], tmp_path)


def test_values_that_mean_something_else(tmp_path: Path) -> None:
    tensors, case = case_of("bnb_nf4")
    for part, value, message in (
        ("x.weight.quant_map", torch.linspace(-1, 1, 16), r"x\.weight\.quant_map is not the table of nf4"),
        ("x.weight.quant_state.bitsandbytes__nf4", torch.zeros(9, dtype=torch.uint8), r"is no known state"),
    ):
        with pytest.raises(SourceError, match=message):
            stored(tensors | {part: value}, case["settings"], tmp_path)
    with pytest.raises(SourceError, match=r"x\.weight is U8 \[1, 1440\], expected 4 bits for each of 2,880"):
        stored(tensors | {"x.weight": tensors["x.weight"].T}, case["settings"], tmp_path)
    tensors, case = case_of("bnb_int8")
    for form in (torch.tensor(2, dtype=torch.uint8), torch.tensor([])):
        with pytest.raises(SourceError, match=r"x\.weight_format is not 0"):
            stored(tensors | {"x.weight_format": form}, case["settings"], tmp_path)
    tensors, case = case_of("gptq_4_desc_act")
    for index, named in ((torch.full((96,), 3), "3 to 3"), (torch.full((96,), -1), "-1 to -1")):
        with pytest.raises(SourceError, match=rf"x\.g_idx names groups {named}; there are 3"):
            stored(tensors | {"x.g_idx": index.to(torch.int32)}, case["settings"], tmp_path)
    with pytest.raises(SourceError, match=r"x\.g_idx names not all groups, but .*desc_act"):
        stored(tensors | {"x.g_idx": torch.zeros(96, dtype=torch.int32)}, case["settings"], tmp_path)
    del tensors["x.g_idx"]
    with pytest.raises(SourceError, match=r"x\.g_idx is missing, but .*desc_act"):
        stored(tensors, case["settings"], tmp_path)


def test_bitsandbytes_without_a_method(tmp_path: Path) -> None:
    tensors, case = case_of("bnb_nf4")
    assert stored(tensors, {"load_in_4bit": True}, tmp_path).words == {case["word"]}
    with pytest.raises(SourceError, match=r"quantization_config is 4, expected an object"):
        dequantized(open_model(tmp_path), 4, "base")


def test_fp8_with_a_scale_under_its_other_name(tmp_path: Path) -> None:
    # AutoFP8's and vLLM's, which transformers does not read: written out.
    weight = random(48, 32).to(torch.float8_e4m3fn)
    tensors = {"x.weight": weight, "x.weight_scale": torch.tensor(0.25), "x.input_scale": torch.tensor(0.1)}
    files = stored(tensors, {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": []}, tmp_path)
    assert files.left_out == ("scales of quantized activations",)
    check_ranges(files, "x.weight", weight.float() * 0.25)


def test_compressed_tensors_settings_that_change_nothing(tmp_path: Path) -> None:
    tensors, case = case_of("ct_fp8_block")
    plain = stored(tensors, case["settings"], tmp_path).read("x.weight", (slice(None),))
    weights = case["settings"]["config_groups"]["group_0"]["weights"]
    case["settings"] |= {"quantization_status": "frozen", "sparsity_config": {"format": "dense"}, "version": "0.9"}
    case["settings"]["kv_cache_scheme"] = {"num_bits": 8, "type": "float"}
    weights |= {"block_structure": "16x32", "actorder": None, "observer": "minmax"}
    files = stored(tensors | {"attn.k_scale": torch.ones(1)}, case["settings"], tmp_path)
    assert files.read("x.weight", (slice(None),)).equal(plain)
    assert files.left_out == ("scales of a quantized key-value cache",)


def test_gptq_modules_that_are_left_plain(tmp_path: Path) -> None:
    tensors, case = case_of("gptq_4")
    settings = case["settings"] | {"dynamic": {"-:.*lm_head.*": {}}, "lm_head": False, "meta": {"quantizer": "x"}}
    files = stored(tensors | {"lm_head.weight": torch.ones(4, 4), "x.bias": torch.ones(64)}, settings, tmp_path)
    assert {name: one.dtype for name, one in files.tensors.items()} == {
        "x.weight": "int4 (GPTQ)",
        "lm_head.weight": "F32",
        "x.bias": "F32",
    }


def test_states_that_make_no_sense(tmp_path: Path) -> None:
    tensors, case = case_of("bnb_nf4_nested")
    name = "x.weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(tensors[name].tolist()))
    changes: tuple[Settings, ...] = (
        {"blocksize": 0},
        {"blocksize": 12},
        {"shape": []},
        {"shape": [96, -200]},
        {"shape": "ab"},
        {"nested_blocksize": 0},
        {"nested_offset": "1"},
        {"nested_dtype": "bfloat16"},
        {"quant_type": "fp4"},
        {"rotated": True},
    )
    for change in changes:
        octets = json.dumps(state | change).encode()
        changed = tensors | {name: torch.tensor(list(octets), dtype=torch.uint8)}
        with pytest.raises(SourceError, match=r"says b'.*which is no known state of a 4-bit weight"):
            stored(changed, case["settings"], tmp_path)
    for octets in (b"[1]", b"\xff", b"[" * 100_000, b""):
        changed = tensors | {name: torch.tensor(list(octets), dtype=torch.uint8)}
        with pytest.raises(SourceError, match="which is no known state"):
            stored(changed, case["settings"], tmp_path)


def test_scales_for_each_row_may_be_a_vector(tmp_path: Path) -> None:
    weight, scales = random(48, 32).to(torch.float8_e4m3fn), random(48).abs()
    files = stored({"x.weight": weight, "x.weight_scale_inv": scales}, {"quant_method": "fp8"}, tmp_path)
    check_ranges(files, "x.weight", weight.float() * scales[:, None])


def test_fp8_that_is_not_read(tmp_path: Path) -> None:
    weight = random(48, 32).to(torch.float8_e4m3fn)
    tensors_there = {"x.weight": weight, "x.weight_scale_inv": torch.ones(5, 3)}
    fp8_settings: Settings = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    with pytest.raises(SourceError, match=r"\[5, 3\], which fits no grid over \[48, 32\] \(blocks of 16 x 16\)"):
        stored(tensors_there, fp8_settings, tmp_path)
    for block in (128, [128], [0, 128], [128.0, 128], [True, 1]):
        with pytest.raises(SourceError, match=r"weight_block_size is .*, expected two sizes"):
            stored(tensors_there, {"quant_method": "fp8", "weight_block_size": block}, tmp_path)
    twice = {"x.weight": weight, "x.weight_scale": torch.ones(1), "x.weight_scale_inv": torch.ones(1)}
    with pytest.raises(SourceError, match=r"x\.weight is a part of two weights, x\.weight and x\.weight"):
        stored(twice, {"quant_method": "fp8"}, tmp_path)
    with pytest.raises(SourceError, match=r"expert_dtype is 'fp4'; read are: 'fp8'"):
        stored(twice, {"quant_method": "fp8", "expert_dtype": "fp4"}, tmp_path)


def test_mxfp4_that_is_not_read(tmp_path: Path) -> None:
    blocks, scales = torch.zeros(2, 8, 3, 8, dtype=torch.uint8), torch.zeros(2, 8, 3, dtype=torch.uint8)
    with pytest.raises(
        SourceError, match=r"x\.down_proj_blocks is \[2, 8, 3, 8\], expected \(experts, outputs, blocks, 16\)"
    ):
        stored({"x.down_proj_blocks": blocks, "x.down_proj_scales": scales}, {"quant_method": "mxfp4"}, tmp_path)
    files = stored(
        {"x.down_proj_blocks": blocks.repeat(1, 1, 1, 2), "x.down_proj_scales": scales},
        {"quant_method": "mxfp4"},
        tmp_path,
    )
    with pytest.raises(TypeError, match=r"x\.down_proj: a quantized weight of \[2, 96, 8\] is not read by"):
        files.read("x.down_proj", (slice(0, 1),))


def test_compressed_tensors_that_are_not_read(tmp_path: Path) -> None:
    tensors_there, case = case_of("ct_int4_zeros")
    settings = case["settings"]
    order = torch.full((96,), 3, dtype=torch.int32)
    with pytest.raises(SourceError, match=r"x\.weight_g_idx names groups up to 3; there are 3"):
        stored(tensors_there | {"x.weight_g_idx": order}, settings, tmp_path)
    for group, message in (
        (4, r"config_groups\.group_0 is 4, expected a scheme's fields"),
        ({"weights": 4}, r"config_groups\.group_0\.weights is 4, expected fields"),
        ({"weights": None}, r"x is stored quantized, and 0 of 0 schemes"),
        ({"weights": {"strategy": "tensor", "num_bits": 4, "symmetric": False}}, r"no zero point for each row"),
    ):
        changed = settings | {"config_groups": {"group_0": group}}
        one = tensors_there | {
            "x.weight_scale": torch.ones(1),
            "x.weight_zero_point": torch.zeros(5, 1, dtype=torch.int32),
        }
        with pytest.raises(SourceError, match=message):
            stored(one, changed, tmp_path)
