"""Stored quantized weights: every scheme's as the libraries dequantize them, by any range of rows."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from quantized_files import GOLDEN, Settings, case_of, check_ranges, dequantize, digest, fp8, random, stored
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from exporter.errors import SourceError
from exporter.source.files import open_model
from exporter.source.quantized import dequantized


@pytest.mark.parametrize("file", GOLDEN, ids=[file.stem for file in GOLDEN])
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
    theirs = weight.to(getattr(torch, case["dtype"]))
    assert theirs[0, :8].tolist() == case["first"]
    assert digest(theirs) == case["sha256"]
    check_ranges(files, "x.weight", weight)


def test_every_kind_of_scheme_was_recorded() -> None:
    assert {case_of(file.stem)[1]["word"] for file in GOLDEN} == {
        *("nf4 (bitsandbytes)", "fp4 (bitsandbytes)", "int8 (bitsandbytes)", "int4 (AWQ)", "fp8 (compressed-tensors)"),
        *("int2 (GPTQ)", "int3 (GPTQ)", "int4 (GPTQ)", "int8 (GPTQ)"),
        *("int3 (compressed-tensors)", "int4 (compressed-tensors)", "int8 (compressed-tensors)"),
    }


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
    assert dequantize(tensors, settings, tmp_path).equal(expected)
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
    first = dequantize(tensors, case["settings"], tmp_path)
    words = tensors["x.qzeros"].view(torch.uint8)
    low, high = ((words & 15) + 1) & 15, ((words >> 4) + 1) & 15
    tensors["x.qzeros"] = (low | (high << 4)).view(torch.int32)
    for key, word in (("checkpoint_format", "gptq_v2"), ("format", "GPTQ_V2")):
        assert dequantize(tensors, case["settings"] | {key: word}, tmp_path).equal(first)


def test_gptq_groups_in_order(tmp_path: Path) -> None:
    tensors, case = case_of("gptq_4")
    expected = dequantize(tensors, case["settings"], tmp_path)
    zeros = tensors | {"x.g_idx": torch.zeros_like(tensors["x.g_idx"])}  # how older writers said: in order
    without = {name: tensor for name, tensor in tensors.items() if name != "x.g_idx"}
    for form in (zeros, without):
        assert dequantize(form, case["settings"], tmp_path).equal(expected)


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
    plain = dequantize(tensors, case["settings"], tmp_path)
    assert dequantize(unused, case["settings"], tmp_path).equal(plain)
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
    plain = dequantize(tensors, case["settings"], tmp_path)
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


def test_awq_as_gptqmodel_writes_its_settings(tmp_path: Path) -> None:
    names = [file.stem for file in GOLDEN if file.stem.startswith("awq")]
    tensors, case = case_of(names[0])
    written = {"method": "awq", "checkpoint_format": "gemm", "pack_dtype": "int32", "lm_head": False, "dynamic": None}
    plain = dequantize(tensors, case["settings"], tmp_path)
    assert dequantize(tensors, case["settings"] | written, tmp_path).equal(plain)


def test_scales_for_each_row_may_be_a_vector(tmp_path: Path) -> None:
    weight, scales = random(48, 32).to(torch.float8_e4m3fn), random(48).abs()
    files = stored({"x.weight": weight, "x.weight_scale_inv": scales}, {"quant_method": "fp8"}, tmp_path)
    check_ranges(files, "x.weight", weight.float() * scales[:, None])
